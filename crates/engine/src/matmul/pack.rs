//! Operands brought into the order in which the register tile reads them; see [`super::format`].
//!
//! This is the only place where anything is transposed: 16 units of 16 rows at a time, in registers, on the
//! way into a buffer that is needed anyway.

use std::ops::Range;

use half::bf16;

use super::format::{Format, Layout};
use crate::simd::{self, Element, Simd, kernel};
use crate::threads::Parts;
use crate::{Dtype, Isa, Tensor};

/// Borrowed elements of either type.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Values<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
}

impl<'a> From<&'a [f32]> for Values<'a> {
    fn from(values: &'a [f32]) -> Self {
        Self::F32(values)
    }
}

impl<'a> From<&'a [bf16]> for Values<'a> {
    fn from(values: &'a [bf16]) -> Self {
        Self::Bf16(values)
    }
}

impl<'a> From<&'a Tensor> for Values<'a> {
    fn from(tensor: &'a Tensor) -> Self {
        match tensor.dtype() {
            Dtype::F32 => Self::F32(tensor.as_slice()),
            Dtype::Bf16 => Self::Bf16(tensor.as_slice()),
        }
    }
}

/// An operand where it lies: outer indices by a reduction.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Source<'a> {
    values: Values<'a>,
    stride: usize,
    /// Whether the reduction is contiguous in memory: element (i, k) is at `i * stride + k`; otherwise at
    /// `k * stride + i`.
    contiguous: bool,
}

impl<'a> Source<'a> {
    /// A row-major matrix reduced along its columns.
    pub(crate) fn along_cols(values: impl Into<Values<'a>>, stride: usize) -> Self {
        Self { values: values.into(), stride, contiguous: true }
    }

    /// A row-major matrix reduced along its rows.
    pub(crate) fn along_rows(values: impl Into<Values<'a>>, stride: usize) -> Self {
        Self { values: values.into(), stride, contiguous: false }
    }

    pub(crate) fn is_contiguous(&self) -> bool {
        self.contiguous
    }

    pub(crate) fn element_bytes(&self) -> usize {
        match self.values {
            Values::F32(_) => 4,
            Values::Bf16(_) => 2,
        }
    }

    /// Pairs of bf16 from `row` and element `k` of a contiguous reduction on, and the units between rows, where
    /// they are units: of even length and place.
    pub(crate) fn bf16_rows(&self, row: usize, k: usize) -> Option<(&'a [u32], usize)> {
        match self.values {
            Values::Bf16(x) if self.contiguous && self.stride.is_multiple_of(2) && k.is_multiple_of(2) => {
                let x = &x[row * self.stride + k..];
                let units = bytemuck::try_cast_slice(&x[..x.len() / 2 * 2]).ok()?;
                Some((units, self.stride / 2))
            }
            _ => None,
        }
    }

    /// Elements `k` of one row of f32 with a contiguous reduction: as [`Layout::Lines`] has them, if they are whole groups.
    pub(crate) fn f32_row(&self, row: usize, k: Range<usize>) -> Option<&'a [u32]> {
        match self.values {
            Values::F32(x) if self.contiguous => Some(bytemuck::cast_slice(&x[row * self.stride..][k])),
            _ => None,
        }
    }

    #[cfg(test)]
    pub(crate) fn at(&self, i: usize, k: usize) -> f32 {
        let index = if self.contiguous { i * self.stride + k } else { k * self.stride + i };
        match self.values {
            Values::F32(x) => x[index],
            Values::Bf16(x) => x[index].to_f32(),
        }
    }
}

/// How tiles are laid out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tiling {
    pub(crate) format: Format,
    pub(crate) layout: Layout,
    /// Rows of a tile.
    pub(crate) height: usize,
    /// Whether the last tile is as high as the others, with zeros, or only as high as there are rows.
    pub(crate) whole: bool,
    /// Units from one tile to the next.
    pub(crate) stride: usize,
}

/// Packs outer indices `outer` over the reduction `k` into tiles.
pub(crate) fn pack(
    isa: Isa,
    source: &Source<'_>,
    outer: Range<usize>,
    k: Range<usize>,
    tiling: Tiling,
    out: &mut [u32],
) {
    // SAFETY: all of `out` is ours.
    unsafe { pack_shared(isa, source, outer, k, tiling, &Parts::new(out), 0) };
}

