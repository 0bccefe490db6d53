//! A flow as it is shown: what it is, why it is where it is, and what recirculation joins it to.

use serde::Serialize;

use super::Split;
use crate::ctl::openflow::OpenflowRuleView;

/// A flow in a list.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FlowView {
    /// The flow's id.
    pub ufid: String,
    /// `hardware`, `tc` (in software) or `datapath`.
    pub placement: &'static str,
    /// Why it is there, a word of a closed set.
    pub reason: &'static str,
    /// Name of the port it comes in by.
    pub port: Option<String>,
    /// The NIC of that port.
    pub nic: Option<u16>,
    /// The chain of TC that its rule is in: its recirculation id.
    pub chain: Option<u32>,
    /// The chain that its rule sends packets to.
    pub goes_to: Option<u32>,
    /// What it matches.
    pub key: String,
    /// How far its packets travel: `same-node`, `cross-node`, `external` or `unknown`.
    pub locality: &'static str,
    /// The workload of this node that sends its packets, else the one that gets them.
    pub workload: Option<String>,
    /// The workload's Kubernetes namespace.
    pub namespace: Option<String>,
    /// Whose it is.
    pub tenant: Option<String>,
    /// OVN's name of the chassis at the tunnel's other end.
    pub chassis: Option<String>,
    /// Whether IPsec protects the packets on the wire, where that is known.
    pub encrypted: Option<bool>,
    /// The OpenFlow rules that it is of, where it has a rule of mode shadow and Open vSwitch has told.
    pub openflow: Option<Vec<OpenflowRuleView>>,
    /// Time since first seen, in milliseconds.
    pub age_ms: u64,
    /// What it carried since first seen.
    pub traffic: Split,
    /// What it carries, per second.
    pub rate: Split,
}

/// Why a flow is where it is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FlowWhy {
    /// The flow.
    pub flow: FlowView,
    /// Where its rule is in TC.
    pub address: Option<String>,
    /// What it does with packets.
    pub actions: Option<String>,
    /// Where recirculation joins it to others.
    pub unit: Option<UnitView>,
    /// Sentences, the most important first.
    pub why: Vec<String>,
}

/// Where a flow stands among those that recirculation joins.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct UnitView {
    /// The chain it is in: its recirculation id.
    pub chain: u32,
    /// The chain it sends its packets to.
    pub goes_to: Option<u32>,
    /// Flows whose packets it may get; at most 32.
    pub before: Vec<UnitPart>,
    /// Flows that may get its packets; the first 16.
    pub after: Vec<UnitPart>,
    /// How many these are in all.
    pub after_count: u64,
    /// Entries that it takes with those before it that have none, or, of one in hardware, that are there for it alone.
    pub entries: Option<u32>,
}

/// Another flow of a unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UnitPart {
    /// Which.
    pub ufid: String,
    /// Whether it is in hardware.
    pub in_hardware: bool,
}
