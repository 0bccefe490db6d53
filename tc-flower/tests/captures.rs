//! The codec against what a kernel sent. Each capture says which command made it; `capture.py` makes them again.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../../netlink-wire/tests/hex/mod.rs"]
mod hex;

use hex::Capture;
use netlink_wire::{Control as Outcome, Errno, Message, Messages};
use std::net::{Ipv4Addr, Ipv6Addr};
use tc_flower::action::{
    CsumFlags, CtFlags, Direction, Mirred, MirredTarget, PeditCommand, PeditHeader, TunnelKey, TunnelOptions,
    Vlan,
};
use tc_flower::keys::{GeneveOptionKey, TunnelOptionKeys};
use tc_flower::{
    ActionFlags, ActionIndex, ActionKind, BlockIndex, Chain, Change, Control, Counters, EtherType, Filter,
    FilterCounters, FilterFlags, FilterReport, Handle, Hook, HwStats, Ifindex, Location, MacAddr, Masked,
    Prio, ReplaceActions, Seq, TcEvent, Ufid, Unsupported, display, request,
};

fn events(capture: &Capture) -> Vec<TcEvent> {
    let decode = |bytes: &Vec<u8>| TcEvent::decode(&Message::first(bytes).unwrap()).unwrap();
    capture.messages.iter().map(decode).collect()
}

fn reports(capture: &Capture) -> Vec<FilterReport> {
    let filter = |event| match event {
        TcEvent::Filter(report) => Some(*report),
        _ => None,
    };
    events(capture).into_iter().filter_map(filter).collect()
}

/// The only filter of a capture.
fn one(name: &str) -> FilterReport {
    let mut reports = reports(&hex::read(name));
    assert_eq!(reports.len(), 1, "{name}");
    reports.remove(0)
}

fn decode(bytes: &[u8]) -> FilterReport {
    match TcEvent::decode(&Message::first(bytes).unwrap()).unwrap() {
        TcEvent::Filter(report) => *report,
        other => panic!("not a filter: {other:?}"),
    }
}

fn text(report: &FilterReport) -> String {
    let names = |ifindex: Ifindex, f: &mut std::fmt::Formatter<'_>| write!(f, "if{ifindex}");
    let actions = report.actions.iter().map(|report| &report.action);
    format!("{} -> {}", report.keys, display::actions(actions, &names))
}

/// Everything but flags and indices, which a replacement changes.
fn rule(mut filter: Filter) -> Filter {
    filter.flags = FilterFlags::NONE;
    for action in &mut filter.actions {
        action.flags = action.flags & ActionFlags::NO_PERCPU_STATS;
        action.index = ActionIndex(if action.index.is_meter() { action.index.0 } else { 0 });
    }
    filter
}

/// Captures of filters that cannot be written back, and why.
fn irreplaceable(name: &str) -> Option<fn(&Unsupported) -> bool> {
    Some(match name {
        "act-unknown" => {
            |error| matches!(error, Unsupported::Action { position: 1, kind } if kind.name() == "simple")
        }
        "act-police-rate" => |error| matches!(error, Unsupported::PoliceRate { position: 1 }),
        "mpls-lse" => |error| *error == Unsupported::FilterAttribute(99),
        "vlans-only" => |error| *error == Unsupported::FilterAttribute(102),
        "matchall" => |error| *error == Unsupported::Classifier("matchall".into()),
        name if name.contains("terse") => |error| *error == Unsupported::TerseReport,
        _ => return None,
    })
}

#[test]
fn every_captured_filter_is_replaced_by_the_same_rule_or_refused_for_the_expected_reason() {
    let mut replaced = 0;
    for capture in hex::all() {
        if ["refused", "no-such-filter", "nic-refused", "nic-accepted"].contains(&&*capture.name) {
            continue;
        }
        let reports = reports(&capture);
        assert!(!reports.is_empty(), "{} has no filter", capture.name);
        for report in reports {
            match (report.to_filter(), irreplaceable(&capture.name)) {
                (Ok(filter), None) => {
                    let bytes = request::replace(&filter, ReplaceActions::Fresh, Seq(1)).unwrap();
                    assert_eq!(rule(decode(&bytes).to_filter().unwrap()), rule(filter), "{}", capture.name);
                    replaced += 1;
                }
                (Err(reason), Some(expected)) => assert!(expected(&reason), "{}: {reason}", capture.name),
                (result, _) => panic!("{}: {result:?}", capture.name),
            }
        }
    }
    assert!(replaced >= 60, "only {replaced} filters were replaced");
}

