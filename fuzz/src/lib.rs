//! What is done with hostile inputs: one function for each fuzz target. Tests of the crates include these files too.

pub mod model;
pub mod replay;
pub mod sampler;
pub mod small_gguf;
