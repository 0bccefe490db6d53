//! A real OVN beside the daemon: what its databases tell, and the policies that rest on it.

mod churn;
mod cni;
mod compared;
mod connections;
mod events;
mod fabric;
mod fragments;
mod plugged;
mod provider;
mod topologies;

use std::time::Duration;

use crate::steer::conntrack::{Connection, in_hardware, most_goes_through_hardware};
use churn::five_hundred_pods_leave_no_port_rule_label_or_memory;
use connections::{
    connections_across_two_chassis_work_with_their_flows_in_hardware,
    translated_connections_through_a_gateway_work_with_their_flows_in_hardware,
};
use events::tracked::{
    a_connection_in_hardware_outlives_flushes_of_conntrack_and_restarts_of_ovn,
    a_connection_stands_still_no_longer_than_without_the_daemon,
};
use events::{
    what_happens_to_ovn_loses_no_more_than_without_the_daemon,
    what_ovn_takes_away_leaves_hardware_and_its_restarts_lose_nothing,
};
use fragments::fragments_through_conntrack_are_lost_as_without_the_daemon;
use lab_tests::harness::{
    Daemon, Failure, Lab, Need, Netns, Outcome, Ovn, Ovs, Receiver, Sender, Simnic, Stream, Test, ensure,
    fact, run, wait_for, wait_until,
};
use plugged::what_each_cni_plugs_is_known_and_carried_in_hardware_and_nothing_of_it_stays;
use serde_json::Value;
use topologies::what_works_across_two_chassis_works_with_its_flows_in_hardware;

pub(crate) const TESTS: &[Test] = &[
    fact!(traffic_between_two_workloads_of_a_node_is_known_as_such_and_stays_in_software)
        .needs(NEEDS)
        .per_release(),
    fact!(what_works_across_two_chassis_works_with_its_flows_in_hardware).needs(NEEDS).per_release(),
    fact!(five_hundred_pods_leave_no_port_rule_label_or_memory).needs(NEEDS).long(),
    fact!(what_ovn_takes_away_leaves_hardware_and_its_restarts_lose_nothing).needs(NEEDS),
    fact!(what_happens_to_ovn_loses_no_more_than_without_the_daemon).needs(NEEDS).long(),
    fact!(what_each_cni_plugs_is_known_and_carried_in_hardware_and_nothing_of_it_stays).needs(NEEDS),
    fact!(the_southbound_database_says_whose_a_port_is_and_is_told_what_the_node_offloads).needs(NEEDS),
    fact!(an_established_connection_through_an_acl_moves_into_the_nic).needs(NEEDS_CT),
    fact!(a_connection_in_hardware_outlives_flushes_of_conntrack_and_restarts_of_ovn).needs(NEEDS_CT),
    fact!(a_connection_stands_still_no_longer_than_without_the_daemon).needs(NEEDS_CT).long(),
    fact!(fragments_through_conntrack_are_lost_as_without_the_daemon).needs(NEEDS_CT).long(),
    fact!(connections_across_two_chassis_work_with_their_flows_in_hardware).needs(NEEDS_CT),
    fact!(translated_connections_through_a_gateway_work_with_their_flows_in_hardware).needs(NEEDS_CT),
];

const NEEDS: &[Need] = &[Need::Simnic, Need::Daemon, Need::Ovn];
const NEEDS_CT: &[Need] = &[Need::Simnic, Need::Daemon, Need::Ovn, Need::Ct];
/// The longest an emulated guest may take until OVN or the daemon has done what it was told.
const DONE_WITHIN: Duration = Duration::from_secs(60);
const PORT: u16 = 7001;
const REFERENCE_POLICY: &str = include_str!("../../packaging/policies/kubernetes.toml");

/// One chassis: two virtual machines behind representors, on one logical switch.
struct Chassis {
    ovn: Ovn,
    ovs: Ovs,
    vms: [Netns; 2],
    nic: Simnic,
}

