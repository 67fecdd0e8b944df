//! Byte-pair encoding: a piece of text begins as single bytes, and the pair of neighbours that was learned
//! first is merged until none is left.
//!
//! Source: Sennrich et al. 2016, arXiv:1508.07909; on bytes: Radford et al. 2019 (GPT-2).

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};

/// Two neighbouring tokens.
pub(super) type Pair = (u32, u32);

/// A learned merge: the pair and the token that it becomes.
pub(super) type Merge = (Pair, u32);

/// A map from pairs. Its keys are bounded by the vocabulary, so a plain mixing hash is enough.
pub(super) type PairMap<V> = HashMap<Pair, V, BuildHasherDefault<PairHasher>>;

/// Vocabulary and merges, ready to encode.
#[derive(Debug)]
pub(super) struct BytePairs {
    /// Bytes of every token by id; empty for special tokens.
    tokens: Vec<Box<[u8]>>,
    /// Merges in the order in which they were learned.
    merges: Vec<Merge>,
    /// Position among the merges, and the token made.
    ranks: PairMap<(u32, u32)>,
    /// Pieces that are one token, to be looked up at once.
    whole: HashMap<Box<[u8]>, u32>,
    /// The token of each single byte.
    bytes: [u32; 256],
}

impl BytePairs {
    /// Checks vocabulary and merges against each other. Empty tokens are special.
    pub(super) fn new(tokens: Vec<Box<[u8]>>, merges: Vec<Merge>) -> Result<Self, String> {
        let mut bytes = [u32::MAX; 256];
        for (id, token) in (0..).zip(&tokens) {
            if let [byte] = **token {
                bytes[usize::from(byte)] = id;
            }
        }
        if let Some(byte) = bytes.iter().position(|&id| id == u32::MAX) {
            return Err(format!("byte `{byte:#04x}` has no token"));
        }
        let mut ranks = PairMap::default();
        for (rank, &(pair, made)) in (0..).zip(&merges) {
            let bytes_of = |id: u32| tokens.get(id as usize).filter(|token| !token.is_empty());
            let parts = bytes_of(pair.0).zip(bytes_of(pair.1));
            let fits = parts.zip(bytes_of(made)).is_some_and(|((left, right), made)| {
                made.len() == left.len() + right.len() && made.starts_with(left) && made.ends_with(right)
            });
            if !fits {
                return Err(format!("merge {rank} does not make the token `{made}`"));
            }
            if ranks.insert(pair, (rank, made)).is_some() {
                return Err(format!("merge {rank} stands twice"));
            }
        }
        let mut this = Self { tokens, merges, ranks, whole: HashMap::new(), bytes };
        let mut whole = HashMap::with_capacity(this.tokens.len());
        let mut symbols = Vec::new();
        for (id, token) in (0..).zip(&this.tokens) {
            symbols.clear();
            this.merge_piece(token, &mut symbols);
            // A token that its own bytes do not lead to is never looked up.
            if symbols == [id] {
                whole.insert(token.clone(), id);
            }
        }
        this.whole = whole;
        Ok(this)
    }

    pub(super) fn tokens(&self) -> &[Box<[u8]>] {
        &self.tokens
    }

    pub(super) fn merges(&self) -> &[Merge] {
        &self.merges
    }

    /// Appends the tokens of one piece.
    pub(super) fn encode_piece(&self, piece: &[u8], out: &mut Vec<u32>) {
        match self.whole.get(piece) {
            Some(&id) => out.push(id),
            None => self.merge_piece(piece, out),
        }
    }

    fn merge_piece(&self, piece: &[u8], out: &mut Vec<u32>) {
        /// Pieces up to this many bytes are merged by looking at all pairs each time, which needs no
        /// memory and is faster for words.
        const SHORT: usize = 64;
        if piece.len() <= SHORT { self.merge_short(piece, out) } else { self.merge_long(piece, out) }
    }

