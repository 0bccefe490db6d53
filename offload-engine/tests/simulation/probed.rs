//! What a probe saw a driver refuse, and what becomes of rules that contain it.

use crate::facts::Scene;
use crate::ovs::ufid;
use crate::rule::report;
use netlink_wire::{EtherType, Ifindex, Ufid};
use offload_engine::{
    Counters, Event, NicId, Placement, PortFacts, PortKind, ProbedRefusal, Refusal, Settings,
};
use tc_flower::{Action, Location, Match, Parts};

/// The action of the rule that Open vSwitch installs of a flow, taken from what the kernel would report of it.
fn actions(scene: &Scene) -> Vec<Action> {
    let (address, filter) = scene.kernel.filters.iter().next().expect("a rule is there");
    report(*address, filter).actions.into_iter().map(|report| report.action).collect()
}

fn refusal(scene: &Scene) -> ProbedRefusal {
    ProbedRefusal {
        nic: NicId(0),
        at: PortKind::Representor,
        toward: None,
        parts: Parts::of_actions(&actions(scene)),
        what: "output".into(),
        why: "sim: no output".into(),
    }
}

/// A flow that would be promoted at its next reading.
fn scene() -> (Scene, Ufid) {
    let mut scene = Scene::new(Counters::Fast);
    let flow = ufid(1);
    scene.ovs.install(&mut scene.kernel, flow, 1);
    scene.tell_notifications();
    (scene, flow)
}

fn is_tried(scene: &mut Scene, flow: Ufid) -> bool {
    for _ in 0..5 {
        scene.kernel.packets(flow, 1000);
        scene.epoch();
        scene.run_commands();
    }
    scene.take_replacement().is_some()
}

fn reason(scene: &Scene, flow: Ufid) -> Option<String> {
    scene.engine.flow(scene.now, flow).expect("known").refusal.map(ToString::to_string)
}

#[test]
fn rule_with_a_part_that_a_probe_saw_refused_is_not_tried_and_tells_so() {
    let (mut scene, flow) = scene();
    let seen = refusal(&scene);
    scene.tell(Event::Probed(vec![seen]));
    assert!(!is_tried(&mut scene, flow), "the driver is asked what it was seen to refuse");
    let why = reason(&scene, flow);
    assert_eq!(why.as_deref(), Some("not tried, since a probe saw the driver refuse output: sim: no output"));
    // One that comes later is told the same before it is read once.
    let later = ufid(2);
    scene.ovs.install(&mut scene.kernel, later, 2);
    scene.tell_notifications();
    assert!(matches!(scene.engine.flow(scene.now, later).expect("known").refusal, Some(Refusal::Probed(_))));
}

#[test]
fn rule_that_lacks_a_part_of_what_was_refused_is_tried() {
    let (mut scene, flow) = scene();
    let mut seen = refusal(&scene);
    let tagged =
        Match { vlan: tc_flower::keys::Vlan { id: Some(7), ..Default::default() }, ..Match::default() };
    seen.parts = Parts::of_match(EtherType::VLAN, &tagged);
    scene.tell(Event::Probed(vec![seen]));
    assert!(is_tried(&mut scene, flow));
}

#[test]
fn what_was_refused_elsewhere_keeps_nothing_back() {
    let elsewhere: [fn(&mut ProbedRefusal); 4] = [
        |refusal| refusal.nic = NicId(1),
        |refusal| refusal.at = PortKind::Uplink,
        // The rule's output is no port that is known.
        |refusal| refusal.toward = Some(PortKind::Uplink),
        |refusal| refusal.parts = Parts::default(),
    ];
    for (number, change) in elsewhere.into_iter().enumerate() {
        let (mut scene, flow) = scene();
        let mut seen = refusal(&scene);
        change(&mut seen);
        scene.tell(Event::Probed(vec![seen]));
        assert!(is_tried(&mut scene, flow), "change {number}");
    }
}

#[test]
fn refused_toward_one_kind_of_port_is_refused_toward_all_of_that_kind() {
    let (mut scene, flow) = scene();
    scene.tell(Event::Port(Box::new(PortFacts {
        name: "uplink".into(),
        ifindex: Ifindex(1),
        location: Location::ingress(Ifindex(1)),
        dp_port: None,
        dp: None,
        bridge: "br0".into(),
        iface_id: None,
        workload: None,
        kind: PortKind::Uplink,
        tunnel_kind: None,
        tunnel_port: None,
        nic: Some(NicId(0)),
        hw_tc_offload: true,
    })));
    let seen = ProbedRefusal { toward: Some(PortKind::Uplink), ..refusal(&scene) };
    scene.tell(Event::Probed(vec![seen]));
    assert!(!is_tried(&mut scene, flow));
}

#[test]
fn rule_is_tried_again_when_another_probe_saw_it_taken_and_when_the_nic_was_reset() {
    for event in [Event::Probed(Vec::new()), Event::NicReset(NicId(0))] {
        let (mut scene, flow) = scene();
        let seen = refusal(&scene);
        scene.tell(Event::Probed(vec![seen]));
        assert!(!is_tried(&mut scene, flow));
        scene.tell(event);
        assert_eq!(reason(&scene, flow), None);
        assert!(is_tried(&mut scene, flow));
    }
}

#[test]
fn what_a_probe_saw_outlives_new_settings_and_passing_time() {
    let (mut scene, flow) = scene();
    let seen = refusal(&scene);
    scene.tell(Event::Probed(vec![seen]));
    let mut settings = Settings { counters: Counters::Fast, ..Settings::default() };
    settings.planner.min_rate = policies::Rate::PacketsPerSecond(10);
    scene.tell(Event::Settings(Box::new(settings)));
    assert!(!is_tried(&mut scene, flow));
    scene.now = scene.now.plus(settings.planner.shape_retry_after);
    assert!(!is_tried(&mut scene, flow), "time changes no driver");
    assert!(reason(&scene, flow).is_some());
}

#[test]
fn rule_in_hardware_stays_there_whatever_a_probe_saw() {
    let (mut scene, flow) = Scene::promoted(Counters::Fast);
    let seen = refusal(&scene);
    scene.tell(Event::Probed(vec![seen]));
    scene.kernel.packets(flow, 1000);
    scene.epoch();
    assert_eq!(scene.placement(flow), Placement::Hardware);
    assert_eq!(reason(&scene, flow), None);
}
