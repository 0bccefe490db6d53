//! One probe for each field that can be matched, in full and in part.

use std::net::{Ipv4Addr, Ipv6Addr};

use netlink_wire::{EtherType, MacAddr, Masked};
use tc_flower::keys::{self, ip::proto};
use tc_flower::{Control, Match};

use super::list::{Devices, Group, Needs, Probe, gact, protocol_of, tagged};

/// Addresses of documentation (RFC 5737, RFC 3849, RFC 7042): no packet has them.
const V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
const MAC: MacAddr = MacAddr([0x00, 0x00, 0x5e, 0x00, 0x53, 0x01]);
const V4_24: Ipv4Addr = Ipv4Addr::new(255, 255, 255, 0);
const V6_64: Ipv6Addr = Ipv6Addr::new(0xffff, 0xffff, 0xffff, 0xffff, 0, 0, 0, 0);
const OUI: MacAddr = MacAddr([0xff, 0xff, 0xff, 0, 0, 0]);

fn probe(id: &'static str, keys: Match) -> Probe {
    let actions = vec![gact(Control::Drop)];
    Probe { id, group: Group::Match, needs: Needs::Nothing, protocol: protocol_of(&keys), keys, actions }
}

fn of_type(ethertype: EtherType) -> Match {
    Match { eth: keys::Eth { ethertype: Some(ethertype), ..keys::Eth::default() }, ..Match::default() }
}

fn v4(proto: Option<u8>) -> Match {
    Match { ip: keys::Ip { proto, ..keys::Ip::default() }, ..of_type(EtherType::IPV4) }
}

fn v6(proto: Option<u8>) -> Match {
    Match { ip: keys::Ip { proto, ..keys::Ip::default() }, ..of_type(EtherType::IPV6) }
}

/// Ethernet, VLAN, MPLS and ARP.
pub(super) fn link_layer() -> Vec<Probe> {
    let eth = |eth: keys::Eth| Match {
        eth: keys::Eth { ethertype: Some(EtherType::IPV4), ..eth },
        ..Match::default()
    };
    let arp = |arp: keys::Arp| Match { arp, ..of_type(EtherType::ARP) };
    let vlan = |vlan: keys::Vlan| Match {
        vlan: keys::Vlan { ethertype: Some(EtherType::IPV4), ..vlan },
        ..of_type(EtherType::IPV4)
    };
    let two_tags = Match {
        vlan: keys::Vlan { id: Some(7), ethertype: Some(EtherType::VLAN), ..keys::Vlan::default() },
        cvlan: keys::Cvlan { id: Some(8), ethertype: Some(EtherType::IPV4), ..keys::Cvlan::default() },
        ..of_type(EtherType::IPV4)
    };
    let mpls = keys::Mpls { label: Some(7), bos: Some(1), ..keys::Mpls::default() };
    let (any, one, some) = (keys::Eth::default(), Masked::exact(MAC), Masked::new(MAC, OUI));
    let nobody = keys::Arp::default();
    vec![
        probe("eth.src", eth(keys::Eth { src: Some(one), ..any })),
        probe("eth.src masked", eth(keys::Eth { src: Some(some), ..any })),
        probe("eth.dst", eth(keys::Eth { dst: Some(one), ..any })),
        probe("eth.dst masked", eth(keys::Eth { dst: Some(some), ..any })),
        probe("ip6", of_type(EtherType::IPV6)),
        probe("arp", of_type(EtherType::ARP)),
        probe("arp.op", arp(keys::Arp { op: Some(Masked::exact(1)), ..nobody })),
        probe("arp.spa", arp(keys::Arp { sip: Some(Masked::exact(V4)), ..nobody })),
        probe("arp.tpa", arp(keys::Arp { tip: Some(Masked::exact(V4)), ..nobody })),
        probe("arp.sha", arp(keys::Arp { sha: Some(one), ..nobody })),
        probe("vlan.vid", tagged()),
        probe("vlan.pcp", vlan(keys::Vlan { prio: Some(1), ..keys::Vlan::default() })),
        probe("vlan.present", vlan(keys::Vlan::default())),
        probe("vlan.vid twice", two_tags),
        probe("mpls.label", Match { mpls, ..of_type(EtherType::MPLS) }),
    ]
}

