//! Main text of pages built as generators and sites build theirs: what stays, what goes, and how it is laid out.
//!
//! The fixtures are written for these tests, after the structure of the pages they stand for.

use elmwood_web::extract;

#[track_caller]
fn check(html: &str, expect: &str) {
    let text = extract(html.as_bytes(), None).text;
    assert_eq!(text, expect, "\n--- got ---\n{text}\n--- expected ---\n{expect}\n");
}

/// The same, in the body of a page with a main element.
#[track_caller]
fn check_main(html: &str, expect: &str) {
    check(&format!("<!doctype html><title>T</title><body><nav>Home</nav><main>{html}</main>"), expect);
}

#[test]
fn blocks_stand_apart_and_white_space_shrinks() {
    check_main(
        "<h1>An\n  elm</h1><p>One&nbsp; two\n three.</p>tail <b>bold</b>text<div>Four</div><div>five<br>six</div>",
        "An elm\n\nOne two three.\n\ntail boldtext\nFour\nfive\nsix",
    );
    check_main(
        "<blockquote><p>Said &amp; done.</p></blockquote>&lt;end&gt; <q>so</q>",
        "Said & done.\n\n<end> \"so\"",
    );
    check_main("x<sup>2</sup> 1<sup>st</sup> H<sub>2</sub>O so\u{ad}ft<wbr>er", "x^2 1st H2O softer");
}

#[test]
fn lists() {
    check_main("<p>Trees:</p><ul><li>elm<li>oak</ul><p>End", "Trees:\n\n- elm\n- oak\n\nEnd");
    check_main("<ol start=3><li>three<li>four</ol>", "3. three\n4. four");
    check_main(
        "<ul><li><p>One</p><p>more</p></li><li>two<ul><li>deep<li>deeper</ul></li><li></li><li>three</li></ul>",
        "- One\n\n  more\n- two\n  - deep\n  - deeper\n- three",
    );
    check_main(
        "<dl><dt>Elm</dt><dd>A tree.</dd><dt>Oak:<dd><p>Another.</p><dt>Fir</dl>",
        "- Elm: A tree.\n- Oak: Another.\n- Fir",
    );
}

#[test]
fn tables() {
    check_main(
        "<table><thead><tr><th>Tree</th><th>m</th></tr></thead><tr><td><p>Elm</p></td><td>30</td></tr>\
         <tr><td></td><td>25</td></tr><tr><td></td><td></td></tr></table><p>End",
        "Tree | m\nElm | 30\n| 25\n\nEnd",
    );
    let long =
        "A table that lays out a page has cells with paragraphs, which keep lines of their own. ".repeat(6);
    let long = long.trim();
    check_main(&format!("<table><tr><td>{long}<td>{long}</table>"), &format!("{long}\n\n{long}"));
}

#[test]
fn code() {
    check_main(
        "<p>Call <code>f(x)</code> or <code>a`b</code>:</p>\
         <pre><code class=\"language-rust\">fn f() {\n    <span class=kw>let</span> x = 1;\n\n}\n</code></pre><p>End",
        "Call `f(x)` or `` a`b ``:\n\n```rust\nfn f() {\n    let x = 1;\n\n}\n```\n\nEnd",
    );
    check_main("<p>x<pre>\n  a\n ```\nb</pre>", "x\n\n````\n  a\n ```\nb\n````");
    check_main(
        "<code>Vec</code><code>&lt;T&gt;</code> and <code>x</code> <code>y</code>",
        "`Vec<T>` and `x` `y`",
    );
    check_main("<ul><li>Run:<pre>a\n  b</pre>then</ul>", "- Run:\n\n```\na\n  b\n```\n\n  then");
    check_main(
        "<pre><a href=#1 id=1 data-nosnippet>1</a>fn a() {}\n<a href=#2 id=2 data-nosnippet>2</a>// b</pre>",
        "```\nfn a() {}\n// b\n```",
    );
}

