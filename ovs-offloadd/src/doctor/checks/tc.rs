//! TC: the qdiscs that Open vSwitch's filters hang on, and filters that are not its own.

use std::collections::BTreeMap;

use netlink_wire::Ifindex;

use crate::doctor::{Facts, Filter, Finding, Kind, Severity, Stage};

/// All kinds found here.
pub const KINDS: &[&Kind] =
    &[&INGRESS_QDISC_MISSING, &BOND_MEMBER_OFF_BLOCK, &FOREIGN_FILTER, &FILTERS_STRANDED, &TC_UNREADABLE];

/// A port of Open vSwitch's that no filter can be at.
pub static INGRESS_QDISC_MISSING: Kind = Kind {
    id: "ingress-qdisc-missing",
    in_lab: true,
    stage: Stage::Tc,
    severity: Severity::Error,
    complaint: "nothing of a port is offloaded, and Open vSwitch logs that it failed to offload its flows",
    why: "filters hang on the port's ingress qdisc; Open vSwitch makes it once, when it takes the port on, and something has \
          removed it since, or ovs-vswitchd has not been restarted since hw-offload was turned on",
    mend: "restart ovs-vswitchd, or take the port off the bridge and add it again; find out what else sets qdiscs on this host",
};

/// A member of a bond that Open vSwitch has not joined to the bond's block.
pub static BOND_MEMBER_OFF_BLOCK: Kind = Kind {
    id: "bond-member-off-block",
    in_lab: true,
    stage: Stage::Tc,
    severity: Severity::Note,
    complaint: "for a moment after a bond's failover, what comes in by it is forwarded by the CPU",
    why: "filters of a bond are in a block that its members share; Open vSwitch joins a member when the kernel tells of a change of \
          it, and one that has been waiting quietly since Open vSwitch got the bond is joined when it is needed",
    mend: "nothing, unless that moment matters: then take the member out of the bond and put it in again",
};

/// A filter of somebody else's at a port of Open vSwitch's.
pub static FOREIGN_FILTER: Kind = Kind {
    id: "foreign-filter",
    in_lab: true,
    stage: Stage::Tc,
    severity: Severity::Error,
    complaint: "packets of a port do not do what OpenFlow says; `ovs-appctl dpctl/dump-flows` shows no flow that counts them",
    why: "TC sees packets before Open vSwitch's datapath does: what this filter takes never gets there",
    mend: "look at it, and delete it unless somebody wants it; Open vSwitch does not know of it",
};

/// Filters of a former ovs-vswitchd.
pub static FILTERS_STRANDED: Kind = Kind {
    id: "filters-stranded",
    in_lab: true,
    stage: Stage::Tc,
    severity: Severity::Error,
    complaint: "after hw-offload was turned off some traffic goes where it used to go, whatever OpenFlow says now",
    why: "an ovs-vswitchd with hw-offload off knows of no filter; those of the one before that its start did not clear stay in \
          front of the datapath and go on forwarding by old rules",
    mend: "delete the qdisc that they hang on, with all its filters",
};

/// TC cannot be read.
pub static TC_UNREADABLE: Kind = Kind {
    id: "tc-unreadable",
    in_lab: false,
    stage: Stage::Tc,
    severity: Severity::Warning,
    complaint: "doctor says that it cannot look",
    why: "whether Open vSwitch's filters can be there, and who else has some, cannot be told",
    mend: "see whether `tc qdisc show` and `tc filter show dev PORT ingress` work",
};

