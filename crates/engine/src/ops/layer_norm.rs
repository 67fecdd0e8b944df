//! Layer normalisation: `y = (x − mean) / sqrt(variance + eps) · weight + bias` (Ba et al. 2016, arXiv:1607.06450).

use super::CHUNK_ROWS;
use crate::Cpu;
use crate::simd::{for_lanes, kernel, load, store};
use crate::threads::Parts;

/// Rows as wide as `weight` and `bias`.
pub(crate) fn forward(cpu: &Cpu, x: &[f32], weight: &[f32], bias: &[f32], eps: f32, y: &mut [f32]) {
    let _span = cpu.profile.span("norm: forward", 0, 2 * size_of_val(x));
    let features = weight.len();
    let y = Parts::new(y);
    cpu.threads.run_ranges(x.len() / features, CHUNK_ROWS, |rows| {
        for row in rows {
            let range = row * features..(row + 1) * features;
            // SAFETY: every row is written by one task.
            forward_row(cpu.isa, &x[range.clone()], weight, bias, eps, unsafe { y.part(range) });
        }
    });
}

kernel! {
    fn forward_row(s, x: &[f32], weight: &[f32], bias: &[f32], eps: f32, y: &mut [f32]) {
        let mut sum = s.splat(0.0);
        for_lanes!(s, x.len(), |i, n| { sum = s.add(sum, load(s, x, i, n)); });
        let mean = s.splat(s.sum(sum) / x.len() as f32);
        let mut squares = s.splat(0.0);
        for_lanes!(s, x.len(), |i, n| {
            let apart = s.sub(load(s, x, i, n), mean);
            store(s, apart, y, i, n);
            // Lanes that are not in use hold the mean, with the other sign, and must not count.
            let apart = load(s, y, i, n);
            squares = s.fma(apart, apart, squares);
        });
        let variance = s.sum(squares) / x.len() as f32;
        let factor = s.splat(if variance == f32::INFINITY { f32::NAN } else { 1.0 / (variance + eps).sqrt() });
        for_lanes!(s, x.len(), |i, n| {
            let normed = s.mul(load(s, y, i, n), factor);
            store(s, s.fma(normed, load(s, weight, i, n), load(s, bias, i, n)), y, i, n);
        });
    }
}
