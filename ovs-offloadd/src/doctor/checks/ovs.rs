//! Open vSwitch: whether it runs, its settings and whether they hold, its version.

use offload_engine::{OvsVersion, TcPolicy};

use crate::doctor::{Facts, Filter, Finding, Kind, Ovs, Severity, Stage};

/// All kinds found here.
pub const KINDS: &[&Kind] = &[
    &OVSDB_UNREACHABLE,
    &VSWITCHD_NOT_RUNNING,
    &HW_OFFLOAD_OFF,
    &HW_OFFLOAD_STILL_ON,
    &TC_POLICY_SKIP_SW,
    &TC_POLICY_NOT_IN_FORCE,
    &OVS_DEFECTS,
    &INGRESS_POLICING,
];

/// No database.
pub static OVSDB_UNREACHABLE: Kind = Kind {
    id: "ovsdb-unreachable",
    in_lab: true,
    stage: Stage::Ovs,
    severity: Severity::Error,
    complaint: "`ovs-vsctl` does not answer",
    why: "neither Open vSwitch's settings nor its bridges can be read, by us, by the daemon, or by ovs-vswitchd at its next start",
    mend: "start ovsdb-server; if it runs, be root, and give the right --rundir, or --config with the right ovs.database",
};

/// No switch.
pub static VSWITCHD_NOT_RUNNING: Kind = Kind {
    id: "vswitchd-not-running",
    in_lab: true,
    stage: Stage::Ovs,
    severity: Severity::Error,
    complaint: "what flows already goes on for a while, and nothing new gets through",
    why: "without ovs-vswitchd no flow is made, in software or in hardware",
    mend: "start it; if it runs, be root, and give the right --rundir",
};

/// `hw-offload` is not on.
pub static HW_OFFLOAD_OFF: Kind = Kind {
    id: "hw-offload-off",
    in_lab: true,
    stage: Stage::Ovs,
    severity: Severity::Error,
    complaint: "VF pods run, and nothing is offloaded; `dpctl/dump-flows type=offloaded` shows nothing",
    why: "Open vSwitch puts no flow into TC, from where alone one can go into hardware",
    mend: "turn it on and restart ovs-vswitchd",
};

/// `hw-offload` was turned off, and the process that runs offloads still.
pub static HW_OFFLOAD_STILL_ON: Kind = Kind {
    id: "hw-offload-still-on",
    in_lab: true,
    stage: Stage::Ovs,
    severity: Severity::Warning,
    complaint: "hw-offload was turned off, and flows are offloaded still",
    why: "ovs-vswitchd reads the setting until it is on, and never again: what runs now does not do what the database says",
    mend: "restart ovs-vswitchd, and look again then: filters that it leaves behind go on forwarding",
};

/// `tc-policy=skip_sw`.
pub static TC_POLICY_SKIP_SW: Kind = Kind {
    id: "tc-policy-skip-sw",
    in_lab: true,
    stage: Stage::Ovs,
    severity: Severity::Warning,
    complaint: "conntrack flows are not offloaded any more since tc-policy was set to skip_sw",
    why: "with skip_sw TC forwards nothing in software: flows with conntrack need their first packets there, and whatever the NIC \
          refuses is not in TC at all",
    mend: "use skip_hw, with ovs-offloadd in mode steer or auto, or none; then restart ovs-vswitchd",
};

/// `tc-policy` is not what the filters show.
pub static TC_POLICY_NOT_IN_FORCE: Kind = Kind {
    id: "tc-policy-not-in-force",
    in_lab: true,
    stage: Stage::Ovs,
    severity: Severity::Error,
    complaint: "tc-policy was changed and nothing else changed",
    why: "ovs-vswitchd reads tc-policy once, when hw-offload is turned on: the filters it makes follow the policy of then",
    mend: "restart ovs-vswitchd",
};

/// A version with known defects.
pub static OVS_DEFECTS: Kind = Kind {
    id: "ovs-version-defects",
    in_lab: true,
    stage: Stage::Ovs,
    severity: Severity::Warning,
    complaint: "a few flows are forwarded otherwise in hardware, or never noticed to be wrong, after a change that seems unrelated",
    why: "these are mended in later versions of Open vSwitch",
    mend: "use Open vSwitch 3.5 or newer",
};

/// A limit that hardware may not keep.
pub static INGRESS_POLICING: Kind = Kind {
    id: "ingress-policing",
    in_lab: true,
    stage: Stage::Ovs,
    severity: Severity::Warning,
    complaint: "a port with ingress_policing_rate sends more than it may once its flows are offloaded",
    why: "the limit is a filter of its own in TC; flows in hardware pass it by unless the driver takes that filter too",
    mend: "limit the VF by the NIC instead (`devlink port function rate`, `ip link set … vf N max_tx_rate`)",
};

