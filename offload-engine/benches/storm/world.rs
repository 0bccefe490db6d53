//! The kernel datapath that more and more is asked of, the sockets, and the NIC.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use crate::kernel::{DP, attr, counters, port, report};
use netlink_wire::ovs_flow::Megaflow as Told;
use netlink_wire::{Message, Messages, Ufid};
use offload_engine::shadow::Abilities;
use offload_engine::{
    Acked, Answer, Author, Count, Effect, Engine, Event, Megaflow, Micros, ModeWanted, NicFacts, NicId, OpId,
    OvsSettings, Peer, Round, Settings, TcPolicy,
};
use rustix::time::{ClockId, clock_gettime};
use tc_flower::{Filter, FilterAddress, Handle, Location};

/// One megaflow of so many is big.
const BIG_ONE_OF: u64 = 500;
/// Megaflows of another port, all of them big, which are there from the beginning to the end.
const STEADY: u64 = 100;
/// The number of the first of them.
const STEADY_FROM: u64 = 1 << 40;
/// Packets per second of a big one, and of each other.
const BIG_PER_S: u64 = 5_000;
const SMALL_PER_S: u64 = 10;
const PACKET_BYTES: u64 = 1_000;
/// What a notification takes of the socket's buffer (`skb->truesize` of one with up to 1,536 bytes), and that buffer: twice
/// what `limits.socket-buffer` says (`SO_RCVBUFFORCE`).
const NOTICE_BYTES: usize = 2_304;
const SOCKET_BYTES: usize = 2 * (16 << 20);
/// Megaflows in one datagram of a dump.
const DUMPED_AT_A_TIME: usize = 60;
/// What a change of a rule takes, beside the daemon.
const RULE_CHANGE: Micros = Micros(100);
/// `OVS_FLOW_CMD_NEW` and `_DEL`, of the family whose id this is here.
const FAMILY: u16 = 30;
const NEW: u8 = 1;
const DEL: u8 = 2;

/// What is asked of it.
#[derive(Clone, Copy)]
pub(crate) struct Offered {
    /// New megaflows per second.
    pub(crate) per_s: u64,
    /// So many are there at once at most: the oldest goes (`flow-limit` of Open vSwitch is 200,000).
    pub(crate) live_max: u64,
    pub(crate) seconds: u64,
    /// So many of a port are followed (`limits.new-flows-max`).
    pub(crate) followed_max: u32,
}

/// What came of it.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) live: u64,
    /// Notifications that the engine was told.
    pub(crate) handled: u64,
    /// Between a notification and the end of what was done about it, in us.
    behind: Vec<u64>,
    pub(crate) losses: u64,
    /// Share of the packets of big megaflows that hardware forwarded, in the second half.
    pub(crate) big_in_hardware: f64,
    /// The same of those of the other port.
    pub(crate) steady_in_hardware: f64,
}

impl Seen {
    /// In milliseconds.
    pub(crate) fn behind(&self, quantile: f64) -> f64 {
        let last = self.behind.len().saturating_sub(1);
        self.behind.get((last as f64 * quantile) as usize).map_or(0.0, |us| *us as f64 / 1_000.0)
    }
}

struct Notice {
    at: Micros,
    bytes: Vec<u8>,
}

pub(crate) struct Storm {
    offered: Offered,
    /// The time of the kernel datapath, which does not wait, and how far the daemon is.
    now: Micros,
    begun: Micros,
    engine: Engine,
    /// The numbers of the megaflows that are there; new ones follow.
    oldest: u64,
    next: u64,
    notices: VecDeque<Notice>,
    lost: bool,
    flow_dump: Option<(Round, u64, u64)>,
    queue: VecDeque<Event>,
    rules: BTreeMap<FilterAddress, (Filter, u64, Micros)>,
    placed: HashMap<u64, Micros>,
    wire: (UnixDatagram, UnixDatagram),
    buffer: Vec<u8>,
    hardware: u64,
    big: u64,
    steady_hardware: u64,
    steady: u64,
    counted_until: Micros,
    seen: Seen,
}

fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Drawn, as it were, and with its number in what a cookie has of it.
fn ufid(number: u64) -> Ufid {
    let mut bytes = [0; 16];
    bytes[..3].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()[..3]);
    bytes[3..11].copy_from_slice(&number.to_be_bytes());
    Ufid::from_bytes(bytes)
}

