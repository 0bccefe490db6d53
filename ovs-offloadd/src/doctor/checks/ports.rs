//! Uplinks and representors: their state, and their places on bridges.

use netlink_wire::Ifindex;

use crate::doctor::{Facts, Finding, HwTcOffload, Interface, Kind, Link, Role, Severity, Stage};

/// All kinds found here.
pub const KINDS: &[&Kind] = &[
    &HW_TC_OFFLOAD_OFF,
    &REPRESENTOR_DOWN,
    &UPLINK_DOWN,
    &REPRESENTOR_RENAMED,
    &PORT_NETDEV_MISSING,
    &PORT_NOT_OPENED,
    &REPRESENTOR_OFF_BRIDGE,
    &UPLINK_OFF_BRIDGE,
    &PORTS_UNREADABLE,
];

/// A device that takes no rules.
pub static HW_TC_OFFLOAD_OFF: Kind = Kind {
    id: "hw-tc-offload-off",
    in_lab: true,
    stage: Stage::Ports,
    severity: Severity::Error,
    complaint: "a VF's traffic works and nothing of it is offloaded; its flows are `dp:tc` and `not_in_hw`",
    why: "with hw-tc-offload off TC gives the driver no rule of this device; what comes in by it is forwarded by the CPU",
    mend: "turn it on; what sets devices up at boot has to do so too, or it is off after the next one",
};

/// A representor that is down.
pub static REPRESENTOR_DOWN: Kind = Kind {
    id: "representor-down",
    in_lab: true,
    stage: Stage::Ports,
    severity: Severity::Error,
    complaint: "a pod or virtual machine with a VF has no connectivity, or its device has no carrier",
    why: "while the representor is down the VF has no link, and packets that miss the hardware are lost",
    mend: "set it up; whoever attached it to the bridge should have",
};

/// An uplink that is down, or has no carrier.
pub static UPLINK_DOWN: Kind = Kind {
    id: "uplink-down",
    in_lab: true,
    stage: Stage::Ports,
    severity: Severity::Error,
    complaint: "VFs reach each other and nothing beyond the host",
    why: "nothing can leave the host by this NIC",
    mend: "set it up; where it is up and has no carrier, see the cable, the module and the switch at the other end",
};

/// A representor that the database knows by another name.
pub static REPRESENTOR_RENAMED: Kind = Kind {
    id: "representor-renamed",
    in_lab: true,
    stage: Stage::Ports,
    severity: Severity::Error,
    complaint: "a VF lost its connectivity after its representor was renamed, or was never named back",
    why: "Open vSwitch looks for a device by the name in its database; under another name the representor is on no bridge",
    mend: "name it as the database does, or put it on the bridge under its new name",
};

/// A port of a bridge whose device does not exist.
pub static PORT_NETDEV_MISSING: Kind = Kind {
    id: "port-netdev-missing",
    in_lab: true,
    stage: Stage::Ports,
    severity: Severity::Error,
    complaint: "ports are left over on the bridge after a reboot, or after pods are gone; a VF cannot be used again",
    why: "the port carries nothing, and what would use its name or its iface-id again may fail",
    mend: "remove the port, unless the device is about to come",
};

/// A port whose device exists and that Open vSwitch cannot use.
pub static PORT_NOT_OPENED: Kind = Kind {
    id: "port-not-opened",
    in_lab: true,
    stage: Stage::Ports,
    severity: Severity::Error,
    complaint: "`ovs-vsctl show` has an error at a port, or its ofport is -1",
    why: "the port carries nothing",
    mend: "see Open vSwitch's own words: the device may be on another bridge or datapath, or of an unknown type",
};

/// A representor that no bridge has.
pub static REPRESENTOR_OFF_BRIDGE: Kind = Kind {
    id: "representor-off-bridge",
    in_lab: true,
    stage: Stage::Ports,
    severity: Severity::Warning,
    complaint: "one VF has no connectivity, and others of the same NIC have",
    why: "what its VF sends goes to the host's own stack and not to Open vSwitch",
    mend: "add it to the bridge, or set it down while nobody uses its VF",
};