#[test]
fn every_capture_names_the_command_and_the_kernel_that_made_it() {
    let captures = hex::all();
    assert!(captures.len() >= 50);
    for capture in captures {
        assert!(capture.title.contains("\nkernel 6."), "{}: {}", capture.name, capture.title);
    }
}

#[test]
fn counters_read_alone_are_those_of_the_whole_report() {
    for capture in hex::all() {
        for (bytes, event) in capture.messages.iter().zip(events(&capture)) {
            let counters = FilterCounters::decode(&Message::first(bytes).unwrap()).unwrap();
            match event {
                TcEvent::Filter(report)
                    if report.change == Change::New && report.other_classifier.is_none() =>
                {
                    let counters = counters.unwrap();
                    assert_eq!(counters.stats, report.flow_stats());
                    assert_eq!((counters.address, counters.flags), (report.address, report.flags));
                    assert_eq!((counters.ufid, counters.in_hw_count), (report.ufid(), report.in_hw_count));
                }
                _ => assert_eq!(counters, None, "{}", capture.name),
            }
        }
    }
}

#[test]
fn keys_of_tcp_are_read_with_their_masks() {
    let report = one("tcp");
    let keys = &report.keys;
    assert_eq!(report.address.prio, Prio(2));
    assert_eq!(report.address.protocol, EtherType::IPV4);
    assert!(matches!(report.address.location, Location::Device { hook: Hook::Ingress, .. }));
    assert_eq!(keys.eth.src, Some(Masked::exact(MacAddr([2, 0, 0, 0, 0, 1]))));
    assert_eq!(keys.eth.dst, None);
    assert_eq!(keys.eth.ethertype, Some(EtherType::IPV4));
    assert_eq!(keys.ip.proto, Some(6));
    let net = Masked::new(Ipv4Addr::new(10, 0, 0, 0), Ipv4Addr::new(255, 255, 255, 0));
    assert_eq!(keys.ipv4.src.map(|src| (src.significant(), src.mask)), Some((net.value, net.mask)));
    assert_eq!(keys.ipv4.dst, Some(Masked::exact(Ipv4Addr::new(10, 1, 2, 3))));
    assert_eq!(keys.tcp.dst, Some(Masked::exact(80)));
    assert_eq!(keys.tcp.flags, Some(Masked::new(0x2, 0x17)));
    assert_eq!(keys.ip.tos, Some(Masked::new(0x10, 0xfc)));
    assert_eq!(keys.ip.ttl, Some(Masked::exact(64)));
    assert_eq!(keys.ip.flags, Some(Masked::new(0, 1)));
    assert_eq!(report.flags, FilterFlags::SKIP_HW | FilterFlags::NOT_IN_HW);
    assert_eq!(report.in_hw_count, Some(0));
    assert!(text(&report).starts_with(
        "eth(src=02:00:00:00:00:01),eth_type(0x0800),ipv4(src=10.0.0.0/24,dst=10.1.2.3),\
         ip(proto=6,tos=0x10/0xfc,ttl=64,frag=no),tcp(dst=80,flags=0x2/0x17) -> mirred egress redirect dev if"
    ));
}

