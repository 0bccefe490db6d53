//! What the kernel says of NICs, devices, qdiscs and filters.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use netlink_wire::devlink::{self, Event, HealthReporter, HealthState, Instance, Port};
use netlink_wire::ethtool::{self, Feature, Features};
use netlink_wire::genl::FamilyId;
use netlink_wire::message::flags;
use netlink_wire::ovs_datapath::{self, Datapath};
use netlink_wire::xfrm::DeviceOffload;
use netlink_wire::{Ifindex, Malformed, Message, MessageWriter, Seq, link, xfrm};
use tc_flower::request::{self, Detail};
use tc_flower::{BlockIndex, FilterFlags, FilterReport, Hook, Location, TcEvent};

use crate::doctor::{Fact, Filter, HwTcOffload, IpsecOffload, Link, Nic, Reporter, Role, role_of};
use crate::io::netlink::{Asker, Protocol};
use crate::io::sysfs::{driver_of, sriov_of};
use crate::ipsec::{UplinkRules, is_exclusive};

/// Filters of a port that are read. A dump begins with chain 0 and its lowest priority: what is in front is among them.
const FILTERS_MAX: usize = 20_000;
/// Anything else that is read.
const PARTS_MAX: usize = 1 << 20;

/// What devlink says.
pub(super) struct Devlink {
    pub(super) nics: Vec<Nic>,
    ports: Vec<Port>,
}

/// NICs with an eswitch, and all ports.
pub(super) async fn devlink(limit: Duration) -> Fact<Devlink> {
    let mut asker = Asker::open(Protocol::Generic, limit)?;
    let family = asker.family(devlink::FAMILY).await?;
    let instance = |message: &Message<'_>| -> Result<Option<Instance>, Malformed> {
        Ok(match devlink::Report::decode(message)?.event {
            Event::Instance(instance) => Some(instance),
            _ => None,
        })
    };
    let port = |message: &Message<'_>| -> Result<Option<Port>, Malformed> {
        Ok(match devlink::Report::decode(message)?.event {
            Event::Port(port) => Some(port),
            _ => None,
        })
    };
    let instances = asker.ask(PARTS_MAX, |seq| devlink::dump_instances(family, seq), instance).await?;
    let ports = asker.ask(PARTS_MAX, |seq| devlink::dump_ports(family, seq), port).await?;
    let reporters = reporters(&mut asker, family).await;
    let mut nics = Vec::new();
    for instance in instances {
        let handle = instance.handle.clone();
        let of_instance =
            |all: &Vec<HealthReporter>| all.iter().filter(|it| it.handle == handle).map(reporter).collect();
        let health = reporters.as_ref().map(of_instance).map_err(Clone::clone);
        nics.extend(nic(&mut asker, family, instance).await.map(|nic| Nic { health, ..nic }));
    }
    Ok(Devlink { nics, ports })
}

async fn reporters(asker: &mut Asker, family: FamilyId) -> Fact<Vec<HealthReporter>> {
    let reporter = |message: &Message<'_>| -> Result<Option<HealthReporter>, Malformed> {
        Ok(match devlink::Report::decode(message)?.event {
            Event::Health(reporter) => Some(reporter),
            _ => None,
        })
    };
    asker.ask(PARTS_MAX, |seq| devlink::dump_health(family, seq), reporter).await
}

fn reporter(told: &HealthReporter) -> Reporter {
    Reporter {
        name: told.name.to_string(),
        port: told.port.map(|port| port.0),
        in_error: told.state != HealthState::Healthy,
        errors: told.errors,
        recoveries: told.recoveries,
        auto_recover: told.auto_recover,
    }
}

