//! Writing messages and attributes, padded and with checked lengths.

use crate::attr::{NLA_F_NESTED, NLA_HDRLEN, align};
use crate::ids::Seq;
use crate::message::NLMSG_HDRLEN;
use alloc::vec::Vec;
use core::fmt;

/// An attribute or message longer than its length field can say (65,535 bytes of attribute, header included).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooLong {
    /// The attribute that does not fit.
    pub attr: u16,
}

impl fmt::Display for TooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "attribute {} does not fit into a netlink message: it is longer than 65,531 bytes",
            self.attr
        )
    }
}

impl core::error::Error for TooLong {}

/// Where a nest began; given back to [`MessageWriter::end`].
#[derive(Debug)]
#[must_use = "a nest that is not ended has no length"]
pub struct Nest {
    start: usize,
    attr: u16,
}

/// Builds one message.
///
/// A too long attribute is remembered and reported by [`finish`](Self::finish), so that a codec can put attribute
/// after attribute without asking each time.
#[derive(Clone, Debug)]
pub struct MessageWriter {
    bytes: Vec<u8>,
    too_long: Option<TooLong>,
}

impl MessageWriter {
    /// A message of this type with these `NLM_F_*` flags. The port id is left 0, the kernel fills it in.
    pub fn new(kind: u16, flags: u16, seq: Seq) -> Self {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(&0u32.to_ne_bytes());
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&flags.to_ne_bytes());
        bytes.extend_from_slice(&seq.0.to_ne_bytes());
        bytes.extend_from_slice(&0u32.to_ne_bytes());
        debug_assert_eq!(bytes.len(), NLMSG_HDRLEN);
        Self { bytes, too_long: None }
    }

    /// Appends a fixed structure, padded to four bytes.
    pub fn fixed(&mut self, structure: &[u8]) {
        self.bytes.extend_from_slice(structure);
        self.pad();
    }

    /// An attribute with this payload.
    pub fn put(&mut self, attr: u16, payload: &[u8]) {
        let Ok(length) = u16::try_from(NLA_HDRLEN + payload.len()) else {
            self.too_long.get_or_insert(TooLong { attr });
            return;
        };
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&attr.to_ne_bytes());
        self.bytes.extend_from_slice(payload);
        self.pad();
    }

    /// An attribute of one byte.
    pub fn put_u8(&mut self, attr: u16, value: u8) {
        self.put(attr, &[value]);
    }

    /// An attribute in the host's byte order.
    pub fn put_u16(&mut self, attr: u16, value: u16) {
        self.put(attr, &value.to_ne_bytes());
    }

    /// An attribute in the host's byte order.
    pub fn put_u32(&mut self, attr: u16, value: u32) {
        self.put(attr, &value.to_ne_bytes());
    }

    /// An attribute in the host's byte order.
    pub fn put_u64(&mut self, attr: u16, value: u64) {
        self.put(attr, &value.to_ne_bytes());
    }

    /// An attribute in network byte order.
    pub fn put_be16(&mut self, attr: u16, value: u16) {
        self.put(attr, &value.to_be_bytes());
    }

    /// An attribute in network byte order.
    pub fn put_be32(&mut self, attr: u16, value: u32) {
        self.put(attr, &value.to_be_bytes());
    }

    /// A text with a zero byte at its end.
    pub fn put_text(&mut self, attr: u16, text: &str) {
        let mut payload = Vec::with_capacity(text.len() + 1);
        payload.extend_from_slice(text.as_bytes());
        payload.push(0);
        self.put(attr, &payload);
    }

    /// An attribute without payload, whose presence is its meaning.
    pub fn put_flag(&mut self, attr: u16) {
        self.put(attr, &[]);
    }

    /// `struct nla_bitfield32`.
    pub fn put_bitfield32(&mut self, attr: u16, value: u32, selector: u32) {
        let mut payload = [0; 8];
        payload[..4].copy_from_slice(&value.to_ne_bytes());
        payload[4..].copy_from_slice(&selector.to_ne_bytes());
        self.put(attr, &payload);
    }

    /// Begins a nest, marked [`NLA_F_NESTED`].
    pub fn begin(&mut self, attr: u16) -> Nest {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&0u16.to_ne_bytes());
        self.bytes.extend_from_slice(&(attr | NLA_F_NESTED).to_ne_bytes());
        Nest { start, attr }
    }

    /// Ends the nest begun last.
    pub fn end(&mut self, nest: Nest) {
        let length = self.bytes.len() - nest.start;
        match u16::try_from(length) {
            Ok(length) => self.bytes[nest.start..nest.start + 2].copy_from_slice(&length.to_ne_bytes()),
            Err(_) => {
                self.too_long.get_or_insert(TooLong { attr: nest.attr });
            }
        }
    }

    /// A nest with what `fill` puts into it.
    pub fn nest(&mut self, attr: u16, fill: impl FnOnce(&mut Self)) {
        let nest = self.begin(attr);
        fill(self);
        self.end(nest);
    }

    /// The whole message, its length filled in.
    ///
    /// # Errors
    /// The first attribute that was too long.
    pub fn finish(mut self) -> Result<Vec<u8>, TooLong> {
        if let Some(too_long) = self.too_long {
            return Err(too_long);
        }
        let length = u32::try_from(self.bytes.len()).map_err(|_| TooLong { attr: 0 })?;
        self.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        Ok(self.bytes)
    }

    fn pad(&mut self) {
        self.bytes.resize(align(self.bytes.len()), 0);
    }
}
