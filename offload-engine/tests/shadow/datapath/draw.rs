//! Megaflows as Open vSwitch makes them, and what the kernel lets in of them.

use super::{
    Act, CSUM, DF, ETHERNET_ATTR, Field, Field as F, GENEVE, IPV4_ATTR, IPV6_ATTR, KEY, Key, MPLS_ATTR,
    Megaflow, OAM, SCTP_ATTR, TCP_ATTR, UDP_ATTR, VXLAN, extract, range,
};
use crate::choices::Choices;
use crate::packet::{self, IPV4, IPV6, Outer, Packet, is_mpls};

/// A megaflow that takes `packet`, as Open vSwitch makes them: the kernel always matches tags, and so on.
pub(crate) fn draw(choices: &mut Choices, packet: &Packet) -> Megaflow {
    let key = extract(packet);
    let mut mask = Key::default();
    for field in [F::InPort, F::EthType, F::Tci, F::InnerTci, F::TunProto] {
        mask.fill(field);
    }
    draw_tags(choices, &key, &mut mask);
    draw_outer(choices, &key, &mut mask);
    let thing = key.number(F::EthType) as u16;
    let mut fields = vec![F::EthSrc, F::EthDst];
    match thing {
        IPV4 => fields.extend([F::Tos, F::Ttl, F::Src4, F::Dst4]),
        IPV6 => fields.extend([F::Tos, F::Ttl, F::Src6, F::Dst6]),
        packet::ARP | packet::RARP => fields.extend([F::Proto, F::Src4, F::Dst4, F::Sha, F::Tha]),
        _ => {}
    }
    for field in fields {
        draw_mask(choices, &mut mask, field);
    }
    if matches!(thing, IPV4 | IPV6) {
        if !choices.one_in(20) {
            mask.fill(F::Frag);
        }
        if choices.one_in(40) {
            mask.fill(F::Label);
        }
        if choices.below(5) != 0 {
            mask.fill(F::Proto);
            draw_transport(choices, &key, &mut mask);
        }
    }
    if is_mpls(thing) {
        draw_labels(choices, &key, &mut mask);
    }
    if choices.one_in(8) {
        mask.fill(choices.of(&[F::Mark, F::Priority, F::DpHash, F::CtState]));
    }
    let key = key.masked(&mask);
    let actions = draw_actions(choices, packet, &key);
    Megaflow { key, mask, actions }
}

fn draw_mask(choices: &mut Choices, mask: &mut Key, field: Field) {
    match choices.below(5) {
        0 | 1 => {}
        2 | 3 => mask.fill(field),
        _ => {
            let range = range(field);
            let first = choices.of(&[0xff_u8, 0xf0, 0x03]);
            mask.0[range.start] = first;
            if range.len() > 2 && choices.one_in(2) {
                mask.0[range.start + 1..range.end - 1].fill(0xff);
            }
        }
    }
}

fn draw_tags(choices: &mut Choices, key: &Key, mask: &mut Key) {
    for (tpid, tci) in [(F::Tpid, F::Tci), (F::InnerTpid, F::InnerTci)] {
        if key.number(tci) != 0 {
            mask.fill(tpid);
            let bits = choices.of(&[0xffff_u16, 0x1fff, 0xf000, 0x1000, 0x10ff, 0x3fff]);
            mask.set(tci, &bits.to_be_bytes());
        }
    }
}

