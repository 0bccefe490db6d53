//! What the engine is told of ports and NICs, and when.

use std::collections::BTreeMap;

use netlink_wire::devlink::{Handle, PortFlavour};
use netlink_wire::ethtool::Feature;
use netlink_wire::link::SwitchId;
use netlink_wire::ovs_vport::{Vport, VportKind};
use netlink_wire::{DpPort, Ifindex};
use offload_engine::{Event, NicFacts, NicId, PortFacts, PortKind};
use tc_flower::{BlockIndex, Hook, Location};

use super::Inventory;

impl Inventory {
    /// The NICs of a devlink instance that reported a reset.
    pub fn nics_of(&self, handle: &Handle) -> Vec<NicId> {
        let name = handle.to_string();
        self.told_nics.values().filter(|nic| nic.devlink == name).map(|nic| nic.id).collect()
    }

    /// The NICs that the engine was told of.
    pub fn nics_told(&self) -> impl Iterator<Item = &NicFacts> + Clone {
        self.told_nics.values()
    }

    /// Tells the engine what changed since the last time: NICs before the ports that refer to them.
    pub fn changes(&mut self, events: &mut Vec<Event>) {
        let dirty = std::mem::take(&mut self.dirty);
        let mut nics = BTreeMap::new();
        if dirty.nics {
            nics = self.nic_facts();
        }
        let looked_at: Vec<Ifindex> = match dirty.all_ports {
            true => self.vport_of.keys().chain(self.told_ports.keys()).copied().collect(),
            false => dirty.ports.into_iter().collect(),
        };
        let mut changed = Vec::new();
        for ifindex in looked_at {
            let facts = self.port_facts(ifindex);
            match (facts, self.told_ports.contains_key(&ifindex)) {
                (None, true) => {
                    self.told_ports.remove(&ifindex);
                    events.push(Event::PortGone(ifindex));
                }
                (Some(facts), _) if self.told_ports.get(&ifindex) != Some(&facts) => {
                    self.told_ports.insert(ifindex, facts.clone());
                    changed.push(Event::Port(Box::new(facts)));
                }
                _ => {}
            }
        }
        if dirty.nics {
            let gone = self.told_nics.keys().filter(|id| !nics.contains_key(id));
            events.extend(gone.map(|id| Event::NicGone(*id)));
            let new = nics.iter().filter(|(id, nic)| self.told_nics.get(id) != Some(nic));
            events.extend(new.map(|(_, nic)| Event::Nic(Box::new(nic.clone()))));
            self.told_nics = nics;
        }
        events.extend(changed);
    }

    fn port_facts(&mut self, ifindex: Ifindex) -> Option<PortFacts> {
        let vport = self.vports.get(self.vport_of.get(&ifindex)?)?;
        let row = self.interfaces.get(&*vport.name).cloned();
        // The datapath's own device is a port of no bridge.
        if vport.port == DpPort(0) && row.is_none() {
            return None;
        }
        let row = row.unwrap_or_default();
        let is_bond = self.is_bond(ifindex);
        let kind = self.kind(vport, ifindex, is_bond);
        let location = match kind {
            _ if is_bond => Location::Block(BlockIndex(ifindex.0)),
            PortKind::Internal => Location::Device { ifindex, hook: Hook::Egress },
            _ => Location::ingress(ifindex),
        };
        let offload = |ifindex: &Ifindex| self.features.get(ifindex) == Some(&Feature::On);
        let hw_tc_offload = match is_bond {
            true => self.members(ifindex).any(|member| offload(&member.ifindex)),
            false => offload(&ifindex),
        };
        let tunnel_kind = self.tunnel_kind(vport, ifindex).filter(|_| kind == PortKind::Tunnel);
        let of_device = || self.links.get(&ifindex).and_then(|link| link.tunnel_port);
        let tunnel_port = vport.tunnel_port.or_else(of_device).filter(|_| kind == PortKind::Tunnel);
        let facts = PortFacts {
            name: vport.name.to_string(),
            ifindex,
            location,
            dp_port: Some(vport.port),
            dp: Some(vport.dp),
            bridge: row.bridge,
            iface_id: row.iface_id,
            workload: row.workload,
            tunnel_kind: tunnel_kind.map(str::to_owned),
            tunnel_port,
            kind,
            nic: None,
            hw_tc_offload,
        };
        let nic = self.switch_of(ifindex).and_then(|switch| self.number_of_switch(switch));
        Some(PortFacts { nic, ..facts })
    }

