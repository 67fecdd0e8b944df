//! Text to token ids and back.
//!
//! Elmwood's own tokenizers are byte-level BPE: every text can be encoded, decodes to itself, and the same
//! texts train the same file to the last byte. They encode by code of this crate, which is an order of
//! magnitude faster than the general library. So do tokenizers in GGUF files; a `tokenizer.json` of another
//! maker goes through that library.
//!
//! Text cannot inject special tokens: `<|eos|>` on a web page is seven ordinary characters, unless the
//! caller asks for [`Special::Parse`].

mod byte_level;
mod byte_pairs;
mod decode_stream;
mod folder;
mod foreign;
mod from_gguf;
mod gguf_to_json;
mod json;
mod merges;
mod pieces;
mod sentence_piece;
mod special;
mod to_gguf;
pub(crate) mod token_type;
mod training;

use std::path::Path;

use byte_pairs::BytePairs;
pub use decode_stream::DecodeStream;
pub(crate) use folder::CONFIG_FILE as TOKENIZER_CONFIG_FILE;
use folder::Settings;
use foreign::Foreign;
use from_gguf::Problem;
pub(crate) use gguf_to_json::tokenizer_files;
use pieces::PreTokenizer;
use sentence_piece::SentencePiece;
pub use special::Special;
use special::{NamedToken, Part, SpecialTokens};

use crate::error::read_text;
use crate::gguf::is_gguf;
use crate::{Error, GgufFile, GgufMetadata};

/// File name of the tokenizer within a model folder.
pub const TOKENIZER_FILE: &str = "tokenizer.json";

/// Special tokens of Elmwood's own tokenizers, by id.
const SPECIAL: [&str; 2] = ["<|bos|>", "<|eos|>"];
const BOS: u32 = 0;
const EOS: u32 = 1;

/// Names under which texts begin and end in the tokenizers of well-known models.
const BEGIN: [&str; 4] = ["<|bos|>", "<s>", "<|begin_of_text|>", "<|endoftext|>"];
const END: [&str; 4] = ["<|eos|>", "</s>", "<|end_of_text|>", "<|endoftext|>"];

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
pub struct Tokenizer {
    encoder: Encoder,
    special: SpecialTokens,
    chat_template: Option<String>,
}

/// How text becomes tokens.
#[derive(Debug)]
enum Encoder {
    /// Elmwood's own byte-level BPE.
    Own(Box<BytePairs>),
    /// Byte-level BPE of a GGUF file.
    ByteLevel(Box<ByteLevel>),
    /// SentencePiece of a GGUF file.
    Words(Box<Words>),
    /// Anything else, through Hugging Face's library.
    Foreign(Box<Foreign>),
}

#[derive(Debug)]
struct ByteLevel {
    cutter: PreTokenizer,
    pairs: BytePairs,
}

