//! The fields of the language: their names, what they read, and what has to hold for them to exist.
//!
//! Names and prerequisites are OVN's (lib/logical-fields.c); OVS's own names (ovs-fields(7)) are aliases where they
//! are not ambiguous.

use super::constant::Format;
use super::subject::Header;

/// A text that a megaflow has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Text {
    Inport,
    InportIfaceId,
    Outport,
    OutportIfaceId,
    Encap,
    Locality,
    Tenant,
    Namespace,
    Workload,
    Chassis,
}

/// A yes or no that is the same for all packets of a megaflow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flag {
    Encap,
    Rewrites,
    Drops,
    Recirculates,
    Encrypted,
}

/// What a field is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// `width` bits of a header, from bit `low` on.
    Bits {
        header: Header,
        low: u8,
        width: u8,
        format: Format,
    },
    /// An abbreviation.
    Predicate(&'static str),
    Text(Text),
    Flag(Flag),
    Age,
    Rate,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) aliases: &'static [&'static str],
    pub(super) kind: Kind,
    /// What a test of it implies; empty for nothing.
    pub(super) needs: &'static str,
    pub(super) help: &'static str,
}

const fn whole(
    name: &'static str,
    aliases: &'static [&'static str],
    header: Header,
    format: Format,
    needs: &'static str,
    help: &'static str,
) -> Field {
    let kind = Kind::Bits { header, low: 0, width: header.width(), format };
    Field { name, aliases, kind, needs, help }
}

const fn part(
    name: &'static str,
    aliases: &'static [&'static str],
    (header, low, width): (Header, u8, u8),
    needs: &'static str,
    help: &'static str,
) -> Field {
    Field { name, aliases, kind: Kind::Bits { header, low, width, format: Format::Decimal }, needs, help }
}

const fn predicate(name: &'static str, meaning: &'static str, help: &'static str) -> Field {
    Field { name, aliases: &[], kind: Kind::Predicate(meaning), needs: "", help }
}

