//! What the life of NICs needs of the world: reading how things are, and doing one operation.
//!
//! It blocks: the daemon gives it a thread of its own.

mod apply;
mod daemon;
mod observe;
mod ovs;
mod place;
mod sysfs;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use netlink_wire::devlink::Handle;

use crate::lifecycle::declared::{DeclaredNic, Function, NetnsRef};
use crate::lifecycle::observed::Observed;
use crate::lifecycle::run::Hands;
use crate::lifecycle::step::Operation;

/// Longest wait for a reading.
const READ_WITHIN: Duration = Duration::from_secs(30);
/// Longest wait for a change: firmware takes seconds for an eswitch mode, and longer with many VFs.
const CHANGE_WITHIN: Duration = Duration::from_secs(300);
/// Time between two looks whether a change shows.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Looks until a change that does not show is given up: 10 s.
const LOOKS: u32 = 500;

/// Where Open vSwitch and the daemon are.
#[derive(Debug, Clone)]
pub struct Places {
    /// Open vSwitch's database.
    pub database: String,
    /// Run directory, where a running daemon has its pidfile and socket.
    pub rundir: PathBuf,
    /// The daemon's control socket, if not the one found by its pidfile; none: there is no daemon to be asked.
    pub daemon: Daemon,
}

/// How flows are drained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Daemon {
    /// By the daemon whose pidfile is in the run directory, if there is one.
    Found,
    /// By this control socket.
    At(PathBuf),
}

/// The right to change NICs: one process of a host has it at a time.
#[derive(Debug)]
pub struct Turn {
    _lock: std::fs::File,
}

impl Turn {
    /// Waits for it.
    ///
    /// # Errors
    /// The lock file cannot be made.
    pub fn take(rundir: &Path) -> Result<Self, String> {
        // Without Open vSwitch there is no run directory of its own.
        let directory = if rundir.is_dir() { rundir } else { Path::new("/run") };
        let path = directory.join("ovs-offloadd.nics.lock");
        let failed = |error: std::io::Error| format!("{}: {error}", path.display());
        let lock = std::fs::OpenOptions::new().create(true).append(true).open(&path).map_err(failed)?;
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive)
            .map_err(|errno| failed(errno.into()))?;
        Ok(Self { _lock: lock })
    }
}

/// NICs with an eswitch by their numbers: those of a running daemon's `nic list`, else their places in the order of their
/// handles.
///
/// # Errors
/// They cannot be read.
pub fn eswitch_handles(places: &Places, limit: Duration) -> Result<Vec<(u16, Handle)>, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start: {error}"))?;
    runtime.block_on(async {
        match daemon::numbers(places, limit).await {
            Some(numbers) => Ok(numbers),
            None => observe::eswitch_handles(limit).await,
        }
    })
}

/// The hands for one NIC.
#[derive(Debug)]
pub struct NicHands {
    runtime: tokio::runtime::Runtime,
    handle: Handle,
    namespaces: Vec<NetnsRef>,
    /// Functions whose representors' features matter.
    offload_of: BTreeSet<Function>,
    places: Places,
    ovs: Option<ovsdb_client::Client>,
    /// The number of the NIC that we have had the daemon empty.
    drained: Option<u16>,
    report: fn(&Handle, &Operation, bool),
}

impl NicHands {
    /// Hands for what is declared. `report` is told of each step that begins, and of each that is undone.
    ///
    /// # Errors
    /// No runtime for the sockets.
    pub fn new(
        declared: &DeclaredNic,
        places: Places,
        report: fn(&Handle, &Operation, bool),
    ) -> Result<Self, String> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| format!("cannot start: {error}"))?;
        let offload_of = match declared.hw_tc_offload {
            Some(_) => declared.ports.iter().map(|port| port.function).collect(),
            None => BTreeSet::new(),
        };
        let namespaces = declared.namespaces().cloned().collect();
        let handle = declared.handle.clone();
        Ok(Self { runtime, handle, namespaces, offload_of, places, ovs: None, drained: None, report })
    }
}

impl Hands for NicHands {
    fn observe(&mut self) -> Result<Observed, String> {
        observe::observe(self)
    }

    fn apply(&mut self, operation: &Operation, now: &Observed) -> Result<(), String> {
        apply::apply(self, operation, now)
    }

    fn wait(&mut self, tries: u32) -> bool {
        std::thread::sleep(LOOK_EVERY);
        tries < LOOKS
    }

    fn progress(&mut self, operation: &Operation, undo: bool) {
        (self.report)(&self.handle, operation, undo);
    }
}
