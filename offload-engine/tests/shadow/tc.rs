//! Traffic control: which packets a flower filter takes, and what its actions do, after Linux 6.12's `cls_flower.c`,
//! `flow_dissector.c` and `act_*.c`. It knows nothing of the translator.

use crate::datapath::Sent;
use crate::packet::{self, IPV4, IPV6, Options, Outer, Packet, be16, fold, is_mpls, is_vlan, sum};
use netlink_wire::{Bits, Masked};
use std::net::IpAddr;
use tc_flower::action::{
    CsumFlags, Direction, MirredTarget, Mpls, MplsCommand, Pedit, PeditCommand, PeditHeader, TunnelKey,
    TunnelOptions, TunnelSet, Vlan,
};
use tc_flower::keys::{TunnelHeader, TunnelOptionKeys};
use tc_flower::{ActionKind, Control, Filter, Match};

/// What `__skb_flow_dissect()` tells, all zeros where it does not get so far.
#[derive(Default, Debug)]
struct Dissected {
    n_proto: u16,
    ip_proto: u8,
    is_fragment: bool,
    is_first: bool,
    tags: Vec<(u16, u16, u16)>,
    v4: Option<([u8; 4], [u8; 4])>,
    v6: Option<([u8; 16], [u8; 16])>,
    tos: u8,
    ttl: u8,
    ports: (u16, u16),
    tcp_flags: u16,
    icmp: (u8, u8),
    arp: Arp,
    lse: Option<u32>,
}

#[derive(Default, Debug)]
struct Arp {
    sip: [u8; 4],
    tip: [u8; 4],
    op: u8,
    sha: [u8; 6],
    tha: [u8; 6],
}

/// The type that TC chooses a priority by: that of the outermost tag, if there is one.
fn protocol(bytes: &[u8]) -> u16 {
    match be16(bytes, 12).unwrap_or(0) {
        length if length < 0x600 => 0x0004,
        ethertype => ethertype,
    }
}

/// With `FLOW_DISSECTOR_F_STOP_BEFORE_ENCAP`, as `fl_classify()` asks.
fn dissect(bytes: &[u8]) -> Dissected {
    let mut to = Dissected::default();
    let (mut proto, mut at) = (protocol(bytes), 14);
    while is_vlan(proto) {
        let tci = be16(bytes, at).unwrap_or(0);
        let next = be16(bytes, at + 2).unwrap_or(0);
        if to.tags.len() < 2 {
            to.tags.push((proto, tci, next));
        }
        (proto, at) = (next, at + 4);
    }
    to.n_proto = proto;
    let l3 = &bytes[at..];
    match proto {
        IPV4 => dissect_ipv4(&mut to, l3),
        IPV6 => dissect_ipv6(&mut to, l3),
        packet::ARP | packet::RARP => dissect_arp(&mut to, l3),
        _ if is_mpls(proto) => to.lse = Some(u32::from_be_bytes([l3[0], l3[1], l3[2], l3[3]])),
        _ => {}
    }
    to
}

fn dissect_ipv4(to: &mut Dissected, l3: &[u8]) {
    to.v4 = Some((l3[12..16].try_into().unwrap(), l3[16..20].try_into().unwrap()));
    (to.ip_proto, to.tos, to.ttl) = (l3[9], l3[1], l3[8]);
    let fragment = be16(l3, 6).unwrap_or(0);
    if fragment & 0x3fff != 0 {
        (to.is_fragment, to.is_first) = (true, fragment & 0x1fff == 0);
        return;
    }
    dissect_l4(to, &l3[usize::from(l3[0] & 15) * 4..]);
}

fn dissect_ipv6(to: &mut Dissected, l3: &[u8]) {
    to.v6 = Some((l3[8..24].try_into().unwrap(), l3[24..40].try_into().unwrap()));
    let word = u32::from_be_bytes([l3[0], l3[1], l3[2], l3[3]]);
    (to.ip_proto, to.tos, to.ttl) = (l3[6], (word >> 20) as u8, l3[7]);
    let mut at = 40;
    loop {
        match to.ip_proto {
            0 | 43 | 60 => (to.ip_proto, at) = (l3[at], at + (usize::from(l3[at + 1]) + 1) * 8),
            44 => {
                to.is_fragment = true;
                to.is_first = be16(l3, at + 2).unwrap_or(0) & 0xfff8 == 0;
                to.ip_proto = l3[at];
                return;
            }
            _ => return dissect_l4(to, &l3[at..]),
        }
    }
}

