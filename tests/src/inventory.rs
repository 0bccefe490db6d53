//! NICs, ports and what is behind them, as the daemon's inventory has them: complete, cheap, and kept by notifications.

pub(crate) mod changes;
mod scale;
mod witness;

use lab_tests::harness::{Need, Test, fact};

use changes::{
    functions_and_modes_are_followed_and_ports_without_a_representor_are_stale,
    health_resources_and_sub_functions_of_a_nic_are_told,
    lost_notifications_are_made_up_for_by_reading_everything_again,
    who_is_behind_a_representor_is_told_and_followed,
};
use scale::a_thousand_functions_are_known_at_once_cost_nothing_and_change_one_by_one;

const NEEDS: &[Need] = &[Need::Simnic, Need::Daemon];

pub(crate) const TESTS: &[Test] = &[
    fact!(a_thousand_functions_are_known_at_once_cost_nothing_and_change_one_by_one).needs(NEEDS),
    fact!(who_is_behind_a_representor_is_told_and_followed).needs(NEEDS),
    fact!(functions_and_modes_are_followed_and_ports_without_a_representor_are_stale).needs(NEEDS),
    fact!(health_resources_and_sub_functions_of_a_nic_are_told).needs(NEEDS),
    fact!(lost_notifications_are_made_up_for_by_reading_everything_again).needs(NEEDS),
];
