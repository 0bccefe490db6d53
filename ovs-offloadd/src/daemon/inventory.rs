//! Ports and NICs, joined from what links, datapath, devlink and OVSDB tell.
//!
//! Names of netdevs are only a way to find a row in OVSDB: what a port is comes from devlink and the switch id.
//! Pure: told facts in, changed facts out.

use std::collections::{BTreeMap, BTreeSet};

use netlink_wire::devlink::{EswitchMode, Handle, Port as DevlinkPort, PortFlavour};
use netlink_wire::link::Link;
use netlink_wire::ovs_vport::{Vport, VportKind};
use netlink_wire::{DpPort, Ifindex};
use offload_engine::{Event, NicFacts, NicId, PortFacts, PortKind, Workload};
use tc_flower::{BlockIndex, Hook, Location};

/// What OVSDB says of an interface.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct OvsInterface {
    /// The bridge it is on.
    pub(crate) bridge: String,
    /// `external_ids:iface-id`.
    pub(crate) iface_id: Option<String>,
    /// What it was plugged for.
    pub(crate) workload: Option<Workload>,
}

/// Everything known of ports and NICs, and what the engine was told of it.
#[derive(Debug, Default)]
pub(crate) struct Inventory {
    links: BTreeMap<Ifindex, Link>,
    vports: BTreeMap<(Ifindex, DpPort), Vport>,
    devlink_ports: BTreeMap<(Handle, u32), DevlinkPort>,
    eswitches: BTreeMap<Handle, EswitchMode>,
    drivers: BTreeMap<Handle, String>,
    hw_tc_offload: BTreeMap<Ifindex, bool>,
    interfaces: BTreeMap<String, OvsInterface>,
    // A switch keeps its number as long as the daemon runs, whatever comes and goes.
    nic_ids: BTreeMap<String, NicId>,
    told_ports: BTreeMap<Ifindex, PortFacts>,
    told_nics: BTreeMap<NicId, NicFacts>,
    dirty: bool,
}

/// Most NICs that get a number: a host has a few; a faulty driver could show any number of switch ids.
const NICS_MAX: usize = 256;

impl Inventory {
    /// A link exists or changed. Returns whether it belongs to a switch, so that its features matter.
    pub(crate) fn link(&mut self, link: Link) -> bool {
        self.dirty = true;
        let of_switch = link.switch_id.is_some();
        if !of_switch {
            self.hw_tc_offload.remove(&link.ifindex);
        }
        match self.links.get_mut(&link.ifindex) {
            // Some notifications, those of bridges about their ports, tell only a part.
            Some(known) if link.name.is_none() => known.flags = link.flags,
            _ => {
                self.links.insert(link.ifindex, link);
            }
        }
        of_switch
    }

    /// A link is gone.
    pub(crate) fn link_gone(&mut self, ifindex: Ifindex) {
        self.dirty = true;
        self.links.remove(&ifindex);
        self.hw_tc_offload.remove(&ifindex);
    }

    /// Only these links exist.
    pub(crate) fn links_are(&mut self, all: &BTreeSet<Ifindex>) {
        self.dirty = true;
        self.links.retain(|ifindex, _| all.contains(ifindex));
        self.hw_tc_offload.retain(|ifindex, _| all.contains(ifindex));
    }

    /// A datapath port exists or changed.
    pub(crate) fn vport(&mut self, vport: Vport) {
        self.dirty = true;
        self.vports.insert((vport.dp, vport.port), vport);
    }

    /// A datapath port is gone.
    pub(crate) fn vport_gone(&mut self, vport: &Vport) {
        self.dirty = true;
        self.vports.remove(&(vport.dp, vport.port));
    }

    /// Only these datapath ports exist.
    pub(crate) fn vports_are(&mut self, all: Vec<Vport>) {
        let all: BTreeMap<_, _> = all.into_iter().map(|vport| ((vport.dp, vport.port), vport)).collect();
        let same = all.len() == self.vports.len()
            && all.iter().zip(&self.vports).all(|((key, new), (known, old))| {
                key == known && new.name == old.name && new.ifindex == old.ifindex && new.kind == old.kind
            });
        self.dirty |= !same;
        self.vports = all;
    }

    /// A devlink port exists or changed.
    pub(crate) fn devlink_port(&mut self, port: DevlinkPort) {
        self.dirty = true;
        self.devlink_ports.insert((port.handle.clone(), port.index.0), port);
    }

    /// A devlink port is gone.
    pub(crate) fn devlink_port_gone(&mut self, handle: &Handle, index: u32) {
        self.dirty = true;
        self.devlink_ports.remove(&(handle.clone(), index));
    }

    /// A devlink instance is gone, with all it had.
    pub(crate) fn devlink_gone(&mut self, handle: &Handle) {
        self.dirty = true;
        self.devlink_ports.retain(|(owner, _), _| owner != handle);
        self.eswitches.remove(handle);
        self.drivers.remove(handle);
    }