/// IPv4 and IPv6, and fragments.
pub(super) fn ip() -> Vec<Probe> {
    let from = |src| Match { ipv4: keys::Ipv4 { src: Some(src), ..keys::Ipv4::default() }, ..v4(None) };
    let toward = |dst| Match { ipv4: keys::Ipv4 { dst: Some(dst), ..keys::Ipv4::default() }, ..v4(None) };
    let from6 = |src| Match { ipv6: keys::Ipv6 { src: Some(src), ..keys::Ipv6::default() }, ..v6(None) };
    let toward6 = |dst| Match { ipv6: keys::Ipv6 { dst: Some(dst), ..keys::Ipv6::default() }, ..v6(None) };
    let with = |base: Match, ip: keys::Ip| Match { ip, ..base };
    let flags = |value, mask| keys::Ip { flags: Some(Masked::new(value, mask)), ..keys::Ip::default() };
    let tos = |tos| keys::Ip { tos: Some(tos), ..keys::Ip::default() };
    let ttl = |ttl| keys::Ip { ttl: Some(ttl), ..keys::Ip::default() };
    let (fragment, first) = (keys::FRAGMENT, keys::FIRST_FRAGMENT);
    vec![
        probe("ip4.src", from(Masked::exact(V4))),
        probe("ip4.src masked", from(Masked::new(V4, V4_24))),
        probe("ip4.dst", toward(Masked::exact(V4))),
        probe("ip4.dst masked", toward(Masked::new(V4, V4_24))),
        probe("ip6.src", from6(Masked::exact(V6))),
        probe("ip6.src masked", from6(Masked::new(V6, V6_64))),
        probe("ip6.dst", toward6(Masked::exact(V6))),
        probe("ip6.dst masked", toward6(Masked::new(V6, V6_64))),
        probe("ip4.proto", v4(Some(proto::UDP))),
        probe("ip6.proto", v6(Some(proto::UDP))),
        probe("ip4.tos", with(v4(None), tos(Masked::exact(4)))),
        probe("ip4.tos masked", with(v4(None), tos(Masked::new(4, 0xfc)))),
        probe("ip6.tclass", with(v6(None), tos(Masked::exact(4)))),
        probe("ip4.ttl", with(v4(None), ttl(Masked::exact(64)))),
        probe("ip6.hlimit", with(v6(None), ttl(Masked::exact(64)))),
        probe("no ip4 fragment", with(v4(None), flags(0, fragment))),
        probe("ip4 fragment", with(v4(None), flags(fragment, fragment))),
        probe("first ip4 fragment", with(v4(None), flags(fragment | first, fragment | first))),
        probe("later ip4 fragment", with(v4(None), flags(fragment, fragment | first))),
        probe("no ip6 fragment", with(v6(None), flags(0, fragment))),
    ]
}

