//! The planner that the daemon runs, with a NIC that takes what it is given.

use alloc::vec::Vec;

use super::table::{Epoch, Table, Tally};
use super::trace::FlowNumber;
use super::traffic::Moved;
use super::{Contender, Options, count_for};
use crate::Micros;
use crate::planner::{Planner, Sample, Settings, TenantId, Verdict};

/// A plan is carried out and made again, since demotions make room, at most so many times an epoch.
const ROUNDS_MAX: u32 = 64;

/// See the module's documentation.
#[derive(Clone, Debug)]
pub(super) struct Planned {
    planner: Planner<FlowNumber>,
    table: Table,
    known: Vec<bool>,
    verdicts: Vec<Verdict>,
    bytes_of_tenants: Vec<u64>,
}

impl Planned {
    pub(super) fn new(settings: Settings, options: &Options, entries: u32, flows: u32) -> Self {
        let mut planner = Planner::new(settings);
        planner.set_division(Micros::ZERO, options.division.clone());
        Self {
            planner,
            table: Table::new(entries, flows),
            known: alloc::vec![false; flows as usize],
            verdicts: options.verdicts.clone(),
            bytes_of_tenants: Vec::new(),
        }
    }

    /// A megaflow has appeared: it is told with what policy says about it, as the daemon does.
    fn make(&mut self, appeared: Micros, moved: &Moved) {
        let verdict = self.verdicts.get(usize::from(moved.tenant.0)).copied().unwrap_or_default();
        self.planner.set_verdict(appeared, moved.flow, verdict);
        self.planner.set_tenant(appeared, moved.flow, TenantId(moved.tenant.0));
    }

    fn carry_out(&mut self, epoch: &Epoch<'_>) {
        for _ in 0..ROUNDS_MAX {
            let plan = self.planner.plan(epoch.begin);
            if plan.is_empty() {
                return;
            }
            for flow in plan.demote {
                self.table.evict(epoch, flow);
                self.planner.unplaced(epoch.begin, flow);
            }
            for flow in plan.promote {
                self.table.install(epoch, flow);
                self.planner.placed(epoch.begin, flow);
            }
        }
    }
}

impl Contender for Planned {
    fn epoch(&mut self, epoch: &Epoch<'_>) {
        for flow in epoch.gone {
            self.table.gone(*flow);
            self.planner.forget(*flow);
            if let Some(known) = self.known.get_mut(flow.index()) {
                *known = false;
            }
        }
        self.carry_out(epoch);
        self.table.count(epoch);
        let length = epoch.end.since(epoch.begin);
        for moved in epoch.moved {
            let index = moved.flow.index();
            if index >= self.known.len() {
                self.known.resize(index + 1, false);
            }
            let is_new = !core::mem::replace(&mut self.known[index], true);
            if is_new {
                self.make(moved.appeared, moved);
            }
            if epoch.counts && self.table.has(moved.flow) {
                count_for(&mut self.bytes_of_tenants, moved);
            }
            let over = if is_new { epoch.end.since(moved.appeared).max(Micros(1)) } else { length };
            let sample = Sample { packets: moved.packets, bytes: moved.bytes, over };
            self.planner.observe(epoch.end, moved.flow, sample);
        }
    }

    fn bytes_of_tenants(&self) -> &[u64] {
        &self.bytes_of_tenants
    }

    fn tally(&self) -> Tally {
        self.table.tally()
    }
}
