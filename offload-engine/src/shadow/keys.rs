//! Which packets: a megaflow's keys as flower's.
//!
//! Sources: Linux 6.12, `net/openvswitch/{flow.c,flow_netlink.c}` for what a megaflow takes, `net/sched/cls_flower.c` and
//! `net/core/flow_dissector.c` for what a filter takes.

use super::layout::RARP;
use super::tunnel;
use super::untranslatable::{Looked, Untranslatable};
use super::{Abilities, Fragment, Headers};
use crate::ports::{PortFacts, PortKind};
use netlink_wire::ovs_flow::FlowKeys;
use netlink_wire::ovs_flow::keys::{
    ArpKey, EthKey, IcmpKey, Ipv4Key, Ipv6Key, MPLS_MAX, PortsKey, VLANS_MAX, VlanKey,
};
use netlink_wire::{Bits, EtherType, Masked};
use tc_flower::Match;
use tc_flower::keys::ip::proto;
use tc_flower::keys::{
    Arp, Cvlan, Eth, FIRST_FRAGMENT, FRAGMENT, Icmp, Icmpv6, Ip, Ipv4, Ipv6, Mpls, Sctp, Tcp, Udp, Vlan,
};

/// `VLAN_CFI_MASK`: set in a megaflow's tag where a packet has one.
const TAG_PRESENT: u16 = 0x1000;
/// Ethernet types below are lengths (`ETH_P_802_3_MIN`).
const ETHERTYPE_MIN: u16 = 0x0600;
/// `OVS_FRAG_TYPE_*`
const FRAG_FIRST: u8 = 1;
const FRAG_LATER: u8 = 2;

type Outcome<T> = Result<T, Untranslatable>;

/// The match of a filter at `port`, and what is certain of the headers of its packets.
pub(super) fn of(
    keys: &FlowKeys,
    port: &PortFacts,
    kernel: Abilities,
) -> Outcome<(EtherType, Match, Headers)> {
    // By name, so that a key that is new here is not forgotten.
    let FlowKeys {
        priority,
        in_port: _,
        skb_mark,
        dp_hash,
        recirc_id: _,
        tunnel,
        ct_state,
        ct_zone,
        ct_mark,
        ct_labels,
        ct_tuple_ipv4,
        ct_tuple_ipv6,
        packet_type,
        eth,
        vlans,
        ethertype,
        mpls,
        ipv4,
        ipv6,
        ipv6_exthdrs,
        tcp,
        tcp_flags,
        udp,
        sctp,
        icmp,
        icmpv6,
        arp,
        nd,
        nsh,
        unknown,
    } = keys;
    unlooked(priority, Looked::Priority)?;
    unlooked(dp_hash, Looked::DpHash)?;
    unlooked(ipv6_exthdrs, Looked::Ipv6Extensions)?;
    // A packet that a NIC has just received, or taken out of a tunnel, is marked by nobody and of no connection yet. Open
    // vSwitch always matches the mark of packets out of tunnels.
    unset(skb_mark, Looked::Mark)?;
    unset(packet_type, Looked::PacketType)?;
    unset(ct_state, Looked::Connection)?;
    unset(ct_zone, Looked::Connection)?;
    unset(ct_mark, Looked::Connection)?;
    unset(ct_labels, Looked::Connection)?;
    let looks_at_tuple =
        ct_tuple_ipv4.is_some_and(|key| !key.is_any()) || ct_tuple_ipv6.is_some_and(|key| !key.is_any());
    refuse(looks_at_tuple, Untranslatable::NoKey(Looked::Connection))?;
    refuse(nd.is_some_and(|nd| !nd.is_any()), Untranslatable::NoKey(Looked::Nd))?;
    refuse(nsh.as_ref().is_some_and(|nsh| !nsh.is_any()), Untranslatable::NoKey(Looked::Nsh))?;
    if let Some(key) = unknown.iter().find(|key| !key.key.is_any()) {
        return Err(Untranslatable::NoKey(Looked::Unknown(key.attr)));
    }

    let mut to = Match { eth: ethernet(eth.as_ref())?, ..Match::default() };
    let ethertype = ethertype_of(ethertype)?;
    let protocol = tags(&mut to, vlans, ethertype)?;
    let mut headers = Headers {
        tags: vlans.iter().flatten().count(),
        ethertype: Some(ethertype),
        proto: None,
        ttl: None,
        fragment: Fragment::No,
        of_tunnel: port.kind == PortKind::Tunnel,
    };
    to.mpls = labels(mpls, ethertype)?;
    to.arp = address_resolution(arp.as_ref(), ethertype)?;
    match ethertype {
        EtherType::IPV4 => v4(&mut to, &mut headers, ipv4.unwrap_or_default())?,
        EtherType::IPV6 => v6(&mut to, &mut headers, ipv6.unwrap_or_default())?,
        _ => {}
    }
    let looks_at_other = (ethertype != EtherType::IPV4 && ipv4.is_some_and(|ip| !ip.is_any()))
        || (ethertype != EtherType::IPV6 && ipv6.is_some_and(|ip| !ip.is_any()));
    refuse(looks_at_other, Untranslatable::NoPacket(Looked::EtherType))?;
    let transport = Transport { tcp, tcp_flags, udp, sctp, icmp, icmpv6 };
    transport.tell(&mut to, &headers)?;
    to.tunnel = tunnel::matched(tunnel.as_ref(), port, kernel)?;
    Ok((protocol, to, headers))
}

