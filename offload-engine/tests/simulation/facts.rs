//! What steer mode does, one fact each, with the simulated kernel and Open vSwitch acting one step at a time.

use crate::kernel::Kernel;
use crate::ovs::{Command, Ovs, ufid};
use crate::rng::Rng;
use crate::rule::{Rule, counted, report};
use crate::surroundings;
use netlink_wire::{Ifindex, Ufid};
use offload_engine::{
    Answer, CommandError, Counters, Effect, Engine, Event, Micros, NicId, Placement, Refusal, Replacement,
    Settings,
};
use std::collections::{BTreeMap, VecDeque};
use tc_flower::{FilterFlags, Location, ReplaceActions};

/// Everything at hand, in steps that a test decides.
pub(crate) struct Scene {
    pub(crate) now: Micros,
    pub(crate) engine: Engine,
    pub(crate) kernel: Kernel,
    pub(crate) ovs: Ovs,
    pub(crate) effects: Vec<Effect>,
}

impl Scene {
    pub(crate) fn new(counters: Counters) -> Self {
        let mut settings = Settings { counters, ..Settings::default() };
        settings.planner.min_rate = policies::Rate::PacketsPerSecond(10);
        let location = Location::ingress(Ifindex(7));
        let kernel = Kernel {
            location,
            filters: BTreeMap::new(),
            notifications: VecDeque::new(),
            buffer: usize::MAX,
            overrun: false,
            entries_max: 10,
            refuses_every: 0,
            units: false,
            missed_in_the_middle: 0,
        };
        let now = Micros::from_secs(10);
        let engine = Engine::new(now, settings);
        let mut scene = Self { now, engine, kernel, ovs: Ovs::default(), effects: Vec::new() };
        for event in surroundings::events(location) {
            scene.tell(event);
        }
        scene
    }

    pub(crate) fn tell(&mut self, event: Event) {
        self.engine.handle(self.now, event, &mut self.effects);
    }

    pub(crate) fn tell_notifications(&mut self) {
        while let Some(event) = self.kernel.notifications.pop_front() {
            self.tell(event);
        }
    }

    /// Time passes, the filters are dumped, and what was planned waits in `effects`.
    pub(crate) fn epoch(&mut self) {
        self.now = self.now.plus(Micros::from_millis(500));
        self.tell_notifications();
        self.tell(Event::Wake);
        for effect in std::mem::take(&mut self.effects) {
            match effect {
                Effect::DumpFilters { round, location, terse } => {
                    let all = self.kernel.filters.clone().into_iter();
                    for (address, filter) in all.filter(|(address, _)| address.location == location) {
                        self.tell(if terse {
                            Event::FilterCounted { round, counters: counted(address, &filter) }
                        } else {
                            Event::FilterDumped { round, report: Box::new(report(address, &filter)) }
                        });
                    }
                    self.tell(Event::FiltersDumped { round, location, complete: true });
                }
                Effect::DumpMegaflows { round } => {
                    self.tell(Event::MegaflowsDumped { round, complete: true })
                }
                other => self.effects.push(other),
            }
        }
    }

    /// Epochs with 1,000 packets each, until something is to be replaced.
    pub(crate) fn until_replacement(&mut self, flow: Ufid) -> (offload_engine::OpId, Box<Replacement>) {
        for _ in 0..10 {
            self.kernel.packets(flow, 1000);
            self.epoch();
            self.run_commands();
            if let Some(replacement) = self.take_replacement() {
                return replacement;
            }
        }
        panic!("nothing was promoted");
    }

    pub(crate) fn take_replacement(&mut self) -> Option<(offload_engine::OpId, Box<Replacement>)> {
        let at = self.effects.iter().position(|effect| matches!(effect, Effect::Replace { .. }))?;
        match self.effects.remove(at) {
            Effect::Replace { op, request, .. } => Some((op, request)),
            _ => None,
        }
    }

