//! What an operator may set about the planner, and the values that say what happens to a megaflow.

use crate::{Micros, Rate, RuleId, Weight};

/// Counters of one megaflow as they moved between two readings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Packets moved, software and hardware together.
    pub packets: u64,
    /// Bytes moved, software and hardware together.
    pub bytes: u64,
    /// The time between the two readings; for a new megaflow the time since it appeared. Zero when it is not
    /// known (the daemon has just started): then the counters are only a baseline and do not count.
    pub over: Micros,
}

/// What a hardware entry is there to save.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Saving {
    /// Bytes per second that no longer cross the CPU.
    Bytes,
    /// Packets per second that no longer cross the CPU.
    Packets,
    /// CPU time of the software datapath: so much for every packet, and so much for every byte of it.
    ModelledCpu {
        /// Nanoseconds per packet.
        ns_per_packet: u32,
        /// Picoseconds per byte.
        ps_per_byte: u32,
    },
}

impl Saving {
    /// The CPU model in use where the operator gives no figures of their own: 350 ns for a packet's way
    /// through the kernel datapath and 60 ps for a byte of it (a copy at about 16 GB/s).
    pub const CPU: Self = Self::ModelledCpu { ns_per_packet: 350, ps_per_byte: 60 };

    /// The saving of a megaflow with these rates, per second, in thousandths of a nanosecond for the CPU.
    pub(super) fn of(self, packets: u64, bytes: u64) -> u128 {
        match self {
            Self::Bytes => u128::from(bytes),
            Self::Packets => u128::from(packets),
            Self::ModelledCpu { ns_per_packet, ps_per_byte } => {
                u128::from(packets) * u128::from(ns_per_packet) * 1_000
                    + u128::from(bytes) * u128::from(ps_per_byte)
            }
        }
    }
}

/// How many entries the NIC's table has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capacity {
    /// Never more than this many, foreign entries included. A table that proves to be smaller is taken at
    /// its word and probed, as a learned one.
    Fixed(u32),
    /// Not known: as many as the driver takes. The first "table is full" shrinks it to what is in use then.
    Learned {
        /// What to believe until the driver says otherwise; `None` for no bound.
        initial: Option<u32>,
    },
}

impl Capacity {
    pub(super) fn ceiling(self) -> u32 {
        match self {
            Self::Fixed(entries) => entries,
            Self::Learned { .. } => u32::MAX,
        }
    }

    pub(super) fn initial(self) -> u32 {
        match self {
            Self::Fixed(entries) => entries,
            Self::Learned { initial } => initial.unwrap_or(u32::MAX),
        }
    }
}

/// Everything an operator may set about one NIC's planner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// What an entry is to save. Default: bytes.
    pub saving: Saving,
    /// The slowest megaflow worth an entry, where its rule does not say. Default: 0, the cost of an install decides.
    pub min_rate: Rate,
    /// The youngest megaflow worth an entry, where its rule does not say. Default: 0.
    pub min_age: Micros,
    /// A megaflow that already moved so many times what `min_rate` asks for in `min_age` passes for old enough:
    /// an elephant is recognised by what it moved, before its age tells. 0: only age counts. Default: 8.
    pub early_factor: u32,
    /// How long a placed megaflow stays at least, unless policy sends it to software. Default: 250 ms.
    pub min_residency: Micros,
    /// By how many percent a waiting megaflow has to save more than a placed one to take its entry. Default: 25.
    pub hysteresis_percent: u32,
    /// The time in which the weight of old traffic in a megaflow's rate halves. Default: 500 ms. At least 1 ms. Where the
    /// NIC reports its counters late (a second, with some), no less than that delay.
    pub half_life: Micros,
    /// How late the counters of the NIC may be: no silence shorter than this is taken for a pause. Default: none.
    pub counter_delay: Micros,
    /// What an install costs when the whole install budget is in use, in bytes that the entry has to save; in proportion
    /// less when less of it is. Where packets or CPU time are saved, 800 bytes of it count as a packet. Default: 20 kB.
    pub install_cost: u32,
    /// How many entries there are. Default: learned.
    pub capacity: Capacity,
    /// Installs per second, on average; 0 for none at all. Default: 1000.
    pub installs_per_s: u32,
    /// Whether that holds only until the driver has shown how long an install takes it: half of what it manages then, and
    /// no more than 10,000 ([`Planner::install_took`](super::Planner::install_took)). Default: no.
    pub learn_installs: bool,
    /// Installs at once after a quiet time, at most a second's worth. Default: 500.
    pub install_burst: u32,
    /// Promotions and demotions that await the kernel's answer, at most. Default: 256.
    pub in_flight_max: u32,
    /// How long a refused megaflow is left alone the first time; it doubles with every refusal. Default: 1 s.
    pub retry_after: Micros,
    /// The longest time between two tries, and the longest time between two probes of a full table. Default: 60 s.
    pub retry_after_max: Micros,
    /// How long a megaflow whose shape the driver cannot do is left alone. Default: 10 min.
    pub shape_retry_after: Micros,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            saving: Saving::Bytes,
            min_rate: Rate::BytesPerSecond(0),
            min_age: Micros::ZERO,
            early_factor: 8,
            min_residency: Micros::from_millis(250),
            hysteresis_percent: 25,
            half_life: Micros::from_millis(500),
            counter_delay: Micros::ZERO,
            install_cost: 20_000,
            capacity: Capacity::Learned { initial: None },
            installs_per_s: 1_000,
            learn_installs: false,
            install_burst: 500,
            in_flight_max: 256,
            retry_after: Micros::from_secs(1),
            retry_after_max: Micros::from_secs(60),
            shape_retry_after: Micros::from_secs(600),
        }
    }
}

/// Why a megaflow has to stay in software.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Because {
    /// A rule of the policy says so.
    Rule(RuleId),
    /// No rule matched, and the default place is software.
    Default,
    /// The caller found that this megaflow cannot be placed, and knows the reason itself.
    NotPlaceable,
}

/// The thresholds of a megaflow that has to earn its entry. `None`: as the settings say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// The rule the terms come from; `None` for the defaults.
    pub rule: Option<RuleId>,
    /// The slowest rate worth an entry.
    pub min_rate: Option<Rate>,
    /// The youngest age worth an entry.
    pub min_age: Option<Micros>,
    /// How much its saving counts.
    pub weight: Weight,
}

/// What the policy says about a megaflow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It stays in software; if it is in hardware it leaves at once.
    Software(Because),
    /// It is placed at once, ahead of all that have to earn it, and stays while there is room for it: only
    /// another pinned megaflow can take its entry.
    Hardware(Option<RuleId>),
    /// It competes by what it saves.
    Auto(Terms),
}

impl Verdict {
    /// The rule it comes from.
    pub const fn rule(&self) -> Option<RuleId> {
        match self {
            Self::Software(Because::Rule(rule)) => Some(*rule),
            Self::Software(Because::Default | Because::NotPlaceable) => None,
            Self::Hardware(rule) => *rule,
            Self::Auto(terms) => terms.rule,
        }
    }
}

impl Default for Verdict {
    fn default() -> Self {
        Self::Auto(Terms::default())
    }
}

/// Why the kernel or the driver refused to place a megaflow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// ENOSPC: the table is full. Teaches the capacity.
    TableFull,
    /// Something that may pass: EAGAIN, EBUSY, ENOMEM, a filter that changed meanwhile.
    Transient,
    /// The driver cannot do this combination of match and actions.
    Shape,
}
