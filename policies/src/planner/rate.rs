//! How fast a megaflow moves: an average with exponentially fading memory, in integers.
//!
//! Two facts make the planner cheap. Fading by one half-life for everybody keeps the order of any two megaflows, so
//! a silent one never has to be looked at again: [`fade_invariant`] gives a key that time does not change. And a
//! young megaflow's plain mean is the best guess there is, so an elephant shows at its first reading.

use crate::{Micros, Rate};

/// Bits after the binary point of a stored rate.
const RATE_BITS: u32 = 10;

/// Bits after the binary point of a logarithm.
const LOG_BITS: u32 = 20;

/// The mean of a megaflow younger than this is taken over this long: one packet a microsecond after the
/// megaflow appeared is no million packets per second.
const SHORTEST_MEAN: Micros = Micros::from_millis(10);

/// Packets and bytes per second of one megaflow, as of `at`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pace {
    at: Micros,
    packets: u64,
    bytes: u64,
}

/// What moved since the megaflow was first seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Moved {
    pub(super) packets: u64,
    pub(super) bytes: u64,
}

impl Pace {
    pub(super) fn still(at: Micros) -> Self {
        Self { at, packets: 0, bytes: 0 }
    }

    /// Takes in what moved in the time `over` before `now`; `moved` includes it already.
    pub(super) fn update(
        &mut self,
        now: Micros,
        half_life: Micros,
        age: Micros,
        moved: Moved,
        sample: super::Sample,
    ) {
        // A megaflow is young until the window of the average, half_life / ln 2, is full.
        if u128::from(age.0) * 693 <= u128::from(half_life.0) * 1_000 {
            let span = age.max(SHORTEST_MEAN);
            self.packets = per_second(moved.packets, span);
            self.bytes = per_second(moved.bytes, span);
        } else {
            let over = sample.over.max(Micros(1));
            let silent = now.since(self.at).since(over);
            let quiet = fading(silent, half_life);
            let keep = fading(over, half_life);
            self.packets = mix(scale(self.packets, quiet), per_second(sample.packets, over), keep);
            self.bytes = mix(scale(self.bytes, quiet), per_second(sample.bytes, over), keep);
        }
        self.at = now;
    }

    /// When the counters were last taken in.
    pub(super) fn at(&self) -> Micros {
        self.at
    }

    /// Packets and bytes per second as last taken in, with [`RATE_BITS`] fractional bits.
    pub(super) fn scaled(&self) -> (u64, u64) {
        (self.packets, self.bytes)
    }

    /// Whole packets and bytes per second at `now`, the silence since the last reading counted.
    pub(super) fn at_time(&self, now: Micros, half_life: Micros) -> (u64, u64) {
        let keep = fading(now.since(self.at), half_life);
        (scale(self.packets, keep) >> RATE_BITS, scale(self.bytes, keep) >> RATE_BITS)
    }

    /// The rate at `now` in the unit of `needs`.
    pub(super) fn in_unit_of(&self, needs: Rate, now: Micros, half_life: Micros) -> Rate {
        let (packets, bytes) = self.at_time(now, half_life);
        match needs {
            Rate::BytesPerSecond(_) => Rate::BytesPerSecond(bytes),
            Rate::PacketsPerSecond(_) => Rate::PacketsPerSecond(packets),
        }
    }
}

/// Whether `rate` is at least `needs`; both are in the same unit.
pub(super) fn reaches(rate: Rate, needs: Rate) -> bool {
    match (rate, needs) {
        (Rate::BytesPerSecond(rate), Rate::BytesPerSecond(needs))
        | (Rate::PacketsPerSecond(rate), Rate::PacketsPerSecond(needs)) => rate >= needs,
        _ => false,
    }
}

/// A key for ordering by saving that does not change while a megaflow is silent.
///
/// saving × 2^(−(t − at)/half_life) has the logarithm log2(saving) + at/half_life − t/half_life, and the last term is
/// the same for everybody.
pub(super) fn fade_invariant(saving: u128, at: Micros, half_life: Micros) -> i64 {
    if saving == 0 {
        return i64::MIN;
    }
    let age = (u128::from(at.0) << LOG_BITS) / u128::from(half_life.0.max(1));
    log2(saving).saturating_add(i64::try_from(age).unwrap_or(i64::MAX))
}

/// The distance between two keys where one saving is `percent` larger than the other.
pub(super) fn advantage(percent: u32) -> i64 {
    log2(u128::from(percent) + 100) - log2(100)
}

fn per_second(count: u64, over: Micros) -> u64 {
    let rate = ((u128::from(count) * 1_000_000) << RATE_BITS) / u128::from(over.0.max(1));
    u64::try_from(rate).unwrap_or(u64::MAX)
}

