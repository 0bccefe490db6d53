//! The rules of our own in TC, or on their way there or from there, by the megaflow each was made from and by its address.
//!
//! Holds and indexes; decides nothing. What bears our cookie and is not in the book is a *stray*: left by an earlier daemon, or
//! made by a request whose answer was lost. Nobody knows that its megaflow is there, so it goes, whatever the mode.

use super::layout;
use crate::counters::{Meter, Traffic};
use crate::event::{Answer, Effect, OpId, Round};
use crate::ports::NicId;
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use netlink_wire::{Errno, Ufid};
use policies::Micros;
use tc_flower::{Chain, Filter, FilterAddress, FilterReport, Location, Prio};

/// Between a removal that was refused and the next try.
pub(crate) const REMOVE_AGAIN_AFTER: Micros = Micros::from_millis(10);
/// The same where it is not allowed.
const FORBIDDEN_AGAIN_AFTER: Micros = Micros::from_secs(10);
/// Strays removed at the same time.
const STRAYS_AT_A_TIME: usize = 256;

/// What is under way for a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// It was asked for.
    Adding(OpId),
    /// Nothing: it is there.
    There,
    /// Its removal was asked for, or is to be asked for again.
    Removing {
        /// Until it is answered.
        op: Option<OpId>,
        /// After a refusal: when to try again.
        again_at: Micros,
    },
}

/// Rules of an earlier daemon that are taken over at most. More are removed.
const LEFT_MAX: usize = 65_536;

/// A rule of our own.
#[derive(Clone, Debug)]
pub(crate) struct Own {
    /// As it was written, without handle.
    pub(crate) rule: Box<Filter>,
    pub(crate) nic: NicId,
    /// Where it is, once the kernel has told.
    pub(crate) at: Option<FilterAddress>,
    pub(crate) stage: Stage,
    pub(crate) meter: Meter,
    pub(crate) read_at: Micros,
    /// Dumps asked for by then may have been read before it was there.
    pub(crate) made_in: Round,
    /// The last dump that saw it.
    pub(crate) seen: Round,
}

/// A rule with our cookie that nobody knows.
#[derive(Clone, Copy, Debug)]
struct Stray {
    op: Option<OpId>,
    again_at: Micros,
}

/// All of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Book {
    rules: BTreeMap<Ufid, Own>,
    by_address: BTreeMap<FilterAddress, Ufid>,
    strays: BTreeMap<FilterAddress, Stray>,
    /// What an earlier daemon left, as dumps showed it, while it may be taken over.
    left: BTreeMap<FilterAddress, Box<FilterReport>>,
    stray_ops: BTreeMap<OpId, FilterAddress>,
    /// Where there are filters of others, with the last round that may have been asked for before they went.
    others: BTreeMap<Location, Round>,
    /// Where there are such now and were none before, or the other way round; to be taken by whoever acts on it.
    pub(crate) encumbered: BTreeSet<Location>,
}

impl Book {
    pub(crate) fn get(&self, ufid: Ufid) -> Option<&Own> {
        self.rules.get(&ufid)
    }

    pub(crate) fn get_mut(&mut self, ufid: Ufid) -> Option<&mut Own> {
        self.rules.get_mut(&ufid)
    }

