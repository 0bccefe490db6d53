//! Facts about the planner, stated through its public methods only.

use super::*;
use crate::{Rate, RuleId, Weight};

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
        half_life: SECOND,
        install_cost: 0,
        ..Settings::default()
    }
}

/// For tests in which a megaflow that is not observed has not paused for that.
fn patient() -> Settings {
    Settings { half_life: Micros::from_secs(1_000), ..open() }
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
    assert!(plan.demote.is_empty());
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

#[test]
fn the_clearly_better_takes_the_entry_of_the_weakest() {
    let settings = Settings { capacity: Capacity::Fixed(2), hysteresis_percent: 25, ..open() };
    let mut planner = with_flows(settings, &[10, 20]);
    let plan = planner.plan(SECOND);
    confirm(&mut planner, SECOND, &plan);
    planner.observe(SECOND, 2, bytes(12_000));
    assert!(planner.plan(SECOND).is_empty(), "20 percent more is not worth a move");
    planner.observe(SECOND, 3, bytes(13_000));
    let plan = planner.plan(SECOND);
    assert_eq!(plan, Plan { promote: [].into(), demote: [0].into() });
    assert!(planner.plan(SECOND).is_empty(), "the entry that is being freed is spoken for");
    planner.unplaced(SECOND, 0);
    assert_eq!(planner.plan(SECOND).promote, [3]);
}

#[test]
fn a_cold_megaflow_keeps_its_entry_while_the_table_has_room() {
    let mut planner = with_flows(Settings { capacity: Capacity::Fixed(2), ..open() }, &[10]);
    let plan = planner.plan(SECOND);
    confirm(&mut planner, SECOND, &plan);
    assert!(planner.plan(Micros::from_secs(3_600)).is_empty());
}

#[test]
fn nobody_loses_an_entry_before_the_residency_is_over() {
    let settings = Settings { capacity: Capacity::Fixed(1), min_residency: Micros::from_secs(2), ..open() };
    let mut planner = with_flows(settings, &[10]);
    let plan = planner.plan(SECOND);
    confirm(&mut planner, SECOND, &plan);
    planner.observe(at(1_500), 1, bytes(1_000_000));
    assert!(planner.plan(at(2_999)).is_empty());
    let Explanation::Placed { resident_for, .. } = planner.explain(at(2_500), 0) else { panic!("placed") };
    assert_eq!(resident_for, at(500));
    assert_eq!(planner.plan(at(3_000)).demote, [0]);
}

#[test]
fn a_verdict_of_software_takes_the_entry_away_at_once() {
    let mut planner = with_flows(Settings { min_residency: Micros::from_secs(60), ..open() }, &[10]);
    let plan = planner.plan(SECOND);
    confirm(&mut planner, SECOND, &plan);
    planner.set_verdict(at(1_100), 0, Verdict::Software(Because::Default));
    assert_eq!(planner.plan(at(1_100)).demote, [0]);
}

#[test]
fn pinned_megaflows_take_entries_from_ranked_ones_and_never_lose_them_to_those() {
    let mut planner = with_flows(Settings { capacity: Capacity::Fixed(1), ..open() }, &[1_000]);
    let plan = planner.plan(SECOND);
    confirm(&mut planner, SECOND, &plan);
    planner.set_verdict(SECOND, 7, Verdict::Hardware(None));
    let plan = planner.plan(SECOND);
    assert_eq!(plan.demote, [0]);
    confirm(&mut planner, SECOND, &plan);
    let plan = planner.plan(SECOND);
    assert_eq!(plan.promote, [7]);
    confirm(&mut planner, SECOND, &plan);
    assert!(planner.plan(Micros::from_secs(9)).is_empty());
}

#[test]
fn a_young_megaflow_waits_until_it_is_old_enough() {
    let mut planner = Planner::new(Settings { min_age: at(500), early_factor: 0, ..open() });
    planner.observe(SECOND, 0, Sample { packets: 10, bytes: 10_000, over: at(100) });
    assert_eq!(planner.explain(SECOND, 0), Explanation::TooYoung { left: at(400) });
    assert!(planner.plan(at(1_399)).is_empty());
    assert_eq!(planner.plan(at(1_400)).promote, [0], "without being observed again");
}

#[test]
fn an_elephant_is_known_by_what_it_moved() {
    let settings = Settings {
        min_age: Micros::from_secs(10),
        min_rate: Rate::BytesPerSecond(1_000),
        early_factor: 8,
        ..open()
    };
    let mut planner = Planner::new(settings);
    planner.observe(SECOND, 0, Sample { packets: 60, bytes: 80_000, over: at(100) });
    planner.observe(SECOND, 1, Sample { packets: 60, bytes: 79_999, over: at(100) });
    assert_eq!(planner.plan(SECOND).promote, [0]);
}

#[test]
fn slow_megaflows_stay_out_and_fast_ones_that_fell_silent_leave_the_line() {
    let settings = Settings { min_rate: Rate::PacketsPerSecond(100), capacity: Capacity::Fixed(0), ..open() };
    let mut planner = Planner::new(settings);
    planner.observe(SECOND, 0, Sample { packets: 99, bytes: 1_000_000, over: SECOND });
    planner.observe(SECOND, 1, Sample { packets: 150, bytes: 10_000, over: SECOND });
    let slow = Explanation::TooSlow { rate: Rate::PacketsPerSecond(99), needs: Rate::PacketsPerSecond(100) };
    assert_eq!(planner.explain(SECOND, 0), slow);
    let waiting = Explanation::Waiting { rank: 1, of: 1, waiting_for: WaitingFor::Entry };
    assert!(planner.plan(SECOND).is_empty());
    assert_eq!(planner.explain(SECOND, 1), waiting);
    // 75 packets per second are left after one half-life of silence.
    planner.plan(Micros::from_secs(2));
    assert_eq!(planner.counts().waiting, 0);
}

#[test]
fn the_install_budget_bounds_promotions_and_the_line_moves_up_later() {
    let settings = Settings { installs_per_s: 10, install_burst: 3, ..open() };
    let mut planner = with_flows(settings, &[50, 40, 30, 20, 10]);
    assert_eq!(planner.plan(SECOND).promote, [0, 1, 2]);
    let waiting = Explanation::Waiting { rank: 1, of: 2, waiting_for: WaitingFor::Installs };
    assert_eq!(planner.explain(SECOND, 3), waiting);
    assert_eq!(planner.plan(at(1_100)).promote, [3]);
    assert_eq!(planner.plan(at(1_200)).promote, [4]);
}

#[test]
fn operations_in_flight_bound_a_plan() {
    let mut planner = with_flows(Settings { in_flight_max: 2, ..open() }, &[50, 40, 30]);
    let plan = planner.plan(SECOND);
    assert_eq!(plan.promote, [0, 1]);
    assert!(planner.plan(at(1_001)).is_empty());
    confirm(&mut planner, at(1_002), &plan);
    assert_eq!(planner.plan(at(1_002)).promote, [2]);
}

#[test]
fn a_full_table_teaches_its_size_and_the_refused_one_competes_again() {
    let mut planner = with_flows(open(), &[30, 20, 10]);
    let plan = planner.plan(SECOND);
    assert_eq!(plan.promote, [0, 1, 2]);
    planner.placed(at(1_001), 0);
    planner.placed(at(1_002), 1);
    planner.refused(at(1_003), 2, Refusal::TableFull);
    let counts = planner.counts();
    assert_eq!((counts.capacity, counts.capacity_is_learned), (Some(2), true));
    assert!(planner.plan(at(1_100)).is_empty());
    planner.observe(at(1_500), 2, bytes(1_000_000));
    assert_eq!(planner.plan(at(1_500)).demote, [1], "it may take the weakest entry");
}

#[test]
fn after_a_full_table_one_entry_is_probed_once_the_back_off_is_over() {
    let mut planner = with_flows(patient(), &[30, 20, 10, 5]);
    planner.plan(SECOND);
    planner.placed(SECOND, 0);
    planner.placed(SECOND, 1);
    planner.refused(SECOND, 2, Refusal::TableFull);
    planner.refused(SECOND, 3, Refusal::TableFull);
    assert!(planner.plan(at(1_999)).is_empty());
    assert_eq!(planner.plan(at(2_000)).promote, [2]);
    assert!(planner.plan(at(2_001)).is_empty(), "one probe at a time");
    planner.placed(at(2_002), 2);
    assert_eq!(planner.counts().capacity, Some(3));
}

#[test]
fn entries_of_others_count_against_the_table() {
    let mut planner = with_flows(Settings { capacity: Capacity::Fixed(3), ..open() }, &[30, 20, 10]);
    planner.set_foreign_entries(2);
    let plan = planner.plan(SECOND);
    assert_eq!(plan.promote, [0]);
    confirm(&mut planner, SECOND, &plan);
    planner.set_foreign_entries(3);
    assert_eq!(planner.plan(SECOND).demote, [0], "and make ours leave where the table is bounded");
}

#[test]
fn a_table_that_is_configured_smaller_is_emptied_from_the_weak_end() {
    let mut planner = with_flows(open(), &[10, 30, 20]);
    let plan = planner.plan(SECOND);
    confirm(&mut planner, SECOND, &plan);
    planner.set_settings(SECOND, Settings { capacity: Capacity::Fixed(1), ..open() });
    assert_eq!(planner.plan(SECOND).demote, [0, 2]);
}

#[test]
fn transient_refusals_back_off_and_double() {
    let mut planner = with_flows(Settings { retry_after_max: Micros::from_secs(3), ..open() }, &[10]);
    planner.plan(SECOND);
    planner.refused(SECOND, 0, Refusal::Transient);
    let blocked =
        |until, refusals| Explanation::BlockedUntil { until, refusal: Refusal::Transient, refusals };
    assert_eq!(planner.explain(SECOND, 0), blocked(at(2_000), 1));
    assert!(planner.plan(at(1_999)).is_empty());
    assert_eq!(planner.plan(at(2_000)).promote, [0]);
    planner.refused(at(2_000), 0, Refusal::Transient);
    assert_eq!(planner.explain(at(2_000), 0), blocked(at(4_000), 2));
    planner.plan(at(4_000));
    planner.refused(at(4_000), 0, Refusal::Transient);
    assert_eq!(planner.explain(at(4_000), 0), blocked(at(7_000), 3), "never longer than the maximum");
    planner.plan(at(7_000));
    planner.placed(at(7_000), 0);
    planner.unplaced(at(7_000), 0);
    assert_eq!(planner.plan(at(7_000)).promote, [0], "a success forgives");
}

#[test]
fn a_shape_the_driver_cannot_do_is_left_alone_until_unblocked() {
    let mut planner = with_flows(open(), &[10]);
    planner.plan(SECOND);
    planner.refused(SECOND, 0, Refusal::Shape);
    assert!(planner.plan(Micros::from_secs(600)).is_empty());
    planner.unblock(Micros::from_secs(600), 0);
    assert_eq!(planner.plan(Micros::from_secs(600)).promote, [0]);
}

#[test]
fn one_that_is_put_off_leaves_its_install_to_another() {
    let settings = Settings { installs_per_s: 1, install_burst: 1, ..open() };
    let mut planner = with_flows(settings, &[30, 20, 10]);
    assert_eq!(planner.plan(SECOND).promote, [0]);
    planner.put_off(SECOND, 0, at(5_000));
    assert_eq!(planner.plan(SECOND).promote, [1], "in the same second");
    assert!(planner.plan(SECOND).is_empty(), "and no third");
    let blocked = Explanation::BlockedUntil { until: at(5_000), refusal: Refusal::Shape, refusals: 0 };
    assert_eq!(planner.explain(SECOND, 0), blocked);
    planner.placed(SECOND, 1);
    assert_eq!(planner.plan(at(4_999)).promote, [2]);
    planner.placed(at(4_999), 2);
    assert_eq!(planner.plan(at(6_000)).promote, [0]);
}

#[test]
fn a_demotion_that_was_refused_leaves_the_entry_in_use_and_is_tried_later() {
    let mut planner = with_flows(open(), &[10]);
    let plan = planner.plan(SECOND);
    confirm(&mut planner, SECOND, &plan);
    planner.set_verdict(SECOND, 0, Verdict::Software(Because::Default));
    planner.plan(SECOND);
    planner.refused(SECOND, 0, Refusal::Transient);
    assert_eq!((planner.counts().placed, planner.counts().demoting), (1, 0));
    assert!(planner.plan(at(1_999)).is_empty());
    assert_eq!(planner.plan(at(2_000)).demote, [0]);
}

#[test]
fn what_is_found_in_hardware_counts_and_may_stay() {
    let mut planner: Planner<u32> = Planner::new(Settings { capacity: Capacity::Fixed(1), ..open() });
    planner.placed(SECOND, 9);
    planner.observe(at(2_000), 9, bytes(1_000));
    planner.observe(at(2_000), 1, bytes(500));
    assert!(planner.plan(at(2_000)).is_empty());
    assert_eq!(planner.counts().placed, 1);
}

#[test]
fn a_promotion_that_was_undone_from_outside_is_planned_again() {
    let mut planner = with_flows(open(), &[10]);
    let plan = planner.plan(SECOND);
    confirm(&mut planner, SECOND, &plan);
    planner.unplaced(at(1_200), 0);
    assert_eq!(planner.plan(at(1_200)).promote, [0]);
}

#[test]
fn forgetting_frees_entry_line_and_time_out() {
    let mut planner = with_flows(Settings { capacity: Capacity::Fixed(2), ..open() }, &[30, 20, 10]);
    let plan = planner.plan(SECOND);
    planner.placed(SECOND, plan.promote[0]);
    for id in 0..3 {
        planner.forget(id);
    }
    planner.forget(99);
    assert_eq!(planner.counts(), Counts { capacity: Some(2), installs_per_s: 1_000, ..Counts::default() });
    assert_eq!(planner.explain(SECOND, 0), Explanation::Unknown);
}

#[test]
fn counters_read_for_the_first_time_are_a_baseline() {
    let mut planner: Planner<u32> = Planner::new(Settings { min_rate: Rate::BytesPerSecond(1), ..open() });
    planner.observe(SECOND, 0, Sample { packets: 1 << 40, bytes: 1 << 50, over: Micros::ZERO });
    assert_eq!(planner.rates(SECOND, 0), Some((0, 0)));
    assert!(planner.plan(SECOND).is_empty());
}

#[test]
fn savings_are_measured_in_what_the_operator_chose() {
    let settings = Settings { capacity: Capacity::Fixed(1), ..open() };
    let best = |saving| {
        let mut planner = Planner::new(Settings { saving, ..settings });
        planner.observe(SECOND, 'b', Sample { packets: 10, bytes: 15_000, over: SECOND });
        planner.observe(SECOND, 'p', Sample { packets: 100, bytes: 6_000, over: SECOND });
        planner.plan(SECOND).promote
    };
    assert_eq!(best(Saving::Bytes), ['b']);
    assert_eq!(best(Saving::Packets), ['p']);
    assert_eq!(best(Saving::CPU), ['p']);
    assert_eq!(best(Saving::ModelledCpu { ns_per_packet: 1, ps_per_byte: 1_000 }), ['b']);
}

#[test]
fn no_install_happens_where_none_is_allowed() {
    let mut planner = with_flows(Settings { installs_per_s: 0, ..open() }, &[10]);
    assert!(planner.plan(Micros::from_secs(100)).is_empty());
}

#[test]
fn a_reload_moves_nothing_that_need_not_move() {
    let mut planner = with_flows(Settings { capacity: Capacity::Fixed(2), ..open() }, &[30, 20, 10]);
    let plan = planner.plan(SECOND);
    confirm(&mut planner, SECOND, &plan);
    let settings = Settings { capacity: Capacity::Fixed(2), half_life: at(500), ..open() };
    planner.set_settings(SECOND, settings);
    assert!(planner.plan(SECOND).is_empty());
    assert_eq!(planner.counts().placed, 2);
}

#[test]
fn one_in_line_frees_one_entry_however_often_the_plan_is_made() {
    let mut planner = with_flows(Settings { capacity: Capacity::Fixed(2), ..open() }, &[10, 20]);
    let plan = planner.plan(SECOND);
    confirm(&mut planner, SECOND, &plan);
    planner.observe(SECOND, 2, bytes(100_000));
    assert_eq!(planner.plan(SECOND).demote, [0]);
    assert!(planner.plan(SECOND).is_empty(), "the entry being freed is enough");
}

#[test]
fn a_demotion_that_did_not_happen_does_not_begin_a_new_stay() {
    let mut planner = with_flows(open(), &[10]);
    let plan = planner.plan(SECOND);
    confirm(&mut planner, SECOND, &plan);
    for (ms, refused) in [(2_000, true), (9_000, false)] {
        planner.set_verdict(at(ms), 0, Verdict::Software(Because::Default));
        assert_eq!(planner.plan(at(ms)).demote, [0]);
        if refused {
            planner.refused(at(ms), 0, Refusal::Transient);
        } else {
            planner.placed(at(ms), 0);
        }
        let Explanation::Placed { since, .. } = planner.explain(at(ms), 0) else { panic!("placed") };
        assert_eq!(since, SECOND);
    }
}

#[test]
fn whoever_finds_the_table_full_again_and_again_waits_longer() {
    let mut planner = with_flows(open(), &[10]);
    let mut now = SECOND;
    let mut waits = Vec::new();
    for _ in 0..5 {
        assert_eq!(planner.plan(now).promote, [0]);
        planner.refused(now, 0, Refusal::TableFull);
        let until = match planner.explain(now, 0) {
            Explanation::BlockedUntil { until, .. } => until,
            _ => now,
        };
        waits.push(until.since(now));
        now = now.plus(Micros::from_secs(120));
    }
    assert_eq!(waits, [at(0), at(1_000), at(2_000), at(4_000), at(8_000)]);
}

#[test]
fn equal_slow_megaflows_do_not_change_places() {
    // 256 of them, a packet of 100 bytes about every 700 ms each, and a reading every 250 ms.
    let settings = Settings { capacity: Capacity::Fixed(64), install_cost: 0, ..Settings::default() };
    let mut planner = Planner::new(settings);
    let mut next: Vec<u64> = (0..256_u64).map(|id| id * 7_919 % 700).collect();
    let mut installs = Vec::new();
    for round in 1..=240_u64 {
        let now = at(round * 250);
        for (id, due) in next.iter_mut().enumerate() {
            let mut packets = 0;
            while *due < round * 250 {
                packets += 1;
                *due += 600 + (*due * 31 + id as u64 * 17) % 200;
            }
            if packets > 0 {
                planner.observe(now, id as u32, Sample { packets, bytes: packets * 100, over: at(250) });
            }
        }
        let plan = planner.plan(now);
        installs.push(plan.promote.len());
        confirm(&mut planner, now, &plan);
    }
    let (first, rest) = installs.split_at(40);
    let (first, rest) = (first.iter().sum::<usize>(), rest.iter().sum::<usize>());
    assert!((64..=128).contains(&first) && rest <= 4, "{first} installs in ten seconds, {rest} in fifty");
}

#[test]
fn an_install_has_to_pay_the_more_the_more_of_them_happen() {
    let settings = Settings { install_cost: 1_000_000, half_life: at(100), ..open() };
    let mut planner = Planner::new(settings);
    let sample = |bytes| Sample { packets: 2, bytes, over: at(100) };
    for id in 0..400 {
        planner.observe(SECOND, id, sample(1_000));
    }
    let many = planner.plan(SECOND).promote.len();
    assert!((1..100).contains(&many), "{many} before the price was too high");
    planner.observe(at(1_001), 500, sample(100_000));
    assert_eq!(planner.plan(at(1_001)).promote, [500], "what saves more is still worth it");
}

#[test]
fn who_pauses_loses_its_entry_before_who_is_slower_and_goes_on() {
    let settings = Settings { capacity: Capacity::Fixed(2), half_life: at(400), ..open() };
    let mut planner = Planner::new(settings);
    let sample = |packets| Sample { packets, bytes: packets * 1_000, over: at(100) };
    for round in 1..=10 {
        planner.observe(at(round * 100), 0, sample(100));
        planner.observe(at(round * 100), 1, sample(20));
    }
    let plan = planner.plan(at(1_000));
    confirm(&mut planner, at(1_000), &plan);
    for round in 11..=15 {
        planner.observe(at(round * 100), 1, sample(20));
    }
    planner.observe(at(1_500), 2, sample(50));
    assert_eq!(planner.plan(at(1_500)).demote, [0]);
}

#[test]
fn counters_that_come_late_are_no_pause() {
    let settings = Settings { capacity: Capacity::Fixed(1), counter_delay: SECOND, ..open() };
    let mut planner = with_flows(settings, &[1_000]);
    let plan = planner.plan(SECOND);
    confirm(&mut planner, SECOND, &plan);
    planner.observe(at(1_900), 1, Sample { packets: 90, bytes: 90_000, over: at(900) });
    assert!(planner.plan(at(1_900)).is_empty());
    assert_eq!(planner.plan(at(3_900)).demote, [] as [u32; 0], "neither moves any more");
}

/// Runs a planner that learns for ten seconds beside a driver that takes `took` for an install, with `per_s` new megaflows
/// per second that are worth one, and a daemon that tells of each only `late` after it was done.
fn with_driver(took: Micros, per_s: u64, late: Micros) -> (Planner<u32>, u32) {
    let mut planner = Planner::new(Settings { learn_installs: true, ..open() });
    let (mut next, mut installs) = (0, 0);
    for round in 0..100 {
        let now = at(1_000 + round * 100);
        while u64::from(next) < (round + 1) * per_s / 10 {
            planner.observe(now, next, bytes(1_000_000));
            next += 1;
        }
        let plan = planner.plan(now);
        for id in &plan.promote {
            planner.install_took(took);
            planner.placed(now.plus(late), *id);
        }
        installs = planner.counts().placed;
    }
    (planner, installs)
}

#[test]
fn what_is_learned_does_not_depend_on_how_many_installs_there_are_or_how_late_they_are_told() {
    for (us, half) in [(250, 2_000), (1_000, 500), (10_000, 50)] {
        for (per_s, late) in [(1, 0), (1, 900), (10, 900), (1_000, 0), (1_000, 900)] {
            let (planner, installs) = with_driver(Micros(us), per_s, at(late));
            let allowed = planner.counts().installs_per_s;
            // Ten installs in ten seconds leave a little of what was assumed at first.
            let margin = if per_s == 1 { half / 4 } else { half / 20 };
            let near = allowed.abs_diff(half) <= margin;
            assert!(near, "{allowed}/s with {us} us for an install, {per_s} flows/s, told {late} ms late");
            assert!(planner.counts().installs_are_learned);
            // The start at 1,000/s, half a second's worth of them at once, and then what was learned.
            assert!(installs <= 500 + half * 10 + half / 2, "{installs} installs");
        }
    }
}

#[test]
fn a_slow_driver_gets_half_of_the_installs_it_manages() {
    let mut planner = with_flows(Settings { learn_installs: true, ..open() }, &[10]);
    assert_eq!((planner.counts().installs_per_s, planner.counts().installs_are_learned), (1_000, false));
    for _ in 0..500 {
        planner.install_took(at(5));
    }
    let counts = planner.counts();
    assert_eq!((counts.installs_per_s, counts.installs_are_learned), (100, true));
    for id in 0..1_000 {
        planner.observe(at(9_000), id, bytes(1_000_000));
    }
    assert_eq!(planner.plan(at(9_000)).promote.len(), 50, "half a second's worth at once");
    planner.set_settings(at(9_000), Settings { min_age: SECOND, learn_installs: true, ..open() });
    assert_eq!(planner.counts().installs_per_s, 100, "another setting leaves what was learned");
    planner.set_settings(at(9_000), Settings { installs_per_s: 300, ..open() });
    assert_eq!(planner.counts().installs_per_s, 300, "a number that is given is in force");
}
