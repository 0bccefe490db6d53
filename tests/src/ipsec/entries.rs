//! Two tunnels that compete for the entries of the NICs below charon.

use std::time::Duration;

use lab_tests::ensure;
use lab_tests::harness::{Lab, Outcome, Receiver, Sender, Stream, wait_until};
use serde_json::Value;

use super::hosts::{DONE_WITHIN, Host, Hosts};

/// An entry is held for a minute, readings are 10 s apart, and the other comes when the first has left.
const YIELDED_WITHIN: Duration = Duration::from_secs(240);
/// Of the second tunnel, on the wire.
const OUTER: [&str; 2] = ["172.31.1.1", "172.31.1.2"];
/// Of the second tunnel, which has a bridge of its own at each end: two on one would be a loop.
pub(super) const INNER: [&str; 2] = ["10.21.0.1", "10.21.0.2"];
/// Security associations of a tunnel over UDP, which are what a NIC has room for.
const OF_A_TUNNEL: usize = 4;
/// What the first moves, and what the second does: more by far.
const COLD: Stream<'_> = Stream {
    to: "10.20.0.2:9000",
    from_port: 20_000,
    flows: 1,
    count: 1_000_000,
    rate_per_s: 20,
    payload_bytes: 300,
};
const HOT: Stream<'_> =
    Stream { to: "10.21.0.2:9000", from_port: 21_000, rate_per_s: 100, payload_bytes: 1_000, ..COLD };

pub(super) fn the_coldest_tunnel_yields_its_entry_to_a_hotter_one(lab: &mut Lab) -> Outcome {
    let hosts = two_tunnels(lab, "1")?;
    hosts.only_esp_while(lab, "yield", || {
        let cold = Traffic::start(&hosts, COLD)?;
        are_carried(&hosts, [("tun0", "packet"), ("tun1", "none")], DONE_WITHIN)?;
        let hot = Traffic::start(&hosts, HOT)?;
        are_carried(&hosts, [("tun0", "none"), ("tun1", "packet")], YIELDED_WITHIN)?;
        for (host, _) in hosts.both() {
            let why = why_not_more(&shown(host, "tun0")?);
            ensure!(why.contains("1. of 1 in line for an entry of the NIC"), "{why}");
        }
        // With the NICs as full as before, what moves less still reaches.
        hosts.reach_each_other()?;
        cold.stop()?;
        hot.stop()
    })?;
    have_one_tunnel(&hosts)
}

/// The NIC has room for the policies of both and the security associations of one. What charon makes of that packets cannot use: for a
/// policy in a NIC the kernel takes no security association of software.
pub(super) fn a_tunnel_that_a_nic_has_no_room_for_comes_back_in_software(lab: &mut Lab) -> Outcome {
    let hosts = two_tunnels(lab, "learn")?;
    hosts.only_esp_while(lab, "full", || {
        let cold = Traffic::start(&hosts, COLD)?;
        are_carried(&hosts, [("tun0", "packet"), ("tun1", "none")], DONE_WITHIN)?;
        // Room for what it has: with both ends moving it, a tunnel has more for a moment.
        have_one_tunnel(&hosts)?;
        for nic in hosts.nics()? {
            nic.set("sa_table_size", &OF_A_TUNNEL.to_string())?;
        }
        let hot = Traffic::start(&hosts, HOT)?;
        for (host, _) in hosts.both() {
            wait_until(&format!("{} has asked its NIC in vain", host.outer), YIELDED_WITHIN, || {
                let tunnel = shown(host, "tun1")?;
                let is_back = tunnel["carried"] == "none" && tunnel["state"] == "up";
                Ok(is_back && why_not_more(&tunnel).starts_with("asked of a NIC, it "))
            })
            .map_err(|failure| hosts.explained(&failure))?;
        }
        // Both pass.
        cold.stop().map_err(|failure| hosts.with_tables(&failure))?;
        hot.goes_on().map_err(|failure| hosts.with_tables(&failure))
    })?;
    for (nic, (host, _)) in hosts.nics()?.iter().zip(hosts.both()) {
        let refusals = host.netns.ethtool_counters(&nic.uplink())?["ipsec_refusals"];
        ensure!(refusals > 0, "{} refused nothing", nic.uplink());
    }
    Ok(())
}

/// Waits until each NIC has the security associations of one tunnel.
fn have_one_tunnel(hosts: &Hosts) -> Outcome {
    for nic in hosts.nics()? {
        wait_until("the NIC has one tunnel", DONE_WITHIN, || {
            Ok(nic.shown("sas")?.lines().count() == OF_A_TUNNEL)
        })
        .map_err(|failure| hosts.explained(&failure))?;
    }
    Ok(())
}

