//! Muon's step: each round of its iteration, what the rounds come to, and momentum, decay and scale around them.

use half::bf16;

use super::{TINY, U, assert_close, on_every_isa, random_signs, unit, widen};
use crate::ops::muon::{Muon, newton_schulz, orthogonal, step};
use crate::testing::random;
use crate::{AdamW, Arena, Cpu, Dtype, Gradients, Isa, Moments, Parameters, Tensor};

/// The coefficients of Jordan et al. 2024, as f32 has them.
const POLYNOMIAL: [f64; 3] = [3.4445_f32 as f64, -4.7750_f32 as f64, 2.0315_f32 as f64];
const SETTINGS: Muon = Muon { lr: 2e-2, momentum: 0.95, weight_decay: 0.1, dtype: Dtype::F32 };
/// Wide, tall and square; around the lanes and tiles; single rows, columns and values.
const SHAPES: [[usize; 2]; 12] = [
    [1, 1],
    [1, 40],
    [40, 1],
    [2, 3],
    [16, 16],
    [17, 33],
    [33, 17],
    [32, 64],
    [64, 32],
    [48, 48],
    [31, 100],
    [100, 65],
];

/// A row-major matrix in f64.
#[derive(Clone)]
struct Matrix {
    rows: usize,
    cols: usize,
    values: Vec<f64>,
}

impl Matrix {
    fn new(rows: usize, cols: usize, value: impl Fn(usize, usize) -> f64) -> Self {
        let values = (0..rows * cols).map(|i| value(i / cols, i % cols)).collect();
        Self { rows, cols, values }
    }

    fn at(&self, i: usize, j: usize) -> f64 {
        self.values[i * self.cols + j]
    }

    fn transposed(&self) -> Self {
        Self::new(self.cols, self.rows, |i, j| self.at(j, i))
    }

    fn times(&self, other: &Self) -> Self {
        let sum = |i, j| (0..self.cols).map(|k| self.at(i, k) * other.at(k, j)).sum();
        Self::new(self.rows, other.cols, sum)
    }

    /// Element by element.
    fn with(&self, other: &Self, f: impl Fn(f64, f64) -> f64) -> Self {
        Self::new(self.rows, self.cols, |i, j| f(self.at(i, j), other.at(i, j)))
    }

    fn abs(&self) -> Self {
        Self::new(self.rows, self.cols, |i, j| self.at(i, j).abs())
    }
}

fn tensor(rows: usize, cols: usize, dtype: Dtype, values: &[f32]) -> Tensor {
    let mut tensor = Tensor::zeros(rows, cols, dtype);
    match dtype {
        Dtype::F32 => tensor.f32_mut().copy_from_slice(values),
        Dtype::Bf16 => tensor
            .as_mut_slice::<bf16>()
            .iter_mut()
            .zip(values)
            .for_each(|(to, from)| *to = bf16::from_f32(*from)),
    }
    tensor
}

/// One round for a matrix that is no taller than wide, and how far off each value may be.
///
/// A product over `k` rounds `k` times in f32; what a bf16 product takes is rounded to bf16 first. An error of a
/// factor goes into the product with the other factor's size.
fn round(x: &Matrix, dtype: Dtype, out: Dtype) -> (Matrix, Matrix) {
    let [a, b, c] = POLYNOMIAL;
    let packing = if dtype == Dtype::F32 { 0.0 } else { unit(dtype) };
    let sum = |terms: usize| (terms + 2) as f64 * U;
    let (n, size) = (x.rows, x.abs());

    let gram = x.times(&x.transposed());
    let size_of_gram = size.times(&size.transposed());
    let off = size_of_gram.with(&size_of_gram, |size, _| sum(x.cols) * size + TINY);
    let packed_off = off.with(&gram, |off, gram| off + packing * (gram.abs() + off));
    let most = gram.abs().with(&packed_off, |gram, off| gram + off);
    let square = gram.times(&gram);
    let square_off = packed_off
        .times(&most)
        .with(&most.times(&packed_off), |left, right| left + right)
        .with(&most.times(&most), |off, size| off + sum(n) * size + TINY);

    let diagonal = |i: usize, j: usize| if i == j { a } else { 0.0 };
    let factor = Matrix::new(n, n, |i, j| diagonal(i, j) + b * gram.at(i, j) + c * square.at(i, j));
    let factor_off = Matrix::new(n, n, |i, j| {
        let (gram, square) =
            (gram.at(i, j).abs() + off.at(i, j), square.at(i, j).abs() + square_off.at(i, j));
        let size = diagonal(i, j) + b.abs() * gram + c * square;
        let off = b.abs() * off.at(i, j) + c * square_off.at(i, j) + 4.0 * U * size;
        off + packing * (factor.at(i, j).abs() + off)
    });
    let next = factor.times(x);
    let rounding = if out == Dtype::F32 { 0.0 } else { unit(out) };
    let size_of_next = factor.abs().with(&factor_off, |factor, off| factor + off).times(&size);
    let next_off = factor_off.times(&size).with(&size_of_next, |off, size| off + sum(n) * size + TINY);
    let next_off = next_off.with(&next, |off, next| off + rounding * (next.abs() + off));
    (next, next_off)
}

