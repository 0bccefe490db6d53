//! Actions on whole headers and on what the kernel knows beside the bytes: vlan, mpls, csum and skbedit.

use super::codec::{Common, Generic, TC_GEN};
use crate::flags::bit_set;
use core::fmt;
use core::ops::{BitAnd, BitOr, Not};
use netlink_wire::attr::Fields;
use netlink_wire::{Attrs, EtherType, MacAddr, Malformed, MessageWriter, Why};

/// The action `vlan`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Vlan {
    /// `TCA_VLAN_ACT_POP`: removes the outer tag.
    Pop,
    /// `TCA_VLAN_ACT_PUSH`: adds an outer tag.
    Push {
        /// `TCA_VLAN_PUSH_VLAN_ID`, 12 bits
        id: u16,
        /// `TCA_VLAN_PUSH_VLAN_PROTOCOL`
        protocol: Option<EtherType>,
        /// `TCA_VLAN_PUSH_VLAN_PRIORITY`, 3 bits
        prio: Option<u8>,
    },
    /// `TCA_VLAN_ACT_MODIFY`: changes the outer tag.
    Modify {
        /// `TCA_VLAN_PUSH_VLAN_ID`, 12 bits
        id: u16,
        /// `TCA_VLAN_PUSH_VLAN_PROTOCOL`
        protocol: Option<EtherType>,
        /// `TCA_VLAN_PUSH_VLAN_PRIORITY`, 3 bits
        prio: Option<u8>,
    },
    /// `TCA_VLAN_ACT_POP_ETH`: removes the Ethernet header.
    PopEth,
    /// `TCA_VLAN_ACT_PUSH_ETH`: adds an Ethernet header.
    PushEth {
        /// `TCA_VLAN_PUSH_ETH_DST`
        dst: MacAddr,
        /// `TCA_VLAN_PUSH_ETH_SRC`
        src: MacAddr,
    },
}

const TCA_VLAN_TM: u16 = 1;
const TCA_VLAN_PARMS: u16 = 2;
const TCA_VLAN_PUSH_VLAN_ID: u16 = 3;
const TCA_VLAN_PUSH_VLAN_PROTOCOL: u16 = 4;
const TCA_VLAN_PAD: u16 = 5;
const TCA_VLAN_PUSH_VLAN_PRIORITY: u16 = 6;
const TCA_VLAN_PUSH_ETH_DST: u16 = 7;
const TCA_VLAN_PUSH_ETH_SRC: u16 = 8;

impl Vlan {
    pub(super) fn read(options: Attrs<'_>, common: &mut Common) -> Result<Self, Malformed> {
        let (mut what, mut id, mut protocol, mut prio) = (None, None, None, None);
        let (mut dst, mut src) = (None, None);
        for attr in options {
            let attr = attr?;
            match attr.kind() {
                TCA_VLAN_PARMS => {
                    let bytes = attr.array::<{ TC_GEN + 4 }>()?;
                    common.generic = Generic::read(&bytes);
                    what = Some((Fields(&bytes[TC_GEN..]).i32(), attr));
                }
                TCA_VLAN_PUSH_VLAN_ID => id = Some(attr.u16()?),
                TCA_VLAN_PUSH_VLAN_PROTOCOL => protocol = Some(EtherType(attr.be16()?)),
                TCA_VLAN_PUSH_VLAN_PRIORITY => prio = Some(attr.u8()?),
                TCA_VLAN_PUSH_ETH_DST => dst = Some(MacAddr(attr.array()?)),
                TCA_VLAN_PUSH_ETH_SRC => src = Some(MacAddr(attr.array()?)),
                TCA_VLAN_TM => common.take_times(&attr)?,
                TCA_VLAN_PAD => {}
                other => common.unknown(other),
            }
        }
        let (what, parms) = what.ok_or_else(|| options.missing(TCA_VLAN_PARMS))?;
        let id = || id.ok_or_else(|| options.missing(TCA_VLAN_PUSH_VLAN_ID));
        Ok(match what {
            1 => Self::Pop,
            2 => Self::Push { id: id()?, protocol, prio },
            3 => Self::Modify { id: id()?, protocol, prio },
            4 => Self::PopEth,
            5 => Self::PushEth {
                dst: dst.ok_or_else(|| options.missing(TCA_VLAN_PUSH_ETH_DST))?,
                src: src.ok_or_else(|| options.missing(TCA_VLAN_PUSH_ETH_SRC))?,
            },
            _ => return Err(parms.malformed(Why::BadValue)),
        })
    }

