//! Byte-pair encoding: a piece of text begins as single bytes, and the pair of neighbours that was learned
//! first is merged until none is left.
//!
//! Source: Sennrich et al. 2016, arXiv:1508.07909; on bytes: Radford et al. 2019 (GPT-2).

use std::collections::HashMap;

use super::merges::{MergeTable, Pair};

/// A learned merge: the pair and the token that it becomes.
pub(super) type Merge = (Pair, u32);

/// Stands for a byte that has no token.
const NONE: u32 = u32::MAX;

/// Vocabulary and merges, ready to encode.
#[derive(Debug)]
pub(super) struct BytePairs {
    /// Bytes of every token by id; empty for special tokens.
    tokens: Vec<Box<[u8]>>,
    /// Merges in the order in which they were learned.
    merges: Vec<Merge>,
    table: MergeTable,
    /// Pieces that are one token, to be looked up at once.
    whole: HashMap<Box<[u8]>, u32>,
    /// The token of each single byte.
    bytes: [u32; 256],
    missing_byte: Option<u8>,
}

/// Which pieces become one token without being merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whole {
    /// Those that merging leads to: looking them up only saves time.
    Reached,
    /// All that are tokens, as Llama 3 has it.
    All,
}

impl BytePairs {
    /// Checks vocabulary and merges against each other.
    ///
    /// Only tokens that are `ordinary` come out of encoding; the others need bytes only to be decoded.
    pub(super) fn new(
        tokens: Vec<Box<[u8]>>,
        ordinary: impl Fn(u32) -> bool,
        merges: Vec<Merge>,
        whole: Whole,
    ) -> Result<Self, String> {
        let ordinary = |&(id, token): &(u32, &[u8])| !token.is_empty() && ordinary(id);
        let mut bytes = [NONE; 256];
        for (id, token) in (0..).zip(tokens.iter().map(|token| &**token)).filter(ordinary) {
            if let [byte] = *token {
                bytes[usize::from(byte)] = id;
            }
        }
        let mut table = MergeTable::default();
        for (rank, &(pair, made)) in (0..).zip(&merges) {
            let bytes_of = |id: u32| {
                tokens.get(id as usize).map(|token| (id, &**token)).filter(ordinary).map(|(_, token)| token)
            };
            let parts = bytes_of(pair.0).zip(bytes_of(pair.1));
            let fits = parts.zip(bytes_of(made)).is_some_and(|((left, right), made)| {
                made.len() == left.len() + right.len() && made.starts_with(left) && made.ends_with(right)
            });
            if !fits {
                return Err(format!("merge {rank} does not make the token `{made}`"));
            }
            if !table.insert(pair, rank, made) {
                return Err(format!("merge {rank} stands twice"));
            }
        }
        let missing_byte = (0..=255).find(|&byte| bytes[usize::from(byte)] == NONE);
        let mut this = Self { tokens, merges, table, whole: HashMap::new(), bytes, missing_byte };
        /// Longer tokens are no words; looking them up would save nothing.
        const LONGEST_WORD: usize = 256;
        let mut table = HashMap::with_capacity(this.tokens.len());
        let mut symbols = Vec::new();
        for (id, token) in (0..).zip(this.tokens.iter().map(|token| &**token)).filter(ordinary) {
            symbols.clear();
            if whole == Whole::Reached && token.len() <= LONGEST_WORD {
                this.merge_piece(token, &mut symbols);
            }
            if whole == Whole::All || symbols == [id] {
                table.insert(Box::from(token), id);
            }
        }
        this.whole = table;
        Ok(this)
    }

    /// The first byte that has no token. Encoding leaves such bytes out.
    pub(super) fn missing_byte(&self) -> Option<u8> {
        self.missing_byte
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
        let start = out.len();
        out.extend(piece.iter().map(|&byte| self.bytes[usize::from(byte)]));
        self.table.merge(out, start);
        if self.missing_byte.is_some() {
            let merged = out.split_off(start);
            out.extend(merged.into_iter().filter(|&id| id != NONE));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn aba() -> BytePairs {
        let mut tokens: Vec<Box<[u8]>> = (0..=255).map(|byte| Box::from([byte])).collect();
        let mut merges = Vec::new();
        for (left, right) in [(97, 98), (97, 97), (98, 256), (257, 257), (258, 256), (259, 259), (97, 256)] {
            let bytes = [&*tokens[left as usize], &*tokens[right as usize]].concat();
            merges.push(((left, right), tokens.len() as u32));
            tokens.push(bytes.into());
        }
        BytePairs::new(tokens, |_| true, merges, Whole::Reached).unwrap()
    }

    #[test]
    fn words_are_merged() {
        let pairs = aba();
        let encoded = |piece: &[u8]| {
            let mut out = vec![7];
            pairs.encode_piece(piece, &mut out);
            out
        };
        assert_eq!(encoded(b""), [7]);
        assert_eq!(encoded(b"abc"), [7, 256, 99]);
        assert_eq!(encoded(b"aab"), [7, 262]);
        assert_eq!(encoded(&[b'a'; 800]).len(), 1 + 800 / 8);
    }

    #[test]
    fn vocabulary_and_merges_must_fit_together() {
        let new = |tokens, merges| BytePairs::new(tokens, |id| id != 257, merges, Whole::Reached);
        let bytes: Vec<Box<[u8]>> = (0..=255).map(|byte| Box::from([byte])).collect();
        let with = |token: &[u8]| [bytes.clone(), vec![token.into(), b"ab".as_slice().into()]].concat();
        assert_eq!(new(bytes[1..].to_vec(), vec![]).unwrap().missing_byte(), Some(0));
        assert_eq!(new(with(b"ab"), vec![((97, 98), 256)]).unwrap().missing_byte(), None);
        for merges in [
            vec![((97, 99), 256)],
            vec![((97, 98), 257)],
            vec![((97, 300), 256)],
            vec![((97, 98), 256), ((97, 98), 256)],
        ] {
            assert!(new(with(b"ab"), merges).is_err());
        }
    }

    #[test]
    fn pieces_that_no_merge_leads_to_can_be_whole() {
        let mut tokens: Vec<Box<[u8]>> = (0..=255).map(|byte| Box::from([byte])).collect();
        tokens.push(b"xyz".as_slice().into());
        for (whole, expected) in [(Whole::Reached, vec![120, 121, 122]), (Whole::All, vec![256])] {
            let pairs = BytePairs::new(tokens.clone(), |_| true, vec![], whole).unwrap();
            let mut out = Vec::new();
            pairs.encode_piece(b"xyz", &mut out);
            assert_eq!(out, expected);
        }
    }

    #[test]
    fn bytes_without_a_token_are_left_out() {
        let tokens = [b"a", b"b"].map(|token| Box::from(token.as_slice())).to_vec();
        let pairs = BytePairs::new(tokens, |_| true, vec![], Whole::Reached).unwrap();
        let mut out = vec![9];
        pairs.encode_piece(b"xaxb", &mut out);
        assert_eq!(out, [9, 0, 1]);
    }
}
