//! Steer mode: Open vSwitch writes the TC filters, we move them between software and hardware.
//!
//! A filter is only ever replaced where one is, never made. Every replacement is checked afterwards against what Open
//! vSwitch last wrote, in the order of notifications, and put right at once where it undid a change.

mod clean;
mod placement;
mod recovery;

use crate::chains::{Place, Recirculation};
use crate::event::{Answer, Effect, OpId};
use crate::ledger::{Entry, Goal, Home, Stage};
use crate::placing::{Draining, Placing};
use crate::planners::{Planners, refused_as, verdict_of};
use crate::ports::NicId;
use crate::refusal::Refusal;
use crate::rule::{self, can_be_replaced, same_rule};
use crate::shapes::Shapes;
use crate::watch::Change;
use crate::world::World;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use netlink_wire::Ufid;
use policies::Micros;
use policies::planner::{Counts, Explanation, Sample, Verdict};
use tc_flower::{Filter, Shape};

/// Readings in a row in which a rule "in hardware" counts in software only, after which it is placed anew.
const LOST_AFTER: u8 = 2;

/// The same of a rule that gets packets of others only. More, since a connection's packets come to it in hardware only once
/// the kernel has given the connection to the NIC, which it does at most once a second (Linux, `tcf_ct_flow_table_lookup`).
const NOT_REACHED_AFTER: u8 = 12;

/// What steer mode keeps.
#[derive(Clone, Debug, Default)]
pub(crate) struct Steer {
    planners: Planners,
    /// Megaflows that ought to be in hardware: promoted or found there, and not demoted by us since.
    wanted: BTreeSet<Ufid>,
    /// Clean promotions that wait: for their flow to settle, or for room on ovs-vswitchd's control socket.
    waiting: BTreeMap<Ufid, Micros>,
    /// Megaflows for which a command's outcome is unknown; Open vSwitch will be asked to decide afresh.
    suspects: BTreeSet<Ufid>,
    /// Flows that Open vSwitch did not know when it was asked to delete them, with the time of its answer.
    orphans: BTreeMap<Ufid, Micros>,
    /// Megaflows that their planner was told are in hardware.
    told_placed: BTreeSet<Ufid>,
    /// Shapes of rules that drivers were seen to take or to refuse.
    shapes: Shapes,
    draining: Draining,
}

impl Placing for Steer {
    fn changed(&mut self, world: &mut World, now: Micros, change: Change, fx: &mut Vec<Effect>) {
        match change {
            Change::Made { ufid, quiet_for } => {
                self.orphans.remove(&ufid);
                self.lift_refusal_of_other_rule(world, now, ufid);
                self.judge(world, now, ufid);
                if !self.put_right_if_raced(world, now, ufid, fx) {
                    self.made(world, now, ufid, quiet_for, fx);
                }
            }
            Change::Found { ufid } => {
                self.judge(world, now, ufid);
                self.told_placement(world, now, ufid);
            }
            Change::Read { ufid, moved, over } => {
                self.told_placement(world, now, ufid);
                let total = moved.total();
                if let Some(planner) = self.planners.of(world, ufid) {
                    let sample = Sample { packets: total.packets, bytes: total.bytes, over };
                    planner.observe(now, ufid, sample);
                }
                self.look_for_loss(world, now, ufid, fx);
            }
            Change::Left { ufid } => {
                self.tell_unplaced(world, now, ufid);
                // It is remembered for a while, and nothing is to be promoted for it meanwhile.
                if let Some(planner) = self.planners.of(world, ufid) {
                    planner.cut_off(now, ufid);
                }
            }
            // With something under way for it, the end of that puts it right.
            Change::Clobbered { victim } => {
                self.put_right_if_raced(world, now, victim, fx);
            }
            Change::Decided { ufid } => self.judge(world, now, ufid),
            Change::Ours { .. }
            | Change::Told { .. }
            | Change::Counted { .. }
            | Change::OwnLost { .. }
            | Change::Shed { .. }
            | Change::Followed { .. }
            | Change::Nothing => {}
        }
    }

    fn reconfigured(&mut self, world: &mut World, now: Micros) {
        self.planners.reconfigure(world, now);
        self.lift_refusals(world, now);
        self.judge_joined(world, now);
    }

