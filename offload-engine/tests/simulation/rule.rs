//! A rule reduced to what the simulation varies: which megaflow, and which of several actions.

use crate::kernel::Filter;
use netlink_wire::{Ifindex, Masked, PortId, Seq, Ufid};
use tc_flower::Chain;
use tc_flower::action::{Ct, CtFlags, Direction, Gact, Mirred, MirredTarget};
use tc_flower::{Action, ActionKind, ActionReport, ActionStats, Change, Control, Counters};
use tc_flower::{FilterAddress, FilterCounters, FilterReport, Match};

/// The number of a megaflow that changes the mark of established connections.
pub(crate) const MARKS: u128 = 1_020;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) ufid: Ufid,
    pub(crate) actions: u16,
}

impl Rule {
    pub(crate) fn of(filter: &tc_flower::Filter) -> Self {
        let ufid = filter.ufid().expect("every rule has a ufid");
        let out = filter.actions.iter().find(|action| matches!(action.kind, ActionKind::Mirred(_)));
        let Some(ActionKind::Mirred(Mirred { target: MirredTarget::Device(ifindex), .. })) =
            out.map(|action| &action.kind)
        else {
            panic!("another action than the simulation makes");
        };
        Self { ufid, actions: u16::try_from(ifindex.0).expect("a small number") }
    }

    pub(crate) fn number(&self) -> u128 {
        u128::from_be_bytes(*self.ufid.as_bytes())
    }

    /// The chain it is in, and the one it sends its packets to, where megaflows are joined by recirculation.
    pub(crate) fn chains(ufid: Ufid) -> (u32, Option<u32>) {
        match u128::from_be_bytes(*ufid.as_bytes()) {
            1..=3 => (0, Some(5)),
            4 | 5 => (5, Some(6)),
            6..=8 | MARKS => (5, None),
            9 | 10 => (6, None),
            _ => (0, None),
        }
    }

    fn actions(&self, goes_to: Option<Chain>) -> Vec<Action> {
        if self.number() == MARKS {
            let mark = Some(Masked { value: 0, mask: 1 });
            let ct = ActionKind::Ct(Box::new(Ct { flags: CtFlags::COMMIT, mark, ..Ct::default() }));
            return vec![Action::new(ct, Control::Pipe), self.action()];
        }
        let Some(chain) = goes_to else { return vec![self.action()] };
        let mut copy = self.action();
        if let ActionKind::Mirred(mirred) = &mut copy.kind {
            mirred.copy = true;
        }
        copy.control = Control::Pipe;
        let mut goto = Action::new(ActionKind::Gact(Gact::default()), Control::Goto(chain));
        goto.cookie = Some(self.ufid.into());
        vec![copy, goto]
    }

    fn action(&self) -> Action {
        let target = MirredTarget::Device(Ifindex(u32::from(self.actions)));
        let mirred = Mirred { target, direction: Direction::Egress, copy: false };
        let mut action = Action::new(ActionKind::Mirred(mirred), Control::Stolen);
        action.cookie = Some(self.ufid.into());
        action
    }
}

fn counters(packets: u64) -> Counters {
    Counters { packets, bytes: packets * 100 }
}

/// A filter as the kernel reports it.
pub(crate) fn report(address: FilterAddress, filter: &Filter) -> FilterReport {
    let stats = ActionStats {
        software: counters(filter.software),
        hardware: counters(filter.hardware),
        ..ActionStats::default()
    };
    FilterReport {
        change: Change::New,
        seq: Seq(0),
        portid: PortId(0),
        address,
        other_classifier: None,
        flags: filter.flags,
        in_hw_count: None,
        class_id: None,
        indev: None,
        keys: Match::default(),
        actions: filter
            .rule
            .actions(filter.goes_to)
            .into_iter()
            .map(|action| ActionReport {
                action,
                stats,
                times: None,
                used_hw_stats: None,
                in_hw_count: None,
                references: 1,
                bindings: 1,
                unknown_attr: None,
            })
            .collect(),
        unknown: Vec::new(),
    }
}

/// The same, as a terse dump tells it.
pub(crate) fn counted(address: FilterAddress, filter: &Filter) -> FilterCounters {
    let report = report(address, filter);
    FilterCounters {
        seq: report.seq,
        portid: report.portid,
        address,
        flags: report.flags,
        in_hw_count: None,
        ufid: report.ufid(),
        stats: report.flow_stats(),
    }
}
