//! A model that only computes: any [`Architecture`], with weights as they lie in their file.

pub(crate) mod names;
pub(crate) mod tensors;

use std::path::Path;
use std::sync::Arc;

use elmwood_engine::{
    Arena, AttentionCache, AttentionPlan, CacheFormat, Cpu, Dtype, FrozenParameters, Gate, Heads, Linear,
    Norm, ParameterId, Pass, RopeTable, SparseBlocks, Tensor,
};
use names::{Naming, Part};
use tensors::TensorFiles;

use crate::error::read_text;
use crate::{
    Activation, Architecture, CONFIG_FILE, Error, GgufFile, LayerPlan, NormKind, SafetensorsFolder,
    Visibility, is_gguf,
};

/// Longest `config.json` that is read; a real one has a few kB.
pub(crate) const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// Tokens that go through the model at once.
const CHUNK: usize = 512;

/// A model with frozen weights, ready to compute.
#[derive(Debug)]
pub struct LocalModel {
    architecture: Architecture,
    parameters: FrozenParameters,
    embedding: ParameterId,
    layers: Vec<Layer>,
    norm: Norm,
    head: ParameterId,
}

#[derive(Debug)]
struct Layer {
    attention_norm: Norm,
    qkv: Linear,
    attention: AttentionPlan,
    out: Linear,
    ffn_norm: Norm,
    up: Linear,
    gate: Gate,
    down: Linear,
}

impl LocalModel {
    /// Loads a GGUF file or a Hugging Face folder. Matrices of plain numbers are multiplied in `dtype`; quantised ones
    /// keep their bits.
    ///
    /// # Errors
    /// [`Error`] for a file that cannot be read, breaks its format, or lacks a tensor of the right shape.
    pub fn load(path: impl AsRef<Path>, cpu: &Cpu, dtype: Dtype) -> Result<Self, Error> {
        let path = path.as_ref();
        if path.is_file() && is_gguf(path) {
            let file = GgufFile::open(path)?;
            file.read_ahead();
            let architecture = Architecture::from_gguf(&file).map_err(|error| error.in_file(path))?;
            let naming = Naming::of_gguf(file.metadata().architecture()?);
            return Self::build(architecture, naming, &TensorFiles::Gguf(&file), cpu, dtype);
        }
        let config = path.join(CONFIG_FILE);
        let text = read_text(&config, MAX_CONFIG_BYTES)?;
        let architecture = Architecture::from_config_json(&text).map_err(|error| error.in_file(&config))?;
        let folder = SafetensorsFolder::open(path)?;
        let naming = Naming::of_folder(architecture.family);
        Self::build(architecture, naming, &TensorFiles::Folder(path, &folder), cpu, dtype)
    }

