//! Small whole models as GGUF files, and edits of them: hostile files that keep the form of one.

use std::path::Path;

use elmwood_model::{Error, GgmlType, GgufArray, GgufMetadata, GgufTensorSpec, GgufValue, GgufWriter};

/// A model that [`SmallGguf::write`] writes.
pub struct SmallGguf {
    pub metadata: GgufMetadata,
    pub tensors: Vec<GgufTensorSpec>,
}

/// How many kinds [`SmallGguf::new`] knows.
pub const KINDS: u8 = 4;

const TEMPLATE: &str = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}</s>{% endfor %}<|assistant|>";

impl SmallGguf {
    /// Llama with a SentencePiece tokenizer, Qwen 2 with byte-level BPE, Phi-3 with fused matrices and LongRoPE, Llama
    /// with a superblock in each row.
    pub fn new(kind: u8) -> Self {
        let (family, dim) = match kind % KINDS {
            0 => ("llama", 32),
            1 => ("qwen2", 32),
            2 => ("phi3", 32),
            _ => ("llama", 256),
        };
        let mut metadata = GgufMetadata::default();
        metadata.set("general.architecture", family);
        for (key, value) in [
            ("block_count", 1),
            ("context_length", 64),
            ("embedding_length", dim as u32),
            ("feed_forward_length", 32),
            ("attention.head_count", 2),
            ("attention.head_count_kv", 1),
            ("attention.key_length", 16),
            ("attention.sliding_window", 16),
            ("rope.dimension_count", 16),
            ("rope.scaling.original_context_length", 32),
        ] {
            metadata.set(format!("{family}.{key}"), value);
        }
        metadata.set(format!("{family}.attention.layer_norm_rms_epsilon"), 1e-5_f32);
        metadata.set(format!("{family}.rope.freq_base"), 10_000_f32);
        metadata.set(format!("{family}.rope.scaling.factor"), 2_f32);
        metadata.set(format!("{family}.rope.scaling.attn_factor"), 1.2_f32);
        let vocab = if family == "qwen2" { byte_level(&mut metadata) } else { words(&mut metadata) };
        metadata.set("tokenizer.ggml.bos_token_id", 1_u32);
        metadata.set("tokenizer.ggml.eos_token_id", 2_u32);
        metadata.set("tokenizer.ggml.add_bos_token", true);
        metadata.set("tokenizer.chat_template", TEMPLATE);
        Self { metadata, tensors: tensors(family, vocab, dim) }
    }

    /// A model changed as the bytes say: keys set or dropped, tensors dropped, renamed or reshaped.
    pub fn edited(edits: &[u8]) -> Self {
        let mut edits = Edits(edits);
        let mut this = Self::new(edits.byte());
        while !edits.0.is_empty() {
            let (action, which) = (edits.byte(), edits.byte());
            let Some((key, _)) =
                this.metadata.iter().nth(usize::from(which) % this.metadata.iter().len().max(1))
            else {
                break;
            };
            let key = key.to_owned();
            match action % 6 {
                0 | 1 => this.metadata.set(key, edits.value()),
                2 => this.metadata.set(key, edits.array()),
                3 => {
                    let mut kept = GgufMetadata::default();
                    for (name, value) in this.metadata.iter().filter(|entry| entry.0 != key) {
                        kept.set(name, value.clone());
                    }
                    this.metadata = kept;
                }
                _ => this.edit_tensor(which, &mut edits),
            }
        }
        this
    }

    fn edit_tensor(&mut self, which: u8, edits: &mut Edits<'_>) {
        let n_tensors = self.tensors.len();
        if n_tensors == 0 {
            return;
        }
        let idx = usize::from(which) % n_tensors;
        match edits.byte() % 4 {
            0 => _ = self.tensors.remove(idx),
            1 => self.tensors[idx].name = self.tensors[usize::from(edits.byte()) % n_tensors].name.clone(),
            2 => {
                let types: Vec<GgmlType> = GgmlType::all().collect();
                self.tensors[idx].ty = types[usize::from(edits.byte()) % types.len()];
            }
            _ => {
                let (axis, size) = (edits.byte(), edits.number());
                let shape = &mut self.tensors[idx].shape;
                match shape.get_mut(usize::from(axis)) {
                    Some(axis) => *axis = size as usize,
                    None => shape.push(size as usize),
                }
            }
        }
    }

    /// Writes the file, unless it would break a rule of the format or have more than a megabyte.
    pub fn write(&self, path: &Path) -> Result<bool, Error> {
        let sizes: Option<Vec<usize>> = self.tensors.iter().map(GgufTensorSpec::n_bytes).collect();
        let total = sizes.iter().flatten().fold(0_usize, |sum, &n| sum.saturating_add(n));
        let Some(sizes) = sizes.filter(|_| total <= 1 << 20) else { return Ok(false) };
        let mut writer = GgufWriter::create(path, &self.metadata, &self.tensors)?;
        for (tensor, n_bytes) in self.tensors.iter().zip(sizes) {
            let pattern: &[u8] = if tensor.ty == GgmlType::F32 { &[0, 0, 128, 63] } else { &[17, 42, 3] };
            writer.write(&pattern.iter().copied().cycle().take(n_bytes).collect::<Vec<u8>>())?;
        }
        writer.finish()?;
        Ok(true)
    }
}

