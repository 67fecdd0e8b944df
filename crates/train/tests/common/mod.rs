//! A small corpus and model for the tests of the loop.

use std::path::Path;

use elmwood_data::{Document, PackSettings, PackedTokens, pack, silent};
use elmwood_model::{OpenElmConfig, Scaling};
use elmwood_train::{Dtype, Muon, Settings};

/// Documents of bytes that a model can learn: sentences about counting.
pub(crate) fn corpus(path: &Path, documents: usize, seq_len: usize) -> PackedTokens {
    let text = |i: usize| {
        let sentences = (0..4 + i % 7).map(|j| format!("After {} comes {}. ", i + j, i + j + 1));
        Ok(Document::new(format!("page {i}"), None, sentences.collect::<String>()))
    };
    let encode = |text: &str| text.bytes().map(|byte| u32::from(byte) + 2).collect();
    let settings = PackSettings { seq_len, seed: 3, ..PackSettings::default() };
    pack((0..documents).map(text), &encode, 258, 0, 1, &settings, path, &silent).unwrap();
    PackedTokens::open(path).unwrap()
}

pub(crate) fn config(context: usize) -> OpenElmConfig {
    OpenElmConfig::new(&Scaling {
        model_dim: 32,
        num_transformer_layers: 3,
        head_dim: 8,
        num_gqa_groups: 2,
        qkv_multipliers: [0.5, 1.0],
        ffn_multipliers: [0.5, 2.0],
        ffn_dim_divisor: 16,
        vocab_size: 258,
        max_context_length: context,
    })
    .unwrap()
}

/// Muon beside the settings of [`settings`].
#[allow(dead_code, reason = "not every test that shares this module trains with it")]
pub(crate) const MUON: Muon = Muon { lr: 1e-2, momentum: 0.95 };

pub(crate) fn settings() -> Settings {
    Settings {
        dtype: Dtype::Bf16,
        batch_rows: 2,
        grad_accum: 2,
        steps: 60,
        lr: 1e-2,
        min_lr_ratio: 0.1,
        warmup_steps: 5,
        weight_decay: 0.1,
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        muon: None,
        grad_clip: 1.0,
        z_loss: 1e-4,
        eval_every: 5,
        eval_rows: 4,
        save_every: 4,
        keep_last: 2,
        average_last: 3,
        seed: 11,
    }
}