fn dissect_l4(to: &mut Dissected, l4: &[u8]) {
    match to.ip_proto {
        packet::TCP | packet::UDP | packet::SCTP | 33 | 50 | 136 => {
            to.ports = (be16(l4, 0).unwrap_or(0), be16(l4, 2).unwrap_or(0));
            if to.ip_proto == packet::TCP {
                to.tcp_flags = be16(l4, 12).unwrap_or(0) & 0xfff;
            }
        }
        packet::ICMP | packet::ICMPV6 => to.icmp = (l4[0], l4[1]),
        // `case IPPROTO_MPLS`: on with what is behind.
        137 => to.n_proto = packet::MPLS,
        _ => {}
    }
}

fn dissect_arp(to: &mut Dissected, l3: &[u8]) {
    let op = be16(l3, 6).unwrap_or(0);
    if l3[..6] != [0, 1, 8, 0, 6, 4] || !matches!(op, 1 | 2) {
        return;
    }
    to.arp = Arp {
        sip: l3[14..18].try_into().unwrap(),
        tip: l3[24..28].try_into().unwrap(),
        op: op as u8,
        sha: l3[8..14].try_into().unwrap(),
        tha: l3[18..24].try_into().unwrap(),
    };
}

fn fits<T: Bits>(key: Option<Masked<T>>, value: T) -> bool {
    key.is_none_or(|key| key.matches(value))
}

fn is<T: PartialEq>(key: Option<T>, value: T) -> bool {
    key.is_none_or(|key| key == value)
}

/// `fl_classify()`, after `tcf_classify()` chose the priority.
pub(crate) fn takes(filter: &Filter, packet: &Packet) -> bool {
    let bytes = &packet.bytes;
    let got = dissect(bytes);
    let keys = &filter.keys;
    assert!(keys.ports.is_empty() && keys.ct.is_empty() && keys.other.is_empty(), "modelled: {keys:?}");
    let mac = |at: usize| tc_flower::MacAddr(bytes[at..at + 6].try_into().unwrap());
    protocol(bytes) == filter.address.protocol.0
        && fits(keys.eth.dst, mac(0))
        && fits(keys.eth.src, mac(6))
        && takes_type(filter, &got)
        && takes_network(keys, &got)
        && takes_transport(keys, &got)
        && takes_outer(keys, packet.outer.as_ref())
}

fn takes_type(filter: &Filter, got: &Dissected) -> bool {
    let keys = &filter.keys;
    if !filter.address.protocol.is_vlan() {
        return is(keys.eth.ethertype.map(|ethertype| ethertype.0), got.n_proto);
    }
    let tag = |at: usize, tpid: u16, id, prio, next: Option<u16>| {
        let (got_tpid, tci, got_next) = got.tags.get(at).copied().unwrap_or_default();
        got_tpid == tpid && is(id, tci & 0xfff) && is(prio, (tci >> 13) as u8) && is(next, got_next)
    };
    let (vlan, cvlan) = (&keys.vlan, &keys.cvlan);
    let next = vlan.ethertype.map(|ethertype| ethertype.0);
    let outer = tag(0, filter.address.protocol.0, vlan.id, vlan.prio, next);
    match next {
        Some(tpid) if is_vlan(tpid) => {
            let next = cvlan.ethertype.map(|ethertype| ethertype.0);
            outer && tag(1, tpid, cvlan.id, cvlan.prio, next) && is(next, got.n_proto)
        }
        next => outer && is(next, got.n_proto),
    }
}

fn takes_network(keys: &Match, got: &Dissected) -> bool {
    let (v4, v6, arp) = (&keys.ipv4, &keys.ipv6, &keys.arp);
    let addresses = match (v4.is_empty(), v6.is_empty()) {
        (true, true) => true,
        (false, _) => got.v4.is_some_and(|(src, dst)| fits(v4.src, src.into()) && fits(v4.dst, dst.into())),
        (_, false) => got.v6.is_some_and(|(src, dst)| fits(v6.src, src.into()) && fits(v6.dst, dst.into())),
    };
    let flags = u32::from(got.is_fragment) | u32::from(got.is_first) << 1;
    let lse = |shift: u32, ones: u32| got.lse.map(|lse| lse >> shift & ones);
    let mpls = |key: Option<u32>, part: Option<u32>| key.is_none_or(|key| part == Some(key));
    addresses
        && is(keys.ip.proto, got.ip_proto)
        && fits(keys.ip.tos, got.tos)
        && fits(keys.ip.ttl, got.ttl)
        && fits(keys.ip.flags, flags)
        && fits(arp.sip, got.arp.sip.into())
        && fits(arp.tip, got.arp.tip.into())
        && fits(arp.op, got.arp.op)
        && fits(arp.sha, tc_flower::MacAddr(got.arp.sha))
        && fits(arp.tha, tc_flower::MacAddr(got.arp.tha))
        && mpls(keys.mpls.label, lse(12, 0xfffff))
        && mpls(keys.mpls.tc.map(u32::from), lse(9, 7))
        && mpls(keys.mpls.bos.map(u32::from), lse(8, 1))
        && mpls(keys.mpls.ttl.map(u32::from), lse(0, 0xff))
}

