//! Views of the engine for the control socket and for metrics.

use std::collections::BTreeMap;
use std::fmt;

use netlink_wire::{Ifindex, Ufid};
use offload_engine::{
    ChainRestore, Engine, FlowView as EngineFlow, Micros, Mode, NicId, Placement, Refusal, Traffic,
};
use policies::RuleId;
use policies::language::{Locality, Truth};
use policies::planner::{Because, Explanation, Terms, Verdict, WaitingFor};
use tc_flower::{Chain, Control, FilterReport, display};

use crate::config::show_duration;
use crate::ctl::inventory::{bond_view, bonds_of};
use crate::ctl::openflow::OpenflowRuleView;
use crate::ctl::views::{
    Amount, FlowCounts, FlowView, FlowWhy, GroupView, NicDeclaredView, NicView, PortView, ReasonCount,
    RecirculationView, RefusalView, Split, UnitPart, UnitView,
};
use crate::ctl::{FlowListArgs, FlowOrder, PlacementFilter};
use crate::inventory::{Nic, Snapshot};
use crate::lifecycle::declared::DeclaredNic;
use crate::nics::differences;

/// Distinct texts of refusals; further ones are summed up under their reason.
const REFUSAL_TEXTS_MAX: usize = 64;

/// What one pass over all flows tells.
#[derive(Debug, Default)]
pub(crate) struct Summary {
    pub(crate) flows: FlowCounts,
    pub(crate) refused: Vec<RefusalView>,
    pub(crate) ports: Vec<PortView>,
}

fn amount(count: offload_engine::Count) -> Amount {
    Amount { packets: count.packets, bytes: count.bytes }
}

pub(crate) fn split(traffic: Traffic) -> Split {
    Split { software: amount(traffic.software), hardware: amount(traffic.hardware) }
}

fn add(sum: &mut Split, more: &Split) {
    for (sum, more) in [(&mut sum.software, more.software), (&mut sum.hardware, more.hardware)] {
        sum.packets = sum.packets.saturating_add(more.packets);
        sum.bytes = sum.bytes.saturating_add(more.bytes);
    }
}

/// `moved` over `over`, scaled to a second.
pub(crate) fn per_second(moved: Traffic, over: Micros) -> Split {
    let scale = |value: u64| {
        u64::try_from(u128::from(value) * 1_000_000 / u128::from(over.0.max(1))).unwrap_or(u64::MAX)
    };
    let each =
        |count: offload_engine::Count| Amount { packets: scale(count.packets), bytes: scale(count.bytes) };
    Split { software: each(moved.software), hardware: each(moved.hardware) }
}

