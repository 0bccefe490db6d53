//! The action `ct`: connection tracking.

use super::codec::{Common, Generic, TC_GEN};
use crate::flags::bit_set;
use crate::keys::{take_mask, take_value};
use alloc::boxed::Box;
use core::fmt;
use core::net::{Ipv4Addr, Ipv6Addr};
use core::ops::{BitAnd, BitOr, Not};
use netlink_wire::{Attr, Attrs, Malformed, Masked, MessageWriter};

bit_set! {
    /// `TCA_CT_ACTION`: `TCA_CT_ACT_*`.
    CtFlags(u16) {
        /// `TCA_CT_ACT_COMMIT`: the connection is remembered.
        COMMIT = 1 << 0, "commit";
        /// `TCA_CT_ACT_FORCE`: this packet's direction becomes the connection's.
        FORCE = 1 << 1, "force";
        /// `TCA_CT_ACT_CLEAR`: the packet forgets its connection.
        CLEAR = 1 << 2, "clear";
        /// `TCA_CT_ACT_NAT`: addresses are translated.
        NAT = 1 << 3, "nat";
        /// `TCA_CT_ACT_NAT_SRC`: the source's.
        NAT_SRC = 1 << 4, "src";
        /// `TCA_CT_ACT_NAT_DST`: the destination's.
        NAT_DST = 1 << 5, "dst";
    }
}

/// `TCA_CT_HELPER_*`: the protocol helper that follows the connection.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct CtHelper {
    /// `TCA_CT_HELPER_NAME`
    pub name: Box<str>,
    /// `TCA_CT_HELPER_FAMILY`: `AF_*`.
    pub family: Option<u8>,
    /// `TCA_CT_HELPER_PROTO`: `IPPROTO_*`.
    pub proto: Option<u8>,
}

/// The action `ct`.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Ct {
    /// `TCA_CT_ACTION`
    pub flags: CtFlags,
    /// `TCA_CT_ZONE`
    pub zone: Option<u16>,
    /// `TCA_CT_MARK`: what is written into the connection's mark.
    pub mark: Option<Masked<u32>>,
    /// `TCA_CT_LABELS`: what is written into the connection's labels.
    pub labels: Option<Masked<[u8; 16]>>,
    /// `TCA_CT_NAT_IPV4_MIN`
    pub nat_ipv4_min: Option<Ipv4Addr>,
    /// `TCA_CT_NAT_IPV4_MAX`
    pub nat_ipv4_max: Option<Ipv4Addr>,
    /// `TCA_CT_NAT_IPV6_MIN`
    pub nat_ipv6_min: Option<Ipv6Addr>,
    /// `TCA_CT_NAT_IPV6_MAX`
    pub nat_ipv6_max: Option<Ipv6Addr>,
    /// `TCA_CT_NAT_PORT_MIN`
    pub nat_port_min: Option<u16>,
    /// `TCA_CT_NAT_PORT_MAX`
    pub nat_port_max: Option<u16>,
    /// `TCA_CT_HELPER_NAME`, `TCA_CT_HELPER_FAMILY`, `TCA_CT_HELPER_PROTO`
    pub helper: Option<CtHelper>,
}

const TCA_CT_PARMS: u16 = 1;
const TCA_CT_TM: u16 = 2;
const TCA_CT_ACTION: u16 = 3;
const TCA_CT_ZONE: u16 = 4;
const TCA_CT_MARK: u16 = 5;
const TCA_CT_MARK_MASK: u16 = 6;
const TCA_CT_LABELS: u16 = 7;
const TCA_CT_LABELS_MASK: u16 = 8;
const TCA_CT_NAT_IPV4_MIN: u16 = 9;
const TCA_CT_NAT_IPV4_MAX: u16 = 10;
const TCA_CT_NAT_IPV6_MIN: u16 = 11;
const TCA_CT_NAT_IPV6_MAX: u16 = 12;
const TCA_CT_NAT_PORT_MIN: u16 = 13;
const TCA_CT_NAT_PORT_MAX: u16 = 14;
const TCA_CT_PAD: u16 = 15;
const TCA_CT_HELPER_NAME: u16 = 16;
const TCA_CT_HELPER_FAMILY: u16 = 17;
const TCA_CT_HELPER_PROTO: u16 = 18;

