//! The web pages that every Rust machine has: the documentation that rustup installed.

use std::path::PathBuf;
use std::process::Command;

/// The folder of the installed HTML documentation of Rust.
///
/// # Errors
/// A sentence that says what is missing: `rustc` itself, or the `rust-docs` component.
pub fn find() -> Result<PathBuf, String> {
    let output = Command::new("rustc")
        .args(["--print", "sysroot"])
        .output()
        .map_err(|error| format!("`rustc` cannot be run ({error})"))?;
    let sysroot = String::from_utf8(output.stdout).unwrap_or_default();
    if !output.status.success() || sysroot.trim().is_empty() {
        return Err("`rustc --print sysroot` failed".into());
    }
    let folder = PathBuf::from(sysroot.trim()).join("share/doc/rust/html");
    if folder.join("index.html").is_file() {
        Ok(folder)
    } else {
        Err(format!("`{}` has no index.html", folder.display()))
    }
}
