//! Every megaflow the engine knows, wherever it lives.
//!
//! Holds and indexes; decides nothing.

use crate::counters::{Meter, Traffic};
use crate::event::{OpId, Round};
use crate::ports::NicId;
use crate::refusal::Refusal;
use crate::standing::Standing;
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::string::String;
use alloc::vec::Vec;
use netlink_wire::ovs_flow::FlowBody;
use netlink_wire::{Ifindex, Ufid};
use policies::Micros;
use policies::rules::Decision;
use tc_flower::{Chain, EtherType, FilterAddress, FilterReport, Handle, Location, Prio};

/// Where a megaflow lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Home {
    /// In TC, at this address.
    Tc(FilterAddress),
    /// In the OVS kernel datapath: Open vSwitch could not put it into TC.
    Datapath,
    /// Nowhere any more; remembered for a moment, since Open vSwitch changes a flow by deleting and making it anew.
    Gone {
        /// When it went.
        since: Micros,
    },
}

/// The two views of a filter in TC.
#[derive(Clone, Debug)]
pub(crate) struct TcFilter {
    /// What Open vSwitch last wrote.
    pub(crate) owner: Box<FilterReport>,
    /// What is there now: the owner's rule, with the flags and action indexes of whoever wrote last.
    pub(crate) live: Box<FilterReport>,
}

/// What is under way for a megaflow.
#[derive(Clone, Debug, Default)]
pub(crate) enum Stage {
    /// Nothing.
    #[default]
    Resting,
    /// `dpctl/get-flow` was sent.
    Reading {
        /// Its id.
        op: OpId,
        /// When Open vSwitch had last changed the filter by then. The text that comes back is of this filter only if
        /// it still has not: a flow may change and change back.
        changed: Micros,
    },
    /// `dpctl/mod-flow` was sent.
    Modifying {
        /// Its id.
        op: OpId,
        /// The filter when it was sent.
        base: Box<FilterReport>,
        /// What Open vSwitch wrote since, oldest first.
        seen: Vec<FilterReport>,
        /// Meanwhile Open vSwitch put the flow into its own datapath, or changed it unseen.
        unclear: bool,
    },
    /// A replacement was sent.
    Replacing {
        /// Its id.
        op: OpId,
        /// What it is for.
        goal: Goal,
        /// The rule it carries.
        wrote: Box<FilterReport>,
        /// When.
        sent: Micros,
        /// The meter of the filter it replaces, set aside once the new one has been notified.
        old_meter: Option<Meter>,
    },
    /// `dpctl/del-flow` was sent, since nobody can tell whose change came last.
    Clearing {
        /// Its id.
        op: OpId,
    },
}

/// What a replacement is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// Into hardware.
    Promote,
    /// Back to software, counters kept.
    Demote,
    /// Open vSwitch's own rule, which a command of ours undid.
    Repair,
}

/// What makes a flow of the kernel datapath the one it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    /// The datapath it is in.
    pub(crate) dp: Ifindex,
    /// Key, mask and actions.
    pub(crate) body: FlowBody,
}

/// One megaflow.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) home: Home,
    pub(crate) filter: Option<TcFilter>,
    /// The port its packets come in by.
    pub(crate) port: Option<Ifindex>,
    pub(crate) nic: Option<NicId>,
    pub(crate) first_seen: Micros,
    /// When Open vSwitch last made or changed it.
    pub(crate) changed: Micros,
    pub(crate) meter: Meter,
    /// When the meter was last read, for rates.
    pub(crate) read_at: Option<Micros>,
    /// Dump readings of rounds up to this one may tell of an earlier filter and are not counted.
    pub(crate) stale_through: Round,
    /// The last dump that saw it.
    pub(crate) seen: Round,
    pub(crate) totals: Traffic,
    /// Bytes and packets per second over the last two readings.
    pub(crate) rate: Traffic,
    /// Whether there were two readings to tell it from.
    pub(crate) has_rate: bool,
    /// What the rules say of it; nothing for a flow that was never in TC.
    pub(crate) decision: Option<Decision>,
    /// Whether the host's own stack encrypts or drops the packets of its tunnel.
    pub(crate) needs_host: bool,
    /// What its traffic counts for.
    pub(crate) standing: Standing,
    pub(crate) stage: Stage,
    pub(crate) refusal: Option<Refusal>,
    /// The rule that was refused; when Open vSwitch writes another one, the refusal is over.
    pub(crate) refused_rule: Option<Box<FilterReport>>,
    /// For a flow of the kernel datapath: what of it TC cannot express.
    pub(crate) unfit: Option<String>,
    /// For a flow of the kernel datapath: what makes it the one it is. Nothing where it is longer than is kept.
    pub(crate) told: Option<Told>,
    /// A rule of our own made from it is in hardware.
    pub(crate) shadowed: bool,
    /// Readings in a row in which a rule said to be in hardware counted in software only.
    pub(crate) idle_in_hw: u8,
    /// It was placed anew for that, and the hardware has counted nothing since.
    pub(crate) placed_anew: bool,
}