impl Ct {
    pub(super) fn read(options: Attrs<'_>, common: &mut Common) -> Result<Self, Malformed> {
        let mut ct = Self::default();
        for attr in options {
            let attr = attr?;
            match attr.kind() {
                TCA_CT_PARMS => common.generic = Generic::read(&attr.array::<TC_GEN>()?),
                TCA_CT_TM => common.take_times(&attr)?,
                TCA_CT_PAD => {}
                other if ct.take(&attr)? => debug_assert_ne!(other, TCA_CT_PARMS),
                other => common.unknown(other),
            }
        }
        Ok(ct)
    }

    fn take(&mut self, attr: &Attr<'_>) -> Result<bool, Malformed> {
        match attr.kind() {
            TCA_CT_ACTION => self.flags = CtFlags(attr.u16()?),
            TCA_CT_ZONE => self.zone = Some(attr.u16()?),
            TCA_CT_MARK => take_value(&mut self.mark, attr.u32()?),
            TCA_CT_MARK_MASK => take_mask(&mut self.mark, attr.u32()?),
            TCA_CT_LABELS => take_value(&mut self.labels, attr.array()?),
            TCA_CT_LABELS_MASK => take_mask(&mut self.labels, attr.array()?),
            TCA_CT_NAT_IPV4_MIN => self.nat_ipv4_min = Some(attr.ipv4()?),
            TCA_CT_NAT_IPV4_MAX => self.nat_ipv4_max = Some(attr.ipv4()?),
            TCA_CT_NAT_IPV6_MIN => self.nat_ipv6_min = Some(attr.ipv6()?),
            TCA_CT_NAT_IPV6_MAX => self.nat_ipv6_max = Some(attr.ipv6()?),
            TCA_CT_NAT_PORT_MIN => self.nat_port_min = Some(attr.be16()?),
            TCA_CT_NAT_PORT_MAX => self.nat_port_max = Some(attr.be16()?),
            TCA_CT_HELPER_NAME => self.helper_mut().name = Box::from(attr.text()?),
            TCA_CT_HELPER_FAMILY => self.helper_mut().family = Some(attr.u8()?),
            TCA_CT_HELPER_PROTO => self.helper_mut().proto = Some(attr.u8()?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn helper_mut(&mut self) -> &mut CtHelper {
        self.helper.get_or_insert_default()
    }

    pub(super) fn put(&self, writer: &mut MessageWriter, generic: &Generic) {
        writer.put(TCA_CT_PARMS, &generic.with::<TC_GEN>());
        writer.put_u16(TCA_CT_ACTION, self.flags.0);
        if let Some(zone) = self.zone {
            writer.put_u16(TCA_CT_ZONE, zone);
        }
        if let Some(mark) = &self.mark {
            writer.put_u32(TCA_CT_MARK, mark.value);
            writer.put_u32(TCA_CT_MARK_MASK, mark.mask);
        }
        if let Some(labels) = &self.labels {
            writer.put(TCA_CT_LABELS, &labels.value);
            writer.put(TCA_CT_LABELS_MASK, &labels.mask);
        }
        self.put_nat(writer);
        if let Some(helper) = &self.helper {
            writer.put_text(TCA_CT_HELPER_NAME, &helper.name);
            let bytes = [(TCA_CT_HELPER_FAMILY, helper.family), (TCA_CT_HELPER_PROTO, helper.proto)];
            for (attr, value) in bytes {
                if let Some(value) = value {
                    writer.put_u8(attr, value);
                }
            }
        }
    }

    fn put_nat(&self, writer: &mut MessageWriter) {
        for (attr, address) in
            [(TCA_CT_NAT_IPV4_MIN, self.nat_ipv4_min), (TCA_CT_NAT_IPV4_MAX, self.nat_ipv4_max)]
        {
            if let Some(address) = address {
                writer.put(attr, &address.octets());
            }
        }
        for (attr, address) in
            [(TCA_CT_NAT_IPV6_MIN, self.nat_ipv6_min), (TCA_CT_NAT_IPV6_MAX, self.nat_ipv6_max)]
        {
            if let Some(address) = address {
                writer.put(attr, &address.octets());
            }
        }
        for (attr, port) in
            [(TCA_CT_NAT_PORT_MIN, self.nat_port_min), (TCA_CT_NAT_PORT_MAX, self.nat_port_max)]
        {
            if let Some(port) = port {
                writer.put_be16(attr, port);
            }
        }
    }
}
