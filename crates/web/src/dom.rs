//! A page as a flat tree.
//!
//! Nodes live in one vector and point at each other by index; attributes and their values live in two more.
//! Nothing recurses: not parsing, not walking, not dropping. html5ever's tree builder decides the shape, as the
//! HTML standard says; this file is the sink that it builds into, and a filter before it that keeps hostile
//! pages within [`Limits`].

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::ops::Range;

use html5ever::interface::{ElementFlags, NodeOrText, QuirksMode, TreeSink};
use html5ever::tendril::StrTendril;
use html5ever::tokenizer::{
    BufferQueue, Tag, TagKind, Token, TokenSink, TokenSinkResult, Tokenizer, TokenizerOpts,
};
use html5ever::tree_builder::{TreeBuilder, TreeBuilderOpts};
use html5ever::{Attribute as ParsedAttribute, LocalName, QualName, TokenizerResult, local_name, ns};

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

/// A node of one [`Document`]. Meaningless in any other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(u32);

impl NodeId {
    /// The place of this node in the arena, below [`Document::len`]: an index for side tables.
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
    nodes: Vec<Node>,
    attributes: Vec<Attribute>,
    /// All attribute values, one behind the other.
    values: String,
    truncated: bool,
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
        let mut document = tokenizer.sink.builder.sink.finish();
        document.truncated |= !rest.is_empty();
        document.flatten(limits.depth);
        document
    }

    /// Whether a limit cut a part of the page off.
    pub fn truncated(&self) -> bool {
        self.truncated
    }

    /// How many nodes the arena holds, those that parsing detached included.
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
        match self.nodes[node.index()].data {
            Data::Document => NodeKind::Document,
            Data::Element { .. } => NodeKind::Element,
            Data::Text(_) => NodeKind::Text,
            Data::Comment(_) => NodeKind::Comment,
        }
    }

    /// The name of an element without its namespace, in lower case for HTML; `None` for other nodes.
    pub fn name(&self, node: NodeId) -> Option<&str> {
        self.local_name(node).map(|name| &**name)
    }

    /// The same name as an interned atom, which compares in one instruction.
    pub(crate) fn local_name(&self, node: NodeId) -> Option<&LocalName> {
        match &self.nodes[node.index()].data {
            Data::Element { name, .. } => Some(&name.local),
            _ => None,
        }
    }

    /// Whether a node is an element of HTML rather than of SVG or MathML.
    pub(crate) fn is_html(&self, node: NodeId) -> bool {
        matches!(&self.nodes[node.index()].data, Data::Element { name, .. } if name.ns == ns!(html))
    }

    /// The characters of a text node or comment; `None` for other nodes.
    pub fn value(&self, node: NodeId) -> Option<&str> {
        match &self.nodes[node.index()].data {
            Data::Text(text) | Data::Comment(text) => Some(text),
            _ => None,
        }
    }

    /// The value of an attribute, by its name in lower case.
    pub fn attribute(&self, node: NodeId, name: &str) -> Option<&str> {
        self.attributes(node).find(|(key, _)| *key == name).map(|(_, value)| value)
    }

    /// All attributes of a node as name and value, in the order of the page.
    pub fn attributes(&self, node: NodeId) -> Attributes<'_> {
        let range = match &self.nodes[node.index()].data {
            Data::Element { attributes, .. } => attributes.start as usize..attributes.end as usize,
            _ => 0..0,
        };
        Attributes { document: self, inner: self.attributes[range].iter() }
    }

    /// The node above.
    pub fn parent(&self, node: NodeId) -> Option<NodeId> {
        self.nodes[node.index()].parent.get()
    }

    /// The first node below.
    pub fn first_child(&self, node: NodeId) -> Option<NodeId> {
        self.nodes[node.index()].first_child.get()
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
        self.nodes[node.index()].next.get()
    }

    /// The nodes directly below `node`, first to last.
    pub fn children(&self, node: NodeId) -> Children<'_> {
        Children { document: self, next: self.first_child(node) }
    }

    /// All nodes below `node`, itself excluded, in document order.
    pub fn descendants(&self, node: NodeId) -> Descendants<'_> {
        Descendants { document: self, top: node, next: self.first_child(node) }
    }

    /// The nodes above `node`, nearest first, the root last.
    pub fn ancestors(&self, node: NodeId) -> Ancestors<'_> {
        Ancestors { document: self, next: self.parent(node) }
    }

    /// The pieces of text below `node` (or of `node` itself), in document order, as they stand in the page.
    pub fn text(&self, node: NodeId) -> impl Iterator<Item = &str> {
        std::iter::once(node).chain(self.descendants(node)).filter_map(|node| {
            match &self.nodes[node.index()].data {
                Data::Text(text) => Some(text.as_str()),
                _ => None,
            }
        })
    }

    /// The node that follows `node` in document order, leaving out what is below it, within `top`.
    pub(crate) fn next_outside(&self, node: NodeId, top: NodeId) -> Option<NodeId> {
        let mut node = node;
        loop {
            if node == top {
                return None;
            }
            if let Some(next) = self.next_sibling(node) {
                return Some(next);
            }
            node = self.parent(node)?;
        }
    }

    /// Lifts every node below the depth limit to it: deeper content becomes siblings, in document order.
    fn flatten(&mut self, limit: usize) {
        let mut depth = 0_usize;
        let mut node = ROOT;
        loop {
            // Down, then right, then up; `depth` is that of `node`.
            if depth == limit {
                while let Some(child) = self.last_child(node) {
                    self.detach(child);
                    self.insert_after(node, child);
                }
            }
            if let Some(child) = self.first_child(node) {
                (node, depth) = (child, depth + 1);
                continue;
            }
            loop {
                if node == ROOT {
                    return;
                }
                if let Some(next) = self.next_sibling(node) {
                    node = next;
                    break;
                }
                let Some(parent) = self.parent(node) else { return };
                (node, depth) = (parent, depth - 1);
            }
        }
    }

    fn push(&mut self, data: Data) -> NodeId {
        let id = NodeId(u32::try_from(self.nodes.len()).expect("the node limit is far below 2³²"));
        self.nodes.push(Node {
            parent: Link::NONE,
            first_child: Link::NONE,
            last_child: Link::NONE,
            previous: Link::NONE,
            next: Link::NONE,
            depth: 0,
            data,
        });
        id
    }

    fn detach(&mut self, id: NodeId) {
        let Node { parent, previous, next, .. } = self.nodes[id.index()];
        match previous.get() {
            Some(previous) => self.nodes[previous.index()].next = next,
            None => {
                if let Some(parent) = parent.get() {
                    self.nodes[parent.index()].first_child = next;
                }
            }
        }
        match next.get() {
            Some(next) => self.nodes[next.index()].previous = previous,
            None => {
                if let Some(parent) = parent.get() {
                    self.nodes[parent.index()].last_child = previous;
                }
            }
        }
        let node = &mut self.nodes[id.index()];
        (node.parent, node.previous, node.next) = (Link::NONE, Link::NONE, Link::NONE);
    }

    fn append(&mut self, parent: NodeId, child: NodeId) {
        let last = self.nodes[parent.index()].last_child;
        let depth = self.nodes[parent.index()].depth + 1;
        let node = &mut self.nodes[child.index()];
        (node.parent, node.previous, node.depth) = (Link::to(parent), last, depth);
        match last.get() {
            Some(last) => self.nodes[last.index()].next = Link::to(child),
            None => self.nodes[parent.index()].first_child = Link::to(child),
        }
        self.nodes[parent.index()].last_child = Link::to(child);
    }

    fn insert_before(&mut self, sibling: NodeId, child: NodeId) {
        let Node { parent, previous, depth, .. } = self.nodes[sibling.index()];
        let node = &mut self.nodes[child.index()];
        (node.parent, node.previous, node.next, node.depth) = (parent, previous, Link::to(sibling), depth);
        match previous.get() {
            Some(previous) => self.nodes[previous.index()].next = Link::to(child),
            None => {
                if let Some(parent) = parent.get() {
                    self.nodes[parent.index()].first_child = Link::to(child);
                }
            }
        }
        self.nodes[sibling.index()].previous = Link::to(child);
    }

    fn insert_after(&mut self, sibling: NodeId, child: NodeId) {
        match (self.next_sibling(sibling), self.parent(sibling)) {
            (Some(next), _) => self.insert_before(next, child),
            (None, Some(parent)) => self.append(parent, child),
            (None, None) => {}
        }
    }
}

