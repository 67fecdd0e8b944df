//! The optimiser's step and the gradient's norm.

use super::{TINY, U, assert_close, on_every_isa, widen};
use crate::ops::adamw::{AdamW, squared_norm, step};
use crate::testing::random;
use crate::{Arena, Cpu, Gradients, Isa, Moments, Parameters, Tensor};

const SETTINGS: AdamW = AdamW { lr: 3e-3, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, step: 1 };

/// Loshchilov and Hutter 2019 (arXiv:1711.05101), algorithm 2, with the decay scaled by the learning rate:
/// `w`, `m` and `v` after the step, and the size of what was taken from `w`.
fn reference(settings: &AdamW, g: f64, [w, m, v]: [f64; 3]) -> ([f64; 3], f64) {
    let AdamW { lr, beta1, beta2, eps, weight_decay, step } = *settings;
    let [lr, beta1, beta2, eps, decay] = [lr, beta1, beta2, eps, weight_decay].map(f64::from);
    let m = beta1 * m + (1.0 - beta1) * g;
    let v = beta2 * v + (1.0 - beta2) * g * g;
    let mean = m / (1.0 - beta1.powf(step as f64));
    let square = v / (1.0 - beta2.powf(step as f64));
    let change = lr * mean / (square.sqrt() + eps);
    ([w - change - lr * decay * w, m, v], change)
}

fn check(len: usize, scale: f32, settings: AdamW, steps: impl Iterator<Item = u64> + Clone) {
    const GRAD_SCALE: f32 = 0.37;
    let gradient = |step: u64| random(len, step).iter().map(|g| scale * g).collect::<Vec<f32>>();
    let name = format!("adamw of {len} values up to {scale:e}, {settings:?}");
    // The state after every step, one after the other: w, m, v.
    let run = |cpu: &Cpu| {
        let mut state = [random(len, 1), vec![0.0; len], vec![0.0; len]];
        let mut history = state.concat();
        for step_number in steps.clone() {
            let settings = AdamW { step: step_number, ..settings };
            let [w, m, v] = &mut state;
            step(cpu, &settings, GRAD_SCALE, &gradient(step_number), w, m, v);
            history.extend(state.concat());
        }
        [history]
    };
    on_every_isa(&name, run, |name, [history]| {
        // Each step is judged from the state before it, so that errors do not pile up.
        for ((before, after), step) in
            history.chunks_exact(3 * len).zip(history.chunks_exact(3 * len).skip(1)).zip(steps.clone())
        {
            let (before, g) = (widen(before), gradient(step));
            let settings = AdamW { step, ..settings };
            let (b1, b2) = (f64::from(settings.beta1), f64::from(settings.beta2));
            let correct = |beta: f64| 1.0 - beta.powf(step as f64);
            let (mut want, mut bound) = (vec![0.0; 3 * len], vec![0.0; 3 * len]);
            for i in 0..len {
                let [w, m, v] = [before[i], before[len + i], before[2 * len + i]];
                let g = f64::from(g[i]) * f64::from(GRAD_SCALE);
                let (values, change) = reference(&settings, g, [w, m, v]);
                for (part, value) in values.into_iter().enumerate() {
                    want[part * len + i] = value;
                }
                // Scaling, two products and a sum: four roundings, of terms that may cancel in the mean.
                let mean_error = 4.0 * U * (b1 * m.abs() + (1.0 - b1) * g.abs()) + TINY;
                bound[len + i] = mean_error;
                let square_error = 6.0 * U * values[2] + TINY;
                bound[2 * len + i] = square_error;
                let lr = f64::from(settings.lr);
                let root = (values[2] / correct(b2)).sqrt() + f64::from(settings.eps);
                // Half the relative error of a value that did not underflow; at most its root otherwise.
                let root_error = 6.0 * U + (TINY / correct(b2)).sqrt() / root;
                bound[i] = U * (3.0 * w.abs() + change.abs())
                    + lr / correct(b1) * mean_error / root
                    + change.abs() * (root_error + 6.0 * U);
            }
            assert_close(format!("{name}: step {step}"), after, &want, |i| bound[i]);
        }
    });
}

#[test]
fn steps_of_all_sizes_are_the_equation() {
    for len in [1, 7, 8, 9, 15, 16, 17, 33, 1000] {
        check(len, 1.0, SETTINGS, 1..5);
    }
    for len in [(1 << 14) - 1, 1 << 14, (1 << 14) + 1, 40_000] {
        check(len, 1.0, SETTINGS, 1..3);
    }
}

