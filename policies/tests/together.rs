//! Readings and ends that are told together come to the same as one by one.

use policies::Micros;
use policies::planner::{Capacity, Planner, Sample, Settings};

const FLOWS: u32 = 300;
const EPOCH: Micros = Micros::from_millis(500);

/// A repeatable stream of numbers; xorshift64.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }

    /// Some of the flows, in any order; some of them more than once.
    fn some(&mut self, most: u64) -> Vec<u32> {
        (0..self.below(most)).map(|_| self.below(u64::from(FLOWS)) as u32).collect()
    }

    fn sample(&mut self) -> Sample {
        // Now and then nothing, and now and then a baseline.
        let packets = self.below(4) * self.below(1_000);
        let over = if self.below(10) == 0 { Micros::ZERO } else { EPOCH };
        Sample { packets, bytes: packets * (60 + self.below(1_440)), over }
    }
}

#[test]
fn readings_and_ends_told_together_come_to_the_same_plans_as_one_by_one() {
    let settings = Settings { capacity: Capacity::Fixed(40), installs_per_s: 50, ..Settings::default() };
    let (mut single, mut together) = (Planner::new(settings), Planner::new(settings));
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let (mut now, mut changes) = (Micros::ZERO, 0);
    for _ in 0..400 {
        now = now.plus(EPOCH);
        let gone = dice.some(80);
        gone.iter().for_each(|id| single.forget(*id));
        together.forget_all(&gone);
        let readings: Vec<(u32, Sample)> = dice.some(200).into_iter().map(|id| (id, dice.sample())).collect();
        readings.iter().for_each(|(id, sample)| single.observe(now, *id, *sample));
        together.observe_all(now, &readings);
        let plan = single.plan(now);
        assert_eq!(together.plan(now), plan);
        for planner in [&mut single, &mut together] {
            plan.demote.iter().for_each(|id| planner.unplaced(now, *id));
            plan.promote.iter().for_each(|id| planner.placed(now, *id));
        }
        changes += plan.demote.len() + plan.promote.len();
        assert_eq!(together.counts(), single.counts());
        for id in 0..FLOWS {
            assert_eq!(together.explain(now, id), single.explain(now, id));
        }
    }
    assert!(changes > 1_000, "{changes}");
}
