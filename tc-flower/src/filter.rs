//! A filter as it is reported and as it is written.

use crate::action::{Action, ActionReport, read_action, read_counters};
use crate::keys::{self, Taken};
use crate::request;
use crate::stats::{FilterCounters, FlowStats};
use crate::{ActionKind, Chain, FilterAddress, FilterFlags, Handle, Location, Match, Prio, Unsupported};
use alloc::boxed::Box;
use alloc::vec::Vec;
use netlink_wire::attr::Fields;
use netlink_wire::{Attr, EtherType, Family, Malformed, Message, PortId, Seq, Ufid, Why};

/// What happened to a filter.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Change {
    /// `RTM_NEWTFILTER`: it exists; it was created, replaced, or asked for.
    New,
    /// `RTM_DELTFILTER`: it is gone.
    Deleted,
}

/// An attribute that is not understood, and where it was.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum UnknownAttr {
    /// `TCA_*`, beside the classifier's options.
    Message(u16),
    /// `TCA_FLOWER_*`.
    Flower(u16),
    /// `TCA_FLOWER_KEY_ENC_OPTS_*`.
    TunnelOptions(u16),
}

/// A filter as it can be written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Filter {
    /// Where it is.
    pub address: FilterAddress,
    /// `TCA_FLOWER_FLAGS`; of these, only [`FilterFlags::REQUESTABLE`] are written.
    pub flags: FilterFlags,
    /// `TCA_FLOWER_CLASSID`
    pub class_id: Option<u32>,
    /// `TCA_FLOWER_INDEV`: the device a packet came in by.
    pub indev: Option<Box<str>>,
    /// Which packets.
    pub keys: Match,
    /// What to do with them, in order.
    pub actions: Vec<Action>,
}

impl Filter {
    /// The megaflow it was made from: the first action cookie of 16 bytes.
    pub fn ufid(&self) -> Option<Ufid> {
        self.actions.iter().find_map(Action::ufid)
    }
}

/// A filter as the kernel describes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FilterReport {
    /// What happened to it.
    pub change: Change,
    /// The message's sequence number: of the request that caused a notification.
    pub seq: Seq,
    /// The message's port id: of the socket that caused a notification.
    pub portid: PortId,
    /// Where it is.
    pub address: FilterAddress,
    /// `TCA_KIND`, where it is not `flower`. Such a filter's keys and actions are not read, and its
    /// flags only where it is `matchall`.
    pub other_classifier: Option<Box<str>>,
    /// `TCA_FLOWER_FLAGS`
    pub flags: FilterFlags,
    /// `TCA_FLOWER_IN_HW_COUNT`: how many devices have it in hardware. Absent in terse dumps.
    pub in_hw_count: Option<u32>,
    /// `TCA_FLOWER_CLASSID`
    pub class_id: Option<u32>,
    /// `TCA_FLOWER_INDEV`: the device a packet came in by.
    pub indev: Option<Box<str>>,
    /// Which packets. Empty in terse dumps.
    pub keys: Match,
    /// What to do with them, in order. Of kind [`ActionKind::Terse`] in terse dumps.
    pub actions: Vec<ActionReport>,
    /// Attributes that are not understood. With any of them the filter cannot be written back.
    pub unknown: Vec<UnknownAttr>,
}

impl FilterReport {
    /// The megaflow it was made from: the first action cookie of 16 bytes.
    pub fn ufid(&self) -> Option<Ufid> {
        self.actions.iter().find_map(|report| report.action.ufid())
    }

    /// Its counters as Open vSwitch computes a megaflow's.
    pub fn flow_stats(&self) -> FlowStats {
        let mut stats = FlowStats::default();
        self.actions.iter().for_each(|report| stats.take(&report.stats));
        stats
    }

    /// Whether it has counted a packet.
    pub fn has_counted(&self) -> bool {
        let stats = self.flow_stats();
        stats.software.packets > 0 || stats.hardware.packets > 0
    }

    /// Whether the kernel says that it is in hardware. The only proof of a promotion.
    pub const fn is_in_hw(&self) -> bool {
        self.flags.contains(FilterFlags::IN_HW)
    }

