//! What Open vSwitch changes about a promoted flow: its actions by OpenFlow, and its end when it is idle.

use std::time::{Duration, Instant};

use lab_tests::harness::{
    Daemon, Demo, Failure, Lab, Outcome, Ovs, Receiver, agree, ensure, wait_for, wait_until,
};

use super::{FAST, NIC, PLACED_WITHIN, Traffic, flow_to, in_hardware, set_rule, start_daemon, ufid};

/// `other_config:max-idle` in the test of idle flows.
const MAX_IDLE: Duration = Duration::from_secs(3);

pub(super) fn an_openflow_change_holds_after_one_revalidation_and_the_flow_is_promoted_again(
    lab: &mut Lab,
) -> Outcome {
    let ovs = Ovs::for_steering(lab)?;
    let demo = Demo::up(&ovs)?;
    set_rule(&ovs, FAST, "output:sn0p0")?;
    let traffic = Traffic::fast(&demo)?;
    let daemon = start_daemon(lab, &ovs)?;
    let flow = in_hardware(&daemon, FAST)?;
    let ufid = ufid(&flow);

    let vm1 = Receiver::start(&demo.vm1, &format!("{}:{FAST}", Demo::VM1))?;
    let mac = demo.vm1.run(&["cat", "/sys/class/net/sn0v1/address"])?;
    let redirect = format!("mod_dl_dst:{},mod_nw_dst:{},output:sn0pf0vf1", mac.trim(), Demo::VM1);
    change(&ovs, &redirect, ufid, "pf0vf1")?;
    // By then the old receiver has what was on its way to it, and has said so.
    wait_until("packets come to vm1", PLACED_WITHIN, || Ok(vm1.so_far().packets >= 200))?;
    let at_remote = traffic.receiver.so_far().packets;
    promoted_again(&ovs, &daemon, ufid, "pf0vf1", 1)?;
    let so_far = vm1.so_far().packets;
    wait_until("a thousand more packets have come to vm1", PLACED_WITHIN, || {
        Ok(vm1.so_far().packets >= so_far + 1000)
    })?;
    // The receiver's word may be older than that of vm1's.
    let strayed = traffic.receiver.so_far().packets - at_remote;
    ensure!(strayed < 150, "{strayed} packets came to the old receiver after the change");

    change(&ovs, "drop", ufid, "drop")?;
    promoted_again(&ovs, &daemon, ufid, "drop", 2)?;
    let (remote, vm1_before) = (traffic.receiver.so_far().packets, vm1.so_far().packets);
    let still = flow_to(&daemon, FAST)?.ok_or_else(|| Failure::new("the dropped flow is not listed"))?;
    let dropped = still["traffic"]["hardware"]["packets"].as_u64().unwrap_or(0);
    wait_until("the NIC has dropped a thousand packets", PLACED_WITHIN, || {
        let now = flow_to(&daemon, FAST)?;
        Ok(now.is_some_and(|flow| flow["traffic"]["hardware"]["packets"].as_u64() >= Some(dropped + 1000)))
    })?;
    let arrived = traffic.receiver.so_far().packets - remote + vm1.so_far().packets - vm1_before;
    ensure!(arrived == 0, "{arrived} packets arrived although they were to be dropped");
    Ok(())
}

/// Changes what is done with the fast flow, and holds Open vSwitch and us to one revalidation: after that, the flow leaves
/// by `port` wherever it is handled.
fn change(ovs: &Ovs, actions: &str, ufid: &str, port: &str) -> Outcome {
    let begin = Instant::now();
    set_rule(ovs, FAST, actions)?;
    let ordered = begin.elapsed();
    // The first ends the one that may have begun before the change.
    for _ in 0..2 {
        ovs.appctl(&["revalidator/wait"])?;
    }
    let revalidated = begin.elapsed();
    let rules = NIC.rules()?;
    let cookie_is_ours = |line: &&str| lab_tests::harness::ufid_of_rule(line).as_deref() == Some(ufid);
    for rule in rules.lines().filter(cookie_is_ours) {
        ensure!(rule.contains(port), "one revalidation after the change to `{actions}` the NIC has {rule}");
    }
    let says_so = |flow: &String| flow.contains(&format!("ufid:{ufid}")) && flow.contains(port);
    ensure!(ovs.flows("tc")?.iter().any(says_so), "TC has not the flow that leaves by {port}");
    println!(
        "    `{actions}`: ordered in {} ms, in force wherever the flow is handled within {} ms",
        ordered.as_millis(),
        revalidated.as_millis()
    );
    Ok(())
}

/// Waits until the flow is in the NIC again with the new actions, and Open vSwitch's change was noticed.
fn promoted_again(ovs: &Ovs, daemon: &Daemon, ufid: &str, port: &str, changes: u64) -> Outcome {
    let begin = Instant::now();
    wait_for("the flow is in the NIC again, changed", PLACED_WITHIN, || {
        let placements = agree(&NIC, ovs, daemon, Duration::ZERO)?;
        Ok(placements.hardware.get(ufid).filter(|leaves| leaves.iter().any(|leave| leave == port)).map(drop))
    })?;
    println!("    promoted again within {} ms", begin.elapsed().as_millis());
    let undone = daemon.json(&["status"])?["done"]["undone"].as_u64();
    ensure!(undone >= Some(changes), "`status` says that {undone:?} promotions were undone");
    Ok(())
}

pub(super) fn an_idle_flow_disappears_and_one_that_only_hardware_sees_does_not(lab: &mut Lab) -> Outcome {
    let ovs = Ovs::for_steering(lab)?;
    ovs.vsctl(&["set", "Open_vSwitch", ".", &format!("other_config:max-idle={}", MAX_IDLE.as_millis())])?;
    let demo = Demo::up(&ovs)?;
    set_rule(&ovs, FAST, "output:sn0p0")?;
    let traffic = Traffic::fast(&demo)?;
    let daemon = start_daemon(lab, &ovs)?;
    let flow = in_hardware(&daemon, FAST)?;
    let (ufid, placed) = (ufid(&flow), Instant::now());
    wait_until(
        "the flow has been in hardware for longer than an idle one may be anywhere",
        PLACED_WITHIN,
        || Ok(placed.elapsed() > MAX_IDLE + Duration::from_secs(1)),
    )?;
    let still = flow_to(&daemon, FAST)?.ok_or_else(|| Failure::new("the busy flow is not listed"))?;
    ensure!(
        super::ufid(&still) == ufid && still["placement"] == "hardware",
        "while packets passed in hardware, the flow became {still}"
    );
    let (sent, lost) = traffic.stop()?;
    let ended = Instant::now();
    ensure!(lost == 0, "of {sent} packets {lost} were lost");
    wait_until("the idle flow is gone from the NIC, Open vSwitch and our tables", PLACED_WITHIN, || {
        let in_nic =
            NIC.rules()?.lines().any(|rule| lab_tests::harness::ufid_of_rule(rule).as_deref() == Some(ufid));
        let in_ovs = ovs.flows("tc")?.iter().any(|flow| flow.contains(ufid));
        Ok(!in_nic && !in_ovs && flow_to(&daemon, FAST)?.is_none())
    })?;
    println!("    gone {} ms after its last packet; max-idle is {MAX_IDLE:?}", ended.elapsed().as_millis());
    agree(&NIC, &ovs, &daemon, PLACED_WITHIN)?;
    Ok(())
}
