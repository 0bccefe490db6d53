//! Generic netlink: `struct genlmsghdr` and the controller that turns a family's name into its number.

use crate::attr::Attrs;
use crate::ids::Seq;
use crate::malformed::{Family, Malformed};
use crate::message::{Message, flags};
use crate::writer::MessageWriter;
use alloc::boxed::Box;
use alloc::vec::Vec;

/// `GENL_ID_CTRL`: the controller's own family number.
pub const GENL_ID_CTRL: FamilyId = FamilyId(0x10);
/// Bytes of `struct genlmsghdr`.
pub const GENL_HDRLEN: usize = 4;

/// The controller's multicast group, which tells of families that come and go. Its number is fixed, see
/// `genl_init` of the kernel's `net/netlink/genetlink.c`.
pub const CONTROL_GROUP: MulticastGroup = MulticastGroup(0x10);

const CTRL_CMD_NEWFAMILY: u8 = 1;
const CTRL_CMD_DELFAMILY: u8 = 2;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const CTRL_ATTR_VERSION: u16 = 3;
const CTRL_ATTR_MCAST_GROUPS: u16 = 7;
const CTRL_ATTR_MCAST_GRP_NAME: u16 = 1;
const CTRL_ATTR_MCAST_GRP_ID: u16 = 2;

/// The number of a generic netlink family, which is the message type (`nlmsg_type`) of its messages. Assigned when
/// the family registers: resolved by name, see [`get_family`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FamilyId(pub u16);

/// The number of a multicast group, for `NETLINK_ADD_MEMBERSHIP`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct MulticastGroup(pub u32);

/// What a message asks for, out of `struct genlmsghdr`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Command {
    /// `cmd`: a number of the family.
    pub number: u8,
    /// `version`
    pub version: u8,
}

/// A generic netlink message's command and attributes, after a family's own header of `N` bytes.
///
/// # Errors
/// A message too short for its headers.
pub fn split<'a, const N: usize>(
    message: &Message<'a>,
    family: Family,
) -> Result<(Command, [u8; N], Attrs<'a>), Malformed> {
    let (header, attrs) = message.split::<GENL_HDRLEN>(family)?;
    let command = Command { number: header[0], version: header[1] };
    let rest = attrs.bytes();
    match rest.split_first_chunk::<N>() {
        Some((own, rest)) => {
            let offset = message.offset + crate::message::NLMSG_HDRLEN + GENL_HDRLEN + N;
            Ok((command, *own, Attrs::new(rest, family, offset)))
        }
        None => Err(message.wrong_type(family)),
    }
}

/// A request of a family.
pub fn request(family: FamilyId, command: Command, flags: u16, seq: Seq) -> MessageWriter {
    let mut writer = MessageWriter::new(family.0, flags, seq);
    writer.fixed(&[command.number, command.version, 0, 0]);
    writer
}

/// A family as the controller describes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FamilyReport {
    /// `CTRL_ATTR_FAMILY_NAME`
    pub name: Box<str>,
    /// `CTRL_ATTR_FAMILY_ID`
    pub id: FamilyId,
    /// `CTRL_ATTR_VERSION`
    pub version: u32,
    /// `CTRL_ATTR_MCAST_GROUPS`: its multicast groups by name.
    pub groups: Vec<(Box<str>, MulticastGroup)>,
}

impl FamilyReport {
    /// The group of this name.
    pub fn group(&self, name: &str) -> Option<MulticastGroup> {
        self.groups.iter().find(|(group, _)| **group == *name).map(|(_, id)| *id)
    }

    /// Reads the controller's answer to [`get_family`].
    ///
    /// # Errors
    /// A message that is no such answer.
    pub fn decode(message: &Message<'_>) -> Result<Self, Malformed> {
        if message.header.kind != GENL_ID_CTRL.0 {
            return Err(message.wrong_type(Family::Control));
        }
        let (_, [], attrs) = split::<0>(message, Family::Control)?;
        let (mut id, mut name, mut version, mut groups) = (None, None, 0, Vec::new());
        for attr in attrs {
            let attr = attr?;
            match attr.kind() {
                CTRL_ATTR_FAMILY_ID => id = Some(FamilyId(attr.u16()?)),
                CTRL_ATTR_FAMILY_NAME => name = Some(Box::from(attr.text()?)),
                CTRL_ATTR_VERSION => version = attr.u32()?,
                CTRL_ATTR_MCAST_GROUPS => {
                    for group in attr.nested() {
                        groups.extend(decode_group(group?.nested())?);
                    }
                }
                _ => {}
            }
        }
        let id = id.ok_or_else(|| attrs.missing(CTRL_ATTR_FAMILY_ID))?;
        let name = name.ok_or_else(|| attrs.missing(CTRL_ATTR_FAMILY_NAME))?;
        Ok(Self { name, id, version, groups })
    }
}

/// What the group [`CONTROL_GROUP`] tells.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FamilyEvent {
    /// A family is there from now on.
    New(FamilyReport),
    /// A family is gone.
    Gone(FamilyReport),
    /// A family's multicast groups changed.
    Other,
}

impl FamilyEvent {
    /// Reads a notification of the group.
    ///
    /// # Errors
    /// A message that is no such notification.
    pub fn decode(message: &Message<'_>) -> Result<Self, Malformed> {
        if message.header.kind != GENL_ID_CTRL.0 {
            return Err(message.wrong_type(Family::Control));
        }
        let (command, [], _) = split::<0>(message, Family::Control)?;
        Ok(match command.number {
            CTRL_CMD_NEWFAMILY => Self::New(FamilyReport::decode(message)?),
            CTRL_CMD_DELFAMILY => Self::Gone(FamilyReport::decode(message)?),
            _ => Self::Other,
        })
    }
}

fn decode_group(attrs: Attrs<'_>) -> Result<Option<(Box<str>, MulticastGroup)>, Malformed> {
    let (mut name, mut id) = (None, None);
    for attr in attrs {
        let attr = attr?;
        match attr.kind() {
            CTRL_ATTR_MCAST_GRP_NAME => name = Some(Box::from(attr.text()?)),
            CTRL_ATTR_MCAST_GRP_ID => id = Some(MulticastGroup(attr.u32()?)),
            _ => {}
        }
    }
    Ok(name.zip(id))
}

/// `CTRL_CMD_GETFAMILY`: asks for a family by name, for example [`ovs_flow::FAMILY`](crate::ovs_flow::FAMILY). The
/// answer is a [`FamilyReport`], or ENOENT where its module is not loaded.
pub fn get_family(name: &str, seq: Seq) -> Vec<u8> {
    let command = Command { number: CTRL_CMD_GETFAMILY, version: 1 };
    let mut writer = request(GENL_ID_CTRL, command, flags::REQUEST | flags::ACK, seq);
    writer.put_text(CTRL_ATTR_FAMILY_NAME, name);
    writer.finish().expect("family names are shorter than 16 bytes (GENL_NAMSIZ)")
}
