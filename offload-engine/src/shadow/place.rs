//! Shadow mode: rules of our own in hardware, for as long as their megaflows are in the kernel datapath.
//!
//! Whatever is told, the same question is asked of each megaflow concerned: which rule ought there to be ([`Shadow::ought`]),
//! and which one is there? Where they differ, what is there goes first. Nothing ought to be there while it is not certain what
//! the kernel datapath has (`Doubt`), or while nobody revalidates it.

use super::book::{Stage, is_gone};
use super::gap::Gaps;
use super::storm::{Storms, passed_over};
use super::translate;
use crate::event::{Answer, Effect, OpId};
use crate::ledger::{Entry, Home};
use crate::placing::{Draining, Placing};
use crate::planners::{Planners, verdict_of};
use crate::ports::{NicId, PortKind};
use crate::refusal::Refusal;
use crate::shapes::Shapes;
use crate::watch::Change;
use crate::world::{Doubt, World};
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::ToString;
use alloc::vec::Vec;
use netlink_wire::{DpPort, Ufid};
use policies::Micros;
use policies::planner::{Counts, Explanation, Sample, Verdict};
use tc_flower::{Filter, Hook, Location};

/// How long it is remembered that a megaflow was in hardware when it was deleted: an idle one comes back with its next packet.
const HOT_FOR: Micros = Micros::from_secs(5);
/// So many of them are remembered.
const HOT_MAX: usize = 65_536;

/// Key and mask of a megaflow. Open vSwitch's id of it is of the packet that it was made for, and may be another next time.
type Packets = Box<[u8]>;

/// What shadow mode keeps.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shadow {
    pub(super) planners: Planners,
    pub(super) shapes: Shapes,
    /// Megaflows that ought to be in hardware: a plan placed them, and none took them back since.
    pub(super) wanted: BTreeSet<Ufid>,
    /// Those of them that wait for their turn.
    pub(super) queued: BTreeSet<Ufid>,
    /// Megaflows that were in hardware when they were deleted, and when that was.
    hot: BTreeMap<Packets, Micros>,
    /// Rules that are out for a moment.
    pub(super) gaps: Gaps,
    suspects: BTreeSet<Ufid>,
    pub(super) draining: Draining,
    /// Another mode is wanted: everything is to go.
    leaving: bool,
    /// It was decided about what an earlier daemon left.
    pub(super) has_taken_over: bool,
}

impl Placing for Shadow {
    fn changed(&mut self, world: &mut World, now: Micros, change: Change, fx: &mut Vec<Effect>) {
        match change {
            Change::Told { ufid } if passed_over(world, ufid) => self.settle(world, now, ufid, fx),
            Change::Told { ufid } => {
                // Those go first that it leaves uncertain.
                self.lay_over(world, now, ufid, fx);
                self.judge(world, now, ufid);
                self.lift_block_of_other(world, now, ufid);
                self.remember(world, now, ufid);
                self.settle(world, now, ufid, fx);
            }
            Change::Left { ufid } => {
                // First of all: what is not there any more may have gone for another decision.
                let was_wanted = self.wanted.contains(&ufid);
                self.gaps.forget(ufid);
                self.settle(world, now, ufid, fx);
                if was_wanted {
                    self.note_hot(world, now, ufid);
                    self.unwant(world, now, ufid);
                }
                self.lay_over(world, now, ufid, fx);
            }
            Change::Shed { port } => self.shed(world, now, port, fx),
            Change::Followed { port } => self.follow(world, now, port, fx),
            Change::OwnLost { ufid } => {
                self.unplaced(now, ufid);
                self.settle(world, now, ufid, fx);
            }
            Change::Counted { ufid, moved, over } => {
                let total = moved.total();
                let sample = Sample { packets: total.packets, bytes: total.bytes, over };
                if let Some(planner) = self.planners.of(world, ufid) {
                    planner.observe(now, ufid, sample);
                }
                self.note_used(world, now, ufid, (moved, over), fx);
            }
            Change::Decided { ufid } => {
                self.judge(world, now, ufid);
                self.settle(world, now, ufid, fx);
            }
            _ => {}
        }
    }

