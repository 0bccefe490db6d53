//! A witness of every change to TC filters: who made it, and what was there before.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use netlink_wire::{Control, Errno, Message, Messages, Seq};
use ovs_offloadd::io::netlink::{DATAGRAM_BYTES_MAX, Protocol, Received, Socket};
use tc_flower::action::{ActionKind, PeditHeader};
use tc_flower::{Change, FilterAddress, FilterFlags, FilterReport, TcEvent, request};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::{Failure, Outcome, run};

/// Holds the notifications of some ten thousand changes.
const BUFFER: usize = 256 << 20;
/// `NLM_F_CREATE` of linux/netlink.h.
const NLM_F_CREATE: u16 = 0x400;

/// One change, in the order of RTNLGRP_TC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// When it was heard of.
    pub at: Instant,
    /// The port id of the socket that asked for it.
    pub portid: u32,
    /// Made or changed, or deleted.
    pub change: Change,
    /// Where.
    pub address: FilterAddress,
    /// The megaflow, as Open vSwitch prints its ufid.
    pub ufid: String,
    /// Whether a filter was there just before.
    pub was_there: bool,
    /// Whether the one before was in hardware.
    pub was_in_hw: bool,
    /// Whether it is in hardware now.
    pub in_hw: bool,
    /// Whether it is kept out of hardware now.
    pub skip_hw: bool,
    /// Whether the request would have made a filter where none was.
    pub creates: bool,
    /// It is the end of a filter that was there before the one that is.
    pub late: bool,
    /// The UDP source port that is matched, if one is.
    pub source_port: Option<u16>,
    /// The TOS that packets are given; 0 where they keep theirs.
    pub tos: u8,
}

/// What is known of a filter that is there.
#[derive(Debug, Clone, Copy, Default)]
struct Known {
    in_hw: bool,
    /// It was replaced where none was known: told out of order, or else made by that.
    doubtful: bool,
    /// Deletions that have to come yet of filters that were there before: the kernel makes one where none is, so whose
    /// deletion was not told by then is told late.
    late_deletions: u32,
}

#[derive(Debug, Default)]
struct Record {
    seen: Vec<Seen>,
    there: BTreeMap<FilterAddress, Known>,
    overruns: u64,
    unreadable: u64,
}

/// Answered once everything is noted that the kernel had told before it was asked.
type Question = std::sync::mpsc::Sender<()>;

