//! Cutting text into pieces that tokens never cross: words, numbers of up to three digits, punctuation,
//! white space.
//!
//! The rule is the regular expression of Llama 3, which stands in `tokenizer.json` so that other libraries
//! do the same. Here it is written out as a few comparisons per character, which is what makes encoding
//! fast; a test holds the two against each other on every character and on random texts.

use std::sync::LazyLock;

use regex_syntax::hir::{Class, HirKind};

/// The rule as a regular expression. Contractions are spelled out, because libraries differ in what else
/// they take for an `s` where case is ignored.
pub(super) const PATTERN: &str = concat!(
    r"'(?:[sStTmMdD]|[rR][eE]|[vV][eE]|[lL][lL])",
    r"|[^\r\n\p{L}\p{N}]?\p{L}+",
    r"|\p{N}{1,3}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*",
    r"|\s*[\r\n]+",
    r"|\s+(?!\S)",
    r"|\s+",
);

/// The pieces of a text from left to right; together they are the text.
pub(super) fn pieces(text: &str) -> impl Iterator<Item = &str> {
    let kinds: &Kinds = &KINDS;
    let mut rest = text;
    std::iter::from_fn(move || {
        let (piece, after) = rest.split_at(piece_len(rest, kinds));
        rest = after;
        (!piece.is_empty()).then_some(piece)
    })
}

/// Length in bytes of the first piece; 0 only for an empty text.
fn piece_len(text: &str, kinds: &Kinds) -> usize {
    let Some((first, kind)) = next(text, 0, kinds) else { return 0 };
    let first_len = first.len_utf8();
    if first == '\''
        && let Some(len) = contraction_len(text.as_bytes())
    {
        return len;
    }
    match kind {
        Kind::Letter => return run(text, first_len, kinds, |kind| kind == Kind::Letter),
        Kind::Number => {
            let mut len = first_len;
            for _ in 1..3 {
                match next(text, len, kinds) {
                    Some((c, Kind::Number)) => len += c.len_utf8(),
                    _ => break,
                }
            }
            return len;
        }
        _ => {}
    }
    let second = next(text, first_len, kinds).map(|(_, kind)| kind);
    if kind != Kind::LineEnd && second == Some(Kind::Letter) {
        return run(text, first_len, kinds, |kind| kind == Kind::Letter);
    }
    if kind == Kind::Other || (first == ' ' && second == Some(Kind::Other)) {
        let len = run(text, first_len, kinds, |kind| kind == Kind::Other);
        return run(text, len, kinds, |kind| kind == Kind::LineEnd);
    }
    // White space: up to its last line end, or all but the last character, which belongs to what follows.
    let len = run(text, 0, kinds, |kind| matches!(kind, Kind::Space | Kind::LineEnd));
    let space = &text[..len];
    if let Some(last_line_end) = space.rfind(['\r', '\n']) {
        return last_line_end + 1;
    }
    let last_len = space.chars().next_back().map_or(0, char::len_utf8);
    if len == text.len() || len == last_len { len } else { len - last_len }
}

fn contraction_len(bytes: &[u8]) -> Option<usize> {
    let lower = |idx: usize| bytes.get(idx).map(u8::to_ascii_lowercase);
    match (lower(1)?, lower(2)) {
        (b's' | b't' | b'm' | b'd', _) => Some(2),
        (b'r' | b'v', Some(b'e')) | (b'l', Some(b'l')) => Some(3),
        _ => None,
    }
}

/// Where the run of characters of some kinds ends that goes on at byte `start`.
fn run(text: &str, start: usize, kinds: &Kinds, belongs: impl Fn(Kind) -> bool) -> usize {
    let mut end = start;
    while let Some((c, kind)) = next(text, end, kinds) {
        if !belongs(kind) {
            break;
        }
        end += c.len_utf8();
    }
    end
}

/// The character at byte `start` and its kind.
fn next(text: &str, start: usize, kinds: &Kinds) -> Option<(char, Kind)> {
    let byte = *text.as_bytes().get(start)?;
    let c = if byte.is_ascii() { char::from(byte) } else { text[start..].chars().next()? };
    Some((c, kinds[c as usize]))
}

/// What the rule distinguishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Other,
    Letter,
    Number,
    Space,
    LineEnd,
}

type Kinds = [Kind];

/// The kind of every character, from the tables of the regular expression library.
static KINDS: LazyLock<Vec<Kind>> = LazyLock::new(|| {
    let mut kinds = vec![Kind::Other; char::MAX as usize + 1];
    for (class, kind) in
        [(r"\p{L}", Kind::Letter), (r"\p{N}", Kind::Number), (r"\s", Kind::Space), (r"[\r\n]", Kind::LineEnd)]
    {
        let parsed = regex_syntax::parse(class).expect("the class is well-formed").into_kind();
        let HirKind::Class(Class::Unicode(class)) = parsed else { unreachable!("it is a class") };
        for range in class.ranges() {
            kinds[range.start() as usize..=range.end() as usize].fill(kind);
        }
    }
    kinds
});

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
    use tokenizers::{
        OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, SplitDelimiterBehavior,
    };

    use super::*;

    /// Twin: the regular expression, as Hugging Face's library applies it.
    fn by_expression(text: &str) -> Vec<String> {
        let mut pre_tokenized = PreTokenizedString::from(text);
        SPLIT.pre_tokenize(&mut pre_tokenized).unwrap();
        let splits = pre_tokenized.get_splits(OffsetReferential::Original, OffsetType::Byte);
        splits.into_iter().map(|(piece, ..)| piece.to_owned()).collect()
    }

    static SPLIT: LazyLock<Split> = LazyLock::new(|| {
        Split::new(SplitPattern::Regex(PATTERN.into()), SplitDelimiterBehavior::Isolated, false).unwrap()
    });

    #[test]
    fn examples() {
        let check = |text: &str, expected: &[&str]| assert_eq!(pieces(text).collect::<Vec<_>>(), expected);
        check("", &[]);
        check("Hello, world's 12345!", &["Hello", ",", " world", "'s", " ", "123", "45", "!"]);
        check("a  b \n\n c\n", &["a", " ", " b", " \n\n", " c", "\n"]);
        check("don't we'LL", &["don", "'t", " we", "'LL"]);
        check("<|eos|>", &["<|", "eos", "|>"]);
        check("end.  ", &["end", ".", "  "]);
    }

    #[test]
    fn every_character_is_cut_as_the_expression_does() {
        let contexts: String = ('\0'..=char::MAX)
            .step_by(7)
            .flat_map(|c| ['x', c, ' ', c, '1', '!', c, '\n', c, c, 'Z'])
            .collect();
        assert_eq!(pieces(&contexts).collect::<Vec<_>>(), by_expression(&contexts));
        let all: String = ('\0'..=char::MAX).collect();
        assert_eq!(pieces(&all).collect::<Vec<_>>(), by_expression(&all));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]
        #[test]
        fn random_texts_are_cut_as_the_expression_does(
            text in "([a-zA-Z' \t\r\n0-9.,!é中\u{a0}\u{2028}\u{301}ſK]|.){0,60}",
        ) {
                prop_assert_eq!(pieces(&text).collect::<Vec<_>>(), by_expression(&text));
        }
    }
}
