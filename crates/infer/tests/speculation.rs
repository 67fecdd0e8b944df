//! Guessing ahead gives the text that comes without it.

mod common;
#[path = "common/golden.rs"]
mod golden;

use std::ops::ControlFlow::Continue;

use common::{local_of, weights_of};
use elmwood_engine::{CacheFormat, Cpu, Dtype};
use elmwood_infer::{Form, Generated, Generator, Request, Sampler, Sampling, Vocabulary};
use elmwood_model::{LocalModel, Tokenizer};

fn generate(model: &LocalModel, cpu: &Cpu, dtype: Dtype, request: Request<'_>) -> Generated {
    let mut generator = Generator::new(model, cpu, 150, dtype.into());
    generator.generate(request, |_| Continue(())).unwrap()
}

#[test]
fn the_text_is_that_without_guesses() {
    let settings = [
        Sampling::greedy(),
        Sampling { repeat_penalty: 1.05, repeat_last: 7, ..Sampling::greedy() },
        Sampling { temperature: 0.5, top_k: 3, ..Sampling::default() },
        Sampling { temperature: 0.5, presence_penalty: 0.1, frequency_penalty: 0.1, ..Sampling::default() },
    ];
    let prompts = [vec![1], vec![3, 4, 5, 6, 3, 4, 5, 6, 3, 4], (0..90).map(|i| i % 9).collect()];
    for (threads, dtype) in [(1, Dtype::F32), (2, Dtype::Bf16)] {
        let cpu = Cpu::new(threads).unwrap();
        let model = local_of(&cpu, dtype, weights_of(24, 150));
        let mut accepted = 0;
        for sampling in settings {
            for prompt in &prompts {
                let run = |speculate| {
                    let sampler = &mut Sampler::new(sampling).unwrap();
                    let request = Request { speculate, ..Request::new(prompt, 1000, sampler) };
                    generate(&model, &cpu, dtype, request)
                };
                let plain = run(0);
                assert_eq!((plain.drafted, plain.accepted), (0, 0));
                for speculate in [1, 2, 9] {
                    let guessed = run(speculate);
                    accepted += guessed.accepted;
                    assert!(guessed.drafted >= guessed.accepted);
                    assert_eq!(guessed.tokens, plain.tokens, "{sampling:?}, {speculate}, {dtype:?}");
                    assert_eq!(guessed.finish, plain.finish);
                }
            }
        }
        assert!(accepted > 100, "nothing was tried: {accepted} accepted");
    }
}

#[test]
fn constraints_force_guesses_and_the_text_is_that_without() {
    let texts = [r#"{"name": "Ann", "age": 31}, {"name": "Bob", "age": 4}"#.repeat(20)];
    let tokenizer = Tokenizer::train(texts.into_iter(), 300, |_| {}).unwrap();
    let cpu = Cpu::new(2).unwrap();
    let model = local_of(&cpu, Dtype::F32, weights_of(tokenizer.vocab_size(), 150));
    let vocabulary = Vocabulary::new(&tokenizer).unwrap();
    let form = Form::Regex(r#"(\{"name": "[a-z]{1,3}", "age": \d\}\n){3}"#.into());
    for sampling in [Sampling::greedy(), Sampling::default()] {
        let run = |speculate| {
            let mut constraint = vocabulary.constraint(&form).unwrap();
            let mut sampler = Sampler::new(sampling).unwrap();
            let request = Request {
                ends: tokenizer.end_of_generation(),
                constraint: Some(&mut constraint),
                speculate,
                ..Request::new(&[0], 140, &mut sampler)
            };
            generate(&model, &cpu, Dtype::F32, request)
        };
        let (plain, guessed) = (run(0), run(8));
        assert!(plain.has_form, "{}", tokenizer.decode(&plain.tokens));
        assert_eq!(guessed.tokens, plain.tokens, "{}", tokenizer.decode(&plain.tokens));
        assert_eq!((guessed.finish, guessed.has_form), (plain.finish, plain.has_form));
        assert!(guessed.accepted > 10, "{guessed:?}");
    }
}

#[test]
fn guesses_do_not_reach_beyond_the_length_where_turns_change() {
    let cpu = Cpu::new(2).unwrap();
    let model = golden::model("phi3_longrope", &cpu);
    let prompt: Vec<u32> = (0..40).map(|i| 3 + i % 4).collect();
    let run = |speculate, max_tokens| {
        let sampler = &mut common::greedy();
        let request = Request { speculate, ..Request::new(&prompt, max_tokens, sampler) };
        generate(&model, &cpu, Dtype::F32, request)
    };
    for max_tokens in [5, 8, 9, 30] {
        assert_eq!(run(16, max_tokens).tokens, run(0, max_tokens).tokens);
    }
    // A text that is short again knows nothing of the turns of the long one.
    let mut generator = Generator::new(&model, &cpu, 150, CacheFormat::F32);
    let long: Vec<u32> = prompt.iter().copied().cycle().take(100).collect();
    common::tokens(&mut generator, &long, 3);
    let afresh = common::tokens(&mut Generator::new(&model, &cpu, 150, CacheFormat::F32), &prompt, 6);
    assert_eq!(common::tokens(&mut generator, &prompt, 6), afresh);
}
