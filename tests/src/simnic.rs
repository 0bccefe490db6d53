//! Tests of the simulated SmartNIC itself: what the lab's other tests rest on.

mod bond;
mod cases;
mod conntrack;
mod forwarding;
mod frame;
mod functions;
mod health;
mod ipsec;
mod life;
pub(crate) mod rig;
mod same_as_software;
mod sriov;
mod tcp;
mod tracked_life;
mod tracking;
mod tunnel;

use crate::harness::{Need, Test};
use bond::*;
use forwarding::*;
use functions::*;
use health::*;
use ipsec::*;
use life::*;
use same_as_software::*;
use sriov::*;
use tcp::*;
use tracked_life::*;
use tracking::*;
use tunnel::*;

const SIMNIC: &[Need] = &[Need::Simnic];
/// With conntrack: a kernel that can be told where hardware stopped.
const TRACKING: &[Need] = &[Need::Simnic, Need::Ct];

macro_rules! tests {
    ($($function:ident),+; conntrack: $($tracking:ident),+ $(,)?) => {
        &[
            $(Test::new(stringify!($function), $function).needs(SIMNIC)),+,
            $(Test::new(stringify!($tracking), $tracking).needs(TRACKING)),+
        ]
    };
}

/// The tests of this subject.
pub(crate) const TESTS: &[Test] = tests![
    ports_carry_switch_ids_and_names,
    devlink_sets_the_vfs_mac_address,
    a_deleted_namespace_gives_its_netdevs_back,
    carrier_follows_the_link,
    legacy_mode_switches_by_mac_address,
    bad_bus_requests_are_refused,
    sriov_numvfs_makes_and_removes_vfs_with_their_representors,
    a_vf_that_is_bound_anew_takes_the_address_it_was_given,
    vfs_come_and_go_under_traffic,
    all_256_vfs_come_and_go,
    a_subfunction_has_a_netdev_while_it_is_active,
    what_is_set_for_a_vf_is_read_back,
    eswitch_settings_wait_for_rules_and_bound_vfs,
    an_injected_failure_answers_one_call,
    recovery_of_the_firmware_resets_the_eswitch,
    a_hung_transmitter_drops_until_it_recovers,
    a_reload_makes_all_ports_anew,
    a_nic_reloads_under_traffic,
    a_bond_of_one_card_forwards_by_the_uplink_it_transmits_on,
    a_card_loses_one_of_its_nics_under_traffic,
    a_miss_goes_up_the_representor_and_down_again,
    a_rule_forwards_between_a_vf_and_the_wire_past_the_host,
    matches_pick_the_frames_that_software_picks,
    vlan_actions_make_the_bytes_that_software_makes,
    rewrites_make_the_bytes_that_software_makes,
    mirrored_and_dropped_frames_are_those_of_software,
    the_comparison_notices_a_difference,
    goto_chain_goes_on_with_the_packet_as_changed,
    a_miss_on_a_later_chain_is_undone_unless_the_host_goes_on,
    priorities_decide_between_rules_that_both_match,
    a_shared_block_has_one_rule_per_representor,
    a_replaced_filter_never_leaves_a_gap,
    delayed_counters_arrive_late_and_exactly,
    refusals_say_why,
    hw_tc_offload_decides_and_is_held_by_rules,
    a_frame_longer_than_the_vf_takes_is_dropped_and_counted,
    a_full_table_is_enospc_with_a_reason,
    injected_refusals_give_their_text,
    install_latency_holds_up_each_rule,
    a_reset_loses_rules_that_tc_believes_in,
    rules_keep_the_eswitch_in_switchdev_mode,
    tcp_passes_a_rewriting_switch_with_offloads_on,
    encapsulated_frames_are_those_of_the_kernels_tunnels,
    decapsulated_frames_are_those_of_the_kernels_tunnels,
    a_tunnels_neighbour_and_route_are_followed,
    what_a_tunnel_cannot_carry_or_does_not_know_goes_to_the_host,
    a_tunnel_device_that_goes_takes_its_rules_out_of_use,
    what_comes_in_by_one_uplink_of_a_card_goes_into_a_tunnel_by_the_other,
    two_nics_tunnel_past_both_hosts,
    two_nics_tunnel_and_encrypt_past_both_hosts,
    bad_esp_and_what_is_in_the_clear_come_out_of_no_tunnel,
    what_a_tunnel_cannot_have_encrypted_does_not_leave,
    rules_on_the_uplink_and_mode_packet_exclude_each_other,
    what_the_nic_encrypts_the_kernel_decrypts_and_the_reverse,
    what_the_nic_wraps_the_kernel_unwraps_and_the_reverse,
    tcp_passes_encrypted_by_both_nics,
    a_violated_demand_of_a_security_association_is_named,
    bad_esp_is_dropped_and_counted_as_by_the_kernel,
    a_reset_loses_security_associations_and_lets_nothing_out,
    an_sa_in_the_nic_expires_softly_and_then_for_good,
    a_policy_in_the_nic_lets_nothing_in_the_clear_pass,
    the_spi_of_a_policy_chooses_among_security_associations,
    the_eswitch_mode_changes_under_traffic,
    everything_unloads_under_traffic_with_rules_bound;
    conntrack: an_established_connection_passes_by_hardware,
    a_new_connection_goes_on_in_software_from_its_ct_action,
    a_chain_that_hardware_lacks_is_gone_on_with_in_software,
    a_later_chain_in_software_sees_the_connection,
    address_translation_makes_the_bytes_that_software_makes,
    mark_label_and_zone_of_a_connection_are_matched,
    two_zones_in_one_rule_track_one_connection,
    fragments_and_other_protocols_stay_in_software,
    conntrack_rules_that_hardware_cannot_do_say_why,
    an_idle_connection_leaves_the_hardware_and_a_busy_one_does_not,
    a_flush_of_conntrack_takes_connections_out_of_hardware,
    a_full_connection_table_leaves_the_rest_to_software,
    a_connection_whose_install_fails_comes_in_later,
    fin_and_reset_go_to_software_and_end_the_connection,
    a_zones_connections_go_and_come_with_its_rules,
    a_nic_with_connections_is_unplugged_under_traffic,
    tcp_passes_conntrack_in_hardware,
    tcp_through_open_vswitch_and_conntrack_passes_by_hardware,
    a_tracked_connection_passes_a_tunnel_by_hardware,
];
