//! Changes of filters: they are asked for, timed, and answered to the engine with what was there before or was made.

use std::time::Instant;

use netlink_wire::message::Control;
use netlink_wire::{Ifindex, Message, Messages, Seq};
use offload_engine::{Acked, Answer, Event, Micros, OpId, Refused, Replacement};
use tc_flower::{Filter, FilterAddress, FilterReport, Location, TcEvent, request};
use tracing::warn;

use super::Tc;
use crate::event_log::Raws;
use crate::io::netlink::Received;

/// A change under way.
#[derive(Debug)]
pub(super) enum Changing {
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
    pub(super) fn op(&self) -> OpId {
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

impl Tc {
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
    pub(super) fn send_changes(&mut self, events: &mut Vec<Event>) {
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

    pub(super) fn take_answers(&mut self, received: Received, events: &mut Vec<Event>) {
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
}

mod errno {
    //! Numbers for what failed before the kernel was asked.
    use netlink_wire::Errno;
    pub(super) const AGAIN: Errno = Errno(11);
    pub(super) const INVALID: Errno = Errno(22);
    pub(super) const NO_BUFFERS: Errno = Errno(105);
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
