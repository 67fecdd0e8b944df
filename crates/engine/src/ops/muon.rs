//! One step of Muon: the momentum of a matrix, made orthogonal before it is taken.
//!
//! Jordan et al. 2024 (<https://kellerjordan.github.io/posts/muon/>), with the scale and the decay of Liu et al.
//! 2025 (arXiv:2502.16982, equation 4), which `torch.optim.Muon` calls `match_rms_adamw`:
//!
//! ```text
//! m = μ·m + (1−μ)·g          u = μ·m + (1−μ)·g                        (Nesterov)
//! X = u / |u|                X = (a·I + b·X·Xᵀ + c·(X·Xᵀ)²)·X         (five times)
//! w = w·(1 − lr·decay) − lr · 0.2·sqrt(max(rows, cols)) · X
//! ```
//!
//! With `u = U·S·Vᵀ`, each round applies the polynomial `a·s + b·s³ + c·s⁵` to the singular values and leaves
//! `U` and `V` alone; five rounds bring all but the smallest to somewhere between 0.7 and 1.2, so that `X` is
//! about `U·Vᵀ`. Its entries then have a root mean square of `1/sqrt(max(rows, cols))` at full rank, and the
//! factor makes it 0.2, which is what steps of AdamW have: both can share a learning rate and a decay.
//!
//! A matrix that is taller than wide is multiplied from the other side, `X·(a·I + b·Xᵀ·X + c·(Xᵀ·X)²)`, which
//! is the same and keeps the square matrices as small as they can be; nothing is transposed.

use crate::matmul::{Output, PackedMatrix, Precision, Source, multiply};
use crate::ops::adamw::squared_norm;
use crate::simd::{Element, for_lanes, kernel, load, store};
use crate::threads::Parts;
use crate::{Arena, Cpu, Dtype, Tensor};

/// The polynomial, chosen by Jordan et al. to be steep at zero; it does not converge to 1 and need not.
const COEFFICIENTS: [f32; 3] = [3.4445, -4.7750, 2.0315];
/// Rounds of the iteration.
const ROUNDS: usize = 5;
/// The least length that is divided by.
const EPS: f64 = 1e-7;
/// The root mean square of AdamW's steps, as Liu et al. observed it.
const RMS_OF_ADAMW: f64 = 0.2;
/// Elements of one task.
const GRAIN: usize = 1 << 14;

/// The settings of one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Muon {
    /// Learning rate, on the scale of AdamW's.
    pub lr: f32,
    /// Decay of the mean of gradients.
    pub momentum: f32,
    /// Decoupled weight decay, per unit of learning rate.
    pub weight_decay: f32,
    /// What the products of the iteration are taken in; sums are f32.
    pub dtype: Dtype,
}

/// Updates `w[rows, cols]` and its mean of gradients `m` from `g · grad_scale`.
#[expect(clippy::too_many_arguments, reason = "a step takes its operands and sizes flat")]
pub(crate) fn step(
    cpu: &Cpu,
    arena: &mut Arena,
    settings: &Muon,
    grad_scale: f32,
    [rows, cols]: [usize; 2],
    g: &[f32],
    w: &mut [f32],
    m: &mut [f32],
) {
    let _span = cpu.profile.span("muon: passes", 0, 7 * size_of_val(g));
    let Muon { lr, momentum, weight_decay, dtype } = *settings;
    let mut update = arena.tensor(rows, cols, Dtype::F32);
    let (means, updates) = (Parts::new(m), Parts::new(update.f32_mut()));
    cpu.threads.run_ranges(g.len(), GRAIN, |range| {
        // SAFETY: every range is updated by one task.
        let (m, u) = unsafe { (means.part(range.clone()), updates.part(range.clone())) };
        nesterov(cpu.isa, momentum, grad_scale, &g[range], m, u);
    });

    let update = orthogonal(cpu, arena, update, dtype);

    let keep = (1.0 - f64::from(lr) * f64::from(weight_decay)) as f32;
    let rate = -(f64::from(lr) * RMS_OF_ADAMW * (rows.max(cols) as f64).sqrt()) as f32;
    let w = Parts::new(w);
    cpu.threads.run_ranges(w.len(), GRAIN, |range| {
        // SAFETY: every range is updated by one task.
        take(cpu.isa, keep, rate, &update.f32()[range.clone()], unsafe { w.part(range) });
    });
}

/// The nearest matrix with orthogonal rows or columns, about: [`ROUNDS`] of Newton-Schulz. f32 to f32.
pub(super) fn orthogonal(cpu: &Cpu, arena: &mut Arena, x: Tensor, dtype: Dtype) -> Tensor {
    let factor = (1.0 / squared_norm(cpu, x.f32()).sqrt().max(EPS)) as f32;
    let mut scaled = arena.tensor(x.rows(), x.cols(), dtype);
    match dtype {
        Dtype::F32 => multiples(cpu, factor, x.f32(), scaled.as_mut_slice::<f32>()),
        Dtype::Bf16 => multiples(cpu, factor, x.f32(), scaled.as_mut_slice::<half::bf16>()),
    }
    drop(x);
    let mut x = scaled;
    for round in 1..=ROUNDS {
        // What follows the last product is f32, so there is nothing to round it for.
        x = newton_schulz(cpu, arena, &x, dtype, if round < ROUNDS { dtype } else { Dtype::F32 });
    }
    x
}

