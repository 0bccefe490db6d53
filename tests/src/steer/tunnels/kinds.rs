//! Every kind of tunnel that Open vSwitch has and a NIC can carry, all of them between the same two hosts at once.

use std::fs;

use lab_tests::harness::{
    Daemon, Failure, Lab, Outcome, Receiver, Sender, Simnic, Stream, ensure, wait_for, wait_until,
};
use serde_json::Value;

use super::super::{PLACED_WITHIN, UNTIL_STOPPED, config};
use super::{CHATTER_MAX, Host, STEERED};

/// Packets per second of each stream: above the policy's rate by its bytes.
const PER_S: u64 = 200;
/// Packets of each stream that are to come while every flow is where it is to stay.
const WATCHED: u64 = 400;
/// Bytes of each packet's payload.
const PAYLOAD_BYTES: u32 = 1100;

/// Where the second host's uplink is found after it has moved.
const MOVED_TO: &str = "02:00:00:00:fa:02";

/// A tunnel as `ovs-vsctl` makes it, and the flow that passes it.
struct Kind {
    /// Name of its port.
    name: &'static str,
    /// The interface's type.
    kind: &'static str,
    ipv6: bool,
    /// More of the interface's options.
    options: &'static [&'static str],
    /// What OpenFlow gives a packet for the way.
    set: &'static str,
    /// What OpenFlow asks of a packet that came.
    matches: &'static str,
    /// What `flow why` shows of that on both hosts.
    shown: &'static str,
    /// UDP port of its flow.
    port: u16,
}

const OPTION: (&str, &str) = ("set_field:0x5ab31c77->tun_metadata0,", "tun_metadata0=0x5ab31c77,");
const GROUP: (&str, &str) = ("set_field:0x123->tun_gbp_id,", "tun_gbp_id=0x123,");

const KINDS: [Kind; 7] = [
    Kind {
        name: "geneve4",
        kind: "geneve",
        ipv6: false,
        options: &["csum=true"],
        set: OPTION.0,
        matches: OPTION.1,
        shown: "class=0x102",
        port: 7301,
    },
    Kind {
        name: "geneve6",
        kind: "geneve",
        ipv6: true,
        options: &["csum=true"],
        set: OPTION.0,
        matches: OPTION.1,
        shown: "class=0x102",
        port: 7302,
    },
    Kind {
        name: "vxlan6",
        kind: "vxlan",
        ipv6: true,
        options: &["csum=true"],
        set: "",
        matches: "",
        shown: "fd31::2",
        port: 7303,
    },
    Kind {
        name: "gbp4",
        kind: "vxlan",
        ipv6: false,
        options: &["exts=gbp", "dst_port=4790"],
        set: GROUP.0,
        matches: GROUP.1,
        shown: "gbp=0x123",
        port: 7304,
    },
    Kind {
        name: "gbp6",
        kind: "vxlan",
        ipv6: true,
        options: &["exts=gbp", "dst_port=4790", "csum=true"],
        set: GROUP.0,
        matches: GROUP.1,
        shown: "gbp=0x123",
        port: 7305,
    },
    Kind {
        name: "gre4",
        kind: "gre",
        ipv6: false,
        options: &[],
        set: "",
        matches: "",
        shown: "172.31.0.2",
        port: 7306,
    },
    Kind {
        name: "gre6",
        kind: "ip6gre",
        ipv6: true,
        options: &[],
        set: "",
        matches: "",
        shown: "fd31::2",
        port: 7307,
    },
];

