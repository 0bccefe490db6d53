//! Everything that is known, joined at one moment.

use std::collections::{BTreeMap, BTreeSet};

use netlink_wire::Ifindex;
use netlink_wire::devlink::{Handle, Port as DevlinkPort, PortFlavour};
use netlink_wire::link::{Link, SwitchId};
use offload_engine::NicId;

use super::nic::{Bond, BondPort, Netdev, Nic, NicPort, OvsPort, Snapshot, StalePort};
use super::{Inventory, by_port_name};

impl Inventory {
    /// What is known now. NICs that are seen for the first time get their numbers.
    pub fn snapshot(&mut self) -> Snapshot {
        let by_handle = self.ports_by_handle();
        let mut nics = Vec::new();
        let with_eswitch = self.eswitches.iter().filter(|(_, eswitch)| eswitch.is_some());
        let handles: Vec<Handle> = with_eswitch.map(|(handle, _)| handle.clone()).collect();
        for handle in handles {
            let ports = by_handle.get(&handle).map(Vec::as_slice).unwrap_or_default();
            nics.extend(self.nic(&handle, ports));
        }
        let switches: Vec<SwitchId> = self.of_switch.keys().copied().collect();
        for switch in switches {
            if self.instances_of_switch(switch).is_empty() {
                nics.extend(self.nic_without_devlink(switch));
            }
        }
        nics.sort_by_key(|nic| nic.number);
        let bonds = self.bonds(&nics);
        Snapshot { nics, bonds, stale: self.stale() }
    }

    fn ports_by_handle(&self) -> BTreeMap<Handle, Vec<NicPort>> {
        let by_name = self.interfaces_by_ifindex();
        let mut by_handle: BTreeMap<Handle, Vec<NicPort>> = BTreeMap::new();
        for ((handle, _), port) in &self.ports {
            // A function's own side, and a switch chip's ports, are not the eswitch's.
            let is_eswitch = matches!(
                port.flavour,
                Some(PortFlavour::Physical | PortFlavour::PciPf | PortFlavour::PciVf | PortFlavour::PciSf)
                    | None
            );
            if is_eswitch {
                by_handle.entry(handle.clone()).or_default().push(self.port_of_devlink(port, &by_name));
            }
        }
        by_handle
    }

    /// Ports of Open vSwitch by the device they are: as the datapath has it, and by name where it has none of it.
    fn interfaces_by_ifindex(&self) -> BTreeMap<Ifindex, OvsPort> {
        let of_datapath = self.vport_of.iter().filter_map(|(ifindex, key)| {
            let name = &self.vports.get(key)?.name;
            Some((*ifindex, OvsPort::of(name, self.interfaces.get(&**name)?)))
        });
        let mut found: BTreeMap<Ifindex, OvsPort> = of_datapath.collect();
        let by_number = self.interfaces.iter().filter(|(_, row)| row.is_netdev);
        for (name, row) in by_number {
            // A device that was renamed is known to Open vSwitch by its number.
            let Some(ifindex) = row.ifindex.map(Ifindex) else { continue };
            if self.links.contains_key(&ifindex) {
                found.entry(ifindex).or_insert_with(|| OvsPort::of(name, row));
            }
        }
        found
    }

    fn netdev(&self, link: &Link) -> Netdev {
        Netdev::of(link, self.features.get(&link.ifindex).copied())
    }

    fn port_of_devlink(&self, port: &DevlinkPort, ovs: &BTreeMap<Ifindex, OvsPort>) -> NicPort {
        let link = port.ifindex.and_then(|ifindex| self.links.get(&ifindex));
        let (bus, device) = self.device_of(port).unzip();
        let own = bus.zip(device.clone()).and_then(|(bus, device)| self.own_netdev(bus, &device));
        NicPort {
            index: Some(port.index),
            flavour: port.flavour,
            controller: port.controller,
            external: port.external,
            pf: port.pf,
            vf: port.vf,
            sf: port.sf,
            function: port.function.clone(),
            port_name: link.and_then(|link| link.port_name.as_deref()).map(str::to_owned),
            netdev: link.map(|link| self.netdev(link)),
            device,
            own,
            ovs: link.and_then(|link| ovs.get(&link.ifindex)).cloned(),
        }
    }

