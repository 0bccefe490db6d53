//! Recordings of the flow table's history under way: what changed in the books, kept until somebody reads it.
//!
//! A session costs for each megaflow that appears, changes, moves something or ends; without a session nothing is done.
//! What there is no room for is counted and told in the recording itself, and never lost from its totals.

use crate::counters::Traffic;
use crate::engine::Engine;
use crate::ledger::{Entry, Home, Ledger};
use crate::ports::Ports;
use crate::subject;
use crate::world::{Tally, World};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::fmt;
use netlink_wire::{Ifindex, Ufid};
use policies::Micros;
use policies::language::Subject;
use policies::recording::{
    self, About, Amount, Epoch, FLOWS_MAX, MOVES_MAX, Move, Record, Scribe, Split, Start, write,
};
use tc_flower::Location;

/// Sessions at a time.
pub const SESSIONS_MAX: usize = 4;
/// The longest a session may go unread before it ends by itself.
pub const UNREAD_MAX: Micros = Micros::from_secs(60);
/// What is kept of a recording until it is read, in bytes, where nothing else is asked for.
pub const BUFFER_BYTES_MAX: usize = 32 << 20;
/// The most that one reading returns, in bytes.
pub const CHUNK_BYTES_MAX: usize = 4 << 20;
/// The longest a megaflow with the names it refers to can be, in bytes: more than 66 ports of two names each.
const FLOW_BYTES_MAX: usize = 48 << 10;
/// The longest a reading of one megaflow's counters can be, in bytes.
const MOVE_BYTES_MAX: usize = 48;
/// The longest that is told of a megaflow that is gone, and what else an epoch takes, in bytes.
const GONE_BYTES_MAX: usize = 8;
const EPOCH_BYTES_MAX: usize = 128;

/// A recording under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SessionId(pub u64);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Why there is no recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoSession {
    /// There are [`SESSIONS_MAX`] already.
    TooMany,
    /// There is none of that number (any more).
    Unknown,
    /// What is asked for was read and dropped, or is not there yet.
    OutOfReach,
}

impl fmt::Display for NoSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooMany => write!(f, "{SESSIONS_MAX} recordings are under way, and there cannot be more"),
            Self::Unknown => {
                let s = UNREAD_MAX.0 / 1_000_000;
                write!(f, "there is no such recording: it has ended, or was not read for {s} s")
            }
            Self::OutOfReach => f.write_str("this part of the recording is not kept"),
        }
    }
}

impl core::error::Error for NoSession {}

/// A part of a recording.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// The bytes; the stream is that of [`policies::recording`].
    pub bytes: Vec<u8>,
    /// Whether there is more already.
    pub has_more: bool,
    /// Whether the recording was stopped and this is the end of it.
    pub is_last: bool,
    /// Megaflows that are in the recording now.
    pub flows: u32,
}

/// A megaflow in a recording.
#[derive(Clone, Copy, Debug)]
struct Known {
    number: u32,
    /// What it moved in this epoch.
    moved: Traffic,
    /// It is not there any more.
    is_lost: bool,
}

#[derive(Clone, Debug)]
struct Session {
    id: SessionId,
    buffer: Vec<u8>,
    /// The most bytes that are kept; descriptions of megaflows take half of it at most.
    buffer_max: usize,
    /// Bytes that were dropped from the front of the buffer.
    dropped: u64,
    read_at: Micros,
    is_stopped: bool,
    scribe: Scribe,
    flows: BTreeMap<Ufid, Known>,
    free: Vec<u32>,
    /// Megaflows that moved something in this epoch, and those that were lost in it.
    moved: Vec<Ufid>,
    lost: Vec<Ufid>,
    /// Megaflows that there was no room for.
    pending: BTreeSet<Ufid>,
    /// What was counted for megaflows that are not in the recording.
    stray: Traffic,
    marked_at: Micros,
    tally: (u64, u64),
    merged: u32,
}

/// All recordings under way.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recordings {
    sessions: Vec<Session>,
    started: u64,
}

/// What megaflows are described from.
#[derive(Clone, Copy)]
struct Books<'a> {
    ledger: &'a Ledger,
    ports: &'a Ports,
}

fn amount(count: crate::Count) -> Amount {
    Amount { packets: count.packets, bytes: count.bytes }
}

fn split(traffic: Traffic) -> Split {
    Split { software: amount(traffic.software), hardware: amount(traffic.hardware) }
}

impl Session {
    fn new(id: SessionId, now: Micros, start: &Start, tally: &Tally, buffer_max: usize) -> Self {
        let mut buffer = Vec::new();
        write(&mut buffer, &Record::Start(*start));
        Self {
            id,
            buffer,
            buffer_max,
            dropped: 0,
            read_at: now,
            is_stopped: false,
            scribe: Scribe::new(),
            flows: BTreeMap::new(),
            free: Vec::new(),
            moved: Vec::new(),
            lost: Vec::new(),
            pending: BTreeSet::new(),
            stray: Traffic::default(),
            marked_at: now,
            tally: (tally.promotions, tally.demotions),
            merged: 0,
        }
    }

