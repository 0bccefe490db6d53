//! How connections come into hardware and leave it: idle, flushed, closed, too many, and with their rules.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use super::conntrack::{MOVES_WITHIN, PIPELINE, Tracked, answer, segment};
use super::frame::{L4, frame};
use super::rig::{batch, counter_of};
use super::tcp::{transfer, two_ends};
use crate::harness::{Demo, Lab, Outcome, Ovs, ensure, run, wait_until};
use crate::io::conntrack;

/// A setting of conntrack's, set back when dropped.
struct Setting {
    path: String,
    before: String,
}

impl Setting {
    fn set(name: &str, value: &str) -> Outcome<Self> {
        let path = format!("/proc/sys/net/netfilter/{name}");
        let before = fs::read_to_string(&path)?;
        fs::write(&path, value)?;
        Ok(Self { path, before })
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        // A test that rests on another value sets it.
        let _ = fs::write(&self.path, &self.before);
    }
}

/// Only hardware sees its packets, and that keeps it there for longer than an idle one stays.
pub(super) fn an_idle_connection_leaves_the_hardware_and_a_busy_one_does_not(_: &mut Lab) -> Outcome {
    let tracked = Tracked::new()?;
    let _timeout = Setting::set("nf_flowtable_tcp_timeout", "3")?;
    let (busy, idle) = (segment(80), segment(81));
    tracked.establish(1, &busy)?;
    tracked.establish(1, &idle)?;
    let (slow, begin) = (tracked.slow()?, Instant::now());
    wait_until("the idle connection has left", MOVES_WITHIN, || {
        tracked.exchange(1, &busy)?;
        Ok(!tracked.connections()?.contains(":81"))
    })?;
    while begin.elapsed() < Duration::from_secs(6) {
        tracked.exchange(1, &busy)?;
        thread::sleep(Duration::from_millis(50));
    }
    let shown = tracked.connections()?;
    ensure!(shown.matches(":80").count() == 2, "the busy connection has left: {shown}");
    ensure!(tracked.slow()? == slow, "the host saw {} packets", tracked.slow()? - slow);
    tracked.wait_for_connections(0)?;
    // It is still a connection: software takes it on, and it comes back.
    tracked.establish(1, &busy)
}

pub(super) fn a_flush_of_conntrack_takes_connections_out_of_hardware(_: &mut Lab) -> Outcome {
    let tracked = Tracked::new()?;
    for port in 80..84 {
        tracked.establish(1, &segment(port))?;
    }
    tracked.wait_for_connections(8)?;
    conntrack::flush()?;
    tracked.wait_for_connections(0)?;
    tracked.establish(1, &segment(80))?;
    tracked.ensure_in_hardware(1, &segment(80))
}

/// One connection has room, the others pass by software; with more room they come in.
pub(super) fn a_full_connection_table_leaves_the_rest_to_software(_: &mut Lab) -> Outcome {
    let tracked = Tracked::new()?;
    tracked.rig.nic.set("conn_table_size", "2")?;
    tracked.establish(1, &segment(80))?;
    let slow = tracked.slow()?;
    for round in 0..8 {
        for port in 81..84 {
            tracked.exchange(1, &segment(port))?;
        }
        ensure!(tracked.counter("hw_connections")? == 2, "more than 2 in round {round}");
    }
    ensure!(tracked.slow()? == slow + 48, "the host saw {} of 48 packets", tracked.slow()? - slow);
    ensure!(tracked.counter("hw_connection_refusals")? > 0, "none was refused");
    tracked.ensure_in_hardware(1, &segment(80))?;
    tracked.rig.nic.set("conn_table_size", "100")?;
    tracked.establish(1, &segment(81))
}

/// What the firmware does not take at first it is asked to take again.
pub(super) fn a_connection_whose_install_fails_comes_in_later(_: &mut Lab) -> Outcome {
    let tracked = Tracked::new()?;
    for nth in 1..=2 {
        tracked.rig.nic.set("fail", &format!("conn_install {nth} 12"))?;
    }
    let frame = segment(80);
    wait_until("both directions have been refused", MOVES_WITHIN, || {
        tracked.exchange(1, &frame)?;
        Ok(tracked.counter("hw_connection_refusals")? == 2)
    })?;
    tracked.establish(1, &frame)
}

/// FIN and RST of a connection that is in hardware are conntrack's to see, and take it out.
pub(super) fn fin_and_reset_go_to_software_and_end_the_connection(_: &mut Lab) -> Outcome {
    let tracked = Tracked::new()?;
    for (port, flags) in [(80, 0x11), (81, 0x14)] {
        tracked.establish(1, &segment(port))?;
        tracked.wait_for_connections(2)?;
        let slow = tracked.slow()?;
        let last = frame().v4(|ip| ip.l4 = L4::Tcp { src: 1000, dst: port, flags });
        // Whether it goes on to the other end is conntrack's decision, which looks at its sequence number.
        tracked.ends[0].send(&last.encode(0))?;
        wait_until("the host sees the end of the connection", MOVES_WITHIN, || {
            Ok(tracked.slow()? == slow + 1)
        })?;
        tracked.wait_for_connections(0)?;
        while tracked.ends[1].receive(Duration::from_millis(30))?.is_some() {}
    }
    Ok(())
}

