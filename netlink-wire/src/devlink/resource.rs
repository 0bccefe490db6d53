//! Resources: what an instance has a limited amount of, and how much of it is used.

use super::handle::Handle;
use super::{DEVLINK_CMD_RESOURCE_DUMP, request};
use crate::attr::{Attr, Attrs};
use crate::genl::FamilyId;
use crate::ids::Seq;
use crate::malformed::{Malformed, Why};
use crate::writer::TooLong;
use alloc::boxed::Box;
use alloc::vec::Vec;

const DEVLINK_ATTR_RESOURCE_LIST: u16 = 63;
const DEVLINK_ATTR_RESOURCE: u16 = 64;
const DEVLINK_ATTR_RESOURCE_NAME: u16 = 65;
const DEVLINK_ATTR_RESOURCE_ID: u16 = 66;
const DEVLINK_ATTR_RESOURCE_SIZE: u16 = 67;
const DEVLINK_ATTR_RESOURCE_SIZE_NEW: u16 = 68;
const DEVLINK_ATTR_RESOURCE_SIZE_VALID: u16 = 69;
const DEVLINK_ATTR_RESOURCE_OCC: u16 = 74;
/// Resources within resources: drivers have two levels.
const DEPTH_MAX: usize = 8;
/// Resources of one message: drivers have some tens.
const RESOURCES_MAX: usize = 512;

/// A resource: `DEVLINK_ATTR_RESOURCE`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Resource {
    /// `DEVLINK_ATTR_RESOURCE_NAME`
    pub name: Box<str>,
    /// `DEVLINK_ATTR_RESOURCE_ID`: the number its driver knows it by.
    pub id: u64,
    /// `DEVLINK_ATTR_RESOURCE_SIZE`, in entries.
    pub size: u64,
    /// `DEVLINK_ATTR_RESOURCE_SIZE_NEW`: its size after the next reload, where that is another.
    pub size_new: Option<u64>,
    /// `DEVLINK_ATTR_RESOURCE_SIZE_VALID`: whether the sizes of its parts fit in. Told only where it has parts.
    pub size_valid: Option<bool>,
    /// `DEVLINK_ATTR_RESOURCE_OCC`: entries used, where the driver counts them.
    pub used: Option<u64>,
    /// `DEVLINK_ATTR_RESOURCE_LIST`: what it is divided into.
    pub parts: Vec<Resource>,
}

/// Resources of an instance, or some of them: the answer to [`dump_resources`] comes in several messages where it is
/// long. Nothing is told of a resource whose use changes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Resources {
    /// The instance's name.
    pub handle: Handle,
    /// The resources.
    pub resources: Vec<Resource>,
}

impl Resources {
    pub(super) fn decode(attrs: Attrs<'_>) -> Result<Self, Malformed> {
        let list = attrs.find(DEVLINK_ATTR_RESOURCE_LIST)?;
        let list = list.ok_or_else(|| attrs.missing(DEVLINK_ATTR_RESOURCE_LIST))?;
        let mut left = RESOURCES_MAX;
        Ok(Self { handle: Handle::decode(attrs)?, resources: decode_list(&list, DEPTH_MAX, &mut left)? })
    }
}

fn decode_list(list: &Attr<'_>, depth: usize, left: &mut usize) -> Result<Vec<Resource>, Malformed> {
    let mut resources = Vec::new();
    for attr in list.nested() {
        let attr = attr?;
        if attr.kind() != DEVLINK_ATTR_RESOURCE {
            continue;
        }
        if depth == 0 || *left == 0 {
            return Err(attr.malformed(Why::TooMany));
        }
        *left -= 1;
        resources.push(decode_one(&attr, depth - 1, left)?);
    }
    Ok(resources)
}

fn decode_one(attr: &Attr<'_>, depth: usize, left: &mut usize) -> Result<Resource, Malformed> {
    let (mut name, mut size, mut id) = (None, None, 0);
    let (mut size_new, mut size_valid, mut used, mut parts) = (None, None, None, Vec::new());
    for attr in attr.nested() {
        let attr = attr?;
        match attr.kind() {
            DEVLINK_ATTR_RESOURCE_NAME => name = Some(Box::from(attr.text()?)),
            DEVLINK_ATTR_RESOURCE_ID => id = attr.u64()?,
            DEVLINK_ATTR_RESOURCE_SIZE => size = Some(attr.u64()?),
            DEVLINK_ATTR_RESOURCE_SIZE_NEW => size_new = Some(attr.u64()?),
            DEVLINK_ATTR_RESOURCE_SIZE_VALID => size_valid = Some(attr.u8()? != 0),
            DEVLINK_ATTR_RESOURCE_OCC => used = Some(attr.u64()?),
            DEVLINK_ATTR_RESOURCE_LIST => parts = decode_list(&attr, depth, left)?,
            _ => {}
        }
    }
    Ok(Resource {
        name: name.ok_or_else(|| attr.nested().missing(DEVLINK_ATTR_RESOURCE_NAME))?,
        id,
        size: size.ok_or_else(|| attr.nested().missing(DEVLINK_ATTR_RESOURCE_SIZE))?,
        size_new,
        size_valid,
        used,
        parts,
    })
}

/// `DEVLINK_CMD_RESOURCE_DUMP`: asks for an instance's resources. EOPNOTSUPP where it has none.
///
/// # Errors
/// A handle longer than an attribute can be.
pub fn dump_resources(family: FamilyId, handle: &Handle, seq: Seq) -> Result<Vec<u8>, TooLong> {
    // No dump of netlink's, in spite of its name: one instance is named, and NLMSG_DONE comes at the end without asking.
    let mut writer = request(family, DEVLINK_CMD_RESOURCE_DUMP, 0, seq);
    handle.put(&mut writer);
    writer.finish()
}
