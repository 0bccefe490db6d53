//! When charon is asked for what: what it has told of is known without, and a list takes it time that thousands of tunnels need.

use std::time::{Duration, Instant};

/// Between two looks while something is on its way, and while nothing is: what happens is told by itself.
const SOON: Duration = Duration::from_millis(250);
const WHILE_UNSETTLED: Duration = Duration::from_secs(1);
const WHILE_SETTLED: Duration = Duration::from_secs(15);
/// Between two lists of everything, which ask the kernel for each child's counters.
const EVERYTHING: Duration = Duration::from_secs(60);
/// No other look for so many times as long as one took.
const REST_WHILE_UNSETTLED: u32 = 4;
const REST_WHILE_SETTLED: u32 = 10;
/// The same of lists of everything.
const REST_EVERYTHING: u32 = 20;
/// No other turn for so many times as long as one was thought over, while not all is up: charon needs the time.
const TURNS_REST: u32 = 3;
/// The longest that turns without a look rest: orders and what the kernel tells are not for later.
const REST_MAX: Duration = WHILE_SETTLED;

/// What a turn goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// Everything is listed.
    Everything,
    /// IKE SAs and connections are listed.
    IkeSas,
    /// What was told is known.
    Nothing,
}

/// How a turn ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// Connections were loaded: which children were made before that has to be seen before anything else is done.
    Loads,
    /// Other steps were taken.
    Steps,
    /// Nothing was to be done, and not all is up.
    Waits,
    /// All is up.
    Settled,
}

/// How long there is no other turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pause {
    /// Where nothing happens.
    pub(super) again: Duration,
    /// Whatever charon and the kernel tell.
    pub(super) rest: Duration,
}

#[derive(Debug, Clone, Copy)]
struct Looked {
    ended: Instant,
    took: Duration,
}

impl Looked {
    fn is_older(this: Option<Self>, than: Duration, rests: u32, at: Instant) -> bool {
        this.is_none_or(|looked| {
            let pause = than.max(looked.took.saturating_mul(rests));
            at.saturating_duration_since(looked.ended) >= pause
        })
    }
}

/// The looks that there were.
#[derive(Debug, Default)]
pub(super) struct Looks {
    everything: Option<Looked>,
    /// The last of either kind.
    any: Option<Looked>,
}

impl Looks {
    /// What the next turn goes by; `after` is how that before it ended, none where there was none.
    pub(super) fn next(&self, at: Instant, after: Option<After>) -> Look {
        if Looked::is_older(self.everything, EVERYTHING, REST_EVERYTHING, at) {
            return Look::Everything;
        }
        let is_due = match after {
            None | Some(After::Loads) => true,
            Some(After::Steps) => Looked::is_older(self.any, SOON, REST_WHILE_UNSETTLED, at),
            Some(After::Waits) => Looked::is_older(self.any, WHILE_UNSETTLED, REST_WHILE_UNSETTLED, at),
            Some(After::Settled) => Looked::is_older(self.any, WHILE_SETTLED, REST_WHILE_SETTLED, at),
        };
        if is_due { Look::IkeSas } else { Look::Nothing }
    }

    /// It was looked.
    pub(super) fn looked(&mut self, look: Look, ended: Instant, took: Duration) {
        let looked = Some(Looked { ended, took });
        match look {
            Look::Everything => (self.everything, self.any) = (looked, looked),
            Look::IkeSas => self.any = looked,
            Look::Nothing => {}
        }
    }

    /// Something was not understood: everything is listed next.
    pub(super) fn forget(&mut self) {
        self.everything = None;
    }
}

impl Pause {
    /// After a turn that was thought over for so long.
    pub(super) fn after(after: After, thought: Duration) -> Self {
        let (again, rests) = match after {
            // Until children are negotiated, packets may be lost.
            After::Loads => (Duration::ZERO, 1),
            After::Steps => (SOON, TURNS_REST),
            After::Waits => (WHILE_UNSETTLED, TURNS_REST),
            After::Settled => (WHILE_SETTLED, REST_WHILE_SETTLED),
        };
        Self { again, rest: thought.saturating_mul(rests).min(REST_MAX) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn looks(at: Instant, everything: Duration, ike_sas: Duration) -> Looks {
        let mut looks = Looks::default();
        looks.looked(Look::Everything, at, everything);
        looks.looked(Look::IkeSas, at, ike_sas);
        looks
    }

    #[test]
    fn everything_is_listed_first_and_then_seldom() {
        let start = Instant::now();
        assert_eq!(Looks::default().next(start, None), Look::Everything);
        for (took, then) in [(MS, EVERYTHING), (MS * 10_000, MS * 200_000)] {
            let looks = looks(start, took, MS);
            assert_ne!(looks.next(start + then - MS, Some(After::Settled)), Look::Everything);
            assert_eq!(looks.next(start + then, Some(After::Settled)), Look::Everything);
        }
        let mut looks = looks(start, MS, MS);
        looks.forget();
        assert_eq!(looks.next(start, Some(After::Settled)), Look::Everything);
    }

    #[test]
    fn ike_sas_are_listed_after_loads_and_else_for_a_part_of_the_time_alone() {
        let start = Instant::now();
        let quick = looks(start, MS, MS);
        assert_eq!(quick.next(start, Some(After::Loads)), Look::IkeSas);
        for (after, pause) in
            [(After::Steps, SOON), (After::Waits, WHILE_UNSETTLED), (After::Settled, WHILE_SETTLED)]
        {
            assert_eq!(quick.next(start + pause - MS, Some(after)), Look::Nothing);
            assert_eq!(quick.next(start + pause, Some(after)), Look::IkeSas);
        }
        let slow = looks(start, MS, MS * 2_000);
        for (after, pause) in
            [(After::Steps, MS * 8_000), (After::Waits, MS * 8_000), (After::Settled, MS * 20_000)]
        {
            assert_eq!(slow.next(start + pause - MS, Some(after)), Look::Nothing);
            assert_eq!(slow.next(start + pause, Some(after)), Look::IkeSas);
        }
    }

    #[test]
    fn turns_take_a_part_of_the_time_alone_however_long_they_are() {
        for thought in [1, 20, 1_400].map(|ms| MS * ms) {
            assert_eq!(Pause::after(After::Settled, thought).rest, thought * 10);
            for after in [After::Steps, After::Waits] {
                assert_eq!(Pause::after(after, thought).rest, thought * 3);
            }
            assert_eq!(Pause::after(After::Loads, thought), Pause { again: Duration::ZERO, rest: thought });
        }
        assert_eq!(Pause::after(After::Settled, MS * 20_000).rest, REST_MAX, "it goes on");
    }
}