    fn rules_changed(&mut self, world: &mut World, now: Micros, decided: &[Ufid], fx: &mut Vec<Effect>) {
        self.planners.divide_anew(world, now);
        for ufid in decided {
            self.judge(world, now, *ufid);
        }
        self.plan(world, now, fx);
        self.start_waiting(world, now, fx);
    }

    fn ports_changed(&mut self, world: &mut World, now: Micros, _fx: &mut Vec<Effect>) {
        let moved: Vec<_> = world
            .ledger
            .iter()
            .filter_map(|(ufid, entry)| {
                Some((ufid, entry.nic, world.place_of(&entry.filter.as_ref()?.live).1))
            })
            .filter(|(_, before, after)| before != after)
            .collect();
        for (ufid, before, after) in moved {
            if let Some(planner) = before.and_then(|nic| self.planners.get_mut(nic)) {
                planner.forget(ufid);
                self.told_placed.remove(&ufid);
            }
            if let Some(entry) = world.ledger.get_mut(ufid) {
                entry.nic = after;
            }
            self.judge(world, now, ufid);
        }
    }

    fn nic_reset(&mut self, world: &mut World, now: Micros, nic: NicId, fx: &mut Vec<Effect>) {
        self.shapes.forget(nic);
        let lost = world.ledger.select(|entry| entry.nic == Some(nic) && entry.in_hw() && entry.is_resting());
        for ufid in world.in_goto_order(lost) {
            self.place_anew(world, now, ufid, fx);
        }
    }

    fn rejoined(&mut self, world: &mut World, now: Micros) {
        for ufid in core::mem::take(&mut world.rejoined) {
            let refusal = world.ledger.get(ufid).and_then(|entry| entry.refusal.as_ref());
            if world.marks_connections(ufid) != (refusal == Some(&Refusal::MarksConnections)) {
                self.judge(world, now, ufid);
                continue;
            }
            let path = world.path_of(ufid);
            if let Some(planner) = self.planners.of(world, ufid) {
                planner.set_path(now, ufid, path);
            }
        }
    }

    fn chain_restore_changed(&mut self, world: &mut World, now: Micros, fx: &mut Vec<Effect>) {
        self.judge_joined(world, now);
        self.plan(world, now, fx);
    }

    fn entries_of_unit(&self, world: &World, ufid: Ufid) -> Option<u32> {
        self.planners.get(world.ledger.get(ufid)?.nic?)?.entries_of_unit(ufid)
    }

    fn probed(&mut self, world: &mut World, now: Micros) {
        let kept_back =
            world.ledger.select(|entry| matches!(entry.refusal, Some(Refusal::Probed(_))) && !entry.in_hw());
        for ufid in kept_back {
            if let Some(entry) = world.ledger.get_mut(ufid) {
                entry.refusal = None;
                entry.refused_rule = None;
            }
            if let Some(planner) = self.planners.of(world, ufid) {
                planner.unblock(now, ufid);
            }
        }
        for ufid in world.ledger.select(|entry| entry.filter.is_some() && !entry.in_hw()) {
            self.judge(world, now, ufid);
        }
    }

    fn epoch(&mut self, world: &mut World, now: Micros, fx: &mut Vec<Effect>) {
        for ufid in world.forget_gone(now) {
            self.forget(ufid);
        }
        self.clear_suspects(world, now, fx);
        self.delete_orphans(world, now, fx);
        self.plan(world, now, fx);
        self.start_waiting(world, now, fx);
    }

    fn drain(&mut self, world: &mut World, now: Micros, draining: &Draining, fx: &mut Vec<Effect>) {
        self.draining = draining.clone();
        self.waiting.retain(|ufid, _| {
            let nic = world.ledger.get(*ufid).and_then(|entry| entry.nic);
            !draining.covers(nic)
        });
        self.empty(world, now, fx);
    }

