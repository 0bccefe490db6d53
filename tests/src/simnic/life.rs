//! Devices that come, go, move and fail.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::frame::frame;
use super::rig::{Rig, hardware_packets, receive, tc, tc_refused};
use crate::harness::{Failure, Lab, Netns, Outcome, Simnic, ensure, run, wait_until};
use crate::io::packet_socket::PacketSocket;

/// The longest that a change of link or of a namespace may take to show.
pub(super) const SHOWS_WITHIN: Duration = Duration::from_secs(60);

pub(super) fn attribute(device: &str, name: &str) -> Outcome<String> {
    Ok(fs::read_to_string(format!("/sys/class/net/{device}/{name}"))?.trim().to_owned())
}

pub(super) fn exists(device: &str) -> bool {
    fs::exists(format!("/sys/class/net/{device}")).unwrap_or(false)
}

/// Switch IDs, port names and devlink ports are as tools expect them of a switchdev NIC.
pub(super) fn ports_carry_switch_ids_and_names(_: &mut Lab) -> Outcome {
    let nic = Simnic::new(0, 2)?;
    let other = Simnic::new(1, 1)?;
    ensure!(attribute(&nic.uplink(), "phys_switch_id").is_err(), "a switch ID in legacy mode");
    ensure!(!exists(&nic.representor(0)), "a representor in legacy mode");
    nic.set_mode("switchdev")?;
    other.set_mode("switchdev")?;
    let id = attribute(&nic.uplink(), "phys_switch_id")?;
    ensure!(id.len() == 16, "switch ID `{id}`");
    ensure!(attribute(&other.uplink(), "phys_switch_id")? != id, "two NICs have one switch ID");
    ensure!(attribute(&nic.uplink(), "phys_port_name")? == "p0", "uplink's name");
    for vf in 0..2 {
        ensure!(attribute(&nic.representor(vf), "phys_switch_id")? == id, "VF {vf}'s switch ID");
        ensure!(attribute(&nic.representor(vf), "phys_port_name")? == format!("pf0vf{vf}"), "VF {vf}'s name");
        ensure!(attribute(&nic.vf(vf), "phys_port_name").is_err(), "the VF's own netdev has a port name");
    }
    let ports = run("devlink", &["port", "show"])?;
    for line in [
        "simnic/simnic0/0: type eth netdev sn0p0 flavour physical port 0",
        "simnic/simnic0/2: type eth netdev sn0pf0vf1 flavour pcivf controller 0 pfnum 0 vfnum 1 external false",
    ] {
        ensure!(ports.contains(line), "no `{line}` in {ports}");
    }
    nic.set_mode("legacy")?;
    ensure!(!exists(&nic.representor(0)) && exists(&nic.vf(0)), "legacy mode has the wrong netdevs");
    Ok(())
}

/// `devlink port function set … hw_addr` gives the VF its MAC address.
pub(super) fn devlink_sets_the_vfs_mac_address(_: &mut Lab) -> Outcome {
    let nic = Simnic::new(0, 1)?;
    nic.set_mode("switchdev")?;
    let port = format!("{}/1", nic.devlink());
    run("devlink", &["port", "function", "set", &port, "hw_addr", "02:11:22:33:44:55"])?;
    ensure!(attribute(&nic.vf(0), "address")? == "02:11:22:33:44:55", "the VF's address");
    let shown = run("devlink", &["port", "show", &port])?;
    ensure!(shown.contains("hw_addr 02:11:22:33:44:55"), "{shown}");
    let multicast = run("devlink", &["port", "function", "set", &port, "hw_addr", "01:11:22:33:44:55"]);
    ensure!(multicast.is_err(), "a multicast address was taken");
    Ok(())
}

/// A namespace that goes away gives the VF and the representor in it back.
pub(super) fn a_deleted_namespace_gives_its_netdevs_back(lab: &mut Lab) -> Outcome {
    let rig = Rig::new()?;
    let (vf, rep) = (rig.nic.vf(2), rig.nic.representor(2));
    let netns = Netns::new(lab, "gone")?;
    for device in [&vf, &rep] {
        run("ip", &["link", "set", device, "netns", netns.name()])?;
    }
    ensure!(!exists(&vf) && !exists(&rep), "still here");
    drop(netns);
    wait_until("both are back", SHOWS_WITHIN, || Ok(exists(&vf) && exists(&rep)))?;
    // They work as before.
    super::rig::up(&[vf, rep])?;
    rig.filter(0, "protocol ip flower skip_sw action mirred egress redirect dev REP2")?;
    let out = rig.vf(2)?;
    rig.vf(0)?.send(&frame().encode(0))?;
    receive(&out, 1).map(drop)
}

