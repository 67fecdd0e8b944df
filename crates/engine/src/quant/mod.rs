//! Weights in blocks of a few bits each: the quantised formats of GGUF files.
//!
//! A row of weights is cut into blocks of 32 or 256; a block holds small whole numbers and the scales that turn
//! them back into weights. [`BlockFormat`] says how; the layout of each format, byte for byte that of GGUF, is
//! described where it is implemented.
//!
//! Going back to f32 is what the format says it is, to the bit. The way there is a search: which scales
//! leave the smallest error, weighted by how much each weight counts, is found by trying (`search`), first for
//! each group of weights (`group`), then for the scales among each other (`superblock`). What is stored is what
//! was tried: levels are chosen for scales as they are after rounding.
//!
//! All of this is plain Rust in f32 with sums in a fixed order, so that a matrix becomes the same bytes on every
//! machine, for any number of threads.
//!
//! ```
//! use elmwood_engine::quant::BlockFormat;
//!
//! let weights: Vec<f32> = (0..256).map(|i| (i as f32).sin()).collect();
//! let format = BlockFormat::from_name("q4_k").unwrap();
//! let mut blocks = vec![0; format.row_bytes(weights.len()).unwrap()];
//! format.quantize(&weights, None, &mut blocks)?;
//! let mut back = vec![0.0; weights.len()];
//! format.dequantize(&blocks, &mut back);
//! assert_eq!(blocks.len(), 144);
//! assert!(weights.iter().zip(&back).all(|(x, y)| (x - y).abs() < 0.1));
//! # Ok::<(), elmwood_engine::quant::QuantError>(())
//! ```

mod bits;
mod group;
mod iq4;
mod legacy;
mod q2_k;
mod q3_k;
mod q4_k;
mod q6_k;
mod search;
mod superblock;

#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicUsize, Ordering};

use bytemuck::Pod;
use half::f16;

use crate::simd::kernel;
use crate::threads::Parts;
use crate::{Cpu, Isa};

/// Weights of the large blocks.
const SUPERBLOCK: usize = 256;
/// Weights that one task quantises, about.
const GRAIN: usize = 1 << 14;

/// A quantised format: how many weights make a block, and what its bytes mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are the formats' own")]
pub enum BlockFormat {
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
    Iq4Nl,
    Iq4Xs,
}

/// Why weights were not quantised.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum QuantError {
    /// A weight that is no finite number.
    #[error("the weight in row {row}, column {col} is `{value}`; only finite weights can be quantised")]
    Weight {
        /// Its row; 0 where there are no rows.
        row: usize,
        /// Its place in the row.
        col: usize,
        /// What it is.
        value: f32,
    },
    /// An importance that is negative or no finite number.
    #[error("the importance of column {col} is `{value}`; it must be finite and not negative")]
    Importance {
        /// Its place.
        col: usize,
        /// What it is.
        value: f32,
    },
}

impl BlockFormat {
    /// All formats, those of 32 weights and one scale first.
    pub const ALL: [Self; 12] = [
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
        Self::Iq4Nl,
        Self::Iq4Xs,
    ];