#[test]
fn mirrors_and_redirects_are_told_apart() {
    let report = one("udp6");
    let mirreds: Vec<_> = report.actions.iter().map(|report| report.action.kind.clone()).collect();
    let [ActionKind::Mirred(first), ActionKind::Mirred(second)] = mirreds[..] else { panic!("{mirreds:?}") };
    assert!(first.copy && !second.copy);
    assert_ne!(first.target, second.target);
    assert_eq!(report.actions[0].action.control, Control::Pipe);
    assert_eq!(report.keys.ipv6.dst, Some(Masked::exact("2001:db8::2".parse::<Ipv6Addr>().unwrap())));
    assert_eq!(report.keys.udp.dst, Some(Masked::exact(4789)));
    let ingress = one("act-to-host");
    assert!(matches!(
        ingress.actions[1].action.kind,
        ActionKind::Mirred(Mirred { direction: Direction::Ingress, copy: false, .. })
    ));
    assert!(text(&ingress).contains("skbedit ptype host, mirred ingress redirect"));
}

#[test]
fn the_type_after_all_tags_is_reported_and_the_tags_own_type_requested() {
    for (name, protocol, inner) in [("vlan", EtherType::VLAN, 0x0800), ("qinq", EtherType::QINQ, 0x86dd)] {
        let report = one(name);
        assert_eq!(report.address.protocol, protocol);
        assert_eq!(report.keys.eth.ethertype, Some(EtherType(inner)));
        assert_eq!(report.keys.vlan.id, Some(100));
    }
    let keys = one("qinq").keys;
    assert_eq!((keys.cvlan.id, keys.cvlan.prio), (Some(200), Some(1)));
    assert_eq!(keys.vlan.ethertype, Some(EtherType::VLAN));
    assert_eq!(keys.cvlan.ethertype, Some(EtherType::IPV6));
}

#[test]
fn tunnel_options_are_read_with_their_masks() {
    let option = |class, kind, data: &[u8], data_mask: &[u8]| GeneveOptionKey {
        class: Masked::exact(class),
        kind: Masked::exact(kind),
        data: data.to_vec(),
        data_mask: data_mask.to_vec(),
    };
    let first = option(0x0102, 0x80, &[0, 1, 0, 2], &[0x7f, 0xff, 0xff, 0xff]);
    let tunnel = one("tunnel-geneve").keys.tunnel;
    assert_eq!(tunnel.header.id, Some(77));
    assert_eq!(tunnel.header.dst_port, Some(Masked::exact(6081)));
    assert_eq!(tunnel.options, TunnelOptionKeys::Geneve(vec![first.clone()]));
    let first = GeneveOptionKey { data_mask: vec![0xff; 4], ..first };
    let second = option(0x0103, 0x81, &[0xaa, 0xbb, 0xcc, 0xdd], &[0xff; 4]);
    let two = one("tunnel-geneve-two-options").keys.tunnel;
    assert_eq!(two.options, TunnelOptionKeys::Geneve(vec![first, second]));
    let vxlan = one("tunnel-vxlan-gbp").keys.tunnel;
    assert_eq!(vxlan.options, TunnelOptionKeys::VxlanGbp(Masked::new(1234, 65535)));
    let [unset, _] = &one("tunnel-vxlan-gbp").actions[..] else { panic!("two actions") };
    assert_eq!(unset.action.kind, ActionKind::TunnelKey(TunnelKey::Release));
}

#[test]
fn a_tunnel_to_send_through_is_read_with_its_options() {
    let report = one("act-tunnel-geneve");
    let ActionKind::TunnelKey(TunnelKey::Set(set)) = &report.actions[0].action.kind else {
        panic!("{report:?}")
    };
    assert_eq!((set.id, set.dst_port, set.tos, set.ttl), (Some(77), Some(6081), Some(0x10), Some(64)));
    assert_eq!(set.ipv4_dst, Some(Ipv4Addr::new(172, 16, 0, 2)));
    assert_eq!(set.no_csum, Some(false));
    let TunnelOptions::Geneve(options) = &set.options else { panic!("{set:?}") };
    assert_eq!((options.len(), options[1].class, options[1].kind), (2, 0x0103, 0x81));
    let report = one("act-tunnel-vxlan");
    let ActionKind::TunnelKey(TunnelKey::Set(set)) = &report.actions[0].action.kind else {
        panic!("{report:?}")
    };
    assert_eq!(
        (set.options.clone(), set.no_csum, set.no_frag),
        (TunnelOptions::VxlanGbp(1234), Some(true), true)
    );
}

