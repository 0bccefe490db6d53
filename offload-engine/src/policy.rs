//! What the rules say of each megaflow, and what came of it.

use crate::counters::Traffic;
use crate::engine::Engine;
use crate::ledger::{Entry, Home};
use crate::ports::Ports;
use crate::protection::IpsecPolicy;
use crate::subject;
use crate::world::World;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::vec::Vec;
use core::net::IpAddr;
use netlink_wire::{DpPort, Ifindex, Ufid};
use policies::language::{Locality, PortName, Sketch, SketchPort, Subject};
use policies::planner::TenantId;
use policies::rules::{Decision, Rule, Rules, RulesTrace};
use policies::tenants::TenantBook;
use policies::{Micros, RuleId};
use tc_flower::Location;

/// How often at most the numbers of tenants are freed that have no megaflows any more, when all of them are given.
const TENANTS_FREED_EVERY: Micros = Micros::from_secs(1);

/// What a rule came to since it is in force, under its name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RuleTally {
    /// Megaflows that it has decided about; one that comes back to it counts anew.
    pub decided: u64,
    /// What these moved while it decided.
    pub moved: Traffic,
}

/// One rule, or what the default decides, and the megaflows that it decides about now.
#[derive(Clone, Copy, Debug)]
pub struct RuleView<'a> {
    /// The rule; nothing for the default.
    pub rule: Option<(RuleId, &'a Rule)>,
    /// What it came to since it is in force.
    pub tally: RuleTally,
    /// Megaflows in TC that it decides about.
    pub flows: u64,
    /// Those of them in hardware.
    pub in_hardware: u64,
    /// What they move per second.
    pub rate: Traffic,
}

/// The rules in force, and what they came to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Policy {
    rules: Rules,
    /// One for each rule.
    tallies: Vec<RuleTally>,
    default: RuleTally,
    /// The tenants that megaflows tell.
    tenants: TenantBook,
    tenants_freed: Micros,
}

impl Policy {
    pub(crate) fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Takes over other rules; what the ones of the same names came to is kept.
    fn replace(&mut self, rules: Rules) {
        let kept = rules.iter().map(|(_, rule)| {
            self.rules.named(rule.name()).map(|before| self.tally(Some(before))).unwrap_or_default()
        });
        self.tallies = kept.collect();
        self.rules = rules;
        self.tenants_freed = Micros::ZERO;
    }

    /// What a rule came to, or, for none, the default.
    pub(crate) fn tally(&self, rule: Option<RuleId>) -> RuleTally {
        match rule {
            Some(rule) => self.tallies.get(usize::from(rule.0)).copied().unwrap_or_default(),
            None => self.default,
        }
    }

    fn tally_mut(&mut self, rule: Option<RuleId>) -> Option<&mut RuleTally> {
        match rule {
            Some(rule) => self.tallies.get_mut(usize::from(rule.0)),
            None => Some(&mut self.default),
        }
    }

    /// Counts what a megaflow moved for the rule that decides about it.
    pub(crate) fn account(&mut self, decision: &Decision, moved: Traffic) {
        if let Some(tally) = self.tally_mut(decision.rule) {
            tally.moved += moved;
        }
    }
}

/// What a megaflow is to conditions: by its filter, or, where the mode decides about flows of the kernel datapath, by what the
/// kernel told.
fn as_told<'a>(
    (ports, judges_datapath): (&'a Ports, bool),
    entry: &Entry,
    outports: &'a mut Vec<PortName<'a>>,
) -> Option<Subject<'a>> {
    if let Some(filter) = &entry.filter {
        return Some(subject::of_filter(&filter.owner, ports, outports));
    }
    let told = entry.told.as_ref().filter(|_| judges_datapath && entry.home == Home::Datapath)?;
    let (keys, actions) = (told.body.keys().ok()?, told.body.actions().ok()?);
    Some(subject::of_megaflow(told.dp, &keys, Some(&actions), ports, outports))
}

/// A megaflow as conditions see it now.
fn see<'a>(
    (ports, judges_datapath): (&'a Ports, bool),
    now: Micros,
    entry: &Entry,
    outports: &'a mut Vec<PortName<'a>>,
) -> Option<Subject<'a>> {
    let mut subject = as_told((ports, judges_datapath), entry, outports)?;
    subject.age = Some(now.since(entry.first_seen));
    if entry.has_rate {
        let rate = entry.rate.total();
        (subject.packets_per_s, subject.bytes_per_s) = (Some(rate.packets), Some(rate.bytes));
    }
    Some(subject)
}

