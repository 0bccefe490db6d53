//! What makes two filters the same rule, and the replacements that leave it the same.

use crate::counters::{Count, ETHERNET_HEADER_BYTES, Traffic};
use crate::event::Replacement;
use crate::refusal::Refusal;
use alloc::string::ToString;
use netlink_wire::Seq;
use tc_flower::{
    Action, Filter, FilterAddress, FilterCounters, FilterFlags, FilterReport, FlowStats, ReplaceActions,
};

/// Whether two reports describe the same treatment of the same packets for the same megaflow.
///
/// Where a rule is placed, which numbers its actions go by and what it counted do not matter.
pub(crate) fn same_rule(a: &FilterReport, b: &FilterReport) -> bool {
    a.ufid() == b.ufid()
        && a.other_classifier == b.other_classifier
        && a.class_id == b.class_id
        && a.indev == b.indev
        && a.keys == b.keys
        && a.unknown == b.unknown
        && a.actions.len() == b.actions.len()
        && a.actions.iter().zip(&b.actions).all(|(a, b)| same_action(&a.action, &b.action))
}

pub(crate) fn same_action(a: &Action, b: &Action) -> bool {
    a.kind == b.kind && a.control == b.control && a.cookie == b.cookie
}

/// What a full report says that a terse one would say too.
pub(crate) fn counters_of(report: &FilterReport) -> FilterCounters {
    FilterCounters {
        seq: report.seq,
        portid: report.portid,
        address: report.address,
        flags: report.flags,
        in_hw_count: report.in_hw_count,
        ufid: report.ufid(),
        stats: report.flow_stats(),
    }
}

/// Whether a filter can be written for hardware as it is. The request is made to find out: what stands in the way may
/// be a meter of Open vSwitch that was made for software only, which shows in the actions as a whole.
pub(crate) fn can_be_replaced(report: &FilterReport) -> Result<(), Refusal> {
    let Replacement { filter, actions } = into_hardware(report, report.address)?;
    let request = tc_flower::request::replace(&filter, actions, Seq(0));
    request.map(|_| ()).map_err(|why| Refusal::Unsupported(why.to_string()))
}

/// `report`'s rule for software and hardware, with fresh actions: those born under skip_hw can never serve it there.
pub(crate) fn into_hardware(report: &FilterReport, address: FilterAddress) -> Result<Replacement, Refusal> {
    replacement(report, address, FilterFlags::VERBOSE, ReplaceActions::Fresh)
}

/// `report`'s rule for software only, with the actions and counters it has.
pub(crate) fn into_software(report: &FilterReport, address: FilterAddress) -> Result<Replacement, Refusal> {
    replacement(report, address, FilterFlags::SKIP_HW, ReplaceActions::Kept)
}

/// `report`'s rule as its owner wrote it.
pub(crate) fn as_written(report: &FilterReport, address: FilterAddress) -> Result<Replacement, Refusal> {
    replacement(report, address, report.flags & FilterFlags::REQUESTABLE, ReplaceActions::Fresh)
}

fn replacement(
    report: &FilterReport,
    address: FilterAddress,
    flags: FilterFlags,
    actions: ReplaceActions,
) -> Result<Replacement, Refusal> {
    let filter = report.to_filter().map_err(|why| Refusal::Unsupported(why.to_string()))?;
    Ok(Replacement { filter: Filter { address, flags, ..filter }, actions })
}

/// A filter's counters, with the Ethernet header that TC leaves out of the software part.
pub(crate) fn traffic(stats: &FlowStats) -> Traffic {
    let software = stats.software;
    let headers = software.packets.saturating_mul(ETHERNET_HEADER_BYTES);
    Traffic {
        software: Count::new(software.packets, software.bytes.saturating_add(headers)),
        hardware: Count::new(stats.hardware.packets, stats.hardware.bytes),
    }
}
