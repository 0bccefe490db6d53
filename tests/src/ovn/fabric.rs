//! Two chassis of one OVN: a NIC, an Open vSwitch, an ovn-controller and a daemon each, their uplinks joined by a wire.

use std::collections::BTreeMap;
use std::fmt;

use lab_tests::harness::{
    Daemon, Failure, Lab, Netns, Outcome, Ovn, Ovs, OvsDaemon, Received, Receiver, Sender, Simnic, Stream,
    agree_on_all, ensure, run, wait_for, wait_until,
};

use serde_json::Value;

use super::DONE_WITHIN;

/// Packets per second of a stream; faster than anything the hosts say by themselves.
pub(super) const RATE_PER_S: u64 = 600;
/// Packets that are to come while every flow of a stream is in hardware.
pub(super) const WATCHED: u64 = 600;
/// Packets that the representors may see meanwhile: 5 % of them.
const SLOW_MAX: u64 = WATCHED / 20;

/// How the provider network's bridge and its host are called, and that host's addresses.
const TRUNK: &str = "trunk";
pub(super) const OUTSIDE_V4: &str = "172.30.0.254";
pub(super) const OUTSIDE_V6: &str = "fd30::fe";

/// A chassis with a pod behind a VF. The first has its ports in the guest's own namespace, the second in one of its own.
pub(super) struct Chassis {
    daemon: Daemon,
    ovs: Ovs,
    pub(super) pod: Netns,
    nic: Simnic,
    /// The second port of its NIC, where there is a provider network.
    second: Option<Simnic>,
    netns: Option<Netns>,
    pub(super) number: u32,
}

impl Chassis {
    fn new(lab: &mut Lab, ovn: &mut Ovn, number: u32, nic: Simnic) -> Outcome<Self> {
        nic.set_mode("switchdev")?;
        let settings = ["hw-offload=true", "tc-policy=skip_hw"];
        let (uplink, representor) = (nic.uplink(), nic.representor(0));
        let (pod, address) = (Netns::new(lab, "pod")?, format!("172.31.0.{number}"));
        let with_length = format!("{address}/24");
        let netns = if number == 1 { None } else { Some(Netns::new(lab, "hv")?) };
        let ovs = match &netns {
            None => {
                run("ip", &["address", "add", &with_length, "dev", &uplink])?;
                run("ip", &["link", "set", &uplink, "up"])?;
                Ovs::start(lab, &settings)?
            }
            Some(netns) => {
                netns.adopt(&uplink, &with_length)?;
                run("ip", &["link", "set", &representor, "netns", netns.name()])?;
                Ovs::start_in(lab, netns, &settings)?
            }
        };
        ovn.join(&ovs, &format!("hv{number}"), &address)?;
        pod.adopt(&nic.vf(0), "169.254.0.1/32")?;
        pod.run(&["ip", "link", "set", &nic.vf(0), "mtu", "1400"])?;
        wait_until("ovn-controller has made its bridge", DONE_WITHIN, || {
            Ok(ovs.vsctl(&["list-br"])?.lines().any(|bridge| bridge == "br-int"))
        })?;
        let daemon = Daemon::start(lab, &ovs, "mode = \"steer\"\n")?;
        let chassis = Self { daemon, ovs, pod, nic, second: None, netns, number };
        chassis.run(&["ip", "link", "set", &representor, "up"])?;
        Ok(chassis)
    }

    /// Ends the daemon, and has Open vSwitch offload all it can by itself.
    pub(super) fn offload_alone(&mut self) -> Outcome {
        self.daemon.signal("TERM")?;
        self.start_over_with(&["remove", "Open_vSwitch", ".", "other_config", "tc-policy"])
    }

    /// Has Open vSwitch, whose daemon is ended, keep everything in its kernel datapath.
    pub(super) fn offload_nothing(&mut self) -> Outcome {
        self.start_over_with(&["set", "Open_vSwitch", ".", "other_config:hw-offload=false"])
    }

    /// Changes a setting that Open vSwitch reads when it starts.
    fn start_over_with(&mut self, setting: &[&str]) -> Outcome {
        self.ovs.vsctl(setting)?;
        self.ovs.signal(OvsDaemon::Vswitchd, "TERM")?;
        self.ovs.restart(OvsDaemon::Vswitchd)
    }

    /// Runs a program where its ports are.
    pub(super) fn run(&self, words: &[&str]) -> Outcome<String> {
        match &self.netns {
            Some(netns) => netns.run(words),
            None => run(words[0], &words[1..]),
        }
    }

