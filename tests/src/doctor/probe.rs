//! `doctor --probe PORT`: what it tells, what it leaves alone, and what the daemon makes of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;
use std::time::Duration;

use lab_tests::ensure;
use lab_tests::harness::{
    Daemon, Demo, Failure, Lab, Need, Outcome, Ovs, Seen, SentByVf, TcWatch, netlink_sockets, run, wait_for,
    wait_until,
};
use ovs_offloadd::doctor::complaints;
use serde_json::Value;
use tc_flower::Change;

use super::complaint::shell;
use crate::faults::scene::{EAGER, FIRST, Flows, NIC, PORT, SETTLES_WITHIN, in_hardware};

/// The port that the traffic of these tests comes in by.
const REPRESENTOR: &str = "sn0pf0vf0";
/// Where filters are tried.
const SCRATCH_CHAIN: u64 = 0x0fff_fff0;
/// The longest a probe is waited for to have a filter in the NIC.
const TRIES_WITHIN: Duration = Duration::from_secs(60);

pub(super) fn probe_of(ovs: &Ovs, arguments: &[&str]) -> Command {
    let mut command = ovs.command("ovs-offloadctl");
    command.args(["doctor", "--output", "json", "--probe"]).args(arguments);
    command
}

/// What a probe of the representor sees.
pub(super) fn probe(ovs: &Ovs) -> Outcome<Value> {
    let text = lab_tests::harness::output(&mut probe_of(ovs, &[REPRESENTOR]))?;
    Ok(serde_json::from_str(&text)?)
}

/// The outcome of one filter, and the words to it.
pub(super) fn outcome(matrix: &Value, id: &str) -> Outcome<(String, String)> {
    let tried = matrix["tried"].as_array().into_iter().flatten().find(|tried| tried["id"] == id);
    let tried = tried.ok_or_else(|| Failure::new(format!("the matrix has no {id}: {matrix}")))?;
    let word = |field: &str| tried[field].as_str().unwrap_or_default().to_owned();
    Ok((word("outcome"), word("text")))
}

/// What a probe that is refused says, and that it ends with 1.
fn refusal(ovs: &Ovs, arguments: &[&str]) -> Outcome<String> {
    let ended = probe_of(ovs, arguments).output()?;
    ensure!(ended.status.code() == Some(1), "a probe of {arguments:?} ended with {}", ended.status);
    Ok(String::from_utf8_lossy(&ended.stderr).into_owned())
}

/// Filters of the representor in a chain, as `tc` shows them.
fn in_chain(chain: u64) -> Outcome<usize> {
    let filters = run("tc", &["filter", "show", "dev", REPRESENTOR, "ingress", "chain", &chain.to_string()])?;
    Ok(filters.matches(" handle ").count())
}

/// Packets of each rule in the NIC of what vm0 sends by UDP, by its cookie. What the other hosts say by themselves has rules, too,
/// which come and go.
fn live_rules() -> Outcome<BTreeMap<String, u64>> {
    let rules = NIC.rules()?;
    let is_live = |line: &&str| line.starts_with("port pf0vf0 ") && line.contains("ports");
    let of_line = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let after = |word: &str| Some(*words.get(words.iter().position(|known| *known == word)? + 1)?);
        Some((after("cookie")?.to_owned(), after("packets")?.parse().ok()?))
    };
    Ok(rules.lines().filter(is_live).filter_map(of_line).collect())
}

