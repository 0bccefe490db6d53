//! An hour of traffic that stays as it is, seen from outside: nothing flaps.

mod dice;

use std::collections::BTreeMap;

use policies::Micros;
use policies::planner::{Capacity, Planner, Sample, Settings};

use dice::Dice;

const HOUR: Micros = Micros::from_secs(3_600);
const FLOWS: u32 = 60;
const ENTRIES: u32 = 12;
const SEEDS: [u64; 3] = [0x9e37_79b9_7f4a_7c15, 0xbf58_476d_1ce4_e5b9, 0x94d0_49bb_1331_11eb];

/// With a mean of 1.
fn exponential(dice: &mut Dice) -> f64 {
    -dice.fraction().ln()
}

/// What kind of steady traffic.
#[derive(Clone, Copy)]
struct Kind {
    /// Flows that burst and pause.
    pausing: u32,
    /// By how much a reading differs from a flow's rate at most, as a share of it.
    jitter: f64,
}

/// Half of the flows pause, and every reading is up to a third off.
const UNRULY: Kind = Kind { pausing: FLOWS / 2, jitter: 1.0 / 3.0 };
/// Readings of equally fast flows differ by less than the hysteresis: 1.1 / 0.9 is less than 1.25.
const CALM: Kind = Kind { pausing: 0, jitter: 0.1 };

/// A flow that goes on for the whole hour.
struct Steady {
    bytes_per_s: f64,
    /// When it goes silent, or sends again; never for one without pauses.
    turns: Micros,
    sends: bool,
}

/// Rates over two orders of magnitude. Some never pause; the others burst for 0.8 s and pause for 2 s, on average, at
/// random.
fn flows(dice: &mut Dice, pausing: u32) -> Vec<Steady> {
    let flow = |number| {
        let bytes_per_s = 20_000.0 * 100_f64.powf(dice.fraction());
        let bursts = number < pausing;
        let turns = if bursts { Micros((exponential(dice) * 2e6) as u64) } else { Micros(u64::MAX) };
        Steady { bytes_per_s, turns, sends: !bursts }
    };
    (0..FLOWS).map(flow).collect()
}

impl Steady {
    /// What it moves in an epoch: its rate, give or take the jitter.
    fn moves(&mut self, dice: &mut Dice, jitter: f64, now: Micros, epoch: Micros) -> Option<Sample> {
        while self.turns <= now {
            self.sends = !self.sends;
            let mean = if self.sends { 0.8e6 } else { 2e6 };
            self.turns = self.turns.plus(Micros((exponential(dice) * mean) as u64 + 1));
        }
        let bytes =
            (self.bytes_per_s * (1.0 + jitter * (2.0 * dice.fraction() - 1.0)) * epoch.0 as f64 / 1e6) as u64;
        self.sends.then_some(Sample { packets: bytes / 1_000 + 1, bytes, over: epoch })
    }
}

/// When each flow was given an entry, and when it lost it.
type Moves = BTreeMap<u32, Vec<(Micros, bool)>>;

/// An hour of the planner, whose plans are carried out and confirmed at once.
fn an_hour(seed: u64, kind: Kind, epoch: Micros, min_residency: Micros) -> Moves {
    let settings = Settings { capacity: Capacity::Fixed(ENTRIES), min_residency, ..Settings::default() };
    let mut planner = Planner::new(settings);
    let mut dice = Dice(seed);
    let mut flows = flows(&mut dice, kind.pausing);
    let mut moves = Moves::new();
    let mut now = Micros::ZERO;
    while now < HOUR {
        now = now.plus(epoch);
        for (flow, id) in flows.iter_mut().zip(0..) {
            if let Some(sample) = flow.moves(&mut dice, kind.jitter, now, epoch) {
                planner.observe(now, id, sample);
            }
        }
        // Demotions that are confirmed let the next plan give their entries.
        loop {
            let plan = planner.plan(now);
            if plan.is_empty() {
                break;
            }
            for id in plan.demote {
                planner.unplaced(now, id);
                moves.entry(id).or_default().push((now, false));
            }
            for id in plan.promote {
                planner.placed(now, id);
                moves.entry(id).or_default().push((now, true));
            }
        }
    }
    moves
}

/// Times that a flow was placed, or evicted, less than `span` after it was last.
fn repeated_within(moves: &Moves, span: Micros) -> usize {
    let repeated = |moves: &Vec<(Micros, bool)>, kind: bool| {
        let times: Vec<Micros> = moves.iter().filter(|it| it.1 == kind).map(|it| it.0).collect();
        times.windows(2).filter(|pair| pair[1].since(pair[0]) < span).count()
    };
    moves.values().map(|moves| repeated(moves, true) + repeated(moves, false)).sum()
}

/// Entries that were taken from a flow less than `span` after it got them.
fn lost_within(moves: &Moves, span: Micros) -> usize {
    let lost = |pair: &&[(Micros, bool)]| pair[0].1 && !pair[1].1 && pair[1].0.since(pair[0].0) < span;
    moves.values().map(|moves| moves.windows(2).filter(lost).count()).sum()
}

fn placements(moves: &Moves) -> usize {
    moves.values().flatten().filter(|it| it.1).count()
}

/// Holds an hour of each seed against a residency, with and without it in force.
fn nothing_repeats_within(residency: Micros, epoch: Micros) {
    let mut without = 0;
    for seed in SEEDS {
        let moves = an_hour(seed, UNRULY, epoch, residency);
        let placed = placements(&moves);
        let freely = an_hour(seed, UNRULY, epoch, Micros::ZERO);
        without += repeated_within(&freely, residency);
        println!(
            "seed {seed:x}: {placed} placements in an hour with a residency of {residency}; without one {}, and {} times a \
             flow came, or went, again within that time",
            placements(&freely),
            repeated_within(&freely, residency)
        );
        assert!(placed > 2 * ENTRIES as usize, "{placed} placements: nothing moved that could have flapped");
        assert_eq!(repeated_within(&moves, residency), 0, "seed {seed:x}");
        assert_eq!(lost_within(&moves, residency), 0, "seed {seed:x}");
    }
    assert!(without > 0, "this traffic would not flap without a residency either");
}

#[test]
fn in_a_steady_hour_no_flow_is_placed_or_evicted_twice_within_the_residency_of_250_ms() {
    nothing_repeats_within(Settings::default().min_residency, Micros::from_millis(100));
}

#[test]
fn in_a_steady_hour_no_flow_is_placed_or_evicted_twice_within_a_residency_of_5_s() {
    nothing_repeats_within(Micros::from_secs(5), Micros::from_millis(500));
}

#[test]
fn rates_that_jitter_by_less_than_the_hysteresis_have_no_flow_placed_twice_in_an_hour() {
    for seed in SEEDS {
        let moves = an_hour(seed, CALM, Micros::from_millis(500), Settings::default().min_residency);
        let (placed, again) = (placements(&moves), repeated_within(&moves, HOUR));
        println!(
            "seed {seed:x}: {placed} placements in an hour, {again} of a flow that had been placed before"
        );
        assert!(placed >= ENTRIES as usize, "the table is full");
        assert_eq!(again, 0, "seed {seed:x}");
    }
}
