//! `ovs-offloadctl doctor`: walks from firmware to flow and names what keeps flows out of the NIC, without the daemon.
//!
//! [`gather`] asks the kernel, Open vSwitch's database and files, each question by itself; what is judged are plain values
//! ([`Facts`]), by pure functions ([`checks::ALL`]). Nothing is changed.

pub mod checks;
// The tests of the lab bring these about, and see what is found.
#[path = "../../../tests/src/doctor/complaints.rs"]
pub mod complaints;
mod facts;
mod finding;
mod gather;
mod page;
mod report;

#[cfg(test)]
pub(crate) use facts::sample;
pub use facts::{
    Fact, Facts, Filter, HwTcOffload, Interface, IpsecOffload, Kernel, Link, Nic, Ovs, Process, Reporter,
    Role, Route, role_of,
};
pub use finding::{DoctorArgs, Finding, Kind, Severity, Stage};
pub use gather::{Places, gather, rundir};
pub(crate) use gather::{excluding_rules, firmware};
pub use page::reference_page;
pub use report::{LookedAt, Report};

/// Judges all facts.
pub fn judge(facts: &Facts) -> Report {
    let mut findings: Vec<Finding> = checks::ALL.iter().flat_map(|check| check(facts)).collect();
    // Within a stage the worst first; else in the order of the checks.
    findings.sort_by_key(|finding| (finding.stage, std::cmp::Reverse(finding.severity)));
    Report::new(facts, findings)
}

/// Looks at this host. What cannot be looked at is a finding of its own.
pub async fn run(args: &DoctorArgs, places: &Places) -> Report {
    judge(&gather(args, places).await)
}
