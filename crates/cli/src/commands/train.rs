//! `elmwood train`: the training stage of a recipe alone, with what it needs before it.

use crate::commands::grow::RecipeArgs;
use crate::error::{Exit, Fault};
use crate::pipeline::Pipeline;
use crate::profile::ProfileTable;
use crate::session::Session;
use crate::stages::Run;

/// Options of `train`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  elmwood train my.toml --set train.lr=1e-3 --set train.steps=500
  elmwood train --profile --runs /tmp/profile --set train.tokens=200_000")]
pub struct Args {
    /// What to train; which recipe, and how it is changed
    #[command(flatten)]
    pub recipe: RecipeArgs,

    /// Print time, GFLOP/s and bytes of every operator, and what share of the machine each reaches
    #[arg(long)]
    pub profile: bool,
}

/// Trains what the recipe describes.
///
/// # Errors
/// A wrong recipe, or what training runs into.
pub fn run(args: &Args, session: &Session) -> anyhow::Result<()> {
    let recipe = args.recipe.load()?;
    let run = Run::open(&args.recipe.runs, &recipe.name, &recipe.to_toml(), session.progress())?;
    let pipeline = Pipeline::new(&recipe, &run, session).profiling(args.profile);
    let (_, trained) = pipeline.corpus_and_model()?;
    let summary = &trained.record.summary;
    let mut text = format!(
        "{} parameters, {} tokens, {} steps; held-out loss {:.4} nats per token\n{}",
        summary["parameters"],
        summary["tokens"],
        summary["steps"],
        summary["held_out_nats_per_token"].as_f64().unwrap_or(f64::NAN),
        trained.folder.join("model").display(),
    );
    if args.profile {
        // Where training was done before, its profile is the one that was taken then, if one was.
        let Ok(profile) = serde_json::from_value::<ProfileTable>(summary["profile"].clone()) else {
            let done = format!("nothing to profile: `{}` was trained before", recipe.name);
            return Err(Fault::new(Exit::BadInput, done)
                .help("train it elsewhere, with `--runs DIR`, or with another name, with `--set name=NAME`")
                .into());
        };
        text = format!("{}\n{text}", profile.to_text());
    }
    Ok(session.print(&text, summary)?)
}
