//! A repeatable stream of random numbers, and the distributions that are drawn from it.

/// SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
#[derive(Debug, Clone)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x6a09_e667_f3bc_c909)
    }

    pub(crate) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A whole number below `n`.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.roll()) * u128::from(n)) >> 64) as u64
    }

    /// Above 0, at most 1.
    pub(crate) fn fraction(&mut self) -> f64 {
        ((self.roll() >> 11) + 1) as f64 / (1_u64 << 53) as f64
    }

    /// With a mean of 1.
    pub(crate) fn exponential(&mut self) -> f64 {
        -self.fraction().ln()
    }

    /// With a mean of 0 and a deviation of 1; Box and Muller.
    pub(crate) fn normal(&mut self) -> f64 {
        (-2.0 * self.fraction().ln()).sqrt() * (core::f64::consts::TAU * self.fraction()).cos()
    }

    pub(crate) fn lognormal(&mut self, median: f64, sigma: f64) -> f64 {
        median * (sigma * self.normal()).exp()
    }

    /// At least `least`, and with an index of `alpha`.
    pub(crate) fn pareto(&mut self, least: f64, alpha: f64) -> f64 {
        least * self.fraction().powf(-1.0 / alpha)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distributions_have_their_means() {
        let mut dice = Dice::new(7);
        let mut mean =
            |draw: fn(&mut Dice) -> f64| (0..200_000).map(|_| draw(&mut dice)).sum::<f64>() / 200_000.0;
        assert!((mean(Dice::fraction) - 0.5).abs() < 0.005);
        assert!((mean(Dice::exponential) - 1.0).abs() < 0.01);
        assert!(mean(Dice::normal).abs() < 0.01);
        assert!((mean(|dice| dice.normal().powi(2)) - 1.0).abs() < 0.02);
        assert!((mean(|dice| dice.pareto(1.0, 3.0)) - 1.5).abs() < 0.02);
        assert!((mean(|dice| dice.below(10) as f64) - 4.5).abs() < 0.05);
    }
}
