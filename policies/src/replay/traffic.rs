//! A trace in time: what each megaflow moved in each tick, and which megaflows are gone.
//!
//! The packets of a phase are evenly spaced over its on-time, the first at its start, and each carries the same share of its
//! bytes. A megaflow appears with its flow's first packet and is gone ten seconds after the last; the flow's next
//! packet makes a new one. The cost of a tick is proportional to the flows that send in it.

use alloc::vec;
use alloc::vec::Vec;

use super::Class;
use super::trace::{FlowNumber, Phase, TenantNumber, Trace};
use crate::Micros;
use crate::recording::Amount;

/// How long a megaflow lives without a packet: Open vSwitch's `max-idle`.
pub const MAX_IDLE: Micros = Micros::from_secs(10);

/// What a megaflow moved in a tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    /// The flow.
    pub flow: FlowNumber,
    /// Whose it is; in a recording, what the rules say of it: see [`super::Class`].
    pub tenant: TenantNumber,
    /// When the megaflow appeared.
    pub appeared: Micros,
    /// Packets in this tick.
    pub packets: u64,
    /// Bytes in this tick.
    pub bytes: u64,
}

/// One tick of traffic.
#[derive(Clone, Copy, Debug)]
pub struct Tick<'a> {
    /// When it begins.
    pub begin: Micros,
    /// When it ends.
    pub end: Micros,
    /// Megaflows that were gone when it began, and not before the one before began.
    pub gone: &'a [FlowNumber],
    /// What moved in it, each megaflow once.
    pub moved: &'a [Moved],
    /// What else moved, of megaflows that no NIC could take.
    pub elsewhere: Amount,
    /// Classes that nothing was of before, in the order of their numbers, which follow on those that were known.
    pub classes: &'a [Class],
}

/// A tick that can be kept.
#[derive(Clone, Debug, Default)]
pub struct KeptTick {
    begin: Micros,
    end: Micros,
    gone: Vec<FlowNumber>,
    moved: Vec<Moved>,
    elsewhere: Amount,
    classes: Vec<Class>,
}

impl KeptTick {
    /// The tick.
    pub fn tick(&self) -> Tick<'_> {
        let Self { begin, end, gone, moved, elsewhere, classes } = self;
        Tick { begin: *begin, end: *end, gone, moved, elsewhere: *elsewhere, classes }
    }
}

impl Tick<'_> {
    /// A copy to keep.
    pub fn keep(&self) -> KeptTick {
        KeptTick {
            begin: self.begin,
            end: self.end,
            gone: self.gone.into(),
            moved: self.moved.into(),
            elsewhere: self.elsewhere,
            classes: self.classes.into(),
        }
    }
}

/// Something that yields traffic tick by tick.
pub trait Traffic {
    /// The length of a tick.
    fn tick_length(&self) -> Micros;
    /// The next tick; `None` after the end.
    fn tick(&mut self) -> Option<Tick<'_>>;
    /// When the traffic ends, as far as that is known.
    fn end(&self) -> Micros;
}

/// A megaflow as the tick before left it.
#[derive(Clone, Copy, Debug)]
struct Megaflow {
    appeared: Micros,
    last_packet: Micros,
    /// Where in the list of this tick it is; valid if `tick` is this one.
    place: u32,
    tick: u32,
    alive: bool,
}

/// Plays a trace.
#[derive(Debug)]
pub struct TraceTraffic {
    phases: Vec<Phase>,
    end: Micros,
    tick_length: Micros,
    tick: u64,
    ticks: u64,
    /// The first phase that has not begun.
    next_phase: usize,
    /// Packets that each phase has sent.
    sent: Vec<u64>,
    /// Phases by the tick of their next packet.
    agenda: Vec<Vec<u32>>,
    /// Megaflows by the tick in which they may be gone.
    expiry: Vec<Vec<u32>>,
    megaflows: Vec<Megaflow>,
    moved: Vec<Moved>,
    gone: Vec<FlowNumber>,
}

impl TraceTraffic {
    /// Plays `trace` in ticks of that length, at least a millisecond.
    pub fn new(trace: Trace, tick_length: Micros) -> Self {
        let tick_length = tick_length.max(Micros::from_millis(1));
        let end = trace.end();
        let ticks = end.0 / tick_length.0 + 1;
        let none = Megaflow {
            appeared: Micros::ZERO,
            last_packet: Micros::ZERO,
            place: 0,
            tick: u32::MAX,
            alive: false,
        };
        Self {
            end,
            tick_length,
            tick: 0,
            ticks,
            next_phase: 0,
            sent: vec![0; trace.phases.len()],
            agenda: vec![Vec::new(); ticks as usize],
            expiry: vec![Vec::new(); ticks as usize],
            megaflows: vec![none; trace.flows as usize],
            moved: Vec::new(),
            gone: Vec::new(),
            phases: trace.phases,
        }
    }

