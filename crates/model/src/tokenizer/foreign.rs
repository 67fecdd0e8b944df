//! Tokenizers that others made, such as Llama's, which Apple's models need: through Hugging Face's library.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;

use tokenizers::DecoderWrapper;

use super::byte_level::Alphabet;
use super::folder::Settings;
use super::from_gguf::byte_of;
use super::special::{NamedToken, Special, SpecialTokens};
use super::{BEGIN, END};

/// A tokenizer of any kind that the library knows.
#[derive(Debug)]
pub(super) struct Foreign {
    /// Takes names of special tokens for text.
    inner: tokenizers::Tokenizer,
    /// Parses them; made when it is first asked for.
    parsing: OnceLock<tokenizers::Tokenizer>,
    /// Bytes of every token by id; empty for special tokens and gaps.
    tokens: Vec<Box<[u8]>>,
}

impl Foreign {
    /// Reads a `tokenizer.json`. Damage, and a missing end of text, is told as a text.
    pub(super) fn read(text: &str, settings: &Settings) -> Result<(Self, SpecialTokens), String> {
        // The library is not written for hostile files: what it meets with a panic is an error here.
        let parsed = catch_unwind(AssertUnwindSafe(|| {
            let mut inner: tokenizers::Tokenizer = text.parse()?;
            inner.set_encode_special_tokens(true);
            inner.with_padding(None);
            inner.with_truncation(None)?;
            inner.encode_fast("Trial: 1 é 中 \u{1F600}\n", false)?;
            let framed = inner.encode_fast("a", true)?;
            Ok::<_, tokenizers::Error>((inner, framed.get_ids().first().copied()))
        }));
        let (inner, first_of_framed) = parsed
            .map_err(|_| "it breaks the library that reads it".to_owned())?
            .map_err(|error| error.to_string())?;
        let vocabulary = inner.get_vocab(true);
        let n_ids = vocabulary.values().max().map_or(0, |&id| id as usize + 1);
        // Ids may leave gaps, but a short file with a large id would take memory for all below it.
        let most_ids = super::MAX_VOCABULARY.min(2 * vocabulary.len() + (1 << 16));
        if n_ids > most_ids {
            return Err(format!("its ids go up to {}, but it has {} tokens", n_ids - 1, vocabulary.len()));
        }
        let alphabet = matches!(inner.get_decoder(), Some(DecoderWrapper::ByteLevel(_))).then(Alphabet::new);
        let added = inner.get_added_tokens_decoder();
        let mut tokens = vec![Box::default(); n_ids];
        for (name, &id) in &vocabulary {
            tokens[id as usize] = match added.get(&id) {
                Some(added) if added.special => Box::default(),
                Some(_) => name.as_bytes().into(),
                None => token_bytes(name, alphabet.as_ref()),
            };
        }

        let declared = |name: &Option<String>| name.as_ref().and_then(|name| vocabulary.get(name).copied());
        let known = |names: &[&str]| names.iter().find_map(|name| vocabulary.get(*name).copied());
        let ends = settings.ends.iter().copied().filter(|&id| (id as usize) < n_ids);
        let eos = declared(&settings.eos).or_else(|| ends.clone().next()).or_else(|| known(&END));
        let eos = eos.ok_or("it has no token for the end of a text")?;
        let bos = declared(&settings.bos).or_else(|| known(&BEGIN)).unwrap_or(eos);
        let named = added.iter().map(|(&id, token)| NamedToken {
            id,
            name: token.content.clone(),
            in_text: !token.special,
            strips_left: token.lstrip,
            strips_right: token.rstrip,
        });
        let mut special = SpecialTokens::new(named.collect(), bos, eos)?;
        special.add_ends(ends);
        special.padding = declared(&settings.padding);
        special.unknown = declared(&settings.unknown);
        special.add_bos = settings.add_bos.unwrap_or(first_of_framed == Some(bos));
        Ok((Self { inner, parsing: OnceLock::new(), tokens }, special))
    }

    pub(super) fn tokens(&self) -> &[Box<[u8]>] {
        &self.tokens
    }

    /// Token ids of a text; the library's failures, which the trial above rules out, give none.
    pub(super) fn encode(&self, text: &str, special: Special, out: &mut Vec<u32>) {
        let tokenizer = match special {
            Special::AsText => &self.inner,
            Special::Parse => self.parsing.get_or_init(|| {
                let mut parsing = self.inner.clone();
                parsing.set_encode_special_tokens(false);
                parsing
            }),
        };
        if let Ok(encoding) = tokenizer.encode_fast(text, false) {
            out.extend_from_slice(encoding.get_ids());
        }
    }

    pub(super) fn decode(&self, ids: &[u32], special: Special) -> String {
        self.inner.decode(ids, special == Special::AsText).unwrap_or_default()
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
    match byte_of(name) {
        Some(byte) => Box::from([byte]),
        None => name.replace('▁', " ").into_bytes().into(),
    }
}
