//! How long to wait before the next attempt to connect. Pure: randomness is passed in.

use std::time::Duration;

/// Capped exponential backoff with jitter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    /// Starts at `min` and doubles up to `max`.
    pub fn new(min: Duration, max: Duration) -> Self {
        Self { min, max: max.max(min), next: min }
    }

    /// The next delay: between half and all of the current step, by `random`, so that a thousand clients of a server that
    /// restarts do not return at the same moment.
    pub fn next_delay(&mut self, random: u64) -> Duration {
        let step = self.next;
        self.next = step.saturating_mul(2).min(self.max);
        let half = step / 2;
        let share = (random >> 32) as f64 / f64::from(u32::MAX);
        half + (step - half).mul_f64(share.clamp(0.0, 1.0))
    }

    /// A connection proved good: start again from the shortest delay.
    pub fn reset(&mut self) {
        self.next = self.min;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_cap_and_never_fall_below_half_a_step() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(5));
        let longest: Vec<_> = (0..4).map(|_| backoff.next_delay(u64::MAX).as_millis()).collect();
        assert_eq!(longest, [1000, 2000, 4000, 5000]);
        assert_eq!(backoff.next_delay(0).as_millis(), 2500);
        backoff.reset();
        assert_eq!(backoff.next_delay(0).as_millis(), 500);
    }
}
