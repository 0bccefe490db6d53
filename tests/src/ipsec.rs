//! IPsec as the kernel has it, and what the daemon says of it. The security associations are made by hand here, with real
//! ESP between two network namespaces.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lab_tests::ensure;
use lab_tests::harness::{
    Daemon, Failure, Lab, Need, Netns, Outcome, Ovs, Simnic, Test, fact, run, wait_for, wait_until,
};
use serde_json::Value;

mod beside;
mod capture;
mod driven;
mod entries;
mod firmware;
mod hosts;
mod keys;
mod libreswan;
mod many;
mod nics;
mod policies;
mod soak;
mod steered;

pub(crate) use driven::TESTS as DRIVEN;

pub(crate) const TESTS: &[Test] = &[
    fact!(security_associations_are_shown_as_the_kernel_has_them).needs(&[Need::Daemon]).per_release(),
    fact!(a_flow_into_a_tunnel_that_ipsec_protects_is_encrypted).needs(&[Need::Simnic, Need::Daemon]),
    fact!(no_key_is_in_log_recording_answers_or_core).needs(&[Need::Daemon]),
    // The one kernel here that has netdevsim.
    fact!(a_security_association_that_a_device_carries_is_shown_with_it).needs(&[Need::Daemon, Need::Ct]),
];

const DONE_WITHIN: Duration = Duration::from_secs(30);
const HERE: &str = "172.30.0.1";
const THERE: &str = "172.30.0.2";
/// The key of AES-GCM with 256 bits and its salt: 36 bytes that are found nowhere by chance.
const KEY: &[u8; 36] = b"CANARY-key-0f-the-test-that-is-n0whr";
/// A quarter of it is enough to be recognised.
const PART: usize = 9;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A link to another host, and the security associations of both ends.
struct Link {
    peer: Netns,
}

impl Link {
    fn new(lab: &mut Lab) -> Outcome<Self> {
        let peer = Netns::new(lab, "peer")?;
        run("ip", &["link", "add", "wire0", "type", "veth", "peer", "name", "wire1"])?;
        run("ip", &["address", "add", &format!("{HERE}/24"), "dev", "wire0"])?;
        run("ip", &["link", "set", "wire0", "up"])?;
        peer.adopt("wire1", &format!("{THERE}/24"))?;
        Ok(Self { peer })
    }

    /// `ip xfrm WORDS` here and there.
    fn both(&self, words: &str) -> Outcome {
        here(words)?;
        let words: Vec<&str> = ["ip", "xfrm"].into_iter().chain(words.split_whitespace()).collect();
        self.peer.run(&words).map(drop)
    }

    /// What encrypts ICMP both ways, with `more` words of the security associations.
    fn protect(&self, more: &str) -> Outcome {
        self.both(&state("add", HERE, THERE, "0xc0de", more))?;
        self.both(&state("add", THERE, HERE, "0xc0df", more))?;
        let policy = |dir: &str, src: &str, dst: &str| {
            format!(
                "policy add src {src}/32 dst {dst}/32 proto icmp dir {dir} tmpl proto esp reqid 7 mode transport"
            )
        };
        here(&policy("out", HERE, THERE))?;
        here(&policy("in", THERE, HERE))?;
        for (dir, src, dst) in [("out", THERE, HERE), ("in", HERE, THERE)] {
            let words = policy(dir, src, dst);
            let words: Vec<&str> = ["ip", "xfrm"].into_iter().chain(words.split_whitespace()).collect();
            self.peer.run(&words)?;
        }
        Ok(())
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // Others have none, and would be shown these.
        let _ = here("state flush");
        let _ = here("policy flush");
        let _ = run("ip", &["link", "delete", "wire0"]);
    }
}

fn here(words: &str) -> Outcome {
    let words: Vec<&str> = ["xfrm"].into_iter().chain(words.split_whitespace()).collect();
    run("ip", &words).map(drop)
}

