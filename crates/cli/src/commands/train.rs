//! `elmwood train`: the training stage of a recipe alone, with what it needs before it.

use crate::commands::grow::RecipeArgs;
use crate::pipeline::Pipeline;
use crate::session::Session;
use crate::stages::Run;

/// Options of `train`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  elmwood train my.toml --set train.lr=1e-3 --set train.steps=500")]
pub struct Args {
    /// What to train; which recipe, and how it is changed
    #[command(flatten)]
    pub recipe: RecipeArgs,
}

/// Trains what the recipe describes.
///
/// # Errors
/// A wrong recipe, or what training runs into.
pub fn run(args: &Args, session: &Session) -> anyhow::Result<()> {
    let recipe = args.recipe.load()?;
    let run = Run::open(&args.recipe.runs, &recipe.name, &recipe.to_toml(), session.progress())?;
    let (_, trained) = Pipeline::new(&recipe, &run, session).corpus_and_model()?;
    let summary = &trained.record.summary;
    let text = format!(
        "{} parameters, {} tokens, {} steps; held-out loss {:.4} nats per token\n{}",
        summary["parameters"],
        summary["tokens"],
        summary["steps"],
        summary["held_out_nats_per_token"].as_f64().unwrap_or(f64::NAN),
        trained.folder.join("model").display(),
    );
    Ok(session.print(&text, summary)?)
}
