//! The other verbs, each by itself and each fed with what another made.

mod common;

use std::fs;

use common::{Place, TINY, article, end_of, gzip, page, signal, wait_until, warc_record};
use serde_json::{Value, json};

/// Every verb, and its words.
const VERBS: [&[&str]; 12] = [
    &["grow"],
    &["train"],
    &["generate"],
    &["convert"],
    &["perplexity"],
    &["data", "extract"],
    &["data", "pack"],
    &["data", "stats"],
    &["tokenizer", "train"],
    &["tokenizer", "encode"],
    &["tokenizer", "decode"],
    &["doctor"],
];

#[test]
fn every_help_ends_with_an_example_and_every_mistake_is_a_usage_error() {
    let place = Place::new();
    for verb in VERBS.iter().copied().chain([&["completions"][..]]) {
        let said = place.elmwood(&[verb, &["--help"]].concat());
        said.succeeds();
        let example = said.out.rsplit("Example").next().unwrap();
        assert!(
            said.out.contains("\nExample") && example.contains(&format!("elmwood {}", verb.join(" "))),
            "{}",
            said.out
        );
        assert!(!example.contains("Options:"), "the example is not the end: {}", said.out);
        let wrong = place.elmwood(&[verb, &["--no-such-option"]].concat());
        assert_eq!((wrong.code, wrong.out.as_str()), (Some(2), ""));
        assert!(wrong.err.contains("--no-such-option"), "{}", wrong.err);
    }
    let help = place.elmwood(&["--help"]);
    assert!(help.succeeds().out.trim_end().lines().last().unwrap().contains("elmwood grow"));
    let bare = place.elmwood(&[]);
    assert_eq!(bare.code, Some(2));
    assert!(bare.err.contains("Usage: elmwood"), "{bare:?}");
    let version = place.elmwood(&["--version"]);
    assert_eq!(version.succeeds().out, format!("elmwood {}\n", env!("CARGO_PKG_VERSION")));
    let wrong = place.elmwood(&["grown", "--json"]);
    assert_eq!((wrong.code, &wrong.json()["error"]["kind"]), (Some(2), &"usage".into()));
    assert!(wrong.err.contains("'grow'"), "no nearest verb: {}", wrong.err);
}

#[test]
fn doctor_and_completions_print_what_they_are_asked_for() {
    let place = Place::new();
    let json = place.elmwood(&["doctor", "--json"]).succeeds().json();
    assert!(json["cores"].as_u64().is_some_and(|cores| cores >= 1));
    assert!(json["findings"].as_array().is_some_and(|findings| findings.len() >= 6));
    let text = place.elmwood(&["doctor"]);
    for name in ["cores", "simd", "memory", "disk", "rust-docs", "gpu"] {
        assert!(text.succeeds().out.contains(name), "{name}");
    }
    assert!(!place.path("runs").exists(), "looking leaves no trace");

    let script = place.elmwood(&["completions", "bash"]);
    assert!(script.succeeds().out.contains("complete -F _elmwood"));
    place.write("elmwood.bash", &script.out);
    place.shell(&[], "bash -n elmwood.bash").succeeds();
    assert_eq!(place.elmwood(&["completions", "tcsh"]).code, Some(2));
}

