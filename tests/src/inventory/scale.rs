//! 256 virtual functions on each of four NICs.

use std::thread;
use std::time::{Duration, Instant};

use lab_tests::ensure;
use lab_tests::harness::{Daemon, Failure, Lab, Outcome, Ovs, Simnic, cpu_time, output, wait_for};
use serde_json::Value;

use super::witness::{Told, Witness};

const NICS: u32 = 4;
const VFS: u32 = 256;
const SETTLES_WITHIN: Duration = Duration::from_secs(60);
/// How long the daemon's CPU time is watched while nothing happens.
const IDLE: Duration = Duration::from_secs(5);
/// What it may use of that; the measured figure is printed.
const IDLE_CPU_MAX: Duration = Duration::from_millis(100);

pub(super) fn a_thousand_functions_are_known_at_once_cost_nothing_and_change_one_by_one(
    lab: &mut Lab,
) -> Outcome {
    let ovs = Ovs::start(lab, &["hw-offload=true"])?;
    let nics: Vec<Simnic> = (0..NICS).map(|id| Simnic::new(id, VFS)).collect::<Outcome<_>>()?;
    for nic in &nics {
        nic.set_mode("switchdev")?;
    }
    let begin = Instant::now();
    let daemon = Daemon::start(lab, &ovs, "mode = \"observe\"\n")?;
    let ms = wait_for("everything is read", SETTLES_WITHIN, || {
        Ok(daemon.json(&["status"])?["inventory"]["complete_after_ms"].as_u64())
    })?;
    println!(
        "    {NICS} NICs with {VFS} VFs each: complete {ms} ms after the daemon's sockets are open; it answers so {} ms after \
         its process was started",
        begin.elapsed().as_millis()
    );
    everything_is_there(&daemon)?;
    idle(&daemon)?;
    one_by_one(&daemon)
}

fn everything_is_there(daemon: &Daemon) -> Outcome {
    let nics = daemon.json(&["nic", "list"])?;
    let nics = nics.as_array().cloned().unwrap_or_default();
    ensure!(nics.len() == NICS as usize, "NICs: {nics:?}");
    for nic in &nics {
        let is = (&nic["vfs"], &nic["vfs_max"], &nic["ports"], &nic["eswitch_mode"], &nic["driver"]);
        let right = (
            &Value::from(VFS),
            &Value::from(VFS),
            &Value::from(VFS + 1),
            &"switchdev".into(),
            &"simnic".into(),
        );
        ensure!(is == right, "NIC {nic}");
    }
    let ports = representors(daemon)?;
    ensure!(ports.len() == (NICS * VFS) as usize, "{} representors", ports.len());
    for port in &ports {
        let (id, vf) = (&port["nic"], &port["vf"]);
        let own = port["own_netdev"]["name"].as_str();
        ensure!(own == Some(&format!("sn{id}v{vf}")), "the VF's own device is not joined: {port}");
        ensure!(port["device"] == format!("simnic{id}vf{vf}"), "the VF's device: {port}");
        let known = ["mac", "hw_tc_offload", "phys_port_name"].iter().all(|key| port[key].is_string());
        ensure!(known && port["netdev"]["mtu"].is_u64(), "something is not known: {port}");
    }
    Ok(())
}

pub(super) fn representors(daemon: &Daemon) -> Outcome<Vec<Value>> {
    let ports = daemon.json(&["port", "list", "--representors"])?;
    ports.as_array().cloned().ok_or_else(|| Failure::new(format!("`port list --representors`: {ports}")))
}

fn questions(daemon: &Daemon) -> Outcome<Value> {
    Ok(daemon.json(&["status"])?["inventory"]["questions"].clone())
}

/// Without events the daemon does nothing.
fn idle(daemon: &Daemon) -> Outcome {
    let asked = questions(daemon)?;
    let before = cpu_time(daemon.pid())?;
    // What is measured is a time: there is no state to wait for.
    thread::sleep(IDLE);
    let used = cpu_time(daemon.pid())?.saturating_sub(before);
    println!("    {} ms of CPU time in {} s without events", used.as_millis(), IDLE.as_secs());
    ensure!(used <= IDLE_CPU_MAX, "{used:?} of CPU time in {IDLE:?} without events");
    ensure!(questions(daemon)? == asked, "the kernel was asked without an event");
    Ok(())
}

fn heard(daemon: &Daemon) -> Outcome<(Told, Told)> {
    let inventory = daemon.json(&["status"])?["inventory"].clone();
    let of = |source: &str, what: &str| inventory["heard"][source][what].as_u64().unwrap_or_default();
    let told =
        |what| Told { link: of("link", what), devlink: of("devlink", what), ethtool: of("ethtool", what) };
    Ok((told("notifications"), told("updates")))
}

fn minus(left: Told, right: Told) -> Told {
    Told {
        link: left.link - right.link,
        devlink: left.devlink - right.devlink,
        ethtool: left.ethtool - right.ethtool,
    }
}

/// Each change that the kernel tells of is one update, and nothing is asked for it.
fn one_by_one(daemon: &Daemon) -> Outcome {
    let mut witness = Witness::new()?;
    let (notified, updated) = heard(daemon)?;
    let asked = questions(daemon)?;
    let script = "for vf in $(seq 0 49); do ip link set sn1pf0vf$vf mtu 1400; done\n\
         for vf in $(seq 0 19); do ethtool -K sn2pf0vf$vf hw-tc-offload off; done\n\
         for vf in $(seq 0 19); do devlink port function set simnic/simnic3/$((vf + 1)) hw_addr 02:00:00:00:aa:$((vf + 10)); done";
    output(std::process::Command::new("sh").args(["-ec", script]))?;
    let told = wait_for("the daemon has heard what the witness has", SETTLES_WITHIN, || {
        let told = witness.told()?;
        let is_so = minus(heard(daemon)?.0, notified) == told && told.link >= 50 && told.ethtool >= 20;
        Ok((is_so && told.devlink >= 20).then_some(told))
    })?;
    let updates = minus(heard(daemon)?.1, updated);
    println!("    {told:?} were told by the kernel, and made {updates:?} of the inventory");
    ensure!(updates == told, "{told:?} were told and {updates:?} made");
    ensure!(questions(daemon)? == asked, "a change that was told made the daemon ask");
    let ports = representors(daemon)?;
    let count = |is_so: &dyn Fn(&Value) -> bool| ports.iter().filter(|port| is_so(port)).count();
    ensure!(count(&|port| port["netdev"]["mtu"] == 1400) == 50, "not 50 representors have the new MTU");
    ensure!(
        count(&|port| port["nic"] == 2 && port["hw_tc_offload"] == "off") == 20,
        "not 20 have their feature off"
    );
    let mac = |port: &Value| port["mac"].as_str().is_some_and(|mac| mac.starts_with("02:00:00:00:aa:"));
    ensure!(count(&mac) == 20, "not 20 functions have the new address");
    Ok(())
}
