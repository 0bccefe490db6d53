//! The guard: a process of its own that removes the rules of mode shadow when the daemon that made them dies or hangs.
//!
//! Nobody but that daemon knows when a rule's megaflow is gone. So it places rules only while it holds a *lease* of the guard's,
//! which it renews from its main loop, and the guard removes all of them when nobody answers for them any more: it looks for
//! their cookies in the ingress hooks of all devices, and needs no word of the daemon for that.
//!
//! [`Watch`] decides, as a value that is told what happened and when; [`protocol`] is what both say to each other; [`sweep`]
//! removes; [`run`] is the loop around them, and the program `ovs-offload-guard`. The daemon's side is `daemon::guard`.

pub mod protocol;
mod run;
pub mod sweep;
mod watch;

pub use run::run;
pub use watch::{Heard, Scope, Terms, Watch};

/// Where the guard listens unless told otherwise.
pub const SOCKET: &str = "/run/ovs-offloadd/guard.sock";
