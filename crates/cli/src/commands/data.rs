//! `elmwood data`: the steps from pages to packed tokens, each by itself.

use std::path::PathBuf;

use clap::ValueEnum;
use elmwood_data::{ExtractSettings, PackSettings, Quarantine, Source, corpus_stats, extract, rust_docs};
use elmwood_model::Tokenizer;
use serde_json::to_value;

use crate::commands::tokenizer::tokenizer_file;
use crate::error::{Exit, Fault};
use crate::pipeline::{WatchData, pack_file};
use crate::progress::{bytes, short};
use crate::session::Session;

/// The steps.
#[derive(Debug, clap::Subcommand)]
pub enum Verb {
    /// Take title and main text out of pages
    Extract(ExtractArgs),
    /// Turn documents into rows of tokens for training
    Pack(PackArgs),
    /// Count documents, words and bytes
    Stats(StatsArgs),
}

/// Options of `data extract`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  elmwood data extract my/pages --kind html --pages 1000 --out pages.jsonl.zst")]
pub struct ExtractArgs {
    /// A folder or file of pages; the installed Rust documentation if left out
    #[arg(value_name = "INPUT")]
    pub input: Option<PathBuf>,
    /// What the input is; guessed from the file names if left out
    #[arg(long, value_enum)]
    pub kind: Option<Kind>,
    /// The field that holds the text, for jsonl
    #[arg(long, value_name = "NAME", default_value = "text")]
    pub text_field: String,
    /// At most this many pages, sampled by the seed
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub pages: Option<u64>,
    /// Where the sample starts
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// JSON lines with `id`, `source`, `title` and `text`: .jsonl, .jsonl.gz or .jsonl.zst
    #[arg(long, short, value_name = "FILE", default_value = "documents.jsonl.zst")]
    pub out: PathBuf,
}

/// The kinds of source, as options.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// A folder of HTML pages
    Html,
    /// A folder of .txt files
    Text,
    /// JSON lines
    Jsonl,
    /// WARC files
    Warc,
}

impl From<Kind> for elmwood_data::Kind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Html => Self::Html,
            Kind::Text => Self::Text,
            Kind::Jsonl => Self::Jsonl,
            Kind::Warc => Self::Warc,
        }
    }
}

/// Options of `data pack`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  elmwood data pack pages.jsonl.zst --tokenizer tokenizer.json --seq-len 512 --out rows.safetensors")]
pub struct PackArgs {
    /// Documents as JSON lines
    #[arg(value_name = "DOCUMENTS")]
    pub documents: PathBuf,
    /// The tokenizer.json to use
    #[arg(long, value_name = "FILE")]
    pub tokenizer: PathBuf,
    /// The field that holds the text
    #[arg(long, value_name = "NAME", default_value = "text")]
    pub text_field: String,
    /// Tokens in a row
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(2..))]
    pub seq_len: u32,
    /// The file of rows to write
    #[arg(long, short, value_name = "FILE", default_value = "rows.safetensors")]
    pub out: PathBuf,
}

/// Options of `data stats`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  elmwood data stats pages.jsonl.zst --json")]
pub struct StatsArgs {
    /// Documents as JSON lines
    #[arg(value_name = "DOCUMENTS")]
    pub input: PathBuf,
}

/// Does one step.
///
/// # Errors
/// Input that cannot be read, output that cannot be written.
pub fn run(verb: &Verb, session: &Session) -> anyhow::Result<()> {
    match verb {
        Verb::Extract(args) => extract_pages(args, session),
        Verb::Pack(args) => pack_documents(args, session),
        Verb::Stats(args) => stats(args, session),
    }
}

/// The end of a command that passed over what it could not read: [`Exit::Partial`], with the first such place.
///
/// # Errors
/// If anything was passed over.
pub fn partial(unreadable: &Quarantine) -> anyhow::Result<()> {
    unreadable.first.first().map_or(Ok(()), |bad| {
        let Quarantine { records, .. } = unreadable;
        let what = format!("{records} records could not be read, the first of them: {}", bad.reason);
        Err(Fault::new(Exit::Partial, what).at(format!("{}:{}", bad.file, bad.line)).into())
    })
}