    /// The definition: merge the first of the best pairs until there is none. Quadratic in the length.
    fn merge_short(&self, piece: &[u8], out: &mut Vec<u32>) {
        let start = out.len();
        out.extend(piece.iter().map(|&byte| self.bytes[usize::from(byte)]));
        loop {
            let symbols = &out[start..];
            let ranked = |(idx, pair): (usize, &[u32])| {
                self.ranks.get(&(pair[0], pair[1])).map(|&(rank, made)| (rank, idx, made))
            };
            let Some((_, idx, made)) = symbols.windows(2).enumerate().filter_map(ranked).min() else {
                return;
            };
            out[start + idx] = made;
            out.remove(start + idx + 1);
        }
    }

    /// The same by a queue over a linked list, so that a piece of many megabytes takes no more than
    /// `n log n` steps.
    fn merge_long(&self, piece: &[u8], out: &mut Vec<u32>) {
        const GONE: u32 = u32::MAX;
        let n = piece.len();
        let mut symbols: Vec<u32> = piece.iter().map(|&byte| self.bytes[usize::from(byte)]).collect();
        let mut before: Vec<usize> = (0..n).map(|idx| idx.wrapping_sub(1)).collect();
        let mut after: Vec<usize> = (1..=n).collect();
        let candidate = |symbols: &[u32], left: usize, right: usize| {
            let pair = (*symbols.get(left)?, *symbols.get(right)?);
            self.ranks.get(&pair).map(|&(rank, made)| Reverse((rank, left, right, pair, made)))
        };
        let mut queue: BinaryHeap<_> =
            (1..n).filter_map(|right| candidate(&symbols, right - 1, right)).collect();
        while let Some(Reverse((_, left, right, pair, made))) = queue.pop() {
            // Outdated unless both symbols are still what they were; a symbol never gets its old value back
            // at the same place, because it only grows.
            if after[left] != right || (symbols[left], symbols[right]) != pair {
                continue;
            }
            symbols[left] = made;
            symbols[right] = GONE;
            after[left] = after[right];
            if let Some(next) = before.get_mut(after[right]) {
                *next = left;
            }
            queue.extend(candidate(&symbols, before[left], left));
            queue.extend(candidate(&symbols, left, after[left]));
        }
        out.extend(symbols.into_iter().filter(|&symbol| symbol != GONE));
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

    fn aba() -> BytePairs {
        let mut tokens: Vec<Box<[u8]>> = (0..=255).map(|byte| Box::from([byte])).collect();
        let mut merges = Vec::new();
        for (left, right) in [(97, 98), (97, 97), (98, 256), (257, 257), (258, 256), (259, 259), (97, 256)] {
            let bytes = [&*tokens[left as usize], &*tokens[right as usize]].concat();
            merges.push(((left, right), tokens.len() as u32));
            tokens.push(bytes.into());
        }
        BytePairs::new(tokens, merges).unwrap()
    }

    proptest! {
        #[test]
        fn both_ways_of_merging_agree(piece in "[abc]{0,150}") {
            let pairs = aba();
            let (mut short, mut long) = (vec![7], vec![7]);
            pairs.merge_short(piece.as_bytes(), &mut short);
            pairs.merge_long(piece.as_bytes(), &mut long);
            prop_assert_eq!(short, long);
        }
    }

    #[test]
    fn a_long_piece_does_not_take_forever() {
        let mut out = Vec::new();
        aba().encode_piece(&vec![b'a'; 4_000_000], &mut out);
        assert_eq!(out.len(), 500_000);
    }

    #[test]
    fn vocabulary_and_merges_must_fit_together() {
        let bytes: Vec<Box<[u8]>> = (0..=255).map(|byte| Box::from([byte])).collect();
        let with = |token: &[u8]| [bytes.clone(), vec![token.into()]].concat();
        assert!(BytePairs::new(bytes[1..].to_vec(), vec![]).unwrap_err().contains("0x00"));
        assert!(BytePairs::new(with(b"ab"), vec![((97, 98), 256)]).is_ok());
        for merges in [
            vec![((97, 99), 256)],
            vec![((97, 98), 257)],
            vec![((97, 300), 256)],
            vec![((97, 98), 256), ((97, 98), 256)],
        ] {
            assert!(BytePairs::new(with(b"ab"), merges).is_err());
        }
    }
}
