//! `elmwood generate`: a model goes on from a prompt.

use std::io::{Read, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::Context;
use elmwood_engine::{CacheFormat, Cpu, Dtype};
use elmwood_infer::{
    Answer, BeamSearch, Constraint, Finish, Form, Generator, Request, Sampler, Sampling, Vocabulary,
};
use elmwood_model::{CONFIG_FILE, LocalModel, Special, Tokenizer, is_gguf};
use serde_json::json;

use crate::error::{Exit, Fault};
use crate::interrupt;
use crate::session::Session;

/// Longest text, in tokens, that there is room for unless more is asked for: keys and values take memory.
const CONTEXT: usize = 4096;

/// Tokens that are guessed ahead unless a number is given.
const SPECULATE: &str = "8";

/// Longest JSON schema or grammar that is read.
const MAX_FORM_BYTES: u64 = 1 << 20;

/// Which model, and how it chooses tokens.
#[derive(Debug, clap::Args)]
pub struct ModelArgs {
    /// The model: a GGUF file, or a folder in Hugging Face's layout
    #[arg(value_name = "MODEL")]
    pub model: PathBuf,
    /// 0 always takes the likeliest token; 1 follows the model's own probabilities
    #[arg(long, value_name = "T", default_value_t = 0.7)]
    pub temperature: f32,
    /// Choose among the K likeliest tokens
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..))]
    pub top_k: Option<u32>,
    /// Choose among the likeliest tokens that together have this probability
    #[arg(long, value_name = "P")]
    pub top_p: Option<f32>,
    /// Choose among tokens at least this many times as likely as the likeliest
    #[arg(long, value_name = "P")]
    pub min_p: Option<f32>,
    /// Make recent tokens less likely: divide their logits by this; 1 changes nothing
    #[arg(long, value_name = "X", default_value_t = 1.0, hide_default_value = true)]
    pub repeat_penalty: f32,
    /// Make recent tokens less likely: take this off their logits
    #[arg(
        long,
        value_name = "X",
        default_value_t = 0.0,
        hide_default_value = true,
        allow_negative_numbers = true
    )]
    pub presence_penalty: f32,
    /// Make recent tokens less likely: take this off their logits for each time they were there
    #[arg(
        long,
        value_name = "X",
        default_value_t = 0.0,
        hide_default_value = true,
        allow_negative_numbers = true
    )]
    pub frequency_penalty: f32,
    /// How many tokens are recent, those of the prompt among them
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub repeat_last: usize,
    /// The same seed writes the same text
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// End the text where it says this; may be given several times
    #[arg(long, value_name = "TEXT", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub stop: Vec<String>,
    /// Guess up to N tokens ahead where text repeats itself, 8 if N is left out: the same text, sooner
    #[arg(long, value_name = "N", num_args = 0..=1, require_equals = true, default_missing_value = SPECULATE,
        value_parser = clap::value_parser!(u32).range(1..=64))]
    pub speculate: Option<u32>,
    /// Room for so many tokens of prompt and answer, at most the model's context
    #[arg(long, value_name = "N", default_value_t = CONTEXT, value_parser = context)]
    pub context: usize,
    /// How keys and values are held: int8 takes half the memory of bf16, and is as good for most texts
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "bf16")]
    pub cache: Cache,
    /// Threads; all cores if left out
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub threads: usize,
}

/// How keys and values are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Cache {
    /// Single precision
    F32,
    /// Half as much
    Bf16,
    /// A quarter
    Int8,
}

impl From<Cache> for CacheFormat {
    fn from(cache: Cache) -> Self {
        match cache {
            Cache::F32 => Self::F32,
            Cache::Bf16 => Self::Bf16,
            Cache::Int8 => Self::Int8,
        }
    }
}

impl ModelArgs {
    /// Room for a text.
    #[must_use]
    pub fn generator<'m>(&self, model: &'m LocalModel, cpu: &'m Cpu) -> Generator<'m> {
        Generator::new(model, cpu, self.context, self.cache.into())
    }

    /// The model and its tokenizer.
    ///
    /// # Errors
    /// As [`load_model`].
    pub fn load(&self, cpu: &Cpu) -> anyhow::Result<(LocalModel, Tokenizer)> {
        load_model(&self.model, cpu)
    }

    /// Adds what to do where a prompt does not fit, but more room could be had.
    #[must_use]
    pub fn explain(&self, error: elmwood_infer::Error, model: &LocalModel) -> anyhow::Error {
        let most = model.architecture().context_length;
        let what = error.to_string();
        match error {
            elmwood_infer::Error::PromptTooLong { context, .. } if context < most => {
                let help = format!("or allow for more with --context, up to the model's {most} tokens");
                Fault::new(Exit::BadInput, what).help(help).into()
            }
            error => error.into(),
        }
    }

