//! What follows when a NIC refuses a rule, one fact each: of that rule, and of others of its shape.

use crate::facts::Scene;
use crate::ovs::ufid;
use crate::rule::Rule;
use netlink_wire::{DpPort, Ifindex, Ufid};
use offload_engine::{Answer, Counters, Event, Megaflow, OpId, Placement, Refusal, Replacement, Settings};
use tc_flower::{FilterFlags, ReplaceActions};

/// A megaflow whose rule was refused, by a NIC that refuses each, and what puts it back.
fn just_refused() -> (Scene, Ufid, (OpId, Box<Replacement>)) {
    let mut scene = Scene::new(Counters::Fast);
    let flow = ufid(1);
    scene.kernel.refuses_every = 1;
    scene.ovs.install(&mut scene.kernel, flow, 1);
    let replacement = scene.until_replacement(flow);
    scene.carry_out(replacement);
    let back = scene.take_replacement().expect("it is put back");
    (scene, flow, back)
}

/// The same, and it was put back.
fn refused() -> (Scene, Ufid) {
    let (mut scene, flow, back) = just_refused();
    scene.carry_out(back);
    (scene, flow)
}

#[test]
fn refused_rule_gets_its_skip_hw_back() {
    let (mut scene, _, (op, request)) = just_refused();
    assert_eq!(request.filter.flags, FilterFlags::SKIP_HW);
    assert_eq!(request.actions, ReplaceActions::Kept);
    scene.carry_out((op, request));
    assert!(scene.kernel.filters.values().all(|filter| filter.flags.contains(FilterFlags::SKIP_HW)));
}

#[test]
fn refused_rule_is_left_alone_until_the_configuration_is_read_again() {
    let (mut scene, flow) = refused();
    scene.kernel.refuses_every = 0;
    for _ in 0..20 {
        scene.kernel.packets(flow, 1000);
        scene.epoch();
    }
    assert!(scene.take_replacement().is_none(), "the driver is asked again and again");
    let mut settings = Settings { counters: Counters::Fast, ..Settings::default() };
    settings.planner.min_rate = policies::Rate::PacketsPerSecond(10);
    scene.tell(Event::Settings(Box::new(settings)));
    assert_eq!(scene.engine.flow(scene.now, flow).expect("known").refusal, None);
    let replacement = scene.until_replacement(flow);
    scene.carry_out(replacement);
    assert_eq!(scene.placement(flow), Placement::Hardware);
}

#[test]
fn refused_rule_is_tried_again_when_open_vswitch_changes_it() {
    let (mut scene, flow) = refused();
    scene.kernel.refuses_every = 0;
    scene.ovs.modify(&mut scene.kernel, flow, 2);
    scene.tell_notifications();
    assert_eq!(scene.engine.flow(scene.now, flow).expect("known").refusal, None);
    let replacement = scene.until_replacement(flow);
    scene.carry_out(replacement);
    assert_eq!(scene.placement(flow), Placement::Hardware);
}

#[test]
fn refusal_of_a_rule_that_open_vswitch_has_changed_meanwhile_is_not_held_against_the_new_one() {
    let mut scene = Scene::new(Counters::Fast);
    let flow = ufid(1);
    scene.kernel.refuses_every = 1;
    scene.ovs.install(&mut scene.kernel, flow, 1);
    let (op, request) = scene.until_replacement(flow);
    let address = request.filter.address;
    let before = Box::new(scene.kernel.report(address));
    let result = scene.kernel.replace(op, &request);
    scene.kernel.refuses_every = 0;
    scene.ovs.modify(&mut scene.kernel, flow, 2);
    scene.tell_notifications();
    scene.tell(Event::Answer { op, answer: Answer::Replaced { before: Some(before), result, took: None } });
    assert_eq!(scene.engine.flow(scene.now, flow).expect("known").refusal, None);
    let replacement = scene.until_replacement(flow);
    assert_eq!(Rule::of(&replacement.1.filter).actions, 2);
    scene.carry_out(replacement);
    assert_eq!(scene.placement(flow), Placement::Hardware);
}

#[test]
fn refused_rule_that_open_vswitch_makes_anew_unchanged_stays_refused() {
    let (mut scene, flow) = refused();
    scene.ovs.delete(&mut scene.kernel, flow);
    scene.ovs.install(&mut scene.kernel, flow, 1);
    scene.tell_notifications();
    for _ in 0..10 {
        scene.kernel.packets(flow, 1000);
        scene.epoch();
    }
    assert!(scene.take_replacement().is_none(), "the driver is asked for the same rule again");
}

/// As where ovs-vswitchd is started anew: Open vSwitch's id is of the packet that a megaflow was made for, whose first one floods.
#[test]
fn refused_rule_that_comes_back_from_the_datapath_as_another_is_tried() {
    let (mut scene, flow) = refused();
    scene.kernel.refuses_every = 0;
    scene.ovs.delete(&mut scene.kernel, flow);
    scene.tell_notifications();
    let in_datapath = Box::new(Megaflow {
        ufid: flow,
        dp: Ifindex(3),
        in_port: Some(DpPort(1)),
        needs_chain_restore: false,
        counted: None,
        unfit: None,
        body: None,
    });
    scene.tell(Event::Megaflow { round: None, flow: in_datapath.clone() });
    scene.tell(Event::MegaflowGone(in_datapath));
    scene.ovs.install(&mut scene.kernel, flow, 2);
    scene.tell_notifications();
    let replacement = scene.until_replacement(flow);
    scene.carry_out(replacement);
    assert_eq!(scene.placement(flow), Placement::Hardware);
}

