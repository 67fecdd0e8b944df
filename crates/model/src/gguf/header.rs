//! The header of a GGUF file, read without trust.

use std::collections::HashSet;
use std::path::Path;

use super::metadata::{ARRAY_ID, GgufArray, GgufMetadata, GgufValue};
use super::{
    ALIGNMENT_KEY, DEFAULT_ALIGNMENT, GgmlType, MAGIC, MAX_GGUF_ARRAY, MAX_GGUF_DIMENSIONS, MAX_GGUF_KEYS,
    MAX_GGUF_NESTING, MAX_GGUF_STRING_BYTES, MAX_GGUF_TENSORS,
};
use crate::Error;
use crate::safetensors_file::shortened;

/// The rule of the format that a file breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages say it")]
pub enum GgufFault {
    #[error("it does not begin with `GGUF`")]
    Magic,
    #[error("the file is big-endian; convert it to little-endian")]
    BigEndian,
    #[error("version {version} is not supported, only 2 and 3")]
    Version { version: u32 },
    #[error("{needed} bytes are needed where {left} are left")]
    Truncated { needed: u64, left: u64 },
    #[error("{n} entries of at least {each} bytes cannot stand in the {left} bytes left")]
    Count { n: u64, each: u64, left: u64 },
    #[error("{n} key-value pairs are more than {MAX_GGUF_KEYS}")]
    TooManyKeys { n: u64 },
    #[error("{n} tensors are more than {MAX_GGUF_TENSORS}")]
    TooManyTensors { n: u64 },
    #[error("a string of {len} bytes is longer than {MAX_GGUF_STRING_BYTES}")]
    StringTooLong { len: u64 },
    #[error("the string is not UTF-8")]
    Utf8,
    #[error("an array of {n} elements is longer than {MAX_GGUF_ARRAY}")]
    ArrayTooLong { n: u64 },
    #[error("arrays are nested deeper than {MAX_GGUF_NESTING}")]
    Nesting,
    #[error("the value type {id} is unknown")]
    ValueType { id: u32 },
    #[error("the byte {byte} is no bool")]
    Bool { byte: u8 },
    #[error("the key stands twice")]
    DuplicateKey,
    #[error("the alignment is not a power of two from 8 to 1,048,576")]
    Alignment,
    #[error("the name stands twice")]
    DuplicateTensor,
    #[error("{n} axes are more than {MAX_GGUF_DIMENSIONS}")]
    TooManyDimensions { n: u32 },
    #[error("the tensor type {id} is unknown")]
    TensorType { id: u32 },
    #[error("rows of {row} values are no whole blocks of {block} as {ty} needs them")]
    Row { row: u64, block: usize, ty: GgmlType },
    #[error("the shape {shape:?} has more values than can be counted")]
    ShapeOverflow { shape: Vec<u64> },
    #[error("the offset {offset} is no multiple of the alignment {alignment}")]
    Unaligned { offset: u64, alignment: u64 },
    #[error("{len} bytes from {begin} on go beyond the end of the file at {end}")]
    BeyondFile { begin: u64, len: u64, end: u64 },
    #[error("its values overlap those of `{other}`")]
    Overlap { other: String },
}

/// A broken rule and its place, before the file's name is added.
#[derive(Debug)]
pub(super) struct Offence {
    part: Option<String>,
    offset: u64,
    fault: GgufFault,
}

impl Offence {
    pub(super) fn in_file(self, path: &Path) -> Error {
        let Self { part, offset, fault } = self;
        Error::Gguf { path: path.to_owned(), part, offset, fault }
    }

    fn of_key(self, key: &str) -> Self {
        Self { part: Some(format!("key `{}`", shortened(key))), ..self }
    }

    fn of_tensor(self, name: &str) -> Self {
        Self { part: Some(format!("tensor `{}`", shortened(name))), ..self }
    }
}

/// What a header says, checked.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) version: u32,
    pub(super) metadata: GgufMetadata,
    /// Tensors in the order of the file.
    pub(super) tensors: Vec<Entry>,
    /// Indices of `tensors` by rising name.
    by_name: Vec<u32>,
}

/// One tensor of a header.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: String,
    /// Sizes of the axes, slowest first.
    pub(super) shape: Vec<usize>,
    pub(super) ty: GgmlType,
    /// Where the values begin and end in the file, in bytes.
    pub(super) begin: usize,
    pub(super) end: usize,
    /// Where the description stands in the file.
    offset: u64,
}

