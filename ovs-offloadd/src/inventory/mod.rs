//! NICs, their ports and what is behind them, joined from what links, the datapath, devlink, ethtool, sysfs and OVSDB tell.
//!
//! Names of network devices are only a way to find a row in OVSDB: what a port is comes from devlink and the switch id.
//! Pure: told facts in, changed facts out ([`Inventory::changes`]) and everything at one moment ([`Inventory::snapshot`]).

mod bond;
mod engine_facts;
mod health;
mod nic;
mod number;
mod ovs;
mod reading;
mod snapshot;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use netlink_wire::devlink::{
    Eswitch, Handle, HealthReporter, Info, Instance, Port as DevlinkPort, PortFlavour, PortIndex, Resource,
};
use netlink_wire::ethtool::Feature;
use netlink_wire::link::{Link, SwitchId};
use netlink_wire::ovs_vport::Vport;
use netlink_wire::{DpPort, Ifindex};
use offload_engine::{NicFacts, NicId, PortFacts};

use bond::BondLife;
pub use bond::Failover;
pub use nic::{Bond, BondPort, Device, Netdev, Nic, NicPort, OvsPort, Snapshot, Sriov, StalePort, Was};
pub use ovs::OvsInterface;
use reading::Reading;

/// Most devices that are remembered after they are gone, to say what a stale port was.
const GONE_MAX: usize = 4_096;

/// Name of a port in devlink.
pub type PortName = (Handle, PortIndex);
/// Name of a health reporter.
type ReporterName = (Handle, Option<PortIndex>, Box<str>);

/// Everything known of ports and NICs, and what the engine was told of it.
#[derive(Debug, Default)]
pub struct Inventory {
    links: BTreeMap<Ifindex, Link>,
    ports: BTreeMap<PortName, DevlinkPort>,
    instances: BTreeMap<Handle, Instance>,
    health: BTreeMap<ReporterName, HealthReporter>,
    features: BTreeMap<Ifindex, Feature>,
    reading_links: Reading<Ifindex>,
    reading_ports: Reading<PortName>,
    reading_instances: Reading<Handle>,
    reading_health: Reading<ReporterName>,
    reading_features: Reading<Ifindex>,
    // None where the instance has no eswitch.
    eswitches: BTreeMap<Handle, Option<Eswitch>>,
    devices: BTreeMap<Handle, Device>,
    infos: BTreeMap<Handle, Info>,
    resources: BTreeMap<Handle, Vec<Resource>>,
    vports: BTreeMap<(Ifindex, DpPort), Vport>,
    interfaces: BTreeMap<String, OvsInterface>,
    // What a row of another table is found by.
    port_of: BTreeMap<Ifindex, PortName>,
    vport_of: BTreeMap<Ifindex, (Ifindex, DpPort)>,
    of_switch: BTreeMap<SwitchId, BTreeSet<Ifindex>>,
    of_master: BTreeMap<Ifindex, BTreeSet<Ifindex>>,
    of_parent: BTreeMap<(Box<str>, Box<str>), BTreeSet<Ifindex>>,
    // Numbers are kept as long as the daemon runs, whatever comes and goes.
    numbers: BTreeMap<Handle, NicId>,
    switches: BTreeMap<SwitchId, NicId>,
    numbers_given: u16,
    // By the bond.
    bonds: BTreeMap<Ifindex, BondLife>,
    failovers: Vec<Failover>,
    // Instances whose firmware was reset since that was last asked.
    recovered: BTreeSet<Handle>,
    // Names of representors and uplinks that are gone, the oldest first.
    gone: VecDeque<(Box<str>, Was)>,
    told_ports: BTreeMap<Ifindex, PortFacts>,
    told_nics: BTreeMap<NicId, NicFacts>,
    dirty: Dirty,
}

/// What has to be told anew.
#[derive(Debug, Default)]
struct Dirty {
    ports: BTreeSet<Ifindex>,
    all_ports: bool,
    nics: bool,
}

/// What a link leaves open that only a question to the kernel can answer.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Open {
    /// Its features are not known.
    pub features: bool,
    /// The NIC with this handle has changed: its eswitch or its virtual functions.
    pub nic: Option<Handle>,
    /// It hangs on a device of this bus that no NIC is known to have: a virtual function that just came.
    pub bus: Option<Box<str>>,
}

