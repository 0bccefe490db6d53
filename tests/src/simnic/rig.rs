//! What the tests of simnic stand on: a NIC with its netdevs up and quiet, and the same topology in veth devices, where
//! TC's software path does the work.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use super::frame::MARK;
use crate::harness::{Failure, Outcome, Simnic, ensure, run, wait_until};
use crate::io::packet_socket::PacketSocket;

/// The longest that a frame may take from one end to the other.
const ARRIVES_WITHIN: Duration = Duration::from_secs(30);
/// The longest that the kernel may take to begin to send by a device whose carrier has come.
const BEGINS_WITHIN: Duration = Duration::from_secs(60);
/// How long a capture goes on listening for what should not come.
const SILENCE: Duration = Duration::from_millis(30);

/// A NIC in switchdev mode with three VFs, wired to a plain one; all netdevs are up and send nothing unasked.
#[derive(Debug)]
pub(super) struct Rig {
    pub(super) nic: Simnic,
    pub(super) remote: Simnic,
}

impl Rig {
    pub(super) fn new() -> Outcome<Self> {
        let nic = Simnic::new(0, 3)?;
        let remote = Simnic::new(1, 0)?;
        nic.wire(&remote)?;
        nic.set_mode("switchdev")?;
        let mut hosts = vec![nic.uplink()];
        hosts.extend((0..3).map(|vf| nic.representor(vf)));
        let mut all = hosts.clone();
        all.extend((0..3).map(|vf| nic.vf(vf)));
        all.push(remote.uplink());
        up(&all)?;
        batch("tc", hosts.iter().map(|device| format!("qdisc add dev {device} clsact")))?;
        Ok(Self { nic, remote })
    }

    /// A frame socket on a VF.
    pub(super) fn vf(&self, vf: u32) -> Outcome<PacketSocket> {
        Ok(PacketSocket::open(&self.nic.vf(vf))?)
    }

    /// A counter of the representor of a VF.
    pub(super) fn count(&self, vf: u32, counter: &str) -> Outcome<u64> {
        counter_of(&self.nic.representor(vf), counter)
    }

    /// A counter of the uplink.
    pub(super) fn uplink_count(&self, counter: &str) -> Outcome<u64> {
        counter_of(&self.nic.uplink(), counter)
    }

    /// A filter on the ingress of a representor, in hardware only unless `words` say otherwise. `words` may name the
    /// devices `REP0` … `REP2` and `UPLINK`.
    pub(super) fn filter(&self, vf: u32, words: &str) -> Outcome<String> {
        self.filter_on(&self.nic.representor(vf), words)
    }

    pub(super) fn filter_on(&self, device: &str, words: &str) -> Outcome<String> {
        tc(&format!("filter add dev {device} ingress {}", self.named(words)))
    }

    /// `words` with the NIC's device names in them.
    pub(super) fn named(&self, words: &str) -> String {
        let mut text = words.replace("UPLINK", &self.nic.uplink());
        for vf in 0..3 {
            text = text.replace(&format!("REP{vf}"), &self.nic.representor(vf));
        }
        text
    }
}

/// The same in software: what is sent into `swinx` is at the ingress of `swin`; `swout` and `swcopy` lead out.
#[derive(Debug)]
pub(super) struct Software;

impl Software {
    pub(super) const DEVICES: [&str; 3] = ["swin", "swout", "swcopy"];

    pub(super) fn new() -> Outcome<Self> {
        let software = Self;
        batch(
            "ip",
            Self::DEVICES.iter().map(|device| format!("link add {device} type veth peer name {device}x")),
        )?;
        let ends = Self::DEVICES.iter().flat_map(|device| [(*device).to_owned(), format!("{device}x")]);
        up(&ends.collect::<Vec<_>>())?;
        tc("qdisc add dev swin clsact")?;
        Ok(software)
    }
}

impl Drop for Software {
    fn drop(&mut self) {
        for device in Self::DEVICES {
            // One that was not made is not there to be deleted.
            let _ = run("ip", &["link", "delete", device]);
        }
    }
}

