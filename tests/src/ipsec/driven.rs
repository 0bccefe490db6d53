//! Tunnels that are protected at the daemon's word: real charon at both ends, real ESP between them.

use std::fs;
use std::process::Command;

use lab_tests::ensure;
use lab_tests::harness::{Failure, Lab, Need, Outcome, Pings, Test, fact, output, wait_until};

use super::beside::tunnels_of_two_types_between_the_same_hosts_are_both_encrypted;
use super::entries::{
    a_tunnel_that_a_nic_has_no_room_for_comes_back_in_software,
    the_coldest_tunnel_yields_its_entry_to_a_hotter_one,
};
use super::firmware::what_the_firmware_of_a_nic_lost_is_negotiated_anew;
use super::hosts::{Authority, DONE_WITHIN, Hosts};
use super::keys::no_key_of_a_driven_tunnel_is_on_the_wire_in_log_recording_answers_or_core;
use super::libreswan::libreswan_is_told_to_ask_both_nics_and_they_encrypt;
use super::many::tunnels_come_up_no_slower_than_under_ovs_monitor_ipsec;
use super::nics::{
    a_tunnel_over_ipv6_with_certificates_is_encrypted_by_both_nics,
    a_tunnel_that_earns_it_moves_into_both_nics, a_tunnel_with_a_key_is_encrypted_by_both_nics,
    every_kind_of_tunnel_is_encrypted_by_both_nics, rules_of_tc_on_the_uplink_keep_a_tunnel_in_software,
};
use super::policies::a_tunnel_in_a_nic_passes_however_many_policies_the_kernel_has;
use super::soak::{
    rekeys_lose_no_more_than_charon_alone, resets_and_restarts_lose_no_more_than_charon_alone,
};
use super::steered::a_flow_through_an_encrypted_tunnel_passes_by_both_nics;

pub(crate) const TESTS: &[Test] = &[
    fact!(tunnels_with_a_key_are_encrypted_from_the_mark_to_the_end_of_the_port).needs(NEEDS),
    fact!(a_changed_setting_is_had_before_what_was_there_goes).needs(NEEDS),
    fact!(what_a_nic_was_asked_for_and_came_in_software_says_so).needs(NEEDS),
    fact!(a_charon_that_was_killed_has_its_connections_back).needs(NEEDS),
    fact!(tunnels_over_ipv6_are_encrypted_by_certificates).needs(NEEDS),
    fact!(tunnels_of_two_types_between_the_same_hosts_are_both_encrypted).needs(NEEDS),
    fact!(nothing_is_done_beside_ovs_monitor_ipsec).needs(NEEDS),
    fact!(no_key_of_a_driven_tunnel_is_on_the_wire_in_log_recording_answers_or_core).needs(NEEDS),
    fact!(packets_of_the_hosts_mark_do_not_pass_in_the_clear).needs(NEEDS),
    fact!(a_tunnel_with_a_key_is_encrypted_by_both_nics).needs(WITH_NICS),
    fact!(a_tunnel_over_ipv6_with_certificates_is_encrypted_by_both_nics).needs(WITH_NICS),
    fact!(a_tunnel_in_a_nic_passes_however_many_policies_the_kernel_has).needs(WITH_NICS),
    fact!(what_the_firmware_of_a_nic_lost_is_negotiated_anew).needs(WITH_NICS),
    fact!(rules_of_tc_on_the_uplink_keep_a_tunnel_in_software).needs(WITH_NICS),
    fact!(every_kind_of_tunnel_is_encrypted_by_both_nics).needs(WITH_NICS).long(),
    fact!(a_tunnel_that_earns_it_moves_into_both_nics).needs(WITH_NICS),
    fact!(a_tunnel_that_a_nic_has_no_room_for_comes_back_in_software).needs(WITH_NICS).long(),
    fact!(the_coldest_tunnel_yields_its_entry_to_a_hotter_one).needs(WITH_NICS).long(),
    fact!(a_flow_through_an_encrypted_tunnel_passes_by_both_nics).needs(WITH_NICS),
    fact!(rekeys_lose_no_more_than_charon_alone).needs(WITH_NICS).long(),
    // With the daemon and without: a policy that was in a NIC holds its device as long as anything refers to it
    // (xfrm_dev_policy_free() of 6.12).
    fact!(resets_and_restarts_lose_no_more_than_charon_alone)
        .needs(WITH_NICS)
        .has_the_kernel_complain("unregister_netdevice: waiting for sn")
        .long(),
    fact!(tunnels_come_up_no_slower_than_under_ovs_monitor_ipsec).needs(WITH_MONITOR).long(),
    fact!(libreswan_is_told_to_ask_both_nics_and_they_encrypt).needs(WITH_LIBRESWAN),
];

