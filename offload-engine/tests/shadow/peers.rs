//! The rules of shadow mode against those that Open vSwitch 3.5 itself made of the same megaflows (`peer.py`).

use netlink_wire::ovs_flow::Megaflow;
use netlink_wire::ovs_vport::Vport;
use netlink_wire::{DpPort, Ifindex, Masked, Message, Ufid};
use offload_engine::shadow::{self, Abilities};
use offload_engine::{PortFacts, PortKind};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use tc_flower::action::{CsumFlags, Mirred, MirredTarget};
use tc_flower::{Action, ActionKind, Filter, Location, Match, TcEvent};

#[path = "../../../netlink-wire/tests/hex/mod.rs"]
mod hex;

fn messages(name: &str) -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/shadow/captures");
    hex::parse(&directory.join(name)).messages
}

fn ports(name: &str) -> Vec<PortFacts> {
    let port = |bytes: &Vec<u8>| {
        let vport = Vport::decode(&Message::first(bytes).unwrap()).unwrap();
        let ifindex = vport.ifindex.unwrap();
        let (kind, tunnel) = match &*vport.name {
            "genev_sys_6081" => (PortKind::Tunnel, Some("geneve")),
            "vxlan_sys_4789" => (PortKind::Tunnel, Some("vxlan")),
            "br0" | "ovs-system" => (PortKind::Internal, None),
            _ => (PortKind::Representor, None),
        };
        PortFacts {
            name: vport.name.to_string(),
            ifindex,
            location: Location::ingress(ifindex),
            dp_port: Some(vport.port),
            dp: Some(Ifindex(3)),
            bridge: "br0".into(),
            iface_id: None,
            workload: None,
            kind,
            tunnel_kind: tunnel.map(Into::into),
            tunnel_port: vport.name.rsplit_once("_sys_").and_then(|(_, port)| port.parse().ok()),
            nic: None,
            hw_tc_offload: true,
        }
    };
    messages(name).iter().map(port).collect()
}

/// The names of peer-flows.txt, by the ids of their megaflows.
fn names() -> BTreeMap<Ufid, String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/shadow/peer-flows.txt");
    let text = std::fs::read_to_string(path).unwrap();
    let lines = (1_u32..).zip(text.lines()).filter(|(_, line)| !line.starts_with('#'));
    let named = |(number, line): (u32, &str)| {
        let ufid = format!("{number:08x}-0000-0000-0000-000000000000").parse().unwrap();
        (ufid, line.split_once(": ").unwrap().0.to_owned())
    };
    lines.map(named).collect()
}

/// A filter as far as it is the same rule on another machine: devices by their names, rewrites byte by byte.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Rule {
    at: String,
    keys: Match,
    steps: Vec<String>,
    checksums: CsumFlags,
}

fn rule(filter: &Filter, ports: &[PortFacts]) -> Rule {
    let name = |ifindex: Ifindex| {
        ports.iter().find(|port| port.ifindex == ifindex).map_or("?".into(), |port| port.name.clone())
    };
    let Location::Device { ifindex, .. } = filter.address.location else { panic!("a block") };
    let mut checksums = CsumFlags::NONE;
    let (mut steps, mut rewritten) = (Vec::new(), BTreeMap::new());
    for Action { kind, control, .. } in &filter.actions {
        match kind {
            ActionKind::Pedit(pedit) => {
                for key in &pedit.keys {
                    for (at, (keep, value)) in key.keep.iter().zip(key.value).enumerate() {
                        if *keep != 0xff {
                            rewritten.insert((key.header.name(), key.offset + at as u32), (!keep, value));
                        }
                    }
                }
                continue;
            }
            ActionKind::Csum(csum) => checksums = checksums | csum.update,
            _ => {}
        }
        if !rewritten.is_empty() {
            steps.push(format!("{:?}", std::mem::take(&mut rewritten)));
        }
        match kind {
            ActionKind::Csum(_) => steps.push("csum".into()),
            ActionKind::Mirred(Mirred { target: MirredTarget::Device(to), direction, copy }) => {
                steps.push(format!("{direction:?} {} copy {copy} {control}", name(*to)));
            }
            other => steps.push(format!("{other:?} {control}")),
        }
    }
    Rule {
        at: format!("{} {}", name(ifindex), filter.address.protocol),
        keys: filter.keys.clone(),
        steps,
        checksums,
    }
}