#[test]
fn pages_go_to_documents_to_a_vocabulary_to_rows() {
    const N: usize = 12;
    let place = Place::new();
    for i in 0..N {
        place.write(&format!("site/{i}.html"), page(i));
    }
    let extracted =
        place.elmwood(&["data", "extract", "site", "--out", "docs.jsonl.zst", "--json", "--quiet"]);
    let extracted = extracted.succeeds().json();
    assert_eq!((&extracted["found"], &extracted["documents"]), (&N.into(), &N.into()));
    // The same into plain lines: title and text without the page around it.
    let said = place.elmwood(&["data", "extract", "site", "--out", "docs.jsonl", "--quiet"]);
    assert!(said.succeeds().out.contains("12 documents"), "{}", said.out);
    let first: Value = serde_json::from_str(place.text("docs.jsonl").lines().next().unwrap()).unwrap();
    assert_eq!((&first["source"], &first["title"]), (&"0.html".into(), &"Story 0".into()));
    let text = first["text"].as_str().unwrap();
    assert!(text.contains(article(0).split("\n\n").next().unwrap()), "{text}");
    assert!(!text.contains("hidden") && !text.contains("Home"), "{text}");
    let sample =
        place.elmwood(&["data", "extract", "site", "--pages", "5", "--out", "five.jsonl", "--quiet"]);
    sample.succeeds();
    assert_eq!(place.text("five.jsonl").lines().count(), 5);

    let stats = place.elmwood(&["data", "stats", "docs.jsonl.zst", "--json", "--quiet"]).succeeds().json();
    assert_eq!((&stats["documents"], &stats["text_bytes"]), (&N.into(), &extracted["text_bytes"]));
    assert!(place.elmwood(&["data", "stats", "docs.jsonl.zst"]).succeeds().out.contains("documents   12"));

    let train = [
        "tokenizer",
        "train",
        "docs.jsonl.zst",
        "--vocab-size",
        "400",
        "--out",
        "tok/tokenizer.json",
        "--json",
        "--quiet",
    ];
    let learned = place.elmwood(&train).succeeds().json();
    assert_eq!(learned, json!({ "vocab_size": 400, "file": "tok/tokenizer.json" }));
    let bytes = place.read("tok/tokenizer.json");
    place.elmwood(&train).succeeds();
    assert_eq!(place.read("tok/tokenizer.json"), bytes, "the same text gives another vocabulary");

    let pack = [
        "data",
        "pack",
        "docs.jsonl.zst",
        "--tokenizer",
        "tok",
        "--seq-len",
        "64",
        "--out",
        "rows.safetensors",
        "--json",
        "--quiet",
    ];
    let packed = place.elmwood(&pack).succeeds().json();
    assert_eq!((&packed["documents"], &packed["text_bytes"]), (&N.into(), &extracted["text_bytes"]));
    let rows = elmwood_data::PackedTokens::open(place.path("rows.safetensors")).unwrap();
    assert_eq!((rows.seq_len(), rows.vocab_size()), (64, 400));
    assert_eq!(rows.rows() as u64, packed["rows"].as_u64().unwrap());
}

#[test]
fn warc_files_are_read_and_what_is_damaged_is_counted_with_exit_code_5() {
    let place = Place::new();
    let records: Vec<u8> =
        (0..8).flat_map(|i| warc_record(&format!("https://example.org/{i}"), &page(i))).collect();
    place.write("whole.warc.gz", &records);
    place.write("torn.warc.gz", &records[..records.len() - 60]);
    let said = place.elmwood(&["data", "extract", "whole.warc.gz", "--out", "whole.jsonl", "--quiet"]);
    said.succeeds();
    assert!(place.text("whole.jsonl").contains("https://example.org/7"));
    let said = place.elmwood(&["data", "extract", "torn.warc.gz", "--out", "torn.jsonl", "--quiet"]);
    said.fails(5, &["1 of ", "could not be read", "torn.warc.gz"]);
    assert_eq!(place.text("torn.jsonl").lines().count(), 7, "what was whole is there");

    // Documents that break off, for every verb that reads them.
    let lines: String = (0..40).map(|i| json!({ "text": article(i) }).to_string() + "\n").collect();
    let zipped = gzip(lines.as_bytes());
    place.write("torn.jsonl.gz", &zipped[..zipped.len() / 2]);
    place.write("lines.jsonl", format!("{lines}{{\"text\": 7}}\n"));
    place
        .elmwood(&["tokenizer", "train", "lines.jsonl", "--vocab-size", "300", "--quiet"])
        .fails(5, &["1 records could not be read", "the field `text` is no string", "lines.jsonl:41"]);
    for verb in [
        &["data", "stats", "torn.jsonl.gz"][..],
        &["data", "pack", "torn.jsonl.gz", "--tokenizer", "tokenizer.json"],
        &["tokenizer", "train", "torn.jsonl.gz", "--vocab-size", "300", "--out", "other.json"],
    ] {
        let said = place.elmwood(&[verb, &["--quiet"]].concat());
        said.fails(5, &["could not be read", "breaks off", "torn.jsonl.gz"]);
    }
}

