//! What is wrong with a recipe, pointed at: file, line, column, the line itself, and the nearest right key.

use std::fmt;
use std::ops::Range;

use unicode_width::UnicodeWidthStr;

use crate::error::Exit;

/// One mistake in a recipe or in a `--set`.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Error {
    /// [`Exit::BadInput`] for a recipe, [`Exit::Usage`] for a `--set`, [`Exit::Io`] if it cannot be read.
    pub exit: Exit,
    /// What is wrong.
    pub what: String,
    /// The file, or `--set`.
    pub file: String,
    /// Line, from 1; absent if the whole file is meant.
    pub line: Option<u32>,
    /// Column in characters, from 1.
    pub column: Option<u32>,
    /// The offending line with a caret below it.
    pub snippet: Option<String>,
    /// What to do.
    pub help: Option<String>,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}", self.what, self.file)?;
        for number in [self.line, self.column].into_iter().flatten() {
            write!(f, ":{number}")?;
        }
        write!(f, ")")
    }
}

impl std::error::Error for Error {}

impl Error {
    /// A mistake of the file as a whole.
    pub(crate) fn file(exit: Exit, file: &str, what: impl Into<String>) -> Self {
        let (file, what) = (file.to_owned(), what.into());
        Self { exit, what, file, line: None, column: None, snippet: None, help: None }
    }

    /// A mistake at `span`, in bytes, of `text`.
    pub(crate) fn at(
        exit: Exit,
        file: &str,
        text: &str,
        span: Range<usize>,
        what: impl Into<String>,
    ) -> Self {
        let start = floor_boundary(text, span.start);
        let line_start = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
        let line_end = text[start..].find('\n').map_or(text.len(), |newline| start + newline);
        let line = text[line_start..line_end].trim_end_matches('\r');
        let before = &text[line_start..start];
        let end = floor_boundary(text, span.end).clamp(start, line_start + line.len().max(before.len()));

        let number = text[..start].matches('\n').count() + 1;
        // Tabs are kept, so that the caret stands below its word however wide they are shown.
        let indent: String = before
            .chars()
            .map(|c| if c == '\t' { "\t".to_owned() } else { " ".repeat(c.to_string().width()) })
            .collect();
        let carets = "^".repeat(text[start..end].width().max(1));
        let snippet = format!("    |\n{number:3} | {line}\n    | {indent}{carets}");
        Self {
            line: u32::try_from(number).ok(),
            column: u32::try_from(before.chars().count() + 1).ok(),
            snippet: Some(snippet),
            ..Self::file(exit, file, what)
        }
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// The member of `known` that `word` was probably meant to be.
pub(crate) fn nearest<'a>(word: &str, known: &'a [String]) -> Option<&'a str> {
    // What other trainers call the same thing.
    const ALIASES: [(&str, &str); 12] = [
        ("learning_rate", "lr"),
        ("batch_size", "batch_rows"),
        ("micro_batch", "batch_rows"),
        ("gradient_accumulation_steps", "grad_accum"),
        ("sequence_len", "seq_len"),
        ("max_steps", "steps"),
        ("max_tokens", "tokens"),
        ("precision", "dtype"),
        ("hidden_size", "model_dim"),
        ("num_layers", "num_transformer_layers"),
        ("max_grad_norm", "grad_clip"),
        ("folder", "path"),
    ];
    let lower = word.to_lowercase().replace('-', "_");
    if let Some(alias) = ALIASES.iter().find(|(theirs, _)| *theirs == lower) {
        return known.iter().find(|key| *key == alias.1).map(String::as_str);
    }
    let distance = |key: &str| strsim::damerau_levenshtein(&lower, &key.replace('-', "_"));
    let key = known.iter().min_by_key(|key| distance(key))?;
    (distance(key) <= (word.chars().count() / 3).max(1)).then_some(key)
}

fn floor_boundary(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_caret_stands_below_the_word() {
        let text = "a = 1\n\tname = \"日本\"  # 語\nb = 2";
        let start = text.find("\"日本").unwrap();
        let error = Error::at(Exit::BadInput, "x.toml", text, start..start + 8, "bad");
        assert_eq!(error.to_string(), "bad (x.toml:2:9)");
        assert_eq!(error.snippet.unwrap(), "    |\n  2 | \tname = \"日本\"  # 語\n    | \t       ^^^^^^");
        // Spans beyond the text, or over several lines, are cut.
        for span in [0..usize::MAX, 999..1000, text.len()..text.len(), start + 2..start + 3] {
            assert!(Error::at(Exit::BadInput, "x", text, span, "bad").snippet.is_some());
        }
        assert!(Error::at(Exit::BadInput, "x", "", 0..0, "bad").snippet.is_some());
    }

    #[test]
    fn the_nearest_key_is_near() {
        let known: Vec<String> = ["vocab_size", "lr", "seq_len"].map(String::from).to_vec();
        assert_eq!(nearest("vocab_sise", &known), Some("vocab_size"));
        assert_eq!(nearest("vocab-size", &known), Some("vocab_size"));
        assert_eq!(nearest("learning_rate", &known), Some("lr"));
        assert_eq!(nearest("banana", &known), None);
        assert_eq!(nearest("", &[]), None);
    }
}
