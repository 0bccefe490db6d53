//! One megaflow as the planner knows it, and where that puts it.

use core::hint::black_box;

use super::division::{Claim, Division, TenantId};
use super::path::{Link, Part};
use super::rate::{self, Moved, Pace};
use super::seats::{Score, Seat};
use super::settings::{Refusal, Settings, Terms, Verdict};
use crate::{Micros, Rate};

#[derive(Clone, Copy, Debug)]
pub(super) enum State {
    Software,
    Promoting { since: Micros },
    Placed { since: Micros },
    Demoting { since: Micros, placed: Micros },
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Block {
    pub(super) until: Micros,
    pub(super) refusal: Refusal,
    pub(super) refusals: u32,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Flow {
    pub(super) verdict: Verdict,
    pub(super) tenant: TenantId,
    /// What its entry is counted under; follows from its tenant and its rule.
    pub(super) claim: Claim,
    pub(super) first_seen: Micros,
    pub(super) moved: Moved,
    pub(super) pace: Pace,
    pub(super) state: State,
    pub(super) block: Option<Block>,
    pub(super) seat: Seat,
    /// When its silence is looked at next; it may have moved since.
    pub(super) looked_at: Option<Micros>,
    /// Whether recirculation joins it to others.
    pub(super) linked: bool,
    /// What it is in its unit, as last reckoned.
    pub(super) part: Part,
}

impl Flow {
    pub(super) fn new(first_seen: Micros) -> Self {
        Self {
            verdict: Verdict::default(),
            tenant: TenantId::default(),
            claim: Claim::default(),
            first_seen,
            moved: Moved::default(),
            pace: Pace::still(first_seen),
            state: State::Software,
            block: None,
            seat: Seat::Aside,
            looked_at: None,
            linked: false,
            part: Part::Alone,
        }
    }

    /// Has it fetched from memory, without waiting for that.
    pub(super) fn touch(&self) {
        black_box((self.verdict.rule().is_some(), self.first_seen, self.looked_at.is_some()));
        self.pace.touch();
    }

    /// Whether an entry is its own, or is going to be.
    pub(super) fn holds(&self) -> bool {
        matches!(self.state, State::Promoting { .. } | State::Placed { .. })
    }

    /// What its entry is to be counted under.
    pub(super) fn claim_under(&self, division: &Division) -> Claim {
        division.claim(self.tenant, self.verdict.rule())
    }

    /// The one place where a megaflow waits: follows from its state, its verdict, its part in a unit and the time alone.
    pub(super) fn belongs(&self, now: Micros, settings: &Settings, price: u128) -> Seat {
        let blocked = self.block.map(|block| block.until).filter(|until| *until > now);
        match (self.state, self.verdict) {
            (State::Promoting { .. } | State::Demoting { .. }, _) => Seat::Aside,
            (State::Software, Verdict::Software(_)) => Seat::Aside,
            (State::Software | State::Placed { .. }, _) if blocked.is_some() => {
                Seat::Until(blocked.unwrap_or(now))
            }
            (State::Placed { .. }, Verdict::Software(_)) => Seat::Leaving,
            (_, _) if matches!(self.part, Part::Link(Link::Carried) | Part::End { entries: None }) => {
                Seat::Aside
            }
            (State::Placed { since }, _) => {
                let free_at = since.plus(settings.min_residency);
                if free_at > now {
                    Seat::Until(free_at)
                } else {
                    Seat::Demotable(self.claim, self.score(now, settings))
                }
            }
            (State::Software, Verdict::Hardware(_)) => Seat::Waiting(self.claim, self.score(now, settings)),
            (State::Software, Verdict::Auto(terms)) => {
                let ready = self.old_enough_at(&terms, settings);
                if ready > now {
                    Seat::Until(ready)
                } else if !self.is_fast_enough(now, settings) {
                    Seat::Aside
                } else {
                    let expected = self.expected(now, settings);
                    if self.gain(expected, now, settings) >= self.price_of_all(price) {
                        Seat::Waiting(self.claim, self.score_of(expected, now, settings))
                    } else {
                        Seat::Aside
                    }
                }
            }
        }
    }

    /// So many entries it takes, or are there for it.
    pub(super) fn entries(&self) -> u32 {
        match self.part {
            Part::Alone | Part::Link(Link::Carried) => 1,
            Part::End { entries } => entries.unwrap_or(1),
            Part::Link(Link::Second { entries, .. }) => entries,
        }
    }

    /// What all the installs cost that it needs.
    fn price_of_all(&self, price: u128) -> u128 {
        price.saturating_mul(self.entries().into())
    }

    pub(super) fn is_fast_enough(&self, now: Micros, settings: &Settings) -> bool {
        match self.verdict {
            Verdict::Software(_) => false,
            Verdict::Hardware(_) => true,
            Verdict::Auto(terms) => {
                let needs = terms.min_rate.unwrap_or(settings.min_rate);
                needs.is_zero() || rate::reaches(self.pace.in_unit_of(needs, now, settings.half_life), needs)
            }
        }
    }

    /// When it is old enough; a time that has passed for one that has moved so much that its age does not matter.
    pub(super) fn old_enough_at(&self, terms: &Terms, settings: &Settings) -> Micros {
        let min_age = terms.min_age.unwrap_or(settings.min_age);
        let (moved, rate) = match terms.min_rate.unwrap_or(settings.min_rate) {
            Rate::BytesPerSecond(rate) => (self.moved.bytes, rate),
            Rate::PacketsPerSecond(rate) => (self.moved.packets, rate),
        };
        let enough = u128::from(rate) * u128::from(min_age.0) * u128::from(settings.early_factor);
        if enough > 0 && u128::from(moved) * 1_000_000 >= enough {
            self.first_seen
        } else {
            self.first_seen.plus(min_age)
        }
    }

    /// Whether what its entry is expected to save is as much as its install costs. Weight makes no install cheaper.
    pub(super) fn is_worth(&self, now: Micros, settings: &Settings, price: u128) -> bool {
        self.is_pinned() || self.gain(self.expected(now, settings), now, settings) >= self.price_of_all(price)
    }

    /// What an entry saves over the rest of its burst, where so much is expected of it.
    fn gain(&self, (packets, bytes): (u64, u64), now: Micros, settings: &Settings) -> u128 {
        let stay = self.pace.stay(now);
        settings.saving.of(rate::amount(packets, stay), rate::amount(bytes, stay))
    }

    pub(super) fn is_pinned(&self) -> bool {
        matches!(self.verdict, Verdict::Hardware(_))
    }

    /// Packets and bytes per second that are to be expected of it.
    fn expected(&self, now: Micros, settings: &Settings) -> (u64, u64) {
        let pause = self.pace.pause(now, settings.half_life, settings.counter_delay);
        let (packets, bytes) = self.pace.expected(now, self.moved, now.since(self.first_seen), pause);
        match self.part {
            // No more than those after it move.
            Part::Link(Link::Second { packets: most, bytes: most_bytes, .. }) => {
                (packets.min(most), bytes.min(most_bytes))
            }
            _ => (packets, bytes),
        }
    }

    /// When its score changes without its moving.
    pub(super) fn fades_at(&self, now: Micros, settings: &Settings) -> Option<Micros> {
        self.pace.next_pause(now, settings.half_life, settings.counter_delay)
    }

    /// How it ranks. Among those with an entry by what the entry saves, or by what it is worth to hold it through a pause;
    /// in line by what an entry would save if it is bound for `min_residency` longer than the burst goes on.
    pub(super) fn score(&self, now: Micros, settings: &Settings) -> Score {
        self.score_of(self.expected(now, settings), now, settings)
    }

    fn score_of(&self, (packets, bytes): (u64, u64), now: Micros, settings: &Settings) -> Score {
        let (packets, bytes) = if let State::Placed { .. } = self.state {
            let held = self.pace.held(now);
            (packets.max(held.0), bytes.max(held.1))
        } else {
            let stay = self.pace.stay(now);
            let spread = |rate| rate::spread(rate, stay, settings.min_residency);
            (spread(packets), spread(bytes))
        };
        let (pinned, weight) = match self.verdict {
            Verdict::Auto(terms) => (false, terms.weight.thousandths()),
            Verdict::Hardware(_) => (true, 1_000),
            Verdict::Software(_) => (false, 1),
        };
        let saving = settings.saving.of(packets, bytes).saturating_mul(u128::from(weight));
        // What one entry saves.
        let saving = saving / u128::from(self.entries().max(1));
        Score { pinned, key: rate::key(saving) }
    }
}

/// How long a megaflow is left alone after its `refusals`-th refusal in a row.
pub(super) fn back_off(settings: &Settings, refusal: Refusal, refusals: u32) -> Micros {
    let doublings = match refusal {
        Refusal::Shape => return settings.shape_retry_after,
        Refusal::TableFull if refusals == 1 => return Micros::ZERO,
        Refusal::TableFull => refusals - 2,
        Refusal::Transient => refusals - 1,
    };
    let span = settings.retry_after.0.saturating_mul(1_u64 << doublings.min(32));
    Micros(span).min(settings.retry_after_max)
}
