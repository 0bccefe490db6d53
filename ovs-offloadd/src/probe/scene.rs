//! Where filters are tried: the port, its ingress hook, and the ports and tunnels that they can send to.

use std::collections::BTreeMap;
use std::net::IpAddr;

use netlink_wire::Ifindex;
use tc_flower::{BlockIndex, Location};

use super::list::{Devices, Needs};
use crate::doctor::{Facts, HwTcOffload, Link, Role};

const NO_TUNNEL: &str = "no tunnel device with an ingress qdisc is here";
const NO_GENEVE: &str = "no Geneve device with an ingress qdisc is here";
const NO_VXLAN: &str = "no VXLAN device with an ingress qdisc is here";

/// A qdisc with an ingress hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IngressQdisc {
    /// `ingress` or `clsact`.
    pub kind: String,
    /// The shared block its filters are in.
    pub block: Option<BlockIndex>,
}

/// Where to probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scene {
    /// The NIC's devlink handle.
    pub nic: String,
    /// Its driver.
    pub driver: String,
    /// The port's name.
    pub port: String,
    /// Its `phys_port_name`.
    pub port_name: Option<String>,
    /// What it stands for.
    pub role: Role,
    /// The port that packets are sent to, by name, and what that stands for.
    pub toward: Option<(String, Role)>,
    /// Tunnel devices, by name.
    pub tunnels: Vec<String>,
    /// The qdisc whose hook is used.
    pub qdisc: String,
    /// Where filters of the port are.
    pub location: Location,
    /// The devices that filters name.
    pub devices: Devices,
}

impl Scene {
    /// Where the filter of a probe that needs this is; or what is not there.
    pub fn place(&self, needs: Needs) -> Result<Location, &'static str> {
        let Devices { output, mirror, geneve, vxlan, remote, remote6, .. } = self.devices;
        let into = |device: Option<Ifindex>, missing, reaches: bool| match reaches {
            true => device.map(|_| self.location).ok_or(missing),
            false => Err("no tunnel of Open vSwitch leads to an address that packets leave by this NIC to"),
        };
        let of = |device: Option<Ifindex>, missing| device.map(|_| self.location).ok_or(missing);
        let at = |device: Option<Ifindex>, missing| device.map(Location::ingress).ok_or(missing);
        match needs {
            Needs::Nothing => Ok(self.location),
            Needs::Output => of(output, "the NIC has no other port here"),
            Needs::TwoOutputs => of(mirror, "the NIC has no two other ports here"),
            Needs::Tunnel | Needs::Tunnel6 => {
                let reaches = if needs == Needs::Tunnel { remote.is_some() } else { remote6.is_some() };
                into(geneve.or(vxlan), NO_TUNNEL, reaches || geneve.or(vxlan).is_none())
            }
            Needs::Geneve => into(geneve, NO_GENEVE, remote.is_some() || geneve.is_none()),
            Needs::Vxlan => into(vxlan, NO_VXLAN, remote.is_some() || vxlan.is_none()),
            Needs::FromTunnel => at(geneve.or(vxlan), NO_TUNNEL),
            Needs::FromGeneve => at(geneve, NO_GENEVE),
            Needs::FromVxlan => at(vxlan, NO_VXLAN),
        }
    }

    /// Every place that filters may be at.
    pub fn places(&self) -> Vec<Location> {
        let tunnels = [self.devices.geneve, self.devices.vxlan].into_iter().flatten();
        std::iter::once(self.location).chain(tunnels.map(Location::ingress)).collect()
    }
}

