//! What is known, apart from what to do about it: ports, megaflows, counters, operations under way.

use crate::chains::{ChainRestore, Chains, Place, can_follow};
use crate::counters::Traffic;
use crate::event::{Effect, Lease, OpId, Round};
use crate::ledger::{Entry, Ledger};
use crate::openflow::Sums;
use crate::ovs::OvsSettings;
use crate::policy::Policy;
use crate::ports::{NicId, PortFacts, PortKind, Ports};
use crate::probed::Probed;
use crate::recording::Recordings;
use crate::refusal::Refusal;
use crate::settings::Settings;
use crate::shadow::book::Book;
use crate::shadow::storm::Storms;
use crate::shadow::{Abilities, Overlaps};
use crate::standing::Standings;
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use netlink_wire::{Ifindex, Ufid};
use policies::Micros;
use policies::planner::{BEFORE_MAX, Path};
use tc_flower::{FilterAddress, FilterReport, Location};

/// How long a deleted megaflow is remembered: Open vSwitch changes one by deleting and making it anew, and a dump
/// that began before the deletion may still report it.
pub(crate) const GONE_REMEMBERED: Micros = Micros::from_secs(2);

/// What the engine counted since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Rules that a report showed in hardware after we promoted them.
    pub promotions: u64,
    /// Promotions for which ovs-vswitchd saved the counters first.
    pub clean_promotions: u64,
    /// Rules taken out of hardware by us.
    pub demotions: u64,
    /// Promotions that Open vSwitch undid by changing the flow.
    pub undone: u64,
    /// Times a command of ours put back what Open vSwitch had replaced, each put right at once.
    pub races_repaired: u64,
    /// The longest time such a replaced rule was back in place, in microseconds.
    pub race_longest_us: u64,
    /// Flows that Open vSwitch was asked to decide afresh, since the order of changes could not be told.
    pub flows_cleared: u64,
    /// Filters deleted that no flow of Open vSwitch stood behind.
    pub orphans_deleted: u64,
    /// Rules said to be in hardware that the hardware had lost.
    pub lost_in_hardware: u64,
    /// Rules of mode shadow that went for a moment, lest their megaflows look idle.
    pub gaps: u64,
    /// Changes that a dump showed and no notification had told.
    pub changes_missed: u64,
    /// Times notifications were lost and everything was read again.
    pub overruns: u64,
    /// Filters at our ports that are not Open vSwitch's, in the last dump.
    pub foreign_filters: u32,
    /// Megaflows left out because there were too many.
    pub megaflows_left_out: u64,
}

/// What the engine counted since it started, of one NIC.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NicTally {
    /// Rules that a report showed in it after we promoted them.
    pub promotions: u64,
    /// Rules taken out of it by us.
    pub demotions: u64,
    /// Promotions that came to nothing, by [`Refusal::label`].
    pub refusals: BTreeMap<&'static str, u64>,
}

/// Totals, overall, by ingress port, and by what the megaflows are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Totals {
    pub(crate) all: Traffic,
    pub(crate) by_port: BTreeMap<Ifindex, Traffic>,
    pub(crate) standings: Standings,
}

/// A dump of every location, from its first request to its last answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sweep {
    pub(crate) round: Round,
    pub(crate) outstanding: BTreeSet<Location>,
    /// Those that were asked for in full.
    pub(crate) full: BTreeSet<Location>,
    pub(crate) foreign: u32,
}

/// After notifications were lost: how far what is left of them, and a dump, have got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Doubt {
    /// Notifications from before the loss may still come, of flows whose deletion was lost. They have come when a dump ends: what
    /// was queued by then is delivered before that is.
    #[default]
    Queued,
    /// They have. What is there is shown by a whole dump that was asked for after this round.
    Unread(Round),
    /// None: notifications and dumps agree.
    Settled,
}

