//! The guard's loop: one daemon at a time is listened to, and what is due is removed.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use offload_engine::Micros;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sd_notify::NotifyState;
use signal_hook::consts::{SIGINT, SIGTERM};
use tracing::{debug, error, info, warn};

use super::protocol::{BYTES_MAX, FromGuard, ToGuard, VERSION};
use super::sweep::sweep;
use super::watch::Reply;
use super::{Heard, Terms, Watch};
use crate::config::show_duration;
use crate::io::netlink::Blocking;
use crate::io::seqpacket::{self, Packet};

/// The longest wait for a part of the kernel's answer.
const KERNEL_LIMIT: Duration = Duration::from_secs(5);
/// Between two signs of life to systemd at most.
const ALIVE_EVERY: Duration = Duration::from_secs(1);
/// Packets read before the clock is looked at again.
const PACKETS_PER_TURN: usize = 64;
/// Rules that are told one by one of one removal; the rest is counted.
const TOLD_MAX: u64 = 100;

/// The monotonic clock.
fn now() -> Micros {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let micros = i128::from(time.tv_sec) * 1_000_000 + i128::from(time.tv_nsec) / 1_000;
    Micros(u64::try_from(micros).unwrap_or_default())
}

/// Runs the guard until it is told to end.
///
/// # Errors
/// One sentence that says why it cannot run.
pub fn run(socket: &Path, terms: Terms) -> Result<(), String> {
    let cannot = |what: &str, error: io::Error| format!("cannot {what}: {error}");
    if let Some(directory) = socket.parent() {
        std::fs::create_dir_all(directory)
            .map_err(|error| cannot(&format!("make {}", directory.display()), error))?;
    }
    let is_over = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        signal_hook::flag::register(signal, Arc::clone(&is_over))
            .map_err(|error| cannot("listen to signals", error))?;
    }
    let kernel = Blocking::open(KERNEL_LIMIT).map_err(|error| cannot("open a netlink socket", error))?;
    let note = socket.with_extension("due");
    let noted = read_note(&note);
    let listener = seqpacket::listen(socket)
        .map_err(|error| cannot(&format!("listen at {}", socket.display()), error))?;
    let mut guard = Guard {
        watch: Watch::new(now(), terms, noted),
        kernel,
        daemon: None,
        buffer: vec![0; BYTES_MAX],
        note,
        noted,
        removed: 0,
        trouble: None,
    };
    guard.keep_note();
    let _ = sd_notify::notify(&[NotifyState::Ready]);
    info!(socket = %socket.display(), lease = show_duration(terms.lease), grace = show_duration(terms.grace), "ready");
    while !is_over.load(Ordering::Relaxed) {
        guard.wait(&listener)?;
        guard.listen(&listener);
        guard.act();
        let _ = sd_notify::notify(&[NotifyState::Watchdog]);
    }
    let _ = sd_notify::notify(&[NotifyState::Stopping]);
    guard.end();
    Ok(())
}

/// When an earlier guard noted that rules are due. What is not a time of this boot is none.
fn read_note(path: &Path) -> Option<Micros> {
    let text = std::fs::read_to_string(path).ok()?;
    text.trim().parse().ok().map(Micros)
}

struct Guard {
    watch: Watch,
    kernel: Blocking,
    daemon: Option<OwnedFd>,
    buffer: Vec<u8>,
    /// Where is noted when rules are due, and what is.
    note: PathBuf,
    noted: Option<Micros>,
    /// Rules removed since the start.
    removed: u64,
    /// What was last in the way of a removal.
    trouble: Option<String>,
}

impl Guard {
    /// Waits for something to happen, or the time for something. A signal that comes just before is noticed a second later.
    fn wait(&self, listener: &OwnedFd) -> Result<(), String> {
        let until = self.watch.wake_at().map(|at| Duration::from_micros(at.since(now()).0));
        let limit = until.unwrap_or(ALIVE_EVERY).min(ALIVE_EVERY);
        let limit = Timespec { tv_sec: limit.as_secs().cast_signed(), tv_nsec: limit.subsec_nanos().into() };
        let mut waited = vec![PollFd::new(listener, PollFlags::IN)];
        waited.extend(self.daemon.as_ref().map(|daemon| PollFd::new(daemon, PollFlags::IN)));
        match poll(&mut waited, Some(&limit)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(errno) => Err(format!("cannot wait: {errno}")),
        }
    }

    /// Takes what the daemon says, and daemons that come.
    fn listen(&mut self, listener: &OwnedFd) {
        for _ in 0..PACKETS_PER_TURN {
            let Some(daemon) = &self.daemon else { break };
            match seqpacket::receive(daemon, &mut self.buffer) {
                Ok(Packet::Nothing) => break,
                Ok(Packet::Bytes(length)) => match serde_json::from_slice(&self.buffer[..length]) {
                    Ok(said) => self.said(said),
                    Err(error) => self.lose(&format!("what it says is not understood: {error}")),
                },
                Ok(Packet::End) => self.lose("ovs-offloadd is gone"),
                Err(error) => self.lose(&format!("ovs-offloadd is lost: {error}")),
            }
        }
        match seqpacket::accept(listener) {
            Ok(None) => {}
            Ok(Some((connection, pid))) => self.greet(connection, pid),
            Err(error) => warn!(%error, "cannot take a connection"),
        }
    }