    /// The bus and name of the device of a port's function.
    fn device_of(&self, port: &DevlinkPort) -> Option<(Box<str>, String)> {
        if let Some(instance) = port.function.as_ref().and_then(|function| function.instance.as_ref()) {
            return Some((instance.bus.clone(), instance.device.to_string()));
        }
        // Numbers of virtual functions are those of the host that has them.
        let vf = port.vf.filter(|_| !port.external && port.flavour == Some(PortFlavour::PciVf))?;
        let sriov = self.devices.get(&port.handle)?.sriov.as_ref()?;
        Some((port.handle.bus.clone(), sriov.functions.get(&vf)?.clone()))
    }

    /// The network device whose parent is a function's device, if there is one and only one.
    fn own_netdev(&self, bus: Box<str>, device: &str) -> Option<Netdev> {
        let children = self.of_parent.get(&(bus, Box::from(device)))?;
        let mut children = children.iter().filter_map(|ifindex| self.links.get(ifindex));
        match (children.next(), children.next()) {
            (Some(link), None) if link.switch_id.is_none() => Some(self.netdev(link)),
            _ => None,
        }
    }

    fn nic(&mut self, handle: &Handle, ports: &[NicPort]) -> Option<Nic> {
        let mut devices = self.ports.iter().filter(|((owner, _), _)| owner == handle);
        let switch_id = devices.find_map(|(_, port)| self.links.get(&port.ifindex?)?.switch_id);
        let number = self.number_of(handle, switch_id)?;
        let health = self.health.iter().filter(|((owner, ..), _)| owner == handle);
        Some(Nic {
            number,
            switch: switch_id.and_then(|switch| self.switches.get(&switch)).copied(),
            handle: Some(handle.clone()),
            device: self.devices.get(handle).cloned().unwrap_or_default(),
            info: self.infos.get(handle).cloned(),
            eswitch: self.eswitches.get(handle).cloned().flatten(),
            reload_failed: self.instances.get(handle).is_some_and(|instance| instance.reload_failed),
            switch_id,
            health: health.map(|(_, reporter)| reporter.clone()).collect(),
            resources: self.resources.get(handle).cloned().unwrap_or_default(),
            ports: ports.to_vec(),
        })
    }

    /// A switch that no devlink instance has ports in: of a driver without devlink.
    fn nic_without_devlink(&mut self, switch: SwitchId) -> Option<Nic> {
        let number = self.number_of_switch(switch)?;
        let ovs = self.interfaces_by_ifindex();
        let links =
            self.of_switch.get(&switch).into_iter().flatten().filter_map(|ifindex| self.links.get(ifindex));
        let ports = links.map(|link| NicPort {
            index: None,
            flavour: by_port_name(link),
            controller: None,
            external: false,
            pf: None,
            vf: None,
            sf: None,
            function: None,
            port_name: link.port_name.as_deref().map(str::to_owned),
            netdev: Some(self.netdev(link)),
            device: None,
            own: None,
            ovs: ovs.get(&link.ifindex).cloned(),
        });
        let ports = ports.collect();
        Some(Nic {
            number,
            switch: Some(number),
            handle: None,
            device: super::Device::default(),
            info: None,
            eswitch: None,
            reload_failed: false,
            switch_id: Some(switch),
            health: Vec::new(),
            resources: Vec::new(),
            ports,
        })
    }

    fn bonds(&self, nics: &[Nic]) -> Vec<Bond> {
        let mut uplinks: BTreeMap<Ifindex, NicId> = BTreeMap::new();
        for nic in nics {
            let netdevs = nic.uplinks().filter_map(|port| port.netdev.as_ref());
            uplinks.extend(netdevs.map(|netdev| (netdev.ifindex, nic.number)));
        }
        let masters: BTreeSet<Ifindex> =
            uplinks.keys().filter_map(|ifindex| self.links.get(ifindex)?.master).collect();
        let ovs = self.interfaces_by_ifindex();
        let bonds = masters.into_iter().filter(|master| self.is_bond(*master));
        let bonds = bonds.filter_map(|master| self.links.get(&master));
        bonds
            .map(|link| Bond {
                netdev: self.netdev(link),
                mode: link.bond.map(|bond| bond.mode),
                failovers: self.bonds.get(&link.ifindex).map_or(0, |life| life.failovers),
                members: self
                    .members(link.ifindex)
                    .map(|member| BondPort {
                        netdev: self.netdev(member),
                        active: match link.bond.and_then(|bond| bond.active) {
                            Some(active) => Some(active == member.ifindex),
                            None => member.bond_member.map(|state| state.active),
                        },
                        link_up: member.bond_member.map(|state| state.link_up),
                        nic: uplinks.get(&member.ifindex).copied(),
                    })
                    .collect(),
                ovs: ovs.get(&link.ifindex).cloned(),
            })
            .collect()
    }

