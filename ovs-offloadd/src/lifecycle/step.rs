//! One operation on a NIC: how it reads, the command that does it, what shows that it is done, and what undoes it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use netlink_wire::MacAddr;
use netlink_wire::devlink::{EswitchMode, InlineMode};

use super::declared::{Function, NetnsRef};
use super::observed::{Attachment, Driver, Netdev, Nic, Observed, Place};

/// A network device of a NIC, by what it is: names and numbers change when it is made anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Device {
    /// The uplink.
    Uplink,
    /// A function's representor.
    Representor(Function),
    /// A function's own device.
    Own(Function),
}

/// A port that is attached to a bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttachedPort {
    /// The representor of this function, whatever it is called.
    Representor(Function),
    /// A port whose representor is gone, by its name: only an undo attaches such a one.
    Named(String),
}

/// What can be done to a NIC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// The daemon empties the NIC of flows and keeps it empty, or uses it again.
    Drain(bool),
    /// `DEVLINK_CMD_ESWITCH_SET` of the mode.
    SetMode(EswitchMode),
    /// `DEVLINK_CMD_ESWITCH_SET` of the inline mode.
    SetInline(InlineMode),
    /// `DEVLINK_CMD_ESWITCH_SET` of the encapsulation mode.
    SetEncap(bool),
    /// sysfs `sriov_numvfs`.
    SetVfs(u16),
    /// sysfs `driver/unbind`.
    Unbind(Function),
    /// sysfs `drivers/DRIVER/bind`.
    Bind(Function, String),
    /// `DEVLINK_CMD_PORT_NEW`.
    AddSf(Function),
    /// `DEVLINK_CMD_PORT_DEL`.
    DeleteSf(Function),
    /// `DEVLINK_PORT_FUNCTION_ATTR_HW_ADDR`.
    SetHwAddr(Function, MacAddr),
    /// `DEVLINK_PORT_FN_ATTR_STATE`.
    SetActive(Function, bool),
    /// `IFLA_VF_TRUST`.
    SetTrust(Function, bool),
    /// `IFLA_ADDRESS` of the function's own device.
    SetAddress(Function, MacAddr),
    /// `IFLA_MTU`.
    SetMtu(Device, u32),
    /// `hw-tc-offload` of ethtool.
    SetHwTcOffload(Device, bool),
    /// `IFF_UP`.
    SetUp(Device, bool),
    /// A representor becomes a port of a bridge.
    Attach {
        /// Which.
        port: AttachedPort,
        /// The bridge.
        bridge: String,
        /// The interface's `external_ids`.
        external_ids: BTreeMap<String, String>,
    },
    /// A port leaves its bridge.
    Detach {
        /// The port's name.
        port: String,
        /// Its bridge.
        bridge: String,
    },
    /// Some `external_ids` of a representor's interface change; others stay.
    SetIds {
        /// Whose representor.
        function: Function,
        /// Keys that get these values.
        set: BTreeMap<String, String>,
        /// Keys that go.
        remove: BTreeSet<String>,
    },
    /// The function's own device goes from our namespace to this one.
    Hand(Function, NetnsRef),
    /// The function's own device comes back to our namespace.
    TakeBack(Function),
}

impl Observed {
    /// A device, if it is there.
    pub fn device(&self, device: Device) -> Option<&Netdev> {
        let nic = self.nic.as_ref()?;
        match device {
            Device::Uplink => nic.uplink.as_ref(),
            Device::Representor(function) => nic.functions.get(&function)?.representor.as_ref(),
            Device::Own(function) => nic.functions.get(&function)?.netdev.as_ref(),
        }
    }
}

impl Operation {
    /// Whether what it is done to is there. What a step before brings about may take a moment.
    pub fn can_begin(&self, now: &Observed) -> bool {
        let function = |function: &Function| now.function(*function);
        match self {
            Self::SetMtu(device, _) | Self::SetHwTcOffload(device, _) | Self::SetUp(device, _) => {
                now.device(*device).is_some()
            }
            Self::SetAddress(at, _) | Self::Hand(at, _) | Self::TakeBack(at) => {
                now.device(Device::Own(*at)).is_some()
            }
            Self::Attach { port: AttachedPort::Representor(at), .. } => {
                now.device(Device::Representor(*at)).is_some()
            }
            Self::SetIds { function: at, .. } => function(at).is_some_and(|state| state.attachment.is_some()),
            Self::SetHwAddr(at, _) | Self::SetTrust(at, _) => function(at).is_some(),
            Self::SetActive(at, _) | Self::DeleteSf(at) => {
                function(at).is_some_and(|state| state.port_index.is_some())
            }
            Self::Unbind(at) | Self::Bind(at, _) => function(at).is_some_and(|state| state.device.is_some()),
            _ => now.nic.is_some(),
        }
    }

