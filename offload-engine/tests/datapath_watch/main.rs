//! The engine's picture of the kernel datapath against a simulated one, over many seeds: flows are made, changed, deleted,
//! flushed and go with their datapath, notifications are lost, dumps are slow and interrupted.
//!
//! `OFFLOAD_SEED=N cargo test -p offload-engine --test datapath_watch` repeats one schedule of each test.

#[path = "../simulation/rng.rs"]
mod rng;

use netlink_wire::{DpPort, Ifindex, Ufid};
use offload_engine::{Count, Effect, Engine, Event, Megaflow, Micros, Placement, Round, Settings};
use rng::Rng;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// What is drawn.
#[derive(Clone, Copy, Debug)]
struct Plan {
    /// Notifications that fit into the socket.
    buffer: usize,
    /// Flows are deleted all at once, of which nobody is told (`ovs_flow_tbl_flush()`).
    flushes: bool,
    /// A datapath is removed with its flows, of which nobody is told; of the datapath one is.
    removals: bool,
    /// Time between two dumps that nothing but time asks for.
    interval: Micros,
}

/// One datapath's flows: what each has counted.
type Flows = BTreeMap<Ufid, u64>;

struct Dump {
    round: Round,
    /// What is still to be asked, of which datapath.
    asked: VecDeque<(u64, Ufid)>,
    interrupted: bool,
}

struct Run {
    rng: Rng,
    plan: Plan,
    traced: bool,
    now: Micros,
    engine: Engine,
    datapaths: BTreeMap<u64, Flows>,
    notifications: VecDeque<Event>,
    /// Notifications did not fit since the last one that was read.
    lost: bool,
    /// The dump under way.
    dump: Option<Dump>,
    fx: Vec<Effect>,
    next_flow: u64,
}

fn ufid(datapath: u64, number: u64) -> Ufid {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&datapath.to_be_bytes());
    bytes[8..].copy_from_slice(&number.to_be_bytes());
    Ufid::from_bytes(bytes)
}

fn megaflow(ufid: Ufid, counted: u64, is_told_whole: bool) -> Box<Megaflow> {
    Box::new(Megaflow {
        ufid,
        dp: Ifindex(3),
        in_port: is_told_whole.then_some(DpPort(1)),
        needs_chain_restore: false,
        counted: Some(Count::new(counted, counted * 100)),
        unfit: None,
        body: None,
    })
}

const FLOWS: u64 = 12;

impl Run {
    fn new(seed: u64, plan: Plan) -> Self {
        let settings = Settings { datapath_interval: plan.interval, ..Settings::default() };
        let now = Micros::from_secs(100);
        let mut run = Self {
            rng: Rng::new(seed),
            plan,
            traced: std::env::var_os("OFFLOAD_TRACE").is_some(),
            now,
            engine: Engine::new(now, settings),
            datapaths: BTreeMap::from([(1, Flows::new()), (2, Flows::new())]),
            notifications: VecDeque::new(),
            lost: false,
            dump: None,
            fx: Vec::new(),
            next_flow: 0,
        };
        // What the shell says when it has joined the groups: flows made before were not told.
        run.tell(Event::DatapathOverrun);
        run
    }

    fn tell(&mut self, event: Event) {
        if self.traced {
            eprintln!("{:?} {event:?}", self.now);
        }
        let mut fx = std::mem::take(&mut self.fx);
        self.engine.handle(self.now, event, &mut fx);
        for effect in fx.drain(..) {
            match effect {
                Effect::DumpMegaflows { round } => {
                    assert!(self.dump.is_none(), "one dump at a time");
                    let at = |(datapath, flows): (&u64, &Flows)| {
                        flows.keys().map(|ufid| (*datapath, *ufid)).collect::<Vec<_>>()
                    };
                    let asked = self.datapaths.iter().flat_map(at).collect();
                    let interrupted = self.rng.one_in(6);
                    self.dump = Some(Dump { round, asked, interrupted });
                }
                Effect::DumpFilters { .. } | Effect::Journal(_) => {}
                other => panic!("nothing to be changed: {other:?}"),
            }
        }
        self.fx = fx;
    }

