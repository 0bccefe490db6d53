//! What rules do to placement: where they put flows, and that a reload moves only what it must.

use crate::facts::Scene;
use crate::ovs::ufid;
use crate::refusals::until_shape_is_refused;
use netlink_wire::{DpPort, Ifindex, Ufid};
use offload_engine::{
    Counters, Effect, Event, NicId, Orchestrator, Placement, PortFacts, PortKind, Workload,
};
use policies::language::AddressSets;
use policies::planner::{Because, Explanation, WaitingFor};
use policies::rules::{Place, RuleText, Rules};
use policies::tenants::{FOUND_TENANTS_MAX, TenantFrom};
use policies::{RuleId, Weight};
use std::collections::BTreeMap;
use tc_flower::Location;

fn rule(name: &str, condition: &str, place: Place) -> RuleText {
    RuleText { name: name.into(), condition: condition.into(), place, ..RuleText::default() }
}

fn rules(texts: &[RuleText]) -> Event {
    let rules = Rules::compile(texts, Place::Auto, &AddressSets::new()).expect("rules without mistakes");
    Event::Policy(Box::new(rules))
}

/// A scene with ports `out1` to `out3`, which action 1 to 3 of a flow sends its packets to.
fn scene(counters: Counters) -> Scene {
    let mut scene = Scene::new(counters);
    for number in 1..=3 {
        scene.tell(port(number, &format!("out{number}")));
    }
    scene
}

fn port(number: u32, name: &str) -> Event {
    Event::Port(Box::new(PortFacts {
        name: name.into(),
        ifindex: Ifindex(number),
        location: Location::ingress(Ifindex(number)),
        dp_port: Some(DpPort(number)),
        dp: Some(Ifindex(3)),
        bridge: "br0".into(),
        iface_id: None,
        workload: None,
        kind: PortKind::Representor,
        tunnel_kind: None,
        tunnel_port: None,
        nic: Some(NicId(0)),
        hw_tc_offload: true,
    }))
}

impl Scene {
    fn install(&mut self, flows: std::ops::RangeInclusive<u64>, actions: u16) {
        for flow in flows {
            self.ovs.install(&mut self.kernel, ufid(flow), actions);
        }
    }

    /// Epochs in which every flow moves packets and the kernel does at once what it is asked. Returns how many times each
    /// filter was replaced.
    fn run(&mut self, epochs: u32) -> BTreeMap<Ufid, u32> {
        let mut replaced = BTreeMap::new();
        for _ in 0..epochs {
            let flows: Vec<Ufid> = self.kernel.filters.values().map(|filter| filter.rule.ufid).collect();
            for flow in flows {
                self.kernel.packets(flow, 1000);
            }
            self.epoch();
            self.carry_out_all(&mut replaced);
        }
        replaced
    }

    fn carry_out_all(&mut self, replaced: &mut BTreeMap<Ufid, u32>) {
        loop {
            self.run_commands();
            let Some((op, request)) = self.take_replacement() else { return };
            *replaced.entry(request.filter.ufid().expect("every rule has one")).or_default() += 1;
            self.carry_out((op, request));
        }
    }

    /// Reloads rules, and tells which filters that replaced.
    fn reload(&mut self, texts: &[RuleText]) -> BTreeMap<Ufid, u32> {
        let mut replaced = BTreeMap::new();
        self.tell(rules(texts));
        self.carry_out_all(&mut replaced);
        replaced
    }

    fn in_hardware(&self) -> Vec<Ufid> {
        let flows = self.engine.flows(self.now);
        flows.filter(|flow| flow.placement == Placement::Hardware).map(|flow| flow.ufid).collect()
    }
}