    fn epoch(&mut self, world: &mut World, now: Micros, fx: &mut Vec<Effect>) {
        self.take_over(world, now, fx);
        world.abate(now);
        let gone = world.forget_gone(now);
        for ufid in &gone {
            self.wanted.remove(ufid);
            self.queued.remove(ufid);
            self.gaps.close(*ufid);
        }
        self.planners.forget_all(&gone);
        self.hot.retain(|_, since| now.since(*since) < HOT_FOR);
        self.settle_queued(world, now, fx);
        self.see_to_gaps(world, now, fx);
        self.plan(world, now, fx);
    }

    fn answered(&mut self, world: &mut World, now: Micros, op: OpId, answer: Answer, fx: &mut Vec<Effect>) {
        let Some(ufid) = world.ops.remove(&op) else { return };
        let stage = world.own.get(ufid).map(|own| own.stage);
        match (stage, answer) {
            (Some(Stage::Adding(of)), Answer::Added { made, result, took }) if of == op => {
                self.added(world, now, ufid, made.as_deref(), result, took);
            }
            (Some(Stage::Removing { op: of, .. }), Answer::FilterDeleted(result)) if of == Some(op) => {
                self.removed(world, now, ufid, is_gone(&result));
            }
            // The rule went before its answer came: the notification of that has been dealt with.
            _ => {}
        }
        self.settle(world, now, ufid, fx);
        self.settle_queued(world, now, fx);
    }

    fn reconfigured(&mut self, world: &mut World, now: Micros) {
        self.shapes.forget_all();
        self.planners.reconfigure(world, now);
        let refused = world.ledger.select(|entry| entry.refusal.as_ref().is_some_and(Refusal::may_be_over));
        for ufid in refused {
            self.lift_refusal(world, now, ufid);
        }
    }

    fn rules_changed(&mut self, world: &mut World, now: Micros, decided: &[Ufid], fx: &mut Vec<Effect>) {
        self.planners.divide_anew(world, now);
        for ufid in decided {
            self.judge(world, now, *ufid);
        }
        self.plan(world, now, fx);
    }

    fn ports_changed(&mut self, world: &mut World, now: Micros, fx: &mut Vec<Effect>) {
        self.judge_all(world, now, fx);
    }

    fn nic_reset(&mut self, world: &mut World, now: Micros, nic: NicId, fx: &mut Vec<Effect>) {
        self.shapes.forget(nic);
        let lost: Vec<Ufid> =
            world.own.iter().filter(|(_, own)| own.nic == nic).map(|(ufid, _)| ufid).collect();
        for ufid in lost {
            // TC says that they are there; they are made anew once TC has them no more.
            self.remove(world, now, ufid, fx);
        }
    }

    fn probed(&mut self, world: &mut World, now: Micros) {
        let kept_back = world.ledger.select(|entry| matches!(entry.refusal, Some(Refusal::Probed(_))));
        for ufid in kept_back {
            self.lift_refusal(world, now, ufid);
        }
    }

    fn vswitchd_up(&mut self, world: &mut World, _now: Micros, _fx: &mut Vec<Effect>) {
        // It has flushed the kernel datapath, or is about to, and nobody is told of that.
        world.datapath_doubt = Doubt::Queued;
    }

    fn vswitchd_down(&mut self, world: &mut World, now: Micros, fx: &mut Vec<Effect>) {
        self.settle_all(world, now, fx);
    }

    fn overrun(&mut self, world: &mut World, now: Micros, fx: &mut Vec<Effect>) {
        if let Some(port) = world.storms.overrun(world.latest_round(), world.settings.new_megaflows_max) {
            self.shed(world, now, port, fx);
        }
        self.settle_all(world, now, fx);
    }