    /// Ports of Open vSwitch without a device of their name or number.
    fn stale(&self) -> Vec<StalePort> {
        let names = self.links.values().flat_map(|link| link.name.iter().chain(&link.altnames));
        let names: BTreeSet<&str> = names.map(|name| &**name).collect();
        let elsewhere: BTreeSet<&str> =
            self.vports.values().filter(|vport| vport.netns.is_some()).map(|vport| &*vport.name).collect();
        let is_there = |name: &str, ifindex: Option<u32>| {
            names.contains(name)
                || elsewhere.contains(name)
                || ifindex.is_some_and(|ifindex| self.vport_of.contains_key(&Ifindex(ifindex)))
        };
        let rows = self.interfaces.iter().filter(|(name, row)| row.is_netdev && !is_there(name, row.ifindex));
        rows.map(|(name, row)| StalePort {
            ovs: OvsPort::of(name, row),
            error: row.error.clone(),
            was: self.gone.iter().find(|(gone, _)| **gone == **name).map(|(_, was)| was.clone()),
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::{Device, OvsInterface, Sriov, Was};
    use netlink_wire::devlink::{Eswitch, EswitchMode, Instance, PortFunction, PortIndex};
    use netlink_wire::link::{BondMember, BondMode, ShortBytes};

    const PF: &str = "pci/0000:03:00.0";

    fn switch(id: u8) -> SwitchId {
        SwitchId(ShortBytes::new(&[id]).unwrap())
    }

    fn link(ifindex: u32, name: &str) -> Link {
        Link { ifindex: Ifindex(ifindex), name: Some(name.into()), ..Link::default() }
    }

    fn of_switch(ifindex: u32, name: &str, port_name: &str) -> Link {
        Link { switch_id: Some(switch(1)), port_name: Some(port_name.into()), ..link(ifindex, name) }
    }

    fn port(handle: &str, index: u32, flavour: PortFlavour, ifindex: Option<u32>) -> DevlinkPort {
        DevlinkPort {
            handle: handle.parse().unwrap(),
            index: PortIndex(index),
            flavour: Some(flavour),
            number: None,
            controller: None,
            external: false,
            pf: Some(0),
            vf: None,
            sf: None,
            ifindex: ifindex.map(Ifindex),
            netdev: None,
            function: None,
        }
    }

    fn add_nic(inventory: &mut Inventory, handle: &str, mode: EswitchMode, sriov: Option<Sriov>) {
        let handle: Handle = handle.parse().unwrap();
        inventory.instance(Instance { handle: handle.clone(), reload_failed: false });
        inventory.device(handle.clone(), Device { driver: "mlx5_core".into(), sriov });
        let eswitch =
            Eswitch { handle: handle.clone(), mode: Some(mode), inline_mode: None, encap_mode: None };
        inventory.eswitch(handle, Some(eswitch));
    }

    #[test]
    fn only_another_mode_makes_links_be_read_again() {
        let mut inventory = switchdev();
        let handle: Handle = PF.parse().unwrap();
        let eswitch = |mode| {
            Some(Eswitch {
                handle: PF.parse().unwrap(),
                mode: Some(mode),
                inline_mode: None,
                encap_mode: None,
            })
        };
        assert!(!inventory.eswitch(handle.clone(), eswitch(EswitchMode::Switchdev)));
        assert!(inventory.eswitch(handle.clone(), eswitch(EswitchMode::Legacy)));
        assert!(!inventory.eswitch("pci/0000:99:00.0".parse().unwrap(), eswitch(EswitchMode::Legacy)));
        inventory.begin_links();
        inventory.links(vec![link(2, "ens1f0")]);
        let nic = &inventory.snapshot().nics[0];
        assert_eq!((nic.switch_id, nic.switch), (None, None));
    }

    /// One NIC in mode switchdev with an uplink, two VFs and their representors.
    fn switchdev() -> Inventory {
        let mut inventory = Inventory::default();
        let functions = [(0, "0000:03:00.2".to_owned()), (1, "0000:03:00.3".to_owned())].into();
        let sriov = Sriov { vfs: 2, vfs_max: 127, functions };
        add_nic(&mut inventory, PF, EswitchMode::Switchdev, Some(sriov));
        inventory.link(of_switch(2, "ens1f0", "p0"));
        inventory.port(port(PF, 0, PortFlavour::Physical, Some(2)));
        for vf in 0..2_u16 {
            let ifindex = 10 + u32::from(vf);
            inventory.link(of_switch(ifindex, &format!("rep{vf}"), &format!("pf0vf{vf}")));
            let of_vf = port(PF, 1 + u32::from(vf), PortFlavour::PciVf, Some(ifindex));
            inventory.port(DevlinkPort { vf: Some(vf), ..of_vf });
        }
        inventory
    }

    fn child_of(ifindex: u32, name: &str, device: &str) -> Link {
        Link { parent_bus: Some("pci".into()), parent_name: Some(device.into()), ..link(ifindex, name) }
    }

    #[test]
    fn a_functions_own_device_is_joined_only_when_its_parent_says_so() {
        let mut inventory = switchdev();
        inventory.link(child_of(20, "ens1f0v0", "0000:03:00.2"));
        // Two devices on one function: either may be meant.
        inventory.link(child_of(21, "a", "0000:03:00.3"));
        inventory.link(child_of(22, "b", "0000:03:00.3"));
        let snapshot = inventory.snapshot();
        let [nic] = &snapshot.nics[..] else { panic!("{snapshot:?}") };
        let own: Vec<_> =
            nic.representors().map(|port| port.own.as_ref().map(|own| own.name.as_str())).collect();
        assert_eq!(own, [Some("ens1f0v0"), None]);
        assert_eq!((nic.vfs(), nic.ports.len(), nic.driver()), (2, 3, "mlx5_core"));
        // A port whose function another host has is not this host's VF of that number.
        let external = DevlinkPort {
            vf: Some(0),
            external: true,
            controller: Some(1),
            ..port(PF, 1, PortFlavour::PciVf, Some(10))
        };
        inventory.port(external);
        assert_eq!(inventory.snapshot().nics[0].ports[1].own, None);
    }

    #[test]
    fn a_sub_functions_device_is_the_instance_that_devlink_names() {
        let mut inventory = switchdev();
        let function =
            PortFunction { instance: "auxiliary/mlx5_core.sf.4".parse().ok(), ..PortFunction::default() };
        let sf = port(PF, 99, PortFlavour::PciSf, None);
        inventory.port(DevlinkPort { sf: Some(88), function: Some(function), ..sf });
        let parent = (Some("auxiliary".into()), Some("mlx5_core.sf.4".into()));
        inventory.link(Link { parent_bus: parent.0, parent_name: parent.1, ..link(30, "enp3s0f0s88") });
        let snapshot = inventory.snapshot();
        let sf = snapshot.nics[0].ports.last().unwrap();
        assert_eq!(sf.own.as_ref().map(|own| own.name.as_str()), Some("enp3s0f0s88"));
        assert_eq!((sf.netdev.as_ref(), snapshot.nics[0].count(PortFlavour::PciSf)), (None, 1));
    }

    #[test]
    fn a_port_of_open_vswitch_without_its_representor_is_stale_and_says_what_it_was() {
        let mut inventory = switchdev();
        let row =
            |netdev| OvsInterface { bridge: "br-int".into(), is_netdev: netdev, ..OvsInterface::default() };
        let rows = [("rep1", true), ("lost", true), ("patch0", false), ("ens1f0", true)];
        inventory.interfaces_are(rows.map(|(name, netdev)| (name.to_owned(), row(netdev))).into());
        let stale = |inventory: &mut Inventory| {
            let stale = inventory.snapshot().stale;
            stale.into_iter().map(|stale| (stale.ovs.name, stale.was)).collect::<Vec<_>>()
        };
        assert_eq!(stale(&mut inventory), [("lost".to_owned(), None)]);
        inventory.port_gone(&PF.parse().unwrap(), PortIndex(2));
        inventory.link(Link { deleted: true, ..link(11, "rep1") });
        let was = Was { handle: PF.parse().ok(), port_name: Some("pf0vf1".into()) };
        assert_eq!(stale(&mut inventory), [("lost".to_owned(), None), ("rep1".to_owned(), Some(was))]);
        inventory.link(of_switch(12, "rep1", "pf0vf1"));
        assert_eq!(stale(&mut inventory), [("lost".to_owned(), None)]);
    }

    #[test]
    fn a_nic_keeps_its_number_through_modes_and_the_second_of_a_card_is_counted_with_the_first() {
        let (first, second) = (PF, "pci/0000:03:00.1");
        let mut inventory = Inventory::default();
        add_nic(&mut inventory, first, EswitchMode::Legacy, None);
        add_nic(&mut inventory, second, EswitchMode::Legacy, None);
        let numbers = |inventory: &mut Inventory| {
            let nics = inventory.snapshot().nics;
            nics.iter().map(|nic| (nic.number.0, nic.switch.map(|switch| switch.0))).collect::<Vec<_>>()
        };
        assert_eq!(numbers(&mut inventory), [(0, None), (1, None)]);
        for (handle, ifindex) in [(second, 3), (first, 2)] {
            inventory.port(port(handle, 0, PortFlavour::Physical, Some(ifindex)));
            inventory.link(of_switch(ifindex, "p", "p0"));
        }
        inventory.changes(&mut Vec::new());
        assert_eq!(numbers(&mut inventory), [(0, Some(0)), (1, Some(0))]);
    }

    #[test]
    fn a_bond_says_which_uplink_is_used() {
        let mut inventory = switchdev();
        let bond = netlink_wire::link::Bond { mode: BondMode(1), active: Some(Ifindex(2)) };
        inventory.link(Link { kind: Some("bond".into()), bond: Some(bond), ..link(40, "bond0") });
        let member = |active| Some(BondMember { active, link_up: true });
        let master = Some(Ifindex(40));
        inventory.link(Link { master, bond_member: member(true), ..of_switch(2, "ens1f0", "p0") });
        inventory.link(Link { master, bond_member: member(false), ..link(3, "other") });
        let bonds = inventory.snapshot().bonds;
        let members: Vec<_> = bonds[0]
            .members
            .iter()
            .map(|member| (member.netdev.name.as_str(), member.active, member.nic))
            .collect();
        assert_eq!(members, [("ens1f0", Some(true), Some(NicId(0))), ("other", Some(false), None)]);
        assert_eq!(bonds[0].mode, Some(BondMode(1)));
    }

    #[test]
    fn a_bridge_that_tells_of_its_port_takes_nothing_from_the_link() {
        let mut inventory = switchdev();
        inventory.link(Link { of_bridge: true, ..link(10, "rep0") });
        inventory.link(Link { of_bridge: true, deleted: true, ..link(10, "rep0") });
        let nic = &inventory.snapshot().nics[0];
        let names: Vec<_> = nic.representors().map(|port| port.port_name.as_deref()).collect();
        assert_eq!(names, [Some("pf0vf0"), Some("pf0vf1")]);
    }

    #[test]
    fn a_new_function_makes_its_nic_be_asked() {
        let mut inventory = switchdev();
        let open = inventory.link(child_of(50, "new", "0000:03:00.4"));
        assert_eq!(open.bus.as_deref(), Some("pci"));
        assert_eq!(inventory.with_functions("pci").count(), 1);
        let known = inventory.link(child_of(51, "known", "0000:03:00.2"));
        assert_eq!((known.bus, known.nic, known.features), (None, None, false));
        let gone = inventory.link(Link { deleted: true, ..child_of(51, "known", "0000:03:00.2") });
        assert_eq!(gone.nic, PF.parse().ok());
    }
}