    /// Whether what was read back shows that it is done.
    pub fn holds(&self, now: &Observed) -> bool {
        let Some(nic) = &now.nic else { return false };
        let state = |function: &Function| nic.functions.get(function);
        let device = |device: &Device| now.device(*device);
        match self {
            Self::Drain(true) => now.drain.is_none_or(|drain| drain.on && drain.in_hardware == 0),
            Self::Drain(false) => now.drain.is_none_or(|drain| !drain.on),
            Self::SetMode(mode) => nic.mode == Some(*mode),
            Self::SetInline(mode) => nic.inline == Some(*mode),
            Self::SetEncap(on) => nic.encap == Some(*on),
            Self::SetVfs(count) => nic.vfs == *count,
            Self::Unbind(at) => state(at).is_some_and(|state| state.driver == Driver::Unbound),
            Self::Bind(at, driver) => {
                state(at).is_some_and(|state| state.driver == Driver::Bound(driver.clone()))
            }
            Self::AddSf(at) => state(at).is_some(),
            Self::DeleteSf(at) => state(at).is_none(),
            Self::SetHwAddr(at, mac) => state(at).is_some_and(|state| state.hw_addr == Some(*mac)),
            Self::SetActive(at, on) => state(at).is_some_and(|state| state.active == Some(*on)),
            Self::SetTrust(at, on) => state(at).is_some_and(|state| state.trust == Some(*on)),
            Self::SetAddress(at, mac) => device(&Device::Own(*at)).is_some_and(|it| it.address == Some(*mac)),
            Self::SetMtu(at, mtu) => device(at).is_some_and(|it| it.mtu == *mtu),
            Self::SetHwTcOffload(at, on) => device(at).is_some_and(|it| it.hw_tc_offload == Some(*on)),
            Self::SetUp(at, up) => device(at).is_some_and(|it| it.up == *up),
            Self::Attach { port, bridge, external_ids } => {
                let attachment = match port {
                    AttachedPort::Representor(at) => state(at).and_then(|state| state.attachment.as_ref()),
                    AttachedPort::Named(name) => attachment(nic, name).map(|(_, it)| it),
                };
                // Others may have added theirs meanwhile.
                attachment.is_some_and(|it| {
                    it.bridge == *bridge
                        && external_ids.iter().all(|(key, value)| it.external_ids.get(key) == Some(value))
                })
            }
            Self::Detach { port, bridge } => attachment(nic, port).is_none_or(|(_, it)| it.bridge != *bridge),
            Self::SetIds { function, set, remove } => {
                let attachment = state(function).and_then(|state| state.attachment.as_ref());
                attachment.is_some_and(|it| {
                    set.iter().all(|(key, value)| it.external_ids.get(key) == Some(value))
                        && !remove.iter().any(|key| it.external_ids.contains_key(key))
                })
            }
            Self::Hand(at, netns) => {
                let place = now.place_of(netns);
                place.is_some() && state(at).is_some_and(|it| it.netdev.is_some() && Some(it.place) == place)
            }
            Self::TakeBack(at) => state(at).is_some_and(|it| it.netdev.is_some() && it.place == Place::Home),
        }
    }

