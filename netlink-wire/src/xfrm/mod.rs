//! IPsec's security associations and policies (`linux/xfrm.h`): dumps and notifications.
//!
//! The kernel sends keys with security associations to whoever has CAP_NET_ADMIN. They are not read here: of an algorithm
//! its name and sizes are, which stand before the key. Whoever received the bytes wipes them.

mod policy;
mod sa;
mod selector;
#[cfg(test)]
mod tests;

use crate::attr::{Attr, Fields};
use crate::ids::{Ifindex, Seq};
use crate::malformed::{Family, Malformed};
use crate::message::{Message, flags};
use crate::writer::MessageWriter;
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::net::IpAddr;

pub use policy::{Policy, PolicyDirection, PolicyIndex, Template};
pub use sa::{Algorithm, Lifetime, Limit, Replay, Reqid, Sa, SaDirection, SaId, SaMode, Spi};
pub use selector::{Prefix, Selector};

/// `XFRM_MSG_NEWSA`
const XFRM_MSG_NEWSA: u16 = 0x10;
/// `XFRM_MSG_DELSA`
const XFRM_MSG_DELSA: u16 = 0x11;
/// `XFRM_MSG_GETSA`
const XFRM_MSG_GETSA: u16 = 0x12;
/// `XFRM_MSG_NEWPOLICY`
const XFRM_MSG_NEWPOLICY: u16 = 0x13;
/// `XFRM_MSG_DELPOLICY`
const XFRM_MSG_DELPOLICY: u16 = 0x14;
/// `XFRM_MSG_GETPOLICY`
const XFRM_MSG_GETPOLICY: u16 = 0x15;
/// `XFRM_MSG_ACQUIRE`
const XFRM_MSG_ACQUIRE: u16 = 0x17;
/// `XFRM_MSG_EXPIRE`
const XFRM_MSG_EXPIRE: u16 = 0x18;
/// `XFRM_MSG_UPDPOLICY`
const XFRM_MSG_UPDPOLICY: u16 = 0x19;
/// `XFRM_MSG_UPDSA`
const XFRM_MSG_UPDSA: u16 = 0x1a;
/// `XFRM_MSG_POLEXPIRE`
const XFRM_MSG_POLEXPIRE: u16 = 0x1b;
/// `XFRM_MSG_FLUSHSA`
const XFRM_MSG_FLUSHSA: u16 = 0x1c;
/// `XFRM_MSG_FLUSHPOLICY`
const XFRM_MSG_FLUSHPOLICY: u16 = 0x1d;

/// `XFRMNLGRP_ACQUIRE`: packets that need a security association that is not there.
pub const XFRMNLGRP_ACQUIRE: u32 = 1;
/// `XFRMNLGRP_EXPIRE`: limits that were reached.
pub const XFRMNLGRP_EXPIRE: u32 = 2;
/// `XFRMNLGRP_SA`: security associations that come, change and go.
pub const XFRMNLGRP_SA: u32 = 3;
/// `XFRMNLGRP_POLICY`: policies that come, change and go.
pub const XFRMNLGRP_POLICY: u32 = 4;

/// `XFRMA_SA`: `struct xfrm_usersa_info`
const XFRMA_SA: u16 = 6;
/// `XFRMA_POLICY`: `struct xfrm_userpolicy_info`
const XFRMA_POLICY: u16 = 7;
/// `XFRMA_POLICY_TYPE`: `struct xfrm_userpolicy_type`
const XFRMA_POLICY_TYPE: u16 = 16;
/// `XFRMA_ALG_AEAD`: `struct xfrm_algo_aead`
const XFRMA_ALG_AEAD: u16 = 18;
/// `XFRMA_MARK`: `struct xfrm_mark`
const XFRMA_MARK: u16 = 21;
/// `XFRMA_OFFLOAD_DEV`: `struct xfrm_user_offload`
const XFRMA_OFFLOAD_DEV: u16 = 28;
/// `XFRMA_IF_ID`
const XFRMA_IF_ID: u16 = 31;
/// `XFRM_OFFLOAD_INBOUND`
const XFRM_OFFLOAD_INBOUND: u8 = 1 << 1;
/// `XFRM_OFFLOAD_PACKET`. Linux 6.2 and newer.
const XFRM_OFFLOAD_PACKET: u8 = 1 << 2;

/// Bytes of `struct xfrm_user_expire`.
const USER_EXPIRE: usize = 232;
/// Bytes of `struct xfrm_user_acquire`.
const USER_ACQUIRE: usize = 280;
/// Bytes of `struct xfrm_user_polexpire`.
const USER_POLEXPIRE: usize = 176;

/// The device that carries a security association or policy: `struct xfrm_user_offload`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct DeviceOffload {
    /// The device.
    pub ifindex: Ifindex,
    /// Whether the device does all of IPsec (`packet`), and not the ciphers alone (`crypto`).
    pub packet: bool,
    /// Whether it is for packets that come in.
    pub inbound: bool,
}

impl DeviceOffload {
    fn read(attr: &Attr<'_>) -> Result<Option<Self>, Malformed> {
        // A signed ifindex, and a byte of flags.
        let bytes = attr.array::<5>()?;
        let ifindex = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        Ok((ifindex != 0).then_some(Self {
            ifindex: Ifindex(ifindex),
            packet: bytes[4] & XFRM_OFFLOAD_PACKET != 0,
            inbound: bytes[4] & XFRM_OFFLOAD_INBOUND != 0,
        }))
    }

    /// The word for how much the device does, as `ip xfrm` and strongSwan have it.
    pub const fn word(&self) -> &'static str {
        if self.packet { "packet" } else { "crypto" }
    }
}

