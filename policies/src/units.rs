//! The plain values that planner and rules share: time, rates, weights, rule numbers.

use core::fmt;

/// A point in time, or a span of it, in microseconds of one monotonic clock.
///
/// The crate never reads a clock: the caller passes `CLOCK_MONOTONIC`, or a simulator its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Micros(pub u64);

impl Micros {
    /// No time at all.
    pub const ZERO: Self = Self(0);

    /// A span of whole milliseconds.
    pub const fn from_millis(ms: u64) -> Self {
        Self(ms.saturating_mul(1_000))
    }

    /// A span of whole seconds.
    pub const fn from_secs(s: u64) -> Self {
        Self(s.saturating_mul(1_000_000))
    }

    /// The span since `earlier`; zero when `earlier` is in fact later.
    pub const fn since(self, earlier: Self) -> Self {
        Self(self.0.saturating_sub(earlier.0))
    }

    /// The point `span` after this one.
    pub const fn plus(self, span: Self) -> Self {
        Self(self.0.saturating_add(span.0))
    }
}

impl fmt::Display for Micros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            us if us < 1_000 => write!(f, "{us} us"),
            us if us < 1_000_000 => write!(f, "{} ms", us / 1_000),
            us => write!(f, "{}.{} s", us / 1_000_000, us % 1_000_000 / 100_000),
        }
    }
}

/// How fast a megaflow moves, in the unit an operator chose for the threshold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rate {
    /// Bytes per second, as TC counts them.
    BytesPerSecond(u64),
    /// Packets per second.
    PacketsPerSecond(u64),
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (value, units) = match *self {
            Self::BytesPerSecond(bytes) => {
                (u128::from(bytes) * 8, ["bit/s", "kbit/s", "Mbit/s", "Gbit/s", "Tbit/s"])
            }
            Self::PacketsPerSecond(packets) => {
                (u128::from(packets), ["pkt/s", "kpkt/s", "Mpkt/s", "Gpkt/s", "Tpkt/s"])
            }
        };
        let mut scale = 1_u128;
        let mut unit = units[0];
        for larger in &units[1..] {
            if value < scale * 1_000 {
                break;
            }
            scale *= 1_000;
            unit = larger;
        }
        let tenths = value * 10 / scale;
        if tenths.is_multiple_of(10) {
            write!(f, "{} {unit}", tenths / 10)
        } else {
            write!(f, "{}.{} {unit}", tenths / 10, tenths % 10)
        }
    }
}

/// How much a byte of one megaflow counts against a byte of another, in thousandths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Weight(u32);

impl Weight {
    /// The weight of a megaflow that no rule weighs: 1.0.
    pub const ONE: Self = Self(1_000);

    /// A weight in thousandths; 1500 is 1.5. Zero is taken as one thousandth: a megaflow that must not
    /// be placed has a verdict of its own.
    pub const fn from_thousandths(thousandths: u32) -> Self {
        if thousandths == 0 { Self(1) } else { Self(thousandths) }
    }

    /// The weight in thousandths, at least 1.
    pub const fn thousandths(self) -> u32 {
        self.0
    }
}

impl Default for Weight {
    fn default() -> Self {
        Self::ONE
    }
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}", self.0 / 1_000, self.0 % 1_000)
    }
}

/// The place of a rule in the policy, counted from 0 in the order the file gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleId(pub u16);

impl fmt::Display for RuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rule {}", u32::from(self.0) + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn rates_are_printed_in_the_unit_an_operator_reads() {
        assert_eq!(Rate::BytesPerSecond(250_000).to_string(), "2 Mbit/s");
        assert_eq!(Rate::BytesPerSecond(1).to_string(), "8 bit/s");
        assert_eq!(Rate::PacketsPerSecond(1_540).to_string(), "1.5 kpkt/s");
        assert_eq!(Rate::PacketsPerSecond(0).to_string(), "0 pkt/s");
        assert_eq!(Rate::BytesPerSecond(u64::MAX).to_string(), "147573952.5 Tbit/s");
    }

    #[test]
    fn time_never_runs_backwards() {
        assert_eq!(Micros(5).since(Micros(9)), Micros::ZERO);
        assert_eq!(Micros(u64::MAX).plus(Micros(1)), Micros(u64::MAX));
        assert_eq!(Micros::from_millis(2_300).to_string(), "2.3 s");
    }

    #[test]
    fn a_weight_of_zero_is_the_least_weight() {
        assert_eq!(Weight::from_thousandths(0).thousandths(), 1);
        assert_eq!(Weight::from_thousandths(1_500).to_string(), "1.500");
    }
}
