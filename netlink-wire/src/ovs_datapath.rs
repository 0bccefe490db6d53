//! The generic netlink family `ovs_datapath` of `linux/openvswitch.h`: which datapaths there are, and their totals.

use crate::attr::Fields;
use crate::genl::{self, Command, FamilyId};
use crate::ids::{Ifindex, PortId, Seq};
use crate::malformed::{Family, Malformed};
use crate::message::{Message, flags};
use alloc::boxed::Box;
use alloc::vec::Vec;

/// `OVS_DATAPATH_FAMILY`
pub const FAMILY: &str = "ovs_datapath";
/// `OVS_DATAPATH_MCGROUP`
pub const GROUP: &str = "ovs_datapath";
/// `OVS_DATAPATH_VERSION`
const VERSION: u8 = 2;

const OVS_DP_CMD_NEW: u8 = 1;
const OVS_DP_CMD_DEL: u8 = 2;
const OVS_DP_CMD_GET: u8 = 3;
const OVS_DP_CMD_SET: u8 = 4;

const OVS_DP_ATTR_NAME: u16 = 1;
const OVS_DP_ATTR_STATS: u16 = 3;
const OVS_DP_ATTR_MEGAFLOW_STATS: u16 = 4;
const OVS_DP_ATTR_USER_FEATURES: u16 = 5;

/// What happened to a datapath, a port or a flow of the kernel datapath.
///
/// Dumps and answers to a get carry `New`, as the kernel sends them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Change {
    /// `OVS_*_CMD_NEW`: it exists.
    New,
    /// `OVS_*_CMD_SET`: it was changed.
    Set,
    /// `OVS_*_CMD_DEL`: it is gone.
    Deleted,
}

impl Change {
    /// The change a command of `ovs_datapath`, `ovs_vport` or `ovs_flow` reports; the three share their numbers.
    pub(crate) const fn from_command(number: u8) -> Option<Self> {
        match number {
            // Dumps and answers of datapaths and ports repeat the request's own number; those of flows say NEW.
            OVS_DP_CMD_NEW | OVS_DP_CMD_GET => Some(Self::New),
            OVS_DP_CMD_SET => Some(Self::Set),
            OVS_DP_CMD_DEL => Some(Self::Deleted),
            _ => None,
        }
    }
}

/// `struct ovs_dp_stats`
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DatapathStats {
    /// `n_hit`: packets that found a flow.
    pub hits: u64,
    /// `n_missed`: packets that found none and went to ovs-vswitchd.
    pub misses: u64,
    /// `n_lost`: of these, packets that could not be sent to ovs-vswitchd.
    pub lost: u64,
    /// `n_flows`: flows present.
    pub flows: u64,
}

/// `struct ovs_dp_megaflow_stats`
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MegaflowStats {
    /// `n_mask_hit`: masks tried in all lookups.
    pub mask_hits: u64,
    /// `n_masks`: masks present.
    pub masks: u32,
    /// `n_cache_hit`: lookups answered by the mask cache.
    pub cache_hits: u64,
}

/// A datapath.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Datapath {
    /// What happened to it.
    pub change: Change,
    /// The message's sequence number.
    pub seq: Seq,
    /// The message's port id.
    pub portid: PortId,
    /// `dp_ifindex`: the device of its local port, by which flows and ports name it.
    pub ifindex: Ifindex,
    /// `OVS_DP_ATTR_NAME`: usually `ovs-system`.
    pub name: Option<Box<str>>,
    /// `OVS_DP_ATTR_STATS`
    pub stats: Option<DatapathStats>,
    /// `OVS_DP_ATTR_MEGAFLOW_STATS`
    pub megaflow_stats: Option<MegaflowStats>,
    /// `OVS_DP_ATTR_USER_FEATURES`
    pub features: Features,
}

/// `OVS_DP_F_*`: what ovs-vswitchd turned on in a datapath.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Features(pub u32);

impl Features {
    /// `OVS_DP_F_TC_RECIRC_SHARING`: TC and the datapath share recirculation ids. Without it, Open vSwitch puts no flow
    /// with a recirculation id into TC; it cannot be turned on where the kernel lacks `CONFIG_NET_TC_SKB_EXT`.
    pub const TC_RECIRC_SHARING: u32 = 1 << 2;

    /// Whether TC and the datapath share recirculation ids.
    pub const fn shares_recirc_ids_with_tc(self) -> bool {
        self.0 & Self::TC_RECIRC_SHARING != 0
    }
}

impl Datapath {
    /// Reads one message of the family.
    ///
    /// # Errors
    /// A message that is not one of this family.
    pub fn decode(message: &Message<'_>) -> Result<Self, Malformed> {
        let (command, header, attrs) = genl::split::<4>(message, Family::OvsDatapath)?;
        let change =
            Change::from_command(command.number).ok_or_else(|| message.wrong_type(Family::OvsDatapath))?;
        let mut datapath = Self {
            change,
            seq: message.header.seq,
            portid: message.header.portid,
            ifindex: Ifindex(u32::from_ne_bytes(header)),
            name: None,
            stats: None,
            megaflow_stats: None,
            features: Features::default(),
        };
        for attr in attrs {
            let attr = attr?;
            match attr.kind() {
                OVS_DP_ATTR_NAME => datapath.name = Some(Box::from(attr.text()?)),
                OVS_DP_ATTR_STATS => {
                    let bytes = attr.array::<32>()?;
                    let mut fields = Fields(&bytes);
                    let [hits, misses, lost, flows] = core::array::from_fn(|_| fields.u64());
                    datapath.stats = Some(DatapathStats { hits, misses, lost, flows });
                }
                OVS_DP_ATTR_MEGAFLOW_STATS => {
                    let bytes = attr.array::<24>()?;
                    let mut fields = Fields(&bytes);
                    let (mask_hits, masks, _pad, cache_hits) =
                        (fields.u64(), fields.u32(), fields.u32(), fields.u64());
                    datapath.megaflow_stats = Some(MegaflowStats { mask_hits, masks, cache_hits });
                }
                OVS_DP_ATTR_USER_FEATURES => datapath.features = Features(attr.u32()?),
                _ => {}
            }
        }
        Ok(datapath)
    }
}

/// `OVS_DP_CMD_GET`: asks for all datapaths of the network namespace.
pub fn dump(family: FamilyId, seq: Seq) -> Vec<u8> {
    let command = Command { number: OVS_DP_CMD_GET, version: VERSION };
    let mut writer = genl::request(family, command, flags::REQUEST | flags::DUMP, seq);
    writer.fixed(&[0; 4]);
    writer.finish().expect("a request of fixed size")
}
