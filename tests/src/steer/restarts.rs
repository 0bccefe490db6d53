//! Open vSwitch and the NIC fall over: forwarding goes on, and everybody agrees again afterwards.

use std::time::{Duration, Instant};

use lab_tests::harness::{Daemon, Demo, Lab, Outcome, Ovs, OvsDaemon, agree, ensure, wait_for, wait_until};

use super::{FAST, FAST_PER_S, NIC, PLACED_WITHIN, Traffic, in_hardware, set_rule, start_daemon, ufid};

/// A topology with the fast flow under way and in hardware, what `fault` does to it, and what holds afterwards: the flow
/// is in hardware again, all agree, and nothing was lost but what was sent in the time that `fault` says Open vSwitch did
/// not forward in, and a second more.
fn survive(lab: &Lab, fault: impl FnOnce(&Ovs, &Daemon, &Traffic) -> Outcome<Option<Duration>>) -> Outcome {
    let ovs = Ovs::for_steering(lab)?;
    let demo = Demo::up(&ovs)?;
    set_rule(&ovs, FAST, "output:sn0p0")?;
    let traffic = Traffic::fast(&demo)?;
    let daemon = start_daemon(lab, &ovs)?;
    in_hardware(&daemon, FAST)?;
    agree(&NIC, &ovs, &daemon, PLACED_WITHIN)?;
    let away = fault(&ovs, &daemon, &traffic)?;
    let loss_max = away.map_or(0, |away| FAST_PER_S * (away.as_secs() + 2));
    wait_for("the flow is in the NIC, and all agree", PLACED_WITHIN, || {
        let flow = in_hardware(&daemon, FAST)?;
        Ok(agree(&NIC, &ovs, &daemon, Duration::ZERO)?.hardware.get(ufid(&flow)).map(drop))
    })?;
    let (sent, lost) = traffic.stop()?;
    println!("    of {sent} packets {lost} were lost; at most {loss_max} may be");
    ensure!(lost <= loss_max, "of {sent} packets {lost} were lost, more than {loss_max}");
    Ok(())
}

pub(super) fn the_flow_is_promoted_again_after_vswitchd_was_killed(lab: &mut Lab) -> Outcome {
    survive(lab, |ovs, daemon, traffic| {
        ovs.signal(OvsDaemon::Vswitchd, "KILL")?;
        let so_far = traffic.receiver.so_far().packets;
        wait_until("a thousand packets have come without ovs-vswitchd", PLACED_WITHIN, || {
            Ok(traffic.receiver.so_far().packets >= so_far + 1000)
        })?;
        connection_is(daemon, "vswitchd", false)?;
        // While Open vSwitch starts, it drops what comes by ports that it has not set up yet.
        let away = Instant::now();
        ovs.restart(OvsDaemon::Vswitchd)?;
        // Its OpenFlow rules went with it, and a controller puts them back.
        set_rule(ovs, FAST, "output:sn0p0")?;
        connection_is(daemon, "vswitchd", true)?;
        Ok(Some(away.elapsed()))
    })
}

pub(super) fn nothing_is_lost_while_the_database_server_is_away(lab: &mut Lab) -> Outcome {
    survive(lab, |ovs, daemon, traffic| {
        ovs.signal(OvsDaemon::Ovsdb, "KILL")?;
        connection_is(daemon, "ovsdb", false)?;
        let so_far = traffic.receiver.so_far().packets;
        wait_until("five hundred packets have come without ovsdb-server", PLACED_WITHIN, || {
            Ok(traffic.receiver.so_far().packets >= so_far + 500)
        })?;
        ovs.restart(OvsDaemon::Ovsdb)?;
        connection_is(daemon, "ovsdb", true)?;
        Ok(None)
    })
}

pub(super) fn a_port_that_is_removed_and_added_again_has_its_flows_promoted_again(lab: &mut Lab) -> Outcome {
    // Without its port the workload is cut off: what it sends until it is back is lost, and that is right.
    survive(lab, |ovs, daemon, _| {
        let away = Instant::now();
        ovs.vsctl(&["del-port", "br0", "sn0pf0vf0"])?;
        wait_until("no flow of the port is left in our tables nor in the NIC", PLACED_WITHIN, || {
            let ours = daemon.flows()?.iter().any(|flow| flow["port"] == "sn0pf0vf0");
            Ok(!ours && !NIC.rules()?.contains("port pf0vf0 "))
        })?;
        ovs.vsctl(&["add-port", "br0", "sn0pf0vf0"])?;
        Ok(Some(away.elapsed()))
    })
}

pub(super) fn rules_that_the_nic_lost_in_a_reset_are_noticed_and_placed_again(lab: &mut Lab) -> Outcome {
    survive(lab, |_, daemon, _| {
        NIC.set("reset", "1")?;
        wait_until("the loss is noticed", PLACED_WITHIN, || {
            Ok(daemon.json(&["status"])?["done"]["lost_in_hardware"].as_u64() >= Some(1))
        })?;
        Ok(None)
    })
}

/// Waits until `status` says that the connection `name` is up, or that it is down.
fn connection_is(daemon: &Daemon, name: &str, up: bool) -> Outcome {
    wait_until(&format!("`status` says up={up} of {name}"), PLACED_WITHIN, || {
        let status = daemon.json(&["status"])?;
        let connections = status["connections"].as_array().cloned().unwrap_or_default();
        Ok(connections.iter().any(|connection| connection["name"] == name && connection["up"] == up))
    })
}
