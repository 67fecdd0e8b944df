//! The tokenizer as others use it, beside Hugging Face's library as its twin.

use std::collections::HashMap;
use std::fs;
use std::process::Command;

use elmwood_model::{Error, Tokenizer};
use proptest::prelude::*;
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::models::{ModelWrapper, TrainerWrapper};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

/// A text with words, numbers, marks, several scripts and broken habits of the web.
fn sample_texts() -> Vec<String> {
    let words =
        ["the", "there", "then", "other", "another", "lather", "Ünïcode", "中文", "123456", "don't", "🐈"];
    let sentence = |i: usize| {
        let pick = |k: usize| words[(i * 7 + k * (i % 5 + 3)) % words.len()];
        format!("{} {}{}  {}, {}!\n", pick(1), pick(2), pick(3), pick(4), i * i)
    };
    (0..400).map(|i| (0..5).map(|k| sentence(i + k)).collect()).collect()
}

fn trained() -> Tokenizer {
    Tokenizer::train(sample_texts().into_iter(), 600, |_| {}).unwrap()
}

fn json_of(tokenizer: &Tokenizer) -> String {
    let folder = tempfile::tempdir().unwrap();
    tokenizer.save(folder.path().join("tokenizer.json")).unwrap();
    fs::read_to_string(folder.path().join("tokenizer.json")).unwrap()
}

fn load(json: &str) -> Result<Tokenizer, Error> {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("tokenizer.json"), json).unwrap();
    Tokenizer::load(folder.path().join("tokenizer.json"))
}

fn twin_of(tokenizer: &Tokenizer) -> tokenizers::Tokenizer {
    let mut twin: tokenizers::Tokenizer = json_of(tokenizer).parse().unwrap();
    twin.set_encode_special_tokens(true);
    twin
}

#[test]
fn the_same_texts_give_the_same_file() {
    let json = json_of(&trained());
    assert_eq!(json_of(&trained()), json);
    assert_eq!(json_of(&load(&json).unwrap()), json, "what is loaded and saved stays the same");
    let folder = tempfile::tempdir().unwrap();
    // Another process with one thread on one core; see `child_on_one_core`.
    let file = folder.path().join("tokenizer.json");
    let program = std::env::current_exe().unwrap();
    let run = |runner: &[&str]| {
        let line = [runner, &[program.to_str().unwrap(), "child_on_one_core", "--exact"]].concat();
        Command::new(line[0]).args(&line[1..]).env("ELMWOOD_TEST_OUT", &file).status()
    };
    let status = run(&["taskset", "-c", "0"]).or_else(|_| run(&[])).unwrap();
    assert!(status.success());
    assert_eq!(fs::read_to_string(file).unwrap(), json);
}

/// Not a test of its own: what the test above runs in another process.
#[test]
fn child_on_one_core() {
    if let Some(file) = std::env::var_os("ELMWOOD_TEST_OUT") {
        trained().save(file).unwrap();
    }
}

#[test]
fn the_twin_learns_the_same_vocabulary() {
    let ours = trained();
    let json: serde_json::Value = serde_json::from_str(&json_of(&ours)).unwrap();
    let mut twin = twin_of(&ours);
    twin.with_model(ModelWrapper::BPE(BPE::default()));
    let special = ["<|bos|>", "<|eos|>"].map(|name| tokenizers::AddedToken::from(name, true));
    let mut trainer: TrainerWrapper = BpeTrainerBuilder::new()
        .show_progress(false)
        .min_frequency(2)
        .vocab_size(600)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .special_tokens(special.into())
        .build()
        .into();
    twin.train(&mut trainer, sample_texts().into_iter()).unwrap();
    let vocab: HashMap<String, u32> = serde_json::from_value(json["model"]["vocab"].clone()).unwrap();
    assert_eq!(vocab.len(), 600);
    assert_eq!(twin.get_vocab(true).into_iter().collect::<HashMap<_, _>>(), vocab);
}

