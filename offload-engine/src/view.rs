//! What the engine knows, as values for `status`, tables and metrics.

use crate::chains::ChainRestore;
use crate::counters::Traffic;
use crate::engine::Engine;
use crate::event::Peer;
use crate::ledger::{Entry, Home, Stage};
use crate::openflow::{OpenflowRule, OpenflowView};
use crate::ovs::{Mode, OvsSettings};
use crate::ports::{NicFacts, NicId, PortFacts};
use crate::refusal::Refusal;
use crate::shadow::book::Stage as OwnStage;
use crate::world::{NicTally, Tally};
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use netlink_wire::ovs_flow::FlowBody;
use netlink_wire::{Ifindex, Ufid};
use policies::Micros;
use policies::planner::{Counts, Explanation};
use policies::rules::Decision;
use tc_flower::{Chain, Filter, FilterAddress, FilterReport};

/// Distinct refusal texts told of in one status; the rest is summed up under their labels.
const REFUSAL_TEXTS_MAX: usize = 32;

/// Where a megaflow's packets are forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Placement {
    /// By the NIC: the last report showed the rule `in_hw`.
    Hardware,
    /// By TC in software.
    Tc,
    /// By the OVS kernel datapath: Open vSwitch did not put the flow into TC.
    Datapath,
}

impl Placement {
    /// The word used in tables and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hardware => "hardware",
            Self::Tc => "tc",
            Self::Datapath => "datapath",
        }
    }
}

/// One megaflow.
#[derive(Clone, Debug)]
pub struct FlowView<'a> {
    /// Its id.
    pub ufid: Ufid,
    /// Where its packets are forwarded.
    pub placement: Placement,
    /// Its filter in TC.
    pub address: Option<FilterAddress>,
    /// The port it comes in by.
    pub port: Option<&'a PortFacts>,
    /// The NIC it could be placed in.
    pub nic: Option<NicId>,
    /// Its rule as Open vSwitch wrote it, where it is in TC.
    pub rule: Option<&'a FilterReport>,
    /// Key, mask and actions of a flow of the kernel datapath, unless these are too long.
    pub told: Option<&'a FlowBody>,
    /// Time since it was first seen.
    pub age: Micros,
    /// What it moved since then.
    pub totals: Traffic,
    /// What it moves per second.
    pub rate: Traffic,
    /// The last refusal, while it holds.
    pub refusal: Option<&'a Refusal>,
    /// For a flow of the kernel datapath: what of it TC cannot express.
    pub unfit: Option<&'a str>,
    /// Something is under way for it.
    pub moving: bool,
    /// What the rules say of it, where it is in TC.
    pub decision: Option<Decision>,
    /// How the planner sees it.
    pub explanation: Option<Explanation>,
}

/// Where a megaflow stands among those that recirculation joins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnitView {
    /// The chain it is in: its recirculation id.
    pub chain: Chain,
    /// The chain it sends its packets to.
    pub goes_to: Option<Chain>,
    /// Megaflows whose packets it may get, and whether they are in hardware; at most [`policies::planner::BEFORE_MAX`].
    pub before: Vec<(Ufid, bool)>,
    /// Megaflows that may get its packets, and whether they are in hardware; the first [`AFTER_SHOWN`].
    pub after: Vec<(Ufid, bool)>,
    /// How many these are in all.
    pub after_count: usize,
    /// How many entries it takes with those before it that have none, or, of one in hardware, how many are there for it alone.
    pub entries: Option<u32>,
}

/// Megaflows after one that are shown at most.
pub const AFTER_SHOWN: usize = 16;

/// One port.
#[derive(Clone, Copy, Debug)]
pub struct PortView<'a> {
    /// What it is.
    pub facts: &'a PortFacts,
    /// What came in by it since the engine started.
    pub totals: Traffic,
}

/// One NIC.
#[derive(Clone, Debug)]
pub struct NicView<'a> {
    /// What it is.
    pub facts: &'a NicFacts,
    /// Rules that the last reports showed in it.
    pub entries: u32,
    /// How its planner stands; nothing in observe mode.
    pub planner: Option<Counts>,
    /// What was done with it.
    pub tally: NicTally,
    /// Whether it is kept empty.
    pub draining: bool,
}

/// Megaflows that share a reason for not being in hardware.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refusals {
    /// How many.
    pub flows: u64,
    /// What they move per second.
    pub rate: Traffic,
}

