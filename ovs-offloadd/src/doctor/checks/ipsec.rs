//! IPsec that the NIC carries: what it excludes, and what it cannot do.

use ipsec_drive::libreswan;

use crate::doctor::{Facts, Finding, IpsecOffload, Kind, Role, Severity, Stage};
use crate::ipsec::{UplinkRules, is_exclusive};

/// All kinds found here.
pub const KINDS: &[&Kind] = &[&IPSEC_EXCLUDES_RULES, &IPSEC_OFFLOAD_SETTINGS];

/// Rules and IPsec on one device.
pub static IPSEC_EXCLUDES_RULES: Kind = Kind {
    id: "ipsec-excludes-rules",
    in_lab: false,
    stage: Stage::Tc,
    severity: Severity::Warning,
    complaint: "flows that come in by the uplink are not offloaded, or IPsec is not, since the other is: \"Device or resource busy\"",
    why: "ConnectX takes either IPsec of mode packet on the uplink or TC rules of the uplink itself, whichever comes first, and answers \
          EBUSY to the other; rules of VFs and of tunnel devices are not concerned (mlx5 of Linux 6.6 and newer, commit c8e350e62fc5)",
    mend: "have packets arrive by a tunnel, whose rules are at the tunnel's device, or use IPsec of mode crypto on this device",
};

/// Settings that no NIC can do.
pub static IPSEC_OFFLOAD_SETTINGS: Kind = Kind {
    id: "ipsec-offload-settings",
    in_lab: true,
    stage: Stage::Tunnels,
    severity: Severity::Warning,
    complaint: "a tunnel with nic-offload=packet does not come up, or is not offloaded",
    why: "the NIC carries ESP with certain settings alone, and with mode packet there is no falling back to software: the kernel refuses \
          what the driver refuses",
    mend: "leave these options out, or use ipsec_nic-offload=crypto",
};

/// Uplinks that carry IPsec and have, or should have, rules.
pub fn exclusion(facts: &Facts) -> Vec<Finding> {
    let offloads: &[IpsecOffload] = facts.ipsec.as_deref().unwrap_or_default();
    let carrying = offloads.iter().filter(|offload| offload.packet_states + offload.packet_policies > 0);
    carrying
        .filter_map(|offload| {
            let link = facts.links.as_ref().ok()?.get(&offload.ifindex)?;
            let nic = facts.nics.iter().flatten().find(|nic| Some(&nic.handle) == link.parent.as_ref());
            let has_either = nic.is_some_and(|nic| is_exclusive(&nic.driver));
            if link.role != Some(Role::Uplink) || !has_either {
                return None;
            }
            let filters = facts.filters.get(&offload.ifindex).and_then(|filters| filters.as_ref().ok());
            let rules = UplinkRules::of(&link.name, filters.map_or(&[], Vec::as_slice));
            if rules.filters == 0 && facts.interface_of(link).is_none() {
                return None;
            }
            let IpsecOffload { packet_states, packet_policies, .. } = offload;
            let what = format!(
                "{rules}, and carries {packet_states} security associations and {packet_policies} policies of mode packet"
            );
            Some(IPSEC_EXCLUDES_RULES.found([&link.name], what))
        })
        .collect()
}

/// Settings of tunnels that are to be carried by the NIC.
pub fn settings(facts: &Facts) -> Vec<Finding> {
    let wanted = facts
        .interfaces()
        .filter(|interface| interface.ipsec.get("nic-offload").is_some_and(|offload| offload == "packet"));
    wanted
        .filter_map(|interface| {
            let wrong: Vec<String> = interface
                .ipsec
                .iter()
                .filter(|(name, value)| libreswan::is_refused(name, value))
                .map(|(name, value)| format!("ipsec_{name}={value}"))
                .collect();
            if wrong.is_empty() {
                return None;
            }
            let what =
                format!("tunnel {} has ipsec_nic-offload=packet and {}", interface.name, wrong.join(", "));
            let options = wrong
                .iter()
                .filter_map(|option| option.split_once('='))
                .map(|(name, _)| format!("options {name}"));
            let command =
                options.map(|option| format!("ovs-vsctl remove Interface {} {option}", interface.name));
            let command = command.collect::<Vec<_>>().join(" && ");
            Some(IPSEC_OFFLOAD_SETTINGS.found([&interface.name], what).run(command))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Interface;
    use crate::doctor::checks::seen;
    use crate::doctor::facts::sample::{self, UPLINK, VF0};

    fn carrying(ifindex: netlink_wire::Ifindex) -> Facts {
        let mut facts = sample::healthy();
        facts.ipsec = Ok(vec![IpsecOffload { ifindex, packet_states: 2, packet_policies: 3 }]);
        facts
    }

    #[test]
    fn ipsec_on_an_uplink_with_rules_is_found_for_the_driver_that_excludes_them() {
        let mut facts = carrying(UPLINK);
        facts.filters.insert(UPLINK, Ok(vec![sample::filter(2)]));
        let found = exclusion(&facts);
        assert_eq!(seen(&found), [("ipsec-excludes-rules", vec!["eth0"])]);
        assert_eq!(
            found[0].what,
            "uplink eth0 has 1 filter, of which 0 are in hardware, and carries 2 security associations and 3 policies of mode packet"
        );
        facts.nics.as_mut().unwrap()[0].driver = "simnic".into();
        assert_eq!(exclusion(&facts), found, "it does as mlx5 does");
        facts.nics.as_mut().unwrap()[0].driver = "another".into();
        assert_eq!(exclusion(&facts), []);
        assert_eq!(exclusion(&carrying(VF0)), [], "representors are not concerned");
        let mut elsewhere = carrying(UPLINK);
        elsewhere.ovs_mut().interfaces.retain(|interface| interface.name != "eth0");
        assert_eq!(exclusion(&elsewhere), [], "it has no rules and gets none");
        let mut crypto = carrying(UPLINK);
        crypto.ipsec = Ok(vec![IpsecOffload { ifindex: UPLINK, packet_states: 0, packet_policies: 0 }]);
        assert_eq!(exclusion(&crypto), []);
    }

    #[test]
    fn settings_that_no_nic_carries_are_found_with_the_command_that_removes_them() {
        let mut facts = sample::healthy();
        let tunnel = |options: &[(&str, &str)]| Interface {
            kind: "geneve".into(),
            ipsec: options.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
            ..sample::interface("gnv0", 9)
        };
        let wrong = [("nic-offload", "packet"), ("replay-window", "512"), ("encapsulation", "yes")];
        facts.ovs_mut().interfaces.push(tunnel(&wrong));
        let found = settings(&facts);
        assert_eq!(seen(&found), [("ipsec-offload-settings", vec!["gnv0"])]);
        assert_eq!(
            found[0].command.as_deref(),
            Some(
                "ovs-vsctl remove Interface gnv0 options ipsec_encapsulation && ovs-vsctl remove Interface gnv0 options ipsec_replay-window"
            )
        );
        for good in [
            vec![("nic-offload", "packet"), ("replay-window", "128")],
            vec![("nic-offload", "crypto"), ("replay-window", "512")],
            vec![("replay-window", "512")],
        ] {
            *facts.ovs_mut().interfaces.last_mut().unwrap() = tunnel(&good);
            assert_eq!(settings(&facts), [], "{good:?}");
        }
    }
}
