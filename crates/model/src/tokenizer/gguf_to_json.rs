//! Tokenizers of GGUF files as `tokenizer.json` and `tokenizer_config.json`, for Hugging Face's libraries.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::from_gguf::{Problem, Sort, Vocabulary, is_phi3, strips_right};
use super::to_gguf::EXPRESSIONS;
use crate::{Error, GgufMetadata};

/// The texts of both files.
pub(crate) struct TokenizerFiles {
    pub(crate) tokenizer: String,
    pub(crate) config: String,
}

/// Translates the keys `tokenizer.*`.
///
/// # Errors
/// [`Error::GgufKey`] for a key that is missing or of another type, [`Error::TokenizerExport`] if the other form cannot
/// hold the tokenizer.
pub(crate) fn tokenizer_files(metadata: &GgufMetadata) -> Result<TokenizerFiles, Error> {
    translated(metadata).map_err(|problem| match problem {
        Problem::Key(error) => error,
        Problem::Reason(reason) => Error::TokenizerExport { reason },
    })
}

fn translated(metadata: &GgufMetadata) -> Result<TokenizerFiles, Problem> {
    let vocabulary = Vocabulary::read(metadata)?;
    let kind = metadata.str("tokenizer.ggml.model")?;
    let (mut json, adds_bos) = match kind {
        "llama" => (words(metadata, &vocabulary)?, true),
        "gpt2" => (bytes(metadata, &vocabulary)?, false),
        other => return Err(format!("its kind `{}` has no other form", other.escape_debug()).into()),
    };
    let vocab: Map<String, Value> =
        vocabulary.iter().map(|(id, text)| (text.to_owned(), id.into())).collect();
    if vocab.len() != vocabulary.texts.len() {
        return Err("two of its tokens have the same text".to_owned().into());
    }
    json["model"]["vocab"] = vocab.into();
    let phi3 = kind == "llama" && is_phi3(metadata);
    let added = vocabulary.iter().filter_map(|(id, text)| {
        let special = match vocabulary.sort(id) {
            Sort::Special => true,
            Sort::Whole => false,
            _ => return None,
        };
        let rstrip = special && phi3 && strips_right(text);
        Some(json!({
            "id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": rstrip,
            "normalized": false, "special": special,
        }))
    });
    json["added_tokens"] = added.collect();
    let adds_bos = metadata.get("tokenizer.ggml.add_bos_token")?.unwrap_or(adds_bos);
    let name = |id: Option<u32>| id.map(|id| &*vocabulary.texts[id as usize]);
    if let (true, Some((id, bos))) = (adds_bos, vocabulary.bos.zip(name(vocabulary.bos))) {
        json["post_processor"] = json!({
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": bos, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [
                {"SpecialToken": {"id": bos, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": bos, "type_id": 1}}, {"Sequence": {"id": "B", "type_id": 1}},
            ],
            "special_tokens": {bos: {"id": bos, "ids": [id], "tokens": [bos]}},
        });
    }
    let mut config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": adds_bos,
        "clean_up_tokenization_spaces": false,
    });
    for (key, id) in [
        ("bos_token", vocabulary.bos),
        ("eos_token", vocabulary.eos),
        ("unk_token", vocabulary.unknown),
        ("pad_token", vocabulary.padding),
    ] {
        name(id).into_iter().for_each(|name| config[key] = name.into());
    }
    if let Some(template) = metadata.get::<&str>("tokenizer.chat_template")? {
        config["chat_template"] = template.into();
    }
    let pretty = |json: &Value| serde_json::to_string_pretty(json).expect("keys are texts") + "\n";
    Ok(TokenizerFiles { tokenizer: pretty(&json), config: pretty(&config) })
}

