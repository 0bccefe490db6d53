//! The tunnel a packet came out of, or is to be sent through: `OVS_KEY_ATTR_TUNNEL`.

use super::keys::{RawKey, Side, set, set_raw};
use crate::Masked;
use crate::attr::Attrs;
use crate::malformed::Malformed;
use crate::masked::Bits;
use core::net::{Ipv4Addr, Ipv6Addr};

const OVS_TUNNEL_KEY_ATTR_ID: u16 = 0;
const OVS_TUNNEL_KEY_ATTR_IPV4_SRC: u16 = 1;
const OVS_TUNNEL_KEY_ATTR_IPV4_DST: u16 = 2;
const OVS_TUNNEL_KEY_ATTR_TOS: u16 = 3;
const OVS_TUNNEL_KEY_ATTR_TTL: u16 = 4;
const OVS_TUNNEL_KEY_ATTR_DONT_FRAGMENT: u16 = 5;
const OVS_TUNNEL_KEY_ATTR_CSUM: u16 = 6;
const OVS_TUNNEL_KEY_ATTR_OAM: u16 = 7;
const OVS_TUNNEL_KEY_ATTR_GENEVE_OPTS: u16 = 8;
const OVS_TUNNEL_KEY_ATTR_TP_SRC: u16 = 9;
const OVS_TUNNEL_KEY_ATTR_TP_DST: u16 = 10;
const OVS_TUNNEL_KEY_ATTR_VXLAN_OPTS: u16 = 11;
const OVS_TUNNEL_KEY_ATTR_IPV6_SRC: u16 = 12;
const OVS_TUNNEL_KEY_ATTR_IPV6_DST: u16 = 13;
const OVS_TUNNEL_KEY_ATTR_PAD: u16 = 14;
const OVS_TUNNEL_KEY_ATTR_ERSPAN_OPTS: u16 = 15;
const OVS_TUNNEL_KEY_ATTR_IPV4_INFO_BRIDGE: u16 = 16;
const OVS_VXLAN_EXT_GBP: u16 = 1;

/// `OVS_TUNNEL_KEY_ATTR_DONT_FRAGMENT`, `_CSUM`, `_OAM`, `_IPV4_INFO_BRIDGE`, one bit each.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct TunnelFlags(pub u8);

impl TunnelFlags {
    /// `OVS_TUNNEL_KEY_ATTR_DONT_FRAGMENT`
    pub const DONT_FRAGMENT: Self = Self(1 << 0);
    /// `OVS_TUNNEL_KEY_ATTR_CSUM`
    pub const CSUM: Self = Self(1 << 1);
    /// `OVS_TUNNEL_KEY_ATTR_OAM`
    pub const OAM: Self = Self(1 << 2);
    /// `OVS_TUNNEL_KEY_ATTR_IPV4_INFO_BRIDGE`
    pub const INFO_BRIDGE: Self = Self(1 << 3);

    /// Whether a flag is set.
    pub const fn contains(self, flag: Self) -> bool {
        self.0 & flag.0 != 0
    }
}

