//! ovs-offloadd's configuration, and what this process may do.

use offload_engine::{OvsSettings, TcPolicy};

use crate::config::ModeSetting;
use crate::doctor::{Facts, Finding, Kind, Severity, Stage};

/// All kinds found here.
pub const KINDS: &[&Kind] = &[
    &CONFIGURATION_WRONG,
    &TC_POLICY_NOT_SKIP_HW,
    &NO_GUARD,
    &IDLE_IN_HARDWARE,
    &NO_NET_ADMIN,
    &CAPABILITIES_UNKNOWN,
];

/// A configuration that the daemon refuses.
pub static CONFIGURATION_WRONG: Kind = Kind {
    id: "configuration-wrong",
    in_lab: true,
    stage: Stage::Daemon,
    severity: Severity::Error,
    complaint: "ovs-offloadd does not start",
    why: "ovs-offloadd refuses to start with it",
    mend: "mend what it names; `ovs-offloadd --check` tells all of it",
};

/// A policy of Open vSwitch's with which the daemon cannot steer.
pub static TC_POLICY_NOT_SKIP_HW: Kind = Kind {
    id: "tc-policy-not-skip-hw",
    in_lab: true,
    stage: Stage::Daemon,
    severity: Severity::Error,
    complaint: "ovs-offloadd does not start in mode steer, or only observes in mode auto",
    why: "ovs-offloadd places flows one by one, which needs Open vSwitch to leave them out of hardware first; otherwise Open vSwitch \
          fills the NIC's table with whatever comes first",
    mend: "set tc-policy and restart ovs-vswitchd",
};

/// Mode shadow without a guard.
pub static NO_GUARD: Kind = Kind {
    id: "no-guard",
    in_lab: false,
    stage: Stage::Daemon,
    severity: Severity::Error,
    complaint: "ovs-offloadd in mode shadow places nothing (`no_guard`)",
    why: "in mode shadow rules are ovs-offloadd's own; when it dies or hangs, somebody has to remove them",
    mend: "start ovs-offload-guard",
};

/// Mode shadow with megaflows that are deleted while hardware takes their packets.
pub static IDLE_IN_HARDWARE: Kind = Kind {
    id: "idle-in-hardware",
    in_lab: false,
    stage: Stage::Daemon,
    severity: Severity::Note,
    complaint: "in mode shadow, busy flows leave hardware every ten seconds and come back, each time by ovs-vswitchd",
    why: "Open vSwitch does not see packets that hardware takes in mode shadow, and deletes a megaflow that had none for max-idle",
    mend: "set shadow.gaps, or a longer max-idle where there are not too many megaflows",
};

/// No CAP_NET_ADMIN.
pub static NO_NET_ADMIN: Kind = Kind {
    id: "no-net-admin",
    in_lab: true,
    stage: Stage::Daemon,
    severity: Severity::Warning,
    complaint: "ovs-offloadd or this command ends with \"Operation not permitted\", started by hand",
    why: "without CAP_NET_ADMIN no rule can be moved, and some of what is looked at here is hidden",
    mend: "run this as root, to see all there is; the daemon's systemd unit gives it the capability",
};

/// The capabilities cannot be read.
pub static CAPABILITIES_UNKNOWN: Kind = Kind {
    id: "capabilities-unknown",
    in_lab: false,
    stage: Stage::Daemon,
    severity: Severity::Note,
    complaint: "doctor says that it cannot look",
    why: "whether all can be seen from here cannot be told",
    mend: "see /proc/self/status",
};

/// The configuration cannot be used.
pub fn configuration(facts: &Facts) -> Vec<Finding> {
    let why = facts.mode.as_ref().err();
    let found = why.map(|why| {
        CONFIGURATION_WRONG.found([""; 0], format!("ovs-offloadd's configuration is wrong: {why}"))
    });
    found.into_iter().collect()
}

/// The mode that is configured and Open vSwitch's policy do not go together.
pub fn mode_and_policy(facts: &Facts) -> Vec<Finding> {
    let (Ok(mode), Ok(ovs)) = (&facts.mode, &facts.ovsdb) else { return Vec::new() };
    let (word, severity) = match mode {
        ModeSetting::Observe | ModeSetting::Shadow => return Vec::new(),
        ModeSetting::Auto => ("auto, which then only observes", Severity::Note),
        ModeSetting::Steer => ("steer", Severity::Error),
    };
    if !ovs.hw_offload || ovs.tc_policy == TcPolicy::SkipHw {
        return Vec::new();
    }
    let what = format!("tc-policy is {}, and ovs-offloadd's mode is {word}", ovs.tc_policy.as_str());
    let command =
        "ovs-vsctl set Open_vSwitch . other_config:tc-policy=skip_hw && systemctl restart openvswitch-switch";
    vec![TC_POLICY_NOT_SKIP_HW.found(["tc-policy"], what).run(command).but(severity)]
}

