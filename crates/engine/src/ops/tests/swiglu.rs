//! The gated activation.

use half::bf16;

use super::{
    EXP2, TINY, U, assert_close, narrow, on_every_isa, reference, rounded, slope, unit, unwritten, widen,
};
use crate::ops::swiglu;
use crate::testing::random;
use crate::{Cpu, Element, Isa};

/// Checks rows `[a | b]`.
fn check<E: Element>(name: &str, features: usize, x: &[f32]) {
    let x: Vec<E> = rounded(x);
    let dy: Vec<E> = rounded(&random(x.len() / 2, 9));
    let (x64, dy64) = (widen(&x), widen(&dy));
    let name = format!("swiglu {:?} {name}, {features} features", E::DTYPE);
    let want: Vec<f64> = x64.chunks_exact(2 * features).flat_map(reference::swiglu).collect();
    // For output `i`: its place in the input, and both factors.
    let inputs = |i: usize| {
        let place = i / features * 2 * features + i % features;
        (place, x64[place], x64[place + features])
    };
    let mut want_dx = vec![0.0; x64.len()];
    let mut dx_bound = vec![0.0; x64.len()];
    let mut bound = vec![0.0; want.len()];
    const STEP: f64 = 1e-4;
    for (i, dy) in dy64.iter().enumerate() {
        let (place, a, b) = inputs(i);
        let y = |a: f64, b: f64| reference::swiglu(&[a, b])[0];
        want_dx[place] = dy * slope(STEP, |h| y(a + h, b));
        want_dx[place + features] = dy * slope(1.0, |h| y(a, b + h));
        // exp(−a): its argument is rounded twice, which counts as often as the argument is large.
        let exp = EXP2 + 2.0 * U * a.abs();
        let gate = reference::sigmoid(a);
        let gate_error = (1.0 - gate) * exp + 2.0 * U;
        // Beyond a = −88 exp(−a) overflows and is held at 2^127: the gate is 2^-127 instead of less.
        let held = (1.0 + a.abs()) * TINY;
        let silu = a.abs() * gate * (gate_error + 2.0 * U) + held;
        let last = unit(E::DTYPE) + U;
        bound[i] = b.abs() * silu + want[i].abs() * last + TINY;
        // The slope of silu, σ (1 + a (1 − σ)): the difference 1 − σ is off by as much as σ is.
        let slope = 1.0 + a.abs() * (1.0 - gate);
        let slope_error = slope * (gate_error + 4.0 * U) + a.abs() * (gate * gate_error + 2.0 * U);
        // The central difference itself: h²/6 of a third derivative below 1, and f64's rounding over h.
        let difference = STEP * STEP / 6.0 + 1e-15 * a.abs() / STEP;
        dx_bound[place] =
            (dy * b).abs() * (gate * slope_error + held + difference) + want_dx[place].abs() * last + TINY;
        dx_bound[place + features] = dy.abs() * silu + want_dx[place + features].abs() * last + TINY;
    }
    let run = |cpu: &Cpu| {
        let (mut y, mut dx) = (unwritten::<E>(want.len()), unwritten::<E>(x.len()));
        swiglu::forward(cpu, &x, features, &mut y);
        swiglu::backward(cpu, &dy, &x, features, &mut dx);
        [narrow(&y), narrow(&dx)]
    };
    on_every_isa(&name, run, |name, [y, dx]| {
        assert_close(format!("{name}: y"), &y, &want, |i| bound[i]);
        assert_close(format!("{name}: dx"), &dx, &want_dx, |i| dx_bound[i]);
    });
}

fn check_both(name: &str, features: usize, x: &[f32]) {
    check::<f32>(name, features, x);
    check::<bf16>(name, features, x);
}

#[test]
fn gates_and_gradients_of_all_widths_are_the_equation() {
    for features in [1, 7, 8, 9, 15, 16, 17, 31, 33, 100] {
        let x: Vec<f32> = random(2 * features * 3, 1).iter().map(|x| 4.0 * x).collect();
        check_both("of 3 tokens", features, &x);
    }
    for tokens in [1, 63, 64, 65, 130] {
        check_both(&format!("of {tokens} tokens"), 17, &random(34 * tokens, 2));
    }
}

#[test]
fn huge_and_tiny_inputs_saturate_as_the_equation_does() {
    for scale in [1e-30, 1e-10, 30.0, 90.0, 1e3, 1e6] {
        let x: Vec<f32> = random(2 * 19 * 3, 3).iter().map(|x| scale * x).collect();
        check_both(&format!("up to {scale:e}"), 19, &x);
    }
}

#[test]
fn what_is_not_finite_stays_so() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for at in 0..2 * 19 {
            let mut x = random(2 * 19, 4);
            x[at] = bad;
            for isa in Isa::available() {
                let mut y = [0.0_f32; 19];
                swiglu::forward(&Cpu::with(isa, 1), &x, 19, &mut y);
                assert!(!y[at % 19].is_finite(), "{isa}: {bad} at {at} gave {}", y[at % 19]);
            }
        }
    }
}
