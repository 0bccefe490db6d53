//! Where each megaflow waits for the planner's attention: ordered sets, so that a plan looks only at what matters.

use alloc::collections::BTreeSet;

use crate::Micros;

/// How a megaflow ranks: pinned before ranked, then by the saving's time-invariant key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Score {
    pub(super) pinned: bool,
    pub(super) key: i64,
}

impl Score {
    /// Whether this one may take the entry of `other`: another class, or better by `advantage`.
    pub(super) fn displaces(self, other: Self, advantage: i64) -> bool {
        match (self.pinned, other.pinned) {
            (true, false) => true,
            (false, true) => false,
            _ => self.key > other.key.saturating_add(advantage),
        }
    }
}

/// The one set a megaflow is in, with the key it is filed under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seat {
    /// In none: too slow, in flight, or to stay in software. Only a new reading, verdict or answer changes that.
    Aside,
    /// Nothing happens before this time.
    Until(Micros),
    /// Wants an entry.
    Waiting(Score),
    /// Has an entry and may lose it to a better one.
    Demotable(Score),
    /// Has an entry and has to leave it.
    Leaving,
}

#[derive(Clone, Debug)]
pub(super) struct Seats<Id> {
    until: BTreeSet<(Micros, Id)>,
    waiting: BTreeSet<(Score, Id)>,
    demotable: BTreeSet<(Score, Id)>,
    leaving: BTreeSet<Id>,
}

impl<Id: Copy + Ord> Seats<Id> {
    pub(super) fn new() -> Self {
        Self {
            until: BTreeSet::new(),
            waiting: BTreeSet::new(),
            demotable: BTreeSet::new(),
            leaving: BTreeSet::new(),
        }
    }

    pub(super) fn take(&mut self, seat: Seat, id: Id) {
        match seat {
            Seat::Aside => true,
            Seat::Until(time) => self.until.insert((time, id)),
            Seat::Waiting(score) => self.waiting.insert((score, id)),
            Seat::Demotable(score) => self.demotable.insert((score, id)),
            Seat::Leaving => self.leaving.insert(id),
        };
    }

    pub(super) fn leave(&mut self, seat: Seat, id: Id) {
        match seat {
            Seat::Aside => true,
            Seat::Until(time) => self.until.remove(&(time, id)),
            Seat::Waiting(score) => self.waiting.remove(&(score, id)),
            Seat::Demotable(score) => self.demotable.remove(&(score, id)),
            Seat::Leaving => self.leaving.remove(&id),
        };
    }

    /// A megaflow whose time has come by `now`.
    pub(super) fn due(&self, now: Micros) -> Option<Id> {
        self.until.first().filter(|(time, _)| *time <= now).map(|(_, id)| *id)
    }

    /// The best of those that want an entry.
    pub(super) fn best(&self) -> Option<Id> {
        self.waiting.last().map(|(_, id)| *id)
    }

    /// Those that want an entry, the best first.
    pub(super) fn waiting(&self) -> impl Iterator<Item = (Score, Id)> + '_ {
        self.waiting.iter().rev().copied()
    }

    /// Those that may lose their entry, the weakest first.
    pub(super) fn demotable(&self) -> impl Iterator<Item = (Score, Id)> + '_ {
        self.demotable.iter().copied()
    }

    /// Those that have to leave their entry.
    pub(super) fn leaving(&self) -> impl Iterator<Item = Id> + '_ {
        self.leaving.iter().copied()
    }

    /// How many want an entry, and how many of them rank before `id` with `score`; linear, for explanations.
    pub(super) fn rank(&self, score: Score, id: Id) -> (usize, usize) {
        let better = self.waiting.range((score, id)..).count().saturating_sub(1);
        (better + 1, self.waiting.len())
    }

    pub(super) fn waiting_len(&self) -> usize {
        self.waiting.len()
    }
}
