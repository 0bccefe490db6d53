//! Shadow mode's translation: a megaflow of the kernel datapath as a flower rule that does the same, for where Open vSwitch
//! itself does not offload.
//!
//! [`translate`] never widens a match: whatever bit the megaflow looks at is matched by the rule, is the same of every
//! packet in a NIC, or the megaflow is refused with a reason ([`Untranslatable`]). What the rule does is what the kernel
//! datapath does, byte by byte; what TC does otherwise is refused.
//!
//! What is the same of every packet in a NIC: it is not tracked, not marked, not recirculated. That holds as long as rules
//! are for hardware only ([`FilterFlags::SKIP_SW`]). At a tunnel's device, where the kernel takes no such filter, they are
//! in software too; there the mark is what the host's own rules gave the outer packet, which Open vSwitch's own
//! translation leaves out of account as well.
//!
//! Known not to be the same, here and in Open vSwitch's own filters alike, since TC has no words for it:
//! - A packet whose headers are malformed or cut off: the kernel datapath reads such a header as zeros (IP of protocol 0, no
//!   ports), and flower reads as far as it goes. `csum` drops what is shorter than it says.
//! - Flower compares the lengths of a tunnel's options under the lengths as a mask (`fl_set_enc_opt()`): packets with more
//!   options may fit, where the length of all of them has the bits of the rule's.
//! - The kernel datapath sets the critical bit of a Geneve header with critical options, and `tunnel_key` does not.
//! - A checksum that is wrong stays wrong in the kernel datapath, and is made right by `csum`.
//! - UDP over IPv6 without a checksum stays without in the kernel datapath when its ports or addresses are set, and gets one
//!   by `csum` (`tcf_csum_ipv6_udp()`).
//! - Below a routing header of IPv6, the kernel datapath leaves the checksum alone when it sets the destination.
//! - The kernel datapath drops what is longer than the output port's MTU.

mod actions;
pub(crate) mod book;
mod flat;
mod gap;
mod keys;
pub mod layout;
mod overlap;
mod place;
mod rewrite;
mod settle;
pub(crate) mod storm;
mod take_over;
mod tunnel;
mod untranslatable;
mod watch;

pub use flat::Packets;
pub use overlap::{Entrance, Overlaps};
pub(crate) use place::{Shadow, rule_of};
pub use untranslatable::{Done, Looked, Missing, Untranslatable};

use crate::ports::{PortFacts, PortKind};
use layout::Origin;
use netlink_wire::ovs_flow::{FlowActions, FlowKeys};
use netlink_wire::{DpPort, EtherType, Masked, RecircId, Ufid};
use tc_flower::{Filter, FilterAddress, FilterFlags, Handle};

/// What of TC a kernel has, that older ones do not refuse but ignore.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Abilities {
    /// `TCA_FLOWER_KEY_ENC_FLAGS`: Linux 6.11 and newer.
    pub tunnel_flags: bool,
    /// `TCA_TUNNEL_KEY_NO_FRAG`: Linux 6.3 and newer.
    pub tunnel_no_fragment: bool,
}

impl Abilities {
    /// Everything.
    pub const ALL: Self = Self { tunnel_flags: true, tunnel_no_fragment: true };
}

/// Which fragments a megaflow takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fragment {
    /// None: whole packets.
    No,
    /// First ones.
    First,
    /// Later ones.
    Later,
}

/// What is certain of the headers of a megaflow's packets, at some point of its actions.
#[derive(Clone, Copy, Debug)]
struct Headers {
    /// VLAN tags, as far as the kernel datapath tells them apart.
    tags: usize,
    /// The Ethernet type after all tags; none where nobody looked.
    ethertype: Option<EtherType>,
    /// The protocol of IP, where it is one.
    proto: Option<u8>,
    /// The time to live, where it is one.
    ttl: Option<u8>,
    fragment: Fragment,
    /// They came out of a tunnel.
    of_tunnel: bool,
}

impl Headers {
    /// The network header is another one now.
    fn now_is(&mut self, ethertype: Option<EtherType>) {
        (self.ethertype, self.proto, self.ttl) = (ethertype, None, None);
    }

    /// The time to live was set.
    fn note_ttl(&mut self, set: Masked<u8>) {
        self.ttl = match (set.as_exact(), self.ttl) {
            (Some(ttl), _) => Some(ttl),
            (None, Some(ttl)) => Some(ttl & !set.mask | set.significant()),
            (None, None) => None,
        };
    }
}

/// The rule that does in hardware what a megaflow does, without handle: the kernel chooses it.
///
/// `port` finds a port of the megaflow's datapath by its number.
///
/// # Errors
/// What of the megaflow such a rule cannot be.
pub fn translate<'p>(
    ufid: Ufid,
    keys: &FlowKeys,
    actions: &FlowActions<'_>,
    kernel: Abilities,
    port: &dyn Fn(DpPort) -> Option<&'p PortFacts>,
) -> Result<Filter, Untranslatable> {
    let recirc_id = keys.recirc_id();
    if recirc_id != RecircId(0) {
        return Err(Untranslatable::Recirculated(recirc_id));
    }
    let in_port = keys.in_port().ok_or(Untranslatable::Partly(Looked::InPort))?;
    let from = port(in_port).ok_or(Untranslatable::UnknownPort(in_port))?;
    if from.kind == PortKind::Internal {
        return Err(Untranslatable::FromHost(in_port));
    }
    let (protocol, matched, headers) = keys::of(keys, from, kernel)?;
    let actions = actions::of(actions, Origin::of(ufid), headers, kernel, port)?;
    let prio = layout::prio(protocol).ok_or(Untranslatable::NoPriority(protocol))?;
    let only_hardware = match from.kind {
        PortKind::Tunnel => FilterFlags::NONE,
        _ => FilterFlags::SKIP_SW,
    };
    Ok(Filter {
        address: FilterAddress {
            location: from.location,
            chain: layout::CHAIN,
            prio,
            protocol,
            handle: Handle(0),
        },
        flags: only_hardware | FilterFlags::VERBOSE,
        class_id: None,
        indev: None,
        keys: matched,
        actions,
    })
}
