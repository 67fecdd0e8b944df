//! Reading an [`Architecture`] from a GGUF file.

use super::{
    Activation, Architecture, Biases, Family, LayerPlan, MAX_LAYERS, NormKind, Rope, RopeScaling, Visibility,
};
use crate::error::config_error;
use crate::{Error, GgmlType, GgufFile, GgufMetadata, GgufValue};

/// Keys of an architecture, which begin with its name.
struct Keys<'a> {
    metadata: &'a GgufMetadata,
    prefix: &'a str,
}

impl Keys<'_> {
    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.prefix)
    }

    fn count(&self, key: &str) -> Result<Option<usize>, Error> {
        Ok(self.metadata.get::<u64>(&self.key(key))?.map(|n| usize::try_from(n).unwrap_or(usize::MAX)))
    }

    fn required(&self, key: &str) -> Result<usize, Error> {
        Ok(usize::try_from(self.metadata.u64(&self.key(key))?).unwrap_or(usize::MAX))
    }

    /// One number for each layer, or the same for all.
    fn by_layer(&self, key: &str, n_layers: usize) -> Result<Option<Vec<usize>>, Error> {
        let name = self.key(key);
        let Some(GgufValue::Array(_)) = self.metadata.value(&name) else {
            return Ok(self.count(key)?.map(|n| vec![n; n_layers]));
        };
        let list: Vec<u64> = self.metadata.require(&name)?;
        if list.len() != n_layers {
            let problem = format!("has {} numbers, but there are {n_layers} layers", list.len());
            return Err(Error::GgufKey { key: name, problem });
        }
        Ok(Some(list.into_iter().map(|n| usize::try_from(n).unwrap_or(usize::MAX)).collect()))
    }

    fn number(&self, key: &str) -> Result<Option<f64>, Error> {
        Ok(self.metadata.get::<f32>(&self.key(key))?.map(f64::from))
    }
}

impl Architecture {
    /// Reads the metadata of a GGUF file, whose architecture must be `llama`, `qwen2`, `phi3` or `openelm`.
    ///
    /// # Errors
    /// [`Error::GgufKey`] for a key that is missing or of another type, [`Error::Config`] for a value that makes no
    /// sense.
    pub fn from_gguf(file: &GgufFile) -> Result<Self, Error> {
        let metadata = file.metadata();
        let prefix = metadata.architecture()?;
        let family = match prefix {
            "llama" | "qwen2" => Family::Llama,
            "phi3" => Family::Phi3,
            "openelm" => Family::OpenElm,
            other => {
                let problem =
                    format!("is `{other}`, which is none of `llama`, `qwen2`, `phi3` and `openelm`");
                return Err(Error::GgufKey { key: "general.architecture".into(), problem });
            }
        };
        let keys = Keys { metadata, prefix };
        let model_dim = keys.required("embedding_length")?;
        let n_layers = keys.required("block_count")?;
        if !(1..=MAX_LAYERS).contains(&n_layers) {
            return Err(config_error(
                "block_count",
                format!("`{n_layers}` is not between 1 and {MAX_LAYERS}"),
            ));
        }
        let by_layer = |key| keys.by_layer(key, n_layers);
        let missing = |key: &str| Error::GgufKey { key: keys.key(key), problem: "is missing".into() };
        let query_heads = by_layer("attention.head_count")?.ok_or_else(|| missing("attention.head_count"))?;
        let kv_heads = by_layer("attention.head_count_kv")?.unwrap_or_else(|| query_heads.clone());
        let ffn_dims = by_layer("feed_forward_length")?.ok_or_else(|| missing("feed_forward_length"))?;
        let head_dim = match (keys.count("attention.key_length")?, query_heads[0]) {
            (Some(dim), _) => dim,
            (None, heads) if heads > 0 && model_dim.is_multiple_of(heads) => model_dim / heads,
            (None, heads) => {
                let reason = format!("`{heads}` heads do not divide {model_dim}");
                return Err(config_error("attention.head_count", reason));
            }
        };
        let context_length = keys.required("context_length")?;
        // 0 marks Phi-4, which has none.
        let window =
            keys.count("attention.sliding_window")?.filter(|tokens| (1..context_length).contains(tokens));
        let layer = |i: usize| LayerPlan {
            query_heads: query_heads[i],
            kv_heads: kv_heads[i],
            ffn_dim: ffn_dims[i],
            visibility: window.map_or(Visibility::All, Visibility::Window),
        };
        let vocab_size = file
            .tensor("token_embd.weight")
            .and_then(|tensor| tensor.shape.first().copied())
            .ok_or_else(|| config_error("vocab_size", "there is no tensor `token_embd.weight`".into()))?;
        let biased = |name: &str| file.tensor(&format!("blk.0.{name}.bias")).is_some();
        let token = |key| metadata.get::<u32>(key);
        Self {
            family,
            vocab_size,
            model_dim,
            head_dim,
            context_length,
            layers: (0..n_layers).map(layer).collect(),
            norm: NormKind::Rms,
            norm_eps: keys.number("attention.layer_norm_rms_epsilon")?.unwrap_or(1e-5) as f32,
            qk_norm: family == Family::OpenElm,
            rope: rope(file, &keys, head_dim, context_length)?,
            attention_scale: (head_dim.max(1) as f32).sqrt().recip(),
            activation: Activation::SwiGlu,
            biases: Biases {
                qkv: biased("attn_q") || biased("attn_qkv"),
                out: biased("attn_output"),
                ffn: biased("ffn_down"),
            },
            embedding_scale: 1.0,
            logit_scale: 1.0,
            tied: file.tensor("output.weight").is_none(),
            unused_tokens: Vec::new(),
            bos: token("tokenizer.ggml.bos_token_id")?.filter(|id| (*id as usize) < vocab_size),
            eos: token("tokenizer.ggml.eos_token_id")?
                .into_iter()
                .filter(|id| (*id as usize) < vocab_size)
                .collect(),
        }
        .checked()
    }
}

fn rope(file: &GgufFile, keys: &Keys<'_>, head_dim: usize, context_length: usize) -> Result<Rope, Error> {
    let dims = keys.count("rope.dimension_count")?.unwrap_or(head_dim);
    let base = keys.number("rope.freq_base")?.unwrap_or(10_000.0);
    let factors = |name: &str| -> Result<Option<Vec<f64>>, Error> {
        let Some(tensor) = file.tensor(name) else { return Ok(None) };
        if tensor.ty != GgmlType::F32 || tensor.n_values() > super::MAX_HEAD_DIM {
            return Err(config_error("rope_factors", format!("`{name}` must be a few numbers of type F32")));
        }
        let number = |bytes: &[u8]| f64::from(f32::from_le_bytes(bytes.try_into().expect("four bytes")));
        Ok(Some(tensor.data.chunks_exact(4).map(number).collect()))
    };
    let scaling = match (factors("rope_factors_short.weight")?, factors("rope_factors_long.weight")?) {
        (Some(short), Some(long)) => {
            let original = keys.count("rope.scaling.original_context_length")?.unwrap_or(context_length);
            let magnitude = keys.number("rope.scaling.attn_factor")?.unwrap_or(1.0);
            RopeScaling::Long { short, long, original, magnitudes: [magnitude; 2] }
        }
        _ => match factors("rope_freqs.weight")? {
            Some(factors) => RopeScaling::Factors(factors),
            None => match keys.number("rope.scaling.factor")? {
                Some(factor) if factor != 1.0 && factor != 0.0 => RopeScaling::linear(factor, dims),
                _ => RopeScaling::None,
            },
        },
    };
    Ok(Rope { base, dims, scaling })
}
