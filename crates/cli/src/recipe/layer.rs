//! One text that settings come from, the file or a `--set`, and how to find a key in it again.

use std::ops::Range;
use std::path::PathBuf;

use toml::de::{DeTable, DeValue};

use super::Recipe;
use super::error::{Error, nearest};
use crate::error::Exit;

/// A TOML text that was found to be a valid part of a recipe.
#[derive(Debug)]
pub(crate) struct Layer {
    /// What errors call it: the path of the file, or `--set`.
    pub(crate) name: String,
    pub(crate) text: String,
    /// What relative paths in it are relative to.
    pub(crate) folder: PathBuf,
    /// The exit code of a mistake in it.
    pub(crate) exit: Exit,
    pub(crate) table: toml::Table,
}

impl Layer {
    /// Reads a recipe's text; every mistake of syntax, key and type comes out here.
    pub(crate) fn new(name: String, text: String, folder: PathBuf, exit: Exit) -> Result<Self, Error> {
        let explained = |error: &toml::de::Error| explain(error, &name, &text, exit);
        toml::from_str::<Recipe>(&text).map_err(|error| explained(&error))?;
        let table = text.parse().map_err(|error| explained(&error))?;
        Ok(Self { name, text, folder, exit, table })
    }

    /// Reads `a.b=c`. A value that is not TOML is taken as a string, so that paths need no quotes.
    pub(crate) fn set(assignment: &str, folder: PathBuf) -> Result<Self, Error> {
        let usage = |what: &str| {
            Error::at(Exit::Usage, "--set", assignment, 0..assignment.len(), what)
                .help("write --set section.key=value, for example --set train.lr=1e-3")
        };
        let (key, value) = assignment.split_once('=').ok_or_else(|| usage("no `=` in a setting"))?;
        let bare = |c: char| c.is_ascii_alphanumeric() || "._- ".contains(c);
        if key.trim().is_empty() || !key.chars().all(bare) || value.contains(['\n', '\r']) {
            return Err(usage("a setting is one `key=value`"));
        }
        let quoted = format!("{key}={}", toml::Value::from(value.trim()));
        let layer = |text: String| Self::new("--set".into(), text, folder.clone(), Exit::Usage);
        layer(assignment.to_owned()).or_else(|error| {
            let is_toml = assignment.parse::<toml::Table>().is_ok();
            layer(quoted).map_err(|as_string| if is_toml { error } else { as_string })
        })
    }

    /// Whether the key at `path`, as `train.lr`, is written in this text.
    pub(crate) fn has(&self, path: &str) -> bool {
        let mut value = None;
        let mut table = Some(&self.table);
        for part in path.split('.') {
            value = table.and_then(|table| table.get(part));
            table = value.and_then(toml::Value::as_table);
        }
        value.is_some()
    }

    /// Where the value at `path` is written; failing that, its section; failing that, the first line.
    pub(crate) fn span(&self, path: &str) -> Range<usize> {
        let Ok(root) = DeTable::parse(&self.text) else { return 0..0 };
        let mut span = 0..0;
        let mut table = Some(root.get_ref());
        for part in path.split('.') {
            let Some((key, value)) =
                table.and_then(|table| table.iter().find(|(key, _)| key.get_ref() == part))
            else {
                break;
            };
            // A section's own span is its header; that of a value is the value.
            span = if value.get_ref().is_table() { key.span() } else { value.span() };
            table = value.get_ref().as_table();
        }
        span
    }

    /// A mistake in the value at `path`.
    pub(crate) fn mistake(&self, path: &str, what: impl Into<String>) -> Error {
        Error::at(self.exit, &self.name, &self.text, self.span(path), what)
    }
}