/// The database cannot be read.
pub fn unreachable(facts: &Facts) -> Vec<Finding> {
    let why = facts.ovsdb.as_ref().err();
    let found = why.map(|why| {
        let what = format!("Open vSwitch's database cannot be read: {why}");
        OVSDB_UNREACHABLE.found([""; 0], what).run("systemctl start openvswitch-switch")
    });
    found.into_iter().collect()
}

/// ovs-vswitchd is not found.
pub fn not_running(facts: &Facts) -> Vec<Finding> {
    let why = facts.vswitchd.as_ref().err();
    let found = why.map(|why| {
        VSWITCHD_NOT_RUNNING
            .found(["ovs-vswitchd"], format!("no ovs-vswitchd: {why}"))
            .run("systemctl start openvswitch-switch")
    });
    found.into_iter().collect()
}

/// What the settings say.
pub fn settings(facts: &Facts) -> Vec<Finding> {
    let Ok(ovs) = &facts.ovsdb else { return Vec::new() };
    if !ovs.hw_offload {
        let what = "other_config:hw-offload is not true";
        let command = "ovs-vsctl set Open_vSwitch . other_config:hw-offload=true other_config:tc-policy=skip_hw && systemctl \
                       restart openvswitch-switch";
        return vec![HW_OFFLOAD_OFF.found(["hw-offload"], what).run(command)];
    }
    if ovs.tc_policy == TcPolicy::SkipSw {
        let what = "other_config:tc-policy is skip_sw";
        let command = "ovs-vsctl set Open_vSwitch . other_config:tc-policy=skip_hw && systemctl restart openvswitch-switch";
        return vec![TC_POLICY_SKIP_SW.found(["tc-policy"], what).run(command)];
    }
    Vec::new()
}

/// Open vSwitch's filters that the running ovs-vswitchd can have made: with the name of the port.
fn made_by(facts: &Facts, age_ms: u64) -> impl Iterator<Item = (&str, &Filter)> {
    of_ovs(facts).filter(move |(_, filter)| filter.age_ms.is_some_and(|age| age <= age_ms))
}

/// Open vSwitch's filters with the name of the port.
fn of_ovs(facts: &Facts) -> impl Iterator<Item = (&str, &Filter)> {
    let ports = facts.all_links().filter_map(|(ifindex, link)| {
        Some((link.name.as_str(), facts.filters.get(&ifindex)?.as_ref().ok()?))
    });
    ports
        .flat_map(|(name, filters)| filters.iter().map(move |filter| (name, filter)))
        .filter(|(_, filter)| filter.of_ovs)
}

const RESTART: &str = "systemctl restart openvswitch-switch";

/// Settings that were changed after ovs-vswitchd read them, as its filters show.
pub fn settings_not_in_force(facts: &Facts) -> Vec<Finding> {
    let (Ok(ovs), Ok(process)) = (&facts.ovsdb, &facts.vswitchd) else { return Vec::new() };
    let mut made = made_by(facts, process.age_ms).peekable();
    let Some((port, _)) = made.peek().copied() else { return Vec::new() };
    if !ovs.hw_offload {
        let what = format!(
            "hw-offload is not true in the database, and ovs-vswitchd has put flows into TC since it started ({port})"
        );
        return vec![HW_OFFLOAD_STILL_ON.found(["hw-offload"], what).run(RESTART)];
    }
    let (mut skip_hw, mut all) = (0_u64, 0_u64);
    for (_, filter) in made {
        all += 1;
        skip_hw += u64::from(filter.skip_hw);
    }
    policy_not_in_force(ovs, facts.daemon_runs, skip_hw, all).into_iter().collect()
}

fn policy_not_in_force(ovs: &Ovs, daemon_runs: bool, skip_hw: u64, all: u64) -> Option<Finding> {
    let policy = ovs.tc_policy.as_str();
    let (what, severity) = match ovs.tc_policy {
        TcPolicy::None | TcPolicy::SkipSw if skip_hw > 0 => (
            format!(
                "tc-policy is {policy} in the database, and {skip_hw} of Open vSwitch's {all} filters have skip_hw"
            ),
            Severity::Error,
        ),
        // The daemon takes skip_hw away from filters one by one: while it runs that says nothing.
        TcPolicy::SkipHw if skip_hw == 0 && !daemon_runs => (
            format!("tc-policy is skip_hw in the database, and none of Open vSwitch's {all} filters has it"),
            Severity::Warning,
        ),
        _ => return None,
    };
    Some(TC_POLICY_NOT_IN_FORCE.found(["tc-policy"], what).run(RESTART).but(severity))
}

