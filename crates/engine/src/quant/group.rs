//! The scale, or scale and offset, of one group of weights: where the [`search`](super::search) looks.

use super::search::{Levels, Line, TRIES, Tries, extreme, fit_lines, fit_scales, inverse};

/// Where tries are, as multiples of a step around the middle: -1, -7/8, .. 7/8.
#[inline(always)]
fn spread(t: usize) -> f32 {
    (t as f32 - (TRIES / 2) as f32) / (TRIES / 2) as f32
}

/// The scale for which the levels come nearest to `x`, of either sign.
#[inline(always)]
pub(super) fn best_scale(levels: impl Levels, x: &[f32], w: &[f32]) -> f32 {
    let extreme = extreme(x);
    let (low, high) = levels.range();
    let mut best = (0.0, f32::INFINITY);
    // The extreme weight belongs at the end of the levels, or half a gap inside or outside of it.
    for end in [low, high] {
        let starts: Tries = std::array::from_fn(|t| {
            let beyond = (A0 + A1 * spread(t)) * levels.gap();
            extreme / (end + beyond * end.signum())
        });
        let found = fit_scales(levels, x, w, &starts);
        if found.1 < best.1 {
            best = found;
        }
    }
    for _ in 0..FINE {
        let starts: Tries = std::array::from_fn(|t| best.0 * (1.0 + F1 * spread(t) * levels.gap() / high));
        let found = fit_scales(levels, x, w, &starts);
        if found.1 < best.1 {
            best = found;
        }
    }
    best.0
}
pub(super) const A0: f32 = 0.2;
pub(super) const A1: f32 = 1.2;
pub(super) const F1: f32 = 0.1;
pub(super) const FINE: usize = 0;
pub(super) const FINE2: usize = 1;
pub(super) const G1: f32 = 0.5;
pub(super) const G2: f32 = 0.5;

/// The line for which the levels `0..=high` come nearest to `x`; with `below`, its offset is not above 0.
#[inline(always)]
pub(super) fn best_line(levels: impl Levels, x: &[f32], w: &[f32], below: bool) -> Line {
    let (mut min, mut max) = (x[0], x[0]);
    for &x in x {
        min = if x < min { x } else { min };
        max = if x > max { x } else { max };
    }
    if below && min > 0.0 {
        min = 0.0;
    }
    if max <= min {
        return Line { scale: 0.0, offset: min };
    }
    let (_, high) = levels.range();
    let starts =
        std::array::from_fn(|t| Line { scale: (max - min) / (high + A0 + A1 * spread(t)), offset: min });
    let mut best = fit_lines(levels, x, w, &starts, below);
    for _ in 0..FINE2 {
        let Line { scale, offset } = best.0;
        let starts = std::array::from_fn(|t| {
            let (i, j) = ((t / 4) as f32 - 1.5, (t % 4) as f32 - 1.5);
            // Wider or narrower around the middle, and shifted by a part of a step.
            let scale = scale * (1.0 + G1 * i / high);
            Line { scale, offset: offset + scale * (G2 * j) - G1 * i * scale * 0.5 }
        });
        let found = fit_lines(levels, x, w, &starts, below);
        if found.1 < best.1 {
            best = found;
        }
    }
    best.0
}

/// Number of the level of each weight, counted from `low`.
#[inline(always)]
pub(super) fn number(levels: impl Levels, x: &[f32], line: Line, q: &mut [u8]) {
    let inverse = inverse(line.scale);
    let (low, _) = levels.range();
    for (q, &x) in q.iter_mut().zip(x) {
        *q = (levels.nearest((x - line.offset) * inverse) - low) as u8;
    }
}
