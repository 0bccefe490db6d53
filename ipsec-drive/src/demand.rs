//! What a connection's security associations will be, as a NIC looks at them before it takes them.

use crate::Connection;

/// Replay windows that NICs have, in packets.
pub const REPLAY_WINDOWS: [u32; 4] = [32, 64, 128, 256];
/// strongSwan's replay window unless told otherwise, in packets (`charon.replay_window`).
const REPLAY_WINDOW: u32 = 32;

/// The security associations that a connection asks for, known before it is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Planned {
    /// Bits of AES-GCM's key, without the salt.
    pub key_bits: u32,
    /// Bits of its tag.
    pub icv_bits: u32,
    /// Whether sequence numbers have 64 bits, where the peer has them too.
    pub esn: bool,
    /// Packets that the guard against replay looks back.
    pub replay_window: u32,
    /// Whether ESP is in UDP even without a NAT.
    pub udp_encap: bool,
}

impl Planned {
    /// Those of a connection. All are of mode transport, have a reqid, and are limited by time alone.
    pub fn of(connection: &Connection) -> Self {
        Self {
            key_bits: 256,
            icv_bits: 128,
            esn: true,
            replay_window: connection.replay_window.unwrap_or(REPLAY_WINDOW),
            udp_encap: connection.encap,
        }
    }
}
