//! Where packets go and what counts them: slow path, wire, chains, blocks, replaced filters.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::frame::{Frame, frame, tcp, udp};
use super::rig::{Rig, counter_of, hardware_packets, hex, receive, tc, tc_refused};
use crate::harness::{Failure, Lab, Need, Outcome, ensure, wait_until};
use crate::io::packet_socket::PacketSocket;

/// The longest that counters may take to settle.
const SETTLES_WITHIN: Duration = Duration::from_secs(60);

fn frames(count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|id| frame().encode(id)).collect()
}

fn send_all(socket: &PacketSocket, frames: &[Vec<u8>]) -> Outcome {
    for frame in frames {
        socket.send(frame)?;
    }
    Ok(())
}

fn ensure_same(got: &[Vec<u8>], sent: &[Vec<u8>]) -> Outcome {
    for (got, sent) in got.iter().zip(sent) {
        ensure!(got == sent, "got {} for {}", hex(got), hex(sent));
    }
    ensure!(got.len() == sent.len(), "{} of {} arrived", got.len(), sent.len());
    Ok(())
}

/// Without a rule, what a VF sends is at its representor and what the representor sends is at the VF.
pub(super) fn a_miss_goes_up_the_representor_and_down_again(_: &mut Lab) -> Outcome {
    let rig = Rig::new()?;
    let (vf, rep) = (rig.vf(0)?, PacketSocket::open(&rig.nic.representor(0))?);
    let sent = frames(50);
    send_all(&vf, &sent)?;
    ensure_same(&receive(&rep, sent.len())?, &sent)?;
    send_all(&rep, &sent)?;
    ensure_same(&receive(&vf, sent.len())?, &sent)?;
    let bytes = sent.iter().map(|frame| frame.len() as u64).sum::<u64>();
    for (counter, value) in [
        ("vf_tx_slow_packets", 50),
        ("vf_rx_slow_packets", 50),
        ("vf_tx_slow_bytes", bytes),
        ("vf_rx_slow_bytes", bytes),
        ("vf_tx_hw_packets", 0),
        ("vf_rx_hw_packets", 0),
    ] {
        let seen = rig.count(0, counter)?;
        ensure!(seen == value, "{counter} is {seen}, not {value}");
    }
    Ok(())
}

/// VF to wire, wire to VF, each by a rule; the hosts in between see nothing and everything is counted.
pub(super) fn a_rule_forwards_between_a_vf_and_the_wire_past_the_host(_: &mut Lab) -> Outcome {
    let rig = Rig::new()?;
    rig.filter(0, "protocol ip flower skip_sw action mirred egress redirect dev UPLINK")?;
    rig.filter_on(&rig.nic.uplink(), "protocol ip flower skip_sw action mirred egress redirect dev REP0")?;
    let (vf, remote) = (rig.vf(0)?, PacketSocket::open(&rig.remote.uplink())?);
    let (rep, uplink) =
        (PacketSocket::open(&rig.nic.representor(0))?, PacketSocket::open(&rig.nic.uplink())?);
    let sent = frames(200);
    send_all(&vf, &sent)?;
    ensure_same(&receive(&remote, 200)?, &sent)?;
    send_all(&remote, &sent)?;
    ensure_same(&receive(&vf, 200)?, &sent)?;
    receive(&rep, 0)?;
    receive(&uplink, 0)?;
    for counter in ["vf_tx_hw_packets", "vf_rx_hw_packets"] {
        ensure!(rig.count(0, counter)? == 200, "{counter} is {}", rig.count(0, counter)?);
    }
    for counter in ["wire_rx_hw_packets", "wire_tx_hw_packets"] {
        ensure!(rig.uplink_count(counter)? == 200, "{counter} is {}", rig.uplink_count(counter)?);
    }
    ensure!(hardware_packets(&rig.nic.representor(0))? == 200, "TC does not have the rule's 200 packets");
    ensure!(rig.count(0, "vf_tx_slow_packets")? == 0, "a packet took the slow path");
    Ok(())
}

