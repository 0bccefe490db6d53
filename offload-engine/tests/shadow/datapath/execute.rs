//! What a megaflow does with a packet.

use super::{Act, ETHERNET_ATTR, IPV4_ATTR, IPV6_ATTR, MPLS_ATTR, TCP_ATTR, UDP_ATTR, find_ipv6};
use crate::packet::{self, IPV4, IPV6, Outer, Packet, be16, fold, is_vlan};

/// A packet that leaves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Sent {
    pub(crate) port: u32,
    pub(crate) through: Option<Outer>,
    pub(crate) bytes: Vec<u8>,
}

/// `do_execute_actions()`; nothing where an action is none of those that are modelled.
pub(crate) fn execute(actions: &[Act], packet: &Packet) -> Option<Vec<Sent>> {
    let (mut bytes, mut through, mut sent) = (packet.bytes.clone(), None, Vec::new());
    for action in actions {
        match action {
            Act::Output(port) => match (port, &through) {
                // A tunnel's device drops what has no tunnel.
                (4..=6, None) => {}
                (4..=6, Some(_)) => {
                    sent.push(Sent { port: *port, through: through.clone(), bytes: bytes.clone() })
                }
                _ => sent.push(Sent { port: *port, through: None, bytes: bytes.clone() }),
            },
            Act::SetTunnel(outer) => through = Some(outer.clone()),
            Act::Set(attr, value, mask) => {
                let mask = mask.clone().unwrap_or_else(|| vec![0xff; value.len()]);
                set(&mut bytes, *attr, value, &mask)?;
            }
            Act::PushVlan(tpid, tci) => {
                let tag = [tpid.to_be_bytes(), (tci & !0x1000).to_be_bytes()].concat();
                bytes.splice(12..12, tag);
            }
            Act::PopVlan => {
                if is_vlan(be16(&bytes, 12)?) {
                    bytes.drain(12..16);
                }
            }
            Act::PushMpls(lse, ethertype) => {
                bytes[12..14].copy_from_slice(&ethertype.to_be_bytes());
                bytes.splice(14..14, lse.to_be_bytes());
            }
            Act::PopMpls(ethertype) => {
                bytes.drain(14..18);
                bytes[12..14].copy_from_slice(&ethertype.to_be_bytes());
            }
            Act::DecTtl => {
                let (at, check) = match ethertype_and_network(&bytes) {
                    (IPV4, at) => (at + 8, Some(at + 10)),
                    (IPV6, at) => (at + 7, None),
                    _ => continue,
                };
                if bytes[at] <= 1 {
                    return Some(sent);
                }
                let even = at & !1;
                let old = [bytes[even], bytes[even + 1]];
                bytes[at] -= 1;
                if let Some(check) = check {
                    let new = [bytes[even], bytes[even + 1]];
                    replace(&mut bytes, check, &old, &new);
                }
            }
            Act::CtClear => {}
            Act::Drop => return Some(sent),
            Act::Other(..) => return None,
        }
    }
    Some(sent)
}

fn ethertype_and_network(bytes: &[u8]) -> (u16, usize) {
    let mut at = 12;
    while is_vlan(be16(bytes, at).unwrap_or(0)) && at < 20 {
        at += 4;
    }
    (be16(bytes, at).unwrap_or(0), at + 2)
}

/// `csum_replace*()`: a checksum after some of what it covers changed (RFC 1624).
fn replace(bytes: &mut [u8], check: usize, old: &[u8], new: &[u8]) {
    let before = be16(bytes, check).unwrap_or(0);
    let inverted: Vec<u8> = old.iter().map(|byte| !byte).collect();
    let sum = packet::sum(new, packet::sum(&inverted, u32::from(!before)));
    bytes[check..check + 2].copy_from_slice(&(!fold(sum)).to_be_bytes());
}

/// `OVS_SET_MASKED()`
fn merge(bytes: &mut [u8], at: usize, value: &[u8], mask: &[u8]) {
    for ((byte, value), mask) in bytes[at..].iter_mut().zip(value).zip(mask) {
        *byte = *byte & !mask | value & mask;
    }
}

