//! How a command ends: its exit code, and what it prints when it failed.
//!
//! A printed error has up to five parts, of which only the first is always there:
//!
//! ```text
//! error: unknown key `vocab_sise` (novels.toml:7:1)      what, and where
//!     |
//!   7 | vocab_sise = 4096                                the line it is about
//!     | ^^^^^^^^^^
//!   because: ...                                         the chain of causes
//! help: did you mean `vocab_size`?                       what to do
//! ```
//!
//! Everything travels as [`anyhow::Error`]. A [`Fault`] put anywhere into its chain decides the exit code and
//! adds the help; without one, the code follows from what is found there (an I/O error, a bad recipe).

use std::fmt;
use std::io::Write;

use serde_json::{Value, json};

use crate::{interrupt, recipe};

/// The ways a command can end. The number is the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Everything was done.
    Ok = 0,
    /// Something failed that fits nowhere below.
    Failure = 1,
    /// The command line itself is wrong.
    Usage = 2,
    /// A file that the user gave is wrong: a recipe, a corpus, a checkpoint.
    BadInput = 3,
    /// The operating system refused: no space, no permission, no such file.
    Io = 4,
    /// Some of the work was done, some could not be.
    Partial = 5,
    /// Stopped by Ctrl-C or SIGTERM; the same command goes on where it was.
    Interrupted = 130,
}

impl Exit {
    /// The name used in JSON: stable, for programs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failure => "failure",
            Self::Usage => "usage",
            Self::BadInput => "bad-input",
            Self::Io => "io",
            Self::Partial => "partial",
            Self::Interrupted => "interrupted",
        }
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// An error that knows its exit code, and perhaps where it lies and what to do about it.
///
/// ```
/// use elmwood_cli::error::{Exit, Fault};
/// let fault = Fault::new(Exit::BadInput, "no page was left after curation")
///     .at("runs/novels/curate")
///     .help("lower `curate.min_words` in the recipe");
/// assert_eq!(fault.to_string(), "no page was left after curation (runs/novels/curate)");
/// ```
#[derive(Debug, Clone)]
pub struct Fault {
    exit: Exit,
    what: String,
    place: Option<String>,
    help: Option<String>,
}

impl Fault {
    /// States what went wrong: lower case, no final period.
    pub fn new(exit: Exit, what: impl Into<String>) -> Self {
        Self { exit, what: what.into(), place: None, help: None }
    }

    /// Adds where: a file, a line, a field, a step.
    #[must_use]
    pub fn at(mut self, place: impl fmt::Display) -> Self {
        self.place = Some(place.to_string());
        self
    }

    /// Adds what to do.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.what)?;
        self.place.as_ref().map_or(Ok(()), |place| write!(f, " ({place})"))
    }
}

impl std::error::Error for Fault {}

/// Everything there is to say about an error, ready to print.
#[derive(Debug)]
pub struct Account {
    /// The code to end with.
    pub exit: Exit,
    what: String,
    place: Value,
    snippet: Option<String>,
    causes: Vec<String>,
    help: Option<String>,
}

impl Account {
    /// Takes an error apart.
    #[must_use]
    pub fn of(error: &anyhow::Error) -> Self {
        let mut messages: Vec<String> = Vec::new();
        for cause in error.chain().map(ToString::to_string) {
            // Many errors repeat their source in their own text; saying it once is enough.
            if !messages.last().is_some_and(|above| above.contains(&cause)) {
                messages.push(cause);
            }
        }
        let what = messages.remove(0);
        let mut account = Self {
            exit: exit_of(error),
            what,
            place: Value::Null,
            snippet: None,
            causes: messages,
            help: None,
        };
        if let Some(fault) = error.downcast_ref::<Fault>() {
            account.place = fault.place.clone().map_or(Value::Null, Value::from);
            account.help.clone_from(&fault.help);
        } else if let Some(error) = error.downcast_ref::<recipe::Error>() {
            account.place = json!({ "file": error.file, "line": error.line, "column": error.column });
            account.snippet.clone_from(&error.snippet);
            account.help.clone_from(&error.help);
        } else if account.exit == Exit::Interrupted {
            account.help = Some("run the same command again to go on where it stopped".into());
        }
        if account.help.is_none() {
            account.help = help_of(error, &account);
        }
        account
    }

