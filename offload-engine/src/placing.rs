//! The seam between what is known and what is done about it: one implementation per mode.

use crate::event::{Answer, Effect, OpId};
use crate::ports::NicId;
use crate::watch::Change;
use crate::world::World;
use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use netlink_wire::Ufid;
use policies::Micros;
use policies::planner::{Counts, Explanation};

/// Which NICs are kept empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Draining {
    /// All of them.
    pub(crate) all: bool,
    /// These.
    pub(crate) nics: BTreeSet<NicId>,
}

impl Draining {
    /// Whether this NIC is kept empty.
    pub(crate) fn covers(&self, nic: Option<NicId>) -> bool {
        self.all || nic.is_some_and(|nic| self.nics.contains(&nic))
    }
}

/// What a mode does when something happens. What it leaves out, it does not care about.
pub(crate) trait Placing: core::fmt::Debug {
    /// Something changed in TC or the kernel datapath, or was read there.
    fn changed(&mut self, _world: &mut World, _now: Micros, _change: Change, _fx: &mut Vec<Effect>) {}

    /// Every location has been read: time to decide.
    fn epoch(&mut self, world: &mut World, now: Micros, _fx: &mut Vec<Effect>) {
        world.forget_gone(now);
    }

    /// An operation was answered.
    fn answered(
        &mut self,
        world: &mut World,
        _now: Micros,
        op: OpId,
        _answer: Answer,
        _fx: &mut Vec<Effect>,
    ) {
        world.ops.remove(&op);
    }

    /// The settings changed.
    fn reconfigured(&mut self, _world: &mut World, _now: Micros) {}

    /// The rules changed; they say otherwise than before of the megaflows `decided`.
    fn rules_changed(&mut self, _world: &mut World, _now: Micros, _decided: &[Ufid], _fx: &mut Vec<Effect>) {}

    /// Ports or NICs changed.
    fn ports_changed(&mut self, _world: &mut World, _now: Micros, _fx: &mut Vec<Effect>) {}

    /// Megaflows stand elsewhere among those that recirculation joins.
    fn rejoined(&mut self, world: &mut World, _now: Micros) {
        world.rejoined.clear();
    }

    /// Whether the kernel goes on where a NIC stops is known otherwise.
    fn chain_restore_changed(&mut self, _world: &mut World, _now: Micros, _fx: &mut Vec<Effect>) {}

    /// How many entries a megaflow takes with those before it.
    fn entries_of_unit(&self, _world: &World, _ufid: Ufid) -> Option<u32> {
        None
    }

    /// A NIC lost all its rules.
    fn nic_reset(&mut self, _world: &mut World, _now: Micros, _nic: NicId, _fx: &mut Vec<Effect>) {}

    /// What probes saw drivers refuse changed.
    fn probed(&mut self, _world: &mut World, _now: Micros) {}

    /// ovs-vswitchd's control socket answers again.
    fn vswitchd_up(&mut self, _world: &mut World, _now: Micros, _fx: &mut Vec<Effect>) {}

    /// ovs-vswitchd is not there any more.
    fn vswitchd_down(&mut self, _world: &mut World, _now: Micros, _fx: &mut Vec<Effect>) {}

    /// Notifications of TC or of the kernel datapath were lost.
    fn overrun(&mut self, _world: &mut World, _now: Micros, _fx: &mut Vec<Effect>) {}

    /// A reading of the kernel datapath ended.
    fn datapath_read(&mut self, _world: &mut World, _now: Micros, _fx: &mut Vec<Effect>) {}

    /// There are filters of others where there were none before, or the other way round (`Book::encumbered`).
    fn encumbered(&mut self, world: &mut World, _now: Micros, _fx: &mut Vec<Effect>) {
        world.own.encumbered.clear();
    }

    /// The guard says otherwise than before, or is needed otherwise.
    fn lease_changed(&mut self, _world: &mut World, _now: Micros, _fx: &mut Vec<Effect>) {}

    /// Whether it decides about flows of the kernel datapath.
    fn judges_datapath(&self) -> bool {
        false
    }

    /// Another mode is wanted: whether this one has nothing left that it has to undo first. To be asked until it is so.
    fn leave(&mut self, _world: &mut World, _now: Micros, _fx: &mut Vec<Effect>) -> bool {
        true
    }

    /// The mode that is wanted is this one, whatever was wanted before.
    fn stay(&mut self, _world: &mut World, _now: Micros, _fx: &mut Vec<Effect>) {}

    /// Hardware is to be emptied, or used again: from now on this holds.
    fn drain(&mut self, _world: &mut World, _now: Micros, _draining: &Draining, _fx: &mut Vec<Effect>) {}

    /// Flows that a command of ours may have left wrong, by an earlier daemon or by an earlier mode.
    fn take_suspects(&mut self, flows: BTreeSet<Ufid>);

    /// Gives up those flows, at the change to another mode.
    fn give_suspects(&mut self) -> BTreeSet<Ufid>;

    /// Megaflows to note in the journal: those with a command under way or of unknown outcome.
    fn in_flight(&self, world: &World) -> BTreeSet<Ufid>;

    /// When it next wants to be asked, apart from the epochs.
    fn wake_at(&self, _world: &World) -> Option<Micros> {
        None
    }

    /// The time it asked for has come.
    fn wake(&mut self, _world: &mut World, _now: Micros, _fx: &mut Vec<Effect>) {}

    /// Why a megaflow is where it is.
    fn explain(&self, _world: &World, _now: Micros, _ufid: Ufid) -> Option<Explanation> {
        None
    }

    /// How the planner of a NIC stands.
    fn counts(&self, _nic: NicId) -> Option<Counts> {
        None
    }
}

/// Observe mode: counts, explains, changes nothing.
#[derive(Debug, Default)]
pub(crate) struct Observe {
    suspects: BTreeSet<Ufid>,
}

impl Placing for Observe {
    fn take_suspects(&mut self, flows: BTreeSet<Ufid>) {
        self.suspects.extend(flows);
    }

    fn give_suspects(&mut self) -> BTreeSet<Ufid> {
        core::mem::take(&mut self.suspects)
    }

    fn in_flight(&self, _world: &World) -> BTreeSet<Ufid> {
        self.suspects.clone()
    }
}
