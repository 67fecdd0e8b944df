//! From pages to training rows.
//!
//! 1. [`Source`] tells what an input is; [`extract()`] reads it into one file of [`Document`]s;
//! 2. [`curate()`] drops what is no good text or occurs twice, holds a part out, and accounts for every
//!    record in a [`Funnel`];
//! 3. [`pack()`] turns documents into rows of tokens, losing none; [`PackedTokens`] reads them;
//! 4. [`corpus_stats()`] describes any file of documents.
//!
//! Two inputs need no download: [`rust_docs()`] finds the installed Rust documentation, and [`site::generate`]
//! writes a small site of made-up documentation.
//!
//! ```
//! use elmwood_data::{CurateSettings, ExtractSettings, Source, curate, extract, silent, site};
//!
//! let folder = tempfile::tempdir()?;
//! let [pages, documents, corpus] = ["pages", "documents.jsonl.zst", "corpus"].map(|name| folder.path().join(name));
//! site::generate(&pages, &site::SiteSettings { pages: 200, ..Default::default() }, &silent)?;
//! extract(&Source::detect(&pages)?, &ExtractSettings::default(), &documents, &silent)?;
//! let funnel = curate(&documents, &corpus, &CurateSettings::default(), &silent)?;
//! assert_eq!(funnel.read, funnel.kept + funnel.n_dropped() + funnel.quarantine.records);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Everything is a function of the input, the settings and the seed: the same bytes come out for any number
//! of threads and in any order of the file system. Records that cannot be read are counted in a
//! [`Quarantine`]; no input stops a run by being broken.

mod document;
mod error;
mod progress;
mod quarantine;

mod extract;
mod read_html;
mod read_text;
mod read_warc;
mod rust_docs;
mod sample;
pub mod site;
mod source;

mod boilerplate;
mod curate;
mod dedup;
mod fence;
mod quality;

mod pack;
mod packed;
mod stats;

mod parallel;
mod random;

pub use boilerplate::LineRules;
pub use curate::{CurateSettings, FUNNEL, Funnel, HELD_OUT, Part, REJECTED, Rejected, TRAIN, curate};
pub use dedup::{BANDS, ROWS, SHINGLE_WORDS, Signature, cluster, normalise};
pub use document::{Document, DocumentReader, DocumentWriter, MAX_LINE_BYTES};
pub use error::Error;
pub use extract::{ExtractSettings, ExtractStats, extract};
pub use pack::{PackSettings, PackStats, pack};
pub use packed::{PackedTokens, Row};
pub use progress::{Progress, silent};
pub use quality::{Rejection, Rules};
pub use quarantine::{BadRecord, MAX_BAD_SHARE, Quarantine};
pub use rust_docs::rust_docs;
pub use source::{Kind, Source};
pub use stats::{CorpusStats, corpus_stats};
