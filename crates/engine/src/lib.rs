//! Fused operators for small language models, forward and backward, on the CPU.
mod amx;
mod batch;
mod cache;
mod elementwise;
mod matmul;
mod ops;
mod parameters;
mod simd;
mod tape;
mod tensor;
mod threads;

#[cfg(test)]
mod testing;

pub use batch::Batch;
pub use cache::LayerCache;
pub use ops::adamw::AdamW;
pub use ops::cross_entropy::{Loss, NO_TARGET};
pub use ops::qk_norm_rope::{Heads, RopeTable};
pub use parameters::{Gradients, Moments, ParameterId, Parameters};
pub use simd::{Element, Isa, IsaError};
pub use tape::{AttentionLayer, LossGradient, PackedParameters, Tape, Var};
pub use tensor::{Arena, Dtype, Tensor};
pub use threads::Threads;

/// The machine: its instruction set and the threads to use.
#[derive(Debug)]
pub struct Cpu {
    pub(crate) isa: Isa,
    pub(crate) threads: Threads,
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
        Self { isa, threads: Threads::new(threads) }
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
}