#[test]
fn settings_and_magnitudes_of_all_kinds_are_the_equation() {
    for scale in [1e-25, 1e-18, 1e-10, 1e-3, 1e3, 1e15] {
        check(37, scale, SETTINGS, 1..4);
    }
    check(
        37,
        1.0,
        AdamW { beta2: 0.999, weight_decay: 0.0, ..SETTINGS },
        [1, 2, 1000, 1_000_000].into_iter(),
    );
    check(37, 1.0, AdamW { beta1: 0.0, beta2: 0.0, lr: 1.0, ..SETTINGS }, 1..4);
    check(37, 1.0, AdamW { lr: 0.0, ..SETTINGS }, 1..3);
}

#[test]
fn matrices_decay_and_vectors_do_not() {
    let cpu = Cpu::with(Isa::Scalar, 1);
    let mut parameters = Parameters::new();
    let matrix = parameters.add(2, 2, &[1.0; 4]);
    let vector = parameters.add(1, 4, &[1.0; 4]);
    let mut gradients = Gradients::new(&parameters);
    // No gradient ever arrived: it counts as zero, and only the decay is left.
    let settings = AdamW { lr: 0.5, ..SETTINGS };
    Moments::new(&parameters).step(&cpu, &settings, 1.0, &mut gradients, &mut parameters);
    assert_eq!(parameters.get(matrix).f32(), [0.95; 4]);
    assert_eq!(parameters.get(vector).f32(), [1.0; 4]);
}

#[test]
fn the_gradient_is_scaled_before_it_counts() {
    let cpu = Cpu::with(Isa::Scalar, 1);
    let after = |gradient: f32, scale: f32| {
        let mut parameters = Parameters::new();
        let id = parameters.add(2, 3, &[0.25; 6]);
        let mut gradients = Gradients::new(&parameters);
        gradients.accumulate(&mut Arena::default(), id).0.f32_mut().fill(gradient);
        let mut moments = Moments::new(&parameters);
        moments.step(&cpu, &SETTINGS, scale, &mut gradients, &mut parameters);
        let square = moments.square[0].as_ref().map(Tensor::to_f32_vec);
        (parameters.get(id).to_f32_vec(), moments.mean[0].to_f32_vec(), square)
    };
    assert_eq!(after(8.0, 0.125), after(1.0, 1.0));
}

#[test]
fn the_norm_is_the_root_of_all_squares() {
    for len in [0, 1, 15, 16, 17, 4095, 4096, 4097, 100_001] {
        for scale in [1e-15, 1.0, 1e15] {
            let g: Vec<f32> = random(len, 1).iter().map(|g| scale * g).collect();
            let want: f64 = widen(&g).iter().map(|g| g * g).sum();
            // A partial sum of 4,096 squares rounds that often in f32, the sum of partial sums in f64.
            let bound = want * 4098.0 * U;
            on_every_isa(
                format!("norm of {len} values"),
                |cpu| {
                    let norm = squared_norm(cpu, &g);
                    assert!((norm - want).abs() <= bound, "{len} values: {norm:e}, not {want:e}");
                    [vec![
                        f32::from_bits(norm.to_bits() as u32),
                        f32::from_bits((norm.to_bits() >> 32) as u32),
                    ]]
                },
                |_, _| {},
            );
        }
    }
    let mut parameters = Parameters::new();
    let ids =
        [parameters.add(2, 2, &[0.0; 4]), parameters.add(1, 2, &[0.0; 2]), parameters.add(1, 1, &[0.0])];
    let mut gradients = Gradients::new(&parameters);
    gradients.accumulate(&mut Arena::default(), ids[0]).0.f32_mut().copy_from_slice(&[1.0, -2.0, 4.0, 8.0]);
    gradients.accumulate(&mut Arena::default(), ids[1]).0.f32_mut().copy_from_slice(&[-10.0, 4.0]);
    // 1 + 4 + 16 + 64 + 100 + 16 = 201, and nothing for the one that never got a gradient.
    assert_eq!(gradients.norm(&Cpu::with(Isa::Scalar, 1)), 201.0_f64.sqrt());
}

#[test]
fn a_gradient_that_is_not_finite_shows_in_the_norm_and_in_the_step() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for at in [0, 16, 4095, 4096, 5000] {
            let mut g = random(5001, 1);
            g[at] = bad;
            for isa in Isa::available() {
                let cpu = Cpu::with(isa, 2);
                assert!(!squared_norm(&cpu, &g).is_finite(), "{isa}: {bad} at {at}");
                let mut state = [random(5001, 2), vec![0.0; 5001], vec![0.0; 5001]];
                let [w, m, v] = &mut state;
                step(&cpu, &SETTINGS, 1.0, &g, w, m, v);
                assert!(
                    !w[at].is_finite() && !m[at].is_finite() && !v[at].is_finite(),
                    "{isa}: {bad} at {at}"
                );
                assert_eq!(w.iter().filter(|w| !w.is_finite()).count(), 1, "{isa}: the others are untouched");
            }
        }
    }
}