/// `value` × `factor`, the factor with 32 fractional bits.
fn scale(value: u64, factor: u64) -> u64 {
    let scaled = (u128::from(value) * u128::from(factor)) >> 32;
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

/// `old` × `keep` + `new` × (1 − `keep`).
fn mix(old: u64, new: u64, keep: u64) -> u64 {
    let sum = u128::from(old) * u128::from(keep) + u128::from(new) * u128::from((1_u64 << 32) - keep);
    u64::try_from(sum >> 32).unwrap_or(u64::MAX)
}

/// 2^(−2^−i) for i = 1 to 16, with 32 fractional bits.
const ROOTS_OF_HALF: [u64; 16] = [
    3_037_000_500,
    3_611_622_603,
    3_938_502_376,
    4_112_874_773,
    4_202_935_003,
    4_248_701_965,
    4_271_771_996,
    4_283_353_945,
    4_289_156_690,
    4_292_061_010,
    4_293_513_907,
    4_294_240_540,
    4_294_603_903,
    4_294_785_595,
    4_294_876_445,
    4_294_921_870,
];

/// 2^(−span / half_life) with 32 fractional bits.
fn fading(span: Micros, half_life: Micros) -> u64 {
    let half_life = half_life.0.max(1);
    let halvings = span.0 / half_life;
    if halvings >= 32 {
        return 0;
    }
    let fraction = (u128::from(span.0 % half_life) << 16) / u128::from(half_life);
    let mut factor = 1_u64 << 32;
    for (i, root) in ROOTS_OF_HALF.iter().enumerate() {
        if fraction & (1 << (15 - i)) != 0 {
            factor = (factor * root) >> 32;
        }
    }
    factor >> halvings
}

/// The binary logarithm of `value`, at least 1, with [`LOG_BITS`] fractional bits.
fn log2(value: u128) -> i64 {
    let whole = value.max(1).ilog2();
    // The mantissa, in [1, 2), with 63 fractional bits.
    let shifted = if whole >= 63 { value >> (whole - 63) } else { value << (63 - whole) };
    let mut mantissa = shifted & u128::from(u64::MAX);
    let mut fraction = 0_i64;
    for _ in 0..LOG_BITS {
        mantissa = (mantissa * mantissa) >> 63;
        fraction <<= 1;
        if mantissa >> 64 != 0 {
            fraction |= 1;
            mantissa >>= 1;
        }
    }
    (i64::from(whole) << LOG_BITS) | fraction
}

#[cfg(test)]
mod tests {
    use super::super::Sample;
    use super::*;

    const HALF_LIFE: Micros = Micros::from_secs(1);

    #[test]
    fn logarithms_agree_with_floating_point() {
        for value in [1_u128, 2, 3, 10, 1_000, 123_456_789, u128::from(u64::MAX), u128::MAX / 3] {
            let exact = (value as f64).log2();
            let ours = log2(value) as f64 / f64::from(1 << LOG_BITS);
            assert!((exact - ours).abs() < 1e-5, "{value}: {exact} {ours}");
        }
    }

    #[test]
    fn fading_agrees_with_floating_point() {
        for us in [0_u64, 1, 15, 1_000, 250_000, 500_000, 999_999, 1_000_000, 2_500_000, 31_000_000] {
            let exact = (-(us as f64) / 1e6).exp2();
            let ours = fading(Micros(us), HALF_LIFE) as f64 / 4_294_967_296.0;
            assert!((exact - ours).abs() < 2e-5, "{us}: {exact} {ours}");
        }
        assert_eq!(fading(Micros(u64::MAX), HALF_LIFE), 0);
    }

    #[test]
    fn the_key_orders_as_the_faded_savings_do() {
        // 1000 a second ago is worth 500 now.
        let then = fade_invariant(1_000, Micros::from_secs(9), HALF_LIFE);
        assert!(then > fade_invariant(499, Micros::from_secs(10), HALF_LIFE));
        assert!(then < fade_invariant(501, Micros::from_secs(10), HALF_LIFE));
        assert_eq!(fade_invariant(0, Micros::from_secs(10), HALF_LIFE), i64::MIN);
    }

    #[test]
    fn a_steady_megaflow_has_its_rate_from_the_first_reading_on() {
        let mut pace = Pace::still(Micros::ZERO);
        let mut moved = Moved::default();
        for step in 1..=40_u64 {
            let now = Micros::from_millis(step * 250);
            let sample = Sample { packets: 25, bytes: 25_000, over: Micros::from_millis(250) };
            moved.packets += sample.packets;
            moved.bytes += sample.bytes;
            pace.update(now, HALF_LIFE, now, moved, sample);
            let (packets, bytes) = pace.at_time(now, HALF_LIFE);
            assert!((99..=100).contains(&packets), "{packets} at {now}");
            assert!((99_990..=100_000).contains(&bytes), "{bytes} at {now}");
        }
    }

    #[test]
    fn a_silent_megaflow_halves_with_every_half_life() {
        let mut pace = Pace::still(Micros::ZERO);
        let sample = Sample { packets: 100, bytes: 100_000, over: Micros::from_secs(1) };
        let moved = Moved { packets: 100, bytes: 100_000 };
        pace.update(Micros::from_secs(1), HALF_LIFE, Micros::from_secs(1), moved, sample);
        assert_eq!(pace.at_time(Micros::from_secs(1), HALF_LIFE), (100, 100_000));
        assert_eq!(pace.at_time(Micros::from_secs(2), HALF_LIFE), (50, 50_000));
        assert_eq!(pace.at_time(Micros::from_secs(4), HALF_LIFE), (12, 12_500));
        assert_eq!(pace.at_time(Micros::from_secs(90), HALF_LIFE), (0, 0));
    }

    #[test]
    fn hysteresis_is_a_distance_between_keys() {
        let gap = advantage(25);
        let low = fade_invariant(1_000_000, Micros::ZERO, HALF_LIFE);
        assert!(fade_invariant(1_250_010, Micros::ZERO, HALF_LIFE) >= low + gap);
        assert!(fade_invariant(1_249_990, Micros::ZERO, HALF_LIFE) < low + gap);
        assert_eq!(advantage(0), 0);
    }
}
