//! Tokenizers of GGUF files: real vocabularies with recorded ids, special tokens, damage, hostile texts.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use elmwood_model::{Error, GgufArray, GgufFile, GgufMetadata, GgufValue, GgufWriter, Special, Tokenizer};
use proptest::prelude::*;

/// A real vocabulary, or a notice that it is absent.
fn shared(name: &str) -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/tokenizers");
    let path = folder.join(format!("ggml-vocab-{name}.gguf"));
    if !path.exists() {
        println!("skipped: {} is not there", path.display());
        return None;
    }
    Some(path)
}

fn tokenizer_of(metadata: &GgufMetadata) -> Result<Tokenizer, Error> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vocabulary.gguf");
    GgufWriter::create(&path, metadata, &[]).unwrap().finish().unwrap();
    Tokenizer::open(&path)
}

/// The ids of every text were recorded without BOS and without parsing special tokens, as the defaults of
/// [`Tokenizer::encode`] are; with these, all of them match. None of the texts holds the name of a special
/// token, so that parsing changes nothing, which shows that parsing does not disturb what it should not.
#[test]
fn recorded_ids_match() {
    for name in ["phi-3", "llama-spm", "gpt-2"] {
        let Some(path) = shared(name) else { continue };
        let tokenizer = Tokenizer::open(&path).unwrap();
        let texts = fs::read_to_string(path.with_extension("gguf.inp")).unwrap();
        let ids = fs::read_to_string(path.with_extension("gguf.out")).unwrap();
        let texts: Vec<&str> = texts.split_terminator("\n__ggml_vocab_test__\n").collect();
        let ids: Vec<Vec<u32>> =
            ids.lines().map(|line| line.split_whitespace().map(|id| id.parse().unwrap()).collect()).collect();
        assert!(texts.len() == ids.len() && ids.len() > 40, "{} texts, {} lines", texts.len(), ids.len());
        for (text, ids) in texts.iter().zip(ids) {
            assert_eq!(tokenizer.encode(text), ids, "{name}: {text:?}");
            assert_eq!(tokenizer.encode_with(text, Special::Parse), ids, "{name}: {text:?}");
            assert_eq!(tokenizer.decode(&ids), *text, "{name}");
            let mut stream = tokenizer.decode_stream_after(&[]);
            let streamed: String = ids.iter().map(|&id| stream.push(id)).collect();
            assert_eq!(streamed + &stream.finish(), *text, "{name}");
        }
    }
}

#[test]
fn phi3_has_its_special_tokens() {
    let Some(path) = shared("phi-3") else { return };
    let tokenizer = Tokenizer::open(path).unwrap();
    assert_eq!((tokenizer.vocab_size(), tokenizer.bos(), tokenizer.eos()), (32064, 1, 32000));
    assert_eq!((tokenizer.padding(), tokenizer.unknown(), tokenizer.add_bos()), (Some(32000), Some(0), true));
    assert_eq!(tokenizer.end_of_generation(), [32000, 32001, 32007]);
    assert!(tokenizer.ends_generation(32007) && !tokenizer.ends_generation(32010));
    assert_eq!(tokenizer.special_id("<|user|>"), Some(32010));
    assert_eq!(tokenizer.special_name(32006), Some("<|system|>"));
    assert!(tokenizer.chat_template().unwrap().contains("<|assistant|>"));

    // Roles swallow the line end after them, the end of a turn does too; `<s>` keeps it.
    let chat = "<|user|>\nHello<|end|>\n<|assistant|>\n";
    assert_eq!(tokenizer.encode_with(chat, Special::Parse), [32010, 15043, 32007, 32001]);
    assert_eq!(tokenizer.encode_with("<s>\n", Special::Parse), [1, 29871, 13]);
    assert_eq!(tokenizer.encode_with("</s> \n x", Special::Parse), [2, 921]);
    let plain = tokenizer.encode(chat);
    assert!(plain.iter().all(|&id| !tokenizer.is_special(id)));
    assert_eq!(tokenizer.decode(&plain), chat);
    for name in ["</s>", "<s>", "<unk>", "<|endoftext|>", "<0x0A>", "[PAD32063]"] {
        let ids = tokenizer.encode(name);
        assert!(ids.len() > 1 && tokenizer.decode(&ids) == name, "{name}: {ids:?}");
    }

    assert_eq!(tokenizer.encode_prompt("Hello", Special::AsText), [1, 15043]);
    assert_eq!(tokenizer.encode_prompt("<s>Hello", Special::Parse), [1, 15043], "never twice");
    assert_eq!(tokenizer.encode_prompt("", Special::Parse), [1]);
    assert_eq!(tokenizer.decode_with(&[1, 32010, 15043, 32007], Special::Parse), "<s><|user|> Hello<|end|>");
    assert_eq!(tokenizer.decode(&[1, 32010, 15043, 32007]), "Hello");
}

