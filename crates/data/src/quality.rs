//! Simple rules that tell text from what is no text: too short, too repetitive, hardly any words.
//!
//! The rules are Gopher's, with limits widened where documentation with code blocks would fail them:
//! in code, braces and operators stand alone as words, and lines repeat.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::fence::Fence;

/// The limits; a document outside any of them is dropped. Shares are between 0 and 1.
///
/// # Source
/// Rae et al. 2021, arXiv:2112.11446, table A1 (repetition) and appendix A.1.1 (quality).
/// Differs: the defaults named at each field. Duplicate lines and frequent n-grams are looked for outside code
/// fences only, since code repeats by nature, and n-grams only if there are `min_words` words of prose; lines
/// shorter than [`Rules::LONG_LINE`] bytes, such as the heading "Examples", do not count as duplicates.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rules {
    /// Fewest words, separated by white space. 50 as in Gopher.
    pub min_words: usize,
    /// Most words. 1,000,000 instead of 100,000: a novel is one document.
    pub max_words: usize,
    /// Shortest mean word, in characters. 3 as in Gopher.
    pub min_mean_word_length: f64,
    /// Longest mean word, in characters. 12 instead of 10: paths such as `std::collections::HashMap`.
    pub max_mean_word_length: f64,
    /// Smallest share of words with a letter. 0.6 instead of 0.8: operators and braces of code.
    pub min_alphabetic_words: f64,
    /// Most `#` per word, and most ellipses per word. 0.1 as in Gopher.
    pub max_symbols_per_word: f64,
    /// Largest share of lines that start with a bullet. 0.9 as in Gopher.
    pub max_bullet_lines: f64,
    /// Largest share of lines that end with an ellipsis. 0.3 as in Gopher.
    pub max_ellipsis_lines: f64,
    /// Fewest different words of `the, be, to, of, and, that, have, with`. 2 as in Gopher; it also drops
    /// text that is not English. Set 0 for other languages.
    pub min_stop_words: usize,
    /// Largest share of long lines that repeat an earlier one. 0.3 as in Gopher.
    pub max_duplicate_lines: f64,
    /// Largest share of the characters of long lines in lines that repeat an earlier one. 0.2 as in Gopher.
    pub max_duplicate_line_chars: f64,
    /// Largest share of characters in all occurrences of the most frequent 2-, 3-, and 4-gram of words.
    /// 0.20, 0.18, 0.16 as in Gopher.
    pub max_top_ngram_chars: [f64; 3],
    /// Largest share of characters in 5-grams of words that occurred before. 0.5 instead of 0.15:
    /// signatures and examples of a page resemble each other.
    pub max_duplicate_5_gram_chars: f64,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            min_words: 50,
            max_words: 1_000_000,
            min_mean_word_length: 3.0,
            max_mean_word_length: 12.0,
            min_alphabetic_words: 0.6,
            max_symbols_per_word: 0.1,
            max_bullet_lines: 0.9,
            max_ellipsis_lines: 0.3,
            min_stop_words: 2,
            max_duplicate_lines: 0.3,
            max_duplicate_line_chars: 0.2,
            max_top_ngram_chars: [0.20, 0.18, 0.16],
            max_duplicate_5_gram_chars: 0.5,
        }
    }
}

/// Why a document was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Rejection {
    /// The name of the reason, as it appears in the funnel.
    pub reason: &'static str,
    /// What was measured: a count, a share, or a similarity.
    pub value: f64,
}

impl Rules {
    /// The bytes from which a line counts among duplicates.
    pub const LONG_LINE: usize = 12;

    /// The first rule that `text` breaks, in the order of the fields.
    ///
    /// # Errors
    /// [`Rejection`] with the name of the rule and what was measured.
    pub fn check(&self, text: &str) -> Result<(), Rejection> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let n_words = words.len() as f64;
        at_least("too_few_words", n_words, self.min_words as f64)?;
        at_most("too_many_words", n_words, self.max_words as f64)?;
        if words.is_empty() {
            return Ok(());
        }

