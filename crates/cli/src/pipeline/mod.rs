//! A recipe as stages: pages, documents, a tokenizer, packed tokens, a trained model, its judgement.
//!
//! ```text
//! extract ── curate ──┬── tokenizer ──┬── pack ── train ──┬── model
//!                     └───────────────┘                   └── judge
//! ```
//!
//! Each stage is one function here, its work in a crate below. What a stage depends on is spelled out in its
//! settings and inputs, so that a changed key of the recipe reruns what it changes and nothing else.

mod corpus;
mod judgement;
mod training;

use std::path::PathBuf;

use anyhow::Context;
use elmwood_data::{PackedTokens, Quarantine};
use elmwood_model::Tokenizer;
use serde_json::Value;

use crate::error::{Account, Exit, Fault};
use crate::recipe::Recipe;
use crate::session::Session;
use crate::stages::{Finished, Run};

pub use corpus::{WatchData, curate_settings, pack_file, train_tokenizer};
pub use judgement::{Judgement, Sample};

/// The held-out and the training rows, in the folder of the stage `pack`.
pub const TRAIN_ROWS: &str = "train.safetensors";
/// See [`TRAIN_ROWS`].
pub const HELD_OUT_ROWS: &str = "held_out.safetensors";
/// The tokenizer's file, in the folder of its stage and of a model.
pub const TOKENIZER: &str = "tokenizer.json";

/// A recipe on its way through its stages.
#[derive(Debug)]
pub struct Pipeline<'a> {
    recipe: &'a Recipe,
    run: &'a Run,
    session: &'a Session,
    profile: bool,
}

/// The stages up to the packed tokens, and all the way.
#[derive(Debug)]
pub struct Corpus {
    /// Pages to documents.
    pub extract: Finished,
    /// Documents kept.
    pub curate: Finished,
    /// The vocabulary.
    pub tokenizer: Finished,
    /// Rows of tokens.
    pub pack: Finished,
}

/// All stages of a recipe.
#[derive(Debug)]
pub struct Grown {
    /// From pages to tokens.
    pub corpus: Corpus,
    /// The run of the optimiser.
    pub train: Finished,
    /// The finished model.
    pub model: Finished,
    /// What it is worth.
    pub judge: Finished,
}

impl Grown {
    /// The stages in the order in which they ran.
    pub fn stages(&self) -> impl Iterator<Item = &Finished> {
        let Corpus { extract, curate, tokenizer, pack } = &self.corpus;
        [extract, curate, tokenizer, pack, &self.train, &self.model, &self.judge].into_iter()
    }

    /// The model's folder.
    #[must_use]
    pub fn model_folder(&self) -> PathBuf {
        self.model.folder.clone()
    }
}

impl<'a> Pipeline<'a> {
    /// The stages of `recipe` in the folder of `run`.
    #[must_use]
    pub fn new(recipe: &'a Recipe, run: &'a Run, session: &'a Session) -> Self {
        Self { recipe, run, session, profile: false }
    }

    /// Measures where the time of training goes; the summary of that stage holds it.
    #[must_use]
    pub fn profiling(self, profile: bool) -> Self {
        Self { profile, ..self }
    }

    /// Everything: from pages to a judged model.
    ///
    /// # Errors
    /// Whatever a stage runs into.
    pub fn grow(&self) -> anyhow::Result<Grown> {
        let (corpus, train) = self.corpus_and_model()?;
        let model = self.model(&corpus, &train)?;
        let judge = self.judge(&corpus, &model)?;
        Ok(Grown { corpus, train, model, judge })
    }

    /// Up to the trained weights.
    ///
    /// # Errors
    /// Whatever a stage runs into.
    pub fn corpus_and_model(&self) -> anyhow::Result<(Corpus, Finished)> {
        let corpus = self.corpus()?;
        let train = self.train(&corpus)?;
        Ok((corpus, train))
    }

    /// Up to the packed tokens.
    ///
    /// # Errors
    /// Whatever a stage runs into.
    pub fn corpus(&self) -> anyhow::Result<Corpus> {
        let extract = self.extract()?;
        let curate = self.curate(&extract)?;
        let tokenizer = self.tokenizer(&curate)?;
        let pack = self.pack(&curate, &tokenizer)?;
        Ok(Corpus { extract, curate, tokenizer, pack })
    }
}

impl Corpus {
    /// Whether Elmwood wrote the pages itself.
    #[must_use]
    pub fn is_generated(&self) -> bool {
        self.extract.folder.join(corpus::SITE).exists()
    }

    fn load_tokenizer(&self) -> anyhow::Result<Tokenizer> {
        Tokenizer::load(self.tokenizer.folder.join(TOKENIZER)).map_err(damaged)
    }

    fn open_rows(&self, name: &str) -> anyhow::Result<PackedTokens> {
        PackedTokens::open(self.pack.folder.join(name)).map_err(damaged)
    }
}

/// The summary of a finished stage as the value that was summarised.
///
/// # Errors
/// If the stage's record was written by another version.
pub fn summary<T: serde::de::DeserializeOwned>(stage: &Finished) -> anyhow::Result<T> {
    serde_json::from_value(stage.record.summary.clone()).with_context(|| {
        format!("the record in `{}` is of another version; remove that folder", stage.folder.display())
    })
}

/// An error of reading what an earlier stage of the run made. What was right when it was written was damaged
/// since; what the operating system refuses is not.
fn damaged(error: impl Into<anyhow::Error>) -> anyhow::Error {
    let error = error.into();
    if Account::of(&error).exit != Exit::BadInput {
        return error;
    }
    let fault = Fault::new(Exit::BadInput, "a file that an earlier stage made is damaged");
    error.context(
        fault.help("run `elmwood grow` with the same recipe and --verify: it makes damaged files again"),
    )
}

/// [`damaged`], for documents of an earlier stage of which some can no longer be read.
fn must_be_whole(quarantine: &Quarantine) -> anyhow::Result<()> {
    quarantine.first.first().map_or(Ok(()), |bad| {
        let Quarantine { records, .. } = quarantine;
        let what =
            format!("{records} unreadable, the first of them at byte {}: {}", bad.byte_offset, bad.reason);
        Err(damaged(Fault::new(Exit::BadInput, what).at(&bad.file)))
    })
}

fn to_value(value: impl serde::Serialize) -> Value {
    serde_json::to_value(value).expect("summaries are plain data")
}
