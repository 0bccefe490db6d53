//! Clean promotion: Open vSwitch saves the flow's counters before the filter is replaced.

use super::Steer;
use crate::dpctl::FlowText;
use crate::event::{CommandError, Effect};
use crate::ledger::{Goal, Stage};
use crate::race::{Judgement, judge};
use crate::refusal::Refusal;
use crate::rule::same_rule;
use crate::settings::Counters;
use crate::world::World;
use alloc::boxed::Box;
use alloc::string::ToString;
use alloc::vec::Vec;
use netlink_wire::Ufid;
use policies::Micros;
use tc_flower::FilterReport;

impl Steer {
    /// Whether a bare replacement would take something out of the OpenFlow counters.
    pub(super) fn needs_clean_promotion(&self, world: &World, ufid: Ufid) -> bool {
        let counted = world.ledger.get(ufid).is_some_and(|entry| !entry.meter.last().is_zero());
        counted && saves_counters(world)
    }

    /// Puts a flow in line for a clean promotion, not before Open vSwitch has left it alone for a while.
    pub(super) fn wait_for_clean_promotion(&mut self, world: &World, now: Micros, ufid: Ufid) {
        let settled = world.ledger.get(ufid).map(|entry| entry.changed.plus(world.settings.settle));
        self.waiting.insert(ufid, settled.unwrap_or(now));
    }

    /// Begins as many clean promotions as ovs-vswitchd's control socket has room for.
    pub(super) fn start_waiting(&mut self, world: &mut World, now: Micros, fx: &mut Vec<Effect>) {
        if self.waiting.is_empty() || !self.has_room_on_socket(world) {
            return;
        }
        let ready: Vec<Ufid> =
            self.waiting.iter().filter(|(_, since)| **since <= now).map(|(ufid, _)| *ufid).collect();
        for ufid in ready {
            if !self.has_room_on_socket(world) {
                return;
            }
            self.waiting.remove(&ufid);
            let Some(entry) = world.ledger.get(ufid) else { continue };
            if entry.filter.is_none() || !entry.is_resting() || !world.is_trusted(entry) {
                self.not_promoted(world, now, ufid);
                continue;
            }
            if now.since(entry.changed) < world.settings.settle {
                self.wait_for_clean_promotion(world, now, ufid);
                continue;
            }
            let op = world.new_op(ufid);
            if let Some(entry) = world.ledger.get_mut(ufid) {
                entry.stage = Stage::Reading { op, changed: entry.changed };
            }
            fx.push(Effect::ReadFlow { op, ufid });
        }
    }

    /// Whether another command may be sent to ovs-vswitchd.
    pub(super) fn has_room_on_socket(&self, world: &World) -> bool {
        let under_way = world
            .ops
            .values()
            .filter(|ufid| world.ledger.get(**ufid).is_some_and(|entry| speaks_to_vswitchd(&entry.stage)))
            .count();
        world.vswitchd_up && under_way < world.settings.commands_in_flight_max as usize
    }

    /// `dpctl/get-flow` was answered.
    pub(super) fn flow_read(
        &mut self,
        world: &mut World,
        now: Micros,
        ufid: Ufid,
        changed: Micros,
        read: Result<FlowText, CommandError>,
        fx: &mut Vec<Effect>,
    ) {
        let unchanged =
            world.ledger.get(ufid).filter(|entry| entry.changed == changed && world.is_trusted(entry));
        let base = unchanged.and_then(|entry| entry.filter.as_ref()).map(|filter| filter.owner.clone());
        match (read, base) {
            (Ok(flow), Some(base)) if flow.ufid == ufid => {
                let mut flow = match flow.with_tags_of(&base.keys) {
                    Ok(flow) => flow,
                    Err(why) => return self.cannot_count(world, now, ufid, why.to_string()),
                };
                flow.complete(&base.keys.tunnel);
                let op = world.new_op(ufid);
                if let Some(entry) = world.ledger.get_mut(ufid) {
                    entry.stage = Stage::Modifying { op, base, seen: Vec::new(), unclear: false };
                }
                fx.push(Effect::ModifyFlow { op, flow: Box::new(flow) });
            }
            (Ok(_) | Err(CommandError::Lost), _) => self.not_promoted(world, now, ufid),
            (Err(CommandError::Failed(why)), _) => self.cannot_count(world, now, ufid, why),
            (Err(CommandError::Unreadable(why)), _) => self.cannot_count(world, now, ufid, why.to_string()),
        }
    }