/// A page as rustdoc writes it: breadcrumbs, copy button, source links, anchors, run buttons.
#[test]
fn rustdoc_page() {
    let html = r##"<!DOCTYPE html><html lang="en"><head><title>Elm in trees - Rust</title></head>
<body class="rustdoc struct"><a class="skip-main-content" href="#main-content">Skip to main content</a>
<!--[if lte IE 11]><div class="warning">This old browser is unsupported.</div><![endif]-->
<rustdoc-topbar><h2><a href="#">Elm</a></h2></rustdoc-topbar>
<nav class="sidebar"><h2><a href="../trees/index.html">trees</a></h2><ul class="block method"><li><a href="#method.grow">grow</a></li></ul></nav>
<main><div class="width-limiter"><section id="main-content" class="content" tabindex="-1"><div class="main-heading">
<div class="rustdoc-breadcrumbs"><a href="index.html">trees</a>::<wbr><a href="index.html">broad</a></div>
<h1>Struct <span class="struct">Elm</span>&nbsp;<button id="copy-path" title="Copy item path to clipboard">Copy item path</button></h1>
<rustdoc-toolbar></rustdoc-toolbar><span class="sub-heading"><span class="since" title="Stable since 1.0.0">1.0.0</span> · <a class="src" href="../src/trees.rs.html#1">Source</a> </span></div>
<pre class="rust item-decl"><code>pub struct Elm&lt;T&gt;<div class="where">where
    T: <a class="trait" href="trait.Leaf.html">Leaf</a>,</div>{ <span class="comment">/* private fields */</span> }</code></pre>
<details class="toggle top-doc" open><summary class="hideme"><span>Expand description</span></summary><div class="docblock">
<p>A tall <a href="x.html"><code>Elm</code></a>.</p>
<h2 id="examples"><a class="doc-anchor" href="#examples">§</a>Examples</h2>
<div class="example-wrap"><pre class="rust rust-example-rendered"><code><span class="kw">let </span>elm = Elm::new();
<span class="macro">assert!</span>(elm.is_tall());</code></pre><a class="test-arrow" target="_blank" title="Run code" href="https://play.example/"></a></div>
</div></details>
<h2 id="implementations" class="section-header">Implementations<a href="#implementations" class="anchor">§</a></h2><div id="implementations-list">
<details class="toggle implementors-toggle" open><summary><section id="impl-Elm" class="impl"><a class="src rightside" href="../src/trees.rs.html#9">Source</a><a href="#impl-Elm" class="anchor">§</a><h3 class="code-header">impl&lt;T&gt; <a class="struct" href="struct.Elm.html">Elm</a>&lt;T&gt;</h3></section></summary>
<div class="impl-items"><details class="toggle method-toggle" open><summary><section id="method.grow" class="method"><span class="rightside"><span class="since">1.2.0 (const: 1.3.0)</span> · <a class="src" href="../src/trees.rs.html#12">Source</a></span><h4 class="code-header">pub fn <a href="#method.grow" class="fn">grow</a>(&amp;mut self)<div class="where">where
    T: Clone,</div></h4></section></summary><div class="docblock"><p>Grows by a year. <a href="trait.Leaf.html#grow">Read more</a></p></div></details></div></details></div>
<h2 id="traits" class="section-header">Traits<a href="#traits" class="anchor">§</a></h2>
<dl class="item-table"><dt><a class="trait" href="trait.Leaf.html">Leaf</a><wbr><span class="stab unstable" title="">Experimental</span></dt><dd>What an <code>Elm</code> has.</dd><dt><a class="trait" href="trait.Bark.html">Bark</a></dt></dl>
</section></div></main></body></html>"##;
    check(
        html,
        "Struct Elm\n\n```rust\npub struct Elm<T>\nwhere\n    T: Leaf,\n{ /* private fields */ }\n```\n\n\
         A tall `Elm`.\n\nExamples\n\n```rust\nlet elm = Elm::new();\nassert!(elm.is_tall());\n```\n\n\
         Implementations\n\nimpl<T> Elm<T>\n\npub fn grow(&mut self) where T: Clone,\n\nGrows by a year.\n\n\
         Traits\n\n- Leaf Experimental: What an `Elm` has.\n- Bark",
    );
    let page = extract(html.as_bytes(), None);
    assert_eq!(page.title.as_deref(), Some("Elm in trees - Rust"));
    assert_eq!(page.language.as_deref(), Some("en"));
}

