//! From pages to rows of tokens.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use elmwood_data::{
    CurateSettings, DocumentReader, ExtractSettings, ExtractStats, HELD_OUT, Kind, LineRules, PackSettings,
    PackStats, Quarantine, Rules, Source, TRAIN, curate, extract, pack, rust_docs, site,
};
use elmwood_model::{Progress as TokenizerProgress, Tokenizer};
use serde_json::json;

use super::{HELD_OUT_ROWS, Pipeline, TOKENIZER, TRAIN_ROWS, damaged, must_be_whole, to_value};
use crate::error::{Exit, Fault};
use crate::progress::{Progress, Task, Unit};
use crate::recipe::{Curate, SourceKind};
use crate::stages::{Finished, Key, Stage};

/// The file of documents that extraction writes.
const DOCUMENTS: &str = "documents.jsonl.zst";
/// The folder of the pages that Elmwood wrote itself, within that of extraction.
pub(super) const SITE: &str = "site";
/// Pages of the generated site where the recipe names no number.
const SITE_PAGES: u64 = 4000;
/// More text than this teaches a vocabulary nothing new.
const TOKENIZER_BYTES: u64 = 200 << 20;

impl Pipeline<'_> {
    pub(super) fn extract(&self) -> anyhow::Result<Finished> {
        let (recipe, source) = (self.recipe, &self.recipe.source);
        let (kind, input) = self.resolve_source()?;
        let inputs = match &input {
            Some(path) => vec![Key::of_path(path)?],
            None => Vec::new(),
        };
        let settings = json!({
            "kind": source.kind, "generated": input.is_none(), "path": input, "pages": source.pages, "text_field": source.text_field, "seed": recipe.seed,
        });
        let stage = Stage { name: "extract", version: 1, settings, inputs, resumable: false };
        self.run.stage(&stage, |folder, progress| {
            let watch = WatchData::new(progress);
            let path = match input {
                Some(path) => path,
                None => {
                    let pages = source.pages.unwrap_or(SITE_PAGES) as usize;
                    let settings = site::SiteSettings { pages, seed: recipe.seed, ..Default::default() };
                    let path = folder.join(SITE);
                    site::generate(&path, &settings, &|progress| watch.update(progress))?;
                    path
                }
            };
            let input = Source::of_kind(&path, kind)?.with_text_field(&source.text_field.0);
            let limit = source.pages.map(|pages| pages as usize);
            let settings = ExtractSettings { limit, seed: recipe.seed, ..Default::default() };
            let stats =
                extract(&input, &settings, &folder.join(DOCUMENTS), &|progress| watch.update(progress))?;
            watch.finish();
            warn_if(stats.is_suspect(), self.session, &stats);
            Ok(to_value(stats))
        })
    }

    pub(super) fn curate(&self, extracted: &Finished) -> anyhow::Result<Finished> {
        let settings = curate_settings(&self.recipe.curate, self.recipe.seed);
        let stage = Stage {
            name: "curate",
            version: 1,
            settings: to_value(&settings),
            inputs: vec![extracted.key.clone()],
            resumable: false,
        };
        self.run.stage(&stage, |folder, progress| {
            let watch = WatchData::new(progress);
            let documents = extracted.folder.join(DOCUMENTS);
            let funnel = curate(&documents, folder, &settings, &|progress| watch.update(progress));
            if funnel.is_err() {
                // Nothing may be left because nothing could be read.
                let mut reader = DocumentReader::open(&documents)?;
                reader.by_ref().try_for_each(|document| document.map(drop))?;
                must_be_whole(reader.quarantine())?;
            }
            let funnel = funnel?;
            watch.finish();
            must_be_whole(&funnel.quarantine)?;
            if funnel.held_out.documents == 0 {
                let what =
                    format!("no document was held out of {}, so the model could not be judged", funnel.kept);
                return Err(Fault::new(Exit::BadInput, what)
                    .help(
                        "give more documents, raise `curate.held_out_share` or `curate.max_held_out_overlap`",
                    )
                    .into());
            }
            Ok(to_value(funnel))
        })
    }

    pub(super) fn tokenizer(&self, curated: &Finished) -> anyhow::Result<Finished> {
        let vocab_size = self.recipe.tokenizer.vocab_size;
        let settings = json!({ "vocab_size": vocab_size });
        let inputs = vec![curated.key.clone()];
        let stage = Stage { name: "tokenizer", version: 1, settings, inputs, resumable: false };
        self.run.stage(&stage, |folder, progress| {
            let (tokenizer, unreadable) =
                train_tokenizer(&[curated.folder.join(TRAIN)], "text", vocab_size, progress)
                    .map_err(damaged)?;
            must_be_whole(&unreadable)?;
            tokenizer.save(folder.join(TOKENIZER))?;
            Ok(json!({ "vocab_size": tokenizer.vocab_size() }))
        })
    }

    pub(super) fn pack(&self, curated: &Finished, tokenizer: &Finished) -> anyhow::Result<Finished> {
        let settings = PackSettings {
            seq_len: self.recipe.train.seq_len,
            seed: self.recipe.seed,
            ..PackSettings::default()
        };
        let stage = Stage {
            name: "pack",
            version: 1,
            settings: to_value(&settings),
            inputs: vec![curated.key.clone(), tokenizer.key.clone()],
            resumable: false,
        };
        self.run.stage(&stage, |folder, progress| {
            let tokenizer = Tokenizer::load(tokenizer.folder.join(TOKENIZER)).map_err(damaged)?;
            let pack = |documents: &str, rows: &str| {
                let documents = curated.folder.join(documents);
                let (stats, unreadable) =
                    pack_file(&documents, "text", &tokenizer, &settings, &folder.join(rows), progress)
                        .map_err(damaged)?;
                must_be_whole(&unreadable)?;
                anyhow::Ok(stats)
            };
            let (train, held_out) = (pack(TRAIN, TRAIN_ROWS)?, pack(HELD_OUT, HELD_OUT_ROWS)?);
            Ok(json!({ "train": train, "held_out": held_out, "filled_share": train.filled_share() }))
        })
    }

    /// What is read: its kind and folder, or no folder for the site that Elmwood writes itself.
    fn resolve_source(&self) -> anyhow::Result<(Kind, Option<PathBuf>)> {
        let source = &self.recipe.source;
        let kind = match source.kind {
            SourceKind::RustDocs | SourceKind::Site | SourceKind::Html => Kind::Html,
            SourceKind::Text => Kind::Text,
            SourceKind::Jsonl => Kind::Jsonl,
            SourceKind::Warc => Kind::Warc,
        };
        let path = match source.kind {
            SourceKind::Site => None,
            SourceKind::RustDocs => {
                let found = rust_docs();
                if found.is_none() {
                    self.session.note(
                        "the Rust documentation is not installed (`rustup component add rust-docs` would do it): \
                         reading a small site of made-up documentation instead",
                    );
                }
                found
            }
            _ => {
                let path =
                    source.path.clone().expect("a recipe was checked to have a path where one is needed");
                if !path.exists() {
                    let here = std::env::current_dir().unwrap_or_default();
                    return Err(Fault::new(Exit::BadInput, format!("there is no `{}`", path.display()))
                        .at("source.path")
                        .help(format!(
                            "the working directory is `{}`; --set source.path=FOLDER changes it",
                            here.display()
                        ))
                        .into());
                }
                Some(path)
            }
        };
        Ok((kind, path))
    }
}

