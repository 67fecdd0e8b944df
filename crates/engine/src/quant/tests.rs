use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::testing::random;

/// What a format promises of a group's root mean square error, and why.
///
/// With the group's largest weight `a` and the block's `A`: the search tries the scale that puts the extreme
/// weight at the end of the levels, where no weight is further than `nearest·a` from a level (half a step, or a
/// whole one at the other end of `-n..n-1`; the step is `a/n`, or at most `2a/n` from min to max). Then factors
/// are rounded, by half a unit of `A/range` each, and f16 values by 2⁻¹¹ of themselves: `rounding·A` and `A/1024`.
/// All this holds for the weighted error, which is no less than the plain one that is compared to [`bound`].
struct Promise {
    format: BlockFormat,
    group: usize,
    nearest: f32,
    rounding: f32,
}

const fn promise(format: BlockFormat, group: usize, nearest: f32, rounding: f32) -> Promise {
    Promise { format, group, nearest, rounding }
}

const PROMISES: [Promise; 12] = [
    promise(BlockFormat::Q4_0, 32, 1.0 / 8.0, 0.0),
    promise(BlockFormat::Q4_1, 32, 1.0 / 15.0, 0.0),
    promise(BlockFormat::Q5_0, 32, 1.0 / 16.0, 0.0),
    promise(BlockFormat::Q5_1, 32, 1.0 / 31.0, 0.0),
    promise(BlockFormat::Q8_0, 32, 0.5 / 127.0, 0.0),
    // A scale of 2a/3 that multiplies up to 3, and a min of up to a, both rounded by half of 1/15.
    promise(BlockFormat::Q2K, 16, 1.0 / 3.0, 1.5 / 15.0),
    promise(BlockFormat::Q3K, 16, 1.0 / 4.0, 0.5 / 32.0),
    promise(BlockFormat::Q4K, 32, 1.0 / 15.0, 1.5 / 63.0),
    promise(BlockFormat::Q5K, 32, 1.0 / 31.0, 1.5 / 63.0),
    promise(BlockFormat::Q6K, 16, 1.0 / 32.0, 0.5 / 128.0),
    // The table ends at -127 and 113.
    promise(BlockFormat::Iq4Nl, 32, 14.0 / 127.0, 0.0),
    promise(BlockFormat::Iq4Xs, 32, 14.0 / 127.0, 0.5 / 32.0),
];

/// The largest root mean square error of the block `x`.
fn bound(promise: &Promise, x: &[f32]) -> f32 {
    let largest = |x: &[f32]| x.iter().fold(0.0, |a: f32, x| a.max(x.abs()));
    let rms = rms(x.iter().copied());
    let counts = |x: &f32| if rms > 0.0 { 1.0 + x.abs() / rms } else { 1.0 };
    let nearest = x.chunks(promise.group).flat_map(|group| {
        let most = promise.nearest * largest(group);
        group.iter().map(move |x| most * most * counts(x))
    });
    let nearest = (nearest.sum::<f32>() / x.len() as f32).sqrt();
    // Weights count 2 on average at most; a scale close to the smallest f16 is off by half of that, times q.
    let smallest = 127.0 * 2.0_f32.powi(-25);
    nearest + f32::sqrt(2.0) * ((promise.rounding + 1.0 / 1024.0) * largest(x) + smallest)
}

fn rms(x: impl ExactSizeIterator<Item = f32>) -> f32 {
    let n = x.len() as f32;
    (x.map(|x| x * x).sum::<f32>() / n).sqrt()
}

fn quantized(format: BlockFormat, x: &[f32], importance: Option<&[f32]>) -> Vec<u8> {
    let mut blocks = vec![0xaa; format.row_bytes(x.len()).unwrap()];
    format.quantize(x, importance, &mut blocks).unwrap();
    blocks
}

fn round_trip(format: BlockFormat, x: &[f32], importance: Option<&[f32]>) -> Vec<f32> {
    let mut back = vec![f32::NAN; x.len()];
    format.dequantize(&quantized(format, x, importance), &mut back);
    back
}

/// Sums of four even numbers, and a few of them ten times as large: about what weights look like.
fn weights(len: usize, seed: u64) -> Vec<f32> {
    let even = random(len * 4, seed);
    let sum = |(i, four): (usize, &[f32])| four.iter().sum::<f32>() * if i % 101 == 7 { 10.0 } else { 1.0 };
    even.chunks_exact(4).enumerate().map(sum).collect()
}

#[test]
fn every_promise_is_kept_in_order() {
    for (promise, format) in PROMISES.iter().zip(BlockFormat::ALL) {
        assert_eq!(promise.format, format);
    }
}

#[test]
fn names_lead_back_to_formats() {
    for format in BlockFormat::ALL {
        assert_eq!(BlockFormat::from_name(format.name()), Some(format));
    }
    assert_eq!(BlockFormat::from_name("q4_x"), None);
    assert_eq!(BlockFormat::Q4K.to_string(), "q4_k");
}

