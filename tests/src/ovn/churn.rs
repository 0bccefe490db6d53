//! Pods that come and go, as an orchestrator plugs them: nothing of them stays.

use std::collections::BTreeSet;
use std::fs;

use lab_tests::harness::{Daemon, Failure, Lab, Outcome, Receiver, Sender, Stream, ensure, wait_until};

use serde_json::Value;

use super::cni::{Cni, Pod, Request};
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

/// One pod, as Kube-OVN plugs it and takes it back.
fn one_pod(lab: &mut Lab, chassis: &Chassis, number: u32, mac: &str) -> Outcome {
    let request = Request {
        cni: Cni::KubeOvn,
        vf: 0,
        container: format!("{number:012x}{:052x}", 0xc0ffee),
        name: format!("pod{number}"),
        namespace: format!("ns-{}", number % NAMESPACES),
        uid: format!("7d1f0c3e-0000-4000-8000-{number:012}"),
        mac: mac.to_owned(),
        address: "10.0.0.1/24".to_owned(),
    };
    let (port, addresses) = (request.iface_id(), format!("{mac} 10.0.0.1"));
    chassis.ovn.nbctl(&["lsp-add", "blue", &port, "--", "lsp-set-addresses", &port, &addresses])?;
    let pod = Pod::plug(lab, &chassis.ovs, &chassis.nic, request)?;
    wait_until(&format!("pod {number} is reached"), DONE_WITHIN, || Ok(chassis.vms[1].pings("10.0.0.1")))?;
    if number.is_multiple_of(BUSY_EVERY) {
        let to = "10.0.0.2:7001";
        let receiver = Receiver::start(&chassis.vms[1], to)?;
        let stream = Stream { to, count: 1_500, rate_per_s: 600, payload_bytes: 1400, ..Stream::default() };
        let sent = Sender::send(&pod.netns, stream)?;
        let received = receiver.finish()?;
        ensure!(received.packets == sent, "pod {number}: of {sent} packets {received:?} arrived");
    }
    pod.unplug(&chassis.ovs, &chassis.nic)?;
    chassis.ovn.nbctl(&["lsp-del", &port]).map(drop)
}

pub(super) fn five_hundred_pods_leave_no_port_rule_label_or_memory(lab: &mut Lab) -> Outcome {
    let chassis = Chassis::up(lab)?;
    // The first pod is as the topology made it, and goes as the others do.
    chassis.ovs.vsctl(&["del-port", "br-int", "sn0pf0vf0"])?;
    let mac = chassis.vms[0].run(&["cat", "/sys/class/net/sn0v0/address"])?;
    chassis.vms[0].run(&["ip", "link", "set", "sn0v0", "netns", "1"])?;
    chassis.ovn.nbctl(&["lsp-del", "port0"])?;
    let config = format!("mode = \"steer\"\nmetrics.listen = \"{METRICS}\"\n");
    let daemon = Daemon::start(lab, &chassis.ovs, &config)?;
    let ports = || Ok::<_, Failure>(daemon.json(&["port", "list"])?.as_array().map_or(0, Vec::len));
    let before = ports()?;
    let mut settled = None;
    for number in 0..PODS {
        one_pod(lab, &chassis, number, mac.trim())?;
        if number + 1 == SETTLED {
            settled = Some(Left::read(&daemon)?);
        }
    }
    let settled = settled.ok_or_else(|| Failure::new("there were too few pods"))?;
    let of_pods = |flow: &&Value| {
        let port = flow["port"].as_str().unwrap_or_default();
        port.ends_with("_h") || port == "sn0pf0vf0"
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
