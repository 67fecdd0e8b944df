//! Ctrl-C and SIGTERM: the first asks to stop at the next safe point, the second ends at once.
//!
//! Long work calls [`check`] between its steps (a page, a training step) and passes the error up. Whatever
//! was finished is on the disk by then, so the same command goes on from there.

use std::sync::atomic::{AtomicBool, Ordering};

static REQUESTED: AtomicBool = AtomicBool::new(false);
/// Whether one answer of a conversation is being written: Ctrl-C stops that alone.
static ANSWERING: AtomicBool = AtomicBool::new(false);

/// The work was asked to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;

/// Starts listening for Ctrl-C, SIGTERM and a closed terminal. Called once, by `main`.
///
/// # Errors
/// If the operating system does not let the process listen.
pub fn install() -> anyhow::Result<()> {
    ctrlc::set_handler(|| {
        if REQUESTED.swap(true, Ordering::SeqCst) {
            std::process::exit(crate::error::Exit::Interrupted as i32);
        }
        if !ANSWERING.load(Ordering::SeqCst) {
            eprintln!("\nstopping at the next safe point; Ctrl-C again ends at once");
        }
    })?;
    Ok(())
}

/// Whether the work should stop. Cheap enough for every step of a loop.
#[must_use]
pub fn requested() -> bool {
    REQUESTED.load(Ordering::Relaxed)
}

/// Does `work`, of which Ctrl-C stops no more than this; gives back whether it did.
pub fn stop_only<R>(work: impl FnOnce() -> R) -> (R, bool) {
    ANSWERING.store(true, Ordering::SeqCst);
    let result = work();
    ANSWERING.store(false, Ordering::SeqCst);
    (result, REQUESTED.swap(false, Ordering::SeqCst))
}

/// [`requested`] as a result, for `?`.
///
/// # Errors
/// [`Interrupted`] from the first Ctrl-C on.
pub fn check() -> Result<(), Interrupted> {
    if requested() { Err(Interrupted) } else { Ok(()) }
}
