//! Root-mean-square normalisation over the features.
//!
//! `y = x · r · weight`, `r = 1 / sqrt(mean(x²) + eps)`, all in f32 (Zhang and Sennrich 2019,
//! arXiv:1910.07467, eq. 4, with `eps` as in Llama). Backward, with `g = dy · weight`:
//! `dx = r · (g − x · r² · mean(g · x))` and `dweight = sum over tokens of dy · x · r`.

use super::{CHUNK_ROWS, add_partials};
use crate::arena::Arena;
use crate::simd::{Element, Simd, for_lanes, kernel, load, store};
use crate::threads::Parts;
use crate::{Cpu, Dtype};

/// `y[tokens, features]`, and `r[tokens]` where there is a way back.
pub(crate) fn forward<E: Element>(
    cpu: &Cpu,
    x: &[f32],
    weight: &[f32],
    eps: f32,
    y: &mut [E],
    r: Option<&mut [f32]>,
) {
    let _span = cpu.profile.span("norm: forward", 0, size_of_val(x) + size_of_val(y));
    let features = weight.len();
    let (y, r_parts) = (Parts::new(y), r.map(Parts::new));
    cpu.threads.run_ranges(y.len() / features, CHUNK_ROWS, |rows| {
        for row in rows {
            let range = row * features..(row + 1) * features;
            // SAFETY: every row is written by one task.
            let y = unsafe { y.part(range.clone()) };
            let r = forward_row(cpu.isa, &x[range], weight, eps, y);
            if let Some(all) = &r_parts {
                // SAFETY: as above.
                let at = unsafe { all.part(row..row + 1) };
                at[0] = r;
            }
        }
    });
}

kernel! {
    fn forward_row[E: Element](s, x: &[f32], weight: &[f32], eps: f32, y: &mut [E]) -> f32 {
        let r = reciprocal_rms(s, x, eps);
        let factor = s.splat(r);
        for_lanes!(s, x.len(), |i, n| {
            let normed = s.mul(load(s, x, i, n), factor);
            store(s, s.mul(normed, load(s, weight, i, n)), y, i, n);
        });
        r
    }
}

/// `1 / sqrt(mean(x²) + eps)`; NaN where the squares overflow, which otherwise would turn the largest rows
/// into zeros.
#[inline(always)]
pub(super) fn reciprocal_rms<S: Simd, E: Element>(s: S, x: &[E], eps: f32) -> f32 {
    let mut squares = s.splat(0.0);
    for_lanes!(s, x.len(), |i, n| {
        let x = load(s, x, i, n);
        squares = s.fma(x, x, squares);
    });
    let mean = s.sum(squares) / x.len() as f32;
    if mean == f32::INFINITY { f32::NAN } else { 1.0 / (mean + eps).sqrt() }
}

/// Adds to `dx` and `dweight` (or overwrites `dweight` where `fresh`).
#[expect(clippy::too_many_arguments, reason = "everything the way back needs")]
pub(crate) fn backward<E: Element>(
    cpu: &Cpu,
    arena: &mut Arena,
    dy: &[E],
    x: &[f32],
    weight: &[f32],
    r: &[f32],
    dx: &mut [f32],
    dweight: &mut [f32],
    fresh: bool,
) {
    let bytes = size_of_val(dy) + size_of_val(x) + 2 * size_of_val(dx);
    let _span = cpu.profile.span("norm: backward", 0, bytes);
    let features = weight.len();
    let chunks = r.len().div_ceil(CHUNK_ROWS);
    let mut partials = arena.tensor(chunks, features, Dtype::F32);
    {
        let (dx, partials) = (Parts::new(dx), Parts::new(partials.f32_mut()));
        cpu.threads.run_ranges(r.len(), CHUNK_ROWS, |rows| {
            let chunk = rows.start / CHUNK_ROWS;
            // SAFETY: every chunk has a partial sum of its own.
            let partial = unsafe { partials.part(chunk * features..(chunk + 1) * features) };
            partial.fill(0.0);
            for row in rows {
                let range = row * features..(row + 1) * features;
                // SAFETY: every row is written by one task.
                let dx = unsafe { dx.part(range.clone()) };
                backward_row(cpu.isa, &dy[range.clone()], &x[range], weight, r[row], dx, partial);
            }
        });
    }
    add_partials(cpu, partials.f32(), dweight, fresh);
}

kernel! {
    fn backward_row[E: Element](s, dy: &[E], x: &[f32], weight: &[f32], r: f32, dx: &mut [f32], dweight: &mut [f32]) {
        let mut dot = s.splat(0.0);
        for_lanes!(s, x.len(), |i, n| {
            let g = s.mul(load(s, dy, i, n), load(s, weight, i, n));
            dot = s.fma(g, load(s, x, i, n), dot);
        });
        let pull = s.splat(-(s.sum(dot) / x.len() as f32) * r * r * r);
        let factor = s.splat(r);
        for_lanes!(s, x.len(), |i, n| {
            let (x, dy) = (load(s, x, i, n), load(s, dy, i, n));
            let g = s.mul(s.mul(dy, load(s, weight, i, n)), factor);
            let d = s.add(load(s, dx, i, n), s.fma(x, pull, g));
            store(s, d, dx, i, n);
            let dw = s.fma(dy, s.mul(x, factor), load(s, dweight, i, n));
            store(s, dw, dweight, i, n);
        });
    }
}