/// What a message says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// A security association is there, or is otherwise now.
    Sa(Box<Sa>),
    /// A security association is gone.
    SaGone {
        /// Which.
        id: SaId,
        /// Bytes and packets that it took, where they are told.
        counted: Option<(u64, u64)>,
    },
    /// All security associations of a protocol are gone; 0 or 255 for every protocol.
    SasGone(u8),
    /// A security association reached its soft limit, or its hard one and is gone.
    SaExpired {
        /// Which.
        id: SaId,
        /// Whether it was the hard one.
        hard: bool,
        /// Bytes and packets that it took.
        counted: (u64, u64),
    },
    /// A policy is there, or is otherwise now.
    Policy(Box<Policy>),
    /// A policy is gone.
    PolicyGone(PolicyIndex),
    /// All policies are gone.
    PoliciesGone,
    /// Packets to that address need a security association that is not there.
    Acquire(IpAddr),
    /// Nothing that matters: of another family, or of a kind that is not kept.
    Nothing,
}

/// Asks for all security associations. The answer has their keys, unless the kernel is locked down: whoever receives it
/// wipes the bytes.
pub fn dump_sas(seq: Seq) -> Vec<u8> {
    dump(XFRM_MSG_GETSA, seq)
}

/// Asks for all policies.
pub fn dump_policies(seq: Seq) -> Vec<u8> {
    dump(XFRM_MSG_GETPOLICY, seq)
}

fn dump(kind: u16, seq: Seq) -> Vec<u8> {
    // A dump needs no structure after the header (xfrm_user_rcv_msg() of net/xfrm/xfrm_user.c looks at filters alone).
    let writer = MessageWriter::new(kind, flags::REQUEST | flags::DUMP, seq);
    writer.finish().unwrap_or_default()
}

impl Event {
    /// Reads one message of a dump or a notification.
    ///
    /// # Errors
    /// A message that is broken, or none of IPsec.
    pub fn decode(message: &Message<'_>) -> Result<Self, Malformed> {
        Ok(match message.header.kind {
            XFRM_MSG_NEWSA | XFRM_MSG_UPDSA => {
                let (info, attrs) = message.split(Family::Xfrm)?;
                Sa::read(&info, attrs)?.map_or(Self::Nothing, |sa| Self::Sa(Box::new(sa)))
            }
            XFRM_MSG_DELSA => {
                let (id, attrs) = message.split(Family::Xfrm)?;
                let counted = attrs.find(XFRMA_SA)?.map(|attr| attr.array()).transpose()?;
                let counted = counted.map(|info: [u8; sa::USERSA_INFO]| {
                    let mut fields = Fields(&info[sa::CURRENT..]);
                    (fields.u64(), fields.u64())
                });
                SaId::read(&id, attrs)?.map_or(Self::Nothing, |id| Self::SaGone { id, counted })
            }
            XFRM_MSG_FLUSHSA => Self::SasGone(message.split::<1>(Family::Xfrm)?.0[0]),
            XFRM_MSG_EXPIRE => {
                let (expire, attrs) = message.split::<USER_EXPIRE>(Family::Xfrm)?;
                let (info, hard) = (expire.first_chunk(), expire[sa::USERSA_INFO] != 0);
                let sa = info.map(|info| Sa::read(info, attrs)).transpose()?.flatten();
                sa.map_or(Self::Nothing, |sa| Self::SaExpired {
                    id: sa.id,
                    hard,
                    counted: (sa.bytes, sa.packets),
                })
            }
            XFRM_MSG_NEWPOLICY | XFRM_MSG_UPDPOLICY => {
                let (info, attrs) = message.split(Family::Xfrm)?;
                Policy::read(&info, attrs)?.map_or(Self::Nothing, |policy| Self::Policy(Box::new(policy)))
            }
            XFRM_MSG_DELPOLICY => {
                let (id, attrs) = message.split::<{ policy::USERPOLICY_ID }>(Family::Xfrm)?;
                match attrs.find(XFRMA_POLICY)? {
                    // The kernel's own index; the request may have named the policy by its selector.
                    Some(attr) => {
                        let info: [u8; policy::USERPOLICY_INFO] = attr.array()?;
                        Self::PolicyGone(PolicyIndex(Fields(&info[156..]).u32()))
                    }
                    None => Self::PolicyGone(PolicyIndex(Fields(&id[56..]).u32())),
                }
            }
            XFRM_MSG_POLEXPIRE => {
                let (expire, attrs) = message.split::<USER_POLEXPIRE>(Family::Xfrm)?;
                let hard = expire[policy::USERPOLICY_INFO] != 0;
                let policy =
                    expire.first_chunk().map(|info| Policy::read(info, attrs)).transpose()?.flatten();
                policy.filter(|_| hard).map_or(Self::Nothing, |policy| Self::PolicyGone(policy.index))
            }
            XFRM_MSG_FLUSHPOLICY => Self::PoliciesGone,
            XFRM_MSG_ACQUIRE => {
                let (acquire, _) = message.split::<USER_ACQUIRE>(Family::Xfrm)?;
                // The template's destination, or in mode transport that of the packet: the selector's.
                let mut fields = Fields(&acquire[40..]);
                let selector = Selector::read(&mut fields);
                selector.dst.map_or(Self::Nothing, |dst| Self::Acquire(dst.address))
            }
            // Events of ageing, reports, mappings: nothing that is kept.
            0x16 | 0x1e..=0x28 => Self::Nothing,
            _ => return Err(message.wrong_type(Family::Xfrm)),
        })
    }
}