/// A defect, and the versions that have it.
pub(super) struct Defect {
    /// The first that has it.
    pub(super) since: OvsVersion,
    /// The first on the main branch that has it mended.
    pub(super) mended: OvsVersion,
    /// The first on each older branch that has it mended.
    pub(super) backported: &'static [OvsVersion],
    /// What it is.
    pub(super) what: &'static str,
}

impl Defect {
    /// Whether a version has it.
    pub(super) fn is_in(&self, version: OvsVersion) -> bool {
        let same_branch =
            |mended: &&OvsVersion| (mended.major, mended.minor) == (version.major, version.minor);
        let is_mended = self.backported.iter().find(same_branch).is_some_and(|mended| version >= *mended);
        self.since <= version && version < self.mended && !is_mended
    }
}

const fn version(major: u16, minor: u16, patch: u16) -> OvsVersion {
    OvsVersion::new(major, minor, patch)
}

/// Read in the sources of the versions and their branches, but for the handler threads, which the lab has seen.
const DEFECTS: &[Defect] = &[
    Defect {
        since: version(0, 0, 0),
        mended: version(3, 2, 0),
        backported: &[],
        what: "started in the first 10 s after boot it has no handler thread and loses every new flow (mended in the last updates of \
               3.1, commit b354cee2e)",
    },
    Defect {
        since: version(0, 0, 0),
        mended: version(3, 2, 0),
        backported: &[version(2, 17, 6), version(3, 0, 4), version(3, 1, 1)],
        what: "offloaded flows of NICs that count late are deleted and made again, for max-revalidator is too short (commit 29720e378)",
    },
    Defect {
        since: version(2, 11, 0),
        mended: version(3, 3, 0),
        backported: &[version(2, 17, 9), version(3, 0, 6), version(3, 1, 4), version(3, 2, 2)],
        what: "with hw-offload on, a Geneve packet with broken options ends ovs-vswitchd (commit be695f26f)",
    },
    Defect {
        since: version(0, 0, 0),
        mended: version(3, 5, 0),
        backported: &[version(3, 3, 4), version(3, 4, 2)],
        what: "flows that change addresses or ports are offloaded for fragments too, whose checksums are then wrong (commit 472143855 of \
               3.5)",
    },
    Defect {
        since: version(0, 0, 0),
        mended: version(3, 3, 0),
        backported: &[],
        what: "a flow whose filter is not what it should be is not noticed until it changes or ends",
    },
    Defect {
        since: version(0, 0, 0),
        mended: version(3, 5, 0),
        backported: &[],
        what: "flows that match the DF, CSUM or OAM flag of a tunnel are offloaded without that match",
    },
];

/// Defects of this version.
pub fn known_defects(facts: &Facts) -> Vec<Finding> {
    let Ok(ovs) = &facts.ovsdb else { return Vec::new() };
    let (Some(version), Some(text)) = (ovs.numbers(), &ovs.version) else { return Vec::new() };
    let has: Vec<&str> =
        DEFECTS.iter().filter(|defect| defect.is_in(version)).map(|defect| defect.what).collect();
    if has.is_empty() {
        return Vec::new();
    }
    vec![OVS_DEFECTS.found([text.clone()], format!("Open vSwitch {text}: {}", has.join("; ")))]
}

/// Limits on ports of a NIC that are not in it.
pub fn policing(facts: &Facts) -> Vec<Finding> {
    let limited =
        facts.interfaces().filter(|interface| interface.policing_kbps > 0 || interface.policing_kpkts > 0);
    limited
        .filter_map(|interface| {
            let name = &interface.name;
            let (ifindex, link) = facts.link_named(name)?;
            link.role?;
            let filters = facts.filters.get(&ifindex).and_then(|filters| filters.as_ref().ok());
            let in_hw = filters.and_then(|filters| policer(filters)?.in_hw);
            if in_hw == Some(true) {
                return None;
            }
            let mut limits = Vec::new();
            if interface.policing_kbps > 0 {
                limits.push(format!("{} kbit/s", interface.policing_kbps));
            }
            if interface.policing_kpkts > 0 {
                limits.push(format!("{} kpkt/s", interface.policing_kpkts));
            }
            let limits = limits.join(" and ");
            let placed = if in_hw.is_some() {
                "its driver did not take"
            } else {
                "it is not known whether its driver took"
            };
            let what = format!("port {name} has ingress policing of {limits}, and {placed} the policer");
            Some(INGRESS_POLICING.found([name], what))
        })
        .collect()
}