#[test]
fn special_tokens_cannot_be_written() {
    let tokenizer = trained();
    for text in ["<|eos|>", "a<|bos|>b", "<|bos|><|eos|>", " <|eos|> "] {
        let ids = tokenizer.encode(text);
        assert!(!ids.contains(&tokenizer.bos()) && !ids.contains(&tokenizer.eos()), "{text}");
        assert_eq!(tokenizer.decode(&ids), text);
    }
    // Even where the texts of the training are full of them.
    let texts = std::iter::repeat_n("x<|eos|><|bos|>".to_owned(), 500);
    let tokenizer = Tokenizer::train(texts, 300, |_| {}).unwrap();
    assert!(tokenizer.encode("x<|eos|><|bos|>").iter().all(|&id| id > 1));
    assert!(load(&json_of(&tokenizer)).is_ok());
}

#[test]
fn every_single_byte_has_a_token_even_without_texts() {
    let tokenizer = Tokenizer::train(std::iter::empty(), 258, |_| {}).unwrap();
    assert_eq!((tokenizer.vocab_size(), tokenizer.bos(), tokenizer.eos()), (258, 0, 1));
    let mut bytes: Vec<u8> = (2..258).flat_map(|id| tokenizer.token_bytes(id)).collect();
    bytes.sort_unstable();
    assert_eq!(bytes, (0..=255).collect::<Vec<u8>>());
    assert!(tokenizer.token_bytes(0).is_empty() && tokenizer.token_bytes(258).is_empty());
    assert!(matches!(
        Tokenizer::train(std::iter::empty(), 257, |_| {}),
        Err(Error::TokenizerTraining { .. })
    ));
}

#[test]
fn progress_is_told() {
    let mut told = Vec::new();
    Tokenizer::train(sample_texts().into_iter(), 300, |progress| told.push(progress)).unwrap();
    let bytes = sample_texts().iter().map(|text| text.len() as u64).sum();
    assert!(told.contains(&elmwood_model::Progress::Counted { bytes }));
    assert_eq!(told.last(), Some(&elmwood_model::Progress::Merged { done: 42, wanted: 42 }));
}

#[test]
fn damage_is_an_error() {
    let json = json_of(&trained());
    let damaged = [
        ("empty", String::new()),
        ("not JSON", "tokens".into()),
        ("a list", "[]".into()),
        ("no model", "{}".into()),
        ("model is a text", r#"{"model": "BPE"}"#.into()),
        ("truncated", json[..json.len() / 2].into()),
        ("nested", "[".repeat(1_000_000)),
        ("bos is missing", json.replace("\"<|bos|>\": 0", "\"<|boss|>\": 0")),
        ("eos moved", json.replace("\"<|eos|>\": 1", "\"<|eos|>\": 9")),
        ("id twice", json.replace("\"!\": 2,", "\"!\": 3,")),
        ("id with a gap", json.replace("\"!\": 2,", "\"!\": 4000000000,")),
        ("negative id", json.replace("\"!\": 2,", "\"!\": -2,")),
        ("byte missing", json.replace("\"!\": 2,", "\"!!!\": 2,")),
        ("name twice", json.replace("\"!\": 2,", "\"#\": 2,")),
        ("empty name", json.replace("\"!\": 2,", "\"\": 2,")),
        ("not of bytes", json.replace("\"!\": 2,", "\"\u{4e2d}\": 2,")),
        ("merges cut", json.replace("[\"h\", \"e\"]", "[\"h\"]")),
        ("merge of nothing", json.replace("[\"h\", \"e\"]", "[\"h\", \"qqq\"]")),
        ("merge twice", json.replace("[\"h\", \"e\"]", "[\"h\", \"e\"],[\"h\", \"e\"]")),
    ];
    for (name, text) in damaged {
        assert!(text != json, "{name} changes nothing");
        match load(&text) {
            Err(Error::Tokenizer { .. }) => {}
            other => panic!("{name} gave {other:?}"),
        }
    }
    assert!(matches!(Tokenizer::load("/nowhere/tokenizer.json"), Err(Error::Io { .. })));
}

#[test]
fn random_damage_never_panics() {
    let json = json_of(&Tokenizer::train(sample_texts().into_iter(), 280, |_| {}).unwrap());
    let mut state = 1_u32;
    let mut random = |n: usize| {
        state = elmwood_model::random::philox4x32([state, 0, 0, 0], [0; 2])[0];
        state as usize % n
    };
    for _ in 0..2000 {
        let mut bytes = json.clone().into_bytes();
        for _ in 0..=random(3) {
            let place = random(bytes.len());
            bytes[place] = b"\"{}[],:0129aA\\ "[random(15)];
        }
        if let Ok(text) = String::from_utf8(bytes)
            && let Ok(tokenizer) = load(&text)
        {
            let ids = tokenizer.encode("there 12 other\n");
            assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocab_size()));
        }
    }
}