/// Chains: the last one decides, every rule on the way counts.
pub(super) fn goto_chain_goes_on_with_the_packet_as_changed(_: &mut Lab) -> Outcome {
    let rig = Rig::new()?;
    rig.filter(0, "chain 0 protocol ip flower skip_sw action vlan push id 5 action goto chain 70000")?;
    rig.filter(
        0,
        "chain 70000 protocol 802.1q flower vlan_id 5 skip_sw action vlan pop action goto chain 3",
    )?;
    rig.filter(0, "chain 3 protocol ip flower ip_proto tcp skip_sw action mirred egress redirect dev REP1")?;
    let (vf, out) = (rig.vf(0)?, rig.vf(1)?);
    let sent = frames(10);
    send_all(&vf, &sent)?;
    ensure_same(&receive(&out, 10)?, &sent)?;
    let rules = rig.nic.rules()?;
    ensure!(rules.matches(" packets 10 ").count() == 3, "not every rule counted 10: {rules}");
    Ok(())
}

/// A miss on a later chain undoes all: the representor gets the packet as it was sent, and nothing else saw it. Unless
/// the host can go on from there: then it gets the packet as it is by then, and what was done is done.
pub(super) fn a_miss_on_a_later_chain_is_undone_unless_the_host_goes_on(_: &mut Lab) -> Outcome {
    let goes_on = Need::Ct.lacking().is_none();
    let rig = Rig::new()?;
    rig.filter(
        0,
        "chain 0 protocol ip flower ip_proto tcp skip_sw action mirred egress mirror dev REP2 pipe \
         action pedit ex munge ip ttl dec munge tcp dport set 99 pipe action csum ip4h and tcp pipe \
         action vlan push id 5 action goto chain 1",
    )?;
    rig.filter(0, "chain 1 protocol 802.1q flower vlan_id 6 skip_sw action mirred egress redirect dev REP1")?;
    let (vf, rep, copy) = (rig.vf(0)?, PacketSocket::open(&rig.nic.representor(0))?, rig.vf(2)?);
    let sent = frames(10);
    let changed = frame().v4(|ip| (ip.ttl, ip.l4) = (63, tcp(1000, 99))).tag(0x8100, 5);
    let changed: Vec<Vec<u8>> = (0..10).map(|id| changed.encode(id)).collect();
    send_all(&vf, &sent)?;
    ensure_same(&receive(&rep, 10)?, if goes_on { &changed } else { &sent })?;
    ensure_same(&receive(&copy, if goes_on { 10 } else { 0 })?, if goes_on { &sent } else { &[] })?;
    let rules = rig.nic.rules()?;
    let counted = rules.matches(" packets 10 ").count();
    ensure!(counted == usize::from(goes_on), "{counted} rules counted: {rules}");
    let bytes = sent.iter().map(|frame| frame.len() as u64).sum::<u64>();
    let slow = rig.count(0, "vf_tx_slow_bytes")?;
    ensure!(slow == bytes, "{slow} bytes are counted as slow, {bytes} were sent");
    ensure!(rig.count(0, "vf_tx_slow_packets")? == 10, "not counted as slow");
    Ok(())
}

/// Lower priority numbers first, and a priority's protocol is part of its match.
pub(super) fn priorities_decide_between_rules_that_both_match(_: &mut Lab) -> Outcome {
    let rig = Rig::new()?;
    rig.filter(0, "prio 20 protocol all flower skip_sw action mirred egress redirect dev REP1")?;
    rig.filter(0, "prio 10 protocol ip flower ip_proto udp skip_sw action mirred egress redirect dev REP2")?;
    let (vf, first, second) = (rig.vf(0)?, rig.vf(1)?, rig.vf(2)?);
    vf.send(&frame().v4(|ip| ip.l4 = udp(1, 2)).encode(0))?;
    vf.send(&frame().v4(|ip| ip.l4 = tcp(1, 2)).encode(1))?;
    vf.send(&frame().v4(|ip| ip.l4 = udp(1, 2)).tag(0x8100, 9).encode(2))?;
    receive(&second, 1)?;
    receive(&first, 2).map(drop)
}

