//! Where the tests talk to libc.

pub(crate) mod conntrack;
pub(crate) mod netns;
pub(crate) mod packet_socket;
pub(crate) mod tcp_info;
