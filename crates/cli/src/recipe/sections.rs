//! The keys of a recipe: one struct a section, with the defaults that make a name and a source enough.
//!
//! Names follow published checkpoints and the common trainers, so that a number found in a paper or a
//! `config.json` can be written down under the name it had there.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Where the documents come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub struct Source {
    /// What is to be read. The one key without a default.
    pub kind: SourceKind,
    /// The folder or file; absolute after loading. Not needed by `rust-docs` and `site`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// At most this many pages, sampled by the seed; all of them if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pages: Option<u64>,
    /// The field that holds the text, for `jsonl`.
    pub text_field: Text,
}

/// What a source is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum SourceKind {
    /// The documentation that rustup installed.
    #[default]
    RustDocs,
    /// A folder of HTML pages.
    Html,
    /// A folder of `.txt` files, or one.
    Text,
    /// JSON lines, plain, `.gz` or `.zst`.
    Jsonl,
    /// WARC files, as crawlers write them.
    Warc,
    /// A small site that Elmwood writes itself, for machines without any pages.
    Site,
}

impl SourceKind {
    /// The name in a recipe.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::RustDocs => "rust-docs",
            Self::Html => "html",
            Self::Text => "text",
            Self::Jsonl => "jsonl",
            Self::Warc => "warc",
            Self::Site => "site",
        }
    }
}

/// The name of a JSON field; `text` unless said otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Text(pub String);

impl Default for Text {
    fn default() -> Self {
        Self("text".into())
    }
}

/// Which documents are kept, and which are held out. Names and defaults are those of `elmwood-data`.
///
/// A document outside any limit is dropped. Shares are between 0 and 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Curate {
    /// Fewest words.
    pub min_words: usize,
    /// Most words.
    pub max_words: usize,
    /// Shortest mean word, in characters.
    pub min_mean_word_length: f64,
    /// Longest mean word, in characters.
    pub max_mean_word_length: f64,
    /// Smallest share of words with a letter.
    pub min_alphabetic_words: f64,
    /// Most `#`, and most ellipses, per word.
    pub max_symbols_per_word: f64,
    /// Largest share of lines that start with a bullet.
    pub max_bullet_lines: f64,
    /// Largest share of lines that end with an ellipsis.
    pub max_ellipsis_lines: f64,
    /// Fewest different words of `the, be, to, of, and, that, have, with`; 0 for other languages.
    pub min_stop_words: usize,
    /// Largest share of long lines that repeat an earlier one.
    pub max_duplicate_lines: f64,
    /// Largest share of the characters of long lines in lines that repeat an earlier one.
    pub max_duplicate_line_chars: f64,
    /// Largest share of characters in the most frequent 2-, 3-, and 4-gram of words.
    pub max_top_ngram_chars: [f64; 3],
    /// Largest share of characters in 5-grams of words that occurred before.
    pub max_duplicate_5_gram_chars: f64,
    /// Documents at least this alike count as one; 1 turns it off but for exact copies.
    pub near_duplicate_threshold: f64,
    /// A document is dropped if at least this share of it stands in shorter documents.
    pub max_contained: f64,
    /// The share of the documents that the model never sees and is judged by.
    pub held_out_share: f64,
    /// A document that shares more than this with the training text is not held out.
    pub max_held_out_overlap: f64,
}

impl Default for Curate {
    fn default() -> Self {
        let settings = elmwood_data::CurateSettings::default();
        let rules = &settings.rules;
        Self {
            min_words: rules.min_words,
            max_words: rules.max_words,
            min_mean_word_length: rules.min_mean_word_length,
            max_mean_word_length: rules.max_mean_word_length,
            min_alphabetic_words: rules.min_alphabetic_words,
            max_symbols_per_word: rules.max_symbols_per_word,
            max_bullet_lines: rules.max_bullet_lines,
            max_ellipsis_lines: rules.max_ellipsis_lines,
            min_stop_words: rules.min_stop_words,
            max_duplicate_lines: rules.max_duplicate_lines,
            max_duplicate_line_chars: rules.max_duplicate_line_chars,
            max_top_ngram_chars: rules.max_top_ngram_chars,
            max_duplicate_5_gram_chars: rules.max_duplicate_5_gram_chars,
            near_duplicate_threshold: settings.near_duplicate_threshold,
            max_contained: settings.max_contained,
            held_out_share: settings.held_out_share,
            max_held_out_overlap: settings.max_held_out_overlap,
        }
    }
}

