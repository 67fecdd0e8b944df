//! Reading rows of tokens, from a file that may be anybody's: everything is checked before the first row.

use std::fs;
use std::ops::Range;
use std::path::Path;

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

use crate::Error;
use crate::pack::PackStats;

/// The rows of a file that [`pack()`](crate::pack()) wrote, held in memory as 2 bytes a token (4 for a
/// vocabulary above 65,536).
#[derive(Debug, Clone)]
pub struct PackedTokens {
    tokens: Tokens,
    /// Offset and length of each piece, ascending.
    segments: Vec<(u32, u32)>,
    /// The index of the first segment of each row, and at the end their number.
    first_segment: Vec<usize>,
    stats: PackStats,
    vocab_size: u32,
    bos: u32,
    eos: u32,
}

#[derive(Debug, Clone)]
enum Tokens {
    Narrow(Vec<u16>),
    Wide(Vec<u32>),
}

/// One row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Its `seq_len` tokens.
    pub tokens: Vec<u32>,
    /// The pieces in it, as ranges of positions, ascending and disjoint. In each, every token but the first
    /// is predicted from those before it; positions in none are padding.
    pub segments: Vec<Range<usize>>,
}

impl PackedTokens {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read; [`Error::Packed`], with what is wrong and where, if it is
    /// truncated or no file of packed tokens.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let bytes = fs::read(path).map_err(Error::io("read", path))?;
        Self::parse(&bytes).map_err(|what| Error::Packed { path: path.to_owned(), what })
    }

    /// The number of rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.first_segment.len() - 1
    }

    /// The positions of a row.
    #[must_use]
    pub fn seq_len(&self) -> usize {
        self.stats.seq_len as usize
    }

    /// The size of the vocabulary; every token is below it.
    #[must_use]
    pub fn vocab_size(&self) -> u32 {
        self.vocab_size
    }

    /// The token that starts a document.
    #[must_use]
    pub fn bos(&self) -> u32 {
        self.bos
    }

    /// The token that ends a document, and fills padding.
    #[must_use]
    pub fn eos(&self) -> u32 {
        self.eos
    }

    /// How many documents, tokens, and bytes of text the rows hold. `cut_documents` is not stored, hence 0.
    #[must_use]
    pub fn stats(&self) -> &PackStats {
        &self.stats
    }

    /// The row of index `i`.
    ///
    /// # Panics
    /// If `i` is not below [`PackedTokens::rows`].
    #[must_use]
    pub fn row(&self, i: usize) -> Row {
        let positions = i * self.seq_len()..(i + 1) * self.seq_len();
        let segments = &self.segments[self.first_segment[i]..self.first_segment[i + 1]];
        let in_row = |&(offset, len): &(u32, u32)| {
            let start = offset as usize - positions.start;
            start..start + len as usize
        };
        let segments = segments.iter().map(in_row).collect();
        let tokens = match &self.tokens {
            Tokens::Narrow(tokens) => tokens[positions].iter().map(|&id| id.into()).collect(),
            Tokens::Wide(tokens) => tokens[positions].to_vec(),
        };
        Row { tokens, segments }
    }

    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(|e| format!("its header: {e}"))?;
        let metadata = header.metadata().as_ref().ok_or("its header has no metadata")?;
        let number = |name: &str| -> Result<u64, String> {
            let text = metadata.get(name).ok_or_else(|| format!("its metadata lack `{name}`"))?;
            text.parse().map_err(|_| format!("its metadata say `{name}` is `{text}`, which is no number"))
        };
        let small = |name: &str| -> Result<u32, String> {
            number(name)?.try_into().map_err(|_| format!("its metadata give too large a number for `{name}`"))
        };
        let (vocab_size, bos, eos) = (small("vocab_size")?, small("bos")?, small("eos")?);
        let seq_len = small("seq_len")? as usize;
        let file = SafeTensors::deserialize(bytes).map_err(|e| format!("its header: {e}"))?;
        let tensor = |name: &str| file.tensor(name).map_err(|_| format!("it has no tensor `{name}`"));

        let tensor_tokens = tensor("tokens")?;
        let rows = match *tensor_tokens.shape() {
            [rows, width] if width == seq_len && seq_len >= 2 => rows,
            ref shape => {
                return Err(format!("`tokens` has the shape {shape:?} where `seq_len` is {seq_len}"));
            }
        };
        let tokens = read_tokens(&tensor_tokens)?;
        let highest = match &tokens {
            Tokens::Narrow(ids) => ids.iter().max().map(|&id| id.into()),
            Tokens::Wide(ids) => ids.iter().max().copied(),
        };
        if let Some(id) = highest.into_iter().chain([bos, eos]).find(|&id| id >= vocab_size) {
            return Err(format!("it holds token {id}, outside its vocabulary of {vocab_size}"));
        }

        let segments = read_segments(&tensor("segments")?)?;
        let (first_segment, filled) = check_segments(&segments, rows, seq_len)?;
        let stats = PackStats {
            documents: number("documents")?,
            text_bytes: number("text_bytes")?,
            tokens: number("tokens")?,
            rows: rows as u64,
            seq_len: seq_len as u64,
            segments: segments.len() as u64,
            cut_documents: 0,
            padding: number("padding")?,
        };
        // Of each segment, all tokens but the first are predicted.
        let predicted = filled - stats.segments;
        if predicted != stats.tokens || filled + stats.padding != stats.rows * stats.seq_len {
            return Err(format!(
                "its segments predict {predicted} tokens in {filled} positions, but its metadata say {} tokens \
                 and {} positions of padding",
                stats.tokens, stats.padding
            ));
        }
        Ok(Self { tokens, segments, first_segment, stats, vocab_size, bos, eos })
    }
}

