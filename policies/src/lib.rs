#![no_std]
#![forbid(unsafe_code)]
//! Which megaflows deserve a hardware entry. No clocks, no IO.

extern crate alloc;
