//! One schedule: engine, Open vSwitch, kernel and wire take turns in an order drawn from the seed.

use crate::kernel::Kernel;
use crate::ovs::{Command, Ovs, ufid};
use crate::rng::Rng;
use crate::rule::{Rule, counted, report};
use crate::surroundings;
use netlink_wire::{Ifindex, Ufid};
use offload_engine::{
    Answer, Counters, Effect, Engine, Event, Micros, ModeWanted, OpId, Replacement, Settings, Traffic,
};
use policies::language::AddressSets;
use policies::rules::{Place, RuleText, Rules};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use tc_flower::{FilterFlags, FilterReport, Location};

pub(crate) const FLOWS: u64 = 12;

/// What a schedule is drawn from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) steps: u32,
    pub(crate) counters: Counters,
    pub(crate) crashes: bool,
    pub(crate) overruns: bool,
    pub(crate) resurrects: bool,
    pub(crate) reloads: bool,
    /// Megaflows are joined by recirculation.
    pub(crate) units: bool,
}

pub(crate) struct Run {
    rng: Rng,
    plan: Plan,
    /// `OFFLOAD_TRACE` is set: say everything that happens.
    traced: bool,
    pub(crate) now: Micros,
    pub(crate) engine: Engine,
    pub(crate) kernel: Kernel,
    pub(crate) ovs: Ovs,
    /// Requests on the netlink socket, in order.
    requests: VecDeque<(OpId, Box<Replacement>, bool)>,
    /// Dump messages not delivered yet.
    dumps: VecDeque<Event>,
    /// Answers that wait behind the notifications that were queued before them.
    answers: VecDeque<Event>,
    journal: Vec<Ufid>,
    fx: Vec<Effect>,
    last_totals: Traffic,
    pub(crate) sent: BTreeMap<Ufid, u64>,
    /// What an engine that has died had counted.
    pub(crate) exact: bool,
    /// Flows that may be cleared: they were in a journal or in flight at an overrun.
    may_clear: BTreeSet<Ufid>,
}

pub(crate) fn settings(counters: Counters) -> Settings {
    let mut settings = Settings { counters, mode: ModeWanted::Auto, ..Settings::default() };
    settings.epoch = Micros::from_millis(100);
    settings.settle = Micros::from_millis(50);
    settings.planner.min_rate = policies::Rate::PacketsPerSecond(1);
    settings.planner.min_age = Micros::from_millis(1);
    settings.planner.retry_after = Micros::from_millis(200);
    settings
}

impl Run {
    pub(crate) fn new(plan: Plan) -> Self {
        let mut rng = Rng::new(plan.seed);
        let location = Location::ingress(Ifindex(7));
        let kernel = Kernel {
            location,
            filters: BTreeMap::new(),
            notifications: VecDeque::new(),
            buffer: if plan.overruns { 6 } else { usize::MAX },
            overrun: false,
            entries_max: if rng.one_in(2) { 4 } else { 1000 },
            refuses_every: if rng.one_in(3) { 5 } else { 0 },
            units: plan.units,
            missed_in_the_middle: 0,
        };
        let now = Micros::from_secs(100);
        let engine = Engine::new(now, settings(plan.counters));
        let mut run = Self {
            rng,
            plan,
            traced: std::env::var_os("OFFLOAD_TRACE").is_some(),
            now,
            engine,
            kernel,
            ovs: Ovs { resurrects: plan.resurrects, ..Ovs::default() },
            requests: VecDeque::new(),
            dumps: VecDeque::new(),
            answers: VecDeque::new(),
            journal: Vec::new(),
            fx: Vec::new(),
            last_totals: Traffic::default(),
            sent: BTreeMap::new(),
            exact: true,
            may_clear: BTreeSet::new(),
        };
        run.start();
        run
    }

    /// Tells a new engine what a daemon tells it when it starts.
    fn start(&mut self) {
        self.event(Event::JournalFound(self.journal.clone()));
        self.event(Event::ChainRestore(offload_engine::ChainRestore::Works));
        for event in surroundings::events(self.kernel.location) {
            self.event(event);
        }
    }

