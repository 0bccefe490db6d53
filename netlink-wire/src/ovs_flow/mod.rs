//! The generic netlink family `ovs_flow` of `linux/openvswitch.h`: the megaflows of the kernel datapath.

pub mod actions;
mod body;
pub mod conntrack;
mod display;
pub mod keys;
pub mod tunnel;

pub use actions::{FlowAction, FlowActions, MeterId, SetField, Userspace};
pub use body::FlowBody;
pub use conntrack::{Conntrack, Nat, NatAddress};
pub use keys::FlowKeys;
pub use tunnel::{TunnelFlags, TunnelKey};

use crate::attr::{Attr, Fields};
use crate::genl::{self, Command, FamilyId};
use crate::ids::{Ifindex, MonotonicMs, PortId, Seq};
use crate::malformed::{Family, Malformed};
use crate::message::{Message, flags};
pub use crate::ovs_datapath::Change;
use crate::ufid::Ufid;
use crate::writer::MessageWriter;
use alloc::vec::Vec;
use keys::Side;

/// `OVS_FLOW_FAMILY`
pub const FAMILY: &str = "ovs_flow";
/// `OVS_FLOW_MCGROUP`
pub const GROUP: &str = "ovs_flow";
/// `OVS_FLOW_VERSION`
const VERSION: u8 = 1;
const OVS_FLOW_CMD_GET: u8 = 3;

const OVS_FLOW_ATTR_KEY: u16 = 1;
const OVS_FLOW_ATTR_ACTIONS: u16 = 2;
const OVS_FLOW_ATTR_STATS: u16 = 3;
const OVS_FLOW_ATTR_TCP_FLAGS: u16 = 4;
const OVS_FLOW_ATTR_USED: u16 = 5;
const OVS_FLOW_ATTR_MASK: u16 = 7;
const OVS_FLOW_ATTR_UFID: u16 = 9;
const OVS_FLOW_ATTR_UFID_FLAGS: u16 = 10;

/// `struct ovs_flow_stats`: what the kernel datapath itself forwarded. Bytes include the Ethernet header.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct FlowStats {
    /// Packets.
    pub packets: u64,
    /// Bytes, Ethernet header included.
    pub bytes: u64,
}

/// `OVS_FLOW_ATTR_TCP_FLAGS`: the flags of all its TCP packets, added up.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct TcpFlags(pub u8);

/// What a message about a megaflow has beside keys and actions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlowCounters {
    /// What happened to it.
    pub change: Change,
    /// The message's sequence number: of the request that caused a notification.
    pub seq: Seq,
    /// The message's port id: of the socket that caused a notification.
    pub portid: PortId,
    /// `dp_ifindex`: the datapath it is in.
    pub dp: Ifindex,
    /// `OVS_FLOW_ATTR_UFID`. Absent where the flow was made without one.
    pub ufid: Option<Ufid>,
    /// `OVS_FLOW_ATTR_STATS`: 0 where the kernel sent none, because there were no packets.
    pub stats: FlowStats,
    /// `OVS_FLOW_ATTR_USED`: when the last packet came. Absent until the first.
    pub used: Option<MonotonicMs>,
    /// `OVS_FLOW_ATTR_TCP_FLAGS`
    pub tcp_flags: TcpFlags,
}

/// A megaflow of the kernel datapath.
///
/// What a message holds depends on who caused it (`OVS_FLOW_ATTR_UFID_FLAGS` of the request): ovs-vswitchd's own new
/// and changed flows come with everything, its deletions without keys, mask and actions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Megaflow<'a> {
    /// What it is called, what happened to it, what it counted.
    pub counters: FlowCounters,
    /// `OVS_FLOW_ATTR_KEY`, `OVS_FLOW_ATTR_MASK`
    pub keys: Option<FlowKeys>,
    /// `OVS_FLOW_ATTR_ACTIONS`
    pub actions: Option<FlowActions<'a>>,
}

/// The parts of a message that are read later than the rest.
#[derive(Default)]
struct Lists<'a> {
    key: Option<Attr<'a>>,
    mask: Option<Attr<'a>>,
    actions: Option<Attr<'a>>,
}

impl FlowCounters {
    /// Reads what is beside keys and actions: what a periodic dump is read for.
    ///
    /// # Errors
    /// A message that is not one of this family.
    pub fn decode(message: &Message<'_>) -> Result<Self, Malformed> {
        Self::read(message, &mut Lists::default())
    }

