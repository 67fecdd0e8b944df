//! JSON schemas, so far as they can be enforced while a text is written.

use llguidance::JsonCompileOptions;
use serde_json::{Map, Value};

use crate::Error;

/// White space between the parts of a JSON text: a space, or a new line with its indentation. There is an end to it, since
/// models that do not know how to go on like to write spaces for ever.
const WHITE_SPACE: &str = r"\x20|\r?\n[\x20\t]{0,24}";

/// Keywords that are enforced and hold no schema.
const ENFORCED: [&str; 16] = [
    "const",
    "enum",
    "exclusiveMaximum",
    "exclusiveMinimum",
    "format",
    "maxItems",
    "maxLength",
    "maxProperties",
    "maximum",
    "minItems",
    "minLength",
    "minProperties",
    "minimum",
    "multipleOf",
    "pattern",
    "required",
];
/// Keywords that ask for nothing.
const ANNOTATIONS: [&str; 13] = [
    "$anchor",
    "$comment",
    "$id",
    "$schema",
    "default",
    "deprecated",
    "description",
    "examples",
    "id",
    "readOnly",
    "title",
    "type",
    "writeOnly",
];
/// Keywords that hold one schema, or a list.
const SCHEMAS: [&str; 7] =
    ["additionalItems", "additionalProperties", "allOf", "anyOf", "items", "oneOf", "prefixItems"];
/// Keywords that hold schemas by name.
const NAMED_SCHEMAS: [&str; 4] = ["$defs", "definitions", "patternProperties", "properties"];

/// Reads a schema of which every part can be enforced.
///
/// # Errors
/// [`Error::Constraint`] if it is no JSON, or with the place and name of a keyword that is not known.
pub(crate) fn strict(schema: &str) -> Result<Value, Error> {
    let schema = serde_json::from_str(schema)
        .map_err(|error| Error::Constraint(format!("the JSON schema is no JSON: {error}")))?;
    check(&schema, "#")?;
    let mut schema = match schema {
        Value::Bool(true) => Value::Object(Map::new()),
        Value::Bool(false) => {
            return Err(Error::Constraint("the JSON schema `false` accepts nothing".into()));
        }
        schema => schema,
    };
    let options = JsonCompileOptions { whitespace_pattern: Some(WHITE_SPACE.into()), ..Default::default() };
    options.apply_to(&mut schema);
    Ok(schema)
}

/// Depth is bounded by that of the JSON reader, 128.
fn check(schema: &Value, place: &str) -> Result<(), Error> {
    let keywords = match schema {
        Value::Bool(_) => return Ok(()),
        Value::Object(keywords) => keywords,
        _ => return Err(Error::Constraint(format!("`{place}` is no JSON schema: {schema}"))),
    };
    for (keyword, value) in keywords {
        let within = format!("{place}/{keyword}");
        match (&**keyword, value) {
            (name, _) if ENFORCED.contains(&name) || ANNOTATIONS.contains(&name) => {}
            ("$ref", Value::String(target)) if target.starts_with('#') => {}
            ("$ref", target) => {
                let why =
                    format!("the JSON schema's `$ref` (in `{place}`) points out of the schema: {target}");
                return Err(Error::Constraint(why));
            }
            (name, Value::Object(named)) if NAMED_SCHEMAS.contains(&name) => {
                named.iter().try_for_each(|(name, schema)| check(schema, &format!("{within}/{name}")))?;
            }
            (name, Value::Array(list)) if SCHEMAS.contains(&name) => {
                let mut numbered = list.iter().enumerate();
                numbered.try_for_each(|(i, schema)| check(schema, &format!("{within}/{i}")))?;
            }
            (name, schema) if SCHEMAS.contains(&name) => check(schema, &within)?,
            _ => {
                let why = format!("the JSON schema's keyword `{keyword}` (in `{place}`) cannot be enforced");
                return Err(Error::Constraint(why));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_enforced_is_named() {
        let fails = |schema: &str| strict(schema).unwrap_err().to_string();
        let contains = |text: String, part: &str| assert!(text.contains(part), "{text}");
        contains(fails(r#"{"type": "array", "uniqueItems": true}"#), "`uniqueItems` (in `#`)");
        contains(fails(r#"{"properties": {"a": {"not": {}}}}"#), "`not` (in `#/properties/a`)");
        contains(fails(r#"{"anyOf": [true, {"maxLenght": 3}]}"#), "`maxLenght` (in `#/anyOf/1`)");
        contains(fails(r#"{"x-guidance": {"lenient": true}}"#), "`x-guidance`");
        contains(fails(r#"{"properties": [1]}"#), "`properties`");
        contains(fails(r#"{"items": 3}"#), "`#/items` is no JSON schema: 3");
        contains(fails(r#"{"items": {"$ref": "https://example.com/a"}}"#), "(in `#/items`) points out");
        contains(fails("{"), "EOF while parsing");
        contains(fails("false"), "accepts nothing");
        contains(fails(&"[".repeat(100_000)), "recursion");
        strict("true").unwrap();
        strict(r##"{"$defs": {"not": {"const": {"if": 1}}}, "items": {"$ref": "#/$defs/not"}}"##).unwrap();
    }
}