const NEEDS: &[Need] = &[Need::Daemon, Need::Strongswan];
const WITH_LIBRESWAN: &[Need] = &[Need::Daemon, Need::Libreswan, Need::Simnic];
const WITH_MONITOR: &[Need] = &[Need::Daemon, Need::Strongswan, Need::Libreswan];
const WITH_NICS: &[Need] = &[Need::Daemon, Need::Strongswan, Need::Simnic];
const V4: [&str; 2] = ["172.31.0.1", "172.31.0.2"];
const V6: [&str; 2] = ["fd31::1", "fd31::2"];
/// Found nowhere by chance.
const PSK: &str = "CANARY-of-a-key-that-is-n0where-else";

fn psk() -> String {
    format!("options:psk={PSK}")
}

fn tunnels_with_a_key_are_encrypted_from_the_mark_to_the_end_of_the_port(lab: &mut Lab) -> Outcome {
    let hosts = Hosts::new(lab, V4, "log.level = \"trace\"")?;
    hosts.tunnel("geneve", &[])?;
    hosts.reach_each_other()?;
    let (seen, esp) = hosts.on_the_wire(lab, "clear")?;
    ensure!(seen && esp == 0, "the capture does not see what is in the clear: {seen}, {esp} packets of ESP");
    for (host, _) in hosts.both() {
        ensure!(host.tunnel()?.is_none(), "a tunnel is shown that is not marked for IPsec");
        host.set(&[&psk()])?;
    }
    hosts.are_up()?;
    hosts.reach_each_other()?;
    hosts.are_private(lab, "encrypted")?;

    let shown = hosts.left.tunnel()?.unwrap_or_default();
    ensure!(
        shown["auth"] == "psk" && shown["offload"] == "auto" && shown["unmet"] == serde_json::json!([]),
        "{shown}"
    );
    let status = hosts.left.daemon.ctl(&["status"])?;
    ensure!(status.contains("ike ok") && status.contains("1 of 1 tunnels up"), "{status}");
    let list = hosts.left.daemon.json(&["sa", "list"])?;
    let of_tunnel = list.as_array().into_iter().flatten().filter(|sa| sa["tunnels"][0] == "tun0").count();
    ensure!(of_tunnel >= 4, "each way of a tunnel has two security associations: {list}");
    let are_charons = list
        .as_array()
        .into_iter()
        .flatten()
        .filter(|sa| sa["spi"] != "0x00000000")
        .all(|sa| sa["owner"] == "charon");
    ensure!(are_charons, "charon made all there are: {list}");

    hosts.left.ovs.vsctl(&["del-port", "br0", "tun0"])?;
    wait_until("nothing is left of it in the kernel", DONE_WITHIN, || {
        Ok(hosts.left.spis()?.is_empty() && hosts.left.policies(6081)? == 0)
    })
    .map_err(|failure| hosts.explained(&failure))?;
    let left = hosts.left.charon.swanctl(&["--list-conns"])?;
    ensure!(left.is_empty(), "charon still has {left}");
    ensure!(hosts.left.tunnel()?.is_none(), "it is still shown");
    for (host, _) in hosts.both() {
        let log = host.daemon.log()?;
        // Told at level debug, which level trace has all of.
        ensure!(log.contains("connection is up") && log.contains("step of IPsec"), "{log}");
        ensure!(!log.contains("CANARY") && !log.contains(&hex(PSK)), "the key is in the log at level trace");
        let answers = host.daemon.ctl(&["tunnel", "list", "-o", "json"])?;
        ensure!(!answers.contains("CANARY"), "{answers}");
    }
    Ok(())
}

fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

