//! A bond over the uplinks of one card: the active member goes, and comes back, under traffic in both directions.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use lab_tests::harness::{
    Daemon, Failure, Lab, Netns, Outcome, Ovs, SentByVf, Simnic, agree_on_card, ensure, run, wait_for,
    wait_until,
};
use serde_json::Value;

use super::scene::{RATE_PER_S, Way};
use crate::faults::scene::{EAGER, FIRST, Flows, PORT, SETTLES_WITHIN, status};

/// Flows in each direction.
const FLOWS: u32 = 3;
const VM: &str = "10.10.0.1";
const REMOTE: &str = "10.10.0.100";
/// The source port of the first flow to the VF.
const FIRST_BACK: u16 = FIRST + 100;
const BOND: &str = "bond0";
const REPRESENTOR: &str = "sn0pf0vf0";
/// The most that may be lost of one direction at a failover: a second of it. Both bonds look at their links every 20 ms, but
/// in a slow guest they are late.
const LOST_MAX: u64 = RATE_PER_S;

/// The bond in the guest's own namespace, deleted when dropped.
#[derive(Debug)]
struct Bond;

impl Drop for Bond {
    fn drop(&mut self) {
        // It may not have come to be.
        let _ = ip(&format!("link delete {BOND}"));
    }
}

/// NICs 0 and 2 of one card in switchdev mode, wired to 1 and 3. The uplinks are in `bond0`, which is on bridge br0 with the
/// representor of NIC 0's VF; the NICs at the wires' other ends are in the bond of a host.
#[derive(Debug)]
struct Scene {
    daemon: Daemon,
    ovs: Ovs,
    vm: Netns,
    remote: Netns,
    nics: [Simnic; 2],
    _remotes: [Simnic; 2],
    _bond: Bond,
}

fn words(text: &str) -> Vec<&str> {
    text.split(' ').collect()
}

fn ip(arguments: &str) -> Outcome {
    run("ip", &words(arguments)).map(drop)
}

impl Scene {
    fn up(lab: &mut Lab) -> Outcome<Self> {
        let ovs = Ovs::for_steering(lab)?;
        let nics = [Simnic::new(0, 1)?, Simnic::on_card(2, 0)?];
        let remotes = [Simnic::new(1, 0)?, Simnic::new(3, 0)?];
        let (vm, remote) = (Netns::new(lab, "vm")?, Netns::new(lab, "remote")?);
        run("modprobe", &["bonding", "max_bonds=0"])?;
        let modes = "type bond mode active-backup miimon 20";
        let bond = Bond;
        ip(&format!("link add {BOND} {modes}"))?;
        remote.run(&words(&format!("ip link add {BOND} {modes}")))?;
        for (nic, other) in nics.iter().zip(&remotes) {
            nic.wire(other)?;
            nic.set_mode("switchdev")?;
            ip(&format!("link set {} master {BOND}", nic.uplink()))?;
            ip(&format!("link set {} netns {}", other.uplink(), remote.name()))?;
            remote.run(&words(&format!("ip link set {} master {BOND}", other.uplink())))?;
        }
        remote.run(&words(&format!("ip address add {REMOTE}/24 dev {BOND}")))?;
        remote.run(&words(&format!("ip link set {BOND} up")))?;
        vm.adopt("sn0v0", &format!("{VM}/24"))?;
        for device in [BOND, REPRESENTOR] {
            ip(&format!("link set {device} up"))?;
        }
        // The links are quiet when Open vSwitch gets to know them.
        wait_until("the bond has its active member", SETTLES_WITHIN, || {
            let read =
                |attribute: &str| std::fs::read_to_string(format!("/sys/class/net/{BOND}/{attribute}"));
            let both_up = read("bonding/slaves")?.split_whitespace().all(|member| {
                let state =
                    std::fs::read_to_string(format!("/sys/class/net/{member}/bonding_slave/mii_status"));
                state.is_ok_and(|state| state.trim() == "up")
            });
            Ok(both_up && read("bonding/active_slave")?.trim() == "sn0p0")
        })?;
        ovs.vsctl(&words(&format!("add-br br0 -- add-port br0 {BOND} -- add-port br0 {REPRESENTOR}")))?;
        for flows in [Self::out(), Self::back()] {
            flows.one_megaflow_each(lab, &ovs, "NORMAL")?;
        }
        let daemon = Daemon::start(lab, &ovs, EAGER)?;
        let scene = Self { daemon, ovs, vm, remote, nics, _remotes: remotes, _bond: bond };
        wait_until("the VF reaches the host", SETTLES_WITHIN, || Ok(scene.vm.pings(REMOTE)))?;
        Ok(scene)
    }

