//! Writing GGUF files, in constant memory.

use std::io::Write;
use std::path::{Path, PathBuf};

use elmwood_durable::FileWriter;

use super::header::Header;
use super::metadata::{GgufArray, GgufMetadata, GgufValue};
use super::{ALIGNMENT_KEY, DEFAULT_ALIGNMENT, GgmlType, MAGIC};
use crate::Error;

/// A tensor that is to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GgufTensorSpec {
    /// Name in the file.
    pub name: String,
    /// Sizes of the axes, slowest first; at most four.
    pub shape: Vec<usize>,
    /// Type of the values; the last axis is a whole number of its blocks.
    pub ty: GgmlType,
}

impl GgufTensorSpec {
    /// Bytes of the values; none if they are no whole number of blocks or cannot be counted.
    #[must_use]
    pub fn n_bytes(&self) -> Option<usize> {
        let n_values = self.shape.iter().try_fold(1_usize, |product, &axis| product.checked_mul(axis))?;
        self.ty.bytes_of(n_values)
    }
}

/// Writes a GGUF file of version 3, tensor after tensor, in constant memory.
///
/// The file has the form that the `gguf` package of Python gives it, byte for byte: metadata and tensors in
/// the given order, and everything filled with zeros to a multiple of `general.alignment`, or of 32.
///
/// ```no_run
/// use elmwood_model::{GgmlType, GgufMetadata, GgufTensorSpec, GgufWriter};
///
/// let mut metadata = GgufMetadata::default();
/// metadata.set("general.architecture", "phi3");
/// let tensors = [GgufTensorSpec { name: "output_norm.weight".into(), shape: vec![64], ty: GgmlType::F32 }];
/// let mut writer = GgufWriter::create("model.gguf", &metadata, &tensors)?;
/// writer.write(&[0; 256])?;
/// writer.finish()?;
/// # Ok::<(), elmwood_model::Error>(())
/// ```
#[derive(Debug)]
pub struct GgufWriter {
    path: PathBuf,
    writer: FileWriter,
    alignment: usize,
    /// Bytes of each tensor still to come, last first.
    outstanding: Vec<usize>,
    /// Bytes written.
    at: u64,
}

impl GgufWriter {
    /// Begins a file. It gets its name only by [`Self::finish`].
    ///
    /// # Errors
    /// [`Error::Write`]; [`Error::Gguf`] if metadata or tensors break a rule of the format, so that what was
    /// written could not be read again.
    pub fn create(
        path: impl AsRef<Path>,
        metadata: &GgufMetadata,
        tensors: &[GgufTensorSpec],
    ) -> Result<Self, Error> {
        let path = path.as_ref();
        let alignment = match metadata.value(ALIGNMENT_KEY) {
            Some(&GgufValue::U32(alignment)) if alignment > 0 => alignment as usize,
            _ => DEFAULT_ALIGNMENT as usize,
        };
        // What cannot be counted is refused below, like everything else that could not be read.
        let mut outstanding: Vec<usize> = tensors.iter().map(|spec| spec.n_bytes().unwrap_or(0)).collect();
        let mut header = header_bytes(metadata, tensors, &outstanding, alignment);
        header.resize(header.len().next_multiple_of(alignment), 0);
        let padded = |n: &usize| n.checked_next_multiple_of(alignment).unwrap_or(usize::MAX);
        let file_len =
            outstanding.iter().map(padded).fold(header.len(), |sum, n_bytes| sum.saturating_add(n_bytes));
        Header::parse(&header, file_len as u64).map_err(|offence| offence.in_file(path))?;
        outstanding.reverse();
        let writer = FileWriter::create(path)?;
        let mut this = Self { path: path.to_owned(), writer, alignment, outstanding, at: 0 };
        this.put(&header)?;
        this.skip_empty();
        Ok(this)
    }

    /// Writes the values of the next tensor, or its next part: whole tensors and parts of one may be handed
    /// over, but nothing that goes beyond the end of a tensor.
    ///
    /// # Errors
    /// [`Error::Write`].
    ///
    /// # Panics
    /// If there are more bytes than the tensor still lacks.
    pub fn write(&mut self, data: &[u8]) -> Result<(), Error> {
        if data.is_empty() {
            return Ok(());
        }
        let left = self.outstanding.last_mut().expect("no more tensors than announced");
        *left = left.checked_sub(data.len()).expect("no more bytes than the tensor has");
        let is_complete = *left == 0;
        self.put(data)?;
        if is_complete {
            self.outstanding.pop();
            self.pad()?;
            self.skip_empty();
        }
        Ok(())
    }

