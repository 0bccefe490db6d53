//! Where filters are tried: the port, its ingress hook, and the ports and tunnels that they can send to.

use std::collections::BTreeMap;

use netlink_wire::Ifindex;
use tc_flower::{BlockIndex, Location};

use super::list::{Devices, Needs};
use crate::doctor::{Facts, HwTcOffload, Link, Role};

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
        let Devices { output, mirror, geneve, vxlan, .. } = self.devices;
        let of = |device: Option<Ifindex>, missing| device.map(|_| self.location).ok_or(missing);
        let at = |device: Option<Ifindex>, missing| device.map(Location::ingress).ok_or(missing);
        match needs {
            Needs::Nothing => Ok(self.location),
            Needs::Output => of(output, "the NIC has no other port here"),
            Needs::TwoOutputs => of(mirror, "the NIC has no two other ports here"),
            Needs::Tunnel => of(geneve.or(vxlan), "no tunnel device with an ingress qdisc is here"),
            Needs::Geneve => of(geneve, "no Geneve device with an ingress qdisc is here"),
            Needs::Vxlan => of(vxlan, "no VXLAN device with an ingress qdisc is here"),
            Needs::FromTunnel => at(geneve.or(vxlan), "no tunnel device with an ingress qdisc is here"),
            Needs::FromGeneve => at(geneve, "no Geneve device with an ingress qdisc is here"),
            Needs::FromVxlan => at(vxlan, "no VXLAN device with an ingress qdisc is here"),
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
        },
    })
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
            Devices { port: VF0, output: Some(UPLINK), mirror: Some(VF1), ..Devices::default() }
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
