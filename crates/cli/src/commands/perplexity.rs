//! `elmwood perplexity`: how well a model predicts a text.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context;
use elmwood_engine::{Cpu, Dtype};
use elmwood_infer::{Windows, perplexity};
use elmwood_model::{LocalModel, Special, Tokenizer};
use serde_json::json;

use crate::commands::generate::must_be_model;
use crate::error::{Exit, Fault};
use crate::interrupt;
use crate::progress::Unit;
use crate::session::Session;

/// Options of `perplexity`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  elmwood perplexity model-q4_k_m.gguf --file held-out.txt")]
pub struct Args {
    /// The model: a GGUF file, or a folder in Hugging Face's layout
    #[arg(value_name = "MODEL")]
    pub model: PathBuf,
    /// The text to predict
    #[arg(long, value_name = "TEXT")]
    pub file: PathBuf,
    /// Tokens of a window, of which the second half is scored
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = window)]
    pub context: usize,
    /// At most so many windows; all if left out
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub chunks: Option<u32>,
    /// Threads; all cores if left out
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub threads: usize,
}

/// Prints the perplexity.
///
/// # Errors
/// A model or text that cannot be read, or a text that is too short.
pub fn run(args: &Args, session: &Session) -> anyhow::Result<()> {
    must_be_model(&args.model)?;
    let cpu = Cpu::new(args.threads)?;
    let tokenizer = Tokenizer::open(&args.model)?;
    let bytes =
        std::fs::read(&args.file).with_context(|| format!("cannot read `{}`", args.file.display()))?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let what = format!("`{}` is not UTF-8: byte {at} is none", args.file.display());
        Fault::new(Exit::BadInput, what)
    })?;
    // Exact rather than fast: a score is compared with others to a thousandth.
    let model = LocalModel::load(&args.model, &cpu, Dtype::F32)?;
    let tokens = tokenizer.encode_prompt(&text, Special::AsText);
    let bos = tokenizer.add_bos().then(|| tokenizer.bos());
    let limit = args.chunks.map(|n| n as usize);
    let windows = Windows { tokens: &tokens, context: args.context, limit, bos };
    let task = session.progress().task(
        "perplexity",
        Some((windows.count() * args.context) as u64),
        Unit::Count("tokens"),
    );
    let began = Instant::now();
    let on_window = |so_far: &elmwood_infer::Perplexity| {
        task.message(format!("perplexity {:.4}", so_far.value()));
        task.set((so_far.windows * args.context) as u64);
        !interrupt::requested()
    };
    let bytes_of = |token| tokenizer.token_bytes(token).len();
    let result = perplexity(&model, &cpu, windows, bytes_of, on_window)?;
    task.finish();
    interrupt::check()?;
    let result = result.expect("there is a window, and nobody stopped");
    let rate = (result.windows * args.context) as f64 / began.elapsed().as_secs_f64().max(1e-9);
    let (value, error, bits) = (result.value(), result.error(), result.bits_per_byte());
    let text = format!(
        "perplexity {value:.4} +/- {error:.4}, {bits:.4} bits per byte, over {} tokens of {} windows",
        result.tokens, result.windows
    );
    let json = json!({
        "perplexity": value,
        "standard_error": error,
        "nats_per_token": result.nats,
        "bits_per_byte": bits,
        "tokens": result.tokens,
        "bytes": result.bytes,
        "windows": result.windows,
        "context": args.context,
        "tokens_per_sec": rate,
    });
    Ok(session.print(&text, &json)?)
}

fn window(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| (4..=1 << 24).contains(n)).ok_or_else(|| "it must be 4 or more".to_owned())
}