const fn text(name: &'static str, aliases: &'static [&'static str], text: Text, help: &'static str) -> Field {
    Field { name, aliases, kind: Kind::Text(text), needs: "", help }
}

const fn flag(name: &'static str, flag: Flag, help: &'static str) -> Field {
    Field { name, aliases: &[], kind: Kind::Flag(flag), needs: "", help }
}

use Format::{Decimal, Ethernet, Hexadecimal, Ipv4, Ipv6};

/// The words of `locality`.
pub(super) const LOCALITIES: [&str; 4] = ["same-node", "cross-node", "external", "unknown"];

pub(super) const FIELDS: &[Field] = &[
    // Ports.
    text("inport", &["in_port"], Text::Inport, "Name of the ingress interface."),
    text("inport.iface_id", &[], Text::InportIfaceId, "`external_ids:iface-id` of the ingress interface."),
    // Ethernet and VLAN.
    whole("eth.src", &["dl_src", "eth_src"], Header::EthSrc, Ethernet, "", "Ethernet source."),
    whole("eth.dst", &["dl_dst", "eth_dst"], Header::EthDst, Ethernet, "", "Ethernet destination."),
    whole(
        "eth.type",
        &["dl_type", "eth_type"],
        Header::EthType,
        Hexadecimal,
        "",
        "Ethertype, behind VLAN tags.",
    ),
    predicate("eth.bcast", "eth.dst == ff:ff:ff:ff:ff:ff", "Broadcast."),
    part("eth.mcast", &[], (Header::EthDst, 40, 1), "", "Multicast or broadcast."),
    predicate("eth.mcastv6", "eth.dst[32..47] == 0x3333", "IPv6 multicast, by its Ethernet address."),
    whole(
        "vlan.tci",
        &["vlan_tci"],
        Header::VlanTci,
        Hexadecimal,
        "",
        "Outer VLAN tag; bit 12 is set when there is one.",
    ),
    predicate("vlan.present", "vlan.tci[12]", "There is a VLAN tag."),
    part("vlan.vid", &["dl_vlan"], (Header::VlanTci, 0, 12), "vlan.present", "VLAN id."),
    part("vlan.pcp", &["dl_vlan_pcp"], (Header::VlanTci, 13, 3), "vlan.present", "VLAN priority."),
    predicate("cvlan.present", "cvlan.tci[12]", "There is a second, inner VLAN tag."),
    whole("cvlan.tci", &[], Header::InnerVlanTci, Hexadecimal, "", "Inner VLAN tag."),
    part("cvlan.vid", &[], (Header::InnerVlanTci, 0, 12), "cvlan.present", "Inner VLAN id."),
    part("cvlan.pcp", &[], (Header::InnerVlanTci, 13, 3), "cvlan.present", "Inner VLAN priority."),
    predicate("mpls", "eth.type == {0x8847, 0x8848}", "MPLS."),
    part("mpls.label", &["mpls_label"], (Header::MplsLse, 12, 20), "mpls", "Label of the top entry."),
    part("mpls.tc", &["mpls_tc"], (Header::MplsLse, 9, 3), "mpls", "Traffic class of the top entry."),
    part("mpls.bos", &["mpls_bos"], (Header::MplsLse, 8, 1), "mpls", "The top entry is the last one."),
    part("mpls.ttl", &["mpls_ttl"], (Header::MplsLse, 0, 8), "mpls", "TTL of the top entry."),
    // IP.
    predicate("ip4", "eth.type == 0x800", "IPv4."),
    predicate("ip6", "eth.type == 0x86dd", "IPv6."),
    predicate("ip", "ip4 || ip6", "IPv4 or IPv6."),
    whole("ip.proto", &["nw_proto", "ip_proto"], Header::IpProto, Decimal, "ip", "IP protocol."),
    whole("ip.tos", &[], Header::IpTos, Decimal, "ip", "TOS or traffic class, DSCP and ECN together."),
    part("ip.dscp", &["ip_dscp"], (Header::IpTos, 2, 6), "ip", "DSCP."),
    part("ip.ecn", &["nw_ecn", "ip_ecn"], (Header::IpTos, 0, 2), "ip", "ECN."),
    whole("ip.ttl", &["nw_ttl"], Header::IpTtl, Decimal, "ip", "TTL or hop limit."),
    part("ip.is_frag", &[], (Header::IpFrag, 0, 1), "ip", "A fragment."),
    part("ip.later_frag", &[], (Header::IpFrag, 1, 1), "ip", "A fragment that is not the first."),
    predicate("ip.first_frag", "ip.is_frag && ip.later_frag == 0", "The first fragment."),
    whole("ip4.src", &["nw_src", "ip_src"], Header::Ip4Src, Ipv4, "ip4", "IPv4 source."),
    whole("ip4.dst", &["nw_dst", "ip_dst"], Header::Ip4Dst, Ipv4, "ip4", "IPv4 destination."),
    predicate("ip4.src_mcast", "ip4.src[28..31] == 0xe", "IPv4 multicast address as source."),
    predicate("ip4.mcast", "eth.mcast && ip4.dst[28..31] == 0xe", "IPv4 multicast."),
    whole("ip6.src", &["ipv6_src"], Header::Ip6Src, Ipv6, "ip6", "IPv6 source."),
    whole("ip6.dst", &["ipv6_dst"], Header::Ip6Dst, Ipv6, "ip6", "IPv6 destination."),
    whole("ip6.label", &["ipv6_label"], Header::Ip6Label, Hexadecimal, "ip6", "IPv6 flow label."),
    predicate("ip6.mcast", "eth.mcastv6 && ip6.dst[120..127] == 0xff", "IPv6 multicast."),
    // Transport.
    predicate("tcp", "ip && ip.proto == 6", "TCP."),
    whole("tcp.src", &["tcp_src"], Header::L4Src, Decimal, "tcp", "TCP source port."),
    whole("tcp.dst", &["tcp_dst"], Header::L4Dst, Decimal, "tcp", "TCP destination port."),
    whole("tcp.flags", &["tcp_flags"], Header::TcpFlags, Hexadecimal, "tcp", "TCP flags."),
    predicate("udp", "ip && ip.proto == 17", "UDP."),
    whole("udp.src", &["udp_src"], Header::L4Src, Decimal, "udp", "UDP source port."),
    whole("udp.dst", &["udp_dst"], Header::L4Dst, Decimal, "udp", "UDP destination port."),
    predicate("sctp", "ip && ip.proto == 132", "SCTP."),
    whole("sctp.src", &["sctp_src"], Header::L4Src, Decimal, "sctp", "SCTP source port."),
    whole("sctp.dst", &["sctp_dst"], Header::L4Dst, Decimal, "sctp", "SCTP destination port."),
    predicate("icmp4", "ip4 && ip.proto == 1", "ICMP for IPv4."),
    whole("icmp4.type", &["icmp_type"], Header::IcmpType, Decimal, "icmp4", "ICMP type."),
    whole("icmp4.code", &["icmp_code"], Header::IcmpCode, Decimal, "icmp4", "ICMP code."),
    predicate("icmp6", "ip6 && ip.proto == 58", "ICMPv6."),
    whole("icmp6.type", &["icmpv6_type"], Header::IcmpType, Decimal, "icmp6", "ICMPv6 type."),
    whole("icmp6.code", &["icmpv6_code"], Header::IcmpCode, Decimal, "icmp6", "ICMPv6 code."),
    predicate("icmp", "icmp4 || icmp6", "ICMP or ICMPv6."),
    predicate("igmp", "ip4.mcast && ip.proto == 2", "IGMP."),
    predicate("esp", "ip && ip.proto == 50", "IPsec ESP."),
    predicate("ah", "ip && ip.proto == 51", "IPsec AH."),
    // ARP and neighbour discovery.
    predicate("arp", "eth.type == 0x806", "ARP."),
    predicate("rarp", "eth.type == 0x8035", "Reverse ARP."),
    whole("arp.op", &["arp_op"], Header::ArpOp, Decimal, "arp", "ARP operation."),
    whole("arp.spa", &["arp_spa"], Header::ArpSpa, Ipv4, "arp", "ARP sender protocol address."),
    whole("arp.tpa", &["arp_tpa"], Header::ArpTpa, Ipv4, "arp", "ARP target protocol address."),
    whole("arp.sha", &["arp_sha"], Header::ArpSha, Ethernet, "arp", "ARP sender hardware address."),
    whole("arp.tha", &["arp_tha"], Header::ArpTha, Ethernet, "arp", "ARP target hardware address."),
    predicate(
        "nd",
        "icmp6.type == {135, 136} && icmp6.code == 0",
        "Neighbour solicitation or advertisement.",
    ),
    predicate("nd_ns", "icmp6.type == 135 && icmp6.code == 0", "Neighbour solicitation."),
    predicate("nd_na", "icmp6.type == 136 && icmp6.code == 0", "Neighbour advertisement."),
    predicate("nd_rs", "icmp6.type == 133 && icmp6.code == 0", "Router solicitation."),
    predicate("nd_ra", "icmp6.type == 134 && icmp6.code == 0", "Router advertisement."),
    whole("nd.target", &["nd_target"], Header::NdTarget, Ipv6, "nd", "Neighbour discovery target."),
    whole("nd.sll", &["nd_sll"], Header::NdSll, Ethernet, "nd_ns", "Source link-layer address."),
    whole("nd.tll", &["nd_tll"], Header::NdTll, Ethernet, "nd_na", "Target link-layer address."),
    // Connection tracking.
    whole("ct_state", &[], Header::CtState, Hexadecimal, "", "Connection state, all bits."),
    part("ct.trk", &[], (Header::CtState, 5, 1), "", "Went through connection tracking."),
    part("ct.new", &[], (Header::CtState, 0, 1), "ct.trk", "Begins a connection."),
    part("ct.est", &[], (Header::CtState, 1, 1), "ct.trk", "Belongs to an established connection."),
    part("ct.rel", &[], (Header::CtState, 2, 1), "ct.trk", "Is related to a connection."),
    part("ct.rpl", &[], (Header::CtState, 3, 1), "ct.trk", "Goes in the reply direction."),
    part("ct.inv", &[], (Header::CtState, 4, 1), "ct.trk", "Could not be tracked."),
    part("ct.snat", &[], (Header::CtState, 6, 1), "ct.trk", "Its source was translated."),
    part("ct.dnat", &[], (Header::CtState, 7, 1), "ct.trk", "Its destination was translated."),
    whole("ct_zone", &["ct.zone"], Header::CtZone, Decimal, "", "Connection tracking zone."),
    whole("ct_mark", &["ct.mark"], Header::CtMark, Hexadecimal, "", "Connection mark."),
    whole("ct_label", &["ct.label"], Header::CtLabel, Hexadecimal, "", "Connection label."),
    // The tunnel the packets came out of.
    part("tun", &[], (Header::Tunnel, 0, 1), "", "Came out of a tunnel."),
    whole("tun.id", &["tun_id"], Header::TunId, Decimal, "tun", "Tunnel key: VNI or GRE key."),
    whole("tun.src", &["tun_src"], Header::TunSrc, Ipv4, "tun", "Outer IPv4 source."),
    whole("tun.dst", &["tun_dst"], Header::TunDst, Ipv4, "tun", "Outer IPv4 destination."),
    whole("tun6.src", &["tun_ipv6_src"], Header::Tun6Src, Ipv6, "tun", "Outer IPv6 source."),
    whole("tun6.dst", &["tun_ipv6_dst"], Header::Tun6Dst, Ipv6, "tun", "Outer IPv6 destination."),
    whole("tun.tos", &["tun_tos"], Header::TunTos, Decimal, "tun", "Outer TOS."),
    whole("tun.ttl", &["tun_ttl"], Header::TunTtl, Decimal, "tun", "Outer TTL."),
    whole("tun.tp_src", &[], Header::TunTpSrc, Decimal, "tun", "Outer UDP source port."),
    whole("tun.tp_dst", &[], Header::TunTpDst, Decimal, "tun", "Outer UDP destination port."),
    // The datapath.
    whole("recirc_id", &[], Header::RecircId, Hexadecimal, "", "Recirculation id; 0 before any."),
    whole("pkt.mark", &["pkt_mark"], Header::PktMark, Hexadecimal, "", "Packet mark."),
    whole("skb_priority", &[], Header::SkbPriority, Hexadecimal, "", "Packet priority."),
    whole("dp_hash", &[], Header::DpHash, Hexadecimal, "", "Datapath hash."),
    // Actions.
    text("outport", &[], Text::Outport, "Name of an interface the packets leave through."),
    text("outport.iface_id", &[], Text::OutportIfaceId, "`external_ids:iface-id` of such an interface."),
    flag("encap", Flag::Encap, "The packets are put into a tunnel."),
    text("encap.type", &[], Text::Encap, "The kind of that tunnel, as `Interface.type`."),
    flag("rewrites", Flag::Rewrites, "Header fields are changed."),
    flag("drops", Flag::Drops, "The packets go nowhere."),
    flag("recirculates", Flag::Recirculates, "The packets are looked up again."),
    // Context.
    text("locality", &[], Text::Locality, "How far the packets travel."),
    text("tenant", &[], Text::Tenant, "The tenant: a Kubernetes namespace, an OpenStack project."),
    text(
        "namespace",
        &[],
        Text::Namespace,
        "The Kubernetes namespace of the workload; empty for one without.",
    ),
    text(
        "workload",
        &[],
        Text::Workload,
        "The workload of this node, virtual machine or pod, that sends the packets; else the one that gets them.",
    ),
    text(
        "chassis",
        &[],
        Text::Chassis,
        "OVN's name of the node at the tunnel's other end; empty outside of tunnels.",
    ),
    flag("encrypted", Flag::Encrypted, "The packets are encrypted on the wire."),
    Field {
        name: "age",
        aliases: &[],
        kind: Kind::Age,
        needs: "",
        help: "Time since the megaflow appeared.",
    },
    Field { name: "rate", aliases: &[], kind: Kind::Rate, needs: "", help: "How fast it moves." },
];

/// The field of that name or alias.
pub(super) fn find(name: &str) -> Option<&'static Field> {
    FIELDS.iter().find(|field| field.name == name || field.aliases.contains(&name))
}

