//! Operands in the order in which the register tile reads them.
//!
//! A *unit* is 32 bits along the reduction: one f32, or two bf16. Units are padded with zeros to groups of
//! 16, one cache line. A tile of `height` rows (of A, or columns of B) is laid out as
//!
//! - [`Layout::Lines`]: `[group][row][16 units]`: whole cache lines, no shuffling when the reduction is
//!   contiguous in memory; also what the AMX tiles load;
//! - [`Layout::Panels`]: `[unit][row]`: neighbours of one unit side by side, as the vector loads of B need
//!   them, and no shuffling when the reduction goes along the rows in memory.

use std::ops::Range;

use half::bf16;

use crate::simd::{self, Element, Simd, for_lanes, kernel};
use crate::{Dtype, Isa, Tensor};

/// What is multiplied: f32 with f32, or bf16 with bf16. Sums are f32 in both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Precision {
    F32,
    Bf16,
}

impl Precision {
    /// Elements in a unit.
    pub(crate) fn per_unit(self) -> usize {
        match self {
            Self::F32 => 1,
            Self::Bf16 => 2,
        }
    }
}

impl From<Dtype> for Precision {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => Self::F32,
            Dtype::Bf16 => Self::Bf16,
        }
    }
}

/// Groups of 16 units that a reduction over `k` elements takes.
pub(crate) fn groups_of(k: usize, precision: Precision) -> usize {
    k.div_ceil(16 * precision.per_unit())
}

/// The order of the units in a packed tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    Lines,
    Panels,
}

/// The register tile of an instruction set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Geometry {
    /// Rows of A in a tile.
    pub(crate) rows: usize,
    /// Columns of B in a panel.
    pub(crate) width: usize,
    /// Tiles are loaded whole: A is padded with zero rows and always in lines.
    whole_tiles: bool,
}

impl Geometry {
    pub(crate) fn of(isa: Isa, precision: Precision) -> Self {
        fn of<S: Simd>() -> Geometry {
            Geometry { rows: S::TILE_ROWS, width: 2 * S::LANES, whole_tiles: false }
        }
        match (isa, precision) {
            (Isa::Amx, Precision::Bf16) => Self { rows: 32, width: 32, whole_tiles: true },
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512 | Isa::Amx, _) => of::<simd::Avx512>(),
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx2, _) => of::<simd::Avx2>(),
            _ => of::<simd::Scalar>(),
        }
    }

    /// Rows that `rows` rows of A take when packed.
    pub(crate) fn packed_rows(self, rows: usize) -> usize {
        if self.whole_tiles { rows.next_multiple_of(self.rows) } else { rows }
    }

    /// Whether A can be used as it lies in memory: whole tiles of whole lines, in bf16.
    pub(crate) fn loads_rows(self, rows: usize, k: usize) -> bool {
        self.whole_tiles && rows.is_multiple_of(self.rows) && k.is_multiple_of(32)
    }

    /// The layout of A that costs the least to make from a source.
    pub(crate) fn strided_layout_for(self, source: &Source<'_>) -> Layout {
        if self.whole_tiles || source.contiguous { Layout::Lines } else { Layout::Panels }
    }
}

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

