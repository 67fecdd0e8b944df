//! What a file is quantised to: a name such as `q4_k_m`, which stands for a mix of types.
//!
//! Some tensors cost more when they lose bits than others: the output matrix, the values of attention, what leads
//! back into the stream, and all of that in the first and last layers. The usual mixes spend a few more bits there.
//!
//! Source: what llama.cpp's own quantisation makes, recorded in `tests/golden/mixes.json`.

use elmwood_engine::RowFormat;

use crate::{GgmlType, GgufMetadata};

/// What weights are converted to: a type for most tensors, and a mix around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, non_camel_case_types, reason = "the names are those of the field and say it all")]
pub enum Quantization {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2_K,
    Q3_K_S,
    Q3_K_M,
    Q3_K_L,
    Q4_K_S,
    Q4_K_M,
    Q5_K_S,
    Q5_K_M,
    Q6_K,
    IQ4_NL,
    IQ4_XS,
}

impl Quantization {
    /// Name, type of most tensors, and the number that `general.file_type` has for it.
    const ROWS: [(Self, &'static str, GgmlType, u32); 19] = [
        (Self::F32, "f32", GgmlType::F32, 0),
        (Self::F16, "f16", GgmlType::F16, 1),
        (Self::BF16, "bf16", GgmlType::BF16, 32),
        (Self::Q4_0, "q4_0", GgmlType::Q4_0, 2),
        (Self::Q4_1, "q4_1", GgmlType::Q4_1, 3),
        (Self::Q5_0, "q5_0", GgmlType::Q5_0, 8),
        (Self::Q5_1, "q5_1", GgmlType::Q5_1, 9),
        (Self::Q8_0, "q8_0", GgmlType::Q8_0, 7),
        (Self::Q2_K, "q2_k", GgmlType::Q2_K, 10),
        (Self::Q3_K_S, "q3_k_s", GgmlType::Q3_K, 11),
        (Self::Q3_K_M, "q3_k_m", GgmlType::Q3_K, 12),
        (Self::Q3_K_L, "q3_k_l", GgmlType::Q3_K, 13),
        (Self::Q4_K_S, "q4_k_s", GgmlType::Q4_K, 14),
        (Self::Q4_K_M, "q4_k_m", GgmlType::Q4_K, 15),
        (Self::Q5_K_S, "q5_k_s", GgmlType::Q5_K, 16),
        (Self::Q5_K_M, "q5_k_m", GgmlType::Q5_K, 17),
        (Self::Q6_K, "q6_k", GgmlType::Q6_K, 18),
        (Self::IQ4_NL, "iq4_nl", GgmlType::IQ4_NL, 25),
        (Self::IQ4_XS, "iq4_xs", GgmlType::IQ4_XS, 30),
    ];

    fn row(self) -> (Self, &'static str, GgmlType, u32) {
        Self::ROWS[self as usize]
    }

    /// Every one, plain numbers first.
    pub fn all() -> impl ExactSizeIterator<Item = Self> {
        Self::ROWS.iter().map(|row| row.0)
    }

    /// The one of that name, in any case. `q3_k`, `q4_k` and `q5_k` are the mixes of medium size.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        let medium = format!("{name}_m");
        Self::all().find(|each| each.name() == name || each.name() == medium)
    }

    /// Name in lower case, as `q4_k_m`.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// Type of most tensors.
    #[must_use]
    pub fn main_type(self) -> GgmlType {
        self.row().2
    }

    /// What `general.file_type` says of such a file.
    #[must_use]
    pub fn file_type(self) -> u32 {
        self.row().3
    }

    /// Whether weights keep a number each, without blocks and scales.
    #[must_use]
    pub fn is_plain(self) -> bool {
        matches!(self, Self::F32 | Self::F16 | Self::BF16)
    }

    /// The type of one tensor of a model, given its shape, slowest axis first; none if it is not to be changed.
    pub(super) fn type_of(self, name: &str, shape: &[usize], model: &MixModel) -> Option<GgmlType> {
        // Vectors and norms cost nothing and count much.
        let is_matrix = shape.len() > 1 && name.ends_with("weight");
        if !is_matrix || name.contains("_norm.weight") || name.contains("ffn_gate_inp.weight") {
            return None;
        }
        let main = self.main_type();
        let wanted = if self.is_plain() { main } else { self.mixed(name, model) };
        Some(fitting(wanted, *shape.last()?))
    }

