//! How fast a flow of the campus sends: the part that no data tells, and that is therefore varied.

use std::f64::consts::TAU;

use super::campus::Size;
use super::dice::Dice;

/// A model of rates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Model {
    /// One rate for a flow's whole life, lognormal.
    Constant,
    /// Even bursts and pauses, for each flow its own: 0.8 s and 2 s on average.
    Bursts,
    /// Bursts and pauses without a pattern, with the same means.
    RandomBursts,
    /// Twice as fast with each round trip, until the flow's rate is reached.
    SlowStart,
    /// A day's course of arrivals and rates, in the time of the trace.
    Diurnal,
    /// One rate for a flow's whole life, Pareto: a few are a thousand times as fast as most.
    HeavyTailed,
    /// Constant, and among it flows that cool at the moment at which a policy that measures would place them.
    Adversarial,
}

/// A phase of a flow.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Row {
    /// For residents: which one.
    pub(crate) flow: u32,
    pub(crate) start: f64,
    pub(crate) end: f64,
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
    pub(crate) bursts: Option<(f64, f64)>,
}

/// Bytes per second of the median flow of [`RATE_AT`] bytes, and the deviation of the logarithm. Larger flows are faster,
/// with the square root of their size: that is an assumption too, and gives about the 21,000 megaflows that live at a
/// time on the campus's arrivals with ten seconds of idle time.
const RATE: (f64, f64) = (20_000.0, 1.0);
const RATE_AT: f64 = 100_000.0;
/// The mean burst and the mean pause, in seconds.
const ON_OFF_S: (f64, f64) = (0.8, 2.0);
/// Flows of the adversarial model that cool when they are placed.
const RESIDENTS: u32 = 3_000;

impl Model {
    pub(crate) const ALL: [Self; 7] = [
        Self::Constant,
        Self::Bursts,
        Self::RandomBursts,
        Self::SlowStart,
        Self::Diurnal,
        Self::HeavyTailed,
        Self::Adversarial,
    ];

    /// The name for `--model`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Constant => "constant",
            Self::Bursts => "bursts",
            Self::RandomBursts => "random-bursts",
            Self::SlowStart => "slow-start",
            Self::Diurnal => "diurnal",
            Self::HeavyTailed => "heavy-tailed",
            Self::Adversarial => "adversarial",
        }
    }

    /// Arrivals at a time, as a multiple of their mean.
    pub(crate) fn intensity(self, at: f64, duration: f64) -> f64 {
        match self {
            Self::Diurnal => day(at, duration),
            _ => 1.0,
        }
    }

    /// Draws the phases of one flow that begins at `at`.
    pub(crate) fn draw(self, dice: &mut Dice, at: f64, duration: f64, size: Size, rows: &mut Vec<Row>) {
        let larger = (size.bytes as f64 / RATE_AT).sqrt();
        let rate = match self {
            // A tenth of the flows is ten times as fast as the slowest, a hundredth a hundred times.
            Self::HeavyTailed => dice.pareto(RATE.0 / 3.0, 1.0),
            Self::Diurnal => dice.lognormal(RATE.0, RATE.1) * day(at, duration).sqrt(),
            _ => dice.lognormal(RATE.0, RATE.1),
        };
        let rate = (rate * larger).min(1.25e9);
        let on_time = size.bytes as f64 / rate;
        let row =
            |start: f64, end: f64, packets, bytes| Row { flow: 0, start, end, packets, bytes, bursts: None };
        match self {
            Self::Bursts => {
                let on = (dice.exponential() * ON_OFF_S.0).max(0.01);
                let off = (dice.exponential() * ON_OFF_S.1).max(0.01);
                let pauses = ((on_time / on).ceil() - 1.0).max(0.0);
                let end = at + on_time + pauses * off;
                rows.push(Row { bursts: Some((on, off)), ..row(at, end, size.packets, size.bytes) });
            }
            Self::RandomBursts => random_bursts(dice, at, duration, size, on_time, rows),
            Self::SlowStart => slow_start(dice, at, size, rate, rows),
            _ => rows.push(row(at, at + on_time, size.packets, size.bytes)),
        }
    }

    /// Flows that are there from the beginning to the end.
    pub(crate) fn residents(self, dice: &mut Dice, duration: f64) -> Vec<Row> {
        let mut rows = Vec::new();
        if self != Self::Adversarial {
            return rows;
        }
        for flow in 0..RESIDENTS {
            // As fast as the fastest for a moment; then nearly silent, but never gone.
            let rate = dice.lognormal(1_250_000.0, 0.5);
            let (on, off) = (0.4 + 0.4 * dice.fraction(), 10.0 + 10.0 * dice.fraction());
            let mut at = dice.fraction() * (on + off);
            while at + on + off < duration {
                let bytes = rate * on;
                let packets = (bytes / 1_000.0).ceil();
                let phase = |start, end, packets: f64, bytes: f64| Row {
                    flow,
                    start,
                    end,
                    packets: packets as u64,
                    bytes: bytes as u64,
                    bursts: None,
                };
                rows.push(phase(at, at + on, packets, bytes));
                let trickle = (off * 2.0).ceil();
                rows.push(phase(at + on, at + on + off, trickle, trickle * 100.0));
                at += on + off;
            }
        }
        rows
    }
}

