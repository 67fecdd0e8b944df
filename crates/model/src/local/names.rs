//! What tensors are called in the files of each publisher, how they are cut up and in which order their rows are.

use elmwood_engine::Heads;

use crate::Family;

/// Names and orders of one kind of file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Naming {
    OpenElm,
    HuggingFace,
    HuggingFacePhi3,
    HuggingFacePhi3Small,
    GgufLlama,
    GgufQwen,
    GgufPhi3,
    GgufOpenElm,
}

/// Rows of a matrix (and its bias) that are one tensor in the file.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    /// Without `.weight` or `.bias`.
    pub(crate) name: String,
    pub(crate) rows: usize,
    /// Which row of the file comes where; none if they stay as they are.
    pub(crate) order: Option<Vec<usize>>,
}

impl Part {
    pub(crate) fn whole(name: &str, rows: usize) -> Self {
        Self { name: name.into(), rows, order: None }
    }

    fn ordered(name: &str, order: Vec<usize>) -> Self {
        Self { name: name.into(), rows: order.len(), order: Some(order) }
    }

    pub(crate) fn within(self, prefix: &str) -> Self {
        Self { name: format!("{prefix}{}", self.name), ..self }
    }
}

impl Naming {
    /// Those of a Hugging Face folder.
    pub(crate) fn of_folder(family: Family) -> Self {
        match family {
            Family::OpenElm => Self::OpenElm,
            Family::Llama => Self::HuggingFace,
            Family::Phi3 => Self::HuggingFacePhi3,
            Family::Phi3Small => Self::HuggingFacePhi3Small,
        }
    }

    /// Those of a GGUF file, by what it calls its architecture.
    pub(crate) fn of_gguf(architecture: &str) -> Self {
        match architecture {
            "qwen2" => Self::GgufQwen,
            "phi3" => Self::GgufPhi3,
            "openelm" => Self::GgufOpenElm,
            _ => Self::GgufLlama,
        }
    }

    fn is_gguf(self) -> bool {
        matches!(self, Self::GgufLlama | Self::GgufQwen | Self::GgufPhi3 | Self::GgufOpenElm)
    }

