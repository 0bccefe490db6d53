//! The IO around the engine of ovs-offloadd: configuration, sockets, control commands, metrics.
//!
//! Decisions are made in `offload-engine`; what is here carries values to it and from it.

pub mod config;
pub mod ctl;
pub mod daemon;
pub mod doctor;
pub mod event_log;
#[cfg(test)]
mod golden;
pub mod guard;
pub mod ike;
pub mod inventory;
pub mod io;
pub mod ipsec;
pub mod lifecycle;
pub mod logging;
pub mod metrics;
pub mod nics;
pub mod probe;
pub mod recording;
pub mod replay;
mod workload;
