//! Safetensors files: the format in which weights are stored and shared.
//!
//! A file is eight bytes of header length, a JSON header that gives each tensor's type, shape and place,
//! and the values back to back. Files come from strangers, so nothing in the header is believed: reading
//! checks every rule of the format before a tensor can be touched, allocates in proportion to the header
//! only, and answers each broken rule with its own [`Fault`]. The values stay in the file, which is mapped
//! into memory.
//!
//! Source: the format's description in the `safetensors` repository of Hugging Face, and its limits.

use std::collections::{BTreeMap, HashSet};
use std::fmt::{self, Display};
use std::io::Write;
use std::path::{Path, PathBuf};

use elmwood_durable::FileWriter;
use half::{bf16, f16};
use memmap2::Mmap;

use crate::Error;
use crate::error::read_text;
use crate::json_object::object;
use crate::mapped_file::map;

/// File name of the weights within a model folder, when they are in one file.
pub const WEIGHTS_FILE: &str = "model.safetensors";

/// File name of the index within a model folder, when the weights are in several files.
pub const INDEX_FILE: &str = "model.safetensors.index.json";

/// Longest header that is read, as in the reference implementation.
pub const MAX_HEADER_BYTES: u64 = 100_000_000;

/// Most tensors that a file may have; the largest models have a few thousand.
pub const MAX_TENSORS: usize = 100_000;

/// Most axes that a tensor may have.
pub const MAX_DIMENSIONS: usize = 8;

/// Longest index of a sharded model that is read.
const MAX_INDEX_BYTES: u64 = 16 << 20;

/// Most files that a sharded model may have.
const MAX_SHARDS: usize = 1000;

/// Type of a tensor's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the names are those of the format and say it all")]
pub enum Dtype {
    Bool,
    U8,
    I8,
    F8E5M2,
    F8E4M3,
    I16,
    U16,
    F16,
    Bf16,
    I32,
    U32,
    F32,
    I64,
    U64,
    F64,
}

impl Dtype {
    const NAMES: [(&'static str, Self, usize); 15] = [
        ("BOOL", Self::Bool, 1),
        ("U8", Self::U8, 1),
        ("I8", Self::I8, 1),
        ("F8_E5M2", Self::F8E5M2, 1),
        ("F8_E4M3", Self::F8E4M3, 1),
        ("I16", Self::I16, 2),
        ("U16", Self::U16, 2),
        ("F16", Self::F16, 2),
        ("BF16", Self::Bf16, 2),
        ("I32", Self::I32, 4),
        ("U32", Self::U32, 4),
        ("F32", Self::F32, 4),
        ("I64", Self::I64, 8),
        ("U64", Self::U64, 8),
        ("F64", Self::F64, 8),
    ];

    fn row(self) -> (&'static str, Self, usize) {
        Self::NAMES[self as usize]
    }

    fn from_name(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|row| row.0 == name).map(|row| row.1)
    }

    /// Name in a file's header, as `BF16`.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.row().0
    }

    /// Bytes of one value.
    #[must_use]
    pub fn n_bytes(self) -> usize {
        self.row().2
    }
}

/// The types that weights are written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FloatType {
    /// 32-bit floating point: nothing is lost.
    F32,
    /// Half precision: half the size, three to four significant digits up to 65504; rounded to nearest, ties to even.
    F16,
    /// bfloat16: half the size, three significant digits; rounded to nearest, ties to even.
    Bf16,
}

impl FloatType {
    /// Type in the file's header.
    #[must_use]
    pub fn dtype(self) -> Dtype {
        match self {
            Self::F32 => Dtype::F32,
            Self::F16 => Dtype::F16,
            Self::Bf16 => Dtype::Bf16,
        }
    }

    /// What `config.json` calls it.
    #[must_use]
    pub fn torch_name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::F16 => "float16",
            Self::Bf16 => "bfloat16",
        }
    }
}

