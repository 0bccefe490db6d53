//! The codecs against what a kernel sent. Each capture says which commands made it; `capture.py` of tc-flower makes them.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod hex;

use hex::Capture;
use netlink_wire::devlink::{EswitchMode, Event, HealthState, PortFlavour, PortIndex, Report};
use netlink_wire::ethtool::{Feature, FeatureBit, FeatureBits, Features, HW_TC_OFFLOAD};
use netlink_wire::genl::FamilyReport;
use netlink_wire::link::{Link, OperState};
use netlink_wire::ovs_datapath::{Change, Datapath};
use netlink_wire::ovs_flow::{FlowAction, FlowBody, FlowCounters, Megaflow};
use netlink_wire::ovs_vport::{Vport, VportKind};
use netlink_wire::{DpPort, Malformed, Message};

fn decode<T>(capture: &Capture, decode: impl Fn(&Message<'_>) -> Result<T, Malformed>) -> Vec<T> {
    capture.messages.iter().map(|bytes| decode(&Message::first(bytes).unwrap()).unwrap()).collect()
}

#[test]
fn every_capture_names_the_command_and_the_kernel_that_made_it() {
    for capture in hex::all() {
        assert!(capture.title.contains("\nkernel 6."), "{}: {}", capture.name, capture.title);
    }
}

#[test]
fn a_family_has_a_number_and_groups() {
    let families = decode(&hex::read("family"), FamilyReport::decode);
    assert_eq!((&*families[0].name, families[0].version), ("ovs_flow", 1));
    assert!(families[0].id.0 >= 16);
    assert!(families[0].group("ovs_flow").is_some() && families[0].group("other").is_none());
}

#[test]
fn the_datapath_is_known_by_its_device() {
    let datapaths = decode(&hex::read("ovs_datapath"), Datapath::decode);
    let [datapath] = &datapaths[..] else { panic!("{datapaths:?}") };
    assert_eq!((datapath.change, datapath.name.as_deref()), (Change::New, Some("ovs-system")));
    assert!(datapath.ifindex.0 > 0 && datapath.stats.unwrap().misses > 0);
    // The kernel of the capture has no CONFIG_NET_TC_SKB_EXT.
    assert!(!datapath.features.shares_recirc_ids_with_tc());
}

#[test]
fn ports_have_number_name_device_and_kind() {
    let ports = decode(&hex::read("ovs_vport"), Vport::decode);
    let port = |name: &str| ports.iter().find(|port| &*port.name == name).unwrap();
    assert_eq!((port("ovs-system").port, port("ovs-system").kind), (DpPort(0), VportKind::Internal));
    assert_eq!(port("br0").kind, VportKind::Internal);
    assert_eq!(port("p1").kind, VportKind::Netdev);
    assert!(port("p1").stats.unwrap().rx_packets > 0);
    let links = decode(&hex::read("link"), |message| match message.control()? {
        None => Link::decode(message).map(Some),
        Some(_) => Ok(None),
    });
    let p1 = links.iter().flatten().find(|link| link.name.as_deref() == Some("p1")).unwrap();
    assert_eq!(port("p1").ifindex, Some(p1.ifindex));
    assert!(ports.iter().any(|port| port.name.starts_with("genev_sys_")));
}

#[test]
fn links_have_kind_master_and_state() {
    let links = decode(&hex::read("link"), |message| match message.control()? {
        None => Link::decode(message).map(Some),
        Some(_) => Ok(None),
    });
    let link = |name: &str| links.iter().flatten().find(|link| link.name.as_deref() == Some(name)).unwrap();
    assert_eq!(link("p1").kind.as_deref(), Some("veth"));
    assert_eq!(link("p1").master_kind.as_deref(), Some("openvswitch"));
    assert_eq!((link("p1").tunnel_port, link("genev_sys_6081").tunnel_port), (None, Some(6081)));
    assert_eq!(link("p1").master, Some(link("ovs-system").ifindex));
    assert_eq!((link("p1").mtu, link("p1").operstate), (Some(1500), OperState::Up));
    assert!(link("p1").flags.is_up() && link("p1").lower_netns.is_some());
    assert!(link("p1").address.unwrap().mac().is_some() && link("p1").switch_id.is_none());
}

#[test]
fn the_megaflows_that_tc_cannot_have_are_in_the_datapath() {
    let capture = hex::read("ovs_flow");
    let flows = decode(&capture, |message| Megaflow::decode(message).map(Megaflow::into_owned));
    assert!(flows.len() >= 2, "{}", flows.len());
    for flow in &flows {
        assert_eq!(flow.counters.change, Change::New);
        assert!(flow.counters.ufid.is_some() && flow.keys.as_ref().unwrap().in_port().is_some());
        assert!(flow.keys.as_ref().unwrap().unknown.is_empty());
    }
    let actions = |flow: &Megaflow<'_>| flow.actions.as_ref().unwrap().to_string();
    let controller = flows.iter().find(|flow| actions(flow).contains("userspace(")).unwrap();
    let keys = controller.keys.as_ref().unwrap();
    let udp = keys.udp.unwrap();
    assert_eq!(udp.dst.as_exact(), Some(9));
    assert!(keys.to_string().contains("udp(dst=9)"), "{keys}");
    let tracked = flows.iter().find(|flow| actions(flow).starts_with("ct(zone=5,nat)")).unwrap();
    let recirculated =
        tracked.actions.as_ref().unwrap().iter().any(|action| matches!(action, FlowAction::Recirc(_)));
    assert!(recirculated);
    assert!(flows.iter().any(|flow| flow.keys.as_ref().unwrap().recirc_id().0 != 0));
    assert!(flows.iter().any(|flow| flow.counters.stats.packets > 0 && flow.counters.used.is_some()));
}

#[test]
fn the_body_of_a_megaflow_reads_as_the_megaflow_does() {
    let flows = decode(&hex::read("ovs_flow"), |message| {
        let (flow, body) = Megaflow::decode_with_body(message)?;
        Ok((flow.into_owned(), body.unwrap()))
    });
    for (flow, body) in &flows {
        assert_eq!(Some(body.keys().unwrap()), flow.keys);
        assert_eq!(Some(body.actions().unwrap()), flow.actions);
        let (key, mask, actions) = body.parts();
        assert_eq!(&FlowBody::from_parts(key, mask, actions).unwrap(), body);
        assert_eq!(flows.iter().filter(|(_, other)| other == body).count(), 1);
    }
    let none = decode(&hex::read("ovs_flow-counters"), |message| Ok(Megaflow::decode_with_body(message)?.1));
    assert!(none.iter().all(Option::is_none), "keys and actions are not told there");
    assert!(FlowBody::from_parts(&[4, 0], None, &[]).is_ok(), "bytes too few for an attribute are none");
    assert!(FlowBody::from_parts(&[3, 0, 1, 0], None, &[]).is_err());
    assert!(FlowBody::from_parts(&[], None, &vec![0; FlowBody::BYTES_MAX + 1]).is_err());
}

#[test]
fn counters_alone_are_those_of_the_whole_megaflow() {
    let whole = decode(&hex::read("ovs_flow"), FlowCounters::decode);
    let alone = decode(&hex::read("ovs_flow-counters"), FlowCounters::decode);
    let mut names: Vec<_> = whole.iter().map(|counters| counters.ufid.unwrap()).collect();
    let mut others: Vec<_> = alone.iter().map(|counters| counters.ufid.unwrap()).collect();
    names.sort();
    others.sort();
    assert_eq!(names, others);
    let keyless =
        decode(&hex::read("ovs_flow-counters"), |message| Ok(Megaflow::decode(message)?.keys.is_none()));
    assert!(keyless.into_iter().all(|is_none| is_none));
}

#[test]
fn the_offload_feature_of_a_veth_is_told() {
    let features = decode(&hex::read("ethtool"), Features::decode);
    assert_eq!(features[0].name.as_deref(), Some("p1"));
    assert_eq!(features[0].hw_tc_offload(), Feature::Unsupported);
    assert!(
        !features[0].active.is_empty() && !features[0].changeable.is_empty() && !features[0].fixed.is_empty()
    );
}

#[test]
fn devlink_tells_instances_ports_and_the_eswitch() {
    let reports = decode(&hex::read("devlink"), Report::decode);
    let instance = reports.iter().find_map(|report| match &report.event {
        Event::Instance(instance) => Some(instance),
        _ => None,
    });
    assert_eq!(instance.unwrap().handle.to_string(), "simnic/simnic0");
    let ports: Vec<_> = reports
        .iter()
        .filter_map(|report| match &report.event {
            Event::Port(port) => Some(port),
            _ => None,
        })
        .collect();
    let uplink = ports.iter().find(|port| port.flavour == Some(PortFlavour::Physical)).unwrap();
    assert_eq!(uplink.netdev.as_deref(), Some("sn0p0"));
    let mut functions: Vec<_> =
        ports.iter().filter(|port| port.flavour == Some(PortFlavour::PciVf)).collect();
    functions.sort_by_key(|port| port.vf);
    assert_eq!(functions.len(), 2);
    assert_eq!((functions[1].pf, functions[1].vf, functions[1].external), (Some(0), Some(1), false));
    assert_eq!(functions[1].netdev.as_deref(), Some("sn0pf0vf1"));
    assert!(functions[1].function.as_ref().unwrap().hw_addr.unwrap().mac().is_some());
    let eswitch = reports.iter().find_map(|report| match &report.event {
        Event::Eswitch(eswitch) => Some(eswitch),
        _ => None,
    });
    assert_eq!(eswitch.unwrap().mode, Some(EswitchMode::Switchdev));
}

#[test]
fn representors_are_known_by_their_switch_and_port_names() {
    let links = decode(&hex::read("link-nic"), |message| match message.control()? {
        None => Link::decode(message).map(Some),
        Some(_) => Ok(None),
    });
    let port = |name: &str| {
        links
            .iter()
            .flatten()
            .find(|link| link.switch_id.is_some() && link.port_name.as_deref() == Some(name))
            .unwrap()
    };
    assert_eq!(port("p0").switch_id, port("pf0vf1").switch_id);
    assert_eq!(port("p0").name.as_deref(), Some("sn0p0"));
    let function = links.iter().flatten().find(|link| link.name.as_deref() == Some("sn0v0")).unwrap();
    assert!(function.switch_id.is_none() && function.port_name.is_none());
}

#[test]
fn a_list_with_bytes_too_few_for_an_action_is_empty() {
    // Found by the fuzzer: OVS_FLOW_ATTR_ACTIONS with two bytes, less than the header of an attribute.
    let message = [
        &[0x32, 0, 0, 0][..],                              // nlmsg_len: 50
        &[0x46, 0x45, 0x45, 0x45, 0xff, 0xff, 0xff, 0xfd], // nlmsg_type, nlmsg_flags, nlmsg_seq
        &[0x3b, 0x03, 0x21, 0x03],                         // nlmsg_pid
        &[0x03, 0x03, 0, 0, 0, 0, 0, 0],                   // genlmsghdr, ovs_header
        &[0x09, 0, 0, 0, 0, 0, 0, 0, 0x98, 0x6c, 0x02, 0], // an attribute of kind 0, padded
        &[0x04, 0, 0x02, 0],                               // OVS_FLOW_ATTR_ACTIONS, empty
        &[0x06, 0, 0x02, 0, 0x06, 0, 0x10, 0],             // OVS_FLOW_ATTR_ACTIONS of two bytes
        &[0, 0],
    ]
    .concat();
    let flow = Megaflow::decode(&Message::first(&message).unwrap()).unwrap();
    let actions = flow.actions.unwrap();
    assert!(actions.is_empty() && actions.iter().next().is_none());
    assert_eq!(actions.to_string(), "drop");
}

/// What the events of a capture say, one after the other.
fn events<T>(name: &str, pick: impl Fn(Event) -> Option<T>) -> Vec<T> {
    decode(&hex::read(name), Report::decode).into_iter().filter_map(|report| pick(report.event)).collect()
}

#[test]
fn an_error_and_the_recovery_from_it_are_told_and_read_alike() {
    let health = |name| {
        events(name, |event| match event {
            Event::Health(reporter) => Some(reporter),
            _ => None,
        })
    };
    let told = health("devlink-health-told");
    let [error, recovered] = &told[..] else { panic!("{told:?}") };
    assert_eq!((&*error.name, error.port, error.state), ("dummy", None, HealthState::Error));
    assert_eq!((error.errors, error.recoveries, error.auto_recover), (1, 0, Some(true)));
    assert_eq!((recovered.state, recovered.errors, recovered.recoveries), (HealthState::Healthy, 1, 1));
    let read = health("devlink-health");
    assert!(read.contains(recovered), "{read:?}");
    let empty = read.iter().find(|reporter| &*reporter.name == "empty").unwrap();
    assert_eq!((empty.errors, empty.state), (0, HealthState::Healthy));
}

#[test]
fn resources_have_parts_sizes_and_how_much_is_used() {
    let found = events("devlink-resources", |event| match event {
        Event::Resources(resources) => Some(resources),
        _ => None,
    });
    let all: Vec<_> = found.iter().flat_map(|resources| &resources.resources).collect();
    assert_eq!(found[0].handle.to_string(), "netdevsim/netdevsim7");
    assert_eq!(all.iter().map(|resource| &*resource.name).collect::<Vec<_>>(), ["IPv4", "IPv6", "nexthops"]);
    let fib = &all[0].parts[0];
    assert_eq!(
        (&*fib.name, fib.id, fib.size, fib.size_new, fib.used),
        ("fib", 2, u64::MAX, Some(64), Some(3))
    );
    assert_eq!((all[0].used, all[0].size_valid, all[0].parts.len()), (None, Some(true), 2));
    assert!(fib.parts.is_empty() && fib.size_valid.is_none());
}

#[test]
fn an_instance_says_which_driver_and_which_firmware_it_has() {
    let infos = events("devlink-info", |event| match event {
        Event::Info(info) => Some(info),
        _ => None,
    });
    let [info] = &infos[..] else { panic!("{infos:?}") };
    assert_eq!((info.driver.as_deref(), info.serial.as_deref()), (Some("netdevsim"), None));
    assert_eq!((info.firmware(), &info.running), (Some("10.20.30"), &info.stored));
    assert!(info.fixed.is_empty());
}

#[test]
fn ports_of_functions_are_told_from_uplinks() {
    let ports = events("devlink-ports", |event| match event {
        Event::Port(port) => Some(port),
        _ => None,
    });
    let vfs: Vec<_> = ports.iter().filter(|port| port.flavour == Some(PortFlavour::PciVf)).collect();
    assert_eq!(vfs.len(), 2);
    assert_eq!(
        (vfs[1].index, vfs[1].pf, vfs[1].vf, vfs[1].controller),
        (PortIndex(129), Some(0), Some(1), Some(0))
    );
    assert!(!vfs[1].external && vfs[1].ifindex.is_some());
    let eswitches = events("devlink-ports", |event| match event {
        Event::Eswitch(eswitch) => Some(eswitch),
        _ => None,
    });
    assert_eq!((eswitches[0].mode, eswitches[0].inline_mode), (Some(EswitchMode::Switchdev), None));
}

#[test]
fn features_are_told_as_bits_whose_names_are_asked_for_once() {
    let names = hex::read("ethtool-names");
    let message = Message::first(&names.messages[0]).unwrap();
    let bit = FeatureBit::find(&message, HW_TC_OFFLOAD).unwrap().unwrap();
    assert_eq!(FeatureBit::find(&message, "no-such-feature"), Ok(None));
    let links = links("link-bond");
    let ifindex = |name: &str| {
        links.iter().find(|link| link.name.as_deref() == Some(name)).map(|link| link.ifindex).unwrap()
    };
    let of = |capture: &str, name: &str| {
        let all = decode(&hex::read(capture), FeatureBits::decode);
        let found = all.into_iter().flatten().find(|bits| bits.ifindex == ifindex(name));
        found.map(|bits| bits.feature(bit))
    };
    assert_eq!(of("ethtool-bits", "lo"), Some(Feature::Unsupported));
    assert_eq!(of("ethtool-bits", "nsim1"), Some(Feature::Off));
    assert_eq!(of("ethtool-told", "nsim1"), Some(Feature::On));
    assert_eq!(of("ethtool-told", "nsim2"), None, "only what changed is told");
    let verbose = hex::read("ethtool");
    assert!(
        FeatureBits::decode(&Message::first(&verbose.messages[0]).unwrap()).is_err(),
        "names are no bits"
    );
}

#[test]
fn a_bond_has_a_mode_and_one_member_that_is_used() {
    let links = links("link-bond");
    let link = |name: &str| links.iter().find(|link| link.name.as_deref() == Some(name)).unwrap();
    let bond = link("bond7").bond.unwrap();
    assert_eq!((bond.mode.to_string().as_str(), bond.active), ("active-backup", Some(link("nsim2").ifindex)));
    let state = |name: &str| link(name).bond_member.map(|member| (member.active, member.link_up));
    assert_eq!(
        (state("nsim1"), state("nsim2"), state("lo")),
        (Some((false, true)), Some((true, true)), None)
    );
    assert_eq!(link("nsim1").parent_name.as_deref(), Some("netdevsim7"));
    assert_eq!(link("nsim1").parent_bus.as_deref(), Some("netdevsim"));
}

fn links(capture: &str) -> Vec<Link> {
    let links = decode(&hex::read(capture), |message| match message.control()? {
        None => Link::decode(message).map(Some),
        Some(_) => Ok(None),
    });
    links.into_iter().flatten().collect()
}
