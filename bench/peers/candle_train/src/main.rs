//! Training steps of the benchmark model in candle, in f32 on the CPU: a peer of `bench/train.py`.
//!
//! Speaks the workers' protocol of `bench/README.md`; `RAYON_NUM_THREADS` says how many threads it takes. candle's
//! fused softmax, RMSNorm and RoPE have no way back, so they are written from candle's differentiable operations, in
//! the order that costs least: weights lie as `[inputs, outputs]`, since the gradient of a transposed view is added
//! element by element; the scale of the scores goes into q; a maximum that only guards an exponential is detached.

use std::io::BufRead;
use std::time::Instant;

use candle_core::{D, DType, Device, Result, Tensor, Var};
use candle_nn::{AdamW, Optimizer, ParamsAdamW};

const VOCAB: usize = 8192;
const DIM: usize = 512;
const LAYERS: usize = 8;
const HEADS: usize = 8;
const HEAD_DIM: usize = 64;
const FFN: usize = 1536;
const SEQ: usize = 512;
const ROWS: usize = 4;
const WARMUP_STEPS: usize = 2;

fn main() -> Result<()> {
    let mut trainer = Trainer::new()?;
    for _ in 0..WARMUP_STEPS {
        trainer.step()?;
    }
    let parameters: usize = trainer.model.parameters().iter().map(|var| var.elem_count()).sum();
    let threads = candle_core::utils::get_num_threads();
    println!(
        r#"{{"ready": true, "name": "candle", "version": "{}", "threads": {threads}, "parameters": {parameters}}}"#,
        version()
    );
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let Some(steps) = line.strip_prefix("go ") else { break };
        let steps: usize = steps.trim().parse().expect("`go` takes a number of steps");
        let (began, mut loss) = (Instant::now(), 0.0);
        for _ in 0..steps {
            loss = trainer.step()?;
        }
        let (seconds, tokens, rss) = (began.elapsed().as_secs_f64(), steps * ROWS * SEQ, peak_rss_bytes());
        println!(r#"{{"seconds": {seconds}, "tokens": {tokens}, "loss": {loss}, "peak_rss_bytes": {rss}}}"#);
    }
    Ok(())
}

struct Block {
    attn_norm: Var,
    q_norm: Var,
    k_norm: Var,
    ffn_norm: Var,
    qkv: Var,
    out: Var,
    ffn_in: Var,
    ffn_out: Var,
}

struct Model {
    embedding: Var,
    blocks: Vec<Block>,
    norm: Var,
    cos: Tensor,
    sin: Tensor,
    /// 0 where a token may look, minus infinity elsewhere.
    mask: Tensor,
}

impl Model {
    fn new(device: &Device) -> Result<Self> {
        let matrix =
            |inputs, outputs, std: f64| Var::randn_f64(0.0, std, (inputs, outputs), DType::F32, device);
        let ones = |n| Var::ones(n, DType::F32, device);
        let into = (DIM as f64).powf(-0.5);
        let out = into * (2.0 * LAYERS as f64).powf(-0.5);
        let block = |_| {
            Ok(Block {
                attn_norm: ones(DIM)?,
                q_norm: ones(HEAD_DIM)?,
                k_norm: ones(HEAD_DIM)?,
                ffn_norm: ones(DIM)?,
                qkv: matrix(DIM, 3 * DIM, into)?,
                out: matrix(DIM, DIM, out)?,
                ffn_in: matrix(DIM, 2 * FFN, into)?,
                ffn_out: matrix(FFN, DIM, out)?,
            })
        };
        let half = HEAD_DIM / 2;
        let angle = |i: usize| (i / HEAD_DIM) as f32 * 10000f32.powf(-((i % half) as f32) / half as f32);
        let angles: Vec<f32> = (0..SEQ * HEAD_DIM).map(angle).collect();
        let angles = Tensor::from_vec(angles, (SEQ, HEAD_DIM), device)?;
        let mask = (0..SEQ * SEQ).map(|i| if i % SEQ > i / SEQ { f32::NEG_INFINITY } else { 0.0 }).collect();
        Ok(Self {
            embedding: matrix(VOCAB, DIM, into)?,
            blocks: (0..LAYERS).map(block).collect::<Result<_>>()?,
            norm: ones(DIM)?,
            cos: angles.cos()?,
            sin: angles.sin()?,
            mask: Tensor::from_vec(mask, (SEQ, SEQ), device)?,
        })
    }

    fn parameters(&self) -> Vec<Var> {
        let blocks = self.blocks.iter().flat_map(|b| {
            [&b.attn_norm, &b.q_norm, &b.k_norm, &b.ffn_norm, &b.qkv, &b.out, &b.ffn_in, &b.ffn_out]
        });
        blocks.chain([&self.embedding, &self.norm]).cloned().collect()
    }

