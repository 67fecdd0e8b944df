//! Text to token ids and back.
//!
//! Elmwood's own tokenizers are byte-level BPE: every text can be encoded, decodes to itself, and the same
//! texts train the same file to the last byte. They encode by code of this crate, which is an order of
//! magnitude faster than the general library; tokenizers of other makers go through that library.
//!
//! Text cannot inject special tokens: `<|eos|>` on a web page is seven ordinary characters.

mod byte_level;
mod byte_pairs;
mod decode_stream;
mod foreign;
mod json;
mod pieces;
mod training;

use std::path::Path;

use byte_pairs::BytePairs;
pub use decode_stream::DecodeStream;
use foreign::Foreign;

use crate::Error;
use crate::error::read_text;

/// File name of the tokenizer within a model folder.
pub const TOKENIZER_FILE: &str = "tokenizer.json";

/// Special tokens of Elmwood's own tokenizers, by id.
const SPECIAL: [&str; 2] = ["<|bos|>", "<|eos|>"];
const BOS: u32 = 0;
const EOS: u32 = 1;

/// Most tokens that a vocabulary may have.
const MAX_VOCABULARY: usize = 1 << 22;

/// Longest `tokenizer.json` that is read; the largest known have a third of it.
const MAX_TOKENIZER_BYTES: u64 = 100 << 20;

/// How far training is; see [`Tokenizer::train`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Progress {
    /// The texts are being read.
    Counted {
        /// Bytes of text so far.
        bytes: u64,
    },
    /// Tokens are being learned.
    Merged {
        /// Tokens so far, without bytes and special ones.
        done: usize,
        /// Tokens asked for; there may be fewer in little text.
        wanted: usize,
    },
}

/// Text to token ids and back, by a vocabulary that was learned from text.
///
/// Elmwood's own tokenizers are byte-level BPE: every text can be encoded and decodes to itself. Text
/// cannot inject special tokens.
///
/// ```
/// use elmwood_model::Tokenizer;
///
/// let texts = ["the cat sat on the mat".to_owned(), "the dog saw the cat".to_owned()];
/// let tokenizer = Tokenizer::train(texts.into_iter(), 300, |_| {}).unwrap();
/// let ids = tokenizer.encode("the cat 🐈 <|eos|>");
/// assert_eq!(tokenizer.decode(&ids), "the cat 🐈 <|eos|>");
/// assert!(!ids.contains(&tokenizer.eos()));
/// ```
#[derive(Debug)]
pub struct Tokenizer(Kind);

#[derive(Debug)]
enum Kind {
    Own(Box<BytePairs>),
    Foreign(Box<Foreign>),
}

impl Tokenizer {
    /// Learns a byte-level BPE vocabulary of up to `vocab_size` tokens from texts.
    ///
    /// `<|bos|>` is 0, `<|eos|>` 1, then come the 256 bytes and what is learned: pairs that occur at least
    /// twice, within words, numbers of up to three digits, punctuation and white space. Little text may
    /// give fewer tokens than asked for; see [`Self::vocab_size`]. The same texts give the same tokenizer
    /// for any number of threads. Memory grows with the number of different words; a sample of some
    /// gigabytes is enough for any vocabulary.
    ///
    /// # Errors
    /// [`Error::TokenizerTraining`] if `vocab_size` is below 258 or above 4 Mi.
    pub fn train(
        texts: impl Iterator<Item = String>,
        vocab_size: usize,
        progress: impl FnMut(Progress),
    ) -> Result<Self, Error> {
        let smallest = SPECIAL.len() + 256;
        if !(smallest..=MAX_VOCABULARY).contains(&vocab_size) {
            let reason = format!("`{vocab_size}` tokens are not between {smallest} and {MAX_VOCABULARY}");
            return Err(Error::TokenizerTraining { reason });
        }
        let pairs = training::train(texts, vocab_size, SPECIAL.len(), progress);
        Ok(Self(Kind::Own(Box::new(pairs))))
    }

