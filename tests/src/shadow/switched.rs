//! From mode shadow to mode steer, when Open vSwitch is told to offload by itself.

use std::time::Duration;

use lab_tests::harness::{
    self, Daemon, Demo, Failure, Lab, Outcome, Ovs, OvsDaemon, Received, SentByVf, ensure, run, wait_for,
    wait_until,
};

use super::scene::{EAGER, NIC, PORT, SETTLES_WITHIN, TAG, Traffic, dropped, in_hardware, one_megaflow_each};

const FLOWS: u16 = 4;
const PER_S: u64 = 200;
/// Packets that the switch may lose more with us than without: a quarter of a second of the stream, for a guest that is slow.
const FEW: u64 = 50;
/// A guest is not always as busy: what a restart of ovs-vswitchd may lose more with us than it did without.
const SLACK: Duration = Duration::from_secs(5);
/// What makes Open vSwitch offload by itself, as mode steer needs it.
const SWITCH: [&str; 5] =
    ["set", "Open_vSwitch", ".", "other_config:hw-offload=true", "other_config:tc-policy=skip_hw"];

pub(super) fn when_open_vswitch_is_switched_no_packet_goes_wrong_and_its_own_rules_are_steered(
    lab: &mut Lab,
) -> Outcome {
    let ovs = Ovs::start(lab, &["hw-offload=false"])?;
    let demo = Demo::up(&ovs)?;
    // Without flows, nothing is flooded to where it does not belong.
    ovs.vsctl(&["set-fail-mode", "br0", "secure"])?;
    rules(&ovs)?;
    let astray = Astray::watch(&demo)?;

    let switching_alone = switch_alone(&ovs, &demo)?;

    // What is lost until Open vSwitch has all of its flows is not what is asked here.
    let first = Traffic::start(&demo, FLOWS, PER_S)?;
    let mut daemon = Daemon::start(lab, &ovs, EAGER)?;
    in_hardware(usize::from(FLOWS))?;
    println!("    after its start ovs-vswitchd lost {} packets", lost(first)?);
    let before = dropped(&ovs)?;
    let traffic = Traffic::start(&demo, FLOWS, PER_S)?;
    come(&traffic, 50)?;
    in_hardware(usize::from(FLOWS))?;
    ovs.vsctl(&SWITCH)?;
    ours_are_gone()?;
    let status = daemon.json(&["status"])?;
    ensure!(status["mode"] == "observe", "the mode is {}", status["mode"]);
    let note = status["mode_note"].as_str().unwrap_or_default();
    ensure!(note.contains("hw-offload"), "why it is so: {note:?}");
    // The daemon that was told first, and ovs-vswitchd that does not offload all of it before its restart.
    daemon.configure(&EAGER.replace("mode = \"shadow\"", "mode = \"steer\""))?;
    daemon.signal("HUP")?;
    wait_until("the mode is steer", SETTLES_WITHIN, || Ok(daemon.json(&["status"])?["mode"] == "steer"))?;
    come(&traffic, 100)?;
    let switching = lost(traffic)?;
    let no_room = dropped(&ovs)? - before;
    println!(
        "    the switch lost {switching} packets with us, {no_room} of them for want of room, and {switching_alone} without us"
    );
    ensure!(
        switching <= no_room + switching_alone + FEW,
        "the switch lost {switching} packets, {no_room} of them for want of room, and {switching_alone} without us"
    );

    let traffic = Traffic::start(&demo, FLOWS, PER_S)?;
    come(&traffic, 50)?;
    restart(&ovs)?;
    let of_ovs = wait_for("Open vSwitch's rules are in hardware", SETTLES_WITHIN, || {
        let rules = NIC.rules()?;
        let steered = rules.lines().filter(|line| line.starts_with("port pf0vf0 ")).count();
        if steered >= usize::from(FLOWS) {
            return Ok(Some(rules));
        }
        Err(Failure::new(format!("the NIC has\n{rules}")))
    })?;
    ensure!(!of_ovs.contains(&format!("cookie {TAG}")), "a rule of ours is there:\n{of_ovs}");
    harness::agree(&NIC, &ovs, &daemon, SETTLES_WITHIN)?;
    let before = SentByVf::read("sn0pf0vf0")?;
    come(&traffic, 200)?;
    let moved = SentByVf::read("sn0pf0vf0")?.since(before);
    ensure!(moved.hardware > moved.slow, "of 200 packets {moved:?}");
    let with_us = lost(traffic)?;
    drop(daemon);
    let alone = restart_alone(&ovs, &demo)?;
    println!("    a restart of ovs-vswitchd lost {with_us} packets with us, and {alone} without us");
    let most = alone * 2 + PER_S * SLACK.as_secs();
    ensure!(with_us <= most, "{with_us} packets were lost, and without us {alone}");
    astray.none()
}

