//! Queries and keys made ready for attention: normalised per head, then rotated by their position.
//!
//! Each head is divided by its root mean square and multiplied by one weight vector that all heads of the
//! layer share, *before* the rotation (OpenELM, arXiv:2404.14619, section 2.1). The rotation pairs
//! coordinate `j` with `j + head_dim / 2` ("rotate half") and turns the pair by `position · base^(−2j /
//! head_dim)` (Su et al. 2021, arXiv:2104.09864).

use super::rms_norm::reciprocal_rms;
use super::{CHUNK_ROWS, add_partials};
use crate::arena::Arena;
use crate::simd::{Element, for_lanes, kernel, load, store};
use crate::threads::Parts;
use crate::{Cpu, Dtype};

/// The widest head that the operators hold on the stack.
pub(crate) const MAX_HEAD_DIM: usize = 256;

/// Cosines and sines of every position and pair.
#[derive(Debug, Clone)]
pub struct RopeTable {
    /// `[positions, head_dim / 2]` cosines, then as many sines.
    cos: Vec<f32>,
    sin: Vec<f32>,
    half: usize,
}

impl RopeTable {
    /// For positions `0..positions` of heads of `head_dim` coordinates.
    ///
    /// # Panics
    /// If `head_dim` is odd or wider than 256.
    #[must_use]
    pub fn new(positions: usize, head_dim: usize, base: f64) -> Self {
        assert!(head_dim.is_multiple_of(2) && head_dim <= MAX_HEAD_DIM, "heads of {head_dim} coordinates");
        let frequency = |pair: usize| base.powf(-2.0 * pair as f64 / head_dim as f64) as f32;
        Self::with_frequencies(positions, &(0..head_dim / 2).map(frequency).collect::<Vec<_>>(), 1.0)
    }

    /// For positions `0..positions` of pairs turned by `position · frequency`, cosines and sines multiplied with
    /// `magnitude`.
    #[must_use]
    pub fn with_frequencies(positions: usize, frequencies: &[f32], magnitude: f32) -> Self {
        let half = frequencies.len();
        // Angles in f32, as the published models were trained with: frequency rounded, then product.
        let angle = |i: usize| f64::from((i / half) as f32 * frequencies[i % half]);
        let magnitude = f64::from(magnitude);
        let cos = (0..positions * half).map(|i| (angle(i).cos() * magnitude) as f32).collect();
        let sin = (0..positions * half).map(|i| (angle(i).sin() * magnitude) as f32).collect();
        Self { cos, sin, half }
    }

    /// Positions in the table.
    #[must_use]
    pub fn positions(&self) -> usize {
        self.cos.len() / self.half
    }

    pub(super) fn at(&self, position: u32) -> (&[f32], &[f32]) {
        let range = position as usize * self.half..(position as usize + 1) * self.half;
        (&self.cos[range.clone()], &self.sin[range])
    }
}

/// How a row of queries, keys and values is divided: all query heads, then all key heads, then all value
/// heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    /// Query heads.
    pub query: usize,
    /// Key heads, and as many value heads; divides `query`.
    pub kv: usize,
    /// Coordinates of each head.
    pub dim: usize,
}

impl Heads {
    /// Columns of queries, keys and values together.
    #[must_use]
    pub fn qkv_cols(self) -> usize {
        (self.query + 2 * self.kv) * self.dim
    }

    /// Columns of queries and keys.
    #[must_use]
    pub fn qk_cols(self) -> usize {
        (self.query + self.kv) * self.dim
    }
}

/// What stays the same for all tokens of a layer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layer<'a> {
    pub(crate) heads: Heads,
    pub(crate) q_weight: &'a [f32],
    pub(crate) k_weight: &'a [f32],
    pub(crate) eps: f32,
    pub(crate) rope: &'a RopeTable,
}

impl Layer<'_> {
    fn weight(&self, head: usize) -> &[f32] {
        if head < self.heads.query { self.q_weight } else { self.k_weight }
    }
}

/// `qk[tokens, (query + kv) · dim]` from `qkv`, and the reciprocal root mean square of every head.
pub(crate) fn forward<E: Element>(
    cpu: &Cpu,
    layer: &Layer<'_>,
    qkv: &[E],
    positions: &[u32],
    qk: &mut [E],
    r: &mut [f32],
) {
    let _span = cpu.profile.span("rotation: forward", 0, 2 * size_of_val(qk));
    let heads = layer.heads;
    let normed = heads.query + heads.kv;
    let (qk, r) = (Parts::new(qk), Parts::new(r));
    cpu.threads.run_ranges(positions.len(), CHUNK_ROWS, |rows| {
        for row in rows {
            // SAFETY: every row is written by one task.
            let (qk, r) = unsafe {
                (
                    qk.part(row * heads.qk_cols()..(row + 1) * heads.qk_cols()),
                    r.part(row * normed..(row + 1) * normed),
                )
            };
            let from = &qkv[row * heads.qkv_cols()..][..heads.qk_cols()];
            forward_row(cpu.isa, from, layer, layer.rope.at(positions[row]), qk, r);
        }
    });
}

