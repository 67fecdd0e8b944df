//! Rows of tensors brought into another type, some at a time, by all threads.

use std::ops::Range;
use std::sync::Mutex;

use elmwood_engine::quant::{BlockFormat, QuantError, quantize_rows};
use elmwood_engine::{Cpu, RowFormat};
use half::{bf16, f16};

use super::plan::{Content, Outgoing, stored};
use crate::local::tensors::TensorFiles;
use crate::{Error, GgmlType};

/// Values that are held at once: 16 MiB of f32.
const CHUNK: usize = 1 << 22;
/// Values that one task converts, about.
const GRAIN: usize = 1 << 15;

/// Writes tensors one after the other, in memory that it keeps.
pub(super) struct Encoder<'a> {
    cpu: &'a Cpu,
    files: TensorFiles<'a>,
    values: Vec<f32>,
    bytes: Vec<u8>,
    requantised: usize,
}

/// Rows of a tensor where they lie.
struct Source<'a> {
    tensors: Vec<&'a [u8]>,
    format: RowFormat,
    row_bytes: usize,
    plan: &'a Outgoing,
}

impl<'a> Source<'a> {
    fn row(&self, row: usize) -> &'a [u8] {
        let (tensor, row) = self.plan.source(row);
        &self.tensors[tensor][row * self.row_bytes..(row + 1) * self.row_bytes]
    }
}

impl<'a> Encoder<'a> {
    pub(super) fn new(cpu: &'a Cpu, files: TensorFiles<'a>) -> Self {
        Self { cpu, files, values: Vec::new(), bytes: Vec::new(), requantised: 0 }
    }

    /// How many tensors went from one quantised type to another so far.
    pub(super) fn requantised(&self) -> usize {
        self.requantised
    }

