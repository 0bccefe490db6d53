//! The packaged systemd unit, alone and with the drop-in for declared NICs, run by systemd with all of its sandbox.

use std::fs;
use std::time::Duration;

use lab_tests::ensure;
use lab_tests::harness::{
    Failure, Lab, Netns, Outcome, Ovs, Receiver, Sender, Simnic, Stream, Systemd, program, run, wait_for,
    wait_until,
};
use serde_json::Value;

use super::scene::mode;

const UNIT: &str = "ovs-offloadd.service";
const UNIT_TEXT: &str = include_str!("../../../packaging/ovs-offloadd.service");
const DROP_IN: &str = "ovs-offloadd.service.d/ovs-offloadd-nics.conf";
const DROP_IN_TEXT: &str = include_str!("../../../packaging/ovs-offloadd-nics.conf");
const CONFIG: &str = "/etc/ovs-offloadd.toml";
/// A process in a network namespace without a name, as a container's is.
const NAMELESS: &str = "nameless.service";
const NAMELESS_TEXT: &str = "[Service]\nExecStart=/usr/bin/sleep infinity\nPrivateNetwork=yes\n";
/// The longest an emulated guest may take for a step.
const WITHIN: Duration = Duration::from_secs(60);

const CAP_NET_ADMIN: u64 = 1 << 12;
const CAP_SYS_PTRACE: u64 = 1 << 19;
const CAP_SYS_ADMIN: u64 = 1 << 21;

/// What the unit's process may do, as the kernel has it.
struct Confined<'a> {
    systemd: &'a Systemd,
    pid: u32,
}

impl Confined<'_> {
    /// No other capabilities are in reach than these, and no others can be had.
    fn has_only(&self, capabilities: u64) -> Outcome {
        let status = self.systemd.proc(self.pid, "status")?;
        let value = |field: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
            line.map(|value| value.trim().to_owned())
                .ok_or_else(|| Failure::new(format!("no {field} in {status}")))
        };
        for set in ["CapBnd", "CapEff", "CapPrm"] {
            let has = u64::from_str_radix(&value(set)?, 16)?;
            ensure!(has == capabilities, "{set} is {has:x}, and not {capabilities:x}");
        }
        ensure!(value("Uid")?.starts_with("0\t0"), "it is not root");
        // 2 is a filter of system calls.
        ensure!(value("Seccomp")? == "2" && value("NoNewPrivs")? == "1", "it is not confined: {status}");
        Ok(())
    }

    /// Of these places it can write exactly to those that are said to be.
    fn writes(&self, places: &[(&str, bool)]) -> Outcome {
        let mounts = self.systemd.proc(self.pid, "mountinfo")?;
        for (place, writable) in places {
            // Of several at one place the last is on top.
            let at = |line: &&str| line.split(' ').nth(4) == Some(place);
            let options = mounts.lines().rfind(at).and_then(|line| line.split(' ').nth(5));
            let is_writable = options.map(|options| options.split(',').any(|option| option == "rw"));
            ensure!(is_writable == Some(*writable), "{place} has {options:?}");
        }
        Ok(())
    }
}

/// A NIC to be declared, wired to a remote host, and the unit with all that it needs.
struct Scene {
    systemd: Systemd,
    nameless: u32,
    _ovs: Ovs,
    pod: Netns,
    remote: Netns,
    nic: Simnic,
    _remote_nic: Simnic,
}

impl Scene {
    fn up(lab: &mut Lab) -> Outcome<Self> {
        let (nic, remote_nic) = (Simnic::with_total_vfs(0, 4)?, Simnic::new(1, 0)?);
        nic.wire(&remote_nic)?;
        let (pod, remote) = (Netns::new(lab, "pod")?, Netns::new(lab, "remote")?);
        remote.adopt(&remote_nic.uplink(), "10.10.0.100/24")?;
        run("ip", &["link", "set", &nic.uplink(), "up"])?;
        let ovs = Ovs::for_steering(lab)?;
        ovs.vsctl(&["add-br", "br0", "--", "add-port", "br0", &nic.uplink()])?;
        let config = lab.dir().join("ovs-offloadd.toml");
        fs::write(&config, "")?;
        let [daemon, ctl] = ["ovs-offloadd", "ovs-offloadctl"].map(program);
        let (daemon, ctl) = (daemon?, ctl?);
        let files =
            [("/usr/sbin/ovs-offloadd", &*daemon), ("/usr/bin/ovs-offloadctl", &ctl), (CONFIG, &config)];
        let units = [(UNIT, UNIT_TEXT), (DROP_IN, DROP_IN_TEXT), (NAMELESS, NAMELESS_TEXT)];
        let systemd = Systemd::start(lab, ovs.rundir(), &units, &files)?;
        systemd.ctl("start", NAMELESS)?;
        let nameless = systemd.main_pid(NAMELESS)?;
        Ok(Self { systemd, nameless, _ovs: ovs, pod, remote, nic, _remote_nic: remote_nic })
    }

    /// Declares the NIC: a VF for a namespace with a name and one for that of a process.
    fn declare(&self) -> Outcome {
        let (pod, nameless) = (self.pod.name(), self.nameless);
        let text = format!(
            "mode = \"steer\"\nmetrics.listen = \"off\"\npolicy.min-rate = \"100 bit/s\"\npolicy.min-age = \"100 ms\"\n\
             [[device]]\nhandle = \"{}\"\neswitch-mode = \"switchdev\"\nvfs = 2\n\
             [[device.port]]\nvf = 0\nlink = \"up\"\nbridge = \"br0\"\nnetns = \"{pod}\"\n\
             [[device.port]]\nvf = 1\nnetns = \"{nameless}\"\n",
            self.nic.devlink()
        );
        self.systemd.write(CONFIG, &text)
    }