#[test]
fn streams_join_bytes_into_characters() {
    let Some(path) = shared("phi-3") else { return };
    let tokenizer = Tokenizer::open(path).unwrap();
    let ids = tokenizer.encode("a 🦙.");
    let mut stream = tokenizer.decode_stream();
    let parts: Vec<String> = ids.iter().map(|&id| stream.push(id)).collect();
    assert_eq!(parts, [" a", " ", "", "", "", "🦙", "."]);
    let after = |prompt: &[u32]| tokenizer.decode_stream_after(prompt).push(15043);
    assert_eq!(
        (after(&[]), after(&[32001]), after(&[15043])),
        ("Hello".into(), "Hello".into(), " Hello".into())
    );
}

#[test]
fn gpt2_has_its_special_tokens() {
    let Some(path) = shared("gpt-2") else { return };
    let tokenizer = Tokenizer::open(path).unwrap();
    assert_eq!((tokenizer.vocab_size(), tokenizer.bos(), tokenizer.eos()), (50257, 50256, 50256));
    assert!(!tokenizer.add_bos() && tokenizer.end_of_generation() == [50256]);
    assert_eq!(tokenizer.encode_with("Hello<|endoftext|>", Special::Parse), [15496, 50256]);
    assert_eq!(tokenizer.encode("<|endoftext|>").len(), 7);
    assert!(tokenizer.save(tempfile::tempdir().unwrap().path().join("tokenizer.json")).is_err());
}

/// A small vocabulary of the kind `llama`.
fn small() -> GgufMetadata {
    let mut tokens: Vec<(String, f32, i32)> =
        [("<unk>", 2), ("<s>", 3), ("</s>", 3)].map(|(name, ty)| (name.into(), 0.0, ty)).to_vec();
    tokens.extend((0..=255).map(|byte| (format!("<0x{byte:02X}>"), 0.0, 6)));
    let words = ["▁", "a", "b", "ab", "▁ab", "<", ">", "s", "<s"];
    tokens.extend((0_u8..).zip(words).map(|(idx, word)| (word.into(), -f32::from(idx), 1)));
    tokens.extend(
        [("  ", 4), ("<tool>", 4), ("<|im_end|>", 1), ("unused", 5)].map(|(name, ty)| (name.into(), 0.0, ty)),
    );
    let mut metadata = GgufMetadata::default();
    metadata.set("tokenizer.ggml.model", "llama");
    metadata.set("tokenizer.ggml.tokens", tokens.iter().map(|token| token.0.clone()).collect::<Vec<_>>());
    metadata.set("tokenizer.ggml.scores", tokens.iter().map(|token| token.1).collect::<Vec<_>>());
    metadata.set("tokenizer.ggml.token_type", tokens.iter().map(|token| token.2).collect::<Vec<_>>());
    metadata
}

