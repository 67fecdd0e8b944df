//! Our side of `bench/run train` and `bench/run scaling`: training steps of a model, on request.
//!
//! `--model 36m`, the default, is one whose layers are all alike, in the size that `--dim` and `--layers` give;
//! `--model openelm-270m` has the published shape. `--rows` and `--seq` are the batch.
//! With `--recompute`, layers are run again on the way back.
//!
//! Prints `{"ready": true, ..}` after a warm-up; then, for every line `go N` on standard input, takes N steps and
//! prints `{"seconds", "tokens", "loss", "peak_rss_bytes"}`; for `profile N` prints `{"step_ms", "operators_ms"}`; ends
//! with `quit`. With `--floor` it only measures
//! what the machine gives and prints `{"peak_gflops", "bandwidth_gbs"}`.

use std::io::{BufRead, Write};
use std::time::Instant;

use elmwood_engine::{
    AdamW, Arena, Batch, Cpu, Dtype, Gradients, LossGradient, Moments, Tape, bandwidth_gbs, peak_gflops,
};
use elmwood_model::random::philox4x32;
use elmwood_model::{Model, OpenElmConfig, Scaling, Weights, counts};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let option = |name: &str, default: &str| {
        let at = arguments.iter().position(|argument| argument == name);
        at.and_then(|at| arguments.get(at + 1)).map_or(default.to_owned(), Clone::clone)
    };
    let number = |name: &str, default: usize| -> usize {
        option(name, &default.to_string()).parse().unwrap_or_else(|_| panic!("{name} takes a number"))
    };
    let threads = number("--threads", 2);
    let dtype = match option("--dtype", "bf16").as_str() {
        "f32" => Dtype::F32,
        "bf16" => Dtype::Bf16,
        other => panic!("--dtype is f32 or bf16, not `{other}`"),
    };
    if arguments.iter().any(|argument| argument == "--floor") {
        let cpu = Cpu::new(threads).expect("the instruction set is there");
        let (peak, bandwidth) = (peak_gflops(&cpu, dtype), bandwidth_gbs(&cpu));
        say(&format!(r#"{{"peak_gflops": {peak:.0}, "bandwidth_gbs": {bandwidth:.1}}}"#));
        return;
    }
    let (config, rows, seq) = match option("--model", "36m").as_str() {
        "36m" => {
            let (rows, seq) = (number("--rows", 4), number("--seq", 512));
            (uniform(number("--dim", 512), number("--layers", 8), seq), rows, seq)
        }
        "openelm-270m" => (OpenElmConfig::openelm_270m(), number("--rows", 1), number("--seq", 1024)),
        other => panic!("--model is 36m or openelm-270m, not `{other}`"),
    };
    let mut step = Step::new(config, rows, seq, dtype, threads);
    step.recompute = arguments.iter().any(|argument| argument == "--recompute");
    for _ in 0..2 {
        step.run();
    }
    let info = format!(
        r#"{{"ready": true, "system": "elmwood", "isa": "{}", "threads": {threads}, "parameters": {}, "flops_per_token": {:.0}, "peak_gflops": {:.0}}}"#,
        step.cpu.isa(),
        counts::parameters(step.model.config()).total(),
        counts::train_flops_per_token(step.model.config(), seq, counts::AttentionCost::CausalHalf),
        peak_gflops(&step.cpu, dtype),
    );
    say(&info);
    for line in std::io::stdin().lock().lines() {
        let line = line.expect("standard input is text");
        let (what, n) = line.split_once(' ').unwrap_or((&line, ""));
        if what == "quit" {
            break;
        }
        let n: usize = n.trim().parse().expect("`go` and `profile` take a number of steps");
        if what == "profile" {
            say(&step.profile(n));
            continue;
        }
        assert_eq!(what, "go", "a request is `go N`, `profile N` or `quit`");
        let began = Instant::now();
        let mut loss = 0.0;
        for _ in 0..n {
            loss = step.run();
        }
        let (seconds, tokens, rss) = (began.elapsed().as_secs_f64(), n * rows * seq, peak_rss_bytes());
        say(&format!(
            r#"{{"seconds": {seconds}, "tokens": {tokens}, "loss": {loss}, "peak_rss_bytes": {rss}}}"#
        ));
    }
}

/// A model whose layers are all alike: heads of 64, no sharing of keys, a feed-forward network three times as wide,
/// 8,192 tokens.
fn uniform(dim: usize, layers: usize, seq: usize) -> OpenElmConfig {
    OpenElmConfig::new(&Scaling {
        model_dim: dim,
        num_transformer_layers: layers,
        head_dim: 64,
        num_gqa_groups: 1,
        qkv_multipliers: [1.0, 1.0],
        ffn_multipliers: [3.0, 3.0],
        ffn_dim_divisor: 64,
        vocab_size: 8192,
        max_context_length: seq,
    })
    .expect("the shape is valid")
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).expect("standard output is open");
}