    pub(crate) fn at(&self, address: FilterAddress) -> Option<Ufid> {
        self.by_address.get(&address).copied()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Ufid, &Own)> {
        self.rules.iter().map(|(ufid, own)| (*ufid, own))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// How many were asked for and are not answered yet.
    pub(crate) fn adding(&self) -> usize {
        self.rules.values().filter(|own| matches!(own.stage, Stage::Adding(_))).count()
    }

    pub(crate) fn insert(&mut self, ufid: Ufid, own: Own) {
        self.remove(ufid);
        self.rules.insert(ufid, own);
    }

    /// The kernel told where a rule is.
    pub(crate) fn is_at(&mut self, ufid: Ufid, address: FilterAddress) {
        let Some(own) = self.rules.get_mut(&ufid) else { return };
        own.at = Some(address);
        self.by_address.insert(address, ufid);
        self.strays.remove(&address);
    }

    pub(crate) fn remove(&mut self, ufid: Ufid) -> Option<Own> {
        let own = self.rules.remove(&ufid)?;
        if let Some(address) = own.at
            && self.by_address.get(&address) == Some(&ufid)
        {
            self.by_address.remove(&address);
        }
        Some(own)
    }

    /// Megaflows whose rules are in this scope. Strays there are forgotten: they went as well.
    pub(crate) fn gone_in(
        &mut self,
        location: Location,
        chain: Option<Chain>,
        prio: Option<Prio>,
    ) -> Vec<Ufid> {
        let is_in = |address: &FilterAddress| {
            address.location == location
                && chain.is_none_or(|chain| address.chain == chain)
                && prio.is_none_or(|prio| address.prio == prio)
        };
        self.strays.retain(|address, _| !is_in(address));
        self.left.retain(|address, _| !is_in(address));
        self.by_address.iter().filter(|(address, _)| is_in(address)).map(|(_, ufid)| *ufid).collect()
    }

    /// Megaflows whose rules a whole dump of `location` should have seen, and did not. Strays that it did not see are gone.
    pub(crate) fn unseen(&self, location: Location, round: Round) -> Vec<Ufid> {
        let unseen = |own: &Own| own.stage == Stage::There && own.made_in < round && own.seen < round;
        let here = self.by_address.iter().filter(|(address, _)| address.location == location);
        here.map(|(_, ufid)| *ufid).filter(|ufid| self.get(*ufid).is_some_and(unseen)).collect()
    }

    /// Whether an address is one that rules of shadow mode have.
    pub(crate) fn is_of_layout(address: FilterAddress) -> bool {
        address.chain == layout::CHAIN && layout::is_ours(address.prio)
    }

    /// There is a filter of somebody else.
    pub(crate) fn note_other(&mut self, location: Location, round: Round) {
        if self.others.insert(location, round).is_none() {
            self.encumbered.insert(location);
        }
    }

    /// A whole dump of a location ended.
    pub(crate) fn others_dumped(&mut self, location: Location, round: Round) {
        if self.others.get(&location).is_some_and(|seen| *seen < round) {
            self.others.remove(&location);
            self.encumbered.insert(location);
        }
    }

    /// Whether there are filters of others, which packets would pass by in hardware.
    pub(crate) fn is_encumbered(&self, location: Location) -> bool {
        self.others.contains_key(&location)
    }

    /// A rule with our cookie is there that nobody knows.
    pub(crate) fn note_stray(&mut self, address: FilterAddress) {
        self.left.remove(&address);
        self.strays.entry(address).or_insert(Stray { op: None, again_at: Micros::ZERO });
    }

    /// It is gone.
    pub(crate) fn forget_stray(&mut self, address: FilterAddress) {
        self.strays.remove(&address);
        self.left.remove(&address);
    }

    /// A rule that an earlier daemon left is there, which may be taken over.
    pub(crate) fn note_left(&mut self, report: &FilterReport) {
        if self.strays.contains_key(&report.address) {
            return;
        }
        match self.left.len() < LEFT_MAX {
            true => drop(self.left.insert(report.address, Box::new(report.clone()))),
            false => self.note_stray(report.address),
        }
    }

    /// Whether a rule that was left is known there.
    pub(crate) fn is_left(&self, address: FilterAddress) -> bool {
        self.left.contains_key(&address)
    }

    /// What was left, to be taken over.
    pub(crate) fn take_left(&mut self) -> BTreeMap<FilterAddress, Box<FilterReport>> {
        core::mem::take(&mut self.left)
    }

    /// What was left is not taken over.
    pub(crate) fn give_up_left(&mut self) {
        for address in self.take_left().into_keys() {
            self.note_stray(address);
        }
    }

    /// When strays want to be looked after.
    pub(crate) fn strays_due(&self) -> Option<Micros> {
        self.strays.values().filter(|stray| stray.op.is_none()).map(|stray| stray.again_at).min()
    }

    /// Asks for the removal of strays that are due.
    pub(crate) fn remove_strays(
        &mut self,
        now: Micros,
        mut new_op: impl FnMut() -> OpId,
        fx: &mut Vec<Effect>,
    ) {
        let room = STRAYS_AT_A_TIME.saturating_sub(self.stray_ops.len());
        let due = self.strays.iter_mut().filter(|(_, stray)| stray.op.is_none() && now >= stray.again_at);
        for (address, stray) in due.take(room) {
            let op = new_op();
            stray.op = Some(op);
            self.stray_ops.insert(op, *address);
            fx.push(Effect::DeleteFilter { op, address: *address });
        }
    }

    /// The removal of a stray was answered; whether the operation was one. Returns whether it went.
    pub(crate) fn stray_answered(&mut self, now: Micros, op: OpId, answer: &Answer) -> Option<bool> {
        let address = self.stray_ops.remove(&op)?;
        let gone = matches!(answer, Answer::FilterDeleted(result) if is_gone(result));
        if gone {
            self.strays.remove(&address);
        } else if let Some(stray) = self.strays.get_mut(&address) {
            // Without the capability, it is for the next daemon.
            let forbidden =
                matches!(answer, Answer::FilterDeleted(Err(refused)) if refused.errno == Errno::EPERM);
            let after = if forbidden { FORBIDDEN_AGAIN_AFTER } else { REMOVE_AGAIN_AFTER };
            *stray = Stray { op: None, again_at: now.plus(after) };
        }
        Some(gone)
    }

    /// What a reading of a rule's filter adds to what was counted, and over what time.
    pub(crate) fn read(&mut self, now: Micros, ufid: Ufid, reading: Traffic) -> Option<(Traffic, Micros)> {
        let own = self.rules.get_mut(&ufid)?;
        let over = now.since(own.read_at);
        own.read_at = now;
        Some((own.meter.read(reading), over))
    }
}

/// Whether a filter is not there after this answer to its removal: the kernel deleted it, or finds no filter, no device or
/// no qdisc. What of the last is not so, the next full dump shows.
pub(crate) fn is_gone<T>(result: &Result<T, crate::event::Refused>) -> bool {
    match result {
        Ok(_) => true,
        Err(refused) => [Errno::ENOENT, Errno::ENODEV, Errno::EINVAL].contains(&refused.errno),
    }
}