    fn out() -> Flows {
        Flows::new(FLOWS)
    }

    fn back() -> Flows {
        Flows { from: FIRST_BACK, to: PORT + 1, ..Flows::new(FLOWS) }
    }

    /// Waits until the flows of both ways are in hardware: those of the VF in its NIC, those from the wire in these.
    fn in_hardware(&self, from_wire: &[usize]) -> Outcome {
        wait_for("the flows of both ways are in hardware", SETTLES_WITHIN, || {
            let tables = [self.nics[0].rules()?, self.nics[1].rules()?];
            let count = |table: &str, port: &str| {
                let of_port = table.lines().filter(|line| line.starts_with(port) && line.contains("ports"));
                of_port.count() as u32
            };
            let mut counts = vec![count(&tables[0], "port pf0vf0 ")];
            counts.extend(from_wire.iter().map(|nic| count(&tables[*nic], "port p0 ")));
            if counts.iter().all(|count| *count == FLOWS) {
                return Ok(Some(()));
            }
            Err(Failure::new(format!("{counts:?} are; {}\n{tables:?}", self.daemon.ctl(&["status"])?)))
        })
    }

    /// Waits until the kernel has this member as the active one, and the daemon shows it so, after so many failovers.
    fn is_active(&self, uplink: &str, failovers: u64) -> Outcome {
        let is_so =
            |member: &Value, name: &str| member["active"] == (name == uplink) && member["netdev"] == name;
        wait_for(&format!("{uplink} is the active one"), SETTLES_WITHIN, || {
            let kernel = std::fs::read_to_string(format!("/sys/class/net/{BOND}/bonding/active_slave"))?;
            let ports = self.daemon.json(&["port", "list"])?;
            let port = ports.as_array().into_iter().flatten().find(|port| port["name"] == BOND).cloned();
            let nics = self.daemon.json(&["nic", "list"])?;
            let of_nic = |index: usize, name: &str| {
                let handle = self.nics[index].devlink();
                let nic = nics.as_array().into_iter().flatten().find(|nic| nic["devlink"] == handle);
                nic.is_some_and(|nic| {
                    let bond = &nic["bonds"][0];
                    bond["bond"] == BOND && is_so(bond, name) && bond["failovers"] == failovers
                })
            };
            let of_port = port.as_ref().is_some_and(|port| {
                let bond = &port["bond"];
                port["kind"] == "uplink"
                    && bond["block"] == port["ifindex"]
                    && bond["failovers"] == failovers
                    && is_so(&bond["members"][0], "sn0p0")
                    && is_so(&bond["members"][1], "sn2p0")
            });
            let shown = self.daemon.ctl(&["port", "list"])?;
            if kernel.trim() == uplink
                && of_port
                && of_nic(0, "sn0p0")
                && of_nic(1, "sn2p0")
                && shown.contains(&format!("uplink by {uplink}"))
            {
                return Ok(Some(()));
            }
            Err(Failure::new(format!("the kernel has {kernel}, we {port:?} and {nics}\n{shown}")))
        })
    }

    /// Cuts the wire of one NIC: the other's uplink becomes the active one, and everything goes on, in hardware.
    fn fail_over(&self, lost: usize, failovers: u64, ways: &[&Way]) -> Outcome {
        self.nics[lost].set("link", "0")?;
        self.is_active(&self.nics[1 - lost].uplink(), failovers)?;
        ways.iter().try_for_each(|way| way.flows_on())?;
        self.in_hardware(&[0, 1])?;
        let before = SentByVf::read(REPRESENTOR)?;
        ways.iter().try_for_each(|way| way.flows_on())?;
        let sent = SentByVf::read(REPRESENTOR)?.since(before);
        ensure!(sent.hardware > 0 && sent.slow <= sent.hardware / 20, "after the failover {sent:?}");
        agree_on_card(&[&self.nics[0], &self.nics[1]], BOND, &self.ovs, &self.daemon, SETTLES_WITHIN)
            .map(drop)
    }
}

