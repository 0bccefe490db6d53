//! `ovs-offloadctl doctor`: each complaint is brought about, is named with its cause, and is gone when it is mended as the
//! finding says.

mod complaint;
mod host;
mod ports;
mod settings;

use lab_tests::harness::{Need, Test, fact};

use host::what_kernel_and_release_lack_is_named_and_what_a_user_may_not_see_is_told;
use ports::faults_of_ports_tc_tunnels_and_a_nic_are_named_and_mended;
use settings::settings_that_do_not_hold_and_what_daemons_left_behind_are_named;

const NEEDS: &[Need] = &[Need::Simnic, Need::Daemon];

pub(crate) const TESTS: &[Test] = &[
    fact!(faults_of_ports_tc_tunnels_and_a_nic_are_named_and_mended).needs(NEEDS),
    fact!(settings_that_do_not_hold_and_what_daemons_left_behind_are_named).needs(NEEDS),
    fact!(what_kernel_and_release_lack_is_named_and_what_a_user_may_not_see_is_told)
        .needs(NEEDS)
        .per_release(),
];

#[cfg(test)]
mod tests {
    use ovs_offloadd::doctor::checks;

    const SOURCES: [&str; 4] = [
        include_str!("doctor/complaint.rs"),
        include_str!("doctor/host.rs"),
        include_str!("doctor/ports.rs"),
        include_str!("doctor/settings.rs"),
    ];

    #[test]
    fn what_docs_say_is_brought_about_here_is_named_here() {
        for kind in checks::kinds() {
            let quoted = format!("\"{}\"", kind.id);
            let named = SOURCES.iter().any(|source| source.contains(&quoted));
            assert_eq!(named, kind.in_lab, "{}", kind.id);
        }
    }
}
