//! XPath on whole pages: against lxml's answers, against expressions that people wrote, against hostile ones.

#[path = "common/describe.rs"]
mod describe;

use std::path::Path;
use std::time::{Duration, Instant};

use describe::describe;
use elmwood_web::xpath::{Reason, Value, XPath};
use elmwood_web::{Document, NodeKind};
use serde_json::Value as Json;

/// What lxml says on three pages, made by `tests/golden/make_xpath.py`.
#[test]
fn lxml_agrees() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/xpath");
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    let expressions = read("expressions.txt");
    let golden: serde_json::Map<String, Json> = serde_json::from_str(&read("golden.json")).unwrap();
    assert!(!golden.is_empty());
    for (page, expected) in golden {
        let document = Document::parse(&read(&format!("pages/{page}")));
        let is_element = |&node: &_| document.kind(node) == NodeKind::Element;
        let html = document.children(document.root()).find(is_element).unwrap();
        let expected = expected.as_array().unwrap();
        assert_eq!(expressions.lines().count(), expected.len());
        for (expression, expected) in expressions.lines().zip(expected) {
            let found = match XPath::compile(expression).map(|xpath| xpath.evaluate(&document, html)) {
                Err(_) => "refused".into(),
                Ok(Err(_)) => "error".into(),
                Ok(Ok(value)) => describe(&document, &value),
            };
            assert!(is_same(&found, expected), "{page}: {expression}\n  ours {found}\n  lxml {expected}");
        }
    }
}

/// Numbers may differ in their last digits: libxml2 adds and multiplies in the same order, but prints 15 digits.
fn is_same(found: &Json, expected: &Json) -> bool {
    match (found[1].as_f64(), expected[1].as_f64()) {
        (Some(found), Some(expected)) => (found - expected).abs() <= 1e-12 * expected.abs(),
        _ => found == expected,
    }
}

/// Expressions of a public collection of site rules; lxml compiles all of them.
#[test]
fn what_people_write_compiles() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/crawl/xpaths.txt");
    let Ok(lines) = std::fs::read_to_string(&path) else {
        eprintln!("skipped: {} is absent", path.display());
        return;
    };
    for line in lines.lines() {
        if let Err(error) = XPath::compile(line) {
            panic!("{line}: {error}");
        }
    }
}

/// Far more than any of these takes, far less than exponential behaviour would.
const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn hostile_expressions_are_refused() {
    let start = Instant::now();
    let many = |part: &str| part.repeat(100_000);
    for expression in [
        many("("),
        many("["),
        many("a["),
        many("-(") + "1",
        many("not("),
        many("a/(") + "b",
        format!("1{}", many("+1")),
        format!("1{}", many("=1")),
        format!("a{}", many("[1]")),
        format!("a{}", many("|a")),
        format!("a{}", many("/a")),
        format!("a{}", many(" or a")),
        format!("{}a{}", many("(").split_at(100).0, "+1)".repeat(100)),
    ] {
        // Some are within the limits; then they must be evaluated.
        if let Ok(xpath) = XPath::compile(&expression) {
            let document = Document::parse("<a><a><a>");
            let _ = xpath.evaluate(&document, document.root());
        }
    }
    let nested = format!("{}1{}", "(".repeat(1000), ")".repeat(1000));
    let error = XPath::compile(&nested).unwrap_err();
    assert!(matches!(error.reason, Reason::TooLarge { .. }), "{error}");
    let within = format!("{}1{}", "(".repeat(100), "+1+1)".repeat(100));
    let document = Document::parse("");
    assert_eq!(
        XPath::compile(&within).unwrap().evaluate(&document, document.root()),
        Ok(Value::Number(201.0))
    );
    assert!(start.elapsed() < PATIENCE);
}

/// As deep as expressions may be, on the small stack of a test's thread.
#[test]
fn deep_expressions_fit_the_stack() {
    let document = Document::parse(&"<a>x<p>".repeat(150));
    for (open, close) in [
        ("//p[", "]"),
        ("//p[.//text()[1]/..][", "]"),
        ("not(", ")"),
        ("-(", ")"),
        ("1 + (1 + ", ")"),
        ("concat('a', ", ")"),
        ("(//p)[", "][1]"),
        ("(. | id(", "))"),
    ] {
        let deepest = (1..200).rev().find_map(|depth| {
            let expression = format!("{}.{}", open.repeat(depth), close.repeat(depth));
            Some((depth, XPath::compile(&expression).ok()?))
        });
        let (depth, xpath) = deepest.unwrap();
        assert!(depth >= 30, "{open}: {depth}");
        // What it gives does not matter, nor whether the budget ends it.
        let _ = xpath.evaluate_within(&document, document.root(), 1_000_000);
        let _ = xpath.clone();
    }
}

#[test]
fn hostile_pages_end_by_the_budget() {
    let start = Instant::now();
    let deep = Document::parse(&"<div id=x>x".repeat(100_000));
    let wide = Document::parse(&"<p id=x>x".repeat(100_000));
    for expression in [
        "//*[count(.//*[count(.//*) > 1]) > 1]",
        "count(//*[count(following::*) > count(preceding::*)])",
        "//*/ancestor::*/descendant::*/ancestor::*[2]/following::*[position() mod 2 = 0]",
        "//*[following::*[following::*[following::*[@y]]]]",
        "//*[contains(., 'y')][contains(concat(., .), 'y')]",
        "//node()/../node()/../node()/../node()/..",
        "//*[@id = following::*/@id][. = 'y']",
        "//*[translate(concat(/, /, /, /), 'x', 'yyyyy') = 'y']",
        "//*[count(id(concat(@id, ' ', @id))) > 1]",
    ] {
        for document in [&deep, &wide] {
            let begun = Instant::now();
            let result = XPath::compile(expression).unwrap().evaluate(document, document.root());
            if let Err(error) = result {
                assert!(matches!(error.reason, Reason::Budget(_)), "{error}");
            }
            assert!(begun.elapsed() < PATIENCE, "{expression}: {:?}", begun.elapsed());
        }
    }
    let squared = XPath::compile("//*[count(//*) = 1]").unwrap();
    let error = squared.evaluate(&wide, wide.root()).unwrap_err();
    assert!(matches!(error.reason, Reason::Budget(_)), "{error}");
    println!("{:?}", start.elapsed());
}