/// Counters at one moment: OpenFlow's of each rule, and ours in hardware and in all.
fn counters(scene: &Scene) -> Outcome<Vec<u64>> {
    let rules = scene.ovs.ofctl(&["dump-flows", "br0", "udp"])?;
    let packets = rules.split("n_packets=").skip(1).filter_map(|rest| rest.split(',').next()?.parse().ok());
    let mut counters: Vec<u64> = packets.collect();
    ensure!(counters.len() == 2 * FLOWS as usize, "`ovs-ofctl dump-flows` shows {rules}");
    let traffic = &status(&scene.daemon, &scene.ovs)?.0["traffic"];
    let of = |place: &str| traffic[place]["packets"].as_u64().unwrap_or_default();
    counters.extend([of("hardware"), of("hardware") + of("software")]);
    Ok(counters)
}

/// Members that Open vSwitch has not joined to the bond's block, as doctor names them.
fn off_block(scene: &Scene) -> Outcome<Vec<String>> {
    let mut doctor = scene.ovs.command("ovs-offloadctl");
    let said = doctor.args(["doctor", "--output", "json"]).output()?;
    let said: Value = serde_json::from_slice(&said.stdout)?;
    let all = said["findings"].as_array().into_iter().flatten();
    let of_bond =
        all.filter(|finding| finding["id"] == "bond-member-off-block" && finding["names"][0] == BOND);
    Ok(of_bond.map(|finding| finding["names"][1].as_str().unwrap_or_default().to_owned()).collect())
}

pub(super) fn a_bond_whose_active_uplink_fails_goes_on_in_hardware(lab: &mut Lab) -> Outcome {
    let scene = Scene::up(lab)?;
    let out = Way::start(&scene.vm, &scene.remote, REMOTE, Scene::out())?;
    let back = Way::start(&scene.remote, &scene.vm, VM, Scene::back())?;
    scene.is_active("sn0p0", 0)?;
    scene.in_hardware(&[0])?;
    let quiet = off_block(&scene)?;
    ensure!(quiet == ["sn2p0"], "doctor finds off the block {quiet:?}");
    let ended = AtomicBool::new(false);
    let samples = thread::scope(|scope| {
        let sampler = scope.spawn(|| {
            let mut samples = Vec::new();
            while !ended.load(Ordering::Relaxed) {
                samples.push(counters(&scene)?);
            }
            Ok::<_, Failure>(samples)
        });
        let failed_over = (|| {
            scene.fail_over(0, 1, &[&out, &back])?;
            scene.nics[0].set("link", "1")?;
            wait_until("the first uplink has carrier", SETTLES_WITHIN, || {
                Ok(std::fs::read_to_string("/sys/class/net/sn0p0/carrier")?.trim() == "1")
            })?;
            scene.fail_over(1, 2, &[&out, &back])
        })();
        ended.store(true, Ordering::Relaxed);
        let samples = sampler.join().map_err(|_| Failure::new("the sampler panicked"))?;
        failed_over.and(samples)
    })?;
    let fall =
        samples.windows(2).find(|pair| pair[0].iter().zip(&pair[1]).any(|(before, after)| after < before));
    ensure!(fall.is_none(), "a counter fell: {fall:?}");
    let quiet = off_block(&scene)?;
    ensure!(quiet.is_empty(), "doctor finds off the block {quiet:?}");
    for (name, way) in [("out", out), ("back", back)] {
        let (sent, lost) = way.stop()?;
        println!(
            "    {name}: of {sent} packets {lost} were lost in two failovers; {} samples",
            samples.len()
        );
        ensure!(lost <= 2 * LOST_MAX, "{name}, of {sent} packets {lost} were lost");
    }
    Ok(())
}