    /// The namespace that its ports are in, if it is not the guest's own.
    pub(super) fn netns_name(&self) -> Option<&str> {
        self.netns.as_ref().map(Netns::name)
    }

    /// Its Open vSwitch.
    pub(super) fn ovs(&self) -> &Ovs {
        &self.ovs
    }

    pub(super) fn daemon(&self) -> &Daemon {
        &self.daemon
    }

    /// Both ports of its NIC, or the one there is.
    fn nics(&self) -> impl Iterator<Item = &Simnic> {
        std::iter::once(&self.nic).chain(&self.second)
    }

    /// One of the NIC's tables, of both ports.
    fn shown(&self, table: &str) -> Outcome<String> {
        self.nics().map(|nic| nic.shown(table)).collect()
    }

    /// Its NIC, or the first port of it.
    pub(super) fn nic(&self) -> &Simnic {
        &self.nic
    }

    /// The rules in its NIC.
    pub(super) fn rules(&self) -> Outcome<String> {
        self.shown("rules")
    }

    /// Puts a second port of its NIC on the bridge of the provider network, `phys` to OVN.
    fn join_provider(&mut self, nic: Simnic) -> Outcome {
        nic.set_mode("switchdev")?;
        let uplink = nic.uplink();
        if let Some(netns) = &self.netns {
            run("ip", &["link", "set", &uplink, "netns", netns.name()])?;
        }
        self.run(&["ip", "link", "set", &uplink, "up"])?;
        self.second = Some(nic);
        self.ovs.vsctl(&["add-br", "br-phys", "--", "add-port", "br-phys", &uplink])?;
        let mappings = "external_ids:ovn-bridge-mappings=phys:br-phys";
        self.ovs.vsctl(&["set", "Open_vSwitch", ".", mappings]).map(drop)
    }

    /// The pod's device.
    fn device(&self) -> String {
        self.nic.vf(0)
    }

    /// The representor of the pod's VF.
    pub(super) fn representor(&self) -> String {
        self.nic.representor(0)
    }

    /// Gives the pod these addresses, its only ones, and a way to everywhere else by `gateways`.
    pub(super) fn address_pod(&self, addresses: &[&str], gateways: &[&str]) -> Outcome {
        let device = self.device();
        self.pod.run(&["ip", "address", "flush", "dev", &device, "scope", "global"])?;
        for address in addresses {
            // Nobody else has it: there is no need to wait until that is known.
            self.pod.run(&["ip", "address", "add", address, "dev", &device, "nodad"])?;
        }
        for gateway in gateways {
            self.pod.run(&["ip", "route", "replace", "default", "via", gateway, "dev", &device])?;
        }
        Ok(())
    }

    /// The address of the pod's device.
    pub(super) fn mac(&self) -> Outcome<String> {
        let path = format!("/sys/class/net/{}/address", self.device());
        Ok(self.pod.run(&["cat", &path])?.trim().to_owned())
    }

    /// Packets that the pod sent and got.
    fn passed(&self) -> Outcome<Passed> {
        self.passed_at(Meter::Pod)
    }

    /// Packets that went both ways there.
    pub(super) fn passed_at(&self, meter: Meter) -> Outcome<Passed> {
        let (device, side) = match (meter, &self.second) {
            (Meter::Provider, Some(nic)) => (nic.uplink(), "wire"),
            (Meter::Provider, None) => return Err(Failure::new("there is no provider network")),
            (Meter::Pod, _) => (self.representor(), "vf"),
        };
        let text = self.run(&["ethtool", "-S", &device])?;
        let pairs = text.lines().filter_map(|line| line.split_once(':'));
        let counters: BTreeMap<&str, u64> =
            pairs.filter_map(|(key, value)| Some((key.trim(), value.trim().parse().ok()?))).collect();
        let of = |what: &str| {
            let name = format!("{side}_{what}_packets");
            let value = counters.get(name.as_str()).copied();
            value.ok_or_else(|| Failure::new(format!("ethtool -S shows no {name}")))
        };
        Ok(Passed { hardware: of("tx_hw")? + of("rx_hw")?, slow: of("tx_slow")? + of("rx_slow")? })
    }

    /// Its line of the table.
    fn line(&self, topology: &str, share: f64) -> Outcome {
        let (flows, placed, reasons) = self.flows()?;
        println!("    | {topology} | hv{} | {flows} | {placed} | {share:.1} % | {reasons} |", self.number);
        Ok(())
    }

