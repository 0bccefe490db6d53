//! The codecs against what a kernel sent. Each capture says which commands made it; `capture.py` of tc-flower makes them.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod hex;

use hex::Capture;
use netlink_wire::devlink::{EswitchMode, Event, PortFlavour, Report};
use netlink_wire::genl::FamilyReport;
use netlink_wire::link::Link;
use netlink_wire::{Malformed, Message};

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
    assert!(functions[1].function.unwrap().hw_addr.unwrap().mac().is_some());
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