    /// How tokens are chosen.
    ///
    /// # Errors
    /// An option out of its range.
    pub fn sampler(&self) -> anyhow::Result<Sampler> {
        Ok(Sampler::new(Sampling {
            temperature: self.temperature,
            top_k: self.top_k.unwrap_or(0) as usize,
            top_p: self.top_p.unwrap_or(1.0),
            min_p: self.min_p.unwrap_or(0.0),
            repeat_penalty: self.repeat_penalty,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            repeat_last: self.repeat_last,
            seed: self.seed,
        })?)
    }

    /// Most tokens to guess ahead.
    #[must_use]
    pub fn speculate(&self) -> usize {
        self.speculate.unwrap_or(0) as usize
    }
}

/// A model and its tokenizer.
///
/// # Errors
/// A model that is not there or cannot be read.
pub fn load_model(path: &Path, cpu: &Cpu) -> anyhow::Result<(LocalModel, Tokenizer)> {
    must_be_model(path)?;
    let tokenizer = Tokenizer::open(path)?;
    Ok((LocalModel::load(path, cpu, Dtype::Bf16)?, tokenizer))
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
    /// Follow N texts at once and write the likeliest of them, where the likeliest token after each leads elsewhere
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64), conflicts_with_all =
        ["temperature", "top_k", "top_p", "min_p", "repeat_penalty", "presence_penalty", "frequency_penalty", "stop",
        "speculate", "json_schema", "regex", "grammar"])]
    pub beams: Option<u32>,
    /// How much longer texts are preferred with --beams: their log-probability is divided by the power of their length
    #[arg(long, value_name = "P", default_value_t = 1.0, allow_negative_numbers = true, requires = "beams")]
    pub length_penalty: f32,
    /// The form that the text must have.
    #[command(flatten)]
    pub form: FormArgs,
}

/// The form that a text must have: at most one.
#[derive(Debug, clap::Args)]
#[group(multiple = false, conflicts_with = "stop")]
pub struct FormArgs {
    /// Write JSON that this schema accepts: a file, or the schema itself
    #[arg(long, value_name = "FILE|JSON")]
    pub json_schema: Option<String>,
    /// Write a text that this regular expression matches as a whole
    #[arg(long, value_name = "RE")]
    pub regex: Option<String>,
    /// Write a text of the grammar in this file, in Lark's notation
    #[arg(long, value_name = "FILE")]
    pub grammar: Option<PathBuf>,
}

impl FormArgs {
    /// The form, if there is one.
    ///
    /// # Errors
    /// A file that cannot be read.
    fn form(&self) -> anyhow::Result<Option<Form>> {
        Ok(match (&self.json_schema, &self.regex, &self.grammar) {
            (Some(schema), ..) if schema.trim_start().starts_with('{') => {
                Some(Form::JsonSchema(schema.clone()))
            }
            (Some(file), ..) => Some(Form::JsonSchema(read_form(Path::new(file))?)),
            (_, Some(regex), _) => Some(Form::Regex(regex.clone())),
            (.., Some(file)) => Some(Form::Lark(read_form(file)?)),
            _ => None,
        })
    }
}

fn read_form(path: &Path) -> anyhow::Result<String> {
    let read = || -> std::io::Result<String> {
        let mut text = String::new();
        std::fs::File::open(path)?.take(MAX_FORM_BYTES + 1).read_to_string(&mut text)?;
        Ok(text)
    };
    let text = read().with_context(|| format!("`{}` cannot be read", path.display()))?;
    if text.len() as u64 > MAX_FORM_BYTES {
        return Err(Fault::new(Exit::BadInput, format!("`{}` is longer than 1 MiB", path.display())).into());
    }
    Ok(text)
}

