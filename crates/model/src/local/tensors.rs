//! Tensors of a file brought into the form in which they are used.

use std::borrow::Cow;
use std::path::Path;

use elmwood_engine::quant::BlockFormat;
use elmwood_engine::{Cpu, FrozenParameters, ParameterId, QuantMatrix, RowFormat};

use super::names::Part;
use crate::error::TensorProblem;
use crate::llama2_c::Checkpoint;
use crate::{Dtype, Error, GgufFile, SafetensorsFolder};

/// Where tensors come from.
#[derive(Debug, Clone, Copy)]
pub(crate) enum TensorFiles<'a> {
    Gguf(&'a GgufFile),
    Folder(&'a Path, &'a SafetensorsFolder),
    Checkpoint(&'a Checkpoint),
}

/// One tensor where it lies.
pub(crate) struct Stored<'a> {
    pub(crate) shape: &'a [usize],
    /// How its rows lie; the name of the type if that is not supported.
    pub(crate) format: Result<RowFormat, &'static str>,
    pub(crate) bytes: &'a [u8],
}

impl<'a> TensorFiles<'a> {
    pub(crate) fn path(&self) -> &'a Path {
        match self {
            Self::Gguf(file) => file.path(),
            Self::Folder(path, _) => path,
            Self::Checkpoint(checkpoint) => checkpoint.path(),
        }
    }

    pub(crate) fn find(&self, name: &str) -> Option<Stored<'a>> {
        match self {
            Self::Gguf(file) => {
                let tensor = file.tensor(name)?;
                let format = tensor.ty.row_format().ok_or(tensor.ty.name());
                Some(Stored { shape: tensor.shape, format, bytes: tensor.data })
            }
            Self::Folder(_, folder) => {
                // CoreNet's own files of OpenELM lack the prefix.
                let short = name.strip_prefix("transformer.").unwrap_or(name);
                let tensor = folder.tensors().find(|tensor| tensor.name == name || tensor.name == short)?;
                let format = match tensor.dtype {
                    Dtype::F32 => Ok(RowFormat::F32),
                    Dtype::F16 => Ok(RowFormat::F16),
                    Dtype::Bf16 => Ok(RowFormat::Bf16),
                    other => Err(other.name()),
                };
                Some(Stored { shape: tensor.shape, format, bytes: tensor.bytes })
            }
            Self::Checkpoint(checkpoint) => {
                let (shape, bytes) = checkpoint.tensor(name)?;
                Some(Stored { shape, format: Ok(RowFormat::F32), bytes })
            }
        }
    }
}

/// Rows of a tensor in their own format, in the order in which they are wanted.
struct Rows<'a> {
    format: RowFormat,
    count: usize,
    bytes: Cow<'a, [u8]>,
}

/// Loads tensors one by one.
pub(super) struct Loader<'a> {
    pub(super) files: &'a TensorFiles<'a>,
    pub(super) cpu: &'a Cpu,
    pub(super) parameters: &'a mut FrozenParameters,
}

impl<'a> Loader<'a> {
    fn problem(&self, problem: TensorProblem) -> Error {
        Error::Tensors { path: self.files.path().to_owned(), problems: vec![problem] }
    }

    /// The rows of a tensor of this shape, reordered if need be.
    fn rows(&self, name: &str, shape: &[usize], order: Option<&[usize]>) -> Result<Rows<'a>, Error> {
        let name = || name.to_owned();
        let stored =
            self.files.find(&name()).ok_or_else(|| self.problem(TensorProblem::Missing { name: name() }))?;
        if stored.shape != shape {
            let (expected, got) = (shape.to_vec(), stored.shape.to_vec());
            return Err(self.problem(TensorProblem::Misshapen { name: name(), expected, got }));
        }
        let format =
            stored.format.map_err(|got| self.problem(TensorProblem::NotFloat { name: name(), got }))?;
        let cols = *shape.last().expect("a shape has an axis");
        let count = if shape.len() == 1 { 1 } else { shape[0] };
        let whole = format.row_bytes(cols).filter(|bytes| bytes * count == stored.bytes.len());
        let Some(row_bytes) = whole else {
            let (expected, got) = (shape.to_vec(), vec![stored.bytes.len()]);
            return Err(self.problem(TensorProblem::Misshapen { name: name(), expected, got }));
        };
        let bytes = match order {
            None => Cow::Borrowed(stored.bytes),
            Some(order) => {
                let rows = order.iter().flat_map(|row| &stored.bytes[row * row_bytes..(row + 1) * row_bytes]);
                Cow::Owned(rows.copied().collect())
            }
        };
        Ok(Rows { format, count, bytes })
    }

    /// A tensor of one axis.
    pub(super) fn vector(&mut self, name: &str, len: usize) -> Result<ParameterId, Error> {
        let rows = self.rows(name, &[len], None)?;
        let mut values = vec![0.0; len];
        rows.format.read(&rows.bytes, &mut values);
        Ok(self.parameters.add_vector(values))
    }

    /// The biases of a matrix.
    pub(super) fn bias(&mut self, parts: &[Part]) -> Result<ParameterId, Error> {
        let mut values = Vec::new();
        for part in parts {
            let rows = self.rows(&format!("{}.bias", part.name), &[part.rows], None)?;
            let mut of_part = vec![0.0; part.rows];
            rows.format.read(&rows.bytes, &mut of_part);
            match &part.order {
                None => values.extend(of_part),
                Some(order) => values.extend(order.iter().map(|row| of_part[*row])),
            }
        }
        Ok(self.parameters.add_vector(values))
    }

    /// A table to look rows up in.
    pub(super) fn table(&mut self, name: &str, rows: usize, cols: usize) -> Result<ParameterId, Error> {
        let stored = self.rows(name, &[rows, cols], None)?;
        let (format, bytes) = (stored.format, stored.bytes.into_owned());
        Ok(self.parameters.add_table(format, rows, cols, bytes))
    }

    /// A matrix, its parts one below the other.
    pub(super) fn matrix(&mut self, parts: &[Part], cols: usize) -> Result<ParameterId, Error> {
        let rows = |part: &Part| {
            self.rows(&format!("{}.weight", part.name), &[part.rows, cols], part.order.as_deref())
        };
        let parts = parts.iter().map(rows).collect::<Result<Vec<_>, _>>()?;
        let block_format = |rows: &Rows<'_>| match rows.format {
            RowFormat::Blocks(format) => Some(format),
            _ => None,
        };
        if let Some(formats) = parts.iter().map(block_format).collect::<Option<Vec<_>>>() {
            let interleave = |(rows, format): (&Rows<'_>, BlockFormat)| {
                QuantMatrix::new(self.cpu, format, rows.count, cols, &rows.bytes)
            };
            let matrices = parts.iter().zip(formats).map(interleave).collect();
            return Ok(self.parameters.add_quantised(matrices));
        }
        let count: usize = parts.iter().map(|rows| rows.count).sum();
        let mut values = vec![0.0; count * cols];
        let mut to = values.chunks_exact_mut(cols);
        for rows in &parts {
            let row_bytes = rows.bytes.len() / rows.count;
            for (bytes, to) in rows.bytes.chunks_exact(row_bytes).zip(to.by_ref()) {
                rows.format.read(bytes, to);
            }
        }
        Ok(self.parameters.add_matrix(self.cpu, count, cols, &values))
    }
}
