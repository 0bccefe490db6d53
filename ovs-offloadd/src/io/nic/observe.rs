//! Reads how a NIC is: devlink, links here and elsewhere, sysfs, Open vSwitch's database, the daemon.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use netlink_wire::devlink::{self, EswitchMode, Event, Port, PortFlavour};
use netlink_wire::ethtool::{self, Feature, Features};
use netlink_wire::genl::FamilyId;
use netlink_wire::link::{self, Link};
use netlink_wire::link_change::{self, Vf};
use netlink_wire::{Ifindex, Malformed, Message, NetnsId, netns};

use super::place::{self, NAMESPACES_MAX};
use super::sysfs::{self, FunctionDevice};
use super::{NicHands, READ_WITHIN};
use crate::io::netlink::{Asker, Protocol};
use crate::lifecycle::declared::{Function, FunctionKind};
use crate::lifecycle::observed::{Driver, FunctionState, MARK, Netdev, Nic, Observed, Place, read_mark};

/// Most parts of one answer.
const PARTS_MAX: usize = 1 << 20;

/// What devlink says of one NIC.
#[derive(Debug, Default)]
struct Devlink {
    /// None where the instance has no eswitch.
    eswitch: Option<devlink::Eswitch>,
    ports: Vec<Port>,
}

pub(super) fn observe(hands: &mut NicHands) -> Result<Observed, String> {
    let mut observed = Observed::default();
    let Some(device) = sysfs::look(Path::new("/"), &hands.handle) else { return Ok(observed) };
    let handle = hands.handle.clone();
    let mut nic =
        Nic { vfs: device.vfs, vfs_max: device.vfs_max, pf: sysfs::pf_of(&handle), ..Nic::default() };
    let switch = hands.switch()?;
    observed.drain = hands.drain_state()?;
    let (namespaces, offload_of) = (hands.namespaces.clone(), hands.offload_of.clone());
    let reading = async {
        let mut route = Asker::open(Protocol::Route, READ_WITHIN)?;
        let mut generic = Asker::open(Protocol::Generic, READ_WITHIN)?;
        let devlink = devlink_of(&mut generic, &handle).await?;
        let Some(devlink) = devlink else { return Ok::<_, String>(None) };
        let links = route.ask(PARTS_MAX, link::dump, |message| Link::decode(message).map(Some)).await?;
        for name in namespaces {
            let found = place::look(&mut route, &name).await;
            observed.namespaces.insert(name, found);
        }
        nic.take_devlink(&devlink, &links, &handle);
        nic.take_functions(device.functions);
        nic.take_netdevs(&mut route, &links).await?;
        nic.take_trust(&mut route).await?;
        nic.take_features(&mut generic, &offload_of).await?;
        Ok(Some(nic))
    };
    let Some(mut nic) = hands.runtime.block_on(reading)? else { return Ok(observed) };
    if let Some(switch) = switch {
        let name_of = |state: &FunctionState| state.representor.as_ref().map(|netdev| netdev.name.clone());
        let live: BTreeMap<String, Function> =
            nic.functions.iter().filter_map(|(at, state)| Some((name_of(state)?, *at))).collect();
        for (port, attachment) in switch.ports {
            if let Some(state) = live.get(&port).and_then(|at| nic.functions.get_mut(at)) {
                state.attachment = Some(attachment);
                continue;
            }
            let marked = attachment.external_ids.get(MARK).and_then(|text| read_mark(text));
            if marked.is_some_and(|(of, _)| of == handle) {
                nic.stale.insert(port, attachment);
            }
        }
        observed.bridges = Some(switch.bridges);
    }
    observed.nic = Some(nic);
    Ok(observed)
}