fn refuse(when: bool, why: Untranslatable) -> Outcome<()> {
    if when { Err(why) } else { Ok(()) }
}

/// Nothing of the key may matter.
fn unlooked<T: Bits>(key: &Option<Masked<T>>, what: Looked) -> Outcome<()> {
    refuse(key.is_some_and(|key| !key.is_any()), Untranslatable::NoKey(what))
}

/// The key has to be what it is of every packet in a NIC: zero, as far as it matters.
fn unset<T: Bits>(key: &Option<Masked<T>>, what: Looked) -> Outcome<()> {
    refuse(key.is_some_and(|key| key.significant() != T::ZEROS), Untranslatable::NoKey(what))
}

/// A key that flower can have under the same mask; none where nothing of it matters.
pub(super) fn masked<T: Bits>(key: Masked<T>) -> Option<Masked<T>> {
    (!key.is_any()).then(|| Masked::new(key.significant(), key.mask))
}

/// A field of which flower takes all bits or none; `ones` are its bits.
fn whole(key: Masked<u32>, shift: u32, ones: u32, what: Looked) -> Outcome<Option<u32>> {
    match key.mask >> shift & ones {
        0 => Ok(None),
        mask if mask == ones => Ok(Some(key.value >> shift & ones)),
        _ => Err(Untranslatable::Partly(what)),
    }
}

fn ethernet(eth: Option<&EthKey>) -> Outcome<Eth> {
    let eth = eth.ok_or(Untranslatable::NoKey(Looked::PacketType))?;
    Ok(Eth { src: masked(eth.src), dst: masked(eth.dst), ethertype: None })
}

fn ethertype_of(key: &Option<Masked<EtherType>>) -> Outcome<EtherType> {
    let key = key.unwrap_or_default();
    let ethertype = key.as_exact().ok_or(Untranslatable::Partly(Looked::EtherType))?;
    // The kernel tells of 802.2 frames as of a type 0 that matters. A third tag is read as the type after two tags, and
    // flower reads on behind it.
    let has_no_name = ethertype.0 < ETHERTYPE_MIN || ethertype.is_vlan() || ethertype == EtherType(0x894f);
    refuse(has_no_name, Untranslatable::NoKey(Looked::EtherType))?;
    Ok(ethertype)
}

/// Tags: a list without one is of packets without one, since the kernel always matches that.
fn tags(to: &mut Match, vlans: &[Option<VlanKey>; VLANS_MAX], ethertype: EtherType) -> Outcome<EtherType> {
    let [outer, inner] = vlans;
    let Some(outer) = outer else {
        refuse(inner.is_some(), Untranslatable::NoPacket(Looked::Vlan))?;
        to.eth.ethertype = Some(ethertype);
        return Ok(ethertype);
    };
    let (tpid, id, prio) = tag(outer)?;
    to.vlan = Vlan { id, prio, ethertype: Some(ethertype) };
    if let Some(inner) = inner {
        let (inner_tpid, id, prio) = tag(inner)?;
        to.vlan.ethertype = Some(inner_tpid);
        to.cvlan = Cvlan { id, prio, ethertype: Some(ethertype) };
    }
    // As in a report: the type after all tags (`Match::put` writes the tag's own).
    to.eth.ethertype = Some(ethertype);
    Ok(tpid)
}