/// [`pack`] into a buffer that tasks share: the first group of the first tile begins at unit `start`.
///
/// # Safety
/// No other task may use these groups of these tiles meanwhile.
pub(crate) unsafe fn pack_shared(
    isa: Isa,
    source: &Source<'_>,
    outer: Range<usize>,
    k: Range<usize>,
    tiling: Tiling,
    out: &Parts<'_, u32>,
    start: usize,
) {
    let Source { values, stride, contiguous } = *source;
    // Sources whose reduction goes along the rows are read row by row across all tiles; the others tile by tile.
    let (groups, together) = (tiling.format.groups(k.len()), if contiguous { 1 } else { usize::MAX });
    let tiles = outer.len().div_ceil(tiling.height);
    // A group the other way round, before it is transposed; zeros for nothing would take longer than packing one row.
    let mut buffer;
    let other: &mut [u32] = if contiguous == (tiling.layout == Layout::Lines) {
        &mut []
    } else {
        buffer = [0; 3 * 16 * WIDEST];
        &mut buffer
    };
    let mut first_tile = 0;
    while first_tile < tiles {
        let last_tile = first_tile.saturating_add(together).min(tiles);
        for group in 0..groups {
            let from = k.start + group * tiling.format.group_elements();
            let len = tiling.format.group_elements().min(k.end - from);
            for tile in first_tile..last_tile {
                let first = outer.start + tile * tiling.height;
                let valid = tiling.height.min(outer.end - first);
                let height = if tiling.whole { tiling.height } else { valid };
                let group_units = tiling.format.planes() * 16 * height;
                let start = start + tile * tiling.stride + group * group_units;
                let place =
                    Place { stride, contiguous, first, valid, height, from, len, layout: tiling.layout };
                // SAFETY: by the caller's promise.
                let out = unsafe { out.part(start..start + group_units) };
                match (values, tiling.format) {
                    (Values::F32(x), Format::F32) => pack_f32(isa, x, place, other, out),
                    (Values::Bf16(x), Format::F32) => pack_f32(isa, x, place, other, out),
                    (Values::F32(x), Format::Bf16) => pack_bf16(isa, x, place, other, out),
                    (Values::Bf16(x), Format::Bf16) => pack_bf16(isa, x, place, other, out),
                    (Values::F32(x), Format::Split) => pack_split(isa, x, place, other, out),
                    (Values::Bf16(x), Format::Split) => pack_split(isa, x, place, other, out),
                }
            }
        }
        first_tile = last_tile;
    }
}

/// One group of one tile: where it is read, and how it is written.
#[derive(Debug, Clone, Copy)]
struct Place {
    stride: usize,
    contiguous: bool,
    /// The first outer index, how many there are, and how many the tile has.
    first: usize,
    valid: usize,
    height: usize,
    /// The first element of the reduction, and how many there are.
    from: usize,
    len: usize,
    layout: Layout,
}

/// What a unit holds.
trait UnitOf {
    /// Elements of a unit, and parts of an element.
    const ELEMENTS: usize;
    const PLANES: usize;
    /// The parts of a unit of elements `low` and `high`; the first `PLANES` count.
    fn unit<S: Simd>(s: S, low: S::F, high: S::F) -> [S::F; 3];
    /// A line of elements, its planes `plane_stride` apart.
    fn line<S: Simd, E: Element>(s: S, x: &[E], out: &mut [u32], plane_stride: usize);
}

struct Single;
struct Pair;
struct SplitPair;

impl UnitOf for Single {
    const ELEMENTS: usize = 1;
    const PLANES: usize = 1;

    #[inline(always)]
    fn unit<S: Simd>(_: S, low: S::F, _: S::F) -> [S::F; 3] {
        [low; 3]
    }

    #[inline(always)]
    fn line<S: Simd, E: Element>(s: S, x: &[E], out: &mut [u32], _: usize) {
        let line: &mut [f32] = bytemuck::cast_slice_mut(&mut out[..16]);
        for i in (0..16).step_by(S::LANES) {
            s.store(load_upto(s, x, i), &mut line[i..i + S::LANES]);
        }
    }
}

impl UnitOf for Pair {
    const ELEMENTS: usize = 2;
    const PLANES: usize = 1;

    #[inline(always)]
    fn unit<S: Simd>(s: S, low: S::F, high: S::F) -> [S::F; 3] {
        [s.pair_bf16(s.round_bf16(low), s.round_bf16(high)); 3]
    }

    #[inline(always)]
    fn line<S: Simd, E: Element>(s: S, x: &[E], out: &mut [u32], _: usize) {
        if E::DTYPE == Dtype::Bf16 && x.len() == 32 {
            let (from, to): (&[[u8; 64]], &mut [[u8; 64]]) =
                (bytemuck::cast_slice(bytemuck::cast_slice::<E, u8>(x)), bytemuck::cast_slice_mut(out));
            to[0] = from[0];
            return;
        }
        let line: &mut [bf16] = bytemuck::cast_slice_mut(&mut out[..16]);
        for i in (0..32).step_by(S::LANES) {
            s.store_bf16(load_upto(s, x, i), &mut line[i..i + S::LANES]);
        }
    }
}

impl UnitOf for SplitPair {
    const ELEMENTS: usize = 2;
    const PLANES: usize = 3;

    #[inline(always)]
    fn unit<S: Simd>(s: S, low: S::F, high: S::F) -> [S::F; 3] {
        let (low, high) = (s.split_bf16(low), s.split_bf16(high));
        [s.pair_bf16(low[0], high[0]), s.pair_bf16(low[1], high[1]), s.pair_bf16(low[2], high[2])]
    }

