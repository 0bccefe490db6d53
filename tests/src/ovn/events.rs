//! What happens to OVN while a stream is carried in hardware between two chassis.

use std::time::{Duration, Instant};

use lab_tests::harness::{Lab, Outcome, ensure, wait_until};

use super::DONE_WITHIN;
use super::fabric::{Carried, Fabric};
use super::topologies::plug_into_one_switch;

const ADDRESS: &str = "10.1.0.2";
/// Nothing arrives for so long: it is denied.
const SILENCE: Duration = Duration::from_secs(1);
/// Open vSwitch looks through all of its flows every half second, later where that takes longer; OVN's own time and that
/// of an emulated guest are in it too.
const DENIED_WITHIN: Duration = Duration::from_secs(5);

/// Restarts of OVN's daemons lose nothing; where a tunnel's end, a port or the permission is gone, nothing of it is left in
/// hardware, and what comes back is placed again.
pub(super) fn what_ovn_takes_away_leaves_hardware_and_its_restarts_lose_nothing(lab: &mut Lab) -> Outcome {
    let fabric = Fabric::up(lab)?;
    plug_into_one_switch(&fabric)?;
    restarts(&fabric)?;
    let carried = fabric.send("what comes and goes", ADDRESS, 7202)?;
    fabric.in_hardware("what comes and goes", &carried)?;
    chassis_gone(&fabric, &carried)?;
    port_gone(&fabric, &carried)?;
    denied(&fabric, &carried)?;
    carried.stop().map(drop)
}

/// ovn-controller and ovn-northd are killed, and started again.
fn restarts(fabric: &Fabric) -> Outcome {
    let what = "restarts of OVN's daemons";
    // By itself a new ovn-controller takes all OpenFlow flows away and makes them anew: some packets are lost by that, with or
    // without us.
    let wait = "external_ids:ovn-ofctrl-wait-before-clear=8000";
    fabric.hosts[0].ovs().vsctl(&["set", "Open_vSwitch", ".", wait])?;
    let carried = fabric.send(what, ADDRESS, 7201)?;
    fabric.in_hardware(what, &carried)?;
    fabric.ovn.kill_controller("hv1")?;
    fabric.ovn.restart_northd()?;
    fabric.in_hardware(what, &carried)?;
    fabric.ovn.start_controller(fabric.hosts[0].ovs(), "hv1")?;
    fabric.ovn.nbctl(&["--wait=hv", "sync"])?;
    fabric.in_hardware(what, &carried)?;
    fabric.agree()?;
    let (sent, received) = carried.stop()?;
    println!("    {what}: of {sent} packets {} arrived", received.packets);
    ensure!(
        received.packets == sent && received.duplicated == 0,
        "{what}: of {sent} packets {received:?} arrived"
    );
    Ok(())
}

/// The second chassis leaves, and joins again.
fn chassis_gone(fabric: &Fabric, carried: &Carried) -> Outcome {
    fabric.ovn.leave("hv2")?;
    wait_until("no rule leads into a tunnel any more", DONE_WITHIN, || {
        Ok(!fabric.hosts[0].rules()?.contains("/tunnel"))
    })?;
    fabric.agree()?;
    fabric.ovn.start_controller(fabric.hosts[1].ovs(), "hv2")?;
    fabric.ovn.nbctl(&["--wait=hv", "sync"])?;
    fabric.in_hardware("a chassis that came back", carried).map(drop)
}

/// The receiving pod's port is taken off the bridge, and put there again.
fn port_gone(fabric: &Fabric, carried: &Carried) -> Outcome {
    let host = &fabric.hosts[1];
    host.ovs().vsctl(&["del-port", "br-int", &host.representor()])?;
    wait_until("no rule leads to the port any more", DONE_WITHIN, || Ok(!host.rules()?.contains("pf0vf0")))?;
    fabric.agree()?;
    fabric.plug()?;
    fabric.in_hardware("a port that came back", carried).map(drop)
}

/// An ACL denies the stream, which is in hardware.
fn denied(fabric: &Fabric, carried: &Carried) -> Outcome {
    let begin = Instant::now();
    fabric.ovn.nbctl(&["--wait=hv", "acl-add", "blue", "to-lport", "20", "ip4", "drop"])?;
    let ordered = begin.elapsed();
    let mut last = (carried.received(), Instant::now());
    wait_until("what the ACL denies does not arrive any more", DONE_WITHIN, || {
        let received = carried.received();
        if received != last.0 {
            last = (received, Instant::now());
        }
        Ok(last.1.elapsed() >= SILENCE)
    })?;
    let denied = last.1.duration_since(begin).saturating_sub(ordered);
    println!(
        "    an ACL that denies: in OVN after {} ms, in force {} ms later",
        ordered.as_millis(),
        denied.as_millis()
    );
    ensure!(denied <= DENIED_WITHIN, "packets that an ACL denies passed for {denied:?}");
    fabric.agree()?;
    fabric.ovn.nbctl(&["--wait=hv", "acl-del", "blue"])?;
    fabric.in_hardware("what is allowed again", carried).map(drop)
}
