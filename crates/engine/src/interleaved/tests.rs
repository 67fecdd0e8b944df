use super::*;
use crate::testing::random;

/// Random blocks of a format, as they are found in files: all codes, scales of a usual size.
fn quantized(format: BlockFormat, rows: usize, cols: usize, seed: u64) -> Vec<u8> {
    let weights = random(rows * cols, seed);
    let row_bytes = format.row_bytes(cols).unwrap();
    let mut blocks = vec![0; rows * row_bytes];
    format.quantize(&weights, None, &mut blocks).unwrap();
    blocks
}

fn product(cpu: &Cpu, matrices: &[QuantMatrix], x: &[f32]) -> Vec<f32> {
    let cols = matrices[0].cols();
    let rows: usize = matrices.iter().map(QuantMatrix::rows).sum();
    let mut y = vec![0.0; x.len() / cols * rows];
    multiply(cpu, "test", x, cols, matrices, Output::F32(&mut y));
    y
}

/// Sums in f64, and those of the sizes of what is summed up, with weights as the format says.
fn definition(format: BlockFormat, blocks: &[u8], rows: usize, x: &[f32], cols: usize) -> Vec<(f64, f64)> {
    let mut weights = vec![0.0; rows * cols];
    format.dequantize(blocks, &mut weights);
    let mut y = Vec::new();
    for x in x.chunks_exact(cols) {
        for w in weights.chunks_exact(cols) {
            let products = x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w));
            let sizes: f64 = products.clone().map(f64::abs).sum();
            y.push((products.sum(), sizes));
        }
    }
    y
}

/// `x` rounded to 127 steps of the largest in each 32.
fn rounded(x: &[f32]) -> Vec<f32> {
    let mut rounded = x.to_vec();
    for group in rounded.chunks_exact_mut(32) {
        let largest = group.iter().fold(0.0_f32, |a, b| a.max(b.abs()));
        if largest > 0.0 {
            for x in group {
                *x = (*x * (127.0 / largest)).round_ties_even() * (largest / 127.0);
            }
        }
    }
    rounded
}

fn has_tiles() -> bool {
    let found = Isa::available().into_iter().any(|isa| isa == Isa::Amx);
    if !found {
        println!("no matrix tiles here, and so no activations of 16 bits");
    }
    found
}

#[test]
fn products_are_those_of_the_weights_that_the_blocks_stand_for() {
    let cpu = Cpu::with(Isa::Scalar, 1);
    for format in BlockFormat::ALL {
        let (rows, cols, tokens) = (21, 3 * format.weights().max(96), 3);
        let blocks = quantized(format, rows, cols, 1);
        let x = random(tokens * cols, 2);
        let matrix = QuantMatrix::new(&cpu, format, rows, cols, &blocks);
        let y = product(&cpu, &[matrix], &x);
        for (y, (exact, sizes)) in y.iter().zip(definition(format, &blocks, rows, &rounded(&x), cols)) {
            // Integers are exact; each group adds its sum and its minimum, rounded like the scales' product. A minimum
            // is as large as half the codes' range, so the parts are up to twice as large as their sum.
            let roundings = (2 * cols / 16 + 4) as f64;
            let bound = 2.0 * roundings * f64::from(f32::EPSILON) * sizes;
            assert!((f64::from(*y) - exact).abs() <= bound, "{format}: {y} for {exact}, {bound}");
        }
    }
}

#[test]
fn sixteen_bits_are_nearly_the_activations_as_they_are() {
    if !has_tiles() {
        return;
    }
    let cpu = Cpu::with(Isa::Amx, 1);
    for format in BlockFormat::ALL.into_iter().filter(|format| is_wide(Isa::Amx, *format)) {
        let (rows, cols, tokens) = (21, 768, 3);
        let blocks = quantized(format, rows, cols, 1);
        let x = random(tokens * cols, 2);
        let y = product(&cpu, &[QuantMatrix::new(&cpu, format, rows, cols, &blocks)], &x);
        let mut weights = vec![0.0; rows * cols];
        format.dequantize(&blocks, &mut weights);
        let largest = |x: &[f32]| f64::from(x.iter().fold(0.0_f32, |a, b| a.max(b.abs())));
        // A code is off by half a step, the sum of sixteen by 32; where that counts, the smallest of sixteen weights is
        // their minimum.
        let step = largest(&x) / 32512.0;
        let off = step * largest(&weights) * cols as f64 * (0.5 + 32.0 / 16.0);
        for (y, (exact, sizes)) in y.iter().zip(definition(format, &blocks, rows, &x, cols)) {
            // Each block rounds both halves of its sum, their sum, the minima, the scales and the result.
            let bound = off + 8.0 * (cols / 256) as f64 * f64::from(f32::EPSILON) * sizes;
            assert!((f64::from(*y) - exact).abs() <= bound, "{format}: {y} for {exact}, {bound}");
            assert!(bound < 0.01 * sizes, "{format}: a bound that says something, {bound} of {sizes}");
        }
    }
}

#[test]
fn all_instruction_sets_rows_and_threads_give_the_same_bits() {
    for format in BlockFormat::ALL {
        // The last block is not whole, where blocks are small.
        let (rows, cols) = (40, if format.weights() == 32 { 608 } else { 768 });
        let blocks = quantized(format, rows, cols, 3);
        let x = random(37 * cols, 4);
        let plain = Cpu::with(Isa::Scalar, 1);
        let matrix = [QuantMatrix::new(&plain, format, rows, cols, &blocks)];
        let narrow = product(&plain, &matrix, &x);
        for isa in Isa::available() {
            let all = if is_wide(isa, format) { wide::plain(&matrix[0], &x) } else { narrow.clone() };
            for threads in [1, 3] {
                let cpu = Cpu::with(isa, threads);
                let matrix = [QuantMatrix::new(&cpu, format, rows, cols, &blocks)];
                for tokens in [1, 2, 3, 4, 5, 8, 9, 16, 17, 37] {
                    let y = product(&cpu, &matrix, &x[..tokens * cols]);
                    assert!(y == all[..tokens * rows], "{format}, {isa}, {threads} threads, {tokens} tokens");
                }
            }
        }
    }
}

#[test]
fn matrices_stand_one_below_the_other() {
    let cpu = Cpu::with(Isa::Scalar, 1);
    let (cols, x) = (512, random(2 * 512, 7));
    let matrices = [(BlockFormat::Q4K, 20), (BlockFormat::Q6K, 5)].map(|(format, rows)| {
        QuantMatrix::new(&cpu, format, rows, cols, &quantized(format, rows, cols, rows as u64))
    });
    let together = product(&cpu, &matrices, &x);
    let [a, b] = matrices.map(|matrix| product(&cpu, &[matrix], &x));
    for token in 0..2 {
        assert_eq!(together[25 * token..25 * token + 20], a[20 * token..20 * (token + 1)]);
        assert_eq!(together[25 * token + 20..25 * (token + 1)], b[5 * token..5 * (token + 1)]);
    }
}

#[test]
fn activations_of_nearly_nothing_are_nothing() {
    let cpu = Cpu::with(Isa::Scalar, 1);
    let format = BlockFormat::Q4_1;
    let matrix = QuantMatrix::new(&cpu, format, 4, 64, &quantized(format, 4, 64, 1));
    // 127 over such a number is beyond f32.
    let mut x = vec![1e-37; 64];
    x[40] = f32::MIN_POSITIVE / 4.0;
    assert_eq!(product(&cpu, &[matrix], &x), [0.0; 4]);
}