    /// The type by the mix, whatever the shape.
    fn mixed(self, name: &str, model: &MixModel) -> GgmlType {
        use GgmlType::{Q3_K, Q4_K, Q5_K, Q6_K, Q8_0};
        let main = self.main_type();
        let Place { layer, kind } = Place::of(name);
        let layers = model.layers;
        // An eighth at either end, and every third layer between.
        let counts_more = |layer: usize, layers: usize| {
            let eighth = layers / 8;
            layer < eighth || layer >= 7 * layers / 8 || (layer - eighth) % 3 == 2
        };
        let shared = model.queries_per_key >= 4;
        match (kind, self) {
            (Kind::Output, _) | (Kind::Embedding, _) if model.tied || kind == Kind::Output => {
                if main == Q8_0 { Q8_0 } else { Q6_K }
            }
            (Kind::Values, _) => {
                let ty = match self {
                    Self::Q2_K => {
                        if shared {
                            Q4_K
                        } else {
                            Q3_K
                        }
                    }
                    Self::Q3_K_M => {
                        if layer < 2 {
                            Q5_K
                        } else {
                            Q4_K
                        }
                    }
                    Self::Q3_K_L => Q5_K,
                    Self::IQ4_NL | Self::IQ4_XS if shared => Q5_K,
                    Self::Q4_K_M | Self::Q5_K_M if counts_more(layer, model.value_tensors) => Q6_K,
                    Self::Q4_K_S if layer < 4 => Q5_K,
                    _ => main,
                };
                // Where eight queries share them, values are small, and more bits for them come cheap.
                let is_70b = layers == 80 && model.queries_per_key > 1;
                if is_70b && matches!(ty, Q3_K | Q4_K) { Q5_K } else { ty }
            }
            (Kind::Down, Self::Q2_K) => Q3_K,
            (Kind::Down, Self::Q3_K_M) => {
                if layer < layers / 16 {
                    Q5_K
                } else {
                    Q4_K
                }
            }
            (Kind::Down, Self::Q3_K_L) => Q5_K,
            (Kind::Down, Self::Q4_K_M | Self::Q5_K_M) if counts_more(layer, layers) => Q6_K,
            (Kind::Down, Self::Q4_K_S | Self::IQ4_NL | Self::IQ4_XS) if layer < layers / 8 => Q5_K,
            (Kind::Out, Self::Q2_K) => Q3_K,
            (Kind::Out, Self::Q3_K_M) => Q4_K,
            (Kind::Out, Self::Q3_K_L) => Q5_K,
            _ => main,
        }
    }
}

impl std::fmt::Display for Quantization {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(self.name())
    }
}

/// What the mixes need to know of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MixModel {
    layers: usize,
    /// Layers that have values of attention.
    value_tensors: usize,
    /// Query heads of the first layer that share a key head.
    queries_per_key: usize,
    /// Whether the embedding is the output matrix too.
    tied: bool,
}

impl MixModel {
    /// Reads it from what a GGUF file says.
    pub(super) fn of<'a>(metadata: &GgufMetadata, names: impl Iterator<Item = &'a str> + Clone) -> Self {
        let prefix = metadata.architecture().unwrap_or_default();
        let first = |key: &str| {
            let key = format!("{prefix}.{key}");
            let list = metadata.get::<Vec<u32>>(&key).ok().flatten().and_then(|list| list.first().copied());
            let one = || metadata.get::<u32>(&key).ok().flatten();
            list.or_else(one).map(|n| n as usize)
        };
        let count = |kind: Kind| names.clone().filter(|name| Place::of(name).kind == kind).count();
        let heads = first("attention.head_count").unwrap_or(1);
        let kv_heads = first("attention.head_count_kv").unwrap_or(heads).max(1);
        Self {
            layers: first("block_count").unwrap_or_else(|| count(Kind::Down)),
            value_tensors: count(Kind::Values),
            queries_per_key: heads / kv_heads,
            tied: count(Kind::Output) == 0,
        }
    }
}

/// What a tensor does, as far as mixes tell them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Embedding,
    Output,
    /// Values of attention, by themselves or together with queries and keys.
    Values,
    Out,
    Down,
    Other,
}

