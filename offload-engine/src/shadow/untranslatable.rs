//! Why a megaflow has no flower rule of its own. A normal outcome, with a reason to show.

use core::fmt;
use netlink_wire::{DpPort, EtherType, RecircId};

/// Something that a megaflow looks at.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Looked {
    /// The port a packet came in by.
    InPort,
    /// `skb->priority`
    Priority,
    /// `skb->mark`
    Mark,
    /// The datapath's hash.
    DpHash,
    /// Whether a packet has an Ethernet header.
    PacketType,
    /// The state of a connection, or what was kept with it.
    Connection,
    /// The Ethernet type after all tags.
    EtherType,
    /// A VLAN tag.
    Vlan,
    /// A label stack entry.
    MplsLabel,
    /// A label stack entry that is not the outermost.
    InnerMplsLabel,
    /// The protocol of IP.
    IpProto,
    /// Which fragment it is.
    Fragment,
    /// The fragments of IPv6.
    Ipv6Fragment,
    /// IPv6's flow label.
    Ipv6Label,
    /// IPv6's extension headers.
    Ipv6Extensions,
    /// Ports, types or codes of another protocol than the packet's.
    Transport,
    /// What follows the IP header of a fragment.
    TransportOfFragment,
    /// The bits of ARP that also fit packets which flower does not read as ARP.
    Arp,
    /// IPv6 neighbour discovery.
    Nd,
    /// Network service headers.
    Nsh,
    /// The id of a tunnel.
    TunnelId,
    /// The ends of a tunnel.
    TunnelEnds,
    /// A tunnel that its port does not have.
    Tunnel,
    /// Whether a tunnel's packet had a checksum, could be fragmented, or was control traffic.
    TunnelFlags,
    /// Options of a tunnel.
    TunnelOptions,
    /// A key without a name here (`OVS_KEY_ATTR_*`).
    Unknown(u16),
}

impl fmt::Display for Looked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InPort => "the port a packet came in by",
            Self::Priority => "the packet's priority",
            Self::Mark => "the packet mark",
            Self::DpHash => "the datapath's hash (bond or select group)",
            Self::PacketType => "packets without an Ethernet header",
            Self::Connection => "the state of a connection",
            Self::EtherType => "the Ethernet type",
            Self::Vlan => "a VLAN tag",
            Self::MplsLabel => "an MPLS label",
            Self::InnerMplsLabel => "an MPLS label below the outermost",
            Self::IpProto => "the IP protocol",
            Self::Fragment => "which fragment it is",
            Self::Ipv6Fragment => "fragments of IPv6",
            Self::Ipv6Label => "the IPv6 flow label",
            Self::Ipv6Extensions => "the IPv6 extension headers",
            Self::Transport => "ports of a protocol that is not certain",
            Self::TransportOfFragment => "what follows the IP header of a fragment",
            Self::Arp => "fields of ARP that flower reads in requests and replies only",
            Self::Nd => "IPv6 neighbour discovery",
            Self::Nsh => "NSH",
            Self::TunnelId => "the tunnel's id",
            Self::TunnelEnds => "the tunnel's ends",
            Self::Tunnel => "a tunnel that its port does not have",
            Self::TunnelFlags => "the tunnel's flags",
            Self::TunnelOptions => "the tunnel's options",
            Self::Unknown(attr) => return write!(f, "key {attr}, which is not known here"),
        })
    }
}

/// Something that a megaflow does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Done {
    /// `OVS_ACTION_ATTR_USERSPACE`
    Userspace,
    /// `OVS_ACTION_ATTR_SAMPLE`, `OVS_ACTION_ATTR_PSAMPLE`
    Sample,
    /// `OVS_ACTION_ATTR_RECIRC`
    Recirculate,
    /// `OVS_ACTION_ATTR_HASH`
    Hash,
    /// `OVS_ACTION_ATTR_CT`
    Conntrack,
    /// `OVS_ACTION_ATTR_METER`
    Meter,
    /// `OVS_ACTION_ATTR_TRUNC`
    Truncate,
    /// `OVS_ACTION_ATTR_CLONE`
    Clone,
    /// `OVS_ACTION_ATTR_CHECK_PKT_LEN`
    CheckLength,
    /// `OVS_ACTION_ATTR_PUSH_ETH`, `OVS_ACTION_ATTR_POP_ETH`
    Ethernet,
    /// `OVS_ACTION_ATTR_PUSH_NSH`, `OVS_ACTION_ATTR_POP_NSH`
    Nsh,
    /// `OVS_ACTION_ATTR_ADD_MPLS`
    AddMpls,
    /// `OVS_ACTION_ATTR_PUSH_MPLS`, `OVS_ACTION_ATTR_POP_MPLS` of a packet or an entry that TC treats otherwise.
    Mpls,
    /// `OVS_ACTION_ATTR_DEC_TTL`
    DecTtl,
    /// `OVS_ACTION_ATTR_PUSH_VLAN` of a tag that is none.
    Vlan,
    /// A set action of this key (`OVS_KEY_ATTR_*`), or of bits of it.
    Set(u16),
    /// A set action that needs a checksum which TC would compute over one fragment.
    SetOfFragment,
    /// A set action below two VLAN tags, where the action `pedit` does not find the IP header.
    SetBelowTags,
    /// A set action of a header that the packet need not have.
    SetOfOther,
    /// A tunnel's header with something in it that the action `tunnel_key` lacks.
    Tunnel,
    /// Output to a tunnel's port, without a tunnel set.
    OutputWithoutTunnel,
    /// An action without a name here.
    Unknown(u16),
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Userspace => "it sends packets to ovs-vswitchd (controller, sFlow, slow path)",
            Self::Sample => "it samples packets",
            Self::Recirculate => "it recirculates packets",
            Self::Hash => "it computes a hash (bond or select group)",
            Self::Conntrack => "it tracks connections",
            Self::Meter => "it has a meter",
            Self::Truncate => "it truncates packets",
            Self::Clone => "it clones packets",
            Self::CheckLength => "it treats packets by their length",
            Self::Ethernet => "it pushes or pops an Ethernet header",
            Self::Nsh => "it pushes or pops an NSH header",
            Self::AddMpls => "it adds an MPLS label below the network header",
            Self::Mpls => "it pushes or pops an MPLS label that TC cannot",
            Self::DecTtl => "it decrements a time to live that is not certain",
            Self::Vlan => "it pushes a VLAN tag that TC cannot",
            Self::Set(key) => return write!(f, "it sets key {key} in a way that TC cannot"),
            Self::SetOfFragment => "it rewrites fragments whose checksum TC cannot compute",
            Self::SetBelowTags => "it rewrites an IP header below two VLAN tags",
            Self::SetOfOther => "it rewrites a header that its packets need not have",
            Self::Tunnel => "it sets a tunnel header that TC cannot",
            Self::OutputWithoutTunnel => "it sends packets to a tunnel's port without a tunnel",
            Self::Unknown(attr) => return write!(f, "it has action {attr}, which is not known here"),
        })
    }
}

