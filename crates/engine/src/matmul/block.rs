//! Packed operands multiplied in a register tile.
//!
//! ```text
//! for every tile of A, up to 12 rows high           A stays in the first-level cache
//!   for every panel of B, two registers wide        B streams from the second
//!     for every unit of the reduction               24 sums stay in registers:
//!       load two registers of B                     24 products for 2 loads and 12 broadcasts
//!       for every row: broadcast one unit of A, multiply with both, add
//! ```

use half::bf16;

use super::format::{Format, Geometry, Layout};
use super::one_row;
use crate::elementwise::convert;
use crate::simd::{Simd, kernel};
use crate::{Isa, amx};

/// The rows of A.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Left<'a> {
    /// Tiles, one after the other, the last one as high as there are rows left.
    Packed(&'a [u32], Layout),
    /// Rows as they lie in memory, so many units apart; see [`Geometry::loads_rows`].
    Rows(&'a [u32], usize),
}

/// Operands of one product; B has units, or something smaller that stands for them.
#[derive(Debug)]
pub(crate) struct Block<'a, U = u32> {
    pub(crate) a: Left<'a>,
    pub(crate) rows: usize,
    /// The first of the panels of B, each at the unit at which the reduction starts.
    pub(crate) b: &'a [U],
    /// Units from one panel to the next.
    pub(crate) panel_stride: usize,
    pub(crate) cols: usize,
    /// Groups in the reduction.
    pub(crate) groups: usize,
    pub(crate) geometry: Geometry,
}

/// Where sums begin and where they go: `to = from + A · Bᵀ`, rounded once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target {
    /// The first of the values to add to and the distance of their rows, if any; may be what is written.
    pub(crate) from: Option<(*const f32, usize)>,
    pub(crate) to: Pointer,
    pub(crate) stride: usize,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Pointer {
    F32(*mut f32),
    Bf16(*mut bf16),
}

impl Target {
    /// `c = A · Bᵀ`, or `c += A · Bᵀ` where `add`.
    pub(crate) fn f32(c: *mut f32, stride: usize, add: bool) -> Self {
        Self { from: add.then_some((c.cast_const(), stride)), to: Pointer::F32(c), stride }
    }

    /// The part from a row and a column on.
    pub(crate) fn part(self, row: usize, col: usize) -> Self {
        let offset = row * self.stride + col;
        Self {
            from: self.from.map(|(from, stride)| (from.wrapping_add(row * stride + col), stride)),
            to: match self.to {
                Pointer::F32(c) => Pointer::F32(c.wrapping_add(offset)),
                Pointer::Bf16(c) => Pointer::Bf16(c.wrapping_add(offset)),
            },
            stride: self.stride,
        }
    }

    /// Copies `rows` by `cols` values to add to into `tile`, rows `width` apart; zeros if there are none.
    ///
    /// # Safety
    /// They must be there to read.
    pub(crate) unsafe fn read(self, rows: usize, cols: usize, tile: &mut [f32], width: usize) {
        for (i, row) in tile.chunks_exact_mut(width).enumerate().take(rows) {
            match self.from {
                // SAFETY: by the caller's promise.
                Some((from, stride)) => row[..cols]
                    .copy_from_slice(unsafe { std::slice::from_raw_parts(from.add(i * stride), cols) }),
                None => row[..cols].fill(0.0),
            }
        }
    }

    /// Writes the first `rows` by `cols` values of `tile`, rows `width` apart.
    ///
    /// # Safety
    /// The target must be there to write, and nobody else may use it.
    pub(crate) unsafe fn write(self, isa: Isa, rows: usize, cols: usize, tile: &[f32], width: usize) {
        for (i, row) in tile.chunks_exact(width).enumerate().take(rows) {
            // SAFETY: by the caller's promise.
            unsafe {
                match self.to {
                    Pointer::F32(c) => std::slice::from_raw_parts_mut(c.add(i * self.stride), cols)
                        .copy_from_slice(&row[..cols]),
                    Pointer::Bf16(c) => convert(
                        isa,
                        &row[..cols],
                        std::slice::from_raw_parts_mut(c.add(i * self.stride), cols),
                    ),
                }
            }
        }
    }
}

