//! What the fuzz targets found worth keeping, and some thousand mutations of it: see `fuzz/README.md`. Nothing may
//! panic, or take memory out of proportion.

#![expect(unreachable_pub, reason = "the files are public to the fuzz targets")]

#[path = "../../../fuzz/src/model.rs"]
mod model;
#[path = "../../../fuzz/src/replay.rs"]
mod replay;
#[path = "../../../fuzz/src/small_gguf.rs"]
mod small_gguf;

use std::alloc::System;
use std::path::PathBuf;

use cap::Cap;
use elmwood_model::Tokenizer;
use small_gguf::SmallGguf;

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, 1 << 30);

/// Most memory that may be in use for one input of some ten kilobytes.
const MOST_BYTES: usize = 32 << 20;

/// One test, since memory is counted for the whole process.
#[test]
fn hostile_inputs_end_in_time_and_in_proportion() {
    replay("gguf", model::gguf);
    replay("gguf_edits", model::gguf_edits);
    replay("safetensors", model::safetensors);
    replay("tokenizer_json", model::tokenizer_json);
    replay("chat_template", model::chat_template);
    bounded("long names of special tokens", || model::open_gguf(&long_names()));
}

fn replay(target: &str, check: fn(&[u8])) {
    replay::replay(target, 5000, |name, input| bounded(&format!("{target}: {name}"), || check(input)));
}

fn bounded(name: &str, check: impl FnOnce()) {
    let before = ALLOCATOR.allocated();
    check();
    let peak = ALLOCATOR.max_allocated();
    assert!(peak < before + MOST_BYTES, "{name} takes {} bytes", peak - before);
}

/// A quarter of a megabyte of names, which are searched for in texts.
fn long_names() -> PathBuf {
    let name = |idx: usize| (0..2800).map(|at| char::from(b'!' + ((31 * idx + 7 * at) % 94) as u8)).collect();
    let names: Vec<String> = (0..90).map(name).collect();
    let mut gguf = SmallGguf::new(0);
    gguf.metadata.set("tokenizer.ggml.token_type", vec![3_i32; names.len()]);
    gguf.metadata.set("tokenizer.ggml.scores", vec![0_f32; names.len()]);
    gguf.metadata.set("tokenizer.ggml.tokens", names);
    let path = model::FOLDER.path().join("long_names.gguf");
    assert!(gguf.write(&path).unwrap());
    assert!(Tokenizer::open(&path).is_ok(), "the names are not too long yet");
    path
}
