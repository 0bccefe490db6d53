//! Which packets a filter matches: the keys of the flower classifier (`TCA_FLOWER_KEY_*` of `linux/pkt_cls.h`), value
//! and mask as one.

pub(crate) mod attr;
mod codec;
pub mod conntrack;
pub mod eth;
pub mod ip;
pub mod transport;
pub mod tunnel;

pub use conntrack::{Conntrack, CtState};
pub use eth::{Cvlan, Eth, Mpls, Vlan};
pub use ip::{Arp, Ip, Ipv4, Ipv6};
pub use transport::{Icmp, Icmpv6, PortRange, Sctp, Tcp, Udp};
pub use tunnel::{GeneveOptionKey, Tunnel, TunnelHeader, TunnelOptionKeys};

use crate::Filter;
use codec::{Byte, Host32, Net16, Net32};
use netlink_wire::{Attr, EtherType, Malformed, MessageWriter};

pub(crate) use attr::{
    ACT as TCA_FLOWER_ACT, CLASSID as TCA_FLOWER_CLASSID, FLAGS as TCA_FLOWER_FLAGS,
    IN_HW_COUNT as TCA_FLOWER_IN_HW_COUNT, INDEV as TCA_FLOWER_INDEV,
};
pub(crate) use codec::{take_mask, take_value};

/// `TCA_FLOWER_KEY_FLAGS_IS_FRAGMENT`, of [`Ip::flags`].
pub const FRAGMENT: u32 = 1 << 0;
/// `TCA_FLOWER_KEY_FLAGS_FRAG_IS_FIRST`, of [`Ip::flags`].
pub const FIRST_FRAGMENT: u32 = 1 << 1;
/// `TCA_FLOWER_KEY_FLAGS_TUNNEL_CSUM`, of [`TunnelHeader::flags`].
pub const TUNNEL_CSUM: u32 = 1 << 2;
/// `TCA_FLOWER_KEY_FLAGS_TUNNEL_DONT_FRAGMENT`, of [`TunnelHeader::flags`].
pub const TUNNEL_DONT_FRAGMENT: u32 = 1 << 3;
/// `TCA_FLOWER_KEY_FLAGS_TUNNEL_OAM`, of [`TunnelHeader::flags`].
pub const TUNNEL_OAM: u32 = 1 << 4;

codec::keys! {
    /// Keys that Open vSwitch does not use.
    Other {
        /// `TCA_FLOWER_KEY_HASH`
        hash: masked Host32(KEY_HASH, KEY_HASH_MASK);
        /// `TCA_FLOWER_KEY_NUM_OF_VLANS`
        vlans: exact Byte(KEY_NUM_OF_VLANS);
        /// `TCA_FLOWER_KEY_PPPOE_SID`
        pppoe_sid: exact Net16(KEY_PPPOE_SID);
        /// `TCA_FLOWER_KEY_PPP_PROTO`
        ppp_proto: exact Net16(KEY_PPP_PROTO);
        /// `TCA_FLOWER_KEY_L2TPV3_SID`
        l2tpv3_sid: exact Net32(KEY_L2TPV3_SID);
        /// `TCA_FLOWER_L2_MISS`
        l2_miss: exact Byte(L2_MISS);
        /// `TCA_FLOWER_KEY_SPI`
        spi: masked Net32(KEY_SPI, KEY_SPI_MASK);
    }
}

/// Which packets a filter matches. A key that is absent matches everything.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Match {
    /// Ethernet.
    pub eth: Eth,
    /// The outer VLAN tag.
    pub vlan: Vlan,
    /// The inner VLAN tag.
    pub cvlan: Cvlan,
    /// MPLS.
    pub mpls: Mpls,
    /// IPv4 and IPv6.
    pub ip: Ip,
    /// IPv4.
    pub ipv4: Ipv4,
    /// IPv6.
    pub ipv6: Ipv6,
    /// ARP.
    pub arp: Arp,
    /// TCP.
    pub tcp: Tcp,
    /// UDP.
    pub udp: Udp,
    /// SCTP.
    pub sctp: Sctp,
    /// Port ranges.
    pub ports: PortRange,
    /// ICMP.
    pub icmp: Icmp,
    /// ICMPv6.
    pub icmpv6: Icmpv6,
    /// Connection tracking.
    pub ct: Conntrack,
    /// The tunnel it came out of.
    pub tunnel: Tunnel,
    /// What Open vSwitch does not use.
    pub other: Other,
}

