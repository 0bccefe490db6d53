//! What saving OpenFlow's counters costs: how fast flows that have counted come into the NIC with it and without it.

use std::time::Duration;

use lab_tests::harness::{Daemon, Demo, Lab, Outcome, Ovs, TcWatch, ensure, netlink_sockets, wait_until};

use crate::faults::scene::{EAGER, Flows, PORT, in_hardware};

/// Flows that are there before the daemon is.
const FLOWS: u32 = 400;
/// Packets per second of all of them.
const RATE_PER_S: u64 = 1600;
/// The longest an emulated guest may take until Open vSwitch has all of them in TC, and has counted packets of each.
const COUNTED_WITHIN: Duration = Duration::from_secs(120);

/// Tells the rates, and judges that every flow arrives.
pub(super) fn flows_that_have_counted_come_into_the_nic_with_either_counters(lab: &mut Lab) -> Outcome {
    let ovs = Ovs::for_steering(lab)?;
    let witness = TcWatch::start()?;
    let demo = Demo::up(&ovs)?;
    Flows::new(FLOWS).one_megaflow_each(lab, &ovs, "NORMAL")?;
    let traffic = Flows::new(FLOWS).start(&demo, RATE_PER_S)?;
    for counters in ["fast", "exact"] {
        ovs.appctl(&["revalidator/purge"])?;
        wait_until("every flow has counted", COUNTED_WITHIN, || {
            let flows = ovs.flows("tc")?;
            let has_counted =
                |line: &&String| line.contains(&format!("dst={PORT}")) && !line.contains("packets:0,");
            Ok(flows.iter().filter(has_counted).count() == FLOWS as usize)
        })?;
        let before = witness.len();
        let mut daemon = Daemon::start(lab, &ovs, &format!("{EAGER}steer.counters = \"{counters}\"\n"))?;
        let ours = netlink_sockets(daemon.pid())?;
        in_hardware(&daemon, &ovs, u64::from(FLOWS))?;
        let mut changes = witness.changes(|_| true)?.split_off(before);
        changes.retain(|seen| ours.contains(&seen.portid) && seen.in_hw && !seen.was_in_hw);
        let times = changes.first().zip(changes.last());
        let took = times.map(|(first, last)| last.at.duration_since(first.at)).unwrap_or_default();
        let clean = daemon.json(&["status"])?["done"]["clean_promotions"].as_u64().unwrap_or_default();
        ensure!(changes.len() >= FLOWS as usize, "{} promotions were told of", changes.len());
        ensure!(counters == "fast" || clean > 0, "the counters of no flow were saved");
        println!(
            "steer.counters={counters}: {} promotions in {took:?}, {:.0} per second; the counters of {clean} were saved",
            changes.len(),
            changes.len() as f64 / took.as_secs_f64()
        );
        daemon.signal("TERM")?;
    }
    let (sent, lost) = traffic.stop()?;
    ensure!(lost == 0, "{lost} of {sent} packets were lost");
    Ok(())
}
