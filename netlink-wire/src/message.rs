//! Framing: `struct nlmsghdr` of `linux/netlink.h`, and the messages every family shares.

use crate::attr::{Attrs, align};
use crate::errno::Errno;
use crate::extack::Extack;
use crate::ids::{PortId, Seq};
use crate::malformed::{Family, Malformed, Why};

/// Bytes of `struct nlmsghdr`.
pub const NLMSG_HDRLEN: usize = 16;

/// `NLM_F_*`: what a message asks for or says about itself.
pub mod flags {
    /// `NLM_F_REQUEST`: a request.
    pub const REQUEST: u16 = 0x01;
    /// `NLM_F_MULTI`: one of several messages that end with a DONE.
    pub const MULTI: u16 = 0x02;
    /// `NLM_F_ACK`: answer even if it succeeds.
    pub const ACK: u16 = 0x04;
    /// `NLM_F_ECHO`: tell me too what this request changed.
    pub const ECHO: u16 = 0x08;
    /// `NLM_F_DUMP_INTR`: the table changed while it was dumped; entries may be missing or twice there.
    pub const DUMP_INTERRUPTED: u16 = 0x10;
    /// `NLM_F_DUMP`: everything, not one object (`NLM_F_ROOT | NLM_F_MATCH`).
    pub const DUMP: u16 = 0x300;
    /// `NLM_F_REPLACE`: replace what exists.
    pub const REPLACE: u16 = 0x100;
    /// `NLM_F_EXCL`: fail if it exists.
    pub const EXCLUSIVE: u16 = 0x200;
    /// `NLM_F_CREATE`: create it if it does not exist.
    pub const CREATE: u16 = 0x400;
    /// `NLM_F_CAPPED` of an answer: the request is not repeated in it.
    pub const CAPPED: u16 = 0x100;
    /// `NLM_F_ACK_TLVS` of an answer: extended ack attributes follow.
    pub const ACK_TLVS: u16 = 0x200;
}

/// `NLMSG_NOOP`: to be ignored.
pub const NLMSG_NOOP: u16 = 1;
/// `NLMSG_ERROR`: an error or an ack.
pub const NLMSG_ERROR: u16 = 2;
/// `NLMSG_DONE`: the end of a dump.
pub const NLMSG_DONE: u16 = 3;
/// `NLMSG_OVERRUN`: messages were lost.
pub const NLMSG_OVERRUN: u16 = 4;

/// `struct nlmsghdr`, without its length.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Header {
    /// `nlmsg_type`: one of `NLMSG_*`, or a type of the family.
    pub kind: u16,
    /// `nlmsg_flags`: see [`flags`].
    pub flags: u16,
    /// `nlmsg_seq`
    pub seq: Seq,
    /// `nlmsg_pid`
    pub portid: PortId,
}

impl Header {
    /// Whether the table changed while it was dumped, so that the dump has to be repeated.
    pub const fn dump_was_interrupted(&self) -> bool {
        self.flags & flags::DUMP_INTERRUPTED != 0
    }

    /// Whether more messages follow, up to a DONE.
    pub const fn is_multipart(&self) -> bool {
        self.flags & flags::MULTI != 0
    }
}

/// The messages in one received buffer.
///
/// Ends after the first message whose length is wrong: what follows cannot be found.
#[derive(Clone, Copy, Debug)]
pub struct Messages<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Messages<'a> {
    /// The messages in what one `recvmsg(2)` returned.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, offset: 0 }
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Result<Message<'a>, Malformed>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.bytes.is_empty() {
            return None;
        }
        let offset = self.offset;
        let Some((header, payload)) = split_header(self.bytes) else {
            self.bytes = &[];
            return Some(Err(Malformed { family: Family::Netlink, attr: 0, offset, why: Why::Truncated }));
        };
        let step = align(NLMSG_HDRLEN + payload.len()).min(self.bytes.len());
        self.bytes = &self.bytes[step..];
        self.offset += step;
        Some(Ok(Message { header, payload, offset }))
    }
}

/// A message's header and payload, if its length is right.
fn split_header(bytes: &[u8]) -> Option<(Header, &[u8])> {
    let (header, _) = bytes.split_first_chunk::<NLMSG_HDRLEN>()?;
    let word = |at: usize| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let half = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
    let length = usize::try_from(word(0)).ok()?;
    let payload = bytes.get(NLMSG_HDRLEN..length)?;
    let header = Header { kind: half(4), flags: half(6), seq: Seq(word(8)), portid: PortId(word(12)) };
    Some((header, payload))
}