    fn notify(&mut self, event: Event) {
        match self.notifications.len() < self.plan.buffer {
            true => self.notifications.push_back(event),
            false => self.lost = true,
        }
    }

    /// The shell reads its socket: what is queued, and that something was lost.
    fn deliver(&mut self, count: usize) {
        if std::mem::take(&mut self.lost) {
            self.tell(Event::DatapathOverrun);
        }
        for _ in 0..count.min(self.notifications.len()) {
            if let Some(event) = self.notifications.pop_front() {
                self.tell(event);
            }
        }
    }

    /// The dump goes on by one flow, or ends. What it reads is there now; what is queued by then comes first.
    fn go_on_dumping(&mut self) {
        let Some(mut dump) = self.dump.take() else { return };
        let round = dump.round;
        match dump.asked.pop_front() {
            Some((datapath, ufid)) => {
                let counted = self.datapaths.get(&datapath).and_then(|flows| flows.get(&ufid)).copied();
                self.dump = Some(dump);
                if let Some(counted) = counted {
                    let flow = megaflow(ufid, counted, true);
                    self.deliver(usize::MAX);
                    self.tell(Event::Megaflow { round: Some(round), flow });
                }
            }
            None => {
                self.deliver(usize::MAX);
                self.tell(Event::MegaflowsDumped { round, complete: !dump.interrupted });
            }
        }
    }

    fn change(&mut self) {
        let datapath = 1 + self.rng.below(2);
        let Some(flows) = self.datapaths.get_mut(&datapath) else {
            self.datapaths.insert(datapath, Flows::new());
            return;
        };
        let known: Vec<Ufid> = flows.keys().copied().collect();
        let of_known = |rng: &mut Rng| known[rng.below(known.len() as u64) as usize];
        match self.rng.below(12) {
            0..=4 if (known.len() as u64) < FLOWS => {
                // Open vSwitch makes a flow that it deleted anew, with the same id.
                let number = match self.rng.one_in(2) {
                    true => self.rng.below(FLOWS),
                    false => {
                        self.next_flow += 1;
                        1000 + self.next_flow
                    }
                };
                let ufid = ufid(datapath, number);
                if flows.insert(ufid, 0).is_none() {
                    self.notify(Event::Megaflow { round: None, flow: megaflow(ufid, 0, true) });
                }
            }
            5 if !known.is_empty() => {
                let ufid = of_known(&mut self.rng);
                let counted = flows[&ufid];
                self.notify(Event::Megaflow { round: None, flow: megaflow(ufid, counted, true) });
            }
            6..=8 if !known.is_empty() => {
                let ufid = of_known(&mut self.rng);
                let counted = flows.remove(&ufid).unwrap_or(0);
                self.notify(Event::MegaflowGone(megaflow(ufid, counted, false)));
            }
            9 if !known.is_empty() => {
                let ufid = of_known(&mut self.rng);
                *flows.get_mut(&ufid).expect("it is there") += 1 + self.rng.below(5);
            }
            10 if self.plan.flushes && self.rng.one_in(8) => flows.clear(),
            11 if self.plan.removals && self.rng.one_in(8) => {
                self.datapaths.remove(&datapath);
                // The shell tells so of a datapath that is gone.
                self.notify(Event::DatapathOverrun);
            }
            _ => {}
        }
    }

    fn step(&mut self) {
        self.now = self.now.plus(Micros(self.rng.below(20_000)));
        match self.rng.below(10) {
            0..=3 => self.change(),
            4..=5 => {
                let count = self.rng.below(4) as usize;
                self.deliver(count);
            }
            6..=8 => self.go_on_dumping(),
            _ => self.tell(Event::Wake),
        }
    }

    /// Nothing changes any more for `long`; everything is delivered, and the engine is woken when it wants.
    fn rest(&mut self, long: Micros) {
        let end = self.now.plus(long);
        self.deliver(usize::MAX);
        while self.now < end {
            while self.dump.is_some() {
                self.now = self.now.plus(Micros(100));
                self.go_on_dumping();
            }
            self.now = self.engine.wake_at().max(self.now.plus(Micros(1)));
            if self.now < end {
                self.tell(Event::Wake);
            }
        }
    }