fn draw_outer(choices: &mut Choices, key: &Key, mask: &mut Key) {
    if key.number(F::TunProto) == 0 {
        if choices.one_in(10) {
            mask.fill(choices.of(&[F::TunId, F::TunTos, F::TunTpSrc, F::TunFlags]));
            let flags = mask.get(F::TunFlags)[0] & (KEY | CSUM | DF | OAM);
            mask.set(F::TunFlags, &[flags | if mask.number(F::TunId) != 0 { KEY } else { 0 }]);
        }
        return;
    }
    let (src, dst) = match key.number(F::TunProto) {
        2 => (F::TunSrc4, F::TunDst4),
        _ => (F::TunSrc6, F::TunDst6),
    };
    for field in [src, dst] {
        if !choices.one_in(8) {
            mask.fill(field);
        }
    }
    let mut flags = choices.of(&[KEY, KEY | CSUM | DF, KEY | OAM, CSUM, 0]);
    if flags & KEY != 0 && !choices.one_in(8) {
        mask.fill(F::TunId);
        if choices.one_in(20) {
            mask.set(F::TunId, &[0, 0, 0, 0, 0, 0, 0xff, 0]);
        }
    }
    for field in [F::TunTos, F::TunTtl, F::TunTpSrc, F::TunTpDst] {
        draw_mask(choices, mask, field);
    }
    let options = key.get(F::TunFlags)[0] & (GENEVE | VXLAN);
    if options != 0 && !choices.one_in(5) {
        flags |= options;
        mask.fill(F::OptsLen);
        let start = range(F::Opts).start;
        for word in 0..key.number(F::OptsLen) as usize / 4 {
            let bits = choices.of(&[[0xff; 4], [0xff; 4], [0; 4], [0xff, 0xff, 0xff, 0], [0, 0xff, 0, 0xff]]);
            mask.0[start + word * 4..start + word * 4 + 4].copy_from_slice(&bits);
        }
    }
    mask.set(F::TunFlags, &[flags]);
}

fn draw_transport(choices: &mut Choices, key: &Key, mask: &mut Key) {
    if key.number(F::Frag) == 2 && mask.number(F::Frag) != 0 {
        return;
    }
    let fields: &[Field] = match (key.number(F::Proto) as u8, key.number(F::EthType) as u16) {
        (packet::TCP, _) => &[F::TpSrc, F::TpDst, F::TcpFlags],
        (packet::UDP | packet::SCTP, _) | (packet::ICMP, IPV4) => &[F::TpSrc, F::TpDst],
        (packet::ICMPV6, IPV6) => &[F::TpSrc, F::TpDst, F::NdTarget, F::NdSll],
        _ => &[],
    };
    for field in fields {
        let is_nd = matches!(field, F::NdTarget | F::NdSll);
        // `match_validate()` takes these where all of the type matters.
        let is_told = matches!(key.number(F::TpSrc), 135 | 136) && mask.number(F::TpSrc) == 0xffff;
        if !is_nd || (is_told && choices.one_in(6)) {
            draw_mask(choices, mask, *field);
        }
    }
    if mask.number(F::TcpFlags) != 0 {
        let bits = choices.of(&[0xfff_u16, 2, 0xffff]);
        mask.set(F::TcpFlags, &bits.to_be_bytes());
    }
}

fn draw_labels(choices: &mut Choices, key: &Key, mask: &mut Key) {
    let bits =
        choices.of(&[0xffff_ffff_u32, 0xffff_f000, 0x0000_0100, 0, 0x0000_0f00, 0x0000_00ff, 0x000f_f000]);
    mask.set(F::Lse0, &bits.to_be_bytes());
    let known = key.number(F::Labels) as u8;
    let labels = choices.of(&[1, 1, known]);
    mask.set(F::Labels, &[labels]);
    if labels > 1 && choices.one_in(3) {
        mask.fill(F::Lse1);
    }
}

fn draw_actions(choices: &mut Choices, packet: &Packet, key: &Key) -> Vec<Act> {
    let mut actions = Vec::new();
    for _ in 0..choices.of(&[1, 2, 3, 4, 5, 0, 8]) {
        actions.push(draw_action(choices, packet, key));
    }
    // Most lists end in an output.
    if choices.below(4) != 0 {
        actions.push(Act::Output(choices.of(&[1, 2, 3])));
    }
    actions
}

