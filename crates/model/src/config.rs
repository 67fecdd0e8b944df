//! The configuration of an OpenELM model: Apple's `config.json`, checked.
//!
//! A configuration that exists is valid: every size is positive and bounded, heads divide evenly, and each
//! layer has its widths. The lists stored in a file win over the formulas of layer-wise scaling, since
//! they are what the weights were made with; [`OpenElmConfig::departures_from_formulas`] tells where the
//! two differ.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, config_error};
use crate::fields::{Fields, brief};
use crate::layer_scaling::{ffn_dim, multipliers, query_heads};

/// File name of the configuration within a model folder.
pub const CONFIG_FILE: &str = "config.json";

/// Added to the mean square in every RMSNorm; Apple's files have no field for it.
pub const RMS_NORM_EPS: f32 = 1e-6;

/// Longest `config.json` that is read; a real one has 3 kB.
const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// Widths of one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerShape {
    /// Heads of the queries.
    pub query_heads: usize,
    /// Heads of the keys and values; divides `query_heads`.
    pub kv_heads: usize,
    /// Width of the feed-forward network.
    pub ffn_dim: usize,
}

/// The few numbers that all widths of a model follow from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scaling {
    /// Width of the residual stream.
    pub model_dim: usize,
    /// Number of layers.
    pub num_transformer_layers: usize,
    /// Dimensions of a head; even, because RoPE turns pairs.
    pub head_dim: usize,
    /// Query heads per key-value head.
    pub num_gqa_groups: usize,
    /// Attention width of the first and the last layer, as multiples of `model_dim`.
    pub qkv_multipliers: [f64; 2],
    /// Feed-forward width of the first and the last layer, as multiples of `model_dim`.
    pub ffn_multipliers: [f64; 2],
    /// Feed-forward widths are multiples of this.
    pub ffn_dim_divisor: usize,
    /// Rows of the token embedding.
    pub vocab_size: usize,
    /// Longest sequence in training, in tokens.
    pub max_context_length: usize,
}

impl Scaling {
    /// Published proportions around the given size: multipliers 0.5 to 1 and 0.5 to 4, four query heads
    /// per key-value head, divisor 256, 32,000 tokens, context of 2,048.
    #[must_use]
    pub fn published(num_transformer_layers: usize, model_dim: usize, head_dim: usize) -> Self {
        Self {
            model_dim,
            num_transformer_layers,
            head_dim,
            num_gqa_groups: 4,
            qkv_multipliers: [0.5, 1.0],
            ffn_multipliers: [0.5, 4.0],
            ffn_dim_divisor: 256,
            vocab_size: 32_000,
            max_context_length: 2048,
        }
    }
}

/// A valid OpenELM configuration: sizes are positive and bounded, heads divide evenly.
///
/// The lists stored in a file win over the formulas of [`crate::layer_scaling`], since they are what the
/// weights were made with.
///
/// Reads and writes Apple's `config.json`, also through serde. Fields that have one value in every OpenELM
/// model (`swish`, `rms_norm`, tied embeddings, gated FFN, normalised queries and keys) are checked when
/// read and written again, and not kept.
///
/// ```
/// use elmwood_model::OpenElmConfig;
///
/// let config = OpenElmConfig::openelm_270m();
/// let last = config.layers().last().unwrap();
/// assert_eq!((last.query_heads, last.kv_heads, last.ffn_dim), (20, 5, 5120));
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Value", into = "ConfigJson")]
pub struct OpenElmConfig {
    model_dim: usize,
    head_dim: usize,
    vocab_size: usize,
    max_context_length: usize,
    rope_freq_constant: f64,
    rope_max_length: usize,
    num_gqa_groups: usize,
    qkv_multipliers: Vec<f64>,
    ffn_multipliers: Vec<f64>,
    ffn_dim_divisor: usize,
    bos_token_id: u32,
    eos_token_id: u32,
    torch_dtype: String,
    layers: Vec<LayerShape>,
}