fn a_changed_setting_is_had_before_what_was_there_goes(lab: &mut Lab) -> Outcome {
    let hosts = Hosts::new(lab, V4, "")?;
    hosts.tunnel("vxlan", &[&psk()])?;
    hosts.are_up()?;
    hosts.reach_each_other()?;
    let before = hosts.left.spis()?;
    let pings = Pings::start(&hosts.left.netns, hosts.right.inner, 100, 64)?;
    wait_until("pings go", DONE_WITHIN, || Ok(pings.answers() >= 10))?;
    hosts.left.set(&["options:ipsec_nic-offload=no"])?;
    wait_until("security associations are others", DONE_WITHIN, || {
        let now = hosts.left.spis()?;
        Ok(now.len() >= 4 && now.iter().all(|spi| !before.contains(spi)))
    })
    .map_err(|failure| hosts.explained(&failure))?;
    let shown = hosts.left.is_shown("up")?;
    ensure!(shown["offload"] == "none", "{shown}");
    hosts.right.is_shown("up")?;
    let so_far = pings.answers();
    wait_until("pings go on", DONE_WITHIN, || Ok(pings.answers() >= so_far + 10))?;
    let (sent, received) = pings.stop()?;
    // The last may have been on its way.
    ensure!(received + 1 >= sent, "{} of {sent} pings were lost over the change", sent - received);
    hosts.are_private(lab, "changed")?;

    // No device here does IPsec, and with mode packet there is no falling back to software.
    hosts.left.set(&["options:ipsec_nic-offload=packet", "options:ipsec_replay-window=512"])?;
    let shown = hosts.left.is_shown("renewing")?;
    ensure!(
        shown["unmet"][0].as_str().is_some_and(|unmet| unmet.contains("window is 512 packets")),
        "{shown}"
    );
    let log = hosts.left.daemon.log()?;
    ensure!(log.contains("a NIC would refuse it"), "{log}");
    wait_until("it was tried", DONE_WITHIN, || {
        Ok(hosts.left.tunnel()?.is_some_and(|tunnel| tunnel["initiated"].as_u64() >= Some(1)))
    })?;
    hosts.reach_each_other()?;
    hosts.are_private(lab, "not-to-be-had")
}

fn what_a_nic_was_asked_for_and_came_in_software_says_so(lab: &mut Lab) -> Outcome {
    let hosts = Hosts::new(lab, V4, "")?;
    hosts.tunnel("geneve", &[&psk()])?;
    hosts.are_up()?;
    let carried = |wanted: &'static str| {
        let told = hosts.left.tunnel()?.unwrap_or_default();
        let why = told["why_not_more"].as_str().unwrap_or_default().to_owned();
        Ok(told["carried"] == "none" && told["asks"] == "none" && why.contains(wanted))
    };
    wait_until("it is told to move too little", DONE_WITHIN, || carried("an entry is for 1 Mbit/s and more"))
        .map_err(|failure| hosts.explained(&failure))?;
    let before = hosts.left.spis()?;
    // What moves nothing has nothing asked for it. No device here does IPsec.
    let pings = Pings::start(&hosts.left.netns, hosts.right.inner, 100, 64)?;
    let least = "external_ids:offloadd-ipsec-min-rate=\"0 bit/s\"";
    hosts.left.ovs.vsctl(&["set", "Open_vSwitch", ".", least])?;
    wait_until("it is told what came of asking", DONE_WITHIN, || {
        carried("asked of a NIC, it came up in software")
    })
    .map_err(|failure| hosts.explained(&failure))?;
    pings.stop()?;
    ensure!(hosts.left.spis()?.iter().all(|spi| !before.contains(spi)), "nothing was negotiated");
    hosts.reach_each_other()?;
    hosts.are_private(lab, "asked-for")
}

