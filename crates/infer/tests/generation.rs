//! Generation over a cache against the whole text computed anew for every token.

use elmwood_engine::{Arena, Batch, Cpu, Dtype, Tape};
use elmwood_infer::{Error, Generator, Sampler, Sampling};
use elmwood_model::{Model, OpenElmConfig, Scaling, Weights};

fn model() -> Model {
    let config = OpenElmConfig::new(&Scaling {
        model_dim: 32,
        num_transformer_layers: 3,
        head_dim: 8,
        num_gqa_groups: 2,
        qkv_multipliers: [0.5, 1.0],
        ffn_multipliers: [0.5, 2.0],
        ffn_dim_divisor: 16,
        vocab_size: 100,
        max_context_length: 40,
    })
    .unwrap();
    Model::new(config.clone(), &Weights::init(&config, 3))
}

/// The most likely token after `tokens`, without cache or packed weights.
fn next(model: &Model, cpu: &Cpu, tokens: &[u32], dtype: Dtype) -> u32 {
    let mut batch = Batch::new(tokens.len());
    batch.push_document(tokens);
    let mut arena = Arena::default();
    let mut tape = Tape::forgetting(cpu, &mut arena, model.parameters(), &batch, dtype);
    let hidden = model.forward(&mut tape, None);
    let mut logits = vec![0.0; 100];
    tape.logits(hidden, tokens.len() - 1, model.head(), &mut logits);
    Sampler::new(Sampling { temperature: 0.0, ..Sampling::default() }).draw(&logits)
}

#[test]
fn greedy_text_is_that_of_the_plain_computation() {
    let (model, cpu) = (model(), Cpu::new(2).unwrap());
    for dtype in [Dtype::F32, Dtype::Bf16] {
        let prompt = [3, 1, 4, 1, 5];
        let mut text = prompt.to_vec();
        while text.len() < 40 {
            text.push(next(&model, &cpu, &text, dtype));
        }
        let mut generator = Generator::new(&model, &cpu, dtype);
        for _ in 0..2 {
            let mut sampler = Sampler::new(Sampling { temperature: 0.0, ..Sampling::default() });
            let mut told = Vec::new();
            let on_token = |token| {
                told.push(token);
                true
            };
            let got = generator.generate(&prompt, 35, None, &mut sampler, on_token).unwrap();
            assert_eq!(got, text[5..], "{dtype:?}");
            assert_eq!(told, got);
        }
    }
}

#[test]
fn it_ends_at_the_end_token_the_limit_the_context_or_on_request() {
    let (model, cpu) = (model(), Cpu::new(1).unwrap());
    let mut generator = Generator::new(&model, &cpu, Dtype::F32);
    let mut run = |max, eos, stop: bool| {
        let mut sampler = Sampler::new(Sampling { temperature: 0.0, ..Sampling::default() });
        generator.generate(&[1, 2], max, eos, &mut sampler, |_| !stop).unwrap()
    };
    let whole = run(1000, None, false);
    assert_eq!(whole.len(), 39, "38 places after the prompt, and the token that none is left to follow");
    assert_eq!(run(7, None, false), whole[..7]);
    assert_eq!(run(1000, None, true), whole[..1]);
    let end = whole[5];
    let first = whole.iter().position(|token| *token == end).unwrap();
    assert_eq!(run(1000, Some(end), false), whole[..first]);
}

#[test]
fn prompts_that_cannot_be_continued_are_refused() {
    let (model, cpu) = (model(), Cpu::new(1).unwrap());
    let mut generator = Generator::new(&model, &cpu, Dtype::F32);
    let mut run = |prompt: &[u32]| {
        generator.generate(prompt, 1, None, &mut Sampler::new(Sampling::default()), |_| true).unwrap_err()
    };
    assert_eq!(run(&[]), Error::EmptyPrompt);
    assert_eq!(run(&[1; 40]), Error::PromptTooLong { tokens: 40, context: 40 });
    assert_eq!(run(&[1, 100]), Error::UnknownToken { token: 100, vocab: 100 });
}
