//! A recording of the flow table as traffic: the daemon's epochs are the ticks, and the rules are asked about each
//! megaflow as it was recorded.
//!
//! Megaflows that no NIC could take (those of the kernel datapath, or of ports without a NIC), and those of other NICs
//! where one is asked for, count in the totals and compete for nothing. Numbers of megaflows are given again only when no epoch of a policy can reach back to the
//! time of the one before.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::string::String;
use alloc::vec::Vec;

use super::trace::{FlowNumber, TenantNumber};
use super::traffic::{Moved, Tick};
use super::{Class, Options};
use crate::Micros;
use crate::language::Subject;
use crate::planner::{Division, TenantId};
use crate::recording::{
    Amount, Book, Decoder, Ending, Flow, Home, KeptFlow, Malformed, Move, Record, Split, Start,
};
use crate::rules::{Decision, Rule, Rules};
use crate::tenants::TenantBook;

/// What the daemon itself did in the time of a recording, the warm-up left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// What was forwarded, and by whom.
    pub moved: Split,
    /// Rules placed in hardware.
    pub promotions: u64,
    /// Rules taken out of hardware.
    pub demotions: u64,
    /// What of it was counted for megaflows that are not in the recording.
    pub stray: Amount,
    /// Epochs that are part of another one, since there was no room for them.
    pub merged: u64,
    /// The most megaflows that were left out at a time, since there was no room for them.
    pub left_out_max: u32,
}

/// What is known of a megaflow.
#[derive(Clone, Debug, Default)]
struct Known {
    is_there: bool,
    /// Its number in the replay, if it competes.
    number: Option<FlowNumber>,
    class: TenantNumber,
    /// When it was first seen, in microseconds after the recording's beginning.
    first_seen_us: i64,
    /// Its record, where the rules have to be asked again from time to time.
    told: Option<Box<KeptFlow>>,
}

/// What a call of [`RecordedTraffic::take`] came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// An epoch is complete: [`RecordedTraffic::tick`] has it.
    Epoch,
    /// The recording has begun.
    Start,
    /// The recording has ended, for this reason.
    End(Ending),
    /// There is no whole record left in what was given.
    All,
}

/// Plays a recording. See the module's documentation.
#[derive(Clone, Debug)]
pub struct RecordedTraffic {
    decoder: Decoder,
    play: Play,
}

/// What the records read so far come to.
#[derive(Clone, Debug)]
struct Play {
    rules: Rules,
    /// The NIC whose megaflows compete; all of them, where none is named.
    nic: Option<u16>,
    /// Those that megaflows of this recording are of.
    nics: BTreeSet<u16>,
    asks_again: bool,
    book: Book,
    classes: Classes,
    start: Option<Start>,
    flows: Vec<Known>,
    live: u32,
    live_max: u32,
    numbers: u32,
    /// Numbers that are free, with the tick from which on they may be given again.
    free: VecDeque<(u64, FlowNumber)>,
    reuse_after: u64,
    ticks: u64,
    begin: Micros,
    end: Micros,
    is_complete: bool,
    gone: Vec<FlowNumber>,
    /// Those gone at the end of this tick.
    going: Vec<FlowNumber>,
    moved: Vec<Moved>,
    elsewhere: Amount,
    in_tick: Done,
    warmup: Micros,
    done: Done,
}

impl RecordedTraffic {
    /// Plays a recording by these rules.
    pub fn new(rules: Rules, warmup: Micros) -> Self {
        let play = Play {
            asks_again: rules.depend_on_time(),
            classes: Classes::of(&rules),
            rules,
            nic: None,
            nics: BTreeSet::new(),
            book: Book::new(),
            start: None,
            flows: Vec::new(),
            live: 0,
            live_max: 0,
            numbers: 0,
            free: VecDeque::new(),
            reuse_after: 1,
            ticks: 0,
            begin: Micros::ZERO,
            end: Micros::ZERO,
            is_complete: false,
            gone: Vec::new(),
            going: Vec::new(),
            moved: Vec::new(),
            elsewhere: Amount::default(),
            in_tick: Done::default(),
            warmup,
            done: Done::default(),
        };
        Self { decoder: Decoder::new(), play }
    }

