//! Queries and keys, normalised per head and rotated.

use half::bf16;

use super::{
    TINY, U, assert_close, narrow, on_every_isa, reference, rounded, slopes, unit, unwritten, widen,
};
use crate::ops::qk_norm_rope::{self, Heads, Layer, RopeTable};
use crate::testing::random;
use crate::{Arena, Cpu, Element};

const EPS: f32 = 1e-6;
const BASE: f64 = 10_000.0;
const POSITIONS: u32 = 2048;

/// Every second token in order, the others anywhere up to the last position.
fn positions(tokens: usize) -> Vec<u32> {
    (0..tokens as u32).map(|i| if i % 2 == 0 { i / 2 } else { POSITIONS - 1 - i * 997 % POSITIONS }).collect()
}

fn check<E: Element>(heads: Heads, tokens: usize, scale: f32) {
    let (dim, normed) = (heads.dim, heads.query + heads.kv);
    let x: Vec<f32> = random(tokens * heads.qkv_cols(), 1).iter().map(|x| scale * x).collect();
    let qkv: Vec<E> = rounded(&x);
    let dqk: Vec<E> = rounded(&random(tokens * heads.qk_cols(), 2));
    let weights = [3, 4].map(|seed| random(dim, seed).iter().map(|x| 2.0 * x).collect::<Vec<f32>>());
    let before = [random(dim, 5), random(dim, 6)];
    let (positions, eps) = (positions(tokens), f64::from(EPS));
    let rope = RopeTable::new(POSITIONS as usize, dim, BASE);
    let weights64 = weights.each_ref().map(|x| widen(x));
    let (qkv64, dqk64) = (widen(&qkv), widen(&dqk));

    // Head `i` of all, token by token: its token, input, output gradient, whether it is a key, and its turns.
    let turns: Vec<_> = positions
        .iter()
        .map(|position| reference::turns(dim, |pair| reference::rounded_angle(*position, pair, dim, BASE)))
        .collect();
    let head = |i: usize| {
        let (token, head) = (i / normed, i % normed);
        let x = &qkv64[token * heads.qkv_cols() + head * dim..][..dim];
        (x, &dqk64[i * dim..][..dim], usize::from(head >= heads.query), &turns[token][..])
    };
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let all = || (0..tokens * normed).map(head);
    let forward = |x: &[f64], weight: &[f64], turns: &[(f64, f64)]| {
        reference::rotate(&reference::rms_norm(x, weight, eps), turns)
    };
    let want: Vec<f64> = all().flat_map(|(x, _, key, turns)| forward(x, &weights64[key], turns)).collect();
    let want_dx: Vec<f64> = all()
        .flat_map(|(x, dy, key, turns)| {
            let step = 1e-5 * reference::root_mean_square(x, eps);
            slopes(x, step, |x| dot(&forward(x, &weights64[key], turns), dy))
        })
        .collect();
    let want_dweights = [0, 1].map(|which| {
        let mut sums = vec![0.0; dim];
        for (x, dy, _, turns) in all().filter(|(_, _, key, _)| *key == which) {
            // The weight enters linearly: any step is exact.
            let one = slopes(&weights64[which], 1.0, |weight| dot(&forward(x, weight, turns), dy));
            sums.iter_mut().zip(one).for_each(|(sum, one)| *sum += one);
        }
        sums
    });

    // As for rms_norm, and three roundings more for a turn.
    let n = dim as f64;
    let (forward_error, backward_error) = ((0.5 * n + 9.0) * U, (2.5 * n + 16.0) * U);
    let half = dim / 2;
    // Sizes of the terms: of the turned vector, and of what the gradient is made of.
    let turned = |x: &[f64], turns: &[(f64, f64)]| -> Vec<f64> {
        (0..dim)
            .map(|i| {
                let (sin, cos) = turns[i % half];
                (x[i] * cos).abs() + (x[(i + half) % dim] * sin).abs()
            })
            .collect()
    };
    let bound: Vec<f64> = all()
        .flat_map(|(x, _, key, turns)| turned(&reference::rms_norm(x, &weights64[key], eps), turns))
        .zip(&want)
        .map(|(size, y)| size * forward_error + y.abs() * unit(E::DTYPE) + TINY)
        .collect();
    let mut dweight_bounds =
        before.each_ref().map(|x| x.iter().map(|x| U * f64::from(x.abs())).collect::<Vec<_>>());
    let mut dx_bound = Vec::new();
    for (i, (x, dy, key, turns)) in all().enumerate() {
        let r = 1.0 / reference::root_mean_square(x, eps);
        let back = turned(dy, turns);
        let g: Vec<f64> = back.iter().zip(&weights64[key]).map(|(d, w)| d * w.abs()).collect();
        let pull = g.iter().zip(x).map(|(g, x)| g * x.abs()).sum::<f64>() / n * r * r;
        for j in 0..dim {
            let size = r * (g[j] + x[j].abs() * pull);
            dx_bound.push(size * backward_error + want_dx[i * dim + j].abs() * unit(E::DTYPE) + TINY);
            let terms = (tokens * heads.query.max(heads.kv)) as f64;
            dweight_bounds[key][j] += back[j] * x[j].abs() * r * (forward_error + (terms + 2.0) * U);
        }
    }

    let name = format!("qk_norm_rope {:?}: {heads:?}, {tokens} tokens up to {scale:e}", E::DTYPE);
    let run = |cpu: &Cpu| {
        let mut arena = Arena::default();
        let [q_weight, k_weight] = &weights;
        let layer = Layer { heads, q_weight, k_weight, eps: EPS, rope: &rope };
        let (mut qk, mut r) = (unwritten::<E>(tokens * heads.qk_cols()), unwritten(tokens * normed));
        qk_norm_rope::forward(cpu, &layer, &qkv, &positions, &mut qk, &mut r);
        let mut dqkv = vec![E::from_f32(7.0); qkv.len()];
        let (mut dq, mut dk) = (unwritten(dim), before[1].clone());
        qk_norm_rope::backward(
            cpu,
            &mut arena,
            &layer,
            &dqk,
            &qkv,
            &positions,
            &r,
            &mut dqkv,
            [&mut dq, &mut dk],
            [true, false],
        );
        let (mut dq_added, mut dk_fresh) = (before[0].clone(), unwritten(dim));
        qk_norm_rope::backward(
            cpu,
            &mut arena,
            &layer,
            &dqk,
            &qkv,
            &positions,
            &r,
            &mut dqkv,
            [&mut dq_added, &mut dk_fresh],
            [false, true],
        );
        [narrow(&qk), r, narrow(&dqkv), dq, dk, dq_added, dk_fresh]
    };
    on_every_isa(&name, run, |name, [qk, r, dqkv, dq, dk, dq_added, dk_fresh]| {
        assert_close(format!("{name}: qk"), &qk, &want, |i| bound[i]);
        let want_r: Vec<f64> = all().map(|(x, ..)| reference::root_mean_square(x, eps).recip()).collect();
        assert_close(format!("{name}: r"), &r, &want_r, |i| want_r[i] * forward_error);
        let rows = || dqkv.chunks_exact(heads.qkv_cols());
        let dx: Vec<f32> = rows().flat_map(|row| &row[..heads.qk_cols()]).copied().collect();
        assert_close(format!("{name}: dx"), &dx, &want_dx, |i| dx_bound[i]);
        let untouched = rows().all(|row| row[heads.qk_cols()..].iter().all(|x| *x == 7.0));
        assert!(untouched, "{name}: the values' gradients are not ours");
        for (key, fresh, added) in [(0, dq, dq_added), (1, dk_fresh, dk)] {
            let (want, before) = (&want_dweights[key], &before[key]);
            assert_close(format!("{name}: fresh dweight"), &fresh, want, |i| dweight_bounds[key][i]);
            let want: Vec<f64> = want.iter().zip(before).map(|(d, b)| d + f64::from(*b)).collect();
            assert_close(format!("{name}: dweight"), &added, &want, |i| {
                dweight_bounds[key][i] + U * want[i].abs()
            });
        }
    });
}

