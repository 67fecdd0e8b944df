//! Text from a model.
//!
//! A [`Generator`] keeps a model's keys and values, so that each new token costs one pass over the weights;
//! a [`Sampler`] chooses tokens from logits. Both are deterministic: the same prompt, settings and seed give
//! the same text for any number of threads. [`perplexity`] tells how well a model predicts a text.

mod generator;
mod perplexity;
mod sampler;

pub use generator::{Error, Generator, Step};
pub use perplexity::{Perplexity, Windows, perplexity};
pub use sampler::{Sampler, Sampling};
