//! The same products on matrix tiles, for sixteen rows of activations at a time.
//!
//! Tiles multiply a group of columns in a tenth of the time that vectors need; what remains is to scale the sums and
//! add them up, in the order that [`super::product`] defines. Weights of a block are unpacked once, for all tiles of
//! activations, and the sums of a few strips are kept for all of these.
#![cfg(target_arch = "x86_64")]

use std::arch::x86_64::*;
use std::cell::RefCell;
use std::ops::Range;

use super::activations::{Activations, TILE, Tile};
use super::form::{BLOCK, Form, GROUP, GROUPS, QUAD, ROWS};
use super::lanes::{Lanes, Lanes512};
use super::product::{Square, block_scales, quads, scales};
use super::{Destination, QuantMatrix};
use crate::amx::{configure_groups, multiply_groups};

/// Strips that share a pass over the activations.
const STRIPS: usize = 4;

/// Bytes of activations that are multiplied with several strips in a row, out of the second-level cache.
const ACTIVATION_BYTES: usize = 1 << 20;

/// A block of a strip, unpacked: signed weights `[column / 4][row][4]`, scales and negated minima of each group.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Unpacked {
    weights: [i8; BLOCK * ROWS],
    scales: [[f32; ROWS]; BLOCK / 16],
    minima: [[f32; ROWS]; BLOCK / 16],
}

/// Parts of a block, each with scales of its own, that are multiplied before the first of them is added up: tiles need
/// the time, and more would not stay in the first-level cache.
const PARTS: usize = 8;

/// Sums of integers, `[part][activation][row]`.
#[repr(C, align(64))]
struct Integers([[[i32; ROWS]; TILE]; PARTS]);

struct Scratch {
    unpacked: Vec<Unpacked>,
    /// What is being added up, and what is being multiplied.
    integers: [Integers; 2],
    /// `[tile][strip]` results.
    squares: Vec<Square>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = const {
        let integers = [const { Integers([[[0; ROWS]; TILE]; PARTS]) }; 2];
        RefCell::new(Scratch { unpacked: Vec::new(), integers, squares: Vec::new() })
    };
}

/// Products of strips with all activations, which come in whole tiles.
///
/// # Safety
/// The tiles and AVX-512 VNNI must be available; nobody else may use these columns of C meanwhile.
pub(super) unsafe fn multiply_strips<F: Form>(
    activations: &Activations,
    matrix: &QuantMatrix,
    strips: Range<usize>,
    first_row: usize,
    c: &Destination<'_>,
) {
    let tiles: Vec<Tile<'_>> = activations.tiles().collect();
    // SAFETY: by the caller's promise.
    unsafe { configure_groups(F::SCALED) };
    // Codes of a byte, with a scale and a sum for every part.
    let tile_bytes = TILE * (activations.cols() + 8 * activations.cols() / F::SCALED);
    let parts = (tiles.len() * tile_bytes).div_ceil(ACTIVATION_BYTES);
    let tiles_at_once = tiles.len().div_ceil(parts);
    SCRATCH.with_borrow_mut(|scratch| {
        scratch.unpacked.resize(STRIPS, bytemuck::Zeroable::zeroed());
        scratch.squares.resize(STRIPS * tiles_at_once, Square::ZERO);
        for (part, tiles) in tiles.chunks(tiles_at_once).enumerate() {
            for first in strips.clone().step_by(STRIPS) {
                let strips = first..(first + STRIPS).min(strips.end);
                // SAFETY: by the caller's promise.
                unsafe { scratch.multiply::<F>(tiles, matrix, strips.clone()) };
                for (t, (tile, squares)) in tiles.iter().zip(scratch.squares.chunks_exact(STRIPS)).enumerate()
                {
                    let (t, squares) = (part * tiles_at_once + t, &squares[..strips.len()]);
                    // SAFETY: by the caller's promise.
                    unsafe { c.write_squares(t, tile.used, first_row, matrix.rows(), strips.start, squares) };
                }
            }
        }
    });
}

