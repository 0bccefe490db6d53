//! What a condition is evaluated against: one megaflow, its actions and what is known around it, as plain values.

use core::fmt;

use crate::Micros;

/// Whether a condition holds for the packets of a megaflow.
///
/// Ordered by how many packets it holds for, so that "and" is the minimum and "or" the maximum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Truth {
    /// For none of them.
    Never,
    /// For some of them and not for others, or nothing is known about it.
    Sometimes,
    /// For all of them.
    Always,
}

impl Truth {
    pub(super) fn negated(self) -> Self {
        match self {
            Self::Never => Self::Always,
            Self::Sometimes => Self::Sometimes,
            Self::Always => Self::Never,
        }
    }

    pub(super) fn negated_if(self, negate: bool) -> Self {
        if negate { self.negated() } else { self }
    }
}

impl From<bool> for Truth {
    fn from(holds: bool) -> Self {
        if holds { Self::Always } else { Self::Never }
    }
}

impl fmt::Display for Truth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Never => "never",
            Self::Sometimes => "sometimes",
            Self::Always => "always",
        })
    }
}

/// A header field of a megaflow: the bits in `mask` are as in `value`, the others differ from packet to packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bits {
    /// The value, in host order, in the lowest bits.
    pub value: u128,
    /// Which bits of it the megaflow fixes. Zero: the megaflow does not look at the field.
    pub mask: u128,
}

/// A header field of a megaflow, as the kernel's flow key has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Header {
    /// Ethernet source, 48 bits.
    EthSrc,
    /// Ethernet destination, 48 bits.
    EthDst,
    /// Ethertype of the payload, behind all VLAN tags; 16 bits.
    EthType,
    /// Outer VLAN tag, 16 bits: pcp, then bit 12 for "there is a tag" (`VLAN_CFI` in OVS), then vid.
    VlanTci,
    /// Inner VLAN tag, in the same form.
    InnerVlanTci,
    /// Top MPLS label stack entry, 32 bits.
    MplsLse,
    /// IP protocol or last IPv6 next header, 8 bits.
    IpProto,
    /// IPv4 TOS or IPv6 traffic class, 8 bits.
    IpTos,
    /// IPv4 TTL or IPv6 hop limit, 8 bits.
    IpTtl,
    /// 2 bits: 1 for a fragment, 2 for a later one (`FLOW_NW_FRAG_ANY`, `FLOW_NW_FRAG_LATER` in OVS).
    IpFrag,
    /// IPv4 source, 32 bits.
    Ip4Src,
    /// IPv4 destination, 32 bits.
    Ip4Dst,
    /// IPv6 source, 128 bits.
    Ip6Src,
    /// IPv6 destination, 128 bits.
    Ip6Dst,
    /// IPv6 flow label, 20 bits.
    Ip6Label,
    /// ARP operation, 16 bits (OVS looks at the lower 8).
    ArpOp,
    /// ARP sender protocol address, 32 bits.
    ArpSpa,
    /// ARP target protocol address, 32 bits.
    ArpTpa,
    /// ARP sender hardware address, 48 bits.
    ArpSha,
    /// ARP target hardware address, 48 bits.
    ArpTha,
    /// TCP, UDP or SCTP source port, 16 bits.
    L4Src,
    /// TCP, UDP or SCTP destination port, 16 bits.
    L4Dst,
    /// TCP flags, 12 bits.
    TcpFlags,
    /// ICMP or ICMPv6 type, 8 bits.
    IcmpType,
    /// ICMP or ICMPv6 code, 8 bits.
    IcmpCode,
    /// Neighbour discovery target, 128 bits.
    NdTarget,
    /// Neighbour discovery source link-layer address, 48 bits.
    NdSll,
    /// Neighbour discovery target link-layer address, 48 bits.
    NdTll,
    /// Connection state, 8 bits: new, est, rel, rpl, inv, trk, snat, dnat from the lowest (`OVS_CS_F_*`).
    CtState,
    /// Connection tracking zone, 16 bits.
    CtZone,
    /// Connection mark, 32 bits.
    CtMark,
    /// Connection label, 128 bits.
    CtLabel,
    /// 1 bit: the packet came out of a tunnel. The ingress port tells, so it is always fixed.
    Tunnel,
    /// Tunnel key (VNI, GRE key), 64 bits.
    TunId,
    /// Outer IPv4 source, 32 bits.
    TunSrc,
    /// Outer IPv4 destination, 32 bits.
    TunDst,
    /// Outer IPv6 source, 128 bits.
    Tun6Src,
    /// Outer IPv6 destination, 128 bits.
    Tun6Dst,
    /// Outer TOS, 8 bits.
    TunTos,
    /// Outer TTL, 8 bits.
    TunTtl,
    /// Outer UDP source port, 16 bits.
    TunTpSrc,
    /// Outer UDP destination port, 16 bits.
    TunTpDst,
    /// Recirculation id, 32 bits; always fixed.
    RecircId,
    /// Packet mark, 32 bits.
    PktMark,
    /// Packet priority, 32 bits.
    SkbPriority,
    /// Datapath hash, 32 bits.
    DpHash,
}