/// Ports of a NIC that Open vSwitch offloads, without an ingress qdisc.
pub fn qdiscs_missing(facts: &Facts) -> Vec<Finding> {
    let (Ok(ovs), Ok(_), Ok(qdiscs)) = (&facts.ovsdb, &facts.vswitchd, &facts.ingress_qdiscs) else {
        return Vec::new();
    };
    if !ovs.hw_offload {
        return Vec::new();
    }
    let ports =
        facts.all_links().filter(|(ifindex, link)| link.role.is_some() && !qdiscs.contains_key(ifindex));
    ports
        .filter_map(|(_, link)| {
            let interface = facts.interface_of(link).filter(|interface| interface.name == link.name)?;
            // A port that Open vSwitch could not take on is another finding.
            if !interface.is_netdev() || interface.ofport.is_none_or(|ofport| ofport < 1) {
                return None;
            }
            let what = format!("port {} of bridge {} has no ingress qdisc", link.name, interface.bridge);
            Some(INGRESS_QDISC_MISSING.found([&link.name], what).run(RESTART))
        })
        .chain(tunnels_without_qdisc(facts, qdiscs))
        .collect()
}

/// Members of bonds on bridges that have no ingress qdisc of their own.
pub fn members_off_block(facts: &Facts) -> Vec<Finding> {
    let (Ok(ovs), Ok(_), Ok(qdiscs)) = (&facts.ovsdb, &facts.vswitchd, &facts.ingress_qdiscs) else {
        return Vec::new();
    };
    let members =
        facts.all_links().filter(|(ifindex, link)| link.role.is_some() && !qdiscs.contains_key(ifindex));
    let found = members.filter_map(|(_, link)| {
        let interface = facts.interface_of(link).filter(|interface| interface.name != link.name)?;
        if !ovs.hw_offload || !interface.is_netdev() || interface.ofport.is_none_or(|ofport| ofport < 1) {
            return None;
        }
        let what = format!("{} is a member of bond {} and not of its block", link.name, interface.name);
        Some(BOND_MEMBER_OFF_BLOCK.found([&interface.name, &link.name], what))
    });
    found.collect()
}

const RESTART: &str = "systemctl restart openvswitch-switch";

/// Kinds of devices that packets come out of tunnels by, and that drivers take rules of.
const TUNNEL_DEVICES: [&str; 4] = ["geneve", "vxlan", "gretap", "ip6gretap"];

/// Devices of tunnels that Open vSwitch offloads, without an ingress qdisc.
fn tunnels_without_qdisc<'a>(
    facts: &'a Facts,
    qdiscs: &'a BTreeMap<Ifindex, String>,
) -> impl Iterator<Item = Finding> + 'a {
    let of_tunnels = facts.all_links().filter(|(_, link)| {
        link.kind.as_deref().is_some_and(|kind| TUNNEL_DEVICES.contains(&kind))
            && facts.is_datapath_port(link)
    });
    of_tunnels.filter(|(ifindex, _)| !qdiscs.contains_key(ifindex)).map(|(_, link)| {
        let what = format!("device {} of Open vSwitch's tunnels has no ingress qdisc", link.name);
        INGRESS_QDISC_MISSING.found([&link.name], what).run(RESTART)
    })
}

/// Filters at the ports of the datapath that are not Open vSwitch's; one finding for a port and priority.
pub fn foreign_filters(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (ifindex, link) in facts.all_links() {
        let Some(Ok(filters)) = facts.filters.get(&ifindex) else { continue };
        // Its own policer is the one filter of Open vSwitch's that no megaflow made.
        let has_policer = facts
            .interface_of(link)
            .is_some_and(|interface| interface.policing_kbps > 0 || interface.policing_kpkts > 0);
        let first_of_ovs = filters
            .iter()
            .filter(|filter| filter.of_ovs && filter.chain == 0)
            .map(|filter| filter.prio)
            .min();
        let mut foreign: BTreeMap<u16, (&Filter, u64)> = BTreeMap::new();
        for filter in filters.iter().filter(|filter| !filter.of_ovs && filter.chain == 0) {
            if has_policer && filter.classifier != "flower" {
                continue;
            }
            foreign.entry(filter.prio).or_insert((filter, 0)).1 += 1;
        }
        for (prio, (filter, count)) in foreign {
            let in_front = first_of_ovs.is_none_or(|first| prio <= first);
            let place = if in_front { "in front of" } else { "behind" };
            let hook = Facts::hook_of(link);
            let what = format!(
                "{count} {} filter{} of prio {prio} at the {hook} of port {}, {place} Open vSwitch's",
                filter.classifier,
                if count == 1 { "" } else { "s" },
                link.name,
            );
            let severity = if in_front && hook == "ingress" { Severity::Error } else { Severity::Warning };
            let command = format!("tc filter del dev {} {hook} prio {prio}", link.name);
            findings.push(FOREIGN_FILTER.found([&link.name], what).run(command).but(severity));
        }
    }
    findings
}

