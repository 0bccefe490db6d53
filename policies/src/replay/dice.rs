//! A repeatable stream of numbers, for tests that draw traffic; xorshift64.

pub(super) struct Dice(pub(super) u64);

impl Dice {
    /// A number below `n`.
    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}
