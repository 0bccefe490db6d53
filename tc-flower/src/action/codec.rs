//! Reading and writing what all kinds of actions share.

use super::{
    Action, ActionIndex, ActionKind, ActionReport, ActionTimes, Control, Cookie, Csum, Ct, Gact, KindName,
    Mirred, Mpls, Pedit, Police, Sample, Skbedit, TunnelKey, Vlan,
};
use crate::request::ReplaceActions;
use crate::{ActionFlags, ActionStats, Counters, FilterFlags, HwStats, Unsupported};
use alloc::boxed::Box;
use netlink_wire::attr::Fields;
use netlink_wire::{Attr, Attrs, Malformed, MessageWriter, Why};

const TCA_ACT_KIND: u16 = 1;
const TCA_ACT_OPTIONS: u16 = 2;
const TCA_ACT_INDEX: u16 = 3;
const TCA_ACT_STATS: u16 = 4;
const TCA_ACT_PAD: u16 = 5;
const TCA_ACT_COOKIE: u16 = 6;
const TCA_ACT_FLAGS: u16 = 7;
const TCA_ACT_HW_STATS: u16 = 8;
const TCA_ACT_USED_HW_STATS: u16 = 9;
const TCA_ACT_IN_HW_COUNT: u16 = 10;
/// `TCA_ACT_HW_STATS_ANY`
const HW_STATS_ANY: u32 = 3;

const TCA_STATS_BASIC: u16 = 1;
const TCA_STATS_QUEUE: u16 = 3;
const TCA_STATS_BASIC_HW: u16 = 7;
const TCA_STATS_PKT64: u16 = 8;

/// Bytes of `tc_gen`, with which the structure of every kind but police begins.
pub(super) const TC_GEN: usize = 20;

/// `tc_gen`: what every kind of action has.
#[derive(Clone, Copy)]
pub(super) struct Generic {
    pub(super) index: ActionIndex,
    pub(super) control: Control,
    pub(super) references: i32,
    pub(super) bindings: i32,
}

impl Generic {
    pub(super) fn read(bytes: &[u8]) -> Self {
        let mut fields = Fields(bytes);
        let index = ActionIndex(fields.u32());
        let _capabilities = fields.u32();
        let control = Control::from_number(fields.i32());
        Self { index, control, references: fields.i32(), bindings: fields.i32() }
    }

    /// A structure of `N` bytes that begins with `tc_gen`.
    pub(super) fn with<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        bytes[..4].copy_from_slice(&self.index.0.to_ne_bytes());
        bytes[8..12].copy_from_slice(&self.control.number().to_ne_bytes());
        bytes
    }
}

/// What the reader of a kind finds beside the kind's own.
pub(super) struct Common {
    pub(super) generic: Generic,
    times: Option<ActionTimes>,
    unknown: Option<u16>,
}

impl Common {
    pub(super) fn take_times(&mut self, attr: &Attr<'_>) -> Result<(), Malformed> {
        // Kernels before 4.8 lack firstuse.
        attr.array::<24>()?;
        let mut fields = Fields(attr.payload());
        let (install, last_use, expires, first_use) =
            (fields.u64(), fields.u64(), fields.u64(), fields.u64());
        self.times = Some(ActionTimes { install, last_use, expires, first_use });
        Ok(())
    }

    pub(super) fn unknown(&mut self, attr: u16) {
        self.unknown.get_or_insert(attr);
    }
}

fn read_kind(name: &str, options: Option<Attrs<'_>>, common: &mut Common) -> Result<ActionKind, Malformed> {
    let kind = KindName::from_name(name);
    let Some(options) = options else { return Ok(ActionKind::Terse(kind)) };
    Ok(match kind {
        KindName::Mirred => ActionKind::Mirred(Mirred::read(options, common)?),
        KindName::Gact => ActionKind::Gact(Gact::read(options, common)?),
        KindName::Vlan => ActionKind::Vlan(Vlan::read(options, common)?),
        KindName::Mpls => ActionKind::Mpls(Mpls::read(options, common)?),
        KindName::TunnelKey => ActionKind::TunnelKey(TunnelKey::read(options, common)?),
        KindName::Pedit => ActionKind::Pedit(Pedit::read(options, common)?),
        KindName::Csum => ActionKind::Csum(Csum::read(options, common)?),
        KindName::Ct => ActionKind::Ct(Box::new(Ct::read(options, common)?)),
        KindName::Police => ActionKind::Police(Police::read(options, common)?),
        KindName::Skbedit => ActionKind::Skbedit(Skbedit::read(options, common)?),
        KindName::Sample => ActionKind::Sample(Sample::read(options, common)?),
        KindName::Other(_) => ActionKind::Unknown(kind),
    })
}

