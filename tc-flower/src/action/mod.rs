//! What a filter does with its packets: `TCA_ACT_*` of `linux/pkt_cls.h`, and what all kinds of actions share.

mod codec;
pub mod ct;
pub mod header;
pub mod output;
pub mod pedit;
pub mod police;
pub mod tunnel_key;

pub(crate) use codec::{put_actions, read_action, read_counters};
pub use ct::{Ct, CtFlags, CtHelper};
pub use header::{Csum, CsumFlags, Mpls, MplsCommand, Skbedit, Vlan};
pub use output::{Direction, Gact, GactProbability, Mirred, MirredTarget, Sample};
pub use pedit::{Pedit, PeditCommand, PeditHeader, PeditKey};
pub use police::{Police, RateSpec};
pub use tunnel_key::{GeneveOption, TunnelKey, TunnelOptions, TunnelSet};

use crate::{ActionFlags, ActionStats, Chain, HwStats, Unsupported};
use alloc::boxed::Box;
use core::fmt;
use netlink_wire::Ufid;

/// The number of an action among all of its kind: `index` of `tc_gen`. In a request, 0 asks for a new action, and any
/// other number for the existing one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct ActionIndex(pub u32);

/// What happens to the packet after an action: `action` of `tc_gen`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Control {
    /// `TC_ACT_UNSPEC`: as the classifier says.
    Unspec,
    /// `TC_ACT_OK`: done, the packet passes.
    Ok,
    /// `TC_ACT_RECLASSIFY`: classified again from the start.
    Reclassify,
    /// `TC_ACT_SHOT`: dropped.
    Drop,
    /// `TC_ACT_PIPE`: the next action.
    Pipe,
    /// `TC_ACT_STOLEN`: the action took it.
    Stolen,
    /// `TC_ACT_QUEUED`
    Queued,
    /// `TC_ACT_REPEAT`: the same action again.
    Repeat,
    /// `TC_ACT_REDIRECT`
    Redirect,
    /// `TC_ACT_TRAP`: handed to the processor.
    Trap,
    /// `TC_ACT_JUMP`: on with the action of this number, from 0.
    Jump(u32),
    /// `TC_ACT_GOTO_CHAIN`: on with the filters of this chain.
    Goto(Chain),
    /// A number newer than this crate.
    Other(i32),
}

const EXT_SHIFT: u32 = 28;
const EXT_VALUE: i32 = (1 << EXT_SHIFT) - 1;

impl Control {
    /// The control of this number.
    pub const fn from_number(number: i32) -> Self {
        match number {
            -1 => Self::Unspec,
            0 => Self::Ok,
            1 => Self::Reclassify,
            2 => Self::Drop,
            3 => Self::Pipe,
            4 => Self::Stolen,
            5 => Self::Queued,
            6 => Self::Repeat,
            7 => Self::Redirect,
            8 => Self::Trap,
            other => match other >> EXT_SHIFT {
                1 => Self::Jump((other & EXT_VALUE).cast_unsigned()),
                2 => Self::Goto(Chain((other & EXT_VALUE).cast_unsigned())),
                _ => Self::Other(other),
            },
        }
    }

    /// Its number.
    pub const fn number(self) -> i32 {
        match self {
            Self::Unspec => -1,
            Self::Ok => 0,
            Self::Reclassify => 1,
            Self::Drop => 2,
            Self::Pipe => 3,
            Self::Stolen => 4,
            Self::Queued => 5,
            Self::Repeat => 6,
            Self::Redirect => 7,
            Self::Trap => 8,
            Self::Jump(count) => (1 << EXT_SHIFT) | (count.cast_signed() & EXT_VALUE),
            Self::Goto(chain) => (2 << EXT_SHIFT) | (chain.0.cast_signed() & EXT_VALUE),
            Self::Other(number) => number,
        }
    }
}

/// The words of `tc`.
impl fmt::Display for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unspec => f.write_str("continue"),
            Self::Ok => f.write_str("pass"),
            Self::Reclassify => f.write_str("reclassify"),
            Self::Drop => f.write_str("drop"),
            Self::Pipe => f.write_str("pipe"),
            Self::Stolen => f.write_str("stolen"),
            Self::Queued => f.write_str("queued"),
            Self::Repeat => f.write_str("repeat"),
            Self::Redirect => f.write_str("redirect"),
            Self::Trap => f.write_str("trap"),
            Self::Jump(count) => write!(f, "jump {count}"),
            Self::Goto(chain) => write!(f, "goto chain {chain}"),
            Self::Other(number) => write!(f, "control {number:#x}"),
        }
    }
}

