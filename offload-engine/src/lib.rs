#![no_std]
#![forbid(unsafe_code)]
//! The decisions of ovs-offloadd: events in, effects out, time passed in.
//!
//! [`Engine::handle`] takes one [`Event`] with its time and returns the [`Effect`]s to carry out; every effect with an
//! operation id is answered by an event. The engine reads no clock, opens no socket and draws no random number, so a
//! recorded log of events replays bit for bit.

extern crate alloc;
#[cfg(test)]
extern crate std;

mod chains;
pub mod counters;
pub mod dpctl;
mod engine;
pub mod event;
mod history;
mod journey;
mod ledger;
pub mod odp;
pub mod openflow;
pub mod ovs;
mod placing;
mod planners;
mod policy;
pub mod ports;
mod probed;
mod protection;
mod race;
pub mod recording;
pub mod refusal;
mod rule;
pub mod settings;
pub mod shadow;
mod shapes;
mod standing;
mod steer;
pub mod subject;
mod view;
mod watch;
pub mod workload;
mod world;

pub use chains::{ChainRestore, Recirculation};
pub use counters::{Count, Traffic};
pub use engine::Engine;
pub use event::{
    Acked, Answer, Author, CommandError, Effect, Event, Lease, Megaflow, OpId, Peer, Refused, Replacement,
    Round,
};
pub use ledger::{Goal, Home};
pub use openflow::{OpenflowRule, OpenflowView, Telling};
pub use ovs::{Mode, ModeWanted, OvsSettings, OvsVersion, TcPolicy};
pub use policies::Micros;
pub use policy::{Belonging, RuleTally, RuleView};
pub use ports::{NicFacts, NicId, PortFacts, PortKind};
pub use probed::ProbedRefusal;
pub use protection::IpsecPolicy;
pub use refusal::Refusal;
pub use settings::{Counters, Settings};
pub use standing::{NAMESPACES_MAX, OTHER_NAMESPACES};
pub use view::{AFTER_SHOWN, FlowView, NicView, Placement, PortView, Status, UnitView};
pub use workload::{Orchestrator, Workload};
pub use world::{NicTally, Tally};
