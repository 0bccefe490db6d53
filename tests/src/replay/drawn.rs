//! A trace that an emulated guest can send: the same every time.

use std::fmt::Write as _;

/// Flows of the trace.
pub(super) const FLOWS: u32 = 200;
/// For how long they send.
pub(super) const SECONDS: f64 = 60.0;
/// Those of them that burst and pause.
const BURSTING: u32 = 80;

/// A repeatable stream of numbers; xorshift64.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Between 0, exclusive, and 1.
    fn fraction(&mut self) -> f64 {
        ((self.roll() >> 11) + 1) as f64 / ((1_u64 << 53) + 1) as f64
    }

    /// With a mean of 1.
    fn exponential(&mut self) -> f64 {
        -self.fraction().ln()
    }

    /// No less than `least` and no more than `most`; a tenth of them is about seven times the least and more.
    fn heavy_tailed(&mut self, least: f64, most: f64) -> f64 {
        (least * self.fraction().powf(-1.0 / 1.2)).min(most)
    }
}

/// A CSV for `ovs-offloadctl replay`: flows that come and go, with heavy-tailed rates, two fifths of them in bursts of
/// 0.8 s with pauses of 2 s on average. Frames are larger where a flow is faster. About 600 packets in a second.
pub(super) fn csv(seed: u64) -> String {
    let mut dice = Dice(seed);
    let mut text = "flow,start_s,end_s,packets,bytes,on_s,off_s\n".to_owned();
    for flow in 0..FLOWS {
        let start = dice.fraction() * (SECONDS - 10.0);
        let stay = (3.0 + 12.0 * dice.exponential()).min(SECONDS - start);
        let rate = dice.heavy_tailed(2.5, 80.0);
        let (packets, pauses) = if flow < BURSTING {
            let (on, off) = (0.2 + 0.6 * dice.exponential(), 0.2 + 1.8 * dice.exponential());
            (2.0 * rate * stay * on / (on + off), format!("{on:.3},{off:.3}"))
        } else {
            (rate * stay, ",".to_owned())
        };
        let packets = (packets as u64).max(1);
        let frame = if rate > 10.0 { 1_400 } else { 200 + (dice.fraction() * 800.0) as u64 };
        let end = start + stay;
        let _ = writeln!(text, "{flow},{start:.3},{end:.3},{packets},{},{pauses}", packets * frame);
    }
    text
}
