//! Units: the ways of recirculated packets, given entries and deprived of them as a whole.
//!
//! A unit is promoted in the order in which packets pass it, one megaflow when the one before it is confirmed, and demoted in
//! the reverse order. So whatever is in hardware can be reached there, at any moment and after any crash. The other order
//! would have spared the packets of a few milliseconds a miss in the middle; but those are the rule there anyway, since the
//! first of a unit takes in the packets of many others that are not in hardware, while an entry that cannot be reached has
//! cost its install and saves nothing, for good if the driver then refuses the one before it.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::hash::Hash;

use super::division::Standings;
use super::flow::{Flow, State};
use super::flows::Known;
use super::path::{LOOKED_AT_MAX, Link, Part, Path, UNIT_MAX};
use super::{Plan, Planner, Verdict};
use crate::Micros;

/// The best way found so far to a megaflow in search of one: what it takes, and which is the next on it.
#[derive(Clone, Copy)]
struct Step<Id> {
    next: Option<Id>,
    deep: usize,
    done: bool,
}

impl<Id: Copy + Ord + Hash> Planner<Id> {
    /// Where a megaflow stands among those that recirculation joins; takes it up if it is not known yet. What is named
    /// before it need not be known.
    pub fn set_path(&mut self, now: Micros, id: Id, path: Path<Id>) {
        let (known, is_new) = self.flows.find_or_begin(id, now);
        if self.graph.set(id, path) {
            let flow = &mut self.flows[known];
            flow.linked = self.graph.is_linked(id);
            let holds = flow.linked && !matches!(flow.state, State::Software);
            if holds {
                self.graph.holding.insert(id);
            } else {
                self.graph.holding.remove(&id);
            }
            self.reseat(now, known);
        } else if is_new {
            self.reseat(now, known);
        }
    }

    /// A megaflow of a unit whose promotion was undone is promoted again without a plan: to be answered as one of a plan.
    pub fn promoting_again(&mut self, now: Micros, id: Id) {
        let Some(known) = self.flows.find(id) else { return };
        let flow = &self.flows[known];
        if flow.linked && matches!(flow.state, State::Software) {
            self.enter(known, State::Promoting { since: now });
            self.reseat(now, known);
        }
    }

    /// No way leads to a megaflow of a unit until [`Self::set_path`] tells of one; does nothing to one that is none.
    pub fn cut_off(&mut self, now: Micros, id: Id) {
        if self.graph.is_linked(id) {
            self.set_path(now, id, Path { before: Some(Vec::new()), goes_on: false });
        }
    }

    /// Whether there are promotions that wait for the answer to others: then plan again when one is confirmed.
    pub fn has_turns(&self) -> bool {
        !self.graph.turns.is_empty()
    }

    /// What a linked megaflow is in its unit now.
    pub(super) fn part(&self, now: Micros, known: Known<Id>) -> Part {
        let software = matches!(self.flows[known].state, State::Software);
        if !self.graph.goes_on(known.id) {
            let entries = if software {
                self.way(now, known.id).map(|way| entries(way.len() + 1))
            } else {
                Some(self.held_for(known.id))
            };
            return Part::End { entries };
        }
        let (mut packets, mut bytes) = (0_u64, 0_u64);
        for after in self.graph.after(known.id).filter_map(|id| self.flows.get(id)) {
            if let State::Placed { .. } = after.state {
                let rate = after.pace.at_time(now, self.settings.half_life);
                (packets, bytes) = (packets.saturating_add(rate.0), bytes.saturating_add(rate.1));
            }
        }
        // What has an entry and is the only way for one after it, that one speaks for.
        if packets == 0 && bytes == 0 || !software && self.is_leaned_on(known.id) {
            return Part::Link(Link::Carried);
        }
        match software.then(|| self.way(now, known.id)) {
            None => Part::Link(Link::Second { packets, bytes, entries: 1 }),
            Some(None) => Part::Link(Link::Carried),
            Some(Some(way)) => Part::Link(Link::Second { packets, bytes, entries: entries(way.len() + 1) }),
        }
    }

    /// How many entries are there for `id` alone: its own, and those before it that nothing else leans on.
    fn held_for(&self, id: Id) -> u32 {
        let mut entries = 1;
        let mut at = id;
        for _ in 1..UNIT_MAX {
            let mut placed =
                self.graph.before(at).into_iter().flatten().filter(|before| self.has_entry(*before));
            let (Some(before), None) = (placed.next(), placed.next()) else { break };
            if self.graph.after(before).any(|other| other != at && self.graph.holding.contains(&other)) {
                break;
            }
            entries += 1;
            at = before;
        }
        entries
    }

    fn has_entry(&self, id: Id) -> bool {
        self.flows.get(id).is_some_and(|flow| matches!(flow.state, State::Placed { .. }))
    }

    /// Whether a megaflow has an entry or is being given one.
    fn holds(&self, id: Id) -> bool {
        self.flows.get(id).is_some_and(Flow::holds)
    }

