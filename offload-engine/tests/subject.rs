//! What conditions see of the filters and megaflows that Open vSwitch 3.5 made (`ovs-setup.sh` of the captures).

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use netlink_wire::ovs_flow::Megaflow;
use netlink_wire::{DpPort, Ifindex, Message};
use offload_engine::ports::Ports;
use offload_engine::{Orchestrator, PortFacts, PortKind, Workload, subject};
use policies::language::{AddressSets, Match, Subject, Truth};
use tc_flower::action::TunnelKey;
use tc_flower::{ActionKind, FilterReport, Location, TcEvent};

#[path = "../../netlink-wire/tests/hex/mod.rs"]
mod hex;

const P1: u32 = 3;
const P2: u32 = 5;

fn messages(path: &str) -> Vec<Vec<u8>> {
    hex::parse(&Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)).messages
}

/// The ports of the captures' bridge.
fn ports() -> Ports {
    let port = |name: &str, ifindex, dp_port, kind, iface_id: Option<&str>| PortFacts {
        name: name.into(),
        ifindex: Ifindex(ifindex),
        location: Location::ingress(Ifindex(ifindex)),
        dp_port: Some(DpPort(dp_port)),
        dp: Some(Ifindex(3)),
        bridge: "br0".into(),
        iface_id: iface_id.map(Into::into),
        workload: None,
        kind,
        tunnel_kind: (kind == PortKind::Tunnel).then(|| "geneve".into()),
        tunnel_port: None,
        nic: None,
        hw_tc_offload: false,
    };
    let mut ports = Ports::default();
    let web = Workload {
        orchestrator: Orchestrator::KubeOvn,
        name: "web-1".into(),
        namespace: Some("prod".into()),
        tenant: Some("prod".into()),
        logical_switch: None,
    };
    ports.set(PortFacts { workload: Some(web), ..port("p1", P1, 3, PortKind::Other, Some("web-1.prod")) });
    ports.set_chassis([("172.16.0.2".parse().unwrap(), "node-2".into())].into());
    ports.set(port("p2", P2, 2, PortKind::Other, None));
    ports.set(port("genev_sys_6081", 9, 4, PortKind::Tunnel, None));
    ports.set(port("br0", 10, 1, PortKind::Internal, None));
    ports
}

fn check(subject: &Subject<'_>, of: &str, expected: &[(Truth, &str)]) {
    for (truth, condition) in expected {
        let compiled = Match::compile(condition, &AddressSets::new()).unwrap();
        assert_eq!(compiled.evaluate(subject), *truth, "{condition} of {of}: {:?}", compiled.trace(subject));
    }
}

fn filters() -> Vec<FilterReport> {
    let mut filters = Vec::new();
    for message in messages("tc-flower/tests/captures/ovs.hex") {
        if let TcEvent::Filter(report) = TcEvent::decode(&Message::first(&message).unwrap()).unwrap() {
            filters.push(*report);
        }
    }
    filters
}

/// Checks the filter of p1 whose keys are printed so.
fn check_filter(keys: &str, expected: &[(Truth, &str)]) {
    let filters = filters();
    let of_p1 = |report: &&FilterReport| report.address.location == Location::ingress(Ifindex(P1));
    let report = filters.iter().filter(of_p1).find(|report| report.keys.to_string() == keys);
    let report = report.unwrap_or_else(|| panic!("no filter {keys}"));
    let (ports, mut outports) = (ports(), Vec::new());
    check(&subject::of_filter(report, &ports, &mut outports), keys, expected);
}

use Truth::{Always, Never, Sometimes};

