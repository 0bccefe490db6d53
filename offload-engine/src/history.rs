//! Totals as they were a moment ago, for "now" in `status`.

use crate::counters::Traffic;
use alloc::collections::VecDeque;
use policies::Micros;

/// How far back rates reach.
const WINDOW: Micros = Micros::from_secs(5);
/// Readings kept at most.
const READINGS_MAX: usize = 64;

/// The last few readings of the totals.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    readings: VecDeque<(Micros, Traffic)>,
}

impl History {
    /// Notes the totals at `now`.
    pub(crate) fn note(&mut self, now: Micros, totals: Traffic) {
        self.readings.push_back((now, totals));
        while self.readings.len() > READINGS_MAX
            || self
                .readings
                .front()
                .is_some_and(|(then, _)| now.since(*then) > WINDOW && self.readings.len() > 2)
        {
            self.readings.pop_front();
        }
    }

    /// What moved within the window, and how long that was.
    pub(crate) fn moved(&self) -> Option<(Traffic, Micros)> {
        let (then, before) = self.readings.front()?;
        let (now, after) = self.readings.back()?;
        (now > then).then(|| (after.since(*before), now.since(*then)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counters::Count;

    #[test]
    fn window_slides_and_stays_bounded() {
        let mut history = History::default();
        assert_eq!(history.moved(), None);
        for second in 0..200u64 {
            let totals = Traffic { software: Count::new(second * 10, 0), hardware: Count::default() };
            history.note(Micros::from_secs(second), totals);
        }
        let (moved, over) = history.moved().unwrap();
        assert_eq!(over, WINDOW);
        assert_eq!(moved.software.packets, 50);
        assert!(history.readings.len() <= READINGS_MAX);
    }
}