impl Inventory {
    /// A notification: a link exists, changed or is gone.
    pub fn link(&mut self, link: Link) -> Open {
        let ifindex = link.ifindex;
        if link.of_bridge {
            return Open::default();
        }
        if link.deleted {
            self.reading_links.told(&ifindex);
            let of_nic = self.links.get(&ifindex).and_then(|known| self.nic_of_function(known));
            self.set_link(ifindex, None);
            return Open { nic: of_nic, ..Open::default() };
        }
        if link.name.is_none() {
            // Only a part is told.
            if let Some(known) = self.links.get_mut(&ifindex) {
                known.flags = link.flags;
                self.dirty.ports.insert(ifindex);
            }
            return Open::default();
        }
        self.reading_links.told(&ifindex);
        self.found(link)
    }

    /// A reading of all links begins.
    pub fn begin_links(&mut self) {
        self.reading_links.begin();
    }

    /// All links were read.
    pub fn links(&mut self, all: Vec<Link>) -> Vec<(Ifindex, Open)> {
        let rows = all.into_iter().filter(|link| !link.deleted && link.name.is_some());
        let rows = rows.map(|link| (link.ifindex, link)).collect();
        let (rows, gone) = self.reading_links.finish(self.links.keys().copied().collect::<Vec<_>>(), rows);
        for ifindex in gone {
            self.set_link(ifindex, None);
        }
        rows.into_iter().map(|(ifindex, link)| (ifindex, self.found(link))).collect()
    }

    fn found(&mut self, link: Link) -> Open {
        let known = self.links.get(&link.ifindex);
        let (ifindex, of_switch) = (link.ifindex, link.switch_id.is_some());
        let moved = known.is_none_or(|known| known.switch_id.is_some() != of_switch);
        let parent_known = known.is_some_and(|known| known.parent_name == link.parent_name);
        let bus = link.parent_bus.clone().filter(|_| !parent_known && self.is_unknown_function(&link));
        let of_port = self.port_of.get(&ifindex).map(|(handle, _)| handle.clone()).filter(|_| moved);
        self.set_link(ifindex, Some(link));
        Open { features: of_switch && !self.features.contains_key(&ifindex), nic: of_port, bus }
    }

    /// Whether a link hangs on a device that may be a virtual function nobody has told of.
    fn is_unknown_function(&self, link: &Link) -> bool {
        let (Some(bus), Some(name)) = (&link.parent_bus, &link.parent_name) else { return false };
        let is_nic = |handle: &Handle| handle.bus == *bus && handle.device == *name;
        let of_bus = self.devices.iter().any(|(handle, device)| handle.bus == *bus && device.sriov.is_some());
        of_bus && !self.devices.keys().any(is_nic) && self.nic_of_function(link).is_none()
    }

    /// The NIC that has the virtual function a link hangs on.
    fn nic_of_function(&self, link: &Link) -> Option<Handle> {
        let (bus, name) = (link.parent_bus.as_ref()?, link.parent_name.as_ref()?);
        let has = |device: &Device| {
            device
                .sriov
                .as_ref()
                .is_some_and(|sriov| sriov.functions.values().any(|function| **function == **name))
        };
        let found = self.devices.iter().find(|(handle, device)| handle.bus == *bus && has(device));
        found.map(|(handle, _)| handle.clone())
    }

