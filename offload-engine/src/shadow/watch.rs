//! Bookkeeping of what TC reports of rules of our own, and of filters of others beside them.

use super::book::{Book, Stage};
use super::layout::Origin;
use crate::counters::Traffic;
use crate::event::{Author, Round};
use crate::rule::traffic;
use crate::watch::{Change, per_second};
use crate::world::World;
use alloc::vec::Vec;
use netlink_wire::Ufid;
use policies::Micros;
use tc_flower::{Chain, FilterAddress, FilterCounters, FilterReport, FlowStats, Hook, Location, Prio};

impl World {
    /// Notification: a rule with our cookie was made or changed. None for a filter without one.
    pub(crate) fn own_new(&mut self, report: &FilterReport, author: Author) -> Option<Change> {
        if Origin::of_filter(report).is_none() {
            self.note_other(report.address.location);
            return None;
        }
        let address = report.address;
        let asked = match author {
            Author::Us(op) => self.ops.get(&op).map(|ufid| (op, *ufid)),
            Author::Other => None,
        };
        if let Some((op, ufid)) = asked
            && self.own.get(ufid).is_some_and(|own| own.stage == Stage::Adding(op))
        {
            self.own.is_at(ufid, address);
            return Some(Change::Nothing);
        }
        // Not as we wrote it, or not from us at all: nobody answers for it.
        let change = self.own.at(address).map_or(Change::Nothing, |ufid| self.own_lost(ufid));
        self.own.note_stray(address);
        Some(change)
    }

    /// Notification: a filter at one of our addresses was deleted; its report carries the last counters.
    pub(crate) fn own_gone(&mut self, now: Micros, report: &FilterReport) -> Option<Change> {
        self.own.forget_stray(report.address);
        let ufid = self.own.at(report.address)?;
        self.own_counted(now, ufid, &report.flow_stats());
        Some(self.own_lost(ufid))
    }

    /// Notification: filters went away together.
    pub(crate) fn own_gone_in(
        &mut self,
        location: Location,
        chain: Option<Chain>,
        prio: Option<Prio>,
    ) -> Vec<Change> {
        let gone = self.own.gone_in(location, chain, prio);
        gone.into_iter().map(|ufid| self.own_lost(ufid)).collect()
    }

    /// A dump came past a filter in full. None for one without our cookie.
    pub(crate) fn own_dumped(&mut self, now: Micros, report: &FilterReport, round: Round) -> Option<Change> {
        if Origin::of_filter(report).is_none() {
            self.note_other(report.address.location);
            return None;
        }
        if self.takes_over() && self.own.at(report.address).is_none() {
            self.own.note_left(report);
            return Some(Change::Nothing);
        }
        Some(self.own_read(now, report.address, &report.flow_stats(), report.is_in_hw(), round))
    }

    /// A dump came past a filter. None for one that is not at an address of ours.
    pub(crate) fn own_counters(
        &mut self,
        now: Micros,
        counters: &FilterCounters,
        round: Round,
    ) -> Option<Change> {
        let address = counters.address;
        if self.own.at(address).is_some() {
            let in_hw = counters.flags.contains(tc_flower::FilterFlags::IN_HW);
            return Some(self.own_read(now, address, &counters.stats, in_hw, round));
        }
        if self.own.is_left(address) {
            return Some(Change::Nothing);
        }
        if Book::is_of_layout(address) && counters.ufid.is_none() {
            // Whose it is shows its cookie, which only a full dump has.
            self.read_in_full.insert(address.location);
            return Some(Change::Nothing);
        }
        self.note_other(address.location);
        None
    }

    fn own_read(
        &mut self,
        now: Micros,
        address: FilterAddress,
        stats: &FlowStats,
        in_hw: bool,
        round: Round,
    ) -> Change {
        let Some(ufid) = self.own.at(address) else {
            self.own.note_stray(address);
            return Change::Nothing;
        };
        let Some(own) = self.own.get_mut(ufid) else { return Change::Nothing };
        own.seen = own.seen.max(round);
        if own.made_in >= round {
            return Change::Nothing;
        }
        if own.stage == Stage::There && !in_hw {
            // The driver has given it up: in software it has no business.
            let change = self.own_lost(ufid);
            self.own.note_stray(address);
            return change;
        }
        self.own_counted(now, ufid, stats)
    }

    fn own_counted(&mut self, now: Micros, ufid: Ufid, stats: &FlowStats) -> Change {
        let Some((moved, over)) = self.own.read(now, ufid, traffic(stats)) else { return Change::Nothing };
        self.account(ufid, moved);
        if let Some(entry) = self.ledger.get_mut(ufid) {
            self.openflow.count(ufid, moved.hardware);
            entry.rate.hardware = per_second(moved, Some(over)).hardware;
            entry.has_rate = true;
        }
        Change::Counted { ufid, moved, over }
    }

    /// The rule made from `ufid` is not there any more.
    pub(crate) fn own_lost(&mut self, ufid: Ufid) -> Change {
        self.openflow.removed(ufid);
        if let Some(own) = self.own.remove(ufid)
            && matches!(own.stage, Stage::Removing { .. })
        {
            self.count_demotion(Some(own.nic));
        }
        if let Some(entry) = self.ledger.get_mut(ufid) {
            entry.shadowed = false;
            entry.rate.hardware = Traffic::default().hardware;
        }
        Change::OwnLost { ufid }
    }

    /// A dump of a location ended.
    pub(crate) fn own_dump_ended(&mut self, location: Location, round: Round, complete: bool) -> Vec<Change> {
        if !complete {
            return Vec::new();
        }
        self.own.others_dumped(location, round);
        let unseen = self.own.unseen(location, round);
        unseen.into_iter().map(|ufid| self.own_lost(ufid)).collect()
    }

    /// There is a filter of somebody else.
    fn note_other(&mut self, location: Location) {
        let is_ingress = matches!(location, Location::Device { hook: Hook::Ingress, .. });
        if self.judges_datapath && is_ingress {
            let round = self.latest_round();
            self.own.note_other(location, round);
        }
    }
}