/// The VF has link while its representor is up, the uplinks while the wire is whole.
pub(super) fn carrier_follows_the_link(_: &mut Lab) -> Outcome {
    let rig = Rig::new()?;
    let carrier = |device: String, wanted: &str| {
        let what = format!("carrier of {device} is {wanted}");
        wait_until(&what, SHOWS_WITHIN, || Ok(attribute(&device, "carrier")? == wanted))
    };
    carrier(rig.nic.vf(0), "1")?;
    run("ip", &["link", "set", &rig.nic.representor(0), "down"])?;
    carrier(rig.nic.vf(0), "0")?;
    run("ip", &["link", "set", &rig.nic.representor(0), "up"])?;
    carrier(rig.nic.vf(0), "1")?;

    rig.nic.set("link", "0")?;
    carrier(rig.nic.uplink(), "0")?;
    carrier(rig.remote.uplink(), "0")?;
    let remote = PacketSocket::open(&rig.remote.uplink())?;
    rig.filter(0, "protocol ip flower skip_sw action mirred egress redirect dev UPLINK")?;
    rig.vf(0)?.send(&frame().encode(0))?;
    receive(&remote, 0)?;
    ensure!(rig.uplink_count("drop_link_packets")? == 1, "the loss was not counted");
    rig.nic.set("link", "1")?;
    carrier(rig.remote.uplink(), "1")?;
    rig.vf(0)?.send(&frame().encode(0))?;
    receive(&remote, 1).map(drop)
}

/// A full table answers ENOSPC and says so; the rules in it go on.
pub(super) fn a_full_table_is_enospc_with_a_reason(_: &mut Lab) -> Outcome {
    let rig = Rig::new()?;
    rig.nic.set("table_size", "3")?;
    let rule = |port: u16, flag: &str| {
        format!(
            "filter add dev {} ingress prio 1 protocol ip flower ip_proto tcp dst_port {port} {flag} action drop",
            rig.nic.representor(0)
        )
    };
    for port in 1..=3 {
        tc(&rule(port, "skip_sw"))?;
    }
    let said = tc_refused(&rule(4, "skip_sw"))?;
    ensure!(said.contains("simnic: hardware table is full (3 rules)"), "{said}");
    tc(&rule(5, ""))?;
    let shown = tc(&format!("filter show dev {} ingress", rig.nic.representor(0)))?;
    ensure!(shown.matches(" in_hw ").count() + shown.matches("in_hw in_hw_count").count() >= 3, "{shown}");
    ensure!(shown.matches("not_in_hw").count() == 1, "{shown}");
    for (counter, value) in [("hw_rules", 3), ("hw_rules_max", 3), ("hw_installs", 3), ("hw_refusals", 2)] {
        ensure!(rig.count(0, counter)? == value, "{counter} is {}", rig.count(0, counter)?);
    }
    rig.nic.set("table_size", "4")?;
    tc(&rule(6, "skip_sw")).map(drop)
}

/// Injected refusals: by match, by action, with the text given, until cleared.
pub(super) fn injected_refusals_give_their_text(_: &mut Lab) -> Outcome {
    let rig = Rig::new()?;
    rig.nic.set("refuse", "match tcp_flags firmware cannot match TCP flags")?;
    rig.nic.set("refuse", "action vlan_push no VLAN push on this port")?;
    let add = |words: &str| rig.named(&format!("filter add dev REP0 ingress protocol ip flower {words}"));
    let flags = "ip_proto tcp tcp_flags 0x2/0x17 skip_sw action drop";
    let push = "skip_sw action vlan push id 3 action mirred egress redirect dev REP1";
    ensure!(tc_refused(&add(flags))?.contains("firmware cannot match TCP flags"), "no text for the match");
    ensure!(tc_refused(&add(push))?.contains("no VLAN push on this port"), "no text for the action");
    tc(&add("ip_proto tcp skip_sw action drop"))?;
    ensure!(rig.nic.set("refuse", "match colour it has none").is_err(), "an unknown match was taken");
    rig.nic.set("refuse", "clear")?;
    tc(&add(flags))?;
    tc(&add(push)).map(drop)
}

