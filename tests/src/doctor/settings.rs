//! Open vSwitch's settings, and its daemons.

use std::fs;
use std::time::Duration;

use lab_tests::ensure;
use lab_tests::harness::{Demo, Lab, Outcome, Ovs, OvsDaemon, wait_until};

use super::complaint::{Doctor, Says, shell, shown};

/// The longest until Open vSwitch has put a ping's flow into TC.
const IN_TC_WITHIN: Duration = Duration::from_secs(60);

/// Sends something, and waits until Open vSwitch has its flow in TC.
fn make_a_flow(ovs: &Ovs, demo: &Demo<'_>) -> Outcome {
    wait_until("the flow of a ping is in TC", IN_TC_WITHIN, || {
        Ok(demo.vm0.pings(Demo::REMOTE)
            && ovs.flows("tc")?.iter().any(|flow| flow.contains("eth_type(0x0800)")))
    })
}

pub(super) fn settings_that_do_not_hold_and_what_daemons_left_behind_are_named(lab: &mut Lab) -> Outcome {
    let ovs = Ovs::for_steering(lab)?;
    let demo = Demo::up(&ovs)?;
    let doctor = Doctor::of_healthy(&ovs)?;

    // What is not in force shows in filters, and one of a ping is gone ten seconds after it: there is one at each look.
    let names = |arguments: &[&str], expected: &[(&str, &str)]| {
        doctor.names_after(|| make_a_flow(&ovs, &demo), arguments, expected)
    };
    shell(&ovs, "ovs-vsctl set Open_vSwitch . other_config:tc-policy=none")?;
    let policy = ("tc-policy-not-in-force", "tc-policy");
    let says = names(&[], &[policy, ("tc-policy-not-skip-hw", "tc-policy")])?;
    ensure!(says.field("tc-policy-not-skip-hw", "severity")? == "note", "in mode auto the daemon observes");
    let config = lab.dir().join("steer.toml");
    fs::write(&config, "mode = \"steer\"\n")?;
    let steer = ["--config", &config.to_string_lossy()];
    let says = names(&steer, &[policy, ("tc-policy-not-skip-hw", "tc-policy")])?;
    ensure!(says.field("tc-policy-not-skip-hw", "severity")? == "error", "in mode steer it refuses to start");
    fs::write(&config, "mode = \"steeer\"\n")?;
    shell(&ovs, "ovs-vsctl set Open_vSwitch . other_config:tc-policy=skip_hw")?;
    let says = doctor.names_with(&steer, &[("configuration-wrong", "")])?;
    let what = says.field("configuration-wrong", "what")?;
    ensure!(what.contains("steer.toml") && what.contains("steeer"), "doctor says: {what}");

    shell(&ovs, "ovs-vsctl set Open_vSwitch . other_config:tc-policy=skip_sw")?;
    let skip_sw = ("tc-policy-skip-sw", "tc-policy");
    let says = names(&[], &[policy, skip_sw, ("tc-policy-not-skip-hw", "tc-policy")])?;
    shown("sriov-network-operator#38", &says)?;

    shell(&ovs, "ovs-vsctl set Open_vSwitch . other_config:tc-policy=skip_hw other_config:hw-offload=false")?;
    let off = ("hw-offload-off", "hw-offload");
    let says = names(&[], &[off, ("hw-offload-still-on", "hw-offload")])?;
    shown("kube-ovn#2727", &says)?;
    let command = says.field("hw-offload-off", "command")?;
    ensure!(command.contains("other_config:hw-offload=true"), "doctor says: {command}");
    // What both findings ask for.
    ovs.signal(OvsDaemon::Vswitchd, "TERM")?;
    doctor.names(&[off, ("vswitchd-not-running", "ovs-vswitchd")])?;
    shell(&ovs, "ovs-vsctl --no-wait set Open_vSwitch . other_config:hw-offload=true")?;
    ovs.restart(OvsDaemon::Vswitchd)?;
    doctor.is_content()?;

    ovs.signal(OvsDaemon::Ovsdb, "TERM")?;
    // Without the database nobody knows what should be where: nothing of it is guessed.
    let says = Says::now(&ovs, &["--timeout", "10"])?;
    let errors = says.found().into_iter().filter(|(id, _)| id == "ovsdb-unreachable").count();
    ensure!(errors == 1 && says.counts().0 == Some(1), "without a database doctor finds {:?}", says.found());
    ovs.restart(OvsDaemon::Ovsdb)?;
    doctor.is_content()?;
    stranded_filters(&ovs, &doctor)
}

/// Filters that an ovs-vswitchd left behind, with one that does not offload.
fn stranded_filters(ovs: &Ovs, doctor: &Doctor<'_>) -> Outcome {
    // Open vSwitch takes its own `ingress` qdiscs away when it starts without hw-offload, and leaves a `clsact` alone.
    ovs.signal(OvsDaemon::Vswitchd, "TERM")?;
    shell(ovs, "ovs-vsctl --no-wait set Open_vSwitch . other_config:hw-offload=false")?;
    shell(ovs, "tc qdisc del dev sn0pf0vf2 ingress && tc qdisc add dev sn0pf0vf2 clsact")?;
    let cookie = "0123456789abcdef0123456789abcdef";
    shell(
        ovs,
        &format!(
            "tc filter add dev sn0pf0vf2 ingress prio 2 protocol ip flower dst_ip 10.9.9.9 skip_hw action gact drop cookie {cookie}"
        ),
    )?;
    let off = ("hw-offload-off", "hw-offload");
    doctor.names(&[off, ("vswitchd-not-running", "ovs-vswitchd")])?;
    ovs.restart(OvsDaemon::Vswitchd)?;
    let says = doctor.names(&[off, ("filters-stranded", "sn0pf0vf2")])?;
    shown("rackerlabs/genestack#1740", &says)?;
    let command = says.field("filters-stranded", "command")?;
    shell(ovs, &command)?;
    doctor.names(&[off]).map(drop)
}
