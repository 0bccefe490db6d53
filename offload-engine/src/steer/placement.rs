//! Replacements: into hardware, back to software, and back to what Open vSwitch wrote.

use super::clean::saves_counters;
use super::{LOST_AFTER, NOT_REACHED_AFTER, Steer, shape_of};
use crate::counters::Meter;
use crate::event::{Acked, Effect, Refused};
use crate::ledger::{Goal, Home, Stage};
use crate::refusal::Refusal;
use crate::rule::{self, same_rule};
use crate::world::World;
use alloc::boxed::Box;
use alloc::vec::Vec;
use netlink_wire::{Errno, Ufid};
use policies::Micros;
use policies::planner::Planner;
use tc_flower::{FilterFlags, FilterReport};

impl Steer {
    /// Open vSwitch made or changed a filter.
    pub(super) fn made(
        &mut self,
        world: &mut World,
        now: Micros,
        ufid: Ufid,
        quiet_for: Micros,
        fx: &mut Vec<Effect>,
    ) {
        let Some(entry) = world.ledger.get(ufid) else { return };
        let (in_hw, resting) = (entry.in_hw(), entry.is_resting());
        let draining = self.draining.covers(entry.nic);
        if in_hw {
            // Open vSwitch offloads by itself (tc-policy is not skip_hw).
            self.told_placement(world, now, ufid);
            return;
        }
        // A filter that our own command made anew undid nothing.
        if self.wanted.contains(&ufid) && resting {
            world.tally.undone += 1;
        }
        // What was made anew by a command of ours is being promoted still.
        let is_ours = matches!(entry.stage, Stage::Modifying { .. }) && world.chains.place(ufid).is_some();
        if !is_ours {
            self.tell_unplaced(world, now, ufid);
        }
        // What it does now may be for software.
        if !self.may_be_placed(world, ufid) {
            self.wanted.remove(&ufid);
        }
        // A fresh filter has counted nothing: now is the time to promote it again. A flow that Open vSwitch changes
        // all the time is left to the planner.
        let settled = quiet_for >= world.settings.settle && world.is_reached(ufid);
        if self.wanted.contains(&ufid) && resting && !draining && settled {
            // Else what leads to it would be given up meanwhile.
            if let Some(planner) = self.planners.of(world, ufid) {
                planner.promoting_again(now, ufid);
            }
            self.promote_uncounted(world, now, ufid, fx);
        }
    }

    /// The planner wants `ufid` in hardware.
    pub(super) fn promote(&mut self, world: &mut World, now: Micros, ufid: Ufid, fx: &mut Vec<Effect>) {
        let ready = world
            .ledger
            .get(ufid)
            .is_some_and(|entry| entry.is_resting() && entry.filter.is_some() && world.is_trusted(entry));
        if !ready || !world.is_reached(ufid) {
            self.tell_unplaced(world, now, ufid);
            return;
        }
        // It may have been in line before others of its shape were refused, or a probe ran.
        if self.put_off_as_probed(world, now, ufid) || self.put_off_for_shape(world, now, ufid, true) {
            return;
        }
        if self.needs_clean_promotion(world, ufid) {
            self.wait_for_clean_promotion(world, now, ufid);
        } else {
            self.promote_uncounted(world, now, ufid, fx);
        }
    }

    /// Promotes a filter that had counted nothing when it was last read, unless it has since and that would be lost.
    fn promote_uncounted(&mut self, world: &mut World, now: Micros, ufid: Ufid, fx: &mut Vec<Effect>) {
        let saves = saves_counters(world);
        self.replace_or_leave(world, now, ufid, (Goal::Promote, saves), fx);
    }

