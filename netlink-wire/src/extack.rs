//! What the kernel says beside an error number or a success: `enum nlmsgerr_attrs` of `linux/netlink.h`.

use crate::attr::Attrs;
use crate::malformed::{Malformed, Why};
use alloc::boxed::Box;
use core::fmt;

const NLMSGERR_ATTR_MSG: u16 = 1;
const NLMSGERR_ATTR_OFFS: u16 = 2;
const NLMSGERR_ATTR_MISS_TYPE: u16 = 5;
const NLMSGERR_ATTR_MISS_NEST: u16 = 6;

/// The longest text that is kept, in bytes. The kernel's own are shorter (`NETLINK_MAX_FMTMSG_LEN` is 80).
pub const EXTACK_TEXT_MAX: usize = 512;

/// An extended ack. Empty where the kernel said nothing.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Extack {
    /// `NLMSGERR_ATTR_MSG`: the reason in words, a warning in a successful answer.
    pub text: Option<Box<str>>,
    /// `NLMSGERR_ATTR_OFFS`: where in the request the offending attribute begins, in bytes.
    pub offset: Option<u32>,
    /// `NLMSGERR_ATTR_MISS_TYPE`: the attribute that should have been there.
    pub missing_attr: Option<u32>,
    /// `NLMSGERR_ATTR_MISS_NEST`: where in the request the nest begins that lacks it, in bytes.
    pub missing_nest: Option<u32>,
}

impl Extack {
    /// Whether the kernel said nothing.
    pub const fn is_empty(&self) -> bool {
        self.text.is_none() && self.offset.is_none() && self.missing_attr.is_none()
    }

    /// Reads the attributes after an error message.
    ///
    /// # Errors
    /// Attributes that are broken.
    pub fn decode(attrs: Attrs<'_>) -> Result<Self, Malformed> {
        let mut extack = Self::default();
        for attr in attrs {
            let attr = attr?;
            match attr.kind() {
                NLMSGERR_ATTR_MSG => {
                    let text = attr.text()?;
                    if text.len() > EXTACK_TEXT_MAX {
                        return Err(attr.malformed(Why::TooMany));
                    }
                    extack.text = Some(Box::from(text.trim_end()));
                }
                NLMSGERR_ATTR_OFFS => extack.offset = Some(attr.u32()?),
                NLMSGERR_ATTR_MISS_TYPE => extack.missing_attr = Some(attr.u32()?),
                NLMSGERR_ATTR_MISS_NEST => extack.missing_nest = Some(attr.u32()?),
                _ => {}
            }
        }
        Ok(extack)
    }
}

impl fmt::Display for Extack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.text, self.missing_attr) {
            (Some(text), _) => f.write_str(text),
            (None, Some(attr)) => write!(f, "attribute {attr} is missing"),
            (None, None) => f.write_str("no reason given"),
        }
    }
}
