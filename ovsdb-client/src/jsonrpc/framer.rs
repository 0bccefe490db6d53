//! Cuts a byte stream into JSON objects, looking at each byte once.
//!
//! It balances braces and knows strings; whether the bytes between the braces are JSON is the parser's business.

use bytes::{Bytes, BytesMut};
use memchr::memchr2;
use thiserror::Error;

/// A frame above this size is moved out of the read buffer whole, so that the buffer does not keep its memory.
const LARGE_FRAME_BYTES: usize = 256 * 1024;

/// What a peer may make us hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest single message, in bytes.
    pub message_bytes_max: usize,
    /// Deepest nesting of objects and arrays. Values above 120 are cut off by the JSON parser's own limit.
    pub depth_max: u32,
    /// Most bytes waiting to be written to the peer.
    pub send_bytes_max: usize,
}

impl Limits {
    /// For an OVSDB server: an initial monitor reply carries a whole database.
    pub const OVSDB: Self =
        Self { message_bytes_max: 512 * 1024 * 1024, depth_max: 100, send_bytes_max: 64 * 1024 * 1024 };
    /// For a control socket: commands are short, replies are listings.
    pub const UNIXCTL: Self =
        Self { message_bytes_max: 64 * 1024 * 1024, depth_max: 16, send_bytes_max: 64 * 1024 * 1024 };
}

impl Default for Limits {
    fn default() -> Self {
        Self::OVSDB
    }
}

/// Why a stream cannot be cut into messages any more. There is no way to find the next message: close it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FrameError {
    /// Between messages there was something that is neither white space nor the start of an object.
    #[error("expected a JSON object, found byte {byte:#04x}")]
    Garbage {
        /// The offending byte.
        byte: u8,
    },
    /// The message does not end within [`Limits::message_bytes_max`].
    #[error("message is longer than {limit} bytes")]
    TooLong {
        /// The limit that was exceeded, in bytes.
        limit: usize,
    },
    /// The message nests deeper than [`Limits::depth_max`].
    #[error("message nests deeper than {limit} levels")]
    TooDeep {
        /// The limit that was exceeded, in levels.
        limit: u32,
    },
}

/// Cuts a byte stream into JSON objects.
///
/// Bytes go in by [`extend`](Self::extend) or straight into [`buffer_mut`](Self::buffer_mut); whole objects come out of
/// [`next_frame`](Self::next_frame). The scan continues where it stopped: a message that arrives in a thousand pieces is
/// looked at once.
#[derive(Debug)]
pub struct Framer {
    buffer: BytesMut,
    scanned: usize,
    depth: u32,
    state: ScanState,
    limits: Limits,
    failed: Option<FrameError>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ScanState {
    Structure,
    String,
    Escape,
}

impl Framer {
    /// An empty framer.
    pub fn new(limits: Limits) -> Self {
        Self {
            buffer: BytesMut::new(),
            scanned: 0,
            depth: 0,
            state: ScanState::Structure,
            limits,
            failed: None,
        }
    }

    /// Appends received bytes.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The buffer to read into. Only append to it.
    pub fn buffer_mut(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// Whether the stream stands inside a message: an end of file here is a message cut off.
    pub fn is_mid_message(&self) -> bool {
        self.depth > 0
    }

    /// The next whole object, without the white space around it; `None` when more bytes are needed.
    ///
    /// # Errors
    ///
    /// [`FrameError`]; the stream is lost, and every later call answers the same.
    pub fn next_frame(&mut self) -> Result<Option<Bytes>, FrameError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        self.scan().inspect_err(|error| {
            self.failed = Some(*error);
            self.buffer = BytesMut::new();
            self.scanned = 0;
        })
    }

