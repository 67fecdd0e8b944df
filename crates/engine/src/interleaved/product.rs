//! Integer products of strips with tiles of activations, on vectors.
//!
//! For every output, in this order and whatever the instruction set, the number of rows or of threads:
//!
//! ```text
//! y = 0
//! for each group of 32 columns (or 16, where those have a scale):
//!     y = fma(Σ (code − bias) · a, weight scale · activation scale, y)      the sum is exact
//!     y = fma(−minimum, activation scale · Σ a, y)                          where there are minima
//! ```

use super::activations::{TILE, Tile};
use super::form::{BLOCK, Form, GROUP, GROUPS, QUAD, ROWS};
use super::lanes::{Lanes, Plain};
use crate::Isa;

/// Products of one strip with one tile: `[16 activations][16 rows]`.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Square(pub(crate) [[f32; ROWS]; TILE]);

impl Square {
    pub(crate) const ZERO: Self = Self([[0.0; ROWS]; TILE]);
}

/// The scales, or minima, of groups, `[group][row]`.
pub(crate) struct Scales<L: Lanes> {
    pub(crate) scale: L::Floats,
    pub(crate) minimum: L::Floats,
}

/// The eight quads of a group, as unsigned codes (of the levels, for formats that have those).
///
/// # Safety
/// `codes` must be readable for the bytes of a group.
#[inline(always)]
pub(crate) unsafe fn quads<L: Lanes, F: Form>(l: L, codes: *const u8) -> [L::Bytes; 8] {
    // SAFETY: by the caller's promise.
    unsafe {
        let line = |i: usize| l.load_bytes(codes.add(QUAD * i));
        let mut quads = match F::LOW_BITS {
            8 => [line(0), line(1), line(2), line(3), line(4), line(5), line(6), line(7)],
            4 => {
                let x = [line(0), line(1), line(2), line(3)];
                let low = [
                    l.field::<0>(x[0], 15),
                    l.field::<0>(x[1], 15),
                    l.field::<0>(x[2], 15),
                    l.field::<0>(x[3], 15),
                ];
                let high = [
                    l.field::<4>(x[0], 15),
                    l.field::<4>(x[1], 15),
                    l.field::<4>(x[2], 15),
                    l.field::<4>(x[3], 15),
                ];
                [low[0], low[1], low[2], low[3], high[0], high[1], high[2], high[3]]
            }
            _ => {
                let x = [line(0), line(1)];
                [
                    l.field::<0>(x[0], 3),
                    l.field::<0>(x[1], 3),
                    l.field::<2>(x[0], 3),
                    l.field::<2>(x[1], 3),
                    l.field::<4>(x[0], 3),
                    l.field::<4>(x[1], 3),
                    l.field::<6>(x[0], 3),
                    l.field::<6>(x[1], 3),
                ]
            }
        };
        match (F::HIGH_BITS, F::LOW_BITS) {
            (2, _) => {
                let x = [line(4), line(5)];
                quads[0] = l.or(quads[0], l.field::<-4>(x[0], 48));
                quads[1] = l.or(quads[1], l.field::<-4>(x[1], 48));
                quads[2] = l.or(quads[2], l.field::<-2>(x[0], 48));
                quads[3] = l.or(quads[3], l.field::<-2>(x[1], 48));
                quads[4] = l.or(quads[4], l.field::<0>(x[0], 48));
                quads[5] = l.or(quads[5], l.field::<0>(x[1], 48));
                quads[6] = l.or(quads[6], l.field::<2>(x[0], 48));
                quads[7] = l.or(quads[7], l.field::<2>(x[1], 48));
            }
            (1, 4) => {
                let x = line(4);
                quads[0] = l.or(quads[0], l.field::<-4>(x, 16));
                quads[1] = l.or(quads[1], l.field::<-3>(x, 16));
                quads[2] = l.or(quads[2], l.field::<-2>(x, 16));
                quads[3] = l.or(quads[3], l.field::<-1>(x, 16));
                quads[4] = l.or(quads[4], l.field::<0>(x, 16));
                quads[5] = l.or(quads[5], l.field::<1>(x, 16));
                quads[6] = l.or(quads[6], l.field::<2>(x, 16));
                quads[7] = l.or(quads[7], l.field::<3>(x, 16));
            }
            (1, _) => {
                let x = line(2);
                quads[0] = l.or(quads[0], l.field::<-2>(x, 4));
                quads[1] = l.or(quads[1], l.field::<-1>(x, 4));
                quads[2] = l.or(quads[2], l.field::<0>(x, 4));
                quads[3] = l.or(quads[3], l.field::<1>(x, 4));
                quads[4] = l.or(quads[4], l.field::<2>(x, 4));
                quads[5] = l.or(quads[5], l.field::<3>(x, 4));
                quads[6] = l.or(quads[6], l.field::<4>(x, 4));
                quads[7] = l.or(quads[7], l.field::<5>(x, 4));
            }
            _ => {}
        }
        if F::LEVELED {
            for quad in &mut quads {
                *quad = l.levels(*quad);
            }
        }
        quads
    }
}

