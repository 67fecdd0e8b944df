//! What a run is computed on.

use elmwood_engine::Cpu;

use crate::Error;

/// What a run is computed on, and how. It changes speed and memory, and not a bit of the result.
#[derive(Debug)]
pub struct Machine {
    /// Instruction set and threads; its profile tells where the time went.
    pub cpu: Cpu,
    /// Runs layers again on the way back instead of keeping what they computed: about a quarter more time for a
    /// fraction of the memory of activations.
    pub recompute: bool,
    /// Whether the steps are profiled.
    pub profile: bool,
}

impl Machine {
    /// `threads` threads, all cores if 0; everything is kept, nothing profiled.
    ///
    /// # Errors
    /// [`Error::Isa`] if the variable `ELMWOOD_ISA` names an instruction set that is not there.
    pub fn new(threads: usize) -> Result<Self, Error> {
        Ok(Self { cpu: Cpu::new(threads)?, recompute: false, profile: false })
    }
}
