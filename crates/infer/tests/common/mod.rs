//! A small model with random weights.
#![allow(dead_code, reason = "no test uses everything")]

use std::ops::ControlFlow::Continue;

use elmwood_engine::{Cpu, Dtype};
use elmwood_infer::{Generator, Request, Sampler, Sampling};
use elmwood_model::{FloatType, LocalModel, OpenElmConfig, Scaling, Weights};

/// Tokens that the model of [`weights`] knows.
pub(crate) const VOCABULARY: u32 = 100;

pub(crate) fn weights_of(vocab_size: usize, max_context_length: usize) -> (OpenElmConfig, Weights) {
    let config = OpenElmConfig::new(&Scaling {
        model_dim: 32,
        num_transformer_layers: 3,
        head_dim: 8,
        num_gqa_groups: 2,
        qkv_multipliers: [0.5, 1.0],
        ffn_multipliers: [0.5, 2.0],
        ffn_dim_divisor: 16,
        vocab_size,
        max_context_length,
    })
    .unwrap();
    let weights = Weights::init(&config, 3);
    (config, weights)
}

pub(crate) fn weights() -> (OpenElmConfig, Weights) {
    weights_of(100, 40)
}

pub(crate) fn local_of(cpu: &Cpu, dtype: Dtype, (config, weights): (OpenElmConfig, Weights)) -> LocalModel {
    let folder = tempfile::tempdir().unwrap();
    weights.save(folder.path(), &config, FloatType::F32).unwrap();
    LocalModel::load(folder.path(), cpu, dtype).unwrap()
}

/// The model of [`weights`] as its folder makes it.
pub(crate) fn local(cpu: &Cpu, dtype: Dtype) -> LocalModel {
    local_of(cpu, dtype, weights())
}

pub(crate) fn greedy() -> Sampler {
    Sampler::new(Sampling::greedy()).unwrap()
}

/// The likeliest tokens after a prompt.
pub(crate) fn tokens(generator: &mut Generator<'_>, prompt: &[u32], max_tokens: usize) -> Vec<u32> {
    generator.generate(Request::new(prompt, max_tokens, &mut greedy()), |_| Continue(())).unwrap().tokens
}

/// Some text.
pub(crate) fn text(n: u32) -> Vec<u32> {
    (0..n).map(|i| (i * 37 + i * i % 11) % VOCABULARY).collect()
}