fn tag(vlan: &VlanKey) -> Outcome<(EtherType, Option<u16>, Option<u8>)> {
    let tpid = vlan.tpid.as_exact().filter(|tpid| tpid.is_vlan());
    let tpid = tpid.ok_or(Untranslatable::Partly(Looked::Vlan))?;
    // Without the bit it is a tag that was cut off; the kernel takes no mask without it.
    let is_there = vlan.tci.significant() & TAG_PRESENT != 0;
    refuse(!is_there, Untranslatable::NoPacket(Looked::Vlan))?;
    let tci = vlan.tci.map(u32::from);
    let id = whole(tci, 0, 0xfff, Looked::Vlan)?.map(|id| id as u16);
    let prio = whole(tci, 13, 7, Looked::Vlan)?.map(|prio| prio as u8);
    Ok((tpid, id, prio))
}

/// The kernel matches that there are as many entries as the key has, at least (`num_labels_mask`).
fn labels(keys: &[Option<Masked<u32>>; MPLS_MAX], ethertype: EtherType) -> Outcome<Mpls> {
    if !is_mpls(ethertype) {
        let looks = keys.iter().flatten().any(|key| !key.is_any());
        refuse(looks, Untranslatable::NoPacket(Looked::MplsLabel))?;
        return Ok(Mpls::default());
    }
    let [first, second, third] = *keys;
    let below = second.is_some_and(|key| !key.is_any()) || third.is_some();
    refuse(below, Untranslatable::NoKey(Looked::InnerMplsLabel))?;
    let first = first.unwrap_or_default();
    let part = |shift, ones| whole(first, shift, ones, Looked::MplsLabel);
    let mut mpls = Mpls {
        label: part(12, 0xfffff)?,
        tc: part(9, 7)?.map(|tc| tc as u8),
        bos: part(8, 1)?.map(|bos| bos as u8),
        ttl: part(0, 0xff)?.map(|ttl| ttl as u8),
    };
    if second.is_some() {
        refuse(mpls.bos == Some(1), Untranslatable::NoPacket(Looked::MplsLabel))?;
        mpls.bos = Some(0);
    }
    Ok(mpls)
}

pub(super) const fn is_mpls(ethertype: EtherType) -> bool {
    matches!(ethertype, EtherType::MPLS | EtherType::MPLS_MULTICAST)
}

/// Of packets with another operation than request and reply, flower reads nothing, and takes every field for 0
/// (`__skb_flow_dissect_arp()`).
fn address_resolution(arp: Option<&ArpKey>, ethertype: EtherType) -> Outcome<Arp> {
    let Some(arp) = arp.filter(|arp| !arp.is_any()) else { return Ok(Arp::default()) };
    let is_arp = ethertype == EtherType::ARP || ethertype == RARP;
    refuse(!is_arp, Untranslatable::NoPacket(Looked::Arp))?;
    refuse(arp.op.significant() > 0xff, Untranslatable::NoPacket(Looked::Arp))?;
    // Both look at the lower 8 bits.
    let op = Masked::new(arp.op.significant() as u8, (arp.op.mask & 0xff) as u8);
    let to = Arp {
        sip: masked(arp.sip),
        tip: masked(arp.tip),
        op: masked(op),
        sha: masked(arp.sha),
        tha: masked(arp.tha),
    };
    let fits_zero = op.matches(0)
        && arp.sip.significant().is_unspecified()
        && arp.tip.significant().is_unspecified()
        && arp.sha.significant().0 == [0; 6]
        && arp.tha.significant().0 == [0; 6];
    let fits_known = op.matches(1) || op.matches(2);
    refuse(to != Arp::default() && (fits_zero || !fits_known), Untranslatable::NoKey(Looked::Arp))?;
    Ok(to)
}

fn v4(to: &mut Match, headers: &mut Headers, ip: Ipv4Key) -> Outcome<()> {
    to.ipv4 = Ipv4 { src: masked(ip.src), dst: masked(ip.dst) };
    network(to, headers, ip.proto, ip.tos, ip.ttl)?;
    fragments(to, headers, ip.frag)
}

fn v6(to: &mut Match, headers: &mut Headers, ip: Ipv6Key) -> Outcome<()> {
    refuse(!ip.label.is_any(), Untranslatable::NoKey(Looked::Ipv6Label))?;
    to.ipv6 = Ipv6 { src: masked(ip.src), dst: masked(ip.dst) };
    network(to, headers, ip.proto, ip.tclass, ip.hlimit)?;
    fragments(to, headers, ip.frag)?;
    // Of a later fragment the kernel datapath takes the protocol to be IPPROTO_FRAGMENT, and flower the one behind.
    refuse(headers.fragment != Fragment::No, Untranslatable::NoKey(Looked::Ipv6Fragment))
}

