//! Products against the definition in f64.

use super::*;
use crate::Isa;
use crate::testing::random;

/// |error| of a sum of `k` products in f32, each step rounded: `gamma_k * sum |a b|`, u = 2^-24; the
/// operands are rounded to bf16 before, in the reference too.
fn tolerance(k: usize, magnitude: f64) -> f64 {
    let ku = (k as f64 + 2.0) * 2.0_f64.powi(-24);
    ku / (1.0 - ku) * magnitude
}

fn check(
    isa: Isa,
    threads: usize,
    (m, n, k): (usize, usize, usize),
    precision: Precision,
    along: [bool; 2],
    as_bf16: bool,
) {
    let cpu = Cpu::with(isa, threads);
    let mut arena = Arena::default();
    let (a, b, start) = (random(m * k, 1), random(n * k, 2), random(m * n, 3));
    let half = |x: &[f32]| x.iter().map(|x| bf16::from_f32(*x)).collect::<Vec<_>>();
    let (a_half, b_half) = (half(&a), half(&b));
    let source = |values: Values<'static>, along_cols: bool, outer| {
        if along_cols { Source::along_cols(values, k) } else { Source::along_rows(values, outer) }
    };
    // Leaked, so that one closure can hand out either type.
    fn leak<T: Clone>(x: &[T]) -> &'static [T] {
        Vec::leak(x.to_vec())
    }
    let values = |x: &[f32], h: &[bf16]| if as_bf16 { Values::Bf16(leak(h)) } else { Values::F32(leak(x)) };
    let a = source(values(&a, &a_half), along[0], m);
    let b = source(values(&b, &b_half), along[1], n);
    let want = multiply_reference(&a, m, &b, n, k, precision);
    let packed = PackedMatrix::new(&cpu, &mut arena, &b, n, k, precision);
    let name = format!("{isa} {threads} threads {m}x{n}x{k} {precision:?} along {along:?} bf16 {as_bf16}");
    let bound = |i: usize| {
        let sum: f64 = (0..k).map(|j| f64::from(a.at(i / n, j) * b.at(i % n, j)).abs()).sum();
        tolerance(k, sum * 1.02 + f64::from(start[i]).abs())
    };

    let mut c = vec![f32::NAN; m * n];
    multiply(&cpu, "", &a, m, &packed, Output::F32(&mut c));
    for i in 0..m * n {
        assert!((f64::from(c[i]) - want[i]).abs() <= bound(i), "{name}: C[{i}] = {} not {}", c[i], want[i]);
    }
    let mut sum = start.clone();
    multiply(&cpu, "", &a, m, &packed, Output::Accumulate(&mut sum));
    let mut added = vec![f32::NAN; m * n];
    multiply(&cpu, "", &a, m, &packed, Output::AddTo(&start, &mut added));
    assert_eq!(sum, added, "{name}");
    for i in 0..m * n {
        let want = want[i] + f64::from(start[i]);
        assert!((f64::from(sum[i]) - want).abs() <= bound(i), "{name}: {} not {want}", sum[i]);
    }
    let mut rounded = vec![bf16::NAN; m * n];
    multiply(&cpu, "", &a, m, &packed, Output::Bf16(&mut rounded));
    for i in 0..m * n {
        let bound = bound(i) + want[i].abs() * 2.0_f64.powi(-8);
        assert!((f64::from(rounded[i].to_f32()) - want[i]).abs() <= bound, "{name}: bf16");
    }
}

#[test]
fn products_of_all_orientations_types_and_odd_sizes() {
    let sizes = [
        (1, 1, 1),
        (1, 33, 70),
        (2, 7, 3),
        (13, 32, 31),
        (12, 64, 64),
        (31, 17, 100),
        (33, 65, 16),
        (97, 40, 48),
        (70, 33, 96),
    ];
    for isa in Isa::available() {
        for size in sizes {
            for precision in [Precision::F32, Precision::Bf16] {
                for along in [[true, true], [true, false], [false, false], [false, true]] {
                    for as_bf16 in [false, true] {
                        check(isa, 2, size, precision, along, as_bf16);
                    }
                }
            }
        }
    }
}

#[test]
fn a_long_reduction_is_cut_without_harm() {
    for isa in Isa::available() {
        check(isa, 2, (5, 9, 5000), Precision::F32, [true, false], false);
        check(isa, 2, (5, 9, 5000), Precision::Bf16, [false, true], false);
    }
}

#[test]
fn neither_threads_nor_other_rows_change_a_bit() {
    let (m, n, k) = (150, 200, 320);
    let (a, b) = (random(m * k, 4), random(n * k, 5));
    let a_half: Vec<bf16> = a.iter().map(|x| bf16::from_f32(*x)).collect();
    for isa in Isa::available() {
        for precision in [Precision::F32, Precision::Bf16] {
            // Rounded before or in packing: the same values, but only rows that are bf16 already go unpacked.
            let a_values = if precision == Precision::Bf16 { Values::Bf16(&a_half) } else { Values::F32(&a) };
            let product = |threads, rows: usize| {
                let cpu = Cpu::with(isa, threads);
                let mut arena = Arena::default();
                let b = Source::along_cols(Values::F32(&b), k);
                let packed = PackedMatrix::new(&cpu, &mut arena, &b, n, k, precision);
                let mut c = vec![0.0; rows * n];
                multiply(&cpu, "", &Source::along_cols(a_values, k), rows, &packed, Output::F32(&mut c));
                c
            };
            let whole = product(1, m);
            assert_eq!(whole, product(2, m), "{isa} {precision:?}");
            assert_eq!(whole, product(3, m), "{isa} {precision:?}");
            for rows in [1, 5, 40] {
                assert_eq!(whole[..rows * n], product(2, rows), "{isa} {precision:?} {rows} rows alone");
            }
        }
    }
}

#[test]
fn subnormal_values_change_nothing_beside_them() {
    let (m, n, k) = (3, 5, 40);
    let b = random(n * k, 9);
    for isa in Isa::available() {
        let cpu = Cpu::with(isa, 1);
        let mut arena = Arena::default();
        let b = Source::along_cols(&b[..], k);
        let packed = PackedMatrix::new(&cpu, &mut arena, &b, n, k, Precision::F32);
        let product = |small: u32| {
            let a: Vec<f32> =
                (0..(m * k) as u32).map(|i| if i % 3 == 0 { 1.0 } else { f32::from_bits(small) }).collect();
            let mut c = vec![f32::NAN; m * n];
            let a = Source::along_cols(&a[..], k);
            multiply(&cpu, "", &a, m, &packed, Output::F32(&mut c));
            c
        };
        let without = product(0);
        for (c, want) in product(0x0000_4123).iter().zip(without) {
            assert!((c - want).abs() < 1e-30, "{isa}: {c} not {want}");
        }
    }
}