    /// When a packet last hit it, in milliseconds before the report; absent if none has.
    ///
    /// As Open vSwitch reads it: the youngest of the actions' times, where an action that was last used when it was
    /// installed has not been used (`nl_parse_tcf()` of `lib/tc.c`).
    pub fn idle_ms(&self) -> Option<u64> {
        self.actions.iter().filter_map(|report| report.times?.idle_ms()).min()
    }

    /// Whether it was read from a terse dump.
    pub fn is_terse(&self) -> bool {
        self.actions.iter().any(|report| matches!(report.action.kind, ActionKind::Terse(_)))
    }

    /// The filter as it can be written back, with its own flags.
    ///
    /// # Errors
    /// What of it is not understood, or could not be made again as it is.
    pub fn to_filter(&self) -> Result<Filter, Unsupported> {
        if let Some(kind) = &self.other_classifier {
            return Err(Unsupported::Classifier(kind.as_ref().into()));
        }
        if self.is_terse() {
            return Err(Unsupported::TerseReport);
        }
        match self.unknown.first() {
            Some(UnknownAttr::Message(attr)) => return Err(Unsupported::MessageAttribute(*attr)),
            Some(UnknownAttr::Flower(attr)) => return Err(Unsupported::FilterAttribute(*attr)),
            Some(UnknownAttr::TunnelOptions(attr)) => return Err(Unsupported::TunnelOptions(*attr)),
            None => {}
        }
        if let Some(attr) = self.keys.irreversible(self.address.protocol) {
            return Err(Unsupported::FilterAttribute(attr));
        }
        let checked = self.actions.iter().enumerate().map(|(n, report)| report.to_action(n + 1));
        Ok(Filter {
            address: self.address,
            flags: self.flags,
            class_id: self.class_id,
            indev: self.indev.clone(),
            keys: self.keys.clone(),
            actions: checked.collect::<Result<_, _>>()?,
        })
    }
}

const TCA_KIND: u16 = request::TCA_KIND;
const TCA_OPTIONS: u16 = request::TCA_OPTIONS;
const TCA_CHAIN: u16 = request::TCA_CHAIN;
const TCA_STATS: u16 = 3;
const TCA_RATE: u16 = 5;
const TCA_FCNT: u16 = 6;
const TCA_STATS2: u16 = 7;
const TCA_PAD: u16 = 9;
const TCA_HW_OFFLOAD: u16 = 12;
const TCA_EXT_WARN_MSG: u16 = 16;
const TCA_MATCHALL_FLAGS: u16 = 3;

/// `struct tcmsg` of a message about a filter, and the message's attributes.
pub(crate) struct TcMessage<'a> {
    pub(crate) change: Change,
    pub(crate) address: FilterAddress,
    pub(crate) kind: Option<Attr<'a>>,
    pub(crate) options: Option<Attr<'a>>,
    pub(crate) unknown: Option<u16>,
}

impl<'a> TcMessage<'a> {
    pub(crate) fn read(message: &Message<'a>, change: Change) -> Result<Self, Malformed> {
        let (header, attrs) = message.split::<20>(Family::Tc)?;
        let mut fields = Fields(&header[4..]);
        let (ifindex, handle, parent, info) = (fields.u32(), fields.u32(), fields.u32(), fields.u32());
        let mut address = FilterAddress {
            location: Location::from_tcmsg(ifindex, parent),
            chain: Chain(0),
            prio: Prio((info >> 16) as u16),
            protocol: EtherType(u16::from_be(info as u16)),
            handle: Handle(handle),
        };
        let (mut kind, mut options, mut unknown) = (None, None, None);
        for attr in attrs {
            let attr = attr?;
            match attr.kind() {
                TCA_KIND => kind = Some(attr),
                TCA_OPTIONS => options = Some(attr),
                TCA_CHAIN => address.chain = Chain(attr.u32()?),
                // Counters, padding and remarks, which say nothing about what the filter does.
                TCA_STATS | TCA_RATE | TCA_FCNT | TCA_STATS2 | TCA_PAD | TCA_HW_OFFLOAD
                | TCA_EXT_WARN_MSG => {}
                other => unknown = Some(other),
            }
        }
        Ok(Self { change, address, kind, options, unknown })
    }
}

