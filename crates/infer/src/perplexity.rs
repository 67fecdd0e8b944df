//! How well a model predicts a text.
//!
//! The text is cut into windows of the same length. In each the model sees the first half for nothing, and is scored
//! for every token of the second half but the first: so no token is scored that has little before it, and the numbers
//! are those of llama.cpp's `perplexity`, which does the same. Where the model expects a token that begins texts, the
//! first token of each window is replaced by it.

use elmwood_engine::{CacheFormat, Cpu};
use elmwood_model::LocalModel;

use crate::Error;

/// How well a model predicts a text, or as much of it as was scored so far.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Perplexity {
    /// Windows that were scored.
    pub windows: usize,
    /// Tokens that were scored.
    pub tokens: usize,
    /// Bytes of text that these tokens stand for.
    pub bytes: usize,
    /// Mean of the negative logarithm of a token's probability, in nats.
    pub nats: f64,
    /// Standard error of that mean, as if tokens were independent.
    pub nats_error: f64,
}

impl Perplexity {
    /// The perplexity: to choose among so many equally likely tokens would be as hard.
    #[must_use]
    pub fn value(&self) -> f64 {
        self.nats.exp()
    }

    /// Standard error of [`Self::value`].
    #[must_use]
    pub fn error(&self) -> f64 {
        self.nats_error * self.value()
    }

    /// Bits that a byte of the scored text takes; unlike perplexities, these compare across tokenizers.
    #[must_use]
    pub fn bits_per_byte(&self) -> f64 {
        self.nats * self.tokens as f64 / (self.bytes as f64 * std::f64::consts::LN_2)
    }
}

/// What is scored, and how.
#[derive(Debug, Clone, Copy)]
pub struct Windows<'a> {
    /// The text, with the token that begins texts first if the model expects one.
    pub tokens: &'a [u32],
    /// Tokens of a window, at least 4.
    pub context: usize,
    /// At most so many windows; all if none.
    pub limit: Option<usize>,
    /// The token that begins texts, if the model expects one.
    pub bos: Option<u32>,
}

impl Windows<'_> {
    /// How many windows there are.
    #[must_use]
    pub fn count(&self) -> usize {
        (self.tokens.len() / self.context).min(self.limit.unwrap_or(usize::MAX))
    }

    /// Tokens of a window that are scored.
    #[must_use]
    pub fn scored(&self) -> usize {
        self.context - self.context / 2 - 1
    }
}

/// Scores a text. `bytes_of` tells how many bytes of text a token stands for. After every window `on_window` is told the
/// result so far; if it says false, that is the result, or none before the first window.
///
/// Products of plain numbers, keys and values are in f32, whatever the model is otherwise used with.
///
/// # Errors
/// [`Error::TextTooShort`] for less than a window, [`Error::WindowTooLong`] for one that the model cannot look at,
/// [`Error::UnknownToken`].
///
/// # Panics
/// If windows have fewer than 4 tokens.
pub fn perplexity(
    model: &LocalModel,
    cpu: &Cpu,
    windows: Windows<'_>,
    bytes_of: impl Fn(u32) -> usize,
    mut on_window: impl FnMut(&Perplexity) -> bool,
) -> Result<Option<Perplexity>, Error> {
    let Windows { tokens, context, bos, .. } = windows;
    let architecture = model.architecture();
    assert!(context >= 4, "a window has tokens to score");
    if context > architecture.context_length {
        return Err(Error::WindowTooLong { tokens: context, context: architecture.context_length });
    }
    if windows.count() == 0 {
        return Err(Error::TextTooShort { tokens: tokens.len(), window: context });
    }
    let vocab = architecture.vocab_size;
    if let Some(&token) = tokens.iter().chain(&bos).find(|token| **token as usize >= vocab) {
        return Err(Error::UnknownToken { token, vocab });
    }
    let (mut sum, mut squares, mut bytes) = (0.0, 0.0, 0);
    let mut sequence = model.sequence(cpu, context, CacheFormat::F32);
    let mut result = None;
    for (i, window) in tokens.chunks_exact(context).take(windows.count()).enumerate() {
        let mut read = window.to_vec();
        read[0] = bos.unwrap_or(window[0]);
        sequence.truncate(0);
        // The last token has nothing to predict.
        read.pop();
        model.advance_with(cpu, &mut sequence, &read, context / 2, |position, logits| {
            let target = window[position + 1];
            let nats = negative_log_probability(logits, target);
            sum += nats;
            squares += nats * nats;
            bytes += bytes_of(target);
        });
        let n = ((i + 1) * windows.scored()) as f64;
        let mean = sum / n;
        let variance = (squares / n - mean * mean).max(0.0);
        let nats_error = (variance / (n - 1.0).max(1.0)).sqrt();
        let so_far = Perplexity { windows: i + 1, tokens: n as usize, bytes, nats: mean, nats_error };
        result = Some(so_far);
        if !on_window(&so_far) {
            break;
        }
    }
    Ok(result)
}

/// `−ln softmax(logits)[target]`, summed in f64.
fn negative_log_probability(logits: &[f32], target: u32) -> f64 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|logit| f64::from((logit - largest).exp())).sum();
    sum.ln() - f64::from(logits[target as usize] - largest)
}
