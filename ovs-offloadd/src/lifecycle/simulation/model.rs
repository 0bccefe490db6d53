//! A NIC as a driver and a kernel would have it, and what goes wrong with it.

use std::collections::{BTreeMap, BTreeSet};

use netlink_wire::devlink::{EswitchMode, InlineMode};
use netlink_wire::{Ifindex, MacAddr, NetnsId};

use super::super::declared::{Function, FunctionKind, NetnsRef};
use super::super::observed::{
    Attachment, Drain, Driver, FunctionState, Namespace, Netdev, Nic, Observed, Place, read_mark,
};
use super::super::run::Hands;
use super::super::step::{AttachedPort, Device, Operation};
use super::dice::Dice;

/// What goes wrong with an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// It is refused.
    Refused,
    /// It is refused, and done all the same.
    RefusedAndDone,
    /// It says it is done, and is not.
    Silent,
    /// From here on everything is refused.
    Dead,
    /// From here on nothing can be read for a while.
    Blind,
}

/// When something goes wrong, and what.
#[derive(Debug, Clone, Default)]
pub(super) struct Faults {
    /// Operations until then, and what happens.
    pub(super) at: BTreeMap<u32, Fault>,
    count: u32,
    dead: bool,
    blind: u32,
}

#[derive(Debug, Clone)]
pub(super) struct Model {
    pub(super) nic: Nic,
    /// Addresses that the firmware keeps while there are no ports to show them.
    kept: BTreeMap<Function, MacAddr>,
    pub(super) rows: BTreeMap<String, Attachment>,
    pub(super) bridges: BTreeSet<String>,
    pub(super) namespaces: BTreeMap<NetnsRef, Namespace>,
    pub(super) drain: Option<Drain>,
    pub(super) faults: Faults,
    pub(super) applied: Vec<Operation>,
    next: u32,
}

const DRIVER: &str = "simvf";

impl Model {
    pub(super) fn new(dice: &mut Dice) -> Self {
        let uplink = Netdev { ifindex: Ifindex(1), name: "p0".into(), mtu: 1500, ..Netdev::default() };
        let nic = Nic {
            mode: Some(EswitchMode::Legacy),
            inline: Some(InlineMode::None),
            encap: Some(false),
            vfs_max: Some(6),
            uplink: Some(Netdev { hw_tc_offload: Some(false), ..uplink }),
            ..Nic::default()
        };
        let names = [NetnsRef::Name("a".into()), NetnsRef::Pid(7), NetnsRef::Path("/run/netns/c".into())];
        let foreign = |port: &str| Attachment {
            port: port.into(),
            bridge: "br-a".into(),
            external_ids: BTreeMap::from([("iface-id".into(), "theirs".into())]),
        };
        Self {
            nic,
            kept: BTreeMap::new(),
            rows: ["eth9", "pf0vf1"].iter().map(|port| ((*port).to_owned(), foreign(port))).collect(),
            bridges: ["br-a", "br-b"].map(str::to_owned).into(),
            namespaces: names.into_iter().map(|name| (name, Namespace::Unnumbered)).collect(),
            drain: dice.one_in(2).then(Drain::default),
            faults: Faults::default(),
            applied: Vec::new(),
            next: 10,
        }
    }

    /// As it is, without any fault.
    pub(super) fn look(&self) -> Observed {
        let mut nic = self.nic.clone();
        for state in nic.functions.values_mut() {
            let name = state.representor.as_ref().map(|it| it.name.clone()).unwrap_or_default();
            state.attachment = self.rows.get(&name).cloned();
        }
        let live: BTreeSet<String> = nic
            .functions
            .values()
            .filter_map(|state| Some(state.attachment.as_ref()?.port.clone()))
            .collect();
        for (port, row) in &self.rows {
            let marked = row.external_ids.get(super::super::observed::MARK).and_then(|text| read_mark(text));
            if marked.is_some() && !live.contains(port) {
                nic.stale.insert(port.clone(), row.clone());
            }
        }
        Observed {
            nic: Some(nic),
            namespaces: self.namespaces.clone(),
            bridges: Some(self.bridges.clone()),
            drain: self.drain,
        }
    }

    fn netdev(&mut self, name: String, address: Option<MacAddr>) -> Netdev {
        self.next += 1;
        Netdev { ifindex: Ifindex(self.next), name, mtu: 1500, address, ..Netdev::default() }
    }

