//! Facts about the language: what conditions mean, and what is said about wrong ones.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::*;
use crate::Micros;

fn sets() -> AddressSets {
    let mut sets = AddressSets::new();
    sets.insert("backends", ["10.1.0.0/16", "10.2.0.7", "fd00:1::/64"]).expect("addresses");
    sets.insert("gateways", ["52:54:00:00:00:01"]).expect("addresses");
    sets.insert("none", []).expect("no addresses");
    sets
}

fn compiled(source: &str) -> Match {
    match Match::compile(source, &sets()) {
        Ok(condition) => condition,
        Err(error) => panic!("{}", error.render(source, Origin { file: "test", line: 1, column: 1 })),
    }
}

fn truth(source: &str, subject: &Subject<'_>) -> Truth {
    compiled(source).evaluate(subject)
}

fn refused(source: &str) -> String {
    match Match::compile(source, &sets()) {
        Ok(_) => panic!("{source} is accepted"),
        Err(error) => error.render(source, Origin { file: "policy.toml", line: 1, column: 1 }),
    }
}

/// TCP from any port of 10.0.0.1 to port 443 of 10.1.0.0/16.
fn web<'a>() -> Subject<'a> {
    let mut subject = Subject::default();
    subject.set_exact(Header::EthType, 0x800);
    subject.set_exact(Header::IpProto, 6);
    subject.set_exact(Header::Ip4Src, 0x0a00_0001);
    subject.set(Header::Ip4Dst, 0x0a01_0000, 0xffff_0000);
    subject.set_exact(Header::L4Dst, 443);
    subject.set_exact(Header::Tunnel, 0);
    subject.set_exact(Header::VlanTci, 0);
    subject
}

use Truth::{Always, Never, Sometimes};

#[test]
fn a_field_the_megaflow_fixes_is_certain_and_one_it_leaves_open_is_not() {
    assert_eq!(truth("tcp.dst == 443", &web()), Always);
    assert_eq!(truth("tcp.dst == 80", &web()), Never);
    assert_eq!(truth("tcp.src == 80", &web()), Sometimes);
    assert_eq!(truth("tcp.src != 80", &web()), Sometimes);
}

#[test]
fn a_block_is_compared_with_a_block() {
    assert_eq!(truth("ip4.dst == 10.0.0.0/8", &web()), Always);
    assert_eq!(truth("ip4.dst == 10.1.0.0/16", &web()), Always);
    assert_eq!(truth("ip4.dst == 10.1.2.0/24", &web()), Sometimes);
    assert_eq!(truth("ip4.dst == 10.2.0.0/16", &web()), Never);
    assert_eq!(truth("ip4.dst == 0.0.0.0/0", &web()), Always);
    assert_eq!(truth("ip4.dst == 0.0.0.0/255.0.0.255", &web()), Never);
    assert_eq!(truth("ip4.dst == 10.0.0.1/255.0.0.255", &web()), Sometimes);
}

#[test]
fn prerequisites_are_implied_as_in_ovn() {
    let mut udp = web();
    udp.set_exact(Header::IpProto, 17);
    assert_eq!(truth("tcp.dst == 443", &udp), Never);
    assert_eq!(truth("tcp.dst != 80", &udp), Never, "not equal implies the prerequisite as well");
    assert_eq!(truth("!(tcp.dst == 80)", &udp), Never, "and so does its negation");
    assert_eq!(truth("!tcp", &udp), Always, "but a negated predicate is negated as a whole");
    let mut any_protocol = web();
    any_protocol.set(Header::IpProto, 0, 0);
    assert_eq!(truth("tcp.dst == 443", &any_protocol), Sometimes);
    let mut arp = Subject::default();
    arp.set_exact(Header::EthType, 0x806);
    assert_eq!(truth("ip || tcp.dst == 443 || ip6.src == ::/0", &arp), Never);
    assert_eq!(truth("!ip", &arp), Always);
    assert_eq!(truth("arp.tpa == 0.0.0.0/0", &arp), Always);
}

