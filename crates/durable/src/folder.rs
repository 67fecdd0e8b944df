//! Several files that belong together: written aside, sealed by a manifest, renamed as one.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::file::{parent_of, sync_folder, write_file};

/// The file that says what a folder holds; its presence is what makes the folder complete.
pub const MANIFEST: &str = "manifest.json";

/// Size and hash of one file of a sealed folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Name within the folder.
    pub name: String,
    /// Length in bytes.
    pub bytes: u64,
    /// BLAKE3 of the content, in hexadecimal.
    pub blake3: String,
}

/// What a sealed folder holds, in the order of the names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// One entry per file, the manifest itself excepted.
    pub files: Vec<FileEntry>,
}

/// A folder that appears under its name only by [`FolderWriter::commit`].
///
/// Files are written into [`FolderWriter::path`] by any means. Dropped without a commit, nothing stays.
#[derive(Debug)]
pub struct FolderWriter {
    target: PathBuf,
    temporary: PathBuf,
}

impl FolderWriter {
    /// Starts an empty folder beside `target`; leftovers of a killed predecessor are removed.
    ///
    /// # Errors
    /// [`Error::Io`] if the folder cannot be made.
    pub fn create(target: impl AsRef<Path>) -> Result<Self, Error> {
        let target = target.as_ref().to_owned();
        let mut name = std::ffi::OsString::from(".");
        name.push(target.file_name().unwrap_or_default());
        name.push(".tmp");
        let temporary = parent_of(&target).join(name);
        if temporary.exists() {
            fs::remove_dir_all(&temporary).map_err(Error::io("remove", &temporary))?;
        }
        fs::create_dir_all(&temporary).map_err(Error::io("make the folder", &temporary))?;
        Ok(Self { target, temporary })
    }

    /// Where to write the files meanwhile.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.temporary
    }

    /// Flushes every file, writes the manifest last, and gives the folder its name. A folder that had the
    /// name before is replaced.
    ///
    /// # Errors
    /// [`Error::Io`]; a former folder of that name is untouched then, but for the moment between its
    /// removal and the rename.
    pub fn commit(self) -> Result<Manifest, Error> {
        let mut files = Vec::new();
        let listing = fs::read_dir(&self.temporary).map_err(Error::io("list", &self.temporary))?;
        for entry in listing {
            let path = entry.map_err(Error::io("list", &self.temporary))?.path();
            File::open(&path).and_then(|file| file.sync_all()).map_err(Error::io("flush", &path))?;
            files.push(describe(&path)?);
        }
        files.sort_by(|a, b| a.name.cmp(&b.name));
        let manifest = Manifest { files };
        let json = serde_json::to_vec_pretty(&manifest).expect("a manifest is plain data");
        write_file(self.temporary.join(MANIFEST), &json)?;
        if self.target.exists() {
            fs::remove_dir_all(&self.target).map_err(Error::io("replace", &self.target))?;
        }
        fs::rename(&self.temporary, &self.target).map_err(Error::io("rename into", &self.target))?;
        sync_folder(parent_of(&self.target))?;
        Ok(manifest)
    }
}

impl Drop for FolderWriter {
    fn drop(&mut self) {
        // After a commit the temporary name is gone and this does nothing.
        let _ = fs::remove_dir_all(&self.temporary);
    }
}

/// Reads the manifest of `folder` and compares every file with it, content included.
///
/// # Errors
/// [`Error::Incomplete`] without a readable manifest; [`Error::Damaged`] where a file is missing or differs.
pub fn verify_folder(folder: impl AsRef<Path>) -> Result<Manifest, Error> {
    let folder = folder.as_ref();
    let incomplete = |reason: String| Error::Incomplete { path: folder.to_owned(), reason };
    let json = fs::read(folder.join(MANIFEST)).map_err(|e| incomplete(format!("no `{MANIFEST}` ({e})")))?;
    let manifest: Manifest =
        serde_json::from_slice(&json).map_err(|e| incomplete(format!("`{MANIFEST}` is unreadable: {e}")))?;
    for expected in &manifest.files {
        let path = folder.join(&expected.name);
        let damaged = |reason: String| Error::Damaged { path: path.clone(), reason };
        let metadata = fs::metadata(&path).map_err(|e| damaged(e.to_string()))?;
        if metadata.len() != expected.bytes {
            return Err(damaged(format!("{} bytes instead of {}", metadata.len(), expected.bytes)));
        }
        if describe(&path)?.blake3 != expected.blake3 {
            return Err(damaged("its BLAKE3 is not the one in the manifest".into()));
        }
    }
    Ok(manifest)
}

fn describe(path: &Path) -> Result<FileEntry, Error> {
    let mut file = File::open(path).map_err(Error::io("read", path))?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    let mut bytes = 0;
    loop {
        let n = file.read(&mut buffer).map_err(Error::io("read", path))?;
        if n == 0 {
            break;
        }
        hasher.update(&buffer[..n]);
        bytes += n as u64;
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(FileEntry { name, bytes, blake3: hasher.finalize().to_hex().to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(parent: &Path) -> PathBuf {
        let target = parent.join("step-10");
        let folder = FolderWriter::create(&target).unwrap();
        fs::write(folder.path().join("a.bin"), b"aaaa").unwrap();
        fs::write(folder.path().join("b.bin"), b"bb").unwrap();
        folder.commit().unwrap();
        target
    }

    #[test]
    fn a_committed_folder_verifies_and_an_abandoned_one_is_gone() {
        let parent = tempfile::tempdir().unwrap();
        let target = sealed(parent.path());
        assert_eq!(verify_folder(&target).unwrap().files.len(), 2);
        let abandoned = FolderWriter::create(parent.path().join("step-20")).unwrap();
        fs::write(abandoned.path().join("a.bin"), b"x").unwrap();
        drop(abandoned);
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1);
    }

    #[test]
    fn every_kind_of_damage_is_seen() {
        let parent = tempfile::tempdir().unwrap();
        type Damage = fn(&Path);
        let damages: [(&str, Damage); 4] = [
            ("flipped", |f| fs::write(f.join("a.bin"), b"aaab").unwrap()),
            ("truncated", |f| fs::write(f.join("a.bin"), b"aaa").unwrap()),
            ("missing", |f| fs::remove_file(f.join("b.bin")).unwrap()),
            ("no manifest", |f| fs::remove_file(f.join(MANIFEST)).unwrap()),
        ];
        for (name, damage) in damages {
            let target = sealed(parent.path());
            damage(&target);
            assert!(verify_folder(&target).is_err(), "{name} went unnoticed");
        }
    }
}