    /// Hands the bytes of a tensor in type `ty` to `put`, part by part; false as soon as `put` says so.
    pub(super) fn write(
        &mut self,
        tensor: &Outgoing,
        ty: GgmlType,
        put: &mut dyn FnMut(&[u8]) -> Result<bool, Error>,
    ) -> Result<bool, Error> {
        if let Content::Values(values) = &tensor.content {
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            return put(&bytes);
        }
        if let TensorFiles::Gguf(file) = self.files {
            // Types that nothing is computed with here can still be copied.
            let old = file.tensor(&tensor.name).filter(|old| old.ty == ty);
            if let Some(old) = old.filter(|_| matches!(tensor.content, Content::Tensor(_))) {
                return put_all(old.data, put);
            }
        }
        let (rows, cols) = tensor.rows_and_cols();
        if rows == 0 || cols == 0 {
            return Ok(true);
        }
        let to = ty.row_format().ok_or_else(|| self.error(tensor, format!("type {ty} cannot be written")))?;
        let source = self.source(tensor, cols)?;
        let is_quantised = |format| matches!(format, RowFormat::Blocks(_));
        if source.format != to && is_quantised(source.format) && is_quantised(to) {
            self.requantised += 1;
        }
        let step = (CHUNK / cols).max(1);
        for start in (0..rows).step_by(step) {
            let range = start..(start + step).min(rows);
            if source.format == to {
                self.bytes.clear();
                range.for_each(|row| self.bytes.extend_from_slice(source.row(row)));
            } else {
                self.read(&source, range.clone(), cols);
                let encoded = self.encode(to, range.len(), cols);
                encoded.map_err(|error| self.error(tensor, of_row(error, range.start)))?;
            }
            if !put(&self.bytes)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// All numbers of a tensor.
    pub(super) fn values_of(&mut self, tensor: &Outgoing) -> Result<&[f32], Error> {
        let (rows, cols) = tensor.rows_and_cols();
        let source = self.source(tensor, cols)?;
        self.read(&source, 0..rows, cols);
        Ok(&self.values)
    }

    fn source<'t>(&self, tensor: &'t Outgoing, cols: usize) -> Result<Source<'t>, Error>
    where
        'a: 't,
    {
        let mut tensors = Vec::new();
        let mut format = None;
        for name in tensor.tensors() {
            let (stored, of_this) = stored(&self.files, name)?;
            if *format.get_or_insert(of_this) != of_this {
                let reason = format!("`{name}` has another type than what it is joined with");
                return Err(self.error(tensor, reason));
            }
            tensors.push(stored.bytes);
        }
        let format = format.expect("rows come from a tensor");
        let uneven = || self.error(tensor, format!("rows of {cols} values are no whole blocks"));
        Ok(Source { tensors, format, row_bytes: format.row_bytes(cols).ok_or_else(uneven)?, plan: tensor })
    }

    fn error(&self, tensor: &Outgoing, reason: String) -> Error {
        let reason = format!("tensor `{}`: {reason}", tensor.name);
        Error::Conversion { path: self.files.path().to_owned(), reason }
    }

    /// Fills `values` with the numbers of rows.
    fn read(&mut self, source: &Source<'_>, rows: Range<usize>, cols: usize) {
        self.values.resize(rows.len() * cols, 0.0);
        let per_task = GRAIN.div_ceil(cols);
        in_parts(self.cpu, &mut self.values, per_task * cols, |part, out| {
            let first = rows.start + part * per_task;
            for (row, out) in (first..).zip(out.chunks_exact_mut(cols)) {
                source.format.read(source.row(row), out);
            }
        });
    }

    /// Fills `bytes` with `values` as rows of a format.
    fn encode(&mut self, to: RowFormat, rows: usize, cols: usize) -> Result<(), Unfit> {
        let row_bytes = to.row_bytes(cols).expect("the type was chosen to fit");
        self.bytes.resize(rows * row_bytes, 0);
        let values = &self.values;
        match to {
            RowFormat::Blocks(format) => {
                let out = &mut self.bytes;
                quantize_rows(self.cpu, format, rows, cols, values, None, out)
                    .map_err(|error| Unfit::of(error, format))
            }
            RowFormat::F32 => {
                self.plain(f32::to_le_bytes);
                Ok(())
            }
            RowFormat::Bf16 => {
                self.plain(|value| bf16::from_f32(value).to_le_bytes());
                Ok(())
            }
            RowFormat::F16 => {
                let largest = f16::MAX.to_f32();
                if let Some(at) = values.iter().position(|value| value.is_finite() && value.abs() > largest) {
                    let what = format!("{} is beyond f16, which ends at {largest}; take bf16", values[at]);
                    return Err(Unfit { row: at / cols, col: at % cols, what });
                }
                self.plain(|value| f16::from_f32(value).to_le_bytes());
                Ok(())
            }
        }
    }

    /// Fills `bytes` with `values`, each by itself.
    fn plain<const N: usize>(&mut self, bytes_of: impl Fn(f32) -> [u8; N] + Sync) {
        let values = &self.values;
        in_parts(self.cpu, &mut self.bytes, N * GRAIN, |part, out| {
            for (out, value) in out.as_chunks_mut().0.iter_mut().zip(&values[part * GRAIN..]) {
                *out = bytes_of(*value);
            }
        });
    }
}

/// A weight that a type cannot hold.
struct Unfit {
    row: usize,
    col: usize,
    what: String,
}

impl Unfit {
    fn of(error: QuantError, format: BlockFormat) -> Self {
        match error {
            QuantError::Weight { row, col, value } => {
                Self { row, col, what: format!("{value} is no finite number, and {format} knows no other") }
            }
            other => Self { row: 0, col: 0, what: other.to_string() },
        }
    }
}

fn of_row(unfit: Unfit, first: usize) -> String {
    format!("the weight in row {}, column {}: {}", first + unfit.row, unfit.col, unfit.what)
}

/// All of a tensor, in parts after each of which it can end.
fn put_all(data: &[u8], put: &mut dyn FnMut(&[u8]) -> Result<bool, Error>) -> Result<bool, Error> {
    for part in data.chunks(4 * CHUNK) {
        if !put(part)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Cuts `out` into parts of `len` and has the threads fill them: each part by one task, so that it does not matter by
/// whom.
fn in_parts<T: Send>(cpu: &Cpu, out: &mut [T], len: usize, task: impl Fn(usize, &mut [T]) + Sync) {
    let parts: Vec<Mutex<&mut [T]>> = out.chunks_mut(len).map(Mutex::new).collect();
    cpu.threads().run(parts.len(), |part| {
        task(part, &mut parts[part].lock().expect("a part has one task"));
    });
}