/// One pass over all flows.
pub(crate) fn summary(engine: &Engine, now: Micros) -> Summary {
    let mut flows = FlowCounts::default();
    let mut reasons: BTreeMap<&'static str, u64> = BTreeMap::new();
    let mut refused: BTreeMap<(&'static str, String), RefusalView> = BTreeMap::new();
    let mut of_port: BTreeMap<Ifindex, (u64, u64, Split)> = BTreeMap::new();
    for flow in engine.flows(now) {
        let hardware = flow.placement == Placement::Hardware;
        flows.total += 1;
        match flow.placement {
            Placement::Hardware => flows.hardware += 1,
            Placement::Tc => flows.tc_software += 1,
            Placement::Datapath => flows.datapath += 1,
        }
        if let Some(port) = flow.port {
            let (all, in_hardware, rate) = of_port.entry(port.ifindex).or_default();
            *all += 1;
            *in_hardware += u64::from(hardware);
            add(rate, &split(flow.rate));
        }
        if hardware {
            continue;
        }
        *reasons.entry(reason(&flow)).or_default() += 1;
        let Some(refusal) = flow.refusal else { continue };
        let mut text = refusal.to_string();
        if refused.len() >= REFUSAL_TEXTS_MAX && !refused.contains_key(&(refusal.label(), text.clone())) {
            text = "other texts".to_owned();
        }
        let group = refused.entry((refusal.label(), text.clone())).or_insert_with(|| RefusalView {
            reason: refusal.label(),
            text,
            flows: 0,
            rate: Amount::default(),
        });
        group.flows += 1;
        let rate = split(flow.rate);
        group.rate.packets = group.rate.packets.saturating_add(rate.packets());
        group.rate.bytes = group.rate.bytes.saturating_add(rate.bytes());
    }
    flows.software_by_reason =
        reasons.into_iter().map(|(reason, flows)| ReasonCount { reason, flows }).collect();
    flows.software_by_reason.sort_by_key(|count| std::cmp::Reverse(count.flows));
    let mut refused: Vec<RefusalView> = refused.into_values().collect();
    refused.sort_by_key(|refusal| std::cmp::Reverse(refusal.flows));
    Summary { flows, refused, ports: ports(engine, &of_port) }
}

fn ports(engine: &Engine, of_port: &BTreeMap<Ifindex, (u64, u64, Split)>) -> Vec<PortView> {
    engine
        .ports()
        .map(|port| {
            let facts = port.facts;
            let (flows, flows_hardware, rate) = of_port.get(&facts.ifindex).copied().unwrap_or_default();
            PortView {
                name: facts.name.clone(),
                ifindex: facts.ifindex.0,
                dp_port: facts.dp_port.map(|port| port.0),
                bridge: facts.bridge.clone(),
                kind: facts.kind.as_str(),
                nic: facts.nic.map(|nic| nic.0),
                hw_tc_offload: facts.hw_tc_offload,
                bond: None,
                iface_id: facts.iface_id.clone(),
                workload: facts.workload.as_ref().map(ToString::to_string),
                orchestrator: facts.workload.as_ref().map(|workload| workload.orchestrator.word()),
                tenant: facts.workload.as_ref().and_then(|workload| workload.tenant.clone()),
                logical_switch: facts.workload.as_ref().and_then(|workload| workload.logical_switch.clone()),
                flows,
                flows_hardware,
                traffic: split(port.totals),
                rate,
            }
        })
        .collect()
}

/// What is known of the kernel as to flows that recirculation joins.
pub(crate) fn recirculation(engine: &Engine) -> RecirculationView {
    let kernel = match engine.chain_restore() {
        ChainRestore::Works => "works",
        ChainRestore::Missing => "missing",
        ChainRestore::Unknown => "unknown",
    };
    RecirculationView { kernel, held_back: engine.held_back_for_chain_restore() }
}

/// NICs: what the engine counts of each, and what the inventory knows of it.
pub(crate) fn nics(engine: &Engine, snapshot: &Snapshot, declared: Declared<'_>) -> Vec<NicView> {
    let counts: BTreeMap<NicId, NicView> = counts_of_nics(engine);
    snapshot.nics.iter().map(|nic| nic_view(engine, nic, snapshot, &counts, declared)).collect()
}

/// What the configuration declares, and what the last look at each NIC ended with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Declared<'a> {
    pub(crate) nics: &'a [DeclaredNic],
    pub(crate) looks: &'a BTreeMap<String, (bool, String)>,
}

impl Declared<'_> {
    /// How this NIC stands to that; none where it is not declared.
    fn of(self, nic: &Nic) -> Option<NicDeclaredView> {
        let handle = nic.handle.as_ref()?;
        let declared = self.nics.iter().find(|declared| declared.handle == *handle)?;
        Some(NicDeclaredView::new(differences(declared, nic), self.looks.get(&handle.to_string())))
    }
}

/// Adds what the inventory knows of the bonds among the ports.
pub(crate) fn with_bonds(mut ports: Vec<PortView>, snapshot: &Snapshot) -> Vec<PortView> {
    for bond in &snapshot.bonds {
        let port = ports.iter_mut().find(|port| port.ifindex == bond.netdev.ifindex.0);
        if let Some(port) = port {
            port.bond = Some(bond_view(bond));
        }
    }
    ports
}

/// One NIC. Where several have one switch id, the first has the counts.
pub(crate) fn nic_view(
    engine: &Engine,
    nic: &Nic,
    snapshot: &Snapshot,
    counts: &BTreeMap<NicId, NicView>,
    declared: Declared<'_>,
) -> NicView {
    let own = nic.switch.filter(|switch| *switch == nic.number);
    let view = own.and_then(|switch| counts.get(&switch)).cloned().unwrap_or_default().with(nic);
    let drained = (engine.mode() != Mode::Observe).then(|| engine.drains(nic.switch.unwrap_or(nic.number)));
    // Without a switch there is nothing to empty, and what was asked before has to be taken back all the same.
    let draining = drained.filter(|drained| nic.switch.is_some() || *drained);
    NicView { bonds: bonds_of(nic, &snapshot.bonds), declared: declared.of(nic), draining, ..view }
}

