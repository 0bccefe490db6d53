//! The clairvoyant oracle: what the best choice for each epoch brings when its bytes are known in advance.
//!
//! At the start of each epoch it knows every flow's bytes in that epoch, and keeps the K flows with the most bytes among
//! those in hardware and the best (installs/s × epoch) others. Installs that it does not use are lost.

use alloc::vec;
use alloc::vec::Vec;

use super::Contender;
use super::table::{Epoch, Table, Tally};
use super::trace::FlowNumber;

/// See the module's documentation.
#[derive(Clone, Debug)]
pub(super) struct Oracle {
    table: Table,
    /// The megaflows in the table, in no order.
    inside: Vec<FlowNumber>,
    /// Bytes of this epoch, by flow; zero outside [`Contender::epoch`].
    bytes: Vec<u64>,
    /// Where there are only the megaflows that an earlier epoch has shown: which flows have such a one.
    seen: Option<Vec<bool>>,
}

impl Oracle {
    pub(super) fn new(capacity: u32, flows: u32) -> Self {
        let table = Table::new(capacity, flows);
        Self { table, inside: Vec::new(), bytes: vec![0; flows as usize], seen: None }
    }

    /// The limit of whoever does not foresee megaflows: it has any number of installs, so what it gets in an epoch is the
    /// most that so many of the megaflows seen before bring in it.
    pub(super) fn of_seen(capacity: u32, flows: u32) -> Self {
        Self { seen: Some(vec![false; flows as usize]), ..Self::new(capacity, flows) }
    }

    fn see(&mut self, flow: FlowNumber, lives: bool) {
        let Some(seen) = &mut self.seen else { return };
        if flow.index() >= seen.len() {
            seen.resize(flow.index() + 1, false);
        }
        seen[flow.index()] = lives;
    }

    fn choose(&mut self, epoch: &Epoch<'_>) {
        let Self { table, inside, bytes, seen } = self;
        let seen = |flow: FlowNumber| seen.as_ref().is_none_or(|seen| seen.get(flow.index()) == Some(&true));
        let others = epoch.moved.iter();
        let others = others.filter(|moved| !table.has(moved.flow) && moved.bytes > 0 && seen(moved.flow));
        let mut others: Vec<(u64, FlowNumber)> = others.map(|moved| (moved.bytes, moved.flow)).collect();
        let installs = if self.seen.is_some() { usize::MAX } else { epoch.installs as usize };
        // No entry changes hands twice in an epoch.
        let best = installs.min(others.len()).min(table.capacity() as usize);
        if best == 0 {
            return;
        }
        // The most bytes first; of equals the lower number.
        let order = |(bytes, flow): &(u64, FlowNumber)| (core::cmp::Reverse(*bytes), *flow);
        others.select_nth_unstable_by_key(best - 1, order);
        others.truncate(best);
        others.sort_unstable_by_key(order);
        // The weakest of those inside, who win where bytes are equal: that saves an install. No more of them than may have to
        // go.
        let order = |flow: &FlowNumber| (bytes[flow.index()], *flow);
        let needed = best.saturating_sub(table.free() as usize).min(inside.len());
        if (1..inside.len()).contains(&needed) {
            inside.select_nth_unstable_by_key(needed - 1, order);
        }
        let mut weakest = inside[..needed].to_vec();
        weakest.sort_unstable_by_key(order);
        let mut weakest = weakest.into_iter();
        for (more, flow) in others {
            if table.free() == 0 {
                match weakest.next() {
                    Some(weak) if bytes[weak.index()] < more => table.evict(epoch, weak),
                    _ => break,
                }
            }
            table.install(epoch, flow);
            inside.push(flow);
        }
        inside.retain(|flow| table.has(*flow));
    }
}

impl Contender for Oracle {
    fn epoch(&mut self, epoch: &Epoch<'_>) {
        let mut left = false;
        for flow in epoch.gone {
            left |= self.table.gone(*flow);
            self.see(*flow, false);
        }
        if left {
            let table = &self.table;
            self.inside.retain(|flow| table.has(*flow));
        }
        for moved in epoch.moved {
            let index = moved.flow.index();
            if index >= self.bytes.len() {
                self.bytes.resize(index + 1, 0);
            }
            self.bytes[index] = moved.bytes;
        }
        self.choose(epoch);
        self.table.count(epoch);
        for moved in epoch.moved {
            self.bytes[moved.flow.index()] = 0;
            self.see(moved.flow, true);
        }
    }

    fn tally(&self) -> Tally {
        self.table.tally()
    }
}

#[cfg(test)]
mod tests {
    use super::super::dice::Dice;
    use super::super::trace::TenantNumber;
    use super::super::traffic::Moved;
    use super::*;
    use crate::Micros;

    const FLOWS: u32 = 6;

