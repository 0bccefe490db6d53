//! The command that a person could type for an operation.

use std::collections::BTreeMap;

use netlink_wire::devlink::Handle;

use super::declared::{Function, FunctionKind, NetnsRef};
use super::observed::{Driver, Nic, Observed, Place};
use super::step::{AttachedPort, Device, Operation};

/// The command, with the names as they are now; what is not there yet is named in angle brackets.
pub fn command(handle: &Handle, operation: &Operation, now: &Observed) -> String {
    let names = Names { handle, now, nic: now.nic.as_ref() };
    let on = |on: &bool| if *on { "on" } else { "off" };
    match operation {
        Operation::Drain(true) => format!("ovs-offloadctl drain --nic {handle}"),
        Operation::Drain(false) => format!("ovs-offloadctl drain --nic {handle} --off"),
        Operation::SetMode(mode) => format!("devlink dev eswitch set {handle} mode {mode}"),
        Operation::SetInline(mode) => {
            format!("devlink dev eswitch set {handle} inline-mode {mode}")
        }
        Operation::SetEncap(on) => {
            format!("devlink dev eswitch set {handle} encap-mode {}", if *on { "basic" } else { "none" })
        }
        Operation::SetVfs(count) => {
            format!("echo {count} > /sys/bus/{}/devices/{}/sriov_numvfs", handle.bus, handle.device)
        }
        Operation::Unbind(function) => names.bind(*function, None),
        Operation::Bind(function, driver) => names.bind(*function, Some(driver)),
        Operation::AddSf(function) => format!(
            "devlink port add {handle} flavour pcisf pfnum {} sfnum {}",
            names.nic.map_or(0, |nic| nic.pf),
            number(*function)
        ),
        Operation::DeleteSf(function) => format!("devlink port del {}", names.port(*function)),
        Operation::SetHwAddr(function, mac) => match names.has_port(*function) {
            true => format!("devlink port function set {} hw_addr {mac}", names.port(*function)),
            false => {
                format!("ip link set {} vf {} mac {mac}", names.device(Device::Uplink), number(*function))
            }
        },
        Operation::SetActive(function, active) => format!(
            "devlink port function set {} state {}",
            names.port(*function),
            if *active { "active" } else { "inactive" }
        ),
        Operation::SetTrust(function, trust) => format!(
            "ip link set {} vf {} trust {}",
            names.device(Device::Uplink),
            number(*function),
            on(trust)
        ),
        Operation::SetAddress(function, mac) => names.link(Device::Own(*function), &format!("address {mac}")),
        Operation::SetMtu(device, mtu) => names.link(*device, &format!("mtu {mtu}")),
        Operation::SetHwTcOffload(device, is_on) => {
            format!("ethtool -K {} hw-tc-offload {}", names.device(*device), on(is_on))
        }
        Operation::SetUp(device, up) => names.link(*device, if *up { "up" } else { "down" }),
        Operation::Attach { port, bridge, external_ids } => {
            let port = match port {
                AttachedPort::Representor(function) => names.device(Device::Representor(*function)),
                AttachedPort::Named(name) => name.clone(),
            };
            let set = ids(external_ids);
            let set = if set.is_empty() { set } else { format!(" -- set Interface {port}{set}") };
            format!("ovs-vsctl add-port {bridge} {port}{set}")
        }
        Operation::Detach { port, bridge } => format!("ovs-vsctl --if-exists del-port {bridge} {port}"),
        Operation::SetIds { function, set, remove } => {
            let port = names.device(Device::Representor(*function));
            let mut parts: Vec<String> = Vec::new();
            if !remove.is_empty() {
                let keys: Vec<&str> = remove.iter().map(String::as_str).collect();
                parts.push(format!("remove Interface {port} external_ids {}", keys.join(" ")));
            }
            if !set.is_empty() {
                parts.push(format!("set Interface {port}{}", ids(set)));
            }
            format!("ovs-vsctl {}", parts.join(" -- "))
        }
        Operation::Hand(function, netns) => {
            let id = match netns {
                NetnsRef::Id(id) => format!("<the namespace with nsid {id}>"),
                named => named.to_string(),
            };
            names.link(Device::Own(*function), &format!("netns {id}"))
        }
        Operation::TakeBack(function) => names.link(Device::Own(*function), "netns 1"),
    }
}

fn number(function: Function) -> u32 {
    match function.kind {
        FunctionKind::Vf(number) => number.into(),
        FunctionKind::Sf(number) => number,
    }
}

/// Keys and values as `ovs-vsctl set` takes them, quoted for a shell where that is needed.
fn ids(external_ids: &BTreeMap<String, String>) -> String {
    let plain = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    external_ids
        .iter()
        .map(|(key, value)| match plain(key) && plain(value) && !value.is_empty() {
            true => format!(" external_ids:{key}={value}"),
            false => {
                let quoted = format!("external_ids:{key:?}={value:?}").replace('\'', "'\\''");
                format!(" '{quoted}'")
            }
        })
        .collect()
}

struct Names<'a> {
    handle: &'a Handle,
    now: &'a Observed,
    nic: Option<&'a Nic>,
}

impl Names<'_> {
    fn device(&self, device: Device) -> String {
        match self.now.device(device) {
            Some(netdev) => netdev.name.clone(),
            None => format!("<{device}>"),
        }
    }

    fn has_port(&self, function: Function) -> bool {
        function.own_vf().is_none() || self.now.function(function).is_some_and(|it| it.port_index.is_some())
    }

    fn port(&self, function: Function) -> String {
        match self.now.function(function).and_then(|state| state.port_index) {
            Some(index) => format!("{}/{index}", self.handle),
            None => format!("<the devlink port of {function}>"),
        }
    }

    /// `ip link set`, in the namespace where the device is.
    fn link(&self, device: Device, what: &str) -> String {
        let name = self.device(device);
        let place = match device {
            Device::Own(function) => self.now.function(function).map(|state| state.place),
            _ => None,
        };
        match place {
            Some(Place::Away(id)) => {
                let mut named = self.now.namespaces.keys();
                let netns = named.find(|netns| self.now.place_of(netns) == Some(Place::Away(id)));
                let path = netns.and_then(NetnsRef::path);
                let path = path.map_or_else(|| format!("<nsid {id}>"), |path| path.display().to_string());
                format!("nsenter --net={path} ip link set {name} {what}")
            }
            _ => format!("ip link set {name} {what}"),
        }
    }

    fn bind(&self, function: Function, to: Option<&str>) -> String {
        let state = self.now.function(function);
        let device = state.and_then(|state| state.device.clone());
        let device = device.unwrap_or_else(|| format!("<the device of {function}>"));
        let bus = state.and_then(|state| state.bus.as_deref()).unwrap_or(&self.handle.bus);
        match (to, state.map(|state| &state.driver)) {
            (Some(driver), _) => format!("echo {device} > /sys/bus/{bus}/drivers/{driver}/bind"),
            (None, Some(Driver::Bound(driver))) => {
                format!("echo {device} > /sys/bus/{bus}/drivers/{driver}/unbind")
            }
            (None, _) => format!("echo {device} > /sys/bus/{bus}/devices/{device}/driver/unbind"),
        }
    }
}