/// What the engine counts of NICs.
pub(crate) fn counts_of_nics(engine: &Engine) -> BTreeMap<NicId, NicView> {
    let views = engine.nics().into_iter().map(|nic| {
        let counts = nic.planner.unwrap_or_default();
        let view = NicView {
            nic: nic.facts.id.0,
            entries: nic.entries.into(),
            capacity: counts.capacity.map(u64::from),
            capacity_learned: counts.capacity_is_learned,
            installs_per_s_max: nic.planner.map(|counts| counts.installs_per_s.into()),
            installs_learned: counts.installs_are_learned,
            foreign: counts.foreign.into(),
            waiting: counts.waiting,
            in_flight: u64::from(counts.promoting) + u64::from(counts.demoting),
            promotions: nic.tally.promotions,
            demotions: nic.tally.demotions,
            refusals: nic.tally.refusals,
            draining: (engine.mode() != Mode::Observe).then_some(nic.draining),
            ..NicView::default()
        };
        (nic.facts.id, view)
    });
    views.collect()
}

/// Whether a rule wants it in hardware whatever it moves.
fn is_pinned(flow: &EngineFlow<'_>) -> bool {
    flow.decision.is_some_and(|decision| matches!(decision.verdict, Verdict::Hardware(_)))
}

/// Whether its packets go on to others: then these earned its entry.
fn is_link(flow: &EngineFlow<'_>) -> bool {
    flow.rule.is_some_and(|rule| goes_to(rule).is_some())
}

/// The chain that a rule sends its packets to.
fn goes_to(rule: &FilterReport) -> Option<u32> {
    rule.actions.iter().find_map(|report| match report.action.control {
        Control::Goto(chain) => Some(chain.0),
        _ => None,
    })
}

