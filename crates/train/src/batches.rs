//! Which rows come when: a new random order for every pass over the corpus.

use elmwood_data::PackedTokens;
use elmwood_engine::Batch;
use elmwood_model::random::philox4x32;

/// The order of the rows, a function of the seed and the place alone: there is no state to save but the
/// number of rows seen.
#[derive(Debug)]
pub struct RowOrder {
    seed: u64,
    rows: usize,
    epoch: u64,
    permutation: Vec<usize>,
}

impl RowOrder {
    /// The order of `rows` rows, at least one.
    #[must_use]
    pub fn new(rows: usize, seed: u64) -> Self {
        Self { seed, rows, epoch: 0, permutation: permutation(rows, seed, 0) }
    }

    /// The row at `place`, counted over all passes.
    pub fn row(&mut self, place: u64) -> usize {
        let epoch = place / self.rows as u64;
        if epoch != self.epoch {
            self.epoch = epoch;
            self.permutation = permutation(self.rows, self.seed, epoch);
        }
        self.permutation[(place % self.rows as u64) as usize]
    }
}

/// Fisher-Yates, with random numbers that depend on seed, pass and place.
fn permutation(rows: usize, seed: u64, epoch: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..rows).collect();
    for i in (1..rows).rev() {
        let counter = [i as u32, (i as u64 >> 32) as u32, epoch as u32, (epoch >> 32) as u32];
        let [low, high, ..] = philox4x32(counter, [seed as u32, (seed >> 32) as u32]);
        let random = u64::from(low) | u64::from(high) << 32;
        // The product's upper half is uniform but for a part in 2^64 / rows.
        order.swap(i, ((u128::from(random) * (i as u128 + 1)) >> 64) as usize);
    }
    order
}

/// Fills `batch` with rows of the corpus.
pub(crate) fn fill(batch: &mut Batch, data: &PackedTokens, rows: &[usize]) {
    batch.clear();
    for &row in rows {
        let row = data.row(row);
        batch.push_row(row.tokens.into_iter(), row.segments.into_iter());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pass_has_every_row_once_in_another_order() {
        let mut order = RowOrder::new(100, 7);
        let first: Vec<usize> = (0..100).map(|place| order.row(place)).collect();
        let second: Vec<usize> = (100..200).map(|place| order.row(place)).collect();
        assert_ne!(first, second);
        for mut pass in [first.clone(), second] {
            pass.sort_unstable();
            assert!(pass.into_iter().eq(0..100));
        }
        // Entered in the middle, as after a resume, it is the same order.
        let mut resumed = RowOrder::new(100, 7);
        assert_eq!(resumed.row(150), order.row(150));
        assert_eq!(resumed.row(3), first[3]);
        assert_ne!((0..100).map(|place| RowOrder::new(100, 8).row(place)).collect::<Vec<_>>(), first);
    }
}
