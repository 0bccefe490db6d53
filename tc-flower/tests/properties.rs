//! What holds of every filter: nothing that is read is lost when it is written, and no bytes make a decoder panic.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use netlink_wire::message::flags;
use netlink_wire::{Attr, Attrs, Family, Malformed, Masked, Message, MessageWriter, Messages, Seq};
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;
use std::net::{Ipv4Addr, Ipv6Addr};
use tc_flower::action::{
    Csum, CsumFlags, Ct, CtFlags, CtHelper, Direction, Gact, GactProbability, GeneveOption, Mirred,
    MirredTarget, Mpls, MplsCommand, Pedit, PeditCommand, PeditHeader, PeditKey, Police, RateSpec, Sample,
    Skbedit, TunnelKey, TunnelOptions, TunnelSet, Vlan,
};
use tc_flower::keys::{GeneveOptionKey, TunnelOptionKeys};
use tc_flower::{
    Action, ActionFlags, ActionIndex, ActionKind, BlockIndex, Chain, Control, Cookie, EtherType, Filter,
    FilterAddress, FilterCounters, FilterFlags, FilterReport, Handle, Hook, HwStats, Ifindex, Location,
    MacAddr, Match, Prio, ReplaceActions, TcEvent, display, request,
};

fn decode(bytes: &[u8]) -> Result<FilterReport, Malformed> {
    match TcEvent::decode(&Message::first(bytes)?)? {
        TcEvent::Filter(report) => Ok(*report),
        other => panic!("not a filter: {other:?}"),
    }
}

// --- keys ---------------------------------------------------------------------------------------------------------

/// Every key with a mask: value attribute, mask attribute, length.
const MASKED: [(u16, u16, usize); 40] = [
    (4, 5, 6),
    (6, 7, 6),
    (10, 11, 4),
    (12, 13, 4),
    (14, 15, 16),
    (16, 17, 16),
    (18, 35, 2),
    (19, 36, 2),
    (20, 37, 2),
    (21, 38, 2),
    (41, 39, 2),
    (42, 40, 2),
    (27, 28, 4),
    (29, 30, 4),
    (31, 32, 16),
    (33, 34, 16),
    (43, 44, 2),
    (45, 46, 2),
    (47, 48, 4),
    (49, 50, 1),
    (51, 52, 1),
    (53, 54, 1),
    (55, 56, 1),
    (57, 58, 4),
    (59, 60, 4),
    (61, 62, 1),
    (63, 64, 6),
    (65, 66, 6),
    (71, 72, 2),
    (73, 74, 1),
    (75, 76, 1),
    (80, 81, 1),
    (82, 83, 1),
    (91, 92, 2),
    (93, 94, 2),
    (95, 96, 4),
    (97, 98, 16),
    (100, 101, 4),
    (108, 109, 4),
    (110, 111, 4),
];
/// Every key without one: attribute, length. `TCA_FLOWER_KEY_ETH_TYPE` (8) is not here: see `vlan_types_are_settled`.
const EXACT: [(u16, usize); 23] = [
    (9, 1),
    (23, 2),
    (24, 1),
    (25, 2),
    (26, 4),
    (67, 1),
    (68, 1),
    (69, 1),
    (70, 4),
    (77, 2),
    (78, 1),
    (79, 2),
    (87, 2),
    (88, 2),
    (89, 2),
    (90, 2),
    (102, 1),
    (103, 2),
    (104, 2),
    (105, 4),
    (106, 1),
    (1, 4),
    (22, 4),
];

type AttrBytes = (u16, Vec<u8>);

fn key_attributes() -> impl Strategy<Value = Vec<AttrBytes>> {
    let masked = proptest::sample::subsequence(MASKED.to_vec(), 0..=MASKED.len());
    let exact = proptest::sample::subsequence(EXACT.to_vec(), 0..=EXACT.len());
    (masked, exact, vec(any::<u8>(), 1024), any::<bool>()).prop_map(|(masked, exact, noise, mask_first)| {
        let mut noise = noise.into_iter().cycle();
        let mut bytes = |length: usize| noise.by_ref().take(length).collect::<Vec<_>>();
        let mut attrs = Vec::new();
        for (value, mask, length) in masked {
            let pair = [(value, bytes(length)), (mask, bytes(length))];
            attrs.extend(if mask_first { [pair[1].clone(), pair[0].clone()] } else { pair });
        }
        attrs.extend(exact.into_iter().map(|(attr, length)| match attr {
            22 => (attr, FilterFlags::SKIP_HW.0.to_ne_bytes().to_vec()),
            _ => (attr, bytes(length)),
        }));
        attrs
    })
}

