//! Random numbers for tests: seeded, printed, repeatable. Never for tokens.

use std::time::{SystemTime, UNIX_EPOCH};

/// SplitMix64.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// The generator of `SESSILE_SEED`, or of the time. Says on stdout which seed `test` runs with.
    #[must_use]
    #[allow(clippy::print_stdout, reason = "the seed repeats a failure")]
    pub fn announced(test: &str) -> Self {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
        let seed = crate::env_number("SESSILE_SEED", u64::try_from(time & 0xffff_ffff).unwrap());
        println!("{test}: SESSILE_SEED={seed}");
        Self(seed)
    }

    /// An independent generator: `self` forked for thread or round `n`.
    #[must_use]
    pub fn fork(&self, n: u64) -> Self {
        let mut rng = Self(self.0 ^ n.wrapping_mul(0xd6e8_feb8_6659_fd93));
        rng.next_u64();
        rng
    }

    /// Any number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from `low` to `high`, both included.
    ///
    /// # Panics
    /// If `low > high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        assert!(low <= high, "an empty range: {low} to {high}");
        low + self.next_u64() % (high - low + 1)
    }

    /// An index below `len`.
    pub fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.between(0, u64::try_from(len).unwrap() - 1)).unwrap()
    }
}
