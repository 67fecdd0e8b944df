//! One document, and files of them: JSON lines, compressed, read and written as streams.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use elmwood_durable::FileWriter;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Error, Quarantine};

/// The longest line that is read, in bytes; a longer one is a bad record.
pub const MAX_LINE_BYTES: usize = 64 << 20;

/// Level of zstd for every file written: past it, seconds grow faster than the file shrinks.
const ZSTD_LEVEL: i32 = 3;

/// A piece of text and where it came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Document {
    /// The first 16 hexadecimal digits of BLAKE3 over source, a zero byte, and the text as it was
    /// extracted. Curation that removes lines keeps the id, so that it can be traced.
    pub id: String,
    /// Where the text was: a path below the input folder, an address, or `file:line`.
    pub source: String,
    /// The title, where the page had one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// The text, in lines ended by `\n`.
    pub text: String,
}

impl Document {
    /// A document whose id follows from its source and text.
    #[must_use]
    pub fn new(source: impl Into<String>, title: Option<String>, text: impl Into<String>) -> Self {
        let (source, text) = (source.into(), text.into());
        Self { id: document_id(&source, &text), source, title, text }
    }
}

fn document_id(source: &str, text: &str) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(source.as_bytes()).update(&[0]).update(text.as_bytes());
    hasher.finalize().to_hex()[..16].to_string()
}

/// Reads a `.jsonl`, `.jsonl.gz` or `.jsonl.zst` file, one document at a time.
///
/// Files by others are read too: the text comes from the field of the given name, the source from `source`
/// or `url` (else `file:line`), the title from `title`; a missing `id` is computed. A line that is too long,
/// no JSON, or without text is skipped and counted in [`DocumentReader::quarantine`], and so is a file that
/// breaks off. Only a file that the operating system refuses to read ends the iteration with an error.
pub struct DocumentReader {
    path: PathBuf,
    text_field: String,
    input: Box<dyn BufRead + Send>,
    line: u64,
    offset: u64,
    documents: u64,
    quarantine: Quarantine,
    ended: bool,
}

impl DocumentReader {
    /// Opens a file whose texts are in the field `text`.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be opened.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        Self::open_field(path, "text")
    }

    /// Opens a file whose texts are in the field `text_field`.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be opened.
    pub fn open_field(path: impl AsRef<Path>, text_field: &str) -> Result<Self, Error> {
        let path = path.as_ref().to_owned();
        Ok(Self {
            input: open_decompressed(&path)?,
            path,
            text_field: text_field.to_owned(),
            line: 0,
            offset: 0,
            documents: 0,
            quarantine: Quarantine::default(),
            ended: false,
        })
    }

    /// The records that were skipped so far.
    #[must_use]
    pub fn quarantine(&self) -> &Quarantine {
        &self.quarantine
    }

    /// The documents that were given so far.
    #[must_use]
    pub fn documents(&self) -> u64 {
        self.documents
    }

    /// The next line that is not blank, without its end; `None` at the end of the file.
    fn next_line(&mut self) -> Result<Option<(u64, Line)>, Error> {
        loop {
            let at = self.offset;
            let (line, consumed) = read_line(&mut self.input).map_err(Error::io("read", &self.path))?;
            if consumed == 0 {
                return Ok(None);
            }
            self.offset += consumed;
            self.line += 1;
            match line {
                Line::Whole(bytes) if bytes.trim_ascii().is_empty() => {}
                line => return Ok(Some((at, line))),
            }
        }
    }
}

impl Iterator for DocumentReader {
    type Item = Result<Document, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.ended {
            let (at, line) = match self.next_line() {
                Ok(Some(line)) => line,
                Ok(None) => break,
                Err(Error::Io { source, .. }) if is_damage(&source) => {
                    // The bytes after it cannot be found; what was read stays.
                    let reason = format!("the compressed data breaks off: {source}");
                    self.quarantine.add_truncated(&self.path, self.line + 1, self.offset, reason);
                    break;
                }
                Err(error) => {
                    self.ended = true;
                    return Some(Err(error));
                }
            };
            let parsed = match line {
                Line::Whole(bytes) => parse(&bytes, &self.text_field, &self.path, self.line),
                Line::TooLong => Err(format!("the line is longer than {} MiB", MAX_LINE_BYTES >> 20)),
            };
            match parsed {
                Ok(document) => {
                    self.documents += 1;
                    return Some(Ok(document));
                }
                Err(reason) => self.quarantine.add(&self.path, self.line, at, reason),
            }
        }
        self.ended = true;
        None
    }
}

