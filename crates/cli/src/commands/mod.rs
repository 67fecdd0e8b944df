//! The verbs, one file each: its options, and what it does.

pub mod chat;
pub mod completions;
pub mod convert;
pub mod data;
pub mod doctor;
pub mod embed;
pub mod generate;
pub mod grow;
pub mod perplexity;
pub mod tokenizer;
pub mod train;

use crate::args::Command;
use crate::session::Session;

/// Does what the command line says.
///
/// # Errors
/// Whatever the verb runs into; [`crate::error::report`] turns it into words and an exit code.
pub fn run(command: &Command, session: &Session) -> anyhow::Result<()> {
    match command {
        Command::Grow(args) => grow::run(args, session),
        Command::Train(args) => train::run(args, session),
        Command::Chat(args) => chat::run(args, session),
        Command::Generate(args) => generate::run(args, session),
        Command::Convert(args) => convert::run(args, session),
        Command::Perplexity(args) => perplexity::run(args, session),
        Command::Embed(args) => embed::run(args, session),
        Command::Data(verb) => data::run(verb, session),
        Command::Tokenizer(verb) => tokenizer::run(verb, session),
        Command::Doctor(args) => doctor::run(args, session),
        Command::Completions(args) => completions::run(args),
    }
}