/// Why a flow is where it is: a word of a closed set, also a label of metrics.
fn reason(flow: &EngineFlow<'_>) -> &'static str {
    if let Some(refusal) = flow.refusal {
        return refusal.label();
    }
    match (flow.placement, &flow.explanation) {
        (Placement::Hardware, _) if is_pinned(flow) => "pinned",
        (Placement::Hardware, Some(Explanation::Placed { .. })) if is_link(flow) => "on_the_way",
        (Placement::Hardware, _) => "earned",
        (Placement::Datapath, None) => "not_in_tc",
        (Placement::Tc, None | Some(Explanation::Unknown)) => "observed",
        (Placement::Tc | Placement::Datapath, Some(explanation)) => match explanation {
            Explanation::Unknown => "observed",
            Explanation::Policy(Because::NotPlaceable) => "not_placeable",
            Explanation::Policy(_) => "policy",
            Explanation::TooYoung { .. } => "too_young",
            Explanation::TooSlow { .. } => "cold",
            Explanation::Waiting { .. } => "waiting",
            Explanation::Promoting { .. } => "promoting",
            Explanation::Placed { .. } => "unconfirmed",
            Explanation::Demoting { .. } => "demoting",
            Explanation::BlockedUntil { .. } => "refused_before",
            Explanation::Turn { .. } => "turn",
            Explanation::OnTheWay { .. } => "on_the_way",
            Explanation::NoWay => "no_way",
        },
    }
}

fn view(engine: &Engine, flow: &EngineFlow<'_>) -> FlowView {
    let belonging = engine.belonging(flow.ufid);
    FlowView {
        ufid: flow.ufid.to_string(),
        placement: flow.placement.as_str(),
        reason: reason(flow),
        port: flow.port.map(|port| port.name.clone()),
        nic: flow.nic.map(|nic| nic.0),
        chain: flow.address.map(|address| address.chain.0),
        goes_to: flow.rule.and_then(goes_to),
        key: key(flow).unwrap_or_else(|| "-".to_owned()),
        locality: belonging.locality.word(),
        workload: told(belonging.workload),
        namespace: told(belonging.namespace),
        tenant: told(belonging.tenant),
        chassis: told(belonging.chassis),
        encrypted: belonging.encrypted,
        openflow: engine
            .openflow_rules_of(flow.ufid)
            .map(|rules| rules.into_iter().map(OpenflowRuleView::of).collect()),
        age_ms: flow.age.0 / 1_000,
        traffic: split(flow.totals),
        rate: split(flow.rate),
    }
}

/// Which packets it takes: by its rule in TC, or as the kernel datapath has it.
fn key(flow: &EngineFlow<'_>) -> Option<String> {
    match (flow.rule, flow.told) {
        (Some(rule), _) => Some(rule.keys.to_string()),
        (None, told) => Some(told?.keys().ok()?.to_string()),
    }
}

/// What there is none of and what nobody knows look alike in tables.
fn told(name: Option<String>) -> Option<String> {
    name.filter(|name| !name.is_empty())
}

/// What moved since the engine started, by how far it travelled.
pub(crate) fn localities(engine: &Engine) -> Vec<GroupView> {
    let view = |(locality, traffic): (Locality, Traffic)| GroupView {
        name: locality.word().to_owned(),
        traffic: split(traffic),
    };
    engine.localities().map(view).collect()
}

/// What moved since the engine started, by Kubernetes namespace.
pub(crate) fn namespaces(engine: &Engine) -> Vec<GroupView> {
    let view =
        |(name, traffic): (&str, Traffic)| GroupView { name: name.to_owned(), traffic: split(traffic) };
    engine.namespaces().map(view).collect()
}

fn fits(flow: &EngineFlow<'_>, list: &FlowListArgs) -> bool {
    let placed = match list.placement {
        None => true,
        Some(PlacementFilter::Hardware) => flow.placement == Placement::Hardware,
        Some(PlacementFilter::Software) => flow.placement != Placement::Hardware,
    };
    let port = |name: &String| flow.port.is_some_and(|port| port.name == *name);
    placed
        && list.port.as_ref().is_none_or(port)
        && list.nic.is_none_or(|nic| flow.nic.map(|nic| nic.0) == Some(nic))
        && list.reason.as_ref().is_none_or(|text| {
            let told = flow.refusal.map(ToString::to_string).unwrap_or_default();
            reason(flow).replace('_', " ").contains(&text.replace('_', " ")) || told.contains(text.as_str())
        })
        && list.key.as_ref().is_none_or(|text| key(flow).is_some_and(|key| key.contains(text.as_str())))
}

/// Flows that fit, sorted and cut, and how many fit.
pub(crate) fn flow_list(engine: &Engine, now: Micros, list: &FlowListArgs) -> (Vec<FlowView>, u64) {
    let mut flows: Vec<EngineFlow<'_>> = engine.flows(now).filter(|flow| fits(flow, list)).collect();
    let rank = |flow: &EngineFlow<'_>| match list.sort {
        FlowOrder::Rate => flow.rate.total().bytes,
        FlowOrder::Packets => flow.totals.total().packets,
        FlowOrder::Bytes => flow.totals.total().bytes,
        FlowOrder::Age => flow.age.0,
        FlowOrder::Port => 0,
    };
    match list.sort {
        FlowOrder::Port => flows.sort_by(|a, b| {
            let name = |flow: &EngineFlow<'_>| flow.port.map(|port| port.name.clone());
            name(a).cmp(&name(b)).then(a.ufid.cmp(&b.ufid))
        }),
        _ => flows.sort_by(|a, b| rank(b).cmp(&rank(a)).then(a.ufid.cmp(&b.ufid))),
    }
    if list.reverse {
        flows.reverse();
    }
    let total = flows.len() as u64;
    let limit = if list.limit == 0 { flows.len() } else { list.limit };
    (flows.iter().take(limit).map(|flow| view(engine, flow)).collect(), total)
}

/// One flow explained; none if it is unknown.
pub(crate) fn flow_why(engine: &Engine, now: Micros, ufid: Ufid) -> Option<FlowWhy> {
    let flow = engine.flow(now, ufid)?;
    let name = |ifindex: Ifindex, f: &mut fmt::Formatter<'_>| match engine
        .ports()
        .find(|port| port.facts.ifindex == ifindex)
    {
        Some(port) => f.write_str(&port.facts.name),
        None => write!(f, "{ifindex}"),
    };
    let actions = flow.rule.map(|rule| {
        let actions = rule.actions.iter().map(|report| &report.action);
        display::actions(actions, &name).to_string()
    });
    let told = || Some(flow.told?.actions().ok()?.to_string());
    Some(FlowWhy {
        flow: view(engine, &flow),
        address: flow.address.map(|address| address.to_string()),
        actions: actions.or_else(told),
        unit: engine.unit(ufid).as_ref().map(unit_view),
        why: why(engine, &flow, now),
    })
}

/// A rule as people know it; "the default" where none matched.
fn rule_name(engine: &Engine, rule: Option<RuleId>) -> String {
    match rule.and_then(|id| engine.rules().rule(id).map(|rule| (id, rule))) {
        Some((id, rule)) => format!("{id} {:?}", rule.name()),
        None => "the default".to_owned(),
    }
}

