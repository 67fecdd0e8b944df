//! Keys of a `config.json`, read with types and named in errors.

use serde_json::Value;

use crate::Error;
use crate::error::config_error;

/// Typed access to the keys of a JSON object; absent and null are the same.
pub(crate) struct Fields<'a>(pub(crate) &'a Value);

impl<'a> Fields<'a> {
    pub(crate) fn get(&self, field: &'static str) -> Option<&'a Value> {
        self.0.get(field).filter(|value| !value.is_null())
    }

    pub(crate) fn constant(&self, field: &'static str, expected: Value) -> Result<(), Error> {
        match self.get(field) {
            Some(value) if *value != expected => {
                Err(config_error(field, format!("`{}` instead of `{expected}`", brief(value))))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn required(&self, field: &'static str) -> Result<usize, Error> {
        self.count(field)?.ok_or_else(|| config_error(field, "it is missing".into()))
    }

    pub(crate) fn count(&self, field: &'static str) -> Result<Option<usize>, Error> {
        self.get(field).map(|value| as_count(field, value)).transpose()
    }

    pub(crate) fn counts(&self, field: &'static str, len: usize) -> Result<Option<Vec<usize>>, Error> {
        let Some(value) = self.get(field) else { return Ok(None) };
        let list = value
            .as_array()
            .ok_or_else(|| config_error(field, format!("`{}` is not a list", brief(value))))?;
        if list.len() != len {
            return Err(config_error(field, format!("{} entries for {len} layers", list.len())));
        }
        list.iter().map(|value| as_count(field, value)).collect::<Result<_, _>>().map(Some)
    }

    pub(crate) fn number(&self, field: &'static str) -> Result<Option<f64>, Error> {
        let not_a_number = |value| config_error(field, format!("`{}` is not a number", brief(value)));
        self.get(field).map(|value| value.as_f64().ok_or_else(|| not_a_number(value))).transpose()
    }

    pub(crate) fn token(&self, field: &'static str) -> Result<Option<u32>, Error> {
        let id = self.count(field)?;
        let narrow =
            |id| u32::try_from(id).map_err(|_| config_error(field, format!("`{id}` is no token id")));
        id.map(narrow).transpose()
    }
}

pub(crate) fn as_count(field: &'static str, value: &Value) -> Result<usize, Error> {
    let count = value.as_u64().and_then(|count| usize::try_from(count).ok());
    count.ok_or_else(|| config_error(field, format!("`{}` is not a whole positive number", brief(value))))
}

/// A value for an error message: what a hostile file holds may be long.
pub(crate) fn brief(value: &Value) -> String {
    let text = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    if text.chars().count() <= 40 { text } else { text.chars().take(40).chain(['…']).collect() }
}
