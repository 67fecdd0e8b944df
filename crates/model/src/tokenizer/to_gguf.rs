//! Tokenizers as metadata of a GGUF file, so that other programs give the same ids.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::byte_level::Alphabet;
use super::from_gguf::byte_of;
use super::pieces::PATTERN;
use super::token_type::{BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED};
use super::{Encoder, SPECIAL, Tokenizer};
use crate::{GgufMetadata, GgufValue};

/// Published regular expressions, with the names that the format has for them.
pub(super) const EXPRESSIONS: [(&str, &str); 5] = [
    (PATTERN, "dbrx"),
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        "dbrx",
    ),
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        "qwen2",
    ),
    (
        concat!(
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|",
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|",
            r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        ),
        "gpt-4o",
    ),
    (
        concat!(
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|",
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|",
            r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        ),
        "tekken",
    ),
];

/// Sets the keys of a tokenizer; tells why the format cannot hold it.
pub(super) fn write(tokenizer: &Tokenizer, metadata: &mut GgufMetadata) -> Result<(), String> {
    let written = match &tokenizer.encoder {
        Encoder::Own(pairs) => {
            let alphabet = Alphabet::new();
            let special = |id: usize| SPECIAL.get(id).map(ToString::to_string);
            let names: Vec<String> = (pairs.tokens().iter().enumerate())
                .map(|(id, token)| special(id).unwrap_or_else(|| alphabet.text(token)))
                .collect();
            let merges = pairs.merges().iter();
            let merges = merges
                .map(|&((left, right), _)| format!("{} {}", names[left as usize], names[right as usize]));
            let ty = |id: usize| if id < SPECIAL.len() { CONTROL } else { NORMAL };
            Written {
                kind: Kind::Bytes { name: "dbrx", merges: merges.collect() },
                types: (0..names.len()).map(ty).collect(),
                texts: names,
            }
        }
        Encoder::Foreign(foreign) => {
            let json: Value = serde_json::from_str(&foreign.to_json()?).map_err(|error| error.to_string())?;
            from_json(&json, foreign.tokens().len())?
        }
        Encoder::ByteLevel(_) | Encoder::Words(_) => {
            return Err("it comes from a GGUF file; copy the keys `tokenizer.*` of that file".into());
        }
    };
    let mut set = |key: &str, value: GgufValue| metadata.set(format!("tokenizer.ggml.{key}"), value);
    match written.kind {
        Kind::Bytes { name, merges } => {
            set("model", "gpt2".into());
            set("pre", name.into());
            set("merges", merges.into());
        }
        Kind::Words { scores, add_space_prefix } => {
            set("model", "llama".into());
            set("pre", "default".into());
            set("scores", scores.into());
            set("add_space_prefix", add_space_prefix.into());
        }
    }
    set("tokens", written.texts.into());
    set("token_type", written.types.into());
    set("bos_token_id", tokenizer.bos().into());
    set("eos_token_id", tokenizer.eos().into());
    for (key, id) in [
        ("eot_token_id", tokenizer.end_of_turn()),
        ("unknown_token_id", tokenizer.unknown()),
        ("padding_token_id", tokenizer.padding()),
    ] {
        id.into_iter().for_each(|id| set(key, id.into()));
    }
    set("add_bos_token", tokenizer.add_bos().into());
    if let Some(template) = tokenizer.chat_template() {
        metadata.set("tokenizer.chat_template", template);
    }
    Ok(())
}

/// A vocabulary in the form of the format.
struct Written {
    texts: Vec<String>,
    types: Vec<i32>,
    kind: Kind,
}