/// An uplink that no bridge has.
pub static UPLINK_OFF_BRIDGE: Kind = Kind {
    id: "uplink-off-bridge",
    in_lab: true,
    stage: Stage::Ports,
    severity: Severity::Warning,
    complaint: "VFs reach each other and nothing beyond the host; or traffic leaves and none of it is offloaded",
    why: "packets can only be forwarded in hardware between ports of one NIC, and none of this NIC's leads to the wire",
    mend: "add the uplink to the bridge, or give it the address that the tunnels leave from",
};

/// No device can be looked at.
pub static PORTS_UNREADABLE: Kind = Kind {
    id: "ports-unreadable",
    in_lab: false,
    stage: Stage::Ports,
    severity: Severity::Warning,
    complaint: "doctor says that it cannot look",
    why: "the state of uplinks and representors cannot be told",
    mend: "see whether `ip link` works",
};

fn of_switch(facts: &Facts) -> impl Iterator<Item = (Ifindex, &Link)> {
    facts.all_links().filter(|(_, link)| link.role.is_some())
}

const fn word(link: &Link) -> &'static str {
    match link.role {
        Some(Role::Uplink) => "uplink",
        Some(Role::Representor) => "representor",
        None => "device",
    }
}

/// Devices of a switch that take no rules. Those that no bridge has do not matter.
pub fn hw_tc_offload(facts: &Facts) -> Vec<Finding> {
    let used = of_switch(facts).filter(|(_, link)| facts.interface_of(link).is_some());
    used.filter_map(|(_, link)| {
        let name = &link.name;
        match link.hw_tc_offload.as_ref()?.as_ref() {
            Ok(HwTcOffload::On) => None,
            Ok(HwTcOffload::Off) => {
                let what = format!("hw-tc-offload of {} {name} is off", word(link));
                Some(HW_TC_OFFLOAD_OFF.found([name], what).run(format!("ethtool -K {name} hw-tc-offload on")))
            }
            Ok(HwTcOffload::Unsupported) => {
                let what = format!("{} {name} has no hw-tc-offload: its driver takes no rules", word(link));
                Some(HW_TC_OFFLOAD_OFF.found([name], what))
            }
            Err(why) => {
                let what = format!("the features of {name} cannot be read: {why}");
                Some(PORTS_UNREADABLE.found([name], what).but(Severity::Note))
            }
        }
    })
    .collect()
}

/// Representors on a bridge that are down.
pub fn representors_down(facts: &Facts) -> Vec<Finding> {
    let down = facts.of_role(Role::Representor).filter(|(_, link)| !link.up);
    down.filter_map(|(_, link)| {
        let bridge = &facts.interface_of(link)?.bridge;
        let what = format!("representor {} on bridge {bridge} is down", link.name);
        Some(REPRESENTOR_DOWN.found([&link.name], what).run(format!("ip link set dev {} up", link.name)))
    })
    .collect()
}

/// Uplinks that are down although something should leave by them.
pub fn uplinks_down(facts: &Facts) -> Vec<Finding> {
    let used = facts.of_role(Role::Uplink).filter(|(_, link)| {
        facts.interface_of(link).is_some() || representors_on_bridges(facts, link).next().is_some()
    });
    used.filter_map(|(_, link)| {
        let name = &link.name;
        if !link.up {
            let what = format!("uplink {name} is down");
            return Some(UPLINK_DOWN.found([name], what).run(format!("ip link set dev {name} up")));
        }
        (!link.carrier).then(|| UPLINK_DOWN.found([name], format!("uplink {name} is up and has no carrier")))
    })
    .collect()
}

/// Representors of a port's NIC that are on a bridge.
fn representors_on_bridges<'a>(facts: &'a Facts, port: &'a Link) -> impl Iterator<Item = &'a Link> {
    let same_nic = |link: &Link| link.parent.is_some() && link.parent == port.parent;
    let representors = facts.of_role(Role::Representor).map(|(_, link)| link);
    representors.filter(move |link| same_nic(link) && facts.interface_of(link).is_some())
}