    /// What `flow why` says of a refusal; nothing if the flow is gone.
    fn why(&self, flow: &Value) -> Outcome<Option<String>> {
        let ufid = flow["ufid"].as_str().unwrap_or_default();
        let Ok(told) = self.daemon.json(&["flow", "why", ufid]) else { return Ok(None) };
        let sentences = told["why"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let refusal = sentences.filter_map(|sentence| sentence.strip_prefix("It was refused: ")).next();
        Ok(refusal.map(|refusal| format!("\"{}\"", refusal.trim_end_matches('.'))))
    }

    /// Flows in TC and in hardware, and the reasons of those that are not.
    pub(super) fn flows(&self) -> Outcome<(usize, usize, String)> {
        let flows = self.daemon.flows()?;
        let placed = flows.iter().filter(|flow| flow["placement"] == "hardware").count();
        let mut reasons = BTreeMap::<String, u32>::new();
        for flow in flows.iter().filter(|flow| flow["placement"] != "hardware") {
            let reason = flow["reason"].as_str().unwrap_or("none");
            // The driver's own words say more.
            let told =
                if matches!(reason, "driver" | "kernel" | "unsupported") { self.why(flow)? } else { None };
            *reasons.entry(told.unwrap_or_else(|| reason.to_owned())).or_default() += 1;
        }
        let reasons: Vec<String> =
            reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        Ok((flows.len(), placed, reasons.join(", ")))
    }
}

/// Both of them, and what they have in common.
pub(super) struct Fabric {
    pub(super) ovn: Ovn,
    pub(super) hosts: [Chassis; 2],
    provider: Option<Provider>,
}

/// The network outside: a bridge that both chassis have a wire to, whose own address is that of a host out there.
struct Provider {
    netns: Netns,
    _nics: [Simnic; 2],
}

impl Fabric {
    pub(super) fn up(lab: &mut Lab) -> Outcome<Self> {
        Self::with_vfs(lab, 1)
    }

    /// The first host's NIC has so many VFs, of which the pod has the first.
    pub(super) fn with_vfs(lab: &mut Lab, vfs: u32) -> Outcome<Self> {
        let (one, two) = (Simnic::new(0, vfs)?, Simnic::new(1, 1)?);
        one.wire(&two)?;
        let mut ovn = Ovn::central(lab)?;
        let hosts = [Chassis::new(lab, &mut ovn, 1, one)?, Chassis::new(lab, &mut ovn, 2, two)?];
        Ok(Self { ovn, hosts, provider: None })
    }

    /// The same with a provider network, to which each chassis has a port of its NIC.
    pub(super) fn with_provider(lab: &mut Lab) -> Outcome<Self> {
        let mut fabric = Self::up(lab)?;
        let netns = Netns::new(lab, "outside")?;
        netns.run(&["ip", "link", "add", TRUNK, "type", "bridge"])?;
        let nics = [Simnic::new(4, 0)?, Simnic::new(5, 0)?];
        for ((host, outside), id) in fabric.hosts.iter_mut().zip(&nics).zip(2..) {
            let port = Simnic::on_card(id, id - 2)?;
            port.wire(outside)?;
            run("ip", &["link", "set", &outside.uplink(), "netns", netns.name()])?;
            netns.run(&["ip", "link", "set", &outside.uplink(), "master", TRUNK, "up"])?;
            host.join_provider(port)?;
        }
        netns.run(&["ip", "link", "set", TRUNK, "up"])?;
        netns.run(&["ip", "address", "add", &format!("{OUTSIDE_V4}/24"), "dev", TRUNK])?;
        netns.run(&["ip", "address", "add", &format!("{OUTSIDE_V6}/64"), "dev", TRUNK, "nodad"])?;
        fabric.provider = Some(Provider { netns, _nics: nics });
        Ok(fabric)
    }

    /// The host of the provider network.
    pub(super) fn outside(&self) -> Outcome<&Netns> {
        let provider = self.provider.as_ref();
        provider.map(|provider| &provider.netns).ok_or_else(|| Failure::new("there is no provider network"))
    }

    /// Attaches each pod as the logical port `pod1` or `pod2`, which are there.
    pub(super) fn plug(&self) -> Outcome {
        for host in &self.hosts {
            let (port, iface_id) = (host.representor(), format!("external_ids:iface-id=pod{}", host.number));
            host.ovs.vsctl(&[
                "--may-exist",
                "add-port",
                "br-int",
                &port,
                "--",
                "set",
                "Interface",
                &port,
                &iface_id,
            ])?;
        }
        self.ovn.nbctl(&["--wait=hv", "sync"]).map(drop)
    }

    /// Packets of the pods that the CPU saw on either host.
    pub(super) fn slow(&self) -> Outcome<u64> {
        Ok(self.hosts[0].passed()?.slow + self.hosts[1].passed()?.slow)
    }