kernel! {
    fn forward_row[E: Element](
        s, x: &[E], layer: &Layer<'_>, turn: (&[f32], &[f32]), y: &mut [E], r: &mut [f32],
    ) {
        let ((cos, sin), dim) = (turn, layer.heads.dim);
        let half = cos.len();
        for (head, r) in r.iter_mut().enumerate() {
            let (x, y) = (&x[head * dim..(head + 1) * dim], &mut y[head * dim..(head + 1) * dim]);
            let weight = layer.weight(head);
            *r = reciprocal_rms(s, x, layer.eps);
            let factor = s.splat(*r);
            for_lanes!(s, half, |i, n| {
                let first = s.mul(s.mul(load(s, x, i, n), factor), load(s, weight, i, n));
                let second = s.mul(s.mul(load(s, x, half + i, n), factor), load(s, weight, half + i, n));
                let (cos, sin) = (load(s, cos, i, n), load(s, sin, i, n));
                store(s, s.sub(s.mul(first, cos), s.mul(second, sin)), y, i, n);
                store(s, s.add(s.mul(second, cos), s.mul(first, sin)), y, half + i, n);
            });
        }
    }
}

/// Writes the query and key columns of `dqkv`; adds to the weights' gradients (or overwrites them where
/// `fresh`).
#[expect(clippy::too_many_arguments, reason = "everything the way back needs")]
pub(crate) fn backward<E: Element>(
    cpu: &Cpu,
    arena: &mut Arena,
    layer: &Layer<'_>,
    dqk: &[E],
    qkv: &[E],
    positions: &[u32],
    r: &[f32],
    dqkv: &mut [E],
    dweights: [&mut [f32]; 2],
    fresh: [bool; 2],
) {
    let _span = cpu.profile.span("rotation: backward", 0, 3 * size_of_val(dqk));
    let heads = layer.heads;
    let normed = heads.query + heads.kv;
    let chunks = positions.len().div_ceil(CHUNK_ROWS);
    let mut partials =
        [arena.tensor(chunks, heads.dim, Dtype::F32), arena.tensor(chunks, heads.dim, Dtype::F32)];
    {
        let dqkv = Parts::new(dqkv);
        let [q_partials, k_partials] = &mut partials;
        let (q_partials, k_partials) = (Parts::new(q_partials.f32_mut()), Parts::new(k_partials.f32_mut()));
        cpu.threads.run_ranges(positions.len(), CHUNK_ROWS, |rows| {
            let chunk = rows.start / CHUNK_ROWS;
            let range = chunk * heads.dim..(chunk + 1) * heads.dim;
            // SAFETY: every chunk has partial sums of its own.
            let mut dw = unsafe { [q_partials.part(range.clone()), k_partials.part(range)] };
            dw[0].fill(0.0);
            dw[1].fill(0.0);
            for row in rows {
                let start = row * heads.qkv_cols();
                // SAFETY: every row is written by one task.
                let dx = unsafe { dqkv.part(start..start + heads.qk_cols()) };
                let dy = &dqk[row * heads.qk_cols()..][..heads.qk_cols()];
                let x = &qkv[start..][..heads.qk_cols()];
                let r = &r[row * normed..(row + 1) * normed];
                backward_row(cpu.isa, dy, x, layer, r, layer.rope.at(positions[row]), dx, &mut dw);
            }
        });
    }
    for ((partials, dweight), fresh) in partials.into_iter().zip(dweights).zip(fresh) {
        add_partials(cpu, partials.f32(), dweight, fresh);
    }
}

kernel! {
    fn backward_row[E: Element](
        s, dy: &[E], x: &[E], layer: &Layer<'_>, r: &[f32], turn: (&[f32], &[f32]), dx: &mut [E],
        dweights: &mut [&mut [f32]; 2],
    ) {
        let ((cos, sin), dim) = (turn, layer.heads.dim);
        let half = cos.len();
        // The gradient before the rotation: turned back by the same angle.
        let mut turned = [0.0_f32; MAX_HEAD_DIM];
        let turned = &mut turned[..dim];
        for (head, &r) in r.iter().enumerate() {
            let range = head * dim..(head + 1) * dim;
            let (dy, x, dx) = (&dy[range.clone()], &x[range.clone()], &mut dx[range]);
            let (weight, dweight) = (layer.weight(head), &mut *dweights[usize::from(head >= layer.heads.query)]);
            let mut dot = s.splat(0.0);
            for_lanes!(s, half, |i, n| {
                let (first, second) = (load(s, dy, i, n), load(s, dy, half + i, n));
                let (cos, sin) = (load(s, cos, i, n), load(s, sin, i, n));
                let first_back = s.add(s.mul(first, cos), s.mul(second, sin));
                let second_back = s.sub(s.mul(second, cos), s.mul(first, sin));
                store(s, first_back, turned, i, n);
                store(s, second_back, turned, half + i, n);
                dot = s.fma(s.mul(first_back, load(s, weight, i, n)), load(s, x, i, n), dot);
                dot = s.fma(s.mul(second_back, load(s, weight, half + i, n)), load(s, x, half + i, n), dot);
            });
            let pull = s.splat(-(s.sum(dot) / x.len() as f32) * r * r * r);
            let factor = s.splat(r);
            for_lanes!(s, dim, |i, n| {
                let (x, dy) = (load(s, x, i, n), load(s, turned, i, n));
                let g = s.mul(s.mul(dy, load(s, weight, i, n)), factor);
                store(s, s.fma(x, pull, g), dx, i, n);
                store(s, s.fma(dy, s.mul(x, factor), load(s, dweight, i, n)), dweight, i, n);
            });
        }
    }
}
