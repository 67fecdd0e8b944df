//! Tokenizers from the metadata of a GGUF file: `llama` (SentencePiece) and `gpt2` (byte-level BPE).
//!
//! Source: the keys and token types of the format's description in the `ggml` repository.

use std::collections::HashMap;

use super::byte_level::Alphabet;
use super::byte_pairs::{BytePairs, Merge};
use super::pieces::PreTokenizer;
use super::sentence_piece::{Role, SentencePiece};
use super::special::{NamedToken, SpecialTokens, is_end};
use super::token_type::{BYTE, CONTROL, UNKNOWN, UNUSED, USER_DEFINED};
use super::{BEGIN, ByteLevel, END, Encoder, MAX_VOCABULARY, Words};
use crate::{Error, GgufMetadata};

/// Why metadata make no tokenizer.
pub(super) enum Problem {
    /// A key is missing or of a wrong type.
    Key(Error),
    /// Values do not fit together.
    Reason(String),
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        Self::Key(error)
    }
}

impl From<String> for Problem {
    fn from(reason: String) -> Self {
        Self::Reason(reason)
    }
}

/// Reads the tokenizer that metadata describe.
pub(super) fn read(metadata: &GgufMetadata) -> Result<(Encoder, SpecialTokens), Problem> {
    let vocabulary = Vocabulary::read(metadata)?;
    match metadata.str("tokenizer.ggml.model")? {
        "llama" => sentence_piece(metadata, &vocabulary),
        "gpt2" => byte_level(metadata, &vocabulary),
        other => {
            let reason =
                format!("its kind `{}` is not supported, only `llama` and `gpt2`", other.escape_debug());
            Err(reason.into())
        }
    }
}

/// Tokens by id, with what is said about each.
pub(super) struct Vocabulary<'a> {
    pub(super) texts: &'a [String],
    types: Vec<i32>,
    pub(super) bos: Option<u32>,
    pub(super) eos: Option<u32>,
    end_of_turn: Option<u32>,
    end_of_message: Option<u32>,
    pub(super) unknown: Option<u32>,
    pub(super) padding: Option<u32>,
}

impl<'a> Vocabulary<'a> {
    pub(super) fn read(metadata: &'a GgufMetadata) -> Result<Self, Problem> {
        let texts = metadata.strings("tokenizer.ggml.tokens")?;
        if texts.is_empty() || texts.len() > MAX_VOCABULARY {
            return Err(format!("{} tokens are not between 1 and {MAX_VOCABULARY}", texts.len()).into());
        }
        let types: Option<Vec<i32>> = metadata.get("tokenizer.ggml.token_type")?;
        if let Some(types) = types.as_ref().filter(|types| types.len() != texts.len()) {
            return Err(format!("{} tokens have {} types", texts.len(), types.len()).into());
        }
        let id = |name: &str| {
            let key = format!("tokenizer.ggml.{name}_token_id");
            // -1 is how some files say that there is none.
            match metadata.get::<i64>(&key)? {
                None | Some(-1) => Ok(None),
                Some(id) if id == i64::from(u32::MAX) => Ok(None),
                Some(id) if (0..texts.len() as i64).contains(&id) => Ok(Some(id as u32)),
                Some(id) => {
                    Err(Problem::Reason(format!("`{key}` is {id}, but there are {} tokens", texts.len())))
                }
            }
        };
        Ok(Self {
            types: types.unwrap_or_else(|| vec![0; texts.len()]),
            bos: id("bos")?,
            eos: id("eos")?,
            end_of_turn: id("eot")?,
            end_of_message: id("eom")?,
            unknown: id("unknown")?,
            padding: id("padding")?,
            texts,
        })
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &'a str)> {
        (0..).zip(self.texts).map(|(id, text)| (id, &**text))
    }

