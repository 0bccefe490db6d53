//! NICs: driver and eswitch.

use crate::doctor::{Facts, Finding, Kind, Nic, Severity, Stage};

/// All kinds found here.
pub const KINDS: &[&Kind] = &[
    &NO_NIC,
    &ESWITCH_LEGACY,
    &RELOAD_FAILED,
    &HEALTH_ERROR,
    &ESWITCH_NO_ENCAP,
    &ESWITCH_UNREADABLE,
    &HEALTH_UNREADABLE,
    &NICS_UNREADABLE,
];

/// No NIC.
pub static NO_NIC: Kind = Kind {
    id: "no-nic",
    in_lab: true,
    stage: Stage::Nic,
    severity: Severity::Error,
    complaint: "VFs and representors are never created",
    why: "without a NIC that has an embedded switch, and a driver bound to it, there is no hardware to put flows into",
    mend: "see whether the NIC is there (`lspci`), its driver loaded (the kernel's log says why not), and its firmware set to \
           SR-IOV; and whether this is the network namespace that it is in",
};

/// A NIC in legacy mode.
pub static ESWITCH_LEGACY: Kind = Kind {
    id: "eswitch-legacy",
    in_lab: true,
    stage: Stage::Nic,
    severity: Severity::Error,
    complaint: "VFs have no representors; nothing is offloaded",
    why: "in legacy mode the NIC switches by MAC address and VLAN on its own: there are no representors, and it takes no rule \
          of Open vSwitch's",
    mend: "change the eswitch mode; the VFs' drivers have to be unbound first, and what uses the VFs loses its link meanwhile",
};

/// A NIC whose last reload failed.
pub static RELOAD_FAILED: Kind = Kind {
    id: "devlink-reload-failed",
    in_lab: false,
    stage: Stage::Nic,
    severity: Severity::Error,
    complaint: "the NIC does not work after a reload or a firmware update",
    why: "the driver gave up in the midst of a reload, and the NIC does not work",
    mend: "reload it again; if that fails too, the kernel's log says why",
};

/// A NIC one of whose health reporters is in error.
pub static HEALTH_ERROR: Kind = Kind {
    id: "health-reporter-error",
    in_lab: true,
    stage: Stage::Nic,
    severity: Severity::Error,
    complaint: "nothing new is offloaded, and Open vSwitch logs \"failed to offload flow: Input/output error\"; or packets stop to \
                leave by a port, and no link is down",
    why: "the driver has seen its firmware or a queue fail and has not recovered it: until then the NIC takes no rules, or that \
          queue carries nothing",
    mend: "recover it; if that fails or the error comes back, `devlink health dump show` and the kernel's log have what the vendor \
           asks for, and a reload or a power cycle is next",
};

/// Whether a NIC works cannot be told.
pub static HEALTH_UNREADABLE: Kind = Kind {
    id: "health-unreadable",
    in_lab: false,
    stage: Stage::Nic,
    severity: Severity::Note,
    complaint: "doctor says that it cannot look",
    why: "whether the driver has seen its firmware or a queue fail cannot be told",
    mend: "see whether `devlink health` works",
};

/// A NIC that cannot put packets into tunnels.
pub static ESWITCH_NO_ENCAP: Kind = Kind {
    id: "eswitch-no-encap",
    in_lab: true,
    stage: Stage::Nic,
    severity: Severity::Warning,
    complaint: "traffic within a host is offloaded, traffic between hosts is not",
    why: "with its encap-mode off the eswitch neither puts packets into tunnels nor takes them out",
    mend: "turn encap-mode on before the change to switchdev mode",
};

/// A NIC whose eswitch does not tell its mode.
pub static ESWITCH_UNREADABLE: Kind = Kind {
    id: "eswitch-unreadable",
    in_lab: true,
    stage: Stage::Nic,
    severity: Severity::Note,
    complaint: "the eswitch mode is not shown",
    why: "whether the NIC takes rules cannot be told",
    mend: "run this as root: some kernels tell the mode only to CAP_NET_ADMIN",
};

/// No NIC can be looked at.
pub static NICS_UNREADABLE: Kind = Kind {
    id: "nics-unreadable",
    in_lab: false,
    stage: Stage::Nic,
    severity: Severity::Warning,
    complaint: "`devlink dev` shows nothing or fails",
    why: "without devlink neither the driver nor the eswitch mode of any NIC can be told",
    mend: "use a kernel with CONFIG_NET_DEVLINK, and the network namespace that the NICs are in",
};

fn nics(facts: &Facts) -> impl Iterator<Item = &Nic> {
    facts.nics.iter().flatten()
}