/// Which rule decides about a flow, what it says, and which rules before it fit only some of the flow's packets.
fn rule_sentences(engine: &Engine, flow: &EngineFlow<'_>, now: Micros, why: &mut Vec<String>) {
    let Some(decision) = flow.decision.filter(|_| !engine.rules().is_empty()) else { return };
    let name = rule_name(engine, decision.rule);
    let says = match decision.verdict {
        Verdict::Hardware(_) => "wants it in hardware while there is room",
        Verdict::Software(_) => "keeps it in software",
        Verdict::Auto(_) => "lets it compete for an entry",
    };
    let tenant = engine.tenant(decision.tenant);
    let tenant = tenant.map_or_else(String::new, |tenant| format!(", for tenant {tenant:?}"));
    let name = name.replacen("rule", "Rule", 1).replacen("the", "The", 1);
    why.push(format!("{name} {says}{tenant} (ovs-offloadctl policy test shows how it came to that)."));
    let partly = engine.trace_rules(now, flow.ufid, |trace| {
        let some = trace.asked.iter().filter(|asked| asked.condition.truth == Truth::Sometimes);
        some.map(|asked| format!("{} {:?}", asked.rule, asked.name)).collect::<Vec<_>>()
    });
    if let Some(partly) = partly.filter(|partly| !partly.is_empty()) {
        why.push(format!(
            "Passed over, since they hold for some of its packets only: {}.",
            partly.join(", ")
        ));
    }
}

fn why(engine: &Engine, flow: &EngineFlow<'_>, now: Micros) -> Vec<String> {
    let mut why = Vec::new();
    if flow.placement == Placement::Datapath && engine.mode() != Mode::Shadow {
        if let Some(refusal) = flow.refusal {
            why.push(format!("It is held back: {refusal}."));
            return why;
        }
        if !engine.status(now).ovs.hw_offload {
            why.push("Open vSwitch does not offload (other_config:hw-offload).".to_owned());
            why.push(match engine.shadow_of(flow.ufid) {
                Some(Err(cannot)) => format!("Mode shadow would place no rule of its own: {cannot}."),
                _ => "Mode shadow could place a rule of its own.".to_owned(),
            });
            return why;
        }
        if let Some(unfit) = flow.unfit {
            why.push(format!(
                "Open vSwitch did not put it into TC, so it cannot be placed; likely since {unfit}."
            ));
        }
        why.push(
            "Open vSwitch did not put it into TC, so it cannot be placed; ovs-vswitchd's log says why at debug \
             level (ovs-appctl vlog/set netdev_offload_tc:dbg tc:dbg)."
                .to_owned(),
        );
        return why;
    }
    if let Some(refusal @ (Refusal::NoChainRestore | Refusal::RecirculationOff | Refusal::MarksConnections)) =
        flow.refusal
    {
        why.push(format!("It is held back: {refusal}."));
    } else if let Some(refusal) = flow.refusal {
        why.push(format!("It was refused: {refusal}."));
    }
    if flow.nic.is_none() {
        why.push("Its port belongs to no NIC that takes rules (ovs-offloadctl port list).".to_owned());
    }
    let Some(explanation) = &flow.explanation else {
        rule_sentences(engine, flow, now, &mut why);
        if flow.placement == Placement::Tc && engine.mode() == Mode::Observe {
            why.push("The daemon observes: placement is left as it is.".to_owned());
            return why;
        }
        if why.is_empty() && flow.placement == Placement::Tc {
            why.push("The daemon observes: placement is left as it is.".to_owned());
        }
        return why;
    };
    let span = |micros: Micros| show_duration(std::time::Duration::from_micros(micros.0));
    let key = |of_rule: bool, key: &str| match (of_rule, flow.decision.and_then(|decision| decision.rule)) {
        (true, Some(rule)) => format!("{key} of {}", rule_name(engine, Some(rule))),
        _ => format!("policy.{key}"),
    };
    let terms = match flow.decision.map(|decision| decision.verdict) {
        Some(Verdict::Auto(terms)) => terms,
        _ => Terms::default(),
    };
    let pinned = is_pinned(flow);
    why.push(match *explanation {
        Explanation::Unknown => "It has not been considered yet.".to_owned(),
        Explanation::Policy(Because::Rule(_) | Because::Default) => "Policy keeps it in software.".to_owned(),
        Explanation::Policy(Because::NotPlaceable) => "It cannot be placed as it is.".to_owned(),
        Explanation::TooYoung { left } => {
            let key = key(terms.min_age.is_some(), "min-age");
            format!("It is too young: in {} it is old enough ({key}).", span(left))
        }
        Explanation::TooSlow { rate, needs } => {
            let key = key(terms.min_rate.is_some(), "min-rate");
            format!("It is too slow: {rate}, an entry needs {needs} ({key}).")
        }
        Explanation::Waiting { rank, of, waiting_for } => {
            let what = match waiting_for {
                WaitingFor::Entry => "a free entry, or one whose flow saves clearly less",
                WaitingFor::Installs => "the install budget (nic.installs-per-s)",
                WaitingFor::Share => {
                    "an entry beyond its tenant's fair share: a free one, or one of the same tenant whose flow saves \
                     clearly less"
                }
                WaitingFor::RuleEntries => "one of the entries its rule may have (max-entries)",
                WaitingFor::RuleInstalls => "its rule's install budget (installs-per-s)",
                WaitingFor::NextPlan => "the next plan",
            };
            format!("It is number {rank} of {of} in line for an entry, and waits for {what}.")
        }
        Explanation::Promoting { since } => format!("It is being promoted since {}.", span(now.since(since))),
        Explanation::Placed { since, resident_for, .. } => {
            let stays = match resident_for {
                Micros::ZERO => String::new(),
                left => format!("; for {} nothing can take its entry", span(left)),
            };
            let how = if pinned { "was given" } else { "earned" };
            format!("It {how} its entry {} ago{stays}.", span(now.since(since)))
        }
        Explanation::Demoting { since } => {
            format!("It is being taken out of hardware since {}.", span(now.since(since)))
        }
        Explanation::Turn { since } => format!(
            "It is given an entry since {}, and promoted when the one before it in its unit is in hardware.",
            span(now.since(since))
        ),
        Explanation::OnTheWay { after } => {
            format!("It leads to others, {after} now, and goes into hardware with the first of them that earns it.")
        }
        Explanation::NoWay => {
            "It gets packets of others only, and no way to it can be in hardware.".to_owned()
        }
        Explanation::BlockedUntil { until, refusals: 0, .. } => {
            format!("It is tried in {}, unless its shape is refused again until then.", span(until.since(now)))
        }
        Explanation::BlockedUntil { until, refusals, .. } => format!(
            "It was refused {refusals} times in a row and is tried again in {}.",
            span(until.since(now))
        ),
    });
    unit_sentences(engine, flow, now, &mut why);
    rule_sentences(engine, flow, now, &mut why);
    why
}

