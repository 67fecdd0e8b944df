//! The same products on matrix tiles, for sixteen rows of activations at a time.
//!
//! Weights of a block times the scales of their groups are whole numbers of 13 bits; as two bytes they make, with the
//! two bytes of activations, four products of bytes. Their sums over a block are all that leaves the tiles.
#![cfg(target_arch = "x86_64")]

use std::arch::x86_64::*;
use std::cell::RefCell;
use std::ops::Range;

use super::super::activations::TILE;
use super::super::form::{BLOCK, Form, GROUP, GROUPS, QUAD, ROWS};
use super::super::lanes::{Lanes, Lanes512};
use super::super::product::{Square, block_scales, quads};
use super::super::{Destination, QuantMatrix};
use super::STRIPS;
use super::activations::{Activations, CHUNK, SUM_UNIT, SUMMED, SUMS, TileBlock};
use crate::amx::{configure_bytes, multiply_bytes, multiply_sums, store_bytes};

/// Tiles of activations whose results are kept, for [`STRIPS`] strips, in the second-level cache. Activations themselves
/// come from the third, or from memory, once for that many strips.
const TILES: usize = 32;

/// A block of a strip, unpacked.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Unpacked {
    /// Group scale times (code − bias), `[64 columns][high, low][column / 4][row][4]`. The high byte has a sign, the
    /// low one none.
    weights: [[[[i8; QUAD]; CHUNK / 4]; 2]; BLOCK / CHUNK],
    /// Group minima as bf16, each twice, for sums in two parts: `[sum][row][2]`.
    minima: [[[u16; 2]; ROWS]; SUMS],
    scale: [f32; ROWS],
    /// Of the block, negated, and times [`SUM_UNIT`].
    minimum: [f32; ROWS],
}

/// Sums of products over a block: `[activation][row]` each.
#[repr(C, align(64))]
struct Products {
    /// High and low bytes of activations with high and low bytes of weights.
    bytes: [[[i32; ROWS]; TILE]; 4],
    /// Sums of activations with minima.
    minima: [[f32; ROWS]; TILE],
}

impl Products {
    const ZERO: Self = Self { bytes: [[[0; ROWS]; TILE]; 4], minima: [[0.0; ROWS]; TILE] };
}