fn takes_transport(keys: &Match, got: &Dissected) -> bool {
    // `fl_set_key()` takes ports of a protocol only where the filter asks for the protocol.
    let is_asked = |proto: u8, empty: bool| empty || keys.ip.proto == Some(proto);
    assert!(
        is_asked(packet::TCP, keys.tcp.is_empty()) && is_asked(packet::UDP, keys.udp.is_empty()),
        "{keys:?}"
    );
    assert!(is_asked(packet::SCTP, keys.sctp.is_empty()), "{keys:?}");
    let ports = |src, dst| fits(src, got.ports.0) && fits(dst, got.ports.1);
    let types = |kind, code| fits(kind, got.icmp.0) && fits(code, got.icmp.1);
    ports(keys.tcp.src, keys.tcp.dst)
        && ports(keys.udp.src, keys.udp.dst)
        && ports(keys.sctp.src, keys.sctp.dst)
        && fits(keys.tcp.flags, got.tcp_flags)
        && types(keys.icmp.kind, keys.icmp.code)
        && types(keys.icmpv6.kind, keys.icmpv6.code)
}

fn takes_outer(keys: &Match, outer: Option<&Outer>) -> bool {
    let TunnelHeader { id, ipv4_src, ipv4_dst, ipv6_src, ipv6_dst, src_port, dst_port, tos, ttl, flags } =
        keys.tunnel.header;
    if keys.tunnel.is_empty() {
        return true;
    }
    let Some(outer) = outer else { return false };
    let ends = match (outer.src, outer.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            ipv6_src.is_none() && ipv6_dst.is_none() && fits(ipv4_src, src) && fits(ipv4_dst, dst)
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            ipv4_src.is_none() && ipv4_dst.is_none() && fits(ipv6_src, src) && fits(ipv6_dst, dst)
        }
        _ => false,
    };
    let got_flags = u32::from(outer.csum) << 2 | u32::from(outer.df) << 3 | u32::from(outer.oam) << 4;
    ends && is(id, outer.id.unwrap_or(0) as u32)
        && fits(tos, outer.tos)
        && fits(ttl, outer.ttl)
        && fits(src_port, outer.tp_src)
        && fits(dst_port, outer.tp_dst)
        && fits(flags, got_flags)
        && takes_options(&keys.tunnel.options, outer)
}

/// `fl_set_enc_opt()` and the comparison: the bytes of all options, lengths under themselves as a mask.
fn takes_options(keys: &TunnelOptionKeys, outer: &Outer) -> bool {
    let (value, mask) = match (keys, &outer.options) {
        (TunnelOptionKeys::None, _) => return true,
        (TunnelOptionKeys::VxlanGbp(key), Options::Gbp(_)) => {
            (key.value.to_ne_bytes().to_vec(), key.mask.to_ne_bytes().to_vec())
        }
        (TunnelOptionKeys::Geneve(keys), Options::Geneve(_)) => {
            let (mut value, mut mask) = (Vec::new(), Vec::new());
            for key in keys {
                let words = (key.data.len() / 4) as u8;
                value.extend(key.class.value.to_be_bytes());
                value.extend([key.kind.value, words]);
                value.extend(&key.data);
                mask.extend(key.class.mask.to_be_bytes());
                mask.extend([key.kind.mask, words]);
                mask.extend(&key.data_mask);
            }
            (value, mask)
        }
        _ => return false,
    };
    let got = outer.option_bytes();
    let byte = |at: usize| got.get(at).copied().unwrap_or(0);
    got.len() & value.len() == value.len()
        && value.iter().zip(&mask).enumerate().all(|(at, (value, mask))| byte(at) & mask == value & mask)
}

// --- doing it -----------------------------------------------------------------------------------------------------