#[test]
fn every_filter_tells_its_port_and_that_it_is_untagged_and_not_of_a_tunnel() {
    let locations = [P1, P2].map(|ifindex| Location::ingress(Ifindex(ifindex)));
    for report in filters().into_iter().filter(|report| locations.contains(&report.address.location)) {
        let (ports, mut outports) = (ports(), Vec::new());
        let subject = subject::of_filter(&report, &ports, &mut outports);
        // Nobody has told of IPsec's policies, which matter to what goes into a tunnel, or may yet.
        let is_tunnelled = report
            .actions
            .iter()
            .any(|report| matches!(report.action.kind, ActionKind::TunnelKey(TunnelKey::Set(_))));
        let may_be_tunnelled = is_tunnelled || subject.outports.is_none();
        check(
            &subject,
            &report.keys.to_string(),
            &[
                (Always, r#"inport == {"p1", "p2"}"#),
                (Always, "vlan.tci == 0 && !vlan.present && !cvlan.present"),
                (Always, "!tun && recirc_id == 0 && !recirculates"),
                (if may_be_tunnelled { Sometimes } else { Never }, "encrypted"),
            ],
        );
        if report.address.location == Location::ingress(Ifindex(P1)) {
            check(
                &subject,
                "p1",
                &[
                    (Always, r#"inport.iface_id == "web-?.prod""#),
                    (Always, r#"workload == "web-1" && namespace == "prod" && tenant == "prod""#),
                ],
            );
        } else {
            check(
                &subject,
                "p2",
                &[(Always, r#"inport.iface_id == """#), (Never, r#"inport.iface_id == "web*""#)],
            );
        }
    }
}

#[test]
fn a_rewritten_and_encapsulated_filter_is_seen_as_such() {
    check_filter(
        "eth(src=b6:78:9c:e5:01:f0),eth_type(0x0800),ip(proto=1,tos=0x0,frag=no)",
        &[
            (Always, "icmp4 && ip.dscp == 0 && !ip.is_frag"),
            (Always, "eth.src == b6:78:9c:e5:01:f0"),
            (Sometimes, "ip4.dst == 10.0.0.2"),
            (Always, r#"rewrites && encap && encap.type == "geneve" && !drops"#),
            (Always, r#"outport == "p2" && outport == "genev*""#),
            (Never, r#"outport == "br0""#),
            (Always, r#"locality == "cross-node" && chassis == "node-2""#),
            (Never, "tcp || udp"),
        ],
    );
}

#[test]
fn filters_of_one_protocol_are_told_apart_by_port_and_action() {
    check_filter(
        "eth_type(0x0800),ipv4(dst=10.0.0.2),ip(proto=17,ttl=64,frag=no),udp(dst=4660)",
        &[
            (Always, "udp.dst == 0x1234 && ip4.dst == 10.0.0.0/8 && ip.ttl == 64"),
            (Sometimes, "udp.src == 1"),
            (Always, "rewrites && !encap && !drops"),
            (Never, "tcp.dst == 0x1234"),
        ],
    );
    check_filter("eth_type(0x0800),ip(proto=17,frag=no),udp(dst=7)", &[(Always, "rewrites && !drops")]);
    check_filter(
        "eth_type(0x0800),ip(proto=17,frag=no),udp(dst=8)",
        &[(Always, "drops && !rewrites && !encap"), (Never, r#"outport == "*""#)],
    );
    check_filter(
        "eth_type(0x0800),ip(proto=17,frag=no),udp(dst=10)",
        &[
            (Always, r#"outport == "br0" && !rewrites && chassis == """#),
            (Always, r#"locality == "unknown""#),
            (Sometimes, r#"locality == "same-node""#),
            (Never, "drops"),
        ],
    );
    check_filter("eth_type(0x86dd),ip(frag=no)", &[(Always, "ip6 && drops"), (Sometimes, "tcp")]);
    check_filter(
        "eth(src=b6:78:9c:e5:01:f0,dst=ff:ff:ff:ff:ff:ff),eth_type(0x0806),arp(sip=10.0.0.1,tip=10.0.0.2,op=1)",
        &[(Always, "arp.op == 1 && arp.spa == 10.0.0.1 && eth.bcast && encap"), (Never, "ip")],
    );
}

#[test]
fn packets_that_are_told_apart_by_their_length_may_go_either_way() {
    check_filter(
        "eth_type(0x0800),ip(proto=17,frag=no),udp(dst=11)",
        &[(Sometimes, r#"outport == "p2""#), (Sometimes, r#"outport == "br0""#), (Always, "!rewrites")],
    );
}

#[test]
fn a_megaflow_of_the_kernel_datapath_is_seen_as_its_filter_would_be() {
    let messages = messages("netlink-wire/tests/captures/ovs_flow.hex");
    let flows = messages.iter().filter_map(|bytes| Megaflow::decode(&Message::first(bytes).unwrap()).ok());
    let mut seen = 0;
    for flow in flows {
        let Some(keys) = &flow.keys else { continue };
        let (ports, mut outports) = (ports(), Vec::new());
        let subject = subject::of_megaflow(Ifindex(3), keys, flow.actions.as_ref(), &ports, &mut outports);
        let text = keys.to_string();
        check(
            &subject,
            &text,
            &[(Always, r#"inport == "p1" && ip4 && !tun && !vlan.present && !ip.is_frag"#)],
        );
        let expected: &[(Truth, &str)] = if text.contains("udp") {
            &[(Always, r#"udp.dst == 9 && outport == "p2" && !drops && !rewrites && !recirculates"#)]
        } else if text.contains("recirc_id(0x0)") {
            &[
                (Always, "tcp && rewrites && recirculates && recirc_id == 0"),
                (Sometimes, r#"outport == "p2""#),
                (Sometimes, "encap"),
                (Sometimes, r#"chassis == "node-2""#),
                (Always, r#"namespace == "prod""#),
                (Never, "drops"),
                (Sometimes, "ct.est"),
            ]
        } else {
            &[
                (Always, r#"tcp && ct.new && recirc_id == 2 && outport == "p2" && !rewrites"#),
                (Sometimes, "ct.est"),
            ]
        };
        check(&subject, &text, expected);
        seen += 1;
    }
    assert!(seen >= 3, "the capture has megaflows of all kinds");
}
