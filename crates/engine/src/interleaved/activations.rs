//! Activations as 8-bit integers with a scale for every 32 of a row.
//!
//! A scale for 32 keeps a few large coordinates from drowning the others: with six coordinates twenty times as
//! large as the rest, results are off by 0.9 % instead of 2.2 % with a scale for 256, or 5.8 % with one for a row.

use std::ops::Range;

use super::form::GROUP;
use crate::Cpu;
use crate::simd::{Element, kernel, lanes_of};
use crate::threads::Parts;

/// Rows of a tile.
pub(crate) const TILE: usize = 16;
/// From this many rows on the last tile is filled up with rows of zeros, so that all tiles are alike.
const FEW: usize = 4;

/// Rows of activations, cut into tiles of 16 rows: group by group of 32 columns the tile's rows lie together.
#[derive(Debug, Default)]
pub(crate) struct Activations {
    rows: usize,
    cols: usize,
    groups: usize,
    codes: Vec<Codes>,
    scales: Vec<f32>,
    sums: Sums<Vec<i32>, Vec<f32>>,
}

/// Sums over the codes of each group, and two each over its halves.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sums<I, F> {
    /// With the other sign: what a code's bias adds to every weight is taken away with it.
    pub(crate) negated: I,
    pub(crate) negated_halves: I,
    /// Times the scale: what minima are multiplied with.
    pub(crate) scaled: F,
    pub(crate) scaled_halves: F,
}

/// 32 codes of a row.
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(32))]
struct Codes([i8; GROUP]);

/// Up to 16 rows: element `(group, row)` of each part is at `group * rows + row`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tile<'a> {
    /// Rows held, those of zeros included.
    pub(crate) rows: usize,
    /// Rows that are wanted.
    pub(crate) used: usize,
    pub(crate) codes: &'a [i8],
    pub(crate) scales: &'a [f32],
    pub(crate) sums: Sums<&'a [i32], &'a [f32]>,
}

impl Activations {
    /// Takes `x[rows, cols]`.
    pub(crate) fn set<E: Element>(&mut self, cpu: &Cpu, x: &[E], cols: usize) {
        assert!(cols.is_multiple_of(GROUP) && x.len().is_multiple_of(cols), "whole groups of whole rows");
        let _span = cpu.profile.span("quantise activations", 0, size_of_val(x) + x.len());
        self.rows = x.len() / cols;
        self.cols = cols;
        // An even number, since tiles multiply two groups at a time; the last one may be zeros.
        self.groups = (cols / GROUP).next_multiple_of(2);
        let held = if self.rows < FEW { self.rows } else { self.rows.next_multiple_of(TILE) };
        let cells = held * self.groups;
        self.codes.resize(cells, Codes([0; GROUP]));
        self.scales.resize(cells, 0.0);
        self.sums.negated.resize(cells, 0);
        self.sums.negated_halves.resize(2 * cells, 0);
        self.sums.scaled.resize(cells, 0.0);
        self.sums.scaled_halves.resize(2 * cells, 0.0);
        let (rows, groups) = (self.rows, self.groups);
        let all = TileMut::parts(self);
        cpu.threads.run(held.div_ceil(TILE), |tile| {
            let first = tile * TILE;
            let height = TILE.min(held - first);
            // SAFETY: every tile is written by one task.
            let mut tile = unsafe { all.tile(first * groups..(first + height) * groups) };
            if first + height > rows || cols < groups * GROUP {
                tile.clear();
            }
            for row in 0..height.min(rows - first) {
                quantize_row(cpu.isa, &x[(first + row) * cols..][..cols], row, height, &mut tile);
            }
        });
    }

    /// Columns.
    pub(crate) fn cols(&self) -> usize {
        self.cols
    }

    /// Whether all tiles have 16 rows, some of them perhaps zeros.
    pub(crate) fn is_in_whole_tiles(&self) -> bool {
        self.rows >= FEW
    }

    /// The tiles in order.
    pub(crate) fn tiles(&self) -> impl ExactSizeIterator<Item = Tile<'_>> {
        (0..self.rows.div_ceil(TILE)).map(|tile| self.tile(tile))
    }

    /// Tile number `tile`.
    pub(crate) fn tile(&self, tile: usize) -> Tile<'_> {
        let held = self.codes.len() / self.groups;
        let first = tile * TILE;
        let rows = TILE.min(held - first);
        let cells = first * self.groups..(first + rows) * self.groups;
        Tile {
            rows,
            used: TILE.min(self.rows - first),
            codes: bytemuck::cast_slice(&self.codes[cells.clone()]),
            scales: &self.scales[cells.clone()],
            sums: Sums {
                negated: &self.sums.negated[cells.clone()],
                negated_halves: &self.sums.negated_halves[2 * cells.start..2 * cells.end],
                scaled: &self.sums.scaled[cells.clone()],
                scaled_halves: &self.sums.scaled_halves[2 * cells.start..2 * cells.end],
            },
        }
    }
}

