//! Bookkeeping of what TC and the kernel datapath report. What to do about it is the mode's.

use crate::counters::{Count, Meter, Traffic};
use crate::event::{Author, Megaflow, OpId, Round};
use crate::ledger::{Entry, Goal, Home, Stage, TcFilter, Told};
use crate::refusal::Refusal;
use crate::rule::{counters_of, same_rule, traffic};
use crate::shadow::storm::Noted;
use crate::world::{Doubt, World};
use alloc::boxed::Box;
use alloc::vec::Vec;
use netlink_wire::{Ifindex, Ufid};
use policies::Micros;
use tc_flower::{Chain, FilterCounters, FilterReport, FlowStats, Location, Prio};

/// Filters of one megaflow kept while a command of ours is under way. More changes than that in one command's time
/// cannot be judged, and need not be.
pub(crate) const SEEN_MAX: usize = 16;

/// What a report came to, for the mode to act upon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Open vSwitch made a filter or changed it.
    Made {
        ufid: Ufid,
        /// Time since the change before this one.
        quiet_for: Micros,
    },
    /// A change of ours was notified.
    Ours { ufid: Ufid },
    /// A change of ours hit the filter of another megaflow.
    Clobbered { victim: Ufid },
    /// A filter went away, or a megaflow left TC.
    Left { ufid: Ufid },
    /// A filter was found by a dump.
    Found { ufid: Ufid },
    /// A dump showed where a rule is now, and what it moved since the last one.
    Read {
        ufid: Ufid,
        moved: Traffic,
        /// Time since the reading before; for the first, since the megaflow appeared, with counters at zero.
        over: Micros,
    },
    /// The kernel datapath has a flow that was not there before, or is another now, or is said to be there.
    Told { ufid: Ufid },
    /// A dump showed what a flow of the kernel datapath, or a rule of our own made from it, moved since the last one.
    Counted { ufid: Ufid, moved: Traffic, over: Micros },
    /// A rule of our own is not there any more.
    OwnLost { ufid: Ufid },
    /// More new megaflows come by a port than are followed, from now on.
    Shed { port: Ifindex },
    /// All megaflows of a port are known again that was shed.
    Followed { port: Ifindex },
    /// The rules say otherwise of it than before.
    Decided { ufid: Ufid },
    /// Nothing the mode would care about.
    Nothing,
}

impl World {
    /// Notification: Open vSwitch, or whoever, made or changed a filter.
    pub(crate) fn filter_new(&mut self, now: Micros, report: Box<FilterReport>, author: Author) -> Change {
        if let Some(change) = self.own_new(&report, author) {
            return change;
        }
        match author {
            Author::Other => self.filter_made(now, report),
            Author::Us(op) => self.filter_ours(now, report, op),
        }
    }

    fn filter_made(&mut self, now: Micros, report: Box<FilterReport>) -> Change {
        let Some(ufid) = report.ufid() else { return Change::Nothing };
        let address = report.address;
        if let Some(other) = self.ledger.at(address).filter(|other| *other != ufid) {
            self.filter_lost(now, other);
        }
        if !self.has_room_for(ufid) {
            return Change::Nothing;
        }
        let stale_through = self.latest_round();
        let (port, nic) = self.place_of(&report);
        let entry = self.ledger.entry(ufid, now, Home::Tc(address));
        let quiet_for = now.since(entry.changed);
        entry.changed = now;
        entry.port = port;
        entry.nic = nic;
        entry.stale_through = stale_through;
        entry.meter.restart();
        entry.idle_in_hw = 0;
        if let Stage::Modifying { seen, .. } = &mut entry.stage
            && seen.len() < SEEN_MAX
        {
            seen.push((*report).clone());
        }
        // Ours was told first, and may have come second: then it is what is there. Written back once too often, what
        // Open vSwitch wants does no harm.
        let live = self.told_of_nothing.remove(&address).map_or_else(|| report.clone(), |(_, ours)| ours);
        entry.filter = Some(TcFilter { owner: report, live });
        self.ledger.set_home(ufid, Home::Tc(address));
        self.rejoin(ufid);
        self.record_flow(ufid);
        Change::Made { ufid, quiet_for }
    }

