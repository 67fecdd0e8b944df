//! Evaluates XPath expressions, for people and for `tests/golden/make_xpath.py`:
//!
//! - `xpath select EXPRESSION PAGE …` prints the strings that it gives on each page;
//! - `xpath refuse FILE` prints which lines of a file do not compile, as JSON;
//! - `xpath dump PAGE …` prints each page's tree, one JSON line a page: for every node in document order its
//!   parent's number and then name and attributes, or text, or comment;
//! - `xpath evaluate FILE PAGE …` prints for each page, one JSON line, what every line of a file gives, and the
//!   seconds that parsing, the first evaluation with its index, and each evaluation took;
//! - `xpath parse PAGE …` prints how fast pages are parsed.

#[path = "../tests/common/describe.rs"]
mod describe;

use std::io::Write as _;
use std::time::Instant;

use describe::describe;
use elmwood_web::xpath::{XPath, XPathError};
use elmwood_web::{Document, NodeId, NodeKind, decode};
use serde_json::{Value as Json, json};

/// Times are the least of this many.
const ROUNDS: usize = 3;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut out = std::io::stdout().lock();
    match arguments.as_slice() {
        ["select", expression, pages @ ..] => {
            let expression = XPath::compile(expression)?;
            for page in pages {
                let document = Document::parse(&read(page)?);
                for text in expression.evaluate(&document, document.root())?.texts(&document) {
                    writeln!(out, "{text}")?;
                }
            }
        }
        ["refuse", file] => {
            let lines = std::fs::read_to_string(file)?;
            for (number, line) in lines.lines().enumerate() {
                if let Err(error) = XPath::compile(line) {
                    let refused =
                        json!({ "line": number + 1, "expression": line, "error": error.to_string() });
                    writeln!(out, "{refused}")?;
                }
            }
        }
        ["dump", pages @ ..] => {
            for page in pages {
                let tree = dump(&Document::parse(&read(page)?));
                writeln!(out, "{}", json!({ "page": page, "nodes": tree }))?;
            }
        }
        ["evaluate", file, pages @ ..] => {
            let lines = std::fs::read_to_string(file)?;
            let expressions: Vec<_> = lines.lines().map(XPath::compile).collect();
            for page in pages {
                let html = read(page)?;
                let mut parse_secs = f64::INFINITY;
                let mut document = Document::parse("");
                for _ in 0..ROUNDS {
                    let start = Instant::now();
                    document = Document::parse(&html);
                    parse_secs = parse_secs.min(start.elapsed().as_secs_f64());
                }
                let first = expressions.iter().flatten().next();
                let start = Instant::now();
                let _ = first.map(|expression| expression.evaluate(&document, document.root()));
                let index_secs = start.elapsed().as_secs_f64();
                let results: Vec<Json> =
                    expressions.iter().map(|expression| evaluate(&document, expression)).collect();
                let line = json!({ "page": page, "bytes": html.len(), "parse_secs": parse_secs,
                    "first_secs": index_secs, "results": results });
                writeln!(out, "{line}")?;
            }
        }
        ["parse", pages @ ..] => {
            let pages = pages.iter().map(|page| read(page)).collect::<Result<Vec<_>, _>>()?;
            let n_bytes: usize = pages.iter().map(String::len).sum();
            let start = Instant::now();
            let n_nodes: usize = pages.iter().map(|html| Document::parse(html).len()).sum();
            let rate = n_bytes as f64 / 1e6 / start.elapsed().as_secs_f64();
            writeln!(out, "{} pages, {n_bytes} bytes, {n_nodes} nodes, {rate:.1} MB/s", pages.len())?;
        }
        _ => return Err("what to do: select, refuse, dump, evaluate or parse; see the source".into()),
    }
    Ok(())
}

/// A page without the characters that XML cannot hold, for lxml refuses them.
fn read(path: &str) -> std::io::Result<String> {
    let html = decode(&std::fs::read(path)?, None).into_owned();
    let is_xml =
        |&c: &char| matches!(c, '\t' | '\n' | '\r' | ' '..='\u{fffd}' | '\u{10000}'..) && c != '\u{7f}';
    Ok(html.chars().filter(is_xml).collect())
}

fn dump(document: &Document) -> Vec<Json> {
    let node = |node| {
        let parent = document.parent(node).map(|parent| parent.index());
        match document.kind(node) {
            NodeKind::Element => {
                let attributes: Vec<_> = document.attributes(node).collect();
                json!([parent, "element", document.name(node), attributes])
            }
            NodeKind::Text => json!([parent, "text", document.value(node)]),
            NodeKind::Comment => json!([parent, "comment", document.value(node)]),
            NodeKind::Document => json!([parent, "document"]),
        }
    };
    std::iter::once(document.root()).chain(document.descendants(document.root())).map(node).collect()
}

fn evaluate(document: &Document, expression: &Result<XPath, XPathError>) -> Json {
    let expression = match expression {
        Ok(expression) => expression,
        Err(error) => return json!({ "refused": error.to_string() }),
    };
    // As in lxml, `<html>` is the context.
    let is_element = |&node: &NodeId| document.kind(node) == NodeKind::Element;
    let context = document.children(document.root()).find(is_element).unwrap_or(document.root());
    let mut secs = f64::INFINITY;
    let mut result = None;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        result = Some(expression.evaluate(document, context));
        secs = secs.min(start.elapsed().as_secs_f64());
    }
    match result {
        Some(Ok(value)) => json!({ "value": describe(document, &value), "secs": secs }),
        Some(Err(error)) => json!({ "error": error.to_string(), "secs": secs }),
        None => Json::Null,
    }
}
