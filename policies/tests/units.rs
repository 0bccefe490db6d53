//! What must hold of units, the ways of recirculated packets: given an entry each or none, in the order of packets, and
//! deprived of them in reverse.

mod graph;

use policies::planner::{
    Because, Capacity, Explanation, Limit, Path, Plan, Planner, Refusal, Sample, Settings, Verdict,
    WaitingFor,
};
use policies::{Micros, Rate, RuleId};

const SECOND: Micros = Micros::from_secs(1);

fn at(ms: u64) -> Micros {
    Micros::from_millis(ms)
}

fn open() -> Settings {
    Settings {
        min_rate: Rate::BytesPerSecond(0),
        min_residency: Micros::ZERO,
        hysteresis_percent: 0,
        half_life: Micros::from_secs(1_000),
        install_cost: 0,
        ..Settings::default()
    }
}

fn kilobytes(count: u64) -> Sample {
    Sample { packets: count, bytes: count * 1_000, over: SECOND }
}

fn first() -> Path<u32> {
    Path { before: None, goes_on: true }
}

fn middle(before: &[u32]) -> Path<u32> {
    Path { before: Some(before.to_vec()), goes_on: true }
}

fn last(before: &[u32]) -> Path<u32> {
    Path { before: Some(before.to_vec()), goes_on: false }
}

/// A planner with megaflows that moved so many kilobytes in the second before 1 s.
fn planner(settings: Settings, flows: &[(u32, u64, Path<u32>)]) -> Planner<u32> {
    let mut planner = Planner::new(settings);
    for (id, moved, path) in flows {
        planner.set_path(SECOND, *id, path.clone());
        planner.observe(SECOND, *id, kilobytes(*moved));
    }
    planner
}

fn confirm(planner: &mut Planner<u32>, now: Micros, plan: &Plan<u32>) {
    for id in &plan.demote {
        planner.unplaced(now, *id);
    }
    for id in &plan.promote {
        planner.placed(now, *id);
    }
}

/// What is promoted and demoted, step by step, when everything is confirmed, until there is nothing to do.
fn steps(planner: &mut Planner<u32>, now: Micros) -> Vec<(Vec<u32>, Vec<u32>)> {
    let mut steps = Vec::new();
    loop {
        let plan = planner.plan(now);
        if plan.is_empty() {
            return steps;
        }
        confirm(planner, now, &plan);
        steps.push((plan.promote, plan.demote));
    }
}

/// A first one, a middle one and a last one.
fn three(settings: Settings) -> Planner<u32> {
    planner(settings, &[(0, 500, first()), (1, 500, middle(&[0])), (2, 300, last(&[1]))])
}

#[test]
fn a_unit_is_promoted_in_the_order_of_packets_each_when_the_one_before_is_confirmed() {
    let mut planner = three(open());
    assert_eq!(planner.plan(SECOND).promote, [0]);
    assert_eq!(planner.plan(SECOND).promote, [], "not before it is confirmed");
    assert_eq!(planner.explain(SECOND, 2), Explanation::Turn { since: SECOND });
    planner.placed(SECOND, 0);
    assert!(planner.has_turns());
    assert_eq!(planner.plan(SECOND).promote, [1]);
    planner.placed(SECOND, 1);
    assert_eq!(planner.plan(SECOND).promote, [2]);
    planner.placed(SECOND, 2);
    assert!(!planner.has_turns());
    assert!(planner.plan(SECOND).is_empty());
}

#[test]
fn a_unit_is_demoted_in_reverse() {
    let mut planner = three(open());
    steps(&mut planner, SECOND);
    planner.set_verdict(at(1_100), 2, Verdict::Software(Because::Default));
    let expected = [(vec![], vec![2]), (vec![], vec![1]), (vec![], vec![0])];
    assert_eq!(steps(&mut planner, at(1_100)), expected);
}

#[test]
fn a_unit_goes_in_reverse_too_when_its_first_may_not_stay() {
    let mut planner = three(open());
    steps(&mut planner, SECOND);
    planner.set_verdict(at(1_100), 0, Verdict::Software(Because::Rule(RuleId(1))));
    let expected = [(vec![], vec![2]), (vec![], vec![1]), (vec![], vec![0])];
    assert_eq!(steps(&mut planner, at(1_100)), expected);
    assert_eq!(planner.explain(at(1_100), 2), Explanation::NoWay);
    assert!(steps(&mut planner, at(1_200)).is_empty());
}

