//! The eswitch of an instance.

use super::handle::Handle;
use super::{DEVLINK_CMD_ESWITCH_GET, DEVLINK_CMD_ESWITCH_SET, request};
use crate::attr::Attrs;
use crate::genl::FamilyId;
use crate::ids::Seq;
use crate::malformed::Malformed;
use crate::message::flags;
use crate::writer::TooLong;
use alloc::vec::Vec;
use core::fmt;

const DEVLINK_ATTR_ESWITCH_MODE: u16 = 25;
const DEVLINK_ATTR_ESWITCH_INLINE_MODE: u16 = 26;
const DEVLINK_ATTR_ESWITCH_ENCAP_MODE: u16 = 62;

/// `DEVLINK_ATTR_ESWITCH_MODE`
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum EswitchMode {
    /// `DEVLINK_ESWITCH_MODE_LEGACY`: the card switches by MAC address and VLAN, there are no representors.
    Legacy,
    /// `DEVLINK_ESWITCH_MODE_SWITCHDEV`: representors, and rules placed through them.
    Switchdev,
    /// A number newer than this crate.
    Other(u16),
}

impl EswitchMode {
    const fn from_number(number: u16) -> Self {
        match number {
            0 => Self::Legacy,
            1 => Self::Switchdev,
            other => Self::Other(other),
        }
    }

    const fn number(self) -> u16 {
        match self {
            Self::Legacy => 0,
            Self::Switchdev => 1,
            Self::Other(other) => other,
        }
    }
}

impl fmt::Display for EswitchMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Legacy => f.write_str("legacy"),
            Self::Switchdev => f.write_str("switchdev"),
            Self::Other(number) => write!(f, "mode {number}"),
        }
    }
}

/// `DEVLINK_ATTR_ESWITCH_INLINE_MODE`: which headers of a packet a virtual function's driver has to repeat in its
/// descriptors, so that the eswitch can match on them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum InlineMode {
    /// `DEVLINK_ESWITCH_INLINE_MODE_NONE`
    None,
    /// `DEVLINK_ESWITCH_INLINE_MODE_LINK`: Ethernet.
    Link,
    /// `DEVLINK_ESWITCH_INLINE_MODE_NETWORK`: up to IP.
    Network,
    /// `DEVLINK_ESWITCH_INLINE_MODE_TRANSPORT`: up to TCP or UDP.
    Transport,
    /// A number newer than this crate.
    Other(u8),
}

impl InlineMode {
    const fn from_number(number: u8) -> Self {
        match number {
            0 => Self::None,
            1 => Self::Link,
            2 => Self::Network,
            3 => Self::Transport,
            other => Self::Other(other),
        }
    }

    const fn number(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Link => 1,
            Self::Network => 2,
            Self::Transport => 3,
            Self::Other(other) => other,
        }
    }
}

/// The word `devlink dev eswitch show` prints.
impl fmt::Display for InlineMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Link => f.write_str("link"),
            Self::Network => f.write_str("network"),
            Self::Transport => f.write_str("transport"),
            Self::Other(number) => write!(f, "mode {number}"),
        }
    }
}

/// `DEVLINK_ATTR_ESWITCH_ENCAP_MODE`: whether the eswitch puts packets into tunnels and takes them out.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum EncapMode {
    /// `DEVLINK_ESWITCH_ENCAP_MODE_NONE`
    None,
    /// `DEVLINK_ESWITCH_ENCAP_MODE_BASIC`
    Basic,
    /// A number newer than this crate.
    Other(u8),
}

impl EncapMode {
    const fn from_number(number: u8) -> Self {
        match number {
            0 => Self::None,
            1 => Self::Basic,
            other => Self::Other(other),
        }
    }
}

/// The word `devlink dev eswitch show` prints.
impl fmt::Display for EncapMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Basic => f.write_str("basic"),
            Self::Other(number) => write!(f, "mode {number}"),
        }
    }
}

