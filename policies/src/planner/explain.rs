//! Why a megaflow is where it is, as values that a person's sentence can be made of.

use super::settings::{Because, Refusal};
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
