//! What is declared of a NIC beside what the inventory knows of it: what is otherwise, at any moment and without asking.

use std::collections::BTreeMap;
use std::fmt;

use netlink_wire::devlink::{EncapMode, PortFlavour};
use netlink_wire::ethtool::Feature;
use serde::Serialize;

use crate::inventory::{Nic, NicPort};
use crate::lifecycle::declared::{Attach, DeclaredNic, DeclaredPort, Function, FunctionKind, NetnsWanted};

/// Something that is not as declared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The key of the configuration, for a function with its word in front: `eswitch-mode`, `vf3 link`.
    pub key: String,
    /// What is declared.
    pub declared: String,
    /// What is.
    pub actual: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}, declared {}", self.key, self.actual, self.declared)
    }
}

/// Compares text with text: a value that is not declared is as it may be, one that is not known is `unknown`.
struct Comparison {
    prefix: String,
    found: Vec<Difference>,
}

impl Comparison {
    fn see(&mut self, key: &str, declared: Option<impl ToString>, actual: Option<impl ToString>) {
        let Some(declared) = declared else { return };
        let declared = declared.to_string();
        let actual = actual.map_or_else(|| "unknown".to_owned(), |actual| actual.to_string());
        if actual != declared {
            self.found.push(Difference { key: format!("{}{key}", self.prefix), declared, actual });
        }
    }
}

/// Everything of this NIC that is otherwise than declared, as far as the inventory knows it. It does not know whether a
/// function is trusted, which namespace a device is in, and keys of `external_ids` other than `iface-id`.
pub fn differences(declared: &DeclaredNic, nic: &Nic) -> Vec<Difference> {
    let mut all = Comparison { prefix: String::new(), found: Vec::new() };
    let eswitch = nic.eswitch.as_ref();
    all.see("eswitch-mode", declared.mode, eswitch.and_then(|eswitch| eswitch.mode));
    all.see("inline-mode", declared.inline, eswitch.and_then(|eswitch| eswitch.inline_mode));
    let encap = eswitch.and_then(|eswitch| eswitch.encap_mode).map(|mode| mode != EncapMode::None);
    let encap_word = |on: bool| if on { "basic" } else { "none" };
    all.see("encap-mode", declared.encap.map(encap_word), encap.map(encap_word));
    all.see("vfs", declared.vfs, Some(nic.vfs()));
    let sfs = nic.ports.iter().filter(|port| port.flavour == Some(PortFlavour::PciSf) && !port.external);
    all.see("sfs", declared.sfs, Some(sfs.count()));
    for netdev in nic.uplinks().filter_map(|port| port.netdev.as_ref()) {
        all.see("mtu", declared.mtu, netdev.mtu);
        all.see("hw-tc-offload", declared.hw_tc_offload.map(on_off), netdev.hw_tc_offload.map(feature));
    }
    let ports: BTreeMap<Function, &NicPort> =
        nic.representors().filter_map(|port| Some((function_of(port)?, port))).collect();
    for port in &declared.ports {
        all.prefix = format!("{} ", port.function.word());
        match ports.get(&port.function) {
            Some(actual) => port_differences(&mut all, port, declared.hw_tc_offload, actual),
            None => all.see("representor", Some("present"), Some("absent")),
        }
    }
    all.found
}

fn port_differences(all: &mut Comparison, declared: &DeclaredPort, offload: Option<bool>, port: &NicPort) {
    let function = port.function.as_ref();
    let mac = function.and_then(|function| function.hw_addr).map(|mac| mac.to_string());
    let own_mac = port.own.as_ref().and_then(|own| own.address).map(|mac| mac.to_string());
    all.see("mac", declared.mac, mac.or(own_mac));
    let state = |active: bool| if active { "active" } else { "inactive" };
    let actual = function.and_then(|function| function.state).map(|number| state(number == 1));
    all.see("state", declared.active.map(state), actual);
    let netdev = port.netdev.as_ref();
    let up_down = |up: bool| if up { "up" } else { "down" };
    all.see("link", declared.up.map(up_down), netdev.map(|netdev| up_down(netdev.up)));
    all.see("mtu", declared.mtu, netdev.and_then(|netdev| netdev.mtu));
    let offloads = netdev.and_then(|netdev| netdev.hw_tc_offload).map(feature);
    all.see("hw-tc-offload", offload.map(on_off), offloads);
    let ovs = port.ovs.as_ref();
    let on = ovs.map_or("none", |ovs| &ovs.bridge);
    match &declared.attach {
        None => {}
        Some(Attach::Nowhere) => all.see("bridge", Some("none"), Some(on)),
        Some(Attach::Bridge { bridge, external_ids, .. }) => {
            all.see("bridge", Some(bridge), Some(on));
            let id = ovs.and_then(|ovs| ovs.iface_id.as_deref()).unwrap_or("none");
            all.see("iface-id", external_ids.get("iface-id"), Some(id));
        }
    }
    // Of a device that is not here it is known that it is not here, and no more.
    if let (Some(NetnsWanted::In(netns)), Some(own)) = (&declared.netns, &port.own) {
        all.see("netns", Some(netns), Some(format!("this one ({})", own.name)));
    }
}

fn on_off(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

fn feature(feature: Feature) -> &'static str {
    match feature {
        Feature::On => "on",
        Feature::Off => "off",
        Feature::Unsupported => "unsupported",
    }
}

