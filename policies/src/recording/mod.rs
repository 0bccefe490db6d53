//! The history of the flow table, compact enough to keep: which megaflows there were, and what each moved when.
//!
//! A recording is a stream of [`Record`]s; `docs/recording.md` has it field by field. [`Scribe`] writes one from
//! megaflows as conditions see them, [`Decoder`] reads the records again, and [`Book`] makes of them what rules can be
//! asked about. What stands around the stream in a file, and compresses it, is the caller's.
//!
//! Numbers of names, ports and forms are given by their order in the stream, from 0; a megaflow's number is given again
//! after it is gone.

mod book;
mod decode;
mod encode;
mod headers;
mod scribe;
mod wire;

use alloc::vec::Vec;
use core::fmt;

pub use book::{Book, KeptFlow};
pub use decode::Decoder;
pub use encode::write;
pub use scribe::{About, Scribe};

use crate::Micros;
use crate::language::{Header, Locality};

/// The version of the format that is written.
pub const VERSION: u32 = 2;
/// The oldest version that is read.
pub const OLDEST_VERSION: u32 = 1;

/// The most names, ports and forms of one recording, of each kind. What is beyond is recorded as not known.
pub const ENTRIES_MAX: u32 = 1 << 16;
/// The longest name, in bytes; what is longer is cut.
pub const NAME_BYTES_MAX: usize = 255;
/// The most egress ports of one megaflow; of one that has more they are recorded as not known.
pub const OUTPORTS_MAX: usize = 64;
/// The most megaflows at a time.
pub const FLOWS_MAX: u32 = 1 << 22;
/// The most readings in one record.
pub const MOVES_MAX: usize = 4_096;
/// The longest record, in bytes.
pub const RECORD_BYTES_MAX: usize = 256 * 1024;

/// Packets and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// Packets.
    pub packets: u64,
    /// Bytes, the Ethernet header included.
    pub bytes: u64,
}

impl Amount {
    /// Whether it is nothing.
    pub const fn is_zero(self) -> bool {
        self.packets == 0 && self.bytes == 0
    }

    /// Adds `more`, at most up to the greatest number there is.
    pub fn add(&mut self, more: Self) {
        self.packets = self.packets.saturating_add(more.packets);
        self.bytes = self.bytes.saturating_add(more.bytes);
    }
}

/// What was forwarded by software, and what by a NIC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Split {
    /// By the host.
    pub software: Amount,
    /// By the NIC.
    pub hardware: Amount,
}

impl Split {
    /// Both together.
    pub fn total(self) -> Amount {
        let mut all = self.software;
        all.add(self.hardware);
        all
    }

    /// Adds `more`, part by part.
    pub fn add(&mut self, more: Self) {
        self.software.add(more.software);
        self.hardware.add(more.hardware);
    }

    /// Whether it is nothing.
    pub const fn is_zero(self) -> bool {
        self.software.is_zero() && self.hardware.is_zero()
    }
}

/// How a recording begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// The wall clock, in seconds since 1970.
    pub wall_s: u64,
    /// How often counters were to be read: the daemon's epoch.
    pub epoch: Micros,
    /// Whether addresses and names are replaced.
    pub is_anonymised: bool,
}

/// What a name is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NameKind {
    /// A port.
    Port,
    /// An iface-id; empty for an interface that has none.
    IfaceId,
    /// A kind of tunnel; empty for none.
    Tunnel,
    /// A tenant.
    Tenant,
    /// A workload.
    Workload,
    /// A Kubernetes namespace; since version 2.
    Namespace,
    /// A chassis; since version 2.
    Chassis,
}

impl NameKind {
    /// All of them, by their code in the stream.
    pub const ALL: [Self; 7] = [
        Self::Port,
        Self::IfaceId,
        Self::Tunnel,
        Self::Tenant,
        Self::Workload,
        Self::Namespace,
        Self::Chassis,
    ];
}

/// A port by the numbers of its names; `None` is "not known".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    /// `Interface.name`.
    pub name: Option<u32>,
    /// The iface-id.
    pub iface_id: Option<u32>,
}

/// Which header bits a megaflow fixes.
pub type Form = Vec<(Header, u128)>;

/// Where a megaflow lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Home {
    /// In TC: a NIC may take it.
    Tc,
    /// In the OVS kernel datapath, which cannot give it to a NIC.
    Datapath,
}

/// What a megaflow looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key<'a> {
    /// The number of its form.
    pub form: u32,
    /// The form.
    pub fields: &'a [(Header, u128)],
    /// The value of each of the form's fields.
    pub values: &'a [u128],
}

/// A megaflow that appeared, or one of which something else is true now than was told before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow<'a> {
    /// Its number, as long as it is there.
    pub number: u32,
    /// When it was first seen, in microseconds after the epoch's beginning; less than zero for one from before.
    pub appeared_us: i64,
    /// Where it lives.
    pub home: Home,
    /// The NIC it could be placed in.
    pub nic: Option<u16>,
    /// What it looks at; `None` when that is not known.
    pub key: Option<Key<'a>>,
    /// The ingress port.
    pub inport: Option<u32>,
    /// The egress ports.
    pub outports: Option<&'a [u32]>,
    /// The kind of tunnel that packets are put into; an empty name for none.
    pub encap: Option<u32>,
    /// Whose it is.
    pub tenant: Option<u32>,
    /// The workload.
    pub workload: Option<u32>,
    /// Its Kubernetes namespace.
    pub namespace: Option<u32>,
    /// The chassis at the tunnel's other end.
    pub chassis: Option<u32>,
    /// Header fields are changed.
    pub rewrites: Option<bool>,
    /// Packets go nowhere.
    pub drops: Option<bool>,
    /// Packets are looked up again.
    pub recirculates: Option<bool>,
    /// Packets are encrypted on the wire.
    pub encrypted: Option<bool>,
    /// How far packets travel.
    pub locality: Locality,
}

/// What one megaflow moved in an epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Move {
    /// Which.
    pub flow: u32,
    /// What, and who forwarded it.
    pub moved: Split,
}

/// The end of an epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Epoch {
    /// The time since the one before.
    pub past: Micros,
    /// What was counted for megaflows that are not in the recording.
    pub stray: Split,
    /// Rules that the daemon placed in hardware.
    pub promotions: u64,
    /// Rules that the daemon took out of hardware.
    pub demotions: u64,
    /// Epochs that are part of this one, since there was no room for them.
    pub merged: u32,
    /// Megaflows that are there and are not in the recording, since there was no room for them.
    pub left_out: u32,
}

/// Why a recording ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The time was up.
    TimeIsUp,
    /// It was interrupted.
    Interrupted,
    /// The daemon ended, or dropped the recording.
    DaemonGone,
}

impl Ending {
    /// All of them, by their code in the stream.
    pub const ALL: [Self; 3] = [Self::TimeIsUp, Self::Interrupted, Self::DaemonGone];
}

/// One record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// The first.
    Start(Start),
    /// A name that later records go by.
    Name(NameKind, &'a str),
    /// A port.
    Port(Port),
    /// A form.
    Form(&'a [(Header, u128)]),
    /// A megaflow.
    Flow(Flow<'a>),
    /// What moved in this epoch, by ascending numbers.
    Moved(&'a [Move]),
    /// A megaflow was gone at the end of this epoch.
    Gone(u32),
    /// The end of an epoch.
    Epoch(Epoch),
    /// The last.
    End(Ending),
}

/// What is no recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl core::error::Error for Malformed {}
