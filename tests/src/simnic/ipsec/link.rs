//! Two hosts in namespaces with a NIC each, and between them a third that sees all and lets everything pass.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use crate::harness::{Failure, Lab, Middle, Netns, Outcome, Simnic, ensure, output, run};
use crate::io::packet_socket::PacketSocket;
use crate::simnic::functions::words;
use crate::simnic::rig::hex;

/// The longest that a packet may take.
pub(super) const ARRIVES_WITHIN: Duration = Duration::from_secs(60);
/// Keys and salts of AES-GCM, of which SAs take the beginning.
const KEY: [u8; 36] = *b"0123456789abcdefghijklmnopqrstuvwxyz";
/// What pings carry, so that it would be found in a capture.
const PLAINTEXT: &str = "plaintxt";

/// What of one end's IPsec is not the kernel's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    Kernel,
    Crypto,
    Packet,
}

/// What the SAs of a test have in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kind {
    pub(super) ipv6: bool,
    pub(super) mode: &'static str,
    pub(super) key_bits: usize,
    pub(super) window: u32,
    /// What is said of sequence numbers, that of what goes out and of what comes in.
    pub(super) replay: [&'static str; 2],
}

/// An IPv4 transport with a window of 64 packets and extended sequence numbers.
pub(super) const PLAIN: Kind =
    Kind { ipv6: false, mode: "transport", key_bits: 128, window: 64, replay: ["flag esn"; 2] };

/// A host with a NIC.
#[derive(Debug)]
pub(super) struct End {
    pub(super) netns: Netns,
    pub(super) nic: Simnic,
    addresses: [&'static str; 2],
}

#[derive(Debug)]
pub(super) struct Link {
    pub(super) here: End,
    pub(super) there: End,
    /// Lets everything pass for as long as it is there.
    _middle: Middle,
    taps: [PacketSocket; 2],
}

impl End {
    fn new(lab: &mut Lab, word: &str, id: u32, addresses: [&'static str; 2]) -> Outcome<Self> {
        let end = Self { netns: Netns::new(lab, word)?, nic: Simnic::new(id, 0)?, addresses };
        run("ip", &["link", "set", &end.nic.uplink(), "netns", end.netns.name()])?;
        let device = end.nic.uplink();
        end.batch(&[
            format!("address add {}/24 dev {device}", addresses[0]),
            format!("address add {}/64 dev {device} nodad", addresses[1]),
            format!("link set {device} up"),
        ])?;
        Ok(end)
    }

    /// Commands of `ip` in this namespace, in one process.
    pub(super) fn batch(&self, commands: &[String]) -> Outcome {
        let path = "/run/simnic-test.ipsec";
        fs::write(path, commands.iter().map(|command| format!("{command}\n")).collect::<String>())?;
        run("ip", &["-n", self.netns.name(), "-batch", path]).map(drop)
    }

    pub(super) fn ip(&self, arguments: &str) -> Outcome<String> {
        words("ip", &format!("-n {} {arguments}", self.netns.name()))
    }

    pub(super) fn address(&self, ipv6: bool) -> &'static str {
        self.addresses[usize::from(ipv6)]
    }

    /// The counters of the NIC that are about IPsec.
    pub(super) fn counter(&self, name: &str) -> Outcome<u64> {
        let counters = self.netns.ethtool_counters(&self.nic.uplink())?;
        counters.get(name).copied().ok_or_else(|| Failure::new(format!("no {name} in {counters:?}")))
    }

    /// What is counted of drops: those of `/proc/net/xfrm_stat`, and those of each SA.
    pub(super) fn drops(&self) -> Outcome<BTreeMap<String, u64>> {
        let stat = self.netns.run(&["cat", "/proc/net/xfrm_stat"])?;
        let mut drops: BTreeMap<String, u64> = stat
            .lines()
            .filter_map(|line| {
                let mut parts = line.split_whitespace();
                Some((parts.next()?.to_owned(), parts.next()?.parse().ok()?))
            })
            .collect();
        // "replay-window 0 replay 0 failed 0", behind a line "stats:"
        let text = self.ip("-s xfrm state")?;
        for line in text.lines().filter(|line| line.contains(" failed ")) {
            let parts: Vec<&str> = line.split_whitespace().collect();
            for pair in parts.chunks_exact(2) {
                *drops.entry(format!("sa {}", pair[0])).or_default() += pair[1].parse::<u64>()?;
            }
        }
        Ok(drops)
    }

    /// An SA from `from` to `to`, one of which is this.
    pub(super) fn state(&self, [from, to]: [&Self; 2], spi: &str, kind: Kind, by: By) -> String {
        let out = from.nic.uplink() == self.nic.uplink();
        // `ip` tells the direction of what is offloaded; a window is not for what goes out.
        let replay = match (by, out) {
            (By::Kernel, _) => format!("replay-window {} {}", kind.window, kind.replay[usize::from(!out)]),
            (_, true) => kind.replay[0].to_owned(),
            (_, false) => format!("replay-window {} {}", kind.window, kind.replay[1]),
        };
        let offload = match by {
            By::Kernel => String::new(),
            By::Crypto | By::Packet => {
                let mode = if by == By::Packet { "packet" } else { "crypto" };
                format!("offload {mode} dev {} dir {}", self.nic.uplink(), if out { "out" } else { "in" })
            }
        };
        format!(
            "xfrm state add src {} dst {} proto esp spi {spi} reqid 7 mode {} {replay} aead rfc4106(gcm(aes)) 0x{} 128 {offload}",
            from.address(kind.ipv6),
            to.address(kind.ipv6),
            kind.mode,
            hex(&KEY[..kind.key_bits / 8 + 4]),
        )
    }