/// The ages of filters and of processes are told in steps of 10 ms, and one is read after the other.
const SLACK_MS: u64 = 200;

/// Filters that an ovs-vswitchd before this one left behind.
pub fn stranded_filters(facts: &Facts) -> Vec<Finding> {
    let (Ok(ovs), Ok(process)) = (&facts.ovsdb, &facts.vswitchd) else { return Vec::new() };
    // With hw-offload on, ovs-vswitchd clears each port of them when it takes it on.
    if ovs.hw_offload {
        return Vec::new();
    }
    let older = process.age_ms.saturating_add(SLACK_MS);
    let mut findings = Vec::new();
    for (ifindex, link) in facts.all_links() {
        let Some(Ok(filters)) = facts.filters.get(&ifindex) else { continue };
        let is_left = |filter: &&Filter| filter.of_ovs && filter.age_ms.is_some_and(|age| age > older);
        let count = filters.iter().filter(is_left).count();
        if count == 0 {
            continue;
        }
        let name = &link.name;
        let are = if count == 1 { " is" } else { "s are" };
        let what = format!(
            "{count} filter{are} left at port {name}, older than ovs-vswitchd, and hw-offload is off"
        );
        let kinds = facts.ingress_qdiscs.as_ref().ok();
        let qdisc = kinds.and_then(|kinds| kinds.get(&ifindex)).map_or("ingress", String::as_str);
        findings.push(FILTERS_STRANDED.found([name], what).run(format!("tc qdisc del dev {name} {qdisc}")));
    }
    findings
}

