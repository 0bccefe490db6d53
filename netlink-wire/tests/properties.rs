//! What holds of every codec: what is written is read as the same, and no bytes make a decoder panic.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use netlink_wire::genl::{self, FamilyId, FamilyReport};
use netlink_wire::message::{NLMSG_HDRLEN, flags};
use netlink_wire::ovs_datapath::Datapath;
use netlink_wire::ovs_flow::{self, FlowCounters, Megaflow, Omit};
use netlink_wire::ovs_vport::Vport;
use netlink_wire::{
    Attr, Attrs, Family, Ifindex, Message, MessageWriter, Messages, Seq, TooLong, Ufid, devlink, ethtool,
    link, ovs_datapath, ovs_vport,
};
use proptest::collection::vec;
use proptest::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Tree {
    Leaf(u16, Vec<u8>),
    Nest(u16, Vec<Tree>),
}

fn tree() -> impl Strategy<Value = Tree> {
    let leaf = (0u16..0x3fff, vec(any::<u8>(), 0..40)).prop_map(|(kind, bytes)| Tree::Leaf(kind, bytes));
    leaf.prop_recursive(4, 40, 6, |inner| {
        (0u16..0x3fff, vec(inner, 0..6)).prop_map(|(kind, trees)| Tree::Nest(kind, trees))
    })
}

fn put(writer: &mut MessageWriter, trees: &[Tree]) {
    for tree in trees {
        match tree {
            Tree::Leaf(kind, bytes) => writer.put(*kind, bytes),
            Tree::Nest(kind, trees) => writer.nest(*kind, |writer| put(writer, trees)),
        }
    }
}

fn read(attrs: Attrs<'_>) -> Vec<Tree> {
    let read_one = |attr: Attr<'_>| match attr.is_marked_nested() {
        true => Tree::Nest(attr.kind(), read(attr.nested())),
        false => Tree::Leaf(attr.kind(), attr.payload().to_vec()),
    };
    attrs.map(|attr| read_one(attr.unwrap())).collect()
}

/// A bit beyond those of any kernel.
const BIT: ethtool::FeatureBit = ethtool::FeatureBit(77);

/// Everything that can be read of bytes.
fn decode_all(bytes: &[u8]) {
    let _ = netlink_wire::uevent::Uevent::decode(bytes);
    for message in Messages::new(bytes).flatten() {
        let _ = message.control();
        let _ = FamilyReport::decode(&message);
        let _ = Datapath::decode(&message);
        let _ = Vport::decode(&message);
        let _ = link::Link::decode(&message);
        let _ = devlink::Report::decode(&message);
        let _ = ethtool::Features::decode(&message);
        let _ = ethtool::FeatureBits::decode(&message).map(|bits| bits.map(|bits| bits.feature(BIT)));
        let _ = ethtool::FeatureBit::find(&message, ethtool::HW_TC_OFFLOAD);
        let _ = genl::FamilyEvent::decode(&message);
        let counters = FlowCounters::decode(&message);
        let flow = Megaflow::decode(&message);
        if let (Ok(counters), Ok(flow)) = (counters, flow) {
            assert_eq!(counters, flow.counters);
            show(&flow);
        }
    }
}

fn show(flow: &Megaflow<'_>) {
    if let Some(keys) = &flow.keys {
        assert!(!keys.to_string().contains('\n'));
    }
    if let Some(actions) = &flow.actions {
        assert!(!actions.to_string().is_empty());
        actions.visit(&mut |_| {});
    }
}