    /// Mean cross-entropy over `ROWS * SEQ` tokens.
    fn loss(&self, tokens: &Tensor, targets: &Tensor) -> Result<Tensor> {
        let mut x = self.embedding.index_select(tokens, 0)?;
        for block in &self.blocks {
            x = self.block(block, &x)?;
        }
        let logits = rms_norm(&x, &self.norm)?.matmul(&self.embedding.t()?)?;
        let shifted = logits.broadcast_sub(&logits.detach().max_keepdim(D::Minus1)?)?;
        let total = shifted.exp()?.sum(D::Minus1)?.log()?;
        let target = shifted.gather(&targets.unsqueeze(1)?, 1)?.squeeze(1)?;
        (total - target)?.mean_all()
    }

    fn block(&self, block: &Block, x: &Tensor) -> Result<Tensor> {
        let heads =
            rms_norm(x, &block.attn_norm)?.matmul(&block.qkv)?.reshape((ROWS, SEQ, 3, HEADS, HEAD_DIM))?;
        let part = |i| heads.narrow(2, i, 1)?.squeeze(2)?.transpose(1, 2)?.contiguous();
        let q = self.rotate(&rms_norm(&part(0)?, &block.q_norm)?)?;
        let k = self.rotate(&rms_norm(&part(1)?, &block.k_norm)?)?;
        let scores = (q * (HEAD_DIM as f64).powf(-0.5))?.matmul(&k.t()?)?.broadcast_add(&self.mask)?;
        let weights = scores.broadcast_sub(&scores.detach().max_keepdim(D::Minus1)?)?.exp()?;
        let weights = weights.broadcast_mul(&weights.sum_keepdim(D::Minus1)?.recip()?)?;
        let mixed = weights.matmul(&part(2)?)?.transpose(1, 2)?.reshape((ROWS * SEQ, DIM))?;
        let x = (x + mixed.matmul(&block.out)?)?;
        let inner = rms_norm(&x, &block.ffn_norm)?.matmul(&block.ffn_in)?;
        let (gate, up) = (inner.narrow(1, 0, FFN)?, inner.narrow(1, FFN, FFN)?);
        x + (gate.silu()? * up)?.matmul(&block.ffn_out)?
    }

    fn rotate(&self, x: &Tensor) -> Result<Tensor> {
        let (low, high) =
            (x.narrow(D::Minus1, 0, HEAD_DIM / 2)?, x.narrow(D::Minus1, HEAD_DIM / 2, HEAD_DIM / 2)?);
        let turned = Tensor::cat(&[high.neg()?, low], D::Minus1)?;
        x.broadcast_mul(&self.cos)? + turned.broadcast_mul(&self.sin)?
    }
}

fn rms_norm(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let scale = (x.sqr()?.mean_keepdim(D::Minus1)? + 1e-6)?.sqrt()?.recip()?;
    x.broadcast_mul(&scale)?.broadcast_mul(weight)
}

/// One step is: forward, backward, clip to norm 1, AdamW; always on the same random batch.
struct Trainer {
    model: Model,
    /// One that decays weights, for the matrices, and one that does not.
    optimizers: [AdamW; 2],
    tokens: Tensor,
    targets: Tensor,
}

impl Trainer {
    fn new() -> Result<Self> {
        let device = Device::Cpu;
        let model = Model::new(&device)?;
        let (matrices, vectors) = model.parameters().into_iter().partition(|var| var.rank() > 1);
        let adamw = |weight_decay| ParamsAdamW { lr: 3e-4, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay };
        let tokens = Tensor::rand(0f32, VOCAB as f32, (ROWS, SEQ + 1), &device)?.to_dtype(DType::U32)?;
        Ok(Self {
            model,
            optimizers: [AdamW::new(matrices, adamw(0.1))?, AdamW::new(vectors, adamw(0.0))?],
            targets: tokens.narrow(1, 1, SEQ)?.flatten_all()?,
            tokens: tokens.narrow(1, 0, SEQ)?.flatten_all()?,
        })
    }

    fn step(&mut self) -> Result<f32> {
        let loss = self.model.loss(&self.tokens, &self.targets)?;
        let mut gradients = loss.backward()?;
        let parameters = self.model.parameters();
        let mut square = 0.0;
        for parameter in &parameters {
            let gradient = gradients.get(parameter).expect("every parameter has a gradient");
            square += f64::from(gradient.sqr()?.sum_all()?.to_scalar::<f32>()?);
        }
        let clip = 1.0 / (square.sqrt() + 1e-6);
        if clip < 1.0 {
            for parameter in &parameters {
                let gradient = gradients.remove(parameter).expect("every parameter has a gradient");
                gradients.insert(parameter, (gradient * clip)?);
            }
        }
        for optimizer in &mut self.optimizers {
            optimizer.step(&gradients)?;
        }
        loss.to_scalar()
    }
}

/// The version of the library, which the lock file has.
fn version() -> &'static str {
    let entry = include_str!("../Cargo.lock").split("name = \"candle-core\"\nversion = \"").nth(1);
    entry.and_then(|rest| rest.split('"').next()).unwrap_or("of unknown version")
}

/// The most memory that this process has held; 0 where the system does not say.
fn peak_rss_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.strip_suffix(" kB"));
    line.and_then(|kib| kib.trim().parse::<u64>().ok()).unwrap_or(0) * 1024
}