#[test]
fn rewrites_and_checksums_are_read() {
    let report = one("act-pedit");
    let ActionKind::Pedit(pedit) = &report.actions[0].action.kind else { panic!("{report:?}") };
    assert!(!pedit.legacy);
    let ttl = pedit.keys.iter().find(|key| key.command == PeditCommand::Add).unwrap();
    assert_eq!((ttl.header, ttl.offset, ttl.value[0]), (PeditHeader::Ipv4, 8, 0xff));
    let port = pedit.keys.iter().find(|key| key.header == PeditHeader::Tcp).unwrap();
    assert_eq!((port.offset, port.value, port.keep), (0, [0, 0, 0x1f, 0x90], [0xff, 0xff, 0, 0]));
    let ActionKind::Csum(csum) = report.actions[1].action.kind else { panic!("{report:?}") };
    assert_eq!(csum.update, CsumFlags::IPV4 | CsumFlags::TCP);
}

#[test]
fn connection_tracking_is_read() {
    let keys = one("ct-keys").keys;
    assert_eq!(keys.ct.state, Some(Masked::new(0b00_1010, 0b10_1010)));
    assert_eq!(keys.ct.zone, Some(Masked::exact(7)));
    assert_eq!(keys.ct.mark, Some(Masked::new(0x12, 0xff)));
    assert!(keys.to_string().contains("ct_state(+est+trk-rpl),ct_zone(7),ct_mark(0x12/0xff)"), "{keys}");
    let report = one("act-ct-commit");
    let ActionKind::Ct(ct) = &report.actions[0].action.kind else { panic!("{report:?}") };
    assert_eq!(ct.flags, CtFlags::COMMIT | CtFlags::NAT | CtFlags::NAT_SRC);
    assert_eq!((ct.zone, ct.mark), (Some(5), Some(Masked::new(1, 0xf))));
    assert_eq!(ct.nat_ipv4_max, Some(Ipv4Addr::new(10, 0, 0, 9)));
    assert_eq!((ct.nat_port_min, ct.nat_port_max), (Some(1000), Some(2000)));
    assert!(report.ufid().is_some());
}

#[test]
fn a_chain_to_go_to_is_a_control() {
    let report = one("act-goto");
    assert_eq!(report.actions[1].action.control, Control::Goto(Chain(9)));
    assert!(text(&report).ends_with("ct(zone=5), gact goto chain 9"), "{}", text(&report));
    let jump = one("act-jump");
    assert_eq!(jump.actions[0].action.control, Control::Jump(1));
    let ActionKind::Police(police) = one("act-police-mtu").actions[0].action.kind else {
        panic!("no police")
    };
    assert_eq!((police.mtu, police.result), (1400, Some(Control::Pipe)));
}

#[test]
fn a_meter_keeps_its_index_and_its_placement() {
    let report = one("act-meter");
    assert_eq!(report.actions[0].action.index, ActionIndex(0x1000_0000));
    assert!(report.actions[0].is_standalone());
    let filter = report.to_filter().unwrap();
    let same = request::replace(&filter, ReplaceActions::Fresh, Seq(1)).unwrap();
    assert_eq!(decode(&same).actions[0].action.index, ActionIndex(0x1000_0000));
    assert_eq!(decode(&same).actions[1].action.index, ActionIndex(0));
    // Made with skip_hw, it serves no filter without.
    let promoted = Filter { flags: FilterFlags::VERBOSE, ..filter };
    let refusal = request::replace(&promoted, ReplaceActions::Fresh, Seq(1)).unwrap_err();
    assert_eq!(refusal, Unsupported::MeterPlacement { position: 1 });
    let free = one("act-meter-for-hardware").to_filter().unwrap();
    assert!(request::replace(&free, ReplaceActions::Fresh, Seq(1)).is_ok());
    let demoted = Filter { flags: FilterFlags::SKIP_HW, ..free };
    assert!(request::replace(&demoted, ReplaceActions::Kept, Seq(1)).is_err());
}