/// `TCA_ACT_COOKIE`: up to 16 bytes that its maker attached to an action. Open vSwitch attaches the megaflow's UFID.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Cookie {
    length: u8,
    bytes: [u8; 16],
}

impl Cookie {
    /// These bytes, or none where they are more than 16 (`TC_COOKIE_MAX_SIZE`).
    pub fn new(from: &[u8]) -> Option<Self> {
        let mut bytes = [0; 16];
        bytes.get_mut(..from.len())?.copy_from_slice(from);
        Some(Self { length: u8::try_from(from.len()).ok()?, bytes })
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    /// The megaflow it names, if it is 16 bytes long.
    pub const fn ufid(&self) -> Option<Ufid> {
        match self.length {
            16 => Some(Ufid::from_bytes(self.bytes)),
            _ => None,
        }
    }
}

/// One byte short of a megaflow's id: nobody takes it for one of Open vSwitch's.
impl From<[u8; 15]> for Cookie {
    fn from(short: [u8; 15]) -> Self {
        let mut bytes = [0; 16];
        bytes[..15].copy_from_slice(&short);
        Self { length: 15, bytes }
    }
}

impl From<Ufid> for Cookie {
    fn from(ufid: Ufid) -> Self {
        Self { length: 16, bytes: *ufid.as_bytes() }
    }
}

/// The kind of an action by its name: `TCA_ACT_KIND`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum KindName {
    /// `mirred`
    Mirred,
    /// `gact`
    Gact,
    /// `vlan`
    Vlan,
    /// `mpls`
    Mpls,
    /// `tunnel_key`
    TunnelKey,
    /// `pedit`
    Pedit,
    /// `csum`
    Csum,
    /// `ct`
    Ct,
    /// `police`
    Police,
    /// `skbedit`
    Skbedit,
    /// `sample`
    Sample,
    /// Another one.
    Other(Box<str>),
}

impl KindName {
    /// The kind of this name.
    pub fn from_name(name: &str) -> Self {
        match name {
            "mirred" => Self::Mirred,
            "gact" => Self::Gact,
            "vlan" => Self::Vlan,
            "mpls" => Self::Mpls,
            "tunnel_key" => Self::TunnelKey,
            "pedit" => Self::Pedit,
            "csum" => Self::Csum,
            "ct" => Self::Ct,
            "police" => Self::Police,
            "skbedit" => Self::Skbedit,
            "sample" => Self::Sample,
            other => Self::Other(Box::from(other)),
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        match self {
            Self::Mirred => "mirred",
            Self::Gact => "gact",
            Self::Vlan => "vlan",
            Self::Mpls => "mpls",
            Self::TunnelKey => "tunnel_key",
            Self::Pedit => "pedit",
            Self::Csum => "csum",
            Self::Ct => "ct",
            Self::Police => "police",
            Self::Skbedit => "skbedit",
            Self::Sample => "sample",
            Self::Other(name) => name,
        }
    }
}

impl fmt::Display for KindName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What an action does.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ActionKind {
    /// Sends the packet, or a copy, out of or into a device.
    Mirred(Mirred),
    /// Nothing but its control: drop, pass, goto chain.
    Gact(Gact),
    /// Pushes, pops or changes a VLAN tag.
    Vlan(Vlan),
    /// Pushes, pops or changes an MPLS label stack entry.
    Mpls(Mpls),
    /// Sets or removes the tunnel that the packet is to be sent through.
    TunnelKey(TunnelKey),
    /// Rewrites header fields.
    Pedit(Pedit),
    /// Computes checksums anew.
    Csum(Csum),
    /// Connection tracking.
    Ct(Box<Ct>),
    /// Limits the rate, or the length of packets.
    Police(Police),
    /// Changes what the kernel knows about the packet beside its bytes.
    Skbedit(Skbedit),
    /// Copies some packets to user space.
    Sample(Sample),
    /// Read from a terse dump, which tells the kind only.
    Terse(KindName),
    /// A kind that is not understood.
    Unknown(KindName),
}

impl ActionKind {
    /// Its kind by name.
    pub fn name(&self) -> KindName {
        match self {
            Self::Mirred(_) => KindName::Mirred,
            Self::Gact(_) => KindName::Gact,
            Self::Vlan(_) => KindName::Vlan,
            Self::Mpls(_) => KindName::Mpls,
            Self::TunnelKey(_) => KindName::TunnelKey,
            Self::Pedit(_) => KindName::Pedit,
            Self::Csum(_) => KindName::Csum,
            Self::Ct(_) => KindName::Ct,
            Self::Police(_) => KindName::Police,
            Self::Skbedit(_) => KindName::Skbedit,
            Self::Sample(_) => KindName::Sample,
            Self::Terse(name) | Self::Unknown(name) => name.clone(),
        }
    }
}

/// An action as it can be written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Action {
    /// What it does.
    pub kind: ActionKind,
    /// What happens to the packet afterwards.
    pub control: Control,
    /// Which one of its kind it is.
    pub index: ActionIndex,
    /// `TCA_ACT_COOKIE`
    pub cookie: Option<Cookie>,
    /// `TCA_ACT_FLAGS`
    pub flags: ActionFlags,
    /// `TCA_ACT_HW_STATS`: how its hardware counters may be read. Absent: any way. Without a bit: not at all.
    pub hw_stats: Option<HwStats>,
}