/// What a block's whole-numbered scales and minima are multiplied with.
///
/// # Safety
/// `block` must be readable for a block.
#[inline(always)]
pub(crate) unsafe fn block_scales<L: Lanes, F: Form>(l: L, block: *const u8) -> Scales<L> {
    // SAFETY: by the caller's promise.
    unsafe {
        let zero = l.splat(0.0);
        if !F::WHOLE {
            return Scales { scale: zero, minimum: zero };
        }
        let minimum = if F::MINIMA { l.mul(l.load_f16(block.add(F::HALVES)), l.splat(-1.0)) } else { zero };
        Scales { scale: l.load_f16(block), minimum }
    }
}

/// Scales and (negated) minima of the 16 or 32 columns number `i` of a block.
///
/// # Safety
/// `block` must be readable for a block.
#[inline(always)]
pub(crate) unsafe fn scales<L: Lanes, F: Form>(
    l: L,
    block: *const u8,
    of_block: &Scales<L>,
    i: usize,
) -> (L::Floats, L::Floats) {
    // SAFETY: by the caller's promise.
    unsafe {
        let zero = l.splat(0.0);
        if F::WHOLE {
            let at = block.add(F::WHOLES_AT + i * ROWS);
            let scale = if F::SIGNED { l.load_i8(at) } else { l.load_u8(at) };
            let minimum =
                if F::MINIMA { l.mul(of_block.minimum, l.load_u8(at.add(F::WHOLES))) } else { zero };
            (l.mul(of_block.scale, scale), minimum)
        } else {
            let at = block.add(2 * i * ROWS);
            (l.load_f16(at), if F::MINIMA { l.load_f16(at.add(F::HALVES)) } else { zero })
        }
    }
}

/// Bytes by which a single row of activations, which waits for memory, asks ahead.
const AHEAD: usize = 2048;

/// Asks for what comes [`AHEAD`] bytes after the codes of a group, as many lines as a group takes.
#[inline(always)]
pub(crate) fn ask_ahead<L: Lanes, F: Form>(l: L, codes: *const u8) {
    for line in 0..F::BYTES.div_ceil(GROUPS * QUAD) {
        l.prefetch(codes.wrapping_add(AHEAD + line * QUAD));
    }
}

/// Strips that a single row of activations is multiplied with at a time: two streams from memory come faster than one.
pub(crate) const PAIR: usize = 2;

