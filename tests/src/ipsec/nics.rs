//! Tunnels that are protected at the daemon's word by the NICs below charon.

use std::collections::BTreeMap;

use lab_tests::ensure;
use lab_tests::harness::{Failure, Lab, Outcome, Pings, Receiver, Sender, Stream, wait_until};

use serde_json::{Value, json};

use super::hosts::{DONE_WITHIN, Host, Hosts, Ike, PINGS};

pub(super) const IPV4: [&str; 2] = ["172.31.0.1", "172.31.0.2"];
const IPV6: [&str; 2] = ["fd31::1", "fd31::2"];

/// What the ends of a tunnel know each other by.
#[derive(Debug, Clone, Copy)]
pub(super) enum Known {
    ByKey,
    ByCertificates,
}

pub(super) fn a_tunnel_with_a_key_is_encrypted_by_both_nics(lab: &mut Lab) -> Outcome {
    let hosts = with_tunnel(lab, "geneve", IPV4, Known::ByKey)?;
    is_in_hardware(&hosts, lab)?;
    // Back to software, with traffic, and nothing of it is left in the NICs.
    for (host, _) in hosts.both() {
        host.set(&["options:ipsec_nic-offload=no"])?;
    }
    for nic in hosts.nics()? {
        wait_until("the NICs have no security associations", DONE_WITHIN, || {
            Ok(nic.shown("sas")?.is_empty())
        })
        .map_err(|failure| hosts.explained(&failure))?;
    }
    hosts.are_up()?;
    hosts.are_private(lab, "software")
}

pub(super) fn a_tunnel_over_ipv6_with_certificates_is_encrypted_by_both_nics(lab: &mut Lab) -> Outcome {
    let hosts = with_tunnel(lab, "vxlan", IPV6, Known::ByCertificates)?;
    is_in_hardware(&hosts, lab)
}

pub(super) fn every_kind_of_tunnel_is_encrypted_by_both_nics(lab: &mut Lab) -> Outcome {
    for kind in ["geneve", "vxlan"] {
        for outer in [IPV4, IPV6] {
            for known in [Known::ByKey, Known::ByCertificates] {
                let hosts = with_tunnel(lab, kind, outer, known)?;
                is_in_hardware(&hosts, lab).map_err(|failure| {
                    Failure::new(format!("{kind} from {}, {known:?}: {failure}", outer[0]))
                })?;
            }
        }
    }
    Ok(())
}

/// Two hosts with a tunnel that is to be in mode packet.
pub(super) fn with_tunnel(
    lab: &mut Lab,
    kind: &str,
    outer: [&'static str; 2],
    known: Known,
) -> Outcome<Hosts> {
    let hosts = Hosts::with_nics(lab, outer, "")?;
    let options = ["options:key=7", "options:ipsec_nic-offload=packet"];
    match known {
        Known::ByKey => hosts.tunnel(kind, &[&options[..], &["options:psk=swordfish"]].concat())?,
        Known::ByCertificates => {
            let own = [hosts.left.certificate(lab, "hv1", None)?, hosts.right.certificate(lab, "hv2", None)?];
            hosts.tunnel(kind, &options)?;
            for (at, (host, _)) in hosts.both().into_iter().enumerate() {
                let of_peer = format!("options:remote_cert={}", own[1 - at].1.display());
                host.is_known_by(&own[at], &["--", "set", "Interface", "tun0", &of_peer])?;
            }
        }
    }
    Ok(hosts)
}

/// From software to hardware under pings. In mode packet it is not without a loss: the kernel takes no security association of software
/// for a policy that is in the NIC, and charon puts that there before the last of the new ones.
pub(super) fn a_tunnel_that_earns_it_moves_into_both_nics(lab: &mut Lab) -> Outcome {
    let hosts = Hosts::with_nics(lab, IPV4, "")?;
    hosts.tunnel("geneve", &["options:psk=swordfish"])?;
    hosts.are_up()?;
    hosts.reach_each_other()?;
    let is_carried = |how: &'static str| -> Outcome {
        for (host, _) in hosts.both() {
            wait_until(&format!("the tunnel is carried by {how} at {}", host.outer), DONE_WITHIN, || {
                Ok(host.tunnel()?.is_some_and(|shown| shown["carried"] == how))
            })
            .map_err(|failure| hosts.explained(&failure))?;
        }
        Ok(())
    };
    is_carried("none")?;
    let pings = Pings::start(&hosts.left.netns, hosts.right.inner, 100, 64)?;
    wait_until("pings go", DONE_WITHIN, || Ok(pings.answers() >= 10))?;
    for (host, _) in hosts.both() {
        let least = "external_ids:offloadd-ipsec-min-rate=\"0 bit/s\"";
        host.ovs.vsctl(&["set", "Open_vSwitch", ".", least])?;
    }
    is_carried("packet")?;
    let so_far = pings.answers();
    wait_until("pings go on", DONE_WITHIN, || Ok(pings.answers() >= so_far + 10))?;
    let (sent, received) = pings.stop()?;
    println!("    {} of {sent} pings were lost over the move", sent - received);
    ensure!(received + PINGS as u64 >= sent, "{} of {sent} pings were lost over the move", sent - received);
    is_in_hardware(&hosts, lab)
}