#[test]
fn bytes_of_a_row_are_those_of_the_format() {
    let bytes = [18, 20, 22, 24, 34, 84, 110, 144, 176, 210, 18, 136];
    for (format, bytes) in BlockFormat::ALL.into_iter().zip(bytes) {
        assert_eq!(format.bytes(), bytes, "{format}");
        assert_eq!(format.row_bytes(3 * format.weights()), Some(3 * bytes), "{format}");
        assert_eq!(format.row_bytes(format.weights() + 1), None, "{format}");
    }
    assert_eq!(BlockFormat::Q8_0.row_bytes(usize::MAX & !31), None);
}

#[test]
fn blocks_are_read_as_gguf_reads_them() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/quant");
    for format in BlockFormat::ALL {
        let read = |kind: &str| std::fs::read(folder.join(format!("{format}.{kind}"))).unwrap();
        let blocks = read("blocks");
        let expected: Vec<f32> =
            read("f32").as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        let mut weights = vec![f32::NAN; expected.len()];
        format.dequantize(&blocks, &mut weights);
        assert_eq!(weights, expected, "{format}");
    }
}

#[test]
fn errors_stay_as_small_as_they_were() {
    // Relative root mean square errors in thousandths, as measured when the search was written, plus 1 %.
    let measured = [148.6, 88.1, 73.1, 42.5, 9.44, 277.9, 192.5, 89.6, 43.8, 26.4, 112.7, 114.4];
    for (format, measured) in BlockFormat::ALL.into_iter().zip(measured) {
        let x = weights(1 << 14, 1);
        let error = rms(round_trip(format, &x, None).iter().zip(&x).map(|(y, x)| y - x));
        let relative = 1e3 * error / rms(x.iter().copied());
        assert!(relative < 1.01 * measured, "{format}: {relative} after {measured}");
    }
}

#[test]
fn matrices_are_the_same_bytes_for_any_threads_and_instructions() {
    let (rows, cols) = (67, 512);
    let x = weights(rows * cols, 2);
    let importance: Vec<f32> = random(cols, 3).iter().map(|x| x.abs()).collect();
    for format in BlockFormat::ALL {
        for importance in [None, Some(&importance[..])] {
            let expected: Vec<u8> =
                x.chunks(cols).flat_map(|row| quantized(format, row, importance)).collect();
            for isa in Isa::available() {
                let cpu = Cpu::with(isa, 3);
                let mut out = vec![0; expected.len()];
                quantize_rows(&cpu, format, rows, cols, &x, importance, &mut out).unwrap();
                assert!(out == expected, "{format} by {isa}");
            }
        }
    }
}

#[test]
fn what_counts_more_is_kept_better() {
    let x = weights(512, 4);
    let importance: Vec<f32> = (0..512).map(|i| if i % 4 == 0 { 100.0 } else { 1.0 }).collect();
    for format in BlockFormat::ALL {
        let error = |y: Vec<f32>| rms(y.iter().zip(&x).step_by(4).map(|(y, x)| y - x));
        let (with, without) =
            (error(round_trip(format, &x, Some(&importance))), error(round_trip(format, &x, None)));
        assert!(with < 0.995 * without, "{format}: {with} with importance, {without} without");
    }
}

#[test]
fn importance_of_zero_everywhere_is_none() {
    let x = weights(256, 5);
    for format in BlockFormat::ALL {
        assert_eq!(quantized(format, &x, Some(&[0.0; 256])), quantized(format, &x, None), "{format}");
    }
}

#[test]
fn zeros_stay_zeros() {
    for format in BlockFormat::ALL {
        for x in [0.0, -0.0, 1e-40, -1e-9] {
            assert!(round_trip(format, &[x; 256], None).iter().all(|y| *y == 0.0), "{format} of {x}");
        }
    }
}

#[test]
fn constants_spikes_and_steps_are_within_the_bound() {
    let one = |at: usize, value: f32| (0..256).map(|i| if i == at { value } else { 0.0 }).collect();
    let cases: [Vec<f32>; 7] = [
        vec![1.0; 256],
        vec![-3.0e-3; 256],
        one(0, 1.0),
        one(255, -1e4),
        (0..256).map(|i| if i == 100 { 1e4 } else { (i as f32).sin() }).collect(),
        (0..256).map(|i| if i < 128 { -1.0 } else { 1.0 }).collect(),
        (0..256).map(|i| i as f32 / 256.0).collect(),
    ];
    for promise in &PROMISES {
        for (case, x) in cases.iter().enumerate() {
            let back = round_trip(promise.format, x, None);
            for (x, y) in x.chunks(promise.format.weights()).zip(back.chunks(promise.format.weights())) {
                let error = rms(y.iter().zip(x).map(|(y, x)| y - x));
                assert!(error <= bound(promise, x), "{} of case {case}: {error}", promise.format);
            }
        }
    }
}

