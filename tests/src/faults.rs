//! What goes wrong around the daemon: it stays responsive, says so, changes nothing it must not, and recovers.

mod input;
mod scene;
mod silence;

use lab_tests::harness::{Need, Test, fact};

use input::{
    a_second_daemon_is_refused_and_the_first_goes_on, a_user_without_the_capability_is_refused,
    a_wrong_database_socket_is_refused, an_open_vswitch_without_hw_offload_is_not_steered,
    an_unreadable_configuration_is_refused,
};
use silence::a_vswitchd_that_stops_is_reported_and_found_again;

const NEEDS: &[Need] = &[Need::Simnic, Need::Daemon];

pub(crate) const TESTS: &[Test] = &[
    fact!(an_unreadable_configuration_is_refused).needs(&[Need::Daemon]),
    fact!(a_wrong_database_socket_is_refused).needs(&[Need::Daemon]),
    fact!(a_second_daemon_is_refused_and_the_first_goes_on).needs(NEEDS),
    fact!(a_user_without_the_capability_is_refused).needs(&[Need::Daemon]),
    fact!(an_open_vswitch_without_hw_offload_is_not_steered).needs(&[Need::Daemon]),
    fact!(a_vswitchd_that_stops_is_reported_and_found_again).needs(NEEDS),
];