    #[inline(always)]
    fn line<S: Simd, E: Element>(s: S, x: &[E], out: &mut [u32], plane_stride: usize) {
        for i in (0..32).step_by(2 * S::LANES) {
            let (first, second) =
                (s.split_bf16(load_upto(s, x, i)), s.split_bf16(load_upto(s, x, i + S::LANES)));
            for plane in 0..3 {
                let line: &mut [bf16] = bytemuck::cast_slice_mut(&mut out[plane * plane_stride..][..16]);
                s.store_exact(first[plane], second[plane], &mut line[i..i + 2 * S::LANES]);
            }
        }
    }
}

/// A vector from `x[i..]`, zero beyond the end.
#[inline(always)]
fn load_upto<S: Simd, E: Element>(s: S, x: &[E], i: usize) -> S::F {
    if i + S::LANES <= x.len() {
        E::load(s, &x[i..i + S::LANES])
    } else {
        s.load_partial(&x[i.min(x.len())..])
    }
}

kernel! {
    fn pack_f32[E: Element](s, x: &[E], place: Place, other: &mut [u32], out: &mut [u32]) { group::<S, E, Single>(s, x, place, other, out); }
}

kernel! {
    fn pack_bf16[E: Element](s, x: &[E], place: Place, other: &mut [u32], out: &mut [u32]) { group::<S, E, Pair>(s, x, place, other, out); }
}

kernel! {
    fn pack_split[E: Element](s, x: &[E], place: Place, other: &mut [u32], out: &mut [u32]) { group::<S, E, SplitPair>(s, x, place, other, out); }
}

/// The highest tile there is, of A or B.
const WIDEST: usize = 32;

#[inline(always)]
fn group<S: Simd, E: Element, U: UnitOf>(s: S, x: &[E], place: Place, other: &mut [u32], out: &mut [u32]) {
    let height = place.height;
    match (place.contiguous, place.layout) {
        (true, Layout::Lines) => lines::<S, E, U>(s, x, place, out),
        (false, Layout::Panels) => units::<S, E, U>(s, x, place, out),
        // The other way round first, then transposed.
        (contiguous, _) => {
            assert!(height.is_multiple_of(S::LANES), "a tile of {height} rows is not transposed");
            let other = &mut other[..U::PLANES * 16 * height];
            if contiguous {
                lines::<S, E, U>(s, x, place, other);
            } else {
                units::<S, E, U>(s, x, place, other);
            }
            let (rows, cols) = if contiguous { (height, 16) } else { (16, height) };
            let last = S::LANES - 1;
            for (from, to) in other.chunks_exact(16 * height).zip(out.chunks_exact_mut(16 * height)) {
                for row in (0..rows).step_by(S::LANES) {
                    for col in (0..cols).step_by(S::LANES) {
                        let from = &from[row * cols + col..(row + last) * cols + col + S::LANES];
                        let to = &mut to[col * rows + row..(col + last) * rows + row + S::LANES];
                        // SAFETY: the slices hold the last row of each block.
                        unsafe { s.transpose_units(from.as_ptr(), cols, to.as_mut_ptr(), rows) };
                    }
                }
            }
        }
    }
}

/// Lines of the tile, from a reduction that is contiguous in memory.
#[inline(always)]
fn lines<S: Simd, E: Element, U: UnitOf>(s: S, x: &[E], place: Place, out: &mut [u32]) {
    let plane_stride = 16 * place.height;
    for row in 0..place.valid {
        let start = (place.first + row) * place.stride + place.from;
        U::line(s, &x[start..start + place.len], &mut out[16 * row..], plane_stride);
    }
    for plane in out.chunks_exact_mut(plane_stride) {
        plane[16 * place.valid..].fill(0);
    }
}

/// `[plane][unit][row]`, from a reduction along the rows in memory.
#[inline(always)]
fn units<S: Simd, E: Element, U: UnitOf>(s: S, x: &[E], place: Place, out: &mut [u32]) {
    let (height, plane_stride) = (place.height, 16 * place.height);
    let out: &mut [f32] = bytemuck::cast_slice_mut(out);
    let bf16_pairs =
        U::ELEMENTS == 2 && U::PLANES == 1 && E::DTYPE == Dtype::Bf16 && place.valid == 2 * S::LANES;
    for unit in 0..16 {
        // Elements of the reduction beyond the end are zero.
        let element = |j: usize| -> &[E] {
            let k = unit * U::ELEMENTS + j;
            let start = (place.from + k) * place.stride + place.first;
            if k < place.len && place.valid > 0 { &x[start..start + place.valid] } else { &[] }
        };
        let (low, high) = (element(0), if U::ELEMENTS == 2 { element(1) } else { &[] });
        if bf16_pairs && !high.is_empty() {
            s.pair_rows(bytemuck::cast_slice(low), bytemuck::cast_slice(high), &mut out[unit * height..]);
            continue;
        }
        for i in (0..height).step_by(S::LANES) {
            let parts = U::unit(s, load_upto(s, low, i), load_upto(s, high, i));
            for (plane, part) in parts.into_iter().enumerate().take(U::PLANES) {
                let row = &mut out[plane * plane_stride + unit * height..][..height];
                simd::store(s, part, row, i, S::LANES.min(height - i));
            }
        }
    }
}
