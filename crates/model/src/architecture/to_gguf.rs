//! An [`Architecture`] as metadata of a GGUF file, under the keys by which llama.cpp reads it.

use super::{Activation, Architecture, Family, NormKind, RopeScaling, Visibility};
use crate::{GgufMetadata, GgufValue};

/// Factors of frequencies, which the format keeps as tensors.
pub(crate) type FactorTensors = Vec<(&'static str, Vec<f32>)>;

impl Architecture {
    /// What GGUF files call the architecture; none for those that the format has no layout for.
    pub(crate) fn gguf_name(&self) -> Option<&'static str> {
        match self.family {
            Family::OpenElm => Some("openelm"),
            Family::Phi3 => Some("phi3"),
            // Qwen 2 is Llama with biases here and nowhere else.
            Family::Llama if self.biases.qkv && !self.biases.out => Some("qwen2"),
            Family::Llama => Some("llama"),
            Family::Phi3Small => None,
        }
    }

    /// Sets the keys of the model; gives the tensors that belong to them, or why the format cannot hold the model.
    pub(crate) fn write_gguf(&self, metadata: &mut GgufMetadata) -> Result<FactorTensors, String> {
        let name = self.gguf_name().ok_or("GGUF files have no layout for Phi-3-small")?;
        self.check_gguf()?;
        metadata.set("general.architecture", name);
        let mut set = |key: &str, value: GgufValue| metadata.set(format!("{name}.{key}"), value);
        set("context_length", number(self.context_length));
        set("embedding_length", number(self.model_dim));
        set("block_count", number(self.layers.len()));
        let by_layer = self.family == Family::OpenElm;
        let of_layers = |of: &dyn Fn(&super::LayerPlan) -> usize| -> GgufValue {
            let each: Vec<i32> = self.layers.iter().map(|layer| of(layer) as i32).collect();
            if by_layer { each.into() } else { number(of(&self.layers[0])) }
        };
        set("feed_forward_length", of_layers(&|layer| layer.ffn_dim));
        set("attention.head_count", of_layers(&|layer| layer.query_heads));
        set("attention.head_count_kv", of_layers(&|layer| layer.kv_heads));
        set("attention.layer_norm_rms_epsilon", self.norm_eps.into());
        if by_layer || self.layers[0].query_heads * self.head_dim != self.model_dim {
            set("attention.key_length", number(self.head_dim));
            set("attention.value_length", number(self.head_dim));
        }
        match self.layers[0].visibility {
            Visibility::Window(tokens) => set("attention.sliding_window", number(tokens)),
            // For Phi, 0 says that there is none.
            _ if self.family == Family::Phi3 => set("attention.sliding_window", 0_u32.into()),
            _ => {}
        }
        set("vocab_size", number(self.vocab_size));
        set("rope.dimension_count", number(self.rope.dims));
        set("rope.freq_base", (self.rope.base as f32).into());
        self.write_scaling(&mut set)
    }

    fn write_scaling(&self, set: &mut dyn FnMut(&str, GgufValue)) -> Result<FactorTensors, String> {
        let to_f32 = |factors: &[f64]| factors.iter().map(|factor| *factor as f32).collect::<Vec<_>>();
        Ok(match &self.rope.scaling {
            RopeScaling::None => Vec::new(),
            RopeScaling::Factors(factors) if factors.iter().all(|factor| *factor == factors[0]) => {
                set("rope.scaling.type", "linear".into());
                set("rope.scaling.factor", (factors[0] as f32).into());
                Vec::new()
            }
            RopeScaling::Factors(factors) => vec![("rope_freqs.weight", to_f32(factors))],
            RopeScaling::Llama3 { .. } => vec![("rope_freqs.weight", to_f32(&self.rope.factors()))],
            RopeScaling::Long { short, long, original, magnitudes } => {
                if magnitudes[0] != magnitudes[1] {
                    return Err("it scales short and long sequences by different magnitudes".into());
                }
                if self.family == Family::Llama {
                    set("rope.scaling.type", "longrope".into());
                }
                set("rope.scaling.original_context_length", number(*original));
                set("rope.scaling.attn_factor", (magnitudes[0] as f32).into());
                vec![("rope_factors_long.weight", to_f32(long)), ("rope_factors_short.weight", to_f32(short))]
            }
        })
    }

    /// Whether the format's layouts mean what this model computes.
    fn check_gguf(&self) -> Result<(), String> {
        let usual_scale = (self.head_dim as f32).sqrt().recip();
        let plain = self.norm == NormKind::Rms
            && self.activation == Activation::SwiGlu
            && self.attention_scale == usual_scale
            && (self.embedding_scale, self.logit_scale) == (1.0, 1.0)
            && self.unused_tokens.is_empty()
            && self.qk_norm == (self.family == Family::OpenElm);
        if !plain {
            return Err("GGUF files have no layout for a model of this kind".into());
        }
        if self.layers.iter().any(|layer| layer.visibility != self.layers[0].visibility) {
            return Err(
                "some of its layers see all tokens and some a window, which GGUF files cannot say".into()
            );
        }
        Ok(())
    }
}

/// Sizes are checked to be far below 2³².
fn number(n: usize) -> GgufValue {
    GgufValue::U32(n as u32)
}