fn read_tokens(tensor: &TensorView<'_>) -> Result<Tokens, String> {
    let data = tensor.data();
    match tensor.dtype() {
        Dtype::U16 => Ok(Tokens::Narrow(data.as_chunks().0.iter().map(|b| u16::from_le_bytes(*b)).collect())),
        Dtype::U32 => Ok(Tokens::Wide(data.as_chunks().0.iter().map(|b| u32::from_le_bytes(*b)).collect())),
        other => Err(format!("`tokens` is of type {other} instead of U16 or U32")),
    }
}

fn read_segments(tensor: &TensorView<'_>) -> Result<Vec<(u32, u32)>, String> {
    if tensor.dtype() != Dtype::U32 || !matches!(tensor.shape(), [_, 2]) {
        let (dtype, shape) = (tensor.dtype(), tensor.shape());
        return Err(format!("`segments` is of type {dtype} and shape {shape:?} instead of U32 [n, 2]"));
    }
    let numbers = tensor.data().as_chunks::<4>().0.as_chunks::<2>().0;
    Ok(numbers.iter().map(|[offset, len]| (u32::from_le_bytes(*offset), u32::from_le_bytes(*len))).collect())
}

/// Where each row's segments start, and how many positions all fill; they must be ascending and disjoint, of
/// two tokens at least, and none may cross the end of a row.
fn check_segments(segments: &[(u32, u32)], rows: usize, seq_len: usize) -> Result<(Vec<usize>, u64), String> {
    let mut first = Vec::with_capacity(rows + 1);
    let (mut end, mut filled) = (0u64, 0);
    for (i, &(offset, len)) in segments.iter().enumerate() {
        let (offset, len, seq_len) = (u64::from(offset), u64::from(len), seq_len as u64);
        let wrong = |what: &str| Err(format!("segment {i}, at position {offset} of length {len}, {what}"));
        let row = offset / seq_len;
        if len < 2 {
            return wrong("predicts nothing");
        }
        if offset < end {
            return wrong("overlaps the one before it");
        }
        if row >= rows as u64 || offset % seq_len + len > seq_len {
            return wrong("crosses the end of its row");
        }
        first.resize(first.len().max(row as usize + 1), i);
        end = offset + len;
        filled += len;
    }
    first.resize(rows + 1, segments.len());
    Ok((first, filled))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Document, PackSettings, pack, silent};
    use proptest::prelude::*;
    use std::path::PathBuf;

    /// A made-up tokenizer: one token a byte.
    fn encode(text: &str) -> Vec<u32> {
        text.bytes().map(u32::from).collect()
    }

    fn packed(
        folder: &Path,
        lengths: &[usize],
        vocab_size: u32,
        settings: &PackSettings,
    ) -> (PathBuf, PackStats) {
        let path = folder.join("tokens.safetensors");
        let text = |(i, &n): (usize, &usize)| {
            let letters = (0..n).map(|j| char::from(b'a' + ((i * 31 + j * 7) % 26) as u8));
            Ok(Document::new(i.to_string(), None, letters.collect::<String>()))
        };
        let documents = lengths.iter().enumerate().map(text);
        let stats = pack(documents, &encode, vocab_size, 256, 257, settings, &path, &silent).unwrap();
        (path, stats)
    }

    #[test]
    fn what_was_packed_is_read_in_both_widths() {
        let folder = tempfile::tempdir().unwrap();
        let lengths: Vec<usize> = (0..200).map(|i| (i * 37) % 300).collect();
        for vocab_size in [258, 65_536, 65_537] {
            let settings = PackSettings { seq_len: 128, ..PackSettings::default() };
            let (path, stats) = packed(folder.path(), &lengths, vocab_size, &settings);
            let file = PackedTokens::open(&path).unwrap();
            assert_eq!(file.stats(), &PackStats { cut_documents: 0, ..stats });
            assert_eq!(stats.text_bytes, lengths.iter().sum::<usize>() as u64);
            assert_eq!(stats.tokens, stats.text_bytes + stats.documents);
            assert!(stats.filled_share() > 0.98, "{stats:?}");
            let mut predicted = [0u64; 258];
            for i in 0..file.rows() {
                let row = file.row(i);
                for segment in row.segments {
                    row.tokens[segment].iter().skip(1).for_each(|&id| predicted[id as usize] += 1);
                }
            }
            assert_eq!(predicted.iter().sum::<u64>(), stats.tokens);
            assert_eq!((predicted[256], predicted[257]), (0, stats.documents));
        }
    }

    #[test]
    fn the_same_bytes_for_any_number_of_threads_and_other_rows_for_another_seed() {
        let folder = tempfile::tempdir().unwrap();
        let lengths: Vec<usize> = (0..300).map(|i| (i * 37) % 500).collect();
        let bytes = |threads, seed| {
            let settings = PackSettings { seq_len: 64, threads, seed, ..PackSettings::default() };
            fs::read(packed(folder.path(), &lengths, 258, &settings).0).unwrap()
        };
        assert_eq!(bytes(1, 0), bytes(3, 0));
        assert_ne!(bytes(1, 0), bytes(1, 1));
    }

    #[test]
    fn a_token_outside_the_vocabulary_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let documents = [Ok(Document::new("a", None, "x"))].into_iter();
        let path = folder.path().join("t.safetensors");
        let error = pack(documents, &|_| vec![900], 300, 256, 257, &PackSettings::default(), &path, &silent)
            .unwrap_err();
        assert!(error.to_string().contains("token 900"), "{error}");
        assert!(!path.exists());
    }

    #[test]
    fn hostile_segments_are_named() {
        let check = |segments: &[(u32, u32)]| check_segments(segments, 4, 10).unwrap_err();
        assert!(check(&[(0, 1)]).contains("predicts nothing"));
        assert!(check(&[(0, 5), (4, 2)]).contains("overlaps"));
        assert!(check(&[(8, 3)]).contains("end of its row"));
        assert!(check(&[(40, 2)]).contains("end of its row"));
        assert!(check(&[(u32::MAX, u32::MAX)]).contains("end of its row"));
        assert_eq!(check_segments(&[(12, 2), (14, 6), (30, 2)], 4, 10).unwrap(), (vec![0, 0, 2, 2, 3], 10));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        #[test]
        fn no_damage_panics(at in 0..4000usize, value in any::<u8>(), cut in prop::option::of(0..4000usize)) {
            let folder = tempfile::tempdir().unwrap();
            let (path, _) =
                packed(folder.path(), &[40, 3, 0, 90, 17], 258, &PackSettings { seq_len: 32, ..Default::default() });
            let mut bytes = fs::read(&path).unwrap();
            let at = at % bytes.len();
            bytes[at] = value;
            if let Some(cut) = cut {
                bytes.truncate(cut % bytes.len());
                prop_assert!(PackedTokens::parse(&bytes).is_err());
            } else if let Ok(file) = PackedTokens::parse(&bytes) {
                (0..file.rows()).for_each(|i| drop(file.row(i)));
            }
        }
    }
}