#[test]
fn inputs_that_hold_nothing_leave_nothing() {
    let place = Place::new();
    fs::create_dir(place.path("empty")).unwrap();
    place.write("empty.jsonl", "");
    place.write("other.jsonl", "{\"body\": \"x\"}\n");
    place.write("short.txt", "too short");
    place.write("good.jsonl", json!({ "text": article(1) }).to_string());
    place.write("bad/tokenizer.json", "{}");
    let cases: [(&[&str], i32, &[&str]); 12] = [
        (&["data", "extract", "nowhere"], 4, &["`nowhere`", "No such file"]),
        (&["data", "extract", "empty"], 3, &["`empty`", "empty folder", "give a folder of"]),
        (&["data", "extract", "empty", "--kind", "html"], 3, &["`empty` holds no HTML page"]),
        (&["data", "extract", "short.txt"], 3, &["no document left after extraction", "near_empty"]),
        (&["data", "stats", "nowhere.jsonl"], 4, &["`nowhere.jsonl`", "No such file"]),
        (&["data", "stats", "empty.jsonl"], 3, &["`empty.jsonl` holds no document"]),
        (&["data", "pack", "good.jsonl", "--tokenizer", "nowhere.json"], 4, &["`nowhere.json`"]),
        (
            &["data", "pack", "good.jsonl", "--tokenizer", "bad"],
            3,
            &["`bad/tokenizer.json` is no usable tokenizer"],
        ),
        (&["tokenizer", "train", "nowhere.txt"], 4, &["`nowhere.txt`", "No such file"]),
        (
            &["tokenizer", "train", "empty.jsonl"],
            3,
            &["no document to learn from", "(empty.jsonl)", "--text-field"],
        ),
        (&["tokenizer", "train", "other.jsonl"], 3, &["line 1: no field `text`", "--text-field"]),
        (&["tokenizer", "encode", "empty", "x"], 4, &["`empty/tokenizer.json`"]),
    ];
    let before = place.files(".").len();
    for (args, code, words) in cases {
        let said = place.elmwood(&[args, &["--quiet"]].concat());
        said.fails(code, words);
        assert_eq!((said.out.as_str(), place.files(".").len()), ("", before), "{args:?} left something");
    }
}