    fn set_link(&mut self, ifindex: Ifindex, link: Option<Link>) {
        let old = match link {
            Some(link) => self.links.insert(ifindex, link),
            None => self.links.remove(&ifindex),
        };
        let new = self.links.get(&ifindex);
        self.dirty.ports.insert(ifindex);
        self.dirty.nics |= old.as_ref().and_then(|old| old.switch_id) != new.and_then(|new| new.switch_id);
        for (link, is_there) in [(old.as_ref(), false), (new, true)] {
            let Some(link) = link else { continue };
            if let Some(master) = link.master {
                index(&mut self.of_master, master, ifindex, is_there);
                // What a bond is depends on its members.
                self.dirty.ports.insert(master);
            }
            if let Some(switch) = link.switch_id {
                index(&mut self.of_switch, switch, ifindex, is_there);
            }
            if let (Some(bus), Some(name)) = (&link.parent_bus, &link.parent_name) {
                index(&mut self.of_parent, (bus.clone(), name.clone()), ifindex, is_there);
            }
        }
        self.follow_bond(ifindex, old.as_ref());
        let new = self.links.get(&ifindex);
        let renamed = old.as_ref().and_then(|old| old.name.as_ref()) != new.and_then(|new| new.name.as_ref());
        if let Some(old) = old.filter(|old| renamed && old.switch_id.is_some()) {
            self.remember(&old);
        }
        if !self.links.contains_key(&ifindex) {
            self.features.remove(&ifindex);
        }
    }

    /// Remembers what a device was, in case Open vSwitch goes on to have a port of its name.
    fn remember(&mut self, link: &Link) {
        let Some(name) = link.name.clone() else { return };
        let port_name = link.port_name.as_deref().map(str::to_owned);
        let known =
            self.gone.iter().position(|(known, _)| *known == name).and_then(|at| self.gone.remove(at));
        // The port of devlink may have gone before the link.
        let before = known.filter(|(_, was)| was.port_name == port_name).and_then(|(_, was)| was.handle);
        let handle = self.port_of.get(&link.ifindex).map(|(handle, _)| handle.clone()).or(before);
        if self.gone.len() >= GONE_MAX {
            self.gone.pop_front();
        }
        self.gone.push_back((name, Was { handle, port_name }));
    }

    /// A notification: a devlink instance exists or changed. Returns whether it is new.
    pub fn instance(&mut self, instance: Instance) -> bool {
        self.reading_instances.told(&instance.handle);
        self.dirty.nics = true;
        self.instances.insert(instance.handle.clone(), instance).is_none()
    }

    /// A notification: a devlink instance is gone, with all it had.
    pub fn instance_gone(&mut self, handle: &Handle) {
        self.reading_instances.told(handle);
        self.forget(handle);
    }

    fn forget(&mut self, handle: &Handle) {
        self.dirty.nics = true;
        self.instances.remove(handle);
        self.eswitches.remove(handle);
        self.devices.remove(handle);
        self.infos.remove(handle);
        self.resources.remove(handle);
        self.health.retain(|(owner, ..), _| owner != handle);
        let ports: Vec<PortName> = self.ports.keys().filter(|(owner, _)| owner == handle).cloned().collect();
        for port in ports {
            self.reading_ports.told(&port);
            self.set_port(port, None);
        }
    }

    /// A reading of all instances begins.
    pub fn begin_instances(&mut self) {
        self.reading_instances.begin();
    }

    /// All instances were read. Returns their names.
    pub fn instances(&mut self, all: Vec<Instance>) -> Vec<Handle> {
        let rows = all.into_iter().map(|instance| (instance.handle.clone(), instance)).collect();
        let known: Vec<Handle> = self.instances.keys().cloned().collect();
        let (rows, gone) = self.reading_instances.finish(known, rows);
        for handle in gone {
            self.forget(&handle);
        }
        self.dirty.nics = true;
        self.instances.extend(rows);
        self.instances.keys().cloned().collect()
    }

    /// A notification: a devlink port exists or changed. Returns whether it is new.
    pub fn port(&mut self, port: DevlinkPort) -> bool {
        let name = (port.handle.clone(), port.index);
        self.reading_ports.told(&name);
        let is_new = !self.ports.contains_key(&name);
        self.set_port(name, Some(port));
        is_new
    }

    /// A notification: a devlink port is gone.
    pub fn port_gone(&mut self, handle: &Handle, index: PortIndex) {
        let name = (handle.clone(), index);
        self.reading_ports.told(&name);
        self.health.retain(|(owner, port, _), _| owner != handle || *port != Some(index));
        self.set_port(name, None);
    }

    /// A reading of all devlink ports begins.
    pub fn begin_ports(&mut self) {
        self.reading_ports.begin();
    }

