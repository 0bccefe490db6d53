//! Ranks the megaflows of one NIC and decides which of them get an entry of its table.
//!
//! The caller tells what moved ([`Planner::observe`]), what policy says ([`Planner::set_verdict`]) and what the kernel
//! confirmed ([`Planner::placed`], [`Planner::unplaced`], [`Planner::refused`]); [`Planner::plan`] answers with what to
//! promote and what to demote. It holds exactly the megaflows the caller names, until [`Planner::forget`].
//!
//! The cost of a round is proportional to the megaflows that moved in it: a silent one is looked at when its pause has doubled,
//! a few times in all (see `rate`), and time-outs are kept in order of time.

mod capacity;
mod contest;
mod division;
mod explain;
mod flow;
mod flows;
mod install_time;
mod path;
mod rate;
mod round;
mod seats;
mod settings;
#[cfg(test)]
mod tests;
mod unit;

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::hash::Hash;

use crate::{Micros, RuleId};
use capacity::{Budget, Table, Toll};
pub use division::{Division, Limit, TenantId};
pub use explain::{Counts, Explanation, WaitingFor};
use flow::{Block, Flow, State, back_off};
use flows::{Flows, Known};
use install_time::InstallTime;
use path::Graph;
pub use path::{BEFORE_MAX, Path, UNIT_MAX};
use seats::{Seat, Seats};
pub use settings::{Because, Capacity, Refusal, Sample, Saving, Settings, Terms, Verdict};

/// What to do now. Every id in it stays in flight until the caller reports the outcome.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan<Id> {
    /// Megaflows to place in hardware, the most urgent first. To be answered by [`Planner::placed`],
    /// [`Planner::refused`] or [`Planner::forget`].
    pub promote: Vec<Id>,
    /// Megaflows to take out of hardware. To be answered by [`Planner::unplaced`], [`Planner::refused`] or
    /// [`Planner::forget`].
    pub demote: Vec<Id>,
}

impl<Id> Plan<Id> {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.promote.is_empty() && self.demote.is_empty()
    }
}

/// The planner of one NIC. See the module's documentation.
#[derive(Clone, Debug)]
pub struct Planner<Id> {
    /// As the operator gave them.
    given: Settings,
    /// Those in force: with what the driver taught.
    settings: Settings,
    install_time: InstallTime,
    advantage: i64,
    flows: Flows<Id>,
    seats: Seats<Known<Id>>,
    graph: Graph<Id>,
    division: Division,
    table: Table,
    budget: Budget,
    toll: Toll,
    /// What an install costs by the toll and the settings as they are: to be reckoned anew with each change of either.
    price: u128,
    rule_budgets: BTreeMap<RuleId, Budget>,
    foreign: u32,
    promoting: u32,
    /// Entries that are ours, those being demoted included.
    entries: u32,
    demoting: u32,
    /// Megaflows that are dealt with together, and whether they are new; empty in between.
    batch: Vec<(Known<Id>, bool)>,
}

/// So many megaflows are found before the first of them is dealt with: they lie here and there in memory, and what is
/// wanted of all is fetched at the same time then.
const AT_A_TIME: usize = 32;

/// When a megaflow whose first reading this is began.
fn began(now: Micros, sample: Sample) -> Micros {
    Micros(now.0.saturating_sub(sample.over.0))
}

impl<Id: Copy + Ord + Hash> Planner<Id> {
    /// A planner that knows no megaflow.
    pub fn new(settings: Settings) -> Self {
        Self {
            given: settings,
            settings,
            install_time: InstallTime::default(),
            advantage: rate::advantage(settings.hysteresis_percent),
            flows: Flows::new(),
            seats: Seats::new(),
            graph: Graph::new(),
            division: Division::default(),
            table: Table::new(settings.capacity),
            budget: Budget::new(),
            toll: Toll::default(),
            price: 0,
            rule_budgets: BTreeMap::new(),
            foreign: 0,
            promoting: 0,
            entries: 0,
            demoting: 0,
            batch: Vec::new(),
        }
    }

    /// The settings in force, what the driver taught included.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Takes over new settings. Nothing moves that need not: rates, placements and what the driver taught stay.
    pub fn set_settings(&mut self, now: Micros, settings: Settings) {
        if settings == self.given {
            return;
        }
        self.given = settings;
        self.settings = self.install_time.applied_to(settings);
        self.advantage = rate::advantage(settings.hysteresis_percent);
        self.table.reconfigure(settings.capacity);
        self.price = self.toll.price(&self.settings);
        for known in self.flows.all() {
            self.reseat(now, known);
        }
    }

    /// Takes over another division of the table. Megaflows move only where a limit or a share asks for it.
    pub fn set_division(&mut self, now: Micros, division: Division) {
        if division == self.division {
            return;
        }
        self.division = division;
        for known in self.flows.all() {
            self.reclaim(now, known);
        }
    }