#[test]
fn flags_of_actions_and_the_policy_of_their_counters_are_kept() {
    let report = one("act-no-percpu");
    let action = &report.actions[0].action;
    assert!(action.flags.contains(ActionFlags::NO_PERCPU_STATS | ActionFlags::SKIP_HW));
    let cookie =
        [0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff];
    assert_eq!(report.ufid(), Some(Ufid::from_bytes(cookie)));
    let written =
        decode(&request::replace(&report.to_filter().unwrap(), ReplaceActions::Fresh, Seq(1)).unwrap());
    assert_eq!(written.actions[0].action.flags, ActionFlags::NO_PERCPU_STATS);
    assert_eq!(written.ufid(), report.ufid());
    assert_eq!(one("act-hw-stats").actions[0].action.hw_stats, Some(HwStats::DELAYED));
    assert_eq!(one("act-no-hw-stats").actions[0].action.hw_stats, Some(HwStats::NONE));
    assert_eq!(one("tcp").actions[0].action.hw_stats, None);
}

#[test]
fn a_filter_on_a_block_is_addressed_by_the_block() {
    let report = one("block");
    assert_eq!(report.address.location, Location::Block(BlockIndex(9)));
    let bytes = request::get(&report.address, Seq(1));
    assert_eq!(bytes[20..24], [0xff; 4]);
    assert_eq!(bytes[28..32], 9u32.to_ne_bytes());
    let egress = one("egress");
    assert!(matches!(egress.address.location, Location::Device { hook: Hook::Egress, .. }));
    let large = one("large-handle").address;
    assert_eq!(
        (large.chain, large.prio, large.handle),
        (Chain(268_435_455), Prio(65535), Handle(0xffff_fff0))
    );
}

#[test]
fn vlan_actions_are_read() {
    let report = one("act-vlan");
    let kinds: Vec<_> = report.actions.iter().map(|report| &report.action.kind).collect();
    let push = Vlan::Push { id: 100, protocol: Some(EtherType::QINQ), prio: Some(3) };
    assert_eq!(kinds[0], &ActionKind::Vlan(push));
    assert!(matches!(kinds[1], ActionKind::Vlan(Vlan::Modify { id: 7, .. })));
    assert_eq!(one("vlan").actions[0].action.kind, ActionKind::Vlan(Vlan::Pop));
}

#[test]
fn the_life_of_a_filter_is_told_in_order() {
    let told: Vec<_> = events(&hex::read("notifications"))
        .into_iter()
        .map(|event| match event {
            TcEvent::Filter(report) => (format!("filter {:?}", report.change), report.address.handle.0),
            TcEvent::Prio { change, address } => (format!("prio {change:?}"), u32::from(address.prio.0)),
            TcEvent::Chain { change, chain, .. } => (format!("chain {change:?}"), chain.0),
            TcEvent::Qdisc(qdisc) => (format!("qdisc {:?} {}", qdisc.change, qdisc.kind), 0),
            other => (format!("{other:?}"), 0),
        })
        .collect();
    let told: Vec<_> = told.iter().map(|(what, number)| (what.as_str(), *number)).collect();
    // A filter, its replacement and its deletion; then a priority deleted as a whole, then a chain, whose filters go
    // without a word of their own; then the qdisc.
    let expected = [
        ("chain New", 0),
        ("filter New", 1),
        ("filter New", 1),
        ("filter Deleted", 1),
        ("chain Deleted", 0),
        ("chain New", 0),
        ("filter New", 1),
        ("prio Deleted", 2),
        ("chain Deleted", 0),
        ("chain New", 7),
        ("filter New", 1),
        ("prio Deleted", 2),
        ("chain Deleted", 7),
        ("qdisc Deleted clsact", 0),
    ];
    assert_eq!(told, expected);
}

