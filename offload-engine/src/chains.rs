//! Which megaflows recirculation joins: chains of TC, and who leads where.
//!
//! Open vSwitch puts a megaflow into the chain of its recirculation id, at the location of its ingress port, and a megaflow
//! that recirculates its packets ends in `goto chain`. Whether packets of one filter can be packets of another is told by
//! their matches, as far as nothing rewrites what they look at in between.

use crate::ports::Ports;
use crate::subject;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use netlink_wire::Ufid;
use policies::language::{Header, Subject};
use tc_flower::action::CtFlags;
use tc_flower::{ActionKind, Chain, Control, FilterReport, Location};

/// A chain of one location's filters.
pub(crate) type Junction = (Location, Chain);

/// What the kernel does with a packet that the NIC has not finished with: whether it goes on in the chain where the NIC
/// stopped (`CONFIG_NET_TC_SKB_EXT`, `struct tc_skb_ext`), or begins anew, and is treated twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChainRestore {
    /// It goes on where the NIC stopped. Open vSwitch could have the kernel share recirculation ids with TC, which it
    /// refuses without the option.
    Works,
    /// It begins anew.
    Missing,
    /// Nothing has told yet.
    #[default]
    Unknown,
}

/// What is done with filters that recirculation joins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Recirculation {
    /// They are placed where the kernel is known to go on in the chain where the NIC stopped.
    #[default]
    Auto,
    /// They are placed whatever is known of the kernel.
    Always,
    /// They stay in software.
    Never,
}

impl Recirculation {
    /// Whether such filters may be in hardware.
    pub fn allows(self, kernel: ChainRestore) -> bool {
        match self {
            Self::Auto => kernel == ChainRestore::Works,
            Self::Always => true,
            Self::Never => false,
        }
    }
}

/// A filter's place among the chains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The chain it is in, where that is not the first.
    pub(crate) within: Option<Junction>,
    /// The chain it sends its packets to.
    pub(crate) leads_to: Option<Junction>,
    /// Whether it changes the mark or the labels of established connections.
    pub(crate) marks: bool,
}

impl Place {
    pub(crate) fn of(report: &FilterReport) -> Self {
        let location = report.address.location;
        let chain = report.address.chain;
        Self {
            within: (chain != Chain(0)).then_some((location, chain)),
            leads_to: goto(report).map(|chain| (location, chain)),
            marks: marks_established(report),
        }
    }

    /// Whether recirculation has to do with it.
    pub(crate) fn is_joined(&self) -> bool {
        self.within.is_some() || self.leads_to.is_some()
    }
}

/// The chain that a filter sends its packets to.
pub(crate) fn goto(report: &FilterReport) -> Option<Chain> {
    report.actions.iter().find_map(|reported| match reported.action.control {
        Control::Goto(chain) => Some(chain),
        _ => None,
    })
}

/// `TCA_FLOWER_KEY_CT_FLAGS_NEW` of linux/pkt_cls.h.
const CT_STATE_NEW: u16 = 1;

/// Whether a filter changes the mark or the labels of connections that may be established.
///
/// The kernel does not tell a driver what `ct commit` is to write (`tcf_ct_offload_act_setup` of net/sched/act_ct.c), nor
/// that a connection's mark is another now: a NIC passes the packets on with the mark that it knows. What makes a
/// connection is another matter: a NIC has none that is not made.
fn marks_established(report: &FilterReport) -> bool {
    let is_new = report.keys.ct.state.is_some_and(|state| state.value & state.mask & CT_STATE_NEW != 0);
    let marks = |kind: &ActionKind| match kind {
        ActionKind::Ct(ct) => {
            let writes = ct.mark.is_some_and(|mark| mark.mask != 0)
                || ct.labels.is_some_and(|labels| labels.mask.iter().any(|byte| *byte != 0));
            ct.flags.contains(CtFlags::COMMIT) && writes
        }
        _ => false,
    };
    !is_new && report.actions.iter().any(|reported| marks(&reported.action.kind))
}

/// Every filter that recirculation joins, by chain.
#[derive(Clone, Debug, Default)]
pub(crate) struct Chains {
    places: BTreeMap<Ufid, Place>,
    within: BTreeMap<Junction, BTreeSet<Ufid>>,
    leading: BTreeMap<Junction, BTreeSet<Ufid>>,
    /// Those within a chain that change established connections.
    marking: BTreeMap<Junction, BTreeSet<Ufid>>,
}

