#![no_std]
#![forbid(unsafe_code)]
//! TC flower filters as values, and their netlink codec. No sockets.

extern crate alloc;
