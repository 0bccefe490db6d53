//! Mode shadow, end to end: rules of our own beside a real Open vSwitch that does not offload.

mod differential;
mod lag;
mod placement;
mod scene;
mod stale;

use lab_tests::harness::{Need, Test, fact};

use differential::rules_treat_packets_as_their_megaflows_do;
use lag::rules_go_with_what_their_megaflows_did;
use placement::a_stream_between_two_vfs_goes_to_hardware_and_leaving_the_mode_leaves_no_rule;
use stale::nothing_is_stale_after_flushes_a_killed_vswitchd_and_a_deleted_bridge;

pub(crate) const TESTS: &[Test] = &[
    fact!(a_stream_between_two_vfs_goes_to_hardware_and_leaving_the_mode_leaves_no_rule)
        .needs(NEEDS)
        .per_release(),
    fact!(rules_go_with_what_their_megaflows_did).needs(NEEDS).long(),
    fact!(nothing_is_stale_after_flushes_a_killed_vswitchd_and_a_deleted_bridge).needs(NEEDS),
    fact!(rules_treat_packets_as_their_megaflows_do).needs(&[Need::Simnic]).long(),
];

const NEEDS: &[Need] = &[Need::Simnic, Need::Daemon];