    /// Only the megaflows of this NIC compete, where one is named: each NIC has a table of its own.
    #[must_use]
    pub fn of_nic(mut self, nic: Option<u16>) -> Self {
        self.play.nic = nic;
        self
    }

    /// The NICs that megaflows were of so far.
    pub fn nics(&self) -> &BTreeSet<u16> {
        &self.play.nics
    }

    /// Takes records off the front of `input`, up to the end of an epoch. Returns how many bytes that were.
    ///
    /// # Errors
    /// The recording is wrong there.
    pub fn take(&mut self, input: &[u8]) -> Result<(usize, Taken), Malformed> {
        let Self { decoder, play } = self;
        if core::mem::take(&mut play.is_complete) {
            play.next_tick();
        }
        let mut at = 0;
        while let Some((record, length)) = decoder.read(input.get(at..).unwrap_or_default())? {
            at += length;
            if let Some(taken) = play.record(&record)? {
                return Ok((at, taken));
            }
        }
        Ok((at, Taken::All))
    }

    /// The tick that [`Self::take`] completed.
    pub fn tick(&self) -> Tick<'_> {
        let Play { begin, end, gone, moved, elsewhere, classes, .. } = &self.play;
        Tick { begin: *begin, end: *end, gone, moved, elsewhere: *elsewhere, classes: classes.untold() }
    }

    /// How it begins, once that was read.
    pub fn start(&self) -> Option<Start> {
        self.play.start
    }

    /// How far it was read.
    pub fn now(&self) -> Micros {
        self.play.end
    }

    /// How many megaflows are there now.
    pub fn live(&self) -> u32 {
        self.play.live
    }

    /// The most megaflows that were there at a time, so far.
    pub fn live_max(&self) -> u32 {
        self.play.live_max
    }

    /// What the daemon itself did in that time, so far.
    pub fn done(&self) -> Done {
        self.play.done
    }

    /// What the rules' decisions mean to the planner, before anything was read: one class for each rule, and the default's
    /// last. Those of tenants that megaflows tell come with the ticks.
    pub fn classes(&self) -> Vec<Class> {
        Classes::of(&self.play.rules).all
    }

    /// The tenants of the classes, by name; empty for nobody.
    pub fn tenants(&self) -> Vec<String> {
        let Play { rules, classes, .. } = &self.play;
        let name = |class: &Class| rules.tenant(class.tenant).or(classes.tenants.name(class.tenant));
        classes.all.iter().map(|class| name(class).unwrap_or_default().into()).collect()
    }

    /// How the rules divide the table.
    pub fn division(&self) -> Division {
        self.play.rules.division()
    }

    /// Makes epochs no shorter than the recording's, and numbers last for the longest of them.
    pub fn fit(&mut self, options: &mut Options) {
        let Some(Start { epoch, .. }) = self.play.start else { return };
        options.epoch = options.epoch.max(epoch);
        options.oracle_epoch = options.oracle_epoch.max(epoch);
        let longest = options.epoch.max(options.oracle_epoch);
        self.play.reuse_after = 2 + 2 * longest.0.div_ceil(epoch.0.max(1));
    }
}

impl Play {
    fn next_tick(&mut self) {
        self.begin = self.end;
        self.ticks += 1;
        self.moved.clear();
        self.classes.told = self.classes.all.len();
        self.elsewhere = Amount::default();
        core::mem::swap(&mut self.gone, &mut self.going);
        self.going.clear();
    }

    fn record(&mut self, record: &Record<'_>) -> Result<Option<Taken>, Malformed> {
        match record {
            Record::Start(start) => {
                self.start = Some(*start);
                return Ok(Some(Taken::Start));
            }
            Record::Name(..) | Record::Port(_) => self.book.take(record)?,
            Record::Form(_) => {}
            Record::Flow(flow) => self.flow(flow)?,
            Record::Moved(moves) => moves.iter().try_for_each(|moved| self.moved(moved))?,
            Record::Gone(number) => self.gone(*number)?,
            Record::Epoch(epoch) => {
                self.elsewhere.add(epoch.stray.total());
                let Done { moved, promotions, demotions, stray, merged, left_out_max } = &mut self.in_tick;
                moved.add(epoch.stray);
                stray.add(epoch.stray.total());
                *promotions = promotions.saturating_add(epoch.promotions);
                *demotions = demotions.saturating_add(epoch.demotions);
                *merged += u64::from(epoch.merged);
                *left_out_max = (*left_out_max).max(epoch.left_out);
                self.end = self.end.plus(epoch.past);
                // Without time nothing can be decided: it belongs to the next.
                if self.end > self.begin {
                    self.close_tick();
                    return Ok(Some(Taken::Epoch));
                }
            }
            Record::End(ending) => return Ok(Some(Taken::End(*ending))),
        }
        Ok(None)
    }