pub(super) fn a_probe_tells_what_a_driver_takes_and_no_packet_is_treated_otherwise(lab: &mut Lab) -> Outcome {
    const FLOWS: u32 = 20;
    let ovs = Ovs::for_steering(lab)?;
    let witness = TcWatch::start()?;
    let demo = Demo::up(&ovs)?;
    demo.hush_vm0()?;
    Flows::new(FLOWS).one_megaflow_each(lab, &ovs, "output:sn0p0")?;
    let traffic = Flows::new(FLOWS).start(&demo, 200)?;
    let daemon = Daemon::start(lab, &ovs, EAGER)?;
    in_hardware(&daemon, &ovs, u64::from(FLOWS))?;
    wait_until("all flows of vm0 are in hardware", SETTLES_WITHIN, || {
        Ok(live_rules()?.len() >= FLOWS as usize)
    })?;
    NIC.set("refuse", "match tcp_flags this firmware sees no flags")?;
    NIC.set("refuse", "action vlan_push this firmware tags nothing")?;

    let (before, sent_before, seen_before) = (live_rules()?, SentByVf::read(REPRESENTOR)?, witness.len());
    let matrix = probe(&ovs)?;
    let (after, sent) = (live_rules()?, SentByVf::read(REPRESENTOR)?.since(sent_before));
    // Which match or action is "not supported", and why.
    let told = complaints::COMPLAINTS.iter().find(|complaint| complaint.heard == "ovn-kubernetes#839");
    ensure!(told.is_some_and(|told| told.finding == complaints::PROBE), "the table has it otherwise");
    what_it_says(&matrix)?;

    // The rules of live traffic are there as before and went on counting, and the NIC forwarded what it forwarded.
    for (cookie, packets) in &before {
        let now = after.get(cookie);
        ensure!(
            now.is_some_and(|now| now >= packets),
            "rule {cookie}: {packets} packets before, {now:?} after"
        );
    }
    ensure!(sent.hardware > 0 && sent.slow <= sent.hardware / 20, "while probed, {sent:?}");
    ensure!(in_chain(SCRATCH_CHAIN)? == 0, "the probe left filters");
    let others: BTreeSet<u32> = &netlink_sockets(daemon.pid())? | &vswitchd_sockets(&ovs)?;
    let changes = witness.changes(|_| true)?.split_off(seen_before);
    let of_probe: Vec<_> = changes.iter().filter(|seen| !others.contains(&seen.portid)).collect();
    let astray = of_probe.iter().find(|seen| u64::from(seen.address.chain.0) != SCRATCH_CHAIN);
    ensure!(astray.is_none(), "the probe changed {astray:?}");
    ensure!(of_probe.len() > 100, "the witness saw {} changes of the probe", of_probe.len());
    println!("    {} changes in the scratch chain, {sent:?}", of_probe.len());

    where_it_would_disturb_it_is_refused(&ovs)?;
    what_a_killed_one_left_is_removed(&ovs)?;
    let (sent, lost) = traffic.stop()?;
    ensure!(lost == 0, "of {sent} packets {lost} were lost");
    Ok(())
}

/// Of a driver that takes no tags, no TCP flags, and conntrack on a kernel that has what it takes.
fn what_it_says(matrix: &Value) -> Outcome {
    let release = run("uname", &["-r"])?;
    ensure!(matrix["kernel"] == release.trim() && matrix["driver"] == "simnic", "the matrix is of {matrix}");
    let firmware = matrix["firmware"].as_str().unwrap_or_default();
    let info = run("devlink", &["dev", "info", &NIC.devlink()])?;
    ensure!(!firmware.is_empty() && info.contains(firmware), "firmware {firmware:?} is told, and {info}");
    ensure!(
        matrix["port"]["role"] == "representor" && matrix["toward"]["name"] == "sn0p0",
        "the matrix is of {matrix}"
    );
    let says = |id: &str, expected: &str, words: &str| -> Outcome {
        let (outcome, text) = outcome(matrix, id)?;
        ensure!(outcome == expected && text.contains(words), "{id} is {outcome}: {text}");
        Ok(())
    };
    for taken in [
        "ip, drop",
        "ip, output",
        "ip4.src masked",
        "ip6.dst",
        "udp.dst masked",
        "vlan.vid",
        "later ip4 fragment",
        "goto chain",
        "mirror",
        "vlan pop",
        "set ip4.src",
        "set tcp.dst",
        "decrement ip4.ttl",
        "route, output",
    ] {
        says(taken, "taken", "")?;
    }
    says("tcp.flags", "refused", "this firmware sees no flags")?;
    says("tcp.flags masked", "refused", "this firmware sees no flags")?;
    says("vlan push", "refused", "this firmware tags nothing")?;
    says("mirror, vlan push, output", "refused", "this firmware tags nothing")?;
    for tracking in ["ct", "ct_state +est"] {
        match Need::Ct.lacking() {
            Some(_) => says(tracking, "refused", "conntrack needs a kernel with CONFIG_NET_TC_SKB_EXT")?,
            None => says(tracking, "taken", "")?,
        }
    }
    says("police bytes", "refused", "police action is not supported")?;
    says("police packets", "refused", "police action is not supported")?;
    says("tcp.dst range", "refused", "match on port ranges is not supported")?;
    says("tun.tos", "not_tried", "no tunnel device")?;
    let failed =
        matrix["tried"].as_array().into_iter().flatten().filter(|tried| tried["outcome"] == "failed");
    let failed: Vec<_> = failed.collect();
    ensure!(failed.is_empty(), "the kernel could not read {failed:?}");
    Ok(())
}