fn report_with(attrs: &[AttrBytes]) -> Vec<u8> {
    let mut writer = MessageWriter::new(request::RTM_NEWTFILTER, 0, Seq(0));
    let mut header = [0; 20];
    header[4] = 1;
    header[8] = 1;
    header[12..16].copy_from_slice(&0xffff_fff2u32.to_ne_bytes());
    header[16..].copy_from_slice(&((2 << 16) | u32::from(0x0800u16.to_be())).to_ne_bytes());
    writer.fixed(&header);
    writer.put_text(1, "flower");
    writer.nest(2, |writer| attrs.iter().for_each(|(attr, bytes)| writer.put(*attr, bytes)));
    writer.finish().unwrap()
}

/// The attributes of `TCA_OPTIONS`, without the list of actions, in the order of their numbers.
fn options_of(message: &[u8]) -> Vec<AttrBytes> {
    let message = Message::first(message).unwrap();
    let (_, attrs) = message.split::<20>(Family::Tc).unwrap();
    let options = attrs.find(2).unwrap().unwrap();
    let mut attrs: Vec<_> = options
        .nested()
        .map(|attr| attr.unwrap())
        .map(|attr| (attr.kind(), attr.payload().to_vec()))
        .collect();
    attrs.retain(|(attr, _)| *attr != 3);
    attrs.sort();
    attrs
}

proptest! {
    #[test]
    fn every_key_that_is_read_is_written_byte_for_byte(attrs in key_attributes()) {
        let report = decode(&report_with(&attrs)).unwrap();
        prop_assert!(report.unknown.is_empty(), "{:?}", report.unknown);
        let filter = Filter {
            address: report.address,
            flags: report.flags,
            class_id: report.class_id,
            indev: report.indev.clone(),
            keys: report.keys.clone(),
            actions: Vec::new(),
        };
        let written = request::replace(&filter, ReplaceActions::Fresh, Seq(0)).unwrap();
        let mut expected = attrs;
        expected.sort();
        if !expected.iter().any(|(attr, _)| *attr == 22) {
            expected.push((22, 0u32.to_ne_bytes().to_vec()));
            expected.sort();
        }
        prop_assert_eq!(options_of(&written), expected);
        prop_assert!(!report.keys.to_string().is_empty());
    }

    #[test]
    fn an_attribute_without_a_name_here_is_listed_and_makes_the_filter_irreplaceable(
        attr in prop_oneof![Just(99u16), Just(107), 112u16..1000],
        bytes in vec(any::<u8>(), 0..8),
    ) {
        let report = decode(&report_with(&[(attr, bytes)])).unwrap();
        prop_assert_eq!(&report.unknown, &[tc_flower::UnknownAttr::Flower(attr)]);
        let refusal = report.to_filter().unwrap_err();
        prop_assert_eq!(refusal, tc_flower::Unsupported::FilterAttribute(attr));
    }
}

// --- whole filters ------------------------------------------------------------------------------------------------

fn mac() -> impl Strategy<Value = MacAddr> {
    any::<[u8; 6]>().prop_map(MacAddr)
}

fn ethertype() -> impl Strategy<Value = EtherType> {
    any::<u16>().prop_map(EtherType)
}

fn vlan() -> impl Strategy<Value = Vlan> {
    prop_oneof![
        Just(Vlan::Pop),
        Just(Vlan::PopEth),
        (any::<u16>(), of(ethertype()), of(any::<u8>())).prop_map(|(id, protocol, prio)| Vlan::Push {
            id,
            protocol,
            prio
        }),
        (any::<u16>(), of(ethertype()), of(any::<u8>())).prop_map(|(id, protocol, prio)| Vlan::Modify {
            id,
            protocol,
            prio
        }),
        (mac(), mac()).prop_map(|(dst, src)| Vlan::PushEth { dst, src }),
    ]
}