    fn datapath_read(&mut self, world: &mut World, now: Micros, fx: &mut Vec<Effect>) {
        // Those are told of when they come, but not when the mode does.
        let of_unknown = |entry: &Entry| entry.home == Home::Datapath && entry.told.is_none();
        for ufid in world.ledger.select(of_unknown) {
            self.lay_over(world, now, ufid, fx);
        }
        if world.datapath_doubt == Doubt::Settled {
            self.take_over(world, now, fx);
            let missing = self.wanted.iter().filter(|ufid| world.own.get(**ufid).is_none());
            self.queued.extend(missing);
            self.settle_queued(world, now, fx);
        }
    }

    fn encumbered(&mut self, world: &mut World, now: Micros, fx: &mut Vec<Effect>) {
        world.own.encumbered.clear();
        self.judge_all(world, now, fx);
    }

    fn lease_changed(&mut self, world: &mut World, now: Micros, fx: &mut Vec<Effect>) {
        self.has_taken_over &= world.takes_over();
        self.judge_all(world, now, fx);
    }

    fn drain(&mut self, world: &mut World, now: Micros, draining: &Draining, fx: &mut Vec<Effect>) {
        self.draining = draining.clone();
        self.settle_all(world, now, fx);
    }

    fn judges_datapath(&self) -> bool {
        true
    }

    fn leave(&mut self, world: &mut World, now: Micros, fx: &mut Vec<Effect>) -> bool {
        if !core::mem::replace(&mut self.leaving, true) {
            self.settle_all(world, now, fx);
        }
        // Until all is answered the mode stays, and another change of mind must find everything as it is now.
        let left = world.own.is_empty() && world.ops.is_empty();
        if left {
            world.overlaps.clear();
            world.storms = Storms::default();
            world.ledger.for_each(|entry| {
                if entry.home == Home::Datapath {
                    (entry.refusal, entry.nic, entry.decision) = (None, None, None);
                }
            });
        }
        left
    }

    fn stay(&mut self, world: &mut World, now: Micros, fx: &mut Vec<Effect>) {
        if core::mem::take(&mut self.leaving) {
            self.settle_all(world, now, fx);
        }
    }

    fn take_suspects(&mut self, flows: BTreeSet<Ufid>) {
        self.suspects.extend(flows);
    }

    fn give_suspects(&mut self) -> BTreeSet<Ufid> {
        core::mem::take(&mut self.suspects)
    }

    fn in_flight(&self, _world: &World) -> BTreeSet<Ufid> {
        self.suspects.clone()
    }

    fn wake_at(&self, world: &World) -> Option<Micros> {
        let again = world.own.iter().filter_map(|(_, own)| match own.stage {
            Stage::Removing { op: None, again_at } => Some(again_at),
            _ => None,
        });
        again.min()
    }

    fn wake(&mut self, world: &mut World, now: Micros, fx: &mut Vec<Effect>) {
        if self.wake_at(world).is_some_and(|at| now >= at) {
            self.settle_all(world, now, fx);
        }
    }

    fn explain(&self, world: &World, now: Micros, ufid: Ufid) -> Option<Explanation> {
        self.planners.explain(world, now, ufid)
    }

    fn counts(&self, nic: NicId) -> Option<Counts> {
        self.planners.counts(nic)
    }
}

impl Shadow {
    /// Whether rules may be there at all.
    pub(super) fn may_keep(&self, world: &World) -> bool {
        !self.leaving && world.vswitchd_up && world.datapath_doubt == Doubt::Settled && world.may_keep()
    }

    /// Whether any may be made.
    pub(super) fn may_place(&self, world: &World) -> bool {
        self.may_keep(world) && world.may_make()
    }

    fn judge_all(&mut self, world: &mut World, now: Micros, fx: &mut Vec<Effect>) {
        for ufid in world.ledger.select(|entry| world.judges(entry)) {
            self.judge(world, now, ufid);
        }
        self.settle_all(world, now, fx);
    }

