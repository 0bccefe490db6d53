//! Does one operation. Whether it is done is for others to see.

use std::os::fd::AsRawFd as _;
use std::path::Path;

use netlink_wire::devlink::{self, Handle, PortIndex};
use netlink_wire::genl::FamilyId;
use netlink_wire::{Ifindex, Seq, TooLong, ethtool, link_change};

use super::{CHANGE_WITHIN, NicHands, place, sysfs};
use crate::io::netlink::{Asker, Protocol};
use crate::lifecycle::declared::{Function, FunctionKind, NetnsRef};
use crate::lifecycle::observed::{Driver, FunctionState, Observed, Place};
use crate::lifecycle::step::{AttachedPort, Device, Operation};

const ROOT: &str = "/";

pub(super) fn apply(hands: &mut NicHands, operation: &Operation, now: &Observed) -> Result<(), String> {
    let handle = hands.handle.clone();
    match operation {
        Operation::Drain(on) => hands.drain(*on),
        Operation::SetVfs(count) => sysfs::set_vfs(Path::new(ROOT), &handle, *count),
        Operation::Unbind(at) => match &state(now, *at)?.driver {
            Driver::Bound(driver) => bind(now, *at, driver, false),
            _ => Ok(()),
        },
        Operation::Bind(at, driver) => bind(now, *at, driver, true),
        Operation::Attach { port, bridge, external_ids } => {
            let name = match port {
                AttachedPort::Representor(at) => device(now, Device::Representor(*at))?.name.clone(),
                AttachedPort::Named(name) => name.clone(),
            };
            hands.attach(&name, bridge, external_ids)
        }
        Operation::Detach { port, bridge } => hands.detach(port, bridge),
        Operation::SetIds { function, set, remove } => {
            let name = device(now, Device::Representor(*function))?.name.clone();
            hands.set_ids(&name, set, remove)
        }
        Operation::SetMode(_)
        | Operation::SetInline(_)
        | Operation::SetEncap(_)
        | Operation::AddSf(_)
        | Operation::DeleteSf(_)
        | Operation::SetActive(..) => devlink_change(hands, operation, now),
        Operation::SetHwAddr(at, _) if state(now, *at)?.port_index.is_some() => {
            devlink_change(hands, operation, now)
        }
        Operation::SetHwTcOffload(at, on) => {
            let ifindex = device(now, *at)?.ifindex;
            let on = *on;
            hands.runtime.block_on(async {
                let mut asker = Asker::open(Protocol::Generic, CHANGE_WITHIN)?;
                let family = asker.family(ethtool::FAMILY).await?;
                let request = |seq| {
                    ethtool::set_feature(family, ifindex, ethtool::HW_TC_OFFLOAD, on, seq).unwrap_or_default()
                };
                change(&mut asker, request).await
            })
        }
        _ => link_operation(hands, operation, now),
    }
}

fn state(now: &Observed, function: Function) -> Result<&FunctionState, String> {
    now.function(function).ok_or_else(|| format!("there is no {function}"))
}

fn device(now: &Observed, device: Device) -> Result<&crate::lifecycle::observed::Netdev, String> {
    now.device(device).ok_or_else(|| format!("{device} is not there"))
}

fn bind(now: &Observed, function: Function, driver: &str, to: bool) -> Result<(), String> {
    let state = state(now, function)?;
    match (&state.bus, &state.device) {
        (Some(bus), Some(device)) => sysfs::bind(Path::new(ROOT), bus, device, driver, to),
        _ => Err(format!("{function} has no device on this host")),
    }
}

/// Sends a change and waits for the kernel to have done or refused it.
async fn change(asker: &mut Asker, request: impl Fn(Seq) -> Vec<u8>) -> Result<(), String> {
    asker.ask::<()>(1, request, |_| Ok(None)).await.map(drop)
}

fn devlink_change(hands: &mut NicHands, operation: &Operation, now: &Observed) -> Result<(), String> {
    let handle = hands.handle.clone();
    hands.runtime.block_on(async {
        let mut asker = Asker::open(Protocol::Generic, CHANGE_WITHIN)?;
        let family = asker.family(devlink::FAMILY).await?;
        // Made once more for each number; whether it can be made at all does not depend on that.
        devlink_request(family, &handle, operation, now, Seq(0))?;
        change(&mut asker, |seq| devlink_request(family, &handle, operation, now, seq).unwrap_or_default())
            .await
    })
}

