//! A family of simple policies: an exponentially weighted average of each megaflow's bytes per epoch, and hysteresis.
//!
//! At the start of an epoch the megaflows with the greatest averages that have no entry get free entries, and take those of
//! the least, where theirs is greater by the hysteresis; as many as the budget allows. The best of the family, chosen in
//! hindsight, is a strong opponent: nobody knows in advance which one that will be.
//!
//! Members with the same half-life share their averages and the ranking, whatever their hysteresis and the size of their
//! table. What did not move keeps its place in the ranking; so only what moved is sorted anew.

use alloc::vec;
use alloc::vec::Vec;

use super::table::{Epoch, FLAP_WITHIN, Tally};
use super::trace::FlowNumber;
use crate::Micros;

/// Half-lives of the family.
const HALF_LIVES: [Micros; 7] = [
    Micros::from_millis(100),
    Micros::from_millis(250),
    Micros::from_millis(500),
    Micros::from_millis(1_000),
    Micros::from_millis(2_000),
    Micros::from_millis(5_000),
    Micros::from_millis(10_000),
];

/// Hystereses of the family, in percent: the factor by which a newcomer has to be better.
const HYSTERESES: [u32; 4] = [100, 120, 150, 200];

/// Sizes of the table that one ranking serves: what holds an entry is told by one bit for each member.
const SIZES_MAX: usize = 64 / HYSTERESES.len();

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

/// A place in the arrays of the family, for as long as a megaflow lives.
type Slot = u32;

/// No slot.
const NONE: Slot = Slot::MAX;

/// All members.
#[derive(Clone, Debug)]
pub(super) struct Family {
    /// The slot of each flow.
    slots: Vec<Slot>,
    /// Whether a megaflow lives in a slot.
    alive: Vec<bool>,
    /// Bytes of this epoch, by slot; zero outside [`Family::epoch`].
    bytes: Vec<u64>,
    free: Vec<Slot>,
    rankings: Vec<Ranking>,
}

/// Members with one half-life.
#[derive(Clone, Debug)]
struct Ranking {
    /// What is left of an average after an epoch.
    keep: f64,
    /// Those that live: those that did not move in the last epoch as they were ranked, then the others.
    ranked: Vec<Ranked>,
    /// A bit for each member in which the megaflow of the slot holds an entry.
    holders: Vec<u64>,
    /// When each member installed the megaflow of the slot, and a microsecond more; zero for never.
    installed: Vec<Micros>,
    members: Vec<Member>,
    /// Entries in use, by member.
    held: Vec<u32>,
}

#[derive(Clone, Copy, Debug)]
struct Ranked {
    average: f64,
    flow: FlowNumber,
    slot: Slot,
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

impl Family {
    pub(super) fn new(epoch: Micros, capacities: &[u32], flows: u32) -> Self {
        let rankings = HALF_LIVES.iter().flat_map(|half_life| {
            capacities.chunks(SIZES_MAX).map(|sizes| Ranking::new(*half_life, epoch, sizes))
        });
        Self {
            slots: vec![NONE; flows as usize],
            alive: Vec::new(),
            bytes: Vec::new(),
            free: Vec::new(),
            rankings: rankings.collect(),
        }
    }

    pub(super) fn members(&self) -> impl Iterator<Item = Member> + '_ {
        self.rankings.iter().flat_map(|ranking| ranking.members.iter().copied())
    }

    pub(super) fn epoch(&mut self, epoch: &Epoch<'_>) {
        for flow in epoch.gone {
            let Some(slot) = self.slots.get_mut(flow.index()).filter(|slot| **slot != NONE) else { continue };
            let slot = core::mem::replace(slot, NONE);
            self.alive[slot as usize] = false;
            self.free.push(slot);
            self.rankings.iter_mut().for_each(|ranking| ranking.gone(slot));
        }
        for ranking in &mut self.rankings {
            ranking.choose(epoch, &self.alive);
            ranking.count(epoch, &self.slots);
        }
        let mut new = Vec::new();
        for moved in epoch.moved {
            let index = moved.flow.index();
            if index >= self.slots.len() {
                self.slots.resize(index + 1, NONE);
            }
            if self.slots[index] == NONE {
                self.slots[index] = self.free.pop().unwrap_or(self.alive.len() as Slot);
                new.push((moved.flow, self.slots[index]));
            }
            let slot = self.slots[index] as usize;
            if slot >= self.alive.len() {
                self.alive.resize(slot + 1, false);
                self.bytes.resize(slot + 1, 0);
            }
            self.alive[slot] = true;
            self.bytes[slot] = moved.bytes;
        }
        for ranking in &mut self.rankings {
            ranking.learn(&self.bytes, &new);
        }
        for moved in epoch.moved {
            self.bytes[self.slots[moved.flow.index()] as usize] = 0;
        }
    }
}

