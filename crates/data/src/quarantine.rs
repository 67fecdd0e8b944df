//! Records that could not be read: counted, with the place of the first ones, never a crash.

use std::path::Path;

use serde::{Deserialize, Serialize};

/// The share of bad records above which an input is suspect and a command should say so.
pub const MAX_BAD_SHARE: f64 = 0.01;

/// How many bad records keep their place and reason; the others are only counted.
const DETAILED: usize = 20;

/// One record that could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadRecord {
    /// The file.
    pub file: String,
    /// Line in the file, from 1; for WARC and HTML the record, from 1.
    pub line: u64,
    /// Where it starts, in bytes of the decompressed file.
    pub byte_offset: u64,
    /// Why it could not be read.
    pub reason: String,
}

/// The records of an input that could not be read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantine {
    /// How many there are. What is lost behind the break of a truncated file counts as one.
    pub records: u64,
    /// Files that break off, so that nobody knows what they held.
    pub truncated_files: u64,
    /// The first of them.
    pub first: Vec<BadRecord>,
}

impl Quarantine {
    /// Whether more than [`MAX_BAD_SHARE`] of `read` records were bad, or a file was truncated.
    #[must_use]
    pub fn is_suspect(&self, read: u64) -> bool {
        self.truncated_files > 0 || self.records as f64 > MAX_BAD_SHARE * read as f64
    }

    pub(crate) fn add(&mut self, file: &Path, line: u64, byte_offset: u64, reason: String) {
        self.records += 1;
        if self.first.len() < DETAILED {
            self.first.push(BadRecord { file: file.display().to_string(), line, byte_offset, reason });
        }
    }

    pub(crate) fn add_truncated(&mut self, file: &Path, line: u64, byte_offset: u64, reason: String) {
        self.truncated_files += 1;
        self.add(file, line, byte_offset, reason);
    }

    /// Adds those of another input.
    pub fn merge(&mut self, other: &Self) {
        self.records += other.records;
        self.truncated_files += other.truncated_files;
        let room = DETAILED.saturating_sub(self.first.len());
        self.first.extend(other.first.iter().take(room).cloned());
    }
}