    /// Asks every planner what to do, and does it.
    fn plan(&mut self, world: &mut World, now: Micros, fx: &mut Vec<Effect>) {
        if !self.may_place(world) {
            return;
        }
        for nic in self.planners.in_use(&self.draining) {
            let Some(planner) = self.planners.get_mut(nic) else { continue };
            let plan = planner.plan(now);
            for ufid in plan.demote {
                self.unwant(world, now, ufid);
                self.settle(world, now, ufid, fx);
            }
            for ufid in plan.promote {
                // It comes back by itself.
                if self.gaps.is_open(ufid) {
                    continue;
                }
                self.wanted.insert(ufid);
                self.settle(world, now, ufid, fx);
                if world.own.get(ufid).is_none() && !self.queued.contains(&ufid) {
                    self.unwant(world, now, ufid);
                }
            }
        }
    }

    /// Judges anew what is certain now and was not before, or the other way round, since this megaflow came, changed or went.
    fn lay_over(&mut self, world: &mut World, now: Micros, ufid: Ufid, fx: &mut Vec<Effect>) {
        for other in world.lay_over(ufid) {
            self.judge(world, now, other);
            self.settle(world, now, other, fx);
        }
    }

    /// Decides whether a megaflow may compete at all, and tells its planner.
    pub(super) fn judge(&mut self, world: &mut World, now: Micros, ufid: Ufid) {
        let Some(entry) = world.ledger.get(ufid).filter(|entry| world.judges(entry)) else { return };
        let found = translated(world, ufid, entry);
        // The NIC of what comes out of a tunnel shows in its rule only.
        let nic = found.as_ref().map_or_else(|_| nic_of(world, entry), |(nic, _)| Some(*nic));
        let guarded = if world.may_keep() { Ok(()) } else { Err(Refusal::NoGuard) };
        let possible = found.and_then(|found| undisturbed(world, (ufid, entry), found)).and(guarded);
        let Some(entry) = world.ledger.get_mut(ufid) else { return };
        if entry.nic != nic {
            self.planners.forget(ufid);
            entry.nic = nic;
        }
        let verdict = verdict_of(entry, possible);
        let tenant = entry.decision.map(|decision| decision.tenant).unwrap_or_default();
        if matches!(verdict, Verdict::Software(_)) {
            self.unwant(world, now, ufid);
        }
        let Some(nic) = nic else { return };
        let planner = self.planners.made_for(world, now, nic);
        planner.set_verdict(now, ufid, verdict);
        planner.set_tenant(now, ufid, tenant);
    }

    /// What was refused was another megaflow where there is no word of it any more: Open vSwitch's id is of the packet that one was made
    /// for, and the same packet may get one with another mask, and other actions, when its tables are other ones.
    fn lift_block_of_other(&mut self, world: &World, now: Micros, ufid: Ufid) {
        if world.ledger.get(ufid).is_some_and(|entry| entry.refusal.is_none())
            && let Some(planner) = self.planners.of(world, ufid)
        {
            planner.unblock(now, ufid);
        }
    }

    /// A megaflow that was in hardware when it was deleted is wanted there again at once.
    fn remember(&mut self, world: &World, now: Micros, ufid: Ufid) {
        let Some(entry) = world.ledger.get(ufid) else { return };
        let Some(packets) = packets_of(entry) else { return };
        let was_hot = self.hot.remove(&packets).is_some_and(|since| now.since(since) < HOT_FOR);
        let verdict = self.planners.verdict(entry.nic, ufid);
        if was_hot && verdict.is_some_and(|verdict| !matches!(verdict, Verdict::Software(_))) {
            self.wanted.insert(ufid);
        }
    }

    fn note_hot(&mut self, world: &World, now: Micros, ufid: Ufid) {
        let packets = world.ledger.get(ufid).and_then(packets_of);
        if let Some(packets) = packets
            && self.hot.len() < HOT_MAX
        {
            self.hot.insert(packets, now);
        }
    }