impl Host {
    /// All tunnels to the other host, and a rule for the flow of each. Whatever else the pods say goes through the first.
    fn join_by_all(&self, lab: &Lab) -> Outcome {
        let rep = self.nic.representor(0);
        let (mut ports, mut rules) = (Vec::new(), String::new());
        for kind in &KINDS {
            let (name, set, matches, port) = (kind.name, kind.set, kind.matches, kind.port);
            let far = if kind.ipv6 { "fd31::" } else { "172.31.0." };
            ports.extend(["--", "add-port", "br0", name, "--", "set", "Interface", name].map(str::to_owned));
            ports.push(format!("type={}", kind.kind));
            ports.push(format!("options:remote_ip={far}{}", 3 - self.number));
            ports.push("options:key=77".to_owned());
            ports.extend(kind.options.iter().map(|option| format!("options:{option}")));
            rules += &format!("priority=100,udp,in_port={rep},tp_dst={port},actions={set}output:{name}\n");
            rules +=
                &format!("priority=100,udp,in_port={name},{matches}tp_dst={port},actions=output:{rep}\n");
        }
        let first = KINDS[0].name;
        rules += &format!("priority=10,in_port={rep},actions=output:{first}\n");
        rules += &format!("priority=10,in_port={first},actions=output:{rep}\n");
        let file = lab.dir().join(format!("rules-{}", self.number));
        fs::write(&file, rules)?;
        self.ovs.vsctl(&ports.iter().map(String::as_str).collect::<Vec<_>>())?;
        self.ovs.ofctl(&["add-tlv-map", "br0", "{class=0x102,type=0x80,len=4}->tun_metadata0"])?;
        self.ovs.ofctl(&["replace-flows", "br0", &file.to_string_lossy()]).map(drop)
    }

    /// The flow of `kind`, as the daemon has it, once it is in hardware.
    fn settled(&self, daemon: &Daemon, kind: &Kind) -> Outcome<Value> {
        let to = format!("udp(dst={})", kind.port);
        let what = format!("the flow of {} is in hardware on host {}", kind.name, self.number);
        wait_for(&what, PLACED_WITHIN, || {
            let of_kind = |flow: &Value| flow["key"].as_str().unwrap_or_default().contains(&to);
            let flows: Vec<_> = daemon.flows()?.into_iter().filter(of_kind).collect();
            match flows.iter().find(|flow| flow["placement"] == "hardware") {
                Some(flow) => Ok(Some(flow.clone())),
                None => Err(Failure::new(format!("flows: {flows:?}\n{}", self.nic.rules()?))),
            }
        })
    }
}

/// The stream that passes one kind of tunnel.
struct Passing {
    kind: &'static Kind,
    sender: Sender,
    receiver: Receiver,
}

impl Passing {
    fn start(hosts: [&Host; 2], kind: &'static Kind) -> Outcome<Self> {
        let to = format!("10.20.0.2:{}", kind.port);
        let receiver = Receiver::start(&hosts[1].pod, &to)?;
        let stream = Stream {
            to: &to,
            from_port: kind.port,
            count: UNTIL_STOPPED,
            rate_per_s: PER_S,
            payload_bytes: PAYLOAD_BYTES,
            ..Stream::default()
        };
        Ok(Self { kind, sender: Sender::start_stoppable(&hosts[0].pod, stream)?, receiver })
    }

    fn received(&self) -> u64 {
        self.receiver.so_far().packets
    }

    fn stop_without_loss(self) -> Outcome {
        let (sent, received) = (self.sender.stop()?, self.receiver.finish()?);
        ensure!(
            received.packets == sent && received.duplicated == 0,
            "{}: of {sent} packets {received:?} arrived",
            self.kind.name
        );
        Ok(())
    }
}

/// Packets that the representors saw while [`WATCHED`] of each stream came.
fn watched(hosts: [&Host; 2], streams: &[Passing]) -> Outcome<[u64; 2]> {
    let settled: Vec<u64> = streams.iter().map(Passing::received).collect();
    let before = [hosts[0].at_representor()?, hosts[1].at_representor()?];
    wait_until("packets of every stream have come", PLACED_WITHIN, || {
        Ok(streams.iter().zip(&settled).all(|(stream, settled)| stream.received() >= settled + WATCHED))
    })?;
    Ok([hosts[0].at_representor()? - before[0], hosts[1].at_representor()? - before[1]])
}