impl<U> Block<'_, U> {
    /// The kernels read through pointers; these checks are what makes that sound.
    ///
    /// # Panics
    /// If an operand is shorter than its sizes say, or not as kernels take it.
    pub(crate) fn check(&self) {
        let geometry = self.geometry;
        let units = self.groups * geometry.format.planes() * 16;
        if self.rows == 0 || self.cols == 0 {
            return;
        }
        match self.a {
            Left::Packed(a, layout) => {
                assert!(a.len() >= geometry.packed_rows(self.rows) * units, "A has fewer rows");
                assert!(!geometry.tiles || layout == Layout::Lines, "tiles are loaded from lines");
            }
            Left::Rows(a, stride) => {
                assert!(geometry.loads_rows(self.rows, stride), "rows of A that no kernel loads");
                assert!(a.len() >= (self.rows - 1) * stride + self.groups * 16, "A has fewer rows");
            }
        }
        let panels = self.cols.div_ceil(geometry.width);
        assert!(
            self.b.len() >= (panels - 1) * self.panel_stride + units * geometry.width,
            "B is packed for fewer columns"
        );
    }
}

/// Multiplies a block into its target.
///
/// # Safety
/// The target must be there for `rows` rows of `cols` values, and nobody else may use it.
pub(crate) unsafe fn multiply_block(isa: Isa, block: &Block<'_>, target: Target) {
    block.check();
    if block.rows == 0 || block.cols == 0 {
        return;
    }
    if block.geometry.tiles {
        assert!(isa == Isa::Amx, "no tiles here");
        // SAFETY: an `Isa` of this kind proves the instructions; operands were checked, C is promised.
        unsafe { amx::multiply_block(block, target) };
        return;
    }
    match block.geometry.format {
        Format::F32 => multiply_units::<F32Unit>(isa, block, target),
        // SAFETY: where there are tiles there are the vectors; operands are checked, C is promised.
        Format::Bf16 if isa == Isa::Amx => unsafe { one_row::multiply(block, target) },
        Format::Bf16 => multiply_units::<Bf16Pair>(isa, block, target),
        Format::Split => unreachable!("only tiles multiply parts"),
    }
}