/// The recipe's section as the settings of `elmwood-data`.
#[must_use]
pub fn curate_settings(curate: &Curate, seed: u64) -> CurateSettings {
    CurateSettings {
        lines: LineRules::default(),
        rules: Rules {
            min_words: curate.min_words,
            max_words: curate.max_words,
            min_mean_word_length: curate.min_mean_word_length,
            max_mean_word_length: curate.max_mean_word_length,
            min_alphabetic_words: curate.min_alphabetic_words,
            max_symbols_per_word: curate.max_symbols_per_word,
            max_bullet_lines: curate.max_bullet_lines,
            max_ellipsis_lines: curate.max_ellipsis_lines,
            min_stop_words: curate.min_stop_words,
            max_duplicate_lines: curate.max_duplicate_lines,
            max_duplicate_line_chars: curate.max_duplicate_line_chars,
            max_top_ngram_chars: curate.max_top_ngram_chars,
            max_duplicate_5_gram_chars: curate.max_duplicate_5_gram_chars,
        },
        near_duplicate_threshold: curate.near_duplicate_threshold,
        max_contained: curate.max_contained,
        held_out_share: curate.held_out_share,
        max_held_out_overlap: curate.max_held_out_overlap,
        seed,
        threads: 0,
    }
}

/// Learns a vocabulary from files of documents, or of plain text; gives also what could not be read.
///
/// # Errors
/// Files that cannot be read or hold no document, a vocabulary that cannot be learned.
pub fn train_tokenizer(
    files: &[PathBuf],
    field: &str,
    vocab_size: usize,
    progress: &Progress,
) -> anyhow::Result<(Tokenizer, Quarantine)> {
    let mut failed = None;
    let unreadable = RefCell::default();
    let (mut documents, mut bytes) = (0, 0);
    let texts = files
        .iter()
        .flat_map(|path| match texts_of(path, field, &unreadable) {
            Ok(texts) => texts,
            Err(error) => Box::new(std::iter::once(Err(error))),
        })
        .map_while(|text| text.map_err(|error| failed = Some(error)).ok())
        .take_while(|text| {
            documents += 1;
            bytes += text.len() as u64;
            bytes <= TOKENIZER_BYTES
        });
    let task = progress.task("tokenizer", None, Unit::Bytes);
    let tokenizer = Tokenizer::train(texts, vocab_size, |progress| match progress {
        TokenizerProgress::Counted { bytes } => task.set(bytes),
        TokenizerProgress::Merged { done, wanted } => {
            task.message(format!("{done} of {wanted} tokens learned"))
        }
        _ => {}
    })?;
    if let Some(error) = failed {
        return Err(error);
    }
    let unreadable: Quarantine = unreadable.into_inner();
    if documents == 0 {
        let first = unreadable.first.first();
        let why = first.map_or(String::new(), |bad| format!("; line {}: {}", bad.line, bad.reason));
        let names: Vec<String> = files.iter().map(|path| path.display().to_string()).collect();
        let fault = Fault::new(Exit::BadInput, format!("there is no document to learn from{why}"));
        return Err(fault
            .at(names.join(", "))
            .help("give .txt or .md files, or JSON lines with the text in the field that --text-field names")
            .into());
    }
    task.message(format!("{} tokens learned", tokenizer.vocab_size()));
    task.finish();
    Ok((tokenizer, unreadable))
}