fn state(verb: &str, src: &str, dst: &str, spi: &str, more: &str) -> String {
    format!(
        "state {verb} src {src} dst {dst} proto esp spi {spi} reqid 7 mode transport replay-window 64 flag esn \
         aead rfc4106(gcm(aes)) 0x{} 128 {more}",
        hex(KEY)
    )
}

fn sas(daemon: &Daemon) -> Outcome<Vec<Value>> {
    let answer = daemon.json(&["sa", "list"])?;
    answer.as_array().cloned().ok_or_else(|| Failure::new(format!("`sa list` answers {answer}")))
}

fn sa(daemon: &Daemon, spi: &str) -> Outcome<Option<Value>> {
    Ok(sas(daemon)?.into_iter().find(|sa| sa["spi"] == spi))
}

/// Packets that `ip -s xfrm state` counts for an SPI.
fn packets_of_kernel(spi: &str) -> Outcome<u64> {
    let text =
        run("ip", &["-s", "xfrm", "state", "get", "src", HERE, "dst", THERE, "proto", "esp", "spi", spi])?;
    let current = text.split("lifetime current:").nth(1).unwrap_or_default();
    let count = current.split("(bytes),").nth(1).and_then(|rest| rest.trim().split("(packets)").next());
    count.and_then(|count| count.trim().parse().ok()).ok_or_else(|| Failure::new(text.clone()))
}

fn has(found: &Value, expected: &[(&str, Value)]) -> Outcome {
    for (key, value) in expected {
        ensure!(&found[*key] == value, "{key} is {}, not {value}, in {found}", found[*key]);
    }
    Ok(())
}

