//! `generate`, `chat` and `embed` with a small model: how texts end, and the form that they have.

mod common;

use common::{Place, Said};
use serde_json::Value;

const MODEL: &str = "runs/tiny/model";

fn with_model() -> Place {
    let place = Place::new();
    place.grow(&["--quiet", "--set", "train.steps=6"]).succeeds();
    place
}

#[test]
fn a_text_ends_where_it_is_told_to_and_says_why() {
    let place = with_model();
    let generate = |args: &[&str]| -> Said {
        let base = ["generate", MODEL, "--temperature", "0", "--prompt", "The river"];
        place.elmwood(&[&base, args].concat())
    };
    let json = |args: &[&str]| generate(&[args, &["--json"]].concat()).succeeds().json();
    let whole = json(&["--max-tokens", "20"]);
    assert_eq!((&whole["finish"], &whole["tokens"]), (&"length".into(), &20.into()));
    assert!(whole["tokens_per_sec"].as_f64().unwrap() > 0.0, "{whole}");
    assert!(whole["prompt_tokens"].as_u64().unwrap() >= 3, "{whole}");
    assert_eq!(json(&["--max-tokens", "500"])["finish"], "context-full");

    // A stop string from the middle of the text, whatever tokens it lies in.
    let text = whole["text"].as_str().unwrap();
    let middle = text.char_indices().nth(text.chars().count() / 2).unwrap().0;
    let stop: String = text[middle..].chars().take(3).collect();
    let cut = json(&["--max-tokens", "20", "--stop", "no such text", "--stop", &stop]);
    assert_eq!(
        (&cut["finish"], &cut["text"]),
        (&"stop-string".into(), &text[..text.find(&stop).unwrap()].into())
    );
    assert_eq!(json(&["--max-tokens", "20", "--stop", "no such text"])["text"], whole["text"]);

    let guessed = json(&["--max-tokens", "20", "--speculate"]);
    assert_eq!(guessed["text"], whole["text"]);
    assert_ne!(json(&["--max-tokens", "20", "--repeat-penalty", "5"])["text"], whole["text"]);
    generate(&["--repeat-penalty", "0"]).fails(2, &["`repeat_penalty` is 0", "above 0"]);
    generate(&["--presence-penalty", "-200"]).fails(2, &["`presence_penalty` is -200"]);
    let wrong = [
        &["--stop", ""][..],
        &["--speculate=0"],
        &["--length-penalty", "1"],
        &["--beams", "2", "--stop", "x"],
    ];
    for wrong in wrong {
        assert_eq!(place.elmwood(&[&["generate", MODEL], wrong].concat()).code, Some(2), "{wrong:?}");
    }
}

#[test]
fn beams_give_the_best_text_first() {
    let place = with_model();
    let args = ["generate", MODEL, "--beams", "3", "--max-tokens", "6", "--prompt", "The"];
    let json = place.elmwood(&[&args[..], &["--json"]].concat()).succeeds().json();
    let beams = json["beams"].as_array().unwrap();
    assert_eq!((beams.len(), &beams[0]["text"]), (3, &json["text"]));
    let scores: Vec<f64> = beams.iter().map(|beam| beam["score"].as_f64().unwrap()).collect();
    assert!(scores.is_sorted_by(|a, b| a >= b), "{scores:?}");
    let said = place.elmwood(&args);
    assert_eq!(said.succeeds().out.trim_end(), format!("The{}", json["text"].as_str().unwrap()).trim_end());
}

#[test]
fn what_has_a_form_is_whole_or_an_error() {
    let place = with_model();
    place.write("schema.json", r#"{"enum": ["red", "green"]}"#);
    place.write("wrong.json", r#"{"type": "array", "uniqueItems": true}"#);
    place.write("list.lark", r#"start: "[" /[0-9]/ ("," /[0-9]/){2} "]""#);
    let generate =
        |args: &[&str]| place.elmwood(&[&["generate", MODEL, "--max-tokens", "40"], args].concat());
    for args in [&["--json-schema", "schema.json"][..], &["--json-schema", r#"{"enum": ["red", "green"]}"#]] {
        let said = generate(args);
        let value: Value = serde_json::from_str(&said.succeeds().out).unwrap();
        assert!(["red", "green"].contains(&value.as_str().unwrap()));
    }
    let json = generate(&["--regex", "[a-c]{4}", "--json", "--prompt", "x"]).succeeds().json();
    assert_eq!((json["text"].as_str().unwrap().len(), &json["finish"]), (4, &"complete".into()));
    let list = generate(&["--grammar", "list.lark"]);
    assert!(list.succeeds().out.starts_with('[') && list.out.len() == 8, "{list:?}");

    let long = generate(&["--regex", "[a-c]{400}"]);
    long.fails(5, &["the text is not complete", "only 40 tokens", "--max-tokens"]);
    let long = generate(&["--regex", "[a-c]{400}", "--json"]);
    assert_eq!(long.fails(5, &[]).json()["error"]["kind"], "partial");
    generate(&["--json-schema", "wrong.json"]).fails(3, &["`uniqueItems` (in `#`) cannot be enforced"]);
    generate(&["--json-schema", "nowhere.json"]).fails(4, &["`nowhere.json`"]);
    generate(&["--regex", "("]).fails(3, &["unclosed group"]);
    assert_eq!(generate(&["--regex", "a", "--stop", "b"]).code, Some(2));
    assert_eq!(generate(&["--regex", "a", "--grammar", "list.lark"]).code, Some(2));
}

#[test]
fn a_chat_goes_on_where_a_message_does_not_fit() {
    let place = with_model();
    let long = "The river and the wood and the house and the light. ".repeat(10);
    let lines = format!("Hi\n\"\"\"\ntwo\nlines\n\"\"\"\n{long}\n/clear\nHi\n/nope\n/quit\nnever read\n");
    let args = ["chat", MODEL, "--max-tokens", "3", "--temperature", "0"];
    let said = place.elmwood_reads(&lines, &args);
    let said = said.succeeds();
    for part in ["tokens with this message, but there is room for 64", "/clear", "no command `/nope`"] {
        assert!(said.err.contains(part), "no {part:?} in {}", said.err);
    }
    assert_eq!(said.err.matches("[3 tokens, ").count(), 3, "{}", said.err);
    assert!(said.err.contains("of 64 tokens used; cut off by --max-tokens]"), "{}", said.err);
}

#[test]
fn texts_become_vectors() {
    let place = with_model();
    place.write("texts.txt", "The river\nThe wood\n");
    let embed = |args: &[&str]| place.elmwood(&[&["embed", MODEL], args].concat());
    let vectors = |args: &[&str]| -> Vec<Vec<f64>> {
        let said = embed(args);
        let lines = said.succeeds().out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.map(|line| serde_json::from_value(line["embedding"].clone()).unwrap()).collect()
    };
    let both = vectors(&["--file", "texts.txt", "--normalize"]);
    assert_eq!(both, vectors(&["--text", "The river", "--text", "The wood", "--normalize"]));
    assert_eq!((both.len(), both[0].len()), (2, 32));
    for vector in &both {
        let length: f64 = vector.iter().map(|x| x * x).sum();
        assert!((length - 1.0).abs() < 1e-5, "{length}");
    }
    assert_ne!(both[0], both[1]);
    assert_ne!(vectors(&["--text", "The river", "--pool", "last", "--normalize"])[0], both[0]);
    embed(&["--text", &"river ".repeat(100)]).fails(3, &["text 1 has no vector", "room for 64"]);
    embed(&["--file", "nowhere"]).fails(4, &["`nowhere`"]);
    assert_eq!(embed(&[]).code, Some(2));
}
