//! What has to be done, in which order.
//!
//! The order is the drivers': a NIC's flows go first, then what would be torn down under it (ports of vanishing
//! representors, drivers of VFs), then the eswitch, then what it brings about, from the function outwards; a function is
//! handed over last. Every step is one [`Operation`], so that it can be verified, and undone, by itself.

use std::collections::{BTreeMap, BTreeSet};

use netlink_wire::devlink::EswitchMode;

use super::declared::{DeclaredNic, Function, NetnsRef};
use super::observed::{Driver, FunctionState, Netdev, Nic, Observed, Place};
use super::step::{AttachedPort, Device, Operation};
use super::target::{AttachWanted, FunctionWanted, NetdevWanted, PlaceWanted, Target, Unmet};

/// What has to be done for a NIC to be as declared; nothing if it is.
///
/// # Errors
/// All that is declared and cannot be; nothing should be done then.
pub fn plan(declared: &DeclaredNic, now: &Observed) -> Result<Vec<Operation>, Vec<Unmet>> {
    Target::of(declared, now).map(|target| path(now, &target))
}

/// The way from what is to what shall be.
pub fn path(now: &Observed, target: &Target) -> Vec<Operation> {
    let Some(nic) = &now.nic else { return Vec::new() };
    let mut path = Path { now, nic, target, steps: Vec::new(), made_anew: BTreeSet::new() };
    let disturbs = path.disturbs();
    if disturbs && now.drain.is_some() {
        path.push(Operation::Drain(true));
    }
    path.leave_bridges();
    path.remove_sub_functions();
    path.eswitch();
    path.add_sub_functions();
    path.netdev(Device::Uplink, nic.uplink.as_ref(), &target.uplink);
    for (function, wanted) in &target.functions {
        path.function(*function, wanted);
    }
    if disturbs && now.drain.is_some() {
        path.push(Operation::Drain(false));
    }
    path.steps
}

struct Path<'a> {
    now: &'a Observed,
    nic: &'a Nic,
    target: &'a Target,
    steps: Vec<Operation>,
    /// Functions whose device, representor and settings are not those of before.
    made_anew: BTreeSet<Function>,
}

