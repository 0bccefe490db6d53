//! Rules that an earlier daemon left, and that are right: they stay, and are ours from here on.
//!
//! Up to that, nobody answers for them but the guard, which waits for so long. So it is decided about all of them at once, as
//! soon as the kernel datapath and the filters of all ports have been read whole: one that is just what its megaflow gives,
//! and is in hardware, is taken over, and any other is removed.

use super::book::{Own, Stage};
use super::layout::Origin;
use super::place::{Shadow, rule_of};
use crate::counters::Meter;
use crate::event::Effect;
use crate::ledger::Home;
use crate::ports::NicId;
use crate::rule::{same_action, traffic};
use crate::world::World;
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use netlink_wire::Ufid;
use policies::Micros;
use policies::planner::Verdict;
use tc_flower::{Filter, FilterFlags, FilterReport, Location};

impl Shadow {
    /// Decides about what was left, if it can be decided about now.
    pub(super) fn take_over(&mut self, world: &mut World, now: Micros, fx: &mut Vec<Effect>) {
        let locations = world.ports.locations();
        let is_read = locations.iter().all(|location| !world.read_in_full.contains(location));
        if !world.takes_over() || self.has_taken_over || !is_read || !self.may_keep(world) {
            return;
        }
        self.has_taken_over = true;
        let left = world.own.take_left();
        let of_origin: BTreeMap<Origin, Ufid> = match left.is_empty() {
            true => BTreeMap::new(),
            false => {
                let there = world.ledger.select(|entry| entry.home == Home::Datapath);
                there.into_iter().map(|ufid| (Origin::of(ufid), ufid)).collect()
            }
        };
        let mut rules = 0;
        for (address, report) in left {
            let ufid = Origin::of_filter(&report).and_then(|origin| of_origin.get(&origin).copied());
            match ufid.and_then(|ufid| Some((ufid, self.right(world, ufid, &report)?))) {
                Some((ufid, (nic, rule))) => {
                    self.take(world, now, ufid, (nic, rule), &report);
                    rules += 1;
                }
                None => world.own.note_stray(address),
            }
        }
        let device = |location: &Location| match location {
            Location::Device { ifindex, .. } => Some(*ifindex),
            Location::Block(_) => None,
        };
        fx.push(Effect::TookOver { devices: locations.iter().filter_map(device).collect(), rules });
    }

    /// The rule that its megaflow gives, if that is the one that is there, and is to be there.
    fn right(&self, world: &World, ufid: Ufid, report: &FilterReport) -> Option<(NicId, Filter)> {
        if world.own.get(ufid).is_some() || !report.is_in_hw() {
            return None;
        }
        let entry = world.ledger.get(ufid)?;
        let (nic, rule) = rule_of(world, ufid, entry).ok()?;
        let verdict = self.planners.verdict(Some(nic), ufid)?;
        let is_wanted = !matches!(verdict, Verdict::Software(_)) && !self.draining.covers(Some(nic));
        (is_wanted && is_same(&rule, &report.to_filter().ok()?)).then_some((nic, rule))
    }

    fn take(
        &mut self,
        world: &mut World,
        now: Micros,
        ufid: Ufid,
        (nic, rule): (NicId, Filter),
        report: &FilterReport,
    ) {
        // What it has counted, the daemon before us has told.
        let mut meter = Meter::default();
        meter.read(traffic(&report.flow_stats()));
        let round = world.latest_round();
        let own = Own {
            rule: Box::new(rule),
            nic,
            at: None,
            stage: Stage::There,
            meter,
            read_at: now,
            made_in: round,
            seen: round,
        };
        world.own.insert(ufid, own);
        world.own.is_at(ufid, report.address);
        world.openflow.placed(now, ufid);
        self.gaps.placed(now, ufid);
        if let Some(entry) = world.ledger.get_mut(ufid) {
            entry.shadowed = true;
            entry.refusal = None;
        }
        self.wanted.insert(ufid);
        if let Some(planner) = self.planners.get_mut(nic) {
            planner.placed(now, ufid);
        }
    }
}

/// Whether the kernel has a rule as it would be asked for. The kernel has chosen the handle, and counts actions.
fn is_same(rule: &Filter, there: &Filter) -> bool {
    const ASKED: FilterFlags = FilterFlags::SKIP_SW;
    let address = tc_flower::FilterAddress { handle: there.address.handle, ..rule.address };
    address == there.address
        && rule.flags.contains(ASKED) == there.flags.contains(ASKED)
        && rule.class_id == there.class_id
        && rule.indev == there.indev
        && rule.keys == there.keys
        && rule.actions.len() == there.actions.len()
        && rule.actions.iter().zip(&there.actions).all(|(a, b)| same_action(a, b))
}
