//! What an instance says of itself: driver, serial numbers, versions.

use super::handle::Handle;
use super::{DEVLINK_CMD_INFO_GET, request};
use crate::attr::{Attr, Attrs};
use crate::genl::FamilyId;
use crate::ids::Seq;
use crate::malformed::{Malformed, Why};
use crate::message::flags;
use alloc::boxed::Box;
use alloc::vec::Vec;

const DEVLINK_ATTR_INFO_DRIVER_NAME: u16 = 98;
const DEVLINK_ATTR_INFO_SERIAL_NUMBER: u16 = 99;
const DEVLINK_ATTR_INFO_VERSION_FIXED: u16 = 100;
const DEVLINK_ATTR_INFO_VERSION_RUNNING: u16 = 101;
const DEVLINK_ATTR_INFO_VERSION_STORED: u16 = 102;
const DEVLINK_ATTR_INFO_VERSION_NAME: u16 = 103;
const DEVLINK_ATTR_INFO_VERSION_VALUE: u16 = 104;
const DEVLINK_ATTR_INFO_BOARD_SERIAL_NUMBER: u16 = 146;
/// Versions of one kind: drivers have some ten.
const VERSIONS_MAX: usize = 128;

/// A version: what of, as `fw` or `board.id`, and which.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Version {
    /// `DEVLINK_ATTR_INFO_VERSION_NAME`
    pub name: Box<str>,
    /// `DEVLINK_ATTR_INFO_VERSION_VALUE`
    pub value: Box<str>,
}

/// The answer to [`dump_info`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Info {
    /// The instance's name.
    pub handle: Handle,
    /// `DEVLINK_ATTR_INFO_DRIVER_NAME`
    pub driver: Option<Box<str>>,
    /// `DEVLINK_ATTR_INFO_SERIAL_NUMBER`
    pub serial: Option<Box<str>>,
    /// `DEVLINK_ATTR_INFO_BOARD_SERIAL_NUMBER`
    pub board_serial: Option<Box<str>>,
    /// `DEVLINK_ATTR_INFO_VERSION_FIXED`: of what cannot be changed.
    pub fixed: Vec<Version>,
    /// `DEVLINK_ATTR_INFO_VERSION_RUNNING`: of what runs now.
    pub running: Vec<Version>,
    /// `DEVLINK_ATTR_INFO_VERSION_STORED`: of what will run after the next reset.
    pub stored: Vec<Version>,
}

impl Info {
    pub(super) fn decode(attrs: Attrs<'_>) -> Result<Self, Malformed> {
        let handle = Handle::decode(attrs)?;
        let (mut driver, mut serial, mut board_serial) = (None, None, None);
        let (mut fixed, mut running, mut stored) = (Vec::new(), Vec::new(), Vec::new());
        for attr in attrs {
            let attr = attr?;
            let text = || attr.text().map(Box::from);
            match attr.kind() {
                DEVLINK_ATTR_INFO_DRIVER_NAME => driver = Some(text()?),
                DEVLINK_ATTR_INFO_SERIAL_NUMBER => serial = Some(text()?),
                DEVLINK_ATTR_INFO_BOARD_SERIAL_NUMBER => board_serial = Some(text()?),
                DEVLINK_ATTR_INFO_VERSION_FIXED => push_version(&mut fixed, &attr)?,
                DEVLINK_ATTR_INFO_VERSION_RUNNING => push_version(&mut running, &attr)?,
                DEVLINK_ATTR_INFO_VERSION_STORED => push_version(&mut stored, &attr)?,
                _ => {}
            }
        }
        Ok(Self { handle, driver, serial, board_serial, fixed, running, stored })
    }

    /// The firmware that runs: `fw`, or else `fw.version`, or else `fw.mgmt` (the generic names of the kernel's
    /// `Documentation/networking/devlink/devlink-info.rst`; mlx5 has the first two).
    pub fn firmware(&self) -> Option<&str> {
        let running = |name: &str| self.running.iter().find(|version| *version.name == *name);
        ["fw", "fw.version", "fw.mgmt"].into_iter().find_map(running).map(|version| &*version.value)
    }
}

fn push_version(versions: &mut Vec<Version>, attr: &Attr<'_>) -> Result<(), Malformed> {
    if versions.len() == VERSIONS_MAX {
        return Err(attr.malformed(Why::TooMany));
    }
    let nest = attr.nested();
    let part = |kind| -> Result<Box<str>, Malformed> {
        Ok(Box::from(nest.find(kind)?.ok_or_else(|| nest.missing(kind))?.text()?))
    };
    let name = part(DEVLINK_ATTR_INFO_VERSION_NAME)?;
    versions.push(Version { name, value: part(DEVLINK_ATTR_INFO_VERSION_VALUE)? });
    Ok(())
}

/// `DEVLINK_CMD_INFO_GET`: asks for all instances of the network namespace that say anything of themselves.
pub fn dump_info(family: FamilyId, seq: Seq) -> Vec<u8> {
    request(family, DEVLINK_CMD_INFO_GET, flags::DUMP, seq).finish().expect("a request of fixed size")
}
