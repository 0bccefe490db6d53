//! The event log: what the engine was told and wanted, read again by the engine.

use std::fs;

use lab_tests::harness::{Demo, Lab, Outcome, Ovs, ensure, wait_until};
use serde_json::Value;

use super::{FAST, PLACED_WITHIN, Traffic, flow_to, in_hardware, set_rule, start_recording_daemon};

pub(super) fn what_was_recorded_while_flows_moved_replays_the_same(lab: &mut Lab) -> Outcome {
    let ovs = Ovs::for_steering(lab)?;
    let demo = Demo::up(&ovs)?;
    set_rule(&ovs, FAST, "output:sn0p0")?;
    let traffic = Traffic::fast(&demo)?;
    let log = lab.dir().join("events.jsonl");
    let log = log.to_str().unwrap_or_default();
    let mut daemon = start_recording_daemon(lab, &ovs, log)?;
    in_hardware(&daemon, FAST)?;
    daemon.ctl(&["drain"])?;
    wait_until("the flow is in software", PLACED_WITHIN, || {
        Ok(flow_to(&daemon, FAST)?.is_some_and(|flow| flow["placement"] == "tc"))
    })?;
    daemon.signal("TERM")?;
    traffic.stop()?;
    let replayed: Value = serde_json::from_str(&daemon.ctl(&["replay", log, "--output", "json"])?)?;
    println!("    {replayed}");
    ensure!(replayed["events"].as_u64() > Some(10) && replayed["effects"].as_u64() > Some(2), "{replayed}");
    // A log that was tampered with wants something else, and is told apart.
    let text = fs::read_to_string(log)?;
    let other = lab.dir().join("other.jsonl");
    let kept: Vec<&str> = text.lines().filter(|line| !line.contains("\"drain\"")).collect();
    ensure!(kept.len() < text.lines().count(), "the log has no event of the drain");
    fs::write(&other, kept.join("\n"))?;
    let refused = daemon.ctl(&["replay", other.to_str().unwrap_or_default()]);
    ensure!(refused.is_err(), "a log without the drain replays the same");
    Ok(())
}
