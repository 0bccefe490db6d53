//! JSON-RPC 1.0 as Open vSwitch speaks it: symmetric, and without any framing between messages.
//!
//! OVSDB (RFC 7047 §4) and OVS's control sockets (`unixctl`, `ovs-appctl`) both send JSON objects back to back on a
//! byte stream; either side may send requests and notifications. [`Framer`] and [`Message`] are pure;
//! [`Connection`] drives them over any tokio byte stream, as a client or as a server.

mod connection;
mod framer;
mod message;

pub use connection::{Closed, Connection, QueueFull};
pub use framer::{FrameError, Framer, Limits};
pub use message::{Malformed, Message, raw};