#[test]
fn a_tokenizer_gives_back_every_text() {
    let place = Place::new();
    let text: String = (0..6).map(|i| article(i) + "\n").collect();
    place.write("texts/a.txt", &text);
    place.elmwood(&["tokenizer", "train", "texts/a.txt", "--vocab-size", "350", "--quiet"]).succeeds();
    let odd = "  The river\tfinds 123 <|eos|> \u{1f332} caf\u{e9}\r\n\n-- \u{0}end";
    place.write("odd.txt", odd);
    let ids = |said: &common::Said| serde_json::from_str::<Vec<u32>>(said.succeeds().out.trim()).unwrap();
    let from_file = ids(&place.elmwood(&["tokenizer", "encode", "tokenizer.json", "--file", "odd.txt"]));
    let from_stdin = ids(&place.elmwood_reads(odd, &["tokenizer", "encode", "tokenizer.json"]));
    assert!(from_file == from_stdin && from_file.iter().all(|&id| (2..350).contains(&id)), "{from_file:?}");
    let json = place.elmwood_reads(odd, &["tokenizer", "encode", "tokenizer.json", "--json"]).json();
    assert_eq!(json, json!(from_file));

    // The ids as they were printed, by standard input; and as arguments.
    let list = json!(from_file).to_string();
    let decoded =
        place.elmwood_reads(&list, &["tokenizer", "decode", "tokenizer.json", "--json"]).succeeds().json();
    assert_eq!(decoded["text"], odd);
    let river = ids(&place.elmwood(&["tokenizer", "encode", "tokenizer.json", "The river"]));
    assert_eq!(river, ids(&place.elmwood(&["tokenizer", "encode", "tokenizer.json", "--text", "The river"])));
    assert!(river.len() < 9, "nothing was learned: {river:?}");
    let args: Vec<String> = river.iter().map(u32::to_string).collect();
    let args: Vec<&str> = ["tokenizer", "decode", "tokenizer.json"]
        .into_iter()
        .chain(args.iter().map(String::as_str))
        .collect();
    assert_eq!(place.elmwood(&args).succeeds().out, "The river\n");

    place
        .elmwood(&["tokenizer", "decode", "tokenizer.json", "350"])
        .fails(3, &["there is no token 350", "from 0 to 349"]);
    place
        .elmwood_reads("[1, x]", &["tokenizer", "decode", "tokenizer.json"])
        .fails(3, &["`x` is no token id"]);
    place.write("latin1.txt", [b'a', 0xe9]);
    place
        .elmwood(&["tokenizer", "encode", "tokenizer.json", "--file", "latin1.txt"])
        .fails(3, &["not UTF-8", "byte 1"]);
    place.elmwood(&["tokenizer", "encode", "tokenizer.json", "--file", "nowhere"]).fails(4, &["`nowhere`"]);
    assert_eq!(place.elmwood(&["tokenizer", "train", "texts/a.txt", "--vocab-size", "100"]).code, Some(2));
}

#[test]
fn a_model_writes_and_the_seed_decides_what() {
    let place = Place::new();
    // `train` alone, then the rest: what was trained is not trained again.
    let trained = place.elmwood(&["train", "tiny.toml", "--quiet", "--json"]).succeeds().json();
    assert_eq!((&trained["steps"], &trained["parameters"]), (&20.into(), &24288.into()));
    assert!(!place.path("runs/tiny/model").exists());
    let said = place.grow(&[]);
    assert!(!said.succeeds().err.contains("train "), "{}", said.err);

    let model = "runs/tiny/model";
    let generate =
        |args: &[&str]| place.elmwood(&[&["generate", model, "--max-tokens", "12"], args].concat());
    let text = |args: &[&str]| {
        let said = generate(&[args, &["--prompt", "The river"]].concat());
        assert!(said.succeeds().out.starts_with("The river"), "{said:?}");
        said.out
    };
    assert_eq!(text(&["--temperature", "1", "--seed", "7"]), text(&["--temperature", "1", "--seed", "7"]));
    assert_ne!(text(&["--temperature", "1", "--seed", "7"]), text(&["--temperature", "1", "--seed", "8"]));
    let greedy = text(&["--temperature", "0", "--seed", "1"]);
    assert_eq!(
        greedy,
        text(&["--temperature", "0", "--seed", "2"]),
        "temperature 0 leaves nothing to chance"
    );
    assert_eq!(greedy, text(&["--temperature", "1", "--top-k", "1"]));
    assert_eq!(text(&["--top-p", "0.5"]), text(&["--top-p", "0.5"]));
    let json = generate(&["--temperature", "0", "--prompt", "The river", "--json"]).succeeds().json();
    assert_eq!((&json["prompt"], &json["tokens"]), (&"The river".into(), &12.into()));
    assert_eq!(greedy, format!("The river{}\n", json["text"].as_str().unwrap()));
    let piped = place.elmwood_reads(
        "The river",
        &["generate", model, "--max-tokens", "12", "--temperature", "0", "--prompt", "-"],
    );
    assert_eq!(piped.succeeds().out, greedy);
    assert_eq!(generate(&["--max-tokens", "0", "--prompt", "x"]).code, Some(2), "the option is given twice");

    // The context is 64: the text ends there, and a longer prompt is refused.
    let json = place
        .elmwood(&["generate", model, "--max-tokens", "500", "--temperature", "0", "--json"])
        .succeeds()
        .json();
    assert!(json["tokens"].as_u64().unwrap() <= 64);
    generate(&["--prompt", &article(1)]).fails(3, &["the context has room for 64", "shorten the prompt"]);
    for (option, value) in
        [("--temperature", "-1"), ("--temperature", "nan"), ("--top-p", "0"), ("--top-k", "0")]
    {
        assert_eq!(generate(&[&format!("{option}={value}")]).code, Some(2), "{option} {value}");
    }

    place.elmwood(&["generate", "nowhere"]).fails(4, &["no model in `nowhere`", "runs/NAME/model"]);
    place.elmwood(&["generate", "tiny.toml"]).fails(4, &["no model in `tiny.toml`"]);
    place
        .elmwood(&["generate", "runs/tiny/train/model"])
        .fails(4, &["`runs/tiny/train/model/tokenizer.json`"]);
}

