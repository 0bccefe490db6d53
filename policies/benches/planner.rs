//! What an epoch of the planner costs, in time and in allocations: `flows` known, some of them moving, 1,024 entries.
//!
//! Its peer is a planner that looks at every flow in every epoch: it fades all rates, sorts all flows by them, and
//! gives the entries to the first. Its flows lie in a vector and go by their place in it, which is the least that it can
//! cost; it has no residency, no price of installs, no tenants and no budget.
//!
//! Times are the thread's CPU time, so that other work of the machine is not in them. Everything is allocated through a
//! counting allocator: the times of both have the counting in them.

use std::alloc::System;
use std::hint::black_box;
use std::time::Duration;

use criterion::measurement::{Measurement, ValueFormatter, WallTime};
use criterion::{BenchmarkId, Criterion, SamplingMode};
use policies::Micros;
use policies::planner::{Capacity, Planner, Sample, Settings};
use rustix::time::{ClockId, clock_gettime};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const EPOCH: Micros = Micros::from_millis(500);
const ENTRIES: u32 = 1_024;
const FLOWS: [u32; 3] = [10_000, 100_000, 1_000_000];
/// Epochs until the table is full and the line is long; and until flows that other epochs moved have been silent for long.
const SETTLED_AFTER: u32 = 60;
/// Epochs whose allocations are counted.
const COUNTED: usize = 20;

/// The CPU time of the thread that measures.
struct CpuTime;

fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

impl Measurement for CpuTime {
    type Intermediate = Duration;
    type Value = Duration;

    fn start(&self) -> Duration {
        cpu_time()
    }

    fn end(&self, start: Duration) -> Duration {
        cpu_time() - start
    }

    fn add(&self, a: &Duration, b: &Duration) -> Duration {
        *a + *b
    }

    fn zero(&self) -> Duration {
        Duration::ZERO
    }

    fn to_f64(&self, value: &Duration) -> f64 {
        value.as_nanos() as f64
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        WallTime.formatter()
    }
}

/// A repeatable stream of numbers; xorshift64.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A flow that moves, and the bytes that it moves.
    fn moved(&mut self, flows: u32) -> (u32, u64) {
        let flow = (self.roll() % u64::from(flows)) as u32;
        (flow, 1 << (self.roll() % 28))
    }
}

/// Whoever decides about flows from what they moved.
trait Decides {
    /// One that has known so many flows for a while.
    fn settled(flows: u32) -> Self;
    /// An epoch in which so many flows move. Returns how many entries changed hands.
    fn epoch(&mut self, moving: u32) -> usize;
}

/// The planner, on a NIC that takes what it is given.
struct Ours {
    planner: Planner<u32>,
    dice: Dice,
    now: Micros,
    flows: u32,
}

impl Decides for Ours {
    fn settled(flows: u32) -> Self {
        let settings = Settings { capacity: Capacity::Fixed(ENTRIES), ..Settings::default() };
        let mut planner = Planner::new(settings);
        let now = Micros::from_secs(1);
        for id in 0..flows {
            planner.observe(now, id, Sample::default());
        }
        let mut ours = Self { planner, dice: Dice(0x9e37_79b9_7f4a_7c15), now, flows };
        for _ in 0..SETTLED_AFTER {
            ours.epoch(flows / 100);
        }
        ours
    }

    fn epoch(&mut self, moving: u32) -> usize {
        self.now = self.now.plus(EPOCH);
        for _ in 0..moving {
            let (flow, bytes) = self.dice.moved(self.flows);
            self.planner.observe(self.now, flow, Sample { packets: bytes / 1_000 + 1, bytes, over: EPOCH });
        }
        let plan = self.planner.plan(self.now);
        for id in &plan.demote {
            self.planner.unplaced(self.now, *id);
        }
        for id in &plan.promote {
            self.planner.placed(self.now, *id);
        }
        plan.demote.len() + plan.promote.len()
    }
}

/// The peer.
struct SortsAll {
    /// Bytes of late, by flow.
    rates: Vec<u64>,
    placed: Vec<bool>,
    dice: Dice,
}

impl Decides for SortsAll {
    fn settled(flows: u32) -> Self {
        let (rates, placed) = (vec![0; flows as usize], vec![false; flows as usize]);
        let mut sorts = Self { rates, placed, dice: Dice(0x9e37_79b9_7f4a_7c15) };
        for _ in 0..SETTLED_AFTER {
            sorts.epoch(flows / 100);
        }
        sorts
    }

    fn epoch(&mut self, moving: u32) -> usize {
        for _ in 0..moving {
            let (flow, bytes) = self.dice.moved(self.rates.len() as u32);
            self.rates[flow as usize] += bytes;
        }
        self.rates.iter_mut().for_each(|rate| *rate /= 2);
        let mut ranked: Vec<(u64, u32)> = self.rates.iter().copied().zip(0..).collect();
        ranked.sort_unstable_by(|a, b| b.cmp(a));
        let mut changed = 0;
        for (place, (_, flow)) in ranked.iter().enumerate() {
            let wanted = place < ENTRIES as usize;
            let placed = std::mem::replace(&mut self.placed[*flow as usize], wanted);
            changed += usize::from(placed != wanted);
        }
        changed
    }
}

/// How many flows move, and the name of that.
fn loads(flows: u32) -> [(&'static str, u32); 3] {
    [("one_percent_moves", flows / 100), ("a_thousandth_moves", flows / 1_000), ("nothing_moves", 0)]
}

/// The time of an epoch.
fn time<D: Decides>(criterion: &mut Criterion<CpuTime>, name: &str) {
    let mut group = criterion.benchmark_group(name);
    group.sample_size(20).sampling_mode(SamplingMode::Flat);
    for flows in FLOWS {
        let mut decides = D::settled(flows);
        for (load, moving) in loads(flows) {
            group.bench_function(BenchmarkId::new(load, flows), |bencher| {
                bencher.iter(|| black_box(decides.epoch(moving)));
            });
        }
    }
    group.finish();
}

/// The allocations of an epoch: of those counted, the median and the most.
fn allocations<D: Decides>(name: &str) {
    for flows in FLOWS {
        let mut decides = D::settled(flows);
        for (load, moving) in loads(flows) {
            for _ in 0..SETTLED_AFTER {
                decides.epoch(moving);
            }
            let mut counts = [(0, 0); COUNTED];
            for count in &mut counts {
                let region = Region::new(ALLOCATOR);
                black_box(decides.epoch(moving));
                let change = region.change();
                // Growth of what was allocated before is in both.
                *count = (change.allocations + change.reallocations, change.bytes_allocated);
            }
            counts.sort_unstable();
            let ((calls, bytes), (most, most_bytes)) = (counts[COUNTED / 2], counts[COUNTED - 1]);
            println!(
                "{name}/{load}/{flows}: {calls} allocations of {bytes} bytes; at most {most} of {most_bytes} bytes"
            );
        }
    }
}

fn main() {
    let mut criterion = Criterion::default().with_measurement(CpuTime).configure_from_args();
    time::<Ours>(&mut criterion, "planner_epoch");
    time::<SortsAll>(&mut criterion, "sorts_all_epoch");
    criterion.final_summary();
    // Not when it is only tried whether everything runs.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    println!("Allocations of an epoch, of {COUNTED} epochs:");
    allocations::<Ours>("planner_epoch");
    allocations::<SortsAll>("sorts_all_epoch");
}
