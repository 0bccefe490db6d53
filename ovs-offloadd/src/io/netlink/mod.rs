//! Netlink sockets on tokio: bytes in, bytes out, overruns told.
//!
//! Messages are cut and read by `netlink-wire`; this knows sockets, sequence numbers and groups.

mod asker;
mod blocking;
mod pipeline;
mod socket;

pub use asker::Asker;
pub use blocking::{Blocking, Unanswered};
pub use pipeline::{InFlight, Pipeline};
pub use socket::{DATAGRAM_BYTES_MAX, Protocol, Received, Socket};