enum Kind {
    Bytes { name: &'static str, merges: Vec<String> },
    Words { scores: Vec<f32>, add_space_prefix: bool },
}

/// Translates a `tokenizer.json` with `n_ids` ids.
fn from_json(json: &Value, n_ids: usize) -> Result<Written, String> {
    let model = &json["model"];
    if model["type"] != "BPE" {
        return Err(format!("its model is {}, not BPE", model["type"]));
    }
    for key in ["continuing_subword_prefix", "end_of_word_suffix", "dropout"] {
        if !model[key].is_null() && model[key] != "" {
            return Err(format!("its model has a `{key}`, which the format cannot hold"));
        }
    }
    let is_bytes = json["decoder"]["type"] == "ByteLevel";
    // Ids that the vocabulary leaves out need names of their own.
    let mut texts: Vec<String> = (0..n_ids).map(|id| format!("[PAD{id}]")).collect();
    let mut types = vec![UNUSED; n_ids];
    let mut put = |id: &Value, text: &str, ty: i32| -> Result<(), String> {
        let id = id.as_u64().map(|id| id as usize).filter(|&id| id < n_ids).ok_or("an id is no number")?;
        (texts[id], types[id]) = (text.to_owned(), ty);
        Ok(())
    };
    for (text, id) in model["vocab"].as_object().into_iter().flatten() {
        put(id, text, if !is_bytes && byte_of(text).is_some() { BYTE } else { NORMAL })?;
    }
    for added in json["added_tokens"].as_array().into_iter().flatten() {
        let text = added["content"].as_str().ok_or("an added token has no text")?;
        let ty = match added["special"].as_bool() {
            _ if model["unk_token"] == text => UNKNOWN,
            Some(true) => CONTROL,
            _ => USER_DEFINED,
        };
        put(&added["id"], text, ty)?;
    }
    let merges = merges_of(model)?;
    let kind = if is_bytes {
        let merges = merges.into_iter().map(|[left, right]| format!("{left} {right}")).collect();
        Kind::Bytes { name: name_of(json)?, merges }
    } else {
        let add_space_prefix = adds_space(json)?;
        Kind::Words { scores: scores_of(&texts, &types, &merges)?, add_space_prefix }
    };
    Ok(Written { texts, types, kind })
}

/// Merges, which newer files give as pairs and older ones as texts with a space.
fn merges_of(model: &Value) -> Result<Vec<[&str; 2]>, String> {
    fn pair(merge: &Value) -> Option<[&str; 2]> {
        let parts = match merge.as_str() {
            Some(text) => text.split_once(' '),
            None => merge[0].as_str().zip(merge[1].as_str()),
        };
        // The first part of a pair may not hold the space that ends it in the format.
        parts.filter(|(left, _)| !left.contains(' ')).map(<[&str; 2]>::from)
    }
    let merges = model["merges"].as_array().map_or(&[][..], |merges| merges);
    let pairs = merges.iter().enumerate();
    pairs.map(|(rank, merge)| pair(merge).ok_or_else(|| format!("merge {rank} is no pair"))).collect()
}

/// Name of the pre-tokenizer of a byte-level BPE.
fn name_of(json: &Value) -> Result<&'static str, String> {
    match json["normalizer"]["type"].as_str() {
        // Text that is not composed is rare, and llama.cpp leaves this out for these models too.
        None | Some("NFC") => {}
        Some(other) => return Err(format!("its normalizer `{other}` has no place in the format")),
    }
    let one = std::slice::from_ref(&json["pre_tokenizer"]);
    let steps = json["pre_tokenizer"]["pretokenizers"].as_array().map_or(one, |steps| steps);
    if steps.iter().any(|step| step["add_prefix_space"] == true) {
        return Err("it puts a space before texts".into());
    }
    let ignores_merges = json["model"]["ignore_merges"] == true;
    let kind = |step: &Value| step["type"].as_str().unwrap_or_default().to_owned();
    let kinds: Vec<String> = steps.iter().map(kind).collect();
    let kinds: Vec<&str> = kinds.iter().map(|kind| &**kind).collect();
    let uses_expression = steps.last().is_some_and(|step| step["use_regex"] != false);
    let name = match kinds[..] {
        ["ByteLevel"] if uses_expression => Some("gpt-2"),
        ["Digits", "ByteLevel"] if uses_expression && steps[0]["individual_digits"] == true => Some("smollm"),
        ["Split", "ByteLevel"] if !uses_expression && steps[0]["behavior"] == "Isolated" => {
            let expression = steps[0]["pattern"]["Regex"].as_str();
            EXPRESSIONS.iter().find(|known| Some(known.0) == expression).map(|known| known.1)
        }
        _ => None,
    };
    match (name, ignores_merges) {
        (Some("dbrx"), true) => Ok("llama-bpe"),
        (Some("tekken"), true) => Ok("tekken"),
        (Some("tekken"), false) | (None, _) => {
            Err(format!("no name is known for its pre-tokenizer {}", json["pre_tokenizer"]))
        }
        (Some(_), true) => {
            Err("no name is known for its pre-tokenizer with whole words taken as they are".into())
        }
        (Some(name), false) => Ok(name),
    }
}