/// Flows of one shape are asked for, all of which the driver refuses, until the shape is the reason. Returns how many that
/// were, and the others of a hundred.
pub(crate) fn until_shape_is_refused(scene: &mut Scene) -> (usize, Vec<Ufid>) {
    scene.kernel.refuses_every = 1;
    let flows: Vec<Ufid> = (1..=100).map(ufid).collect();
    for (asked, &flow) in flows.iter().enumerate() {
        scene.ovs.install(&mut scene.kernel, flow, 1);
        scene.tell_notifications();
        if let Some(Refusal::Shape(_)) = scene.engine.flow(scene.now, flow).expect("known").refusal {
            return (asked, flows[asked..].to_vec());
        }
        let replacement = scene.until_replacement(flow);
        scene.carry_out(replacement);
        let back = scene.take_replacement().expect("it is put back");
        scene.carry_out(back);
    }
    (flows.len(), Vec::new())
}

fn replacements_in(scene: &mut Scene, epochs: u32, flows: &[Ufid]) -> usize {
    let mut asked = 0;
    for _ in 0..epochs {
        for &flow in flows {
            scene.kernel.packets(flow, 1000);
        }
        scene.epoch();
        while let Some((_, request)) = scene.take_replacement() {
            asked += usize::from(request.filter.flags == FilterFlags::VERBOSE);
        }
    }
    asked
}

#[test]
fn rules_of_a_refused_shape_are_not_tried_until_the_configuration_is_read_again() {
    let mut scene = Scene::new(Counters::Fast);
    let (asked, others) = until_shape_is_refused(&mut scene);
    assert_eq!(asked, 3);
    let others = &others[..20];
    for &flow in &others[1..] {
        scene.ovs.install(&mut scene.kernel, flow, 1);
    }
    assert_eq!(replacements_in(&mut scene, 20, others), 0);
    let why =
        scene.engine.flow(scene.now, others[7]).expect("known").refusal.expect("it has a reason").to_string();
    assert!(why.starts_with("not tried, since others of its shape were refused: "), "{why}");
    assert_eq!(scene.engine.nics()[0].tally.refusals, [("driver", 3)].into(), "nobody refused these");
    let mut settings = Settings { counters: Counters::Fast, ..Settings::default() };
    settings.planner.min_rate = policies::Rate::PacketsPerSecond(10);
    scene.tell(Event::Settings(Box::new(settings)));
    assert!(replacements_in(&mut scene, 4, others) > 0);
}

#[test]
fn shape_is_not_blamed_when_the_driver_has_taken_a_rule_of_it() {
    let mut scene = Scene::new(Counters::Fast);
    let taken = ufid(1000);
    scene.ovs.install(&mut scene.kernel, taken, 1);
    let replacement = scene.until_replacement(taken);
    scene.carry_out(replacement);
    assert_eq!(scene.placement(taken), Placement::Hardware);
    assert_eq!(until_shape_is_refused(&mut scene).0, 100);
}

#[test]
fn rule_of_another_shape_is_tried_all_the_same() {
    let mut scene = Scene::new(Counters::Fast);
    let (_, others) = until_shape_is_refused(&mut scene);
    scene.kernel.refuses_every = 0;
    scene.ovs.modify(&mut scene.kernel, others[0], 2);
    scene.tell_notifications();
    let replacement = scene.until_replacement(others[0]);
    scene.carry_out(replacement);
    assert_eq!(scene.placement(others[0]), Placement::Hardware);
}

#[test]
fn one_of_a_refused_shape_is_tried_when_its_time_has_passed_and_the_others_when_it_is_taken() {
    let mut scene = Scene::new(Counters::Fast);
    let (_, others) = until_shape_is_refused(&mut scene);
    let others = &others[..5];
    for &flow in &others[1..] {
        scene.ovs.install(&mut scene.kernel, flow, 1);
    }
    assert_eq!(replacements_in(&mut scene, 20, others), 0);
    scene.now = scene.now.plus(Settings::default().planner.shape_retry_after);
    for &flow in others {
        scene.kernel.packets(flow, 10_000);
    }
    scene.epoch();
    let trial = scene.take_replacement().expect("one is tried");
    assert!(scene.take_replacement().is_none(), "more than one is tried");
    scene.kernel.refuses_every = 0;
    scene.carry_out(trial);
    for _ in 0..20 {
        for &flow in others {
            scene.kernel.packets(flow, 10_000);
        }
        scene.epoch();
        while let Some(replacement) = scene.take_replacement() {
            scene.carry_out(replacement);
        }
    }
    assert!(others.iter().all(|&flow| scene.placement(flow) == Placement::Hardware));
}
