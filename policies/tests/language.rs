//! What must hold of the match language for all conditions: printing gives back what was parsed, and the three-valued
//! answer agrees with evaluating the condition packet by packet, by an evaluator written for this test alone.

use policies::language::{
    AddressSets, Constant, Expression, Header, Match, Number, Origin, Relation, Sketch, Subject, Test, Truth,
    Values,
};
use proptest::prelude::*;

/// Fields of the test, with the header they read and the prerequisite they have.
const FIELDS: [(&str, Header, u32, u32, &str); 11] = [
    ("eth.type", Header::EthType, 0, 16, ""),
    ("ip.proto", Header::IpProto, 0, 8, "ip"),
    ("ip.ttl", Header::IpTtl, 0, 8, "ip"),
    ("ip4.src", Header::Ip4Src, 0, 32, "ip4"),
    ("ip4.dst", Header::Ip4Dst, 0, 32, "ip4"),
    ("tcp.dst", Header::L4Dst, 0, 16, "tcp"),
    ("udp.dst", Header::L4Dst, 0, 16, "udp"),
    ("vlan.vid", Header::VlanTci, 0, 12, "vlan.present"),
    ("ct_mark", Header::CtMark, 0, 32, ""),
    ("ct.trk", Header::CtState, 5, 1, ""),
    ("ct.est", Header::CtState, 1, 1, "ct.trk"),
];

/// A packet, as far as the test's fields go.
#[derive(Clone, Copy, Debug)]
struct Packet([u128; Header::COUNT]);

impl Packet {
    fn get(&self, header: Header) -> u128 {
        self.0[header as usize]
    }

    /// The meaning of the predicates, straight from the protocols.
    fn is(&self, predicate: &str) -> bool {
        let ip4 = self.get(Header::EthType) == 0x800;
        let ip = ip4 || self.get(Header::EthType) == 0x86dd;
        match predicate {
            "" => true,
            "ip4" => ip4,
            "ip6" => ip && !ip4,
            "ip" => ip,
            "tcp" => ip && self.get(Header::IpProto) == 6,
            "udp" => ip && self.get(Header::IpProto) == 17,
            "vlan.present" => self.get(Header::VlanTci) & 0x1000 != 0,
            "ct.trk" => self.get(Header::CtState) & 0x20 != 0,
            other => panic!("no predicate {other}"),
        }
    }

    fn satisfies(&self, expression: &Expression, negate: bool) -> bool {
        match expression {
            Expression::Constant(value) => *value != negate,
            Expression::Not(operand) => self.satisfies(operand, !negate),
            Expression::All(operands) if negate => operands.iter().any(|o| self.satisfies(o, true)),
            Expression::All(operands) => operands.iter().all(|o| self.satisfies(o, false)),
            Expression::Any(operands) if negate => operands.iter().all(|o| self.satisfies(o, true)),
            Expression::Any(operands) => operands.iter().any(|o| self.satisfies(o, false)),
            Expression::Test(test) => self.passes(test, negate),
        }
    }

    /// As OVN has it: the prerequisite holds for a test and for its negation.
    fn passes(&self, test: &Test, negate: bool) -> bool {
        let Some((_, header, low, width, needs)) = FIELDS.iter().find(|field| field.0 == test.field) else {
            return self.is(&test.field) != negate;
        };
        let (mut value, mut width) = (self.get(*header) >> low, *width);
        if let Some((low, high)) = test.bits {
            value >>= low;
            width = u32::from(high - low) + 1;
        }
        value &= (1 << width) - 1;
        let holds = match &test.comparison {
            None => value == 1,
            Some((relation, Values::One(constant))) => {
                compare(value, *relation, std::slice::from_ref(constant))
            }
            Some((relation, Values::Set(constants))) => compare(value, *relation, constants),
        };
        self.is(needs) && holds != negate
    }
}