/// TCP, UDP, SCTP and ICMP.
pub(super) fn transport() -> Vec<Probe> {
    let tcp = |tcp: keys::Tcp| Match { tcp, ..v4(Some(proto::TCP)) };
    let udp = |udp: keys::Udp| Match { udp, ..v4(Some(proto::UDP)) };
    let (port, some) = (Masked::exact(7), Masked::new(0x1000, 0xf000));
    let (none, nothing) = (keys::Tcp::default(), keys::Udp::default());
    let range = keys::PortRange { dst_min: Some(1000), dst_max: Some(2000), ..keys::PortRange::default() };
    let sctp = keys::Sctp { dst: Some(port), ..keys::Sctp::default() };
    let icmp = keys::Icmp { kind: Some(Masked::exact(8)), ..keys::Icmp::default() };
    let icmp6 = keys::Icmpv6 { kind: Some(Masked::exact(128)), ..keys::Icmpv6::default() };
    vec![
        probe("tcp.src", tcp(keys::Tcp { src: Some(port), ..none })),
        probe("tcp.dst", tcp(keys::Tcp { dst: Some(port), ..none })),
        probe("tcp.dst masked", tcp(keys::Tcp { dst: Some(some), ..none })),
        probe("tcp.flags", tcp(keys::Tcp { flags: Some(Masked::new(2, 0xfff)), ..none })),
        probe("tcp.flags masked", tcp(keys::Tcp { flags: Some(Masked::new(2, 2)), ..none })),
        probe(
            "tcp.dst over ip6",
            Match { tcp: keys::Tcp { dst: Some(port), ..none }, ..v6(Some(proto::TCP)) },
        ),
        probe("tcp.dst range", Match { ports: range, ..v4(Some(proto::TCP)) }),
        probe("udp.src", udp(keys::Udp { src: Some(port), ..nothing })),
        probe("udp.dst", udp(keys::Udp { dst: Some(port), ..nothing })),
        probe("udp.dst masked", udp(keys::Udp { dst: Some(some), ..nothing })),
        probe(
            "udp.dst over ip6",
            Match { udp: keys::Udp { dst: Some(port), ..nothing }, ..v6(Some(proto::UDP)) },
        ),
        probe("sctp.dst", Match { sctp, ..v4(Some(proto::SCTP)) }),
        probe("icmp4.type", Match { icmp, ..v4(Some(proto::ICMP)) }),
        probe(
            "icmp4.code",
            Match { icmp: keys::Icmp { code: Some(Masked::exact(0)), ..icmp }, ..v4(Some(proto::ICMP)) },
        ),
        probe("icmp6.type", Match { icmpv6: icmp6, ..v6(Some(proto::ICMPV6)) }),
    ]
}

/// `TCA_FLOWER_KEY_CT_FLAGS_*`
const NEW: u16 = 1;
const ESTABLISHED: u16 = 2;
const RELATED: u16 = 4;
const TRACKED: u16 = 8;
const INVALID: u16 = 16;
const REPLY: u16 = 32;

/// What connection tracking said.
pub(super) fn conntrack() -> Vec<Probe> {
    let ct = |ct: keys::Conntrack| Match { ct, ..v4(Some(proto::TCP)) };
    let state = |value, mask| keys::Conntrack {
        state: Some(Masked::new(value | TRACKED, mask | TRACKED)),
        ..keys::Conntrack::default()
    };
    let known = state(ESTABLISHED, ESTABLISHED);
    let mut label = Masked::new([0; 16], [0; 16]);
    (label.value[0], label.mask[0]) = (1, 1);
    vec![
        probe("ct_state +trk", ct(state(0, 0))),
        probe(
            "ct_state -trk",
            ct(keys::Conntrack { state: Some(Masked::new(0, TRACKED)), ..keys::Conntrack::default() }),
        ),
        probe("ct_state +est", ct(known)),
        probe("ct_state +new", ct(state(NEW, NEW))),
        probe("ct_state +rel", ct(state(RELATED, RELATED))),
        probe("ct_state -rel", ct(state(0, RELATED))),
        probe("ct_state +rpl", ct(state(REPLY, REPLY))),
        probe("ct_state -rpl", ct(state(0, REPLY))),
        probe("ct_state +inv", ct(state(INVALID, INVALID))),
        probe("ct_state -inv", ct(state(0, INVALID))),
        probe("ct_zone", ct(keys::Conntrack { zone: Some(Masked::exact(7)), ..known })),
        probe("ct_mark", ct(keys::Conntrack { mark: Some(Masked::exact(1)), ..known })),
        probe("ct_mark masked", ct(keys::Conntrack { mark: Some(Masked::new(1, 1)), ..known })),
        probe("ct_label masked", ct(keys::Conntrack { labels: Some(label), ..known })),
    ]
}

/// `TCA_FLOWER_KEY_FLAGS_TUNNEL_CSUM`
const TUNNEL_CSUM: u32 = 1 << 2;