    fn default_mac(function: Function) -> MacAddr {
        let number = match function.kind {
            FunctionKind::Vf(number) => u32::from(number),
            FunctionKind::Sf(number) => number + 100,
        };
        MacAddr([2, 0, 0, 0, 0, number as u8])
    }

    fn represent(&mut self, function: Function) {
        let representor = self.netdev(format!("pf0{}", function.word()), None);
        let mac = self.kept.get(&function).copied().unwrap_or_else(|| Self::default_mac(function));
        let index = self.next;
        if let Some(state) = self.nic.functions.get_mut(&function) {
            state.representor = Some(Netdev { hw_tc_offload: Some(true), ..representor });
            state.port_index = Some(index);
            state.hw_addr = Some(mac);
        }
    }

    fn probe(&mut self, function: Function) {
        let mac = self.kept.get(&function).copied().unwrap_or_else(|| Self::default_mac(function));
        let netdev = self.netdev(format!("own-{}", function.word()), Some(mac));
        if let Some(state) = self.nic.functions.get_mut(&function) {
            state.netdev = Some(netdev);
            state.place = Place::Home;
            state.driver = Driver::Bound(DRIVER.into());
        }
    }

    fn device(&mut self, device: Device) -> Result<&mut Netdev, String> {
        let found = match device {
            Device::Uplink => self.nic.uplink.as_mut(),
            Device::Representor(at) => self.nic.functions.get_mut(&at).and_then(|it| it.representor.as_mut()),
            Device::Own(at) => self.nic.functions.get_mut(&at).and_then(|it| it.netdev.as_mut()),
        };
        found.ok_or_else(|| "ENODEV".to_owned())
    }

    fn state(&mut self, at: Function) -> Result<&mut FunctionState, String> {
        self.nic.functions.get_mut(&at).ok_or_else(|| "ENODEV".to_owned())
    }

    fn set_mode(&mut self, mode: EswitchMode) -> Result<(), String> {
        if self.nic.mode == Some(mode) {
            return Ok(());
        }
        let bound = |state: &FunctionState| matches!(state.driver, Driver::Bound(_));
        if self.nic.functions.iter().any(|(at, state)| at.own_vf().is_some() && bound(state)) {
            return Err("EBUSY: VFs are bound".to_owned());
        }
        if self.nic.functions.keys().any(|at| at.own_sf().is_some()) {
            return Err("EBUSY: there are SFs".to_owned());
        }
        if self.drain.is_some_and(|drain| !drain.on) && self.nic.mode == Some(EswitchMode::Switchdev) {
            return Err("EBUSY: offloaded rules".to_owned());
        }
        self.nic.mode = Some(mode);
        let functions: Vec<Function> = self.nic.functions.keys().copied().collect();
        for function in functions {
            if mode == EswitchMode::Switchdev {
                self.represent(function);
            } else {
                let state = self.state(function)?;
                let mac = state.hw_addr.take();
                (state.representor, state.port_index) = (None, None);
                self.kept.extend(mac.map(|mac| (function, mac)));
            }
        }
        Ok(())
    }

    fn set_vfs(&mut self, count: u16) -> Result<(), String> {
        if count != 0 && self.nic.vfs != 0 {
            return Err("EBUSY".to_owned());
        }
        self.nic.vfs = count;
        self.nic.functions.retain(|function, _| function.own_vf().is_none());
        self.kept.retain(|function, _| function.own_vf().is_none());
        for number in 0..count {
            let function = Function::vf(number);
            let (device, bus) = (Some(format!("vf{number}")), Some("sim".to_owned()));
            let state = FunctionState { device, bus, trust: Some(false), ..FunctionState::default() };
            self.nic.functions.insert(function, state);
            self.probe(function);
            if self.nic.mode == Some(EswitchMode::Switchdev) {
                self.represent(function);
            }
        }
        Ok(())
    }

    fn activate(&mut self, function: Function, on: bool) -> Result<(), String> {
        let state = self.state(function)?;
        state.active = Some(on);
        if on && state.netdev.is_none() {
            state.device = Some(format!("sim.{}", function.word()));
            state.bus = Some("auxiliary".to_owned());
            self.probe(function);
        } else if !on {
            (state.device, state.bus, state.netdev) = (None, None, None);
            (state.driver, state.place) = (Driver::Unknown, Place::Home);
        }
        Ok(())
    }

