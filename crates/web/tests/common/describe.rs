//! Values of XPath expressions as `tests/golden/make_xpath.py` writes them.

use elmwood_web::Document;
use elmwood_web::xpath::Value;
use serde_json::{Value as Json, json};

/// Nodes as their numbers, attributes as number and name, with a checksum over all their strings.
///
/// The root is left out: lxml does not give it.
pub(crate) fn describe(document: &Document, value: &Value) -> Json {
    match value {
        Value::Nodes(nodes) => {
            let mut checksum = flate2::Crc::new();
            let mut names = Vec::new();
            for &node in nodes.iter().filter(|node| node.id() != document.root()) {
                let number = node.id().index();
                checksum.update(node.text(document).as_bytes());
                checksum.update(b"\0");
                names.push(match node.name(document) {
                    Some(name) if node.is_attribute() => json!(format!("{number}@{name}")),
                    _ => json!(number),
                });
            }
            json!(["nodes", names, checksum.sum()])
        }
        Value::Text(text) => json!(["text", text]),
        // JSON has neither NaN nor infinity.
        Value::Number(number) if number.is_finite() => json!(["number", number]),
        Value::Number(number) => json!(["number", number.to_string()]),
        Value::Bool(bool) => json!(["bool", bool]),
    }
}