#[test]
fn tiny_weights_are_not_lost_before_f16_is_at_its_end() {
    // The smallest f16 is 2⁻²⁴; these are 2⁻²⁰, in formats whose scale alone would be a hundredth of that.
    let x: Vec<f32> = random(256, 6).iter().map(|x| x * 2.0_f32.powi(-20)).collect();
    for format in BlockFormat::ALL {
        let back = round_trip(format, &x, None);
        let error = rms(back.iter().zip(&x).map(|(y, x)| y - x));
        assert!(error < 0.5 * rms(x.iter().copied()), "{format}: {error}");
    }
}

#[test]
fn weights_beyond_the_format_are_the_largest_it_has() {
    let x: Vec<f32> = (0..256).map(|i| if i % 2 == 0 { f32::MAX } else { f32::MIN }).collect();
    for format in BlockFormat::ALL {
        let back = round_trip(format, &x, None);
        assert!(back.iter().all(|y| y.is_finite()), "{format}: {back:?}");
        assert!(back[0] > 1e5 && back[1] <= -65504.0, "{format}: {} {}", back[0], back[1]);
    }
}

#[test]
fn what_is_not_finite_is_refused_by_place() {
    let cpu = Cpu::with(Isa::Scalar, 2);
    let mut x = weights(3 * 256, 7);
    x[2 * 256 + 5] = f32::INFINITY;
    x[256 + 9] = f32::NAN;
    for format in BlockFormat::ALL {
        let mut out = vec![0; 3 * format.row_bytes(256).unwrap()];
        let error = quantize_rows(&cpu, format, 3, 256, &x, None, &mut out).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the weight in row 1, column 9 is `NaN`; only finite weights can be quantised"
        );
        let error = format.quantize(&x, None, &mut out).unwrap_err();
        assert!(matches!(error, QuantError::Weight { row: 0, col: 265, .. }), "{error}");
        for bad in [-1.0, f32::NAN, f32::INFINITY] {
            let mut importance = vec![1.0; 256];
            importance[3] = bad;
            let error = quantize_rows(&cpu, format, 3, 256, &x, Some(&importance), &mut out).unwrap_err();
            assert!(matches!(error, QuantError::Importance { col: 3, .. }), "{error}");
        }
    }
}

#[test]
fn a_matrix_without_rows_or_columns_is_nothing() {
    let cpu = Cpu::with(Isa::Scalar, 1);
    for (rows, cols) in [(0, 256), (3, 0)] {
        quantize_rows(&cpu, BlockFormat::Q4K, rows, cols, &[], None, &mut []).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn errors_are_within_the_bound(
        seed in any::<u64>(),
        // So that minima and scales are within f16; what is beyond has a test of its own.
        scale in -12_i32..6,
        group_scales in prop::collection::vec(-6_i32..3, 16),
        offset in prop::sample::select(vec![0.0_f32, 0.0, 0.3, -1.0]),
    ) {
        let x: Vec<f32> = weights(256, seed)
            .iter()
            .enumerate()
            .map(|(i, x)| (x + offset) * 2.0_f32.powi(scale + group_scales[i / 16]))
            .collect();
        for promise in &PROMISES {
            let back = round_trip(promise.format, &x, None);
            for (x, y) in x.chunks(promise.format.weights()).zip(back.chunks(promise.format.weights())) {
                prop_assert!(x.iter().all(|x| x.abs() < 65504.0), "weights that f16 holds");
                let error = rms(y.iter().zip(x).map(|(y, x)| y - x));
                prop_assert!(error <= bound(promise, x), "{}: {error} over {}", promise.format, bound(promise, x));
            }
        }
    }

    #[test]
    fn any_bytes_can_be_read(bytes in prop::collection::vec(any::<u8>(), 210 * 2)) {
        for format in BlockFormat::ALL {
            let blocks = bytes.len() / format.bytes();
            let mut weights = vec![0.0; blocks * format.weights()];
            format.dequantize(&bytes[..blocks * format.bytes()], &mut weights);
        }
    }

    #[test]
    fn any_finite_weights_can_be_stored(bits in prop::collection::vec(any::<u32>(), 256)) {
        let x: Vec<f32> = bits.iter().map(|b| f32::from_bits(*b)).map(|x| if x.is_finite() { x } else { 0.0 }).collect();
        let importance: Vec<f32> = x.iter().map(|x| x.abs()).collect();
        for format in BlockFormat::ALL {
            for importance in [None, Some(&importance[..])] {
                prop_assert!(round_trip(format, &x, importance).iter().all(|y| y.is_finite()), "{format}");
            }
        }
    }
}