impl Entry {
    pub(crate) fn new(now: Micros, home: Home) -> Self {
        Self {
            home,
            filter: None,
            port: None,
            nic: None,
            first_seen: now,
            changed: now,
            meter: Meter::default(),
            read_at: None,
            stale_through: Round(0),
            seen: Round(0),
            totals: Traffic::default(),
            rate: Traffic::default(),
            has_rate: false,
            decision: None,
            needs_host: false,
            standing: Standing::default(),
            stage: Stage::Resting,
            refusal: None,
            refused_rule: None,
            unfit: None,
            told: None,
            shadowed: false,
            idle_in_hw: 0,
            placed_anew: false,
        }
    }

    /// Whether the last report showed the rule in hardware.
    pub(crate) fn in_hw(&self) -> bool {
        self.shadowed
            || matches!(self.home, Home::Tc(_))
                && self.filter.as_ref().is_some_and(|filter| filter.live.is_in_hw())
    }

    pub(crate) fn address(&self) -> Option<FilterAddress> {
        match self.home {
            Home::Tc(address) => Some(address),
            Home::Datapath | Home::Gone { .. } => None,
        }
    }

    pub(crate) fn is_resting(&self) -> bool {
        matches!(self.stage, Stage::Resting)
    }

    /// The operation under way.
    pub(crate) fn op(&self) -> Option<OpId> {
        match self.stage {
            Stage::Resting => None,
            Stage::Reading { op, .. }
            | Stage::Modifying { op, .. }
            | Stage::Replacing { op, .. }
            | Stage::Clearing { op } => Some(op),
        }
    }
}

/// All megaflows, found by ufid and by address in TC.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger {
    /// Boxed: of a large map the keys are what is read, and moved, most.
    entries: BTreeMap<Ufid, Box<Entry>>,
    by_address: BTreeMap<FilterAddress, Ufid>,
    /// Those that went, and when, in that order. One that came back, or went again, is there in vain.
    gone: VecDeque<(Micros, Ufid)>,
}

impl Ledger {
    pub(crate) fn get(&self, ufid: Ufid) -> Option<&Entry> {
        self.entries.get(&ufid).map(|entry| &**entry)
    }

    pub(crate) fn get_mut(&mut self, ufid: Ufid) -> Option<&mut Entry> {
        self.entries.get_mut(&ufid).map(|entry| &mut **entry)
    }

