//! NICs and representors as `nic list`, `nic show` and `port list --representors` show them.

use std::collections::BTreeMap;

use netlink_wire::Ifindex;
use netlink_wire::devlink::{HealthReporter, PortFlavour, Resource, Version};
use netlink_wire::ethtool::Feature;
use serde::Serialize;

use super::views::NicView;
use crate::inventory::{Bond, BondPort, Netdev, Nic, NicPort, OvsPort, Snapshot, StalePort};

/// Everything of one NIC.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NicDetail {
    /// What `nic list` says of it.
    #[serde(flatten)]
    pub nic: NicView,
    /// Versions of what cannot be changed, of what runs, and of what will run after a reset.
    pub versions: Versions,
    /// Health reporters.
    pub health_reporters: Vec<HealthView>,
    /// Resources, those within others named with their path: `table/rules`.
    pub resources: Vec<ResourceView>,
    /// Uplinks.
    pub uplinks: Vec<PortDetail>,
    /// Representors.
    pub representors: Vec<PortDetail>,
    /// Bonds that an uplink of it is a member of.
    pub bonds: Vec<BondView>,
}

/// Versions by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Versions {
    /// Of what cannot be changed.
    pub fixed: BTreeMap<String, String>,
    /// Of what runs.
    pub running: BTreeMap<String, String>,
    /// Of what will run after the next reset.
    pub stored: BTreeMap<String, String>,
}

/// A health reporter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HealthView {
    /// Its name.
    pub reporter: String,
    /// The index of the devlink port it watches; none where it watches the NIC.
    pub devlink_port: Option<u32>,
    /// `healthy` or `error`.
    pub state: String,
    /// Errors since the driver was bound.
    pub errors: u64,
    /// Recoveries since the driver was bound.
    pub recoveries: u64,
    /// Whether it recovers by itself.
    pub auto_recover: Option<bool>,
}

/// A resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ResourceView {
    /// Its name, with those of the resources it is a part of.
    pub resource: String,
    /// Entries there are.
    pub size: u64,
    /// Entries there will be after the next reload, where that is another number.
    pub size_new: Option<u64>,
    /// Entries used, where the driver counts them.
    pub used: Option<u64>,
}

/// A network device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NetdevView {
    /// Its name.
    pub name: String,
    /// Its number.
    pub ifindex: u32,
    /// Its address.
    pub mac: Option<String>,
    /// `up`, `no_carrier`, `down`.
    pub link: &'static str,
    /// RFC 2863's operational state.
    pub operstate: &'static str,
    /// In bytes.
    pub mtu: Option<u32>,
}

/// A port of an eswitch, with what is behind it and in front of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PortDetail {
    /// The NIC's number; none for a stale port of an unknown NIC.
    pub nic: Option<u16>,
    /// The NIC's devlink handle.
    pub devlink: Option<String>,
    /// Index of the devlink port.
    pub devlink_port: Option<u32>,
    /// `physical`, `pcipf`, `pcivf`, `pcisf`.
    pub flavour: Option<String>,
    /// The host that has the function: 0 or none for this one.
    pub controller: Option<u32>,
    /// The function is on another host.
    pub external: bool,
    /// Physical function.
    pub pf: Option<u16>,
    /// Virtual function.
    pub vf: Option<u16>,
    /// Sub-function.
    pub sf: Option<u32>,
    /// The function's device, for PCI its address.
    pub device: Option<String>,
    /// The address that the function will see as its own.
    pub mac: Option<String>,
    /// Of a sub-function: `active` or `inactive`.
    pub state: Option<&'static str>,
    /// Of a sub-function: `attached` or `detached`.
    pub opstate: Option<&'static str>,
    /// `phys_port_name`.
    pub phys_port_name: Option<String>,
    /// The representor's network device; none where it is gone or in another namespace.
    pub netdev: Option<NetdevView>,
    /// `on`, `off` or `unsupported`.
    pub hw_tc_offload: Option<&'static str>,
    /// The function's own network device, where it is in the host's namespace.
    pub own_netdev: Option<NetdevView>,
    /// The port of Open vSwitch.
    pub ovs_port: Option<String>,
    /// Its bridge.
    pub bridge: Option<String>,
    /// `external_ids:iface-id`.
    pub iface_id: Option<String>,
    /// What it was plugged for: `NAMESPACE/POD`, a virtual machine's UUID, or the iface-id.
    pub workload: Option<String>,
    /// Who plugged it, a word of a closed set.
    pub orchestrator: Option<&'static str>,
    /// Entries of the NIC that its flows use: those that came in by it.
    pub entries: u64,
    /// The port of Open vSwitch has no network device any more.
    pub stale: bool,
    /// Open vSwitch's own words about that.
    pub error: Option<String>,
}

