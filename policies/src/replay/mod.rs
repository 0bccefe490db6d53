//! Replay: the planner that the daemon runs, and its rivals, on one and the same traffic.
//!
//! Every policy has the same table and the same install budget, and decides at the start of each of its epochs from what
//! was counted up to then; what it decides holds for the whole epoch. Only the oracle knows the epoch in advance.

#[cfg(test)]
mod dice;
mod ewma;
mod oracle;
mod planned;
mod rebalance;
mod recorded;
mod simple;
mod table;
mod trace;
mod traffic;

use alloc::boxed::Box;
use alloc::vec::Vec;

pub use ewma::Member;
pub use recorded::{Done, RecordedTraffic, Taken};
pub use table::{FLAP_WITHIN, Tally};
pub use trace::{BadLine, CsvReader, FlowNumber, Phase, TenantNumber, Trace};
pub use traffic::{KeptTick, MAX_IDLE, Moved, Tick, TraceTraffic, Traffic};

use crate::Micros;
use crate::planner::{Capacity, Division, Settings, TenantId, Verdict};
use table::Epoch;

/// Something that decides who gets the entries.
trait Contender: Send {
    /// An epoch of its own length. It decides first.
    fn epoch(&mut self, epoch: &Epoch<'_>);
    /// Classes that follow on those it knows.
    fn add_classes(&mut self, _classes: &[Class]) {}
    /// What it brought and cost so far.
    fn tally(&self) -> Tally;
    /// Bytes in hardware by tenant, where that is counted.
    fn bytes_of_tenants(&self) -> &[u64] {
        &[]
    }
}

/// The policies of a replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PolicyName {
    /// The planner that the daemon runs.
    Planner,
    /// The clairvoyant oracle.
    Oracle,
    /// The limit of whoever decides when the planner does and does not foresee megaflows: an oracle with any number of
    /// installs, for which there are only the megaflows that an earlier epoch has shown.
    SeenOracle,
    /// Open vSwitch's `offload-rebalance`.
    OvsRebalance,
    /// Least recently used.
    Lru,
    /// First come, first served.
    FirstCome,
}

impl PolicyName {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Planner, Self::Oracle, Self::SeenOracle, Self::OvsRebalance, Self::Lru, Self::FirstCome];

    /// The name in results.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Planner => "planner",
            Self::Oracle => "oracle",
            Self::SeenOracle => "seen-oracle",
            Self::OvsRebalance => "ovs-rebalance",
            Self::Lru => "lru",
            Self::FirstCome => "first-come",
        }
    }
}

/// What a replay is about.
#[derive(Clone, Debug)]
pub struct Options {
    /// Sizes of the table; each is replayed by itself.
    pub entries: Vec<u32>,
    /// Installs per second.
    pub installs_per_s: u32,
    /// How often the planner decides.
    pub epoch: Micros,
    /// How often everybody else decides.
    pub oracle_epoch: Micros,
    /// What is left out of the results.
    pub warmup: Micros,
    /// The planner's settings; capacity and budget are those of the replay, and its counters are not late.
    pub settings: Settings,
    /// What policy says about the flows of each tenant of the trace, or of each class of a recording, by number; what is
    /// missing earns its entry.
    pub classes: Vec<Class>,
    /// How the planner divides the table.
    pub division: Division,
    /// Whether the EWMA family takes part.
    pub ewma: bool,
}

/// What policy says about flows that it treats alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Class {
    /// Where they may be.
    pub verdict: Verdict,
    /// Whose they are.
    pub tenant: TenantId,
}

/// The greatest length of a tick that epochs of both lengths are made of.
pub fn tick_length(options: &Options) -> Micros {
    let (mut a, mut b) = (options.epoch.0, options.oracle_epoch.0);
    while b > 0 {
        (a, b) = (b, a % b);
    }
    Micros(a)
}

/// One policy with one size of table, and what became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The policy.
    pub policy: PolicyName,
    /// Entries of its table.
    pub entries: u32,
    /// What it brought and cost.
    pub tally: Tally,
}

struct Entrant {
    policy: PolicyName,
    entries: u32,
    contender: Box<dyn Contender>,
}

/// Those who decide at the same times.
struct Group {
    length: Micros,
    begin: Micros,
    installs_per_s: u32,
    gone: Vec<FlowNumber>,
    /// Those that had moved something in this epoch: for the next one they are gone at its start.
    gone_next: Vec<FlowNumber>,
    moved: Vec<Moved>,
    /// Where in `moved` a flow is.
    places: Vec<u32>,
    entrants: Vec<Entrant>,
    ewma: Option<ewma::Family>,
}