impl Header {
    /// Reads the header at the beginning of `bytes`, of a file that has `file_len` bytes in all.
    pub(super) fn parse(bytes: &[u8], file_len: u64) -> Result<Self, Offence> {
        let mut reader = Reader { bytes, at: 0 };
        if reader.take(4).ok() != Some(&MAGIC) {
            return Err(Reader { bytes, at: 0 }.offence(GgufFault::Magic));
        }
        let start = reader.at;
        let version = reader.u32()?;
        if !(2..=3).contains(&version) {
            let swapped = matches!(version.swap_bytes(), 1..=3);
            let fault = if swapped { GgufFault::BigEndian } else { GgufFault::Version { version } };
            return Err(offence_at(start, fault));
        }
        let n_tensors = reader.count(MAX_GGUF_TENSORS, 0, |n| GgufFault::TooManyTensors { n })?;
        let n_keys = reader.count(MAX_GGUF_KEYS, 0, |n| GgufFault::TooManyKeys { n })?;

        let (metadata, alignment) = reader.metadata(n_keys)?;
        let mut tensors = reader.tensors(n_tensors)?;
        let data_start = (reader.at as u64).next_multiple_of(alignment);
        for entry in &mut tensors {
            place(entry, data_start, alignment, file_len)
                .map_err(|offence| offence.of_tensor(&entry.name))?;
        }
        check_disjoint(&tensors)?;
        let by_name = sorted_by_name(&tensors)?;
        Ok(Self { version, metadata, tensors, by_name })
    }

    /// The tensor of that name.
    pub(super) fn entry(&self, name: &str) -> Option<&Entry> {
        let name_of = |idx: &u32| &*self.tensors[*idx as usize].name;
        let found = self.by_name.binary_search_by(|idx| name_of(idx).cmp(name)).ok()?;
        self.tensors.get(self.by_name[found] as usize)
    }
}

/// Moves a tensor from its offset within the data to its place in the file, and checks that.
fn place(entry: &mut Entry, data_start: u64, alignment: u64, file_len: u64) -> Result<(), Offence> {
    let (offset, len) = (entry.begin as u64, (entry.end - entry.begin) as u64);
    if !offset.is_multiple_of(alignment) {
        return Err(offence_at(entry.offset as usize, GgufFault::Unaligned { offset, alignment }));
    }
    let begin = data_start.checked_add(offset);
    let end = begin.and_then(|begin| begin.checked_add(len)).filter(|&end| end <= file_len);
    let (Some(begin), Some(end)) = (begin, end) else {
        let begin = begin.unwrap_or(u64::MAX);
        return Err(offence_at(entry.offset as usize, GgufFault::BeyondFile { begin, len, end: file_len }));
    };
    // Both fit: the file is in memory, or about to be written from there.
    (entry.begin, entry.end) = (begin as usize, end as usize);
    Ok(())
}

fn check_disjoint(tensors: &[Entry]) -> Result<(), Offence> {
    let mut by_place: Vec<&Entry> = tensors.iter().filter(|entry| entry.begin < entry.end).collect();
    by_place.sort_unstable_by_key(|entry| entry.begin);
    match by_place.windows(2).find(|pair| pair[0].end > pair[1].begin) {
        Some(pair) => {
            let fault = GgufFault::Overlap { other: shortened(&pair[0].name) };
            Err(offence_at(pair[1].offset as usize, fault).of_tensor(&pair[1].name))
        }
        None => Ok(()),
    }
}

fn sorted_by_name(tensors: &[Entry]) -> Result<Vec<u32>, Offence> {
    let entry = |idx: &u32| &tensors[*idx as usize];
    let mut by_name: Vec<u32> = (0..tensors.len() as u32).collect();
    by_name.sort_by(|a, b| entry(a).name.cmp(&entry(b).name));
    match by_name.windows(2).find(|pair| entry(&pair[0]).name == entry(&pair[1]).name) {
        Some(pair) => {
            let second = entry(&pair[1]);
            Err(offence_at(second.offset as usize, GgufFault::DuplicateTensor).of_tensor(&second.name))
        }
        None => Ok(by_name),
    }
}

fn offence_at(offset: usize, fault: GgufFault) -> Offence {
    Offence { part: None, offset: offset as u64, fault }
}

