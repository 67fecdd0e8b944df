//! Reading an [`Architecture`] from the `config.json` of a Hugging Face folder.

use serde_json::Value;

use super::{
    Activation, Architecture, Biases, Family, LayerPlan, MAX_LAYERS, NormKind, Rope, RopeScaling, Visibility,
};
use crate::error::config_error;
use crate::fields::{Fields, brief};
use crate::{Error, OpenElmConfig};

impl Architecture {
    /// Reads `config.json` by its `model_type`: OpenELM, Llama, Mistral, Qwen 2, Phi-3 (which is that of Phi-4 too) or
    /// Phi-3-small.
    ///
    /// # Errors
    /// [`Error::ConfigJson`] if the text is not JSON, [`Error::Config`] naming the first field that is missing, wrong or
    /// asks for what is not there.
    pub fn from_config_json(text: &str) -> Result<Self, Error> {
        let json: Value = serde_json::from_str(text).map_err(|error| Error::ConfigJson {
            line: error.line(),
            column: error.column(),
            reason: error.to_string(),
        })?;
        let fields = Fields(&json);
        let model_type = fields.get("model_type").and_then(Value::as_str).unwrap_or_default();
        let architecture = match model_type {
            "openelm" => Self::from(&OpenElmConfig::from_json(text)?),
            "llama" | "mistral" | "qwen2" | "phi3" => like_llama(&fields, model_type)?,
            "phi3small" => phi3_small(&fields)?,
            other => {
                let reason = format!(
                    "`{other}` is none of `openelm`, `llama`, `mistral`, `qwen2`, `phi3` and `phi3small`"
                );
                return Err(config_error("model_type", reason));
            }
        };
        architecture.checked()
    }
}

fn like_llama(fields: &Fields<'_>, model_type: &str) -> Result<Architecture, Error> {
    fields.constant("hidden_act", "silu".into())?;
    let model_dim = fields.required("hidden_size")?;
    let n_layers = layers(fields)?;
    let query_heads = fields.required("num_attention_heads")?;
    let kv_heads = fields.count("num_key_value_heads")?.unwrap_or(query_heads);
    let head_dim = match fields.count("head_dim")? {
        Some(dim) => dim,
        None => divided(model_dim, query_heads)?,
    };
    let context_length = fields.required("max_position_embeddings")?;
    let phi = model_type == "phi3";
    let flag = |field| flag(fields, field);
    let windowed = match model_type {
        "phi3" | "mistral" => true,
        "qwen2" => flag("use_sliding_window")?,
        _ => false,
    };
    let window = if windowed { fields.count("sliding_window")? } else { None };
    // Qwen's first layers see everything even where later ones have a window.
    let first_windowed =
        if model_type == "qwen2" { fields.count("max_window_layers")?.unwrap_or(0) } else { 0 };
    let layer = |i| LayerPlan {
        query_heads,
        kv_heads,
        ffn_dim: 0,
        visibility: match window {
            Some(tokens) if i >= first_windowed && tokens < context_length => Visibility::Window(tokens),
            _ => Visibility::All,
        },
    };
    let ffn_dim = fields.required("intermediate_size")?;
    let in_rope = fields.get("rope_parameters").and_then(|object| object.get("partial_rotary_factor"));
    let rotary = fields.number("partial_rotary_factor")?.or(in_rope.and_then(Value::as_f64));
    let rotary = rotary.filter(|_| phi).unwrap_or(1.0);
    let dims = (head_dim as f64 * rotary.clamp(0.0, 1.0)) as usize;
    Ok(Architecture {
        family: if phi { Family::Phi3 } else { Family::Llama },
        vocab_size: fields.required("vocab_size")?,
        model_dim,
        head_dim,
        context_length,
        layers: (0..n_layers).map(|i| LayerPlan { ffn_dim, ..layer(i) }).collect(),
        norm: NormKind::Rms,
        norm_eps: fields.number("rms_norm_eps")?.unwrap_or(if phi { 1e-5 } else { 1e-6 }) as f32,
        qk_norm: false,
        rope: rope(fields, dims, context_length)?,
        attention_scale: (head_dim.max(1) as f32).sqrt().recip(),
        activation: Activation::SwiGlu,
        biases: match model_type {
            "qwen2" => Biases { qkv: true, ..Biases::default() },
            "llama" => {
                let attention = flag("attention_bias")?;
                Biases { qkv: attention, out: attention, ffn: flag("mlp_bias")? }
            }
            _ => Biases::default(),
        },
        embedding_scale: 1.0,
        logit_scale: 1.0,
        tied: flag("tie_word_embeddings")?,
        unused_tokens: Vec::new(),
        bos: fields.token("bos_token_id")?,
        eos: tokens(fields, "eos_token_id")?,
    })
}