    /// The operation that brings back what was before; none where nobody can know what that was.
    pub fn inverse(&self, before: &Observed) -> Option<Self> {
        let nic = before.nic.as_ref()?;
        let state = |function: &Function| nic.functions.get(function);
        let device = |device: &Device| before.device(*device);
        Some(match self {
            Self::Drain(on) => Self::Drain(!on),
            Self::SetMode(_) => Self::SetMode(nic.mode?),
            Self::SetInline(_) => Self::SetInline(nic.inline?),
            Self::SetEncap(_) => Self::SetEncap(nic.encap?),
            Self::SetVfs(_) => Self::SetVfs(nic.vfs),
            Self::Unbind(at) | Self::Bind(at, _) => match &state(at)?.driver {
                Driver::Unknown => return None,
                Driver::Unbound => Self::Unbind(*at),
                Driver::Bound(driver) => Self::Bind(*at, driver.clone()),
            },
            Self::AddSf(at) => Self::DeleteSf(*at),
            Self::DeleteSf(at) => Self::AddSf(*at),
            Self::SetHwAddr(at, _) => Self::SetHwAddr(*at, state(at)?.hw_addr?),
            Self::SetActive(at, _) => Self::SetActive(*at, state(at)?.active?),
            Self::SetTrust(at, _) => Self::SetTrust(*at, state(at)?.trust?),
            Self::SetAddress(at, _) => Self::SetAddress(*at, device(&Device::Own(*at))?.address?),
            Self::SetMtu(at, _) => Self::SetMtu(*at, device(at)?.mtu),
            Self::SetHwTcOffload(at, _) => Self::SetHwTcOffload(*at, device(at)?.hw_tc_offload?),
            Self::SetUp(at, _) => Self::SetUp(*at, device(at)?.up),
            Self::Attach { port: AttachedPort::Representor(at), bridge, .. } => {
                let port = device(&Device::Representor(*at))?.name.clone();
                Self::Detach { port, bridge: bridge.clone() }
            }
            Self::Attach { port: AttachedPort::Named(port), bridge, .. } => {
                Self::Detach { port: port.clone(), bridge: bridge.clone() }
            }
            Self::Detach { port, .. } => {
                let (function, was) = attachment(nic, port)?;
                let port =
                    function.map_or_else(|| AttachedPort::Named(port.clone()), AttachedPort::Representor);
                Self::Attach { port, bridge: was.bridge.clone(), external_ids: was.external_ids.clone() }
            }
            Self::SetIds { function, set, remove } => {
                let was = &state(function)?.attachment.as_ref()?.external_ids;
                let keys = set.keys().chain(remove);
                let old = keys.filter_map(|key| Some((key.clone(), was.get(key)?.clone()))).collect();
                let new = set.keys().filter(|key| !was.contains_key(*key)).cloned().collect();
                Self::SetIds { function: *function, set: old, remove: new }
            }
            Self::Hand(at, _) => Self::TakeBack(*at),
            Self::TakeBack(at) => match state(at)?.place {
                Place::Home => return None,
                Place::Away(id) => Self::Hand(*at, NetnsRef::Id(id)),
            },
        })
    }
}

/// The attachment of a port of this NIC, and the function whose representor it is.
fn attachment<'n>(nic: &'n Nic, port: &str) -> Option<(Option<Function>, &'n Attachment)> {
    let live = nic.functions.iter().filter_map(|(at, state)| Some((Some(*at), state.attachment.as_ref()?)));
    let stale = nic.stale.values().map(|it| (None, it));
    live.chain(stale).find(|(_, it)| it.port == port)
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uplink => f.write_str("the uplink"),
            Self::Representor(function) => write!(f, "the representor of {function}"),
            Self::Own(function) => write!(f, "the network device of {function}"),
        }
    }
}

impl fmt::Display for AttachedPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Representor(function) => Device::Representor(*function).fmt(f),
            Self::Named(name) => write!(f, "port {name}"),
        }
    }
}

const fn on_off(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let up_down = |up: &bool| if *up { "up" } else { "down" };
        match self {
            Self::Drain(true) => f.write_str("empty the NIC of flows, and keep it empty"),
            Self::Drain(false) => f.write_str("use the NIC for flows again"),
            Self::SetMode(mode) => write!(f, "set the eswitch to {mode}"),
            Self::SetInline(mode) => write!(f, "set the inline mode to {mode}"),
            Self::SetEncap(on) => write!(f, "turn encapsulation {}", on_off(*on)),
            Self::SetVfs(count) => write!(f, "set the number of VFs to {count}"),
            Self::Unbind(at) => write!(f, "unbind {at} from its driver"),
            Self::Bind(at, driver) => write!(f, "bind {at} to {driver}"),
            Self::AddSf(at) => write!(f, "make {at}"),
            Self::DeleteSf(at) => write!(f, "remove {at}"),
            Self::SetHwAddr(at, mac) => write!(f, "give {at} the MAC address {mac}"),
            Self::SetActive(at, true) => write!(f, "activate {at}"),
            Self::SetActive(at, false) => write!(f, "deactivate {at}"),
            Self::SetTrust(at, on) => write!(f, "turn trust in {at} {}", on_off(*on)),
            Self::SetAddress(at, mac) => write!(f, "give the network device of {at} the MAC address {mac}"),
            Self::SetMtu(at, mtu) => write!(f, "set the MTU of {at} to {mtu}"),
            Self::SetHwTcOffload(at, on) => write!(f, "turn hw-tc-offload of {at} {}", on_off(*on)),
            Self::SetUp(at, up) => write!(f, "set {at} {}", up_down(up)),
            Self::Attach { port, bridge, .. } => write!(f, "attach {port} to bridge {bridge}"),
            Self::Detach { port, bridge } => write!(f, "remove port {port} from bridge {bridge}"),
            Self::SetIds { function, .. } => {
                write!(f, "set the external_ids of the representor of {function}")
            }
            Self::Hand(at, netns) => write!(f, "hand {at} to the network namespace {netns}"),
            Self::TakeBack(at) => write!(f, "take {at} back from its network namespace"),
        }
    }
}
