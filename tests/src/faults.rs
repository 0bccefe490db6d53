//! What goes wrong around the daemon: it stays responsive, says so, changes nothing it must not, and recovers.

mod input;
mod killed;
mod nic;
pub(crate) mod scene;
mod silence;

use lab_tests::harness::{Need, Test, fact};

use input::{
    a_second_daemon_is_refused_and_the_first_goes_on, a_user_without_the_capability_is_refused,
    a_wrong_database_socket_is_refused, an_open_vswitch_without_hw_offload_is_not_steered,
    an_unreadable_configuration_is_refused,
};
use killed::forwarding_and_rules_survive_kills_of_the_daemon;
use nic::{
    a_full_table_is_reported_and_its_growth_is_used, a_refusing_driver_is_quoted_and_asked_after_a_reload,
    installs_per_s_are_half_of_what_the_driver_manages, no_more_rules_of_a_refused_shape_are_tried,
    the_daemon_answers_while_the_driver_is_slow,
};
use silence::{
    a_silent_database_server_is_reported_and_found_again, a_vswitchd_that_stops_is_reported_and_found_again,
    after_lost_notifications_everything_is_read_afresh,
};

const NEEDS: &[Need] = &[Need::Simnic, Need::Daemon];

pub(crate) const TESTS: &[Test] = &[
    fact!(an_unreadable_configuration_is_refused).needs(&[Need::Daemon]),
    fact!(a_wrong_database_socket_is_refused).needs(&[Need::Daemon]),
    fact!(a_second_daemon_is_refused_and_the_first_goes_on).needs(NEEDS),
    fact!(a_user_without_the_capability_is_refused).needs(&[Need::Daemon]),
    fact!(an_open_vswitch_without_hw_offload_is_not_steered).needs(&[Need::Daemon]),
    fact!(a_refusing_driver_is_quoted_and_asked_after_a_reload).needs(NEEDS),
    fact!(no_more_rules_of_a_refused_shape_are_tried).needs(NEEDS),
    fact!(a_full_table_is_reported_and_its_growth_is_used).needs(NEEDS),
    fact!(the_daemon_answers_while_the_driver_is_slow).needs(NEEDS),
    fact!(installs_per_s_are_half_of_what_the_driver_manages).needs(NEEDS),
    fact!(after_lost_notifications_everything_is_read_afresh).needs(NEEDS),
    fact!(a_silent_database_server_is_reported_and_found_again).needs(NEEDS),
    fact!(a_vswitchd_that_stops_is_reported_and_found_again).needs(NEEDS),
    fact!(forwarding_and_rules_survive_kills_of_the_daemon).needs(NEEDS),
];