    #[inline]
    fn read<'a>(message: &Message<'a>, lists: &mut Lists<'a>) -> Result<Self, Malformed> {
        let (command, header, attrs) = genl::split::<4>(message, Family::OvsFlow)?;
        let change =
            Change::from_command(command.number).ok_or_else(|| message.wrong_type(Family::OvsFlow))?;
        let mut counters = Self {
            change,
            seq: message.header.seq,
            portid: message.header.portid,
            dp: Ifindex(u32::from_ne_bytes(header)),
            ufid: None,
            stats: FlowStats::default(),
            used: None,
            tcp_flags: TcpFlags::default(),
        };
        for attr in attrs {
            let attr = attr?;
            match attr.kind() {
                OVS_FLOW_ATTR_KEY => lists.key = Some(attr),
                OVS_FLOW_ATTR_ACTIONS => lists.actions = Some(attr),
                OVS_FLOW_ATTR_STATS => {
                    let bytes = attr.array::<16>()?;
                    let mut fields = Fields(&bytes);
                    counters.stats = FlowStats { packets: fields.u64(), bytes: fields.u64() };
                }
                OVS_FLOW_ATTR_TCP_FLAGS => counters.tcp_flags = TcpFlags(attr.u8()?),
                OVS_FLOW_ATTR_USED => counters.used = Some(MonotonicMs(attr.u64()?)),
                OVS_FLOW_ATTR_MASK => lists.mask = Some(attr),
                // Other lengths than ovs-vswitchd's 16 bytes are legal and name no flow of it.
                OVS_FLOW_ATTR_UFID if attr.payload().len() == 16 => {
                    counters.ufid = Some(Ufid::from_bytes(attr.array()?));
                }
                _ => {}
            }
        }
        Ok(counters)
    }
}

impl<'a> Megaflow<'a> {
    /// Reads one message of the family.
    ///
    /// # Errors
    /// A message that is not one of this family, or is broken in any part.
    pub fn decode(message: &Message<'a>) -> Result<Self, Malformed> {
        Ok(Self::read(message)?.0)
    }

    fn read(message: &Message<'a>) -> Result<(Self, Lists<'a>), Malformed> {
        let mut lists = Lists::default();
        let counters = FlowCounters::read(message, &mut lists)?;
        let mut flow = Self { counters, keys: None, actions: None };
        if let Some(key) = &lists.key {
            let keys = flow.keys.insert(FlowKeys::default());
            match &lists.mask {
                Some(mask) => {
                    keys.take(key.nested(), Side::Value)?;
                    keys.take(mask.nested(), Side::Mask)?;
                }
                None => keys.take(key.nested(), Side::Exact)?,
            }
        }
        flow.actions = lists.actions.as_ref().map(FlowActions::read).transpose()?;
        Ok((flow, lists))
    }

    /// The same megaflow, independent of the message it was read from.
    pub fn into_owned(self) -> Megaflow<'static> {
        let actions = self.actions.map(FlowActions::into_owned);
        Megaflow { counters: self.counters, keys: self.keys, actions }
    }
}

/// `OVS_UFID_F_*`: what an answer is to leave out.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Omit {
    /// `OVS_UFID_F_OMIT_KEY`. Kept for flows that have no UFID.
    pub keys: bool,
    /// `OVS_UFID_F_OMIT_MASK`
    pub mask: bool,
    /// `OVS_UFID_F_OMIT_ACTIONS`
    pub actions: bool,
}

impl Omit {
    /// Everything but names and counters.
    pub const ALL: Self = Self { keys: true, mask: true, actions: true };

    const fn bits(self) -> u32 {
        (self.keys as u32) | (self.mask as u32) << 1 | (self.actions as u32) << 2
    }
}

fn request(family: FamilyId, dp: Ifindex, flags: u16, seq: Seq) -> MessageWriter {
    let command = Command { number: OVS_FLOW_CMD_GET, version: VERSION };
    let mut writer = genl::request(family, command, flags::REQUEST | flags, seq);
    writer.fixed(&dp.0.to_ne_bytes());
    writer
}

/// `OVS_FLOW_CMD_GET`: asks for all megaflows of a datapath.
pub fn dump(family: FamilyId, dp: Ifindex, omit: Omit, seq: Seq) -> Vec<u8> {
    let mut writer = request(family, dp, flags::DUMP, seq);
    writer.put_u32(OVS_FLOW_ATTR_UFID_FLAGS, omit.bits());
    writer.finish().expect("a request of fixed size")
}

/// `OVS_FLOW_CMD_GET`: asks for one megaflow. The answer is it, or ENOENT.
pub fn get(family: FamilyId, dp: Ifindex, ufid: Ufid, omit: Omit, seq: Seq) -> Vec<u8> {
    let mut writer = request(family, dp, flags::ACK, seq);
    writer.put(OVS_FLOW_ATTR_UFID, ufid.as_bytes());
    writer.put_u32(OVS_FLOW_ATTR_UFID_FLAGS, omit.bits());
    writer.finish().expect("a request of fixed size")
}