    /// The format's usual name, in lower case: `q4_0`, `q4_k`, `iq4_nl`.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.codec().name
    }

    /// The format of that [`name`](Self::name).
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name)
    }

    /// Weights of a block: 32 or 256.
    #[must_use]
    pub fn weights(self) -> usize {
        self.codec().weights
    }

    /// Bytes of a block.
    #[must_use]
    pub fn bytes(self) -> usize {
        self.codec().bytes
    }

    /// Bytes of a row of `cols` weights; `None` if that is not a whole number of blocks, or too many to count.
    #[must_use]
    pub fn row_bytes(self, cols: usize) -> Option<usize> {
        let Codec { weights, bytes, .. } = self.codec();
        if cols.is_multiple_of(weights) { (cols / weights).checked_mul(bytes) } else { None }
    }

    /// The weights that `blocks` stand for; any bytes stand for some, if only for NaN.
    ///
    /// # Panics
    /// Unless `blocks` are whole blocks and `out` has room for just their weights.
    pub fn dequantize(self, blocks: &[u8], out: &mut [f32]) {
        let codec = self.codec();
        assert_eq!(Some(blocks.len()), self.row_bytes(out.len()), "bytes for {} weights", out.len());
        (codec.dequantize)(blocks, out);
    }

    /// The blocks that stand for `weights` with the least squared error, as far as the search goes.
    ///
    /// `importance` has one number for each weight, that its error is multiplied by: for the matrix of a
    /// linear layer the mean square of the input that the weight meets. Large weights count a little more than
    /// small ones either way. Weights beyond what the format can hold become the largest that it can; f16
    /// scales are never infinite. Weights that are all below 2⁻²⁵, half the smallest f16, become zeros.
    ///
    /// # Errors
    /// [`QuantError`] for the first weight that is not finite, or importance that is not finite or negative;
    /// what is in `out` then has no meaning.
    ///
    /// # Panics
    /// Unless the weights are whole blocks, `out` has room for just these, and `importance` is as long as
    /// `weights`.
    pub fn quantize(
        self,
        weights: &[f32],
        importance: Option<&[f32]>,
        out: &mut [u8],
    ) -> Result<(), QuantError> {
        assert_eq!(Some(out.len()), self.row_bytes(weights.len()), "bytes for {} weights", weights.len());
        check_importance(weights.len(), importance)?;
        if let Some(col) = weights.iter().position(|x| !x.is_finite()) {
            return Err(QuantError::Weight { row: 0, col, value: weights[col] });
        }
        (self.codec().quantize)(Isa::Scalar, weights, importance, out);
        Ok(())
    }

    fn codec(self) -> Codec {
        match self {
            Self::Q4_0 => Codec::of::<legacy::Q4_0>("q4_0"),
            Self::Q4_1 => Codec::of::<legacy::Q4_1>("q4_1"),
            Self::Q5_0 => Codec::of::<legacy::Q5_0>("q5_0"),
            Self::Q5_1 => Codec::of::<legacy::Q5_1>("q5_1"),
            Self::Q8_0 => Codec::of::<legacy::Q8_0>("q8_0"),
            Self::Q2K => Codec::of::<q2_k::Q2K>("q2_k"),
            Self::Q3K => Codec::of::<q3_k::Q3K>("q3_k"),
            Self::Q4K => Codec::of::<q4_k::Q4K>("q4_k"),
            Self::Q5K => Codec::of::<q4_k::Q5K>("q5_k"),
            Self::Q6K => Codec::of::<q6_k::Q6K>("q6_k"),
            Self::Iq4Nl => Codec::of::<iq4::Iq4Nl>("iq4_nl"),
            Self::Iq4Xs => Codec::of::<iq4::Iq4Xs>("iq4_xs"),
        }
    }
}

impl std::fmt::Display for BlockFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// [`BlockFormat::quantize`] for a matrix, its rows shared among the threads.
///
/// # Shapes
/// - `weights`: `[rows, cols]`; `importance`: `[cols]`, the same for all rows
/// - `out`: `rows` times [`BlockFormat::row_bytes`]
///
/// # Errors
/// As there, for the first in the order of rows.
///
/// # Panics
/// If the shapes do not fit, or a row is not a whole number of blocks.
pub fn quantize_rows(
    cpu: &Cpu,
    format: BlockFormat,
    rows: usize,
    cols: usize,
    weights: &[f32],
    importance: Option<&[f32]>,
    out: &mut [u8],
) -> Result<(), QuantError> {
    let row_bytes = format.row_bytes(cols).expect("a row is a whole number of blocks");
    assert_eq!(Some(weights.len()), rows.checked_mul(cols), "weights of {rows} x {cols}");
    assert_eq!(Some(out.len()), rows.checked_mul(row_bytes), "bytes of {rows} x {cols}");
    check_importance(cols, importance)?;
    if out.is_empty() {
        return Ok(());
    }
    let quantize = format.codec().quantize;
    let first_bad = AtomicUsize::new(usize::MAX);
    let out = Parts::new(out);
    cpu.threads.run_ranges(rows, GRAIN.div_ceil(cols), |range| {
        for row in range {
            let x = &weights[row * cols..(row + 1) * cols];
            if let Some(col) = x.iter().position(|x| !x.is_finite()) {
                first_bad.fetch_min(row * cols + col, Ordering::Relaxed);
                return;
            }
            // SAFETY: every row is written by one task.
            quantize(cpu.isa, x, importance, unsafe { out.part(row * row_bytes..(row + 1) * row_bytes) });
        }
    });
    let index = first_bad.into_inner();
    match weights.get(index) {
        None => Ok(()),
        Some(&value) => Err(QuantError::Weight { row: index / cols, col: index % cols, value }),
    }
}

fn check_importance(cols: usize, importance: Option<&[f32]>) -> Result<(), QuantError> {
    let Some(importance) = importance else { return Ok(()) };
    assert_eq!(importance.len(), cols, "one importance for each column");
    match importance.iter().position(|i| !i.is_finite() || *i < 0.0) {
        None => Ok(()),
        Some(col) => Err(QuantError::Importance { col, value: importance[col] }),
    }
}

