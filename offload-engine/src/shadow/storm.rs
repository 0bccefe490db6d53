//! Ports by which more new megaflows come than are followed: who scans a network by one of them does not keep the flows of the others
//! out of hardware.
//!
//! What the kernel datapath tells must be followed without a gap where rules are placed, and reading it, laying each over the
//! others and asking the rules of each takes time. Where more comes by a port in a second than [`Settings::new_megaflows_max`],
//! that port is *shed*: none of its megaflows has a rule ([`Refusal::TooManyNew`]), and notifications of new ones are passed
//! over. Readings of the kernel datapath go on showing and counting them. When less than half as much has come for
//! [`CALM_FOR`], notifications are followed again, and once a whole reading that was begun after that has ended, its megaflows
//! are judged like all others.
//!
//! [`Settings::new_megaflows_max`]: crate::settings::Settings::new_megaflows_max
//! [`Refusal::TooManyNew`]: crate::refusal::Refusal::TooManyNew

use super::Shadow;
use crate::event::{Effect, Round};
use crate::ledger::{Entry, Home};
use crate::refusal::Refusal;
use crate::world::World;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use netlink_wire::{Ifindex, Ufid};
use policies::Micros;

/// New megaflows are counted over this time.
const WINDOW: Micros = Micros::from_secs(1);
/// How long little must have come until a port is followed again.
pub(crate) const CALM_FOR: Micros = Micros::from_secs(5);
/// When notifications are lost, the port by which most came is shed where that was this part of the limit.
const SHED_AT_LOSS: u32 = 4;

/// What becomes of a new megaflow that was told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Noted {
    /// It is followed.
    Followed,
    /// It is one too many: its port is shed from now on.
    Sheds,
    /// It is passed over.
    PassedOver,
}

/// How many come by each port.
#[derive(Clone, Debug, Default)]
pub(crate) struct Storms {
    paces: BTreeMap<Ifindex, Pace>,
}

#[derive(Clone, Copy, Debug)]
struct Pace {
    /// When the window began.
    since: Micros,
    /// New ones in it, and in the one before.
    now: u32,
    before: u32,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Followed,
    /// Since when little has come, if little comes.
    Shed {
        calm_since: Option<Micros>,
    },
    /// Notifications are followed; what is there besides is shown by a whole reading that was begun after this round.
    Returning {
        after: Round,
    },
}

impl Pace {
    fn new(now: Micros) -> Self {
        Self { since: now, now: 0, before: 0, state: State::Followed }
    }

    /// Begins another window where this one is over.
    fn turn(&mut self, now: Micros, limit: u32) {
        let over = now.since(self.since);
        if over < WINDOW {
            return;
        }
        self.before = if over < WINDOW.plus(WINDOW) { self.now } else { 0 };
        (self.since, self.now) = (now, 0);
        if let State::Shed { calm_since } = &mut self.state {
            *calm_since = match self.before < limit / 2 {
                true => calm_since.or(Some(now)),
                false => None,
            };
        }
    }
}

impl Storms {
    /// A notification told of a megaflow of this port, which is not known to be there.
    pub(crate) fn note_new(&mut self, now: Micros, port: Ifindex, limit: u32) -> Noted {
        let pace = self.paces.entry(port).or_insert_with(|| Pace::new(now));
        pace.turn(now, limit);
        pace.now = pace.now.saturating_add(1);
        match pace.state {
            State::Shed { .. } => Noted::PassedOver,
            State::Followed | State::Returning { .. } if pace.now > limit => {
                pace.state = State::Shed { calm_since: None };
                Noted::Sheds
            }
            State::Followed | State::Returning { .. } => Noted::Followed,
        }
    }

    /// Notifications were lost. Returns the port that is shed for it, if there is one to blame.
    pub(crate) fn overrun(&mut self, latest: Round, limit: u32) -> Option<Ifindex> {
        for pace in self.paces.values_mut() {
            if let State::Returning { after } = &mut pace.state {
                *after = latest;
            }
        }
        let of = |pace: &Pace| pace.now.max(pace.before);
        let followed = self.paces.iter_mut().filter(|(_, pace)| !matches!(pace.state, State::Shed { .. }));
        let (port, pace) = followed.max_by_key(|(_, pace)| of(pace))?;
        if of(pace) < limit / SHED_AT_LOSS {
            return None;
        }
        pace.state = State::Shed { calm_since: None };
        Some(*port)
    }

    /// Follows notifications of ports again by which little has come for long, and forgets ports that are not `there` any more
    /// and were like all others.
    pub(crate) fn abate(&mut self, now: Micros, latest: Round, limit: u32, there: impl Fn(Ifindex) -> bool) {
        // One that went may come back, and what was passed over of it is not known until it is read.
        self.paces.retain(|port, pace| pace.state != State::Followed || there(*port));
        for pace in self.paces.values_mut() {
            pace.turn(now, limit);
            if let State::Shed { calm_since: Some(since) } = pace.state
                && now.since(since) >= CALM_FOR
            {
                pace.state = State::Returning { after: latest };
            }
        }
    }

    /// A whole reading of this round ended. Returns the ports that are like all others again.
    pub(crate) fn read(&mut self, round: Round) -> Vec<Ifindex> {
        let mut back = Vec::new();
        for (port, pace) in &mut self.paces {
            if matches!(pace.state, State::Returning { after } if round > after) {
                pace.state = State::Followed;
                back.push(*port);
            }
        }
        back
    }

    /// Whether notifications of this port are passed over.
    pub(crate) fn is_passed_over(&self, port: Ifindex) -> bool {
        self.paces.get(&port).is_some_and(|pace| matches!(pace.state, State::Shed { .. }))
    }

