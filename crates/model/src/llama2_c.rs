//! Models of llama2.c in its first format, and the tokenizers beside them.
//!
//! A model is a header of seven whole numbers of 32 bits, then all weights in f32: embedding, every kind of matrix for
//! all layers, final norm, tables of cosines and sines that nobody needs, and the output matrix unless it is the
//! embedding, which the sign of the vocabulary's size tells. Queries and keys have the coordinates that turn together
//! side by side, as Llama has them in GGUF files.
//!
//! A tokenizer is the length of the longest piece, then for every piece its score, its length and its bytes.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use crate::architecture::{Activation, Biases, Family, LayerPlan, NormKind, Rope, Visibility};
use crate::mapped_file::map;
use crate::{Architecture, Error, GgufMetadata};

const HEADER_BYTES: u64 = 28;
/// Longest tokenizer that is read; one of 32,000 pieces has half a megabyte.
const MAX_TOKENIZER_BYTES: u64 = 64 << 20;

/// A model of llama2.c, checked whole and mapped into memory. Its tensors have the names of Llama in GGUF files.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    path: PathBuf,
    map: Mmap,
    architecture: Architecture,
    tensors: HashMap<String, (Vec<usize>, Range<usize>)>,
}

impl Checkpoint {
    /// Opens a model. The file must not be shortened meanwhile.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be opened, [`Error::Checkpoint`] if header and length do not fit together.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let map = map(path)?;
        let wrong = |reason: String| Error::Checkpoint { path: path.to_owned(), reason };
        let header = Header::read(&map).map_err(&wrong)?;
        let (mut tensors, mut at) = (HashMap::new(), HEADER_BYTES);
        for (name, layers, shape) in header.tensors() {
            for layer in 0..layers.unwrap_or(1) {
                let name = layers.map_or_else(|| name.to_owned(), |_| format!("blk.{layer}.{name}"));
                let end = at + 4 * shape.iter().product::<usize>() as u64;
                // Checked against the file's length below, before any use.
                tensors.insert(name, (shape.clone(), at as usize..end as usize));
                at = end;
            }
        }
        if at != map.len() as u64 {
            let len = map.len();
            return Err(wrong(format!("it has {len} bytes, and its header asks for {at}")));
        }
        Ok(Self { path: path.to_owned(), map, architecture: header.architecture(), tensors })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    /// Shape and bytes, in f32, of a tensor.
    pub(crate) fn tensor(&self, name: &str) -> Option<(&[usize], &[u8])> {
        let (shape, range) = self.tensors.get(name)?;
        Some((shape, &self.map[range.clone()]))
    }

    /// The one tokenizer that lies beside the model: `tok512.bin` beside one of 512 tokens, or `tokenizer.bin`.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if there is none, or both.
    pub(crate) fn tokenizer_beside(&self) -> Result<PathBuf, Error> {
        let names = [format!("tok{}.bin", self.architecture.vocab_size), "tokenizer.bin".into()];
        let there: Vec<PathBuf> =
            names.iter().map(|name| self.path.with_file_name(name)).filter(|path| path.is_file()).collect();
        match &there[..] {
            [one] => Ok(one.clone()),
            found => {
                let found = if found.is_empty() { "neither" } else { "both" };
                let [first, second] = names;
                let reason = format!(
                    "{found} `{first}` and `{second}` lie beside it; name its tokenizer (--tokenizer)"
                );
                Err(Error::Checkpoint { path: self.path.clone(), reason })
            }
        }
    }
}

/// The seven numbers.
struct Header {
    dim: usize,
    ffn: usize,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    vocab: usize,
    context: usize,
    tied: bool,
}

impl Header {
    fn read(bytes: &[u8]) -> Result<Self, String> {
        let Some((header, _)) = bytes.split_first_chunk::<{ HEADER_BYTES as usize }>() else {
            return Err(format!("{} bytes are too few for a header", bytes.len()));
        };
        if header.starts_with(b"24ka") {
            return Err("it has a newer format; export it again with version 0".into());
        }
        let number = |i: usize| i32::from_le_bytes(header.as_chunks().0[i]);
        let in_range = |i: usize, name: &str, max: i32| {
            let n = number(i);
            let wrong = || format!("its {name} is {n}, not between 1 and {max}");
            if (1..=max).contains(&n) { Ok(n as usize) } else { Err(wrong()) }
        };
        let this = Self {
            dim: in_range(0, "width", 1 << 16)?,
            ffn: in_range(1, "width of the feed-forward half", 1 << 20)?,
            layers: in_range(2, "number of layers", 1024)?,
            heads: in_range(3, "number of heads", 1 << 12)?,
            kv_heads: in_range(4, "number of key heads", 1 << 12)?,
            vocab: number(5).unsigned_abs() as usize,
            context: in_range(6, "context", 1 << 26)?,
            tied: number(5) > 0,
        };
        if !(1..=1 << 22).contains(&this.vocab) {
            return Err(format!("its vocabulary has {} tokens, not between 1 and {}", this.vocab, 1 << 22));
        }
        let Self { dim, heads, kv_heads, .. } = this;
        if !dim.is_multiple_of(heads) || !heads.is_multiple_of(kv_heads) || !(dim / heads).is_multiple_of(2) {
            return Err(format!(
                "a width of {dim}, {heads} heads and {kv_heads} key heads do not fit together"
            ));
        }
        Ok(this)
    }