    fn filter_ours(&mut self, now: Micros, report: Box<FilterReport>, op: OpId) -> Change {
        let Some(&ufid) = self.ops.get(&op) else { return Change::Nothing };
        let stale_through = self.latest_round();
        let Some(at) = self.ledger.at(report.address) else {
            // Deleted right after our change and told before it, or made right before and told after; or the
            // notification was lost. A full dump settles it, unless its owner's next filter here does first.
            self.read_in_full.insert(report.address.location);
            self.told_of_nothing.insert(report.address, (now, report));
            return Change::Nothing;
        };
        let goal = self.ledger.get(ufid).and_then(|entry| match entry.stage {
            Stage::Replacing { goal, .. } => Some(goal),
            _ => None,
        });
        let Some(entry) = self.ledger.get_mut(at) else { return Change::Nothing };
        if goal != Some(Goal::Demote) {
            // Fresh actions: what the filter before had counted comes with the answer.
            let old = entry.meter;
            entry.meter.restart();
            self.set_old_meter(ufid, old);
        }
        let Some(entry) = self.ledger.get_mut(at) else { return Change::Nothing };
        entry.stale_through = stale_through;
        entry.idle_in_hw = 0;
        if let Some(filter) = &mut entry.filter {
            filter.live = report;
        }
        if at == ufid { Change::Ours { ufid } } else { Change::Clobbered { victim: at } }
    }

    fn set_old_meter(&mut self, ufid: Ufid, old: Meter) {
        if let Some(Stage::Replacing { old_meter, .. }) =
            self.ledger.get_mut(ufid).map(|entry| &mut entry.stage)
        {
            *old_meter = Some(old);
        }
    }

    /// Counts what a filter showed just before it was replaced by one with fresh actions; `meter` is its own.
    pub(crate) fn count_replaced(&mut self, before: &FilterReport, mut meter: Meter) {
        if let Some(ufid) = before.ufid() {
            let moved = meter.read(traffic(&before.flow_stats()));
            self.account(ufid, moved);
        }
    }

    /// Notification: a filter was deleted; its report carries the last counters.
    pub(crate) fn filter_gone(&mut self, now: Micros, report: &FilterReport) -> Change {
        if let Some(change) = self.own_gone(now, report) {
            return change;
        }
        let Some(ufid) = self.ledger.at(report.address) else { return Change::Nothing };
        if let Some(entry) = self.ledger.get_mut(ufid)
            && let Stage::Modifying { unclear, .. } = &mut entry.stage
            && entry.filter.as_ref().is_none_or(|filter| !same_rule(&filter.live, report))
        {
            *unclear = true;
        }
        match report.ufid() {
            // A replacement of ours had hit another megaflow's filter; what it counted there was its own. One that kept
            // the actions went on from what the other had counted.
            Some(told) if told != ufid => {
                let entry = self.ledger.get_mut(ufid);
                let moved = entry.map(|entry| entry.meter.read(traffic(&report.flow_stats())));
                self.account(told, moved.unwrap_or_default());
            }
            _ => {
                self.count(ufid, &report.flow_stats());
            }
        }
        self.filter_lost(now, ufid);
        Change::Left { ufid }
    }

    /// Notification: filters went away together. Their last counters are not told.
    pub(crate) fn filters_gone(
        &mut self,
        now: Micros,
        location: Location,
        chain: Option<Chain>,
        prio: Option<Prio>,
    ) -> Vec<Change> {
        let mut changes = self.own_gone_in(location, chain, prio);
        changes.extend(self.filters_of_ovs_gone(now, location, chain, prio));
        changes
    }

    /// Open vSwitch's filters went away together. Rules of our own are not among them where a port leaves Open vSwitch and its
    /// device stays.
    pub(crate) fn filters_of_ovs_gone(
        &mut self,
        now: Micros,
        location: Location,
        chain: Option<Chain>,
        prio: Option<Prio>,
    ) -> Vec<Change> {
        let gone = self.ledger.in_scope(location, chain, prio);
        gone.into_iter()
            .map(|ufid| {
                self.filter_lost(now, ufid);
                Change::Left { ufid }
            })
            .collect()
    }

    /// The kernel knew no filter where that of `ufid` was when a request was sent.
    pub(crate) fn filter_missing(&mut self, now: Micros, ufid: Ufid, sent: Micros) {
        let Some(entry) = self.ledger.get(ufid).filter(|entry| entry.changed < sent) else { return };
        let Some(address) = entry.address() else { return };
        self.tally.changes_missed += 1;
        self.read_in_full.insert(address.location);
        self.filter_lost(now, ufid);
    }

