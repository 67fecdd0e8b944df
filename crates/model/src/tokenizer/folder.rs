//! What the other files of a model folder say about its tokenizer: special tokens, and the chat template.

use std::path::Path;

use serde_json::Value;

use crate::Error;
use crate::error::read_text;
use crate::generation_config::GENERATION_CONFIG_FILE;

/// File with the settings of a tokenizer within a model folder.
pub(crate) const CONFIG_FILE: &str = "tokenizer_config.json";

/// File with the names of special tokens, in older folders.
const SPECIAL_FILE: &str = "special_tokens_map.json";

/// File with the chat template, in newer folders.
const TEMPLATE_FILE: &str = "chat_template.jinja";

/// Longest of these files that is read; the largest known have a tenth.
const MAX_BYTES: u64 = 16 << 20;

/// What the files say; every one of them may be missing.
#[derive(Debug, Default)]
pub(super) struct Settings {
    pub(super) bos: Option<String>,
    pub(super) eos: Option<String>,
    pub(super) padding: Option<String>,
    pub(super) unknown: Option<String>,
    pub(super) add_bos: Option<bool>,
    /// Ids after which nothing is generated.
    pub(super) ends: Vec<u32>,
    pub(super) chat_template: Option<String>,
}

impl Settings {
    /// Reads the files that are there.
    ///
    /// # Errors
    /// [`Error::Io`] if one cannot be read, [`Error::Tokenizer`] if it is damaged.
    pub(super) fn read(folder: &Path) -> Result<Self, Error> {
        let config = read_json(&folder.join(CONFIG_FILE))?;
        let names = read_json(&folder.join(SPECIAL_FILE))?;
        let generation = read_json(&folder.join(GENERATION_CONFIG_FILE))?;
        let name = |key: &str| token_name(&config[key]).or_else(|| token_name(&names[key]));
        let ends = match &generation["eos_token_id"] {
            Value::Array(ids) => ids.iter().filter_map(id_of).collect(),
            id => id_of(id).into_iter().collect(),
        };
        let template = folder.join(TEMPLATE_FILE);
        let chat_template = match template.exists() {
            true => Some(read_text(&template, MAX_BYTES)?),
            false => template_of(&config["chat_template"]),
        };
        Ok(Self {
            bos: name("bos_token"),
            eos: name("eos_token"),
            padding: name("pad_token"),
            unknown: name("unk_token"),
            add_bos: config["add_bos_token"].as_bool(),
            ends,
            chat_template,
        })
    }
}

/// The JSON of a file; null if it is not there.
fn read_json(path: &Path) -> Result<Value, Error> {
    if !path.exists() {
        return Ok(Value::Null);
    }
    let text = read_text(path, MAX_BYTES)?;
    serde_json::from_str(&text)
        .map_err(|error| Error::Tokenizer { path: path.to_owned(), reason: error.to_string() })
}

/// A special token is given by its name or as an object with it.
fn token_name(value: &Value) -> Option<String> {
    value.as_str().or_else(|| value["content"].as_str()).map(str::to_owned)
}

fn id_of(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|id| id.try_into().ok())
}

/// The template, of several the one named `default`.
fn template_of(value: &Value) -> Option<String> {
    let several = value.as_array().map_or(&[][..], |several| several);
    let default = several.iter().find(|one| one["name"] == "default");
    value.as_str().or_else(|| default.and_then(|one| one["template"].as_str())).map(str::to_owned)
}