/// An operand where it lies: `rows` outer indices by a reduction.
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

    /// bf16 rows from `row` and element `k` of a contiguous reduction on, and their distance.
    pub(crate) fn bf16_rows(&self, row: usize, k: usize) -> Option<(&'a [bf16], usize)> {
        match self.values {
            Values::Bf16(x) if self.contiguous => Some((&x[row * self.stride + k..], self.stride)),
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

/// Packs outer indices `first..first + valid` over the reduction `k` as a tile of `height` rows, those
/// beyond `valid` zero.
#[expect(clippy::too_many_arguments, reason = "a tile of an operand takes this many")]
pub(crate) fn pack_tile(
    isa: Isa,
    precision: Precision,
    source: &Source<'_>,
    first: usize,
    valid: usize,
    height: usize,
    k: Range<usize>,
    layout: Layout,
    out: &mut [u32],
) {
    let Source { values, stride, contiguous } = *source;
    match (values, precision) {
        (Values::F32(x), Precision::F32) => {
            tile::<f32, f32>(isa, x, stride, contiguous, first, valid, height, k, layout, out)
        }
        (Values::F32(x), Precision::Bf16) => {
            tile::<f32, bf16>(isa, x, stride, contiguous, first, valid, height, k, layout, out)
        }
        (Values::Bf16(x), Precision::F32) => {
            tile::<bf16, f32>(isa, x, stride, contiguous, first, valid, height, k, layout, out)
        }
        (Values::Bf16(x), Precision::Bf16) => {
            tile::<bf16, bf16>(isa, x, stride, contiguous, first, valid, height, k, layout, out)
        }
    }
}

/// The widest tile there is, of A or B.
const WIDEST: usize = 32;

kernel! {
    fn tile[E: Element, D: Element](
        s, x: &[E], stride: usize, contiguous: bool, first: usize, valid: usize, height: usize,
        k: Range<usize>, layout: Layout, out: &mut [u32],
    ) {
        let per_unit = 4 / size_of::<D>();
        let per_group = 16 * per_unit;
        for (g, out) in out.chunks_exact_mut(16 * height).enumerate() {
            let from = k.start + g * per_group;
            let len = per_group.min(k.end - from);
            let mut other = [0_u32; 16 * WIDEST];
            let other = &mut other[..16 * height];
            match (contiguous, layout) {
                (true, Layout::Lines) => lines::<S, E, D>(s, x, stride, first, valid, from, len, out),
                (true, Layout::Panels) => {
                    lines::<S, E, D>(s, x, stride, first, valid, from, len, other);
                    transpose(other, 16, height, out);
                }
                (false, Layout::Panels) => panels::<S, E, D>(s, x, stride, first, valid, from, len, height, out),
                (false, Layout::Lines) => {
                    panels::<S, E, D>(s, x, stride, first, valid, from, len, height, other);
                    transpose(other, height, 16, out);
                }
            }
        }
    }
}

/// `to[c][r] = from[r][c]`, for `from` of `cols` columns and `rows` rows.
#[inline(always)]
fn transpose(from: &[u32], cols: usize, rows: usize, to: &mut [u32]) {
    for (c, to) in to.chunks_exact_mut(rows).enumerate() {
        for (r, to) in to.iter_mut().enumerate() {
            *to = from[r * cols + c];
        }
    }
}

/// One group in lines, from a reduction that is contiguous in memory.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "as the kernel around it")]
fn lines<S: Simd, E: Element, D: Element>(
    s: S,
    x: &[E],
    stride: usize,
    first: usize,
    valid: usize,
    k: usize,
    len: usize,
    out: &mut [u32],
) {
    for (i, line) in out.chunks_exact_mut(16).enumerate() {
        let line: &mut [D] = bytemuck::cast_slice_mut(line);
        let used = if i < valid { len } else { 0 };
        if used > 0 {
            copy_row(s, &x[(first + i) * stride + k..][..used], &mut line[..used]);
        }
        line[used..].fill(D::ZERO);
    }
}

/// One group in panels, from a reduction along the rows in memory.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "as the kernel around it")]
fn panels<S: Simd, E: Element, D: Element>(
    s: S,
    x: &[E],
    stride: usize,
    first: usize,
    valid: usize,
    k: usize,
    len: usize,
    height: usize,
    out: &mut [u32],
) {
    let per_unit = 4 / size_of::<D>();
    for (u, units) in out.chunks_exact_mut(height).enumerate() {
        let mut rows = [[D::ZERO; WIDEST]; 2];
        for (j, row) in rows.iter_mut().enumerate().take(per_unit) {
            let k_offset = u * per_unit + j;
            if k_offset < len {
                copy_row(s, &x[(k + k_offset) * stride + first..][..valid], &mut row[..valid]);
            }
        }
        if per_unit == 1 {
            units.copy_from_slice(bytemuck::cast_slice(&rows[0][..units.len()]));
        } else {
            let (low, high): (&[u16], &[u16]) =
                (bytemuck::cast_slice(&rows[0]), bytemuck::cast_slice(&rows[1]));
            for ((unit, low), high) in units.iter_mut().zip(low).zip(high) {
                *unit = u32::from(*low) | u32::from(*high) << 16;
            }
        }
    }
}

/// Copies or converts; the lengths that are met most (a line of bf16, one of f32) without a call.
#[inline(always)]
fn copy_row<S: Simd, E: Element, D: Element>(s: S, from: &[E], to: &mut [D]) {
    if E::DTYPE != D::DTYPE {
        for_lanes!(s, from.len(), |i, n| {
            simd::store(s, simd::load(s, from, i, n), to, i, n);
        });
        return;
    }
    let from: &[D] = bytemuck::cast_slice(from);
    match from.len() {
        32 => copy_array::<32, D>(from, to),
        16 => copy_array::<16, D>(from, to),
        _ => to.copy_from_slice(from),
    }
}

#[inline(always)]
fn copy_array<const N: usize, D: Copy>(from: &[D], to: &mut [D]) {
    let (from, to): (&[D; N], &mut [D; N]) = (from.try_into().expect("N"), to.try_into().expect("N"));
    *to = *from;
}
