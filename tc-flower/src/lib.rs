#![no_std]
#![forbid(unsafe_code)]
//! TC flower filters as values, and their netlink codec. No sockets.
//!
//! [`TcEvent::decode`] reads what rtnetlink says about filters, chains and qdiscs, in dumps, answers and
//! notifications. A [`FilterReport`] is a filter as the kernel described it, counters included; a [`Filter`] is one
//! that can be written. [`FilterReport::to_filter`] goes from one to the other, or says in an [`Unsupported`] why the
//! filter could not be written back as it is. [`request`] makes the messages to send.
//!
//! ```
//! use tc_flower::{Filter, FilterFlags, FilterReport, ReplaceActions, Unsupported, request};
//! use netlink_wire::Seq;
//!
//! /// The message that moves a filter into hardware.
//! fn promote(report: &FilterReport, seq: Seq) -> Result<Vec<u8>, Unsupported> {
//!     let filter = Filter { flags: FilterFlags::VERBOSE, ..report.to_filter()? };
//!     request::replace(&filter, ReplaceActions::Fresh, seq)
//! }
//! ```

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod action;
pub mod address;
pub mod display;
pub mod event;
pub mod filter;
pub mod flags;
pub mod keys;
pub mod parts;
pub mod request;
pub mod shape;
pub mod stats;
pub mod unsupported;

pub use action::{Action, ActionIndex, ActionKind, ActionReport, Control, Cookie};
pub use address::{BlockIndex, Chain, FilterAddress, Handle, Hook, Location, Prio};
pub use event::{QdiscReport, TcEvent};
pub use filter::{Change, Filter, FilterReport, UnknownAttr};
pub use flags::{ActionFlags, FilterFlags, HwStats};
pub use keys::Match;
pub use netlink_wire::{EtherType, Ifindex, MacAddr, Masked, PortId, Seq, Ufid};
pub use parts::{Part, Parts};
pub use request::{Detail, ReplaceActions};
pub use shape::Shape;
pub use stats::{ActionStats, Counters, FilterCounters, FlowStats};
pub use unsupported::Unsupported;