/// What Open vSwitch always matches of a tunnel: its id, its ends, and the UDP port of its device.
fn header(port: u16) -> keys::TunnelHeader {
    keys::TunnelHeader {
        id: Some(7),
        ipv4_src: Some(Masked::exact(Ipv4Addr::new(192, 0, 2, 2))),
        ipv4_dst: Some(Masked::exact(V4)),
        dst_port: Some(Masked::exact(port)),
        ..keys::TunnelHeader::default()
    }
}

fn of_tunnel(header: keys::TunnelHeader, options: keys::TunnelOptionKeys) -> Match {
    Match { tunnel: keys::Tunnel { header, options }, ..of_type(EtherType::IPV4) }
}

/// The port of the device that tunnels of any kind are tried with.
pub(super) fn any_port(devices: &Devices) -> u16 {
    if devices.geneve.is_some() { devices.geneve_port } else { devices.vxlan_port }
}

/// A packet that came out of a tunnel.
pub(super) fn from_tunnel(devices: &Devices) -> Match {
    of_tunnel(header(any_port(devices)), keys::TunnelOptionKeys::None)
}

/// The tunnel that a packet came out of, at the tunnel's device.
pub(super) fn tunnel(devices: &Devices) -> Vec<Probe> {
    use keys::TunnelOptionKeys::{Geneve, None as Nothing, VxlanGbp};
    // Drivers take a rule at a tunnel's device that sends to a port of theirs: which NIC it is for is told by that.
    let probe = |id, needs, keys: Match| Probe {
        actions: super::list::out_of_tunnel(devices),
        needs,
        ..probe(id, keys)
    };
    let header = || header(any_port(devices));
    let of_geneve = || super::matches::header(devices.geneve_port);
    let of_vxlan = super::matches::header(devices.vxlan_port);
    let v6 = keys::TunnelHeader {
        ipv4_src: None,
        ipv4_dst: None,
        ipv6_src: Some(Masked::exact(V6)),
        ipv6_dst: Some(Masked::exact(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2))),
        ..header()
    };
    let option = |words: usize| keys::GeneveOptionKey {
        class: Masked::exact(0x0102),
        kind: Masked::exact(0x80),
        data: vec![0; 4 * words],
        data_mask: vec![0xff; 4 * words],
    };
    let flags = Some(Masked::new(TUNNEL_CSUM, TUNNEL_CSUM));
    vec![
        probe(super::list::OUT_OF_TUNNEL, Needs::FromTunnel, from_tunnel(devices)),
        probe(
            "tun.id, tun.src, tun.dst",
            Needs::FromTunnel,
            of_tunnel(keys::TunnelHeader { dst_port: None, ..header() }, Nothing),
        ),
        probe("tun over ip6", Needs::FromTunnel, of_tunnel(v6, Nothing)),
        probe(
            "tun.src masked",
            Needs::FromTunnel,
            of_tunnel(keys::TunnelHeader { ipv4_src: Some(Masked::new(V4, V4_24)), ..header() }, Nothing),
        ),
        probe(
            "tun.src_port",
            Needs::FromTunnel,
            of_tunnel(keys::TunnelHeader { src_port: Some(Masked::exact(7)), ..header() }, Nothing),
        ),
        probe(
            "tun.tos",
            Needs::FromTunnel,
            of_tunnel(keys::TunnelHeader { tos: Some(Masked::exact(4)), ..header() }, Nothing),
        ),
        probe(
            "tun.ttl",
            Needs::FromTunnel,
            of_tunnel(keys::TunnelHeader { ttl: Some(Masked::exact(64)), ..header() }, Nothing),
        ),
        probe(
            "tun.flags csum",
            Needs::FromTunnel,
            of_tunnel(keys::TunnelHeader { flags, ..header() }, Nothing),
        ),
        probe("tun.geneve, one option", Needs::FromGeneve, of_tunnel(of_geneve(), Geneve(vec![option(1)]))),
        probe(
            "tun.geneve, two options",
            Needs::FromGeneve,
            of_tunnel(of_geneve(), Geneve(vec![option(1), option(2)])),
        ),
        probe("tun.gbp", Needs::FromVxlan, of_tunnel(of_vxlan, VxlanGbp(Masked::exact(7)))),
    ]
}