    /// The definition word by word, every set of flows tried: the most bytes of an epoch that a set of at most `entries`
    /// flows can bring, taken from those inside and the `installs` best others. Of sets as good, the one with the
    /// fewest installs. Returns bytes, set.
    fn brute_force(inside: u32, bytes: &[u64], entries: u32, installs: usize) -> (u64, u32) {
        let mut others: Vec<u32> =
            (0..FLOWS).filter(|flow| inside & (1 << flow) == 0 && bytes[*flow as usize] > 0).collect();
        others.sort_by_key(|flow| core::cmp::Reverse(bytes[*flow as usize]));
        others.truncate(installs);
        let allowed = others.iter().fold(inside, |set, flow| set | 1 << flow);
        let sum = |set: u32| {
            (0..FLOWS).filter(|flow| set & (1 << flow) != 0).map(|flow| bytes[flow as usize]).sum::<u64>()
        };
        let sets = (0..1_u32 << FLOWS).filter(|set| set & !allowed == 0 && set.count_ones() <= entries);
        let best = sets.max_by_key(|set| {
            (sum(*set), core::cmp::Reverse((set & !inside).count_ones()), (set & inside).count_ones())
        });
        best.map(|set| (sum(set), set)).unwrap()
    }

    #[test]
    fn every_epoch_is_as_good_as_the_best_of_all_sets() {
        let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
        for round in 0..3_000 {
            let (entries, installs) = (dice.below(5) as u32, dice.below(4) as u32);
            let mut oracle = Oracle::new(entries, FLOWS);
            for number in 0..8_u64 {
                // All different, so that there is one best set; now and then nothing at all.
                let mut bytes: Vec<u64> =
                    (0..u64::from(FLOWS)).map(|flow| dice.below(50) * 8 + flow + 1).collect();
                for bytes in &mut bytes {
                    *bytes *= u64::from(dice.below(3) > 0);
                }
                let inside = (0..FLOWS)
                    .filter(|flow| oracle.table.has(FlowNumber(*flow)))
                    .fold(0, |set, flow| set | 1 << flow);
                let (best, _) = brute_force(inside, &bytes, entries, installs as usize);
                let moved: Vec<Moved> = (0..FLOWS)
                    .filter(|flow| bytes[*flow as usize] > 0)
                    .map(|flow| Moved {
                        flow: FlowNumber(flow),
                        tenant: TenantNumber(0),
                        appeared: Micros::ZERO,
                        packets: 1,
                        bytes: bytes[flow as usize],
                    })
                    .collect();
                let before = oracle.tally();
                let begin = Micros::from_secs(number);
                let end = Micros::from_secs(number + 1);
                oracle.epoch(&Epoch { begin, end, installs, counts: true, gone: &[], moved: &moved });
                let after = oracle.tally();
                assert_eq!(
                    after.bytes - before.bytes,
                    best,
                    "round {round}: {entries} entries, {installs} installs"
                );
                assert!(after.installs - before.installs <= u64::from(installs));
                assert!(oracle.table.held() <= entries);
            }
        }
    }

    #[test]
    fn an_entry_is_not_moved_for_equal_bytes_or_for_none() {
        let mut oracle = Oracle::new(1, 3);
        let moved = |flow, bytes| Moved {
            flow: FlowNumber(flow),
            tenant: TenantNumber(0),
            appeared: Micros::ZERO,
            packets: 1,
            bytes,
        };
        let mut run = |moved: &[Moved]| {
            oracle.epoch(&Epoch {
                begin: Micros::ZERO,
                end: Micros(1),
                installs: 9,
                counts: true,
                gone: &[],
                moved,
            });
            oracle.tally()
        };
        assert_eq!(run(&[moved(0, 5)]).installs, 1);
        assert_eq!(run(&[moved(0, 5), moved(1, 5)]).installs, 1);
        assert_eq!(run(&[]).evictions, 0);
        assert_eq!(
            run(&[moved(0, 5), moved(1, 6)]),
            Tally { bytes: 16, packets: 3, installs: 2, evictions: 1, flaps: 0 }
        );
    }

    #[test]
    fn one_of_seen_gets_the_most_bytes_of_what_an_earlier_epoch_has_shown_and_still_lives() {
        let mut oracle = Oracle::of_seen(1, 1);
        let mut run = |gone: &[FlowNumber], bytes: &[u64]| {
            let moved = (0..).zip(bytes).map(|(flow, bytes)| Moved {
                flow: FlowNumber(flow),
                tenant: TenantNumber(0),
                appeared: Micros::ZERO,
                packets: 1,
                bytes: *bytes,
            });
            let moved: Vec<Moved> = moved.collect();
            let (begin, end) = (Micros::ZERO, Micros(1));
            let before = oracle.tally().bytes;
            oracle.epoch(&Epoch { begin, end, installs: 0, counts: true, gone, moved: &moved });
            oracle.tally().bytes - before
        };
        assert_eq!(run(&[], &[10, 20]), 0, "nobody has seen them");
        assert_eq!(run(&[], &[10, 20, 90]), 20);
        assert_eq!(run(&[], &[30, 20, 0]), 30, "whatever installs it takes");
        assert_eq!(run(&[FlowNumber(0)], &[50, 20, 0]), 20, "a megaflow that was gone is a new one");
        assert_eq!(run(&[], &[50, 20, 0]), 50);
    }
}
