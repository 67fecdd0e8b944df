//! Packed operands multiplied in a register tile.
//!
//! ```text
//! for every panel of B, two registers wide          B streams from the second-level cache
//!   for every tile of A, up to 12 rows high         A stays in the first
//!     for every unit of the reduction               24 sums stay in registers:
//!       load two registers of B                     24 products for 2 loads and 12 broadcasts
//!       for every row: broadcast one unit of A, multiply with both, add
//! ```

use half::bf16;

use super::format::{Format, Geometry, Layout};
use crate::simd::{Simd, kernel};
use crate::{Isa, amx};

/// The rows of A.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Left<'a> {
    /// Tiles, one after the other, the last one as high as there are rows left.
    Packed(&'a [u32], Layout),
    /// bf16 rows as they lie in memory, so many elements apart: what whole AMX tiles can load.
    Rows(&'a [bf16], usize),
}

/// Operands of one product.
#[derive(Debug)]
pub(crate) struct Block<'a> {
    pub(crate) a: Left<'a>,
    pub(crate) rows: usize,
    /// The first of the panels of B, each at the unit at which the reduction starts.
    pub(crate) b: &'a [u32],
    /// Units from one panel to the next.
    pub(crate) panel_stride: usize,
    pub(crate) cols: usize,
    /// Groups in the reduction.
    pub(crate) groups: usize,
    pub(crate) geometry: Geometry,
}

/// `C = A · Bᵀ`, or `C += A · Bᵀ` where `accumulate`; the sum starts from what is in C then.
///
/// # Safety
/// `c` must be writable for `rows` rows of `cols` values, `stride` apart, and nobody else may use them.
pub(crate) unsafe fn multiply_block(
    isa: Isa,
    block: &Block<'_>,
    c: *mut f32,
    stride: usize,
    accumulate: bool,
) {
    // The kernels read through pointers; these checks are what makes that sound.
    let geometry = block.geometry;
    let units = block.groups * geometry.format.planes() * 16;
    if block.rows == 0 || block.cols == 0 {
        return;
    }
    match block.a {
        Left::Packed(a, layout) => {
            assert!(a.len() >= geometry.packed_rows(block.rows) * units, "A has fewer rows");
            assert!(!geometry.tiles || layout == Layout::Lines, "tiles are loaded from lines");
        }
        Left::Rows(values, stride) => {
            assert!(geometry.loads_rows(block.rows, block.groups * 32), "rows of A that no tile loads");
            assert!(values.len() >= (block.rows - 1) * stride + block.groups * 32, "A has fewer rows");
        }
    }
    let panels = block.cols.div_ceil(geometry.width);
    assert!(
        block.b.len() >= (panels - 1) * block.panel_stride + units * geometry.width,
        "B is packed for fewer columns"
    );
    if geometry.tiles {
        assert!(isa == Isa::Amx, "no tiles here");
        // SAFETY: an `Isa` of this kind proves the instructions; operands were checked, C is promised.
        unsafe { amx::multiply_block(block, c, stride, accumulate) };
        return;
    }
    let Left::Packed(a, layout) = block.a else { unreachable!("only tiles load rows, see above") };
    match (geometry.format, layout) {
        (Format::F32, Layout::Lines) => multiply::<F32Unit, Lines>(isa, block, a, c, stride, accumulate),
        (Format::F32, Layout::Panels) => multiply::<F32Unit, Panels>(isa, block, a, c, stride, accumulate),
        (Format::Bf16, Layout::Lines) => multiply::<Bf16Pair, Lines>(isa, block, a, c, stride, accumulate),
        (Format::Bf16, Layout::Panels) => multiply::<Bf16Pair, Panels>(isa, block, a, c, stride, accumulate),
        (Format::Split, _) => unreachable!("only tiles multiply parts"),
    }
}

/// How a unit of A and a unit of B are multiplied.
trait Unit {
    fn multiply_add<S: Simd>(s: S, a: S::F, b: S::F, sum: S::F) -> S::F;
}

struct F32Unit;
struct Bf16Pair;

impl Unit for F32Unit {
    #[inline(always)]
    fn multiply_add<S: Simd>(s: S, a: S::F, b: S::F, sum: S::F) -> S::F {
        s.fma(a, b, sum)
    }
}

impl Unit for Bf16Pair {
    #[inline(always)]
    fn multiply_add<S: Simd>(s: S, a: S::F, b: S::F, sum: S::F) -> S::F {
        s.dot_bf16_pairs(sum, a, b)
    }
}

/// Where a packed tile of A has its units.
trait Order {
    /// Units from one row to the next, and from one unit of the reduction to the next, within a group.
    fn strides(height: usize) -> (usize, usize);
}

