//! Every vector width against plain Rust.

use half::bf16;

use super::*;

kernel! {
    fn exp2_of(s, x: &[f32], out: &mut [f32]) {
        for_lanes!(s, x.len(), |i, n| { store(s, exp2(s, load(s, x, i, n)), out, i, n); });
    }
}

kernel! {
    fn round_to_bf16(s, x: &[f32], out: &mut [bf16]) {
        for_lanes!(s, x.len(), |i, n| { store(s, load(s, x, i, n), out, i, n); });
    }
}

kernel! {
    fn dot_pairs(s, a: &[f32], b: &[f32], acc: &mut [f32]) {
        for_lanes!(s, a.len(), |i, n| {
            let sum = s.dot_bf16_pairs(load(s, acc, i, n), load(s, a, i, n), load(s, b, i, n));
            store(s, sum, acc, i, n);
        });
    }
}

kernel! {
    fn sum_and_largest(s, x: &[f32]) -> (f32, f32) {
        let v = s.load_partial(&x[..x.len().min(lanes_of(s))]);
        (s.sum(v), s.largest(v))
    }
}

#[test]
fn exp2_is_close_and_keeps_the_special_values() {
    let x: Vec<f32> = (0..4001).map(|i| i as f32 * 0.063 - 126.0).collect();
    for isa in Isa::available() {
        let mut out = vec![0.0; x.len()];
        exp2_of(isa, &x, &mut out);
        for (x, got) in x.iter().zip(&out) {
            let exact = f64::from(*x).exp2();
            assert!((f64::from(*got) / exact - 1.0).abs() < 2.5e-7, "{isa}: 2^{x} = {got}");
        }
        let special = [0.0, f32::NEG_INFINITY, -1e30, f32::NAN, 1.0];
        let mut out = [9.0; 5];
        exp2_of(isa, &special, &mut out);
        assert_eq!(out[..3], [1.0, 0.0, 0.0], "{isa}");
        assert!(out[3].is_nan(), "{isa}: {out:?}");
        assert_eq!(out[4], 2.0, "{isa}");
    }
}

#[test]
fn bf16_rounds_to_nearest_even_and_keeps_nan() {
    let mut x: Vec<f32> = (0..9000_u32).map(|i| f32::from_bits(i.wrapping_mul(2_654_435_761))).collect();
    x.extend([
        0.0,
        -0.0,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::MAX,
        f32::NAN,
        1.0,
        1.0 + 1.0 / 256.0,
        1.0 + 3.0 / 256.0,
    ]);
    // The vector instruction flushes subnormals to zero, the others do not: leave them out.
    x.retain(|x| !x.is_subnormal());
    for isa in Isa::available() {
        let mut out = vec![bf16::ZERO; x.len()];
        round_to_bf16(isa, &x, &mut out);
        for (x, got) in x.iter().zip(&out) {
            let want = bf16::from_f32(*x);
            assert!(got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan()), "{isa}: {x:e}");
        }
    }
}

#[test]
fn bf16_pairs_agree_bit_for_bit() {
    let value = |i: u32| 1.0 + (i.wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 23) as f32 - 1.5;
    let pair = |i: u32| {
        let (low, high) = (bf16::from_f32(value(2 * i)), bf16::from_f32(value(2 * i + 1)));
        f32::from_bits(u32::from(low.to_bits()) | u32::from(high.to_bits()) << 16)
    };
    let a: Vec<f32> = (0..1000).map(pair).collect();
    let b: Vec<f32> = (5000..6000).map(pair).collect();
    let start: Vec<f32> = (9000..10_000).map(value).collect();
    let mut want = start.clone();
    dot_pairs(Isa::Scalar, &a, &b, &mut want);
    for isa in Isa::available() {
        let mut got = start.clone();
        dot_pairs(isa, &a, &b, &mut got);
        assert_eq!(got, want, "{isa}");
    }
}

#[test]
fn reductions_see_every_lane() {
    for isa in Isa::available() {
        let lanes = match isa {
            Isa::Scalar => 1,
            Isa::Avx2 => 8,
            _ => 16,
        };
        let x: Vec<f32> = (0..lanes).map(|i| (1 << i) as f32).collect();
        let (sum, largest) = sum_and_largest(isa, &x);
        assert_eq!((sum, largest), (((1 << lanes) - 1) as f32, (1 << (lanes - 1)) as f32), "{isa}");
    }
}
