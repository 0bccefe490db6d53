//! The kernel datapath, TC and the NIC as far as shadow mode sees them, and what must hold between them.

mod flow;
mod idle;
mod successor;

use crate::Plan;
use crate::kernel::{counters, port};
use crate::rng::Rng;
use flow::{Flow, TUNNEL, WIDE, body, counted, is_taken, is_twice, megaflow, overlap, report, tunnel, ufid};
use netlink_wire::{DpPort, Errno, Ufid};
use offload_engine::shadow::{self, Abilities, layout::Origin};
use offload_engine::{
    Acked, Answer, Author, CommandError, Count, Effect, Engine, Event, Megaflow, Micros, Mode, ModeWanted,
    NicFacts, NicId, OpId, OvsSettings, Peer, Placement, PortFacts, Refusal, Refused, Round, Settings,
    TcPolicy, Traffic,
};
use policies::planner;
use std::collections::{BTreeMap, VecDeque};
use tc_flower::{Filter, FilterAddress, FilterFlags, FilterReport, Handle, Location};

const FLOWS: u64 = 10;
/// How long Open vSwitch keeps a flow without packets.
pub(crate) const MAX_IDLE: Micros = Micros::from_millis(100);

/// Requests that wait for the kernel.
enum Request {
    Add(OpId, Box<Filter>),
    Delete(OpId, FilterAddress),
}

pub(crate) struct Run {
    rng: Rng,
    plan: Plan,
    traced: bool,
    now: Micros,
    engine: Engine,
    flows: BTreeMap<u64, Flow>,
    /// Ports by their number; the first, by which packets come in, and the last may be away.
    ports: BTreeMap<u32, PortFacts>,
    filters: BTreeMap<FilterAddress, (Filter, u64)>,
    /// A filter of somebody else at port 1.
    other: bool,
    datapath_told: VecDeque<Event>,
    datapath_lost: bool,
    tc_told: VecDeque<Event>,
    requests: VecDeque<Request>,
    answers: VecDeque<Event>,
    filter_dumps: VecDeque<Event>,
    flow_dump: Option<(Round, VecDeque<u64>)>,
    /// Flushed, and how many readings were begun since: with the second, rules of before have to be gone.
    flushed: Option<u8>,
    vswitchd: bool,
    mode: ModeWanted,
    last_totals: Traffic,
    /// Packets that the NIC took of each flow.
    took: BTreeMap<u64, u64>,
    /// Times that it was asked for OpenFlow rules.
    detraced: u64,
    /// It was decided about what an earlier daemon left.
    taken_over: bool,
    /// How often the port was shed.
    pub(crate) storms: u64,
    pub(crate) added: u64,
    /// Of these, rules that no driver took.
    pub(crate) untaken: u64,
    pub(crate) deleted: u64,
    /// How often flows were there that overlapped and did not do the same.
    pub(crate) uncertain: u64,
}

fn settings(mode: ModeWanted, plan: Plan) -> Settings {
    // What is refused at random is tried again soon; what the NIC does not do, hardly ever.
    let shape_retry_after = if plan.refusals { Micros::from_millis(500) } else { Micros::from_secs(600) };
    Settings {
        mode,
        new_megaflows_max: plan.new_max,
        epoch: Micros::from_millis(20),
        datapath_interval: Micros::from_millis(20),
        planner: planner::Settings {
            min_rate: policies::Rate::PacketsPerSecond(1),
            min_age: Micros(0),
            min_residency: Micros(0),
            counter_delay: Micros(0),
            shape_retry_after,
            retry_after: Micros::from_millis(10),
            retry_after_max: Micros::from_millis(500),
            ..planner::Settings::default()
        },
        ..Settings::default()
    }
}