fn security_associations_are_shown_as_the_kernel_has_them(lab: &mut Lab) -> Outcome {
    let ovs = Ovs::start(lab, &[])?;
    let link = Link::new(lab)?;
    // One before the daemon is there, the rest while it is.
    link.protect("")?;
    let tunnel = ["add-br", "br0", "--", "add-port", "br0", "tun0", "--", "set", "Interface", "tun0"];
    ovs.vsctl(&[&tunnel[..], &["type=geneve", &format!("options:remote_ip={THERE}")]].concat())?;
    let daemon = Daemon::start(lab, &ovs, "mode = \"observe\"\n")?;
    link.peer.run(&["ping", "-c", "5", "-i", "0.2", "-W", "5", HERE])?;
    let kernel = packets_of_kernel("0xc0de")?;
    ensure!(kernel == 5, "the kernel encrypted {kernel} packets of 5");
    // Counters are read when somebody asks, but not again right after the last time.
    let counted = |spi: &str| {
        wait_for(&format!("{spi} is shown with its tunnel and packets"), DONE_WITHIN, || {
            let found = sa(&daemon, spi)?.ok_or_else(|| Failure::new("it is not shown"))?;
            let is_whole = found["packets"] == kernel && found["tunnels"][0] == "tun0";
            if is_whole { Ok(Some(found)) } else { Err(Failure::new(found.to_string())) }
        })
    };
    let out = counted("0x0000c0de")?;
    let common = [
        ("src", HERE.into()),
        ("dst", THERE.into()),
        ("direction", "out".into()),
        ("mode", "transport".into()),
        ("reqid", 7.into()),
        ("offload", "none".into()),
        ("esn", true.into()),
        ("packets", kernel.into()),
    ];
    has(&out, &common)?;
    ensure!(out["replay"]["sent"] == kernel, "{out}");
    let back = counted("0x0000c0df")?;
    has(&back, &[("direction", "in".into()), ("packets", 5.into()), ("tunnels", out["tunnels"].clone())])?;
    ensure!(back["replay"]["received"] == 5 && back["replay"]["window"] == 64, "{back}");

    let why = daemon.ctl(&["sa", "why", "0xc0de"])?;
    ensure!(why.contains("asked for no device") && why.contains("protects    tun0"), "{why}");
    let status = daemon.ctl(&["status"])?;
    ensure!(status.contains("2 SAs: 2 software"), "{status}");

    // A limit that is reached, and a deletion.
    here(&state("add", HERE, "172.30.0.3", "3", "limit packet-soft 10 limit packet-hard 20"))?;
    wait_until("the new one is shown", DONE_WITHIN, || Ok(sa(&daemon, "0x00000003")?.is_some()))?;
    here("state delete src 172.30.0.2 dst 172.30.0.1 proto esp spi 0xc0df")?;
    here("state delete src 172.30.0.1 dst 172.30.0.2 proto esp spi 0xc0de")?;
    here(&state("add", HERE, THERE, "4", "limit packet-soft 2 limit packet-hard 3"))?;
    let ping = || run("ping", &["-c", "5", "-i", "0.2", "-W", "1", THERE]);
    // Nothing answers: the other end does not know this one.
    let _ = ping();
    wait_until("its limits are told", DONE_WITHIN, || {
        let ipsec = daemon.json(&["status"])?["ipsec"].clone();
        Ok(ipsec["soft_expired"] == 1 && ipsec["hard_expired"] == 1 && ipsec["acquires"].as_u64() >= Some(1))
    })
    .or_else(|failure| {
        let status = daemon.json(&["status"])?;
        Err(Failure::new(format!("{failure}: {}", status["ipsec"])))
    })?;
    wait_until("one is left", DONE_WITHIN, || {
        let left: Vec<String> = sas(&daemon)?.iter().map(|sa| sa["spi"].to_string()).collect();
        // What the kernel makes while it waits for an IKE daemon has no SPI.
        let left: Vec<&String> = left.iter().filter(|spi| !spi.contains("0x00000000")).collect();
        ensure!(left == ["\"0x00000003\""], "{left:?}");
        Ok(true)
    })?;
    here("state flush")?;
    wait_until("none is left", DONE_WITHIN, || Ok(sas(&daemon)?.is_empty()))?;
    // Those that are gone are counted still: five packets out, and up to the limit of the last.
    let sums = daemon.json(&["status"])?["ipsec"]["groups"].clone();
    let of = |direction: &str| {
        let groups = sums.as_array().into_iter().flatten();
        groups
            .filter(|group| group["direction"] == direction)
            .filter_map(|group| group["packets"].as_u64())
            .sum()
    };
    let (sent, received): (u64, u64) = (of("out"), of("in"));
    ensure!((7..=8).contains(&sent) && received == 5, "{sent} out and {received} in: {sums}");
    Ok(())
}

