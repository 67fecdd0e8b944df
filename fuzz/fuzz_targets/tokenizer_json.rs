#![no_main]

#[path = "../checks/model.rs"]
mod model;
#[path = "../checks/small_gguf.rs"]
mod small_gguf;

// The reader catches the panics of the library behind it. libFuzzer's own hook would end the process at those too;
// panics that nothing catches still do.
libfuzzer_sys::fuzz_target!(
    init: std::panic::set_hook(Box::new(|panic| eprintln!("{panic}"))),
    |input: &[u8]| model::tokenizer_json(input)
);
