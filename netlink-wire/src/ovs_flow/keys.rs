//! Which packets a megaflow takes: `OVS_KEY_ATTR_*`, value and mask as one.

use super::tunnel::TunnelKey;
use crate::attr::{Attr, Attrs, Fields};
use crate::malformed::{Malformed, Why};
use crate::{Bits, DpPort, EtherType, MacAddr, Masked, RecircId};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::net::{Ipv4Addr, Ipv6Addr};

/// Which of a megaflow's two lists of keys is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Side {
    /// `OVS_FLOW_ATTR_KEY`, with a list of masks to follow. A key that has none matches everything.
    Value,
    /// `OVS_FLOW_ATTR_MASK`
    Mask,
    /// `OVS_FLOW_ATTR_KEY`, without a list of masks: every bit matters.
    Exact,
}

impl<T: Bits> Masked<T> {
    #[inline]
    pub(super) fn set(&mut self, side: Side, bits: T) {
        match side {
            Side::Value => self.value = bits,
            Side::Mask => self.mask = bits,
            Side::Exact => *self = Self::exact(bits),
        }
    }
}

/// Sets one side of a key that may be absent.
#[inline]
pub(super) fn set<T: Bits>(key: &mut Option<Masked<T>>, side: Side, bits: T) {
    key.get_or_insert(Masked::ANY).set(side, bits);
}

/// Sets one side of a key of variable length.
pub(super) fn set_raw(key: &mut Option<RawKey>, side: Side, bytes: &[u8]) {
    let key = key.get_or_insert_default();
    match side {
        Side::Value => key.value = Box::from(bytes),
        Side::Mask => key.mask = Box::from(bytes),
        Side::Exact => {
            key.value = Box::from(bytes);
            key.mask = alloc::vec![0xff; bytes.len()].into_boxed_slice();
        }
    }
}

/// A key of variable length, kept as it is on the wire.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RawKey {
    /// The value.
    pub value: Box<[u8]>,
    /// Its mask; as long as the value, or empty if nothing of it matters.
    pub mask: Box<[u8]>,
}

impl RawKey {
    /// Whether nothing of it matters.
    pub fn is_any(&self) -> bool {
        self.mask.iter().all(|byte| *byte == 0)
    }
}

/// A key that this crate has no name for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnknownKey {
    /// Its number.
    pub attr: u16,
    /// Its value and mask.
    pub key: RawKey,
}