/// The NIC that an instance is, unless it has no eswitch.
async fn nic(asker: &mut Asker, family: FamilyId, instance: Instance) -> Option<Nic> {
    let handle = instance.handle;
    let eswitch = |message: &Message<'_>| -> Result<Option<devlink::Eswitch>, Malformed> {
        Ok(match devlink::Report::decode(message)?.event {
            Event::Eswitch(eswitch) => Some(eswitch),
            _ => None,
        })
    };
    // A handle that the kernel gave fits in a request; one that did not would be an empty one, which is refused.
    let request = |seq| devlink::get_eswitch(family, &handle, seq).unwrap_or_default();
    let found = asker.ask(PARTS_MAX, request, eswitch).await;
    let (mode, encap) = match found.map(|mut found| found.pop()) {
        Ok(Some(eswitch)) => {
            let mode = eswitch.mode.map(|mode| mode.to_string()).ok_or_else(|| "it has none".to_owned());
            (mode, eswitch.encap_mode.map(|mode| mode != devlink::EncapMode::None))
        }
        Ok(None) => return None,
        Err(why) if why.starts_with("EOPNOTSUPP") => return None,
        Err(why) => (Err(why), None),
    };
    Some(Nic {
        driver: driver_of(&handle.bus, &handle.device),
        vfs: sriov_of(&handle.bus, &handle.device).map_or(0, |(vfs, ..)| vfs),
        handle: handle.to_string(),
        mode,
        encap,
        reload_failed: instance.reload_failed,
        health: Ok(Vec::new()),
    })
}

/// The firmware that runs on the NIC of this devlink handle, where its driver tells.
pub(crate) async fn firmware(nic: &str, limit: Duration) -> Option<String> {
    let mut asker = Asker::open(Protocol::Generic, limit).ok()?;
    let family = asker.family(devlink::FAMILY).await.ok()?;
    let info = |message: &Message<'_>| -> Result<Option<devlink::Info>, Malformed> {
        Ok(match devlink::Report::decode(message)?.event {
            Event::Info(info) => Some(info),
            _ => None,
        })
    };
    let all = asker.ask(PARTS_MAX, |seq| devlink::dump_info(family, seq), info).await.ok()?;
    all.iter().find(|info| info.handle.to_string() == nic)?.firmware().map(str::to_owned)
}

/// All network devices; those of a switch with their features.
pub(super) async fn links(limit: Duration, devlink: Option<&Devlink>) -> Fact<BTreeMap<Ifindex, Link>> {
    let mut asker = Asker::open(Protocol::Route, limit)?;
    let found = asker.ask(PARTS_MAX, link::dump, |message| link::Link::decode(message).map(Some)).await?;
    let mut links: BTreeMap<Ifindex, Link> =
        found.into_iter().filter_map(|found| Some((found.ifindex, link_of(found, devlink)?))).collect();
    let mut generic = Asker::open(Protocol::Generic, limit)?;
    let ethtool = generic.family(ethtool::FAMILY).await;
    for (ifindex, link) in links.iter_mut().filter(|(_, link)| link.role.is_some()) {
        link.hw_tc_offload = Some(match &ethtool {
            Ok(family) => hw_tc_offload(&mut generic, *family, *ifindex).await,
            Err(why) => Err(why.clone()),
        });
    }
    Ok(links)
}

fn link_of(found: link::Link, devlink: Option<&Devlink>) -> Option<Link> {
    let mut ports = devlink.into_iter().flat_map(|devlink| &devlink.ports);
    let port = ports.find(|port| port.ifindex == Some(found.ifindex));
    let flavour = port.and_then(|port| port.flavour).map(|flavour| flavour.to_string());
    let parent = match (port, &found.parent_bus, &found.parent_name) {
        (Some(port), _, _) => Some(port.handle.to_string()),
        (None, Some(bus), Some(name)) => Some(format!("{bus}/{name}")),
        (None, _, _) => None,
    };
    let port_name = found.port_name.as_deref().map(str::to_owned);
    // In legacy mode a NIC has ports and no switch.
    let role = found.switch_id.and_then(|_| role_of(flavour.as_deref(), port_name.as_deref()));
    Some(Link {
        name: found.name?.into(),
        altnames: found.altnames.into_iter().map(Into::into).collect(),
        up: found.flags.is_up(),
        carrier: found.carrier.unwrap_or_else(|| found.flags.has_carrier()),
        mtu: found.mtu,
        kind: found.kind.map(Into::into),
        master: found.master,
        parent,
        role,
        port_name,
        hw_tc_offload: None,
    })
}