    /// The mode of an eswitch, and the driver of its device.
    pub(crate) fn eswitch(&mut self, handle: Handle, mode: EswitchMode, driver: String) {
        self.dirty = true;
        self.drivers.insert(handle.clone(), driver);
        self.eswitches.insert(handle, mode);
    }

    /// Whether `hw-tc-offload` is on.
    pub(crate) fn hw_tc_offload(&mut self, ifindex: Ifindex, on: bool) {
        self.dirty |= self.hw_tc_offload.insert(ifindex, on) != Some(on);
    }

    /// What OVSDB says of all interfaces, by name.
    pub(crate) fn interfaces_are(&mut self, interfaces: BTreeMap<String, OvsInterface>) {
        self.dirty |= self.interfaces != interfaces;
        self.interfaces = interfaces;
    }

    /// The NICs of a devlink instance that reported a reset.
    pub(crate) fn nics_of(&self, handle: &Handle) -> Vec<NicId> {
        let name = handle.to_string();
        self.told_nics.values().filter(|nic| nic.devlink == name).map(|nic| nic.id).collect()
    }

    /// The NICs that the engine was told of.
    pub(crate) fn nics_told(&self) -> impl Iterator<Item = &NicFacts> + Clone {
        self.told_nics.values()
    }

    /// Tells what changed since the last time: NICs before the ports that refer to them.
    pub(crate) fn changes(&mut self, events: &mut Vec<Event>) {
        if !std::mem::take(&mut self.dirty) {
            return;
        }
        let ports = self.ports();
        let nics = self.nics();
        for (ifindex, _) in self.told_ports.iter().filter(|(ifindex, _)| !ports.contains_key(ifindex)) {
            events.push(Event::PortGone(*ifindex));
        }
        for (id, _) in self.told_nics.iter().filter(|(id, _)| !nics.contains_key(id)) {
            events.push(Event::NicGone(*id));
        }
        for (id, nic) in nics.iter().filter(|(id, nic)| self.told_nics.get(id) != Some(nic)) {
            debug_assert_eq!(*id, nic.id);
            events.push(Event::Nic(Box::new(nic.clone())));
        }
        for (ifindex, port) in
            ports.iter().filter(|(ifindex, port)| self.told_ports.get(ifindex) != Some(port))
        {
            debug_assert_eq!(*ifindex, port.ifindex);
            events.push(Event::Port(Box::new(port.clone())));
        }
        self.told_ports = ports;
        self.told_nics = nics;
    }

    fn ports(&mut self) -> BTreeMap<Ifindex, PortFacts> {
        let vports: Vec<Vport> = self.vports.values().cloned().collect();
        let mut ports = BTreeMap::new();
        for vport in vports {
            let Some(ifindex) = vport.ifindex.filter(|_| vport.netns.is_none()) else { continue };
            // The datapath's own device is a port of no bridge.
            if vport.port == DpPort(0) && !self.interfaces.contains_key(&*vport.name) {
                continue;
            }
            let facts = self.port(&vport, ifindex);
            ports.insert(ifindex, facts);
        }
        ports
    }

    fn port(&mut self, vport: &Vport, ifindex: Ifindex) -> PortFacts {
        let nic = self.switch_of(ifindex).and_then(|switch| self.nic_id(&switch));
        let row = self.interfaces.get(&*vport.name).cloned().unwrap_or_default();
        let is_bond = self.is_bond(ifindex);
        let kind = self.kind(vport, ifindex, is_bond);
        let location = match kind {
            _ if is_bond => Location::Block(BlockIndex(ifindex.0)),
            PortKind::Internal => Location::Device { ifindex, hook: Hook::Egress },
            _ => Location::ingress(ifindex),
        };
        let offload = |ifindex: &Ifindex| self.hw_tc_offload.get(ifindex).copied().unwrap_or(false);
        let hw_tc_offload = match is_bond {
            true => self.members(ifindex).any(|member| offload(&member.ifindex)),
            false => offload(&ifindex),
        };
        PortFacts {
            name: vport.name.to_string(),
            ifindex,
            location,
            dp_port: Some(vport.port),
            bridge: row.bridge,
            iface_id: row.iface_id,
            workload: row.workload,
            tunnel_kind: self
                .tunnel_kind(vport, ifindex)
                .filter(|_| kind == PortKind::Tunnel)
                .map(str::to_owned),
            kind,
            nic,
            hw_tc_offload,
        }
    }

    fn is_bond(&self, ifindex: Ifindex) -> bool {
        let kind = self.links.get(&ifindex).and_then(|link| link.kind.as_deref());
        matches!(kind, Some("bond" | "team"))
    }