/// Who removes rules of mode shadow when the daemon cannot.
pub fn guard(facts: &Facts) -> Vec<Finding> {
    let (Ok(ModeSetting::Shadow), Some(why)) = (&facts.mode, &facts.no_guard) else { return Vec::new() };
    let what = format!("mode is shadow, and there is no guard: {why}");
    vec![NO_GUARD.found(["shadow.guard"], what).run("systemctl enable --now ovs-offload-guard")]
}

/// How long Open vSwitch keeps megaflows that hardware takes the packets of.
pub fn idle(facts: &Facts) -> Vec<Finding> {
    let (Ok(ModeSetting::Shadow), Ok(ovs)) = (&facts.mode, &facts.ovsdb) else { return Vec::new() };
    let usual = OvsSettings::MAX_IDLE_DEFAULT.0 / 1_000;
    let max_idle = ovs.max_idle_ms.unwrap_or(usual);
    if facts.gaps || ovs.hw_offload || max_idle > usual {
        return Vec::new();
    }
    let what = format!("mode is shadow without shadow.gaps, and max-idle is {max_idle} ms");
    vec![
        IDLE_IN_HARDWARE
            .found(["max-idle"], what)
            .run("ovs-vsctl set Open_vSwitch . other_config:max-idle=60000"),
    ]
}

/// What this process may do.
pub fn capabilities(facts: &Facts) -> Vec<Finding> {
    match &facts.net_admin {
        Ok(true) => Vec::new(),
        Ok(false) => vec![NO_NET_ADMIN.found(["CAP_NET_ADMIN"], "this process lacks CAP_NET_ADMIN")],
        Err(why) => {
            let what = format!("the capabilities of this process cannot be read: {why}");
            vec![CAPABILITIES_UNKNOWN.found([""; 0], what)]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::checks::seen;
    use crate::doctor::facts::sample;

    #[test]
    fn a_policy_other_than_skip_hw_is_as_bad_as_the_mode_needs_it() {
        let mut facts = sample::healthy();
        facts.ovs_mut().tc_policy = TcPolicy::None;
        for (mode, severity) in [(ModeSetting::Auto, Severity::Note), (ModeSetting::Steer, Severity::Error)] {
            facts.mode = Ok(mode);
            let found = mode_and_policy(&facts);
            assert_eq!(seen(&found), [("tc-policy-not-skip-hw", vec!["tc-policy"])]);
            assert_eq!(found[0].severity, severity);
        }
        facts.mode = Ok(ModeSetting::Observe);
        assert_eq!(mode_and_policy(&facts), []);
        facts.mode = Ok(ModeSetting::Steer);
        facts.ovs_mut().tc_policy = TcPolicy::SkipHw;
        assert_eq!(mode_and_policy(&facts), []);
    }

    #[test]
    fn mode_shadow_without_a_guard_is_told() {
        let mut facts = sample::healthy();
        facts.no_guard = Some("nobody answers".into());
        assert_eq!(guard(&facts), []);
        facts.mode = Ok(ModeSetting::Shadow);
        assert_eq!(seen(&guard(&facts)), [("no-guard", vec!["shadow.guard"])]);
        facts.no_guard = None;
        assert_eq!(guard(&facts), []);
    }

    #[test]
    fn mode_shadow_with_a_short_max_idle_and_without_gaps_is_told() {
        let mut facts = sample::healthy();
        facts.ovs_mut().hw_offload = false;
        assert_eq!(idle(&facts), []);
        facts.mode = Ok(ModeSetting::Shadow);
        assert_eq!(seen(&idle(&facts)), [("idle-in-hardware", vec!["max-idle"])]);
        facts.ovs_mut().max_idle_ms = Some(60_000);
        assert_eq!(idle(&facts), []);
        (facts.ovs_mut().max_idle_ms, facts.gaps) = (None, true);
        assert_eq!(idle(&facts), []);
    }

    #[test]
    fn a_process_without_the_capability_is_told_so() {
        let mut facts = sample::healthy();
        facts.net_admin = Ok(false);
        assert_eq!(seen(&capabilities(&facts)), [("no-net-admin", vec!["CAP_NET_ADMIN"])]);
    }

    #[test]
    fn a_wrong_configuration_is_quoted() {
        let mut facts = sample::healthy();
        facts.mode = Err("c.toml:1:1: unknown key x".into());
        assert_eq!(seen(&configuration(&facts))[0].0, "configuration-wrong");
        assert!(configuration(&facts)[0].what.ends_with("unknown key x"));
    }
}