/// The daemon tells of the tunnel, and of what goes with the packet or is asked of it.
fn ensure_told(daemon: &Daemon, flow: &Value, kind: &Kind) -> Outcome {
    let why = daemon.ctl(&["flow", "why", flow["ufid"].as_str().unwrap_or_default()])?;
    for word in ["tunnel_key", kind.shown] {
        ensure!(why.contains(word), "{}: `flow why` says nothing of {word}:\n{why}", kind.name);
    }
    Ok(())
}

pub(in super::super) fn every_kind_of_tunnel_is_placed_on_both_hosts_and_its_neighbour_is_followed(
    lab: &mut Lab,
) -> Outcome {
    let (nic, far) = (Simnic::new(0, 1)?, Simnic::new(1, 1)?);
    nic.wire(&far)?;
    let hosts = [&Host::new(lab, 1, nic, &STEERED)?, &Host::new(lab, 2, far, &STEERED)?];
    for host in hosts {
        host.join_by_all(lab)?;
    }
    wait_until("the pods reach each other", PLACED_WITHIN, || Ok(hosts[0].pod.pings("10.20.0.2")))?;
    // The pods have met by the first tunnel alone, which is over IPv4: nothing of the others is to wait for a neighbour.
    wait_until("the hosts know each other by IPv6", PLACED_WITHIN, || {
        Ok(hosts[0].run(&["ping", "-c", "1", "-W", "1", "fd31::2"]).is_ok())
    })?;
    let daemons = [
        Daemon::start(lab, &hosts[0].ovs, &config(&hosts[0].ovs)?)?,
        Daemon::start(lab, &hosts[1].ovs, &config(&hosts[1].ovs)?)?,
    ];
    let streams = KINDS.iter().map(|kind| Passing::start(hosts, kind)).collect::<Outcome<Vec<_>>>()?;
    settle(hosts, &daemons, ensure_told)?;
    let slow = watched(hosts, &streams)?;
    println!("    {slow:?} packets at the representors while {WATCHED} of each stream passed");
    ensure!(slow.iter().all(|slow| *slow <= CHATTER_MAX), "{slow:?} packets crossed the representors");
    streams.into_iter().try_for_each(Passing::stop_without_loss)?;
    neighbour_moves(hosts, &daemons)
}

/// Waits until the flow of every kind is in hardware on both hosts, and has a look at each.
fn settle(
    hosts: [&Host; 2],
    daemons: &[Daemon; 2],
    look: impl Fn(&Daemon, &Value, &Kind) -> Outcome,
) -> Outcome {
    for kind in &KINDS {
        for (host, daemon) in hosts.iter().zip(daemons) {
            look(daemon, &host.settled(daemon, kind)?, kind)?;
        }
    }
    Ok(())
}

/// The second host's uplink gets another MAC address and says so: what the first one has in hardware goes there, of tunnels
/// over IPv4 and IPv6.
fn neighbour_moves(hosts: [&Host; 2], daemons: &[Daemon; 2]) -> Outcome {
    let uplink = hosts[1].nic.uplink();
    let settings = ["ipv4.conf.PORT.arp_notify=1", "ipv6.conf.PORT.ndisc_notify=1"];
    for setting in settings.map(|setting| format!("net.{}", setting.replace("PORT", &uplink))) {
        hosts[1].run(&["sysctl", "-qw", &setting])?;
    }
    let streams = KINDS.iter().map(|kind| Passing::start(hosts, kind)).collect::<Outcome<Vec<_>>>()?;
    watched(hosts, &streams)?;
    // Between the streams a flow may have been taken for idle, and have left the NIC.
    settle(hosts, daemons, |_, _, _| Ok(()))?;
    hosts[1].run(&["ip", "link", "set", &uplink, "address", MOVED_TO])?;
    let slow = watched(hosts, &streams)?;
    println!("    {slow:?} packets at the representors after the neighbour moved");
    ensure!(slow.iter().all(|slow| *slow <= CHATTER_MAX), "{slow:?} packets crossed the representors");
    for address in ["172.31.0.2", "fd31::2"] {
        let neighbour = hosts[0].run(&["ip", "neigh", "show", address])?;
        ensure!(neighbour.contains(MOVED_TO), "{address} is still {neighbour}");
    }
    Ok(())
}