    fn kind(&self, vport: &Vport, ifindex: Ifindex, is_bond: bool) -> PortKind {
        let link = self.links.get(&ifindex);
        match vport.kind {
            VportKind::Internal => return PortKind::Internal,
            VportKind::Gre | VportKind::Vxlan | VportKind::Geneve => return PortKind::Tunnel,
            _ => {}
        }
        let link_kind = link.and_then(|link| link.kind.as_deref()).unwrap_or_default();
        if vport.tunnel_port.is_some()
            || matches!(
                link_kind,
                "vxlan" | "geneve" | "gretap" | "ip6gretap" | "erspan" | "ip6erspan" | "bareudp"
            )
        {
            return PortKind::Tunnel;
        }
        if is_bond {
            let of_switch = self.members(ifindex).any(|member| member.switch_id.is_some());
            return if of_switch { PortKind::Uplink } else { PortKind::Other };
        }
        match self.flavour_of(ifindex) {
            Some(PortFlavour::Physical) => PortKind::Uplink,
            Some(PortFlavour::PciPf | PortFlavour::PciVf | PortFlavour::PciSf) => PortKind::Representor,
            _ => PortKind::Other,
        }
    }

    /// The kind of tunnel, as `Interface.type` has it.
    fn tunnel_kind(&self, vport: &Vport, ifindex: Ifindex) -> Option<&str> {
        match vport.kind {
            VportKind::Gre => return Some("gre"),
            VportKind::Vxlan => return Some("vxlan"),
            VportKind::Geneve => return Some("geneve"),
            _ => {}
        }
        Some(match self.links.get(&ifindex)?.kind.as_deref()? {
            "gretap" => "gre",
            "ip6gretap" => "ip6gre",
            kind => kind,
        })
    }

    /// The switch a port belongs to; for a bond, that of its members if it is the same for all.
    fn switch_of(&self, ifindex: Ifindex) -> Option<SwitchId> {
        if !self.is_bond(ifindex) {
            return self.links.get(&ifindex)?.switch_id;
        }
        let mut switches = self.members(ifindex).map(|member| member.switch_id);
        let first = switches.next()??;
        switches.all(|other| other == Some(first)).then_some(first)
    }

