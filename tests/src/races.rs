//! Races between Open vSwitch's own changes and ours.
//!
//! Open vSwitch changes the actions of flows, deletes them and makes them anew while the daemon promotes them. A round is
//! one such change of one flow. Afterwards every filter has to be what Open vSwitch would install afresh.

mod arena;
mod back;

use lab_tests::harness::{Lab, Need, Outcome, Test, fact};

use arena::{Race, run};

const NEEDS: &[Need] = &[Need::Simnic, Need::Daemon];

pub(crate) const TESTS: &[Test] = &[
    fact!(replaced_actions_stay_replaced_with_clean_promotions).needs(NEEDS),
    fact!(replaced_actions_stay_replaced_with_fast_promotions).needs(NEEDS).long(),
    fact!(replaced_actions_stay_replaced_across_kills_in_mid_command).needs(NEEDS),
];

fn replaced_actions_stay_replaced_with_clean_promotions(lab: &mut Lab) -> Outcome {
    run(lab, Race { counters: "exact", kills: false, rounds: 300, rounds_long: 10_000 })
}

fn replaced_actions_stay_replaced_with_fast_promotions(lab: &mut Lab) -> Outcome {
    run(lab, Race { counters: "fast", kills: false, rounds: 400, rounds_long: 10_000 })
}

fn replaced_actions_stay_replaced_across_kills_in_mid_command(lab: &mut Lab) -> Outcome {
    run(lab, Race { counters: "exact", kills: true, rounds: 200, rounds_long: 10_000 })
}