    /// `ufid` leaves hardware.
    pub(super) fn demote(&mut self, world: &mut World, now: Micros, ufid: Ufid, fx: &mut Vec<Effect>) {
        self.wanted.remove(&ufid);
        let Some(entry) = world.ledger.get(ufid) else { return };
        if !entry.in_hw() {
            self.tell_unplaced(world, now, ufid);
            return;
        }
        if !entry.is_resting() || !world.is_trusted(entry) || world.is_leaned_on(ufid) {
            // With something under way for it or for what it leads to, and while nobody knows what is there, it stays.
            if let Some(planner) = self.planners.of(world, ufid) {
                planner.placed(now, ufid);
            }
            return;
        }
        self.replace(world, now, ufid, Goal::Demote, fx);
    }

    /// Writes Open vSwitch's own rule back over one that a command of ours put there.
    pub(super) fn repair(&mut self, world: &mut World, now: Micros, ufid: Ufid, fx: &mut Vec<Effect>) {
        self.replace(world, now, ufid, Goal::Repair, fx);
    }

    /// Sends a replacement of the filter where it is now.
    pub(super) fn replace(
        &mut self,
        world: &mut World,
        now: Micros,
        ufid: Ufid,
        goal: Goal,
        fx: &mut Vec<Effect>,
    ) {
        self.replace_or_leave(world, now, ufid, (goal, false), fx);
    }

    /// Sends a replacement that may be conditional on the filter's having counted nothing.
    fn replace_or_leave(
        &mut self,
        world: &mut World,
        now: Micros,
        ufid: Ufid,
        (goal, unless_counted): (Goal, bool),
        fx: &mut Vec<Effect>,
    ) {
        let Some(entry) = world.ledger.get(ufid) else { return };
        let (Some(address), Some(filter)) = (entry.address(), &entry.filter) else { return };
        // What is there may be what a raced command put there: never carry that on.
        let goal = if same_rule(&filter.owner, &filter.live) { goal } else { Goal::Repair };
        let request = match goal {
            Goal::Promote => rule::into_hardware(&filter.owner, address),
            Goal::Demote => rule::into_software(&filter.live, address),
            Goal::Repair => rule::as_written(&filter.owner, address),
        };
        let request = match request {
            Ok(request) => request,
            Err(refusal) => {
                if let Some(entry) = world.ledger.get_mut(ufid) {
                    entry.refusal = Some(refusal);
                }
                if goal == Goal::Repair {
                    self.suspects.insert(ufid);
                }
                return;
            }
        };
        let wrote = filter.owner.clone();
        let op = world.new_op(ufid);
        if let Some(entry) = world.ledger.get_mut(ufid) {
            entry.stage = Stage::Replacing { op, goal, wrote, sent: now, old_meter: None };
        }
        let unless_counted = unless_counted && goal == Goal::Promote;
        fx.push(Effect::Replace { op, request: Box::new(request), unless_counted });
    }

    /// A replacement was answered.
    #[expect(clippy::too_many_arguments, reason = "the parts of one answer and of the stage it ends")]
    pub(super) fn replaced(
        &mut self,
        world: &mut World,
        now: Micros,
        ufid: Ufid,
        (goal, wrote, sent, old_meter): (Goal, Box<FilterReport>, Micros, Option<Meter>),
        before: Option<Box<FilterReport>>,
        result: Result<Acked, Refused>,
        fx: &mut Vec<Effect>,
    ) {
        if let (Some(before), Some(meter)) = (&before, old_meter) {
            world.count_replaced(before, meter);
        }
        match result {
            Err(refused) => self.not_replaced(world, now, ufid, (goal, &wrote, sent), refused),
            Ok(acked) => {
                // A repair overwrites what a raced replacement of ours put there: that is what it is for.
                if let (Some(before), true) = (&before, goal != Goal::Repair) {
                    self.write_back_overwritten(world, now, ufid, (&wrote, sent), before, fx);
                }
                let at_rest = world.ledger.get(ufid).is_some_and(|entry| entry.is_resting());
                if !at_rest || self.put_right_if_raced(world, now, ufid, fx) {
                    return;
                }
                self.done(world, now, ufid, goal, acked, fx);
            }
        }
    }

