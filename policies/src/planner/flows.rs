//! The megaflows that the planner knows: each is found by its id once, and from then on by its slot.

use alloc::vec::Vec;
use core::hash::Hash;
use core::ops::{Index, IndexMut};

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use hashbrown::hash_map::Entry;
use slab::Slab;

use super::flow::Flow;
use crate::Micros;

/// A place in the slab. It is given again after its megaflow was forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Slot(u32);

impl Slot {
    fn index(self) -> usize {
        self.0 as usize
    }
}

/// A megaflow that is known, with its place: valid until it is forgotten. They are in the order of their ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Known<Id> {
    pub(super) id: Id,
    slot: Slot,
}

/// All of them. What was allocated for the most that were there at a time stays.
#[derive(Clone, Debug)]
pub(super) struct Flows<Id> {
    /// Nothing goes through it in its own order, which is nobody's business: plans must not depend on how ids hash. So the
    /// seed is fixed as well, and the time that a replay takes is the same again.
    slots: HashMap<Id, Slot, FixedState>,
    slab: Slab<Flow>,
}

impl<Id: Copy + Ord + Hash> Flows<Id> {
    pub(super) fn new() -> Self {
        Self { slots: HashMap::with_hasher(FixedState::default()), slab: Slab::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn find(&self, id: Id) -> Option<Known<Id>> {
        self.slots.get(&id).map(|slot| Known { id, slot: *slot })
    }

    pub(super) fn get(&self, id: Id) -> Option<&Flow> {
        self.find(id).map(|known| &self[known])
    }

    /// The megaflow, and whether it is new: then it was first seen at that time.
    pub(super) fn find_or_begin(&mut self, id: Id, first_seen: Micros) -> (Known<Id>, bool) {
        match self.slots.entry(id) {
            Entry::Occupied(known) => (Known { id, slot: *known.get() }, false),
            Entry::Vacant(new) => {
                // There is no memory for as many as would not fit.
                let slot = Slot(self.slab.insert(Flow::new(first_seen)) as u32);
                new.insert(slot);
                (Known { id, slot }, true)
            }
        }
    }

    /// The megaflow is found no more; its place is there until [`Self::vacate`].
    pub(super) fn remove(&mut self, id: Id) -> Option<Known<Id>> {
        self.slots.remove(&id).map(|slot| Known { id, slot })
    }

    /// Gives up the place of one that was removed.
    pub(super) fn vacate(&mut self, removed: Known<Id>) {
        self.slab.remove(removed.slot.index());
    }

    /// All, in the order of their ids.
    pub(super) fn all(&self) -> Vec<Known<Id>> {
        let mut all: Vec<_> = self.slots.iter().map(|(id, slot)| Known { id: *id, slot: *slot }).collect();
        all.sort_unstable();
        all
    }
}

impl<Id> Index<Known<Id>> for Flows<Id> {
    type Output = Flow;

    fn index(&self, known: Known<Id>) -> &Flow {
        &self.slab[known.slot.index()]
    }
}

impl<Id> IndexMut<Known<Id>> for Flows<Id> {
    fn index_mut(&mut self, known: Known<Id>) -> &mut Flow {
        &mut self.slab[known.slot.index()]
    }
}
