//! The search for the numbers that stand for a group of weights, sixteen tries at a time.
//!
//! A group is stored as `x ≈ scale·q + offset` with `q` from a small set of levels, and what counts is the
//! weighted squared error `Σ w·(x − scale·q − offset)²`. For a given line each `q` is the nearest level; for
//! given `q` the best line is a least-squares fit. Neither finds the other's optimum, so many lines are tried,
//! each is fitted once to the levels that it picks, and the best is kept.
//!
//! The tries are the lanes: the loop over weights is outside, the one over tries inside, of fixed length and
//! without branches. The compiler makes vectors of it at whatever width there is, and since no sum runs across
//! lanes the result is the same bits at every width.

/// Lines that are tried at once.
pub(super) const TRIES: usize = 16;

/// One number for each try.
pub(super) type Tries = [f32; TRIES];

/// What a scale multiplies.
pub(super) trait Levels: Copy {
    /// The level nearest to `v`.
    fn nearest(self, v: f32) -> f32;
    /// The lowest level and the highest.
    fn range(self) -> (f32, f32);
    /// About how far the outermost levels lie from their neighbours.
    fn gap(self) -> f32;
}

/// The whole numbers `low..=high`.
#[derive(Clone, Copy)]
pub(super) struct Whole {
    pub(super) low: f32,
    pub(super) high: f32,
}

impl Levels for Whole {
    #[inline(always)]
    fn nearest(self, v: f32) -> f32 {
        round(clamp(v, self.low, self.high))
    }

    #[inline(always)]
    fn range(self) -> (f32, f32) {
        (self.low, self.high)
    }

    #[inline(always)]
    fn gap(self) -> f32 {
        1.0
    }
}

/// A line from levels to weights: `scale·q + offset`.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Line {
    pub(super) scale: f32,
    pub(super) offset: f32,
}

/// `v` rounded to the nearest whole number, ties to even, for `|v| < 2²²`: the sum has no bits left for a
/// fraction. `f32::round_ties_even` is a call where the instruction set has no rounding.
#[inline(always)]
pub(super) fn round(v: f32) -> f32 {
    const SHIFT: f32 = (3 << 22) as f32;
    (v + SHIFT) - SHIFT
}

/// `v` within `low..=high`; one instruction each way, which `f32::clamp` with its care for NaN is not.
#[inline(always)]
pub(super) fn clamp(v: f32, low: f32, high: f32) -> f32 {
    let v = if v < low { low } else { v };
    if v > high { high } else { v }
}

/// `1 / scale`, or 0 where that is too large to be of use: everything is then the level nearest to 0.
#[inline(always)]
pub(super) fn inverse(scale: f32) -> f32 {
    if scale.abs() < f32::MIN_POSITIVE { 0.0 } else { 1.0 / scale }
}

/// The value of `x` that is largest without its sign; the first of several.
#[inline(always)]
pub(super) fn extreme(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |extreme: f32, &x| if x.abs() > extreme.abs() { x } else { extreme })
}

/// The weighted squared error of each line, with every weight at its nearest level.
#[inline(always)]
pub(super) fn errors(levels: impl Levels, x: &[f32], w: &[f32], lines: &[Line; TRIES]) -> Tries {
    let scales = lines.map(|line| line.scale);
    let offsets = lines.map(|line| line.offset);
    let inverses = scales.map(inverse);
    let mut errors = [0.0; TRIES];
    for (&x, &w) in x.iter().zip(w) {
        for t in 0..TRIES {
            let v = x - offsets[t];
            let rest = v - scales[t] * levels.nearest(v * inverses[t]);
            errors[t] += w * (rest * rest);
        }
    }
    errors
}

/// The index and value of the least error; the first of several.
#[inline(always)]
pub(super) fn least(errors: &Tries) -> (usize, f32) {
    let mut best = (0, errors[0]);
    for (t, &error) in errors.iter().enumerate() {
        if error < best.1 {
            best = (t, error);
        }
    }
    best
}

/// The scale of least error, each try fitted to the levels that its start picks, and that error.
#[inline(always)]
pub(super) fn fit_scales(levels: impl Levels, x: &[f32], w: &[f32], starts: &Tries) -> (f32, f32) {
    let inverses = starts.map(inverse);
    let (mut rr, mut rq, mut qq) = ([0.0; TRIES], [0.0; TRIES], [0.0; TRIES]);
    for (&x, &w) in x.iter().zip(w) {
        for t in 0..TRIES {
            let q = levels.nearest(x * inverses[t]);
            // Sums of what is left over, not of the weights themselves, whose differences would be noise.
            let rest = x - starts[t] * q;
            let wq = w * q;
            rr[t] += w * (rest * rest);
            rq[t] += wq * rest;
            qq[t] += wq * q;
        }
    }
    let (mut scales, mut errors) = (*starts, rr);
    for t in 0..TRIES {
        let step = if qq[t] > 0.0 { rq[t] / qq[t] } else { 0.0 };
        scales[t] += step;
        errors[t] -= step * rq[t];
    }
    let (best, error) = least(&errors);
    (scales[best], error)
}

/// The line of least error, each try fitted to the levels that its start picks, and that error. With `below`,
/// no offset is above 0.
#[inline(always)]
pub(super) fn fit_lines(
    levels: Whole,
    x: &[f32],
    w: &[f32],
    starts: &[Line; TRIES],
    below: bool,
) -> (Line, f32) {
    let scales = starts.map(|line| line.scale);
    let offsets = starts.map(|line| line.offset);
    let inverses = scales.map(inverse);
    let total: f32 = w.iter().sum();
    let mut rr = [0.0; TRIES];
    let (mut r, mut rq) = ([0.0; TRIES], [0.0; TRIES]);
    let (mut q1, mut qq) = ([0.0; TRIES], [0.0; TRIES]);
    for (&x, &w) in x.iter().zip(w) {
        for t in 0..TRIES {
            let v = x - offsets[t];
            let q = levels.nearest(v * inverses[t]);
            let rest = v - scales[t] * q;
            let (wr, wq) = (w * rest, w * q);
            rr[t] += wr * rest;
            r[t] += wr;
            rq[t] += wr * q;
            q1[t] += wq;
            qq[t] += wq * q;
        }
    }
    let (mut lines, mut errors) = (*starts, rr);
    for t in 0..TRIES {
        let determinant = qq[t] * total - q1[t] * q1[t];
        // All weights at one level: only the offset can be told.
        let (mut up, mut shift) = if determinant > 1e-6 * qq[t] * total {
            ((rq[t] * total - r[t] * q1[t]) / determinant, (qq[t] * r[t] - q1[t] * rq[t]) / determinant)
        } else {
            (0.0, if total > 0.0 { r[t] / total } else { 0.0 })
        };
        if below && offsets[t] + shift > 0.0 {
            shift = -offsets[t];
            up = if qq[t] > 0.0 { (rq[t] - shift * q1[t]) / qq[t] } else { 0.0 };
        }
        lines[t].scale += up;
        lines[t].offset += shift;
        errors[t] += up * (up * qq[t] + 2.0 * (shift * q1[t] - rq[t])) + shift * (shift * total - 2.0 * r[t]);
    }
    let (best, error) = least(&errors);
    (lines[best], error)
}