    /// The filter of `ufid` is not there any more.
    fn filter_lost(&mut self, now: Micros, ufid: Ufid) {
        let stale_through = self.latest_round();
        self.ledger.set_home(ufid, Home::Gone { since: now });
        if let Some(entry) = self.ledger.get_mut(ufid) {
            entry.filter = None;
            entry.stale_through = stale_through;
            entry.meter.restart();
        }
        self.rejoin(ufid);
        self.record_lost(ufid);
    }

    /// A terse dump came past a filter.
    pub(crate) fn filter_counted(&mut self, now: Micros, counters: &FilterCounters, round: Round) -> Change {
        if let Some(change) = self.own_counters(now, counters, round) {
            return change;
        }
        let Some(ufid) = counters.ufid else {
            self.sweep.foreign += 1;
            return Change::Nothing;
        };
        if self.is_stale(ufid, round) {
            return Change::Nothing;
        }
        if self.ledger.at(counters.address) != Some(ufid) {
            // Something changed that no notification told: only a full dump shows what.
            self.read_in_full.insert(counters.address.location);
            self.mark_seen(ufid, round);
            return Change::Nothing;
        }
        self.filter_read(now, ufid, counters, round)
    }

    /// A full dump came past a filter.
    pub(crate) fn filter_dumped(&mut self, now: Micros, report: Box<FilterReport>, round: Round) -> Change {
        if let Some(change) = self.own_dumped(now, &report, round) {
            return change;
        }
        let Some(ufid) = report.ufid() else {
            self.sweep.foreign += 1;
            return Change::Nothing;
        };
        if self.is_stale(ufid, round) {
            return Change::Nothing;
        }
        if self.ledger.at(report.address) != Some(ufid) {
            return self.filter_found(now, ufid, report, round);
        }
        if let Some(entry) = self.ledger.get_mut(ufid)
            && entry.is_resting()
            && let Some(filter) = &mut entry.filter
            && !same_rule(&report, &filter.live)
        {
            self.tally.changes_missed += 1;
            return self.filter_found(now, ufid, report, round);
        }
        self.filter_read(now, ufid, &counters_of(&report), round)
    }

    /// Whether a dump of `round` may tell of a time before the last notification about `ufid`.
    fn is_stale(&mut self, ufid: Ufid, round: Round) -> bool {
        let stale = self.ledger.get(ufid).is_some_and(|entry| entry.stale_through >= round);
        if stale {
            self.mark_seen(ufid, round);
        }
        stale
    }

    fn mark_seen(&mut self, ufid: Ufid, round: Round) {
        if let Some(entry) = self.ledger.get_mut(ufid) {
            entry.seen = round;
        }
    }

    fn filter_read(&mut self, now: Micros, ufid: Ufid, read: &FilterCounters, round: Round) -> Change {
        let moved = self.count(ufid, &read.stats);
        let Some(entry) = self.ledger.get_mut(ufid) else { return Change::Nothing };
        entry.seen = round;
        let between = entry.read_at.map(|before| now.since(before));
        let over = between.unwrap_or_else(|| now.since(entry.first_seen));
        entry.read_at = Some(now);
        entry.rate = per_second(moved, between);
        entry.has_rate = between.is_some();
        if let Some(filter) = &mut entry.filter {
            filter.live.flags = read.flags;
        }
        note_idle_in_hw(entry, moved);
        Change::Read { ufid, moved, over }
    }

    fn filter_found(&mut self, now: Micros, ufid: Ufid, report: Box<FilterReport>, round: Round) -> Change {
        if !self.has_room_for(ufid) {
            return Change::Nothing;
        }
        let address = report.address;
        if let Some(holder) = self.ledger.at(address).filter(|holder| *holder != ufid) {
            if self.ledger.get(holder).is_some_and(|entry| !entry.is_resting()) {
                // A raced replacement hides the holder's own filter, and is being put right.
                return Change::Nothing;
            }
            self.filter_lost(now, holder);
        }
        let (port, nic) = self.place_of(&report);
        let entry = self.ledger.entry(ufid, now, Home::Tc(address));
        let resting = entry.is_resting();
        entry.port = port;
        entry.nic = nic;
        entry.seen = round;
        if !resting {
            return Change::Nothing;
        }
        entry.meter.restart();
        entry.filter = Some(TcFilter { owner: report.clone(), live: report.clone() });
        entry.changed = now;
        self.ledger.set_home(ufid, Home::Tc(address));
        self.rejoin(ufid);
        self.record_flow(ufid);
        self.count(ufid, &report.flow_stats());
        if let Some(entry) = self.ledger.get_mut(ufid) {
            entry.read_at = Some(now);
        }
        Change::Found { ufid }
    }

