//! Queries and keys turned by their position, in place.

use super::CHUNK_ROWS;
use super::qk_norm_rope::{Heads, RopeTable};
use super::rms_norm::reciprocal_rms;
use crate::Cpu;
use crate::simd::{for_lanes, kernel, load, store};
use crate::threads::Parts;

/// Weights that query heads and key heads are multiplied with once they are normalised.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HeadNorms<'a> {
    pub(crate) query: &'a [f32],
    pub(crate) key: &'a [f32],
    pub(crate) eps: f32,
}

/// Turns the query and key heads of rows `[queries | keys | values]`, the first of which is at position `first`;
/// normalises them before that if there are `norms`. Coordinates beyond those of the table are left alone.
pub(crate) fn rotate(
    cpu: &Cpu,
    heads: Heads,
    norms: Option<HeadNorms<'_>>,
    rope: &RopeTable,
    first: usize,
    qkv: &mut [f32],
) {
    let _span = cpu.profile.span("rotation: forward", 0, 2 * size_of_val(qkv));
    let cols = heads.qkv_cols();
    let rows = qkv.len() / cols;
    let qkv = Parts::new(qkv);
    cpu.threads.run_ranges(rows, CHUNK_ROWS, |range| {
        for row in range {
            // SAFETY: every row is changed by one task.
            let x = unsafe { qkv.part(row * cols..row * cols + heads.qk_cols()) };
            rotate_row(cpu.isa, heads, norms, rope.at((first + row) as u32), x);
        }
    });
}

kernel! {
    fn rotate_row(s, heads: Heads, norms: Option<HeadNorms<'_>>, turn: (&[f32], &[f32]), x: &mut [f32]) {
        let (cos, sin) = turn;
        let half = cos.len();
        for (head, x) in x.chunks_exact_mut(heads.dim).enumerate() {
            if let Some(norms) = norms {
                let weight = if head < heads.query { norms.query } else { norms.key };
                let factor = s.splat(reciprocal_rms(s, &*x, norms.eps));
                for_lanes!(s, x.len(), |i, n| {
                    let normed = s.mul(s.mul(load(s, x, i, n), factor), load(s, weight, i, n));
                    store(s, normed, x, i, n);
                });
            }
            for_lanes!(s, half, |i, n| {
                let (first, second) = (load(s, x, i, n), load(s, x, half + i, n));
                let (cos, sin) = (load(s, cos, i, n), load(s, sin, i, n));
                store(s, s.sub(s.mul(first, cos), s.mul(second, sin)), x, i, n);
                store(s, s.add(s.mul(second, cos), s.mul(first, sin)), x, half + i, n);
            });
        }
    }
}