/// What is known.
#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) settings: Settings,
    pub(crate) policy: Policy,
    pub(crate) ovs: OvsSettings,
    pub(crate) ports: Ports,
    /// What probes saw drivers refuse.
    pub(crate) probed: Probed,
    pub(crate) ledger: Ledger,
    /// Rules of our own.
    pub(crate) own: Book,
    /// Which megaflows overlap with others and differ; empty but in mode shadow.
    pub(crate) overlaps: Overlaps,
    /// What hardware took, by OpenFlow rules.
    pub(crate) openflow: Sums,
    /// Ports by which too many new megaflows come; none but in mode shadow.
    pub(crate) storms: Storms,
    /// What of TC the kernel has.
    pub(crate) abilities: Abilities,
    /// Whether the mode decides about flows of the kernel datapath.
    pub(crate) judges_datapath: bool,
    /// What recirculation joins.
    pub(crate) chains: Chains,
    /// Filters whose place among these is another since the mode was last told.
    pub(crate) rejoined: BTreeSet<Ufid>,
    /// What the kernel does with a packet that the NIC has not finished with.
    pub(crate) chain_restore: ChainRestore,
    pub(crate) totals: Totals,
    pub(crate) tally: Tally,
    pub(crate) recordings: Recordings,
    nic_tallies: BTreeMap<NicId, NicTally>,
    pub(crate) ops: BTreeMap<OpId, Ufid>,
    next_op: u64,
    next_round: u64,
    pub(crate) sweep: Sweep,
    pub(crate) datapath_round: Option<Round>,
    /// Whether what is known of the kernel datapath's flows can be relied on.
    pub(crate) datapath_doubt: Doubt,
    /// Replacements of ours that were told of where no filter was, with the time: what their owner makes there next may
    /// have been made, and be told, before them.
    pub(crate) told_of_nothing: BTreeMap<FilterAddress, (Micros, Box<FilterReport>)>,
    /// Locations whose next dump has to be a full one.
    pub(crate) read_in_full: BTreeSet<Location>,
    pub(crate) vswitchd_up: bool,
    /// What the guard lets us do.
    pub(crate) lease: Lease,
}