/// The last rule of a zone takes its connections along; rules that come anew get them again.
pub(super) fn a_zones_connections_go_and_come_with_its_rules(_: &mut Lab) -> Outcome {
    let tracked = Tracked::new()?;
    let frame = segment(80);
    tracked.establish(1, &frame)?;
    tracked.clear()?;
    ensure!(tracked.counter("hw_connections")? == 0, "connections without rules");
    ensure!(tracked.rig.nic.shown("zones")?.is_empty(), "a zone without rules");
    tracked.set(&PIPELINE)?;
    tracked.establish(1, &frame)?;
    // A reset loses all of it at once, and TC is not told.
    tracked.rig.nic.set("reset", "1")?;
    ensure!(tracked.counter("hw_connections")? == 0, "connections outlive the reset");
    tracked.exchange(1, &frame)?;
    tracked.clear()?;
    tracked.set(&PIPELINE)?;
    tracked.establish(1, &frame)
}

/// The NIC goes while connections are in it and traffic passes; the module unloads, and conntrack goes on.
pub(super) fn a_nic_with_connections_is_unplugged_under_traffic(_: &mut Lab) -> Outcome {
    let tracked = Tracked::new()?;
    for port in 80..84 {
        tracked.establish(1, &segment(port))?;
    }
    let there = segment(80).encode(0);
    let back = answer(&segment(80)).encode(0);
    thread::scope(|scope| -> Outcome {
        // Each ends when its VF is gone.
        for (end, bytes) in [(0, &there), (1, &back)] {
            let socket = tracked.rig.vf(end)?;
            scope.spawn(move || while socket.send(bytes).is_ok() {});
        }
        fs::write("/sys/bus/simnic/del_device", "0")?;
        Ok(())
    })?;
    drop(tracked);
    run("modprobe", &["-r", "simnic"])?;
    let again = Tracked::new()?;
    again.establish(1, &segment(80))
}

/// A real connection, from its SYN to its FIN, with TSO: what is in between passes by hardware.
pub(super) fn tcp_passes_conntrack_in_hardware(lab: &mut Lab) -> Outcome {
    conntrack::flush()?;
    let (nic, client, server) = two_ends(lab, "10.7.0.1/16", ["10.7.9.9", "10.7.0.2"])?;
    for (vf, out) in [(0, nic.representor(1)), (1, nic.representor(0))] {
        let device = nic.representor(vf);
        let filter = |chain: u32, state: &str, actions: &str| {
            let actions = actions.replace("OUT", &format!("action mirred egress redirect dev {out}"));
            format!(
                "filter add dev {device} ingress chain {chain} prio 2 protocol ip flower ct_state {state} {actions}"
            )
        };
        batch(
            "tc",
            [
                filter(0, "-trk", "action ct zone 5 nat pipe action goto chain 1"),
                filter(1, "+trk+new", "action ct commit zone 5 nat src addr 10.7.0.2 pipe OUT"),
                filter(1, "+trk+est", "OUT"),
            ]
            .into_iter(),
        )?;
    }
    // Twice: once with what is large and still to be summed up, once with the senders doing all of it.
    for offloads in ["on", "off"] {
        for (netns, device) in [(&client, nic.vf(0)), (&server, nic.vf(1))] {
            netns.run(&["ethtool", "-K", &device, "tx", offloads, "tso", offloads, "gso", offloads])?;
        }
        let count =
            |name: &str| -> Outcome<u64> { (0..2).map(|vf| counter_of(&nic.representor(vf), name)).sum() };
        let (hard, soft) = (count("vf_tx_hw_packets")?, count("vf_tx_slow_packets")?);
        transfer(client.name(), server.name(), "10.7.9.9:5002", "10.7.9.9:5002")?;
        let (hard, soft) = (count("vf_tx_hw_packets")? - hard, count("vf_tx_slow_packets")? - soft);
        ensure!(hard >= 19 * soft, "{hard} packets passed by hardware, {soft} by the host");
    }
    wait_until("the connections have left the hardware", MOVES_WITHIN, || {
        Ok(counter_of(&nic.representor(0), "hw_connections")? == 0)
    })
}

/// Open vSwitch with all of its flows in hardware and an OpenFlow table that tracks, commits and forwards.
pub(super) fn tcp_through_open_vswitch_and_conntrack_passes_by_hardware(lab: &mut Lab) -> Outcome {
    conntrack::flush()?;
    let ovs = Ovs::start(lab, &["hw-offload=true"])?;
    let demo = Demo::up(&ovs)?;
    for flow in [
        "table=0,priority=10,ip,ct_state=-trk,actions=ct(table=1,zone=5)",
        "table=1,priority=10,ip,ct_state=+trk+new,actions=ct(commit,zone=5),normal",
        "table=1,priority=10,ip,ct_state=+trk+est,actions=normal",
    ] {
        ovs.ofctl(&["add-flow", "br0", flow])?;
    }
    let count = |name: &str| -> Outcome<u64> {
        ["sn0pf0vf0", "sn0pf0vf1"].into_iter().map(|device| counter_of(device, name)).sum()
    };
    let send = || transfer(demo.vm0.name(), demo.vm1.name(), "10.10.0.2:5002", "10.10.0.2:5002");
    // The first connection has Open vSwitch make the flows, which the others find.
    send()?;
    for _ in 0..2 {
        let (hard, soft) = (count("vf_tx_hw_packets")?, count("vf_tx_slow_packets")?);
        send()?;
        let (hard, soft) = (count("vf_tx_hw_packets")? - hard, count("vf_tx_slow_packets")? - soft);
        println!("    {hard} packets passed by hardware, {soft} by the host");
        ensure!(
            hard >= 19 * soft,
            "{hard} packets passed by hardware, {soft} by the host: {:?}",
            ovs.flows("tc")?
        );
    }
    wait_until("the connections have left the hardware", MOVES_WITHIN, || {
        Ok(counter_of("sn0pf0vf0", "hw_connections")? == 0)
    })
}
