//! Merging neighbours: the step that all byte-pair encodings share.
//!
//! Symbols are numbers. Of all pairs of neighbours that can be merged, the one of the lowest rank is, and of
//! equal ranks the leftmost, until none is left.
//!
//! Source: Sennrich et al. 2016, arXiv:1508.07909.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};

/// Two neighbouring symbols.
pub(super) type Pair = (u32, u32);

/// A map from pairs. Its keys are bounded by the vocabulary, so a plain mixing hash is enough.
pub(super) type PairMap<V> = HashMap<Pair, V, BuildHasherDefault<PairHasher>>;

/// Rank of each pair that can be merged, and the symbol made.
#[derive(Debug, Default)]
pub(super) struct MergeTable(PairMap<(u32, u32)>);

impl MergeTable {
    /// Adds a pair; false if it is there already.
    pub(super) fn insert(&mut self, pair: Pair, rank: u32, made: u32) -> bool {
        self.0.insert(pair, (rank, made)).is_none()
    }

    /// Merges what stands in `symbols` from `start` on.
    pub(super) fn merge(&self, symbols: &mut Vec<u32>, start: usize) {
        /// Up to this many symbols are merged by looking at all pairs each time, which needs no memory and
        /// is faster for words.
        const SHORT: usize = 64;
        if symbols.len() - start <= SHORT {
            self.merge_short(symbols, start);
        } else {
            self.merge_long(symbols, start);
        }
    }

    /// The definition. Quadratic in the length.
    fn merge_short(&self, symbols: &mut Vec<u32>, start: usize) {
        loop {
            let ranked = |(idx, pair): (usize, &[u32])| {
                self.0.get(&(pair[0], pair[1])).map(|&(rank, made)| (rank, idx, made))
            };
            let best = symbols[start..].windows(2).enumerate().filter_map(ranked).min();
            let Some((_, idx, made)) = best else { return };
            symbols[start + idx] = made;
            symbols.remove(start + idx + 1);
        }
    }

    /// The same by a queue over a linked list, so that many megabytes without a break take no more than
    /// `n log n` steps, and some twenty bytes for each symbol.
    fn merge_long(&self, symbols: &mut Vec<u32>, start: usize) {
        const GONE: u32 = u32::MAX;
        let list = &mut symbols[start..];
        let n = u32::try_from(list.len()).expect("a text has fewer than 2^32 characters without a break");
        // Neighbours; beyond the ends lie `n` and what wraps around to it.
        let mut before: Vec<u32> = (0..n).map(|idx| idx.wrapping_sub(1)).collect();
        let mut after: Vec<u32> = (1..=n).collect();
        let merge_at = |list: &[u32], after: &[u32], left: u32| {
            let right = *after.get(left as usize)?;
            let pair = (*list.get(left as usize)?, *list.get(right as usize)?);
            self.0.get(&pair).map(|&(rank, made)| (rank, right, made))
        };
        let queued = |rank: u32, left: u32| Reverse(u64::from(rank) << 32 | u64::from(left));
        let mut queue: BinaryHeap<Reverse<u64>> = (0..n)
            .filter_map(|left| merge_at(list, &after, left).map(|(rank, ..)| queued(rank, left)))
            .collect();
        while let Some(Reverse(entry)) = queue.pop() {
            let (rank, left) = ((entry >> 32) as u32, entry as u32);
            // Outdated unless there is a merge of that rank at that place now.
            let Some((_, right, made)) = merge_at(list, &after, left).filter(|found| found.0 == rank) else {
                continue;
            };
            list[left as usize] = made;
            list[right as usize] = GONE;
            let next = after[right as usize];
            after[left as usize] = next;
            if let Some(before) = before.get_mut(next as usize) {
                *before = left;
            }
            for left in [before[left as usize], left] {
                queue.extend(merge_at(list, &after, left).map(|(rank, ..)| queued(rank, left)));
            }
        }
        let mut kept = start;
        for idx in start..symbols.len() {
            if symbols[idx] != GONE {
                symbols[kept] = symbols[idx];
                kept += 1;
            }
        }
        symbols.truncate(kept);
    }
}

/// Mixes the two halves of a pair.
#[derive(Debug, Default)]
pub(super) struct PairHasher(u64);

impl Hasher for PairHasher {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u32(byte.into()));
    }

    fn write_u32(&mut self, half: u32) {
        let mixed = (self.0 ^ u64::from(half)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0 = mixed ^ (mixed >> 29);
    }

    fn finish(&self) -> u64 {
        self.0.wrapping_mul(0xBF58_476D_1CE4_E5B9)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Merges of a, b and c; several pairs make the same symbol with the same rank.
    fn table() -> MergeTable {
        let mut table = MergeTable::default();
        let merges =
            [((0, 1), 0, 3), ((0, 0), 1, 4), ((1, 3), 2, 5), ((4, 4), 3, 6), ((5, 3), 4, 7), ((6, 6), 5, 8)];
        for (pair, rank, made) in
            merges.into_iter().chain([((0, 3), 6, 9), ((4, 1), 6, 9), ((4, 0), 7, 10), ((0, 4), 7, 10)])
        {
            assert!(table.insert(pair, rank, made));
        }
        table
    }

    proptest! {
        #[test]
        fn both_ways_of_merging_agree(mut short in proptest::collection::vec(0_u32..3, 0..150), start in 0_usize..3) {
            let start = start.min(short.len());
            let mut long = short.clone();
            table().merge_short(&mut short, start);
            table().merge_long(&mut long, start);
            prop_assert_eq!(short, long);
        }
    }

    #[test]
    fn many_symbols_do_not_take_forever() {
        let mut symbols = vec![0; 4_000_000];
        table().merge(&mut symbols, 0);
        assert_eq!(symbols, vec![8; 500_000]);
    }
}