fn draw_action(choices: &mut Choices, packet: &Packet, key: &Key) -> Act {
    let ethertype = key.number(F::EthType) as u16;
    match choices.below(16) {
        0..=3 => Act::Output(choices.below(packet::PORTS.into()) as u32),
        4 => draw_set_eth(choices),
        5..=7 if ethertype == IPV4 => draw_set_ipv4(choices, key),
        5..=7 if ethertype == IPV6 => draw_set_ipv6(choices, key),
        5..=7 if is_mpls(ethertype) => {
            let mask = choices.of(&[0xffff_ffff_u32, 0xffff_f000, 0xff, 0x100, 0xf0]);
            let entry = packet::lse(choices, true) & mask;
            Act::Set(MPLS_ATTR, entry.to_be_bytes().to_vec(), Some(mask.to_be_bytes().to_vec()))
        }
        8 | 9 => {
            let attr = match packet_proto(packet) {
                packet::TCP => TCP_ATTR,
                packet::SCTP => SCTP_ATTR,
                _ => UDP_ATTR,
            };
            let ports = [packet::port(choices).to_be_bytes(), packet::port(choices).to_be_bytes()].concat();
            with_mask(
                choices,
                attr,
                ports,
                &[[0xff, 0xff, 0, 0], [0, 0, 0xff, 0xff], [0xff; 4], [0, 0xff, 0, 0]],
            )
        }
        10 => {
            let tci = choices.of(&[5_u16, 0]) | choices.of(&[0, 3]) << 13 | 0x1000;
            Act::PushVlan(choices.of(&[0x8100, 0x88a8]), tci)
        }
        11 => Act::PopVlan,
        12 => Act::PushMpls(packet::lse(choices, true), choices.of(&[packet::MPLS, packet::MPLS_MC])),
        13 => Act::PopMpls(choices.of(&[IPV4, packet::MPLS, IPV6])),
        14 => Act::SetTunnel(draw_set_tunnel(choices)),
        _ => match choices.below(6) {
            0 => Act::CtClear,
            1 => Act::Drop,
            2 => Act::DecTtl,
            3 => Act::Other(7, 5_u32.to_ne_bytes().to_vec()),
            4 => Act::Other(13, 64_u32.to_ne_bytes().to_vec()),
            _ => Act::Other(19, 1_u32.to_ne_bytes().to_vec()),
        },
    }
}

fn packet_proto(packet: &Packet) -> u8 {
    extract(packet).get(F::Proto)[0]
}

fn with_mask<const N: usize>(choices: &mut Choices, attr: u16, value: Vec<u8>, masks: &[[u8; N]]) -> Act {
    if choices.one_in(5) {
        return Act::Set(attr, value, None);
    }
    let mask = choices.of(masks);
    let value = value.iter().zip(mask).map(|(value, mask)| value & mask).collect();
    Act::Set(attr, value, Some(mask.to_vec()))
}

fn draw_set_eth(choices: &mut Choices) -> Act {
    let value = [packet::mac(choices), packet::mac(choices)].concat();
    let (ones, zeros) = ([0xff; 6], [0; 6]);
    let both = |a: [u8; 6], b: [u8; 6]| -> [u8; 12] {
        std::array::from_fn(|at| if at < 6 { a[at] } else { b[at - 6] })
    };
    let partial = [0xff, 0xff, 0xff, 0, 0, 0];
    with_mask(
        choices,
        ETHERNET_ATTR,
        value,
        &[both(ones, ones), both(ones, zeros), both(zeros, ones), both(partial, zeros)],
    )
}

fn draw_set_ipv4(choices: &mut Choices, key: &Key) -> Act {
    let mut value = [packet::v4(choices), packet::v4(choices)].concat();
    value.extend([key.get(F::Proto)[0], choices.of(&[0, 0xb8]), packet::ttl(choices), key.get(F::Frag)[0]]);
    let mask = |src: u8, dst: u8, tos: u8, ttl: u8| -> [u8; 12] {
        [src, src, src, src, dst, dst, dst, dst, 0, tos, ttl, 0]
    };
    let masks = [
        mask(0, 0, 0, 0xff),
        mask(0xff, 0, 0, 0),
        mask(0, 0xff, 0, 0xff),
        mask(0, 0, 0xfc, 0),
        mask(0x0f, 0, 0, 0),
        mask(0xff, 0xff, 0xff, 0xff),
    ];
    with_mask(choices, IPV4_ATTR, value, &masks)
}

