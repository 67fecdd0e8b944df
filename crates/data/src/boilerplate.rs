//! Lines that many documents share: said once they are text, said 2,000 times poison.
//!
//! Generated pages repeat whole paragraphs (in Rust's documentation, every type says of `From` that it
//! "returns the argument unchanged"), or fill their own name into the same line (`impl Send for Vec`). Lines
//! are counted over all documents by their pattern, and common ones are cut from each.

use std::borrow::Cow;
use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::Document;
use crate::fence::Fence;

/// Which lines are cut.
///
/// Lines count as the same if they are so after everything in angle brackets or backticks, every number, every
/// single capital letter, and every name from the document's title is blanked out. The first line of a
/// document and all lines of code are never cut.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LineRules {
    /// A line is cut if it stands in more than this share of all documents; 1 cuts none.
    pub max_document_share: f64,
    /// And in more than this many documents, so that a small corpus loses nothing by chance.
    pub max_documents: u32,
    /// Shorter lines, in words, are cut only between two that are, or at the end after one that is: they are
    /// headings of what was cut.
    pub min_words: usize,
}

impl Default for LineRules {
    fn default() -> Self {
        Self { max_document_share: 0.005, max_documents: 10, min_words: 3 }
    }
}

/// In how many documents each line stands.
#[derive(Debug, Default)]
pub(crate) struct LineCounts {
    documents: u64,
    counts: HashMap<u64, u32>,
}

/// What was cut from a text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Cut {
    pub(crate) lines: u64,
    pub(crate) bytes: u64,
}

/// How many short lines in a row may be cut between two common ones.
const MAX_SHORT_LINES: usize = 4;

impl LineCounts {
    /// Adds the [`line_hashes`] of one more document.
    pub(crate) fn add(&mut self, hashes: &[u64]) {
        self.documents += 1;
        for hash in hashes {
            *self.counts.entry(*hash).or_insert(0) += 1;
        }
    }

    /// Ends the counting: only the lines to be cut stay in memory.
    pub(crate) fn keep_common(&mut self, rules: &LineRules) {
        let limit = rules.max_documents.max((rules.max_document_share * self.documents as f64) as u32);
        self.counts.retain(|_, count| *count > limit);
        self.counts.shrink_to_fit();
    }

    /// The text of `document` without the lines that are common.
    pub(crate) fn cut<'a>(&self, document: &'a Document, rules: &LineRules) -> (Cow<'a, str>, Cut) {
        let lines = classify(document, rules);
        let mut kinds: Vec<Kind> = lines.iter().map(|(_, kind)| *kind).collect();
        for kind in &mut kinds {
            if let Kind::Long(hash) = kind {
                *kind = if self.counts.contains_key(hash) { Kind::Common } else { Kind::Kept };
            }
        }
        let is_cut = |i: usize| match kinds[i] {
            Kind::Common => true,
            Kind::Short => {
                let before = neighbour(kinds[..i].iter().rev());
                let after = neighbour(kinds[i + 1..].iter());
                before == Some(Kind::Common) && matches!(after, Some(Kind::Common | Kind::End))
            }
            _ => false,
        };
        let mut cut = Cut::default();
        let mut out = String::with_capacity(document.text.len());
        for (i, (line, _)) in lines.iter().enumerate() {
            if is_cut(i) {
                cut.lines += 1;
                cut.bytes += line.len() as u64 + 1;
            } else if kinds[i] != Kind::Blank || !(out.is_empty() || out.ends_with("\n\n")) {
                out.push_str(line);
                out.push('\n');
            }
        }
        if cut.lines == 0 {
            return (Cow::Borrowed(&document.text), cut);
        }
        out.truncate(out.trim_end().len());
        out.push('\n');
        (Cow::Owned(out), cut)
    }
}

/// The different lines of a document that count, as hashes.
pub(crate) fn line_hashes(document: &Document, rules: &LineRules) -> Vec<u64> {
    let hash = |(_, kind)| match kind {
        Kind::Long(hash) => Some(hash),
        _ => None,
    };
    let mut hashes: Vec<u64> = classify(document, rules).into_iter().filter_map(hash).collect();
    hashes.sort_unstable();
    hashes.dedup();
    hashes
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Blank,
    Short,
    /// Long enough to count, with the hash of its pattern.
    Long(u64),
    Common,
    Kept,
    /// No line: the end of the text.
    End,
}

