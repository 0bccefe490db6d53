//! What hardware took of each OpenFlow rule, where Open vSwitch cannot see it: rules of shadow mode (`shadow/`) count in the NIC,
//! and the megaflows that they were made from stand still.
//!
//! Which OpenFlow rules a megaflow came from is told by Open vSwitch alone: `ofproto/detrace UFID`, from 3.4 on
//! (`ofproto/ofproto-dpif-upcall.c`, `upcall_unixctl_ofproto_detrace()`), prints the rules that its last translation passed.
//! Older ones do not tell, which is said ([`Telling::Unsupported`]). It is asked of megaflows that have a rule in hardware, and of no
//! others: once that is there, and again every [`ASK_AGAIN_AFTER`], since a change of OpenFlow that leaves the megaflow as it was
//! is told by nobody. What is counted before the first answer waits for it; what is counted later goes to the rules of the last one.
//! Asks are at most [`ASKS_PER_S`], and two at a time: ovs-vswitchd's main thread answers them.

use crate::counters::Count;
use crate::event::{CommandError, OpId};
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use netlink_wire::Ufid;
use policies::Micros;

/// A rule is asked about again after this time.
pub const ASK_AGAIN_AFTER: Micros = Micros::from_secs(5);
/// The same where Open vSwitch has not translated the megaflow yet, or did not answer.
const NOT_YET: Micros = Micros::from_millis(500);
/// Asks in a second, at most.
pub const ASKS_PER_S: u64 = 100;
/// Asks that wait for their answer, at most.
const UNDER_WAY_MAX: usize = 2;
/// OpenFlow rules that are summed apart, at most; what belongs to more is summed as left out.
pub const RULES_MAX: usize = 16_384;
/// OpenFlow rules of one megaflow, at most: Open vSwitch itself goes through 4,096 (`MAX_RESUBMITS`).
const RULES_OF_ONE_MAX: usize = 4_096;
/// The longest name of a bridge: that of its own device (`IFNAMSIZ`) or a little more.
const BRIDGE_CHARS_MAX: usize = 64;

/// OpenFlow rules of one cookie in one table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OpenflowRule {
    /// The bridge; empty where Open vSwitch did not say: it does from 4.0 on.
    pub bridge: String,
    /// The table.
    pub table: u8,
    /// The cookie; 0 for none.
    pub cookie: u64,
}

/// What `ofproto/detrace` says of a megaflow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Detraced {
    /// The OpenFlow rules that it passed, one as often as it did.
    Rules(Vec<OpenflowRule>),
    /// Open vSwitch has it and has not translated it again since it was made, or does not have it.
    NotYet,
}

/// What `ofproto/detrace` printed cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DetraceError {
    /// This rule has no number where one belongs.
    NoNumber(String),
    /// More rules than Open vSwitch goes through.
    TooMany,
}

impl fmt::Display for DetraceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoNumber(rule) => write!(f, "no number in {rule:?}"),
            Self::TooMany => write!(f, "more than {RULES_OF_ONE_MAX} rules"),
        }
    }
}

impl core::error::Error for DetraceError {}

/// Whether Open vSwitch tells which OpenFlow rules a megaflow is of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Telling {
    /// It was not asked yet.
    #[default]
    Unknown,
    /// It does.
    Tells,
    /// It does not, for this reason.
    Unsupported(String),
}

