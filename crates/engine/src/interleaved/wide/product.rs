//! Products of strips with few rows of activations, on vectors.
//!
//! For every output, in this order and whatever the instruction set, the number of rows or of threads:
//!
//! ```text
//! y = 0
//! for each block of 256 columns:
//!     high = Σ group scale · Σ (code − bias) · a_high      exact, and so is the other
//!     low  = Σ group scale · Σ (code − bias) · a_low
//!     y = fma(fma(high, 256, low), block scale · activation scale, y)
//!     y = fma(Σ group minimum · round(Σ a / 64), −64 · block minimum · activation scale, y)
//! ```

use super::super::form::{Form, GROUP, GROUPS, ROWS};
use super::super::lanes::{Lanes, Plain};
use super::super::product::{Square, ask_ahead, block_scales, quads};
use super::activations::{RowBlock, SUM_UNIT, SUMMED};
use crate::Isa;

/// Rows that are multiplied with a strip at a time.
const AT_ONCE: usize = 4;

/// Multiplies `S` strips with `C` rows.
///
/// # Safety
/// The strips must hold the rows' blocks.
#[inline(always)]
unsafe fn columns<L: Lanes, F: Form, const S: usize, const C: usize>(
    l: L,
    strips: [&[u8]; S],
    rows: [&[RowBlock]; C],
    first: usize,
    out: &mut [Square],
) {
    let mut y = [[l.splat(0.0); C]; S];
    // SAFETY: by the caller's promise.
    unsafe {
        for b in 0..rows[0].len() {
            let blocks = strips.map(|strip| strip.as_ptr().add(b * F::BYTES));
            let of_rows = rows.map(|row| row.get_unchecked(b));
            let mut sums = [[Sums::zero(l); C]; S];
            for g in 0..GROUPS {
                for (block, sums) in blocks.iter().zip(&mut sums) {
                    add_group::<L, F, C>(l, *block, g, of_rows, sums);
                }
            }
            for ((block, sums), y) in blocks.iter().zip(sums).zip(&mut y) {
                let of_block = block_scales::<L, F>(l, *block);
                for ((row, sums), y) in of_rows.iter().zip(sums).zip(y) {
                    let scale = l.splat(row.scale);
                    let product = l.fma(l.to_floats(sums.high), l.splat(256.0), l.to_floats(sums.low));
                    *y = l.fma(product, l.mul(of_block.scale, scale), *y);
                    if F::MINIMA {
                        let minimum = l.mul(of_block.minimum, l.splat(SUM_UNIT));
                        *y = l.fma(sums.minima, l.mul(minimum, scale), *y);
                    }
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

/// Whole numbers that a block of a row gives.
#[derive(Clone, Copy)]
struct Sums<L: Lanes> {
    high: L::Ints,
    low: L::Ints,
    /// Whole as well, and small enough for f32 to hold them.
    minima: L::Floats,
}

impl<L: Lanes> Sums<L> {
    #[inline(always)]
    fn zero(l: L) -> Self {
        Self { high: l.splat_int(0), low: l.splat_int(0), minima: l.splat(0.0) }
    }
}

/// Adds the products of group `g` of a block with some rows.
///
/// # Safety
/// `block` must be readable for a block.
#[inline(always)]
unsafe fn add_group<L: Lanes, F: Form, const C: usize>(
    l: L,
    block: *const u8,
    g: usize,
    rows: [&RowBlock; C],
    sums: &mut [Sums<L>; C],
) {
    const HALF: usize = GROUP / SUMMED;
    // SAFETY: by the caller's promise; quads and sums are indexed within a group.
    unsafe {
        let codes = block.add(F::CODES_AT + g * F::GROUP_BYTES);
        ask_ahead::<L, F>(l, codes);
        let quads = quads::<L, F>(l, codes);
        let (parts, quads_of_part, sums_of_part) = (GROUP / F::SCALED, F::SCALED / 4, F::SCALED / SUMMED);
        for part in 0..parts {
            let at = block.add(F::WHOLES_AT + (g * parts + part) * ROWS);
            let scale = if F::SIGNED { l.load_i8_ints(at) } else { l.load_u8_ints(at) };
            let first_sum = g * HALF + part * sums_of_part;
            for (row, sums) in rows.iter().zip(&mut *sums) {
                let bias = |of: &[i32; 16]| {
                    -F::BIAS * (first_sum..first_sum + sums_of_part).map(|i| of[i]).sum::<i32>()
                };
                let (mut high, mut low) = (l.splat_int(0), l.splat_int(0));
                if F::BIAS != 0 {
                    (high, low) = (l.splat_int(bias(&row.high_sums)), l.splat_int(bias(&row.low_sums)));
                }
                let first_quad = part * quads_of_part;
                for (t, quad) in quads[first_quad..first_quad + quads_of_part].iter().enumerate() {
                    let col = g * GROUP + 4 * (first_quad + t);
                    let (a, b) = (row.high.as_ptr().add(col), row.low.as_ptr().add(col));
                    if F::BIAS == 128 {
                        (high, low) = (l.dot_wide(high, *quad, a), l.dot_wide(low, *quad, b));
                    } else {
                        (high, low) = (l.dot(high, *quad, a), l.dot(low, *quad, b));
                    }
                }
                sums.high = l.mul_add_ints(scale, high, sums.high);
                sums.low = l.mul_add_ints(scale, low, sums.low);
                if F::MINIMA {
                    let sum: f32 = (first_sum..first_sum + sums_of_part).map(|i| row.sums[i]).sum();
                    sums.minima = l.fma(l.load_u8(at.add(F::WHOLES)), l.splat(sum), sums.minima);
                }
            }
        }
    }
}

/// # Safety
/// As [`columns`].
#[inline(always)]
unsafe fn all<L: Lanes, F: Form>(l: L, strips: &[&[u8]], rows: &[&[RowBlock]], out: &mut [Square]) {
    // SAFETY: by the caller's promise.
    unsafe {
        for (i, rows) in rows.chunks(AT_ONCE).enumerate() {
            let first = i * AT_ONCE;
            match (strips, rows) {
                ([s, t], [a]) => columns::<L, F, 2, 1>(l, [s, t], [a], first, out),
                ([s, t], [a, b]) => columns::<L, F, 2, 2>(l, [s, t], [a, b], first, out),
                ([s, t], [a, b, c]) => columns::<L, F, 2, 3>(l, [s, t], [a, b, c], first, out),
                ([s, t], [a, b, c, d]) => columns::<L, F, 2, 4>(l, [s, t], [a, b, c, d], first, out),
                ([s], [a]) => columns::<L, F, 1, 1>(l, [s], [a], first, out),
                ([s], [a, b]) => columns::<L, F, 1, 2>(l, [s], [a, b], first, out),
                ([s], [a, b, c]) => columns::<L, F, 1, 3>(l, [s], [a, b, c], first, out),
                ([s], [a, b, c, d]) => columns::<L, F, 1, 4>(l, [s], [a, b, c, d], first, out),
                _ => unreachable!("{} strips and {} rows", strips.len(), rows.len()),
            }
        }
    }
}

/// `out[strip][activation][row]` for the rows of one strip, or of a pair, and up to sixteen `rows` of activations.
pub(super) fn multiply_rows<F: Form>(isa: Isa, strips: &[&[u8]], rows: &[&[RowBlock]], out: &mut [Square]) {
    for row in rows {
        let enough = |strip: &&[u8]| strip.len() >= row.len() * F::BYTES;
        assert!(row.len() == rows[0].len() && strips.iter().all(enough), "strips of all columns");
    }
    assert!(
        strips.len() <= out.len() && F::WHOLE,
        "a square for each strip, in a format with whole-numbered scales"
    );

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
    unsafe fn avx512<F: Form>(strips: &[&[u8]], rows: &[&[RowBlock]], out: &mut [Square]) {
        // SAFETY: by the caller's promise.
        unsafe { all::<_, F>(super::super::lanes::Lanes512::new_unchecked(), strips, rows, out) }
    }
    // SAFETY: the sizes were checked above; an `Isa` is only ever made where the instructions were found.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Amx => avx512::<F>(strips, rows, out),
            _ => all::<_, F>(Plain, strips, rows, out),
        }
    }
}