/// Rules are installed one after the other, each taking its time.
pub(super) fn install_latency_holds_up_each_rule(_: &mut Lab) -> Outcome {
    let rig = Rig::new()?;
    rig.nic.set("install_delay_us", "100000")?;
    let begin = Instant::now();
    for port in 0..5 {
        rig.filter(
            0,
            &format!("prio 1 protocol ip flower ip_proto tcp dst_port {port} skip_sw action drop"),
        )?;
    }
    let took = begin.elapsed();
    ensure!(took >= Duration::from_millis(500), "five rules took {took:?}");
    Ok(())
}

/// A reset loses all rules while TC believes in them; packets take the slow path, and all can be set up anew.
pub(super) fn a_reset_loses_rules_that_tc_believes_in(_: &mut Lab) -> Outcome {
    let rig = Rig::new()?;
    let device = rig.nic.representor(0);
    rig.filter(0, "protocol ip flower skip_sw action mirred egress redirect dev REP1")?;
    let (vf, out) = (rig.vf(0)?, rig.vf(1)?);
    vf.send(&frame().encode(0))?;
    receive(&out, 1)?;
    ensure!(hardware_packets(&device)? == 1, "not counted");
    rig.nic.set("reset", "1")?;
    let shown = tc(&format!("-s filter show dev {device} ingress"))?;
    ensure!(shown.contains("in_hw in_hw_count 1"), "TC noticed: {shown}");
    ensure!(rig.nic.rules()?.is_empty() && rig.count(0, "hw_rules")? == 0, "rules are left");
    vf.send(&frame().encode(0))?;
    receive(&out, 0)?;
    ensure!(rig.count(0, "vf_tx_slow_packets")? == 1, "not on the slow path");
    tc(&format!("filter delete dev {device} ingress"))?;
    rig.filter(0, "protocol ip flower skip_sw action mirred egress redirect dev REP1")?;
    vf.send(&frame().encode(0))?;
    receive(&out, 1).map(drop)
}

/// Leaving switchdev mode is refused while rules are offloaded.
pub(super) fn rules_keep_the_eswitch_in_switchdev_mode(_: &mut Lab) -> Outcome {
    let rig = Rig::new()?;
    rig.filter(0, "protocol ip flower skip_sw action drop")?;
    match rig.nic.set_mode("legacy") {
        Ok(()) => return Err(Failure::new("left switchdev mode under a rule")),
        Err(failure) => ensure!(failure.to_string().contains("offloaded rules"), "{failure}"),
    }
    tc(&rig.named("filter delete dev REP0 ingress"))?;
    rig.nic.set_mode("legacy")
}

/// Legacy mode is a plain NIC: by MAC address between VFs, PF and wire, broadcasts to all.
pub(super) fn legacy_mode_switches_by_mac_address(_: &mut Lab) -> Outcome {
    let nic = Simnic::new(0, 2)?;
    let remote = Simnic::new(1, 0)?;
    nic.wire(&remote)?;
    let devices = [nic.vf(0), nic.vf(1), nic.uplink(), remote.uplink()];
    super::rig::up(&devices)?;
    let [vf0, vf1, pf, wire] = devices.each_ref().map(|device| PacketSocket::open(device));
    let (vf0, vf1, pf, wire) = (vf0?, vf1?, pf?, wire?);
    let to = |device: &str| -> Outcome<Vec<u8>> {
        let text = attribute(device, "address")?;
        let bytes: Result<Vec<u8>, _> = text.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect();
        Ok([bytes?, frame().encode(0).split_off(6)].concat())
    };
    let everyone = [vec![0xff; 6], frame().encode(0).split_off(6)].concat();
    vf0.send(&to(&nic.vf(1))?)?;
    receive(&vf1, 1)?;
    vf0.send(&to(&nic.uplink())?)?;
    receive(&pf, 1)?;
    pf.send(&to(&nic.vf(0))?)?;
    receive(&vf0, 1)?;
    vf0.send(&to(&remote.uplink())?)?;
    receive(&wire, 1)?;
    wire.send(&to(&nic.vf(1))?)?;
    receive(&vf1, 1)?;
    vf0.send(&everyone)?;
    for socket in [&vf1, &pf, &wire] {
        receive(socket, 1)?;
    }
    for socket in [&vf0, &vf1, &pf, &wire] {
        receive(socket, 0)?;
    }
    Ok(())
}

