//! Which elements are furniture of a site rather than its content, by what they call themselves.
//!
//! Three kinds of evidence, from certain to likely: hidden for everybody; furniture of documentation generators,
//! which sits in the middle of the content; and the names that site builders all over the web give to their
//! navigation, sharing buttons, comments and advertisements. The last kind is overruled when most of a page's
//! prose is inside (see `main_text.rs`).

use html5ever::local_name as name;

use crate::dom::{Document, NodeId};
use crate::element::Part;

/// How sure it is that an element holds no content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing speaks against it.
    Content,
    /// About the text rather than of it, such as an author's name or a caption, unless it holds prose of its own.
    Label,
    /// Furniture, unless it holds most of the page's prose.
    Likely,
    /// Furniture or hidden.
    Certain,
}

/// Judges one element.
///
/// `in_content` says whether a `<main>` or `<article>` is above: headers are the content's own there. Within
/// `<pre>` only what generators add is furniture: syntax highlighting has classes such as `comment`.
pub(crate) fn judge(
    document: &Document,
    node: NodeId,
    part: Part,
    in_content: bool,
    in_pre: bool,
) -> Verdict {
    let part = if in_pre { Part::Inline } else { part };
    let Some(local) = document.local_name(node) else { return Verdict::Content };
    let mut verdict = match *local {
        name!("nav") | name!("footer") | name!("menu") | name!("search") => Verdict::Likely,
        name!("header") if !in_content => Verdict::Likely,
        _ => Verdict::Content,
    };
    let is_aside = *local == name!("aside");
    let mut is_note = false;
    let mut is_label = false;
    let is_frame = matches!(*local, name!("html") | name!("body") | name!("main"));
    for (key, value) in document.attributes(node) {
        let found = match key {
            "hidden" if !value.eq_ignore_ascii_case("until-found") => Verdict::Likely,
            "aria-hidden" if value == "true" => Verdict::Likely,
            "style" if hides(value) => Verdict::Likely,
            "role" if part.is_block() => judge_role(value),
            "class" if is_frame => Verdict::Content,
            "class" => {
                is_label |= words(value).any(|word| LABELS.binary_search(&word.text).is_ok());
                is_note |= is_aside && words(value).any(|word| NOTES.contains(&word.text));
                judge_class(value, part)
            }
            "itemprop" => {
                is_label |= matches!(value, "author" | "datePublished" | "dateModified" | "caption");
                Verdict::Content
            }
            // Generators name sections and headings after their titles, and a title may be `Comments`.
            "id" if matches!(part, Part::Block | Part::List | Part::Table)
                && *local != name!("section")
                && !is_frame
                && document.attribute(node, "class") != Some("section")
                && is_furniture(value) =>
            {
                Verdict::Likely
            }
            "data-nosnippet" if in_pre => Verdict::Certain,
            _ => Verdict::Content,
        };
        if found == Verdict::Certain {
            return found;
        }
        if found == Verdict::Likely {
            verdict = found;
        }
    }
    match verdict {
        Verdict::Content if is_aside && !is_note => Verdict::Likely,
        Verdict::Content if is_label && !is_frame && !in_pre => Verdict::Label,
        _ => verdict,
    }
}

fn hides(style: &str) -> bool {
    let compact: String = style.chars().filter(|c| !c.is_whitespace()).take(256).collect();
    let compact = compact.to_ascii_lowercase();
    compact.contains("display:none") || compact.contains("visibility:hidden")
}

fn judge_role(role: &str) -> Verdict {
    const FURNITURE: [&str; 13] = [
        "navigation",
        "banner",
        "contentinfo",
        "complementary",
        "search",
        "dialog",
        "alertdialog",
        "menu",
        "menubar",
        "toolbar",
        "tablist",
        "tooltip",
        "alert",
    ];
    if FURNITURE.contains(&role) { Verdict::Likely } else { Verdict::Content }
}

fn judge_class(class: &str, part: Part) -> Verdict {
    if class.split_ascii_whitespace().any(|name| GENERATOR_FURNITURE.contains(&name)) {
        return Verdict::Certain;
    }
    if part.is_block() && is_furniture(class) { Verdict::Likely } else { Verdict::Content }
}