impl FilterReport {
    pub(crate) fn read(message: &Message<'_>, tc: &TcMessage<'_>) -> Result<Self, Malformed> {
        let mut report = Self {
            change: tc.change,
            seq: message.header.seq,
            portid: message.header.portid,
            address: tc.address,
            other_classifier: None,
            flags: FilterFlags::NONE,
            in_hw_count: None,
            class_id: None,
            indev: None,
            keys: Match::default(),
            actions: Vec::new(),
            unknown: tc.unknown.map(UnknownAttr::Message).into_iter().collect(),
        };
        let kind = tc.kind.as_ref().map(Attr::text).transpose()?;
        if let Some(other) = kind.filter(|kind| *kind != "flower") {
            report.other_classifier = Some(Box::from(other));
            // Open vSwitch's policer of a port is one of these: whether it is in hardware matters.
            if other == "matchall"
                && let Some(flags) = tc
                    .options
                    .as_ref()
                    .map(|options| options.nested().find(TCA_MATCHALL_FLAGS))
                    .transpose()?
                    .flatten()
            {
                report.flags = FilterFlags(flags.u32()?);
            }
            return Ok(report);
        }
        if let Some(options) = &tc.options {
            for attr in options.nested() {
                report.take(&attr?)?;
            }
            report.keys.settle_ethertype(tc.address.protocol);
        }
        Ok(report)
    }

    fn take(&mut self, attr: &Attr<'_>) -> Result<(), Malformed> {
        match attr.kind() {
            keys::TCA_FLOWER_ACT => {
                for action in attr.nested() {
                    let action = action?;
                    if self.actions.len() == ACTIONS_MAX {
                        return Err(action.malformed(Why::TooMany));
                    }
                    self.actions.push(read_action(&action)?);
                }
            }
            keys::TCA_FLOWER_FLAGS => self.flags = FilterFlags(attr.u32()?),
            keys::TCA_FLOWER_IN_HW_COUNT => self.in_hw_count = Some(attr.u32()?),
            keys::TCA_FLOWER_CLASSID => self.class_id = Some(attr.u32()?),
            keys::TCA_FLOWER_INDEV => self.indev = Some(Box::from(attr.text()?)),
            other => match self.keys.take(attr)? {
                Taken::Yes => {}
                Taken::No => self.note_unknown(UnknownAttr::Flower(other)),
                Taken::UnknownOptions(kind) => self.note_unknown(UnknownAttr::TunnelOptions(kind)),
            },
        }
        Ok(())
    }

    /// Remembers what is not understood, up to a bound: one is reason enough.
    fn note_unknown(&mut self, attr: UnknownAttr) {
        if self.unknown.len() < UNKNOWN_MAX {
            self.unknown.push(attr);
        }
    }
}

/// `TCA_ACT_MAX_PRIO`: the most actions a filter can have.
const ACTIONS_MAX: usize = 32;
const UNKNOWN_MAX: usize = 16;

impl FilterCounters {
    /// Reads a message about a filter, full or terse; none for messages about anything else, and for a chain and
    /// priority as a whole.
    ///
    /// # Errors
    /// A message that is broken.
    pub fn decode(message: &Message<'_>) -> Result<Option<Self>, Malformed> {
        if message.header.kind != request::RTM_NEWTFILTER {
            return Ok(None);
        }
        let tc = TcMessage::read(message, Change::New)?;
        let (Some(kind), Some(options)) = (tc.kind, tc.options) else { return Ok(None) };
        if tc.address.handle == Handle(0) || kind.payload() != b"flower\0" {
            return Ok(None);
        }
        let mut counters = Self {
            seq: message.header.seq,
            portid: message.header.portid,
            address: tc.address,
            flags: FilterFlags::NONE,
            in_hw_count: None,
            ufid: None,
            stats: FlowStats::default(),
        };
        for attr in options.nested() {
            let attr = attr?;
            match attr.kind() {
                keys::TCA_FLOWER_ACT => {
                    for action in attr.nested() {
                        let counted = read_counters(&action?)?;
                        counters.stats.take(&counted.stats);
                        counters.ufid = counters.ufid.or(counted.cookie.and_then(|cookie| cookie.ufid()));
                    }
                }
                keys::TCA_FLOWER_FLAGS => counters.flags = FilterFlags(attr.u32()?),
                keys::TCA_FLOWER_IN_HW_COUNT => counters.in_hw_count = Some(attr.u32()?),
                _ => {}
            }
        }
        Ok(Some(counters))
    }
}