    /// All devlink ports were read.
    pub fn ports(&mut self, all: Vec<DevlinkPort>) {
        let rows = all.into_iter().map(|port| ((port.handle.clone(), port.index), port)).collect();
        let known: Vec<PortName> = self.ports.keys().cloned().collect();
        let (rows, gone) = self.reading_ports.finish(known, rows);
        for name in gone {
            self.set_port(name, None);
        }
        for (name, port) in rows {
            self.set_port(name, Some(port));
        }
    }

    fn set_port(&mut self, name: PortName, port: Option<DevlinkPort>) {
        let ifindex = |port: Option<&DevlinkPort>| port.and_then(|port| port.ifindex);
        let new = ifindex(port.as_ref());
        let old = match port {
            Some(port) => self.ports.insert(name.clone(), port),
            None => self.ports.remove(&name),
        };
        let old = ifindex(old.as_ref());
        if let Some(old) = old.filter(|old| Some(*old) != new)
            && self.port_of.get(&old) == Some(&name)
        {
            // A link that goes after its port is remembered by its port.
            if let Some(link) = self.links.get(&old).cloned().filter(|link| link.switch_id.is_some()) {
                self.remember(&link);
            }
            self.port_of.remove(&old);
        }
        if let Some(new) = new {
            self.port_of.insert(new, name);
        }
        self.dirty.nics |= old != new;
        self.dirty.ports.extend([old, new].into_iter().flatten());
    }

    /// A notification: `hw-tc-offload` of a device.
    pub fn feature(&mut self, ifindex: Ifindex, feature: Feature) {
        self.reading_features.told(&ifindex);
        self.set_feature(ifindex, feature);
    }

    /// A reading of the features of all devices begins.
    pub fn begin_features(&mut self) {
        self.reading_features.begin();
    }

    /// The features of all devices were read.
    pub fn features(&mut self, all: Vec<(Ifindex, Feature)>) {
        // Which devices there are is what the links say.
        let (rows, _) = self.reading_features.finish([], all);
        for (ifindex, feature) in rows {
            self.set_feature(ifindex, feature);
        }
    }

    fn set_feature(&mut self, ifindex: Ifindex, feature: Feature) {
        if self.features.insert(ifindex, feature) != Some(feature) {
            self.dirty.ports.insert(ifindex);
            self.dirty.ports.extend(self.links.get(&ifindex).and_then(|link| link.master));
        }
    }

    /// An instance's eswitch was read; none where it has none. Returns whether its mode is another than before: links
    /// that stay then have another switch id or none, and nobody tells of that.
    pub fn eswitch(&mut self, handle: Handle, eswitch: Option<Eswitch>) -> bool {
        if !self.instances.contains_key(&handle) {
            return false;
        }
        self.dirty.nics = true;
        let mode = |eswitch: &Option<Eswitch>| eswitch.as_ref().and_then(|eswitch| eswitch.mode);
        let new = mode(&eswitch);
        let old = self.eswitches.insert(handle, eswitch);
        old.is_some_and(|old| mode(&old) != new)
    }

    /// What sysfs says of an instance's device was read.
    pub fn device(&mut self, handle: Handle, device: Device) {
        if self.instances.contains_key(&handle) {
            self.dirty.nics = true;
            self.devices.insert(handle, device);
        }
    }

    /// What all instances say of themselves was read.
    pub fn infos(&mut self, all: Vec<Info>) {
        self.infos = all.into_iter().map(|info| (info.handle.clone(), info)).collect();
    }

    /// An instance's resources were read; empty where it has none.
    pub fn resources(&mut self, handle: Handle, resources: Vec<Resource>) {
        if self.instances.contains_key(&handle) {
            self.resources.insert(handle, resources);
        }
    }

    /// Instances that have resources, the use of which nobody tells.
    pub fn with_resources(&self) -> impl Iterator<Item = &Handle> {
        self.resources.iter().filter(|(_, resources)| !resources.is_empty()).map(|(handle, _)| handle)
    }

    /// The instance that a device of a bus is.
    pub fn instance_of(&self, bus: &str, device: &str) -> Option<Handle> {
        let found = self.instances.keys().find(|handle| *handle.bus == *bus && *handle.device == *device);
        found.cloned()
    }