/// What devlink says; none where there is no such instance.
async fn devlink_of(asker: &mut Asker, handle: &devlink::Handle) -> Result<Option<Devlink>, String> {
    let Ok(family) = asker.family(devlink::FAMILY).await else { return Ok(Some(Devlink::default())) };
    let eswitch = |message: &Message<'_>| -> Result<Option<devlink::Eswitch>, Malformed> {
        Ok(match devlink::Report::decode(message)?.event {
            Event::Eswitch(eswitch) => Some(eswitch),
            _ => None,
        })
    };
    let request = |seq| devlink::get_eswitch(family, handle, seq).unwrap_or_default();
    let eswitch = match asker.ask(PARTS_MAX, request, eswitch).await {
        Ok(mut found) => found.pop(),
        Err(why) if why.starts_with("EOPNOTSUPP") => None,
        Err(why) if why.starts_with("ENODEV") => return Ok(None),
        Err(why) => return Err(format!("devlink: {why}")),
    };
    let port = |message: &Message<'_>| -> Result<Option<Port>, Malformed> {
        Ok(match devlink::Report::decode(message)?.event {
            Event::Port(port) if port.handle == *handle => Some(port),
            _ => None,
        })
    };
    let ports = asker.ask(PARTS_MAX, |seq| devlink::dump_ports(family, seq), port).await;
    Ok(Some(Devlink { eswitch, ports: ports.map_err(|why| format!("devlink: {why}"))? }))
}

/// Devlink instances with an eswitch, in the order of their handles.
pub(super) async fn eswitch_handles(limit: Duration) -> Result<Vec<(u16, devlink::Handle)>, String> {
    let mut asker = Asker::open(Protocol::Generic, limit)?;
    let family = asker.family(devlink::FAMILY).await?;
    let instance = |message: &Message<'_>| -> Result<Option<devlink::Handle>, Malformed> {
        Ok(match devlink::Report::decode(message)?.event {
            Event::Instance(instance) => Some(instance.handle),
            _ => None,
        })
    };
    let mut handles = asker.ask(PARTS_MAX, |seq| devlink::dump_instances(family, seq), instance).await?;
    handles.sort();
    let mut found = Vec::new();
    for handle in handles {
        if devlink_of(&mut asker, &handle).await?.is_some_and(|devlink| devlink.eswitch.is_some()) {
            found.push((u16::try_from(found.len()).unwrap_or(u16::MAX), handle));
        }
    }
    Ok(found)
}

fn netdev_of(link: &Link) -> Netdev {
    Netdev {
        ifindex: link.ifindex,
        name: link.name.as_deref().unwrap_or_default().to_owned(),
        up: link.flags.is_up(),
        mtu: link.mtu.unwrap_or(0),
        address: link.address.and_then(|address| address.mac()),
        hw_tc_offload: None,
    }
}

/// The function that a port's representor stands for.
fn function_of(port: &Port) -> Option<Function> {
    let controller = port.controller.unwrap_or(0);
    let kind = match port.flavour? {
        PortFlavour::PciVf => FunctionKind::Vf(port.vf?),
        PortFlavour::PciSf => FunctionKind::Sf(port.sf?),
        _ => return None,
    };
    // A controller of its own has its functions elsewhere.
    Some(Function { controller: if port.external { controller } else { 0 }, kind })
}

/// Whether a link's parent is this device.
fn is_below(link: &Link, bus: &str, device: &str) -> bool {
    link.parent_name.as_deref() == Some(device) && link.parent_bus.as_deref().is_none_or(|it| it == bus)
}

impl Nic {
    fn take_devlink(&mut self, devlink: &Devlink, links: &[Link], handle: &devlink::Handle) {
        if let Some(eswitch) = &devlink.eswitch {
            self.mode = eswitch.mode;
            self.inline = eswitch.inline_mode;
            self.encap = eswitch.encap_mode.map(|mode| mode != devlink::EncapMode::None);
        }
        let netdev = |ifindex: Option<Ifindex>| {
            let link = links.iter().find(|link| Some(link.ifindex) == ifindex)?;
            Some(netdev_of(link))
        };
        for port in &devlink.ports {
            if port.flavour == Some(PortFlavour::Physical) {
                self.uplink = self.uplink.take().or_else(|| netdev(port.ifindex));
            }
            let Some(function) = function_of(port) else { continue };
            let told = port.function.as_ref();
            let state = FunctionState {
                port_index: Some(port.index.0),
                hw_addr: told.and_then(|it| it.hw_addr).and_then(|address| address.mac()),
                active: told
                    .and_then(|it| it.state)
                    .filter(|_| matches!(function.kind, FunctionKind::Sf(_)))
                    .map(|state| state == 1),
                representor: netdev(port.ifindex),
                ..FunctionState::default()
            };
            self.functions.insert(function, state);
        }
        // A driver without devlink ports: the device's own link is the uplink.
        if self.uplink.is_none() && self.mode != Some(EswitchMode::Switchdev) {
            let own = links.iter().find(|link| is_below(link, &handle.bus, &handle.device));
            self.uplink = own.map(netdev_of);
        }
    }