fn a_flow_into_a_tunnel_that_ipsec_protects_is_encrypted(lab: &mut Lab) -> Outcome {
    let ovs = Ovs::for_steering(lab)?;
    let link = Link::new(lab)?;
    let nic = Simnic::new(0, 1)?;
    nic.set_mode("switchdev")?;
    let pod = Netns::new(lab, "pod")?;
    pod.adopt(&nic.vf(0), "10.20.0.1/24")?;
    let representor = nic.representor(0);
    run("ip", &["link", "set", &representor, "up"])?;
    ovs.vsctl(&["add-br", "br0", "--", "add-port", "br0", &representor])?;
    let tunnel =
        ["add-port", "br0", "tun0", "--", "set", "Interface", "tun0", "type=geneve", "options:key=77"];
    ovs.vsctl(&[&tunnel[..], &[&format!("options:remote_ip={THERE}")]].concat())?;
    pod.run(&["ip", "neigh", "add", "10.20.0.2", "lladdr", "02:00:00:00:00:02", "dev", &nic.vf(0)])?;
    ovs.ofctl(&["add-flow", "br0", "priority=100,udp,tp_dst=7001,actions=output:tun0"])?;
    let rule = "[[rule]]\nname = \"protected\"\nmatch = 'encrypted'\nplace = \"hardware\"\n";
    let daemon =
        Daemon::start(lab, &ovs, &format!("mode = \"steer\"\npolicy.min-rate = \"1 Mbit/s\"\n{rule}"))?;
    let is = |encrypted: bool| {
        wait_until(&format!("the flow is encrypted: {encrypted}"), DONE_WITHIN, || {
            // Each keeps the megaflow alive, and makes it anew where it has gone.
            pod.run(&["bash", "-c", "echo > /dev/udp/10.20.0.2/7001"])?;
            let flows = daemon.flows()?;
            let flow =
                flows.iter().find(|flow| flow["key"].as_str().is_some_and(|key| key.contains("dst=7001")));
            let Some(flow) = flow else { return Ok(false) };
            Ok(flow["encrypted"] == encrypted && (flow["reason"] == "ipsec_in_host") == encrypted)
        })
        .or_else(|failure| Err(Failure::new(format!("{failure}: {:?}", daemon.flows()?))))
    };
    is(false)?;
    let out = |verb: &str, proto: &str| {
        let tmpl = if verb == "add" { "tmpl proto esp reqid 7 mode transport" } else { "" };
        here(&format!("policy {verb} src {HERE}/32 dst {THERE}/32 {proto} dir out {tmpl}"))
    };
    out("add", "proto udp dport 6081")?;
    is(true)?;
    out("delete", "proto udp dport 6081")?;
    is(false)?;
    // The other kind of tunnel to the same peer.
    out("add", "proto udp dport 4789")?;
    out("add", "proto icmp")?;
    // A policy that is told later than those two says that they were taken by then.
    here("policy add src 10.99.0.1/32 dst 10.99.0.2/32 dir out tmpl proto esp reqid 9 mode transport")?;
    wait_until("all policies are known", DONE_WITHIN, || {
        Ok(daemon.json(&["status"])?["ipsec"]["policies"] == 3)
    })?;
    is(false)?;
    drop(link);
    Ok(())
}

