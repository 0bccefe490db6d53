//! Rules of the policy: which flows they keep out of the NIC, and what a reload of them moves.

use lab_tests::harness::{
    Daemon, Demo, Failure, Lab, Outcome, Ovs, Seen, Stream, TcWatch, ensure, wait_for, wait_until,
};
use serde_json::Value;

use super::{
    FAST, FAST_PER_S, PLACED_WITHIN, Traffic, UNTIL_STOPPED, flow_to, in_hardware, set_rule, ufid, version,
};

/// UDP port of the second fast flow.
const OTHER: u16 = 7005;

/// The configuration with a rule that keeps `port` in software, behind one that matches nothing here.
fn with_rule(ovs: &Ovs, port: Option<u16>) -> Outcome<String> {
    let counters = if version(ovs)? < (3, 2) { "fast" } else { "exact" };
    let rule = port.map(|port| {
        format!(
            "[[rule]]\nname = \"no bulk\"\nmatch = 'udp.dst == {port} && inport == \"sn0pf0vf?\"'\nplace = \"software\"\n"
        )
    });
    Ok(format!(
        "mode = \"steer\"\nsteer.counters = \"{counters}\"\npolicy.min-rate = \"1 Mbit/s\"\n\
         [[rule]]\nname = \"of nobody\"\nmatch = 'tcp.dst == 9 && outport == \"sn0p0\"'\nplace = \"hardware\"\n{}",
        rule.unwrap_or_default()
    ))
}

/// How often the filter of a megaflow was made or replaced so far.
fn writes(witness: &TcWatch, flow: &Value) -> Outcome<usize> {
    let ufid = ufid(flow);
    witness.changes(|seen: &Seen| seen.ufid.ends_with(ufid)).map(|seen| seen.len())
}

/// Waits until the flow to `port` is in TC's software path, kept there by policy.
fn in_software(daemon: &Daemon, port: u16) -> Outcome<Value> {
    wait_for(&format!("policy keeps the flow to port {port} in software"), PLACED_WITHIN, || {
        Ok(flow_to(daemon, port)?.filter(|flow| flow["placement"] == "tc" && flow["reason"] == "policy"))
    })
}

/// Flows that the rule decides about now, as `policy show` tells.
fn decided_by(daemon: &Daemon, name: &str) -> Outcome<u64> {
    let rules = daemon.json(&["policy", "show"])?;
    let rule = rules.as_array().into_iter().flatten().find(|rule| rule["name"] == name);
    rule.and_then(|rule| rule["flows"].as_u64())
        .ok_or_else(|| Failure::new(format!("no rule {name}: {rules}")))
}

pub(super) fn a_rule_keeps_a_flow_in_software_and_its_reload_moves_just_that_flow(lab: &mut Lab) -> Outcome {
    let ovs = Ovs::for_steering(lab)?;
    let witness = TcWatch::start()?;
    let demo = Demo::up(&ovs)?;
    for port in [FAST, OTHER] {
        set_rule(&ovs, port, "output:sn0p0")?;
    }
    let stream = |from_port| Stream {
        from_port,
        count: UNTIL_STOPPED,
        rate_per_s: FAST_PER_S / 2,
        payload_bytes: 1400,
        ..Stream::default()
    };
    let traffic =
        [Traffic::start(&demo, FAST, stream(10_001))?, Traffic::start(&demo, OTHER, stream(10_005))?];
    let mut daemon = Daemon::start(lab, &ovs, &with_rule(&ovs, Some(FAST))?)?;

    let other = in_hardware(&daemon, OTHER)?;
    let kept = in_software(&daemon, FAST)?;
    let why = daemon.ctl(&["flow", "why", ufid(&kept)])?;
    ensure!(
        why.contains("Rule 2 \"no bulk\" keeps it in software"),
        "`flow why` does not name the rule:\n{why}"
    );
    let tested = daemon.ctl(&["policy", "test", "--flow", ufid(&kept)])?;
    ensure!(tested.starts_with("place software: rule 2 \"no bulk\"\n"), "`policy test` says\n{tested}");
    ensure!(tested.contains("always     inport == \"sn0pf0vf?\": inport is \"sn0pf0vf0\""), "{tested}");
    let as_printed = ovs.flows("tc")?.into_iter().find(|flow| flow.contains(ufid(&kept)));
    let as_printed = as_printed.ok_or_else(|| Failure::new("Open vSwitch does not list the flow"))?;
    let tested = daemon.ctl(&["policy", "test", "--flow", &as_printed])?;
    ensure!(tested.starts_with("place software: rule 2 \"no bulk\"\n"), "of {as_printed} it says\n{tested}");
    let decided = decided_by(&daemon, "no bulk")?;
    ensure!(decided == 1, "`policy show` says that the rule decides about {decided} flows");

    // Without the rule, by command.
    let before = writes(&witness, &other)?;
    daemon.configure(&with_rule(&ovs, None)?)?;
    daemon.ctl(&["reload"])?;
    in_hardware(&daemon, FAST)?;
    let moved = writes(&witness, &other)? - before;
    ensure!(moved == 0, "the reload had the other flow's filter written {moved} times");

    // The rule is about the other flow now, by signal.
    let fast = in_hardware(&daemon, FAST)?;
    let before = writes(&witness, &fast)?;
    daemon.configure(&with_rule(&ovs, Some(OTHER))?)?;
    daemon.signal("HUP")?;
    in_software(&daemon, OTHER)?;
    let still = flow_to(&daemon, FAST)?.ok_or_else(|| Failure::new("the fast flow is not listed"))?;
    ensure!(still["placement"] == "hardware", "the fast flow became {still}");

    // A mistake changes nothing.
    daemon.configure(&with_rule(&ovs, Some(FAST))?.replace("udp.dst", "udp.dport"))?;
    let refused = daemon.ctl(&["reload"]).err().map(|failure| failure.to_string()).unwrap_or_default();
    ensure!(refused.contains("did you mean \"udp.dst\"?"), "the reload of a mistake says {refused:?}");
    let arrived = traffic[0].receiver.so_far().packets;
    wait_until("five hundred more packets have come", PLACED_WITHIN, || {
        Ok(traffic[0].receiver.so_far().packets >= arrived + 500)
    })?;
    ensure!(decided_by(&daemon, "no bulk")? == 1, "the rule is not in force any more");
    let moved = writes(&witness, &fast)? - before;
    ensure!(moved == 0, "the reloads had the fast flow's filter written {moved} times");
    for traffic in traffic {
        let (sent, lost) = traffic.stop()?;
        ensure!(lost == 0, "of {sent} packets {lost} were lost");
    }
    Ok(())
}
