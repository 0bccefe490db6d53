//! The generic netlink family `devlink` of `linux/devlink.h`: instances, their eswitch, ports, health
//! reporters, resources and versions.

mod eswitch;
mod function;
mod handle;
mod health;
mod info;
mod port;
mod resource;

use crate::genl::{self, Command, FamilyId};
use crate::ids::{PortId, Seq};
use crate::malformed::{Family, Malformed};
use crate::message::{Message, flags};
use crate::writer::MessageWriter;

pub use eswitch::{
    EncapMode, Eswitch, EswitchMode, InlineMode, get_eswitch, set_eswitch_encap, set_eswitch_inline,
    set_eswitch_mode,
};
pub use function::{add_sub_function, delete_port, set_function_address, set_function_state};
pub use handle::{Handle, Instance, NotAHandle, dump_instances};
pub use health::{HealthReporter, HealthState, dump_health};
pub use info::{Info, Version, dump_info};
pub use port::{Port, PortFlavour, PortFunction, PortIndex, dump_ports};
pub use resource::{Resource, Resources, dump_resources};

/// `DEVLINK_GENL_NAME`
pub const FAMILY: &str = "devlink";
/// `DEVLINK_GENL_MCGRP_CONFIG_NAME`
pub const GROUP: &str = "config";
/// `DEVLINK_GENL_VERSION`
const VERSION: u8 = 1;

const DEVLINK_CMD_NEW: u8 = 3;
const DEVLINK_CMD_DEL: u8 = 4;
const DEVLINK_CMD_PORT_NEW: u8 = 7;
const DEVLINK_CMD_PORT_DEL: u8 = 8;
const DEVLINK_CMD_ESWITCH_GET: u8 = 29;
const DEVLINK_CMD_ESWITCH_SET: u8 = 30;
const DEVLINK_CMD_RESOURCE_DUMP: u8 = 36;
const DEVLINK_CMD_INFO_GET: u8 = 51;
const DEVLINK_CMD_HEALTH_REPORTER_GET: u8 = 52;
const DEVLINK_CMD_HEALTH_REPORTER_RECOVER: u8 = 54;

/// A message of the family that is understood here.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Event {
    /// An instance exists.
    Instance(Instance),
    /// An instance is gone.
    InstanceDeleted(Handle),
    /// A port exists, or changed.
    Port(Port),
    /// A port is gone.
    PortDeleted(Handle, PortIndex),
    /// The answer to [`get_eswitch`].
    Eswitch(Eswitch),
    /// A health reporter exists, reported an error, or recovered.
    Health(HealthReporter),
    /// Part of the answer to [`dump_resources`].
    Resources(Resources),
    /// Part of the answer to [`dump_info`].
    Info(Info),
    /// Something else of devlink: parameters, regions, traps.
    Other(u8),
}

/// A message of the family, with where it came from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// The message's sequence number.
    pub seq: Seq,
    /// The message's port id.
    pub portid: PortId,
    /// What it says.
    pub event: Event,
}

impl Report {
    /// Reads one message of the family.
    ///
    /// # Errors
    /// A message that is broken.
    pub fn decode(message: &Message<'_>) -> Result<Self, Malformed> {
        let (command, [], attrs) = genl::split::<0>(message, Family::Devlink)?;
        let event = match command.number {
            DEVLINK_CMD_NEW => Event::Instance(handle::decode_instance(attrs)?),
            DEVLINK_CMD_DEL => Event::InstanceDeleted(Handle::decode(attrs)?),
            DEVLINK_CMD_PORT_NEW => Event::Port(Port::decode(attrs)?),
            DEVLINK_CMD_PORT_DEL => Event::PortDeleted(Handle::decode(attrs)?, port::decode_index(attrs)?),
            DEVLINK_CMD_ESWITCH_GET | DEVLINK_CMD_ESWITCH_SET => {
                Event::Eswitch(eswitch::decode_eswitch(attrs)?)
            }
            DEVLINK_CMD_HEALTH_REPORTER_GET | DEVLINK_CMD_HEALTH_REPORTER_RECOVER => {
                Event::Health(HealthReporter::decode(attrs)?)
            }
            DEVLINK_CMD_RESOURCE_DUMP => Event::Resources(Resources::decode(attrs)?),
            DEVLINK_CMD_INFO_GET => Event::Info(Info::decode(attrs)?),
            other => Event::Other(other),
        };
        Ok(Self { seq: message.header.seq, portid: message.header.portid, event })
    }
}

fn request(family: FamilyId, command: u8, flags: u16, seq: Seq) -> MessageWriter {
    genl::request(family, Command { number: command, version: VERSION }, flags::REQUEST | flags, seq)
}
