#![no_main]

#[path = "../checks/model.rs"]
mod model;
#[path = "../checks/small_gguf.rs"]
mod small_gguf;

libfuzzer_sys::fuzz_target!(|input: &[u8]| model::safetensors(input));
