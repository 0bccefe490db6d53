//! Mode shadow, end to end: rules of our own beside a real Open vSwitch that does not offload.

mod cookies;
mod differential;
mod gaps;
mod guard;
mod lag;
mod loss;
mod packaged;
mod placement;
mod scene;
mod set_up;
mod stale;
mod storm;
mod switched;

use lab_tests::harness::{Need, Test, fact};

use cookies::openflow_rules_and_what_hardware_took_of_them_are_together_what_was_sent;
use differential::rules_treat_packets_as_their_megaflows_do;
use gaps::with_gaps_a_busy_flow_in_hardware_keeps_its_megaflow;
use guard::{
    no_rule_outlives_its_megaflow_by_more_than_the_bound_whoever_is_killed,
    rules_of_a_dead_or_hung_daemon_go_and_those_that_are_right_are_taken_over,
};
use lag::{rules_go_with_what_their_megaflows_did, rules_keep_up_with_a_hundred_openflow_changes_a_second};
use loss::nothing_is_stale_after_notifications_of_the_kernel_datapath_were_lost;
use packaged::the_guard_survives_what_kills_the_daemon_and_is_started_again_when_it_is_killed;
use placement::{
    a_stream_between_two_vfs_goes_to_hardware_and_leaving_the_mode_leaves_no_rule,
    a_tunnelled_flow_is_placed_on_both_hosts_where_open_vswitch_does_not_offload,
};
use set_up::making_a_megaflow_costs_vswitchd_less_than_twice_as_much_with_us_listening;
use stale::nothing_is_stale_after_flushes_a_killed_vswitchd_and_a_deleted_bridge;
use storm::a_port_that_is_scanned_through_is_shed_and_the_flows_of_others_stay_in_hardware;
use switched::when_open_vswitch_is_switched_no_packet_goes_wrong_and_its_own_rules_are_steered;

pub(crate) const TESTS: &[Test] = &[
    fact!(a_stream_between_two_vfs_goes_to_hardware_and_leaving_the_mode_leaves_no_rule)
        .needs(NEEDS)
        .per_release(),
    fact!(a_tunnelled_flow_is_placed_on_both_hosts_where_open_vswitch_does_not_offload).needs(NEEDS),
    fact!(rules_go_with_what_their_megaflows_did).needs(NEEDS).long(),
    fact!(rules_keep_up_with_a_hundred_openflow_changes_a_second).needs(NEEDS).long(),
    fact!(rules_of_a_dead_or_hung_daemon_go_and_those_that_are_right_are_taken_over).needs(NEEDS),
    fact!(the_guard_survives_what_kills_the_daemon_and_is_started_again_when_it_is_killed).needs(NEEDS),
    fact!(no_rule_outlives_its_megaflow_by_more_than_the_bound_whoever_is_killed).needs(NEEDS).long(),
    fact!(nothing_is_stale_after_flushes_a_killed_vswitchd_and_a_deleted_bridge).needs(NEEDS),
    fact!(nothing_is_stale_after_notifications_of_the_kernel_datapath_were_lost).needs(NEEDS),
    fact!(openflow_rules_and_what_hardware_took_of_them_are_together_what_was_sent)
        .needs(NEEDS)
        .per_release(),
    fact!(with_gaps_a_busy_flow_in_hardware_keeps_its_megaflow).needs(NEEDS).long(),
    fact!(when_open_vswitch_is_switched_no_packet_goes_wrong_and_its_own_rules_are_steered)
        .needs(NEEDS)
        .long(),
    fact!(a_port_that_is_scanned_through_is_shed_and_the_flows_of_others_stay_in_hardware).needs(NEEDS),
    fact!(making_a_megaflow_costs_vswitchd_less_than_twice_as_much_with_us_listening).needs(NEEDS).long(),
];

/// The judge of the translator: by itself, since it takes minutes.
pub(crate) const JUDGE: &[Test] = &[fact!(rules_treat_packets_as_their_megaflows_do).needs(&[Need::Simnic])];

const NEEDS: &[Need] = &[Need::Simnic, Need::Daemon];