        let word_chars = words.iter().map(|w| w.chars().count()).sum::<usize>() as f64;
        at_least("words_too_short", word_chars / n_words, self.min_mean_word_length)?;
        at_most("words_too_long", word_chars / n_words, self.max_mean_word_length)?;
        let alphabetic = words.iter().filter(|w| w.chars().any(char::is_alphabetic)).count() as f64;
        at_least("too_few_alphabetic_words", alphabetic / n_words, self.min_alphabetic_words)?;
        let hashes = text.bytes().filter(|&b| b == b'#').count() as f64;
        at_most("too_many_hash_signs", hashes / n_words, self.max_symbols_per_word)?;
        let ellipses = (text.matches("...").count() + text.matches('…').count()) as f64;
        at_most("too_many_ellipses", ellipses / n_words, self.max_symbols_per_word)?;

        let lines: Vec<&str> = text.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
        let share = |test: fn(&&&str) -> bool| lines.iter().filter(test).count() as f64 / lines.len() as f64;
        at_most("too_many_bullet_lines", share(|l| l.starts_with(BULLETS)), self.max_bullet_lines)?;
        let cut_off = share(|l| l.ends_with("...") || l.ends_with('…'));
        at_most("too_many_cut_off_lines", cut_off, self.max_ellipsis_lines)?;
        at_least("too_few_stop_words", stop_words(&words) as f64, self.min_stop_words as f64)?;

        let prose = outside_fences(text);
        let (duplicate_lines, duplicate_chars) = duplicate_lines(&prose);
        at_most("duplicate_lines", duplicate_lines, self.max_duplicate_lines)?;
        at_most("duplicate_line_chars", duplicate_chars, self.max_duplicate_line_chars)?;
        let prose = to_words(&prose.join("\n"));
        let prose_chars = prose.iter().map(|word| word.chars).sum::<usize>() as f64;
        if prose.len() >= self.min_words {
            let names = ["top_2_gram_chars", "top_3_gram_chars", "top_4_gram_chars"];
            for ((n, name), limit) in (2..).zip(names).zip(self.max_top_ngram_chars) {
                at_most(name, top_ngram_chars(&prose, n) / prose_chars, limit)?;
            }
        }
        let repeated = duplicate_ngram_chars(&to_words(text), 5) / word_chars;
        at_most("duplicate_5_gram_chars", repeated, self.max_duplicate_5_gram_chars)
    }
}

const BULLETS: [char; 7] = ['•', '●', '▪', '‣', '-', '*', '·'];

fn at_least(reason: &'static str, value: f64, limit: f64) -> Result<(), Rejection> {
    if value < limit { Err(Rejection { reason, value }) } else { Ok(()) }
}

fn at_most(reason: &'static str, value: f64, limit: f64) -> Result<(), Rejection> {
    if value > limit { Err(Rejection { reason, value }) } else { Ok(()) }
}

fn stop_words(words: &[&str]) -> usize {
    const STOP_WORDS: [&str; 8] = ["the", "be", "to", "of", "and", "that", "have", "with"];
    STOP_WORDS.iter().filter(|stop| words.iter().any(|w| w.eq_ignore_ascii_case(stop))).count()
}

/// The shares of long lines, and of their characters, in lines that occurred before.
fn duplicate_lines(lines: &[&str]) -> (f64, f64) {
    let mut seen = std::collections::HashSet::new();
    let (mut n, mut chars, mut repeated, mut repeated_chars) = (0, 0, 0, 0);
    for line in lines.iter().filter(|l| l.len() >= Rules::LONG_LINE) {
        let length = line.chars().count();
        n += 1;
        chars += length;
        if !seen.insert(*line) {
            repeated += 1;
            repeated_chars += length;
        }
    }
    (f64::from(repeated) / f64::from(n.max(1)), repeated_chars as f64 / chars.max(1) as f64)
}

/// The lines that are neither blank nor code.
fn outside_fences(text: &str) -> Vec<&str> {
    let mut fence = Fence::default();
    text.lines().filter(|line| !fence.is_code(line)).map(str::trim).filter(|line| !line.is_empty()).collect()
}