    fn answered(&mut self, world: &mut World, now: Micros, op: OpId, answer: Answer, fx: &mut Vec<Effect>) {
        let Some(ufid) = world.ops.remove(&op) else { return };
        let Some(entry) = world.ledger.get_mut(ufid) else { return };
        if entry.op() != Some(op) {
            return;
        }
        let stage = core::mem::take(&mut entry.stage);
        match (stage, answer) {
            (
                Stage::Replacing { goal, wrote, sent, old_meter, .. },
                Answer::Replaced { before, result, took },
            ) => {
                if let (Goal::Promote, Ok(_), Some(took)) = (goal, &result, took) {
                    self.learn_install_time(world, ufid, took);
                }
                self.replaced(world, now, ufid, (goal, wrote, sent, old_meter), before, result, fx);
            }
            (Stage::Replacing { .. }, Answer::Counted) => self.wait_for_clean_promotion(world, now, ufid),
            (Stage::Reading { changed, .. }, Answer::FlowRead(read)) => {
                self.flow_read(world, now, ufid, changed, read, fx);
            }
            (Stage::Modifying { base, seen, unclear, .. }, Answer::CommandDone(done)) => {
                self.flow_modified(world, now, ufid, (base, seen, unclear), done, fx);
            }
            (Stage::Clearing { .. }, Answer::CommandDone(done)) => self.flow_cleared(now, ufid, done),
            // ENOENT is as good, and the next reading shows what came of any other refusal.
            (Stage::Clearing { .. }, Answer::FilterDeleted(_)) => {}
            // An answer of another kind than the question's breaks the contract; nothing can be concluded.
            _ => {
                self.suspects.insert(ufid);
            }
        }
        self.put_right_if_raced(world, now, ufid, fx);
        self.start_waiting(world, now, fx);
    }

    fn vswitchd_up(&mut self, world: &mut World, now: Micros, fx: &mut Vec<Effect>) {
        self.clear_suspects(world, now, fx);
        self.start_waiting(world, now, fx);
    }

    fn overrun(&mut self, world: &mut World, _now: Micros, _fx: &mut Vec<Effect>) {
        self.suspect_what_is_under_way(world);
    }

    fn take_suspects(&mut self, flows: BTreeSet<Ufid>) {
        self.suspects.extend(flows);
    }

    fn give_suspects(&mut self) -> BTreeSet<Ufid> {
        let orphans = core::mem::take(&mut self.orphans).into_keys();
        orphans.chain(core::mem::take(&mut self.suspects)).collect()
    }

    fn in_flight(&self, world: &World) -> BTreeSet<Ufid> {
        let writing = world.ops.values().filter(|ufid| {
            world.ledger.get(**ufid).is_some_and(|entry| !matches!(entry.stage, Stage::Reading { .. }))
        });
        writing.chain(&self.suspects).chain(self.orphans.keys()).copied().collect()
    }

    fn wake_at(&self, world: &World) -> Option<Micros> {
        self.has_room_on_socket(world).then(|| self.waiting.values().min().copied()).flatten()
    }

    fn wake(&mut self, world: &mut World, now: Micros, fx: &mut Vec<Effect>) {
        self.start_waiting(world, now, fx);
    }

    fn explain(&self, world: &World, now: Micros, ufid: Ufid) -> Option<Explanation> {
        self.planners.explain(world, now, ufid)
    }

    fn counts(&self, nic: NicId) -> Option<Counts> {
        self.planners.counts(nic)
    }
}

impl Steer {
    /// Takes back what is in NICs that are to be empty.
    fn empty(&mut self, world: &mut World, now: Micros, fx: &mut Vec<Effect>) {
        let draining = &self.draining;
        let placed = |entry: &Entry| draining.covers(entry.nic) && entry.in_hw() && entry.is_resting();
        let placed = world.ledger.select(placed);
        for ufid in world.in_goto_order(placed).into_iter().rev() {
            self.demote(world, now, ufid, fx);
        }
    }

    /// Asks every planner what to do, and does it.
    fn plan(&mut self, world: &mut World, now: Micros, fx: &mut Vec<Effect>) {
        // What was under way to a NIC when it began to be emptied has arrived since.
        self.empty(world, now, fx);
        // Without ovs-vswitchd nobody revalidates what is placed.
        if !world.vswitchd_up {
            return;
        }
        for nic in self.planners.in_use(&self.draining) {
            let Some(planner) = self.planners.get_mut(nic) else { continue };
            let plan = planner.plan(now);
            for ufid in plan.demote {
                self.demote(world, now, ufid, fx);
            }
            for ufid in plan.promote {
                self.promote(world, now, ufid, fx);
            }
        }
    }

