//! What happens to NICs, ports and links while traffic flows: afterwards forwarding is right, and the daemon's view is
//! the kernel's.

mod bond;
mod functions;
mod modes;
mod resets;
mod scene;

use lab_tests::harness::{Need, Test, fact};

use bond::a_bond_whose_active_uplink_fails_goes_on_in_hardware;
use functions::{
    a_renamed_representor_is_the_same_port_with_its_flows,
    a_vf_that_is_unplugged_and_plugged_again_is_used_again,
    a_vf_whose_namespace_is_deleted_comes_back_to_use, all_vfs_that_are_disabled_and_enabled_are_used_again,
};
use modes::a_nic_with_flows_is_emptied_before_its_mode_changes_and_used_again_after;
use resets::{
    a_flapping_link_loses_no_rule, a_recovered_firmware_is_used_again, a_reloaded_nic_is_used_again,
};

const NEEDS: &[Need] = &[Need::Simnic, Need::Daemon];

pub(crate) const TESTS: &[Test] = &[
    fact!(a_vf_that_is_unplugged_and_plugged_again_is_used_again).needs(NEEDS),
    fact!(all_vfs_that_are_disabled_and_enabled_are_used_again).needs(NEEDS),
    fact!(a_vf_whose_namespace_is_deleted_comes_back_to_use).needs(NEEDS),
    fact!(a_renamed_representor_is_the_same_port_with_its_flows).needs(NEEDS),
    fact!(a_flapping_link_loses_no_rule).needs(NEEDS),
    fact!(a_reloaded_nic_is_used_again).needs(NEEDS),
    fact!(a_recovered_firmware_is_used_again).needs(NEEDS),
    fact!(a_nic_with_flows_is_emptied_before_its_mode_changes_and_used_again_after).needs(NEEDS),
    fact!(a_bond_whose_active_uplink_fails_goes_on_in_hardware).needs(NEEDS),
];