    /// ovs-vswitchd's main thread does what it was asked, at once.
    pub(crate) fn run_commands(&mut self) {
        while let Some(at) = self.effects.iter().position(|effect| {
            matches!(effect, Effect::ReadFlow { .. } | Effect::ModifyFlow { .. } | Effect::DeleteFlow { .. })
        }) {
            self.ovs.socket.push_back(match self.effects.remove(at) {
                Effect::ReadFlow { op, ufid } => Command::Read { op: Some(op), ufid },
                Effect::ModifyFlow { op, flow } => Command::Modify { op: Some(op), flow: *flow },
                Effect::DeleteFlow { op, ufid } => Command::Delete { op: Some(op), ufid },
                other => panic!("{other:?} is no command"),
            });
            let answer = self.ovs.run_command(&mut self.kernel, &mut Rng::new(1));
            self.tell_notifications();
            if let Some((op, answer)) = answer {
                self.tell(Event::Answer { op, answer });
            }
        }
    }

    /// The kernel does what it was asked.
    pub(crate) fn carry_out(&mut self, replacement: (offload_engine::OpId, Box<Replacement>)) {
        self.carry_out_in(None, replacement);
    }

    /// The kernel does what it was asked, and takes so long.
    fn carry_out_in(
        &mut self,
        took: Option<Micros>,
        (op, request): (offload_engine::OpId, Box<Replacement>),
    ) {
        let address = request.filter.address;
        let before =
            self.kernel.filters.contains_key(&address).then(|| Box::new(self.kernel.report(address)));
        let result = self.kernel.replace(op, &request);
        self.tell_notifications();
        self.tell(Event::Answer { op, answer: Answer::Replaced { before, result, took } });
    }

    pub(crate) fn placement(&self, flow: Ufid) -> Placement {
        self.engine.flow(self.now, flow).expect("the flow is known").placement
    }

    /// A flow that Open vSwitch installed and the engine put into hardware.
    pub(crate) fn promoted(counters: Counters) -> (Self, Ufid) {
        let mut scene = Self::new(counters);
        let flow = ufid(1);
        scene.ovs.install(&mut scene.kernel, flow, 1);
        let replacement = scene.until_replacement(flow);
        scene.carry_out(replacement);
        assert_eq!(scene.placement(flow), Placement::Hardware);
        (scene, flow)
    }
}

#[test]
fn rule_is_offloaded_only_after_kernel_reports_in_hw() {
    let mut scene = Scene::new(Counters::Fast);
    let flow = ufid(1);
    scene.ovs.install(&mut scene.kernel, flow, 1);
    let (op, request) = scene.until_replacement(flow);
    assert_eq!(scene.placement(flow), Placement::Tc, "asked for is not placed");
    scene.kernel.refuses_every = 1;
    scene.carry_out((op, request));
    assert_eq!(scene.placement(flow), Placement::Tc, "acknowledged is not placed");
    let refusal = scene.engine.flow(scene.now, flow).expect("known").refusal.cloned();
    assert_eq!(refusal, Some(Refusal::Driver("sim: cannot do this".into())));
}

#[test]
fn an_elephant_is_promoted_at_its_first_reading() {
    let mut scene = Scene::new(Counters::Fast);
    let flow = ufid(1);
    scene.ovs.install(&mut scene.kernel, flow, 1);
    scene.tell_notifications();
    scene.kernel.packets(flow, 1000);
    scene.epoch();
    assert!(scene.take_replacement().is_some(), "what it moved since it appeared counts");
}

#[test]
fn promotions_and_refusals_are_counted_for_their_nic() {
    let mut scene = Scene::new(Counters::Fast);
    scene.kernel.refuses_every = 2;
    for flow in [ufid(1), ufid(2)] {
        scene.ovs.install(&mut scene.kernel, flow, 1);
        let replacement = scene.until_replacement(flow);
        scene.carry_out(replacement);
    }
    let nics = scene.engine.nics();
    assert_eq!(nics[0].tally.promotions, 1);
    assert_eq!(nics[0].tally.refusals, [("driver", 1)].into());
}