/// A message of a generic netlink family, with random attributes of the numbers it uses.
fn genl_message(commands: u8, attrs: u16, inner: u16) -> impl Strategy<Value = Vec<u8>> {
    let leaf = (0..inner, vec(any::<u8>(), 0..50)).prop_map(|(kind, bytes)| Tree::Leaf(kind, bytes));
    let nest = leaf.prop_recursive(5, 60, 8, move |tree| {
        (0..inner, vec(tree, 0..8)).prop_map(|(kind, trees)| Tree::Nest(kind, trees))
    });
    let top = (1..attrs, vec(nest, 0..10)).prop_map(|(kind, trees)| Tree::Nest(kind, trees));
    (0..commands, vec(top, 0..8)).prop_map(|(number, trees)| {
        let command = genl::Command { number, version: 1 };
        let mut writer = genl::request(FamilyId(30), command, 0, Seq(0));
        writer.fixed(&7u32.to_ne_bytes());
        put(&mut writer, &trees);
        writer.finish().unwrap()
    })
}

proptest! {
    #[test]
    fn attributes_that_are_written_are_read_as_the_same(trees in vec(tree(), 0..8), kind: u16, seq: u32) {
        let mut writer = MessageWriter::new(kind, flags::REQUEST, Seq(seq));
        put(&mut writer, &trees);
        let bytes = writer.finish().unwrap();
        prop_assert_eq!(bytes.len() % 4, 0);
        let message = Message::first(&bytes).unwrap();
        prop_assert_eq!((message.header.kind, message.header.seq), (kind, Seq(seq)));
        prop_assert_eq!(message.payload.len() + NLMSG_HDRLEN, bytes.len());
        prop_assert_eq!(read(Attrs::new(message.payload, Family::Netlink, 0)), trees);
    }

    #[test]
    fn a_ufid_is_read_from_its_own_text(bytes: [u8; 16]) {
        let ufid = Ufid::from_bytes(bytes);
        prop_assert_eq!(ufid.to_string().parse(), Ok(ufid));
        prop_assert_eq!(ufid.to_string().trim_start_matches("ufid:").parse(), Ok(ufid));
    }

    #[test]
    fn no_bytes_make_a_decoder_panic(bytes in vec(any::<u8>(), 0..600)) {
        decode_all(&bytes);
    }

    #[test]
    fn no_random_megaflow_makes_the_decoder_panic(bytes in genl_message(5, 12, 34)) {
        decode_all(&bytes);
    }

    #[test]
    fn no_random_devlink_message_makes_the_decoder_panic(bytes in genl_message(32, 170, 8)) {
        decode_all(&bytes);
    }

    // Nests of 63 in 64 in 63, as resources have, and what else devlink has since.
    #[test]
    fn no_random_devlink_message_of_today_makes_the_decoder_panic(bytes in genl_message(56, 170, 170)) {
        decode_all(&bytes);
    }

    #[test]
    fn no_random_features_make_the_decoder_panic(bytes in genl_message(14, 6, 6)) {
        decode_all(&bytes);
    }

    #[test]
    fn a_device_event_is_read_as_it_was_written(path in "(/[a-z0-9:.]{1,12}){1,6}", subsystem in "[a-z]{1,9}") {
        let text = format!("add@{path}\0ACTION=add\0DEVPATH={path}\0SUBSYSTEM={subsystem}\0SEQNUM=9\0");
        let event = netlink_wire::uevent::Uevent::decode(text.as_bytes()).unwrap();
        prop_assert_eq!((event.path, event.subsystem), (&*path, &*subsystem));
        prop_assert!(path.ends_with(event.device()));
    }

    #[test]
    fn offsets_in_a_malformed_message_are_inside_of_it(bytes in vec(any::<u8>(), 16..200)) {
        for message in Messages::new(&bytes) {
            if let Err(malformed) = message.and_then(|message| Megaflow::decode(&message).map(|_| ())) {
                prop_assert!(malformed.offset <= bytes.len(), "{malformed}");
            }
        }
    }
}