#[test]
fn writing_stops_at_an_interruption_and_at_a_closed_pipe() {
    let place = Place::new();
    // A context that takes long to fill, and the likeliest tokens, which go round in a circle without an end.
    place.write("long.toml", TINY.replace("max_context_length = 64", "max_context_length = 65536"));
    place.elmwood(&["grow", "long.toml", "--quiet", "--set", "train.steps=2"]).succeeds();
    let args = ["generate", "runs/tiny/model", "--max-tokens", "65000", "--temperature", "0"];
    let mut child = place.start(&args);
    // Until it writes; then it has read the model and listens to signals.
    let mut first = [0];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut first).unwrap();
    signal(&child, "INT");
    let began = std::time::Instant::now();
    let drained = std::thread::spawn({
        let mut out = child.stdout.take().unwrap();
        move || std::io::copy(&mut out, &mut std::io::sink())
    });
    assert!(!wait_until(&mut child, || began.elapsed().as_secs() > 20), "it went on writing");
    let said = end_of(child);
    drained.join().unwrap().unwrap();
    assert_eq!(said.code, Some(130), "{said:?}");

    let said = place.shell(&[], &format!("\"$elmwood\" {} | head -c 10 | wc -c; exit 0", args.join(" ")));
    assert_eq!((said.out.trim(), said.err.as_str()), ("10", ""));
}

#[test]
fn a_profile_tells_where_the_time_of_training_went() {
    let place = Place::new();
    place.write("tiny.toml", TINY);
    let trained = place.elmwood(&["train", "tiny.toml", "--profile", "--json", "--quiet"]).succeeds().json();
    let profile = &trained["profile"];
    assert!(
        profile["peak_gflops"].as_f64().unwrap() > 0.0 && profile["bandwidth_gbs"].as_f64().unwrap() > 0.0
    );
    let operators = profile["operators"].as_array().unwrap();
    let share: f64 = operators.iter().map(|operator| operator["share"].as_f64().unwrap()).sum();
    assert!((share - 1.0).abs() < 1e-6, "{share}");
    for (name, calls) in
        [("attention: backward", 40), ("linear: weight gradient", 160), ("everything else", 20)]
    {
        let found = operators.iter().find(|operator| operator["name"] == name);
        assert_eq!(found.expect(name)["calls"], calls, "{name}");
    }
    // Once more, it is the same profile; without one there is nothing to show.
    let again = place.elmwood(&["train", "tiny.toml", "--profile", "--quiet"]);
    assert!(again.succeeds().out.contains("attention: backward"), "{}", again.out);
    place.elmwood(&["train", "tiny.toml", "--runs", "other", "--quiet"]).succeeds();
    let late = place.elmwood(&["train", "tiny.toml", "--runs", "other", "--profile", "--quiet"]);
    late.fails(3, &["nothing to profile", "--runs"]);
}
