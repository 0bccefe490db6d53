//! Open vSwitch's daemons that stop answering.

use std::time::Duration;

use lab_tests::harness::{Daemon, Demo, Lab, Outcome, Ovs, OvsDaemon, agree, ensure, wait_until};

use super::scene::{EAGER, Flows, NIC, SETTLES_WITHIN, connection, in_hardware, status};

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
