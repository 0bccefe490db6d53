//! Getting back to the truth after lost notifications and lost processes.

use super::Steer;
use crate::event::{CommandError, Effect};
use crate::ledger::{Home, Stage};
use crate::world::World;
use alloc::vec::Vec;
use netlink_wire::Ufid;
use policies::Micros;

/// How long a filter of an unknown flow is looked for: several full readings.
const ORPHAN_LOOKED_FOR: Micros = Micros::from_secs(10);

impl Steer {
    /// Notifications were lost: whatever is under way cannot be judged by them.
    pub(super) fn suspect_what_is_under_way(&mut self, world: &World) {
        let blind = world.ops.values().filter(|ufid| {
            world
                .ledger
                .get(**ufid)
                .is_some_and(|entry| matches!(entry.stage, Stage::Modifying { .. } | Stage::Replacing { .. }))
        });
        self.suspects.extend(blind.copied());
    }

    /// Has Open vSwitch decide afresh about every flow that a command of ours may have left wrong.
    ///
    /// A deleted flow is forwarded by upcalls, correctly, until Open vSwitch installs it again.
    pub(super) fn clear_suspects(&mut self, world: &mut World, now: Micros, fx: &mut Vec<Effect>) {
        if !world.vswitchd_up {
            return;
        }
        let now_free: Vec<Ufid> = self
            .suspects
            .iter()
            .copied()
            .filter(|ufid| world.ledger.get(*ufid).is_none_or(|entry| entry.is_resting()))
            .collect();
        for ufid in now_free {
            self.suspects.remove(&ufid);
            world.tally.flows_cleared += 1;
            let op = world.new_op(ufid);
            world.ledger.entry(ufid, now, Home::Gone { since: now }).stage = Stage::Clearing { op };
            fx.push(Effect::DeleteFlow { op, ufid });
        }
    }

    /// `dpctl/del-flow` was answered.
    ///
    /// Open vSwitch deletes by address, and only flows it knows. What TC still shows under the ufid of a flow that it
    /// does not know is a replacement of ours that hit another flow's place.
    pub(super) fn flow_cleared(&mut self, now: Micros, ufid: Ufid, done: Result<(), CommandError>) {
        self.wanted.remove(&ufid);
        match done {
            Ok(()) => {}
            Err(CommandError::Lost) => {
                self.suspects.insert(ufid);
            }
            Err(CommandError::Failed(_) | CommandError::Unreadable(_)) => {
                self.orphans.insert(ufid, now);
            }
        }
    }

    /// Deletes what TC shows under the ufid of a flow that Open vSwitch does not know.
    pub(super) fn delete_orphans(&mut self, world: &mut World, now: Micros, fx: &mut Vec<Effect>) {
        self.orphans.retain(|_, since| now.since(*since) < ORPHAN_LOOKED_FOR);
        let found: Vec<_> = self
            .orphans
            .keys()
            .filter_map(|ufid| {
                Some((*ufid, world.ledger.get(*ufid).filter(|entry| entry.is_resting())?.address()?))
            })
            .collect();
        for (ufid, address) in found {
            self.orphans.remove(&ufid);
            world.tally.orphans_deleted += 1;
            let op = world.new_op(ufid);
            if let Some(entry) = world.ledger.get_mut(ufid) {
                entry.stage = Stage::Clearing { op };
            }
            fx.push(Effect::DeleteFilter { op, address });
        }
    }
}