/// Reads one action out of the list of a filter.
pub(crate) fn read_action(action: &Attr<'_>) -> Result<ActionReport, Malformed> {
    let (mut kind, mut options, mut cookie) = (None, None, None);
    let (mut flags, mut hw_stats, mut used_hw_stats, mut in_hw_count) = (ActionFlags::NONE, None, None, None);
    let mut stats = ActionStats::default();
    let generic = Generic { index: ActionIndex(0), control: Control::Unspec, references: 0, bindings: 0 };
    let mut common = Common { generic, times: None, unknown: None };
    for attr in action.nested() {
        let attr = attr?;
        match attr.kind() {
            TCA_ACT_KIND => kind = Some(attr.text()?),
            TCA_ACT_OPTIONS => options = Some(attr.nested()),
            TCA_ACT_STATS => stats = read_stats(attr.nested())?,
            TCA_ACT_COOKIE => cookie = Some(read_cookie(&attr)?),
            TCA_ACT_FLAGS => flags = ActionFlags(attr.bitfield32()?.0),
            TCA_ACT_HW_STATS => hw_stats = Some(HwStats(attr.u8()?)),
            TCA_ACT_USED_HW_STATS => used_hw_stats = Some(HwStats(attr.u8()?)),
            TCA_ACT_IN_HW_COUNT => in_hw_count = Some(attr.u32()?),
            TCA_ACT_INDEX | TCA_ACT_PAD => {}
            // An attribute beside the options belongs to no kind; 256 and up keeps it apart from the kind's own.
            other => common.unknown(other.saturating_add(256)),
        }
    }
    let kind = kind.ok_or_else(|| action.nested().missing(TCA_ACT_KIND))?;
    let kind = read_kind(kind, options, &mut common)?;
    let Generic { index, control, references, bindings } = common.generic;
    Ok(ActionReport {
        action: Action { kind, control, index, cookie, flags, hw_stats },
        stats,
        times: common.times,
        used_hw_stats,
        in_hw_count,
        references,
        bindings,
        unknown_attr: common.unknown,
    })
}

fn read_cookie(attr: &Attr<'_>) -> Result<Cookie, Malformed> {
    Cookie::new(attr.payload()).ok_or_else(|| attr.malformed(Why::TooMany))
}

/// What a periodic dump is read for, of one action.
#[derive(Clone, Copy, Default)]
pub(crate) struct Counted {
    pub(crate) stats: ActionStats,
    pub(crate) cookie: Option<Cookie>,
}

/// Reads the counters and the cookie of one action, and nothing else.
pub(crate) fn read_counters(action: &Attr<'_>) -> Result<Counted, Malformed> {
    let mut counted = Counted::default();
    for attr in action.nested() {
        let attr = attr?;
        match attr.kind() {
            TCA_ACT_STATS => counted.stats = read_stats(attr.nested())?,
            TCA_ACT_COOKIE => counted.cookie = Some(read_cookie(&attr)?),
            _ => {}
        }
    }
    Ok(counted)
}

/// Reads `TCA_ACT_STATS`. A 64-bit packet count belongs to the counters before it, by its place only, and is there only
/// where 32 bits do not suffice.
fn read_stats(attrs: Attrs<'_>) -> Result<ActionStats, Malformed> {
    let (mut both, mut hardware, mut drops) = (Counters::default(), None, 0);
    let mut previous = 0;
    for attr in attrs {
        let attr = attr?;
        match attr.kind() {
            TCA_STATS_BASIC => both = read_basic(&attr)?,
            TCA_STATS_BASIC_HW => hardware = Some(read_basic(&attr)?),
            TCA_STATS_PKT64 => match (previous, &mut hardware) {
                (TCA_STATS_BASIC, _) => both.packets = attr.u64()?,
                (TCA_STATS_BASIC_HW, Some(hardware)) => hardware.packets = attr.u64()?,
                _ => return Err(attr.malformed(Why::BadValue)),
            },
            // struct gnet_stats_queue: qlen, backlog, drops, requeues, overlimits.
            TCA_STATS_QUEUE => drops = Fields(&attr.array::<12>()?[8..]).u32(),
            _ => {}
        }
        previous = attr.kind();
    }
    let hardware = hardware.unwrap_or_default();
    // The two are read one after the other without a lock: hardware may be ahead by a reading. Saturate, so that a
    // reading ahead never looks like 2^64 packets in software.
    let software = Counters {
        packets: both.packets.saturating_sub(hardware.packets),
        bytes: both.bytes.saturating_sub(hardware.bytes),
    };
    Ok(ActionStats { software, hardware, drops })
}

