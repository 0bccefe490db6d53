//! Two NICs, a tunnel between them, a VF on each: the hosts in between see nothing.

use std::time::Duration;

use super::super::tcp::transfer;
use crate::harness::{Lab, Netns, Outcome, Simnic, ensure, run, wait_until};

pub(super) const SETTLES_WITHIN: Duration = Duration::from_secs(60);

/// A host: its NIC, its namespace, and the workload that has the VF.
pub(super) struct Host {
    pub(super) nic: Simnic,
    pub(super) netns: Netns,
    pub(super) pod: Netns,
}

impl Host {
    /// Host `number`, 1 or 2, whose tunnel device is made of `kind`.
    pub(super) fn new(lab: &mut Lab, number: u32, kind: &str) -> Outcome<Self> {
        let nic = Simnic::new(number - 1, 1)?;
        nic.set_mode("switchdev")?;
        let (netns, pod) = (Netns::new(lab, "host")?, Netns::new(lab, "pod")?);
        for netns in [&netns, &pod] {
            // Nothing is to be sent that the test does not send.
            netns.run(&["sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1"])?;
            netns.run(&["sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1"])?;
        }
        let (uplink, rep) = (nic.uplink(), nic.representor(0));
        netns.adopt(&uplink, &format!("172.31.0.{number}/24"))?;
        run("ip", &["link", "set", &rep, "netns", netns.name()])?;
        pod.adopt(&nic.vf(0), &format!("10.7.0.{number}/24"))?;
        pod.run(&["ip", "link", "set", &nic.vf(0), "mtu", "1400"])?;
        let host = Self { nic, netns, pod };
        host.ip(&format!("link set {rep} up"))?;
        host.ip(&format!("link add tun type {kind}"))?;
        host.ip("link set tun up")?;
        for device in [rep.as_str(), "tun"] {
            host.tc(&format!("qdisc add dev {device} clsact"))?;
        }
        Ok(host)
    }

    pub(super) fn ip(&self, words: &str) -> Outcome {
        self.netns.run(&[&["ip"], &words.split_whitespace().collect::<Vec<_>>()[..]].concat()).map(drop)
    }

    pub(super) fn tc(&self, words: &str) -> Outcome<String> {
        self.netns.run(&[&["tc"], &words.split_whitespace().collect::<Vec<_>>()[..]].concat())
    }

    /// The uplink has this address, too, and sends nothing by itself but reports of multicast listeners.
    pub(super) fn has_ipv6(&self, address: &str) -> Outcome {
        let uplink = self.nic.uplink();
        for (key, value) in [("accept_ra", 0), ("autoconf", 0), ("addr_gen_mode", 1), ("disable_ipv6", 0)] {
            self.netns.run(&["sysctl", "-qw", &format!("net.ipv6.conf.{uplink}.{key}={value}")])?;
        }
        self.ip(&format!("address add {address}/64 dev {uplink} nodad"))
    }

    /// Everything from the VF into the tunnel from the address `near` to `far`, and back. `flag` is that of the rule into it:
    /// `skip_sw`, or nothing.
    pub(super) fn join(&self, [near, far]: [&str; 2], flag: &str, set: &str, matches: &str) -> Outcome {
        let rep = self.nic.representor(0);
        self.tc(&format!(
            "filter add dev {rep} ingress protocol all flower {flag} action tunnel_key set src_ip {near} \
             dst_ip {far} id 5 ttl 64 {set} pipe action mirred egress redirect dev tun"
        ))?;
        self.tc(&format!(
            "filter add dev tun ingress protocol all flower enc_key_id 5 enc_src_ip {far} enc_dst_ip {near} \
             {matches} action tunnel_key unset pipe action mirred egress redirect dev {rep}"
        ))?;
        Ok(())
    }

    /// The same for IPv4 through conntrack, zone 5 at either end of the way.
    fn join_tracked(&self, near: u32, far: u32) -> Outcome {
        let rep = self.nic.representor(0);
        let matches =
            format!("enc_key_id 5 enc_src_ip 172.31.0.{far} enc_dst_ip 172.31.0.{near} enc_dst_port 6081");
        let set = format!(
            "action tunnel_key set src_ip 172.31.0.{near} dst_ip 172.31.0.{far} id 5 ttl 64 dst_port 6081 csum pipe \
             action mirred egress redirect dev tun"
        );
        let unset = format!("action tunnel_key unset pipe action mirred egress redirect dev {rep}");
        for (device, matches, out) in [(rep.as_str(), "", &set), ("tun", &matches, &unset)] {
            for (filter, actions) in [
                ("chain 0 prio 1 protocol arp flower", out.clone()),
                (
                    "chain 0 prio 2 protocol ip flower ct_state -trk",
                    "action ct zone 5 pipe action goto chain 1".to_owned(),
                ),
                (
                    "chain 1 prio 2 protocol ip flower ct_state +trk+new",
                    format!("action ct commit zone 5 pipe {out}"),
                ),
                ("chain 1 prio 2 protocol ip flower ct_state +trk+est", out.clone()),
            ] {
                self.tc(&format!("filter add dev {device} ingress {filter} {matches} {actions}"))?;
            }
            let shown = self.tc(&format!("filter show dev {device} ingress"))?;
            ensure!(!shown.contains("not_in_hw"), "not all in hardware: {shown}");
        }
        Ok(())
    }