/// Reads what `ofproto/detrace` printed: each rule, as `ofproto_rule_stats_ds()` writes it, with a cookie and a table where these
/// are not 0, and each group; from 4.0 on behind two blanks, with the name of each bridge before its rules.
///
/// # Errors
/// A number that is none, or more rules than there can be.
pub fn parse(text: &str) -> Result<Detraced, DetraceError> {
    let (mut rules, mut bridge, mut absent) = (Vec::new(), String::new(), false);
    for line in text.lines() {
        let rule = line.trim_start();
        let is_rule =
            ["cookie=", "table_id=", "duration=", "group_id="].iter().any(|word| rule.starts_with(word));
        if !is_rule {
            // Of each kind of datapath there is, one that does not have it says so.
            match line.contains(" was not found for ") {
                true => absent = true,
                false => bridge = line.chars().take(BRIDGE_CHARS_MAX).collect(),
            }
            continue;
        }
        // Groups, and tables in which no rule matched.
        if rule.starts_with("group_id=") || rule.ends_with(", no match") {
            continue;
        }
        if rules.len() >= RULES_OF_ONE_MAX {
            return Err(DetraceError::TooMany);
        }
        let no_number = || DetraceError::NoNumber(rule.chars().take(64).collect());
        let (mut cookie, mut table) = (0, 0);
        // What is matched and done comes behind these, and may have cookies of its own.
        for word in rule.split(", ").take_while(|word| !word.starts_with("duration=")) {
            if let Some(hex) = word.strip_prefix("cookie=0x") {
                cookie = u64::from_str_radix(hex, 16).map_err(|_| no_number())?;
            } else if let Some(number) = word.strip_prefix("table_id=") {
                table = number.parse().map_err(|_| no_number())?;
            }
        }
        rules.push(OpenflowRule { bridge: bridge.clone(), table, cookie });
    }
    Ok(if rules.is_empty() && absent { Detraced::NotYet } else { Detraced::Rules(rules) })
}

/// A megaflow that has, or had, a rule in hardware.
#[derive(Clone, Debug, Default)]
struct Of {
    /// The OpenFlow rules that the last answer named, by their place in [`Sums::sums`]; none before the first.
    rules: Option<Box<[u32]>>,
    /// Counted and not known of which rule.
    pending: Count,
    /// When it is to be asked about; none while it is asked, or has no rule.
    due: Option<Micros>,
}

/// An OpenFlow rule's sum.
#[derive(Clone, Debug)]
pub struct Sum {
    /// Which rule.
    pub rule: OpenflowRule,
    /// What hardware took of it.
    pub hardware: Count,
}

/// All of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sums {
    of: BTreeMap<Ufid, Of>,
    due: BTreeSet<(Micros, Ufid)>,
    under_way: BTreeMap<OpId, Ufid>,
    places: BTreeMap<OpenflowRule, u32>,
    sums: Vec<Sum>,
    untold: Count,
    left_out: Count,
    telling: Telling,
    next_ask: Micros,
}

impl Sums {
    /// A rule was made for a megaflow: whether the OpenFlow rules are those of the one before is not known.
    pub(crate) fn placed(&mut self, now: Micros, ufid: Ufid) {
        self.of.entry(ufid).or_default().rules = None;
        self.ask_at(ufid, now);
    }

    /// The rule of a megaflow is gone.
    pub(crate) fn removed(&mut self, ufid: Ufid) {
        // What waits for the first answer still does.
        if self.of.get(&ufid).is_some_and(|of| of.pending.is_zero() || of.rules.is_some()) {
            self.ask_no_more(ufid);
        }
    }

    /// A megaflow is forgotten.
    pub(crate) fn forget(&mut self, ufid: Ufid) {
        self.ask_no_more(ufid);
        if let Some(of) = self.of.remove(&ufid) {
            self.untold += of.pending;
        }
    }

    /// Hardware took so much of a megaflow.
    pub(crate) fn count(&mut self, ufid: Ufid, moved: Count) {
        if moved.is_zero() {
            return;
        }
        match self.of.get_mut(&ufid) {
            Some(Of { rules: Some(rules), .. }) => add(&mut self.sums, rules, moved, &mut self.left_out),
            Some(of) if !matches!(self.telling, Telling::Unsupported(_)) => of.pending += moved,
            _ => self.untold += moved,
        }
    }

    /// ovs-vswitchd is there, another one perhaps.
    pub(crate) fn restarted(&mut self, now: Micros) {
        self.telling = Telling::Unknown;
        let unknown: Vec<Ufid> =
            self.of.iter().filter(|(_, of)| of.rules.is_none()).map(|(ufid, _)| *ufid).collect();
        unknown.into_iter().for_each(|ufid| self.ask_at(ufid, now));
    }

