//! What a NIC shall be: all that it is, with what is declared in its place.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use netlink_wire::MacAddr;
use netlink_wire::devlink::{EswitchMode, InlineMode};

use super::declared::{Attach, DeclaredNic, DeclaredPort, Function, FunctionKind, NetnsRef, NetnsWanted};
use super::observed::{Driver, FunctionState, MARK, Namespace, Netdev, Nic, Observed, Place, mark};

/// Something that is declared and cannot be: nothing is done then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unmet {
    /// What.
    pub what: String,
    /// Why not.
    pub why: String,
}

impl fmt::Display for Unmet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.why)
    }
}

/// What a network device shall be; what is absent may be anything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NetdevWanted {
    /// Up or down.
    pub up: Option<bool>,
    /// In bytes.
    pub mtu: Option<u32>,
    /// `hw-tc-offload`.
    pub hw_tc_offload: Option<bool>,
    /// Its address.
    pub address: Option<MacAddr>,
}

impl NetdevWanted {
    fn as_is(netdev: &Netdev) -> Self {
        Self {
            up: Some(netdev.up),
            mtu: Some(netdev.mtu),
            hw_tc_offload: netdev.hw_tc_offload,
            address: netdev.address,
        }
    }
}

/// Where a representor shall be attached.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum AttachWanted {
    /// Wherever it is.
    #[default]
    Any,
    /// Nowhere.
    Nowhere,
    /// To this bridge with exactly these `external_ids`.
    At(String, BTreeMap<String, String>),
}

/// Where a function's own device shall be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlaceWanted {
    /// With us.
    Home,
    /// In this namespace.
    In(NetnsRef),
}

/// What a function shall be; what is absent may be anything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FunctionWanted {
    /// [`Driver::Unknown`]: any.
    pub driver: Driver,
    /// The address that it will see as its own.
    pub hw_addr: Option<MacAddr>,
    /// Active or not.
    pub active: Option<bool>,
    /// Trusted or not.
    pub trust: Option<bool>,
    /// Its representor.
    pub representor: NetdevWanted,
    /// Its own device.
    pub netdev: NetdevWanted,
    /// Where that is.
    pub place: Option<PlaceWanted>,
    /// Where the representor is attached.
    pub attach: AttachWanted,
}

/// What a NIC shall be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Target {
    /// Mode of its eswitch.
    pub mode: Option<EswitchMode>,
    /// Inline mode.
    pub inline: Option<InlineMode>,
    /// Encapsulation.
    pub encap: Option<bool>,
    /// Virtual functions.
    pub vfs: u16,
    /// The uplink.
    pub uplink: NetdevWanted,
    /// Its functions: no others of this host shall exist.
    pub functions: BTreeMap<Function, FunctionWanted>,
    /// Ports whose representor is gone and that stay, by name.
    pub stale: BTreeSet<String>,
}

impl FunctionWanted {
    fn as_is(state: &FunctionState) -> Self {
        let place = state.netdev.as_ref().map(|_| match state.place {
            Place::Home => PlaceWanted::Home,
            Place::Away(id) => PlaceWanted::In(NetnsRef::Id(id)),
        });
        Self {
            driver: state.driver.clone(),
            hw_addr: state.hw_addr,
            active: state.active,
            trust: state.trust,
            representor: state.representor.as_ref().map(NetdevWanted::as_is).unwrap_or_default(),
            netdev: state.netdev.as_ref().map(NetdevWanted::as_is).unwrap_or_default(),
            place,
            attach: match &state.attachment {
                Some(it) => AttachWanted::At(it.bridge.clone(), it.external_ids.clone()),
                None => AttachWanted::Nowhere,
            },
        }
    }
}

impl Target {
    /// The NIC as it is.
    pub fn as_is(nic: &Nic) -> Self {
        let functions = nic.functions.iter();
        Self {
            mode: nic.mode,
            inline: nic.inline,
            encap: nic.encap,
            vfs: nic.vfs,
            uplink: nic.uplink.as_ref().map(NetdevWanted::as_is).unwrap_or_default(),
            functions: functions.map(|(at, state)| (*at, FunctionWanted::as_is(state))).collect(),
            stale: nic.stale.keys().cloned().collect(),
        }
    }

    /// The NIC as it is, with what is declared in its place.
    ///
    /// # Errors
    /// All that is declared and cannot be.
    pub fn of(declared: &DeclaredNic, now: &Observed) -> Result<Self, Vec<Unmet>> {
        let Some(nic) = &now.nic else {
            let why = "there is no such devlink instance, or it has no eswitch and no SR-IOV".to_owned();
            return Err(vec![Unmet { what: declared.handle.to_string(), why }]);
        };
        let mut making = Making { declared, now, nic, target: Self::as_is(nic), unmet: Vec::new() };
        making.eswitch();
        making.functions();
        for port in &declared.ports {
            making.port(port);
        }
        // A port with our mark and without a representor is nobody's any more.
        making.target.stale.clear();
        if making.unmet.is_empty() { Ok(making.target) } else { Err(making.unmet) }
    }
}

