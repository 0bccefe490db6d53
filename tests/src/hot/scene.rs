//! The demo topology with a steering daemon and flows from vm0, and the comparison of views.

use std::collections::BTreeSet;

use lab_tests::harness::{
    Daemon, Demo, Failure, Lab, Netns, Outcome, Ovs, Receiver, Sender, Stream, agree, ensure, run, wait_for,
    wait_until,
};

use crate::faults::scene::{EAGER, FIRST, Flows, NIC, PORT, SETTLES_WITHIN, Traffic};

/// Flows of each stream.
pub(super) const FLOWS: u32 = 3;
/// The source port of the first flow to another VF; those to the remote host have their own.
const FIRST_TO_VF: u16 = FIRST + 100;
/// Packets per second of each stream.
pub(super) const RATE_PER_S: u64 = 300;

/// A port as the datapath or the daemon has it: name, number in the datapath, index of its netdev.
type Known = BTreeSet<(String, u64, u64)>;

/// Open vSwitch, the topology and the daemon.
pub(super) struct Scene<'a> {
    pub(super) ovs: &'a Ovs,
    pub(super) demo: Demo<'a>,
    pub(super) daemon: Daemon,
}

impl<'a> Scene<'a> {
    /// Everything is up, and nothing flows yet.
    pub(super) fn up(lab: &Lab, ovs: &'a Ovs) -> Outcome<Self> {
        let demo = Demo::up(ovs)?;
        divide_flows(lab, ovs)?;
        demo.hush_vm0()?;
        let daemon = Daemon::start(lab, ovs, EAGER)?;
        Ok(Self { ovs, demo, daemon })
    }

    /// Has Open vSwitch decide about each flow by itself; a started one has forgotten that.
    pub(super) fn divide_flows(&self, lab: &Lab) -> Outcome {
        divide_flows(lab, self.ovs)
    }

    /// Flows from vm0 to the remote host.
    pub(super) fn to_remote(&self) -> Outcome<Traffic> {
        Flows::new(FLOWS).start(&self.demo, RATE_PER_S)
    }

    /// Flows from vm0 to `address` in `netns`, whose MAC address vm0 does not forget.
    pub(super) fn to_vf(&self, netns: &Netns, address: &str, mac: &str) -> Outcome<(Sender, Receiver)> {
        let known = ["ip", "neigh", "replace", address, "lladdr", mac, "dev", "sn0v0", "nud", "permanent"];
        self.demo.vm0.run(&known)?;
        let to = format!("{address}:{}", PORT + 1);
        let receiver = Receiver::start(netns, &to)?;
        let stream = Stream {
            to: &to,
            from_port: FIRST_TO_VF,
            flows: FLOWS,
            count: 1_000_000,
            rate_per_s: RATE_PER_S,
            payload_bytes: 200,
        };
        Ok((Sender::start_stoppable(&self.demo.vm0, stream)?, receiver))
    }

    /// Waits until all flows of `streams` streams from vm0 are in hardware, as the NIC itself has them.
    pub(super) fn in_hardware(&self, streams: u32) -> Outcome {
        let wanted = (streams * FLOWS) as usize;
        let waited = wait_for(&format!("{wanted} flows of vm0 are in hardware"), SETTLES_WITHIN, || {
            let rules = NIC.rules()?;
            let of_vm0 =
                rules.lines().filter(|line| line.starts_with("port pf0vf0 ") && line.contains("ports"));
            let count = of_vm0.filter(|line| !line.contains("actions drop")).count();
            if count >= wanted {
                return Ok(Some(()));
            }
            Err(Failure::new(format!("{count} are; {}\n{rules}", self.daemon.ctl(&["status"])?)))
        });
        waited.or_else(|failure| Err(Failure::new(format!("{failure}\n{}", self.views()?))))
    }

