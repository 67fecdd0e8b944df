//! One level of a JSON object, with repeated keys and places kept: what careful readers of foreign files
//! need and `serde_json::Value` does not give.

use std::fmt;

use serde::Deserializer;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The keys and unparsed values of a JSON object in their order, repeated keys included.
///
/// At most `max + 1` entries are kept: one too many tells the caller that there are too many. Values are
/// slices of `json`, and nesting costs nothing, as they are not looked into.
pub(crate) fn object(json: &str, max: usize) -> Result<Vec<(String, &RawValue)>, serde_json::Error> {
    let mut parser = serde_json::Deserializer::from_str(json);
    let pairs = parser.deserialize_map(Pairs { max })?;
    parser.end()?;
    Ok(pairs)
}

struct Pairs {
    max: usize,
}

impl<'de> Visitor<'de> for Pairs {
    type Value = Vec<(String, &'de RawValue)>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut pairs = Vec::new();
        while let Some(pair) = map.next_entry()? {
            pairs.push(pair);
            if pairs.len() > self.max {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                break;
            }
        }
        Ok(pairs)
    }
}