impl Bits for TunnelFlags {
    const ZEROS: Self = Self(0);
    const ONES: Self = Self(!0);
    fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

/// The outer headers of a tunnel.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TunnelKey {
    /// `OVS_TUNNEL_KEY_ATTR_ID`: the VNI or the GRE key.
    pub id: Option<Masked<u64>>,
    /// `OVS_TUNNEL_KEY_ATTR_IPV4_SRC`
    pub ipv4_src: Option<Masked<Ipv4Addr>>,
    /// `OVS_TUNNEL_KEY_ATTR_IPV4_DST`
    pub ipv4_dst: Option<Masked<Ipv4Addr>>,
    /// `OVS_TUNNEL_KEY_ATTR_IPV6_SRC`
    pub ipv6_src: Option<Masked<Ipv6Addr>>,
    /// `OVS_TUNNEL_KEY_ATTR_IPV6_DST`
    pub ipv6_dst: Option<Masked<Ipv6Addr>>,
    /// `OVS_TUNNEL_KEY_ATTR_TOS`
    pub tos: Option<Masked<u8>>,
    /// `OVS_TUNNEL_KEY_ATTR_TTL`
    pub ttl: Option<Masked<u8>>,
    /// `OVS_TUNNEL_KEY_ATTR_TP_SRC`
    pub tp_src: Option<Masked<u16>>,
    /// `OVS_TUNNEL_KEY_ATTR_TP_DST`
    pub tp_dst: Option<Masked<u16>>,
    /// The attributes that have no value.
    pub flags: Masked<TunnelFlags>,
    /// `OVS_TUNNEL_KEY_ATTR_GENEVE_OPTS`: options as in the Geneve header (RFC 8926 §3.5).
    pub geneve: Option<RawKey>,
    /// `OVS_VXLAN_EXT_GBP`: the group based policy word.
    pub vxlan_gbp: Option<Masked<u32>>,
    /// `OVS_TUNNEL_KEY_ATTR_ERSPAN_OPTS`: `struct erspan_metadata`.
    pub erspan: Option<RawKey>,
    /// The first attribute without a name here.
    pub unknown: Option<u16>,
}

impl TunnelKey {
    pub(super) fn take(&mut self, attrs: Attrs<'_>, side: Side) -> Result<(), Malformed> {
        let mut flags = TunnelFlags(0);
        for attr in attrs {
            let attr = attr?;
            match attr.kind() {
                OVS_TUNNEL_KEY_ATTR_ID => set(&mut self.id, side, attr.be64()?),
                OVS_TUNNEL_KEY_ATTR_IPV4_SRC => set(&mut self.ipv4_src, side, attr.ipv4()?),
                OVS_TUNNEL_KEY_ATTR_IPV4_DST => set(&mut self.ipv4_dst, side, attr.ipv4()?),
                OVS_TUNNEL_KEY_ATTR_IPV6_SRC => set(&mut self.ipv6_src, side, attr.ipv6()?),
                OVS_TUNNEL_KEY_ATTR_IPV6_DST => set(&mut self.ipv6_dst, side, attr.ipv6()?),
                OVS_TUNNEL_KEY_ATTR_TOS => set(&mut self.tos, side, attr.u8()?),
                OVS_TUNNEL_KEY_ATTR_TTL => set(&mut self.ttl, side, attr.u8()?),
                OVS_TUNNEL_KEY_ATTR_TP_SRC => set(&mut self.tp_src, side, attr.be16()?),
                OVS_TUNNEL_KEY_ATTR_TP_DST => set(&mut self.tp_dst, side, attr.be16()?),
                OVS_TUNNEL_KEY_ATTR_DONT_FRAGMENT => flags.0 |= TunnelFlags::DONT_FRAGMENT.0,
                OVS_TUNNEL_KEY_ATTR_CSUM => flags.0 |= TunnelFlags::CSUM.0,
                OVS_TUNNEL_KEY_ATTR_OAM => flags.0 |= TunnelFlags::OAM.0,
                OVS_TUNNEL_KEY_ATTR_IPV4_INFO_BRIDGE => flags.0 |= TunnelFlags::INFO_BRIDGE.0,
                OVS_TUNNEL_KEY_ATTR_GENEVE_OPTS => set_raw(&mut self.geneve, side, attr.payload()),
                OVS_TUNNEL_KEY_ATTR_VXLAN_OPTS => {
                    if let Some(gbp) = attr.nested().find(OVS_VXLAN_EXT_GBP)? {
                        set(&mut self.vxlan_gbp, side, gbp.u32()?);
                    }
                }
                OVS_TUNNEL_KEY_ATTR_ERSPAN_OPTS => set_raw(&mut self.erspan, side, attr.payload()),
                OVS_TUNNEL_KEY_ATTR_PAD => {}
                other => {
                    self.unknown.get_or_insert(other);
                }
            }
        }
        self.flags.set(side, flags);
        Ok(())
    }
}
