//! IPsec of tunnels, made by strongSwan at our word: what OVSDB wants goes in, how far each tunnel is comes out.
//!
//! What is done next is decided by `ipsec-drive`; here are the socket, the files, and the loop that asks. It is a task of its own: the
//! daemon's loop neither waits for an IKE daemon nor is it told of one, but by what it reads of the last `Report`.
//!
//! Nothing is done while `ovs-monitor-ipsec` runs, which does the same, but for saying what its Libreswan is to ask of NICs; and what is
//! there stays when we are told to do nothing, or end: without it, packets would go in the clear.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;

use ipsec_drive::libreswan::{IkeDaemon, OffloadRow};
use ipsec_drive::{Device, EspId, Host, Millis, Moves, Offload, Terms, TunnelRow};
use ovsdb_client::Uuid;

use crate::ctl::tunnel::TunnelView;

mod beside;
mod certificates;
mod contents;
mod driver;
mod libreswan;
mod looks;
mod progress;
mod session;
mod uplinks;
mod vici;

pub(crate) use driver::start;
pub(crate) use libreswan::pluto;

/// The clock of all that is about IPsec: it never goes back.
pub(crate) fn now() -> Millis {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let ms = i128::from(time.tv_sec) * 1_000 + i128::from(time.tv_nsec) / 1_000_000;
    Millis(u64::try_from(ms).unwrap_or_default())
}

/// Where strongSwan's charon listens unless it is told otherwise.
pub const VICI_SOCKET: &str = "/run/charon.vici";

/// What OVSDB says of IPsec.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Rows {
    /// `Open_vSwitch.other_config`.
    pub(crate) host: Host,
    /// Interfaces that are marked for IPsec, by name.
    pub(crate) tunnels: Vec<TunnelRow>,
    /// What Libreswan is to ask of NICs: those of the interfaces above, and those that have something of ours.
    pub(crate) offloads: Vec<(Uuid, OffloadRow)>,
}

/// What is to be done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Orders {
    /// Nothing at all, where it is not set.
    pub(crate) drive: bool,
    /// Whether tunnels that `ovs-monitor-ipsec` has Libreswan protect are told what to ask of NICs.
    pub(crate) libreswan: bool,
    /// Charon's socket.
    pub(crate) vici: PathBuf,
    /// What a NIC is asked for where a tunnel does not say.
    pub(crate) offload: Offload,
    /// What is said of those that are asked for the most they can have.
    pub(crate) terms: Terms,
    /// Open vSwitch's run directory, where `ovs-monitor-ipsec` would be found.
    pub(crate) rundir: PathBuf,
    /// What the database said last; none before it has.
    pub(crate) rows: Option<Rows>,
}

/// Who makes IPsec.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Standing {
    /// We are told not to.
    #[default]
    Off,
    /// `ovs-monitor-ipsec` does.
    MonitorRuns(Monitor),
    /// There is nobody to do it at our word, for this reason.
    Alone(String),
    /// This strongSwan.
    Driving(String),
}

/// An `ovs-monitor-ipsec` that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Monitor {
    /// Its process.
    pub(crate) pid: i32,
    /// Which IKE daemon it has; none where that is not known.
    pub(crate) ike: Option<IkeDaemon>,
}

impl fmt::Display for Monitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.ike {
            Some(IkeDaemon::Libreswan) => "ovs-monitor-ipsec with Libreswan",
            Some(IkeDaemon::Strongswan) => "ovs-monitor-ipsec with strongSwan",
            None => "ovs-monitor-ipsec",
        })
    }
}

/// How far everything is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Report {
    /// Who makes it.
    pub(crate) standing: Standing,
    /// Times that the IKE daemon was lost.
    pub(crate) losses: u64,
    /// Tunnels that are marked for IPsec, by name.
    pub(crate) tunnels: Vec<TunnelView>,
    /// What was moved.
    pub(crate) offload: OffloadReport,
    /// When charon last listed what it has, and its security associations of ESP; none where it is not asked.
    pub(crate) listed: Option<(Millis, BTreeSet<EspId>)>,
    /// Why packets of the host's mark are not dropped though they are to be.
    pub(crate) unguarded: Option<String>,
}

/// Moves of connections between NICs and software, and who has how many entries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct OffloadReport {
    /// What was done since the daemon was started.
    pub(crate) moves: Moves,
    /// Entries of connections that are ranked, and how many are known to fit, by the device that has our address.
    pub(crate) entries: Vec<(Option<Device>, u32, Option<u32>)>,
    /// Whether one more reading of the kernel would tell that something is lost.
    pub(crate) has_doubts: bool,
}