    /// Open vSwitch's and the daemon's view of the flows, and what became of those that Open vSwitch had.
    fn views(&self) -> Outcome<String> {
        let datapath = self.ovs.appctl(&["dpctl/dump-flows", "-m"])?;
        let coverage = self.ovs.appctl(&["coverage/show"])?;
        let list = self.daemon.ctl(&["flow", "list"])?;
        let refused =
            list.lines().filter(|line| line.contains("refused")).filter_map(|line| line.split(' ').next());
        // It may have gone meanwhile.
        let why = refused.map(|ufid| self.daemon.ctl(&["flow", "why", ufid]).unwrap_or_default());
        Ok(format!("{list}\n{}\n{datapath}\n{coverage}", why.collect::<Vec<_>>().join("\n")))
    }

    /// Waits until so many more packets of `traffic` have come.
    pub(super) fn still_flows(&self, traffic: &Traffic, packets: u64) -> Outcome {
        Self::flows_on(&traffic.receiver, packets).or_else(|failure| {
            let filters = PORTS_OF_FLOWS.map(|device| tc_filters(device).unwrap_or_default());
            Err(Failure::new(format!("{failure}\n{}\n{}", filters.join("\n"), self.views()?)))
        })
    }

    /// Waits until so many more packets have come.
    pub(super) fn flows_on(receiver: &Receiver, packets: u64) -> Outcome {
        let before = receiver.so_far().packets;
        wait_until(&format!("{packets} more packets have come"), SETTLES_WITHIN, || {
            Ok(receiver.so_far().packets >= before + packets)
        })
    }

    /// Waits until NIC, Open vSwitch, kernel and daemon agree about flows, ports and NICs.
    pub(super) fn settles(&self) -> Outcome {
        wait_for("the daemon's ports are the datapath's", SETTLES_WITHIN, || {
            let (kernel, ours) = (self.datapath_ports()?, self.daemon_ports()?);
            if kernel == ours {
                return Ok(Some(()));
            }
            Err(Failure::new(format!("the datapath has {kernel:?}\nwe {ours:?}")))
        })?;
        agree(&NIC, self.ovs, &self.daemon, SETTLES_WITHIN)?;
        self.nic_is_the_kernels()
    }

    fn datapath_ports(&self) -> Outcome<Known> {
        let shown = self.ovs.appctl(&["dpctl/show"])?;
        let ports = shown.lines().filter_map(|line| {
            let (number, rest) = line.trim().strip_prefix("port ")?.split_once(": ")?;
            let name = rest.split_whitespace().next()?;
            (number != "0").then(|| (number.to_owned(), name.to_owned()))
        });
        ports
            .map(|(number, name)| {
                let ifindex = std::fs::read_to_string(format!("/sys/class/net/{name}/ifindex"))
                    .map_err(|error| Failure::new(format!("port {name} has no netdev: {error}")))?;
                Ok((name, number.parse()?, ifindex.trim().parse()?))
            })
            .collect()
    }

    fn daemon_ports(&self) -> Outcome<Known> {
        let shown = self.daemon.json(&["port", "list"])?;
        let known = |port: &serde_json::Value| {
            let name = port["name"].as_str()?.to_owned();
            Some((name, port["dp_port"].as_u64()?, port["ifindex"].as_u64()?))
        };
        Ok(shown.as_array().into_iter().flatten().filter_map(known).collect())
    }

    /// The one NIC that has a switch is shown as devlink has it, and its ports as belonging to it.
    fn nic_is_the_kernels(&self) -> Outcome {
        wait_for("the NIC is shown as the kernel has it", SETTLES_WITHIN, || {
            let nics = self.daemon.json(&["nic", "list"])?;
            let nic = nics.as_array().into_iter().flatten().find(|nic| nic["devlink"] == NIC.devlink());
            let nic = nic.ok_or_else(|| Failure::new(format!("no {} in {nics}", NIC.devlink())))?;
            let switch_id = std::fs::read_to_string("/sys/class/net/sn0p0/phys_switch_id")?;
            let entries = NIC.rules()?.lines().count() as u64;
            ensure!(
                nic["switch_id"] == switch_id.trim()
                    && nic["eswitch_mode"] == "switchdev"
                    && nic["entries"] == entries,
                "the kernel has switch {switch_id} with {entries} entries, we {nic}"
            );
            let shown = self.daemon.json(&["port", "list"])?;
            for port in shown.as_array().into_iter().flatten() {
                let kind = match port["name"].as_str().unwrap_or_default() {
                    "sn0p0" => "uplink",
                    name if name.starts_with("sn") => "representor",
                    _ => continue,
                };
                let right =
                    port["kind"] == kind && port["nic"] == nic["nic"] && port["hw_tc_offload"] == true;
                ensure!(right, "a port of NIC {} and kind {kind} is shown as {port}", nic["nic"]);
            }
            Ok(Some(()))
        })
    }

