//! Neighbours, routes and devices come and go, and rules follow; what hardware cannot do goes the slow path.

use std::time::Duration;

use super::super::frame::{Frame, frame};
use super::super::rig::{counter_of, hex, receive, receive_id, tc, tc_refused, up};
use super::rig::{FAR_MAC, TUNNELS, TunnelRig, V4, turned_round};
use crate::harness::{Lab, Outcome, Simnic, ensure, run, wait_until};
use crate::io::packet_socket::PacketSocket;

/// The longest that a change may take until packets show it.
const FOLLOWED_WITHIN: Duration = Duration::from_secs(60);

fn ip(words: &str) -> Outcome {
    run("ip", &words.split_whitespace().collect::<Vec<_>>()).map(drop)
}

/// Sends one frame from VF 0: the outer destination address it has on the wire, and whether hardware put it there.
fn probe(rig: &TunnelRig, id: usize) -> Outcome<(Vec<u8>, bool)> {
    let before = rig.rig.uplink_count("wire_tx_hw_packets")?;
    rig.rig.vf(0)?.send(&frame().encode(id))?;
    let frames = receive(&rig.far, 1)?;
    Ok((frames[0][..6].to_vec(), rig.rig.uplink_count("wire_tx_hw_packets")? > before))
}

/// Sends one frame from VF 0 that the host may have no route for: whether hardware sent it on.
fn routed(rig: &TunnelRig, id: usize) -> Outcome<bool> {
    let before = rig.rig.uplink_count("wire_tx_hw_packets")?;
    rig.rig.vf(0)?.send(&frame().encode(id))?;
    Ok(rig.rig.uplink_count("wire_tx_hw_packets")? > before)
}

/// A neighbour that moves is followed, one that is not resolved makes the rule wait, and so does a route that is gone.
pub(in super::super) fn a_tunnels_neighbour_and_route_are_followed(_: &mut Lab) -> Outcome {
    let rig = TunnelRig::new()?;
    let (uplink, far) = (rig.rig.nic.uplink(), V4.1);
    rig.encapsulate(&TUNNELS[0], "")?;
    let (to, hardware) = probe(&rig, 0)?;
    ensure!(
        hardware && hex(&to) == FAR_MAC.replace(':', ""),
        "at first to {}, hardware: {hardware}",
        hex(&to)
    );

    ip(&format!("neigh replace {far} lladdr 02:00:00:00:fa:02 dev {uplink} nud permanent"))?;
    wait_until("packets go to the neighbour's new address", FOLLOWED_WITHIN, || {
        let (to, hardware) = probe(&rig, 1)?;
        ensure!(hardware, "a packet took the slow path while the neighbour moved");
        Ok(to == [2, 0, 0, 0, 0xfa, 2])
    })?;

    ip(&format!("neigh delete {far} dev {uplink}"))?;
    wait_until("the rule has no neighbour", FOLLOWED_WITHIN, || {
        Ok(rig.rig.nic.rules()?.contains("tunnel(unresolved)"))
    })?;
    let before = rig.slow()?.0;
    rig.rig.vf(0)?.send(&frame().encode(2))?;
    wait_until("the host has the packet", FOLLOWED_WITHIN, || Ok(rig.slow()?.0 > before))?;
    receive(&rig.far, 0)?;
    ip(&format!("neigh replace {far} lladdr {FAR_MAC} dev {uplink} nud permanent"))?;
    // The host's own packet waited for the neighbour too.
    receive(&rig.far, 1)?;
    wait_until("the rule has a neighbour", FOLLOWED_WITHIN, || Ok(probe(&rig, 3)?.1))?;

    ip(&format!("route add unreachable {far}"))?;
    // The packet that finds the route gone may be on its way by it.
    wait_until("the host has the packets", FOLLOWED_WITHIN, || {
        let before = rig.slow()?.0;
        rig.rig.vf(0)?.send(&frame().encode(4))?;
        Ok(rig.slow()?.0 > before)
    })?;
    while rig.far.receive(Duration::from_millis(30))?.is_some() {}
    rig.rig.vf(0)?.send(&frame().encode(5))?;
    receive(&rig.far, 0)?;
    ip(&format!("route delete unreachable {far}"))?;
    wait_until("there is a route again", FOLLOWED_WITHIN, || routed(&rig, 6))
}