/// One filter on a block that two representors share: a rule for each, and each has its own traffic.
pub(super) fn a_shared_block_has_one_rule_per_representor(_: &mut Lab) -> Outcome {
    let rig = Rig::new()?;
    for vf in 0..2 {
        tc(&format!("qdisc delete dev {} clsact", rig.nic.representor(vf)))?;
        tc(&format!("qdisc add dev {} ingress_block 77 clsact", rig.nic.representor(vf)))?;
    }
    tc(&rig.named("filter add block 77 protocol ip flower skip_sw action mirred egress redirect dev REP2"))?;
    let shown = tc("-s filter show block 77")?;
    ensure!(shown.contains("in_hw_count 2"), "{shown}");
    let out = rig.vf(2)?;
    send_all(&rig.vf(0)?, &frames(5))?;
    send_all(&rig.vf(1)?, &frames(7))?;
    receive(&out, 12)?;
    let shown = tc("-s filter show block 77")?;
    ensure!(shown.contains("Sent hardware") && shown.contains(" 12 pkt"), "{shown}");
    // A member that leaves takes its rule along.
    tc(&format!("qdisc delete dev {} clsact", rig.nic.representor(0)))?;
    let rules = counter_of(&rig.nic.representor(1), "hw_rules")?;
    ensure!(rules == 1, "{rules} rules are left");
    Ok(())
}

/// While a filter is replaced over and over under load, each packet leaves by the old or by the new rule, none is slow.
pub(super) fn a_replaced_filter_never_leaves_a_gap(_: &mut Lab) -> Outcome {
    const REPLACEMENTS: u32 = 60;
    let rig = Rig::new()?;
    let rule = |vf: u32| {
        rig.named(&format!("filter replace dev REP0 ingress prio 1 handle 1 protocol ip flower dst_ip 10.0.0.2 skip_sw action mirred egress redirect dev REP{vf}"))
    };
    tc(&rule(1))?;
    let (vf, stop) = (rig.vf(0)?, AtomicBool::new(false));
    let sent = thread::scope(|scope| -> Outcome<u64> {
        let sender = scope.spawn(|| -> Result<u64, std::io::Error> {
            let bytes = frame().encode(0);
            let mut sent = 0;
            while !stop.load(Ordering::Relaxed) {
                vf.send(&bytes)?;
                sent += 1;
            }
            Ok(sent)
        });
        let replaced = (0..REPLACEMENTS).try_for_each(|round| tc(&rule(1 + round % 2)).map(drop));
        stop.store(true, Ordering::Relaxed);
        let sent = sender.join().map_err(|_| Failure::new("the sender panicked"))??;
        replaced.map(|()| sent)
    })?;
    let (hw, slow) = (rig.count(0, "vf_tx_hw_packets")?, rig.count(0, "vf_tx_slow_packets")?);
    ensure!(sent > u64::from(REPLACEMENTS), "only {sent} packets were sent meanwhile");
    ensure!(hw == sent && slow == 0, "of {sent} packets {hw} went by a rule and {slow} took the slow path");
    let both = rig.count(1, "vf_rx_hw_packets")? > 0 && rig.count(2, "vf_rx_hw_packets")? > 0;
    ensure!(both, "one of the two outputs got nothing");
    ensure!(rig.count(0, "hw_rules")? == 1, "old rules are left");
    Ok(())
}

/// With a delay, TC learns of packets at the next query; nothing is lost or counted twice by it.
pub(super) fn delayed_counters_arrive_late_and_exactly(_: &mut Lab) -> Outcome {
    let rig = Rig::new()?;
    let device = rig.nic.representor(0);
    rig.nic.set("counter_delay_ms", "60000")?;
    rig.filter(0, "protocol ip flower skip_sw action mirred egress redirect dev REP1")?;
    let (vf, out) = (rig.vf(0)?, rig.vf(1)?);
    send_all(&vf, &frames(30))?;
    receive(&out, 30)?;
    let early = tc(&format!("-s filter show dev {device} ingress"))?;
    ensure!(early.contains("Sent 0 bytes 0 pkt"), "TC knew at once: {early}");
    ensure!(early.contains("used_hw_stats delayed"), "{early}");
    rig.nic.set("counter_delay_ms", "100")?;
    wait_until("TC has 30 packets", SETTLES_WITHIN, || Ok(hardware_packets(&device).unwrap_or(0) == 30))?;
    send_all(&vf, &frames(5))?;
    receive(&out, 5)?;
    rig.nic.set("counter_delay_ms", "0")?;
    let packets = hardware_packets(&device)?;
    ensure!(packets == 35, "TC has {packets} packets, 35 were sent");
    Ok(())
}

