//! Fused operators for small language models, forward and backward, on the CPU.
//!
//! A model calls operators on a [`Tape`]; the tape runs them at once and remembers what the way back needs.
//! There is no general array library underneath: each operator is one pass written for what a transformer
//! does, in f32 or in bf16 with f32 sums, for AVX-512, AVX2, AMX tiles or plain Rust ([`Isa`]), chosen when
//! the program starts.
//!
//! Two promises hold for all of them. Results are the same bytes for any number of [`Threads`], since every
//! sum has a fixed order. And a token's result does not depend on which other tokens are computed with it, so
//! that a prompt read at once and token by token gives the same text.
//!
//! ```
//! use elmwood_engine::{Arena, Batch, Cpu, Dtype, Gradients, LossGradient, Parameters, Tape};
//!
//! // The smallest language model: an embedding, a norm, and the embedding again as output.
//! let mut parameters = Parameters::new();
//! let embedding = parameters.add(4, 2, &[1.0, 0.0, 0.0, 1.0, -1.0, 0.0, 0.0, -1.0]);
//! let norm = parameters.add(1, 2, &[1.0, 1.0]);
//! let mut batch = Batch::new(3);
//! batch.push_document(&[0, 1, 2]);
//!
//! let (cpu, mut arena) = (Cpu::new(0)?, Arena::default());
//! let mut gradients = Gradients::new(&parameters);
//! let mut tape = Tape::recording(&cpu, &mut arena, &parameters, &batch, Dtype::F32);
//! let x = tape.embedding(embedding);
//! let hidden = tape.rms_norm(x, norm, 1e-6);
//! let gradient = LossGradient { gradients: &mut gradients, z: 0.0, grad_scale: 1.0 };
//! let loss = tape.cross_entropy(hidden, embedding, &mut [0.0; 3], Some(gradient));
//! tape.backward(&mut gradients);
//! assert_eq!(loss.targets, 2);
//! assert!(gradients.norm(&cpu) > 0.0);
//! # Ok::<(), elmwood_engine::IsaError>(())
//! ```
#![allow(unsafe_code, reason = "SIMD, tile instructions and the thread pool live here")]

mod amx;
mod arena;
mod batch;
mod elementwise;
mod frozen;
mod interleaved;
mod matmul;
pub mod measure;
mod memory;
mod ops;
mod parameters;
mod pass;
mod peak;
mod profile;
pub mod quant;
mod simd;
mod tape;
mod tensor;
mod threads;

#[cfg(test)]
mod testing;

pub use arena::Arena;
pub use batch::Batch;
pub use frozen::{FrozenParameters, RowFormat};
pub use interleaved::QuantMatrix;
pub use ops::adamw::AdamW;
pub use ops::attention::{AttentionCache, CacheFormat, SparseBlocks};
pub use ops::cross_entropy::{Loss, NO_TARGET};
pub use ops::muon::Muon;
pub use ops::qk_norm_rope::{Heads, RopeTable};
pub use parameters::{Gradients, Moments, ParameterId, Parameters};
pub use pass::{AttentionPlan, Gate, Linear, Norm, Pass};
pub use peak::{bandwidth_gbs, int8_peak_gops, peak_gflops, read_gbs};
pub use profile::{Entry, Profile, Span};
pub use simd::{Element, Isa, IsaError};
pub use tape::{AttentionLayer, LossGradient, PackedParameters, Tape, Var};
pub use tensor::{Dtype, Tensor};
pub use threads::Threads;

/// The machine: its instruction set and the threads to use.
#[derive(Debug)]
pub struct Cpu {
    pub(crate) isa: Isa,
    pub(crate) threads: Threads,
    pub(crate) profile: Profile,
}

impl Cpu {
    /// The widest instruction set of this machine (or the one that `ELMWOOD_ISA` names) on `threads`
    /// threads, the caller's among them; all cores if 0.
    ///
    /// # Errors
    /// [`IsaError`] if the variable names an instruction set that is not there.
    pub fn new(threads: usize) -> Result<Self, IsaError> {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self::with(Isa::detect()?, if threads == 0 { cores() } else { threads }))
    }

    /// A given instruction set on `threads` threads.
    #[must_use]
    pub fn with(isa: Isa, threads: usize) -> Self {
        Self { isa, threads: Threads::new(threads), profile: Profile::default() }
    }

    /// The instruction set in use.
    #[must_use]
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// The threads in use.
    #[must_use]
    pub fn threads(&self) -> &Threads {
        &self.threads
    }

    /// Where the time goes, while it is switched on.
    #[must_use]
    pub fn profile(&self) -> &Profile {
        &self.profile
    }
}
