//! A NIC that is reloaded, whose firmware fails and recovers, whose link flaps.

use lab_tests::harness::{
    Lab, Outcome, Ovs, OvsDaemon, Seen, TcWatch, ensure, ethtool_counters, netlink_sockets, run, wait_until,
};

use super::scene::{ALL_PORTS, FLOWS, Scene, bring_up};
use crate::faults::scene::{NIC, SETTLES_WITHIN, Traffic};

pub(super) fn a_reloaded_nic_is_used_again(lab: &mut Lab) -> Outcome {
    let ovs = Ovs::for_steering(lab)?;
    let scene = Scene::up(lab, &ovs)?;
    let traffic = scene.to_remote()?;
    scene.in_hardware(1)?;
    for _ in 0..2 {
        run("devlink", &["dev", "reload", &NIC.devlink()])?;
        bring_up(&ALL_PORTS)?;
        scene.reaches_remote()?;
        scene.still_flows(&traffic, 200)?;
        scene.settles()?;
        // Open vSwitch 3.5 asks TC about the devices of before from then on ("failed to offload flow: No such device"), with or
        // without us, and keeps what comes in by the new ones in its own datapath until it is started anew.
        ovs.signal(OvsDaemon::Vswitchd, "KILL")?;
        ovs.restart(OvsDaemon::Vswitchd)?;
        scene.divide_flows(lab)?;
        is_used_again(&scene, &traffic)?;
    }
    traffic.stop().map(drop)
}

pub(super) fn a_recovered_firmware_is_used_again(lab: &mut Lab) -> Outcome {
    let ovs = Ovs::for_steering(lab)?;
    let scene = Scene::up(lab, &ovs)?;
    let traffic = scene.to_remote()?;
    scene.in_hardware(1)?;
    // First it recovers by itself, then when somebody says so: meanwhile it takes no rule.
    NIC.set("health", "fw assertion failed at 0x1234")?;
    is_used_again(&scene, &traffic)?;
    let handle = NIC.devlink();
    run("devlink", &["health", "set", &handle, "reporter", "fw", "auto_recover", "false"])?;
    NIC.set("health", "fw assertion failed at 0x1235")?;
    Scene::flows_on(&traffic.receiver, 100)?;
    run("devlink", &["health", "recover", &handle, "reporter", "fw"])?;
    is_used_again(&scene, &traffic)?;
    traffic.stop().map(drop)
}

/// Ports are new, as an operator brings them up: flows are forwarded, then in hardware, and all views agree.
fn is_used_again(scene: &Scene<'_>, traffic: &Traffic) -> Outcome {
    bring_up(&ALL_PORTS)?;
    scene.reaches_remote_afresh()?;
    scene.still_flows(traffic, 200)?;
    scene.in_hardware(1)?;
    scene.settles()
}

pub(super) fn a_flapping_link_loses_no_rule(lab: &mut Lab) -> Outcome {
    let ovs = Ovs::for_steering(lab)?;
    let witness = TcWatch::start()?;
    let scene = Scene::up(lab, &ovs)?;
    let traffic = scene.to_remote()?;
    scene.in_hardware(1)?;
    let installs =
        || -> Outcome<u64> { Ok(ethtool_counters("sn0p0")?.get("hw_installs").copied().unwrap_or_default()) };
    let (before, seen) = (installs()?, witness.len());
    let carrier = |wanted: &'static str| {
        wait_until(&format!("the uplink's carrier is {wanted}"), SETTLES_WITHIN, || {
            Ok(std::fs::read_to_string("/sys/class/net/sn0p0/carrier")?.trim() == wanted)
        })
    };
    for _ in 0..5 {
        NIC.set("link", "0")?;
        carrier("0")?;
        NIC.set("link", "1")?;
        carrier("1")?;
    }
    Scene::flows_on(&traffic.receiver, 200)?;
    scene.in_hardware(1)?;
    scene.settles()?;
    let more = installs()? - before;
    // What Open vSwitch has out of hardware, as it decides otherwise while the link is away, is placed once more. In a slow
    // guest that is at each flap.
    let ours = netlink_sockets(scene.daemon.pid())?;
    let taken_out = |seen: &&Seen| seen.was_in_hw && !seen.in_hw && !ours.contains(&seen.portid);
    let taken_out = witness.changes(|_| true)?.split_off(seen).iter().filter(taken_out).count() as u64;
    // And those of a learned address that is forgotten, and of what the hosts say by themselves.
    ensure!(
        more <= taken_out + u64::from(FLOWS) + 10,
        "{more} rules were installed anew, and Open vSwitch took {taken_out} out"
    );
    traffic.stop().map(drop)
}