    /// Whether policy, and what is known of its refusals, let it be on a way.
    fn may_carry(&self, now: Micros, id: Id) -> bool {
        self.flows.get(id).is_some_and(|flow| {
            !matches!(flow.verdict, Verdict::Software(_))
                && flow.block.is_none_or(|block| block.until <= now)
                && !matches!(flow.state, State::Demoting { .. })
        })
    }

    /// The megaflows that `id` needs an entry of before it, beside those that have one: in the order of packets. `None` where
    /// no way leads to it. Of several ways, one with the fewest new entries, and of these that with the fastest megaflows.
    pub(super) fn way(&self, now: Micros, id: Id) -> Option<Vec<Known<Id>>> {
        let mut steps: BTreeMap<Id, Step<Id>> = BTreeMap::new();
        // By what it costs, then by how slow it is.
        let mut front: BTreeSet<(usize, u64, Id)> = BTreeSet::new();
        steps.insert(id, Step { next: None, deep: 1, done: false });
        front.insert((0, 0, id));
        while let Some((cost, slow, at)) = front.pop_first() {
            let deep = match steps.get_mut(&at) {
                Some(step) if !step.done => {
                    step.done = true;
                    step.deep
                }
                _ => continue,
            };
            let Some(before) = self.graph.before(at) else { return Some(self.missing(&steps, at)) };
            if deep >= UNIT_MAX {
                continue;
            }
            for other in before {
                if steps.contains_key(&other) && steps[&other].done || !self.may_carry(now, other) {
                    continue;
                }
                if steps.len() >= LOOKED_AT_MAX {
                    break;
                }
                let missing = usize::from(!self.holds(other));
                let speed =
                    self.flows.get(other).map_or(0, |flow| flow.pace.at_time(now, self.settings.half_life).1);
                let slower = slow.saturating_add((u64::MAX - speed) / UNIT_MAX as u64);
                let better = front
                    .iter()
                    .find(|(_, _, known)| *known == other)
                    .is_none_or(|known| (cost + missing, slower) < (known.0, known.1));
                if better {
                    front.retain(|(_, _, known)| *known != other);
                    front.insert((cost + missing, slower, other));
                    steps.insert(other, Step { next: Some(at), deep: deep + 1, done: false });
                }
            }
        }
        None
    }

    /// Those on the way from `first` that have no entry, without the last.
    fn missing(&self, steps: &BTreeMap<Id, Step<Id>>, first: Id) -> Vec<Known<Id>> {
        let mut missing = Vec::new();
        let mut at = first;
        while let Some(next) = steps.get(&at).and_then(|step| step.next) {
            if !self.holds(at) {
                missing.extend(self.flows.find(at));
            }
            at = next;
        }
        missing
    }

    /// Whether one after `id` with an entry would be out of reach without it.
    pub(super) fn is_leaned_on(&self, id: Id) -> bool {
        self.graph.after(id).any(|after| {
            self.graph.holding.contains(&after)
                && !self.graph.turns.contains(&after)
                && !self
                    .graph
                    .before(after)
                    .into_iter()
                    .flatten()
                    .any(|other| other != id && self.has_entry(other) && !self.graph.leaving(other))
        })
    }

    /// Whether the packets of `id` get to it in hardware.
    fn is_reached(&self, id: Id) -> bool {
        self.graph.before(id).is_none_or(|mut before| before.any(|other| self.has_entry(other)))
    }

    /// Gives entries to a megaflow and to those that it needs before it: to all or to none.
    pub(super) fn give(
        &mut self,
        now: Micros,
        known: Known<Id>,
        mut unit: Vec<Known<Id>>,
        standings: &mut Standings,
        plan: &mut Plan<Id>,
    ) -> bool {
        unit.push(known);
        if !self.has_room_for(unit.len()) {
            return false;
        }
        if unit.len() > 1 {
            let mut after = standings.clone();
            for member in &unit {
                let claim = self.flows[*member].claim;
                if after.in_the_way(claim).is_some() {
                    return false;
                }
                after.gives(claim);
            }
        }
        for member in unit {
            let claim = self.flows[member].claim;
            if let Some(budget) = claim.rule.and_then(|rule| self.rule_budgets.get_mut(&rule)) {
                budget.spend();
            }
            standings.gives(claim);
            self.enter(member, State::Promoting { since: now });
            self.reseat(now, member);
            if self.is_reached(member.id) {
                self.send(member, plan);
            } else {
                self.graph.turns.insert(member.id);
            }
        }
        true
    }

    fn has_room_for(&self, unit: usize) -> bool {
        let bucket = self.settings.install_burst.min(self.settings.installs_per_s).max(1) as usize;
        self.in_flight_left() > 0 && self.installs_left() as usize >= unit.min(bucket)
    }

    /// Installs that are not spoken for.
    pub(super) fn installs_left(&self) -> u32 {
        self.budget.left().saturating_sub(entries(self.graph.turns.len()))
    }

