//! `elmwood doctor`: what this machine has, and what that means for Elmwood.

use std::path::PathBuf;

use crate::doctor;
use crate::session::Session;

/// Options of `doctor`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  elmwood doctor --json")]
pub struct Args {
    /// The folder whose disk is looked at
    #[arg(long, value_name = "DIR", default_value = "runs")]
    pub runs: PathBuf,
}

/// Prints what was found.
///
/// # Errors
/// If stdout cannot be written to.
pub fn run(args: &Args, session: &Session) -> anyhow::Result<()> {
    let examination = doctor::examine(&args.runs);
    Ok(session.print(&examination.to_text(), &serde_json::to_value(&examination)?)?)
}
