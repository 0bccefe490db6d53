#![no_std]
#![forbid(unsafe_code)]
//! Netlink framing, extended acks and message families, decoded from and encoded to bytes. No sockets.

extern crate alloc;
