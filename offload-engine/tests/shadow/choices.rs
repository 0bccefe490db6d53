//! A sequence of choices that a seed draws, and that can be replayed and cut smaller.

/// Where a case's numbers come from: a list to replay, then a generator, then zeros.
pub(crate) struct Choices {
    replayed: Vec<u64>,
    at: usize,
    drawn: Option<u64>,
    /// What was chosen.
    pub(crate) made: Vec<u64>,
}

impl Choices {
    pub(crate) fn drawn(seed: u64) -> Self {
        Self { replayed: Vec::new(), at: 0, drawn: Some(seed), made: Vec::new() }
    }

    pub(crate) fn replayed(choices: &[u64]) -> Self {
        Self { replayed: choices.to_vec(), at: 0, drawn: None, made: Vec::new() }
    }

    /// A number below `bound`; 0 is the simplest.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        let number = match (self.replayed.get(self.at), &mut self.drawn) {
            (Some(number), _) => *number,
            (None, Some(state)) => split_mix(state),
            (None, None) => 0,
        };
        self.at += 1;
        let number = number % bound;
        self.made.push(number);
        number
    }

    /// True once in `times`; false is simpler.
    pub(crate) fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == times - 1
    }

    pub(crate) fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize]
    }

    pub(crate) fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let word = self.below(u64::MAX).to_be_bytes();
        std::array::from_fn(|at| word[at % 8])
    }
}

/// SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014).
fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A smaller list of choices of which `fails` still holds: parts are left out, then numbers made smaller, until nothing helps.
pub(crate) fn shrink(mut choices: Vec<u64>, fails: impl Fn(&[u64]) -> bool) -> Vec<u64> {
    loop {
        let mut smaller = None;
        let mut length = choices.len();
        'cut: while length > 0 {
            for at in 0..choices.len().saturating_sub(length - 1) {
                let mut without = choices.clone();
                without.drain(at..at + length);
                if fails(&without) {
                    smaller = Some(without);
                    break 'cut;
                }
            }
            length /= 2;
        }
        if smaller.is_none() {
            'less: for at in 0..choices.len() {
                for number in [0, choices[at] / 2, choices[at].saturating_sub(1)] {
                    if number < choices[at] {
                        let mut less = choices.clone();
                        less[at] = number;
                        if fails(&less) {
                            smaller = Some(less);
                            break 'less;
                        }
                    }
                }
            }
        }
        match smaller {
            Some(smaller) => choices = smaller,
            None => return choices,
        }
    }
}