/// The one representor on no bridge that an interface without a device may mean.
fn renamed<'a>(facts: &'a Facts, interface: &Interface) -> Option<&'a Link> {
    let is_meant = |link: &Link| {
        link.altnames.contains(&interface.name)
            || link.port_name.as_deref().is_some_and(|port| interface.name.ends_with(port))
    };
    let off_bridge = facts.of_role(Role::Representor).filter(|(_, link)| facts.interface_of(link).is_none());
    let mut meant = off_bridge.map(|(_, link)| link).filter(|link| is_meant(link));
    // Two NICs have ports of the same name: which one is meant cannot be told then.
    let first = meant.next()?;
    meant.next().is_none().then_some(first)
}

fn without_netdev(facts: &Facts) -> impl Iterator<Item = &Interface> {
    // Without a list of devices every one would seem to be missing.
    let known = facts.links.is_ok();
    facts.interfaces().filter(move |interface| {
        known && interface.is_netdev() && facts.link_named(&interface.name).is_none()
    })
}

/// Ports of bridges without a device, or with one that cannot be used.
pub fn netdevs_missing(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    for interface in without_netdev(facts) {
        let Interface { name, bridge, .. } = interface;
        let said = interface.error.as_ref().map_or_else(String::new, |error| format!(" ({error})"));
        findings.push(match renamed(facts, interface) {
            Some(link) => {
                let new = &link.name;
                let what = format!(
                    "port {name} of bridge {bridge} has no device{said}, and the representor that may be meant is called {new}"
                );
                let command = format!(
                    "ip link set dev {new} down && ip link set dev {new} name {name} && ip link set dev {name} up"
                );
                REPRESENTOR_RENAMED.found([name, new], what).run(command)
            }
            None => {
                let what = format!("port {name} of bridge {bridge} has no device{said}");
                PORT_NETDEV_MISSING.found([name], what).run(format!("ovs-vsctl del-port {bridge} {name}"))
            }
        });
    }
    let failed =
        facts.interfaces().filter(|interface| interface.ofport == Some(-1) || interface.error.is_some());
    for interface in failed.filter(|interface| !without_netdev(facts).any(|missing| missing == *interface)) {
        let Interface { name, bridge, .. } = interface;
        let said = interface.error.as_deref().unwrap_or("it says no more");
        let what = format!("Open vSwitch cannot use port {name} of bridge {bridge}: {said}");
        findings.push(PORT_NOT_OPENED.found([name], what));
    }
    findings
}

/// Representors on no bridge: set up they lose what their VFs send, and set down they are spare.
pub fn representors_off_bridge(facts: &Facts) -> Vec<Finding> {
    if facts.ovsdb.is_err() {
        return Vec::new();
    }
    let taken: Vec<&Link> = without_netdev(facts).filter_map(|interface| renamed(facts, interface)).collect();
    let off = facts.of_role(Role::Representor).filter(|(_, link)| facts.interface_of(link).is_none());
    off.filter(|(_, link)| link.up && !taken.contains(link) && !facts.is_elsewhere(link))
        .map(|(_, link)| {
            let what = format!("representor {} is up and on no Open vSwitch bridge", link.name);
            // Its neighbours' bridge, most likely.
            let neighbour = representors_on_bridges(facts, link).find_map(|other| facts.interface_of(other));
            let bridge = neighbour.map_or("BRIDGE", |interface| &interface.bridge);
            let command = format!("ovs-vsctl add-port {bridge} {}", link.name);
            REPRESENTOR_OFF_BRIDGE.found([&link.name], what).run(command)
        })
        .collect()
}

/// Uplinks on no bridge, of NICs whose representors are on one.
pub fn uplinks_off_bridge(facts: &Facts) -> Vec<Finding> {
    if facts.interfaces().any(|interface| leaves_beside_bridges(facts, interface)) {
        return Vec::new();
    }
    let off = facts.of_role(Role::Uplink).filter(|(_, link)| facts.interface_of(link).is_none());
    off.filter(|(_, link)| !facts.is_elsewhere(link))
        .filter_map(|(_, uplink)| {
            let representor = representors_on_bridges(facts, uplink).next()?;
            let bridge = &facts.interface_of(representor)?.bridge;
            let what = format!(
                "uplink {} is on no bridge, and its NIC's {} is on {bridge}; no tunnel leaves by it either",
                uplink.name, representor.name
            );
            let command = format!("ovs-vsctl add-port {bridge} {}", uplink.name);
            Some(UPLINK_OFF_BRIDGE.found([&uplink.name], what).run(command))
        })
        .collect()
}