    /// Whether another megaflow can be described.
    fn has_room(&self) -> bool {
        self.buffer.len() + FLOW_BYTES_MAX <= self.buffer_max / 2
    }

    /// Writes down what a megaflow is; later, if there is no room now.
    fn describe(&mut self, ufid: Ufid, books: Books<'_>) {
        let Some(entry) = books.ledger.get(ufid) else { return };
        if matches!(entry.home, Home::Gone { .. }) {
            return;
        }
        if !self.has_room() {
            self.pending.insert(ufid);
            return;
        }
        let Some(number) = self.number(ufid) else { return };
        let mut outports = Vec::new();
        let subject = see(entry, books.ports, &mut outports);
        let about = About {
            number,
            appeared_us: entry.first_seen.0 as i64 - self.marked_at.0 as i64,
            home: match entry.home {
                Home::Tc(_) => recording::Home::Tc,
                Home::Datapath | Home::Gone { .. } => recording::Home::Datapath,
            },
            nic: entry.nic.filter(|_| entry.filter.is_some()).map(|nic| nic.0),
        };
        self.scribe.flow(&mut self.buffer, &about, &subject);
        self.pending.remove(&ufid);
    }

    /// The megaflow's number, given now if it has none.
    fn number(&mut self, ufid: Ufid) -> Option<u32> {
        if let Some(known) = self.flows.get_mut(&ufid) {
            known.is_lost = false;
            return Some(known.number);
        }
        let next = self.flows.len() as u32;
        let number = self.free.pop().or_else(|| (next < FLOWS_MAX).then_some(next))?;
        self.flows.insert(ufid, Known { number, moved: Traffic::default(), is_lost: false });
        Some(number)
    }

    fn moved(&mut self, ufid: Ufid, moved: Traffic) {
        let Some(known) = self.flows.get_mut(&ufid) else {
            self.stray += moved;
            return;
        };
        if known.moved.is_zero() {
            self.moved.push(ufid);
        }
        known.moved += moved;
    }

    fn lost(&mut self, ufid: Ufid) {
        self.pending.remove(&ufid);
        if let Some(known) = self.flows.get_mut(&ufid).filter(|known| !known.is_lost) {
            known.is_lost = true;
            self.lost.push(ufid);
        }
    }

    /// An epoch has ended.
    fn mark(&mut self, now: Micros, tally: &Tally, books: Books<'_>) {
        while self.has_room() {
            let Some(ufid) = self.pending.pop_first() else { break };
            self.describe(ufid, books);
        }
        let needs = EPOCH_BYTES_MAX
            + self.moved.len() * MOVE_BYTES_MAX
            + self.lost.len() * GONE_BYTES_MAX
            + self.moved.len() / MOVES_MAX * GONE_BYTES_MAX;
        if self.buffer.len() + needs > self.buffer_max {
            for moved in self.take_moves() {
                self.stray += moved.1;
            }
            self.merged = self.merged.saturating_add(1);
            return;
        }
        let mut moves: Vec<Move> =
            self.take_moves().into_iter().map(|(flow, moved)| Move { flow, moved: split(moved) }).collect();
        moves.sort_unstable_by_key(|moved| moved.flow);
        for part in moves.chunks(MOVES_MAX) {
            write(&mut self.buffer, &Record::Moved(part));
        }
        for ufid in core::mem::take(&mut self.lost) {
            if self.flows.get(&ufid).is_some_and(|known| known.is_lost)
                && let Some(known) = self.flows.remove(&ufid)
            {
                write(&mut self.buffer, &Record::Gone(known.number));
                self.free.push(known.number);
            }
        }
        let epoch = Epoch {
            // Nothing happens in no time.
            past: now.since(self.marked_at).max(Micros(1)),
            stray: split(core::mem::take(&mut self.stray)),
            promotions: tally.promotions - self.tally.0,
            demotions: tally.demotions - self.tally.1,
            merged: core::mem::take(&mut self.merged),
            left_out: self.pending.len() as u32,
        };
        write(&mut self.buffer, &Record::Epoch(epoch));
        self.marked_at = self.marked_at.plus(epoch.past);
        self.tally = (tally.promotions, tally.demotions);
    }

    /// What moved in this epoch, by number.
    fn take_moves(&mut self) -> Vec<(u32, Traffic)> {
        let moved = core::mem::take(&mut self.moved);
        let take = |ufid: &Ufid| {
            let known = self.flows.get_mut(ufid)?;
            Some((known.number, core::mem::take(&mut known.moved)))
        };
        moved.iter().filter_map(take).collect()
    }

    /// What comes after the first `from` bytes; those are dropped.
    fn read(&mut self, now: Micros, from: u64) -> Result<Chunk, NoSession> {
        let end = self.dropped + self.buffer.len() as u64;
        if !(self.dropped..=end).contains(&from) {
            return Err(NoSession::OutOfReach);
        }
        self.read_at = now;
        self.buffer.drain(..(from - self.dropped) as usize);
        self.dropped = from;
        let length = self.buffer.len().min(CHUNK_BYTES_MAX);
        Ok(Chunk {
            bytes: self.buffer.get(..length).unwrap_or_default().to_vec(),
            has_more: length < self.buffer.len(),
            is_last: self.is_stopped && length == self.buffer.len(),
            flows: self.flows.len() as u32,
        })
    }
}

