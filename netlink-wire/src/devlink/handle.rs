//! Instances and how they are named.

use super::request;
use crate::attr::Attrs;
use crate::genl::FamilyId;
use crate::ids::Seq;
use crate::malformed::Malformed;
use crate::message::flags;
use crate::writer::MessageWriter;
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;

const DEVLINK_CMD_GET: u8 = 1;
const DEVLINK_ATTR_BUS_NAME: u16 = 1;
const DEVLINK_ATTR_DEV_NAME: u16 = 2;
const DEVLINK_ATTR_RELOAD_FAILED: u16 = 136;

/// A devlink instance: `DEVLINK_ATTR_BUS_NAME` and `DEVLINK_ATTR_DEV_NAME`. Displayed as `devlink` does:
/// `pci/0000:03:00.0`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Handle {
    /// `DEVLINK_ATTR_BUS_NAME`
    pub bus: Box<str>,
    /// `DEVLINK_ATTR_DEV_NAME`
    pub device: Box<str>,
}

impl Handle {
    pub(super) fn decode(attrs: Attrs<'_>) -> Result<Self, Malformed> {
        let (mut bus, mut device) = (None, None);
        for attr in attrs {
            let attr = attr?;
            match attr.kind() {
                DEVLINK_ATTR_BUS_NAME => bus = Some(Box::from(attr.text()?)),
                DEVLINK_ATTR_DEV_NAME => device = Some(Box::from(attr.text()?)),
                _ => continue,
            }
            if bus.is_some() && device.is_some() {
                break;
            }
        }
        Ok(Self {
            bus: bus.ok_or_else(|| attrs.missing(DEVLINK_ATTR_BUS_NAME))?,
            device: device.ok_or_else(|| attrs.missing(DEVLINK_ATTR_DEV_NAME))?,
        })
    }

    pub(super) fn put(&self, writer: &mut MessageWriter) {
        writer.put_text(DEVLINK_ATTR_BUS_NAME, &self.bus);
        writer.put_text(DEVLINK_ATTR_DEV_NAME, &self.device);
    }
}

impl fmt::Display for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.bus, self.device)
    }
}

/// A text that is not `bus/device`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotAHandle;

impl fmt::Display for NotAHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a devlink handle: expected BUS/DEVICE, for example pci/0000:03:00.0")
    }
}

impl core::error::Error for NotAHandle {}

impl core::str::FromStr for Handle {
    type Err = NotAHandle;

    fn from_str(text: &str) -> Result<Self, NotAHandle> {
        match text.split_once('/') {
            Some((bus, device)) if !bus.is_empty() && !device.is_empty() && !device.contains('/') => {
                Ok(Self { bus: Box::from(bus), device: Box::from(device) })
            }
            _ => Err(NotAHandle),
        }
    }
}

/// An instance: `DEVLINK_CMD_NEW`, `DEVLINK_CMD_DEL`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Instance {
    /// Its name.
    pub handle: Handle,
    /// `DEVLINK_ATTR_RELOAD_FAILED`: its last reload failed and it does not work.
    pub reload_failed: bool,
}

pub(super) fn decode_instance(attrs: Attrs<'_>) -> Result<Instance, Malformed> {
    let failed = attrs.find(DEVLINK_ATTR_RELOAD_FAILED)?;
    let reload_failed = failed.map(|attr| attr.u8()).transpose()?.is_some_and(|failed| failed != 0);
    Ok(Instance { handle: Handle::decode(attrs)?, reload_failed })
}

/// `DEVLINK_CMD_GET`: asks for all instances of the network namespace.
pub fn dump_instances(family: FamilyId, seq: Seq) -> Vec<u8> {
    request(family, DEVLINK_CMD_GET, flags::DUMP, seq).finish().expect("a request of fixed size")
}
