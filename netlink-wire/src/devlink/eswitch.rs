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

/// An instance's eswitch: `DEVLINK_CMD_ESWITCH_GET`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Eswitch {
    /// The instance's name.
    pub handle: Handle,
    /// `DEVLINK_ATTR_ESWITCH_MODE`
    pub mode: Option<EswitchMode>,
    /// `DEVLINK_ATTR_ESWITCH_INLINE_MODE`
    pub inline_mode: Option<u8>,
    /// `DEVLINK_ATTR_ESWITCH_ENCAP_MODE`: whether tunnels can be offloaded.
    pub encap_mode: Option<u8>,
}

pub(super) fn decode_eswitch(attrs: Attrs<'_>) -> Result<Eswitch, Malformed> {
    let handle = Handle::decode(attrs)?;
    let mut eswitch = Eswitch { handle, mode: None, inline_mode: None, encap_mode: None };
    for attr in attrs {
        let attr = attr?;
        match attr.kind() {
            DEVLINK_ATTR_ESWITCH_MODE => eswitch.mode = Some(EswitchMode::from_number(attr.u16()?)),
            DEVLINK_ATTR_ESWITCH_INLINE_MODE => eswitch.inline_mode = Some(attr.u8()?),
            DEVLINK_ATTR_ESWITCH_ENCAP_MODE => eswitch.encap_mode = Some(attr.u8()?),
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
