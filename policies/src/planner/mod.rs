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
mod install_time;
mod rate;
mod seats;
mod settings;
#[cfg(test)]
mod tests;

use alloc::collections::BTreeMap;
use alloc::collections::btree_map::Entry;
use alloc::vec::Vec;

use crate::{Micros, RuleId};
use capacity::{Budget, Table, Toll};
use contest::{Contest, next_in_line};
pub use division::{Division, Limit, TenantId};
use division::{InTheWay, Standings};
pub use explain::{Counts, Explanation, WaitingFor};
use flow::{Block, Flow, State, back_off};
use install_time::InstallTime;
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
    flows: BTreeMap<Id, Flow>,
    seats: Seats<Id>,
    division: Division,
    table: Table,
    budget: Budget,
    toll: Toll,
    rule_budgets: BTreeMap<RuleId, Budget>,
    foreign: u32,
    promoting: u32,
    /// Entries that are ours, those being demoted included.
    entries: u32,
    demoting: u32,
}

impl<Id: Copy + Ord> Planner<Id> {
    /// A planner that knows no megaflow.
    pub fn new(settings: Settings) -> Self {
        Self {
            given: settings,
            settings,
            install_time: InstallTime::default(),
            advantage: rate::advantage(settings.hysteresis_percent),
            flows: BTreeMap::new(),
            seats: Seats::new(),
            division: Division::default(),
            table: Table::new(settings.capacity),
            budget: Budget::new(),
            toll: Toll::default(),
            rule_budgets: BTreeMap::new(),
            foreign: 0,
            promoting: 0,
            entries: 0,
            demoting: 0,
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
        let ids: Vec<Id> = self.flows.keys().copied().collect();
        for id in ids {
            self.reseat(now, id);
        }
    }

    /// Takes over another division of the table. Megaflows move only where a limit or a share asks for it.
    pub fn set_division(&mut self, now: Micros, division: Division) {
        if division == self.division {
            return;
        }
        self.division = division;
        let ids: Vec<Id> = self.flows.keys().copied().collect();
        for id in ids {
            self.reclaim(now, id);
        }
    }

    /// Takes in what a megaflow moved since its counters were last read.
    ///
    /// A megaflow not known yet is taken up, competing on the default terms until [`Self::set_verdict`]. One that
    /// did not move need not be reported: silence costs nothing and counts all the same.
    pub fn observe(&mut self, now: Micros, id: Id, sample: Sample) {
        let first_seen = Micros(now.0.saturating_sub(sample.over.0));
        let Settings { half_life, counter_delay, .. } = self.settings;
        let (flow, is_new) = self.flow_or_new(id, first_seen);
        let moved = (sample.packets > 0 || sample.bytes > 0) && sample.over > Micros::ZERO;
        if moved {
            flow.moved.add(sample);
            flow.pace.update(now, half_life, counter_delay, sample);
        }
        if moved || is_new {
            self.reseat(now, id);
        }
    }

    /// What policy says about a megaflow; takes it up if it is not known yet.
    pub fn set_verdict(&mut self, now: Micros, id: Id, verdict: Verdict) {
        let (flow, is_new) = self.flow_or_new(id, now);
        if flow.verdict != verdict || is_new {
            flow.verdict = verdict;
            self.reclaim(now, id);
        }
    }

    /// Whose megaflow it is; takes it up if it is not known yet.
    pub fn set_tenant(&mut self, now: Micros, id: Id, tenant: TenantId) {
        let (flow, is_new) = self.flow_or_new(id, now);
        if flow.tenant != tenant || is_new {
            flow.tenant = tenant;
            self.reclaim(now, id);
        }
    }

    /// What policy said about a megaflow.
    pub fn verdict(&self, id: Id) -> Option<Verdict> {
        self.flows.get(&id).map(|flow| flow.verdict)
    }

    /// The kernel confirmed that the megaflow is in hardware, whether a plan asked for it or it was found there. Also
    /// the answer that a demotion did not happen.
    pub fn placed(&mut self, now: Micros, id: Id) {
        let state = self.flow_or_new(id, now).0.state;
        let since = match state {
            State::Placed { .. } => return,
            State::Demoting { placed, .. } => placed,
            State::Software | State::Promoting { .. } => now,
        };
        self.enter(id, State::Placed { since });
        if let Some(flow) = self.flows.get_mut(&id) {
            flow.block = None;
        }
        self.table.took(now, self.entries.saturating_add(self.foreign), &self.settings);
        self.reseat(now, id);
    }

    /// The kernel reports that the megaflow is not in hardware (any more), whether a plan asked for it or not.
    pub fn unplaced(&mut self, now: Micros, id: Id) {
        if self.flows.contains_key(&id) {
            self.enter(id, State::Software);
            self.reseat(now, id);
        }
    }

    /// The kernel or the driver refused what the plan asked for: the megaflow stays where it is and is left alone for
    /// a while, longer each time. A full table is no fault of the megaflow's: the first time it goes straight back in
    /// line, behind a smaller table.
    pub fn refused(&mut self, now: Micros, id: Id, refusal: Refusal) {
        let Some(flow) = self.flows.get_mut(&id) else { return };
        let refusals = flow.block.map_or(0, |block| block.refusals).saturating_add(1);
        let span = back_off(&self.settings, refusal, refusals);
        flow.block = Some(Block { until: now.plus(span), refusal, refusals });
        match flow.state {
            State::Promoting { .. } => {
                self.enter(id, State::Software);
                if refusal == Refusal::TableFull {
                    self.table.is_full(now, self.entries.saturating_add(self.foreign), &self.settings);
                }
            }
            State::Demoting { placed, .. } => self.enter(id, State::Placed { since: placed }),
            State::Software | State::Placed { .. } => {}
        }
        self.reseat(now, id);
    }

    /// The megaflow is not to be tried before `until`, for what is known of others like it. An install that a plan gave it
    /// is to be had again.
    pub fn put_off(&mut self, now: Micros, id: Id, until: Micros) {
        let Some(flow) = self.flows.get_mut(&id) else { return };
        let refusals = flow.block.map_or(0, |block| block.refusals);
        flow.block = Some(Block { until, refusal: Refusal::Shape, refusals });
        let rule = flow.claim.rule;
        if let State::Promoting { .. } = flow.state {
            self.enter(id, State::Software);
            self.budget.give_back();
            self.toll.give_back();
            if let Some(budget) = rule.and_then(|rule| self.rule_budgets.get_mut(&rule)) {
                budget.give_back();
            }
        }
        self.reseat(now, id);
    }

    /// The kernel and the driver took so long to put a rule in the NIC, measured around that request alone. To be told of
    /// installs that succeeded; a driver that refuses may be quick about it.
    pub fn install_took(&mut self, took: Micros) {
        self.install_time.took(took, self.given.installs_per_s);
        self.settings = self.install_time.applied_to(self.given);
    }

    /// Lifts a refusal: something changed that may make the driver answer differently (link, eswitch, settings).
    pub fn unblock(&mut self, now: Micros, id: Id) {
        if let Some(flow) = self.flows.get_mut(&id) {
            flow.block = None;
            self.reseat(now, id);
        }
    }

    /// The megaflow is gone, and its entry with it.
    pub fn forget(&mut self, id: Id) {
        self.enter(id, State::Software);
        if let Some(flow) = self.flows.remove(&id) {
            self.seats.leave(flow.seat, id);
            if let Some(at) = flow.looked_at {
                self.seats.look_away(at, id);
            }
        }
    }

    /// How many entries of the same table others hold.
    pub fn set_foreign_entries(&mut self, entries: u32) {
        self.foreign = entries;
    }

    /// What to do now: first what policy demands, then free entries to the best, then entries of the weak to the
    /// clearly better. Bounded by the table, by the install budget and by what is in flight.
    ///
    /// A demotion that makes room for a better megaflow comes without that one's promotion: the next plan after
    /// [`Self::unplaced`] gives it. So plan again when demotions are confirmed; a plan with nothing to do is cheap.
    pub fn plan(&mut self, now: Micros) -> Plan<Id> {
        self.budget.refill(now, &self.settings);
        division::refill(&mut self.rule_budgets, &self.division, now);
        self.toll.fade(now);
        while let Some(id) = self.seats.due(now) {
            self.reseat(now, id);
        }
        while let Some(id) = self.seats.look(now) {
            if let Some(flow) = self.flows.get_mut(&id) {
                flow.looked_at = None;
            }
            self.reseat(now, id);
        }
        let mut plan = Plan { promote: Vec::new(), demote: Vec::new() };
        self.evict(now, &mut plan);
        self.fill(now, &mut plan);
        self.displace(now, &mut plan);
        plan
    }

    /// Why the megaflow is where it is.
    pub fn explain(&self, now: Micros, id: Id) -> Explanation {
        let Some(flow) = self.flows.get(&id) else { return Explanation::Unknown };
        match flow.state {
            State::Promoting { since } => Explanation::Promoting { since },
            State::Demoting { since, .. } => Explanation::Demoting { since },
            State::Placed { since } => {
                let (packets, bytes) = flow.pace.at_time(now, self.settings.half_life);
                let saving = match self.settings.saving {
                    Saving::ModelledCpu { .. } => self.settings.saving.of(packets, bytes) / 1_000,
                    Saving::Bytes | Saving::Packets => self.settings.saving.of(packets, bytes),
                };
                let resident_for = since.plus(self.settings.min_residency).since(now);
                Explanation::Placed { since, saving: u64::try_from(saving).unwrap_or(u64::MAX), resident_for }
            }
            State::Software => self.explain_software(now, id, flow),
        }
    }

    /// Packets and bytes per second of a megaflow, as the planner sees it.
    pub fn rates(&self, now: Micros, id: Id) -> Option<(u64, u64)> {
        self.flows.get(&id).map(|flow| flow.pace.at_time(now, self.settings.half_life))
    }

    /// How the planner stands.
    pub fn counts(&self) -> Counts {
        let fits = self.table.fits();
        Counts {
            flows: self.flows.len() as u64,
            waiting: self.seats.waiting_len() as u64,
            promoting: self.promoting,
            placed: self.entries,
            demoting: self.demoting,
            foreign: self.foreign,
            capacity: (fits != u32::MAX).then_some(fits),
            capacity_is_learned: self.table.is_learned(),
            installs_per_s: self.settings.installs_per_s,
            installs_are_learned: self.given.learn_installs && self.install_time.is_learned(),
        }
    }

    /// Demotes what policy sends to software, then what a rule holds beyond its limit, then what a smaller table has no
    /// room for.
    fn evict(&mut self, now: Micros, plan: &mut Plan<Id>) {
        let leaving: Vec<Id> = self.seats.leaving().take(self.in_flight_left()).collect();
        for id in leaving {
            self.demote(now, id, plan);
        }
        let limits = &self.division.limits;
        if limits.values().any(|limit| limit.entries.is_some()) {
            let mut beyond = Contest::new(&self.seats, self.standings(now)).beyond_limits();
            beyond.truncate(self.in_flight_left());
            for id in beyond {
                self.demote(now, id, plan);
            }
        }
        // What is being demoted already counts as gone here.
        let wanted = self.in_use().saturating_sub(self.demoting);
        let excess = wanted.saturating_sub(self.table.allows(now)) as usize;
        if excess == 0 {
            return;
        }
        let mut contest = Contest::new(&self.seats, self.standings(now));
        let weakest: Vec<Id> =
            core::iter::from_fn(|| contest.weakest()).take(excess.min(self.in_flight_left())).collect();
        for id in weakest {
            self.demote(now, id, plan);
        }
    }

    /// Gives free entries to the best in line.
    fn fill(&mut self, now: Micros, plan: &mut Plan<Id>) {
        if self.free(now) == 0 || self.seats.waiting_len() == 0 {
            return;
        }
        let mut standings = self.standings(now);
        while self.budget.left() > 0 && self.in_flight_left() > 0 && self.free(now) > 0 {
            let Some((claim, id)) = next_in_line(&self.seats, &standings) else { return };
            if !self.still_worth_it(now, id) {
                continue;
            }
            self.budget.spend();
            self.toll.spend();
            if let Some(budget) = claim.rule.and_then(|rule| self.rule_budgets.get_mut(&rule)) {
                budget.spend();
            }
            standings.gives(claim);
            self.enter(id, State::Promoting { since: now });
            self.reseat(now, id);
            plan.promote.push(id);
        }
    }

    /// Where no entry is free: demotes the weak for the clearly better, one for one.
    ///
    /// Also with entries free, where rules at their limit leave them so: one of the rule's own may be the weaker.
    fn displace(&mut self, now: Micros, plan: &mut Plan<Id>) {
        if self.seats.waiting_len() == 0 || self.free(now) > 0 && self.division.limits.is_empty() {
            return;
        }
        let (faded, losers) = self.challenge(now);
        for id in faded {
            self.reseat(now, id);
        }
        for id in losers {
            self.demote(now, id, plan);
        }
    }

    /// Pairs those in line with the weakest of those with an entry. Returns those that are no longer fast enough to
    /// be in line, and those whose entry is better used by another.
    fn challenge(&self, now: Micros) -> (Vec<Id>, Vec<Id>) {
        // Entries that are being freed already belong to the first in line.
        let after = self.allows_ours(now).saturating_add(self.demoting);
        let freeing = after.saturating_sub(self.entries + self.promoting);
        let limit = (self.budget.left().saturating_sub(freeing) as usize).min(self.in_flight_left());
        let mut spoken_for = freeing;
        let mut faded = Vec::new();
        let mut losers = Vec::new();
        let mut contest = Contest::new(&self.seats, self.standings(now));
        while losers.len() < limit {
            let Some((claim, score, id)) = contest.challenger() else { break };
            let rule_is_full = contest.standings.in_the_way(claim) == Some(InTheWay::RuleEntries);
            if !self.flows.get(&id).is_some_and(|flow| self.deserves(now, flow)) {
                faded.push(id);
            } else if spoken_for > 0 && !rule_is_full {
                spoken_for -= 1;
                contest.standings.gives(claim);
            } else {
                match contest.loser(claim, score, self.advantage) {
                    Some(loser) => losers.push(loser),
                    None => contest.give_up(claim),
                }
            }
        }
        (faded, losers)
    }

    fn demote(&mut self, now: Micros, id: Id, plan: &mut Plan<Id>) {
        let Some(State::Placed { since }) = self.flows.get(&id).map(|flow| flow.state) else { return };
        self.enter(id, State::Demoting { since: now, placed: since });
        self.reseat(now, id);
        plan.demote.push(id);
    }

    /// Whether the megaflow is still fast enough after its silence; if not, it leaves the line.
    fn still_worth_it(&mut self, now: Micros, id: Id) -> bool {
        let worth = self.flows.get(&id).is_some_and(|flow| self.deserves(now, flow));
        if !worth {
            self.reseat(now, id);
        }
        worth
    }

    /// Whether the megaflow is fast enough and worth its install.
    fn deserves(&self, now: Micros, flow: &Flow) -> bool {
        let price = self.toll.price(&self.settings);
        flow.is_fast_enough(now, &self.settings) && flow.is_worth(now, &self.settings, price)
    }

    /// How the claims on the table stand against each other.
    fn standings(&self, now: Micros) -> Standings {
        Standings::new(&self.division, &self.rule_budgets, self.allows_ours(now), self.seats.demands())
    }

    fn in_use(&self) -> u32 {
        self.entries.saturating_add(self.foreign)
    }

    fn allows_ours(&self, now: Micros) -> u32 {
        self.table.allows(now).saturating_sub(self.foreign)
    }

    fn free(&self, now: Micros) -> u32 {
        self.table.allows(now).saturating_sub(self.in_use().saturating_add(self.promoting))
    }

    fn in_flight_left(&self) -> usize {
        self.settings.in_flight_max.max(1).saturating_sub(self.promoting + self.demoting) as usize
    }

    fn flow_or_new(&mut self, id: Id, first_seen: Micros) -> (&mut Flow, bool) {
        match self.flows.entry(id) {
            Entry::Occupied(known) => (known.into_mut(), false),
            Entry::Vacant(new) => (new.insert(Flow::new(first_seen)), true),
        }
    }

    /// Changes a megaflow's state and the counts with it.
    fn enter(&mut self, id: Id, state: State) {
        let Some(flow) = self.flows.get_mut(&id) else { return };
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
    }

    /// Files a megaflow where it belongs now.
    fn reseat(&mut self, now: Micros, id: Id) {
        let Some(flow) = self.flows.get_mut(&id) else { return };
        let seat = flow.belongs(now, &self.settings, self.toll.price(&self.settings));
        if seat != flow.seat {
            self.seats.leave(flow.seat, id);
            self.seats.take(seat, id);
            flow.seat = seat;
        }
        // One look at a time is enough: it is told then how long the silence really is.
        let ranked = matches!(seat, Seat::Waiting(..) | Seat::Demotable(..));
        if ranked && flow.looked_at.is_none() {
            flow.looked_at = flow.fades_at(now, &self.settings);
            if let Some(at) = flow.looked_at {
                self.seats.look_at(at, id);
            }
        }
    }

    /// Counts a megaflow under its tenant and rule as they are now, and files it anew.
    fn reclaim(&mut self, now: Micros, id: Id) {
        let Some(flow) = self.flows.get_mut(&id) else { return };
        let claim = flow.claim_under(&self.division);
        if claim != flow.claim {
            if flow.holds() {
                self.seats.lets_go(flow.claim);
                self.seats.holds(claim);
            }
            flow.claim = claim;
        }
        self.reseat(now, id);
    }

    fn explain_software(&self, now: Micros, id: Id, flow: &Flow) -> Explanation {
        if let Verdict::Software(because) = flow.verdict {
            return Explanation::Policy(because);
        }
        if let Some(block) = flow.block.filter(|block| block.until > now) {
            let Block { until, refusal, refusals } = block;
            return Explanation::BlockedUntil { until, refusal, refusals };
        }
        if let Verdict::Auto(terms) = flow.verdict {
            let needs = terms.min_rate.unwrap_or(self.settings.min_rate);
            let ready = flow.old_enough_at(&terms, &self.settings);
            if ready > now {
                return Explanation::TooYoung { left: ready.since(now) };
            }
            let rate = flow.pace.in_unit_of(needs, now, self.settings.half_life);
            if !rate::reaches(rate, needs) {
                return Explanation::TooSlow { rate, needs };
            }
        }
        let score = flow.score(now, &self.settings);
        let (rank, of) = self.seats.rank(score, id);
        let standings = self.standings(now);
        let waiting_for = if let Some(in_the_way) = standings.in_the_way(flow.claim) {
            match in_the_way {
                InTheWay::RuleEntries => WaitingFor::RuleEntries,
                InTheWay::RuleInstalls => WaitingFor::RuleInstalls,
            }
        } else if self.free(now) == 0 && standings.has_competition() && !standings.is_under(flow.claim.tenant)
        {
            WaitingFor::Share
        } else if self.free(now) == 0 {
            WaitingFor::Entry
        } else if self.budget.left() == 0 || self.in_flight_left() == 0 {
            WaitingFor::Installs
        } else {
            WaitingFor::NextPlan
        };
        Explanation::Waiting { rank: rank as u64, of: of as u64, waiting_for }
    }
}
