//! Perplexity against its definition, computed window by window from the logits of whole texts.

mod common;

use common::{local, text};
use elmwood_engine::{CacheFormat, Cpu, Dtype};
use elmwood_infer::{Error, Perplexity, Windows, perplexity};
use elmwood_model::LocalModel;

const CONTEXT: usize = 16;

/// The definition, in f64: from 8 on, each token but the first is predicted by those before it.
fn plain(model: &LocalModel, cpu: &Cpu, tokens: &[u32], bos: Option<u32>) -> (f64, f64) {
    let mut nats = Vec::new();
    for window in tokens.chunks_exact(CONTEXT) {
        let mut window = window.to_vec();
        let targets = window.clone();
        window[0] = bos.unwrap_or(window[0]);
        for at in CONTEXT / 2..CONTEXT - 1 {
            let mut sequence = model.sequence(cpu, CONTEXT, CacheFormat::F32);
            let logits = model.advance(cpu, &mut sequence, &window[..=at]);
            let sum: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
            nats.push(sum.ln() - f64::from(logits[targets[at + 1] as usize]));
        }
    }
    let n = nats.len() as f64;
    let mean = nats.iter().sum::<f64>() / n;
    let variance = nats.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
    (mean, (variance / (n - 1.0)).sqrt())
}

fn run(model: &LocalModel, cpu: &Cpu, windows: Windows<'_>) -> Result<Option<Perplexity>, Error> {
    perplexity(model, cpu, windows, |token| token as usize % 5, |_| true)
}

#[test]
fn it_is_what_the_definition_says() {
    let cpu = Cpu::new(2).unwrap();
    let model = local(&cpu, Dtype::F32);
    // Three windows, and a rest that is left out.
    let tokens = text(3 * CONTEXT as u32 + 7);
    for bos in [None, Some(3)] {
        let windows = Windows { tokens: &tokens, context: CONTEXT, limit: None, bos };
        let got = run(&model, &cpu, windows).unwrap().unwrap();
        let (mean, error) = plain(&model, &cpu, &tokens, bos);
        assert_eq!((got.windows, got.tokens), (3, 3 * 7));
        // Sums of at most 100 terms of f32, each exponential off by 2^-23.
        assert!((got.nats - mean).abs() < 1e-5, "{} instead of {mean}", got.nats);
        assert!((got.nats_error - error).abs() < 1e-5, "{} instead of {error}", got.nats_error);
        assert!((got.value() - mean.exp()).abs() < 1e-4 * mean.exp());
        let bytes: usize = tokens
            .chunks_exact(CONTEXT)
            .flat_map(|window| &window[9..])
            .map(|token| *token as usize % 5)
            .sum();
        assert_eq!(got.bytes, bytes);
        let bits = mean * 21.0 / 2.0_f64.ln() / bytes as f64;
        assert!((got.bits_per_byte() - bits).abs() < 1e-4);
    }
}

#[test]
fn windows_can_be_limited_and_stopped() {
    let cpu = Cpu::new(1).unwrap();
    let model = local(&cpu, Dtype::F32);
    let tokens = text(4 * CONTEXT as u32);
    let windows = Windows { tokens: &tokens, context: CONTEXT, limit: Some(2), bos: None };
    let limited = run(&model, &cpu, windows).unwrap().unwrap();
    assert_eq!(limited.windows, 2);
    let all = Windows { limit: None, ..windows };
    let stopped = perplexity(&model, &cpu, all, |_| 1, |so_far| so_far.windows < 2).unwrap().unwrap();
    assert_eq!((stopped.windows, stopped.nats), (2, limited.nats));
}

#[test]
fn texts_that_cannot_be_scored_are_refused() {
    let cpu = Cpu::new(1).unwrap();
    let model = local(&cpu, Dtype::F32);
    let tokens = text(30);
    let windows = Windows { tokens: &tokens, context: CONTEXT, limit: None, bos: None };
    let error = |windows| run(&model, &cpu, windows).unwrap_err();
    assert_eq!(
        error(Windows { tokens: &tokens[..15], ..windows }),
        Error::TextTooShort { tokens: 15, window: 16 }
    );
    assert_eq!(error(Windows { context: 41, ..windows }), Error::WindowTooLong { tokens: 41, context: 40 });
    assert_eq!(error(Windows { bos: Some(100), ..windows }), Error::UnknownToken { token: 100, vocab: 100 });
}