    fn confined(&self) -> Outcome<Confined<'_>> {
        Ok(Confined { systemd: &self.systemd, pid: self.systemd.main_pid(UNIT)? })
    }

    fn json(&self, arguments: &[&str]) -> Outcome<Value> {
        let arguments = [arguments, &["--output", "json"]].concat();
        Ok(serde_json::from_str(&self.systemd.run("ovs-offloadctl", &arguments)?)?)
    }

    /// What came of the last look at the NIC: whether it was reached, and what was said.
    fn last_look(&self) -> Outcome<Value> {
        Ok(self.json(&["status"])?["declared"][0].clone())
    }

    /// A look at the NIC did not make it as declared, and said something in which all of these words are.
    fn is_refused(&self, words: &[&str]) -> Outcome {
        wait_for("the NIC is said not to be as declared, and why", WITHIN, || {
            let look = self.last_look()?;
            let why = look["sentence"].as_str().unwrap_or_default();
            if look["reached"] == false && words.iter().all(|word| why.contains(word)) {
                return Ok(Some(()));
            }
            Err(Failure::new(format!("{look}\n{}", self.systemd.log(UNIT)?)))
        })
    }

    /// The NIC has come to be as declared, its VFs in their namespaces.
    fn is_as_declared(&self) -> Outcome {
        let process = self.nameless.to_string();
        wait_for("the NIC is as declared", WITHIN, || {
            let look = self.last_look()?;
            if look["reached"] != true || mode(&self.nic.devlink())? != "switchdev" {
                return Err(Failure::new(format!("{look}\n{}", self.systemd.log(UNIT)?)));
            }
            self.pod.run(&["ip", "link", "show", &self.nic.vf(0)])?;
            let vf = self.nic.vf(1);
            self.systemd.run("nsenter", &["--net", "--target", &process, "ip", "link", "show", &vf])?;
            Ok(Some(()))
        })
    }

    /// A flow from the VF to the wire gets into hardware.
    fn steers(&self) -> Outcome {
        // The device has lost its address with its way to the namespace, or has it still.
        self.pod.run(&["ip", "address", "replace", "10.10.0.1/24", "dev", &self.nic.vf(0)])?;
        self.pod.run(&["ip", "link", "set", &self.nic.vf(0), "up"])?;
        wait_until("the VF reaches the host", WITHIN, || Ok(self.pod.pings("10.10.0.100")))?;
        let to = "10.10.0.100:7000";
        let receiver = Receiver::start(&self.remote, to)?;
        let stream =
            Stream { to, from_port: 20_000, flows: 1, count: 1_000_000, rate_per_s: 300, payload_bytes: 200 };
        let sender = Sender::start_stoppable(&self.pod, stream)?;
        wait_for("a flow of the VF is in hardware", WITHIN, || {
            let rules = self.nic.rules()?;
            let flows = self.json(&["status"])?["flows"].clone();
            let is_there =
                rules.lines().any(|line| line.starts_with("port pf0vf0 ") && line.contains("redirect:p0"));
            if is_there && flows["hardware"].as_u64() > Some(0) {
                return Ok(Some(()));
            }
            Err(Failure::new(format!("{rules}\n{flows}")))
        })?;
        sender.stop()?;
        receiver.finish().map(drop)
    }
}

pub(super) fn the_packaged_unit_and_its_drop_in_give_the_daemon_what_it_needs_and_no_more(
    lab: &mut Lab,
) -> Outcome {
    let scene = Scene::up(lab)?;
    let systemd = &scene.systemd;
    let said =
        systemd.run("sh", &["-c", &format!("systemd-analyze verify --man=no /run/lab-units/{UNIT} 2>&1")])?;
    ensure!(said.is_empty(), "systemd-analyze verify says {said}");

    // The unit alone is for a host whose NICs are nobody's to change, and says so.
    systemd.set_unit(DROP_IN, None)?;
    scene.declare()?;
    systemd.ctl("start", UNIT)?;
    let confined = scene.confined()?;
    confined.has_only(CAP_NET_ADMIN)?;
    confined.writes(&[
        ("/", false),
        ("/sys/devices", false),
        ("/sys/bus", false),
        ("/run/openvswitch", true),
    ])?;
    scene.is_refused(&[
        "left as it was: set the number of VFs to 2: ",
        "/sriov_numvfs: Read-only file system",
    ])?;
    let vfs = format!("{}/sriov_numvfs", scene.nic.device());
    // It is tried again now and then, and each time undone.
    wait_until("the NIC is as it was", WITHIN, || {
        Ok(mode(&scene.nic.devlink())? == "legacy" && fs::read_to_string(&vfs)?.trim() == "0")
    })?;

    systemd.set_unit(DROP_IN, Some(DROP_IN_TEXT))?;
    systemd.ctl("restart", UNIT)?;
    let confined = scene.confined()?;
    confined.has_only(CAP_NET_ADMIN | CAP_SYS_ADMIN | CAP_SYS_PTRACE)?;
    confined.writes(&[("/", false), ("/sys", true), ("/run/openvswitch", true)])?;
    scene.is_as_declared()?;
    scene.steers()?;
    systemd.ctl("reload", UNIT)?;
    // What a service says comes to the journal by itself.
    wait_until("a reload is heard of", WITHIN, || Ok(systemd.log(UNIT)?.contains("configuration read")))?;
    scene.is_as_declared()?;

    // Without the drop-in what is there goes on.
    systemd.set_unit(DROP_IN, None)?;
    systemd.ctl("restart", UNIT)?;
    scene.confined()?.has_only(CAP_NET_ADMIN)?;
    scene.steers()?;
    systemd.ctl("stop", UNIT)
}
