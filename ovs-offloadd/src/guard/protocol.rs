//! What daemon and guard say to each other: one JSON object per packet of a unix socket (`SOCK_SEQPACKET`).

use serde::{Deserialize, Serialize};

/// The version of these messages. Both ends are of one package; another version is refused.
pub const VERSION: u16 = 1;

/// Longest message, in bytes: one that names devices has at most [`DEVICES_MAX`].
pub const BYTES_MAX: usize = 160 * 1024;

/// Most devices that one message names.
pub const DEVICES_MAX: usize = 12_000;

/// The daemon's words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "say")]
pub enum ToGuard {
    /// The first: who speaks.
    Hello {
        /// [`VERSION`].
        version: u16,
        /// It holds a lease of this guard's, or of one that was there before it, and goes on answering for the rules that
        /// are there.
        answers: bool,
    },
    /// It is alive. Answered with [`FromGuard::Lease`].
    Beat {
        /// To tell the answer by.
        seq: u64,
    },
    /// It has taken over rules of the daemon before it: those on these devices (`ifindex`) are right, and it answers for them
    /// from here on. Others are to go.
    Took {
        /// All devices whose rules it has read.
        devices: Vec<u32>,
    },
    /// It ends, or leaves the mode. Whatever is left is to go.
    Bye,
}

/// The guard's words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "say")]
pub enum FromGuard {
    /// To [`ToGuard::Hello`] (with 0), and to [`ToGuard::Beat`].
    Lease {
        /// Which beat.
        seq: u64,
        /// For how long rules may be placed and kept, from when the beat was sent, in milliseconds; 0 while rules of an
        /// earlier daemon wait to be taken over or removed.
        for_ms: u64,
        /// How long these wait yet, in milliseconds.
        take_within_ms: u64,
        /// Rules that this guard has removed since it started.
        removed: u64,
    },
    /// The daemon was silent for too long: its rules were removed, or are about to be. It has to begin anew.
    Taken,
    /// Another daemon is there.
    Busy,
    /// The guard is of another version.
    OtherVersion {
        /// Its own.
        version: u16,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_message_fits() {
        let took = ToGuard::Took { devices: vec![u32::MAX; DEVICES_MAX] };
        assert!(serde_json::to_vec(&took).unwrap().len() <= BYTES_MAX);
    }

    #[test]
    fn messages_are_read_as_they_were_written() {
        let hello = ToGuard::Hello { version: VERSION, answers: true };
        assert_eq!(serde_json::to_string(&hello).unwrap(), r#"{"say":"hello","version":1,"answers":true}"#);
        for message in [hello, ToGuard::Beat { seq: 7 }, ToGuard::Took { devices: vec![3] }, ToGuard::Bye] {
            let text = serde_json::to_string(&message).unwrap();
            assert_eq!(serde_json::from_str::<ToGuard>(&text).unwrap(), message);
        }
    }
}
