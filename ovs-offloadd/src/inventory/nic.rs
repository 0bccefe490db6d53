//! NICs, their ports and what is behind them, joined at one moment: what `nic list` shows, and what a plan can start from.

use std::collections::BTreeMap;

use netlink_wire::Ifindex;
use netlink_wire::devlink::{
    Eswitch, Handle, HealthReporter, HealthState, Info, PortFlavour, PortFunction, PortIndex, Resource,
};
use netlink_wire::ethtool::Feature;
use netlink_wire::link::{BondMode, HardwareAddress, Link, OperState, SwitchId};
use offload_engine::{NicId, Workload};

use super::ovs::OvsInterface;

/// What sysfs says of a NIC's device.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Device {
    /// Name of its driver, empty where it has none.
    pub driver: String,
    /// SR-IOV; none where the device has none.
    pub sriov: Option<Sriov>,
}

/// SR-IOV of a physical function.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sriov {
    /// `sriov_numvfs`: virtual functions there are.
    pub vfs: u32,
    /// `sriov_totalvfs`: virtual functions there can be.
    pub vfs_max: u32,
    /// `virtfnN`: name of each virtual function's device on the same bus, for PCI its address.
    pub functions: BTreeMap<u16, String>,
}

/// Everything that is known of NICs, their ports, bonds, and stale ports of Open vSwitch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Snapshot {
    /// NICs with an eswitch, by number.
    pub nics: Vec<Nic>,
    /// Bonds that have a NIC's uplink among their members.
    pub bonds: Vec<Bond>,
    /// Ports of Open vSwitch whose network device is gone, by name.
    pub stale: Vec<StalePort>,
}

/// A NIC with an eswitch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nic {
    /// Its number, which it keeps as long as the daemon runs.
    pub number: NicId,
    /// The number under which the engine counts its entries: that of the first NIC with the same switch id. None in
    /// legacy mode, where there is no switch.
    pub switch: Option<NicId>,
    /// Its devlink handle; none for a driver without devlink.
    pub handle: Option<Handle>,
    /// What sysfs says.
    pub device: Device,
    /// Serial number and versions.
    pub info: Option<Info>,
    /// Its eswitch; none until it is read.
    pub eswitch: Option<Eswitch>,
    /// Its last reload failed and it does not work.
    pub reload_failed: bool,
    /// `phys_switch_id`; none in legacy mode.
    pub switch_id: Option<SwitchId>,
    /// Health reporters of the instance and of its ports.
    pub health: Vec<HealthReporter>,
    /// Resources.
    pub resources: Vec<Resource>,
    /// Its ports, in the order of their devlink index.
    pub ports: Vec<NicPort>,
}

/// A port of a NIC's eswitch: an uplink or a representor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NicPort {
    /// Index of its devlink port; none for a driver without devlink.
    pub index: Option<PortIndex>,
    /// Its flavour; from `phys_port_name` where devlink has none.
    pub flavour: Option<PortFlavour>,
    /// 0 or none for this host, another for a host behind a DPU.
    pub controller: Option<u32>,
    /// The function is on another host.
    pub external: bool,
    /// Number of the physical function.
    pub pf: Option<u16>,
    /// Number of the virtual function.
    pub vf: Option<u16>,
    /// Number of the sub-function.
    pub sf: Option<u32>,
    /// The function behind it, as devlink tells.
    pub function: Option<PortFunction>,
    /// `phys_port_name`.
    pub port_name: Option<String>,
    /// Its network device; none where it has none, or where that is in another namespace.
    pub netdev: Option<Netdev>,
    /// Name of the function's device on its bus, for PCI its address: from SR-IOV for a virtual function, from devlink
    /// for a sub-function.
    pub device: Option<String>,
    /// The function's own network device, where it is in this namespace and certainly that function's: its parent is
    /// the function's device.
    pub own: Option<Netdev>,
    /// The port of Open vSwitch that its network device is.
    pub ovs: Option<OvsPort>,
}

impl NicPort {
    /// Whether it stands for a function, and not for a wire.
    pub fn is_representor(&self) -> bool {
        matches!(self.flavour, Some(PortFlavour::PciPf | PortFlavour::PciVf | PortFlavour::PciSf))
    }
}

/// A network device of this namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Netdev {
    /// Its number.
    pub ifindex: Ifindex,
    /// Its name.
    pub name: String,
    /// Whether the administrator has set it up.
    pub up: bool,
    /// `IFLA_OPERSTATE`
    pub operstate: OperState,
    /// Whether its driver has a carrier.
    pub carrier: bool,
    /// In bytes.
    pub mtu: Option<u32>,
    /// Its address.
    pub address: Option<HardwareAddress>,
    /// `hw-tc-offload`; none until it is read.
    pub hw_tc_offload: Option<Feature>,
    /// The bond it is a member of.
    pub master: Option<Ifindex>,
}