/// No NIC at all.
pub fn no_nic(facts: &Facts) -> Vec<Finding> {
    match &facts.nics {
        Ok(nics) if nics.is_empty() => vec![NO_NIC.found([""; 0], "devlink shows no NIC with an eswitch")],
        _ => Vec::new(),
    }
}

/// A NIC in legacy mode that has VFs, or that Open vSwitch uses.
pub fn legacy_eswitch(facts: &Facts) -> Vec<Finding> {
    let legacy = nics(facts).filter(|nic| nic.mode.as_deref() == Ok("legacy"));
    legacy
        .filter_map(|nic| {
            let on_bridge = facts.links_of(nic).find(|link| facts.interface_of(link).is_some());
            let used = match on_bridge {
                Some(link) => format!("its port {} is on an Open vSwitch bridge", link.name),
                None if nic.vfs > 0 => format!("it has {} VFs", nic.vfs),
                // A NIC that serves the host alone is right in legacy mode.
                None => return None,
            };
            let what = format!("NIC {} ({}) is in legacy mode, and {used}", nic.handle, nic.driver);
            let command = format!("devlink dev eswitch set {} mode switchdev", nic.handle);
            Some(ESWITCH_LEGACY.found([nic.handle.clone()], what).run(command))
        })
        .collect()
}

/// A NIC whose last reload failed.
pub fn failed_reload(facts: &Facts) -> Vec<Finding> {
    let failed = nics(facts).filter(|nic| nic.reload_failed);
    failed
        .map(|nic| {
            let what = format!("the last reload of NIC {} ({}) failed", nic.handle, nic.driver);
            RELOAD_FAILED.found([nic.handle.clone()], what).run(format!("devlink dev reload {}", nic.handle))
        })
        .collect()
}

/// A NIC with a health reporter in error.
pub fn unhealthy(facts: &Facts) -> Vec<Finding> {
    let reporters =
        |nic: &'_ Nic| nic.health.iter().flatten().filter(|it| it.in_error).cloned().collect::<Vec<_>>();
    let found = |nic: &'_ Nic| {
        reporters(nic)
            .into_iter()
            .map(|reporter| {
                let of =
                    reporter.port.map_or_else(|| nic.handle.clone(), |port| format!("{}/{port}", nic.handle));
                let by_itself = match reporter.auto_recover {
                    Some(true) => "its recovery failed, or another error came too soon after one",
                    Some(false) => "it is told not to recover by itself (auto_recover)",
                    None => "it cannot recover",
                };
                let (errors, recoveries) = (reporter.errors, reporter.recoveries);
                let counts = format!("errors: {errors}, recoveries: {recoveries}");
                let name = &reporter.name;
                let what = format!(
                    "health reporter {name} of {of} ({}) is in error; {counts}; {by_itself}",
                    nic.driver
                );
                let finding = HEALTH_ERROR.found([nic.handle.clone(), name.clone()], what);
                match reporter.auto_recover {
                    Some(_) => finding.run(format!("devlink health recover {of} reporter {name}")),
                    None => finding.run(format!("devlink dev reload {}", nic.handle)),
                }
            })
            .collect::<Vec<_>>()
    };
    nics(facts).flat_map(found).collect()
}

/// A NIC without encapsulation, where there are tunnels.
pub fn no_encapsulation(facts: &Facts) -> Vec<Finding> {
    if !facts.interfaces().any(|interface| super::tunnels::is_tunnel(&interface.kind)) {
        return Vec::new();
    }
    let off = nics(facts).filter(|nic| nic.encap == Some(false) && nic.mode.as_deref() == Ok("switchdev"));
    off.map(|nic| {
        let what = format!("NIC {} has encap-mode off, and Open vSwitch has tunnels", nic.handle);
        let command = format!("devlink dev eswitch set {} encap-mode basic", nic.handle);
        ESWITCH_NO_ENCAP.found([nic.handle.clone()], what).run(command)
    })
    .collect()
}

/// What of the NICs cannot be told.
pub fn unreadable(facts: &Facts) -> Vec<Finding> {
    if let Err(why) = &facts.nics {
        return vec![NICS_UNREADABLE.found([""; 0], format!("NICs cannot be listed: {why}"))];
    }
    let silent = nics(facts).filter_map(|nic| Some((nic, nic.mode.as_ref().err()?)));
    silent
        .map(|(nic, why)| {
            let what = format!("the eswitch mode of {} cannot be read: {why}", nic.handle);
            ESWITCH_UNREADABLE.found([nic.handle.clone()], what)
        })
        .chain(health_unreadable(facts))
        .collect()
}

