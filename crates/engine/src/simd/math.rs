//! Functions of a vector: two to a power, the logistic function.

use super::Simd;

/// The linear coefficient of [`exp2`].
#[expect(clippy::approx_constant, reason = "near ln 2, not ln 2")]
const LINEAR: f32 = 0.693_147;

/// Two to the power of each lane: relative error below 2e-7 for -126 to 127, 0 below, NaN stays NaN.
///
/// The nearest integer goes into the exponent; the rest, in [-0.5, 0.5], into a polynomial that is exact at 0
/// (so that `exp2(0)` is 1) and deviates by at most 9.2e-8 elsewhere, the least that five coefficients allow.
#[inline(always)]
pub(crate) fn exp2<S: Simd>(s: S, x: S::F) -> S::F {
    let whole = s.round(x);
    let rest = s.sub(x, whole);
    let mut p = s.splat(0.001_326_472_7);
    p = s.fma(p, rest, s.splat(0.009_671_513));
    p = s.fma(p, rest, s.splat(0.055_507_336));
    p = s.fma(p, rest, s.splat(0.240_222_42));
    // A little less than ln 2, as the fit has it.
    p = s.fma(p, rest, s.splat(LINEAR));
    p = s.fma(p, rest, s.splat(1.0));
    s.scale_pow2(p, whole, x)
}

/// `1 / (1 + exp(-x))` of each lane.
#[inline(always)]
pub(crate) fn sigmoid<S: Simd>(s: S, x: S::F) -> S::F {
    let e = exp2(s, s.mul(x, s.splat(-std::f32::consts::LOG2_E)));
    s.div(s.splat(1.0), s.add(s.splat(1.0), e))
}