/// A thread that hears all notifications from when it was made.
#[derive(Debug)]
pub struct TcWatch {
    record: Arc<Mutex<Record>>,
    /// The thread ends with it.
    questions: Option<UnboundedSender<Question>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl TcWatch {
    /// Begins to watch. Filters that are there already are not known: begin before there are any, or flows that were
    /// there count as made by whoever changes them.
    pub fn start() -> Outcome<Self> {
        let record = Arc::new(Mutex::new(Record::default()));
        let (questions, asked) = unbounded_channel();
        let (told, is_ready) = std::sync::mpsc::channel();
        let shared = Arc::clone(&record);
        let thread = thread::spawn(move || {
            let _ = told.send(watch(&shared, asked, &told).map_err(|error| error.to_string()));
        });
        let ready = is_ready.recv().map_err(|_| Failure::new("the watching thread ended"))?;
        ready.map_err(Failure::new)?;
        Ok(Self { record, questions: Some(questions), thread: Some(thread) })
    }

    /// The changes so far of which `pick` is true, and a failure when a notification was lost or not readable.
    pub fn changes(&self, pick: impl Fn(&Seen) -> bool) -> Outcome<Vec<Seen>> {
        self.hear_all()?;
        let record = self.record();
        crate::ensure!(
            record.overruns == 0 && record.unreadable == 0,
            "the witness of TC lost notifications: {} overruns, {} unreadable",
            record.overruns,
            record.unreadable
        );
        Ok(record.seen.iter().filter(|seen| pick(seen)).cloned().collect())
    }

    /// How many changes there were so far.
    pub fn len(&self) -> usize {
        // A thread that has ended is told of by whoever asks for the changes.
        let _ = self.hear_all();
        self.record().seen.len()
    }

    /// Whether there were none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fails when one of the sockets `ours` made a filter where none was, or asked in a way that could have. Otherwise:
    /// how many of their changes were told out of order.
    ///
    /// flower changes a filter under a lock and tells of it under none (`fl_change`, `tc_new_tfilter`, `tc_del_tfilter`
    /// of Linux 6.12). So a replacement may be told after the deletion that came right after it, or before the creation
    /// that came right before it, as if it had made a filter. It has not where the next that others tell of the place
    /// is that they make a filter (which the kernel puts where none is), or where they tell nothing more and the kernel
    /// has none there.
    pub fn ensure_nothing_created(&self, ours: &BTreeSet<u32>) -> Outcome<usize> {
        let changes = self.changes(|_| true)?;
        let mut out_of_order = 0;
        for (at, seen) in changes.iter().enumerate() {
            if !ours.contains(&seen.portid) || seen.change == Change::Deleted {
                continue;
            }
            crate::ensure!(!seen.creates, "ovs-offloadd asked for a filter to be made: {seen:?}");
            if seen.was_there {
                continue;
            }
            let mut others = changes[at..]
                .iter()
                .filter(|next| next.address == seen.address && !ours.contains(&next.portid));
            let was_free = match others.next() {
                Some(next) => next.change == Change::New && next.creates,
                None => !is_there(&seen.address)?,
            };
            crate::ensure!(
                was_free,
                "ovs-offloadd made a filter where none was: {seen:?}; at that place were told, in order: {:?}",
                at_place(&changes, &seen.address, ours)
            );
            out_of_order += 1;
        }
        Ok(out_of_order)
    }

    /// Waits until everything is noted that the kernel has told by now. It tells of a change before it answers who asked
    /// for it: whoever has seen that a change was made finds it here.
    fn hear_all(&self) -> Outcome {
        let ended = || Failure::new("the witness of TC has ended");
        let (answer, is_answered) = std::sync::mpsc::channel();
        let questions = self.questions.as_ref().ok_or_else(ended)?;
        questions.send(answer).map_err(|_| ended())?;
        is_answered.recv().map_err(|_| ended())
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        locked(&self.record)
    }
}

fn locked(record: &Mutex<Record>) -> MutexGuard<'_, Record> {
    record.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for TcWatch {
    fn drop(&mut self) {
        drop(self.questions.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

type Told = std::sync::mpsc::Sender<Result<(), String>>;

fn watch(
    record: &Mutex<Record>,
    mut questions: UnboundedReceiver<Question>,
    told: &Told,
) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let socket = Socket::open(Protocol::Route, BUFFER)?;
        socket.join(request::RTNLGRP_TC)?;
        // Who waits for it is there, or has given up on this thread.
        let _ = told.send(Ok(()));
        let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
        loop {
            tokio::select! {
                received = socket.receive(&mut buffer) => locked(record).hear(&received?, &buffer),
                question = questions.recv() => {
                    let Some(answer) = question else { return Ok(()) };
                    loop {
                        match socket.try_receive(&mut buffer)? {
                            Received::Nothing => break,
                            received => locked(record).hear(&received, &buffer),
                        }
                    }
                    // Who has asked is there, or has given up.
                    let _ = answer.send(());
                }
            }
        }
    })
}

impl Record {
    fn hear(&mut self, received: &Received, buffer: &[u8]) {
        match received {
            Received::Bytes(length) => self.take(&buffer[..*length]),
            Received::Overrun => self.overruns += 1,
            Received::Nothing => {}
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        for message in Messages::new(bytes) {
            let event = message.and_then(|message| Ok((message.header, TcEvent::decode(&message)?)));
            match event {
                Ok((header, TcEvent::Filter(report))) => self.note(header.portid.0, header.flags, &report),
                Ok((_, TcEvent::Prio { change: Change::Deleted, address })) => self.there.retain(|at, _| {
                    (at.location, at.chain, at.prio) != (address.location, address.chain, address.prio)
                }),
                Ok((_, TcEvent::Chain { change: Change::Deleted, location, chain })) => {
                    self.there.retain(|at, _| (at.location, at.chain) != (location, chain));
                }
                Ok(_) => {}
                Err(_) => self.unreadable += 1,
            }
        }
    }

    fn note(&mut self, portid: u32, flags: u16, report: &FilterReport) {
        let in_hw = report.change == Change::New && report.is_in_hw();
        let creates = flags & NLM_F_CREATE != 0;
        let known = self.there.get(&report.address).copied();
        let before = known.filter(|known| !known.doubtful);
        let late_deletions = known.map_or(0, |known| known.late_deletions);
        match report.change {
            Change::New => {
                let late_deletions = late_deletions + u32::from(creates && before.is_some());
                let doubtful = !creates && before.is_none();
                self.there.insert(report.address, Known { in_hw, doubtful, late_deletions });
            }
            Change::Deleted if late_deletions > 0 => {
                let known = self.there.entry(report.address).or_default();
                known.late_deletions -= 1;
            }
            Change::Deleted => drop(self.there.remove(&report.address)),
        }
        self.seen.push(Seen {
            at: Instant::now(),
            portid,
            change: report.change,
            address: report.address,
            ufid: report.ufid().map(|ufid| ufid.to_string()).unwrap_or_default(),
            was_there: before.is_some(),
            was_in_hw: before.is_some_and(|before| before.in_hw),
            in_hw,
            skip_hw: report.flags.contains(FilterFlags::SKIP_HW),
            creates,
            late: report.change == Change::Deleted && late_deletions > 0,
            source_port: report.keys.udp.src.map(|port| port.value),
            tos: tos(report),
        });
    }
}

/// The TOS that a filter writes into IPv4 headers; 0 if it writes none.
fn tos(report: &FilterReport) -> u8 {
    let pedits = report.actions.iter().filter_map(|report| match &report.action.kind {
        ActionKind::Pedit(pedit) => Some(pedit),
        _ => None,
    });
    let mut keys = pedits.flat_map(|pedit| &pedit.keys);
    // The second byte of the header; the mask has the bits that stay.
    let writes = keys.find(|key| key.header == PeditHeader::Ipv4 && key.offset == 0 && key.keep[1] != 0xff);
    writes.map_or(0, |key| key.value[1])
}

/// All that was told of one place: who did what, and the flags that matter.
fn at_place(changes: &[Seen], address: &FilterAddress, ours: &BTreeSet<u32>) -> Vec<String> {
    let told = changes.iter().enumerate().filter(|(_, seen)| seen.address == *address);
    told.map(|(at, seen)| {
        let who = if ours.contains(&seen.portid) { "us" } else { "others" };
        let Seen { change, ufid, portid, creates, skip_hw, .. } = seen;
        format!("{at}: {change:?} by {who} ({portid}) {ufid} creates {creates} skip_hw {skip_hw}")
    })
    .collect()
}

/// Whether the kernel has a filter there now.
fn is_there(address: &FilterAddress) -> Outcome<bool> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let socket = Socket::open(Protocol::Route, 1 << 20)?;
        socket.send(&request::get(address, Seq(1)))?;
        let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
        let Received::Bytes(length) = socket.receive(&mut buffer).await? else {
            return Err(Failure::new("the answer to one request overran its socket"));
        };
        match Message::first(&buffer[..length])?.control()? {
            None => Ok(true),
            Some(Control::Answer(answer)) if answer.errno == Some(Errno::ENOENT) => Ok(false),
            Some(other) => Err(Failure::new(format!("the kernel answers {other:?} about {address:?}"))),
        }
    })
}

/// The port ids of the netlink sockets that the process `pid` has open.
pub fn netlink_sockets(pid: u32) -> Outcome<BTreeSet<u32>> {
    let mut inodes = BTreeSet::new();
    for file in fs::read_dir(format!("/proc/{pid}/fd"))? {
        // A file that was closed meanwhile is no socket of interest.
        let Ok(target) = fs::read_link(file?.path()) else { continue };
        let name = target.to_string_lossy().into_owned();
        inodes
            .extend(name.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']').map(str::to_owned)));
    }
    let table = run("cat", &["/proc/net/netlink"])?;
    let rows = table.lines().skip(1).map(|row| row.split_whitespace().collect::<Vec<_>>());
    Ok(rows
        .filter(|row| row.last().is_some_and(|inode| inodes.contains(*inode)))
        .filter_map(|row| row.get(2)?.parse().ok())
        .collect())
}