impl Path<'_> {
    fn push(&mut self, operation: Operation) {
        self.steps.push(operation);
    }

    fn mode_changes(&self) -> bool {
        self.target.mode.is_some() && self.target.mode != self.nic.mode
    }

    fn vfs_are_made_anew(&self) -> bool {
        self.target.vfs != self.nic.vfs
    }

    /// Whether flows in hardware would be in the way.
    fn disturbs(&self) -> bool {
        let vanishing =
            self.nic.functions.keys().any(|function| !self.target.functions.contains_key(function));
        self.nic.mode == Some(EswitchMode::Switchdev)
            && (self.mode_changes()
                || (self.vfs_are_made_anew() && self.nic.vfs > 0)
                || self.target.inline != self.nic.inline
                || self.target.encap != self.nic.encap
                || vanishing)
    }

    /// Ports leave their bridges that nobody wants there, or whose representor is going.
    fn leave_bridges(&mut self) {
        for (port, attachment) in &self.nic.stale {
            if !self.target.stale.contains(port) {
                self.push(Operation::Detach { port: port.clone(), bridge: attachment.bridge.clone() });
            }
        }
        let mode_changes = self.mode_changes();
        for (function, state) in &self.nic.functions {
            let Some(attachment) = &state.attachment else { continue };
            let stays = match self.target.functions.get(function).map(|wanted| &wanted.attach) {
                Some(AttachWanted::Any) => true,
                Some(AttachWanted::At(bridge, _)) => *bridge == attachment.bridge,
                // What others attached they remove themselves.
                Some(AttachWanted::Nowhere) if mode_changes => !attachment.is_ours(),
                Some(AttachWanted::Nowhere) => false,
                None => !attachment.is_ours(),
            };
            if !stays {
                let (port, bridge) = (attachment.port.clone(), attachment.bridge.clone());
                self.push(Operation::Detach { port, bridge });
            }
        }
    }

    fn remove_sub_functions(&mut self) {
        for (function, state) in &self.nic.functions {
            if function.own_sf().is_some() && !self.target.functions.contains_key(function) {
                if state.active == Some(true) {
                    self.push(Operation::SetActive(*function, false));
                }
                self.push(Operation::DeleteSf(*function));
            }
        }
    }

    fn eswitch(&mut self) {
        let (nic, target) = (self.nic, self.target);
        let vfs_anew = self.vfs_are_made_anew();
        let own_vfs = || nic.functions.iter().filter(|(function, _)| function.own_vf().is_some());
        if vfs_anew {
            if nic.vfs > 0 {
                self.call_home(own_vfs());
                self.push(Operation::SetVfs(0));
            }
        } else if self.mode_changes() {
            self.call_home(own_vfs());
            for (function, state) in own_vfs() {
                if let Driver::Bound(_) = state.driver {
                    self.push(Operation::Unbind(*function));
                }
            }
        }
        if let Some(mode) = target.mode.filter(|_| self.mode_changes()) {
            self.push(Operation::SetMode(mode));
        }
        if let Some(mode) = target.inline.filter(|mode| Some(*mode) != nic.inline) {
            self.push(Operation::SetInline(mode));
        }
        if let Some(on) = target.encap.filter(|on| Some(*on) != nic.encap) {
            self.push(Operation::SetEncap(on));
        }
        if vfs_anew && target.vfs > 0 {
            self.push(Operation::SetVfs(target.vfs));
        }
        if vfs_anew || self.mode_changes() {
            self.made_anew.extend(target.functions.keys().filter(|function| function.own_vf().is_some()));
        }
    }

    /// A device that goes with its function comes back first, so that an undo finds the way it went.
    fn call_home<'s>(&mut self, functions: impl Iterator<Item = (&'s Function, &'s FunctionState)>) {
        for (function, state) in functions {
            if state.netdev.is_some() && state.place != Place::Home {
                self.push(Operation::TakeBack(*function));
            }
        }
    }

    fn add_sub_functions(&mut self) {
        let missing =
            self.target.functions.keys().filter(|function| !self.nic.functions.contains_key(*function));
        let missing: Vec<Function> =
            missing.filter(|function| function.own_sf().is_some()).copied().collect();
        for function in missing {
            self.push(Operation::AddSf(function));
            self.made_anew.insert(function);
        }
    }

    fn netdev(&mut self, device: Device, now: Option<&Netdev>, wanted: &NetdevWanted) {
        if let Some(mtu) = wanted.mtu.filter(|mtu| now.is_none_or(|now| now.mtu != *mtu)) {
            self.push(Operation::SetMtu(device, mtu));
        }
        let offload = |now: &Netdev| now.hw_tc_offload;
        if let Some(on) = wanted.hw_tc_offload.filter(|on| now.and_then(offload) != Some(*on)) {
            self.push(Operation::SetHwTcOffload(device, on));
        }
        if let Some(up) = wanted.up.filter(|up| now.is_none_or(|now| now.up != *up)) {
            self.push(Operation::SetUp(device, up));
        }
    }

    fn function(&mut self, function: Function, wanted: &FunctionWanted) {
        let anew = self.made_anew.contains(&function);
        let blank = FunctionState::default();
        // Nothing is known of what is yet to come: what is wanted of it is said, and skipped where it turns out to be so.
        let known = self.nic.functions.get(&function).filter(|_| !anew).unwrap_or(&blank);
        if let Some(mac) = wanted.hw_addr.filter(|mac| known.hw_addr != Some(*mac) && can_be_set(*mac)) {
            self.push(Operation::SetHwAddr(function, mac));
        }
        if let Some(on) = wanted.trust.filter(|on| known.trust != Some(*on)) {
            self.push(Operation::SetTrust(function, on));
        }
        match &wanted.driver {
            Driver::Bound(driver) if known.driver != wanted.driver => {
                self.push(Operation::Bind(function, driver.clone()));
            }
            Driver::Unbound if known.driver != wanted.driver => self.push(Operation::Unbind(function)),
            _ => {}
        }
        if let Some(on) = wanted.active.filter(|on| known.active != Some(*on)) {
            self.push(Operation::SetActive(function, on));
        }
        let own = known.netdev.as_ref();
        if let Some(mac) = wanted.netdev.address.filter(|mac| own.and_then(|it| it.address) != Some(*mac)) {
            self.push(Operation::SetAddress(function, mac));
        }
        self.netdev(Device::Own(function), own, &wanted.netdev);
        self.netdev(Device::Representor(function), known.representor.as_ref(), &wanted.representor);
        self.attach(function, known, wanted);
        self.place(function, known, wanted);
    }

    fn attach(&mut self, function: Function, known: &FunctionState, wanted: &FunctionWanted) {
        let AttachWanted::At(bridge, ids) = &wanted.attach else { return };
        match &known.attachment {
            Some(now) if now.bridge == *bridge => {
                let set: BTreeMap<String, String> = ids
                    .iter()
                    .filter(|(key, value)| now.external_ids.get(*key) != Some(value))
                    .map(|(key, value)| (key.clone(), value.clone()))
                    .collect();
                let remove: BTreeSet<String> =
                    now.external_ids.keys().filter(|key| !ids.contains_key(*key)).cloned().collect();
                if !set.is_empty() || !remove.is_empty() {
                    self.push(Operation::SetIds { function, set, remove });
                }
            }
            _ => {
                let port = AttachedPort::Representor(function);
                self.push(Operation::Attach { port, bridge: bridge.clone(), external_ids: ids.clone() });
            }
        }
    }

    fn place(&mut self, function: Function, known: &FunctionState, wanted: &FunctionWanted) {
        let at = known.netdev.as_ref().map(|_| known.place);
        match &wanted.place {
            Some(PlaceWanted::Home) if matches!(at, Some(Place::Away(_))) => {
                self.push(Operation::TakeBack(function));
            }
            Some(PlaceWanted::In(netns)) if at.is_none() || self.place_of(netns) != at => {
                self.push(Operation::Hand(function, netns.clone()));
            }
            _ => {}
        }
    }

    fn place_of(&self, netns: &NetnsRef) -> Option<Place> {
        self.now.place_of(netns)
    }
}

/// Zeros say that none was set; the kernel takes no such address.
fn can_be_set(mac: netlink_wire::MacAddr) -> bool {
    mac.0 != [0; 6]
}