fn mpls() -> impl Strategy<Value = Mpls> {
    let command = prop_oneof![
        Just(MplsCommand::Pop),
        Just(MplsCommand::Push),
        Just(MplsCommand::Modify),
        Just(MplsCommand::DecTtl),
        Just(MplsCommand::MacPush),
    ];
    (command, of(ethertype()), of(any::<u32>()), of(any::<u8>()), of(any::<u8>()), of(any::<u8>())).prop_map(
        |(command, protocol, label, tc, ttl, bos)| {
            let has_none = matches!(command, MplsCommand::Modify | MplsCommand::DecTtl);
            Mpls { command, protocol: protocol.filter(|_| !has_none), label, tc, ttl, bos }
        },
    )
}

fn geneve_option() -> impl Strategy<Value = GeneveOption> {
    (any::<u16>(), any::<u8>(), vec(any::<[u8; 4]>(), 1..8)).prop_map(|(class, kind, words)| GeneveOption {
        class,
        kind,
        data: words.concat(),
    })
}

fn tunnel_options() -> impl Strategy<Value = TunnelOptions> {
    prop_oneof![
        Just(TunnelOptions::None),
        vec(geneve_option(), 1..4).prop_map(TunnelOptions::Geneve),
        any::<u32>().prop_map(TunnelOptions::VxlanGbp),
    ]
}

fn tunnel_set() -> impl Strategy<Value = TunnelSet> {
    let addresses =
        (of(any::<Ipv4Addr>()), of(any::<Ipv4Addr>()), of(any::<Ipv6Addr>()), of(any::<Ipv6Addr>()));
    let rest = (of(any::<u16>()), of(any::<u8>()), of(any::<u8>()), of(any::<bool>()), any::<bool>());
    (of(any::<u32>()), addresses, rest, tunnel_options()).prop_map(
        |(id, (ipv4_src, ipv4_dst, ipv6_src, ipv6_dst), (dst_port, tos, ttl, no_csum, no_frag), options)| {
            TunnelSet {
                id,
                ipv4_src,
                ipv4_dst,
                ipv6_src,
                ipv6_dst,
                dst_port,
                tos,
                ttl,
                no_csum,
                no_frag,
                options,
            }
        },
    )
}

fn pedit() -> impl Strategy<Value = Pedit> {
    let header = prop_oneof![
        Just(PeditHeader::Network),
        Just(PeditHeader::Eth),
        Just(PeditHeader::Ipv4),
        Just(PeditHeader::Ipv6),
        Just(PeditHeader::Tcp),
        Just(PeditHeader::Udp),
    ];
    let command = prop_oneof![Just(PeditCommand::Set), Just(PeditCommand::Add)];
    let words = (any::<u32>(), any::<u32>(), any::<u32>(), any::<u32>());
    let key = (header, command, any::<[u8; 4]>(), any::<[u8; 4]>(), words).prop_map(
        |(header, command, keep, value, (offset, at, offset_mask, shift))| PeditKey {
            header,
            command,
            offset,
            keep,
            value,
            at,
            offset_mask,
            shift,
        },
    );
    (vec(key, 0..32), any::<u8>(), any::<bool>()).prop_map(|(mut keys, flags, legacy)| {
        if legacy {
            keys.iter_mut()
                .for_each(|key| (key.header, key.command) = (PeditHeader::Network, PeditCommand::Set));
        }
        Pedit { keys, flags, legacy }
    })
}