impl World {
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            settings,
            policy: Policy::default(),
            ovs: OvsSettings::default(),
            ports: Ports::default(),
            probed: Probed::default(),
            ledger: Ledger::default(),
            own: Book::default(),
            overlaps: Overlaps::default(),
            openflow: Sums::default(),
            storms: Storms::default(),
            abilities: Abilities::default(),
            judges_datapath: false,
            chains: Chains::default(),
            rejoined: BTreeSet::new(),
            chain_restore: ChainRestore::default(),
            totals: Totals::default(),
            tally: Tally::default(),
            recordings: Recordings::default(),
            nic_tallies: BTreeMap::new(),
            ops: BTreeMap::new(),
            next_op: 1,
            next_round: 1,
            sweep: Sweep::default(),
            datapath_round: None,
            datapath_doubt: Doubt::default(),
            told_of_nothing: BTreeMap::new(),
            read_in_full: BTreeSet::new(),
            vswitchd_up: false,
            lease: Lease::None,
        }
    }

    /// Whether rules of our own may stay.
    pub(crate) fn may_keep(&self) -> bool {
        !self.settings.needs_guard || self.lease != Lease::None
    }

    /// Whether rules of our own may be made.
    pub(crate) fn may_make(&self) -> bool {
        !self.settings.needs_guard || self.lease == Lease::Held
    }

    /// Whether rules of an earlier daemon wait to be taken over.
    pub(crate) fn takes_over(&self) -> bool {
        self.settings.needs_guard && self.lease == Lease::TakingOver
    }

    /// What was counted of `nic`.
    pub(crate) fn nic_tally(&self, nic: NicId) -> NicTally {
        self.nic_tallies.get(&nic).cloned().unwrap_or_default()
    }

    /// A rule of `nic` was promoted.
    pub(crate) fn count_promotion(&mut self, nic: Option<NicId>) {
        self.tally.promotions += 1;
        self.of_nic(nic, |tally| tally.promotions += 1);
    }

    /// A rule of `nic` was demoted.
    pub(crate) fn count_demotion(&mut self, nic: Option<NicId>) {
        self.tally.demotions += 1;
        self.of_nic(nic, |tally| tally.demotions += 1);
    }

    /// A promotion came to nothing.
    pub(crate) fn count_refusal(&mut self, nic: Option<NicId>, refusal: &Refusal) {
        self.of_nic(nic, |tally| *tally.refusals.entry(refusal.label()).or_default() += 1);
    }

    /// NICs that exist are few, and only they are counted.
    fn of_nic(&mut self, nic: Option<NicId>, count: impl FnOnce(&mut NicTally)) {
        if let Some(nic) = nic {
            count(self.nic_tallies.entry(nic).or_default());
        }
    }

    /// A new operation on behalf of `ufid`.
    pub(crate) fn new_op(&mut self, ufid: Ufid) -> OpId {
        let op = OpId(self.next_op);
        self.next_op += 1;
        self.ops.insert(op, ufid);
        op
    }

    /// Asks which OpenFlow rules megaflows are of, as far as it is time to.
    pub(crate) fn ask_for_openflow(&mut self, now: Micros, fx: &mut Vec<Effect>) {
        if !self.vswitchd_up {
            return;
        }
        while let Some(ufid) = self.openflow.next(now) {
            let op = OpId(self.next_op);
            self.next_op += 1;
            self.openflow.asked(op, ufid);
            fx.push(Effect::Detrace { op, ufid });
        }
    }

    /// Asks for the removal of rules with our cookie that nobody knows.
    pub(crate) fn remove_strays(&mut self, now: Micros, fx: &mut Vec<Effect>) {
        let next_op = &mut self.next_op;
        let new_op = || {
            let op = OpId(*next_op);
            *next_op += 1;
            op
        };
        self.own.remove_strays(now, new_op, fx);
    }

    /// The last round that was asked for: dumps up to it may tell of the time before now.
    pub(crate) fn latest_round(&self) -> Round {
        Round(self.next_round - 1)
    }

    fn new_round(&mut self) -> Round {
        let round = Round(self.next_round);
        self.next_round += 1;
        round
    }

    /// Asks for the filters of every location, unless the last asking is not answered yet.
    pub(crate) fn start_sweep(&mut self, effects: &mut Vec<Effect>) {
        if !self.sweep.outstanding.is_empty() {
            return;
        }
        let locations = self.ports.locations();
        if locations.is_empty() {
            return;
        }
        let round = self.new_round();
        let outstanding: BTreeSet<_> = locations.iter().copied().collect();
        let full = outstanding.intersection(&self.read_in_full).copied().collect();
        self.sweep = Sweep { round, outstanding, full, foreign: 0 };
        for location in locations {
            let terse = !self.read_in_full.contains(&location);
            effects.push(Effect::DumpFilters { round, location, terse });
        }
    }

    /// Asks for the kernel datapath's flows, unless the last asking is not answered yet.
    pub(crate) fn start_datapath_round(&mut self, effects: &mut Vec<Effect>) {
        if self.datapath_round.is_none() {
            let round = self.new_round();
            self.datapath_round = Some(round);
            effects.push(Effect::DumpMegaflows { round });
        }
    }

    /// Keeps up what recirculation joins with the filter of `ufid`, or with there being none.
    pub(crate) fn rejoin(&mut self, ufid: Ufid) {
        let filter = self.ledger.get(ufid).and_then(|entry| entry.filter.as_ref());
        let place = filter.map(|filter| Place::of(&filter.owner));
        let concerned = self.chains.set(ufid, place);
        self.rejoined.extend(concerned);
    }

    /// Where a megaflow stands among those that recirculation joins, as its planner is to know it.
    pub(crate) fn path_of(&self, ufid: Ufid) -> Path<Ufid> {
        let Some(place) = self.chains.place(ufid) else { return Path::default() };
        Path { before: place.within.map(|_| self.before(ufid)), goes_on: place.leads_to.is_some() }
    }

    /// The megaflows whose packets `ufid` may get.
    pub(crate) fn before(&self, ufid: Ufid) -> Vec<Ufid> {
        let filter = |ufid| Some(&*self.ledger.get(ufid)?.filter.as_ref()?.owner);
        let junction = self.chains.place(ufid).and_then(|place| place.within);
        let (Some(junction), Some(then)) = (junction, filter(ufid)) else { return Vec::new() };
        self.chains
            .leading_to(junction)
            .filter(|other| *other != ufid)
            .filter(|other| filter(*other).is_some_and(|first| can_follow(first, then, &self.ports)))
            .take(BEFORE_MAX)
            .collect()
    }

    /// The megaflows that may get packets of `ufid`.
    pub(crate) fn after(&self, ufid: Ufid) -> Vec<Ufid> {
        let filter = |ufid| Some(&*self.ledger.get(ufid)?.filter.as_ref()?.owner);
        let junction = self.chains.place(ufid).and_then(|place| place.leads_to);
        let (Some(junction), Some(first)) = (junction, filter(ufid)) else { return Vec::new() };
        self.chains
            .within(junction)
            .filter(|other| *other != ufid)
            .filter(|other| filter(*other).is_some_and(|then| can_follow(first, then, &self.ports)))
            .collect()
    }

    /// Whether the filter of `ufid`, or one that may get its packets next, changes the mark or the labels of established
    /// connections.
    pub(crate) fn marks_connections(&self, ufid: Ufid) -> bool {
        let filter = |ufid| Some(&*self.ledger.get(ufid)?.filter.as_ref()?.owner);
        let Some(first) = filter(ufid) else { return false };
        let place = Place::of(first);
        let next = place.leads_to.into_iter().flat_map(|junction| self.chains.marking(junction));
        place.marks || next.filter_map(filter).any(|then| can_follow(first, then, &self.ports))
    }

    /// Whether packets get to the filter of `ufid` in hardware.
    pub(crate) fn is_reached(&self, ufid: Ufid) -> bool {
        self.chains.place(ufid).is_none_or(|place| place.within.is_none())
            || self.before(ufid).iter().any(|other| self.ledger.get(*other).is_some_and(Entry::in_hw))
    }

    /// Whether the filter of `ufid` leads to one in hardware that packets do not get to otherwise.
    pub(crate) fn is_leaned_on(&self, ufid: Ufid) -> bool {
        let in_hw = |other: &Ufid| self.ledger.get(*other).is_some_and(Entry::in_hw);
        self.chains.place(ufid).is_some_and(|place| place.leads_to.is_some())
            && self.after(ufid).iter().any(|after| {
                in_hw(after) && !self.before(*after).iter().any(|other| *other != ufid && in_hw(other))
            })
    }

    /// The same megaflows in the order in which packets pass them.
    pub(crate) fn in_goto_order(&self, mut ufids: Vec<Ufid>) -> Vec<Ufid> {
        if self.chains.is_empty() {
            return ufids;
        }
        let mut ordered = Vec::with_capacity(ufids.len());
        while !ufids.is_empty() {
            let left: BTreeSet<Ufid> = ufids.iter().copied().collect();
            let leads = |junction| self.chains.leading_to(junction).any(|other| left.contains(&other));
            let is_first = |ufid: &Ufid| {
                self.chains
                    .place(*ufid)
                    .and_then(|place| place.within)
                    .is_none_or(|junction| !leads(junction))
            };
            let (first, rest): (Vec<_>, Vec<_>) = ufids.iter().copied().partition(is_first);
            if first.is_empty() {
                // Such as lead to each other have no order.
                ordered.extend(rest);
                break;
            }
            ordered.extend(first);
            ufids = rest;
        }
        ordered
    }

    /// The port that packets of a filter come in by, and the NIC that its rule would be placed in.
    pub(crate) fn place_of(&self, report: &FilterReport) -> (Option<Ifindex>, Option<NicId>) {
        let port = self.ports.at(report.address.location);
        let nic = match port {
            Some(port) if port.kind == PortKind::Tunnel => {
                self.ports.tunnel_nic(report.actions.iter().map(|reported| &reported.action.kind))
            }
            _ => port.and_then(PortFacts::offload_nic),
        };
        (port.map(|port| port.ifindex), nic)
    }

    /// Adds what a megaflow moved to every total it belongs to.
    pub(crate) fn account(&mut self, ufid: Ufid, moved: Traffic) {
        if moved.is_zero() {
            return;
        }
        let Some(entry) = self.ledger.get_mut(ufid) else { return };
        entry.totals += moved;
        if let Some(decision) = &entry.decision {
            self.policy.account(decision, moved);
        }
        self.totals.standings.account(entry.standing, moved);
        self.totals.all += moved;
        if let Some(port) = entry.port {
            *self.totals.by_port.entry(port).or_default() += moved;
        }
        self.record_moved(ufid, moved);
    }

    /// Forgets megaflows that have been gone long enough and have nothing under way; returns them.
    pub(crate) fn forget_gone(&mut self, now: Micros) -> Vec<Ufid> {
        let old = self.ledger.forget_gone(now, GONE_REMEMBERED);
        old.iter().for_each(|ufid| self.openflow.forget(*ufid));
        self.told_of_nothing.retain(|_, (told, _)| now.since(*told) < GONE_REMEMBERED);
        old
    }
}