/// SentencePiece. Its scores rank tokens; here every way to put a token together becomes a merge of that rank.
fn words(metadata: &GgufMetadata, vocabulary: &Vocabulary<'_>) -> Result<Value, Problem> {
    let scores = metadata.f32s("tokenizer.ggml.scores")?;
    if scores.len() != vocabulary.texts.len() {
        return Err(format!("{} tokens have {} scores", vocabulary.texts.len(), scores.len()).into());
    }
    let is_ordinary = |id: u32, text: &str| match vocabulary.sort(id) {
        Sort::Ordinary => true,
        Sort::Whole => text.contains('▁'),
        _ => false,
    };
    let mut ordinary: Vec<(u32, &str)> =
        vocabulary.iter().filter(|(id, text)| is_ordinary(*id, text)).collect();
    let ids: HashMap<&str, u32> = ordinary.iter().map(|(id, text)| (*text, *id)).collect();
    ordinary.sort_by(|a, b| scores[b.0 as usize].total_cmp(&scores[a.0 as usize]).then(a.0.cmp(&b.0)));
    let mut merges = Vec::new();
    for (_, text) in ordinary {
        let splits = text.char_indices().skip(1).map(|(at, _)| text.split_at(at));
        let made = splits.filter(|(left, right)| ids.contains_key(left) && ids.contains_key(right));
        merges.extend(made.map(|(left, right)| json!([left, right])));
    }
    let adds_space: bool = metadata.get("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let mut normalizers = vec![json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"})];
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if adds_space {
        normalizers.insert(0, json!({"type": "Prepend", "prepend": "▁"}));
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    let unknown = vocabulary.unknown.unwrap_or(0);
    let unknown = vocabulary.texts.get(unknown as usize).map(|text| &**text);
    let mut json = skeleton(merges);
    json["normalizer"] = json!({"type": "Sequence", "normalizers": normalizers});
    json["decoder"] = json!({"type": "Sequence", "decoders": decoders});
    json["model"]["unk_token"] = json!(unknown);
    json["model"]["fuse_unk"] = true.into();
    json["model"]["byte_fallback"] = true.into();
    Ok(json)
}

/// Byte-level BPE, whose pre-tokenizer the format names and the other form spells out.
fn bytes(metadata: &GgufMetadata, vocabulary: &Vocabulary<'_>) -> Result<Value, Problem> {
    let name = metadata.get("tokenizer.ggml.pre")?.unwrap_or("default");
    let byte_level = |uses_expression: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": uses_expression});
    // The last expression of a name is the published one.
    let (known, takes_whole) = if name == "llama-bpe" { ("dbrx", true) } else { (name, name == "tekken") };
    let expression = EXPRESSIONS.iter().rev().find(|each| each.1 == known).map(|each| each.0);
    let steps = match (expression, name) {
        (Some(expression), _) => {
            let split = json!({"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": false});
            vec![split, byte_level(false)]
        }
        (None, "gpt-2") => vec![byte_level(true)],
        (None, "smollm") => vec![json!({"type": "Digits", "individual_digits": true}), byte_level(true)],
        _ => {
            return Err(
                format!("no expression is known for its pre-tokenizer `{}`", name.escape_debug()).into()
            );
        }
    };
    let space = |merge: &String| merge.char_indices().skip(1).find(|&(_, c)| c == ' ').map(|(at, _)| at);
    let merge = |(rank, merge): (usize, &String)| {
        let at = space(merge).ok_or_else(|| format!("merge {rank} is no pair"))?;
        Ok(json!([merge[..at], merge[at + 1..]]))
    };
    let merges = metadata.strings("tokenizer.ggml.merges")?.iter().enumerate().map(merge);
    let mut json = skeleton(merges.collect::<Result<_, String>>()?);
    json["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": steps});
    json["decoder"] = byte_level(true);
    json["model"]["ignore_merges"] = takes_whole.into();
    json["model"]["unk_token"] = json!(vocabulary.unknown.map(|id| &vocabulary.texts[id as usize]));
    Ok(json)
}

fn skeleton(merges: Vec<Value>) -> Value {
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [],
        "normalizer": null,
        "pre_tokenizer": null,
        "post_processor": null,
        "decoder": null,
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": false,
            "vocab": {},
            "merges": merges,
        },
    })
}