#[test]
fn a_rule_keeps_its_flows_in_software_and_the_reason_names_it() {
    let mut scene = scene(Counters::Fast);
    scene.tell(rules(&[rule("not out2", r#"outport == "out2""#, Place::Software)]));
    scene.install(1..=2, 1);
    scene.install(3..=4, 2);
    scene.run(8);
    assert_eq!(scene.in_hardware(), [ufid(1), ufid(2)]);
    let flow = scene.engine.flow(scene.now, ufid(3)).expect("known");
    assert_eq!(flow.explanation, Some(Explanation::Policy(Because::Rule(RuleId(0)))));
    let why = scene.engine.trace_rules(scene.now, ufid(3), |trace| trace.asked[0].to_string());
    assert_eq!(
        why.as_deref(),
        Some("rule 1 \"not out2\" matches\n  always     outport == \"out2\": outport is \"out2\"")
    );
}

#[test]
fn a_reload_moves_just_the_flows_that_the_rules_say_otherwise_of() {
    for counters in [Counters::Fast, Counters::Exact] {
        let mut scene = scene(counters);
        let not = |port: &str| rule("not there", &format!("outport == \"{port}\""), Place::Software);
        let rest =
            RuleText { weight: Some(Weight::from_thousandths(2_000)), ..rule("rest", "1", Place::Auto) };
        scene.tell(rules(&[not("out2"), rest.clone()]));
        scene.install(1..=3, 1);
        scene.install(4..=4, 2);
        scene.install(5..=5, 3);
        scene.run(12);
        assert_eq!(scene.in_hardware(), [1, 2, 3, 5].map(ufid));

        // Two flows change sides; the others have another number of the same rule, and stay where they are.
        let before = rule("nothing to see", "arp", Place::Hardware);
        let mut replaced = scene.reload(&[before.clone(), not("out3"), rest.clone()]);
        assert_eq!(scene.placement(ufid(5)), Placement::Tc, "it leaves at once");
        replaced.append(&mut scene.run(12));
        assert_eq!(replaced, [(ufid(4), 1), (ufid(5), 1)].into());
        assert_eq!(scene.in_hardware(), [1, 2, 3, 4].map(ufid));

        // The same rules once more, and in other words: nothing moves.
        assert_eq!(scene.reload(&[before, not("out3"), rest]), BTreeMap::new());
        assert_eq!(
            scene.reload(&[rule("other words", r#"!(outport != "out3")"#, Place::Software)]),
            BTreeMap::new()
        );
        assert_eq!(scene.run(12), BTreeMap::new());
    }
}

#[test]
fn a_flow_that_is_changed_to_what_a_rule_keeps_in_software_is_not_placed_again() {
    let mut scene = scene(Counters::Fast);
    scene.tell(rules(&[rule("not out2", r#"outport == "out2""#, Place::Software)]));
    scene.install(1..=1, 1);
    scene.run(8);
    assert_eq!(scene.in_hardware(), [ufid(1)]);
    scene.now = scene.now.plus(policies::Micros::from_secs(5));
    scene.ovs.modify(&mut scene.kernel, ufid(1), 2);
    assert_eq!(scene.run(12), BTreeMap::new());
    assert_eq!(scene.placement(ufid(1)), Placement::Tc);
    scene.ovs.modify(&mut scene.kernel, ufid(1), 3);
    scene.run(12);
    assert_eq!(scene.in_hardware(), [ufid(1)]);
}

#[test]
fn a_rule_that_pins_places_slow_flows_ahead_of_fast_ones() {
    let mut scene = scene(Counters::Fast);
    scene.kernel.entries_max = 2;
    scene.tell(rules(&[rule("gold", r#"outport == "out3""#, Place::Hardware)]));
    scene.install(1..=4, 1);
    scene.run(12);
    assert_eq!(scene.in_hardware().len(), 2);
    scene.install(10..=11, 3);
    let mut replaced = BTreeMap::new();
    for _ in 0..40 {
        scene.epoch();
        scene.carry_out_all(&mut replaced);
    }
    assert_eq!(scene.in_hardware(), [ufid(10), ufid(11)], "without a packet of theirs");
}

#[test]
fn a_limit_holds_and_is_the_reason_that_is_told() {
    let mut scene = scene(Counters::Fast);
    let limited = RuleText { max_entries: Some(2), ..rule("few", r#"outport == "out1""#, Place::Auto) };
    scene.tell(rules(&[limited]));
    scene.install(1..=4, 1);
    scene.install(5..=6, 2);
    scene.run(12);
    assert_eq!(scene.in_hardware().len(), 4);
    let told = scene.engine.flows(scene.now).filter(|flow| {
        matches!(flow.explanation, Some(Explanation::Waiting { waiting_for: WaitingFor::RuleEntries, .. }))
    });
    assert_eq!(told.count(), 2);
    let views = scene.engine.rule_views();
    let counts: Vec<_> =
        views.iter().map(|view| (view.flows, view.in_hardware, view.tally.decided)).collect();
    assert_eq!(counts, [(4, 2, 4), (2, 2, 2)]);
    assert!(views[0].tally.moved.total().packets > 0);
}

/// The port, leading to a workload of that namespace.
fn port_of(number: u32, namespace: &str) -> Event {
    let Event::Port(mut facts) = port(number, &format!("out{number}")) else { panic!("a port") };
    facts.workload = Some(Workload {
        orchestrator: Orchestrator::KubeOvn,
        name: "pod".into(),
        namespace: Some(namespace.into()),
        tenant: None,
        logical_switch: None,
    });
    Event::Port(facts)
}

#[test]
fn namespaces_share_a_table_fairly_however_fast_the_flows_of_one_are() {
    let mut scene = scene(Counters::Fast);
    scene.tell(port_of(1, "greedy"));
    scene.tell(port_of(2, "modest"));
    scene.kernel.entries_max = 4;
    let each = RuleText { tenant_from: Some(TenantFrom::Namespace), ..rule("shares", "1", Place::Auto) };
    scene.tell(rules(&[each]));
    scene.install(1..=8, 1);
    scene.run(8);
    assert_eq!(scene.in_hardware().len(), 4, "nobody else wants any");
    scene.install(10..=11, 2);
    let mut replaced = BTreeMap::new();
    for _ in 0..24 {
        for flow in 1..=8 {
            scene.kernel.packets(ufid(flow), 5_000);
        }
        for flow in 10..=11 {
            scene.kernel.packets(ufid(flow), 500);
        }
        scene.epoch();
        scene.carry_out_all(&mut replaced);
    }
    let placed = scene.in_hardware();
    assert_eq!(placed.len(), 4);
    assert!([10, 11].iter().all(|flow| placed.contains(&ufid(*flow))), "the share of the modest: {placed:?}");
    let flow = scene.engine.flow(scene.now, ufid(10)).expect("known");
    let tenant = flow.decision.map(|decision| decision.tenant).unwrap_or_default();
    assert_eq!(scene.engine.tenant(tenant), Some("modest"));
}

#[test]
fn a_namespace_whose_flows_are_gone_makes_room_for_another() {
    let mut scene = scene(Counters::Fast);
    let each = RuleText { tenant_from: Some(TenantFrom::Namespace), ..rule("shares", "1", Place::Auto) };
    scene.tell(rules(&[each]));
    scene.install(1..=1, 1);
    scene.run(2);
    let tenant = |scene: &Scene| {
        let flow = scene.engine.flow(scene.now, ufid(1)).expect("known");
        let tenant = flow.decision.expect("the rules were asked").tenant;
        scene.engine.tenant(tenant).unwrap_or_default().to_owned()
    };
    for number in 0..FOUND_TENANTS_MAX {
        scene.tell(port_of(1, &format!("ns-{number}")));
    }
    assert_eq!(tenant(&scene), format!("ns-{}", FOUND_TENANTS_MAX - 1), "each was told apart");
    scene.now = scene.now.plus(policies::Micros::from_secs(2));
    scene.tell(port_of(1, "one more"));
    assert_eq!(tenant(&scene), "one more", "those before have nothing any more");
}

#[test]
fn rules_that_ask_for_rate_are_asked_again() {
    let mut scene = scene(Counters::Fast);
    scene.tell(rules(&[
        rule("fast", r#"rate > "1 kpkt/s""#, Place::Hardware),
        rule("rest", "1", Place::Software),
    ]));
    scene.install(1..=2, 1);
    for _ in 0..4 {
        scene.kernel.packets(ufid(1), 5_000);
        scene.kernel.packets(ufid(2), 10);
        scene.epoch();
        scene.carry_out_all(&mut BTreeMap::new());
    }
    assert_eq!(scene.in_hardware(), [ufid(1)]);
    for _ in 0..2 {
        scene.epoch();
        scene.carry_out_all(&mut BTreeMap::new());
    }
    assert_eq!(scene.in_hardware(), []);
}

#[test]
fn a_described_flow_is_judged_as_the_live_one_with_ports_by_name_or_number() {
    let mut scene = scene(Counters::Fast);
    scene.tell(rules(&[rule("not out2", r#"outport == "out2" && outport.iface_id == """#, Place::Software)]));
    for text in
        ["in_port(1),eth_type(0x0800), packets:0, actions:2", "in_port(out1),eth_type(0x0800),actions:out2"]
    {
        let sketch = offload_engine::odp::parse(text).expect("a megaflow");
        let decided = scene.engine.trace_rules_of(&sketch, |trace| trace.rule);
        assert_eq!(decided, Some(RuleId(0)), "{text}");
    }
    let sketch = policies::language::Sketch::parse("tcp, outport=out2").expect("a description");
    assert_eq!(scene.engine.trace_rules_of(&sketch, |trace| trace.rule), Some(RuleId(0)));
}

#[test]
fn a_port_that_gets_another_name_has_its_flows_judged_anew() {
    let mut scene = scene(Counters::Fast);
    scene.tell(rules(&[rule("quiet", r#"outport == "quiet*" || inport == "quiet*""#, Place::Software)]));
    scene.install(1..=1, 1);
    scene.install(2..=2, 2);
    scene.run(8);
    assert_eq!(scene.in_hardware().len(), 2);
    scene.tell(port(2, "quiet2"));
    assert!(!scene.effects.iter().any(Effect::changes_something), "the next plan does it");
    scene.run(4);
    assert_eq!(scene.in_hardware(), [ufid(1)]);
}

#[test]
fn megaflow_kept_in_software_by_policy_has_that_for_its_reason_whatever_its_shape() {
    let mut scene = Scene::new(Counters::Fast);
    let (_, others) = until_shape_is_refused(&mut scene);
    let software =
        Rules::compile(&[], Place::Software, &AddressSets::new()).expect("no rules have no mistakes");
    scene.tell(Event::Policy(Box::new(software)));
    scene.ovs.install(&mut scene.kernel, others[1], 1);
    scene.tell_notifications();
    let flow = scene.engine.flow(scene.now, others[1]).expect("known");
    assert_eq!(flow.refusal, None);
    assert_eq!(flow.explanation, Some(Explanation::Policy(Because::Default)));
}