fn classify<'a>(document: &'a Document, rules: &LineRules) -> Vec<(&'a str, Kind)> {
    let title = document.title.as_deref().unwrap_or_default();
    let names: Vec<&str> = title.split_whitespace().map(trim_word).filter(|word| is_name(word)).collect();
    let mut fence = Fence::default();
    let mut is_first = true;
    let classify = |line: &'a str| {
        let kind = match () {
            () if fence.is_code(line) => Kind::Kept,
            () if line.trim().is_empty() => Kind::Blank,
            () if std::mem::take(&mut is_first) => Kind::Kept,
            () if line.split_whitespace().nth(rules.min_words.max(1) - 1).is_none() => Kind::Short,
            () => match pattern(line, &names) {
                // A list item that is all code, say: nothing is left to tell it from others.
                pattern if pattern.split_whitespace().count() < rules.min_words => Kind::Kept,
                pattern => Kind::Long(xxh3_64(pattern.as_bytes())),
            },
        };
        (line, kind)
    };
    document.text.lines().map(classify).collect()
}

/// The line with all that pages fill into a template blanked out.
fn pattern(line: &str, names: &[&str]) -> String {
    let mut out = String::with_capacity(line.len());
    let mut open_brackets = 0u32;
    let mut in_code = false;
    let mut kept = String::with_capacity(line.len());
    for c in line.chars() {
        match c {
            '`' => {
                in_code = !in_code;
                kept.push('`');
            }
            _ if in_code => {}
            '<' => open_brackets += 1,
            // The arrow of a signature closes nothing.
            '>' if !kept.ends_with(['-', '=']) => open_brackets = open_brackets.saturating_sub(1),
            _ if open_brackets > 0 => {}
            c if c.is_numeric() => {
                if !kept.ends_with('0') {
                    kept.push('0');
                }
            }
            c => kept.push(c),
        }
    }
    for word in kept.split_whitespace() {
        let bare = trim_word(word);
        let is_letter = bare.len() == 1 && bare.bytes().all(|b| b.is_ascii_uppercase());
        out.push_str(if is_letter || names.contains(&bare) { "_" } else { word });
        out.push(' ');
    }
    out
}

fn trim_word(word: &str) -> &str {
    word.trim_matches(|c: char| !c.is_alphanumeric() && c != '_')
}

/// Whether a word of a title is a name rather than a word of the language.
fn is_name(word: &str) -> bool {
    word.chars().any(|c| c.is_uppercase() || c == '_' || c == ':')
}

/// The nearest line that is neither blank nor short; `None` behind too many short ones.
fn neighbour<'a>(kinds: impl Iterator<Item = &'a Kind>) -> Option<Kind> {
    let mut short = 0;
    for &kind in kinds {
        match kind {
            Kind::Blank => {}
            Kind::Short if short < MAX_SHORT_LINES => short += 1,
            Kind::Short => return None,
            kind => return Some(kind),
        }
    }
    Some(Kind::End)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(texts: &[(String, String)], i: usize) -> (String, Cut) {
        let rules = LineRules { max_documents: 5, ..LineRules::default() };
        let documents: Vec<Document> =
            texts.iter().map(|(title, text)| Document::new("", Some(title.clone()), text.as_str())).collect();
        let mut counts = LineCounts::default();
        documents.iter().for_each(|d| counts.add(&line_hashes(d, &rules)));
        counts.keep_common(&rules);
        let (text, cut) = counts.cut(&documents[i], &rules);
        (text.into_owned(), cut)
    }

    #[test]
    fn lines_that_all_share_go_and_the_headings_between_them() {
        let names = ["Oak", "Elm", "Ash", "Fir", "Yew", "Lime", "Pine", "Rose", "Reed", "Moss"];
        let text = |name: &&str| {
            let text = format!(
                "About the {name}\n\nExamples\n\nReturns the argument unchanged.\n\nwhere\nimpl<'{name}> Send for \
                 {name}<T> where T: Send\n\nExamples\n\n```\nlet x = 1;\n```\nIts own {name} line\nThe {name}x end\n\
                 Calls the other one.\n\nBlanket\n"
            );
            ((*name).to_owned(), text)
        };
        let texts: Vec<_> = names.iter().map(text).collect();
        let (text, cut) = cut(&texts, 4);
        assert_eq!(text, "About the Yew\n\nExamples\n\nExamples\n\n```\nlet x = 1;\n```\nThe Yewx end\n");
        assert_eq!(cut.lines, 6);
    }

    #[test]
    fn a_text_without_common_lines_is_left_as_it_is() {
        let names = ["one", "two", "three", "four", "five", "six", "seven"];
        let texts: Vec<_> =
            names.iter().map(|n| (String::new(), format!("Line {n} a\n\n\n  b {n} c {n}"))).collect();
        assert_eq!(cut(&texts, 0), (texts[0].1.clone(), Cut::default()));
    }

    #[test]
    fn a_pattern_forgets_what_is_filled_in() {
        let pattern = |line| pattern(line, &["Vec"]);
        assert_eq!(pattern("impl<T> Send for Vec<T, A> where A: Send"), "impl Send for _ where _ Send ");
        assert_eq!(pattern("Issue `a b` #127 of Vec."), "Issue `` #0 of _ ");
        assert_eq!(pattern("fn a(self) -> Vec<Vec<T>>"), "fn a(self) -> _ ");
    }
}
