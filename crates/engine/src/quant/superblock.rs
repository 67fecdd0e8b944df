//! Blocks of 256 weights in groups, whose scales are whole multiples of the block's.
//!
//! Each group's scale is searched for by itself, which says how large the block's `d` must be. From then on only
//! what can be stored is tried: for each group the multiples of `d` around the wanted scale, by the error that
//! they leave. Given levels and factors, the best `d` is a fit by least squares again; a second round starts from
//! that, and counts if it is better. A third gains less than 0.1 %.

use half::f16;

use super::group::{best_line, best_scale};
use super::search::{Levels, Line, TRIES, Whole, clamp, errors, extreme, inverse, least, round};
use super::to_f16;

/// Groups that a block has at most.
const MAX_GROUPS: usize = 16;
/// How often factors and `d` are fitted to each other.
const ROUNDS: usize = 2;

/// The scales of a block of the form `d·factor·q`.
#[derive(Clone, Copy)]
pub(super) struct Scales {
    pub(super) d: f16,
    pub(super) factors: [f32; MAX_GROUPS],
}

impl Scales {
    /// The line of group `g`.
    #[inline(always)]
    pub(super) fn line(&self, g: usize) -> Line {
        Line { scale: self.d.to_f32() * self.factors[g], offset: 0.0 }
    }
}

/// Finds `d`, of either sign, and the factor of each group, out of the whole numbers `range`.
#[inline(always)]
pub(super) fn fit_scales<const GROUP: usize>(
    levels: impl Levels,
    range: Whole,
    x: &[f32],
    w: &[f32],
) -> Scales {
    let groups = || x.chunks_exact(GROUP).zip(w.chunks_exact(GROUP)).enumerate();
    let mut wanted = [0.0; MAX_GROUPS];
    for (g, (x, w)) in groups() {
        wanted[g] = best_scale(levels, x, w);
    }
    let mut now = Scales { d: to_f16(extreme(&wanted) / range.low), factors: [0.0; MAX_GROUPS] };
    let mut best = (now, f32::INFINITY);
    for _ in 0..ROUNDS {
        let units = inverse(now.d.to_f32());
        let mut total = 0.0;
        // Sums for the fit of `d`, the weights being `d` times f = factor·q.
        let (mut xf, mut ff) = (0.0, 0.0);
        for (g, (x, w)) in groups() {
            let middle = round(clamp(wanted[g] * units, range.low, range.high));
            let first = middle - (TRIES / 2) as f32;
            let factors: [f32; TRIES] =
                std::array::from_fn(|t| clamp(first + t as f32, range.low, range.high));
            let lines = factors.map(|factor| Line { scale: now.d.to_f32() * factor, offset: 0.0 });
            let (t, error) = least(&errors(levels, x, w, &lines));
            now.factors[g] = factors[t];
            total += error;
            let inverse = inverse(lines[t].scale);
            for (&x, &w) in x.iter().zip(w) {
                let f = factors[t] * levels.nearest(x * inverse);
                xf += w * x * f;
                ff += w * f * f;
            }
        }
        if total < best.1 {
            best = (now, total);
        }
        let next = to_f16(if ff > 0.0 { xf / ff } else { 0.0 });
        if next == now.d {
            break;
        }
        now.d = next;
    }
    best.0
}

/// The scales and mins of a block of the form `d·scale·q - dmin·min`.
#[derive(Clone, Copy, Default)]
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

/// Finds `d` and `dmin`, neither below 0, and each group's factors, out of the whole numbers `0..=most`.
///
/// `shares` says where to start: with the `d` and `dmin` that the largest groups want, or with parts of these,
/// which leave more of few factors to all the others.
#[inline(always)]
pub(super) fn fit_lines<const GROUP: usize>(
    levels: Whole,
    most: f32,
    shares: &[[f32; 2]],
    x: &[f32],
    w: &[f32],
) -> Lines {
    let mut wanted = [Line::default(); MAX_GROUPS];
    for (line, (x, w)) in wanted.iter_mut().zip(x.chunks_exact(GROUP).zip(w.chunks_exact(GROUP))) {
        *line = best_line(levels, x, w, true);
    }
    let d = wanted.iter().fold(0.0, |d: f32, line| d.max(line.scale)) / most;
    let dmin = wanted.iter().fold(0.0, |d: f32, line| d.max(-line.offset)) / most;
    let mut best = Fitted { error: f32::INFINITY, ..Fitted::default() };
    for [share, share_min] in shares {
        let units = [to_f16(d * share), to_f16(dmin * share_min)];
        let fitted = fit_factors::<GROUP>(levels, most, &wanted, units, x, w);
        best = if fitted.error < best.error { fitted } else { best };
    }
    for _ in 1..ROUNDS {
        let fitted = fit_factors::<GROUP>(levels, most, &wanted, best.next, x, w);
        best = if fitted.error < best.error { fitted } else { best };
    }
    best.lines
}

/// The best factors for some `d` and `dmin`, the error they leave, and what `d` and `dmin` had better be.
#[derive(Clone, Copy, Default)]
struct Fitted {
    lines: Lines,
    error: f32,
    next: [f16; 2],
}

#[inline(always)]
fn fit_factors<const GROUP: usize>(
    levels: Whole,
    most: f32,
    wanted: &[Line; MAX_GROUPS],
    [d, dmin]: [f16; 2],
    x: &[f32],
    w: &[f32],
) -> Fitted {
    let mut lines = Lines { d, dmin, ..Lines::default() };
    let (d, dmin) = (d.to_f32(), dmin.to_f32());
    let mut total = 0.0;
    // Sums for the fit of both, the weights being `d` times s = scale·q, less `dmin` times m = min.
    let [mut ss, mut sm, mut mm, mut xs, mut xm] = [0.0; 5];
    for (g, (x, w)) in x.chunks_exact(GROUP).zip(w.chunks_exact(GROUP)).enumerate() {
        // Four scales by four mins, two below what is wanted and two above.
        let scale = clamp((wanted[g].scale * inverse(d)).floor() - 1.0, 0.0, most - 3.0);
        let min = clamp((-wanted[g].offset * inverse(dmin)).floor() - 1.0, 0.0, most - 3.0);
        let factors: [[f32; 2]; TRIES] =
            std::array::from_fn(|t| [scale + (t / 4) as f32, min + (t % 4) as f32]);
        let tried = factors.map(|[s, m]| Line { scale: d * s, offset: -(dmin * m) });
        let (t, error) = least(&errors(levels, x, w, &tried));
        let [scale, m] = factors[t];
        (lines.scales[g], lines.mins[g]) = (scale, m);
        total += error;
        let inverse = inverse(tried[t].scale);
        for (&x, &w) in x.iter().zip(w) {
            let s = scale * levels.nearest((x - tried[t].offset) * inverse);
            ss += w * s * s;
            sm += w * s * m;
            mm += w * m * m;
            xs += w * x * s;
            xm += w * x * m;
        }
    }
    let determinant = ss * mm - sm * sm;
    let next = if determinant > 1e-6 * ss * mm {
        [(xs * mm - xm * sm) / determinant, (xs * sm - xm * ss) / determinant]
    } else if ss > 0.0 {
        [(xs + dmin * sm) / ss, dmin]
    } else {
        [d, dmin]
    };
    Fitted { lines, error: total, next: next.map(|unit| to_f16(unit.max(0.0))) }
}