/// The rule of the format that a file breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages say it")]
pub enum Fault {
    #[error("{len} bytes are too few for the length of a header")]
    TooShort { len: u64 },
    #[error("a header of {len} bytes is longer than {MAX_HEADER_BYTES}")]
    HeaderTooLong { len: u64 },
    #[error("a header of {len} bytes goes beyond the end of the file")]
    HeaderBeyondFile { len: u64 },
    #[error("the header does not begin with `{{`")]
    HeaderStart,
    #[error("the header is not UTF-8")]
    HeaderUtf8,
    #[error("the header is not JSON: {reason}")]
    HeaderJson { reason: String },
    #[error("the name stands twice in the header")]
    DuplicateTensor,
    #[error("more than {MAX_TENSORS} tensors")]
    TooManyTensors,
    #[error("`__metadata__` is not an object of texts")]
    Metadata,
    #[error("the entry is not an object of `dtype`, `shape` and `data_offsets`")]
    Entry,
    #[error("the key `{key}` stands twice in the entry")]
    DuplicateKey { key: String },
    #[error("the key `{key}` does not belong into the entry")]
    UnknownKey { key: String },
    #[error("the entry has no `{key}`")]
    MissingKey { key: &'static str },
    #[error("the type `{name}` is unknown")]
    UnknownDtype { name: String },
    #[error("the shape is not a list of whole numbers from 0")]
    Shape,
    #[error("{n} axes are more than {MAX_DIMENSIONS}")]
    TooManyDimensions { n: usize },
    #[error("the shape {shape:?} has more values than can be counted")]
    ShapeOverflow { shape: Vec<u64> },
    #[error("the offsets are not two whole numbers from 0")]
    Offsets,
    #[error("the end {end} lies before the beginning {begin}")]
    OffsetsReversed { begin: u64, end: u64 },
    #[error("{got} bytes where the shape takes {expected}")]
    Length { expected: u64, got: u64 },
    #[error("the end {end} goes beyond the {len} bytes of values")]
    BeyondFile { end: u64, len: u64 },
    #[error("the beginning {begin} overlaps what ends at {previous_end}")]
    Overlap { begin: u64, previous_end: u64 },
    #[error("the beginning {begin} leaves a gap after {previous_end}")]
    Gap { begin: u64, previous_end: u64 },
    #[error("the tensors cover {covered} of {len} bytes of values")]
    Uncovered { covered: u64, len: u64 },
}

/// One tensor of a file: a window on the mapped bytes.
#[derive(Debug, Clone, Copy)]
pub struct TensorView<'a> {
    /// Name in the file.
    pub name: &'a str,
    /// Type of the values.
    pub dtype: Dtype,
    /// Sizes of the axes, slowest first.
    pub shape: &'a [usize],
    /// The values, little-endian, `shape` product times the size of `dtype` bytes.
    pub bytes: &'a [u8],
}

impl TensorView<'_> {
    /// Number of values.
    #[must_use]
    pub fn n_values(&self) -> usize {
        self.bytes.len() / self.dtype.n_bytes()
    }

    /// Writes the values into `out` as f32; false, and `out` untouched, if the type is not F32, F16 or BF16.
    ///
    /// # Panics
    /// If `out` has another number of values than the tensor.
    #[must_use]
    pub fn read_f32(&self, out: &mut [f32]) -> bool {
        assert_eq!(out.len(), self.n_values(), "one place for each value");
        match self.dtype {
            Dtype::F32 => convert(self.bytes, out, f32::from_le_bytes),
            Dtype::F16 => convert(self.bytes, out, |bytes| f16::from_le_bytes(bytes).to_f32()),
            Dtype::Bf16 => convert(self.bytes, out, |bytes| bf16::from_le_bytes(bytes).to_f32()),
            _ => return false,
        }
        true
    }

    /// The values as f32; none if the type is not F32, F16 or BF16.
    #[must_use]
    pub fn to_f32(&self) -> Option<Vec<f32>> {
        if !matches!(self.dtype, Dtype::F32 | Dtype::F16 | Dtype::Bf16) {
            return None;
        }
        let mut values = vec![0.0; self.n_values()];
        self.read_f32(&mut values).then_some(values)
    }
}

fn convert<const N: usize>(bytes: &[u8], out: &mut [f32], value: impl Fn([u8; N]) -> f32) {
    for (out, &bytes) in out.iter_mut().zip(bytes.as_chunks::<N>().0) {
        *out = value(bytes);
    }
}

/// A safetensors file, checked whole and mapped into memory.
#[derive(Debug)]
pub struct SafetensorsFile {
    path: PathBuf,
    map: Mmap,
    header: Header,
}