fn extract_pages(args: &ExtractArgs, session: &Session) -> anyhow::Result<()> {
    let input = match &args.input {
        Some(input) => input.clone(),
        None => rust_docs().ok_or_else(|| {
            Fault::new(Exit::BadInput, "no input, and the Rust documentation is not installed")
                .help("name a folder or file of pages, or `rustup component add rust-docs`")
        })?,
    };
    let source = match args.kind {
        Some(kind) => Source::of_kind(&input, kind.into())?,
        None => Source::detect(&input)?,
    };
    let source = source.with_text_field(&args.text_field);
    let limit = args.pages.map(|pages| pages as usize);
    let settings = ExtractSettings { limit, seed: args.seed, ..ExtractSettings::default() };
    let progress = session.progress();
    let watch = WatchData::new(&progress);
    let stats = extract(&source, &settings, &args.out, &|news| watch.update(news))?;
    watch.finish();
    let text = format!(
        "{} documents, {} of text, from {} of {} records into `{}`",
        stats.documents,
        bytes(stats.text_bytes as f64),
        bytes(stats.input_bytes as f64),
        stats.found,
        args.out.display(),
    );
    session.print(&text, &to_value(&stats)?)?;
    if stats.is_suspect() {
        let what = format!("{} of {} records could not be read", stats.quarantine.records, stats.found);
        return Err(Fault::new(Exit::Partial, what).at(input.display()).into());
    }
    Ok(())
}

fn pack_documents(args: &PackArgs, session: &Session) -> anyhow::Result<()> {
    let tokenizer = Tokenizer::load(tokenizer_file(&args.tokenizer))?;
    let settings = PackSettings { seq_len: args.seq_len as usize, ..PackSettings::default() };
    let progress = session.progress();
    let (stats, unreadable) =
        pack_file(&args.documents, &args.text_field, &tokenizer, &settings, &args.out, &progress)?;
    let text = format!(
        "{} documents, {} tokens in {} rows of {} into `{}`; {:.2} % of positions filled, {:.2} bytes a token",
        stats.documents,
        short(stats.tokens as f64),
        stats.rows,
        stats.seq_len,
        args.out.display(),
        100.0 * stats.filled_share(),
        stats.text_bytes as f64 / stats.tokens.max(1) as f64,
    );
    session.print(&text, &to_value(stats)?)?;
    partial(&unreadable)
}

fn stats(args: &StatsArgs, session: &Session) -> anyhow::Result<()> {
    let progress = session.progress();
    let watch = WatchData::new(&progress);
    let stats = corpus_stats(&args.input, &|news| watch.update(news))?;
    watch.finish();
    let mut text = format!(
        "documents   {}\ntext        {}, {} words, {} lines\nlength      median {} words, longest {}\n",
        stats.documents,
        bytes(stats.text_bytes as f64),
        short(stats.words as f64),
        short(stats.lines as f64),
        stats.median_words,
        stats.longest_words,
    );
    for bin in &stats.lengths {
        let range = format!("{}-{} words", bin.from_words, bin.below_words.saturating_sub(1));
        let share = bin.documents as f64 / stats.documents.max(1) as f64;
        let bar = "#".repeat((share * 50.0).round() as usize);
        text += &format!("  {range:<24} {:>8}  {bar}\n", bin.documents);
    }
    text += "largest sources\n";
    for source in stats.sources.iter().take(10) {
        text += &format!(
            "  {:<40} {:>8} documents, {}\n",
            source.source,
            source.documents,
            bytes(source.text_bytes as f64)
        );
    }
    session.print(&text, &to_value(&stats)?)?;
    partial(&stats.quarantine)
}
