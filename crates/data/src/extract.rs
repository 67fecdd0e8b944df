//! From any input to one file of documents: read, extract, sample, on all cores, in order.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::document::{Document, DocumentReader, DocumentWriter};
use crate::parallel::ordered_map;
use crate::sample::{choose_files, choose_indices};
use crate::source::{Kind, Source, SourceFile};
use crate::{Error, Progress, Quarantine, read_html, read_text, read_warc};

/// How an input is read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ExtractSettings {
    /// At most this many documents, chosen by `seed`; `None` takes all. Of folders, every subfolder gives
    /// an equal share as far as it can, so that all kinds of pages appear; of other inputs, any record is as
    /// likely as any other.
    pub limit: Option<usize>,
    /// Which documents are chosen.
    pub seed: u64,
    /// Threads; 0 means one per core. The output is the same for any number.
    pub threads: usize,
    /// A text of fewer words is dropped as `near_empty`: nothing but a heading.
    pub min_words: usize,
}

impl Default for ExtractSettings {
    fn default() -> Self {
        Self { limit: None, seed: 0, threads: 0, min_words: 10 }
    }
}

/// What became of the records of an input: `found = documents + dropped + quarantine.records`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtractStats {
    /// Records found: HTML or text files, lines of JSON, or HTTP responses of WARC files.
    pub found: u64,
    /// Documents written.
    pub documents: u64,
    /// Records left out, by reason: `not_sampled`, `redirect`, `near_empty`, and of WARC files `not_found`
    /// (a status other than 200) and `not_html`.
    pub dropped: BTreeMap<String, u64>,
    /// Records that could not be read.
    pub quarantine: Quarantine,
    /// Bytes of the records that were read (HTML, text), before extraction.
    pub input_bytes: u64,
    /// UTF-8 bytes of the texts written.
    pub text_bytes: u64,
}

impl ExtractStats {
    /// Whether so many records were bad that the input is suspect; see [`Quarantine::is_suspect`].
    #[must_use]
    pub fn is_suspect(&self) -> bool {
        self.quarantine.is_suspect(self.found)
    }

    fn drop(&mut self, reason: &str, count: u64) {
        if count > 0 {
            *self.dropped.entry(reason.to_owned()).or_insert(0) += count;
        }
    }
}

/// What became of one record.
pub(crate) struct Outcome {
    pub(crate) bytes: u64,
    pub(crate) fate: Fate,
}

pub(crate) enum Fate {
    Document(Document),
    /// Left out for this reason.
    Dropped(&'static str),
    /// Unreadable for this reason.
    Bad {
        /// Where in the file, in bytes.
        offset: u64,
        /// Whether nothing that follows in the file can be read either.
        ends: bool,
        reason: String,
    },
}

impl Outcome {
    pub(crate) fn new(bytes: usize, fate: Fate) -> Self {
        Self { bytes: bytes as u64, fate }
    }
}

impl Fate {
    pub(crate) fn bad(reason: impl Into<String>) -> Self {
        Self::Bad { offset: 0, ends: false, reason: reason.into() }
    }
}

/// Reads `source` into the file of documents `out` (`.jsonl.zst`, `.jsonl.gz` or `.jsonl`).
///
/// Documents come in the order of the files' paths, and of the records in them. Memory is bounded by a few
/// records per thread. `progress` counts records.
///
/// # Errors
/// [`Error::Io`] if a file is refused by the operating system, [`Error::Write`] if `out` cannot be written,
/// [`Error::NothingLeft`] if no record gives a document; there is no `out` then. Bad records are no error.
pub fn extract(
    source: &Source,
    settings: &ExtractSettings,
    out: &Path,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<ExtractStats, Error> {
    let mut run = Run {
        settings,
        stats: ExtractStats::default(),
        writer: DocumentWriter::create(out)?,
        done: 0,
        total: None,
        unit: match source.kind {
            Kind::Html | Kind::Warc => "pages",
            Kind::Text | Kind::Jsonl => "documents",
        },
        progress,
    };
    match source.kind {
        Kind::Html => {
            let (stubs, pages): (Vec<_>, Vec<_>) = source.files.iter().partition(|f| read_html::is_stub(f));
            run.stats.found = stubs.len() as u64;
            run.stats.drop("redirect", stubs.len() as u64);
            run.files(pages, read_html::read)?;
        }
        Kind::Text => run.files(source.files.iter().collect(), read_text::read)?,
        Kind::Jsonl => run.jsonl(source)?,
        Kind::Warc => run.warc(source)?,
    }
    run.finish()
}

struct Run<'a> {
    settings: &'a ExtractSettings,
    stats: ExtractStats,
    writer: DocumentWriter,
    done: u64,
    total: Option<u64>,
    unit: &'static str,
    progress: &'a (dyn Fn(Progress) + Sync),
}

impl Run<'_> {
    /// Files of which each is one document.
    fn files(
        &mut self,
        files: Vec<&SourceFile>,
        read: impl Fn(&SourceFile) -> Result<Outcome, Error> + Sync,
    ) -> Result<(), Error> {
        self.stats.found += files.len() as u64;
        let names: Vec<&str> = files.iter().map(|f| f.name.as_str()).collect();
        let limit = self.settings.limit.unwrap_or(usize::MAX);
        let chosen = choose_files(&names, limit, self.settings.seed);
        self.stats.drop("not_sampled", (files.len() - chosen.len()) as u64);
        self.total = Some(chosen.len() as u64);
        let jobs = chosen.into_iter().map(|i| Ok(files[i]));
        ordered_map(
            self.settings.threads,
            jobs,
            |file| (file, read(file)),
            |(file, outcome)| self.take(&file.path, 1, outcome?),
        )
    }