/// `tcf_exts_exec()` of a packet that came in by a NIC's port.
pub(crate) fn execute(filter: &Filter, packet: &Packet, is_tunnel: impl Fn(u32) -> bool) -> Vec<Sent> {
    let (mut bytes, mut through, mut sent) = (packet.bytes.clone(), None, Vec::new());
    // The tunnel it came out of, which nothing may be sent with.
    let mut came_through = packet.outer.is_some();
    for action in &filter.actions {
        match &action.kind {
            ActionKind::Mirred(mirred) => {
                let MirredTarget::Device(device) = mirred.target else { panic!("a block") };
                assert_eq!(mirred.direction == Direction::Ingress, device.0 == 100, "internal ports alone");
                assert!(!came_through, "it would be sent back through the tunnel it came out of");
                let port = device.0 - 100;
                let through = is_tunnel(port).then(|| through.clone()).flatten();
                sent.push(Sent { port, through, bytes: bytes.clone() });
            }
            ActionKind::Gact(_) => {}
            ActionKind::Skbedit(skbedit) => assert_eq!(skbedit.packet_type, Some(0)),
            ActionKind::TunnelKey(TunnelKey::Release) => (came_through, through) = (false, None),
            ActionKind::TunnelKey(TunnelKey::Set(set)) => {
                (came_through, through) = (false, Some(outer_of(set)))
            }
            ActionKind::Vlan(Vlan::Push { id, protocol, prio }) => {
                let tci = id | u16::from(prio.unwrap_or(0)) << 13;
                let tpid = protocol.map_or(0x8100, |protocol| protocol.0);
                bytes.splice(12..12, [tpid.to_be_bytes(), tci.to_be_bytes()].concat());
            }
            ActionKind::Vlan(Vlan::Pop) => {
                if is_vlan(protocol(&bytes)) {
                    bytes.drain(12..16);
                }
            }
            ActionKind::Mpls(mpls) => change_labels(mpls, &mut bytes),
            ActionKind::Pedit(pedit) => rewrite(pedit, &mut bytes),
            ActionKind::Csum(csum) => checksums(csum.update, &mut bytes),
            other => panic!("not modelled: {other:?}"),
        }
        match action.control {
            Control::Pipe => {}
            Control::Stolen | Control::Drop => return sent,
            other => panic!("not modelled: {other:?}"),
        }
    }
    panic!("the packet passes on: {filter:?}")
}

fn outer_of(set: &TunnelSet) -> Outer {
    let end = |v4: Option<std::net::Ipv4Addr>, v6: Option<std::net::Ipv6Addr>| -> IpAddr {
        v4.map(IpAddr::V4).or(v6.map(IpAddr::V6)).expect("both ends are there")
    };
    Outer {
        id: set.id.map(u64::from),
        src: end(set.ipv4_src, set.ipv6_src),
        dst: end(set.ipv4_dst, set.ipv6_dst),
        tos: set.tos.unwrap_or(0),
        ttl: set.ttl.unwrap_or(0),
        tp_src: 0,
        tp_dst: set.dst_port.unwrap_or(0),
        csum: set.no_csum != Some(true),
        df: set.no_frag,
        oam: false,
        options: match &set.options {
            TunnelOptions::None => Options::None,
            TunnelOptions::VxlanGbp(gbp) => Options::Gbp(*gbp),
            TunnelOptions::Geneve(options) => Options::Geneve(
                options
                    .iter()
                    .flat_map(|option| {
                        let words = (option.data.len() / 4) as u8;
                        let mut bytes = option.class.to_be_bytes().to_vec();
                        bytes.extend([option.kind, words]);
                        bytes.extend(&option.data);
                        bytes
                    })
                    .collect(),
            ),
        },
    }
}

/// `tcf_mpls_act()`
fn change_labels(mpls: &Mpls, bytes: &mut Vec<u8>) {
    assert_ne!(mpls.ttl, Some(0), "`mpls_policy`");
    let lse = |mut lse: u32| {
        let parts = [
            (mpls.label, 12, 0xfffff),
            (mpls.tc.map(u32::from), 9, 7),
            (mpls.bos.map(u32::from), 8, 1),
            (mpls.ttl.map(u32::from), 0, 0xff_u32),
        ];
        for (part, shift, ones) in parts {
            if let Some(part) = part {
                lse = lse & !(ones << shift) | part << shift;
            }
        }
        lse
    };
    let set_type =
        |bytes: &mut Vec<u8>, ethertype: u16| bytes[12..14].copy_from_slice(&ethertype.to_be_bytes());
    let protocol = mpls.protocol.map(|protocol| protocol.0);
    match mpls.command {
        MplsCommand::Push => {
            bytes.splice(14..14, lse(0).to_be_bytes());
            set_type(bytes, protocol.unwrap());
        }
        MplsCommand::Pop => {
            bytes.drain(14..18);
            set_type(bytes, protocol.unwrap());
        }
        MplsCommand::Modify => {
            let old = u32::from_be_bytes(bytes[14..18].try_into().unwrap());
            bytes[14..18].copy_from_slice(&lse(old).to_be_bytes());
        }
        other => panic!("not modelled: {other:?}"),
    }
}