impl Run {
    pub(crate) fn new(plan: Plan) -> Self {
        let now = Micros::from_secs(100);
        let mut run = Self {
            rng: Rng::new(plan.seed),
            plan,
            traced: std::env::var_os("OFFLOAD_TRACE").is_some(),
            now,
            engine: Engine::new(now, settings(ModeWanted::Shadow, plan)),
            flows: BTreeMap::new(),
            ports: (1..=3).map(|number| (number, port(number))).chain([(TUNNEL, tunnel())]).collect(),
            filters: BTreeMap::new(),
            other: false,
            datapath_told: VecDeque::new(),
            datapath_lost: false,
            tc_told: VecDeque::new(),
            requests: VecDeque::new(),
            answers: VecDeque::new(),
            filter_dumps: VecDeque::new(),
            flow_dump: None,
            flushed: None,
            vswitchd: true,
            mode: ModeWanted::Shadow,
            last_totals: Traffic::default(),
            took: BTreeMap::new(),
            detraced: 0,
            taken_over: false,
            storms: 0,
            added: 0,
            untaken: 0,
            deleted: 0,
            uncertain: 0,
        };
        run.introduce();
        run
    }

    /// Tells a daemon that has just been started what there is.
    fn introduce(&mut self) {
        self.tell(Event::Kernel(Abilities::ALL));
        self.tell(Event::Ovs(OvsSettings {
            version: None,
            hw_offload: false,
            tc_policy: TcPolicy::None,
            max_idle: Some(MAX_IDLE),
        }));
        self.tell(Event::Nic(Box::new(NicFacts {
            id: NicId(0),
            devlink: "sim/0".into(),
            driver: "sim".into(),
            switch_id: "00".into(),
            eswitch_mode: "switchdev".into(),
        })));
        for port in self.ports.values().cloned().collect::<Vec<_>>() {
            self.tell(Event::Port(Box::new(port)));
        }
        self.tell(Event::Peer { peer: Peer::Vswitchd, up: self.vswitchd });
        self.tell(Event::DatapathOverrun);
    }