fn ct() -> impl Strategy<Value = Ct> {
    let marks = (
        of((any::<u32>(), any::<u32>()).prop_map(|(value, mask)| Masked::new(value, mask))),
        of((any::<[u8; 16]>(), any::<[u8; 16]>()).prop_map(|(value, mask)| Masked::new(value, mask))),
    );
    let v4 = (of(any::<Ipv4Addr>()), of(any::<Ipv4Addr>()));
    let v6 = (of(any::<Ipv6Addr>()), of(any::<Ipv6Addr>()));
    let ports = (of(any::<u16>()), of(any::<u16>()));
    let helper = of(("[a-z]{1,15}", of(any::<u8>()), of(any::<u8>()))
        .prop_map(|(name, family, proto)| CtHelper { name: name.into(), family, proto }));
    (any::<u16>(), of(any::<u16>()), marks, v4, v6, ports, helper).prop_map(
        |(flags, zone, (mark, labels), v4, v6, ports, helper)| Ct {
            flags: CtFlags(flags),
            zone,
            mark,
            labels,
            nat_ipv4_min: v4.0,
            nat_ipv4_max: v4.1,
            nat_ipv6_min: v6.0,
            nat_ipv6_max: v6.1,
            nat_port_min: ports.0,
            nat_port_max: ports.1,
            helper,
        },
    )
}

fn control() -> impl Strategy<Value = Control> {
    any::<i32>().prop_map(Control::from_number)
}

fn police() -> impl Strategy<Value = Police> {
    let rate = || (any::<[u8; 8]>(), any::<u32>()).prop_map(|(cell, rate)| RateSpec { cell, rate });
    let longs = (of(any::<u64>()), of(any::<u64>()), of(any::<u64>()), of(any::<u64>()));
    (any::<[u32; 3]>(), rate(), rate(), of(control()), of(any::<u32>()), longs).prop_map(
        |([limit, burst, mtu], rate, peak_rate, result, average_rate, longs)| Police {
            limit,
            burst,
            mtu,
            rate,
            peak_rate,
            result,
            average_rate,
            rate64: longs.0,
            peak_rate64: longs.1,
            packet_rate: longs.2,
            packet_burst: longs.3,
        },
    )
}

fn skbedit() -> impl Strategy<Value = Skbedit> {
    let words = (of(any::<u32>()), of(any::<u32>()), of(any::<u32>()));
    let halves = (of(any::<u16>()), of(any::<u16>()), of(any::<u16>()));
    (words, halves, of(any::<u64>())).prop_map(|(words, halves, flags)| Skbedit {
        priority: words.0,
        mark: words.1,
        mark_mask: words.2,
        queue: halves.0,
        queue_max: halves.1,
        packet_type: halves.2,
        flags,
    })
}

fn mirred() -> impl Strategy<Value = Mirred> {
    let target = prop_oneof![
        any::<u32>().prop_map(|ifindex| MirredTarget::Device(Ifindex(ifindex))),
        any::<u32>().prop_map(|block| MirredTarget::Block(BlockIndex(block))),
    ];
    (target, any::<bool>(), any::<bool>()).prop_map(|(target, egress, copy)| Mirred {
        target,
        direction: if egress { Direction::Egress } else { Direction::Ingress },
        copy,
    })
}

fn action_kind() -> impl Strategy<Value = ActionKind> {
    let probability = of((any::<u16>(), any::<u16>(), control())
        .prop_map(|(kind, value, control)| GactProbability { kind, value, control }));
    prop_oneof![
        mirred().prop_map(ActionKind::Mirred),
        probability.prop_map(|probability| ActionKind::Gact(Gact { probability })),
        vlan().prop_map(ActionKind::Vlan),
        mpls().prop_map(ActionKind::Mpls),
        Just(ActionKind::TunnelKey(TunnelKey::Release)),
        tunnel_set().prop_map(|set| ActionKind::TunnelKey(TunnelKey::Set(Box::new(set)))),
        pedit().prop_map(ActionKind::Pedit),
        any::<u32>().prop_map(|update| ActionKind::Csum(Csum { update: CsumFlags(update) })),
        ct().prop_map(|ct| ActionKind::Ct(Box::new(ct))),
        police().prop_map(ActionKind::Police),
        skbedit().prop_map(ActionKind::Skbedit),
        (any::<u32>(), of(any::<u32>()), any::<u32>())
            .prop_map(|(rate, truncate, group)| ActionKind::Sample(Sample { rate, truncate, group })),
    ]
}