/// A tile to be written, or all of them.
struct TileMut<C, F, I> {
    codes: C,
    scales: F,
    sums: Sums<I, F>,
}

impl<'a> TileMut<Parts<'a, Codes>, Parts<'a, f32>, Parts<'a, i32>> {
    fn parts(of: &'a mut Activations) -> Self {
        Self {
            codes: Parts::new(&mut of.codes),
            scales: Parts::new(&mut of.scales),
            sums: Sums {
                negated: Parts::new(&mut of.sums.negated),
                negated_halves: Parts::new(&mut of.sums.negated_halves),
                scaled: Parts::new(&mut of.sums.scaled),
                scaled_halves: Parts::new(&mut of.sums.scaled_halves),
            },
        }
    }

    /// # Safety
    /// No tile that overlaps these cells may be alive.
    unsafe fn tile(&self, cells: Range<usize>) -> TileMut<&'a mut [Codes], &'a mut [f32], &'a mut [i32]> {
        let halves = 2 * cells.start..2 * cells.end;
        // SAFETY: by the caller's promise.
        unsafe {
            TileMut {
                codes: self.codes.part(cells.clone()),
                scales: self.scales.part(cells.clone()),
                sums: Sums {
                    negated: self.sums.negated.part(cells.clone()),
                    negated_halves: self.sums.negated_halves.part(halves.clone()),
                    scaled: self.sums.scaled.part(cells),
                    scaled_halves: self.sums.scaled_halves.part(halves),
                },
            }
        }
    }
}

impl TileMut<&mut [Codes], &mut [f32], &mut [i32]> {
    fn clear(&mut self) {
        self.codes.fill(Codes([0; GROUP]));
        for floats in [&mut *self.scales, self.sums.scaled, self.sums.scaled_halves] {
            floats.fill(0.0);
        }
        self.sums.negated.fill(0);
        self.sums.negated_halves.fill(0);
    }
}

impl Tile<'_> {
    /// Groups of each row.
    pub(crate) fn groups(&self) -> usize {
        self.scales.len() / self.rows
    }
}

kernel! {
    /// Row `row` of a tile of `height`: `code = round(x · 127 / largest)`, ties to even. What is not finite makes the
    /// scale NaN.
    fn quantize_row[E: Element](
        s, x: &[E], row: usize, height: usize, tile: &mut TileMut<&mut [Codes], &mut [f32], &mut [i32]>,
    ) {
        for (g, x) in x.chunks_exact(GROUP).enumerate() {
            let cell = g * height + row;
            let lanes = lanes_of(s);
            let mut largest = s.splat(0.0);
            for i in (0..GROUP).step_by(lanes) {
                let v = E::load(s, &x[i..i + lanes]);
                largest = s.max(largest, s.max(v, s.sub(s.splat(0.0), v)));
            }
            let largest = s.largest(largest);
            // Where the largest is nearly nothing its inverse is beyond f32; then all codes are zero.
            let factor = 127.0 / largest;
            let factor = s.splat(if factor.is_finite() { factor } else { 0.0 });
            let codes = &mut tile.codes[cell].0;
            // Sums of whole numbers of this size are exact in f32, in any order.
            let mut halves = [s.splat(0.0); 2];
            for i in (0..GROUP).step_by(lanes) {
                let code = s.round(s.mul(E::load(s, &x[i..i + lanes]), factor));
                s.store_i8(code, &mut codes[i..i + lanes]);
                let half = &mut halves[2 * i / GROUP];
                *half = s.add(*half, code);
            }
            let [low, high] = [s.sum(halves[0]), s.sum(halves[1])];
            let sum = low + high;
            let scale = if sum.is_nan() { f32::NAN } else { largest / 127.0 };
            tile.scales[cell] = scale;
            tile.sums.negated[cell] = -sum as i32;
            tile.sums.negated_halves[2 * cell..2 * cell + 2].copy_from_slice(&[-low as i32, -high as i32]);
            tile.sums.scaled[cell] = scale * sum;
            tile.sums.scaled_halves[2 * cell..2 * cell + 2].copy_from_slice(&[scale * low, scale * high]);
        }
    }
}
