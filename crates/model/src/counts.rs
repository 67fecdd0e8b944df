//! What a model costs before it is built: parameters, arithmetic and cache memory.
//!
//! Pure functions of the configuration; the tests hold them against the figures of the published models.

use crate::OpenElmConfig;

/// Number of parameters by part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParameterCounts {
    /// Token embedding, used again as the output matrix.
    pub embedding: u64,
    /// `qkv_proj` and `out_proj` of all layers.
    pub attention: u64,
    /// `proj_1` and `proj_2` of all layers.
    pub ffn: u64,
    /// All norm weights.
    pub norms: u64,
}

impl ParameterCounts {
    /// All parts together.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.embedding + self.matrices() + self.norms
    }

    /// Weights of the layers that multiply every token: attention and feed-forward.
    #[must_use]
    pub fn matrices(&self) -> u64 {
        self.attention + self.ffn
    }
}

/// Which part of the attention square is counted.
///
/// A report of hardware use must say which: at 2,048 tokens they differ by a few per cent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttentionCost {
    /// Each token attends to half of the sequence on average: what a causal model needs.
    CausalHalf,
    /// Each token attends to the whole sequence: what a kernel does that masks instead of skipping.
    FullSquare,
}

/// Counts the parameters of a model.
#[must_use]
pub fn parameters(config: &OpenElmConfig) -> ParameterCounts {
    let (hidden, head_dim) = (config.model_dim() as u64, config.head_dim() as u64);
    let mut counts = ParameterCounts {
        embedding: config.vocab_size() as u64 * hidden,
        attention: 0,
        ffn: 0,
        norms: hidden,
    };
    for layer in config.layers() {
        let (q, kv, ffn) = (layer.query_heads as u64, layer.kv_heads as u64, layer.ffn_dim as u64);
        counts.attention += (2 * q + 2 * kv) * head_dim * hidden;
        counts.ffn += 3 * ffn * hidden;
        counts.norms += 2 * hidden + 2 * head_dim;
    }
    counts
}

/// Floating-point operations per token of a forward pass over sequences of `seq` tokens.
///
/// Two per weight of attention, feed-forward and output matrix, and two per query head, dimension and
/// attended position, once for the scores and once for the mix. Norms, softmax and the like are left out.
///
/// # Source
/// Chowdhery et al. 2022 (PaLM), appendix B, there for the full square.
#[must_use]
pub fn forward_flops_per_token(config: &OpenElmConfig, seq: usize, attention: AttentionCost) -> f64 {
    let counts = parameters(config);
    let query_heads: usize = config.layers().map(|layer| layer.query_heads).sum();
    let per_position = 2.0 * seq as f64 * (config.head_dim() * query_heads) as f64;
    let square = match attention {
        AttentionCost::CausalHalf => per_position,
        AttentionCost::FullSquare => 2.0 * per_position,
    };
    2.0 * (counts.matrices() + counts.embedding) as f64 + square
}

/// Floating-point operations per token of a training step: the forward pass and twice as much backward.
///
/// Recomputed activations are not counted: the figure says what the mathematics needs.
#[must_use]
pub fn train_flops_per_token(config: &OpenElmConfig, seq: usize, attention: AttentionCost) -> f64 {
    3.0 * forward_flops_per_token(config, seq, attention)
}

/// Bytes that the keys and values of one token take in the cache, over all layers.
///
/// `element_bytes` is 2 for bf16 and 4 for f32. The width differs from layer to layer.
#[must_use]
pub fn kv_bytes_per_token(config: &OpenElmConfig, element_bytes: usize) -> usize {
    let kv_heads: usize = config.layers().map(|layer| layer.kv_heads).sum();
    2 * kv_heads * config.head_dim() * element_bytes
}

/// Number of RMSNorms that one token passes: four per layer and the last one.
#[must_use]
pub fn n_rms_norms(config: &OpenElmConfig) -> usize {
    4 * config.n_layers() + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout;

    #[test]
    fn the_published_models_have_the_published_figures() {
        let cases = [
            // parameters, attention and FFN in millions, norms, KV bytes, train FLOPs in 1e7
            (OpenElmConfig::openelm_270m(), 271_527_168, 51.6, 178.9, 65, 16_128, 183),
            (OpenElmConfig::openelm_450m(), 457_179_136, 89.5, 318.5, 81, 23_296, 303),
            (OpenElmConfig::openelm_1_1b(), 1_079_891_456, 221.5, 792.7, 113, 43_264, 701),
            (OpenElmConfig::openelm_3b(), 3_036_647_424, 644.9, 2293.2, 145, 83_968, 1930),
        ];
        for (config, total, attention, ffn, norms, kv_bytes, flops) in cases {
            let counts = parameters(&config);
            assert_eq!(counts.total(), total);
            let millions = |n: u64| (n as f64 / 1e5).round() / 10.0;
            assert_eq!((millions(counts.attention), millions(counts.ffn)), (attention, ffn));
            assert_eq!(n_rms_norms(&config), norms);
            assert_eq!(kv_bytes_per_token(&config, 2), kv_bytes);
            let train = train_flops_per_token(&config, 2048, AttentionCost::CausalHalf);
            let digits = if flops == 1930 { 1e8 } else { 1e7 };
            assert_eq!((train / digits).round() * digits / 1e7, f64::from(flops));
            let in_layout: usize = layout(&config).iter().map(|spec| spec.n_values()).sum();
            assert_eq!(in_layout as u64, total);
        }
    }

    #[test]
    fn the_full_square_doubles_attention_and_nothing_else() {
        let config = OpenElmConfig::openelm_270m();
        let at = |seq, cost| forward_flops_per_token(&config, seq, cost);
        let weights = at(0, AttentionCost::CausalHalf);
        let half = at(1000, AttentionCost::CausalHalf) - weights;
        let full = at(1000, AttentionCost::FullSquare) - weights;
        assert_eq!(full, 2.0 * half);
    }
}