#[test]
fn megaflows_on_the_way_to_others_do_not_compete() {
    let mut planner = planner(open(), &[(0, 1_000_000, first()), (1, 500, middle(&[0]))]);
    assert!(planner.plan(SECOND).is_empty());
    assert_eq!(planner.explain(SECOND, 0), Explanation::OnTheWay { after: 1 });
    assert_eq!(planner.counts().waiting, 0);
}

#[test]
fn a_table_with_too_few_entries_for_a_unit_gets_none_of_it() {
    let settings = Settings { capacity: Capacity::Fixed(2), ..open() };
    let mut planner = three(settings);
    planner.observe(SECOND, 7, kilobytes(1));
    assert_eq!(planner.plan(SECOND).promote, [7], "what is free is for those that fit");
    let waiting = Explanation::Waiting { rank: 1, of: 1, waiting_for: WaitingFor::Entry };
    assert_eq!(planner.explain(SECOND, 2), waiting);
}

#[test]
fn what_units_share_is_counted_once() {
    let settings = Settings { capacity: Capacity::Fixed(4), ..open() };
    let mut planner = planner(
        settings,
        &[(0, 900, first()), (1, 300, last(&[0])), (2, 200, last(&[0])), (3, 100, last(&[0]))],
    );
    assert_eq!(steps(&mut planner, SECOND), [(vec![0], vec![]), (vec![1, 2, 3], vec![])]);
    // The first stays for as long as there is one that needs it.
    planner.forget(1);
    planner.set_verdict(at(1_100), 2, Verdict::Software(Because::Default));
    assert_eq!(steps(&mut planner, at(1_100)), [(vec![], vec![2])]);
    planner.set_verdict(at(1_200), 3, Verdict::Software(Because::Default));
    assert_eq!(steps(&mut planner, at(1_200)), [(vec![], vec![3]), (vec![], vec![0])]);
}

#[test]
fn a_unit_ranks_by_what_each_of_its_new_entries_saves() {
    let settings = Settings { capacity: Capacity::Fixed(2), ..open() };
    let mut planner = planner(settings, &[(0, 900, first()), (1, 300, last(&[0]))]);
    planner.observe(SECOND, 5, kilobytes(160));
    planner.observe(SECOND, 6, kilobytes(155));
    assert_eq!(planner.plan(SECOND).promote, [5, 6], "160 and 155 are more than twice 150");
}

#[test]
fn a_unit_takes_as_many_entries_of_weaker_ones_as_it_needs() {
    let settings = Settings { capacity: Capacity::Fixed(3), ..open() };
    let mut planner = Planner::new(settings);
    for (id, moved) in [(5, 100), (6, 90), (7, 500)] {
        planner.observe(SECOND, id, kilobytes(moved));
    }
    steps(&mut planner, SECOND);
    planner.set_path(SECOND, 0, first());
    planner.set_path(SECOND, 1, last(&[0]));
    planner.observe(SECOND, 1, kilobytes(300));
    assert_eq!(steps(&mut planner, SECOND), [(vec![], vec![6, 5]), (vec![0], vec![]), (vec![1], vec![])]);
}

#[test]
fn a_unit_that_could_take_one_entry_of_two_takes_none() {
    let settings = Settings { capacity: Capacity::Fixed(2), ..open() };
    let mut planner = Planner::new(settings);
    planner.observe(SECOND, 5, kilobytes(100));
    planner.observe(SECOND, 6, kilobytes(500));
    steps(&mut planner, SECOND);
    planner.set_path(SECOND, 0, first());
    planner.set_path(SECOND, 1, last(&[0]));
    planner.observe(SECOND, 1, kilobytes(300));
    assert!(planner.plan(SECOND).is_empty());
}

#[test]
fn a_refusal_of_the_last_gives_up_what_was_promoted_for_it() {
    let mut planner = three(open());
    for id in [0, 1] {
        assert_eq!(planner.plan(SECOND).promote, [id]);
        planner.placed(SECOND, id);
    }
    assert_eq!(planner.plan(SECOND).promote, [2]);
    planner.refused(SECOND, 2, Refusal::Shape);
    assert_eq!(steps(&mut planner, SECOND), [(vec![], vec![1]), (vec![], vec![0])]);
}

