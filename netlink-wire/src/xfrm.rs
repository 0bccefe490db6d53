//! IPsec's security associations and policies, as far as they say which device carries them (`linux/xfrm.h`).
//!
//! Keys, addresses and counters are not read.

use crate::attr::Attrs;
use crate::ids::{Ifindex, Seq};
use crate::malformed::{Family, Malformed};
use crate::message::{Message, flags};
use crate::writer::MessageWriter;
use alloc::vec::Vec;

/// `XFRM_MSG_NEWSA`
const XFRM_MSG_NEWSA: u16 = 0x10;
/// `XFRM_MSG_GETSA`
const XFRM_MSG_GETSA: u16 = 0x12;
/// `XFRM_MSG_NEWPOLICY`
const XFRM_MSG_NEWPOLICY: u16 = 0x13;
/// `XFRM_MSG_GETPOLICY`
const XFRM_MSG_GETPOLICY: u16 = 0x15;
/// `XFRMA_OFFLOAD_DEV`: `struct xfrm_user_offload`
const XFRMA_OFFLOAD_DEV: u16 = 28;
/// `XFRM_OFFLOAD_PACKET`. Linux 6.2 and newer.
const XFRM_OFFLOAD_PACKET: u8 = 1 << 2;

/// Bytes of `struct xfrm_usersa_info`.
const USERSA_INFO: usize = 224;
/// Bytes of `struct xfrm_userpolicy_info`.
const USERPOLICY_INFO: usize = 168;

/// What is offloaded.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Kind {
    /// A security association.
    State,
    /// A policy.
    Policy,
}

/// A security association or policy that a device carries.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Offload {
    /// What it is.
    pub kind: Kind,
    /// The device.
    pub ifindex: Ifindex,
    /// Whether the device does all of IPsec (`packet`), and not the ciphers alone (`crypto`).
    pub packet: bool,
}

/// Asks for all security associations. The answer has their keys, unless the kernel is locked down: it is to be read here
/// and nowhere else.
pub fn dump_states(seq: Seq) -> Vec<u8> {
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

impl Offload {
    /// Reads one message of a dump; none where no device carries what it tells of.
    ///
    /// # Errors
    /// A message that is broken.
    pub fn decode(message: &Message<'_>) -> Result<Option<Self>, Malformed> {
        let (kind, attrs) = match message.header.kind {
            XFRM_MSG_NEWSA => (Kind::State, message.split::<USERSA_INFO>(Family::Xfrm)?.1),
            XFRM_MSG_NEWPOLICY => (Kind::Policy, message.split::<USERPOLICY_INFO>(Family::Xfrm)?.1),
            _ => return Err(message.wrong_type(Family::Xfrm)),
        };
        Self::of(kind, attrs)
    }

    fn of(kind: Kind, attrs: Attrs<'_>) -> Result<Option<Self>, Malformed> {
        let Some(attr) = attrs.find(XFRMA_OFFLOAD_DEV)? else { return Ok(None) };
        // struct xfrm_user_offload: a signed ifindex, and a byte of flags.
        let bytes = attr.array::<5>()?;
        let ifindex = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        Ok((ifindex != 0).then_some(Self {
            kind,
            ifindex: Ifindex(ifindex),
            packet: bytes[4] & XFRM_OFFLOAD_PACKET != 0,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn message(kind: u16, info: usize, offload: Option<&[u8]>) -> Vec<u8> {
        let mut writer = MessageWriter::new(kind, 0, Seq(1));
        writer.fixed(&vec![0; info]);
        // XFRMA_LTIME_VAL and others stand before it.
        writer.put(9, &[0; 32]);
        if let Some(offload) = offload {
            writer.put(XFRMA_OFFLOAD_DEV, offload);
        }
        writer.finish().expect("it is short")
    }

    fn read(bytes: &[u8]) -> Result<Option<Offload>, Malformed> {
        Offload::decode(&Message::first(bytes)?)
    }

    fn offload(ifindex: u32, flags: u8) -> [u8; 8] {
        let mut bytes = [0; 8];
        bytes[..4].copy_from_slice(&ifindex.to_ne_bytes());
        bytes[4] = flags;
        bytes
    }

    #[test]
    fn the_device_and_how_much_it_does_are_read() {
        let state = read(&message(XFRM_MSG_NEWSA, USERSA_INFO, Some(&offload(7, 6))));
        assert_eq!(state, Ok(Some(Offload { kind: Kind::State, ifindex: Ifindex(7), packet: true })));
        let policy = read(&message(XFRM_MSG_NEWPOLICY, USERPOLICY_INFO, Some(&offload(8, 2))));
        assert_eq!(policy, Ok(Some(Offload { kind: Kind::Policy, ifindex: Ifindex(8), packet: false })));
    }

    #[test]
    fn what_no_device_carries_is_none() {
        assert_eq!(read(&message(XFRM_MSG_NEWSA, USERSA_INFO, None)), Ok(None));
        assert_eq!(read(&message(XFRM_MSG_NEWPOLICY, USERPOLICY_INFO, Some(&offload(0, 4)))), Ok(None));
    }

    #[test]
    fn short_and_other_messages_are_malformed() {
        assert!(read(&message(XFRM_MSG_NEWSA, 100, None)).is_err());
        assert!(read(&message(XFRM_MSG_NEWSA, USERSA_INFO, Some(&[0; 4]))).is_err());
        assert!(read(&message(0x14, USERSA_INFO, None)).is_err());
    }
}