impl World {
    /// Makes room for tenants that are not known yet, where there is none.
    fn free_tenants(&mut self, now: Micros) {
        let policy = &mut self.policy;
        if !policy.tenants.is_full() || now.since(policy.tenants_freed) < TENANTS_FREED_EVERY {
            return;
        }
        let used: BTreeSet<TenantId> =
            self.ledger.iter().filter_map(|(_, entry)| Some(entry.decision?.tenant)).collect();
        policy.tenants.keep_only(&used);
        policy.tenants_freed = now;
    }

    /// Asks the rules about a megaflow in TC. Returns whether they say otherwise than before.
    pub(crate) fn decide(&mut self, now: Micros, ufid: Ufid) -> bool {
        self.free_tenants(now);
        let Some(entry) = self.ledger.get(ufid) else { return false };
        let mut outports = Vec::new();
        let Policy { rules, tenants, .. } = &mut self.policy;
        let Some(subject) = see((&self.ports, self.judges_datapath), now, entry, &mut outports) else {
            return false;
        };
        let decision = rules.decide(&subject, tenants);
        let standing = self.totals.standings.of(&subject);
        let (before, needs_host) = (entry.decision, subject.needs_host);
        let is_treated_as_before = entry.needs_host == needs_host;
        if let Some(entry) = self.ledger.get_mut(ufid) {
            (entry.standing, entry.needs_host) = (standing, needs_host);
        }
        if before == Some(decision) {
            return !is_treated_as_before;
        }
        if before.is_none_or(|before| before.rule != decision.rule)
            && let Some(tally) = self.policy.tally_mut(decision.rule)
        {
            tally.decided += 1;
        }
        if let Some(entry) = self.ledger.get_mut(ufid) {
            entry.decision = Some(decision);
        }
        true
    }

    /// Takes over other rules and asks them about everything in TC. Returns the megaflows of which they say otherwise
    /// than those before.
    pub(crate) fn set_rules(&mut self, now: Micros, rules: Rules) -> Vec<Ufid> {
        if rules == *self.policy.rules() {
            return Vec::new();
        }
        // A rule that only changed its place in the list is the same rule.
        let moved: Vec<Option<RuleId>> =
            self.policy.rules.iter().map(|(_, rule)| rules.named(rule.name())).collect();
        self.policy.replace(rules);
        self.ledger.for_each(|entry| {
            if let Some(decision) = &mut entry.decision {
                let known = decision.rule.and_then(|rule| moved.get(usize::from(rule.0)).copied().flatten());
                decision.rule = known;
            }
        });
        self.decide_all(now)
    }

    /// Whether it is decided about: what is in TC is, and what is in the kernel datapath where the mode places rules of our own.
    pub(crate) fn judges(&self, entry: &Entry) -> bool {
        entry.filter.is_some() || self.judges_datapath && entry.home == Home::Datapath && entry.told.is_some()
    }

    /// Asks the rules again about every megaflow in TC.
    fn decide_all(&mut self, now: Micros) -> Vec<Ufid> {
        let all = self.ledger.select(|entry| self.judges(entry));
        all.into_iter().filter(|ufid| self.decide(now, *ufid)).collect()
    }

    /// Asks the rules again about the megaflows that come in or go out by a port that is known otherwise now.
    pub(crate) fn decide_of_port(&mut self, now: Micros, ifindex: Ifindex, location: Location) -> Vec<Ufid> {
        let concerned = self.of_port(ifindex, location);
        concerned.into_iter().filter(|ufid| self.decide(now, *ufid)).collect()
    }

    /// Takes the names of the chassis that tunnels lead to. Returns the megaflows that the rules say otherwise of.
    pub(crate) fn set_chassis(&mut self, now: Micros, chassis: BTreeMap<IpAddr, String>) -> Vec<Ufid> {
        if !self.ports.set_chassis(chassis) {
            return Vec::new();
        }
        self.decide_all(now)
    }

    /// Takes the host's policies of IPsec. Returns the megaflows that the rules say otherwise of.
    pub(crate) fn set_ipsec(&mut self, now: Micros, policies: Vec<IpsecPolicy>) -> Vec<Ufid> {
        if !self.ports.set_ipsec(policies) {
            return Vec::new();
        }
        self.decide_all(now)
    }

    /// The megaflows in TC that come in or go out by a port.
    pub(crate) fn of_port(&self, ifindex: Ifindex, location: Location) -> Vec<Ufid> {
        self.ledger.select(|entry| {
            entry.address().is_some_and(|address| address.location == location)
                || entry.filter.as_ref().is_some_and(|filter| subject::goes_to(&filter.owner, ifindex))
                // Where they go is in their actions, which are read to decide about them anyway.
                || entry.filter.is_none() && self.judges(entry)
        })
    }
}