    fn build(
        architecture: Architecture,
        naming: Naming,
        files: &TensorFiles<'_>,
        cpu: &Cpu,
        dtype: Dtype,
    ) -> Result<Self, Error> {
        let mut parameters = FrozenParameters::new(dtype);
        let shape = &architecture;
        let (dim, vocab) = (shape.model_dim, shape.vocab_size);
        let mut load = tensors::Loader { files, cpu, parameters: &mut parameters };
        let norm_of = |load: &mut tensors::Loader<'_>, name: &str, width: usize| {
            let bias = match shape.norm {
                NormKind::Rms => None,
                NormKind::Layer => Some(load.vector(&format!("{name}.bias"), width)?),
            };
            let weight = load.vector(&format!("{name}.weight"), width)?;
            Ok::<_, Error>(Norm { weight, bias, eps: shape.norm_eps })
        };
        let embedding_name = naming.embedding();
        let embedding = load.table(embedding_name, vocab, dim)?;
        let mut layers = Vec::new();
        for (i, plan) in shape.layers.iter().enumerate() {
            let heads = Heads { query: plan.query_heads, kv: plan.kv_heads, dim: shape.head_dim };
            let prefix = naming.layer(i);
            let mut linear = |parts: Vec<Part>, cols: usize, biased: bool| {
                let parts: Vec<Part> = parts.into_iter().map(|part| part.within(&prefix)).collect();
                let weight = load.matrix(&parts, cols)?;
                let bias = if biased { Some(load.bias(&parts)?) } else { None };
                Ok::<_, Error>(Linear { weight, bias })
            };
            let qkv = linear(naming.qkv(heads), dim, shape.biases.qkv)?;
            let out = linear(naming.out(dim), heads.query * heads.dim, shape.biases.out)?;
            let up = linear(naming.up(plan.ffn_dim), dim, shape.biases.ffn)?;
            let down = linear(naming.down(dim), plan.ffn_dim, shape.biases.ffn)?;
            let [attention_norm, ffn_norm] = naming.norms();
            let norms = if shape.qk_norm {
                let [query, key] = naming.head_norms();
                let query = load.vector(&format!("{prefix}{query}.weight"), heads.dim)?;
                let key = load.vector(&format!("{prefix}{key}.weight"), heads.dim)?;
                Some(([query, key], shape.norm_eps))
            } else {
                None
            };
            layers.push(Layer {
                attention_norm: norm_of(&mut load, &format!("{prefix}{attention_norm}"), dim)?,
                qkv,
                attention: attention_plan(shape, plan, heads, norms),
                out,
                ffn_norm: norm_of(&mut load, &format!("{prefix}{ffn_norm}"), dim)?,
                up,
                gate: match shape.activation {
                    Activation::SwiGlu => Gate::SwiGlu,
                    Activation::GeGlu { limit } => Gate::GeGlu(limit),
                },
                down,
            });
        }
        let norm = norm_of(&mut load, naming.final_norm(), dim)?;
        let head = if shape.tied { embedding_name } else { naming.head() };
        let head = load.matrix(&[Part::whole(head.trim_end_matches(".weight"), vocab)], dim)?;
        Ok(Self { architecture, parameters, embedding, layers, norm, head })
    }

    /// What the model is.
    #[must_use]
    pub fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    /// An empty sequence with room for `capacity` tokens, whose keys and values are held in `format`.
    #[must_use]
    pub fn sequence(&self, cpu: &Cpu, capacity: usize, format: CacheFormat) -> Sequence {
        let cache = |layer: &Layer| {
            AttentionCache::new(cpu, capacity, layer.attention.window, layer.attention.heads, format)
        };
        Sequence {
            tokens: Vec::new(),
            caches: self.layers.iter().map(cache).collect(),
            capacity,
            ropes: [None, None],
            long: false,
            arena: Arena::default(),
            logits: vec![0.0; self.architecture.vocab_size],
        }
    }

    /// Adds `tokens` to a sequence and gives the logits after the last one.
    ///
    /// # Panics
    /// If there is no token, one is not in the vocabulary, or there is no room.
    pub fn advance<'s>(&self, cpu: &Cpu, sequence: &'s mut Sequence, tokens: &[u32]) -> &'s [f32] {
        assert!(!tokens.is_empty(), "there is something to add");
        let last = sequence.len() + tokens.len() - 1;
        let mut logits = std::mem::take(&mut sequence.logits);
        self.advance_with(cpu, sequence, tokens, last, |_, row| logits.copy_from_slice(row));
        sequence.logits = logits;
        &sequence.logits
    }

    /// Adds `tokens` to a sequence and calls `each` with the logits after every one from position `from` on.
    ///
    /// # Panics
    /// As [`LocalModel::advance`].
    pub fn advance_with(
        &self,
        cpu: &Cpu,
        sequence: &mut Sequence,
        tokens: &[u32],
        from: usize,
        mut each: impl FnMut(usize, &[f32]),
    ) {
        let before = sequence.len();
        sequence.tokens.extend(tokens);
        let end = sequence.tokens.len();
        assert!(end <= sequence.capacity, "the sequence has room for {} tokens", sequence.capacity);
        let long = self.architecture.rope.switch().is_some_and(|switch| end > switch);
        if long != sequence.long {
            // With other turns, every layer gives other results for the earlier tokens too: all are computed anew.
            sequence.long = long;
            for cache in &mut sequence.caches {
                cache.truncate(0);
            }
        }
        let rope = sequence.rope(&self.architecture, long);
        let held = sequence.caches.first().map_or(before, AttentionCache::len);
        let all = std::mem::take(&mut sequence.tokens);
        let vocab = self.architecture.vocab_size;
        let mut start = held;
        while start < end {
            let chunk = &all[start..(start + sequence.at_once()).min(end)];
            let hidden = self.run(cpu, sequence, &rope, start, chunk);
            let mut pass = Pass::new(cpu, &mut sequence.arena, &self.parameters, start, chunk);
            // A few rows at a time, since a row of logits may be larger than everything else.
            for first in (from.max(start)..start + chunk.len()).step_by(16) {
                let rows = (start + chunk.len() - first).min(16);
                let scale = self.architecture.logit_scale;
                let mut logits = pass.logits(&hidden, first - start, rows, self.head, scale);
                for (i, row) in logits.f32_mut().chunks_exact_mut(vocab).enumerate() {
                    for unused in &self.architecture.unused_tokens {
                        row[*unused as usize] = f32::NEG_INFINITY;
                    }
                    each(first + i, row);
                }
            }
            start += chunk.len();
        }
        sequence.tokens = all;
    }

    /// Calls `each` with the row after the final norm for every one of `tokens`, which are a whole text.
    ///
    /// # Panics
    /// If one is not in the vocabulary.
    pub fn hidden(&self, cpu: &Cpu, tokens: &[u32], cache: CacheFormat, mut each: impl FnMut(&[f32])) {
        let mut sequence = self.sequence(cpu, tokens.len(), cache);
        let long = self.architecture.rope.switch().is_some_and(|switch| tokens.len() > switch);
        let rope = sequence.rope(&self.architecture, long);
        let mut past = 0;
        while past < tokens.len() {
            let chunk = &tokens[past..(past + sequence.at_once()).min(tokens.len())];
            let hidden = self.run(cpu, &mut sequence, &rope, past, chunk);
            hidden.f32().chunks_exact(hidden.cols()).for_each(&mut each);
            past += chunk.len();
        }
    }

    /// Rows after the final norm.
    fn run(
        &self,
        cpu: &Cpu,
        sequence: &mut Sequence,
        rope: &Arc<RopeTable>,
        past: usize,
        tokens: &[u32],
    ) -> Tensor {
        let mut pass = Pass::new(cpu, &mut sequence.arena, &self.parameters, past, tokens);
        let mut x = pass.embedding(self.embedding, self.architecture.embedding_scale);
        for (layer, cache) in self.layers.iter().zip(&mut sequence.caches) {
            layer.forward(&mut pass, &mut x, rope, cache);
        }
        pass.norm(&x, self.norm)
    }
}

