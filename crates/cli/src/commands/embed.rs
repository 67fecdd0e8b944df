//! `elmwood embed`: texts as vectors.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;

use anyhow::Context;
use elmwood_engine::{CacheFormat, Cpu};
use elmwood_infer::{Pool, embed, normalize};
use elmwood_model::Special;
use serde::Serialize;

use super::generate::load_model;
use crate::interrupt;
use crate::session::Session;

/// Options of `embed`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  elmwood embed runs/quickstart/model --file titles.txt --normalize > titles.jsonl")]
pub struct Args {
    /// The model: a GGUF file, or a folder in Hugging Face's layout
    #[arg(value_name = "MODEL")]
    pub model: PathBuf,
    /// A text; may be given several times
    #[arg(long, value_name = "TEXT", required_unless_present = "file")]
    pub text: Vec<String>,
    /// A file with a text on every line; `-` is stdin
    #[arg(long, value_name = "FILE", conflicts_with = "text")]
    pub file: Option<PathBuf>,
    /// What the vectors of a text's tokens become
    #[arg(long, value_enum, default_value = "mean")]
    pub pool: PoolArg,
    /// Scale every vector to length 1, so that a product of two is the cosine between them
    #[arg(long)]
    pub normalize: bool,
    /// Threads; all cores if left out
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub threads: usize,
}

/// How the vectors of tokens become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum PoolArg {
    /// Their mean
    Mean,
    /// That of the last token
    Last,
}

impl From<PoolArg> for Pool {
    fn from(pool: PoolArg) -> Self {
        match pool {
            PoolArg::Mean => Self::Mean,
            PoolArg::Last => Self::Last,
        }
    }
}

/// Writes a line of JSON for every text: its number, how many tokens it has, and its vector.
///
/// # Errors
/// A model or file that cannot be read, a text that is empty or does not fit, or stdout that cannot be written to.
pub fn run(args: &Args, _session: &Session) -> anyhow::Result<()> {
    let cpu = Cpu::new(args.threads)?;
    let (model, tokenizer) = load_model(&args.model, &cpu)?;
    let mut out = std::io::stdout().lock();
    for (index, text) in texts(args)?.enumerate() {
        interrupt::check()?;
        let text = text.with_context(|| format!("text {} cannot be read", index + 1))?;
        let tokens = tokenizer.encode_prompt(&text, Special::AsText);
        let mut vector = embed(&model, &cpu, &tokens, usize::MAX, args.pool.into(), CacheFormat::Bf16)
            .with_context(|| format!("text {} has no vector", index + 1))?;
        if args.normalize {
            normalize(&mut vector);
        }
        let line = Line { index, tokens: tokens.len(), embedding: &vector };
        writeln!(out, "{}", serde_json::to_string(&line)?)?;
    }
    Ok(())
}

/// A line of the output.
#[derive(Debug, Serialize)]
struct Line<'a> {
    /// From 0.
    index: usize,
    tokens: usize,
    embedding: &'a [f32],
}

type Texts = Box<dyn Iterator<Item = std::io::Result<String>>>;

fn texts(args: &Args) -> anyhow::Result<Texts> {
    Ok(match &args.file {
        None => Box::new(args.text.clone().into_iter().map(Ok)),
        Some(path) if path.as_os_str() == "-" => Box::new(std::io::stdin().lock().lines()),
        Some(path) => {
            let file = File::open(path).with_context(|| format!("`{}` cannot be read", path.display()))?;
            Box::new(BufReader::new(file).lines())
        }
    })
}