/// All names and aliases.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    FIELDS.iter().flat_map(|field| core::iter::once(field.name).chain(field.aliases.iter().copied()))
}

impl Field {
    /// What a constant for this field is, with an article.
    pub(super) fn takes(&self) -> &'static str {
        match self.kind {
            Kind::Bits { format, .. } => format.name(),
            Kind::Predicate(_) | Kind::Flag(_) => "1 or 0",
            Kind::Text(Text::Locality) => r#"one of "same-node", "cross-node", "external", "unknown""#,
            Kind::Text(_) => "a quoted text",
            Kind::Age => r#"a time in quotes, such as "10 s""#,
            Kind::Rate => r#"a rate in quotes, such as "2 Mbit/s" or "500 pkt/s""#,
        }
    }

    /// How to compare it, for those who did not.
    pub(super) fn example(&self) -> &'static str {
        match self.kind {
            Kind::Bits { format: Format::Ipv4, .. } => "== 10.0.0.0/8",
            Kind::Bits { format: Format::Ipv6, .. } => "== fd00::/8",
            Kind::Bits { format: Format::Ethernet, .. } => "== 52:54:00:12:34:56",
            Kind::Bits { .. } | Kind::Predicate(_) | Kind::Flag(_) => "!= 0",
            Kind::Text(Text::Locality) => r#"== "same-node""#,
            Kind::Text(_) => r#"== "name*""#,
            Kind::Age => r#">= "10 s""#,
            Kind::Rate => r#">= "2 Mbit/s""#,
        }
    }
}

/// A line of the list of fields, for `policy fields` and the documentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FieldHelp {
    /// The name.
    pub name: &'static str,
    /// Other names for it.
    pub aliases: &'static [&'static str],
    /// What it is compared with.
    pub takes: &'static str,
    /// What a test of it implies, or what it stands for.
    pub implies: &'static str,
    /// What it is.
    pub help: &'static str,
}

/// All fields, in an order fit for reading.
pub fn field_help() -> impl Iterator<Item = FieldHelp> {
    FIELDS.iter().map(|field| FieldHelp {
        name: field.name,
        aliases: field.aliases,
        takes: field.takes(),
        implies: if let Kind::Predicate(meaning) = field.kind { meaning } else { field.needs },
        help: field.help,
    })
}
