//! What is there for a megaflow is brought to what ought to be there: rules are asked for, and their removal, and the answers
//! are taken.

use super::book::{Own, REMOVE_AGAIN_AFTER, Stage};
use super::place::{Shadow, rule_of};
use crate::counters::Meter;
use crate::event::{Acked, Effect, Refused};
use crate::ledger::Home;
use crate::planners::refused_as;
use crate::ports::NicId;
use crate::refusal::Refusal;
use crate::world::World;
use alloc::boxed::Box;
use alloc::vec::Vec;
use netlink_wire::{Errno, Ufid};
use policies::Micros;
use tc_flower::{Filter, FilterReport, Shape};

/// Rules asked for at the same time: a removal that is asked for then does not wait behind more.
const ADDING_MAX: usize = 64;

impl Shadow {
    /// The rule that ought to be in hardware for a megaflow.
    fn ought(&self, world: &World, ufid: Ufid) -> Option<(NicId, Filter)> {
        if !self.may_keep(world) || !self.wanted.contains(&ufid) || self.gaps.is_open(ufid) {
            return None;
        }
        let entry = world.ledger.get(ufid).filter(|entry| entry.home == Home::Datapath)?;
        let (nic, rule) = rule_of(world, ufid, entry).ok()?;
        (!self.draining.covers(Some(nic))).then_some((nic, rule))
    }

    /// Brings what is there for a megaflow nearer to what ought to be.
    pub(super) fn settle(&mut self, world: &mut World, now: Micros, ufid: Ufid, fx: &mut Vec<Effect>) {
        let ought = self.ought(world, ufid);
        let there = world.own.get(ufid).map(|own| (own.stage, &own.rule));
        match (there, ought) {
            (None, None) => {
                self.queued.remove(&ufid);
            }
            (None, Some((nic, rule))) => self.add(world, now, ufid, (nic, rule), fx),
            (Some((Stage::There, rule)), ought) => {
                if ought.is_none_or(|(_, other)| other != **rule) {
                    self.remove(world, now, ufid, fx);
                }
            }
            (Some((Stage::Removing { op: None, again_at }, _)), _) if now >= again_at => {
                self.remove(world, now, ufid, fx);
            }
            // The answer brings us back here.
            (Some((Stage::Adding(_) | Stage::Removing { .. }, _)), _) => {}
        }
    }

    pub(super) fn settle_all(&mut self, world: &mut World, now: Micros, fx: &mut Vec<Effect>) {
        let there: Vec<Ufid> = world.own.iter().map(|(ufid, _)| ufid).collect();
        for ufid in there {
            self.settle(world, now, ufid, fx);
        }
        if self.may_place(world) {
            let missing = self.wanted.iter().filter(|ufid| world.own.get(**ufid).is_none());
            self.queued.extend(missing);
            self.settle_queued(world, now, fx);
        }
    }

    pub(super) fn settle_queued(&mut self, world: &mut World, now: Micros, fx: &mut Vec<Effect>) {
        let room = ADDING_MAX.saturating_sub(world.own.adding());
        let next: Vec<Ufid> = self.queued.iter().copied().take(room).collect();
        for ufid in next {
            self.settle(world, now, ufid, fx);
        }
    }

    fn add(
        &mut self,
        world: &mut World,
        now: Micros,
        ufid: Ufid,
        (nic, rule): (NicId, Filter),
        fx: &mut Vec<Effect>,
    ) {
        // Where the filters have not been read, there may be some of others.
        let unread = world.read_in_full.contains(&rule.address.location);
        if unread || !world.may_make() || world.own.adding() >= ADDING_MAX {
            self.queued.insert(ufid);
            return;
        }
        self.queued.remove(&ufid);
        if self.put_off(world, now, ufid, nic, &rule) {
            self.unwant(world, now, ufid);
            return;
        }
        let op = world.new_op(ufid);
        let filter = Box::new(rule);
        fx.push(Effect::AddFilter { op, filter: filter.clone() });
        world.own.insert(
            ufid,
            Own {
                rule: filter,
                nic,
                at: None,
                stage: Stage::Adding(op),
                meter: Meter::default(),
                read_at: now,
                made_in: world.latest_round(),
                seen: world.latest_round(),
            },
        );
    }

    /// Leaves a megaflow in software whose rule a driver is known to refuse; whether it is so.
    fn put_off(&mut self, world: &mut World, now: Micros, ufid: Ufid, nic: NicId, rule: &Filter) -> bool {
        let by_probe = world.probed.verdict(&world.ports, nic, rule);
        let shape = Shape::of(rule).ok();
        let by_shape = shape.as_ref().and_then(|shape| self.shapes.verdict(now, nic, shape));
        let until = now.plus(world.settings.planner.shape_retry_after);
        let (until, why) = match (by_probe, by_shape) {
            (Some(why), _) => (until, why),
            (None, Some((until, why))) => (until, why.of_shape()),
            (None, None) => {
                if let Some(shape) = &shape {
                    self.shapes.tried(now, nic, shape);
                }
                return false;
            }
        };
        if let Some(entry) = world.ledger.get_mut(ufid)
            && entry.refusal.is_none()
        {
            entry.refusal = Some(why);
        }
        if let Some(planner) = self.planners.get_mut(nic) {
            planner.put_off(now, ufid, until);
        }
        true
    }