#[test]
fn other_makers_tokenizers_load() {
    // A small Llama-like file: SentencePiece BPE with byte fallback.
    let mut vocab: Vec<(String, usize)> =
        ["<unk>", "<s>", "</s>"].iter().enumerate().map(|(id, name)| ((*name).to_owned(), id)).collect();
    vocab.extend((0..256).map(|byte| (format!("<0x{byte:02X}>"), byte + 3)));
    let pieces = ["▁", "a", "b", "<", "/", "s", ">", "ab", "▁ab"];
    vocab.extend(pieces.iter().enumerate().map(|(idx, piece)| ((*piece).to_owned(), 259 + idx)));
    let special = |id: usize, name: &str| {
        serde_json::json!({"id": id, "content": name, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true})
    };
    let json = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": null, "post_processor": null,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true,
            "vocab": vocab.into_iter().collect::<HashMap<_, _>>(), "merges": ["a b", "▁ ab"]},
    });
    let tokenizer = load(&json.to_string()).unwrap();
    assert_eq!((tokenizer.vocab_size(), tokenizer.bos(), tokenizer.eos()), (268, 1, 2));
    assert_eq!(tokenizer.encode("ab ab"), [267, 267]);
    let ids = tokenizer.encode("ab</s> é");
    assert!(!ids.contains(&2), "text cannot inject special tokens: {ids:?}");
    assert_eq!(tokenizer.decode(&ids), "ab</s> é");
    assert_eq!(tokenizer.token_bytes(267), b" ab");
    assert_eq!(tokenizer.token_bytes(3 + 0xC3), [0xC3]);
    assert!(tokenizer.token_bytes(2).is_empty());
}

#[test]
fn streaming_emits_whole_characters() {
    let tokenizer = Tokenizer::train(std::iter::empty(), 258, |_| {}).unwrap();
    let ids = tokenizer.encode("a🐈b");
    let mut stream = tokenizer.decode_stream();
    let parts: Vec<String> = ids.iter().map(|&id| stream.push(id)).collect();
    assert_eq!(parts, ["a", "", "", "", "🐈", "b"]);
    assert_eq!(stream.finish(), "");
    let mut stream = tokenizer.decode_stream();
    assert_eq!((stream.push(ids[1]), stream.finish()), (String::new(), "\u{fffd}".to_owned()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn every_text_comes_back(texts in proptest::collection::vec("(the |other|[a-z0-9 \n']|\\PC|.){0,80}", 1..8)) {
        let tokenizer = trained();
        let twin = twin_of(&tokenizer);
        for text in texts {
            let ids = tokenizer.encode(&text);
            prop_assert_eq!(tokenizer.decode(&ids), &text[..]);
            let bytes: Vec<u8> = ids.iter().flat_map(|&id| tokenizer.token_bytes(id)).collect();
            prop_assert_eq!(&bytes[..], text.as_bytes());
            let encoding = twin.encode_fast(&text[..], false).unwrap();
            prop_assert_eq!(&ids[..], encoding.get_ids(), "the twin");
            prop_assert_eq!(twin.decode(&ids, true).unwrap(), &text[..]);
        }
    }

    #[test]
    fn a_stream_gives_what_decoding_gives(ids in proptest::collection::vec(0_u32..260, 0..60)) {
        let tokenizer = Tokenizer::train(std::iter::empty(), 258, |_| {}).unwrap();
        let mut stream = tokenizer.decode_stream();
        let mut text: String = ids.iter().map(|&id| stream.push(id)).collect();
        text += &stream.finish();
        prop_assert_eq!(text, tokenizer.decode(&ids));
    }
}
