//! What a model is, as data: every family that runs here is one [`Architecture`].
//!
//! The layers of all of them are
//!
//! ```text
//! x1 = x  + Wo · attention(Wqkv · norm(x))
//! x2 = x1 + Wdown · activation(Wup · norm(x1))
//! ```
//!
//! and they differ in sizes, in what attention sees, in how positions are turned, and in a few factors. Files differ
//! further in how they name tensors, cut them up and order their rows; none of that reaches this description.

mod gguf;
mod hugging_face;
mod rope;
mod to_gguf;
mod to_hugging_face;

pub use rope::{Rope, RopeScaling};

use crate::error::config_error;
use crate::{Error, OpenElmConfig};

/// Which publisher's layout the tensors of a file have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Family {
    /// Apple's OpenELM.
    OpenElm,
    /// Llama, and what has its layout: Mistral, Qwen 2, SmolLM, TinyLlama.
    Llama,
    /// Phi-3 and 3.5 mini and medium, Phi-4 and Phi-4 mini.
    Phi3,
    /// Phi-3 small.
    Phi3Small,
}

/// How rows are normalised before each half of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// Divided by the root of the mean square.
    Rms,
    /// Mean taken away, divided by the standard deviation, with a bias.
    Layer,
}

/// What lies between the two matrices of the feed-forward half; both take rows `[a | b]`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Activation {
    /// `silu(a) · b`.
    SwiGlu,
    /// `min(a, limit) · σ(1.702 min(a, limit)) · (clamp(b, ±limit) + 1)`.
    GeGlu {
        /// Where both sides are cut off.
        limit: f32,
    },
}

/// Which earlier tokens a token sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Visibility {
    /// All.
    All,
    /// The nearest so many, itself among them.
    Window(usize),
    /// By blocks: those nearby, and of the others each `stride`-th, other ones for each head.
    Blocks {
        /// Tokens of a block.
        block: usize,
        /// Blocks nearby, its own among them.
        local: usize,
        /// One block in so many is seen from afar: block `k` by head `h` if `stride` divides `k + h + 1`.
        stride: usize,
    },
}

/// One layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerPlan {
    /// Heads of the queries.
    pub query_heads: usize,
    /// Heads of the keys and values; divides `query_heads`.
    pub kv_heads: usize,
    /// Width of the feed-forward half.
    pub ffn_dim: usize,
    /// What its attention sees.
    pub visibility: Visibility,
}

/// Where matrices have biases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Biases {
    /// Queries, keys and values.
    pub qkv: bool,
    /// What attention gives back to the stream.
    pub out: bool,
    /// Both matrices of the feed-forward half.
    pub ffn: bool,
}

/// A model without its weights.
#[derive(Debug, Clone, PartialEq)]
pub struct Architecture {
    /// Whose layout its files have.
    pub family: Family,
    /// Rows of the token embedding.
    pub vocab_size: usize,
    /// Width of the stream.
    pub model_dim: usize,
    /// Coordinates of a head.
    pub head_dim: usize,
    /// Longest sequence, in tokens.
    pub context_length: usize,
    /// From the input to the output.
    pub layers: Vec<LayerPlan>,
    /// How rows are normalised.
    pub norm: NormKind,
    /// Added to the mean square, or the variance.
    pub norm_eps: f32,
    /// Whether queries and keys are normalised, head by head.
    pub qk_norm: bool,
    /// How positions turn queries and keys.
    pub rope: Rope,
    /// What scores are multiplied with: `head_dim^-0.5`, mostly.
    pub attention_scale: f32,
    /// The feed-forward half.
    pub activation: Activation,
    /// Where there are biases.
    pub biases: Biases,
    /// What embeddings are multiplied with.
    pub embedding_scale: f32,
    /// What logits are multiplied with.
    pub logit_scale: f32,
    /// Whether the token embedding is the output matrix too.
    pub tied: bool,
    /// Tokens that are never to be written.
    pub unused_tokens: Vec<u32>,
    /// Token that begins a text.
    pub bos: Option<u32>,
    /// Tokens that end a text.
    pub eos: Vec<u32>,
}

