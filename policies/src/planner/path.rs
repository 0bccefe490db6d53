//! Which megaflows lead to which: what recirculation makes of them.
//!
//! A megaflow that ends in a recirculation leads to those that match its recirculation id. The last of such a chain is worth
//! nothing in hardware without those before it, and those before it are worth nothing without one that ends there. So a
//! *unit* is a way through that graph: from a megaflow that takes packets as they arrive, to one that is done with them. Ways
//! share their beginnings.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

/// Megaflows before one that are kept at most; the first that are named.
pub const BEFORE_MAX: usize = 32;
/// How many megaflows a unit has at most. Deeper ones stay in software.
pub const UNIT_MAX: usize = 16;
/// Megaflows that are looked at in search of a way in.
pub(super) const LOOKED_AT_MAX: usize = 128;

/// A megaflow's place in the graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path<Id> {
    /// The megaflows whose packets it may get; `None` for one that takes packets as they arrive (chain 0).
    pub before: Option<Vec<Id>>,
    /// Whether its packets are looked up again, by the megaflows after it.
    pub goes_on: bool,
}

impl<Id> Default for Path<Id> {
    fn default() -> Self {
        Self { before: None, goes_on: false }
    }
}

impl<Id> Path<Id> {
    /// Whether recirculation has nothing to do with it.
    pub fn is_alone(&self) -> bool {
        self.before.is_none() && !self.goes_on
    }
}

/// What a megaflow is in its unit, as last reckoned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Part {
    /// It is a unit by itself.
    #[default]
    Alone,
    /// The last of a way, which speaks for all of it. `entries` are those that the unit takes beyond those already there, its
    /// own included, or, of one with an entry, those that are there for it alone; `None` where no way leads to it.
    End { entries: Option<u32> },
    /// On the way to others.
    Link(Link),
}

/// What a megaflow on the way to others is good for, by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    /// For nothing: it goes where those after it go.
    Carried,
    /// For another way to those after it, which have an entry already: they move so much, and so many entries it takes.
    Second { packets: u64, bytes: u64, entries: u32 },
}

/// The graph, and who of it has an entry.
#[derive(Clone, Debug)]
pub(super) struct Graph<Id> {
    paths: BTreeMap<Id, Path<Id>>,
    after: BTreeMap<Id, BTreeSet<Id>>,
    /// Those that hold an entry, are about to, or are leaving it.
    pub(super) holding: BTreeSet<Id>,
    /// Those that have been given an entry and wait for the one before them to be there.
    pub(super) turns: BTreeSet<Id>,
    /// Those whose entries are to be given up, the last of a way first.
    pub(super) given_up: BTreeSet<Id>,
    /// Those of which something changed that matters to the ones after them.
    pub(super) stale: BTreeSet<Id>,
}

impl<Id: Copy + Ord> Graph<Id> {
    pub(super) fn new() -> Self {
        Self {
            paths: BTreeMap::new(),
            after: BTreeMap::new(),
            holding: BTreeSet::new(),
            turns: BTreeSet::new(),
            given_up: BTreeSet::new(),
            stale: BTreeSet::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }

    /// Takes over a megaflow's place; returns whether it is another than before.
    pub(super) fn set(&mut self, id: Id, mut path: Path<Id>) -> bool {
        if let Some(before) = &mut path.before {
            before.retain(|other| *other != id);
            before.sort_unstable();
            before.dedup();
            before.truncate(BEFORE_MAX);
        }
        if self.paths.get(&id).map_or_else(|| path.is_alone(), |known| *known == path) {
            return false;
        }
        self.unlink(id);
        for before in path.before.iter().flatten() {
            self.after.entry(*before).or_default().insert(id);
        }
        if !path.is_alone() {
            self.paths.insert(id, path);
        }
        self.stale.insert(id);
        true
    }

    /// Something changed of a megaflow that may matter to those after it.
    pub(super) fn touch(&mut self, id: Id) {
        if self.is_linked(id) {
            self.stale.insert(id);
        }
    }

    /// The megaflow is gone.
    pub(super) fn remove(&mut self, id: Id) {
        if self.is_empty() {
            return;
        }
        self.unlink(id);
        self.holding.remove(&id);
        self.turns.remove(&id);
        self.given_up.remove(&id);
        let after: Vec<Id> = self.named_by(id).collect();
        self.stale.extend(after);
        self.stale.remove(&id);
    }

    fn unlink(&mut self, id: Id) {
        let Some(path) = self.paths.remove(&id) else { return };
        for before in path.before.into_iter().flatten() {
            if let Some(after) = self.after.get_mut(&before) {
                after.remove(&id);
                if after.is_empty() {
                    self.after.remove(&before);
                }
            }
        }
    }

    /// The megaflows before `id` that lead to it; `None` for one that takes packets as they arrive.
    pub(super) fn before(&self, id: Id) -> Option<impl Iterator<Item = Id> + '_> {
        let before = self.paths.get(&id)?.before.as_ref()?;
        Some(before.iter().copied().filter(|before| self.goes_on(*before)))
    }

    /// The megaflows that `id` leads to.
    pub(super) fn after(&self, id: Id) -> impl Iterator<Item = Id> + '_ {
        self.named_by(id).filter(move |_| self.goes_on(id))
    }

    /// Those that name `id` as one before them.
    pub(super) fn named_by(&self, id: Id) -> impl Iterator<Item = Id> + '_ {
        self.after.get(&id).into_iter().flatten().copied()
    }

    pub(super) fn goes_on(&self, id: Id) -> bool {
        self.paths.get(&id).is_some_and(|path| path.goes_on)
    }

    pub(super) fn leaving(&self, id: Id) -> bool {
        self.given_up.contains(&id)
    }

    pub(super) fn is_linked(&self, id: Id) -> bool {
        self.paths.contains_key(&id)
    }
}
