//! Hostile and broken pages: no panic, no overflow, bounded time.

use std::time::{Duration, Instant};

use elmwood_web::{Document, Limits, extract};

/// Far more than any of these takes, far less than quadratic behaviour would.
const PATIENCE: Duration = Duration::from_secs(20);

#[track_caller]
fn check(html: &[u8]) -> elmwood_web::Page {
    let start = Instant::now();
    let page = extract(html, None);
    let elapsed = start.elapsed();
    assert!(elapsed < PATIENCE, "{} bytes took {elapsed:?}", html.len());
    page
}

#[test]
fn deep_nesting_is_flattened() {
    for tag in [
        "div",
        "b",
        "ul><li",
        "table><tr><td",
        "blockquote",
        "code",
        "pre",
        "sup",
        "svg",
        "template",
        "a x",
        "font",
    ] {
        let open = format!("<{tag}>").repeat(100_000);
        check(format!("{open}deep<p>after").as_bytes());
        let names: Vec<&str> =
            tag.split("><").map(|name| name.split(' ').next().unwrap_or_default()).collect();
        let close: String = names.iter().rev().map(|name| format!("</{name}>")).collect();
        let html = format!("{open}deep{}<p>after", close.repeat(100_000));
        check(html.as_bytes());
        let document = Document::parse(&html);
        let text: String = document.text(document.root()).collect();
        assert_eq!(text, "deepafter", "{tag}");
    }
    let document = Document::parse(&"<div>".repeat(100_000));
    let deepest = document.descendants(document.root()).map(|node| document.ancestors(node).count()).max();
    assert!(deepest <= Some(Limits::default().depth), "{deepest:?}");
}

#[test]
fn formatting_elements_do_not_multiply_without_bound() {
    let html: String = (0..20_000).map(|i| format!("<p><b x={i}>t</p>")).collect();
    check(html.as_bytes());
    let long = "v".repeat(1 << 20);
    check(format!("<b x={long}><p>{}", "</p><p>t".repeat(20_000)).as_bytes());
    check("<a><table>".repeat(20_000).as_bytes());
    check("<table><b>x".repeat(20_000).as_bytes());
    check("<b><div></b>x".repeat(50_000).as_bytes());
}

#[test]
fn giant_parts() {
    let long = "x ".repeat(4 << 20);
    assert_eq!(check(format!("<p title=\"{long}\">t").as_bytes()).text, "t");
    check(format!("<p {long}>t").as_bytes());
    check(format!("<p {}>t", (0..500_000).map(|i| format!("a{i}=1 ")).collect::<String>()).as_bytes());
    check(format!("<{long}").as_bytes());
    check(format!("<!--{long}").as_bytes());
    assert_eq!(check(format!("<p>{long}").as_bytes()).text.len(), long.len() - 1);
    check("<!-".repeat(1 << 20).as_bytes());
    check("<".repeat(1 << 22).as_bytes());
    check("&".repeat(1 << 22).as_bytes());
    check("</p>".repeat(1 << 20).as_bytes());
}

#[test]
fn node_limit_cuts() {
    let limits = Limits { n_nodes: 1000, ..Limits::default() };
    let document = Document::parse_with(&"<p>x".repeat(100_000), limits);
    assert!(document.truncated() && document.len() < 40_000);
    assert!(!Document::parse("<p>x").truncated());
}

#[test]
fn odd_ends_and_characters() {
    let endings = [
        "<p>a\0b\0",
        "<pre>\n  open",
        "<p>t<script>if (a < b",
        "<title>open",
        "<textarea>open",
        "<!doctype",
        "<p>&am",
        "<p>&#x41",
        "<p>&#99999999999;",
        "<a href='",
        "<a href=",
        "<a ",
        "<",
        "</",
        "<!",
        "<!--",
        "<![CDATA[",
        "<?php",
        "<plaintext>a<b>",
        "<svg><![CDATA[x",
        "<math><mi>x<p>y",
        "<frameset><p>x",
        "<select><option>x<p>y",
        "<template><p>x",
        "\u{feff}<p>x",
        "</html>x</body>y",
    ];
    for ending in endings {
        check(ending.as_bytes());
    }
    assert_eq!(check(b"<pre>\n  open").text, "```\n  open\n```");
    assert_eq!(check(b"<p>a &amp b &#65").text, "a & b A");
    assert_eq!(check(b"<p>seen<script>if (a < b").text, "seen");
}

#[test]
fn truncations_and_flips() {
    let page = include_bytes!("pages.rs");
    let html = &page[page.windows(9).position(|window| window == b"<!DOCTYPE").unwrap()..];
    for end in (0..html.len()).step_by(7) {
        check(&html[..end]);
    }
    // Xorshift: the same flips in every run.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as usize
    };
    for _ in 0..2000 {
        let mut flipped = html.to_vec();
        for _ in 0..1 + next() % 20 {
            let at = next() % flipped.len();
            flipped[at] = if next() % 2 == 0 { b"<>/&\"'= \0"[next() % 9] } else { next() as u8 };
        }
        check(&flipped);
    }
}