#[test]
fn installs_per_second_are_learned_from_what_the_driver_took_for_those_it_did() {
    let mut scene = Scene::new(Counters::Fast);
    let mut settings = Settings { counters: Counters::Fast, ..Settings::default() };
    settings.planner.learn_installs = true;
    scene.tell(Event::Settings(Box::new(settings)));
    let allowed = |scene: &Scene| {
        let counts = scene.engine.nics()[0].planner.expect("it steers");
        (counts.installs_per_s, counts.installs_are_learned)
    };
    let flow = ufid(1);
    scene.ovs.install(&mut scene.kernel, flow, 1);
    // In a second the engine hears of one install, and late. It took the driver 5 ms.
    for changed in 0..100 {
        let replacement = scene.until_replacement(flow);
        scene.now = scene.now.plus(Micros::from_millis(900));
        scene.carry_out_in(Some(Micros::from_millis(5)), replacement);
        assert_eq!(scene.placement(flow), Placement::Hardware);
        scene.ovs.modify(&mut scene.kernel, flow, 2 + changed % 2);
        scene.tell_notifications();
    }
    let learned = allowed(&scene);
    assert!((100..=105).contains(&learned.0) && learned.1, "{learned:?}");
    // Neither refusals nor what takes a rule out of the NIC tell how long an install takes.
    scene.kernel.refuses_every = 1;
    let refused = scene.until_replacement(flow);
    scene.carry_out_in(Some(Micros(1)), refused);
    let put_back = scene.take_replacement().expect("it is put back");
    scene.carry_out_in(Some(Micros(1)), put_back);
    assert_eq!(allowed(&scene), learned);
}

#[test]
fn promotion_has_fresh_actions_and_asks_for_the_drivers_words() {
    let mut scene = Scene::new(Counters::Fast);
    let flow = ufid(1);
    scene.ovs.install(&mut scene.kernel, flow, 1);
    let (_, request) = scene.until_replacement(flow);
    assert_eq!(request.filter.flags, FilterFlags::VERBOSE);
    assert_eq!(request.actions, ReplaceActions::Fresh);
    assert_eq!(Rule::of(&request.filter), Rule { ufid: flow, actions: 1 });
}

#[test]
fn flow_that_counted_is_promoted_only_after_open_vswitch_saved_its_counters() {
    let mut scene = Scene::new(Counters::Exact);
    let flow = ufid(1);
    scene.ovs.install(&mut scene.kernel, flow, 1);
    let replacement = scene.until_replacement(flow);
    assert_eq!(scene.kernel.filters.values().map(|filter| filter.software).sum::<u64>(), 0);
    scene.carry_out(replacement);
    assert_eq!(scene.engine.status(scene.now).tally.clean_promotions, 1);
    assert_eq!(scene.engine.status(scene.now).totals.total().packets, {
        let flow = scene.engine.flow(scene.now, flow).expect("known");
        flow.totals.total().packets
    });
}

#[test]
fn flow_that_has_counted_since_it_was_last_read_is_promoted_only_after_its_counters_were_saved() {
    let (mut scene, flow) = Scene::promoted(Counters::Exact);
    let saved = scene.engine.status(scene.now).tally.clean_promotions;
    scene.now = scene.now.plus(Micros::from_secs(3));
    scene.ovs.modify(&mut scene.kernel, flow, 2);
    scene.tell_notifications();
    let asked =
        scene.effects.iter().any(|effect| matches!(effect, Effect::Replace { unless_counted: true, .. }));
    assert!(asked, "it is not replaced whatever it has counted");
    let (op, _) = scene.take_replacement().expect("it is promoted again at once");
    scene.kernel.packets(flow, 5);
    scene.tell(Event::Answer { op, answer: Answer::Counted });
    assert_eq!(scene.placement(flow), Placement::Tc);
    let replacement = scene.until_replacement(flow);
    scene.carry_out(replacement);
    assert_eq!(scene.placement(flow), Placement::Hardware);
    assert_eq!(scene.engine.status(scene.now).tally.clean_promotions, saved + 1);
}