    fn close_tick(&mut self) {
        self.is_complete = true;
        // What is kept by number is looked up in order, which is several times as fast as here and there.
        self.moved.sort_unstable_by_key(|moved| moved.flow);
        // Of what a file says nothing can be relied on.
        for moved in self.moved.iter_mut().filter(|moved| moved.appeared > self.end) {
            moved.appeared = self.begin;
        }
        let tick = core::mem::take(&mut self.in_tick);
        if self.begin < self.warmup {
            return;
        }
        let done = &mut self.done;
        done.moved.add(tick.moved);
        done.stray.add(tick.stray);
        done.promotions = done.promotions.saturating_add(tick.promotions);
        done.demotions = done.demotions.saturating_add(tick.demotions);
        done.merged += tick.merged;
        done.left_out_max = done.left_out_max.max(tick.left_out_max);
    }

    fn flow(&mut self, flow: &Flow<'_>) -> Result<(), Malformed> {
        let index = flow.number as usize;
        if index > self.flows.len() {
            return Err(Malformed("the numbers of megaflows have a gap"));
        }
        if index == self.flows.len() {
            self.flows.push(Known::default());
        }
        self.nics.extend(flow.nic);
        let competes =
            flow.home == Home::Tc && flow.nic.is_some() && (self.nic.is_none() || flow.nic == self.nic);
        let class = if competes { self.ask(flow, Measured::default()) } else { TenantNumber(0) };
        let has_number = self.flows[index].number;
        let number = match (competes, has_number) {
            (true, None) => Some(self.give_number()?),
            (false, Some(number)) => {
                self.take_number(number);
                None
            }
            (_, number) => number,
        };
        let known = &mut self.flows[index];
        if !known.is_there {
            self.live += 1;
            self.live_max = self.live_max.max(self.live);
            known.first_seen_us = flow.appeared_us.saturating_add(self.end.0 as i64);
        }
        known.is_there = true;
        (known.number, known.class) = (number, class);
        known.told = (self.asks_again && competes).then(|| Box::new(KeptFlow::new(flow)));
        Ok(())
    }

    fn give_number(&mut self) -> Result<FlowNumber, Malformed> {
        if let Some((_, number)) = self.free.front().copied().filter(|(from, _)| *from <= self.ticks) {
            self.free.pop_front();
            return Ok(number);
        }
        let number = FlowNumber(self.numbers);
        self.numbers = self.numbers.checked_add(1).ok_or(Malformed("it has too many megaflows"))?;
        Ok(number)
    }

    fn take_number(&mut self, number: FlowNumber) {
        self.going.push(number);
        self.free.push_back((self.ticks + self.reuse_after, number));
    }

    fn moved(&mut self, reading: &Move) -> Result<(), Malformed> {
        let Some(known) = self.flows.get(reading.flow as usize).filter(|known| known.is_there) else {
            return Err(Malformed("a reading is of a megaflow that is not there"));
        };
        let total = reading.moved.total();
        if total.is_zero() {
            return Ok(());
        }
        self.in_tick.moved.add(reading.moved);
        let Some(flow) = known.number else {
            self.elsewhere.add(total);
            return Ok(());
        };
        let appeared = Micros(u64::try_from(known.first_seen_us).unwrap_or(0));
        let mut tenant = known.class;
        if known.told.is_some() {
            tenant = self.ask_again(reading.flow as usize, total);
        }
        self.moved.push(Moved { flow, tenant, appeared, packets: total.packets, bytes: total.bytes });
        Ok(())
    }