fn function_of(port: &NicPort) -> Option<Function> {
    let kind = match (port.flavour?, port.vf, port.sf) {
        (PortFlavour::PciVf, Some(vf), _) => FunctionKind::Vf(vf),
        (PortFlavour::PciSf, _, Some(sf)) => FunctionKind::Sf(sf),
        _ => return None,
    };
    let controller = if port.external { port.controller.unwrap_or_default() } else { 0 };
    Some(Function { controller, kind })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::{Device, Inventory, OvsInterface, Sriov};
    use crate::lifecycle::declared::NetnsRef;
    use netlink_wire::Ifindex;
    use netlink_wire::devlink::{Eswitch, EswitchMode, Instance, Port, PortIndex};
    use netlink_wire::link::{Link, LinkFlags};

    const NIC: &str = "pci/0000:03:00.0";

    /// A NIC in mode switchdev with two VFs; the representor of VF 0 is up and on bridge br0.
    fn nic() -> Nic {
        let mut inventory = Inventory::default();
        let handle = || NIC.parse().unwrap();
        inventory.instance(Instance { handle: handle(), reload_failed: false });
        let functions = [(0, "a".to_owned()), (1, "b".to_owned())].into();
        let sriov = Some(Sriov { vfs: 2, vfs_max: 8, functions });
        inventory.device(handle(), Device { driver: "mlx5_core".into(), sriov });
        let (inline_mode, encap_mode) = (None, Some(EncapMode::Basic));
        let mode = Some(EswitchMode::Switchdev);
        inventory.eswitch(handle(), Some(Eswitch { handle: handle(), mode, inline_mode, encap_mode }));
        for (index, ifindex, name) in [(0, 2, "eth0"), (1, 10, "rep0"), (2, 11, "rep1")] {
            let flags = LinkFlags::default();
            let name = Some(name.into());
            inventory.link(Link {
                ifindex: Ifindex(ifindex),
                name,
                mtu: Some(1500),
                flags,
                ..Link::default()
            });
            inventory.port(Port {
                handle: handle(),
                index: PortIndex(index),
                flavour: Some(if index == 0 { PortFlavour::Physical } else { PortFlavour::PciVf }),
                number: None,
                controller: None,
                external: false,
                pf: Some(0),
                vf: (index > 0).then(|| u16::try_from(index - 1).unwrap()),
                sf: None,
                ifindex: Some(Ifindex(ifindex)),
                netdev: None,
                function: None,
            });
        }
        inventory.feature(Ifindex(2), Feature::On);
        let row = OvsInterface {
            bridge: "br0".into(),
            is_netdev: true,
            ifindex: Some(10),
            ..OvsInterface::default()
        };
        inventory.interfaces_are([("rep0".to_owned(), row)].into());
        inventory.snapshot().nics.remove(0)
    }

    fn declared(ports: Vec<DeclaredPort>) -> DeclaredNic {
        DeclaredNic { ports, ..DeclaredNic::new(NIC.parse().unwrap()) }
    }

    fn said(declared: &DeclaredNic) -> Vec<String> {
        differences(declared, &nic()).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_is_not_declared_is_as_it_may_be() {
        assert_eq!(said(&declared(vec![DeclaredPort::new(Function::vf(0))])), [""; 0]);
        let whole = DeclaredNic {
            mode: Some(EswitchMode::Switchdev),
            encap: Some(true),
            vfs: Some(2),
            sfs: Some(0),
            hw_tc_offload: Some(true),
            mtu: Some(1500),
            ..declared(vec![])
        };
        assert_eq!(said(&whole), [""; 0]);
    }

    #[test]
    fn each_difference_says_what_is_and_what_is_declared() {
        let whole = DeclaredNic {
            mode: Some(EswitchMode::Legacy),
            encap: Some(false),
            vfs: Some(4),
            sfs: Some(1),
            hw_tc_offload: Some(false),
            mtu: Some(9000),
            ..declared(vec![])
        };
        assert_eq!(
            said(&whole),
            [
                "eswitch-mode switchdev, declared legacy",
                "encap-mode basic, declared none",
                "vfs 2, declared 4",
                "sfs 0, declared 1",
                "mtu 1500, declared 9000",
                "hw-tc-offload on, declared off",
            ]
        );
        let bridge = |bridge: &str| Attach::Bridge {
            bridge: bridge.into(),
            external_ids: [("iface-id".to_owned(), "pod1".to_owned())].into(),
            may_move: true,
        };
        let port = |vf| DeclaredPort::new(Function::vf(vf));
        let ports = vec![
            DeclaredPort { attach: Some(bridge("br1")), up: Some(true), ..port(0) },
            DeclaredPort { attach: Some(bridge("br0")), mtu: Some(8900), ..port(1) },
            DeclaredPort {
                attach: Some(Attach::Nowhere),
                netns: Some(NetnsWanted::In(NetnsRef::Pid(7))),
                ..port(0)
            },
            port(5),
        ];
        assert_eq!(
            said(&declared(ports)),
            [
                "vf0 link down, declared up",
                "vf0 bridge br0, declared br1",
                "vf0 iface-id none, declared pod1",
                "vf1 mtu 1500, declared 8900",
                "vf1 bridge none, declared br0",
                "vf1 iface-id none, declared pod1",
                "vf0 bridge br0, declared none",
                "vf5 representor absent, declared present",
            ]
        );
    }
}