/// `struct gnet_stats_basic`: bytes, then packets.
fn read_basic(attr: &Attr<'_>) -> Result<Counters, Malformed> {
    let bytes = attr.array::<12>()?;
    let mut fields = Fields(&bytes);
    Ok(Counters { bytes: fields.u64(), packets: u64::from(fields.u32()) })
}

/// Writes a filter's list of actions.
pub(crate) fn put_actions(
    writer: &mut MessageWriter,
    actions: &[Action],
    filter_flags: FilterFlags,
    mode: ReplaceActions,
) -> Result<(), Unsupported> {
    for (position, action) in (1u16..).zip(actions) {
        let nest = writer.begin(position);
        put_action(writer, action, usize::from(position), filter_flags, mode)?;
        writer.end(nest);
    }
    Ok(())
}

fn put_action(
    writer: &mut MessageWriter,
    action: &Action,
    position: usize,
    filter_flags: FilterFlags,
    mode: ReplaceActions,
) -> Result<(), Unsupported> {
    let kind = action.kind.name();
    if let ActionKind::Terse(_) | ActionKind::Unknown(_) = action.kind {
        return Err(Unsupported::Action { position, kind });
    }
    let is_meter = matches!(action.kind, ActionKind::Police(_)) && action.index.is_meter();
    if is_meter {
        check_meter(action.flags, filter_flags, position)?;
    }
    let keeps_index = is_meter || mode == ReplaceActions::Kept;
    let index = if keeps_index { action.index } else { ActionIndex(0) };
    let generic = Generic { index, control: action.control, references: 0, bindings: 0 };
    writer.put_text(TCA_ACT_KIND, kind.name());
    if let Some(cookie) = &action.cookie {
        writer.put(TCA_ACT_COOKIE, cookie.as_bytes());
    }
    // SKIP_HW and SKIP_SW are left out: the kernel takes them from the filter.
    let flags = action.flags & ActionFlags::NO_PERCPU_STATS;
    if !flags.is_empty() {
        writer.put_bitfield32(TCA_ACT_FLAGS, flags.0, flags.0);
    }
    if let Some(hw_stats) = action.hw_stats {
        writer.put_bitfield32(TCA_ACT_HW_STATS, u32::from(hw_stats.0), HW_STATS_ANY);
    }
    let options = writer.begin(TCA_ACT_OPTIONS);
    match &action.kind {
        ActionKind::Mirred(mirred) => mirred.put(writer, &generic),
        ActionKind::Gact(gact) => gact.put(writer, &generic),
        ActionKind::Vlan(vlan) => vlan.put(writer, &generic),
        ActionKind::Mpls(mpls) => mpls.put(writer, &generic),
        ActionKind::TunnelKey(tunnel_key) => tunnel_key.put(writer, &generic),
        ActionKind::Pedit(pedit) => pedit.put(writer, &generic),
        ActionKind::Csum(csum) => csum.put(writer, &generic),
        ActionKind::Ct(ct) => ct.put(writer, &generic),
        ActionKind::Police(police) => police.put(writer, &generic),
        ActionKind::Skbedit(skbedit) => skbedit.put(writer, &generic),
        ActionKind::Sample(sample) => sample.put(writer, &generic),
        ActionKind::Terse(_) | ActionKind::Unknown(_) => {}
    }
    writer.end(options);
    Ok(())
}

/// The kernel binds an action that was made on its own only to a filter with the same skip_hw and skip_sw
/// (`tcf_action_init()`), and a meter is such an action.
fn check_meter(meter: ActionFlags, filter: FilterFlags, position: usize) -> Result<(), Unsupported> {
    let skip_hw = meter.contains(ActionFlags::SKIP_HW);
    let skip_sw = meter.contains(ActionFlags::SKIP_SW);
    let agrees =
        skip_hw == filter.contains(FilterFlags::SKIP_HW) && skip_sw == filter.contains(FilterFlags::SKIP_SW);
    match agrees {
        true => Ok(()),
        false => Err(Unsupported::MeterPlacement { position }),
    }
}
