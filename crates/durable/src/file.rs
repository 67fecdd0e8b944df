//! One file: written aside, flushed, renamed.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::Error;

/// Writes `bytes` to `path`, replacing what was there in one step. Missing parent folders are made.
///
/// # Errors
/// [`Error::Io`]; the former content of `path` is untouched then.
pub fn write_file(path: impl AsRef<Path>, bytes: &[u8]) -> Result<(), Error> {
    let mut writer = FileWriter::create(path.as_ref())?;
    writer.write_all(bytes).map_err(Error::io("write", path.as_ref()))?;
    writer.commit()
}

/// A buffered writer whose file appears under its name only by [`FileWriter::commit`].
///
/// Dropped without that, it leaves nothing behind.
#[derive(Debug)]
pub struct FileWriter {
    path: PathBuf,
    temporary: PathBuf,
    file: Option<BufWriter<File>>,
}

impl FileWriter {
    /// Opens a temporary sibling of `path` for writing. Missing parent folders are made.
    ///
    /// # Errors
    /// [`Error::Io`] if the folder or the temporary file cannot be made.
    pub fn create(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref().to_owned();
        let parent = parent_of(&path);
        fs::create_dir_all(parent).map_err(Error::io("make the folder", parent))?;
        let mut name = std::ffi::OsString::from(".");
        name.push(path.file_name().unwrap_or_default());
        name.push(format!(".{}.tmp", std::process::id()));
        let temporary = parent.join(name);
        let file = File::create(&temporary).map_err(Error::io("write", &path))?;
        Ok(Self { path, temporary, file: Some(BufWriter::with_capacity(1 << 20, file)) })
    }

    /// Flushes to the disk and gives the file its name.
    ///
    /// # Errors
    /// [`Error::Io`]; the former content of the path is untouched then.
    pub fn commit(mut self) -> Result<(), Error> {
        let mut buffered = self.file.take().expect("a writer is committed once");
        let flushed = buffered.flush().and_then(|()| buffered.get_ref().sync_all());
        flushed.map_err(Error::io("write", &self.path))?;
        drop(buffered);
        fs::rename(&self.temporary, &self.path).map_err(Error::io("rename into", &self.path))?;
        sync_folder(parent_of(&self.path))
    }
}

impl Write for FileWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.as_mut().expect("a writer is open until it is committed").write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.as_mut().expect("a writer is open until it is committed").flush()
    }
}

impl Drop for FileWriter {
    fn drop(&mut self) {
        // After a commit the temporary name is gone and this does nothing.
        if let Some(buffered) = self.file.take() {
            // Without flushing: what is thrown away need not reach a disk that may be full.
            drop(buffered.into_parts());
        }
        let _ = fs::remove_file(&self.temporary);
    }
}

/// The folder a path lies in; `.` for a bare name.
pub(crate) fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Makes renames and new names in `folder` outlast a power failure.
pub(crate) fn sync_folder(folder: &Path) -> Result<(), Error> {
    // Only Unix can open a folder to flush it; elsewhere the rename itself is all there is.
    if cfg!(unix) {
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(Error::io("flush", folder))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/sub/a.txt");
        write_file(&path, b"first").unwrap();
        let mut abandoned = FileWriter::create(&path).unwrap();
        abandoned.write_all(b"second, never committed").unwrap();
        drop(abandoned);
        assert_eq!(fs::read(&path).unwrap(), b"first");
        write_file(&path, b"third").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"third");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "a temporary file stayed");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_an_error_with_a_remedy() {
        // Every write to /dev/full fails as on a full disk; a temporary file cannot lie beside it, so the
        // failing write itself is wrapped.
        let mut full = BufWriter::new(File::create("/dev/full").unwrap());
        full.write_all(b"x").unwrap();
        let error = Error::io("write", Path::new("model.safetensors"))(full.flush().unwrap_err());
        let text = error.to_string();
        assert!(text.contains("model.safetensors") && text.contains("free some space"), "{text}");
    }
}