impl OpenElmConfig {
    /// OpenELM-270M: 16 layers, 1,280 wide.
    #[must_use]
    pub fn openelm_270m() -> Self {
        Self::published(16, 1280, 64)
    }

    /// OpenELM-450M: 20 layers, 1,536 wide.
    #[must_use]
    pub fn openelm_450m() -> Self {
        Self::published(20, 1536, 64)
    }

    /// OpenELM-1.1B: 28 layers, 2,048 wide.
    #[must_use]
    pub fn openelm_1_1b() -> Self {
        Self::published(28, 2048, 64)
    }

    /// OpenELM-3B: 36 layers, 3,072 wide.
    #[must_use]
    pub fn openelm_3b() -> Self {
        Self::published(36, 3072, 128)
    }

    fn published(num_transformer_layers: usize, model_dim: usize, head_dim: usize) -> Self {
        Self::new(&Scaling::published(num_transformer_layers, model_dim, head_dim))
            .expect("the published sizes are valid")
    }

    /// A configuration of any size, its widths from the formulas of [`crate::layer_scaling`].
    ///
    /// RoPE base 10,000, a table of twice the context, beginning-of-text 1, end-of-text 2.
    ///
    /// # Errors
    /// [`Error::Config`] naming the first field that is out of range.
    pub fn new(scaling: &Scaling) -> Result<Self, Error> {
        Self::try_from(serde_json::json!({
            "model_dim": scaling.model_dim,
            "num_transformer_layers": scaling.num_transformer_layers,
            "head_dim": scaling.head_dim,
            "num_gqa_groups": scaling.num_gqa_groups,
            "qkv_multipliers": scaling.qkv_multipliers,
            "ffn_multipliers": scaling.ffn_multipliers,
            "ffn_dim_divisor": scaling.ffn_dim_divisor,
            "vocab_size": scaling.vocab_size,
            "max_context_length": scaling.max_context_length,
            "rope_max_length": scaling.max_context_length.saturating_mul(2),
        }))
    }

    /// The same model for another tokenizer.
    ///
    /// # Errors
    /// [`Error::Config`] if a special token lies outside of the vocabulary, or that is empty or absurd.
    pub fn with_vocabulary(
        mut self,
        vocab_size: usize,
        bos_token_id: u32,
        eos_token_id: u32,
    ) -> Result<Self, Error> {
        (self.vocab_size, self.bos_token_id, self.eos_token_id) = (vocab_size, bos_token_id, eos_token_id);
        self.checked()
    }

    /// The same model for sequences of up to `max_context_length` tokens, its RoPE table twice as long.
    ///
    /// # Errors
    /// [`Error::Config`] if the length is zero or absurd.
    pub fn with_context(mut self, max_context_length: usize) -> Result<Self, Error> {
        self.max_context_length = max_context_length;
        self.rope_max_length = max_context_length.saturating_mul(2);
        self.checked()
    }

    /// Reads Apple's `config.json` from text. Unknown keys are skipped.
    ///
    /// # Errors
    /// [`Error::ConfigJson`] if the text is not JSON, [`Error::Config`] naming the first field that is
    /// missing, of the wrong type or out of range.
    pub fn from_json(text: &str) -> Result<Self, Error> {
        let value: Value = serde_json::from_str(text).map_err(|error| Error::ConfigJson {
            line: error.line(),
            column: error.column(),
            reason: error.to_string(),
        })?;
        Self::try_from(value)
    }

