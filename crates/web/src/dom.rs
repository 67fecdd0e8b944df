//! A page as a flat tree.
//!
//! Nodes live in one vector in document order and point at each other by index; attributes, their values and the
//! text live in three more. So document order is the order of numbers, what is below a node is a range, and the
//! text below it is a slice. Nothing recurses: not parsing, not walking, not dropping.
//!
//! html5ever's tree builder decides the shape, as the HTML standard says. It builds into `dom/tree.rs` by way of
//! `dom/sink.rs`, where a filter keeps hostile pages within [`Limits`].

mod attribute_cap;
mod index;
mod sink;
mod tree;
mod walk;

use std::cell::RefCell;
use std::ops::Range;
use std::sync::OnceLock;

use html5ever::interface::TreeSink as _;
use html5ever::tendril::StrTendril;
use html5ever::tokenizer::{BufferQueue, Tokenizer, TokenizerOpts};
use html5ever::tree_builder::{TreeBuilder, TreeBuilderOpts};
use html5ever::{LocalName, TokenizerResult};

use attribute_cap::cap_attributes;
pub(crate) use index::Index;
use sink::{Filter, Sink};
pub use walk::{Ancestors, Attributes, Children, Descendants};

/// How large a page may become before the rest is cut or flattened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most nodes in a document; what follows is dropped and [`Document::truncated`] says so. The tree builder
    /// finishes the tag at hand, so the count may end a few thousand higher.
    pub n_nodes: usize,
    /// Most edges between the root and a node; what is nested deeper becomes siblings at this depth.
    pub depth: usize,
    /// How many attributes a tag may always have; after at most twice as many, its rest is read as text.
    pub n_attributes: usize,
}

impl Default for Limits {
    /// 10⁶ nodes, depth 512, 512 attributes.
    fn default() -> Self {
        Self { n_nodes: 1_000_000, depth: 512, n_attributes: 512 }
    }
}

/// A node of one [`Document`], ordered as in the page. Meaningless in any other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(u32);

impl NodeId {
    fn new(index: usize) -> Self {
        Self(u32::try_from(index).expect("the node limit is far below 2³²"))
    }

    /// The node with this number in document order.
    pub(crate) fn at(number: u32) -> Self {
        Self(number)
    }

    /// The place of this node in document order.
    pub(crate) fn number(self) -> u32 {
        self.0
    }

    /// The place of this node in document order, below [`Document::len`]: an index for side tables.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeKind {
    /// The root, above `<html>`.
    Document,
    /// An element such as `<p>`.
    Element,
    /// A run of text; two are neighbours only where the depth limit flattened the page.
    Text,
    /// A comment or processing instruction.
    Comment,
}

/// A parsed page.
#[derive(Debug, Clone)]
pub struct Document {
    /// Attached nodes in document order, so that what is below a node is a range.
    nodes: Vec<Node>,
    attributes: Vec<Attribute>,
    /// All attribute values and comments, one behind the other.
    values: String,
    /// All text in document order, so that the text below a node is a slice.
    texts: String,
    truncated: bool,
    index: OnceLock<Index>,
}

impl Document {
    /// Parses `html` within the default [`Limits`]. Any text is a page: parsing never fails.
    pub fn parse(html: &str) -> Self {
        Self::parse_with(html, Limits::default())
    }