impl Header {
    /// How many there are.
    pub const COUNT: usize = Self::DpHash as usize + 1;

    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        ALL.into_iter()
    }

    /// How many bits the field has.
    pub const fn width(self) -> u8 {
        match self {
            Self::Tunnel => 1,
            Self::IpFrag => 2,
            Self::IpProto
            | Self::IpTos
            | Self::IpTtl
            | Self::IcmpType
            | Self::IcmpCode
            | Self::CtState
            | Self::TunTos
            | Self::TunTtl => 8,
            Self::TcpFlags => 12,
            Self::EthType
            | Self::VlanTci
            | Self::InnerVlanTci
            | Self::ArpOp
            | Self::L4Src
            | Self::L4Dst
            | Self::CtZone
            | Self::TunTpSrc
            | Self::TunTpDst => 16,
            Self::Ip6Label => 20,
            Self::MplsLse
            | Self::Ip4Src
            | Self::Ip4Dst
            | Self::ArpSpa
            | Self::ArpTpa
            | Self::CtMark
            | Self::TunSrc
            | Self::TunDst
            | Self::RecircId
            | Self::PktMark
            | Self::SkbPriority
            | Self::DpHash => 32,
            Self::EthSrc | Self::EthDst | Self::ArpSha | Self::ArpTha | Self::NdSll | Self::NdTll => 48,
            Self::TunId => 64,
            Self::Ip6Src | Self::Ip6Dst | Self::NdTarget | Self::CtLabel | Self::Tun6Src | Self::Tun6Dst => {
                128
            }
        }
    }
}

const ALL: [Header; Header::COUNT] = [
    Header::EthSrc,
    Header::EthDst,
    Header::EthType,
    Header::VlanTci,
    Header::InnerVlanTci,
    Header::MplsLse,
    Header::IpProto,
    Header::IpTos,
    Header::IpTtl,
    Header::IpFrag,
    Header::Ip4Src,
    Header::Ip4Dst,
    Header::Ip6Src,
    Header::Ip6Dst,
    Header::Ip6Label,
    Header::ArpOp,
    Header::ArpSpa,
    Header::ArpTpa,
    Header::ArpSha,
    Header::ArpTha,
    Header::L4Src,
    Header::L4Dst,
    Header::TcpFlags,
    Header::IcmpType,
    Header::IcmpCode,
    Header::NdTarget,
    Header::NdSll,
    Header::NdTll,
    Header::CtState,
    Header::CtZone,
    Header::CtMark,
    Header::CtLabel,
    Header::Tunnel,
    Header::TunId,
    Header::TunSrc,
    Header::TunDst,
    Header::Tun6Src,
    Header::Tun6Dst,
    Header::TunTos,
    Header::TunTtl,
    Header::TunTpSrc,
    Header::TunTpDst,
    Header::RecircId,
    Header::PktMark,
    Header::SkbPriority,
    Header::DpHash,
];

