//! Security associations as they are shown: whose tunnel each protects, where it runs, and why not elsewhere.

use std::collections::BTreeMap;
use std::net::IpAddr;

use netlink_wire::Ifindex;
use netlink_wire::xfrm::{Algorithm, Limit, Sa, SaDirection, Spi};

use super::{Ipsec, Owners, demands};
use crate::ctl::sa::{LimitView, ReplayView, SaView, SaWhy};
use crate::inventory::OvsInterface;

/// What else is known of the host.
#[derive(Debug, Clone, Copy)]
pub struct Scene<'a> {
    /// Interfaces of Open vSwitch, by name.
    pub interfaces: &'a BTreeMap<String, OvsInterface>,
    /// Chassis by the address of their tunnels.
    pub chassis: &'a BTreeMap<IpAddr, String>,
    /// IKE daemons.
    pub owners: &'a Owners,
    /// Seconds since 1970.
    pub now_s: u64,
}

/// All security associations; `device` names a device.
pub fn sa_list(ipsec: &Ipsec, scene: Scene<'_>, device: impl Fn(Ifindex) -> Option<String>) -> Vec<SaView> {
    let tunnels = Tunnels::new(scene);
    ipsec.sas().map(|sa| view(ipsec, sa, scene, &tunnels, &device)).collect()
}

/// Those with this SPI, and why each runs where it does.
pub fn sa_why(
    ipsec: &Ipsec,
    spi: Spi,
    scene: Scene<'_>,
    device: impl Fn(Ifindex) -> Option<String>,
) -> Vec<SaWhy> {
    let tunnels = Tunnels::new(scene);
    let with_spi = ipsec.sas().filter(|sa| sa.id.spi == spi);
    with_spi
        .map(|sa| {
            let sa_view = view(ipsec, sa, scene, &tunnels, &device);
            let unmet = demands(sa, ipsec.direction(sa)).iter().map(ToString::to_string).collect();
            let why = why(sa, &sa_view);
            SaWhy { sa: sa_view, why, unmet }
        })
        .collect()
}

fn why(sa: &Sa, view: &SaView) -> String {
    let device = view.device.as_deref().unwrap_or("a device");
    match sa.offload {
        Some(offload) if offload.packet => {
            format!("{device} does all of IPsec for it: its packets meet the host in the clear or not at all")
        }
        Some(_) => {
            format!("{device} does its ciphers; the host wraps and unwraps each packet, so that no rule of TC takes them")
        }
        None => "whoever made it asked for no device (strongSwan: hw_offload of the child, Libreswan: nic-offload of the \
                 connection), or was refused one and went on in software"
            .to_owned(),
    }
}

/// Interfaces that are tunnels, by the peer's address.
struct Tunnels<'a>(BTreeMap<IpAddr, Vec<&'a String>>);

impl<'a> Tunnels<'a> {
    fn new(scene: Scene<'a>) -> Self {
        let mut tunnels: BTreeMap<IpAddr, Vec<&String>> = BTreeMap::new();
        for (name, row) in scene.interfaces {
            if let Some(remote) = row.remote {
                tunnels.entry(remote).or_default().push(name);
            }
        }
        Self(tunnels)
    }

    fn to(&self, peer: IpAddr) -> impl Iterator<Item = &'a String> {
        self.0.get(&peer).into_iter().flatten().copied()
    }
}