    fn expire(&mut self, begin: Micros) {
        let mut due = core::mem::take(&mut self.expiry[self.tick as usize]);
        for flow in due.drain(..) {
            let megaflow = &mut self.megaflows[flow as usize];
            let gone_at = megaflow.last_packet.plus(MAX_IDLE);
            if gone_at <= begin {
                megaflow.alive = false;
                self.gone.push(FlowNumber(flow));
            } else {
                self.expect(flow, gone_at);
            }
        }
    }

    /// Looks at the megaflow again at the first beginning of a tick at or after `at`.
    fn expect(&mut self, flow: u32, at: Micros) {
        let tick = at.0.div_ceil(self.tick_length.0);
        if let Some(due) = self.expiry.get_mut(tick as usize) {
            due.push(flow);
        }
    }

    fn send(&mut self, number: u32, end: Micros) {
        let phase = self.phases[number as usize];
        let before = self.sent[number as usize];
        let after = phase.sent_before(end);
        self.sent[number as usize] = after;
        let share = |packets: u64| u128::from(phase.bytes) * u128::from(packets) / u128::from(phase.packets);
        let bytes = (share(after) - share(before)) as u64;
        self.count(&phase, phase.packet_at(before), phase.packet_at(after - 1), after - before, bytes);
        if after < phase.packets {
            // Rounding must not call a phase into a tick that is over.
            let tick = (phase.packet_at(after).0 / self.tick_length.0).max(self.tick + 1);
            if let Some(calls) = self.agenda.get_mut(tick as usize) {
                calls.push(number);
            }
        }
    }

    fn count(&mut self, phase: &Phase, first: Micros, last: Micros, packets: u64, bytes: u64) {
        let megaflow = &mut self.megaflows[phase.flow.index()];
        let tick = self.tick as u32;
        let is_new = !megaflow.alive;
        if is_new {
            *megaflow = Megaflow { appeared: first, last_packet: last, alive: true, ..*megaflow };
        }
        megaflow.appeared = megaflow.appeared.min(first);
        megaflow.last_packet = megaflow.last_packet.max(last);
        if megaflow.tick == tick && !is_new {
            let moved = &mut self.moved[megaflow.place as usize];
            moved.packets += packets;
            moved.bytes += bytes;
            moved.appeared = megaflow.appeared;
            return;
        }
        megaflow.tick = tick;
        megaflow.place = self.moved.len() as u32;
        let appeared = megaflow.appeared;
        self.moved.push(Moved { flow: phase.flow, tenant: phase.tenant, appeared, packets, bytes });
        if is_new {
            self.expect(phase.flow.0, last.plus(MAX_IDLE));
        }
    }
}

impl Traffic for TraceTraffic {
    fn tick_length(&self) -> Micros {
        self.tick_length
    }

    fn tick(&mut self) -> Option<Tick<'_>> {
        if self.tick >= self.ticks {
            return None;
        }
        let begin = Micros(self.tick * self.tick_length.0);
        let end = begin.plus(self.tick_length);
        self.moved.clear();
        self.gone.clear();
        self.expire(begin);
        let mut calls = core::mem::take(&mut self.agenda[self.tick as usize]);
        for number in calls.drain(..) {
            self.send(number, end);
        }
        while let Some(phase) = self.phases.get(self.next_phase).filter(|phase| phase.start < end) {
            debug_assert!(phase.start >= begin);
            self.send(self.next_phase as u32, end);
            self.next_phase += 1;
        }
        self.tick += 1;
        let (gone, moved) = (&self.gone, &self.moved);
        Some(Tick { begin, end, gone, moved, elsewhere: Amount::default(), classes: &[] })
    }

    fn end(&self) -> Micros {
        self.end
    }
}

impl Phase {
    /// The time within the phase in which it sends, up to `at`.
    fn on_time(&self, at: Micros) -> u64 {
        let elapsed = at.min(self.end).since(self.start).0;
        match self.bursts {
            None => elapsed,
            Some((on, off)) => {
                let cycle = on.0 + off.0;
                elapsed / cycle * on.0 + (elapsed % cycle).min(on.0)
            }
        }
    }