    /// The account for people, over several lines, the last one ended.
    #[must_use]
    pub fn to_text(&self, color: bool) -> String {
        let (red, cyan, bold, plain) =
            if color { ("\x1b[1;31m", "\x1b[1;36m", "\x1b[1m", "\x1b[0m") } else { ("", "", "", "") };
        let mut text = format!("{red}error{plain}{bold}: {}{plain}\n", self.what);
        if let Some(snippet) = &self.snippet {
            text += snippet;
            text.push('\n');
        }
        for cause in &self.causes {
            text += &format!("  because: {cause}\n");
        }
        if let Some(help) = &self.help {
            text += &format!("{cyan}help{plain}: {help}\n");
        }
        text
    }

    /// The account for programs.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({ "error": {
            "kind": self.exit.name(),
            "code": self.exit as u8,
            "what": self.what,
            "where": self.place,
            "causes": self.causes,
            "help": self.help,
        }})
    }
}

/// Prints an error to stderr, with `json` also as one object on stdout, and says how to exit.
///
/// A closed pipe on stdout (`elmwood doctor | head -1`) is the reader's decision, not an error.
#[must_use]
pub fn report(error: &anyhow::Error, json: bool, color: bool) -> Exit {
    if is_closed_pipe(error) {
        return Exit::Ok;
    }
    let account = Account::of(error);
    // Nothing can be done where not even stderr can be written to.
    let _ = write!(std::io::stderr().lock(), "{}", account.to_text(color));
    if json {
        let _ = writeln!(std::io::stdout().lock(), "{}", account.to_json());
    }
    account.exit
}

fn exit_of(error: &anyhow::Error) -> Exit {
    if let Some(fault) = error.downcast_ref::<Fault>() {
        return fault.exit;
    }
    for cause in error.chain() {
        if let Some(fault) = cause.downcast_ref::<Fault>() {
            return fault.exit;
        }
        if cause.is::<interrupt::Interrupted>() {
            return Exit::Interrupted;
        }
        if let Some(error) = cause.downcast_ref::<recipe::Error>() {
            return error.exit;
        }
        if let Some(error) = cause.downcast_ref::<elmwood_durable::Error>() {
            return exit_of_durable(error);
        }
        if let Some(error) = cause.downcast_ref::<elmwood_data::Error>() {
            return exit_of_data(error);
        }
        if let Some(error) = cause.downcast_ref::<elmwood_model::Error>() {
            return exit_of_model(error);
        }
        if let Some(error) = cause.downcast_ref::<elmwood_train::Error>() {
            return exit_of_train(error);
        }
        if let Some(error) = cause.downcast_ref::<elmwood_infer::Error>() {
            let of_options = matches!(error, elmwood_infer::Error::Setting { .. });
            return if of_options { Exit::Usage } else { Exit::BadInput };
        }
        if cause.is::<elmwood_engine::IsaError>() {
            return Exit::Usage;
        }
        if let Some(error) = cause.downcast_ref::<std::io::Error>() {
            return exit_of_io(error);
        }
    }
    Exit::Failure
}

/// Content that is not what was expected is the file's fault, everything else that of the system.
fn exit_of_io(error: &std::io::Error) -> Exit {
    use std::io::ErrorKind::{InvalidData, Other, UnexpectedEof};
    let of_content = matches!(error.kind(), InvalidData | UnexpectedEof | Other);
    if error.raw_os_error().is_none() && of_content { Exit::BadInput } else { Exit::Io }
}

fn exit_of_durable(error: &elmwood_durable::Error) -> Exit {
    let refused = matches!(error, elmwood_durable::Error::Io { .. });
    if refused { Exit::Io } else { Exit::BadInput }
}

