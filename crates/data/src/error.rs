//! What can go wrong between a page and a row of tokens, always with where and what to do.

use std::path::{Path, PathBuf};

/// A failure that stops a command. Single bad records never do: they are counted, see
/// [`Quarantine`](crate::Quarantine).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused to read something.
    #[error("cannot {action} `{}`: {source}", path.display())]
    Io {
        /// What was tried, as a verb: "read", "list".
        action: &'static str,
        /// Where it was tried.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A file or folder could not be written whole.
    #[error(transparent)]
    Write(#[from] elmwood_durable::Error),
    /// The input is of no kind that can be read.
    #[error("cannot tell what `{}` holds: {why}; give a folder of .html or .txt files, or a .txt, .md, \
             .jsonl, .jsonl.gz, .jsonl.zst, .warc or .warc.gz file", path.display())]
    UnknownKind {
        /// The input.
        path: PathBuf,
        /// What was seen instead.
        why: String,
    },
    /// The input has no record at all.
    #[error("`{}` holds no {what}; name another folder or file", path.display())]
    Empty {
        /// The input.
        path: PathBuf,
        /// What was looked for: "HTML page", "document".
        what: &'static str,
    },
    /// Nothing came out of a step that read something.
    #[error("no {unit} left after {step}: {read} read, {dropped}; {remedy}")]
    NothingLeft {
        /// What is counted, in the singular: "page", "document".
        unit: &'static str,
        /// "extraction" or "curation".
        step: &'static str,
        /// How many were read.
        read: u64,
        /// How many were dropped by which reason, largest first, as text.
        dropped: String,
        /// What to do about the largest reason.
        remedy: &'static str,
    },
    /// A file differed between two passes over it.
    #[error("`{}` changed while it was read: {before} documents, then {after}; run the command again", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
        /// Documents in the first pass.
        before: u64,
        /// Documents in a later pass.
        after: u64,
    },
    /// A setting outside its range.
    #[error("`{name}` is {got}, but must be {expected}")]
    Setting {
        /// The setting's name.
        name: &'static str,
        /// Its value, as text.
        got: String,
        /// What would do.
        expected: &'static str,
    },
    /// The tokenizer gave an id that its vocabulary lacks.
    #[error(
        "token {id} of document {document} is outside the vocabulary of {vocab_size}; \
             pack with the tokenizer that `vocab_size` belongs to"
    )]
    TokenOutside {
        /// The token id.
        id: u32,
        /// The document's id.
        document: String,
        /// The size of the vocabulary.
        vocab_size: u32,
    },
    /// A file of packed tokens that is not one, or no longer whole.
    #[error("`{}` is no file of packed tokens: {what}; make it again with `elmwood data pack`", path.display())]
    Packed {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where in the file.
        what: String,
    },
}

impl Error {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }

    /// A failure to write through a writer that knows no path.
    pub(crate) fn write(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Write(elmwood_durable::Error::Io { action: "write", path, source })
    }
}
