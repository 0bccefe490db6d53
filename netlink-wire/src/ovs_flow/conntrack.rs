//! Connection tracking as an action: `OVS_ACTION_ATTR_CT`.

use crate::Masked;
use crate::attr::{Attr, Fields};
use crate::malformed::Malformed;
use core::net::{Ipv4Addr, Ipv6Addr};

/// `OVS_CT_ATTR_*`
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Conntrack<'a> {
    /// `OVS_CT_ATTR_COMMIT`, or `OVS_CT_ATTR_FORCE_COMMIT`.
    pub commit: bool,
    /// `OVS_CT_ATTR_FORCE_COMMIT`
    pub force: bool,
    /// `OVS_CT_ATTR_ZONE`
    pub zone: u16,
    /// `OVS_CT_ATTR_MARK`
    pub mark: Option<Masked<u32>>,
    /// `OVS_CT_ATTR_LABELS`
    pub labels: Option<Masked<[u8; 16]>>,
    /// `OVS_CT_ATTR_HELPER`
    pub helper: Option<&'a str>,
    /// `OVS_CT_ATTR_NAT`
    pub nat: Option<Nat>,
    /// `OVS_CT_ATTR_EVENTMASK`
    pub event_mask: Option<u32>,
    /// `OVS_CT_ATTR_TIMEOUT`
    pub timeout: Option<&'a str>,
}

/// `OVS_NAT_ATTR_*`
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Nat {
    /// `OVS_NAT_ATTR_SRC`
    pub src: bool,
    /// `OVS_NAT_ATTR_DST`
    pub dst: bool,
    /// `OVS_NAT_ATTR_IP_MIN`
    pub ip_min: Option<NatAddress>,
    /// `OVS_NAT_ATTR_IP_MAX`
    pub ip_max: Option<NatAddress>,
    /// `OVS_NAT_ATTR_PROTO_MIN`
    pub port_min: Option<u16>,
    /// `OVS_NAT_ATTR_PROTO_MAX`
    pub port_max: Option<u16>,
    /// `OVS_NAT_ATTR_PERSISTENT`
    pub persistent: bool,
    /// `OVS_NAT_ATTR_PROTO_HASH`
    pub hash: bool,
    /// `OVS_NAT_ATTR_PROTO_RANDOM`
    pub random: bool,
}

/// An address of a NAT range, told apart by its length.
pub type NatAddress = core::net::IpAddr;

impl<'a> Conntrack<'a> {
    pub(super) fn read(attr: &Attr<'a>) -> Result<Self, Malformed> {
        let mut ct = Self::default();
        for attr in attr.nested() {
            let attr = attr?;
            match attr.kind() {
                // OVS_CT_ATTR_COMMIT, _ZONE, _MARK, _LABELS, _HELPER, _NAT, _FORCE_COMMIT, _EVENTMASK, _TIMEOUT
                1 => ct.commit = true,
                2 => ct.zone = attr.u16()?,
                3 => {
                    let bytes = attr.array::<8>()?;
                    let mut fields = Fields(&bytes);
                    ct.mark = Some(Masked::new(fields.u32(), fields.u32()));
                }
                4 => {
                    let bytes = attr.array::<32>()?;
                    let mut fields = Fields(&bytes);
                    ct.labels = Some(Masked::new(fields.bytes(), fields.bytes()));
                }
                5 => ct.helper = Some(attr.text()?),
                6 => ct.nat = Some(Nat::read(&attr)?),
                7 => (ct.commit, ct.force) = (true, true),
                8 => ct.event_mask = Some(attr.u32()?),
                9 => ct.timeout = Some(attr.text()?),
                _ => {}
            }
        }
        Ok(ct)
    }
}

impl Nat {
    fn read(attr: &Attr<'_>) -> Result<Self, Malformed> {
        let mut nat = Self::default();
        for attr in attr.nested() {
            let attr = attr?;
            match attr.kind() {
                // OVS_NAT_ATTR_SRC, _DST, _IP_MIN, _IP_MAX, _PROTO_MIN, _PROTO_MAX, _PERSISTENT, _PROTO_HASH, _PROTO_RANDOM
                1 => nat.src = true,
                2 => nat.dst = true,
                3 => nat.ip_min = Some(read_address(&attr)?),
                4 => nat.ip_max = Some(read_address(&attr)?),
                5 => nat.port_min = Some(attr.u16()?),
                6 => nat.port_max = Some(attr.u16()?),
                7 => nat.persistent = true,
                8 => nat.hash = true,
                9 => nat.random = true,
                _ => {}
            }
        }
        Ok(nat)
    }
}

fn read_address(attr: &Attr<'_>) -> Result<NatAddress, Malformed> {
    match attr.payload() {
        bytes if bytes.len() >= 16 => Ok(Ipv6Addr::from(attr.array::<16>()?).into()),
        _ => Ok(Ipv4Addr::from(attr.array::<4>()?).into()),
    }
}