    fn lose(&mut self, why: &str) {
        warn!("{why}");
        self.daemon = None;
        self.watch.heard(now(), Heard::Lost);
    }

    /// A process has connected. What it is, it has said before it was taken up, or it is sent away.
    fn greet(&mut self, connection: OwnedFd, pid: i32) {
        if self.daemon.is_some() {
            say(&connection, &FromGuard::Busy);
            return;
        }
        let mut buffer = [0; 256];
        let waited = poll(
            &mut [PollFd::new(&connection, PollFlags::IN)],
            Some(&Timespec { tv_sec: 0, tv_nsec: 100_000_000 }),
        );
        let received =
            waited.map_err(io::Error::from).and_then(|_| seqpacket::receive(&connection, &mut buffer));
        let Ok(Packet::Bytes(length)) = received else { return };
        match serde_json::from_slice(&buffer[..length]) {
            Ok(ToGuard::Hello { version: VERSION, answers }) => {
                let reply = self.watch.heard(now(), Heard::Hello { pid, answers });
                let text = if answers { "ovs-offloadd goes on" } else { "ovs-offloadd has come" };
                info!(pid, "{text}");
                self.daemon = Some(connection);
                self.reply(reply, 0);
            }
            Ok(ToGuard::Hello { .. }) => say(&connection, &FromGuard::OtherVersion { version: VERSION }),
            Ok(_) | Err(_) => debug!(pid, "a connection begins with something else"),
        }
    }

    fn said(&mut self, said: ToGuard) {
        match said {
            ToGuard::Beat { seq } => {
                let reply = self.watch.heard(now(), Heard::Beat);
                self.reply(reply, seq);
            }
            ToGuard::Took { devices } => {
                info!(devices = devices.len(), "ovs-offloadd has taken over rules that were there");
                self.watch.heard(now(), Heard::Took(devices));
            }
            ToGuard::Bye => {
                info!("ovs-offloadd takes its leave");
                self.daemon = None;
                self.watch.heard(now(), Heard::Bye);
            }
            ToGuard::Hello { .. } => self.lose("ovs-offloadd says hello twice"),
        }
    }

    fn reply(&mut self, reply: Reply, seq: u64) {
        let Some(daemon) = &self.daemon else { return };
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        match reply {
            Reply::None => {}
            Reply::Lease { lasts, take_within } => {
                let (for_ms, take_within_ms) = (millis(lasts), millis(take_within));
                say(daemon, &FromGuard::Lease { seq, for_ms, take_within_ms, removed: self.removed });
            }
            Reply::Taken => {
                warn!("ovs-offloadd has to begin anew");
                say(daemon, &FromGuard::Taken);
                self.daemon = None;
            }
        }
    }

    /// Removes what is due.
    fn act(&mut self) {
        let began = now();
        let Some(scope) = self.watch.tick(began).cloned() else { return self.keep_note() };
        self.keep_note();
        let mut told = 0;
        let swept = sweep(&mut self.kernel, &scope, |address| {
            told += 1;
            if told <= TOLD_MAX {
                info!(%address, "rule removed");
            }
        });
        self.removed += swept.removed;
        let ended = now();
        if swept.removed > 0 || swept.failed != self.trouble {
            let took = show_duration(Duration::from_micros(ended.since(began).0));
            match &swept.failed {
                None => warn!(rules = swept.removed, took, "rules that nobody answers for are removed"),
                Some(why) => error!(rules = swept.removed, took, %why, "not all rules go; trying again"),
            }
        }
        self.watch.swept(began, ended, swept.is_whole());
        self.trouble = swept.failed;
        self.keep_note();
    }

    /// Notes for the next guard when rules are due.
    fn keep_note(&mut self) {
        let due = self.watch.due_at();
        if due == self.noted {
            return;
        }
        let kept = match due {
            Some(at) => std::fs::write(&self.note, at.0.to_string()),
            None => std::fs::remove_file(&self.note),
        };
        if let Err(error) = kept
            && error.kind() != io::ErrorKind::NotFound
        {
            warn!(%error, file = %self.note.display(), "cannot note when rules are due");
        }
        self.noted = due;
    }

    /// The last turn. Rules that are nobody's do not wait for the next guard.
    fn end(&mut self) {
        if self.daemon.is_none() && self.watch.due_at().is_some() {
            self.watch.heard(now(), Heard::Bye);
            self.act();
        }
        info!("ovs-offload-guard ends");
    }
}

/// Says something to a daemon. One that does not listen is told nothing, which it notices.
fn say(daemon: &OwnedFd, words: &FromGuard) {
    let sent = serde_json::to_vec(words)
        .map_err(io::Error::other)
        .and_then(|packet| seqpacket::send(daemon, &packet));
    if let Err(error) = sent {
        debug!(%error, "ovs-offloadd does not listen");
    }
}