/// Devices, then the module, go away while packets are in flight and filters are bound, again and again.
pub(super) fn everything_unloads_under_traffic_with_rules_bound(_: &mut Lab) -> Outcome {
    for round in 0..6 {
        let rig = Rig::new()?;
        rig.filter(0, "protocol ip flower skip_sw action mirred egress mirror dev REP2 pipe action mirred egress redirect dev UPLINK")?;
        rig.filter_on(
            &rig.nic.uplink(),
            "protocol ip flower skip_sw action mirred egress redirect dev REP1",
        )?;
        let (stop, vf) = (AtomicBool::new(false), rig.vf(0)?);
        let (slow, remote) = (rig.vf(1)?, PacketSocket::open(&rig.remote.uplink())?);
        thread::scope(|scope| {
            for socket in [&vf, &slow, &remote] {
                scope.spawn(|| {
                    let bytes = frame().encode(0);
                    // Once the device is down or gone, sending fails: the flood goes on until it is told to stop.
                    while !stop.load(Ordering::Relaxed) {
                        let _ = socket.send(&bytes);
                    }
                });
            }
            let busy = wait_until("traffic flows", SHOWS_WITHIN, || {
                Ok(rig.count(0, "vf_tx_hw_packets")? > 50 && rig.count(1, "vf_tx_slow_packets")? > 50)
            });
            let gone = busy.and_then(|()| match round % 3 {
                0 => fs::write("/sys/bus/simnic/del_device", "0").map_err(Failure::from),
                1 => fs::write("/sys/bus/simnic/del_device", "1").map_err(Failure::from),
                _ => run("rmmod", &["simnic"]).map(drop),
            });
            stop.store(true, Ordering::Relaxed);
            gone
        })?;
        drop(rig);
    }
    // And without a device.
    run("modprobe", &["simnic"])?;
    run("rmmod", &["simnic"]).map(drop)
}

/// Modes change back and forth under traffic.
pub(super) fn the_eswitch_mode_changes_under_traffic(_: &mut Lab) -> Outcome {
    let rig = Rig::new()?;
    let (stop, vf) = (AtomicBool::new(false), rig.vf(0)?);
    thread::scope(|scope| {
        scope.spawn(|| {
            let bytes = frame().encode(0);
            while !stop.load(Ordering::Relaxed) {
                let _ = vf.send(&bytes);
            }
        });
        let changed = (0..8).try_for_each(|round| rig.nic.set_mode(["legacy", "switchdev"][round % 2]));
        stop.store(true, Ordering::Relaxed);
        changed
    })
}

/// Bad requests on the bus are refused and leave everything as it was.
pub(super) fn bad_bus_requests_are_refused(_: &mut Lab) -> Outcome {
    let nic = Simnic::new(0, 1)?;
    let bus = |file: &str, text: &str| fs::write(format!("/sys/bus/simnic/{file}"), text).is_err();
    for (file, text) in [
        ("new_device", "0 1"),
        ("new_device", "5"),
        ("new_device", "5 257"),
        ("new_device", "5 2 1"),
        ("new_device", "256 1"),
        ("new_device", "x y"),
        ("del_device", "9"),
        ("wire", "0 0"),
        ("wire", "0 9"),
    ] {
        ensure!(bus(file, text), "`{text}` to {file} was accepted");
    }
    for (file, text) in
        [("table_size", "2000000"), ("link", "2"), ("reset", "0"), ("counter_delay_ms", "600000")]
    {
        ensure!(nic.set(file, text).is_err(), "`{text}` to {file} was accepted");
    }
    ensure!(exists(&nic.vf(0)) && !exists("sn5p0"), "the devices are not what they were");
    Ok(())
}
