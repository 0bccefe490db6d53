//! Defects of the kernel's offload, of long-term branches, by the stable release that mends them.
//!
//! Only what a branch's own list of changes says (`ChangeLog-6.1.75` on kernel.org, quoted in Debian's changelog of
//! `linux`). Releases of other distributions have many such changes under an old number, and are not judged.

use offload_engine::OvsVersion;

use crate::doctor::{Facts, Finding, Kind, Severity, Stage};

/// All kinds found here.
pub const KINDS: &[&Kind] = &[&KERNEL_DEFECTS];

/// A stable kernel with known defects.
pub static KERNEL_DEFECTS: Kind = Kind {
    id: "kernel-version-defects",
    in_lab: false,
    stage: Stage::Kernel,
    severity: Severity::Warning,
    complaint: "with a kernel of a long-term branch that was not updated for long, connections are not offloaded, or the host \
                locks up when a VF goes",
    why: "these are mended in later releases of the same branch",
    mend: "use the release that is named, or a newer one",
};

/// A defect, and the release of each branch from which on it is mended. Branches that are not here do not have it, or
/// nothing certain is known of them.
struct Defect {
    mended: &'static [OvsVersion],
    what: &'static str,
}

const fn version(major: u16, minor: u16, patch: u16) -> OvsVersion {
    OvsVersion::new(major, minor, patch)
}

const DEFECTS: &[Defect] = &[
    Defect {
        mended: &[version(5, 10, 237), version(6, 1, 127), version(6, 12, 11)],
        what: "a packet for a port that is just being removed can keep a processor busy for ever (mended in 5.10.237, 6.1.127 and \
               6.12.11: \"openvswitch: fix lockup on tx to unregistering netdev with carrier\")",
    },
    Defect {
        mended: &[version(6, 1, 75)],
        what: "fragments out of order leak memory and can crash the host where TC tracks connections (mended in 6.1.75: \
               \"net/sched: act_ct: fix skb leak and crash on ooo frags\")",
    },
    Defect {
        mended: &[version(5, 10, 103)],
        what: "a connection that passes ct_clear or a second zone is not looked up among the offloaded ones (mended in 5.10.103: \
               \"net/sched: act_ct: Fix flow table lookup after ct clear or switching zones\")",
    },
    Defect {
        mended: &[version(5, 10, 43)],
        what: "an established connection whose flow commits it again is never offloaded (mended in 5.10.43: \
               \"net/sched: act_ct: Offload connections with commit action\")",
    },
];

/// The stable release that a kernel is: of Debian's, whose name has the ABI's number, by what it was built from
/// (`uname -v`: `#1 SMP Debian 6.1.76-1 (2024-02-01)`), of others by its name, unless that ends with `.0`.
fn release_of(release: &str, built: &str) -> Option<OvsVersion> {
    let of_debian = built.split_whitespace().skip_while(|word| *word != "Debian").nth(1);
    if let Some(version) = of_debian.and_then(OvsVersion::parse) {
        return Some(version);
    }
    OvsVersion::parse(release).filter(|version| version.patch != 0)
}

/// Defects of the kernel that runs.
pub fn known_defects(facts: &Facts) -> Vec<Finding> {
    let kernel = &facts.kernel;
    let Some(version) = release_of(&kernel.release, &kernel.built) else { return Vec::new() };
    let is_in = |defect: &&Defect| {
        let same_branch =
            |mended: &&OvsVersion| (mended.major, mended.minor) == (version.major, version.minor);
        defect.mended.iter().find(same_branch).is_some_and(|mended| version < *mended)
    };
    let has: Vec<&str> = DEFECTS.iter().filter(is_in).map(|defect| defect.what).collect();
    if has.is_empty() {
        return Vec::new();
    }
    let number = format!("{}.{}.{}", version.major, version.minor, version.patch);
    let what = format!("kernel {} ({number}): {}", kernel.release, has.join("; "));
    vec![KERNEL_DEFECTS.found([number], what)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(release: &str, built: &str) -> String {
        let mut facts = crate::doctor::facts::sample::healthy();
        (facts.kernel.release, facts.kernel.built) = (release.to_owned(), built.to_owned());
        known_defects(&facts).first().map(|finding| finding.what.clone()).unwrap_or_default()
    }

    #[test]
    fn a_stable_release_has_the_defects_of_its_branch_until_they_are_mended_there() {
        let old = found("5.10.42", "#1 SMP");
        assert!(
            old.contains("commits it again") && old.contains("second zone") && old.contains("removed"),
            "{old}"
        );
        assert!(
            !found("5.10.43", "").contains("commits it again") && !found("5.10.103", "").contains("zone")
        );
        assert_eq!(found("5.10.237", ""), "");
        assert!(
            found("6.1.74-custom", "").contains("fragments") && !found("6.1.75", "").contains("fragments")
        );
        assert!(found("6.12.10", "").contains("6.12.11"));
        assert_eq!(found("6.12.11", ""), "");
    }

    #[test]
    fn debians_kernels_are_known_by_what_they_were_built_from() {
        assert!(
            found("6.1.0-18-amd64", "#1 SMP PREEMPT_DYNAMIC Debian 6.1.76-1 (2024-02-01)")
                .contains("(6.1.76)")
        );
        assert_eq!(found("6.1.0-40-amd64", "#1 SMP PREEMPT_DYNAMIC Debian 6.1.153-1 (2025-09-20)"), "");
        assert_eq!(
            found("6.12.118+deb13-amd64", "#1 SMP PREEMPT_DYNAMIC Debian 6.12.118-1 (2026-11-01)"),
            ""
        );
    }

    #[test]
    fn a_release_of_which_nothing_certain_is_known_is_not_judged() {
        for release in
            ["5.14.0-427.el9.x86_64", "6.12.0-55.el10.x86_64", "5.15.10", "6.8.0-31-generic", "7.0.1", "x"]
        {
            assert_eq!(found(release, "#1 SMP"), "", "{release}");
        }
    }
}
