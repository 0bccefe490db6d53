//! What a rule is of one megaflow, and why there is none of another.

use crate::choices::Choices;
use crate::datapath::{self, Act, Megaflow};
use crate::packet::{self, Packet};
use crate::{UFID, ports};
use netlink_wire::ovs_flow::{FlowActions, FlowKeys};
use netlink_wire::{DpPort, Masked, Message, RecircId, Ufid};
use offload_engine::shadow::{self, Abilities, Done, Looked, Missing, Untranslatable};
use offload_engine::{PortFacts, PortKind};
use tc_flower::action::{Csum, CsumFlags, Mirred, TunnelKey};
use tc_flower::{ActionKind, Control, Filter};

const OUT: Act = Act::Output(2);

/// The first packet there is of a port: untagged TCP over IPv4, from 10.0.0.1 to 10.0.0.1, of port 80.
fn simple(port: u32) -> Packet {
    packet::draw(&mut Choices::replayed(&[]), port)
}

/// A megaflow that looks at everything of such packets.
fn told(port: u32, actions: Vec<Act>) -> (FlowKeys, FlowActions<'static>) {
    let megaflow = Megaflow { actions, ..datapath::exact(&simple(port)) };
    let bytes = datapath::message(&megaflow, UFID);
    let told =
        netlink_wire::ovs_flow::Megaflow::decode(&Message::first(&bytes).unwrap()).unwrap().into_owned();
    (told.keys.unwrap(), told.actions.unwrap())
}

fn translate(keys: &FlowKeys, actions: &FlowActions<'_>) -> Result<Filter, Untranslatable> {
    with(keys, actions, Abilities::ALL)
}

fn with(keys: &FlowKeys, actions: &FlowActions<'_>, kernel: Abilities) -> Result<Filter, Untranslatable> {
    let ports = ports();
    let find = |port: DpPort| ports.get(port.0 as usize);
    shadow::translate(Ufid::from_bytes(UFID), keys, actions, kernel, &find)
}

/// Why there is no rule for simple packets of `port` whose keys are changed so.
fn refused(port: u32, change: impl Fn(&mut FlowKeys)) -> Untranslatable {
    let (mut keys, actions) = told(port, vec![OUT]);
    translate(&keys, &actions).expect("a rule as it is");
    change(&mut keys);
    translate(&keys, &actions).expect_err("no rule when changed")
}

/// Why there is no rule with these actions.
fn refused_actions(port: u32, actions: Vec<Act>) -> Untranslatable {
    let (keys, actions) = told(port, actions);
    translate(&keys, &actions).expect_err("no rule")
}

#[test]
fn what_flower_has_no_key_for_is_refused_by_its_name() {
    let no = Untranslatable::NoKey;
    let exact = Some(Masked::exact(1));
    assert_eq!(refused(1, |keys| keys.priority = Some(Masked::exact(0))), no(Looked::Priority));
    assert_eq!(refused(1, |keys| keys.dp_hash = exact), no(Looked::DpHash));
    assert_eq!(refused(1, |keys| keys.ipv6_exthdrs = Some(Masked::exact(0))), no(Looked::Ipv6Extensions));
    assert_eq!(refused(1, |keys| keys.eth = None), no(Looked::PacketType));
    let recirculated = refused(1, |keys| keys.recirc_id = Some(Masked::exact(RecircId(5))));
    assert_eq!(recirculated, Untranslatable::Recirculated(RecircId(5)));
    assert_eq!(recirculated.to_string(), "it takes recirculated packets (recirc_id 0x5)");
}

#[test]
fn what_is_the_same_of_every_packet_in_a_nic_is_not_looked_at_and_anything_else_is_refused() {
    let (mut keys, actions) = told(1, vec![OUT]);
    keys.skb_mark = Some(Masked::exact(0));
    keys.ct_state = Some(Masked::new(0, 0x20));
    keys.ct_zone = Some(Masked::exact(0));
    keys.ct_mark = Some(Masked::exact(0));
    let plain = translate(&keys, &actions).unwrap();
    assert!(plain.keys.ct.is_empty());
    let no = Untranslatable::NoKey;
    assert_eq!(refused(1, |keys| keys.skb_mark = Some(Masked::exact(1))), no(Looked::Mark));
    assert_eq!(refused(1, |keys| keys.ct_state = Some(Masked::exact(0x20))), no(Looked::Connection));
    assert_eq!(refused(1, |keys| keys.ct_zone = Some(Masked::exact(1))), no(Looked::Connection));
    assert_eq!(refused(1, |keys| keys.ct_mark = Some(Masked::exact(1))), no(Looked::Connection));
    assert_eq!(refused(1, |keys| keys.ct_labels = Some(Masked::exact([1; 16]))), no(Looked::Connection));
    let tuple = |keys: &mut FlowKeys| {
        let src_port = Masked::exact(0);
        keys.ct_tuple_ipv4 =
            Some(netlink_wire::ovs_flow::keys::CtTupleIpv4Key { src_port, ..Default::default() });
    };
    assert_eq!(refused(1, tuple), no(Looked::Connection));
}

