//! A NIC as it was found: what a plan starts from, what a step is verified by, and what an undo restores.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use netlink_wire::devlink::{EswitchMode, Handle, InlineMode};
use netlink_wire::{Ifindex, MacAddr, NetnsId};

use super::declared::{Function, NetnsRef};

/// The key of an interface's `external_ids` that marks a port as attached by us; its value is what [`mark`] makes.
pub const MARK: &str = "offloadd-attached";

/// What marks the port of a function's representor: `pci/0000:03:00.0 vf3`.
pub fn mark(handle: &Handle, function: Function) -> String {
    format!("{handle} {}", function.word())
}

/// The NIC and the function that a mark names.
pub fn read_mark(text: &str) -> Option<(Handle, Function)> {
    let (handle, function) = text.split_once(' ')?;
    Some((handle.parse().ok()?, Function::from_word(function)?))
}

/// A network device of a NIC.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Netdev {
    /// Its number in the namespace it is in.
    pub ifindex: Ifindex,
    /// Its name there.
    pub name: String,
    /// Whether the administrator has set it up.
    pub up: bool,
    /// In bytes.
    pub mtu: u32,
    /// Its Ethernet address.
    pub address: Option<MacAddr>,
    /// `hw-tc-offload`; none where it cannot be had or was not asked for.
    pub hw_tc_offload: Option<bool>,
}

/// Where a function's network device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Place {
    /// In our own network namespace.
    #[default]
    Home,
    /// In another, by its number in ours.
    Away(NetnsId),
}

/// What drives a function.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Driver {
    /// Nothing is known: the function has no device of its own on this host.
    #[default]
    Unknown,
    /// None is bound.
    Unbound,
    /// This one.
    Bound(String),
}

/// A port of Open vSwitch that a representor is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Attachment {
    /// The port's name.
    pub port: String,
    /// Its bridge.
    pub bridge: String,
    /// The interface's `external_ids`.
    pub external_ids: BTreeMap<String, String>,
}

impl Attachment {
    /// Whether it was attached by us.
    pub fn is_ours(&self) -> bool {
        self.external_ids.contains_key(MARK)
    }
}

/// A virtual function or sub-function.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FunctionState {
    /// Name of its device on its bus: `0000:03:00.2`, or `mlx5_core.sf.4`.
    pub device: Option<String>,
    /// That bus: `pci`, `auxiliary`.
    pub bus: Option<String>,
    /// What drives it.
    pub driver: Driver,
    /// Index of its devlink port.
    pub port_index: Option<u32>,
    /// The address that it will see as its own.
    pub hw_addr: Option<MacAddr>,
    /// Whether a sub-function is active.
    pub active: Option<bool>,
    /// Whether it is trusted.
    pub trust: Option<bool>,
    /// Its representor.
    pub representor: Option<Netdev>,
    /// The function's own network device.
    pub netdev: Option<Netdev>,
    /// Where that is.
    pub place: Place,
    /// The port of Open vSwitch that its representor is.
    pub attachment: Option<Attachment>,
}

/// A NIC with an eswitch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Nic {
    /// Mode of its eswitch; none where it has none.
    pub mode: Option<EswitchMode>,
    /// Inline mode.
    pub inline: Option<InlineMode>,
    /// Whether it encapsulates.
    pub encap: Option<bool>,
    /// Virtual functions there are.
    pub vfs: u16,
    /// Virtual functions there can be; none where it has no SR-IOV.
    pub vfs_max: Option<u16>,
    /// Number of the physical function.
    pub pf: u16,
    /// Its uplink.
    pub uplink: Option<Netdev>,
    /// All its functions.
    pub functions: BTreeMap<Function, FunctionState>,
    /// Ports of Open vSwitch with our mark and this NIC's handle whose representor is gone, by name.
    pub stale: BTreeMap<String, Attachment>,
}

/// A network namespace that somebody named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Namespace {
    /// It cannot be had, with the reason.
    Missing(String),
    /// It exists, and nothing of ours has been in it yet.
    Unnumbered,
    /// It exists and has this number in ours.
    Numbered(NetnsId),
}

/// Everything that a plan for one NIC needs to know.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Observed {
    /// The NIC; none where it is not there.
    pub nic: Option<Nic>,
    /// The namespaces that were asked for.
    pub namespaces: BTreeMap<NetnsRef, Namespace>,
    /// Open vSwitch's bridges; none where its database cannot be had.
    pub bridges: Option<BTreeSet<String>>,
    /// What a running daemon says of the NIC's flows.
    pub drain: Option<Drain>,
}

/// What a running daemon says of a NIC's flows. Without one nothing can be drained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Drain {
    /// Whether the NIC is kept empty.
    pub on: bool,
    /// Flows that are in hardware.
    pub in_hardware: u64,
}

impl Observed {
    /// Where a namespace is, if a device can be there.
    pub fn place_of(&self, netns: &NetnsRef) -> Option<Place> {
        match netns {
            NetnsRef::Id(id) => Some(Place::Away(*id)),
            named => match self.namespaces.get(named) {
                Some(Namespace::Numbered(id)) => Some(Place::Away(*id)),
                _ => None,
            },
        }
    }

