//! Our side of `bench/run kernels`: single products and attention, on request.
//!
//! Prints `{"ready": true, ..}`; then answers every line on standard input with one of JSON, `{"seconds", "flops",
//! "peak_gflops"}`:
//!
//! ```text
//! product f32|bf16 forward|input|weight M N K REPS
//! attention f32|bf16 forward|backward HEADS DIM TOKENS REPS
//! quit
//! ```

use std::io::{BufRead, Write};

use elmwood_engine::measure::{Product, attention, product};
use elmwood_engine::{Cpu, Dtype};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let threads = match &arguments[..] {
        [] => 0,
        [name, count] if name == "--threads" => count.parse().expect("--threads takes a number"),
        _ => panic!("usage: kernels [--threads N]"),
    };
    let cpu = Cpu::new(threads).expect("the instruction set is there");
    say(&format!(
        r#"{{"ready": true, "system": "elmwood", "isa": "{}", "threads": {}}}"#,
        cpu.isa(),
        cpu.threads().count()
    ));
    for line in std::io::stdin().lock().lines() {
        let line = line.expect("standard input is text");
        let words: Vec<&str> = line.split_whitespace().collect();
        let [what, dtype, kind, numbers @ ..] = &words[..] else { break };
        let dtype = match *dtype {
            "f32" => Dtype::F32,
            "bf16" => Dtype::Bf16,
            other => panic!("a type is f32 or bf16, not `{other}`"),
        };
        let numbers: Vec<usize> = numbers.iter().map(|n| n.parse().expect("sizes are numbers")).collect();
        let &[a, b, c, reps] = &numbers[..] else { panic!("three sizes and repetitions, not `{line}`") };
        let timing = match (*what, *kind) {
            ("product", "forward") => product(&cpu, dtype, Product::Forward, [a, b, c], reps),
            ("product", "input") => product(&cpu, dtype, Product::InputGradient, [a, b, c], reps),
            ("product", "weight") => product(&cpu, dtype, Product::WeightGradient, [a, b, c], reps),
            ("attention", "forward") => attention(&cpu, dtype, false, [a, b, c], reps),
            ("attention", "backward") => attention(&cpu, dtype, true, [a, b, c], reps),
            _ => panic!("unknown request `{line}`"),
        };
        say(&format!(
            r#"{{"seconds": {}, "flops": {}, "peak_gflops": {:.1}}}"#,
            timing.seconds, timing.flops, timing.peak_gflops
        ));
    }
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).expect("standard output is open");
}
