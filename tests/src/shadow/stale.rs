//! What deletes megaflows without a word each leaves no rule behind.

use std::time::{Duration, Instant};

use lab_tests::harness::{Daemon, Demo, Failure, Lab, Outcome, Ovs, OvsDaemon, ensure, wait_for, wait_until};

use super::scene::{
    EAGER, PORT, SETTLES_WITHIN, Traffic, agree, in_hardware, in_nic, nothing_left, numbers,
    one_megaflow_each,
};

const FLOWS: u16 = 4;
/// A flush is noticed by the next reading, every 250 ms here; the rest is an emulated guest's.
const FLUSH_NOTICED_WITHIN: Duration = Duration::from_secs(20);

pub(super) fn nothing_is_stale_after_flushes_a_killed_vswitchd_and_a_deleted_bridge(
    lab: &mut Lab,
) -> Outcome {
    let ovs = Ovs::start(lab, &["hw-offload=false"])?;
    let demo = Demo::up(&ovs)?;
    one_megaflow_each(&ovs, FLOWS, "output:sn0pf0vf1")?;
    let traffic = Traffic::start(&demo, FLOWS, 200)?;
    let daemon = Daemon::start(lab, &ovs, EAGER)?;
    in_hardware(usize::from(FLOWS))?;

    // With the next packet, Open vSwitch makes them anew, and they are placed again at once.
    for _ in 0..3 {
        // So much that one that is made anew is known by having less, for a while.
        wait_until("each rule has counted something", SETTLES_WITHIN, || {
            Ok(numbers()?.iter().all(|(_, packets)| *packets >= 150))
        })?;
        let numbers = numbers()?;
        let begin = Instant::now();
        ovs.appctl(&["dpctl/del-flows"])?;
        wait_until("every rule of before the flush is gone", FLUSH_NOTICED_WITHIN, || {
            Ok(numbers.iter().all(|(cookie, packets)| {
                current(cookie).is_ok_and(|now| now.is_none_or(|now| now < *packets))
            }))
        })?;
        println!("    a flush was noticed within {:?}", begin.elapsed());
        all_placed(&ovs, &daemon)?;
    }
    agree(&ovs, &daemon, SETTLES_WITHIN)?;

    ovs.signal(OvsDaemon::Vswitchd, "KILL")?;
    wait_until("without ovs-vswitchd no rule is left", SETTLES_WITHIN, || Ok(in_nic()?.is_empty()))?;
    ovs.restart(OvsDaemon::Vswitchd)?;
    // Its OpenFlow rules went with it.
    one_megaflow_each(&ovs, FLOWS, "output:sn0pf0vf1")?;
    all_placed(&ovs, &daemon)?;
    agree(&ovs, &daemon, SETTLES_WITHIN)?;

    ovs.vsctl(&["del-port", "br0", "sn0pf0vf1"])?;
    wait_until("no rule sends packets to a port that is not there", SETTLES_WITHIN, || {
        Ok(!super::scene::NIC.rules()?.contains("redirect:pf0vf1")
            && !super::scene::NIC.rules()?.contains("mirror:pf0vf1"))
    })?;
    agree(&ovs, &daemon, SETTLES_WITHIN)?;
    ovs.vsctl(&["del-br", "br0"])?;
    wait_until("with the bridge, all rules are gone", SETTLES_WITHIN, || {
        let rules = super::scene::NIC.rules()?;
        if rules.is_empty() {
            // The NIC is rid of a rule before TC is, and that before the daemon has heard so.
            nothing_left()?;
            let flows = daemon.json(&["status"])?["flows"]["hardware"].clone();
            ensure!(flows == 0, "our tables still have {flows} flows in hardware");
            return Ok(true);
        }
        let there = ovs.appctl(&["dpctl/dump-flows", "-m"]).unwrap_or_else(|error| error.to_string());
        Err(Failure::new(format!("{rules}Open vSwitch has\n{there}we have {:?}", daemon.flows()?)))
    })?;
    traffic.sender.stop()?;
    traffic.receiver.finish().map(drop)
}

/// What the rule with this cookie has counted now, if it is there.
fn current(cookie: &str) -> Outcome<Option<u64>> {
    Ok(numbers()?.into_iter().find(|(other, _)| other == cookie).map(|(_, packets)| packets))
}

/// Waits until what there is of the flows is in hardware: Open vSwitch does not always make all of them again.
fn all_placed(ovs: &Ovs, daemon: &Daemon) -> Outcome {
    wait_for("what is there of the flows is in hardware", SETTLES_WITHIN, || {
        let flows = ovs.flows("ovs")?;
        let there = flows.iter().filter(|flow| flow.contains(&format!("dst={PORT}"))).count();
        let placed = in_nic()?;
        if !placed.is_empty() && placed.len() == there {
            return Ok(Some(()));
        }
        let (flows, ours) = (flows.join("\n"), daemon.flows()?);
        Err(Failure::new(format!("the NIC has {placed:?}\nOpen vSwitch has\n{flows}\nwe have {ours:?}")))
    })
}
