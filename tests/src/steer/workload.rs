//! Rules that ask whose a flow is: told by OVSDB alone, and followed when that changes.

use lab_tests::harness::{Demo, Lab, Outcome, Ovs, ensure, wait_for};
use serde_json::Value;

use super::{Daemon, FAST, PLACED_WITHIN, Traffic, config, flow_to, in_hardware, set_rule, ufid};

/// Workloads of this namespace stay in software when they talk to what is outside.
const RULE: &str = "[[rule]]\nname = \"batch\"\nmatch = 'namespace == \"batch\" && locality == \"external\"'\n\
                    place = \"software\"\n";

/// Plugs the VF's representor as Kube-OVN does.
fn plug(ovs: &Ovs, namespace: &str) -> Outcome {
    let ids = [
        "external_ids:vendor=kube-ovn",
        &format!("external_ids:iface-id=web-0.{namespace}"),
        "external_ids:pod_name=web-0",
        &format!("external_ids:pod_namespace={namespace}"),
    ];
    ovs.vsctl(&[&["set", "Interface", "sn0pf0vf0"], &ids[..]].concat()).map(drop)
}

/// What the status says that a namespace's workloads moved, in packets.
fn packets_of(daemon: &Daemon, namespace: &str) -> Outcome<u64> {
    let status = daemon.json(&["status"])?;
    let groups = status["namespaces"].as_array().into_iter().flatten();
    let of = |group: &Value, placement: &str| group["traffic"][placement]["packets"].as_u64().unwrap_or(0);
    Ok(groups
        .filter(|group| group["name"] == namespace)
        .map(|group| of(group, "hardware") + of(group, "software"))
        .sum())
}

pub(super) fn a_rule_follows_the_namespace_that_the_database_gives_a_port(lab: &mut Lab) -> Outcome {
    let ovs = Ovs::for_steering(lab)?;
    let demo = Demo::up(&ovs)?;
    set_rule(&ovs, FAST, "output:sn0p0")?;
    plug(&ovs, "batch")?;
    let traffic = Traffic::fast(&demo)?;
    let daemon = Daemon::start(lab, &ovs, &(config(&ovs)? + RULE))?;

    let kept = wait_for("the rule keeps the pod's flow in software", PLACED_WITHIN, || {
        Ok(flow_to(&daemon, FAST)?.filter(|flow| flow["placement"] == "tc" && flow["reason"] == "policy"))
    })?;
    ensure!(
        (&kept["locality"], &kept["workload"], &kept["namespace"], &kept["tenant"])
            == (&"external".into(), &"web-0".into(), &"batch".into(), &"batch".into()),
        "the flow is said to be {kept}"
    );
    let why = daemon.ctl(&["flow", "why", ufid(&kept)])?;
    ensure!(why.contains("external, workload batch/web-0, tenant batch"), "`flow why` says\n{why}");
    let ports = daemon.json(&["port", "list"])?;
    let port = ports.as_array().into_iter().flatten().find(|port| port["name"] == "sn0pf0vf0");
    ensure!(
        port.is_some_and(|port| port["workload"] == "batch/web-0" && port["orchestrator"] == "kube-ovn"),
        "`port list` says {ports}"
    );

    // What a flow moved is known from its second reading on, and counts for the namespace that it has by then.
    let counted = |namespace: &str| {
        wait_for(&format!("packets of {namespace} are counted"), PLACED_WITHIN, || {
            Ok((packets_of(&daemon, namespace)? > 0).then_some(()))
        })
    };
    counted("batch")?;
    // No reload, no command: the database says otherwise.
    plug(&ovs, "gold")?;
    let placed = in_hardware(&daemon, FAST)?;
    ensure!(placed["namespace"] == "gold", "the flow is said to be {placed}");
    counted("gold")?;
    plug(&ovs, "batch")?;
    wait_for("the rule takes the flow out of hardware again", PLACED_WITHIN, || {
        Ok(flow_to(&daemon, FAST)?.filter(|flow| flow["placement"] == "tc" && flow["reason"] == "policy"))
    })?;
    let (sent, lost) = traffic.stop()?;
    ensure!(lost == 0, "of {sent} packets {lost} were lost");
    Ok(())
}
