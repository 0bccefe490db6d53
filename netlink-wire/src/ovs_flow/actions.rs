//! What a megaflow does with its packets: `OVS_ACTION_ATTR_*`.

use super::conntrack::Conntrack;
use super::keys::{FlowKeys, Side};
use crate::attr::{Attr, Attrs, Fields};
use crate::malformed::{Family, Malformed, Why};
use crate::{DpPort, EtherType, MacAddr, RecircId};
use alloc::borrow::Cow;

const OVS_ACTION_ATTR_OUTPUT: u16 = 1;
const OVS_ACTION_ATTR_USERSPACE: u16 = 2;
const OVS_ACTION_ATTR_SET: u16 = 3;
const OVS_ACTION_ATTR_PUSH_VLAN: u16 = 4;
const OVS_ACTION_ATTR_POP_VLAN: u16 = 5;
const OVS_ACTION_ATTR_SAMPLE: u16 = 6;
const OVS_ACTION_ATTR_RECIRC: u16 = 7;
const OVS_ACTION_ATTR_HASH: u16 = 8;
const OVS_ACTION_ATTR_PUSH_MPLS: u16 = 9;
const OVS_ACTION_ATTR_POP_MPLS: u16 = 10;
const OVS_ACTION_ATTR_SET_MASKED: u16 = 11;
const OVS_ACTION_ATTR_CT: u16 = 12;
const OVS_ACTION_ATTR_TRUNC: u16 = 13;
const OVS_ACTION_ATTR_PUSH_ETH: u16 = 14;
const OVS_ACTION_ATTR_POP_ETH: u16 = 15;
const OVS_ACTION_ATTR_CT_CLEAR: u16 = 16;
const OVS_ACTION_ATTR_PUSH_NSH: u16 = 17;
const OVS_ACTION_ATTR_POP_NSH: u16 = 18;
const OVS_ACTION_ATTR_METER: u16 = 19;
const OVS_ACTION_ATTR_CLONE: u16 = 20;
const OVS_ACTION_ATTR_CHECK_PKT_LEN: u16 = 21;
const OVS_ACTION_ATTR_ADD_MPLS: u16 = 22;
const OVS_ACTION_ATTR_DEC_TTL: u16 = 23;
const OVS_ACTION_ATTR_DROP: u16 = 24;
const OVS_ACTION_ATTR_PSAMPLE: u16 = 25;

/// How deep actions may be nested in actions (`OVS_COPY_ACTIONS_MAX_DEPTH` of the kernel is 16).
pub const DEPTH_MAX: usize = 16;

/// A meter's number in its datapath: `OVS_METER_ATTR_ID`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct MeterId(pub u32);

/// A list of actions, as it is on the wire and checked to be readable.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct FlowActions<'a>(Cow<'a, [u8]>);

