//! Pods between two chassis, plugged by each CNI as it does it: known for what they are, carried in hardware, and gone
//! without a trace.

use std::fs;

use lab_tests::harness::{
    Failure, Lab, Outcome, Received, Receiver, Sender, Stream, ensure, ethtool_counters, wait_for, wait_until,
};
use serde_json::Value;

use super::DONE_WITHIN;
use super::cni::{Cni, Pod, Request, representor_of};
use super::fabric::{Chassis, Fabric};
use super::topologies::plug_into_one_switch;

/// Packets per second of a stream.
const PER_S: u64 = 300;
/// Packets of each stream that are to come while all are in hardware.
const WATCHED: u64 = 300;
/// Times that every pod is plugged: the second finds the VF as the first pod left it.
const ROUNDS: u32 = 2;
/// The pod of the second chassis.
const FAR: &str = "10.1.0.2";

/// A pod of `cni` as its orchestrator knows it in a round: the same name, another container.
fn request(cni: Cni, number: u32, round: u32) -> Request {
    Request {
        cni,
        vf: number,
        container: format!("c0ffee{round:02x}{number:02x}{:054x}", 0x5a5a_0000 + number),
        name: format!("web-{number}"),
        namespace: "shop".to_owned(),
        uid: format!("7d1f0c3e-0000-4000-8000-0000000{round:02x}{number:03x}"),
        mac: format!("0a:58:0a:01:00:{:02x}", 10 + number),
        address: format!("10.1.0.{}/24", 10 + number),
    }
}

/// Its logical port, as the orchestrator's controller has it made.
fn make_logical_port(fabric: &Fabric, request: &Request) -> Outcome {
    let (port, address) = (request.iface_id(), request.address.replace("/24", ""));
    let addresses = format!("{} {address}", request.mac);
    let set = ["--", "lsp-set-addresses", &port, &addresses];
    fabric.ovn.nbctl(&[&["--may-exist", "lsp-add", "blue", &port][..], &set].concat())?;
    if request.cni == Cni::OvnKubernetes {
        let version = format!("iface-id-ver={}", request.uid);
        fabric.ovn.nbctl(&["lsp-set-options", &port, "requested-chassis=hv1", &version])?;
        fabric.ovn.nbctl(&["lsp-set-port-security", &port, &addresses])?;
    }
    Ok(())
}

/// A pod with a stream from it and one to it.
struct Busy {
    pod: Pod,
    from: (Sender, Receiver),
    to: (Sender, Receiver),
}

impl Busy {
    fn start(fabric: &Fabric, pod: Pod) -> Outcome<Self> {
        let far = &fabric.hosts[1].pod;
        wait_until(&format!("{FAR} answers {}", pod.request.workload()), DONE_WITHIN, || {
            Ok(pod.netns.pings(FAR))
        })?;
        let address = pod.request.address.replace("/24", "");
        let number = pod.request.vf as u16;
        let (out, back) = (format!("{FAR}:{}", 7400 + number), format!("{address}:{}", 7500 + number));
        let stream = |to| Stream {
            to,
            from_port: 20_000 + 10 * number,
            count: 1_000_000,
            rate_per_s: PER_S,
            payload_bytes: 1200,
            ..Stream::default()
        };
        let from = (Receiver::start(far, &out)?, Sender::start_stoppable(&pod.netns, stream(&out))?);
        let to = (Receiver::start(&pod.netns, &back)?, Sender::start_stoppable(far, stream(&back))?);
        Ok(Self { pod, from: (from.1, from.0), to: (to.1, to.0) })
    }

    fn received(&self) -> u64 {
        self.from.1.so_far().packets.min(self.to.1.so_far().packets)
    }

    /// The pod's processes end; what is sent to it goes on, and so do its flows in hardware.
    fn end(self) -> Outcome<(Pod, Sender)> {
        let sent = self.from.0.stop()?;
        let received: Received = self.from.1.finish()?;
        ensure!(
            received.packets == sent && received.duplicated == 0,
            "{}: of {sent} packets {received:?} arrived",
            self.pod.request.workload()
        );
        drop(self.to.1);
        Ok((self.pod, self.to.0))
    }
}

/// Waits until all streams are carried by hardware at both ends.
fn in_hardware(fabric: &Fabric, busy: &[Busy]) -> Outcome {
    let [one, two] = &fabric.hosts;
    let counts = || {
        let mut slow = fabric.slow()?;
        for pod in busy {
            let counters = ethtool_counters(&pod.pod.representor)?;
            slow += counters.get("vf_tx_slow_packets").unwrap_or(&0);
            slow += counters.get("vf_rx_slow_packets").unwrap_or(&0);
        }
        Ok::<_, Failure>((busy.iter().map(Busy::received).collect::<Vec<_>>(), slow))
    };
    let mut window = counts()?;
    let streams = 2 * busy.len() as u64;
    wait_for("the pods' streams are in hardware at both ends", DONE_WITHIN, || {
        let now = counts()?;
        if now.0.iter().zip(&window.0).any(|(now, then)| *now < then + WATCHED) {
            return Err(Failure::new(format!(
                "{now:?} after {window:?} {:?}",
                busy.iter().map(|b| (b.from.1.so_far(), b.to.1.so_far())).collect::<Vec<_>>()
            )));
        }
        let slow = now.1 - window.1;
        window = now;
        println!("    {slow} of {} packets were seen by a CPU", streams * WATCHED);
        if slow * 20 <= streams * WATCHED {
            return Ok(Some(()));
        }
        Err(Failure::new(format!("{slow} packets were seen by a CPU\n{}\n{}", one.rules()?, two.rules()?)))
    })
}

