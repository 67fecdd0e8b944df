//! Generation over a cache against the whole text computed anew for every token.

mod common;

use std::ops::ControlFlow::{Break, Continue};

use common::{greedy, local, tokens, weights};
use elmwood_engine::{Arena, Batch, CacheFormat, Cpu, Dtype, Tape};
use elmwood_infer::{Error, Finish, Generator, Request, Step};
use elmwood_model::Model;

/// The most likely token after `tokens`, as training computes it: without cache or packed weights.
fn next(model: &Model, cpu: &Cpu, tokens: &[u32]) -> u32 {
    let mut batch = Batch::new(tokens.len());
    batch.push_document(tokens);
    let mut arena = Arena::default();
    let mut tape = Tape::forgetting(cpu, &mut arena, model.parameters(), &batch, Dtype::F32);
    let hidden = model.forward(&mut tape);
    let mut logits = vec![0.0; 100];
    tape.logits(hidden, tokens.len() - 1, model.head(), &mut logits);
    greedy().draw(&logits, &[], None).unwrap()
}

#[test]
fn greedy_text_is_that_of_the_plain_computation() {
    let cpu = Cpu::new(2).unwrap();
    let (config, weights) = weights();
    let model = Model::new(config, &weights);
    let prompt = [3, 1, 4, 1, 5];
    let mut text = prompt.to_vec();
    while text.len() < 40 {
        text.push(next(&model, &cpu, &text));
    }
    let local = local(&cpu, Dtype::F32);
    let mut generator = Generator::new(&local, &cpu, 1000, CacheFormat::F32);
    for _ in 0..2 {
        let mut told = Vec::new();
        let on_step = |step| {
            if let Step::Token(token) = step {
                told.push(token);
            }
            Continue(())
        };
        let mut sampler = greedy();
        let got = generator.generate(Request::new(&prompt, 35, &mut sampler), on_step).unwrap().tokens;
        assert_eq!(got, text[5..]);
        assert_eq!(told, got);
    }
}

#[test]
fn a_text_that_is_known_in_part_is_continued_as_afresh() {
    let cpu = Cpu::new(2).unwrap();
    for dtype in [Dtype::F32, Dtype::Bf16] {
        let local = local(&cpu, dtype);
        let format = if dtype == Dtype::F32 { CacheFormat::F32 } else { CacheFormat::Int8 };
        let new = || Generator::new(&local, &cpu, 1000, format);
        let mut kept = new();
        let prompts: [&[u32]; 4] = [&[7; 36], &[7, 7, 7, 8], &[7, 7, 7, 8, 9], &[7, 7, 7, 8]];
        for prompt in prompts {
            let again = tokens(&mut kept, prompt, 4);
            assert_eq!(again, tokens(&mut new(), prompt, 4), "{dtype:?}, {prompt:?}");
        }
    }
}

#[test]
fn it_ends_at_the_end_token_the_limit_the_context_or_on_request() {
    let cpu = Cpu::new(1).unwrap();
    let model = local(&cpu, Dtype::F32);
    let mut generator = Generator::new(&model, &cpu, 1000, CacheFormat::F32);
    let mut run = |max_tokens, ends: &[u32], stop: bool| {
        let on_step = |step| match step {
            Step::Token(_) if stop => Break(Finish::Interrupted),
            _ => Continue(()),
        };
        let mut sampler = greedy();
        let request = Request { ends, ..Request::new(&[1, 2], max_tokens, &mut sampler) };
        let generated = generator.generate(request, on_step).unwrap();
        (generated.tokens, generated.finish)
    };
    let (whole, finish) = run(1000, &[], false);
    assert_eq!(whole.len(), 39, "38 places after the prompt, and the token that none is left to follow");
    assert_eq!(finish, Finish::ContextFull);
    assert_eq!(run(39, &[], false), (whole.clone(), Finish::Length));
    assert_eq!(run(7, &[], false), (whole[..7].to_vec(), Finish::Length));
    assert_eq!(run(0, &[], false), (vec![], Finish::Length));
    assert_eq!(run(1000, &[], true), (whole[..1].to_vec(), Finish::Interrupted));
    let end = whole[5];
    let first = whole.iter().position(|token| *token == end).unwrap();
    assert_eq!(run(1000, &[end], false), (whole[..first].to_vec(), Finish::EndToken));
}

#[test]
fn prompts_that_cannot_be_continued_are_refused() {
    let cpu = Cpu::new(1).unwrap();
    let model = local(&cpu, Dtype::F32);
    let mut generator = Generator::new(&model, &cpu, 1000, CacheFormat::F32);
    let mut run = |prompt: &[u32]| {
        generator.generate(Request::new(prompt, 1, &mut greedy()), |_| Continue(())).unwrap_err()
    };
    assert_eq!(run(&[]), Error::EmptyPrompt);
    assert_eq!(run(&[1; 40]), Error::PromptTooLong { tokens: 40, context: 40 });
    assert_eq!(run(&[1, 100]), Error::UnknownToken { token: 100, vocab: 100 });
}