    /// Every tensor in the order of the file: its name, how many layers have one, and its shape in each.
    fn tensors(&self) -> Vec<(&'static str, Option<usize>, Vec<usize>)> {
        let Self { dim, ffn, vocab, .. } = *self;
        let (head_dim, layers) = (dim / self.heads, Some(self.layers));
        let kv_dim = head_dim * self.kv_heads;
        let mut tensors = vec![
            ("token_embd.weight", None, vec![vocab, dim]),
            ("attn_norm.weight", layers, vec![dim]),
            ("attn_q.weight", layers, vec![dim, dim]),
            ("attn_k.weight", layers, vec![kv_dim, dim]),
            ("attn_v.weight", layers, vec![kv_dim, dim]),
            ("attn_output.weight", layers, vec![dim, dim]),
            ("ffn_norm.weight", layers, vec![dim]),
            ("ffn_gate.weight", layers, vec![ffn, dim]),
            ("ffn_down.weight", layers, vec![dim, ffn]),
            ("ffn_up.weight", layers, vec![ffn, dim]),
            ("output_norm.weight", None, vec![dim]),
            ("cosines and sines", None, vec![self.context, head_dim]),
        ];
        if !self.tied {
            tensors.push(("output.weight", None, vec![vocab, dim]));
        }
        tensors
    }

    fn architecture(&self) -> Architecture {
        let head_dim = self.dim / self.heads;
        let layer = LayerPlan {
            query_heads: self.heads,
            kv_heads: self.kv_heads,
            ffn_dim: self.ffn,
            visibility: Visibility::All,
        };
        Architecture {
            family: Family::Llama,
            vocab_size: self.vocab,
            model_dim: self.dim,
            head_dim,
            context_length: self.context,
            layers: vec![layer; self.layers],
            norm: NormKind::Rms,
            norm_eps: 1e-5,
            qk_norm: false,
            rope: Rope::plain(10_000.0, head_dim),
            attention_scale: (head_dim as f32).sqrt().recip(),
            activation: Activation::SwiGlu,
            biases: Biases::default(),
            embedding_scale: 1.0,
            logit_scale: 1.0,
            tied: self.tied,
            unused_tokens: Vec::new(),
            bos: Some(1),
            eos: vec![2],
        }
    }
}

/// Sets the keys of a tokenizer of `vocab_size` pieces: as the field has it, 0 to 2 are unknown, begin and end.
///
/// # Errors
/// [`Error::Io`] if the file cannot be read, [`Error::Tokenizer`] if it is no such tokenizer.
pub(crate) fn write_tokenizer(
    path: &Path,
    vocab_size: usize,
    metadata: &mut GgufMetadata,
) -> Result<(), Error> {
    use crate::tokenizer::token_type::{BYTE, CONTROL, NORMAL, UNKNOWN};
    let wrong = |reason: String| Error::Tokenizer { path: path.to_owned(), reason };
    let map = map(path)?;
    if map.len() as u64 > MAX_TOKENIZER_BYTES {
        return Err(wrong(format!("it is longer than {MAX_TOKENIZER_BYTES} bytes")));
    }
    let mut rest = map.get(4..).ok_or_else(|| wrong("it is too short".into()))?;
    let (mut texts, mut scores, mut types) = (Vec::new(), Vec::new(), Vec::new());
    for id in 0..vocab_size {
        let (score, text) = piece(&mut rest).ok_or_else(|| wrong(format!("token {id} is cut off")))?;
        let text = std::str::from_utf8(text).map_err(|_| wrong(format!("token {id} is no UTF-8")))?;
        let (ty, text) = match id {
            0 => (UNKNOWN, "<unk>".into()),
            1 => (CONTROL, "<s>".into()),
            2 => (CONTROL, "</s>".into()),
            3..259 => (BYTE, text.to_owned()),
            // SentencePiece has a mark where this format has a space.
            _ => (NORMAL, text.replace(' ', "\u{2581}")),
        };
        texts.push(text);
        scores.push(score);
        types.push(ty);
    }
    if !rest.is_empty() {
        return Err(wrong(format!("{} bytes follow its {vocab_size} tokens", rest.len())));
    }
    let mut set = |key: &str, value: crate::GgufValue| metadata.set(format!("tokenizer.ggml.{key}"), value);
    set("model", "llama".into());
    set("tokens", texts.into());
    set("scores", scores.into());
    set("token_type", types.into());
    set("unknown_token_id", 0_u32.into());
    set("bos_token_id", 1_u32.into());
    set("eos_token_id", 2_u32.into());
    set("add_bos_token", true.into());
    Ok(())
}

/// Takes the next piece: its score and bytes.
fn piece<'a>(rest: &mut &'a [u8]) -> Option<(f32, &'a [u8])> {
    let (score, after) = rest.split_first_chunk()?;
    let (len, after) = after.split_first_chunk()?;
    let (text, after) = after.split_at_checked(usize::try_from(i32::from_le_bytes(*len)).ok()?)?;
    *rest = after;
    Some((f32::from_le_bytes(*score), text))
}