impl SafetensorsFile {
    /// Opens and checks a file.
    ///
    /// The values are read when they are used. Do not shorten a file that is open here: the operating
    /// system would end the process at the first value that is gone.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be opened, [`Error::Safetensors`] with the first [`Fault`] found.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let map = map(path)?;
        let header = Header::parse(&map).map_err(|offence| offence.in_file(path))?;
        Ok(Self { path: path.to_owned(), map, header })
    }

    /// Where the file lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The texts of `__metadata__`, by name.
    #[must_use]
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.header.metadata
    }

    /// Every tensor in the order of the values in the file.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = TensorView<'_>> {
        self.header.tensors.iter().map(|entry| self.view(entry))
    }

    /// The tensor of that name.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<TensorView<'_>> {
        self.header.tensors.iter().find(|entry| entry.name == name).map(|entry| self.view(entry))
    }

    fn view<'a>(&'a self, entry: &'a Entry) -> TensorView<'a> {
        let bytes = &self.map[self.header.data_start..][entry.begin..entry.end];
        TensorView { name: &entry.name, dtype: entry.dtype, shape: &entry.shape, bytes }
    }
}

/// The files of a model folder: `model.safetensors`, or the shards that its index names.
#[derive(Debug)]
pub struct SafetensorsFolder {
    files: Vec<SafetensorsFile>,
}

impl SafetensorsFolder {
    /// Opens and checks every file of the model in `folder`.
    ///
    /// # Errors
    /// Those of [`SafetensorsFile::open`]; [`Error::ShardIndex`] if the index is malformed, names a file
    /// outside of the folder, or places a tensor where it is not.
    pub fn open(folder: impl AsRef<Path>) -> Result<Self, Error> {
        let folder = folder.as_ref();
        let index = folder.join(INDEX_FILE);
        if folder.join(WEIGHTS_FILE).exists() || !index.exists() {
            return Ok(Self { files: vec![SafetensorsFile::open(folder.join(WEIGHTS_FILE))?] });
        }
        let wrong = |reason: String| Error::ShardIndex { path: index.clone(), reason };
        let shards = read_index(&read_text(&index, MAX_INDEX_BYTES)?).map_err(&wrong)?;
        let mut files = Vec::with_capacity(shards.len());
        for (file_name, mut names) in shards {
            let file = SafetensorsFile::open(folder.join(&file_name))?;
            for tensor in file.tensors() {
                if !names.remove(tensor.name) {
                    return Err(wrong(format!("`{}` of `{file_name}` is not placed there", tensor.name)));
                }
            }
            if let Some(name) = names.first() {
                return Err(wrong(format!("`{name}` is not in `{file_name}`")));
            }
            files.push(file);
        }
        Ok(Self { files })
    }

    /// Every tensor, file by file. No name comes twice.
    pub fn tensors(&self) -> impl Iterator<Item = TensorView<'_>> {
        self.files.iter().flat_map(SafetensorsFile::tensors)
    }
}

/// Reads an index: the names of the tensors of each file.
fn read_index(text: &str) -> Result<BTreeMap<String, std::collections::BTreeSet<String>>, String> {
    let not_json = |error: serde_json::Error| error.to_string();
    let mut shards: BTreeMap<String, std::collections::BTreeSet<String>> = BTreeMap::new();
    let top = object(text, 16).map_err(not_json)?;
    let mut maps = top.into_iter().filter(|(key, _)| key == "weight_map");
    let (Some((_, weight_map)), None) = (maps.next(), maps.next()) else {
        return Err("it has not exactly one `weight_map`".into());
    };
    let mut seen = HashSet::new();
    for (name, file) in object(weight_map.get(), MAX_TENSORS).map_err(not_json)? {
        let file: String = serde_json::from_str(file.get()).map_err(not_json)?;
        let plain = file.ends_with(".safetensors") && !file.contains(['/', '\\', ':', '\0']);
        if !plain || file.starts_with('.') {
            return Err(format!("`{}` is no plain name of a safetensors file", file.escape_debug()));
        }
        if !seen.insert(name.clone()) {
            return Err(format!("`{name}` stands twice in it"));
        }
        shards.entry(file).or_default().insert(name);
    }
    if shards.len() > MAX_SHARDS {
        return Err(format!("more than {MAX_SHARDS} files"));
    }
    Ok(shards)
}

