//! Policies: `struct xfrm_userpolicy_info`, and the templates of the security associations they ask for.

use super::sa::{Reqid, SaMode};
use super::selector::{self, Selector};
use super::{DeviceOffload, XFRMA_IF_ID, XFRMA_MARK, XFRMA_OFFLOAD_DEV, XFRMA_POLICY_TYPE};
use crate::attr::{Attr, Attrs, Fields};
use crate::malformed::Malformed;
use alloc::vec::Vec;
use core::net::IpAddr;

/// Bytes of `struct xfrm_userpolicy_info`.
pub(super) const USERPOLICY_INFO: usize = 168;
/// Bytes of `struct xfrm_userpolicy_id`.
pub(super) const USERPOLICY_ID: usize = 64;
/// Bytes of `struct xfrm_user_tmpl`.
const TEMPLATE: usize = 64;
/// `XFRM_MAX_DEPTH` of `linux/xfrm.h`.
const TEMPLATES_MAX: usize = 6;
/// `XFRMA_TMPL`
const XFRMA_TMPL: u16 = 5;
/// `XFRM_POLICY_BLOCK`
const XFRM_POLICY_BLOCK: u8 = 1;

crate::id!(
    /// A policy's number: `xfrm_userpolicy_info.index`. Its lowest three bits are the direction.
    PolicyIndex(u32),
    "{}"
);

/// Which packets a policy looks at.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum PolicyDirection {
    /// `XFRM_POLICY_IN`: those that come for this host.
    In,
    /// `XFRM_POLICY_OUT`: those that leave it.
    Out,
    /// `XFRM_POLICY_FWD`: those that pass it.
    Forward,
    /// One of a socket, or unknown.
    Other(u8),
}

/// What a policy asks of a security association: `struct xfrm_user_tmpl`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Template {
    /// Destination of the packets on the wire; unspecified for that of the packet, as in mode transport.
    pub dst: Option<IpAddr>,
    /// Its reqid; 0 for any.
    pub reqid: Reqid,
    /// How it wraps packets.
    pub mode: SaMode,
    /// Whether a packet may do without (`optional`).
    pub optional: bool,
}

/// A policy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Policy {
    /// Its number.
    pub index: PolicyIndex,
    /// Which packets it looks at.
    pub direction: PolicyDirection,
    /// Which of them it is about.
    pub selector: Selector,
    /// Of several the one with the lowest number counts.
    pub priority: u32,
    /// Whether it drops them.
    pub blocks: bool,
    /// The security associations they need; none for packets in the clear.
    pub templates: Vec<Template>,
    /// Mark of the packets, and the bits of it that matter.
    pub mark: (u32, u32),
    /// The interface of kind xfrm it belongs to; 0 for none.
    pub if_id: u32,
    /// The device that carries it, if one does.
    pub offload: Option<DeviceOffload>,
}

impl Policy {
    /// Reads it; none for one of a type that is no security policy (`XFRM_POLICY_TYPE_SUB`).
    pub(super) fn read(info: &[u8; USERPOLICY_INFO], attrs: Attrs<'_>) -> Result<Option<Self>, Malformed> {
        let mut fields = Fields(info);
        let selector = Selector::read(&mut fields);
        // Lifetimes and what was used of them.
        fields.bytes::<96>();
        let (priority, index, dir, action) = (fields.u32(), fields.u32(), fields.u8(), fields.u8());
        let mut policy = Self {
            index: PolicyIndex(index),
            direction: match dir {
                0 => PolicyDirection::In,
                1 => PolicyDirection::Out,
                2 => PolicyDirection::Forward,
                other => PolicyDirection::Other(other),
            },
            selector,
            priority,
            blocks: action == XFRM_POLICY_BLOCK,
            templates: Vec::new(),
            mark: (0, 0),
            if_id: 0,
            offload: None,
        };
        for attr in attrs {
            let attr = attr?;
            match attr.kind() {
                XFRMA_TMPL => policy.templates = templates(&attr),
                XFRMA_MARK => {
                    let bytes: [u8; 8] = attr.array()?;
                    let mut fields = Fields(&bytes);
                    policy.mark = (fields.u32(), fields.u32());
                }
                XFRMA_IF_ID => policy.if_id = attr.u32()?,
                XFRMA_OFFLOAD_DEV => policy.offload = DeviceOffload::read(&attr)?,
                // struct xfrm_userpolicy_type: the first byte; 0 is XFRM_POLICY_TYPE_MAIN.
                XFRMA_POLICY_TYPE if attr.u8()? != 0 => return Ok(None),
                _ => {}
            }
        }
        Ok(Some(policy))
    }

    /// Whether packets it is about are encrypted: by a security association that they cannot do without.
    pub fn encrypts(&self) -> bool {
        !self.blocks && self.templates.iter().any(|template| !template.optional)
    }
}

fn templates(attr: &Attr<'_>) -> Vec<Template> {
    let (whole, _) = attr.payload().as_chunks::<TEMPLATE>();
    whole
        .iter()
        .take(TEMPLATES_MAX)
        .map(|bytes| {
            let mut fields = Fields(bytes);
            let dst = fields.bytes();
            fields.bytes::<8>();
            let family = fields.u16();
            fields.bytes::<18>();
            let (reqid, mode, _share, optional) = (fields.u32(), fields.u8(), fields.u8(), fields.u8());
            let dst = selector::address(dst, family).filter(|dst| !dst.is_unspecified());
            Template { dst, reqid: Reqid(reqid), mode: SaMode::of(mode), optional: optional != 0 }
        })
        .collect()
}