    /// Instances on this bus that have virtual functions or can have some.
    pub fn with_functions<'s>(&'s self, bus: &'s str) -> impl Iterator<Item = &'s Handle> {
        let with = self.devices.iter().filter(|(_, device)| device.sriov.is_some());
        with.map(|(handle, _)| handle).filter(move |handle| *handle.bus == *bus)
    }

    /// A datapath port exists or changed.
    pub fn vport(&mut self, vport: Vport) {
        let key = (vport.dp, vport.port);
        self.vport_gone(key);
        self.dirty.ports.extend(vport.ifindex);
        if let Some(ifindex) = vport.ifindex.filter(|_| vport.netns.is_none()) {
            self.vport_of.insert(ifindex, key);
        }
        self.vports.insert(key, vport);
    }

    /// A datapath port is gone.
    pub fn vport_gone(&mut self, key: (Ifindex, DpPort)) {
        let Some(ifindex) = self.vports.remove(&key).and_then(|old| old.ifindex) else { return };
        if self.vport_of.get(&ifindex) == Some(&key) {
            self.vport_of.remove(&ifindex);
        }
        self.dirty.ports.insert(ifindex);
    }

    /// Only these datapath ports exist.
    pub fn vports_are(&mut self, all: Vec<Vport>) {
        let keys: BTreeSet<_> = all.iter().map(|vport| (vport.dp, vport.port)).collect();
        let gone: Vec<_> = self.vports.keys().filter(|key| !keys.contains(key)).copied().collect();
        for key in gone {
            self.vport_gone(key);
        }
        for vport in all {
            self.vport(vport);
        }
    }

    /// What OVSDB says of all interfaces, by name.
    pub fn interfaces_are(&mut self, interfaces: BTreeMap<String, OvsInterface>) {
        self.dirty.all_ports |= self.interfaces != interfaces;
        self.interfaces = interfaces;
    }

    /// The name of a network device.
    pub fn name_of(&self, ifindex: Ifindex) -> Option<&str> {
        self.links.get(&ifindex)?.name.as_deref()
    }

    /// Links that are known.
    pub fn links_known(&self) -> usize {
        self.links.len()
    }

    fn is_bond(&self, ifindex: Ifindex) -> bool {
        let kind = self.links.get(&ifindex).and_then(|link| link.kind.as_deref());
        matches!(kind, Some("bond" | "team"))
    }

    fn members(&self, master: Ifindex) -> impl Iterator<Item = &Link> {
        let members = self.of_master.get(&master).into_iter().flatten();
        members.filter_map(|ifindex| self.links.get(ifindex))
    }

    fn devlink_port_of(&self, ifindex: Ifindex) -> Option<&DevlinkPort> {
        self.ports.get(self.port_of.get(&ifindex)?)
    }

    /// The flavour of a switch's port: devlink's, or what `phys_port_name` says where devlink says nothing.
    fn flavour_of(&self, ifindex: Ifindex) -> Option<PortFlavour> {
        let of_devlink = self.devlink_port_of(ifindex).and_then(|port| port.flavour);
        of_devlink.or_else(|| by_port_name(self.links.get(&ifindex)?))
    }
}

fn index<K: Ord>(of: &mut BTreeMap<K, BTreeSet<Ifindex>>, key: K, ifindex: Ifindex, is_there: bool) {
    if is_there {
        of.entry(key).or_default().insert(ifindex);
    } else if let Some(all) = of.get_mut(&key) {
        all.remove(&ifindex);
        if all.is_empty() {
            of.remove(&key);
        }
    }
}

/// What `phys_port_name` says: `p0` is an uplink, `pf0vf1` and `c1pf0sf3` are representors.
fn by_port_name(link: &Link) -> Option<PortFlavour> {
    link.switch_id?;
    let name = link.port_name.as_deref()?;
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match name.strip_prefix('p') {
        Some(rest) if number(rest) => Some(PortFlavour::Physical),
        _ if name.contains("sf") => Some(PortFlavour::PciSf),
        _ if name.contains("vf") => Some(PortFlavour::PciVf),
        _ if name.contains("pf") => Some(PortFlavour::PciPf),
        _ => None,
    }
}