impl Netdev {
    pub(super) fn of(link: &Link, hw_tc_offload: Option<Feature>) -> Self {
        Self {
            ifindex: link.ifindex,
            name: link.name.as_deref().unwrap_or_default().to_owned(),
            up: link.flags.is_up(),
            operstate: link.operstate,
            carrier: link.carrier.unwrap_or_else(|| link.flags.has_carrier()),
            mtu: link.mtu,
            address: link.address,
            hw_tc_offload,
            master: link.master,
        }
    }

    /// `up`, `no_carrier` or `down`: the words of lists and metrics.
    pub fn state(&self) -> &'static str {
        match (self.up, self.carrier) {
            (false, _) => "down",
            (true, false) => "no_carrier",
            (true, true) => "up",
        }
    }
}

/// A port of Open vSwitch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OvsPort {
    /// Name of the interface.
    pub name: String,
    /// Its bridge.
    pub bridge: String,
    /// `external_ids:iface-id`.
    pub iface_id: Option<String>,
    /// What it was plugged for.
    pub workload: Option<Workload>,
}

impl OvsPort {
    pub(super) fn of(name: &str, row: &OvsInterface) -> Self {
        Self {
            name: name.to_owned(),
            bridge: row.bridge.clone(),
            iface_id: row.iface_id.clone(),
            workload: row.workload.clone(),
        }
    }
}

/// A port of Open vSwitch whose network device is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StalePort {
    /// The port.
    pub ovs: OvsPort,
    /// Open vSwitch's own words, where it has any.
    pub error: Option<String>,
    /// What the device was, if it was seen by this daemon: its NIC's handle and its `phys_port_name`.
    pub was: Option<Was>,
}

/// What a device that is gone was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Was {
    /// Its NIC's devlink handle.
    pub handle: Option<Handle>,
    /// `phys_port_name`.
    pub port_name: Option<String>,
}

/// A bond of uplinks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bond {
    /// The bond's own device.
    pub netdev: Netdev,
    /// `active-backup` …; none for a team, which does not tell rtnetlink.
    pub mode: Option<BondMode>,
    /// How often another member took the place of the one that was used, since the daemon started.
    pub failovers: u64,
    /// Its members.
    pub members: Vec<BondPort>,
    /// The port of Open vSwitch that it is. Open vSwitch puts the filters of a bond on a block that has its index for a
    /// number and that all members share (`lib/netdev-linux.c`).
    pub ovs: Option<OvsPort>,
}

/// A member of a bond.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BondPort {
    /// Its device.
    pub netdev: Netdev,
    /// Whether it may send: in `active-backup` only one does.
    pub active: Option<bool>,
    /// Whether the bond takes its link to be up.
    pub link_up: Option<bool>,
    /// The NIC whose uplink it is.
    pub nic: Option<NicId>,
}

impl Nic {
    /// How it is named where one name is wanted: the handle, or else its number.
    pub fn name(&self) -> String {
        self.handle.as_ref().map_or_else(|| self.number.0.to_string(), ToString::to_string)
    }

    /// Its driver, as sysfs has it or as it says itself.
    pub fn driver(&self) -> &str {
        let own = self.info.as_ref().and_then(|info| info.driver.as_deref());
        if self.device.driver.is_empty() { own.unwrap_or_default() } else { &self.device.driver }
    }

    /// Its representors.
    pub fn representors(&self) -> impl Iterator<Item = &NicPort> {
        self.ports.iter().filter(|port| port.is_representor())
    }

    /// Its uplinks.
    pub fn uplinks(&self) -> impl Iterator<Item = &NicPort> {
        self.ports.iter().filter(|port| port.flavour == Some(PortFlavour::Physical))
    }

    /// Virtual functions: as sysfs counts them, or else those that have a representor.
    pub fn vfs(&self) -> u32 {
        let represented = || self.count(PortFlavour::PciVf);
        self.device.sriov.as_ref().map_or_else(represented, |sriov| sriov.vfs)
    }

    /// Ports of this flavour.
    pub fn count(&self, flavour: PortFlavour) -> u32 {
        let count = self.ports.iter().filter(|port| port.flavour == Some(flavour)).count();
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// Health reporters that are in error.
    pub fn in_error(&self) -> impl Iterator<Item = &HealthReporter> {
        self.health.iter().filter(|reporter| reporter.state != HealthState::Healthy)
    }
}
