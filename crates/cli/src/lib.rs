//! What the `elmwood` command is made of, as a library so that tests can reach every part.
//!
//! The command line ([`args`], one file a verb in [`commands`]) reads a [`recipe`], runs its [`stages`] with
//! [`progress`] on stderr, and writes a [`report`]. An [`error`] says what, where, why and what to do;
//! an [`interrupt`] leaves a state that can be resumed; [`doctor`] looks at the machine.

pub mod args;
pub mod commands;
pub mod session;

pub mod pipeline;
pub mod recipe;
pub mod stages;

pub mod doctor;
pub mod error;
pub mod interrupt;
pub mod profile;
pub mod progress;
pub mod report;