    /// Flushes to the disk and gives the file its name.
    ///
    /// # Errors
    /// [`Error::Write`].
    ///
    /// # Panics
    /// If bytes are outstanding.
    pub fn finish(self) -> Result<(), Error> {
        assert!(self.outstanding.is_empty(), "every announced tensor is written");
        Ok(self.writer.commit()?)
    }

    /// Tensors without values need no call.
    fn skip_empty(&mut self) {
        while self.outstanding.pop_if(|n_bytes| *n_bytes == 0).is_some() {}
    }

    fn pad(&mut self) -> Result<(), Error> {
        let end = self.at.next_multiple_of(self.alignment as u64);
        self.put(&vec![0; (end - self.at) as usize])
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.at += bytes.len() as u64;
        self.writer.write_all(bytes).map_err(|source| {
            let path = self.path.clone();
            Error::Write(elmwood_durable::Error::Io { action: "write", path, source })
        })
    }
}

/// The header without its padding. Tensors of `n_bytes` each lie one after the other, aligned.
fn header_bytes(
    metadata: &GgufMetadata,
    tensors: &[GgufTensorSpec],
    n_bytes: &[usize],
    alignment: usize,
) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend(MAGIC);
    out.extend(3_u32.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((metadata.iter().len() as u64).to_le_bytes());
    for (key, value) in metadata.iter() {
        put_string(&mut out, key);
        out.extend(value.ty().0.to_le_bytes());
        put_value(&mut out, value);
    }
    let mut offset = 0_u64;
    for (spec, &n_bytes) in tensors.iter().zip(n_bytes) {
        put_string(&mut out, &spec.name);
        out.extend((spec.shape.len() as u32).to_le_bytes());
        put_all(&mut out, spec.shape.iter().rev().map(|&axis| (axis as u64).to_le_bytes()));
        out.extend(spec.ty.id().to_le_bytes());
        out.extend(offset.to_le_bytes());
        offset = offset.saturating_add((n_bytes as u64).next_multiple_of(alignment as u64));
    }
    out
}

fn put_value(out: &mut Vec<u8>, value: &GgufValue) {
    match value {
        GgufValue::U8(value) => out.push(*value),
        GgufValue::I8(value) => out.extend(value.to_le_bytes()),
        GgufValue::U16(value) => out.extend(value.to_le_bytes()),
        GgufValue::I16(value) => out.extend(value.to_le_bytes()),
        GgufValue::U32(value) => out.extend(value.to_le_bytes()),
        GgufValue::I32(value) => out.extend(value.to_le_bytes()),
        GgufValue::F32(value) => out.extend(value.to_le_bytes()),
        GgufValue::Bool(value) => out.push((*value).into()),
        GgufValue::String(text) => put_string(out, text),
        GgufValue::Array(array) => put_array(out, array),
        GgufValue::U64(value) => out.extend(value.to_le_bytes()),
        GgufValue::I64(value) => out.extend(value.to_le_bytes()),
        GgufValue::F64(value) => out.extend(value.to_le_bytes()),
    }
}

fn put_array(out: &mut Vec<u8>, array: &GgufArray) {
    out.extend(array.ty().0.to_le_bytes());
    out.extend((array.len() as u64).to_le_bytes());
    match array {
        GgufArray::U8(values) => out.extend(values),
        GgufArray::I8(values) => put_all(out, values.iter().map(|value| value.to_le_bytes())),
        GgufArray::U16(values) => put_all(out, values.iter().map(|value| value.to_le_bytes())),
        GgufArray::I16(values) => put_all(out, values.iter().map(|value| value.to_le_bytes())),
        GgufArray::U32(values) => put_all(out, values.iter().map(|value| value.to_le_bytes())),
        GgufArray::I32(values) => put_all(out, values.iter().map(|value| value.to_le_bytes())),
        GgufArray::F32(values) => put_all(out, values.iter().map(|value| value.to_le_bytes())),
        GgufArray::Bool(values) => out.extend(values.iter().map(|&value| u8::from(value))),
        GgufArray::String(texts) => texts.iter().for_each(|text| put_string(out, text)),
        GgufArray::Array(arrays) => arrays.iter().for_each(|array| put_array(out, array)),
        GgufArray::U64(values) => put_all(out, values.iter().map(|value| value.to_le_bytes())),
        GgufArray::I64(values) => put_all(out, values.iter().map(|value| value.to_le_bytes())),
        GgufArray::F64(values) => put_all(out, values.iter().map(|value| value.to_le_bytes())),
    }
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn put_all<const N: usize>(out: &mut Vec<u8>, numbers: impl Iterator<Item = [u8; N]>) {
    out.extend(numbers.flatten());
}
