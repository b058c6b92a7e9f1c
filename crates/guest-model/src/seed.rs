//! Randomness that can be repeated.

/// The variable of the environment that holds the seed to replay.
pub const SEED_VARIABLE: &str = "GUEST_MODEL_SEED";

/// Numbers that look random and depend on a seed alone (SplitMix64).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seed {
    state: u64,
}

impl Seed {
    /// The same numbers for the same seed.
    pub const fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The seed to use for a run: the one in [`SEED_VARIABLE`], else one of the clock. Print it.
    ///
    /// # Panics
    /// Never; a value that is no number is passed over.
    pub fn for_this_run() -> u64 {
        let given = std::env::var(SEED_VARIABLE).ok();
        given.and_then(|text| text.parse().ok()).unwrap_or_else(|| {
            let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            let nanoseconds = since.map(|age| age.as_nanos() as u64).unwrap_or_default();
            // The low digits of a clock make poor seeds, and short ones are easier to type.
            Self::new(nanoseconds).bits() >> 40
        })
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// A number below `limit`; 0 for a limit of 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        // The bias is far below what any test could notice.
        self.bits().checked_rem(limit).unwrap_or(0)
    }

    /// One of `choices`, which is not empty.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_replays() {
        let numbers = |seed| {
            let mut seed = Seed::new(seed);
            (0..8).map(|_| seed.below(100)).collect::<Vec<_>>()
        };
        assert_eq!(numbers(7), numbers(7));
        assert_ne!(numbers(7), numbers(8));
        assert_eq!(Seed::new(1).below(0), 0);
    }
}