fn compare(value: u128, relation: Relation, constants: &[Constant]) -> bool {
    let number = |constant: &Constant| match constant {
        Constant::Number(number, _) => *number,
        other => panic!("no number: {other:?}"),
    };
    let is_one_of = constants
        .iter()
        .map(number)
        .any(|Number { value: wanted, mask, .. }| value & mask.unwrap_or(u128::MAX) == wanted);
    match relation {
        Relation::Equal => is_one_of,
        Relation::NotEqual => !is_one_of,
        Relation::Less => value < number(&constants[0]).value,
        Relation::LessOrEqual => value <= number(&constants[0]).value,
        Relation::Greater => value > number(&constants[0]).value,
        Relation::GreaterOrEqual => value >= number(&constants[0]).value,
    }
}

/// Values that meet each other often enough for a test to say something.
fn likely_value() -> impl Strategy<Value = u128> {
    prop_oneof![6 => prop::sample::select(&LIKELY[..]), 1 => any::<u32>().prop_map(u128::from)]
}

fn relation(order: bool) -> impl Strategy<Value = &'static str> {
    if order {
        prop::sample::select(vec!["==", "!=", "<", "<=", ">", ">="])
    } else {
        prop::sample::select(vec!["==", "!="])
    }
}

fn ip(value: u128) -> String {
    std::net::Ipv4Addr::from_bits(value as u32).to_string()
}

/// A test of one field, as text.
fn test() -> impl Strategy<Value = String> {
    let number = (
        prop::sample::select(vec![
            "ip.proto", "ip.ttl", "tcp.dst", "udp.dst", "vlan.vid", "eth.type", "ct_mark",
        ]),
        relation(true),
        likely_value(),
        any::<bool>(),
    )
        .prop_map(|(field, relation, value, turned)| {
            let bits = FIELDS.iter().find(|f| f.0 == field).map_or(0, |f| f.3);
            let value = value & ((1 << bits) - 1);
            if turned {
                format!("{value} {relation} {field}")
            } else {
                format!("{field} {relation} {value:#x}")
            }
        });
    let set = (
        prop::sample::select(vec!["ip.proto", "tcp.dst", "eth.type"]),
        relation(false),
        prop::collection::vec(likely_value(), 0..4),
    )
        .prop_map(|(field, relation, values)| {
            let bits = FIELDS.iter().find(|f| f.0 == field).map_or(0, |f| f.3);
            let values: Vec<String> = values.iter().map(|v| (v & ((1 << bits) - 1)).to_string()).collect();
            format!("{field} {relation} {{{}}}", values.join(", "))
        });
    let block =
        (prop::sample::select(vec!["ip4.src", "ip4.dst"]), relation(false), likely_value(), 0_u32..=32)
            .prop_map(|(field, relation, value, length)| {
                let mask = u32::MAX.checked_shl(32 - length).unwrap_or(0);
                format!("{field} {relation} {}/{length}", ip(value & u128::from(mask)))
            });
    let masked = (relation(false), likely_value(), any::<u16>()).prop_map(|(relation, value, mask)| {
        format!("ct_mark {relation} {:#x}/{mask:#x}", value & u128::from(mask))
    });
    let slice = (0_u8..32, 0_u8..32, relation(true), likely_value()).prop_map(|(a, b, relation, value)| {
        let (low, high) = (a.min(b), a.max(b));
        format!("ip4.dst[{low}..{high}] {relation} {}", value & ((1 << (high - low + 1)) - 1))
    });
    let range = (0_u8..100, any::<bool>(), 100_u8..200)
        .prop_map(|(low, equal, high)| format!("{low} <{} ip.ttl < {high}", if equal { "=" } else { "" }));
    let bare = prop::sample::select(vec![
        "tcp",
        "udp",
        "ip",
        "ip4",
        "ip6",
        "vlan.present",
        "ct.trk",
        "ct.est",
        "1",
        "0",
    ])
    .prop_map(String::from);
    prop_oneof![3 => number, 2 => set, 2 => block, 1 => masked, 1 => slice, 1 => range, 2 => bare]
}

fn condition() -> impl Strategy<Value = String> {
    test().prop_recursive(4, 24, 4, |inner| {
        let operands = || prop::collection::vec(inner.clone(), 2..4);
        prop_oneof![
            inner.clone().prop_map(|inner| format!("!({inner})")),
            operands().prop_map(|all| format!("({})", all.join(") && ("))),
            operands().prop_map(|any| format!("({})", any.join(") /* or */ ||\n("))),
        ]
    })
}