/// What the switch costs without us. It is switched back.
fn switch_alone(ovs: &Ovs, demo: &Demo<'_>) -> Outcome<u64> {
    let traffic = Traffic::start(demo, FLOWS, PER_S)?;
    come(&traffic, 50)?;
    ovs.vsctl(&SWITCH)?;
    come(&traffic, 100)?;
    let lost = lost(traffic)?;
    ovs.vsctl(&["set", "Open_vSwitch", ".", "other_config:hw-offload=false"])?;
    restart(ovs)?;
    Ok(lost)
}

/// What a restart of ovs-vswitchd costs without us.
fn restart_alone(ovs: &Ovs, demo: &Demo<'_>) -> Outcome<u64> {
    let traffic = Traffic::start(demo, FLOWS, PER_S)?;
    come(&traffic, 50)?;
    restart(ovs)?;
    come(&traffic, 100)?;
    lost(traffic)
}

fn rules(ovs: &Ovs) -> Outcome {
    ovs.ofctl(&["add-flow", "br0", "priority=50,arp,actions=normal"])?;
    one_megaflow_each(ovs, FLOWS, "output:sn0pf0vf1")
}

/// Ends ovs-vswitchd and starts it again, with its flows, which went with it.
fn restart(ovs: &Ovs) -> Outcome {
    ovs.signal(OvsDaemon::Vswitchd, "TERM")?;
    ovs.restart(OvsDaemon::Vswitchd)?;
    rules(ovs)
}

/// Waits until so many more packets have come.
fn come(traffic: &Traffic, more: u64) -> Outcome {
    let before = traffic.receiver.so_far().packets;
    wait_until(&format!("{more} more packets have come"), SETTLES_WITHIN, || {
        Ok(traffic.receiver.so_far().packets >= before + more)
    })
}

/// Ends a stream: how much of it did not come. None came twice.
fn lost(traffic: Traffic) -> Outcome<u64> {
    let sent = traffic.sender.stop()?;
    let received: Received = traffic.receiver.finish()?;
    ensure!(received.duplicated == 0, "packets came twice: {received:?}");
    ensure!(received.socket_drops == 0, "the receiver was too slow: {received:?}");
    sent.checked_sub(received.packets)
        .ok_or_else(|| Failure::new(format!("{sent} packets were sent and {received:?}")))
}

/// Waits until no rule of ours is left, neither in the NIC nor in TC.
fn ours_are_gone() -> Outcome {
    wait_until("no rule of ours is left", SETTLES_WITHIN, || {
        let mut there = NIC.rules()?.contains(&format!("cookie {TAG}"));
        for port in ["sn0p0", "sn0pf0vf0", "sn0pf0vf1", "sn0pf0vf2", "sn0pf0vf3"] {
            there |=
                run("tc", &["filter", "show", "dev", port, "ingress"])?.contains(&format!("cookie {TAG}"));
        }
        Ok(!there)
    })
}

/// Counts of the stream's packets where they do not belong: at the host behind the wire, and at the other two VFs.
struct Astray<'d> {
    demo: &'d Demo<'d>,
}

impl<'d> Astray<'d> {
    const VFS: [&'static str; 2] = ["sn0v2", "sn0v3"];

    fn watch(demo: &'d Demo<'d>) -> Outcome<Self> {
        let port = PORT.to_string();
        let filter = ["protocol", "ip", "flower", "skip_hw", "ip_proto", "udp", "dst_port", &port];
        for device in ["sn1p0"].into_iter().chain(Self::VFS) {
            let tc = |words: &[&str]| match device {
                "sn1p0" => demo.remote.run(&[&["tc"], words].concat()),
                _ => run("tc", words),
            };
            if device != "sn1p0" {
                run("ip", &["link", "set", device, "up", "promisc", "on"])?;
            }
            tc(&["qdisc", "add", "dev", device, "clsact"])?;
            let add =
                [&["filter", "add", "dev", device, "ingress"], &filter[..], &["action", "pass"]].concat();
            tc(&add)?;
        }
        Ok(Self { demo })
    }

    fn none(&self) -> Outcome {
        let show = |device| ["-s", "filter", "show", "dev", device, "ingress"];
        let mut shown = vec![self.demo.remote.run(&[&["tc"], &show("sn1p0")[..]].concat())?];
        for device in Self::VFS {
            shown.push(run("tc", &show(device))?);
        }
        for text in shown {
            ensure!(text.contains(" bytes 0 pkt"), "packets came where they do not belong:\n{text}");
        }
        Ok(())
    }
}
