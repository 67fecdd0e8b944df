//! Speed of the tokenizer on real text: `cargo bench -p elmwood-model -- FOLDER`.
//!
//! Trains 8,192 tokens on the text files of a folder and encodes them again on one core, beside Hugging
//! Face's library with the same `tokenizer.json`; both must give the same tokens.

use std::path::PathBuf;
use std::time::Instant;

use elmwood_model::Tokenizer;

fn main() {
    let folder = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let Some(folder) = folder else {
        println!("name a folder of text files");
        return;
    };
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(folder).expect("the folder exists").map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let texts: Vec<String> = paths
        .iter()
        .map(|path| String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned())
        .collect();
    let megabytes = texts.iter().map(String::len).sum::<usize>() as f64 / 1e6;

    let start = Instant::now();
    let tokenizer = Tokenizer::train(texts.iter().cloned(), 8192, |_| {}).unwrap();
    println!("train {megabytes:.1} MB: {:.2} s", start.elapsed().as_secs_f64());
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("tokenizer.json");
    tokenizer.save(&file).unwrap();
    let start = Instant::now();
    let tokenizer = Tokenizer::load(&file).unwrap();
    println!("load: {:.1} ms", start.elapsed().as_secs_f64() * 1e3);
    let mut twin = tokenizers::Tokenizer::from_file(&file).unwrap();
    twin.set_encode_special_tokens(true);

    // The library is fed with pages, as it is in practice; whole books slow it down.
    let pages: Vec<&str> = texts.iter().flat_map(|text| text.split_inclusive("\n\n")).collect();
    for _ in 0..3 {
        let start = Instant::now();
        let ours: usize = pages.iter().map(|page| tokenizer.encode(page).len()).sum();
        let our_secs = start.elapsed().as_secs_f64();
        let start = Instant::now();
        let theirs: usize = pages.iter().map(|page| twin.encode_fast(*page, false).unwrap().len()).sum();
        let their_secs = start.elapsed().as_secs_f64();
        assert_eq!(ours, theirs);
        println!(
            "encode {ours} tokens: {:.1} MB/s, Hugging Face {:.1} MB/s",
            megabytes / our_secs,
            megabytes / their_secs
        );
    }
}