/// The course of a day: least at the beginning and at the end, and most in the middle; its mean is 1.
fn day(at: f64, duration: f64) -> f64 {
    1.0 - 0.8 * (TAU * at / duration).cos()
}

/// Splits a flow into parts by on-time: each packet belongs to one of them.
struct Split {
    size: Size,
    on_time: f64,
    done: f64,
    packets: u64,
    bytes: u64,
}

impl Split {
    fn new(size: Size, on_time: f64) -> Self {
        Self { size, on_time, done: 0.0, packets: 0, bytes: 0 }
    }

    /// Packets and bytes of the next `span` of on-time; at least one packet in the first.
    fn next(&mut self, span: f64) -> (u64, u64) {
        self.done += span;
        let share = (self.done / self.on_time).min(1.0);
        let packets = ((self.size.packets as f64 * share).ceil() as u64).min(self.size.packets);
        let bytes =
            (u128::from(self.size.bytes) * u128::from(packets) / u128::from(self.size.packets)) as u64;
        let part = (packets - self.packets, bytes - self.bytes);
        (self.packets, self.bytes) = (packets, bytes);
        part
    }
}

fn random_bursts(dice: &mut Dice, at: f64, duration: f64, size: Size, on_time: f64, rows: &mut Vec<Row>) {
    let mut split = Split::new(size, on_time);
    let mut left = on_time;
    let mut start = at;
    while left > 0.0 && start < duration {
        let on = (dice.exponential() * ON_OFF_S.0).clamp(0.001, left.max(0.001));
        let (packets, bytes) = split.next(on);
        if packets > 0 {
            rows.push(Row { flow: 0, start, end: start + on, packets, bytes, bursts: None });
        }
        left -= on;
        start += on + dice.exponential() * ON_OFF_S.1;
    }
}

fn slow_start(dice: &mut Dice, at: f64, size: Size, rate: f64, rows: &mut Vec<Row>) {
    let round_trip = dice.lognormal(0.05, 0.7).clamp(0.005, 0.5);
    // RFC 6928: ten segments in the first round trip.
    let mut window = 14_600.0;
    let (mut start, mut left) = (at, size.bytes as f64);
    let mut parts = Vec::new();
    while left > 0.0 && window / round_trip < rate {
        let bytes = window.min(left);
        let span = round_trip * bytes / window;
        parts.push((start, span, bytes));
        start += span;
        left -= bytes;
        window *= 2.0;
    }
    if left > 0.0 {
        parts.push((start, left / rate, left));
    }
    // By bytes instead of on-time: a part is as long as its bytes take.
    let mut split = Split::new(size, size.bytes as f64);
    for (start, span, bytes) in parts {
        let (packets, bytes) = split.next(bytes);
        if packets > 0 {
            rows.push(Row { flow: 0, start, end: start + span, packets, bytes, bursts: None });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_is_all_there_whatever_its_rate_is() {
        let mut dice = Dice::new(5);
        for model in Model::ALL {
            for bytes in [64, 1_500, 100_000, 20_000_000] {
                let size = Size { bytes, packets: bytes.div_ceil(1_000) };
                let mut rows = Vec::new();
                model.draw(&mut dice, 1.0, 1e9, size, &mut rows);
                assert_eq!(rows.iter().map(|row| row.bytes).sum::<u64>(), bytes, "{}", model.name());
                assert_eq!(rows.iter().map(|row| row.packets).sum::<u64>(), size.packets);
                assert!(rows.windows(2).all(|pair| pair[0].end <= pair[1].start + 1e-6));
                assert!(rows.iter().all(|row| row.start >= 1.0 && row.end >= row.start));
            }
        }
    }

    #[test]
    fn slow_start_doubles_until_the_rate_is_reached() {
        let mut rows = Vec::new();
        slow_start(&mut Dice::new(1), 0.0, Size { bytes: 50_000_000, packets: 50_000 }, 1.25e7, &mut rows);
        let rates: Vec<f64> = rows.iter().map(|row| row.bytes as f64 / (row.end - row.start)).collect();
        let (last, rising) = rates.split_last().expect("some phases");
        assert!(rising.windows(2).all(|pair| (pair[1] / pair[0] - 2.0).abs() < 0.1), "{rates:?}");
        assert!((last / 1.25e7 - 1.0).abs() < 0.01);
    }
}