impl Ranking {
    fn new(half_life: Micros, epoch: Micros, capacities: &[u32]) -> Self {
        let member =
            |entries: u32, hysteresis| Member { entries, half_life, hysteresis, tally: Tally::default() };
        let members: Vec<Member> = capacities
            .iter()
            .flat_map(|entries| HYSTERESES.map(|hysteresis| member(*entries, hysteresis)))
            .collect();
        Self {
            keep: keep(epoch, half_life),
            ranked: Vec::new(),
            holders: Vec::new(),
            installed: Vec::new(),
            held: vec![0; members.len()],
            members,
        }
    }

    fn gone(&mut self, slot: Slot) {
        let slot = slot as usize;
        let Some(holders) = self.holders.get_mut(slot).map(core::mem::take) else { return };
        for (number, held) in self.held.iter_mut().enumerate() {
            *held -= (holders >> number & 1) as u32;
        }
        let members = self.members.len();
        self.installed[slot * members..][..members].fill(Micros::ZERO);
    }

    /// Ranks those that live, and has every member give its entries away.
    fn choose(&mut self, epoch: &Epoch<'_>, alive: &[bool]) {
        // A slot whose megaflow is gone has no other before the end of this epoch.
        self.ranked.retain(|ranked| alive[ranked.slot as usize]);
        // A stable sort, which makes use of what is in order already.
        self.ranked.sort_by(|a, b| b.average.total_cmp(&a.average).then(a.flow.cmp(&b.flow)));
        let mut holders: Vec<u64> = self.ranked.iter().map(|it| self.holders[it.slot as usize]).collect();
        for number in 0..self.members.len() {
            self.give(epoch, number, &mut holders);
        }
        for (ranked, holders) in self.ranked.iter().zip(holders) {
            self.holders[ranked.slot as usize] = holders;
        }
    }

    /// Gives entries of one member to the best; `holders` are by rank.
    fn give(&mut self, epoch: &Epoch<'_>, number: usize, holders: &mut [u64]) {
        let Member { entries, hysteresis, .. } = self.members[number];
        let hysteresis = f64::from(hysteresis) / 100.0;
        let bit = 1_u64 << number;
        let mut weak = holders.len();
        let mut left = epoch.installs;
        for rank in 0..holders.len() {
            if left == 0 || rank >= weak {
                return;
            }
            let average = self.ranked[rank].average;
            if holders[rank] & bit != 0 || average <= 0.0 {
                continue;
            }
            if self.held[number] >= entries {
                let Some(weakest) = holders[..weak].iter().rposition(|holders| holders & bit != 0) else {
                    return;
                };
                weak = weakest;
                if average <= self.ranked[weak].average * hysteresis {
                    return;
                }
                holders[weak] &= !bit;
                self.held[number] -= 1;
                self.members[number].tally.evictions += u64::from(epoch.counts);
            }
            holders[rank] |= bit;
            self.held[number] += 1;
            self.install(epoch, number, self.ranked[rank].slot);
            left -= 1;
        }
    }

    /// Counts an install.
    fn install(&mut self, epoch: &Epoch<'_>, number: usize, slot: Slot) {
        let installed = &mut self.installed[slot as usize * self.members.len() + number];
        let now = epoch.begin.plus(Micros(1));
        let before = core::mem::replace(installed, now);
        if epoch.counts {
            let flaps = before > Micros::ZERO && now.since(before) < FLAP_WITHIN;
            let tally = &mut self.members[number].tally;
            tally.installs += 1;
            tally.flaps += u64::from(flaps);
        }
    }

    /// Counts what moves in an epoch of those that hold entries.
    fn count(&mut self, epoch: &Epoch<'_>, slots: &[Slot]) {
        if !epoch.counts {
            return;
        }
        for moved in epoch.moved {
            let slot = slots.get(moved.flow.index()).copied().unwrap_or(NONE);
            let mut holders = self.holders.get(slot as usize).copied().unwrap_or(0);
            while holders != 0 {
                let tally = &mut self.members[holders.trailing_zeros() as usize].tally;
                tally.bytes += moved.bytes;
                tally.packets += moved.packets;
                holders &= holders - 1;
            }
        }
    }

    /// Takes what moved into the averages, `bytes` by slot, and takes up what is `new`.
    fn learn(&mut self, bytes: &[u64], new: &[(FlowNumber, Slot)]) {
        self.holders.resize(bytes.len(), 0);
        self.installed.resize(bytes.len() * self.members.len(), Micros::ZERO);
        let mut others = Vec::new();
        let keep = self.keep;
        self.ranked.retain_mut(|ranked| {
            ranked.average *= keep;
            let bytes = bytes[ranked.slot as usize];
            if bytes > 0 {
                ranked.average += (1.0 - keep) * bytes as f64;
                others.push(*ranked);
            }
            bytes == 0
        });
        self.ranked.append(&mut others);
        let begin = |(flow, slot): &(FlowNumber, Slot)| {
            let average = (1.0 - keep) * bytes[*slot as usize] as f64;
            Ranked { average, flow: *flow, slot: *slot }
        };
        self.ranked.extend(new.iter().map(begin));
    }
}