#[test]
fn change_by_open_vswitch_that_undid_a_promotion_is_promoted_again() {
    let (mut scene, flow) = Scene::promoted(Counters::Exact);
    scene.now = scene.now.plus(Micros::from_secs(3));
    scene.ovs.modify(&mut scene.kernel, flow, 2);
    scene.tell_notifications();
    assert_eq!(scene.placement(flow), Placement::Tc);
    assert_eq!(scene.engine.status(scene.now).tally.undone, 1);
    let (op, request) = scene.take_replacement().expect("it is promoted again at once");
    assert_eq!(Rule::of(&request.filter).actions, 2);
    scene.carry_out((op, request));
    assert_eq!(scene.placement(flow), Placement::Hardware);
}

#[test]
fn replacement_that_hits_a_changed_rule_is_put_right_at_once() {
    let mut scene = Scene::new(Counters::Fast);
    let flow = ufid(1);
    scene.ovs.install(&mut scene.kernel, flow, 1);
    let replacement = scene.until_replacement(flow);
    scene.ovs.modify(&mut scene.kernel, flow, 2);
    scene.carry_out(replacement);
    assert_eq!(scene.kernel.filters.values().next().map(|filter| filter.rule.actions), Some(1), "the race");
    let repair = scene.take_replacement().expect("a repair follows");
    scene.carry_out(repair);
    let filter = scene.kernel.filters.values().next().cloned().expect("it is there");
    assert_eq!((filter.rule.actions, filter.flags.contains(FilterFlags::SKIP_HW)), (2, true));
    assert_eq!(scene.engine.status(scene.now).tally.races_repaired, 1);
}

#[test]
fn replacement_told_before_the_rule_it_overwrote_is_put_right() {
    let mut scene = Scene::new(Counters::Fast);
    let flow = ufid(1);
    scene.ovs.install(&mut scene.kernel, flow, 1);
    let (op, request) = scene.until_replacement(flow);
    let before = Some(Box::new(scene.kernel.report(request.filter.address)));
    scene.ovs.modify(&mut scene.kernel, flow, 2);
    let result = scene.kernel.replace(op, &request);
    // Told as gone, ours, made; in truth ours came last.
    let ours = scene.kernel.notifications.pop_back().expect("it is told");
    let made = scene.kernel.notifications.pop_back().expect("it is told");
    scene.kernel.notifications.push_back(ours);
    scene.tell_notifications();
    scene.tell(Event::Answer { op, answer: Answer::Replaced { before, result, took: None } });
    scene.tell(made);
    let repair = scene.take_replacement().expect("a repair follows");
    scene.carry_out(repair);
    let filter = scene.kernel.filters.values().next().cloned().expect("it is there");
    assert_eq!((filter.rule.actions, filter.flags.contains(FilterFlags::SKIP_HW)), (2, true));
}