/// A bond.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BondView {
    /// Its name.
    pub bond: String,
    /// `active-backup` ….
    pub mode: Option<String>,
    /// How often another member took the place of the one that was used, since the daemon started.
    pub failovers: u64,
    /// The number of the block that its members share for Open vSwitch's filters, while it is a port of Open vSwitch.
    pub block: Option<u32>,
    /// The port of Open vSwitch.
    pub ovs_port: Option<String>,
    /// Its bridge.
    pub bridge: Option<String>,
    /// Its members.
    pub members: Vec<BondMemberView>,
}

/// A bond that an uplink of a NIC is a member of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NicBondView {
    /// The bond's name.
    pub bond: String,
    /// The uplink.
    pub netdev: String,
    /// Whether it may send.
    pub active: Option<bool>,
    /// Whether the bond takes its link to be up.
    pub link_up: Option<bool>,
    /// How often another member took the place of the one that was used, since the daemon started.
    pub failovers: u64,
}

/// A member of a bond.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BondMemberView {
    /// Its name.
    pub netdev: String,
    /// Its NIC.
    pub nic: Option<u16>,
    /// Whether it may send.
    pub active: Option<bool>,
    /// Whether the bond takes its link to be up.
    pub link_up: Option<bool>,
}

/// Flows in hardware by the device they come in by.
pub type Entries = BTreeMap<Ifindex, u64>;

impl NicView {
    /// Adds what the inventory knows of a NIC.
    pub fn with(mut self, nic: &Nic) -> Self {
        let text = |text: Option<&str>| text.map(str::to_owned);
        self.nic = nic.number.0;
        self.driver = nic.driver().to_owned();
        self.devlink = nic.handle.as_ref().map_or_else(String::new, ToString::to_string);
        self.switch_id = nic.switch_id.map_or_else(String::new, |id| id.to_string());
        let eswitch = nic.eswitch.as_ref();
        let mode = eswitch.and_then(|eswitch| eswitch.mode);
        self.eswitch_mode = mode.map_or_else(String::new, |mode| mode.to_string());
        self.inline_mode = eswitch.and_then(|eswitch| eswitch.inline_mode).map(|mode| mode.to_string());
        self.encap_mode = eswitch.and_then(|eswitch| eswitch.encap_mode).map(|mode| mode.to_string());
        self.pci_address = nic
            .handle
            .as_ref()
            .filter(|handle| *handle.bus == *"pci")
            .map(|handle| handle.device.to_string());
        self.firmware = text(nic.info.as_ref().and_then(|info| info.firmware()));
        self.serial = text(nic.info.as_ref().and_then(|info| info.serial.as_deref()));
        self.vfs = nic.vfs();
        self.vfs_max = nic.device.sriov.as_ref().map(|sriov| sriov.vfs_max);
        self.sfs = nic.count(PortFlavour::PciSf);
        self.ports = u32::try_from(nic.ports.len()).unwrap_or(u32::MAX);
        self.external_ports =
            u32::try_from(nic.ports.iter().filter(|port| port.external).count()).unwrap_or(u32::MAX);
        self.representors = BTreeMap::from(["up", "no_carrier", "down", "absent"].map(|state| (state, 0)));
        for port in nic.representors() {
            *self.representors.entry(port.netdev.as_ref().map_or("absent", Netdev::state)).or_default() += 1;
        }
        self.health = match (nic.health.is_empty(), nic.in_error().next().is_some()) {
            (true, _) => None,
            (false, false) => Some("healthy"),
            (false, true) => Some("error"),
        };
        self.reload_failed = nic.reload_failed;
        self.shares_entries_with = nic.switch.filter(|switch| *switch != nic.number).map(|switch| switch.0);
        self.health_errors = health_errors(nic);
        self.resources = nic.resources.iter().map(|resource| resource_view("", resource)).collect();
        self
    }
}