/// Writes a safetensors file tensor by tensor, in constant memory.
///
/// The file has the form that Hugging Face's own writer gives it, byte for byte: tensors in the given
/// order, `__metadata__` with the format `pt`, header filled with spaces to a multiple of eight.
#[derive(Debug)]
pub struct SafetensorsWriter {
    path: PathBuf,
    writer: FileWriter,
    dtype: FloatType,
    /// Number of values of each tensor still to come, last first.
    outstanding: Vec<usize>,
    buffer: Vec<u8>,
}

impl SafetensorsWriter {
    /// Begins a file with these tensors, all of one type. It gets its name only by [`Self::finish`].
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn create<'a>(
        path: impl AsRef<Path>,
        tensors: impl IntoIterator<Item = (&'a str, &'a [usize])>,
        dtype: FloatType,
    ) -> Result<Self, Error> {
        let path = path.as_ref();
        let tensors: Vec<_> = tensors.into_iter().collect();
        let mut outstanding: Vec<usize> = tensors.iter().map(|(_, shape)| shape.iter().product()).collect();
        outstanding.reverse();
        let writer = FileWriter::create(path)?;
        let mut this = Self { path: path.to_owned(), writer, dtype, outstanding, buffer: Vec::new() };
        this.write(&header_bytes(&tensors, dtype.dtype()))?;
        Ok(this)
    }

    /// Writes the values of the next tensor.
    ///
    /// # Errors
    /// [`Error::Write`].
    ///
    /// # Panics
    /// If all tensors are written, or the number of values is not that of the shape.
    pub fn tensor(&mut self, values: &[f32]) -> Result<(), Error> {
        let expected = self.outstanding.pop().expect("no more tensors than announced");
        assert_eq!(values.len(), expected, "as many values as the shape has");
        let mut buffer = std::mem::take(&mut self.buffer);
        for values in values.chunks(1 << 16) {
            buffer.clear();
            match self.dtype {
                FloatType::F32 => buffer.extend(values.iter().flat_map(|value| value.to_le_bytes())),
                FloatType::F16 => {
                    buffer.extend(values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()));
                }
                FloatType::Bf16 => {
                    buffer.extend(values.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes()));
                }
            }
            self.write(&buffer)?;
        }
        self.buffer = buffer;
        Ok(())
    }

    /// Flushes to the disk and gives the file its name.
    ///
    /// # Errors
    /// [`Error::Write`].
    ///
    /// # Panics
    /// If tensors are outstanding.
    pub fn finish(self) -> Result<(), Error> {
        assert!(self.outstanding.is_empty(), "every announced tensor is written");
        Ok(self.writer.commit()?)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let written = self.writer.write_all(bytes);
        written.map_err(|source| {
            let path = self.path.clone();
            Error::Write(elmwood_durable::Error::Io { action: "write", path, source })
        })
    }
}

