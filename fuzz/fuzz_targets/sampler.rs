#![no_main]

#[path = "../checks/sampler.rs"]
mod sampler;

libfuzzer_sys::fuzz_target!(|input: &[u8]| sampler::sampler(input));