/// A SentencePiece vocabulary; the number of its tokens.
fn words(metadata: &mut GgufMetadata) -> usize {
    let tokens =
        ["<unk>", "<s>", "</s>", "<0x0A>", "<|end|>", "<|assistant|>", "▁", "a", "b", "ab", "▁ab", "  "];
    let types = [2, 3, 3, 6, 3, 3, 1, 1, 1, 1, 1, 4];
    metadata.set("tokenizer.ggml.model", "llama");
    metadata.set("tokenizer.ggml.tokens", tokens.map(String::from).to_vec());
    metadata.set("tokenizer.ggml.scores", (0..tokens.len()).map(|idx| -(idx as f32)).collect::<Vec<f32>>());
    metadata.set("tokenizer.ggml.token_type", types.to_vec());
    metadata.set("tokenizer.ggml.unknown_token_id", 0_u32);
    metadata.set("tokenizer.ggml.padding_token_id", -1_i32);
    metadata.set("tokenizer.ggml.add_space_prefix", true);
    tokens.len()
}

/// A vocabulary of byte-level BPE.
fn byte_level(metadata: &mut GgufMetadata) -> usize {
    let tokens = ["!", "<|begin|>", "<|im_end|>", "a", "b", "Ġ", "ab", "Ġab", "<tool>", "é"];
    let types = [1, 3, 3, 1, 1, 1, 1, 1, 4, 1];
    metadata.set("tokenizer.ggml.model", "gpt2");
    metadata.set("tokenizer.ggml.pre", "qwen2");
    metadata.set("tokenizer.ggml.tokens", tokens.map(String::from).to_vec());
    metadata.set("tokenizer.ggml.token_type", types.to_vec());
    metadata.set("tokenizer.ggml.merges", ["a b", "Ġ ab"].map(String::from).to_vec());
    metadata.set("tokenizer.ggml.eot_token_id", 2_u32);
    tokens.len()
}

fn tensors(family: &str, vocab: usize, dim: usize) -> Vec<GgufTensorSpec> {
    use GgmlType::{F16, F32, Q2_K, Q3_K, Q4_0, Q4_K, Q5_K, Q6_K, Q8_0};
    // Rows of 256 have superblocks, those of 32 single ones.
    let large = dim == 256;
    let ty = |block, superblock| if large { superblock } else { block };
    let mut tensors = Vec::new();
    let mut add = |name: &str, shape: &[usize], ty| {
        tensors.push(GgufTensorSpec { name: name.into(), shape: shape.to_vec(), ty });
    };
    add("token_embd.weight", &[vocab, dim], ty(F16, Q6_K));
    add("output_norm.weight", &[dim], F32);
    add("blk.0.attn_norm.weight", &[dim], F32);
    add("blk.0.ffn_norm.weight", &[dim], F32);
    add("blk.0.attn_output.weight", &[dim, 32], Q8_0);
    add("blk.0.ffn_down.weight", &[dim, 32], Q4_0);
    if family == "phi3" {
        add("blk.0.attn_qkv.weight", &[64, dim], Q8_0);
        add("blk.0.ffn_up.weight", &[64, dim], Q4_0);
        add("output.weight", &[vocab, dim], F16);
        add("rope_factors_short.weight", &[8], F32);
        add("rope_factors_long.weight", &[8], F32);
        return tensors;
    }
    for (name, rows, block) in [("attn_q", 32, Q2_K), ("attn_k", 16, Q3_K), ("attn_v", 16, Q4_K)] {
        add(&format!("blk.0.{name}.weight"), &[rows, dim], ty(Q8_0, block));
        if family == "qwen2" {
            add(&format!("blk.0.{name}.bias"), &[rows], F32);
        }
    }
    add("blk.0.ffn_gate.weight", &[32, dim], ty(F16, Q5_K));
    add("blk.0.ffn_up.weight", &[32, dim], ty(GgmlType::IQ4_NL, GgmlType::IQ4_XS));
    tensors
}

/// Reads numbers from the front; zeros when there are no more.
struct Edits<'a>(&'a [u8]);

impl Edits<'_> {
    fn byte(&mut self) -> u8 {
        let Some((&byte, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        byte
    }

    /// A number, mostly small or near a power of two.
    fn number(&mut self) -> u64 {
        let (kind, low) = (self.byte(), self.byte());
        match kind % 4 {
            0 => low.into(),
            1 => (1_u64 << (low % 64)).wrapping_sub(u64::from(low >> 6)),
            2 => u64::MAX - u64::from(low),
            _ => u64::from_le_bytes(std::array::from_fn(|_| self.byte())),
        }
    }

    fn text(&mut self) -> String {
        const PARTS: [&str; 16] = [
            "",
            " ",
            "a",
            "b",
            "ab",
            "Ġ",
            "▁",
            "<",
            ">",
            "<0x0A>",
            "<|end|>",
            "</s>",
            "é",
            "llama",
            "gpt2",
            "\u{1F408}",
        ];
        (0..self.byte() % 8).map(|_| PARTS[usize::from(self.byte()) % PARTS.len()]).collect()
    }

    fn value(&mut self) -> GgufValue {
        match self.byte() % 10 {
            0 => (self.number() as i8).into(),
            1 => (self.number() as i32).into(),
            2 | 3 => (self.number() as u32).into(),
            4 => self.number().into(),
            5 => (self.number() as i64).into(),
            6 => f32::from_bits(self.number() as u32).into(),
            7 => (self.number() as f32).into(),
            8 => (self.byte() % 2 == 1).into(),
            _ => self.text().into(),
        }
    }

    fn array(&mut self) -> GgufArray {
        let (kind, n) = (self.byte(), self.byte() % 32);
        match kind % 5 {
            0 => GgufArray::I32((0..n).map(|_| self.number() as i32).collect()),
            1 => GgufArray::U32((0..n).map(|_| self.number() as u32).collect()),
            2 => GgufArray::F32((0..n).map(|_| f32::from_bits(self.number() as u32)).collect()),
            3 => GgufArray::Array((0..n).map(|_| GgufArray::U8(vec![self.byte()])).collect()),
            _ => GgufArray::String((0..n).map(|_| self.text()).collect()),
        }
    }
}