/// Whether a tunnel may leave by an uplink that is on no bridge: by itself, or by a VLAN or a bond of it.
fn leaves_beside_bridges(facts: &Facts, interface: &Interface) -> bool {
    if !super::tunnels::is_tunnel(&interface.kind) {
        return false;
    }
    // Where a flow says the address, any device may be meant.
    let Some(remote) = interface.remote_ip else { return true };
    let device = facts.device_to(remote);
    device.is_some_and(|device| !facts.interfaces().any(|interface| interface.name == device))
}

/// What of the devices cannot be told.
pub fn unreadable(facts: &Facts) -> Vec<Finding> {
    let failed = facts.links.as_ref().err();
    failed
        .map(|why| PORTS_UNREADABLE.found([""; 0], format!("network devices cannot be listed: {why}")))
        .into_iter()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Route;
    use crate::doctor::checks::seen;
    use crate::doctor::facts::sample::{self, UPLINK, VF0, VF1};

    #[test]
    fn a_port_with_hw_tc_offload_off_is_found_if_a_bridge_has_it() {
        let mut facts = sample::healthy();
        facts.link_mut(VF0).hw_tc_offload = Some(Ok(HwTcOffload::Off));
        facts.link_mut(UPLINK).hw_tc_offload = Some(Ok(HwTcOffload::Unsupported));
        facts.link_mut(VF1).hw_tc_offload = Some(Err("ENODEV".into()));
        let found = hw_tc_offload(&facts);
        assert_eq!(
            seen(&found),
            [
                ("hw-tc-offload-off", vec!["eth0"]),
                ("hw-tc-offload-off", vec!["eth0_0"]),
                ("ports-unreadable", vec!["eth0_1"])
            ]
        );
        assert_eq!(found[1].command.as_deref(), Some("ethtool -K eth0_0 hw-tc-offload on"));
        facts.ovs_mut().interfaces.clear();
        assert_eq!(hw_tc_offload(&facts), []);
    }

    #[test]
    fn a_representor_that_is_down_is_found_if_a_bridge_has_it() {
        let mut facts = sample::healthy();
        facts.link_mut(VF1).up = false;
        assert_eq!(seen(&representors_down(&facts)), [("representor-down", vec!["eth0_1"])]);
        facts.ovs_mut().interfaces.retain(|interface| interface.name != "eth0_1");
        assert_eq!(representors_down(&facts), [], "nobody uses it");
    }

    #[test]
    fn an_uplink_without_a_link_is_found() {
        let mut facts = sample::healthy();
        facts.link_mut(UPLINK).carrier = false;
        let found = uplinks_down(&facts);
        assert_eq!(seen(&found), [("uplink-down", vec!["eth0"])]);
        assert_eq!(found[0].command, None);
        facts.link_mut(UPLINK).up = false;
        assert_eq!(uplinks_down(&facts)[0].command.as_deref(), Some("ip link set dev eth0 up"));
        facts.ovs_mut().interfaces.clear();
        assert_eq!(uplinks_down(&facts), [], "nothing of this NIC is on a bridge");
    }

    #[test]
    fn a_port_without_a_device_is_found_and_so_is_one_that_cannot_be_opened() {
        let mut facts = sample::healthy();
        facts.ovs_mut().interfaces.push(Interface {
            error: Some("could not open network device eth0_9 (No such device)".into()),
            ..sample::interface("eth0_9", -1)
        });
        facts.interface_mut("eth0_1").ofport = Some(-1);
        let found = netdevs_missing(&facts);
        assert_eq!(
            seen(&found),
            [("port-netdev-missing", vec!["eth0_9"]), ("port-not-opened", vec!["eth0_1"])]
        );
        assert_eq!(found[0].command.as_deref(), Some("ovs-vsctl del-port br0 eth0_9"));
        facts.links = Err("not today".into());
        assert_eq!(netdevs_missing(&facts).len(), 2, "what Open vSwitch itself says is told still");
    }

    #[test]
    fn tunnels_internal_ports_and_userspace_bridges_need_no_device() {
        let mut facts = sample::healthy();
        for kind in ["geneve", "patch", "internal"] {
            let port = Interface { kind: kind.into(), ..sample::interface("other0", 9) };
            facts.ovs_mut().interfaces.push(port);
        }
        facts.ovs_mut().interfaces.push(Interface { userspace: true, ..sample::interface("pmd0", 9) });
        assert_eq!(netdevs_missing(&facts), []);
    }

    #[test]
    fn a_renamed_representor_is_found_with_both_names_and_only_once() {
        let mut facts = sample::healthy();
        facts.link_mut(VF0).name = "0a1b2c3d4e5f_h".into();
        facts.link_mut(VF0).altnames = vec!["eth0_0".into()];
        let found = netdevs_missing(&facts);
        assert_eq!(seen(&found), [("representor-renamed", vec!["eth0_0", "0a1b2c3d4e5f_h"])]);
        assert_eq!(representors_off_bridge(&facts), []);
        facts.link_mut(VF0).altnames.clear();
        assert_eq!(seen(&netdevs_missing(&facts)), [("port-netdev-missing", vec!["eth0_0"])]);
        facts.interface_mut("eth0_0").name = "enp3pf0vf0".into();
        assert_eq!(seen(&netdevs_missing(&facts))[0].0, "representor-renamed");
        // A name that the database knows too is just another name.
        facts.interface_mut("enp3pf0vf0").name = "0a1b2c3d4e5f_h".into();
        assert_eq!(netdevs_missing(&facts), []);
    }

    #[test]
    fn a_representor_on_no_bridge_is_found_while_it_is_up() {
        let mut facts = sample::healthy();
        facts.ovs_mut().interfaces.retain(|interface| interface.name != "eth0_1");
        assert_eq!(seen(&representors_off_bridge(&facts)), [("representor-off-bridge", vec!["eth0_1"])]);
        facts.link_mut(VF1).up = false;
        assert_eq!(representors_off_bridge(&facts), []);
        facts.link_mut(VF1).up = true;
        let bridge = Link { kind: Some("bridge".into()), ..sample::link("virbr0", None, "") };
        facts.links.as_mut().unwrap().insert(Ifindex(30), bridge);
        facts.link_mut(VF1).master = Some(Ifindex(30));
        assert_eq!(representors_off_bridge(&facts), [], "it is on a Linux bridge");
        facts.link_mut(VF1).master = None;
        assert_eq!(representors_off_bridge(&facts).len(), 1);
        facts.ovsdb = Err("away".into());
        assert_eq!(representors_off_bridge(&facts), [], "nobody knows");
    }

    #[test]
    fn an_uplink_on_no_bridge_is_found_unless_tunnels_leave_by_it() {
        let mut facts = sample::healthy();
        facts.ovs_mut().interfaces.retain(|interface| interface.name != "eth0");
        assert_eq!(seen(&uplinks_off_bridge(&facts)), [("uplink-off-bridge", vec!["eth0"])]);
        let remote = "192.0.2.7".parse().unwrap();
        facts.ovs_mut().interfaces.push(Interface {
            kind: "geneve".into(),
            remote_ip: Some(remote),
            ..sample::interface("gnv0", 4)
        });
        assert_eq!(uplinks_off_bridge(&facts).len(), 1, "no route");
        let by = |device: &str| {
            let to = "192.0.2.0".parse().unwrap();
            Ok(vec![Route { to, prefix: 24, device: device.into(), metric: 0 }])
        };
        facts.routes = by("eth0_0");
        assert_eq!(uplinks_off_bridge(&facts).len(), 1, "by a port of the bridge");
        facts.routes = by("eth0.100");
        assert_eq!(uplinks_off_bridge(&facts), []);
    }
}
