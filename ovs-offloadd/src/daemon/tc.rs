//! TC: effects become requests, messages become events, in the order in which the kernel made them.
//!
//! The order is the contract (`offload_engine::event`): whatever notifications are queued when an answer or a part of
//! a dump is read are told first.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;

use netlink_wire::message::Control;
use netlink_wire::{Ifindex, Message, Messages, Seq};
use offload_engine::{Author, Event, Round};
use tc_flower::{Change, Detail, FilterCounters, Hook, Location, TcEvent, request};
use tracing::{debug, warn};

mod changes;

use changes::Changing;

use crate::event_log::Raws;
use crate::io::netlink::{DATAGRAM_BYTES_MAX, Pipeline, Protocol, Received, Socket};

/// Changes that wait for the kernel at most; the engine asks for fewer.
const CHANGES_WAITING_MAX: usize = 4_096;
/// Dumps that wait at most: one per port and a few.
const DUMPS_WAITING_MAX: usize = 16_384;
/// Notifications read in one go. The socket's buffer holds fewer.
const NOTIFICATIONS_DRAINED_MAX: usize = 1 << 20;

/// A dump of one location.
#[derive(Debug, Clone, Copy)]
struct Dump {
    round: Round,
    location: Location,
    terse: bool,
}

#[derive(Debug)]
struct RunningDump {
    dump: Dump,
    seq: Seq,
    interrupted: bool,
}

/// Messages that were counted and dropped, because they were malformed.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Dropped(pub(crate) u64);

/// The sockets of TC and what is under way on them.
#[derive(Debug)]
pub(crate) struct Tc {
    changes: Socket,
    dumps: Socket,
    notifications: Socket,
    pipeline: Pipeline<Changing>,
    // Sequence numbers of the reads that go before replacements, to those of the replacements.
    reads: HashMap<Seq, Seq>,
    /// Devices that are known to have an ingress hook.
    hooked: HashSet<Ifindex>,
    waiting_dumps: VecDeque<Dump>,
    running_dump: Option<RunningDump>,
    notification_buffer: Vec<u8>,
    answer_buffer: Vec<u8>,
    dump_buffer: Vec<u8>,
    pub(crate) dropped: Dropped,
    pub(crate) overruns: u64,
    pub(crate) raws: Raws,
}

/// What the answer to one request takes of a socket's buffer at most: the filter as it was made (`NLMSG_GOODSIZE`), the one before
/// it, and the acknowledgement, each with what the kernel itself needs for it (`skb->truesize`).
const ANSWER_BYTES: usize = 16 << 10;

/// Which socket has something to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ready {
    Notifications(Received),
    Changes(Received),
    Dumps(Received),
}

impl Tc {
    /// Opens the sockets and listens from here on.
    pub(crate) fn open(receive_bytes: usize, in_flight_max: usize) -> io::Result<Self> {
        let notifications = Socket::open(Protocol::Route, receive_bytes)?;
        notifications.join(request::RTNLGRP_TC)?;
        Ok(Self {
            changes: Socket::open(Protocol::Route, receive_bytes.max(in_flight_max * ANSWER_BYTES))?,
            dumps: Socket::open(Protocol::Route, 1 << 20)?,
            notifications,
            pipeline: Pipeline::new(in_flight_max, CHANGES_WAITING_MAX),
            reads: HashMap::new(),
            hooked: HashSet::new(),
            waiting_dumps: VecDeque::new(),
            running_dump: None,
            notification_buffer: vec![0; DATAGRAM_BYTES_MAX],
            answer_buffer: vec![0; DATAGRAM_BYTES_MAX],
            dump_buffer: vec![0; DATAGRAM_BYTES_MAX],
            dropped: Dropped::default(),
            overruns: 0,
            raws: Raws::default(),
        })
    }