fn find(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

/// Parts of the key in what was left behind, as bytes and as a person would print them.
fn is_clean(what: &str, bytes: &[u8]) -> Outcome {
    for part in KEY.chunks(PART) {
        let printed = hex(part);
        let forms = [part.to_vec(), printed.clone().into_bytes(), printed.to_uppercase().into_bytes()];
        for form in forms {
            ensure!(!find(bytes, &form), "{what} has a part of the key: {}", String::from_utf8_lossy(&form));
        }
    }
    Ok(())
}

/// Sets where cores go, and sets it back.
struct CorePattern(String);

impl CorePattern {
    const PATH: &'static str = "/proc/sys/kernel/core_pattern";

    fn set(directory: &Path) -> Outcome<Self> {
        let before = fs::read_to_string(Self::PATH)?;
        fs::write(Self::PATH, format!("{}/core.%p", directory.display()))?;
        Ok(Self(before))
    }
}

impl Drop for CorePattern {
    fn drop(&mut self) {
        let _ = fs::write(Self::PATH, &self.0);
    }
}

fn no_key_is_in_log_recording_answers_or_core(lab: &mut Lab) -> Outcome {
    let ovs = Ovs::start(lab, &[])?;
    let link = Link::new(lab)?;
    link.protect("")?;
    let recording: PathBuf = lab.dir().join("events.log");
    let record = format!("--record={}", recording.display());
    let mut daemon =
        Daemon::start_with(lab, &ovs, "mode = \"observe\"\nlog.level = \"trace\"\n", &[&record])?;
    changes_are_told(&daemon)?;
    let doctor = daemon.ctl(&["doctor"]).unwrap_or_else(|failure| failure.to_string());
    let answers =
        [daemon.ctl(&["sa", "list"])?, daemon.ctl(&["sa", "why", "0xc0de", "-o", "json"])?, doctor].concat();
    ensure!(answers.contains("0x0000c0de"), "{answers}");
    is_clean("an answer", answers.as_bytes())?;
    daemon.signal("TERM")?;
    let recorded = fs::read(&recording)?;
    ensure!(find(&recorded, b"ipsec"), "the policies are not in the event log");
    is_clean("the event log", &recorded)?;

    // Once more, for the core of one that is in the midst of it.
    fs::remove_file(&recording)?;
    daemon.restart()?;
    changes_are_told(&daemon)?;
    let _pattern = CorePattern::set(lab.dir())?;
    let pid = daemon.pid();
    run("prlimit", &["--pid", &pid.to_string(), "--core=unlimited"])?;
    daemon.signal("ABRT")?;
    let core = lab.dir().join(format!("core.{pid}"));
    let bytes = wait_for("the core is whole", DONE_WITHIN, || {
        let gone = !Path::new(&format!("/proc/{pid}/exe")).exists();
        Ok(if gone { fs::read(&core).ok() } else { None })
    })?;
    // It is that process's, with what it knows of security associations.
    ensure!(find(&bytes, b"rfc4106(gcm(aes))"), "the core of {} bytes is not the daemon's", bytes.len());
    is_clean("the core", &bytes)?;
    // Nobody needs it, and it is large.
    fs::remove_file(&core)?;
    let log = daemon.log()?;
    ensure!(log.contains("ready"), "{log}");
    is_clean("the log", log.as_bytes())
}

/// Tells the daemon, which listens, of a security association: that it is there, that it changes, that it is gone.
fn changes_are_told(daemon: &Daemon) -> Outcome {
    wait_until("both are shown", DONE_WITHIN, || Ok(sas(daemon)?.len() == 2))?;
    here(&state("add", HERE, THERE, "5", ""))?;
    here(&state("update", HERE, THERE, "5", "limit packet-hard 1000"))?;
    wait_until("the change is shown", DONE_WITHIN, || {
        Ok(sa(daemon, "0x00000005")?.is_some_and(|sa| sa["limits"]["packets"]["hard"] == 1000))
    })?;
    here(&format!("state delete src {HERE} dst {THERE} proto esp spi 5"))?;
    wait_until("it is gone", DONE_WITHIN, || Ok(sas(daemon)?.len() == 2))
}

fn a_security_association_that_a_device_carries_is_shown_with_it(lab: &mut Lab) -> Outcome {
    let ovs = Ovs::start(lab, &[])?;
    let link = Link::new(lab)?;
    run("modprobe", &["netdevsim"])?;
    fs::write("/sys/bus/netdevsim/new_device", "77 1")?;
    let device = wait_for("netdevsim has its device", DONE_WITHIN, || {
        let mut names = fs::read_dir("/sys/bus/netdevsim/devices/netdevsim77/net")?;
        Ok(names.next().transpose()?.map(|entry| entry.file_name().to_string_lossy().into_owned()))
    })?;
    run("ip", &["link", "set", &device, "up"])?;
    let daemon = Daemon::start(lab, &ovs, "mode = \"observe\"\n")?;
    // 128 bits and the salt: what netdevsim carries.
    let key = hex(&KEY[..20]);
    here(&format!(
        "state add src {HERE} dst {THERE} proto esp spi 9 reqid 7 mode transport aead rfc4106(gcm(aes)) 0x{key} 128 \
         offload dev {device} dir out"
    ))?;
    let found = wait_for("it is shown", DONE_WITHIN, || sa(&daemon, "0x00000009"))?;
    has(
        &found,
        &[("offload", "crypto".into()), ("device", device.as_str().into()), ("direction", "out".into())],
    )?;
    let why = daemon.ctl(&["sa", "why", "9"])?;
    ensure!(why.contains("does its ciphers"), "{why}");
    drop(link);
    fs::write("/sys/bus/netdevsim/del_device", "77")?;
    Ok(())
}
