//! Messages of the kernel as they stand in the log: as they came, in hexadecimal.

use std::collections::VecDeque;

use netlink_wire::Message;
use serde::{Deserialize, Serialize};
use tc_flower::{FilterReport, TcEvent};

/// Messages of the kernel that events were read from, in the order of those events.
///
/// Empty while nothing is recorded.
#[derive(Debug, Default)]
pub(crate) struct Raws {
    messages: VecDeque<Vec<u8>>,
    on: bool,
}

impl Raws {
    /// Keeps messages from here on, or no more.
    pub(crate) fn turn(&mut self, on: bool) {
        self.on = on;
        self.messages.clear();
    }

    /// A copy of a message, if copies are kept.
    pub(crate) fn copy(&self, buffer: &[u8], message: &Message<'_>) -> Vec<u8> {
        if !self.on {
            return Vec::new();
        }
        let end = message.offset + netlink_wire::message::NLMSG_HDRLEN + message.payload.len();
        buffer.get(message.offset..end).map(<[u8]>::to_vec).unwrap_or_default()
    }

    /// Keeps a copy for an event that was told just now.
    pub(crate) fn push(&mut self, message: Vec<u8>) {
        if self.on {
            self.messages.push_back(message);
        }
    }

    pub(super) fn take(&mut self) -> Hex {
        Hex(self.messages.pop_front().unwrap_or_default())
    }
}

/// Bytes as hexadecimal text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hex(pub(super) Vec<u8>);

impl Serialize for Hex {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use std::fmt::Write as _;
        let mut text = String::with_capacity(self.0.len() * 2);
        for byte in &self.0 {
            let _ = write!(text, "{byte:02x}");
        }
        serializer.serialize_str(&text)
    }
}

impl<'de> Deserialize<'de> for Hex {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digit = |c: u8| char::from(c).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let pair = |pair: &[u8]| match pair {
            [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
            _ => None,
        };
        let bytes = text.as_bytes().chunks(2).map(pair).collect::<Option<Vec<u8>>>();
        bytes.map(Self).ok_or_else(|| serde::de::Error::custom("not hexadecimal"))
    }
}

/// The filter that a message shows.
pub(super) fn report(raw: &Hex) -> Result<Box<FilterReport>, String> {
    let message = Message::first(&raw.0).map_err(|error| error.to_string())?;
    match TcEvent::decode(&message).map_err(|error| error.to_string())? {
        TcEvent::Filter(report) => Ok(report),
        _ => Err("the message is no filter".to_owned()),
    }
}
