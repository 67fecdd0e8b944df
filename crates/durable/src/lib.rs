//! Files and folders that are either whole or absent, whatever happens meanwhile.
//!
//! Everything that Elmwood makes is written beside its final name, flushed to the disk, renamed into
//! place, and the folder's entry flushed too. A process killed at any moment, or a disk that fills up,
//! leaves the old state or the new one, never a torn one.
//!
//! - [`write_file`] and [`FileWriter`] for one file;
//! - [`FolderWriter`] for several files that belong together: a manifest with the size and BLAKE3 of each
//!   is written last, and [`verify_folder`] tells whether a folder still is what was written.

mod file;
mod folder;

pub use file::{FileWriter, write_file};
pub use folder::{FileEntry, FolderWriter, MANIFEST, Manifest, verify_folder};

use std::path::{Path, PathBuf};

/// What can go wrong with a file or folder, always with its path.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused: no permission, no space, no such file.
    #[error("cannot {action} `{}`: {source}{}", path.display(), hint(source))]
    Io {
        /// What was tried, as a verb: "write", "rename", "read".
        action: &'static str,
        /// Where it was tried.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A folder has no manifest, or one that cannot be read: it was never finished.
    #[error("`{}` is not complete: {reason}", path.display())]
    Incomplete {
        /// The folder.
        path: PathBuf,
        /// What is missing or unreadable.
        reason: String,
    },
    /// A file differs from its entry in the manifest.
    #[error("`{}` is damaged: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// How it differs.
        reason: String,
    },
}

impl Error {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}

/// What to do about the failures that users meet most.
fn hint(error: &std::io::Error) -> &'static str {
    use std::io::ErrorKind;
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            "; free some space and run the same command again: what was finished is kept"
        }
        ErrorKind::PermissionDenied => "; choose a folder that you may write to, or change its permissions",
        ErrorKind::ReadOnlyFilesystem => "; choose a folder on a disk that can be written",
        _ => "",
    }
}