    fn jsonl(&mut self, source: &Source) -> Result<(), Error> {
        let open = |file: &SourceFile| DocumentReader::open_field(&file.path, &source.text_field);
        let chosen = match self.settings.limit {
            None => None,
            Some(limit) => {
                let mut count = 0;
                for file in &source.files {
                    let mut reader = open(file)?;
                    reader.by_ref().try_for_each(|document| document.map(drop))?;
                    count += reader.documents();
                }
                self.total = Some(count);
                Some(choose_indices(count, limit as u64, self.settings.seed))
            }
        };
        let mut index = 0;
        for file in &source.files {
            let mut reader = open(file)?;
            for document in reader.by_ref() {
                let document = document?;
                let bytes = document.text.len() as u64;
                self.stats.found += 1;
                let fate = match &chosen {
                    Some(chosen) if !chosen.contains(&index) => Fate::Dropped("not_sampled"),
                    _ => Fate::Document(document),
                };
                index += 1;
                self.take(&file.path, index, Outcome { bytes, fate })?;
            }
            let quarantine = reader.quarantine();
            self.stats.found += quarantine.records;
            self.stats.quarantine.merge(quarantine);
        }
        Ok(())
    }

    fn warc(&mut self, source: &Source) -> Result<(), Error> {
        let chosen = match self.settings.limit {
            None => None,
            Some(limit) => {
                let mut count = 0;
                for file in &source.files {
                    for item in read_warc::open(file)? {
                        count += u64::from(read_warc::is_document(&item?));
                    }
                }
                Some(choose_indices(count, limit as u64, self.settings.seed))
            }
        };
        let mut index = 0;
        for file in &source.files {
            let mut record = 0;
            let jobs = read_warc::open(file)?.map(|item| {
                let item = item?;
                let Some(chosen) = &chosen else { return Ok(item) };
                if !read_warc::is_document(&item) {
                    return Ok(item);
                }
                index += 1;
                Ok(if chosen.contains(&(index - 1)) { item } else { read_warc::Item::Skipped("not_sampled") })
            });
            ordered_map(self.settings.threads, jobs, read_warc::read, |outcome| {
                record += 1;
                self.stats.found += 1;
                self.take(&file.path, record, outcome)
            })?;
        }
        Ok(())
    }

    /// Books one record, and writes it if it is a document.
    fn take(&mut self, file: &Path, record: u64, outcome: Outcome) -> Result<(), Error> {
        match outcome.fate {
            Fate::Document(document) if fewer_words(&document.text, self.settings.min_words) => {
                self.stats.input_bytes += outcome.bytes;
                self.stats.drop("near_empty", 1);
            }
            Fate::Document(document) => {
                self.stats.input_bytes += outcome.bytes;
                self.stats.documents += 1;
                self.stats.text_bytes += document.text.len() as u64;
                self.writer.write(&document)?;
            }
            Fate::Dropped(reason) => self.stats.drop(reason, 1),
            Fate::Bad { offset, ends: false, reason } => {
                self.stats.quarantine.add(file, record, offset, reason);
            }
            Fate::Bad { offset, ends: true, reason } => {
                self.stats.quarantine.add_truncated(file, record, offset, reason);
            }
        }
        self.done += 1;
        (self.progress)(Progress { stage: "extract", done: self.done, total: self.total, unit: self.unit });
        Ok(())
    }

    fn finish(self) -> Result<ExtractStats, Error> {
        let stats = self.stats;
        let dropped: u64 = stats.dropped.values().sum();
        assert_eq!(
            stats.found,
            stats.documents + dropped + stats.quarantine.records,
            "every record is booked once"
        );
        if stats.documents == 0 {
            return Err(Error::NothingLeft {
                unit: "document",
                step: "extraction",
                read: stats.found,
                dropped: crate::curate::in_words(&stats.dropped, stats.quarantine.records),
                remedy: "name an input that holds text, or lower `min_words`",
            });
        }
        self.writer.finish()?;
        Ok(stats)
    }
}

fn fewer_words(text: &str, min_words: usize) -> bool {
    min_words > 0 && text.split_whitespace().nth(min_words - 1).is_none()
}
