//! The `elmwood` command: reads the command line, runs the verb, and says how it ended.

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;
use elmwood_cli::args::Cli;
use elmwood_cli::error::{self, Exit, Fault};
use elmwood_cli::session::Session;
use elmwood_cli::{commands, interrupt};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error).into(),
    };
    let session = Session::new(&cli.global);
    let result = interrupt::install().and_then(|()| commands::run(&cli.command, &session));
    let exit = result.map_or_else(|error| error::report(&error, session.json, session.color), |()| Exit::Ok);
    exit.into()
}

/// Prints help, the version, or what is wrong with the command line.
fn usage(error: &clap::Error) -> Exit {
    let wrong = error.use_stderr() && error.kind() != ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
    let _ = error.print();
    if wrong && std::env::args_os().any(|arg| arg == "--json") {
        let text = error.to_string();
        let what = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
        println!("{}", error::Account::of(&Fault::new(Exit::Usage, what).into()).to_json());
    }
    if error.use_stderr() { Exit::Usage } else { Exit::Ok }
}