/// See [`Document::children`].
#[derive(Debug, Clone)]
pub struct Children<'a> {
    document: &'a Document,
    next: Option<NodeId>,
}

impl Iterator for Children<'_> {
    type Item = NodeId;

    fn next(&mut self) -> Option<NodeId> {
        let node = self.next?;
        self.next = self.document.next_sibling(node);
        Some(node)
    }
}

/// See [`Document::descendants`].
#[derive(Debug, Clone)]
pub struct Descendants<'a> {
    document: &'a Document,
    top: NodeId,
    next: Option<NodeId>,
}

impl Iterator for Descendants<'_> {
    type Item = NodeId;

    fn next(&mut self) -> Option<NodeId> {
        let node = self.next?;
        self.next = self.document.first_child(node).or_else(|| self.document.next_outside(node, self.top));
        Some(node)
    }
}

/// See [`Document::ancestors`].
#[derive(Debug, Clone)]
pub struct Ancestors<'a> {
    document: &'a Document,
    next: Option<NodeId>,
}

impl Iterator for Ancestors<'_> {
    type Item = NodeId;

    fn next(&mut self) -> Option<NodeId> {
        let node = self.next?;
        self.next = self.document.parent(node);
        Some(node)
    }
}

/// See [`Document::attributes`].
#[derive(Debug, Clone)]
pub struct Attributes<'a> {
    document: &'a Document,
    inner: std::slice::Iter<'a, Attribute>,
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        let attribute = self.inner.next()?;
        let value = attribute.value.start as usize..attribute.value.end as usize;
        Some((&attribute.name, &self.document.values[value]))
    }
}

