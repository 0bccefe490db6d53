//! Two hosts whose pods meet in a tunnel that IPsec protects, and the wire between them to look at.

use std::time::Duration;

use super::super::hardware_to_hardware::{Host, SETTLES_WITHIN};
use crate::harness::{Failure, Lab, Middle, Outcome, ensure, output, wait_until};
use crate::io::packet_socket::PacketSocket;
use crate::simnic::ipsec::is_esp;
use crate::simnic::rig::hex;

/// The longest that packets may take, and what a change leads to.
pub(super) const ARRIVES_WITHIN: Duration = Duration::from_secs(60);
/// What a ping of the tests carries beyond ICMP's header, in bytes.
pub(super) const PAYLOAD: u64 = 300;

/// A kind of tunnel, in the words of its device, of the rule into it and of the one out of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kind {
    device: &'static str,
    port: u16,
    set: &'static str,
    matches: &'static str,
    /// Of the outer packets.
    ipv6: bool,
    /// What UDP, the tunnel's header and its inner Ethernet header come to, in bytes.
    pub(super) headers: u64,
}

pub(super) const GENEVE: Kind = Kind {
    device: "geneve external",
    port: 6081,
    set: "dst_port 6081 csum geneve_opts 0102:80:00010002",
    matches: "enc_dst_port 6081 geneve_opts 0102:80:00010002",
    ipv6: false,
    headers: 8 + 16 + 14,
};

pub(super) const VXLAN: Kind = Kind {
    device: "vxlan external dstport 4789",
    port: 4789,
    set: "dst_port 4789 nocsum",
    matches: "enc_dst_port 4789",
    ipv6: false,
    headers: 8 + 8 + 14,
};

/// All of them: over IPv6 UDP has a checksum.
pub(super) const KINDS: [Kind; 4] =
    [GENEVE, VXLAN, Kind { ipv6: true, ..GENEVE }, Kind { ipv6: true, set: "dst_port 4789 csum", ..VXLAN }];

/// What an end's IPsec is done by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    Kernel,
    Packet,
}

/// Both ends, number 0 and 1, whose addresses end in 1 and 2.
pub(super) struct Ends {
    kind: Kind,
    pub(super) hosts: [Host; 2],
    _middle: Middle,
    taps: [PacketSocket; 2],
}

/// Packets that a host has seen, or that its NIC has dealt with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) by_host: u64,
    pub(super) encrypted: u64,
    pub(super) decrypted: u64,
    /// Of the one rule into the tunnel, and of the one out of it, as TC has them of hardware.
    pub(super) by_rules: [u64; 2],
}

impl Ends {
    /// Neither security associations nor rules are there yet.
    pub(super) fn new(lab: &mut Lab, kind: Kind) -> Outcome<Self> {
        let hosts = [Host::new(lab, 1, kind.device)?, Host::new(lab, 2, kind.device)?];
        let middle = Middle::between([&hosts[0].nic, &hosts[1].nic], [2, 3])?;
        let taps = [PacketSocket::open(&middle.device(0))?, PacketSocket::open(&middle.device(1))?];
        let ends = Self { kind, hosts, _middle: middle, taps };
        for at in [0, 1] {
            // Nothing is on the wire but what the tests send.
            let (host, other) = (&ends.hosts[at], &ends.hosts[1 - at]);
            let (uplink, far) = (host.nic.uplink(), mac(&other.netns, &other.nic.uplink())?);
            if kind.ipv6 {
                host.has_ipv6(ends.outer(at))?;
            }
            host.ip(&format!(
                "neigh replace {} lladdr {far} dev {uplink} nud permanent",
                ends.outer(1 - at)
            ))?;
            let (vf, far) = (host.nic.vf(0), mac(&other.pod, &other.nic.vf(0))?);
            let neighbour = format!("10.7.0.{}", 2 - at);
            let words =
                ["ip", "neigh", "replace", &neighbour, "lladdr", &far, "dev", &vf, "nud", "permanent"];
            host.pod.run(&words)?;
            host.pod.run(&["ip", "link", "set", &vf, "mtu", "1300"])?;
        }
        Ok(ends)
    }

    /// From the VF into the tunnel and back, at both ends; what is not for hardware goes this way by the host.
    pub(super) fn join(&self) -> Outcome {
        self.join_at(0)?;
        self.join_at(1)
    }

