//! strongSwan's control protocol (`src/libcharon/plugins/vici/README.md`): packets of a socket, and messages in them.
//!
//! Own code, for a reason: `rsvici`, the crate there is, writes requests into buffers that are not wiped, and keys go by here.
//!
//! A packet is a length of 4 bytes, big-endian, a byte that says what it is, for some a name behind its length of one byte, and a
//! message. A message is a list of elements: sections, lists, and values by name, none of them with a type.

use alloc::string::{String, ToString as _};
use core::fmt;

use crate::secret::SecretBytes;

mod message;

pub use message::{Builder, Section};

/// The most bytes of a packet (`VICI_MESSAGE_SIZE_MAX`).
pub const PACKET_MAX: usize = 512 * 1024;
/// Bytes of a packet's length.
pub const HEADER: usize = 4;

/// What cannot be read, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "message of vici: {}", self.0)
    }
}

impl core::error::Error for Malformed {}

/// A packet of strongSwan's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet {
    /// The answer to a command.
    Response(Section),
    /// There is no such command.
    UnknownCommand,
    /// Events are told from here on, or no more.
    EventConfirmed,
    /// There is no such event.
    UnknownEvent,
    /// Something happened.
    Event {
        /// What.
        name: String,
        /// Details.
        message: Section,
    },
}

const COMMAND: u8 = 0;
const REGISTER: u8 = 3;
const UNREGISTER: u8 = 4;

/// A command with its message, and the length before both.
pub fn command(name: &str, message: &Builder) -> SecretBytes {
    named(COMMAND, name, message.bytes())
}

/// Asks to be told of events.
pub fn register(event: &str) -> SecretBytes {
    named(REGISTER, event, &[])
}

/// Asks to be told of events no more.
pub fn unregister(event: &str) -> SecretBytes {
    named(UNREGISTER, event, &[])
}

fn named(kind: u8, name: &str, message: &[u8]) -> SecretBytes {
    // Names are constants of ours.
    let name = &name.as_bytes()[..name.len().min(usize::from(u8::MAX))];
    let length = 2 + name.len() + message.len();
    let mut bytes = SecretBytes::default();
    bytes.extend(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    bytes.extend(&[kind, name.len() as u8]);
    bytes.extend(name);
    bytes.extend(message);
    bytes
}

/// The bytes of the packet that follow a header.
///
/// # Errors
/// It is longer than packets are.
pub fn length(header: [u8; HEADER]) -> Result<usize, Malformed> {
    let length = u32::from_be_bytes(header) as usize;
    if length <= PACKET_MAX { Ok(length) } else { Err(Malformed("it is longer than 512 KiB")) }
}

/// Reads a packet, without its length.
///
/// # Errors
/// It is none that strongSwan sends.
pub fn packet(bytes: &[u8]) -> Result<Packet, Malformed> {
    let (kind, rest) = bytes.split_first().ok_or(Malformed("a packet without a type"))?;
    match kind {
        1 => Ok(Packet::Response(Section::read(rest)?)),
        2 => Ok(Packet::UnknownCommand),
        5 => Ok(Packet::EventConfirmed),
        6 => Ok(Packet::UnknownEvent),
        7 => {
            let (length, rest) = rest.split_first().ok_or(Malformed("an event without a name"))?;
            let length = usize::from(*length);
            if rest.len() < length {
                return Err(Malformed("an event's name is cut off"));
            }
            let (name, message) = rest.split_at(length);
            let name = core::str::from_utf8(name).map_err(|_| Malformed("an event's name is no text"))?;
            Ok(Packet::Event { name: name.to_string(), message: Section::read(message)? })
        }
        _ => Err(Malformed("a packet of no known type")),
    }
}

/// Whether a command did what it was to do.
///
/// # Errors
/// strongSwan's own words, or that it had none.
pub fn success(answer: &Section) -> Result<(), String> {
    match answer.value("success") {
        Some("yes") => Ok(()),
        _ => Err(answer.value("errmsg").unwrap_or("no reason was told").to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn a_command_is_written_as_the_protocol_has_it() {
        let mut message = Builder::default();
        message.value("id", "7");
        let bytes = command("ab", &message);
        assert_eq!(&*bytes, [0, 0, 0, 11, 0, 2, b'a', b'b', 3, 2, b'i', b'd', 0, 1, b'7']);
        assert_eq!(&*register("log"), [0, 0, 0, 5, 3, 3, b'l', b'o', b'g']);
        assert_eq!(&*unregister("log"), [0, 0, 0, 5, 4, 3, b'l', b'o', b'g']);
    }

    #[test]
    fn packets_are_told_apart() {
        assert_eq!(packet(&[2]), Ok(Packet::UnknownCommand));
        assert_eq!(packet(&[5]), Ok(Packet::EventConfirmed));
        assert_eq!(packet(&[6]), Ok(Packet::UnknownEvent));
        assert_eq!(packet(&[1]), Ok(Packet::Response(Section::default())));
        let event = packet(&[7, 1, b'x', 3, 1, b'k', 0, 1, b'v']).unwrap();
        let Packet::Event { name, message } = event else { panic!("{event:?}") };
        assert_eq!((name.as_str(), message.value("k")), ("x", Some("v")));
        for broken in [vec![], vec![0], vec![7], vec![7, 2, b'x'], vec![8], vec![1, 9]] {
            assert!(packet(&broken).is_err(), "{broken:?}");
        }
        assert!(length([0, 8, 0, 1]).is_err());
        assert_eq!(length([0, 8, 0, 0]), Ok(PACKET_MAX));
    }

    #[test]
    fn a_refusal_has_strongswans_words() {
        let mut refusal = Builder::default();
        refusal.value("success", "no").value("errmsg", "unable to load certificate");
        let answer = Section::read(refusal.bytes()).unwrap();
        assert_eq!(success(&answer), Err("unable to load certificate".into()));
        assert!(success(&Section::default()).is_err());
    }
}
