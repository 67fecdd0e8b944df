//! Every operator against its equation in f64 ([`reference`]), and the helpers that all of them share.
//!
//! Attention has its tests beside it. Gradients are compared with central differences of the reference, so
//! no derivative is written down twice. Bounds come from arithmetic: each rounding of f32 is relative by
//! [`U`] at most, each of bf16 by 2^-8, and a sum of `n` terms adds up `n` of them.

mod adamw;
mod cross_entropy;
mod embedding;
mod muon;
mod qk_norm_rope;
pub(crate) mod reference;
mod rms_norm;
mod swiglu;

use std::fmt::Display;
use std::sync::LazyLock;

use crate::{Cpu, Dtype, Element, Isa};

/// The unit roundoff of f32.
pub(crate) const U: f64 = 1.0 / (1 << 24) as f64;

/// What is lost where a value underflows; conversion to bf16 by a vector instruction flushes subnormals.
pub(crate) const TINY: f64 = f32::MIN_POSITIVE as f64;

/// The relative error of [`crate::simd::exp2`], as `simd/tests.rs` has it.
pub(crate) const EXP2: f64 = 2.5e-7;

/// The unit roundoff of an element: 24 bits of f32, 8 bits of bf16.
pub(crate) fn unit(dtype: Dtype) -> f64 {
    match dtype {
        Dtype::F32 => U,
        Dtype::Bf16 => 1.0 / (1 << 8) as f64,
    }
}

pub(crate) fn rounded<E: Element>(x: &[f32]) -> Vec<E> {
    x.iter().map(|x| E::from_f32(*x)).collect()
}

pub(crate) fn narrow<E: Element>(x: &[E]) -> Vec<f32> {
    x.iter().map(|x| x.to_f32()).collect()
}

pub(crate) fn widen<E: Element>(x: &[E]) -> Vec<f64> {
    x.iter().map(|x| f64::from(x.to_f32())).collect()
}

/// `n` values that are NaN until an operator writes them.
pub(crate) fn unwritten<E: Element>(n: usize) -> Vec<E> {
    vec![E::from_f32(f32::NAN); n]
}

/// -1 or 1, by chance: a direction whose every coordinate counts alike.
pub(crate) fn random_signs(len: usize, seed: u64) -> Vec<f64> {
    crate::testing::random(len, seed).iter().map(|x| f64::from(x.signum())).collect()
}

/// Every value is as close to the reference as its bound says.
#[track_caller]
pub(crate) fn assert_close(name: impl Display, got: &[f32], want: &[f64], bound: impl Fn(usize) -> f64) {
    assert_eq!(got.len(), want.len(), "{name}");
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let error = (f64::from(*got) - want).abs();
        assert!(error <= bound(i), "{name}[{i}] is {got:e}, not {want:e}: {error:.2e} over {:.2e}", bound(i));
    }
}

/// `f'(0)` by a central difference; `f` receives what is added to a coordinate.
pub(crate) fn slope(step: f64, f: impl Fn(f64) -> f64) -> f64 {
    (f(step) - f(-step)) / (2.0 * step)
}

/// The slope of `f` along every coordinate of `x`.
pub(crate) fn slopes(x: &[f64], step: f64, f: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    let mut x = x.to_vec();
    (0..x.len())
        .map(|i| {
            let before = x[i];
            let mut at = |h: f64| {
                x[i] = before + h;
                f(&x)
            };
            let (above, below) = (at(step), at(-step));
            x[i] = before;
            (above - below) / (2.0 * step)
        })
        .collect()
}

/// The slope of `f` along a direction.
pub(crate) fn slope_along(x: &[f64], direction: &[f64], step: f64, f: impl Fn(&[f64]) -> f64) -> f64 {
    slope(step, |h| f(&x.iter().zip(direction).map(|(x, d)| x + h * d).collect::<Vec<_>>()))
}

/// `direction · gradient` is the slope. Errors of the coordinates, each below its bound, meet signs that
/// know nothing of them: their sum passes six times the root of their squares once in 10^8 directions
/// (Hoeffding 1963, theorem 2).
#[track_caller]
pub(crate) fn assert_slope(
    name: impl Display,
    gradient: &[f32],
    direction: &[f64],
    want: f64,
    bound: impl Fn(usize) -> f64,
) {
    let got: f64 = gradient.iter().zip(direction).map(|(g, d)| f64::from(*g) * d).sum();
    let bound = 6.0 * (0..gradient.len()).map(|i| bound(i).powi(2)).sum::<f64>().sqrt();
    let error = (got - want).abs();
    assert!(error <= bound, "{name}: slope {got:e}, not {want:e}: {error:.2e} over {bound:.2e}");
}

/// One, two and five threads for every instruction set of this machine.
static MACHINES: LazyLock<Vec<[Cpu; 3]>> = LazyLock::new(|| {
    let machines = |isa| [1, 2, 5].map(|threads| Cpu::with(isa, threads));
    Isa::available().into_iter().map(machines).collect()
});

/// Runs on every instruction set, asks that the number of threads change no bit, and hands on the results.
#[track_caller]
pub(crate) fn on_every_isa<const N: usize>(
    name: impl Display,
    run: impl Fn(&Cpu) -> [Vec<f32>; N],
    check: impl Fn(&str, [Vec<f32>; N]),
) {
    let bits = |all: &[Vec<f32>; N]| all.iter().flatten().map(|x| x.to_bits()).collect::<Vec<_>>();
    for cpus in MACHINES.iter() {
        let [one, two, five] = cpus.each_ref().map(&run);
        let isa = cpus[0].isa;
        assert!(bits(&one) == bits(&two), "{name} on {isa}: other bits on two threads");
        assert!(bits(&one) == bits(&five), "{name} on {isa}: other bits on five threads");
        check(&format!("{name} on {isa}"), one);
    }
}