/// One message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Message<'a> {
    /// Its header.
    pub header: Header,
    /// What follows the header.
    pub payload: &'a [u8],
    /// Where its header begins, in bytes from the start of the received buffer.
    pub offset: usize,
}

/// What the kernel answered to a request.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Answer {
    /// The error, or none for success.
    pub errno: Option<Errno>,
    /// What it said beside, of a success too.
    pub extack: Extack,
}

impl Answer {
    /// Whether the request succeeded.
    pub const fn is_success(&self) -> bool {
        self.errno.is_none()
    }
}

/// A message that every family shares.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Control {
    /// `NLMSG_ERROR`: an ack or an error.
    Answer(Answer),
    /// `NLMSG_DONE`: the end of a dump, with the dump's own success or error.
    Done(Answer),
    /// `NLMSG_OVERRUN`: messages were lost.
    Overrun,
    /// `NLMSG_NOOP`: to be ignored.
    Noop,
}

impl<'a> Message<'a> {
    /// The first message in a buffer.
    ///
    /// # Errors
    /// A buffer that does not hold a whole message.
    pub fn first(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let nothing = Malformed { family: Family::Netlink, attr: 0, offset: 0, why: Why::Truncated };
        Messages::new(bytes).next().unwrap_or(Err(nothing))
    }

    /// What this message says if it is one that every family shares, or none if it is the family's own.
    ///
    /// # Errors
    /// An answer whose bytes are broken.
    pub fn control(&self) -> Result<Option<Control>, Malformed> {
        Ok(match self.header.kind {
            NLMSG_ERROR => Some(Control::Answer(self.answer(true)?)),
            NLMSG_DONE => Some(Control::Done(self.answer(false)?)),
            NLMSG_OVERRUN => Some(Control::Overrun),
            NLMSG_NOOP => Some(Control::Noop),
            _ => None,
        })
    }

    /// The payload after a fixed structure of `N` bytes, and that structure.
    ///
    /// # Errors
    /// A payload of less than `N` bytes.
    pub fn split<const N: usize>(&self, family: Family) -> Result<([u8; N], Attrs<'a>), Malformed> {
        let Some((fixed, rest)) = self.payload.split_first_chunk::<N>() else {
            let clamp = |length: usize| u16::try_from(length).unwrap_or(u16::MAX);
            let why = Why::TooShort { need: clamp(N), have: clamp(self.payload.len()) };
            return Err(Malformed { family, attr: 0, offset: self.offset + NLMSG_HDRLEN, why });
        };
        let padding = (align(N) - N).min(rest.len());
        Ok((*fixed, Attrs::new(&rest[padding..], family, self.offset + NLMSG_HDRLEN + align(N))))
    }

    /// That this message is not of the type a decoder expects.
    #[cold]
    pub const fn wrong_type(&self, family: Family) -> Malformed {
        Malformed { family, attr: 0, offset: self.offset, why: Why::WrongType }
    }