    /// Parses `html` within `limits`.
    ///
    /// # Source
    /// HTML standard, section 13.2, by html5ever with scripting disabled.
    /// Differs: the contents of a `<template>` are its children; [`Limits`] flatten or cut.
    pub fn parse_with(html: &str, limits: Limits) -> Self {
        let html = cap_attributes(html, limits.n_attributes);
        let sink = Sink::new(&limits, html.len());
        let options = TreeBuilderOpts { scripting_enabled: false, ..TreeBuilderOpts::default() };
        let builder = TreeBuilder::new(sink, options);
        let filter = Filter { builder, limits, skipped: RefCell::new(Vec::new()) };
        let tokenizer = Tokenizer::new(filter, TokenizerOpts::default());
        let input = BufferQueue::default();
        let mut rest = html.as_ref();
        while !rest.is_empty() && !tokenizer.sink.is_full() {
            let mut end = rest.len().min(FEED_BYTES);
            while !rest.is_char_boundary(end) {
                end -= 1;
            }
            let (piece, after) = rest.split_at(end);
            rest = after;
            input.push_back(StrTendril::from_slice(piece));
            while !matches!(tokenizer.feed(&input), TokenizerResult::Done) {}
        }
        if rest.is_empty() {
            tokenizer.end();
        }
        let mut tree = tokenizer.sink.builder.sink.finish();
        tree.truncated |= !rest.is_empty();
        tree.flatten(limits.depth);
        tree.into_document()
    }

    /// Whether a limit cut a part of the page off.
    pub fn truncated(&self) -> bool {
        self.truncated
    }

    /// How many nodes the document has, the root included.
    #[expect(clippy::len_without_is_empty, reason = "a document has a root, so it is never empty")]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// The root, above `<html>`.
    pub fn root(&self) -> NodeId {
        ROOT
    }

    /// What `node` is.
    pub fn kind(&self, node: NodeId) -> NodeKind {
        self.nodes[node.index()].kind
    }

    /// The name of an element without its namespace, in lower case for HTML; `None` for other nodes.
    pub fn name(&self, node: NodeId) -> Option<&str> {
        self.local_name(node).map(|name| &**name)
    }

    /// The same name as an interned atom, which compares in one instruction.
    pub(crate) fn local_name(&self, node: NodeId) -> Option<&LocalName> {
        self.nodes[node.index()].name.as_ref()
    }

    /// Whether a node is an element of HTML rather than of SVG or MathML.
    pub(crate) fn is_html(&self, node: NodeId) -> bool {
        self.nodes[node.index()].is_html
    }

    /// The characters of a text node or comment; `None` for other nodes.
    pub fn value(&self, node: NodeId) -> Option<&str> {
        matches!(self.kind(node), NodeKind::Text | NodeKind::Comment).then(|| self.string_value(node))
    }

    /// All text below a node, as one piece; of a text node or comment, its characters. Takes constant time.
    ///
    /// # Source
    /// XPath 1.0, section 5: the string-value of a node.
    pub fn string_value(&self, node: NodeId) -> &str {
        let node = &self.nodes[node.index()];
        match node.kind {
            NodeKind::Comment => &self.values[node.content.start as usize..node.content.end as usize],
            _ => {
                let end =
                    self.nodes.get(node.end as usize).map_or(self.texts.len(), |n| n.text_start as usize);
                &self.texts[node.text_start as usize..end]
            }
        }
    }

    /// The value of an attribute, by its name in lower case.
    pub fn attribute(&self, node: NodeId, name: &str) -> Option<&str> {
        self.attributes(node).find(|(key, _)| *key == name).map(|(_, value)| value)
    }