fn check_both(query: usize, kv: usize, dim: usize, tokens: usize, scale: f32) {
    check::<f32>(Heads { query, kv, dim }, tokens, scale);
    check::<bf16>(Heads { query, kv, dim }, tokens, scale);
}

#[test]
fn heads_of_all_widths_are_the_equation() {
    for dim in [2, 6, 8, 10, 14, 16, 18, 30, 32, 34, 40, 64, 128, 256] {
        check_both(2, 1, dim, 3, 1.0);
    }
}

#[test]
fn partial_sums_over_many_rows_and_heads_are_complete() {
    for (query, kv, tokens) in [(1, 1, 1), (3, 3, 63), (4, 2, 64), (3, 1, 65), (1, 1, 200)] {
        check_both(query, kv, 10, tokens, 1.0);
    }
}

#[test]
fn huge_and_tiny_inputs_keep_their_precision() {
    for scale in [1e-25, 1e-3, 1e3, 1e15] {
        check_both(2, 1, 40, 2, scale);
    }
}

#[test]
fn rotations_are_those_of_the_paper_within_the_rounding_of_their_angles() {
    let (dim, tokens) = (64, 200);
    let heads = Heads { query: 1, kv: 1, dim };
    let rope = RopeTable::new(POSITIONS as usize, dim, BASE);
    assert_eq!(rope.positions(), POSITIONS as usize);
    let (qkv, positions) = (random(tokens * heads.qkv_cols(), 1), positions(tokens));
    let run = |cpu: &Cpu| {
        let ones = vec![1.0; dim];
        let layer = Layer { heads, q_weight: &ones, k_weight: &ones, eps: EPS, rope: &rope };
        let (mut qk, mut r) = (unwritten(tokens * heads.qk_cols()), unwritten(2 * tokens));
        qk_norm_rope::forward::<f32>(cpu, &layer, &qkv, &positions, &mut qk, &mut r);
        [qk]
    };
    on_every_isa("rotation", run, |name, [qk]| {
        for (i, got) in qk.chunks_exact(dim).enumerate() {
            let (token, head) = (i / 2, i % 2);
            let x = widen(&qkv[token * heads.qkv_cols() + head * dim..][..dim]);
            let normed = reference::rms_norm(&x, &vec![1.0; dim], f64::from(EPS));
            let angle = |pair| reference::angle(positions[token], pair, dim, BASE);
            let want = reference::rotate(&normed, &reference::turns(dim, angle));
            // Frequency and angle are rounded once each; the rest as above.
            let bound = |j: usize| {
                let length = normed[j].hypot(normed[(j + dim / 2) % dim]);
                length * (2.0 * U * angle(j % (dim / 2)) + 2.0 * (0.5 * dim as f64 + 9.0) * U)
            };
            assert_close(format!("{name}: head {i}"), got, &want, bound);
        }
    });
}

#[test]
#[should_panic(expected = "heads of 9 coordinates")]
fn heads_of_odd_width_are_refused() {
    let _ = RopeTable::new(1, 9, BASE);
}