    /// A dump of `location` ended: what it did not see and should have is gone.
    pub(crate) fn filters_dumped(
        &mut self,
        now: Micros,
        location: Location,
        round: Round,
        complete: bool,
    ) -> Vec<Change> {
        if round != self.sweep.round || !self.sweep.outstanding.remove(&location) {
            return Vec::new();
        }
        if !complete {
            return Vec::new();
        }
        if self.sweep.full.contains(&location) {
            self.read_in_full.remove(&location);
        }
        let mut changes = self.own_dump_ended(location, round, complete);
        for ufid in self.ledger.in_scope(location, None, None) {
            let missing = self.ledger.get(ufid).is_some_and(|entry| {
                // With something under way, the filter may hide behind one that a raced replacement put there.
                entry.seen < round && entry.stale_through < round && entry.is_resting()
            });
            if missing {
                self.filter_lost(now, ufid);
                changes.push(Change::Left { ufid });
            }
        }
        if self.sweep.outstanding.is_empty() {
            self.tally.foreign_filters = self.sweep.foreign;
        }
        changes
    }

    /// A flow of the kernel datapath was told of or dumped.
    pub(crate) fn megaflow(&mut self, now: Micros, flow: &Megaflow, round: Option<Round>) -> Change {
        let ufid = flow.ufid;
        let known = self.ledger.get(ufid);
        if let (Some(entry), Some(round)) = (known, round)
            && (entry.stale_through >= round || matches!(entry.home, Home::Tc(_)))
        {
            self.mark_seen(ufid, round);
            return Change::Nothing;
        }
        let was_in_tc = known.is_some_and(|entry| matches!(entry.home, Home::Tc(_)));
        let was_there = known.is_some_and(|entry| entry.home == Home::Datapath);
        let port =
            flow.in_port.and_then(|port| self.ports.by_dp_port(flow.dp, port)).map(|port| port.ifindex);
        if let (Some(port), None, true) = (port, round, self.judges_datapath && !was_there) {
            match self.storms.note_new(now, port, self.settings.new_megaflows_max) {
                Noted::Followed => {}
                Noted::Sheds => return Change::Shed { port },
                // The next reading shows it, if it is there so long.
                Noted::PassedOver => return Change::Nothing,
            }
        }
        if !self.has_room_for(ufid) {
            return Change::Nothing;
        }
        let latest = self.latest_round();
        let entry = self.ledger.entry(ufid, now, Home::Datapath);
        if entry.home != Home::Datapath {
            // A flow that is changed goes on counting from what it had.
            entry.meter.restart();
        }
        if entry.home != Home::Datapath || round.is_none() {
            entry.changed = now;
            entry.filter = None;
        }
        let told = flow.body.clone().map(|body| Told { dp: flow.dp, body });
        // Its port may be known only now, by another reading of the same.
        let port = port.or(entry.port);
        let is_other = !was_there || entry.told != told || entry.port != port;
        (entry.told, entry.port) = (told, port);
        match round {
            Some(round) => entry.seen = round,
            None => entry.stale_through = latest,
        }
        if let Stage::Modifying { unclear, .. } = &mut entry.stage {
            *unclear = true;
        }
        if let Some(entry) = self.ledger.get_mut(ufid) {
            entry.unfit = flow.unfit.clone().or(entry.unfit.take());
            // Nobody asked the kernel for it where Open vSwitch does not offload.
            let held_back = flow.needs_chain_restore && self.ovs.hw_offload;
            if held_back || is_other || !self.judges_datapath {
                entry.refusal = held_back.then_some(Refusal::NoChainRestore);
                entry.refused_rule = None;
            }
        }
        self.ledger.set_home(ufid, Home::Datapath);
        self.rejoin(ufid);
        if !was_there {
            self.record_flow(ufid);
        }
        let counted = self.count_datapath(now, ufid, flow);
        match counted {
            _ if was_in_tc => Change::Left { ufid },
            _ if is_other || round.is_none() => Change::Told { ufid },
            Some((moved, over)) => Change::Counted { ufid, moved, over },
            None => Change::Nothing,
        }
    }