#[test]
fn return_of_open_vswitch_to_old_actions_stands_where_our_command_came_to_nothing() {
    let mut scene = Scene::new(Counters::Exact);
    let flow = ufid(1);
    scene.ovs.install(&mut scene.kernel, flow, 1);
    let op = (0..10).find_map(|_| {
        scene.kernel.packets(flow, 1000);
        scene.epoch();
        if matches!(scene.effects.first(), Some(Effect::ReadFlow { .. })) {
            let read = scene.effects.remove(0);
            let Effect::ReadFlow { op, ufid } = read else { return None };
            scene.ovs.socket.push_back(Command::Read { op: Some(op), ufid });
            let (op, answer) = scene.ovs.run_command(&mut scene.kernel, &mut Rng::new(1))?;
            scene.tell(Event::Answer { op, answer });
        }
        scene.effects.pop().and_then(|effect| match effect {
            Effect::ModifyFlow { op, .. } => Some(op),
            _ => None,
        })
    });
    let op = op.expect("a clean promotion begins");
    scene.ovs.delete(&mut scene.kernel, flow);
    // Here the command ran: Open vSwitch 3.5 makes nothing of a flow that is not there.
    scene.ovs.install(&mut scene.kernel, flow, 2);
    scene.ovs.modify(&mut scene.kernel, flow, 1);
    scene.tell_notifications();
    scene.tell(Event::Answer { op, answer: Answer::CommandDone(Ok(())) });
    if let Some(repair) = scene.take_replacement() {
        scene.carry_out(repair);
    }
    scene.epoch();
    scene.run_commands();
    let wrong = scene.kernel.filters.values().find(|filter| filter.rule.actions != 1);
    assert!(wrong.is_none(), "Open vSwitch wants actions 1, and TC has {wrong:?}");
}

#[test]
fn rule_that_the_hardware_lost_is_placed_anew_once_and_then_given_up() {
    let (mut scene, flow) = Scene::promoted(Counters::Fast);
    let lose = |scene: &mut Scene| {
        for filter in scene.kernel.filters.values_mut() {
            filter.software += 50;
        }
        scene.epoch();
    };
    lose(&mut scene);
    lose(&mut scene);
    let again = scene.take_replacement().expect("it is placed anew");
    assert_eq!(again.1.filter.flags, FilterFlags::VERBOSE);
    scene.carry_out(again);
    lose(&mut scene);
    lose(&mut scene);
    let back = scene.take_replacement().expect("it is taken back");
    assert_eq!(back.1.filter.flags, FilterFlags::SKIP_HW);
    scene.carry_out(back);
    assert_eq!(scene.engine.flow(scene.now, flow).expect("known").refusal, Some(&Refusal::PassedBy));
}

#[test]
fn flows_in_the_journal_are_decided_afresh_and_nothing_else_is() {
    let (mut scene, flow) = Scene::promoted(Counters::Fast);
    let other = ufid(2);
    scene.ovs.install(&mut scene.kernel, other, 1);
    scene.kernel.notifications.clear();
    let kernel = scene.kernel.clone();
    let mut after = Scene::new(Counters::Fast);
    (after.kernel, after.ovs) = (kernel, scene.ovs.clone());
    after.tell(Event::JournalFound(vec![other]));
    after.epoch();
    after.run_commands();
    assert_eq!(after.placement(flow), Placement::Hardware, "what is in hardware is adopted");
    assert_eq!(
        after.kernel.filters.len(),
        1,
        "the flow of the journal is deleted, for Open vSwitch to decide"
    );
}

#[test]
fn command_whose_answer_was_lost_makes_the_flow_suspect() {
    let mut scene = Scene::new(Counters::Exact);
    let flow = ufid(1);
    scene.ovs.install(&mut scene.kernel, flow, 1);
    let modify = (0..10).find_map(|_| {
        scene.kernel.packets(flow, 1000);
        scene.epoch();
        while let Some(at) = scene.effects.iter().position(|effect| matches!(effect, Effect::ReadFlow { .. }))
        {
            let Effect::ReadFlow { op, ufid } = scene.effects.remove(at) else { continue };
            scene.ovs.socket.push_back(Command::Read { op: Some(op), ufid });
            let (op, answer) = scene.ovs.run_command(&mut scene.kernel, &mut Rng::new(1)).expect("answers");
            scene.tell(Event::Answer { op, answer });
        }
        scene.effects.iter().find_map(|effect| match effect {
            Effect::ModifyFlow { op, .. } => Some(*op),
            _ => None,
        })
    });
    scene.effects.clear();
    let op = modify.expect("a clean promotion began");
    scene.tell(Event::Answer { op, answer: Answer::CommandDone(Err(CommandError::Lost)) });
    scene.epoch();
    let cleared =
        scene.effects.iter().any(|effect| matches!(effect, Effect::DeleteFlow { ufid, .. } if *ufid == flow));
    assert!(cleared, "{:?}", scene.effects);
}

