//! Parameters that no longer change, each in the form in which it is used.

use half::{bf16, f16};

use crate::interleaved::QuantMatrix;
use crate::matmul::{Geometry, PackedMatrix, Precision, Source};
use crate::parameters::ParameterId;
use crate::quant::BlockFormat;
use crate::{Arena, Cpu, Dtype};

/// How the values of a row lie in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowFormat {
    /// Single precision.
    F32,
    /// Half precision.
    F16,
    /// The upper half of an f32.
    Bf16,
    /// Blocks of a few bits for each value.
    Blocks(BlockFormat),
}

impl RowFormat {
    /// Bytes of a row of `cols` values; `None` if they are no whole number of blocks, or too many to count.
    #[must_use]
    pub fn row_bytes(self, cols: usize) -> Option<usize> {
        match self {
            Self::F32 => cols.checked_mul(4),
            Self::F16 | Self::Bf16 => cols.checked_mul(2),
            Self::Blocks(format) => format.row_bytes(cols),
        }
    }

    /// The values of a row.
    ///
    /// # Panics
    /// If `bytes` are not those of as many values as `out` has.
    pub fn read(self, bytes: &[u8], out: &mut [f32]) {
        assert_eq!(Some(bytes.len()), self.row_bytes(out.len()), "bytes of {} values", out.len());
        match self {
            Self::F32 => {
                for (out, x) in out.iter_mut().zip(bytes.chunks_exact(4)) {
                    *out = f32::from_le_bytes([x[0], x[1], x[2], x[3]]);
                }
            }
            Self::F16 => {
                for (out, x) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                    *out = f16::from_le_bytes([x[0], x[1]]).to_f32();
                }
            }
            Self::Bf16 => {
                for (out, x) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                    *out = bf16::from_le_bytes([x[0], x[1]]).to_f32();
                }
            }
            Self::Blocks(format) => format.dequantize(bytes, out),
        }
    }
}

/// Rows that are looked up one by one: a token embedding, as it lies in the file.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) format: RowFormat,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) bytes: Vec<u8>,
}

#[derive(Debug)]
pub(crate) enum Frozen {
    Vector(Vec<f32>),
    Dense(PackedMatrix, usize),
    Quantised(Vec<QuantMatrix>),
    Table(Table),
}

/// Parameters of a model that only computes. Matrices are packed, or keep the few bits that they have; nothing is held
/// in another form as well.
#[derive(Debug)]
pub struct FrozenParameters {
    precision: Precision,
    arena: Arena,
    entries: Vec<Frozen>,
}

impl FrozenParameters {
    /// No parameters yet. Matrices of plain numbers will be multiplied in `dtype`.
    #[must_use]
    pub fn new(dtype: Dtype) -> Self {
        Self { precision: dtype.into(), arena: Arena::default(), entries: Vec::new() }
    }

    fn push(&mut self, entry: Frozen) -> ParameterId {
        self.entries.push(entry);
        ParameterId(self.entries.len() - 1)
    }

    /// A norm's weight, or a bias.
    pub fn add_vector(&mut self, values: Vec<f32>) -> ParameterId {
        self.push(Frozen::Vector(values))
    }

    /// A matrix of plain numbers, `[rows, cols]`.
    ///
    /// # Panics
    /// If there are not as many values.
    pub fn add_matrix(&mut self, cpu: &Cpu, rows: usize, cols: usize, values: &[f32]) -> ParameterId {
        assert_eq!(values.len(), rows * cols, "values of {rows} x {cols}");
        let source = Source::along_cols(values, cols);
        let geometry = Geometry::for_few_rows(cpu.isa, self.precision);
        let packed = PackedMatrix::with_geometry(cpu, &mut self.arena, &source, rows, cols, geometry);
        self.push(Frozen::Dense(packed, rows))
    }

    /// Quantised matrices that stand one below the other.
    pub fn add_quantised(&mut self, matrices: Vec<QuantMatrix>) -> ParameterId {
        self.push(Frozen::Quantised(matrices))
    }

    /// A table to look rows up in.
    ///
    /// # Panics
    /// If there are not the bytes of `rows` rows of `cols` values.
    pub fn add_table(&mut self, format: RowFormat, rows: usize, cols: usize, bytes: Vec<u8>) -> ParameterId {
        let row_bytes = format.row_bytes(cols).expect("whole blocks");
        assert_eq!(bytes.len(), rows * row_bytes, "bytes of {rows} x {cols}");
        self.push(Frozen::Table(Table { format, rows, cols, bytes }))
    }

    pub(crate) fn get(&self, id: ParameterId) -> &Frozen {
        &self.entries[id.0]
    }

    pub(crate) fn vector(&self, id: ParameterId) -> &[f32] {
        match &self.entries[id.0] {
            Frozen::Vector(values) => values,
            other => panic!("a vector, not {other:?}"),
        }
    }
}
