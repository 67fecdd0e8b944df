//! `elmwood tokenizer`: trains a byte-level BPE, and turns text into ids and back.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::Context;
use elmwood_model::{Special, TOKENIZER_FILE, Tokenizer};
use serde_json::json;

use crate::commands::data::partial;
use crate::error::{Exit, Fault};
use crate::pipeline::train_tokenizer;
use crate::session::Session;

/// The steps.
#[derive(Debug, clap::Subcommand)]
pub enum Verb {
    /// Learn a vocabulary from documents
    Train(TrainArgs),
    /// Turn text into token ids
    Encode(EncodeArgs),
    /// Turn token ids into text
    Decode(DecodeArgs),
}

/// Options of `tokenizer train`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  elmwood tokenizer train pages.jsonl --vocab-size 4096 --out tokenizer.json")]
pub struct TrainArgs {
    /// Documents as JSON lines, or plain text
    #[arg(value_name = "DOCUMENTS", required = true)]
    pub documents: Vec<PathBuf>,
    /// Entries, the 256 bytes and the special tokens included
    #[arg(long, value_name = "N", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(260..))]
    pub vocab_size: u32,
    /// The field that holds the text, for JSON lines
    #[arg(long, value_name = "NAME", default_value = "text")]
    pub text_field: String,
    /// The file to write
    #[arg(long, short, value_name = "FILE", default_value = "tokenizer.json")]
    pub out: PathBuf,
}

/// Options of `tokenizer encode`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  elmwood tokenizer encode model.gguf --text \"fn main() {}\"")]
pub struct EncodeArgs {
    /// A GGUF file, a model's folder, or a tokenizer.json
    #[arg(value_name = "MODEL")]
    pub tokenizer: PathBuf,
    /// The text; read from stdin if neither this nor --file is there
    #[arg(value_name = "TEXT")]
    pub words: Option<String>,
    /// The same as an option, for text that begins with a dash
    #[arg(long, value_name = "TEXT", conflicts_with = "words")]
    pub text: Option<String>,
    /// Encode a file
    #[arg(long, value_name = "FILE", conflicts_with_all = ["words", "text"])]
    pub file: Option<PathBuf>,
    /// Take names of special tokens in the text for the tokens, instead of for text
    #[arg(long)]
    pub special: bool,
    /// Begin with the token that begins texts, unless the text already does
    #[arg(long)]
    pub bos: bool,
}

/// Options of `tokenizer decode`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  elmwood tokenizer decode model.gguf 72 105 33")]
pub struct DecodeArgs {
    /// A GGUF file, a model's folder, or a tokenizer.json
    #[arg(value_name = "MODEL")]
    pub tokenizer: PathBuf,
    /// The ids; read from stdin if left out
    #[arg(value_name = "ID")]
    pub ids: Vec<u32>,
    /// Show special tokens by their names
    #[arg(long)]
    pub special: bool,
}

/// Does one step.
///
/// # Errors
/// Input that cannot be read, output that cannot be written.
pub fn run(verb: &Verb, session: &Session) -> anyhow::Result<()> {
    match verb {
        Verb::Train(args) => train(args, session),
        Verb::Encode(args) => encode(args, session),
        Verb::Decode(args) => decode(args, session),
    }
}

/// The tokenizer's file: `path` itself, or the one in the folder of a model.
#[must_use]
pub fn tokenizer_file(path: &Path) -> PathBuf {
    if path.is_dir() { path.join(TOKENIZER_FILE) } else { path.to_owned() }
}

fn train(args: &TrainArgs, session: &Session) -> anyhow::Result<()> {
    let vocab_size = args.vocab_size as usize;
    let (tokenizer, unreadable) =
        train_tokenizer(&args.documents, &args.text_field, vocab_size, &session.progress())?;
    tokenizer.save(&args.out)?;
    let text = format!("{} tokens into `{}`", tokenizer.vocab_size(), args.out.display());
    if tokenizer.vocab_size() < vocab_size {
        session.note(&format!("the text has too few pairs that repeat for {vocab_size} tokens"));
    }
    session.print(&text, &json!({ "vocab_size": tokenizer.vocab_size(), "file": args.out }))?;
    partial(&unreadable)
}

/// Prints the ids as a JSON array, with and without `--json`.
fn encode(args: &EncodeArgs, session: &Session) -> anyhow::Result<()> {
    let tokenizer = Tokenizer::open(&args.tokenizer)?;
    let bytes = match (args.words.as_ref().or(args.text.as_ref()), &args.file) {
        (Some(text), _) => text.clone().into_bytes(),
        (None, Some(file)) => {
            std::fs::read(file).with_context(|| format!("cannot read `{}`", file.display()))?
        }
        (None, None) => stdin()?,
    };
    let text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Fault::new(Exit::BadInput, format!("the text is not UTF-8: byte {at} is none"))
    })?;
    let mut ids = tokenizer.encode_with(&text, special(args.special));
    if args.bos {
        tokenizer.prepend_bos(&mut ids);
    }
    let ids = json!(ids);
    Ok(session.print(&ids.to_string(), &ids)?)
}

fn decode(args: &DecodeArgs, session: &Session) -> anyhow::Result<()> {
    let tokenizer = Tokenizer::open(&args.tokenizer)?;
    let ids =
        if args.ids.is_empty() { ids_of(&String::from_utf8_lossy(&stdin()?))? } else { args.ids.clone() };
    if let Some(id) = ids.iter().find(|id| **id as usize >= tokenizer.vocab_size()) {
        let what = format!("there is no token {id}: ids go from 0 to {}", tokenizer.vocab_size() - 1);
        return Err(Fault::new(Exit::BadInput, what).into());
    }
    let text = tokenizer.decode_with(&ids, special(args.special));
    Ok(session.print(&text, &json!({ "text": text }))?)
}

fn special(parse: bool) -> Special {
    if parse { Special::Parse } else { Special::AsText }
}

/// Ids in any of the ways in which they are printed: a JSON array, or numbers with spaces or commas.
fn ids_of(text: &str) -> anyhow::Result<Vec<u32>> {
    let words = text.split(|c: char| c.is_whitespace() || "[],".contains(c)).filter(|word| !word.is_empty());
    words
        .map(|word| {
            let wrong = || Fault::new(Exit::BadInput, format!("`{word}` is no token id"));
            Ok(word.parse().map_err(|_| wrong())?)
        })
        .collect()
}

fn stdin() -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::io::stdin().lock().read_to_end(&mut bytes).context("cannot read standard input")?;
    Ok(bytes)
}