    fn not_replaced(
        &mut self,
        world: &mut World,
        now: Micros,
        ufid: Ufid,
        (goal, wrote, sent): (Goal, &FilterReport, Micros),
        refused: Refused,
    ) {
        if refused.errno == Errno::ENOENT {
            // Every notification up to now has been seen: if none told that it is gone, that one was lost.
            world.filter_missing(now, ufid, sent);
            self.tell_unplaced(world, now, ufid);
            return;
        }
        match goal {
            Goal::Promote if !is_current(world, ufid, wrote) => self.told_placement(world, now, ufid),
            Goal::Promote => {
                self.wanted.remove(&ufid);
                let refusal = Refusal::from_kernel(refused.errno, refused.extack.as_deref());
                self.refuse(world, now, ufid, refusal);
            }
            Goal::Demote => self.told_placement(world, now, ufid),
            // What Open vSwitch wants could not be written: it has to decide afresh.
            Goal::Repair => {
                self.suspects.insert(ufid);
            }
        }
    }

    /// Where another rule was overwritten than the one that was meant, writes Open vSwitch's rule there once more. If the
    /// notifications have told nothing of it, its owner has to decide afresh.
    ///
    /// Whose change the notifications tell last does not matter here: flower changes a filter under one lock and tells of
    /// it under none, so that two changes at the same moment may be told in either order.
    fn write_back_overwritten(
        &mut self,
        world: &mut World,
        now: Micros,
        ufid: Ufid,
        (wrote, sent): (&FilterReport, Micros),
        before: &FilterReport,
        fx: &mut Vec<Effect>,
    ) {
        let Some(victim) = before.ufid() else { return };
        if victim == ufid && same_rule(before, wrote) {
            return;
        }
        let known = world.ledger.get(victim);
        let told = known.is_some_and(|entry| {
            // After lost notifications, the time of a change is that of the loss.
            world.is_trusted(entry) && entry.changed >= sent
                || entry.filter.as_ref().is_none_or(|filter| same_rule(&filter.owner, before))
        });
        if !told {
            self.suspects.insert(victim);
        } else if let Some(changed) = known.filter(|entry| entry.is_resting()).map(|entry| entry.changed) {
            world.tally.races_repaired += 1;
            world.tally.race_longest_us = world.tally.race_longest_us.max(now.since(changed).0);
            self.repair(world, now, victim, fx);
        }
    }

    /// Where the filter of a megaflow at rest is not what Open vSwitch last wrote, writes that back.
    pub(super) fn put_right_if_raced(
        &mut self,
        world: &mut World,
        now: Micros,
        ufid: Ufid,
        fx: &mut Vec<Effect>,
    ) -> bool {
        let Some(entry) = world.ledger.get(ufid).filter(|entry| entry.is_resting()) else { return false };
        let Some(filter) = &entry.filter else { return false };
        if same_rule(&filter.owner, &filter.live) || self.suspects.contains(&ufid) {
            return false;
        }
        world.tally.races_repaired += 1;
        world.tally.race_longest_us = world.tally.race_longest_us.max(now.since(entry.changed).0);
        self.repair(world, now, ufid, fx);
        true
    }

    fn done(
        &mut self,
        world: &mut World,
        now: Micros,
        ufid: Ufid,
        goal: Goal,
        acked: Acked,
        fx: &mut Vec<Effect>,
    ) {
        let Some(entry) = world.ledger.get(ufid) else { return };
        let Some(filter) = &entry.filter else { return };
        if matches!(entry.home, Home::Gone { .. }) {
            return;
        }
        let flags = filter.live.flags;
        let nic = entry.nic;
        let in_hw = filter.live.is_in_hw();
        // With skip_hw it is Open vSwitch's next rule, which no driver was asked about.
        let refused = flags.contains(FilterFlags::NOT_IN_HW) && !flags.contains(FilterFlags::SKIP_HW);
        match goal {
            Goal::Promote if in_hw => {
                world.count_promotion(nic);
                self.wanted.insert(ufid);
                if let Some(entry) = world.ledger.get_mut(ufid) {
                    entry.refusal = None;
                }
                if let Some((nic, shape)) = shape_of(world, ufid) {
                    self.shapes.taken(nic, shape);
                }
                self.told_placement(world, now, ufid);
                // What comes after it in its unit has waited for this.
                if nic.and_then(|nic| self.planners.get(nic)).is_some_and(Planner::has_turns) {
                    self.plan(world, now, fx);
                }
            }
            Goal::Promote if refused => {
                self.wanted.remove(&ufid);
                let refusal = Refusal::from_driver(acked.extack.as_deref());
                self.refuse(world, now, ufid, refusal);
                // Leave it as it was, or the driver is asked again at every occasion.
                self.replace(world, now, ufid, Goal::Demote, fx);
            }
            // Not reported yet, or changed by Open vSwitch meanwhile: the next report tells.
            Goal::Promote => self.told_placement(world, now, ufid),
            Goal::Demote => {
                if !in_hw {
                    world.count_demotion(nic);
                }
                self.told_placement(world, now, ufid);
                self.plan(world, now, fx);
            }
            Goal::Repair => {
                self.tell_unplaced(world, now, ufid);
            }
        }
    }

