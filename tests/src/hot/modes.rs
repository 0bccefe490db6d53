//! Another eswitch mode on a NIC whose flows are in hardware, beside another NIC that goes on.

use std::collections::BTreeSet;
use std::fs;

use lab_tests::harness::{
    Demo, Failure, Lab, Netns, Outcome, Ovs, OvsDaemon, Seen, Simnic, TcWatch, agree_on_all, ensure,
    netlink_sockets, output, wait_for, wait_until,
};
use netlink_wire::Ifindex;
use serde_json::Value;
use tc_flower::{Change, Location};

use super::scene::{ALL_PORTS, Scene, Way, bring_up};
use crate::faults::scene::{FIRST, Flows, NIC, PORT, SETTLES_WITHIN};

/// NIC 2 with a VF on a bridge of its own, wired to NIC 3 in a namespace.
struct Other {
    nic: Simnic,
    _remote_nic: Simnic,
    vm: Netns,
    remote: Netns,
}

impl Other {
    const REMOTE: &str = "10.20.0.100";

    fn up(lab: &mut Lab, ovs: &Ovs) -> Outcome<Self> {
        let (nic, remote_nic) = (Simnic::new(2, 1)?, Simnic::new(3, 0)?);
        nic.wire(&remote_nic)?;
        nic.set_mode("switchdev")?;
        let (vm, remote) = (Netns::new(lab, "vm")?, Netns::new(lab, "remote")?);
        vm.adopt(&nic.vf(0), "10.20.0.1/24")?;
        remote.adopt(&remote_nic.uplink(), &format!("{}/24", Self::REMOTE))?;
        bring_up(&[&nic.uplink(), &nic.representor(0)])?;
        let (uplink, representor) = (nic.uplink(), nic.representor(0));
        ovs.vsctl(&[
            "add-br",
            "br1",
            "--",
            "add-port",
            "br1",
            &uplink,
            "--",
            "add-port",
            "br1",
            &representor,
        ])?;
        let other = Self { nic, _remote_nic: remote_nic, vm, remote };
        wait_until("the other VF reaches its host", SETTLES_WITHIN, || Ok(other.vm.pings(Self::REMOTE)))?;
        Ok(other)
    }

    /// The rule of its UDP traffic: cookie and packets.
    fn rule(&self) -> Outcome<(String, u64)> {
        wait_for("the other NIC has the rule of its traffic", SETTLES_WITHIN, || {
            let rules = self.nic.rules()?;
            let is_it = |line: &&str| line.starts_with("port pf0vf0 ") && line.contains("redirect:p0");
            let mut found: Vec<(String, u64)> = Vec::new();
            for line in rules.lines().filter(is_it) {
                let after =
                    |word: &str| line.split(' ').skip_while(|it| *it != word).nth(1).unwrap_or_default();
                found.push((after("cookie").to_owned(), after("packets").parse()?));
            }
            // Of its other flows none has as many.
            let most = found.into_iter().max_by_key(|(_, packets)| *packets);
            most.filter(|(_, packets)| *packets > 100).map(Some).ok_or_else(|| Failure::new(rules))
        })
    }
}

/// What `nic apply` did to NIC 0, whose VFs 0 and 1 stay in their namespaces.
fn apply(lab: &Lab, scene: &Scene<'_>, mode: &str) -> Outcome<Vec<String>> {
    let path = lab.dir().join("nics.toml");
    let port = |vf: u32| format!("[[device.port]]\nvf = {vf}\nnetns = \"vm{vf}\"\n");
    let nic = format!("[[device]]\nhandle = \"{}\"\neswitch-mode = \"{mode}\"\n", NIC.devlink());
    fs::write(&path, format!("{nic}{}{}", port(0), port(1)))?;
    let mut command = scene.ovs.command("ovs-offloadctl");
    command.args(["nic", "apply", "--output", "json", "--config"]).arg(&path);
    let report: Value = serde_json::from_str(&output(&mut command)?)?;
    let nic = &report["nics"][0];
    ensure!(nic["outcome"] == "reached", "{report}");
    let steps = nic["steps"].as_array().into_iter().flatten();
    Ok(steps.map(|step| step["step"].as_str().unwrap_or_default().to_owned()).collect())
}

