//! Questions to the kernel that are waited for, one at a time: for whoever has nothing else to do meanwhile.

use std::time::Duration;

use netlink_wire::genl::{self, FamilyId, FamilyReport};
use netlink_wire::message::Control;
use netlink_wire::{Answer, Malformed, Message, Messages, Seq};
use tokio::time::timeout;
use zeroize::Zeroize as _;

use super::{DATAGRAM_BYTES_MAX, Protocol, Received, Socket};
use crate::config::show_duration;

/// Times that a dump is tried again when the table changed meanwhile.
const TRIES: usize = 4;

/// Asks the kernel, one question at a time, and waits for the answer.
///
/// The kernel works on a request before it takes the next: one about a device whose lock is held keeps the thread that
/// asks waiting, whatever the limit.
#[derive(Debug)]
pub struct Asker {
    socket: Socket,
    limit: Duration,
    seq: u32,
    buffer: Vec<u8>,
}

/// What was received, for as long as it is read: among IPsec's answers are keys.
struct Wiped<'b>(&'b mut [u8]);

impl Drop for Wiped<'_> {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// What became of a question.
enum Asked<T> {
    All(Vec<T>),
    Interrupted,
}

impl Asker {
    /// Opens a socket; `limit` is the longest wait for one answer.
    ///
    /// # Errors
    /// Why there is none, in a sentence.
    pub fn open(protocol: Protocol, limit: Duration) -> Result<Self, String> {
        let socket =
            Socket::open(protocol, 4 << 20).map_err(|error| format!("no netlink socket: {error}"))?;
        Ok(Self { socket, limit, seq: 0, buffer: vec![0; DATAGRAM_BYTES_MAX] })
    }

    /// Asks, and reads what `part` makes of the messages of the answer, `most` at most.
    ///
    /// # Errors
    /// The kernel's refusal, which begins with the name of its errno, or why there is no answer.
    pub async fn ask<T>(
        &mut self,
        most: usize,
        request: impl Fn(Seq) -> Vec<u8>,
        part: impl Fn(&Message<'_>) -> Result<Option<T>, Malformed>,
    ) -> Result<Vec<T>, String> {
        for _ in 0..TRIES {
            self.seq += 1;
            let seq = Seq(self.seq);
            self.socket.send(&request(seq)).map_err(|error| error.to_string())?;
            let limit = self.limit;
            let answer = timeout(limit, self.answer(most, seq, &part)).await;
            match answer
                .map_err(|_| format!("the kernel did not answer within {}", show_duration(limit)))??
            {
                Asked::All(parts) => return Ok(parts),
                Asked::Interrupted => {}
            }
        }
        Err("it changed each time it was read".to_owned())
    }

    async fn answer<T>(
        &mut self,
        most: usize,
        seq: Seq,
        part: &impl Fn(&Message<'_>) -> Result<Option<T>, Malformed>,
    ) -> Result<Asked<T>, String> {
        let (mut parts, mut interrupted) = (Vec::new(), false);
        loop {
            let received = self.socket.receive(&mut self.buffer).await.map_err(|error| error.to_string())?;
            let Received::Bytes(length) = received else { return Ok(Asked::Interrupted) };
            let bytes = Wiped(&mut self.buffer[..length]);
            for message in Messages::new(bytes.0) {
                let message = message.map_err(|malformed| malformed.to_string())?;
                if message.header.seq != seq {
                    continue;
                }
                interrupted |= message.header.dump_was_interrupted();
                match message.control().map_err(|malformed| malformed.to_string())? {
                    Some(Control::Answer(answer) | Control::Done(answer)) => {
                        refused(&answer)?;
                        return Ok(if interrupted { Asked::Interrupted } else { Asked::All(parts) });
                    }
                    Some(_) => {}
                    // A message that is not understood is left out; the others are good.
                    None => parts.extend(part(&message).ok().flatten()),
                }
                if parts.len() >= most {
                    return Ok(Asked::All(parts));
                }
            }
        }
    }

    /// A generic netlink family by its name.
    ///
    /// # Errors
    /// Why it is not there.
    pub async fn family(&mut self, name: &str) -> Result<FamilyId, String> {
        Ok(self.family_report(name).await?.id)
    }

    /// A generic netlink family and its multicast groups.
    ///
    /// # Errors
    /// Why it is not there.
    pub async fn family_report(&mut self, name: &str) -> Result<FamilyReport, String> {
        let found =
            self.ask(1, |seq| genl::get_family(name, seq), |message| FamilyReport::decode(message).map(Some));
        let found = found.await.map_err(|why| format!("no family {name}: {why}"))?;
        found.into_iter().next().ok_or_else(|| format!("no family {name}"))
    }
}

fn refused(answer: &Answer) -> Result<(), String> {
    match (&answer.errno, &answer.extack.text) {
        (None, _) => Ok(()),
        (Some(errno), Some(text)) => Err(format!("{errno}: {text}")),
        (Some(errno), None) => Err(errno.to_string()),
    }
}