    /// Tells the planner where the last report showed the rule.
    pub(super) fn told_placement(&mut self, world: &World, now: Micros, ufid: Ufid) {
        let Some(entry) = world.ledger.get(ufid) else { return };
        if !entry.is_resting() {
            return;
        }
        if entry.in_hw() {
            self.wanted.insert(ufid);
            self.tell_placed(world, now, ufid);
        } else if self.told_placed.contains(&ufid) {
            self.tell_unplaced(world, now, ufid);
        }
    }

    /// Looks whether a rule is said to be in hardware and yet its packets pass by it: placed anew once, given up then.
    pub(super) fn look_for_loss(&mut self, world: &mut World, now: Micros, ufid: Ufid, fx: &mut Vec<Effect>) {
        match world.chains.place(ufid) {
            // It counts packets in software whose connections are not in hardware, and others that it passes on there.
            Some(place) if place.leads_to.is_some() => return,
            Some(_) => return self.look_whether_reached(world, now, ufid, fx),
            None => {}
        }
        let lost = world
            .ledger
            .get(ufid)
            .filter(|entry| entry.idle_in_hw >= LOST_AFTER && entry.in_hw() && entry.is_resting());
        match lost.map(|entry| entry.placed_anew) {
            None => {}
            Some(false) => {
                world.tally.lost_in_hardware += 1;
                self.place_anew(world, now, ufid, fx);
            }
            Some(true) => {
                self.demote(world, now, ufid, fx);
                self.refuse(world, now, ufid, Refusal::PassedBy);
            }
        }
    }

    /// Gives up the last rule of a unit if no packet comes to it in hardware: it gains nothing there.
    fn look_whether_reached(&mut self, world: &mut World, now: Micros, ufid: Ufid, fx: &mut Vec<Effect>) {
        let idle = world.ledger.get(ufid).is_some_and(|entry| {
            entry.idle_in_hw >= NOT_REACHED_AFTER && entry.in_hw() && entry.is_resting()
        });
        if idle {
            if let Some(entry) = world.ledger.get_mut(ufid) {
                entry.idle_in_hw = 0;
            }
            self.demote(world, now, ufid, fx);
            self.refuse(world, now, ufid, Refusal::NotReached);
        }
    }

    /// Places a rule again that the hardware lost.
    pub(super) fn place_anew(&mut self, world: &mut World, now: Micros, ufid: Ufid, fx: &mut Vec<Effect>) {
        if let Some(entry) = world.ledger.get_mut(ufid) {
            entry.idle_in_hw = 0;
            entry.placed_anew = true;
        }
        self.promote(world, now, ufid, fx);
    }
}

/// Whether what a command of ours wrote is still what Open vSwitch wants there.
fn is_current(world: &World, ufid: Ufid, wrote: &FilterReport) -> bool {
    let filter = world.ledger.get(ufid).and_then(|entry| entry.filter.as_ref());
    filter.is_some_and(|filter| same_rule(&filter.owner, wrote))
}