    pub(super) fn put(&self, writer: &mut MessageWriter, generic: &Generic) {
        let what: i32 = match self {
            Self::Pop => 1,
            Self::Push { .. } => 2,
            Self::Modify { .. } => 3,
            Self::PopEth => 4,
            Self::PushEth { .. } => 5,
        };
        let mut parms = generic.with::<{ TC_GEN + 4 }>();
        parms[TC_GEN..].copy_from_slice(&what.to_ne_bytes());
        writer.put(TCA_VLAN_PARMS, &parms);
        match self {
            Self::Push { id, protocol, prio } | Self::Modify { id, protocol, prio } => {
                writer.put_u16(TCA_VLAN_PUSH_VLAN_ID, *id);
                if let Some(protocol) = protocol {
                    writer.put_be16(TCA_VLAN_PUSH_VLAN_PROTOCOL, protocol.0);
                }
                if let Some(prio) = prio {
                    writer.put_u8(TCA_VLAN_PUSH_VLAN_PRIORITY, *prio);
                }
            }
            Self::PushEth { dst, src } => {
                writer.put(TCA_VLAN_PUSH_ETH_DST, &dst.0);
                writer.put(TCA_VLAN_PUSH_ETH_SRC, &src.0);
            }
            Self::Pop | Self::PopEth => {}
        }
    }
}

/// What the action `mpls` does: `TCA_MPLS_ACT_*`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum MplsCommand {
    /// `TCA_MPLS_ACT_POP`: removes the outer entry.
    Pop,
    /// `TCA_MPLS_ACT_PUSH`: adds an outer entry.
    Push,
    /// `TCA_MPLS_ACT_MODIFY`: changes the outer entry.
    Modify,
    /// `TCA_MPLS_ACT_DEC_TTL`: subtracts one from the outer entry's time to live.
    DecTtl,
    /// `TCA_MPLS_ACT_MAC_PUSH`: adds an entry before the Ethernet header.
    MacPush,
}

/// The action `mpls`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Mpls {
    /// What it does.
    pub command: MplsCommand,
    /// `TCA_MPLS_PROTO`: the Ethernet type of what is pushed, or of what a pop uncovers.
    pub protocol: Option<EtherType>,
    /// `TCA_MPLS_LABEL`, 20 bits
    pub label: Option<u32>,
    /// `TCA_MPLS_TC`, 3 bits
    pub tc: Option<u8>,
    /// `TCA_MPLS_TTL`
    pub ttl: Option<u8>,
    /// `TCA_MPLS_BOS`: 1 at the bottom of the stack.
    pub bos: Option<u8>,
}

const TCA_MPLS_TM: u16 = 1;
const TCA_MPLS_PARMS: u16 = 2;
const TCA_MPLS_PAD: u16 = 3;
const TCA_MPLS_PROTO: u16 = 4;
const TCA_MPLS_LABEL: u16 = 5;
const TCA_MPLS_TC: u16 = 6;
const TCA_MPLS_TTL: u16 = 7;
const TCA_MPLS_BOS: u16 = 8;

