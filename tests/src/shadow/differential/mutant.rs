//! Packets that are nearly another: one thing about them differs, or their bytes are damaged.

use super::dice::Dice;
use super::packet::{self, Body, Damage, Ip, Packet};

/// One like `packet` in all but one thing.
pub(super) fn of(packet: &Packet, dice: &mut Dice) -> Packet {
    let mut mutant = packet.clone();
    match dice.below(12) {
        0 => mutant.dst = packet::mac(dice),
        1 => mutant.src = packet::mac(dice),
        2 => retag(&mut mutant, dice),
        3 => damage(&mut mutant, dice),
        4 if mutant.outer.is_some() => {
            if let Some(outer) = &mut mutant.outer {
                outer.mutate(dice);
            }
        }
        _ => rebody(&mut mutant, dice),
    }
    mutant
}

fn retag(packet: &mut Packet, dice: &mut Dice) {
    match (dice.below(4), packet.tags.len()) {
        (0, 0..=2) => packet.tags.insert(0, packet::tag(dice)),
        (1, 1..) => drop(packet.tags.remove(0)),
        (_, 1..) => {
            let at = dice.below(packet.tags.len());
            packet.tags[at] = packet::tag(dice);
        }
        _ => packet.tags.push(packet::tag(dice)),
    }
}

fn damage(packet: &mut Packet, dice: &mut Dice) {
    let tags = 4 * packet.tags.len();
    packet.damage = match dice.below(8) {
        // In the tags, behind the Ethernet header, in each header that may follow.
        0 | 1 => Damage::Cut(dice.of(&[
            14,
            16,
            18,
            14 + tags,
            20 + tags,
            30 + tags,
            34 + tags,
            38 + tags,
            46 + tags,
            56 + tags,
        ])),
        2 | 3 => Damage::Padded(dice.of(&[1, 6, 18])),
        4..=6 => {
            Damage::Byte(12 + dice.below(50 + tags), dice.of(&[0, 1, 4, 0x45, 0x46, 0x4f, 0x60, 0x81, 0xff]))
        }
        _ => Damage::Checksum,
    };
}

fn rebody(packet: &mut Packet, dice: &mut Dice) {
    match &mut packet.body {
        Body::Ip(ip) => reip(ip, dice),
        Body::Arp(arp) => match dice.below(7) {
            0 => arp.op = dice.of(&[1, 2, 3, 0, 256, 257, 0xffff]),
            1 => arp.spa = packet::v4(dice),
            2 => arp.tpa = packet::v4(dice),
            3 => arp.sha = packet::mac(dice),
            4 => arp.tha = packet::mac(dice),
            5 => arp.hardware = dice.of(&[1, 6, 0]),
            _ => arp.ethertype = dice.of(&[packet::ARP, packet::RARP]),
        },
        Body::Mpls { ethertype, stack, inner } => match dice.below(5) {
            0 => *ethertype = dice.of(&[packet::MPLS, packet::MPLS_MULTICAST]),
            1 => stack.insert(0, packet::entry(dice, false)),
            2 => reip(inner, dice),
            _ => {
                let (at, last) = (dice.below(stack.len()), stack.len() - 1);
                stack[at] = packet::entry(dice, at == last);
            }
        },
        Body::Other(_) => packet.body = Packet::draw(dice).body,
    }
}

fn reip(ip: &mut Ip, dice: &mut Dice) {
    match dice.below(12) {
        0 => ip.src = packet::address(dice, ip.v6),
        1 => ip.dst = packet::address(dice, ip.v6),
        2 => ip.tos = dice.of(&[0, 1, 2, 3, 4, 0x28, 0xb8, 0xff]),
        3 => ip.ttl = packet::ttl(dice),
        4 => ip.fragment = dice.of(&[0, 0x4000, 0x2000, 0x2001, 0x0001, 0x1fff, 0x3fff, 0x8000]),
        5 => {
            ip.proto = dice.of(&[
                packet::TCP,
                packet::UDP,
                packet::SCTP,
                packet::ICMP,
                packet::ICMPV6,
                0,
                47,
                255,
                137,
            ])
        }
        6 => ip.options = dice.of(&[0, 1, 2, 10]),
        7 => ip.tcp_flags = dice.of(&[0, 1, 2, 4, 0x10, 0x12, 0x100, 0xfff]),
        8 => ip.no_checksum = !ip.no_checksum,
        9 => ip.label = dice.of(&[0, 1, 0xfffff]),
        10 => ip.from = packet::port(dice) ^ dice.of(&[0, 1, 0x8000]),
        _ => ip.to = packet::port(dice) ^ dice.of(&[0, 1, 0x8000]),
    }
}
