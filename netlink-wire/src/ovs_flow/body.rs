//! What makes a megaflow the one it is, to be kept beyond the message that told of it.

use super::keys::Side;
use super::{FlowActions, FlowKeys, Lists, Megaflow};
use crate::attr::Attrs;
use crate::malformed::{Family, Malformed, Why};
use alloc::boxed::Box;
use alloc::vec::Vec;

/// Key, mask and actions of a megaflow, as the kernel wrote them. Equal bytes are the same megaflow.
///
/// A few hundred bytes where the values read from them are a few thousand: a host has hundreds of thousands of megaflows.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct FlowBody {
    /// Key, mask, actions, one after the other.
    bytes: Box<[u8]>,
    /// Where the mask begins; there is none where the kernel told of none.
    mask: Option<u16>,
    /// Where the actions begin.
    actions: u16,
}

impl FlowBody {
    /// Longest body that is kept, in bytes. A flower filter has 32 actions at most (`TCA_ACT_MAX_PRIO`), which are shorter.
    pub const BYTES_MAX: usize = 8192;

    /// What `lists` have; nothing where there is no key or there are no actions, or where it is too long.
    pub(super) fn of(lists: &Lists<'_>) -> Option<Self> {
        let (key, actions) = (lists.key?.payload(), lists.actions?.payload());
        let mask = lists.mask.map(|mask| mask.payload());
        Self::join(key, mask, actions)
    }

    fn join(key: &[u8], mask: Option<&[u8]>, actions: &[u8]) -> Option<Self> {
        let behind_mask = key.len() + mask.map_or(0, <[u8]>::len);
        if behind_mask + actions.len() > Self::BYTES_MAX {
            return None;
        }
        let bytes: Vec<u8> = [key, mask.unwrap_or_default(), actions].concat();
        Some(Self {
            bytes: bytes.into(),
            mask: mask.map(|_| u16::try_from(key.len())).transpose().ok()?,
            actions: u16::try_from(behind_mask).ok()?,
        })
    }

    /// A body from its parts, as [`Self::parts`] has them.
    ///
    /// # Errors
    /// Parts that are no key, no mask or no actions, or too long.
    pub fn from_parts(key: &[u8], mask: Option<&[u8]>, actions: &[u8]) -> Result<Self, Malformed> {
        let too_long = Malformed { family: Family::OvsFlow, attr: 0, offset: 0, why: Why::TooMany };
        let body = Self::join(key, mask, actions).ok_or(too_long)?;
        body.keys()?;
        body.actions()?;
        Ok(body)
    }

    /// The payloads of `OVS_FLOW_ATTR_KEY`, `OVS_FLOW_ATTR_MASK` and `OVS_FLOW_ATTR_ACTIONS`.
    pub fn parts(&self) -> (&[u8], Option<&[u8]>, &[u8]) {
        let (front, actions) = self.bytes.split_at(usize::from(self.actions));
        match self.mask {
            Some(mask) => {
                let (key, mask) = front.split_at(usize::from(mask));
                (key, Some(mask), actions)
            }
            None => (front, None, actions),
        }
    }

    /// Which packets it takes.
    ///
    /// # Errors
    /// None, for what [`Megaflow::decode_with_body`] read.
    pub fn keys(&self) -> Result<FlowKeys, Malformed> {
        let list = |bytes| Attrs::new(bytes, Family::OvsFlow, 0);
        let (key, mask, _) = self.parts();
        let mut keys = FlowKeys::default();
        match mask {
            Some(mask) => {
                keys.take(list(key), Side::Value)?;
                keys.take(list(mask), Side::Mask)?;
            }
            None => keys.take(list(key), Side::Exact)?,
        }
        Ok(keys)
    }

    /// What it does with them.
    ///
    /// # Errors
    /// None, for what [`Megaflow::decode_with_body`] read.
    pub fn actions(&self) -> Result<FlowActions<'_>, Malformed> {
        let (_, _, actions) = self.parts();
        FlowActions::of_list(actions)
    }
}

impl core::fmt::Debug for FlowBody {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "FlowBody({} bytes)", self.bytes.len())
    }
}

impl<'a> Megaflow<'a> {
    /// Reads one message of the family, and keeps what makes the megaflow the one it is: nothing where the message does not
    /// tell it, or where it is longer than [`FlowBody::BYTES_MAX`].
    ///
    /// # Errors
    /// Those of [`Megaflow::decode`].
    pub fn decode_with_body(
        message: &crate::message::Message<'a>,
    ) -> Result<(Self, Option<FlowBody>), Malformed> {
        let (flow, lists) = Self::read(message)?;
        Ok((flow, FlowBody::of(&lists)))
    }
}