#[test]
fn a_round_is_the_equation() {
    for [rows, cols] in SHAPES {
        // At length 1, as before the first round, and where entries are about 1, as rows of one are after some.
        for scale in [(rows * cols) as f32, 3.0] {
            let values: Vec<f32> = random(rows * cols, 5).iter().map(|x| x / scale.sqrt()).collect();
            for (dtype, out) in
                [(Dtype::F32, Dtype::F32), (Dtype::Bf16, Dtype::Bf16), (Dtype::Bf16, Dtype::F32)]
            {
                let x = tensor(rows, cols, dtype, &values);
                let exact = Matrix { rows, cols, values: widen(&x.to_f32_vec()) };
                let (want, bound) = if rows <= cols {
                    round(&exact, dtype, out)
                } else {
                    let (want, bound) = round(&exact.transposed(), dtype, out);
                    (want.transposed(), bound.transposed())
                };
                on_every_isa(
                    format!("a round of {rows} x {cols} in {dtype:?} to {out:?}, length {scale}"),
                    |cpu| [newton_schulz(cpu, &mut Arena::default(), &x, dtype, out).to_f32_vec()],
                    |name, [got]| assert_close(name, &got, &want.values, |i| bound.values[i]),
                );
            }
        }
    }
}

/// `s` after five rounds, and what an error in it, and errors of `unit` in each operation, come to.
fn singular_value(mut s: f64, unit: f64) -> (f64, f64) {
    let [a, b, c] = POLYNOMIAL;
    let mut off = 2.0 * unit * s;
    for _ in 0..5 {
        let slope = |s: f64| (a + 3.0 * b * s.powi(2) + 5.0 * c * s.powi(4)).abs();
        let steepest = [s, s + off, s - off].map(slope).into_iter().fold(0.0, f64::max);
        // The square, its square, both multiples and both sums, the product and what is kept of it.
        let rounding = 8.0 * unit * s * (a + b.abs() * s.powi(2) + c * s.powi(4));
        off = steepest * off + rounding;
        s = a * s + b * s.powi(3) + c * s.powi(5);
    }
    (s, off)
}

