//! A repeatable stream of numbers, for the tests that draw traffic; xorshift64.

pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Between 0, exclusive, and 1.
    pub(crate) fn fraction(&mut self) -> f64 {
        ((self.roll() >> 11) + 1) as f64 / ((1_u64 << 53) + 1) as f64
    }
}
