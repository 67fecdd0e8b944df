//! Vectors of texts against Hugging Face `transformers`.

mod common;
#[path = "common/golden.rs"]
mod golden;

use elmwood_engine::{CacheFormat, Cpu, Dtype};
use elmwood_infer::{Error, Pool, embed, normalize};

#[test]
fn pooled_rows_are_those_of_transformers() {
    for case in ["llama", "phi3_mini"] {
        let expected = &golden::json(&format!("decoding/{case}.json"))["embedding"];
        let text: Vec<u32> = serde_json::from_value(expected["text"].clone()).unwrap();
        let cpu = Cpu::new(2).unwrap();
        let model = golden::model(case, &cpu);
        for (pool, name) in [(Pool::Mean, "mean"), (Pool::Last, "last")] {
            let got = embed(&model, &cpu, &text, usize::MAX, pool, CacheFormat::F32).unwrap();
            let expected: Vec<f32> = serde_json::from_value(expected[name].clone()).unwrap();
            assert_eq!(got.len(), expected.len());
            let largest = expected.iter().fold(0.0_f32, |a, b| a.max(b.abs()));
            for (got, expected) in got.iter().zip(&expected) {
                // As logits: rounding makes some millionths of the largest, mistakes far more.
                assert!((got - expected).abs() <= 2e-5 * largest, "{case}, {name}: {got}, not {expected}");
            }
        }
    }
}

#[test]
fn long_texts_fill_the_context_and_no_more() {
    let cpu = Cpu::new(1).unwrap();
    let model = common::local(&cpu, Dtype::F32);
    let run = |tokens: &[u32], context| embed(&model, &cpu, tokens, context, Pool::Mean, CacheFormat::F32);
    assert_eq!(run(&[5; 40], 1000).unwrap().len(), 32);
    assert_eq!(run(&[5; 41], 1000).unwrap_err(), Error::PromptTooLong { tokens: 41, context: 40 });
    assert_eq!(run(&[5; 4], 3).unwrap_err(), Error::PromptTooLong { tokens: 4, context: 3 });
    assert_eq!(run(&[], 3).unwrap_err(), Error::EmptyPrompt);
    assert_eq!(run(&[100], 3).unwrap_err(), Error::UnknownToken { token: 100, vocab: 100 });
}

#[test]
fn a_normalized_vector_has_length_one() {
    let mut vector = [3.0, 0.0, -4.0];
    normalize(&mut vector);
    assert_eq!(vector, [0.6, 0.0, -0.8]);
    let mut zero = [0.0; 3];
    normalize(&mut zero);
    assert_eq!(zero, [0.0; 3]);
}
