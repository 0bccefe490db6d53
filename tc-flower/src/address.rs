//! Where a filter is: the five numbers by which the kernel finds it (`struct tcmsg` of `linux/rtnetlink.h`).

use core::fmt;
use netlink_wire::{EtherType, Ifindex, RecircId, id};

/// `TCM_IFINDEX_MAGIC_BLOCK`: a filter on a shared block; `tcm_parent` then is the block's index.
pub(crate) const TCM_IFINDEX_MAGIC_BLOCK: u32 = 0xffff_ffff;
/// `TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS)`, which the qdiscs `ingress` and `clsact` both take.
const PARENT_INGRESS: u32 = 0xffff_fff2;
/// `TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_EGRESS)`, of the qdisc `clsact`.
const PARENT_EGRESS: u32 = 0xffff_fff3;
/// `ffff:`, the handle of the qdisc `ingress`, by which `tc` addresses it too.
const PARENT_INGRESS_QDISC: u32 = 0xffff_0000;

id!(
    /// `TCA_CHAIN`: the list a filter is in. A packet starts in chain 0. Open vSwitch puts a megaflow into the chain of
    /// its recirculation id.
    Chain(u32),
    "{}"
);
id!(
    /// The priority, in the upper half of `tcm_info`; `pref` in `tc`. Lower is asked first. All filters of one chain and
    /// priority have the same protocol and classifier.
    Prio(u16),
    "{}"
);
id!(
    /// `tcm_handle`: the filter's number within its chain and priority. 0 stands for all of them.
    Handle(u32),
    "{:#x}"
);
id!(
    /// The index of a shared block: `TCA_INGRESS_BLOCK`, `tcm_block_index`. Open vSwitch uses the ifindex of a bond.
    BlockIndex(u32),
    "{}"
);

impl From<RecircId> for Chain {
    fn from(id: RecircId) -> Self {
        Self(id.0)
    }
}

impl From<Chain> for RecircId {
    fn from(chain: Chain) -> Self {
        Self(chain.0)
    }
}

/// Which of a device's hooks a filter hangs on: `tcm_parent`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Hook {
    /// Packets that the device received. The qdiscs `ingress` and `clsact` have it.
    Ingress,
    /// Packets that the device is to send. The qdisc `clsact` has it. Open vSwitch uses it for internal ports.
    Egress,
    /// A class of another qdisc, by its number.
    Class(u32),
}

impl Hook {
    pub(crate) const fn from_parent(parent: u32) -> Self {
        match parent {
            PARENT_INGRESS | PARENT_INGRESS_QDISC => Self::Ingress,
            PARENT_EGRESS => Self::Egress,
            other => Self::Class(other),
        }
    }

    /// `tcm_parent`
    pub const fn parent(self) -> u32 {
        match self {
            Self::Ingress => PARENT_INGRESS,
            Self::Egress => PARENT_EGRESS,
            Self::Class(parent) => parent,
        }
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ingress => f.write_str("ingress"),
            Self::Egress => f.write_str("egress"),
            Self::Class(parent) => write!(f, "parent {:x}:{:x}", parent >> 16, parent & 0xffff),
        }
    }
}

/// What a filter hangs on: one hook of one device, or a block that several devices share.
///
/// A filter on a shared block can be reached by the block only: the kernel refuses the device.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Location {
    /// A device's own.
    Device {
        /// `tcm_ifindex`
        ifindex: Ifindex,
        /// `tcm_parent`
        hook: Hook,
    },
    /// A shared block's.
    Block(BlockIndex),
}

impl Location {
    /// A device's ingress hook.
    pub const fn ingress(ifindex: Ifindex) -> Self {
        Self::Device { ifindex, hook: Hook::Ingress }
    }

    pub(crate) const fn from_tcmsg(ifindex: u32, parent: u32) -> Self {
        match ifindex {
            TCM_IFINDEX_MAGIC_BLOCK => Self::Block(BlockIndex(parent)),
            _ => Self::Device { ifindex: Ifindex(ifindex), hook: Hook::from_parent(parent) },
        }
    }

    /// `tcm_ifindex` and `tcm_parent`.
    pub(crate) const fn to_tcmsg(self) -> (u32, u32) {
        match self {
            Self::Device { ifindex, hook } => (ifindex.0, hook.parent()),
            Self::Block(block) => (TCM_IFINDEX_MAGIC_BLOCK, block.0),
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device { ifindex, hook } => write!(f, "dev {ifindex} {hook}"),
            Self::Block(block) => write!(f, "block {block}"),
        }
    }
}

/// The address of a filter.
///
/// Without a handle (0) it stands for all filters of its chain and priority.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FilterAddress {
    /// What it hangs on.
    pub location: Location,
    /// Its chain.
    pub chain: Chain,
    /// Its priority.
    pub prio: Prio,
    /// Its protocol, in the lower half of `tcm_info`.
    pub protocol: EtherType,
    /// Its number within chain and priority.
    pub handle: Handle,
}

/// `dev 7 ingress chain 0 prio 2 handle 0x1`
impl fmt::Display for FilterAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { location, chain, prio, handle, .. } = self;
        write!(f, "{location} chain {chain} prio {prio} handle {handle}")
    }
}