    fn tell(&mut self, event: Event) {
        if self.traced {
            eprintln!("{} {event:?}", self.now.0);
        }
        let mut fx = Vec::new();
        self.engine.handle(self.now, event, &mut fx);
        let totals = self.engine.status(self.now).totals;
        assert!(totals.hardware.packets >= self.last_totals.hardware.packets, "hardware total fell");
        assert!(totals.software.packets >= self.last_totals.software.packets, "software total fell");
        self.last_totals = totals;
        self.check_openflow(totals.hardware);
        for effect in fx {
            self.carry_out(effect);
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        if self.traced {
            eprintln!("    {effect:?}");
        }
        match effect {
            Effect::AddFilter { op, filter } => {
                let of_tunnel = filter.address.location == tunnel().location;
                assert_ne!(
                    filter.flags.contains(FilterFlags::SKIP_SW),
                    of_tunnel,
                    "for hardware only, where that is taken"
                );
                assert!(self.vswitchd, "a rule was placed without Open vSwitch");
                self.requests.push_back(Request::Add(op, filter));
            }
            Effect::DeleteFilter { op, address } => self.requests.push_back(Request::Delete(op, address)),
            Effect::DumpFilters { round, location, terse } => self.dump_filters(round, location, terse),
            Effect::DumpMegaflows { round } => {
                self.flow_dump = Some((round, self.flows.keys().copied().collect()));
                self.flushed = self.flushed.map(|readings| readings + 1);
            }
            Effect::Journal(_) => {}
            Effect::TookOver { .. } => self.taken_over = true,
            Effect::Detrace { op, ufid } => {
                assert!(self.vswitchd, "asked without Open vSwitch");
                let answer = Answer::Detraced(self.detrace(ufid));
                self.answers.push_back(Event::Answer { op, answer });
            }
            Effect::Shed { on, .. } => self.storms += u64::from(on),
            other => panic!("shadow mode does not do this: {other:?}"),
        }
    }

    /// Each flow is of an OpenFlow rule of its own, with the flow's number for a cookie.
    fn detrace(&mut self, ufid: Ufid) -> Result<String, CommandError> {
        let number = u64::from_be_bytes(ufid.as_bytes()[..8].try_into().unwrap());
        self.detraced += 1;
        if self.plan.refusals && self.detraced.is_multiple_of(7) {
            return Err(CommandError::Lost);
        }
        Ok(match self.flows.contains_key(&number) {
            true if self.detraced.is_multiple_of(4) => {
                "Cache was not found for system@ovs-system\n".to_owned()
            }
            true => format!("br0\n  cookie=0x{number:x}, duration=1s, n_packets=0, ip,actions=drop\n"),
            false => "UFID was not found for system@ovs-system\n".to_owned(),
        })
    }

    fn dump_filters(&mut self, round: Round, location: Location, terse: bool) {
        let ours = self
            .filters
            .iter()
            .map(|(address, (filter, packets))| report(*address, filter, counted(*packets)));
        let mut there: Vec<_> = ours.filter(|report| report.address.location == location).collect();
        if self.other && location == port(1).location {
            there.push(self.foreign());
        }
        for report in there {
            self.filter_dumps.push_back(if terse {
                Event::FilterCounted { round, counters: counters(&report) }
            } else {
                Event::FilterDumped { round, report: Box::new(report) }
            });
        }
        self.filter_dumps.push_back(Event::FiltersDumped { round, location, complete: true });
    }

    /// What somebody else has at port 1.
    fn foreign(&self) -> FilterReport {
        let rule = self.rule(1, Flow { to: 2, packets: 0 }).unwrap();
        let address = FilterAddress { prio: tc_flower::Prio(1), handle: Handle(1), ..rule.address };
        let mut report = report(address, &Filter { address, ..rule }, Count::default());
        report.actions.iter_mut().for_each(|action| action.action.cookie = None);
        report
    }

    /// The rule that a flow gives.
    fn rule(&self, number: u64, flow: Flow) -> Option<Filter> {
        let body = body(number, flow.to);
        let find = |port: DpPort| self.ports.get(&port.0);
        shadow::translate(
            ufid(number),
            &body.keys().unwrap(),
            &body.actions().unwrap(),
            Abilities::ALL,
            &find,
        )
        .ok()
    }

    fn notify_datapath(&mut self, event: Event) {
        match self.datapath_told.len() < self.plan.buffer {
            true => self.datapath_told.push_back(event),
            false => self.datapath_lost = true,
        }
    }

    fn deliver_datapath(&mut self, count: usize) {
        if std::mem::take(&mut self.datapath_lost) {
            self.tell(Event::DatapathOverrun);
        }
        for _ in 0..count.min(self.datapath_told.len()) {
            let event = self.datapath_told.pop_front().unwrap();
            self.tell(event);
        }
    }

    fn deliver_tc(&mut self) {
        while let Some(event) = self.tc_told.pop_front() {
            self.tell(event);
        }
    }

    /// The kernel carries out the next request.
    fn request(&mut self) {
        let Some(next) = self.requests.pop_front() else { return };
        let lost = self.plan.refusals && self.rng.one_in(25);
        let refused = self.plan.refusals && self.rng.one_in(8);
        let no = |errno| Err(Refused { errno, extack: None });
        match next {
            Request::Add(op, filter) => {
                let full = self.filters.len() >= self.plan.entries;
                let location = filter.address.location;
                let has_port = self.ports.values().any(|port| port.location == location);
                let result = match (refused, full, has_port) {
                    (true, ..) => no(Errno::EOPNOTSUPP),
                    (_, true, _) => no(Errno::ENOSPC),
                    (.., false) => no(Errno::ENODEV),
                    _ if !is_taken(&filter) => Ok(Acked { extack: Some("not to two ports".into()) }),
                    _ => Ok(Acked { extack: None }),
                };
                let made = result.is_ok().then(|| self.make(op, &filter, lost));
                let (made, result) =
                    if lost { (None, no(Errno::ENOBUFS)) } else { (made.map(Box::new), result) };
                let answer = Answer::Added { made, result, took: None };
                self.answers.push_back(Event::Answer { op, answer });
            }
            Request::Delete(op, address) => {
                let result = match refused {
                    true => no(Errno::EAGAIN),
                    false => self.unmake(op, address).ok_or(()).or_else(|()| no(Errno::ENOENT)),
                };
                let result = if lost { no(Errno::ENOBUFS) } else { result };
                self.answers.push_back(Event::Answer { op, answer: Answer::FilterDeleted(result) });
            }
        }
    }

    fn make(&mut self, op: OpId, filter: &Filter, silent: bool) -> FilterReport {
        let at = |handle| FilterAddress { handle: Handle(handle), ..filter.address };
        let address = (1..).map(at).find(|address| !self.filters.contains_key(address)).unwrap();
        self.filters.insert(address, (filter.clone(), 0));
        self.added += 1;
        self.untaken += u64::from(!is_taken(filter));
        let report = report(address, filter, Count::default());
        if !silent {
            let told = Box::new(report.clone());
            self.tc_told.push_back(Event::FilterNew { report: told, author: Author::Us(op) });
        }
        report
    }

    fn unmake(&mut self, op: OpId, address: FilterAddress) -> Option<Acked> {
        let (filter, packets) = self.filters.remove(&address)?;
        self.deleted += 1;
        let report = Box::new(report(address, &filter, counted(packets)));
        self.tc_told.push_back(Event::FilterGone { report, author: Author::Us(op) });
        Some(Acked { extack: None })
    }

    /// Everything that was asked is carried out and answered.
    fn carry_on(&mut self) {
        while !self.requests.is_empty() || !self.answers.is_empty() {
            self.request();
            self.deliver_tc();
            while let Some(answer) = self.answers.pop_front() {
                self.tell(answer);
            }
        }
    }

    fn go_on_dumping(&mut self) {
        if let Some((round, mut asked)) = self.flow_dump.take() {
            match asked.pop_front() {
                Some(number) => {
                    let flow = self.flows.get(&number).copied();
                    self.flow_dump = Some((round, asked));
                    if let Some(flow) = flow {
                        let event = Event::Megaflow { round: Some(round), flow: megaflow(number, flow) };
                        self.deliver_datapath(usize::MAX);
                        self.tell(event);
                    }
                }
                None => {
                    self.deliver_datapath(usize::MAX);
                    self.tell(Event::MegaflowsDumped { round, complete: true });
                    // What was made just before the flush may be told during the first, which then says nothing of it.
                    self.flushed = self.flushed.filter(|readings| *readings < 2);
                }
            }
        }
        for _ in 0..self.rng.below(4) {
            self.deliver_tc();
            let Some(event) = self.filter_dumps.pop_front() else { return };
            self.tell(event);
        }
    }

    fn change(&mut self) {
        let wide = if self.plan.overlaps { WIDE.len() as u64 } else { 0 };
        let number = 1 + self.rng.below(FLOWS + wide);
        let to = 2 + self.rng.below(2) as u32;
        let known = self.flows.get(&number).copied();
        match (self.rng.below(8), known) {
            (0..4, None) => {
                let flow = Flow { to, packets: 0 };
                self.flows.insert(number, flow);
                self.notify_datapath(Event::Megaflow { round: None, flow: megaflow(number, flow) });
            }
            (4, Some(flow)) => {
                let flow = Flow { to, ..flow };
                self.flows.insert(number, flow);
                self.notify_datapath(Event::Megaflow { round: None, flow: megaflow(number, flow) });
            }
            (5..7, Some(flow)) => {
                self.flows.remove(&number);
                let gone = Megaflow { body: None, in_port: None, ..*megaflow(number, flow) };
                self.notify_datapath(Event::MegaflowGone(Box::new(gone)));
            }
            (7, _) if self.plan.flushes && self.rng.one_in(6) => {
                self.flows.clear();
                // A dump that is under way may have seen some of them.
                self.flushed = Some(0);
            }
            _ => {}
        }
    }

    fn traffic(&mut self) {
        let number = 1 + self.rng.below(FLOWS);
        let packets = 1 + self.rng.below(50);
        self.send(number, packets);
    }

    /// Packets of a flow, which hardware takes where it has a rule.
    fn send(&mut self, number: u64, packets: u64) {
        let origin = Origin::of(ufid(number)).cookie();
        let placed = |filter: &Filter| filter.actions.iter().any(|action| action.cookie == Some(origin));
        match self.filters.values_mut().find(|(filter, _)| placed(filter)) {
            Some((_, count)) => {
                *count += packets;
                *self.took.entry(number).or_default() += packets;
            }
            None => {
                if let Some(flow) = self.flows.get_mut(&number) {
                    flow.packets += packets;
                }
            }
        }
    }

    fn upheaval(&mut self) {
        match self.rng.below(6) {
            0 => {
                // It leaves Open vSwitch, or comes back; its device stays, and what hangs on it.
                let number = if self.rng.one_in(2) { 1 } else { 3 };
                if self.ports.remove(&number).is_some() {
                    self.tell(Event::PortGone(port(number).ifindex));
                } else {
                    self.ports.insert(number, port(number));
                    self.tell(Event::Port(Box::new(port(number))));
                }
            }
            1 if self.ports.contains_key(&1) => {
                self.other = !self.other;
                if self.other {
                    let report = Box::new(self.foreign());
                    self.tc_told.push_back(Event::FilterNew { report, author: Author::Other });
                }
            }
            2 => {
                self.vswitchd = !self.vswitchd;
                let up = self.vswitchd;
                self.tell(Event::Peer { peer: Peer::Vswitchd, up });
            }
            3 => {
                self.mode = match self.mode {
                    ModeWanted::Shadow => ModeWanted::Observe,
                    _ => ModeWanted::Shadow,
                };
                self.tell(Event::Settings(Box::new(settings(self.mode, self.plan))));
            }
            4 => {
                // The qdisc goes, and what hangs on it.
                self.filters.retain(|address, _| address.location != port(1).location);
                self.other = false;
                self.tc_told.push_back(Event::FiltersGone {
                    location: port(1).location,
                    chain: None,
                    prio: None,
                });
            }
            5 => self.tell(Event::TcOverrun),
            _ => {}
        }
    }

    pub(crate) fn step(&mut self) {
        self.now = self.now.plus(Micros(self.rng.below(4_000)));
        match self.rng.below(12) {
            0..3 => self.change(),
            3..5 => self.traffic(),
            5..7 => {
                let count = 1 + self.rng.below(3) as usize;
                self.deliver_datapath(count);
            }
            7..10 => self.go_on_dumping(),
            10 if self.plan.upheavals && self.rng.one_in(3) => self.upheaval(),
            _ => self.wake(),
        }
        self.deliver_tc();
        self.carry_on();
        self.check();
    }

    /// Less happens than it takes for a port to be shed, until one that was is not any more, and a while longer.
    pub(crate) fn go_on_slowly(&mut self) {
        let end = self.now.plus(Micros::from_secs(9));
        while self.now < end {
            let until = self.now.plus(Micros::from_millis(150));
            while self.now < until {
                self.now = self.now.plus(Micros::from_millis(4));
                self.wake();
                self.go_on_dumping();
                self.deliver_datapath(1);
                self.deliver_tc();
                self.carry_on();
                self.check();
            }
            self.step();
            self.change();
        }
    }

    fn wake(&mut self) {
        if self.now >= self.engine.wake_at() {
            self.tell(Event::Wake);
        }
    }

    /// All that hardware took is of some OpenFlow rule, or not known of which; none has what is another's.
    fn check_openflow(&self, hardware: Count) {
        let view = self.engine.openflow();
        let known: u64 = view.sums.iter().map(|sum| sum.hardware.packets).sum();
        assert_eq!(known + view.untold.packets, hardware.packets, "packets of OpenFlow rules: {view:?}");
        for sum in view.sums {
            let took = self.took.get(&sum.rule.cookie).copied().unwrap_or_default();
            assert!(sum.hardware.packets <= took, "of {took} packets {sum:?}");
        }
    }

    /// Every rule in the NIC is the one that its megaflow gives, unless what happened to that has not been told.
    fn check(&mut self) {
        self.uncertain += u64::from(self.flows.keys().any(|number| self.is_uncertain(*number)));
        let untold = !self.datapath_told.is_empty() || self.datapath_lost || self.flushed.is_some();
        // Removals that were refused are tried again; what a lost answer left is found by the next full dump.
        if untold || self.plan.refusals {
            return;
        }
        self.check_rules();
    }

    /// Whether the NIC does not do what this flow does.
    fn is_refused(&self, number: u64) -> bool {
        self.flows.get(&number).is_some_and(|flow| is_twice(number, flow.to))
    }

    /// Whether another flow takes packets of this one and sends them elsewhere.
    fn is_uncertain(&self, number: u64) -> bool {
        let to = self.flows.get(&number).map(|flow| flow.to);
        self.flows.iter().any(|(other, flow)| Some(flow.to) != to && overlap(number, *other))
    }

    fn check_rules(&self) {
        for (address, (filter, _)) in &self.filters {
            let of = self.flows.iter().find(|(number, _)| {
                let cookie = Origin::of(ufid(**number)).cookie();
                filter.actions.iter().any(|action| action.cookie == Some(cookie))
            });
            let ought = of.and_then(|(number, flow)| self.rule(*number, *flow));
            assert_eq!(Some(filter), ought.as_ref(), "the rule at {address} is not what its megaflow gives");
            assert!(self.vswitchd, "a rule is there without Open vSwitch");
            assert!(is_taken(filter), "the rule at {address} is in software alone");
            let is_uncertain = of.is_some_and(|(number, _)| self.is_uncertain(*number));
            assert!(
                !is_uncertain,
                "another flow takes packets of the rule at {address} and sends them elsewhere"
            );
        }
        if self.other && self.tc_told.is_empty() {
            let at = port(1).location;
            assert!(self.filters.keys().all(|address| address.location != at), "packets pass a filter by");
        }
    }

    /// Nothing new happens any more; everything under way comes to its end.
    pub(crate) fn come_to_rest(&mut self) {
        self.plan.refusals = false;
        self.pass(400);
    }

    /// What came and went is there again, and all flows have packets all the while: whatever can be is in hardware then.
    pub(crate) fn be_busy(&mut self) {
        self.restore();
        // A port that was shed has to be calm for some seconds.
        let long = if self.plan.new_max == u32::MAX { 100 } else { 400 };
        for _ in 0..long {
            for number in self.flows.keys().copied().collect::<Vec<_>>() {
                self.send(number, 10);
            }
            self.pass(20);
        }
        let placed = |number: &u64| {
            let origin = Origin::of(ufid(*number)).cookie();
            self.filters.values().any(|(filter, _)| filter.actions.iter().any(|of| of.cookie == Some(origin)))
        };
        let left = self
            .flows
            .keys()
            .filter(|number| !self.is_uncertain(**number) && !self.is_refused(**number) && !placed(number));
        let why = |number: &u64| format!("{number}: {:?}", self.engine.flow(self.now, ufid(*number)));
        let left: Vec<_> = left.map(why).collect();
        assert!(left.is_empty(), "in software though busy: {left:?}");
    }

    /// What upheavals left is as it was at first.
    fn restore(&mut self) {
        for number in [1, 3] {
            if self.ports.insert(number, port(number)).is_none() {
                self.tell(Event::Port(Box::new(port(number))));
            }
        }
        self.other = false;
        if !std::mem::replace(&mut self.vswitchd, true) {
            self.tell(Event::Peer { peer: Peer::Vswitchd, up: true });
        }
        self.mode = ModeWanted::Shadow;
        self.tell(Event::Settings(Box::new(settings(self.mode, self.plan))));
    }

    /// NIC, kernel datapath and the engine's tables agree.
    pub(crate) fn check_at_rest(&self) {
        self.check_rules();
        let placed = self.engine.flows(self.now).filter(|flow| flow.placement == Placement::Hardware);
        let mut placed: Vec<_> = placed.map(|flow| flow.ufid).collect();
        placed.sort();
        let in_nic = |ufid: &Ufid| {
            let cookie = Origin::of(*ufid).cookie();
            self.filters
                .values()
                .any(|(filter, _)| filter.actions.iter().any(|action| action.cookie == Some(cookie)))
        };
        assert!(placed.iter().all(in_nic), "our tables have rules that the NIC has not");
        assert_eq!(placed.len(), self.filters.len(), "the NIC has rules that our tables have not");
        for flow in self.engine.flows(self.now) {
            let of_driver = matches!(flow.refusal, Some(Refusal::Driver(_)));
            assert!(!of_driver || flow.placement != Placement::Hardware, "{flow:?}");
        }
    }

    /// The daemon ends: nothing is left.
    pub(crate) fn leave(&mut self) {
        self.tell(Event::Ending);
        self.come_to_rest();
        assert_eq!(self.engine.mode(), Mode::Observe);
        assert!(self.filters.is_empty(), "rules are left: {:?}", self.filters.keys());
    }
}