#[test]
fn types_of_tokens_are_respected() {
    let tokenizer = tokenizer_of(&small()).unwrap();
    assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.unknown()), (1, 2, Some(0)));
    assert_eq!(tokenizer.encode("ab ab"), [263, 263]);
    // Merges may lead to `<s`, but never to the special token.
    assert_eq!(tokenizer.encode("<s>"), [259, 267, 265]);
    assert_eq!(tokenizer.encode_with("<s>ab", Special::Parse), [1, 263]);
    // User-defined: spaces are always one token, markup only when asked for.
    assert_eq!(tokenizer.encode("a   b"), [259, 260, 268, 259, 259, 261]);
    assert_eq!(
        tokenizer.decode(&tokenizer.encode("ab  ab")),
        "ab   ab",
        "as in llama.cpp: a text begins anew"
    );
    assert!(!tokenizer.encode("<tool>").contains(&269));
    assert_eq!(tokenizer.encode_with("<tool>", Special::Parse), [269]);
    assert_eq!(
        tokenizer.encode_with("<|im_end|>", Special::Parse),
        [270],
        "an end that is not marked as special"
    );
    assert_eq!(tokenizer.end_of_generation(), [2, 270]);
    assert_eq!(tokenizer.encode("unused").len(), 1 + 6, "in bytes but for the s");
    assert_eq!(tokenizer.token_bytes(3 + 0xC3), [0xC3]);
    assert!(tokenizer.token_bytes(1).is_empty() && tokenizer.token_bytes(9999).is_empty());

    let mut metadata = small();
    metadata.set("tokenizer.ggml.add_space_prefix", false);
    metadata.set("tokenizer.ggml.add_bos_token", false);
    let tokenizer = tokenizer_of(&metadata).unwrap();
    assert_eq!(tokenizer.encode_prompt("ab ab", Special::AsText), [262, 263]);
    assert_eq!(tokenizer.decode(&[263]), " ab");
}

#[test]
fn damaged_vocabularies_are_errors() {
    let check = |change: &dyn Fn(&mut GgufMetadata), expected: &str| {
        let mut metadata = small();
        change(&mut metadata);
        let text = tokenizer_of(&metadata).expect_err(expected).to_string();
        assert!(text.contains(expected) && text.contains("vocabulary.gguf"), "{text}");
    };
    let set = |key: &'static str, value: GgufValue| {
        move |metadata: &mut GgufMetadata| metadata.set(format!("tokenizer.ggml.{key}"), value.clone())
    };
    check(&|metadata| *metadata = GgufMetadata::default(), "`tokenizer.ggml.tokens` is missing");
    check(&set("model", "bert".into()), "its kind `bert` is not supported");
    check(&set("model", 7_u32.into()), "`tokenizer.ggml.model` is 7 (u32), not a string");
    check(&set("tokens", Vec::<String>::new().into()), "0 tokens are not between");
    check(&set("scores", vec![0.0_f32; 3].into()), "tokens have 3 scores");
    check(&set("scores", vec![0_u8; 272].into()), "`tokenizer.ggml.scores` is an array of 272 u8, not");
    check(&set("scores", vec![f32::NAN; 272].into()), "is not a number");
    check(&set("token_type", vec![1_i32; 3].into()), "tokens have 3 types");
    check(&set("token_type", GgufArray::Bool(vec![]).into()), "is an array of 0 bool, not");
    check(
        &set("eos_token_id", 272_u32.into()),
        "`tokenizer.ggml.eos_token_id` is 272, but there are 272 tokens",
    );
    check(&set("bos_token_id", GgufValue::I32(-2)), "is -2, but");
    let byte_level = |metadata: &mut GgufMetadata| {
        metadata.set("tokenizer.ggml.model", "gpt2");
        metadata.set("tokenizer.ggml.merges", Vec::<String>::new());
    };
    check(
        &|metadata| {
            byte_level(metadata);
            metadata.set("tokenizer.ggml.pre", "future");
        },
        "its pre-tokenizer `future` is not supported",
    );
    for merges in [&["a c"][..], &["ab"], &[""], &["a b", "a b"], &[" "], &["é ü"]] {
        check(
            &|metadata| {
                byte_level(metadata);
                metadata
                    .set("tokenizer.ggml.merges", merges.iter().map(ToString::to_string).collect::<Vec<_>>());
            },
            "merge ",
        );
    }
    let mut metadata = small();
    metadata.set("tokenizer.ggml.padding_token_id", -1_i32);
    assert_eq!(tokenizer_of(&metadata).unwrap().padding(), None);
}

