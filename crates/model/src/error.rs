//! Everything that can go wrong here, always with the place.

use std::fmt::{self, Display};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::chat_template::ChatTemplateFault;
use crate::gguf::GgufFault;
use crate::safetensors_file::Fault;

/// What can go wrong with the files of a model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file cannot be opened or read.
    #[error("cannot read `{}`: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A file cannot be written; what was there before is untouched.
    #[error(transparent)]
    Write(#[from] elmwood_durable::Error),
    /// `config.json` is not JSON.
    #[error("the configuration is not JSON, line {line}, column {column}: {reason}")]
    ConfigJson {
        /// Line of the first offence, from 1.
        line: usize,
        /// Column of the first offence, from 1.
        column: usize,
        /// What the parser expected.
        reason: String,
    },
    /// A field of `config.json` is missing, of the wrong type or out of range.
    #[error("the configuration's field `{field}` is wrong: {reason}")]
    Config {
        /// The key in `config.json`.
        field: &'static str,
        /// What is wrong with its value.
        reason: String,
    },
    /// A safetensors file breaks the format.
    #[error("`{}` is no valid safetensors file: {}{fault} (at byte {offset})", path.display(), of_tensor(tensor))]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// The tensor concerned, where it is one.
        tensor: Option<String>,
        /// Where in the file the offence lies, in bytes from its beginning.
        offset: u64,
        /// The rule broken.
        fault: Fault,
    },
    /// A GGUF file breaks the format.
    #[error("`{}` is no valid GGUF file: {}{fault} (at byte {offset})", path.display(), of_part(part))]
    Gguf {
        /// The file.
        path: PathBuf,
        /// The key or tensor concerned, where it is one.
        part: Option<String>,
        /// Where in the file the offence lies, in bytes from its beginning.
        offset: u64,
        /// The rule broken.
        fault: GgufFault,
    },
    /// A key of a GGUF file's metadata is missing or not what it should be.
    #[error("the metadata's `{key}` {problem}")]
    GgufKey {
        /// The key.
        key: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The index of a model in several files is wrong.
    #[error("`{}` is no valid index of a sharded model: {reason}", path.display())]
    ShardIndex {
        /// The index.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The tensors of a file are not those of the configuration.
    #[error("the tensors of `{}` do not fit its configuration: {}", path.display(), first_ten(problems))]
    Tensors {
        /// The model folder.
        path: PathBuf,
        /// Every difference, in the order of the names.
        problems: Vec<TensorProblem>,
    },
    /// A tokenizer file is damaged or not usable here.
    #[error("`{}` is no usable tokenizer: {reason}", path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A tokenizer cannot be trained as asked.
    #[error("cannot train a tokenizer: {reason}")]
    TokenizerTraining {
        /// Why not.
        reason: String,
    },
    /// A tokenizer cannot be written into a GGUF file.
    #[error("the tokenizer cannot be written as GGUF: {reason}")]
    TokenizerExport {
        /// Why not.
        reason: String,
    },
    /// A file is no model of llama2.c.
    #[error("`{}` is no model of llama2.c: {reason}", path.display())]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A model cannot be brought into another form.
    #[error("`{}` cannot be converted: {reason}", path.display())]
    Conversion {
        /// The model.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// A chat template cannot be used, or not with these messages.
    #[error("the chat template cannot be used: {fault}")]
    ChatTemplate {
        /// What it failed on.
        fault: ChatTemplateFault,
    },
    /// Another error of this crate, with the file it comes from.
    #[error("`{}`: {source}", path.display())]
    InFile {
        /// The file.
        path: PathBuf,
        /// What is wrong there.
        source: Box<Error>,
    },
}

/// One difference between the tensors of a file and those of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum TensorProblem {
    /// The configuration asks for a tensor that the file does not have.
    Missing {
        /// Name of the tensor.
        name: String,
    },
    /// The file has a tensor that the configuration has no place for.
    Superfluous {
        /// Name of the tensor.
        name: String,
    },
    /// A tensor has another shape.
    Misshapen {
        /// Name of the tensor.
        name: String,
        /// Shape by the configuration.
        expected: Vec<usize>,
        /// Shape in the file.
        got: Vec<usize>,
    },
    /// A tensor has a type that no weights can be read from.
    NotFloat {
        /// Name of the tensor.
        name: String,
        /// Type in the file.
        got: &'static str,
    },
}

impl Display for TensorProblem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { name } => write!(out, "`{name}` is missing"),
            Self::Superfluous { name } => write!(out, "`{name}` is superfluous"),
            Self::Misshapen { name, expected, got } => {
                write!(out, "`{name}` is {got:?} instead of {expected:?}")
            }
            Self::NotFloat { name, got } => {
                write!(out, "`{name}` is of type {got} instead of F32, F16 or BF16")
            }
        }
    }
}

impl Error {
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }

    pub(crate) fn in_file(self, path: &Path) -> Self {
        Self::InFile { path: path.to_owned(), source: Box::new(self) }
    }
}

pub(crate) fn config_error(field: &'static str, reason: String) -> Error {
    Error::Config { field, reason }
}

/// Reads a text file of at most `max_bytes`.
pub(crate) fn read_text(path: &Path, max_bytes: u64) -> Result<String, Error> {
    let file = File::open(path).map_err(Error::io(path))?;
    let mut text = String::new();
    file.take(max_bytes + 1).read_to_string(&mut text).map_err(Error::io(path))?;
    if text.len() as u64 > max_bytes {
        let reason = format!("the file is longer than {max_bytes} bytes");
        return Err(Error::io(path)(std::io::Error::other(reason)));
    }
    Ok(text)
}

fn of_tensor(tensor: &Option<String>) -> String {
    tensor.as_ref().map(|name| format!("tensor `{name}`: ")).unwrap_or_default()
}

fn of_part(part: &Option<String>) -> String {
    part.as_ref().map(|part| format!("{part}: ")).unwrap_or_default()
}

fn first_ten(problems: &[TensorProblem]) -> String {
    let shown: Vec<String> = problems.iter().take(10).map(ToString::to_string).collect();
    let more = match problems.len().saturating_sub(10) {
        0 => String::new(),
        n => format!(", and {n} more"),
    };
    shown.join(", ") + &more
}
