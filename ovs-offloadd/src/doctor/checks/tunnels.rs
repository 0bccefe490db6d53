//! Tunnels and the devices below them.

use crate::doctor::{Facts, Finding, Interface, Kind, Role, Severity, Stage};

/// All kinds found here.
pub const KINDS: &[&Kind] = &[&TUNNEL_MTU, &ROUTES_UNREADABLE];

/// A device below a tunnel that cannot carry what goes into the tunnel.
pub static TUNNEL_MTU: Kind = Kind {
    id: "tunnel-mtu",
    in_lab: true,
    stage: Stage::Tunnels,
    severity: Severity::Warning,
    complaint: "between hosts UDP and small packets work, and TCP does not: it connects and hangs",
    why: "a full packet of a workload does not fit once it has the tunnel's headers; it is lost, or fragmented by the CPU",
    mend: "raise the MTU below the tunnel, on the way too, or lower that of the workloads; a workload's own device may be set \
           lower already, which cannot be seen from here",
};

/// Routes cannot be read.
pub static ROUTES_UNREADABLE: Kind = Kind {
    id: "routes-unreadable",
    in_lab: false,
    stage: Stage::Tunnels,
    severity: Severity::Note,
    complaint: "doctor says that it cannot look",
    why: "which device a tunnel leaves by, and whether its MTU is large enough, cannot be told",
    mend: "see whether /proc/net/route can be read",
};

/// Whether interfaces of this type put packets into other packets.
pub fn is_tunnel(kind: &str) -> bool {
    matches!(
        kind,
        "geneve" | "vxlan" | "gre" | "ip6gre" | "erspan" | "ip6erspan" | "gtpu" | "bareudp" | "srv6"
    )
}

/// Bytes that a tunnel puts before a packet, its inner Ethernet header included; nothing where that is not known.
fn overhead(tunnel: &Interface) -> Option<u32> {
    const ETHERNET: u32 = 14;
    const UDP: u32 = 8;
    let ip = if tunnel.remote_ip?.is_ipv6() { 40 } else { 20 };
    let own = match tunnel.kind.as_str() {
        // OVN gives every packet one option of 8 bytes.
        "geneve" => UDP + 8 + if tunnel.ovn { 8 } else { 0 },
        "vxlan" => UDP + 8,
        "gre" | "ip6gre" => 4,
        _ => return None,
    };
    Some(ETHERNET + ip + own)
}

/// Tunnels that leave by a device with too small an MTU for the representors on their bridge; one finding for a device.
pub fn mtu(facts: &Facts) -> Vec<Finding> {
    let mut findings: Vec<Finding> = Vec::new();
    for tunnel in facts.interfaces().filter(|interface| is_tunnel(&interface.kind)) {
        let (Some(remote), Some(overhead)) = (tunnel.remote_ip, overhead(tunnel)) else { continue };
        let Some((_, below)) = facts.device_to(remote).and_then(|name| facts.link_named(name)) else {
            continue;
        };
        let on_bridge = facts.of_role(Role::Representor).filter(|(_, link)| {
            facts.interface_of(link).is_some_and(|interface| interface.bridge == tunnel.bridge)
        });
        let largest = on_bridge.filter_map(|(_, link)| Some((link.mtu?, &link.name))).max();
        let (Some(mtu), Some((inner, workload))) = (below.mtu, largest) else { continue };
        if inner.saturating_add(overhead) <= mtu
            || findings.iter().any(|finding| finding.names.contains(&below.name))
        {
            continue;
        }
        let what = format!(
            "{} tunnel {} to {remote} leaves by {}, whose MTU of {mtu} has room for packets of {}; representor {workload} on \
             {} has an MTU of {inner}",
            tunnel.kind,
            tunnel.name,
            below.name,
            mtu.saturating_sub(overhead),
            tunnel.bridge,
        );
        let command = format!("ip link set dev {} mtu {}", below.name, inner.saturating_add(overhead));
        findings.push(TUNNEL_MTU.found([&tunnel.name, &below.name], what).run(command));
    }
    findings
}

/// What of the routes cannot be told.
pub fn unreadable(facts: &Facts) -> Vec<Finding> {
    let why = facts.routes.as_ref().err();
    why.map(|why| ROUTES_UNREADABLE.found([""; 0], format!("routes cannot be read: {why}")))
        .into_iter()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Route;
    use crate::doctor::checks::seen;
    use crate::doctor::facts::sample::{self, UPLINK, VF0};

    fn with_tunnel(kind: &str, remote: &str) -> Facts {
        let mut facts = sample::healthy();
        facts.ovs_mut().interfaces.push(Interface {
            kind: kind.into(),
            remote_ip: Some(remote.parse().unwrap()),
            ..sample::interface("tun0", 4)
        });
        let route = |to: &str| Route { to: to.parse().unwrap(), prefix: 0, device: "eth0".into(), metric: 0 };
        facts.routes = Ok(vec![route("0.0.0.0"), route("::")]);
        facts
    }

    #[test]
    fn a_device_below_a_tunnel_needs_room_for_its_headers() {
        for (kind, remote, ovn, needs) in [
            ("geneve", "192.0.2.1", false, 1550),
            ("geneve", "192.0.2.1", true, 1558),
            ("vxlan", "2001:db8::1", false, 1570),
            ("gre", "192.0.2.1", false, 1538),
        ] {
            let mut facts = with_tunnel(kind, remote);
            facts.interface_mut("tun0").ovn = ovn;
            facts.link_mut(UPLINK).mtu = Some(needs - 1);
            let found = mtu(&facts);
            assert_eq!(seen(&found), [("tunnel-mtu", vec!["tun0", "eth0"])], "{kind}");
            assert_eq!(found[0].command, Some(format!("ip link set dev eth0 mtu {needs}")));
            facts.link_mut(UPLINK).mtu = Some(needs);
            assert_eq!(mtu(&facts), [], "{kind}");
        }
    }

    #[test]
    fn representors_of_another_bridge_and_smaller_ones_do_not_matter() {
        let mut facts = with_tunnel("geneve", "192.0.2.1");
        facts.interface_mut("tun0").bridge = "br1".into();
        assert_eq!(mtu(&facts), []);
        facts.interface_mut("eth0_0").bridge = "br1".into();
        assert_eq!(mtu(&facts).len(), 1);
        facts.link_mut(VF0).mtu = Some(1450);
        assert_eq!(mtu(&facts), []);
    }

    #[test]
    fn many_tunnels_by_one_device_are_one_finding() {
        let mut facts = with_tunnel("geneve", "192.0.2.1");
        let other = Interface { name: "tun1".into(), ..facts.interface_mut("tun0").clone() };
        facts.ovs_mut().interfaces.push(other);
        assert_eq!(mtu(&facts).len(), 1);
        assert_eq!(mtu(&facts)[0].severity, Severity::Warning);
    }
}
