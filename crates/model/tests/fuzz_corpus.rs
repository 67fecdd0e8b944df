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

use cap::Cap;

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
}

fn replay(target: &str, check: fn(&[u8])) {
    replay::replay(target, 10_000, |name, input| {
        let before = ALLOCATOR.allocated();
        check(input);
        let peak = ALLOCATOR.max_allocated();
        assert!(peak < before + MOST_BYTES, "{target}: {name} takes {} bytes", peak - before);
    });
}