const ROOT: NodeId = NodeId(0);

/// Text goes to the tokenizer in pieces, so that a full document stops it early.
const FEED_BYTES: usize = 1 << 16;

#[derive(Debug, Clone)]
struct Node {
    parent: Link,
    first_child: Link,
    last_child: Link,
    previous: Link,
    next: Link,
    /// While parsing: how deep the node was when it was inserted. Stale once an ancestor has moved.
    depth: u32,
    data: Data,
}

#[derive(Debug, Clone)]
enum Data {
    Document,
    Element { name: QualName, attributes: Range<u32> },
    Text(String),
    Comment(String),
}

#[derive(Debug, Clone)]
struct Attribute {
    name: LocalName,
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

/// Between tokenizer and tree builder: drops start tags at the depth limit, and everything when full.
///
/// The tree builder searches its stack of open elements at most tags, so without this, nesting costs quadratic
/// time. The end tag of a dropped start tag is dropped too; text goes on to the element that is open.
struct Filter {
    builder: TreeBuilder<NodeId, Sink>,
    limits: Limits,
    /// Names of the dropped start tags whose end tags are still to come.
    skipped: RefCell<Vec<LocalName>>,
}

/// An end tag is matched with this many of the dropped start tags before it.
const SKIPPED_LOOKBACK: usize = 16;

impl Filter {
    fn is_full(&self) -> bool {
        self.builder.sink.document.borrow().len() >= self.limits.n_nodes
    }

