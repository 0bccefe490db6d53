//! Where each megaflow waits for the planner's attention: ordered sets, so that a plan looks only at what matters.

use alloc::collections::{BTreeMap, BTreeSet};

use super::division::{Claim, Demand};
use crate::Micros;

/// How a megaflow ranks: pinned before ranked, then by the logarithm of the saving that is expected.
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
    Waiting(Claim, Score),
    /// Has an entry and may lose it to a better one.
    Demotable(Claim, Score),
    /// Has an entry and has to leave it.
    Leaving,
}

/// Megaflows that are counted under one claim.
#[derive(Clone, Debug)]
pub(super) struct Line<Id> {
    /// Those that want an entry.
    pub(super) waiting: BTreeSet<(Score, Id)>,
    /// Those that may lose their entry.
    pub(super) demotable: BTreeSet<(Score, Id)>,
    /// How many hold an entry or are being installed.
    held: u32,
}

#[derive(Clone, Debug)]
pub(super) struct Seats<Id> {
    until: BTreeSet<(Micros, Id)>,
    /// When silence is looked at.
    looks: BTreeSet<(Micros, Id)>,
    lines: BTreeMap<Claim, Line<Id>>,
    leaving: BTreeSet<Id>,
    waiting: usize,
}

impl<Id: Copy + Ord> Seats<Id> {
    pub(super) fn new() -> Self {
        Self {
            until: BTreeSet::new(),
            looks: BTreeSet::new(),
            lines: BTreeMap::new(),
            leaving: BTreeSet::new(),
            waiting: 0,
        }
    }

    fn line(&mut self, claim: Claim) -> &mut Line<Id> {
        self.lines.entry(claim).or_insert_with(|| Line {
            waiting: BTreeSet::new(),
            demotable: BTreeSet::new(),
            held: 0,
        })
    }

    /// Drops a line that nobody is in any more.
    fn tidy(&mut self, claim: Claim) {
        let is_empty =
            |line: &Line<Id>| line.held == 0 && line.waiting.is_empty() && line.demotable.is_empty();
        if self.lines.get(&claim).is_some_and(is_empty) {
            self.lines.remove(&claim);
        }
    }

    pub(super) fn take(&mut self, seat: Seat, id: Id) {
        match seat {
            Seat::Aside => {}
            Seat::Until(time) => {
                self.until.insert((time, id));
            }
            Seat::Waiting(claim, score) => {
                self.waiting += usize::from(self.line(claim).waiting.insert((score, id)));
            }
            Seat::Demotable(claim, score) => {
                self.line(claim).demotable.insert((score, id));
            }
            Seat::Leaving => {
                self.leaving.insert(id);
            }
        }
    }

    pub(super) fn leave(&mut self, seat: Seat, id: Id) {
        match seat {
            Seat::Aside => {}
            Seat::Until(time) => {
                self.until.remove(&(time, id));
            }
            Seat::Waiting(claim, score) => {
                self.waiting -= usize::from(self.line(claim).waiting.remove(&(score, id)));
                self.tidy(claim);
            }
            Seat::Demotable(claim, score) => {
                self.line(claim).demotable.remove(&(score, id));
                self.tidy(claim);
            }
            Seat::Leaving => {
                self.leaving.remove(&id);
            }
        }
    }

    /// A megaflow of the claim holds an entry now, or is being installed.
    pub(super) fn holds(&mut self, claim: Claim) {
        self.line(claim).held += 1;
    }

    /// A megaflow of the claim holds no entry any more, or is leaving it.
    pub(super) fn lets_go(&mut self, claim: Claim) {
        let line = self.line(claim);
        line.held = line.held.saturating_sub(1);
        self.tidy(claim);
    }

    /// Has a megaflow's silence looked at.
    pub(super) fn look_at(&mut self, at: Micros, id: Id) {
        self.looks.insert((at, id));
    }

    /// Drops that.
    pub(super) fn look_away(&mut self, at: Micros, id: Id) {
        self.looks.remove(&(at, id));
    }

    /// A megaflow whose silence is to be looked at by `now`; told once.
    pub(super) fn look(&mut self, now: Micros) -> Option<Id> {
        let due = self.looks.first().is_some_and(|(at, _)| *at <= now);
        if due { self.looks.pop_first().map(|(_, id)| id) } else { None }
    }

    /// A megaflow whose time has come by `now`.
    pub(super) fn due(&self, now: Micros) -> Option<Id> {
        self.until.first().filter(|(time, _)| *time <= now).map(|(_, id)| *id)
    }

    /// Those in line and those with an entry, by claim.
    pub(super) fn lines(&self) -> impl Iterator<Item = (Claim, &Line<Id>)> {
        self.lines.iter().map(|(claim, line)| (*claim, line))
    }

    /// How much is held and wanted, by claim.
    pub(super) fn demands(&self) -> impl Iterator<Item = Demand> + '_ {
        self.lines().map(|(claim, line)| Demand {
            claim,
            held: line.held,
            waiting: u32::try_from(line.waiting.len()).unwrap_or(u32::MAX),
        })
    }

    /// Those that have to leave their entry.
    pub(super) fn leaving(&self) -> impl Iterator<Item = Id> + '_ {
        self.leaving.iter().copied()
    }

    /// How many want an entry, and how many of them rank before `id` with `score`; linear, for explanations.
    pub(super) fn rank(&self, score: Score, id: Id) -> (usize, usize) {
        let better: usize = self.lines.values().map(|line| line.waiting.range((score, id)..).count()).sum();
        (better.max(1), self.waiting)
    }

    pub(super) fn waiting_len(&self) -> usize {
        self.waiting
    }
}