    /// At one end.
    pub(super) fn join_at(&self, at: usize) -> Outcome {
        self.hosts[at].join([self.outer(at), self.outer(1 - at)], "", self.kind.set, self.kind.matches)
    }

    /// The address of an end on the wire.
    fn outer(&self, at: usize) -> &'static str {
        match (self.kind.ipv6, at) {
            (false, 0) => "172.31.0.1",
            (false, _) => "172.31.0.2",
            (true, 0) => "fd31::1",
            (true, _) => "fd31::2",
        }
    }

    /// Waits until pings are answered and both NICs know the way of their tunnels.
    pub(super) fn are_joined(&self) -> Outcome {
        wait_until("the pods reach each other", SETTLES_WITHIN, || Ok(self.hosts[0].pod.pings("10.7.0.2")))?;
        wait_until("both tunnels have a way", SETTLES_WITHIN, || {
            let [one, two] = [self.hosts[0].nic.rules()?, self.hosts[1].nic.rules()?];
            Ok(!one.contains("unresolved") && !two.contains("unresolved"))
        })
    }

    /// `ip xfrm WORDS` at an end.
    pub(super) fn xfrm(&self, at: usize, words: &str) -> Outcome<String> {
        let words: Vec<&str> = ["ip", "xfrm"].into_iter().chain(words.split_whitespace()).collect();
        self.hosts[at].netns.run(&words)
    }

    /// The SA from an end to the other, as end `at` has it. Those of another generation have other keys and other SPIs.
    pub(super) fn state(&self, at: usize, by: By, from: usize, generation: u8) -> String {
        let (src, dst) = (self.outer(from), self.outer(1 - from));
        let dir = if from == at { "out" } else { "in" };
        let window = if dir == "in" || by == By::Kernel { "replay-window 64" } else { "" };
        let offload = self.offload(at, by).map(|words| format!("{words} dir {dir}")).unwrap_or_default();
        let key = hex(&[0x40 + generation; 20]);
        format!(
            "state add src {src} dst {dst} proto esp spi {} reqid 7 mode transport {window} flag esn \
             aead rfc4106(gcm(aes)) 0x{key} 128 {offload}",
            spi(from, generation)
        )
    }

    /// `VERB` the policy about the tunnel's packets from an end to the other, with `words` of what it has done to them.
    pub(super) fn policy(&self, verb: &str, at: usize, by: By, from: usize, words: &str) -> String {
        let (src, dst) = (self.outer(from), self.outer(1 - from));
        let dir = if from == at { "out" } else { "in" };
        format!(
            "policy {verb} src {src} dst {dst} proto udp dport {} dir {dir} {words} {} {}",
            self.kind.port,
            self.offload(at, by).unwrap_or_default(),
            if words.is_empty() { "tmpl proto esp reqid 7 mode transport" } else { "" }
        )
    }

    fn offload(&self, at: usize, by: By) -> Option<String> {
        (by == By::Packet).then(|| format!("offload packet dev {}", self.hosts[at].nic.uplink()))
    }

    /// An end encrypts what it sends into the tunnel, and takes nothing else out of it.
    pub(super) fn protect(&self, at: usize, by: By) -> Outcome {
        for from in [0, 1] {
            self.xfrm(at, &self.state(at, by, from, 0))?;
            self.xfrm(at, &self.policy("add", at, by, from, ""))?;
        }
        Ok(())
    }

    /// Pings the second pod from the first.
    pub(super) fn pings(&self, count: u64) -> Outcome {
        let mut ping = self.hosts[0].pod.command("ping");
        ping.args(["-c", &count.to_string(), "-i", "0.05", "-W", "10", "-s", &PAYLOAD.to_string()]);
        output(ping.arg("10.7.0.2")).map(drop)
    }

    /// Frames that came from an end and nobody has looked at yet; each has to be ESP.
    pub(super) fn only_esp(&self, end: usize) -> Outcome<u64> {
        Ok(self.esp_and_reports(end)?.0)
    }

    /// The same, and how many reports of multicast listeners came, which a host sends when it likes.
    pub(super) fn esp_and_reports(&self, end: usize) -> Outcome<(u64, u64)> {
        let (mut count, mut reports) = (0, 0);
        while let Some(frame) = self.taps[end].receive(Duration::ZERO)? {
            let is_esp = is_esp(&frame);
            ensure!(is_esp || is_listener_report(&frame), "end {end} sent what is no ESP: {}", hex(&frame));
            count += u64::from(is_esp);
            reports += u64::from(!is_esp);
        }
        Ok((count, reports))
    }

    /// The next frame from an end.
    pub(super) fn frame_from(&self, end: usize) -> Outcome<Vec<u8>> {
        let frame = self.taps[end].receive(ARRIVES_WITHIN)?;
        frame.ok_or_else(|| Failure::new(format!("no frame came from end {end}")))
    }

    /// Sends a frame to the second end.
    pub(super) fn inject(&self, frame: &[u8]) -> Outcome {
        Ok(self.taps[1].send(frame)?)
    }

    /// A counter of an end's uplink.
    pub(super) fn counter(&self, at: usize, name: &str) -> Outcome<u64> {
        self.hosts[at].counter(&self.hosts[at].nic.uplink(), name)
    }

    pub(super) fn seen(&self, at: usize) -> Outcome<Seen> {
        let host = &self.hosts[at];
        let statistic = |name: &str| -> Outcome<u64> {
            let path = format!("/sys/class/net/tun/statistics/{name}");
            Ok(host.netns.run(&["cat", &path])?.trim().parse()?)
        };
        Ok(Seen {
            by_host: host.at_representor()?
                + self.counter(at, "wire_rx_slow_packets")?
                + self.counter(at, "wire_tx_slow_packets")?
                + statistic("rx_packets")?
                + statistic("tx_packets")?,
            encrypted: self.counter(at, "ipsec_tx_packets")?,
            decrypted: self.counter(at, "ipsec_rx_packets")?,
            by_rules: [hardware_packets(host, &host.nic.representor(0))?, hardware_packets(host, "tun")?],
        })
    }

    /// Bytes and packets that the kernel shows for the SA from an end to the other, at end `at`.
    pub(super) fn counted(&self, at: usize, from: usize) -> Outcome<[u64; 2]> {
        let (src, dst) = (self.outer(from), self.outer(1 - from));
        let words = format!("state get src {src} dst {dst} proto esp spi {}", spi(from, 0));
        let words: Vec<&str> = ["ip", "-s", "xfrm"].into_iter().chain(words.split_whitespace()).collect();
        let text = self.hosts[at].netns.run(&words)?;
        // "7(bytes), 1(packets)", behind "lifetime current:"
        let current = text.split("lifetime current:").nth(1).unwrap_or_default();
        let number = |unit: &str| {
            let digits = current.split(unit).next()?.rsplit(|c: char| !c.is_ascii_digit()).next()?;
            digits.parse().ok()
        };
        match [number("(bytes)"), number("(packets)")] {
            [Some(bytes), Some(packets)] => Ok([bytes, packets]),
            _ => Err(Failure::new(text)),
        }
    }
}

/// The SPI of what an end sends.
pub(super) fn spi(from: usize, generation: u8) -> String {
    format!("{:#x}", 0xc0de + from + 16 * usize::from(generation))
}

fn mac(netns: &crate::harness::Netns, device: &str) -> Outcome<String> {
    Ok(netns.run(&["cat", &format!("/sys/class/net/{device}/address")])?.trim().to_owned())
}

fn hardware_packets(host: &Host, device: &str) -> Outcome<u64> {
    let text = host.tc(&format!("-s filter show dev {device} ingress"))?;
    let line = text.lines().find_map(|line| line.trim().strip_prefix("Sent hardware "));
    let packets = line.and_then(|line| line.split_whitespace().nth(2)).and_then(|word| word.parse().ok());
    packets.ok_or_else(|| Failure::new(format!("no hardware statistics on {device}: {text}")))
}

/// Whether it is what a host says to ff02::16 of the groups that it listens to.
fn is_listener_report(frame: &[u8]) -> bool {
    let to = [&[0xff, 0x02][..], &[0; 13], &[0x16]].concat();
    frame.get(12..14) == Some(&[0x86, 0xdd]) && frame.get(38..54) == Some(&to[..])
}