    /// Whether megaflows of this port may have no rules.
    pub(crate) fn is_shed(&self, port: Ifindex) -> bool {
        self.paces.get(&port).is_some_and(|pace| pace.state != State::Followed)
    }
}

impl Shadow {
    /// More come by this port than are followed.
    pub(super) fn shed(&mut self, world: &mut World, now: Micros, port: Ifindex, fx: &mut Vec<Effect>) {
        tell(world, port, true, fx);
        if let Some(entrance) = world.ports.get(port).and_then(|port| port.dp.zip(port.dp_port)) {
            world.overlaps.forget(entrance);
        }
        for ufid in of_port(world, port) {
            self.judge(world, now, ufid);
            self.settle(world, now, ufid, fx);
        }
    }

    /// All megaflows of this port are known again.
    pub(super) fn follow(&mut self, world: &mut World, now: Micros, port: Ifindex, fx: &mut Vec<Effect>) {
        tell(world, port, false, fx);
        let all = of_port(world, port);
        for ufid in &all {
            world.lay_over(*ufid);
        }
        for ufid in all {
            self.judge(world, now, ufid);
            self.settle(world, now, ufid, fx);
        }
    }
}

impl World {
    /// Looks after ports by which too many came.
    pub(super) fn abate(&mut self, now: Micros) {
        let (latest, limit) = (self.latest_round(), self.settings.new_megaflows_max);
        self.storms.abate(now, latest, limit, |port| self.ports.get(port).is_some());
    }
}

fn of_port(world: &World, port: Ifindex) -> Vec<Ufid> {
    world.ledger.select(|entry| entry.home == Home::Datapath && entry.port == Some(port))
}

fn tell(world: &World, port: Ifindex, on: bool, fx: &mut Vec<Effect>) {
    if let Some(port) = world.ports.get(port) {
        fx.push(Effect::Shed { port: port.name.clone(), on });
    }
}

/// Whether a megaflow is of a port of which nothing is looked at. Of those without a rule, that is all there is to do about it.
pub(super) fn passed_over(world: &mut World, ufid: Ufid) -> bool {
    let is_passed_over = |entry: &Entry| entry.port.is_some_and(|port| world.storms.is_passed_over(port));
    let is_so = world.ledger.get(ufid).is_some_and(is_passed_over);
    if let (true, Some(entry)) = (is_so, world.ledger.get_mut(ufid)) {
        entry.refusal = Some(Refusal::TooManyNew);
    }
    is_so
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORT: Ifindex = Ifindex(7);
    const OTHER: Ifindex = Ifindex(8);
    const LIMIT: u32 = 10;

    fn at(millis: u64) -> Micros {
        Micros::from_secs(100).plus(Micros::from_millis(millis))
    }

    fn shed() -> Storms {
        let mut storms = Storms::default();
        let noted: Vec<_> = (0..12).map(|n| storms.note_new(at(n), PORT, LIMIT)).collect();
        assert_eq!(noted[9..], [Noted::Followed, Noted::Sheds, Noted::PassedOver]);
        storms
    }

    #[test]
    fn a_port_is_shed_with_the_first_megaflow_above_the_limit_of_a_second_and_no_other_is() {
        let mut storms = shed();
        assert!(storms.is_shed(PORT) && storms.is_passed_over(PORT));
        assert_eq!(storms.note_new(at(20), OTHER, LIMIT), Noted::Followed);
        let mut slow = Storms::default();
        let all_followed = (0..100).all(|n| slow.note_new(at(n * 100), PORT, LIMIT) == Noted::Followed);
        assert!(all_followed, "ten a second");
    }

    #[test]
    fn it_is_followed_again_after_calm_and_judged_after_a_whole_reading_that_was_begun_later() {
        let mut storms = shed();
        storms.abate(at(1_000), Round(3), LIMIT, |_| true);
        storms.abate(at(2_000), Round(4), LIMIT, |_| true);
        storms.abate(at(6_900), Round(5), LIMIT, |_| true);
        assert!(storms.is_passed_over(PORT), "calm for less than it takes");
        storms.abate(at(7_100), Round(6), LIMIT, |_| true);
        assert!(!storms.is_passed_over(PORT) && storms.is_shed(PORT));
        assert_eq!(storms.read(Round(6)), [], "begun before");
        assert_eq!(storms.overrun(Round(8), LIMIT), None, "little came");
        assert_eq!(storms.read(Round(8)), [], "begun before the loss");
        assert_eq!(storms.read(Round(9)), [PORT]);
        assert!(!storms.is_shed(PORT));
    }

    #[test]
    fn it_stays_shed_while_more_than_half_of_the_limit_comes() {
        let mut storms = shed();
        for n in 0..200 {
            storms.note_new(at(1_000 + n * 150), PORT, LIMIT);
            storms.abate(at(1_000 + n * 150), Round(n), LIMIT, |_| true);
        }
        assert!(storms.is_passed_over(PORT), "six or seven a second");
    }

    #[test]
    fn at_a_loss_the_port_by_which_most_came_is_shed_unless_that_was_little() {
        let mut storms = Storms::default();
        for n in 0..2 {
            storms.note_new(at(n), PORT, LIMIT);
            storms.note_new(at(n), OTHER, LIMIT);
        }
        storms.note_new(at(3), OTHER, LIMIT);
        assert_eq!(storms.overrun(Round(1), LIMIT), Some(OTHER));
        assert_eq!(storms.overrun(Round(1), 100), None);
    }

    #[test]
    fn a_port_that_went_while_it_was_shed_is_shed_when_it_is_back() {
        let mut storms = shed();
        storms.note_new(at(20), OTHER, LIMIT);
        storms.abate(at(100), Round(1), LIMIT, |_| false);
        assert!(storms.is_passed_over(PORT));
        assert_eq!(storms.paces.len(), 1, "another one is forgotten");
    }
}
