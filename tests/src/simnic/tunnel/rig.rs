//! A NIC whose uplink is a tunnel endpoint, the tunnel devices on it, and the wire's far end to look at.

use std::fs;

use super::super::rig::{Rig, batch, counter_of, tc};
use crate::harness::{Outcome, run};
use crate::io::packet_socket::PacketSocket;

/// The far end's MAC address, as the neighbour table has it at first.
pub(super) const FAR_MAC: &str = "02:00:00:00:fa:01";
/// Both ends of a tunnel over IPv4: (near, far).
pub(super) const V4: (&str, &str) = ("172.31.0.1", "172.31.0.2");
/// Both ends over IPv6.
pub(super) const V6: (&str, &str) = ("fd31::1", "fd31::2");

/// A tunnel and the words that differ between kinds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tunnel {
    pub(super) device: &'static str,
    /// Near and far end.
    pub(super) ends: (&'static str, &'static str),
    /// More of `tunnel_key set`.
    pub(super) set: &'static str,
    /// More of the match on the tunnel device.
    pub(super) matches: &'static str,
}

/// One of each kind, over both IP versions, with and without checksums, options, TOS, TTL and the DF flag.
pub(super) const TUNNELS: [Tunnel; 8] = [
    Tunnel { device: "tvx", ends: V4, set: "dst_port 4790 nocsum ttl 64", matches: "enc_dst_port 4790" },
    Tunnel {
        device: "tvx",
        ends: V6,
        set: "dst_port 4790 csum tos 0xb8 ttl 63",
        matches: "enc_dst_port 4790 enc_tos 0xb8/0xfc enc_ttl 63",
    },
    Tunnel {
        device: "tgbp",
        ends: V4,
        set: "dst_port 4791 csum ttl 9 nofrag vxlan_opts 4660",
        matches: "enc_dst_port 4791 vxlan_opts 4660",
    },
    Tunnel {
        device: "tgn",
        ends: V4,
        set: "dst_port 6082 csum ttl 64 geneve_opts 0102:80:00010002",
        matches: "enc_dst_port 6082 geneve_opts 0102:80:00010002",
    },
    Tunnel {
        device: "tgn",
        ends: V6,
        set: "dst_port 6082 nocsum ttl 64 geneve_opts 0102:80:00010002,0103:01:0a0b0c0d0e0f1011",
        matches: "enc_dst_port 6082 geneve_opts 0102:80:00010002,0103:01:0a0b0c0d0e0f1011",
    },
    Tunnel { device: "tgre", ends: V4, set: "nocsum ttl 33 tos 0x28", matches: "enc_ttl 33" },
    Tunnel { device: "tgre", ends: V4, set: "nocsum", matches: "" },
    Tunnel { device: "tgre6", ends: V6, set: "nocsum ttl 64 tos 0x28", matches: "enc_tos 0x28" },
];

/// The rig of the other tests with an address on the uplink and a tunnel device of each kind.
pub(super) struct TunnelRig {
    pub(super) rig: Rig,
    /// The wire's far end.
    pub(super) far: PacketSocket,
}

const DEVICES: [(&str, &str); 5] = [
    ("tvx", "type vxlan external dstport 4790 udp6zerocsumrx"),
    ("tgbp", "type vxlan external dstport 4791 gbp"),
    ("tgn", "type geneve external dstport 6082 udp6zerocsumrx"),
    ("tgre", "type gretap external"),
    ("tgre6", "type ip6gretap external"),
];