    /// Asks for the removal of a rule whose address is known and for which nothing else is under way.
    pub(super) fn remove(&mut self, world: &mut World, now: Micros, ufid: Ufid, fx: &mut Vec<Effect>) {
        let Some(own) = world.own.get(ufid) else { return };
        let free = match own.stage {
            Stage::There => true,
            Stage::Removing { op, .. } => op.is_none(),
            Stage::Adding(_) => false,
        };
        let Some(address) = own.at.filter(|_| free) else { return };
        let op = world.new_op(ufid);
        if let Some(own) = world.own.get_mut(ufid) {
            own.stage = Stage::Removing { op: Some(op), again_at: now };
        }
        fx.push(Effect::DeleteFilter { op, address });
    }

    pub(super) fn added(
        &mut self,
        world: &mut World,
        now: Micros,
        ufid: Ufid,
        made: Option<&FilterReport>,
        result: Result<Acked, Refused>,
        took: Option<Micros>,
    ) {
        let Some(own) = world.own.get_mut(ufid) else { return };
        let (nic, location) = (own.nic, own.rule.address.location);
        let shape = Shape::of(&own.rule).ok();
        own.stage = Stage::There;
        let at = own.at.or(made.map(|made| made.address));
        // The kernel takes no `skip_sw` at a tunnel's device: what no driver took is there, in software alone.
        let in_software = made.is_some_and(|made| !made.is_in_hw());
        if let (Some(address), true) = (at, result.is_ok() || own.at.is_some()) {
            world.own.is_at(ufid, address);
            if in_software {
                let why = Refusal::from_driver(result.ok().and_then(|acked| acked.extack).as_deref());
                self.refuse(world, now, ufid, (nic, shape), why);
                // It goes as soon as this answer has been dealt with.
                self.unwant(world, now, ufid);
                return;
            }
            world.count_promotion(Some(nic));
            world.openflow.placed(now, ufid);
            self.gaps.placed(now, ufid);
            if let Some(entry) = world.ledger.get_mut(ufid) {
                entry.shadowed = true;
                entry.refusal = None;
            }
            if let Some(shape) = shape {
                self.shapes.taken(nic, shape);
            }
            if let Some(planner) = self.planners.get_mut(nic) {
                planner.placed(now, ufid);
                took.into_iter().for_each(|took| planner.install_took(took));
            }
            return;
        }
        let is_lost = |refused: &Refused| refused.errno == Errno::ENOBUFS;
        if result.as_ref().map_or_else(is_lost, |_| true) {
            // A rule may be there that nobody has told of: a full dump shows it, and it is a stray then.
            world.read_in_full.insert(location);
        }
        world.own.remove(ufid);
        let refusal = match result {
            Ok(_) => Refusal::DriverSilent,
            Err(refused) => Refusal::from_kernel(refused.errno, refused.extack.as_deref()),
        };
        self.refuse(world, now, ufid, (nic, shape), refusal);
        self.unwant(world, now, ufid);
    }

    fn refuse(
        &mut self,
        world: &mut World,
        now: Micros,
        ufid: Ufid,
        (nic, shape): (NicId, Option<Shape>),
        refusal: Refusal,
    ) {
        let told = refused_as(&refusal);
        world.count_refusal(Some(nic), &refusal);
        if let (true, Some(shape)) = (refusal.blames_shape(), shape) {
            let until = now.plus(world.settings.planner.shape_retry_after);
            self.shapes.refused(nic, shape, ufid, &refusal, until);
        }
        if let Some(entry) = world.ledger.get_mut(ufid) {
            entry.refusal = Some(refusal);
        }
        if let Some(planner) = self.planners.get_mut(nic) {
            planner.refused(now, ufid, told);
        }
    }

    pub(super) fn removed(&mut self, world: &mut World, now: Micros, ufid: Ufid, gone: bool) {
        let Some(own) = world.own.get_mut(ufid) else { return };
        if !gone {
            own.stage = Stage::Removing { op: None, again_at: now.plus(REMOVE_AGAIN_AFTER) };
            return;
        }
        let location = own.rule.address.location;
        // Its notification would have come first, were there one: what is there is shown by the next full dump.
        world.read_in_full.insert(location);
        world.own_lost(ufid);
        self.unplaced(now, ufid);
    }
}