fn vswitchd_sockets(ovs: &Ovs) -> Outcome<BTreeSet<u32>> {
    let pid = fs::read_to_string(ovs.rundir().join("ovs-vswitchd.pid"))?;
    netlink_sockets(pid.trim().parse()?)
}

fn where_it_would_disturb_it_is_refused(ovs: &Ovs) -> Outcome {
    let in_use = format!(
        "tc filter add dev {REPRESENTOR} ingress chain 77 prio 1 protocol ip flower skip_hw action drop"
    );
    shell(ovs, &in_use)?;
    let why = refusal(ovs, &[REPRESENTOR, "--chain", "77"])?;
    ensure!(why.contains("chain 77 is in use"), "the probe says: {why}");
    ensure!(in_chain(77)? == 1, "the filter of others in the chain is gone");
    shell(ovs, &format!("tc filter del dev {REPRESENTOR} ingress chain 77"))?;
    for (port, expected) in
        [("sn0v2", "neither uplink nor representor"), ("nobody", "there is no network device nobody")]
    {
        let why = refusal(ovs, &[port])?;
        ensure!(why.contains(expected), "of {port} the probe says: {why}");
    }
    shell(ovs, "ethtool -K sn0pf0vf3 hw-tc-offload off")?;
    let why = refusal(ovs, &["sn0pf0vf3"])?;
    ensure!(why.contains("ethtool -K sn0pf0vf3 hw-tc-offload on"), "the probe says: {why}");
    // Open vSwitch leaves the qdisc of a port that it gives up.
    shell(
        ovs,
        "ethtool -K sn0pf0vf3 hw-tc-offload on && ovs-vsctl del-port br0 sn0pf0vf3 && tc qdisc del dev sn0pf0vf3 ingress",
    )?;
    let why = refusal(ovs, &["sn0pf0vf3"])?;
    ensure!(why.contains("has no ingress qdisc"), "the probe says: {why}");
    ensure!(!run("tc", &["qdisc", "show", "dev", "sn0pf0vf3"])?.contains("clsact"), "the probe made a qdisc");
    shell(ovs, "ovs-vsctl add-port br0 sn0pf0vf3")
}

/// Kills a probe while the NIC is at work on one of its filters; the next one finds what is left.
fn what_a_killed_one_left_is_removed(ovs: &Ovs) -> Outcome {
    NIC.set("install_delay_us", "100000")?;
    let mut killed = probe_of(ovs, &[REPRESENTOR]).stdout(std::process::Stdio::null()).spawn()?;
    // It has noted where its filters are, and the NIC takes 100 ms for each.
    let note = ovs.rundir().join("ovs-offloadd.probe.lock");
    let tried = wait_until("the probe installs filters", TRIES_WITHIN, || Ok(fs::metadata(&note)?.len() > 0));
    let another = refusal(ovs, &[REPRESENTOR]);
    killed.kill()?;
    killed.wait()?;
    tried?;
    let another = another?;
    ensure!(another.contains("another probe runs"), "beside a running one, a probe says: {another}");
    NIC.set("install_delay_us", "0")?;
    let left = in_chain(SCRATCH_CHAIN)? as u64;
    let matrix = probe(ovs)?;
    println!("    the killed probe left {left} filters");
    ensure!(
        matrix["left_over"] == left,
        "{left} filters were left, and the next probe says {}",
        matrix["left_over"]
    );
    ensure!(in_chain(SCRATCH_CHAIN)? == 0, "filters of a killed probe are left");
    // A filter that such a one leaves, whenever it is killed.
    let left = format!(
        "tc filter add dev {REPRESENTOR} ingress chain {SCRATCH_CHAIN} prio 1 handle 0x6f767062 protocol ip flower skip_sw action drop"
    );
    shell(ovs, &left)?;
    let matrix = probe(ovs)?;
    ensure!(matrix["left_over"] == 1 && in_chain(SCRATCH_CHAIN)? == 0, "what was left stays: {matrix}");
    Ok(())
}

/// The flow to a UDP port as the daemon shows it.
fn flow_to(daemon: &Daemon, port: u16) -> Outcome<Option<Value>> {
    let to = format!("dst={port})");
    let is_it = |flow: &Value| flow["key"].as_str().is_some_and(|key| key.contains(&to));
    Ok(daemon.flows()?.into_iter().find(is_it))
}

