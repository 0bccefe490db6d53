//! The control commands: one definition for ovs-offloadctl, for ovs-appctl and for the server that answers both.
//!
//! A command `flow list --limit 5` is the unixctl method `flow/list` with the parameters `--limit`, `5`.

mod args;
pub mod inventory;
pub mod inventory_text;
pub mod openflow;
pub mod policy;
mod request;
pub mod sa;
pub mod text;
pub mod tunnel;
pub mod views;

pub use args::{
    Cli, FlowListArgs, FlowOrder, FlowQuery, FunctionArgs, Local, NicApplyArgs, NicQuery, OpenflowQuery,
    OutputFormat, PlacementFilter, PolicyQuery, PolicyTestArgs, PortAttachArgs, PortDetachArgs, PortListArgs,
    PortQuery, ProbeQuery, Query, RecordingQuery, RefusalQuery, SaQuery, TunnelQuery, Verb,
};
pub use request::{Asked, NotACommand, methods, parse_request, to_request};
