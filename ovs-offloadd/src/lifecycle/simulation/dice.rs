//! Numbers out of a seed: the same sequence for the same seed (xorshift64*).

/// Throws dice.
#[derive(Debug, Clone)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `sides`.
    pub(super) fn below(&mut self, sides: u32) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as u32) % sides.max(1)
    }

    pub(super) fn one_in(&mut self, sides: u32) -> bool {
        self.below(sides) == 0
    }

    /// One of them, or nothing as often as any.
    pub(super) fn maybe<T: Clone>(&mut self, of: &[T]) -> Option<T> {
        of.get(self.below(of.len() as u32 + 1) as usize).cloned()
    }
}