impl Chassis {
    fn up(lab: &mut Lab) -> Outcome<Self> {
        let ovs = Ovs::for_steering(lab)?;
        let ovn = Ovn::start(lab, &ovs, "127.0.0.1")?;
        let nic = Simnic::new(0, 2)?;
        nic.set_mode("switchdev")?;
        ovn.nbctl(&["ls-add", "blue"])?;
        let vms = [Netns::new(lab, "vm0")?, Netns::new(lab, "vm1")?];
        wait_until("ovn-controller has made its bridge", DONE_WITHIN, || {
            Ok(ovs.vsctl(&["list-br"])?.lines().any(|bridge| bridge == "br-int"))
        })?;
        for (vf, vm) in (0_u32..).zip(&vms) {
            vm.adopt(&nic.vf(vf), &format!("10.0.0.{}/24", vf + 1))?;
            let mac = vm.run(&["cat", &format!("/sys/class/net/{}/address", nic.vf(vf))])?;
            let port = format!("port{vf}");
            let address = format!("{} 10.0.0.{}", mac.trim(), vf + 1);
            ovn.nbctl(&["lsp-add", "blue", &port, "--", "lsp-set-addresses", &port, &address])?;
            let representor = nic.representor(vf);
            run("ip", &["link", "set", &representor, "up"])?;
            let iface_id = format!("external_ids:iface-id={port}");
            ovs.vsctl(&[
                "add-port",
                "br-int",
                &representor,
                "--",
                "set",
                "Interface",
                &representor,
                &iface_id,
            ])?;
        }
        ovn.nbctl(&["--wait=hv", "sync"])?;
        wait_until("the virtual machines reach each other", DONE_WITHIN, || {
            Ok(vms[0].run(&["ping", "-q", "-c", "1", "-W", "1", "10.0.0.2"]).is_ok())
        })?;
        Ok(Self { ovn, ovs, vms, nic })
    }
}

/// The megaflow of the UDP stream from vm0, as our tables have it.
fn flow(daemon: &Daemon) -> Outcome<Option<Value>> {
    let flows = daemon.flows()?;
    let udp = |flow: &Value| flow["key"].as_str().unwrap_or_default().contains("eth_type(0x0800)");
    Ok(flows.into_iter().find(|flow| {
        flow["port"] == "sn0pf0vf0" && udp(flow) && flow["rate"]["software"]["packets"].as_u64() > Some(50)
    }))
}

fn traffic_between_two_workloads_of_a_node_is_known_as_such_and_stays_in_software(lab: &mut Lab) -> Outcome {
    let chassis = Chassis::up(lab)?;
    let receiver = Receiver::start(&chassis.vms[1], &format!("10.0.0.2:{PORT}"))?;
    let to = format!("10.0.0.2:{PORT}");
    let stream =
        Stream { to: &to, count: 1_000_000, rate_per_s: 600, payload_bytes: 1400, ..Stream::default() };
    let sender = Sender::start_stoppable(&chassis.vms[0], stream)?;
    let mode = "mode = \"steer\"\npolicy.min-rate = \"1 Mbit/s\"\n";
    let daemon = Daemon::start(lab, &chassis.ovs, &format!("{mode}{REFERENCE_POLICY}"))?;
    let kept = wait_for("policy keeps the stream in software", DONE_WITHIN, || {
        Ok(flow(&daemon)?.filter(|flow| flow["placement"] == "tc" && flow["reason"] == "policy"))
    })?;
    ensure!(
        (&kept["locality"], &kept["workload"]) == (&"same-node".into(), &"port0".into()),
        "the flow is said to be {kept}"
    );
    wait_for("the traffic is counted as of this node", DONE_WITHIN, || {
        let status = daemon.json(&["status"])?;
        let groups = status["localities"].as_array().into_iter().flatten();
        let same = groups.filter(|group| group["name"] == "same-node");
        let packets: u64 = same.filter_map(|group| group["traffic"]["software"]["packets"].as_u64()).sum();
        Ok((packets > 500).then_some(()))
    })?;
    // Without rules the same stream earns its place.
    daemon.configure(mode)?;
    daemon.ctl(&["reload"])?;
    wait_for("the stream is in hardware", DONE_WITHIN, || {
        let flows = daemon.flows()?;
        Ok(flows.into_iter().find(|flow| {
            flow["port"] == "sn0pf0vf0" && flow["placement"] == "hardware" && flow["locality"] == "same-node"
        }))
    })?;
    let sent = sender.stop()?;
    let received = receiver.finish()?;
    ensure!(received.packets == sent, "of {sent} packets {received:?} arrived");
    Ok(())
}

fn an_established_connection_through_an_acl_moves_into_the_nic(lab: &mut Lab) -> Outcome {
    let chassis = Chassis::up(lab)?;
    let ovn = &chassis.ovn;
    ovn.nbctl(&["acl-add", "blue", "to-lport", "1002", "tcp.dst == 7001", "allow-related"])?;
    ovn.nbctl(&["acl-add", "blue", "to-lport", "1000", "outport == \"port1\" && ip4", "drop"])?;
    ovn.nbctl(&["--wait=hv", "sync"])?;
    let connection = Connection::between(chassis.vms.each_ref(), "10.0.0.2:7001", "10.0.0.2:7001")?;
    let daemon = Daemon::start(lab, &chassis.ovs, "mode = \"steer\"\npolicy.min-rate = \"1 Mbit/s\"\n")?;
    in_hardware(&daemon, "sn0pf0vf0")?;
    most_goes_through_hardware(&connection)?;
    let denied = chassis.vms[0].run(&["ping", "-q", "-c", "1", "-W", "1", "10.0.0.2"]);
    ensure!(denied.is_err(), "what the ACL denies came through: {denied:?}");
    connection.close()
}