    /// The error number, and the extended ack after the repeated request of `struct nlmsgerr`.
    fn answer(&self, repeats_request: bool) -> Result<Answer, Malformed> {
        let at = self.offset + NLMSG_HDRLEN;
        let too_short = |need: u16| Malformed {
            family: Family::Netlink,
            attr: 0,
            offset: at,
            why: Why::TooShort { need, have: u16::try_from(self.payload.len()).unwrap_or(u16::MAX) },
        };
        let (error, rest) = match self.payload.split_first_chunk::<4>() {
            Some(split) => split,
            // A DONE without payload is legal and says nothing.
            None if !repeats_request => return Ok(Answer::default()),
            None => return Err(too_short(4)),
        };
        let error = i32::from_ne_bytes(*error);
        // netlink_ack() sends negative errno; a positive number in DONE is a dump's own count and no error.
        let errno = (error < 0).then(|| Errno(error.saturating_neg()));
        let skip = match repeats_request {
            true if self.header.flags & flags::CAPPED == 0 => {
                let length = rest.first_chunk::<4>().ok_or_else(|| too_short(20))?;
                align(usize::try_from(u32::from_ne_bytes(*length)).unwrap_or(usize::MAX).min(rest.len()))
            }
            true => NLMSG_HDRLEN,
            false => 0,
        };
        let extack = match (self.header.flags & flags::ACK_TLVS != 0).then(|| rest.get(skip..)).flatten() {
            Some(bytes) => Extack::decode(Attrs::new(bytes, Family::Netlink, at + 4 + skip))?,
            None => Extack::default(),
        };
        Ok(Answer { errno, extack })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::writer::MessageWriter;
    use alloc::vec::Vec;

    /// An answer: its error number, what of the request it repeats, and its text.
    fn answer(kind: u16, flags: u16, error: Option<i32>, request: &[u8], text: Option<&str>) -> Vec<u8> {
        let mut writer = MessageWriter::new(kind, flags, Seq(7));
        if let Some(error) = error {
            writer.fixed(&error.to_ne_bytes());
        }
        writer.fixed(request);
        if let Some(text) = text {
            writer.put_text(1, text);
        }
        writer.finish().unwrap()
    }

    fn control(bytes: &[u8]) -> Result<Option<Control>, Malformed> {
        Message::first(bytes)?.control()
    }

    fn request() -> Vec<u8> {
        let mut writer = MessageWriter::new(44, flags::REQUEST | flags::ACK, Seq(7));
        writer.put(1, b"flower\0");
        writer.finish().unwrap()
    }

    #[test]
    fn a_successful_ack_keeps_its_text() {
        let capped = flags::CAPPED | flags::ACK_TLVS;
        let bytes = answer(NLMSG_ERROR, capped, Some(0), &request()[..16], Some("table nearly full"));
        let Ok(Some(Control::Answer(answer))) = control(&bytes) else { panic!("no answer") };
        assert!(answer.is_success());
        assert_eq!(answer.extack.text.as_deref(), Some("table nearly full"));
    }

    #[test]
    fn an_error_that_repeats_the_request_keeps_number_and_text() {
        let bytes = answer(NLMSG_ERROR, flags::ACK_TLVS, Some(-28), &request(), Some("table full"));
        let Ok(Some(Control::Answer(answer))) = control(&bytes) else { panic!("no answer") };
        assert_eq!(answer.errno, Some(Errno::ENOSPC));
        assert_eq!(answer.extack.text.as_deref(), Some("table full"));
    }

    #[test]
    fn the_end_of_a_dump_tells_how_the_dump_ended() {
        let bytes = answer(NLMSG_DONE, flags::MULTI | flags::ACK_TLVS, Some(-19), &[], Some("gone"));
        let Ok(Some(Control::Done(done))) = control(&bytes) else { panic!("no end") };
        assert_eq!((done.errno, done.extack.text.as_deref()), (Some(Errno::ENODEV), Some("gone")));
        // A count, and nothing at all, are successes.
        for error in [Some(3), None] {
            let bytes = answer(NLMSG_DONE, flags::MULTI, error, &[], None);
            assert_eq!(control(&bytes), Ok(Some(Control::Done(Answer::default()))));
        }
    }

    #[test]
    fn a_cut_answer_is_malformed_and_the_next_message_is_not_lost() {
        let mut bytes = answer(NLMSG_ERROR, 0, None, &[], None);
        let broken = control(&bytes).unwrap_err();
        assert_eq!((broken.family, broken.why), (Family::Netlink, Why::TooShort { need: 4, have: 0 }));
        bytes.extend(answer(NLMSG_OVERRUN, 0, None, &[], None));
        let kinds: Vec<_> = Messages::new(&bytes).flatten().map(|message| message.header.kind).collect();
        assert_eq!(kinds, [NLMSG_ERROR, NLMSG_OVERRUN]);
    }

    #[test]
    fn a_length_past_the_end_or_below_the_header_ends_the_buffer() {
        for length in [0u32, 15, 17, u32::MAX] {
            let mut bytes = answer(NLMSG_NOOP, 0, None, &[], None);
            bytes[..4].copy_from_slice(&length.to_ne_bytes());
            let read: Vec<_> = Messages::new(&bytes).collect();
            assert_eq!(read.len(), 1, "{length}");
            assert_eq!(read[0].unwrap_err().why, Why::Truncated);
        }
    }
}