#[test]
fn odd_names_of_bytes_are_no_bytes() {
    let mut metadata = small();
    let mut tokens = metadata.strings("tokenizer.ggml.tokens").unwrap().to_vec();
    for (place, name) in (3..).zip(["<0x-1>", "<0x+1>", "<0x100>", "<0x>", "<0xé>", "0x41", "<0x  >"]) {
        tokens[place] = name.into();
    }
    metadata.set("tokenizer.ggml.tokens", tokens);
    let tokenizer = tokenizer_of(&metadata).unwrap();
    assert!((3..10).all(|id| tokenizer.token_bytes(id).is_empty()));
    assert_eq!(tokenizer.encode("\u{1}"), [259, 0], "a byte without a token is unknown");
}

/// A `tokenizer.json` of the vocabulary, with the merges that Hugging Face's converter makes of it: every way
/// to put a token together, by the token's score.
fn as_tokenizer_json(metadata: &GgufMetadata) -> String {
    let tokens = metadata.strings("tokenizer.ggml.tokens").unwrap();
    let scores = metadata.f32s("tokenizer.ggml.scores").unwrap();
    let types = metadata.require::<Vec<i32>>("tokenizer.ggml.token_type").unwrap();
    let vocab: HashMap<&str, usize> = tokens.iter().enumerate().map(|(id, token)| (&**token, id)).collect();
    let mut merges = Vec::new();
    for (id, token) in tokens.iter().enumerate().filter(|&(id, _)| types[id] == 1) {
        for (at, _) in token.char_indices().skip(1) {
            let (left, right) = token.split_at(at);
            if let (Some(&l), Some(&r)) = (vocab.get(left), vocab.get(right)) {
                merges.push((-scores[id], (l, r), [left, right]));
            }
        }
    }
    merges.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let merges: Vec<[&str; 2]> = merges.into_iter().map(|merge| merge.2).collect();
    let special = |id: usize| {
        serde_json::json!({"id": id, "content": tokens[id], "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true})
    };
    let added: Vec<_> = (0..tokens.len()).filter(|&id| matches!(types[id], 2 | 3)).map(special).collect();
    let json = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": null, "post_processor": null, "decoder": null,
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "vocab": vocab, "merges": merges},
    });
    json.to_string()
}

#[test]
fn the_library_gives_the_same_ids_for_llama() {
    let Some(path) = shared("llama-spm") else { return };
    let file = GgufFile::open(path).unwrap();
    let ours = Tokenizer::from_gguf(&file).unwrap();
    let mut twin: tokenizers::Tokenizer = as_tokenizer_json(file.metadata()).parse().unwrap();
    twin.set_encode_special_tokens(true);
    let texts = "(the |other|[a-zA-Z0-9 \n'.,]|\\PC|été|中文|[ ]{1,20}|.){0,60}";
    proptest!(ProptestConfig::with_cases(2000), |(text in texts)| {
        let theirs = twin.encode_fast(&*text, false).unwrap();
        prop_assert_eq!(&ours.encode(&text)[..], theirs.get_ids(), "{:?}", text);
        prop_assert_eq!(ours.decode(&ours.encode(&text)), text);
    });
}

/// Writes a tokenizer as GGUF and reads that.
fn through_gguf(tokenizer: &Tokenizer) -> Tokenizer {
    let mut metadata = GgufMetadata::default();
    tokenizer.write_gguf(&mut metadata).unwrap();
    tokenizer_of(&metadata).unwrap()
}

fn load(json: &str) -> Result<Tokenizer, Error> {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("tokenizer.json"), json).unwrap();
    Tokenizer::open(folder.path())
}

/// Elmwood's own tokenizer, trained on little.
fn own() -> Tokenizer {
    let texts = (0..300).map(|i| format!("the other {} there's {}, été 中文!  \n then {i}", i % 7, i * i));
    Tokenizer::train(texts, 500, |_| {}).unwrap()
}

fn json_of(tokenizer: &Tokenizer) -> serde_json::Value {
    let folder = tempfile::tempdir().unwrap();
    tokenizer.save(folder.path().join("tokenizer.json")).unwrap();
    serde_json::from_str(&fs::read_to_string(folder.path().join("tokenizer.json")).unwrap()).unwrap()
}