/// Of the megaflow that a rule was made from.
fn number_of(filter: &Filter) -> u64 {
    let cookie = filter.actions.iter().find_map(|action| action.cookie).unwrap();
    u64::from_be_bytes(cookie.as_bytes()[7..15].try_into().unwrap())
}

fn is_big(number: u64) -> bool {
    number.is_multiple_of(BIG_ONE_OF) || is_steady(number)
}

fn is_steady(number: u64) -> bool {
    number >= STEADY_FROM
}

/// A message of the family as the kernel writes it: of one that is gone, its id and what it counted.
fn message(command: u8, number: u64, packets: u64) -> Vec<u8> {
    let mut out = vec![0; 16];
    out.extend([command, 1, 0, 0]);
    out.extend(DP.0.to_ne_bytes());
    attr(&mut out, 9, &ufid(number).as_bytes()[..]);
    if command == NEW {
        let (mut key, mut mask, mut actions) = (Vec::new(), Vec::new(), Vec::new());
        let mut both = |kind, value: &[u8], covered: &[u8]| {
            attr(&mut key, kind, value);
            attr(&mut mask, kind, covered);
        };
        both(20, &[0; 4], &[0xff; 4]);
        let port: u32 = if is_steady(number) { 3 } else { 1 };
        both(3, &port.to_ne_bytes(), &[0xff; 4]);
        both(4, &[2; 12], &[0xff; 12]);
        both(6, &[8, 0], &[0xff; 2]);
        let [.., a, b, c] = number.to_be_bytes();
        let ip = [10, 0, 0, 1, 10, a, b, c, 6, 0, 64, 0];
        both(7, &ip, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0xff]);
        both(9, &[4, 0, (number >> 24) as u8, 80], &[0; 4]);
        attr(&mut actions, 1, &2_u32.to_ne_bytes());
        attr(&mut out, 1, &key);
        attr(&mut out, 7, &mask);
        attr(&mut out, 2, &actions);
    }
    attr(&mut out, 3, &[packets.to_ne_bytes(), (packets * PACKET_BYTES).to_ne_bytes()].concat());
    let length = out.len() as u32;
    out[..4].copy_from_slice(&length.to_ne_bytes());
    out[4..6].copy_from_slice(&FAMILY.to_ne_bytes());
    out
}

/// So many packets.
fn counted(packets: u64) -> Count {
    Count::new(packets, packets * PACKET_BYTES)
}

/// As the daemon makes events of messages.
fn event(message: &Message<'_>, round: Option<Round>) -> Event {
    let (flow, body) = Told::decode_with_body(message).unwrap();
    let stats = flow.counters.stats;
    let gone = flow.keys.is_none();
    let flow = Box::new(Megaflow {
        ufid: flow.counters.ufid.unwrap(),
        dp: flow.counters.dp,
        in_port: flow.keys.as_ref().and_then(|keys| keys.in_port).map(|port| port.value),
        needs_chain_restore: false,
        counted: Some(Count::new(stats.packets, stats.bytes)),
        unfit: None,
        body,
    });
    if gone { Event::MegaflowGone(flow) } else { Event::Megaflow { round, flow } }
}

impl Storm {
    pub(crate) fn new(offered: Offered) -> Self {
        let now = Micros::from_secs(100);
        let settings = Settings {
            mode: ModeWanted::Shadow,
            new_megaflows_max: offered.followed_max,
            ..Settings::default()
        };
        let wire = UnixDatagram::pair().unwrap();
        let mut storm = Self {
            offered,
            now,
            begun: now,
            engine: Engine::new(now, settings),
            oldest: 1,
            next: 1,
            notices: VecDeque::new(),
            lost: false,
            flow_dump: None,
            queue: VecDeque::new(),
            rules: BTreeMap::new(),
            placed: HashMap::new(),
            wire,
            buffer: vec![0; 64 << 10],
            hardware: 0,
            big: 0,
            steady_hardware: 0,
            steady: 0,
            counted_until: now,
            seen: Seen::default(),
        };
        storm.queue.push_back(Event::Kernel(Abilities::ALL));
        storm.queue.push_back(Event::Ovs(OvsSettings {
            version: None,
            hw_offload: false,
            tc_policy: TcPolicy::None,
            max_idle: None,
        }));
        storm.queue.push_back(Event::Nic(Box::new(NicFacts {
            id: NicId(0),
            devlink: "sim/0".into(),
            driver: "sim".into(),
            switch_id: "00".into(),
            eswitch_mode: "switchdev".into(),
        })));
        storm.queue.extend([1, 2, 3].map(|number| Event::Port(Box::new(port(number)))));
        storm.queue.push_back(Event::Peer { peer: Peer::Vswitchd, up: true });
        storm.queue.push_back(Event::DatapathOverrun);
        storm
    }