    /// Sends a stream from the first host's pod to `address`, the other's, until it is stopped.
    pub(super) fn send(&self, topology: &str, address: &str, port: u16) -> Outcome<Carried> {
        let [one, two] = &self.hosts;
        wait_until(&format!("{topology}: {address} answers"), DONE_WITHIN, || Ok(one.pod.pings(address)))?;
        let to =
            if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") };
        let receiver = Receiver::start(&two.pod, &to)?;
        let stream = Stream {
            to: &to,
            // Until it is stopped, however long what happens to it takes.
            count: 1_000_000,
            rate_per_s: RATE_PER_S,
            payload_bytes: 1200,
            ..Stream::default()
        };
        let sender = Sender::start_stoppable(&one.pod, stream)?;
        Ok(Carried { sender, receiver })
    }

    /// Waits until both hosts forward it in hardware: how many of [`WATCHED`] packets a CPU saw.
    pub(super) fn in_hardware(&self, topology: &str, carried: &Carried) -> Outcome<u64> {
        let mut window = (carried.received(), self.slow()?);
        wait_for(&format!("{topology}: both hosts carry it in hardware"), DONE_WITHIN, || {
            let now = (carried.received(), self.slow()?);
            if now.0 < window.0 + WATCHED {
                return Ok(None);
            }
            let slow = now.1 - window.1;
            window = now;
            if slow <= SLOW_MAX { Ok(Some(slow)) } else { Err(Failure::new(self.tell(slow)?)) }
        })
    }

    /// A stream to `address` works, and does so with its flows in hardware on both hosts. Nothing of it may be lost; what
    /// came of it is a line of the table.
    pub(super) fn carry(&self, topology: &str, address: &str, port: u16) -> Outcome {
        let carried = self.send(topology, address, port)?;
        let slow = self.in_hardware(topology, &carried)?;
        let share = 100.0 - 100.0 * slow as f64 / WATCHED as f64;
        for host in &self.hosts {
            host.line(topology, share)?;
        }
        let (sent, received) = carried.stop()?;
        ensure!(
            received.packets == sent && received.duplicated == 0,
            "{topology}: of {sent} packets {received:?} arrived"
        );
        Ok(())
    }

    /// Waits until on both hosts NIC, Open vSwitch and daemon agree on what is in hardware.
    pub(super) fn agree(&self) -> Outcome {
        for host in &self.hosts {
            let nics: Vec<&Simnic> = host.nics().collect();
            agree_on_all(&nics, &host.ovs, &host.daemon, DONE_WITHIN)?;
        }
        Ok(())
    }

    fn tell(&self, slow: u64) -> Outcome<String> {
        Ok(format!("{slow} of {WATCHED} packets were seen by a CPU{}", self.seen()?))
    }

    /// What there is on both hosts.
    pub(super) fn seen(&self) -> Outcome<String> {
        let mut text = String::new();
        for host in &self.hosts {
            text.push_str(&format!("\nhv{}: {:?}\n{}", host.number, host.flows()?, host.rules()?));
            text.push_str(&host.shown("connections")?);
        }
        Ok(text)
    }
}

/// Where packets are counted on a host.
#[derive(Clone, Copy)]
pub(super) enum Meter {
    /// At the pod's VF.
    Pod,
    /// At the port to the provider network.
    Provider,
}

/// Packets that went both ways somewhere: by the NIC alone, and seen by a CPU.
#[derive(Clone, Copy)]
pub(super) struct Passed {
    hardware: u64,
    slow: u64,
}

impl Passed {
    /// All of them.
    pub(super) fn packets(self) -> u64 {
        self.hardware + self.slow
    }

    /// Those that a CPU saw.
    pub(super) fn slow(self) -> u64 {
        self.slow
    }

    pub(super) fn since(self, earlier: Self) -> Self {
        Self { hardware: self.hardware - earlier.hardware, slow: self.slow - earlier.slow }
    }

    /// The share of hardware, in percent.
    pub(super) fn share(self) -> f64 {
        100.0 * self.hardware as f64 / self.packets().max(1) as f64
    }
}

impl fmt::Display for Passed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} by hardware, {} seen by a CPU", self.hardware, self.slow)
    }
}

/// A stream under way.
pub(super) struct Carried {
    sender: Sender,
    receiver: Receiver,
}

impl Carried {
    /// Packets that have arrived.
    pub(super) fn received(&self) -> u64 {
        self.receiver.so_far().packets
    }

    /// Ends it: packets sent, and what arrived.
    pub(super) fn stop(self) -> Outcome<(u64, Received)> {
        Ok((self.sender.stop()?, self.receiver.finish()?))
    }
}