/// What all of the traffic comes to, the warm-up left out.
#[derive(Default)]
struct Totals {
    bytes: u64,
    packets: u64,
    bytes_of_tenants: Vec<u64>,
}

impl Totals {
    fn add(&mut self, tick: &Tick<'_>) {
        for moved in tick.moved {
            self.bytes += moved.bytes;
            self.packets += moved.packets;
            count_for(&mut self.bytes_of_tenants, moved);
        }
        self.packets += tick.elsewhere.packets;
        self.bytes += tick.elsewhere.bytes;
    }
}

/// A replay under way, or a part of one.
pub struct Replay {
    warmup: Micros,
    groups: Vec<Group>,
    /// Of several parts one has them.
    totals: Option<Totals>,
    now: Micros,
}

impl Replay {
    /// A replay of traffic with so many flows, if that is known; ticks have to be of [`tick_length`], or of about as
    /// much, as those of a recording.
    pub fn new(options: &Options, flows: u32) -> Self {
        let burst = u64::from(options.installs_per_s) * options.epoch.0 / 1_000_000;
        let planner = |entries: &u32| {
            let settings = Settings {
                capacity: Capacity::Fixed(*entries),
                installs_per_s: options.installs_per_s,
                install_burst: u32::try_from(burst.max(1)).unwrap_or(u32::MAX),
                in_flight_max: u32::MAX,
                // These counters are never late.
                counter_delay: Micros::ZERO,
                ..options.settings
            };
            let contender = Box::new(planned::Planned::new(settings, options, *entries, flows));
            Entrant { policy: PolicyName::Planner, entries: *entries, contender }
        };
        let limit = |entries: &u32| {
            let contender = Box::new(oracle::Oracle::of_seen(*entries, flows));
            Entrant { policy: PolicyName::SeenOracle, entries: *entries, contender }
        };
        let others = |entries: &u32| {
            let entries = *entries;
            let all: [(PolicyName, Box<dyn Contender>); 4] = [
                (PolicyName::Oracle, Box::new(oracle::Oracle::new(entries, flows))),
                (PolicyName::OvsRebalance, Box::new(rebalance::Rebalance::new(entries, flows))),
                (PolicyName::Lru, Box::new(simple::Lru::new(entries, flows))),
                (PolicyName::FirstCome, Box::new(simple::FirstCome::new(entries, flows))),
            ];
            all.map(|(policy, contender)| Entrant { policy, entries, contender })
        };
        let sizes = options.entries.iter();
        let group = |length, entrants| Group::new(length, options.installs_per_s, flows, entrants);
        let mut groups: Vec<Group> =
            sizes.clone().map(|entries| group(options.epoch, Vec::from([planner(entries)]))).collect();
        groups.push(group(options.epoch, sizes.clone().map(limit).collect()));
        groups.push(group(options.oracle_epoch, sizes.flat_map(others).collect()));
        if options.ewma {
            let family = ewma::Family::new(options.oracle_epoch, &options.entries, flows);
            groups.push(Group { ewma: Some(family), ..group(options.oracle_epoch, Vec::new()) });
        }
        Self { warmup: options.warmup, groups, totals: Some(Totals::default()), now: Micros::ZERO }
    }

    /// Takes apart each planner and its rivals, the first planner and the rest: each part is to be given the same ticks, on
    /// a thread of its own.
    pub fn split(mut self) -> (Self, Vec<Self>) {
        let rest = self.groups.split_off(1.min(self.groups.len()));
        let part = |group| Self { groups: Vec::from([group]), totals: None, ..self };
        let rest = rest.into_iter().map(part).collect();
        (self, rest)
    }

    /// Puts together again what [`Self::split`] took apart, the rest in the order that it had.
    pub fn join(mut self, rest: impl IntoIterator<Item = Self>) -> Self {
        self.groups.extend(rest.into_iter().flat_map(|part| part.groups));
        self
    }

    /// Takes in the next tick.
    pub fn tick(&mut self, tick: &Tick<'_>) {
        if let Some(totals) = self.totals.as_mut().filter(|_| tick.begin >= self.warmup) {
            totals.add(tick);
        }
        self.now = tick.end;
        for group in &mut self.groups {
            group.take(tick);
            // Recorded ticks are never quite as long as they should be.
            let half = Micros(tick.end.since(tick.begin).0 / 2);
            if tick.end.plus(half) > group.begin.plus(group.length) {
                group.close(tick.end, self.warmup);
            }
        }
    }

