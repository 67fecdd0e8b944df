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

kernel! {
    fn transpose_block(s, from: &[u32], to: &mut [u32], stride: usize) {
        assert!(from.len() >= stride * lanes_of(s) && to.len() >= stride * lanes_of(s));
        // SAFETY: both hold as many rows as there are lanes.
        unsafe { s.transpose_units(from.as_ptr(), stride, to.as_mut_ptr(), stride) };
    }
}

kernel! {
    fn split(s, x: &[f32], parts: [&mut [f32]; 3]) {
        let [first, second, third] = parts;
        for_lanes!(s, x.len(), |i, n| {
            let [a, b, c] = s.split_bf16(load(s, x, i, n));
            store(s, a, first, i, n);
            store(s, b, second, i, n);
            store(s, c, third, i, n);
        });
    }
}

kernel! {
    fn pair(s, low: &[bf16], high: &[bf16], to: &mut [f32]) { s.pair_rows(low, high, to); }
}

kernel! {
    fn keep_first(s, x: &[f32], keep: usize, out: &mut [f32]) {
        let n = lanes_of(s);
        store(s, s.first_lanes(load(s, x, 0, n), keep, s.splat(-1.0)), out, 0, n);
    }
}

fn lanes(isa: Isa) -> usize {
    match isa {
        Isa::Scalar => 1,
        Isa::Avx2 => 8,
        Isa::Avx512 | Isa::Amx => 16,
    }
}

#[test]
fn blocks_are_transposed() {
    let stride = 19;
    for isa in Isa::available() {
        let from: Vec<u32> = (0..16 * stride as u32).collect();
        let mut to = vec![u32::MAX; 16 * stride];
        transpose_block(isa, &from, &mut to, stride);
        for row in 0..16 {
            for col in 0..stride {
                let inside = row < lanes(isa) && col < lanes(isa);
                let want = if inside { (col * stride + row) as u32 } else { u32::MAX };
                assert_eq!(to[row * stride + col], want, "{isa} {row} {col}");
            }
        }
    }
}

#[test]
fn three_parts_are_the_whole_and_each_is_bf16() {
    let bits = (0..20_000_u32).map(|i| i.wrapping_mul(2_654_435_761));
    // Parts of what is as small as 2^-100 are not subnormal; what rounds to infinity is left out.
    let fits = |x: &f32| x.abs() > 1e-30 && x.abs() < 3.38e38;
    let x: Vec<f32> = bits.map(f32::from_bits).filter(fits).chain([0.0, 1.0, -0.1]).collect();
    for isa in Isa::available() {
        let mut parts = [vec![9.0; x.len()], vec![9.0; x.len()], vec![9.0; x.len()]];
        split(isa, &x, parts.each_mut().map(|part| &mut part[..]));
        for (i, x) in x.iter().enumerate() {
            let [a, b, c] = [parts[0][i], parts[1][i], parts[2][i]];
            assert_eq!(f64::from(a) + f64::from(b) + f64::from(c), f64::from(*x), "{isa}: {x:e}");
            assert!([a, b, c].iter().all(|part| part.to_bits() & 0xffff == 0), "{isa}: {x:e}");
            // Half a unit in the eighth place of each part is what remains.
            assert!(b.abs() <= x.abs() / 256.0 && c.abs() <= x.abs() / 131_072.0, "{isa}: {x:e}");
        }
        let mut parts = [[0.0]; 3];
        for strange in [f32::NAN, f32::INFINITY, f32::from_bits(0x7fff_ffff), f32::from_bits(0xffff_8000)] {
            split(isa, &[strange], parts.each_mut().map(|part| &mut part[..]));
            assert!(parts.iter().any(|part| !part[0].is_finite()), "{isa}: {strange}");
        }
    }
}

#[test]
fn rows_are_paired_and_lanes_are_kept() {
    let x: Vec<bf16> = (0..64).map(|i| bf16::from_f32(i as f32)).collect();
    for isa in Isa::available() {
        let mut to = vec![0.0_f32; 32];
        pair(isa, &x[..32], &x[32..], &mut to);
        for (i, to) in to.iter().enumerate().take(2 * lanes(isa)) {
            let want = u32::from(x[i].to_bits()) | u32::from(x[32 + i].to_bits()) << 16;
            assert_eq!(to.to_bits(), want, "{isa} {i}");
        }
        let values: Vec<f32> = (0..16).map(|i| i as f32).collect();
        for keep in 0..=17 {
            let mut out = vec![0.0; 16];
            keep_first(isa, &values, keep, &mut out);
            let right = (0..lanes(isa)).all(|i| out[i] == if i < keep { i as f32 } else { -1.0 });
            assert!(right, "{isa} {keep}: {out:?}");
        }
    }
}
