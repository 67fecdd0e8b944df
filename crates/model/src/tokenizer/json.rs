//! `tokenizer.json`: the form in which Hugging Face's libraries keep a tokenizer.
//!
//! What Elmwood writes is a byte-level BPE that they load as it is. A file is recognised as Elmwood's own
//! by its surroundings, everything but vocabulary and merges, being exactly those of [`TEMPLATE`]; then
//! any damage is an error. Other files go to the general library.

use std::collections::HashMap;

use serde_json::Value;

use super::byte_level::Alphabet;
use super::byte_pairs::{BytePairs, Merge, Whole};
use super::pieces::PATTERN;
use super::{MAX_VOCABULARY, SPECIAL};
use crate::json_object::object;

/// The file without its vocabulary and merges.
const TEMPLATE: &str = r#"{
  "version": "1.0",
  "truncation": null,
  "padding": null,
  "added_tokens": [
    {"id": 0, "content": "<|bos|>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true},
    {"id": 1, "content": "<|eos|>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}
  ],
  "normalizer": null,
  "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
    {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": false},
    {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}
  ]},
  "post_processor": null,
  "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
  "model": {
    "type": "BPE",
    "dropout": null,
    "unk_token": null,
    "continuing_subword_prefix": null,
    "end_of_word_suffix": null,
    "fuse_unk": false,
    "byte_fallback": false,
    "ignore_merges": false,
    "vocab": {VOCAB},
    "merges": [MERGES]
  }
}
"#;

/// The file of a tokenizer: the same bytes for the same vocabulary and merges.
pub(super) fn write(pairs: &BytePairs) -> String {
    let alphabet = Alphabet::new();
    let special = |id: usize| SPECIAL.get(id).map(ToString::to_string);
    let names: Vec<String> = (pairs.tokens().iter().enumerate())
        .map(|(id, token)| quoted(&special(id).unwrap_or_else(|| alphabet.text(token))))
        .collect();
    let vocab: Vec<String> = names.iter().enumerate().map(|(id, name)| format!("\n{name}: {id}")).collect();
    let merge =
        |&((left, right), _): &Merge| format!("\n[{}, {}]", names[left as usize], names[right as usize]);
    let merges: Vec<String> = pairs.merges().iter().map(merge).collect();
    filled(&vocab.join(","), &merges.join(","))
}

/// Reads a file of Elmwood's own kind; none if it is of another.
pub(super) fn read(text: &str) -> Result<Option<BytePairs>, String> {
    let not_json = |error: serde_json::Error| error.to_string();
    let (vocab, merges) = match (split(text).map_err(not_json)?, split(&filled("", ""))) {
        (Some(file), Ok(Some(template))) if file.rest == template.rest => (file.vocab, file.merges),
        _ => return Ok(None),
    };
    let vocab = object(vocab, MAX_VOCABULARY).map_err(not_json)?;
    if vocab.len() > MAX_VOCABULARY {
        return Err(format!("more than {MAX_VOCABULARY} tokens"));
    }
    let merges: Vec<(String, String)> = serde_json::from_str(merges).map_err(not_json)?;

    let alphabet = Alphabet::new();
    let mut tokens: Vec<Option<Box<[u8]>>> = vec![None; vocab.len()];
    let mut ids = HashMap::with_capacity(vocab.len());
    for (name, id) in vocab {
        let id: u32 = serde_json::from_str(id.get()).map_err(not_json)?;
        let bytes = match SPECIAL.iter().position(|special| *special == name) {
            Some(special) if special == id as usize => Some(Box::default()),
            Some(_) => return Err(format!("`{name}` has the id `{id}`")),
            None => alphabet.bytes(&name).filter(|bytes| !bytes.is_empty()),
        };
        let bytes = bytes.ok_or_else(|| format!("token `{id}` is not made of bytes"))?;
        let place = tokens.get_mut(id as usize).ok_or_else(|| format!("id `{id}` leaves a gap"))?;
        if place.replace(bytes).is_some() {
            return Err(format!("id `{id}` stands twice"));
        }
        if ids.insert(name, id).is_some() {
            return Err(format!("the name of token `{id}` stands twice"));
        }
    }
    if let Some(missing) = SPECIAL.iter().find(|special| !ids.contains_key(**special)) {
        return Err(format!("`{missing}` is missing"));
    }
    let id = |name: &str| ids.get(name).copied();
    let merge = |(rank, (left, right)): (usize, (String, String))| -> Result<Merge, String> {
        let found = id(&left).zip(id(&right)).zip(id(&format!("{left}{right}")));
        found.ok_or_else(|| format!("merge {rank} has no token"))
    };
    let merges = merges.into_iter().enumerate().map(merge).collect::<Result<_, _>>()?;
    // As many ids as places and none twice, so there is no gap.
    let pairs = BytePairs::new(tokens.into_iter().flatten().collect(), |_| true, merges, Whole::Reached)?;
    match pairs.missing_byte() {
        Some(byte) => Err(format!("byte `{byte:#04x}` has no token")),
        None => Ok(Some(pairs)),
    }
}

/// A file taken apart.
struct Parts<'a> {
    vocab: &'a str,
    merges: &'a str,
    rest: HashMap<String, Value>,
}

/// Takes a file apart; none if it has no vocabulary or merges, or repeated keys.
fn split(text: &str) -> Result<Option<Parts<'_>>, serde_json::Error> {
    /// A tokenizer file and its model have ten keys each.
    const MAX_KEYS: usize = 64;
    let (mut vocab, mut merges, mut model) = (None, None, None);
    let (mut rest, mut repeated) = (HashMap::new(), false);
    for (key, value) in object(text, MAX_KEYS)? {
        match key.as_str() {
            "model" if model.is_none() => model = Some(value.get()),
            _ => repeated |= rest.insert(key, serde_json::from_str(value.get())?).is_some(),
        }
    }
    let Some(model) = model.filter(|model| model.starts_with('{')) else { return Ok(None) };
    for (key, value) in object(model, MAX_KEYS)? {
        match key.as_str() {
            "vocab" if vocab.is_none() => vocab = Some(value.get()),
            "merges" if merges.is_none() => merges = Some(value.get()),
            _ => {
                repeated |= rest.insert(format!("model.{key}"), serde_json::from_str(value.get())?).is_some();
            }
        }
    }
    Ok(vocab.zip(merges).filter(|_| !repeated).map(|(vocab, merges)| Parts { vocab, merges, rest }))
}

fn filled(vocab: &str, merges: &str) -> String {
    let (head, rest) = TEMPLATE.split_once("VOCAB").expect("it stands in the template");
    let (middle, tail) = rest.split_once("MERGES").expect("it stands in the template");
    [&head.replace("PATTERN", &quoted(PATTERN)), vocab, middle, merges, tail].concat()
}

fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("a text is plain data")
}