    /// The `config.json` of this model, with every key that Apple's files have.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("a configuration is plain data") + "\n"
    }

    /// Reads a `config.json`.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read or is longer than 1 MiB; else as [`Self::from_json`].
    pub fn load(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let text = crate::error::read_text(path, MAX_CONFIG_BYTES)?;
        Self::from_json(&text).map_err(|error| error.in_file(path))
    }

    /// Writes a `config.json`, whole or not at all.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        Ok(elmwood_durable::write_file(path, self.to_json().as_bytes())?)
    }

    /// Width of the residual stream.
    #[must_use]
    pub fn model_dim(&self) -> usize {
        self.model_dim
    }

    /// Dimensions of a head.
    #[must_use]
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// Rows of the token embedding.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Number of layers (`num_transformer_layers`).
    #[must_use]
    pub fn n_layers(&self) -> usize {
        self.layers.len()
    }

    /// Widths of every layer, from the input to the output.
    pub fn layers(&self) -> impl ExactSizeIterator<Item = LayerShape> + DoubleEndedIterator + '_ {
        self.layers.iter().copied()
    }

    /// Widths of one layer.
    ///
    /// # Panics
    /// If there are not that many layers.
    #[must_use]
    pub fn layer(&self, layer: usize) -> LayerShape {
        self.layers[layer]
    }

    /// Longest sequence in training, in tokens.
    #[must_use]
    pub fn max_context_length(&self) -> usize {
        self.max_context_length
    }

    /// Base of the RoPE frequencies, 10,000 in every published model.
    #[must_use]
    pub fn rope_freq_constant(&self) -> f64 {
        self.rope_freq_constant
    }

    /// Positions in the RoPE table; longer sequences are possible, the table grows.
    #[must_use]
    pub fn rope_max_length(&self) -> usize {
        self.rope_max_length
    }

    /// Token that begins a text.
    #[must_use]
    pub fn bos_token_id(&self) -> u32 {
        self.bos_token_id
    }

    /// Token that ends a text.
    #[must_use]
    pub fn eos_token_id(&self) -> u32 {
        self.eos_token_id
    }

    /// Added to the mean square in every RMSNorm: [`RMS_NORM_EPS`].
    #[must_use]
    pub fn rms_norm_eps(&self) -> f32 {
        RMS_NORM_EPS
    }

    /// Type of the stored weights, as Python calls it: `float32`, `bfloat16`, `float16`.
    #[must_use]
    pub fn torch_dtype(&self) -> &str {
        &self.torch_dtype
    }

    /// Layers whose stored heads differ from the formulas; empty for every published model.
    ///
    /// Not an error: the stored lists are what the weights have.
    #[must_use]
    pub fn departures_from_formulas(&self) -> Vec<usize> {
        let heads = self.heads_by_formula();
        let differs =
            |&layer: &usize| heads[layer] != (self.layers[layer].query_heads, self.layers[layer].kv_heads);
        (0..self.n_layers()).filter(differs).collect()
    }

    pub(crate) fn with_torch_dtype(mut self, torch_dtype: &str) -> Self {
        torch_dtype.clone_into(&mut self.torch_dtype);
        self
    }

    fn heads_by_formula(&self) -> Vec<(usize, usize)> {
        let heads = |multiplier| {
            let q = query_heads(self.model_dim, multiplier, self.head_dim, self.num_gqa_groups);
            (q, q / self.num_gqa_groups)
        };
        per_layer(&self.qkv_multipliers, self.n_layers()).into_iter().map(heads).collect()
    }

    /// Checks what [`TryFrom`] reads: ranges, lengths, divisibility.
    fn checked(self) -> Result<Self, Error> {
        let in_range = |field, value: usize, range: std::ops::RangeInclusive<usize>| {
            if range.contains(&value) {
                return Ok(());
            }
            let (low, high) = range.into_inner();
            Err(config_error(field, format!("`{value}` is not between {low} and {high}")))
        };
        in_range("model_dim", self.model_dim, 1..=1 << 16)?;
        in_range("num_transformer_layers", self.layers.len(), 1..=MAX_LAYERS)?;
        in_range("head_dim", self.head_dim, 2..=1 << 12)?;
        if !self.head_dim.is_multiple_of(2) {
            let reason = format!("`{}` is odd, but RoPE turns pairs of dimensions", self.head_dim);
            return Err(config_error("head_dim", reason));
        }
        in_range("vocab_size", self.vocab_size, 1..=1 << 22)?;
        in_range("max_context_length", self.max_context_length, 1..=1 << 26)?;
        in_range("rope_max_length", self.rope_max_length, 1..=1 << 27)?;
        in_range("num_gqa_groups", self.num_gqa_groups, 1..=MAX_HEADS)?;
        in_range("ffn_dim_divisor", self.ffn_dim_divisor, 1..=MAX_FFN_DIM)?;
        if !(1.0..=1e12).contains(&self.rope_freq_constant) {
            let reason = format!("`{}` is not between 1 and 10^12", self.rope_freq_constant);
            return Err(config_error("rope_freq_constant", reason));
        }
        for (field, id) in [("bos_token_id", self.bos_token_id), ("eos_token_id", self.eos_token_id)] {
            if id as usize >= self.vocab_size {
                let reason = format!("`{id}` lies outside of the vocabulary of {} tokens", self.vocab_size);
                return Err(config_error(field, reason));
            }
        }
        for (idx, layer) in self.layers.iter().enumerate() {
            in_range("num_query_heads", layer.query_heads, 1..=MAX_HEADS)?;
            in_range("num_kv_heads", layer.kv_heads, 1..=MAX_HEADS)?;
            in_range("ffn_multipliers", layer.ffn_dim, 1..=MAX_FFN_DIM)?;
            if !layer.query_heads.is_multiple_of(layer.kv_heads) {
                let (q, kv) = (layer.query_heads, layer.kv_heads);
                let reason = format!("`{kv}` of layer {idx} does not divide its {q} query heads");
                return Err(config_error("num_kv_heads", reason));
            }
        }
        Ok(self)
    }
}

