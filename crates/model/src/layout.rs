//! Apple's checkpoint layout: the name and shape of every tensor of a model, in file order.

use crate::OpenElmConfig;

/// What a tensor is for; the same ten kinds in every OpenELM model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TensorRole {
    /// `[vocab, model_dim]`: the embedding of each token, and the output matrix as well.
    TokenEmbeddings,
    /// `[(query_heads + 2 · kv_heads) · head_dim, model_dim]`: all query heads, then keys, then values.
    QkvProj,
    /// `[head_dim]`: norm of the queries, shared by the heads of a layer, before RoPE.
    QNorm,
    /// `[head_dim]`: norm of the keys, shared by the heads of a layer, before RoPE.
    KNorm,
    /// `[model_dim, query_heads · head_dim]`: from the heads back to the stream.
    OutProj,
    /// `[2 · ffn_dim, model_dim]`: the gate is the first half, the value the second.
    Proj1,
    /// `[model_dim, ffn_dim]`: from the feed-forward network back to the stream.
    Proj2,
    /// `[model_dim]`: norm before attention.
    AttnNorm,
    /// `[model_dim]`: norm before the feed-forward network.
    FfnNorm,
    /// `[model_dim]`: norm before the output matrix.
    FinalNorm,
}

impl TensorRole {
    /// The eight tensors of a layer in file order, which is the order of their names.
    pub const OF_A_LAYER: [Self; 8] = [
        Self::KNorm,
        Self::OutProj,
        Self::QNorm,
        Self::QkvProj,
        Self::AttnNorm,
        Self::Proj1,
        Self::Proj2,
        Self::FfnNorm,
    ];

    /// The tensor's name in Apple's files; `layer` is ignored for the embedding and the final norm.
    #[must_use]
    pub fn tensor_name(self, layer: usize) -> String {
        let within_layer = match self {
            Self::TokenEmbeddings => return "transformer.token_embeddings.weight".into(),
            Self::FinalNorm => return "transformer.norm.weight".into(),
            Self::QkvProj => "attn.qkv_proj",
            Self::QNorm => "attn.q_norm",
            Self::KNorm => "attn.k_norm",
            Self::OutProj => "attn.out_proj",
            Self::Proj1 => "ffn.proj_1",
            Self::Proj2 => "ffn.proj_2",
            Self::AttnNorm => "attn_norm",
            Self::FfnNorm => "ffn_norm",
        };
        format!("transformer.layers.{layer}.{within_layer}.weight")
    }

    /// Whether the tensor belongs to a norm: one-dimensional, begins at 1, and weight decay leaves it alone.
    #[must_use]
    pub fn is_norm(self) -> bool {
        matches!(self, Self::QNorm | Self::KNorm | Self::AttnNorm | Self::FfnNorm | Self::FinalNorm)
    }
}

/// Name, place and shape of one tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// Name in the file, as `transformer.layers.3.attn.qkv_proj.weight`.
    pub name: String,
    /// What the tensor is for.
    pub role: TensorRole,
    /// Index of the layer; 0 for the embedding and the final norm, which belong to none.
    pub layer: usize,
    /// Sizes of the axes, slowest first.
    pub shape: Vec<usize>,
}

impl TensorSpec {
    /// Number of values.
    #[must_use]
    pub fn n_values(&self) -> usize {
        self.shape.iter().product()
    }
}

/// Every tensor of a model in file order, which is the byte order of the names: layer 10 before layer 2.
///
/// # Source
/// The files of `apple/OpenELM-*` on Hugging Face; safetensors writes tensors of one type by name.
#[must_use]
pub fn layout(config: &OpenElmConfig) -> Vec<TensorSpec> {
    let outer = [TensorRole::FinalNorm, TensorRole::TokenEmbeddings].map(|role| (role, 0));
    let inner = (0..config.n_layers()).flat_map(|layer| TensorRole::OF_A_LAYER.map(|role| (role, layer)));
    let spec = |(role, layer): (TensorRole, usize)| TensorSpec {
        name: role.tensor_name(layer),
        role,
        layer,
        shape: shape(config, role, layer),
    };
    let mut specs: Vec<TensorSpec> = inner.chain(outer).map(spec).collect();
    specs.sort_by(|a, b| a.name.cmp(&b.name));
    specs
}

/// Shape of one tensor.
fn shape(config: &OpenElmConfig, role: TensorRole, layer: usize) -> Vec<usize> {
    let (hidden, head_dim) = (config.model_dim(), config.head_dim());
    let widths = config.layer(layer);
    match role {
        TensorRole::TokenEmbeddings => vec![config.vocab_size(), hidden],
        TensorRole::QkvProj => vec![(widths.query_heads + 2 * widths.kv_heads) * head_dim, hidden],
        TensorRole::QNorm | TensorRole::KNorm => vec![head_dim],
        TensorRole::OutProj => vec![hidden, widths.query_heads * head_dim],
        TensorRole::Proj1 => vec![2 * widths.ffn_dim, hidden],
        TensorRole::Proj2 => vec![hidden, widths.ffn_dim],
        TensorRole::AttnNorm | TensorRole::FfnNorm | TensorRole::FinalNorm => vec![hidden],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_in_file_order_and_fit_the_spec() {
        let specs = layout(&OpenElmConfig::openelm_270m());
        assert_eq!(specs.len(), 8 * 16 + 2);
        let names: Vec<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
        assert!(names.is_sorted());
        assert_eq!(names[0], "transformer.layers.0.attn.k_norm.weight");
        assert_eq!(names[16], "transformer.layers.10.attn.k_norm.weight");
        assert_eq!(names[128..], ["transformer.norm.weight", "transformer.token_embeddings.weight"]);
        let shape = |name: &str| specs.iter().find(|spec| spec.name == name).unwrap().shape.clone();
        assert_eq!(shape("transformer.layers.15.attn.qkv_proj.weight"), [(20 + 10) * 64, 1280]);
        assert_eq!(shape("transformer.layers.0.attn.out_proj.weight"), [1280, 12 * 64]);
        assert_eq!(shape("transformer.layers.5.ffn.proj_1.weight"), [2 * 2048, 1280]);
        assert_eq!(shape("transformer.layers.12.ffn.proj_2.weight"), [1280, 4352]);
        assert_eq!(shape("transformer.layers.7.attn.q_norm.weight"), [64]);
        assert_eq!(shape("transformer.token_embeddings.weight"), [32_000, 1280]);
    }

    #[test]
    fn a_layer_is_written_in_the_order_of_the_names() {
        assert!(TensorRole::OF_A_LAYER.is_sorted_by_key(|role| role.tensor_name(0)));
    }
}
