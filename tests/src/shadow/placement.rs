//! Into hardware, and out of it with the mode.

use lab_tests::harness::{
    Daemon, Demo, Failure, Lab, Outcome, Ovs, SentByVf, ensure, run, wait_for, wait_until,
};

use crate::steer::tunnels::between_two_hosts;

use super::scene::{
    EAGER, SETTLES_WITHIN, Traffic, agree, in_hardware, in_nic, nothing_left, one_megaflow_each,
};

const FLOWS: u16 = 4;

pub(super) fn a_stream_between_two_vfs_goes_to_hardware_and_leaving_the_mode_leaves_no_rule(
    lab: &mut Lab,
) -> Outcome {
    // A megaflow in hardware that is taken for idle has its packets go by software for a while.
    let ovs = Ovs::start(lab, &["hw-offload=false", "max-idle=120000"])?;
    let demo = Demo::up(&ovs)?;
    one_megaflow_each(&ovs, FLOWS, "output:sn0pf0vf1")?;
    // The kernel drops what a device is to send while it gets a qdisc, and every packet counts here.
    run("tc", &["qdisc", "add", "dev", "sn0pf0vf1", "clsact"])?;
    let traffic = Traffic::start(&demo, FLOWS, 400)?;
    let mut daemon = Daemon::start(lab, &ovs, EAGER)?;
    in_hardware(usize::from(FLOWS))?;
    let mode = daemon.json(&["status"])?["mode"].clone();
    ensure!(mode == "shadow", "the mode is {mode}");
    agree(&ovs, &daemon, SETTLES_WITHIN)?;

    let (before, arrived_before) = (SentByVf::read("sn0pf0vf0")?, traffic.receiver.so_far().packets);
    let totals_before = hardware_packets(&daemon)?;
    wait_until("a thousand more packets have come", SETTLES_WITHIN, || {
        Ok(traffic.receiver.so_far().packets >= arrived_before + 1000)
    })?;
    let arrived = traffic.receiver.so_far().packets - arrived_before;
    let moved = SentByVf::read("sn0pf0vf0")?.since(before);
    println!("    of {arrived} packets {} went through hardware; slow path: {}", moved.hardware, moved.slow);
    ensure!(moved.hardware + 100 >= arrived, "{arrived} arrived, and the hardware forwarded {moved:?}");
    wait_until("our counters have what the hardware forwarded", SETTLES_WITHIN, || {
        Ok(hardware_packets(&daemon)? >= totals_before + moved.hardware - 100)
    })?;
    let filters = run("tc", &["-s", "filter", "show", "dev", "sn0pf0vf0", "ingress"])?;
    ensure!(filters.contains("skip_sw") && filters.contains("in_hw"), "not for hardware only:\n{filters}");

    why_is_told(&demo, &ovs, &daemon)?;
    daemon.configure(&EAGER.replace("mode = \"shadow\"", "mode = \"observe\""))?;
    daemon.signal("HUP")?;
    wait_until("the mode has been left", SETTLES_WITHIN, || {
        Ok(daemon.json(&["status"])?["mode"] == "observe")
    })?;
    nothing_left()?;
    daemon.configure(EAGER)?;
    daemon.signal("HUP")?;
    in_hardware(usize::from(FLOWS))?;

    // Its end takes them along; what a killed one leaves, the next removes before it places its own.
    daemon.signal("TERM")?;
    nothing_left()?;
    daemon.restart()?;
    in_hardware(usize::from(FLOWS))?;
    daemon.signal("KILL")?;
    ensure!(!in_nic()?.is_empty(), "a killed daemon left nothing: this test shows nothing");
    daemon.configure(&EAGER.replace("mode = \"shadow\"", "mode = \"observe\""))?;
    daemon.restart()?;
    wait_for("an observing daemon has removed what a killed one left", SETTLES_WITHIN, || {
        nothing_left().map(Some)
    })?;

    let sent = traffic.sender.stop()?;
    let received = traffic.receiver.finish()?;
    ensure!(received.duplicated == 0, "packets came twice: {received:?}");
    ensure!(sent == received.packets, "{sent} packets were sent and {received:?}");
    Ok(())
}

/// Geneve and VXLAN: the flow into the tunnel on one host and out of it on the other.
pub(super) fn a_tunnelled_flow_is_placed_on_both_hosts_where_open_vswitch_does_not_offload(
    lab: &mut Lab,
) -> Outcome {
    // No megaflow in hardware goes for want of packets, so that one counts all of them.
    let settings = ["hw-offload=false", "max-idle=120000"];
    between_two_hosts(lab, &settings, &|_| Ok(EAGER.to_owned()))
}

fn hardware_packets(daemon: &Daemon) -> Outcome<u64> {
    let traffic = &daemon.json(&["status"])?["traffic"]["hardware"]["packets"];
    traffic.as_u64().ok_or_else(|| Failure::new(format!("`status` shows no packets of hardware: {traffic}")))
}

/// A flow that no rule can be made from says why.
fn why_is_told(demo: &Demo<'_>, ovs: &Ovs, daemon: &Daemon) -> Outcome {
    ovs.ofctl(&["add-flow", "br0", "priority=200,icmp,actions=output:sn0pf0vf1,controller"])?;
    // No answer comes, as the way back is cut by the same rule, once no megaflow of the first pings does otherwise.
    let ping = ["ping", "-q", "-c", "3", "-i", "0.2", "-W", "1", Demo::VM1];
    wait_until("no ping is answered", SETTLES_WITHIN, || Ok(demo.vm0.run(&ping).is_err()))?;
    wait_until("the flow's reason is told", SETTLES_WITHIN, || {
        Ok(daemon.flows()?.iter().any(|flow| flow["reason"] == "untranslatable_action"))
    })?;
    ovs.ofctl(&["--strict", "del-flows", "br0", "priority=200,icmp"]).map(drop)
}
