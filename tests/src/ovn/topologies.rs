//! What people build of OVN, across two chassis: what worked in software works in hardware.

use lab_tests::harness::{Lab, Outcome, ensure, wait_until};

use super::DONE_WITHIN;
use super::fabric::Fabric;
use super::provider;

/// Topologies without connection tracking, which any kernel can offload.
pub(super) fn what_works_across_two_chassis_works_with_its_flows_in_hardware(lab: &mut Lab) -> Outcome {
    let fabric = Fabric::with_provider(lab)?;
    println!("    | topology | chassis | flows | placed | packets in hardware | the rest |");
    one_switch(&fabric)?;
    stateless_acl(&fabric)?;
    two_switches_and_a_router(&fabric)?;
    provider::gateway_without_translation(&fabric)?;
    provider::tagged_switch(&fabric)
}

/// Both pods on one logical switch, IPv4 and IPv6.
fn one_switch(fabric: &Fabric) -> Outcome {
    plug_into_one_switch(fabric)?;
    fabric.carry("logical switch", "10.1.0.2", 7101)?;
    fabric.carry("logical switch, IPv6", "fd01::2", 7102)
}

pub(super) fn plug_into_one_switch(fabric: &Fabric) -> Outcome {
    let ovn = &fabric.ovn;
    ovn.nbctl(&["ls-add", "blue"])?;
    for (host, number) in fabric.hosts.iter().zip(1..) {
        let port = format!("pod{number}");
        let addresses = format!("{} 10.1.0.{number} fd01::{number}", host.mac()?);
        ovn.nbctl(&["lsp-add", "blue", &port, "--", "lsp-set-addresses", &port, &addresses])?;
        host.address_pod(&[&format!("10.1.0.{number}/24"), &format!("fd01::{number}/64")], &[])?;
    }
    fabric.plug()
}

/// A stateless ACL lets the stream pass, and then denies it.
fn stateless_acl(fabric: &Fabric) -> Outcome {
    let ovn = &fabric.ovn;
    let acl = |verb: &str, priority: &str, what: &str, verdict: Option<&str>| {
        let words = ["--wait=hv", verb, "blue", "to-lport", priority, what];
        let words: Vec<&str> = words.into_iter().chain(verdict).collect();
        ovn.nbctl(&words).map(drop)
    };
    acl("acl-add", "10", "ip4", Some("allow-stateless"))?;
    fabric.carry("stateless ACL", "10.1.0.2", 7103)?;
    acl("acl-add", "20", "ip4", Some("drop"))?;
    // Not in hardware either: 20 pings of which none is answered. One alone may just be late.
    wait_until("what the ACL denies does not arrive", DONE_WITHIN, || {
        let pings = fabric.hosts[0].pod.run(&["sh", "-c", "ping -q -c 20 -i 0.02 -W 1 10.1.0.2 || true"])?;
        ensure!(pings.contains(" 0 received"), "what the ACL denies passes: {pings}");
        Ok(true)
    })?;
    acl("acl-del", "20", "ip4", None)?;
    acl("acl-del", "10", "ip4", None)
}

/// Each pod on a logical switch of its own, a distributed router between them, IPv4 and IPv6.
fn two_switches_and_a_router(fabric: &Fabric) -> Outcome {
    plug_into_two_switches(fabric)?;
    fabric.carry("distributed router", "10.2.2.1", 7104)?;
    fabric.carry("distributed router, IPv6", "fd02:2::1", 7105)
}

pub(super) fn plug_into_two_switches(fabric: &Fabric) -> Outcome {
    let ovn = &fabric.ovn;
    ovn.nbctl(&["--if-exists", "ls-del", "blue"])?;
    ovn.nbctl(&["lr-add", "router"])?;
    for (host, number) in fabric.hosts.iter().zip(1..) {
        let (switch, port, uplink) = (format!("net{number}"), format!("pod{number}"), format!("up{number}"));
        let (v4, v6) = (format!("10.2.{number}.254"), format!("fd02:{number}::254"));
        let router_port = format!("to-net{number}");
        ovn.nbctl(&[
            "lrp-add",
            "router",
            &router_port,
            &format!("0a:00:00:00:0{number}:fe"),
            &format!("{v4}/24"),
            &format!("{v6}/64"),
        ])?;
        let addresses = format!("{} 10.2.{number}.1 fd02:{number}::1", host.mac()?);
        ovn.nbctl(&[
            "ls-add",
            &switch,
            "--",
            "lsp-add",
            &switch,
            &port,
            "--",
            "lsp-set-addresses",
            &port,
            &addresses,
        ])?;
        let router_port = format!("router-port={router_port}");
        ovn.nbctl(&[
            "lsp-add",
            &switch,
            &uplink,
            "--",
            "lsp-set-type",
            &uplink,
            "router",
            "--",
            "lsp-set-addresses",
            &uplink,
            "router",
            "--",
            "lsp-set-options",
            &uplink,
            &router_port,
        ])?;
        host.address_pod(&[&format!("10.2.{number}.1/24"), &format!("fd02:{number}::1/64")], &[&v4, &v6])?;
    }
    fabric.plug()
}
