//! SentencePiece's byte-pair encoding, as Llama 2 and Phi-3 have it: characters are merged to the token of
//! the highest score, spaces are part of words (`▁`), and what has no token is written in bytes (`<0x0A>`).
//!
//! The text is one piece: tokens may cross anything. Where no token of the vocabulary goes on after a word
//! with a space, which is usual, words do not know each other and are encoded one by one.
//!
//! Source: Kudo and Richardson 2018, arXiv:1808.06226, and `bpe_model.cc` of SentencePiece.

use std::collections::HashMap;

use super::merges::MergeTable;

/// Stands for a space.
const SPACE: char = '▁';

/// Keeps the neighbours of a character apart that becomes nothing.
const NOTHING: u32 = u32::MAX;

/// What a token is to the encoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Made of characters.
    Ordinary,
    /// Stands for a byte that no other token covers.
    Byte(u8),
    /// Never comes out of text.
    Other,
}

/// A vocabulary, ready to encode.
#[derive(Debug)]
pub(super) struct SentencePiece {
    /// Number of tokens. Larger symbols are characters that occur in tokens but are none.
    n_tokens: u32,
    table: MergeTable,
    /// The symbol of each character that occurs in tokens.
    symbols: HashMap<char, u32>,
    /// The characters of the symbols that are no tokens.
    characters: Vec<char>,
    /// Words that are one token, to be looked up at once.
    whole: HashMap<Box<str>, u32>,
    /// What a byte that nothing else covers becomes: its token, or the unknown one, or nothing.
    bytes: [Option<u32>; 256],
    has_bytes: bool,
    unknown: Option<u32>,
    /// Whether words can be encoded one by one.
    by_words: bool,
    /// Whether a text begins as if there were a space before it.
    pub(super) add_space_prefix: bool,
}

impl SentencePiece {
    /// Tokens by id, each with its text, its score and its role.
    pub(super) fn new(
        tokens: &[(&str, f32, Role)],
        unknown: Option<u32>,
        add_space_prefix: bool,
    ) -> Result<Self, String> {
        let (mut ids, mut bytes, mut has_bytes) = (HashMap::new(), [None; 256], false);
        let (mut symbols, mut characters) = (HashMap::new(), Vec::new());
        for (id, &(text, _, role)) in (0..).zip(tokens) {
            match role {
                Role::Byte(byte) => {
                    bytes[usize::from(byte)] = Some(id);
                    has_bytes = true;
                }
                Role::Ordinary => _ = ids.insert(text, id),
                Role::Other => {}
            }
        }
        let ordinary = || (0..).zip(tokens).filter(|(_, token)| token.2 == Role::Ordinary);
        let n_tokens = tokens.len() as u32;
        for (_, (text, ..)) in ordinary() {
            for c in text.chars() {
                symbols.entry(c).or_insert_with(|| {
                    ids.get(&*c.encode_utf8(&mut [0; 4])).copied().unwrap_or_else(|| {
                        characters.push(c);
                        n_tokens + characters.len() as u32 - 1
                    })
                });
            }
        }
        let table = merge_table(tokens, &ids, &symbols)?;
        let crosses = |text: &str| text.trim_start_matches(SPACE).contains(SPACE);
        let by_words = !ordinary().any(|(_, (text, ..))| crosses(text));
        let mut this = Self {
            n_tokens,
            table,
            symbols,
            characters,
            whole: HashMap::new(),
            bytes,
            has_bytes,
            unknown,
            by_words,
            add_space_prefix,
        };
        let mut whole = HashMap::with_capacity(ids.len());
        let mut out = Vec::new();
        for (text, id) in ids.into_iter().filter(|(text, _)| text.len() <= LONGEST_WORD) {
            out.clear();
            this.merge(text, &mut out);
            if out == [id] {
                whole.insert(text.into(), id);
            }
        }
        this.whole = whole;
        Ok(this)
    }

    /// Appends the tokens of a text, which begins a text or follows a special token.
    pub(super) fn encode(&self, text: &str, out: &mut Vec<u32>) {
        let mut escaped = String::with_capacity(text.len() + text.len() / 2 + 3);
        if self.add_space_prefix {
            escaped.push(SPACE);
        }
        escaped.extend(text.chars().map(|c| if c == ' ' { SPACE } else { c }));
        if !self.by_words {
            return self.merge(&escaped, out);
        }
        let mut rest = &*escaped;
        while !rest.is_empty() {
            let (word, after) = rest.split_at(word_len(rest));
            match self.whole.get(word) {
                Some(&id) => out.push(id),
                None => self.merge(word, out),
            }
            rest = after;
        }
    }

    fn merge(&self, text: &str, out: &mut Vec<u32>) {
        let start = out.len();
        for c in text.chars() {
            let before = out.len();
            match self.symbols.get(&c) {
                Some(&symbol) => out.push(symbol),
                None => self.fall_back(c, out),
            }
            if out.len() == before {
                out.push(NOTHING);
            }
        }
        self.table.merge(out, start);
        if out[start..].iter().any(|&symbol| symbol >= self.n_tokens) {
            for symbol in out.split_off(start) {
                match symbol.checked_sub(self.n_tokens) {
                    Some(idx) => {
                        self.characters.get(idx as usize).into_iter().for_each(|&c| self.fall_back(c, out));
                    }
                    None => out.push(symbol),
                }
            }
        }
    }

    /// A character without a token: its bytes, or the unknown token.
    fn fall_back(&self, c: char, out: &mut Vec<u32>) {
        if self.has_bytes {
            let mut buffer = [0; 4];
            let bytes = c.encode_utf8(&mut buffer).bytes();
            out.extend(bytes.filter_map(|byte| self.bytes[usize::from(byte)].or(self.unknown)));
        } else {
            out.extend(self.unknown);
        }
    }
}