    /// Decides whether a megaflow may compete at all, and tells its planner.
    fn judge(&mut self, world: &mut World, now: Micros, ufid: Ufid) {
        let marks = world.marks_connections(ufid);
        let Some(entry) = world.ledger.get_mut(ufid) else { return };
        let Some(filter) = &entry.filter else { return };
        let Some(nic) = entry.nic else {
            entry.refusal = Some(Refusal::NoOffloadPort);
            return;
        };
        let recirculation = world.settings.recirculation;
        let possible = match can_be_replaced(&filter.owner) {
            Ok(()) if marks => Err(Refusal::MarksConnections),
            Ok(()) if !Place::of(&filter.owner).is_joined() => Ok(()),
            Ok(()) if recirculation == Recirculation::Never => Err(Refusal::RecirculationOff),
            Ok(()) if !recirculation.allows(world.chain_restore) => Err(Refusal::NoChainRestore),
            possible => possible,
        };
        let verdict = verdict_of(entry, possible);
        let tenant = entry.decision.map(|decision| decision.tenant).unwrap_or_default();
        let path = world.path_of(ufid);
        let planner = self.planners.made_for(world, now, nic);
        planner.set_verdict(now, ufid, verdict);
        planner.set_tenant(now, ufid, tenant);
        planner.set_path(now, ufid, path);
        if matches!(verdict, Verdict::Software(_)) && self.waiting.remove(&ufid).is_some() {
            self.tell_unplaced(world, now, ufid);
        }
        if !matches!(verdict, Verdict::Software(_)) && !self.put_off_as_probed(world, now, ufid) {
            self.put_off_for_shape(world, now, ufid, false);
        }
    }

    /// Judges what recirculation joins anew.
    fn judge_joined(&mut self, world: &mut World, now: Micros) {
        for ufid in world
            .ledger
            .select(|entry| entry.filter.as_ref().is_some_and(|filter| Place::of(&filter.owner).is_joined()))
        {
            self.judge(world, now, ufid);
        }
    }

    /// Whether policy lets it be in hardware.
    fn may_be_placed(&self, world: &World, ufid: Ufid) -> bool {
        let nic = world.ledger.get(ufid).and_then(|entry| entry.nic);
        let verdict = self.planners.verdict(nic, ufid);
        verdict.is_some_and(|verdict| !matches!(verdict, Verdict::Software(_)))
    }

    fn tell_placed(&mut self, world: &World, now: Micros, ufid: Ufid) {
        if self.told_placed.contains(&ufid) {
            return;
        }
        if let Some(planner) = self.planners.of(world, ufid) {
            planner.placed(now, ufid);
            self.told_placed.insert(ufid);
        }
    }

    fn tell_unplaced(&mut self, world: &World, now: Micros, ufid: Ufid) {
        self.told_placed.remove(&ufid);
        if let Some(planner) = self.planners.of(world, ufid) {
            planner.unplaced(now, ufid);
        }
    }

    fn forget(&mut self, ufid: Ufid) {
        self.planners.forget(ufid);
        self.told_placed.remove(&ufid);
        self.wanted.remove(&ufid);
        self.waiting.remove(&ufid);
    }

    fn refuse(&mut self, world: &mut World, now: Micros, ufid: Ufid, refusal: Refusal) {
        let told = refused_as(&refusal);
        let nic = world.ledger.get(ufid).and_then(|entry| entry.nic);
        world.count_refusal(nic, &refusal);
        if let (true, Some((nic, shape))) = (refusal.blames_shape(), shape_of(world, ufid)) {
            let until = now.plus(world.settings.planner.shape_retry_after);
            self.shapes.refused(nic, shape, ufid, &refusal, until);
        }
        hold_against(world, ufid, refusal);
        self.told_placed.remove(&ufid);
        if let Some(planner) = self.planners.of(world, ufid) {
            planner.refused(now, ufid, told);
        }
    }

    /// Leaves a megaflow in software whose rule contains what a probe saw refused; whether it is so.
    fn put_off_as_probed(&mut self, world: &mut World, now: Micros, ufid: Ufid) -> bool {
        let entry = world.ledger.get(ufid).filter(|entry| !entry.in_hw() && entry.is_resting());
        let Some(nic) = entry.and_then(|entry| entry.nic).filter(|nic| !world.probed.is_empty(*nic)) else {
            return false;
        };
        let Some(filter) = hardware_rule_of(world, ufid) else { return false };
        let Some(why) = world.probed.verdict(&world.ports, nic, &filter) else { return false };
        // What the driver said of this very rule says more.
        if world.ledger.get(ufid).is_some_and(|entry| entry.refusal.is_none()) {
            hold_against(world, ufid, why);
        }
        self.waiting.remove(&ufid);
        let until = now.plus(world.settings.planner.shape_retry_after);
        if let Some(planner) = self.planners.of(world, ufid) {
            planner.put_off(now, ufid, until);
        }
        true
    }

