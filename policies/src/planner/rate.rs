//! How fast a megaflow moves, in integers: an average with fading memory, restarted with every burst.
//!
//! A memory shorter than the time between two packets takes noise for a difference, so it is never shorter than a few
//! packets. Silence that is long against the time between two packets is a pause, not noise: what comes after it is a new
//! burst, whose own mean is the best guess from its first reading on.

use core::hint::black_box;

use crate::{Micros, Rate};

/// Bits after the binary point of a stored rate.
const RATE_BITS: u32 = 10;

/// Bits after the binary point of a logarithm.
const LOG_BITS: u32 = 20;

/// The mean of a burst younger than this is taken over this long: one packet a microsecond after the
/// megaflow appeared is no million packets per second.
const SHORTEST_MEAN: Micros = Micros::from_millis(10);

/// So many packets that were to be expected and did not come are a pause: with arrivals at random, one silence of that length
/// in fifty is none.
const MISSING: u32 = 4;

/// So many times the packets that were to be expected, and so many more, are no noise either: it moves faster than it did.
const SURGE: u64 = 4;
const SURGE_MORE: u64 = 8;

/// The memory spans at least so many packets.
const REMEMBERED: u32 = 8;

/// A pause is looked at again whenever it has doubled, at most so often.
const PAUSE_STEPS: u32 = 8;

/// What moved lately is what moved in this time, or in up to twice as long.
const LATELY: Micros = Micros::from_secs(16);

/// The time for which a first burst that has just begun is expected to go on.
const SHORTEST_STAY: Micros = Micros::from_millis(500);

/// The longest time for which a burst is expected to go on. Beyond it how long a burst has lasted tells little about how long it
/// will, once one knows how fast it is.
const LONGEST_STAY: Micros = Micros::from_secs(2);

/// Packets and bytes per second of one megaflow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pace {
    /// When it was last seen to move.
    at: Micros,
    packets: u64,
    bytes: u64,
    /// When the burst began, and what moved in it.
    burst_since: Micros,
    burst: Moved,
    /// Since when it moves as it does: the burst began, or became several times as fast; and what moved since.
    mean_since: Micros,
    mean: Moved,
    /// How many bursts there were, the present one included.
    bursts: u32,
    /// How long the bursts that ended were, and what moved in them.
    ended_for: Micros,
    ended: Moved,
    /// How long the pauses between bursts were.
    pauses_for: Micros,
    lately: Lately,
}

/// What moved lately, in two parts: a new one begins every [`LATELY`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Lately {
    begin: Micros,
    now: Moved,
    before: Moved,
    /// How much time is in the part before.
    before_for: Micros,
}

impl Lately {
    fn add(&mut self, now: Micros, sample: super::Sample) {
        let span = now.since(self.begin);
        if span >= LATELY {
            // After a long silence the part before is all of it.
            (self.before, self.before_for) = (self.now, span);
            (self.now, self.begin) = (Moved::default(), now);
        }
        self.now.add(sample);
    }

    /// Per second, with [`RATE_BITS`] fractional bits.
    fn rates(&self, now: Micros) -> (u64, u64) {
        let span = now.since(self.begin).plus(self.before_for).max(SHORTEST_MEAN);
        let rate = |now: u64, before: u64| per_second(now.saturating_add(before), span);
        (rate(self.now.packets, self.before.packets), rate(self.now.bytes, self.before.bytes))
    }
}

/// What moved in some time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Moved {
    pub(super) packets: u64,
    pub(super) bytes: u64,
}

impl Moved {
    pub(super) fn add(&mut self, sample: super::Sample) {
        self.packets = self.packets.saturating_add(sample.packets);
        self.bytes = self.bytes.saturating_add(sample.bytes);
    }
}

impl Pace {
    pub(super) fn still(at: Micros) -> Self {
        Self {
            at,
            packets: 0,
            bytes: 0,
            burst_since: at,
            burst: Moved::default(),
            mean_since: at,
            mean: Moved::default(),
            bursts: 0,
            ended_for: Micros::ZERO,
            ended: Moved::default(),
            pauses_for: Micros::ZERO,
            lately: Lately { begin: at, ..Lately::default() },
        }
    }