#[test]
fn a_payload_longer_than_its_length_field_is_an_error_and_not_cut() {
    let mut writer = MessageWriter::new(1, 0, Seq(0));
    writer.put(5, &vec![0; 65_532]);
    writer.put_u32(6, 1);
    assert_eq!(writer.finish(), Err(TooLong { attr: 5 }));
    let mut writer = MessageWriter::new(1, 0, Seq(0));
    writer.put(5, &vec![0; 65_531]);
    assert!(writer.finish().is_ok());
    let mut writer = MessageWriter::new(1, 0, Seq(0));
    writer.nest(9, |writer| (0..3).for_each(|kind| writer.put(kind, &vec![0; 30_000])));
    assert_eq!(writer.finish(), Err(TooLong { attr: 9 }));
}

#[test]
fn every_request_is_one_whole_message() {
    let (family, dp, seq) = (FamilyId(30), Ifindex(4), Seq(9));
    let handle: devlink::Handle = "pci/0000:03:00.0".parse().unwrap();
    let requests = [
        genl::get_family("ovs_flow", seq),
        ovs_datapath::dump(family, seq),
        ovs_vport::dump(family, dp, seq),
        ovs_flow::dump(family, dp, Omit::ALL, seq),
        ovs_flow::get(family, dp, Ufid::default(), Omit::default(), seq),
        link::dump(seq),
        link::get(dp, seq),
        link::get_by_name("eth0", seq).unwrap(),
        devlink::dump_instances(family, seq),
        devlink::dump_ports(family, seq),
        devlink::get_eswitch(family, &handle, seq).unwrap(),
        devlink::set_eswitch_mode(family, &handle, devlink::EswitchMode::Switchdev, seq).unwrap(),
        devlink::dump_health(family, seq),
        devlink::dump_info(family, seq),
        devlink::dump_resources(family, &handle, seq).unwrap(),
        ethtool::get_features(family, dp, seq),
        ethtool::get_feature_bits(family, dp, seq),
        ethtool::dump_feature_bits(family, seq),
        ethtool::get_feature_names(family, seq),
        ethtool::set_feature(family, dp, ethtool::HW_TC_OFFLOAD, true, seq).unwrap(),
    ];
    for bytes in &requests {
        let messages: Vec<_> = Messages::new(bytes).collect::<Result<_, _>>().unwrap();
        assert_eq!(messages.len(), 1);
        assert_eq!(messages[0].header.seq, seq);
        assert_eq!(messages[0].header.flags & flags::REQUEST, flags::REQUEST);
    }
}

#[test]
fn resources_within_resources_without_end_are_refused() {
    // DEVLINK_ATTR_RESOURCE in DEVLINK_ATTR_RESOURCE_LIST, and so on.
    let command = genl::Command { number: 36, version: 1 };
    let mut writer = genl::request(FamilyId(30), command, 0, Seq(0));
    writer.put_text(1, "pci");
    writer.put_text(2, "0000:03:00.0");
    let nests: Vec<_> = (0..40).map(|depth| writer.begin(63 + depth % 2)).collect();
    nests.into_iter().rev().for_each(|nest| writer.end(nest));
    let bytes = writer.finish().unwrap();
    let error = devlink::Report::decode(&Message::first(&bytes).unwrap()).unwrap_err();
    assert_eq!(error.why, netlink_wire::Why::TooMany);
}

#[test]
fn nesting_without_end_is_refused() {
    // OVS_ACTION_ATTR_CLONE in OVS_ACTION_ATTR_CLONE, a hundred times, in OVS_FLOW_ATTR_ACTIONS.
    let mut writer = genl::request(FamilyId(30), genl::Command { number: 1, version: 1 }, 0, Seq(0));
    writer.fixed(&[0; 4]);
    let actions = writer.begin(2);
    let nests: Vec<_> = (0..100).map(|_| writer.begin(20)).collect();
    nests.into_iter().rev().for_each(|nest| writer.end(nest));
    writer.end(actions);
    let bytes = writer.finish().unwrap();
    let error = Megaflow::decode(&Message::first(&bytes).unwrap()).unwrap_err();
    assert_eq!(error.why, netlink_wire::Why::TooMany);
}