    /// Leaves a megaflow in software whose rule is of a shape that was refused; whether it is so. If not, and it is to be
    /// tried now, the others of its shape wait for what becomes of it.
    fn put_off_for_shape(&mut self, world: &mut World, now: Micros, ufid: Ufid, to_be_tried: bool) -> bool {
        let entry = world.ledger.get(ufid).filter(|entry| !entry.in_hw() && entry.is_resting());
        let nic = entry.and_then(|entry| entry.nic).filter(|nic| !self.shapes.is_empty(*nic));
        let Some((nic, shape)) = nic.and_then(|_| shape_of(world, ufid)) else { return false };
        let Some((until, why)) = self.shapes.verdict(now, nic, &shape) else {
            if to_be_tried {
                self.shapes.tried(now, nic, &shape);
            }
            return false;
        };
        // What the driver said of this very rule says more.
        if world.ledger.get(ufid).is_some_and(|entry| entry.refusal.is_none()) {
            hold_against(world, ufid, why.of_shape());
        }
        self.waiting.remove(&ufid);
        if let Some(planner) = self.planners.of(world, ufid) {
            planner.put_off(now, ufid, until);
        }
        true
    }

    /// What was refused of the rule that Open vSwitch had there before says nothing of this one. Where there is no word of a refusal any more,
    /// it was of another megaflow: the id is of the packet that one was made for, and that was in the kernel's datapath since.
    fn lift_refusal_of_other_rule(&mut self, world: &mut World, now: Micros, ufid: Ufid) {
        let Some(entry) = world.ledger.get_mut(ufid) else { return };
        match (&entry.refused_rule, &entry.filter) {
            (Some(refused), Some(filter)) if !same_rule(refused, &filter.owner) => {
                entry.refusal = None;
                entry.refused_rule = None;
                entry.placed_anew = false;
            }
            (None, Some(_)) if entry.refusal.is_none() => {}
            _ => return,
        }
        if let Some(planner) = self.planners.of(world, ufid) {
            planner.unblock(now, ufid);
        }
    }

    /// Lets everything that was refused be tried again.
    fn lift_refusals(&mut self, world: &mut World, now: Micros) {
        self.shapes.forget_all();
        let refused = world.ledger.select(|entry| entry.refusal.as_ref().is_some_and(Refusal::may_be_over));
        for ufid in refused {
            if let Some(entry) = world.ledger.get_mut(ufid) {
                entry.refusal = None;
                entry.refused_rule = None;
                entry.placed_anew = false;
            }
            if let Some(planner) = self.planners.of(world, ufid) {
                planner.unblock(now, ufid);
            }
        }
    }

    /// A promotion that took so long succeeded. Only where a rule is in the NIC now did its driver put one there.
    fn learn_install_time(&mut self, world: &World, ufid: Ufid, took: Micros) {
        if !world.ledger.get(ufid).is_some_and(|entry| entry.in_hw()) {
            return;
        }
        if let Some(planner) = self.planners.of(world, ufid) {
            planner.install_took(took);
        }
    }

    fn is_in_tc(world: &World, ufid: Ufid) -> bool {
        world.ledger.get(ufid).is_some_and(|entry| matches!(entry.home, Home::Tc(_)))
    }
}

/// A megaflow's rule as hardware would get it.
fn hardware_rule_of(world: &World, ufid: Ufid) -> Option<Filter> {
    let entry = world.ledger.get(ufid)?;
    Some(rule::into_hardware(&entry.filter.as_ref()?.owner, entry.address()?).ok()?.filter)
}

/// The shape of a megaflow's rule as hardware would get it, and its NIC.
fn shape_of(world: &World, ufid: Ufid) -> Option<(NicId, Shape)> {
    let filter = hardware_rule_of(world, ufid)?;
    Some((world.ledger.get(ufid)?.nic?, Shape::of(&filter).ok()?))
}

/// Notes why the rule that is there now is not in hardware.
fn hold_against(world: &mut World, ufid: Ufid, refusal: Refusal) {
    if let Some(entry) = world.ledger.get_mut(ufid) {
        entry.refusal = Some(refusal);
        entry.refused_rule = entry.filter.as_ref().map(|filter| filter.owner.clone());
    }
}
