//! Phi-3-small's gated activation: `a · σ(1.702 a) · (b + 1)` of rows `[a | b]`, both cut off at a limit.
//!
//! `a · σ(1.702 a)` is near to a GELU (Hendrycks and Gimpel 2016, arXiv:1606.08415). Infinite values are not cut off.

use super::CHUNK_ROWS;
use crate::Cpu;
use crate::simd::{for_lanes, kernel, load, sigmoid, store};
use crate::threads::Parts;

/// `x[tokens, 2 · features]` to `y[tokens, features]`.
pub(crate) fn forward(cpu: &Cpu, x: &[f32], features: usize, limit: f32, y: &mut [f32]) {
    let _span = cpu.profile.span("geglu: forward", 0, size_of_val(x) + size_of_val(y));
    let tokens = x.len() / (2 * features);
    let y = Parts::new(y);
    cpu.threads.run_ranges(tokens, CHUNK_ROWS, |rows| {
        for row in rows {
            let (a, b) = x[2 * row * features..][..2 * features].split_at(features);
            // SAFETY: every row is written by one task.
            forward_row(cpu.isa, a, b, limit, unsafe { y.part(row * features..(row + 1) * features) });
        }
    });
}

kernel! {
    fn forward_row(s, a: &[f32], b: &[f32], limit: f32, y: &mut [f32]) {
        let (high, low, one) = (s.splat(limit), s.splat(-limit), s.splat(1.0));
        for_lanes!(s, y.len(), |i, n| {
            let a = s.min(load(s, a, i, n), high);
            let b = s.max(s.min(load(s, b, i, n), high), low);
            let gate = s.mul(a, sigmoid(s, s.mul(a, s.splat(1.702))));
            store(s, s.mul(gate, s.add(b, one)), y, i, n);
        });
    }
}