/// Errors and recoveries by reporter, those of ports summed up under their reporter's name.
fn health_errors(nic: &Nic) -> BTreeMap<String, HealthSum> {
    const NAMES_MAX: usize = 64;
    let mut sums: BTreeMap<String, HealthSum> = BTreeMap::new();
    for reporter in &nic.health {
        let name = match sums.len() < NAMES_MAX || sums.contains_key(&*reporter.name) {
            true => reporter.name.to_string(),
            false => "other".to_owned(),
        };
        let sum = sums.entry(name).or_default();
        sum.errors = sum.errors.saturating_add(reporter.errors);
        sum.recoveries = sum.recoveries.saturating_add(reporter.recoveries);
        sum.in_error += u64::from(reporter.state != netlink_wire::devlink::HealthState::Healthy);
    }
    sums
}

/// What reporters of one name say together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct HealthSum {
    /// Errors since the driver was bound.
    pub errors: u64,
    /// Recoveries since the driver was bound.
    pub recoveries: u64,
    /// Reporters that are in error now.
    pub in_error: u64,
}

fn resource_view(_: &str, resource: &Resource) -> ResourceView {
    ResourceView {
        resource: resource.name.to_string(),
        size: resource.size,
        size_new: resource.size_new,
        used: resource.used,
    }
}

fn resource_views(within: &str, resources: &[Resource], views: &mut Vec<ResourceView>) {
    for resource in resources {
        let name = format!("{within}{}", resource.name);
        views.push(ResourceView { resource: name.clone(), ..resource_view(within, resource) });
        resource_views(&format!("{name}/"), &resource.parts, views);
    }
}

fn netdev_view(netdev: &Netdev) -> NetdevView {
    NetdevView {
        name: netdev.name.clone(),
        ifindex: netdev.ifindex.0,
        mac: netdev.address.map(|address| address.to_string()),
        link: netdev.state(),
        operstate: netdev.operstate.name(),
        mtu: netdev.mtu,
    }
}