/// A block: its bytes in the order of its fields, all of alignment 1.
trait Block: Pod {
    /// How many weights it stands for.
    const WEIGHTS: usize;

    /// Writes the `WEIGHTS` weights.
    fn dequantize(&self, out: &mut [f32]);

    /// The block for the `WEIGHTS` weights `x`, with errors weighted by `w`.
    ///
    /// `x` is within ±2²⁹ and not all zero, `w` is not negative and about 1.
    fn quantize(x: &[f32], w: &[f32]) -> Self;
}

/// What [`quantize_blocks`] is for a format.
type Quantize = fn(Isa, &[f32], Option<&[f32]>, &mut [u8]);

/// A [`Block`] as data.
struct Codec {
    name: &'static str,
    weights: usize,
    bytes: usize,
    dequantize: fn(&[u8], &mut [f32]),
    quantize: Quantize,
}

impl Codec {
    fn of<B: Block>(name: &'static str) -> Self {
        Self {
            name,
            weights: B::WEIGHTS,
            bytes: size_of::<B>(),
            dequantize: |blocks, out| {
                let blocks: &[B] = bytemuck::cast_slice(blocks);
                for (block, out) in blocks.iter().zip(out.chunks_exact_mut(B::WEIGHTS)) {
                    block.dequantize(out);
                }
            },
            quantize: quantize_blocks::<B>,
        }
    }
}

kernel! {
    /// Finite weights to blocks. Only what the compiler makes of it depends on the instruction set.
    fn quantize_blocks[B: Block](_s, x: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
        let out: &mut [B] = bytemuck::cast_slice_mut(out);
        let (mut block_x, mut block_w) = ([0.0; SUPERBLOCK], [0.0; SUPERBLOCK]);
        let (block_x, block_w) = (&mut block_x[..B::WEIGHTS], &mut block_w[..B::WEIGHTS]);
        for (i, (x, out)) in x.chunks_exact(B::WEIGHTS).zip(out).enumerate() {
            let importance = importance.map(|all| &all[i * B::WEIGHTS..][..B::WEIGHTS]);
            *out = if prepare(x, importance, block_x, block_w) { B::quantize(block_x, block_w) } else { B::zeroed() };
        }
    }
}

/// Brings weights into the range of [`Block::quantize`] and sets what their errors count; `false` if they are
/// all zero or as good as that.
///
/// An error counts as much as the importance of the weight, times `sqrt(1 + (x/rms)²)`; without importance it
/// counts `1 + |x|/rms`. llama.cpp weighs most K formats like that. On a model of 260,000 parameters, counting
/// all errors alike made the KL divergence from it up to 8 % smaller, but it leaves errors of outliers, which
/// larger models have more of, up to twice as large.
#[inline(always)]
fn prepare(x: &[f32], importance: Option<&[f32]>, to_x: &mut [f32], to_w: &mut [f32]) -> bool {
    /// More than any format can hold, 65504·128·32, and little enough for sums of squares in f32.
    const MOST: f32 = (1 << 29) as f32;
    /// Half the smallest f16.
    const LEAST: f32 = 1.0 / (1 << 25) as f32;
    for (to, &x) in to_x.iter_mut().zip(x) {
        *to = search::clamp(x, -MOST, MOST);
    }
    if search::extreme(to_x).abs() < LEAST {
        return false;
    }
    let mean_square = to_x.iter().map(|x| x * x).sum::<f32>() / to_x.len() as f32;
    let per_rms = 1.0 / mean_square.sqrt();
    let most = importance.unwrap_or(&[]).iter().fold(0.0, |most: f32, i| most.max(*i));
    match importance {
        Some(importance) if most > 0.0 => {
            for ((w, x), i) in to_w.iter_mut().zip(&*to_x).zip(importance) {
                let x = x * per_rms;
                *w = (i / most) * (1.0 + x * x).sqrt();
            }
        }
        _ => {
            for (w, x) in to_w.iter_mut().zip(&*to_x) {
                *w = 1.0 + x.abs() * per_rms;
            }
        }
    }
    true
}

/// The f16 of two bytes of a block.
#[inline(always)]
fn from_f16(bytes: [u8; 2]) -> f32 {
    f16::from_le_bytes(bytes).to_f32()
}

/// The nearest f16 that is finite, and not 0 unless `x` is: factors and levels can still make up for a scale that is
/// too large, never for none.
#[inline(always)]
fn to_f16(x: f32) -> f16 {
    let nearest = f16::from_f32(search::clamp(x, f32::from(f16::MIN), f32::from(f16::MAX)));
    if nearest.to_f32() == 0.0 && x != 0.0 { f16::MIN_POSITIVE_SUBNORMAL.copysign(nearest) } else { nearest }
}
