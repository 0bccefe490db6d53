//! The ports and NICs that megaflows come in by.

use crate::workload::Workload;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::net::IpAddr;
use netlink_wire::{DpPort, Ifindex};
use tc_flower::Location;

/// One NIC with an embedded switch, numbered in order of discovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NicId(pub u16);

impl fmt::Display for NicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What is known of a NIC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NicFacts {
    /// Which one.
    pub id: NicId,
    /// Devlink handle, `pci/0000:03:00.0`; empty where the NIC has no devlink instance.
    pub devlink: String,
    /// Driver name, empty where unknown.
    pub driver: String,
    /// `phys_switch_id`, in hexadecimal as sysfs prints it.
    pub switch_id: String,
    /// Eswitch mode, `switchdev` or `legacy`; empty where unknown.
    pub eswitch_mode: String,
}

/// What a port of an OVS bridge is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortKind {
    /// Stands for a VF or SF of a NIC.
    Representor,
    /// The NIC's side of the wire.
    Uplink,
    /// A tunnel of OVS.
    Tunnel,
    /// An internal port of OVS.
    Internal,
    /// Anything else: veth, tap, a NIC without an eswitch.
    Other,
}

impl PortKind {
    /// The word used in tables and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Representor => "representor",
            Self::Uplink => "uplink",
            Self::Tunnel => "tunnel",
            Self::Internal => "internal",
            Self::Other => "other",
        }
    }
}

/// What is known of one port of an OVS bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortFacts {
    /// Netdev name.
    pub name: String,
    /// Netdev index.
    pub ifindex: Ifindex,
    /// Where OVS puts the filters of packets that come in here: the netdev, or the block of its bond.
    pub location: Location,
    /// Number in the kernel datapath, once known.
    pub dp_port: Option<DpPort>,
    /// The bridge it is on.
    pub bridge: String,
    /// `Interface.external_ids:iface-id`.
    pub iface_id: Option<String>,
    /// What it was plugged for.
    pub workload: Option<Workload>,
    /// What it is.
    pub kind: PortKind,
    /// The kind of tunnel it is a port of, as `Interface.type` has it: "geneve", "vxlan", "gre"….
    pub tunnel_kind: Option<String>,
    /// The NIC it belongs to.
    pub nic: Option<NicId>,
    /// `hw-tc-offload` of the netdev.
    pub hw_tc_offload: bool,
}

impl PortFacts {
    /// Whether it goes by the same names as `other`: whether conditions see the same in both.
    pub(crate) fn is_named_like(&self, other: &Self) -> bool {
        (&self.name, &self.bridge, &self.iface_id, &self.workload, self.kind, &self.tunnel_kind)
            == (&other.name, &other.bridge, &other.iface_id, &other.workload, other.kind, &other.tunnel_kind)
    }

    /// The NIC that rules on this port would be placed in, if it can take any.
    pub fn offload_nic(&self) -> Option<NicId> {
        self.nic.filter(|_| self.hw_tc_offload)
    }
}

/// All ports and NICs.
#[derive(Clone, Debug, Default)]
pub struct Ports {
    ports: BTreeMap<Ifindex, PortFacts>,
    nics: BTreeMap<NicId, NicFacts>,
    by_dp_port: BTreeMap<DpPort, Ifindex>,
    chassis: BTreeMap<IpAddr, String>,
}

impl Ports {
    /// Takes what is now true of a port; returns what was.
    pub fn set(&mut self, port: PortFacts) -> Option<PortFacts> {
        if let Some(dp_port) = port.dp_port {
            self.by_dp_port.insert(dp_port, port.ifindex);
        }
        self.ports.insert(port.ifindex, port)
    }

    /// Forgets a port.
    pub fn remove(&mut self, ifindex: Ifindex) -> Option<PortFacts> {
        let port = self.ports.remove(&ifindex)?;
        if let Some(dp_port) = port.dp_port
            && self.by_dp_port.get(&dp_port) == Some(&ifindex)
        {
            self.by_dp_port.remove(&dp_port);
        }
        Some(port)
    }

    /// Takes what is now true of a NIC.
    pub fn set_nic(&mut self, nic: NicFacts) {
        self.nics.insert(nic.id, nic);
    }

    /// Forgets a NIC.
    pub fn remove_nic(&mut self, id: NicId) {
        self.nics.remove(&id);
    }

    /// Takes the names of the chassis that tunnels lead to, by their address. Returns whether anything is new.
    pub fn set_chassis(&mut self, chassis: BTreeMap<IpAddr, String>) -> bool {
        let is_new = self.chassis != chassis;
        self.chassis = chassis;
        is_new
    }

    /// The name of the chassis with this address.
    pub fn chassis_at(&self, address: IpAddr) -> Option<&str> {
        self.chassis.get(&address).map(String::as_str)
    }

    /// The port with this netdev index.
    pub fn get(&self, ifindex: Ifindex) -> Option<&PortFacts> {
        self.ports.get(&ifindex)
    }

    /// The port with this number in the datapath.
    pub fn by_dp_port(&self, dp_port: DpPort) -> Option<&PortFacts> {
        self.ports.get(self.by_dp_port.get(&dp_port)?)
    }

    /// A port whose filters are at `location`: for a shared block, the first of its members.
    pub fn at(&self, location: Location) -> Option<&PortFacts> {
        if let Location::Device { ifindex, .. } = location {
            return self.ports.get(&ifindex).filter(|port| port.location == location);
        }
        self.ports.values().find(|port| port.location == location)
    }

    /// Every place OVS has filters at, each once.
    pub fn locations(&self) -> Vec<Location> {
        let mut all: Vec<_> = self.ports.values().map(|port| port.location).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Every port, by netdev index.
    pub fn iter(&self) -> impl Iterator<Item = &PortFacts> {
        self.ports.values()
    }

    /// Every NIC, by number.
    pub fn nics(&self) -> impl Iterator<Item = &NicFacts> {
        self.nics.values()
    }
}