/// A megaflow as conditions see it, but for what is measured.
fn see<'a>(
    entry: &Entry,
    ports: &'a Ports,
    outports: &'a mut Vec<policies::language::PortName<'a>>,
) -> Subject<'a> {
    if let Some(filter) = &entry.filter {
        return subject::of_filter(&filter.owner, ports, outports);
    }
    let mut subject = Subject::default();
    subject.inport = entry.port.and_then(|port| ports.get(port)).map(subject::name_of).unwrap_or_default();
    subject
}

impl Recordings {
    fn get(&mut self, id: SessionId) -> Result<&mut Session, NoSession> {
        self.sessions.iter_mut().find(|session| session.id == id).ok_or(NoSession::Unknown)
    }

    fn live(&mut self) -> impl Iterator<Item = &mut Session> {
        self.sessions.iter_mut().filter(|session| !session.is_stopped)
    }

    fn end_unread(&mut self, now: Micros) {
        self.sessions.retain(|session| now.since(session.read_at) < UNREAD_MAX);
    }
}

impl World {
    /// A megaflow appeared, or something else is true of it now.
    pub(crate) fn record_flow(&mut self, ufid: Ufid) {
        let books = Books { ledger: &self.ledger, ports: &self.ports };
        self.recordings.live().for_each(|session| session.describe(ufid, books));
    }

    /// A megaflow is not where it was, and nowhere else yet.
    pub(crate) fn record_lost(&mut self, ufid: Ufid) {
        self.recordings.live().for_each(|session| session.lost(ufid));
    }

    /// A megaflow moved something.
    pub(crate) fn record_moved(&mut self, ufid: Ufid, moved: Traffic) {
        self.recordings.live().for_each(|session| session.moved(ufid, moved));
    }

    /// A port is known otherwise now, and so is what comes in or goes out by it.
    pub(crate) fn record_port(&mut self, ifindex: Ifindex, location: Location) {
        if self.recordings.sessions.is_empty() {
            return;
        }
        for ufid in self.of_port(ifindex, location) {
            self.record_flow(ufid);
        }
    }

    /// An epoch has ended.
    pub(crate) fn record_epoch(&mut self, now: Micros) {
        self.recordings.end_unread(now);
        let books = Books { ledger: &self.ledger, ports: &self.ports };
        self.recordings.live().for_each(|session| session.mark(now, &self.tally, books));
    }
}

impl Engine {
    /// Begins to record; the recording begins with the megaflows there are. `wall_s` is the wall clock, in seconds since
    /// 1970; `buffer_max`, for example [`BUFFER_BYTES_MAX`], the most bytes that are kept unread.
    ///
    /// # Errors
    /// There are too many recordings.
    pub fn start_recording(
        &mut self,
        now: Micros,
        wall_s: u64,
        buffer_max: usize,
    ) -> Result<SessionId, NoSession> {
        let World { recordings, ledger, ports, settings, tally, .. } = &mut self.world;
        recordings.end_unread(now);
        if recordings.sessions.len() >= SESSIONS_MAX {
            return Err(NoSession::TooMany);
        }
        recordings.started += 1;
        let id = SessionId(recordings.started);
        let start = Start { wall_s, epoch: settings.epoch, is_anonymised: false };
        let mut session = Session::new(id, now, &start, tally, buffer_max);
        for (ufid, _) in ledger.iter() {
            session.describe(ufid, Books { ledger, ports });
        }
        recordings.sessions.push(session);
        Ok(id)
    }

    /// What was recorded after the first `from` bytes. Those before are dropped: what was read once and not asked for
    /// again is gone.
    ///
    /// # Errors
    /// There is no such recording, or not these bytes of it.
    pub fn read_recording(&mut self, now: Micros, id: SessionId, from: u64) -> Result<Chunk, NoSession> {
        let recordings = &mut self.world.recordings;
        recordings.end_unread(now);
        let chunk = recordings.get(id)?.read(now, from)?;
        if chunk.is_last && chunk.bytes.is_empty() {
            recordings.sessions.retain(|session| session.id != id);
        }
        Ok(chunk)
    }

    /// Ends a recording with what was counted up to now; the rest of it can be read yet.
    ///
    /// # Errors
    /// There is no such recording.
    pub fn stop_recording(&mut self, now: Micros, id: SessionId) -> Result<(), NoSession> {
        let World { recordings, ledger, ports, tally, .. } = &mut self.world;
        let session = recordings.get(id)?;
        if !session.is_stopped {
            session.mark(now, tally, Books { ledger, ports });
            session.is_stopped = true;
        }
        Ok(())
    }

    /// Recordings under way.
    pub fn recordings(&self) -> usize {
        self.world.recordings.sessions.len()
    }
}
