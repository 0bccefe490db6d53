//! Installs per second that are learned from the driver's time, beside a driver of which that time is known.

use std::fs;
use std::path::Path;
use std::time::Instant;

use lab_tests::harness::{Daemon, Demo, Failure, Lab, Outcome, Ovs, ensure, wait_for, wait_until};
use serde_json::Value;

use super::super::scene::{Flows, NIC, SETTLES_WITHIN, status};
use super::{counter, nic};

/// Flows, each pinned to hardware: as many installs are wanted as there may be.
const FLOWS: u32 = 200;
const CONFIG: &str = "mode = \"steer\"\nmetrics.listen = \"off\"\npolicy.default = \"hardware\"\n\
    policy.epoch = \"100 ms\"\nnic.installs-per-s = \"learn\"\n";
/// Microseconds that simnic sleeps for one rule, one after the other.
const DELAYS_US: [u32; 3] = [4_000, 20_000, 4_000];
/// How long the kernel around simnic may take on top, as a mean: 1 to 3 ms with an emulated CPU, and ten times that where a dozen
/// others want the host's.
const KERNEL_US_MAX: u64 = 30_000;
/// Installs after which what was learned before has less than a tenth of the weight.
const FORGOTTEN_AFTER: u64 = 75;
/// Installs of which the time is taken.
const TIMED: u64 = 50;

/// Most installs per second as the daemon says: with what it began, it has learned nothing.
fn learned(daemon: &Daemon, ovs: &Ovs) -> Outcome<u64> {
    let status = status(daemon, ovs)?.0;
    let nic = nic(&status)?;
    let per_s = nic["installs_per_s_max"].as_u64().filter(|_| nic["installs_learned"] == true);
    per_s.ok_or_else(|| Failure::new(format!("nothing is learned: {nic}")))
}

/// Has every flow placed anew by a driver that takes `delay_us` for each: what is learned once the driver was seen to.
fn place_with(daemon: &Daemon, ovs: &Ovs, delay_us: u32) -> Outcome<u64> {
    daemon.ctl(&["drain"])?;
    wait_until("the hardware is empty", SETTLES_WITHIN, || {
        Ok(status(daemon, ovs)?.0["flows"]["hardware"] == 0)
    })?;
    NIC.set("install_delay_us", &delay_us.to_string())?;
    let before = counter("hw_installs")?;
    daemon.ctl(&["drain", "--off"])?;
    wait_for("the driver is known", SETTLES_WITHIN, || {
        let installs = counter("hw_installs")? - before;
        if installs >= FORGOTTEN_AFTER {
            return learned(daemon, ovs).map(Some);
        }
        Err(Failure::new(format!("it has taken {installs} rules")))
    })
}

pub(in super::super) fn installs_per_s_are_half_of_what_the_driver_manages(lab: &mut Lab) -> Outcome {
    let ovs = Ovs::for_steering(lab)?;
    let demo = Demo::up(&ovs)?;
    Flows::new(FLOWS).one_megaflow_each(lab, &ovs, "NORMAL")?;
    let traffic = Flows::new(FLOWS).start(&demo, 300)?;
    wait_until("Open vSwitch has put the flows in TC", SETTLES_WITHIN, || {
        let flows = ovs.flows("tc")?.len();
        (flows >= FLOWS as usize).then_some(true).ok_or_else(|| Failure::new(format!("{flows} are there")))
    })?;
    let log = lab.dir().join("events.jsonl");
    let mut daemon = Daemon::start_with(lab, &ovs, CONFIG, &["--record", &log.to_string_lossy()])?;
    let mut all = Vec::new();
    for delay_us in DELAYS_US {
        let per_s = place_with(&daemon, &ovs, delay_us)?;
        // No install takes less than simnic sleeps; what was learned before still counts a little.
        let (slowest, half) =
            (500_000 / (u64::from(delay_us) + KERNEL_US_MAX), 500_000 / u64::from(delay_us));
        println!("    {delay_us} us for an install: {per_s}/s learned, {slowest} to {half} are right");
        ensure!(
            (slowest..=half + half / 5).contains(&per_s),
            "with {delay_us} us for an install {per_s}/s are allowed, and {slowest} to {half} are right"
        );
        all.push(per_s);
        if delay_us == 20_000 {
            stays_below(half)?;
            // Installs go on: the number may change between the two questions.
            wait_for("`nic list` shows what was learned", SETTLES_WITHIN, || {
                let (per_s, list) = (learned(&daemon, &ovs)?, daemon.ctl(&["nic", "list"])?);
                if list.contains(&format!("  {per_s} (learned)")) {
                    return Ok(Some(()));
                }
                Err(Failure::new(format!("{per_s}/s are learned:\n{list}")))
            })?;
        }
    }
    let follows = |fast: u64| fast > all[1] * 5 / 4;
    ensure!(follows(all[0]) && follows(all[2]), "{all:?} do not follow the driver");
    let (sent, lost) = traffic.stop()?;
    ensure!(lost == 0, "of {sent} packets {lost} were lost");
    daemon.signal("TERM")?;
    the_log_has_what_was_learned_from(&daemon, &log)
}

/// A replay learns the same again, and other things from other times.
fn the_log_has_what_was_learned_from(daemon: &Daemon, log: &Path) -> Outcome {
    daemon.ctl(&["replay", &log.to_string_lossy()])?;
    let mut changed = 0;
    let mut other = String::new();
    for line in fs::read_to_string(log)?.lines() {
        let mut line: Value = serde_json::from_str(line)?;
        if let Some(took) = line.pointer_mut("/event/answer/answer/replaced/took_us") {
            *took = 1.into();
            changed += 1;
        }
        other += &format!("{line}\n");
    }
    ensure!(changed >= 3 * FORGOTTEN_AFTER, "the log has the time of {changed} replacements");
    let file = log.with_extension("other");
    fs::write(&file, other)?;
    let replayed = daemon.ctl(&["replay", &file.to_string_lossy()]);
    let refused = replayed.is_err_and(|failure| failure.to_string().contains("wants other effects"));
    ensure!(refused, "a log of a driver that takes 1 us replays the same");
    Ok(())
}

/// What the NIC itself counts while more are wanted: no more than `per_s`, and what may come at once after a quiet time.
fn stays_below(per_s: u64) -> Outcome {
    // The time around the two readings: never less than between them.
    let begun = Instant::now();
    let before = counter("hw_installs")?;
    let installs = wait_for("more rules are in the NIC", SETTLES_WITHIN, || {
        let installs = counter("hw_installs")? - before;
        Ok((installs >= TIMED).then_some(installs))
    })?;
    let took = begun.elapsed();
    let allowed = (took.as_secs_f64() * per_s as f64) as u64 + per_s / 2 + 1;
    println!("    in {took:?} {installs} installs, {allowed} would be allowed");
    ensure!(installs <= allowed, "{installs} installs in {took:?}, and {per_s}/s are allowed");
    Ok(())
}
