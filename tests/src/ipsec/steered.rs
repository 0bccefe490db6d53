//! Flows into and out of a tunnel that is protected at the daemon's word, and that the daemon places in the NIC, too.

use std::collections::BTreeMap;

use lab_tests::ensure;
use lab_tests::harness::{Failure, Lab, Outcome, Receiver, Sender, Simnic, Stream, wait_for, wait_until};
use serde_json::Value;

use super::hosts::{DONE_WITHIN, Host, Hosts};

const PORT: u16 = 7001;
/// Of the stream: 5 Mbit/s.
const PER_S: u64 = 500;
/// Packets that are to come while both ends have the flow in hardware.
const WATCHED: u64 = 1000;
/// Packets that a host may see meanwhile: what hosts, pods and charons say by themselves.
const CHATTER_MAX: u64 = 30;

/// From pod to pod: encapsulated and encrypted by one NIC, decrypted and decapsulated by the other.
pub(super) fn a_flow_through_an_encrypted_tunnel_passes_by_both_nics(lab: &mut Lab) -> Outcome {
    let hosts = Hosts::with_pods(lab, ["172.31.0.1", "172.31.0.2"])?;
    let options =
        ["options:psk=swordfish", "options:ipsec_nic-offload=packet", "options:key=77", "options:csum=true"];
    hosts.tunnel("geneve", &options)?;
    let nics = hosts.nics()?;
    // Rules of the stream's own, so that its megaflows are.
    for ((host, _), out) in hosts.both().into_iter().zip(["tun0".to_owned(), nics[1].representor(0)]) {
        let flow = format!("priority=100,udp,tp_dst={PORT},actions=output:{out}");
        host.ovs.ofctl(&["add-flow", "br0", &flow])?;
    }
    hosts.are_up().map_err(|failure| hosts.explained(&failure))?;
    hosts.reach_each_other()?;

    let to = format!("{}:{PORT}", hosts.right.inner);
    let stream =
        Stream { to: &to, count: 1_000_000, rate_per_s: PER_S, payload_bytes: 1200, ..Stream::default() };
    let receiver = Receiver::start(hosts.right.speaker(), &to)?;
    let sender = Sender::start_stoppable(hosts.left.speaker(), stream)?;
    let into = placed(&hosts.left, &nics[0])?;
    ensure!(into["port"] == nics[0].representor(0) && into["encrypted"] == true, "{into}");
    let out = placed(&hosts.right, &nics[1])?;
    ensure!(out["port"] == "genev_sys_6081" && out["encrypted"] == true, "{out}");

    let before = [counters(&hosts.left, &nics[0])?, counters(&hosts.right, &nics[1])?];
    hosts.so_much_esp_while(lab, "placed", usize::try_from(WATCHED)?, || {
        let so_far = receiver.so_far().packets;
        wait_until("packets have come", DONE_WITHIN, || Ok(receiver.so_far().packets >= so_far + WATCHED))
    })?;
    let after = [counters(&hosts.left, &nics[0])?, counters(&hosts.right, &nics[1])?];
    for (at, hardware) in
        [(0, ["vf_tx_hw_packets", "ipsec_tx_packets"]), (1, ["wire_rx_hw_packets", "ipsec_rx_packets"])]
    {
        let more = |name: &str| after[at].get(name).unwrap_or(&0) - before[at].get(name).unwrap_or(&0);
        for name in hardware {
            ensure!(more(name) >= WATCHED, "{name} of NIC {at} went up by {}", more(name));
        }
        for name in
            ["vf_tx_slow_packets", "vf_rx_slow_packets", "wire_tx_slow_packets", "wire_rx_slow_packets"]
        {
            println!("    {name} of NIC {at} went up by {} while {WATCHED} packets passed", more(name));
            ensure!(more(name) <= CHATTER_MAX, "{name} of NIC {at} went up by {}", more(name));
        }
    }
    let (sent, received) = (sender.stop()?, receiver.finish()?);
    ensure!(
        received.packets == sent && received.duplicated == 0,
        "{sent} packets were sent, and {received:?} arrived"
    );
    Ok(())
}

/// The stream's flow at one end, once the daemon has it in hardware.
fn placed(host: &Host, nic: &Simnic) -> Outcome<Value> {
    let to = format!("udp(dst={PORT})");
    wait_for(&format!("the flow is in hardware at {}", host.outer), DONE_WITHIN, || {
        let of_stream = |flow: &Value| flow["key"].as_str().is_some_and(|key| key.contains(&to));
        let flows: Vec<Value> = host.daemon.flows()?.into_iter().filter(of_stream).collect();
        match flows.iter().find(|flow| flow["placement"] == "hardware") {
            Some(flow) => Ok(Some(flow.clone())),
            None => Err(Failure::new(format!("flows: {flows:?}\n{}", nic.rules()?))),
        }
    })
}

/// Of the NIC's uplink and the representor of its VF.
fn counters(host: &Host, nic: &Simnic) -> Outcome<BTreeMap<String, u64>> {
    let mut counters = host.netns.ethtool_counters(&nic.uplink())?;
    counters.extend(host.netns.ethtool_counters(&nic.representor(0))?);
    Ok(counters)
}
