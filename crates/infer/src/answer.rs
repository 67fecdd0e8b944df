//! Text in, text out: a generator with a tokenizer.

use std::ops::ControlFlow;
use std::time::Instant;

use elmwood_model::Tokenizer;

use crate::{Error, Finish, Generator, Request, Step, StopText};

/// What a model wrote.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The text, without the stop string that ended it.
    pub text: String,
    /// Why it ends.
    pub finish: Finish,
    /// Whether it has the form that the constraint asks for; always true without one.
    pub has_form: bool,
    /// Tokens of the prompt, and those of them that had to be computed.
    pub prompt_tokens: usize,
    /// Tokens of the prompt that were not known from the text before.
    pub computed_tokens: usize,
    /// Tokens that were written.
    pub tokens: usize,
    /// Tokens that were guessed and computed; see [`Request::speculate`].
    pub drafted: usize,
    /// Guessed tokens that came.
    pub accepted: usize,
    /// Seconds that the prompt took.
    pub prompt_secs: f64,
    /// Seconds that the answer took.
    pub secs: f64,
}

impl Answer {
    /// Computed tokens of the prompt per second.
    #[must_use]
    pub fn prompt_rate(&self) -> f64 {
        self.computed_tokens as f64 / self.prompt_secs.max(1e-9)
    }

    /// Tokens written per second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.tokens as f64 / self.secs.max(1e-9)
    }
}

impl Generator<'_> {
    /// Generates as [`Generator::generate`] does and gives text: whole characters, to `on_text` as they come, up to the
    /// first of `stops`. `on_text` is called after every step, with an empty text where there is none to show, and ends the
    /// answer by breaking.
    ///
    /// # Errors
    /// Those of [`Generator::generate`].
    pub fn answer(
        &mut self,
        tokenizer: &Tokenizer,
        request: Request<'_>,
        stops: &[String],
        mut on_text: impl FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Answer, Error> {
        let prompt = request.prompt;
        // A constraint has seen every byte, a space at the start too.
        let mut stream = match request.constraint {
            None => tokenizer.decode_stream_after(prompt),
            Some(_) => tokenizer.decode_stream(),
        };
        let mut stop = StopText::new(stops.to_vec());
        let mut text = String::new();
        let known = self.tokens().iter().zip(prompt).take_while(|(a, b)| a == b).count();
        let asked = Instant::now();
        let mut began = asked;
        let generated = self.generate(request, |step| {
            let piece = match step {
                Step::Prompt { .. } => {
                    began = Instant::now();
                    String::new()
                }
                Step::Token(token) => stop.push(&stream.push(token)),
            };
            text.push_str(&piece);
            match (on_text(&piece), stop.found()) {
                (_, true) => ControlFlow::Break(Finish::StopString),
                (ControlFlow::Break(()), false) => ControlFlow::Break(Finish::Interrupted),
                _ => ControlFlow::Continue(()),
            }
        })?;
        let secs = began.elapsed().as_secs_f64();
        let mut rest = stop.push(&stream.finish());
        // The last, incomplete character may have made it whole.
        let finish = if stop.found() { Finish::StopString } else { generated.finish };
        rest += &stop.finish();
        text.push_str(&rest);
        let _ = on_text(&rest);
        Ok(Answer {
            text,
            finish,
            has_form: generated.has_form,
            prompt_tokens: prompt.len(),
            computed_tokens: prompt.len() - known.min(prompt.len() - 1),
            tokens: generated.tokens.len(),
            drafted: generated.drafted,
            accepted: generated.accepted,
            prompt_secs: began.duration_since(asked).as_secs_f64(),
            secs,
        })
    }
}
