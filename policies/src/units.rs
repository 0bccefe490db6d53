//! The plain values that planner and rules share: time, rates, weights, rule numbers.

use core::fmt;
use core::str::FromStr;

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

impl Rate {
    /// Whether it is zero: everything is as fast as that.
    pub(crate) const fn is_zero(self) -> bool {
        matches!(self, Self::BytesPerSecond(0) | Self::PacketsPerSecond(0))
    }
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

/// A text that is no quantity: no number, no unit, an unknown unit, or more than fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAQuantity {
    units: &'static str,
}

impl fmt::Display for NotAQuantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected a number and a unit: {}", self.units)
    }
}

impl core::error::Error for NotAQuantity {}

/// The number in `text`, in millionths, and what follows it.
fn split_quantity(text: &str) -> Option<(u128, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |digits: &str| !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || fraction.len() > 6 || whole.len() > 20 {
        return None;
    }
    let millionths: u128 = fraction.parse::<u128>().ok()? * 10_u128.pow(6 - fraction.len() as u32);
    Some((whole.parse::<u128>().ok()? * 1_000_000 + millionths, unit.trim_start()))
}

impl FromStr for Micros {
    type Err = NotAQuantity;

    /// Reads "250 us", "500 ms", "1.5 s", "5 min", "1 h" or "2 d".
    fn from_str(text: &str) -> Result<Self, NotAQuantity> {
        let error = NotAQuantity { units: "us, ms, s, min, h or d" };
        let (millionths, unit) = split_quantity(text).ok_or(error)?;
        let micros: u128 = match unit {
            "us" => 1,
            "ms" => 1_000,
            "s" => 1_000_000,
            "min" => 60_000_000,
            "h" => 3_600_000_000,
            "d" => 86_400_000_000,
            _ => return Err(error),
        };
        u64::try_from(millionths * micros / 1_000_000).map(Self).map_err(|_| error)
    }
}

impl FromStr for Rate {
    type Err = NotAQuantity;

    /// Reads "2 Mbit/s", "250 kB/s" or "500 pkt/s"; k, M, G and T are powers of 1000.
    fn from_str(text: &str) -> Result<Self, NotAQuantity> {
        let error = NotAQuantity { units: "bit/s, B/s or pkt/s, with k, M, G or T before it" };
        let (millionths, unit) = split_quantity(text).ok_or(error)?;
        let prefixes = [("k", 1_000_u128), ("M", 1_000_000), ("G", 1_000_000_000), ("T", 1_000_000_000_000)];
        let (scale, unit) = prefixes
            .iter()
            .find_map(|(prefix, scale)| unit.strip_prefix(prefix).map(|rest| (*scale, rest)))
            .unwrap_or((1, unit));
        let value = millionths.checked_mul(scale).ok_or(error)? / 1_000_000;
        let whole = |value: u128| u64::try_from(value).map_err(|_| error);
        match unit {
            "bit/s" => Ok(Self::BytesPerSecond(whole(value / 8)?)),
            "B/s" => Ok(Self::BytesPerSecond(whole(value)?)),
            "pkt/s" => Ok(Self::PacketsPerSecond(whole(value)?)),
            _ => Err(error),
        }
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

    #[test]
    fn quantities_are_read_with_their_units() {
        assert_eq!("500 ms".parse(), Ok(Micros::from_millis(500)));
        assert_eq!("1.5s".parse(), Ok(Micros::from_millis(1_500)));
        assert_eq!("2 Mbit/s".parse(), Ok(Rate::BytesPerSecond(250_000)));
        assert_eq!("0.5 kpkt/s".parse(), Ok(Rate::PacketsPerSecond(500)));
        assert_eq!("3 GB/s".parse(), Ok(Rate::BytesPerSecond(3_000_000_000)));
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for text in ["", "5", "s", "-1 s", "1,5 s", "1. s", ".5 s", "99999999999999999999 h", "1 S", "1 Mbit"]
        {
            assert!(text.parse::<Micros>().is_err(), "{text}");
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
        let error = "1 day".parse::<Micros>().expect_err("no unit of ours");
        assert_eq!(error.to_string(), "expected a number and a unit: us, ms, s, min, h or d");
    }
}