    fn cannot_count(&mut self, world: &mut World, now: Micros, ufid: Ufid, why: alloc::string::String) {
        if Self::is_in_tc(world, ufid) {
            self.refuse(world, now, ufid, Refusal::counters(&why));
        } else {
            self.not_promoted(world, now, ufid);
        }
    }

    /// `dpctl/mod-flow` was answered: find out whose change came last, and go on from there.
    pub(super) fn flow_modified(
        &mut self,
        world: &mut World,
        now: Micros,
        ufid: Ufid,
        (base, seen, unclear): (Box<FilterReport>, Vec<FilterReport>, bool),
        done: Result<(), CommandError>,
        fx: &mut Vec<Effect>,
    ) {
        let failed = match done {
            Ok(()) => None,
            Err(CommandError::Failed(why)) => Some(why),
            Err(CommandError::Lost | CommandError::Unreadable(_)) => {
                self.suspects.insert(ufid);
                self.not_promoted(world, now, ufid);
                return;
            }
        };
        if unclear || seen.len() >= crate::watch::SEEN_MAX {
            self.suspects.insert(ufid);
            self.not_promoted(world, now, ufid);
            self.clear_suspects(world, now, fx);
            return;
        }
        if let Some(why) = failed {
            self.cannot_count(world, now, ufid, why);
            return;
        }
        match judge(&*base, &seen, same_rule) {
            Judgement::Nothing | Judgement::TheirsLast => self.not_promoted(world, now, ufid),
            // The rules may have changed meanwhile, or what leads to it left hardware.
            Judgement::Undisturbed if !self.may_be_placed(world, ufid) || !world.is_reached(ufid) => {
                self.not_promoted(world, now, ufid);
            }
            Judgement::Undisturbed => {
                world.tally.clean_promotions += 1;
                self.replace(world, now, ufid, Goal::Promote, fx);
            }
            Judgement::OursLast(wanted) => {
                self.put_back(world, now, ufid, &seen[wanted], fx);
                // Where the flow was just not there when the command ran, Open vSwitch 3.5 makes nothing of it and answers
                // success: what looks like ours is its own return to `base`, then.
                self.suspects.insert(ufid);
            }
            Judgement::Unclear => {
                self.suspects.insert(ufid);
                self.not_promoted(world, now, ufid);
                self.clear_suspects(world, now, fx);
            }
        }
    }

    /// Writes back what Open vSwitch had made of the flow before our command undid it.
    fn put_back(
        &mut self,
        world: &mut World,
        now: Micros,
        ufid: Ufid,
        wanted: &FilterReport,
        fx: &mut Vec<Effect>,
    ) {
        let Some(entry) = world.ledger.get_mut(ufid) else { return };
        world.tally.races_repaired += 1;
        world.tally.race_longest_us = world.tally.race_longest_us.max(now.since(entry.changed).0);
        if let Some(filter) = &mut entry.filter {
            *filter.owner = wanted.clone();
        }
        world.decide(now, ufid);
        self.judge(world, now, ufid);
        self.repair(world, now, ufid, fx);
    }

    fn not_promoted(&mut self, world: &mut World, now: Micros, ufid: Ufid) {
        self.tell_unplaced(world, now, ufid);
    }
}

/// Whether OpenFlow's counters are to be saved, and have to be.
pub(super) fn saves_counters(world: &World) -> bool {
    let subtracts = world.ovs.version.is_none_or(|version| version.subtracts_restarted_counters());
    world.settings.counters == Counters::Exact && subtracts
}

fn speaks_to_vswitchd(stage: &Stage) -> bool {
    matches!(stage, Stage::Reading { .. } | Stage::Modifying { .. } | Stage::Clearing { .. })
}