/// Defines a key that is a fixed structure on the wire.
macro_rules! structure {
    (
        $(#[$doc:meta])*
        $name:ident[$length:literal] { $($(#[$field_doc:meta])* $field:ident: $type:ty = $read:expr,)* }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: Masked<$type>,)*
        }

        impl $name {
            const LENGTH: usize = $length;

            #[inline]
            fn set(key: &mut Option<Self>, side: Side, attr: &Attr<'_>) -> Result<(), Malformed> {
                let bytes = attr.array::<{ Self::LENGTH }>()?;
                let key = key.get_or_insert(Self { $($field: Masked::ANY,)* });
                let mut fields = Fields(&bytes);
                $(key.$field.set(side, $read(&mut fields));)*
                Ok(())
            }

            /// Whether nothing of it matters.
            pub fn is_any(&self) -> bool {
                $(self.$field.is_any())&&*
            }
        }
    };
}

fn mac(fields: &mut Fields<'_>) -> MacAddr {
    MacAddr(fields.bytes())
}

structure! {
    /// `OVS_KEY_ATTR_ETHERNET`
    EthKey[12] {
        /// Source.
        src: MacAddr = mac,
        /// Destination.
        dst: MacAddr = mac,
    }
}

structure! {
    /// `OVS_KEY_ATTR_IPV4`
    Ipv4Key[12] {
        /// Source.
        src: Ipv4Addr = Fields::ipv4,
        /// Destination.
        dst: Ipv4Addr = Fields::ipv4,
        /// `IPPROTO_*`
        proto: u8 = Fields::u8,
        /// Type of service.
        tos: u8 = Fields::u8,
        /// Time to live.
        ttl: u8 = Fields::u8,
        /// `OVS_FRAG_TYPE_*`: 0 whole, 1 a first fragment, 2 a later one.
        frag: u8 = Fields::u8,
    }
}

structure! {
    /// `OVS_KEY_ATTR_IPV6`
    Ipv6Key[40] {
        /// Source.
        src: Ipv6Addr = Fields::ipv6,
        /// Destination.
        dst: Ipv6Addr = Fields::ipv6,
        /// Flow label, 20 bits.
        label: u32 = Fields::be32,
        /// `IPPROTO_*`
        proto: u8 = Fields::u8,
        /// Traffic class.
        tclass: u8 = Fields::u8,
        /// Hop limit.
        hlimit: u8 = Fields::u8,
        /// `OVS_FRAG_TYPE_*`: 0 whole, 1 a first fragment, 2 a later one.
        frag: u8 = Fields::u8,
    }
}

structure! {
    /// `OVS_KEY_ATTR_TCP`, `OVS_KEY_ATTR_UDP`, `OVS_KEY_ATTR_SCTP`
    PortsKey[4] {
        /// Source.
        src: u16 = Fields::be16,
        /// Destination.
        dst: u16 = Fields::be16,
    }
}

structure! {
    /// `OVS_KEY_ATTR_ICMP`, `OVS_KEY_ATTR_ICMPV6`
    IcmpKey[2] {
        /// Type.
        kind: u8 = Fields::u8,
        /// Code.
        code: u8 = Fields::u8,
    }
}

structure! {
    /// `OVS_KEY_ATTR_ARP`
    ArpKey[22] {
        /// Sender's IPv4 address.
        sip: Ipv4Addr = Fields::ipv4,
        /// Target's IPv4 address.
        tip: Ipv4Addr = Fields::ipv4,
        /// Operation: 1 request, 2 reply.
        op: u16 = Fields::be16,
        /// Sender's Ethernet address.
        sha: MacAddr = mac,
        /// Target's Ethernet address.
        tha: MacAddr = mac,
    }
}

structure! {
    /// `OVS_KEY_ATTR_ND`: IPv6 neighbour discovery.
    NdKey[28] {
        /// Target's address.
        target: Ipv6Addr = Fields::ipv6,
        /// Source link-layer address.
        sll: MacAddr = mac,
        /// Target link-layer address.
        tll: MacAddr = mac,
    }
}

structure! {
    /// `OVS_KEY_ATTR_CT_ORIG_TUPLE_IPV4`: the first packet of the connection.
    CtTupleIpv4Key[13] {
        /// Source.
        src: Ipv4Addr = Fields::ipv4,
        /// Destination.
        dst: Ipv4Addr = Fields::ipv4,
        /// Source port.
        src_port: u16 = Fields::be16,
        /// Destination port.
        dst_port: u16 = Fields::be16,
        /// `IPPROTO_*`
        proto: u8 = Fields::u8,
    }
}

structure! {
    /// `OVS_KEY_ATTR_CT_ORIG_TUPLE_IPV6`: the first packet of the connection.
    CtTupleIpv6Key[37] {
        /// Source.
        src: Ipv6Addr = Fields::ipv6,
        /// Destination.
        dst: Ipv6Addr = Fields::ipv6,
        /// Source port.
        src_port: u16 = Fields::be16,
        /// Destination port.
        dst_port: u16 = Fields::be16,
        /// `IPPROTO_*`
        proto: u8 = Fields::u8,
    }
}

/// One VLAN tag: `OVS_KEY_ATTR_VLAN` and the Ethernet type before it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct VlanKey {
    /// `OVS_KEY_ATTR_ETHERTYPE`: 802.1Q or 802.1ad.
    pub tpid: Masked<EtherType>,
    /// `OVS_KEY_ATTR_VLAN`: priority, bit 12 (which Open vSwitch sets where there is a tag), and id.
    pub tci: Masked<u16>,
}

impl VlanKey {
    /// Whether nothing of it matters.
    pub fn is_any(&self) -> bool {
        self.tpid.is_any() && self.tci.is_any()
    }
}

/// Tags that the kernel datapath tells apart (`FLOW_MAX_VLAN_HEADERS`).
pub const VLANS_MAX: usize = 2;
/// MPLS entries that the kernel datapath tells apart (`MPLS_LABEL_DEPTH`).
pub const MPLS_MAX: usize = 3;

/// Which packets a megaflow takes. A key that is absent is not looked at.
///
/// Only keys of variable length (tunnel options, NSH, unknown ones) allocate.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct FlowKeys {
    /// `OVS_KEY_ATTR_PRIORITY`: `skb->priority`
    pub priority: Option<Masked<u32>>,
    /// `OVS_KEY_ATTR_IN_PORT`
    pub in_port: Option<Masked<DpPort>>,
    /// `OVS_KEY_ATTR_SKB_MARK`
    pub skb_mark: Option<Masked<u32>>,
    /// `OVS_KEY_ATTR_DP_HASH`
    pub dp_hash: Option<Masked<u32>>,
    /// `OVS_KEY_ATTR_RECIRC_ID`
    pub recirc_id: Option<Masked<RecircId>>,
    /// `OVS_KEY_ATTR_TUNNEL`: the tunnel a packet came out of.
    pub tunnel: Option<TunnelKey>,
    /// `OVS_KEY_ATTR_CT_STATE`: `OVS_CS_F_*`
    pub ct_state: Option<Masked<u32>>,
    /// `OVS_KEY_ATTR_CT_ZONE`
    pub ct_zone: Option<Masked<u16>>,
    /// `OVS_KEY_ATTR_CT_MARK`
    pub ct_mark: Option<Masked<u32>>,
    /// `OVS_KEY_ATTR_CT_LABELS`
    pub ct_labels: Option<Masked<[u8; 16]>>,
    /// `OVS_KEY_ATTR_CT_ORIG_TUPLE_IPV4`
    pub ct_tuple_ipv4: Option<CtTupleIpv4Key>,
    /// `OVS_KEY_ATTR_CT_ORIG_TUPLE_IPV6`
    pub ct_tuple_ipv6: Option<CtTupleIpv6Key>,
    /// `OVS_KEY_ATTR_PACKET_TYPE`, which Open vSwitch uses for itself.
    pub packet_type: Option<Masked<u32>>,
    /// `OVS_KEY_ATTR_ETHERNET`
    pub eth: Option<EthKey>,
    /// `OVS_KEY_ATTR_VLAN`, the outer tag first.
    pub vlans: [Option<VlanKey>; VLANS_MAX],
    /// `OVS_KEY_ATTR_ETHERTYPE`, after all tags.
    pub ethertype: Option<Masked<EtherType>>,
    /// `OVS_KEY_ATTR_MPLS`: label stack entries, the outer one first.
    pub mpls: [Option<Masked<u32>>; MPLS_MAX],
    /// `OVS_KEY_ATTR_IPV4`
    pub ipv4: Option<Ipv4Key>,
    /// `OVS_KEY_ATTR_IPV6`
    pub ipv6: Option<Ipv6Key>,
    /// `OVS_KEY_ATTR_IPV6_EXTHDRS`: which extension headers there are.
    pub ipv6_exthdrs: Option<Masked<u16>>,
    /// `OVS_KEY_ATTR_TCP`
    pub tcp: Option<PortsKey>,
    /// `OVS_KEY_ATTR_TCP_FLAGS`
    pub tcp_flags: Option<Masked<u16>>,
    /// `OVS_KEY_ATTR_UDP`
    pub udp: Option<PortsKey>,
    /// `OVS_KEY_ATTR_SCTP`
    pub sctp: Option<PortsKey>,
    /// `OVS_KEY_ATTR_ICMP`
    pub icmp: Option<IcmpKey>,
    /// `OVS_KEY_ATTR_ICMPV6`
    pub icmpv6: Option<IcmpKey>,
    /// `OVS_KEY_ATTR_ARP`
    pub arp: Option<ArpKey>,
    /// `OVS_KEY_ATTR_ND`
    pub nd: Option<NdKey>,
    /// `OVS_KEY_ATTR_NSH`: nested `OVS_NSH_KEY_ATTR_*`, as they are.
    pub nsh: Option<RawKey>,
    /// Keys without a name here.
    pub unknown: Vec<UnknownKey>,
}

const OVS_KEY_ATTR_ENCAP: u16 = 1;
const OVS_KEY_ATTR_PRIORITY: u16 = 2;
const OVS_KEY_ATTR_IN_PORT: u16 = 3;
pub(super) const OVS_KEY_ATTR_ETHERNET: u16 = 4;
const OVS_KEY_ATTR_VLAN: u16 = 5;
const OVS_KEY_ATTR_ETHERTYPE: u16 = 6;
const OVS_KEY_ATTR_IPV4: u16 = 7;
const OVS_KEY_ATTR_IPV6: u16 = 8;
const OVS_KEY_ATTR_TCP: u16 = 9;
const OVS_KEY_ATTR_UDP: u16 = 10;
const OVS_KEY_ATTR_ICMP: u16 = 11;
const OVS_KEY_ATTR_ICMPV6: u16 = 12;
const OVS_KEY_ATTR_ARP: u16 = 13;
const OVS_KEY_ATTR_ND: u16 = 14;
const OVS_KEY_ATTR_SKB_MARK: u16 = 15;
const OVS_KEY_ATTR_TUNNEL: u16 = 16;
const OVS_KEY_ATTR_SCTP: u16 = 17;
const OVS_KEY_ATTR_TCP_FLAGS: u16 = 18;
const OVS_KEY_ATTR_DP_HASH: u16 = 19;
const OVS_KEY_ATTR_RECIRC_ID: u16 = 20;
const OVS_KEY_ATTR_MPLS: u16 = 21;
const OVS_KEY_ATTR_CT_STATE: u16 = 22;
const OVS_KEY_ATTR_CT_ZONE: u16 = 23;
const OVS_KEY_ATTR_CT_MARK: u16 = 24;
const OVS_KEY_ATTR_CT_LABELS: u16 = 25;
const OVS_KEY_ATTR_CT_ORIG_TUPLE_IPV4: u16 = 26;
const OVS_KEY_ATTR_CT_ORIG_TUPLE_IPV6: u16 = 27;
const OVS_KEY_ATTR_NSH: u16 = 28;
const OVS_KEY_ATTR_PACKET_TYPE: u16 = 29;
const OVS_KEY_ATTR_IPV6_EXTHDRS: u16 = 32;
/// More keys without a name than any message has.
const UNKNOWN_MAX: usize = 32;

impl FlowKeys {
    /// Reads one of the two lists.
    pub(super) fn take(&mut self, attrs: Attrs<'_>, side: Side) -> Result<(), Malformed> {
        let mut level = Some(attrs);
        let mut depth = 0;
        while let Some(attrs) = level.take() {
            let (mut tci, mut ethertype) = (None, None);
            for attr in attrs {
                let attr = attr?;
                match attr.kind() {
                    OVS_KEY_ATTR_ENCAP => level = Some(attr.nested()),
                    OVS_KEY_ATTR_VLAN => tci = Some(attr.be16()?),
                    OVS_KEY_ATTR_ETHERTYPE => ethertype = Some(EtherType(attr.be16()?)),
                    _ => self.take_one(&attr, side)?,
                }
            }
            // A type beside a tag is the tag's own; the one after all tags is in the innermost list.
            match tci {
                Some(tci) => {
                    let vlan = self.vlans.get_mut(depth).ok_or_else(|| too_deep(attrs))?;
                    let any = VlanKey { tpid: Masked::ANY, tci: Masked::ANY };
                    let vlan = vlan.get_or_insert(any);
                    vlan.tci.set(side, tci);
                    if let Some(tpid) = ethertype {
                        vlan.tpid.set(side, tpid);
                    }
                }
                None => {
                    if let Some(ethertype) = ethertype {
                        set(&mut self.ethertype, side, ethertype);
                    }
                }
            }
            depth += 1;
            if depth > VLANS_MAX + 1 {
                return Err(too_deep(attrs));
            }
        }
        Ok(())
    }

    /// Reads one key that is not about VLAN tags.
    #[inline]
    pub(super) fn take_one(&mut self, attr: &Attr<'_>, side: Side) -> Result<(), Malformed> {
        match attr.kind() {
            OVS_KEY_ATTR_PRIORITY => set(&mut self.priority, side, attr.u32()?),
            OVS_KEY_ATTR_IN_PORT => set(&mut self.in_port, side, DpPort(attr.u32()?)),
            OVS_KEY_ATTR_ETHERNET => EthKey::set(&mut self.eth, side, attr)?,
            OVS_KEY_ATTR_IPV4 => Ipv4Key::set(&mut self.ipv4, side, attr)?,
            OVS_KEY_ATTR_IPV6 => Ipv6Key::set(&mut self.ipv6, side, attr)?,
            OVS_KEY_ATTR_TCP => PortsKey::set(&mut self.tcp, side, attr)?,
            OVS_KEY_ATTR_UDP => PortsKey::set(&mut self.udp, side, attr)?,
            OVS_KEY_ATTR_ICMP => IcmpKey::set(&mut self.icmp, side, attr)?,
            OVS_KEY_ATTR_ICMPV6 => IcmpKey::set(&mut self.icmpv6, side, attr)?,
            OVS_KEY_ATTR_ARP => ArpKey::set(&mut self.arp, side, attr)?,
            OVS_KEY_ATTR_ND => NdKey::set(&mut self.nd, side, attr)?,
            OVS_KEY_ATTR_SKB_MARK => set(&mut self.skb_mark, side, attr.u32()?),
            OVS_KEY_ATTR_TUNNEL => self.tunnel.get_or_insert_default().take(attr.nested(), side)?,
            OVS_KEY_ATTR_SCTP => PortsKey::set(&mut self.sctp, side, attr)?,
            OVS_KEY_ATTR_TCP_FLAGS => set(&mut self.tcp_flags, side, attr.be16()?),
            OVS_KEY_ATTR_DP_HASH => set(&mut self.dp_hash, side, attr.u32()?),
            OVS_KEY_ATTR_RECIRC_ID => set(&mut self.recirc_id, side, RecircId(attr.u32()?)),
            OVS_KEY_ATTR_MPLS => {
                for (entry, bytes) in self.mpls.iter_mut().zip(attr.payload().chunks_exact(4)) {
                    set(entry, side, Fields(bytes).be32());
                }
            }
            OVS_KEY_ATTR_CT_STATE => set(&mut self.ct_state, side, attr.u32()?),
            OVS_KEY_ATTR_CT_ZONE => set(&mut self.ct_zone, side, attr.u16()?),
            OVS_KEY_ATTR_CT_MARK => set(&mut self.ct_mark, side, attr.u32()?),
            OVS_KEY_ATTR_CT_LABELS => set(&mut self.ct_labels, side, attr.array()?),
            OVS_KEY_ATTR_CT_ORIG_TUPLE_IPV4 => CtTupleIpv4Key::set(&mut self.ct_tuple_ipv4, side, attr)?,
            OVS_KEY_ATTR_CT_ORIG_TUPLE_IPV6 => CtTupleIpv6Key::set(&mut self.ct_tuple_ipv6, side, attr)?,
            OVS_KEY_ATTR_NSH => set_raw(&mut self.nsh, side, attr.payload()),
            OVS_KEY_ATTR_PACKET_TYPE => set(&mut self.packet_type, side, attr.be32()?),
            OVS_KEY_ATTR_IPV6_EXTHDRS => set(&mut self.ipv6_exthdrs, side, attr.u16()?),
            // Only inside a set action: Ethernet types are read with the tags they belong to.
            OVS_KEY_ATTR_ETHERTYPE => set(&mut self.ethertype, side, EtherType(attr.be16()?)),
            _ => self.take_unknown(attr, side)?,
        }
        Ok(())
    }

    #[cold]
    fn take_unknown(&mut self, attr: &Attr<'_>, side: Side) -> Result<(), Malformed> {
        let known = self.unknown.iter_mut().position(|known| known.attr == attr.kind());
        let at = match known {
            Some(at) => at,
            None if self.unknown.len() == UNKNOWN_MAX => return Err(attr.malformed(Why::TooMany)),
            None => {
                self.unknown.push(UnknownKey { attr: attr.kind(), key: RawKey::default() });
                self.unknown.len() - 1
            }
        };
        let mut key = Some(core::mem::take(&mut self.unknown[at].key));
        set_raw(&mut key, side, attr.payload());
        self.unknown[at].key = key.unwrap_or_default();
        Ok(())
    }

    /// The port a packet came in by, if it is one port.
    pub fn in_port(&self) -> Option<DpPort> {
        self.in_port.and_then(|port| port.as_exact())
    }

    /// The recirculation id; 0 where none is asked for.
    pub fn recirc_id(&self) -> RecircId {
        self.recirc_id.map_or(RecircId(0), |id| id.significant())
    }
}

#[cold]
fn too_deep(attrs: Attrs<'_>) -> Malformed {
    Malformed { why: Why::TooMany, ..attrs.missing(OVS_KEY_ATTR_ENCAP) }
}