const MAX_LAYERS: usize = 1024;
const MAX_DIM: usize = 1 << 20;
/// The widest head that the operators hold on the stack.
const MAX_HEAD_DIM: usize = 256;

impl Architecture {
    /// Heads of a layer together, `(query + 2 kv) · head_dim`.
    #[must_use]
    pub fn qkv_dim(&self, layer: &LayerPlan) -> usize {
        (layer.query_heads + 2 * layer.kv_heads) * self.head_dim
    }

    /// Whether a description read from a file can be computed: sizes positive and bounded, heads divide evenly.
    fn checked(self) -> Result<Self, Error> {
        let in_range = |field, value: usize, max: usize| {
            let wrong = || config_error(field, format!("`{value}` is not between 1 and {max}"));
            if (1..=max).contains(&value) { Ok(()) } else { Err(wrong()) }
        };
        in_range("vocab_size", self.vocab_size, 1 << 22)?;
        in_range("hidden_size", self.model_dim, 1 << 16)?;
        in_range("head_dim", self.head_dim, MAX_HEAD_DIM)?;
        in_range("max_position_embeddings", self.context_length, 1 << 26)?;
        in_range("num_hidden_layers", self.layers.len(), MAX_LAYERS)?;
        for layer in &self.layers {
            in_range("num_attention_heads", layer.query_heads, 1 << 12)?;
            in_range("num_key_value_heads", layer.kv_heads, 1 << 12)?;
            in_range("intermediate_size", layer.ffn_dim, MAX_DIM)?;
            if !layer.query_heads.is_multiple_of(layer.kv_heads) {
                let (q, kv) = (layer.query_heads, layer.kv_heads);
                return Err(config_error(
                    "num_key_value_heads",
                    format!("`{kv}` does not divide {q} query heads"),
                ));
            }
            match layer.visibility {
                Visibility::All => {}
                Visibility::Window(tokens) => in_range("sliding_window", tokens, usize::MAX)?,
                Visibility::Blocks { block, local, stride } => {
                    in_range("blocksparse_block_size", block, 1 << 16)?;
                    in_range("blocksparse_num_local_blocks", local, 1 << 16)?;
                    in_range("blocksparse_vert_stride", stride, 1 << 16)?;
                }
            }
        }
        self.rope.check(self.head_dim)?;
        for (field, value) in [
            ("rms_norm_eps", self.norm_eps),
            ("attention_scale", self.attention_scale),
            ("embedding_scale", self.embedding_scale),
            ("logit_scale", self.logit_scale),
        ] {
            if !(value.is_finite() && value > 0.0) {
                return Err(config_error(field, format!("`{value}` is no positive number")));
            }
        }
        let tokens = self.unused_tokens.iter().chain(&self.bos).chain(&self.eos);
        if let Some(id) = tokens.copied().find(|id| *id as usize >= self.vocab_size) {
            let reason = format!("token `{id}` lies outside of the vocabulary of {} tokens", self.vocab_size);
            return Err(config_error("eos_token_id", reason));
        }
        Ok(self)
    }
}

impl From<&OpenElmConfig> for Architecture {
    fn from(config: &OpenElmConfig) -> Self {
        let head_dim = config.head_dim();
        let layer = |shape: crate::LayerShape| LayerPlan {
            query_heads: shape.query_heads,
            kv_heads: shape.kv_heads,
            ffn_dim: shape.ffn_dim,
            visibility: Visibility::All,
        };
        Self {
            family: Family::OpenElm,
            vocab_size: config.vocab_size(),
            model_dim: config.model_dim(),
            head_dim,
            context_length: config.max_context_length(),
            layers: config.layers().map(layer).collect(),
            norm: NormKind::Rms,
            norm_eps: config.rms_norm_eps(),
            qk_norm: true,
            rope: Rope::plain(config.rope_freq_constant(), head_dim),
            attention_scale: (head_dim as f32).sqrt().recip(),
            activation: Activation::SwiGlu,
            biases: Biases::default(),
            embedding_scale: 1.0,
            logit_scale: 1.0,
            tied: true,
            unused_tokens: Vec::new(),
            bos: Some(config.bos_token_id()),
            eos: vec![config.eos_token_id()],
        }
    }
}