/// Brings devices up that say nothing of their own: no IPv6, so no router solicitation and no MLD. Where there is carrier,
/// packets can be sent when this returns: of a carrier that comes later than the device is up the kernel's work queue
/// tells (`linkwatch_do_dev`), and until then what is sent is dropped.
pub(crate) fn up(devices: &[String]) -> Outcome {
    for device in devices {
        fs::write(format!("/proc/sys/net/ipv6/conf/{device}/disable_ipv6"), "1")?;
    }
    batch("ip", devices.iter().map(|device| format!("link set {device} up")))?;
    for device in devices {
        wait_until(&format!("{device} sends"), BEGINS_WITHIN, || {
            let read = |name: &str| fs::read_to_string(format!("/sys/class/net/{device}/{name}"));
            Ok(read("carrier")?.trim() == "0" || ["up", "unknown"].contains(&read("operstate")?.trim()))
        })?;
    }
    Ok(())
}

/// Runs commands of `ip` or `tc` in one process; a process costs much in a guest without KVM.
pub(crate) fn batch(program: &str, commands: impl Iterator<Item = String>) -> Outcome {
    let path = format!("/run/simnic-test.{program}");
    fs::write(&path, commands.map(|command| command + "\n").collect::<String>())?;
    run(program, &["-batch", &path]).map(drop)
}

/// `tc WORDS`.
pub(super) fn tc(words: &str) -> Outcome<String> {
    run("tc", &words.split_whitespace().collect::<Vec<_>>())
}

/// What `tc WORDS` says when it is refused.
pub(super) fn tc_refused(words: &str) -> Outcome<String> {
    match tc(words) {
        Ok(_) => Err(Failure::new(format!("`tc {words}` was accepted"))),
        Err(failure) => Ok(failure.to_string()),
    }
}

pub(super) fn counters(device: &str) -> Outcome<BTreeMap<String, u64>> {
    let text = run("ethtool", &["-S", device])?;
    let pairs = text.lines().filter_map(|line| line.split_once(':'));
    Ok(pairs.filter_map(|(name, value)| Some((name.trim().to_owned(), value.trim().parse().ok()?))).collect())
}

pub(super) fn counter_of(device: &str, counter: &str) -> Outcome<u64> {
    counters(device)?
        .get(counter)
        .copied()
        .ok_or_else(|| Failure::new(format!("{device} has no counter {counter}")))
}

/// The next `count` test frames, and none after them.
pub(super) fn receive(socket: &PacketSocket, count: usize) -> Outcome<Vec<Vec<u8>>> {
    let mut frames = Vec::new();
    loop {
        let within = if frames.len() < count { ARRIVES_WITHIN } else { SILENCE };
        match socket.receive(within)? {
            Some(frame) if is_marked(&frame) => frames.push(frame),
            Some(_) => {}
            None => break,
        }
        ensure!(frames.len() <= count, "a frame too many arrived: {}", hex(&frames[count]));
    }
    ensure!(frames.len() == count, "{} of {count} frames arrived", frames.len());
    Ok(frames)
}

/// The test frame that has `id` in its payload, whatever comes before it.
pub(super) fn receive_id(socket: &PacketSocket, id: usize) -> Outcome<Vec<u8>> {
    let wanted = [MARK, format!("{id:05}").as_bytes()].concat();
    loop {
        let frame = socket.receive(ARRIVES_WITHIN)?;
        let frame = frame.ok_or_else(|| Failure::new(format!("frame {id} did not arrive")))?;
        if frame.windows(wanted.len()).any(|window| window == wanted) {
            return Ok(frame);
        }
    }
}

fn is_marked(frame: &[u8]) -> bool {
    frame.windows(MARK.len()).any(|window| window == MARK)
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Packets that TC says its hardware counted for the only filter of the device.
pub(super) fn hardware_packets(device: &str) -> Outcome<u64> {
    let text = tc(&format!("-s filter show dev {device} ingress"))?;
    let line = text.lines().find_map(|line| line.trim().strip_prefix("Sent hardware "));
    let packets = line.and_then(|line| line.split_whitespace().nth(2)).and_then(|word| word.parse().ok());
    packets.ok_or_else(|| Failure::new(format!("no hardware statistics on {device}: {text}")))
}