fn a_charon_that_was_killed_has_its_connections_back(lab: &mut Lab) -> Outcome {
    let mut hosts = Hosts::new(lab, V4, "")?;
    hosts.tunnel("geneve", &[&psk()])?;
    hosts.are_up()?;
    let before = hosts.left.spis()?;
    hosts.left.charon.kill_and_restart()?;
    wait_until("the new charon has security associations of its own", DONE_WITHIN, || {
        let sas = hosts.left.charon.swanctl(&["--list-sas"])?;
        let of_its_own = hosts.left.spis()?.into_iter().any(|spi| !before.contains(&spi));
        Ok(of_its_own && sas.matches("INSTALLED").count() >= 2)
    })
    .map_err(|failure| hosts.explained(&failure))?;
    hosts.are_up()?;
    hosts.reach_each_other()?;
    hosts.are_private(lab, "restarted")?;
    let status = hosts.left.daemon.json(&["status"])?;
    let ike =
        status["connections"].as_array().into_iter().flatten().find(|peer| peer["name"] == "ike").cloned();
    let ike = ike.ok_or_else(|| Failure::new(format!("{status}")))?;
    ensure!(ike["losses"] == 1 && ike["up"] == true, "{ike}");

    // The daemon's own end changes nothing, and the next takes over what is there.
    let spis = hosts.left.spis()?;
    hosts.left.daemon.signal("KILL")?;
    hosts.reach_each_other()?;
    hosts.left.daemon.restart()?;
    hosts.left.is_shown("up")?;
    ensure!(
        hosts.left.spis()? == spis,
        "security associations are others: {:?}, {spis:?}",
        hosts.left.spis()?
    );
    Ok(())
}

fn tunnels_over_ipv6_are_encrypted_by_certificates(lab: &mut Lab) -> Outcome {
    let hosts = Hosts::new(lab, V6, "")?;
    let authority = Authority::new(lab)?;
    let ca = format!("other_config:ca_cert={}", authority.certificate.display());
    let mut own = Vec::new();
    for ((host, _), name) in hosts.both().into_iter().zip(["hv1", "hv2"]) {
        let signed = host.certificate(lab, name, Some(&authority))?;
        own.push(host.certificate(lab, &format!("{name}.own"), None)?);
        host.is_known_by(&signed, &[&ca])?;
    }
    hosts.tunnel("vxlan", &["options:key=7"])?;
    hosts.left.set(&["options:remote_name=hv2"])?;
    hosts.right.set(&["options:remote_name=hv1"])?;
    hosts.are_up()?;
    hosts.reach_each_other()?;
    hosts.are_private(lab, "authority")?;
    let shown = hosts.left.tunnel()?.unwrap_or_default();
    ensure!(shown["auth"] == "ca", "{shown}");

    // From an authority's to certificates that each end has of the other.
    let before = hosts.left.spis()?;
    for (at, (host, _)) in hosts.both().into_iter().enumerate() {
        let of_peer = format!("options:remote_cert={}", own[1 - at].1.display());
        let no_authority = ["--", "remove", "Open_vSwitch", ".", "other_config", "ca_cert"];
        let by_certificate = [
            "--",
            "remove",
            "Interface",
            "tun0",
            "options",
            "remote_name",
            "--",
            "set",
            "Interface",
            "tun0",
            &of_peer,
        ];
        host.is_known_by(&own[at], &[&no_authority[..], &by_certificate].concat())?;
    }
    hosts.have_others_than(&before)?;
    hosts.reach_each_other()?;
    hosts.are_private(lab, "self-signed")?;
    let shown = hosts.left.tunnel()?.unwrap_or_default();
    ensure!(shown["auth"] == "self-signed", "{shown}");

    // The peer's own changes, at the paths that both ends have: theirs is another certificate than before.
    let before = hosts.left.spis()?;
    let renewed = hosts.right.certificate(lab, "hv2.renewed", None)?;
    for (from, to) in [(&renewed.0, &own[1].0), (&renewed.1, &own[1].1)] {
        fs::rename(from, to)?;
    }
    wait_until("security associations are others, by the files' content", DONE_WITHIN, || {
        let now = hosts.left.spis()?;
        Ok(now.len() >= 4 && now.iter().all(|spi| !before.contains(spi)))
    })
    .map_err(|failure| hosts.explained(&failure))?;
    hosts.are_up()?;
    hosts.reach_each_other()?;
    for (host, _) in hosts.both() {
        ensure!(host.daemon.log()?.contains("its files have another content"), "it came by something else");
    }

    // A file that is not there concerns its tunnel, and is named.
    hosts.left.set(&["options:remote_cert=/nonexistent/peer.pem"])?;
    let shown = hosts.left.is_shown("refused")?;
    ensure!(
        shown["reason"].as_str().is_some_and(|why| why.contains("/nonexistent/peer.pem: No such file")),
        "{shown}"
    );
    Ok(())
}