    /// When the next is to be asked about.
    pub(crate) fn wake_at(&self) -> Option<Micros> {
        let may = self.under_way.len() < UNDER_WAY_MAX && !matches!(self.telling, Telling::Unsupported(_));
        let (due, _) = self.due.first().filter(|_| may)?;
        Some((*due).max(self.next_ask))
    }

    /// The next to be asked about, if it is time.
    pub(crate) fn next(&mut self, now: Micros) -> Option<Ufid> {
        if self.wake_at().is_none_or(|at| now < at) {
            return None;
        }
        let (_, ufid) = self.due.pop_first()?;
        if let Some(of) = self.of.get_mut(&ufid) {
            of.due = None;
        }
        self.next_ask = now.plus(Micros(1_000_000 / ASKS_PER_S));
        Some(ufid)
    }

    /// It is asked about in this operation.
    pub(crate) fn asked(&mut self, op: OpId, ufid: Ufid) {
        self.under_way.insert(op, ufid);
    }

    /// An answer came; `placed` is whether the megaflow still has a rule.
    pub(crate) fn answered(
        &mut self,
        now: Micros,
        op: OpId,
        text: Result<String, CommandError>,
        placed: impl Fn(Ufid) -> bool,
    ) {
        let Some(ufid) = self.under_way.remove(&op) else { return };
        let again = match text.as_deref().map(parse) {
            Ok(Ok(Detraced::Rules(rules))) => {
                self.telling = Telling::Tells;
                self.told(ufid, rules);
                ASK_AGAIN_AFTER
            }
            Ok(Ok(Detraced::NotYet)) => NOT_YET,
            Ok(Err(_)) => ASK_AGAIN_AFTER,
            Err(CommandError::Failed(words)) if words.contains("is not a valid command") => {
                self.is_unsupported();
                return;
            }
            Err(_) => NOT_YET,
        };
        let waits = |of: &Of| of.rules.is_none() && !of.pending.is_zero();
        if placed(ufid) || self.of.get(&ufid).is_some_and(waits) {
            self.ask_at(ufid, now.plus(again));
        }
    }

    fn told(&mut self, ufid: Ufid, rules: Vec<OpenflowRule>) {
        let places: Box<[u32]> = rules.into_iter().map(|rule| self.place_of(rule)).collect();
        let Some(of) = self.of.get_mut(&ufid) else { return };
        let pending = core::mem::take(&mut of.pending);
        match places.is_empty() {
            true => self.untold += pending,
            false => add(&mut self.sums, &places, pending, &mut self.left_out),
        }
        of.rules = (!places.is_empty()).then_some(places);
    }

    fn place_of(&mut self, rule: OpenflowRule) -> u32 {
        if let Some(place) = self.places.get(&rule) {
            return *place;
        }
        if self.sums.len() >= RULES_MAX {
            return u32::MAX;
        }
        let place = self.sums.len() as u32;
        self.places.insert(rule.clone(), place);
        self.sums.push(Sum { rule, hardware: Count::default() });
        place
    }

    fn is_unsupported(&mut self) {
        let why = "Open vSwitch tells from 3.4 on which OpenFlow rules a megaflow is of (ofproto/detrace), and this one does not";
        self.telling = Telling::Unsupported(why.into());
        for of in self.of.values_mut() {
            self.untold += core::mem::take(&mut of.pending);
        }
    }

    fn ask_at(&mut self, ufid: Ufid, at: Micros) {
        let Some(of) = self.of.get_mut(&ufid) else { return };
        if let Some(before) = of.due.replace(at) {
            self.due.remove(&(before, ufid));
        }
        self.due.insert((at, ufid));
    }

    fn ask_no_more(&mut self, ufid: Ufid) {
        if let Some(before) = self.of.get_mut(&ufid).and_then(|of| of.due.take()) {
            self.due.remove(&(before, ufid));
        }
    }

    /// The OpenFlow rules of a megaflow, as they were last told.
    pub(crate) fn rules_of(&self, ufid: Ufid) -> Option<Vec<&OpenflowRule>> {
        let rules = self.of.get(&ufid)?.rules.as_ref()?;
        Some(rules.iter().filter_map(|place| Some(&self.sums.get(*place as usize)?.rule)).collect())
    }