/// Finds where to probe; or says why it is not done.
pub fn find(facts: &Facts, qdiscs: &BTreeMap<Ifindex, IngressQdisc>, port: &str) -> Result<Scene, String> {
    if facts.net_admin == Ok(false) {
        return Err("a probe needs CAP_NET_ADMIN: run it as root".to_owned());
    }
    facts.links.as_ref().map_err(|why| format!("network devices cannot be listed: {why}"))?;
    let (ifindex, link) =
        facts.link_named(port).ok_or_else(|| format!("there is no network device {port} here"))?;
    let (Some(role), Some(handle)) = (link.role, link.parent.as_ref()) else {
        return Err(format!(
            "{port} is neither uplink nor representor of a NIC in switchdev mode: its driver has no eswitch to probe"
        ));
    };
    match &link.hw_tc_offload {
        Some(Ok(HwTcOffload::On)) => {}
        Some(Ok(HwTcOffload::Off)) => {
            return Err(format!(
                "hw-tc-offload of {port} is off, so that TC asks its driver nothing; turn it on: ethtool -K {port} hw-tc-offload on"
            ));
        }
        Some(Ok(HwTcOffload::Unsupported)) => return Err(format!("{port} has no hw-tc-offload")),
        Some(Err(why)) => return Err(format!("hw-tc-offload of {port} cannot be read: {why}")),
        None => return Err(format!("hw-tc-offload of {port} is not known")),
    }
    let Some(qdisc) = qdiscs.get(&ifindex) else {
        return Err(format!(
            "{port} has no ingress qdisc, and a probe makes none, since Open vSwitch may; put the port on a bridge with hw-offload \
             on, or, where no Open vSwitch will use it, run: tc qdisc add dev {port} clsact"
        ));
    };
    let nic = facts.nics.iter().flatten().find(|nic| nic.handle == *handle);
    let outputs = outputs(facts, ifindex, role, handle);
    let tunnel = |kind: &str| {
        facts.all_links().find(|(ifindex, link)| {
            let own = qdiscs.get(ifindex).is_some_and(|qdisc| qdisc.block.is_none());
            link.kind.as_deref() == Some(kind) && own
        })
    };
    let (geneve, vxlan) = (tunnel("geneve"), tunnel("vxlan"));
    let remotes = remotes(facts, handle);
    let role_of = |link: &Link| link.role.unwrap_or(Role::Representor);
    Ok(Scene {
        nic: handle.clone(),
        driver: nic.map(|nic| nic.driver.clone()).unwrap_or_default(),
        port: port.to_owned(),
        port_name: link.port_name.clone(),
        role,
        toward: outputs.first().map(|(_, link)| (link.name.clone(), role_of(link))),
        tunnels: [geneve, vxlan].into_iter().flatten().map(|(_, link)| link.name.clone()).collect(),
        qdisc: qdisc.kind.clone(),
        location: qdisc.block.map_or(Location::ingress(ifindex), Location::Block),
        devices: Devices {
            port: ifindex,
            output: outputs.first().map(|(ifindex, _)| *ifindex),
            mirror: outputs.get(1).map(|(ifindex, _)| *ifindex),
            geneve: geneve.map(|(ifindex, _)| ifindex),
            vxlan: vxlan.map(|(ifindex, _)| ifindex),
            geneve_port: geneve.map_or(6081, |(_, link)| port_in(&link.name, 6081)),
            vxlan_port: vxlan.map_or(4789, |(_, link)| port_in(&link.name, 4789)),
            remote: remotes.iter().find_map(|remote| match remote {
                IpAddr::V4(address) => Some(*address),
                IpAddr::V6(_) => None,
            }),
            remote6: remotes.iter().find_map(|remote| match remote {
                IpAddr::V4(_) => None,
                IpAddr::V6(address) => Some(*address),
            }),
        },
    })
}

/// The UDP port of a tunnel's device, which Open vSwitch calls `genev_sys_6081`.
fn port_in(name: &str, usual: u16) -> u16 {
    name.rsplit('_').next().and_then(|port| port.parse().ok()).unwrap_or(usual)
}

/// Other ends of Open vSwitch's tunnels that packets leave by an uplink of this NIC to, or by a bond of one: a driver asked
/// for a way to another address would refuse that, and not what is tried.
fn remotes(facts: &Facts, handle: &str) -> Vec<IpAddr> {
    let is_of_nic = |link: &Link| link.role == Some(Role::Uplink) && link.parent.as_deref() == Some(handle);
    let leaves_by = |device: &str| {
        let Some((ifindex, link)) = facts.link_named(device) else { return false };
        is_of_nic(link)
            || facts.all_links().any(|(_, member)| member.master == Some(ifindex) && is_of_nic(member))
    };
    let remotes = facts.interfaces().filter_map(|interface| interface.remote_ip);
    remotes.filter(|remote| facts.device_to(*remote).is_some_and(leaves_by)).collect()
}

