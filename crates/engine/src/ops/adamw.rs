//! One step of AdamW in one pass over parameter, gradient and both moments.
//!
//! Loshchilov and Hutter 2019 (arXiv:1711.05101), decay decoupled and scaled by the learning rate as in
//! PyTorch:
//!
//! ```text
//! m = β1·m + (1−β1)·g        v = β2·v + (1−β2)·g²
//! w = w·(1 − lr·decay) − lr/(1−β1^t) · m / (sqrt(v/(1−β2^t)) + eps)
//! ```

use crate::Cpu;
use crate::elementwise::sum_of_squares;
use crate::simd::{for_lanes, kernel, load, store};
use crate::threads::Parts;

/// Elements of one task.
const GRAIN: usize = 1 << 14;
/// Elements of one partial sum of squares.
const SQUARES_GRAIN: usize = 1 << 12;

/// The settings of one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    /// Learning rate.
    pub lr: f32,
    /// Decay of the mean of gradients.
    pub beta1: f32,
    /// Decay of the mean of squared gradients.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Decoupled weight decay, per unit of learning rate.
    pub weight_decay: f32,
    /// The number of this step, from 1.
    pub step: u64,
}

/// Updates `w`, `m` and `v` from `g · grad_scale`.
pub(crate) fn step(
    cpu: &Cpu,
    settings: &AdamW,
    grad_scale: f32,
    g: &[f32],
    w: &mut [f32],
    m: &mut [f32],
    v: &mut [f32],
) {
    let _span = cpu.profile.span("adamw", 0, 7 * size_of_val(g));
    let (w, m, v) = (Parts::new(w), Parts::new(m), Parts::new(v));
    cpu.threads.run_ranges(g.len(), GRAIN, |range| {
        // SAFETY: every range is updated by one task.
        let (w, m, v) = unsafe { (w.part(range.clone()), m.part(range.clone()), v.part(range.clone())) };
        update(cpu.isa, settings, grad_scale, &g[range], w, m, v);
    });
}

kernel! {
    fn update(s, settings: &AdamW, grad_scale: f32, g: &[f32], w: &mut [f32], m: &mut [f32], v: &mut [f32]) {
        let AdamW { lr, beta1, beta2, eps, weight_decay, step } = *settings;
        let correct = |beta: f32| 1.0 - f64::from(beta).powf(step as f64);
        let keep = s.splat((1.0 - f64::from(lr) * f64::from(weight_decay)) as f32);
        let rate = s.splat(-(f64::from(lr) / correct(beta1)) as f32);
        let v_factor = s.splat((1.0 / correct(beta2)) as f32);
        let (b1, c1) = (s.splat(beta1), s.splat(1.0 - beta1));
        let (b2, c2) = (s.splat(beta2), s.splat(1.0 - beta2));
        let (scale, eps) = (s.splat(grad_scale), s.splat(eps));
        for_lanes!(s, g.len(), |i, n| {
            let g = s.mul(load(s, g, i, n), scale);
            let mean = s.fma(b1, load(s, m, i, n), s.mul(c1, g));
            let square = s.fma(b2, load(s, v, i, n), s.mul(c2, s.mul(g, g)));
            let step = s.div(mean, s.add(s.sqrt(s.mul(square, v_factor)), eps));
            store(s, s.fma(rate, step, s.mul(load(s, w, i, n), keep)), w, i, n);
            store(s, mean, m, i, n);
            store(s, square, v, i, n);
        });
    }
}

/// The sum of squares, in f64 over partial sums of 4,096 elements, in order.
pub(crate) fn squared_norm(cpu: &Cpu, g: &[f32]) -> f64 {
    let _span = cpu.profile.span("length of the gradient", 0, size_of_val(g));
    let mut partials = vec![0.0_f32; g.len().div_ceil(SQUARES_GRAIN)];
    let parts = Parts::new(&mut partials);
    cpu.threads.run_ranges(parts.len(), 8, |range| {
        for i in range {
            let end = ((i + 1) * SQUARES_GRAIN).min(g.len());
            // SAFETY: every partial sum is written by one task.
            let partial = unsafe { parts.part(i..i + 1) };
            partial[0] = sum_of_squares(cpu.isa, &g[i * SQUARES_GRAIN..end]);
        }
    });
    partials.iter().map(|x| f64::from(*x)).sum()
}