const MAX_LAYERS: usize = 1024;
const MAX_HEADS: usize = 1 << 12;
const MAX_FFN_DIM: usize = 1 << 20;

impl TryFrom<Value> for OpenElmConfig {
    type Error = Error;

    fn try_from(json: Value) -> Result<Self, Error> {
        let fields = Fields(&json);
        if !json.is_object() {
            return Err(config_error("model_type", "the file holds no JSON object".into()));
        }
        fields.constant("model_type", "openelm".into())?;
        fields.constant("activation_fn_name", "swish".into())?;
        fields.constant("normalization_layer_name", "rms_norm".into())?;
        fields.constant("ffn_with_glu", true.into())?;
        fields.constant("normalize_qk_projections", true.into())?;
        fields.constant("share_input_output_layers", true.into())?;

        let n_layers = fields.required("num_transformer_layers")?;
        if !(1..=MAX_LAYERS).contains(&n_layers) {
            let reason = format!("`{n_layers}` is not between 1 and {MAX_LAYERS}");
            return Err(config_error("num_transformer_layers", reason));
        }
        let ffn_dim_divisor = fields.count("ffn_dim_divisor")?.unwrap_or(256);
        let max_context_length = fields.count("max_context_length")?.unwrap_or(2048);
        let empty = LayerShape { query_heads: 1, kv_heads: 1, ffn_dim: 1 };
        let config = Self {
            model_dim: fields.required("model_dim")?,
            head_dim: fields.required("head_dim")?,
            vocab_size: fields.required("vocab_size")?,
            max_context_length,
            rope_freq_constant: fields.number("rope_freq_constant")?.unwrap_or(10_000.0),
            rope_max_length: fields.count("rope_max_length")?.unwrap_or(max_context_length.saturating_mul(2)),
            num_gqa_groups: fields.count("num_gqa_groups")?.unwrap_or(1),
            qkv_multipliers: stored_multipliers(&fields, "qkv_multipliers", n_layers)?.unwrap_or(vec![1.0]),
            ffn_multipliers: stored_multipliers(&fields, "ffn_multipliers", n_layers)?.unwrap_or(vec![4.0]),
            ffn_dim_divisor,
            bos_token_id: fields.token("bos_token_id")?.unwrap_or(1),
            eos_token_id: fields.token("eos_token_id")?.unwrap_or(2),
            torch_dtype: dtype(&fields)?,
            layers: vec![empty; n_layers],
        };
        // Everything the formulas divide by or multiply with is in range from here on.
        let mut config = config.checked()?;
        let formula = config.heads_by_formula();
        let query_heads = fields.counts("num_query_heads", n_layers)?;
        let kv_heads = fields.counts("num_kv_heads", n_layers)?;
        let ffn = per_layer(&config.ffn_multipliers, n_layers);
        for (idx, layer) in config.layers.iter_mut().enumerate() {
            layer.query_heads = query_heads.as_ref().map_or(formula[idx].0, |list| list[idx]);
            layer.kv_heads = match &kv_heads {
                Some(list) => list[idx],
                None => layer.query_heads / config.num_gqa_groups,
            };
            layer.ffn_dim = ffn_dim(config.model_dim, ffn[idx], ffn_dim_divisor);
        }
        config.ffn_multipliers = ffn;
        config.checked()
    }
}