/// The byte-level BPE that is trained on the corpus.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tokenizer {
    /// Entries, bytes and special tokens included.
    pub vocab_size: usize,
}

impl Default for Tokenizer {
    fn default() -> Self {
        Self { vocab_size: 4096 }
    }
}

/// An OpenELM: a published size, or one of your own. The names are those of Apple's `config.json`.
///
/// The default has 2.9 million parameters with a vocabulary of 4,096.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Model {
    /// One of the published sizes, in place of the dimensions below.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preset: Option<Preset>,
    /// Width of the residual stream.
    pub model_dim: usize,
    /// Number of layers.
    pub num_transformer_layers: usize,
    /// Width of one attention head.
    pub head_dim: usize,
    /// Query heads per key-value head; 1 is plain multi-head attention.
    pub num_gqa_groups: usize,
    /// Width of attention relative to `model_dim`, in the first and the last layer.
    pub qkv_multipliers: [f64; 2],
    /// Width of the feed-forward network relative to `model_dim`, in the first and the last layer.
    pub ffn_multipliers: [f64; 2],
    /// Feed-forward widths are multiples of this.
    pub ffn_dim_divisor: usize,
    /// The longest context the model is meant for, in tokens.
    pub max_context_length: usize,
}

/// The keys of [`Model`] that a preset stands for.
pub(crate) const DIMENSIONS: [&str; 7] = [
    "model_dim",
    "num_transformer_layers",
    "head_dim",
    "num_gqa_groups",
    "qkv_multipliers",
    "ffn_multipliers",
    "ffn_dim_divisor",
];

impl Default for Model {
    fn default() -> Self {
        Self {
            preset: None,
            model_dim: 192,
            num_transformer_layers: 6,
            head_dim: 32,
            num_gqa_groups: 2,
            qkv_multipliers: [0.5, 1.0],
            ffn_multipliers: [0.5, 4.0],
            ffn_dim_divisor: 64,
            max_context_length: 2048,
        }
    }
}

/// The published sizes of OpenELM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Preset {
    /// 271,527,168 parameters with a vocabulary of 32,000.
    #[serde(rename = "openelm-270m")]
    OpenElm270M,
    /// 457,179,136 parameters.
    #[serde(rename = "openelm-450m")]
    OpenElm450M,
    /// 1,079,891,456 parameters.
    #[serde(rename = "openelm-1.1b")]
    OpenElm1B,
    /// 3,036,647,424 parameters.
    #[serde(rename = "openelm-3b")]
    OpenElm3B,
}

/// How the model is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Train {
    /// The format that matrices are multiplied in.
    pub dtype: Dtype,
    /// Tokens in a row of a batch.
    pub seq_len: usize,
    /// Rows that are computed at once.
    pub batch_rows: usize,
    /// Batches whose gradients are added up before a step.
    pub grad_accum: usize,
    /// Train for this many tokens. At most one of `tokens`, `steps`, `epochs` may be given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
    /// Train for this many optimiser steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<u64>,
    /// Train for this many passes over the corpus.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epochs: Option<f64>,
    /// What turns gradients into steps.
    pub optimizer: Optimizer,
    /// Peak learning rate; with Muon, that of the embedding and the norms.
    pub lr: f64,
    /// The last learning rate, as a share of the peak.
    pub min_lr_ratio: f64,
    /// Steps in which the learning rate rises to its peak.
    pub warmup_steps: u64,
    /// Decay of matrices, per step and unit of learning rate; vectors are not decayed.
    pub weight_decay: f64,
    /// AdamW's memory of gradients.
    pub beta1: f64,
    /// AdamW's memory of squared gradients.
    pub beta2: f64,
    /// AdamW's epsilon.
    pub eps: f64,
    /// Muon's peak learning rate; `lr` if absent, since Muon's steps are made as long as AdamW's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub muon_lr: Option<f64>,
    /// Muon's memory of gradients; 0.95 if absent, which is long for a run of some hundred small steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub muon_momentum: Option<f64>,
    /// Gradients longer than this are scaled down to it; 0 turns it off.
    pub grad_clip: f64,
    /// Weight of the squared log-normaliser in the loss.
    pub z_loss: f64,
    /// Steps between two looks at the held-out documents.
    pub eval_every: u64,
    /// Steps between two checkpoints.
    pub save_every: u64,
    /// Checkpoints that are kept, the best one apart.
    pub keep_last: usize,
    /// The final model is the mean of this many last checkpoints; 1 is the last one alone.
    pub average_last: usize,
    /// Whether layers are computed again on the way back instead of kept: about a quarter more time for much less
    /// memory. The result does not depend on it.
    #[serde(skip_serializing_if = "is_false")]
    pub recompute: bool,
    /// CPU threads; all cores if absent. The result does not depend on it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<usize>,
    /// Seed of the initial weights and the data order; the recipe's if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
}