/// What of TC cannot be told.
pub fn unreadable(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Err(why) = &facts.ingress_qdiscs {
        findings.push(TC_UNREADABLE.found([""; 0], format!("qdiscs cannot be listed: {why}")));
    }
    for (ifindex, filters) in &facts.filters {
        let Err(why) = filters else { continue };
        let known = facts.links.as_ref().ok().and_then(|links| links.get(ifindex));
        let name = known.map_or_else(|| format!("device {ifindex}"), |link| link.name.clone());
        let what = format!("the filters of {name} cannot be listed: {why}");
        findings.push(TC_UNREADABLE.found([name], what));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Link;
    use crate::doctor::checks::seen;
    use crate::doctor::facts::sample::{self, VF0, VF1};

    fn foreign(prio: u16, classifier: &str) -> Filter {
        Filter { of_ovs: false, classifier: classifier.into(), ..sample::filter(prio) }
    }

    fn push(facts: &mut Facts, filter: Filter) {
        facts.filters.get_mut(&VF0).unwrap().as_mut().unwrap().push(filter);
    }

    #[test]
    fn an_offloaded_port_without_a_qdisc_is_found() {
        let mut facts = sample::healthy();
        facts.ingress_qdiscs.as_mut().unwrap().remove(&VF1);
        assert_eq!(seen(&qdiscs_missing(&facts)), [("ingress-qdisc-missing", vec!["eth0_1"])]);
        facts.interface_mut("eth0_1").ofport = Some(-1);
        assert_eq!(qdiscs_missing(&facts), [], "Open vSwitch never had it");
        facts.interface_mut("eth0_1").ofport = Some(3);
        facts.ovs_mut().hw_offload = false;
        assert_eq!(qdiscs_missing(&facts), [], "it wants none");
    }

    #[test]
    fn a_member_of_a_bond_that_is_not_in_its_block_is_found() {
        let mut facts = sample::healthy();
        let bond = Ifindex(30);
        let bond0 = Link { kind: Some("bond".into()), ..sample::link("bond0", None, "") };
        facts.links.as_mut().unwrap().insert(bond, bond0);
        facts.link_mut(sample::UPLINK).master = Some(bond);
        facts.interface_mut("eth0").name = "bond0".into();
        assert_eq!(members_off_block(&facts), []);
        facts.ingress_qdiscs.as_mut().unwrap().remove(&sample::UPLINK);
        let found = members_off_block(&facts);
        assert_eq!(seen(&found), [("bond-member-off-block", vec!["bond0", "eth0"])]);
        assert_eq!(qdiscs_missing(&facts), [], "a restart does not help");
    }

    #[test]
    fn a_foreign_filter_is_worse_in_front_of_open_vswitchs() {
        let mut facts = sample::healthy();
        push(&mut facts, foreign(1, "flower"));
        push(&mut facts, foreign(1, "flower"));
        push(&mut facts, foreign(9, "bpf"));
        let found = foreign_filters(&facts);
        assert_eq!(seen(&found), [("foreign-filter", vec!["eth0_0"]), ("foreign-filter", vec!["eth0_0"])]);
        assert_eq!((found[0].severity, found[1].severity), (Severity::Error, Severity::Warning));
        assert_eq!(
            found[0].what,
            "2 flower filters of prio 1 at the ingress of port eth0_0, in front of Open vSwitch's"
        );
        assert_eq!(found[0].command.as_deref(), Some("tc filter del dev eth0_0 ingress prio 1"));
    }

    #[test]
    fn a_tunnels_device_without_a_qdisc_is_found() {
        let mut facts = sample::healthy();
        let device =
            crate::doctor::Link { kind: Some("geneve".into()), ..sample::link("genev_sys_6081", None, "") };
        facts.links.as_mut().unwrap().insert(Ifindex(40), device);
        assert_eq!(seen(&qdiscs_missing(&facts)), [("ingress-qdisc-missing", vec!["genev_sys_6081"])]);
        facts.ingress_qdiscs.as_mut().unwrap().insert(Ifindex(40), "ingress".into());
        assert_eq!(qdiscs_missing(&facts), []);
        facts.ingress_qdiscs.as_mut().unwrap().remove(&Ifindex(40));
        facts.link_mut(Ifindex(40)).master = None;
        assert_eq!(qdiscs_missing(&facts), [], "it is no port of Open vSwitch's");
    }

    #[test]
    fn a_foreign_filter_of_an_internal_port_is_at_its_egress() {
        let mut facts = sample::healthy();
        let internal = crate::doctor::Link {
            kind: Some("openvswitch".into()),
            master: None,
            ..sample::link("br0", None, "")
        };
        facts.links.as_mut().unwrap().insert(Ifindex(41), internal);
        facts.filters.insert(Ifindex(41), Ok(vec![foreign(1, "flower")]));
        let found = foreign_filters(&facts);
        assert_eq!(seen(&found), [("foreign-filter", vec!["br0"])]);
        assert_eq!(found[0].command.as_deref(), Some("tc filter del dev br0 egress prio 1"));
    }

    #[test]
    fn open_vswitchs_own_policer_is_not_foreign() {
        let mut facts = sample::healthy();
        push(&mut facts, foreign(1, "matchall"));
        assert_eq!(foreign_filters(&facts).len(), 1);
        facts.interface_mut("eth0_0").policing_kbps = 1_000;
        assert_eq!(foreign_filters(&facts), []);
    }

    #[test]
    fn filters_older_than_the_switch_are_stranded_if_it_offloads_nothing() {
        let mut facts = sample::healthy();
        push(&mut facts, Filter { age_ms: Some(90_000), ..sample::filter(2) });
        assert_eq!(stranded_filters(&facts), []);
        facts.ovs_mut().hw_offload = false;
        let found = stranded_filters(&facts);
        assert_eq!(seen(&found), [("filters-stranded", vec!["eth0_0"])]);
        assert!(found[0].what.starts_with("1 filter is left at port eth0_0, older"), "{}", found[0].what);
        assert_eq!(found[0].command.as_deref(), Some("tc qdisc del dev eth0_0 ingress"));
    }
}
