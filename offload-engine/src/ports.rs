//! The ports and NICs that megaflows come in by.

use crate::protection::{IpsecPolicy, Outer, Protection};
use crate::workload::Workload;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::net::IpAddr;
use netlink_wire::{DpPort, Ifindex};
use tc_flower::action::{Mirred, MirredTarget};
use tc_flower::{ActionKind, Location};

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
    /// The kernel datapath it is a port of, by the netdev index of that one's own device, once known.
    pub dp: Option<Ifindex>,
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
    /// The UDP port that its tunnel's packets come to, where it is one over UDP.
    pub tunnel_port: Option<u16>,
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
    by_dp_port: BTreeMap<(DpPort, Option<Ifindex>), Ifindex>,
    chassis: BTreeMap<IpAddr, String>,
    // None while nobody has told of the host's policies.
    protection: Option<Protection>,
}

impl Ports {
    /// Takes what is now true of a port; returns what was.
    pub fn set(&mut self, port: PortFacts) -> Option<PortFacts> {
        let before = self.remove(port.ifindex);
        if let Some(dp_port) = port.dp_port {
            self.by_dp_port.insert((dp_port, port.dp), port.ifindex);
        }
        self.ports.insert(port.ifindex, port);
        before
    }

    /// Forgets a port.
    pub fn remove(&mut self, ifindex: Ifindex) -> Option<PortFacts> {
        let port = self.ports.remove(&ifindex)?;
        if let Some(dp_port) = port.dp_port
            && self.by_dp_port.get(&(dp_port, port.dp)) == Some(&ifindex)
        {
            self.by_dp_port.remove(&(dp_port, port.dp));
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

    /// Takes the host's policies of IPsec: all of them. Returns whether anything is new.
    pub fn set_ipsec(&mut self, policies: Vec<IpsecPolicy>) -> bool {
        let protection = Some(Protection::new(policies));
        let is_new = self.protection != protection;
        self.protection = protection;
        is_new
    }

    /// Whether packets of a tunnel are encrypted on the wire; none while that is not known.
    pub(crate) fn encrypts(&self, outer: &Outer) -> Option<bool> {
        Some(self.protection.as_ref()?.encrypts(outer))
    }

    /// Whether the host's own stack encrypts or drops packets of a tunnel, as far as is known; it may, of packets that are not known.
    pub(crate) fn needs_host(&self, outer: Option<&Outer>) -> bool {
        self.protection.as_ref().is_some_and(|protection| match outer {
            Some(outer) => protection.needs_host(outer),
            None => protection.has_host(),
        })
    }

    /// The port with this netdev index.
    pub fn get(&self, ifindex: Ifindex) -> Option<&PortFacts> {
        self.ports.get(&ifindex)
    }

    /// The port with this number in this datapath.
    pub fn by_dp_port(&self, dp: Ifindex, dp_port: DpPort) -> Option<&PortFacts> {
        self.ports.get(self.by_dp_port.get(&(dp_port, Some(dp)))?)
    }

    /// A port with this number, of the first datapath that has one: for people, who have one datapath as a rule.
    pub(crate) fn by_number(&self, dp_port: DpPort) -> Option<&PortFacts> {
        let mut of_number =
            self.by_dp_port.range((dp_port, None)..).take_while(|((of, _), _)| *of == dp_port);
        self.ports.get(of_number.next()?.1)
    }

    /// A port whose filters are at `location`: for a shared block, the first of its members.
    pub fn at(&self, location: Location) -> Option<&PortFacts> {
        if let Location::Device { ifindex, .. } = location {
            return self.ports.get(&ifindex).filter(|port| port.location == location);
        }
        self.ports.values().find(|port| port.location == location)
    }

    /// The NIC that a filter on a tunnel would be placed in. TC offers it to every NIC (`flow_indr_dev_register()`), and
    /// one takes it whose port its packets leave by. Where they leave by none, nothing tells two NICs apart, so it is the
    /// only one there is, or none.
    pub(crate) fn tunnel_nic<'a>(&self, actions: impl Iterator<Item = &'a ActionKind>) -> Option<NicId> {
        let target = |action: &ActionKind| match action {
            ActionKind::Mirred(Mirred { target: MirredTarget::Device(ifindex), .. }) => Some(*ifindex),
            _ => None,
        };
        let nic_of = |ifindex| self.ports.get(&ifindex).and_then(PortFacts::offload_nic);
        if let Some(nic) = actions.filter_map(target).find_map(nic_of) {
            return Some(nic);
        }
        let mut nics = self.ports.values().filter_map(PortFacts::offload_nic);
        let first = nics.next()?;
        nics.all(|other| other == first).then_some(first)
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

#[cfg(test)]
mod tests {
    use super::*;
    use tc_flower::action::Direction;

    fn ports(of: &[(u32, PortKind, Option<u16>, bool)]) -> Ports {
        let mut ports = Ports::default();
        for &(ifindex, kind, nic, hw_tc_offload) in of {
            let ifindex = Ifindex(ifindex);
            ports.set(PortFacts {
                name: String::new(),
                ifindex,
                location: Location::ingress(ifindex),
                dp_port: None,
                dp: None,
                bridge: String::new(),
                iface_id: None,
                kind,
                tunnel_kind: None,
                tunnel_port: None,
                workload: None,
                nic: nic.map(NicId),
                hw_tc_offload,
            });
        }
        ports
    }

    fn output(ifindex: u32) -> [ActionKind; 1] {
        let target = MirredTarget::Device(Ifindex(ifindex));
        [ActionKind::Mirred(Mirred { direction: Direction::Egress, copy: false, target })]
    }

    #[test]
    fn a_filter_on_a_tunnel_is_of_the_nic_that_its_packets_leave_by() {
        let two = [
            (1, PortKind::Tunnel, None, false),
            (2, PortKind::Representor, Some(0), true),
            (3, PortKind::Representor, Some(1), true),
            (4, PortKind::Representor, Some(1), false),
        ];
        let ports = ports(&two);
        assert_eq!(ports.tunnel_nic(output(2).iter()), Some(NicId(0)));
        assert_eq!(ports.tunnel_nic(output(3).iter()), Some(NicId(1)));
        assert_eq!(
            ports.tunnel_nic(output(4).iter()),
            None,
            "its port takes no rules, and there are two NICs"
        );
        assert_eq!(ports.tunnel_nic([].iter()), None);
    }

    #[test]
    fn where_there_is_one_nic_a_filter_on_a_tunnel_is_of_that_one() {
        let one = [
            (1, PortKind::Tunnel, None, false),
            (2, PortKind::Representor, Some(0), true),
            (3, PortKind::Uplink, Some(0), true),
        ];
        assert_eq!(ports(&one).tunnel_nic([].iter()), Some(NicId(0)));
        assert_eq!(ports(&one[..1]).tunnel_nic([].iter()), None);
    }
}