/// `tun0` of Geneve and `tun1` of VXLAN, each between addresses of its own of the same NICs, both up and in software, where whatever moves is
/// worth an entry. `entries` is what the daemons are told of the NICs.
fn two_tunnels(lab: &mut Lab, entries: &str) -> Outcome<Hosts> {
    let hosts = Hosts::with_nics(lab, ["172.31.0.1", "172.31.0.2"], "")?;
    for (at, (host, _)) in hosts.both().into_iter().enumerate() {
        let entries = format!("external_ids:offloadd-ipsec-entries={entries}");
        let least = "external_ids:offloadd-ipsec-min-rate=\"10 kbit/s\"";
        host.ovs.vsctl(&["set", "Open_vSwitch", ".", &entries, least])?;
        let (local, uplink) = (OUTER[at], hosts.nics()?[at].uplink());
        host.netns.run(&["ip", "address", "add", &format!("{local}/24"), "dev", &uplink])?;
        second_tunnel(host, [local, OUTER[1 - at]], INNER[at])?;
    }
    hosts.tunnel("geneve", &["options:psk=swordfish"])?;
    hosts.are_up()?;
    hosts.reach_each_other()?;
    wait_until("the second tunnel passes", DONE_WITHIN, || Ok(hosts.left.netns.pings(INNER[1])))
        .map_err(|failure| hosts.explained(&failure))?;
    are_carried(&hosts, [("tun0", "none"), ("tun1", "none")], DONE_WITHIN)?;
    Ok(hosts)
}

/// Adds `tun1` of VXLAN between these addresses to a host, on a bridge of its own that has the address `inner`.
pub(super) fn second_tunnel(host: &Host, [local, remote]: [&str; 2], inner: &str) -> Outcome {
    let ends = [format!("options:local_ip={local}"), format!("options:remote_ip={remote}")];
    let bridge = ["add-br", "br1", "--", "add-port", "br1", "tun1", "--", "set", "Interface", "tun1"];
    let tunnel = ["type=vxlan", "options:key=7", "options:psk=swordfish", &ends[0], &ends[1]];
    host.ovs.vsctl(&[&bridge[..], &tunnel].concat())?;
    host.netns.run(&["ip", "address", "add", &format!("{inner}/24"), "dev", "br1"])?;
    host.netns.run(&["ip", "link", "set", "br1", "mtu", "1300", "up"]).map(drop)
}

/// A stream from the first host to the second.
struct Traffic {
    sender: Sender,
    receiver: Receiver,
}

impl Traffic {
    fn start(hosts: &Hosts, stream: Stream<'_>) -> Outcome<Self> {
        let receiver = Receiver::start(&hosts.right.netns, stream.to)?;
        Ok(Self { sender: Sender::start_stoppable(&hosts.left.netns, stream)?, receiver })
    }

    /// It still comes.
    fn goes_on(&self) -> Outcome {
        let before = self.receiver.so_far().packets;
        wait_until("packets still come", DONE_WITHIN, || Ok(self.receiver.so_far().packets > before + 10))
    }

    /// Ends it: it still came, and nothing of it twice. A move into mode packet and out of it costs some.
    fn stop(self) -> Outcome {
        self.goes_on()?;
        let (sent, received) = (self.sender.stop()?, self.receiver.finish()?);
        println!("    {} of {sent} packets were lost", sent - received.packets);
        ensure!(received.duplicated == 0, "{received:?}");
        ensure!(received.packets * 10 >= sent * 9, "{sent} packets were sent, and {received:?}");
        Ok(())
    }
}

pub(super) fn shown(host: &Host, tunnel: &str) -> Outcome<Value> {
    let all = host.daemon.json(&["tunnel", "list"])?;
    Ok(all
        .as_array()
        .into_iter()
        .flatten()
        .find(|shown| shown["tunnel"] == tunnel)
        .cloned()
        .unwrap_or_default())
}

fn why_not_more(shown: &Value) -> String {
    shown["why_not_more"].as_str().unwrap_or_default().to_owned()
}

/// Waits until both tunnels are up and carried so at both ends.
fn are_carried(hosts: &Hosts, how: [(&str, &str); 2], within: Duration) -> Outcome {
    for (host, _) in hosts.both() {
        for (tunnel, carried) in how {
            wait_until(&format!("{tunnel} is carried by {carried} at {}", host.outer), within, || {
                let shown = shown(host, tunnel)?;
                Ok(shown["state"] == "up" && shown["carried"] == carried)
            })
            .map_err(|failure| hosts.explained(&failure))?;
        }
    }
    Ok(())
}
