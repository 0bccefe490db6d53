//! `ovs-offloadctl doctor`: each complaint is brought about, is named with its cause, and is gone when it is mended as the
//! finding says.

mod complaint;
mod host;
mod ports;
mod probe;
mod probe_tunnels;
mod settings;

use lab_tests::harness::{Need, Test, fact};

use host::what_kernel_and_release_lack_is_named_and_what_a_user_may_not_see_is_told;
use ports::faults_of_ports_tc_tunnels_and_a_nic_are_named_and_mended;
use probe::{
    a_probe_tells_what_a_driver_takes_and_no_packet_is_treated_otherwise,
    a_rule_with_what_a_probe_saw_refused_is_not_tried_until_that_is_forgotten,
};
use probe_tunnels::a_probe_tells_what_a_driver_takes_of_tunnels_and_leaves_nothing_at_their_devices;
use settings::settings_that_do_not_hold_and_what_daemons_left_behind_are_named;

const NEEDS: &[Need] = &[Need::Simnic, Need::Daemon];

pub(crate) const TESTS: &[Test] = &[
    fact!(faults_of_ports_tc_tunnels_and_a_nic_are_named_and_mended).needs(NEEDS),
    fact!(settings_that_do_not_hold_and_what_daemons_left_behind_are_named).needs(NEEDS),
    fact!(what_kernel_and_release_lack_is_named_and_what_a_user_may_not_see_is_told)
        .needs(NEEDS)
        .per_release(),
    fact!(a_probe_tells_what_a_driver_takes_and_no_packet_is_treated_otherwise).needs(NEEDS),
    fact!(a_probe_tells_what_a_driver_takes_of_tunnels_and_leaves_nothing_at_their_devices).needs(NEEDS),
    fact!(a_rule_with_what_a_probe_saw_refused_is_not_tried_until_that_is_forgotten).needs(NEEDS),
];

#[cfg(test)]
mod tests {
    use ovs_offloadd::doctor::checks;
    use ovs_offloadd::doctor::complaints::{COMPLAINTS, Complaint, PROBE};

    const SOURCES: [&str; 5] = [
        include_str!("doctor/complaint.rs"),
        include_str!("doctor/host.rs"),
        include_str!("doctor/ports.rs"),
        include_str!("doctor/settings.rs"),
        include_str!("hot/bond.rs"),
    ];

    #[test]
    fn what_was_told_in_public_is_brought_about_by_the_test_that_docs_name() {
        for Complaint { heard, finding, shown_by, .. } in COMPLAINTS {
            let quoted = format!("\"{heard}\"");
            let of_test = |source: &&&str| source.contains(&format!("fn {shown_by}("));
            let source = SOURCES.iter().chain([&include_str!("doctor/probe.rs")]).find(of_test);
            let source = source.unwrap_or_else(|| panic!("no test {shown_by}"));
            assert!(source.contains(&quoted), "{shown_by} does not show {heard}");
            assert!(*finding == PROBE || checks::kinds().any(|kind| kind.id == *finding), "{finding}");
        }
    }

    #[test]
    fn what_docs_say_is_brought_about_here_is_named_here() {
        for kind in checks::kinds() {
            let quoted = format!("\"{}\"", kind.id);
            let named = SOURCES.iter().any(|source| source.contains(&quoted));
            assert_eq!(named, kind.in_lab, "{}", kind.id);
        }
    }
}
