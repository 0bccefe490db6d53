//! OVN: what it writes that cannot be offloaded.

use offload_engine::OvsVersion;

use super::ovs::Defect;
use crate::doctor::{Facts, Finding, Kind, Severity, Stage};

/// All kinds found here.
pub const KINDS: &[&Kind] = &[&OVN_DEFECTS];

/// A version with known defects.
pub static OVN_DEFECTS: Kind = Kind {
    id: "ovn-version-defects",
    in_lab: true,
    stage: Stage::Ovs,
    severity: Severity::Warning,
    complaint: "flows of OVN with conntrack, NAT or load balancers are not offloaded, though the NIC takes conntrack",
    why: "these are mended in later versions of OVN. It is ovn-northd that writes what is matched; its version is taken to be that of \
          this host's ovn-controller",
    mend: "use the version that is named, or a newer one, for ovn-northd and ovn-controller",
};

const fn version(major: u16, minor: u16, patch: u16) -> OvsVersion {
    OvsVersion::new(major, minor, patch)
}

/// Read in OVN's history; each with its commit on the main branch.
const DEFECTS: &[Defect] = &[
    Defect {
        since: version(0, 0, 0),
        mended: version(21, 6, 0),
        backported: &[],
        what: "load balancers match on ct.dnat and on the connection's original addresses, which is often not offloadable (mended in \
               21.06, commits 110e67046 and e1f896fb8)",
    },
    Defect {
        since: version(0, 0, 0),
        mended: version(22, 6, 0),
        backported: &[],
        what: "connections are matched by parts of ct_label, which some NICs do not take (mended in 22.06 by ct_mark, commit a075230e4)",
    },
    Defect {
        since: version(24, 3, 0),
        mended: version(25, 9, 0),
        backported: &[version(24, 3, 6), version(24, 9, 3), version(25, 3, 1)],
        what: "routers with a gateway MTU match on ct_state +dnat, which no TC filter has (mended in 24.03.6, 24.09.3 and 25.03.1, commit \
               35a3092a5)",
    },
    Defect {
        since: version(24, 3, 1),
        mended: version(25, 9, 0),
        backported: &[version(24, 3, 7), version(25, 3, 2)],
        what: "traffic to virtual addresses of load balancers enters the SNAT zone and is never committed there, so that it stays new and \
               in software (mended in 24.03.7 and 25.03.2, commit 342eb7fec)",
    },
];

/// Defects of the version that runs.
pub fn known_defects(facts: &Facts) -> Vec<Finding> {
    let Some(text) = &facts.ovn else { return Vec::new() };
    let Some(version) = OvsVersion::parse(text) else { return Vec::new() };
    let has: Vec<&str> =
        DEFECTS.iter().filter(|defect| defect.is_in(version)).map(|defect| defect.what).collect();
    if has.is_empty() {
        return Vec::new();
    }
    vec![OVN_DEFECTS.found([text.clone()], format!("OVN {text}: {}", has.join("; ")))]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> String {
        let mut facts = crate::doctor::facts::sample::healthy();
        facts.ovn = Some(text.to_owned());
        known_defects(&facts).first().map(|finding| finding.what.clone()).unwrap_or_default()
    }

    #[test]
    fn a_version_has_the_defects_of_its_time_until_they_are_mended_on_its_branch() {
        assert!(found("20.12.0").contains("ct.dnat") && found("20.12.0").contains("ct_label"));
        assert!(!found("21.12.1").contains("ct.dnat") && found("21.12.1").contains("ct_label"));
        assert_eq!(found("22.06.0"), "");
        assert_eq!(found("23.03.0"), "");
        assert!(found("24.03.0").contains("+dnat") && !found("24.03.0").contains("SNAT"));
        assert!(found("24.03.6").contains("SNAT") && !found("24.03.6").contains("+dnat"));
        assert_eq!(found("24.03.7"), "");
        assert!(found("24.09.9").contains("SNAT"), "no release of that branch has it mended");
        assert!(found("25.03.0").contains("+dnat") && found("25.03.1").contains("SNAT"));
        assert_eq!(found("25.03.2"), "");
        assert_eq!(found("25.09.0"), "");
        assert_eq!(found("nonsense"), "");
    }
}