    /// vm0 reaches the remote host, once Open vSwitch has decided afresh. With traffic on a port that it is just adding it
    /// may keep a datapath flow that drops ("received packet on unassociated datapath port"), with or without us.
    pub(super) fn reaches_remote_afresh(&self) -> Outcome {
        wait_until("vm0 reaches the remote host", SETTLES_WITHIN, || {
            self.ovs.appctl(&["dpctl/del-flows"])?;
            Ok(self.demo.vm0.pings(Demo::REMOTE))
        })
    }

    /// vm0 reaches the remote host.
    pub(super) fn reaches_remote(&self) -> Outcome {
        wait_until("vm0 reaches the remote host", SETTLES_WITHIN, || Ok(self.demo.vm0.pings(Demo::REMOTE)))
    }
}

/// Packets one way.
pub(super) struct Way {
    sender: Sender,
    pub(super) receiver: Receiver,
}

impl Way {
    /// Starts so many flows to `address` in the namespace `to`.
    pub(super) fn start(from: &Netns, to: &Netns, address: &str, flows: Flows) -> Outcome<Self> {
        let address = format!("{address}:{}", flows.to);
        let receiver = Receiver::start(to, &address)?;
        let stream = Stream {
            to: &address,
            from_port: flows.from,
            flows: flows.count,
            count: 1_000_000,
            rate_per_s: RATE_PER_S,
            payload_bytes: 200,
        };
        Ok(Self { sender: Sender::start_stoppable(from, stream)?, receiver })
    }

    /// Waits until about a second more of them has come.
    pub(super) fn flows_on(&self) -> Outcome {
        let before = self.receiver.so_far().packets;
        wait_until("a second more of packets has come", SETTLES_WITHIN, || {
            Ok(self.receiver.so_far().packets >= before + RATE_PER_S)
        })
    }

    /// Stops it: packets sent, and how many of them did not arrive.
    pub(super) fn stop(self) -> Outcome<(u64, u64)> {
        let sent = self.sender.stop()?;
        Ok((sent, sent.saturating_sub(self.receiver.finish()?.packets)))
    }
}

fn divide_flows(lab: &Lab, ovs: &Ovs) -> Outcome {
    Flows::new(FLOWS).one_megaflow_each(lab, ovs, "NORMAL")?;
    Flows { from: FIRST_TO_VF, to: PORT + 1, ..Flows::new(FLOWS) }.one_megaflow_each(lab, ovs, "NORMAL")
}

/// Brings netdevs of the NIC in the guest's own namespace up, as an operator does with new ones.
/// Where the flows of [`Scene::to_remote`] come in and go out.
const PORTS_OF_FLOWS: [&str; 2] = ["sn0pf0vf0", "sn0p0"];

fn tc_filters(device: &str) -> Outcome<String> {
    run("tc", &["-s", "filter", "show", "dev", device, "ingress"])
}

pub(super) fn bring_up(devices: &[&str]) -> Outcome {
    devices.iter().try_for_each(|device| run("ip", &["link", "set", device, "up"]).map(drop))
}

/// All ports of the NIC.
pub(super) const ALL_PORTS: [&str; 5] = ["sn0p0", "sn0pf0vf0", "sn0pf0vf1", "sn0pf0vf2", "sn0pf0vf3"];