impl Scratch {
    /// The squares of up to [`STRIPS`] strips with all `tiles`.
    ///
    /// # Safety
    /// As [`multiply_strips`].
    unsafe fn multiply<F: Form>(&mut self, tiles: &[Tile<'_>], matrix: &QuantMatrix, strips: Range<usize>) {
        self.squares.fill(Square::ZERO);
        for block in 0..matrix.cols().div_ceil(BLOCK) {
            for (strip, unpacked) in strips.clone().zip(&mut self.unpacked) {
                // SAFETY: by the caller's promise; the strip has this block.
                unsafe { unpack::<F>(matrix.strip(strip)[block * F::BYTES..].as_ptr(), unpacked) };
            }
            let parts = parts_of::<F>(&tiles[0], block);
            for first in (0..parts).step_by(PARTS) {
                let run = Run { block, parts: first..(first + PARTS).min(parts) };
                let mut turn = self.integers.each_mut();
                // SAFETY: by the caller's promise.
                unsafe { multiply_run::<F>(&self.unpacked[0], &tiles[0], &run, turn[0]) };
                for (t, (tile, squares)) in
                    tiles.iter().zip(self.squares.chunks_exact_mut(STRIPS)).enumerate()
                {
                    for (s, square) in squares[..strips.len()].iter_mut().enumerate() {
                        // After the last one, one is multiplied in vain.
                        let next = if s + 1 < strips.len() { (t, s + 1) } else { ((t + 1) % tiles.len(), 0) };
                        let following = (&self.unpacked[next.1], &tiles[next.0]);
                        // SAFETY: by the caller's promise.
                        unsafe { add_run::<F>(&self.unpacked[s], tile, &run, square, following, &mut turn) };
                    }
                }
            }
        }
    }
}

/// Some parts of a block: an even number of them.
struct Run {
    block: usize,
    parts: Range<usize>,
}

/// # Safety
/// AVX-512 must be available, `block` readable.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
unsafe fn unpack<F: Form>(block: *const u8, to: &mut Unpacked) {
    // SAFETY: by the caller's promise.
    unsafe {
        let l = Lanes512::new_unchecked();
        let of_block = block_scales::<_, F>(l, block);
        for i in 0..BLOCK / F::SCALED {
            let (scale, minimum) = scales::<_, F>(l, block, &of_block, i);
            l.store(scale, to.scales[i].as_mut_ptr());
            if F::MINIMA {
                l.store(minimum, to.minima[i].as_mut_ptr());
            }
        }
        for g in 0..GROUPS {
            let quads = quads::<_, F>(l, block.add(F::CODES_AT + g * F::GROUP_BYTES));
            for (t, quad) in quads.into_iter().enumerate() {
                let signed = if F::BIAS == 128 { l.flip(quad) } else { l.lower(quad, F::BIAS as u8) };
                l.store_bytes(signed, to.weights.as_mut_ptr().add((8 * g + t) * QUAD).cast());
            }
        }
    }
}

/// Multiplies the parts number `i` and `i + 1` of a block with a tile, as integers.
///
/// # Safety
/// The tiles must be configured; the tile must have 16 rows and this block.
#[inline(always)]
unsafe fn multiply_pair<F: Form>(
    unpacked: &Unpacked,
    tile: &Tile<'_>,
    block: usize,
    i: usize,
    out: &mut Integers,
) {
    let (cols, first) = (i * F::SCALED, block * GROUPS * TILE * GROUP);
    // SAFETY: by the caller's promise.
    unsafe {
        let a = tile.codes.as_ptr().add(first + cols / GROUP * TILE * GROUP);
        let b = unpacked.weights.as_ptr().add(cols * ROWS);
        let out = out.0.as_mut_ptr().add(i % PARTS).cast();
        if F::SCALED == GROUP { multiply_groups::<32>(a, b, out) } else { multiply_groups::<16>(a, b, out) }
    }
}

/// How many parts with a scale of their own a block has: an even number, in the last block of a row perhaps fewer.
#[inline(always)]
fn parts_of<F: Form>(tile: &Tile<'_>, block: usize) -> usize {
    GROUPS.min(tile.groups() - block * GROUPS) * GROUP / F::SCALED
}

/// Multiplies parts of a block with a tile, as integers.
///
/// # Safety
/// As [`multiply_pair`].
unsafe fn multiply_run<F: Form>(unpacked: &Unpacked, tile: &Tile<'_>, run: &Run, out: &mut Integers) {
    for i in run.parts.clone().step_by(2) {
        // SAFETY: by the caller's promise.
        unsafe { multiply_pair::<F>(unpacked, tile, run.block, i, out) };
    }
}

/// Adds the products of parts of a block, which are in `turn[0]`, to the results of a tile. Meanwhile the tiles multiply
/// what follows, and that is in `turn[0]` in the end.
///
/// # Safety
/// The tiles must be configured and AVX-512 available; both tiles of activations must have 16 rows and this block.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
unsafe fn add_run<F: Form>(
    unpacked: &Unpacked,
    tile: &Tile<'_>,
    run: &Run,
    square: &mut Square,
    following: (&Unpacked, &Tile<'_>),
    turn: &mut [&mut Integers; 2],
) {
    let (in_group, first) = (GROUP / F::SCALED, run.block * GROUPS * TILE);
    let scales = &tile.scales[first..];
    let sums = if in_group == 1 { &tile.sums.scaled[first..] } else { &tile.sums.scaled_halves[2 * first..] };
    // SAFETY: by the caller's promise.
    unsafe {
        let mut y = [_mm512_setzero_ps(); TILE];
        for (y, from) in y.iter_mut().zip(&square.0) {
            *y = _mm512_load_ps(from.as_ptr());
        }
        for pair in run.parts.clone().step_by(2) {
            multiply_pair::<F>(following.0, following.1, run.block, pair, turn[1]);
            for i in [pair, pair + 1] {
                let scale = _mm512_load_ps(unpacked.scales.get_unchecked(i).as_ptr());
                let minimum = _mm512_load_ps(unpacked.minima.get_unchecked(i).as_ptr());
                let cell = i / in_group * TILE;
                let integers = turn[0].0.get_unchecked(i % PARTS);
                for (row, (y, integers)) in y.iter_mut().zip(integers).enumerate() {
                    let sum = _mm512_cvtepi32_ps(_mm512_load_si512(integers.as_ptr().cast()));
                    let factor = _mm512_mul_ps(scale, _mm512_set1_ps(*scales.get_unchecked(cell + row)));
                    *y = _mm512_fmadd_ps(sum, factor, *y);
                    if F::MINIMA {
                        let sum = *sums.get_unchecked((cell + row) * in_group + i % in_group);
                        *y = _mm512_fmadd_ps(minimum, _mm512_set1_ps(sum), *y);
                    }
                }
            }
        }
        turn.swap(0, 1);
        for (y, to) in y.into_iter().zip(&mut square.0) {
            _mm512_store_ps(to.as_mut_ptr(), y);
        }
    }
}