    fn is_dropped(&self, tag: &Tag) -> bool {
        let mut skipped = self.skipped.borrow_mut();
        match tag.kind {
            TagKind::StartTag => {
                let too_deep = self.builder.sink.depth.get() + 1 >= self.limits.depth;
                if !too_deep || is_leaf(&tag.name) {
                    return false;
                }
                skipped.push(tag.name.clone());
                true
            }
            TagKind::EndTag if skipped.is_empty() => false,
            TagKind::EndTag => {
                let from = skipped.len().saturating_sub(SKIPPED_LOOKBACK);
                let found = skipped[from..].iter().rposition(|name| *name == tag.name);
                if let Some(position) = found {
                    skipped.truncate(from + position);
                }
                found.is_some()
            }
        }
    }
}

impl TokenSink for Filter {
    type Handle = NodeId;

    fn process_token(&self, token: Token, line: u64) -> TokenSinkResult<NodeId> {
        match &token {
            Token::ParseError(_) => return TokenSinkResult::Continue,
            Token::TagToken(tag) if self.is_full() || self.is_dropped(tag) => {
                return TokenSinkResult::Continue;
            }
            _ => {}
        }
        self.builder.process_token(token, line)
    }

    fn end(&self) {
        self.builder.end();
    }

    fn adjusted_current_node_present_but_not_in_html_namespace(&self) -> bool {
        self.builder.adjusted_current_node_present_but_not_in_html_namespace()
    }
}

/// Elements that hold no elements; some of them also switch the tokenizer, so they must reach the tree builder.
fn is_leaf(name: &LocalName) -> bool {
    matches!(
        *name,
        local_name!("area")
            | local_name!("base")
            | local_name!("br")
            | local_name!("col")
            | local_name!("embed")
            | local_name!("hr")
            | local_name!("iframe")
            | local_name!("img")
            | local_name!("input")
            | local_name!("link")
            | local_name!("meta")
            | local_name!("noembed")
            | local_name!("noframes")
            | local_name!("param")
            | local_name!("plaintext")
            | local_name!("script")
            | local_name!("source")
            | local_name!("style")
            | local_name!("textarea")
            | local_name!("title")
            | local_name!("track")
            | local_name!("wbr")
            | local_name!("xmp")
    )
}

/// What html5ever builds into.
struct Sink {
    document: RefCell<Document>,
    /// The depth of the node that the tree builder is at.
    depth: Cell<usize>,
    /// Most bytes of attribute values: the tree builder copies formatting elements, and a long value copied for
    /// each paragraph would fill the memory.
    value_bytes: usize,
}

impl Sink {
    fn new(limits: &Limits, html_bytes: usize) -> Self {
        let n_nodes = (html_bytes / 32).min(limits.n_nodes);
        let mut document = Document {
            nodes: Vec::with_capacity(n_nodes),
            attributes: Vec::with_capacity(n_nodes / 2),
            values: String::with_capacity(html_bytes / 8),
            truncated: false,
        };
        document.push(Data::Document);
        let value_bytes = html_bytes.saturating_mul(2).min(u32::MAX as usize);
        Self { document: RefCell::new(document), depth: Cell::new(0), value_bytes }
    }

    fn add_attributes(&self, document: &mut Document, attributes: Vec<ParsedAttribute>) {
        for ParsedAttribute { name, value } in attributes {
            if document.values.len() + value.len() > self.value_bytes {
                document.truncated = true;
                continue;
            }
            let start = document.values.len() as u32;
            document.values.push_str(&value);
            let value = start..document.values.len() as u32;
            document.attributes.push(Attribute { name: name.local, value });
        }
    }