    pub(crate) fn run(mut self) -> Seen {
        for number in STEADY_FROM..STEADY_FROM + STEADY {
            self.notify(self.begun, message(NEW, number, 1));
        }
        let end = self.begun.plus(Micros::from_secs(self.offered.seconds));
        while self.now < end {
            self.offer();
            self.turn();
            self.count();
        }
        self.seen.live = self.next - self.oldest;
        self.seen.behind.sort_unstable();
        self.seen.big_in_hardware = self.hardware as f64 / self.big.max(1) as f64;
        self.seen.steady_in_hardware = self.steady_hardware as f64 / self.steady.max(1) as f64;
        self.seen
    }

    /// What the kernel datapath was asked until now.
    fn offer(&mut self) {
        let ought = 1 + self.now.since(self.begun).0 * self.offered.per_s / 1_000_000;
        while self.next < ought {
            let at = self.born(self.next);
            let number = self.next;
            self.next += 1;
            self.notify(at, message(NEW, number, 1));
            if self.next - self.oldest > self.offered.live_max {
                let number = self.oldest;
                self.oldest += 1;
                self.placed.remove(&number);
                self.notify(at, message(DEL, number, self.counted(number)));
            }
        }
    }

    /// When a megaflow is made.
    fn born(&self, number: u64) -> Micros {
        if is_steady(number) {
            return self.begun;
        }
        self.begun.plus(Micros(number * 1_000_000 / self.offered.per_s))
    }

    /// Packets of a megaflow that passed the kernel datapath.
    fn counted(&self, number: u64) -> u64 {
        let per_s = if is_big(number) { BIG_PER_S } else { SMALL_PER_S };
        1 + self.now.since(self.born(number)).0 * per_s / 1_000_000
    }

    fn notify(&mut self, at: Micros, bytes: Vec<u8>) {
        if self.lost || self.notices.len() * NOTICE_BYTES > SOCKET_BYTES {
            self.lost = true;
        } else {
            self.notices.push_back(Notice { at, bytes });
        }
    }

    /// What of the big ones' packets hardware forwarded since the last time.
    fn count(&mut self) {
        let over = self.now.since(self.counted_until);
        if over < Micros::from_millis(10) {
            return;
        }
        self.counted_until = self.now;
        let packets = over.0 * BIG_PER_S / 1_000_000;
        for (_, packets_of, _) in self.rules.values_mut() {
            *packets_of += packets;
        }
        if self.now.since(self.begun) > Micros::from_secs(self.offered.seconds / 2) {
            self.big += packets * ((self.next - self.oldest) / BIG_ONE_OF);
            let steady = self.placed.keys().filter(|number| is_steady(**number)).count() as u64;
            self.hardware += packets * (self.placed.len() as u64 - steady);
            self.steady += packets * STEADY;
            self.steady_hardware += packets * steady;
        }
    }

    /// The daemon looks at its sockets once: notifications first, then a part of a dump, then the time.
    fn turn(&mut self) {
        let before = cpu_time();
        let mut idle = true;
        let mut kernel_took = Micros(0);
        let arrived: Vec<Micros> = self.notices.iter().take(64).map(|notice| notice.at).collect();
        let mut outside = Duration::ZERO;
        for _ in 0..arrived.len() {
            let notice = self.notices.pop_front().unwrap();
            let sending = cpu_time();
            self.wire.0.send(&notice.bytes).unwrap();
            outside += cpu_time() - sending;
            let length = self.wire.1.recv(&mut self.buffer).unwrap();
            let event = event(&Message::first(&self.buffer[..length]).unwrap(), None);
            kernel_took = kernel_took.plus(self.tell(event));
            idle = false;
        }
        if arrived.is_empty() && self.lost {
            self.lost = false;
            self.seen.losses += 1;
            kernel_took = kernel_took.plus(self.tell(Event::DatapathOverrun));
            idle = false;
        }
        let building = cpu_time();
        let part = self.part_of_dump();
        outside += cpu_time() - building;
        if let Some((round, bytes, ends)) = part {
            for message in Messages::new(&bytes) {
                kernel_took = kernel_took.plus(self.tell(event(&message.unwrap(), Some(round))));
            }
            if ends {
                kernel_took = kernel_took.plus(self.tell(Event::MegaflowsDumped { round, complete: true }));
            }
            idle = false;
        }
        for _ in 0..DUMPED_AT_A_TIME {
            let Some(event) = self.queue.pop_front() else { break };
            kernel_took = kernel_took.plus(self.tell(event));
            idle = false;
        }
        if self.now >= self.engine.wake_at() {
            kernel_took = kernel_took.plus(self.tell(Event::Wake));
            idle = false;
        }
        let took = Micros((cpu_time() - before - outside).as_micros() as u64).plus(kernel_took);
        // Nothing to do: until something is.
        self.now = self.now.plus(if idle { Micros(20) } else { took });
        self.seen.handled += arrived.len() as u64;
        self.seen.behind.extend(arrived.into_iter().map(|at| self.now.since(at).0));
    }

