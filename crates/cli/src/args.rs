//! The command line, defined once: parsing, `--help` and shell completions all come from here.

use clap::{Parser, Subcommand, ValueEnum};

use crate::commands::{
    chat, completions, convert, data, doctor, embed, generate, grow, perplexity, tokenizer, train,
};

/// From web pages to a small language model of your own, in one command.
#[derive(Debug, Parser)]
#[command(name = "elmwood", version, propagate_version = true, arg_required_else_help = true)]
#[command(
    after_help = "Example:\n  elmwood grow        the built-in quickstart: a model of Rust's own documentation"
)]
pub struct Cli {
    /// What every command understands.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Print the result as one JSON object on stdout
    #[arg(long, global = true)]
    pub json: bool,
    /// Show no progress
    #[arg(long, short, global = true)]
    pub quiet: bool,
    /// Say more; twice for still more
    #[arg(long, short, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Colour in messages
    #[arg(long, global = true, value_enum, value_name = "WHEN", default_value = "auto")]
    pub color: Color,
}

/// When messages are coloured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// In a terminal, unless NO_COLOR is set
    #[default]
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a recipe: from pages to a model, with a report
    Grow(grow::Args),
    /// Train a model on what a recipe's earlier stages made
    Train(train::Args),
    /// Talk with a model
    Chat(chat::Args),
    /// Let a model write
    Generate(generate::Args),
    /// Bring a model into another form: GGUF, quantised or not
    Convert(convert::Args),
    /// Measure how well a model predicts a text
    Perplexity(perplexity::Args),
    /// Turn texts into vectors
    Embed(embed::Args),
    /// Turn pages into a corpus, step by step
    #[command(subcommand)]
    Data(data::Verb),
    /// Train and use a tokenizer
    #[command(subcommand)]
    Tokenizer(tokenizer::Verb),
    /// Look at this machine: cores, SIMD, memory, disk, GPU
    Doctor(doctor::Args),
    /// Print completions for a shell
    Completions(completions::Args),
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_help_ends_with_an_example() {
        fn look(command: &clap::Command) {
            let example = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let name = command.get_name();
            assert!(
                command.has_subcommands() && name != "elmwood" || example.starts_with("Example"),
                "{name}"
            );
            command.get_subcommands().filter(|sub| sub.get_name() != "help").for_each(look);
        }
        look(&Cli::command());
    }
}