/// Waits until the daemon has such a flow with this placement and reason.
fn wait_flow(daemon: &Daemon, port: u16, placement: &str, reason: &str) -> Outcome<Value> {
    wait_for(&format!("the flow to {port} is in {placement} for {reason:?}"), SETTLES_WITHIN, || {
        let flow = flow_to(daemon, port)?.ok_or_else(|| Failure::new("it is not listed"))?;
        let is_so = flow["placement"] == placement && (reason.is_empty() || flow["reason"] == reason);
        if is_so { Ok(Some(flow)) } else { Err(Failure::new(format!("it is {flow}"))) }
    })
}

pub(super) fn a_rule_with_what_a_probe_saw_refused_is_not_tried_until_that_is_forgotten(
    lab: &mut Lab,
) -> Outcome {
    const WORDS: &str = "this firmware does not look at ports";
    let ovs = Ovs::for_steering(lab)?;
    let witness = TcWatch::start()?;
    let demo = Demo::up(&ovs)?;
    demo.hush_vm0()?;
    NIC.set("refuse", &format!("match ports {WORDS}"))?;
    // Of this flow: others, such as those of neighbour discovery, may be refused for other reasons.
    let asked = |flow: &Value| -> Outcome<usize> {
        let ufid = flow["ufid"].as_str().unwrap_or_default().trim_start_matches("ufid:").to_owned();
        let into_hardware = |seen: &Seen| seen.ufid.ends_with(&ufid) && !seen.skip_hw;
        Ok(witness.changes(|seen| seen.change == Change::New && into_hardware(seen))?.len())
    };
    // With no daemon running: the next one reads what was kept.
    probe(&ovs)?;
    let mut daemon = Daemon::start(lab, &ovs, EAGER)?;
    Flows::new(1).one_megaflow_each(lab, &ovs, "output:sn0p0")?;
    let traffic = Flows::new(1).start(&demo, 200)?;
    let flow = wait_flow(&daemon, PORT, "tc", "probed")?;
    let why = daemon.ctl(&["flow", "why", flow["ufid"].as_str().unwrap_or_default()])?;
    ensure!(
        why.contains("a probe saw the driver refuse udp.") && why.contains(WORDS),
        "`flow why` does not quote the probe:\n{why}"
    );
    let seen = traffic.receiver.so_far().packets;
    wait_until("five hundred more packets have come", SETTLES_WITHIN, || {
        Ok(traffic.receiver.so_far().packets >= seen + 500)
    })?;
    let more = asked(&flow)?;
    ensure!(more == 0, "the driver was asked {more} times what it was seen to refuse");

    // A new probe that sees it taken, with the daemon running.
    NIC.set("refuse", "clear")?;
    probe(&ovs)?;
    let flow = wait_flow(&daemon, PORT, "hardware", "")?;
    wait_until("the witness hears of it", SETTLES_WITHIN, || Ok(asked(&flow)? > 0))?;

    // A reload forgets: the driver is asked itself.
    NIC.set("refuse", &format!("match ports {WORDS}"))?;
    probe(&ovs)?;
    let second = Flows { from: FIRST + 1, count: 1, to: PORT + 1 };
    second.one_megaflow_each(lab, &ovs, "output:sn0p0")?;
    let more_traffic = second.start(&demo, 200)?;
    wait_flow(&daemon, PORT + 1, "tc", "probed")?;
    NIC.set("refuse", "clear")?;
    daemon.ctl(&["reload"])?;
    wait_flow(&daemon, PORT + 1, "hardware", "")?;
    let kept = ovs.rundir().join("ovs-offloadd.probes/simnic+simnic0+representor.json");
    ensure!(!kept.exists(), "{} is there after a reload", kept.display());

    // What was seen of other firmware says nothing of this one.
    NIC.set("refuse", &format!("match ports {WORDS}"))?;
    probe(&ovs)?;
    daemon.signal("TERM")?;
    let mut matrix: Value = serde_json::from_str(&fs::read_to_string(&kept)?)?;
    matrix["firmware"] = "of yesterday".into();
    fs::write(&kept, serde_json::to_string(&matrix)?)?;
    daemon.restart()?;
    let third = Flows { from: FIRST + 2, count: 1, to: PORT + 2 };
    third.one_megaflow_each(lab, &ovs, "output:sn0p0")?;
    let last_traffic = third.start(&demo, 200)?;
    wait_flow(&daemon, PORT + 2, "tc", "driver")?;
    for traffic in [traffic, more_traffic, last_traffic] {
        let (sent, lost) = traffic.stop()?;
        ensure!(lost == 0, "of {sent} packets {lost} were lost");
    }
    Ok(())
}