/// Where TC has the network header: behind one tag, which is not among the bytes, however many there are.
fn network(bytes: &[u8]) -> (u16, usize) {
    match protocol(bytes) {
        tpid if is_vlan(tpid) => (be16(bytes, 16).unwrap_or(0), 18),
        ethertype => (ethertype, 14),
    }
}

/// `tcf_pedit_act()`
fn rewrite(pedit: &Pedit, bytes: &mut [u8]) {
    let (ethertype, network) = network(bytes);
    for key in &pedit.keys {
        assert_eq!((key.command, key.offset % 4), (PeditCommand::Set, 0), "`tcf_pedit_init()`");
        let header = match key.header {
            PeditHeader::Eth => Some(0),
            PeditHeader::Ipv4 | PeditHeader::Ipv6 | PeditHeader::Network => Some(network),
            PeditHeader::Tcp | PeditHeader::Udp => match ethertype {
                IPV4 => Some(network + usize::from(bytes[network] & 15) * 4),
                IPV6 => behind_ipv6(&bytes[network..]).map(|(_, at)| network + at),
                _ => None,
            },
        };
        let Some(header) = header else { return };
        let at = header + key.offset as usize;
        for (byte, (keep, value)) in bytes[at..at + 4].iter_mut().zip(key.keep.iter().zip(key.value)) {
            *byte = (*byte & keep) ^ value;
        }
    }
}

/// The protocol behind the extension headers; nothing of a fragment.
fn behind_ipv6(l3: &[u8]) -> Option<(u8, usize)> {
    let (mut next, mut at) = (l3[6], 40);
    loop {
        match next {
            0 | 43 | 60 => (next, at) = (l3[at], at + (usize::from(l3[at + 1]) + 1) * 8),
            44 => return None,
            _ => return Some((next, at)),
        }
    }
}

/// `tcf_csum_act()`: anew, over what there is.
fn checksums(update: CsumFlags, bytes: &mut [u8]) {
    let (mut ethertype, mut at) = (protocol(bytes), 14);
    while is_vlan(ethertype) {
        (ethertype, at) = (be16(bytes, at + 2).unwrap_or(0), at + 4);
    }
    let l3 = &mut bytes[at..];
    match ethertype {
        IPV4 => {
            let (length, total) = (usize::from(l3[0] & 15) * 4, usize::from(be16(l3, 2).unwrap_or(0)));
            let addresses = l3[12..20].to_vec();
            if be16(l3, 6).unwrap_or(0) & 0x1fff == 0 {
                let proto = l3[9];
                transport_checksum(update, proto, &addresses, &mut l3[length..total], false);
            }
            if update.contains(CsumFlags::IPV4) {
                l3[10..12].fill(0);
                let check = !fold(sum(&l3[..length], 0));
                l3[10..12].copy_from_slice(&check.to_be_bytes());
            }
        }
        IPV6 => {
            let Some((proto, at)) = behind_ipv6(l3) else { return };
            let end = 40 + usize::from(be16(l3, 4).unwrap_or(0));
            let addresses = l3[8..40].to_vec();
            transport_checksum(update, proto, &addresses, &mut l3[at..end], true);
        }
        _ => {}
    }
}

fn transport_checksum(update: CsumFlags, proto: u8, addresses: &[u8], l4: &mut [u8], is_v6: bool) {
    let (flag, at) = match proto {
        packet::TCP => (CsumFlags::TCP, 16),
        packet::UDP => (CsumFlags::UDP, 6),
        packet::ICMPV6 if is_v6 => (CsumFlags::ICMP, 2),
        136 => (CsumFlags::UDPLITE, 6),
        _ => return,
    };
    if !update.contains(flag) || (proto == packet::UDP && l4[at..at + 2] == [0, 0]) {
        return;
    }
    l4[at..at + 2].fill(0);
    let pseudo = sum(addresses, u32::from(proto) + l4.len() as u32);
    let check = match (!fold(sum(l4, pseudo)), proto) {
        (0, packet::UDP) => 0xffff,
        (check, _) => check,
    };
    l4[at..at + 2].copy_from_slice(&check.to_be_bytes());
}