fn network(
    to: &mut Match,
    headers: &mut Headers,
    proto: Masked<u8>,
    tos: Masked<u8>,
    ttl: Masked<u8>,
) -> Outcome<()> {
    let is_partial = !proto.is_any() && !proto.is_exact();
    refuse(is_partial, Untranslatable::Partly(Looked::IpProto))?;
    (headers.proto, headers.ttl) = (proto.as_exact(), ttl.as_exact());
    to.ip = Ip { proto: headers.proto, tos: masked(tos), ttl: masked(ttl), flags: None };
    Ok(())
}

/// Open vSwitch always looks at this. Where it does not, neither ports nor checksums are certain.
fn fragments(to: &mut Match, headers: &mut Headers, frag: Masked<u8>) -> Outcome<()> {
    const BOTH: u32 = FRAGMENT | FIRST_FRAGMENT;
    refuse(frag.mask & 3 != 3, Untranslatable::Partly(Looked::Fragment))?;
    let (fragment, flags) = match frag.significant() {
        0 => (Fragment::No, Masked::new(0, FRAGMENT)),
        FRAG_FIRST => (Fragment::First, Masked::new(BOTH, BOTH)),
        FRAG_LATER => (Fragment::Later, Masked::new(FRAGMENT, BOTH)),
        _ => return Err(Untranslatable::NoPacket(Looked::Fragment)),
    };
    (headers.fragment, to.ip.flags) = (fragment, Some(flags));
    Ok(())
}

/// What a megaflow looks at behind IP.
struct Transport<'a> {
    tcp: &'a Option<PortsKey>,
    tcp_flags: &'a Option<Masked<u16>>,
    udp: &'a Option<PortsKey>,
    sctp: &'a Option<PortsKey>,
    icmp: &'a Option<IcmpKey>,
    icmpv6: &'a Option<IcmpKey>,
}

/// The bits of `tcp_flags` there are; both sides read these alone.
const TCP_FLAGS: u16 = 0x0fff;

impl Transport<'_> {
    fn tell(&self, to: &mut Match, headers: &Headers) -> Outcome<()> {
        let ports = |key: &Option<PortsKey>| key.filter(|key| !key.is_any());
        let types = |key: &Option<IcmpKey>| key.filter(|key| !key.is_any());
        let flags = self.tcp_flags.filter(|flags| flags.mask & TCP_FLAGS != 0 || flags.significant() != 0);
        let (tcp, udp, sctp) = (ports(self.tcp), ports(self.udp), ports(self.sctp));
        let (icmp, icmpv6) = (types(self.icmp), types(self.icmpv6));
        let is = |proto, ethertype: &[EtherType]| {
            headers.proto == Some(proto) && headers.ethertype.is_some_and(|of| ethertype.contains(&of))
        };
        let ip = [EtherType::IPV4, EtherType::IPV6];
        let of_other = (tcp.is_some() || flags.is_some()) && !is(proto::TCP, &ip)
            || udp.is_some() && !is(proto::UDP, &ip)
            || sctp.is_some() && !is(proto::SCTP, &ip)
            || icmp.is_some() && !is(proto::ICMP, &ip[..1])
            || icmpv6.is_some() && !is(proto::ICMPV6, &ip[1..]);
        refuse(of_other, Untranslatable::NoKey(Looked::Transport))?;
        let is_any = tcp.is_none() && flags.is_none() && udp.is_none() && sctp.is_none();
        let looks = !is_any || icmp.is_some() || icmpv6.is_some();
        // Flower takes the ports of any fragment for 0; the kernel datapath reads those of the first.
        let of_fragment = looks && headers.fragment != Fragment::No;
        refuse(of_fragment, Untranslatable::NoKey(Looked::TransportOfFragment))?;
        if let Some(flags) = flags {
            refuse(flags.significant() & !TCP_FLAGS != 0, Untranslatable::NoPacket(Looked::Transport))?;
            to.tcp.flags = masked(Masked::new(flags.value, flags.mask & TCP_FLAGS));
        }
        if let Some(ports) = tcp {
            to.tcp = Tcp { src: masked(ports.src), dst: masked(ports.dst), ..to.tcp };
        }
        if let Some(ports) = udp {
            to.udp = Udp { src: masked(ports.src), dst: masked(ports.dst) };
        }
        if let Some(ports) = sctp {
            to.sctp = Sctp { src: masked(ports.src), dst: masked(ports.dst) };
        }
        if let Some(icmp) = icmp {
            to.icmp = Icmp { kind: masked(icmp.kind), code: masked(icmp.code) };
        }
        if let Some(icmp) = icmpv6 {
            to.icmpv6 = Icmpv6 { kind: masked(icmp.kind), code: masked(icmp.code) };
        }
        Ok(())
    }
}