    /// Packets from the VF and from the wire that the NIC dealt with, and those that the host saw.
    fn came_in(&self) -> Outcome<(u64, u64)> {
        let (rep, uplink) = (self.nic.representor(0), self.nic.uplink());
        let sum = |vf: &str, wire: &str| -> Outcome<u64> {
            Ok(self.counter(&rep, vf)? + self.counter(&uplink, wire)?)
        };
        Ok((
            sum("vf_tx_hw_packets", "wire_rx_hw_packets")?,
            sum("vf_tx_slow_packets", "wire_rx_slow_packets")?,
        ))
    }

    pub(super) fn counter(&self, device: &str, name: &str) -> Outcome<u64> {
        let text = self.netns.run(&["ethtool", "-S", device])?;
        let value =
            text.lines().filter_map(|line| line.trim().split_once(": ")).find(|(key, _)| *key == name);
        value
            .and_then(|(_, value)| value.trim().parse().ok())
            .ok_or_else(|| crate::harness::Failure::new(format!("{device} has no counter {name}")))
    }

    /// Packets that the representor saw, either way.
    pub(super) fn at_representor(&self) -> Outcome<u64> {
        let rep = self.nic.representor(0);
        Ok(self.counter(&rep, "vf_tx_slow_packets")? + self.counter(&rep, "vf_rx_slow_packets")?)
    }
}

fn try_kind(lab: &mut Lab, kind: &str, set: &str, matches: &str) -> Outcome {
    let (one, two) = (Host::new(lab, 1, kind)?, Host::new(lab, 2, kind)?);
    one.nic.wire(&two.nic)?;
    one.join(["172.31.0.1", "172.31.0.2"], "skip_sw", set, matches)?;
    two.join(["172.31.0.2", "172.31.0.1"], "skip_sw", set, matches)?;
    // The first packets find the neighbours, by way of the hosts.
    wait_until("the pods reach each other", SETTLES_WITHIN, || Ok(one.pod.pings("10.7.0.2")))?;
    let hosts = [&one, &two];
    wait_until("both tunnels have a way", SETTLES_WITHIN, || {
        Ok(!one.nic.rules()?.contains("unresolved") && !two.nic.rules()?.contains("unresolved"))
    })?;
    let seen = |host: &Host| -> Outcome<(u64, u64)> {
        Ok((host.at_representor()?, host.counter(&host.nic.uplink(), "wire_rx_hw_packets")?))
    };
    let before = [seen(&one)?, seen(&two)?];
    transfer(one.pod.name(), two.pod.name(), "10.7.0.2:5001", "10.7.0.2:5001")?;
    for (host, before) in hosts.iter().zip(before) {
        let (slow, hardware) = seen(host)?;
        ensure!(slow == before.0, "{kind}: {} packets at {}", slow - before.0, host.nic.representor(0));
        ensure!(hardware > before.1 + 100, "{kind}: only {} packets by hardware", hardware - before.1);
    }
    Ok(())
}

/// TCP with segmentation by the NIC through VXLAN and Geneve: all packets in hardware at both ends.
pub(in super::super) fn two_nics_tunnel_past_both_hosts(lab: &mut Lab) -> Outcome {
    try_kind(
        lab,
        "geneve external",
        "dst_port 6081 csum geneve_opts 0102:80:00010002",
        "enc_dst_port 6081 geneve_opts 0102:80:00010002",
    )?;
    try_kind(lab, "vxlan external dstport 4789", "dst_port 4789 nocsum", "enc_dst_port 4789")
}

/// A connection that both ends track and carry through a tunnel: its first packets by the hosts, which go on where the NIC
/// stopped, out of the tunnel and into it; the rest past them.
pub(in super::super) fn a_tracked_connection_passes_a_tunnel_by_hardware(lab: &mut Lab) -> Outcome {
    let (one, two) = (Host::new(lab, 1, "geneve external")?, Host::new(lab, 2, "geneve external")?);
    one.nic.wire(&two.nic)?;
    one.join_tracked(1, 2)?;
    two.join_tracked(2, 1)?;
    wait_until("the pods reach each other", SETTLES_WITHIN, || Ok(one.pod.pings("10.7.0.2")))?;
    wait_until("both tunnels have a way", SETTLES_WITHIN, || {
        Ok(!one.nic.rules()?.contains("unresolved") && !two.nic.rules()?.contains("unresolved"))
    })?;
    let hosts = [&one, &two];
    let before = [one.came_in()?, two.came_in()?];
    transfer(one.pod.name(), two.pod.name(), "10.7.0.2:5001", "10.7.0.2:5001")?;
    for (host, before) in hosts.iter().zip(before) {
        let after = host.came_in()?;
        let (hard, soft) = (after.0 - before.0, after.1 - before.1);
        ensure!(soft > 0, "not even the first packet was the host's");
        ensure!(hard >= 19 * soft, "{hard} packets passed by hardware, {soft} by the host");
    }
    Ok(())
}