fn devlink_request(
    family: FamilyId,
    handle: &Handle,
    operation: &Operation,
    now: &Observed,
    seq: Seq,
) -> Result<Vec<u8>, String> {
    let port = |at: &Function| {
        let index = state(now, *at)?.port_index;
        index.map(PortIndex).ok_or_else(|| format!("{at} has no devlink port"))
    };
    let request: Result<Vec<u8>, TooLong> = match operation {
        Operation::SetMode(mode) => devlink::set_eswitch_mode(family, handle, *mode, seq),
        Operation::SetInline(mode) => devlink::set_eswitch_inline(family, handle, *mode, seq),
        Operation::SetEncap(on) => devlink::set_eswitch_encap(family, handle, *on, seq),
        Operation::AddSf(at) => {
            let FunctionKind::Sf(number) = at.kind else { return Err(format!("{at} cannot be made")) };
            let pf = now.nic.as_ref().map_or(0, |nic| nic.pf);
            devlink::add_sub_function(family, handle, pf, number, seq)
        }
        Operation::DeleteSf(at) => devlink::delete_port(family, handle, port(at)?, seq),
        Operation::SetActive(at, on) => devlink::set_function_state(family, handle, port(at)?, *on, seq),
        Operation::SetHwAddr(at, mac) => devlink::set_function_address(family, handle, port(at)?, *mac, seq),
        other => return Err(format!("devlink cannot {other}")),
    };
    request.map_err(|error| error.to_string())
}

/// An rtnetlink change of one link, in the namespace where that is.
fn link_operation(hands: &mut NicHands, operation: &Operation, now: &Observed) -> Result<(), String> {
    let uplink = || Ok::<_, String>(device(now, Device::Uplink)?.ifindex);
    let vf = |at: &Function| at.own_vf().ok_or_else(|| format!("{at} is no VF of this host"));
    match operation {
        Operation::SetTrust(at, on) => {
            let (uplink, vf, on) = (uplink()?, vf(at)?, *on);
            link_change_at(hands, None, now, move |seq| link_change::set_vf_trust(uplink, vf, on, seq))
        }
        Operation::SetHwAddr(at, mac) => {
            let (uplink, vf, mac) = (uplink()?, vf(at)?, *mac);
            link_change_at(hands, None, now, move |seq| link_change::set_vf_address(uplink, vf, mac, seq))
        }
        Operation::SetAddress(at, mac) => {
            let mac = *mac;
            at_device(hands, Device::Own(*at), now, move |ifindex, seq| {
                link_change::set_address(ifindex, mac, seq)
            })
        }
        Operation::SetMtu(at, mtu) => {
            let mtu = *mtu;
            at_device(hands, *at, now, move |ifindex, seq| link_change::set_mtu(ifindex, mtu, seq))
        }
        Operation::SetUp(at, up) => {
            let up = *up;
            at_device(hands, *at, now, move |ifindex, seq| link_change::set_up(ifindex, up, seq))
        }
        Operation::Hand(at, NetnsRef::Id(id)) => {
            let id = *id;
            at_device(hands, Device::Own(*at), now, move |ifindex, seq| {
                link_change::move_to_id(ifindex, id, seq)
            })
        }
        Operation::Hand(at, netns) => {
            let namespace = place::open(netns)?;
            let fd = namespace.as_raw_fd();
            at_device(hands, Device::Own(*at), now, move |ifindex, seq| {
                link_change::move_to_fd(ifindex, fd, seq)
            })
        }
        Operation::TakeBack(at) => {
            let home = place::home()?;
            let fd = home.as_raw_fd();
            at_device(hands, Device::Own(*at), now, move |ifindex, seq| {
                link_change::move_to_fd(ifindex, fd, seq)
            })
        }
        other => Err(format!("rtnetlink cannot {other}")),
    }
}

fn at_device(
    hands: &mut NicHands,
    of: Device,
    now: &Observed,
    request: impl Fn(Ifindex, Seq) -> Vec<u8> + Send,
) -> Result<(), String> {
    let ifindex = device(now, of)?.ifindex;
    let place = match of {
        Device::Own(at) => state(now, at)?.place,
        _ => Place::Home,
    };
    let away = match place {
        Place::Home => None,
        Place::Away(id) => Some(id),
    };
    link_change_at(hands, away, now, move |seq| request(ifindex, seq))
}

/// `RTM_SETLINK` looks a device up in the namespace of the socket, so that one that is elsewhere takes a socket from there.
fn link_change_at(
    hands: &mut NicHands,
    away: Option<netlink_wire::NetnsId>,
    now: &Observed,
    request: impl Fn(Seq) -> Vec<u8> + Send,
) -> Result<(), String> {
    let sent = async move || {
        let mut asker = Asker::open(Protocol::Route, CHANGE_WITHIN)?;
        change(&mut asker, request).await
    };
    match away {
        None => hands.runtime.block_on(sent()),
        Some(id) => {
            let namespace = hands.runtime.block_on(place::open_place(id, now))?;
            place::within(&namespace, sent)
        }
    }
}
