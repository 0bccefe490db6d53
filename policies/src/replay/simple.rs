//! The policies that need no rates: first come, first served, and least recently used.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use super::Contender;
use super::table::{Epoch, Table, Tally};
use super::trace::FlowNumber;

/// Gives free entries to whoever sent first, and never takes one back.
#[derive(Clone, Debug)]
pub(super) struct FirstCome {
    table: Table,
    sent: Vec<FlowNumber>,
    /// Whether a megaflow is there, as far as it has sent.
    alive: Vec<bool>,
}

impl FirstCome {
    pub(super) fn new(capacity: u32, flows: u32) -> Self {
        Self {
            table: Table::new(capacity, flows),
            sent: Vec::new(),
            alive: alloc::vec![false; flows as usize],
        }
    }
}

impl Contender for FirstCome {
    fn epoch(&mut self, epoch: &Epoch<'_>) {
        for flow in epoch.gone {
            self.table.gone(*flow);
            if let Some(alive) = self.alive.get_mut(flow.index()) {
                *alive = false;
            }
        }
        let mut left = epoch.installs;
        for flow in self.sent.drain(..) {
            if left == 0 || self.table.free() == 0 {
                break;
            }
            if !self.table.has(flow) && self.alive[flow.index()] {
                self.table.install(epoch, flow);
                left -= 1;
            }
        }
        for moved in epoch.moved {
            let index = moved.flow.index();
            if index >= self.alive.len() {
                self.alive.resize(index + 1, false);
            }
            self.alive[index] = true;
            self.sent.push(moved.flow);
        }
        self.table.count(epoch);
    }

    fn tally(&self) -> Tally {
        self.table.tally()
    }
}

/// Gives whoever sent an entry, that of the one which has been silent longest.
#[derive(Clone, Debug)]
pub(super) struct Lru {
    table: Table,
    sent: Vec<FlowNumber>,
    epoch: u64,
    /// The last epoch each flow sent in.
    last: Vec<u64>,
    /// Those in the table by that.
    order: BTreeSet<(u64, FlowNumber)>,
}

impl Lru {
    pub(super) fn new(capacity: u32, flows: u32) -> Self {
        Self {
            table: Table::new(capacity, flows),
            sent: Vec::new(),
            epoch: 0,
            last: alloc::vec![0; flows as usize],
            order: BTreeSet::new(),
        }
    }

    fn admit(&mut self, epoch: &Epoch<'_>) {
        let mut left = epoch.installs;
        for flow in core::mem::take(&mut self.sent) {
            if left == 0 {
                break;
            }
            if self.table.has(flow) || self.last[flow.index()] == 0 {
                continue;
            }
            if self.table.free() == 0 {
                // One that sent in the same epoch was used as recently.
                let Some((_, oldest)) = self.order.first().copied().filter(|(last, _)| *last < self.epoch)
                else {
                    break;
                };
                self.order.pop_first();
                self.table.evict(epoch, oldest);
            }
            self.table.install(epoch, flow);
            self.order.insert((self.last[flow.index()], flow));
            left -= 1;
        }
    }
}

impl Contender for Lru {
    fn epoch(&mut self, epoch: &Epoch<'_>) {
        for flow in epoch.gone {
            if self.table.gone(*flow) {
                self.order.remove(&(self.last[flow.index()], *flow));
            }
            if let Some(last) = self.last.get_mut(flow.index()) {
                *last = 0;
            }
        }
        self.admit(epoch);
        self.epoch += 1;
        for moved in epoch.moved {
            let index = moved.flow.index();
            if index >= self.last.len() {
                self.last.resize(index + 1, 0);
            }
            let before = core::mem::replace(&mut self.last[index], self.epoch);
            if self.table.has(moved.flow) {
                self.order.remove(&(before, moved.flow));
                self.order.insert((self.epoch, moved.flow));
            } else {
                self.sent.push(moved.flow);
            }
        }
        self.table.count(epoch);
    }

    fn tally(&self) -> Tally {
        self.table.tally()
    }
}
