//! The planner that the daemon runs, with a NIC that takes what it is given.

use alloc::vec::Vec;

use super::table::{Epoch, Table, Tally};
use super::trace::{FlowNumber, TenantNumber};
use super::traffic::Moved;
use super::{Class, Contender, Options, count_for};
use crate::Micros;
use crate::planner::{Planner, Sample, Settings, TenantId, Verdict};

/// A plan is carried out and made again, since demotions make room, at most so many times an epoch.
const ROUNDS_MAX: u32 = 64;

/// See the module's documentation.
#[derive(Clone, Debug)]
pub(super) struct Planned {
    planner: Planner<FlowNumber>,
    table: Table,
    /// Each megaflow's class, as the planner was told.
    told: Vec<Option<TenantNumber>>,
    classes: Vec<Class>,
    /// Of this epoch.
    readings: Vec<(FlowNumber, Sample)>,
    bytes_of_tenants: Vec<u64>,
}

impl Planned {
    pub(super) fn new(settings: Settings, options: &Options, entries: u32, flows: u32) -> Self {
        let mut planner = Planner::new(settings);
        planner.set_division(Micros::ZERO, options.division.clone());
        Self {
            planner,
            table: Table::new(entries, flows),
            told: alloc::vec![None; flows as usize],
            classes: options.classes.clone(),
            readings: Vec::new(),
            bytes_of_tenants: Vec::new(),
        }
    }

    /// A megaflow has appeared, or policy says otherwise of it than before: it is told as the daemon does.
    fn tell(&mut self, at: Micros, is_new: bool, moved: &Moved) {
        let unknown = Class { verdict: Verdict::default(), tenant: TenantId(moved.tenant.0) };
        let class = self.classes.get(usize::from(moved.tenant.0)).copied().unwrap_or(unknown);
        // What a megaflow is taken up with by its first reading need not be told.
        if is_new && class == (Class { verdict: Verdict::default(), tenant: TenantId::default() }) {
            return;
        }
        self.planner.set_verdict(at, moved.flow, class.verdict);
        self.planner.set_tenant(at, moved.flow, class.tenant);
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
            if let Some(told) = self.told.get_mut(flow.index()) {
                *told = None;
            }
        }
        self.planner.forget_all(epoch.gone);
        self.carry_out(epoch);
        self.table.count(epoch);
        let length = epoch.end.since(epoch.begin);
        for moved in epoch.moved {
            let index = moved.flow.index();
            if index >= self.told.len() {
                self.told.resize(index + 1, None);
            }
            let told = self.told[index].replace(moved.tenant);
            let is_new = told.is_none();
            if told != Some(moved.tenant) {
                self.tell(if is_new { moved.appeared } else { epoch.end }, is_new, moved);
            }
            if epoch.counts && self.table.has(moved.flow) {
                count_for(&mut self.bytes_of_tenants, moved);
            }
            let over = if is_new { epoch.end.since(moved.appeared).max(Micros(1)) } else { length };
            let sample = Sample { packets: moved.packets, bytes: moved.bytes, over };
            self.readings.push((moved.flow, sample));
        }
        self.planner.observe_all(epoch.end, &self.readings);
        self.readings.clear();
    }

    fn add_classes(&mut self, classes: &[Class]) {
        self.classes.extend_from_slice(classes);
    }

    fn bytes_of_tenants(&self) -> &[u64] {
        &self.bytes_of_tenants
    }

    fn tally(&self) -> Tally {
        self.table.tally()
    }
}
