//! The engine against a simulated Open vSwitch, kernel and NIC, over many seeds.
//!
//! `OFFLOAD_SEED=N cargo test -p offload-engine --test simulation` repeats one schedule of each test.

mod facts;
mod kernel;
mod ovs;
mod policy;
mod probed;
mod recording;
mod refusals;
mod rng;
mod rule;
mod run;
mod surroundings;
mod units;

use offload_engine::Counters;
use run::{Plan, Run};

fn schedules(count: u64, plan: impl Fn(u64) -> Plan) {
    let seeds = match std::env::var("OFFLOAD_SEED") {
        Ok(seed) => {
            let seed = seed.parse().expect("OFFLOAD_SEED is a number");
            seed..seed + 1
        }
        Err(_) => 0..count,
    };
    for seed in seeds {
        let plan = plan(seed);
        let result = std::panic::catch_unwind(|| {
            let mut run = Run::new(plan);
            for _ in 0..plan.steps {
                run.step();
            }
            run.come_to_rest();
            run.check();
        });
        if let Err(panic) = result {
            eprintln!("failed with {plan:?}; repeat it with OFFLOAD_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
}

fn plan(seed: u64) -> Plan {
    Plan {
        seed,
        steps: 300,
        counters: Counters::Fast,
        crashes: false,
        overruns: false,
        resurrects: seed % 2 == 1,
        reloads: false,
        units: false,
    }
}

#[test]
fn bare_promotions_leave_every_action_as_open_vswitch_wants_it() {
    schedules(10_000, plan);
}

#[test]
fn clean_promotions_leave_every_action_as_open_vswitch_wants_it() {
    schedules(10_000, |seed| Plan { counters: Counters::Exact, ..plan(seed) });
}

#[test]
fn lost_notifications_are_made_good() {
    schedules(10_000, |seed| Plan { overruns: true, counters: counters(seed), ..plan(seed) });
}

#[test]
fn rules_reloaded_at_any_moment_leave_nothing_wrong() {
    schedules(10_000, |seed| Plan { reloads: true, counters: counters(seed), ..plan(seed) });
}

#[test]
fn daemon_killed_at_any_moment_leaves_nothing_wrong() {
    schedules(100_000, |seed| Plan { crashes: true, steps: 90, counters: counters(seed), ..plan(seed) });
}

#[test]
fn chains_are_promoted_in_goto_order_and_demoted_in_reverse_whatever_happens() {
    schedules(10_000, |seed| Plan {
        units: true,
        reloads: seed % 3 == 0,
        counters: counters(seed),
        ..plan(seed)
    });
}

#[test]
fn chains_come_right_after_lost_notifications_and_a_killed_daemon() {
    schedules(10_000, |seed| {
        let (overruns, crashes) = (seed % 2 == 0, seed % 3 == 0);
        Plan { units: true, overruns, crashes, counters: counters(seed), ..plan(seed) }
    });
}

fn counters(seed: u64) -> Counters {
    if seed % 4 < 2 { Counters::Fast } else { Counters::Exact }
}