    fn scan(&mut self) -> Result<Option<Bytes>, FrameError> {
        if self.depth == 0 && !self.skip_to_object()? {
            return Ok(None);
        }
        while self.scanned < self.buffer.len() {
            let rest = &self.buffer[self.scanned..];
            match self.state {
                ScanState::Escape => {
                    self.scanned += 1;
                    self.state = ScanState::String;
                }
                ScanState::String => match memchr2(b'"', b'\\', rest) {
                    Some(at) => {
                        self.state = if rest[at] == b'"' { ScanState::Structure } else { ScanState::Escape };
                        self.scanned += at + 1;
                    }
                    None => self.scanned = self.buffer.len(),
                },
                ScanState::Structure => {
                    let mut depth = self.depth;
                    let at =
                        rest.iter().position(|&byte| structure_step(byte, &mut depth, self.limits.depth_max));
                    self.depth = depth;
                    let Some(at) = at else {
                        self.scanned = self.buffer.len();
                        continue;
                    };
                    self.scanned += at + 1;
                    if rest[at] == b'"' {
                        self.state = ScanState::String;
                    } else if depth > self.limits.depth_max {
                        return Err(FrameError::TooDeep { limit: self.limits.depth_max });
                    } else {
                        self.check_length(self.scanned)?;
                        return Ok(Some(self.take_scanned()));
                    }
                }
            }
        }
        self.check_length(self.scanned)?;
        Ok(None)
    }

    /// Drops white space; true when an object has started.
    fn skip_to_object(&mut self) -> Result<bool, FrameError> {
        let blank = self.buffer.iter().position(|byte| !matches!(byte, b' ' | b'\t' | b'\n' | b'\r'));
        let Some(start) = blank else {
            self.buffer.clear();
            return Ok(false);
        };
        let byte = self.buffer[start];
        if byte != b'{' {
            return Err(FrameError::Garbage { byte });
        }
        let _ = self.buffer.split_to(start);
        self.scanned = 1;
        self.depth = 1;
        Ok(true)
    }

    fn check_length(&self, length: usize) -> Result<(), FrameError> {
        if length > self.limits.message_bytes_max {
            return Err(FrameError::TooLong { limit: self.limits.message_bytes_max });
        }
        Ok(())
    }