    fn lift_refusal(&mut self, world: &mut World, now: Micros, ufid: Ufid) {
        if let Some(entry) = world.ledger.get_mut(ufid) {
            entry.refusal = None;
        }
        if let Some(planner) = self.planners.of(world, ufid) {
            planner.unblock(now, ufid);
        }
    }

    /// Where no rule is there or on its way, nobody else would tell the planner, which would wait for it for ever.
    pub(super) fn unwant(&mut self, world: &World, now: Micros, ufid: Ufid) {
        self.wanted.remove(&ufid);
        self.queued.remove(&ufid);
        self.gaps.close(ufid);
        if world.own.get(ufid).is_none() {
            self.unplaced(now, ufid);
        }
    }

    pub(super) fn unplaced(&mut self, now: Micros, ufid: Ufid) {
        // A rule that is out for a moment has its entry.
        if self.gaps.is_open(ufid) {
            return;
        }
        if !self.wanted.contains(&ufid) {
            self.gaps.forget(ufid);
        }
        self.planners.each().for_each(|planner| planner.unplaced(now, ufid));
    }
}

/// Key and mask.
fn packets_of(entry: &Entry) -> Option<Packets> {
    let told = entry.told.as_ref()?;
    let (key, mask, _) = told.body.parts();
    Some([&told.dp.0.to_ne_bytes()[..], key, mask.unwrap_or_default()].concat().into())
}

/// The NIC that a megaflow's packets come in by, but for those out of a tunnel.
fn nic_of(world: &World, entry: &Entry) -> Option<NicId> {
    entry.port.and_then(|ifindex| world.ports.get(ifindex)?.offload_nic())
}

/// The rule of our own that does what a megaflow does, and its NIC.
pub(crate) fn rule_of(world: &World, ufid: Ufid, entry: &Entry) -> Result<(NicId, Filter), Refusal> {
    undisturbed(world, (ufid, entry), translated(world, ufid, entry)?)
}

/// The same, whatever else is there.
fn translated(world: &World, ufid: Ufid, entry: &Entry) -> Result<(NicId, Filter), Refusal> {
    let told = entry.told.as_ref().ok_or(Refusal::TooLong)?;
    let unreadable = |why: netlink_wire::Malformed| Refusal::Unsupported(why.to_string());
    let keys = told.body.keys().map_err(unreadable)?;
    let actions = told.body.actions().map_err(unreadable)?;
    let port = |number: DpPort| world.ports.by_dp_port(told.dp, number);
    let rule = translate(ufid, &keys, &actions, world.abilities, &port).map_err(Refusal::Untranslatable)?;
    let from = keys.in_port().and_then(port).ok_or(Refusal::NoOffloadPort)?;
    let nic = match from.kind {
        PortKind::Tunnel => world.ports.tunnel_nic(rule.actions.iter().map(|action| &action.kind)),
        _ => from.offload_nic(),
    };
    Ok((nic.ok_or(Refusal::NoOffloadPort)?, rule))
}

/// The rule, where nothing else at its port, and no other megaflow, makes uncertain what it would do.
fn undisturbed(
    world: &World,
    (ufid, entry): (Ufid, &Entry),
    (nic, rule): (NicId, Filter),
) -> Result<(NicId, Filter), Refusal> {
    if entry.port.is_some_and(|port| world.storms.is_shed(port)) {
        return Err(Refusal::TooManyNew);
    }
    let Location::Device { hook: Hook::Ingress, .. } = rule.address.location else {
        return Err(Refusal::SharedBlock);
    };
    if world.own.is_encumbered(rule.address.location) {
        return Err(Refusal::FiltersOfOthers);
    }
    if world.overlaps.is_overlapped(ufid) {
        return Err(Refusal::Overlaps);
    }
    Ok((nic, rule))
}