#[test]
fn a_field_that_flower_takes_whole_is_refused_in_part() {
    let partly = Untranslatable::Partly;
    let bits = |what| format!("it matches some bits of {what}, and flower takes all or none");
    let proto = refused(1, |keys| keys.ipv4.as_mut().unwrap().proto = Masked::new(6, 0x0f));
    assert_eq!((proto, proto.to_string()), (partly(Looked::IpProto), bits("the IP protocol")));
    assert_eq!(
        refused(1, |keys| keys.ipv4.as_mut().unwrap().frag = Masked::new(0, 0)),
        partly(Looked::Fragment)
    );
    assert_eq!(refused(1, |keys| keys.ethertype.as_mut().unwrap().mask.0 = 0xff), partly(Looked::EtherType));
    assert_eq!(refused(1, |keys| keys.in_port.as_mut().unwrap().mask.0 = 0xff), partly(Looked::InPort));
    assert_eq!(
        refused(4, |keys| keys.tunnel.as_mut().unwrap().id = Some(Masked::new(1, 0xff))),
        partly(Looked::TunnelId)
    );
}

#[test]
fn ports_need_their_protocol_and_a_whole_packet() {
    let without = refused(1, |keys| keys.ipv4.as_mut().unwrap().proto = Masked::ANY);
    assert_eq!(without, Untranslatable::NoKey(Looked::Transport));
    let fragment = refused(1, |keys| keys.ipv4.as_mut().unwrap().frag = Masked::exact(1));
    assert_eq!(fragment, Untranslatable::NoKey(Looked::TransportOfFragment));
}

#[test]
fn a_gre_packet_without_a_key_is_not_taken_for_one_with_key_0() {
    let (mut keys, actions) = told(6, vec![OUT]);
    let set_id = |keys: &mut FlowKeys, id| keys.tunnel.as_mut().unwrap().id = id;
    set_id(&mut keys, Some(Masked::exact(0)));
    assert_eq!(translate(&keys, &actions), Err(Untranslatable::NoKey(Looked::TunnelId)));
    set_id(&mut keys, Some(Masked::exact(9)));
    assert_eq!(translate(&keys, &actions).unwrap().keys.tunnel.header.id, Some(9));
    let (mut keys, actions) = told(4, vec![OUT]);
    set_id(&mut keys, Some(Masked::exact(0)));
    assert_eq!(translate(&keys, &actions).unwrap().keys.tunnel.header.id, Some(0));
    set_id(&mut keys, Some(Masked::exact(1 << 32)));
    assert_eq!(translate(&keys, &actions), Err(Untranslatable::NoKey(Looked::TunnelId)));
}

#[test]
fn an_older_kernel_is_not_asked_for_what_it_would_ignore() {
    let (keys, actions) = told(4, vec![OUT]);
    let old = Abilities { tunnel_flags: false, ..Abilities::ALL };
    assert_eq!(with(&keys, &actions, old), Err(Untranslatable::Kernel(Missing::TunnelFlags)));
    let mut through = packet::tunnel(&mut Choices::replayed(&[]), 4);
    through.df = true;
    let (keys, actions) = told(1, vec![Act::SetTunnel(through), Act::Output(4)]);
    translate(&keys, &actions).unwrap();
    let old = Abilities { tunnel_no_fragment: false, ..Abilities::ALL };
    assert_eq!(with(&keys, &actions, old), Err(Untranslatable::Kernel(Missing::TunnelNoFragment)));
}

#[test]
fn what_a_nic_does_not_do_is_refused_by_its_name() {
    let action = |attr: u16, payload: &[u8]| {
        let why = refused_actions(1, vec![Act::Other(attr, payload.to_vec()), OUT]);
        let Untranslatable::Action(done) = why else { panic!("{why:?}") };
        done
    };
    assert_eq!(action(2, &[]), Done::Userspace);
    assert_eq!(action(6, &[]), Done::Sample);
    assert_eq!(action(7, &[5, 0, 0, 0]), Done::Recirculate);
    assert_eq!(action(8, &[0; 8]), Done::Hash);
    assert_eq!(action(12, &[]), Done::Conntrack);
    assert_eq!(action(13, &[64, 0, 0, 0]), Done::Truncate);
    assert_eq!(action(14, &[0; 12]), Done::Ethernet);
    assert_eq!(action(19, &[1, 0, 0, 0]), Done::Meter);
    assert_eq!(action(20, &[]), Done::Clone);
    assert_eq!(action(21, &[]), Done::CheckLength);
    assert_eq!(action(22, &[0; 8]), Done::AddMpls);
    assert_eq!(action(200, &[1]), Done::Unknown(200));
    assert_eq!(refused_actions(1, vec![Act::Output(9)]), Untranslatable::UnknownPort(DpPort(9)));
    let many = refused_actions(1, vec![OUT; 33]);
    assert_eq!(many.to_string(), "it would take more than 32 actions");
}

#[test]
fn packets_of_this_host_are_none_of_a_nics() {
    let from_host = refused(1, |keys| keys.in_port = Some(Masked::exact(DpPort(0))));
    assert_eq!(from_host, Untranslatable::FromHost(DpPort(0)));
}

