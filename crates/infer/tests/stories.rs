//! A model that was really trained, of 260,000 weights: converted from llama2.c's format, it writes what a plain
//! reading of that format computes.

use std::fs;
use std::ops::ControlFlow::Continue;
use std::path::{Path, PathBuf};

use elmwood_engine::{CacheFormat, Cpu, Dtype};
use elmwood_infer::{Generator, Request, Sampler, Sampling, Windows, perplexity};
use elmwood_model::{LocalModel, Quantization, SourceModel, Tokenizer};

/// The model, or a notice that it is absent.
fn stories() -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/models/stories260K.bin");
    if !path.exists() {
        println!("skipped: {} is not there", path.display());
        return None;
    }
    Some(path)
}

/// llama2.c's model, as its paper and format describe it: one token at a time, in f32, with sums from left to right.
struct Plain {
    dim: usize,
    ffn: usize,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    vocab: usize,
    /// Every kind of tensor for all layers, in the order of the file.
    tensors: Vec<Vec<f32>>,
    keys: Vec<Vec<f32>>,
    values: Vec<Vec<f32>>,
}

impl Plain {
    fn read(path: &Path) -> Self {
        let bytes = fs::read(path).unwrap();
        let number = |i: usize| i32::from_le_bytes(bytes[4 * i..4 * i + 4].try_into().unwrap()) as usize;
        let [dim, ffn, layers, heads, kv_heads, vocab] = [0, 1, 2, 3, 4, 5].map(number);
        let kv_dim = dim / heads * kv_heads;
        let per_layer =
            [dim, dim * dim, dim * kv_dim, dim * kv_dim, dim * dim, dim, dim * ffn, dim * ffn, dim * ffn];
        let mut numbers = bytes[28..].chunks_exact(4).map(|x| f32::from_le_bytes(x.try_into().unwrap()));
        let mut take = |n: usize| numbers.by_ref().take(n).collect::<Vec<f32>>();
        let mut tensors = vec![take(vocab * dim)];
        tensors.extend(per_layer.map(|n| take(layers * n)));
        tensors.push(take(dim));
        let empty = vec![Vec::new(); layers];
        Self { dim, ffn, layers, heads, kv_heads, vocab, tensors, keys: empty.clone(), values: empty }
    }

