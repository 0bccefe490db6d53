#![no_std]
#![forbid(unsafe_code)]
//! The decisions of ovs-offloadd: events in, effects out, time passed in.

extern crate alloc;
