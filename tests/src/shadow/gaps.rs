//! A megaflow whose packets hardware takes, and what Open vSwitch takes for idle.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use lab_tests::harness::{Daemon, Demo, Failure, Lab, Outcome, Ovs, SentByVf, ensure, wait_for};

use super::scene::{EAGER, PORT, SETTLES_WITHIN, Traffic, dropped, in_hardware, one_megaflow_each};

const FLOWS: u16 = 4;
/// `other_config:max-idle`: half of it is left for a guest that is slow.
const MAX_IDLE: Duration = Duration::from_secs(4);
/// So long its megaflows are looked at.
const WATCHED: Duration = Duration::from_secs(12);

pub(super) fn with_gaps_a_busy_flow_in_hardware_keeps_its_megaflow(lab: &mut Lab) -> Outcome {
    let max_idle = format!("max-idle={}", MAX_IDLE.as_millis());
    let ovs = Ovs::start(lab, &["hw-offload=false", &max_idle])?;
    let demo = Demo::up(&ovs)?;
    one_megaflow_each(&ovs, FLOWS, "output:sn0pf0vf1")?;
    let daemon = Daemon::start(lab, &ovs, &format!("{EAGER}shadow.gaps = true\n"))?;
    let first = Traffic::start(&demo, FLOWS, 400)?;
    in_hardware(usize::from(FLOWS))?;
    // What is lost until there are megaflows is not what is asked here.
    first.sender.stop()?;
    first.receiver.finish()?;
    let traffic = Traffic::start(&demo, FLOWS, 400)?;
    in_hardware(usize::from(FLOWS))?;

    let mut known = wait_for("all megaflows are there", SETTLES_WITHIN, || {
        let there = megaflows(&ovs)?;
        Ok((there.len() == usize::from(FLOWS)).then_some(there))
    })?;
    let dropped_before = dropped(&ovs)?;
    let (gaps, before, begun) = (gaps(&daemon)?, SentByVf::read("sn0pf0vf0")?, Instant::now());
    // One that is deleted and made anew begins at nothing.
    wait_for("three times max-idle are over", SETTLES_WITHIN, || {
        let there = megaflows(&ovs)?;
        let is_anew = |(ufid, packets): &(&String, &u64)| there.get(*ufid).is_none_or(|now| now < *packets);
        if let Some((ufid, packets)) = known.iter().find(is_anew) {
            let now = there.get(ufid);
            let what = format!("megaflow {ufid} had {packets} packets, and now {now:?}");
            return Ok(Some(Err(Failure::new(what))));
        }
        known = there;
        Ok((begun.elapsed() >= WATCHED).then_some(Ok(())))
    })??;
    let moved = SentByVf::read("sn0pf0vf0")?.since(before);
    let more = self::gaps(&daemon)? - gaps;
    let share = 100 * moved.hardware / (moved.hardware + moved.slow).max(1);
    println!(
        "    {more} gaps of {FLOWS} rules in {:?}: {share} % of the packets went by hardware",
        begun.elapsed()
    );
    ensure!(more >= u64::from(FLOWS) * 2, "there were {more} gaps");
    ensure!(share >= 50, "{share} % of the packets went by hardware: {moved:?}");
    let sent = traffic.sender.stop()?;
    let received = traffic.receiver.finish()?;
    ensure!(received.duplicated == 0, "packets came twice: {received:?}");
    let dropped = dropped(&ovs)? - dropped_before;
    ensure!(
        sent <= received.packets + dropped,
        "{sent} packets were sent, and {received:?}; {dropped} were dropped for want of room"
    );
    Ok(())
}

fn gaps(daemon: &Daemon) -> Outcome<u64> {
    let gaps = &daemon.json(&["status"])?["done"]["gaps"];
    gaps.as_u64().ok_or_else(|| Failure::new(format!("`status` shows no gaps: {gaps}")))
}

/// Packets of the flows' megaflows that software had.
fn megaflows(ovs: &Ovs) -> Outcome<BTreeMap<String, u64>> {
    let of = |line: &String| {
        let ufid = line.split("ufid:").nth(1)?.split(',').next()?.to_owned();
        let packets = line.split("packets:").nth(1)?.split(',').next()?.parse().ok()?;
        Some((ufid, packets))
    };
    let there = ovs.flows("ovs")?;
    Ok(there.iter().filter(|line| line.contains(&format!("dst={PORT}"))).filter_map(of).collect())
}
