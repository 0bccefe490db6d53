//! Pods that come and go, as an orchestrator plugs them: nothing of them stays.

use std::collections::BTreeSet;
use std::fs;

use lab_tests::harness::{
    Daemon, Failure, Lab, Netns, Outcome, Receiver, Sender, Stream, ensure, run, wait_until,
};

use serde_json::Value;

use super::{Chassis, DONE_WITHIN};
use crate::inventory::changes::scrape;

/// Pods, one after the other.
const PODS: u32 = 500;
/// Namespaces they are in, in turn; more than metrics tell apart.
const NAMESPACES: u32 = 100;
/// From this one on memory and metrics are to stay as they are: every namespace was there by then.
const SETTLED: u32 = 120;
/// Of every so many pods one sends enough to be placed.
const BUSY_EVERY: u32 = 10;
/// What the daemon may grow by after that, in kB.
const GROWTH_MAX_KB: u64 = 2_048;
const METRICS: &str = "127.0.0.1:19476";

/// What one pod may leave behind.
#[derive(Debug)]
struct Left {
    resident_kb: u64,
    /// Series of metrics, without their values.
    series: BTreeSet<String>,
}

impl Left {
    fn read(daemon: &Daemon) -> Outcome<Self> {
        let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid()))?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let resident_kb = resident.and_then(|text| text.trim().strip_suffix(" kB")?.parse().ok());
        let text = scrape(METRICS)?;
        let series = text.lines().filter(|line| line.starts_with("offloadd_"));
        Ok(Self {
            resident_kb: resident_kb.ok_or_else(|| Failure::new("/proc/PID/status has no VmRSS"))?,
            series: series.filter_map(|line| Some(line.rsplit_once(' ')?.0.to_owned())).collect(),
        })
    }
}

/// One pod: its namespace, the representor renamed and on the bridge as ovn-kubernetes and Kube-OVN do it, and all of that
/// taken back in their order: first the namespace, in which the VF is, then the port.
fn one_pod(lab: &mut Lab, chassis: &Chassis, number: u32, address: &str) -> Outcome {
    let pod = Netns::new(lab, "pod")?;
    pod.adopt("sn0v0", address)?;
    let representor = format!("pod{number}");
    run("ip", &["link", "set", "sn0pf0vf0", "down"])?;
    run("ip", &["link", "set", "sn0pf0vf0", "name", &representor])?;
    run("ip", &["link", "set", &representor, "up"])?;
    let ids = [
        "external_ids:iface-id=port0".to_owned(),
        "external_ids:vendor=kube-ovn".to_owned(),
        format!("external_ids:pod_name={representor}"),
        format!("external_ids:pod_namespace=ns-{}", number % NAMESPACES),
    ];
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    chassis.ovs.vsctl(
        &[&["add-port", "br-int", &representor, "--", "set", "Interface", &representor], &ids[..]].concat(),
    )?;
    wait_until(&format!("pod {number} is reached"), DONE_WITHIN, || Ok(chassis.vms[1].pings("10.0.0.1")))?;
    if number.is_multiple_of(BUSY_EVERY) {
        let to = "10.0.0.2:7001";
        let receiver = Receiver::start(&chassis.vms[1], to)?;
        let stream = Stream { to, count: 1_500, rate_per_s: 600, payload_bytes: 1400, ..Stream::default() };
        let sent = Sender::send(&pod, stream)?;
        let received = receiver.finish()?;
        ensure!(received.packets == sent, "pod {number}: of {sent} packets {received:?} arrived");
    }
    drop(pod);
    wait_until("the VF is back", DONE_WITHIN, || Ok(fs::exists("/sys/class/net/sn0v0")?))?;
    chassis.ovs.vsctl(&["del-port", "br-int", &representor])?;
    run("ip", &["link", "set", &representor, "down"])?;
    run("ip", &["link", "set", &representor, "name", "sn0pf0vf0"])?;
    Ok(())
}

pub(super) fn five_hundred_pods_leave_no_port_rule_label_or_memory(lab: &mut Lab) -> Outcome {
    let chassis = Chassis::up(lab)?;
    // The first pod is as the topology made it, and goes as the others do.
    chassis.ovs.vsctl(&["del-port", "br-int", "sn0pf0vf0"])?;
    chassis.vms[0].run(&["ip", "link", "set", "sn0v0", "netns", "1"])?;
    let config = format!("mode = \"steer\"\nmetrics.listen = \"{METRICS}\"\n");
    let daemon = Daemon::start(lab, &chassis.ovs, &config)?;
    let ports = || Ok::<_, Failure>(daemon.json(&["port", "list"])?.as_array().map_or(0, Vec::len));
    let before = ports()?;
    let mut settled = None;
    for number in 0..PODS {
        one_pod(lab, &chassis, number, "10.0.0.1/24")?;
        if number + 1 == SETTLED {
            settled = Some(Left::read(&daemon)?);
        }
    }
    let settled = settled.ok_or_else(|| Failure::new("there were too few pods"))?;
    let of_pods = |flow: &&Value| {
        let port = flow["port"].as_str().unwrap_or_default();
        port.starts_with("pod") || port == "sn0pf0vf0"
    };
    wait_until("nothing of a pod is left", DONE_WITHIN, || {
        let flows = daemon.flows()?.iter().filter(of_pods).count();
        Ok(ports()? == before && flows == 0 && !chassis.nic.rules()?.contains("port pf0vf0 "))
    })?;
    let left = Left::read(&daemon)?;
    println!(
        "    {PODS} pods: from {} to {} kB after pod {SETTLED}, {} series then and {} now",
        settled.resident_kb,
        left.resident_kb,
        settled.series.len(),
        left.series.len()
    );
    let new: Vec<_> = left.series.difference(&settled.series).collect();
    ensure!(new.is_empty(), "metrics have series that they had not after {SETTLED} pods: {new:?}");
    ensure!(
        left.resident_kb <= settled.resident_kb + GROWTH_MAX_KB,
        "the daemon grew from {} to {} kB",
        settled.resident_kb,
        left.resident_kb
    );
    Ok(())
}