/// Reads from the front, and never beyond the end.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn offence(&self, fault: GgufFault) -> Offence {
        offence_at(self.at, fault)
    }

    fn left(&self) -> u64 {
        (self.bytes.len() - self.at) as u64
    }

    fn take(&mut self, n: u64) -> Result<&'a [u8], Offence> {
        if n > self.left() {
            return Err(self.offence(GgufFault::Truncated { needed: n, left: self.left() }));
        }
        let taken = &self.bytes[self.at..][..n as usize];
        self.at += taken.len();
        Ok(taken)
    }

    fn number<const N: usize, T>(&mut self, from_le: fn([u8; N]) -> T) -> Result<T, Offence> {
        let bytes = self.take(N as u64)?;
        Ok(from_le(*bytes.first_chunk().expect("as many bytes as were asked for")))
    }

    fn u32(&mut self) -> Result<u32, Offence> {
        self.number(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Offence> {
        self.number(u64::from_le_bytes)
    }

    /// A number of things that follow, `each` bytes or more. A limit alone would let a short file make a
    /// reader allocate up to it.
    fn count(&mut self, max: u64, each: u64, too_many: impl Fn(u64) -> GgufFault) -> Result<usize, Offence> {
        let start = self.at;
        let n = self.u64()?;
        if n > max {
            return Err(offence_at(start, too_many(n)));
        }
        let left = self.left();
        if n * each > left {
            return Err(offence_at(start, GgufFault::Count { n, each, left }));
        }
        Ok(n as usize)
    }

    fn string(&mut self) -> Result<&'a str, Offence> {
        let start = self.at;
        let len = self.u64()?;
        if len > MAX_GGUF_STRING_BYTES {
            return Err(offence_at(start, GgufFault::StringTooLong { len }));
        }
        let start = self.at;
        std::str::from_utf8(self.take(len)?)
            .map_err(|error| offence_at(start + error.valid_up_to(), GgufFault::Utf8))
    }

    fn bool(&mut self) -> Result<bool, Offence> {
        let start = self.at;
        match self.number(u8::from_le_bytes)? {
            0 => Ok(false),
            1 => Ok(true),
            byte => Err(offence_at(start, GgufFault::Bool { byte })),
        }
    }

    /// The pairs, and the alignment that they ask for.
    fn metadata(&mut self, n: usize) -> Result<(GgufMetadata, u64), Offence> {
        /// Length of the key, type, one byte of value.
        const SMALLEST: u64 = 8 + 4 + 1;
        let left = self.left();
        if n as u64 * SMALLEST > left {
            return Err(self.offence(GgufFault::Count { n: n as u64, each: SMALLEST, left }));
        }
        let mut entries = Vec::with_capacity(n);
        let mut seen = HashSet::with_capacity(n);
        let mut alignment = DEFAULT_ALIGNMENT;
        for _ in 0..n {
            let start = self.at;
            let key = self.string()?;
            if !seen.insert(key) {
                return Err(offence_at(start, GgufFault::DuplicateKey).of_key(key));
            }
            let value_start = self.at;
            let value = self.value().map_err(|offence| offence.of_key(key))?;
            if key == ALIGNMENT_KEY {
                alignment = match value {
                    GgufValue::U32(n) if n.is_power_of_two() && (8..=1 << 20).contains(&n) => n.into(),
                    _ => return Err(offence_at(value_start, GgufFault::Alignment).of_key(key)),
                };
            }
            entries.push((key.to_owned(), value));
        }
        Ok((GgufMetadata::from_entries(entries), alignment))
    }

    fn value(&mut self) -> Result<GgufValue, Offence> {
        let start = self.at;
        Ok(match self.u32()? {
            0 => GgufValue::U8(self.number(u8::from_le_bytes)?),
            1 => GgufValue::I8(self.number(i8::from_le_bytes)?),
            2 => GgufValue::U16(self.number(u16::from_le_bytes)?),
            3 => GgufValue::I16(self.number(i16::from_le_bytes)?),
            4 => GgufValue::U32(self.u32()?),
            5 => GgufValue::I32(self.number(i32::from_le_bytes)?),
            6 => GgufValue::F32(self.number(f32::from_le_bytes)?),
            7 => GgufValue::Bool(self.bool()?),
            8 => GgufValue::String(self.string()?.to_owned()),
            ARRAY_ID => GgufValue::Array(self.array(1)?),
            10 => GgufValue::U64(self.u64()?),
            11 => GgufValue::I64(self.number(i64::from_le_bytes)?),
            12 => GgufValue::F64(self.number(f64::from_le_bytes)?),
            id => return Err(offence_at(start, GgufFault::ValueType { id })),
        })
    }

    fn array(&mut self, depth: usize) -> Result<GgufArray, Offence> {
        let start = self.at;
        let id = self.u32()?;
        let each = match id {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            8 | 10..=12 => 8,
            // Type and length of an empty one.
            ARRAY_ID if depth < MAX_GGUF_NESTING => 12,
            ARRAY_ID => return Err(offence_at(start, GgufFault::Nesting)),
            id => return Err(offence_at(start, GgufFault::ValueType { id })),
        };
        let n = self.count(MAX_GGUF_ARRAY, each, |n| GgufFault::ArrayTooLong { n })?;
        Ok(match id {
            0 => GgufArray::U8(self.numbers(n, u8::from_le_bytes)?),
            1 => GgufArray::I8(self.numbers(n, i8::from_le_bytes)?),
            2 => GgufArray::U16(self.numbers(n, u16::from_le_bytes)?),
            3 => GgufArray::I16(self.numbers(n, i16::from_le_bytes)?),
            4 => GgufArray::U32(self.numbers(n, u32::from_le_bytes)?),
            5 => GgufArray::I32(self.numbers(n, i32::from_le_bytes)?),
            6 => GgufArray::F32(self.numbers(n, f32::from_le_bytes)?),
            7 => GgufArray::Bool((0..n).map(|_| self.bool()).collect::<Result<_, _>>()?),
            8 => GgufArray::String((0..n).map(|_| Ok(self.string()?.to_owned())).collect::<Result<_, _>>()?),
            10 => GgufArray::U64(self.numbers(n, u64::from_le_bytes)?),
            11 => GgufArray::I64(self.numbers(n, i64::from_le_bytes)?),
            12 => GgufArray::F64(self.numbers(n, f64::from_le_bytes)?),
            _ => GgufArray::Array((0..n).map(|_| self.array(depth + 1)).collect::<Result<_, _>>()?),
        })
    }

    fn numbers<const N: usize, T>(&mut self, n: usize, from_le: fn([u8; N]) -> T) -> Result<Vec<T>, Offence> {
        let bytes = self.take((n * N) as u64)?;
        Ok(bytes.as_chunks().0.iter().map(|&bytes| from_le(bytes)).collect())
    }

    /// Descriptions of tensors; places count from the first value yet.
    fn tensors(&mut self, n: usize) -> Result<Vec<Entry>, Offence> {
        /// Length of the name, number of axes, type, offset.
        const SMALLEST: u64 = 8 + 4 + 4 + 8;
        let left = self.left();
        if n as u64 * SMALLEST > left {
            return Err(self.offence(GgufFault::Count { n: n as u64, each: SMALLEST, left }));
        }
        let mut tensors = Vec::with_capacity(n);
        for _ in 0..n {
            let offset = self.at as u64;
            let name = self.string()?;
            let entry = self.tensor(name, offset).map_err(|offence| offence.of_tensor(name))?;
            tensors.push(entry);
        }
        Ok(tensors)
    }

    fn tensor(&mut self, name: &str, offset: u64) -> Result<Entry, Offence> {
        let start = self.at;
        let n_axes = self.u32()?;
        if n_axes > MAX_GGUF_DIMENSIONS {
            return Err(offence_at(start, GgufFault::TooManyDimensions { n: n_axes }));
        }
        let shape_start = self.at;
        let mut shape = (0..n_axes).map(|_| self.u64()).collect::<Result<Vec<u64>, _>>()?;
        let type_start = self.at;
        let id = self.u32()?;
        let ty = GgmlType::from_id(id).ok_or_else(|| offence_at(type_start, GgufFault::TensorType { id }))?;
        let row = shape.first().copied().unwrap_or(1);
        if !row.is_multiple_of(ty.block_weights() as u64) {
            let fault = GgufFault::Row { row, block: ty.block_weights(), ty };
            return Err(offence_at(shape_start, fault));
        }
        shape.reverse();
        // Even an empty tensor may not overflow on the way.
        let n_bytes = shape.iter().try_fold(1_u64, |product, &axis| product.checked_mul(axis));
        let n_bytes = n_bytes.and_then(|n| ty.bytes_of(usize::try_from(n).ok()?));
        let sizes: Option<Vec<usize>> = shape.iter().map(|&axis| usize::try_from(axis).ok()).collect();
        let begin_start = self.at;
        let begin = self.u64()?;
        let (Some(n_bytes), Some(sizes)) = (n_bytes, sizes) else {
            return Err(offence_at(shape_start, GgufFault::ShapeOverflow { shape }));
        };
        let end = usize::try_from(begin).ok().and_then(|begin| begin.checked_add(n_bytes));
        let Some(end) = end else {
            let fault = GgufFault::BeyondFile { begin, len: n_bytes as u64, end: self.bytes.len() as u64 };
            return Err(offence_at(begin_start, fault));
        };
        Ok(Entry { name: name.to_owned(), shape: sizes, ty, begin: begin as usize, end, offset })
    }
}

#[cfg(test)]
mod tests;