#[test]
fn order_is_decided_by_the_ends_of_what_is_possible() {
    let mut subject = web();
    subject.set(Header::L4Src, 0x8000, 0xc000);
    assert_eq!(truth("tcp.src >= 0x8000", &subject), Always);
    assert_eq!(truth("tcp.src > 32768", &subject), Sometimes);
    assert_eq!(truth("tcp.src < 0xc000", &subject), Always);
    assert_eq!(truth("tcp.src >= 0xc000", &subject), Never);
    assert_eq!(truth("tcp.src <= 0xbffe", &subject), Sometimes);
    assert_eq!(truth("32767 < tcp.src <= 0xbfff", &subject), Always);
    assert_eq!(truth("0xbfff >= tcp.src > 0x7fff", &subject), Always);
    assert_eq!(truth("!(tcp.src >= 0xc000)", &subject), Always);
}

#[test]
fn sets_are_one_of_and_none_of() {
    assert_eq!(truth("tcp.dst == {80, 443}", &web()), Always);
    assert_eq!(truth("tcp.dst == {80 8080}", &web()), Never);
    assert_eq!(truth("tcp.dst != {80, 443}", &web()), Never);
    assert_eq!(truth("tcp.dst != {80, 8080}", &web()), Always);
    assert_eq!(truth("tcp.src == {80, 443}", &web()), Sometimes);
    assert_eq!(truth("tcp.dst == {}", &web()), Never);
    assert_eq!(truth("tcp.dst != {}", &web()), Always);
    assert_eq!(truth("{80, 443} == tcp.dst", &web()), Always);
}

#[test]
fn address_sets_are_looked_up_by_the_fields_kind() {
    assert_eq!(truth("ip4.dst == $backends", &web()), Always);
    assert_eq!(truth("ip4.dst == {$backends, 1.2.3.4}", &web()), Always);
    assert_eq!(truth("ip4.src == $backends", &web()), Never);
    assert_eq!(truth("ip4.src == $none", &web()), Never);
    assert_eq!(truth("ip4.src != $none", &web()), Always);
    assert_eq!(truth("eth.src == $gateways", &web()), Sometimes);
}

#[test]
fn bits_of_a_field_can_be_selected() {
    assert_eq!(truth("ip4.src[24..31] == 10", &web()), Always);
    assert_eq!(truth("ip4.src[0]", &web()), Always);
    assert_eq!(truth("!ip4.src[0]", &web()), Never);
    assert_eq!(truth("ip4.dst[16..31] == 0x0a01", &web()), Always);
    assert_eq!(truth("ip4.dst[15..31] == 0x1402", &web()), Sometimes);
}

#[test]
fn a_vlan_that_is_not_there_has_no_id() {
    assert_eq!(truth("vlan.present", &web()), Never);
    assert_eq!(truth("vlan.vid == 0", &web()), Never);
    let mut tagged = web();
    tagged.set(Header::VlanTci, 0x1005, 0x1fff);
    assert_eq!(truth("vlan.vid == 5", &tagged), Always);
    assert_eq!(truth("vlan.pcp == 0", &tagged), Sometimes);
}

#[test]
fn connection_state_is_tested_bit_by_bit() {
    let mut tracked = web();
    tracked.set(Header::CtState, 0x22, 0x23);
    assert_eq!(truth("ct.est && ct.trk", &tracked), Always);
    assert_eq!(truth("ct.new", &tracked), Never);
    assert_eq!(truth("!ct.new", &tracked), Always);
    assert_eq!(truth("ct.rpl", &tracked), Sometimes);
    let mut untracked = web();
    untracked.set(Header::CtState, 0, 0x20);
    assert_eq!(truth("ct.est == 0", &untracked), Never, "it implies ct.trk");
}