    /// All attributes of a node as name and value, in the order of the page.
    pub fn attributes(&self, node: NodeId) -> Attributes<'_> {
        Attributes { document: self, inner: self.attribute_list(node).iter() }
    }

    /// The node above.
    pub fn parent(&self, node: NodeId) -> Option<NodeId> {
        self.nodes[node.index()].parent.get()
    }

    /// The first node below.
    pub fn first_child(&self, node: NodeId) -> Option<NodeId> {
        (self.end(node) > node.0 + 1).then_some(NodeId(node.0 + 1))
    }

    /// The last node below.
    pub fn last_child(&self, node: NodeId) -> Option<NodeId> {
        self.nodes[node.index()].last_child.get()
    }

    /// The node before, under the same parent.
    pub fn previous_sibling(&self, node: NodeId) -> Option<NodeId> {
        self.nodes[node.index()].previous.get()
    }

    /// The node after, under the same parent.
    pub fn next_sibling(&self, node: NodeId) -> Option<NodeId> {
        let next = self.end(node);
        (next < self.end(self.parent(node)?)).then_some(NodeId(next))
    }

    /// The nodes directly below `node`, first to last.
    pub fn children(&self, node: NodeId) -> Children<'_> {
        Children { document: self, next: self.first_child(node) }
    }

    /// All nodes below `node`, itself excluded, in document order.
    pub fn descendants(&self, node: NodeId) -> Descendants {
        Descendants { inner: node.0 + 1..self.end(node) }
    }

    /// The nodes above `node`, nearest first, the root last.
    pub fn ancestors(&self, node: NodeId) -> Ancestors<'_> {
        Ancestors { document: self, next: self.parent(node) }
    }

    /// The pieces of text below `node` (or of `node` itself), in document order, as they stand in the page.
    pub fn text(&self, node: NodeId) -> impl Iterator<Item = &str> {
        let is_text = |&node: &NodeId| self.kind(node) == NodeKind::Text;
        let nodes = std::iter::once(node).chain(self.descendants(node));
        nodes.filter(is_text).map(|node| self.string_value(node))
    }

    /// The node that follows `node` in document order, leaving out what is below it, within `top`.
    pub(crate) fn next_outside(&self, node: NodeId, top: NodeId) -> Option<NodeId> {
        let next = self.end(node);
        (next < self.end(top)).then_some(NodeId(next))
    }

    /// The number of the first node in document order that is neither `node` nor below it.
    pub(crate) fn end(&self, node: NodeId) -> u32 {
        self.nodes[node.index()].end
    }

    /// The attributes of a node by position: names as atoms, values by [`Document::attribute_value`].
    pub(crate) fn attribute_list(&self, node: NodeId) -> &[Attribute] {
        let node = &self.nodes[node.index()];
        match node.kind {
            NodeKind::Element => &self.attributes[node.content.start as usize..node.content.end as usize],
            _ => &[],
        }
    }

    /// The value of one attribute of [`Document::attribute_list`].
    pub(crate) fn attribute_value(&self, attribute: &Attribute) -> &str {
        &self.values[attribute.value.start as usize..attribute.value.end as usize]
    }

    /// Where names occur. Made when first asked for, in one pass over the document.
    pub(crate) fn index(&self) -> &Index {
        self.index.get_or_init(|| Index::new(self))
    }
}

const ROOT: NodeId = NodeId(0);

/// Text goes to the tokenizer in pieces, so that a full document stops it early.
const FEED_BYTES: usize = 1 << 16;

#[derive(Debug, Clone)]
struct Node {
    parent: Link,
    previous: Link,
    last_child: Link,
    /// One past the number of the last node below, or of this node if there is none.
    end: u32,
    /// How many bytes of text stand before this node.
    text_start: u32,
    /// The attributes of an element, the characters of a comment in `values`.
    content: Range<u32>,
    name: Option<LocalName>,
    kind: NodeKind,
    is_html: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct Attribute {
    pub(crate) name: LocalName,
    value: Range<u32>,
}

/// An optional [`NodeId`] in four bytes.
#[derive(Debug, Clone, Copy)]
struct Link(u32);

impl Link {
    const NONE: Self = Self(u32::MAX);

    fn to(node: NodeId) -> Self {
        Self(node.0)
    }

    fn get(self) -> Option<NodeId> {
        (self.0 != u32::MAX).then_some(NodeId(self.0))
    }
}

#[cfg(test)]
mod tests {
    use html5ever::interface::TreeSink as _;

    use super::*;