    /// What it moved since the reading before; for the first, since it appeared.
    fn count_datapath(&mut self, now: Micros, ufid: Ufid, flow: &Megaflow) -> Option<(Traffic, Micros)> {
        let reading = Traffic { software: flow.counted?, ..Traffic::default() };
        let entry = self.ledger.get_mut(ufid)?;
        let moved = entry.meter.read(reading);
        let between = entry.read_at.map(|before| now.since(before));
        let over = between.unwrap_or_else(|| now.since(entry.first_seen));
        entry.read_at = Some(now);
        let hardware = entry.rate.hardware;
        entry.rate = per_second(moved, between);
        if entry.shadowed {
            entry.rate.hardware = hardware;
        }
        entry.has_rate = between.is_some();
        self.account(ufid, moved);
        Some((moved, over))
    }

    /// Notification: a flow of the kernel datapath was deleted.
    pub(crate) fn megaflow_gone(&mut self, now: Micros, flow: &Megaflow) -> Change {
        let ufid = flow.ufid;
        if self.ledger.get(ufid).is_none_or(|entry| entry.home != Home::Datapath) {
            return Change::Nothing;
        }
        self.count_datapath(now, ufid, flow);
        self.filter_lost(now, ufid);
        Change::Left { ufid }
    }

    /// A dump of the kernel datapath ended.
    pub(crate) fn megaflows_dumped(&mut self, now: Micros, round: Round, complete: bool) -> Vec<Change> {
        if self.datapath_round != Some(round) {
            return Vec::new();
        }
        self.datapath_round = None;
        self.datapath_doubt = match self.datapath_doubt {
            Doubt::Queued => Doubt::Unread(self.latest_round()),
            Doubt::Unread(since) if complete && round > since => Doubt::Settled,
            doubt => doubt,
        };
        if !complete {
            return Vec::new();
        }
        let gone = self.ledger.select(|entry| {
            entry.home == Home::Datapath && entry.seen < round && entry.stale_through < round
        });
        let left = gone.into_iter().map(|ufid| {
            self.filter_lost(now, ufid);
            Change::Left { ufid }
        });
        let left: Vec<Change> = left.collect();
        let followed = self.storms.read(round).into_iter().map(|port| Change::Followed { port });
        left.into_iter().chain(followed).collect()
    }

    /// Notifications of the kernel datapath were lost, or flows went without one.
    pub(crate) fn doubt_datapath(&mut self) {
        self.tally.overruns += 1;
        self.datapath_doubt = Doubt::Queued;
    }

    /// Counts what a report of `ufid`'s filter shows; returns what is new.
    pub(crate) fn count(&mut self, ufid: Ufid, stats: &FlowStats) -> Traffic {
        let Some(entry) = self.ledger.get_mut(ufid) else { return Traffic::default() };
        let moved = entry.meter.read(traffic(stats));
        self.account(ufid, moved);
        moved
    }

    /// Notifications were lost: any filter may have changed just now, until it has been read in full.
    pub(crate) fn trust_nothing(&mut self, now: Micros) {
        self.tally.overruns += 1;
        self.read_in_full.extend(self.ports.locations());
        self.ledger.for_each(|entry| entry.changed = now);
    }

    /// Whether what is known of the filter at home in TC can be built upon.
    pub(crate) fn is_trusted(&self, entry: &Entry) -> bool {
        entry.address().is_some_and(|address| !self.read_in_full.contains(&address.location))
    }

    fn has_room_for(&mut self, ufid: Ufid) -> bool {
        if self.ledger.get(ufid).is_some() || self.ledger.len() < self.settings.megaflows_max as usize {
            return true;
        }
        self.tally.megaflows_left_out += 1;
        false
    }
}

/// Notes whether a rule that is said to be in hardware counts in software only.
fn note_idle_in_hw(entry: &mut Entry, moved: Traffic) {
    if moved.hardware.packets > 0 {
        entry.idle_in_hw = 0;
        entry.placed_anew = false;
    } else if entry.in_hw() && moved.software.packets > 0 {
        entry.idle_in_hw = entry.idle_in_hw.saturating_add(1);
    }
}

/// `moved` scaled to one second.
pub(crate) fn per_second(moved: Traffic, over: Option<Micros>) -> Traffic {
    let Some(over) = over.filter(|over| over.0 > 0) else { return Traffic::default() };
    let scale = |value: u64| -> u64 {
        u64::try_from(u128::from(value) * 1_000_000 / u128::from(over.0)).unwrap_or(u64::MAX)
    };
    let each = |count: Count| Count::new(scale(count.packets), scale(count.bytes));
    Traffic { software: each(moved.software), hardware: each(moved.hardware) }
}
