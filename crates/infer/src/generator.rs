//! One token after the other.

use elmwood_engine::{Arena, Batch, Cpu, Dtype, PackedParameters, Tape};
use elmwood_model::{KvCache, Model};

use crate::Sampler;

/// Tokens of a prompt that are computed at once.
const PREFILL: usize = 256;

/// Why no text can be generated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is nothing to continue.
    #[error("the prompt has no tokens; begin with the model's beginning-of-text token")]
    EmptyPrompt,
    /// The prompt fills the context.
    #[error("the prompt has {tokens} tokens, but the model's context is {context}; shorten the prompt")]
    PromptTooLong {
        /// Tokens of the prompt.
        tokens: usize,
        /// Tokens that the model can look at.
        context: usize,
    },
    /// A token that the model does not have.
    #[error("token {token} is outside the model's vocabulary of {vocab}; is this the model's own tokenizer?")]
    UnknownToken {
        /// The token.
        token: u32,
        /// Tokens that the model has.
        vocab: usize,
    },
}

/// A model with its weights packed and room for keys and values.
#[derive(Debug)]
pub struct Generator<'m> {
    model: &'m Model,
    cpu: &'m Cpu,
    dtype: Dtype,
    packed: PackedParameters,
    cache: KvCache,
    arena: Arena,
    batch: Batch,
    logits: Vec<f32>,
}

impl<'m> Generator<'m> {
    /// Packs the weights; the context is the model's.
    #[must_use]
    pub fn new(model: &'m Model, cpu: &'m Cpu, dtype: Dtype) -> Self {
        Self {
            packed: PackedParameters::new(cpu, model.parameters(), dtype),
            cache: KvCache::new(model, model.config().max_context_length(), dtype),
            arena: Arena::default(),
            batch: Batch::new(0),
            logits: vec![0.0; model.config().vocab_size()],
            model,
            cpu,
            dtype,
        }
    }

    /// Continues `prompt` with up to `max_tokens` tokens; ends before at `eos`, which is not given out, or where
    /// the context is full. Each token is told to `on_token`, which ends the text by returning false.
    ///
    /// # Errors
    /// [`Error`] for a prompt that cannot be continued.
    pub fn generate(
        &mut self,
        prompt: &[u32],
        max_tokens: usize,
        eos: Option<u32>,
        sampler: &mut Sampler,
        mut on_token: impl FnMut(u32) -> bool,
    ) -> Result<Vec<u32>, Error> {
        let (context, vocab) = (self.cache.capacity(), self.logits.len());
        if prompt.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        if prompt.len() >= context {
            return Err(Error::PromptTooLong { tokens: prompt.len(), context });
        }
        if let Some(&token) = prompt.iter().find(|token| **token as usize >= vocab) {
            return Err(Error::UnknownToken { token, vocab });
        }
        self.cache.truncate(0);
        for part in prompt.chunks(PREFILL) {
            self.advance(part);
        }
        let mut generated = Vec::new();
        while generated.len() < max_tokens {
            let token = sampler.draw(&self.logits);
            if Some(token) == eos {
                break;
            }
            generated.push(token);
            if !on_token(token) || self.cache.len() == context {
                break;
            }
            self.advance(&[token]);
        }
        Ok(generated)
    }

    /// Runs new tokens through the model; the logits are then those after the last one.
    fn advance(&mut self, tokens: &[u32]) {
        self.batch.continue_from(self.cache.len(), tokens);
        let parameters = self.model.parameters();
        let tape = Tape::forgetting(self.cpu, &mut self.arena, parameters, &self.batch, self.dtype);
        let mut tape = tape.with_packed(&self.packed);
        let hidden = self.model.forward(&mut tape, Some(&mut self.cache));
        tape.logits(hidden, tokens.len() - 1, self.model.head(), &mut self.logits);
    }
}