    /// Closes epochs that the traffic left open.
    pub fn finish(&mut self) {
        for group in &mut self.groups {
            if !group.moved.is_empty() {
                group.close(group.begin.plus(group.length), self.warmup);
            }
        }
    }

    /// The time up to which traffic was taken in.
    pub fn now(&self) -> Micros {
        self.now
    }

    /// Bytes and packets of all traffic since the warm-up.
    pub fn totals(&self) -> (u64, u64) {
        self.totals.as_ref().map_or((0, 0), |totals| (totals.bytes, totals.packets))
    }

    /// Bytes of each tenant since the warm-up, and those of them that the planner had in hardware with so many entries.
    pub fn tenants(&self, entries: u32) -> Vec<(u64, u64)> {
        let entrants = self.groups.iter().flat_map(|group| &group.entrants);
        let mut planned = entrants.filter(|it| it.policy == PolicyName::Planner && it.entries == entries);
        let in_hardware =
            planned.next().map(|entrant| entrant.contender.bytes_of_tenants()).unwrap_or_default();
        let share = |(tenant, bytes): (usize, &u64)| (*bytes, in_hardware.get(tenant).copied().unwrap_or(0));
        let all = self.totals.as_ref().map_or(&[][..], |totals| &totals.bytes_of_tenants);
        all.iter().enumerate().map(share).collect()
    }

    /// How everybody stands.
    pub fn outcomes(&self) -> Vec<Outcome> {
        let entrants = self.groups.iter().flat_map(|group| &group.entrants);
        entrants
            .map(|entrant| Outcome {
                policy: entrant.policy,
                entries: entrant.entries,
                tally: entrant.contender.tally(),
            })
            .collect()
    }

    /// How the EWMA family stands.
    pub fn ewma(&self) -> Vec<Member> {
        self.groups.iter().flat_map(|group| &group.ewma).flat_map(ewma::Family::members).collect()
    }
}

/// Adds the bytes of what moved to those of its tenant.
fn count_for(bytes_of_tenants: &mut Vec<u64>, moved: &Moved) {
    let tenant = usize::from(moved.tenant.0);
    if tenant >= bytes_of_tenants.len() {
        bytes_of_tenants.resize(tenant + 1, 0);
    }
    bytes_of_tenants[tenant] += moved.bytes;
}

impl Group {
    fn new(length: Micros, installs_per_s: u32, flows: u32, entrants: Vec<Entrant>) -> Self {
        Self {
            length,
            begin: Micros::ZERO,
            installs_per_s,
            gone: Vec::new(),
            gone_next: Vec::new(),
            moved: Vec::new(),
            places: alloc::vec![u32::MAX; flows as usize],
            entrants,
            ewma: None,
        }
    }

    fn take(&mut self, tick: &Tick<'_>) {
        for entrant in &mut self.entrants {
            entrant.contender.add_classes(tick.classes);
        }
        // One that is gone in the midst of an epoch and moved nothing in what passed of it is as good as gone at the
        // start.
        for flow in tick.gone {
            let place = self.places.get(flow.index()).and_then(|place| self.moved.get(*place as usize));
            let has_moved = place.is_some_and(|moved| moved.flow == *flow);
            if has_moved { self.gone_next.push(*flow) } else { self.gone.push(*flow) }
        }
        for moved in tick.moved {
            let index = moved.flow.index();
            if index >= self.places.len() {
                self.places.resize(index + 1, u32::MAX);
            }
            match self.moved.get_mut(self.places[index] as usize) {
                Some(known) if known.flow == moved.flow => {
                    known.packets += moved.packets;
                    known.bytes += moved.bytes;
                }
                _ => {
                    self.places[index] = self.moved.len() as u32;
                    self.moved.push(*moved);
                }
            }
        }
    }

    fn close(&mut self, end: Micros, warmup: Micros) {
        // So many by the end of this epoch, less those by its beginning: parts of an install add up.
        let earned = |at: Micros| u128::from(at.0) * u128::from(self.installs_per_s) / 1_000_000;
        let installs = u32::try_from(earned(end) - earned(self.begin)).unwrap_or(u32::MAX);
        let epoch = Epoch {
            begin: self.begin,
            end,
            installs,
            counts: self.begin >= warmup,
            gone: &self.gone,
            moved: &self.moved,
        };
        for entrant in &mut self.entrants {
            entrant.contender.epoch(&epoch);
        }
        if let Some(ewma) = &mut self.ewma {
            ewma.epoch(&epoch);
        }
        self.gone.clear();
        core::mem::swap(&mut self.gone, &mut self.gone_next);
        self.moved.clear();
        self.begin = end;
    }
}
