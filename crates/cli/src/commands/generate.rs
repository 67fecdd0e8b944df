//! `elmwood generate`: a model goes on from a prompt.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use elmwood_engine::{CacheFormat, Cpu, Dtype};
use elmwood_infer::{Generator, Sampler, Sampling, Step};
use elmwood_model::{CONFIG_FILE, LocalModel, Special, Tokenizer, is_gguf};
use serde_json::json;

use crate::error::{Exit, Fault};
use crate::interrupt;
use crate::session::Session;

/// Longest text, in tokens, that there is room for unless more is asked for: keys and values take memory.
const CONTEXT: usize = 4096;

/// Which model, and how it chooses tokens.
#[derive(Debug, clap::Args)]
pub struct ModelArgs {
    /// The model: a GGUF file, or a folder in Hugging Face's layout
    #[arg(value_name = "MODEL")]
    pub model: PathBuf,
    /// 0 always takes the likeliest token; 1 follows the model's own probabilities
    #[arg(long, value_name = "T", default_value_t = 0.7, value_parser = temperature)]
    pub temperature: f32,
    /// Choose among the K likeliest tokens
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..))]
    pub top_k: Option<u32>,
    /// Choose among the likeliest tokens that together have this probability
    #[arg(long, value_name = "P", value_parser = probability)]
    pub top_p: Option<f32>,
    /// Choose among tokens at least this many times as likely as the likeliest
    #[arg(long, value_name = "P", value_parser = probability)]
    pub min_p: Option<f32>,
    /// The same seed writes the same text
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Room for so many tokens of prompt and answer, at most the model's context
    #[arg(long, value_name = "N", default_value_t = CONTEXT, value_parser = context)]
    pub context: usize,
    /// Threads; all cores if left out
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub threads: usize,
}

impl ModelArgs {
    /// The model and its tokenizer.
    ///
    /// # Errors
    /// A model that is not there or cannot be read.
    pub fn load(&self, cpu: &Cpu) -> anyhow::Result<(LocalModel, Tokenizer)> {
        must_be_model(&self.model)?;
        let tokenizer = Tokenizer::open(&self.model)?;
        Ok((LocalModel::load(&self.model, cpu, Dtype::Bf16)?, tokenizer))
    }

    /// How tokens are chosen.
    #[must_use]
    pub fn sampler(&self) -> Sampler {
        Sampler::new(Sampling {
            temperature: self.temperature,
            top_k: self.top_k.unwrap_or(0) as usize,
            top_p: self.top_p.unwrap_or(1.0),
            min_p: self.min_p.unwrap_or(0.0),
            seed: self.seed,
        })
    }
}

/// Refuses a path that holds no model, and says why.
///
/// # Errors
/// [`Fault`].
pub fn must_be_model(path: &Path) -> anyhow::Result<()> {
    if path.join(CONFIG_FILE).is_file() || path.is_file() && is_gguf(path) {
        return Ok(());
    }
    let why = match path {
        path if path.is_dir() => format!("no `{CONFIG_FILE}`"),
        path if path.is_file() => "it is neither a folder nor a GGUF file".to_owned(),
        _ => "there is nothing of that name".to_owned(),
    };
    Err(Fault::new(Exit::Io, format!("there is no model in `{}`: {why}", path.display()))
        .help("name a GGUF file or the folder of a model, as runs/NAME/model, which `elmwood grow` makes")
        .into())
}

/// Options of `generate`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  elmwood generate runs/quickstart/model --prompt \"A `Vec` is\" --temperature 0.7")]
pub struct Args {
    /// The model, and how it chooses tokens.
    #[command(flatten)]
    pub model: ModelArgs,
    /// What to go on from; `-` reads it from stdin
    #[arg(long, short, default_value = "")]
    pub prompt: String,
    /// Stop after this many tokens
    #[arg(long, value_name = "N", default_value_t = 128)]
    pub max_tokens: usize,
    /// Let names of special tokens in the prompt, as `<|user|>`, stand for these tokens
    #[arg(long)]
    pub special: bool,
}

/// Writes the model's text to stdout as it comes.
///
/// # Errors
/// A model that cannot be read, or stdout that cannot be written to.
pub fn run(args: &Args, session: &Session) -> anyhow::Result<()> {
    let cpu = Cpu::new(args.model.threads)?;
    let (model, tokenizer) = args.model.load(&cpu)?;
    let prompt =
        if args.prompt == "-" { std::io::read_to_string(std::io::stdin())? } else { args.prompt.clone() };
    let special = if args.special { Special::Parse } else { Special::AsText };
    let mut ids = tokenizer.encode_prompt(&prompt, special);
    if ids.is_empty() {
        // An empty text begins where all texts begin.
        ids.push(tokenizer.bos());
    }
    let mut generator = Generator::new(&model, &cpu, args.model.context, CacheFormat::Bf16);
    let mut out = std::io::stdout().lock();
    let mut written = Ok(());
    if !session.json {
        written = write!(out, "{prompt}");
    }
    let mut stream = tokenizer.decode_stream_after(&ids);
    let mut began = Instant::now();
    let on_step = |step| {
        match step {
            Step::Prompt { .. } => began = Instant::now(),
            Step::Token(token) => {
                let text = stream.push(token);
                if !session.json && written.is_ok() {
                    written = write!(out, "{text}").and_then(|()| out.flush());
                }
            }
        }
        written.is_ok() && !interrupt::requested()
    };
    let ends = tokenizer.end_of_generation();
    let tokens = generator.generate(&ids, args.max_tokens, ends, &mut args.model.sampler(), on_step)?;
    let rate = tokens.len() as f64 / began.elapsed().as_secs_f64().max(1e-9);
    if !session.json && written.is_ok() {
        written = writeln!(out, "{}", stream.finish());
    }
    written?;
    drop(out);
    let text = tokenizer.decode(&tokens);
    if session.json {
        let json = json!({ "prompt": prompt, "text": text, "tokens": tokens.len(), "tokens_per_sec": rate });
        session.print("", &json)?;
    }
    if session.verbose > 0 {
        session.note(&format!("{} tokens, {rate:.0} tokens/s", tokens.len()));
    }
    Ok(interrupt::check()?)
}

fn temperature(text: &str) -> Result<f32, String> {
    number(text, |x| (0.0..=100.0).contains(&x), "a number from 0 to 100")
}

fn probability(text: &str) -> Result<f32, String> {
    number(text, |x| x > 0.0 && x <= 1.0, "a number above 0, at most 1")
}

fn number(text: &str, good: impl Fn(f32) -> bool, expected: &str) -> Result<f32, String> {
    text.parse().ok().filter(|x| good(*x)).ok_or_else(|| format!("it must be {expected}"))
}

fn context(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| (2..=1 << 24).contains(n)).ok_or_else(|| "it must be 2 or more".to_owned())
}
