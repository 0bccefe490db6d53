#![no_std]
#![forbid(unsafe_code)]
//! Which megaflows deserve a hardware entry. No clocks, no IO.
//!
//! [`rules`] says what an operator wants of each megaflow, in the match language of OVN and OVS ([`language`]);
//! [`planner`] ranks what competes for a NIC's table. Both work on plain values: time comes in as [`Micros`], ids
//! are whatever the caller uses.

extern crate alloc;

pub mod language;
pub mod planner;
pub mod recording;
pub mod replay;
pub mod rules;
pub mod tenants;
mod units;

pub use units::{Micros, NotAQuantity, Rate, RuleId, Weight};