    /// The tree as nested names and quoted text.
    fn outline(html: &str, limits: Limits) -> String {
        let document = Document::parse_with(html, limits);
        let mut out = String::new();
        let mut open: Vec<NodeId> = Vec::new();
        for node in document.descendants(document.root()) {
            while open.last().is_some_and(|&above| document.parent(node) != Some(above)) {
                open.pop();
                out.push(')');
            }
            match document.name(node) {
                Some(name) => {
                    out.push_str(&format!("({name}"));
                    open.push(node);
                }
                None => out.push_str(&format!(" {:?}", document.value(node).unwrap())),
            }
        }
        out.push_str(&")".repeat(open.len()));
        out
    }

    #[track_caller]
    fn check(html: &str, body: &str) {
        assert_eq!(outline(html, Limits::default()), format!("(html(head)(body{body}))"));
    }

    #[test]
    fn the_standard_shapes_the_tree() {
        check("<p>a<p>b", "(p \"a\")(p \"b\")");
        check("<b>a<p>b</b>c", "(b \"a\")(p(b \"b\") \"c\")");
        check("<table>a<tr><td>b</table>c", " \"a\"(table(tbody(tr(td \"b\")))) \"c\"");
        check("<ul><li>a<li>b</ul>", "(ul(li \"a\")(li \"b\"))");
        check("<body>a<!--c--><noscript><p>b</noscript>", " \"a\" \"c\"(noscript(p \"b\"))");
    }

    #[test]
    fn depth_is_limited_in_document_order() {
        let html = "<div>a<p>b<i>c<u>d</u>e</i>f</p>g</div>h";
        let limits = Limits { depth: 4, ..Limits::default() };
        assert_eq!(outline(html, limits), "(html(head)(body(div \"abcdefg\") \"h\"))");

        // The same without the filter before the tree builder, by moving nodes of the finished tree.
        let options = TreeBuilderOpts::default();
        let builder = TreeBuilder::new(Sink::new(&Limits::default(), html.len()), options);
        let tokenizer = Tokenizer::new(builder, TokenizerOpts::default());
        let input = BufferQueue::default();
        input.push_back(StrTendril::from_slice(html));
        let _ = tokenizer.feed(&input);
        tokenizer.end();
        let mut tree = tokenizer.sink.sink.finish();
        tree.flatten(4);
        let document = tree.into_document();
        let text: Vec<&str> = document.text(document.root()).collect();
        assert_eq!(text, ["a", "b", "c", "d", "e", "f", "g", "h"]);
        let depths = document.descendants(document.root()).map(|node| document.ancestors(node).count());
        assert_eq!(depths.max(), Some(4));
    }

    #[test]
    fn links_agree_with_each_other() {
        let document = Document::parse("<a>1<table>2<b><tr><td>3</b><p>4</a>5<div>6");
        for node in std::iter::once(document.root()).chain(document.descendants(document.root())) {
            let children: Vec<_> = document.children(node).collect();
            assert_eq!(children.first().copied(), document.first_child(node));
            assert_eq!(children.last().copied(), document.last_child(node));
            for pair in children.windows(2) {
                assert_eq!(document.previous_sibling(pair[1]), Some(pair[0]));
            }
            assert!(children.iter().all(|&child| document.parent(child) == Some(node)));
        }
    }

    #[test]
    fn attributes_and_text() {
        let document =
            Document::parse("<html lang=en><html lang=de dir=ltr><p ID=x class='a &amp; b' id=y>1<b>2</b>3");
        let find =
            |name| document.descendants(document.root()).find(|&node| document.name(node) == Some(name));
        let p = find("p").unwrap();
        assert_eq!(document.attributes(p).collect::<Vec<_>>(), [("id", "x"), ("class", "a & b")]);
        assert_eq!(document.text(p).collect::<String>(), "123");
        let html = find("html").unwrap();
        assert_eq!(document.attributes(html).collect::<Vec<_>>(), [("lang", "en"), ("dir", "ltr")]);
        assert_eq!(document.ancestors(p).count(), 3);
    }
}
