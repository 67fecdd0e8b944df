//! Training steps of the benchmark model in Burn, in f32 on its CPU backend "flex": a peer of `bench/train.py`.
//!
//! Speaks the workers' protocol of `bench/README.md`; `RAYON_NUM_THREADS` says how many threads it takes. Burn's fused
//! attention has no way back, so attention is written from Burn's own operations; so is RoPE in the half-rotating
//! form, since Burn's module turns neighbouring pairs by a matrix product. Burn clips each gradient by itself; the norm
//! over all of them is ours.

use std::io::BufRead;
use std::time::Instant;

use burn::module::{Initializer, Module, ModuleVisitor, Param, ParamGroup};
use burn::nn::loss::{CrossEntropyLoss, CrossEntropyLossConfig};
use burn::nn::{Embedding, EmbeddingConfig, Linear, LinearConfig, RmsNorm, RmsNormConfig};
use burn::optim::{AdamWConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::activation::{silu, softmax};
use burn::tensor::module::linear;
use burn::tensor::{Bool, Device, Distribution, Int, Tensor};

const VOCAB: usize = 8192;
const DIM: usize = 512;
const LAYERS: usize = 8;
const HEADS: usize = 8;
const HEAD_DIM: usize = 64;
const FFN: usize = 1536;
const SEQ: usize = 512;
const ROWS: usize = 4;
const WARMUP_STEPS: usize = 2;

fn main() {
    let mut trainer = Trainer::new();
    for _ in 0..WARMUP_STEPS {
        trainer.step();
    }
    let parameters = trainer.model().num_params();
    println!(
        r#"{{"ready": true, "name": "Burn flex", "version": "{}", "parameters": {parameters}}}"#,
        version(),
    );
    for line in std::io::stdin().lock().lines() {
        let line = line.expect("standard input is text");
        let Some(steps) = line.strip_prefix("go ") else { break };
        let steps: usize = steps.trim().parse().expect("`go` takes a number of steps");
        let (began, mut loss) = (Instant::now(), 0.0);
        for _ in 0..steps {
            loss = trainer.step();
        }
        let (seconds, tokens, rss) = (began.elapsed().as_secs_f64(), steps * ROWS * SEQ, peak_rss_bytes());
        println!(r#"{{"seconds": {seconds}, "tokens": {tokens}, "loss": {loss}, "peak_rss_bytes": {rss}}}"#);
    }
}

#[derive(Module, Debug)]
struct Block {
    attn_norm: RmsNorm,
    q_norm: RmsNorm,
    k_norm: RmsNorm,
    ffn_norm: RmsNorm,
    qkv: Linear,
    out: Linear,
    ffn_in: Linear,
    ffn_out: Linear,
}

#[derive(Module, Debug)]
struct Model {
    embedding: Embedding,
    blocks: Vec<Block>,
    norm: RmsNorm,
}

/// What the model needs beside its parameters.
struct Tables {
    cos: Tensor<4>,
    sin: Tensor<4>,
    /// True where a token may not look.
    future: Tensor<4, Bool>,
}

impl Model {
    fn new(device: &Device) -> Self {
        let normal = |std| Initializer::Normal { mean: 0.0, std };
        let norm = |dim| RmsNormConfig::new(dim).with_epsilon(1e-6).init(device);
        let matrix = |inputs, outputs, std| {
            LinearConfig::new(inputs, outputs).with_bias(false).with_initializer(normal(std)).init(device)
        };
        let into = (DIM as f64).powf(-0.5);
        let out = into * (2.0 * LAYERS as f64).powf(-0.5);
        let block = |_| Block {
            attn_norm: norm(DIM),
            q_norm: norm(HEAD_DIM),
            k_norm: norm(HEAD_DIM),
            ffn_norm: norm(DIM),
            qkv: matrix(DIM, 3 * DIM, into),
            out: matrix(DIM, DIM, out),
            ffn_in: matrix(DIM, 2 * FFN, into),
            ffn_out: matrix(FFN, DIM, out),
        };
        Self {
            embedding: EmbeddingConfig::new(VOCAB, DIM).with_initializer(normal(into)).init(device),
            blocks: (0..LAYERS).map(block).collect(),
            norm: norm(DIM),
        }
    }

    fn logits(&self, tokens: Tensor<2, Int>, tables: &Tables) -> Tensor<2> {
        let mut x = self.embedding.forward(tokens);
        for block in &self.blocks {
            x = block.forward(x, tables);
        }
        let x = self.norm.forward(x).reshape([ROWS * SEQ, DIM]);
        linear(x, self.embedding.weight.val().transpose(), None)
    }
}

impl Block {
    fn forward(&self, x: Tensor<3>, tables: &Tables) -> Tensor<3> {
        let heads = self.qkv.forward(self.attn_norm.forward(x.clone()));
        let part = |i| {
            let part = heads.clone().narrow(2, i * DIM, DIM);
            part.reshape([ROWS, SEQ, HEADS, HEAD_DIM]).swap_dims(1, 2)
        };
        let q = rotate(self.q_norm.forward(part(0)), tables);
        let k = rotate(self.k_norm.forward(part(1)), tables);
        let scores = q.mul_scalar((HEAD_DIM as f64).powf(-0.5)).matmul(k.transpose());
        let weights = softmax(scores.mask_fill(tables.future.clone(), f32::NEG_INFINITY), 3);
        let mixed = weights.matmul(part(2)).swap_dims(1, 2).reshape([ROWS, SEQ, DIM]);
        let x = x + self.out.forward(mixed);
        let inner = self.ffn_in.forward(self.ffn_norm.forward(x.clone()));
        let (gate, up) = (inner.clone().narrow(2, 0, FFN), inner.narrow(2, FFN, FFN));
        x + self.ffn_out.forward(silu(gate) * up)
    }
}

fn rotate(x: Tensor<4>, tables: &Tables) -> Tensor<4> {
    let (low, high) = (x.clone().narrow(3, 0, HEAD_DIM / 2), x.clone().narrow(3, HEAD_DIM / 2, HEAD_DIM / 2));
    x * tables.cos.clone() + Tensor::cat(vec![high.neg(), low], 3) * tables.sin.clone()
}

/// One step is: forward, backward, clip to norm 1, AdamW; always on the same random batch.
struct Trainer {
    /// Taken out while the optimiser changes it.
    model: Option<Model>,
    optimizer: ModuleOptimizer,
    loss: CrossEntropyLoss,
    tables: Tables,
    tokens: Tensor<2, Int>,
    targets: Tensor<1, Int>,
}

impl Trainer {
    fn new() -> Self {
        let device = Device::flex();
        let autodiff = device.clone().autodiff();
        let model = Model::new(&autodiff);
        let adamw = |decay| {
            AdamWConfig::new().with_beta_1(0.9).with_beta_2(0.95).with_epsilon(1e-8).with_weight_decay(decay)
        };
        let norms = ParamGroup::from_predicate("norm");
        let half = HEAD_DIM / 2;
        let frequency = |i: usize| 10000f32.powf(-((i % half) as f32) / half as f32);
        let angles: Vec<f32> = (0..SEQ * HEAD_DIM).map(|i| (i / HEAD_DIM) as f32 * frequency(i)).collect();
        let angles = Tensor::<1>::from_floats(angles.as_slice(), &autodiff).reshape([1, 1, SEQ, HEAD_DIM]);
        let future = Tensor::<2, Bool>::tril_mask([SEQ, SEQ], 0, &autodiff).reshape([1, 1, SEQ, SEQ]);
        let tables = Tables {
            cos: angles.clone().cos(),
            sin: angles.sin(),
            future: future.expand([ROWS, HEADS, SEQ, SEQ]),
        };
        let any = Distribution::Uniform(0.0, VOCAB as f64);
        let tokens = Tensor::<2>::random([ROWS, SEQ + 1], any, &autodiff).int();
        Self {
            model: Some(model),
            optimizer: adamw(0.1).init().with_group(norms, adamw(0.0).build(), None),
            loss: CrossEntropyLossConfig::new().init(&autodiff),
            tables,
            targets: tokens.clone().narrow(1, 1, SEQ).reshape([ROWS * SEQ]),
            tokens: tokens.narrow(1, 0, SEQ),
        }
    }

    fn model(&self) -> &Model {
        self.model.as_ref().expect("the model is only away during a step")
    }

    fn step(&mut self) -> f32 {
        let model = self.model.take().expect("the model is only away during a step");
        let logits = model.logits(self.tokens.clone(), &self.tables);
        let loss = self.loss.forward(logits, self.targets.clone());
        let gradients = GradientsParams::from_grads(loss.backward(), &model);
        let mut norm = Norm { gradients: &gradients, square: 0.0 };
        model.visit(&mut norm);
        let factor = 1.0 / (norm.square.sqrt() + 1e-6);
        let gradients = if factor < 1.0 {
            let mut clip = Clip { gradients, clipped: GradientsParams::new(), factor };
            model.visit(&mut clip);
            clip.clipped
        } else {
            gradients
        };
        self.model = Some(self.optimizer.step(3e-4, model, gradients));
        loss.into_scalar()
    }
}

/// Sums the squares of all gradients.
struct Norm<'a> {
    gradients: &'a GradientsParams,
    square: f32,
}

impl ModuleVisitor for Norm<'_> {
    fn visit_float<const D: usize>(&mut self, parameter: &Param<Tensor<D>>) {
        let gradient = self.gradients.get::<D>(parameter.id).expect("every parameter has a gradient");
        self.square += gradient.square().sum().into_scalar::<f32>();
    }
}

/// Scales all gradients.
struct Clip {
    gradients: GradientsParams,
    clipped: GradientsParams,
    factor: f32,
}

impl ModuleVisitor for Clip {
    fn visit_float<const D: usize>(&mut self, parameter: &Param<Tensor<D>>) {
        let gradient = self.gradients.remove::<D>(parameter.id).expect("every parameter has a gradient");
        self.clipped.register(parameter.id, gradient.mul_scalar(self.factor));
    }
}

/// The version of the library, which the lock file has.
fn version() -> &'static str {
    let entry = include_str!("../Cargo.lock").split("name = \"burn\"\nversion = \"").nth(1);
    entry.and_then(|rest| rest.split('"').next()).unwrap_or("of unknown version")
}

/// The most memory that this process has held; 0 where the system does not say.
fn peak_rss_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.strip_suffix(" kB"));
    line.and_then(|kib| kib.trim().parse::<u64>().ok()).unwrap_or(0) * 1024
}