impl Layer {
    fn forward(
        &self,
        pass: &mut Pass<'_>,
        x: &mut Tensor,
        rope: &Arc<RopeTable>,
        cache: &mut AttentionCache,
    ) {
        let normed = pass.norm(x, self.attention_norm);
        let qkv = pass.linear(&normed, self.qkv);
        let heads = pass.attention(qkv, &self.attention, rope, cache);
        pass.add_linear(&heads, self.out, x);
        let normed = pass.norm(x, self.ffn_norm);
        let both = pass.linear(&normed, self.up);
        let hidden = pass.gate(&both, self.gate);
        pass.add_linear(&hidden, self.down, x);
    }
}

fn attention_plan(
    shape: &Architecture,
    plan: &LayerPlan,
    heads: Heads,
    norms: Option<([ParameterId; 2], f32)>,
) -> AttentionPlan {
    let (window, blocks) = match plan.visibility {
        Visibility::All => (None, None),
        Visibility::Window(tokens) => (Some(tokens), None),
        Visibility::Blocks { block, local, stride } => {
            (None, Some(SparseBlocks { block, local, stride, shift: (stride / heads.query).max(1) }))
        }
    };
    AttentionPlan { heads, norms, scale: shape.attention_scale, window, blocks }
}

/// A text in progress: its tokens, with the keys and values that the next ones look at.
#[derive(Debug)]
pub struct Sequence {
    tokens: Vec<u32>,
    caches: Vec<AttentionCache>,
    capacity: usize,
    /// Turns of short and of long sequences, made when they are needed.
    ropes: [Option<Arc<RopeTable>>; 2],
    /// Whether keys and values are those of a long sequence.
    long: bool,
    arena: Arena,
    logits: Vec<f32>,
}

impl Sequence {
    /// Tokens so far.
    #[must_use]
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// How many tokens there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether there is no token yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Tokens there is room for.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// The logits after the last token that was added by [`LocalModel::advance`].
    #[must_use]
    pub fn logits(&self) -> &[f32] {
        &self.logits
    }

    /// Bytes of keys and values when the sequence is full.
    #[must_use]
    pub fn cache_bytes(&self) -> usize {
        self.caches.iter().map(AttentionCache::bytes).sum()
    }

    /// A copy that goes its own way: as much memory again.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self {
            tokens: self.tokens.clone(),
            caches: self.caches.clone(),
            capacity: self.capacity,
            ropes: self.ropes.clone(),
            long: self.long,
            arena: Arena::default(),
            logits: self.logits.clone(),
        }
    }

    /// Forgets tokens from `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.tokens.truncate(len);
        // Layers may have to forget more, and not the same; what is missing is computed again with the next tokens.
        let mut kept = len;
        loop {
            let least = self.caches.iter_mut().map(|cache| cache.truncate(kept)).min().unwrap_or(kept);
            if self.caches.iter().all(|cache| cache.len() == least) {
                break;
            }
            kept = least;
        }
    }

    /// Tokens that may go through the model at once.
    fn at_once(&self) -> usize {
        self.caches.iter().map(AttentionCache::room).fold(CHUNK, usize::min)
    }

    fn rope(&mut self, architecture: &Architecture, long: bool) -> Arc<RopeTable> {
        let capacity = self.capacity;
        let table = self.ropes[usize::from(long)].get_or_insert_with(|| {
            let (frequencies, magnitude) = architecture.rope.frequencies(long);
            Arc::new(RopeTable::with_frequencies(capacity, &frequencies, magnitude))
        });
        Arc::clone(table)
    }
}