    fn check(&self) {
        let there: BTreeSet<Ufid> = self.datapaths.values().flat_map(|flows| flows.keys().copied()).collect();
        let in_datapath = self.engine.flows(self.now).filter(|flow| flow.placement == Placement::Datapath);
        let known: BTreeSet<Ufid> = in_datapath.map(|flow| flow.ufid).collect();
        assert_eq!(known, there, "what the engine takes for there, and what is there");
    }
}

fn schedules(plan: Plan, rest: Micros) {
    let seeds = match std::env::var("OFFLOAD_SEED") {
        Ok(seed) => {
            let seed = seed.parse().expect("OFFLOAD_SEED is a number");
            seed..seed + 1
        }
        Err(_) => 0..10_000,
    };
    for seed in seeds {
        let result = std::panic::catch_unwind(|| {
            let mut run = Run::new(seed, plan);
            for _ in 0..200 {
                run.step();
            }
            run.rest(rest);
            run.check();
        });
        if let Err(panic) = result {
            eprintln!(
                "failed with {plan:?}; repeat it with OFFLOAD_SEED={seed}, and OFFLOAD_TRACE=1 to see what happened"
            );
            std::panic::resume_unwind(panic);
        }
    }
}

/// Longer than any schedule: no dump comes of time alone.
const NEVER: Micros = Micros::from_secs(3600);
/// Dumps are tried until one is whole, which one in six is not.
const SOON: Micros = Micros::from_secs(2);

#[test]
fn notifications_alone_keep_the_picture_true() {
    schedules(Plan { buffer: usize::MAX, flushes: false, removals: false, interval: NEVER }, SOON);
}

#[test]
fn lost_notifications_are_made_good_at_once_and_not_by_the_next_dump_of_time() {
    schedules(Plan { buffer: 3, flushes: false, removals: false, interval: NEVER }, SOON);
}

#[test]
fn flows_that_went_with_their_datapath_are_missed_at_once() {
    schedules(Plan { buffer: 3, flushes: false, removals: true, interval: NEVER }, SOON);
}

#[test]
fn flows_that_were_flushed_are_missed_by_the_next_dump_of_time() {
    let interval = Micros::from_secs(2);
    schedules(Plan { buffer: 3, flushes: true, removals: true, interval }, Micros::from_secs(60));
}

#[test]
fn a_reading_that_takes_long_is_not_begun_again_before_twice_that_time() {
    let settings = Settings { datapath_interval: Micros::from_millis(500), ..Settings::default() };
    let (mut now, mut readings) = (Micros::from_secs(100), Vec::new());
    let mut engine = Engine::new(now, settings);
    let mut under_way: Option<(Round, Micros)> = None;
    let mut events = vec![Event::DatapathOverrun];
    for _ in 0..100_000 {
        let mut fx = Vec::new();
        events.drain(..).for_each(|event| engine.handle(now, event, &mut fx));
        for effect in fx {
            if let Effect::DumpMegaflows { round } = effect {
                readings.push(now);
                // Quick in the beginning, then slow.
                let takes = if readings.len() < 10 { Micros(100) } else { Micros::from_secs(1) };
                under_way = Some((round, now.plus(takes)));
            }
        }
        now = now.plus(Micros(1_000));
        if let Some((round, _)) = under_way.take_if(|(_, ends)| now >= *ends) {
            events.push(Event::MegaflowsDumped { round, complete: true });
        }
        if now >= engine.wake_at() {
            events.push(Event::Wake);
        }
    }
    let apart: Vec<u64> = readings.windows(2).map(|pair| pair[1].since(pair[0]).0 / 1_000).collect();
    assert!(apart[2..9].iter().all(|millis| (500..=502).contains(millis)), "{apart:?}");
    assert!(
        apart.len() > 30 && apart[9..].iter().all(|millis| (3_000..=3_004).contains(millis)),
        "{apart:?}"
    );
}