#[test]
fn a_refusal_of_the_first_keeps_the_rest_out_until_it_may_be_tried_again() {
    let mut planner = three(open());
    assert_eq!(planner.plan(SECOND).promote, [0]);
    planner.refused(SECOND, 0, Refusal::Transient);
    assert!(planner.plan(SECOND).is_empty());
    assert_eq!((planner.counts().promoting, planner.has_turns()), (0, false));
    assert_eq!(planner.explain(SECOND, 2), Explanation::NoWay);
    assert_eq!(planner.plan(at(1_999)).promote, []);
    planner.observe(at(2_000), 2, kilobytes(300));
    assert_eq!(planner.plan(at(2_000)).promote, [0]);
}

#[test]
fn a_first_that_open_vswitch_changed_is_placed_again_and_the_rest_stays() {
    let mut planner = three(open());
    steps(&mut planner, SECOND);
    planner.unplaced(at(1_100), 0);
    assert_eq!(steps(&mut planner, at(1_100)), [(vec![0], vec![])]);
    assert_eq!(planner.counts().placed, 3);
}

#[test]
fn a_unit_whose_first_is_gone_is_dissolved_from_its_end() {
    let mut planner = three(open());
    steps(&mut planner, SECOND);
    planner.forget(0);
    assert_eq!(steps(&mut planner, at(1_100)), [(vec![], vec![2]), (vec![], vec![1])]);
}

#[test]
fn one_that_is_reached_another_way_stays_when_a_first_is_gone() {
    let mut planner = planner(open(), &[(0, 100, first()), (1, 200, first()), (2, 300, last(&[0, 1]))]);
    let plan = planner.plan(SECOND);
    assert_eq!(plan.promote, [1], "the faster of the two");
    confirm(&mut planner, SECOND, &plan);
    let plan = planner.plan(SECOND);
    assert_eq!(plan.promote, [2]);
    confirm(&mut planner, SECOND, &plan);
    // The other one brings packets, too.
    planner.observe(at(2_000), 0, kilobytes(100));
    assert_eq!(steps(&mut planner, at(2_000)), [(vec![0], vec![])]);
    planner.forget(1);
    assert!(steps(&mut planner, at(2_100)).is_empty());
    assert_eq!(planner.counts().placed, 2);
}

#[test]
fn limits_of_rules_hold_for_the_whole_of_a_unit() {
    let rule = RuleId(3);
    let mut planner = three(open());
    let mut division = policies::planner::Division::default();
    division.limits.insert(rule, Limit { entries: Some(2), installs_per_s: None });
    planner.set_division(SECOND, division.clone());
    let terms = policies::planner::Terms { rule: Some(rule), ..Default::default() };
    for id in 0..3 {
        planner.set_verdict(SECOND, id, Verdict::Auto(terms));
    }
    assert!(planner.plan(SECOND).is_empty(), "two of three entries are none");
    division.limits.insert(rule, Limit { entries: Some(3), installs_per_s: None });
    planner.set_division(SECOND, division);
    assert_eq!(steps(&mut planner, SECOND).len(), 3);
}

#[test]
fn megaflows_that_lead_to_each_other_are_never_placed() {
    let mut planner =
        planner(open(), &[(0, 100, middle(&[1])), (1, 100, middle(&[0])), (2, 100, last(&[1]))]);
    assert!(planner.plan(SECOND).is_empty());
    assert_eq!(planner.explain(SECOND, 2), Explanation::NoWay);
    // Found there all the same, they leave.
    planner.placed(SECOND, 0);
    planner.placed(SECOND, 1);
    assert_eq!(steps(&mut planner, SECOND), [(vec![], vec![0]), (vec![], vec![1])]);
}

#[test]
fn a_way_that_is_too_long_is_none() {
    let mut flows = vec![(0, 100, first())];
    flows.extend((1..20).map(|id| (id, 100, middle(&[id - 1]))));
    flows.push((20, 100, last(&[14])));
    flows.push((21, 100, last(&[19])));
    let mut planner = planner(open(), &flows);
    assert_eq!(planner.explain(SECOND, 21), Explanation::NoWay);
    assert_eq!(steps(&mut planner, SECOND).len(), 16);
}