    /// Takes in what a megaflow moved since its counters were last read.
    ///
    /// A megaflow not known yet is taken up, competing on the default terms until [`Self::set_verdict`]. One that
    /// did not move need not be reported: silence costs nothing and counts all the same.
    pub fn observe(&mut self, now: Micros, id: Id, sample: Sample) {
        let (known, is_new) = self.flows.find_or_begin(id, began(now, sample));
        self.take_in(now, known, is_new, sample);
    }

    /// [`Self::observe`] of each of `readings`, in less time.
    pub fn observe_all(&mut self, now: Micros, readings: &[(Id, Sample)]) {
        for readings in readings.chunks(AT_A_TIME) {
            let mut batch = core::mem::take(&mut self.batch);
            batch.extend(
                readings.iter().map(|(id, sample)| self.flows.find_or_begin(*id, began(now, *sample))),
            );
            batch.iter().for_each(|(known, _)| self.flows[*known].touch());
            for ((known, is_new), (_, sample)) in batch.drain(..).zip(readings) {
                self.take_in(now, known, is_new, *sample);
            }
            self.batch = batch;
        }
    }

    fn take_in(&mut self, now: Micros, known: Known<Id>, is_new: bool, sample: Sample) {
        let Settings { half_life, counter_delay, .. } = self.settings;
        let moved = (sample.packets > 0 || sample.bytes > 0) && sample.over > Micros::ZERO;
        if moved {
            let flow = &mut self.flows[known];
            flow.moved.add(sample);
            flow.pace.update(now, half_life, counter_delay, sample);
        }
        if moved || is_new {
            self.reseat(now, known);
        }
    }

    /// What policy says about a megaflow; takes it up if it is not known yet.
    pub fn set_verdict(&mut self, now: Micros, id: Id, verdict: Verdict) {
        let (known, is_new) = self.flows.find_or_begin(id, now);
        let flow = &mut self.flows[known];
        if flow.verdict != verdict || is_new {
            flow.verdict = verdict;
            self.reclaim(now, known);
            self.graph.touch(id);
        }
    }

    /// Whose megaflow it is; takes it up if it is not known yet.
    pub fn set_tenant(&mut self, now: Micros, id: Id, tenant: TenantId) {
        let (known, is_new) = self.flows.find_or_begin(id, now);
        let flow = &mut self.flows[known];
        if flow.tenant != tenant || is_new {
            flow.tenant = tenant;
            self.reclaim(now, known);
        }
    }

    /// What policy said about a megaflow.
    pub fn verdict(&self, id: Id) -> Option<Verdict> {
        self.flows.get(id).map(|flow| flow.verdict)
    }

    /// The kernel confirmed that the megaflow is in hardware, whether a plan asked for it or it was found there. Also
    /// the answer that a demotion did not happen.
    pub fn placed(&mut self, now: Micros, id: Id) {
        let (known, _) = self.flows.find_or_begin(id, now);
        let since = match self.flows[known].state {
            State::Placed { .. } => return,
            State::Demoting { placed, .. } => placed,
            State::Software | State::Promoting { .. } => now,
        };
        self.enter(known, State::Placed { since });
        self.flows[known].block = None;
        self.table.took(now, self.entries.saturating_add(self.foreign), &self.settings);
        self.reseat(now, known);
    }

    /// The kernel reports that the megaflow is not in hardware (any more), whether a plan asked for it or not.
    pub fn unplaced(&mut self, now: Micros, id: Id) {
        if let Some(known) = self.flows.find(id) {
            self.enter(known, State::Software);
            self.reseat(now, known);
        }
    }

    /// The kernel or the driver refused what the plan asked for: the megaflow stays where it is and is left alone for
    /// a while, longer each time. A full table is no fault of the megaflow's: the first time it goes straight back in
    /// line, behind a smaller table.
    pub fn refused(&mut self, now: Micros, id: Id, refusal: Refusal) {
        let Some(known) = self.flows.find(id) else { return };
        let flow = &mut self.flows[known];
        let refusals = flow.block.map_or(0, |block| block.refusals).saturating_add(1);
        let span = back_off(&self.settings, refusal, refusals);
        flow.block = Some(Block { until: now.plus(span), refusal, refusals });
        match flow.state {
            State::Promoting { .. } => {
                self.enter(known, State::Software);
                if refusal == Refusal::TableFull {
                    self.table.is_full(now, self.entries.saturating_add(self.foreign), &self.settings);
                }
            }
            State::Demoting { placed, .. } => self.enter(known, State::Placed { since: placed }),
            State::Software | State::Placed { .. } => {}
        }
        self.reseat(now, known);
        self.graph.touch(id);
    }

    /// The megaflow is not to be tried before `until`, for what is known of others like it. An install that a plan gave it
    /// is to be had again.
    pub fn put_off(&mut self, now: Micros, id: Id, until: Micros) {
        let Some(known) = self.flows.find(id) else { return };
        let flow = &mut self.flows[known];
        let refusals = flow.block.map_or(0, |block| block.refusals);
        flow.block = Some(Block { until, refusal: Refusal::Shape, refusals });
        let rule = flow.claim.rule;
        if let State::Promoting { .. } = flow.state {
            self.enter(known, State::Software);
            self.budget.give_back();
            self.toll.give_back();
            self.price = self.toll.price(&self.settings);
            if let Some(budget) = rule.and_then(|rule| self.rule_budgets.get_mut(&rule)) {
                budget.give_back();
            }
        }
        self.reseat(now, known);
        self.graph.touch(id);
    }

