//! Why a filter cannot be written back as it is. A normal outcome, with a reason to show.

use crate::action::KindName;
use alloc::string::String;
use core::fmt;
use netlink_wire::TooLong;

/// Why a filter cannot be written back as it is.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Unsupported {
    /// It was read from a terse dump, which leaves out keys and actions.
    TerseReport,
    /// It is of another classifier than flower.
    Classifier(String),
    /// It has an attribute, `TCA_FLOWER_*`, that is not understood.
    FilterAttribute(u16),
    /// It has an attribute of the message, `TCA_*`, that is not understood.
    MessageAttribute(u16),
    /// Its tunnel options are of a kind that is not understood (`TCA_FLOWER_KEY_ENC_OPTS_*`).
    TunnelOptions(u16),
    /// One of its actions is of a kind that is not understood.
    Action {
        /// Its place, from 1.
        position: usize,
        /// Its kind.
        kind: KindName,
    },
    /// One of its actions has an attribute that is not understood.
    ActionAttribute {
        /// Its place, from 1.
        position: usize,
        /// Its kind.
        kind: KindName,
        /// The attribute, of the action's own numbering.
        attr: u16,
    },
    /// One of its actions was made on its own, so that making it afresh would separate it from who else uses it.
    SharedAction {
        /// Its place, from 1.
        position: usize,
        /// Its kind.
        kind: KindName,
    },
    /// One of its actions limits a rate of its own. The kernel does not report the table it was made with.
    PoliceRate {
        /// Its place, from 1.
        position: usize,
    },
    /// One of its actions is a meter that was made for filters with other flags: under `tc-policy=skip_hw`, Open vSwitch
    /// makes its meters for software only, and the kernel takes no filter without skip_hw that uses one.
    MeterPlacement {
        /// Its place, from 1.
        position: usize,
    },
    /// It is longer than a message can be.
    TooLong(TooLong),
}

impl From<TooLong> for Unsupported {
    fn from(error: TooLong) -> Self {
        Self::TooLong(error)
    }
}

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TerseReport => f.write_str("only a terse report of the filter is known"),
            Self::Classifier(kind) => write!(f, "a filter of the classifier {kind}, not flower"),
            Self::FilterAttribute(attr) => write!(f, "flower attribute {attr} is not understood"),
            Self::MessageAttribute(attr) => write!(f, "filter attribute {attr} is not understood"),
            Self::TunnelOptions(attr) => write!(f, "tunnel options of kind {attr} are not understood"),
            Self::Action { position, kind } => write!(f, "action {position} ({kind}) is not understood"),
            Self::ActionAttribute { position, kind, attr } => {
                write!(f, "attribute {attr} of action {position} ({kind}) is not understood")
            }
            Self::SharedAction { position, kind } => {
                write!(f, "action {position} ({kind}) was made on its own and is not the filter's")
            }
            Self::PoliceRate { position } => {
                write!(f, "action {position} (police) limits a rate of its own, which cannot be made anew")
            }
            Self::MeterPlacement { position } => {
                write!(f, "action {position} is a meter that Open vSwitch made for the other placement")
            }
            Self::TooLong(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for Unsupported {}

impl Unsupported {
    /// A word for it, for a metric's label.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::TerseReport => "terse_report",
            Self::Classifier(_) => "classifier",
            Self::FilterAttribute(_) | Self::MessageAttribute(_) => "unknown_attribute",
            Self::TunnelOptions(_) => "tunnel_options",
            Self::Action { .. } => "unknown_action",
            Self::ActionAttribute { .. } => "unknown_action_attribute",
            Self::SharedAction { .. } => "shared_action",
            Self::PoliceRate { .. } => "police_rate",
            Self::MeterPlacement { .. } => "meter_placement",
            Self::TooLong(_) => "too_long",
        }
    }
}
