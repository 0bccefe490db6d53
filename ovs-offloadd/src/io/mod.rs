//! Files, sockets and processes: everything that reaches outside.
//!
//! The only place where `unsafe` may stand. Nothing here decides.

pub mod netlink;
pub mod nic;
pub mod rundir;
pub mod seqpacket;
pub mod sysfs;
pub mod unixctl;
