//! Notifications that are lost, as of a daemon that gets no processor while Open vSwitch changes all.

use lab_tests::harness::{Daemon, Demo, Failure, Lab, Outcome, Ovs, ensure, wait_for, wait_until};

use super::guard::Numbers;
use super::lag::Witness;
use super::scene::{
    EAGER, NIC, SETTLES_WITHIN, Traffic, agree, in_hardware, nothing_left, one_megaflow_each,
};
use crate::faults::scene::{connection, status};

/// More than a small socket holds notifications of.
const FLOWS: u16 = 120;
const LOSSES: u8 = 4;

pub(super) fn nothing_is_stale_after_notifications_of_the_kernel_datapath_were_lost(
    lab: &mut Lab,
) -> Outcome {
    // What nobody deletes is there when it is changed. Where its readings take long, Open vSwitch deletes at a change what had few
    // packets lately, and while the daemon stands still, no packet of a flow in hardware makes its megaflow anew.
    let ovs = Ovs::start(lab, &["hw-offload=false", "max-idle=120000", "min-revalidate-pps=0"])?;
    let demo = Demo::up(&ovs)?;
    // Their masks have the type of service from the beginning, so that a change of it changes them where they are.
    one_megaflow_each(&ovs, FLOWS, "mod_nw_tos:80,output:sn0pf0vf1")?;
    let witness = Witness::start()?;
    let traffic = Traffic::start(&demo, FLOWS, 600)?;
    let mut daemon = Daemon::start(lab, &ovs, &format!("{EAGER}limits.socket-buffer = 65536\n"))?;
    in_hardware(usize::from(FLOWS))?;
    let lost = |daemon: &Daemon| -> Outcome<u64> { Ok(connection(&status(daemon, &ovs)?.0, "netlink")?.2) };
    let mut numbers = Numbers(1);
    for loss in 1..=LOSSES {
        let before = lost(&daemon)?;
        daemon.signal("STOP")?;
        // Thrice, since what is told of a change is short, and a few hundred of that fit.
        let changed = (1..=3).try_for_each(|change| change_all(&ovs, (loss * 3 + change) * 4));
        // Some go in the middle of it, of which there is no word but in a reading.
        if numbers.below(2) == 0 {
            ovs.appctl(&["dpctl/del-flows"])?;
        }
        daemon.signal("CONT")?;
        changed?;
        wait_until("the loss is counted in `status`", SETTLES_WITHIN, || Ok(lost(&daemon)? > before))?;
        wait_for("no rule does what its megaflow did", SETTLES_WITHIN, || {
            let due = witness.with(|record| record.due.len());
            if due == 0 {
                return Ok(Some(()));
            }
            Err(Failure::new(format!("{due} rules do, of\n{}", NIC.rules()?)))
        })?;
        let there = in_hardware(usize::from(FLOWS) * 9 / 10)?.len();
        println!("    loss {loss}: {there} flows are in hardware again");
        agree(&ovs, &daemon, SETTLES_WITHIN)?;
    }
    ensure!(witness.with(|record| record.lost) == 0, "the witness lost notifications");
    daemon.signal("TERM")?;
    nothing_left()?;
    traffic.sender.stop()?;
    let received = traffic.receiver.finish()?;
    ensure!(received.duplicated == 0, "packets came twice: {received:?}");
    Ok(())
}

/// Gives all flows another type of service, and waits until Open vSwitch has changed nearly all of their megaflows.
fn change_all(ovs: &Ovs, tos: u8) -> Outcome {
    one_megaflow_each(ovs, FLOWS, &format!("mod_nw_tos:{tos},output:sn0pf0vf1"))?;
    wait_for("Open vSwitch has changed every flow", SETTLES_WITHIN, || {
        let flows = ovs.flows("ovs")?;
        let changed = flows.iter().filter(|flow| flow.contains(&format!("set(ipv4(tos={tos:#x}"))).count();
        if changed >= usize::from(FLOWS) * 9 / 10 {
            return Ok(Some(()));
        }
        Err(Failure::new(format!("{changed} are changed: {:?}", flows.first())))
    })
}