#[cfg(test)]
mod tests {
    use super::super::dice::Dice;
    use super::super::table::Table;
    use super::super::trace::TenantNumber;
    use super::super::traffic::Moved;
    use super::*;

    #[test]
    fn what_is_kept_halves_with_each_half_life() {
        for (epoch, half_life) in [(500, 500), (500, 100), (100, 10_000), (500, 333)] {
            let exact = (-f64::from(epoch) / f64::from(half_life)).exp2();
            let ours = keep(Micros::from_millis(epoch as u64), Micros::from_millis(half_life as u64));
            assert!((exact - ours).abs() < 1e-12, "{epoch} ms of {half_life} ms: {exact} {ours}");
        }
    }

    /// The family by its definition, without anything shared: each epoch ranks everything, and each member has a table.
    #[derive(Clone, Debug)]
    struct Plain {
        half_life: Micros,
        /// What is left of an average after an epoch.
        keep: f64,
        /// Average and liveness of each flow.
        averages: Vec<f64>,
        living: Vec<FlowNumber>,
        alive: Vec<bool>,
        members: Vec<(u32, Table)>,
    }

    impl Plain {
        fn new(half_life: Micros, epoch: Micros, capacities: &[u32], flows: u32) -> Self {
            let table =
                |capacity: &u32| HYSTERESES.map(|hysteresis| (hysteresis, Table::new(*capacity, flows)));
            Self {
                half_life,
                keep: keep(epoch, half_life),
                averages: vec![0.0; flows as usize],
                living: Vec::new(),
                alive: vec![false; flows as usize],
                members: capacities.iter().flat_map(table).collect(),
            }
        }

        fn members(&self) -> impl Iterator<Item = Member> + '_ {
            self.members.iter().map(|(hysteresis, table)| Member {
                entries: table.capacity(),
                half_life: self.half_life,
                hysteresis: *hysteresis,
                tally: table.tally(),
            })
        }

        fn epoch(&mut self, epoch: &Epoch<'_>) {
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
    fn choose(
        epoch: &Epoch<'_>,
        ranked: &[FlowNumber],
        averages: &[f64],
        hysteresis: f64,
        table: &mut Table,
    ) {
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

    /// Some 70 epochs of 40 flows, of which some go and come again, with many equal numbers of bytes.
    fn compare(capacities: &[u32], seed: u64) {
        const FLOWS: u32 = 40;
        let mut dice = Dice(seed);
        let length = Micros::from_millis(500);
        let mut family = Family::new(length, capacities, FLOWS / 2);
        let mut plain = HALF_LIVES.map(|half_life| Plain::new(half_life, length, capacities, FLOWS / 2));
        let mut alive = [false; FLOWS as usize];
        for number in 0..70 {
            let leaves = |flow: &u32| alive[*flow as usize] && dice.below(12) == 0;
            let gone: Vec<FlowNumber> = (0..FLOWS).filter(leaves).map(FlowNumber).collect();
            gone.iter().for_each(|flow| alive[flow.index()] = false);
            let mut moved = Vec::new();
            for flow in (0..FLOWS).rev().filter(|_| dice.below(3) == 0).collect::<Vec<_>>() {
                let packets = 1 + dice.below(9);
                let (flow, tenant) = (FlowNumber(flow), TenantNumber(0));
                alive[flow.index()] = true;
                moved.push(Moved { flow, tenant, appeared: Micros::ZERO, packets, bytes: packets / 2 * 100 });
            }
            let begin = Micros(number * length.0);
            let (end, installs, counts) = (begin.plus(length), dice.below(9) as u32, number > 3);
            let epoch = Epoch { begin, end, installs, counts, gone: &gone, moved: &moved };
            family.epoch(&epoch);
            plain.iter_mut().for_each(|plain| plain.epoch(&epoch));
        }
        let order = |member: &Member| (member.half_life, member.entries, member.hysteresis);
        let mut shared: Vec<Member> = family.members().collect();
        let mut defined: Vec<Member> = plain.iter().flat_map(Plain::members).collect();
        assert!(defined.iter().any(|member| member.tally.flaps > 0 && member.tally.evictions > 0));
        shared.sort_by_key(order);
        defined.sort_by_key(order);
        assert_eq!(shared, defined);
    }

    #[test]
    fn members_that_share_a_ranking_do_what_each_does_by_its_definition() {
        for seed in 1..40 {
            compare(&[1, 3, 8, 30], 0x9e37_79b9_7f4a_7c15 ^ seed);
        }
        // More sizes than one ranking serves.
        compare(&core::array::from_fn::<u32, 19, _>(|size| size as u32 + 1), 7);
    }
}
