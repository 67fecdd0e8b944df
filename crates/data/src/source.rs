//! What an input is, which files belong to it, and in which order they are read.

use std::fs;
use std::path::{Path, PathBuf};

use crate::Error;

/// The kinds of input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `.html`, `.htm` and `.xhtml` files: one document each, its main text.
    Html,
    /// `.txt` and `.md` files: one document each, as it is.
    Text,
    /// `.jsonl` files, or compressed as `.jsonl.gz` or `.jsonl.zst`: one document a line.
    Jsonl,
    /// `.warc` or `.warc.gz` files: one document for each HTML response.
    Warc,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Html, Self::Text, Self::Jsonl, Self::Warc];

    fn suffixes(self) -> &'static [&'static str] {
        match self {
            Self::Html => &[".html", ".htm", ".xhtml"],
            Self::Text => &[".txt", ".md"],
            Self::Jsonl => &[".jsonl", ".jsonl.gz", ".jsonl.zst"],
            Self::Warc => &[".warc", ".warc.gz"],
        }
    }

    fn of(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_string_lossy().to_ascii_lowercase();
        Self::ALL.into_iter().find(|kind| kind.suffixes().iter().any(|suffix| name.ends_with(suffix)))
    }

    pub(crate) fn noun(self) -> &'static str {
        match self {
            Self::Html => "HTML page",
            Self::Text => "text file",
            Self::Jsonl => "JSON lines file",
            Self::Warc => "WARC file",
        }
    }
}

/// An input: its kind and its files, sorted by path.
#[derive(Debug, Clone)]
pub struct Source {
    /// What the files are.
    pub kind: Kind,
    /// The folder or file that was named; documents of files are called by their path below it.
    pub root: PathBuf,
    /// The field of JSON lines that holds the text.
    pub text_field: String,
    pub(crate) files: Vec<SourceFile>,
}

#[derive(Debug, Clone)]
pub(crate) struct SourceFile {
    pub(crate) path: PathBuf,
    /// The path below the root, with `/` on every system.
    pub(crate) name: String,
    pub(crate) bytes: u64,
}

impl Source {
    /// Looks at `path`: a file is of the kind its name tells; a folder, searched with all folders below it,
    /// is of the kind most of its files are (of the first in the order of [`Kind`] when two are level).
    /// Symbolic links within a folder are not followed.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be listed; [`Error::UnknownKind`] if nothing in it can be read.
    pub fn detect(path: impl AsRef<Path>) -> Result<Self, Error> {
        let all = list(path.as_ref())?;
        let count = |kind| all.iter().filter(|f| Kind::of(&f.path) == Some(kind)).count();
        let best =
            Kind::ALL.into_iter().rev().max_by_key(|&kind| count(kind)).filter(|&kind| count(kind) > 0);
        let Some(kind) = best else {
            let why = match all.as_slice() {
                [] => "it is an empty folder".into(),
                [one] if one.path == path.as_ref() => "its name has another ending".into(),
                many => format!("none of its {} files has a known ending", many.len()),
            };
            return Err(Error::UnknownKind { path: path.as_ref().to_owned(), why });
        };
        Ok(Self::from_listing(path.as_ref(), kind, all))
    }

    /// Takes the files of one kind in `path`, whatever else lies there. A single file is taken as that kind
    /// whatever its name.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be listed; [`Error::Empty`] if no file is of that kind.
    pub fn of_kind(path: impl AsRef<Path>, kind: Kind) -> Result<Self, Error> {
        let source = Self::from_listing(path.as_ref(), kind, list(path.as_ref())?);
        if source.files.is_empty() {
            return Err(Error::Empty { path: source.root, what: kind.noun() });
        }
        Ok(source)
    }

    /// The same input with texts in the field `text_field` of its JSON lines; the default is `text`.
    #[must_use]
    pub fn with_text_field(mut self, text_field: impl Into<String>) -> Self {
        self.text_field = text_field.into();
        self
    }

    /// The number of files, which is that of documents for HTML and text.
    #[must_use]
    pub fn n_files(&self) -> usize {
        self.files.len()
    }

    fn from_listing(root: &Path, kind: Kind, mut files: Vec<SourceFile>) -> Self {
        files.retain(|f| f.path == root || Kind::of(&f.path) == Some(kind));
        Self { kind, root: root.to_owned(), text_field: "text".into(), files }
    }
}

/// The file `root`, or all files below the folder `root`, sorted by name.
fn list(root: &Path) -> Result<Vec<SourceFile>, Error> {
    let metadata = fs::metadata(root).map_err(Error::io("read", root))?;
    if metadata.is_file() {
        let name = root.file_name().unwrap_or_default().to_string_lossy().into_owned();
        return Ok(vec![SourceFile { path: root.to_owned(), name, bytes: metadata.len() }]);
    }
    let mut files = Vec::new();
    let mut folders = vec![(root.to_owned(), String::new())];
    while let Some((folder, prefix)) = folders.pop() {
        for entry in fs::read_dir(&folder).map_err(Error::io("list", &folder))? {
            let entry = entry.map_err(Error::io("list", &folder))?;
            let (path, name) = (entry.path(), format!("{prefix}{}", entry.file_name().to_string_lossy()));
            let file_type = entry.file_type().map_err(Error::io("read", &path))?;
            if file_type.is_dir() {
                folders.push((path, name + "/"));
            } else if file_type.is_file() && Kind::of(&path).is_some() {
                let bytes = entry.metadata().map_err(Error::io("read", &path))?.len();
                files.push(SourceFile { path, name, bytes });
            }
        }
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_is_told_by_the_files() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        assert!(Source::detect(root).unwrap_err().to_string().contains("empty folder"));
        for name in ["a/x.html", "a/b/y.HTM", "notes.txt", "crawl.warc.gz", "picture.png"] {
            fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
            fs::write(root.join(name), "x").unwrap();
        }
        let source = Source::detect(root).unwrap();
        assert_eq!(source.kind, Kind::Html);
        assert_eq!(
            source.files.iter().map(|f| f.name.as_str()).collect::<Vec<_>>(),
            ["a/b/y.HTM", "a/x.html"]
        );
        assert_eq!(Source::detect(root.join("notes.txt")).unwrap().kind, Kind::Text);
        assert_eq!(Source::of_kind(root, Kind::Warc).unwrap().n_files(), 1);
        assert!(Source::of_kind(root, Kind::Jsonl).is_err());
        assert!(Source::detect(root.join("picture.png")).is_err());
        assert!(Source::detect(root.join("absent")).is_err());
    }
}