    /// The kernel and the driver took so long to put a rule in the NIC, measured around that request alone. To be told of
    /// installs that succeeded; a driver that refuses may be quick about it.
    pub fn install_took(&mut self, took: Micros) {
        self.install_time.took(took, self.given.installs_per_s);
        self.settings = self.install_time.applied_to(self.given);
        self.price = self.toll.price(&self.settings);
    }

    /// Lifts a refusal: something changed that may make the driver answer differently (link, eswitch, settings).
    pub fn unblock(&mut self, now: Micros, id: Id) {
        if let Some(known) = self.flows.find(id)
            && self.flows[known].block.take().is_some()
        {
            self.reseat(now, known);
            self.graph.touch(id);
        }
    }

    /// The megaflow is gone, and its entry with it.
    pub fn forget(&mut self, id: Id) {
        self.forget_all(&[id]);
    }

    /// [`Self::forget`] of each of `ids`, in less time.
    pub fn forget_all(&mut self, ids: &[Id]) {
        for ids in ids.chunks(AT_A_TIME) {
            let mut batch = core::mem::take(&mut self.batch);
            batch.extend(ids.iter().filter_map(|id| self.flows.remove(*id)).map(|known| (known, false)));
            batch.iter().for_each(|(known, _)| self.flows[*known].touch());
            for (known, _) in batch.drain(..) {
                self.enter(known, State::Software);
                self.graph.remove(known.id);
                let Flow { seat, looked_at, .. } = self.flows[known];
                self.seats.leave(seat, known);
                if let Some(at) = looked_at {
                    self.seats.look_away(at, known);
                }
                self.flows.vacate(known);
            }
            self.batch = batch;
        }
    }

    /// How many entries of the same table others hold.
    pub fn set_foreign_entries(&mut self, entries: u32) {
        self.foreign = entries;
    }

    /// Packets and bytes per second of a megaflow, as the planner sees it.
    pub fn rates(&self, now: Micros, id: Id) -> Option<(u64, u64)> {
        self.flows.get(id).map(|flow| flow.pace.at_time(now, self.settings.half_life))
    }

    /// Changes a megaflow's state and the counts with it.
    fn enter(&mut self, known: Known<Id>, state: State) {
        let flow = &mut self.flows[known];
        match flow.state {
            State::Software => {}
            State::Promoting { .. } => self.promoting -= 1,
            State::Placed { .. } => self.entries -= 1,
            State::Demoting { .. } => {
                self.entries -= 1;
                self.demoting -= 1;
            }
        }
        let held = flow.holds();
        flow.state = state;
        match (held, flow.holds()) {
            (false, true) => self.seats.holds(flow.claim),
            (true, false) => self.seats.lets_go(flow.claim),
            _ => {}
        }
        match state {
            State::Software => {}
            State::Promoting { .. } => self.promoting += 1,
            State::Placed { .. } => self.entries += 1,
            State::Demoting { .. } => {
                self.entries += 1;
                self.demoting += 1;
            }
        }
        if self.flows[known].linked {
            self.graph.turns.remove(&known.id);
            if matches!(state, State::Software) {
                self.graph.holding.remove(&known.id);
            } else {
                self.graph.holding.insert(known.id);
            }
            self.graph.stale.insert(known.id);
        }
    }

    /// Files a megaflow where it belongs now.
    fn reseat(&mut self, now: Micros, known: Known<Id>) {
        if self.flows[known].linked {
            let part = self.part(now, known);
            self.flows[known].part = part;
        }
        let flow = &mut self.flows[known];
        let seat = flow.belongs(now, &self.settings, self.price);
        if seat != flow.seat {
            self.seats.leave(flow.seat, known);
            self.seats.take(seat, known);
            flow.seat = seat;
        }
        // One look at a time is enough: it is told then how long the silence really is.
        let ranked = matches!(seat, Seat::Waiting(..) | Seat::Demotable(..));
        if ranked && flow.looked_at.is_none() {
            flow.looked_at = flow.fades_at(now, &self.settings);
            if let Some(at) = flow.looked_at {
                self.seats.look_at(at, known);
            }
        }
    }

    /// Counts a megaflow under its tenant and rule as they are now, and files it anew.
    fn reclaim(&mut self, now: Micros, known: Known<Id>) {
        let flow = &mut self.flows[known];
        let claim = flow.claim_under(&self.division);
        if claim != flow.claim {
            if flow.holds() {
                self.seats.lets_go(flow.claim);
                self.seats.holds(claim);
            }
            flow.claim = claim;
        }
        self.reseat(now, known);
    }
}
