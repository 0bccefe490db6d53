//! Tunnels that `ovs-monitor-ipsec` has Libreswan protect, and what it asks of NICs at the daemon's word.

use lab_tests::ensure;
use lab_tests::harness::{Lab, Libreswan, Outcome, wait_until};
use serde_json::Value;

use super::hosts::{DONE_WITHIN, Host, Hosts};
use super::nics::is_carried_by_both;

const OPTION: &str = "options:ipsec_nic-offload";
const MARK: &str = "external_ids:offloadd-ipsec-nic-offload";

/// What the row has at a key; nothing where it has none.
fn said(host: &Host<Libreswan>, key: &str) -> Outcome<String> {
    let (column, key) = key.split_once(':').unwrap_or_default();
    let text = host.ovs.vsctl(&["--if-exists", "get", "Interface", "tun0", &format!("{column}:{key}")])?;
    Ok(text.trim().trim_matches('"').to_owned())
}

/// Sets the configuration's `ipsec.offload` through OVSDB.
fn policy(host: &Host<Libreswan>, offload: &str) -> Outcome {
    let word = format!("external_ids:offloadd-ipsec-offload={offload}");
    host.ovs.vsctl(&["set", "Open_vSwitch", ".", &word]).map(drop)
}

/// Waits until both connections of the tunnel have security associations at both ends. Before that, packets of one way leave in the clear:
/// ovs-monitor-ipsec has Libreswan put no trap there.
fn are_up(hosts: &Hosts<Libreswan>) -> Outcome {
    for (host, _) in hosts.both() {
        wait_until(&format!("both connections are up at {}", host.outer), DONE_WITHIN, || {
            let status = host.charon.status()?;
            let is_up = |way: &str| {
                status.lines().any(|line| {
                    line.contains(&format!("\"tun0-{way}-")) && line.contains("ESTABLISHED_CHILD_SA")
                })
            };
            Ok(is_up("in") && is_up("out"))
        })
        .map_err(|failure| hosts.explained(&failure))?;
    }
    Ok(())
}

fn is_shown(hosts: &Hosts<Libreswan>, what: &str, is: impl Fn(&Value) -> bool) -> Outcome {
    for (host, _) in hosts.both() {
        wait_until(&format!("{what} at {}", host.outer), DONE_WITHIN, || {
            Ok(host.tunnel()?.is_some_and(|shown| is(&shown)))
        })
        .map_err(|failure| hosts.explained(&failure))?;
    }
    Ok(())
}

pub(super) fn libreswan_is_told_to_ask_both_nics_and_they_encrypt(lab: &mut Lab) -> Outcome {
    let hosts = Hosts::of_libreswan(lab, ["172.31.0.1", "172.31.0.2"], "")?;
    hosts.tunnel("geneve", &["options:psk=swordfish"])?;
    let in_software = |shown: &Value| shown["carried"] == "none" && shown["state"] == "left";
    is_shown(&hosts, "Libreswan protects it in software", in_software)?;
    are_up(&hosts)?;
    hosts.reach_each_other()?;
    hosts.are_private(lab, "software")?;
    let shown = hosts.left.tunnel()?.unwrap_or_default();
    let why = shown["why_not_more"].as_str().unwrap_or_default().to_owned();
    ensure!(shown["offload"] == "auto" && why.contains("\"auto\" is software"), "{shown}");
    ensure!(said(&hosts.left, OPTION)?.is_empty(), "something was written");

    for (host, _) in hosts.both() {
        policy(host, "packet")?;
    }
    is_shown(&hosts, "it is carried by the NIC", |shown| shown["carried"] == "packet")?;
    are_up(&hosts)?;
    for (host, _) in hosts.both() {
        ensure!(said(host, OPTION)? == "packet" && said(host, MARK)? == "packet", "{:?}", host.tunnel()?);
    }
    is_carried_by_both(&hosts, lab)?;
    wait_until("pluto is known to have made all there are", DONE_WITHIN, || {
        let list = hosts.left.daemon.json(&["sa", "list"])?;
        let mut all = list.as_array().into_iter().flatten().filter(|sa| sa["spi"] != "0x00000000");
        ensure!(all.all(|sa| sa["owner"] == "pluto"), "{list}");
        Ok(true)
    })?;

    // What a person says stands, and the key beside it goes.
    hosts.left.set(&[&format!("{OPTION}=no")])?;
    wait_until("the person's word is theirs", DONE_WITHIN, || Ok(said(&hosts.left, MARK)?.is_empty()))?;
    ensure!(said(&hosts.left, OPTION)? == "no", "it was written over");
    wait_until("it is shown", DONE_WITHIN, || {
        Ok(hosts.left.tunnel()?.is_some_and(|shown| {
            shown["why_not_more"].as_str().is_some_and(|why| why.contains("is somebody else's word"))
        }))
    })?;

    // And what is ours goes with what asked for it.
    policy(&hosts.right, "none")?;
    wait_until("what is ours is taken out", DONE_WITHIN, || {
        Ok(said(&hosts.right, OPTION)?.is_empty() && said(&hosts.right, MARK)?.is_empty())
    })?;
    is_shown(&hosts, "it is in software again", in_software)?;
    are_up(&hosts)?;
    hosts.reach_each_other()?;
    hosts.are_private(lab, "software-again")
}
