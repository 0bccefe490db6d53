//! TC as the kernel keeps it: filters by address, notifications in order, a NIC that takes some of them.

use crate::rule::{Rule, report};
use netlink_wire::{Errno, EtherType, Ufid};
use offload_engine::{Acked, Author, Event, OpId, Refused, Replacement};
use std::collections::{BTreeMap, VecDeque};
use tc_flower::{Chain, FilterAddress, FilterFlags, FilterReport, Handle, Location, Prio, ReplaceActions};

/// One filter.
#[derive(Clone, Debug)]
pub(crate) struct Filter {
    pub(crate) rule: Rule,
    /// The chain it sends its packets to.
    pub(crate) goes_to: Option<Chain>,
    pub(crate) flags: FilterFlags,
    pub(crate) software: u64,
    pub(crate) hardware: u64,
}

impl Filter {
    pub(crate) fn in_hw(&self) -> bool {
        self.flags.contains(FilterFlags::IN_HW)
    }
}

/// TC of one device, with its NIC.
#[derive(Clone, Debug)]
pub(crate) struct Kernel {
    pub(crate) location: Location,
    pub(crate) filters: BTreeMap<FilterAddress, Filter>,
    pub(crate) notifications: VecDeque<Event>,
    /// Notifications that fit the socket's buffer.
    pub(crate) buffer: usize,
    pub(crate) overrun: bool,
    /// Entries of the NIC's table.
    pub(crate) entries_max: usize,
    /// Rules whose megaflow's number is a multiple of this are refused by the driver; 0 for none.
    pub(crate) refuses_every: u128,
    /// Megaflows are joined by recirculation, by their numbers.
    pub(crate) units: bool,
    /// Packets that the NIC had to hand back in the middle of a chain.
    pub(crate) missed_in_the_middle: u64,
}

impl Kernel {
    pub(crate) fn in_hw(&self) -> usize {
        self.filters.values().filter(|filter| filter.in_hw()).count()
    }

    fn notify(&mut self, event: Event) {
        if self.notifications.len() >= self.buffer {
            self.overrun = true;
        } else {
            self.notifications.push_back(event);
        }
    }

    pub(crate) fn report(&self, address: FilterAddress) -> FilterReport {
        report(address, &self.filters[&address])
    }

    /// Open vSwitch makes a filter; the kernel gives it the lowest free handle.
    pub(crate) fn create(&mut self, rule: Rule) -> FilterAddress {
        let (chain, goes_to) = if self.units { Rule::chains(rule.ufid) } else { (0, None) };
        let place = |handle| FilterAddress {
            location: self.location,
            chain: Chain(chain),
            prio: Prio(2),
            protocol: EtherType::IPV4,
            handle: Handle(handle),
        };
        let address =
            (1..).map(place).find(|address| !self.filters.contains_key(address)).expect("handles enough");
        let flags = FilterFlags::SKIP_HW | FilterFlags::NOT_IN_HW;
        self.filters
            .insert(address, Filter { rule, goes_to: goes_to.map(Chain), flags, software: 0, hardware: 0 });
        let report = Box::new(self.report(address));
        self.notify(Event::FilterNew { report, author: Author::Other });
        address
    }

    /// Open vSwitch deletes a filter; returns what it had counted.
    pub(crate) fn delete(&mut self, address: FilterAddress) -> Option<Filter> {
        self.filters.contains_key(&address).then(|| {
            let report = Box::new(self.report(address));
            self.notify(Event::FilterGone { report, author: Author::Other });
            self.filters.remove(&address).expect("just found")
        })
    }

    /// `RTM_DELTFILTER` of ours.
    pub(crate) fn delete_for(&mut self, op: OpId, address: FilterAddress) -> Result<Acked, Refused> {
        if !self.filters.contains_key(&address) {
            return Err(Refused { errno: Errno::ENOENT, extack: None });
        }
        let report = Box::new(self.report(address));
        self.notify(Event::FilterGone { report, author: Author::Us(op) });
        self.filters.remove(&address);
        Ok(Acked { extack: None })
    }

    /// `RTM_NEWTFILTER` without `NLM_F_CREATE`. A different rule at the address is replaced all the same.
    pub(crate) fn replace(&mut self, op: OpId, request: &Replacement) -> Result<Acked, Refused> {
        let address = request.filter.address;
        let rule = Rule::of(&request.filter);
        let wants_hw = !request.filter.flags.contains(FilterFlags::SKIP_HW);
        let taken = self.in_hw();
        let Some(filter) = self.filters.get_mut(&address) else {
            return Err(Refused { errno: Errno::ENOENT, extack: None });
        };
        let was_in_hw = filter.in_hw();
        if request.actions == ReplaceActions::Fresh {
            (filter.software, filter.hardware) = (0, 0);
        }
        let refused = self.refuses_every > 0 && rule.number().is_multiple_of(self.refuses_every);
        let full = !was_in_hw && taken >= self.entries_max;
        let placed = wants_hw && !refused && !full;
        filter.rule = rule;
        filter.flags = match (wants_hw, placed) {
            (false, _) => FilterFlags::SKIP_HW | FilterFlags::NOT_IN_HW,
            (true, true) => FilterFlags::IN_HW,
            (true, false) => FilterFlags::NOT_IN_HW,
        };
        let report = Box::new(self.report(address));
        self.notify(Event::FilterNew { report, author: Author::Us(op) });
        let extack = match (wants_hw, refused, full) {
            (true, true, _) => Some("sim: cannot do this".into()),
            (true, _, true) => Some("sim: hardware table full".into()),
            _ => None,
        };
        Ok(Acked { extack })
    }

    /// Packets that pass these megaflows one after the other, as far as there are filters of them: in hardware until the NIC
    /// has none for them, and in software from there on. Returns those that took them.
    pub(crate) fn packets_through(&mut self, way: &[Ufid], count: u64) -> Vec<Ufid> {
        let mut took = Vec::new();
        let mut in_nic = true;
        for ufid in way {
            let Some(filter) = self.filters.values_mut().find(|filter| filter.rule.ufid == *ufid) else {
                break;
            };
            if in_nic && !filter.in_hw() {
                in_nic = false;
                self.missed_in_the_middle += if took.is_empty() { 0 } else { count };
            }
            let counter = if in_nic { &mut filter.hardware } else { &mut filter.software };
            *counter += count;
            took.push(*ufid);
        }
        took
    }

    /// Packets for a megaflow; true where a filter took them.
    pub(crate) fn packets(&mut self, ufid: Ufid, count: u64) -> bool {
        let Some(filter) = self.filters.values_mut().find(|filter| filter.rule.ufid == ufid) else {
            return false;
        };
        if filter.in_hw() {
            filter.hardware += count;
        } else {
            filter.software += count;
        }
        true
    }
}
