//! What flows look at: parts of a packet, under masks.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::dice::Dice;
use super::packet::{ARP, Body, ICMP, ICMPV6, Ip, MPLS, Packet, SCTP, TCP, UDP};

/// What a match says of its packets, for the actions that may follow.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Known {
    pub(super) ethertype: Option<u16>,
    pub(super) proto: Option<u8>,
    pub(super) tagged: bool,
}

pub(super) fn mac_text(mac: [u8; 6]) -> String {
    let parts: Vec<String> = mac.iter().map(|byte| format!("{byte:02x}")).collect();
    parts.join(":")
}

pub(super) fn address_text(address: [u8; 16], is_v6: bool) -> String {
    match is_v6 {
        true => Ipv6Addr::from(address).to_string(),
        false => Ipv4Addr::new(address[12], address[13], address[14], address[15]).to_string(),
    }
}

/// A match that `packet` fits.
pub(super) fn draw(packet: &Packet, dice: &mut Dice) -> (String, Known) {
    let (mut words, mut known) = (Vec::new(), Known::default());
    for (field, mac) in [("dl_dst", packet.dst), ("dl_src", packet.src)] {
        match dice.below(8) {
            0 => words.push(format!("{field}={}", mac_text(mac))),
            1 => {
                let mask = dice.of(&[[1, 0, 0, 0, 0, 0], [0xff, 0xff, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0x0f]]);
                let value: [u8; 6] = std::array::from_fn(|at| mac[at] & mask[at]);
                words.push(format!("{field}={}/{}", mac_text(value), mac_text(mask)));
            }
            _ => {}
        }
    }
    tags(packet, dice, &mut words, &mut known);
    if dice.below(6) > 0 {
        body(packet, dice, &mut words, &mut known);
    }
    (words.join(","), known)
}

fn tags(packet: &Packet, dice: &mut Dice, words: &mut Vec<String>, known: &mut Known) {
    let Some((_, tci)) = packet.tags.first() else {
        if dice.one_in(4) {
            words.push("vlan_tci=0x0000/0x1fff".to_owned());
        }
        return;
    };
    let mask = match dice.below(5) {
        0 => 0x1000,
        1 => 0x1fff,
        2 => 0xf000,
        3 => 0xffff,
        _ => return,
    };
    words.push(format!("vlan_tci={:#06x}/{mask:#06x}", (tci | 0x1000) & mask));
    known.tagged = true;
}

fn body(packet: &Packet, dice: &mut Dice, words: &mut Vec<String>, known: &mut Known) {
    known.ethertype = Some(packet.ethertype());
    match &packet.body {
        Body::Ip(ip) => ip_of(ip, dice, words, known),
        Body::Arp(arp) => {
            words.push(if arp.ethertype == ARP { "arp" } else { "rarp" }.to_owned());
            let mut some = |word: String| {
                if dice.one_in(3) {
                    words.push(word);
                }
            };
            if arp.hardware == 1 && arp.op < 256 {
                some(format!("arp_op={}", arp.op));
                some(format!("arp_spa={}", Ipv4Addr::from(arp.spa)));
                some(format!("arp_tpa={}/24", Ipv4Addr::from(arp.tpa)));
                some(format!("arp_sha={}", mac_text(arp.sha)));
                some(format!("arp_tha={}", mac_text(arp.tha)));
            }
        }
        Body::Mpls { ethertype, stack, .. } => {
            words.push(if *ethertype == MPLS { "mpls" } else { "mplsm" }.to_owned());
            let top = stack[0];
            let mut some = |word: String| {
                if dice.one_in(3) {
                    words.push(word);
                }
            };
            some(format!("mpls_label={}", top >> 12));
            some(format!("mpls_tc={}", top >> 9 & 7));
            some(format!("mpls_bos={}", top >> 8 & 1));
            some(format!("mpls_ttl={}", top & 0xff));
        }
        Body::Other(ethertype) if *ethertype >= 0x600 => words.push(format!("dl_type={ethertype:#06x}")),
        Body::Other(_) => known.ethertype = None,
    }
}

fn ip_of(ip: &Ip, dice: &mut Dice, words: &mut Vec<String>, known: &mut Known) {
    let later = ip.fragment & 0x1fff != 0;
    // Of a later fragment of IPv6 no protocol is known.
    let with_proto = !(later && ip.v6) && dice.below(4) > 0;
    words.push(if ip.v6 { "ipv6" } else { "ip" }.to_owned());
    for (field, address) in [("src", ip.src), ("dst", ip.dst)] {
        let name = if ip.v6 { format!("ipv6_{field}") } else { format!("nw_{field}") };
        let bits = if ip.v6 { 128 } else { 32 };
        let prefix = match dice.below(6) {
            0 => bits,
            1 => dice.of(&[8, 16, 24, bits - 1, 1]),
            _ => continue,
        };
        let mut masked = address;
        for bit in 0..bits {
            if bit >= prefix {
                let at = 128 - bits + bit;
                masked[at / 8] &= !(0x80 >> (at % 8));
            }
        }
        words.push(format!("{name}={}/{prefix}", address_text(masked, ip.v6)));
    }
    match dice.below(12) {
        0 => words.push(format!("nw_tos={}", ip.tos & 0xfc)),
        1 => words.push(format!("nw_ecn={}", ip.tos & 3)),
        2 | 3 => words.push(format!("nw_ttl={}", ip.ttl)),
        4 => words.push(
            match (ip.fragment & 0x3fff, later) {
                (0, _) => dice.of(&["ip_frag=no", "ip_frag=not_later"]),
                (_, false) => dice.of(&["ip_frag=first", "ip_frag=yes", "ip_frag=not_later"]),
                _ => dice.of(&["ip_frag=later", "ip_frag=yes"]),
            }
            .to_owned(),
        ),
        5 if ip.v6 => words.push(format!("ipv6_label={:#x}", ip.label)),
        _ => {}
    }
    if with_proto {
        words.push(format!("nw_proto={}", ip.proto));
        if !later {
            known.proto = Some(ip.proto);
            transport(ip, dice, words);
        }
    }
}

fn transport(ip: &Ip, dice: &mut Dice, words: &mut Vec<String>) {
    match ip.proto {
        TCP | UDP | SCTP => {
            for (field, port) in [("tp_src", ip.from), ("tp_dst", ip.to)] {
                match dice.below(4) {
                    0 => words.push(format!("{field}={port}")),
                    1 => {
                        let mask = dice.of(&[0xff00_u16, 0xf000, 0xffc0, 1]);
                        words.push(format!("{field}={:#x}/{mask:#x}", port & mask));
                    }
                    _ => {}
                }
            }
            if ip.proto == TCP && dice.one_in(5) {
                let mask = dice.of(&[0x002_u16, 0x017, 0xfff]);
                words.push(format!("tcp_flags={:#x}/{mask:#x}", ip.tcp_flags & mask));
            }
        }
        proto if (ip.v6 && proto == ICMPV6) || (!ip.v6 && proto == ICMP) => {
            let name = if ip.v6 { "icmpv6" } else { "icmp" };
            if dice.one_in(2) {
                words.push(format!("{name}_type={}", ip.from));
                if dice.one_in(2) {
                    words.push(format!("{name}_code={}", ip.to));
                }
            }
        }
        _ => {}
    }
}