impl TunnelRig {
    pub(super) fn new() -> Outcome<Self> {
        let rig = Rig::new()?;
        let uplink = rig.nic.uplink();
        // So that the software path's frames have their checksums when they are on the wire, as hardware's have.
        run("ethtool", &["-K", &uplink, "tx", "off"])?;
        fs::write(format!("/proc/sys/net/ipv6/conf/{uplink}/disable_ipv6"), "0")?;
        let far = PacketSocket::open(&rig.remote.uplink())?;
        let made = Self { rig, far };
        let mut words = vec![
            format!("address add {}/24 dev {uplink}", V4.0),
            format!("address add {}/64 dev {uplink} nodad", V6.0),
        ];
        words.extend(
            [V4.1, V6.1]
                .map(|far| format!("neigh replace {far} lladdr {FAR_MAC} dev {uplink} nud permanent")),
        );
        words.extend(DEVICES.iter().map(|(name, kind)| format!("link add {name} {kind}")));
        batch("ip", words.into_iter())?;
        for (name, _) in DEVICES {
            fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1")?;
        }
        batch("ip", DEVICES.iter().map(|(name, _)| format!("link set {name} up")))?;
        batch("tc", DEVICES.iter().map(|(name, _)| format!("qdisc add dev {name} clsact")))?;
        Ok(made)
    }

    /// The one filter of VF 0's representor: everything into the tunnel. `flag` is `skip_sw`, `skip_hw` or nothing.
    pub(super) fn encapsulate(&self, tunnel: &Tunnel, flag: &str) -> Outcome {
        let rep = self.rig.nic.representor(0);
        let (near, far) = tunnel.ends;
        let add = format!(
            "filter add dev {rep} ingress protocol all flower {flag} action tunnel_key set src_ip {near} dst_ip {far} \
             id 77 {} pipe action mirred egress redirect dev {}",
            tunnel.set, tunnel.device
        );
        batch("tc", [format!("filter delete dev {rep} ingress"), add].into_iter())
    }

    /// The one filter of the tunnel device: what comes out of it goes to VF 1.
    pub(super) fn decapsulate(&self, tunnel: &Tunnel, flag: &str) -> Outcome {
        let (near, far) = tunnel.ends;
        let device = tunnel.device;
        let add = format!(
            "filter add dev {device} ingress protocol all flower enc_key_id 77 enc_src_ip {far} enc_dst_ip {near} {} \
             {flag} action tunnel_key unset pipe action mirred egress redirect dev {}",
            tunnel.matches,
            self.rig.nic.representor(1)
        );
        batch("tc", [format!("filter delete dev {device} ingress"), add].into_iter())
    }

    pub(super) fn clear(&self, tunnel: &Tunnel) -> Outcome {
        tc(&format!("filter delete dev {} ingress", self.rig.nic.representor(0)))?;
        tc(&format!("filter delete dev {} ingress", tunnel.device)).map(drop)
    }

    /// Packets of VF 0 and of the wire that the host saw.
    pub(super) fn slow(&self) -> Outcome<(u64, u64)> {
        Ok((
            self.rig.count(0, "vf_tx_slow_packets")?,
            counter_of(&self.rig.nic.uplink(), "wire_rx_slow_packets")?,
        ))
    }
}

impl Drop for TunnelRig {
    fn drop(&mut self) {
        for (name, _) in DEVICES {
            // One that was not made is not there to be deleted.
            let _ = run("ip", &["link", "delete", name]);
        }
    }
}

/// A frame from the near end as the far end would send it: addresses the other way round, which no checksum notices.
pub(super) fn turned_round(frame: &[u8], to: [u8; 6]) -> Vec<u8> {
    let mut turned = frame.to_vec();
    turned[..6].copy_from_slice(&to);
    turned[6..12].copy_from_slice(&[2, 0, 0, 0, 0xfa, 1]);
    let (at, size) = if frame[12..14] == [0x86, 0xdd] { (14 + 8, 16) } else { (14 + 12, 4) };
    turned[at..at + size].copy_from_slice(&frame[at + size..at + 2 * size]);
    turned[at + size..at + 2 * size].copy_from_slice(&frame[at..at + size]);
    turned
}

/// Without what is chosen anew for each packet: IPv4's identification, and the header checksum, which is verified.
pub(super) fn without_identification(frame: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = frame.to_vec();
    if frame[12..14] == [8, 0] {
        if super::super::frame::checksum(&frame[14..34]) != 0 {
            return None;
        }
        bytes[18..20].fill(0);
        bytes[24..26].fill(0);
    }
    Some(bytes)
}
