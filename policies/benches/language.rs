//! What it costs to ask a policy about a megaflow, and to compile one.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use policies::language::{AddressSets, Header, Locality, Match, Subject};
use policies::rules::{Place, RuleText, Rules};
use policies::tenants::TenantBook;

/// A policy of the kind that docs/policy.md shows.
const POLICY: [(&str, &str, Place); 5] = [
    ("health checks", "tcp.dst == {8080, 10256} || icmp4 || arp", Place::Software),
    ("same-node traffic", r#"locality == "same-node""#, Place::Software),
    ("gold tenant", r#"tenant == "gold" && ip4.dst == 10.20.0.0/16"#, Place::Hardware),
    (
        "storage",
        r#"inport.iface_id == "ceph-*" && tcp.dst == {3300, 6789} && ip4.src == 10.0.0.0/8"#,
        Place::Hardware,
    ),
    ("everything else", "1", Place::Auto),
];

fn rules() -> Rules {
    let texts = POLICY.map(|(name, condition, place)| RuleText {
        name: name.into(),
        condition: condition.into(),
        condition_at: (1, 1),
        place,
        ..RuleText::default()
    });
    Rules::compile(&texts, Place::Auto, &AddressSets::new()).expect("a policy")
}

fn web() -> Subject<'static> {
    let mut subject = Subject::default();
    subject.set_exact(Header::EthType, 0x800);
    subject.set_exact(Header::IpProto, 6);
    subject.set_exact(Header::Ip4Src, 0x0a00_0001);
    subject.set_exact(Header::Ip4Dst, 0x0a01_0203);
    subject.set_exact(Header::L4Dst, 443);
    subject.inport.name = Some("pf0vf3");
    subject.inport.iface_id = Some("web-1.prod");
    subject.tenant = Some("silver");
    subject.locality = Locality::CrossNode;
    subject
}

/// So many rules, none of which matches [`web`] but the last: the price of a long policy.
fn long(rules: u16) -> Rules {
    let texts = (1..rules).map(|number| RuleText {
        name: number.to_string(),
        condition: format!(
            "(tcp.dst == {number} && ip4.src == 10.{}.0.0/16) || inport == \"p{number}\"",
            number % 250
        ),
        ..RuleText::default()
    });
    let rest = RuleText { name: "rest".into(), condition: "1".into(), ..RuleText::default() };
    let texts: Vec<RuleText> = texts.chain([rest]).collect();
    Rules::compile(&texts, Place::Auto, &AddressSets::new()).expect("a policy")
}

/// One condition over an address set of `addresses` single hosts.
fn with_set(addresses: u32) -> Match {
    let hosts: Vec<String> =
        (0..addresses).map(|i| std::net::Ipv4Addr::from_bits(0x0a01_0000 + 7 * i).to_string()).collect();
    let mut sets = AddressSets::new();
    sets.insert("hosts", hosts.iter().map(String::as_str)).expect("addresses");
    Match::compile("ip4.dst == $hosts", &sets).expect("a condition")
}

fn language(criterion: &mut Criterion) {
    let (rules, subject) = (rules(), web());
    let mut book = TenantBook::new();
    criterion.bench_function("decide/five_rules", |bencher| {
        bencher.iter(|| black_box(&rules).decide(black_box(&subject), &mut book));
    });
    for count in [100, 1_000] {
        let rules = long(count);
        criterion.bench_function(&format!("decide/{count}_rules"), |bencher| {
            bencher.iter(|| black_box(&rules).decide(black_box(&subject), &mut book));
        });
    }
    criterion.bench_function("trace/five_rules", |bencher| {
        bencher.iter(|| black_box(&rules).trace(black_box(&subject)).asked.len());
    });
    let mut group = criterion.benchmark_group("evaluate");
    for source in ["ip4.dst == 10.1.0.0/16", "tcp.dst == 443", r#"inport == "pf0vf*""#] {
        let condition = Match::compile(source, &AddressSets::new()).expect("a condition");
        group.bench_function(source, |bencher| {
            bencher.iter(|| black_box(&condition).evaluate(black_box(&subject)));
        });
    }
    for addresses in [10, 1_000, 100_000] {
        let condition = with_set(addresses);
        group.bench_function(BenchmarkId::new("address_set", addresses), |bencher| {
            bencher.iter(|| black_box(&condition).evaluate(black_box(&subject)));
        });
    }
    group.finish();
    criterion.bench_function("compile/five_rules", |bencher| bencher.iter(self::rules));
}

criterion_group!(benches, language);
criterion_main!(benches);