/// One action.
///
/// Lists of actions inside an action are not [`FlowAction`]s of their own list.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum FlowAction<'a> {
    /// `OVS_ACTION_ATTR_OUTPUT`: to this port.
    Output(DpPort),
    /// `OVS_ACTION_ATTR_USERSPACE`: to ovs-vswitchd.
    Userspace(Userspace<'a>),
    /// `OVS_ACTION_ATTR_SET`, `OVS_ACTION_ATTR_SET_MASKED`: a header or the tunnel is set.
    Set(SetField<'a>),
    /// `OVS_ACTION_ATTR_PUSH_VLAN`
    PushVlan {
        /// 802.1Q or 802.1ad.
        tpid: EtherType,
        /// Priority, bit 12 (which Open vSwitch sets), and id.
        tci: u16,
    },
    /// `OVS_ACTION_ATTR_POP_VLAN`
    PopVlan,
    /// `OVS_ACTION_ATTR_SAMPLE`: actions for some of the packets.
    Sample {
        /// `OVS_SAMPLE_ATTR_PROBABILITY`: in parts of 2^32 - 1.
        probability: u32,
        /// `OVS_SAMPLE_ATTR_ACTIONS`
        actions: FlowActions<'a>,
    },
    /// `OVS_ACTION_ATTR_RECIRC`: looked up again, with this id.
    Recirc(RecircId),
    /// `OVS_ACTION_ATTR_HASH`: a hash is computed for a later lookup.
    Hash {
        /// `OVS_HASH_ALG_*`: 0 of the transport header.
        algorithm: u32,
        /// Where the hash starts from.
        basis: u32,
    },
    /// `OVS_ACTION_ATTR_PUSH_MPLS`
    PushMpls {
        /// The label stack entry.
        lse: u32,
        /// Its Ethernet type.
        ethertype: EtherType,
    },
    /// `OVS_ACTION_ATTR_ADD_MPLS`
    AddMpls {
        /// The label stack entry.
        lse: u32,
        /// Its Ethernet type.
        ethertype: EtherType,
        /// `OVS_MPLS_L3_TUNNEL_FLAG_MASK`: before the network header, not before the Ethernet header.
        flags: u16,
    },
    /// `OVS_ACTION_ATTR_POP_MPLS`, with the Ethernet type of what is uncovered.
    PopMpls(EtherType),
    /// `OVS_ACTION_ATTR_CT`: connection tracking.
    Ct(Conntrack<'a>),
    /// `OVS_ACTION_ATTR_CT_CLEAR`: the packet forgets its connection.
    CtClear,
    /// `OVS_ACTION_ATTR_TRUNC`: the next output sends at most so many bytes.
    Trunc(u32),
    /// `OVS_ACTION_ATTR_PUSH_ETH`
    PushEth {
        /// Source.
        src: MacAddr,
        /// Destination.
        dst: MacAddr,
    },
    /// `OVS_ACTION_ATTR_POP_ETH`
    PopEth,
    /// `OVS_ACTION_ATTR_PUSH_NSH`: nested `OVS_NSH_KEY_ATTR_*`, as they are.
    PushNsh(&'a [u8]),
    /// `OVS_ACTION_ATTR_POP_NSH`
    PopNsh,
    /// `OVS_ACTION_ATTR_METER`
    Meter(MeterId),
    /// `OVS_ACTION_ATTR_CLONE`: actions for a copy.
    Clone(FlowActions<'a>),
    /// `OVS_ACTION_ATTR_CHECK_PKT_LEN`: actions by the packet's length.
    CheckPacketLength {
        /// `OVS_CHECK_PKT_LEN_ATTR_PKT_LEN`, in bytes.
        length: u16,
        /// `OVS_CHECK_PKT_LEN_ATTR_ACTIONS_IF_GREATER`
        greater: FlowActions<'a>,
        /// `OVS_CHECK_PKT_LEN_ATTR_ACTIONS_IF_LESS_EQUAL`
        less_or_equal: FlowActions<'a>,
    },
    /// `OVS_ACTION_ATTR_DEC_TTL`, with the actions where it reaches 0.
    DecTtl(FlowActions<'a>),
    /// `OVS_ACTION_ATTR_DROP`, with a reason's number.
    Drop(u32),
    /// `OVS_ACTION_ATTR_PSAMPLE`: a copy to observers in user space.
    Psample {
        /// `OVS_PSAMPLE_ATTR_GROUP`
        group: u32,
        /// `OVS_PSAMPLE_ATTR_COOKIE`
        cookie: &'a [u8],
    },
    /// An action without a name here, as it is.
    Unknown {
        /// Its number.
        attr: u16,
        /// Its payload.
        payload: &'a [u8],
    },
}

/// `OVS_USERSPACE_ATTR_*`
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Userspace<'a> {
    /// `OVS_USERSPACE_ATTR_PID`: the socket it is sent to. 0 where each processor has its own.
    pub pid: u32,
    /// `OVS_USERSPACE_ATTR_USERDATA`: Open vSwitch's reason (`union user_action_cookie`).
    pub userdata: &'a [u8],
    /// `OVS_USERSPACE_ATTR_EGRESS_TUN_PORT`
    pub tunnel_out_port: Option<DpPort>,
    /// `OVS_USERSPACE_ATTR_ACTIONS`: the flow's actions are sent along.
    pub with_actions: bool,
}

/// `OVS_ACTION_ATTR_SET`, `OVS_ACTION_ATTR_SET_MASKED`: one key, and what it is set to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SetField<'a> {
    /// `OVS_KEY_ATTR_*`: which key.
    pub key: u16,
    /// Whether value and mask follow each other, or all bits are set.
    pub masked: bool,
    attr: Attr<'a>,
}

impl<'a> FlowActions<'a> {
    /// Checks a list of actions, those inside of actions included.
    pub(super) fn read(attr: &Attr<'a>) -> Result<Self, Malformed> {
        check(attr.nested(), 0)?;
        Ok(Self(Cow::Borrowed(attr.payload())))
    }

    /// The same, of a list that was taken out of its attribute.
    pub(super) fn of_list(bytes: &'a [u8]) -> Result<Self, Malformed> {
        check(Attrs::new(bytes, Family::OvsFlow, 0), 0)?;
        Ok(Self(Cow::Borrowed(bytes)))
    }

    /// A list that was checked with the one around it.
    const fn inner(attr: &Attr<'a>) -> Self {
        Self(Cow::Borrowed(attr.payload()))
    }

    /// The actions, in order.
    pub fn iter(&self) -> impl Iterator<Item = FlowAction<'_>> + Clone {
        // The list was checked when it was read, so that neither error occurs.
        Attrs::new(&self.0, Family::OvsFlow, 0).filter_map(|attr| FlowAction::read(&attr.ok()?).ok())
    }

    /// Whether there is none: the packets are dropped. Bytes too few for an attribute are none.
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    /// The bytes as they are on the wire. Equal bytes are equal actions.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The same actions, independent of the message they were read from.
    pub fn into_owned(self) -> FlowActions<'static> {
        FlowActions(Cow::Owned(self.0.into_owned()))
    }

    /// Calls `each` for every action, those inside of actions included.
    pub fn visit(&self, each: &mut dyn FnMut(&FlowAction<'_>)) {
        for action in self.iter() {
            each(&action);
            match &action {
                FlowAction::Sample { actions, .. }
                | FlowAction::Clone(actions)
                | FlowAction::DecTtl(actions) => actions.visit(each),
                FlowAction::CheckPacketLength { greater, less_or_equal, .. } => {
                    greater.visit(each);
                    less_or_equal.visit(each);
                }
                _ => {}
            }
        }
    }
}

/// Reads every action once, to find out that all of them can be read.
fn check(attrs: Attrs<'_>, depth: usize) -> Result<(), Malformed> {
    for attr in attrs {
        let attr = attr?;
        if depth == DEPTH_MAX {
            return Err(attr.malformed(Why::TooMany));
        }
        match FlowAction::read(&attr)? {
            FlowAction::Clone(_) => check(attr.nested(), depth + 1)?,
            FlowAction::Sample { .. } => check_nested(&attr, &[OVS_SAMPLE_ATTR_ACTIONS], depth)?,
            FlowAction::DecTtl(_) => check_nested(&attr, &[OVS_DEC_TTL_ATTR_ACTION], depth)?,
            FlowAction::CheckPacketLength { .. } => {
                check_nested(&attr, &[OVS_CHECK_PKT_LEN_GREATER, OVS_CHECK_PKT_LEN_LESS_EQUAL], depth)?;
            }
            _ => {}
        }
    }
    Ok(())
}

fn check_nested(attr: &Attr<'_>, lists: &[u16], depth: usize) -> Result<(), Malformed> {
    for attr in attr.nested() {
        let attr = attr?;
        if lists.contains(&attr.kind()) {
            check(attr.nested(), depth + 1)?;
        }
    }
    Ok(())
}

const OVS_SAMPLE_ATTR_PROBABILITY: u16 = 1;
const OVS_SAMPLE_ATTR_ACTIONS: u16 = 2;
const OVS_DEC_TTL_ATTR_ACTION: u16 = 1;
const OVS_CHECK_PKT_LEN: u16 = 1;
const OVS_CHECK_PKT_LEN_GREATER: u16 = 2;
const OVS_CHECK_PKT_LEN_LESS_EQUAL: u16 = 3;

impl<'a> FlowAction<'a> {
    fn read(attr: &Attr<'a>) -> Result<Self, Malformed> {
        Ok(match attr.kind() {
            OVS_ACTION_ATTR_OUTPUT => Self::Output(DpPort(attr.u32()?)),
            OVS_ACTION_ATTR_USERSPACE => Self::Userspace(Userspace::read(attr)?),
            OVS_ACTION_ATTR_SET => Self::Set(SetField::read(attr, false)?),
            OVS_ACTION_ATTR_SET_MASKED => Self::Set(SetField::read(attr, true)?),
            OVS_ACTION_ATTR_PUSH_VLAN => {
                let bytes = attr.array::<4>()?;
                let mut fields = Fields(&bytes);
                Self::PushVlan { tpid: EtherType(fields.be16()), tci: fields.be16() }
            }
            OVS_ACTION_ATTR_POP_VLAN => Self::PopVlan,
            OVS_ACTION_ATTR_SAMPLE => Self::read_sample(attr)?,
            OVS_ACTION_ATTR_RECIRC => Self::Recirc(RecircId(attr.u32()?)),
            OVS_ACTION_ATTR_HASH => {
                let bytes = attr.array::<8>()?;
                let mut fields = Fields(&bytes);
                Self::Hash { algorithm: fields.u32(), basis: fields.u32() }
            }
            OVS_ACTION_ATTR_PUSH_MPLS => {
                let bytes = attr.array::<6>()?;
                let mut fields = Fields(&bytes);
                Self::PushMpls { lse: fields.be32(), ethertype: EtherType(fields.be16()) }
            }
            OVS_ACTION_ATTR_ADD_MPLS => {
                let bytes = attr.array::<8>()?;
                let mut fields = Fields(&bytes);
                let (lse, ethertype) = (fields.be32(), EtherType(fields.be16()));
                Self::AddMpls { lse, ethertype, flags: fields.u16() }
            }
            OVS_ACTION_ATTR_POP_MPLS => Self::PopMpls(EtherType(attr.be16()?)),
            OVS_ACTION_ATTR_CT => Self::Ct(Conntrack::read(attr)?),
            OVS_ACTION_ATTR_CT_CLEAR => Self::CtClear,
            OVS_ACTION_ATTR_TRUNC => Self::Trunc(attr.u32()?),
            OVS_ACTION_ATTR_PUSH_ETH => {
                let bytes = attr.array::<12>()?;
                let mut fields = Fields(&bytes);
                Self::PushEth { src: MacAddr(fields.bytes()), dst: MacAddr(fields.bytes()) }
            }
            OVS_ACTION_ATTR_POP_ETH => Self::PopEth,
            OVS_ACTION_ATTR_PUSH_NSH => Self::PushNsh(attr.payload()),
            OVS_ACTION_ATTR_POP_NSH => Self::PopNsh,
            OVS_ACTION_ATTR_METER => Self::Meter(MeterId(attr.u32()?)),
            OVS_ACTION_ATTR_CLONE => Self::Clone(FlowActions::inner(attr)),
            OVS_ACTION_ATTR_CHECK_PKT_LEN => Self::read_check_length(attr)?,
            OVS_ACTION_ATTR_DEC_TTL => {
                let actions = attr.nested().find(OVS_DEC_TTL_ATTR_ACTION)?;
                Self::DecTtl(actions.as_ref().map(FlowActions::inner).unwrap_or_default())
            }
            OVS_ACTION_ATTR_DROP => Self::Drop(attr.u32()?),
            OVS_ACTION_ATTR_PSAMPLE => Self::read_psample(attr)?,
            other => Self::Unknown { attr: other, payload: attr.payload() },
        })
    }

    fn read_sample(attr: &Attr<'a>) -> Result<Self, Malformed> {
        let (mut probability, mut actions) = (0, FlowActions::default());
        for attr in attr.nested() {
            let attr = attr?;
            match attr.kind() {
                OVS_SAMPLE_ATTR_PROBABILITY => probability = attr.u32()?,
                OVS_SAMPLE_ATTR_ACTIONS => actions = FlowActions::inner(&attr),
                _ => {}
            }
        }
        Ok(Self::Sample { probability, actions })
    }

    fn read_check_length(attr: &Attr<'a>) -> Result<Self, Malformed> {
        let (mut length, mut greater, mut less_or_equal) =
            (0, FlowActions::default(), FlowActions::default());
        for attr in attr.nested() {
            let attr = attr?;
            match attr.kind() {
                OVS_CHECK_PKT_LEN => length = attr.u16()?,
                OVS_CHECK_PKT_LEN_GREATER => greater = FlowActions::inner(&attr),
                OVS_CHECK_PKT_LEN_LESS_EQUAL => less_or_equal = FlowActions::inner(&attr),
                _ => {}
            }
        }
        Ok(Self::CheckPacketLength { length, greater, less_or_equal })
    }

    fn read_psample(attr: &Attr<'a>) -> Result<Self, Malformed> {
        let (mut group, mut cookie) = (0, &[][..]);
        for attr in attr.nested() {
            let attr = attr?;
            match attr.kind() {
                // OVS_PSAMPLE_ATTR_GROUP, OVS_PSAMPLE_ATTR_COOKIE
                1 => group = attr.u32()?,
                2 => cookie = attr.payload(),
                _ => {}
            }
        }
        Ok(Self::Psample { group, cookie })
    }
}

impl<'a> Userspace<'a> {
    fn read(attr: &Attr<'a>) -> Result<Self, Malformed> {
        let mut userspace = Self::default();
        for attr in attr.nested() {
            let attr = attr?;
            match attr.kind() {
                // OVS_USERSPACE_ATTR_PID, _USERDATA, _EGRESS_TUN_PORT, _ACTIONS
                1 => userspace.pid = attr.u32()?,
                2 => userspace.userdata = attr.payload(),
                3 => userspace.tunnel_out_port = Some(DpPort(attr.u32()?)),
                4 => userspace.with_actions = true,
                _ => {}
            }
        }
        Ok(userspace)
    }
}

impl<'a> SetField<'a> {
    fn read(attr: &Attr<'a>, masked: bool) -> Result<Self, Malformed> {
        let nested = attr.nested().next().transpose()?;
        let nested = nested.ok_or_else(|| attr.too_short(crate::attr::NLA_HDRLEN))?;
        let field = Self { key: nested.kind(), masked, attr: nested };
        field.keys()?;
        Ok(field)
    }

    /// What is set: the one key of its kind, with the bits that are set as its mask.
    ///
    /// # Errors
    /// A value shorter than the key.
    pub fn keys(&self) -> Result<FlowKeys, Malformed> {
        let mut keys = FlowKeys::default();
        if !self.masked {
            keys.take_one(&self.attr, Side::Exact)?;
            return Ok(keys);
        }
        let (value, mask) = self.attr.halves();
        keys.take_one(&value, Side::Value)?;
        keys.take_one(&mask, Side::Mask)?;
        Ok(keys)
    }
}