/// A stored multiplier for each layer: one value stands for all, two for a straight line.
fn per_layer(stored: &[f64], n_layers: usize) -> Vec<f64> {
    match *stored {
        [same] => vec![same; n_layers],
        [first, last] => multipliers(first, last, n_layers),
        _ => stored.to_vec(),
    }
}

fn stored_multipliers(
    fields: &Fields<'_>,
    field: &'static str,
    n_layers: usize,
) -> Result<Option<Vec<f64>>, Error> {
    let Some(value) = fields.get(field) else { return Ok(None) };
    let list = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
    if ![1, 2, n_layers].contains(&list.len()) {
        let reason = format!("{} entries, where 1, 2 or one for each layer belong", list.len());
        return Err(config_error(field, reason));
    }
    let positive = |value: &Value| match value.as_f64() {
        Some(number) if number > 0.0 && number <= 1024.0 => Ok(number),
        _ => Err(config_error(field, format!("`{}` is not a number up to 1024", brief(value)))),
    };
    list.iter().map(positive).collect::<Result<_, _>>().map(Some)
}

fn dtype(fields: &Fields<'_>) -> Result<String, Error> {
    match fields.get("torch_dtype") {
        None => Ok("float32".into()),
        Some(Value::String(name)) if ["float32", "bfloat16", "float16"].contains(&name.as_str()) => {
            Ok(name.clone())
        }
        Some(other) => Err(config_error("torch_dtype", format!("`{}` is not supported", brief(other)))),
    }
}