    fn part_of_dump(&mut self) -> Option<(Round, Vec<u8>, bool)> {
        let (round, from, to) = self.flow_dump.take()?;
        let is_first = from == 0;
        let from = from.max(self.oldest);
        let until = to.min(from + DUMPED_AT_A_TIME as u64);
        // The others come with the first part.
        let steady = if is_first { STEADY } else { 0 };
        let numbers = (STEADY_FROM..STEADY_FROM + steady).chain(from..until);
        let bytes = numbers.flat_map(|number| message(NEW, number, self.counted(number))).collect();
        let ends = until >= to;
        if !ends {
            self.flow_dump = Some((round, until, to));
        }
        Some((round, bytes, ends))
    }

    /// Tells the engine, and does what it wants; what the kernel took for that.
    fn tell(&mut self, event: Event) -> Micros {
        let mut fx = Vec::new();
        self.engine.handle(self.now, event, &mut fx);
        let mut took = Micros(0);
        for effect in fx {
            match effect {
                Effect::AddFilter { op, filter } => {
                    took = took.plus(RULE_CHANGE);
                    self.add(op, *filter);
                }
                Effect::DeleteFilter { op, address } => {
                    took = took.plus(RULE_CHANGE);
                    self.delete(op, address);
                }
                Effect::DumpFilters { round, location, terse } => self.dump_filters(round, location, terse),
                Effect::DumpMegaflows { round } => self.flow_dump = Some((round, 0, self.next)),
                _ => {}
            }
        }
        took
    }

    fn add(&mut self, op: OpId, filter: Filter) {
        let at = |handle| FilterAddress { handle: Handle(handle), ..filter.address };
        let address = (1..).map(at).find(|address| !self.rules.contains_key(address)).unwrap();
        let report = report(address, &filter, Count::default());
        let number = number_of(&filter);
        self.rules.insert(address, (filter, 0, self.now));
        if is_big(number) && number >= self.oldest {
            self.placed.insert(number, self.now);
        }
        let told = Box::new(report.clone());
        self.queue.push_back(Event::FilterNew { report: told, author: Author::Us(op) });
        let made = Some(Box::new(report));
        let answer = Answer::Added { made, result: Ok(Acked { extack: None }), took: None };
        self.queue.push_back(Event::Answer { op, answer });
    }

    fn delete(&mut self, op: OpId, address: FilterAddress) {
        let (filter, packets, _) = self.rules.remove(&address).unwrap();
        self.placed.remove(&number_of(&filter));
        let report = Box::new(report(address, &filter, counted(packets)));
        self.queue.push_back(Event::FilterGone { report, author: Author::Us(op) });
        let answer = Answer::FilterDeleted(Ok(Acked { extack: None }));
        self.queue.push_back(Event::Answer { op, answer });
    }

    fn dump_filters(&mut self, round: Round, location: Location, terse: bool) {
        let here = self.rules.iter().filter(|(address, _)| address.location == location);
        for (address, (filter, packets, _)) in here {
            let report = report(*address, filter, counted(*packets));
            self.queue.push_back(if terse {
                Event::FilterCounted { round, counters: counters(&report) }
            } else {
                Event::FilterDumped { round, report: Box::new(report) }
            });
        }
        self.queue.push_back(Event::FiltersDumped { round, location, complete: true });
    }
}