    /// Waits for a socket to have something. Cancel-safe: nothing is awaited after a socket was read.
    pub(crate) async fn ready(&mut self) -> io::Result<Ready> {
        tokio::select! {
            biased;
            received = self.notifications.receive(&mut self.notification_buffer) => {
                Ok(Ready::Notifications(received?))
            }
            received = self.changes.receive(&mut self.answer_buffer) => Ok(Ready::Changes(received?)),
            received = self.dumps.receive(&mut self.dump_buffer) => Ok(Ready::Dumps(received?)),
        }
    }

    /// Takes what [`ready`](Self::ready) told of and what follows it; adds the events it makes.
    pub(crate) fn take(&mut self, ready: Ready, events: &mut Vec<Event>) -> io::Result<()> {
        match ready {
            Ready::Notifications(received) => {
                self.take_notifications(received, events);
                self.drain_notifications(events)
            }
            Ready::Changes(received) => {
                self.drain_notifications(events)?;
                self.take_answers(received, events);
                self.send_changes(events);
                Ok(())
            }
            Ready::Dumps(received) => {
                self.drain_notifications(events)?;
                self.take_dumped(received, events);
                self.send_dump(events);
                Ok(())
            }
        }
    }

    /// Tells all notifications that are queued now.
    ///
    /// What is read next may not be told before them. If they come faster than they can be read, that order is lost,
    /// and all that follows from it: as if the socket had overrun.
    pub(crate) fn drain_notifications(&mut self, events: &mut Vec<Event>) -> io::Result<()> {
        for _ in 0..NOTIFICATIONS_DRAINED_MAX {
            match self.notifications.try_receive(&mut self.notification_buffer)? {
                Received::Nothing => return Ok(()),
                received => self.take_notifications(received, events),
            }
        }
        self.overruns += 1;
        events.push(Event::TcOverrun);
        Ok(())
    }

    /// Asks for the filters of a location.
    pub(crate) fn dump(&mut self, round: Round, location: Location, terse: bool, events: &mut Vec<Event>) {
        if self.waiting_dumps.len() >= DUMPS_WAITING_MAX {
            events.push(Event::FiltersDumped { round, location, complete: false });
            return;
        }
        self.waiting_dumps.push_back(Dump { round, location, terse });
        self.send_dump(events);
    }

    fn send_dump(&mut self, events: &mut Vec<Event>) {
        while self.running_dump.is_none() {
            let Some(dump) = self.waiting_dumps.pop_front() else { return };
            let seq = self.pipeline.next_seq();
            let detail = if dump.terse { Detail::Terse } else { Detail::Full };
            match self.dumps.send(&request::dump(dump.location, None, detail, seq)) {
                Ok(()) => self.running_dump = Some(RunningDump { dump, seq, interrupted: false }),
                Err(error) => {
                    warn!(%error, location = %dump.location, "cannot ask for TC filters");
                    events.push(dumped(&dump, false));
                }
            }
        }
    }

    fn take_notifications(&mut self, received: Received, events: &mut Vec<Event>) {
        let length = match received {
            Received::Bytes(length) => length,
            Received::Nothing => return,
            Received::Overrun => {
                self.overruns += 1;
                self.hooked.clear();
                events.push(Event::TcOverrun);
                return;
            }
        };
        let buffer = std::mem::take(&mut self.notification_buffer);
        for message in Messages::new(&buffer[..length]) {
            match message
                .and_then(|message| Ok((TcEvent::decode(&message)?, self.raws.copy(&buffer, &message))))
            {
                Ok((event, raw)) => {
                    if matches!(event, TcEvent::Filter(_)) {
                        self.raws.push(raw);
                    }
                    if let TcEvent::Qdisc(qdisc) = &event {
                        self.hooked.remove(&qdisc.ifindex);
                    }
                    notified(event, |portid, seq| self.author(portid, seq), events);
                }
                Err(malformed) => {
                    debug!(%malformed, "TC notification dropped");
                    self.dropped.0 += 1;
                }
            }
        }
        self.notification_buffer = buffer;
    }