fn draw_set_ipv6(choices: &mut Choices, key: &Key) -> Act {
    let mut value = [packet::v6(choices), packet::v6(choices)].concat();
    value.extend(choices.of(&[0_u32, 0xabcde]).to_be_bytes());
    value.extend([key.get(F::Proto)[0], choices.of(&[0, 0xb8]), packet::ttl(choices), key.get(F::Frag)[0]]);
    let mask = |src: u8, dst: u8, label: [u8; 4], class: u8, hops: u8| -> [u8; 40] {
        std::array::from_fn(|at| match at {
            ..=15 => src,
            16..=31 => dst,
            32..=35 => label[at - 32],
            37 => class,
            38 => hops,
            36 | 39.. => 0,
        })
    };
    let label = [0, 0x0f, 0xff, 0xff];
    let masks = [
        mask(0, 0, [0; 4], 0, 0xff),
        mask(0xff, 0, [0; 4], 0, 0),
        mask(0, 0xff, label, 0xff, 0xff),
        mask(0, 0, [0; 4], 0xfc, 0),
        mask(0xf0, 0, [0; 4], 0, 0),
    ];
    with_mask(choices, IPV6_ATTR, value, &masks)
}

fn draw_set_tunnel(choices: &mut Choices) -> Outer {
    let port = choices.of(&[4, 5, 6]);
    let mut outer = packet::tunnel(choices, port);
    outer.tp_src = choices.of(&[0, 0, 0, 7]);
    outer.oam = choices.one_in(10);
    outer
}

/// `__ovs_nla_copy_actions()`, for the actions that are drawn.
pub(crate) fn is_valid(megaflow: &Megaflow) -> bool {
    let key = &megaflow.key;
    let mut ethertype = key.number(F::EthType) as u16;
    let mut tagged = key.number(F::Tci) & 0x1000 != 0;
    let mut labels = if is_mpls(ethertype) { key.get(F::Labels)[0].count_ones() } else { 0 };
    let mut it = megaflow.actions.iter().peekable();
    while let Some(action) = it.next() {
        let fits = match action {
            Act::Drop => it.peek().is_none(),
            Act::PopVlan => {
                tagged = false;
                true
            }
            Act::PushVlan(..) => {
                tagged = true;
                true
            }
            Act::PushMpls(_, pushed) => {
                let before =
                    matches!(ethertype, IPV4 | IPV6 | packet::ARP | packet::RARP) || is_mpls(ethertype);
                let fits = !tagged && before;
                (ethertype, labels) = (*pushed, labels + 1);
                fits
            }
            Act::PopMpls(uncovered) => {
                let fits = !tagged && is_mpls(ethertype);
                labels = labels.wrapping_sub(1);
                ethertype = if is_mpls(*uncovered) && labels != 0 { *uncovered } else { 0 };
                fits
            }
            Act::Set(attr, value, mask) => {
                let ports = |proto: u8| matches!(ethertype, IPV4 | IPV6) && key.get(F::Proto)[0] == proto;
                let (proto, frag) = match *attr {
                    IPV4_ATTR => (value[8], value[11]),
                    IPV6_ATTR => (value[36], value[39]),
                    _ => (0, 0),
                };
                let same = mask.is_some() || (proto, frag) == (key.get(F::Proto)[0], key.get(F::Frag)[0]);
                match *attr {
                    IPV4_ATTR => ethertype == IPV4 && same,
                    IPV6_ATTR => ethertype == IPV6 && same,
                    TCP_ATTR => ports(packet::TCP),
                    UDP_ATTR => ports(packet::UDP),
                    SCTP_ATTR => ports(packet::SCTP),
                    MPLS_ATTR => is_mpls(ethertype),
                    _ => true,
                }
            }
            // `ip_tun_from_nlattr()`: an end has to be set.
            Act::SetTunnel(outer) => !outer.dst.is_unspecified(),
            _ => true,
        };
        if !fits {
            return false;
        }
    }
    true
}
