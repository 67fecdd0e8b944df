//! One token after the other.

use elmwood_engine::{CacheFormat, Cpu};
use elmwood_model::{LocalModel, Sequence};

use crate::Sampler;

/// Tokens of a prompt that are computed before the caller is asked again.
const PREFILL: usize = 512;

/// Why no text can be generated, or none scored.
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
    /// A text of less than one window.
    #[error(
        "the text has {tokens} tokens, which do not fill one window of {window}; take a longer text or a shorter window"
    )]
    TextTooShort {
        /// Tokens of the text.
        tokens: usize,
        /// Tokens of a window.
        window: usize,
    },
    /// A window that the model cannot look at.
    #[error(
        "a window of {tokens} tokens is longer than the model's context of {context}; take a shorter one"
    )]
    WindowTooLong {
        /// Tokens of a window.
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

/// What a generator tells while it works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// So many tokens of the prompt are read.
    Prompt {
        /// Tokens read, those known from the text before among them.
        done: usize,
        /// Tokens of the prompt.
        total: usize,
    },
    /// A token was written.
    Token(u32),
}

/// A model with room for a text. What a prompt has in common with the text before is not computed again.
#[derive(Debug)]
pub struct Generator<'m> {
    model: &'m LocalModel,
    cpu: &'m Cpu,
    sequence: Sequence,
}

impl<'m> Generator<'m> {
    /// Room for `context` tokens, at most the model's, with keys and values held in the form `cache`.
    #[must_use]
    pub fn new(model: &'m LocalModel, cpu: &'m Cpu, context: usize, cache: CacheFormat) -> Self {
        let context = context.min(model.architecture().context_length);
        Self { model, cpu, sequence: model.sequence(cpu, context, cache) }
    }

    /// Tokens there is room for.
    #[must_use]
    pub fn context(&self) -> usize {
        self.sequence.capacity()
    }

    /// Tokens of the text so far, prompt and answer.
    #[must_use]
    pub fn tokens(&self) -> &[u32] {
        self.sequence.tokens()
    }

    /// Bytes of keys and values when the context is full.
    #[must_use]
    pub fn cache_bytes(&self) -> usize {
        self.sequence.cache_bytes()
    }

    /// Continues `prompt` with up to `max_tokens` tokens; ends before at one of `ends`, which is not given out, or where
    /// the context is full. Each step is told to `on_step`, which ends the text by returning false.
    ///
    /// # Errors
    /// [`Error`] for a prompt that cannot be continued.
    pub fn generate(
        &mut self,
        prompt: &[u32],
        max_tokens: usize,
        ends: &[u32],
        sampler: &mut Sampler,
        mut on_step: impl FnMut(Step) -> bool,
    ) -> Result<Vec<u32>, Error> {
        self.check(prompt)?;
        let known = self.sequence.tokens().iter().zip(prompt).take_while(|(a, b)| a == b).count();
        // The last token is always read, since its logits are what the text goes on from.
        self.sequence.truncate(known.min(prompt.len() - 1));
        let mut generated = Vec::new();
        while self.sequence.len() < prompt.len() {
            let rest = &prompt[self.sequence.len()..];
            self.model.advance(self.cpu, &mut self.sequence, &rest[..rest.len().min(PREFILL)]);
            let step = Step::Prompt { done: self.sequence.len(), total: prompt.len() };
            if !on_step(step) {
                return Ok(generated);
            }
        }
        while generated.len() < max_tokens {
            let token = sampler.draw(self.sequence.logits());
            if ends.contains(&token) {
                break;
            }
            generated.push(token);
            if !on_step(Step::Token(token)) || self.sequence.len() == self.context() {
                break;
            }
            self.model.advance(self.cpu, &mut self.sequence, &[token]);
        }
        Ok(generated)
    }

    fn check(&self, prompt: &[u32]) -> Result<(), Error> {
        let (context, vocab) = (self.context(), self.model.architecture().vocab_size);
        if prompt.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        if prompt.len() >= context {
            return Err(Error::PromptTooLong { tokens: prompt.len(), context });
        }
        match prompt.iter().find(|token| **token as usize >= vocab) {
            Some(&token) => Err(Error::UnknownToken { token, vocab }),
            None => Ok(()),
        }
    }
}
