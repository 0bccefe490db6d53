//! Open vSwitch's own rule, `offload-rebalance`, as ofproto/ofproto-dpif-upcall.c has it (3.5: `udpif_run_flow_rebalance`).
//!
//! A new megaflow goes into hardware at once. When the driver says ENOSPC the port is "out of resources"; from then on, after a
//! revalidation (500 ms) and at most every 3 s, all megaflows of the port are ranked by packets per second, as whole numbers
//! measured over at least 3 s each (`udpif_update_flow_pps`): pending ones are inserted, the fastest first, until ENOSPC;
//! then at most 1024 pairs change places, as long as the pending one is the faster. When nothing is pending any more the
//! port is no longer out of resources.
//!
//! Open vSwitch has no install budget. Here the NIC has one: new megaflows beyond it meet a busy NIC and stay pending, and a
//! round of rebalancing may use what the budget gives in three seconds.

use alloc::vec;
use alloc::vec::Vec;

use super::Contender;
use super::table::{Epoch, Table, Tally};
use super::trace::FlowNumber;
use crate::Micros;

/// OFFL_REBAL_INTVL_MSEC.
const INTERVAL: Micros = Micros::from_millis(3_000);
/// OFFL_REBAL_MAX_CHURN.
const CHURN_MAX: usize = 1_024;

/// What `struct udpif_key` has of it.
#[derive(Clone, Copy, Debug, Default)]
struct Ukey {
    alive: bool,
    packets: u64,
    /// `flow_packets`, `flow_time`, `flow_pps_rate`.
    measured_packets: u64,
    measured_at: Micros,
    pps: u64,
}

impl Ukey {
    /// `udpif_update_flow_pps()`.
    fn measure(&mut self, now: Micros) {
        let elapsed = now.since(self.measured_at);
        if elapsed >= INTERVAL {
            self.pps = (self.packets - self.measured_packets) / (elapsed.0 / 1_000_000);
            self.measured_packets = self.packets;
            self.measured_at = now;
        }
    }
}

/// See the module's documentation.
#[derive(Clone, Debug)]
pub(super) struct Rebalance {
    table: Table,
    ukeys: Vec<Ukey>,
    living: Vec<FlowNumber>,
    /// Megaflows that appeared in the epoch before.
    fresh: Vec<FlowNumber>,
    out_of_resources: bool,
    rebalanced_at: Micros,
    /// Installs that rebalancing may use, saved up for at most [`INTERVAL`].
    saved: u32,
}

impl Rebalance {
    pub(super) fn new(capacity: u32, flows: u32) -> Self {
        Self {
            table: Table::new(capacity, flows),
            ukeys: vec![Ukey::default(); flows as usize],
            living: Vec::new(),
            fresh: Vec::new(),
            out_of_resources: false,
            rebalanced_at: Micros::ZERO,
            saved: 0,
        }
    }

    /// `parse_flow_put()` of each new megaflow.
    fn put_fresh(&mut self, epoch: &Epoch<'_>) {
        for flow in core::mem::take(&mut self.fresh) {
            if !self.ukeys[flow.index()].alive || self.table.has(flow) {
                continue;
            }
            if self.saved == 0 || self.table.free() == 0 {
                self.out_of_resources = true;
                continue;
            }
            self.saved -= 1;
            self.table.install(epoch, flow);
        }
    }

    /// `rebalance_device()`.
    fn rebalance(&mut self, epoch: &Epoch<'_>) {
        let (mut offloaded, mut pending): (Vec<_>, Vec<_>) =
            self.living.iter().copied().partition(|flow| self.table.has(*flow));
        let ukeys = &self.ukeys;
        let pps = |flow: &FlowNumber| ukeys[flow.index()].pps;
        pending.sort_by_key(|flow| core::cmp::Reverse(pps(flow)));
        let mut inserted = 0;
        while inserted < pending.len() && self.saved > 0 && self.table.free() > 0 {
            self.table.install(epoch, pending[inserted]);
            self.saved -= 1;
            inserted += 1;
        }
        let pending = &pending[inserted..];
        if pending.is_empty() {
            self.out_of_resources = false;
            return;
        }
        offloaded.sort_by_key(pps);
        let pairs = offloaded.iter().zip(pending).take(CHURN_MAX.min(self.saved as usize));
        for (slow, fast) in pairs.take_while(|(slow, fast)| pps(fast) > pps(slow)) {
            self.table.evict(epoch, *slow);
            self.table.install(epoch, *fast);
            self.saved -= 1;
        }
    }
}

impl Contender for Rebalance {
    fn epoch(&mut self, epoch: &Epoch<'_>) {
        for flow in epoch.gone {
            self.table.gone(*flow);
            if let Some(ukey) = self.ukeys.get_mut(flow.index()) {
                *ukey = Ukey::default();
            }
        }
        let ukeys = &mut self.ukeys;
        self.living.retain(|flow| {
            let ukey = &mut ukeys[flow.index()];
            if ukey.alive {
                ukey.measure(epoch.begin);
            }
            ukey.alive
        });
        let saved_max =
            u64::from(epoch.installs).saturating_mul(INTERVAL.0) / epoch.end.since(epoch.begin).0.max(1);
        let saved = u64::from(self.saved) + u64::from(epoch.installs);
        self.saved = u32::try_from(saved.min(saved_max.max(u64::from(epoch.installs)))).unwrap_or(u32::MAX);
        self.put_fresh(epoch);
        if self.out_of_resources && epoch.begin.since(self.rebalanced_at) >= INTERVAL {
            self.rebalanced_at = epoch.begin;
            self.rebalance(epoch);
        }
        for moved in epoch.moved {
            let index = moved.flow.index();
            if index >= self.ukeys.len() {
                self.ukeys.resize(index + 1, Ukey::default());
            }
            let ukey = &mut self.ukeys[index];
            if !ukey.alive {
                *ukey = Ukey { alive: true, measured_at: moved.appeared, ..Ukey::default() };
                self.living.push(moved.flow);
                self.fresh.push(moved.flow);
            }
            ukey.packets += moved.packets;
        }
        self.table.count(epoch);
    }

    fn tally(&self) -> Tally {
        self.table.tally()
    }
}