    fn gone(&mut self, number: u32) -> Result<(), Malformed> {
        let Some(known) = self.flows.get_mut(number as usize).filter(|known| known.is_there) else {
            return Err(Malformed("a megaflow that is not there is gone"));
        };
        let known = core::mem::take(known);
        self.live -= 1;
        if let Some(number) = known.number {
            self.take_number(number);
        }
        Ok(())
    }

    /// What the rules say of a megaflow, as a class.
    fn ask(&mut self, flow: &Flow<'_>, measured: Measured) -> TenantNumber {
        if self.rules.is_empty() {
            return TenantNumber(0);
        }
        let mut outports = Vec::new();
        let mut subject: Subject<'_> = self.book.subject(flow, &mut outports);
        (subject.age, subject.packets_per_s, subject.bytes_per_s) =
            (measured.age, measured.packets_per_s, measured.bytes_per_s);
        let decision = self.rules.decide(&subject, &mut self.classes.tenants);
        self.classes.number(decision)
    }

    /// Time has passed: asks again, with what was measured over the epoch that is about to end.
    fn ask_again(&mut self, index: usize, total: Amount) -> TenantNumber {
        let Some(known) = self.flows.get_mut(index) else { return TenantNumber(0) };
        let Some(told) = known.told.take() else { return known.class };
        let first_seen_us = known.first_seen_us;
        let epoch = self.start.map_or(Micros::from_millis(500), |start| start.epoch);
        let now = self.end.plus(epoch);
        let per_second = |count: u64| {
            u64::try_from(u128::from(count) * 1_000_000 / u128::from(epoch.0.max(1))).unwrap_or(u64::MAX)
        };
        let measured = Measured {
            age: Some(Micros(u64::try_from((now.0 as i64).saturating_sub(first_seen_us)).unwrap_or(0))),
            packets_per_s: Some(per_second(total.packets)),
            bytes_per_s: Some(per_second(total.bytes)),
        };
        let class = self.ask(&told.flow(), measured);
        if let Some(known) = self.flows.get_mut(index) {
            known.told = Some(told);
            known.class = class;
        }
        class
    }
}

/// The classes so far.
#[derive(Clone, Debug)]
struct Classes {
    all: Vec<Class>,
    /// So many were told with a tick, or before.
    told: usize,
    /// Rules and the default.
    of_rules: usize,
    /// Those that rules do not name. Nothing is taken out: a number has to be the same tenant's to the end.
    tenants: TenantBook,
    /// The classes of rules that have megaflows of several tenants.
    found: BTreeMap<(u16, TenantId), TenantNumber>,
}

impl Classes {
    fn of(rules: &Rules) -> Self {
        let Decision { verdict, tenant, .. } = rules.by_default();
        let class = |(_, rule): (_, &Rule)| Class { verdict: rule.verdict(), tenant: rule.owner().tenant() };
        let all: Vec<Class> = rules.iter().map(class).chain([Class { verdict, tenant }]).collect();
        let of_rules = all.len();
        Self { all, told: of_rules, of_rules, tenants: TenantBook::new(), found: BTreeMap::new() }
    }

    fn untold(&self) -> &[Class] {
        self.all.get(self.told..).unwrap_or_default()
    }

    fn number(&mut self, decision: Decision) -> TenantNumber {
        // A policy has at most 1,024 rules.
        let rule = decision.rule.map_or(self.of_rules.saturating_sub(1) as u16, |rule| rule.0);
        let of_rule = self.all.get(usize::from(rule)).map(|class| class.tenant);
        if of_rule == Some(decision.tenant) {
            return TenantNumber(rule);
        }
        let next = u16::try_from(self.all.len()).ok().map(TenantNumber);
        let known = self.found.get(&(rule, decision.tenant)).copied();
        // Where there are no numbers left, it is nobody's.
        let Some(number) = known.or(next) else { return TenantNumber(rule) };
        if known.is_none() {
            self.found.insert((rule, decision.tenant), number);
            self.all.push(Class { verdict: decision.verdict, tenant: decision.tenant });
        }
        number
    }
}

/// What was measured of a megaflow.
#[derive(Clone, Copy, Debug, Default)]
struct Measured {
    age: Option<Micros>,
    packets_per_s: Option<u64>,
    bytes_per_s: Option<u64>,
}