    /// Makes text a part of its left neighbour if that is text too, as the standard wants.
    fn node_for(&self, previous: Option<NodeId>, child: NodeOrText<NodeId>) -> Option<NodeId> {
        let mut document = self.document.borrow_mut();
        match child {
            NodeOrText::AppendNode(node) => {
                document.detach(node);
                Some(node)
            }
            NodeOrText::AppendText(new) => {
                if let Some(previous) = previous
                    && let Data::Text(text) = &mut document.nodes[previous.index()].data
                {
                    text.push_str(&new);
                    return None;
                }
                Some(document.push(Data::Text(new.to_string())))
            }
        }
    }
}

impl TreeSink for Sink {
    type Handle = NodeId;
    type Output = Document;
    type ElemName<'a> = std::cell::Ref<'a, QualName>;

    fn finish(self) -> Document {
        self.document.into_inner()
    }

    fn parse_error(&self, _message: Cow<'static, str>) {}

    fn get_document(&self) -> NodeId {
        ROOT
    }

    fn elem_name<'a>(&'a self, target: &'a NodeId) -> Self::ElemName<'a> {
        std::cell::Ref::map(self.document.borrow(), |document| match &document.nodes[target.index()].data {
            Data::Element { name, .. } => name,
            _ => panic!("the tree builder asks only elements for their names"),
        })
    }

    fn create_element(
        &self,
        name: QualName,
        attributes: Vec<ParsedAttribute>,
        _flags: ElementFlags,
    ) -> NodeId {
        let mut document = self.document.borrow_mut();
        let start = document.attributes.len() as u32;
        self.add_attributes(&mut document, attributes);
        let end = document.attributes.len() as u32;
        document.push(Data::Element { name, attributes: start..end })
    }

    fn create_comment(&self, text: StrTendril) -> NodeId {
        self.document.borrow_mut().push(Data::Comment(text.to_string()))
    }

    fn create_pi(&self, _target: StrTendril, data: StrTendril) -> NodeId {
        self.create_comment(data)
    }

    fn append(&self, parent: &NodeId, child: NodeOrText<NodeId>) {
        let last = self.document.borrow().last_child(*parent);
        if let Some(node) = self.node_for(last, child) {
            let mut document = self.document.borrow_mut();
            document.append(*parent, node);
            self.depth.set(document.nodes[node.index()].depth as usize);
            if matches!(document.nodes[node.index()].data, Data::Text(_)) {
                self.depth.set(self.depth.get() - 1);
            }
        }
    }

    fn append_based_on_parent_node(&self, element: &NodeId, previous: &NodeId, child: NodeOrText<NodeId>) {
        if self.document.borrow().parent(*element).is_some() {
            self.append_before_sibling(element, child);
        } else {
            self.append(previous, child);
        }
    }

    fn append_doctype_to_document(&self, _name: StrTendril, _public: StrTendril, _system: StrTendril) {}

    fn pop(&self, node: &NodeId) {
        self.depth.set((self.document.borrow().nodes[node.index()].depth as usize).saturating_sub(1));
    }

    fn get_template_contents(&self, target: &NodeId) -> NodeId {
        *target
    }

    fn same_node(&self, x: &NodeId, y: &NodeId) -> bool {
        x == y
    }

    fn set_quirks_mode(&self, _mode: QuirksMode) {}

    fn append_before_sibling(&self, sibling: &NodeId, child: NodeOrText<NodeId>) {
        let previous = self.document.borrow().previous_sibling(*sibling);
        if let Some(node) = self.node_for(previous, child) {
            let mut document = self.document.borrow_mut();
            document.insert_before(*sibling, node);
            self.depth.set(document.nodes[node.index()].depth as usize);
        }
    }

    fn add_attrs_if_missing(&self, target: &NodeId, attributes: Vec<ParsedAttribute>) {
        let mut document = self.document.borrow_mut();
        let Data::Element { attributes: range, .. } = &document.nodes[target.index()].data else { return };
        let old = document.attributes[range.start as usize..range.end as usize].to_vec();
        let missing: Vec<_> = attributes
            .into_iter()
            .filter(|new| old.iter().all(|attribute| attribute.name != new.name.local))
            .collect();
        if missing.is_empty() {
            return;
        }
        let start = document.attributes.len() as u32;
        document.attributes.extend(old);
        self.add_attributes(&mut document, missing);
        let end = document.attributes.len() as u32;
        if let Data::Element { attributes, .. } = &mut document.nodes[target.index()].data {
            *attributes = start..end;
        }
    }

    fn remove_from_parent(&self, target: &NodeId) {
        self.document.borrow_mut().detach(*target);
    }

    fn reparent_children(&self, node: &NodeId, new_parent: &NodeId) {
        let mut document = self.document.borrow_mut();
        while let Some(child) = document.first_child(*node) {
            document.detach(child);
            document.append(*new_parent, child);
        }
    }

    fn allow_declarative_shadow_roots(&self, _intended_parent: &NodeId) -> bool {
        false
    }

    fn is_mathml_annotation_xml_integration_point(&self, node: &NodeId) -> bool {
        let document = self.document.borrow();
        let is_annotation = matches!(&document.nodes[node.index()].data,
            Data::Element { name, .. } if name.ns == ns!(mathml) && name.local == local_name!("annotation-xml"));
        is_annotation
            && document.attribute(*node, "encoding").is_some_and(|encoding| {
                encoding.eq_ignore_ascii_case("text/html")
                    || encoding.eq_ignore_ascii_case("application/xhtml+xml")
            })
    }
}

/// Closes tags with more than `limit` attributes early.
///
/// The tokenizer compares each new attribute with all before it, so a tag of a megabyte would take minutes. Runs
/// of white space outside quotes bound the number of attributes from above, at a fraction of parsing's cost.
fn cap_attributes(html: &str, limit: usize) -> Cow<'_, str> {
    let bytes = html.as_bytes();
    let mut cuts = Vec::new();
    let mut position = 0;
    while let Some(offset) = memchr::memchr(b'<', &bytes[position..]) {
        position += offset + 1;
        if !bytes.get(position).is_some_and(u8::is_ascii_alphabetic) {
            continue;
        }
        let mut n_attributes = 0;
        while let Some(&byte) = bytes.get(position) {
            position += 1;
            match byte {
                b'>' => break,
                b'=' => {
                    // A quote opens a value only right behind the equals sign.
                    while bytes.get(position).is_some_and(u8::is_ascii_whitespace) {
                        position += 1;
                    }
                    if let Some(&quote @ (b'"' | b'\'')) = bytes.get(position) {
                        let value = position + 1;
                        let Some(length) = memchr::memchr(quote, &bytes[value..]) else {
                            position = bytes.len();
                            break;
                        };
                        position = value + length + 1;
                        n_attributes += 1;
                    }
                }
                b' ' | b'\t' | b'\n' | b'\r' | b'\x0c' | b'/' => n_attributes += 1,
                _ => {}
            }
            if n_attributes > 2 * limit {
                cuts.push(position);
                break;
            }
        }
    }
    if cuts.is_empty() {
        return Cow::Borrowed(html);
    }
    let mut capped = String::with_capacity(html.len() + cuts.len());
    let mut from = 0;
    for cut in cuts {
        // A cut follows an ASCII byte, so it lies on a character's boundary.
        capped.push_str(&html[from..cut]);
        capped.push('>');
        from = cut;
    }
    capped.push_str(&html[from..]);
    Cow::Owned(capped)
}

#[cfg(test)]
mod tests {
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

        let mut document = Document::parse(html);
        document.flatten(4);
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

    #[test]
    fn tags_with_too_many_attributes_are_closed() {
        assert!(matches!(cap_attributes("<a b='x y z w' c = \"1 2 3\">a b c d e", 3), Cow::Borrowed(_)));
        assert_eq!(cap_attributes("<a 1 2 3 4>", 1), "<a 1 2 >3 4>");
    }
}