    fn author(&self, portid: netlink_wire::PortId, seq: Seq) -> Author {
        if portid != self.changes.portid() {
            return Author::Other;
        }
        // The answer comes after the notification, so the request is in flight still.
        self.pipeline.get(seq).map_or(Author::Other, |changing| Author::Us(changing.op()))
    }

    fn take_dumped(&mut self, received: Received, events: &mut Vec<Event>) {
        let length = match received {
            Received::Bytes(length) => length,
            Received::Nothing => return,
            Received::Overrun => {
                if let Some(running) = self.running_dump.take() {
                    events.push(dumped(&running.dump, false));
                }
                return;
            }
        };
        let buffer = std::mem::take(&mut self.dump_buffer);
        for message in Messages::new(&buffer[..length]) {
            match message {
                Ok(message) => self.take_dump_part(&buffer, &message, events),
                Err(malformed) => {
                    warn!(%malformed, "part of a TC dump dropped");
                    self.dropped.0 += 1;
                }
            }
        }
        self.dump_buffer = buffer;
    }

    fn take_dump_part(&mut self, buffer: &[u8], message: &Message<'_>, events: &mut Vec<Event>) {
        let Some(running) = self.running_dump.as_mut().filter(|running| running.seq == message.header.seq)
        else {
            return;
        };
        running.interrupted |= message.header.dump_was_interrupted();
        let Dump { round, terse, .. } = running.dump;
        let outcome = match message.control() {
            Ok(Some(Control::Done(answer) | Control::Answer(answer))) => {
                let complete = answer.is_success() && !running.interrupted;
                let finished = dumped(&running.dump, complete);
                self.running_dump = None;
                events.push(finished);
                return;
            }
            Ok(Some(_)) => return,
            Ok(None) if terse => FilterCounters::decode(message)
                .map(|counters| counters.map(|counters| Event::FilterCounted { round, counters })),
            Ok(None) => TcEvent::decode(message).map(|event| match event {
                TcEvent::Filter(report) => Some(Event::FilterDumped { round, report }),
                _ => None,
            }),
            Err(malformed) => Err(malformed),
        };
        match outcome {
            Ok(None) => {}
            Ok(Some(event)) => {
                let raw = self.raws.copy(buffer, message);
                self.raws.push(raw);
                events.push(event);
            }
            Err(malformed) => {
                debug!(%malformed, "filter dropped from a dump");
                self.dropped.0 += 1;
                // What was not understood was not seen.
                running.interrupted = true;
            }
        }
    }
}

fn dumped(dump: &Dump, complete: bool) -> Event {
    Event::FiltersDumped { round: dump.round, location: dump.location, complete }
}

/// A notification as the engine wants to hear it.
fn notified(event: TcEvent, author: impl Fn(netlink_wire::PortId, Seq) -> Author, events: &mut Vec<Event>) {
    match event {
        TcEvent::Filter(report) => {
            let author = author(report.portid, report.seq);
            let change = report.change;
            events.push(match change {
                Change::New => Event::FilterNew { report, author },
                Change::Deleted => Event::FilterGone { report, author },
            });
        }
        TcEvent::Prio { change: Change::Deleted, address } => events.push(Event::FiltersGone {
            location: address.location,
            chain: Some(address.chain),
            prio: Some(address.prio),
        }),
        TcEvent::Chain { change: Change::Deleted, location, chain } => {
            events.push(Event::FiltersGone { location, chain: Some(chain), prio: None });
        }
        TcEvent::Qdisc(qdisc) if qdisc.change == Change::Deleted => {
            for hook in [Hook::Ingress, Hook::Egress] {
                if qdisc.has_hook(hook) {
                    let location = Location::Device { ifindex: qdisc.ifindex, hook };
                    events.push(Event::FiltersGone { location, chain: None, prio: None });
                }
            }
        }
        _ => {}
    }
}