/// Longer tokens are no words; looking them up would save nothing.
const LONGEST_WORD: usize = 256;

/// Length of the first word with the spaces before it.
fn word_len(text: &str) -> usize {
    let spaces = text.len() - text.trim_start_matches(SPACE).len();
    text[spaces..].find(SPACE).map_or(text.len(), |len| spaces + len)
}

/// Every pair of symbols whose texts together are a token, ranked by that token's score.
fn merge_table(
    tokens: &[(&str, f32, Role)],
    ids: &HashMap<&str, u32>,
    symbols: &HashMap<char, u32>,
) -> Result<MergeTable, String> {
    /// Finding the pairs takes the square of each token's length; more than this is no vocabulary but an
    /// attack. The largest known need a hundredth.
    const MOST_STEPS: usize = 1 << 31;
    let steps = ids.keys().fold(0_usize, |sum, text| sum.saturating_add(text.len() * text.len()));
    if steps > MOST_STEPS {
        return Err("its tokens are too long to be told apart in reasonable time".into());
    }
    let mut by_score: Vec<(&str, u32)> = ids.iter().map(|(&text, &id)| (text, id)).collect();
    let score = |id: u32| tokens[id as usize].1;
    if let Some((text, _)) = by_score.iter().find(|(_, id)| score(*id).is_nan()) {
        return Err(format!("the score of `{text}` is not a number"));
    }
    by_score.sort_by(|a, b| score(b.1).total_cmp(&score(a.1)));
    let symbol = |text: &str| {
        let mut chars = text.chars();
        match (chars.next(), chars.next()) {
            (Some(c), None) => symbols.get(&c).copied(),
            _ => ids.get(text).copied(),
        }
    };
    let mut table = MergeTable::default();
    let (mut rank, mut last_score) = (0, f32::NAN);
    for (text, id) in by_score {
        // 0 and -0 are the same score.
        if score(id) != last_score {
            (rank, last_score) = (rank + 1, score(id));
        }
        for (at, _) in text.char_indices().skip(1) {
            if let Some(pair) = symbol(&text[..at]).zip(symbol(&text[at..])) {
                // Two splits of one text differ, and so do those of two texts.
                table.insert(pair, rank, id);
            }
        }
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Twin: merges strings, looks everything up by text, and knows no words.
    fn by_definition(tokens: &[(String, f32, Role)], unknown: Option<u32>, text: &str) -> Vec<u32> {
        let find = |text: &str| {
            (0..)
                .zip(tokens)
                .find(|(_, token)| token.2 == Role::Ordinary && token.0 == text)
                .map(|(id, _)| id)
        };
        let mut parts: Vec<String> = text.replace(' ', "▁").chars().map(String::from).collect();
        loop {
            let mut best: Option<(f32, usize)> = None;
            for idx in 1..parts.len() {
                if let Some(id) = find(&[&*parts[idx - 1], &*parts[idx]].concat())
                    && best.is_none_or(|(score, _)| tokens[id as usize].1 > score)
                {
                    best = Some((tokens[id as usize].1, idx));
                }
            }
            let Some((_, idx)) = best else { break };
            let right = parts.remove(idx);
            parts[idx - 1] += &right;
        }
        let byte =
            |byte: u8| (0..).zip(tokens).find(|(_, token)| token.2 == Role::Byte(byte)).map(|(id, _)| id);
        let has_bytes = tokens.iter().any(|token| matches!(token.2, Role::Byte(_)));
        let ids_of = |part: &String| match find(part) {
            Some(id) => vec![id],
            None if has_bytes => part.bytes().filter_map(|b| byte(b).or(unknown)).collect(),
            None => part.chars().filter_map(|_| unknown).collect(),
        };
        parts.iter().flat_map(ids_of).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn the_definition_gives_the_same(
            words in proptest::collection::btree_map("[ab▁é]{1,5}", 0_i8..4, 1..40),
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            unknown in proptest::option::of(0_u32..1),
            text in "[abc é]{0,120}",
        ) {
            let mut tokens = vec![("<unk>".to_owned(), 0.0, Role::Other)];
            // Few scores, so that many are the same; a token of one character scores too.
            tokens.extend(words.into_iter().map(|(word, score)| (word, f32::from(score), Role::Ordinary)));
            let mut bytes = bytes;
            bytes.sort_unstable();
            bytes.dedup();
            tokens.extend(bytes.into_iter().map(|byte| (format!("<0x{byte:02X}>"), 0.0, Role::Byte(byte))));
            let slices: Vec<(&str, f32, Role)> = tokens.iter().map(|(text, score, role)| (&**text, *score, *role)).collect();
            let encoder = SentencePiece::new(&slices, unknown, false).unwrap();
            let mut ids = Vec::new();
            encoder.encode(&text, &mut ids);
            prop_assert_eq!(ids, by_definition(&tokens, unknown, &text));
        }
    }

    #[test]
    fn words_end_before_spaces() {
        assert_eq!(word_len("▁▁ab▁c"), "▁▁ab".len());
        assert_eq!((word_len("ab▁c"), word_len("▁▁"), word_len("é")), (2, 6, 2));
    }

    #[test]
    fn hostile_vocabularies_are_refused() {
        let new =
            |text: &str, score| SentencePiece::new(&[(text, score, Role::Ordinary)], None, true).map(|_| ());
        assert!(new("ab", f32::NAN).unwrap_err().contains("score of `ab`"));
        assert!(new(&"a".repeat(1 << 17), 0.0).unwrap_err().contains("too long"));
        assert!(new(&"a".repeat(1000), f32::NEG_INFINITY).is_ok());
    }
}
