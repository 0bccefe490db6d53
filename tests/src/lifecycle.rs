//! The life of NICs: what is declared is planned, done, read back and undone, by `nic apply`, `port attach` and
//! `port detach`, and by the daemon.

mod apply;
mod attach;
mod daemon;
mod packaged;
mod quiet;
mod random;
mod scene;

use lab_tests::harness::{Need, Test, fact};

use apply::{
    a_dry_run_says_every_step_and_changes_nothing, a_nic_is_made_as_declared_and_then_left_alone,
    a_port_whose_representor_is_gone_is_removed_if_it_is_ours,
    what_cannot_be_or_fails_leaves_the_nic_as_it_was,
};
use attach::{
    a_container_gets_its_vf_and_its_place_on_a_bridge, a_namespace_is_found_by_path_process_and_name,
    a_sub_function_is_made_handed_over_and_taken_back,
};
use daemon::declared_nics_are_kept_as_declared_and_others_never_touched;
use packaged::the_packaged_unit_and_its_drop_in_give_the_daemon_what_it_needs_and_no_more;
use quiet::a_switch_to_switchdev_and_back_disturbs_no_traffic_elsewhere;
use random::{
    a_thousand_random_sequences_end_as_declared_or_as_before_or_say_so,
    random_sequences_end_as_declared_or_as_before_or_say_so,
};

const NEEDS: &[Need] = &[Need::Simnic, Need::Daemon];

pub(crate) const TESTS: &[Test] = &[
    fact!(a_dry_run_says_every_step_and_changes_nothing).needs(NEEDS),
    fact!(a_nic_is_made_as_declared_and_then_left_alone).needs(NEEDS),
    fact!(what_cannot_be_or_fails_leaves_the_nic_as_it_was).needs(NEEDS),
    fact!(a_port_whose_representor_is_gone_is_removed_if_it_is_ours).needs(NEEDS),
    fact!(a_container_gets_its_vf_and_its_place_on_a_bridge).needs(NEEDS),
    fact!(a_sub_function_is_made_handed_over_and_taken_back).needs(NEEDS),
    fact!(a_namespace_is_found_by_path_process_and_name).needs(NEEDS),
    fact!(declared_nics_are_kept_as_declared_and_others_never_touched).needs(NEEDS),
    fact!(the_packaged_unit_and_its_drop_in_give_the_daemon_what_it_needs_and_no_more).needs(NEEDS),
    fact!(a_switch_to_switchdev_and_back_disturbs_no_traffic_elsewhere).needs(NEEDS),
    fact!(random_sequences_end_as_declared_or_as_before_or_say_so).needs(NEEDS),
    fact!(a_thousand_random_sequences_end_as_declared_or_as_before_or_say_so).needs(NEEDS).long(),
];