/// The filter that keeps a port's limit: Open vSwitch's one of another classifier.
fn policer(filters: &[Filter]) -> Option<&Filter> {
    filters.iter().find(|filter| filter.classifier == "matchall" && filter.chain == 0 && !filter.of_ovs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::checks::seen;
    use crate::doctor::facts::sample::{self, VF0};

    fn filters(facts: &mut Facts) -> &mut Vec<Filter> {
        facts.filters.get_mut(&VF0).unwrap().as_mut().unwrap()
    }

    #[test]
    fn settings_that_keep_flows_out_of_hardware_are_found() {
        let mut facts = sample::healthy();
        facts.ovs_mut().tc_policy = TcPolicy::SkipSw;
        assert_eq!(seen(&settings(&facts)), [("tc-policy-skip-sw", vec!["tc-policy"])]);
        facts.ovs_mut().hw_offload = false;
        assert_eq!(seen(&settings(&facts)), [("hw-offload-off", vec!["hw-offload"])]);
    }

    #[test]
    fn filters_made_by_a_vswitchd_that_should_not_offload_are_found() {
        let mut facts = sample::healthy();
        facts.ovs_mut().hw_offload = false;
        assert_eq!(seen(&settings_not_in_force(&facts)), [("hw-offload-still-on", vec!["hw-offload"])]);
        for filter in filters(&mut facts) {
            filter.age_ms = Some(3_600_000);
        }
        assert_eq!(settings_not_in_force(&facts), [], "made by an earlier one");
        facts.vswitchd = Err("gone".into());
        assert_eq!(settings_not_in_force(&facts), []);
    }

    #[test]
    fn a_policy_that_the_filters_do_not_show_is_found() {
        let mut facts = sample::healthy();
        facts.ovs_mut().tc_policy = TcPolicy::None;
        let found = settings_not_in_force(&facts);
        assert_eq!(seen(&found), [("tc-policy-not-in-force", vec!["tc-policy"])]);
        assert!(found[0].what.contains("2 of Open vSwitch's 2 filters have skip_hw"), "{}", found[0].what);
        assert_eq!(found[0].severity, Severity::Error);
        for filter in filters(&mut facts) {
            filter.skip_hw = false;
        }
        assert_eq!(settings_not_in_force(&facts), []);
        facts.ovs_mut().tc_policy = TcPolicy::SkipHw;
        assert_eq!(settings_not_in_force(&facts)[0].severity, Severity::Warning);
        facts.daemon_runs = true;
        assert_eq!(settings_not_in_force(&facts), [], "the daemon promoted them");
    }

    #[test]
    fn a_version_has_the_defects_of_its_time() {
        let mut facts = sample::healthy();
        facts.ovs_mut().version = Some("3.1.0".into());
        let found = known_defects(&facts);
        assert_eq!(seen(&found), [("ovs-version-defects", vec!["3.1.0"])]);
        assert!(found[0].what.contains("handler thread") && found[0].what.contains("OAM"));
        assert!(found[0].what.contains("max-revalidator") && found[0].what.contains("Geneve packet"));
        facts.ovs_mut().version = Some("3.1.4".into());
        let what = known_defects(&facts)[0].what.clone();
        assert!(!what.contains("max-revalidator") && !what.contains("Geneve packet"), "{what}");
        facts.ovs_mut().version = Some("3.4.1".into());
        let what = known_defects(&facts)[0].what.clone();
        assert!(!what.contains("handler thread") && what.contains("fragments"), "{what}");
        facts.ovs_mut().version = Some("3.4.2".into());
        assert!(!known_defects(&facts)[0].what.contains("fragments"));
        for good in ["3.5.0", "4.0.1", "unreadable"] {
            facts.ovs_mut().version = Some(good.into());
            assert_eq!(known_defects(&facts), [], "{good}");
        }
    }

    #[test]
    fn a_limit_on_a_port_of_a_nic_is_found() {
        let mut facts = sample::healthy();
        facts.interface_mut("eth0_1").policing_kbps = 10_000;
        facts.interface_mut("eth0_1").policing_kpkts = 5;
        let found = policing(&facts);
        assert_eq!(seen(&found), [("ingress-policing", vec!["eth0_1"])]);
        assert_eq!(
            found[0].what,
            "port eth0_1 has ingress policing of 10000 kbit/s and 5 kpkt/s, and it is not known whether its driver took the policer"
        );
        let policer =
            |in_hw| Filter { of_ovs: false, classifier: "matchall".into(), in_hw, ..sample::filter(1) };
        facts.filters.insert(sample::VF1, Ok(vec![policer(Some(false))]));
        assert!(policing(&facts)[0].what.ends_with("its driver did not take the policer"));
        facts.filters.insert(sample::VF1, Ok(vec![policer(Some(true))]));
        assert_eq!(policing(&facts), [], "hardware keeps the limit");
        facts.filters.clear();
        facts.link_mut(sample::VF1).role = None;
        assert_eq!(policing(&facts), [], "software keeps the limit");
    }
}