#[test]
fn ports_are_known_by_name_by_iface_id_and_by_pattern() {
    let mut subject = web();
    subject.inport = PortName { name: Some("pf0vf3"), iface_id: Some("web-1.prod") };
    let outports = [
        PortName { name: Some("genev_sys_6081"), iface_id: Some("") },
        PortName { name: Some("tap7"), iface_id: None },
    ];
    subject.outports = Some(&outports);
    assert_eq!(truth(r#"inport == "pf0vf*""#, &subject), Always);
    assert_eq!(truth(r#"inport == {"a", "pf0vf?"}"#, &subject), Always);
    assert_eq!(truth(r#"inport != "pf0vf3""#, &subject), Never);
    assert_eq!(truth(r#"inport.iface_id == "*.prod""#, &subject), Always);
    assert_eq!(truth(r#"outport == "tap*""#, &subject), Always, "one of them is enough");
    assert_eq!(truth(r#"outport == "vnet0""#, &subject), Never);
    assert_eq!(truth(r#"outport.iface_id == "db""#, &subject), Sometimes, "one is not known");
    assert_eq!(truth(r#"outport == "x""#, &web()), Sometimes);
    subject.outports = Some(&[]);
    assert_eq!(truth(r#"outport == "*""#, &subject), Never);
}

#[test]
fn actions_and_context_are_certain_once_known() {
    let mut subject = web();
    for source in
        ["rewrites", "drops", "encap", "encrypted", "recirculates", r#"tenant == "gold""#, r#"age > "1 s""#]
    {
        assert_eq!(truth(source, &subject), Sometimes, "{source}");
    }
    subject.encap = Some("geneve");
    subject.rewrites = Some(false);
    subject.locality = Locality::CrossNode;
    subject.tenant = Some("gold");
    subject.age = Some(Micros::from_secs(10));
    subject.bytes_per_s = Some(250_000);
    subject.packets_per_s = Some(200);
    for source in [
        "encap",
        "encap == 1",
        "!(encap == 0)",
        r#"encap.type == "geneve""#,
        "!rewrites",
        "rewrites != 1",
        r#"locality == "cross-node""#,
        r#"locality != {"same-node", "external"}"#,
        r#"tenant == "g*d""#,
        r#"age >= "10 s""#,
        r#"!(age > "10 s")"#,
        r#"rate >= "2 Mbit/s""#,
        r#"rate < "201 pkt/s""#,
        r#""1 s" < age < "1 min""#,
    ] {
        assert_eq!(truth(source, &subject), Always, "{source}");
    }
    assert!(compiled(r#"tcp && age > "1 s""#).depends_on_time());
    assert!(!compiled("tcp").depends_on_time());
}

#[test]
fn ovs_names_are_understood() {
    assert_eq!(truth("nw_src == 10.0.0.1 && tcp_dst == 443 && dl_type == 0x800", &web()), Always);
}

#[test]
fn comments_and_line_breaks_are_blanks() {
    assert_eq!(truth("tcp // the protocol\n && /* and */ tcp.dst == 443", &web()), Always);
}

#[test]
fn every_predicate_and_prerequisite_compiles_and_names_are_unique() {
    let mut names: Vec<&str> = fields::names().collect();
    for field in fields::FIELDS {
        if let fields::Kind::Predicate(meaning) = field.kind {
            compiled(meaning);
            compiled(field.name);
            compiled(&alloc::format!("!{}", field.name));
        }
        if !field.needs.is_empty() {
            compiled(field.needs);
        }
        if let fields::Kind::Bits { header, low, width, .. } = field.kind {
            assert!(low + width <= header.width(), "{}", field.name);
        }
    }
    names.sort_unstable();
    let all = names.len();
    names.dedup();
    assert_eq!(names.len(), all);
}

#[test]
fn an_unknown_field_is_shown_with_the_nearest_one() {
    assert_eq!(
        refused("ip4.src == 10.0.0.1 &&\n  tcp.dest == 80"),
        "policy.toml:2:3: there is no field \"tcp.dest\"\n  \
         2 |   tcp.dest == 80\n  \
         \x20 |   ^^^^^^^^ did you mean \"tcp.dst\"?\n"
    );
    assert!(refused("zzz_top == 1").ends_with("^^^^^^^ see the list of fields in docs/policy.md\n"));
}

#[test]
fn the_caret_stands_under_what_is_wrong_wherever_the_condition_begins() {
    let source = r#"inport == "ä" && udp.dst == 70000"#;
    let error = Match::compile(source, &sets()).expect_err("too wide");
    assert_eq!(
        error.render(source, Origin { file: "policy.toml", line: 7, column: 10 }),
        "policy.toml:7:38: udp.dst has 16 bits, and this value has more\n  \
         7 | inport == \"ä\" && udp.dst == 70000\n  \
         \x20 |                             ^^^^^\n"
    );
}

#[test]
fn every_mistake_has_its_own_sentence() {
    for (source, message) in [
        ("", "expected a field, a value, ! or (, found the end"),
        ("tcp udp", "expected &&, || or the end, found \"udp\""),
        ("(tcp", "expected &&, || or ), found the end"),
        ("tcp.dst = 80", "\"=\" compares nothing"),
        ("tcp && udp || arp", "&& and || need parentheses when used together"),
        ("!tcp.dst == 80", "! needs parentheses around a comparison"),
        ("1 < tcp.dst > 2", "a range has the form x < field < y or x > field > y (or with <= and >=)"),
        ("tcp.dst", "tcp.dst has to be compared with something"),
        ("tcp.dst == \"web\"", "tcp.dst takes a number, not a quoted text"),
        ("ip4.src == fd00::1", "ip4.src takes an IPv4 address, not an IPv6 address"),
        ("ip4.src == 10.0.0.1/8", "10.0.0.1/8 has bits set that its mask leaves out"),
        ("ip4.src == 10.0.0.0/33", "\"10.0.0.0/33\" is no number and no address"),
        (
            "ip4.src == 10.0.0.0/0xff000000",
            "in \"10.0.0.0/0xff000000\" the mask is written in another way than the value",
        ),
        ("ip4.src < 10.0.0.0/8", "< makes no sense for a value with a mask: only == and != do"),
        ("tcp.dst > {80, 90}", "> makes no sense for a set of values: only == and != do"),
        ("inport < \"a\"", "< makes no sense for a text: only == and != do"),
        ("inport == tap0", "expected a value (names go in quotes), found \"tap0\""),
        ("inport == 5", "inport takes a quoted text, not a number"),
        ("tcp.dst[8..16] == 1", "tcp.dst has the bits 0 to 15, the lower one first"),
        ("inport[0] == 1", "inport has no bits to select"),
        ("tcp == 2", "tcp takes 1 or 0, not another value"),
        ("ip4.src == $bakends", "there is no address set \"$bakends\""),
        ("ip4.src == $gateways", "ip4.src takes an IPv4 address, and there is none in \"$gateways\""),
        (
            "locality == \"same_node\"",
            "locality is one of \"same-node\", \"cross-node\", \"external\", \"unknown\"",
        ),
        ("age > \"10\"", "\"10\" is no age"),
        ("rate > \"10 s\"", "\"10 s\" is no rate"),
        (
            "rate > {\"1 kbit/s\"}",
            "rate takes a rate in quotes, such as \"2 Mbit/s\" or \"500 pkt/s\", not a set of values",
        ),
        ("inport == \"tap", "this quoted text does not end"),
        ("inport == \"a\\n\"", "a backslash stands only before \", \\, * and ?"),
        ("tcp /* no end", "this comment does not end"),
        ("tcp & udp", "unexpected character '&'"),
        ("ip.ttl == 010", "\"010\" is no number and no address"),
        ("ip4.src == $", "expected a name after \"$\", found the end"),
        ("tcp.dst[0..200]", "expected a bit number from 0 to 127, found 200"),
    ] {
        let rendered = refused(source);
        let first = rendered.lines().next().unwrap_or("");
        assert_eq!(first.splitn(4, ':').nth(3).map(str::trim_start), Some(message), "{source}");
    }
}

#[test]
fn advice_says_what_to_write_instead() {
    for (source, advice) in [
        ("ip4.src == 10.0.0.1/8", "write 10.0.0.0/8"),
        ("tcp.dst = 80", "write \"==\""),
        ("ip4.src == $bakends", "did you mean \"$backends\"?"),
        ("locality == \"same_node\"", "did you mean \"same-node\"?"),
        ("ip4.src", "write for example: == 10.0.0.0/8"),
        ("TCP.DST == 80", "did you mean \"tcp.dst\"?"),
    ] {
        let rendered = refused(source);
        assert!(rendered.trim_end().ends_with(advice), "{rendered}");
    }
}

#[test]
fn input_is_bounded() {
    let deep = "(".repeat(NESTING_MAX + 1) + "tcp" + &")".repeat(NESTING_MAX + 1);
    assert!(refused(&deep).contains("nested too deeply"));
    assert!(refused(&("!".repeat(NESTING_MAX + 1) + "tcp")).contains("nested too deeply"));
    compiled(&("!".repeat(NESTING_MAX) + "tcp"));
    assert!(refused(&" ".repeat(SOURCE_BYTES_MAX + 1)).contains("too many bytes"));
    let many = alloc::vec!["nd.sll == 1"; 3_000].join("||");
    assert!(many.len() < SOURCE_BYTES_MAX);
    assert!(refused(&many).contains("too many tests"));
    let mut large = AddressSets::new();
    large.insert("all", core::iter::repeat_n("10.0.0.1", VALUES_MAX)).expect("just as many as may be");
    let error = Match::compile("ip4.src == {$all, 10.0.0.2}", &large).expect_err("one too many");
    assert_eq!(error.problem, Problem::TooLarge { what: "values", max: VALUES_MAX });
}

#[test]
fn the_trace_says_what_each_test_saw() {
    let mut subject = web();
    subject.inport.name = Some("tap0");
    let condition = compiled(r#"tcp.src == 80 && (ip4.dst == 10.1.2.0/24 || inport == "tap1")"#);
    let trace = condition.trace(&subject);
    assert_eq!(trace.truth, Sometimes);
    let written: Vec<String> =
        trace.tests.iter().filter(|test| !test.implied).map(ToString::to_string).collect();
    assert_eq!(
        written,
        [
            "sometimes  tcp.src == 80: tcp.src is any",
            "sometimes  ip4.dst == 10.1.2.0/24: ip4.dst is 10.1.0.0/16",
            "never      inport == \"tap1\": inport is \"tap0\"",
        ]
    );
    let implied: Vec<String> =
        trace.tests.iter().filter(|test| test.implied).map(ToString::to_string).collect();
    assert_eq!(implied, ["always     tcp (implied)", "always     ip4 (implied): eth.type is 0x800"]);
}

#[test]
fn a_predicate_that_fails_is_shown_with_what_made_it_fail() {
    let mut udp = web();
    udp.set_exact(Header::IpProto, 17);
    let condition = compiled("tcp.dst == 443 || icmp");
    let tests: Vec<String> = condition.trace(&udp).tests.iter().map(ToString::to_string).collect();
    assert_eq!(
        tests,
        [
            "never      tcp (implied): ip.proto is 17",
            "always     tcp.dst == 443: tcp.dst is 443",
            "never      icmp: ip.proto is 17"
        ]
    );
}

#[test]
fn an_address_set_with_a_wrong_address_changes_nothing() {
    let mut sets = sets();
    let before = sets.clone();
    let (at, _) = sets.insert("backends", ["10.0.0.1", "10.0.0.256"]).expect_err("no address");
    assert_eq!(at, 1);
    assert_eq!(sets, before);
}

#[test]
fn every_header_is_listed_once_and_in_order() {
    assert!(Header::all().enumerate().all(|(index, header)| header as usize == index));
    assert_eq!(Header::all().count(), Header::COUNT);
}

#[test]
fn a_locality_that_cannot_be_told_is_certain_to_be_unknown_and_may_be_any_other() {
    let unknown = Subject::default();
    let mut known = Subject::default();
    known.locality = Locality::External;
    for (source, if_unknown, if_external) in [
        (r#"locality == "same-node""#, Truth::Sometimes, Truth::Never),
        (r#"locality != "same-node""#, Truth::Sometimes, Truth::Always),
        (r#"locality == {"same-node", "external"}"#, Truth::Sometimes, Truth::Always),
        (r#"locality == "unknown""#, Truth::Always, Truth::Never),
        (r#"locality != {"same-node", "unknown"}"#, Truth::Never, Truth::Always),
        (r#"locality == "*""#, Truth::Always, Truth::Always),
    ] {
        let condition = Match::compile(source, &AddressSets::new()).expect("a condition");
        assert_eq!(condition.evaluate(&unknown), if_unknown, "{source}");
        assert_eq!(condition.evaluate(&known), if_external, "{source}");
    }
}