/// What cannot be offloaded is refused with a sentence, in hardware only, and accepted in software otherwise.
pub(super) fn refusals_say_why(_: &mut Lab) -> Outcome {
    let rig = Rig::new()?;
    let refusals = [
        ("protocol ip flower skip_sw action mirred egress redirect dev lo", "not a port of a simnic"),
        ("protocol ip flower skip_sw action mirred egress redirect dev sn1p0", "belongs to another NIC"),
        ("protocol ip flower skip_sw action mirred ingress redirect dev REP1", "ingress is not supported"),
        ("protocol ip flower enc_key_id 7 skip_sw action drop", "tunnel"),
        ("protocol ip flower ip_proto tcp dst_port 10-20 skip_sw action drop", "port ranges"),
        ("protocol ip flower skip_sw action mirred egress mirror dev REP1", "must end in"),
        (
            "protocol ip flower skip_sw action pedit ex munge ip dst set 1.2.3.4 pipe action mirred egress redirect dev REP1",
            "csum",
        ),
        (
            "protocol all flower skip_sw action pedit ex munge ip ttl dec pipe action csum ip4h pipe action drop",
            "promise",
        ),
        (
            "protocol 802.1q flower skip_sw action vlan modify id 7 action mirred egress redirect dev REP1",
            "priority",
        ),
        ("protocol ip flower skip_sw action police rate 1mbit burst 10k conform-exceed drop", "police"),
    ];
    let tracking = [
        ("protocol ip flower ct_state +trk skip_sw action drop", "CONFIG_NET_TC_SKB_EXT"),
        ("protocol ip flower skip_sw action ct zone 5 pipe action goto chain 1", "CONFIG_NET_TC_SKB_EXT"),
    ];
    // The host has to be able to go on from where hardware knows no connection.
    let refusals: Vec<_> = if Need::Ct.lacking().is_some() {
        refusals.into_iter().chain(tracking).collect()
    } else {
        refusals.to_vec()
    };
    for (words, text) in &refusals {
        let device = rig.nic.representor(0);
        let said = tc_refused(&rig.named(&format!("filter add dev {device} ingress {words}")))?;
        ensure!(said.contains("simnic: ") && said.contains(*text), "`{words}` was refused with: {said}");
    }
    let refused = rig.count(0, "hw_refusals")?;
    ensure!(refused == refusals.len() as u64, "hw_refusals is {refused}");
    rig.filter(0, "protocol ip flower ip_proto tcp dst_port 10-20 action drop")?;
    let shown = tc(&rig.named("filter show dev REP0 ingress"))?;
    ensure!(shown.contains("not_in_hw"), "{shown}");
    // On egress nothing is offloaded.
    tc_refused(&rig.named("filter add dev REP0 egress protocol ip flower skip_sw action drop")).map(drop)
}

/// `ethtool -K … hw-tc-offload`: off, nothing is offloaded; while rules are, it stays on.
pub(super) fn hw_tc_offload_decides_and_is_held_by_rules(_: &mut Lab) -> Outcome {
    let rig = Rig::new()?;
    let device = rig.nic.representor(0);
    let toggle = |word: &str| crate::harness::run("ethtool", &["-K", &device, "hw-tc-offload", word]);
    toggle("off")?;
    tc_refused(&rig.named("filter add dev REP0 ingress protocol ip flower skip_sw action drop"))?;
    toggle("on")?;
    rig.filter(0, "protocol ip flower skip_sw action drop")?;
    ensure!(toggle("off").is_err(), "switched off under a rule");
    tc(&format!("filter delete dev {device} ingress"))?;
    // The kernel goes on wanting what was refused, and asks the driver for a change only when it wants another.
    toggle("on")?;
    toggle("off").map(drop)
}

/// A frame that a netdev sends while the VF's MTU is smaller does not arrive, and is counted.
pub(super) fn a_frame_longer_than_the_vf_takes_is_dropped_and_counted(_: &mut Lab) -> Outcome {
    let rig = Rig::new()?;
    rig.filter(0, "protocol all flower skip_sw action mirred egress redirect dev REP1")?;
    let long = [Frame::encode(&frame(), 0), vec![0; 1000]].concat();
    crate::harness::run("ip", &["link", "set", &rig.nic.vf(1), "mtu", "600"])?;
    let (vf, out) = (rig.vf(0)?, rig.vf(1)?);
    vf.send(&long)?;
    receive(&out, 0)?;
    ensure!(rig.count(1, "drop_bad_packets")? == 1, "the drop was not counted");
    Ok(())
}