/// A port as `port list` has it.
fn port(daemon: &Daemon, name: &str) -> Outcome<Value> {
    let ports = daemon.json(&["port", "list"])?;
    let found = ports.as_array().into_iter().flatten().find(|port| port["name"] == name).cloned();
    found.ok_or_else(|| Failure::new(format!("no port {name}: {ports}")))
}

/// The connection to the Southbound database as the status tells of it.
fn southbound_is_up(daemon: &Daemon) -> Outcome<Option<bool>> {
    let status = daemon.json(&["status"])?;
    let connections = status["connections"].as_array().into_iter().flatten();
    let mut of_it = connections.filter(|connection| connection["name"] == "southbound");
    Ok(of_it.next().and_then(|connection| connection["up"].as_bool()))
}

fn the_southbound_database_says_whose_a_port_is_and_is_told_what_the_node_offloads(lab: &mut Lab) -> Outcome {
    let chassis = Chassis::up(lab)?;
    let ovn = &chassis.ovn;
    let project = "external_ids:neutron\\:project_id=acme";
    ovn.nbctl(&["set", "Logical_Switch_Port", "port0", project])?;
    let published = |key: &str| {
        let answer =
            ovn.sbctl(&["--if-exists", "get", "Chassis", "lab", &format!("external_ids:offloadd-{key}")])?;
        Ok::<_, Failure>(answer.trim().trim_matches('"').to_owned())
    };

    // Unless it is asked for nothing is read there, and nothing written.
    let plain = "mode = \"steer\"\n";
    let asked = format!("{plain}ovn.southbound = \"ovn-remote\"\n");
    let daemon = Daemon::start(lab, &chassis.ovs, plain)?;
    ensure!(southbound_is_up(&daemon)?.is_none(), "the Southbound database is asked without need");
    daemon.configure(&asked)?;
    daemon.ctl(&["reload"])?;
    wait_for("the port has its logical switch and its project", DONE_WITHIN, || {
        let port = port(&daemon, "sn0pf0vf0")?;
        Ok((port["logical_switch"] == "blue" && port["tenant"] == "acme").then_some(()))
    })?;
    ensure!(port(&daemon, "sn0pf0vf1")?["tenant"].is_null(), "a port without a project has a tenant");
    ensure!(published("mode")?.is_empty(), "the row of our chassis was written");

    daemon.configure(&format!("{asked}ovn.publish = \"yes\"\nnic.capacity = 512\n"))?;
    daemon.ctl(&["reload"])?;
    wait_until("our chassis says what it offloads", DONE_WITHIN, || {
        Ok(published("mode")? == "steer" && published("nics")? == "1" && published("entries")? == "512")
    })?;
    // ovn-controller keeps its row up to date, and takes nothing of ours away.
    chassis.ovs.vsctl(&["set", "Open_vSwitch", ".", "external_ids:ovn-bridge-mappings=phys:br-phys"])?;
    wait_until("both say what they have to say", DONE_WITHIN, || {
        let mappings = ovn.sbctl(&["get", "Chassis", "lab", "other_config:ovn-bridge-mappings"])?;
        Ok(mappings.contains("phys:br-phys") && published("mode")? == "steer")
    })?;

    let writes = daemon.log()?.matches("the Southbound database has what this node can offload").count();
    ensure!(writes <= 4, "what the node offloads was written {writes} times");

    ovn.kill_southbound()?;
    wait_until("the loss is shown", DONE_WITHIN, || Ok(southbound_is_up(&daemon)? == Some(false)))?;
    ensure!(port(&daemon, "sn0pf0vf0")?["tenant"] == "acme", "what was known is gone with the connection");
    ovn.restart_southbound()?;
    wait_until("the database is asked again", DONE_WITHIN, || Ok(southbound_is_up(&daemon)? == Some(true)))?;

    daemon.configure(plain)?;
    daemon.ctl(&["reload"])?;
    wait_until("it is asked no more", DONE_WITHIN, || Ok(southbound_is_up(&daemon)?.is_none()))?;
    wait_until("what is not asked any more is not told", DONE_WITHIN, || {
        Ok(port(&daemon, "sn0pf0vf0")?["tenant"].is_null())
    })?;
    wait_until("what was written there is taken back", DONE_WITHIN, || Ok(published("mode")?.is_empty()))?;
    Ok(())
}
