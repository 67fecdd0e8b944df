//! The recipe: one TOML file that says what is to be made, from the pages to the model.
//!
//! A name and a source are enough; every other key has a default ([`sections`]). What is wrong with a recipe
//! is pointed at by file, line and column, with the nearest right key ([`Error`]).
//!
//! ```
//! use elmwood_cli::recipe::Recipe;
//! let recipe = Recipe::quickstart(false, &["train.lr=1e-3".into()]).unwrap();
//! assert_eq!((recipe.name.as_str(), recipe.train.lr), ("quickstart", 1e-3));
//!
//! let error = Recipe::quickstart(false, &["train.learning_rate=1e-3".into()]).unwrap_err();
//! assert_eq!(error.help.as_deref(), Some("did you mean `lr`?"));
//! ```

mod check;
mod error;
mod layer;
pub mod sections;

pub use error::Error;
pub use sections::{
    Curate, Dtype, Judge, Length, Model, Optimizer, Preset, Source, SourceKind, Tokenizer, Train,
};

use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::Exit;
use layer::Layer;

/// The recipe that runs when none is given.
pub const QUICKSTART: &str = include_str!("../../../../recipes/quickstart.toml");

/// No recipe that a person writes is longer than this; whatever is longer is another file.
const MAX_BYTES: u64 = 1 << 20;

/// Settings of which one stands for the others: setting one by `--set` drops the others from the file.
const ALTERNATIVES: [&[&str]; 2] = [
    &["train.tokens", "train.steps", "train.epochs"],
    &[
        "model.preset",
        "model.model_dim",
        "model.num_transformer_layers",
        "model.head_dim",
        "model.num_gqa_groups",
        "model.qkv_multipliers",
        "model.ffn_multipliers",
        "model.ffn_dim_divisor",
    ],
];

/// A whole recipe, with every default filled in and every value checked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Recipe {
    /// The folder under `runs/`; the file's name if the recipe gives none.
    pub name: String,
    /// Where every random choice starts.
    pub seed: u64,
    /// Where the documents come from.
    pub source: Source,
    /// Which documents are kept.
    pub curate: Curate,
    /// The vocabulary.
    pub tokenizer: Tokenizer,
    /// The architecture.
    pub model: Model,
    /// The optimiser and its schedule.
    pub train: Train,
    /// What the finished model is asked.
    pub judge: Judge,
}

impl Default for Recipe {
    fn default() -> Self {
        Self {
            name: String::new(),
            seed: 1,
            source: Source::default(),
            curate: Curate::default(),
            tokenizer: Tokenizer::default(),
            model: Model::default(),
            train: Train::default(),
            judge: Judge::default(),
        }
    }
}

impl Recipe {
    /// Reads the recipe at `path`; `quick` shrinks it to under a minute; `sets` are `section.key=value`.
    ///
    /// # Errors
    /// [`Error`], which says what is wrong, where, and what was probably meant.
    pub fn load(path: &Path, quick: bool, sets: &[String]) -> Result<Self, Error> {
        let text = read(path)?;
        let folder = std::path::absolute(path).ok().and_then(|path| path.parent().map(Path::to_owned));
        let name = path.display().to_string();
        let file = Layer::new(name, text, folder.unwrap_or_default(), Exit::BadInput)?;
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Self::from_layers(file, &stem, quick, sets)
    }

    /// The built-in quickstart.
    ///
    /// # Errors
    /// As [`Recipe::load`], for mistakes in `sets`.
    pub fn quickstart(quick: bool, sets: &[String]) -> Result<Self, Error> {
        let file = Layer::new("quickstart (built in)".into(), QUICKSTART.into(), here(), Exit::BadInput)?;
        Self::from_layers(file, "quickstart", quick, sets)
    }

    /// The recipe as a file that makes the same again: paths are absolute, defaults written out.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let mut table = toml::Table::try_from(self).expect("a recipe is plain data");
        if self.model.preset.is_some() {
            remove_alternatives(&mut table, "model.preset");
        }
        toml::to_string(&table).expect("a recipe is plain data")
    }

    /// The seed of training: its own, or the recipe's.
    #[must_use]
    pub fn train_seed(&self) -> u64 {
        self.train.seed.unwrap_or(self.seed)
    }

    fn from_layers(file: Layer, stem: &str, quick: bool, sets: &[String]) -> Result<Self, Error> {
        let mut merged = file.table.clone();
        if quick {
            shrink(&mut merged);
        }
        let mut layers = vec![file];
        for set in sets {
            let layer = Layer::set(set, here())?;
            for path in ALTERNATIVES.concat() {
                // Among the settings themselves a contradiction stays one.
                if layer.has(path) && !layers[1..].iter().any(|earlier| is_alternative(earlier, path)) {
                    remove_alternatives(&mut merged, path);
                }
            }
            merge(&mut merged, &layer.table);
            layers.push(layer);
        }
        // Each layer was found right by itself, so what is merged of them is right but for its values.
        let mut recipe: Self = merged
            .try_into()
            .map_err(|error: toml::de::Error| layers[0].mistake("", error.message().to_owned()))?;
        if recipe.name.is_empty() && !layers.iter().any(|layer| layer.has("name")) {
            recipe.name = stem.to_owned();
        }
        if let Some(path) = recipe.source.path.take() {
            recipe.source.path = Some(writer_of(&layers, "source.path").folder.join(path));
        }
        // A preset contradicts dimensions written beside it, not those that a `--set` replaced.
        check::check(&recipe, &effective(layers))?;
        Ok(recipe)
    }
}

