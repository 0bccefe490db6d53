//! The daemon's side of the guard: asks for its lease from the main loop, so that a loop that hangs loses it.
//!
//! The lease ends by our own clock, counted from when the beat was *sent* that was answered with it: before the guard's patience
//! does. Whatever the engine wants made after that is refused here ([`Guard::may_make`]), and what is there goes.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use offload_engine::{Event, Lease, Micros};
use tokio::io::unix::AsyncFd;
use tracing::{debug, info, warn};

use super::{Connection, now};
use crate::guard::protocol::{BYTES_MAX, DEVICES_MAX, FromGuard, ToGuard, VERSION};
use crate::io::seqpacket::{self, Packet};

/// Between two beats. The shortest lease is 100 ms ([`crate::guard::Terms`]); the usual one is 3 s.
const BEAT_EVERY: Micros = Micros::from_millis(250);
/// Between two beats while there is no lease yet, and between two tries to connect.
const ASK_EVERY: Micros = Micros::from_millis(50);
/// For so long what was taken over stays without a lease: the guard removes what was not, first.
const TAKEN_OVER_FOR: Micros = Micros::from_secs(3);
/// Beats that are not answered yet, at most: what is older is late.
const UNANSWERED_MAX: usize = 64;

/// Where the guard is, if any, and what it has said.
#[derive(Debug)]
pub(super) struct Guard {
    /// None where none is needed.
    socket: Option<PathBuf>,
    link: Option<AsyncFd<OwnedFd>>,
    /// As the engine was told.
    lease: Lease,
    /// When it ends: the lease, or the time for the guard to give it after rules were taken over.
    until: Micros,
    /// Beats that are not answered, by their number, with when they were sent.
    sent: std::collections::VecDeque<(u64, Micros)>,
    seq: u64,
    next: Micros,
    buffer: Vec<u8>,
    /// For `status`.
    pub(super) connection: Connection,
    /// Rules that the guard says it has removed.
    pub(super) removed: u64,
}

impl Guard {
    pub(super) fn new() -> Self {
        Self {
            socket: None,
            link: None,
            lease: Lease::None,
            until: Micros::ZERO,
            sent: std::collections::VecDeque::new(),
            seq: 0,
            next: Micros::ZERO,
            buffer: vec![0; BYTES_MAX],
            connection: Connection::default(),
            removed: 0,
        }
    }

    /// Whether a guard is needed.
    pub(super) fn is_needed(&self) -> bool {
        self.socket.is_some()
    }

    /// Whether it has been reached.
    pub(super) fn is_connected(&self) -> bool {
        self.link.is_some()
    }

    /// Whether a rule may be made at this moment.
    pub(super) fn may_make(&self, now: Micros) -> bool {
        self.socket.is_none() || self.lease == Lease::Held && now < self.until
    }

    /// The guard is needed, at this place, or not any more.
    pub(super) fn need(&mut self, socket: Option<&Path>, events: &mut Vec<Event>) {
        if self.socket.as_deref() == socket {
            return;
        }
        self.leave(events);
        self.socket = socket.map(Path::to_path_buf);
        (self.next, self.connection) = (Micros::ZERO, Connection::default());
    }

    /// Takes leave: there are no rules of ours any more, or nobody is to guard them.
    pub(super) fn leave(&mut self, events: &mut Vec<Event>) {
        if self.link.is_some() {
            let _ = self.say(&ToGuard::Bye);
        }
        self.link = None;
        self.become_of(Lease::None, Micros::ZERO, events);
    }

    /// When [`turn`](Self::turn) has something to do.
    pub(super) async fn due(&self) {
        let Some(_) = self.socket else { return std::future::pending().await };
        let at = self.ends_at().map_or(self.next, |until| until.min(self.next));
        tokio::time::sleep(std::time::Duration::from_micros(at.since(now()).0)).await;
    }

    /// Waits for the guard to say something. Cancel-safe: nothing is read here.
    pub(super) async fn ready(&self) {
        let Some(link) = &self.link else { return std::future::pending().await };
        // What it fails for shows when it is read.
        if let Ok(mut ready) = link.readable().await {
            ready.clear_ready();
        }
    }

    /// One turn of the main loop: hears what was said, ends what has run out, and beats if it is time.
    pub(super) fn turn(&mut self, events: &mut Vec<Event>) {
        let Some(socket) = self.socket.clone() else { return };
        self.listen(events);
        let time = now();
        if self.ends_at().is_some_and(|until| time >= until) {
            warn!("the guard has given no lease in time: rules of ours go");
            self.become_of(Lease::None, Micros::ZERO, events);
        }
        if time < self.next {
            return;
        }
        let said = match self.link {
            None => self.connect(&socket),
            Some(_) => self.beat(time),
        };
        if let Err(why) = said {
            self.lose(&why, events);
        }
        let every = if self.lease == Lease::Held && self.link.is_some() { BEAT_EVERY } else { ASK_EVERY };
        self.next = time.plus(every);
        self.listen(events);
    }