fn nothing_is_done_beside_ovs_monitor_ipsec(lab: &mut Lab) -> Outcome {
    let hosts = Hosts::new(lab, V4, "")?;
    // What holds its pidfile as Open vSwitch's daemons do, is taken for it.
    let pidfile = hosts.left.ovs.rundir().join("ovs-monitor-ipsec.pid");
    let db = lab.dir().join("stand-in.db");
    output(
        Command::new("ovsdb-tool").arg("create").arg(&db).arg("/usr/share/openvswitch/vswitch.ovsschema"),
    )?;
    output(
        Command::new("ovsdb-server")
            .arg(&db)
            .arg(format!("--pidfile={}", pidfile.display()))
            .arg(format!("--unixctl={}", lab.dir().join("stand-in.ctl").display()))
            .args(["--detach", "--no-chdir", "-vconsole:off"]),
    )?;
    let pid = fs::read_to_string(&pidfile)?.trim().to_owned();
    hosts.tunnel("geneve", &[&psk()])?;
    let shown = hosts.left.is_shown("left")?;
    let reason = format!("ovs-monitor-ipsec protects it (pid {pid})");
    ensure!(shown["reason"] == reason.as_str(), "{shown}");
    let status = hosts.left.daemon.ctl(&["status"])?;
    ensure!(status.contains("IPsec of tunnels is left to it"), "{status}");
    ensure!(hosts.left.charon.swanctl(&["--list-conns"])?.is_empty(), "a connection was loaded");
    output(Command::new("kill").arg(&pid))?;
    hosts.are_up()?;
    hosts.reach_each_other()
}

fn packets_of_the_hosts_mark_do_not_pass_in_the_clear(lab: &mut Lab) -> Outcome {
    let hosts = Hosts::new(lab, V4, "")?;
    hosts.tunnel("geneve", &[])?;
    hosts.reach_each_other()?;
    // Of a packet without a mark.
    let setting = "other_config:ipsec_skb_mark=0/1";
    hosts.left.ovs.vsctl(&["set", "Open_vSwitch", ".", setting])?;
    let marked = || {
        let policies = hosts.left.netns.run(&["ip", "xfrm", "policy"])?;
        Ok(policies.contains("dport 6081")
            && policies.contains("action block")
            && policies.contains("mark 0/0x1"))
    };
    wait_until("what drops them is there", DONE_WITHIN, marked)
        .map_err(|failure| hosts.explained(&failure))?;
    ensure!(!hosts.left.netns.pings(hosts.right.inner), "a packet passed in the clear");
    // What is protected passes.
    for (host, _) in hosts.both() {
        host.set(&[&psk()])?;
    }
    hosts.are_up()?;
    hosts.reach_each_other()?;
    hosts.are_private(lab, "marked")?;
    // A mark that other packets have concerns none of these.
    hosts.left.ovs.vsctl(&["set", "Open_vSwitch", ".", "other_config:ipsec_skb_mark=1/1"])?;
    wait_until("it is another mark's", DONE_WITHIN, || {
        let policies = hosts.left.netns.run(&["ip", "xfrm", "policy"])?;
        Ok(policies.contains("mark 0x1/0x1") && !policies.contains("mark 0/0x1"))
    })
    .map_err(|failure| hosts.explained(&failure))?;
    hosts.reach_each_other()?;
    hosts.left.ovs.vsctl(&["set", "Open_vSwitch", ".", "other_config:ipsec_skb_mark=odd"])?;
    wait_until("what is no mark is told, and nothing is dropped", DONE_WITHIN, || {
        let status = hosts.left.daemon.ctl(&["status"])?;
        let policies = hosts.left.netns.run(&["ip", "xfrm", "policy"])?;
        Ok(status.contains("which is no value/mask") && !policies.contains("mark 0x1/0x1"))
    })
    .map_err(|failure| hosts.explained(&failure))?;
    hosts.reach_each_other()
}
