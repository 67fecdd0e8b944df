#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| elmwood_fuzz::model::gguf(input));