pub(super) fn a_nic_with_flows_is_emptied_before_its_mode_changes_and_used_again_after(
    lab: &mut Lab,
) -> Outcome {
    let ovs = Ovs::for_steering(lab)?;
    let witness = TcWatch::start()?;
    let scene = Scene::up(lab, &ovs)?;
    let other = Other::up(lab, &ovs)?;
    let elsewhere =
        Way::start(&other.vm, &other.remote, Other::REMOTE, Flows { from: FIRST, count: 1, to: PORT })?;
    let traffic = scene.to_remote()?;
    scene.in_hardware(1)?;
    let (rule, before) = other.rule()?;
    let ports = ALL_PORTS.map(|port| fs::read_to_string(format!("/sys/class/net/{port}/ifindex")));
    let ports = ports.into_iter().collect::<Result<Vec<_>, _>>()?;
    let ports: BTreeSet<Location> =
        ports.iter().filter_map(|text| Some(Location::ingress(Ifindex(text.trim().parse().ok()?)))).collect();
    let seen_before = witness.len();
    let in_nic: BTreeSet<String> =
        NIC.rules()?.lines().filter_map(lab_tests::harness::ufid_of_rule).collect();

    let steps = apply(lab, &scene, "legacy")?;
    let emptied = steps.first().is_some_and(|step| step == "empty the NIC of flows, and keep it empty");
    ensure!(emptied && steps.iter().any(|step| step == "set the eswitch to legacy"), "it did {steps:?}");
    let seen = witness.changes(|_| true)?.split_off(seen_before);
    let of_nic: Vec<_> = seen.iter().filter(|seen| ports.contains(&seen.address.location)).collect();
    let ours = netlink_sockets(scene.daemon.pid())?;
    // An idle flow is Open vSwitch's to end, in hardware or not.
    let theirs = netlink_sockets(ovs.pid(OvsDaemon::Vswitchd)?)?;
    let by_ovs = |seen: &Seen| seen.change == Change::Deleted && theirs.contains(&seen.portid);
    let moved = |seen: &&&Seen| {
        seen.change == Change::New
            && seen.was_in_hw
            && !seen.in_hw
            && seen.skip_hw
            && ours.contains(&seen.portid)
    };
    let ufid = |seen: &Seen| seen.ufid.trim_start_matches("ufid:").to_owned();
    let moved: BTreeSet<String> = of_nic.iter().filter(moved).map(|seen| ufid(seen)).collect();
    let ended: BTreeSet<String> =
        of_nic.iter().filter(|seen| by_ovs(seen) && seen.was_in_hw).map(|seen| ufid(seen)).collect();
    let lost: Vec<_> = of_nic
        .iter()
        .filter(|seen| seen.change == Change::Deleted && seen.was_in_hw && !by_ovs(seen))
        .collect();
    ensure!(lost.is_empty(), "filters went with the mode while they were in hardware: {lost:?}");
    ensure!(
        moved.len() >= 3 && in_nic.is_subset(&(&moved | &ended)),
        "in the NIC were {in_nic:?}, emptied {moved:?}, and ended by Open vSwitch {ended:?}"
    );

    // What flows through another NIC does not notice, and keeps its rule.
    elsewhere.flows_on()?;
    let (same, after) = other.rule()?;
    ensure!(
        same == rule && after > before,
        "the other NIC had rule {rule} with {before} packets, now {same} with {after}"
    );

    let nics = scene.daemon.json(&["nic", "list"])?;
    let is_used = |nic: &Value| nic["draining"] != true;
    ensure!(nics.as_array().into_iter().flatten().all(is_used), "in legacy mode a NIC is kept empty: {nics}");
    // It ended with its device's address.
    drop(traffic);
    apply(lab, &scene, "switchdev")?;
    elsewhere.flows_on()?;
    let (same, _) = other.rule()?;
    ensure!(same == rule, "the other NIC had rule {rule}, now {same}");
    let (sent, lost) = elsewhere.stop()?;
    ensure!(lost == 0, "through the other NIC {lost} of {sent} packets were lost");
    println!("    {} flows were emptied; through the other NIC none of {sent} packets was lost", moved.len());

    let nics = scene.daemon.json(&["nic", "list"])?;
    ensure!(
        nics.as_array().into_iter().flatten().all(|nic| nic["draining"] != true),
        "a NIC is kept empty: {nics}"
    );
    bring_up(&ALL_PORTS)?;
    let vm = &scene.demo.vm0;
    vm.run(&["ip", "address", "add", &format!("{}/24", Demo::VM0), "dev", "sn0v0"])?;
    vm.run(&["ip", "link", "set", "sn0v0", "up"])?;
    scene.demo.hush_vm0()?;
    scene.reaches_remote_afresh()?;
    let traffic = scene.to_remote()?;
    scene.in_hardware(1)?;
    Scene::flows_on(&traffic.receiver, 200)?;
    agree_on_all(&[&NIC, &other.nic], &ovs, &scene.daemon, SETTLES_WITHIN)?;
    traffic.stop().map(drop)
}
