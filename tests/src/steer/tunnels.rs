//! Two hosts with a NIC, an Open vSwitch and a daemon each, and a tunnel between them.

pub(super) mod kinds;

use std::collections::BTreeMap;

use lab_tests::harness::{
    Daemon, Failure, Lab, Netns, Outcome, Ovs, Receiver, Sender, Simnic, Stream, ensure, run, wait_for,
    wait_until,
};
use serde_json::Value;

use super::{FAST, FAST_PER_S, PLACED_WITHIN, UNTIL_STOPPED, config};

/// Packets that are to come while both hosts have the flow in hardware.
const WATCHED: u64 = 1500;
/// Packets that a representor may see meanwhile: what the hosts say by themselves.
const CHATTER_MAX: u64 = 20;

/// Packets that the count of a flow may lack: those that came before its filter was there, which went by upcalls, and what
/// came between the reading and the replacement of it.
const UNCOUNTED_MAX: u64 = FAST_PER_S / 2;

/// Settings of an Open vSwitch whose filters the daemon steers, and which keeps a flow whose stream has ended until it has been
/// looked at, or the stream goes on.
const STEERED: [&str; 3] = ["hw-offload=true", "tc-policy=skip_hw", "max-idle=60000"];

/// A host. The first has its ports in the guest's own namespace, the second in one of its own.
struct Host {
    nic: Simnic,
    ovs: Ovs,
    /// The workload that has the VF.
    pod: Netns,
    netns: Option<Netns>,
    number: u32,
}

impl Host {
    fn new(lab: &mut Lab, number: u32, nic: Simnic, settings: &[&str]) -> Outcome<Self> {
        nic.set_mode("switchdev")?;
        let (uplink, rep) = (nic.uplink(), nic.representor(0));
        let (pod, address) = (Netns::new(lab, "pod")?, format!("172.31.0.{number}/24"));
        let netns = if number == 1 { None } else { Some(Netns::new(lab, "host")?) };
        let ovs = match &netns {
            None => {
                run("ip", &["address", "add", &address, "dev", &uplink])?;
                run("ip", &["link", "set", &uplink, "up"])?;
                Ovs::start(lab, settings)?
            }
            Some(netns) => {
                netns.adopt(&uplink, &address)?;
                run("ip", &["link", "set", &rep, "netns", netns.name()])?;
                Ovs::start_in(lab, netns, settings)?
            }
        };
        pod.adopt(&nic.vf(0), &format!("10.20.0.{number}/24"))?;
        pod.run(&["ip", "link", "set", &nic.vf(0), "mtu", "1400"])?;
        let host = Self { nic, ovs, pod, netns, number };
        let outer = format!("fd31::{number}/64");
        host.run(&["ip", "address", "add", &outer, "dev", &host.nic.uplink(), "nodad"])?;
        host.run(&["ip", "link", "set", &rep, "up"])?;
        host.ovs.vsctl(&["add-br", "br0", "--", "add-port", "br0", &rep])?;
        Ok(host)
    }

    /// Runs a program where the host's ports are.
    fn run(&self, words: &[&str]) -> Outcome<String> {
        match &self.netns {
            Some(netns) => netns.run(words),
            None => run(words[0], &words[1..]),
        }
    }

    /// A tunnel of `kind` to the other host, and a rule of its own for the fast flow.
    fn join(&self, kind: &str, port: u16) -> Outcome {
        let remote = format!("options:remote_ip=172.31.0.{}", 3 - self.number);
        let tunnel = ["add-port", "br0", "tun0", "--", "set", "Interface", "tun0"];
        let options =
            [format!("type={kind}"), remote, "options:key=77".to_owned(), "options:csum=true".to_owned()];
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        self.ovs.vsctl(&[&tunnel[..], &options].concat())?;
        let out = if self.number == 1 { "tun0".to_owned() } else { self.nic.representor(0) };
        self.ovs.ofctl(&[
            "add-flow",
            "br0",
            &format!("priority=100,udp,tp_dst={port},actions=output:{out}"),
        ])?;
        Ok(())
    }

    fn part(&self) -> Outcome {
        self.ovs.vsctl(&["del-port", "br0", "tun0"]).map(drop)
    }

    /// The fast flow as the daemon has it, once it is in hardware.
    fn placed(&self, daemon: &Daemon, port: u16) -> Outcome<Value> {
        let to = format!("udp(dst={port})");
        wait_for(&format!("the flow is in hardware on host {}", self.number), PLACED_WITHIN, || {
            let flows = daemon.flows()?;
            let fast: Vec<_> = flows
                .into_iter()
                .filter(|flow| flow["key"].as_str().unwrap_or_default().contains(&to))
                .collect();
            match fast.iter().find(|flow| flow["placement"] == "hardware") {
                Some(flow) => Ok(Some(flow.clone())),
                None => Err(Failure::new(format!("flows: {fast:?}\n{}", self.nic.rules()?))),
            }
        })
    }

    fn counters(&self, device: &str) -> Outcome<BTreeMap<String, u64>> {
        let text = self.run(&["ethtool", "-S", device])?;
        let pairs = text.lines().filter_map(|line| line.split_once(':'));
        Ok(pairs
            .filter_map(|(key, value)| Some((key.trim().to_owned(), value.trim().parse().ok()?)))
            .collect())
    }