#[test]
fn a_refusal_has_its_number_and_its_reason() {
    let refused = hex::read("refused");
    let Some(Outcome::Answer(answer)) = Message::first(&refused.messages[0]).unwrap().control().unwrap()
    else {
        panic!("no answer")
    };
    assert_eq!(answer.errno, Some(Errno::EOPNOTSUPP));
    // Nothing but a driver knows a reason, and a veth has none.
    assert!(answer.extack.is_empty());
    let missing = hex::read("no-such-filter");
    let Some(Outcome::Answer(answer)) = Message::first(&missing.messages[0]).unwrap().control().unwrap()
    else {
        panic!("no answer")
    };
    assert_eq!(answer.errno, Some(Errno::ENOENT));
    assert_eq!(answer.extack.text.as_deref(), Some("Specified filter handle not found"));
}

#[test]
fn a_terse_dump_has_counters_cookies_and_flags_only() {
    let reports = reports(&hex::read("terse"));
    assert_eq!(reports.len(), 1);
    assert!(reports[0].is_terse() && reports[0].ufid().is_some());
    assert_eq!(reports[0].to_filter(), Err(Unsupported::TerseReport));
}

#[test]
fn what_open_vswitch_makes_is_understood_and_named_by_its_ufid() {
    let reports = reports(&hex::read("ovs"));
    assert!(reports.len() >= 5, "{}", reports.len());
    for report in &reports {
        assert!(report.ufid().is_some(), "{}", text(report));
        assert!(report.unknown.is_empty() && report.to_filter().is_ok(), "{}", text(report));
    }
    let has = |kind: &str| {
        reports
            .iter()
            .flat_map(|report| &report.actions)
            .any(|report| report.action.kind.name().name() == kind)
    };
    for kind in ["mirred", "gact", "pedit", "csum", "vlan", "tunnel_key", "police"] {
        assert!(has(kind), "no {kind}");
    }
    // A priority's own message, which a dump has before its filters, is no filter.
    let terse = hex::read("ovs-terse");
    let counted = terse
        .messages
        .iter()
        .filter_map(|bytes| FilterCounters::decode(&Messages::new(bytes).next().unwrap().unwrap()).unwrap());
    assert!(counted.clone().count() >= 3 && counted.clone().all(|counters| counters.ufid.is_some()));
    assert!(counted.clone().any(|counters| counters.stats.total() > Counters::default()));
    assert!(counted.count() < terse.messages.len());
}

#[test]
fn packets_of_hardware_and_of_software_are_counted_apart() {
    let reports = reports(&hex::read("in-hw"));
    let [hardware, software] = &reports[..] else { panic!("two filters") };
    assert!(hardware.is_in_hw() && hardware.in_hw_count == Some(1));
    assert!(!software.is_in_hw() && software.flags.contains(FilterFlags::SKIP_HW));
    let (stats, other) = (hardware.flow_stats(), software.flow_stats());
    assert_eq!((stats.hardware.packets, stats.software.packets), (3, 0));
    assert_eq!((other.hardware.packets, other.software.packets), (0, 2));
    assert_eq!(hardware.actions[0].action.hw_stats, Some(HwStats::DELAYED));
    assert!(hardware.actions[0].used_hw_stats.is_some());
    assert!(hardware.idle_ms().is_some());
    assert!(matches!(
        hardware.actions[0].action.kind,
        ActionKind::Mirred(Mirred { target: MirredTarget::Device(_), .. })
    ));
}

#[test]
fn a_successful_answer_has_the_drivers_reason() {
    let answer = |name| {
        let capture = hex::read(name);
        let messages: Vec<_> = capture.messages.iter().map(|bytes| Message::first(bytes).unwrap()).collect();
        match messages.last().unwrap().control().unwrap() {
            Some(Outcome::Answer(answer)) => answer,
            other => panic!("{other:?}"),
        }
    };
    let refused = answer("nic-refused");
    assert_eq!(refused.errno, Some(Errno::EOPNOTSUPP));
    let accepted = answer("nic-accepted");
    assert!(accepted.is_success());
    assert_eq!(accepted.extack.text, refused.extack.text);
    assert!(accepted.extack.text.is_some_and(|text| text.starts_with("simnic")));
}
