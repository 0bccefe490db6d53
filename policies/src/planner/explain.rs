//! Why a megaflow is where it is, as values that a person's sentence can be made of.

use core::hash::Hash;

use super::division::InTheWay;
use super::flow::{Block, Flow, State};
use super::flows::Known;
use super::path::{Link, Part};
use super::settings::{Because, Refusal, Saving, Verdict};
use super::{Planner, rate};
use crate::{Micros, Rate};

/// Why a megaflow is where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Explanation {
    /// The planner has never heard of it, or was told to forget it.
    Unknown,
    /// Policy, or the caller, keeps it in software.
    Policy(Because),
    /// Fast enough perhaps, but not old enough yet.
    TooYoung {
        /// The time until it is old enough.
        left: Micros,
    },
    /// Not worth an entry.
    TooSlow {
        /// Its rate now, in the unit of `needs`.
        rate: Rate,
        /// The rate it needs.
        needs: Rate,
    },
    /// Worth an entry, and in line for one.
    Waiting {
        /// Its place in the line, from 1.
        rank: u64,
        /// How many are in the line.
        of: u64,
        /// What it waits for.
        waiting_for: WaitingFor,
    },
    /// The caller was told to promote it and has not answered yet.
    Promoting {
        /// When the plan was made.
        since: Micros,
    },
    /// It is part of a unit that is being promoted, and its turn comes when the one before it is in hardware.
    Turn {
        /// When the plan was made.
        since: Micros,
    },
    /// Its packets are looked up again, so that it goes where those after it go, and none of them has an entry or is given one.
    OnTheWay {
        /// How many may come after it.
        after: u64,
    },
    /// It gets packets from others only, and none of these can be in hardware: they are not there, policy keeps them in
    /// software, or they were refused.
    NoWay,
    /// It has an entry.
    Placed {
        /// When the kernel confirmed it.
        since: Micros,
        /// What it saves now, per second, in the unit of the settings' saving, unweighted: bytes, packets, or
        /// nanoseconds of CPU time.
        saving: u64,
        /// The time for which nothing better can take its entry.
        resident_for: Micros,
    },
    /// The caller was told to demote it and has not answered yet.
    Demoting {
        /// When the plan was made.
        since: Micros,
    },
    /// It was refused and is left alone for a while.
    BlockedUntil {
        /// When it may be tried again.
        until: Micros,
        /// What was answered the last time.
        refusal: Refusal,
        /// How often it was refused in a row.
        refusals: u32,
    },
}

/// What stands between a megaflow in line and its entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitingFor {
    /// A free entry, or one of a megaflow that saves clearly less.
    Entry,
    /// The install budget, or an answer to the operations in flight.
    Installs,
    /// A free entry, while its tenant has all the entries that its share comes to: one of its own tenant that saves
    /// clearly less would do too.
    Share,
    /// Its rule has as many entries as it may have.
    RuleEntries,
    /// Its rule's own install budget.
    RuleInstalls,
    /// Only the next plan.
    NextPlan,
}

/// How the planner stands, for status and metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Megaflows known.
    pub flows: u64,
    /// Megaflows worth an entry that have none.
    pub waiting: u64,
    /// Promotions without an answer.
    pub promoting: u32,
    /// Megaflows with an entry, those being demoted included.
    pub placed: u32,
    /// Demotions without an answer.
    pub demoting: u32,
    /// Entries of others in the same table.
    pub foreign: u32,
    /// Entries that are believed to fit; `None` when nothing bounds them yet.
    pub capacity: Option<u32>,
    /// Whether the driver's "table is full" taught that number.
    pub capacity_is_learned: bool,
    /// Installs per second that are allowed now.
    pub installs_per_s: u32,
    /// Whether the time that the driver takes for one taught that number.
    pub installs_are_learned: bool,
}

