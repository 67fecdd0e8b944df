//! An [`Architecture`] as `config.json` of a Hugging Face folder.

use serde_json::{Value, json};

use super::{Architecture, Biases, Family, RopeScaling, Visibility};

impl Architecture {
    /// The text of `config.json`, with weights of the type `dtype`; or why the form cannot hold the model.
    pub(crate) fn to_config_json(&self, dtype: &str) -> Result<String, String> {
        if matches!(self.family, Family::OpenElm | Family::Phi3Small) {
            return Err(
                "models of this family are written as GGUF only; keep the folder that it came from".into()
            );
        }
        let layer = self.layers[0];
        if self.layers.iter().any(|other| *other != layer) {
            return Err("its layers differ, which this `config.json` cannot say".into());
        }
        let window = match layer.visibility {
            Visibility::All => None,
            Visibility::Window(tokens) => Some(tokens),
            Visibility::Blocks { .. } => return Err("its attention goes by blocks".into()),
        };
        let (model_type, class) = match (self.family, self.biases) {
            (Family::Phi3, _) => ("phi3", "Phi3ForCausalLM"),
            (Family::Llama, Biases { qkv: true, out: false, .. }) => ("qwen2", "Qwen2ForCausalLM"),
            (Family::Llama, Biases { qkv: false, .. }) if window.is_some() => {
                ("mistral", "MistralForCausalLM")
            }
            _ => ("llama", "LlamaForCausalLM"),
        };
        let mut json = json!({
            "architectures": [class],
            "model_type": model_type,
            "hidden_act": "silu",
            "hidden_size": self.model_dim,
            "intermediate_size": layer.ffn_dim,
            "max_position_embeddings": self.context_length,
            "num_attention_heads": layer.query_heads,
            "num_hidden_layers": self.layers.len(),
            "num_key_value_heads": layer.kv_heads,
            "rms_norm_eps": self.norm_eps,
            "rope_theta": self.rope.base,
            "tie_word_embeddings": self.tied,
            "torch_dtype": dtype,
            "use_cache": true,
            "vocab_size": self.vocab_size,
        });
        let mut set = |key: &str, value: Value| json[key] = value;
        set("sliding_window", json!(window));
        if layer.query_heads * self.head_dim != self.model_dim {
            set("head_dim", json!(self.head_dim));
        }
        match model_type {
            "llama" => {
                set("attention_bias", json!(self.biases.qkv));
                set("mlp_bias", json!(self.biases.ffn));
            }
            "qwen2" => {
                set("use_sliding_window", json!(window.is_some()));
                set("max_window_layers", json!(0));
            }
            "phi3" if self.rope.dims != self.head_dim => {
                set("partial_rotary_factor", json!(self.rope.dims as f64 / self.head_dim as f64));
            }
            _ => {}
        }
        for (key, id) in [("bos_token_id", self.bos), ("eos_token_id", self.eos.first().copied())] {
            id.into_iter().for_each(|id| set(key, json!(id)));
        }
        self.set_scaling(&mut set)?;
        Ok(serde_json::to_string_pretty(&json).expect("keys are texts") + "\n")
    }

    fn set_scaling(&self, set: &mut dyn FnMut(&str, Value)) -> Result<(), String> {
        match &self.rope.scaling {
            RopeScaling::None => {}
            RopeScaling::Factors(factors) if factors.iter().all(|factor| *factor == factors[0]) => {
                set("rope_scaling", json!({"rope_type": "linear", "factor": factors[0]}));
            }
            RopeScaling::Factors(_) => {
                return Err("it has factors of frequencies whose origin the file does not tell".into());
            }
            RopeScaling::Llama3 { factor, low, high, original } => set(
                "rope_scaling",
                json!({
                    "rope_type": "llama3", "factor": factor, "low_freq_factor": low, "high_freq_factor": high,
                    "original_max_position_embeddings": original,
                }),
            ),
            RopeScaling::Long { short, long, original, magnitudes } => {
                set("original_max_position_embeddings", json!(original));
                let mut scaling = json!({"type": "longrope", "short_factor": short, "long_factor": long});
                let usual = RopeScaling::usual_magnitude(self.context_length, *original);
                if magnitudes[0] as f32 != usual as f32 {
                    scaling["attention_factor"] = json!(magnitudes[0]);
                }
                set("rope_scaling", scaling);
            }
        }
        Ok(())
    }
}
