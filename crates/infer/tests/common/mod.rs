//! A small model that the tests share.

#![allow(dead_code, reason = "not every test uses all of it")]

use elmwood_engine::{Cpu, Dtype};
use elmwood_model::{FloatType, LocalModel, OpenElmConfig, Scaling, Weights};

/// Tokens that it knows.
pub(crate) const VOCABULARY: u32 = 100;

/// Its shape, and fresh weights.
pub(crate) fn weights() -> (OpenElmConfig, Weights) {
    let config = OpenElmConfig::new(&Scaling {
        model_dim: 32,
        num_transformer_layers: 3,
        head_dim: 8,
        num_gqa_groups: 2,
        qkv_multipliers: [0.5, 1.0],
        ffn_multipliers: [0.5, 2.0],
        ffn_dim_divisor: 16,
        vocab_size: VOCABULARY as usize,
        max_context_length: 40,
    })
    .unwrap();
    let weights = Weights::init(&config, 3);
    (config, weights)
}

/// The same model as its folder makes it.
pub(crate) fn local(cpu: &Cpu, dtype: Dtype) -> LocalModel {
    let folder = tempfile::tempdir().unwrap();
    let (config, weights) = weights();
    weights.save(folder.path(), &config, FloatType::F32).unwrap();
    LocalModel::load(folder.path(), cpu, dtype).unwrap()
}

/// Some tokens.
pub(crate) fn tokens(n: u32) -> Vec<u32> {
    (0..n).map(|i| (i * 37 + i * i % 11) % VOCABULARY).collect()
}