async fn hw_tc_offload(asker: &mut Asker, family: FamilyId, ifindex: Ifindex) -> Fact<HwTcOffload> {
    let request = |seq| ethtool::get_features(family, ifindex, seq);
    let found = asker.ask(PARTS_MAX, request, |message| Features::decode(message).map(Some)).await?;
    let features = found.first().ok_or_else(|| "the kernel told no features".to_owned())?;
    Ok(match features.hw_tc_offload() {
        Feature::On => HwTcOffload::On,
        Feature::Off => HwTcOffload::Off,
        Feature::Unsupported => HwTcOffload::Unsupported,
    })
}

/// Whether the datapath shares recirculation ids with TC.
pub(super) async fn shares_recirc_ids(limit: Duration) -> Fact<Option<bool>> {
    let mut asker = Asker::open(Protocol::Generic, limit)?;
    let family = asker.family(ovs_datapath::FAMILY).await?;
    let found = asker
        .ask(PARTS_MAX, |seq| ovs_datapath::dump(family, seq), |message| Datapath::decode(message).map(Some))
        .await?;
    Ok(found.first().map(|datapath| datapath.features.shares_recirc_ids_with_tc()))
}

/// `RTM_GETQDISC` of `linux/rtnetlink.h`: asks for all qdiscs.
fn dump_qdiscs(seq: Seq) -> Vec<u8> {
    const RTM_GETQDISC: u16 = 38;
    let mut writer = MessageWriter::new(RTM_GETQDISC, flags::REQUEST | flags::DUMP, seq);
    // An empty struct tcmsg.
    writer.fixed(&[0; 20]);
    writer.finish().unwrap_or_default()
}

/// Devices with an ingress hook, and the kind of the qdisc that has it.
pub(super) async fn ingress_qdiscs(limit: Duration) -> Fact<BTreeMap<Ifindex, String>> {
    let mut asker = Asker::open(Protocol::Route, limit)?;
    let with_hook = |message: &Message<'_>| -> Result<Option<(Ifindex, String)>, Malformed> {
        Ok(match TcEvent::decode(message)? {
            TcEvent::Qdisc(qdisc) if qdisc.has_hook(Hook::Ingress) => {
                Some((qdisc.ifindex, qdisc.kind.into()))
            }
            _ => None,
        })
    };
    Ok(asker.ask(PARTS_MAX, dump_qdiscs, with_hook).await?.into_iter().collect())
}

/// Devices that carry IPsec.
pub(super) async fn ipsec(limit: Duration) -> Fact<Vec<IpsecOffload>> {
    // A kernel without IPsec has no such sockets, and no device carries any.
    let Ok(mut asker) = Asker::open(Protocol::Xfrm, limit) else { return Ok(Vec::new()) };
    let of_sa = |message: &Message<'_>| {
        Ok(match xfrm::Event::decode(message)? {
            xfrm::Event::Sa(sa) => sa.offload,
            _ => None,
        })
    };
    let of_policy = |message: &Message<'_>| {
        Ok(match xfrm::Event::decode(message)? {
            xfrm::Event::Policy(policy) => policy.offload,
            _ => None,
        })
    };
    let sas = asker.ask(PARTS_MAX, xfrm::dump_sas, of_sa).await?;
    let policies = asker.ask(PARTS_MAX, xfrm::dump_policies, of_policy).await?;
    let mut all: BTreeMap<Ifindex, IpsecOffload> = BTreeMap::new();
    let mut count = |DeviceOffload { ifindex, packet, .. }, sas: u64, policies: u64| {
        let nothing = IpsecOffload { ifindex, packet_states: 0, packet_policies: 0 };
        let of_device = all.entry(ifindex).or_insert(nothing);
        of_device.packet_states += if packet { sas } else { 0 };
        of_device.packet_policies += if packet { policies } else { 0 };
    };
    sas.into_iter().for_each(|offload| count(offload, 1, 0));
    policies.into_iter().for_each(|offload| count(offload, 0, 1));
    Ok(all.into_values().collect())
}

