//! What rtnetlink says about traffic control, in dumps, answers and in notifications of `RTNLGRP_TC`.

use crate::filter::TcMessage;
use crate::request;
use crate::{BlockIndex, Chain, Change, FilterAddress, FilterReport, Handle, Hook, Location};
use alloc::boxed::Box;
use netlink_wire::attr::Fields;
use netlink_wire::{Family, Ifindex, Malformed, Message};

/// One message about traffic control.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum TcEvent {
    /// A filter.
    Filter(Box<FilterReport>),
    /// A chain and priority as a whole: the address has no handle. Deleted: all its filters are gone with it. New says
    /// nothing about filters; dumps have one such message before the filters of each priority.
    Prio {
        /// What happened.
        change: Change,
        /// Which.
        address: FilterAddress,
    },
    /// A chain was made or removed (`RTM_NEWCHAIN`, `RTM_DELCHAIN`). Removed: all its filters are gone with it.
    Chain {
        /// What happened.
        change: Change,
        /// What it hangs on.
        location: Location,
        /// Which.
        chain: Chain,
    },
    /// A qdisc was made or removed (`RTM_NEWQDISC`, `RTM_DELQDISC`). Removed `ingress` or `clsact`: all filters of the
    /// device are gone with it, without a message of their own.
    Qdisc(QdiscReport),
    /// Another message of this group: a class or an action.
    Other(u16),
}

/// A qdisc as the kernel describes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct QdiscReport {
    /// What happened to it.
    pub change: Change,
    /// `tcm_ifindex`
    pub ifindex: Ifindex,
    /// `tcm_parent`
    pub parent: u32,
    /// `tcm_handle`
    pub handle: u32,
    /// `TCA_KIND`: `ingress`, `clsact`, `noqueue`, …
    pub kind: Box<str>,
    /// `TCA_INGRESS_BLOCK`: the shared block its ingress filters are in.
    pub ingress_block: Option<BlockIndex>,
    /// `TCA_EGRESS_BLOCK`: the shared block its egress filters are in.
    pub egress_block: Option<BlockIndex>,
}

impl QdiscReport {
    /// Whether it has this hook.
    pub fn has_hook(&self, hook: Hook) -> bool {
        match hook {
            Hook::Ingress => matches!(&*self.kind, "ingress" | "clsact"),
            Hook::Egress => &*self.kind == "clsact",
            Hook::Class(_) => false,
        }
    }
}

const RTM_NEWQDISC: u16 = 36;
const RTM_DELQDISC: u16 = 37;
const RTM_NEWCHAIN: u16 = 100;
const RTM_DELCHAIN: u16 = 101;
const TCA_KIND: u16 = request::TCA_KIND;
const TCA_INGRESS_BLOCK: u16 = 13;
const TCA_EGRESS_BLOCK: u16 = 14;

impl TcEvent {
    /// Reads one message.
    ///
    /// # Errors
    /// A message that is broken.
    pub fn decode(message: &Message<'_>) -> Result<Self, Malformed> {
        let change = match message.header.kind {
            request::RTM_NEWTFILTER | RTM_NEWCHAIN | RTM_NEWQDISC => Change::New,
            request::RTM_DELTFILTER | RTM_DELCHAIN | RTM_DELQDISC => Change::Deleted,
            other => return Ok(Self::Other(other)),
        };
        if let RTM_NEWQDISC | RTM_DELQDISC = message.header.kind {
            return Ok(Self::Qdisc(QdiscReport::read(message, change)?));
        }
        let tc = TcMessage::read(message, change)?;
        let FilterAddress { location, chain, handle, .. } = tc.address;
        Ok(match (message.header.kind, handle) {
            (RTM_NEWCHAIN | RTM_DELCHAIN, _) => Self::Chain { change, location, chain },
            (_, Handle(0)) => Self::Prio { change, address: tc.address },
            _ => Self::Filter(Box::new(FilterReport::read(message, &tc)?)),
        })
    }
}

impl QdiscReport {
    fn read(message: &Message<'_>, change: Change) -> Result<Self, Malformed> {
        let (header, attrs) = message.split::<20>(Family::Tc)?;
        let mut fields = Fields(&header[4..]);
        let (ifindex, handle, parent) = (Ifindex(fields.u32()), fields.u32(), fields.u32());
        let (mut kind, mut ingress_block, mut egress_block) = (None, None, None);
        for attr in attrs {
            let attr = attr?;
            match attr.kind() {
                TCA_KIND => kind = Some(Box::from(attr.text()?)),
                TCA_INGRESS_BLOCK => ingress_block = Some(BlockIndex(attr.u32()?)),
                TCA_EGRESS_BLOCK => egress_block = Some(BlockIndex(attr.u32()?)),
                _ => {}
            }
        }
        let kind = kind.ok_or_else(|| attrs.missing(TCA_KIND))?;
        Ok(Self { change, ifindex, parent, handle, kind, ingress_block, egress_block })
    }
}
