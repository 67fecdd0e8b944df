//! The gated activation of the feed-forward layer: `silu(a) · b`, where `[a | b]` is one row of the input.
//!
//! `silu(a) = a · σ(a)` (Shazeer 2020, arXiv:2002.05202); the gate `a` is the first half.

use super::CHUNK_ROWS;
use crate::Cpu;
use crate::simd::{Element, for_lanes, kernel, load, sigmoid, store};
use crate::threads::Parts;

/// `x[tokens, 2 · features]` to `y[tokens, features]`.
pub(crate) fn forward<E: Element>(cpu: &Cpu, x: &[E], features: usize, y: &mut [E]) {
    let _span = cpu.profile.span("swiglu: forward", 0, size_of_val(x) + size_of_val(y));
    let tokens = x.len() / (2 * features);
    let y = Parts::new(y);
    cpu.threads.run_ranges(tokens, CHUNK_ROWS, |rows| {
        for row in rows {
            let (a, b) = x[2 * row * features..][..2 * features].split_at(features);
            // SAFETY: every row is written by one task.
            forward_row(cpu.isa, a, b, unsafe { y.part(row * features..(row + 1) * features) });
        }
    });
}

kernel! {
    fn forward_row[E: Element](s, a: &[E], b: &[E], y: &mut [E]) {
        for_lanes!(s, y.len(), |i, n| {
            let a = load(s, a, i, n);
            let silu = s.mul(a, sigmoid(s, a));
            store(s, s.mul(silu, load(s, b, i, n)), y, i, n);
        });
    }
}

/// `dx[tokens, 2 · features]` from `dy[tokens, features]` and the input.
pub(crate) fn backward<E: Element>(cpu: &Cpu, dy: &[E], x: &[E], features: usize, dx: &mut [E]) {
    let bytes = size_of_val(dy) + size_of_val(x) + size_of_val(dx);
    let _span = cpu.profile.span("swiglu: backward", 0, bytes);
    let tokens = x.len() / (2 * features);
    let dx = Parts::new(dx);
    cpu.threads.run_ranges(tokens, CHUNK_ROWS, |rows| {
        for row in rows {
            let range = 2 * row * features..2 * (row + 1) * features;
            let (a, b) = x[range.clone()].split_at(features);
            // SAFETY: every row is written by one task.
            let (da, db) = unsafe { dx.part(range) }.split_at_mut(features);
            backward_row(cpu.isa, &dy[row * features..][..features], a, b, da, db);
        }
    });
}

kernel! {
    fn backward_row[E: Element](s, dy: &[E], a: &[E], b: &[E], da: &mut [E], db: &mut [E]) {
        let one = s.splat(1.0);
        for_lanes!(s, dy.len(), |i, n| {
            let (dy, a, b) = (load(s, dy, i, n), load(s, a, i, n), load(s, b, i, n));
            let gate = sigmoid(s, a);
            // silu'(a) = σ(a) · (1 + a · (1 − σ(a)))
            let slope = s.mul(gate, s.fma(a, s.sub(one, gate), one));
            store(s, s.mul(dy, s.mul(b, slope)), da, i, n);
            store(s, s.mul(dy, s.mul(a, gate)), db, i, n);
        });
    }
}