/// Length, header and padding of a file.
fn header_bytes(tensors: &[(&str, &[usize])], dtype: Dtype) -> Vec<u8> {
    let quoted = |text: &str| serde_json::to_string(text).expect("a text is plain data");
    let mut json = String::from(r#"{"__metadata__":{"format":"pt"}"#);
    let mut begin = 0;
    for (name, shape) in tensors {
        let end = begin + shape.iter().product::<usize>() * dtype.n_bytes();
        let shape: Vec<String> = shape.iter().map(ToString::to_string).collect();
        let (name, dtype, shape) = (quoted(name), quoted(dtype.name()), shape.join(","));
        json += &format!(r#",{name}:{{"dtype":{dtype},"shape":[{shape}],"data_offsets":[{begin},{end}]}}"#);
        begin = end;
    }
    json.push('}');
    json.extend(std::iter::repeat_n(' ', json.len().next_multiple_of(8) - json.len()));
    [&(json.len() as u64).to_le_bytes(), json.as_bytes()].concat()
}

/// What a header says, checked; tensors in the order of their values.
#[derive(Debug)]
struct Header {
    metadata: BTreeMap<String, String>,
    tensors: Vec<Entry>,
    data_start: usize,
}

/// One tensor of a header; `begin` and `end` count from the first value.
#[derive(Debug)]
struct Entry {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    begin: usize,
    end: usize,
    /// Where the entry stands in the file.
    offset: u64,
}

/// A broken rule and its place, before the file's name is added.
#[derive(Debug)]
struct Offence {
    tensor: Option<String>,
    offset: u64,
    fault: Fault,
}

impl Offence {
    fn at(offset: u64, fault: Fault) -> Self {
        Self { tensor: None, offset, fault }
    }

    fn in_file(self, path: &Path) -> Error {
        let Self { tensor, offset, fault } = self;
        Error::Safetensors { path: path.to_owned(), tensor, offset, fault }
    }
}

impl Header {
    fn parse(file: &[u8]) -> Result<Self, Offence> {
        let Some((length, rest)) = file.split_first_chunk::<8>() else {
            return Err(Offence::at(0, Fault::TooShort { len: file.len() as u64 }));
        };
        let len = u64::from_le_bytes(*length);
        if len > MAX_HEADER_BYTES {
            return Err(Offence::at(0, Fault::HeaderTooLong { len }));
        }
        let Some((header, data)) = rest.split_at_checked(len as usize) else {
            return Err(Offence::at(0, Fault::HeaderBeyondFile { len }));
        };
        if header.first() != Some(&b'{') {
            return Err(Offence::at(8, Fault::HeaderStart));
        }
        let header = std::str::from_utf8(header)
            .map_err(|error| Offence::at(8 + error.valid_up_to() as u64, Fault::HeaderUtf8))?;

        // Places in the file: every raw value is a slice of the header.
        let offset_of = |part: &str| 8 + (part.as_ptr() as usize - header.as_ptr() as usize) as u64;
        let entries = object(header, MAX_TENSORS + 1).map_err(|error| {
            let offset = 8 + position(header, &error);
            Offence::at(offset, Fault::HeaderJson { reason: error.to_string() })
        })?;
        if entries.len() > MAX_TENSORS + 1 {
            return Err(Offence::at(8, Fault::TooManyTensors));
        }
        let mut seen = HashSet::with_capacity(entries.len());
        let mut metadata = BTreeMap::new();
        let mut tensors = Vec::with_capacity(entries.len());
        for (name, value) in &entries {
            let offset = offset_of(value.get());
            let offence = |fault| Offence { tensor: Some(name.clone()), offset, fault };
            if !seen.insert(name.as_str()) {
                return Err(offence(Fault::DuplicateTensor));
            }
            if name == "__metadata__" {
                metadata = texts(value.get()).ok_or_else(|| offence(Fault::Metadata))?;
                continue;
            }
            tensors.push(Entry::parse(name, value.get(), offset).map_err(offence)?);
        }
        tensors.sort_by_key(|entry| (entry.begin, entry.end));
        check_cover(&tensors, data.len()).map_err(|(entry, fault)| match entry {
            Some(entry) => Offence { tensor: Some(entry.name.clone()), offset: entry.offset, fault },
            None => {
                let covered = tensors.last().map_or(0, |entry| entry.end as u64);
                Offence::at(8 + len + covered, fault)
            }
        })?;
        Ok(Self { metadata, tensors, data_start: 8 + header.len() })
    }
}

impl Entry {
    fn parse(name: &str, json: &str, offset: u64) -> Result<Self, Fault> {
        let (mut dtype, mut shape, mut offsets) = (None, None, None);
        for (key, value) in object(json, 4).map_err(|_| Fault::Entry)? {
            let place = match key.as_str() {
                "dtype" => &mut dtype,
                "shape" => &mut shape,
                "data_offsets" => &mut offsets,
                _ => return Err(Fault::UnknownKey { key: shortened(&key) }),
            };
            if place.replace(value).is_some() {
                return Err(Fault::DuplicateKey { key });
            }
        }
        let dtype = dtype.ok_or(Fault::MissingKey { key: "dtype" })?.get();
        let shape = shape.ok_or(Fault::MissingKey { key: "shape" })?.get();
        let offsets = offsets.ok_or(Fault::MissingKey { key: "data_offsets" })?.get();

        let dtype: String =
            serde_json::from_str(dtype).map_err(|_| Fault::UnknownDtype { name: shortened(dtype) })?;
        let dtype =
            Dtype::from_name(&dtype).ok_or_else(|| Fault::UnknownDtype { name: shortened(&dtype) })?;
        let shape: Vec<u64> = serde_json::from_str(shape).map_err(|_| Fault::Shape)?;
        if shape.len() > MAX_DIMENSIONS {
            return Err(Fault::TooManyDimensions { n: shape.len() });
        }
        let expected = checked_product(&shape, dtype.n_bytes() as u64)
            .ok_or_else(|| Fault::ShapeOverflow { shape: shape.clone() })?;
        let [begin, end]: [u64; 2] = serde_json::from_str(offsets).map_err(|_| Fault::Offsets)?;
        let got = end.checked_sub(begin).ok_or(Fault::OffsetsReversed { begin, end })?;
        if got != expected {
            return Err(Fault::Length { expected, got });
        }
        // On a 32-bit machine such a place cannot be in the map anyway.
        let place = |place: u64| usize::try_from(place).map_err(|_| Fault::BeyondFile { end, len: 0 });
        Ok(Self {
            name: name.to_owned(),
            dtype,
            shape: shape.into_iter().map(place).collect::<Result<_, _>>()?,
            begin: place(begin)?,
            end: place(end)?,
            offset,
        })
    }
}

/// Checks that tensors, sorted by place, lie back to back from 0 to `len`.
fn check_cover(tensors: &[Entry], len: usize) -> Result<(), (Option<&Entry>, Fault)> {
    let mut previous_end = 0;
    for entry in tensors {
        let (begin, end) = (entry.begin as u64, entry.end as u64);
        let fault = if entry.end > len {
            Fault::BeyondFile { end, len: len as u64 }
        } else if begin < previous_end {
            Fault::Overlap { begin, previous_end }
        } else if begin > previous_end {
            Fault::Gap { begin, previous_end }
        } else {
            previous_end = end;
            continue;
        };
        return Err((Some(entry), fault));
    }
    if previous_end != len as u64 {
        return Err((None, Fault::Uncovered { covered: previous_end, len: len as u64 }));
    }
    Ok(())
}

/// Bytes of a tensor, if they can be counted. Even an empty one may not overflow on the way.
fn checked_product(shape: &[u64], element_bytes: u64) -> Option<u64> {
    shape.iter().try_fold(element_bytes, |product, &axis| product.checked_mul(axis))
}

/// An object of texts without repeated keys.
fn texts(json: &str) -> Option<BTreeMap<String, String>> {
    let mut texts = BTreeMap::new();
    for (key, value) in object(json, MAX_TENSORS).ok()? {
        let text = serde_json::from_str(value.get()).ok()?;
        if texts.insert(key, text).is_some() {
            return None;
        }
    }
    Some(texts)
}

/// Byte position of a JSON error within its text.
fn position(text: &str, error: &serde_json::Error) -> u64 {
    let before: usize = text.split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len).sum();
    (before + error.column().saturating_sub(1)).min(text.len()) as u64
}

/// A text for an error message: what a hostile file holds may be long.
pub(crate) fn shortened(text: &str) -> String {
    if text.chars().count() <= 40 { text.into() } else { text.chars().take(40).chain(['…']).collect() }
}

impl Display for Dtype {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::philox4x32;

    #[test]
    fn random_damage_never_panics() {
        let header = r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"b":{"dtype":"BF16","shape":[4],"data_offsets":[24,32]}}"#;
        let good = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &[0; 32]].concat();
        assert_eq!(Header::parse(&good).unwrap().tensors.len(), 2);
        let (mut accepted, mut refused) = (0, 0);
        for case in 0..200_000 {
            let [place, value, kind, second] = philox4x32([case, 0, 0, 0], [1, 2]);
            let mut bytes = good.clone();
            let place = place as usize % (8 + header.len());
            match kind % 4 {
                0 => bytes[place] ^= 1 << (value % 8),
                1 => bytes[place] = value as u8,
                2 => bytes.truncate(place),
                _ => {
                    bytes[place] = b"0123456789{}[],:\" -"[value as usize % 19];
                    bytes[second as usize % (8 + header.len())] ^= 1 << (value % 8);
                }
            }
            let Ok(header) = Header::parse(&bytes) else {
                refused += 1;
                continue;
            };
            accepted += 1;
            for entry in header.tensors {
                let n: usize = entry.shape.iter().product();
                let values = &bytes[header.data_start..][entry.begin..entry.end];
                assert_eq!(values.len(), n * entry.dtype.n_bytes());
            }
        }
        assert!(refused > 100_000 && accepted > 1000, "{accepted} accepted, {refused} refused");
    }

    #[test]
    fn the_table_of_types_is_in_the_order_of_the_types() {
        for (name, dtype, n_bytes) in Dtype::NAMES {
            assert_eq!((dtype.name(), dtype.n_bytes()), (name, n_bytes));
        }
    }
}
