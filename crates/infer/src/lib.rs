//! Text from a model.
//!
//! A [`Generator`] keeps a model's keys and values, so that each new token costs one pass over the weights;
//! a [`Sampler`] chooses tokens from logits. Both are deterministic: the same prompt, settings and seed give
//! the same text for any number of threads.

mod generator;
mod sampler;

pub use generator::{Error, Generator, Step};
pub use sampler::{Sampler, Sampling};
