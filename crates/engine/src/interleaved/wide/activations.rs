//! Activations as integers of 16 bits, each as two of 8, with a scale for every 256 of a row.

use std::array::from_fn;

use half::bf16;

use super::super::activations::TILE;
use super::super::form::BLOCK;
use crate::Cpu;
use crate::simd::{Element, kernel, lanes_of};
use crate::threads::Parts;

/// The largest code: its upper byte is 127, and its lower one zero.
const LARGEST: f32 = 127.0 * 256.0;
/// Columns whose codes are summed up: the fewest that have a minimum of their own.
pub(super) const SUMMED: usize = 16;
/// Sums in a block.
pub(super) const SUMS: usize = BLOCK / SUMMED;
/// What sums are divided by before they are rounded. With minima below 64, sums of sixteen products with what is
/// left are below 2^24, so that f32 holds them exactly, in any order.
pub(super) const SUM_UNIT: f32 = 64.0;
/// From this many rows on, they come in whole tiles.
const FEW: usize = 9;

/// 256 columns of one row: `x = scale · (256 · high + low)`.
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
pub(super) struct RowBlock {
    pub(super) high: [i8; BLOCK],
    pub(super) low: [i8; BLOCK],
    /// Sums of the bytes of 16 columns each, which vectors need: what a code's bias adds to every weight is taken away
    /// with them.
    pub(super) high_sums: [i32; SUMS],
    pub(super) low_sums: [i32; SUMS],
    /// Sums of the codes over [`SUM_UNIT`], rounded.
    pub(super) sums: [f32; SUMS],
    pub(super) scale: f32,
    padding: [u32; 15],
}

/// Columns that tiles multiply at a time.
pub(super) const CHUNK: usize = 64;

/// 256 columns of sixteen rows.
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
pub(super) struct TileBlock {
    /// `[64 columns][high, low][row]`.
    pub(super) codes: [[[[i8; CHUNK]; TILE]; 2]; BLOCK / CHUNK],
    /// Of each row: the sums, each as two numbers of few enough bits.
    pub(super) sums: [[[bf16; 2]; SUMS]; TILE],
    pub(super) scales: [f32; TILE],
}

/// Rows of activations, of which few are kept one by one, and many in tiles of sixteen.
#[derive(Debug, Default)]
pub(in super::super) struct Activations {
    n_rows: usize,
    blocks: usize,
    rows: Vec<RowBlock>,
    tiles: Vec<TileBlock>,
}

impl Activations {
    /// Takes `x[rows, cols]`.
    pub(in super::super) fn set<E: Element>(&mut self, cpu: &Cpu, x: &[E], cols: usize) {
        assert!(cols.is_multiple_of(BLOCK) && x.len().is_multiple_of(cols), "whole blocks of whole rows");
        let _span = cpu.profile.span("quantise activations", 0, size_of_val(x) + 2 * x.len());
        let blocks = cols / BLOCK;
        (self.n_rows, self.blocks) = (x.len() / cols, blocks);
        let row = <RowBlock as bytemuck::Zeroable>::zeroed();
        if self.is_few() {
            self.rows.resize(self.n_rows * blocks, row);
            for (x, row) in x.chunks_exact(BLOCK).zip(&mut self.rows) {
                quantize(cpu.isa, x, row);
                row.sum_bytes();
            }
            return;
        }
        self.tiles.resize(self.n_rows.div_ceil(TILE) * blocks, bytemuck::Zeroable::zeroed());
        let tiles = Parts::new(&mut self.tiles);
        cpu.threads.run(self.n_rows.div_ceil(TILE), |t| {
            // SAFETY: every tile is written by one task.
            let tile = unsafe { tiles.part(t * blocks..(t + 1) * blocks) };
            let x = &x[t * TILE * cols..];
            let mut row = row;
            for (i, x) in x.chunks_exact(cols).take(TILE).enumerate() {
                for (x, block) in x.chunks_exact(BLOCK).zip(&mut *tile) {
                    quantize(cpu.isa, x, &mut row);
                    block.set(i, &row);
                }
            }
            // Other rows may be what was there before, which nobody looks at.
        });
    }

    /// Whether rows are kept one by one.
    pub(in super::super) fn is_few(&self) -> bool {
        self.n_rows < FEW
    }

    /// How many rows there are.
    pub(in super::super) fn n_rows(&self) -> usize {
        self.n_rows
    }

    /// The blocks of a row, if there are few.
    pub(super) fn row(&self, row: usize) -> &[RowBlock] {
        &self.rows[row * self.blocks..(row + 1) * self.blocks]
    }

    /// The blocks of every tile, if there are many rows.
    pub(super) fn tiles(&self) -> impl ExactSizeIterator<Item = &[TileBlock]> {
        self.tiles.chunks_exact(self.blocks)
    }
}

impl RowBlock {
    fn sum_bytes(&mut self) {
        let sums = |of: &[i8; BLOCK]| {
            from_fn(|i| of[i * SUMMED..(i + 1) * SUMMED].iter().map(|x| i32::from(*x)).sum())
        };
        (self.high_sums, self.low_sums) = (sums(&self.high), sums(&self.low));
    }
}

impl TileBlock {
    fn set(&mut self, row: usize, from: &RowBlock) {
        for (i, chunk) in self.codes.iter_mut().enumerate() {
            let cols = i * CHUNK..(i + 1) * CHUNK;
            chunk[0][row].copy_from_slice(&from.high[cols.clone()]);
            chunk[1][row].copy_from_slice(&from.low[cols]);
        }
        for (parts, sum) in self.sums[row].iter_mut().zip(&from.sums) {
            // Both are whole numbers of up to seven bits, times 128 the first of them.
            let high = (sum / 128.0).round() * 128.0;
            *parts = [bf16::from_f32(high), bf16::from_f32(sum - high)];
        }
        self.scales[row] = from.scale;
    }
}

kernel! {
    /// `code = round(x · 32,512 / largest)`, ties to even. What is not finite makes the scale NaN. Sums of bytes are left.
    fn quantize[E: Element](s, x: &[E], to: &mut RowBlock) {
        let lanes = lanes_of(s);
        let mut largest = s.splat(0.0);
        for x in x.chunks_exact(lanes) {
            let v = E::load(s, x);
            largest = s.max(largest, s.max(v, s.sub(s.splat(0.0), v)));
        }
        let largest = s.largest(largest);
        // Where the largest is nearly nothing its inverse is beyond f32; then all codes are zero.
        let factor = LARGEST / largest;
        let factor = s.splat(if factor.is_finite() { factor } else { 0.0 });
        let mut total = 0.0;
        for sum in 0..SUMS {
            // Sums of whole numbers of this size are exact in f32, in any order.
            let mut codes = s.splat(0.0);
            for i in (sum * SUMMED..(sum + 1) * SUMMED).step_by(lanes) {
                let code = s.round(s.mul(E::load(s, &x[i..i + lanes]), factor));
                // What is added decides ties such that the lower byte is not below -128, nor above 127.
                let high = s.round(s.fma(code, s.splat(1.0 / 256.0), s.splat(0.25 / 256.0)));
                s.store_i8(high, &mut to.high[i..i + lanes]);
                s.store_i8(s.fma(high, s.splat(-256.0), code), &mut to.low[i..i + lanes]);
                codes = s.add(codes, code);
            }
            let codes = s.sum(codes);
            to.sums[sum] = (codes / SUM_UNIT).round_ties_even();
            total += codes;
        }
        to.scale = if total.is_nan() { f32::NAN } else { largest / LARGEST };
    }
}