struct Lines;
struct Panels;

impl Order for Lines {
    #[inline(always)]
    fn strides(_: usize) -> (usize, usize) {
        (16, 1)
    }
}

impl Order for Panels {
    #[inline(always)]
    fn strides(height: usize) -> (usize, usize) {
        (1, height)
    }
}

kernel! {
    fn multiply[U: Unit, O: Order](s, block: &Block<'_>, a: &[u32], c: *mut f32, stride: usize, accumulate: bool) {
        let width = 2 * crate::simd::lanes_of(s);
        let tile_rows = tile_rows_of(s);
        let mut row = 0;
        while row < block.rows {
            let height = tile_rows.min(block.rows - row);
            let a = a[row * block.groups * 16..].as_ptr();
            let mut col = 0;
            while col < block.cols {
                let b = block.b[col / width * block.panel_stride..].as_ptr();
                let valid = width.min(block.cols - col);
                let target = c.wrapping_add(row * stride + col);
                // SAFETY: the lengths of A and B were checked by the only caller, C is its caller's promise.
                unsafe {
                    if valid == width {
                        tile::<S, U, O>(s, a, height, b, block.groups, target, stride, accumulate);
                    } else {
                        let mut edge = [0.0_f32; 12 * 32];
                        for i in 0..height {
                            for j in 0..valid {
                                edge[i * width + j] = *target.add(i * stride + j);
                            }
                        }
                        tile::<S, U, O>(s, a, height, b, block.groups, edge.as_mut_ptr(), width, accumulate);
                        for i in 0..height {
                            for j in 0..valid {
                                *target.add(i * stride + j) = edge[i * width + j];
                            }
                        }
                    }
                }
                col += width;
            }
            row += height;
        }
    }
}

#[inline(always)]
fn tile_rows_of<S: Simd>(_: S) -> usize {
    S::TILE_ROWS
}

/// One tile of A with one panel of B, in pieces of as many rows as there are kernels for.
///
/// # Safety
/// `a`, `b` and `c` must hold a tile, a panel and `height` rows of `2 * LANES` values.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "a tile takes this many")]
unsafe fn tile<S: Simd, U: Unit, O: Order>(
    s: S,
    a: *const u32,
    height: usize,
    b: *const u32,
    groups: usize,
    c: *mut f32,
    stride: usize,
    accumulate: bool,
) {
    let mut row = 0;
    // SAFETY: each piece stays within the rows of the tile.
    unsafe {
        macro_rules! pieces {
            ($($rows:literal),*) => {$(
                while $rows <= S::TILE_ROWS && height - row >= $rows {
                    let a = a.add(row * O::strides(height).0);
                    rows::<S, U, O, $rows>(s, a, height, b, groups, c.add(row * stride), stride, accumulate);
                    row += $rows;
                }
            )*};
        }
        pieces!(12, 8, 6, 4, 2, 1);
    }
}

/// `R` rows of a tile of `height` rows with one panel of B; the sums never leave the registers.
///
/// # Safety
/// As [`tile`].
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "a tile takes this many")]
unsafe fn rows<S: Simd, U: Unit, O: Order, const R: usize>(
    s: S,
    mut a: *const u32,
    height: usize,
    mut b: *const u32,
    groups: usize,
    c: *mut f32,
    stride: usize,
    accumulate: bool,
) {
    let (row_step, unit_step) = O::strides(height);
    // SAFETY: by the caller's promise all of this lies inside the operands.
    unsafe {
        let mut sums = [[s.splat(0.0); 2]; R];
        if accumulate {
            for (i, sums) in sums.iter_mut().enumerate() {
                let c: *const u32 = c.add(i * stride).cast();
                *sums = [s.load_units(c), s.load_units(c.add(S::LANES))];
            }
        }
        for _ in 0..groups {
            for unit in 0..16 {
                let b0 = s.load_units(b);
                let b1 = s.load_units(b.add(S::LANES));
                b = b.add(2 * S::LANES);
                for (i, sums) in sums.iter_mut().enumerate() {
                    let x = s.splat_unit(*a.add(i * row_step + unit * unit_step));
                    sums[0] = U::multiply_add(s, x, b0, sums[0]);
                    sums[1] = U::multiply_add(s, x, b1, sums[1]);
                }
            }
            a = a.add(16 * height);
        }
        for (i, sums) in sums.iter().enumerate() {
            s.store_at(sums[0], c.add(i * stride));
            s.store_at(sums[1], c.add(i * stride + S::LANES));
        }
    }
}
