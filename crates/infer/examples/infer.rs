//! Our side of `bench/run infer`: one measurement of local inference, one line of JSON.
//!
//! ```text
//! infer prompt MODEL --tokens N          tokens/s of a prompt
//! infer generate MODEL --depth D --tokens N   tokens/s of generating after D tokens
//! infer load MODEL                       seconds from the start of the program to the first token
//! infer plain MODEL --tokens N           tokens/s of greedy text after token 1, with its ids
//! infer logits MODEL --ids FILE --out FILE    logits after every one of the ids, in f32
//! ```
//! `--threads N`, `--cache f32|bf16|int8`, `--rounds N` and `--profile`, which tells where the time went, may follow.

use std::ops::ControlFlow::Continue;
use std::time::Instant;

use elmwood_engine::{CacheFormat, Cpu, Dtype, int8_peak_gops, read_gbs};
use elmwood_infer::{Generator, Request, Sampler, Sampling, Step};
use elmwood_model::LocalModel;

fn main() {
    let began = Instant::now();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let option = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        Some(arguments.get(at + 1).unwrap_or_else(|| panic!("{name} takes a value")).clone())
    };
    let number = |name, default| option(name).map_or(default, |n| n.parse().expect("a number"));
    let [mode, path, ..] = &arguments[..] else { panic!("usage: infer MODE MODEL [options]") };
    let cache = match option("--cache").as_deref() {
        Some("f32") => CacheFormat::F32,
        Some("int8") => CacheFormat::Int8,
        _ => CacheFormat::Bf16,
    };
    let cpu = Cpu::new(number("--threads", 0)).expect("the instruction set is there");
    let dtype = if matches!(mode.as_str(), "plain" | "logits") { Dtype::F32 } else { Dtype::Bf16 };
    let model = LocalModel::load(path, &cpu, dtype).unwrap_or_else(|error| panic!("{error}"));
    let (tokens, depth) = (number("--tokens", 512), number("--depth", 0));
    let rounds = number("--rounds", if mode == "plain" { 21 } else { 3 });
    let vocab = model.architecture().vocab_size as u32;
    let prompt = |n: usize| (0..n as u32).map(|i| (i * 7919 + 13) % vocab).collect::<Vec<u32>>();
    let mut sampler = Sampler::new(Sampling::greedy()).expect("settings within their ranges");
    let floors = || {
        let peak = int8_peak_gops(&cpu);
        format!(r#""int8_peak_gops": {peak:.1}, "read_gbs": {:.2}"#, read_gbs(&cpu))
    };
    let profiled = arguments.iter().any(|argument| argument == "--profile");
    cpu.profile().switch(profiled);
    match mode.as_str() {
        "load" => {
            let mut generator = Generator::new(&model, &cpu, 512, cache);
            let request = Request::new(&[1], 1, &mut sampler);
            generator.generate(request, |_| Continue(())).expect("a prompt of one token");
            println!(r#"{{"seconds": {:.4}, "peak_mib": {}}}"#, began.elapsed().as_secs_f64(), peak_mib());
        }
        "prompt" => {
            let (prompt, mut best) = (prompt(tokens), f64::INFINITY);
            // One for all rounds, as llama.cpp's context is: its memory is new only to the first.
            let mut sequence = model.sequence(&cpu, tokens, cache);
            for _ in 0..rounds {
                sequence.truncate(0);
                let began = Instant::now();
                model.advance(&cpu, &mut sequence, &prompt);
                best = best.min(began.elapsed().as_secs_f64());
            }
            let rate = tokens as f64 / best;
            println!(r#"{{"tokens_per_sec": {rate:.3}, {}, "peak_mib": {}}}"#, floors(), peak_mib());
        }
        "generate" => {
            let mut sequence = model.sequence(&cpu, depth + tokens + 1, cache);
            let mut draw = |logits: &[f32]| sampler.draw(logits, &[], None).expect("logits are numbers");
            let mut token = draw(model.advance(&cpu, &mut sequence, &prompt(depth.max(1))));
            let began = Instant::now();
            for _ in 0..tokens {
                token = draw(model.advance(&cpu, &mut sequence, &[token]));
            }
            let rate = tokens as f64 / began.elapsed().as_secs_f64();
            println!(r#"{{"tokens_per_sec": {rate:.3}, {}, "peak_mib": {}}}"#, floors(), peak_mib());
        }
        "plain" => {
            let (mut rates, mut ids) = (Vec::new(), Vec::new());
            for _ in 0..rounds {
                let mut generator = Generator::new(&model, &cpu, tokens + 2, CacheFormat::F32);
                let mut began = Instant::now();
                let on_step = |step| {
                    if matches!(step, Step::Prompt { .. }) {
                        began = Instant::now();
                    }
                    Continue(())
                };
                let request = Request::new(&[1], tokens, &mut sampler);
                ids = generator.generate(request, on_step).expect("one token").tokens;
                rates.push(tokens as f64 / began.elapsed().as_secs_f64());
            }
            rates.sort_unstable_by(f64::total_cmp);
            let rate = rates[rates.len() / 2];
            println!(r#"{{"tokens_per_sec": {rate:.1}, "ids": {ids:?}, "peak_mib": {}}}"#, peak_mib());
        }
        "logits" => {
            let text =
                std::fs::read_to_string(option("--ids").expect("--ids names a file")).expect("it is there");
            let ids: Vec<u32> = text.split_whitespace().map(|id| id.parse().expect("a number")).collect();
            let mut sequence = model.sequence(&cpu, ids.len(), CacheFormat::F32);
            let mut out = Vec::new();
            model.advance_with(&cpu, &mut sequence, &ids, 0, |_, row| {
                out.extend(row.iter().flat_map(|logit| logit.to_le_bytes()));
            });
            std::fs::write(option("--out").expect("--out names a file"), out).expect("it can be written");
            println!(r#"{{"rows": {}, "vocab": {vocab}}}"#, ids.len());
        }
        other => panic!("the mode is prompt, generate, load, plain or logits, not `{other}`"),
    }
    for (name, entry) in cpu.profile().entries() {
        let (calls, seconds) = (entry.calls, entry.seconds);
        let (gops, gbs) = (entry.flops / seconds / 1e9, entry.bytes / seconds / 1e9);
        eprintln!("{name:32} {calls:7} calls {seconds:8.3} s {gops:8.1} GOP/s {gbs:6.1} GB/s");
    }
}

/// The most memory that this process ever held.
fn peak_mib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<usize>().ok()).unwrap_or(0) / 1024
}
