//! A NIC that is full, that refuses, that is slow.

use std::time::Duration;

use lab_tests::harness::{
    Daemon, Demo, Failure, Lab, Outcome, Ovs, Seen, TcWatch, ensure, ethtool_counters, wait_for, wait_until,
};
use serde_json::Value;
use tc_flower::Change;

use super::scene::{EAGER, FIRST, Flows, NIC, PORT, SETTLES_WITHIN, in_hardware, status};

mod learned;
pub(super) use learned::installs_per_s_are_half_of_what_the_driver_manages;

/// Rules that simnic's table takes, and flows that want one.
const TABLE: u64 = 64;
const FLOWS: u32 = 1000;
/// The longest an answer may take while the NIC misbehaves. What starts the tool in an emulated guest is part of it.
const ANSWERS_WITHIN: Duration = Duration::from_secs(3);

fn counter(name: &str) -> Outcome<u64> {
    let counters = ethtool_counters("sn0p0")?;
    counters.get(name).copied().ok_or_else(|| Failure::new(format!("ethtool -S shows no {name}")))
}

/// The view of the NIC in `status`.
fn nic(status: &Value) -> Outcome<&Value> {
    status["nics"].get(0).ok_or_else(|| Failure::new(format!("`status` shows no NIC: {status}")))
}

fn refusals(status: &Value) -> Vec<(String, String, u64)> {
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let refused = status["refused"].as_array().cloned().unwrap_or_default();
    refused
        .iter()
        .map(|one| (word(&one["reason"]), word(&one["text"]), one["flows"].as_u64().unwrap_or_default()))
        .collect()
}

/// The flows to this UDP port, as our tables have them.
fn to_port(daemon: &Daemon, port: u16) -> Outcome<Vec<Value>> {
    let to = format!("dst={port})");
    let mut flows = daemon.flows()?;
    flows.retain(|flow| flow["key"].as_str().unwrap_or_default().contains(&to));
    Ok(flows)
}

fn bare_ufid(flow: &Value) -> String {
    flow["ufid"].as_str().unwrap_or_default().trim_start_matches("ufid:").to_owned()
}

pub(super) fn a_full_table_is_reported_and_its_growth_is_used(lab: &mut Lab) -> Outcome {
    let ovs = Ovs::for_steering(lab)?;
    let demo = Demo::up(&ovs)?;
    NIC.set("table_size", &TABLE.to_string())?;
    // As many fast flows as there are entries, and many slow ones that are worth an entry, too.
    let fast = Flows::new(TABLE as u32);
    let slow = Flows { from: FIRST + 100, count: FLOWS - fast.count, to: PORT + 1 };
    let mut traffic = Vec::new();
    for (flows, rate_per_s) in [(fast, 500), (slow, 600)] {
        flows.one_megaflow_each(lab, &ovs, "NORMAL")?;
        traffic.push(flows.start(&demo, rate_per_s)?);
    }
    wait_until("Open vSwitch has put the flows in TC", SETTLES_WITHIN, || {
        let flows = ovs.flows("tc")?.len();
        (flows >= FLOWS as usize).then_some(true).ok_or_else(|| Failure::new(format!("{flows} are there")))
    })?;
    let daemon = Daemon::start(lab, &ovs, EAGER)?;
    in_hardware(&daemon, &ovs, TABLE)?;
    wait_for("the capacity is learned and the flows without an entry have a reason", SETTLES_WITHIN, || {
        let (status, _) = status(&daemon, &ovs)?;
        let nic = nic(&status)?;
        let learned = nic["capacity_learned"] == true && nic["capacity"] == TABLE;
        let waiting: u64 = status["flows"]["software_by_reason"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|count| ["waiting", "table_full"].iter().any(|reason| count["reason"] == *reason))
            .filter_map(|count| count["flows"].as_u64())
            .sum();
        if learned && waiting >= u64::from(FLOWS) - TABLE - 10 {
            return Ok(Some(()));
        }
        Err(Failure::new(format!("{status}")))
    })?;
    let text = daemon.ctl(&["status"])?;
    ensure!(text.contains("64 (learned)"), "`status` does not show what was learned:\n{text}");
    // Whatever the planner tries while nothing changes: a few probes, no churn.
    let (installs, refused) = (counter("hw_installs")?, counter("hw_refusals")?);
    let begin = std::time::Instant::now();
    let mut most = 0;
    while begin.elapsed() < Duration::from_secs(4) {
        let (status, took) = status(&daemon, &ovs)?;
        ensure!(took < ANSWERS_WITHIN, "`status` took {took:?}");
        most = most.max(status["flows"]["hardware"].as_u64().unwrap_or_default());
    }
    let (more, asked) = (counter("hw_installs")? - installs, counter("hw_refusals")? - refused);
    println!("full table: in {:?} {more} installs, {asked} refusals", begin.elapsed());
    ensure!(most <= TABLE, "{most} flows were said to be in a table of {TABLE}");
    ensure!(more <= TABLE && asked <= TABLE, "{more} installs and {asked} refusals in 4 s: a storm");
    NIC.set("table_size", "65536")?;
    in_hardware(&daemon, &ovs, TABLE * 4)?;
    for traffic in traffic {
        let (sent, lost) = traffic.stop()?;
        ensure!(lost == 0, "of {sent} packets {lost} were lost");
    }
    Ok(())
}