/// One round: `(a·I + b·X·Xᵀ + c·(X·Xᵀ)²)·X`, or the same from the right where that is the smaller square.
/// Products are taken in `dtype`, and the result is of type `out`.
pub(super) fn newton_schulz(cpu: &Cpu, arena: &mut Arena, x: &Tensor, dtype: Dtype, out: Dtype) -> Tensor {
    let precision = Precision::from(dtype);
    let (rows, cols) = (x.rows(), x.cols());
    let wide = rows <= cols;
    let (n, k) = (rows.min(cols), rows.max(cols));
    let outer = if wide { Source::along_cols(x, cols) } else { Source::along_rows(x, cols) };

    let mut gram = arena.tensor(n, n, Dtype::F32);
    let packed = PackedMatrix::new(cpu, arena, &outer, n, k, precision);
    multiply(cpu, "muon: products", &outer, n, &packed, Output::F32(gram.f32_mut()));
    drop(packed);

    // All of these are symmetric, so it does not matter which way round they are read.
    let mut square = arena.tensor(n, n, Dtype::F32);
    let packed = PackedMatrix::new(cpu, arena, &Source::along_cols(&gram, n), n, n, precision);
    multiply(cpu, "muon: products", &Source::along_cols(&gram, n), n, &packed, Output::F32(square.f32_mut()));
    drop(packed);

    let mut factor = square;
    let parts = Parts::new(factor.f32_mut());
    cpu.threads.run_ranges(n, GRAIN.div_ceil(n.max(1)), |rows| {
        // SAFETY: every row is written by one task.
        let factor = unsafe { parts.part(rows.start * n..rows.end * n) };
        polynomial(cpu.isa, &gram.f32()[rows.start * n..rows.end * n], factor);
        for (i, row) in rows.zip(factor.chunks_exact_mut(n)) {
            row[i] += COEFFICIENTS[0];
        }
    });
    drop(gram);

    let mut next = arena.tensor(rows, cols, out);
    let (left, packed) = if wide {
        let packed = PackedMatrix::new(cpu, arena, &Source::along_rows(x, cols), cols, n, precision);
        (Source::along_cols(&factor, n), packed)
    } else {
        let packed = PackedMatrix::new(cpu, arena, &Source::along_cols(&factor, n), n, n, precision);
        (Source::along_cols(x, cols), packed)
    };
    let output = match out {
        Dtype::F32 => Output::F32(next.f32_mut()),
        Dtype::Bf16 => Output::Bf16(next.as_mut_slice()),
    };
    multiply(cpu, "muon: products", &left, rows, &packed, output);
    next
}

/// `to = factor · from`.
fn multiples<E: Element>(cpu: &Cpu, factor: f32, from: &[f32], to: &mut [E]) {
    let to = Parts::new(to);
    cpu.threads.run_ranges(from.len(), GRAIN, |range| {
        // SAFETY: every range is written by one task.
        multiples_of(cpu.isa, factor, &from[range.clone()], unsafe { to.part(range) });
    });
}

kernel! {
    /// `m = μ·m + (1−μ)·g` and `u = μ·m + (1−μ)·g` with the new `m`, for `g · grad_scale`.
    fn nesterov(s, momentum: f32, grad_scale: f32, g: &[f32], m: &mut [f32], u: &mut [f32]) {
        let (scale, old, new) = (s.splat(grad_scale), s.splat(momentum), s.splat(1.0 - momentum));
        for_lanes!(s, g.len(), |i, n| {
            let g = s.mul(new, s.mul(load(s, g, i, n), scale));
            let mean = s.fma(old, load(s, m, i, n), g);
            store(s, mean, m, i, n);
            store(s, s.fma(old, mean, g), u, i, n);
        });
    }
}

kernel! {
    fn multiples_of[E: Element](s, factor: f32, from: &[f32], to: &mut [E]) {
        let factor = s.splat(factor);
        for_lanes!(s, from.len(), |i, n| { store(s, s.mul(load(s, from, i, n), factor), to, i, n); });
    }
}

kernel! {
    /// `square = b·gram + c·square`.
    fn polynomial(s, gram: &[f32], square: &mut [f32]) {
        let [_, b, c] = COEFFICIENTS.map(|x| s.splat(x));
        for_lanes!(s, gram.len(), |i, n| {
            let cubic = s.mul(b, load(s, gram, i, n));
            store(s, s.fma(c, load(s, square, i, n), cubic), square, i, n);
        });
    }
}

kernel! {
    /// `w = keep·w + rate·x`.
    fn take(s, keep: f32, rate: f32, x: &[f32], w: &mut [f32]) {
        let (keep, rate) = (s.splat(keep), s.splat(rate));
        for_lanes!(s, w.len(), |i, n| {
            store(s, s.fma(rate, load(s, x, i, n), s.mul(load(s, w, i, n), keep)), w, i, n);
        });
    }
}