/// Devlink tells of all reporters at once, or of none.
fn health_unreadable(facts: &Facts) -> Option<Finding> {
    let why = nics(facts).find_map(|nic| nic.health.as_ref().err())?;
    Some(HEALTH_UNREADABLE.found([""; 0], format!("health reporters cannot be listed: {why}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Reporter;
    use crate::doctor::checks::seen;
    use crate::doctor::facts::sample;

    const NIC: &str = "pci/0000:03:00.0";

    fn with_nic(change: impl Fn(&mut Nic)) -> Facts {
        let mut facts = sample::healthy();
        change(&mut facts.nics.as_mut().unwrap()[0]);
        facts
    }

    #[test]
    fn a_nic_in_legacy_mode_is_found_where_vfs_or_a_bridge_want_it_otherwise() {
        let mut facts = with_nic(|nic| nic.mode = Ok("legacy".into()));
        let found = legacy_eswitch(&facts);
        assert_eq!(seen(&found), [("eswitch-legacy", vec![NIC])]);
        assert!(found[0].what.contains("its port eth0 is on"), "{}", found[0].what);
        assert_eq!(
            found[0].command.as_deref(),
            Some("devlink dev eswitch set pci/0000:03:00.0 mode switchdev")
        );
        facts.ovs_mut().interfaces.clear();
        assert!(legacy_eswitch(&facts)[0].what.contains("it has 2 VFs"));
        facts.nics.as_mut().unwrap()[0].vfs = 0;
        assert_eq!(legacy_eswitch(&facts), [], "a plain NIC");
    }

    #[test]
    fn a_host_without_a_nic_is_told_so() {
        let mut facts = sample::healthy();
        assert_eq!(no_nic(&facts), []);
        facts.nics = Ok(vec![]);
        assert_eq!(seen(&no_nic(&facts)), [("no-nic", vec![])]);
    }

    #[test]
    fn a_failed_reload_is_found() {
        let facts = with_nic(|nic| nic.reload_failed = true);
        assert_eq!(seen(&failed_reload(&facts)), [("devlink-reload-failed", vec![NIC])]);
    }

    #[test]
    fn a_nic_without_encapsulation_is_found_where_there_are_tunnels() {
        let mut facts = with_nic(|nic| nic.encap = Some(false));
        assert_eq!(no_encapsulation(&facts), []);
        let mut tunnel = sample::interface("gnv0", 4);
        tunnel.kind = "geneve".into();
        facts.ovs_mut().interfaces.push(tunnel);
        assert_eq!(seen(&no_encapsulation(&facts)), [("eswitch-no-encap", vec![NIC])]);
        facts.nics.as_mut().unwrap()[0].encap = None;
        assert_eq!(no_encapsulation(&facts), []);
    }

    #[test]
    fn a_reporter_in_error_is_found_with_the_way_to_recover_it() {
        let reporter = |port, in_error, auto_recover| Reporter {
            name: "fw".into(),
            port,
            in_error,
            errors: 2,
            recoveries: 1,
            auto_recover,
        };
        let health = vec![
            reporter(None, true, Some(false)),
            reporter(Some(1), true, Some(true)),
            reporter(None, true, None),
            reporter(None, false, Some(true)),
        ];
        let facts = with_nic(|nic| nic.health = Ok(health.clone()));
        let found = unhealthy(&facts);
        let expected = || ("health-reporter-error", vec![NIC, "fw"]);
        assert_eq!(seen(&found), [expected(), expected(), expected()]);
        let commands: Vec<_> = found.iter().map(|finding| finding.command.clone().unwrap()).collect();
        assert_eq!(
            commands,
            [
                "devlink health recover pci/0000:03:00.0 reporter fw",
                "devlink health recover pci/0000:03:00.0/1 reporter fw",
                "devlink dev reload pci/0000:03:00.0",
            ]
        );
        assert!(found[0].what.contains("told not to recover by itself"), "{}", found[0].what);
    }

    #[test]
    fn reporters_that_are_not_told_are_one_note() {
        let mut facts = with_nic(|nic| nic.health = Err("EPERM".into()));
        let nics = facts.nics.as_mut().unwrap();
        nics.push(Nic { handle: "pci/0000:03:00.1".into(), ..nics[0].clone() });
        let found = unreadable(&facts);
        assert_eq!(seen(&found), [("health-unreadable", vec![])]);
        assert_eq!(found[0].severity, Severity::Note);
    }

    #[test]
    fn a_mode_that_is_not_told_is_a_note() {
        let facts = with_nic(|nic| nic.mode = Err("EPERM".into()));
        let found = unreadable(&facts);
        assert_eq!(seen(&found), [("eswitch-unreadable", vec![NIC])]);
        assert_eq!(found[0].severity, Severity::Note);
    }
}
