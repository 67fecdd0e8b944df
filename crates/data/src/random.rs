//! Reproducible chance: SplitMix64, and the keyed hash by which documents are chosen.

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// SplitMix64: one addition and a mixing per number, the same on every machine.
///
/// # Source
/// Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators".
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    /// A generator that depends on `seed` and `stream` alone.
    pub(crate) fn new(seed: u64, stream: u64) -> Self {
        Self(rank(seed, &stream.to_le_bytes()))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`, which is not 0. The bias, below n / 2⁶⁴, is of no account here.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next()) * n as u128) >> 64) as usize
    }

    /// True once in `n` times.
    pub(crate) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// One of `choices`, which is not empty.
    pub(crate) fn choose<'a, T: ?Sized>(&mut self, choices: &[&'a T]) -> &'a T {
        choices[self.below(choices.len())]
    }

    /// Fisher and Yates.
    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

/// The place of `key` in the order that `seed` puts on all keys; uniform over 64 bits.
pub(crate) fn rank(seed: u64, key: &[u8]) -> u64 {
    xxh3_64_with_seed(key, seed)
}
