//! Topologies with a network outside: a localnet port, with and without a VLAN tag, and a distributed gateway.

use lab_tests::harness::Outcome;

use super::compared::{Journey, Kind, SHARE_MIN, TCP, UDP};
use super::fabric::{Fabric, Meter, OUTSIDE_V4, OUTSIDE_V6};

/// The router's address outside.
pub(super) const GATEWAY_V4: &str = "172.30.0.1";
const GATEWAY_V6: &str = "fd30::1";

/// Gives the router of `plug_into_two_switches` a port to the provider network, bound to the first chassis: what the pod of
/// the second sends there goes through the tunnel, and leaves by the first.
pub(super) fn add_gateway(fabric: &Fabric) -> Outcome {
    let ovn = &fabric.ovn;
    ovn.nb(&format!(
        "lrp-add router to-public 0a:00:00:00:ff:fe {GATEWAY_V4}/24 {GATEWAY_V6}/64 -- \
         lrp-set-gateway-chassis to-public hv1 20 -- \
         ls-add public -- \
         lsp-add public up-public -- lsp-set-type up-public router -- lsp-set-addresses up-public router -- \
         lsp-set-options up-public router-port=to-public -- \
         lsp-add public wire -- lsp-set-type wire localnet -- lsp-set-addresses wire unknown -- \
         lsp-set-options wire network_name=phys"
    ))?;
    ovn.nb("--wait=hv sync")?;
    let outside = fabric.outside()?;
    outside.run(&["ip", "route", "replace", "10.2.0.0/16", "via", GATEWAY_V4])?;
    outside.run(&["ip", "-6", "route", "replace", "fd02::/16", "via", GATEWAY_V6]).map(drop)
}

/// A distributed gateway: from the second chassis' pod through the tunnel to the first chassis, and out there.
pub(super) fn gateway_without_translation(fabric: &Fabric) -> Outcome {
    add_gateway(fabric)?;
    let outside = fabric.outside()?;
    let way = |topology, called| Journey {
        topology,
        from: &fabric.hosts[1].pod,
        to: outside,
        listens: called,
        called,
        tcp: TCP,
        udp: UDP,
        meters: &[(0, Meter::Provider), (1, Meter::Pod)],
        tracked: false,
        share_min: SHARE_MIN,
    };
    fabric.compare(way("distributed gateway", OUTSIDE_V4), Kind::Tcp)?;
    fabric.compare(way("distributed gateway, IPv6", OUTSIDE_V6), Kind::Udp)
}

/// Both pods on a switch that is VLAN 100 of the provider network, and no tunnel between them.
pub(super) fn tagged_switch(fabric: &Fabric) -> Outcome {
    let ovn = &fabric.ovn;
    for (host, number) in fabric.hosts.iter().zip(1..) {
        ovn.nb(&format!("lsp-del pod{number}"))?;
        host.address_pod(&[&format!("10.3.0.{number}/24"), &format!("fd03::{number}/64")], &[])?;
    }
    let [one, two] = &fabric.hosts;
    ovn.nb(&format!(
        "ls-add vlan100 -- lsp-add vlan100 pod1 -- lsp-set-addresses pod1 '{} 10.3.0.1 fd03::1' -- \
         lsp-add vlan100 pod2 -- lsp-set-addresses pod2 '{} 10.3.0.2 fd03::2' -- \
         lsp-add vlan100 wire100 -- lsp-set-type wire100 localnet -- lsp-set-addresses wire100 unknown -- \
         lsp-set-options wire100 network_name=phys -- set Logical_Switch_Port wire100 tag=100",
        one.mac()?,
        two.mac()?
    ))?;
    ovn.nb("--wait=hv sync")?;
    let way = |topology, called| Journey {
        topology,
        from: &one.pod,
        to: &two.pod,
        listens: called,
        called,
        tcp: TCP,
        udp: UDP,
        meters: &[(0, Meter::Provider), (1, Meter::Provider), (0, Meter::Pod), (1, Meter::Pod)],
        tracked: false,
        share_min: SHARE_MIN,
    };
    fabric.compare(way("802.1Q localnet", "10.3.0.2"), Kind::Tcp)?;
    fabric.compare(way("802.1Q localnet", "10.3.0.2"), Kind::Fragments)?;
    fabric.compare(way("802.1Q localnet, IPv6", "fd03::2"), Kind::Ping)
}
