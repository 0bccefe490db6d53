//! A family of simple policies: an exponentially weighted average of each megaflow's bytes per epoch, and hysteresis.
//!
//! At the start of an epoch the megaflows with the greatest averages that have no entry get free entries, and take those of
//! the least, where theirs is greater by the hysteresis; as many as the budget allows. The best of the family, chosen in
//! hindsight, is a strong opponent: nobody knows in advance which one that will be.

use alloc::vec;
use alloc::vec::Vec;

use super::table::{Epoch, Table, Tally};
use super::trace::FlowNumber;
use crate::Micros;

/// Half-lives of the family.
pub(super) const HALF_LIVES: [Micros; 7] = [
    Micros::from_millis(100),
    Micros::from_millis(250),
    Micros::from_millis(500),
    Micros::from_millis(1_000),
    Micros::from_millis(2_000),
    Micros::from_millis(5_000),
    Micros::from_millis(10_000),
];

/// Hystereses of the family, in percent: the factor by which a newcomer has to be better.
pub(super) const HYSTERESES: [u32; 4] = [100, 120, 150, 200];

/// One of the family, and what became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Entries of the table.
    pub entries: u32,
    /// In which the weight of old traffic halves.
    pub half_life: Micros,
    /// Its hysteresis, in percent.
    pub hysteresis: u32,
    /// What it brought and cost.
    pub tally: Tally,
}

/// All members with one half-life, for tables of several sizes.
#[derive(Clone, Debug)]
pub(super) struct Ewma {
    half_life: Micros,
    /// What is left of an average after an epoch.
    keep: f64,
    /// Average and liveness of each flow.
    averages: Vec<f64>,
    living: Vec<FlowNumber>,
    alive: Vec<bool>,
    members: Vec<(u32, Table)>,
}

/// 2^(−epoch / half-life), by the series of e^x: this crate has no floating-point library.
fn keep(epoch: Micros, half_life: Micros) -> f64 {
    let x = epoch.0 as f64 / half_life.0.max(1) as f64;
    let (whole, fraction) = (x as u32, x - f64::from(x as u32));
    let mut term = 1.0;
    let mut sum = 1.0;
    for n in 1..30 {
        term *= -fraction * core::f64::consts::LN_2 / f64::from(n);
        sum += term;
    }
    (0..whole.min(1_000)).fold(sum, |value, _| value / 2.0)
}

impl Ewma {
    pub(super) fn new(half_life: Micros, epoch: Micros, capacities: &[u32], flows: u32) -> Self {
        let table = |capacity: &u32| HYSTERESES.map(|hysteresis| (hysteresis, Table::new(*capacity, flows)));
        Self {
            half_life,
            keep: keep(epoch, half_life),
            averages: vec![0.0; flows as usize],
            living: Vec::new(),
            alive: vec![false; flows as usize],
            members: capacities.iter().flat_map(table).collect(),
        }
    }

    pub(super) fn members(&self) -> impl Iterator<Item = Member> + '_ {
        self.members.iter().map(|(hysteresis, table)| Member {
            entries: table.capacity(),
            half_life: self.half_life,
            hysteresis: *hysteresis,
            tally: table.tally(),
        })
    }

    pub(super) fn epoch(&mut self, epoch: &Epoch<'_>) {
        for flow in epoch.gone {
            for (_, table) in &mut self.members {
                table.gone(*flow);
            }
            if let Some(alive) = self.alive.get_mut(flow.index()) {
                *alive = false;
                self.averages[flow.index()] = 0.0;
            }
        }
        let (alive, averages) = (&self.alive, &self.averages);
        self.living.retain(|flow| alive[flow.index()]);
        self.living
            .sort_unstable_by(|a, b| averages[b.index()].total_cmp(&averages[a.index()]).then(a.cmp(b)));
        for (hysteresis, table) in &mut self.members {
            choose(epoch, &self.living, averages, f64::from(*hysteresis) / 100.0, table);
            table.count(epoch);
        }
        for flow in &self.living {
            self.averages[flow.index()] *= self.keep;
        }
        for moved in epoch.moved {
            let index = moved.flow.index();
            if index >= self.alive.len() {
                self.alive.resize(index + 1, false);
                self.averages.resize(index + 1, 0.0);
            }
            if !core::mem::replace(&mut self.alive[index], true) {
                self.living.push(moved.flow);
            }
            self.averages[index] += (1.0 - self.keep) * moved.bytes as f64;
        }
    }
}

/// Gives entries to the best of `ranked`, which begins with the greatest average.
fn choose(epoch: &Epoch<'_>, ranked: &[FlowNumber], averages: &[f64], hysteresis: f64, table: &mut Table) {
    let mut weak = ranked.len();
    let mut left = epoch.installs;
    for (rank, flow) in ranked.iter().enumerate() {
        if left == 0 || rank >= weak {
            return;
        }
        let average = averages[flow.index()];
        if table.has(*flow) || average <= 0.0 {
            continue;
        }
        if table.free() == 0 {
            let Some(weakest) = ranked[..weak].iter().rposition(|flow| table.has(*flow)) else { return };
            weak = weakest;
            if average <= averages[ranked[weak].index()] * hysteresis {
                return;
            }
            table.evict(epoch, ranked[weak]);
        }
        table.install(epoch, *flow);
        left -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_halves_with_each_half_life() {
        for (epoch, half_life) in [(500, 500), (500, 100), (100, 10_000), (500, 333)] {
            let exact = (-f64::from(epoch) / f64::from(half_life)).exp2();
            let ours = keep(Micros::from_millis(epoch as u64), Micros::from_millis(half_life as u64));
            assert!((exact - ours).abs() < 1e-12, "{epoch} ms of {half_life} ms: {exact} {ours}");
        }
    }
}