    fn take_functions(&mut self, devices: BTreeMap<Function, FunctionDevice>) {
        for (function, device) in devices {
            let state = self.functions.entry(function).or_default();
            (state.device, state.bus, state.driver) = (Some(device.name), Some(device.bus), device.driver);
        }
    }

    /// Finds the functions' own devices: here, and for those that have a driver and are not, elsewhere.
    async fn take_netdevs(&mut self, route: &mut Asker, links: &[Link]) -> Result<(), String> {
        self.take_netdevs_of(links, Place::Home);
        let is_missing = |state: &FunctionState| {
            matches!(&state.driver, Driver::Bound(driver) if !driver.starts_with("vfio"))
                && state.netdev.is_none()
        };
        if !self.functions.values().any(is_missing) {
            return Ok(());
        }
        let ids = route
            .ask(NAMESPACES_MAX, netns::dump, |message| netns::decode(message).map(Some))
            .await
            .map_err(|why| format!("namespaces: {why}"))?;
        for id in ids.into_iter().flatten().collect::<Vec<NetnsId>>() {
            let found = route
                .ask(
                    PARTS_MAX,
                    |seq| link_change::dump_in(id, seq),
                    |message| Link::decode(message).map(Some),
                )
                .await;
            // It may have gone meanwhile.
            let Ok(found) = found else { continue };
            self.take_netdevs_of(&found, Place::Away(id));
            if !self.functions.values().any(is_missing) {
                break;
            }
        }
        Ok(())
    }

    fn take_netdevs_of(&mut self, links: &[Link], place: Place) {
        for state in self.functions.values_mut().filter(|state| state.netdev.is_none()) {
            let (Some(bus), Some(device)) = (&state.bus, &state.device) else { continue };
            if let Some(link) = links.iter().find(|link| is_below(link, bus, device)) {
                (state.netdev, state.place) = (Some(netdev_of(link)), place);
            }
        }
    }

    /// Trust, and addresses where no port shows them: the uplink knows them.
    async fn take_trust(&mut self, route: &mut Asker) -> Result<(), String> {
        let Some(uplink) = self.uplink.as_ref().filter(|_| self.vfs > 0) else { return Ok(()) };
        let ifindex = uplink.ifindex;
        let found = route
            .ask(
                1,
                |seq| link_change::get_with_vfs(ifindex, seq),
                |message| Vf::decode_all(message).map(Some),
            )
            .await
            .map_err(|why| format!("VFs of {}: {why}", uplink.name))?;
        for vf in found.into_iter().flatten() {
            let function = u16::try_from(vf.number).ok().map(Function::vf);
            let Some(state) = function.and_then(|at| self.functions.get_mut(&at)) else { continue };
            state.trust = vf.trust;
            if state.port_index.is_none() {
                state.hw_addr = vf.address;
            }
        }
        Ok(())
    }

    async fn take_features(
        &mut self,
        generic: &mut Asker,
        offload_of: &std::collections::BTreeSet<Function>,
    ) -> Result<(), String> {
        let Ok(family) = generic.family(ethtool::FAMILY).await else { return Ok(()) };
        if let Some(uplink) = &mut self.uplink {
            uplink.hw_tc_offload = hw_tc_offload(generic, family, uplink.ifindex).await;
        }
        for function in offload_of {
            let state = self.functions.get_mut(function);
            if let Some(netdev) = state.and_then(|state| state.representor.as_mut()) {
                netdev.hw_tc_offload = hw_tc_offload(generic, family, netdev.ifindex).await;
            }
        }
        Ok(())
    }
}

/// Whether it is on; none where the device has no such feature, or is gone.
async fn hw_tc_offload(asker: &mut Asker, family: FamilyId, ifindex: Ifindex) -> Option<bool> {
    let request = |seq| ethtool::get_features(family, ifindex, seq);
    let found = asker.ask(PARTS_MAX, request, |message| Features::decode(message).map(Some)).await.ok()?;
    match found.first()?.hw_tc_offload() {
        Feature::On => Some(true),
        Feature::Off => Some(false),
        Feature::Unsupported => None,
    }
}