    /// See [`super::flow::Flow::touch`].
    pub(super) fn touch(&self) {
        black_box((self.at, self.mean_since, self.lately.begin, self.lately.before_for));
    }

    /// Takes in what moved in the time `over` before `now`; counters may be late by `delay`.
    pub(super) fn update(&mut self, now: Micros, half_life: Micros, delay: Micros, sample: super::Sample) {
        let over = sample.over.max(Micros(1));
        let begin = Micros(now.0.saturating_sub(over.0));
        let silent = begin.since(self.at);
        let missed = u128::from(self.packets) * u128::from(silent.since(delay).0);
        // Of a few packets nobody knows how far apart they are.
        let paused = self.burst.packets > u64::from(MISSING)
            && missed >= (u128::from(MISSING) * 1_000_000) << RATE_BITS;
        if paused {
            self.end_burst(silent);
            // It began at some time between the readings: in the middle, on average.
            self.burst_since = begin.plus(Micros(over.0 / 2));
        } else if self.bursts == 0 {
            self.burst_since = self.burst_since.min(begin);
        }
        if paused || self.bursts == 0 {
            self.bursts = self.bursts.saturating_add(1);
            (self.mean_since, self.mean) = (self.burst_since, Moved::default());
        } else if self.surges(sample, over.plus(silent)) {
            (self.mean_since, self.mean) = (begin, Moved::default());
        }
        self.burst.add(sample);
        self.mean.add(sample);
        self.lately.add(now, sample);
        let age = now.since(self.mean_since);
        let memory = half_life.max(self.gaps(REMEMBERED));
        // A mean is taken until the window of the average, memory / ln 2, is full.
        if u128::from(age.0) * 693 <= u128::from(memory.0) * 1_000
            || self.mean.packets <= u64::from(REMEMBERED)
        {
            let span = age.max(SHORTEST_MEAN);
            // A single packet is the beginning of something or all of it.
            let of = if self.mean.packets <= 1 { 2 } else { 1 };
            self.packets = per_second(self.mean.packets, span) / of;
            self.bytes = per_second(self.mean.bytes, span) / of;
            if paused {
                // How much of the first reading was before the burst nobody knows; its earlier bursts tell more.
                let usual = self.ended_for.max(SHORTEST_MEAN);
                self.packets = self.packets.max(per_second(self.ended.packets, usual));
                self.bytes = self.bytes.max(per_second(self.ended.bytes, usual));
            }
        } else {
            let span = over.plus(silent);
            let keep = fading(span, memory);
            self.packets = mix(self.packets, per_second(sample.packets, span), keep);
            self.bytes = mix(self.bytes, per_second(sample.bytes, span), keep);
        }
        self.at = now;
    }

    /// Whether it moved so much in `span` that it goes several times as fast as it did.
    fn surges(&self, sample: super::Sample, span: Micros) -> bool {
        let expected = u128::from(self.packets) * u128::from(span.0) / 1_000_000;
        u128::from(sample.packets.saturating_sub(SURGE_MORE)) << RATE_BITS > expected * u128::from(SURGE)
    }

    /// The burst has ended, and the pause after it too.
    fn end_burst(&mut self, pause: Micros) {
        self.ended_for = self.ended_for.plus(self.at.since(self.burst_since));
        self.ended.packets = self.ended.packets.saturating_add(self.burst.packets);
        self.ended.bytes = self.ended.bytes.saturating_add(self.burst.bytes);
        self.pauses_for = self.pauses_for.plus(pause);
        self.burst = Moved::default();
    }

    /// Packets and bytes per second as last taken in, with [`RATE_BITS`] fractional bits.
    #[cfg(test)]
    pub(super) fn scaled(&self) -> (u64, u64) {
        (self.packets, self.bytes)
    }

    /// The time in which so many packets come; an hour where none do.
    fn gaps(&self, packets: u32) -> Micros {
        let span = (u64::from(packets) * 1_000_000) << RATE_BITS;
        Micros(span.checked_div(self.packets).unwrap_or(u64::MAX)).min(Micros::from_secs(3_600))
    }

    /// How long it may be silent before that is a pause.
    fn patience(&self, half_life: Micros, delay: Micros) -> Micros {
        Micros(half_life.0 / 4).plus(delay).plus(self.gaps(MISSING))
    }