/// Class names that documentation generators give to furniture inside the content.
#[rustfmt::skip]
const GENERATOR_FURNITURE: &[&str] = &[
    // rustdoc
    "rustdoc-breadcrumbs", "sub-heading", "rightside", "out-of-band", "hideme", "test-arrow", "since", "src-line-numbers",
    "tooltip", "doc-anchor", "scraped-example-list", "example-links",
    // mdBook
    "boring", "nav-wrapper", "nav-wide-wrapper", "mobile-nav-chapters", "menu-bar", "sidebar-scrollbox", "rule-link",
    // Sphinx, Docusaurus, MkDocs, GitHub, JSDoc, Doxygen
    "headerlink", "viewcode-link", "viewcode-back", "hash-link", "md-source-file", "copybtn", "copy-button",
    "zeroclipboard-container", "octicon", "prompt",
    // line numbers beside code
    "linenos", "lineno", "linenodiv", "gutter", "line-numbers-rows", "hljs-ln-numbers", "rouge-gutter",
    // MediaWiki
    "mw-editsection", "noprint", "navbox", "catlinks", "mw-jump-link", "reference-text-hidden",
    // for screen readers only
    "sr-only", "visually-hidden", "visuallyhidden", "screen-reader-text", "skip-link", "skip-main-content",
];

/// Words in the class of an `<aside>` that belongs to the text.
#[rustfmt::skip]
const NOTES: &[&str] = &[
    "note", "tip", "info", "warning", "warn", "caution", "danger", "important", "admonition", "callout", "example",
    "definition", "sidenote", "footnote", "footnotes",
];

/// Whether a class or id has a word that stands for furniture.
fn is_furniture(value: &str) -> bool {
    let is_named = words(value).any(|word| !word.negated && FURNITURE.binary_search(&word.text).is_ok());
    // A `social-embed` is a post that the text quotes.
    is_named && !words(value).any(|word| matches!(word.text, "embed" | "embedded"))
}

/// Words that stand for furniture wherever they occur in a class or id, sorted.
#[rustfmt::skip]
const FURNITURE: &[&str] = &[
    "ad", "ads", "adsense", "advert", "advertisement", "advertising", "adverts", "backlinks", "banner", "breadcrumb",
    "breadcrumbs", "colophon", "comment", "commentlist", "comments", "consent", "cookie", "cookies", "copyright",
    "disqus", "dropdown", "flyout", "footer", "gdpr", "hidden", "legal", "login", "masthead", "menu", "modal", "nav",
    "navbar", "navigation", "navigator", "newsletter", "noprint", "outbrain", "overlay", "pager", "pagination", "paging",
    "popular", "popup", "promo", "promos", "promotion", "ratings", "readmore", "recirc", "recommend",
    "recommendations", "recommended", "related", "replies", "respond", "share", "sharebar", "sharedaddy", "sharing",
    "sidebar", "sidebars", "signup", "skip", "social", "socials", "sponsor", "sponsored", "subnav", "subscribe",
    "subscription", "taboola", "tagcloud", "tags", "teaser", "teasers", "toc", "toolbar", "topbar", "trending",
];

/// Words for what surrounds an article's text: who, when, and what a picture shows. Sorted.
#[rustfmt::skip]
const LABELS: &[&str] = &[
    "author", "authors", "byline", "bylines", "caption", "captions", "credit", "credits", "date", "dateline", "datetime",
    "kicker", "meta", "metadata", "posted", "pubdate", "published", "timestamp", "updated",
];

struct Word<'a> {
    text: &'a str,
    /// Whether the word before says that this thing is only mentioned: `has-sidebar`, `no-comments`.
    negated: bool,
}

/// The lower-case words of a class or id: parts between hyphens, underscores and spaces.
fn words(value: &str) -> impl Iterator<Item = Word<'_>> {
    let mut negated = false;
    value.split(|c: char| !c.is_ascii_alphanumeric()).map(move |text| {
        let word = Word { text, negated };
        negated = matches!(
            text,
            "has" | "with" | "w" | "no" | "not" | "without" | "hide" | "is" | "show" | "enable"
        );
        word
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_sorted() {
        assert!(FURNITURE.is_sorted());
        assert!(LABELS.is_sorted());
    }

    #[test]
    fn names_are_judged_by_whole_words() {
        for furniture in ["sidebar", "left-sidebar", "post_comments clearfix", "ad ad-300"] {
            assert!(is_furniture(furniture), "{furniture}");
        }
        for content in ["has-sidebar", "no-comments", "adder", "download", "shared-memory", ""] {
            assert!(!is_furniture(content), "{content}");
        }
    }
}
