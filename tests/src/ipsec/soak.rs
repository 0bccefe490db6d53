//! Rekeys, resets and restarts under traffic, side by side: charon at the daemon's word, and charon alone.
//!
//! How many there are is `LAB_REKEYS` and `LAB_RESETS`; `LAB_EACH=1` tells after each. Charon is killed, which leaves its traps in the kernel; one
//! that is told to end takes them along, with the daemon and without.

use std::time::Instant;

use lab_tests::ensure;
use lab_tests::harness::{Lab, Outcome};

use sides::{End, Scene, Side};
use wire::{Count, Flow};

mod sides;
mod wire;

/// What takes a quarter of an hour on two cores without KVM.
const REKEYS: usize = 300;
/// All kinds together; the same.
const RESETS: usize = 30;
/// Of packets sent, one in so many may be lost beyond what charon alone loses: more is no chance.
const CHANCE: u64 = 100;

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Rekey,
    NicReset,
    CharonKilled,
    DaemonKilled,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Self::Rekey => "rekeys of a child",
            Self::NicReset => "resets of a NIC",
            Self::CharonKilled => "charons killed",
            Self::DaemonKilled => "daemons killed",
        }
    }
}

/// What came of all events of a kind at one side.
#[derive(Debug, Clone, Copy)]
struct Sum {
    kind: Kind,
    events: usize,
    count: Count,
    in_the_clear: u64,
    /// Packets did not come back by themselves.
    stuck: usize,
    took_s: f64,
}

impl Sum {
    fn new(kind: Kind) -> Self {
        Self { kind, events: 0, count: Count::default(), in_the_clear: 0, stuck: 0, took_s: 0.0 }
    }

    fn print(&self, side: Side) {
        let Self { kind, events, count, in_the_clear, stuck, took_s } = self;
        println!(
            "    {events:>5} {:<18} {:<21} lost {} of {} ({:.1} each), {} twice, {in_the_clear} in the clear, \
             longest silence {:.2} s, not back {stuck} times, {took_s:.0} s",
            kind.word(),
            side.word(),
            count.lost,
            count.sent,
            count.lost as f64 / (*events).max(1) as f64,
            count.duplicated,
            count.silence.as_secs_f64(),
        );
    }

    /// Nothing in the clear, nothing twice, and no more lost than without the daemon.
    fn is_no_worse_than(&self, alone: &Self) -> Outcome {
        let (kind, driven, alone) = (self.kind.word(), self.count, alone.count);
        ensure!(self.in_the_clear == 0, "{kind}: {} packets in the clear", self.in_the_clear);
        ensure!(driven.duplicated == 0, "{kind}: {} packets came twice", driven.duplicated);
        let bound = alone.lost * driven.sent + alone.sent * driven.sent / CHANCE;
        ensure!(
            driven.lost * alone.sent <= bound,
            "{kind}: {} of {} packets were lost, and {} of {} by charon alone",
            driven.lost,
            driven.sent,
            alone.lost,
            alone.sent
        );
        Ok(())
    }
}

pub(super) fn number(variable: &str, default: usize) -> usize {
    std::env::var(variable).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

pub(super) fn rekeys_lose_no_more_than_charon_alone(lab: &mut Lab) -> Outcome {
    let rekeys = number("LAB_REKEYS", REKEYS);
    let driven = rekeyed(lab, Side::Driven, rekeys)?;
    let alone = rekeyed(lab, Side::Alone, rekeys)?;
    driven.is_no_worse_than(&alone)
}

fn rekeyed(lab: &mut Lab, side: Side, rekeys: usize) -> Outcome<Sum> {
    let scene = Scene::up(lab, side)?;
    let mut sum = Sum::new(Kind::Rekey);
    let (begin, flow) = (Instant::now(), Flow::start(&scene.hosts)?);
    for turn in 0..rekeys {
        // Both ends, and both ways.
        scene.rekey(End::of(turn), if turn / 2 % 2 == 0 { "out" } else { "in" })?;
        sum.events += 1;
    }
    flow.goes_on(super::hosts::DONE_WITHIN)?;
    sum.count = flow.stop()?;
    sum.took_s = begin.elapsed().as_secs_f64();
    sum.in_the_clear = scene.watch.stop()?;
    sum.print(side);
    Ok(sum)
}

pub(super) fn resets_and_restarts_lose_no_more_than_charon_alone(lab: &mut Lab) -> Outcome {
    let resets = number("LAB_RESETS", RESETS);
    let driven = upset(lab, Side::Driven, resets)?;
    let alone = upset(lab, Side::Alone, resets)?;
    for (driven, alone) in driven.iter().zip(&alone) {
        driven.is_no_worse_than(alone)?;
    }
    Ok(())
}

fn upset(lab: &mut Lab, side: Side, resets: usize) -> Outcome<[Sum; 3]> {
    let mut scene = Scene::up(lab, side)?;
    let mut sums = [Kind::NicReset, Kind::CharonKilled, Kind::DaemonKilled].map(Sum::new);
    for turn in 0..resets {
        let sum = &mut sums[turn % 3];
        let end = End::of(turn / 3);
        let (begin, before) = (Instant::now(), scene.watch.in_the_clear()?);
        let flow = Flow::start(&scene.hosts)?;
        match sum.kind {
            Kind::NicReset => scene.reset_nic(end)?,
            Kind::CharonKilled => scene.restart_charon(lab, end)?,
            Kind::DaemonKilled if side == Side::Driven => scene.restart_daemon(end)?,
            // Who has no daemon loses none.
            Kind::DaemonKilled | Kind::Rekey => {}
        }
        let is_back = scene.recovers(&flow)?;
        sum.stuck += usize::from(!is_back);
        sum.count.add(flow.stop()?);
        sum.events += 1;
        sum.in_the_clear += scene.watch.in_the_clear()? - before;
        sum.took_s += begin.elapsed().as_secs_f64();
        if !is_back {
            // Somebody starts all of it afresh.
            drop(scene);
            scene = Scene::up(lab, side)?;
        }
        if std::env::var("LAB_EACH").is_ok() {
            sum.print(side);
        }
    }
    if scene.watch.in_the_clear()? > 0 {
        println!("    {}: the first in the clear were\n{}", side.word(), scene.watch.first()?);
    }
    scene.watch.stop()?;
    sums.iter().for_each(|sum| sum.print(side));
    Ok(sums)
}
