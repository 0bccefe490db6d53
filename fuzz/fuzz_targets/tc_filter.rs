#![no_main]
//! A filter as the kernel reports it: what can be written back is read again as the same rule.

use libfuzzer_sys::fuzz_target;
use netlink_wire::{Message, Messages};
use tc_flower::{
    ActionFlags, ActionKind, Filter, FilterCounters, FilterFlags, FilterReport, ReplaceActions, Seq, TcEvent,
    display, request,
};

/// What stays the same: everything but what the kernel says of its own, and bits that no request sets.
fn rule(mut filter: Filter) -> Filter {
    filter.flags = filter.flags & FilterFlags::REQUESTABLE;
    for action in &mut filter.actions {
        action.flags = action.flags & ActionFlags::NO_PERCPU_STATS;
    }
    filter
}

fn filter(message: &Message<'_>) -> Option<FilterReport> {
    match TcEvent::decode(message) {
        Ok(TcEvent::Filter(report)) => Some(*report),
        _ => None,
    }
}

/// A request is no report: its actions have no references, by which a shared action is told.
fn written(report: FilterReport) -> Filter {
    let actions = report.actions.into_iter().map(|report| report.action).collect();
    let FilterReport { address, flags, class_id, indev, keys, .. } = report;
    Filter { address, flags, class_id, indev, keys, actions }
}

fuzz_target!(|bytes: &[u8]| {
    for message in Messages::new(bytes).flatten() {
        let counters = FilterCounters::decode(&message);
        let Some(report) = filter(&message) else { continue };
        if let Ok(Some(counters)) = counters {
            assert_eq!((counters.address, counters.stats), (report.address, report.flow_stats()));
            assert_eq!(counters.ufid, report.ufid());
        }
        let actions = report.actions.iter().map(|report| &report.action);
        drop(display::actions(actions, &|ifindex, f| write!(f, "{ifindex}")).to_string());
        drop(report.keys.to_string());
        let _ = report.idle_ms();
        let Ok(original) = report.to_filter() else { continue };
        if original.actions.iter().any(|action| matches!(action.kind, ActionKind::Police(_))) {
            // Its control and flags decide whether it may be written.
            drop(request::replace(&original, ReplaceActions::Kept, Seq(1)));
            continue;
        }
        let Ok(bytes) = request::replace(&original, ReplaceActions::Kept, Seq(1)) else { continue };
        let message = Message::first(&bytes).expect("a request is a whole message");
        let read = filter(&message).expect("a request is read as a filter");
        assert!(read.unknown.is_empty());
        assert_eq!(rule(written(read)), rule(original));
    }
});
