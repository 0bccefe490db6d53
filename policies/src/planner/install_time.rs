//! How many installs per second a driver can bear, learned from how long it takes to answer them.

use crate::Micros;

/// What the driver's answers taught.
///
/// The kernel hands a NIC's rules to its driver one after the other, so an install keeps the driver busy from when it was
/// asked, or from its last answer if that came later, until it answers. Answers that are read together share the time of
/// their batch: the mean is right all the same.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct InstallTime {
    /// Mean time of an install, in nanoseconds; nothing before the first.
    mean_ns: Option<u64>,
    /// When the driver gave its last answer.
    answered: Micros,
}

/// The weight of one install in the mean is one in so many: a few batches of a netlink request.
const MEMORY: u64 = 64;

/// The share of the driver's time that installs may take, in percent. The other half is what Open vSwitch and the driver's
/// own work (rule deletions, counters, neighbours) find it free in.
const BUSY_PERCENT: u64 = 50;

impl InstallTime {
    /// An install that was asked for at `sent` was answered, whatever the answer says.
    pub(super) fn answered(&mut self, sent: Micros, now: Micros) {
        let took_ns = now.since(sent.max(self.answered)).0.saturating_mul(1_000);
        self.answered = self.answered.max(now);
        self.mean_ns = Some(match self.mean_ns {
            None => took_ns,
            Some(mean) => (mean * (MEMORY - 1) + took_ns.min(u64::MAX / MEMORY)) / MEMORY,
        });
    }

    /// Installs per second that keep the driver busy for no more than its share; nothing before the first answer.
    pub(super) fn per_s(&self) -> Option<u32> {
        let mean = self.mean_ns?.max(1);
        Some(u32::try_from(1_000_000_000 * BUSY_PERCENT / 100 / mean).unwrap_or(u32::MAX).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A driver that takes `us` for each rule, asked for `batch` of them at a time, with its answers read at the end.
    fn learn(time: &mut InstallTime, from: u64, us: u64, batch: u64, batches: u64) -> u64 {
        (0..batches).fold(from, |begin, _| {
            let end = begin + us * batch;
            (0..batch).for_each(|_| time.answered(Micros(begin), Micros(end)));
            end
        })
    }

    #[test]
    fn half_of_what_the_driver_manages_is_allowed_however_its_answers_are_read() {
        for batch in [1, 7, 32] {
            let mut time = InstallTime::default();
            assert_eq!(time.per_s(), None);
            learn(&mut time, 1_000, 250, batch, 4_000 / batch);
            let per_s = time.per_s().unwrap();
            assert!((1_400..=2_700).contains(&per_s), "{per_s} with {batch} at a time; 2000 is half");
        }
    }

    #[test]
    fn a_driver_that_becomes_slow_is_asked_less_and_one_that_recovers_more() {
        let mut time = InstallTime::default();
        let at = learn(&mut time, 0, 100, 1, 500);
        assert_eq!(time.per_s(), Some(5_000));
        let at = learn(&mut time, at, 5_000, 1, 500);
        let slow = time.per_s().unwrap();
        assert!((98..=102).contains(&slow), "{slow}");
        learn(&mut time, at, 100, 1, 1_000);
        assert!(time.per_s().unwrap() > 4_900);
    }

    #[test]
    fn the_time_between_installs_is_not_the_drivers() {
        let mut time = InstallTime::default();
        for n in 0..100 {
            time.answered(Micros(n * 1_000_000), Micros(n * 1_000_000 + 500));
        }
        assert_eq!(time.per_s(), Some(1_000));
    }

    #[test]
    fn an_answer_in_no_time_allows_as_much_as_can_be_told() {
        let mut time = InstallTime::default();
        time.answered(Micros(5), Micros(5));
        assert_eq!(time.per_s(), Some(500_000_000));
        time.answered(Micros(0), Micros(u64::MAX));
        assert!(time.per_s().unwrap() >= 1);
    }
}