/// Why a megaflow has no flower rule of its own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Untranslatable {
    /// It was recirculated: shadow mode cannot tell what comes before it.
    Recirculated(RecircId),
    /// It looks at something that flower has no key for.
    NoKey(Looked),
    /// It looks at some bits of something of which flower takes all or none.
    Partly(Looked),
    /// It looks at something that a rule for a NIC never sees, or in a way that no packet fits.
    NoPacket(Looked),
    /// It does something that TC cannot, or does otherwise.
    Action(Done),
    /// A port of it is not known.
    UnknownPort(DpPort),
    /// Its packets come from the host, not by a NIC.
    FromHost(DpPort),
    /// The kernel lacks what it would take.
    Kernel(Missing),
    /// There is no priority for rules of this Ethernet type.
    NoPriority(EtherType),
    /// It would have more actions than a filter can (`TCA_ACT_MAX_PRIO`).
    TooManyActions,
}

/// What a kernel may lack.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Missing {
    /// `TCA_FLOWER_KEY_ENC_FLAGS`
    TunnelFlags,
    /// `TCA_TUNNEL_KEY_NO_FRAG`
    TunnelNoFragment,
}

impl fmt::Display for Untranslatable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Recirculated(id) => write!(f, "it takes recirculated packets (recirc_id {id})"),
            Self::NoKey(what) => write!(f, "it matches {what}, which flower cannot"),
            Self::Partly(what) => write!(f, "it matches some bits of {what}, and flower takes all or none"),
            Self::NoPacket(what) => write!(f, "it matches {what} in a way that no packet in a NIC fits"),
            Self::Action(what) => what.fmt(f),
            Self::UnknownPort(port) => write!(f, "port {port} of the datapath is not known"),
            Self::FromHost(port) => write!(f, "its packets come from this host (port {port} of the datapath)"),
            Self::Kernel(Missing::TunnelFlags) => {
                f.write_str("it matches a tunnel's flags, which this kernel's flower cannot (before Linux 6.11)")
            }
            Self::Kernel(Missing::TunnelNoFragment) => f.write_str(
                "it forbids fragments of a tunnel's packets, which this kernel's tunnel_key cannot (before Linux 6.3)",
            ),
            Self::NoPriority(ethertype) => {
                write!(f, "there is no priority for rules of Ethernet type {ethertype}")
            }
            Self::TooManyActions => f.write_str("it would take more than 32 actions"),
        }
    }
}

impl core::error::Error for Untranslatable {}

impl Untranslatable {
    /// The word for it among those of all refusals.
    pub(crate) const fn refusal_label(&self) -> &'static str {
        match self {
            Self::Recirculated(_) => "untranslatable_recirculated",
            Self::NoKey(_) => "untranslatable_no_key",
            Self::Partly(_) => "untranslatable_partial_mask",
            Self::NoPacket(_) => "untranslatable_no_packet",
            Self::Action(_) => "untranslatable_action",
            Self::UnknownPort(_) => "untranslatable_unknown_port",
            Self::FromHost(_) => "untranslatable_from_host",
            Self::Kernel(_) => "untranslatable_kernel",
            Self::NoPriority(_) => "untranslatable_no_priority",
            Self::TooManyActions => "untranslatable_too_many_actions",
        }
    }

    /// A word for it, for a metric's label.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Recirculated(_) => "recirculated",
            Self::NoKey(_) => "no_key",
            Self::Partly(_) => "partial_mask",
            Self::NoPacket(_) => "no_packet",
            Self::Action(_) => "action",
            Self::UnknownPort(_) => "unknown_port",
            Self::FromHost(_) => "from_host",
            Self::Kernel(_) => "kernel",
            Self::NoPriority(_) => "no_priority",
            Self::TooManyActions => "too_many_actions",
        }
    }
}