impl Action {
    /// An action that the kernel is to make anew, without cookie.
    pub const fn new(kind: ActionKind, control: Control) -> Self {
        let (index, flags) = (ActionIndex(0), ActionFlags::NONE);
        Self { kind, control, index, cookie: None, flags, hw_stats: None }
    }

    /// The megaflow it was made from, if its cookie names one.
    pub fn ufid(&self) -> Option<Ufid> {
        self.cookie?.ufid()
    }
}

/// When an action was used: `struct tcf_t`, in ticks of `USER_HZ` (100 per second) before the report.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct ActionTimes {
    /// Since it was made.
    pub install: u64,
    /// Since its last packet; since it was made, if it has had none.
    pub last_use: u64,
    /// Until it expires.
    pub expires: u64,
    /// Since its first packet. Not kept by hardware.
    pub first_use: u64,
}

impl ActionTimes {
    /// Milliseconds per tick of `USER_HZ`, which is 100 on all architectures Open vSwitch offloads on.
    const MS_PER_TICK: u64 = 10;

    /// Milliseconds since its last packet, or none if it has had none.
    pub const fn idle_ms(&self) -> Option<u64> {
        match self.last_use == self.install {
            true => None,
            false => Some(self.last_use.saturating_mul(Self::MS_PER_TICK)),
        }
    }

    /// Milliseconds since it was made.
    pub const fn age_ms(&self) -> u64 {
        self.install.saturating_mul(Self::MS_PER_TICK)
    }
}

/// An action as the kernel describes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ActionReport {
    /// The action.
    pub action: Action,
    /// Its counters.
    pub stats: ActionStats,
    /// When it was used.
    pub times: Option<ActionTimes>,
    /// `TCA_ACT_USED_HW_STATS`: how its hardware counters are read.
    pub used_hw_stats: Option<HwStats>,
    /// `TCA_ACT_IN_HW_COUNT`: how many devices have the action itself in hardware.
    pub in_hw_count: Option<u32>,
    /// `refcnt` of `tc_gen`: who holds it. More than `bindings` for an action that was made on its own.
    pub references: i32,
    /// `bindcnt` of `tc_gen`: how many filters use it, those included that are about to be freed.
    pub bindings: i32,
    /// The first attribute that is not understood, of the kind's own numbering.
    pub unknown_attr: Option<u16>,
}

impl ActionReport {
    /// Whether it was made on its own (`tc actions add`), as meters are, and not with its filter.
    ///
    /// Not told by `bindings`: after a replacement that keeps the actions, the old filter holds them too until the
    /// kernel gets round to freeing it.
    pub const fn is_standalone(&self) -> bool {
        self.references > self.bindings
    }

    /// The action as it can be written back; `position` is its place in its filter, from 1.
    ///
    /// # Errors
    /// What of it is not understood, or could not be made again as it is.
    pub fn to_action(&self, position: usize) -> Result<Action, Unsupported> {
        let kind = self.action.kind.name();
        if matches!(self.action.kind, ActionKind::Unknown(_)) {
            return Err(Unsupported::Action { position, kind });
        }
        if let Some(attr) = self.unknown_attr {
            return Err(Unsupported::ActionAttribute { position, kind, attr });
        }
        match &self.action.kind {
            ActionKind::Terse(_) => Err(Unsupported::TerseReport),
            ActionKind::Police(police) => police.check(self, position).map(|()| self.action.clone()),
            _ if self.is_standalone() => Err(Unsupported::SharedAction { position, kind }),
            _ => Ok(self.action.clone()),
        }
    }
}
