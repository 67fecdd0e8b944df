//! Tokenizers that others made, such as Llama's, which Apple's models need: through Hugging Face's library.

use std::panic::{AssertUnwindSafe, catch_unwind};

use tokenizers::DecoderWrapper;

use super::byte_level::Alphabet;

/// Names under which texts begin and end in the tokenizers of well-known models.
const BEGIN: [&str; 4] = ["<|bos|>", "<s>", "<|begin_of_text|>", "<|endoftext|>"];
const END: [&str; 4] = ["<|eos|>", "</s>", "<|end_of_text|>", "<|endoftext|>"];

/// A tokenizer of any kind that the library knows.
#[derive(Debug)]
pub(super) struct Foreign {
    inner: tokenizers::Tokenizer,
    /// Bytes of every token by id; empty for special tokens and gaps.
    tokens: Vec<Box<[u8]>>,
    pub(super) bos: u32,
    pub(super) eos: u32,
}

impl Foreign {
    /// Reads a `tokenizer.json`. Damage, and a missing begin or end of text, is told as a text.
    pub(super) fn read(text: &str) -> Result<Self, String> {
        // The library is not written for hostile files: what it meets with a panic is an error here.
        let parsed = catch_unwind(AssertUnwindSafe(|| {
            let mut inner: tokenizers::Tokenizer = text.parse()?;
            inner.set_encode_special_tokens(true);
            inner.with_padding(None);
            inner.with_truncation(None)?;
            inner.encode_fast("Trial: 1 é 中 \u{1F600}\n", false)?;
            Ok::<_, tokenizers::Error>(inner)
        }));
        let inner = parsed
            .map_err(|_| "it breaks the library that reads it".to_owned())?
            .map_err(|error| error.to_string())?;
        let vocabulary = inner.get_vocab(true);
        let special = |names: [&str; 4], what: &str| {
            let found = names.iter().find_map(|name| vocabulary.get(*name).copied());
            found.ok_or_else(|| format!("it has no token for the {what} of a text"))
        };
        let (bos, eos) = (special(BEGIN, "beginning")?, special(END, "end")?);

        let n_ids = vocabulary.values().max().map_or(0, |&id| id as usize + 1);
        if n_ids > super::MAX_VOCABULARY {
            return Err(format!("more than {} tokens", super::MAX_VOCABULARY));
        }
        let alphabet = matches!(inner.get_decoder(), Some(DecoderWrapper::ByteLevel(_))).then(Alphabet::new);
        let added = inner.get_added_tokens_decoder();
        let mut tokens = vec![Box::default(); n_ids];
        for (name, id) in vocabulary {
            tokens[id as usize] = match added.get(&id) {
                Some(added) if added.special => Box::default(),
                Some(_) => name.as_bytes().into(),
                None => token_bytes(&name, alphabet.as_ref()),
            };
        }
        Ok(Self { inner, tokens, bos, eos })
    }

    pub(super) fn tokens(&self) -> &[Box<[u8]>] {
        &self.tokens
    }

    /// Token ids of a text; the library's failures, which the trial above rules out, give none.
    pub(super) fn encode(&self, text: &str, out: &mut Vec<u32>) {
        if let Ok(encoding) = self.inner.encode_fast(text, false) {
            out.extend_from_slice(encoding.get_ids());
        }
    }

    pub(super) fn decode(&self, ids: &[u32]) -> String {
        self.inner.decode(ids, true).unwrap_or_default()
    }

    pub(super) fn to_json(&self) -> Result<String, String> {
        self.inner.to_string(true).map_err(|error| error.to_string())
    }
}

/// Bytes of a token: by the byte-level alphabet, or as SentencePiece writes them (`▁`, `<0x0A>`).
fn token_bytes(name: &str, alphabet: Option<&Alphabet>) -> Box<[u8]> {
    if let Some(alphabet) = alphabet {
        return alphabet.bytes(name).unwrap_or_else(|| name.as_bytes().into());
    }
    let hex = name.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>')).filter(|hex| hex.len() == 2);
    match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
        Some(byte) => Box::from([byte]),
        None => name.replace('▁', " ").into_bytes().into(),
    }
}