/// A page as mdBook writes it: help, menu bar, previous and next chapter, hidden lines of code.
#[test]
fn mdbook_page() {
    let html = r##"<!DOCTYPE HTML><html lang="en" class="light sidebar-visible"><head><title>Growing - Elms</title></head><body>
<div id="mdbook-help-container"><div id="mdbook-help-popup"><h2 class="mdbook-help-title">Keyboard shortcuts</h2><div>
<p>Press <kbd>←</kbd> or <kbd>→</kbd> to navigate between chapters</p><p>Press <kbd>?</kbd> to show this help</p></div></div></div>
<div id="mdbook-body-container"><nav id="mdbook-sidebar" class="sidebar"><ol><li><a href="a.html">Planting</a></li></ol></nav>
<div id="mdbook-page-wrapper" class="page-wrapper"><div class="page"><div id="mdbook-menu-bar" class="menu-bar sticky">
<button title="Change theme">Theme</button><h1 class="menu-title">Elms</h1><a href="print.html" title="Print this book">Print this book</a></div>
<div id="mdbook-content" class="content"><main>
<h1 id="growing"><a class="header" href="#growing">Growing</a></h1>
<p>Elms grow.</p>
<pre class="playground"><code class="language-rust edition2024"><span class="boring">fn main() {
</span>    let elm = plant();
<span class="boring">}</span></code></pre>
<h2 id="comments"><a class="header" href="#comments">Comments</a></h2>
<p>Slowly.<sup class="footnote-reference" id="fr-1-1"><a href="#footnote-1">1</a></sup></p>
<hr><ol class="footnote-definition"><li id="footnote-1"><p>By a year a year. <a href="#fr-1-1">↩</a></p></li></ol>
</main><nav class="nav-wrapper" aria-label="Page navigation"><a rel="prev" href="a.html">Previous chapter</a><a rel="next" href="c.html">Next chapter</a></nav>
</div></div><nav class="nav-wide-wrapper"><a rel="prev" href="a.html">‹</a></nav></div></div></body></html>"##;
    check(
        html,
        "Growing\n\nElms grow.\n\n```rust\n    let elm = plant();\n```\n\nComments\n\nSlowly.[1]\n\n\
         1. By a year a year.",
    );
}

/// A short index page: nothing on it is long enough for prose, and its links are its content.
#[test]
fn index_page() {
    check(
        "<body><nav><a href=/>Home</a></nav><main><h1><a href=#c>Commands</a></h1><ul><li><a href=b>build</a><li><a href=r>run</a></ul></main>",
        "Commands\n\n- build\n- run",
    );
}

/// A news page without semantic elements, as much of the older web is.
#[test]
fn article_without_semantic_elements() {
    let paragraph =
        "The elm on the market square, planted in 1823, was declared a monument on Tuesday, the town said.";
    let html = format!(
        r##"<html><body><div id="top"><ul class="menu"><li><a href=/>News</a></li><li><a href=/s>Sport</a></li></ul></div>
<div id="cookie-notice"><p>We use cookies to improve your experience on this site, as our policy explains at length.</p></div>
<div class="wrap has-sidebar"><div class="story"><h1>Old elm honoured</h1><div class="byline">By A. Writer</div>
<div class="share-buttons"><a href=x>Share on X</a></div>
<figure><img src=e.jpg><figcaption class="caption">The elm. Photo: A. Grapher</figcaption></figure>
<p>{paragraph}</p><p>{paragraph}</p><p style="display: none">{paragraph}</p><p>{paragraph}</p><p>{paragraph}</p>
<p>{paragraph}</p><p>{paragraph}</p><p>{paragraph}</p><p>{paragraph}</p><p>{paragraph}</p><p>{paragraph}</p>
<ul><li><a href=1>Oak felled in storm</a></li><li><a href=2>Ash dieback spreads north</a></li></ul>
<div class="related-stories"><h3>Related</h3><p>{paragraph}</p></div></div>
<div class="sidebar"><h3>Most read</h3><p>{paragraph}</p></div>
<div id="comments"><p>{paragraph}</p></div></div>
<div id="footer"><p>© The Town Crier, all rights reserved, no part of this page may be copied without permission.</p></div>"##
    );
    check(&html, &format!("Old elm honoured{}", format!("\n\n{paragraph}").repeat(10)));
}

/// Names that sound like furniture must not cost a page its text.
#[test]
fn names_are_overruled_by_prose() {
    let paragraph =
        "Elms were planted along the avenue in the last century, and most of them are still standing.";
    check(
        &format!(
            "<body><div class='sidebar-layout hidden'><div class=comments><p>{paragraph}</p><p>{paragraph}</p></div></div>"
        ),
        &format!("{paragraph}\n\n{paragraph}"),
    );
}

#[test]
fn title_and_language() {
    let page = |html: &str| extract(html.as_bytes(), None);
    assert_eq!(page("<h1>Elm <b>tree</b></h1>").title.as_deref(), Some("Elm tree"));
    assert_eq!(page("<meta property=og:title content=' Elm  tree '>").title.as_deref(), Some("Elm tree"));
    assert_eq!(page("<svg><title>icon</title></svg><p>x").title, None);
    assert_eq!(page("<html lang='pt-BR'>").language.as_deref(), Some("pt-BR"));
    assert_eq!(page("<meta http-equiv=Content-Language content=de>").language.as_deref(), Some("de"));
    assert_eq!(page("<html lang='<x>'>").language, None);
    assert_eq!(page(""), elmwood_web::Page::default());
}

#[test]
fn bytes_are_decoded() {
    assert_eq!(extract(b"<meta charset=iso-8859-1><p>\xDClme", None).text, "Ülme");
    assert_eq!(extract(b"<p>\xDClme", Some("latin1")).text, "Ülme");
}
