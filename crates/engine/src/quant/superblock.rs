//! Blocks of 256 weights in groups: scales of groups are themselves whole multiples of the block's.

use half::f16;

use super::group::{best_line, best_scale};
use super::search::{Levels, Line, TRIES, Whole, clamp, errors, extreme, inverse, least, round};
use super::to_f16;

/// Groups that a block has at most.
pub(super) const MAX_GROUPS: usize = 16;

/// The scales of a block of the form `d·factor·q`.
pub(super) struct Scales {
    pub(super) d: f16,
    pub(super) factors: [f32; MAX_GROUPS],
}

/// Finds `d` and the factor of each group, out of the whole numbers `range`.
#[inline(always)]
pub(super) fn fit_scales<const GROUP: usize>(
    levels: impl Levels,
    range: Whole,
    x: &[f32],
    w: &[f32],
) -> Scales {
    let groups = || x.chunks_exact(GROUP).zip(w.chunks_exact(GROUP)).enumerate();
    let mut ideal = [0.0; MAX_GROUPS];
    for (g, (x, w)) in groups() {
        ideal[g] = best_scale(levels, x, w);
    }
    let mut best = Scales { d: to_f16(extreme(&ideal) / range.low), factors: [0.0; MAX_GROUPS] };
    let mut best_error = f32::INFINITY;
    let mut d = best.d;
    for _ in 0..ROUNDS {
        let mut factors = [0.0; MAX_GROUPS];
        let mut total = 0.0;
        let inv = inverse(d.to_f32());
        let (mut xq, mut qq) = (0.0, 0.0);
        for (g, (x, w)) in groups() {
            let middle = round(clamp(ideal[g] * inv, range.low, range.high));
            let tries: [f32; TRIES] =
                std::array::from_fn(|t| clamp(middle + t as f32 - 8.0, range.low, range.high));
            let lines = tries.map(|f| Line { scale: d.to_f32() * f, offset: 0.0 });
            let (t, error) = least(&errors(levels, x, w, &lines));
            factors[g] = tries[t];
            total += error;
            let i = inverse(lines[t].scale);
            for (&x, &w) in x.iter().zip(w) {
                let q = tries[t] * levels.nearest(x * i);
                xq += w * x * q;
                qq += w * q * q;
            }
        }
        if total < best_error {
            best_error = total;
            best = Scales { d, factors };
        }
        let next = to_f16(if qq > 0.0 { xq / qq } else { 0.0 });
        if next == d {
            break;
        }
        d = next;
    }
    best
}
const ROUNDS: usize = 2;

/// The scales and minima of a block of the form `d·scale·q - dmin·min`.
pub(super) struct Lines {
    pub(super) d: f16,
    pub(super) dmin: f16,
    pub(super) scales: [f32; MAX_GROUPS],
    pub(super) mins: [f32; MAX_GROUPS],
}

impl Lines {
    /// The line of group `g`.
    #[inline(always)]
    pub(super) fn line(&self, g: usize) -> Line {
        Line { scale: self.d.to_f32() * self.scales[g], offset: -(self.dmin.to_f32() * self.mins[g]) }
    }
}

/// Finds `d`, `dmin` and each group's factors, out of the whole numbers `0..=most`.
#[inline(always)]
pub(super) fn fit_lines<const GROUP: usize>(levels: impl Levels, most: f32, x: &[f32], w: &[f32]) -> Lines {
    let groups = || x.chunks_exact(GROUP).zip(w.chunks_exact(GROUP)).enumerate();
    let mut ideal = [Line::default(); MAX_GROUPS];
    for (g, (x, w)) in groups() {
        ideal[g] = best_line(levels, x, w, true);
    }
    let d = to_f16(ideal.iter().fold(0.0, |a, l| if l.scale > a { l.scale } else { a }) / most);
    let dmin = to_f16(ideal.iter().fold(0.0, |a, l| if -l.offset > a { -l.offset } else { a }) / most);
    let mut now = Lines { d, dmin, scales: [0.0; MAX_GROUPS], mins: [0.0; MAX_GROUPS] };
    let mut best = Lines { d, dmin, scales: [0.0; MAX_GROUPS], mins: [0.0; MAX_GROUPS] };
    let mut best_error = f32::INFINITY;
    for _ in 0..ROUNDS {
        let mut total = 0.0;
        let (i, im) = (inverse(now.d.to_f32()), inverse(now.dmin.to_f32()));
        let [mut ss, mut sm, mut mm, mut xs, mut xm] = [0.0; 5];
        for (g, (x, w)) in groups() {
            let scale = (ideal[g].scale * i).floor() - 1.0;
            let min = (-ideal[g].offset * im).floor() - 1.0;
            let tries: [(f32, f32); TRIES] = std::array::from_fn(|t| {
                (clamp(scale + (t / 4) as f32, 0.0, most), clamp(min + (t % 4) as f32, 0.0, most))
            });
            let lines =
                tries.map(|(s, m)| Line { scale: now.d.to_f32() * s, offset: -(now.dmin.to_f32() * m) });
            let (t, error) = least(&errors(levels, x, w, &lines));
            (now.scales[g], now.mins[g]) = tries[t];
            total += error;
            let inv = inverse(lines[t].scale);
            for (&x, &w) in x.iter().zip(w) {
                let s = tries[t].0 * levels.nearest((x - lines[t].offset) * inv);
                let m = -tries[t].1;
                ss += w * s * s;
                sm += w * s * m;
                mm += w * m * m;
                xs += w * x * s;
                xm += w * x * m;
            }
        }
        if total < best_error {
            best_error = total;
            best = Lines { ..now };
        }
        let det = ss * mm - sm * sm;
        let (d, dmin) = if det > 1e-6 * ss * mm {
            ((xs * mm - xm * sm) / det, (ss * xm - sm * xs) / det)
        } else {
            (if ss > 0.0 { xs / ss } else { 0.0 }, now.dmin.to_f32())
        };
        let (d, dmin) = (to_f16(d.max(0.0)), to_f16(dmin.max(0.0)));
        if d == now.d && dmin == now.dmin {
            break;
        }
        now.d = d;
        now.dmin = dmin;
    }
    best
}
