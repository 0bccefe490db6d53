//! A NIC's table as a replay sees it: who is in it, what that brought, and what it cost.

use alloc::vec;
use alloc::vec::Vec;

use super::trace::FlowNumber;
use super::traffic::Moved;
use crate::Micros;

/// What a policy brought and cost, the warm-up left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Bytes of megaflows while they were in hardware.
    pub bytes: u64,
    /// Packets of megaflows while they were in hardware.
    pub packets: u64,
    /// Megaflows put into hardware.
    pub installs: u64,
    /// Megaflows taken out of hardware, those that were gone left out.
    pub evictions: u64,
    /// Installs of a megaflow that had been installed less than [`FLAP_WITHIN`] before, and evicted since.
    pub flaps: u64,
}

/// Two installs of one megaflow within this time are flapping.
pub const FLAP_WITHIN: Micros = Micros::from_secs(2);

/// What happens in an epoch of a policy.
#[derive(Clone, Copy, Debug)]
pub(super) struct Epoch<'a> {
    /// When it begins.
    pub begin: Micros,
    /// When it ends.
    pub end: Micros,
    /// How many installs the budget allows at its beginning.
    pub installs: u32,
    /// Whether it counts: it begins after the warm-up.
    pub counts: bool,
    /// Megaflows that were gone when it began.
    pub gone: &'a [FlowNumber],
    /// What moves in it. A policy that cannot see the future decides before it looks at this.
    pub moved: &'a [Moved],
}

/// The entries of one table.
#[derive(Clone, Debug)]
pub(super) struct Table {
    capacity: u32,
    held: u32,
    inside: Vec<bool>,
    installed: Vec<Micros>,
    tally: Tally,
}

impl Table {
    pub(super) fn new(capacity: u32, flows: u32) -> Self {
        Self {
            capacity,
            held: 0,
            inside: vec![false; flows as usize],
            installed: Vec::new(),
            tally: Tally::default(),
        }
    }

    pub(super) fn capacity(&self) -> u32 {
        self.capacity
    }

    pub(super) fn tally(&self) -> Tally {
        self.tally
    }

    pub(super) fn has(&self, flow: FlowNumber) -> bool {
        self.inside.get(flow.index()).copied().unwrap_or(false)
    }

    #[cfg(test)]
    pub(super) fn held(&self) -> u32 {
        self.held
    }

    pub(super) fn free(&self) -> u32 {
        self.capacity.saturating_sub(self.held)
    }

    /// Puts a megaflow in.
    pub(super) fn install(&mut self, epoch: &Epoch<'_>, flow: FlowNumber) {
        debug_assert!(self.free() > 0 && !self.has(flow), "an entry is free and the megaflow has none");
        let index = flow.index();
        if index >= self.inside.len() {
            self.inside.resize(index + 1, false);
        }
        if index >= self.installed.len() {
            self.installed.resize(self.inside.len(), Micros::ZERO);
        }
        let before = core::mem::replace(&mut self.installed[index], epoch.begin.plus(Micros(1)));
        self.inside[index] = true;
        self.held += 1;
        if epoch.counts {
            self.tally.installs += 1;
            let flaps = before > Micros::ZERO && epoch.begin.plus(Micros(1)).since(before) < FLAP_WITHIN;
            self.tally.flaps += u64::from(flaps);
        }
    }

    /// Takes a megaflow out.
    pub(super) fn evict(&mut self, epoch: &Epoch<'_>, flow: FlowNumber) {
        if self.leave(flow) && epoch.counts {
            self.tally.evictions += 1;
        }
    }

    /// The megaflow is gone. Returns whether it had an entry.
    pub(super) fn gone(&mut self, flow: FlowNumber) -> bool {
        let had = self.leave(flow);
        if let Some(installed) = self.installed.get_mut(flow.index()) {
            *installed = Micros::ZERO;
        }
        had
    }

    fn leave(&mut self, flow: FlowNumber) -> bool {
        let had = self.inside.get_mut(flow.index()).is_some_and(core::mem::take);
        self.held -= u32::from(had);
        had
    }

    /// Counts what its megaflows move in an epoch.
    pub(super) fn count(&mut self, epoch: &Epoch<'_>) {
        if !epoch.counts {
            return;
        }
        for moved in epoch.moved {
            if self.has(moved.flow) {
                self.tally.bytes += moved.bytes;
                self.tally.packets += moved.packets;
            }
        }
    }
}