/// Writes documents as JSON lines; the file appears only by [`DocumentWriter::finish`].
///
/// The name decides: `.jsonl.zst` is compressed by zstd, `.jsonl.gz` by gzip, anything else not at all.
/// The same documents give the same bytes.
pub struct DocumentWriter {
    path: PathBuf,
    output: Compressor,
}

enum Compressor {
    Plain(FileWriter),
    Gzip(flate2::write::GzEncoder<FileWriter>),
    Zstd(zstd::Encoder<'static, FileWriter>),
}

impl DocumentWriter {
    /// Starts a file that will be called `path`.
    ///
    /// # Errors
    /// [`Error::Write`] if it cannot be made.
    pub fn create(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref().to_owned();
        let file = FileWriter::create(&path)?;
        let output = match Compression::of(&path) {
            Compression::None => Compressor::Plain(file),
            Compression::Gzip => {
                Compressor::Gzip(flate2::write::GzEncoder::new(file, flate2::Compression::new(6)))
            }
            Compression::Zstd => {
                let mut encoder = zstd::Encoder::new(file, ZSTD_LEVEL).map_err(Error::write(&path))?;
                encoder.include_checksum(true).map_err(Error::write(&path))?;
                Compressor::Zstd(encoder)
            }
        };
        Ok(Self { path, output })
    }

    /// Adds one record: a [`Document`], or anything else that is a line of JSON.
    ///
    /// # Errors
    /// [`Error::Write`] if the disk is full or gone.
    pub fn write(&mut self, record: &impl Serialize) -> Result<(), Error> {
        let mut line = serde_json::to_vec(record).expect("a record is plain data");
        line.push(b'\n');
        let written = match &mut self.output {
            Compressor::Plain(file) => file.write_all(&line),
            Compressor::Gzip(encoder) => encoder.write_all(&line),
            Compressor::Zstd(encoder) => encoder.write_all(&line),
        };
        written.map_err(Error::write(&self.path))
    }

    /// Ends the file and gives it its name.
    ///
    /// # Errors
    /// [`Error::Write`]; there is no such file then, or the one that was there before.
    pub fn finish(self) -> Result<(), Error> {
        let file = match self.output {
            Compressor::Plain(file) => Ok(file),
            Compressor::Gzip(encoder) => encoder.finish(),
            Compressor::Zstd(encoder) => encoder.finish(),
        };
        Ok(file.map_err(Error::write(&self.path))?.commit()?)
    }
}

/// How a file is compressed, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Compression {
    fn of(path: &Path) -> Self {
        match path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase).as_deref() {
            Some("gz") => Self::Gzip,
            Some("zst") => Self::Zstd,
            _ => Self::None,
        }
    }
}

fn open_decompressed(path: &Path) -> Result<Box<dyn BufRead + Send>, Error> {
    let file = File::open(path).map_err(Error::io("read", path))?;
    let raw: Box<dyn Read + Send> = match Compression::of(path) {
        Compression::None => Box::new(file),
        Compression::Gzip => Box::new(flate2::read::MultiGzDecoder::new(BufReader::new(file))),
        Compression::Zstd => Box::new(zstd::Decoder::new(file).map_err(Error::io("read", path))?),
    };
    Ok(Box::new(BufReader::with_capacity(1 << 18, raw)))
}

/// Whether a read failed because of what the file holds, not because the disk failed. Decompressors report
/// damage under these kinds; zstd gives `Other` and no number of the operating system.
fn is_damage(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{InvalidData, InvalidInput, Other, UnexpectedEof};
    error.raw_os_error().is_none()
        && matches!(error.kind(), InvalidData | InvalidInput | Other | UnexpectedEof)
}

enum Line {
    Whole(Vec<u8>),
    TooLong,
}

/// One line without its end, and the bytes consumed. A line beyond the limit is skipped, never held.
fn read_line(input: &mut dyn BufRead) -> std::io::Result<(Line, u64)> {
    let mut bytes = Vec::new();
    let (mut consumed, mut too_long) = (0, false);
    loop {
        let buffer = input.fill_buf()?;
        let end = buffer.iter().position(|&b| b == b'\n');
        let taken = end.map_or(buffer.len(), |i| i + 1);
        too_long |= bytes.len() + taken > MAX_LINE_BYTES + 1;
        if too_long {
            bytes = Vec::new();
        } else {
            bytes.extend_from_slice(&buffer[..end.unwrap_or(taken)]);
        }
        consumed += taken as u64;
        input.consume(taken);
        if end.is_some() || taken == 0 {
            return Ok((if too_long { Line::TooLong } else { Line::Whole(bytes) }, consumed));
        }
    }
}