/// An instance's eswitch: `DEVLINK_CMD_ESWITCH_GET`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Eswitch {
    /// The instance's name.
    pub handle: Handle,
    /// `DEVLINK_ATTR_ESWITCH_MODE`
    pub mode: Option<EswitchMode>,
    /// `DEVLINK_ATTR_ESWITCH_INLINE_MODE`
    pub inline_mode: Option<InlineMode>,
    /// `DEVLINK_ATTR_ESWITCH_ENCAP_MODE`: whether tunnels can be offloaded.
    pub encap_mode: Option<EncapMode>,
}

pub(super) fn decode_eswitch(attrs: Attrs<'_>) -> Result<Eswitch, Malformed> {
    let handle = Handle::decode(attrs)?;
    let mut eswitch = Eswitch { handle, mode: None, inline_mode: None, encap_mode: None };
    for attr in attrs {
        let attr = attr?;
        match attr.kind() {
            DEVLINK_ATTR_ESWITCH_MODE => eswitch.mode = Some(EswitchMode::from_number(attr.u16()?)),
            DEVLINK_ATTR_ESWITCH_INLINE_MODE => {
                eswitch.inline_mode = Some(InlineMode::from_number(attr.u8()?))
            }
            DEVLINK_ATTR_ESWITCH_ENCAP_MODE => eswitch.encap_mode = Some(EncapMode::from_number(attr.u8()?)),
            _ => {}
        }
    }
    Ok(eswitch)
}

/// `DEVLINK_CMD_ESWITCH_GET`: asks for an instance's eswitch. EOPNOTSUPP where it has none.
///
/// # Errors
/// A handle longer than an attribute can be.
pub fn get_eswitch(family: FamilyId, handle: &Handle, seq: Seq) -> Result<Vec<u8>, TooLong> {
    let mut writer = request(family, DEVLINK_CMD_ESWITCH_GET, flags::ACK, seq);
    handle.put(&mut writer);
    writer.finish()
}

/// `DEVLINK_CMD_ESWITCH_SET`: changes an instance's eswitch mode. Needs CAP_NET_ADMIN, and takes a card seconds.
///
/// # Errors
/// A handle longer than an attribute can be.
pub fn set_eswitch_mode(
    family: FamilyId,
    handle: &Handle,
    mode: EswitchMode,
    seq: Seq,
) -> Result<Vec<u8>, TooLong> {
    let mut writer = request(family, DEVLINK_CMD_ESWITCH_SET, flags::ACK, seq);
    handle.put(&mut writer);
    writer.put_u16(DEVLINK_ATTR_ESWITCH_MODE, mode.number());
    writer.finish()
}

/// `DEVLINK_CMD_ESWITCH_SET` of `DEVLINK_ATTR_ESWITCH_INLINE_MODE`. Needs CAP_NET_ADMIN.
///
/// # Errors
/// A handle longer than an attribute can be.
pub fn set_eswitch_inline(
    family: FamilyId,
    handle: &Handle,
    mode: InlineMode,
    seq: Seq,
) -> Result<Vec<u8>, TooLong> {
    let mut writer = request(family, DEVLINK_CMD_ESWITCH_SET, flags::ACK, seq);
    handle.put(&mut writer);
    writer.put_u8(DEVLINK_ATTR_ESWITCH_INLINE_MODE, mode.number());
    writer.finish()
}

/// `DEVLINK_CMD_ESWITCH_SET` of `DEVLINK_ATTR_ESWITCH_ENCAP_MODE`: whether the eswitch encapsulates. Needs CAP_NET_ADMIN.
///
/// # Errors
/// A handle longer than an attribute can be.
pub fn set_eswitch_encap(family: FamilyId, handle: &Handle, on: bool, seq: Seq) -> Result<Vec<u8>, TooLong> {
    let mut writer = request(family, DEVLINK_CMD_ESWITCH_SET, flags::ACK, seq);
    handle.put(&mut writer);
    writer.put_u8(DEVLINK_ATTR_ESWITCH_ENCAP_MODE, u8::from(on));
    writer.finish()
}
