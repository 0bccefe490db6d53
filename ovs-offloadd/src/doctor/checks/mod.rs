//! The checks: pure functions of the facts, in the order of the walk.

pub mod daemon;
pub mod ipsec;
pub mod kernel;
pub mod kernel_defects;
pub mod nic;
pub mod ovn;
pub mod ovs;
pub mod ports;
pub mod tc;
pub mod tunnels;

use super::{Facts, Finding, Kind};

/// Something to look at.
pub type Check = fn(&Facts) -> Vec<Finding>;

/// Every check.
pub const ALL: &[Check] = &[
    nic::no_nic,
    nic::legacy_eswitch,
    nic::failed_reload,
    nic::unhealthy,
    nic::no_encapsulation,
    nic::unreadable,
    kernel::lacks_options,
    kernel::lacks_modules,
    kernel::lacks_skb_ext,
    kernel_defects::known_defects,
    kernel::unreadable,
    ports::hw_tc_offload,
    ports::representors_down,
    ports::uplinks_down,
    ports::netdevs_missing,
    ports::representors_off_bridge,
    ports::uplinks_off_bridge,
    ports::unreadable,
    ovs::unreachable,
    ovs::not_running,
    ovs::settings,
    ovs::settings_not_in_force,
    ovs::known_defects,
    ovs::policing,
    ovn::known_defects,
    ipsec::settings,
    tunnels::mtu,
    tunnels::unreadable,
    tc::qdiscs_missing,
    tc::members_off_block,
    tc::foreign_filters,
    tc::stranded_filters,
    ipsec::exclusion,
    tc::unreadable,
    daemon::configuration,
    daemon::mode_and_policy,
    daemon::guard,
    daemon::idle,
    daemon::capabilities,
];

/// Every kind of finding, in the order of the walk.
pub fn kinds() -> impl Iterator<Item = &'static Kind> {
    let all: [&[&'static Kind]; 10] = [
        nic::KINDS,
        kernel::KINDS,
        kernel_defects::KINDS,
        ports::KINDS,
        ovs::KINDS,
        ovn::KINDS,
        tunnels::KINDS,
        tc::KINDS,
        ipsec::KINDS,
        daemon::KINDS,
    ];
    all.into_iter().flatten().copied()
}

/// Findings of a check, for tests: the ids with what they are about.
#[cfg(test)]
pub(crate) fn seen(findings: &[Finding]) -> Vec<(&'static str, Vec<&str>)> {
    let names = |finding: &'_ Finding| finding.kind.id;
    findings
        .iter()
        .map(|finding| (names(finding), finding.names.iter().map(String::as_str).collect()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::facts::sample;

    #[test]
    fn nothing_is_found_on_a_healthy_host() {
        let facts = sample::healthy();
        let found: Vec<Finding> = ALL.iter().flat_map(|check| check(&facts)).collect();
        assert_eq!(found, []);
    }

    #[test]
    fn facts_that_cannot_be_had_are_findings_and_no_more() {
        let why = || "it is not there".to_owned();
        let facts = Facts {
            nics: Err(why()),
            links: Err(why()),
            ovsdb: Err(why()),
            vswitchd: Err(why()),
            shares_recirc_ids: Err(why()),
            routes: Err(why()),
            ingress_qdiscs: Err(why()),
            filters: [(sample::VF0, Err(why()))].into(),
            mode: Err(why()),
            net_admin: Err(why()),
            ipsec: Err(why()),
            ovn: None,
            kernel: super::super::Kernel {
                release: String::new(),
                built: String::new(),
                options: Err(why()),
                modules: Err(why()),
            },
            daemon_runs: false,
            no_guard: None,
            gaps: false,
        };
        let found: Vec<Finding> = ALL.iter().flat_map(|check| check(&facts)).collect();
        let ids: Vec<&str> = found.iter().map(|finding| finding.kind.id).collect();
        assert_eq!(
            ids,
            [
                "nics-unreadable",
                "kernel-options-unknown",
                "modules-unknown",
                "ports-unreadable",
                "ovsdb-unreachable",
                "vswitchd-not-running",
                "routes-unreadable",
                "tc-unreadable",
                "tc-unreadable",
                "configuration-wrong",
                "capabilities-unknown"
            ]
        );
        assert!(found.iter().all(|finding| finding.what.contains("it is not there")), "{found:?}");
    }

    #[test]
    fn an_id_is_in_kebab_case_and_stands_for_one_kind() {
        let mut ids: Vec<&str> = kinds().map(|kind| kind.id).collect();
        let plain = |id: &str| id.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
        assert!(ids.iter().all(|id| plain(id) && !id.starts_with('-') && !id.ends_with('-')), "{ids:?}");
        let all = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), all);
    }
}