fn action() -> impl Strategy<Value = Action> {
    let cookie = of(vec(any::<u8>(), 0..=16).prop_map(|bytes| Cookie::new(&bytes).unwrap()));
    let flags = prop_oneof![Just(ActionFlags::NONE), Just(ActionFlags::NO_PERCPU_STATS)];
    // Below the range of meters, which are subject to a check of their own.
    (action_kind(), control(), 0u32..0x1000_0000, cookie, flags, of((0u8..4).prop_map(HwStats))).prop_map(
        |(kind, control, index, cookie, flags, hw_stats)| Action {
            kind,
            control,
            index: ActionIndex(index),
            cookie,
            flags,
            hw_stats,
        },
    )
}

fn location() -> impl Strategy<Value = Location> {
    let hook = prop_oneof![Just(Hook::Ingress), Just(Hook::Egress), (1u32..0xffff).prop_map(Hook::Class)];
    prop_oneof![
        (1u32..0x7fff_ffff, hook)
            .prop_map(|(ifindex, hook)| Location::Device { ifindex: Ifindex(ifindex), hook }),
        any::<u32>().prop_map(|block| Location::Block(BlockIndex(block))),
    ]
}

fn option_keys() -> impl Strategy<Value = TunnelOptionKeys> {
    let masked16 = (any::<u16>(), any::<u16>()).prop_map(|(value, mask)| Masked::new(value, mask));
    let masked8 = (any::<u8>(), any::<u8>()).prop_map(|(value, mask)| Masked::new(value, mask));
    let data = vec(any::<[u8; 4]>(), 1..8).prop_flat_map(|words| {
        let length = words.len();
        (Just(words.concat()), vec(any::<[u8; 4]>(), length).prop_map(|words| words.concat()))
    });
    let key = (masked16, masked8, data).prop_map(|(class, kind, (data, data_mask))| GeneveOptionKey {
        class,
        kind,
        data,
        data_mask,
    });
    prop_oneof![
        Just(TunnelOptionKeys::None),
        vec(key, 1..4).prop_map(TunnelOptionKeys::Geneve),
        (any::<u32>(), any::<u32>())
            .prop_map(|(value, mask)| TunnelOptionKeys::VxlanGbp(Masked::new(value, mask))),
    ]
}

fn keys() -> impl Strategy<Value = Match> {
    (key_attributes(), option_keys()).prop_map(|(attrs, options)| {
        let mut keys = decode(&report_with(&attrs)).unwrap().keys;
        keys.tunnel.options = options;
        keys
    })
}

fn filter() -> impl Strategy<Value = Filter> {
    // Tagged packets, whose type is written and read in two ways, have a test of their own.
    let address = (location(), any::<u32>(), any::<u16>(), any::<u16>(), 1u32..).prop_map(
        |(location, chain, prio, protocol, handle)| FilterAddress {
            location,
            chain: Chain(chain),
            prio: Prio(prio),
            protocol: EtherType(if EtherType(protocol).is_vlan() { 0x0800 } else { protocol }),
            handle: Handle(handle),
        },
    );
    let flags = prop_oneof![Just(FilterFlags::NONE), Just(FilterFlags::SKIP_HW), Just(FilterFlags::VERBOSE)];
    let rest = (of(any::<u32>()), of("[a-z0-9]{1,15}"));
    (address, flags, rest, keys(), vec(action(), 0..6)).prop_map(|(address, flags, rest, keys, actions)| {
        Filter { address, flags, class_id: rest.0, indev: rest.1.map(Into::into), keys, actions }
    })
}

/// What was written, out of what is read of it. A request is no report: a shared action or a limited rate in it is no
/// reason, so that this does not go by [`FilterReport::to_filter`].
fn written(report: FilterReport) -> Filter {
    Filter {
        address: report.address,
        flags: report.flags,
        class_id: report.class_id,
        indev: report.indev,
        keys: report.keys,
        actions: report.actions.into_iter().map(|report| report.action).collect(),
    }
}

