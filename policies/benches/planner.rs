//! What a round of the planner costs: `flows` known, one in a hundred moving, 1024 entries.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use policies::Micros;
use policies::planner::{Capacity, Plan, Planner, Sample, Settings};

const EPOCH: Micros = Micros::from_millis(500);

/// A repeatable stream of numbers; xorshift64.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

fn round(planner: &mut Planner<u32>, dice: &mut Dice, now: Micros, flows: u32, moving: u32) -> Plan<u32> {
    for _ in 0..moving {
        let id = (dice.roll() % u64::from(flows)) as u32;
        let bytes = 1 << (dice.roll() % 28);
        planner.observe(now, id, Sample { packets: bytes / 1_000 + 1, bytes, over: EPOCH });
    }
    let plan = planner.plan(now);
    for id in &plan.demote {
        planner.unplaced(now, *id);
    }
    for id in &plan.promote {
        planner.placed(now, *id);
    }
    plan
}

/// A planner that has run until its table is full and its line is long.
fn settled(flows: u32) -> (Planner<u32>, Dice, Micros) {
    let settings = Settings { capacity: Capacity::Fixed(1_024), ..Settings::default() };
    let mut planner = Planner::new(settings);
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let mut now = Micros::from_secs(1);
    for id in 0..flows {
        planner.observe(now, id, Sample::default());
    }
    for _ in 0..60 {
        now = now.plus(EPOCH);
        round(&mut planner, &mut dice, now, flows, flows / 100);
    }
    (planner, dice, now)
}

fn rounds(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("planner_round");
    for flows in [10_000_u32, 100_000, 1_000_000] {
        let (mut planner, mut dice, mut now) = settled(flows);
        group.bench_function(BenchmarkId::new("one_percent_moves", flows), |bencher| {
            bencher.iter(|| {
                now = now.plus(EPOCH);
                black_box(round(&mut planner, &mut dice, now, flows, flows / 100))
            });
        });
        group.bench_function(BenchmarkId::new("a_thousand_move", flows), |bencher| {
            bencher.iter(|| {
                now = now.plus(EPOCH);
                black_box(round(&mut planner, &mut dice, now, flows, 1_000))
            });
        });
        group.bench_function(BenchmarkId::new("nothing_moves", flows), |bencher| {
            bencher.iter(|| {
                now = now.plus(Micros(10));
                black_box(planner.plan(now))
            });
        });
    }
    group.finish();
}

criterion_group!(benches, rounds);
criterion_main!(benches);