impl Mpls {
    pub(super) fn read(options: Attrs<'_>, common: &mut Common) -> Result<Self, Malformed> {
        let (mut command, mut protocol) = (None, None);
        let (mut label, mut tc, mut ttl, mut bos) = (None, None, None, None);
        for attr in options {
            let attr = attr?;
            match attr.kind() {
                TCA_MPLS_PARMS => {
                    let bytes = attr.array::<{ TC_GEN + 4 }>()?;
                    common.generic = Generic::read(&bytes);
                    command = Some(match Fields(&bytes[TC_GEN..]).i32() {
                        1 => MplsCommand::Pop,
                        2 => MplsCommand::Push,
                        3 => MplsCommand::Modify,
                        4 => MplsCommand::DecTtl,
                        5 => MplsCommand::MacPush,
                        _ => return Err(attr.malformed(Why::BadValue)),
                    });
                }
                TCA_MPLS_PROTO => protocol = Some(EtherType(attr.be16()?)),
                TCA_MPLS_LABEL => label = Some(attr.u32()?),
                TCA_MPLS_TC => tc = Some(attr.u8()?),
                TCA_MPLS_TTL => ttl = Some(attr.u8()?),
                TCA_MPLS_BOS => bos = Some(attr.u8()?),
                TCA_MPLS_TM => common.take_times(&attr)?,
                TCA_MPLS_PAD => {}
                other => common.unknown(other),
            }
        }
        let command = command.ok_or_else(|| options.missing(TCA_MPLS_PARMS))?;
        // The kernel reports a protocol of every command, and refuses it in a request of these two (tcf_mpls_init()).
        if matches!(command, MplsCommand::Modify | MplsCommand::DecTtl) {
            protocol = None;
        }
        Ok(Self { command, protocol, label, tc, ttl, bos })
    }

    pub(super) fn put(&self, writer: &mut MessageWriter, generic: &Generic) {
        let what: i32 = match self.command {
            MplsCommand::Pop => 1,
            MplsCommand::Push => 2,
            MplsCommand::Modify => 3,
            MplsCommand::DecTtl => 4,
            MplsCommand::MacPush => 5,
        };
        let mut parms = generic.with::<{ TC_GEN + 4 }>();
        parms[TC_GEN..].copy_from_slice(&what.to_ne_bytes());
        writer.put(TCA_MPLS_PARMS, &parms);
        if let Some(protocol) = self.protocol {
            writer.put_be16(TCA_MPLS_PROTO, protocol.0);
        }
        if let Some(label) = self.label {
            writer.put_u32(TCA_MPLS_LABEL, label);
        }
        for (attr, value) in [(TCA_MPLS_TC, self.tc), (TCA_MPLS_TTL, self.ttl), (TCA_MPLS_BOS, self.bos)] {
            if let Some(value) = value {
                writer.put_u8(attr, value);
            }
        }
    }
}

bit_set! {
    /// `TCA_CSUM_UPDATE_FLAG_*`: which checksums.
    CsumFlags(u32) {
        /// `TCA_CSUM_UPDATE_FLAG_IPV4HDR`
        IPV4 = 1, "ip4h";
        /// `TCA_CSUM_UPDATE_FLAG_ICMP`
        ICMP = 2, "icmp";
        /// `TCA_CSUM_UPDATE_FLAG_IGMP`
        IGMP = 4, "igmp";
        /// `TCA_CSUM_UPDATE_FLAG_TCP`
        TCP = 8, "tcp";
        /// `TCA_CSUM_UPDATE_FLAG_UDP`
        UDP = 16, "udp";
        /// `TCA_CSUM_UPDATE_FLAG_UDPLITE`
        UDPLITE = 32, "udplite";
        /// `TCA_CSUM_UPDATE_FLAG_SCTP`
        SCTP = 64, "sctp";
    }
}

/// The action `csum`: computes checksums anew.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Csum {
    /// Which.
    pub update: CsumFlags,
}

const TCA_CSUM_PARMS: u16 = 1;
const TCA_CSUM_TM: u16 = 2;
const TCA_CSUM_PAD: u16 = 3;

impl Csum {
    pub(super) fn read(options: Attrs<'_>, common: &mut Common) -> Result<Self, Malformed> {
        let mut csum = None;
        for attr in options {
            let attr = attr?;
            match attr.kind() {
                TCA_CSUM_PARMS => {
                    let bytes = attr.array::<{ TC_GEN + 4 }>()?;
                    common.generic = Generic::read(&bytes);
                    csum = Some(Self { update: CsumFlags(Fields(&bytes[TC_GEN..]).u32()) });
                }
                TCA_CSUM_TM => common.take_times(&attr)?,
                TCA_CSUM_PAD => {}
                other => common.unknown(other),
            }
        }
        csum.ok_or_else(|| options.missing(TCA_CSUM_PARMS))
    }

    pub(super) fn put(&self, writer: &mut MessageWriter, generic: &Generic) {
        let mut parms = generic.with::<{ TC_GEN + 4 }>();
        parms[TC_GEN..].copy_from_slice(&self.update.0.to_ne_bytes());
        writer.put(TCA_CSUM_PARMS, &parms);
    }
}