    /// How far a pause has come at `now`: 0 for none, and one more with each doubling.
    pub(super) fn pause(&self, now: Micros, half_life: Micros, delay: Micros) -> u32 {
        let patience = self.patience(half_life, delay).0.max(1);
        let times = now.since(self.at).0 / patience;
        times.checked_ilog2().map_or(0, |doublings| (doublings + 1).min(PAUSE_STEPS))
    }

    /// When the pause will have come one step further; `None` at the last.
    pub(super) fn next_pause(&self, now: Micros, half_life: Micros, delay: Micros) -> Option<Micros> {
        let step = self.pause(now, half_life, delay);
        let patience = self.patience(half_life, delay);
        (step < PAUSE_STEPS).then(|| self.at.plus(Micros(patience.0.saturating_mul(1 << step))))
    }

    /// What is to be expected of it at `now`, per second, with [`RATE_BITS`] fractional bits: its rate in a burst; in a
    /// pause the mean of its life, the less the longer the pause and the fewer of its pauses ended.
    pub(super) fn expected(&self, now: Micros, moved: Moved, age: Micros, pause: u32) -> (u64, u64) {
        if pause == 0 {
            return (self.packets, self.bytes);
        }
        let span = age.plus(now.since(self.at)).max(SHORTEST_MEAN);
        let faded = |rate: u64, moved: u64| {
            (rate.min(per_second(moved, span)) >> (pause - 1)).saturating_mul(self.eighths()) / 8
        };
        (faded(self.packets, moved.packets), faded(self.bytes, moved.bytes))
    }

    /// How likely a pause is to end, in eighths: the more of them have ended.
    fn eighths(&self) -> u64 {
        1 + 3 * u64::from(self.bursts.saturating_sub(1).min(2))
    }

    /// What it is worth not to take its entry while it is in a pause, or slow for a while, per second, with [`RATE_BITS`]
    /// fractional bits; nothing if it never came back from a pause.
    ///
    /// What it moved lately tells what it moves over bursts and pauses. Half of that: the entry can be had again
    /// when the burst comes. And less in a pause that is longer than its pauses are.
    pub(super) fn held(&self, now: Micros) -> (u64, u64) {
        let Some(pauses) = self.bursts.checked_sub(1).filter(|pauses| *pauses > 0) else { return (0, 0) };
        let usual = self.pauses_for.0 / u64::from(pauses);
        let silent = now.since(self.at).0.max(usual).max(1);
        let (packets, bytes) = self.lately.rates(now);
        let worth = |rate: u64| {
            let worth = u128::from(rate) * u128::from(self.eighths() * usual) / u128::from(silent) / 16;
            u64::try_from(worth).unwrap_or(u64::MAX)
        };
        (worth(packets), worth(bytes))
    }

    /// For how long it is expected to go on as it does: as long as its bursts are, or else as long as this one is, which is
    /// what heavy-tailed sizes mean; a first burst a little longer, which lets the fast go before the old at the
    /// beginning.
    pub(super) fn stay(&self, now: Micros) -> Micros {
        let age = now.since(self.burst_since);
        let stay = match self.bursts.checked_sub(1).filter(|ended| *ended > 0) {
            Some(ended) => age.max(Micros(self.ended_for.0 / u64::from(ended))),
            None => age.plus(SHORTEST_STAY),
        };
        stay.clamp(Micros(1), LONGEST_STAY)
    }

