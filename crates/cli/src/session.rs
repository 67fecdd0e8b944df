//! What every command shares: how to speak to the user, as the global options ask.

use std::io::{self, IsTerminal, Write};

use serde_json::Value;

use crate::args::{Color, Global};
use crate::progress::Progress;

/// The global options, decided once against the terminal and the environment.
#[derive(Debug, Clone, Copy, Default)]
pub struct Session {
    /// One JSON object on stdout in place of text for people.
    pub json: bool,
    /// Nothing on stderr but errors.
    pub quiet: bool,
    /// How much more to say: 0, 1, 2.
    pub verbose: u8,
    /// Whether stderr gets colour.
    pub color: bool,
}

impl Session {
    /// Resolves the options. `NO_COLOR` counts unless `--color` says otherwise.
    #[must_use]
    pub fn new(global: &Global) -> Self {
        let color = match global.color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => {
                let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
                !refused && io::stderr().is_terminal()
            }
        };
        Self { json: global.json, quiet: global.quiet, verbose: global.verbose, color }
    }

    /// Where stages show how far they are: stderr, as fits what it is connected to.
    #[must_use]
    pub fn progress(&self) -> Progress {
        if self.quiet { Progress::silent() } else { Progress::stderr() }
    }

    /// Puts a command's result on stdout: the JSON with `--json`, the text otherwise.
    ///
    /// # Errors
    /// If stdout cannot be written to.
    pub fn print(&self, text: &str, json: &Value) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if self.json { writeln!(out, "{json}") } else { writeln!(out, "{}", text.trim_end_matches('\n')) }
    }

    /// Says something on stderr that is neither a result nor an error.
    pub fn note(&self, text: &str) {
        if !self.quiet {
            // A note that cannot be shown is not worth failing for.
            let _ = writeln!(io::stderr().lock(), "{text}");
        }
    }
}