fn parse(line: &[u8], text_field: &str, path: &Path, line_number: u64) -> Result<Document, String> {
    let mut record: serde_json::Map<String, Value> =
        serde_json::from_slice(line).map_err(|e| format!("no JSON object: {e}"))?;
    let text = match record.remove(text_field) {
        Some(Value::String(text)) => text,
        Some(_) => return Err(format!("the field `{text_field}` is no string")),
        None => return Err(format!("no field `{text_field}`")),
    };
    let mut string = |name| match record.remove(name) {
        Some(Value::String(value)) => Some(value),
        _ => None,
    };
    let file_name = path.file_name().unwrap_or_default().to_string_lossy();
    let source =
        string("source").or_else(|| string("url")).unwrap_or_else(|| format!("{file_name}:{line_number}"));
    let title = string("title");
    let is_ours = |id: &String| id.len() == 16 && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let id = string("id").filter(is_ours).unwrap_or_else(|| document_id(&source, &text));
    Ok(Document { id, source, title, text })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn documents(n: usize) -> Vec<Document> {
        (0..n).map(|i| Document::new(format!("page/{i}"), None, format!("text {i} \u{1f332}\n"))).collect()
    }

    fn write(path: &Path, documents: &[Document]) {
        let mut writer = DocumentWriter::create(path).unwrap();
        documents.iter().for_each(|d| writer.write(d).unwrap());
        writer.finish().unwrap();
    }

    #[test]
    fn every_compression_returns_what_was_written() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst"] {
            let path = folder.path().join(name);
            write(&path, &documents(300));
            let mut reader = DocumentReader::open(&path).unwrap();
            let read: Vec<_> = reader.by_ref().collect::<Result<_, _>>().unwrap();
            assert_eq!(read, documents(300));
            assert_eq!(reader.quarantine().records, 0);
        }
    }

    #[test]
    fn the_id_is_blake3_of_source_and_text() {
        let expected = &blake3::hash(b"a\0b").to_hex()[..16];
        assert_eq!(Document::new("a", None, "b").id, expected);
    }

    #[test]
    fn bad_lines_are_counted_with_their_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jsonl");
        let deep = format!("{{\"text\":{}1{}}}", "[".repeat(200), "]".repeat(200));
        let lines = [
            "{\"text\":\"good\"}",
            "",
            "{\"text\":",
            "[1]",
            "{\"text\":7}",
            &deep,
            "{\"body\":\"x\"}",
            "\u{0}",
        ];
        std::fs::write(&path, lines.join("\n")).unwrap();
        let mut reader = DocumentReader::open(&path).unwrap();
        assert_eq!(reader.by_ref().filter(Result::is_ok).count(), 1);
        let quarantine = reader.quarantine();
        assert_eq!(quarantine.records, 6);
        assert_eq!((quarantine.first[0].line, quarantine.first[0].byte_offset), (3, 17));
        let mut reader = DocumentReader::open_field(&path, "body").unwrap();
        assert_eq!(reader.next().unwrap().unwrap().source, "a.jsonl:7");
    }

    #[test]
    fn a_line_over_the_limit_is_skipped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jsonl.zst");
        let mut writer = DocumentWriter::create(&path).unwrap();
        writer.write(&Document::new("long", None, "x".repeat(MAX_LINE_BYTES))).unwrap();
        writer.write(&Document::new("short", None, "x")).unwrap();
        writer.finish().unwrap();
        let mut reader = DocumentReader::open(&path).unwrap();
        assert_eq!(reader.next().unwrap().unwrap().source, "short");
        assert!(reader.next().is_none());
        assert!(reader.quarantine().first[0].reason.contains("64 MiB"));
    }

    #[test]
    fn a_file_that_breaks_off_or_is_flipped_never_panics_and_is_reported() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a.jsonl.gz", "a.jsonl.zst"] {
            let path = folder.path().join(name);
            write(&path, &documents(2000));
            let whole = std::fs::read(&path).unwrap();
            for cut in [1, 10, whole.len() / 2, whole.len() - 1] {
                std::fs::write(&path, &whole[..cut]).unwrap();
                let mut reader = DocumentReader::open(&path).unwrap();
                assert!(reader.by_ref().all(|d| d.is_ok()));
                assert_eq!(reader.quarantine().truncated_files, 1, "{name} cut at {cut}");
            }
            let mut flipped = whole.clone();
            flipped[whole.len() / 2] ^= 0x10;
            std::fs::write(&path, &flipped).unwrap();
            let mut reader = DocumentReader::open(&path).unwrap();
            assert!(reader.by_ref().all(|d| d.is_ok()));
            assert!(reader.quarantine().records > 0, "{name}");
        }
    }
}