impl<Id: Copy + Ord + Hash> Planner<Id> {
    /// Why the megaflow is where it is.
    pub fn explain(&self, now: Micros, id: Id) -> Explanation {
        let Some(known) = self.flows.find(id) else { return Explanation::Unknown };
        let flow = &self.flows[known];
        match flow.state {
            State::Promoting { since } if self.graph.turns.contains(&id) => Explanation::Turn { since },
            State::Promoting { since } => Explanation::Promoting { since },
            State::Demoting { since, .. } => Explanation::Demoting { since },
            State::Placed { since } => {
                let (packets, bytes) = flow.pace.at_time(now, self.settings.half_life);
                let saving = match self.settings.saving {
                    Saving::ModelledCpu { .. } => self.settings.saving.of(packets, bytes) / 1_000,
                    Saving::Bytes | Saving::Packets => self.settings.saving.of(packets, bytes),
                };
                let resident_for = since.plus(self.settings.min_residency).since(now);
                Explanation::Placed { since, saving: u64::try_from(saving).unwrap_or(u64::MAX), resident_for }
            }
            State::Software => self.explain_software(now, known, flow),
        }
    }

    /// How the planner stands.
    pub fn counts(&self) -> Counts {
        let fits = self.table.fits();
        Counts {
            flows: self.flows.len() as u64,
            waiting: self.seats.waiting_len() as u64,
            promoting: self.promoting,
            placed: self.entries,
            demoting: self.demoting,
            foreign: self.foreign,
            capacity: (fits != u32::MAX).then_some(fits),
            capacity_is_learned: self.table.is_learned(),
            installs_per_s: self.settings.installs_per_s,
            installs_are_learned: self.given.learn_installs && self.install_time.is_learned(),
        }
    }

    /// So many entries a megaflow takes with those before it that have none yet, or, of one with an entry, are there for it alone.
    pub fn entries_of_unit(&self, id: Id) -> Option<u32> {
        self.flows.get(id).map(Flow::entries)
    }

    fn explain_software(&self, now: Micros, known: Known<Id>, flow: &Flow) -> Explanation {
        if let Verdict::Software(because) = flow.verdict {
            return Explanation::Policy(because);
        }
        if let Some(block) = flow.block.filter(|block| block.until > now) {
            let Block { until, refusal, refusals } = block;
            return Explanation::BlockedUntil { until, refusal, refusals };
        }
        match flow.part {
            Part::Link(Link::Carried) => {
                return Explanation::OnTheWay { after: self.graph.after(known.id).count() as u64 };
            }
            Part::End { entries: None } => return Explanation::NoWay,
            _ => {}
        }
        if let Verdict::Auto(terms) = flow.verdict {
            let needs = terms.min_rate.unwrap_or(self.settings.min_rate);
            let ready = flow.old_enough_at(&terms, &self.settings);
            if ready > now {
                return Explanation::TooYoung { left: ready.since(now) };
            }
            let rate = flow.pace.in_unit_of(needs, now, self.settings.half_life);
            if !rate::reaches(rate, needs) {
                return Explanation::TooSlow { rate, needs };
            }
        }
        let score = flow.score(now, &self.settings);
        let (rank, of) = self.seats.rank(score, known);
        let standings = self.standings(now);
        let waiting_for = if let Some(in_the_way) = standings.in_the_way(flow.claim) {
            match in_the_way {
                InTheWay::RuleEntries => WaitingFor::RuleEntries,
                InTheWay::RuleInstalls => WaitingFor::RuleInstalls,
            }
        } else if self.free(now) < flow.entries()
            && standings.has_competition()
            && !standings.is_under(flow.claim.tenant)
        {
            WaitingFor::Share
        } else if self.free(now) < flow.entries() {
            WaitingFor::Entry
        } else if self.budget.left() == 0 || self.in_flight_left() == 0 {
            WaitingFor::Installs
        } else {
            WaitingFor::NextPlan
        };
        Explanation::Waiting { rank: rank as u64, of: of as u64, waiting_for }
    }
}