impl Match {
    /// Reads an attribute if it is a key. Of a key that is of an unknown kind of tunnel options, the kind.
    pub(crate) fn take(&mut self, attr: &Attr<'_>) -> Result<Taken, Malformed> {
        let taken = match attr.kind() {
            attr::KEY_ETH_DST..=attr::KEY_ETH_TYPE => self.eth.take(attr)?,
            attr::KEY_IP_PROTO | attr::KEY_IP_TOS..=attr::KEY_IP_TTL_MASK => self.ip.take(attr)?,
            attr::KEY_FLAGS | attr::KEY_FLAGS_MASK => self.ip.take(attr)?,
            attr::KEY_IPV4_SRC..=attr::KEY_IPV4_DST_MASK => self.ipv4.take(attr)?,
            attr::KEY_IPV6_SRC..=attr::KEY_IPV6_DST_MASK => self.ipv6.take(attr)?,
            attr::KEY_VLAN_ID..=attr::KEY_VLAN_ETH_TYPE => self.vlan.take(attr)?,
            attr::KEY_CVLAN_ID..=attr::KEY_CVLAN_ETH_TYPE => self.cvlan.take(attr)?,
            attr::KEY_ICMPV4_CODE..=attr::KEY_ICMPV4_TYPE_MASK => self.icmp.take(attr)?,
            attr::KEY_ICMPV6_CODE..=attr::KEY_ICMPV6_TYPE_MASK => self.icmpv6.take(attr)?,
            attr::KEY_ARP_SIP..=attr::KEY_ARP_THA_MASK => self.arp.take(attr)?,
            attr::KEY_MPLS_TTL..=attr::KEY_MPLS_LABEL => self.mpls.take(attr)?,
            attr::KEY_CT_STATE..=attr::KEY_CT_LABELS_MASK => self.ct.take(attr)?,
            attr::KEY_PORT_SRC_MIN..=attr::KEY_PORT_DST_MAX => self.ports.take(attr)?,
            attr::KEY_ENC_OPTS | attr::KEY_ENC_OPTS_MASK => return self.tunnel.options.take(attr),
            // Value and mask attributes of these are not neighbours.
            _ => {
                self.tcp.take(attr)?
                    || self.udp.take(attr)?
                    || self.sctp.take(attr)?
                    || self.tunnel.header.take(attr)?
                    || self.other.take(attr)?
            }
        };
        Ok(if taken { Taken::Yes } else { Taken::No })
    }

    /// Writes the keys there are, of a filter for this protocol.
    ///
    /// Of a tagged packet, a request has the tag's type in `TCA_FLOWER_KEY_ETH_TYPE`, and a report the type after all
    /// tags (`is_vlan_key()` and `fl_dump_key()` of the kernel's `cls_flower.c`). The latter is in the tags' own keys too.
    pub(crate) fn put(&self, protocol: EtherType, writer: &mut MessageWriter) {
        let ethertype = if protocol.is_vlan() { Some(protocol) } else { self.eth.ethertype };
        Eth { ethertype, ..self.eth }.put(writer);
        self.vlan.put(writer);
        self.cvlan.put(writer);
        self.mpls.put(writer);
        self.ip.put(writer);
        self.ipv4.put(writer);
        self.ipv6.put(writer);
        self.arp.put(writer);
        self.tcp.put(writer);
        self.udp.put(writer);
        self.sctp.put(writer);
        self.ports.put(writer);
        self.icmp.put(writer);
        self.icmpv6.put(writer);
        self.ct.put(writer);
        self.tunnel.header.put(writer);
        self.tunnel.options.put(writer);
        self.other.put(writer);
    }
}

impl Match {
    /// The same keys under the same masks without their values, but for those that say what kind of packet it is.
    pub(crate) fn without_values(&self) -> Self {
        Self {
            eth: Eth { ethertype: self.eth.ethertype, ..self.eth.without_values() },
            vlan: Vlan { ethertype: self.vlan.ethertype, ..self.vlan.without_values() },
            cvlan: Cvlan { ethertype: self.cvlan.ethertype, ..self.cvlan.without_values() },
            mpls: self.mpls.without_values(),
            ip: Ip { proto: self.ip.proto, flags: self.ip.flags, ..self.ip.without_values() },
            ipv4: self.ipv4.without_values(),
            ipv6: self.ipv6.without_values(),
            arp: self.arp.without_values(),
            tcp: Tcp { flags: self.tcp.flags, ..self.tcp.without_values() },
            udp: self.udp.without_values(),
            sctp: self.sctp.without_values(),
            ports: self.ports.without_values(),
            icmp: self.icmp.without_values(),
            icmpv6: self.icmpv6.without_values(),
            ct: Conntrack { state: self.ct.state, ..self.ct.without_values() },
            tunnel: self.tunnel.without_values(),
            other: self.other.without_values(),
        }
    }

    /// The type after all tags, as the tags' own keys tell it.
    fn innermost_ethertype(&self) -> Option<EtherType> {
        self.cvlan.ethertype.or(self.vlan.ethertype).filter(|ethertype| !ethertype.is_vlan())
    }

    /// Gives [`Eth::ethertype`] the meaning it has in reports, if this was read from a request.
    pub(crate) fn settle_ethertype(&mut self, protocol: EtherType) {
        if protocol.is_vlan() && self.eth.ethertype.is_some_and(EtherType::is_vlan) {
            self.eth.ethertype = self.innermost_ethertype();
        }
    }

    /// A key which the kernel reports otherwise than it wants it, so that it cannot be written back.
    pub(crate) fn irreversible(&self, protocol: EtherType) -> Option<u16> {
        if protocol.is_vlan() && self.eth.ethertype != self.innermost_ethertype() {
            return Some(attr::KEY_ETH_TYPE);
        }
        let other = &self.other;
        let keys = [
            (other.vlans.is_some(), attr::KEY_NUM_OF_VLANS),
            (other.pppoe_sid.is_some(), attr::KEY_PPPOE_SID),
            (other.ppp_proto.is_some(), attr::KEY_PPP_PROTO),
        ];
        keys.into_iter().find_map(|(is_set, attr)| is_set.then_some(attr))
    }
}

/// What became of an attribute that may be a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Taken {
    /// It is a key.
    Yes,
    /// It is none.
    No,
    /// It holds tunnel options of this kind, which is not understood.
    UnknownOptions(u16),
}

pub(crate) fn put_filter_options(writer: &mut MessageWriter, filter: &Filter) {
    if let Some(class_id) = filter.class_id {
        writer.put_u32(attr::CLASSID, class_id);
    }
    if let Some(indev) = &filter.indev {
        writer.put_text(attr::INDEV, indev);
    }
    filter.keys.put(filter.address.protocol, writer);
}
