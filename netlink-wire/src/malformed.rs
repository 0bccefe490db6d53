//! What a decoder says of bytes that are not what they claim to be. Counted and dropped by the caller, never retried.

use core::fmt;

/// Whose format was broken.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[non_exhaustive]
pub enum Family {
    /// The framing of messages itself.
    Netlink,
    /// Generic netlink's controller, which resolves family names.
    Control,
    /// `ovs_datapath`
    OvsDatapath,
    /// `ovs_vport`
    OvsVport,
    /// `ovs_flow`
    OvsFlow,
    /// rtnetlink's links.
    Link,
    /// rtnetlink's traffic control.
    Tc,
    /// `devlink`
    Devlink,
    /// `ethtool`
    Ethtool,
    /// The kernel's device events.
    Uevent,
    /// IPsec.
    Xfrm,
}

impl Family {
    /// The name used in logs and as a metric's label.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Netlink => "netlink",
            Self::Control => "nlctrl",
            Self::OvsDatapath => "ovs_datapath",
            Self::OvsVport => "ovs_vport",
            Self::OvsFlow => "ovs_flow",
            Self::Link => "link",
            Self::Tc => "tc",
            Self::Devlink => "devlink",
            Self::Ethtool => "ethtool",
            Self::Uevent => "uevent",
            Self::Xfrm => "xfrm",
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What was wrong.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[non_exhaustive]
pub enum Why {
    /// A length field points past the end of what was received, or is smaller than its own header.
    Truncated,
    /// A payload shorter than its type needs.
    TooShort {
        /// Bytes the type needs.
        need: u16,
        /// Bytes there are, at most 65,535.
        have: u16,
    },
    /// A text that is not UTF-8 or has no end.
    NotText,
    /// An attribute that must be there is not.
    Missing,
    /// A message of another type than the decoder's.
    WrongType,
    /// A value its format does not allow.
    BadValue,
    /// Nesting or repetition beyond what the format allows.
    TooMany,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated => f.write_str("its length points outside the message"),
            Self::TooShort { need, have } => write!(f, "{have} bytes where {need} are needed"),
            Self::NotText => f.write_str("not a text"),
            Self::Missing => f.write_str("missing"),
            Self::WrongType => f.write_str("a message of another type"),
            Self::BadValue => f.write_str("a value its format does not allow"),
            Self::TooMany => f.write_str("more of them than the format allows"),
        }
    }
}

/// Bytes that are not a message of their family.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Malformed {
    /// Whose format was broken.
    pub family: Family,
    /// The attribute's number in its family or nest, 0 for the message's own header.
    pub attr: u16,
    /// Where it begins, in bytes from the start of the buffer given to the decoder.
    pub offset: usize,
    /// What was wrong.
    pub why: Why,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { family, attr, offset, why } = self;
        match attr {
            0 => write!(f, "malformed {family} message at byte {offset}: {why}"),
            _ => write!(f, "malformed {family} message: attribute {attr} at byte {offset}: {why}"),
        }
    }
}

impl core::error::Error for Malformed {}