/// The action `skbedit`: changes what the kernel knows about a packet beside its bytes.
///
/// Open vSwitch uses `ptype host` before it hands a packet to an internal port.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Skbedit {
    /// `TCA_SKBEDIT_PRIORITY`
    pub priority: Option<u32>,
    /// `TCA_SKBEDIT_QUEUE_MAPPING`
    pub queue: Option<u16>,
    /// `TCA_SKBEDIT_QUEUE_MAPPING_MAX`
    pub queue_max: Option<u16>,
    /// `TCA_SKBEDIT_MARK`
    pub mark: Option<u32>,
    /// `TCA_SKBEDIT_MASK`: of the mark.
    pub mark_mask: Option<u32>,
    /// `TCA_SKBEDIT_PTYPE`: `PACKET_*`, 0 for a packet to this host.
    pub packet_type: Option<u16>,
    /// `TCA_SKBEDIT_FLAGS`: `SKBEDIT_F_*`, of which INHERITDSFIELD and TXQ_SKBHASH are no presence of an attribute.
    pub flags: Option<u64>,
}

const TCA_SKBEDIT_TM: u16 = 1;
const TCA_SKBEDIT_PARMS: u16 = 2;
const TCA_SKBEDIT_PRIORITY: u16 = 3;
const TCA_SKBEDIT_QUEUE_MAPPING: u16 = 4;
const TCA_SKBEDIT_MARK: u16 = 5;
const TCA_SKBEDIT_PAD: u16 = 6;
const TCA_SKBEDIT_PTYPE: u16 = 7;
const TCA_SKBEDIT_MASK: u16 = 8;
const TCA_SKBEDIT_FLAGS: u16 = 9;
const TCA_SKBEDIT_QUEUE_MAPPING_MAX: u16 = 10;

impl Skbedit {
    pub(super) fn read(options: Attrs<'_>, common: &mut Common) -> Result<Self, Malformed> {
        let mut skbedit = Self::default();
        for attr in options {
            let attr = attr?;
            match attr.kind() {
                TCA_SKBEDIT_PARMS => common.generic = Generic::read(&attr.array::<TC_GEN>()?),
                TCA_SKBEDIT_PRIORITY => skbedit.priority = Some(attr.u32()?),
                TCA_SKBEDIT_QUEUE_MAPPING => skbedit.queue = Some(attr.u16()?),
                TCA_SKBEDIT_QUEUE_MAPPING_MAX => skbedit.queue_max = Some(attr.u16()?),
                TCA_SKBEDIT_MARK => skbedit.mark = Some(attr.u32()?),
                TCA_SKBEDIT_MASK => skbedit.mark_mask = Some(attr.u32()?),
                TCA_SKBEDIT_PTYPE => skbedit.packet_type = Some(attr.u16()?),
                TCA_SKBEDIT_FLAGS => skbedit.flags = Some(attr.u64()?),
                TCA_SKBEDIT_TM => common.take_times(&attr)?,
                TCA_SKBEDIT_PAD => {}
                other => common.unknown(other),
            }
        }
        Ok(skbedit)
    }

    pub(super) fn put(&self, writer: &mut MessageWriter, generic: &Generic) {
        writer.put(TCA_SKBEDIT_PARMS, &generic.with::<TC_GEN>());
        let words = [
            (TCA_SKBEDIT_PRIORITY, self.priority),
            (TCA_SKBEDIT_MARK, self.mark),
            (TCA_SKBEDIT_MASK, self.mark_mask),
        ];
        for (attr, value) in words {
            if let Some(value) = value {
                writer.put_u32(attr, value);
            }
        }
        let halves = [
            (TCA_SKBEDIT_QUEUE_MAPPING, self.queue),
            (TCA_SKBEDIT_QUEUE_MAPPING_MAX, self.queue_max),
            (TCA_SKBEDIT_PTYPE, self.packet_type),
        ];
        for (attr, value) in halves {
            if let Some(value) = value {
                writer.put_u16(attr, value);
            }
        }
        if let Some(flags) = self.flags {
            writer.put_u64(TCA_SKBEDIT_FLAGS, flags);
        }
    }
}