/// One training step, forward to optimiser, of one batch that stays the same.
struct Step {
    cpu: Cpu,
    arena: Arena,
    dtype: Dtype,
    recompute: bool,
    model: Model,
    gradients: Gradients,
    moments: Moments,
    batch: Batch,
    per_token: Vec<f32>,
    steps: u64,
}

impl Step {
    fn new(config: OpenElmConfig, rows: usize, seq: usize, dtype: Dtype, threads: usize) -> Self {
        let model = Model::new(config.clone(), &Weights::init(&config, 1));
        let vocab = u32::try_from(config.vocab_size()).expect("a token is a u32");
        let mut batch = Batch::new(seq);
        for row in 0..rows {
            let token = |i: usize| philox4x32([i as u32, row as u32, 0, 0], [7, 0])[0] % vocab;
            batch.push_window(&(0..=seq).map(token).collect::<Vec<_>>());
        }
        Self {
            cpu: Cpu::new(threads).expect("the instruction set is there"),
            arena: Arena::default(),
            dtype,
            recompute: false,
            gradients: Gradients::new(model.parameters()),
            moments: Moments::new(model.parameters()),
            model,
            per_token: vec![0.0; rows * seq],
            batch,
            steps: 0,
        }
    }

    /// Milliseconds of every operator in one of `n` steps, as JSON.
    fn profile(&mut self, n: usize) -> String {
        self.cpu.profile().switch(true);
        let began = Instant::now();
        for _ in 0..n {
            self.run();
        }
        let seconds = began.elapsed().as_secs_f64();
        self.cpu.profile().switch(false);
        let per_step = 1e3 / n as f64;
        let operators = self.cpu.profile().entries();
        let operators =
            operators.iter().map(|(name, entry)| format!(r#""{name}": {:.3}"#, entry.seconds * per_step));
        let operators: Vec<String> = operators.collect();
        format!(r#"{{"step_ms": {:.3}, "operators_ms": {{{}}}}}"#, seconds * per_step, operators.join(", "))
    }

    fn run(&mut self) -> f64 {
        let parameters = self.model.parameters();
        let mut tape = Tape::recording(&self.cpu, &mut self.arena, parameters, &self.batch, self.dtype)
            .recomputing(self.recompute);
        let hidden = self.model.forward(&mut tape);
        let n = self.batch.target_count() as f64;
        let gradient = LossGradient { gradients: &mut self.gradients, z: 0.0, grad_scale: (1.0 / n) as f32 };
        let loss = tape.cross_entropy(hidden, self.model.head(), &mut self.per_token, Some(gradient));
        tape.backward(&mut self.gradients);
        self.steps += 1;
        let norm = self.gradients.norm(&self.cpu);
        let clip = (1.0 / (norm + 1e-6)).min(1.0) as f32;
        let adamw =
            AdamW { lr: 3e-4, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, step: self.steps };
        self.moments.step(&self.cpu, &adamw, clip, &mut self.gradients, self.model.parameters_mut());
        self.gradients.clear();
        loss.cross_entropy / n
    }
}

/// The most memory that this process has held; 0 where the system does not say.
fn peak_rss_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib =
        line.and_then(|line| line.trim().strip_suffix(" kB")).and_then(|kib| kib.trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}
