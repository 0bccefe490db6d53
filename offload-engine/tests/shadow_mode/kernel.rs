//! What the kernel tells of ports, rules and megaflows; also for the bench of a storm of megaflows.

use netlink_wire::{DpPort, Ifindex, Message, Seq};
use offload_engine::{Count, NicId, PortFacts, PortKind};
use tc_flower::action::ActionIndex;
use tc_flower::{
    Filter, FilterAddress, FilterCounters, FilterFlags, FilterReport, Location, TcEvent, request,
};

pub(crate) const DP: Ifindex = Ifindex(3);

/// Writes an attribute (`struct nlattr`) behind others.
pub(crate) fn attr(out: &mut Vec<u8>, kind: u16, payload: &[u8]) {
    out.extend((payload.len() as u16 + 4).to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(payload);
    out.resize(out.len().next_multiple_of(4), 0);
}

/// A representor of NIC 0.
pub(crate) fn port(number: u32) -> PortFacts {
    PortFacts {
        name: format!("rep{number}"),
        ifindex: Ifindex(10 + number),
        location: Location::ingress(Ifindex(10 + number)),
        dp_port: Some(DpPort(number)),
        dp: Some(DP),
        bridge: "br0".into(),
        iface_id: None,
        workload: None,
        kind: PortKind::Representor,
        tunnel_kind: None,
        tunnel_port: None,
        nic: Some(NicId(0)),
        hw_tc_offload: true,
    }
}

/// A rule in hardware that has counted so much.
pub(crate) fn report(address: FilterAddress, filter: &Filter, counted: Count) -> FilterReport {
    // Without a handle, it would be told for a priority.
    let written = request::add(&Filter { address, ..filter.clone() }, Seq(1)).unwrap();
    let TcEvent::Filter(report) = TcEvent::decode(&Message::first(&written).unwrap()).unwrap() else {
        panic!("a filter is no filter");
    };
    let mut report = *report;
    report.flags = FilterFlags::SKIP_SW | FilterFlags::IN_HW;
    for (at, action) in (1..).zip(&mut report.actions) {
        action.action.index = ActionIndex(at);
        action.stats.hardware.packets = counted.packets;
        action.stats.hardware.bytes = counted.bytes;
    }
    report
}

/// What a terse dump has of it.
pub(crate) fn counters(report: &FilterReport) -> FilterCounters {
    FilterCounters {
        seq: report.seq,
        portid: report.portid,
        address: report.address,
        flags: report.flags,
        in_hw_count: None,
        ufid: report.ufid(),
        stats: report.flow_stats(),
    }
}
