//! Root-mean-square normalisation.

use half::bf16;

use super::{
    TINY, U, assert_close, narrow, on_every_isa, reference, rounded, slope, slopes, unit, unwritten, widen,
};
use crate::ops::rms_norm;
use crate::testing::random;
use crate::{Arena, Cpu, Element, Isa};

const EPS: f32 = 1e-6;

fn check<E: Element>(tokens: usize, features: usize, scale: f32) {
    let x: Vec<f32> = random(tokens * features, 1).iter().map(|x| scale * x).collect();
    let weight: Vec<f32> = random(features, 2).iter().map(|x| 2.0 * x).collect();
    let dy: Vec<E> = rounded(&random(tokens * features, 3));
    let (x64, weight64, dy64, eps) = (widen(&x), widen(&weight), widen(&dy), f64::from(EPS));
    let rows = || x64.chunks_exact(features).zip(dy64.chunks_exact(features));
    let rms: Vec<f64> = rows().map(|(x, _)| reference::root_mean_square(x, eps)).collect();
    // What was there before is as large as what is added to it.
    let before: Vec<f32> = random(x.len(), 4).iter().map(|x| x / rms[0] as f32).collect();
    let before_weight = random(features, 5);

    let want: Vec<f64> = rows().flat_map(|(x, _)| reference::rms_norm(x, &weight64, eps)).collect();
    let dot = |y: Vec<f64>, dy: &[f64]| y.iter().zip(dy).map(|(y, dy)| y * dy).sum::<f64>();
    let want_dx: Vec<f64> = rows()
        .zip(&rms)
        .flat_map(|((x, dy), rms)| slopes(x, 1e-5 * rms, |x| dot(reference::rms_norm(x, &weight64, eps), dy)))
        .collect();
    // The weight enters linearly, and each coordinate by itself: any step is exact.
    let want_dweight: Vec<f64> = (0..features)
        .map(|j| {
            let at = |h: f64| {
                let one = |(x, rms): (&[f64], &f64)| x[j] / rms * (weight64[j] + h);
                let rows = x64.chunks_exact(features).zip(&rms);
                rows.zip(dy64.chunks_exact(features)).map(|(row, dy)| one(row) * dy[j]).sum::<f64>()
            };
            slope(1.0, at)
        })
        .collect();

    let n = features as f64;
    let row_of = |i: usize| i / features * features..(i / features + 1) * features;
    // The sum of squares has n roundings, of which the root halves the effect; a few more on the way.
    let forward = (0.5 * n + 6.0) * U;
    // r³ and the sum of products beside.
    let backward = (2.5 * n + 10.0) * U;
    let dx_bound: Vec<f64> = (0..x.len())
        .map(|i| {
            let g = |k: usize| (dy64[k] * weight64[k % features]).abs();
            let r = 1.0 / rms[i / features];
            let pull = row_of(i).map(|k| g(k) * x64[k].abs()).sum::<f64>() / n * r * r;
            let size = r * (g(i) + x64[i].abs() * pull);
            size * backward + U * (size + f64::from(before[i]).abs()) + TINY
        })
        .collect();
    let dweight_bound = |j: usize| {
        let terms = (0..tokens).map(|t| (dy64[t * features + j] * x64[t * features + j] / rms[t]).abs());
        let size = terms.sum::<f64>() + f64::from(before_weight[j]).abs();
        size * (forward + (tokens as f64 + 2.0) * U)
    };

    let name = format!("rms_norm {:?}: {tokens} tokens, {features} features up to {scale:e}", E::DTYPE);
    let run = |cpu: &Cpu| {
        let mut arena = Arena::default();
        let (mut y, mut r) = (unwritten::<E>(x.len()), unwritten(tokens));
        rms_norm::forward(cpu, &x, &weight, EPS, &mut y, Some(&mut r));
        let (mut dx, mut added, mut fresh) = (before.clone(), before_weight.clone(), unwritten(features));
        rms_norm::backward(cpu, &mut arena, &dy, &x, &weight, &r, &mut dx, &mut added, false);
        let mut dx_alone = vec![0.0; x.len()];
        rms_norm::backward(cpu, &mut arena, &dy, &x, &weight, &r, &mut dx_alone, &mut fresh, true);
        [narrow(&y), r, dx, dx_alone, added, fresh]
    };
    on_every_isa(&name, run, |name, [y, r, dx, dx_alone, added, fresh]| {
        let relative = forward + unit(E::DTYPE);
        assert_close(format!("{name}: y"), &y, &want, |i| want[i].abs() * relative + TINY);
        let want_r: Vec<f64> = rms.iter().map(|x| x.recip()).collect();
        assert_close(format!("{name}: r"), &r, &want_r, |i| want_r[i] * forward);
        assert_close(format!("{name}: dx alone"), &dx_alone, &want_dx, |i| dx_bound[i]);
        let sums = |want: &[f64], before: &[f32]| -> Vec<f64> {
            want.iter().zip(before).map(|(d, b)| d + f64::from(*b)).collect()
        };
        assert_close(format!("{name}: dx"), &dx, &sums(&want_dx, &before), |i| dx_bound[i]);
        assert_close(format!("{name}: fresh dweight"), &fresh, &want_dweight, dweight_bound);
        let want_added = sums(&want_dweight, &before_weight);
        assert_close(format!("{name}: dweight"), &added, &want_added, dweight_bound);
    });
}

fn check_both(tokens: usize, features: usize, scale: f32) {
    check::<f32>(tokens, features, scale);
    check::<bf16>(tokens, features, scale);
}

#[test]
fn norms_and_gradients_of_all_widths_are_the_equation() {
    for features in [1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64, 100] {
        check_both(3, features, 1.0);
    }
    check_both(2, 1280, 1.0);
}

#[test]
fn partial_sums_over_many_rows_are_complete() {
    for tokens in [1, 63, 64, 65, 130, 300] {
        check_both(tokens, 17, 1.0);
    }
}

#[test]
fn huge_and_tiny_inputs_keep_their_precision() {
    for scale in [1e-25, 1e-12, 1e-3, 1e3, 1e15] {
        check_both(2, 33, scale);
    }
}

#[test]
fn a_row_of_zeros_stays_zero() {
    on_every_isa(
        "rms_norm of zeros",
        |cpu| {
            let (mut y, mut r) = (vec![f32::NAN; 10], [0.0; 2]);
            rms_norm::forward(cpu, &[0.0; 10], &[1.5; 5], EPS, &mut y, Some(&mut r));
            [y]
        },
        |name, [y]| assert_eq!(y, [0.0; 10], "{name}"),
    );
}

#[test]
fn what_is_not_finite_or_overflows_never_becomes_a_number() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e25, f32::MAX] {
        for at in [0, 16, 18] {
            let mut x = random(19, 1);
            x[at] = bad;
            for isa in Isa::available() {
                let (mut y, mut r) = (vec![0.0_f32; 19], [0.0]);
                rms_norm::forward(&Cpu::with(isa, 1), &x, &[1.0; 19], EPS, &mut y, Some(&mut r));
                assert!(y.iter().any(|y| !y.is_finite()), "{isa}: {bad} gave {y:?}");
            }
        }
    }
}
