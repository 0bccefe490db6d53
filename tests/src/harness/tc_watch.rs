//! A witness of every change to TC filters: who made it, and what was there before.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use netlink_wire::Messages;
use ovs_offloadd::io::netlink::{DATAGRAM_BYTES_MAX, Protocol, Received, Socket};
use tc_flower::{Change, FilterAddress, FilterFlags, FilterReport, TcEvent, request};

use super::{Failure, Outcome};

/// Holds the notifications of some ten thousand changes.
const BUFFER: usize = 256 << 20;
/// How often the watching thread looks whether it is to end.
const LOOK: Duration = Duration::from_millis(50);
/// `NLM_F_CREATE` of linux/netlink.h.
const NLM_F_CREATE: u16 = 0x400;

/// One change, in the order of RTNLGRP_TC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
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
}

#[derive(Debug, Default)]
struct Record {
    seen: Vec<Seen>,
    there: BTreeMap<FilterAddress, bool>,
    overruns: u64,
    unreadable: u64,
}

/// A thread that hears all notifications from when it was made.
#[derive(Debug)]
pub struct TcWatch {
    record: Arc<Mutex<Record>>,
    ended: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl TcWatch {
    /// Begins to watch. Filters that are there already are not known: begin before there are any, or flows that were
    /// there count as made by whoever changes them.
    pub fn start() -> Outcome<Self> {
        let record = Arc::new(Mutex::new(Record::default()));
        let ended = Arc::new(AtomicBool::new(false));
        let (told, is_ready) = std::sync::mpsc::channel();
        let (shared, end) = (Arc::clone(&record), Arc::clone(&ended));
        let thread = thread::spawn(move || {
            let _ = told.send(watch(&shared, &end, &told).map_err(|error| error.to_string()));
        });
        let ready = is_ready.recv().map_err(|_| Failure::new("the watching thread ended"))?;
        ready.map_err(Failure::new)?;
        Ok(Self { record, ended, thread: Some(thread) })
    }

    /// The changes of which `pick` is true, and a failure when a notification was lost or not readable.
    pub fn changes(&self, pick: impl Fn(&Seen) -> bool) -> Outcome<Vec<Seen>> {
        let record = self.record();
        crate::ensure!(
            record.overruns == 0 && record.unreadable == 0,
            "the witness of TC lost notifications: {} overruns, {} unreadable",
            record.overruns,
            record.unreadable
        );
        Ok(record.seen.iter().filter(|seen| pick(seen)).cloned().collect())
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for TcWatch {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

type Told = std::sync::mpsc::Sender<Result<(), String>>;

fn watch(record: &Mutex<Record>, ended: &AtomicBool, told: &Told) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let socket = Socket::open(Protocol::Route, BUFFER)?;
        socket.join(request::RTNLGRP_TC)?;
        // Who waits for it is there, or has given up on this thread.
        let _ = told.send(Ok(()));
        let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
        while !ended.load(Ordering::Relaxed) {
            let Ok(received) = tokio::time::timeout(LOOK, socket.receive(&mut buffer)).await else {
                continue;
            };
            let mut record = record.lock().unwrap_or_else(PoisonError::into_inner);
            match received? {
                Received::Bytes(length) => record.take(&buffer[..length]),
                Received::Overrun => record.overruns += 1,
                Received::Nothing => {}
            }
        }
        Ok(())
    })
}

impl Record {
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
        let before = match report.change {
            Change::New => self.there.insert(report.address, in_hw),
            Change::Deleted => self.there.remove(&report.address),
        };
        self.seen.push(Seen {
            portid,
            change: report.change,
            address: report.address,
            ufid: report.ufid().map(|ufid| ufid.to_string()).unwrap_or_default(),
            was_there: before.is_some(),
            was_in_hw: before == Some(true),
            in_hw,
            skip_hw: report.flags.contains(FilterFlags::SKIP_HW),
            creates: flags & NLM_F_CREATE != 0,
        });
    }
}