    /// How many packets it has sent before `at`, which is after its start.
    fn sent_before(&self, at: Micros) -> u64 {
        let all = self.on_time(self.end);
        if all == 0 || at > self.end {
            return self.packets;
        }
        let sent = (u128::from(self.packets) * u128::from(self.on_time(at))).div_ceil(u128::from(all));
        (sent as u64).clamp(1, self.packets)
    }

    /// When it sends the packet with that number, from 0.
    fn packet_at(&self, packet: u64) -> Micros {
        let all = self.on_time(self.end);
        let offset = (u128::from(all) * u128::from(packet) / u128::from(self.packets)) as u64;
        match self.bursts {
            None => self.start.plus(Micros(offset)),
            Some((on, off)) => self.start.plus(Micros(offset / on.0 * (on.0 + off.0) + offset % on.0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::trace::CsvReader;
    use super::*;

    const SECOND: Micros = Micros::from_secs(1);

    /// Flows gone, and flows with their packets and bytes.
    type Played = (Vec<u32>, Vec<(u32, u64, u64)>);

    fn play(rows: &str, tick: Micros) -> Vec<Played> {
        let mut reader = CsvReader::new();
        reader.take("flow,start_s,end_s,packets,bytes,on_s,off_s,tenant").unwrap();
        rows.lines().for_each(|row| reader.take(row).unwrap());
        let mut traffic = TraceTraffic::new(reader.finish().unwrap(), tick);
        let mut ticks = Vec::new();
        while let Some(tick) = traffic.tick() {
            let moved = tick.moved.iter().map(|moved| (moved.flow.0, moved.packets, moved.bytes));
            ticks.push((tick.gone.iter().map(|flow| flow.0).collect(), moved.collect()));
        }
        ticks
    }

    fn packets(rows: &str) -> Vec<u64> {
        play(rows, SECOND)
            .iter()
            .map(|(_, moved)| moved.iter().map(|(_, packets, _)| packets).sum())
            .collect()
    }

    #[test]
    fn packets_are_evenly_spaced_over_the_time_of_the_flow() {
        assert_eq!(packets("a,0,4,8,800"), [2, 2, 2, 2, 0]);
        assert_eq!(packets("a,0.5,4.5,4,400"), [1, 1, 1, 1, 0]);
        assert_eq!(packets("a,1,4,2,200"), [0, 1, 1, 0, 0]);
        assert_eq!(packets("a,1.25,1.25,7,7"), [0, 7]);
    }

    #[test]
    fn a_flow_with_bursts_sends_in_its_on_time_only() {
        // On from 0 to 1 and from 3 to 4; the third burst is cut by the end.
        assert_eq!(packets("a,0,6.5,25,2500,1,2"), [10, 0, 0, 10, 0, 0, 5]);
    }

    #[test]
    fn bytes_and_packets_are_all_there_whatever_the_ticks_are() {
        let rows = "a,0.123,17.77,1001,99999,0.8,2\nb,1,2,3,100\na,19,19,1,7\n";
        for tick in [1, 7, 100, 333, 500, 60_000] {
            let ticks = play(rows, Micros::from_millis(tick));
            let sum = |pick: fn(&(u32, u64, u64)) -> u64| -> u64 {
                ticks.iter().flat_map(|(_, moved)| moved.iter().map(pick)).sum()
            };
            assert_eq!((sum(|it| it.1), sum(|it| it.2)), (1005, 100_106), "ticks of {tick} ms");
        }
    }

    #[test]
    fn a_megaflow_is_gone_ten_seconds_after_its_last_packet() {
        let ticks = play("a,0.5,0.5,1,1\na,25,25,1,1\nz,40,40,1,1", SECOND);
        let gone: Vec<usize> = (0..ticks.len()).filter(|tick| ticks[*tick].0 == ticks[11].0).collect();
        assert_eq!(ticks[11].0.len(), 1);
        assert_eq!(gone, [11, 35]);
    }

    #[test]
    fn packets_less_than_ten_seconds_apart_keep_the_megaflow() {
        let ticks = play("a,0,27,3,3\nz,30,30,1,1", SECOND);
        assert!(ticks[..28].iter().all(|(gone, _)| gone.is_empty()));
        assert_eq!(ticks[28].0.len(), 1, "the last packet is sent at 18 s");
    }

    #[test]
    fn phases_of_one_flow_in_one_tick_are_one_reading() {
        assert_eq!(play("a,0,0.1,1,10\na,0.2,0.3,2,20", SECOND)[0].1, [(0, 3, 30)]);
    }
}