/// With one value in each row and column, the values are the singular values, and every step is known exactly.
#[test]
fn steps_of_a_diagonal_are_the_equation() {
    const GRAD_SCALE: f32 = 0.37;
    for [rows, cols] in SHAPES {
        let n = rows.min(cols);
        let place = |i: usize| (i * 7 % n) * cols + (i * 7 % n);
        let diagonal = |seed: u64| {
            let mut values = vec![0.0; rows * cols];
            // None of them small beside the others: it would only say how steep the polynomial is at zero.
            random(n, seed).iter().enumerate().for_each(|(i, x)| values[place(i)] = x.signum() * (1.5 + x));
            values
        };
        let start = random(rows * cols, 9);
        let run = |cpu: &Cpu| {
            let [mut w, mut m] = [start.clone(), vec![0.0; rows * cols]];
            let mut history = [w.clone(), m.clone()].concat();
            for number in 1..4 {
                let g = diagonal(number);
                step(cpu, &mut Arena::default(), &SETTINGS, GRAD_SCALE, [rows, cols], &g, &mut w, &mut m);
                history.extend([w.clone(), m.clone()].concat());
            }
            [history]
        };
        on_every_isa(format!("steps of {rows} x {cols}"), run, |name, [history]| {
            let states: Vec<Vec<f64>> = history.chunks_exact(2 * rows * cols).map(widen).collect();
            for (number, (before, after)) in states.iter().zip(&states[1..]).enumerate() {
                let g = widen(&diagonal(number as u64 + 1));
                let Muon { lr, momentum, weight_decay, .. } = SETTINGS;
                let [lr, momentum, decay] = [lr, momentum, weight_decay].map(f64::from);
                let mut want = before.clone();
                let mut bound = vec![TINY; 2 * rows * cols];
                let mut update = vec![0.0; rows * cols];
                for (i, g) in g.iter().enumerate() {
                    let (m, g) = (before[rows * cols + i], g * f64::from(GRAD_SCALE));
                    let mean = momentum * m + (1.0 - momentum) * g;
                    want[rows * cols + i] = mean;
                    bound[rows * cols + i] += 4.0 * U * (momentum * m.abs() + (1.0 - momentum) * g.abs());
                    update[i] = momentum * mean + (1.0 - momentum) * g;
                }
                let length = update.iter().map(|u| u * u).sum::<f64>().sqrt();
                let rate = lr * 0.2 * (rows.max(cols) as f64).sqrt();
                for i in 0..rows * cols {
                    // Relative errors of the update: where terms of opposite sign meet, they are larger.
                    let terms = momentum.powi(2) * before[rows * cols + i].abs()
                        + (1.0 - momentum) * (1.0 + momentum) * g[i].abs() * f64::from(GRAD_SCALE);
                    let cancelled = if update[i] == 0.0 { 1.0 } else { terms / update[i].abs() };
                    let unit = U * (n as f64).sqrt().max(8.0 * cancelled);
                    let (s, off) = singular_value(update[i].abs() / length, unit);
                    let x = s.copysign(update[i]);
                    want[i] = before[i] * (1.0 - lr * decay) - if update[i] == 0.0 { 0.0 } else { rate * x };
                    bound[i] += U * 4.0 * (before[i].abs() + rate * s) + rate * off;
                }
                let after: Vec<f32> = after.iter().map(|x| *x as f32).collect();
                assert_close(format!("{name}: step {}", number + 1), &after, &want, |i| bound[i]);
            }
        });
    }
}

/// Whatever the directions, what comes out stretches none of them by much less or more than 1.
#[test]
fn what_comes_out_is_about_orthogonal() {
    // The extremes of five rounds over all lengths that four values with noise in one direction can have.
    let lengths = (40..=1000).map(|i| singular_value(f64::from(i) / 1000.0, 0.0).0);
    let (low, high) = lengths.fold((f64::MAX, 0.0_f64), |(low, high), s| (low.min(s), high.max(s)));
    assert!((0.6..0.75).contains(&low) && (1.1..1.3).contains(&high), "{low} to {high}");
    for [rows, cols] in [[24, 96], [96, 24], [8, 200], [40, 150]] {
        for dtype in [Dtype::F32, Dtype::Bf16] {
            let x = random(rows * cols, 3);
            let run = |cpu: &Cpu| {
                let mut arena = Arena::default();
                let x = tensor(rows, cols, Dtype::F32, &x);
                [orthogonal(cpu, &mut arena, x, dtype).to_f32_vec()]
            };
            on_every_isa(format!("{rows} x {cols} in {dtype:?}"), run, |name, [got]| {
                let x = Matrix { rows, cols, values: widen(&got) };
                let x = if rows <= cols { x } else { x.transposed() };
                for seed in 0..20 {
                    let direction = Matrix { rows: 1, cols: x.rows, values: random_signs(x.rows, seed) };
                    let length = |m: &Matrix| m.values.iter().map(|x| x * x).sum::<f64>().sqrt();
                    let stretch = length(&direction.times(&x)) / length(&direction);
                    // bf16 moves singular values by some hundredths.
                    assert!((low - 0.05..high + 0.05).contains(&stretch), "{name}: {stretch}");
                }
            });
        }
    }
}

#[test]
fn nothing_and_next_to_nothing_stay_finite() {
    for value in [0.0, 1e-30, 1e-20, 1e15] {
        let x = vec![value; 12 * 20];
        on_every_isa(
            format!("all {value:e}"),
            |cpu| {
                let x = tensor(12, 20, Dtype::F32, &x);
                [orthogonal(cpu, &mut Arena::default(), x, Dtype::Bf16).to_f32_vec()]
            },
            |name, [got]| assert!(got.iter().all(|x| x.is_finite() && x.abs() < 1.3), "{name}: {got:?}"),
        );
    }
}