    pub(crate) fn at(&self, address: FilterAddress) -> Option<Ufid> {
        self.by_address.get(&address).copied()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Ufid, &Entry)> {
        self.entries.iter().map(|(ufid, entry)| (*ufid, &**entry))
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The entry of `ufid`, made if there is none.
    pub(crate) fn entry(&mut self, ufid: Ufid, now: Micros, home: Home) -> &mut Entry {
        let gone = &mut self.gone;
        self.entries.entry(ufid).or_insert_with(|| {
            if let Home::Gone { since } = home {
                gone.push_back((since, ufid));
            }
            Box::new(Entry::new(now, home))
        })
    }

    /// Moves a megaflow, keeping the address index true. Whatever else was indexed at the address loses it.
    pub(crate) fn set_home(&mut self, ufid: Ufid, home: Home) {
        let Some(entry) = self.entries.get_mut(&ufid) else { return };
        if let Home::Tc(old) = entry.home
            && self.by_address.get(&old) == Some(&ufid)
        {
            self.by_address.remove(&old);
        }
        entry.home = home;
        match home {
            Home::Tc(address) => drop(self.by_address.insert(address, ufid)),
            Home::Gone { since } => self.gone.push_back((since, ufid)),
            Home::Datapath => {}
        }
    }

    /// Forgets megaflows that went `age` ago or longer, and that have nothing under way; returns them.
    pub(crate) fn forget_gone(&mut self, now: Micros, age: Micros) -> Vec<Ufid> {
        let (mut forgotten, mut busy) = (Vec::new(), Vec::new());
        while let Some((since, ufid)) =
            self.gone.front().copied().filter(|(since, _)| now.since(*since) >= age)
        {
            self.gone.pop_front();
            let entry = self.entries.get(&ufid);
            match entry.filter(|entry| entry.home == Home::Gone { since }).map(|entry| entry.is_resting()) {
                Some(true) => {
                    self.entries.remove(&ufid);
                    forgotten.push(ufid);
                }
                Some(false) => busy.push((since, ufid)),
                None => {}
            }
        }
        busy.into_iter().rev().for_each(|gone| self.gone.push_front(gone));
        forgotten
    }

    /// Megaflows in TC at `location`, of one chain or priority only where these are given.
    pub(crate) fn in_scope(&self, location: Location, chain: Option<Chain>, prio: Option<Prio>) -> Vec<Ufid> {
        let first = FilterAddress {
            location,
            chain: Chain(0),
            prio: Prio(0),
            protocol: EtherType(0),
            handle: Handle(0),
        };
        self.by_address
            .range(first..)
            .take_while(|(address, _)| address.location == location)
            .filter(|(address, _)| chain.is_none_or(|chain| address.chain == chain))
            .filter(|(address, _)| prio.is_none_or(|prio| address.prio == prio))
            .map(|(_, ufid)| *ufid)
            .collect()
    }

    /// Changes every megaflow.
    pub(crate) fn for_each(&mut self, mut change: impl FnMut(&mut Entry)) {
        self.entries.values_mut().for_each(|entry| change(entry));
    }

    /// Megaflows of which `pick` is true.
    pub(crate) fn select(&self, pick: impl Fn(&Entry) -> bool) -> Vec<Ufid> {
        self.entries.iter().filter(|(_, entry)| pick(entry)).map(|(ufid, _)| *ufid).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGE: Micros = Micros::from_secs(2);

    fn ufid(number: u8) -> Ufid {
        Ufid::from_bytes([number; 16])
    }

    #[test]
    fn what_went_is_forgotten_in_time_unless_it_came_back_or_something_is_under_way() {
        let (mut ledger, start) = (Ledger::default(), Micros::from_secs(1));
        for number in 1..=4 {
            ledger.entry(ufid(number), start, Home::Datapath);
            ledger.set_home(ufid(number), Home::Gone { since: start });
        }
        let later = start.plus(Micros::from_secs(1));
        ledger.set_home(ufid(1), Home::Datapath);
        ledger.set_home(ufid(2), Home::Datapath);
        ledger.set_home(ufid(2), Home::Gone { since: later });
        if let Some(entry) = ledger.get_mut(ufid(3)) {
            entry.stage = Stage::Clearing { op: OpId(7) };
        }
        assert_eq!(ledger.forget_gone(later, AGE), []);
        assert_eq!(ledger.forget_gone(start.plus(AGE), AGE), [ufid(4)]);
        if let Some(entry) = ledger.get_mut(ufid(3)) {
            entry.stage = Stage::Resting;
        }
        assert_eq!(ledger.forget_gone(start.plus(AGE), AGE), [ufid(3)]);
        assert_eq!(ledger.forget_gone(later.plus(AGE), AGE), [ufid(2)]);
        assert_eq!(ledger.forget_gone(Micros::from_secs(1_000), AGE), []);
        assert!(ledger.get(ufid(1)).is_some() && ledger.len() == 1);
    }
}