    pub(super) fn carry_out(&mut self, operation: &Operation) -> Result<(), String> {
        match operation {
            Operation::Drain(on) => self.drain = self.drain.map(|drain| Drain { on: *on, ..drain }),
            Operation::SetMode(mode) => return self.set_mode(*mode),
            Operation::SetInline(mode) => self.nic.inline = Some(*mode),
            Operation::SetEncap(on) => self.nic.encap = Some(*on),
            Operation::SetVfs(count) => return self.set_vfs(*count),
            Operation::Unbind(at) => {
                let state = self.state(*at)?;
                (state.driver, state.netdev, state.place) = (Driver::Unbound, None, Place::Home);
            }
            Operation::Bind(at, _) => self.probe(*at),
            Operation::AddSf(at) => {
                if self.nic.mode != Some(EswitchMode::Switchdev) {
                    return Err("EOPNOTSUPP".to_owned());
                }
                let state = FunctionState { active: Some(false), ..FunctionState::default() };
                self.nic.functions.insert(*at, state);
                self.represent(*at);
            }
            Operation::DeleteSf(at) => {
                self.state(*at)?;
                self.nic.functions.remove(at);
            }
            Operation::SetHwAddr(at, mac) => {
                if self.state(*at)?.port_index.is_some() {
                    self.state(*at)?.hw_addr = Some(*mac);
                }
                self.kept.insert(*at, *mac);
            }
            Operation::SetActive(at, on) => return self.activate(*at, *on),
            Operation::SetTrust(at, on) => self.state(*at)?.trust = Some(*on),
            Operation::SetAddress(at, mac) => self.device(Device::Own(*at))?.address = Some(*mac),
            Operation::SetMtu(at, mtu) => self.device(*at)?.mtu = *mtu,
            Operation::SetHwTcOffload(at, on) => self.device(*at)?.hw_tc_offload = Some(*on),
            Operation::SetUp(at, up) => self.device(*at)?.up = *up,
            Operation::Attach { port, bridge, external_ids } => {
                let port = match port {
                    AttachedPort::Representor(at) => self.device(Device::Representor(*at))?.name.clone(),
                    AttachedPort::Named(name) => name.clone(),
                };
                if self.rows.contains_key(&port) {
                    return Err("constraint violation".to_owned());
                }
                let (bridge, external_ids) = (bridge.clone(), external_ids.clone());
                self.rows.insert(port.clone(), Attachment { port, bridge, external_ids });
            }
            Operation::Detach { port, bridge } => {
                if self.rows.get(port).is_some_and(|row| row.bridge == *bridge) {
                    self.rows.remove(port);
                }
            }
            Operation::SetIds { function, set, remove } => {
                let port = self.device(Device::Representor(*function))?.name.clone();
                let row = self.rows.get_mut(&port).ok_or("no row")?;
                row.external_ids.retain(|key, _| !remove.contains(key));
                row.external_ids.extend(set.clone());
            }
            Operation::Hand(at, netns) => {
                let id = match (netns, self.namespaces.get(netns)) {
                    (NetnsRef::Id(id), _) | (_, Some(Namespace::Numbered(id))) => *id,
                    (_, Some(Namespace::Unnumbered)) => {
                        self.next += 1;
                        let id = NetnsId(self.next as i32);
                        self.namespaces.insert(netns.clone(), Namespace::Numbered(id));
                        id
                    }
                    _ => return Err("ENOENT".to_owned()),
                };
                self.device(Device::Own(*at))?.up = false;
                self.state(*at)?.place = Place::Away(id);
            }
            Operation::TakeBack(at) => {
                self.device(Device::Own(*at))?.up = false;
                self.state(*at)?.place = Place::Home;
            }
        }
        Ok(())
    }
}

impl Hands for Model {
    fn observe(&mut self) -> Result<Observed, String> {
        if self.faults.blind > 0 {
            self.faults.blind -= 1;
            return Err("no answer".to_owned());
        }
        Ok(self.look())
    }

    fn apply(&mut self, operation: &Operation, _now: &Observed) -> Result<(), String> {
        self.applied.push(operation.clone());
        let fault = self.faults.at.get(&self.faults.count).copied();
        self.faults.count += 1;
        match fault {
            _ if self.faults.dead => return Err("EIO".to_owned()),
            None => return self.carry_out(operation),
            Some(Fault::Refused) => {}
            Some(Fault::RefusedAndDone) => {
                let _ = self.carry_out(operation);
            }
            Some(Fault::Silent) => return Ok(()),
            Some(Fault::Dead) => self.faults.dead = true,
            Some(Fault::Blind) => {
                self.faults.blind = 7;
                return self.carry_out(operation);
            }
        }
        Err("EIO".to_owned())
    }

    fn wait(&mut self, tries: u32) -> bool {
        tries < 3
    }
}
