//! `elmwood completions`: what a shell needs to complete the command line.

use std::io::{self, Write};

use clap::CommandFactory;
use clap_complete::Shell;

/// Options of `completions`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  elmwood completions bash > ~/.local/share/bash-completion/completions/elmwood")]
pub struct Args {
    /// Which shell
    #[arg(value_name = "SHELL")]
    pub shell: Shell,
}

/// Writes the completions to stdout.
///
/// # Errors
/// If stdout cannot be written to.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut crate::args::Cli::command(), "elmwood", &mut script);
    Ok(io::stdout().lock().write_all(&script)?)
}