/// Words of a function's state, for sub-functions only: others have none.
fn state_word(number: Option<u8>, words: [&'static str; 2]) -> Option<&'static str> {
    words.get(usize::from(number?)).copied().or(Some("unknown"))
}

fn port_detail(nic: &Nic, port: &NicPort, entries: &Entries) -> PortDetail {
    let function = port.function.as_ref();
    let ovs = port.ovs.as_ref();
    let workload = ovs.and_then(|ovs| ovs.workload.as_ref());
    PortDetail {
        nic: Some(nic.number.0),
        devlink: nic.handle.as_ref().map(ToString::to_string),
        devlink_port: port.index.map(|index| index.0),
        flavour: port.flavour.map(|flavour| flavour.to_string()),
        controller: port.controller,
        external: port.external,
        pf: port.pf,
        vf: port.vf,
        sf: port.sf,
        device: port.device.clone(),
        mac: function.and_then(|function| function.hw_addr).map(|mac| mac.to_string()),
        state: state_word(function.and_then(|function| function.state), ["inactive", "active"]),
        opstate: state_word(function.and_then(|function| function.opstate), ["detached", "attached"]),
        phys_port_name: port.port_name.clone(),
        netdev: port.netdev.as_ref().map(netdev_view),
        hw_tc_offload: port.netdev.as_ref().and_then(|netdev| netdev.hw_tc_offload).map(|feature| {
            match feature {
                Feature::On => "on",
                Feature::Off => "off",
                Feature::Unsupported => "unsupported",
            }
        }),
        own_netdev: port.own.as_ref().map(netdev_view),
        ovs_port: ovs.map(|ovs| ovs.name.clone()),
        bridge: ovs.map(|ovs| ovs.bridge.clone()),
        iface_id: ovs.and_then(|ovs| ovs.iface_id.clone()),
        workload: workload.map(ToString::to_string),
        orchestrator: workload.map(|workload| workload.orchestrator.word()),
        entries: port.netdev.as_ref().and_then(|netdev| entries.get(&netdev.ifindex)).copied().unwrap_or(0),
        stale: false,
        error: None,
    }
}

fn stale_detail(stale: &StalePort, nics: &[Nic]) -> PortDetail {
    let was = stale.was.as_ref();
    let handle = was.and_then(|was| was.handle.as_ref());
    let nic = nics.iter().find(|nic| handle.is_some() && nic.handle.as_ref() == handle);
    let OvsPort { name, bridge, iface_id, workload } = stale.ovs.clone();
    PortDetail {
        nic: nic.map(|nic| nic.number.0),
        devlink: handle.map(ToString::to_string),
        devlink_port: None,
        flavour: None,
        controller: None,
        external: false,
        pf: None,
        vf: None,
        sf: None,
        device: None,
        mac: None,
        state: None,
        opstate: None,
        phys_port_name: was.and_then(|was| was.port_name.clone()),
        netdev: None,
        hw_tc_offload: None,
        own_netdev: None,
        ovs_port: Some(name),
        bridge: Some(bridge),
        iface_id,
        workload: workload.as_ref().map(ToString::to_string),
        orchestrator: workload.as_ref().map(|workload| workload.orchestrator.word()),
        entries: 0,
        stale: true,
        error: stale.error.clone(),
    }
}

/// The bonds that a NIC is in.
pub fn bonds_of(nic: &Nic, bonds: &[Bond]) -> Vec<NicBondView> {
    let of_nic = |bond: &'_ Bond| {
        let members = bond.members.iter().filter(|member| member.nic == Some(nic.number));
        let view = |member: &BondPort| NicBondView {
            bond: bond.netdev.name.clone(),
            netdev: member.netdev.name.clone(),
            active: member.active,
            link_up: member.link_up,
            failovers: bond.failovers,
        };
        members.map(view).collect::<Vec<_>>()
    };
    bonds.iter().flat_map(of_nic).collect()
}

/// A bond as lists show it.
pub fn bond_view(bond: &Bond) -> BondView {
    BondView {
        bond: bond.netdev.name.clone(),
        mode: bond.mode.map(|mode| mode.to_string()),
        failovers: bond.failovers,
        block: bond.ovs.as_ref().map(|_| bond.netdev.ifindex.0),
        ovs_port: bond.ovs.as_ref().map(|ovs| ovs.name.clone()),
        bridge: bond.ovs.as_ref().map(|ovs| ovs.bridge.clone()),
        members: bond
            .members
            .iter()
            .map(|member| BondMemberView {
                netdev: member.netdev.name.clone(),
                nic: member.nic.map(|nic| nic.0),
                active: member.active,
                link_up: member.link_up,
            })
            .collect(),
    }
}

/// Representors of all NICs, and ports of Open vSwitch that have lost theirs.
pub fn representors(snapshot: &Snapshot, entries: &Entries) -> Vec<PortDetail> {
    let ports = snapshot.nics.iter().flat_map(|nic| nic.representors().map(move |port| (nic, port)));
    let stale = snapshot.stale.iter().map(|stale| stale_detail(stale, &snapshot.nics));
    ports.map(|(nic, port)| port_detail(nic, port, entries)).chain(stale).collect()
}

/// All of one NIC, by its number, its devlink handle, its device's name or its uplink's; none where there is no such NIC.
pub fn nic_detail(
    snapshot: &Snapshot,
    name: &str,
    view: impl Fn(&Nic) -> NicView,
    entries: &Entries,
) -> Option<NicDetail> {
    let is_named = |nic: &&Nic| {
        let handle = nic.handle.as_ref();
        name.parse() == Ok(nic.number.0)
            || handle.is_some_and(|handle| handle.to_string() == name || *handle.device == *name)
            || nic.uplinks().any(|port| port.netdev.as_ref().is_some_and(|netdev| netdev.name == name))
    };
    let nic = snapshot.nics.iter().find(is_named)?;
    let by_name = |versions: &[Version]| {
        versions.iter().map(|version| (version.name.to_string(), version.value.to_string())).collect()
    };
    let mut resources = Vec::new();
    resource_views("", &nic.resources, &mut resources);
    let is_member = |bond: &&Bond| bond.members.iter().any(|member| member.nic == Some(nic.number));
    Some(NicDetail {
        nic: view(nic),
        versions: nic.info.as_ref().map_or_else(Versions::default, |info| Versions {
            fixed: by_name(&info.fixed),
            running: by_name(&info.running),
            stored: by_name(&info.stored),
        }),
        health_reporters: nic.health.iter().map(health_view).collect(),
        resources,
        uplinks: nic.uplinks().map(|port| port_detail(nic, port, entries)).collect(),
        representors: nic.representors().map(|port| port_detail(nic, port, entries)).collect(),
        bonds: snapshot.bonds.iter().filter(is_member).map(bond_view).collect(),
    })
}

fn health_view(reporter: &HealthReporter) -> HealthView {
    HealthView {
        reporter: reporter.name.to_string(),
        devlink_port: reporter.port.map(|port| port.0),
        state: reporter.state.to_string(),
        errors: reporter.errors,
        recoveries: reporter.recoveries,
        auto_recover: reporter.auto_recover,
    }
}