#[test]
fn own_tokenizers_are_the_same_as_gguf() {
    let own = own();
    let again = through_gguf(&own);
    assert_eq!((again.bos(), again.eos(), again.add_bos()), (own.bos(), own.eos(), true));
    assert_eq!((again.vocab_size(), again.end_of_generation()), (own.vocab_size(), &[own.eos()][..]));
    let chat = "<|bos|>the<|eos|>";
    assert_eq!(own.encode_with(chat, Special::Parse), again.encode_with(chat, Special::Parse));
    assert_eq!(own.encode_with(chat, Special::Parse)[0], own.bos());
    assert_eq!(own.decode_with(&own.encode_with(chat, Special::Parse), Special::Parse), chat);
    assert_eq!(own.encode_prompt(chat, Special::Parse), own.encode_with(chat, Special::Parse), "never twice");
    let texts = "(the |other|<\\|eos\\|>|[a-z0-9 \n']|\\PC|.){0,80}";
    proptest!(ProptestConfig::with_cases(500), |(text in texts)| {
        prop_assert_eq!(own.encode(&text), again.encode(&text));
        prop_assert_eq!(again.decode(&again.encode(&text)), text);
    });
}

/// The pre-tokenizers of well-known models around a small vocabulary.
#[test]
fn byte_level_tokenizers_of_others_are_the_same_as_gguf() {
    let split = |expression: &str| {
        serde_json::json!({"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}]})
    };
    let bytes = serde_json::json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let contractions = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
    let tail = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    let words =
        |digits: &str| format!(r"{contractions}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{digits}|{tail}");
    let digits = serde_json::json!({"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": true}, bytes]});
    for (pre_tokenizer, ignore_merges) in [
        (bytes.clone(), false),
        (digits, false),
        (split(&words("{1,3}")), false),
        (split(&words("{1,3}")), true),
        (split(&words("")), false),
    ] {
        let mut json = json_of(&own());
        let n = own().vocab_size();
        json["pre_tokenizer"] = pre_tokenizer;
        json["model"]["ignore_merges"] = ignore_merges.into();
        json["added_tokens"].as_array_mut().unwrap().push(serde_json::json!({"id": n, "content": "    ",
            "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": false}));
        let theirs = load(&json.to_string()).unwrap();
        let ours = through_gguf(&theirs);
        assert_eq!((ours.vocab_size(), ours.bos(), ours.eos()), (n + 1, 0, 1));
        assert_eq!(ours.encode("a     b").iter().filter(|&&id| id as usize == n).count(), 1);
        // Without the letters that only some libraries take for an s or k.
        let texts = "(the |other|'s|'LL|[a-zA-Z0-9 \n'.]|été|中文|[!-~]|\u{301}){0,60}";
        proptest!(ProptestConfig::with_cases(300), |(text in texts)| {
            prop_assert_eq!(theirs.encode(&text), ours.encode(&text));
            prop_assert_eq!(theirs.encode_with(&text, Special::Parse), ours.encode_with(&text, Special::Parse));
            prop_assert_eq!(ours.decode(&ours.encode(&text)), text);
        });
    }
}

#[test]
fn sentence_piece_tokenizers_of_others_are_the_same_as_gguf() {
    let Some(path) = shared("llama-spm") else { return };
    let original = Tokenizer::open(&path).unwrap();
    let json = as_tokenizer_json(GgufFile::open(path).unwrap().metadata());
    let ours = through_gguf(&load(&json).unwrap());
    assert_eq!((ours.vocab_size(), ours.bos(), ours.eos()), (32000, 1, 2));
    let texts = "(the |other|[a-zA-Z0-9 \n'.,]|\\PC|été|中文|[ ]{1,20}|.){0,60}";
    proptest!(ProptestConfig::with_cases(1000), |(text in texts)| {
        prop_assert_eq!(original.encode(&text), ours.encode(&text));
    });
}

