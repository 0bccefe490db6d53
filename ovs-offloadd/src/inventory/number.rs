//! Numbers of NICs: kept as long as the daemon runs, whatever comes and goes.

use std::collections::BTreeSet;

use netlink_wire::devlink::Handle;
use netlink_wire::link::SwitchId;
use offload_engine::NicId;

use super::Inventory;

/// Most NICs that get a number: a host has a few; a faulty driver could show any number of switch ids.
const NICS_MAX: u16 = 256;

impl Inventory {
    fn next_number(&mut self) -> Option<NicId> {
        if self.numbers_given >= NICS_MAX {
            return None;
        }
        self.numbers_given += 1;
        Some(NicId(self.numbers_given - 1))
    }

    /// Instances that have a port in this switch.
    pub(super) fn instances_of_switch(&self, switch: SwitchId) -> BTreeSet<&Handle> {
        let devices = self.of_switch.get(&switch).into_iter().flatten();
        devices.filter_map(|ifindex| self.port_of.get(ifindex)).map(|(handle, _)| handle).collect()
    }

    /// The number of a switch: that of the first NIC that has ports in it.
    pub(super) fn number_of_switch(&mut self, switch: SwitchId) -> Option<NicId> {
        if let Some(number) = self.switches.get(&switch) {
            return Some(*number);
        }
        let handles: Vec<Handle> = self.instances_of_switch(switch).into_iter().cloned().collect();
        let known = handles.iter().filter_map(|handle| self.numbers.get(handle)).min().copied();
        let number = match known {
            Some(number) => number,
            None => self.next_number()?,
        };
        self.switches.insert(switch, number);
        if let (None, Some(first)) = (known, handles.first()) {
            self.numbers.insert(first.clone(), number);
        }
        Some(number)
    }

    /// The number of an instance: its switch's, if no other instance has that already.
    pub(super) fn number_of(&mut self, handle: &Handle, switch: Option<SwitchId>) -> Option<NicId> {
        if let Some(number) = self.numbers.get(handle) {
            return Some(*number);
        }
        let of_switch = switch.and_then(|switch| self.switches.get(&switch)).copied();
        let number = match of_switch.filter(|number| !self.numbers.values().any(|taken| taken == number)) {
            Some(number) => number,
            None => self.next_number()?,
        };
        self.numbers.insert(handle.clone(), number);
        Some(number)
    }
}