#[test]
fn a_reading_is_awaited_only_while_its_flow_is_there_and_as_it_was() {
    let asked = || {
        let mut scene = Scene::new(Counters::Exact);
        scene.ovs.install(&mut scene.kernel, ufid(1), 1);
        let op = (0..10).find_map(|_| {
            scene.kernel.packets(ufid(1), 1000);
            scene.epoch();
            scene.effects.iter().find_map(|effect| match effect {
                Effect::ReadFlow { op, .. } => Some(*op),
                _ => None,
            })
        });
        let op = op.expect("a clean promotion began");
        assert!(scene.engine.awaits_reading(op));
        (scene, op)
    };
    let (mut scene, op) = asked();
    scene.ovs.delete(&mut scene.kernel, ufid(1));
    scene.now = scene.now.plus(Micros::from_millis(1));
    scene.tell_notifications();
    assert!(!scene.engine.awaits_reading(op), "the flow is gone");
    let (mut scene, op) = asked();
    scene.ovs.modify(&mut scene.kernel, ufid(1), 2);
    scene.now = scene.now.plus(Micros::from_millis(1));
    scene.tell_notifications();
    assert!(!scene.engine.awaits_reading(op), "the flow has changed");
    let (mut scene, op) = asked();
    scene.tell(Event::Answer { op, answer: Answer::FlowRead(Err(CommandError::Lost)) });
    assert!(!scene.engine.awaits_reading(op), "it was answered");
}

#[test]
fn drain_empties_the_hardware_and_keeps_it_empty() {
    let (mut scene, flow) = Scene::promoted(Counters::Fast);
    scene.tell(Event::Drain(true));
    let back = scene.take_replacement().expect("it is taken back");
    scene.carry_out(back);
    for _ in 0..5 {
        scene.kernel.packets(flow, 1000);
        scene.epoch();
    }
    assert_eq!(scene.placement(flow), Placement::Tc);
    assert!(scene.take_replacement().is_none());
}

#[test]
fn one_nic_is_emptied_while_the_others_are_used() {
    let (mut scene, flow) = Scene::promoted(Counters::Fast);
    let nic = scene.engine.nics()[0].facts.id;
    scene.tell(Event::DrainNic { nic: NicId(nic.0 + 1), on: true });
    scene.epoch();
    assert!(scene.take_replacement().is_none(), "it is on another NIC");
    scene.tell(Event::DrainNic { nic, on: true });
    let back = scene.take_replacement().expect("it is taken back");
    scene.carry_out(back);
    for _ in 0..5 {
        scene.kernel.packets(flow, 1000);
        scene.epoch();
    }
    assert_eq!(scene.placement(flow), Placement::Tc);
    assert!(scene.take_replacement().is_none() && scene.engine.nics()[0].draining);
    scene.tell(Event::DrainNic { nic, on: false });
    let again = scene.until_replacement(flow);
    scene.carry_out(again);
    assert_eq!(scene.placement(flow), Placement::Hardware);
}

#[test]
fn what_was_under_way_when_a_nic_began_to_be_emptied_is_taken_back_too() {
    let mut scene = Scene::new(Counters::Fast);
    let flow = ufid(1);
    scene.ovs.install(&mut scene.kernel, flow, 1);
    let under_way = scene.until_replacement(flow);
    let nic = scene.engine.nics()[0].facts.id;
    scene.tell(Event::DrainNic { nic, on: true });
    scene.carry_out(under_way);
    scene.epoch();
    let back = scene.take_replacement().expect("it is taken back");
    scene.carry_out(back);
    assert_eq!(scene.placement(flow), Placement::Tc);
}
