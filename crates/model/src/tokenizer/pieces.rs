//! Cutting text into pieces that tokens never cross: words, numbers of up to three digits, punctuation,
//! white space.
//!
//! Elmwood's own rule is the regular expression of Llama 3, which stands in `tokenizer.json` so that other
//! libraries do the same. Here it and those of other makers are written out as a few comparisons per
//! character, which is what makes encoding fast; tests hold the two against each other on every character
//! and on random texts.

mod kinds;
mod named;
mod rules;

use kinds::{CharSet, Cursor, LETTER};
pub(super) use named::PreTokenizer;
use rules::Gpt4;

/// Elmwood's own rule as a regular expression. Contractions are spelled out, because libraries differ in
/// what else they take for an `s` where case is ignored.
pub(super) const PATTERN: &str = concat!(
    r"'(?:[sStTmMdD]|[rR][eE]|[vV][eE]|[lL][lL])",
    r"|[^\r\n\p{L}\p{N}]?\p{L}+",
    r"|\p{N}{1,3}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*",
    r"|\s*[\r\n]+",
    r"|\s+(?!\S)",
    r"|\s+",
);

/// Elmwood's own rule.
const OWN: Gpt4 = Gpt4 { word: LETTER, digits: 3, line_ends: true };

/// The pieces of a text by Elmwood's own rule, from left to right; together they are the text.
pub(super) fn pieces(text: &str) -> impl Iterator<Item = &str> {
    let cursor = Cursor::new(text);
    let mut rest = text;
    std::iter::from_fn(move || {
        let (piece, after) = rest.split_at(rules::gpt4(cursor.with(rest), OWN));
        rest = after;
        (!piece.is_empty()).then_some(piece)
    })
}

/// One step of a pre-tokenizer: how it cuts a text.
#[derive(Debug, Clone)]
enum Step {
    Gpt2,
    Gpt4(Gpt4),
    Gpt4o {
        digits: usize,
        contractions: bool,
    },
    DeepSeek3,
    /// Runs of characters of a set are pieces, and so is what lies between them.
    Runs(Runs),
    /// White space at the end is a piece: `\s+$`.
    TrailingSpace,
}

/// Runs of characters of a set, as `\s?\p{L}+` or `[0-9]{3}`.
#[derive(Debug, Clone)]
struct Runs {
    set: CharSet,
    /// What one character may come before a run.
    lead: CharSet,
    /// Fewest and most characters of a run, without the lead.
    fewest: usize,
    most: usize,
}

impl Step {
    /// Length in bytes of the first piece of a text that is not empty.
    fn piece_len(&self, cursor: Cursor<'_>) -> usize {
        match self {
            Self::Gpt2 => rules::gpt2(cursor),
            Self::Gpt4(rule) => rules::gpt4(cursor, *rule),
            &Self::Gpt4o { digits, contractions } => rules::gpt4o(cursor, digits, contractions),
            Self::DeepSeek3 => rules::deepseek3(cursor),
            Self::Runs(runs) => runs.piece_len(cursor.text()),
            Self::TrailingSpace => match cursor.text().trim_end().len() {
                0 => cursor.text().len(),
                before => before,
            },
        }
    }
}

impl Runs {
    fn piece_len(&self, text: &str) -> usize {
        if let Some(len) = self.match_len(text) {
            return len;
        }
        let later = text.char_indices().skip(1).find(|&(start, _)| self.match_len(&text[start..]).is_some());
        later.map_or(text.len(), |(start, _)| start)
    }

    /// Length in bytes of the run that begins here.
    fn match_len(&self, text: &str) -> Option<usize> {
        let first = text.chars().next()?;
        let led = self.lead.contains(first).then(|| self.run_len(text, first.len_utf8())).flatten();
        led.or_else(|| self.run_len(text, 0))
    }

