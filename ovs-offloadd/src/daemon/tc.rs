//! TC: effects become requests, messages become events, in the order in which the kernel made them.
//!
//! The order is the contract (`offload_engine::event`): whatever notifications are queued when an answer or a part of
//! a dump is read are told first.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::time::Instant;

use netlink_wire::message::Control;
use netlink_wire::{Ifindex, Message, Messages, Seq};
use offload_engine::{Acked, Answer, Author, Event, Micros, OpId, Refused, Replacement, Round};
use tc_flower::{
    Change, Detail, Filter, FilterAddress, FilterCounters, FilterReport, Hook, Location, TcEvent, request,
};
use tracing::{debug, warn};

use crate::event_log::Raws;
use crate::io::netlink::{DATAGRAM_BYTES_MAX, Pipeline, Protocol, Received, Socket};

/// Changes that wait for the kernel at most; the engine asks for fewer.
const CHANGES_WAITING_MAX: usize = 4_096;
/// Dumps that wait at most: one per port and a few.
const DUMPS_WAITING_MAX: usize = 16_384;
/// Notifications read in one go. The socket's buffer holds fewer.
const NOTIFICATIONS_DRAINED_MAX: usize = 1 << 20;

/// A change under way.
#[derive(Debug)]
enum Changing {
    /// A filter is read, then replaced.
    Replacing {
        op: OpId,
        read: Seq,
        before: Option<Box<FilterReport>>,
        /// The message it was read from, while events are recorded.
        before_raw: Vec<u8>,
        /// How long the kernel took for both, or for the replacement where that was sent by itself.
        took: Option<Micros>,
        /// The replacement, not sent before it is seen that the filter has counted nothing.
        held: Option<Vec<u8>>,
    },
    /// A filter is made.
    Adding {
        op: OpId,
        /// Its device.
        device: Option<Ifindex>,
        made: Option<Box<FilterReport>>,
        /// The message it was read from, while events are recorded.
        made_raw: Vec<u8>,
        took: Option<Micros>,
    },
    /// A filter is deleted.
    Deleting { op: OpId },
}

impl Changing {
    fn op(&self) -> OpId {
        match self {
            Self::Replacing { op, .. } | Self::Adding { op, .. } | Self::Deleting { op } => *op,
        }
    }

    /// What the kernel's answer to it is to the engine.
    fn answered(self, result: Result<Acked, Refused>) -> Event {
        let op = self.op();
        let answer = match self {
            Self::Replacing { before, took, .. } => Answer::Replaced { before, result, took },
            Self::Adding { made, took, .. } => Answer::Added { made, result, took },
            Self::Deleting { .. } => Answer::FilterDeleted(result),
        };
        Event::Answer { op, answer }
    }

    /// Keeps the message of the filter that the answer carries.
    fn keep_raw(&mut self, raws: &mut Raws) {
        match self {
            Self::Replacing { before: Some(_), before_raw: raw, .. }
            | Self::Adding { made: Some(_), made_raw: raw, .. } => raws.push(std::mem::take(raw)),
            _ => {}
        }
    }

