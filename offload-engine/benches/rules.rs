//! What a new filter costs until the rules have decided: seeing it as conditions do, and asking the rules.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on fails")]

use std::hint::black_box;
use std::path::Path;

use criterion::{Criterion, criterion_group, criterion_main};
use netlink_wire::{DpPort, Ifindex, Message};
use offload_engine::ports::Ports;
use offload_engine::{PortFacts, PortKind, subject};
use policies::language::AddressSets;
use policies::rules::{Place, RuleText, Rules};
use policies::tenants::TenantBook;
use tc_flower::{FilterReport, Location, TcEvent};

#[path = "../../netlink-wire/tests/hex/mod.rs"]
mod hex;

/// The filters that Open vSwitch 3.5 made for the captures.
fn filters() -> Vec<FilterReport> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tc-flower/tests/captures/ovs.hex");
    let read = |bytes: &Vec<u8>| match TcEvent::decode(&Message::first(bytes).unwrap()).unwrap() {
        TcEvent::Filter(report) => Some(*report),
        _ => None,
    };
    hex::parse(&path).messages.iter().filter_map(read).collect()
}

fn ports() -> Ports {
    let mut ports = Ports::default();
    for (number, ifindex) in [3, 5, 9, 10].into_iter().enumerate() {
        ports.set(PortFacts {
            name: format!("p{number}"),
            ifindex: Ifindex(ifindex),
            location: Location::ingress(Ifindex(ifindex)),
            dp_port: Some(DpPort(number as u32)),
            dp: Some(Ifindex(3)),
            bridge: "br0".into(),
            iface_id: Some(format!("web-{number}")),
            workload: None,
            kind: PortKind::Representor,
            tunnel_kind: None,
            tunnel_port: None,
            nic: None,
            hw_tc_offload: true,
        });
    }
    ports
}

fn rules() -> Rules {
    let rule = |name: &str, condition: &str, place| RuleText {
        name: name.into(),
        condition: condition.into(),
        place,
        ..RuleText::default()
    };
    let texts = [
        rule("health", "tcp.dst == {8080, 10256} || icmp6", Place::Software),
        rule("local", r#"locality == "same-node""#, Place::Software),
        rule("gold", r#"inport.iface_id == "gold-*" && ip4.dst == 10.20.0.0/16"#, Place::Hardware),
        rule("out", r#"outport == "uplink" && !rewrites"#, Place::Auto),
        rule("rest", "1", Place::Auto),
    ];
    Rules::compile(&texts, Place::Auto, &AddressSets::new()).unwrap()
}

fn decide(criterion: &mut Criterion) {
    let (filters, ports, rules) = (filters(), ports(), rules());
    let mut book = TenantBook::new();
    let mut next = filters.iter().cycle();
    criterion.bench_function("filter/seen", |bencher| {
        bencher.iter(|| {
            let mut outports = Vec::new();
            black_box(subject::of_filter(next.next().unwrap(), &ports, &mut outports).drops)
        });
    });
    criterion.bench_function("filter/seen_and_decided_by_five_rules", |bencher| {
        bencher.iter(|| {
            let mut outports = Vec::new();
            rules.decide(&subject::of_filter(next.next().unwrap(), &ports, &mut outports), &mut book)
        });
    });
}

criterion_group!(benches, decide);
criterion_main!(benches);