/// Which tensor of which layer; layer 0 for those outside of layers.
struct Place {
    layer: usize,
    kind: Kind,
}

impl Place {
    fn of(name: &str) -> Self {
        let in_layer = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
        let layer = in_layer.and_then(|(layer, _)| layer.parse().ok()).unwrap_or(0);
        let kind = match in_layer.map_or(name, |(_, rest)| rest) {
            "token_embd.weight" => Kind::Embedding,
            "output.weight" => Kind::Output,
            "attn_v.weight" | "attn_qkv.weight" => Kind::Values,
            "attn_output.weight" => Kind::Out,
            "ffn_down.weight" | "ffn_down_exps.weight" => Kind::Down,
            _ => Kind::Other,
        };
        Self { layer, kind }
    }
}

/// A type whose blocks fit into rows of `cols`: the wanted one, one with smaller blocks and no fewer bits, or F16.
fn fitting(wanted: GgmlType, cols: usize) -> GgmlType {
    let fits = |ty: GgmlType| cols.is_multiple_of(ty.block_weights());
    let smaller = match wanted {
        GgmlType::Q2_K | GgmlType::Q3_K => GgmlType::Q4_0,
        GgmlType::Q4_K => GgmlType::Q5_0,
        GgmlType::Q5_K => GgmlType::Q5_1,
        GgmlType::Q6_K => GgmlType::Q8_0,
        GgmlType::IQ4_XS => GgmlType::IQ4_NL,
        other => other,
    };
    [wanted, smaller].into_iter().find(|ty| fits(*ty)).unwrap_or(GgmlType::F16)
}

/// The type whose rows lie like that.
pub(super) fn type_of_rows(format: RowFormat) -> GgmlType {
    GgmlType::all().find(|ty| ty.row_format() == Some(format)).expect("every format of rows is one of a file")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_names() {
        for each in Quantization::all() {
            assert_eq!(format!("{each:?}").to_lowercase(), each.name());
            assert_eq!(Quantization::from_name(&each.name().to_uppercase()), Some(each));
        }
        assert_eq!(Quantization::from_name("q4_k"), Some(Quantization::Q4_K_M));
        assert_eq!((Quantization::from_name("q6"), Quantization::from_name("")), (None, None));
    }

    /// Every tensor of six models in all mixes, as llama.cpp's own quantisation makes them.
    #[test]
    fn mixes_are_those_of_llama_cpp() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/mixes.json");
        let json: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let mut seen = 0;
        for (model_name, about) in json.as_object().unwrap() {
            let number = |key: &str| about[key].as_u64().unwrap() as usize;
            let layers = number("layers");
            let model = MixModel {
                layers,
                value_tensors: layers,
                queries_per_key: number("heads") / number("kv_heads"),
                tied: about["tied"].as_bool().unwrap(),
            };
            for (mix, tensors) in about["types"].as_object().unwrap() {
                let mix = Quantization::from_name(mix).unwrap();
                for (tensor, types) in tensors.as_object().unwrap() {
                    let cols = if tensor.starts_with("ffn_down") { number("ffn") } else { number("dim") };
                    let types: Vec<&str> = types.as_str().unwrap().split(' ').collect();
                    for layer in 0..layers {
                        let outside = matches!(tensor.as_str(), "token_embd.weight" | "output.weight");
                        let name = if outside { tensor.clone() } else { format!("blk.{layer}.{tensor}") };
                        let got = mix.type_of(&name, &[64, cols], &model).unwrap();
                        let expected = types[if types.len() == 1 { 0 } else { layer }];
                        assert_eq!(got.name(), expected, "{model_name}, {mix}, {name}");
                        seen += 1;
                    }
                }
            }
        }
        assert!(seen > 5000, "{seen}");
    }

    #[test]
    fn vectors_and_norms_stay_as_they_are() {
        let model = MixModel { layers: 2, value_tensors: 2, queries_per_key: 1, tied: true };
        for (name, shape) in [
            ("output_norm.weight", &[256][..]),
            ("blk.0.attn_q_norm.weight", &[4, 256]),
            ("blk.0.attn_q.bias", &[256]),
            ("rope_freqs.weight", &[32]),
        ] {
            assert_eq!(Quantization::Q4_K_M.type_of(name, shape, &model), None, "{name}");
        }
    }
}
