//! Beam search: the likeliest text, not the likeliest token after each.

use std::ops::ControlFlow;

use crate::reader::Reader;
use crate::{Error, Finish, Generator, Step};

/// Most beams: each has a cache of its own.
const MAX_BEAMS: usize = 64;

/// What to search for.
#[derive(Debug, Clone, Copy)]
pub struct BeamSearch<'a> {
    /// The text to go on from.
    pub prompt: &'a [u32],
    /// Most tokens to generate.
    pub max_tokens: usize,
    /// Tokens that end a text and are not given out.
    pub ends: &'a [u32],
    /// Texts that are followed at once; each needs memory for keys and values.
    pub beams: usize,
    /// A text's score is its log-probability divided by the power of its length: 0 prefers short texts, 1 takes the mean,
    /// more prefers long ones.
    pub length_penalty: f32,
}

/// A text that was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Hypothesis {
    /// The tokens after the prompt, without the one that ended the text.
    pub tokens: Vec<u32>,
    /// Log-probability (nats) of all tokens, the end among them, divided by the power of their number.
    pub score: f64,
    /// Why there are no more.
    pub finish: Finish,
}

/// A text on the way: its tokens after the prompt, and their log-probability.
#[derive(Debug, Clone)]
struct Beam {
    tokens: Vec<u32>,
    log_probability: f64,
}

/// One more token for a beam.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    log_probability: f64,
    beam: usize,
    token: u32,
}

impl Generator<'_> {
    /// The best texts that were found, best first, at most as many as there are beams. Each step is told to `on_step`,
    /// with the last token of the best text on the way; where it breaks, what was found until then is given.
    ///
    /// The beams go on from one reading of the prompt; their caches have room for the prompt and `max_tokens`.
    ///
    /// # Errors
    /// [`Error`] for a prompt that cannot be continued, settings out of their range, or a model that gives no token a
    /// probability.
    ///
    /// # Source
    /// Scores, the choice among `beams` ended and unended candidates and the early end are those of `generate` in Hugging
    /// Face `transformers` 5, with `early_stopping=False`.
    pub fn beam_search(
        &mut self,
        search: &BeamSearch<'_>,
        mut on_step: impl FnMut(Step) -> ControlFlow<Finish>,
    ) -> Result<Vec<Hypothesis>, Error> {
        let BeamSearch { prompt, max_tokens, ends, beams, length_penalty } = *search;
        self.check(prompt)?;
        check_settings(beams, length_penalty)?;
        // The last token needs no room: nothing comes after it.
        let room = self.context() + 1 - prompt.len();
        let limit = max_tokens.min(room);
        let at_limit = if room < max_tokens { Finish::ContextFull } else { Finish::Length };
        let score = |log_probability: f64, length: usize| {
            log_probability / (length as f64).powf(f64::from(length_penalty))
        };
        let mut found: Vec<Hypothesis> = Vec::new();
        if self.read_prompt(prompt, &mut on_step).is_break() {
            return Ok(found);
        }
        let mut running = vec![Beam { tokens: Vec::new(), log_probability: 0.0 }];
        let mut readers: Vec<Reader<'_>> = (0..beams).map(|_| self.reader.fork()).collect();
        for length in 1..=limit {
            let candidates = candidates(&running, &readers, beams * (1 + ends.len()));
            if candidates.is_empty() {
                return Err(Error::NoToken { tokens: prompt.len() + length - 1 });
            }
            let mut next = Vec::new();
            for (rank, Candidate { log_probability, beam, token }) in candidates.into_iter().enumerate() {
                let mut tokens = running[beam].tokens.clone();
                let ended = ends.contains(&token);
                if !ended {
                    tokens.push(token);
                }
                if ended || length == limit {
                    if rank < beams {
                        let finish = if ended { Finish::EndToken } else { at_limit };
                        found.push(Hypothesis { tokens, score: score(log_probability, length), finish });
                    }
                } else if next.len() < beams {
                    next.push((beam, Beam { tokens, log_probability }));
                }
            }
            found.sort_by(|a, b| b.score.total_cmp(&a.score));
            found.truncate(beams);
            let Some((_, best)) = next.first() else { break };
            let worst = found.get(beams - 1).map_or(f64::NEG_INFINITY, |worst| worst.score);
            if score(best.log_probability, length) <= worst {
                break;
            }
            if on_step(Step::Token(token_of(best))).is_break() {
                break;
            }
            readers = assign(readers, &next);
            running = next.into_iter().map(|(_, beam)| beam).collect();
            for (reader, beam) in readers.iter_mut().zip(&running) {
                let text = [prompt, &beam.tokens].concat();
                reader.keep_common(&text);
                reader.read(&text[reader.text().len()..]);
            }
        }
        Ok(found)
    }
}

fn check_settings(beams: usize, length_penalty: f32) -> Result<(), Error> {
    if !(1..=MAX_BEAMS).contains(&beams) {
        return Err(Error::Setting { name: "beams", value: beams as f64, expected: "from 1 to 64" });
    }
    if !(-10.0..=10.0).contains(&length_penalty) {
        let value = f64::from(length_penalty);
        return Err(Error::Setting { name: "length_penalty", value, expected: "from -10 to 10" });
    }
    Ok(())
}

fn token_of(beam: &Beam) -> u32 {
    *beam.tokens.last().expect("a text on the way has a token")
}

/// The `most` likeliest ways to go on, likeliest first; of equally likely ones the earlier beam and the smaller token.
fn candidates(running: &[Beam], readers: &[Reader<'_>], most: usize) -> Vec<Candidate> {
    let mut all = Vec::new();
    for (beam, (text, reader)) in running.iter().zip(readers).enumerate() {
        let logits = reader.logits();
        let largest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        let sum: f64 =
            logits.iter().map(|x| f64::from(*x) - largest).filter(|x| !x.is_nan()).map(f64::exp).sum();
        let base = text.log_probability - largest - sum.ln();
        let ways = logits.iter().zip(0..).map(|(logit, token)| Candidate {
            log_probability: base + f64::from(*logit),
            beam,
            token,
        });
        all.extend(ways.filter(|way| way.log_probability.is_finite()));
    }
    let order = |a: &Candidate, b: &Candidate| {
        b.log_probability.total_cmp(&a.log_probability).then((a.beam, a.token).cmp(&(b.beam, b.token)))
    };
    if most < all.len() {
        all.select_nth_unstable_by(most, order);
        all.truncate(most);
    }
    all.sort_unstable_by(order);
    all
}

/// A reader for each beam: that of the beam it comes from if no other took it, else one of those that are left over, which
/// has to read again what the two do not have in common.
fn assign<'m>(readers: Vec<Reader<'m>>, next: &[(usize, Beam)]) -> Vec<Reader<'m>> {
    let mut free: Vec<Option<Reader<'m>>> = readers.into_iter().map(Some).collect();
    let mut taken: Vec<Option<Reader<'m>>> = next.iter().map(|(parent, _)| free[*parent].take()).collect();
    let mut left = free.into_iter().flatten();
    for place in taken.iter_mut().filter(|place| place.is_none()) {
        *place = left.next();
    }
    taken.into_iter().flatten().chain(left).collect()
}
