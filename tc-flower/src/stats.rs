//! Counters of actions and of whole filters, software and hardware apart.

use crate::{Chain, FilterAddress, FilterFlags};
use netlink_wire::{PortId, Seq, Ufid};

/// Packets and bytes.
///
/// TC counts bytes without the Ethernet header: 14 fewer per packet than Open vSwitch's own datapath.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Counters {
    /// Packets.
    pub packets: u64,
    /// Bytes, without the Ethernet header.
    pub bytes: u64,
}

/// One action's counters: `TCA_ACT_STATS`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct ActionStats {
    /// Packets the processor handled: `TCA_STATS_BASIC` (which counts both) less `TCA_STATS_BASIC_HW`.
    pub software: Counters,
    /// Packets the hardware handled: `TCA_STATS_BASIC_HW`.
    pub hardware: Counters,
    /// `drops` of `TCA_STATS_QUEUE`: packets this action dropped.
    pub drops: u32,
}

/// One filter's counters, as Open vSwitch computes a megaflow's from them: the action that counted most decides, for
/// software and for hardware apart (`nl_parse_action_stats()` of `lib/tc.c`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct FlowStats {
    /// Packets the processor handled.
    pub software: Counters,
    /// Packets the hardware handled.
    pub hardware: Counters,
}

impl FlowStats {
    /// Takes an action's counters into account.
    pub fn take(&mut self, action: &ActionStats) {
        if action.hardware.packets > self.hardware.packets {
            self.hardware = action.hardware;
        }
        if action.software.packets > self.software.packets {
            self.software = action.software;
        }
    }

    /// Software and hardware together, as Open vSwitch counts them for OpenFlow.
    pub const fn total(&self) -> Counters {
        Counters {
            packets: self.software.packets.wrapping_add(self.hardware.packets),
            bytes: self.software.bytes.wrapping_add(self.hardware.bytes),
        }
    }
}

/// A filter's address and counters, and nothing else: what a periodic dump is read for.
///
/// Read from full and terse dumps alike, without allocation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FilterCounters {
    /// The message's sequence number.
    pub seq: Seq,
    /// The message's port id.
    pub portid: PortId,
    /// Which filter.
    pub address: FilterAddress,
    /// `TCA_FLOWER_FLAGS`
    pub flags: FilterFlags,
    /// `TCA_FLOWER_IN_HW_COUNT`: how many devices have it in hardware. Absent in terse dumps.
    pub in_hw_count: Option<u32>,
    /// The megaflow it was made from: the first action cookie of 16 bytes.
    pub ufid: Option<Ufid>,
    /// Its counters.
    pub stats: FlowStats,
}

impl FilterCounters {
    /// The chain, which says whether the packets came by recirculation.
    pub const fn chain(&self) -> Chain {
        self.address.chain
    }
}
