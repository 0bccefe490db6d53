//! Ethernet's addresses and types as values.

use core::fmt;

/// A 48-bit Ethernet address, first byte first on the wire.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct MacAddr(pub [u8; 6]);

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// An Ethernet protocol (`ETH_P_*` of `linux/if_ether.h`), as a number of the host.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct EtherType(pub u16);

impl EtherType {
    /// `ETH_P_ALL`: every protocol, as a filter's protocol.
    pub const ALL: Self = Self(0x0003);
    /// `ETH_P_IP`
    pub const IPV4: Self = Self(0x0800);
    /// `ETH_P_ARP`
    pub const ARP: Self = Self(0x0806);
    /// `ETH_P_TEB`: Transparent Ethernet bridging.
    pub const TEB: Self = Self(0x6558);
    /// `ETH_P_8021Q`
    pub const VLAN: Self = Self(0x8100);
    /// `ETH_P_8021AD`
    pub const QINQ: Self = Self(0x88a8);
    /// `ETH_P_IPV6`
    pub const IPV6: Self = Self(0x86dd);
    /// `ETH_P_MPLS_UC`
    pub const MPLS: Self = Self(0x8847);
    /// `ETH_P_MPLS_MC`
    pub const MPLS_MULTICAST: Self = Self(0x8848);

    /// Whether this is the type of a VLAN tag, 802.1Q or 802.1ad.
    pub const fn is_vlan(self) -> bool {
        matches!(self, Self::VLAN | Self::QINQ)
    }
}

/// `0x0800`, as `ovs-dpctl` and `tc` print it.
impl fmt::Display for EtherType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#06x}", self.0)
    }
}