    fn event(&mut self, event: Event) {
        let mut fx = std::mem::take(&mut self.fx);
        if self.traced {
            eprintln!("{} {}", self.now.0, brief(&event));
        }
        self.engine.handle(self.now, event, &mut fx);
        let totals = self.engine.status(self.now).totals;
        assert!(totals.software.packets >= self.last_totals.software.packets, "software total fell");
        assert!(totals.hardware.packets >= self.last_totals.hardware.packets, "hardware total fell");
        if self.traced && totals != self.last_totals {
            eprintln!("  counted {} packets more", totals.since(self.last_totals).total().packets);
        }
        self.last_totals = totals;
        for effect in fx.drain(..) {
            self.carry_out(effect);
        }
        self.fx = fx;
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::DumpFilters { round, location, terse } => self.dump(round, location, terse),
            Effect::DumpMegaflows { round } => {
                self.dumps.push_back(Event::MegaflowsDumped { round, complete: true });
            }
            Effect::Replace { op, request, unless_counted } => {
                if self.plan.units {
                    crate::units::check_order(&self.engine, self.now, &request);
                }
                self.requests.push_back((op, request, unless_counted));
            }
            Effect::ReadFlow { op, ufid } => self.ovs.socket.push_back(Command::Read { op: Some(op), ufid }),
            Effect::ModifyFlow { op, flow } => {
                assert!(self.journal.contains(&flow.ufid), "mod-flow of a flow that is not in the journal");
                self.ovs.socket.push_back(Command::Modify { op: Some(op), flow: *flow });
            }
            Effect::DeleteFlow { op, ufid } => {
                if self.plan.crashes && !self.plan.overruns && self.plan.counters == Counters::Fast {
                    assert!(self.may_clear.contains(&ufid), "cleared a flow that nothing was under way for");
                }
                self.ovs.socket.push_back(Command::Delete { op: Some(op), ufid });
            }
            Effect::DeleteFilter { op, address } => {
                let found = self.kernel.delete_for(op, address);
                self.answers.push_back(Event::Answer { op, answer: Answer::FilterDeleted(found) });
            }
            Effect::AddFilter { .. } => panic!("steer mode makes no filter"),
            Effect::TookOver { .. } => panic!("steer mode takes no rules over"),
            Effect::Detrace { .. } => panic!("Open vSwitch sees what steer mode moves"),
            Effect::Shed { .. } => panic!("steer mode sheds no port"),
            Effect::Journal(flows) => self.journal = flows,
        }
    }

    fn dump(&mut self, round: offload_engine::Round, location: Location, terse: bool) {
        for (address, filter) in &self.kernel.filters {
            self.dumps.push_back(if terse {
                Event::FilterCounted { round, counters: counted(*address, filter) }
            } else {
                Event::FilterDumped { round, report: Box::new(report(*address, filter)) }
            });
        }
        self.dumps.push_back(Event::FiltersDumped { round, location, complete: true });
    }

    /// One turn of somebody.
    pub(crate) fn step(&mut self) {
        self.now = self.now.plus(Micros(self.rng.below(4000)));
        match self.rng.below(16) {
            0..3 => self.open_vswitch(),
            3..6 => self.wire(),
            6..8 => self.kernel_request(),
            8..10 => self.main_thread(),
            10..12 => self.deliver_notification(),
            12..14 => self.deliver_dump(),
            14 => self.deliver_answer(),
            _ if self.plan.crashes && self.rng.one_in(12) => self.crash(),
            _ if self.plan.reloads && self.rng.one_in(6) => self.reload(),
            _ => self.wake(),
        }
    }

    fn flow(&mut self) -> Ufid {
        ufid(1 + self.rng.below(FLOWS))
    }

    fn open_vswitch(&mut self) {
        let flow = self.flow();
        let actions = 1 + u16::try_from(self.rng.below(3)).expect("small");
        match self.rng.below(10) {
            0..4 => self.ovs.install(&mut self.kernel, flow, actions),
            4..7 => self.ovs.modify(&mut self.kernel, flow, actions),
            7..9 => self.ovs.delete(&mut self.kernel, flow),
            _ => self.ovs.revalidate(&mut self.kernel),
        }
    }

    fn wire(&mut self) {
        let packets = 1 + self.rng.below(200);
        if self.plan.units {
            let way = crate::units::way(&mut self.rng);
            for flow in self.kernel.packets_through(&way, packets) {
                *self.sent.entry(flow).or_default() += packets;
            }
            return;
        }
        let flow = self.flow();
        if self.kernel.packets(flow, packets) {
            *self.sent.entry(flow).or_default() += packets;
            if self.traced {
                eprintln!("  wire {flow} {packets}");
            }
        }
    }

    /// The kernel carries out the next request: read, then replace, in one batch where that has no condition.
    fn kernel_request(&mut self) {
        let Some((op, request, unless_counted)) = self.requests.pop_front() else { return };
        let address = request.filter.address;
        let before =
            self.kernel.filters.contains_key(&address).then(|| Box::new(self.kernel.report(address)));
        if self.is_left(op, unless_counted, before.as_deref()) {
            return;
        }
        let told = self.kernel.notifications.len();
        if self.rng.one_in(20) {
            self.open_vswitch();
        }
        let lost = self.lost_between(&before, address);
        let theirs = self.kernel.notifications.len() - told;
        let result = self.kernel.replace(op, &request);
        if lost {
            self.exact = false;
        }
        if result.is_ok() && !self.kernel.overrun {
            self.tell_out_of_order(theirs);
        }
        self.answers.push_back(Event::Answer { op, answer: Answer::Replaced { before, result, took: None } });
    }

    /// Whether a filter stays as it is since it has counted, which is then answered.
    fn is_left(&mut self, op: OpId, unless_counted: bool, before: Option<&FilterReport>) -> bool {
        let is_left = unless_counted && before.is_some_and(FilterReport::has_counted);
        if is_left {
            self.answers.push_back(Event::Answer { op, answer: Answer::Counted });
        }
        is_left
    }

    /// flower changes filters under a lock, and tells of them under none: a replacement, told last just now, may be told
    /// before the last of the changes that Open vSwitch made just before it (`theirs` of them), and after those that it
    /// makes right afterwards.
    fn tell_out_of_order(&mut self, theirs: usize) {
        let ours = self.kernel.notifications.len() - 1;
        if theirs > 0 && self.rng.one_in(2) {
            self.kernel.notifications.swap(ours, ours - 1);
            self.exact = false;
        } else if self.rng.one_in(20) {
            self.open_vswitch();
            let theirs = self.kernel.notifications.len() - 1 - ours;
            if let Some(replacement) = self.kernel.notifications.remove(ours) {
                let late = self.rng.below(theirs as u64 + 1);
                self.kernel.notifications.insert(ours + usize::try_from(late).expect("few"), replacement);
                self.exact = false;
            }
        }
    }

    /// Whether the filter at `address` is another one than a moment before: its counters go unread.
    fn lost_between(
        &self,
        before: &Option<Box<tc_flower::FilterReport>>,
        address: tc_flower::FilterAddress,
    ) -> bool {
        let now = self.kernel.filters.contains_key(&address).then(|| self.kernel.report(address));
        now.as_ref() != before.as_deref()
    }

    fn main_thread(&mut self) {
        if let Some((op, answer)) = self.ovs.run_command(&mut self.kernel, &mut self.rng) {
            self.answers.push_back(Event::Answer { op, answer });
        }
    }

    fn deliver_notification(&mut self) {
        if let Some(event) = self.kernel.notifications.pop_front() {
            self.event(event);
        } else if std::mem::take(&mut self.kernel.overrun) {
            self.exact = false;
            self.event(Event::TcOverrun);
        }
    }

    fn deliver_dump(&mut self) {
        self.deliver_notifications();
        for _ in 0..1 + self.rng.below(6) {
            let Some(event) = self.dumps.pop_front() else { return };
            self.event(event);
        }
    }

    /// Answers come behind every notification that was queued before them.
    fn deliver_answer(&mut self) {
        let Some(answer) = self.answers.pop_front() else { return };
        self.deliver_notifications();
        self.event(answer);
    }

    fn deliver_notifications(&mut self) {
        while !self.kernel.notifications.is_empty() || self.kernel.overrun {
            self.deliver_notification();
        }
    }

    /// The operator puts other rules in force: everything to software, the old ones pinned, the fast ones kept out, or
    /// none.
    fn reload(&mut self) {
        let (condition, place, max_entries) = match self.rng.below(5) {
            0 => ("1", Place::Software, None),
            1 => (r#"age > "20 ms""#, Place::Hardware, None),
            2 => (r#"rate > "5 kpkt/s""#, Place::Software, None),
            3 => ("1", Place::Auto, Some(2)),
            _ => ("0", Place::Auto, None),
        };
        let text = RuleText {
            name: "only".into(),
            condition: condition.into(),
            place,
            max_entries,
            ..RuleText::default()
        };
        let rules =
            Rules::compile(&[text], Place::Auto, &AddressSets::new()).expect("a rule without mistakes");
        self.event(Event::Policy(Box::new(rules)));
    }

    fn wake(&mut self) {
        if self.now >= self.engine.wake_at() {
            self.event(Event::Wake);
        }
    }

    /// The daemon is killed and started again. What it had sent is carried out all the same, or is not.
    fn crash(&mut self) {
        self.exact = false;
        while self.rng.one_in(2) && !self.requests.is_empty() {
            self.kernel_request();
        }
        self.requests.clear();
        self.dumps.clear();
        self.answers.clear();
        self.kernel.notifications.clear();
        self.kernel.overrun = false;
        for command in &mut self.ovs.socket {
            let (Command::Read { op, .. } | Command::Modify { op, .. } | Command::Delete { op, .. }) =
                command;
            *op = None;
        }
        self.may_clear.extend(self.journal.iter().copied());
        self.last_totals = Traffic::default();
        self.engine = Engine::new(self.now, settings(self.plan.counters));
        self.start();
    }

    /// Nothing new happens any more; everything under way comes to its end.
    pub(crate) fn come_to_rest(&mut self) {
        for round in 0..24 {
            self.now = self.now.plus(Micros::from_millis(120));
            if round % 4 == 0 {
                self.ovs.revalidate(&mut self.kernel);
            }
            self.wake();
            for _ in 0..400 {
                let idle = self.requests.is_empty()
                    && self.ovs.socket.is_empty()
                    && self.answers.is_empty()
                    && self.dumps.is_empty()
                    && self.kernel.notifications.is_empty()
                    && !self.kernel.overrun;
                if idle {
                    break;
                }
                if let Some((op, request, unless_counted)) = self.requests.pop_front() {
                    let address = request.filter.address;
                    let before = self
                        .kernel
                        .filters
                        .contains_key(&address)
                        .then(|| Box::new(self.kernel.report(address)));
                    if !self.is_left(op, unless_counted, before.as_deref()) {
                        let result = self.kernel.replace(op, &request);
                        self.answers.push_back(Event::Answer {
                            op,
                            answer: Answer::Replaced { before, result, took: None },
                        });
                    }
                }
                self.main_thread();
                self.deliver_notification();
                self.deliver_dump();
                self.deliver_answer();
            }
        }
    }

    /// Hardware, Open vSwitch and the engine agree.
    pub(crate) fn check(&self) {
        for (address, filter) in &self.kernel.filters {
            let ukey = self.ovs.ukeys.get(&filter.rule.ufid);
            assert_eq!(
                ukey.map(|ukey| ukey.actions),
                Some(filter.rule.actions),
                "{address}: TC holds other actions than Open vSwitch wants, or an orphan"
            );
        }
        let mut known: BTreeMap<Ufid, bool> = BTreeMap::new();
        for flow in self.engine.flows(self.now) {
            known.insert(flow.ufid, flow.placement == offload_engine::Placement::Hardware);
        }
        let real: BTreeMap<Ufid, bool> =
            self.kernel.filters.values().map(|filter| (filter.rule.ufid, filter.in_hw())).collect();
        assert_eq!(known, real, "the engine's tables and TC disagree");
        assert!(self.kernel.in_hw() <= self.kernel.entries_max);
        for filter in self.kernel.filters.values() {
            let stranded = !filter.in_hw() && !filter.flags.contains(FilterFlags::SKIP_HW);
            assert!(!stranded, "a refused rule was left without skip_hw");
        }
        crate::units::check(&self.kernel);
        if self.exact {
            let sent: u64 = self.sent.values().sum();
            assert_eq!(self.last_totals.total().packets, sent, "packets were lost from the totals");
        }
    }
}

/// One line for a trace.
fn brief(event: &Event) -> String {
    let about = |what: &str, report: &tc_flower::FilterReport| {
        let filter = report.to_filter().map(|filter| Rule::of(&filter));
        let stats = report.flow_stats();
        let counts = (stats.software.packets, stats.hardware.packets);
        format!("{what} {} {:?} {:?} {counts:?}", report.address, report.flags, filter)
    };
    match event {
        Event::FilterNew { report, author } => about(&format!("new by {author:?}"), report),
        Event::FilterGone { report, .. } => about("gone", report),
        Event::FilterDumped { report, round } => about(&format!("dumped {round:?}"), report),
        Event::FilterCounted { counters, round } => {
            let (sw, hw) = (counters.stats.software.packets, counters.stats.hardware.packets);
            format!("counted {round:?} {} {:?} ({sw}, {hw})", counters.address, counters.ufid)
        }
        Event::Answer { op, answer: Answer::Replaced { before, result, .. } } => {
            let before = before.as_ref().map(|before| about("before", before));
            format!("answer {op:?} {result:?} {before:?}")
        }
        other => format!("{other:?}"),
    }
}