impl Default for Train {
    fn default() -> Self {
        Self {
            dtype: Dtype::Bf16,
            seq_len: 512,
            batch_rows: 8,
            grad_accum: 1,
            tokens: None,
            steps: None,
            epochs: None,
            optimizer: Optimizer::AdamW,
            lr: 3e-3,
            min_lr_ratio: 0.1,
            warmup_steps: 40,
            weight_decay: 0.1,
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-8,
            muon_lr: None,
            muon_momentum: None,
            grad_clip: 1.0,
            z_loss: 1e-4,
            eval_every: 50,
            save_every: 100,
            keep_last: 2,
            average_last: 1,
            recompute: false,
            threads: None,
            seed: None,
        }
    }
}

/// Whether a key may be left out.
fn is_false(value: &bool) -> bool {
    !value
}

impl Train {
    /// Muon's memory of gradients where a recipe says nothing: that of its authors.
    pub const DEFAULT_MUON_MOMENTUM: f64 = 0.95;

    /// Tokens of a run that says nothing about its length: some minutes for a small model on two cores.
    pub const DEFAULT_TOKENS: u64 = 2_000_000;

    /// How long the run is.
    #[must_use]
    pub fn length(&self) -> Length {
        match (self.tokens, self.steps, self.epochs) {
            (Some(tokens), ..) => Length::Tokens(tokens),
            (_, Some(steps), _) => Length::Steps(steps),
            (.., Some(epochs)) => Length::Epochs(epochs),
            (None, None, None) => Length::Tokens(Self::DEFAULT_TOKENS),
        }
    }

    /// Tokens that one optimiser step sees.
    #[must_use]
    pub fn tokens_per_step(&self) -> u64 {
        (self.seq_len * self.batch_rows * self.grad_accum) as u64
    }

    /// Optimiser steps of the run over a corpus of `corpus_tokens`; at least one.
    #[must_use]
    pub fn steps_for(&self, corpus_tokens: u64) -> u64 {
        let steps = match self.length() {
            Length::Steps(steps) => steps,
            Length::Tokens(tokens) => tokens.div_ceil(self.tokens_per_step()),
            Length::Epochs(epochs) => {
                (corpus_tokens as f64 * epochs / self.tokens_per_step() as f64).ceil() as u64
            }
        };
        steps.max(1)
    }
}

/// How long a run is, in the unit that the recipe chose.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Length {
    /// Tokens seen.
    Tokens(u64),
    /// Optimiser steps.
    Steps(u64),
    /// Passes over the corpus.
    Epochs(f64),
}

/// What turns gradients into steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Optimizer {
    /// AdamW for every parameter.
    AdamW,
    /// Muon for the matrices within the layers, AdamW for the embedding and the norms.
    Muon,
}

/// The format that matrices are multiplied in. Sums and master weights are f32 either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// Brain floating point: half the memory, twice the speed where the CPU knows it.
    Bf16,
    /// Single precision.
    F32,
}

/// What the finished model is asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Judge {
    /// One sample a prompt is written at each of these; 0 always takes the likeliest token.
    pub temperatures: Vec<f64>,
    /// What the samples go on from; without any, from the openings of held-out documents.
    pub prompts: Vec<String>,
    /// Tokens in a sample.
    pub sample_tokens: usize,
}

impl Default for Judge {
    fn default() -> Self {
        Self { temperatures: vec![0.0, 0.7, 1.0], prompts: Vec::new(), sample_tokens: 96 }
    }
}
