//! What part each HTML element plays in a page's text.

use html5ever::{LocalName, local_name as name};

/// The part an element plays; everything unknown is [`Part::Inline`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// Never text that a reader sees as such: scripts, styles, controls, embedded things.
    Nothing,
    /// Within a line.
    Inline,
    /// `<a>`.
    Link,
    /// Code within a line.
    Code,
    /// `<sup>`.
    Superscript,
    /// `<q>`.
    Quote,
    /// `<br>`.
    Break,
    /// Lines of its own, with a blank line around: paragraphs, quotations, figures.
    Paragraph,
    /// Lines of its own: divisions and sections.
    Block,
    /// `<h1>` to `<h6>`.
    Heading,
    /// `<pre>` and its ancestors in spirit.
    Pre,
    /// `<ul>`, `<ol>`, `<dl>`.
    List,
    /// `<li>`.
    Item,
    /// `<dt>`.
    Term,
    /// `<dd>`.
    Definition,
    /// `<table>`.
    Table,
    /// `<tr>`.
    Row,
    /// `<td>` and `<th>`.
    Cell,
}

impl Part {
    /// Whether text before and after the element stands on other lines.
    pub(crate) fn is_block(self) -> bool {
        !matches!(
            self,
            Self::Nothing
                | Self::Inline
                | Self::Link
                | Self::Code
                | Self::Superscript
                | Self::Quote
                | Self::Break
        )
    }
}

/// The part of an element by its name.
pub(crate) fn part(local: &LocalName) -> Part {
    match *local {
        name!("a") => Part::Link,
        name!("span") | name!("em") | name!("strong") | name!("b") | name!("i") => Part::Inline,
        name!("code") | name!("tt") | name!("samp") => Part::Code,
        name!("p") | name!("blockquote") | name!("figure") | name!("figcaption") | name!("hr") => {
            Part::Paragraph
        }
        name!("div")
        | name!("section")
        | name!("article")
        | name!("main")
        | name!("body")
        | name!("html")
        | name!("header")
        | name!("footer")
        | name!("nav")
        | name!("aside")
        | name!("form")
        | name!("fieldset")
        | name!("legend")
        | name!("details")
        | name!("summary")
        | name!("address")
        | name!("center")
        | name!("caption")
        | name!("thead")
        | name!("tbody")
        | name!("tfoot")
        | name!("hgroup")
        | name!("search") => Part::Block,
        name!("h1") | name!("h2") | name!("h3") | name!("h4") | name!("h5") | name!("h6") => Part::Heading,
        name!("pre") | name!("listing") | name!("xmp") | name!("plaintext") => Part::Pre,
        name!("ul") | name!("ol") | name!("dl") | name!("menu") | name!("dir") => Part::List,
        name!("li") => Part::Item,
        name!("dt") => Part::Term,
        name!("dd") => Part::Definition,
        name!("table") => Part::Table,
        name!("tr") => Part::Row,
        name!("td") | name!("th") => Part::Cell,
        name!("sup") => Part::Superscript,
        name!("q") => Part::Quote,
        name!("br") => Part::Break,
        name!("script")
        | name!("style")
        | name!("noscript")
        | name!("template")
        | name!("head")
        | name!("svg")
        | name!("iframe")
        | name!("object")
        | name!("embed")
        | name!("audio")
        | name!("video")
        | name!("canvas")
        | name!("map")
        | name!("input")
        | name!("select")
        | name!("option")
        | name!("datalist")
        | name!("button")
        | name!("textarea")
        | name!("label")
        | name!("dialog")
        | name!("progress")
        | name!("meter")
        | name!("noembed")
        | name!("noframes")
        | name!("applet")
        | name!("rp")
        | name!("rt")
        | name!("title") => Part::Nothing,
        _ => Part::Inline,
    }
}
