//! Single kernels, timed alone: matrix products and attention at the sizes that occur in training.
//!
//! Each measurement holds the kernel against [`peak_gflops`], taken just before and just after it, since the
//! machines are shared and their speed drifts.

use std::time::Instant;

use crate::arena::Arena;
use crate::batch::Batch;
use crate::interleaved::{self, QuantMatrix};
use crate::matmul::{Output, PackedMatrix, Precision, Source, multiply};
use crate::ops::attention::{self, Mask, Operands, Strided};
use crate::ops::qk_norm_rope::Heads;
use crate::peak::peak_gflops;
use crate::quant::BlockFormat;
use crate::tensor::Tensor;
use crate::{Cpu, Dtype};

/// What a kernel took.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Timing {
    /// All repetitions together, in seconds.
    pub seconds: f64,
    /// Multiplications and additions of all repetitions.
    pub flops: f64,
    /// The larger of the machine's peaks before and after, in units of 10⁹ a second.
    pub peak_gflops: f64,
}

/// One of the three products of a linear layer with `m` tokens, `n` features out and `k` features in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Product {
    /// `Y[m, n] = X[m, k] · W[n, k]ᵀ`, the weights packed before.
    Forward,
    /// `dX[m, k] = dY[m, n] · W[n, k]`, the weights packed before.
    InputGradient,
    /// `dW[n, k] += dY[m, n]ᵀ · X[m, k]`, everything packed on the way.
    WeightGradient,
}

/// Times a product; `size` is `[m, n, k]`. Activations are of type `dtype`, sums and gradients f32.
#[must_use]
pub fn product(cpu: &Cpu, dtype: Dtype, product: Product, size: [usize; 3], reps: usize) -> Timing {
    let [m, n, k] = size;
    let mut arena = Arena::default();
    let x = filled(m, k, dtype);
    let dy = filled(m, n, dtype);
    let weight = filled(n, k, Dtype::F32);
    let flops = 2.0 * (m * n * k) as f64;
    let precision = Precision::from(dtype);
    match product {
        Product::Forward => {
            let source = Source::along_cols(&weight, k);
            let packed = PackedMatrix::new(cpu, &mut arena, &source, n, k, precision);
            let mut y = filled(m, n, dtype);
            time(cpu, dtype, flops, reps, || {
                multiply(cpu, "product", &Source::along_cols(&x, k), m, &packed, Output::overwrite(&mut y));
            })
        }
        Product::InputGradient => {
            let source = Source::along_rows(&weight, k);
            let packed = PackedMatrix::new(cpu, &mut arena, &source, k, n, precision);
            let mut dx = filled(m, k, dtype);
            time(cpu, dtype, flops, reps, || {
                multiply(cpu, "product", &Source::along_cols(&dy, n), m, &packed, Output::overwrite(&mut dx));
            })
        }
        Product::WeightGradient => {
            let mut dw = Tensor::zeros(n, k, Dtype::F32);
            time(cpu, dtype, flops, reps, || {
                let packed = PackedMatrix::new(cpu, &mut arena, &Source::along_rows(&x, k), k, m, precision);
                multiply(
                    cpu,
                    "product",
                    &Source::along_rows(&dy, n),
                    n,
                    &packed,
                    Output::Accumulate(dw.f32_mut()),
                );
            })
        }
    }
}