#[test]
fn a_tag_below_another_keeps_rewrites_out_and_labels_go_where_there_is_no_tag() {
    let ttl = Act::Set(
        7,
        vec![0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0],
        Some(vec![0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 0]),
    );
    let reserved = refused_actions(1, vec![Act::PushVlan(0x8100, 0x1fff), OUT]);
    assert_eq!(reserved, Untranslatable::Action(Done::Vlan), "the action `vlan` takes no id 4095");
    let tag = Act::PushVlan(0x8100, 0x1005);
    let two = refused_actions(1, vec![tag.clone(), tag.clone(), ttl.clone(), OUT]);
    assert_eq!(two, Untranslatable::Action(Done::SetBelowTags));
    let label = Act::PushMpls(0x64140, 0x8847);
    let tagged = refused_actions(1, vec![tag.clone(), label.clone(), OUT]);
    assert_eq!(tagged, Untranslatable::Action(Done::Mpls));
    let (keys, actions) = told(1, vec![tag.clone(), ttl, Act::PopVlan, label, OUT]);
    translate(&keys, &actions).unwrap();
    assert_eq!(refused_actions(1, vec![Act::PopMpls(0x0800), OUT]), Untranslatable::Action(Done::Mpls));
}

fn kinds(filter: &Filter) -> Vec<&'static str> {
    let name = |kind: &ActionKind| match kind {
        ActionKind::Mirred(Mirred { copy: true, .. }) => "mirror",
        ActionKind::Mirred(_) => "redirect",
        ActionKind::Pedit(_) => "pedit",
        ActionKind::Csum(_) => "csum",
        ActionKind::Vlan(_) => "vlan",
        ActionKind::Gact(_) => "gact",
        ActionKind::TunnelKey(TunnelKey::Release) => "release",
        ActionKind::TunnelKey(_) => "encapsulate",
        _ => "other",
    };
    filter.actions.iter().map(|action| name(&action.kind)).collect()
}

#[test]
fn every_output_but_the_last_is_a_copy_and_what_comes_after_it_is_left_out() {
    let tag = Act::PushVlan(0x8100, 0x1005);
    let (keys, actions) = told(1, vec![Act::Output(3), tag.clone(), OUT, tag]);
    let filter = translate(&keys, &actions).unwrap();
    assert_eq!(kinds(&filter), ["mirror", "vlan", "redirect"]);
    assert_eq!(filter.actions.last().unwrap().control, Control::Stolen);
    let (keys, actions) = told(1, vec![Act::PopVlan, Act::CtClear, Act::Drop]);
    let dropped = translate(&keys, &actions).unwrap();
    assert_eq!((kinds(&dropped), dropped.actions[0].control), (vec!["gact"], Control::Drop));
}

#[test]
fn checksums_are_computed_once_after_the_rewrites_and_only_those_that_were_spoilt() {
    let address = |ttl| {
        let mask = [255, 255, 255, 255, 0, 0, 0, 0, 0, 0, ttl, 0];
        Act::Set(7, vec![10, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0], Some(mask.to_vec()))
    };
    let ports = Act::Set(9, vec![0, 9, 0, 0], Some(vec![255, 255, 0, 0]));
    let (keys, actions) = told(1, vec![address(0), ports, OUT]);
    let filter = translate(&keys, &actions).unwrap();
    assert_eq!(kinds(&filter), ["pedit", "pedit", "csum", "redirect"]);
    let both = ActionKind::Csum(Csum { update: CsumFlags::IPV4 | CsumFlags::TCP });
    assert_eq!(filter.actions[2].kind, both);
    let ttl = Act::Set(
        7,
        vec![0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0],
        Some(vec![0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 0]),
    );
    let (keys, actions) = told(1, vec![ttl, OUT]);
    let filter = translate(&keys, &actions).unwrap();
    assert_eq!(filter.actions[1].kind, ActionKind::Csum(Csum { update: CsumFlags::IPV4 }));
}

#[test]
fn a_tunnel_is_left_before_the_first_output_and_set_before_each() {
    let through = packet::tunnel(&mut Choices::replayed(&[]), 5);
    let (keys, actions) =
        told(4, vec![OUT, Act::SetTunnel(through), Act::Output(5), Act::Output(3), Act::Output(6)]);
    let filter = translate(&keys, &actions).unwrap();
    let expected = ["release", "mirror", "encapsulate", "mirror", "mirror", "encapsulate", "redirect"];
    assert_eq!(kinds(&filter), expected);
    assert_eq!(refused_actions(4, vec![Act::Output(5)]), Untranslatable::Action(Done::OutputWithoutTunnel));
}

#[test]
fn every_port_kind_of_the_model_is_what_the_models_take_it_for() {
    let kinds: Vec<PortKind> = ports().iter().map(|port: &PortFacts| port.kind).collect();
    let is_tunnel = |kind: &PortKind| *kind == PortKind::Tunnel;
    assert_eq!(kinds.iter().position(is_tunnel), Some(4));
    assert_eq!((kinds.len(), kinds[0]), (packet::PORTS as usize, PortKind::Internal));
}