/// The texts of a file: one per document of JSON lines, one for a whole file of plain text.
fn texts_of<'a>(
    path: &Path,
    field: &str,
    unreadable: &'a RefCell<Quarantine>,
) -> anyhow::Result<Box<dyn Iterator<Item = anyhow::Result<String>> + 'a>> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    if [".txt", ".md"].iter().any(|ending| name.ends_with(ending)) {
        use anyhow::Context;
        let bytes = std::fs::read(path).with_context(|| format!("cannot read `{}`", path.display()))?;
        return Ok(Box::new(std::iter::once(Ok(String::from_utf8_lossy(&bytes).into_owned()))));
    }
    let mut reader = Some(DocumentReader::open_field(path, field)?);
    // A document that cannot be read is counted by the reader and stops nothing.
    Ok(Box::new(std::iter::from_fn(move || match reader.as_mut()?.next() {
        Some(document) => Some(document.map(|document| document.text).map_err(Into::into)),
        None => {
            unreadable.borrow_mut().merge(reader.take()?.quarantine());
            None
        }
    })))
}

/// Packs a file of documents; gives also what could not be read.
///
/// # Errors
/// Those of [`elmwood_data::pack`].
pub fn pack_file(
    documents: &Path,
    field: &str,
    tokenizer: &Tokenizer,
    settings: &PackSettings,
    out: &Path,
    progress: &Progress,
) -> anyhow::Result<(PackStats, Quarantine)> {
    let watch = WatchData::new(progress);
    let mut reader = DocumentReader::open_field(documents, field)?;
    let stats = pack(
        reader.by_ref(),
        &|text| tokenizer.encode(text),
        tokenizer.vocab_size() as u32,
        tokenizer.bos(),
        tokenizer.eos(),
        settings,
        out,
        &|progress| watch.update(progress),
    )?;
    watch.finish();
    Ok((stats, reader.quarantine().clone()))
}

fn warn_if(suspect: bool, session: &crate::session::Session, stats: &ExtractStats) {
    if suspect {
        let bad = stats.quarantine.records;
        session
            .note(&format!("warning: {bad} records could not be read; the report lists the first of them"));
    }
}

/// Shows the progress of `elmwood-data`: a task for each of its stages.
#[derive(Debug)]
pub struct WatchData<'a> {
    progress: &'a Progress,
    current: Mutex<Option<(&'static str, Task)>>,
}

impl<'a> WatchData<'a> {
    /// Nothing shown yet.
    #[must_use]
    pub fn new(progress: &'a Progress) -> Self {
        Self { progress, current: Mutex::new(None) }
    }

    /// Shows how far a stage is.
    pub fn update(&self, news: elmwood_data::Progress) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_none_or(|(stage, _)| *stage != news.stage) {
            if let Some((_, task)) = current.take() {
                task.finish();
            }
            let unit = if news.unit == "bytes" { Unit::Bytes } else { Unit::Count(news.unit) };
            *current = Some((news.stage, self.progress.task(news.stage, news.total, unit)));
        }
        if let Some((_, task)) = current.as_ref() {
            task.set(news.done);
        }
    }

    /// Ends the last task.
    pub fn finish(self) {
        if let Some((_, task)) = self.current.into_inner().unwrap_or_else(PoisonError::into_inner) {
            task.finish();
        }
    }
}