    /// Everything summed up.
    pub(crate) fn view(&self) -> OpenflowView<'_> {
        let mut untold = self.untold;
        self.of.values().for_each(|of| untold += of.pending);
        OpenflowView { telling: &self.telling, sums: &self.sums, untold, left_out: self.left_out }
    }
}

fn add(sums: &mut [Sum], rules: &[u32], moved: Count, left_out: &mut Count) {
    for place in rules {
        match sums.get_mut(*place as usize) {
            Some(sum) => sum.hardware += moved,
            None => *left_out += moved,
        }
    }
}

/// What hardware took, by OpenFlow rules.
#[derive(Clone, Debug)]
pub struct OpenflowView<'a> {
    /// Whether Open vSwitch tells.
    pub telling: &'a Telling,
    /// Each rule there was since the engine started, in the order in which they were told.
    pub sums: &'a [Sum],
    /// What is not known of which rule: not yet, or no more.
    pub untold: Count,
    /// What is of more rules than are summed apart ([`RULES_MAX`]).
    pub left_out: Count,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Open vSwitch 4.0 prints it.
    const TEXT: &str = "br0\n  cookie=0x12345678, duration=3s, n_packets=2, n_bytes=236, n_offload_packets=0, n_offload_bytes=0, \
                        priority=100,ip,in_port=1,nw_dst=10.0.0.2,actions=resubmit(,1)\n  table_id=1, duration=3s, n_packets=2, \
                        n_bytes=236, n_offload_packets=0, n_offload_bytes=0, priority=200,ip,actions=learn(table=3,cookie=0x7, \
                        cookie=0x9),group:1\n  group_id=1,type=select\nbr1\n  table_id=7, no match\n  duration=1s, actions=drop\n\
                        UFID was not found for netdev@ovs-netdev\n";

    fn ufid(number: u8) -> Ufid {
        Ufid::from_bytes([number; 16])
    }

    fn rule(bridge: &str, table: u8, cookie: u64) -> OpenflowRule {
        OpenflowRule { bridge: bridge.into(), table, cookie }
    }

    #[test]
    fn rules_are_read_with_bridge_table_and_cookie_and_nothing_else_is_taken_for_one() {
        let rules = [rule("br0", 0, 0x1234_5678), rule("br0", 1, 0), rule("br1", 0, 0)];
        assert_eq!(parse(TEXT), Ok(Detraced::Rules(rules.to_vec())));
        let before = "cookie=0x7, duration=3s, n_packets=2, actions=resubmit(,1)\ntable_id=1, duration=3s, actions=drop\n";
        assert_eq!(parse(before), Ok(Detraced::Rules(alloc::vec![rule("", 0, 7), rule("", 1, 0)])), "3.5");
        assert_eq!(parse("UFID was not found for system@ovs-system\n"), Ok(Detraced::NotYet));
        assert_eq!(parse("Cache was not found for system@ovs-system\n"), Ok(Detraced::NotYet));
        assert_eq!(parse(""), Ok(Detraced::Rules(Vec::new())));
        assert!(parse("br0\n  cookie=0xzz, duration=1s, actions=drop\n").is_err());
        assert!(parse("br0\n  table_id=300, duration=1s, actions=drop\n").is_err());
        assert_eq!(parse(&"  duration=1s\n".repeat(RULES_OF_ONE_MAX + 1)), Err(DetraceError::TooMany));
    }

    #[test]
    fn what_was_counted_before_the_answer_goes_to_the_rules_that_it_names() {
        let (mut sums, now) = (Sums::default(), Micros::from_secs(1));
        sums.placed(now, ufid(1));
        sums.count(ufid(1), Count::new(3, 300));
        assert_eq!(sums.view().untold, Count::new(3, 300));
        assert_eq!(sums.next(now), Some(ufid(1)));
        assert_eq!(sums.next(now), None);
        sums.asked(OpId(9), ufid(1));
        sums.answered(now, OpId(9), Ok(TEXT.into()), |_| true);
        sums.count(ufid(1), Count::new(2, 200));
        let view = sums.view();
        assert_eq!((view.untold, view.left_out), (Count::default(), Count::default()));
        assert!(view.sums.iter().all(|sum| sum.hardware == Count::new(5, 500)), "{view:?}");
        assert_eq!(sums.rules_of(ufid(1)).map(|rules| rules.len()), Some(3));
        assert_eq!(sums.wake_at(), Some(now.plus(ASK_AGAIN_AFTER)));

        // What it carried stays, and nobody is asked about what is gone.
        sums.removed(ufid(1));
        sums.forget(ufid(1));
        assert_eq!(sums.wake_at(), None);
        assert_eq!(sums.view().sums[0].hardware, Count::new(5, 500));
    }

    #[test]
    fn a_rule_made_anew_may_be_of_other_openflow_rules() {
        let (mut sums, now) = (Sums::default(), Micros::from_secs(1));
        for (at, cookie) in [(now, 1), (now.plus(Micros::from_secs(1)), 2)] {
            sums.placed(at, ufid(1));
            sums.count(ufid(1), Count::new(4, 400));
            assert_eq!(sums.next(at), Some(ufid(1)));
            sums.asked(OpId(cookie), ufid(1));
            let text = alloc::format!("br0\n  cookie=0x{cookie:x}, duration=1s, actions=drop\n");
            sums.answered(at, OpId(cookie), Ok(text), |_| true);
        }
        let found: Vec<_> =
            sums.view().sums.iter().map(|sum| (sum.rule.cookie, sum.hardware.packets)).collect();
        assert_eq!(found, [(1, 4), (2, 4)]);
    }

    #[test]
    fn an_open_vswitch_that_does_not_tell_is_asked_once_and_again_after_its_restart() {
        let (mut sums, now) = (Sums::default(), Micros::from_secs(1));
        sums.placed(now, ufid(1));
        sums.placed(now, ufid(2));
        sums.count(ufid(1), Count::new(3, 300));
        let first = sums.next(now).unwrap();
        sums.asked(OpId(1), first);
        let words = "\"ofproto/detrace\" is not a valid command (use \"list-commands\" …)";
        sums.answered(now, OpId(1), Err(CommandError::Failed(words.into())), |_| true);
        assert_eq!(sums.wake_at(), None);
        sums.count(ufid(1), Count::new(1, 100));
        assert_eq!(sums.view().untold, Count::new(4, 400));
        assert!(matches!(sums.view().telling, Telling::Unsupported(_)));
        sums.restarted(now);
        assert!(sums.wake_at().is_some());
    }

    #[test]
    fn asks_are_bounded_in_a_second_and_at_a_time() {
        let (mut sums, mut now) = (Sums::default(), Micros::from_secs(1));
        (0..=255).for_each(|number| sums.placed(now, ufid(number)));
        let (end, mut asked) = (now.plus(Micros::from_secs(1)), 0);
        while now < end {
            while let Some(ufid) = sums.next(now) {
                sums.asked(OpId(asked), ufid);
                sums.answered(now, OpId(asked), Ok(TEXT.into()), |_| true);
                asked += 1;
            }
            now = now.plus(Micros::from_millis(1));
        }
        assert_eq!(asked, ASKS_PER_S);
        for op in 1_000..1_000 + UNDER_WAY_MAX as u64 {
            now = now.plus(Micros::from_secs(1));
            let ufid = sums.next(now).unwrap();
            sums.asked(OpId(op), ufid);
        }
        assert_eq!(sums.next(now.plus(Micros::from_secs(9))), None);
    }

    #[test]
    fn rules_beyond_those_that_are_kept_apart_are_summed_as_left_out() {
        let mut sums = Sums::default();
        sums.placed(Micros::ZERO, ufid(1));
        for cookie in 0..RULES_MAX as u64 {
            assert_eq!(u64::from(sums.place_of(rule("br0", 0, cookie))), cookie);
        }
        sums.told(ufid(1), alloc::vec![rule("br0", 0, u64::MAX)]);
        sums.count(ufid(1), Count::new(1, 100));
        assert_eq!(sums.view().left_out, Count::new(1, 100));
    }
}
