//! How close the planner comes to knowing the future: synthetic traffic, a table far too small for it, and an oracle that
//! sees each epoch's bytes in advance. Also how many installs that takes.

mod dice;

use std::collections::{BTreeMap, BTreeSet};

use policies::planner::{Capacity, Planner, Sample, Settings};
use policies::{Micros, Rate};

use dice::Dice;

const EPOCH: Micros = Micros::from_millis(500);
const EPOCHS: u64 = 400;
const WARM_UP: u64 = 100;

/// Bytes of each megaflow in each epoch it lives in.
struct Traffic {
    epochs: Vec<Vec<(u32, u64)>>,
}

/// Arrivals at random; sizes Pareto-distributed with an index of 1.1, as flow sizes on the Internet roughly are; one rate
/// for a megaflow's whole life, spread evenly over two orders of magnitude.
fn steady(seed: u64, arrivals_per_epoch: u64) -> Traffic {
    let mut dice = Dice(seed);
    let mut epochs = vec![Vec::new(); EPOCHS as usize];
    for id in 0..(EPOCHS * arrivals_per_epoch) as u32 {
        let begin = dice.fraction() * EPOCHS as f64;
        let size = (200_000.0 * dice.fraction().powf(-1.0 / 1.1)).min(1e8);
        let per_epoch = 2_000.0 * 100_f64.powf(dice.fraction());
        let end = begin + size / per_epoch;
        for epoch in begin as u64..=(end as u64).min(EPOCHS - 1) {
            let share = end.min(epoch as f64 + 1.0) - begin.max(epoch as f64);
            epochs[epoch as usize].push((id, (share * per_epoch) as u64));
        }
    }
    Traffic { epochs }
}

/// Long-lived megaflows that are on for a while and then silent for a longer one.
fn bursts(seed: u64, flows: u32) -> Traffic {
    let mut dice = Dice(seed);
    let mut epochs = vec![Vec::new(); EPOCHS as usize];
    for id in 0..flows {
        let per_epoch = 1_500.0 * 1_000_f64.powf(dice.fraction());
        let mut at = -4.0 * dice.fraction().ln();
        while at < EPOCHS as f64 {
            let end = at - 1.6 * dice.fraction().ln();
            for epoch in at as u64..=(end as u64).min(EPOCHS - 1) {
                let share = end.min(epoch as f64 + 1.0) - at.max(epoch as f64);
                epochs[epoch as usize].push((id, (share * per_epoch) as u64));
            }
            at = end - 4.0 * dice.fraction().ln();
        }
    }
    for epoch in &mut epochs {
        // A megaflow may burst twice in an epoch.
        let mut sums = BTreeMap::<u32, u64>::new();
        epoch.iter().for_each(|(id, bytes)| *sums.entry(*id).or_default() += bytes);
        *epoch = sums.into_iter().collect();
    }
    Traffic { epochs }
}

#[derive(Default)]
struct Outcome {
    bytes: u64,
    installs: u64,
}

/// Keeps the best of those in hardware and the best few others, knowing the epoch's bytes.
fn oracle(traffic: &Traffic, entries: usize, installs_per_epoch: usize) -> Outcome {
    let mut placed = BTreeSet::new();
    let mut outcome = Outcome::default();
    for (number, epoch) in traffic.epochs.iter().enumerate() {
        let mut ranked: Vec<(u64, u32)> = epoch.iter().map(|(id, bytes)| (*bytes, *id)).collect();
        ranked.sort_unstable_by(|a, b| b.cmp(a));
        let mut fresh = 0;
        let mut kept = Vec::new();
        for (bytes, id) in ranked {
            let known = placed.contains(&id);
            if kept.len() == entries || (!known && fresh == installs_per_epoch) {
                continue;
            }
            fresh += usize::from(!known);
            kept.push(id);
            if number as u64 >= WARM_UP {
                outcome.bytes += bytes;
                outcome.installs += u64::from(!known);
            }
        }
        placed = kept.into_iter().collect();
    }
    outcome
}

/// The planner, which decides for an epoch from the counters up to its start.
fn planned(traffic: &Traffic, settings: Settings) -> Outcome {
    let mut planner = Planner::new(settings);
    let mut placed = BTreeSet::new();
    let mut last_seen = BTreeMap::<u32, u64>::new();
    let mut outcome = Outcome::default();
    for (number, epoch) in traffic.epochs.iter().enumerate() {
        let now = Micros(EPOCH.0 * (number as u64 + 1));
        // Twice: demotions are confirmed at once and make room within the same epoch.
        for _ in 0..2 {
            let plan = planner.plan(now);
            for id in plan.demote {
                planner.unplaced(now, id);
                placed.remove(&id);
            }
            for id in plan.promote {
                planner.placed(now, id);
                placed.insert(id);
                outcome.installs += u64::from(number as u64 >= WARM_UP);
            }
        }
        let now = now.plus(EPOCH);
        for (id, bytes) in epoch {
            if number as u64 >= WARM_UP && placed.contains(id) {
                outcome.bytes += bytes;
            }
            last_seen.insert(*id, number as u64);
            planner.observe(now, *id, Sample { packets: bytes / 1_000 + 1, bytes: *bytes, over: EPOCH });
        }
        // Open vSwitch forgets a megaflow that was idle for ten seconds.
        let idle: Vec<u32> =
            last_seen.iter().filter(|(_, seen)| **seen + 20 < number as u64).map(|(id, _)| *id).collect();
        for id in idle {
            last_seen.remove(&id);
            placed.remove(&id);
            planner.forget(id);
        }
    }
    outcome
}

fn settings(entries: u32) -> Settings {
    Settings {
        capacity: Capacity::Fixed(entries),
        min_rate: Rate::BytesPerSecond(1_000),
        installs_per_s: 100,
        install_burst: 50,
        ..Settings::default()
    }
}

/// Share of the oracle's bytes, and installs, in percent of the oracle's.
fn compared(traffic: &Traffic, entries: u32) -> (u64, u64) {
    let planner = planned(traffic, settings(entries));
    let oracle = oracle(traffic, entries as usize, 50);
    let percent = |a: u64, b: u64| a * 100 / b;
    let result = (percent(planner.bytes, oracle.bytes), percent(planner.installs, oracle.installs));
    println!("{entries} entries: {}% of the oracle's bytes with {}% of its installs", result.0, result.1);
    result
}

#[test]
fn steady_megaflows_are_found_with_fewer_installs_than_the_oracle_needs() {
    let traffic = steady(0x9e37_79b9_7f4a_7c15, 8);
    for (entries, bytes, installs) in [(64, 88, 95), (256, 92, 95)] {
        let (share, cost) = compared(&traffic, entries);
        assert!(share >= bytes, "{share}% of the bytes");
        assert!(cost <= installs, "{cost}% of the installs");
    }
}

#[test]
fn bursts_do_not_make_the_table_churn() {
    let traffic = bursts(0x9e37_79b9_7f4a_7c15, 1_500);
    for (entries, bytes, installs) in [(64, 60, 80), (256, 80, 105)] {
        let (share, cost) = compared(&traffic, entries);
        assert!(share >= bytes, "{share}% of the bytes");
        assert!(cost <= installs, "{cost}% of the installs");
    }
}
