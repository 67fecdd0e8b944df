//! OpenELM's forward pass over a tape: the one definition that training and evaluation share.
//!
//! ```text
//! x1 = x  + Wo · attention(Wqkv · norm(x))          heads and widths differ from layer to layer
//! x2 = x1 + W2 · (silu(a) · b),  [a; b] = W1 · norm(x1)
//! logits = E · norm(x_L)                            E is the token embedding
//! ```
//!
//! Mehta et al. 2024, arXiv:2404.14619.

use std::sync::Arc;

use elmwood_engine::{AttentionLayer, Heads, ParameterId, Parameters, RopeTable, Tape, Var};

use crate::layout::{TensorRole, layout};
use crate::weights::{NamedTensor, Weights};
use crate::{OpenElmConfig, RMS_NORM_EPS};

/// An OpenELM with its parameters, ready to compute.
#[derive(Debug)]
pub struct Model {
    config: OpenElmConfig,
    parameters: Parameters,
    embedding: ParameterId,
    layers: Vec<Layer>,
    norm: ParameterId,
}

#[derive(Debug)]
struct Layer {
    attn_norm: ParameterId,
    qkv_proj: ParameterId,
    attention: AttentionLayer,
    out_proj: ParameterId,
    ffn_norm: ParameterId,
    proj_1: ParameterId,
    proj_2: ParameterId,
}

impl Model {
    /// A model from its weights; parameters are in the order of [`layout`].
    ///
    /// # Panics
    /// If the weights are not those of the configuration.
    #[must_use]
    pub fn new(config: OpenElmConfig, weights: &Weights) -> Self {
        let specs = layout(&config);
        assert!(
            specs.iter().eq(weights.tensors().iter().map(|tensor| &tensor.spec)),
            "a model is made from its own weights"
        );
        let mut parameters = Parameters::new();
        for NamedTensor { spec, values } in weights.tensors() {
            let (rows, cols) = match spec.shape[..] {
                [rows, cols] => (rows, cols),
                _ => (1, values.len()),
            };
            parameters.add(rows, cols, values);
        }
        let find = |role, layer| {
            let wanted = specs.iter().position(|spec| spec.role == role && spec.layer == layer);
            parameters.id(wanted.expect("every layer has all tensors"))
        };
        let rope =
            RopeTable::new(config.max_context_length(), config.head_dim(), config.rope_freq_constant());
        let rope = Arc::new(rope);
        let layer = |(i, shape): (usize, crate::LayerShape)| Layer {
            attn_norm: find(TensorRole::AttnNorm, i),
            qkv_proj: find(TensorRole::QkvProj, i),
            attention: AttentionLayer {
                heads: Heads { query: shape.query_heads, kv: shape.kv_heads, dim: config.head_dim() },
                q_norm: find(TensorRole::QNorm, i),
                k_norm: find(TensorRole::KNorm, i),
                eps: RMS_NORM_EPS,
                rope: Arc::clone(&rope),
            },
            out_proj: find(TensorRole::OutProj, i),
            ffn_norm: find(TensorRole::FfnNorm, i),
            proj_1: find(TensorRole::Proj1, i),
            proj_2: find(TensorRole::Proj2, i),
        };
        let layers = config.layers().enumerate().map(layer).collect();
        let (embedding, norm) = (find(TensorRole::TokenEmbeddings, 0), find(TensorRole::FinalNorm, 0));
        Self { parameters, embedding, layers, norm, config }
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &OpenElmConfig {
        &self.config
    }

    /// The parameters in the order of [`layout`].
    #[must_use]
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// The parameters, to change.
    pub fn parameters_mut(&mut self) -> &mut Parameters {
        &mut self.parameters
    }

    /// The output matrix, which is the token embedding.
    #[must_use]
    pub fn head(&self) -> ParameterId {
        self.embedding
    }

    /// A copy of the parameters, to save.
    #[must_use]
    pub fn to_weights(&self) -> Weights {
        let mut weights = Weights::zeros(&self.config);
        for ((_, values), parameter) in weights.tensors_mut().zip(self.parameters.iter()) {
            values.copy_from_slice(parameter.f32());
        }
        weights
    }

    /// The hidden states after the final norm, `[tokens, model_dim]`, of the tape's batch.
    ///
    /// # Panics
    /// If the tape was made for other parameters, a token is outside the vocabulary, or a position outside
    /// the context.
    pub fn forward<'a>(&'a self, tape: &mut Tape<'a>) -> Var {
        let mut x = tape.embedding(self.embedding);
        for layer in &self.layers {
            x = tape.segment(x, |tape, x| layer.forward(tape, x));
            tape.keep_only(x);
        }
        tape.rms_norm(x, self.norm, RMS_NORM_EPS)
    }
}

impl Layer {
    fn forward(&self, tape: &mut Tape<'_>, x: Var) -> Var {
        let normed = tape.rms_norm(x, self.attn_norm, RMS_NORM_EPS);
        let qkv = tape.linear(normed, self.qkv_proj);
        let heads = tape.attention(qkv, &self.attention);
        let x = tape.linear_add(heads, self.out_proj, x);
        let normed = tape.rms_norm(x, self.ffn_norm, RMS_NORM_EPS);
        let gated = tape.linear(normed, self.proj_1);
        let hidden = tape.swiglu(gated);
        tape.linear_add(hidden, self.proj_2, x)
    }
}