/// Multiplies `S` strips with rows `first..first + C` of a tile.
///
/// # Safety
/// The strips must hold the tile's blocks, and the tile those rows.
#[inline(always)]
unsafe fn columns<L: Lanes, F: Form, const S: usize, const C: usize>(
    l: L,
    strips: [&[u8]; S],
    tile: &Tile<'_>,
    first: usize,
    out: &mut [Square],
) {
    let mut y = [[l.splat(0.0); C]; S];
    let groups = tile.groups();
    // SAFETY: by the caller's promise.
    unsafe {
        for b in 0..groups.div_ceil(GROUPS) {
            let blocks = strips.map(|strip| strip.as_ptr().add(b * F::BYTES));
            let of_blocks = blocks.map(|block| block_scales::<L, F>(l, block));
            for g in 0..GROUPS.min(groups - b * GROUPS) {
                let cell = (b * GROUPS + g) * tile.rows + first;
                for ((block, of_block), y) in blocks.iter().zip(&of_blocks).zip(&mut y) {
                    add_group::<L, F, C>(l, *block, of_block, g, tile, cell, y);
                }
            }
        }
        for (y, out) in y.into_iter().zip(out) {
            for (c, y) in y.into_iter().enumerate() {
                l.store(y, out.0[first + c].as_mut_ptr());
            }
        }
    }
}

/// Adds the products of group `g` of a block with `C` rows of a tile, whose first one is at `cell`.
///
/// # Safety
/// As [`columns`].
#[inline(always)]
unsafe fn add_group<L: Lanes, F: Form, const C: usize>(
    l: L,
    block: *const u8,
    of_block: &Scales<L>,
    g: usize,
    tile: &Tile<'_>,
    cell: usize,
    y: &mut [L::Floats; C],
) {
    let wide = F::BIAS == 128;
    // SAFETY: by the caller's promise.
    unsafe {
        let codes = block.add(F::CODES_AT + g * F::GROUP_BYTES);
        if C == 1 {
            ask_ahead::<L, F>(l, codes);
        }
        let quads = quads::<L, F>(l, codes);
        if F::SCALED == GROUP {
            let (scale, minimum) = scales::<L, F>(l, block, of_block, g);
            for (c, y) in y.iter_mut().enumerate() {
                let a = tile.codes.as_ptr().add((cell + c) * GROUP);
                let mut sum = l.splat_int(F::BIAS * tile.sums.negated.get_unchecked(cell + c));
                for (t, quad) in quads.iter().enumerate() {
                    let a = a.add(4 * t);
                    sum = if wide { l.dot_wide(sum, *quad, a) } else { l.dot(sum, *quad, a) };
                }
                let factor = l.mul(scale, l.splat(*tile.scales.get_unchecked(cell + c)));
                *y = l.fma(l.to_floats(sum), factor, *y);
                if F::MINIMA {
                    *y = l.fma(minimum, l.splat(*tile.sums.scaled.get_unchecked(cell + c)), *y);
                }
            }
            return;
        }
        for half in 0..2 {
            let (scale, minimum) = scales::<L, F>(l, block, of_block, 2 * g + half);
            for (c, y) in y.iter_mut().enumerate() {
                let a = tile.codes.as_ptr().add((cell + c) * GROUP + half * GROUP / 2);
                let at = 2 * (cell + c) + half;
                let mut sum = l.splat_int(F::BIAS * tile.sums.negated_halves.get_unchecked(at));
                for t in 0..4 {
                    sum = l.dot(sum, quads[4 * half + t], a.add(4 * t));
                }
                let factor = l.mul(scale, l.splat(*tile.scales.get_unchecked(cell + c)));
                *y = l.fma(l.to_floats(sum), factor, *y);
                if F::MINIMA {
                    *y = l.fma(minimum, l.splat(*tile.sums.scaled_halves.get_unchecked(at)), *y);
                }
            }
        }
    }
}

