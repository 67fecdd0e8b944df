//! candle's quantised Phi-3 measured: a peer of `bench/infer.py`. One mode a call, one line of JSON.
//!
//! ```text
//! candle_infer prompt   MODEL [--tokens 512]               speed of one prompt
//! candle_infer generate MODEL [--depth 512] [--tokens 128] speed of tokens after `depth` others
//! candle_infer load     MODEL                              ends with the first token; the caller has the clock
//! candle_infer greedy   MODEL --ids FILE [--tokens 128]    likeliest continuation of the ids in FILE
//! ```
//!
//! `RAYON_NUM_THREADS` says how many threads it takes. Positions end at the model's context length, prompt included.

use std::collections::HashMap;
use std::fs::File;
use std::io::BufReader;
use std::time::Instant;

use candle_core::quantized::gguf_file::Content;
use candle_core::{D, Device, Error, Result, Tensor};
use candle_transformers::models::quantized_phi3::ModelWeights;

fn main() -> Result<()> {
    let options = Options::parse(std::env::args().skip(1))?;
    match options.mode.as_str() {
        "prompt" => prompt(&options),
        "generate" => generate(&options),
        "load" => load(&options),
        "greedy" => greedy(&options),
        mode => Err(Error::Msg(format!("no mode `{mode}`"))),
    }
}

fn prompt(options: &Options) -> Result<()> {
    let mut model = Model::open(options)?;
    let ids = some_ids(options.number("tokens", 512)?);
    // Warms up: weights are rearranged when they are first multiplied.
    model.add(&ids, 0)?;
    let start = Instant::now();
    model.add(&ids, 0)?;
    print_speed(ids.len(), start);
    Ok(())
}

fn generate(options: &Options) -> Result<()> {
    let mut model = Model::open(options)?;
    let (depth, tokens) = (options.number("depth", 512)?, options.number("tokens", 128)?);
    let first = model.add(&some_ids(depth), 0)?;
    // One token before the clock starts.
    let second = model.add(&[first], depth)?;
    let start = Instant::now();
    model.continuation(second, depth + 1, tokens)?;
    print_speed(tokens, start);
    Ok(())
}

fn load(options: &Options) -> Result<()> {
    let first = Model::open(options)?.add(&[1], 0)?;
    println!("{{\"first_token\": {first}, \"peak_mib\": {}}}", peak_mib());
    Ok(())
}

fn greedy(options: &Options) -> Result<()> {
    let text = std::fs::read_to_string(options.values.get("ids").map_or("", String::as_str))?;
    let ids: Vec<u32> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let mut model = Model::open(options)?;
    let first = model.add(&ids, 0)?;
    println!("{{\"ids\": {:?}}}", model.continuation(first, ids.len(), options.number("tokens", 128)?)?);
    Ok(())
}

struct Model(ModelWeights);

impl Model {
    fn open(options: &Options) -> Result<Self> {
        let mut file = BufReader::new(File::open(&options.model)?);
        let content = Content::read(&mut file)?;
        Ok(Self(ModelWeights::from_gguf(false, content, &mut file, &Device::Cpu)?))
    }

    /// Puts tokens behind the `depth` that are in the cache, all at once; the likeliest next one.
    fn add(&mut self, ids: &[u32], depth: usize) -> Result<u32> {
        let input = Tensor::new(ids, &Device::Cpu)?.unsqueeze(0)?;
        self.0.forward(&input, depth)?.squeeze(0)?.argmax(D::Minus1)?.to_scalar()
    }

    /// `token` and what follows it, `count` in all, each the likeliest after the last.
    fn continuation(&mut self, mut token: u32, depth: usize, count: usize) -> Result<Vec<u32>> {
        let mut ids = Vec::with_capacity(count);
        for place in depth..depth + count {
            ids.push(token);
            token = self.add(&[token], place)?;
        }
        Ok(ids)
    }
}

/// Any ids will do for timing.
fn some_ids(count: usize) -> Vec<u32> {
    (0..count as u32).map(|i| (i * 7919 + 13) % 32000).collect()
}

struct Options {
    mode: String,
    model: String,
    values: HashMap<String, String>,
}

impl Options {
    /// Two words, then pairs of `--name value`.
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Self> {
        let usage = || Error::Msg("usage: candle_infer MODE MODEL [--name value]..".into());
        let (mode, model) = (words.next().ok_or_else(usage)?, words.next().ok_or_else(usage)?);
        let mut values = HashMap::new();
        while let Some(name) = words.next() {
            let name = name.strip_prefix("--").ok_or_else(usage)?.to_string();
            values.insert(name, words.next().ok_or_else(usage)?);
        }
        Ok(Self { mode, model, values })
    }

    fn number(&self, name: &str, otherwise: usize) -> Result<usize> {
        let Some(text) = self.values.get(name) else { return Ok(otherwise) };
        text.parse().map_err(|_| Error::Msg(format!("--{name} takes a number, not `{text}`")))
    }
}

fn print_speed(tokens: usize, start: Instant) {
    let speed = tokens as f64 / start.elapsed().as_secs_f64();
    println!("{{\"tokens_per_sec\": {speed:.3}, \"peak_mib\": {}}}", peak_mib());
}

/// The most memory that this process has held; 0 where the system does not say.
fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.strip_suffix(" kB"));
    line.and_then(|kib| kib.trim().parse::<u64>().ok()).unwrap_or(0) / 1024
}