    fn refused(self, errno: netlink_wire::Errno, extack: Option<String>) -> Event {
        self.answered(Err(Refused { errno, extack }))
    }
}

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

    /// Reads a filter and at once replaces it.
    pub(crate) fn replace(
        &mut self,
        op: OpId,
        request: &Replacement,
        unless_counted: bool,
        events: &mut Vec<Event>,
    ) {
        let read = self.pipeline.next_seq();
        let seq = self.pipeline.next_seq();
        let before_raw = Vec::new();
        let mut changing = Changing::Replacing { op, read, before: None, before_raw, took: None, held: None };
        let mut messages = request::get(&request.filter.address, read);
        match (request::replace(&request.filter, request.actions, seq), &mut changing) {
            (Ok(replace), Changing::Replacing { held, .. }) if unless_counted => *held = Some(replace),
            (Ok(replace), _) => messages.extend_from_slice(&replace),
            (Err(unsupported), _) => {
                events.push(changing.refused(errno::INVALID, Some(unsupported.to_string())));
                return;
            }
        }
        self.reads.insert(read, seq);
        self.change(seq, messages, changing, events);
    }

    /// Makes a filter, and before it the qdisc that it hangs on where none is known to be there.
    pub(crate) fn add(&mut self, op: OpId, filter: &Filter, events: &mut Vec<Event>) {
        let device = match filter.address.location {
            Location::Device { ifindex, .. } => Some(ifindex),
            Location::Block(_) => None,
        };
        let mut messages = Vec::new();
        if let Some(device) = device.filter(|device| !self.hooked.contains(device)) {
            // One that is there is refused with EEXIST, which nobody waits for: the filter's own answer tells.
            messages = request::add_clsact(device, self.pipeline.next_seq());
        }
        let seq = self.pipeline.next_seq();
        let adding = Changing::Adding { op, device, made: None, made_raw: Vec::new(), took: None };
        match request::add(filter, seq) {
            Ok(add) => messages.extend_from_slice(&add),
            Err(unsupported) => {
                events.push(adding.refused(errno::INVALID, Some(unsupported.to_string())));
                return;
            }
        }
        self.change(seq, messages, adding, events);
    }

    /// Deletes a filter.
    pub(crate) fn delete(&mut self, op: OpId, address: &FilterAddress, events: &mut Vec<Event>) {
        let seq = self.pipeline.next_seq();
        self.change(seq, request::delete(address, seq), Changing::Deleting { op }, events);
    }

    fn change(&mut self, seq: Seq, messages: Vec<u8>, changing: Changing, events: &mut Vec<Event>) {
        match self.pipeline.push(seq, messages, changing) {
            Ok(()) => self.send_changes(events),
            Err(changing) => {
                if let Changing::Replacing { read, .. } = &changing {
                    self.reads.remove(read);
                }
                let why = "too many changes wait for the kernel".to_owned();
                events.push(changing.refused(errno::AGAIN, Some(why)));
            }
        }
    }

    /// Sends what may be sent, each by itself, so that its time is its own: rtnetlink carries a request out, the driver's part
    /// included, and queues the answers to it before send(2) returns. What the answers wait for after that is our own doing.
    fn send_changes(&mut self, events: &mut Vec<Event>) {
        while let Some((seq, messages)) = self.pipeline.take_next() {
            self.send_change(seq, &messages, events);
        }
    }

    fn send_change(&mut self, seq: Seq, messages: &[u8], events: &mut Vec<Event>) {
        let begun = Instant::now();
        let sent = self.changes.send(messages);
        let elapsed = begun.elapsed();
        if let Err(error) = sent {
            warn!(%error, "cannot send to the kernel");
            self.give_up_changes(&format!("cannot send to the kernel: {error}"), events);
        } else if let Some(Changing::Replacing { took, .. } | Changing::Adding { took, .. }) =
            self.pipeline.get_mut(seq)
        {
            *took = Some(Micros(u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX)));
        }
    }

    fn give_up_changes(&mut self, why: &str, events: &mut Vec<Event>) {
        self.reads.clear();
        for lost in self.pipeline.give_up() {
            let mut changing = lost.note;
            changing.keep_raw(&mut self.raws);
            events.push(changing.refused(errno::NO_BUFFERS, Some(why.to_owned())));
        }
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

    fn take_answers(&mut self, received: Received, events: &mut Vec<Event>) {
        let length = match received {
            Received::Bytes(length) => length,
            Received::Nothing => return,
            Received::Overrun => {
                self.overruns += 1;
                // Until its queue is empty, a socket is told of no other loss (`netlink_overrun()`): what is asked before that
                // might be answered in vain, and be waited for for ever.
                while let Ok(Received::Bytes(_) | Received::Overrun) =
                    self.changes.try_receive(&mut self.answer_buffer)
                {}
                self.give_up_changes("the kernel's answer was lost", events);
                return;
            }
        };
        let buffer = std::mem::take(&mut self.answer_buffer);
        for message in Messages::new(&buffer[..length]) {
            match message {
                Ok(message) => self.take_answer(&buffer, &message, events),
                Err(malformed) => {
                    warn!(%malformed, "answer of the kernel dropped");
                    self.dropped.0 += 1;
                }
            }
        }
        self.answer_buffer = buffer;
    }

    fn take_answer(&mut self, buffer: &[u8], message: &Message<'_>, events: &mut Vec<Event>) {
        let seq = message.header.seq;
        if let Some(replacement) = self.reads.remove(&seq) {
            self.take_read(replacement, buffer, message, events);
            return;
        }
        let answer = match message.control() {
            Ok(Some(Control::Answer(answer))) => answer,
            Ok(None) => return self.take_echo(buffer, message),
            Ok(_) => return,
            Err(malformed) => {
                warn!(%malformed, "answer of the kernel is malformed");
                self.dropped.0 += 1;
                return;
            }
        };
        let Some(mut changing) = self.pipeline.finish(seq) else { return };
        if let Changing::Adding { device: Some(device), .. } = &changing {
            // What it hangs on may have gone just before; the next is asked for with it, then.
            match answer.errno {
                None => self.hooked.insert(*device),
                Some(_) => self.hooked.remove(device),
            };
        }
        changing.keep_raw(&mut self.raws);
        if let Changing::Replacing { read, .. } = &changing {
            self.reads.remove(read);
        }
        let extack = answer.extack.text.as_deref().map(str::to_owned);
        events.push(match answer.errno {
            Some(errno) => changing.refused(errno, extack),
            None => changing.answered(Ok(Acked { extack })),
        });
    }

    /// The kernel shows a filter that is to be replaced.
    fn take_read(&mut self, replacement: Seq, buffer: &[u8], message: &Message<'_>, events: &mut Vec<Event>) {
        let raw = self.raws.copy(buffer, message);
        let Some(Changing::Replacing { op, before, before_raw, held, .. }) =
            self.pipeline.get_mut(replacement)
        else {
            return;
        };
        // An error says that the filter is not there; the replacement will say so, too.
        if let Ok(TcEvent::Filter(report)) = TcEvent::decode(message) {
            if held.is_some() && report.has_counted() {
                events.push(Event::Answer { op: *op, answer: Answer::Counted });
                self.pipeline.finish(replacement);
                return;
            }
            (*before, *before_raw) = (Some(report), raw);
        }
        if let Some(held) = held.take() {
            self.send_change(replacement, &held, events);
        }
    }

    /// The kernel shows the filter that it has just made for us.
    fn take_echo(&mut self, buffer: &[u8], message: &Message<'_>) {
        let raw = self.raws.copy(buffer, message);
        if let Ok(TcEvent::Filter(report)) = TcEvent::decode(message)
            && let Some(Changing::Adding { made, made_raw, .. }) = self.pipeline.get_mut(message.header.seq)
        {
            *made = Some(report);
            *made_raw = raw;
        }
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

mod errno {
    //! Numbers for what failed before the kernel was asked.
    use netlink_wire::Errno;
    pub(super) const AGAIN: Errno = Errno(11);
    pub(super) const INVALID: Errno = Errno(22);
    pub(super) const NO_BUFFERS: Errno = Errno(105);
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

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_wire::EtherType;
    use tc_flower::{Chain, FilterFlags, Handle, Match, Prio, ReplaceActions};

    /// A replacement that the kernel refuses to anybody: there is no such device.
    fn hopeless() -> Replacement {
        let address = FilterAddress {
            location: Location::ingress(Ifindex(i32::MAX.unsigned_abs())),
            chain: Chain(0),
            prio: Prio(1),
            protocol: EtherType::IPV4,
            handle: Handle(1),
        };
        let filter = Filter {
            address,
            flags: FilterFlags::SKIP_HW,
            class_id: None,
            indev: None,
            keys: Match::default(),
            actions: Vec::new(),
        };
        Replacement { filter, actions: ReplaceActions::Kept }
    }

    #[tokio::test]
    async fn an_answer_tells_the_kernels_time_and_not_what_it_waited_for_us() {
        const WAITED: std::time::Duration = std::time::Duration::from_millis(300);
        let mut tc = Tc::open(1 << 20, 2).unwrap();
        let mut events = Vec::new();
        // The third waits until one of the others is answered; the second is not sent before its filter is read.
        (0..3).for_each(|op| tc.replace(OpId(op), &hopeless(), op == 1, &mut events));
        assert_eq!(events, []);
        std::thread::sleep(WAITED);
        while events.len() < 3 {
            let ready = tc.ready().await.unwrap();
            tc.take(ready, &mut events).unwrap();
        }
        for event in events {
            let Event::Answer { answer: Answer::Replaced { result: Err(_), took: Some(took), .. }, .. } =
                event
            else {
                panic!("{event:?}");
            };
            assert!(u128::from(took.0) < WAITED.as_micros(), "{took:?}");
        }
        assert!(tc.pipeline.is_idle() && tc.reads.is_empty());
    }
}