/// Times causal attention of `heads` heads of `dim` coordinates over `tokens` tokens, forward or backward.
/// Only the useful half of the scores counts.
#[must_use]
pub fn attention(cpu: &Cpu, dtype: Dtype, backward: bool, shape: [usize; 3], reps: usize) -> Timing {
    let [heads, dim, tokens] = shape;
    let heads = Heads { query: heads, kv: heads, dim };
    let mut batch = Batch::new(tokens);
    batch.push_window(&vec![0; tokens + 1]);
    let qkv = filled(tokens, heads.qkv_cols(), dtype);
    let view =
        |column: usize| Strided { values: (&qkv).into(), stride: heads.qkv_cols(), offset: column * dim };
    let operands = Operands {
        heads,
        precision: dtype.into(),
        query: view(0),
        key: view(heads.query),
        value: view(heads.query + heads.kv),
        mask: Mask { rows: 1, queries: tokens, keys: tokens, starts: &batch.starts },
    };
    let mut arena = Arena::default();
    let dout = filled(tokens, heads.query * dim, dtype);
    let mut out = filled(tokens, heads.query * dim, dtype);
    let mut log_sums = Tensor::zeros(tokens, heads.query, Dtype::F32);
    let mut dqk = filled(tokens, heads.qk_cols(), dtype);
    let mut dqkv = filled(tokens, heads.qkv_cols(), dtype);
    let pairs = (tokens * (tokens + 1) / 2 * heads.query * dim) as f64;
    crate::tape::by_dtype!(dtype, E => {
        let mut forward = |out: &mut Tensor, log_sums: &mut Tensor| {
            attention::forward::<E>(cpu, &mut arena, &operands, out.as_mut_slice(), log_sums.f32_mut());
        };
        if backward {
            forward(&mut out, &mut log_sums);
            time(cpu, dtype, 10.0 * pairs, reps, || {
                let to = attention::Gradients { dqk: dqk.as_mut_slice::<E>(), dqkv: dqkv.as_mut_slice() };
                attention::backward(cpu, &operands, out.as_slice(), dout.as_slice(), log_sums.f32(), to);
            })
        } else {
            time(cpu, dtype, 4.0 * pairs, reps, || forward(&mut out, &mut log_sums))
        }
    })
}

/// Times products of `tokens` rows of activations with each of `count` quantised matrices `[rows, cols]` in turn;
/// `size` is `[tokens, rows, cols]`. Many matrices together are read from memory, one stays in the caches. The peak is
/// that of f32.
#[must_use]
pub fn quantised(cpu: &Cpu, format: BlockFormat, size: [usize; 3], count: usize, reps: usize) -> Timing {
    let [tokens, rows, cols] = size;
    let row = filled(1, cols, Dtype::F32);
    let mut blocks = vec![0; format.row_bytes(cols).expect("whole blocks")];
    format.quantize(row.f32(), None, &mut blocks).expect("finite weights");
    let blocks = blocks.repeat(rows);
    let matrices: Vec<_> = (0..count).map(|_| [QuantMatrix::new(cpu, format, rows, cols, &blocks)]).collect();
    let x = filled(tokens, cols, Dtype::F32);
    let mut y = filled(tokens, rows, Dtype::F32);
    time(cpu, Dtype::F32, 2.0 * (tokens * rows * cols * count) as f64, reps, || {
        for matrix in &matrices {
            interleaved::multiply(cpu, "product", x.f32(), cols, matrix, Output::F32(y.f32_mut()));
        }
    })
}

/// Times `reps` calls after one that warms up.
fn time(cpu: &Cpu, dtype: Dtype, flops: f64, reps: usize, mut call: impl FnMut()) -> Timing {
    call();
    let before = peak_gflops(cpu, dtype);
    let began = Instant::now();
    (0..reps).for_each(|_| call());
    let seconds = began.elapsed().as_secs_f64();
    let peak_gflops = before.max(peak_gflops(cpu, dtype));
    Timing { seconds, flops: flops * reps as f64, peak_gflops }
}

/// Values around zero that are no powers of two.
fn filled(rows: usize, cols: usize, dtype: Dtype) -> Tensor {
    let mut tensor = Tensor::zeros(rows, cols, dtype);
    crate::tape::by_dtype!(dtype, E => {
        for (i, value) in tensor.as_mut_slice::<E>().iter_mut().enumerate() {
            let bits = (i as u32).wrapping_mul(0x9e37_79b9) >> 16;
            *value = crate::Element::from_f32(bits as f32 / 32768.0 - 1.0);
        }
    });
    tensor
}