/// Where the megaflows are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowCounts {
    /// In hardware.
    pub hardware: u64,
    /// In TC, software.
    pub tc: u64,
    /// In the OVS kernel datapath.
    pub datapath: u64,
    /// Of those in software: kept there by policy.
    pub policy: u64,
    /// Of those in software: refused.
    pub refused: u64,
    /// Of those in software: too young, too slow or in line.
    pub cold: u64,
}

impl FlowCounts {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.hardware + self.tc + self.datapath
    }
}

/// The whole at a glance.
#[derive(Clone, Debug)]
pub struct Status<'a> {
    /// What the engine does.
    pub mode: Mode,
    /// Time since the engine started.
    pub up: Micros,
    /// Open vSwitch's settings.
    pub ovs: &'a OvsSettings,
    /// Which connections are up.
    pub peers: &'a BTreeMap<Peer, bool>,
    /// Where the megaflows are.
    pub flows: FlowCounts,
    /// Everything counted since the engine started.
    pub totals: Traffic,
    /// What moved lately, and over what time.
    pub lately: Option<(Traffic, Micros)>,
    /// Every NIC.
    pub nics: Vec<NicView<'a>>,
    /// Why flows are not in hardware, by the reason's text.
    pub refusals: BTreeMap<String, Refusals>,
    /// What was done.
    pub tally: &'a Tally,
    /// The operator emptied the hardware.
    pub draining: bool,
}

