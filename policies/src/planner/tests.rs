//! Facts about the planner, stated through its public methods only.

use super::*;
use crate::{RuleId, Weight};

const SECOND: Micros = Micros::from_secs(1);

fn at(ms: u64) -> Micros {
    Micros::from_millis(ms)
}

/// Thresholds that everything passes, so that a test is about one thing.
fn open() -> Settings {
    Settings {
        min_rate: Rate::BytesPerSecond(0),
        min_age: Micros::ZERO,
        min_residency: Micros::ZERO,
        hysteresis_percent: 0,
        ..Settings::default()
    }
}

fn bytes(bytes: u64) -> Sample {
    Sample { packets: bytes.div_ceil(1_000), bytes, over: SECOND }
}

/// A planner in which megaflow `id` moved `ids[id]` kilobytes in the second before 1 s.
fn with_flows(settings: Settings, kilobytes: &[u64]) -> Planner<u32> {
    let mut planner = Planner::new(settings);
    for (id, kilobytes) in kilobytes.iter().enumerate() {
        planner.observe(SECOND, id as u32, bytes(kilobytes * 1_000));
    }
    planner
}

/// Answers a plan as a NIC that takes everything does.
fn confirm(planner: &mut Planner<u32>, now: Micros, plan: &Plan<u32>) {
    for id in &plan.demote {
        planner.unplaced(now, *id);
    }
    for id in &plan.promote {
        planner.placed(now, *id);
    }
}

#[test]
fn free_entries_go_to_those_that_save_most() {
    let mut planner = with_flows(Settings { capacity: Capacity::Fixed(2), ..open() }, &[10, 30, 20, 5]);
    let plan = planner.plan(SECOND);
    assert_eq!(plan.promote, [1, 2]);
    assert_eq!(plan.demote, []);
    assert!(planner.plan(SECOND).is_empty(), "what is in flight holds its entry");
}

#[test]
fn a_megaflow_in_flight_is_not_planned_again() {
    let mut planner = with_flows(open(), &[10]);
    assert_eq!(planner.plan(SECOND).promote, [0]);
    planner.observe(at(1_500), 0, bytes(1_000_000));
    assert!(planner.plan(at(1_500)).is_empty());
    assert_eq!(planner.explain(at(1_500), 0), Explanation::Promoting { since: SECOND });
}

#[test]
fn rules_decide_before_rates_do() {
    let mut planner = with_flows(Settings { capacity: Capacity::Fixed(1), ..open() }, &[100, 1, 50]);
    planner.set_verdict(SECOND, 0, Verdict::Software(Because::Rule(RuleId(3))));
    planner.set_verdict(SECOND, 1, Verdict::Hardware(Some(RuleId(4))));
    assert_eq!(planner.plan(SECOND).promote, [1]);
    assert_eq!(planner.explain(SECOND, 0), Explanation::Policy(Because::Rule(RuleId(3))));
}

#[test]
fn weight_counts_as_much_as_traffic() {
    let mut planner = with_flows(Settings { capacity: Capacity::Fixed(1), ..open() }, &[10, 15]);
    let terms = Terms { weight: Weight::from_thousandths(2_000), ..Terms::default() };
    planner.set_verdict(SECOND, 0, Verdict::Auto(terms));
    assert_eq!(planner.plan(SECOND).promote, [0]);
}