/// Whether a BPE in the manner of SentencePiece puts a space before texts.
fn adds_space(json: &Value) -> Result<bool, String> {
    let one = std::slice::from_ref(&json["normalizer"]);
    let steps = json["normalizer"]["normalizers"].as_array().map_or(one, |steps| steps);
    let mut escapes = json["pre_tokenizer"]["type"] == "Metaspace";
    let mut adds = escapes && json["pre_tokenizer"]["prepend_scheme"] != "never";
    for step in steps {
        match step["type"].as_str() {
            None => {}
            Some("Prepend") if step["prepend"] == "▁" => adds = true,
            Some("Replace") if step["pattern"]["String"] == " " && step["content"] == "▁" => escapes = true,
            Some(other) => return Err(format!("its normalizer `{other}` has no place in the format")),
        }
    }
    if !escapes || json["model"]["byte_fallback"] != true {
        return Err("it is neither byte-level nor falls back to bytes as SentencePiece does".into());
    }
    Ok(adds)
}

/// Scores that rank tokens as merges do: the first merge makes the token of the highest score.
///
/// Scores belong to tokens, merges to pairs. They say the same if every way to put a token together is a
/// merge, and the merges of one token stand together. Where those of several tokens are mixed, they had one
/// score in the first place, as the rows of spaces of Llama; then the leftmost of them is merged.
fn scores_of(texts: &[String], types: &[i32], merges: &[[&str; 2]]) -> Result<Vec<f32>, String> {
    let ordinary = (0..).zip(texts).filter(|&(id, _)| types[id] == NORMAL);
    let ids: HashMap<&str, usize> = ordinary.map(|(id, text)| (&**text, id)).collect();
    let pairs: HashSet<&[&str; 2]> = merges.iter().collect();
    for text in ids.keys() {
        let mut splits = text.char_indices().skip(1).map(|(at, _)| text.split_at(at));
        if splits.any(|(left, right)| {
            ids.contains_key(left) && ids.contains_key(right) && !pairs.contains(&[left, right])
        }) {
            return Err("its merges rank pairs, while the format can only rank tokens".into());
        }
    }
    let made: Vec<usize> = merges
        .iter()
        .map(|pair| {
            ids.get(&*pair.concat()).copied().ok_or_else(|| format!("`{}` is no token", pair.concat()))
        })
        .collect::<Result<_, _>>()?;
    let last: HashMap<usize, usize> = made.iter().enumerate().map(|(rank, &id)| (id, rank)).collect();
    // What no merge makes comes last.
    let mut scores = vec![-(merges.len() as f32) - 1.0; texts.len()];
    let (mut n_groups, mut group_end) = (0, 0);
    for (rank, id) in made.into_iter().enumerate() {
        if rank >= group_end {
            n_groups += 1;
        }
        group_end = group_end.max(last[&id] + 1);
        scores[id] = -(n_groups as f32);
    }
    Ok(scores)
}