/// The NIC's other ports, those first that packets of this one usually go to: of a representor the uplink.
fn outputs<'a>(facts: &'a Facts, port: Ifindex, role: Role, handle: &str) -> Vec<(Ifindex, &'a Link)> {
    let others = |wanted: Role| {
        facts
            .of_role(wanted)
            .filter(|(ifindex, link)| *ifindex != port && link.parent.as_deref() == Some(handle))
    };
    match role {
        Role::Representor => others(Role::Uplink).chain(others(Role::Representor)).take(2).collect(),
        Role::Uplink => others(Role::Representor).chain(others(Role::Uplink)).take(2).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Route;
    use crate::doctor::sample::{self, UPLINK, VF0, VF1};

    fn qdiscs() -> BTreeMap<Ifindex, IngressQdisc> {
        let own = IngressQdisc { kind: "ingress".into(), block: None };
        [UPLINK, VF0, VF1].map(|ifindex| (ifindex, own.clone())).into()
    }

    #[test]
    fn of_a_representor_packets_go_to_the_uplink_and_of_the_uplink_to_a_representor() {
        let facts = sample::healthy();
        let scene = find(&facts, &qdiscs(), "eth0_0").unwrap();
        assert_eq!(
            (scene.role, &*scene.nic, &*scene.driver),
            (Role::Representor, "pci/0000:03:00.0", "mlx5_core")
        );
        assert_eq!(scene.toward, Some(("eth0".into(), Role::Uplink)));
        assert_eq!(
            scene.devices,
            Devices {
                port: VF0,
                output: Some(UPLINK),
                mirror: Some(VF1),
                geneve_port: 6081,
                vxlan_port: 4789,
                ..Devices::default()
            }
        );
        let scene = find(&facts, &qdiscs(), "eth0").unwrap();
        assert_eq!(
            (scene.toward.clone(), scene.devices.mirror),
            (Some(("eth0_0".into(), Role::Representor)), Some(VF1))
        );
        assert_eq!(scene.place(Needs::FromGeneve), Err("no Geneve device with an ingress qdisc is here"));
    }

    #[test]
    fn filters_of_a_shared_block_are_addressed_by_the_block_and_those_out_of_a_tunnel_at_its_device() {
        let mut facts = sample::healthy();
        let mut qdiscs = qdiscs();
        qdiscs.get_mut(&VF0).unwrap().block = Some(BlockIndex(9));
        let geneve = Link { kind: Some("geneve".into()), ..sample::link("genev_sys_6081", None, "") };
        facts.links.as_mut().unwrap().insert(Ifindex(40), geneve);
        qdiscs.insert(Ifindex(40), IngressQdisc { kind: "ingress".into(), block: None });
        let scene = find(&facts, &qdiscs, "eth0_0").unwrap();
        assert_eq!(scene.place(Needs::Output), Ok(Location::Block(BlockIndex(9))));
        assert_eq!(scene.place(Needs::FromTunnel), Ok(Location::ingress(Ifindex(40))));
        assert_eq!(scene.tunnels, ["genev_sys_6081"]);
        assert!(scene.place(Needs::Geneve).unwrap_err().contains("leave by this NIC"));
        let mut tunnel = sample::interface("gnv0", 9);
        tunnel.remote_ip = Some("172.31.0.2".parse().unwrap());
        facts.ovs_mut().interfaces.push(tunnel);
        let route = |device: &str| Route {
            to: "172.31.0.0".parse().unwrap(),
            prefix: 24,
            device: device.into(),
            metric: 0,
        };
        facts.routes = Ok(vec![route("eth9")]);
        assert_eq!(find(&facts, &qdiscs, "eth0_0").unwrap().devices.remote, None, "by another NIC");
        facts.routes = Ok(vec![route("eth0")]);
        let scene = find(&facts, &qdiscs, "eth0_0").unwrap();
        assert_eq!(scene.devices.remote, "172.31.0.2".parse().ok());
        assert!(scene.place(Needs::Geneve).is_ok() && scene.place(Needs::Tunnel6).is_err());
        assert_eq!(scene.places().len(), 2);
    }

    #[test]
    fn a_port_that_cannot_be_probed_is_refused_with_what_it_lacks() {
        let refused = |facts: &Facts, port: &str| find(facts, &qdiscs(), port).unwrap_err();
        let mut facts = sample::healthy();
        assert!(refused(&facts, "eth7").contains("no network device eth7"));
        assert!(refused(&facts, "ovs-system").contains("neither uplink nor representor"));
        assert!(
            find(&facts, &BTreeMap::new(), "eth0_0").unwrap_err().contains("tc qdisc add dev eth0_0 clsact")
        );
        facts.link_mut(VF0).hw_tc_offload = Some(Ok(HwTcOffload::Off));
        assert!(refused(&facts, "eth0_0").contains("ethtool -K eth0_0 hw-tc-offload on"));
        facts.net_admin = Ok(false);
        assert!(refused(&facts, "eth0").contains("CAP_NET_ADMIN"));
    }
}