    /// The function's state, if there is such a function.
    pub fn function(&self, function: Function) -> Option<&FunctionState> {
        self.nic.as_ref()?.functions.get(&function)
    }
}

impl Netdev {
    fn facts(&self, whose: &str, facts: &mut BTreeMap<String, String>) {
        let mut fact = |what: &str, value: String| facts.insert(format!("{whose}: {what}"), value);
        fact("up", self.up.to_string());
        fact("mtu", self.mtu.to_string());
        if let Some(on) = self.hw_tc_offload {
            fact("hw-tc-offload", on.to_string());
        }
        if let Some(address) = self.address {
            fact("address", address.to_string());
        }
    }
}

impl Attachment {
    fn facts(&self, whose: &str, facts: &mut BTreeMap<String, String>) {
        facts.insert(format!("{whose}: bridge"), self.bridge.clone());
        for (key, value) in &self.external_ids {
            facts.insert(format!("{whose}: external_ids:{key}"), value.clone());
        }
    }
}

impl FunctionState {
    fn facts(&self, function: Function, facts: &mut BTreeMap<String, String>) {
        let mut fact = |what: &str, value: Option<String>| {
            if let Some(value) = value {
                facts.insert(format!("{function}: {what}"), value);
            }
        };
        fact("exists", Some("true".to_owned()));
        fact(
            "driver",
            match &self.driver {
                Driver::Unknown => None,
                Driver::Unbound => Some("none".to_owned()),
                Driver::Bound(driver) => Some(driver.clone()),
            },
        );
        fact("hw_addr", self.hw_addr.map(|mac| mac.to_string()));
        fact("active", self.active.map(|on| on.to_string()));
        fact("trust", self.trust.map(|on| on.to_string()));
        if self.netdev.is_some() {
            fact("namespace", Some(self.place.to_string()));
        }
        if let Some(representor) = &self.representor {
            representor.facts(&format!("{function}'s representor"), facts);
        }
        if let Some(netdev) = &self.netdev {
            netdev.facts(&format!("{function}'s device"), facts);
        }
        if let Some(attachment) = &self.attachment {
            attachment.facts(&format!("port of {function}"), facts);
        }
    }
}

impl Nic {
    /// Everything that can be set, by name. Numbers and names that the kernel gives anew are left out.
    pub fn facts(&self) -> BTreeMap<String, String> {
        let mut facts = BTreeMap::new();
        let mut fact = |what: &str, value: Option<String>| {
            if let Some(value) = value {
                facts.insert(what.to_owned(), value);
            }
        };
        fact("eswitch mode", self.mode.map(|mode| mode.to_string()));
        fact("inline mode", self.inline.map(|mode| mode.to_string()));
        fact("encap mode", self.encap.map(|on| on.to_string()));
        fact("vfs", Some(self.vfs.to_string()));
        if let Some(uplink) = &self.uplink {
            uplink.facts("uplink", &mut facts);
        }
        for (function, state) in &self.functions {
            state.facts(*function, &mut facts);
        }
        for (port, attachment) in &self.stale {
            attachment.facts(&format!("stale port {port}"), &mut facts);
        }
        facts
    }

    /// What is otherwise now than it was, a sentence each.
    pub fn differences(&self, now: &Self) -> Vec<String> {
        let (before, now) = (self.facts(), now.facts());
        let names: BTreeSet<&String> = before.keys().chain(now.keys()).collect();
        let shown = |value: Option<&String>| value.cloned().unwrap_or_else(|| "absent".to_owned());
        names
            .into_iter()
            .filter(|name| before.get(*name) != now.get(*name))
            .map(|name| format!("{name} was {}, is {}", shown(before.get(name)), shown(now.get(name))))
            .collect()
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Home => f.write_str("ours"),
            Self::Away(id) => write!(f, "nsid {id}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_says_which_function_the_port_was_attached_for() {
        let handle: Handle = "pci/0000:03:00.0".parse().unwrap();
        for function in [Function::vf(3), Function::sf(88), Function { controller: 1, ..Function::vf(0) }] {
            assert_eq!(read_mark(&mark(&handle, function)), Some((handle.clone(), function)));
        }
        assert_eq!(mark(&handle, Function::vf(3)), "pci/0000:03:00.0 vf3");
        for text in ["", "pci/0000:03:00.0", "pci/0000:03:00.0 vf", "pci/0000:03:00.0 vf70000", "x vf3"] {
            assert_eq!(read_mark(text), None, "{text}");
        }
    }

    #[test]
    fn differences_leave_out_what_the_kernel_numbers_anew() {
        let netdev = Netdev { ifindex: Ifindex(7), name: "a".into(), mtu: 1500, ..Netdev::default() };
        let before = Nic { uplink: Some(netdev.clone()), ..Nic::default() };
        let mut now = before.clone();
        now.uplink = Some(Netdev { ifindex: Ifindex(9), name: "b".into(), ..netdev.clone() });
        assert_eq!(before.differences(&now), Vec::<String>::new());
        now.uplink = Some(Netdev { mtu: 9000, ..netdev });
        now.vfs = 2;
        assert_eq!(before.differences(&now), ["uplink: mtu was 1500, is 9000", "vfs was 0, is 2"]);
    }
}