    fn run_len(&self, text: &str, start: usize) -> Option<usize> {
        let (mut n, mut len) = (0, start);
        for c in text[start..].chars().take(self.most).take_while(|&c| self.set.contains(c)) {
            n += 1;
            len += c.len_utf8();
        }
        (n >= self.fewest).then_some(len)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
    use tokenizers::{
        OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer as _, SplitDelimiterBehavior,
    };

    use super::kinds::MARK;
    use super::*;

    /// Every kind of step with the expression that it stands for, as published, but for contractions:
    /// spelled out as in [`PATTERN`].
    fn steps() -> Vec<(Step, String)> {
        const C: &str = r"'(?:[sStTmMdD]|[rR][eE]|[vV][eE]|[lL][lL])";
        const HIGH: &str = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]";
        const LOW: &str = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]";
        const TAIL: &str = r"\s*[\r\n]+|\s+(?!\S)|\s+";
        let gpt4 = |digits| Step::Gpt4(Gpt4 { word: LETTER, digits, line_ends: true });
        let gpt4o = |c: &str, numbers: &str| {
            let lead = r"[^\r\n\p{L}\p{N}]?";
            format!(
                r"{lead}{HIGH}*{LOW}+{c}|{lead}{HIGH}+{LOW}*{c}|{numbers}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{TAIL}"
            )
        };
        let steps_of = |name: &str| PreTokenizer::named(name).unwrap().steps().to_vec();
        let step = |name: &str, idx: usize| steps_of(name).swap_remove(idx);
        vec![
            (
                Step::Gpt2,
                r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+".to_owned(),
            ),
            (gpt4(3), PATTERN.into()),
            (gpt4(1), PATTERN.replace("{1,3}", "")),
            (
                Step::Gpt4(Gpt4 { word: LETTER, digits: 1, line_ends: false }),
                format!(r"{C}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{TAIL}"),
            ),
            (
                Step::Gpt4(Gpt4 { word: LETTER | MARK, digits: 1, line_ends: true }),
                format!(
                    r"{C}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{TAIL}"
                ),
            ),
            (Step::Gpt4o { digits: 3, contractions: true }, gpt4o(&format!("(?:{C})?"), r"\p{N}{1,3}")),
            (Step::Gpt4o { digits: 1, contractions: false }, gpt4o("", r"\p{N}")),
            (
                Step::DeepSeek3,
                format!(
                    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{{|}}~][A-Za-z]+|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+| ?[\p{{P}}\p{{S}}]+[\r\n]*|{TAIL}"##
                ),
            ),
            (step("default", 0), r"[\p{P}\$\+<=>\^~\|]+".into()),
            (step("default", 2), r"\p{N}+".into()),
            (step("default", 3), "[0-9][0-9][0-9]".into()),
            (step("smollm", 0), r"\p{N}".into()),
            (step("bloom", 0), r" ?[^(\s|.,!?…。，、।۔،)]+".into()),
            (step("deepseek-coder", 0), r"[\r\n]".into()),
            (step("deepseek-coder", 1), r"\s?\p{L}+".into()),
            (step("deepseek-coder", 2), r"\s?\p{P}+".into()),
            (step("deepseek-llm", 3), r"\s+\z".into()),
            (step("deepseek-v3", 0), r"\p{N}{1,3}".into()),
        ]
    }

    /// Twin: an expression, as Hugging Face's library applies it.
    fn by_expression(split: &Split, text: &str) -> Vec<String> {
        let mut pre_tokenized = PreTokenizedString::from(text);
        split.pre_tokenize(&mut pre_tokenized).unwrap();
        let splits = pre_tokenized.get_splits(OffsetReferential::Original, OffsetType::Byte);
        splits.into_iter().map(|(piece, ..)| piece.to_owned()).filter(|piece| !piece.is_empty()).collect()
    }

    fn split(expression: &str) -> Split {
        Split::new(SplitPattern::Regex(expression.into()), SplitDelimiterBehavior::Isolated, false).unwrap()
    }

    fn cut(step: &Step, text: &str) -> Vec<String> {
        let mut pieces = Vec::new();
        PreTokenizer::of(vec![step.clone()]).cut(text, &mut |piece| pieces.push(piece.to_owned()));
        pieces
    }

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
    fn several_steps_cut_each_other() {
        let cut = |name: &str, text: &str| {
            let mut pieces = Vec::new();
            PreTokenizer::named(name).unwrap().cut(text, &mut |piece| pieces.push(piece.to_owned()));
            pieces
        };
        assert_eq!(cut("smollm", "in 1234  x"), ["in", " ", "1", "2", "3", "4", " ", " x"]);
        assert_eq!(cut("default", "a=b 12345"), ["a", "=", "b", " ", "123", "45"]);
        assert_eq!(cut("gpt-4o", "HelloWorld's HTML5 don't"), ["Hello", "World's", " HTML", "5", " don't"]);
        assert!(PreTokenizer::named("bert").is_none());
    }

    #[test]
    fn every_character_is_cut_as_the_expressions_do() {
        let contexts: String = ('\0'..=char::MAX)
            .step_by(7)
            .flat_map(|c| ['x', c, ' ', c, '1', '!', c, '\n', c, c, 'Z', c, 'a', '\'', 's'])
            .collect();
        let all: String = ('\0'..=char::MAX).collect();
        for (step, expression) in steps() {
            let split = split(&expression);
            for text in [&contexts, &all] {
                // The library gives up on what lies between matches where that is long.
                for text in text.chars().collect::<Vec<_>>().chunks(700) {
                    let text: String = text.iter().collect();
                    assert_eq!(cut(&step, &text), by_expression(&split, &text), "{expression}");
                }
            }
        }
        assert!(pieces(&all).eq(by_expression(&split(PATTERN), &all).iter()));
    }

    #[test]
    fn random_texts_are_cut_as_the_expressions_do() {
        for (step, expression) in steps() {
            let split = split(&expression);
            let texts = "([a-zA-Z' \t\r\n0-9.,!/é中\u{a0}\u{2028}\u{301}ǅʰſK]|'(s|LL|re)|.){0,60}";
            proptest!(ProptestConfig::with_cases(1500), |(text in texts)| {
                prop_assert_eq!(cut(&step, &text), by_expression(&split, &text), "{}", expression);
            });
        }
    }

    #[test]
    fn long_pieces_take_linear_time() {
        for name in ["default", "llama-bpe", "gpt-4o", "deepseek-llm", "deepseek-v3", "bloom", "smollm"] {
            let cutter = PreTokenizer::named(name).unwrap();
            for text in ["a", " ", "\n", "1", "!", " \n", "A", "\u{301}", "中", "\u{1}", "a ", "é'"] {
                let text = text.repeat(1_000_000);
                let mut n_bytes = 0;
                cutter.cut(&text, &mut |piece| n_bytes += piece.len());
                assert_eq!(n_bytes, text.len());
            }
        }
    }
}