/// Filters of the datapath's ports, at the hook that Open vSwitch uses.
pub(super) async fn filters(
    limit: Duration,
    links: &BTreeMap<Ifindex, Link>,
) -> BTreeMap<Ifindex, Fact<Vec<Filter>>> {
    let is_datapath = |master: &Ifindex| {
        links.get(master).is_some_and(|master| master.kind.as_deref() == Some("openvswitch"))
    };
    let mut all = BTreeMap::new();
    for (ifindex, link) in links {
        // Internal ports are ports of the datapath, too, and the datapath's own device looks like one.
        let internal = link.kind.as_deref() == Some("openvswitch");
        if !internal && !link.master.as_ref().is_some_and(is_datapath) {
            continue;
        }
        let location = match link.kind.as_deref() {
            Some("openvswitch") => Location::Device { ifindex: *ifindex, hook: Hook::Egress },
            Some("bond" | "team") => Location::Block(BlockIndex(ifindex.0)),
            _ => Location::ingress(*ifindex),
        };
        let found = filters_at(limit, location).await;
        if !internal || found.as_ref().is_ok_and(|filters| !filters.is_empty()) {
            all.insert(*ifindex, found);
        }
    }
    all
}

/// Rules of these devices themselves, of those that have some in hardware and whose driver has either such rules or IPsec of mode packet.
pub(crate) async fn excluding_rules(
    limit: Duration,
    devices: &BTreeSet<Ifindex>,
) -> Fact<BTreeMap<Ifindex, UplinkRules>> {
    let mut with_rules = BTreeMap::new();
    for ifindex in devices {
        // It may have gone meanwhile.
        let filters = filters_at(limit, Location::ingress(*ifindex)).await.unwrap_or_default();
        if filters.iter().any(|filter| filter.in_hw == Some(true)) {
            with_rules.insert(*ifindex, filters);
        }
    }
    if with_rules.is_empty() {
        return Ok(BTreeMap::new());
    }
    let mut asker = Asker::open(Protocol::Route, limit)?;
    let links = asker.ask(PARTS_MAX, link::dump, |message| link::Link::decode(message).map(Some)).await?;
    let rules = |link: link::Link| {
        let filters = with_rules.get(&link.ifindex)?;
        let driver = driver_of(link.parent_bus.as_deref()?, link.parent_name.as_deref()?);
        let is_representor = role_of(None, link.port_name.as_deref()) == Some(Role::Representor);
        let minds = is_exclusive(&driver) && !is_representor;
        minds.then(|| Some((link.ifindex, UplinkRules::of(link.name.as_deref()?, filters))))?
    };
    Ok(links.into_iter().filter_map(rules).collect())
}

async fn filters_at(limit: Duration, location: Location) -> Fact<Vec<Filter>> {
    // A socket of its own: what of a long dump is not wanted goes with it.
    let mut asker = Asker::open(Protocol::Route, limit)?;
    let filter = |message: &Message<'_>| -> Result<Option<Filter>, Malformed> {
        Ok(match TcEvent::decode(message)? {
            TcEvent::Filter(report) => Some(filter_of(&report)),
            _ => None,
        })
    };
    let found = asker.ask(FILTERS_MAX, |seq| request::dump(location, None, Detail::Full, seq), filter).await;
    match found {
        // No qdisc, or no such block: no filters.
        Err(why) if why.starts_with("EINVAL") || why.starts_with("ENOENT") => Ok(Vec::new()),
        found => found,
    }
}

fn filter_of(report: &FilterReport) -> Filter {
    Filter {
        chain: report.address.chain.0,
        prio: report.address.prio.0,
        classifier: report.other_classifier.as_deref().unwrap_or("flower").to_owned(),
        of_ovs: report.ufid().is_some(),
        skip_hw: report.flags.contains(FilterFlags::SKIP_HW),
        in_hw: match report.flags {
            flags if flags.contains(FilterFlags::IN_HW) => Some(true),
            flags if flags.contains(FilterFlags::NOT_IN_HW) => Some(false),
            _ => None,
        },
        // A meter is an action older than the filter; what was made with it is the youngest.
        age_ms: report.actions.iter().filter_map(|action| Some(action.times?.age_ms())).min(),
    }
}