/// Whether `value` is null or the text.
fn is(value: &Value, text: Option<&str>) -> bool {
    value.as_str() == text
}

/// `port list` and `flow list` tell whose the port and its flows are.
fn ensure_known(host: &Chassis, pod: &Pod) -> Outcome {
    let request = &pod.request;
    let namespace = (request.cni != Cni::Ovs).then_some(request.namespace.as_str());
    let ports = host.daemon().json(&["port", "list"])?;
    let port = ports.as_array().into_iter().flatten().find(|port| port["name"] == pod.representor.as_str());
    let workload = request.workload();
    ensure!(
        port.is_some_and(|port| is(&port["workload"], Some(&workload))
            && is(&port["orchestrator"], Some(request.cni.orchestrator()))
            && is(&port["iface_id"], Some(&request.iface_id()))
            && is(&port["tenant"], namespace)
            && is(&port["kind"], Some("representor"))),
        "{workload}: `port list` says {ports}"
    );
    let flows = host.daemon().flows()?;
    let name = if request.cni == Cni::Ovs { &request.uid } else { &request.name };
    for (port, way) in [(pod.representor.as_str(), "from"), ("genev_sys_6081", "to")] {
        let found = flows.iter().find(|flow| {
            flow["port"] == port
                && flow["placement"] == "hardware"
                && is(&flow["workload"], Some(name))
                && is(&flow["namespace"], namespace)
                && is(&flow["locality"], Some("cross-node"))
                && is(&flow["chassis"], Some("hv2"))
        });
        ensure!(found.is_some(), "{workload}: no flow {way} it is in hardware: {flows:?}");
    }
    Ok(())
}

/// Nothing of a pod is left in Open vSwitch, NIC and daemon, and its representor is as its CNI leaves it.
fn ensure_gone(host: &Chassis, request: &Request, representor: &str) -> Outcome {
    let (workload, iface_id) = (request.workload(), request.iface_id());
    let ports = host.ovs().vsctl(&["list-ports", "br-int"])?;
    ensure!(!ports.lines().any(|port| port == representor), "{representor} is on the bridge: {ports}");
    let find = format!("external_ids:iface-id={iface_id}");
    let rows = host.ovs().vsctl(&["--columns=name", "--bare", "find", "Interface", &find])?;
    ensure!(rows.trim().is_empty(), "{iface_id} is still in Open vSwitch: {rows}");
    let of_vf = format!("pf0vf{} ", request.vf);
    wait_until(&format!("nothing of {workload} is left"), DONE_WITHIN, || {
        let rules = host.rules()?;
        let has_rules = rules.replace(',', " ").lines().any(|line| line.contains(&of_vf));
        let known =
            host.daemon().json(&["port", "list"])?.to_string() + &format!("{:?}", host.daemon().flows()?);
        ensure!(
            !has_rules && !known.contains(representor) && !known.contains(&workload),
            "rules {rules}\nand known {known}"
        );
        Ok(true)
    })?;
    let named = representor_of(host.nic(), request.vf)?;
    ensure!(named == representor, "the representor is called {named} afterwards");
    let flags = fs::read_to_string(format!("/sys/class/net/{named}/flags"))?;
    let is_up = u32::from_str_radix(flags.trim().trim_start_matches("0x"), 16)? & 1 == 1;
    ensure!(is_up == (request.cni != Cni::KubeOvn), "the representor is up: {is_up}");
    let renamed = format!("{}_h", &request.container[..12]);
    ensure!((named == renamed) == (request.cni == Cni::KubeOvn), "the representor is called {named}");
    Ok(())
}

pub(super) fn what_each_cni_plugs_is_known_and_carried_in_hardware_and_nothing_of_it_stays(
    lab: &mut Lab,
) -> Outcome {
    let fabric = Fabric::with_vfs(lab, 1 + Cni::ALL.len() as u32)?;
    plug_into_one_switch(&fabric)?;
    let host = &fabric.hosts[0];
    for round in 0..ROUNDS {
        let mut busy = Vec::new();
        for (cni, number) in Cni::ALL.into_iter().zip(1..) {
            let request = request(cni, number, round);
            make_logical_port(&fabric, &request)?;
            let pod = Pod::plug(lab, host.ovs(), host.nic(), request)?;
            busy.push(Busy::start(&fabric, pod)?);
        }
        in_hardware(&fabric, &busy)?;
        for pod in &busy {
            // A flow may be made anew just then, and is on its way to hardware again.
            wait_until(&format!("{} is known", pod.pod.request.workload()), DONE_WITHIN, || {
                ensure_known(host, &pod.pod).map(|()| true)
            })?;
        }
        fabric.agree()?;
        let mut senders = Vec::new();
        for pod in busy {
            let (pod, sender) = pod.end()?;
            let (request, representor) = (pod.request.clone(), pod.representor.clone());
            pod.unplug(host.ovs(), host.nic())?;
            ensure_gone(host, &request, &representor)?;
            senders.push(sender);
        }
        for sender in senders {
            sender.stop()?;
        }
        fabric.agree()?;
    }
    Ok(())
}
