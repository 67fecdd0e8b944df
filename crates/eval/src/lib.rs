//! What a language model is worth, beside baselines that need no neural network.
//!
//! A model that does not beat `gzip` and a trigram on the same held-out text has learned nothing that
//! counting would not: [`gzip_bits_per_byte`] and [`Trigram`] say where that line is.

mod gzip;
mod ngram;

pub use gzip::gzip_bits_per_byte;
pub use ngram::Trigram;
