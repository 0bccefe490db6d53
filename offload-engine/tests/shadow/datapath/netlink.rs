//! A megaflow as the kernel reports it.

use super::{Act, CSUM, DF, Field, Field as F, GENEVE, KEY, Key, Megaflow, OAM, VXLAN, extract_outer};
use crate::packet::{self, IPV4, IPV6, Outer, is_mpls, is_vlan};
use netlink_wire::{MessageWriter, Seq};

/// `OVS_FLOW_CMD_NEW` of it, as the kernel reports it.
pub(crate) fn message(megaflow: &Megaflow, ufid: [u8; 16]) -> Vec<u8> {
    let mut writer = MessageWriter::new(38, 0, Seq(1));
    writer.fixed(&[1, 1, 0, 0]);
    writer.fixed(&3_u32.to_ne_bytes());
    writer.put(9, &ufid);
    writer.nest(1, |writer| put_key(writer, &megaflow.key, &megaflow.key, false));
    writer.nest(7, |writer| put_key(writer, &megaflow.key, &megaflow.mask, true));
    writer.nest(2, |writer| megaflow.actions.iter().for_each(|action| put_action(writer, action)));
    writer.finish().expect("a megaflow fits")
}

/// `__ovs_nla_put_key()`
fn put_key(writer: &mut MessageWriter, key: &Key, out: &Key, is_mask: bool) {
    let host = |field| (out.number(field) as u32).to_ne_bytes();
    writer.put(20, &[if is_mask { 0xff } else { 0 }; 4]);
    writer.put(19, &host(F::DpHash));
    writer.put(2, &host(F::Priority));
    if key.number(F::TunProto) != 0 || is_mask {
        writer.nest(16, |writer| put_outer(writer, key, out));
    }
    writer.put(3, &host(F::InPort));
    writer.put(15, &host(F::Mark));
    writer.put(22, &host(F::CtState));
    writer.put(4, &[out.get(F::EthSrc), out.get(F::EthDst)].concat());
    let tagged = |field| key.number(field) != 0;
    if !tagged(F::Tci) {
        return put_rest(writer, key, out, is_mask);
    }
    put_tag(writer, out, F::Tpid, F::Tci, is_mask);
    writer.nest(1, |writer| {
        if !tagged(F::InnerTci) {
            return put_rest(writer, key, out, is_mask);
        }
        put_tag(writer, out, F::InnerTpid, F::InnerTci, is_mask);
        writer.nest(1, |writer| put_rest(writer, key, out, is_mask));
    });
}

fn put_tag(writer: &mut MessageWriter, out: &Key, tpid: Field, tci: Field, is_mask: bool) {
    // `ovs_nla_put_vlan()`
    writer.put(6, if is_mask { &[0xff, 0xff] } else { out.get(tpid) });
    writer.put(5, out.get(tci));
}

fn put_outer(writer: &mut MessageWriter, key: &Key, out: &Key) {
    let flags = out.get(F::TunFlags)[0];
    if flags & KEY != 0 {
        writer.put(0, out.get(F::TunId));
    }
    let ends: &[(u16, Field)] = match key.number(F::TunProto) {
        2 => &[(1, F::TunSrc4), (2, F::TunDst4)],
        10 => &[(12, F::TunSrc6), (13, F::TunDst6)],
        _ => &[],
    };
    let some = |field| out.get(field).iter().any(|byte| *byte != 0);
    for (attr, field) in ends.iter().copied().chain([(3, F::TunTos), (9, F::TunTpSrc), (10, F::TunTpDst)]) {
        if some(field) {
            writer.put(attr, out.get(field));
        }
    }
    writer.put(4, out.get(F::TunTtl));
    for (flag, attr) in [(DF, 5), (CSUM, 6), (OAM, 7)] {
        if flags & flag != 0 {
            writer.put_flag(attr);
        }
    }
    let length = key.number(F::OptsLen) as usize;
    let options = &out.get(F::Opts)[..length];
    if length != 0 && flags & GENEVE != 0 {
        writer.put(8, options);
    } else if length != 0 && flags & VXLAN != 0 {
        writer.nest(11, |writer| writer.put(1, options));
    }
}