fn phi3_small(fields: &Fields<'_>) -> Result<Architecture, Error> {
    fields.constant("hidden_act", "gegelu".into())?;
    fields.constant("blocksparse_homo_head_pattern", false.into())?;
    let model_dim = fields.required("hidden_size")?;
    let query_heads = fields.required("num_attention_heads")?;
    let head_dim = divided(model_dim, query_heads)?;
    let dense_every = fields.required("dense_attention_every_n_layers")?.max(1);
    let sparse = Visibility::Blocks {
        block: fields.required("blocksparse_block_size")?,
        local: fields.required("blocksparse_num_local_blocks")?,
        stride: fields.required("blocksparse_vert_stride")?,
    };
    let layer = LayerPlan {
        query_heads,
        kv_heads: fields.required("num_key_value_heads")?,
        ffn_dim: fields.required("ff_intermediate_size")?,
        visibility: sparse,
    };
    let dense = |i: usize| (i + 1).is_multiple_of(dense_every);
    let visibility = |i| if dense(i) { Visibility::All } else { sparse };
    let layers = (0..layers(fields)?).map(|i| LayerPlan { visibility: visibility(i), ..layer }).collect();
    let scaled = flag(fields, "mup_use_scaling")?;
    let number = |field, default: f64| Ok::<_, Error>(fields.number(field)?.unwrap_or(default));
    let attention_scale = if scaled {
        number("mup_attn_multiplier", 1.0)? / head_dim.max(1) as f64
    } else {
        (head_dim.max(1) as f64).sqrt().recip()
    };
    let context_length = fields.required("max_position_embeddings")?;
    let base = number("rope_embedding_base", 1e6)?;
    let mut rope = rope(fields, head_dim, context_length)?;
    rope.base = base;
    Ok(Architecture {
        family: Family::Phi3Small,
        vocab_size: fields.required("vocab_size")?,
        model_dim,
        head_dim,
        context_length,
        layers,
        norm: NormKind::Layer,
        norm_eps: number("layer_norm_epsilon", 1e-5)? as f32,
        qk_norm: false,
        rope,
        attention_scale: attention_scale as f32,
        activation: Activation::GeGlu { limit: number("gegelu_limit", 20.0)? as f32 },
        biases: Biases { qkv: true, out: true, ffn: true },
        embedding_scale: number("mup_embedding_multiplier", 1.0)? as f32,
        logit_scale: if scaled { number("mup_width_multiplier", 1.0)?.recip() as f32 } else { 1.0 },
        tied: true,
        unused_tokens: tokens(fields, "dummy_token_indices")?,
        bos: fields.token("bos_token_id")?,
        eos: tokens(fields, "eos_token_id")?,
    })
}

fn layers(fields: &Fields<'_>) -> Result<usize, Error> {
    let n = fields.required("num_hidden_layers")?;
    let too_many = || config_error("num_hidden_layers", format!("`{n}` is not between 1 and {MAX_LAYERS}"));
    if (1..=MAX_LAYERS).contains(&n) { Ok(n) } else { Err(too_many()) }
}

