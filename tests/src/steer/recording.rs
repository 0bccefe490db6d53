//! What is recorded and read again: the event log by the engine, and the flow table's history by the replay.

use std::fs;
use std::path::Path;

use lab_tests::harness::{Daemon, Demo, Failure, Lab, Outcome, Ovs, ensure, wait_until};
use ovs_offloadd::recording::Reader;
use serde_json::Value;

use super::totals::{BETWEEN_MAX, Sums, settled};
use super::{
    FAST, PLACED_WITHIN, Traffic, flow_to, in_hardware, set_rule, start_daemon, start_recording_daemon,
};

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

/// What `status` says that the daemon has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct SoFar {
    packets: u64,
    bytes: u64,
    hardware_packets: u64,
    hardware_bytes: u64,
    promotions: u64,
}

impl SoFar {
    fn read(daemon: &Daemon) -> Outcome<Self> {
        let status = daemon.json(&["status"])?;
        let unreadable = || Failure::new(format!("`status` shows no traffic: {status}"));
        let count = |part: &str, what: &str| status["traffic"][part][what].as_u64().ok_or_else(unreadable);
        let (hardware_packets, hardware_bytes) = (count("hardware", "packets")?, count("hardware", "bytes")?);
        Ok(Self {
            packets: count("software", "packets")? + hardware_packets,
            bytes: count("software", "bytes")? + hardware_bytes,
            hardware_packets,
            hardware_bytes,
            promotions: status["done"]["promotions"].as_u64().ok_or_else(unreadable)?,
        })
    }

    fn since(self, earlier: Self) -> Self {
        Self {
            packets: self.packets - earlier.packets,
            bytes: self.bytes - earlier.bytes,
            hardware_packets: self.hardware_packets - earlier.hardware_packets,
            hardware_bytes: self.hardware_bytes - earlier.hardware_bytes,
            promotions: self.promotions - earlier.promotions,
        }
    }

    /// What a replay says that the daemon has done.
    fn of_replay(replayed: &Value) -> Outcome<Self> {
        let unreadable = || Failure::new(format!("the replay shows {replayed}"));
        let recorded = |what: &str| replayed["recorded"][what].as_u64().ok_or_else(unreadable);
        Ok(Self {
            packets: replayed["packets_total"].as_u64().ok_or_else(unreadable)?,
            bytes: replayed["bytes_total"].as_u64().ok_or_else(unreadable)?,
            hardware_packets: recorded("packets_in_hardware")?,
            hardware_bytes: recorded("bytes_in_hardware")?,
            promotions: recorded("installs")?,
        })
    }
}

pub(super) fn a_recorded_flow_table_has_the_totals_and_the_share_that_the_daemon_counted(
    lab: &mut Lab,
) -> Outcome {
    let ovs = Ovs::for_steering(lab)?;
    let demo = Demo::up(&ovs)?;
    set_rule(&ovs, FAST, "output:sn0p0")?;
    let daemon = start_daemon(lab, &ovs)?;
    demo.hush_vm0()?;
    let files = ["table.rec", "anonymous.rec"].map(|name| lab.dir().join(name).display().to_string());

    // What comes while the two begin and end may be in or not; all in between has to be.
    let earliest = SoFar::read(&daemon)?;
    let plain = daemon.start_ctl(&["record", &files[0], "--output", "json"])?;
    let anonymous = daemon.start_ctl(&["record", "--anonymise", &files[1], "--output", "json"])?;
    wait_until("both recordings have begun", PLACED_WITHIN, || {
        Ok(daemon.log()?.matches("recording the flow table").count() == 2)
    })?;
    let begun = SoFar::read(&daemon)?;
    let sums = Sums::read(&ovs, &daemon)?;
    let traffic = Traffic::fast(&demo)?;
    in_hardware(&daemon, FAST)?;
    let placed = SoFar::read(&daemon)?;
    wait_until("a thousand more packets went through hardware", PLACED_WITHIN, || {
        Ok(SoFar::read(&daemon)?.hardware_packets >= placed.hardware_packets + 1_000)
    })?;
    let (sent, lost) = traffic.stop()?;
    ensure!(lost == 0, "of {sent} packets {lost} were lost");
    settled(&ovs, &daemon, sums.plus(sent), BETWEEN_MAX)?;
    let ending = SoFar::read(&daemon)?;
    let printed = [plain.interrupt()?, anonymous.interrupt()?];
    let latest = SoFar::read(&daemon)?;

    let (least, most) = (ending.since(begun), latest.since(earliest));
    ensure!(least.promotions > 0 && least.hardware_packets > 1_000, "too little happened: {least:?}");
    for (file, printed) in files.iter().zip(&printed) {
        println!("    {}", printed.split_whitespace().collect::<Vec<_>>().join(" "));
        let replayed: Value = serde_json::from_str(&daemon.ctl(&["replay", file, "--output", "json"])?)?;
        let recorded = SoFar::of_replay(&replayed)?;
        println!("    {file}: {recorded:?}; the daemon counted {least:?}, with what came around it {most:?}");
        let between = |pick: fn(&SoFar) -> u64| (pick(&least)..=pick(&most)).contains(&pick(&recorded));
        ensure!(
            between(|it| it.packets)
                && between(|it| it.bytes)
                && between(|it| it.hardware_packets)
                && between(|it| it.hardware_bytes)
                && between(|it| it.promotions),
            "the recording has {recorded:?}, and the daemon counted {least:?} to {most:?}"
        );
        ensure!(
            replayed["policies"]["planner"]["bytes_in_hardware"].as_u64() > Some(0),
            "the planner placed nothing in a replay: {replayed}"
        );
        let note = replayed["note"].as_str().unwrap_or_default();
        ensure!(note.starts_with("the recording was interrupted after"), "the replay notes {note:?}");
    }
    let has_name = |file: &String| -> Outcome<bool> {
        let mut reader = Reader::open(Path::new(file))?;
        let mut records = Vec::new();
        while reader.more() {
            records.extend_from_slice(reader.ahead());
            reader.used(reader.ahead().len());
        }
        ensure!(!records.is_empty() && reader.damage().is_none(), "{file} cannot be unpacked");
        Ok(records.windows(9).any(|bytes| bytes == b"sn0pf0vf0"))
    };
    ensure!(has_name(&files[0])?, "the recording does not name the port");
    ensure!(!has_name(&files[1])?, "the anonymised recording names the port");
    Ok(())
}