    /// When what holds now ends, by itself.
    fn ends_at(&self) -> Option<Micros> {
        (self.lease == Lease::Held || self.until != Micros::ZERO).then_some(self.until)
    }

    fn connect(&mut self, socket: &Path) -> Result<(), String> {
        let broken = |error: io::Error| format!("{}: {error}", socket.display());
        let link = seqpacket::connect(socket).map_err(broken)?;
        self.link = Some(seqpacket::register(link).map_err(broken)?);
        self.sent.clear();
        self.sent.push_back((0, now()));
        self.say(&ToGuard::Hello { version: VERSION, answers: self.lease == Lease::Held }).map_err(broken)
    }

    fn beat(&mut self, time: Micros) -> Result<(), String> {
        if self.sent.len() >= UNANSWERED_MAX {
            return Ok(());
        }
        self.seq += 1;
        self.sent.push_back((self.seq, time));
        match self.say(&ToGuard::Beat { seq: self.seq }) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error.to_string()),
            _ => Ok(()),
        }
    }

    /// What an earlier daemon left was taken over, on these devices, or is being removed.
    pub(super) fn took_over(&mut self, mut devices: Vec<u32>, events: &mut Vec<Event>) {
        if self.link.is_none() || self.lease != Lease::TakingOver {
            return;
        }
        // The rules of those beyond are removed, and made anew.
        devices.truncate(DEVICES_MAX);
        match self.say(&ToGuard::Took { devices }) {
            Ok(()) => self.until = now().plus(TAKEN_OVER_FOR),
            Err(error) => self.lose(&error.to_string(), events),
        }
    }

    fn say(&self, words: &ToGuard) -> io::Result<()> {
        let Some(link) = &self.link else { return Err(io::ErrorKind::NotConnected.into()) };
        seqpacket::send(link.get_ref(), &serde_json::to_vec(words).map_err(io::Error::other)?)
    }

    fn listen(&mut self, events: &mut Vec<Event>) {
        for _ in 0..UNANSWERED_MAX {
            let Some(link) = &self.link else { return };
            match seqpacket::receive(link.get_ref(), &mut self.buffer) {
                Ok(Packet::Nothing) => return,
                Ok(Packet::Bytes(length)) => match serde_json::from_slice(&self.buffer[..length]) {
                    Ok(said) => self.hear(said, events),
                    Err(error) => self.lose(&format!("what it says is not understood: {error}"), events),
                },
                Ok(Packet::End) => self.lose("ovs-offload-guard is gone", events),
                Err(error) => self.lose(&error.to_string(), events),
            }
        }
    }

    fn hear(&mut self, said: FromGuard, events: &mut Vec<Event>) {
        match said {
            FromGuard::Lease { seq, for_ms, removed, .. } => {
                self.removed = removed;
                let Some(at) = self.sent.iter().position(|(sent, _)| *sent == seq) else { return };
                let sent = self.sent.drain(..=at).next_back().map_or(Micros::ZERO, |(_, sent)| sent);
                if self.connection.set(Ok(())) {
                    info!("the guard is there");
                }
                let until = sent.plus(Micros::from_millis(for_ms));
                if now() < until {
                    self.become_of(Lease::Held, until, events);
                } else if for_ms == 0 && self.lease == Lease::None {
                    self.become_of(Lease::TakingOver, Micros::ZERO, events);
                }
            }
            FromGuard::Taken => {
                warn!("the guard has removed our rules, since we were silent for too long");
                self.become_of(Lease::None, Micros::ZERO, events);
                self.lose("it has removed our rules", events);
                self.next = Micros::ZERO;
            }
            FromGuard::Busy => self.lose("another ovs-offloadd is there", events),
            FromGuard::OtherVersion { version } => {
                self.lose(&format!("ovs-offload-guard is of another version ({version})"), events);
            }
        }
    }

    /// The connection is gone. A lease that was given holds as long as it was given for; the guard may be back before.
    fn lose(&mut self, why: &str, events: &mut Vec<Event>) {
        self.link = None;
        match self.connection.set(Err(why.to_owned())) {
            true => warn!(%why, "the guard is not there"),
            false => debug!(%why, "the guard is not there"),
        }
        if self.lease != Lease::Held {
            self.become_of(Lease::None, Micros::ZERO, events);
        }
    }

    fn become_of(&mut self, lease: Lease, until: Micros, events: &mut Vec<Event>) {
        self.until = until;
        if std::mem::replace(&mut self.lease, lease) != lease {
            events.push(Event::Lease(lease));
        }
    }
}

#[cfg(test)]
mod tests;
