//! Beam search against every text that there is, and against Hugging Face `transformers`.

mod common;
#[path = "common/golden.rs"]
mod golden;

use std::ops::ControlFlow::{Break, Continue};

use common::{local_of, weights_of};
use elmwood_engine::{CacheFormat, Cpu, Dtype};
use elmwood_infer::{BeamSearch, Error, Finish, Generator, Hypothesis};
use elmwood_model::LocalModel;
use serde_json::Value;

fn ints(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

fn search(model: &LocalModel, cpu: &Cpu, search: &BeamSearch<'_>) -> Vec<Hypothesis> {
    Generator::new(model, cpu, 64, CacheFormat::F32).beam_search(search, |_| Continue(())).unwrap()
}

/// Twin: the scores of all texts of up to `max_tokens` tokens, best first, each computed afresh.
fn all_texts(model: &LocalModel, cpu: &Cpu, asked: &BeamSearch<'_>) -> Vec<(f64, Vec<u32>)> {
    let mut texts = vec![(0.0, Vec::<u32>::new())];
    let mut ended = Vec::new();
    for length in 1..=asked.max_tokens {
        let mut longer = Vec::new();
        for (log_probability, tokens) in texts {
            let mut sequence = model.sequence(cpu, 64, CacheFormat::F32);
            let logits = model.advance(cpu, &mut sequence, &[asked.prompt, &tokens].concat());
            let sum: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
            for (token, logit) in (0..).zip(logits) {
                let log_probability = log_probability + f64::from(*logit) - sum.ln();
                let score = log_probability / (length as f64).powf(f64::from(asked.length_penalty));
                let text = [&tokens[..], &[token]].concat();
                if asked.ends.contains(&token) {
                    ended.push((score, tokens.clone()));
                } else if length == asked.max_tokens {
                    ended.push((score, text));
                } else {
                    longer.push((log_probability, text));
                }
            }
        }
        texts = longer;
    }
    ended.sort_by(|a, b| b.0.total_cmp(&a.0));
    ended
}

#[test]
fn with_a_beam_for_every_text_the_best_of_all_are_found() {
    let cpu = Cpu::new(2).unwrap();
    let model = local_of(&cpu, Dtype::F32, weights_of(7, 64));
    for (prompt, length_penalty) in [([1, 2], 0.0), ([3, 6], 1.0), ([5, 5], 2.0)] {
        for ends in [&[][..], &[4], &[0, 6]] {
            let asked = BeamSearch { prompt: &prompt, max_tokens: 3, ends, beams: 49, length_penalty };
            let found = search(&model, &cpu, &asked);
            let all = all_texts(&model, &cpu, &asked);
            for (found, (score, tokens)) in found.iter().zip(&all).take(10) {
                assert_eq!(found.tokens, *tokens, "{asked:?}");
                assert!(
                    (found.score - score).abs() < 1e-6 * score.abs(),
                    "{} instead of {score}",
                    found.score
                );
            }
        }
    }
}

#[test]
fn texts_and_scores_are_those_of_transformers() {
    for case in ["llama", "phi3_mini"] {
        let golden = golden::json(&format!("decoding/{case}.json"));
        for threads in [1, 2] {
            let cpu = Cpu::new(threads).unwrap();
            let model = golden::model(case, &cpu);
            for setting in golden["searches"].as_array().unwrap() {
                let (prompt, ends) = (ints(&setting["prompt"]), ints(&setting["ends"]));
                let number = |name: &str| setting[name].as_u64().unwrap() as usize;
                let asked = BeamSearch {
                    prompt: &prompt,
                    max_tokens: number("max_tokens"),
                    ends: &ends,
                    beams: number("beams"),
                    length_penalty: setting["length_penalty"].as_f64().unwrap() as f32,
                };
                let found = search(&model, &cpu, &asked);
                let expected = setting["found"].as_array().unwrap();
                assert_eq!(found.len(), expected.len());
                for (found, expected) in found.iter().zip(expected) {
                    let mut tokens = ints(&expected["tokens"]);
                    let finish = match tokens.pop_if(|last| ends.contains(last)) {
                        Some(_) => Finish::EndToken,
                        None => Finish::Length,
                    };
                    assert_eq!((&found.tokens, found.finish), (&tokens, finish), "{case}, {asked:?}");
                    let score = expected["score"].as_f64().unwrap();
                    // A dozen logits, each off by a few millionths, and theirs added in f32.
                    assert!((found.score - score).abs() < 1e-5 * score.abs(), "{} {score}", found.score);
                }
            }
        }
    }
}

#[test]
fn one_beam_is_greedy_and_the_context_ends_a_search() {
    let cpu = Cpu::new(1).unwrap();
    let model = common::local(&cpu, Dtype::F32);
    let mut generator = Generator::new(&model, &cpu, 1000, CacheFormat::F32);
    let greedy = common::tokens(&mut generator, &[1, 2], 1000);
    let asked = BeamSearch { prompt: &[1, 2], max_tokens: 1000, ends: &[], beams: 1, length_penalty: 1.0 };
    let found = generator.beam_search(&asked, |_| Continue(())).unwrap();
    assert_eq!((found.len(), &found[0].tokens, found[0].finish), (1, &greedy, Finish::ContextFull));
    // Where it is stopped nothing has ended yet, and the generator goes on as before.
    assert_eq!(generator.beam_search(&asked, |_| Break(Finish::Interrupted)).unwrap(), []);
    assert_eq!(common::tokens(&mut generator, &[1, 2], 1000), greedy);

    let mut fails = |asked| generator.beam_search(&asked, |_| Continue(())).unwrap_err();
    assert!(matches!(fails(BeamSearch { beams: 0, ..asked }), Error::Setting { name: "beams", .. }));
    let penalty = fails(BeamSearch { length_penalty: f32::NAN, ..asked });
    assert!(matches!(penalty, Error::Setting { name: "length_penalty", .. }));
    assert_eq!(fails(BeamSearch { prompt: &[], ..asked }), Error::EmptyPrompt);
}