#[test]
fn what_the_format_cannot_hold_is_an_error() {
    let check = |change: &dyn Fn(&mut serde_json::Value), expected: &str| {
        let mut json = json_of(&own());
        change(&mut json);
        let error = load(&json.to_string()).unwrap().write_gguf(&mut GgufMetadata::default()).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    };
    check(
        &|json| json["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "[a-z]+".into(),
        "no name is known",
    );
    check(
        &|json| json["normalizer"] = serde_json::json!({"type": "Lowercase"}),
        "its normalizer `Lowercase`",
    );
    check(&|json| json["model"]["end_of_word_suffix"] = "</w>".into(), "`end_of_word_suffix`");
    check(&|json| json["decoder"] = serde_json::Value::Null, "neither byte-level");
    let mut metadata = GgufMetadata::default();
    let from_gguf = tokenizer_of(&small()).unwrap();
    assert!(matches!(from_gguf.write_gguf(&mut metadata), Err(Error::TokenizerExport { .. })));
    assert_eq!(metadata, GgufMetadata::default(), "nothing is set");
}

#[test]
fn folders_say_more_than_their_tokenizer() {
    let folder = tempfile::tempdir().unwrap();
    let mut json = json_of(&own());
    let n = own().vocab_size() as u32;
    let [start, end, pad] = [n, n + 1, n + 2];
    for (id, name) in [(start, "<|im_start|>"), (end, "<|im_end|>"), (pad, "<pad>")] {
        json["added_tokens"].as_array_mut().unwrap().push(serde_json::json!({"id": id, "content": name,
            "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}));
    }
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write("tokenizer.json", &json.to_string());
    let plain = Tokenizer::open(folder.path()).unwrap();
    assert_eq!((plain.bos(), plain.eos(), plain.padding(), plain.add_bos()), (0, 1, None, false));
    assert_eq!((plain.end_of_generation(), plain.chat_template()), (&[1, end][..], None));

    write(
        "tokenizer_config.json",
        r#"{"add_bos_token": true, "bos_token": null, "eos_token": {"content": "<|im_end|>"},
        "chat_template": [{"name": "tool_use", "template": "x"}, {"name": "default", "template": "{{ messages }}"}]}"#,
    );
    write("special_tokens_map.json", r#"{"bos_token": "<|im_start|>", "pad_token": "<pad>"}"#);
    write("generation_config.json", &format!(r#"{{"eos_token_id": [{end}, 1, 70000]}}"#));
    let told = Tokenizer::open(folder.path()).unwrap();
    assert_eq!((told.bos(), told.eos(), told.padding(), told.add_bos()), (start, end, Some(pad), true));
    assert_eq!((told.end_of_generation(), told.chat_template()), (&[1, end][..], Some("{{ messages }}")));
    assert_eq!(told.encode_prompt("<|im_start|>the", Special::Parse)[..2], [start, told.encode("the")[0]]);
    assert!(!told.encode("<|im_start|>").contains(&start));
    write("chat_template.jinja", "{{ bos_token }}");
    write("generation_config.json", r#"{"eos_token_id": 1}"#);
    assert_eq!(Tokenizer::open(folder.path()).unwrap().chat_template(), Some("{{ bos_token }}"));
    write("tokenizer_config.json", "{");
    let error = Tokenizer::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("tokenizer_config.json"), "{error}");
}

#[test]
fn hostile_texts_take_seconds() {
    for name in ["phi-3", "gpt-2"] {
        let Some(path) = shared(name) else { continue };
        let tokenizer = Tokenizer::open(path).unwrap();
        for unit in ["a", " ", "\n", "é", "\u{10FFFF}", "<|user|>", "▁", " \t", "'s"] {
            let text = unit.repeat(10_000_000 / unit.len());
            let start = Instant::now();
            let ids = tokenizer.encode_with(&text, Special::Parse);
            // Some 2 s alone on one core; quadratic time would be hours.
            assert!(start.elapsed() < Duration::from_secs(60), "{name}: {unit:?}");
            if !["<|user|>", "▁"].contains(&unit) {
                assert_eq!(tokenizer.decode(&ids).len(), text.len(), "{name}: {unit:?}");
            }
        }
    }
}
