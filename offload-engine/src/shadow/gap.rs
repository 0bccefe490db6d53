//! Early gaps: a rule goes for a moment before its megaflow looks idle to Open vSwitch, and comes back with the next packet.
//!
//! Open vSwitch deletes a megaflow that had no packet for `max-idle` (`revalidate()` in `ofproto/ofproto-dpif-upcall.c`), and sees none of
//! those in hardware. One packet in the kernel datapath is enough for it to be in use again. So once half of that time is over, the rule is
//! taken out; when a reading shows a packet, it is placed again. Where none comes within [`GAP_MAX`], the megaflow is idle indeed, and
//! stays in software. All the while the planner knows it as placed: its entry is its own.
//!
//! That trades an upcall and a new megaflow, every `max-idle`, for two changes of the NIC's table and some packets in software,
//! twice as often; so it is for the operator to choose (`Settings::gaps`).

use super::book::Stage;
use super::place::Shadow;
use crate::counters::Traffic;
use crate::event::Effect;
use crate::world::World;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use netlink_wire::Ufid;
use policies::Micros;

/// The longest that a rule is out for a packet to come.
const GAP_MAX: Micros = Micros::from_secs(2);
/// Rules that are out at the same time, at most.
const OPEN_MAX: usize = 256;

/// Which rules are out, and which are to be.
#[derive(Clone, Debug, Default)]
pub(super) struct Gaps {
    /// When the kernel datapath had a packet last, at the latest that is certain; of megaflows with a rule.
    used: BTreeMap<Ufid, Micros>,
    /// Those whose rule is out, and until when at most.
    open: BTreeMap<Ufid, Micros>,
}

impl Gaps {
    /// Whether the rule of a megaflow is out for a moment.
    pub(super) fn is_open(&self, ufid: Ufid) -> bool {
        self.open.contains_key(&ufid)
    }

    /// A rule was made.
    pub(super) fn placed(&mut self, now: Micros, ufid: Ufid) {
        self.used.entry(ufid).or_insert(now);
    }

    /// The gap is over, if there is one.
    pub(super) fn close(&mut self, ufid: Ufid) {
        self.open.remove(&ufid);
    }

    /// The megaflow is not there any more, or is not to be in hardware.
    pub(super) fn forget(&mut self, ufid: Ufid) {
        self.used.remove(&ufid);
        self.open.remove(&ufid);
    }

    /// The kernel datapath had packets since `since`; whether that ends a gap.
    fn had_packets(&mut self, ufid: Ufid, since: Micros) -> bool {
        if let Some(used) = self.used.get_mut(&ufid) {
            *used = (*used).max(since);
        }
        self.open.remove(&ufid).is_some()
    }
}

impl Shadow {
    /// A reading shows what a megaflow moved: a gap ends with the first packet of the kernel datapath.
    pub(super) fn note_used(
        &mut self,
        world: &mut World,
        now: Micros,
        ufid: Ufid,
        (moved, over): (Traffic, Micros),
        fx: &mut Vec<Effect>,
    ) {
        let since = Micros(now.0.saturating_sub(over.0));
        if moved.software.packets > 0 && self.gaps.had_packets(ufid, since) {
            self.settle(world, now, ufid, fx);
        }
    }

    /// Ends gaps that no packet ended, and begins those that are due.
    pub(super) fn see_to_gaps(&mut self, world: &mut World, now: Micros, fx: &mut Vec<Effect>) {
        let over: Vec<Ufid> =
            self.gaps.open.iter().filter(|(_, until)| now >= **until).map(|(ufid, _)| *ufid).collect();
        for ufid in over {
            self.unwant(world, now, ufid);
            self.settle(world, now, ufid, fx);
        }
        if !world.settings.gaps || !self.may_place(world) {
            return;
        }
        let half = Micros(world.ovs.max_idle().0 / 2);
        let is_there = |ufid: Ufid| world.own.get(ufid).is_some_and(|own| own.stage == Stage::There);
        let due = self.gaps.used.iter().filter(|(_, used)| now.since(**used) >= half);
        let due = due.filter(|(ufid, _)| is_there(**ufid) && !self.gaps.is_open(**ufid));
        let mut due: Vec<(Micros, Ufid)> = due.map(|(ufid, used)| (*used, *ufid)).collect();
        due.sort_unstable();
        for (_, ufid) in due.into_iter().take(OPEN_MAX.saturating_sub(self.gaps.open.len())) {
            self.gaps.open.insert(ufid, now.plus(GAP_MAX));
            world.tally.gaps += 1;
            self.settle(world, now, ufid, fx);
        }
    }
}