#[derive(Debug)]
struct Words {
    /// Bytes of every token by id; empty for special tokens.
    tokens: Vec<Box<[u8]>>,
    pieces: SentencePiece,
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
        Ok(Self::own(pairs))
    }

    /// Reads the tokenizer of a model: a GGUF file, a folder, or a `tokenizer.json`.
    ///
    /// In a folder, `tokenizer_config.json`, `special_tokens_map.json`, `generation_config.json` and
    /// `chat_template.jinja` are read too where they are there.
    ///
    /// # Errors
    /// Those of [`GgufFile::open`], [`Self::from_gguf`] and [`Self::load`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        if path.is_dir() {
            Self::read(&path.join(TOKENIZER_FILE), &Settings::read(path)?)
        } else if is_gguf(path) {
            Self::from_gguf(&GgufFile::open(path)?)
        } else {
            Self::load(path)
        }
    }

    /// Takes the tokenizer out of a GGUF file: kind `llama` (SentencePiece) or `gpt2` (byte-level BPE).
    ///
    /// Tokens of the types control and unknown are special, and so are user-defined ones that look like
    /// markup (`<|user|>`, `[INST]`); other user-defined ones are text that is never cut.
    ///
    /// # Errors
    /// [`Error::InFile`] with the key that is missing or of a wrong type; [`Error::Tokenizer`] if values do
    /// not fit together, or the kind or pre-tokenizer is not known.
    pub fn from_gguf(file: &GgufFile) -> Result<Self, Error> {
        let metadata = file.metadata();
        let (encoder, special) = from_gguf::read(metadata).map_err(|problem| match problem {
            Problem::Key(error) => error.in_file(file.path()),
            Problem::Reason(reason) => Error::Tokenizer { path: file.path().to_owned(), reason },
        })?;
        let chat_template = metadata.get::<&str>("tokenizer.chat_template");
        let chat_template = chat_template.map_err(|error| error.in_file(file.path()))?.map(str::to_owned);
        Ok(Self { encoder, special, chat_template })
    }

    /// Reads a `tokenizer.json`, Elmwood's own or of any kind that Hugging Face's library knows.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read or is longer than 100 MiB; [`Error::Tokenizer`] if it is damaged,
    /// or has no token for the end of a text.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, Error> {
        Self::read(path.as_ref(), &Settings::default())
    }

    /// Writes a `tokenizer.json`, whole or not at all.
    ///
    /// # Errors
    /// [`Error::Write`]; [`Error::Tokenizer`] if a tokenizer of another maker cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        let path = path.as_ref();
        let json = match &self.encoder {
            Encoder::Own(pairs) => Ok(json::write(pairs)),
            Encoder::Foreign(foreign) => foreign.to_json(),
            Encoder::ByteLevel(_) | Encoder::Words(_) => {
                Err("tokenizers of GGUF files cannot be written in this form".into())
            }
        };
        let json = json.map_err(|reason| Error::Tokenizer { path: path.to_owned(), reason })?;
        Ok(elmwood_durable::write_file(path, json.as_bytes())?)
    }

    /// Sets the keys `tokenizer.ggml.*` and `tokenizer.chat_template`, so that a GGUF file gives the same
    /// ids to this crate and to llama.cpp.
    ///
    /// # Errors
    /// [`Error::TokenizerExport`] if the format cannot hold this tokenizer: it knows byte-level BPE with
    /// certain pre-tokenizers, and BPE in the manner of SentencePiece. That of a GGUF file is to be copied
    /// key by key instead.
    pub fn write_gguf(&self, metadata: &mut GgufMetadata) -> Result<(), Error> {
        to_gguf::write(self, metadata).map_err(|reason| Error::TokenizerExport { reason })
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
        self.encode_parts(text, Special::AsText, ids);
    }

    /// Token ids of a text whose names of special tokens are parsed if `special` says so.
    #[must_use]
    pub fn encode_with(&self, text: &str, special: Special) -> Vec<u32> {
        let mut ids = Vec::with_capacity(text.len() / 3);
        self.encode_parts(text, special, &mut ids);
        ids
    }

    /// Token ids of a text as the model expects it: with [`Self::bos`] before it if [`Self::add_bos`], but
    /// never twice.
    #[must_use]
    pub fn encode_prompt(&self, text: &str, special: Special) -> Vec<u32> {
        let mut ids = self.encode_with(text, special);
        if self.add_bos() {
            self.prepend_bos(&mut ids);
        }
        ids
    }

    /// Puts [`Self::bos`] before token ids, unless they begin with it.
    pub fn prepend_bos(&self, ids: &mut Vec<u32>) {
        if ids.first() != Some(&self.bos()) {
            ids.insert(0, self.bos());
        }
    }

    fn encode_parts(&self, text: &str, special: Special, ids: &mut Vec<u32>) {
        if let Encoder::Foreign(foreign) = &self.encoder {
            return foreign.encode(text, special, ids);
        }
        self.special.split(text, special, |part| match (part, &self.encoder) {
            (Part::Token(id), _) => ids.push(id),
            (Part::Text(text), Encoder::Own(pairs)) => {
                pieces::pieces(text).for_each(|piece| pairs.encode_piece(piece.as_bytes(), ids));
            }
            (Part::Text(text), Encoder::ByteLevel(bytes)) => {
                bytes.cutter.cut(text, &mut |piece| bytes.pairs.encode_piece(piece.as_bytes(), ids));
            }
            (Part::Text(text), Encoder::Words(words)) => words.pieces.encode(text, ids),
            (Part::Text(_), Encoder::Foreign(_)) => {}
        });
    }

    /// The text of token ids. Special and unknown ids give nothing, bytes that are no UTF-8 U+FFFD.
    #[must_use]
    pub fn decode(&self, ids: &[u32]) -> String {
        self.decode_with(ids, Special::AsText)
    }

    /// The text of token ids, with the names of special tokens if `special` is [`Special::Parse`].
    #[must_use]
    pub fn decode_with(&self, ids: &[u32], special: Special) -> String {
        if let Encoder::Foreign(foreign) = &self.encoder {
            return foreign.decode(ids, special);
        }
        let mut bytes = Vec::with_capacity(ids.len() * 4);
        for &id in ids {
            match self.special.get(id) {
                Some(token) if special == Special::Parse => bytes.extend_from_slice(token.name.as_bytes()),
                _ => bytes.extend_from_slice(self.bytes_of(id)),
            }
        }
        let begins_with_text =
            special == Special::AsText || !ids.first().is_some_and(|&id| self.is_special(id));
        if self.adds_space() && begins_with_text && bytes.first() == Some(&b' ') {
            bytes.remove(0);
        }
        String::from_utf8(bytes)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
    }

    /// Decoding token by token, for text that is shown while it is generated: text that goes on after other
    /// text. See [`Self::decode_stream_after`] for text that begins.
    #[must_use]
    pub fn decode_stream(&self) -> DecodeStream<'_> {
        DecodeStream::new(self, false)
    }

    /// Decoding token by token after the ids of a prompt. Where a text begins, which is after nothing and
    /// after special tokens, SentencePiece puts a space that was not in the text; this drops it.
    #[must_use]
    pub fn decode_stream_after(&self, prompt: &[u32]) -> DecodeStream<'_> {
        DecodeStream::new(self, self.adds_space() && prompt.last().is_none_or(|&id| self.is_special(id)))
    }

    /// Whether a text is encoded as if there were a space before it.
    fn adds_space(&self) -> bool {
        matches!(&self.encoder, Encoder::Words(words) if words.pieces.add_space_prefix)
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

    /// Token that begins a text; [`Self::eos`] where there is no other.
    #[must_use]
    pub fn bos(&self) -> u32 {
        self.special.bos
    }

    /// Token that ends a text.
    #[must_use]
    pub fn eos(&self) -> u32 {
        self.special.eos
    }

    /// Token that ends a turn of a chat, where it is declared.
    #[must_use]
    pub fn end_of_turn(&self) -> Option<u32> {
        self.special.end_of_turn
    }

    /// Token that fills rows, where it is declared.
    #[must_use]
    pub fn padding(&self) -> Option<u32> {
        self.special.padding
    }

    /// Token that stands for what cannot be encoded, where it is declared.
    #[must_use]
    pub fn unknown(&self) -> Option<u32> {
        self.special.unknown
    }

    /// Whether the model expects [`Self::bos`] before a text.
    #[must_use]
    pub fn add_bos(&self) -> bool {
        self.special.add_bos
    }

    /// Tokens after which nothing is generated, in rising order: [`Self::eos`], declared ends of turns, and
    /// special tokens that are named as an end, such as `<|im_end|>`.
    #[must_use]
    pub fn end_of_generation(&self) -> &[u32] {
        self.special.ends()
    }

    /// Whether nothing is generated after a token.
    #[must_use]
    pub fn ends_generation(&self, id: u32) -> bool {
        self.special.ends().binary_search(&id).is_ok()
    }

    /// Whether a token is special: it stands for no text.
    #[must_use]
    pub fn is_special(&self, id: u32) -> bool {
        self.special.get(id).is_some()
    }

    /// The special token of a name, such as `<|end|>`.
    #[must_use]
    pub fn special_id(&self, name: &str) -> Option<u32> {
        self.special.id(name)
    }

    /// The name of a special token.
    #[must_use]
    pub fn special_name(&self, id: u32) -> Option<&str> {
        self.special.get(id).map(|token| &*token.name)
    }

    /// The model's own chat template, in Jinja; see [`ChatTemplate`](crate::ChatTemplate).
    #[must_use]
    pub fn chat_template(&self) -> Option<&str> {
        self.chat_template.as_deref()
    }

    fn read(path: &Path, settings: &Settings) -> Result<Self, Error> {
        let text = read_text(path, MAX_TOKENIZER_BYTES)?;
        Self::from_json(&text, settings).map_err(|reason| Error::Tokenizer { path: path.to_owned(), reason })
    }

    fn from_json(text: &str, settings: &Settings) -> Result<Self, String> {
        let mut this = match json::read(text)? {
            Some(pairs) => Self::own(pairs),
            None => {
                let (foreign, special) = Foreign::read(text, settings)?;
                Self { encoder: Encoder::Foreign(Box::new(foreign)), special, chat_template: None }
            }
        };
        this.chat_template.clone_from(&settings.chat_template);
        Ok(this)
    }

    fn own(pairs: BytePairs) -> Self {
        let named = |(id, name): (u32, &str)| NamedToken {
            id,
            name: name.into(),
            in_text: false,
            strips_left: false,
            strips_right: false,
        };
        let names = (0..).zip(SPECIAL).map(named).collect();
        let mut special = SpecialTokens::new(names, BOS, EOS).expect("two names are not too many");
        special.add_bos = true;
        Self { encoder: Encoder::Own(Box::new(pairs)), special, chat_template: None }
    }

    fn tokens(&self) -> &[Box<[u8]>] {
        match &self.encoder {
            Encoder::Own(pairs) => pairs.tokens(),
            Encoder::ByteLevel(bytes) => bytes.pairs.tokens(),
            Encoder::Words(words) => &words.tokens,
            Encoder::Foreign(foreign) => foreign.tokens(),
        }
    }

    fn bytes_of(&self, id: u32) -> &[u8] {
        self.tokens().get(id as usize).map_or(&[], |token| token)
    }
}
