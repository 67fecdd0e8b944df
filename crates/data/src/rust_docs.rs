//! The Rust documentation on this machine: some 20,000 pages of prose and code, already here.

use std::path::PathBuf;
use std::process::Command;

/// The folder of the installed Rust documentation, from `rustc --print sysroot`; `None` where there is no
/// `rustc`, or its documentation is not installed (`rustup component add rust-docs` installs it).
#[must_use]
pub fn rust_docs() -> Option<PathBuf> {
    let output = Command::new("rustc").args(["--print", "sysroot"]).output().ok()?;
    let sysroot = String::from_utf8(output.stdout).ok()?;
    let folder = PathBuf::from(sysroot.trim()).join("share/doc/rust/html");
    folder.join("std").is_dir().then_some(folder)
}
