//! Notifications that are lost, and Open vSwitch's daemons that stop answering.

use std::time::Duration;

use lab_tests::harness::{Daemon, Demo, Failure, Lab, Outcome, Ovs, OvsDaemon, agree, ensure, wait_until};

use super::scene::{EAGER, Flows, NIC, SETTLES_WITHIN, connection, in_hardware, status};

const FLOWS: u32 = 200;
/// The longest an answer may take while something else is silent.
const ANSWERS_WITHIN: Duration = Duration::from_secs(3);

/// Waits until `status` says that `name` is up or not; every answer on the way has to come soon.
fn said_to_be(daemon: &Daemon, ovs: &Ovs, name: &str, up: bool) -> Outcome<String> {
    let mut detail = String::new();
    wait_until(
        &format!("`status` says that {name} is {}", if up { "up" } else { "down" }),
        SETTLES_WITHIN,
        || {
            let (status, took) = status(daemon, ovs)?;
            ensure!(took < ANSWERS_WITHIN, "`status` took {took:?}");
            let (is_up, said, _) = connection(&status, name)?;
            detail = said;
            Ok(is_up == up)
        },
    )?;
    Ok(detail)
}

pub(super) fn after_lost_notifications_everything_is_read_afresh(lab: &mut Lab) -> Outcome {
    let ovs = Ovs::for_steering(lab)?;
    let demo = Demo::up(&ovs)?;
    Flows::new(FLOWS).one_megaflow_each(lab, &ovs, "NORMAL")?;
    let traffic = Flows::new(FLOWS).start(&demo, 400)?;
    let small = format!("{EAGER}limits.socket-buffer = 65536\n");
    let mut daemon = Daemon::start(lab, &ovs, &small)?;
    in_hardware(&daemon, &ovs, u64::from(FLOWS))?;
    let (before, ..) = status(&daemon, &ovs)?;
    let (_, _, overruns) = connection(&before, "netlink")?;
    // A daemon that gets no processor for a moment, while Open vSwitch changes every flow.
    daemon.signal("STOP")?;
    Flows::new(FLOWS).one_megaflow_each(lab, &ovs, "mod_nw_tos:32,NORMAL")?;
    let changed = wait_until("Open vSwitch has changed every flow", SETTLES_WITHIN, || {
        let flows = ovs.flows("tc")?;
        let changed = flows.iter().filter(|flow| flow.contains("tos=0x20")).count();
        (changed >= FLOWS as usize)
            .then_some(true)
            .ok_or_else(|| Failure::new(format!("{changed} are changed")))
    });
    daemon.signal("CONT")?;
    changed?;
    wait_until("the overrun is counted in `status`", SETTLES_WITHIN, || {
        let (status, _) = status(&daemon, &ovs)?;
        let (_, _, now) = connection(&status, "netlink")?;
        (now > overruns).then_some(true).ok_or_else(|| Failure::new(format!("{status}")))
    })?;
    in_hardware(&daemon, &ovs, u64::from(FLOWS))?;
    let agreed = agree(&NIC, &ovs, &daemon, SETTLES_WITHIN)?;
    println!("after the overrun {} flows are in hardware", agreed.hardware.len());
    let flows = ovs.flows("tc")?;
    let old = flows.iter().find(|flow| flow.contains("dst=7000") && !flow.contains("tos=0x20"));
    ensure!(old.is_none(), "replaced actions came back: {old:?}");
    let (sent, lost) = traffic.stop()?;
    ensure!(lost == 0, "of {sent} packets {lost} were lost");
    Ok(())
}

pub(super) fn a_silent_database_server_is_reported_and_found_again(lab: &mut Lab) -> Outcome {
    let ovs = Ovs::for_steering(lab)?;
    let demo = Demo::up(&ovs)?;
    Flows::new(2).one_megaflow_each(lab, &ovs, "NORMAL")?;
    let daemon = Daemon::start(lab, &ovs, EAGER)?;
    let traffic = Flows::new(2).start(&demo, 100)?;
    in_hardware(&daemon, &ovs, 2)?;
    ovs.signal(OvsDaemon::Ovsdb, "STOP")?;
    let said = said_to_be(&daemon, &ovs, "ovsdb", false);
    let placed = in_hardware(&daemon, &ovs, 2);
    ovs.signal(OvsDaemon::Ovsdb, "CONT")?;
    let said = said?;
    ensure!(!said.is_empty(), "`status` does not say why ovsdb is down");
    println!("ovsdb-server stopped: {said}");
    placed?;
    said_to_be(&daemon, &ovs, "ovsdb", true)?;
    // What is set afterwards arrives.
    ovs.vsctl(&["set", "Open_vSwitch", ".", "external_ids:offloadd-nic-capacity=17"])?;
    wait_until("a setting of the database is in force", SETTLES_WITHIN, || {
        Ok(status(&daemon, &ovs)?.0["nics"][0]["capacity"] == 17)
    })?;
    let (sent, lost) = traffic.stop()?;
    ensure!(lost == 0, "of {sent} packets {lost} were lost");
    Ok(())
}

pub(super) fn a_vswitchd_that_stops_is_reported_and_found_again(lab: &mut Lab) -> Outcome {
    let ovs = Ovs::for_steering(lab)?;
    let demo = Demo::up(&ovs)?;
    Flows::new(2).one_megaflow_each(lab, &ovs, "NORMAL")?;
    let daemon = Daemon::start(lab, &ovs, &format!("{EAGER}ovs.vswitchd-timeout = \"2 s\"\n"))?;
    let traffic = Flows::new(2).start(&demo, 100)?;
    in_hardware(&daemon, &ovs, 2)?;
    ovs.signal(OvsDaemon::Vswitchd, "STOP")?;
    let said = said_to_be(&daemon, &ovs, "vswitchd", false);
    let placed = in_hardware(&daemon, &ovs, 2);
    ovs.signal(OvsDaemon::Vswitchd, "CONT")?;
    let said = said?;
    ensure!(said.contains("does not answer"), "`status` says of a stopped ovs-vswitchd: {said}");
    placed?;
    said_to_be(&daemon, &ovs, "vswitchd", true)?;
    Flows::new(2).one_megaflow_each(lab, &ovs, "mod_nw_tos:32,NORMAL")?;
    wait_until("a change by Open vSwitch is in TC", SETTLES_WITHIN, || {
        Ok(ovs.flows("tc")?.iter().filter(|flow| flow.contains("tos=0x20")).count() == 2)
    })?;
    in_hardware(&daemon, &ovs, 2)?;
    agree(&NIC, &ovs, &daemon, SETTLES_WITHIN)?;
    let (sent, lost) = traffic.stop()?;
    ensure!(lost == 0, "of {sent} packets {lost} were lost");
    Ok(())
}