pub(super) fn a_refusing_driver_is_quoted_and_asked_after_a_reload(lab: &mut Lab) -> Outcome {
    const WORDS: &str = "this firmware does not look at ports";
    let ovs = Ovs::for_steering(lab)?;
    let witness = TcWatch::start()?;
    let demo = Demo::up(&ovs)?;
    NIC.set("refuse", &format!("match ports {WORDS}"))?;
    Flows::new(1).one_megaflow_each(lab, &ovs, "NORMAL")?;
    let daemon = Daemon::start(lab, &ovs, EAGER)?;
    let traffic = Flows::new(1).start(&demo, 200)?;
    let flow = wait_for("`status` quotes the driver", SETTLES_WITHIN, || {
        let (status, _) = status(&daemon, &ovs)?;
        let quoted = refusals(&status)
            .iter()
            .any(|(reason, text, flows)| reason == "driver" && text.contains(WORDS) && *flows >= 1);
        // Other refused flows there may be: those of multicast that go to every port.
        let flow = to_port(&daemon, PORT)?.into_iter().find(|flow| flow["reason"] == "driver");
        if let (true, Some(flow)) = (quoted, flow) {
            return Ok(Some(flow));
        }
        Err(Failure::new(format!("{status}")))
    })?;
    let ufid = bare_ufid(&flow);
    let why = daemon.ctl(&["flow", "why", &ufid])?;
    ensure!(why.contains(WORDS), "`flow why` does not quote the driver:\n{why}");
    wait_until("the refused filter has its skip_hw back", SETTLES_WITHIN, || {
        let filters = lab_tests::harness::run("tc", &["filter", "show", "dev", "sn0pf0vf0", "ingress"])?;
        let ports = filters.split("filter protocol").find(|filter| filter.contains("dst_port 7000"));
        let restored = ports.is_some_and(|filter| filter.contains("skip_hw"));
        restored.then_some(true).ok_or_else(|| Failure::new(filters.clone()))
    })?;
    // Of this flow: others, such as those of neighbour discovery, may ask for the first time meanwhile.
    let asked = || {
        let into_hardware = |seen: &Seen| seen.ufid.ends_with(&ufid) && !seen.skip_hw;
        witness.changes(|seen| seen.change == Change::New && into_hardware(seen)).map(|asked| asked.len())
    };
    wait_until("the witness has seen the attempt to place it", SETTLES_WITHIN, || Ok(asked()? > 0))?;
    let (before, seen) = (asked()?, traffic.receiver.so_far().packets);
    wait_until("five hundred more packets have come", SETTLES_WITHIN, || {
        Ok(traffic.receiver.so_far().packets >= seen + 500)
    })?;
    let again = asked()? - before;
    ensure!(again == 0, "the driver was asked {again} times more meanwhile");
    NIC.set("refuse", "clear")?;
    daemon.ctl(&["reload"])?;
    let is_it = |flow: &Value| flow["ufid"].as_str().is_some_and(|name| name.ends_with(&ufid));
    wait_until("the flow is in hardware", SETTLES_WITHIN, || {
        let flows = daemon.flows()?;
        Ok(flows.iter().any(|flow| flow["placement"] == "hardware" && is_it(flow)))
    })?;
    let (sent, lost) = traffic.stop()?;
    ensure!(lost == 0, "of {sent} packets {lost} were lost");
    Ok(())
}

