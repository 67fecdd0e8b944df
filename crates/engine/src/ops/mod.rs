//! The operators, each forward and backward, on plain slices.
//!
//! Shapes are row-major: `tokens` rows, features along the columns. Sums over tokens (the gradients of
//! norm weights) are taken in chunks of a fixed number of rows and then added in order, so that the number
//! of threads changes nothing.

pub(crate) mod adamw;
pub(crate) mod attention;
pub(crate) mod cross_entropy;
pub(crate) mod embedding;
pub(crate) mod geglu;
pub(crate) mod layer_norm;
pub(crate) mod muon;
pub(crate) mod qk_norm_rope;
pub(crate) mod rms_norm;
pub(crate) mod rope;
pub(crate) mod swiglu;

/// Rows of one task of a row-wise operator, and of one partial sum over rows.
pub(crate) const CHUNK_ROWS: usize = 64;

/// Adds the rows of `partials` to `total` in order; overwrites `total` first where `fresh`.
pub(crate) fn add_partials(cpu: &crate::Cpu, partials: &[f32], total: &mut [f32], fresh: bool) {
    if fresh {
        total.fill(0.0);
    }
    for row in partials.chunks_exact(total.len().max(1)) {
        crate::elementwise::add_assign(cpu.isa, row, total);
    }
}

#[cfg(test)]
pub(crate) mod tests;
