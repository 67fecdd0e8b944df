//! Numbers about a file of documents: how many, how long, from where.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::document::DocumentReader;
use crate::{Error, Progress, Quarantine};

/// How many sources are listed.
const TOP_SOURCES: usize = 20;

/// What [`corpus_stats`] found.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CorpusStats {
    /// Documents.
    pub documents: u64,
    /// UTF-8 bytes of their texts.
    pub text_bytes: u64,
    /// Characters of their texts.
    pub chars: u64,
    /// Words, separated by white space.
    pub words: u64,
    /// Lines that are not blank.
    pub lines: u64,
    /// Words of the document in the middle, by length.
    pub median_words: u64,
    /// Words of the longest document.
    pub longest_words: u64,
    /// Documents by length.
    pub lengths: Vec<LengthBin>,
    /// The sources with most text, largest first: the first folder of a path, or the host of an address.
    pub sources: Vec<SourceShare>,
    /// Different sources, the unlisted ones included.
    pub n_sources: u64,
    /// Records that could not be read.
    pub quarantine: Quarantine,
}

/// The documents of some length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LengthBin {
    /// Fewest words in this bin, a power of two or 0.
    pub from_words: u64,
    /// Fewest words in the next bin.
    pub below_words: u64,
    /// Documents.
    pub documents: u64,
    /// UTF-8 bytes of their texts.
    pub text_bytes: u64,
}

/// What one source gave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceShare {
    /// Its name.
    pub source: String,
    /// Documents.
    pub documents: u64,
    /// UTF-8 bytes of their texts.
    pub text_bytes: u64,
}

/// Reads a file of documents once and counts. Memory: 8 bytes a document, and the names of the sources.
///
/// # Errors
/// [`Error::Io`] if it cannot be read; [`Error::Empty`] if it holds no document.
pub fn corpus_stats(path: &Path, progress: &(dyn Fn(Progress) + Sync)) -> Result<CorpusStats, Error> {
    let mut stats = CorpusStats::default();
    let mut all_words = Vec::new();
    let mut bins: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    let mut sources: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    let mut reader = DocumentReader::open(path)?;
    for document in reader.by_ref() {
        let document = document?;
        let words = document.text.split_whitespace().count() as u64;
        let bytes = document.text.len() as u64;
        stats.documents += 1;
        stats.text_bytes += bytes;
        stats.chars += document.text.chars().count() as u64;
        stats.words += words;
        stats.lines += document.text.lines().filter(|line| !line.trim().is_empty()).count() as u64;
        all_words.push(words);
        let bin = words.checked_ilog2().map_or(0, |log| 1 << log);
        for entry in
            [bins.entry(bin).or_default(), sources.entry(group(&document.source).into()).or_default()]
        {
            entry.0 += 1;
            entry.1 += bytes;
        }
        progress(Progress { stage: "count", done: stats.documents, total: None, unit: "documents" });
    }
    stats.quarantine = reader.quarantine().clone();
    if stats.documents == 0 {
        return Err(Error::Empty { path: path.to_owned(), what: "document" });
    }
    all_words.sort_unstable();
    stats.median_words = all_words[all_words.len() / 2];
    stats.longest_words = all_words[all_words.len() - 1];
    let bin = |(from_words, (documents, text_bytes)): (u64, _)| LengthBin {
        from_words,
        below_words: (2 * from_words).max(1),
        documents,
        text_bytes,
    };
    stats.lengths = bins.into_iter().map(bin).collect();
    stats.n_sources = sources.len() as u64;
    let share = |(source, (documents, text_bytes))| SourceShare { source, documents, text_bytes };
    stats.sources = sources.into_iter().map(share).collect();
    stats.sources.sort_by(|a, b| b.text_bytes.cmp(&a.text_bytes).then(a.source.cmp(&b.source)));
    stats.sources.truncate(TOP_SOURCES);
    Ok(stats)
}

/// The host of an address, the first folder of a path, `.` for a bare name.
fn group(source: &str) -> &str {
    match source.split_once("://") {
        Some((_, rest)) => rest.split(['/', '?', '#']).next().unwrap_or(rest),
        None => source.split_once('/').map_or(".", |(folder, _)| folder),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Document, DocumentWriter, silent};

    #[test]
    fn counts_are_those_of_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jsonl.zst");
        let mut writer = DocumentWriter::create(&path).unwrap();
        for (source, text) in
            [("book/a.html", "one two three"), ("book/b.html", "ünö"), ("https://x.org/y?z", "")]
        {
            writer.write(&Document::new(source, None, text)).unwrap();
        }
        writer.finish().unwrap();
        let stats = corpus_stats(&path, &silent).unwrap();
        assert_eq!((stats.documents, stats.words, stats.chars, stats.text_bytes), (3, 4, 16, 18));
        assert_eq!((stats.median_words, stats.longest_words, stats.n_sources), (1, 3, 2));
        assert_eq!(stats.sources[0].source, "book");
        assert_eq!(stats.sources[1].source, "x.org");
        assert_eq!(
            stats.lengths.iter().map(|bin| (bin.from_words, bin.documents)).collect::<Vec<_>>(),
            [(0, 1), (1, 1), (2, 1)]
        );
    }
}