    /// What a token is. User-defined tokens are text that is never cut, as a row of spaces, unless they
    /// look like markup: then pages could inject `<|user|>` or `<tool_call>`, so they are taken for special
    /// ones. An end or beginning that the file forgot to mark as special is one all the same.
    pub(super) fn sort(&self, id: u32) -> Sort {
        let text = &*self.texts[id as usize];
        let markup = text.len() > 2
            && ((text.starts_with('<') && text.ends_with('>'))
                || (text.starts_with('[') && text.ends_with(']')));
        let declared = [self.bos, self.eos, self.end_of_turn, self.end_of_message].contains(&Some(id));
        match self.types[id as usize] {
            UNKNOWN | CONTROL => Sort::Special,
            USER_DEFINED if markup || declared => Sort::Special,
            USER_DEFINED => Sort::Whole,
            UNUSED => Sort::Unused,
            BYTE => byte_of(text).map_or(Sort::Unused, Sort::Byte),
            _ if markup && (declared || is_end(text)) => Sort::Special,
            0 if self.unknown == Some(id) => Sort::Special,
            0 => byte_of(text).map_or(Sort::Ordinary, Sort::Byte),
            _ => Sort::Ordinary,
        }
    }

    /// The token that has one of these names and is special.
    fn named(&self, names: &[&str]) -> Option<u32> {
        let find =
            |name: &&str| self.iter().find(|(id, text)| text == name && self.sort(*id) == Sort::Special);
        names.iter().find_map(find).map(|(id, _)| id)
    }

    fn special_tokens(&self, strips_right: impl Fn(&str) -> bool) -> Result<SpecialTokens, String> {
        let named = self.iter().filter_map(|(id, text)| {
            let in_text = match self.sort(id) {
                Sort::Special => false,
                Sort::Whole => true,
                _ => return None,
            };
            let strips_right = strips_right(text) && !in_text;
            Some(NamedToken { id, name: text.into(), in_text, strips_left: false, strips_right })
        });
        let eos = self.eos.or_else(|| self.named(&END)).or(self.end_of_turn).or(self.bos);
        let eos = eos.ok_or("it has no token for the end of a text")?;
        let bos = self.bos.or_else(|| self.named(&BEGIN)).unwrap_or(eos);
        let mut special = SpecialTokens::new(named.collect(), bos, eos)?;
        special.add_ends(self.end_of_turn.into_iter().chain(self.end_of_message));
        special.end_of_turn = self.end_of_turn;
        special.padding = self.padding;
        special.unknown = self.unknown;
        Ok(special)
    }
}

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sort {
    Ordinary,
    /// Text that is never cut.
    Whole,
    Special,
    Byte(u8),
    Unused,
}

/// The byte of a name like `<0x0A>`.
pub(super) fn byte_of(name: &str) -> Option<u8> {
    let hex = name.strip_prefix("<0x")?.strip_suffix('>')?;
    let is_hex = hex.len() == 2 && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
    u8::from_str_radix(hex, 16).ok().filter(|_| is_hex)
}

