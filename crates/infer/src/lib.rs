//! Text from a model.
//!
//! A [`Generator`] keeps a model's keys and values, so that each new token costs one pass over the weights;
//! a [`Sampler`] chooses tokens from logits, a [`Constraint`] says which there are to choose from, and [`StopText`] where
//! the text ends. All are deterministic: the same prompt, settings and seed give the same text for any number of threads.
//! [`perplexity`] tells how well a model predicts a text.

mod answer;
mod generator;
mod reader;

mod beam;
mod embedding;
mod perplexity;

mod constraint;
mod draft;
mod json_schema;
mod penalties;
mod sampler;
mod stop_text;

mod error;

pub use answer::Answer;
pub use beam::{BeamSearch, Hypothesis};
pub use constraint::{Constraint, Form, Mask, Vocabulary};
pub use embedding::{Pool, embed, normalize};
pub use error::Error;
pub use generator::{Finish, Generated, Generator, Request, Step};
pub use perplexity::{Perplexity, Windows, perplexity};
pub use sampler::{Sampler, Sampling};
pub use stop_text::StopText;