/// What a megaflow's ports and tunnel tell of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Belonging {
    /// How far its packets travel.
    pub locality: Locality,
    /// The workload of this node that sends them, else the one that gets them; empty where there is neither.
    pub workload: Option<String>,
    /// The workload's Kubernetes namespace; empty for none.
    pub namespace: Option<String>,
    /// Whose it is.
    pub tenant: Option<String>,
    /// OVN's name of the chassis at the tunnel's other end; empty for none.
    pub chassis: Option<String>,
    /// Whether IPsec protects them on the wire.
    pub encrypted: Option<bool>,
}

impl Engine {
    /// What a megaflow's ports and tunnel tell of it; nothing is known of one that is not in TC.
    pub fn belonging(&self, ufid: Ufid) -> Belonging {
        let Some(entry) = self.world.ledger.get(ufid) else { return Belonging::default() };
        let mut outports = Vec::new();
        let known = (&self.world.ports, self.world.judges_datapath);
        let Some(subject) = as_told(known, entry, &mut outports) else { return Belonging::default() };
        Belonging {
            locality: subject.locality,
            workload: subject.workload.map(Into::into),
            namespace: subject.namespace.map(Into::into),
            tenant: subject.tenant.map(Into::into),
            chassis: subject.chassis.map(Into::into),
            encrypted: subject.encrypted,
        }
    }

    /// What moved since the engine started, by how far it travelled.
    pub fn localities(&self) -> impl Iterator<Item = (Locality, Traffic)> {
        self.world.totals.standings.localities()
    }

    /// What moved since the engine started, by Kubernetes namespace: at most [`crate::NAMESPACES_MAX`] of them, and the
    /// rest as [`crate::OTHER_NAMESPACES`].
    pub fn namespaces(&self) -> impl Iterator<Item = (&str, Traffic)> {
        self.world.totals.standings.namespaces()
    }

    /// The name of a tenant of decisions; nothing for nobody.
    pub fn tenant(&self, id: TenantId) -> Option<&str> {
        let policy = &self.world.policy;
        policy.rules.tenant(id).or_else(|| policy.tenants.name(id))
    }

    /// The rules in force.
    pub fn rules(&self) -> &Rules {
        self.world.policy.rules()
    }

    /// Every rule in order, the default last, with what it decides about now.
    pub fn rule_views(&self) -> Vec<RuleView<'_>> {
        let policy = &self.world.policy;
        let view = |rule: Option<(RuleId, _)>| RuleView {
            rule,
            tally: policy.tally(rule.map(|(id, _)| id)),
            flows: 0,
            in_hardware: 0,
            rate: Traffic::default(),
        };
        let mut views: Vec<_> = policy.rules.iter().map(Some).chain([None]).map(view).collect();
        let default = views.len() - 1;
        for (_, entry) in self.world.ledger.iter() {
            let Some(decision) = entry.decision.filter(|_| self.world.judges(entry)) else { continue };
            let at = decision.rule.map_or(default, |rule| usize::from(rule.0));
            let Some(view) = views.get_mut(at) else { continue };
            view.flows += 1;
            view.in_hardware += u64::from(entry.in_hw());
            view.rate += entry.rate;
        }
        views
    }

    /// How the rules come to what they say of a megaflow that somebody described, for `read`. Ports are known by name and
    /// by their number in the datapath.
    pub fn trace_rules_of<T>(&self, sketch: &Sketch, read: impl FnOnce(RulesTrace<'_>) -> T) -> T {
        let mut sketch = sketch.clone();
        self.complete_port(&mut sketch.inport);
        for port in sketch.outports.iter_mut().flatten() {
            self.complete_port(port);
        }
        let mut outports = Vec::new();
        read(self.rules().trace(&sketch.subject(&mut outports)))
    }

    fn complete_port(&self, port: &mut SketchPort) {
        let Some(name) = &port.name else { return };
        let ports = &self.world.ports;
        let by_number = || ports.by_number(DpPort(name.parse().ok()?));
        let Some(facts) = ports.iter().find(|facts| facts.name == *name).or_else(by_number) else { return };
        let known = subject::name_of(facts);
        port.iface_id = port.iface_id.take().or(known.iface_id.map(Into::into));
        port.name = known.name.map(Into::into);
    }

    /// How the rules come to what they say of a megaflow in TC, for `read`; nothing for one that is not there.
    pub fn trace_rules<T>(
        &self,
        now: Micros,
        ufid: Ufid,
        read: impl FnOnce(RulesTrace<'_>) -> T,
    ) -> Option<T> {
        let entry = self.world.ledger.get(ufid)?;
        let mut outports = Vec::new();
        let known = (&self.world.ports, self.world.judges_datapath);
        let subject = see(known, now, entry, &mut outports)?;
        Some(read(self.rules().trace(&subject)))
    }
}