    fn nic_facts(&mut self) -> BTreeMap<NicId, NicFacts> {
        let mut nics = BTreeMap::new();
        let switches: Vec<SwitchId> = self.of_switch.keys().copied().collect();
        for switch in switches {
            let Some(id) = self.number_of_switch(switch) else { continue };
            let handle = self.instances_of_switch(switch).into_iter().next().cloned();
            let of_handle = |handle: &Handle| self.devices.get(handle).map(|device| device.driver.clone());
            let mode = handle.as_ref().and_then(|handle| self.eswitches.get(handle)?.as_ref()?.mode);
            let facts = NicFacts {
                id,
                driver: handle.as_ref().and_then(of_handle).unwrap_or_default(),
                devlink: handle.as_ref().map_or_else(String::new, ToString::to_string),
                switch_id: switch.to_string(),
                eswitch_mode: mode.map_or_else(String::new, |mode| mode.to_string()),
            };
            nics.insert(id, facts);
        }
        nics
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::{Device, OvsInterface};
    use netlink_wire::devlink::{Eswitch, EswitchMode, Instance, Port as DevlinkPort, PortIndex};
    use netlink_wire::link::{Link, ShortBytes};
    use netlink_wire::ovs_datapath::Change;

    fn handle() -> Handle {
        "simnic/simnic0".parse().unwrap()
    }

    fn link(ifindex: u32, name: &str, port_name: Option<&str>) -> Link {
        Link {
            ifindex: Ifindex(ifindex),
            name: Some(name.into()),
            port_name: port_name.map(Into::into),
            switch_id: port_name.map(|_| SwitchId(ShortBytes::new(&[0xab, 0xcd]).unwrap())),
            ..Link::default()
        }
    }

    fn vport(port: u32, ifindex: u32, name: &str, kind: VportKind) -> Vport {
        Vport {
            change: Change::New,
            seq: netlink_wire::Seq(0),
            portid: netlink_wire::PortId(0),
            dp: Ifindex(5),
            port: DpPort(port),
            kind,
            name: name.into(),
            ifindex: Some(Ifindex(ifindex)),
            netns: None,
            tunnel_port: None,
            stats: None,
        }
    }

    fn devlink_port(index: u32, ifindex: u32, flavour: PortFlavour) -> DevlinkPort {
        DevlinkPort {
            handle: handle(),
            index: PortIndex(index),
            flavour: Some(flavour),
            number: None,
            controller: None,
            external: false,
            pf: None,
            vf: None,
            sf: None,
            ifindex: Some(Ifindex(ifindex)),
            netdev: None,
            function: None,
        }
    }

    fn changes(inventory: &mut Inventory) -> Vec<Event> {
        let mut events = Vec::new();
        inventory.changes(&mut events);
        events
    }

    fn one_port(events: &[Event]) -> &PortFacts {
        let mut ports = events.iter().filter_map(|event| match event {
            Event::Port(port) => Some(&**port),
            _ => None,
        });
        let port = ports.next().expect("a port is told");
        assert!(ports.next().is_none());
        port
    }

    #[test]
    fn a_renamed_representor_is_known_by_devlink_and_switch_id() {
        let mut inventory = Inventory::default();
        assert!(inventory.link(link(7, "0123456789ab_h", Some("pf0vf1"))).features);
        assert!(inventory.instance(Instance { handle: handle(), reload_failed: false }));
        assert!(inventory.port(devlink_port(2, 7, PortFlavour::PciVf)));
        let mode = Some(EswitchMode::Switchdev);
        inventory
            .eswitch(handle(), Some(Eswitch { handle: handle(), mode, inline_mode: None, encap_mode: None }));
        inventory.device(handle(), Device { driver: "simnic".into(), sriov: None });
        inventory.feature(Ifindex(7), Feature::On);
        inventory.vport(vport(3, 7, "0123456789ab_h", VportKind::Netdev));
        let row = OvsInterface {
            bridge: "br-int".into(),
            iface_id: Some("pod.ns".into()),
            ..OvsInterface::default()
        };
        inventory.interfaces_are([("0123456789ab_h".to_owned(), row)].into());
        let events = changes(&mut inventory);
        let Some(Event::Nic(nic)) = events.first() else { panic!("the NIC comes before its port") };
        assert_eq!(
            (nic.devlink.as_str(), nic.driver.as_str(), nic.eswitch_mode.as_str(), nic.switch_id.as_str()),
            ("simnic/simnic0", "simnic", "switchdev", "abcd")
        );
        let port = one_port(&events);
        assert_eq!((port.kind, port.nic, port.hw_tc_offload), (PortKind::Representor, Some(nic.id), true));
        assert_eq!((port.bridge.as_str(), port.iface_id.as_deref()), ("br-int", Some("pod.ns")));
        assert_eq!(port.location, Location::ingress(Ifindex(7)));
        assert!(changes(&mut inventory).is_empty(), "nothing is told twice");
    }

    #[test]
    fn a_bond_has_its_filters_on_a_block() {
        let mut inventory = Inventory::default();
        inventory.link(Link { kind: Some("bond".into()), ..link(20, "bond0", None) });
        for ifindex in [21, 22] {
            inventory.link(Link { master: Some(Ifindex(20)), ..link(ifindex, "p", Some("p0")) });
            inventory.feature(Ifindex(ifindex), Feature::On);
        }
        inventory.vport(vport(1, 20, "bond0", VportKind::Netdev));
        let events = changes(&mut inventory);
        let port = one_port(&events);
        assert_eq!(port.location, Location::Block(BlockIndex(20)));
        assert_eq!((port.kind, port.nic, port.hw_tc_offload), (PortKind::Uplink, Some(NicId(0)), true));
    }

    #[test]
    fn an_internal_port_has_its_filters_on_egress_and_the_datapath_itself_has_none() {
        let mut inventory = Inventory::default();
        inventory.vport(vport(0, 5, "ovs-system", VportKind::Internal));
        inventory.vport(vport(1, 6, "br0", VportKind::Internal));
        let events = changes(&mut inventory);
        let port = one_port(&events);
        assert_eq!(port.location, Location::Device { ifindex: Ifindex(6), hook: Hook::Egress });
    }

    #[test]
    fn a_tunnel_is_of_the_kind_that_open_vswitch_calls_it() {
        let mut inventory = Inventory::default();
        let device = link(9, "genev_sys_6081", None);
        inventory.link(Link { kind: Some("geneve".into()), tunnel_port: Some(6081), ..device });
        inventory.vport(vport(4, 9, "genev_sys_6081", VportKind::Netdev));
        let events = changes(&mut inventory);
        let port = one_port(&events);
        assert_eq!((port.kind, port.tunnel_kind.as_deref()), (PortKind::Tunnel, Some("geneve")));
        assert_eq!(port.tunnel_port, Some(6081));
    }

    #[test]
    fn a_netdev_that_comes_back_is_another_port_of_the_same_nic() {
        let mut inventory = Inventory::default();
        inventory.link(link(7, "rep", Some("pf0vf1")));
        inventory.vport(vport(3, 7, "rep", VportKind::Netdev));
        changes(&mut inventory);
        inventory.link(Link { deleted: true, ..link(7, "rep", None) });
        inventory.vports_are(vec![]);
        assert_eq!(changes(&mut inventory), [Event::PortGone(Ifindex(7)), Event::NicGone(NicId(0))]);
        inventory.link(link(9, "rep", Some("pf0vf1")));
        inventory.vports_are(vec![vport(3, 9, "rep", VportKind::Netdev)]);
        let events = changes(&mut inventory);
        assert_eq!(one_port(&events).nic, Some(NicId(0)));
    }

    #[test]
    fn a_port_in_another_namespace_is_not_ours_to_read() {
        let mut inventory = Inventory::default();
        let mut far = vport(3, 7, "rep", VportKind::Netdev);
        far.netns = Some(netlink_wire::NetnsId(1));
        inventory.vport(far);
        assert!(changes(&mut inventory).is_empty());
    }
}