    /// Whole packets and bytes per second at `now`: the average, faded by the silence since.
    pub(super) fn at_time(&self, now: Micros, half_life: Micros) -> (u64, u64) {
        let memory = half_life.max(self.gaps(REMEMBERED));
        let silent = now.since(self.at).since(self.gaps(1));
        let keep = fading(silent, memory);
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

/// A rate spread over `span` longer than the `stay` in which it is moved.
pub(super) fn spread(rate: u64, stay: Micros, span: Micros) -> u64 {
    let spread = u128::from(rate) * u128::from(stay.0) / u128::from(stay.plus(span).0.max(1));
    u64::try_from(spread).unwrap_or(u64::MAX)
}

/// What moves in `span` at a rate with [`RATE_BITS`] fractional bits.
pub(super) fn amount(rate: u64, span: Micros) -> u64 {
    let amount = (u128::from(rate) * u128::from(span.0) / 1_000_000) >> RATE_BITS;
    u64::try_from(amount).unwrap_or(u64::MAX)
}

/// Whether `rate` is at least `needs`; both are in the same unit.
pub(super) fn reaches(rate: Rate, needs: Rate) -> bool {
    match (rate, needs) {
        (Rate::BytesPerSecond(rate), Rate::BytesPerSecond(needs))
        | (Rate::PacketsPerSecond(rate), Rate::PacketsPerSecond(needs)) => rate >= needs,
        _ => false,
    }
}

/// A key for ordering by saving: its logarithm.
pub(super) fn key(saving: u128) -> i64 {
    if saving == 0 { i64::MIN } else { log2(saving) }
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
pub(super) fn scale(value: u64, factor: u64) -> u64 {
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
pub(super) fn fading(span: Micros, half_life: Micros) -> u64 {
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
    let mut mantissa = (if whole >= 63 { value >> (whole - 63) } else { value << (63 - whole) }) as u64;
    let mut fraction = 0_i64;
    for _ in 0..LOG_BITS {
        let square = u128::from(mantissa) * u128::from(mantissa);
        // In [1, 4): one bit more before the binary point where it is 2 or more.
        let carry = (square >> 127) as u32;
        mantissa = (square >> (63 + carry)) as u64;
        fraction = fraction << 1 | i64::from(carry);
    }
    (i64::from(whole) << LOG_BITS) | fraction
}

#[cfg(test)]
mod tests {
    use alloc::vec;

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

    const LATE: Micros = Micros::ZERO;

    /// Readings every 100 ms: packets of 1000 bytes.
    fn read(pace: &mut Pace, packets: &[u64]) -> Micros {
        let mut now = Micros::ZERO;
        for packets in packets {
            now = now.plus(Micros::from_millis(100));
            if *packets > 0 {
                let over = Micros::from_millis(100);
                pace.update(now, HALF_LIFE, LATE, Sample { packets: *packets, bytes: packets * 1_000, over });
            }
        }
        now
    }

    #[test]
    fn a_steady_megaflow_has_its_rate_from_the_first_reading_on() {
        for readings in 1..40 {
            let mut pace = Pace::still(Micros::ZERO);
            let now = read(&mut pace, &vec![10; readings]);
            let (packets, bytes) = pace.at_time(now, HALF_LIFE);
            assert!((99..=100).contains(&packets), "{packets} after {readings}");
            assert!((99_900..=100_000).contains(&bytes), "{bytes} after {readings}");
        }
    }

    #[test]
    fn one_packet_counts_half() {
        let mut pace = Pace::still(Micros::ZERO);
        read(&mut pace, &[1]);
        assert_eq!(pace.scaled(), (5 << RATE_BITS, 5_000 << RATE_BITS));
    }

    #[test]
    fn packets_further_apart_than_the_half_life_are_one_steady_rate() {
        let mut pace = Pace::still(Micros::ZERO);
        let mut every_1500_ms = [0; 15];
        every_1500_ms[7] = 1;
        let now = read(&mut pace, &every_1500_ms.repeat(20));
        let rate = pace.scaled().0 as f64 / 1_024.0;
        assert!((0.6..0.76).contains(&rate), "{rate} instead of 0.667 packets per second");
        assert_eq!(pace.pause(now, HALF_LIFE, LATE), 0);
        assert_eq!(pace.bursts, 1);
    }

    #[test]
    fn a_burst_after_a_pause_has_its_own_rate_at_once() {
        let mut pace = Pace::still(Micros::ZERO);
        let mut readings = vec![100; 20];
        readings.extend([0; 20]);
        readings.extend([50]);
        let now = read(&mut pace, &readings);
        assert_eq!(pace.at_time(now, HALF_LIFE).0, 1_000, "one reading tells less than the burst before");
        assert_eq!(pace.bursts, 2);
        assert_eq!(pace.stay(now), Micros::from_secs(2), "as long as the burst before");
        let over = Micros::from_millis(100);
        let now = now.plus(over);
        pace.update(now, HALF_LIFE, LATE, Sample { packets: 25, bytes: 25_000, over });
        assert_eq!(
            pace.at_time(now, HALF_LIFE).0,
            500,
            "75 packets in 150 ms, the burst begun between two readings"
        );
    }

    #[test]
    fn a_megaflow_that_becomes_much_faster_has_its_new_rate_at_once() {
        let mut pace = Pace::still(Micros::ZERO);
        let mut readings = [1, 0, 0, 0, 0].repeat(12);
        readings.extend([60]);
        let now = read(&mut pace, &readings);
        assert_eq!(pace.at_time(now, HALF_LIFE).0, 600);
        assert_eq!(pace.bursts, 1, "that is no pause that ended");
        let over = Micros::from_millis(100);
        pace.update(now.plus(over), HALF_LIFE, LATE, Sample { packets: 10, bytes: 10_000, over });
        assert_eq!(pace.at_time(now.plus(over), HALF_LIFE).0, 350, "70 packets in 200 ms");
    }

    #[test]
    fn a_pause_is_worth_half_of_what_moved_lately_until_it_is_longer_than_usual() {
        let mut pace = Pace::still(Micros::ZERO);
        // 200 packets in each second, in 200 ms of it.
        let cycle = [100, 100, 0, 0, 0, 0, 0, 0, 0, 0];
        let now = read(&mut pace, &cycle[..2]);
        assert_eq!(pace.held(now), (0, 0), "nobody knows whether it comes back");
        let mut pace = Pace::still(Micros::ZERO);
        let now = read(&mut pace, &cycle.repeat(6));
        let held = |after: u64| pace.held(now.plus(Micros::from_millis(after))).0 as f64 / 1_024.0;
        assert!((held(0) / (200.0 * 7.0 / 16.0) - 1.0).abs() < 0.01, "{}", held(0));
        // At `now` it has been silent for 800 ms, as usual.
        assert!(held(800) < held(0) * 0.46, "{} {}", held(0), held(800));
        assert!(held(2_400) < held(800) * 0.5);
    }

    #[test]
    fn what_moved_lately_is_at_most_two_parts_old() {
        let over = Micros::from_secs(1);
        let mut lately = Lately::default();
        for second in 1..=100 {
            let packets = if second <= 50 { 1_000 } else { 10 };
            lately.add(Micros::from_secs(second), Sample { packets, bytes: 0, over });
            let rate = lately.rates(Micros::from_secs(second)).0 >> RATE_BITS;
            match second {
                17..=50 => assert!((999..1_070).contains(&rate), "{rate} at {second} s"),
                84.. => assert!((9..12).contains(&rate), "{rate} at {second} s"),
                _ => {}
            }
        }
    }

    #[test]
    fn a_pause_goes_further_with_each_doubling_and_less_is_expected() {
        let mut pace = Pace::still(Micros::ZERO);
        let now = read(&mut pace, &[100; 20]);
        let moved = Moved { packets: 2_000, bytes: 2_000_000 };
        assert_eq!(pace.pause(now, HALF_LIFE, LATE), 0);
        let mut expected = pace.expected(now, moved, Micros::from_secs(2), 0).1;
        let mut at = now;
        for step in 1..=PAUSE_STEPS {
            at = pace.next_pause(at, HALF_LIFE, LATE).unwrap();
            assert_eq!(pace.pause(at, HALF_LIFE, LATE), step);
            let less = pace.expected(at, moved, Micros::from_secs(2), step).1;
            assert!(less < expected);
            expected = less;
        }
        assert_eq!(pace.next_pause(at, HALF_LIFE, LATE), None);
        assert_eq!(
            pace.pause(now.plus(Micros::from_millis(400)), HALF_LIFE, Micros::from_secs(1)),
            0,
            "late counters"
        );
    }

    #[test]
    fn hysteresis_is_a_distance_between_keys() {
        let gap = advantage(25);
        let low = key(1_000_000);
        assert!(key(1_250_010) >= low + gap);
        assert!(key(1_249_990) < low + gap);
        assert_eq!(advantage(0), 0);
        assert_eq!(key(0), i64::MIN);
    }
}