/// Megaflows that Open vSwitch's filter is another of, and how.
fn deviations(name: &str, ours: &mut Rule) -> Option<&'static str> {
    Some(match name {
        // Only the header's own checksum covers it; the kernel datapath touches no other either.
        "route" => {
            ours.checksums = ours.checksums | CsumFlags::UDP;
            "a checksum of UDP that the rewrite does not spoil"
        }
        "set-class" => {
            ours.checksums = ours.checksums | CsumFlags::UDP;
            ours.steps.insert(1, "csum".into());
            "a checksum of UDP that the rewrite does not spoil"
        }
        // `netdev_tc_flow_put()` matches the UDP port that the packet had which the megaflow was made for. These were made by hand,
        // for none; ours is that of the device.
        "in-geneve" | "through" => {
            assert_eq!(ours.keys.tunnel.header.dst_port, Some(Masked::exact(6081)));
            ours.keys.tunnel.header.dst_port = Some(Masked::exact(0));
            "the UDP port of a packet that there was none of"
        }
        _ => return None,
    })
}

/// Megaflows that Open vSwitch left in the kernel datapath, and shadow mode has a rule for.
const NOT_THEIRS: [&str; 1] = ["mpls-label"];

#[test]
fn rules_are_those_of_open_vswitch_itself_but_for_deviations_that_are_known() {
    let (their_ports, our_ports) = (ports("offloading-ports.hex"), ports("datapath-ports.hex"));
    let mut theirs = BTreeMap::new();
    for message in messages("offloading-filters.hex") {
        if let TcEvent::Filter(report) = TcEvent::decode(&Message::first(&message).unwrap()).unwrap()
            && let Some(ufid) = report.ufid()
        {
            theirs.insert(ufid, rule(&report.to_filter().unwrap(), &their_ports));
        }
    }
    let (names, mut seen, mut wrong) = (names(), BTreeSet::new(), Vec::new());
    for message in messages("datapath-flows.hex") {
        let flow = Megaflow::decode(&Message::first(&message).unwrap()).unwrap();
        let Some(name) = flow.counters.ufid.and_then(|ufid| names.get(&ufid)) else { continue };
        let (ufid, keys, actions) = (flow.counters.ufid.unwrap(), flow.keys.unwrap(), flow.actions.unwrap());
        let find = |port: DpPort| our_ports.iter().find(|facts| facts.dp_port == Some(port));
        let filter = shadow::translate(ufid, &keys, &actions, Abilities::ALL, &find);
        let mut ours = rule(&filter.unwrap_or_else(|why| panic!("{name}: {why}")), &our_ports);
        assert!(seen.insert(name.clone()), "{name} is there once");
        assert_ne!(ours.steps.last().map(String::as_str), Some("csum"), "{name}");
        let Some(theirs) = theirs.get(&ufid) else {
            if !NOT_THEIRS.contains(&name.as_str()) {
                wrong.push(format!("{name} is not among Open vSwitch's filters"));
            }
            continue;
        };
        let same = ours == *theirs;
        let known = deviations(name, &mut ours);
        if same && known.is_some() {
            wrong.push(format!("{name} does not deviate: {known:?}"));
        } else if ours != *theirs {
            wrong.push(format!("{name}: ours\n  {ours:?}\ntheirs\n  {theirs:?}"));
        }
    }
    let missing: Vec<_> = names.values().filter(|name| !seen.contains(*name)).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(missing.is_empty(), "not captured: {missing:?}");
}