/// What stands in the way of the unit of a flow in software: which part of it, and why.
fn unit_sentences(engine: &Engine, flow: &EngineFlow<'_>, now: Micros, why: &mut Vec<String>) {
    let Some(unit) = engine.unit(flow.ufid).filter(|_| flow.placement != Placement::Hardware) else { return };
    if unit.chain != Chain(0) && unit.before.is_empty() {
        why.push(format!("No flow in TC is known that leads to chain {} and may lead to it.", unit.chain));
    }
    let mut parts = unit.before.iter().chain(&unit.after).filter(|(_, in_hw)| !in_hw);
    let told = parts.find_map(|(ufid, _)| {
        let part = engine.flow(now, *ufid)?;
        let why = match (part.refusal, &part.explanation) {
            (Some(refusal), _) => refusal.to_string(),
            (None, Some(Explanation::Policy(_))) => "policy keeps it in software".to_owned(),
            (None, Some(Explanation::NoWay)) => "no way leads to it".to_owned(),
            _ => return None,
        };
        let what =
            if unit.before.iter().any(|(before, _)| before == ufid) { "leads to it" } else { "follows it" };
        Some(format!("Flow {ufid}, which {what}, is not in hardware: {why}."))
    });
    why.extend(told);
}

fn unit_view(unit: &offload_engine::UnitView) -> UnitView {
    let part = |(ufid, in_hw): &(Ufid, bool)| UnitPart { ufid: ufid.to_string(), in_hardware: *in_hw };
    UnitView {
        chain: unit.chain.0,
        goes_to: unit.goes_to.map(|chain| chain.0),
        before: unit.before.iter().map(part).collect(),
        after: unit.after.iter().map(part).collect(),
        after_count: unit.after_count as u64,
        entries: unit.entries,
    }
}
