//! One plan: who gets an entry now, and who loses one.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use core::hash::Hash;

use super::contest::{Contest, next_in_line};
use super::division::{self, InTheWay, Standings};
use super::flow::{Flow, State};
use super::flows::Known;
use super::unit::entries;
use super::{AT_A_TIME, Plan, Planner};
use crate::Micros;

impl<Id: Copy + Ord + Hash> Planner<Id> {
    /// What to do now: first what policy demands, then free entries to the best, then entries of the weak to the
    /// clearly better. Bounded by the table, by the install budget and by what is in flight.
    ///
    /// A demotion that makes room for a better megaflow comes without that one's promotion: the next plan after
    /// [`Self::unplaced`] gives it. So plan again when demotions are confirmed; a plan with nothing to do is cheap.
    pub fn plan(&mut self, now: Micros) -> Plan<Id> {
        self.budget.refill(now, &self.settings);
        division::refill(&mut self.rule_budgets, &self.division, now);
        self.toll.fade(now);
        self.price = self.toll.price(&self.settings);
        while let Some(known) = self.seats.due(now) {
            self.reseat(now, known);
            self.graph.touch(known.id);
        }
        self.look(now);
        let mut plan = Plan { promote: Vec::new(), demote: Vec::new() };
        if !self.graph.is_empty() {
            self.refresh_units(now);
            self.take_turns(now, &mut plan);
            self.dissolve(now, &mut plan);
        }
        self.evict(now, &mut plan);
        let short = self.fill(now, &mut plan, false);
        self.displace(now, &mut plan, short);
        if short && self.demoting == 0 {
            // Nobody makes room for a unit: what is free is not kept for it.
            self.fill(now, &mut plan, true);
        }
        plan
    }

    /// Looks at silences.
    fn look(&mut self, now: Micros) {
        let mut batch = core::mem::take(&mut self.batch);
        loop {
            let due = core::iter::from_fn(|| self.seats.look(now)).take(AT_A_TIME);
            batch.extend(due.map(|known| (known, false)));
            if batch.is_empty() {
                break;
            }
            batch.iter().for_each(|(known, _)| self.flows[*known].touch());
            for (known, _) in batch.drain(..) {
                self.flows[known].looked_at = None;
                self.reseat(now, known);
            }
        }
        self.batch = batch;
    }

    /// Demotes what policy sends to software, then what a rule holds beyond its limit, then what a smaller table has no
    /// room for.
    fn evict(&mut self, now: Micros, plan: &mut Plan<Id>) {
        let leaving: Vec<Known<Id>> = self.seats.leaving().take(self.in_flight_left()).collect();
        for known in leaving {
            self.demote(now, known, plan);
        }
        let limits = &self.division.limits;
        if limits.values().any(|limit| limit.entries.is_some()) {
            let mut beyond = Contest::new(&self.seats, self.standings(now)).beyond_limits();
            beyond.truncate(self.in_flight_left());
            for known in beyond {
                self.demote(now, known, plan);
            }
        }
        // What is being demoted already counts as gone here.
        let wanted = self.in_use().saturating_sub(self.demoting);
        let excess = wanted.saturating_sub(self.table.allows(now)) as usize;
        if excess == 0 {
            return;
        }
        let mut contest = Contest::new(&self.seats, self.standings(now));
        let weakest: Vec<Known<Id>> =
            core::iter::from_fn(|| contest.weakest()).take(excess.min(self.in_flight_left())).collect();
        for known in weakest {
            self.demote(now, known, plan);
        }
    }

    /// Gives free entries to the best in line, to a unit as many as it needs or none. Returns whether it stopped at one for
    /// which too few are free; with `pass_over` it leaves such a one out.
    fn fill(&mut self, now: Micros, plan: &mut Plan<Id>, pass_over: bool) -> bool {
        if self.free(now) == 0 || self.seats.waiting_len() == 0 {
            return false;
        }
        let mut standings = self.standings(now);
        let mut passed_over = BTreeSet::new();
        while self.installs_left() > 0 && self.in_flight_left() > 0 && self.free(now) > 0 {
            let Some((_, known)) = next_in_line(&self.seats, &standings, &passed_over) else { return false };
            if !self.still_worth_it(now, known) {
                continue;
            }
            let Some(unit) = self.rest_of_unit(now, known) else {
                self.reseat(now, known);
                passed_over.insert(known);
                continue;
            };
            let short = entries(unit.len() + 1) > self.free(now);
            if short && !pass_over {
                return true;
            }
            if short || !self.give(now, known, unit, &mut standings, plan) {
                passed_over.insert(known);
            }
        }
        false
    }