    fn take_scanned(&mut self) -> Bytes {
        let length = std::mem::take(&mut self.scanned);
        if length < LARGE_FRAME_BYTES {
            return self.buffer.split_to(length).freeze();
        }
        let rest = BytesMut::from(&self.buffer[length..]);
        let mut frame = std::mem::replace(&mut self.buffer, rest);
        frame.truncate(length);
        frame.freeze()
    }
}

/// Follows the nesting by one byte; true where the scan has to stop and look.
fn structure_step(byte: u8, depth: &mut u32, depth_max: u32) -> bool {
    match byte {
        b'"' => true,
        b'{' | b'[' => {
            *depth += 1;
            *depth > depth_max
        }
        b'}' | b']' => {
            *depth -= 1;
            *depth == 0
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frames(input: &[u8], piece: usize) -> Result<Vec<Vec<u8>>, FrameError> {
        let mut framer = Framer::new(Limits::OVSDB);
        let mut found = Vec::new();
        for bytes in input.chunks(piece) {
            framer.extend(bytes);
            while let Some(frame) = framer.next_frame()? {
                found.push(frame.to_vec());
            }
        }
        Ok(found)
    }

    #[test]
    fn messages_back_to_back_are_cut_apart_however_they_arrive() {
        let input = br#" {"a":"}"}{"b":[{"c":"\"]"}]}
            {"d":"\\"}"#;
        for piece in 1..input.len() {
            let found = frames(input, piece).unwrap();
            assert_eq!(
                found,
                [br#"{"a":"}"}"#.to_vec(), br#"{"b":[{"c":"\"]"}]}"#.to_vec(), br#"{"d":"\\"}"#.to_vec()]
            );
        }
    }

    #[test]
    fn bytes_that_do_not_start_an_object_are_garbage() {
        assert_eq!(frames(b"{}GET / HTTP/1.1\r\n", 64), Err(FrameError::Garbage { byte: b'G' }));
        assert_eq!(frames(b"[1]", 1), Err(FrameError::Garbage { byte: b'[' }));
        assert_eq!(frames(b"\xff", 1), Err(FrameError::Garbage { byte: 0xff }));
    }

    #[test]
    fn a_message_over_the_limit_is_refused_before_it_is_complete() {
        let limits = Limits { message_bytes_max: 10, ..Limits::OVSDB };
        let mut framer = Framer::new(limits);
        framer.extend(b"{\"aaaaaaa\"");
        assert_eq!(framer.next_frame(), Ok(None));
        framer.extend(b":");
        assert_eq!(framer.next_frame(), Err(FrameError::TooLong { limit: 10 }));
        framer.extend(b"}{}");
        assert_eq!(framer.next_frame(), Err(FrameError::TooLong { limit: 10 }), "the stream stays lost");
    }

    #[test]
    fn a_message_of_exactly_the_limit_passes() {
        let mut framer = Framer::new(Limits { message_bytes_max: 8, ..Limits::OVSDB });
        framer.extend(b"  {\"ab\":1}  {\"a\":1}");
        assert_eq!(framer.next_frame().unwrap().as_deref(), Some(b"{\"ab\":1}".as_slice()));
        assert_eq!(framer.next_frame().unwrap().as_deref(), Some(b"{\"a\":1}".as_slice()));
    }

    #[test]
    fn nesting_over_the_limit_is_refused() {
        let limits = Limits { depth_max: 3, ..Limits::OVSDB };
        let mut framer = Framer::new(limits);
        framer.extend(b"{\"a\":[[1]]}");
        assert!(framer.next_frame().unwrap().is_some());
        framer.extend(b"{\"a\":[[[1]]]}");
        assert_eq!(framer.next_frame(), Err(FrameError::TooDeep { limit: 3 }));
    }

    #[test]
    fn end_of_file_inside_a_message_is_told_from_one_between_messages() {
        let mut framer = Framer::new(Limits::OVSDB);
        framer.extend(b"{} ");
        framer.next_frame().unwrap().unwrap();
        assert_eq!(framer.next_frame(), Ok(None));
        assert!(!framer.is_mid_message());
        framer.extend(b"{\"a\"");
        assert_eq!(framer.next_frame(), Ok(None));
        assert!(framer.is_mid_message());
    }

    #[test]
    fn a_large_frame_does_not_leave_its_memory_in_the_buffer() {
        let mut framer = Framer::new(Limits::OVSDB);
        let mut message = br#"{"a":""#.to_vec();
        message.resize(4 * 1024 * 1024, b'x');
        message.extend_from_slice(br#""}{"b"#);
        framer.extend(&message);
        let frame = framer.next_frame().unwrap().unwrap();
        assert_eq!(frame.len(), message.len() - 3);
        assert!(framer.buffer.capacity() < 1024);
        framer.extend(b"\":1}");
        assert_eq!(framer.next_frame().unwrap().as_deref(), Some(br#"{"b":1}"#.as_slice()));
    }

    fn json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            any::<i64>().prop_map(serde_json::Value::from),
            "\\PC{0,12}".prop_map(serde_json::Value::from),
            "[\\\\\"{}\\[\\]]{0,6}".prop_map(serde_json::Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(serde_json::Value::from),
                prop::collection::btree_map("\\PC{0,4}", inner, 0..4)
                    .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_was_written_is_what_is_cut_out(values in prop::collection::vec(json(), 1..5), piece in 1usize..64) {
            let written: Vec<Vec<u8>> = values
                .into_iter()
                .map(|value| serde_json::to_vec(&serde_json::json!({ "v": value })).unwrap())
                .collect();
            prop_assert_eq!(frames(&written.concat(), piece).unwrap(), written);
        }

        #[test]
        fn no_input_panics_and_pieces_do_not_matter(input in prop::collection::vec(any::<u8>(), 0..200), piece in 1usize..50) {
            let whole = frames(&input, input.len().max(1));
            let pieces = frames(&input, piece);
            prop_assert_eq!(whole, pieces);
        }
    }
}
