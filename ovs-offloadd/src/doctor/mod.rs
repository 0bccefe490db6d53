//! What keeps flows out of the NIC, from firmware to flow: plain values ([`Facts`]) judged by pure functions
//! ([`checks::ALL`]).

pub mod checks;
mod facts;
mod finding;
mod report;

pub use facts::{
    Fact, Facts, Filter, HwTcOffload, Interface, Kernel, Link, Nic, Ovs, Process, Role, Route, role_of,
};
pub use finding::{DoctorArgs, Finding, Kind, Severity, Stage};
pub use report::{LookedAt, Report};

/// Judges all facts.
pub fn judge(facts: &Facts) -> Report {
    let mut findings: Vec<Finding> = checks::ALL.iter().flat_map(|check| check(facts)).collect();
    // Within a stage the worst first; else in the order of the checks.
    findings.sort_by_key(|finding| (finding.stage, std::cmp::Reverse(finding.severity)));
    Report::new(facts, findings)
}