    pub(crate) fn embedding(self) -> &'static str {
        match self {
            Self::OpenElm => "transformer.token_embeddings.weight",
            _ if self.is_gguf() => "token_embd.weight",
            _ => "model.embed_tokens.weight",
        }
    }

    pub(crate) fn final_norm(self) -> &'static str {
        match self {
            Self::OpenElm => "transformer.norm",
            Self::HuggingFacePhi3Small => "model.final_layernorm",
            _ if self.is_gguf() => "output_norm",
            _ => "model.norm",
        }
    }

    pub(crate) fn head(self) -> &'static str {
        if self.is_gguf() { "output.weight" } else { "lm_head.weight" }
    }

    /// What the names of a layer's tensors begin with.
    pub(crate) fn layer(self, i: usize) -> String {
        match self {
            Self::OpenElm => format!("transformer.layers.{i}."),
            _ if self.is_gguf() => format!("blk.{i}."),
            _ => format!("model.layers.{i}."),
        }
    }

    /// The norms before both halves of a layer.
    pub(crate) fn norms(self) -> [&'static str; 2] {
        match self {
            Self::OpenElm => ["attn_norm", "ffn_norm"],
            _ if self.is_gguf() => ["attn_norm", "ffn_norm"],
            _ => ["input_layernorm", "post_attention_layernorm"],
        }
    }

    /// The norms of queries and keys.
    pub(crate) fn head_norms(self) -> [&'static str; 2] {
        if self.is_gguf() { ["attn_q_norm", "attn_k_norm"] } else { ["attn.q_norm", "attn.k_norm"] }
    }

    /// All query heads, then all key heads, then all value heads.
    pub(crate) fn qkv(self, heads: Heads) -> Vec<Part> {
        let (query, kv) = (heads.query * heads.dim, heads.kv * heads.dim);
        match self {
            Self::OpenElm => vec![Part::whole("attn.qkv_proj", query + 2 * kv)],
            Self::HuggingFacePhi3 => vec![Part::whole("self_attn.qkv_proj", query + 2 * kv)],
            Self::GgufPhi3 | Self::GgufOpenElm => vec![Part::whole("attn_qkv", query + 2 * kv)],
            Self::HuggingFacePhi3Small => vec![Part::ordered("self_attn.query_key_value", grouped(heads))],
            Self::HuggingFace => vec![
                Part::whole("self_attn.q_proj", query),
                Part::whole("self_attn.k_proj", kv),
                Part::whole("self_attn.v_proj", kv),
            ],
            Self::GgufLlama => vec![
                Part::ordered("attn_q", pairs_apart(heads.query, heads.dim)),
                Part::ordered("attn_k", pairs_apart(heads.kv, heads.dim)),
                Part::whole("attn_v", kv),
            ],
            Self::GgufQwen => {
                vec![Part::whole("attn_q", query), Part::whole("attn_k", kv), Part::whole("attn_v", kv)]
            }
        }
    }

    pub(crate) fn out(self, dim: usize) -> Vec<Part> {
        let name = match self {
            Self::OpenElm => "attn.out_proj",
            Self::HuggingFacePhi3Small => "self_attn.dense",
            _ if self.is_gguf() => "attn_output",
            _ => "self_attn.o_proj",
        };
        vec![Part::whole(name, dim)]
    }

    /// The gate, then what it lets through.
    pub(crate) fn up(self, ffn_dim: usize) -> Vec<Part> {
        match self {
            Self::OpenElm => vec![Part::whole("ffn.proj_1", 2 * ffn_dim)],
            Self::HuggingFacePhi3 => vec![Part::whole("mlp.gate_up_proj", 2 * ffn_dim)],
            Self::GgufPhi3 => vec![Part::whole("ffn_up", 2 * ffn_dim)],
            Self::HuggingFacePhi3Small => {
                vec![Part::ordered(
                    "mlp.up_proj",
                    (0..2 * ffn_dim).map(|i| 2 * (i % ffn_dim) + i / ffn_dim).collect(),
                )]
            }
            Self::HuggingFace => {
                vec![Part::whole("mlp.gate_proj", ffn_dim), Part::whole("mlp.up_proj", ffn_dim)]
            }
            Self::GgufLlama | Self::GgufQwen | Self::GgufOpenElm => {
                vec![Part::whole("ffn_gate", ffn_dim), Part::whole("ffn_up", ffn_dim)]
            }
        }
    }

    pub(crate) fn down(self, dim: usize) -> Vec<Part> {
        let name = match self {
            Self::OpenElm => "ffn.proj_2",
            _ if self.is_gguf() => "ffn_down",
            _ => "mlp.down_proj",
        };
        vec![Part::whole(name, dim)]
    }
}

/// Rows of a head lie as neighbours that are turned together; they are wanted half a head apart.
fn pairs_apart(heads: usize, dim: usize) -> Vec<usize> {
    let half = dim / 2;
    let row = |i: usize| {
        let (head, j) = (i / dim, i % dim);
        head * dim + if j < half { 2 * j } else { 2 * (j - half) + 1 }
    };
    (0..heads * dim).map(row).collect()
}

/// Each key head lies behind its query heads, and its value head behind it.
fn grouped(heads: Heads) -> Vec<usize> {
    let Heads { query, kv, dim } = heads;
    let group = query / kv;
    let query_heads = (0..query).map(|head| head / group * (group + 2) + head % group);
    let key_heads = (0..kv).map(|head| head * (group + 2) + group);
    let value_heads = (0..kv).map(|head| head * (group + 2) + group + 1);
    let all = query_heads.chain(key_heads).chain(value_heads);
    all.flat_map(|head| (0..dim).map(move |i| head * dim + i)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_reordered_to_queries_keys_and_values() {
        assert_eq!(pairs_apart(2, 4), [0, 2, 1, 3, 4, 6, 5, 7]);
        let heads = Heads { query: 4, kv: 2, dim: 1 };
        assert_eq!(grouped(heads), [0, 1, 4, 5, 2, 6, 3, 7]);
        let [up] = &Naming::HuggingFacePhi3Small.up(3)[..] else { panic!("one tensor") };
        assert_eq!(up.order.as_deref(), Some(&[0, 2, 4, 1, 3, 5][..]));
    }
}
