//! Getting back to the truth after lost notifications and lost processes.

use super::Steer;
use crate::event::{CommandError, Effect};
use crate::ledger::{Home, Stage};
use crate::world::World;
use alloc::vec::Vec;
use netlink_wire::Ufid;
use policies::Micros;

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

    /// `dpctl/del-flow` was answered. An error means that the flow is gone already.
    pub(super) fn flow_cleared(&mut self, ufid: Ufid, done: Result<(), CommandError>) {
        self.wanted.remove(&ufid);
        if done == Err(CommandError::Lost) {
            self.suspects.insert(ufid);
        }
    }
}