struct Scratch {
    unpacked: Vec<Unpacked>,
    /// What is being added up, and what is being multiplied.
    products: [Products; 2],
    /// `[tile][strip]` results.
    squares: Vec<Square>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = const {
        RefCell::new(Scratch { unpacked: Vec::new(), products: [Products::ZERO; 2], squares: Vec::new() })
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
    let tiles: Vec<&[TileBlock]> = activations.tiles().collect();
    // SAFETY: by the caller's promise.
    unsafe { configure_bytes() };
    SCRATCH.with_borrow_mut(|scratch| {
        scratch.unpacked.resize(STRIPS, bytemuck::Zeroable::zeroed());
        scratch.squares.resize(STRIPS * TILES.min(tiles.len()), Square::ZERO);
        for (part, tiles) in tiles.chunks(TILES).enumerate() {
            for first in strips.clone().step_by(STRIPS) {
                let strips = first..(first + STRIPS).min(strips.end);
                // SAFETY: by the caller's promise.
                unsafe { scratch.multiply::<F>(tiles, matrix, strips.clone()) };
                let squares = scratch.squares.chunks_exact(STRIPS);
                for (t, squares) in (part * TILES..).zip(squares).take(tiles.len()) {
                    let used = TILE.min(activations.n_rows() - t * TILE);
                    let squares = &squares[..strips.len()];
                    // SAFETY: by the caller's promise.
                    unsafe { c.write_squares(t, used, first_row, matrix.rows(), strips.start, squares) };
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
    unsafe fn multiply<F: Form>(
        &mut self,
        tiles: &[&[TileBlock]],
        matrix: &QuantMatrix,
        strips: Range<usize>,
    ) {
        self.squares.fill(Square::ZERO);
        let [mut now, mut next] = self.products.each_mut();
        for block in 0..matrix.cols() / BLOCK {
            for (strip, unpacked) in strips.clone().zip(&mut self.unpacked) {
                // SAFETY: by the caller's promise; the strip has this block.
                unsafe { unpack::<F>(matrix.strip(strip)[block * F::BYTES..].as_ptr(), unpacked) };
            }
            let unpacked = &self.unpacked[..strips.len()];
            // SAFETY: by the caller's promise.
            unsafe { multiply_and_add::<F>(&tiles[0][block], &unpacked[0], now, None) };
            for (t, squares) in self.squares.chunks_exact_mut(STRIPS).take(tiles.len()).enumerate() {
                let tile = &tiles[t][block];
                let next_tile = &tiles[(t + 1) % tiles.len()][block];
                for (s, square) in squares[..strips.len()].iter_mut().enumerate() {
                    ask_for((&raw const *next_tile).cast(), size_of::<TileBlock>(), s, strips.len());
                    let next_block =
                        matrix.strip(strips.start + s).as_ptr().wrapping_add((block + 1) * F::BYTES);
                    ask_for(next_block, F::BYTES, t, tiles.len());
                    // After the last one, one is multiplied in vain.
                    let following = if s + 1 < strips.len() {
                        (tile, &unpacked[s + 1])
                    } else {
                        (next_tile, &unpacked[0])
                    };
                    let add = Add { products: now, unpacked: &unpacked[s], scales: &tile.scales, square };
                    // SAFETY: by the caller's promise.
                    unsafe { multiply_and_add::<F>(following.0, following.1, next, Some(add)) };
                    (now, next) = (next, now);
                }
            }
        }
    }
}

/// Asks for part number `i` of `n` of some bytes, which need not be there.
#[inline(always)]
fn ask_for(start: *const u8, bytes: usize, i: usize, n: usize) {
    let lines = bytes / 64;
    for line in i * lines / n..(i + 1) * lines / n {
        // SAFETY: it reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(start.wrapping_add(64 * line).cast()) };
    }
}

/// # Safety
/// AVX-512 must be available, `block` readable.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
unsafe fn unpack<F: Form>(block: *const u8, to: &mut Unpacked) {
    // SAFETY: by the caller's promise.
    unsafe {
        let l = Lanes512::new_unchecked();
        let of_block = block_scales::<_, F>(l, block);
        l.store(of_block.scale, to.scale.as_mut_ptr());
        l.store(l.mul(of_block.minimum, l.splat(SUM_UNIT)), to.minimum.as_mut_ptr());
        if F::MINIMA {
            for (i, to) in to.minima.iter_mut().enumerate() {
                let at = block.add(F::WHOLES_AT + F::WHOLES + i * SUMMED / F::SCALED * ROWS);
                // Whole numbers below 256: all that matters is in the upper half.
                let bits = _mm512_castps_si512(l.load_u8(at));
                let twice = _mm512_or_si512(bits, _mm512_srli_epi32::<16>(bits));
                _mm512_store_si512(to.as_mut_ptr().cast(), twice);
            }
        }
        // The scale of each row in the upper byte of both its words.
        let spread = _mm512_broadcast_i32x4(_mm_set1_epi32(0x0080_0080));
        let spread = _mm512_or_si512(
            spread,
            _mm512_broadcast_i32x4(_mm_set_epi32(0x0c00_0c00, 0x0800_0800, 0x0400_0400, 0)),
        );
        let upper = _mm512_set1_epi16(0xff00_u16 as i16);
        for g in 0..GROUPS {
            let quads = quads::<_, F>(l, block.add(F::CODES_AT + g * F::GROUP_BYTES));
            let chunk = &mut to.weights[g * GROUP / CHUNK];
            for (t, quad) in quads.into_iter().enumerate() {
                let group = (g * GROUP + 4 * t) / F::SCALED;
                let scale = _mm_loadu_si128(block.add(F::WHOLES_AT + group * ROWS).cast());
                let scale = _mm512_shuffle_epi8(_mm512_cvtepu8_epi32(scale), spread);
                let signed = if F::BIAS == 128 {
                    l.flip(quad)
                } else if F::BIAS != 0 {
                    l.lower(quad, F::BIAS as u8)
                } else {
                    quad
                };
                // The upper half of a product of upper bytes is the product of those bytes.
                let even = _mm512_mulhi_epi16(_mm512_slli_epi16::<8>(signed), scale);
                let odd = _mm512_mulhi_epi16(_mm512_and_si512(signed, upper), scale);
                // `upper` chooses between what comes first and second.
                let high = _mm512_ternarylogic_epi32::<0xca>(upper, odd, _mm512_srli_epi16::<8>(even));
                let low = _mm512_ternarylogic_epi32::<0xca>(upper, _mm512_slli_epi16::<8>(odd), even);
                let at = g % 2 * 8 + t;
                _mm512_store_si512(chunk[0][at].as_mut_ptr().cast(), high);
                _mm512_store_si512(chunk[1][at].as_mut_ptr().cast(), low);
            }
        }
    }
}

/// Products to be added to a square.
struct Add<'a> {
    products: &'a Products,
    unpacked: &'a Unpacked,
    scales: &'a [f32; TILE],
    square: &'a mut Square,
}

/// Multiplies a tile with a block of a strip, and meanwhile adds to a square what was multiplied before.
///
/// # Safety
/// The tiles must be configured and AVX-512 available.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
unsafe fn multiply_and_add<F: Form>(
    tile: &TileBlock,
    unpacked: &Unpacked,
    to: &mut Products,
    mut add: Option<Add<'_>>,
) {
    const AT_A_TIME: usize = TILE / (BLOCK / CHUNK);
    // SAFETY: by the caller's promise; the arrays are as large as tiles are.
    unsafe {
        for (i, (a, b)) in tile.codes.iter().zip(&unpacked.weights).enumerate() {
            multiply_bytes(i == 0, a.as_ptr().cast(), b.as_ptr().cast());
            if let Some(add) = &mut add {
                for row in i * AT_A_TIME..(i + 1) * AT_A_TIME {
                    add_row::<F>(add, row);
                }
            }
        }
        store_bytes(to.bytes.as_mut_ptr().cast());
        if F::MINIMA {
            multiply_sums(
                tile.sums.as_ptr().cast(),
                unpacked.minima.as_ptr().cast(),
                to.minima.as_mut_ptr().cast(),
            );
        }
    }
}

/// # Safety
/// AVX-512 must be available, and `row` below 16.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
unsafe fn add_row<F: Form>(add: &mut Add<'_>, row: usize) {
    // SAFETY: by the caller's promise.
    unsafe {
        let Add { products, unpacked, scales, square } = add;
        let of = |i: usize| {
            _mm512_cvtepi32_ps(_mm512_load_si512(products.bytes[i].get_unchecked(row).as_ptr().cast()))
        };
        let wide = _mm512_set1_ps(256.0);
        // Each is a whole number below 2^24, so that only the sum is rounded, like the whole number that it is.
        let high = _mm512_fmadd_ps(of(0), wide, of(1));
        let low = _mm512_fmadd_ps(of(2), wide, of(3));
        let product = _mm512_fmadd_ps(high, wide, low);
        let scale = _mm512_set1_ps(*scales.get_unchecked(row));
        let y = square.0.get_unchecked_mut(row).as_mut_ptr();
        let factor = _mm512_mul_ps(_mm512_load_ps(unpacked.scale.as_ptr()), scale);
        let mut sum = _mm512_fmadd_ps(product, factor, _mm512_load_ps(y));
        if F::MINIMA {
            let minima = _mm512_load_ps(products.minima.get_unchecked(row).as_ptr());
            let factor = _mm512_mul_ps(_mm512_load_ps(unpacked.minimum.as_ptr()), scale);
            sum = _mm512_fmadd_ps(minima, factor, sum);
        }
        _mm512_store_ps(y, sum);
    }
}