    /// The logits after one more token.
    fn next(&mut self, token: usize) -> Vec<f32> {
        let (dim, head_dim) = (self.dim, self.dim / self.heads);
        let kv_dim = head_dim * self.kv_heads;
        let position = self.keys[0].len() / kv_dim;
        let [embedding, att_norm, wq, wk, wv, wo, ffn_norm, w1, w2, w3, norm] = &self.tensors[..] else {
            panic!("eleven kinds of tensors")
        };
        let mut x = embedding[token * dim..][..dim].to_vec();
        for layer in 0..self.layers {
            let of = |all: &'_ [f32], n: usize| all[layer * n..(layer + 1) * n].to_vec();
            let normed = rms_norm(&x, &of(att_norm, dim));
            let mut q = product(&of(wq, dim * dim), &normed);
            let mut k = product(&of(wk, dim * kv_dim), &normed);
            rotate(&mut q, head_dim, position);
            rotate(&mut k, head_dim, position);
            self.keys[layer].extend(k);
            self.values[layer].extend(product(&of(wv, dim * kv_dim), &normed));
            let mut heads = Vec::new();
            for head in 0..self.heads {
                let at = head / (self.heads / self.kv_heads) * head_dim;
                let row = |cache: &[f32], t: usize| cache[t * kv_dim + at..][..head_dim].to_vec();
                let q = &q[head * head_dim..][..head_dim];
                let scores: Vec<f32> = (0..=position)
                    .map(|t| dot(q, &row(&self.keys[layer], t)) / (head_dim as f32).sqrt())
                    .collect();
                let largest = scores.iter().copied().fold(f32::MIN, f32::max);
                let weights: Vec<f32> = scores.iter().map(|score| (score - largest).exp()).collect();
                let sum: f32 = weights.iter().sum();
                let mut out = vec![0.0; head_dim];
                for (t, weight) in weights.iter().enumerate() {
                    for (out, value) in out.iter_mut().zip(row(&self.values[layer], t)) {
                        *out += weight / sum * value;
                    }
                }
                heads.extend(out);
            }
            add(&mut x, &product(&of(wo, dim * dim), &heads));
            let normed = rms_norm(&x, &of(ffn_norm, dim));
            let gate = product(&of(w1, dim * self.ffn), &normed);
            let up = product(&of(w3, dim * self.ffn), &normed);
            let hidden: Vec<f32> =
                gate.iter().zip(up).map(|(gate, up)| gate / (1.0 + (-gate).exp()) * up).collect();
            add(&mut x, &product(&of(w2, dim * self.ffn), &hidden));
        }
        product(&embedding[..self.vocab * dim], &rms_norm(&x, norm))
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// `matrix · x`, the matrix row by row.
fn product(matrix: &[f32], x: &[f32]) -> Vec<f32> {
    matrix.chunks_exact(x.len()).map(|row| dot(row, x)).collect()
}

fn add(x: &mut [f32], y: &[f32]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

fn rms_norm(x: &[f32], weight: &[f32]) -> Vec<f32> {
    let scale = (dot(x, x) / x.len() as f32 + 1e-5).sqrt().recip();
    x.iter().zip(weight).map(|(x, weight)| x * scale * weight).collect()
}

/// Turns neighbours by angles that get slower along the head.
fn rotate(x: &mut [f32], head_dim: usize, position: usize) {
    for (i, pair) in x.chunks_exact_mut(2).enumerate() {
        let angle = position as f32 * 10_000_f32.powf(-((2 * i % head_dim) as f32) / head_dim as f32);
        let (sin, cos) = angle.sin_cos();
        (pair[0], pair[1]) = (pair[0] * cos - pair[1] * sin, pair[0] * sin + pair[1] * cos);
    }
}

/// The model in a form of few bits or of plain numbers.
fn converted(cpu: &Cpu, from: &Path, quantization: Quantization) -> (LocalModel, Tokenizer) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("stories.gguf");
    let source = SourceModel::open(from, None).unwrap();
    source.write_gguf(cpu, Some(quantization), &path, &mut |_, _| true).unwrap().unwrap();
    (LocalModel::load(&path, cpu, Dtype::F32).unwrap(), Tokenizer::open(&path).unwrap())
}

fn greedy(model: &LocalModel, cpu: &Cpu, n: usize) -> Vec<u32> {
    let mut sampler = Sampler::new(Sampling::greedy()).unwrap();
    let request = Request::new(&[1], n, &mut sampler);
    Generator::new(model, cpu, 512, CacheFormat::F32).generate(request, |_| Continue(())).unwrap().tokens
}

#[test]
fn it_writes_what_the_plain_computation_writes() {
    let Some(path) = stories() else { return };
    let cpu = Cpu::new(2).unwrap();
    let mut plain = Plain::read(&path);
    let (mut text, mut token) = (Vec::new(), 1);
    for _ in 0..200 {
        let logits = plain.next(token);
        token = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap();
        text.push(token as u32);
    }
    let (model, tokenizer) = converted(&cpu, &path, Quantization::F32);
    assert_eq!(greedy(&model, &cpu, 200), text);
    let text = tokenizer.decode(&text);
    assert!(text.starts_with("Once upon a time, there was a little girl named Lily."), "{text}");
}

/// What it writes in few bits, the whole model finds as likely as its own writing: 1 nat a token is some 2.7 choices.
#[test]
fn text_of_few_bits_reads_like_its_own() {
    let Some(path) = stories() else { return };
    let cpu = Cpu::new(2).unwrap();
    let (whole, tokenizer) = converted(&cpu, &path, Quantization::F32);
    for quantization in [Quantization::Q8_0, Quantization::Q5_1, Quantization::Q4_0] {
        let (model, _) = converted(&cpu, &path, quantization);
        let text = greedy(&model, &cpu, 256);
        let windows = Windows { tokens: &text, context: 256, limit: None, bos: Some(1) };
        let score = perplexity(&whole, &cpu, windows, |_| 1, |_| true).unwrap().unwrap();
        assert!(score.nats < 1.0, "{quantization}: {} nats: {}", score.nats, tokenizer.decode(&text));
    }
}