/// A value and a mask for each header; masks of real megaflows are whole, empty or prefixes, but any will do.
fn megaflow() -> impl Strategy<Value = Vec<(Header, u128, u128)>> {
    let headers = [
        Header::EthType,
        Header::IpProto,
        Header::IpTtl,
        Header::Ip4Src,
        Header::Ip4Dst,
        Header::L4Dst,
        Header::VlanTci,
        Header::CtMark,
        Header::CtState,
    ];
    let mask =
        prop_oneof![3 => Just(u128::MAX), 1 => Just(0_u128), 1 => any::<u128>(), 1 => Just(0xffff_ff00_u128)];
    prop::collection::vec((likely_value(), mask), headers.len()).prop_map(move |bits| {
        headers.iter().zip(bits).map(|(header, (value, mask))| (*header, value, mask)).collect()
    })
}

fn subject(megaflow: &[(Header, u128, u128)]) -> Subject<'static> {
    let mut subject = Subject::default();
    for (header, value, mask) in megaflow {
        subject.set(*header, *value, *mask);
    }
    subject
}

const LIKELY: [u128; 12] = [0, 1, 6, 17, 80, 0x800, 0x86dd, 0x1005, 0x0a00_0001, 0x0a01_0000, 0x22, 0x20];

/// A value for each header: one of the likely ones, or any; from a xorshift64 generator.
fn noise(seed: &mut u64) -> [u128; 9] {
    [(); 9].map(|()| {
        *seed ^= *seed << 13;
        *seed ^= *seed >> 7;
        *seed ^= *seed << 17;
        LIKELY.get((*seed >> 40) as usize % 16).copied().unwrap_or(u128::from(*seed as u32))
    })
}