    fn members(&self, bond: Ifindex) -> impl Iterator<Item = &Link> {
        self.links.values().filter(move |link| link.master == Some(bond))
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
        let devlink = self.devlink_ports.values().find(|port| port.ifindex == Some(ifindex));
        match devlink.and_then(|port| port.flavour) {
            Some(PortFlavour::Physical) => PortKind::Uplink,
            Some(PortFlavour::PciPf | PortFlavour::PciVf | PortFlavour::PciSf) => PortKind::Representor,
            _ => by_port_name(link),
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
    fn switch_of(&self, ifindex: Ifindex) -> Option<String> {
        if !self.is_bond(ifindex) {
            return Some(self.links.get(&ifindex)?.switch_id?.to_string());
        }
        let mut switches = self.members(ifindex).map(|member| member.switch_id.map(|id| id.to_string()));
        let first = switches.next()??;
        switches.all(|other| other.as_ref() == Some(&first)).then_some(first)
    }

    fn nic_id(&mut self, switch: &str) -> Option<NicId> {
        if let Some(id) = self.nic_ids.get(switch) {
            return Some(*id);
        }
        if self.nic_ids.len() >= NICS_MAX {
            return None;
        }
        let id = NicId(u16::try_from(self.nic_ids.len()).ok()?);
        self.nic_ids.insert(switch.to_owned(), id);
        Some(id)
    }

    fn nics(&mut self) -> BTreeMap<NicId, NicFacts> {
        let mut nics = BTreeMap::new();
        let mut by_switch: BTreeMap<String, Vec<Link>> = BTreeMap::new();
        for link in self.links.values() {
            if let Some(switch) = link.switch_id {
                by_switch.entry(switch.to_string()).or_default().push(link.clone());
            }
        }
        for (switch_id, links) in by_switch {
            let Some(id) = self.nic_id(&switch_id) else { continue };
            let port = links
                .iter()
                .find_map(|link| self.devlink_ports.values().find(|port| port.ifindex == Some(link.ifindex)));
            let handle = port.map(|port| port.handle.clone());
            let known = |map: &BTreeMap<Handle, String>| {
                handle.as_ref().and_then(|handle| map.get(handle)).cloned().unwrap_or_default()
            };
            let mode = handle.as_ref().and_then(|handle| self.eswitches.get(handle));
            let facts = NicFacts {
                id,
                driver: known(&self.drivers),
                devlink: handle.as_ref().map_or_else(String::new, ToString::to_string),
                switch_id,
                eswitch_mode: mode.map_or_else(String::new, ToString::to_string),
            };
            nics.insert(id, facts);
        }
        nics
    }
}

/// What `phys_port_name` says where devlink says nothing: `p0` is an uplink, `pf0vf1` a representor.
fn by_port_name(link: Option<&Link>) -> PortKind {
    let Some(link) = link.filter(|link| link.switch_id.is_some()) else { return PortKind::Other };
    let name = link.port_name.as_deref().unwrap_or_default();
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match name.strip_prefix('p') {
        Some(rest) if number(rest) => PortKind::Uplink,
        _ if name.contains("pf") || name.contains("vf") || name.contains("sf") => PortKind::Representor,
        _ => PortKind::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_wire::devlink::PortIndex;
    use netlink_wire::link::{ShortBytes, SwitchId};
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
        assert!(inventory.link(link(7, "0123456789ab_h", Some("pf0vf1"))));
        inventory.devlink_port(devlink_port(2, 7, PortFlavour::PciVf));
        inventory.eswitch(handle(), EswitchMode::Switchdev, "simnic".into());
        inventory.hw_tc_offload(Ifindex(7), true);
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
    fn without_devlink_the_port_name_tells() {
        assert_eq!(by_port_name(Some(&link(1, "x", Some("p0")))), PortKind::Uplink);
        assert_eq!(by_port_name(Some(&link(1, "x", Some("pf0vf3")))), PortKind::Representor);
        assert_eq!(by_port_name(Some(&link(1, "x", Some("c1pf0sf3")))), PortKind::Representor);
        assert_eq!(by_port_name(Some(&link(1, "p0", None))), PortKind::Other);
    }

    #[test]
    fn a_bond_has_its_filters_on_a_block() {
        let mut inventory = Inventory::default();
        inventory.link(Link { kind: Some("bond".into()), ..link(20, "bond0", None) });
        for ifindex in [21, 22] {
            inventory.link(Link { master: Some(Ifindex(20)), ..link(ifindex, "p", Some("p0")) });
            inventory.hw_tc_offload(Ifindex(ifindex), true);
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
        inventory.link(Link { kind: Some("geneve".into()), ..link(9, "genev_sys_6081", None) });
        inventory.vport(vport(4, 9, "genev_sys_6081", VportKind::Netdev));
        let events = changes(&mut inventory);
        let port = one_port(&events);
        assert_eq!((port.kind, port.tunnel_kind.as_deref()), (PortKind::Tunnel, Some("geneve")));
    }

    #[test]
    fn a_netdev_that_comes_back_is_another_port_of_the_same_nic() {
        let mut inventory = Inventory::default();
        inventory.link(link(7, "rep", Some("pf0vf1")));
        inventory.vport(vport(3, 7, "rep", VportKind::Netdev));
        changes(&mut inventory);
        inventory.link_gone(Ifindex(7));
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