/// A port as Open vSwitch knows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortName<'a> {
    /// `Interface.name`.
    pub name: Option<&'a str>,
    /// `Interface.external_ids:iface-id`; empty when the interface has none, `None` when it is not known.
    pub iface_id: Option<&'a str>,
}

/// How far the packets of a megaflow travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Locality {
    /// Between two workloads of this node.
    SameNode,
    /// Between workloads of two nodes.
    CrossNode,
    /// Between a workload and what is outside of the overlay.
    External,
    /// It cannot be told.
    #[default]
    Unknown,
}

impl Locality {
    /// The word for it in conditions, `status` and metrics.
    pub const fn word(self) -> &'static str {
        match self {
            Self::SameNode => "same-node",
            Self::CrossNode => "cross-node",
            Self::External => "external",
            Self::Unknown => "unknown",
        }
    }
}

/// One megaflow as conditions see it. `None` is "not known": a test of it holds sometimes.
#[derive(Clone, Debug)]
pub struct Subject<'a> {
    headers: [Bits; Header::COUNT],
    /// The ingress port.
    pub inport: PortName<'a>,
    /// The ports the packets leave through; `None` when that is decided later (recirculation).
    pub outports: Option<&'a [PortName<'a>]>,
    /// The kind of tunnel the packets are put into ("geneve", "vxlan"…); empty for none.
    pub encap: Option<&'a str>,
    /// Whether header fields are changed.
    pub rewrites: Option<bool>,
    /// Whether the packets go nowhere.
    pub drops: Option<bool>,
    /// Whether the packets are looked up again after these actions.
    pub recirculates: Option<bool>,
    /// How far the packets travel.
    pub locality: Locality,
    /// The tenant.
    pub tenant: Option<&'a str>,
    /// The Kubernetes namespace of the workload; empty for a workload that has none.
    pub namespace: Option<&'a str>,
    /// The workload of this node (virtual machine, pod) that sends the packets, else the one that gets them; empty where
    /// there is neither.
    pub workload: Option<&'a str>,
    /// OVN's name of the chassis at the other end of the tunnel; empty for packets that neither come out of one nor are
    /// put into one.
    pub chassis: Option<&'a str>,
    /// Whether the packets are encrypted on the wire.
    pub encrypted: Option<bool>,
    /// Whether it is the host's own stack that encrypts or drops them, as far as is known. No condition asks for it.
    pub needs_host: bool,
    /// The time since the megaflow appeared.
    pub age: Option<Micros>,
    /// Packets per second.
    pub packets_per_s: Option<u64>,
    /// Bytes per second.
    pub bytes_per_s: Option<u64>,
}

impl Default for Subject<'_> {
    fn default() -> Self {
        Self {
            headers: [Bits::default(); Header::COUNT],
            inport: PortName::default(),
            outports: None,
            encap: None,
            rewrites: None,
            drops: None,
            recirculates: None,
            locality: Locality::Unknown,
            tenant: None,
            namespace: None,
            workload: None,
            chassis: None,
            encrypted: None,
            needs_host: false,
            age: None,
            packets_per_s: None,
            bytes_per_s: None,
        }
    }
}

impl Subject<'_> {
    /// Sets a header field; bits beyond the field's width and value bits outside the mask are dropped.
    pub fn set(&mut self, header: Header, value: u128, mask: u128) {
        let mask = mask & super::constant::ones(header.width());
        self.headers[header as usize] = Bits { value: value & mask, mask };
    }

    /// Sets a header field that is the same in all packets.
    pub fn set_exact(&mut self, header: Header, value: u128) {
        self.set(header, value, u128::MAX);
    }

    /// A header field.
    pub fn get(&self, header: Header) -> Bits {
        self.headers[header as usize]
    }
}