fn put_rest(writer: &mut MessageWriter, key: &Key, out: &Key, is_mask: bool) {
    let ethertype = key.number(F::EthType) as u16;
    if ethertype != 0x0004 || is_mask {
        writer.put(6, out.get(F::EthType));
    }
    if ethertype == 0x0004 || is_vlan(ethertype) {
        return;
    }
    let byte = |field| out.get(field)[0];
    match ethertype {
        IPV4 => {
            let bytes = [byte(F::Proto), byte(F::Tos), byte(F::Ttl), byte(F::Frag)];
            writer.put(7, &[out.get(F::Src4), out.get(F::Dst4), &bytes].concat());
        }
        IPV6 => {
            let bytes = [byte(F::Proto), byte(F::Tos), byte(F::Ttl), byte(F::Frag)];
            writer.put(8, &[out.get(F::Src6), out.get(F::Dst6), out.get(F::Label), &bytes].concat());
            writer.put(32, &[0, 0]);
        }
        packet::ARP | packet::RARP => {
            let op = [0, byte(F::Proto)];
            let parts = [out.get(F::Src4), out.get(F::Dst4), &op, out.get(F::Sha), out.get(F::Tha), &[0, 0]];
            writer.put(13, &parts.concat());
        }
        _ if is_mpls(ethertype) => {
            let entries = [out.get(F::Lse0), out.get(F::Lse1), out.get(F::Lse2)].concat();
            writer.put(21, &entries[..byte(F::Labels).count_ones() as usize * 4]);
        }
        _ => {}
    }
    if matches!(ethertype, IPV4 | IPV6) && key.get(F::Frag)[0] != 2 {
        put_transport(writer, key, out, ethertype);
    }
}

fn put_transport(writer: &mut MessageWriter, key: &Key, out: &Key, ethertype: u16) {
    let ports = [out.get(F::TpSrc), out.get(F::TpDst)].concat();
    let types = [out.get(F::TpSrc)[1], out.get(F::TpDst)[1]];
    match (key.get(F::Proto)[0], ethertype) {
        (packet::TCP, _) => {
            writer.put(9, &ports);
            writer.put(18, out.get(F::TcpFlags));
        }
        (packet::UDP, _) => writer.put(10, &ports),
        (packet::SCTP, _) => writer.put(17, &ports),
        (packet::ICMP, IPV4) => writer.put(11, &types),
        (packet::ICMPV6, IPV6) => {
            writer.put(12, &types);
            if matches!(key.number(F::TpSrc), 135 | 136) {
                writer.put(14, &[out.get(F::NdTarget), out.get(F::NdSll), out.get(F::NdTll)].concat());
            }
        }
        _ => {}
    }
}

fn put_action(writer: &mut MessageWriter, action: &Act) {
    match action {
        Act::Output(port) => writer.put_u32(1, *port),
        Act::Set(attr, value, None) => writer.nest(3, |writer| writer.put(*attr, value)),
        Act::Set(attr, value, Some(mask)) => {
            writer.nest(11, |writer| writer.put(*attr, &[&value[..], mask].concat()));
        }
        Act::SetTunnel(outer) => {
            writer.nest(3, |writer| writer.nest(16, |writer| put_set_tunnel(writer, outer)))
        }
        Act::PushVlan(tpid, tci) => writer.put(4, &[tpid.to_be_bytes(), tci.to_be_bytes()].concat()),
        Act::PopVlan => writer.put_flag(5),
        Act::PushMpls(lse, ethertype) => {
            writer.put(9, &[&lse.to_be_bytes()[..], &ethertype.to_be_bytes()].concat());
        }
        Act::PopMpls(ethertype) => writer.put_be16(10, *ethertype),
        Act::DecTtl => writer.nest(23, |writer| writer.nest(1, |_| {})),
        Act::CtClear => writer.put_flag(16),
        Act::Drop => writer.put_u32(24, 0),
        Act::Other(attr, payload) => writer.put(*attr, payload),
    }
}

fn put_set_tunnel(writer: &mut MessageWriter, outer: &Outer) {
    let mut key = Key::default();
    extract_outer(&mut key, outer);
    put_outer(writer, &key, &key);
}