/// Multiplies a strip, or a pair of them, with a tile, `WIDE` of its rows at a time.
///
/// # Safety
/// The strips must hold the tile's blocks.
#[inline(always)]
unsafe fn whole_tile<L: Lanes, F: Form, const WIDE: usize>(
    l: L,
    strips: &[&[u8]],
    tile: &Tile<'_>,
    out: &mut [Square],
) {
    // SAFETY: by the caller's promise.
    unsafe {
        if let ([a, b], 1) = (strips, tile.used) {
            return columns::<L, F, PAIR, 1>(l, [a, b], tile, 0, out);
        }
        for (strip, out) in strips.iter().zip(out) {
            let (mut first, out) = (0, std::slice::from_mut(out));
            while first < tile.used {
                if first + WIDE <= tile.rows {
                    columns::<L, F, 1, WIDE>(l, [strip], tile, first, out);
                    first += WIDE;
                } else {
                    columns::<L, F, 1, 1>(l, [strip], tile, first, out);
                    first += 1;
                }
            }
        }
    }
}

/// `out[strip][activation][row]` for the rows of one strip, or of a pair, and those of a tile that are used; the others
/// are left as they are.
pub(crate) fn multiply_tile<F: Form>(isa: Isa, strips: &[&[u8]], tile: &Tile<'_>, out: &mut [Square]) {
    let bytes = tile.groups().div_ceil(BLOCK / GROUP) * F::BYTES;
    assert!(
        strips.len() <= out.len() && strips.iter().all(|strip| strip.len() >= bytes),
        "strips of all columns"
    );
    assert!(tile.codes.len() == tile.groups() * tile.rows * GROUP && tile.used <= tile.rows, "a whole tile");

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
    unsafe fn avx512<F: Form>(strips: &[&[u8]], tile: &Tile<'_>, out: &mut [Square]) {
        // SAFETY: by the caller's promise.
        unsafe { whole_tile::<_, F, 8>(super::lanes::Lanes512::new_unchecked(), strips, tile, out) }
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn avx2<F: Form>(strips: &[&[u8]], tile: &Tile<'_>, out: &mut [Square]) {
        // SAFETY: by the caller's promise.
        unsafe { whole_tile::<_, F, 2>(super::lanes::Lanes256::new_unchecked(), strips, tile, out) }
    }
    // SAFETY: the sizes were checked above; an `Isa` is only ever made where the instructions were found.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Amx => avx512::<F>(strips, tile, out),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2::<F>(strips, tile, out),
            _ => whole_tile::<_, F, 1>(Plain, strips, tile, out),
        }
    }
}

/// Products of one call of [`multiply_in_registers`].
pub(crate) const PRODUCTS_PER_CALL: usize = 16 * ROWS * 4;

/// `calls` times sixteen products of a quad with four activations, as many chains of sums: what the instructions give
/// that products are made of.
pub(crate) fn multiply_in_registers(isa: Isa, calls: usize) -> i32 {
    #[inline(always)]
    unsafe fn run<L: Lanes>(l: L, calls: usize) -> f32 {
        let (codes, activations) = ([1_u8; QUAD], std::hint::black_box([[1_i8; 4]; 16]));
        let mut first = [0.0_f32; ROWS];
        // SAFETY: the arrays are as long as what is loaded and stored.
        unsafe {
            let mut sums = [l.splat_int(0); 16];
            for _ in 0..calls {
                // Read anew, or the compiler would find that every product is the same.
                let quad = l.load_bytes(std::hint::black_box(codes.as_ptr()));
                for (i, sum) in sums.iter_mut().enumerate() {
                    *sum = l.dot(*sum, quad, activations[i].as_ptr());
                }
            }
            for sum in sums {
                l.store(l.to_floats(sum), first.as_mut_ptr());
                // Each is looked at, or the compiler would leave out all but the last.
                std::hint::black_box(&first);
            }
        }
        first[0]
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
    unsafe fn avx512(calls: usize) -> f32 {
        // SAFETY: by the caller's promise.
        unsafe { run(super::lanes::Lanes512::new_unchecked(), calls) }
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn avx2(calls: usize) -> f32 {
        // SAFETY: by the caller's promise.
        unsafe { run(super::lanes::Lanes256::new_unchecked(), calls) }
    }
    // SAFETY: an `Isa` is only ever made where the instructions were found.
    let sum = unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Amx => avx512(calls),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2(calls),
            _ => run(Plain, calls),
        }
    };
    sum as i32
}