/// The keys of Apple's file, in its order.
#[derive(Serialize)]
struct ConfigJson {
    activation_fn_name: &'static str,
    architectures: [&'static str; 1],
    auto_map: AutoMap,
    bos_token_id: u32,
    eos_token_id: u32,
    ffn_dim_divisor: usize,
    ffn_multipliers: Vec<f64>,
    ffn_with_glu: bool,
    head_dim: usize,
    initializer_range: f64,
    max_context_length: usize,
    model_dim: usize,
    model_type: &'static str,
    normalization_layer_name: &'static str,
    normalize_qk_projections: bool,
    num_gqa_groups: usize,
    num_kv_heads: Vec<usize>,
    num_query_heads: Vec<usize>,
    num_transformer_layers: usize,
    qkv_multipliers: Vec<f64>,
    rope_freq_constant: f64,
    rope_max_length: usize,
    share_input_output_layers: bool,
    torch_dtype: String,
    transformers_version: &'static str,
    use_cache: bool,
    vocab_size: usize,
}

/// Where Hugging Face's library finds the code of the model, which it does not ship itself.
#[derive(Serialize)]
struct AutoMap {
    #[serde(rename = "AutoConfig")]
    config: &'static str,
    #[serde(rename = "AutoModelForCausalLM")]
    causal_lm: &'static str,
}

impl From<OpenElmConfig> for ConfigJson {
    fn from(config: OpenElmConfig) -> Self {
        Self {
            activation_fn_name: "swish",
            architectures: ["OpenELMForCausalLM"],
            auto_map: AutoMap {
                config: "apple/OpenELM-270M--configuration_openelm.OpenELMConfig",
                causal_lm: "apple/OpenELM-270M--modeling_openelm.OpenELMForCausalLM",
            },
            bos_token_id: config.bos_token_id,
            eos_token_id: config.eos_token_id,
            ffn_dim_divisor: config.ffn_dim_divisor,
            ffn_multipliers: config.ffn_multipliers,
            ffn_with_glu: true,
            head_dim: config.head_dim,
            initializer_range: 0.02,
            max_context_length: config.max_context_length,
            model_dim: config.model_dim,
            model_type: "openelm",
            normalization_layer_name: "rms_norm",
            normalize_qk_projections: true,
            num_gqa_groups: config.num_gqa_groups,
            num_kv_heads: config.layers.iter().map(|layer| layer.kv_heads).collect(),
            num_query_heads: config.layers.iter().map(|layer| layer.query_heads).collect(),
            num_transformer_layers: config.layers.len(),
            qkv_multipliers: config.qkv_multipliers,
            rope_freq_constant: config.rope_freq_constant,
            rope_max_length: config.rope_max_length,
            share_input_output_layers: true,
            torch_dtype: config.torch_dtype,
            transformers_version: "4.39.3",
            use_cache: true,
            vocab_size: config.vocab_size,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repeated(runs: &[(usize, usize)]) -> Vec<usize> {
        runs.iter().flat_map(|&(value, times)| vec![value; times]).collect()
    }

    #[test]
    fn the_formulas_give_the_published_layers() {
        let steps = |from: usize, to: usize| (from..=to).step_by(256);
        let cases = [
            (
                OpenElmConfig::openelm_270m(),
                repeated(&[(12, 5), (16, 7), (20, 4)]),
                vec![
                    768, 1024, 1280, 1536, 1792, 2048, 2560, 2816, 3072, 3328, 3584, 3840, 4352, 4608, 4864,
                    5120,
                ],
            ),
            (
                OpenElmConfig::openelm_450m(),
                repeated(&[(12, 3), (16, 7), (20, 6), (24, 4)]),
                steps(768, 1792).chain(steps(2304, 4608)).chain(steps(5120, 6144)).collect(),
            ),
            (
                OpenElmConfig::openelm_1_1b(),
                repeated(&[(16, 3), (20, 7), (24, 8), (28, 6), (32, 4)]),
                steps(1024, 4096).chain([4608, 4608, 5120]).chain(steps(5376, 8192)).collect(),
            ),
            (
                OpenElmConfig::openelm_3b(),
                repeated(&[(12, 4), (16, 14), (20, 12), (24, 6)]),
                vec![
                    1536, 1792, 2048, 2560, 2816, 3072, 3328, 3584, 4096, 4352, 4608, 4864, 5120, 5632, 5888,
                    6144, 6400, 6656, 7168, 7424, 7680, 7936, 8192, 8704, 8960, 9216, 9472, 9728, 10240,
                    10496, 10752, 11008, 11264, 11776, 12032, 12288,
                ],
            ),
        ];
        for (config, heads, ffn) in cases {
            assert_eq!(config.layers().map(|l| l.query_heads).collect::<Vec<_>>(), heads);
            let kv: Vec<usize> = heads.iter().map(|heads| heads / 4).collect();
            assert_eq!(config.layers().map(|l| l.kv_heads).collect::<Vec<_>>(), kv);
            assert_eq!(config.layers().map(|l| l.ffn_dim).collect::<Vec<_>>(), ffn);
            assert!(config.departures_from_formulas().is_empty());
        }
    }

    #[test]
    fn what_is_written_reads_back_and_has_every_key() {
        let config = OpenElmConfig::openelm_1_1b().with_vocabulary(8192, 0, 1).unwrap();
        let text = config.to_json();
        assert_eq!(OpenElmConfig::from_json(&text).unwrap(), config);
        assert_eq!(serde_json::from_str::<OpenElmConfig>(&text).unwrap(), config);
        let json: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json.as_object().unwrap().len(), 27);
        assert_eq!(json["qkv_multipliers"], serde_json::json!([0.5, 1.0]));
        assert_eq!(json["ffn_multipliers"].as_array().unwrap().len(), 28);
    }

    #[test]
    fn stored_lists_win_over_the_formulas() {
        let mut json: Value = serde_json::from_str(&OpenElmConfig::openelm_270m().to_json()).unwrap();
        json["num_query_heads"][3] = 16.into();
        json["num_kv_heads"][3] = 2.into();
        json["something_new"] = "is skipped".into();
        let config = OpenElmConfig::try_from(json).unwrap();
        assert_eq!(config.layer(3), LayerShape { query_heads: 16, kv_heads: 2, ffn_dim: 1536 });
        assert_eq!(config.departures_from_formulas(), [3]);
    }

    #[test]
    fn every_bad_field_is_named() {
        let list = |value: Value| Value::from(vec![value; 16]);
        let cases: Vec<(&str, Value)> = vec![
            ("model_type", "llama".into()),
            ("activation_fn_name", "gelu".into()),
            ("normalization_layer_name", "layer_norm".into()),
            ("ffn_with_glu", false.into()),
            ("normalize_qk_projections", false.into()),
            ("share_input_output_layers", false.into()),
            ("model_dim", 0.into()),
            ("model_dim", Value::Null),
            ("model_dim", (-5).into()),
            ("model_dim", 1.5.into()),
            ("model_dim", "1280".into()),
            ("model_dim", u64::MAX.into()),
            ("num_transformer_layers", 0.into()),
            ("num_transformer_layers", 1_000_000_000_u64.into()),
            ("head_dim", 0.into()),
            ("head_dim", 63.into()),
            ("head_dim", u64::MAX.into()),
            ("vocab_size", 0.into()),
            ("vocab_size", (1_u64 << 40).into()),
            ("bos_token_id", 32_000.into()),
            ("eos_token_id", (-1).into()),
            ("eos_token_id", (1_u64 << 33).into()),
            ("max_context_length", 0.into()),
            ("rope_max_length", u64::MAX.into()),
            ("rope_freq_constant", 0.into()),
            ("rope_freq_constant", "10000".into()),
            ("num_gqa_groups", 0.into()),
            ("ffn_dim_divisor", 0.into()),
            ("qkv_multipliers", vec![0.5, 0.7, 1.0].into()),
            ("qkv_multipliers", vec![0.0, 1.0].into()),
            ("qkv_multipliers", "0.5".into()),
            ("ffn_multipliers", list((-1.0).into())),
            ("ffn_multipliers", list(1e300.into())),
            ("ffn_multipliers", list("x".into())),
            ("num_query_heads", vec![12; 15].into()),
            ("num_query_heads", 12.into()),
            ("num_query_heads", list(0.into())),
            ("num_query_heads", list((1_u64 << 60).into())),
            ("num_kv_heads", list(5.into())),
            ("num_kv_heads", list(0.into())),
            ("num_kv_heads", list((-3).into())),
            ("torch_dtype", "int8".into()),
        ];
        let good: Value = serde_json::from_str(&OpenElmConfig::openelm_270m().to_json()).unwrap();
        for (field, value) in cases {
            let mut json = good.clone();
            json[field] = value.clone();
            match OpenElmConfig::try_from(json) {
                Err(Error::Config { field: named, .. }) => assert_eq!(named, field, "for {value}"),
                other => panic!("{field} = {value} gave {other:?}"),
            }
        }
        assert!(matches!(OpenElmConfig::from_json("{"), Err(Error::ConfigJson { line: 1, .. })));
        assert!(matches!(OpenElmConfig::from_json("[]"), Err(Error::Config { field: "model_type", .. })));
        let deep = "[".repeat(100_000);
        assert!(matches!(OpenElmConfig::from_json(&deep), Err(Error::ConfigJson { .. })));
    }
}
