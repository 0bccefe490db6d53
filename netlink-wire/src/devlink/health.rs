//! Health reporters: what a driver watches of its device, and what became of it.

use super::handle::Handle;
use super::port::{PortIndex, find_index};
use super::{DEVLINK_CMD_HEALTH_REPORTER_GET, request};
use crate::attr::Attrs;
use crate::genl::FamilyId;
use crate::ids::Seq;
use crate::malformed::Malformed;
use crate::message::flags;
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;

const DEVLINK_ATTR_HEALTH_REPORTER: u16 = 114;
const DEVLINK_ATTR_HEALTH_REPORTER_NAME: u16 = 115;
const DEVLINK_ATTR_HEALTH_REPORTER_STATE: u16 = 116;
const DEVLINK_ATTR_HEALTH_REPORTER_ERR_COUNT: u16 = 117;
const DEVLINK_ATTR_HEALTH_REPORTER_RECOVER_COUNT: u16 = 118;
const DEVLINK_ATTR_HEALTH_REPORTER_GRACEFUL_PERIOD: u16 = 120;
const DEVLINK_ATTR_HEALTH_REPORTER_AUTO_RECOVER: u16 = 121;

/// `DEVLINK_ATTR_HEALTH_REPORTER_STATE`: `enum devlink_health_reporter_state` of the kernel's `net/devlink.h`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum HealthState {
    /// `DEVLINK_HEALTH_REPORTER_STATE_HEALTHY`
    Healthy,
    /// `DEVLINK_HEALTH_REPORTER_STATE_ERROR`: it reported an error and has not recovered from it.
    Error,
    /// A number newer than this crate.
    Other(u8),
}

/// The word `devlink health show` prints.
impl fmt::Display for HealthState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Healthy => f.write_str("healthy"),
            Self::Error => f.write_str("error"),
            Self::Other(number) => write!(f, "state {number}"),
        }
    }
}

/// A health reporter: the answer to [`dump_health`], and a notification (`DEVLINK_CMD_HEALTH_REPORTER_RECOVER`) whenever
/// it reported an error or recovered from one. Nothing is told when a reporter is made or goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HealthReporter {
    /// The instance's name.
    pub handle: Handle,
    /// The port it watches; none where it watches the whole instance.
    pub port: Option<PortIndex>,
    /// `DEVLINK_ATTR_HEALTH_REPORTER_NAME`, as `fw` or `tx`.
    pub name: Box<str>,
    /// `DEVLINK_ATTR_HEALTH_REPORTER_STATE`
    pub state: HealthState,
    /// `DEVLINK_ATTR_HEALTH_REPORTER_ERR_COUNT`: errors since the driver was bound.
    pub errors: u64,
    /// `DEVLINK_ATTR_HEALTH_REPORTER_RECOVER_COUNT`: recoveries since the driver was bound.
    pub recoveries: u64,
    /// `DEVLINK_ATTR_HEALTH_REPORTER_GRACEFUL_PERIOD`, in milliseconds: an error sooner after the last recovery is not
    /// recovered from by itself. Absent where the reporter cannot recover.
    pub graceful_period_ms: Option<u64>,
    /// `DEVLINK_ATTR_HEALTH_REPORTER_AUTO_RECOVER`: whether it recovers by itself. Absent where it cannot recover.
    pub auto_recover: Option<bool>,
}

impl HealthReporter {
    pub(super) fn decode(attrs: Attrs<'_>) -> Result<Self, Malformed> {
        let handle = Handle::decode(attrs)?;
        let port = find_index(attrs)?;
        let nest = attrs.find(DEVLINK_ATTR_HEALTH_REPORTER)?;
        let nest = nest.ok_or_else(|| attrs.missing(DEVLINK_ATTR_HEALTH_REPORTER))?.nested();
        let (mut name, mut state) = (None, None);
        let (mut errors, mut recoveries) = (0, 0);
        let (mut graceful_period_ms, mut auto_recover) = (None, None);
        for attr in nest {
            let attr = attr?;
            match attr.kind() {
                DEVLINK_ATTR_HEALTH_REPORTER_NAME => name = Some(Box::from(attr.text()?)),
                DEVLINK_ATTR_HEALTH_REPORTER_STATE => {
                    state = Some(match attr.u8()? {
                        0 => HealthState::Healthy,
                        1 => HealthState::Error,
                        other => HealthState::Other(other),
                    });
                }
                DEVLINK_ATTR_HEALTH_REPORTER_ERR_COUNT => errors = attr.u64()?,
                DEVLINK_ATTR_HEALTH_REPORTER_RECOVER_COUNT => recoveries = attr.u64()?,
                DEVLINK_ATTR_HEALTH_REPORTER_GRACEFUL_PERIOD => graceful_period_ms = Some(attr.u64()?),
                DEVLINK_ATTR_HEALTH_REPORTER_AUTO_RECOVER => auto_recover = Some(attr.u8()? != 0),
                _ => {}
            }
        }
        Ok(Self {
            handle,
            port,
            name: name.ok_or_else(|| nest.missing(DEVLINK_ATTR_HEALTH_REPORTER_NAME))?,
            state: state.ok_or_else(|| nest.missing(DEVLINK_ATTR_HEALTH_REPORTER_STATE))?,
            errors,
            recoveries,
            graceful_period_ms,
            auto_recover,
        })
    }
}

/// `DEVLINK_CMD_HEALTH_REPORTER_GET`: asks for all reporters of all instances of the network namespace.
pub fn dump_health(family: FamilyId, seq: Seq) -> Vec<u8> {
    let writer = request(family, DEVLINK_CMD_HEALTH_REPORTER_GET, flags::DUMP, seq);
    writer.finish().expect("a request of fixed size")
}