pub(super) fn no_more_rules_of_a_refused_shape_are_tried(lab: &mut Lab) -> Outcome {
    const FIRST_FLOWS: u32 = 10;
    const OTHERS: u32 = 40;
    let ovs = Ovs::for_steering(lab)?;
    let witness = TcWatch::start()?;
    let demo = Demo::up(&ovs)?;
    NIC.set("refuse", "match ports this firmware does not look at ports")?;
    let first = Flows::new(FIRST_FLOWS);
    first.one_megaflow_each(lab, &ovs, "NORMAL")?;
    let daemon = Daemon::start(lab, &ovs, EAGER)?;
    let mut traffic = vec![first.start(&demo, 100)?];
    let refused = |flows: u32, to: u16, reasons: &[&str]| {
        wait_for(&format!("{flows} flows to port {to} are refused for {reasons:?}"), SETTLES_WITHIN, || {
            let mut of_these = to_port(&daemon, to)?;
            of_these.retain(|flow| reasons.iter().any(|reason| flow["reason"] == *reason));
            if of_these.len() >= flows as usize {
                return Ok(Some(of_these));
            }
            Err(Failure::new(format!("{} are", of_these.len())))
        })
    };
    // Into hardware, as the kernel told everybody.
    let asked = |flows: &[Value]| {
        let ufids: Vec<String> = flows.iter().map(bare_ufid).collect();
        let is_of_these = |seen: &Seen| ufids.iter().any(|ufid| seen.ufid.ends_with(ufid.as_str()));
        witness
            .changes(|seen| seen.change == Change::New && !seen.skip_hw && is_of_these(seen))
            .map(|asked| asked.len())
    };
    let teachers = refused(FIRST_FLOWS, PORT, &["driver", "shape"])?;
    // The witness has a thread of its own, and may hear of it later than the daemon.
    let taught = wait_for("the driver was asked often enough to blame the shape", SETTLES_WITHIN, || {
        let taught = asked(&teachers)?;
        if taught >= 3 { Ok(Some(taught)) } else { Err(Failure::new(format!("{taught} times"))) }
    })?;
    let others = Flows { from: FIRST + 100, count: OTHERS, to: PORT + 1 };
    others.one_megaflow_each(lab, &ovs, "NORMAL")?;
    traffic.push(others.start(&demo, 200)?);
    let more = asked(&refused(OTHERS, PORT + 1, &["shape"])?)?;
    println!("    {taught} refusals taught it; {OTHERS} more flows of the shape: {more}");
    ensure!(
        more == 0,
        "the driver was asked {more} times more for a shape that it had refused {taught} times"
    );
    for traffic in traffic {
        let (sent, lost) = traffic.stop()?;
        ensure!(lost == 0, "of {sent} packets {lost} were lost");
    }
    Ok(())
}

pub(super) fn the_daemon_answers_while_the_driver_is_slow(lab: &mut Lab) -> Outcome {
    /// Microseconds for one rule: what is slow for a NIC, and what is broken.
    const DELAYS_US: [u32; 2] = [300, 5_000];
    const SLOW_FLOWS: u32 = 200;
    let ovs = Ovs::for_steering(lab)?;
    let demo = Demo::up(&ovs)?;
    Flows::new(SLOW_FLOWS).one_megaflow_each(lab, &ovs, "NORMAL")?;
    let traffic = Flows::new(SLOW_FLOWS).start(&demo, 400)?;
    let daemon = Daemon::start(lab, &ovs, EAGER)?;
    for delay in DELAYS_US {
        daemon.ctl(&["drain"])?;
        wait_until("the hardware is empty", SETTLES_WITHIN, || {
            Ok(status(&daemon, &ovs)?.0["flows"]["hardware"] == 0)
        })?;
        NIC.set("install_delay_us", &delay.to_string())?;
        daemon.ctl(&["drain", "--off"])?;
        let mut longest = Duration::ZERO;
        wait_until("the flows are in hardware", SETTLES_WITHIN, || {
            let (status, took) = status(&daemon, &ovs)?;
            longest = longest.max(took);
            let placed = status["flows"]["hardware"].as_u64().unwrap_or_default();
            (placed >= u64::from(SLOW_FLOWS))
                .then_some(true)
                .ok_or_else(|| Failure::new(format!("{placed} are")))
        })?;
        println!("install_delay_us {delay}: `status` took at most {longest:?}");
        ensure!(longest < ANSWERS_WITHIN, "`status` took {longest:?} with {delay} us for a rule");
        NIC.set("install_delay_us", "0")?;
    }
    let (sent, lost) = traffic.stop()?;
    ensure!(lost == 0, "of {sent} packets {lost} were lost");
    Ok(())
}