/// Longer than the route takes, or not as it should be: such packets are the host's, whole and as they came.
pub(in super::super) fn what_a_tunnel_cannot_carry_or_does_not_know_goes_to_the_host(_: &mut Lab) -> Outcome {
    let rig = TunnelRig::new()?;
    let uplink = rig.rig.nic.uplink();
    let tunnel = TUNNELS[3];
    rig.encapsulate(&tunnel, "")?;
    rig.decapsulate(&tunnel, "")?;
    let before = rig.slow()?.0;
    let long = [Frame::encode(&frame(), 0), vec![0; 1430]].concat();
    rig.rig.vf(0)?.send(&long)?;
    wait_until("the host has the long packet", FOLLOWED_WITHIN, || Ok(rig.slow()?.0 > before))?;

    // What the host makes of the long one may come first.
    rig.rig.vf(0)?.send(&frame().encode(1))?;
    let good = turned_round(&receive_id(&rig.far, 1)?, [2, 0x73, 0x6e, 0, 0, 0]);
    let fix = |mut frame: Vec<u8>| {
        frame[24..26].fill(0);
        let sum = super::super::frame::checksum(&frame[14..34]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
        frame
    };
    let change = |at: usize, byte: u8| {
        let mut frame = good.clone();
        frame[at] ^= byte;
        frame
    };
    let odd = [
        ("a bad outer IP checksum", change(22, 1)),
        ("a bad outer UDP checksum", change(good.len() - 1, 1)),
        ("a fragment", fix(change(20, 0x20))),
        ("another destination", fix(change(33, 8))),
        ("another VNI", change(48, 1)),
        ("another option", change(57, 1)),
        ("another MAC address", change(5, 9)),
    ];
    let vf = rig.rig.vf(1)?;
    for (what, frame) in &odd {
        let before = rig.slow()?.1;
        rig.far.send(frame)?;
        wait_until(&format!("the host has {what}"), FOLLOWED_WITHIN, || Ok(rig.slow()?.1 > before))?;
    }
    receive(&vf, 0)?;
    rig.far.send(&good)?;
    receive(&vf, 1)?;

    let refused = |words: &str| tc_refused(&words.replace("UPLINK", &uplink));
    let rep = rig.rig.nic.representor(2);
    let set = format!(
        "filter add dev {rep} ingress protocol all flower skip_sw action tunnel_key set src_ip {} id 1",
        V4.0
    );
    for (words, text) in [
        (
            format!(
                "{set} dst_ip {} dst_port 4790 pipe action mirred egress redirect dev {}",
                V4.1,
                rig.rig.nic.representor(1)
            ),
            "needs output to a tunnel device",
        ),
        (
            format!("{set} dst_ip 127.0.0.1 dst_port 4790 pipe action mirred egress redirect dev tvx"),
            "leaves through lo",
        ),
        (
            format!("{set} dst_ip 192.0.2.1 dst_port 4790 pipe action mirred egress redirect dev tvx"),
            "no route",
        ),
        (
            format!(
                "filter add dev {rep} ingress protocol all flower skip_sw action mirred egress redirect dev tvx"
            ),
            "without tunnel_key set",
        ),
    ] {
        let said = refused(&words)?;
        ensure!(said.contains("simnic: ") && said.contains(text), "`{words}` was refused with: {said}");
    }
    tc("filter add dev tvx ingress protocol all flower enc_key_id 7 action drop")?;
    let shown = tc("filter show dev tvx ingress")?;
    ensure!(shown.contains("not_in_hw"), "a match without the tunnel's UDP port is offloaded: {shown}");
    Ok(())
}

/// Rules outlive their tunnel device and forward nothing any more; nothing of it is left in the NIC afterwards.
pub(in super::super) fn a_tunnel_device_that_goes_takes_its_rules_out_of_use(_: &mut Lab) -> Outcome {
    let rig = TunnelRig::new()?;
    let tunnel = TUNNELS[3];
    rig.encapsulate(&tunnel, "skip_sw")?;
    rig.decapsulate(&tunnel, "")?;
    ensure!(probe(&rig, 0)?.1, "the tunnel did not work");
    ip("link delete tgn")?;
    let rules = rig.rig.nic.rules()?;
    ensure!(!rules.contains("port tgn"), "rules of the device are left: {rules}");
    let before = rig.slow()?.0;
    rig.rig.vf(0)?.send(&frame().encode(1))?;
    wait_until("the host has the packet", FOLLOWED_WITHIN, || Ok(rig.slow()?.0 > before))
}

/// Of a card with two uplinks, what comes in by the one goes into a tunnel whose route leaves by the other, past the host.
pub(in super::super) fn what_comes_in_by_one_uplink_of_a_card_goes_into_a_tunnel_by_the_other(
    _: &mut Lab,
) -> Outcome {
    let rig = TunnelRig::new()?;
    let (second, outside) = (Simnic::on_card(2, 0)?, Simnic::new(3, 0)?);
    second.wire(&outside)?;
    second.set_mode("switchdev")?;
    up(&[second.uplink(), outside.uplink()])?;
    tc(&format!("qdisc add dev {} clsact", second.uplink()))?;
    let (near, far) = V4;
    tc(&format!(
        "filter add dev {} ingress protocol all flower skip_sw action tunnel_key set src_ip {near} dst_ip {far} id 77 \
         {} pipe action mirred egress redirect dev {}",
        second.uplink(),
        TUNNELS[3].set,
        TUNNELS[3].device
    ))?;
    let sender = PacketSocket::open(&outside.uplink())?;
    let leaves = |id: usize| -> Outcome<(usize, u64)> {
        let before = rig.rig.uplink_count("wire_tx_hw_packets")?;
        sender.send(&frame().encode(id))?;
        let frames = receive(&rig.far, 1)?;
        Ok((frames[0].len(), rig.rig.uplink_count("wire_tx_hw_packets")? - before))
    };
    let inner = frame().encode(0).len();
    let (length, by_hardware) = leaves(0)?;
    ensure!(
        length > inner && by_hardware == 1,
        "{length} bytes left for a frame of {inner}, {by_hardware} by hardware"
    );
    let slow = counter_of(&second.uplink(), "wire_rx_slow_packets")?;
    ensure!(slow == 0, "the host saw {slow} packets");

    // The uplink that the route leaves by goes; the rule stays, and its packets are the host's.
    drop(rig);
    wait_until("the rule has no way", FOLLOWED_WITHIN, || {
        Ok(second.rules()?.contains("tunnel(unresolved)"))
    })?;
    sender.send(&frame().encode(1))?;
    wait_until("the host has the packet", FOLLOWED_WITHIN, || {
        Ok(counter_of(&second.uplink(), "wire_rx_slow_packets")? > 0)
    })
}
