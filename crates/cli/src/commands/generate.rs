//! `elmwood generate`: a model goes on from a prompt.

use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use elmwood_engine::{Cpu, Dtype};
use elmwood_infer::{Generator, Sampler, Sampling};
use elmwood_model::{CONFIG_FILE, Model, Tokenizer, Weights};
use serde_json::json;

use crate::commands::tokenizer::tokenizer_file;
use crate::error::{Exit, Fault};
use crate::interrupt;
use crate::session::Session;

/// Options of `generate`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  elmwood generate runs/quickstart/model --prompt \"A `Vec` is\" --temperature 0.7")]
pub struct Args {
    /// The model: a folder in Hugging Face's layout
    #[arg(value_name = "MODEL")]
    pub model: PathBuf,
    /// What to go on from; `-` reads it from stdin
    #[arg(long, short, default_value = "")]
    pub prompt: String,
    /// Stop after this many tokens
    #[arg(long, value_name = "N", default_value_t = 128)]
    pub max_tokens: usize,
    /// 0 always takes the likeliest token; 1 follows the model's own probabilities
    #[arg(long, value_name = "T", default_value_t = 0.7, value_parser = temperature)]
    pub temperature: f32,
    /// Choose among the K likeliest tokens
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..))]
    pub top_k: Option<u32>,
    /// Choose among the likeliest tokens that together have this probability
    #[arg(long, value_name = "P", value_parser = probability)]
    pub top_p: Option<f32>,
    /// The same seed writes the same text
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// Writes the model's text to stdout as it comes.
///
/// # Errors
/// A model that cannot be read, or stdout that cannot be written to.
pub fn run(args: &Args, session: &Session) -> anyhow::Result<()> {
    if !args.model.join(CONFIG_FILE).is_file() {
        let what = format!("there is no model in `{}`: no `{CONFIG_FILE}`", args.model.display());
        return Err(Fault::new(Exit::Io, what)
            .help("name the folder of a model, as runs/NAME/model, which `elmwood grow` makes")
            .into());
    }
    let (config, weights) = Weights::load(&args.model)?;
    let tokenizer = Tokenizer::load(tokenizer_file(&args.model))?;
    let model = Model::new(config, &weights);
    drop(weights);
    let prompt =
        if args.prompt == "-" { std::io::read_to_string(std::io::stdin())? } else { args.prompt.clone() };
    let mut ids = vec![tokenizer.bos()];
    ids.extend(tokenizer.encode(&prompt));
    let sampling = Sampling {
        temperature: args.temperature,
        top_k: args.top_k.unwrap_or(0) as usize,
        top_p: args.top_p.unwrap_or(1.0),
        min_p: 0.0,
        seed: args.seed,
    };
    let cpu = Cpu::new(0)?;
    let mut generator = Generator::new(&model, &cpu, Dtype::Bf16);
    let mut out = std::io::stdout().lock();
    let mut written = Ok(());
    if !session.json {
        written = write!(out, "{prompt}");
    }
    let mut stream = tokenizer.decode_stream();
    let began = Instant::now();
    let on_token = |token| {
        let text = stream.push(token);
        if !session.json && written.is_ok() {
            written = write!(out, "{text}").and_then(|()| out.flush());
        }
        written.is_ok() && !interrupt::requested()
    };
    let eos = Some(tokenizer.eos());
    let tokens = generator.generate(&ids, args.max_tokens, eos, &mut Sampler::new(sampling), on_token)?;
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