    /// Policies that want all between this and `other` encrypted, but for neighbour discovery.
    fn policies(&self, other: &Self, kind: Kind, by: By) -> [String; 2] {
        let offload = match by {
            By::Packet => format!("offload packet dev {}", self.nic.uplink()),
            By::Kernel | By::Crypto => String::new(),
        };
        [("out", self, other), ("in", other, self)].map(|(dir, from, to)| {
            let (src, dst) = (from.address(kind.ipv6), to.address(kind.ipv6));
            let tunnel = if kind.mode == "tunnel" { format!("src {src} dst {dst}") } else { String::new() };
            format!(
                "xfrm policy add src {src} dst {dst} dir {dir} {offload} tmpl {tunnel} proto esp reqid 7 mode {}",
                kind.mode
            )
        })
    }

    /// Pings `other` `count` times; all have to be answered.
    pub(super) fn pings(&self, other: &Self, kind: Kind, count: u32) -> Outcome {
        let (count, pattern) = (count.to_string(), hex(PLAINTEXT.as_bytes()));
        let mut ping = self.netns.command("ping");
        ping.args(["-c", &count, "-i", "0.05", "-W", "10", "-s", "300", "-p", &pattern]);
        output(ping.arg(other.address(kind.ipv6))).map(drop)
    }
}

impl Link {
    pub(super) fn new(lab: &mut Lab) -> Outcome<Self> {
        let here = End::new(lab, "here", 0, ["172.30.0.1", "fd30::1"])?;
        let there = End::new(lab, "there", 1, ["172.30.0.2", "fd30::2"])?;
        let middle = Middle::between([&here.nic, &there.nic], [2, 3])?;
        let taps = [PacketSocket::open(&middle.device(0))?, PacketSocket::open(&middle.device(1))?];
        let link = Self { here, there, _middle: middle, taps };
        link.neighbours(&link.here, &link.there)?;
        link.neighbours(&link.there, &link.here)?;
        Ok(link)
    }

    /// Neighbour discovery would meet the policies.
    fn neighbours(&self, end: &End, other: &End) -> Outcome {
        let device = other.nic.uplink();
        let address = other.netns.run(&["cat", &format!("/sys/class/net/{device}/address")])?;
        let commands = [false, true].map(|ipv6| {
            let (to, device) = (other.address(ipv6), end.nic.uplink());
            format!("neigh replace {to} lladdr {} dev {device} nud permanent", address.trim())
        });
        end.batch(&commands)
    }

    /// Encrypts all between the ends.
    pub(super) fn protect(&self, kind: Kind, by: [By; 2]) -> Outcome {
        let both = [(&self.here, &self.there), (&self.there, &self.here)];
        for ((end, other), by) in both.into_iter().zip(by) {
            let mut commands = vec![
                end.state([&self.here, &self.there], "0xc0de", kind, by),
                end.state([&self.there, &self.here], "0xc0df", kind, by),
            ];
            commands.extend(end.policies(other, kind, by));
            end.batch(&commands)?;
        }
        Ok(())
    }

    pub(super) fn clear(&self) -> Outcome {
        for end in [&self.here, &self.there] {
            end.batch(&["xfrm state flush".to_owned(), "xfrm policy flush".to_owned()])?;
        }
        Ok(())
    }

    /// The next frame with ESP that the middle sees from an end.
    pub(super) fn esp_from(&self, end: usize) -> Outcome<Vec<u8>> {
        loop {
            let frame = self.taps[end].receive(ARRIVES_WITHIN)?;
            let frame = frame.ok_or_else(|| Failure::new(format!("no ESP came from end {end}")))?;
            if is_esp(&frame) {
                return Ok(frame);
            }
        }
    }

    /// Frames with ESP that the middle has seen from an end and that nobody has looked at, all without plaintext, and
    /// that nothing else of the pings was seen.
    pub(super) fn only_esp(&self, end: usize) -> Outcome<usize> {
        let mut count = 0;
        while let Some(frame) = self.taps[end].receive(Duration::ZERO)? {
            let plain = frame.windows(PLAINTEXT.len()).any(|window| window == PLAINTEXT.as_bytes());
            ensure!(!plain, "plaintext is on the wire: {}", hex(&frame));
            count += usize::from(is_esp(&frame));
        }
        Ok(count)
    }

    /// Sends a frame to the second end.
    pub(super) fn inject(&self, frame: &[u8]) -> Outcome {
        Ok(self.taps[1].send(frame)?)
    }
}

/// Whether a frame is IPv4 without options, or IPv6, with ESP in it.
pub(in crate::simnic) fn is_esp(frame: &[u8]) -> bool {
    let protocol_at = match frame.get(12..14) {
        Some([0x08, 0x00]) => 23,
        Some([0x86, 0xdd]) => 20,
        _ => return false,
    };
    frame.get(protocol_at) == Some(&50)
}