    fn send(&mut self, known: Known<Id>, plan: &mut Plan<Id>) {
        self.budget.spend();
        self.toll.spend();
        self.price = self.toll.price(&self.settings);
        plan.promote.push(known.id);
    }

    /// Sends the promotions whose turn has come, and takes back those whose turn will not come.
    pub(super) fn take_turns(&mut self, now: Micros, plan: &mut Plan<Id>) {
        loop {
            let mut changed = false;
            for id in self.graph.turns.clone() {
                let Some(known) = self.flows.find(id) else {
                    self.graph.turns.remove(&id);
                    continue;
                };
                // The table may have proved to be smaller than what was given away.
                let too_many = self.in_use().saturating_add(self.promoting) > self.table.allows(now);
                let hopeless = too_many
                    || !self.may_carry(now, id)
                    || !self.graph.before(id).is_none_or(|mut before| before.any(|other| self.holds(other)));
                if hopeless {
                    self.graph.turns.remove(&id);
                    self.enter(known, State::Software);
                    let rule = self.flows[known].claim.rule;
                    if let Some(budget) = rule.and_then(|rule| self.rule_budgets.get_mut(&rule)) {
                        budget.give_back();
                    }
                    self.reseat(now, known);
                    changed = true;
                } else if self.is_reached(id) && self.budget.left() > 0 && self.in_flight_left() > 0 {
                    self.graph.turns.remove(&id);
                    self.send(known, plan);
                }
            }
            if !changed {
                return;
            }
        }
    }

    /// Reckons anew what those after a megaflow are that something changed of.
    pub(super) fn refresh_units(&mut self, now: Micros) {
        let mut front = core::mem::take(&mut self.graph.stale);
        let mut seen = BTreeSet::new();
        while let Some(id) = front.pop_first() {
            if !seen.insert(id) {
                continue;
            }
            if let Some(known) = self.flows.find(id) {
                self.reseat(now, known);
            }
            front.extend(self.graph.named_by(id).filter(|after| !seen.contains(after)));
        }
    }

    /// Finds entries that have become worthless: those that cannot be reached any more get a way back if there is one, else
    /// they are given up, as are those that lead nowhere. The last of a way goes first.
    pub(super) fn dissolve(&mut self, now: Micros, plan: &mut Plan<Id>) {
        if self.graph.holding.is_empty() {
            self.graph.given_up.clear();
            return;
        }
        let reached = self.reached();
        let mut give_up = BTreeSet::new();
        for id in self.graph.holding.clone() {
            let Some(known) = self.flows.find(id) else { continue };
            if !matches!(self.flows[known].state, State::Placed { .. }) {
                continue;
            }
            let leads_nowhere = self.graph.goes_on(id)
                && !self.graph.after(id).any(|after| self.graph.holding.contains(&after));
            if leads_nowhere || !reached.contains(&id) && !self.find_back(now, known, plan) {
                give_up.insert(id);
            }
        }
        self.graph.given_up = give_up.clone();
        for id in give_up.iter().copied() {
            let Some(known) = self.flows.find(id) else { continue };
            if self.in_flight_left() > 0 {
                self.demote(now, known, plan);
            }
        }
        // Such as lead to each other have no last one.
        let stuck = plan.demote.is_empty() && self.demoting == 0 && self.promoting == 0;
        if let Some(known) = give_up.first().filter(|_| stuck).and_then(|id| self.flows.find(*id)) {
            self.demote_now(now, known, plan);
        }
    }

    /// Those with an entry, or being given one, that packets get to by way of such as policy leaves in hardware.
    fn reached(&self) -> BTreeSet<Id> {
        let counts = |id: Id| {
            self.flows
                .get(id)
                .is_some_and(|flow| flow.holds() && !matches!(flow.verdict, Verdict::Software(_)))
        };
        let mut front: Vec<Id> = self
            .graph
            .holding
            .iter()
            .copied()
            .filter(|id| self.graph.before(*id).is_none() && counts(*id))
            .collect();
        let mut reached: BTreeSet<Id> = front.iter().copied().collect();
        while let Some(id) = front.pop() {
            for after in self.graph.after(id) {
                if self.graph.holding.contains(&after) && counts(after) && reached.insert(after) {
                    front.push(after);
                }
            }
        }
        reached
    }

    /// Whether there is another way to one that cannot be reached any more, or the old one may come back. Where there is and
    /// nothing stands against it, it is taken.
    fn find_back(&mut self, now: Micros, known: Known<Id>, plan: &mut Plan<Id>) -> bool {
        if matches!(self.flows[known].verdict, Verdict::Software(_)) {
            return false;
        }
        let Some(mut way) = self.way(now, known.id) else { return false };
        if self.free(now) < entries(way.len()) {
            return false;
        }
        let Some(last) = way.pop() else { return true };
        let mut standings = self.standings(now);
        let unit = way.len() + 1;
        // What the installs lack just now, they have soon.
        self.give(now, last, way, &mut standings, plan) || !self.has_room_for(unit)
    }
}

pub(super) fn entries(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