proptest! {
    #[test]
    fn a_filter_that_is_written_is_read_as_the_same(filter in filter()) {
        let bytes = request::replace(&filter, ReplaceActions::Kept, Seq(7)).unwrap();
        let report = decode(&bytes).unwrap();
        prop_assert_eq!(report.seq, Seq(7));
        prop_assert!(report.unknown.is_empty());
        prop_assert!(report.actions.iter().all(|action| action.unknown_attr.is_none()));
        prop_assert_eq!(written(report), filter);
    }

    #[test]
    fn a_fresh_replacement_differs_in_the_indices_of_actions_only(filter in filter()) {
        let bytes = request::replace(&filter, ReplaceActions::Fresh, Seq(7)).unwrap();
        let mut expected = filter;
        expected.actions.iter_mut().for_each(|action| action.index = ActionIndex(0));
        prop_assert_eq!(written(decode(&bytes).unwrap()), expected);
    }

    #[test]
    fn replacing_never_creates(filter in filter()) {
        for mode in [ReplaceActions::Fresh, ReplaceActions::Kept] {
            let bytes = request::replace(&filter, mode, Seq(1)).unwrap();
            let header = Message::first(&bytes).unwrap().header;
            prop_assert_eq!(header.flags, flags::REQUEST | flags::ACK);
        }
        let header = Message::first(&request::add(&filter, Seq(1)).unwrap()).unwrap().header;
        prop_assert!(header.flags & (flags::CREATE | flags::EXCLUSIVE) == flags::CREATE | flags::EXCLUSIVE);
    }

    #[test]
    fn a_filter_has_a_text_of_one_line(filter in filter()) {
        let actions = display::actions(filter.actions.iter(), &|ifindex, f| write!(f, "if{ifindex}")).to_string();
        let text = format!("{} {actions} {}", filter.keys, filter.address);
        prop_assert!(!text.contains('\n') && !actions.is_empty());
    }

    #[test]
    fn no_bytes_make_a_decoder_panic(bytes in vec(any::<u8>(), 0..512)) {
        decode_all(&bytes);
    }

    #[test]
    fn no_damage_to_a_filter_makes_a_decoder_panic(
        filter in filter(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
    ) {
        let mut bytes = request::replace(&filter, ReplaceActions::Kept, Seq(1)).unwrap();
        for (at, byte) in damage {
            let at = at.index(bytes.len() - 16) + 16;
            bytes[at] = byte;
        }
        decode_all(&bytes);
    }
}

/// Everything that can be read of bytes, and written again of what was read.
fn decode_all(bytes: &[u8]) {
    for message in Messages::new(bytes).flatten() {
        let _ = FilterCounters::decode(&message);
        let Ok(TcEvent::Filter(report)) = TcEvent::decode(&message) else { continue };
        let (_, _, _) = (report.ufid(), report.flow_stats(), report.idle_ms());
        let names = |ifindex: Ifindex, f: &mut std::fmt::Formatter<'_>| write!(f, "{ifindex}");
        let _ = display::actions(report.actions.iter().map(|report| &report.action), &names).to_string();
        if let Ok(filter) = report.to_filter() {
            let _ = request::replace(&filter, ReplaceActions::Fresh, Seq(1));
        }
    }
    Attrs::new(bytes, Family::Tc, 0)
        .flatten()
        .for_each(|attr: Attr<'_>| assert!(attr.offset() < bytes.len()));
}

#[test]
fn vlan_types_are_settled() {
    // A report of a tagged IPv4 packet: the type after all tags is in TCA_FLOWER_KEY_ETH_TYPE.
    let be = |number: u16| number.to_be_bytes().to_vec();
    let mut bytes = report_with(&[(8, be(0x0800)), (23, 5u16.to_ne_bytes().to_vec()), (25, be(0x0800))]);
    // tcm_info: priority 2, protocol 802.1Q.
    bytes[32..36].copy_from_slice(&((2 << 16) | u32::from(0x8100u16.to_be())).to_ne_bytes());
    let report = decode(&bytes).unwrap();
    assert_eq!(report.address.protocol, EtherType::VLAN);
    assert_eq!(report.keys.eth.ethertype, Some(EtherType::IPV4));
    assert_eq!(report.keys.vlan.id, Some(5));
    // A request has the tag's own type there.
    let request = request::replace(&report.to_filter().unwrap(), ReplaceActions::Fresh, Seq(1)).unwrap();
    assert!(options_of(&request).contains(&(8, be(0x8100))));
    assert!(options_of(&request).contains(&(25, be(0x0800))));
    assert_eq!(decode(&request).unwrap().keys, report.keys);
}
