//! Shadow mode against a simulated kernel datapath, TC and NIC, over many seeds: megaflows are made, changed, deleted and
//! flushed, notifications and answers are lost, rules are refused, filters of others come and go, Open vSwitch ends, the mode is
//! left.
//!
//! `OFFLOAD_SEED=N cargo test -p offload-engine --test shadow_mode` repeats one schedule of each test.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod kernel;
mod model;
#[path = "../simulation/rng.rs"]
mod rng;

use model::{MAX_IDLE, Run};

/// What is drawn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    /// Notifications of the kernel datapath that fit into the socket.
    pub(crate) buffer: usize,
    /// Flows are deleted all at once, of which nobody is told.
    pub(crate) flushes: bool,
    /// The kernel refuses, and its answers are lost.
    pub(crate) refusals: bool,
    /// Flows overlap.
    pub(crate) overlaps: bool,
    /// Rules that the NIC has room for.
    pub(crate) entries: usize,
    /// New flows in a second that are followed.
    pub(crate) new_max: u32,
    /// Ports, filters of others, Open vSwitch and the mode come and go.
    pub(crate) upheavals: bool,
}

/// Returns how often a port was shed.
fn schedules(count: u64, plan: impl Fn(u64) -> Plan) -> u64 {
    let seeds = match std::env::var("OFFLOAD_SEED") {
        Ok(seed) => {
            let seed = seed.parse().expect("OFFLOAD_SEED is a number");
            seed..seed + 1
        }
        Err(_) => 0..count,
    };
    let repeated = std::env::var_os("OFFLOAD_SEED").is_some();
    let (mut placed, mut removed, mut uncertain, mut shed, mut untaken) = (0, 0, 0, 0, 0);
    let mut overlaps = false;
    for seed in seeds.clone() {
        let plan = plan(seed);
        overlaps |= plan.overlaps;
        let result = std::panic::catch_unwind(|| {
            let mut run = Run::new(plan);
            for _ in 0..400 {
                run.step();
            }
            if plan.new_max != u32::MAX {
                run.go_on_slowly();
            }
            run.come_to_rest();
            run.check_at_rest();
            if plan.entries == usize::MAX {
                run.be_busy();
            }
            run.leave();
            (run.added, run.deleted, run.uncertain, run.storms, run.untaken)
        });
        match result {
            Ok((added, deleted, times, storms, not_taken)) => {
                shed += storms;
                (placed, removed, uncertain) = (placed + added, removed + deleted, uncertain + times);
                untaken += not_taken;
            }
            Err(panic) => {
                eprintln!(
                    "failed with {plan:?}; repeat it with OFFLOAD_SEED={seed}, OFFLOAD_TRACE=1 to see what happened"
                );
                std::panic::resume_unwind(panic);
            }
        }
    }
    let many = seeds.count() as u64;
    assert!(
        repeated || placed > many && removed > many,
        "{placed} rules placed and {removed} removed in {many} schedules"
    );
    assert!(repeated || untaken > many / 20, "{untaken} rules were in software alone, in {many} schedules");
    assert!(
        repeated || !overlaps || uncertain > many,
        "flows overlapped after {uncertain} steps of {many} schedules"
    );
    shed
}

fn calm(seed: u64) -> Plan {
    Plan {
        seed,
        buffer: usize::MAX,
        flushes: false,
        refusals: false,
        overlaps: false,
        upheavals: false,
        entries: 6,
        new_max: u32::MAX,
    }
}

#[test]
fn no_rule_outlives_its_megaflow_by_more_than_one_step_of_handling() {
    schedules(1_000, calm);
}

#[test]
fn whatever_happened_all_busy_flows_are_in_hardware_in_the_end() {
    schedules(1_000, |seed| Plan {
        entries: usize::MAX,
        buffer: if seed % 2 == 0 { usize::MAX } else { 3 },
        flushes: seed % 4 < 2,
        overlaps: seed % 8 < 4,
        upheavals: seed % 16 < 8,
        refusals: seed % 32 < 16,
        ..calm(seed)
    });
}

#[test]
fn no_rule_is_there_once_a_loss_of_notifications_is_known_until_all_has_been_read() {
    schedules(1_000, |seed| Plan { buffer: 3, ..calm(seed) });
}

#[test]
fn what_was_flushed_goes_with_the_second_reading_at_the_latest() {
    schedules(1_000, |seed| Plan { flushes: true, ..calm(seed) });
}

#[test]
fn no_rule_is_there_whose_megaflow_overlaps_with_another_that_does_otherwise() {
    schedules(1_000, |seed| Plan { overlaps: true, ..calm(seed) });
}

#[test]
fn nor_where_notifications_are_lost_and_flows_are_flushed() {
    schedules(1_000, |seed| Plan { overlaps: true, buffer: 3, flushes: true, ..calm(seed) });
}

#[test]
fn refusals_and_lost_answers_leave_no_rule_without_its_megaflow() {
    schedules(1_000, |seed| Plan { refusals: true, ..calm(seed) });
}

#[test]
fn everything_at_once_leaves_no_rule_without_its_megaflow() {
    schedules(1_000, |seed| Plan {
        buffer: 12,
        flushes: true,
        refusals: true,
        overlaps: true,
        upheavals: true,
        ..calm(seed)
    });
}

#[test]
fn a_port_by_which_too_many_new_ones_come_has_no_rules_and_has_them_again_once_that_is_over() {
    let storms = schedules(200, |seed| Plan {
        new_max: 14,
        entries: usize::MAX,
        buffer: if seed % 2 == 0 { usize::MAX } else { 3 },
        overlaps: seed % 4 < 2,
        upheavals: seed % 8 < 4,
        ..calm(seed)
    });
    assert!(storms > 100, "the port was shed {storms} times");
}

#[test]
fn a_daemon_takes_over_what_is_right_of_what_a_killed_one_left_and_removes_the_rest() {
    let (mut taken, mut lives) = (0, 0);
    for seed in 0..300 {
        let mut run = Run::new(calm(seed));
        for _ in 0..3 {
            for _ in 0..80 {
                run.step();
            }
            taken += run.succeed();
            lives += 1;
        }
        run.come_to_rest();
        run.check_at_rest();
        run.lose_lease();
        run.come_to_rest();
        run.check_at_rest();
        run.leave();
    }
    assert!(taken > lives, "{taken} rules were taken over by {lives} daemons");
}

#[test]
fn with_gaps_a_busy_flow_never_looks_idle_to_open_vswitch_and_is_in_hardware_most_of_the_time() {
    for seed in 0..20 {
        let with = Run::new(calm(seed)).be_busy_for_a_second(true);
        assert!(with.idle < MAX_IDLE, "for {} us Open vSwitch saw no packet", with.idle.0);
        let share = 100 * with.by_hardware / with.packets;
        assert!(share >= 50, "{share} % of the packets went by hardware");
        let without = Run::new(calm(seed)).be_busy_for_a_second(false);
        assert!(
            without.idle > MAX_IDLE,
            "without gaps it was {} us: this test shows nothing",
            without.idle.0
        );
    }
}

#[test]
fn a_flow_that_has_no_packets_in_a_gap_stays_in_software() {
    let mut run = Run::new(calm(0));
    run.be_busy_for_a_second(true);
    assert!(run.rules() > 0);
    run.pass(2_500);
    assert_eq!(run.rules(), 0);
    run.check_at_rest();
    run.leave();
}