fn view(
    ipsec: &Ipsec,
    sa: &Sa,
    scene: Scene<'_>,
    tunnels: &Tunnels<'_>,
    device: &impl Fn(Ifindex) -> Option<String>,
) -> SaView {
    let direction = ipsec.direction(sa);
    // The other end of the tunnel. Where the way is not known, the end that somebody has a tunnel to.
    let has_tunnel = |peer: IpAddr| tunnels.to(peer).next().is_some();
    let peer = match direction {
        Some(SaDirection::In) => sa.src,
        Some(SaDirection::Out) => sa.id.dst,
        None if has_tunnel(sa.src) => sa.src,
        None => sa.id.dst,
    };
    let age_s = scene.now_s.saturating_sub(sa.added_at_s);
    SaView {
        spi: sa.id.spi.to_string(),
        protocol: match sa.id.proto {
            50 => "esp".to_owned(),
            51 => "ah".to_owned(),
            108 => "comp".to_owned(),
            other => other.to_string(),
        },
        direction: direction.map_or("unknown", SaDirection::word),
        src: sa.src.to_string(),
        dst: sa.id.dst.to_string(),
        mode: sa.mode.to_string(),
        reqid: sa.reqid.0,
        mark: (sa.id.mark.1 != 0).then(|| format!("{:#x}/{:#x}", sa.id.mark.0, sa.id.mark.1)),
        algorithms: sa.algorithms.iter().flatten().map(algorithm).collect(),
        offload: sa.offload.map_or("none", |offload| offload.word()),
        device: sa
            .offload
            .map(|offload| device(offload.ifindex).unwrap_or_else(|| format!("ifindex {}", offload.ifindex))),
        tunnels: tunnels.to(peer).cloned().collect(),
        chassis: scene.chassis.get(&peer).cloned(),
        bytes: sa.bytes,
        packets: sa.packets,
        age_s,
        owner: scene.owners.of(sa, age_s),
        esn: sa.esn,
        udp_encap: sa.udp_encap,
        limits: [
            ("bytes", sa.lifetime.bytes),
            ("packets", sa.lifetime.packets),
            ("age_s", sa.lifetime.added_s),
            ("used_s", sa.lifetime.used_s),
        ]
        .into_iter()
        .filter(|(_, limit)| *limit != Limit::default())
        .map(|(of, Limit { soft, hard })| (of, LimitView { soft, hard }))
        .collect(),
        replay: ReplayView {
            window: sa.replay.window,
            sent: sa.replay.sent,
            received: sa.replay.received,
            outside_window: sa.outside_window,
            replayed: sa.replayed,
            forged: sa.forged,
        },
    }
}

fn algorithm(Algorithm { name, key_bits, icv_bits }: &Algorithm) -> String {
    match icv_bits {
        Some(icv) => format!("{name} key {key_bits} icv {icv}"),
        None => format!("{name} key {key_bits}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::{policy, sa};
    use super::*;
    use netlink_wire::xfrm::{DeviceOffload, Event, PolicyDirection, Reqid};

    fn names() -> (BTreeMap<String, OvsInterface>, BTreeMap<IpAddr, String>) {
        let peer: IpAddr = [192, 0, 2, 2].into();
        let row = OvsInterface { remote: Some(peer), ..OvsInterface::default() };
        let other = OvsInterface { remote: Some([192, 0, 2, 3].into()), ..OvsInterface::default() };
        let interfaces = [("ovn-abc-0".to_owned(), row), ("ovn-def-0".to_owned(), other)];
        (interfaces.into(), [(peer, "hv2".to_owned())].into())
    }

    #[test]
    fn a_security_association_is_shown_with_the_tunnel_and_the_chassis_it_protects() {
        let (interfaces, chassis) = names();
        let owners = Owners::default();
        let scene = Scene { interfaces: &interfaces, chassis: &chassis, owners: &owners, now_s: 90 };
        let mut ipsec = Ipsec::default();
        ipsec.told(Event::Policy(Box::new(policy(1, PolicyDirection::In))));
        let mut inbound = sa(0xc0de);
        (inbound.src, inbound.id.dst) = (inbound.id.dst, inbound.src);
        (inbound.added_at_s, inbound.id.mark) = (30, (1, 0xff));
        inbound.offload = Some(DeviceOffload { ifindex: Ifindex(7), packet: true, inbound: true });
        ipsec.told(Event::Sa(Box::new(inbound)));
        let all = sa_list(&ipsec, scene, |ifindex| (ifindex == Ifindex(7)).then(|| "eth0".to_owned()));
        let [sa] = &all[..] else { panic!("{all:?}") };
        assert_eq!(
            (sa.spi.as_str(), sa.direction, sa.offload, sa.device.as_deref()),
            ("0x0000c0de", "in", "packet", Some("eth0"))
        );
        assert_eq!((&sa.tunnels[..], sa.chassis.as_deref()), (&["ovn-abc-0".to_owned()][..], Some("hv2")));
        assert_eq!((sa.age_s, sa.mark.as_deref(), sa.owner), (60, Some("0x1/0xff"), "unknown"));
    }

    #[test]
    fn what_runs_in_software_is_told_with_what_a_nic_would_demand() {
        let (interfaces, chassis) = names();
        let owners = Owners::default();
        let scene = Scene { interfaces: &interfaces, chassis: &chassis, owners: &owners, now_s: 0 };
        let mut ipsec = Ipsec::default();
        let mut without = sa(5);
        without.reqid = Reqid(0);
        ipsec.told(Event::Sa(Box::new(without)));
        assert!(sa_why(&ipsec, Spi(6), scene, |_| None).is_empty());
        let found = sa_why(&ipsec, Spi(5), scene, |_| None);
        assert!(found[0].why.contains("asked for no device"), "{}", found[0].why);
        assert_eq!(found[0].unmet, ["it has no reqid, by which NICs join policies to it"]);
    }
}