impl Engine {
    /// Every megaflow that is somewhere, by ufid.
    pub fn flows(&self, now: Micros) -> impl Iterator<Item = FlowView<'_>> {
        self.world.ledger.iter().filter_map(move |(ufid, entry)| self.flow_view(now, ufid, entry))
    }

    /// One megaflow.
    pub fn flow(&self, now: Micros, ufid: Ufid) -> Option<FlowView<'_>> {
        self.flow_view(now, ufid, self.world.ledger.get(ufid)?)
    }

    /// The rule that shadow mode would place for a flow of the kernel datapath, or why it would not: also while another mode is in
    /// force. Nothing of a flow that is not there.
    pub fn shadow_of(&self, ufid: Ufid) -> Option<Result<Filter, Refusal>> {
        let entry = self.world.ledger.get(ufid).filter(|entry| entry.home == Home::Datapath)?;
        Some(crate::shadow::rule_of(&self.world, ufid, entry).map(|(_, filter)| filter))
    }

    /// What hardware took in mode shadow, by OpenFlow rules.
    pub fn openflow(&self) -> OpenflowView<'_> {
        self.world.openflow.view()
    }

    /// The OpenFlow rules that a megaflow with a rule of shadow mode is of, where Open vSwitch has told.
    pub fn openflow_rules_of(&self, ufid: Ufid) -> Option<Vec<&OpenflowRule>> {
        self.world.openflow.rules_of(ufid)
    }

    /// Where recirculation joins a megaflow to others; nothing for one that it does not, or that is not in TC. It takes a
    /// look at all filters of the two chains.
    pub fn unit(&self, ufid: Ufid) -> Option<UnitView> {
        let world = &self.world;
        let place = world.chains.place(ufid)?;
        let shown = |ufid: Ufid| (ufid, world.ledger.get(ufid).is_some_and(Entry::in_hw));
        let after = world.after(ufid);
        Some(UnitView {
            chain: place.within.map_or(Chain(0), |(_, chain)| chain),
            goes_to: place.leads_to.map(|(_, chain)| chain),
            before: world.before(ufid).into_iter().map(shown).collect(),
            after_count: after.len(),
            after: after.into_iter().take(AFTER_SHOWN).map(shown).collect(),
            entries: self.placing.entries_of_unit(world, ufid),
        })
    }

    /// What the kernel is known to do with a packet that a NIC has not finished with.
    pub fn chain_restore(&self) -> ChainRestore {
        match self.world.chain_restore {
            // Nobody asked for it where Open vSwitch does not offload.
            ChainRestore::Missing if !self.world.ovs.hw_offload => ChainRestore::Unknown,
            told => told,
        }
    }

    /// Megaflows that are in software since the kernel does not go on where a NIC stops, in TC or in the kernel datapath.
    pub fn held_back_for_chain_restore(&self) -> u64 {
        let held = |entry: &&Entry| {
            !matches!(entry.home, Home::Gone { .. })
                && entry.refusal == Some(Refusal::NoChainRestore)
                && !entry.in_hw()
        };
        self.world.ledger.iter().map(|(_, entry)| entry).filter(held).count() as u64
    }

    /// Every port, by netdev index.
    pub fn ports(&self) -> impl Iterator<Item = PortView<'_>> {
        self.world.ports.iter().map(|facts| {
            let totals = self.world.totals.by_port.get(&facts.ifindex).copied().unwrap_or_default();
            PortView { facts, totals }
        })
    }

    /// Every NIC, by number.
    pub fn nics(&self) -> Vec<NicView<'_>> {
        let mut entries: BTreeMap<NicId, u32> = BTreeMap::new();
        for (_, entry) in self.world.ledger.iter() {
            if let (true, Some(nic)) = (entry.in_hw(), entry.nic) {
                *entries.entry(nic).or_default() += 1;
            }
        }
        let view = |facts: &'_ NicFacts| (facts.id, entries.get(&facts.id).copied().unwrap_or(0));
        self.world
            .ports
            .nics()
            .map(|facts| {
                let (id, entries) = view(facts);
                NicView {
                    facts,
                    entries,
                    planner: self.placing.counts(id),
                    tally: self.world.nic_tally(id),
                    draining: self.draining.covers(Some(id)),
                }
            })
            .collect()
    }

    /// Whether this NIC is kept empty, also while there is none of that number: one that is away stays so when it comes back.
    pub fn drains(&self, nic: NicId) -> bool {
        self.draining.covers(Some(nic))
    }

    /// The mode in force.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The whole at a glance.
    pub fn status(&self, now: Micros) -> Status<'_> {
        let mut flows = FlowCounts::default();
        let mut refusals: BTreeMap<String, Refusals> = BTreeMap::new();
        for (ufid, entry) in self.world.ledger.iter() {
            let Some(placement) = placement(entry) else { continue };
            match placement {
                Placement::Hardware => flows.hardware += 1,
                Placement::Tc => flows.tc += 1,
                Placement::Datapath => flows.datapath += 1,
            }
            if placement == Placement::Hardware {
                continue;
            }
            if let Some(refusal) = &entry.refusal {
                flows.refused += 1;
                note_refusal(&mut refusals, refusal, entry.rate);
            } else if matches!(self.placing.explain(&self.world, now, ufid), Some(Explanation::Policy(_))) {
                flows.policy += 1;
            } else if self.world.judges(entry) {
                flows.cold += 1;
            }
        }
        Status {
            mode: self.mode,
            up: now.since(self.started),
            ovs: &self.world.ovs,
            peers: &self.peers,
            flows,
            totals: self.world.totals.all,
            lately: self.history.moved(),
            nics: self.nics(),
            refusals,
            tally: &self.world.tally,
            draining: self.draining.all,
        }
    }

    fn flow_view<'a>(&'a self, now: Micros, ufid: Ufid, entry: &'a Entry) -> Option<FlowView<'a>> {
        let placement = placement(entry)?;
        Some(FlowView {
            ufid,
            placement,
            address: entry.address().or(self.world.own.get(ufid).and_then(|own| own.at)),
            port: entry.port.and_then(|ifindex: Ifindex| self.world.ports.get(ifindex)),
            nic: entry.nic,
            rule: entry.filter.as_ref().map(|filter| &*filter.owner),
            told: entry.told.as_ref().filter(|_| entry.home == Home::Datapath).map(|told| &told.body),
            age: now.since(entry.first_seen),
            totals: entry.totals,
            rate: entry.rate,
            refusal: entry.refusal.as_ref().filter(|_| placement != Placement::Hardware),
            unfit: entry
                .unfit
                .as_deref()
                .filter(|_| placement == Placement::Datapath && !self.world.judges_datapath),
            moving: !matches!(entry.stage, Stage::Resting)
                || self.world.own.get(ufid).is_some_and(|own| own.stage != OwnStage::There),
            decision: entry.decision.filter(|_| self.world.judges(entry)),
            explanation: self.placing.explain(&self.world, now, ufid),
        })
    }
}

fn placement(entry: &Entry) -> Option<Placement> {
    match entry.home {
        Home::Tc(_) if entry.in_hw() => Some(Placement::Hardware),
        Home::Tc(_) => Some(Placement::Tc),
        Home::Datapath if entry.in_hw() => Some(Placement::Hardware),
        Home::Datapath => Some(Placement::Datapath),
        Home::Gone { .. } => None,
    }
}

fn note_refusal(refusals: &mut BTreeMap<String, Refusals>, refusal: &Refusal, rate: Traffic) {
    let mut text = alloc::format!("{refusal}");
    if refusals.len() >= REFUSAL_TEXTS_MAX && !refusals.contains_key(&text) {
        text = refusal.label().into();
    }
    let group = refusals.entry(text).or_default();
    group.flows += 1;
    group.rate += rate;
}