struct Making<'a> {
    declared: &'a DeclaredNic,
    now: &'a Observed,
    nic: &'a Nic,
    target: Target,
    unmet: Vec<Unmet>,
}

impl Making<'_> {
    fn refuse(&mut self, what: impl fmt::Display, why: impl Into<String>) {
        self.unmet.push(Unmet { what: what.to_string(), why: why.into() });
    }

    fn eswitch(&mut self) {
        let declared = self.declared;
        let absent = "the NIC tells of none";
        if declared.mode.is_some() && self.nic.mode.is_none() {
            self.refuse("eswitch-mode", absent);
        }
        if declared.inline.is_some() && self.nic.inline.is_none() {
            self.refuse("inline-mode", absent);
        }
        if declared.encap.is_some() && self.nic.encap.is_none() {
            self.refuse("encap-mode", absent);
        }
        self.target.mode = declared.mode.or(self.target.mode);
        self.target.inline = declared.inline.or(self.target.inline);
        self.target.encap = declared.encap.or(self.target.encap);
        if (declared.mtu.is_some() || declared.hw_tc_offload.is_some()) && self.nic.uplink.is_none() {
            self.refuse("mtu, hw-tc-offload", "the NIC has no uplink in this network namespace");
        }
        self.target.uplink.mtu = declared.mtu.or(self.target.uplink.mtu);
        self.target.uplink.hw_tc_offload = declared.hw_tc_offload.or(self.target.uplink.hw_tc_offload);
    }

    fn functions(&mut self) {
        let vfs = self.declared.vfs.unwrap_or(self.nic.vfs);
        match self.nic.vfs_max {
            None if vfs != self.nic.vfs => self.refuse("vfs", "the NIC has no SR-IOV"),
            Some(most) if vfs > most => self.refuse("vfs", format!("the NIC has {most} at most")),
            _ => {}
        }
        let mode_changes = self.target.mode != self.nic.mode;
        let vfs_vanish = vfs != self.nic.vfs && self.nic.vfs > 0;
        self.target.vfs = vfs;
        for number in 0..vfs.max(self.nic.vfs) {
            let function = Function::vf(number);
            if mode_changes || vfs_vanish {
                self.refuse_if_in_use(function, number < vfs);
            }
            if number >= vfs {
                self.target.functions.remove(&function);
            } else {
                self.target.functions.entry(function).or_default();
            }
        }
        self.sub_functions();
        if mode_changes {
            let to_legacy = self.target.mode == Some(EswitchMode::Legacy);
            for wanted in self.target.functions.values_mut() {
                // Representors come and go with the mode, and with them what can be said of them.
                wanted.representor = NetdevWanted::default();
                wanted.attach = AttachWanted::Nowhere;
                if to_legacy {
                    wanted.hw_addr = None;
                } else {
                    wanted.attach = AttachWanted::Any;
                }
            }
        }
    }

    fn sub_functions(&mut self) {
        let own: Vec<u32> = self.nic.functions.keys().filter_map(|function| function.own_sf()).collect();
        if let Some(count) = self.declared.sfs {
            for number in own.iter().copied().filter(|number| *number >= count) {
                self.refuse_if_in_use(Function::sf(number), false);
                self.target.functions.remove(&Function::sf(number));
            }
            for number in 0..count {
                self.target.functions.entry(Function::sf(number)).or_default();
            }
        }
        for port in &self.declared.ports {
            if port.function.own_sf().is_some() {
                self.target.functions.entry(port.function).or_default();
            }
        }
        let some = self.target.functions.keys().find(|function| function.own_sf().is_some()).copied();
        if let (Some(function), Some(EswitchMode::Legacy)) = (some, self.target.mode) {
            self.refuse(function, "sub-functions need the eswitch in switchdev mode");
        }
    }

    /// Taking its driver away from under a workload is nothing that a number in a file should do.
    fn refuse_if_in_use(&mut self, function: Function, stays: bool) {
        let Some(state) = self.nic.functions.get(&function) else { return };
        let declared = self.declared.ports.iter().find(|port| port.function == function);
        let ours = match (declared.and_then(|port| port.netns.as_ref()), state.place) {
            (_, Place::Home) => true,
            (Some(NetnsWanted::Home), Place::Away(_)) => true,
            (Some(NetnsWanted::In(netns)), place) => stays && self.now.place_of(netns) == Some(place),
            (None, Place::Away(_)) => false,
        };
        if state.netdev.is_some() && !ours {
            self.refuse(function, format!("its network device is in another namespace ({})", state.place));
        }
        if let Driver::Bound(driver) = &state.driver
            && driver.starts_with("vfio")
        {
            self.refuse(function, format!("{driver} has it, for a virtual machine perhaps"));
        }
    }

    fn port(&mut self, port: &DeclaredPort) {
        let function = port.function;
        let Some(mut wanted) = self.target.functions.remove(&function) else {
            let why = match function.kind {
                FunctionKind::Vf(_) if function.controller == 0 => {
                    format!("the NIC has {} VFs", self.target.vfs)
                }
                _ => "there is no such function".to_owned(),
            };
            return self.refuse(function, why);
        };
        let state = self.nic.functions.get(&function);
        wanted.hw_addr = port.mac.or(wanted.hw_addr);
        wanted.netdev.address = port.mac.or(wanted.netdev.address);
        wanted.active = port.active.or(wanted.active);
        wanted.trust = port.trust.or(wanted.trust);
        wanted.representor.up = port.up.or(wanted.representor.up);
        wanted.representor.mtu = port.mtu.or(wanted.representor.mtu);
        wanted.netdev.mtu = port.mtu.or(wanted.netdev.mtu);
        if self.target.mode == Some(EswitchMode::Switchdev) {
            let on = self.declared.hw_tc_offload;
            wanted.representor.hw_tc_offload = on.or(wanted.representor.hw_tc_offload);
        } else if port.up.is_some() || matches!(port.attach, Some(Attach::Bridge { .. })) {
            self.refuse(function, "it has a representor in switchdev mode only");
        }
        // No device of its own on this host: nothing can be said of it.
        let has_none = |state: &FunctionState| state.device.is_none() && state.netdev.is_none();
        let hosted_here =
            function.controller == 0 && !(state.is_some_and(has_none) && wanted.active != Some(true));
        if !hosted_here || matches!(wanted.driver, Driver::Unbound) {
            wanted.netdev = NetdevWanted::default();
        }
        self.namespace(port, &mut wanted, hosted_here);
        self.attach(port, &mut wanted);
        self.target.functions.insert(function, wanted);
    }

    fn namespace(&mut self, port: &DeclaredPort, wanted: &mut FunctionWanted, hosted_here: bool) {
        let function = port.function;
        let state = self.nic.functions.get(&function);
        match &port.netns {
            None => {}
            Some(_) if !hosted_here => self.refuse(function, "it has no network device on this host"),
            Some(NetnsWanted::Home) => {
                wanted.place = state.and_then(|state| state.netdev.as_ref()).map(|_| PlaceWanted::Home);
            }
            Some(NetnsWanted::In(netns)) => {
                if let Some(Namespace::Missing(why)) = self.now.namespaces.get(netns) {
                    self.refuse(function, format!("network namespace {netns}: {why}"));
                }
                if let Driver::Unbound = wanted.driver {
                    self.refuse(function, "no driver is bound to it, so that it has no network device");
                }
                let place = state.filter(|state| state.netdev.is_some()).map(|state| state.place);
                let there = self.now.place_of(netns);
                if let Some(place @ Place::Away(_)) = place
                    && Some(place) != there
                {
                    self.refuse(function, format!("its network device is in another namespace ({place})"));
                }
                // Known by its number where it has one, as what is read back knows it.
                wanted.place = Some(PlaceWanted::In(netns.clone()));
                // Whoever is in that namespace sets it up.
                wanted.netdev.up = None;
            }
        }
    }

    fn attach(&mut self, port: &DeclaredPort, wanted: &mut FunctionWanted) {
        let function = port.function;
        let current = self.nic.functions.get(&function).and_then(|state| state.attachment.as_ref());
        match (&port.attach, current) {
            (None, _) => {}
            (Some(Attach::Nowhere), Some(it)) if !it.is_ours() => {
                let why = format!("port {} of bridge {} was not attached by us", it.port, it.bridge);
                self.refuse(function, why);
            }
            (Some(Attach::Nowhere), _) => wanted.attach = AttachWanted::Nowhere,
            (Some(Attach::Bridge { bridge, external_ids, may_move }), current) => {
                match &self.now.bridges {
                    None => self.refuse(function, "Open vSwitch's database cannot be read"),
                    Some(bridges) if !bridges.contains(bridge) => {
                        self.refuse(function, format!("there is no bridge {bridge}"));
                    }
                    Some(_) => {}
                }
                let mut ids = BTreeMap::new();
                match current {
                    Some(it) if it.bridge == *bridge || *may_move || it.is_ours() => {
                        ids.extend(it.external_ids.clone());
                    }
                    Some(it) => {
                        let why = format!("port {} is on bridge {}, and not by us", it.port, it.bridge);
                        self.refuse(function, why);
                    }
                    None => {}
                }
                ids.extend(external_ids.clone());
                // What somebody else attached stays theirs; what we attach can be told by its mark.
                if current.is_none_or(|it| it.is_ours() || it.bridge != *bridge) {
                    ids.insert(MARK.to_owned(), mark(&self.declared.handle, function));
                }
                wanted.attach = AttachWanted::At(bridge.clone(), ids);
            }
        }
    }
}