fn sentence_piece(
    metadata: &GgufMetadata,
    vocabulary: &Vocabulary<'_>,
) -> Result<(Encoder, SpecialTokens), Problem> {
    let scores = metadata.f32s("tokenizer.ggml.scores")?;
    if scores.len() != vocabulary.texts.len() {
        return Err(format!("{} tokens have {} scores", vocabulary.texts.len(), scores.len()).into());
    }
    let n_tokens = vocabulary.texts.len() as u32;
    let or_default = |id: Option<u32>, default: u32| id.or(Some(default).filter(|&id| id < n_tokens));
    let vocabulary = &Vocabulary {
        texts: vocabulary.texts,
        types: vocabulary.types.clone(),
        bos: or_default(vocabulary.bos, 1),
        eos: or_default(vocabulary.eos, 2),
        unknown: or_default(vocabulary.unknown, 0),
        ..*vocabulary
    };
    let tokens: Vec<(&str, f32, Role)> = vocabulary
        .iter()
        .zip(scores)
        .map(|((id, text), &score)| match vocabulary.sort(id) {
            Sort::Ordinary => (text, score, Role::Ordinary),
            // Spaces are text before they are escaped, so such a token can only be the result of merges.
            Sort::Whole if text.contains('▁') => (text, score, Role::Ordinary),
            Sort::Byte(byte) => (text, score, Role::Byte(byte)),
            Sort::Whole | Sort::Special | Sort::Unused => (text, score, Role::Other),
        })
        .collect();
    let add_space_prefix = metadata.get("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let pieces = SentencePiece::new(&tokens, vocabulary.unknown, add_space_prefix)?;
    let bytes = vocabulary.iter().map(|(id, text)| match vocabulary.sort(id) {
        Sort::Ordinary | Sort::Whole => text.replace('▁', " ").into_bytes().into(),
        Sort::Byte(byte) => Box::from([byte]),
        Sort::Special | Sort::Unused => Box::default(),
    });
    let encoder = Encoder::Words(Box::new(Words { tokens: bytes.collect(), pieces }));

    let is_phi3 = is_phi3(metadata);
    let mut special = vocabulary.special_tokens(|name| is_phi3 && strips_right(name))?;
    if is_phi3 {
        // The model ends its turn where it would begin another.
        special.add_ends(vocabulary.named(&["<|assistant|>"]));
    }
    special.add_bos = metadata.get("tokenizer.ggml.add_bos_token")?.unwrap_or(true);
    Ok((encoder, special))
}

/// Whether white space after a special token of Phi-3 belongs to it, as in the published tokenizer; the format has no
/// key for it.
pub(super) fn strips_right(name: &str) -> bool {
    !["<unk>", "<s>", "<|endoftext|>"].contains(&name)
}

pub(super) fn is_phi3(metadata: &GgufMetadata) -> bool {
    let says = |key: &str, names: &[&str]| {
        let text = metadata.str(key).unwrap_or_default().to_lowercase();
        names.iter().any(|name| text.contains(name))
    };
    says("general.architecture", &["phi3"]) || says("general.name", &["phi-3", "phi3"])
}

fn byte_level(
    metadata: &GgufMetadata,
    vocabulary: &Vocabulary<'_>,
) -> Result<(Encoder, SpecialTokens), Problem> {
    let name = metadata.get("tokenizer.ggml.pre")?.unwrap_or("default");
    let cutter = PreTokenizer::named(name)
        .ok_or_else(|| format!("its pre-tokenizer `{}` is not supported", name.escape_debug()))?;
    let alphabet = Alphabet::new();
    let (mut tokens, mut ordinary) = (Vec::with_capacity(vocabulary.texts.len()), Vec::new());
    let mut ids = HashMap::with_capacity(vocabulary.texts.len());
    for (id, text) in vocabulary.iter() {
        let sort = vocabulary.sort(id);
        let bytes = if sort == Sort::Ordinary { alphabet.bytes(text) } else { None };
        ordinary.push(bytes.is_some());
        if bytes.is_some() {
            ids.insert(text, id);
        }
        tokens.push(match sort {
            Sort::Special | Sort::Unused => Box::default(),
            _ => bytes.unwrap_or_else(|| text.as_bytes().into()),
        });
    }
    let merge = |(rank, merge): (usize, &String)| -> Result<Merge, String> {
        let space = merge.char_indices().skip(1).find(|&(_, c)| c == ' ').map(|(at, _)| at);
        let parts = space.map(|at| (&merge[..at], &merge[at + 1..]));
        let found = parts.and_then(|(left, right)| {
            let made = ids.get(&*[left, right].concat());
            Some(((*ids.get(left)?, *ids.get(right)?), *made?))
        });
        found.ok_or_else(|| format!("merge {rank} has no token"))
    };
    let merges = metadata.strings("tokenizer.ggml.merges")?.iter().enumerate().map(merge);
    let merges = merges.collect::<Result<_, _>>()?;
    let pairs = BytePairs::new(tokens, |id| ordinary[id as usize], merges, cutter.whole)?;
    let mut special = vocabulary.special_tokens(|_| false)?;
    special.add_bos = metadata.get("tokenizer.ggml.add_bos_token")?.unwrap_or(cutter.add_bos);
    Ok((Encoder::ByteLevel(Box::new(ByteLevel { cutter, pairs })), special))
}
