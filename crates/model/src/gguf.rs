//! GGUF files: metadata and quantised weights of a model in one file, as llama.cpp and what builds on it
//! read them.
//!
//! A file is a header of key-value pairs and tensor descriptions, little-endian and packed, then the
//! tensors' values, each at a multiple of the file's alignment. Files come from strangers, so nothing in
//! the header is believed: reading checks every count against the bytes that are left before it allocates,
//! every place against the file's end and the other tensors, and answers each broken rule with its own
//! [`GgufFault`]. Metadata is copied; weights stay in the file, which is mapped into memory.
//!
//! Source: the format's description in the `ggml` repository, versions 2 and 3.

mod ggml_type;
mod header;
mod metadata;
mod writer;

use std::path::{Path, PathBuf};

pub use ggml_type::GgmlType;
pub use header::GgufFault;
use header::{Entry, Header};
use memmap2::Mmap;
pub use metadata::{FromGguf, GgufArray, GgufMetadata, GgufValue};
pub use writer::{GgufTensorSpec, GgufWriter};

use crate::Error;
use crate::mapped_file::map;

/// Longest string that is read, in bytes.
pub const MAX_GGUF_STRING_BYTES: u64 = 16 << 20;

/// Most elements that an array may have.
pub const MAX_GGUF_ARRAY: u64 = 16 << 20;

/// Deepest nesting of arrays.
pub const MAX_GGUF_NESTING: usize = 4;

/// Most key-value pairs that a file may have.
pub const MAX_GGUF_KEYS: u64 = 100_000;

/// Most tensors that a file may have.
pub const MAX_GGUF_TENSORS: u64 = 1_000_000;

/// Most axes that a tensor may have.
pub const MAX_GGUF_DIMENSIONS: u32 = 4;

/// Key that says to multiples of how many bytes tensors are placed.
pub const ALIGNMENT_KEY: &str = "general.alignment";

/// Alignment of files that do not say another.
const DEFAULT_ALIGNMENT: u64 = 32;

/// What a file begins with.
const MAGIC: [u8; 4] = *b"GGUF";

/// One tensor of a file: a window on the mapped bytes.
#[derive(Debug, Clone, Copy)]
pub struct GgufTensor<'a> {
    /// Name in the file.
    pub name: &'a str,
    /// Sizes of the axes, slowest first: the reverse of the order in the file, and that of safetensors.
    pub shape: &'a [usize],
    /// Type of the values.
    pub ty: GgmlType,
    /// The values, row by row in whole blocks of `ty`.
    pub data: &'a [u8],
}

impl GgufTensor<'_> {
    /// Number of values.
    #[must_use]
    pub fn n_values(&self) -> usize {
        self.data.len() / self.ty.block_bytes() * self.ty.block_weights()
    }
}

/// A GGUF file, checked whole and mapped into memory.
#[derive(Debug)]
pub struct GgufFile {
    path: PathBuf,
    map: Mmap,
    header: Header,
}

impl GgufFile {
    /// Opens and checks a file of version 2 or 3, little-endian.
    ///
    /// Values are read when they are used. Do not shorten a file that is open here: the operating system
    /// would end the process at the first value that is gone.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be opened, [`Error::Gguf`] with the first [`GgufFault`] found.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let map = map(path)?;
        let header = Header::parse(&map, map.len() as u64).map_err(|offence| offence.in_file(path))?;
        Ok(Self { path: path.to_owned(), map, header })
    }

    /// Tells the system that all of the file will be read now, which is faster than page by page. Does nothing where
    /// that cannot be said.
    pub fn read_ahead(&self) {
        #[cfg(target_os = "linux")]
        // Advice that is not taken costs nothing but time.
        let _ = self.map.advise(memmap2::Advice::PopulateRead);
    }

    /// Where the file lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Version of the format: 2 or 3.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.header.version
    }

    /// The key-value pairs.
    #[must_use]
    pub fn metadata(&self) -> &GgufMetadata {
        &self.header.metadata
    }

    /// Every tensor, in the order in which the file describes them.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = GgufTensor<'_>> {
        self.header.tensors.iter().map(|entry| self.view(entry))
    }

    /// The tensor of that name.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<GgufTensor<'_>> {
        self.header.entry(name).map(|entry| self.view(entry))
    }

    fn view<'a>(&'a self, entry: &'a Entry) -> GgufTensor<'a> {
        let data = &self.map[entry.begin..entry.end];
        GgufTensor { name: &entry.name, shape: &entry.shape, ty: entry.ty, data }
    }
}

/// Whether a file begins as GGUF files do; false if it cannot be read.
#[must_use]
pub fn is_gguf(path: impl AsRef<Path>) -> bool {
    let mut magic = [0; 4];
    let read =
        std::fs::File::open(path).and_then(|mut file| std::io::Read::read_exact(&mut file, &mut magic));
    read.is_ok() && magic == MAGIC
}
