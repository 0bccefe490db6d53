//! TC and devlink, one request at a time.

use std::collections::BTreeMap;
use std::time::Duration;

use netlink_wire::message::{Control, flags};
use netlink_wire::{Answer, Errno, Ifindex, Message, MessageWriter, Messages, Seq};
use tc_flower::request::{self, Detail};
use tc_flower::{Chain, Filter, FilterAddress, FilterFlags, Hook, Location, TcEvent};
use tokio::time::timeout;

use super::run::{Answered, Tc};
use super::scene::IngressQdisc;
use crate::config::show_duration;
use crate::io::netlink::{DATAGRAM_BYTES_MAX, Protocol, Received, Socket};

/// Messages of one answer that are read: a host has some thousands of qdiscs, and a probe's chain one filter.
const MESSAGES_MAX: usize = 1 << 20;
/// `RTM_GETQDISC` of `linux/rtnetlink.h`
const RTM_GETQDISC: u16 = 38;

/// A conversation with rtnetlink.
#[derive(Debug)]
pub(super) struct Rtnetlink {
    socket: Socket,
    limit: Duration,
    seq: u32,
    buffer: Vec<u8>,
}

impl Rtnetlink {
    pub(super) fn open(limit: Duration) -> Result<Self, String> {
        let socket =
            Socket::open(Protocol::Route, 4 << 20).map_err(|error| format!("no netlink socket: {error}"))?;
        Ok(Self { socket, limit, seq: 0, buffer: vec![0; DATAGRAM_BYTES_MAX] })
    }

    fn next_seq(&mut self) -> Seq {
        self.seq += 1;
        Seq(self.seq)
    }

    /// Sends one request and takes what answers it, up to the ack or the end of the dump.
    async fn ask(
        &mut self,
        seq: Seq,
        request: &[u8],
        mut take: impl FnMut(&Message<'_>),
    ) -> Result<Answer, String> {
        self.socket.send(request).map_err(|error| format!("the kernel cannot be asked: {error}"))?;
        let limit = self.limit;
        let answer = timeout(limit, self.answer(seq, &mut take)).await;
        answer.map_err(|_| format!("the kernel did not answer within {}", show_duration(limit)))?
    }

    async fn answer(&mut self, seq: Seq, take: &mut impl FnMut(&Message<'_>)) -> Result<Answer, String> {
        for _ in 0..MESSAGES_MAX {
            let received = self.socket.receive(&mut self.buffer).await;
            let length = match received.map_err(|error| format!("the kernel's answer: {error}"))? {
                Received::Bytes(length) => length,
                Received::Overrun | Received::Nothing => {
                    return Err("the kernel's answer was lost".to_owned());
                }
            };
            for message in Messages::new(&self.buffer[..length]) {
                let message = message.map_err(|malformed| malformed.to_string())?;
                if message.header.seq != seq {
                    continue;
                }
                match message.control().map_err(|malformed| malformed.to_string())? {
                    Some(Control::Answer(answer) | Control::Done(answer)) => return Ok(answer),
                    Some(_) => {}
                    None => take(&message),
                }
            }
        }
        Err("the kernel's answer has no end".to_owned())
    }

    /// Every qdisc with an ingress hook, by its device.
    pub(super) async fn qdiscs(&mut self) -> Result<BTreeMap<Ifindex, IngressQdisc>, String> {
        let seq = self.next_seq();
        let mut writer = MessageWriter::new(RTM_GETQDISC, flags::REQUEST | flags::DUMP, seq);
        // An empty struct tcmsg.
        writer.fixed(&[0; 20]);
        let request = writer.finish().map_err(|error| error.to_string())?;
        let mut found = BTreeMap::new();
        let answer = self
            .ask(seq, &request, |message| {
                if let Ok(TcEvent::Qdisc(qdisc)) = TcEvent::decode(message)
                    && qdisc.has_hook(Hook::Ingress)
                {
                    let ingress = IngressQdisc { kind: qdisc.kind.into(), block: qdisc.ingress_block };
                    found.insert(qdisc.ifindex, ingress);
                }
            })
            .await?;
        said(&answer).map(|()| found)
    }
}

fn said(answer: &Answer) -> Result<(), String> {
    match (answer.errno, &answer.extack.text) {
        (None, _) => Ok(()),
        (Some(errno), Some(text)) => Err(format!("{errno}: {text}")),
        (Some(errno), None) => Err(errno.to_string()),
    }
}

impl Tc for Rtnetlink {
    async fn install(&mut self, filter: &Filter) -> Result<Answered, String> {
        let seq = self.next_seq();
        let request = request::add(filter, seq).map_err(|why| why.to_string())?;
        let mut is_in_hw = false;
        let answer = self
            .ask(seq, &request, |message| {
                if let Ok(TcEvent::Filter(report)) = TcEvent::decode(message) {
                    is_in_hw |= report.flags.contains(FilterFlags::IN_HW);
                }
            })
            .await?;
        let text = answer.extack.text.as_ref().map(ToString::to_string);
        Ok(match answer.errno {
            Some(errno) => Answered::Refused(errno, text),
            None => Answered::Installed { is_in_hw, text },
        })
    }

    async fn remove(&mut self, address: &FilterAddress) -> Result<(), String> {
        let seq = self.next_seq();
        let answer = self.ask(seq, &request::delete(address, seq), |_| {}).await?;
        match answer.errno {
            // Somebody was faster: Open vSwitch clears a port of all filters when it takes it on.
            Some(Errno::ENOENT | Errno::ENODEV) => Ok(()),
            _ => said(&answer),
        }
    }

    async fn filters(&mut self, location: Location, chain: Chain) -> Result<Vec<FilterAddress>, String> {
        let seq = self.next_seq();
        let request = request::dump(location, Some(chain), Detail::Terse, seq);
        let mut found = Vec::new();
        let answer = self
            .ask(seq, &request, |message| {
                if let Ok(TcEvent::Filter(report)) = TcEvent::decode(message)
                    && report.address.chain == chain
                {
                    found.push(report.address);
                }
            })
            .await?;
        match answer.errno {
            // Neither device, qdisc nor block is there, and so no filter.
            Some(Errno::ENODEV | Errno::EINVAL | Errno::ENOENT) => Ok(Vec::new()),
            _ => said(&answer).map(|()| found),
        }
    }
}
