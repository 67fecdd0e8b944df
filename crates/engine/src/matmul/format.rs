//! How operands are held for the register tile of an instruction set.
//!
//! A *unit* is 32 bits along the reduction: one f32, or two bf16. 16 units of a row are a *line*, one cache
//! line. A *group* is what a line covers of the reduction, in as many *planes* as an element has parts:
//!
//! | format | elements of a group | planes |
//! |---|---|---|
//! | [`Format::F32`] | 16 | 1 |
//! | [`Format::Bf16`] | 32 | 1 |
//! | [`Format::Split`] | 32 | 3: an f32 is the sum of three bf16, exactly |
//!
//! The last one is how tiles that only multiply bf16 compute f32 products (Henry, Tang and Heinecke 2019,
//! arXiv:1904.06376): of the nine products of parts, the six largest are summed in f32. What is left out is
//! at most 2⁻²⁴ of the product, as much as the rounding of one f32 multiplication. Six bf16 products on tiles
//! take half the time of one f32 product on vectors. Parts below 2⁻¹²⁶ are lost, and an infinity becomes NaN.

use crate::simd::{self, Simd};
use crate::{Dtype, Isa};

use super::pack::Source;

/// What is multiplied: f32 with f32, or bf16 with bf16. Sums are f32 in both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Precision {
    F32,
    Bf16,
}

impl From<Dtype> for Precision {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => Self::F32,
            Dtype::Bf16 => Self::Bf16,
        }
    }
}

/// What a packed operand holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    F32,
    Bf16,
    Split,
}

impl Format {
    /// Elements of the reduction in a group.
    pub(crate) const fn group_elements(self) -> usize {
        match self {
            Self::F32 => 16,
            Self::Bf16 | Self::Split => 32,
        }
    }

    /// Lines of a row in a group.
    pub(crate) const fn planes(self) -> usize {
        match self {
            Self::F32 | Self::Bf16 => 1,
            Self::Split => 3,
        }
    }

    /// Groups that a reduction over `k` elements takes.
    pub(crate) const fn groups(self, k: usize) -> usize {
        k.div_ceil(self.group_elements())
    }

    /// Units that one row of a reduction over `k` elements takes, whole groups.
    pub(crate) const fn units(self, k: usize) -> usize {
        self.groups(k) * self.planes() * 16
    }
}

/// The order of the units in a packed tile of `height` rows (of A, or columns of B).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// `[group][plane][row][16 units]`: whole lines, no shuffling when the reduction is contiguous in memory;
    /// also what the AMX tiles load.
    Lines,
    /// `[group][plane][unit][row]`: neighbours of one unit side by side, as the vector loads of B need them, and
    /// no shuffling when the reduction goes along the rows in memory.
    Panels,
}

/// Distances of rows, in units, at which vector kernels read A unpacked: those of the blocks of attention.
pub(crate) const PITCHES: [usize; 2] = [128, 256];

/// The register tile of an instruction set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Geometry {
    pub(crate) format: Format,
    /// Rows of A in a tile.
    pub(crate) rows: usize,
    /// Columns of B in a panel.
    pub(crate) width: usize,
    /// Matrix tiles: loaded whole, so that A is padded with zero rows, and always in lines.
    pub(crate) tiles: bool,
}

impl Geometry {
    pub(crate) fn of(isa: Isa, precision: Precision) -> Self {
        fn vectors<S: Simd>(precision: Precision) -> Geometry {
            let format = match precision {
                Precision::F32 => Format::F32,
                Precision::Bf16 => Format::Bf16,
            };
            Geometry { format, rows: S::TILE_ROWS, width: 2 * S::LANES, tiles: false }
        }
        let tiles = |format| Self { format, rows: 32, width: 32, tiles: true };
        match (isa, precision) {
            (Isa::Amx, Precision::Bf16) => tiles(Format::Bf16),
            (Isa::Amx, Precision::F32) => tiles(Format::Split),
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512, _) => vectors::<simd::Avx512>(precision),
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx2, _) => vectors::<simd::Avx2>(precision),
            _ => vectors::<simd::Scalar>(precision),
        }
    }

    /// [`Geometry::of`] for products with few rows: f32 on vectors, since tiles take six products for one.
    pub(crate) fn for_few_rows(isa: Isa, precision: Precision) -> Self {
        match (isa, precision) {
            (Isa::Amx, Precision::F32) => Self::of(Isa::Avx512, precision),
            _ => Self::of(isa, precision),
        }
    }

    /// The register tile that takes `rows` rows of A with the panels of this one: of tiles, one row alone would be
    /// nearly all padding, and goes on vectors.
    pub(crate) fn for_rows(self, rows: usize) -> Self {
        let one_row = self.tiles && self.format == Format::Bf16 && rows == 1;
        if one_row { Self { rows: 1, tiles: false, ..self } } else { self }
    }

    /// Whether A is a single row, which stands for one of a tile; see [`super::one_row`].
    pub(crate) fn is_one_row(self) -> bool {
        self.rows == 1
    }

    /// Rows that `rows` rows of A take when packed.
    pub(crate) fn packed_rows(self, rows: usize) -> usize {
        if self.tiles { rows.next_multiple_of(self.rows) } else { rows }
    }

    /// Whether `rows` rows of A over `groups` groups can be used as they lie in memory, `stride` units apart: tiles
    /// are loaded whole; vectors take a few distances that their kernels are compiled for, or one row alone.
    pub(crate) fn loads_rows(self, rows: usize, stride: usize) -> bool {
        match self.format {
            Format::Split => false,
            _ if self.tiles => rows.is_multiple_of(self.rows),
            _ => self.is_one_row() || PITCHES.contains(&stride),
        }
    }

    /// The layout of A that costs the least to make from a source.
    pub(crate) fn layout_for(self, source: &Source<'_>) -> Layout {
        if self.tiles || source.is_contiguous() { Layout::Lines } else { Layout::Panels }
    }
}
