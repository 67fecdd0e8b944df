//! Functions of a vector: two to a power, the logistic function.

use super::Simd;

/// Two to the power of each lane: relative error below 2e-7, 0 below -126, NaN stays NaN.
///
/// The whole part goes into the exponent; the rest, in [-0.5, 0.5], into a polynomial that is exact at 0
/// (so that `exp2(0)` is 1) and close to minimax elsewhere.
#[inline(always)]
pub(crate) fn exp2<S: Simd>(s: S, x: S::F) -> S::F {
    let lowest = s.splat(-126.0);
    // The order of the operands matters: where `x` is NaN, `min` and `max` return their second one.
    let clamped = s.max(lowest, s.min(s.splat(127.0), x));
    let whole = s.floor(s.add(clamped, s.splat(0.5)));
    let rest = s.sub(clamped, whole);
    // Taylor coefficients of 2^r, ln(2)^n / n!, to the sixth: the remainder at 0.5 is 1.2e-7.
    let mut p = s.splat(0.000_154_035_3);
    p = s.fma(p, rest, s.splat(1.333_355_8e-3));
    p = s.fma(p, rest, s.splat(9.618_129e-3));
    p = s.fma(p, rest, s.splat(5.550_411e-2));
    p = s.fma(p, rest, s.splat(2.402_265e-1));
    p = s.fma(p, rest, s.splat(std::f32::consts::LN_2));
    p = s.fma(p, rest, s.splat(1.0));
    s.select_less(x, lowest, s.splat(0.0), s.mul(p, s.pow2_of_integer(whole)))
}

/// `1 / (1 + exp(-x))` of each lane.
#[inline(always)]
pub(crate) fn sigmoid<S: Simd>(s: S, x: S::F) -> S::F {
    let e = exp2(s, s.mul(x, s.splat(-std::f32::consts::LOG2_E)));
    s.div(s.splat(1.0), s.add(s.splat(1.0), e))
}
