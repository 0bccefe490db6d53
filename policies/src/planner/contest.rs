//! One round of giving entries away: who is next, and whose entry they may take.

use alloc::collections::{BTreeSet, btree_set};
use alloc::vec::Vec;
use core::iter::{Copied, Peekable, Rev};

use super::division::{Claim, InTheWay, Standings};
use super::seats::{Line, Score, Seats};

type Best<'a, Id> = Peekable<Copied<Rev<btree_set::Iter<'a, (Score, Id)>>>>;
type Weakest<'a, Id> = Peekable<Copied<btree_set::Iter<'a, (Score, Id)>>>;

/// Goes through those in line and those with an entry, claim by claim, without changing anything.
#[derive(Clone)]
pub(super) struct Contest<'a, Id: Copy> {
    sides: Vec<Side<'a, Id>>,
    pub(super) standings: Standings,
}

#[derive(Clone)]
struct Side<'a, Id: Copy> {
    claim: Claim,
    waiting: Best<'a, Id>,
    demotable: Weakest<'a, Id>,
    /// The best of them finds no entry to take, so the others need not try.
    gave_up: bool,
}

/// Whether `a` comes before `b`: pinned first, then the tenant that has less of its share, then by what is saved.
fn comes_before<Id: Ord>(standings: &Standings, a: (Claim, Score, Id), b: (Claim, Score, Id)) -> bool {
    let (a_tenant, b_tenant) = (a.0.tenant, b.0.tenant);
    let by_share = || {
        let under = standings.is_under(a_tenant).cmp(&standings.is_under(b_tenant));
        under.then_with(|| standings.compare_fill(b_tenant, a_tenant))
    };
    let order = a.1.pinned.cmp(&b.1.pinned).then_with(by_share);
    order.then(a.1.key.cmp(&b.1.key)).then(a.2.cmp(&b.2)).is_gt()
}

/// The next to get a free entry, of those whose rule allows it and that have not been passed over.
pub(super) fn next_in_line<Id: Copy + Ord>(
    seats: &Seats<Id>,
    standings: &Standings,
    passed_over: &BTreeSet<Id>,
) -> Option<(Claim, Id)> {
    let mut next = None;
    for (claim, line) in seats.lines() {
        let best = line.waiting.iter().rev().find(|(_, id)| !passed_over.contains(id));
        let Some((score, id)) = best.copied() else { continue };
        if standings.in_the_way(claim).is_some() {
            continue;
        }
        let candidate = (claim, score, id);
        if next.is_none_or(|best| comes_before(standings, candidate, best)) {
            next = Some(candidate);
        }
    }
    next.map(|(claim, _, id)| (claim, id))
}

impl<'a, Id: Copy + Ord> Contest<'a, Id> {
    pub(super) fn new(seats: &'a Seats<Id>, standings: Standings) -> Self {
        let side = |(claim, line): (Claim, &'a Line<Id>)| Side {
            claim,
            waiting: line.waiting.iter().rev().copied().peekable(),
            demotable: line.demotable.iter().copied().peekable(),
            gave_up: false,
        };
        Self { sides: seats.lines().map(side).collect(), standings }
    }

    /// The next of those in line.
    pub(super) fn challenger(&mut self) -> Option<(Claim, Score, Id)> {
        let mut next: Option<(usize, (Claim, Score, Id))> = None;
        for (index, side) in self.sides.iter_mut().enumerate().filter(|(_, side)| !side.gave_up) {
            if self.standings.in_the_way(side.claim) == Some(InTheWay::RuleInstalls) {
                continue;
            }
            let Some((score, id)) = side.waiting.peek().copied() else { continue };
            let candidate = (side.claim, score, id);
            if next.is_none_or(|(_, best)| comes_before(&self.standings, candidate, best)) {
                next = Some((index, candidate));
            }
        }
        let (index, candidate) = next?;
        self.sides.get_mut(index)?.waiting.next();
        Some(candidate)
    }

    /// The claim's best found nothing to take.
    pub(super) fn give_up(&mut self, claim: Claim) {
        for side in self.sides.iter_mut().filter(|side| side.claim == claim) {
            side.gave_up = true;
        }
    }

    /// Whose entry a megaflow of this claim and score may take: the weakest there is. Both hands are counted then.
    pub(super) fn loser(&mut self, claim: Claim, score: Score, advantage: i64) -> Option<Id> {
        let rule_is_full = self.standings.in_the_way(claim) == Some(InTheWay::RuleEntries);
        let under = self.standings.is_under(claim.tenant);
        let mut weakest: Option<(usize, bool, Score, Id)> = None;
        for (index, side) in self.sides.iter_mut().enumerate() {
            let Some((weak, id)) = side.demotable.peek().copied() else { continue };
            // Where the rule has all the entries it may have, only one of its own can be taken.
            if rule_is_full && side.claim.rule != claim.rule {
                continue;
            }
            let same_tenant = side.claim.tenant == claim.tenant;
            let over = self.standings.is_over(side.claim.tenant);
            let by_share = !same_tenant && under && over && score.pinned >= weak.pinned;
            let by_saving =
                (same_tenant || over || score.pinned && !weak.pinned) && score.displaces(weak, advantage);
            // What another has beyond its share goes before what is one's own.
            let better = weakest.is_none_or(|(_, best_by_share, best, _)| {
                (weak.pinned, !by_share, weak) < (best.pinned, !best_by_share, best)
            });
            if (by_share || by_saving) && better {
                weakest = Some((index, by_share, weak, id));
            }
        }
        let (index, _, _, id) = weakest?;
        let side = self.sides.get_mut(index)?;
        side.demotable.next();
        self.standings.takes(side.claim);
        self.standings.gives(claim);
        Some(id)
    }

    /// The weakest of all, first of those tenants that hold more than they are entitled to.
    pub(super) fn weakest(&mut self) -> Option<Id> {
        let mut weakest: Option<(usize, bool, Score, Id)> = None;
        for (index, side) in self.sides.iter_mut().enumerate() {
            let Some((weak, id)) = side.demotable.peek().copied() else { continue };
            let fair = !self.standings.is_over(side.claim.tenant);
            if weakest.is_none_or(|(_, best_fair, best, _)| {
                (weak.pinned, fair, weak) < (best.pinned, best_fair, best)
            }) {
                weakest = Some((index, fair, weak, id));
            }
        }
        let (index, _, _, id) = weakest?;
        let side = self.sides.get_mut(index)?;
        side.demotable.next();
        self.standings.takes(side.claim);
        Some(id)
    }

    /// The weakest of those that a rule holds beyond its limit.
    pub(super) fn beyond_limits(&mut self) -> Vec<Id> {
        let excess: Vec<_> = self.standings.excess().collect();
        let mut ids = Vec::new();
        for (rule, count) in excess {
            for _ in 0..count {
                let of_rule = self.sides.iter_mut().filter(|side| side.claim.rule == Some(rule));
                let heads =
                    of_rule.filter_map(|side| side.demotable.peek().copied().map(|head| (head, side)));
                let Some(((_, id), side)) = heads.min_by_key(|(head, _)| *head) else { break };
                side.demotable.next();
                self.standings.takes(side.claim);
                ids.push(id);
            }
        }
        ids
    }
}