/// Writes the model's text to stdout as it comes.
///
/// # Errors
/// A model that cannot be read, a form that cannot be had or was not reached, or stdout that cannot be written to.
pub fn run(args: &Args, session: &Session) -> anyhow::Result<()> {
    let mut sampler = args.model.sampler()?;
    let form = args.form.form()?;
    let cpu = Cpu::new(args.model.threads)?;
    let (model, tokenizer) = args.model.load(&cpu)?;
    let constrain = |form: &Form| Vocabulary::new(&tokenizer)?.constraint(form);
    let mut constraint: Option<Constraint> = form.as_ref().map(constrain).transpose()?;
    let prompt =
        if args.prompt == "-" { std::io::read_to_string(std::io::stdin())? } else { args.prompt.clone() };
    let special = if args.special { Special::Parse } else { Special::AsText };
    let mut ids = tokenizer.encode_prompt(&prompt, special);
    if ids.is_empty() {
        // An empty text begins where all texts begin.
        ids.push(tokenizer.bos());
    }
    if let Some(beams) = args.beams {
        return beam_search(
            args,
            session,
            &prompt,
            (&model, &tokenizer, &cpu),
            &BeamSearch {
                prompt: &ids,
                max_tokens: args.max_tokens,
                ends: tokenizer.end_of_generation(),
                beams: beams as usize,
                length_penalty: args.length_penalty,
            },
        );
    }
    let mut generator = args.model.generator(&model, &cpu);
    let mut out = std::io::stdout().lock();
    let mut written = Ok(());
    // The prompt is shown once it was read. What must have a form stands alone.
    let mut begin = if constraint.is_some() { "" } else { &*prompt };
    let request = Request {
        ends: tokenizer.end_of_generation(),
        constraint: constraint.as_mut(),
        speculate: args.model.speculate(),
        ..Request::new(&ids, args.max_tokens, &mut sampler)
    };
    let answer = generator.answer(&tokenizer, request, &args.model.stop, |text| {
        if !session.json && written.is_ok() {
            written = write!(out, "{}{text}", std::mem::take(&mut begin)).and_then(|()| out.flush());
        }
        if written.is_ok() && !interrupt::requested() {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    });
    let answer = answer.map_err(|error| args.model.explain(error, &model))?;
    if !session.json && written.is_ok() {
        written = writeln!(out);
    }
    written?;
    drop(out);
    interrupt::check()?;
    if !answer.has_form {
        let what = format!("the text is not complete: there were only {} tokens for it", answer.tokens);
        let fault = Fault::new(Exit::Partial, what);
        return Err(fault.help("allow for more with --max-tokens, or with --context").into());
    }
    if session.json {
        session.print("", &to_json(&prompt, &answer))?;
    }
    if session.verbose > 0 {
        session.note(&note(&answer));
    }
    Ok(())
}

/// Writes the best text when the search has ended.
fn beam_search(
    args: &Args,
    session: &Session,
    prompt: &str,
    (model, tokenizer, cpu): (&LocalModel, &Tokenizer, &Cpu),
    search: &BeamSearch<'_>,
) -> anyhow::Result<()> {
    // Each beam has a cache: no larger than it can get.
    let context = args.model.context.min(search.prompt.len() + search.max_tokens.max(1));
    let mut generator = Generator::new(model, cpu, context, args.model.cache.into());
    let on_step = |_| match interrupt::requested() {
        true => ControlFlow::Break(Finish::Interrupted),
        false => ControlFlow::Continue(()),
    };
    let found = generator.beam_search(search, on_step).map_err(|error| args.model.explain(error, model))?;
    interrupt::check()?;
    let text = |tokens: &[u32]| {
        let mut stream = tokenizer.decode_stream_after(search.prompt);
        let text: String = tokens.iter().map(|token| stream.push(*token)).collect();
        text + &stream.finish()
    };
    let best = found.first().map(|best| text(&best.tokens)).unwrap_or_default();
    let beams: Vec<_> = found
        .iter()
        .map(|one| json!({ "text": text(&one.tokens), "tokens": one.tokens.len(), "score": one.score, "finish": one.finish }))
        .collect();
    session.print(&format!("{prompt}{best}"), &json!({ "prompt": prompt, "text": best, "beams": beams }))?;
    Ok(())
}

fn to_json(prompt: &str, answer: &Answer) -> serde_json::Value {
    json!({
        "prompt": prompt,
        "text": answer.text,
        "finish": answer.finish,
        "tokens": answer.tokens,
        "tokens_per_sec": answer.rate(),
        "prompt_tokens": answer.prompt_tokens,
        "prompt_tokens_per_sec": answer.prompt_rate(),
        "drafted": answer.drafted,
        "accepted": answer.accepted,
    })
}

fn note(answer: &Answer) -> String {
    let Answer { tokens, prompt_tokens, drafted, accepted, .. } = answer;
    let (rate, prompt_rate) = (answer.rate(), answer.prompt_rate());
    let guesses =
        if *drafted > 0 { format!("; {accepted} of {drafted} guesses were right") } else { String::new() };
    format!(
        "prompt: {prompt_tokens} tokens, {prompt_rate:.0} tokens/s; text: {tokens} tokens, {rate:.1} tokens/s{guesses}"
    )
}

fn context(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| (2..=1 << 24).contains(n)).ok_or_else(|| "it must be 2 or more".to_owned())
}
