//! `elmwood grow`: the whole way, from pages to a model, a file and a report.

use std::path::PathBuf;

use elmwood_train::METRICS;
use serde_json::{Value, json};

use crate::doctor;
use crate::pipeline::{Grown, Judgement, Pipeline, summary};
use crate::progress::{duration, short};
use crate::recipe::{self, Recipe};
use crate::report::ReportData;
use crate::session::Session;
use crate::stages::Run;

/// The page that shows everything, in the folder of the run.
const REPORT: &str = "report.html";

/// Options of `grow`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  elmwood grow                                            the built-in quickstart
  elmwood grow novels.toml --set source.path=my/novels    a recipe, with one setting changed")]
pub struct Args {
    /// What to run; which recipe, and how it is changed
    #[command(flatten)]
    pub recipe: RecipeArgs,
    /// Read finished stages again to see whether their files are unchanged
    #[arg(long)]
    pub verify: bool,
}

/// Which recipe, with what changed: the same for every verb that runs one.
#[derive(Debug, Clone, clap::Args)]
pub struct RecipeArgs {
    /// The recipe; the built-in quickstart if left out
    #[arg(value_name = "RECIPE")]
    pub path: Option<PathBuf>,
    /// Fewer pages, tokens and steps: everything takes under a minute
    #[arg(long)]
    pub quick: bool,
    /// Change one setting of the recipe, as train.lr=1e-3; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub sets: Vec<String>,
    /// The folder that holds all runs
    #[arg(long, value_name = "DIR", default_value = "runs")]
    pub runs: PathBuf,
}

impl RecipeArgs {
    /// Reads the recipe that these options describe.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn load(&self) -> Result<Recipe, recipe::Error> {
        match &self.path {
            Some(path) => Recipe::load(path, self.quick, &self.sets),
            None => Recipe::quickstart(self.quick, &self.sets),
        }
    }
}

/// Runs a recipe.
///
/// # Errors
/// A wrong recipe, a run that is already at work, or what a stage runs into.
pub fn run(args: &Args, session: &Session) -> anyhow::Result<()> {
    let recipe = args.recipe.load()?;
    let run = Run::open(&args.recipe.runs, &recipe.name, &recipe.to_toml(), session.progress())?
        .verify(args.verify);
    let grown = Pipeline::new(&recipe, &run, session).grow()?;
    write_report(&recipe, &run, &grown)?;
    let (text, json) = tell(&recipe, &run, &grown)?;
    Ok(session.print(&text, &json)?)
}

/// Puts the page that shows everything into the folder of the run.
fn write_report(recipe: &Recipe, run: &Run, grown: &Grown) -> anyhow::Result<()> {
    let metrics = std::fs::read_to_string(grown.train.folder.join(METRICS)).unwrap_or_default();
    let machine = doctor::examine(run.folder()).summary();
    let toml = recipe.to_toml();
    let report = ReportData {
        name: &recipe.name,
        recipe: &toml,
        source: match &recipe.source.path {
            Some(path) => path.display().to_string(),
            None if grown.corpus.is_generated() => "a small site of made-up documentation".into(),
            None => "the documentation of Rust that rustup installed".into(),
        },
        extract: summary(&grown.corpus.extract)?,
        funnel: summary(&grown.corpus.curate)?,
        trained: &grown.train.record.summary,
        metrics: metrics.lines().filter_map(|line| serde_json::from_str(line).ok()).collect(),
        judgement: summary(&grown.judge)?,
        stages: grown.stages().collect(),
        machine,
    };
    Ok(elmwood_durable::write_file(run.folder().join(REPORT), report.to_html().as_bytes())?)
}

/// What was made, and what to do with it.
fn tell(recipe: &Recipe, run: &Run, grown: &Grown) -> anyhow::Result<(String, Value)> {
    let judgement: Judgement = summary(&grown.judge)?;
    let trained = &grown.train.record.summary;
    let kept = &grown.corpus.curate.record.summary["kept"];
    let seconds: f64 = grown.stages().map(|stage| stage.record.seconds).sum();
    let (model, report) = (grown.model_folder(), run.folder().join(REPORT));
    let number = |value: &Value| short(value.as_f64().unwrap_or_default());
    let prompt = judgement.samples.first().map_or("The", |sample| &sample.prompt);
    let text = format!(
        "{name}: a language model of {parameters} parameters, trained on {tokens} tokens of {kept} documents in {time}\n\
         \n  held-out text, bits per byte    model {model_bits:.3}    trigram {trigram:.3}    gzip -9 {gzip:.3}\n\
         \n  model     {model}\n  report    {report}\n  metrics   {metrics}\n\
         \nNext:\n  elmwood generate {model} --prompt \"{prompt}\"\n  elmwood grow my.toml        with a source of your own; \
         recipes/quickstart.toml is a start",
        name = recipe.name,
        parameters = number(&trained["parameters"]),
        tokens = number(&trained["tokens"]),
        time = duration(seconds),
        model_bits = judgement.model,
        trigram = judgement.trigram,
        gzip = judgement.gzip,
        model = model.display(),
        report = report.display(),
        metrics = grown.train.folder.join(METRICS).display(),
        prompt = prompt.replace(['"', '`', '$', '\\'], ""),
    );
    let json = json!({
        "name": recipe.name,
        "model": model,
        "report": report,
        "seconds": seconds,
        "extract": grown.corpus.extract.record.summary,
        "curate": grown.corpus.curate.record.summary,
        "pack": grown.corpus.pack.record.summary,
        "train": trained,
        "judge": judgement,
    });
    Ok((text, json))
}