    /// Reads a `tokenizer.json`, Elmwood's own or of any kind that Hugging Face's library knows.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read or is longer than 100 MiB; [`Error::Tokenizer`] if it is damaged,
    /// or has no token for the beginning or end of a text.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let text = read_text(path, MAX_TOKENIZER_BYTES)?;
        Self::from_json(&text).map_err(|reason| Error::Tokenizer { path: path.to_owned(), reason })
    }

    /// Writes a `tokenizer.json`, whole or not at all.
    ///
    /// # Errors
    /// [`Error::Write`]; [`Error::Tokenizer`] if a tokenizer of another maker cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        let path = path.as_ref();
        let json = match &self.0 {
            Kind::Own(pairs) => json::write(pairs),
            Kind::Foreign(foreign) => {
                foreign.to_json().map_err(|reason| Error::Tokenizer { path: path.to_owned(), reason })?
            }
        };
        Ok(elmwood_durable::write_file(path, json.as_bytes())?)
    }

    /// Token ids of a text, without special tokens: what looks like one is encoded as ordinary text.
    #[must_use]
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::with_capacity(text.len() / 3);
        self.encode_into(text, &mut ids);
        ids
    }

    /// Appends the token ids of a text, as [`Self::encode`] gives them.
    pub fn encode_into(&self, text: &str, ids: &mut Vec<u32>) {
        match &self.0 {
            Kind::Own(pairs) => {
                pieces::pieces(text).for_each(|piece| pairs.encode_piece(piece.as_bytes(), ids));
            }
            Kind::Foreign(foreign) => foreign.encode(text, ids),
        }
    }

    /// The text of token ids. Special and unknown ids give nothing, bytes that are no UTF-8 U+FFFD.
    #[must_use]
    pub fn decode(&self, ids: &[u32]) -> String {
        match &self.0 {
            Kind::Own(_) => {
                let bytes: Vec<u8> = ids.iter().flat_map(|&id| self.bytes_of(id)).copied().collect();
                String::from_utf8_lossy(&bytes).into_owned()
            }
            Kind::Foreign(foreign) => foreign.decode(ids),
        }
    }

    /// Decoding token by token, for text that is shown while it is generated.
    #[must_use]
    pub fn decode_stream(&self) -> DecodeStream<'_> {
        DecodeStream::new(self)
    }

    /// Bytes of text that a token stands for; none for special and unknown ids.
    ///
    /// Loss in bits per byte divides by these, so that tokenizers can be compared.
    #[must_use]
    pub fn token_bytes(&self, id: u32) -> Vec<u8> {
        self.bytes_of(id).to_vec()
    }

    /// Number of ids: one more than the largest. The embedding needs as many rows.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.tokens().len()
    }

    /// Token that begins a text.
    #[must_use]
    pub fn bos(&self) -> u32 {
        match &self.0 {
            Kind::Own(_) => BOS,
            Kind::Foreign(foreign) => foreign.bos,
        }
    }

    /// Token that ends a text.
    #[must_use]
    pub fn eos(&self) -> u32 {
        match &self.0 {
            Kind::Own(_) => EOS,
            Kind::Foreign(foreign) => foreign.eos,
        }
    }

    fn from_json(text: &str) -> Result<Self, String> {
        match json::read(text)? {
            Some(pairs) => Ok(Self(Kind::Own(Box::new(pairs)))),
            None => Ok(Self(Kind::Foreign(Box::new(Foreign::read(text)?)))),
        }
    }

    fn tokens(&self) -> &[Box<[u8]>] {
        match &self.0 {
            Kind::Own(pairs) => pairs.tokens(),
            Kind::Foreign(foreign) => foreign.tokens(),
        }
    }

    fn bytes_of(&self, id: u32) -> &[u8] {
        self.tokens().get(id as usize).map_or(&[], |token| token)
    }
}
