//! `elmwood convert`: a model in another form, quantised or not.

use std::path::{Path, PathBuf};
use std::time::Instant;

use elmwood_engine::Cpu;
use elmwood_model::{CONFIG_FILE, Converted, Quantization, SourceModel};
use serde_json::json;

use crate::error::{Exit, Fault};
use crate::interrupt;
use crate::progress::{Unit, bytes, short};
use crate::session::Session;

/// Options of `convert`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  elmwood convert runs/quickstart/model quickstart.gguf --quant q8_0
  elmwood convert Phi-3.5-mini-instruct phi.gguf --quant q4_k_m
  elmwood convert stories15M.bin stories.gguf --tokenizer tokenizer.bin
  elmwood convert phi-q4_k_m.gguf phi-folder --quant bf16")]
pub struct Args {
    /// A folder in Hugging Face's layout, a GGUF file, or a model of llama2.c
    #[arg(value_name = "IN")]
    pub input: PathBuf,
    /// The GGUF file to write, if it ends in .gguf; else the folder, in Hugging Face's layout
    #[arg(value_name = "OUT")]
    pub output: PathBuf,
    /// What weights become: f32, f16, bf16, q8_0, q6_k, q5_k_m, q4_k_m .. (`--quant help` lists all); as they are if left out
    #[arg(long, value_name = "TYPE", value_parser = quantization)]
    pub quant: Option<Quantization>,
    /// The tokenizer of a model of llama2.c, or one in place of a folder's own
    #[arg(long, value_name = "FILE")]
    pub tokenizer: Option<PathBuf>,
    /// Replace OUT if it is there
    #[arg(long)]
    pub force: bool,
    /// Threads; all cores if left out. The bytes are the same for any number
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub threads: usize,
}

/// Writes the model.
///
/// # Errors
/// A model that cannot be read or has no such form, an output that is there already or cannot be written.
pub fn run(args: &Args, session: &Session) -> anyhow::Result<()> {
    check_paths(args)?;
    let began = Instant::now();
    let cpu = Cpu::new(args.threads)?;
    let source = SourceModel::open(&args.input, args.tokenizer.as_deref())?;
    if !source.has_tokenizer() {
        session.note(
            "the model has no tokenizer; programs can compute with the file, but read and write no text",
        );
    }
    let task = session.progress().task("convert", None, Unit::Bytes);
    let mut on_progress = |done, total| {
        if done < total {
            task.set_total(total);
        }
        task.set(done);
        !interrupt::requested()
    };
    let (to, out) = (args.quant, &args.output);
    let converted = if is_folder(out) {
        source.write_folder(&cpu, to, out, &mut on_progress)?
    } else {
        source.write_gguf(&cpu, to, out, &mut on_progress)?
    };
    let Some(converted) = converted else {
        return Ok(interrupt::check()?);
    };
    task.finish();
    if converted.requantised > 0 {
        let n = converted.requantised;
        session.note(&format!(
            "{n} tensors had few bits already, and lost accuracy twice; better start from f16 or f32"
        ));
    }
    print(args, session, &converted, began.elapsed().as_secs_f64())
}

fn print(args: &Args, session: &Session, converted: &Converted, seconds: f64) -> anyhow::Result<()> {
    let Converted { bytes: size, weights, tensors, bits_per_weight, requantised } = converted;
    let by_type: Vec<String> = tensors.iter().map(|(ty, n)| format!("{n} {ty}")).collect();
    let text = format!(
        "{} weights, {bits_per_weight:.2} bits each, {} in `{}`: {}",
        short(*weights as f64),
        bytes(*size as f64),
        args.output.display(),
        by_type.join(", "),
    );
    let json = json!({
        "file": args.output,
        "bytes": size,
        "weights": weights,
        "bits_per_weight": bits_per_weight,
        "tensors": tensors,
        "requantised": requantised,
        "seconds": seconds,
    });
    Ok(session.print(&text, &json)?)
}

/// Refuses what would destroy something, or is not there.
fn check_paths(args: &Args) -> Result<(), Fault> {
    let Args { input, output, .. } = args;
    let fault = |exit, what: String, help: &str| Err(Fault::new(exit, what).help(help));
    let is_model = if input.is_dir() { input.join(CONFIG_FILE).is_file() } else { input.is_file() };
    if !is_model {
        let why = if input.is_dir() { format!("no `{CONFIG_FILE}`") } else { "there is no such file".into() };
        let what = format!("there is no model in `{}`: {why}", input.display());
        return fault(Exit::Io, what, "name a folder with config.json, a GGUF file or a model of llama2.c");
    }
    if let Some(to) = args.quant.filter(|to| is_folder(output) && !to.is_plain()) {
        let what = format!("a folder holds plain numbers, not {to}");
        return fault(Exit::Usage, what, "take f32, f16 or bf16, or let OUT end in .gguf");
    }
    if is_folder(output) && input.is_dir() {
        let what = format!("`{}` is a folder already", input.display());
        return fault(Exit::Usage, what, "let OUT end in .gguf");
    }
    if same_file(input, output) {
        let what = format!("`{}` is both read and written", output.display());
        return fault(Exit::Usage, what, "choose another name for the new file");
    }
    if output.exists() && output.is_dir() != is_folder(output) {
        let is = if output.is_dir() { "a folder" } else { "a file" };
        let what = format!("`{}` is {is}", output.display());
        return fault(Exit::Usage, what, "a GGUF file ends in .gguf, a folder does not");
    }
    if output.exists() && !args.force {
        let what = format!("`{}` is there already", output.display());
        return fault(Exit::Usage, what, "choose another name, or replace it with --force");
    }
    Ok(())
}

/// Whether a folder is to be written, by its name.
fn is_folder(output: &Path) -> bool {
    output.extension().is_none_or(|extension| !extension.eq_ignore_ascii_case("gguf"))
}

fn same_file(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

fn quantization(text: &str) -> Result<Quantization, String> {
    Quantization::from_name(text).ok_or_else(|| {
        let names: Vec<&str> = Quantization::all().map(Quantization::name).collect();
        format!("it must be one of {}", names.join(", "))
    })
}