fn multiply_units<U: Unit>(isa: Isa, block: &Block<'_>, target: Target) {
    match block.a {
        Left::Packed(a, Layout::Lines) => multiply::<U, Lines>(isa, block, a, target),
        Left::Packed(a, Layout::Panels) => multiply::<U, Panels>(isa, block, a, target),
        Left::Rows(a, 128) => multiply::<U, Rows<128>>(isa, block, a, target),
        Left::Rows(a, 256) => multiply::<U, Rows<256>>(isa, block, a, target),
        Left::Rows(..) => unreachable!("checked above"),
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

/// Where A has its units.
trait Order {
    /// Units from one row to the next, and from one unit of the reduction to the next, within a group.
    fn strides(height: usize) -> (usize, usize);
    /// Units from one group to the next in a tile of `height` rows.
    fn group(height: usize) -> usize;
    /// Units from the first row of all to the first of a tile, where rows have `groups` groups.
    fn tile(row: usize, groups: usize) -> usize;
}

struct Lines;
struct Panels;
struct Rows<const PITCH: usize>;

impl Order for Lines {
    #[inline(always)]
    fn strides(_: usize) -> (usize, usize) {
        (16, 1)
    }
    #[inline(always)]
    fn group(height: usize) -> usize {
        16 * height
    }
    #[inline(always)]
    fn tile(row: usize, groups: usize) -> usize {
        16 * groups * row
    }
}

impl Order for Panels {
    #[inline(always)]
    fn strides(height: usize) -> (usize, usize) {
        (1, height)
    }
    #[inline(always)]
    fn group(height: usize) -> usize {
        16 * height
    }
    #[inline(always)]
    fn tile(row: usize, groups: usize) -> usize {
        16 * groups * row
    }
}

impl<const PITCH: usize> Order for Rows<PITCH> {
    #[inline(always)]
    fn strides(_: usize) -> (usize, usize) {
        (PITCH, 1)
    }
    #[inline(always)]
    fn group(_: usize) -> usize {
        16
    }
    #[inline(always)]
    fn tile(row: usize, _: usize) -> usize {
        PITCH * row
    }
}

/// Panels of B, and how many columns they have; the last one is padded to its width.
#[derive(Clone, Copy)]
struct Right {
    start: *const u32,
    /// Units from one panel to the next.
    stride: usize,
    cols: usize,
}

/// Panels that a single row is multiplied with at a time: each term of a sum waits for the one before, and two sums
/// would leave the machine idle meanwhile.
const SIDE_BY_SIDE: usize = 4;

kernel! {
    fn multiply[U: Unit, O: Order](s, block: &Block<'_>, a: &[u32], target: Target) {
        let width = 2 * crate::simd::lanes_of(s);
        let tile_rows = tile_rows_of(s);
        for row in (0..block.rows).step_by(tile_rows) {
            let height = tile_rows.min(block.rows - row);
            let a = a[O::tile(row, block.groups)..].as_ptr();
            let widest = if height == 1 { SIDE_BY_SIDE * width } else { width };
            for col in (0..block.cols).step_by(widest) {
                let start = block.b[col / width * block.panel_stride..].as_ptr();
                let cols = widest.min(block.cols - col);
                let b = Right { start, stride: block.panel_stride, cols };
                // SAFETY: the lengths of A and B were checked by the only caller, the target is its caller's promise.
                unsafe { tile::<S, U, O>(s, a, height, b, block.groups, target.part(row, col)) };
            }
        }
    }
}

#[inline(always)]
fn tile_rows_of<S: Simd>(_: S) -> usize {
    S::TILE_ROWS
}

/// One tile of A with one panel of B, or one row with some, in pieces of as many rows as there are kernels for.
///
/// # Safety
/// `a`, `b` and the target must hold a tile, the panels and `height` rows of as many values as these have columns.
#[inline(always)]
unsafe fn tile<S: Simd, U: Unit, O: Order>(
    s: S,
    a: *const u32,
    height: usize,
    b: Right,
    groups: usize,
    target: Target,
) {
    let mut row = 0;
    // SAFETY: each piece stays within the rows of the tile.
    unsafe {
        macro_rules! one_row {
            ($($vectors:literal),*) => {$(
                if height == 1 && b.cols <= $vectors * S::LANES {
                    return rows::<S, U, O, 1, $vectors>(s, a, 1, b, groups, target);
                }
            )*};
        }
        one_row!(1, 2, 4, 6, 8);
        macro_rules! pieces {
            ($($rows:literal),*) => {$(
                while $rows <= S::TILE_ROWS && height - row >= $rows {
                    let a = a.add(row * O::strides(height).0);
                    rows::<S, U, O, $rows, 2>(s, a, height, b, groups, target.part(row, 0));
                    row += $rows;
                }
            )*};
        }
        pieces!(12, 8, 6, 4, 2, 1);
    }
}

/// `R` rows of a tile of `height` rows with `V` vectors of B, two a panel; the sums never leave the registers.
///
/// # Safety
/// As [`tile`].
#[inline(always)]
unsafe fn rows<S: Simd, U: Unit, O: Order, const R: usize, const V: usize>(
    s: S,
    mut a: *const u32,
    height: usize,
    b: Right,
    groups: usize,
    target: Target,
) {
    let (row_step, unit_step) = O::strides(height);
    let mut units = b.start;
    // The second half of a panel may be beyond the last column.
    let used = b.cols.div_ceil(S::LANES);
    // SAFETY: by the caller's promise all of this lies inside the operands.
    unsafe {
        let mut sums = [[s.splat(0.0); V]; R];
        if let Some((from, stride)) = target.from {
            for (i, sums) in sums.iter_mut().enumerate() {
                for (j, sum) in sums.iter_mut().enumerate().take(used) {
                    let col = j * S::LANES;
                    *sum = load_cols(s, from.add(i * stride + col), b.cols - col);
                }
            }
        }
        for _ in 0..groups {
            for unit in 0..16 {
                let mut vectors = [s.splat(0.0); V];
                for (j, vector) in vectors.iter_mut().enumerate() {
                    *vector = s.load_units(units.add(j / 2 * b.stride + j % 2 * S::LANES));
                }
                for (i, sums) in sums.iter_mut().enumerate() {
                    let x = s.splat_unit(*a.add(i * row_step + unit * unit_step));
                    for (sum, vector) in sums.iter_mut().zip(vectors) {
                        *sum = U::multiply_add(s, x, vector, *sum);
                    }
                }
                units = units.add(2 * S::LANES);
            }
            a = a.add(O::group(height));
        }
        for (i, sums) in sums.iter().enumerate() {
            for (j, sum) in sums.iter().enumerate().take(used) {
                let col = j * S::LANES;
                let cols = (b.cols - col).min(S::LANES);
                match target.part(i, col).to {
                    Pointer::F32(c) if cols == S::LANES => s.store_at(*sum, c),
                    Pointer::F32(c) => s.store_partial(*sum, std::slice::from_raw_parts_mut(c, cols)),
                    Pointer::Bf16(c) if cols == S::LANES => {
                        s.store_bf16(*sum, std::slice::from_raw_parts_mut(c, cols))
                    }
                    Pointer::Bf16(c) => s.store_partial(*sum, std::slice::from_raw_parts_mut(c, cols)),
                }
            }
        }
    }
}

/// The first `cols` of a vector of values, the others zero; all of them, if `cols` are more.
///
/// # Safety
/// They must be there to read.
#[inline(always)]
unsafe fn load_cols<S: Simd>(s: S, from: *const f32, cols: usize) -> S::F {
    // SAFETY: by the caller's promise.
    unsafe {
        if cols >= S::LANES {
            s.load_units(from.cast())
        } else {
            s.load_partial(std::slice::from_raw_parts(from, cols))
        }
    }
}
