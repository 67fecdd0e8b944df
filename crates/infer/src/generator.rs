//! One token after the other.

use std::ops::ControlFlow;

use elmwood_engine::{CacheFormat, Cpu};
use elmwood_model::{Architecture, LocalModel};
use serde::{Deserialize, Serialize};

use crate::draft::draft;
use crate::reader::Reader;
use crate::{Constraint, Error, Sampler};

/// Tokens of a prompt that are computed before the caller is asked again.
const PREFILL: usize = 512;

/// What to generate, and when it ends.
#[derive(Debug)]
pub struct Request<'a> {
    /// The text to go on from.
    pub prompt: &'a [u32],
    /// Most tokens to generate.
    pub max_tokens: usize,
    /// Tokens that end the text and are not given out.
    pub ends: &'a [u32],
    /// Chooses the tokens.
    pub sampler: &'a mut Sampler,
    /// The form that the generated text must have.
    pub constraint: Option<&'a mut Constraint>,
    /// Most tokens to guess ahead: where text is repeated several are computed at once. The result is the same, to the
    /// bit; 0 guesses nothing.
    pub speculate: usize,
}

impl<'a> Request<'a> {
    /// Up to `max_tokens` tokens after `prompt`, whatever they are.
    pub fn new(prompt: &'a [u32], max_tokens: usize, sampler: &'a mut Sampler) -> Self {
        Self { prompt, max_tokens, ends: &[], sampler, constraint: None, speculate: 0 }
    }
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

/// Why a text ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Finish {
    /// The model ended it.
    EndToken,
    /// A string was found at which it was to end.
    StopString,
    /// It has as many tokens as were asked for.
    Length,
    /// There is no room for more.
    ContextFull,
    /// It was asked to stop.
    Interrupted,
    /// It has the form that it must have, and nothing can be added.
    Complete,
}

/// What was generated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generated {
    /// The tokens after the prompt, without the one that ended the text.
    pub tokens: Vec<u32>,
    /// Why there are no more.
    pub finish: Finish,
    /// Whether the text has the form that the constraint asks for; always true without one.
    pub has_form: bool,
    /// Tokens that were guessed and computed, and how many of them came.
    pub drafted: usize,
    /// Guessed tokens that came.
    pub accepted: usize,
}

/// A model with room for a text. What a prompt has in common with the text before is not computed again.
#[derive(Debug)]
pub struct Generator<'m> {
    pub(crate) reader: Reader<'m>,
}

impl<'m> Generator<'m> {
    /// Room for `context` tokens, at most the model's, with keys and values held in the form `cache`.
    #[must_use]
    pub fn new(model: &'m LocalModel, cpu: &'m Cpu, context: usize, cache: CacheFormat) -> Self {
        let context = context.min(model.architecture().context_length);
        Self { reader: Reader::new(model, cpu, model.sequence(cpu, context, cache)) }
    }

    /// Tokens there is room for.
    #[must_use]
    pub fn context(&self) -> usize {
        self.reader.capacity()
    }

    /// Tokens that were read so far, of the prompt and the answer.
    #[must_use]
    pub fn tokens(&self) -> &[u32] {
        self.reader.text()
    }

    /// Bytes of keys and values when the context is full.
    #[must_use]
    pub fn cache_bytes(&self) -> usize {
        self.reader.cache_bytes()
    }

    /// Goes on from a prompt until the model ends the text or it has to end; see [`Finish`]. Each step is told to
    /// `on_step`, which may end the text and say why.
    ///
    /// # Errors
    /// [`Error`] for a prompt that cannot be continued, a constraint that is too complex to follow, or a model that gives
    /// no token a probability.
    pub fn generate(
        &mut self,
        request: Request<'_>,
        mut on_step: impl FnMut(Step) -> ControlFlow<Finish>,
    ) -> Result<Generated, Error> {
        let Request { prompt, max_tokens, ends, sampler, mut constraint, speculate } = request;
        self.check(prompt)?;
        let before = (self.reader.drafted, self.reader.accepted);
        let mut tokens = Vec::new();
        let mut finish = self.read_prompt(prompt, &mut on_step).break_value();
        while finish.is_none() && tokens.len() < max_tokens {
            if let Some(&last) = tokens.last() {
                if self.reader.text().len() == self.context() {
                    finish = Some(Finish::ContextFull);
                    break;
                }
                self.push(last, constraint.as_deref_mut(), speculate.min(max_tokens - tokens.len()));
            }
            let mask = constraint.as_mut().map(|constraint| constraint.mask()).transpose()?;
            let token = sampler.draw(self.reader.logits(), self.reader.text(), mask.as_ref());
            let token = token.ok_or(Error::NoToken { tokens: self.reader.text().len() })?;
            if ends.contains(&token) {
                finish = Some(Finish::EndToken);
                break;
            }
            tokens.push(token);
            finish = on_step(Step::Token(token)).break_value();
            if let Some(constraint) = &mut constraint {
                constraint.push(token)?;
                if finish.is_none() && constraint.is_complete() {
                    finish = Some(Finish::Complete);
                }
            }
        }
        Ok(Generated {
            tokens,
            finish: finish.unwrap_or(Finish::Length),
            has_form: constraint.is_none_or(|constraint| constraint.may_end()),
            drafted: self.reader.drafted - before.0,
            accepted: self.reader.accepted - before.1,
        })
    }

    pub(crate) fn check(&self, prompt: &[u32]) -> Result<(), Error> {
        check(self.reader.model.architecture(), prompt, self.context())
    }

    pub(crate) fn read_prompt(
        &mut self,
        prompt: &[u32],
        on_step: &mut impl FnMut(Step) -> ControlFlow<Finish>,
    ) -> ControlFlow<Finish> {
        // The last token is always read, since its logits are what the text goes on from.
        self.reader.keep_common(prompt);
        while self.reader.text().len() < prompt.len() {
            let rest = &prompt[self.reader.text().len()..];
            self.reader.read(&rest[..rest.len().min(PREFILL)]);
            on_step(Step::Prompt { done: self.reader.text().len(), total: prompt.len() })?;
        }
        ControlFlow::Continue(())
    }

    /// Reads a generated token, with up to `speculate` tokens that may come after it.
    fn push(&mut self, token: u32, constraint: Option<&mut Constraint>, speculate: usize) {
        self.reader.push(token, |text, came, room| {
            // Guesses are as good as the last ones were: after none that came, one is tried.
            let most = speculate.min(room).min(2 * came + 1);
            let mut forced = match constraint {
                Some(constraint) if most > 0 => constraint.forced(),
                _ => Vec::new(),
            };
            forced.truncate(most);
            if forced.is_empty() { draft(text, most) } else { forced }
        });
    }
}

/// Whether a model can read tokens and write one more within `context`.
pub(crate) fn check(architecture: &Architecture, tokens: &[u32], context: usize) -> Result<(), Error> {
    let vocab = architecture.vocab_size;
    if tokens.is_empty() {
        return Err(Error::EmptyPrompt);
    }
    if tokens.len() >= context {
        return Err(Error::PromptTooLong { tokens: tokens.len(), context });
    }
    match tokens.iter().find(|token| **token as usize >= vocab) {
        Some(&token) => Err(Error::UnknownToken { token, vocab }),
        None => Ok(()),
    }
}
