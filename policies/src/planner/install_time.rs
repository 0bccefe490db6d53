//! How many installs per second a driver can bear, learned from how long it takes for one.

use super::settings::Settings;
use crate::Micros;

/// The mean time that the driver took for an install.
///
/// The caller measures each by itself, from when the kernel was asked until it had answered. How many installs there are, and
/// what passes between them, is not in it: a driver that is asked rarely is not taken for a slow one.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct InstallTime {
    /// Nanoseconds; of no meaning before the first install. Within [`FASTEST_NS`] and [`SLOWEST_NS`].
    mean_ns: u64,
    /// Installs seen, [`MEMORY`] at most.
    seen: u64,
}

/// So many installs make the mean: it is that of all until there were so many, and the weight of one stays one in so many then.
const MEMORY: u64 = 32;

/// Installs after which the number counts as learned. What holds until then weighs as much as one install.
const FEW: u64 = 8;

/// An install counts for no more than so many times the mean. One that the machine held up moves it by a tenth; a driver that
/// became slow is known after a few.
const JUMP: u64 = 4;

/// The share of the driver's time that installs may take, in percent. The other half is what Open vSwitch and the driver's
/// own work (rule deletions, counters, neighbours) find it free in.
const BUSY_PERCENT: u64 = 50;

/// A mean at which 10,000 installs per second are allowed: more than any driver is known to take, and so many that the
/// daemon, which waits for each, and Open vSwitch, which sees each, still have time for other things.
const FASTEST_NS: u64 = 50_000;

/// A mean at which one install per second is allowed: from none at all nothing could be learned.
const SLOWEST_NS: u64 = 500_000_000;

/// The mean at which `per_s` installs per second are allowed, and the other way round.
fn inverse(ns_or_per_s: u64) -> u64 {
    1_000_000_000 * BUSY_PERCENT / 100 / ns_or_per_s.max(1)
}

impl InstallTime {
    /// A rule was put in the NIC, which took so long. `until_learned`: installs per second that were allowed before the first.
    pub(super) fn took(&mut self, took: Micros, until_learned: u32) {
        if self.seen == 0 {
            self.mean_ns = inverse(until_learned.into()).clamp(FASTEST_NS, SLOWEST_NS);
        }
        let took_ns = took.0.saturating_mul(1_000).min(self.mean_ns * JUMP);
        self.seen = MEMORY.min(self.seen + 1);
        let weight = MEMORY.min(self.seen + 1);
        let mean_ns = (self.mean_ns * (weight - 1) + took_ns) / weight;
        self.mean_ns = mean_ns.clamp(FASTEST_NS, SLOWEST_NS);
    }

    /// Whether there were installs enough to go by.
    pub(super) fn is_learned(&self) -> bool {
        self.seen >= FEW
    }

    /// Installs per second that keep the driver busy for no more than its share; nothing before the first.
    fn per_s(&self) -> Option<u32> {
        (self.seen > 0).then(|| u32::try_from(inverse(self.mean_ns)).unwrap_or(u32::MAX))
    }

    /// The settings as they were given, with what was learned in the place of installs per second where that is wanted.
    pub(super) fn applied_to(&self, given: Settings) -> Settings {
        let Some(installs_per_s) = self.per_s().filter(|_| given.learn_installs) else { return given };
        // As much of a second at once as the operator allows.
        let burst = u64::from(given.install_burst) * u64::from(installs_per_s)
            / u64::from(given.installs_per_s.max(1));
        let install_burst = u32::try_from(burst).unwrap_or(u32::MAX).clamp(1, installs_per_s);
        Settings { installs_per_s, install_burst, ..given }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn learned(us: &[u64]) -> InstallTime {
        let mut time = InstallTime::default();
        us.iter().for_each(|us| time.took(Micros(*us), 1_000));
        time
    }

    fn per_s(time: InstallTime) -> u32 {
        time.per_s().unwrap()
    }

    #[test]
    fn half_of_what_the_driver_manages_is_allowed() {
        assert_eq!(InstallTime::default().per_s(), None);
        for (us, half) in [(60, 8_333), (250, 2_000), (5_000, 100), (100_000, 5)] {
            let allowed = per_s(learned(&[us; 400]));
            assert!((half..=half + half / 100 + 1).contains(&allowed), "{allowed}, and {half} is half");
        }
    }

    #[test]
    fn the_first_installs_count_most() {
        // 20 ms is forty times what is assumed before the first: 25 per second are half.
        let few = learned(&[20_000; FEW as usize]);
        assert!(few.is_learned() && !learned(&[20_000; FEW as usize - 1]).is_learned());
        assert!((25..=60).contains(&per_s(few)), "{}", per_s(few));
        assert!((25..=28).contains(&per_s(learned(&[20_000; 64]))));
    }

    #[test]
    fn a_driver_that_becomes_ten_times_slower_gets_a_tenth_and_all_again_when_it_recovers() {
        let mut time = learned(&[100; 500]);
        assert_eq!(per_s(time), 5_000);
        (0..200).for_each(|_| time.took(Micros(1_000), 1_000));
        assert!((500..=505).contains(&per_s(time)), "{}", per_s(time));
        (0..200).for_each(|_| time.took(Micros(100), 1_000));
        assert!((4_900..=5_000).contains(&per_s(time)), "{}", per_s(time));
    }

    #[test]
    fn one_install_that_was_held_up_takes_no_more_than_a_tenth() {
        let mut time = learned(&[250; 500]);
        time.took(Micros(3_600_000_000), 1_000);
        assert!((1_800..2_000).contains(&per_s(time)), "{}", per_s(time));
        // As many as a busy machine holds up: one of twenty.
        let held_up: Vec<u64> = (0..2_000).map(|n| if n % 20 == 0 { 100_000 } else { 250 }).collect();
        assert!((1_600..2_000).contains(&per_s(learned(&held_up))), "{}", per_s(learned(&held_up)));
    }

    #[test]
    fn what_is_allowed_has_bounds() {
        assert_eq!(per_s(learned(&[0; 500])), 10_000);
        let mut time = learned(&[u64::MAX; 500]);
        assert_eq!(per_s(time), 1);
        // From one per second that takes the time of 32 slow installs, half a minute, not for ever.
        (0..60).for_each(|_| time.took(Micros(100), 1_000));
        assert!(per_s(time) >= 5, "{}", per_s(time));
        (0..400).for_each(|_| time.took(Micros(100), 1_000));
        assert!(per_s(time) > 4_900);
    }

    #[test]
    fn as_much_of_a_second_at_once_as_was_given() {
        let given = Settings { installs_per_s: 1_000, install_burst: 100, ..Settings::default() };
        let time = learned(&[5_000; 500]);
        assert_eq!(time.applied_to(given), given, "nobody wants what was learned");
        let applied = time.applied_to(Settings { learn_installs: true, ..given });
        assert_eq!((applied.installs_per_s, applied.install_burst), (100, 10));
        let slow = learned(&[u64::MAX; 500]).applied_to(Settings { learn_installs: true, ..given });
        assert_eq!((slow.installs_per_s, slow.install_burst), (1, 1));
    }
}
