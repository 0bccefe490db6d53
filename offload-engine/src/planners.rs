//! A planner for each NIC, for the modes that place anything: what these ask of them is the same.

use crate::ledger::Entry;
use crate::placing::Draining;
use crate::ports::NicId;
use crate::refusal::{Refusal, Retry};
use crate::world::World;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use netlink_wire::Ufid;
use policies::Micros;
use policies::planner::{self, Because, Counts, Explanation, Planner, Verdict};

/// The planners of all NICs that a megaflow came in by.
#[derive(Clone, Debug, Default)]
pub(crate) struct Planners(BTreeMap<NicId, Planner<Ufid>>);

impl Planners {
    pub(crate) fn get(&self, nic: NicId) -> Option<&Planner<Ufid>> {
        self.0.get(&nic)
    }

    pub(crate) fn get_mut(&mut self, nic: NicId) -> Option<&mut Planner<Ufid>> {
        self.0.get_mut(&nic)
    }

    /// That of a megaflow's NIC.
    pub(crate) fn of(&mut self, world: &World, ufid: Ufid) -> Option<&mut Planner<Ufid>> {
        self.get_mut(world.ledger.get(ufid)?.nic?)
    }

    /// That of a NIC, which is made where there is none.
    pub(crate) fn made_for(&mut self, world: &World, now: Micros, nic: NicId) -> &mut Planner<Ufid> {
        self.0.entry(nic).or_insert_with(|| {
            let mut planner = Planner::new(world.settings.planner);
            planner.set_division(now, world.policy.rules().division());
            planner
        })
    }

    pub(crate) fn each(&mut self) -> impl Iterator<Item = &mut Planner<Ufid>> {
        self.0.values_mut()
    }

    /// NICs that are not to be empty.
    pub(crate) fn in_use(&self, draining: &Draining) -> Vec<NicId> {
        self.0.keys().copied().filter(|nic| !draining.covers(Some(*nic))).collect()
    }

    /// The settings are other ones.
    pub(crate) fn reconfigure(&mut self, world: &World, now: Micros) {
        self.each().for_each(|planner| planner.set_settings(now, world.settings.planner));
    }

    /// The rules of policy are other ones.
    pub(crate) fn divide_anew(&mut self, world: &World, now: Micros) {
        self.each().for_each(|planner| planner.set_division(now, world.policy.rules().division()));
    }

    pub(crate) fn forget(&mut self, ufid: Ufid) {
        self.each().for_each(|planner| planner.forget(ufid));
    }

    /// [`Self::forget`] of each of them, in less time.
    pub(crate) fn forget_all(&mut self, ufids: &[Ufid]) {
        self.each().for_each(|planner| planner.forget_all(ufids));
    }

    /// What policy says of a megaflow of this NIC, as its planner was told.
    pub(crate) fn verdict(&self, nic: Option<NicId>, ufid: Ufid) -> Option<Verdict> {
        self.get(nic?)?.verdict(ufid)
    }

    /// Why a megaflow is where it is.
    pub(crate) fn explain(&self, world: &World, now: Micros, ufid: Ufid) -> Option<Explanation> {
        Some(self.get(world.ledger.get(ufid)?.nic?)?.explain(now, ufid))
    }

    pub(crate) fn counts(&self, nic: NicId) -> Option<Counts> {
        Some(self.get(nic)?.counts())
    }
}

/// What a planner is to be told of a megaflow that can be placed, or for this reason cannot, which is noted.
pub(crate) fn verdict_of(entry: &mut Entry, possible: Result<(), Refusal>) -> Verdict {
    let in_host = if entry.needs_host { Err(Refusal::IpsecInHost) } else { Ok(()) };
    match possible.and(in_host) {
        Ok(()) => {
            if entry.refusal.as_ref().is_some_and(Refusal::is_of_rule) {
                entry.refusal = None;
            }
            entry.decision.map(|decision| decision.verdict).unwrap_or_default()
        }
        Err(why) => {
            entry.refusal = Some(why);
            Verdict::Software(Because::NotPlaceable)
        }
    }
}

/// What a refusal is to a planner.
pub(crate) fn refused_as(refusal: &Refusal) -> planner::Refusal {
    match refusal.retry() {
        Retry::WhenRoom => planner::Refusal::TableFull,
        Retry::Soon => planner::Refusal::Transient,
        Retry::WhenChanged => planner::Refusal::Shape,
    }
}