fn set(bytes: &mut [u8], attr: u16, value: &[u8], mask: &[u8]) -> Option<()> {
    let (ethertype, network) = ethertype_and_network(bytes);
    match attr {
        ETHERNET_ATTR => {
            merge(bytes, 6, &value[..6], &mask[..6]);
            merge(bytes, 0, &value[6..], &mask[6..]);
        }
        IPV4_ATTR => {
            for (from, at) in [(0, 12), (4, 16)] {
                set_address(bytes, network, network + at, &value[from..from + 4], &mask[from..from + 4]);
            }
            for (from, at) in [(9, 1), (10, 8)] {
                let even = network + (at & !1);
                let old = [bytes[even], bytes[even + 1]];
                merge(bytes, network + at, &value[from..=from], &mask[from..=from]);
                let new = [bytes[even], bytes[even + 1]];
                replace(bytes, network + 10, &old, &new);
            }
        }
        IPV6_ATTR => {
            for (from, at) in [(0, 8), (16, 24)] {
                set_address(bytes, network, network + at, &value[from..from + 16], &mask[from..from + 16]);
            }
            merge(
                bytes,
                network,
                &value[32..36],
                &mask[32..36].iter().zip([0, 0x0f, 0xff, 0xff]).map(|(a, b)| a & b).collect::<Vec<_>>(),
            );
            let class = |class: u8| [class >> 4, class << 4];
            merge(bytes, network, &class(value[37]), &class(mask[37]));
            merge(bytes, network + 7, &value[38..39], &mask[38..39]);
        }
        TCP_ATTR | UDP_ATTR => {
            let at = transport(bytes, ethertype, network)?.1;
            let check = at + if attr == TCP_ATTR { 16 } else { 6 };
            let old = bytes[at..at + 4].to_vec();
            merge(bytes, at, value, mask);
            let new = bytes[at..at + 4].to_vec();
            update(bytes, check, attr == UDP_ATTR, &old, &new);
        }
        MPLS_ATTR => merge(bytes, network, value, mask),
        _ => return None,
    }
    Some(())
}

/// The transport protocol and where it begins; nothing of a later fragment.
fn transport(bytes: &[u8], ethertype: u16, network: usize) -> Option<(u8, usize)> {
    let l3 = &bytes[network..];
    match ethertype {
        IPV4 => (be16(l3, 6)? & 0x1fff == 0).then(|| (l3[9], network + usize::from(l3[0] & 15) * 4)),
        _ => find_ipv6(l3).0.map(|(proto, at)| (proto, network + at)),
    }
}

/// Keeps up a transport's checksum; one of UDP that is 0 stays so, and none becomes 0.
fn update(bytes: &mut [u8], check: usize, is_udp: bool, old: &[u8], new: &[u8]) {
    if is_udp && bytes[check..check + 2] == [0, 0] {
        return;
    }
    replace(bytes, check, old, new);
    if is_udp && bytes[check..check + 2] == [0, 0] {
        bytes[check..check + 2].fill(0xff);
    }
}

/// `set_ip_addr()`, `set_ipv6_addr()`
fn set_address(bytes: &mut [u8], network: usize, at: usize, value: &[u8], mask: &[u8]) {
    let old = bytes[at..at + value.len()].to_vec();
    merge(bytes, at, value, mask);
    let new = bytes[at..at + value.len()].to_vec();
    if old == new {
        return;
    }
    let ethertype = if value.len() == 4 { IPV4 } else { IPV6 };
    match transport(bytes, ethertype, network) {
        Some((packet::TCP, at)) => update(bytes, at + 16, false, &old, &new),
        Some((packet::UDP, at)) => update(bytes, at + 6, true, &old, &new),
        Some((packet::ICMPV6, at)) if ethertype == IPV6 => update(bytes, at + 2, false, &old, &new),
        _ => {}
    }
    if ethertype == IPV4 {
        replace(bytes, network + 10, &old, &new);
    }
}
