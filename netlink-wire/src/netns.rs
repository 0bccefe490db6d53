//! Numbers of network namespaces in another: `RTM_GETNSID` of `linux/rtnetlink.h`, `NETNSA_*` of `linux/net_namespace.h`.

use crate::ids::{NetnsId, Seq};
use crate::malformed::{Family, Malformed};
use crate::message::{Message, flags};
use crate::writer::MessageWriter;
use alloc::vec::Vec;

const RTM_NEWNSID: u16 = 88;
const RTM_GETNSID: u16 = 90;
const NETNSA_NSID: u16 = 1;
const NETNSA_FD: u16 = 3;
/// Bytes of `struct rtgenmsg`, padded.
const HEADER: usize = 4;

/// Asks which number the namespace of an open descriptor has in the socket's. For [`decode`].
pub fn get_by_fd(namespace: i32, seq: Seq) -> Vec<u8> {
    let mut writer = MessageWriter::new(RTM_GETNSID, flags::REQUEST, seq);
    writer.fixed(&[0; HEADER]);
    writer.put(NETNSA_FD, &namespace.to_ne_bytes());
    writer.finish().expect("a request of fixed size")
}

/// Asks for the numbers of all namespaces that have one in the socket's. For [`decode`].
pub fn dump(seq: Seq) -> Vec<u8> {
    let mut writer = MessageWriter::new(RTM_GETNSID, flags::REQUEST | flags::DUMP, seq);
    writer.fixed(&[0; HEADER]);
    writer.finish().expect("a request of fixed size")
}

/// Reads an answer: the number, or none where the namespace has none yet (`NETNSA_NSID_NOT_ASSIGNED`).
///
/// # Errors
/// A message that is no such answer.
pub fn decode(message: &Message<'_>) -> Result<Option<NetnsId>, Malformed> {
    if message.header.kind != RTM_NEWNSID {
        return Err(message.wrong_type(Family::Link));
    }
    let (_, attrs) = message.split::<HEADER>(Family::Link)?;
    let id = attrs.find(NETNSA_NSID)?.ok_or_else(|| attrs.missing(NETNSA_NSID))?.i32()?;
    Ok((id >= 0).then_some(NetnsId(id)))
}