/// Some parameters with gradients: two stacked matrices, the same two apart, an embedding and a norm.
fn stacked_and_apart() -> (Parameters, Gradients, Vec<Vec<usize>>) {
    let mut parameters = Parameters::new();
    let (weights, gradients) = (random(60 * 24, 1), random(60 * 24, 2));
    parameters.add(60, 24, &weights);
    let (first, second) = weights.split_at(20 * 24);
    let ids = [parameters.add(20, 24, first), parameters.add(40, 24, second)];
    let others = [parameters.add(30, 24, &random(30 * 24, 3)), parameters.add(1, 24, &[1.0; 24])];
    let mut all = Gradients::new(&parameters);
    all.accumulate(&mut Arena::default(), parameters.id(0)).0.f32_mut().copy_from_slice(&gradients);
    all.accumulate(&mut Arena::default(), ids[0]).0.f32_mut().copy_from_slice(&gradients[..20 * 24]);
    all.accumulate(&mut Arena::default(), ids[1]).0.f32_mut().copy_from_slice(&gradients[20 * 24..]);
    for id in others {
        all.accumulate(&mut Arena::default(), id).0.f32_mut().fill(0.5);
    }
    (parameters, all, vec![vec![20, 40], vec![20], vec![40], vec![], vec![]])
}

#[test]
fn matrices_in_one_parameter_are_matrices_apart() {
    let cpu = Cpu::with(Isa::Scalar, 2);
    let (mut parameters, mut gradients, matrices) = stacked_and_apart();
    let mut moments = Moments::with_muon(&parameters, matrices);
    let mut arena = Arena::default();
    let mut allocations = Vec::new();
    for _ in 0..3 {
        moments.step_muon(&cpu, &mut arena, &SETTINGS, 0.5, &mut gradients, &mut parameters);
        allocations.push(arena.allocations());
    }
    assert_eq!(allocations[1], allocations[2], "no memory is asked for once all of it is there");
    let values = |tensors: &[&Tensor]| tensors.iter().flat_map(|x| x.to_f32_vec()).collect::<Vec<f32>>();
    let [stacked, first, second] = [0, 1, 2].map(|i| parameters.get(parameters.id(i)));
    assert_eq!(stacked.to_f32_vec(), values(&[first, second]));
    assert_eq!(moments.mean[0].to_f32_vec(), values(&[&moments.mean[1], &moments.mean[2]]));
}

#[test]
fn each_optimiser_leaves_the_others_parameters_alone() {
    let cpu = Cpu::with(Isa::Scalar, 1);
    let adamw = AdamW { lr: 1e-2, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, step: 1 };
    let (mut parameters, mut gradients, matrices) = stacked_and_apart();
    let mut moments = Moments::with_muon(&parameters, matrices);
    let has_square: Vec<bool> = moments.square.iter().map(Option::is_some).collect();
    assert_eq!(has_square, [false, false, false, true, true], "Muon remembers half as much");
    let snapshot = |parameters: &Parameters| parameters.iter().map(Tensor::to_f32_vec).collect::<Vec<_>>();
    let changed = |before: &[Vec<f32>], after: &[Vec<f32>]| {
        before.iter().zip(after).map(|(before, after)| before != after).collect::<Vec<_>>()
    };
    let start = snapshot(&parameters);
    moments.step(&cpu, &adamw, 1.0, &mut gradients, &mut parameters);
    let middle = snapshot(&parameters);
    assert_eq!(changed(&start, &middle), [false, false, false, true, true]);
    moments.step_muon(&cpu, &mut Arena::default(), &SETTINGS, 1.0, &mut gradients, &mut parameters);
    assert_eq!(changed(&middle, &snapshot(&parameters)), [true, true, true, false, false]);
}

#[test]
#[should_panic(expected = "19 rows of matrices in 20")]
fn matrices_must_fill_their_parameter() {
    let mut parameters = Parameters::new();
    parameters.add(20, 4, &[0.0; 80]);
    let _ = Moments::with_muon(&parameters, vec![vec![10, 9]]);
}
