//! `convert` and `perplexity`, on what `grow` made.

mod common;

use std::fs;

use common::Place;

#[test]
fn a_model_is_converted_quantised_and_scored() {
    let place = Place::new();
    place.grow(&[]).succeeds();
    let model = "runs/tiny/model";
    let whole = place.elmwood(&["convert", model, "whole.gguf", "--json"]).succeeds().json();
    assert_eq!(whole["bytes"].as_u64(), Some(place.read("whole.gguf").len() as u64));
    assert_eq!((whole["bits_per_weight"].as_f64(), whole["requantised"].as_u64()), (Some(32.0), Some(0)));
    let few = place.elmwood(&["convert", model, "few.gguf", "--quant", "Q8_0", "--threads", "1"]);
    let json = few.succeeds().err.contains("convert");
    assert!(json && few.out.contains("Q8_0"), "{few:#?}");
    assert!(place.read("few.gguf").len() < place.read("whole.gguf").len());

    // The same text from the folder and its file, and a score that does not depend on which it is.
    let write = |model: &str| {
        place
            .elmwood(&["generate", model, "--prompt", "A page", "--temperature", "0", "--max-tokens", "9"])
            .out
    };
    assert_eq!(write(model), write("whole.gguf"));
    place.write("text.txt", "A page about nothing in particular, with words. ".repeat(40));
    let score = |model: &str, more: &[&str]| {
        let args = ["perplexity", model, "--file", "text.txt", "--context", "64", "--json"];
        place.elmwood(&[&args, more].concat()).succeeds().json()
    };
    let (folder, file) = (score(model, &[]), score("whole.gguf", &[]));
    assert_eq!(folder["perplexity"], file["perplexity"]);
    let value = folder["perplexity"].as_f64().unwrap();
    assert!(value > 1.0 && folder["standard_error"].as_f64().unwrap() < value, "{folder}");
    let windows = folder["windows"].as_u64().unwrap();
    assert_eq!(folder["tokens"].as_u64(), Some(windows * 31));
    let two = score("few.gguf", &["--chunks", "2"]);
    assert_eq!(two["windows"].as_u64(), Some(2));
    place
        .elmwood(&["perplexity", model, "--file", "text.txt", "--context", "65"])
        .fails(3, &["longer than the model's context of 64"]);
    place.elmwood(&["perplexity", model, "--file", "tiny.toml", "--context", "3"]).fails(2, &["4 or more"]);
}

#[test]
fn nothing_is_overwritten_by_mistake() {
    let place = Place::new();
    place.grow(&[]).succeeds();
    let model = "runs/tiny/model";
    place.elmwood(&["convert", model, "a.gguf"]).succeeds();
    let before = place.read("a.gguf");
    place.elmwood(&["convert", model, "a.gguf", "--quant", "q4_0"]).fails(2, &["there already", "--force"]);
    place.elmwood(&["convert", "a.gguf", "a.gguf", "--force"]).fails(2, &["both read and written"]);
    place.elmwood(&["convert", model, "a.gguf", "--quant", "q9"]).fails(2, &["q4_k_m"]);
    place.elmwood(&["convert", "nowhere", "b.gguf"]).fails(4, &["no model in `nowhere`"]);
    assert_eq!(place.read("a.gguf"), before);
    place.elmwood(&["convert", model, "a.gguf", "--quant", "q4_0", "--force"]).succeeds();
    assert_ne!(place.read("a.gguf"), before);
    let said = place.elmwood(&["convert", "a.gguf", "b.gguf", "--quant", "q5_0"]);
    assert!(said.succeeds().err.contains("few bits already"), "{said:#?}");

    // A folder holds plain numbers, and an OpenELM has no such folder yet.
    place.elmwood(&["convert", "a.gguf", "d", "--quant", "q4_0"]).fails(2, &["plain numbers", ".gguf"]);
    place.elmwood(&["convert", "a.gguf", "d"]).fails(3, &["GGUF only"]);
    place.elmwood(&["convert", model, "d"]).fails(2, &["a folder already"]);
    place.elmwood(&["convert", "b.gguf", "runs"]).fails(2, &["is there already"]);
    assert!(!place.path("d").exists());

    // What is no model is refused, and nothing is left behind.
    place.write("c.bin", "not a model at all, whatever it says");
    place.elmwood(&["convert", "c.bin", "c.gguf"]).fails(3, &["no model of llama2.c"]);
    let mut torn = before;
    torn.truncate(torn.len() / 2);
    fs::write(place.path("torn.gguf"), torn).unwrap();
    place.elmwood(&["convert", "torn.gguf", "c.gguf"]).fails(3, &["no valid GGUF"]);
    assert!(!place.path("c.gguf").exists());
}
