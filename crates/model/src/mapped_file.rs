//! A file in memory without being read: what weights are kept in.

use std::fs::File;
use std::path::Path;

use memmap2::Mmap;

use crate::Error;

/// Maps a file into memory, read-only.
///
/// The bytes are read when they are used. Whoever opens a file through this must not shorten it meanwhile:
/// the operating system would end the process at the first byte that is gone.
///
/// # Errors
/// [`Error::Io`].
pub(crate) fn map(path: &Path) -> Result<Mmap, Error> {
    let file = File::open(path).map_err(Error::io(path))?;
    #[expect(unsafe_code, reason = "mapping a file cannot be done otherwise")]
    // SAFETY: the map is read-only and private to its owner; every byte pattern is a valid u8, and callers
    // check all places against its length. That nobody shortens the file meanwhile is asked of users in the
    // documentation of what they open; Elmwood itself replaces files by rename, which leaves an open map
    // intact.
    unsafe { Mmap::map(&file) }.map_err(Error::io(path))
}