fn divided(model_dim: usize, heads: usize) -> Result<usize, Error> {
    let uneven = || config_error("num_attention_heads", format!("`{heads}` heads do not divide {model_dim}"));
    if heads > 0 && model_dim.is_multiple_of(heads) { Ok(model_dim / heads) } else { Err(uneven()) }
}

fn flag(fields: &Fields<'_>, field: &'static str) -> Result<bool, Error> {
    let Some(value) = fields.get(field) else { return Ok(false) };
    value.as_bool().ok_or_else(|| config_error(field, format!("`{}` is not true or false", brief(value))))
}

/// One token, or a list of them.
fn tokens(fields: &Fields<'_>, field: &'static str) -> Result<Vec<u32>, Error> {
    let Some(value) = fields.get(field) else { return Ok(Vec::new()) };
    let list = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
    let token = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    let wrong = |value| config_error(field, format!("`{}` is no token id", brief(value)));
    list.iter().map(|value| token(value).ok_or_else(|| wrong(value))).collect()
}

/// `rope_theta` and `rope_scaling`, or `rope_parameters`, where newer versions of the library keep both.
fn rope(fields: &Fields<'_>, dims: usize, context_length: usize) -> Result<Rope, Error> {
    let wrong = |reason: String| config_error("rope_scaling", reason);
    let object = fields.get("rope_scaling").or_else(|| fields.get("rope_parameters"));
    let number_of = |key| object.and_then(|object| object.get(key)).and_then(Value::as_f64);
    let base = fields.number("rope_theta")?.or(number_of("rope_theta")).unwrap_or(10_000.0);
    let Some(object) = object else { return Ok(Rope::plain(base, dims)) };
    let kind =
        object.get("rope_type").or_else(|| object.get("type")).and_then(Value::as_str).unwrap_or("default");
    let needed = |key| number_of(key).ok_or_else(|| wrong(format!("`{key}` is missing")));
    let factors = |key| {
        let list =
            object.get(key).and_then(Value::as_array).ok_or_else(|| wrong(format!("`{key}` is missing")))?;
        if list.len() > super::MAX_HEAD_DIM {
            return Err(wrong(format!("`{key}` has {} factors", list.len())));
        }
        // In f32, as the models were trained with them and as other files keep them.
        let number = |value: &Value| {
            let number = value.as_f64().ok_or_else(|| wrong(format!("`{key}` holds no numbers")))?;
            Ok(f64::from(number as f32))
        };
        list.iter().map(number).collect::<Result<Vec<f64>, _>>()
    };
    let scaling = match kind {
        "default" => RopeScaling::None,
        "linear" => RopeScaling::linear(needed("factor")?, dims),
        "llama3" => RopeScaling::Llama3 {
            factor: needed("factor")?,
            low: needed("low_freq_factor")?,
            high: needed("high_freq_factor")?,
            original: needed("original_max_position_embeddings")? as usize,
        },
        // `su` and `yarn` are what Phi-3's first configurations called it.
        "longrope" | "su" | "yarn" if object.get("short_factor").is_some() => {
            let stated = fields.count("original_max_position_embeddings")?;
            let inside = number_of("original_max_position_embeddings").map(|tokens| tokens as usize);
            let original = stated.or(inside).unwrap_or(4096);
            let by_length = RopeScaling::usual_magnitude(context_length, original);
            let magnitude = number_of("attention_factor").unwrap_or(by_length);
            let magnitudes = ["short_mscale", "long_mscale"].map(|key| number_of(key).unwrap_or(magnitude));
            RopeScaling::Long {
                short: factors("short_factor")?,
                long: factors("long_factor")?,
                original,
                magnitudes,
            }
        }
        other => return Err(wrong(format!("the type `{}` is not supported", brief(&other.into())))),
    };
    Ok(Rope { base, dims, scaling })
}