/// The last layer that wrote the key at `path`; the file if none did.
fn writer_of<'a>(layers: &'a [Layer], path: &str) -> &'a Layer {
    layers.iter().rev().find(|layer| layer.has(path)).unwrap_or(&layers[0])
}

/// The layers, with those keys forgotten in the file that an alternative in a later layer replaced.
fn effective(mut layers: Vec<Layer>) -> Vec<Layer> {
    let replaced: Vec<&str> = ALTERNATIVES
        .concat()
        .into_iter()
        .filter(|path| layers[1..].iter().any(|layer| layer.has(path)))
        .collect();
    for path in replaced {
        remove_alternatives(&mut layers[0].table, path);
    }
    layers
}

/// Settings with which everything takes under a minute, and the ways of doing it stay the same.
fn shrink(table: &mut toml::Table) {
    remove_alternatives(table, "train.tokens");
    let at_most = |table: &mut toml::Table, section: &str, key: &str, most: i64| {
        let section = table.entry(section).or_insert_with(|| toml::Table::new().into());
        if let Some(section) = section.as_table_mut() {
            let value =
                section.get(key).and_then(toml::Value::as_integer).map_or(most, |value| value.min(most));
            section.insert(key.into(), value.into());
        }
    };
    at_most(table, "source", "pages", 400);
    at_most(table, "train", "tokens", 100_000);
    at_most(table, "train", "warmup_steps", 5);
    at_most(table, "train", "eval_every", 10);
    at_most(table, "train", "save_every", 10);
    at_most(table, "judge", "sample_tokens", 32);
}

/// Writes the values of `over` over those of `table`, section by section.
fn merge(table: &mut toml::Table, over: &toml::Table) {
    for (key, value) in over {
        match (table.get_mut(key).and_then(toml::Value::as_table_mut), value) {
            (Some(table), toml::Value::Table(over)) => merge(table, over),
            _ => {
                table.insert(key.clone(), value.clone());
            }
        }
    }
}

/// Whether `layer` writes a key that stands for the one at `path`, or that it stands for.
fn is_alternative(layer: &Layer, path: &str) -> bool {
    alternatives(path).any(|other| layer.has(other))
}

/// Takes the keys out of `table` that the one at `path` stands for.
fn remove_alternatives(table: &mut toml::Table, path: &str) {
    for other in alternatives(path) {
        if let Some((section, key)) = other.split_once('.')
            && let Some(section) = table.get_mut(section).and_then(toml::Value::as_table_mut)
        {
            section.remove(key);
        }
    }
}

/// The other ways to say what the key at `path` says. Dimensions replace a preset, not one another.
fn alternatives(path: &str) -> impl Iterator<Item = &'static str> {
    let group = ALTERNATIVES.iter().find(|group| group.contains(&path)).copied().unwrap_or_default();
    let of_model = path.starts_with("model.") && path != "model.preset";
    group.iter().copied().filter(move |other| *other != path && (!of_model || *other == "model.preset"))
}

fn read(path: &Path) -> Result<String, Error> {
    let name = path.display().to_string();
    let refused = |error: std::io::Error| {
        let what = match error.kind() {
            std::io::ErrorKind::NotFound => "there is no such recipe".to_owned(),
            _ => format!("the recipe cannot be read: {error}"),
        };
        Error::file(Exit::Io, &name, what).help(format!("the working directory is `{}`", here().display()))
    };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(refused)?;
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(refused)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(Error::file(Exit::BadInput, &name, "longer than 1 MiB: this is no recipe"));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Error::file(Exit::BadInput, &name, format!("the recipe is not UTF-8 text: byte {at} is none"))
    })
}

fn here() -> PathBuf {
    std::env::current_dir().unwrap_or_else(|_| PathBuf::from("."))
}

#[cfg(test)]
mod tests;