/// As with mlx5, a NIC has either rules of TC on the uplink itself or IPsec of mode packet.
pub(super) fn rules_of_tc_on_the_uplink_keep_a_tunnel_in_software(lab: &mut Lab) -> Outcome {
    let hosts = Hosts::with_nics(lab, IPV4, "")?;
    let (nic, host) = (&hosts.nics()?[0], &hosts.left);
    // In mode legacy it takes no rules.
    nic.set_mode("switchdev")?;
    let uplink = nic.uplink();
    let tc =
        |words: &str| host.netns.run(&[&["tc"][..], &words.split_whitespace().collect::<Vec<_>>()].concat());
    let rule = |flag: &str, port: u16| {
        tc(&format!(
            "filter add dev {uplink} ingress protocol ip prio 7 flower {flag} ip_proto tcp dst_port {port} action drop"
        ))
    };
    // Charon has its own packets pass by policies in the NIC as soon as that is up, which is IPsec of mode packet, too.
    host.netns.run(&["ip", "link", "set", &uplink, "down"])?;
    tc(&format!("qdisc add dev {uplink} clsact"))?;
    rule("skip_hw", 1)?;
    rule("skip_sw", 2)?;
    host.netns.run(&["ip", "link", "set", &uplink, "up"])?;
    hosts.tunnel("geneve", &["options:psk=swordfish", "options:ipsec_nic-offload=packet"])?;
    let demand = format!(
        "uplink {uplink} has 2 filters, of which 1 is in hardware, and NICs carry either rules of the uplink itself or IPsec of \
         mode packet"
    );
    let is_shown = |carried: &str, demands: Value| {
        wait_until(&format!("it is carried by {carried}"), DONE_WITHIN, || {
            let is_so = |shown: &Value| {
                shown["state"] == "up" && shown["carried"] == carried && shown["unmet"] == demands
            };
            Ok(host.tunnel()?.is_some_and(|shown| is_so(&shown)))
        })
        .map_err(|failure| hosts.explained(&failure))
    };
    is_shown("none", json!([demand]))?;
    hosts.reach_each_other()?;
    hosts.are_private(lab, "software")?;
    let log = host.daemon.log()?;
    let at =
        |what: &str| log.find(what).ok_or_else(|| Failure::new(format!("{what} is not in the log: {log}")));
    ensure!(at(&demand)? < at("connection loaded")?, "it was tried first: {log}");
    ensure!(log.matches(&demand).count() == 1, "it is told again and again: {log}");

    // What software alone has excludes nothing.
    tc(&format!("filter delete dev {uplink} ingress"))?;
    rule("skip_hw", 1)?;
    is_shown("packet", json!([]))?;
    is_in_hardware(&hosts, lab)
}

/// The tunnel is protected by both NICs in mode packet, everything that is sent arrives as it was, and nothing but ESP is on
/// the wire between them.
fn is_in_hardware(hosts: &Hosts, lab: &Lab) -> Outcome {
    hosts.are_up().map_err(|failure| hosts.explained(&failure))?;
    is_carried_by_both(hosts, lab)
}

pub(super) fn is_carried_by_both<I: Ike>(hosts: &Hosts<I>, lab: &Lab) -> Outcome {
    hosts.reach_each_other()?;
    let before = counters(hosts)?;
    hosts.are_private(lab, "packet")?;
    let stream =
        Stream { to: "10.20.0.2:9000", count: 300, rate_per_s: 200, payload_bytes: 500, ..Stream::default() };
    let receiver = Receiver::start(&hosts.right.netns, stream.to)?;
    let sent = Sender::start(&hosts.left.netns, stream)?.finish()?;
    let received = receiver.finish()?;
    ensure!(
        received.packets == sent && received.duplicated == 0,
        "{sent} packets were sent, and {received:?}"
    );

    let (after, pings) = (counters(hosts)?, PINGS as u64);
    for (at, least) in [(0, [pings + sent, pings]), (1, [pings, pings + sent])] {
        for (name, least) in ["ipsec_tx_packets", "ipsec_rx_packets"].into_iter().zip(least) {
            let more = after[at][name] - before[at][name];
            ensure!(more >= least, "{name} of NIC {at} went up by {more}, and not by {least}");
        }
    }
    for ((host, _), nic) in hosts.both().into_iter().zip(hosts.nics()?) {
        let sas = nic.shown("sas")?;
        ensure!(sas.lines().count() >= 4, "each way of a tunnel has two security associations: {sas}");
        all_are_the_nics(host, &nic.uplink())?;
    }
    Ok(())
}

/// Waits until the daemon shows every security association of the tunnel in mode packet at the NIC. One with SPI 0 is what the kernel keeps for up to
/// 30 s while it waits for an IKE daemon: nothing passes by it. Nor by what pluto has of a negotiation that it began before the tunnel's settings
/// changed, until it gives that up.
fn all_are_the_nics<I: Ike>(host: &Host<I>, device: &str) -> Outcome {
    wait_until("all of the tunnel is the NIC's", DONE_WITHIN, || {
        let list = host.daemon.json(&["sa", "list"])?;
        let of_tunnel: Vec<_> = list
            .as_array()
            .into_iter()
            .flatten()
            .filter(|sa| sa["tunnels"][0] == "tun0" && sa["spi"] != "0x00000000")
            .collect();
        ensure!(
            of_tunnel.len() >= 4
                && of_tunnel.iter().all(|sa| sa["offload"] == "packet" && sa["device"] == device),
            "{list}"
        );
        let shown = host.tunnel()?.unwrap_or_default();
        ensure!(shown["carried"] == "packet", "{shown}");
        Ok(true)
    })
}

fn counters<I: Ike>(hosts: &Hosts<I>) -> Outcome<[BTreeMap<String, u64>; 2]> {
    let [left, right] = hosts.nics()?;
    Ok([
        hosts.left.netns.ethtool_counters(&left.uplink())?,
        hosts.right.netns.ethtool_counters(&right.uplink())?,
    ])
}