fn to_words(text: &str) -> Vec<Word> {
    text.split_whitespace().map(Word::new).collect()
}

/// A word as the n-gram rules see it.
struct Word {
    hash: u64,
    chars: usize,
}

impl Word {
    fn new(word: &str) -> Self {
        Self { hash: xxh3_64(word.as_bytes()), chars: word.chars().count() }
    }
}

fn ngram_hash(words: &[Word]) -> u64 {
    words.iter().fold(0, |h, w| (h ^ w.hash).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29))
}

/// Characters in all occurrences of the most frequent n-gram; 0 if none occurs twice.
fn top_ngram_chars(words: &[Word], n: usize) -> f64 {
    let mut counts: HashMap<u64, (usize, usize)> = HashMap::new();
    for ngram in words.windows(n) {
        let entry = counts.entry(ngram_hash(ngram)).or_insert((0, ngram.iter().map(|w| w.chars).sum()));
        entry.0 += 1;
    }
    let most = counts.values().filter(|(count, _)| *count > 1).map(|(count, chars)| (*count, count * chars));
    most.max().map_or(0.0, |(_, chars)| chars as f64)
}

/// Characters in n-grams that occurred before, no word counted twice.
fn duplicate_ngram_chars(words: &[Word], n: usize) -> f64 {
    let mut seen = std::collections::HashSet::new();
    let (mut i, mut chars) = (0, 0);
    while i + n <= words.len() {
        if seen.insert(ngram_hash(&words[i..i + n])) {
            i += 1;
        } else {
            chars += words[i..i + n].iter().map(|w| w.chars).sum::<usize>();
            i += n;
        }
    }
    chars as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prose(n: usize) -> String {
        let mut random = crate::random::Random::new(1, 2);
        let mut word = || {
            (0..3 + random.below(6)).map(|_| char::from(b'a' + random.below(26) as u8)).collect::<String>()
        };
        let line =
            |i: usize| format!("Tree {i} {} with {} {} to {} {}.\n", word(), word(), word(), word(), word());
        (0..n).map(line).collect()
    }

    #[test]
    fn each_rule_names_itself() {
        let good = prose(20);
        assert_eq!(Rules::default().check(&good), Ok(()));
        let check = |text: &str, reason: &str| {
            let rejection = Rules::default().check(text).unwrap_err();
            assert_eq!(rejection.reason, reason, "{rejection:?}");
        };
        check("too short", "too_few_words");
        check(&"a b ".repeat(60), "words_too_short");
        check(&"extraordinarily-long ".repeat(60), "words_too_long");
        check(&format!("{}{}", "12345 ".repeat(60), "abc ".repeat(20)), "too_few_alphabetic_words");
        check(&good.replace("Tree", "###tree"), "too_many_hash_signs");
        check(&good.replace("Tree", "tree... and..."), "too_many_ellipses");
        check(&good.lines().map(|l| format!("- {l}\n")).collect::<String>(), "too_many_bullet_lines");
        check(&good.replace(".\n", " lane and to the green hill...\n"), "too_many_cut_off_lines");
        check(&"Der Baum wächst langsam am Rand einer alten Straße weiter. ".repeat(9), "too_few_stop_words");
        check(&format!("{}{}", prose(6), prose(6)), "duplicate_lines");
        check(&good.replace('\n', " ").repeat(3), "duplicate_5_gram_chars");
        check(&format!("{good} {}", "to the ".repeat(50)), "top_2_gram_chars");
    }

    #[test]
    fn limits_come_from_a_file_and_unknown_names_are_refused() {
        let rules: Rules = serde_json::from_str("{\"min_words\": 3}").unwrap();
        assert_eq!(rules.check("They stand with the others"), Ok(()));
        assert!(serde_json::from_str::<Rules>("{\"min_word\": 3}").is_err());
    }

    #[test]
    fn no_text_breaks_the_rules_themselves() {
        let all = Rules { min_words: 0, min_stop_words: 0, ..Rules::default() };
        for text in ["", " \n ", "a", "…", "\u{0}", "a\n\n\nb"] {
            let _ = all.check(text);
        }
    }
}