impl Chains {
    pub(crate) fn place(&self, ufid: Ufid) -> Option<Place> {
        self.places.get(&ufid).copied()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// The filters in a chain.
    pub(crate) fn within(&self, junction: Junction) -> impl Iterator<Item = Ufid> + '_ {
        self.within.get(&junction).into_iter().flatten().copied()
    }

    /// The filters that send their packets to a chain.
    pub(crate) fn leading_to(&self, junction: Junction) -> impl Iterator<Item = Ufid> + '_ {
        self.leading.get(&junction).into_iter().flatten().copied()
    }

    /// The filters in a chain that change the mark or the labels of established connections.
    pub(crate) fn marking(&self, junction: Junction) -> impl Iterator<Item = Ufid> + '_ {
        self.marking.get(&junction).into_iter().flatten().copied()
    }

    /// A filter is at this place now, or at none. Returns the filters to which that makes a difference, itself not included.
    pub(crate) fn set(&mut self, ufid: Ufid, place: Option<Place>) -> BTreeSet<Ufid> {
        let place = place.filter(Place::is_joined);
        let before = self.places.get(&ufid).copied();
        let mut concerned = BTreeSet::new();
        for junction in [before, place].into_iter().flatten().filter_map(|place| place.leads_to) {
            concerned.extend(self.within(junction));
        }
        if before != place {
            for place in [before, place].into_iter().flatten().filter(|place| place.marks) {
                concerned.extend(place.within.into_iter().flat_map(|junction| self.leading_to(junction)));
            }
            if let Some(before) = before {
                leave(&mut self.within, before.within, ufid);
                leave(&mut self.leading, before.leads_to, ufid);
                leave(&mut self.marking, before.within, ufid);
                self.places.remove(&ufid);
            }
            if let Some(place) = place {
                enter(&mut self.within, place.within, ufid);
                enter(&mut self.leading, place.leads_to, ufid);
                enter(&mut self.marking, place.within.filter(|_| place.marks), ufid);
                self.places.insert(ufid, place);
            }
        }
        concerned.remove(&ufid);
        concerned
    }
}

fn enter(index: &mut BTreeMap<Junction, BTreeSet<Ufid>>, junction: Option<Junction>, ufid: Ufid) {
    if let Some(junction) = junction {
        index.entry(junction).or_default().insert(ufid);
    }
}

fn leave(index: &mut BTreeMap<Junction, BTreeSet<Ufid>>, junction: Option<Junction>, ufid: Ufid) {
    if let Some(junction) = junction
        && let Some(filters) = index.get_mut(&junction)
    {
        filters.remove(&ufid);
        if filters.is_empty() {
            index.remove(&junction);
        }
    }
}

/// Whether packets of `first`, which sends its packets to the chain of `then`, can be packets of `then`.
pub(crate) fn can_follow(first: &FilterReport, then: &FilterReport, ports: &Ports) -> bool {
    let (mut first_ports, mut then_ports) = (Vec::new(), Vec::new());
    let rewritten = Rewritten::of(first);
    if rewritten == Rewritten::All {
        return true;
    }
    let first = subject::of_filter(first, ports, &mut first_ports);
    let then = subject::of_filter(then, ports, &mut then_ports);
    Header::all().filter(|header| rewritten.leaves(*header)).all(|header| agree(&first, &then, header))
}

fn agree(a: &Subject<'_>, b: &Subject<'_>, header: Header) -> bool {
    let (a, b) = (a.get(header), b.get(header));
    (a.value ^ b.value) & a.mask & b.mask == 0
}

/// What a filter's actions may change of its packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rewritten {
    /// Only what connection tracking says of them.
    Nothing,
    /// Addresses and ports, too.
    Addresses,
    /// Anything.
    All,
}

impl Rewritten {
    fn of(report: &FilterReport) -> Self {
        let mut rewritten = Self::Nothing;
        for action in report.actions.iter().map(|reported| &reported.action) {
            match &action.kind {
                ActionKind::Ct(ct) if ct.flags.contains(CtFlags::NAT) => rewritten = Self::Addresses,
                ActionKind::Ct(_) | ActionKind::Mirred(_) | ActionKind::Gact(_) | ActionKind::Police(_) => {}
                _ => return Self::All,
            }
        }
        rewritten
    }

    fn leaves(self, header: Header) -> bool {
        match header {
            Header::CtState | Header::CtZone | Header::CtMark | Header::CtLabel | Header::RecircId => false,
            Header::Ip4Src
            | Header::Ip4Dst
            | Header::Ip6Src
            | Header::Ip6Dst
            | Header::L4Src
            | Header::L4Dst => self == Self::Nothing,
            _ => true,
        }
    }
}