/// Says in plain words what the TOML reader found.
fn explain(error: &toml::de::Error, name: &str, text: &str, exit: Exit) -> Error {
    let span = error.span().unwrap_or(0..0);
    let path =
        DeTable::parse(text).ok().and_then(|table| path_at(table.get_ref(), &span)).unwrap_or_default();
    let section = path.rsplit_once('.').map(|(section, _)| section);
    let message = error.message().lines().next().unwrap_or_default().trim();
    let at = |what: String| Error::at(exit, name, text, span.clone(), what);

    if let Some(rest) = message.strip_prefix("unknown field ") {
        let known = quoted(rest);
        let key = known.first().cloned().unwrap_or_default();
        return at(format!("unknown key `{key}`")).help(key_help(&key, section, &known[1..]));
    }
    if let Some(rest) = message.strip_prefix("unknown variant ") {
        let known = quoted(rest);
        let help = match nearest(&known[0], &known[1..]) {
            Some(near) => format!("did you mean \"{near}\"?"),
            None => format!("one of {}", list(&known[1..], '"')),
        };
        return at(format!("`{path}` cannot be \"{}\"", known[0])).help(help);
    }
    for prefix in ["invalid type: ", "invalid value: ", "invalid length "] {
        let Some((found, expected)) =
            message.strip_prefix(prefix).and_then(|rest| rest.split_once(", expected "))
        else {
            continue;
        };
        let found =
            if prefix == "invalid length " { format!("a list of {found}") } else { plain_found(found) };
        return at(format!("`{path}` must be {}, not {found}", plain_expected(expected)));
    }
    let what = if path.is_empty() { message.to_owned() } else { format!("{message}, in `{path}`") };
    at(what).help("recipes are TOML: key = value, text in quotes, [section] headings")
}

/// The key, with its sections, whose name or value lies exactly at `span`; of several, the outermost.
fn path_at(table: &DeTable<'_>, span: &Range<usize>) -> Option<String> {
    for (key, value) in table {
        if key.span() == *span || value.span() == *span {
            return Some(key.get_ref().to_string());
        }
        let inner = match value.get_ref() {
            DeValue::Table(table) => path_at(table, span).map(|path| format!(".{path}")),
            DeValue::Array(items) => items.iter().any(|item| item.span() == *span).then(String::new),
            _ => None,
        };
        if let Some(inner) = inner {
            return Some(format!("{}{inner}", key.get_ref()));
        }
    }
    None
}

/// What to do about an unknown key, given the keys that its section knows.
fn key_help(key: &str, section: Option<&str>, known: &[String]) -> String {
    if let Some(near) = nearest(key, known) {
        return format!("did you mean `{near}`?");
    }
    for other in keys(None) {
        if nearest(key, &keys(Some(&other)))
            .is_some_and(|near| Some(other.as_str()) != section && !near.is_empty())
        {
            let near = nearest(key, &keys(Some(&other))).unwrap_or_default().to_owned();
            return format!("`{near}` belongs in [{other}]");
        }
    }
    let place = section.map_or("a recipe".to_owned(), |section| format!("[{section}]"));
    format!("{place} knows {}", list(known, '`'))
}

/// The keys of a section, or of the top level, as the TOML reader itself lists them.
pub(crate) fn keys(section: Option<&str>) -> Vec<String> {
    let probe = section.map_or("_ = 0".to_owned(), |section| format!("{section}._ = 0"));
    let error = toml::from_str::<Recipe>(&probe).map(drop).map_err(|error| error.message().to_owned());
    let message = error.err().unwrap_or_default();
    if message.starts_with("unknown field") { quoted(&message).split_off(1) } else { Vec::new() }
}

/// The words in backticks of a message.
fn quoted(message: &str) -> Vec<String> {
    let mut words: Vec<String> = message.split('`').skip(1).step_by(2).map(String::from).collect();
    if words.is_empty() {
        words.push(String::new());
    }
    words
}

fn list(words: &[String], quote: char) -> String {
    words.iter().map(|word| format!("{quote}{word}{quote}")).collect::<Vec<_>>().join(", ")
}

fn plain_expected(expected: &str) -> String {
    match expected {
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number of 0 or more".into(),
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number".into(),
        "f32" | "f64" => "a number".into(),
        "a string" | "path string" | "string or table" => "text in quotes".into(),
        "a boolean" => "true or false".into(),
        "a sequence" => "a list in [brackets]".into(),
        "an array of length 2" => "a list of two numbers, as [0.5, 1.0]".into(),
        "an array of length 3" => "a list of three numbers".into(),
        other => match other.strip_prefix("struct ") {
            Some(section) => format!("a section, [{}]", section.to_lowercase()),
            None => other.to_owned(),
        },
    }
}

fn plain_found(found: &str) -> String {
    let found = found.replace("floating point ", "").replace("integer ", "").replace("boolean ", "");
    match found.as_str() {
        "map" => "a section".into(),
        "sequence" => "a list".into(),
        other => other.strip_prefix("string ").map_or(other.to_owned(), |text| format!("the text {text}")),
    }
}
