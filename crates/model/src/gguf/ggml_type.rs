//! Types of tensors: how many weights a block has, and how many bytes.

use elmwood_engine::RowFormat;
use elmwood_engine::quant::BlockFormat;

/// Type of a tensor's values. All but the plain numbers are blocks of weights that share scales.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[expect(missing_docs, non_camel_case_types, reason = "the names are those of the format and say it all")]
pub enum GgmlType {
    F32,
    F16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q8_1,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    Q8_K,
    IQ2_XXS,
    IQ2_XS,
    IQ3_XXS,
    IQ1_S,
    IQ4_NL,
    IQ3_S,
    IQ2_S,
    IQ4_XS,
    I8,
    I16,
    I32,
    I64,
    F64,
    IQ1_M,
    BF16,
    TQ1_0,
    TQ2_0,
    MXFP4,
    NVFP4,
    Q1_0,
}

/// What the format says of a type.
struct Row {
    ty: GgmlType,
    name: &'static str,
    id: u32,
    block_weights: usize,
    block_bytes: usize,
}

impl GgmlType {
    const ROWS: [Row; 34] = {
        const fn row(ty: GgmlType, name: &'static str, id: u32, block: (usize, usize)) -> Row {
            Row { ty, name, id, block_weights: block.0, block_bytes: block.1 }
        }
        [
            row(Self::F32, "F32", 0, (1, 4)),
            row(Self::F16, "F16", 1, (1, 2)),
            row(Self::Q4_0, "Q4_0", 2, (32, 18)),
            row(Self::Q4_1, "Q4_1", 3, (32, 20)),
            row(Self::Q5_0, "Q5_0", 6, (32, 22)),
            row(Self::Q5_1, "Q5_1", 7, (32, 24)),
            row(Self::Q8_0, "Q8_0", 8, (32, 34)),
            row(Self::Q8_1, "Q8_1", 9, (32, 36)),
            row(Self::Q2_K, "Q2_K", 10, (256, 84)),
            row(Self::Q3_K, "Q3_K", 11, (256, 110)),
            row(Self::Q4_K, "Q4_K", 12, (256, 144)),
            row(Self::Q5_K, "Q5_K", 13, (256, 176)),
            row(Self::Q6_K, "Q6_K", 14, (256, 210)),
            row(Self::Q8_K, "Q8_K", 15, (256, 292)),
            row(Self::IQ2_XXS, "IQ2_XXS", 16, (256, 66)),
            row(Self::IQ2_XS, "IQ2_XS", 17, (256, 74)),
            row(Self::IQ3_XXS, "IQ3_XXS", 18, (256, 98)),
            row(Self::IQ1_S, "IQ1_S", 19, (256, 50)),
            row(Self::IQ4_NL, "IQ4_NL", 20, (32, 18)),
            row(Self::IQ3_S, "IQ3_S", 21, (256, 110)),
            row(Self::IQ2_S, "IQ2_S", 22, (256, 82)),
            row(Self::IQ4_XS, "IQ4_XS", 23, (256, 136)),
            row(Self::I8, "I8", 24, (1, 1)),
            row(Self::I16, "I16", 25, (1, 2)),
            row(Self::I32, "I32", 26, (1, 4)),
            row(Self::I64, "I64", 27, (1, 8)),
            row(Self::F64, "F64", 28, (1, 8)),
            row(Self::IQ1_M, "IQ1_M", 29, (256, 56)),
            row(Self::BF16, "BF16", 30, (1, 2)),
            row(Self::TQ1_0, "TQ1_0", 34, (256, 54)),
            row(Self::TQ2_0, "TQ2_0", 35, (256, 66)),
            row(Self::MXFP4, "MXFP4", 39, (32, 17)),
            row(Self::NVFP4, "NVFP4", 40, (64, 36)),
            row(Self::Q1_0, "Q1_0", 41, (128, 18)),
        ]
    };

    fn row(self) -> &'static Row {
        &Self::ROWS[self as usize]
    }

    /// Every type, by rising id.
    pub fn all() -> impl ExactSizeIterator<Item = Self> {
        Self::ROWS.iter().map(|row| row.ty)
    }

    /// The type of an id in a file.
    #[must_use]
    pub fn from_id(id: u32) -> Option<Self> {
        Self::ROWS.iter().find(|row| row.id == id).map(|row| row.ty)
    }

    /// Id in a file.
    #[must_use]
    pub fn id(self) -> u32 {
        self.row().id
    }

    /// Name in print, as `Q4_K`.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// Weights of one block; a row of a tensor is a whole number of blocks.
    #[must_use]
    pub fn block_weights(self) -> usize {
        self.row().block_weights
    }

    /// Bytes of one block.
    #[must_use]
    pub fn block_bytes(self) -> usize {
        self.row().block_bytes
    }

    /// How rows lie in memory; none for types that are not computed with.
    pub(crate) fn row_format(self) -> Option<RowFormat> {
        Some(match self {
            Self::F32 => RowFormat::F32,
            Self::F16 => RowFormat::F16,
            Self::BF16 => RowFormat::Bf16,
            Self::Q4_0 => RowFormat::Blocks(BlockFormat::Q4_0),
            Self::Q4_1 => RowFormat::Blocks(BlockFormat::Q4_1),
            Self::Q5_0 => RowFormat::Blocks(BlockFormat::Q5_0),
            Self::Q5_1 => RowFormat::Blocks(BlockFormat::Q5_1),
            Self::Q8_0 => RowFormat::Blocks(BlockFormat::Q8_0),
            Self::Q2_K => RowFormat::Blocks(BlockFormat::Q2K),
            Self::Q3_K => RowFormat::Blocks(BlockFormat::Q3K),
            Self::Q4_K => RowFormat::Blocks(BlockFormat::Q4K),
            Self::Q5_K => RowFormat::Blocks(BlockFormat::Q5K),
            Self::Q6_K => RowFormat::Blocks(BlockFormat::Q6K),
            Self::IQ4_NL => RowFormat::Blocks(BlockFormat::Iq4Nl),
            Self::IQ4_XS => RowFormat::Blocks(BlockFormat::Iq4Xs),
            _ => return None,
        })
    }

    /// Bytes of `n_values` weights; none if they are no whole number of blocks or cannot be counted.
    #[must_use]
    pub fn bytes_of(self, n_values: usize) -> Option<usize> {
        let row = self.row();
        let whole = n_values.is_multiple_of(row.block_weights);
        whole.then(|| (n_values / row.block_weights).checked_mul(row.block_bytes)).flatten()
    }
}

impl std::fmt::Display for GgmlType {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_types() {
        for ty in GgmlType::all() {
            assert_eq!(GgmlType::from_id(ty.id()), Some(ty));
            assert_eq!(format!("{ty:?}"), ty.name());
        }
        assert!(GgmlType::all().map(GgmlType::id).is_sorted_by(|a, b| a < b));
        assert_eq!((GgmlType::from_id(4), GgmlType::from_id(31), GgmlType::from_id(99)), (None, None, None));
    }

    #[test]
    fn bytes_are_counted_in_whole_blocks() {
        assert_eq!(GgmlType::Q4_K.bytes_of(512), Some(288));
        assert_eq!(GgmlType::Q4_K.bytes_of(511), None);
        assert_eq!(GgmlType::F32.bytes_of(usize::MAX), None);
    }
}