/// A packet of the megaflow: what it leaves open is taken from `noise`.
fn packet(megaflow: &[(Header, u128, u128)], noise: &[u128]) -> Packet {
    let mut packet = Packet([0; Header::COUNT]);
    for (i, (header, value, mask)) in megaflow.iter().enumerate() {
        let width = (1_u128 << header.width()) - 1;
        packet.0[*header as usize] = (value & mask | noise[i % noise.len()] & !mask) & width;
    }
    packet
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn printing_gives_back_what_was_parsed(source in condition()) {
        let parsed = Expression::parse(&source).expect("generated conditions are right");
        let printed = parsed.to_string();
        let again = Expression::parse(&printed);
        prop_assert_eq!(again.as_ref(), Ok(&parsed), "{}", printed);
        prop_assert_eq!(again.expect("just compared").to_string(), printed);
    }

    #[test]
    fn the_answer_agrees_with_every_packet_of_the_megaflow(
        source in condition(),
        megaflow in megaflow(),
        seed in 1_u64..,
    ) {
        let expression = Expression::parse(&source).expect("generated conditions are right");
        let compiled = Match::compile(&source, &AddressSets::new()).expect("generated conditions are right");
        let truth = compiled.evaluate(&subject(&megaflow));
        let mut seed = seed;
        for _ in 0..48 {
            let packet = packet(&megaflow, &noise(&mut seed));
            let holds = packet.satisfies(&expression, false);
            prop_assert!(truth != Truth::Always || holds, "always, but not for {:?}", packet);
            prop_assert!(truth != Truth::Never || !holds, "never, but for {:?}", packet);
        }
    }

    #[test]
    fn a_packet_has_a_plain_answer(source in condition(), megaflow in megaflow()) {
        // A megaflow that leaves nothing open is one packet: there is no "sometimes".
        let exact: Vec<_> = megaflow.iter().map(|(header, value, _)| (*header, *value, u128::MAX)).collect();
        let expression = Expression::parse(&source).expect("generated conditions are right");
        let compiled = Match::compile(&source, &AddressSets::new()).expect("generated conditions are right");
        let holds = packet(&exact, &[0]).satisfies(&expression, false);
        prop_assert_eq!(compiled.evaluate(&subject(&exact)), Truth::from(holds));
    }

    #[test]
    fn a_single_test_is_answered_exactly(
        relation in relation(true), wanted in 0_u128..80, value in 0_u128..64, open in 0_u128..64, masked in any::<bool>(),
    ) {
        let is_order = relation != "==" && relation != "!=";
        let source = if masked && !is_order {
            format!("ct_mark {relation} {:#x}/0x2a", wanted & 0x2a)
        } else {
            format!("ct_mark {relation} {wanted}")
        };
        let expression = Expression::parse(&source).expect("generated conditions are right");
        let compiled = Match::compile(&source, &AddressSets::new()).expect("generated conditions are right");
        let megaflow = [(Header::CtMark, value, !open)];
        let mut answers: Vec<bool> =
            (0..64).map(|noise| packet(&megaflow, &[noise]).satisfies(&expression, false)).collect();
        answers.dedup();
        let exact = if answers.len() > 1 { Truth::Sometimes } else { Truth::from(answers[0]) };
        prop_assert_eq!(compiled.evaluate(&subject(&megaflow)), exact);
    }

    #[test]
    fn the_trace_agrees_with_the_answer(source in condition(), megaflow in megaflow()) {
        let compiled = Match::compile(&source, &AddressSets::new()).expect("generated conditions are right");
        let subject = subject(&megaflow);
        let trace = compiled.trace(&subject);
        prop_assert_eq!(trace.truth, compiled.evaluate(&subject));
        if let [only] = &trace.tests[..] {
            prop_assert_eq!(only.truth, trace.truth);
        }
        for test in &trace.tests {
            prop_assert!(source.get(test.span.start..test.span.end).is_some());
        }
    }

    #[test]
    fn any_text_is_read_or_refused_with_a_place(source in "[ -~äé\\n\\t]{0,60}") {
        if let Err(error) = Match::compile(&source, &AddressSets::new()) {
            prop_assert!(error.span.start <= error.span.end && error.span.end <= source.len());
            prop_assert!(source.is_char_boundary(error.span.start) && source.is_char_boundary(error.span.end));
            let (line, column) = error.position(&source);
            let rendered = error.render(&source, Origin { file: "f", line: 1, column: 1 });
            let place = format!("f:{}:{}: ", line, column);
            prop_assert!(rendered.starts_with(&place), "{}", rendered);
        }
    }

    #[test]
    fn scraps_of_descriptions_are_read_or_refused_with_a_place(
        scraps in prop::collection::vec(prop::sample::select(vec![
            "tcp", "ip4.src", "ip6.dst", "vlan.pcp", "tun.id", "nd", "=", "==", "!", ",", "&&", "10.0.0.0/8", "fd00::/8", "7",
            "0xffffffffffffffffffffffffffffffff", "1/2", "\"", "inport", "outport.iface_id", "encap", "age", "5 s", "é", "locality",
            "same-node", "ct.est", "eth.type", "icmp6.type", "mpls.label", "ct_label", "arp.op",
        ]), 0..10),
    ) {
        let text = scraps.concat();
        match Sketch::parse(&text) {
            Ok(sketch) => {
                let condition = Match::compile("ip4.src == 10.0.0.0/8 || tcp", &AddressSets::new()).expect("a condition");
                condition.evaluate(&sketch.subject(&mut Vec::new()));
            }
            Err(error) => prop_assert!(text.get(error.span.start..error.span.end).is_some(), "{:?}", error),
        }
    }

    #[test]
    fn scraps_of_conditions_are_read_or_refused(
        scraps in prop::collection::vec(prop::sample::select(vec![
            "tcp", "ip4.src", "==", "!=", "<", "=", "(", ")", "{", "}", "[", "0..7", "]", "&&", "||", "!", "10.0.0.0/8",
            "\"a*\"", "$set", ",", "5", "0x", "1.2.3", "fe80::/10", "a:b", "..", "/*", "//", "inport", "age", "\"1 s\"",
            "aa:bb:cc:dd:ee:ff", "&", "0", "1", "\\", "\"",
        ]), 0..12),
    ) {
        let source = scraps.join(" ");
        match Expression::parse(&source) {
            Ok(expression) => {
                let again = Expression::parse(&expression.to_string());
                prop_assert_eq!(again, Ok(expression));
            }
            Err(error) => prop_assert!(error.span.end <= source.len()),
        }
    }
}