    /// Where no entry is free: demotes the weak for the clearly better, one for one.
    ///
    /// Also with entries free, where rules at their limit leave them so: one of the rule's own may be the weaker.
    /// The same where some are free, and too few for the unit that is next.
    fn displace(&mut self, now: Micros, plan: &mut Plan<Id>, short: bool) {
        let enough = self.free(now) > 0 && self.division.limits.is_empty() && !short;
        if self.seats.waiting_len() == 0 || enough {
            return;
        }
        let (faded, losers) = self.challenge(now);
        for known in faded {
            self.reseat(now, known);
        }
        for known in losers {
            self.demote(now, known, plan);
        }
    }

    /// Pairs those in line with the weakest of those with an entry. Returns those that are no longer fast enough to
    /// be in line, and those whose entry is better used by another.
    fn challenge(&self, now: Micros) -> (Vec<Known<Id>>, Vec<Known<Id>>) {
        // Entries that are being freed already belong to the first in line.
        let after = self.allows_ours(now).saturating_add(self.demoting);
        let freeing = after.saturating_sub(self.entries + self.promoting);
        let limit = (self.installs_left().saturating_sub(freeing) as usize).min(self.in_flight_left());
        let mut spoken_for = freeing;
        let mut faded = Vec::new();
        let mut losers = Vec::new();
        let mut contest = Contest::new(&self.seats, self.standings(now));
        while losers.len() < limit {
            let Some((claim, score, known)) = contest.challenger() else { break };
            let rule_is_full = contest.standings.in_the_way(claim) == Some(InTheWay::RuleEntries);
            if !self.deserves(now, &self.flows[known]) {
                faded.push(known);
                continue;
            }
            let needs = self.flows[known].entries();
            if needs == 1 {
                if spoken_for > 0 && !rule_is_full {
                    spoken_for -= 1;
                    contest.standings.gives(claim);
                } else {
                    match contest.loser(claim, score, self.advantage) {
                        Some(loser) => losers.push(loser),
                        None => contest.give_up(claim),
                    }
                }
                continue;
            }
            // What is free is a unit's only where it is enough, or others make up for the rest.
            let mut tried = contest.clone();
            let mut of_free = 0;
            let mut taken = Vec::new();
            while of_free + entries(taken.len()) < needs {
                if of_free < spoken_for && !rule_is_full {
                    of_free += 1;
                    tried.standings.gives(claim);
                } else if let Some(loser) = tried.loser(claim, score, self.advantage) {
                    taken.push(loser);
                } else {
                    break;
                }
            }
            if of_free + entries(taken.len()) < needs || losers.len() + taken.len() > limit {
                contest.give_up(claim);
            } else {
                spoken_for -= of_free;
                losers.extend(taken);
                contest = tried;
            }
        }
        (faded, losers)
    }

    pub(super) fn demote(&mut self, now: Micros, known: Known<Id>, plan: &mut Plan<Id>) {
        if self.is_leaned_on(known.id) {
            // The last of a way goes first; its turn comes when that is confirmed.
            self.reseat(now, known);
        } else {
            self.demote_now(now, known, plan);
        }
    }

    pub(super) fn demote_now(&mut self, now: Micros, known: Known<Id>, plan: &mut Plan<Id>) {
        let State::Placed { since } = self.flows[known].state else { return };
        self.enter(known, State::Demoting { since: now, placed: since });
        self.reseat(now, known);
        plan.demote.push(known.id);
    }

    /// Whether the megaflow is still fast enough after its silence; if not, it leaves the line.
    fn still_worth_it(&mut self, now: Micros, known: Known<Id>) -> bool {
        let worth = self.deserves(now, &self.flows[known]);
        if !worth {
            self.reseat(now, known);
        }
        worth
    }

    /// The megaflows before it that a unit takes an entry for, beside its own; `None` where no way leads to it any more.
    fn rest_of_unit(&self, now: Micros, known: Known<Id>) -> Option<Vec<Known<Id>>> {
        if self.flows[known].linked { self.way(now, known.id) } else { Some(Vec::new()) }
    }

    /// Whether the megaflow is fast enough and worth its install.
    fn deserves(&self, now: Micros, flow: &Flow) -> bool {
        flow.is_fast_enough(now, &self.settings) && flow.is_worth(now, &self.settings, self.price)
    }

    /// How the claims on the table stand against each other.
    pub(super) fn standings(&self, now: Micros) -> Standings {
        Standings::new(&self.division, &self.rule_budgets, self.allows_ours(now), self.seats.demands())
    }

    pub(super) fn in_use(&self) -> u32 {
        self.entries.saturating_add(self.foreign)
    }

    fn allows_ours(&self, now: Micros) -> u32 {
        self.table.allows(now).saturating_sub(self.foreign)
    }

    pub(super) fn free(&self, now: Micros) -> u32 {
        self.table.allows(now).saturating_sub(self.in_use().saturating_add(self.promoting))
    }

    pub(super) fn in_flight_left(&self) -> usize {
        let sent = self.promoting.saturating_sub(entries(self.graph.turns.len()));
        self.settings.in_flight_max.max(1).saturating_sub(sent + self.demoting) as usize
    }
}