    /// Packets at the representor, either way.
    fn at_representor(&self) -> Outcome<u64> {
        let counters = self.counters(&self.nic.representor(0))?;
        Ok(counters.get("vf_tx_slow_packets").unwrap_or(&0)
            + counters.get("vf_rx_slow_packets").unwrap_or(&0))
    }
}

/// What the daemon says of a flow: packets by hardware and by software.
fn packets(flow: &Value, part: &str) -> u64 {
    flow["traffic"][part]["packets"].as_u64().unwrap_or_default()
}

fn try_kind(hosts: [&Host; 2], daemons: [&Daemon; 2], kind: &str, port: u16) -> Outcome {
    for host in hosts {
        host.join(kind, port)?;
    }
    wait_until("the pods reach each other", PLACED_WITHIN, || Ok(hosts[0].pod.pings("10.20.0.2")))?;
    let to = format!("10.20.0.2:{port}");
    let receiver = Receiver::start(&hosts[1].pod, &to)?;
    let stream = Stream {
        to: &to,
        from_port: 10_001,
        count: UNTIL_STOPPED,
        rate_per_s: FAST_PER_S,
        payload_bytes: 1300,
        ..Stream::default()
    };
    let sender = Sender::start_stoppable(&hosts[0].pod, stream)?;
    let flows = [hosts[0].placed(daemons[0], port)?, hosts[1].placed(daemons[1], port)?];
    let (rep, tunnel) = (&flows[0]["port"], &flows[1]["port"]);
    ensure!(*rep == hosts[0].nic.representor(0), "the flow into the tunnel comes in by {rep}");
    ensure!(
        tunnel.as_str().is_some_and(|port| port.contains("_sys_")),
        "out of the tunnel it comes by {tunnel}"
    );

    let settled = receiver.so_far().packets;
    let before = [hosts[0].at_representor()?, hosts[1].at_representor()?];
    wait_until("packets have come by hardware", PLACED_WITHIN, || {
        Ok(receiver.so_far().packets >= settled + WATCHED)
    })?;
    for (host, before) in hosts.iter().zip(before) {
        let seen = host.at_representor()? - before;
        println!(
            "    {kind}, host {}: {seen} packets at the representor while {WATCHED} passed",
            host.number
        );
        ensure!(seen <= CHATTER_MAX, "{seen} packets crossed the representor of host {}", host.number);
    }
    let sent = sender.stop()?;
    let received = receiver.finish()?;
    let lost = sent.saturating_sub(received.packets);
    println!("    {kind}: {lost} of {sent} packets lost, {} twice", received.duplicated);
    ensure!(lost == 0 && received.duplicated == 0, "of {sent} packets {lost} were lost: {received:?}");
    for (host, (daemon, flow)) in hosts.iter().zip(daemons.iter().zip(&flows)) {
        let ufid = flow["ufid"].as_str().unwrap_or_default();
        let why = daemon.ctl(&["flow", "why", ufid])?;
        // As TC has it, or as the kernel datapath does.
        let tells = why.contains("tunnel_key") || why.contains("tunnel(tun_id=");
        ensure!(tells, "`flow why` does not tell of the tunnel: {why}");
        let counted =
            wait_for(&format!("host {} has counted {sent} packets", host.number), PLACED_WITHIN, || {
                let flows = daemon.flows()?;
                let (hardware, software) = flows
                    .iter()
                    .find(|known| known["ufid"] == flow["ufid"])
                    .map_or((0, 0), |known| (packets(known, "hardware"), packets(known, "software")));
                // What hardware had at the end of the stream may be read yet.
                match hardware + software + UNCOUNTED_MAX >= sent && hardware >= WATCHED {
                    true => Ok(Some((hardware, software))),
                    false => Err(Failure::new(format!("{hardware} by hardware, {software} by software"))),
                }
            })?;
        println!(
            "    {kind}, host {}: of {sent} packets {} by hardware, {} by software",
            host.number, counted.0, counted.1
        );
        ensure!(counted.0 + counted.1 <= sent, "of {sent} packets counted: {counted:?}");
    }
    for host in hosts {
        host.part()?;
    }
    Ok(())
}

/// Geneve and VXLAN: the flow into the tunnel on one host and out of it on the other, both placed by the daemons.
pub(super) fn a_tunnelled_flow_is_placed_on_both_hosts_and_their_representors_are_silent(
    lab: &mut Lab,
) -> Outcome {
    between_two_hosts(lab, &STEERED, &config)
}

/// The same with these settings of Open vSwitch and this configuration of the daemons.
pub(crate) fn between_two_hosts(
    lab: &mut Lab,
    settings: &[&str],
    config: &dyn Fn(&Ovs) -> Outcome<String>,
) -> Outcome {
    let (nic, far) = (Simnic::new(0, 1)?, Simnic::new(1, 1)?);
    nic.wire(&far)?;
    let (one, two) = (Host::new(lab, 1, nic, settings)?, Host::new(lab, 2, far, settings)?);
    let daemons = [
        Daemon::start(lab, &one.ovs, &config(&one.ovs)?)?,
        Daemon::start(lab, &two.ovs, &config(&two.ovs)?)?,
    ];
    // Another port each, so that it is another megaflow, with counters of its own.
    for (kind, port) in [("geneve", FAST), ("vxlan", FAST + 1)] {
        try_kind([&one, &two], [&daemons[0], &daemons[1]], kind, port)?;
    }
    Ok(())
}