fn exit_of_data(error: &elmwood_data::Error) -> Exit {
    use elmwood_data::Error;
    match error {
        Error::Io { source, .. } => exit_of_io(source),
        Error::Write(error) => exit_of_durable(error),
        _ => Exit::BadInput,
    }
}

fn exit_of_model(error: &elmwood_model::Error) -> Exit {
    use elmwood_model::Error;
    match error {
        Error::Io { source, .. } => exit_of_io(source),
        Error::Write(error) => exit_of_durable(error),
        Error::InFile { source, .. } => exit_of_model(source),
        _ => Exit::BadInput,
    }
}

fn exit_of_train(error: &elmwood_train::Error) -> Exit {
    use elmwood_train::Error;
    match error {
        Error::Io { source, .. } => exit_of_io(source),
        Error::Write(error) => exit_of_durable(error),
        Error::Model(error) => exit_of_model(error),
        Error::NotFinite { .. } => Exit::Failure,
        Error::Interrupted { .. } => Exit::Interrupted,
        Error::Isa(_) => Exit::Usage,
        _ => Exit::BadInput,
    }
}

/// What to do where the operating system refused, unless the account says so already.
fn help_of(error: &anyhow::Error, account: &Account) -> Option<String> {
    use std::io::ErrorKind;
    let kind = error.chain().find_map(|cause| cause.downcast_ref::<std::io::Error>())?.kind();
    let help = match kind {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
            "free some space, or raise the limit, and run the same command again: what was finished is kept"
        }
        ErrorKind::PermissionDenied => "choose a folder that you may write to, or change its permissions",
        ErrorKind::ReadOnlyFilesystem => "choose a folder on a disk that can be written",
        ErrorKind::NotADirectory | ErrorKind::AlreadyExists => {
            "a file stands where a folder is needed; choose another folder, as with --runs"
        }
        _ => return None,
    };
    // The libraries' own hints begin in the same way.
    let begin = help.split(',').next().unwrap_or_default();
    let said = account.causes.iter().chain([&account.what]).any(|text| text.contains(begin));
    (!said).then(|| help.to_owned())
}

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn the_exit_code_follows_from_what_is_in_the_chain() {
        let denied = || std::io::Error::from(std::io::ErrorKind::PermissionDenied);
        let wrapped = |exit| Err::<(), _>(denied()).context(Fault::new(exit, "x")).context("outer");
        let cases: [(anyhow::Error, Exit); 6] = [
            (anyhow::anyhow!("anything"), Exit::Failure),
            (anyhow::Error::from(denied()).context("reading"), Exit::Io),
            (wrapped(Exit::BadInput).unwrap_err(), Exit::BadInput),
            (anyhow::Error::from(Fault::new(Exit::Partial, "x")).context("outer"), Exit::Partial),
            (anyhow::Error::from(interrupt::Interrupted).context("stage train"), Exit::Interrupted),
            (anyhow::Error::from(elmwood_durable::verify_folder("/nowhere").unwrap_err()), Exit::BadInput),
        ];
        for (error, exit) in cases {
            assert_eq!(Account::of(&error).exit, exit, "{error:#}");
        }
    }

    #[test]
    fn text_and_json_say_the_same() {
        let fault =
            Fault::new(Exit::BadInput, "no page was left").at("runs/a/curate").help("lower `min_words`");
        let error = anyhow::anyhow!("all 12 were too short").context(fault);
        let account = Account::of(&error);
        assert_eq!(
            account.to_text(false),
            "error: no page was left (runs/a/curate)\n  because: all 12 were too short\nhelp: lower `min_words`\n"
        );
        let json = account.to_json();
        assert_eq!(json["error"]["code"], 3);
        assert_eq!(json["error"]["where"], "runs/a/curate");
        assert_eq!(json["error"]["causes"][0], "all 12 were too short");
    }
}
