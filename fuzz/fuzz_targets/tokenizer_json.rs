#![no_main]

// The reader catches the panics of the library behind it. libFuzzer's own hook would end the process at those too;
// panics that nothing catches still do.
libfuzzer_sys::fuzz_target!(
    init: std::panic::set_hook(Box::new(|panic| eprintln!("{panic}"))),
    |input: &[u8]| elmwood_fuzz::model::tokenizer_json(input)
);
