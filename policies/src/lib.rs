#![no_std]
#![forbid(unsafe_code)]
//! Which megaflows deserve a hardware entry. No clocks, no IO.
//!
//! [`planner`] ranks what competes for a NIC's table. It depends on nothing but plain values: time comes
//! in as [`Micros`], ids are whatever the caller uses.

extern crate alloc;

pub mod planner;
mod units;

pub use units::{Micros, Rate, RuleId, Weight};
