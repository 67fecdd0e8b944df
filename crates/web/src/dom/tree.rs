//! A tree while html5ever still moves its nodes about.
//!
//! Nodes are numbered as they were made, which is not document order: the standard moves misplaced content out of
//! tables and copies formatting elements. [`Tree::into_document`] numbers them anew.

use std::ops::Range;

use html5ever::tendril::StrTendril;
use html5ever::{QualName, ns};

use super::{Attribute, Document, Link, Node, NodeId, NodeKind, ROOT};

/// Offsets into text take four bytes.
const MAX_TEXT_BYTES: usize = u32::MAX as usize;

#[derive(Debug)]
pub(super) struct Tree {
    pub(super) nodes: Vec<TreeNode>,
    pub(super) attributes: Vec<Attribute>,
    /// All attribute values, one behind the other.
    pub(super) values: String,
    pub(super) truncated: bool,
}

#[derive(Debug)]
pub(super) struct TreeNode {
    pub(super) parent: Link,
    pub(super) first_child: Link,
    pub(super) last_child: Link,
    pub(super) previous: Link,
    next: Link,
    /// How deep the node was when it was inserted. Stale once an ancestor has moved.
    pub(super) depth: u32,
    pub(super) data: Data,
}

#[derive(Debug)]
pub(super) enum Data {
    Document,
    Element {
        name: QualName,
        attributes: Range<u32>,
    },
    /// Shares the tokenizer's buffer where it can, so a run of text is copied once, into the document.
    Text(StrTendril),
    Comment(StrTendril),
}

impl Tree {
    /// A tree of one node, the root.
    pub(super) fn new(n_nodes: usize, value_bytes: usize) -> Self {
        let mut tree = Self {
            nodes: Vec::with_capacity(n_nodes),
            attributes: Vec::with_capacity(n_nodes / 2),
            values: String::with_capacity(value_bytes),
            truncated: false,
        };
        tree.push(Data::Document);
        tree
    }

    pub(super) fn node(&self, id: NodeId) -> &TreeNode {
        &self.nodes[id.index()]
    }

    fn node_mut(&mut self, id: NodeId) -> &mut TreeNode {
        &mut self.nodes[id.index()]
    }

    pub(super) fn push(&mut self, data: Data) -> NodeId {
        let id = NodeId::new(self.nodes.len());
        self.nodes.push(TreeNode {
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

    pub(super) fn detach(&mut self, id: NodeId) {
        let TreeNode { parent, previous, next, .. } = *self.node(id);
        match previous.get() {
            Some(previous) => self.node_mut(previous).next = next,
            None => {
                if let Some(parent) = parent.get() {
                    self.node_mut(parent).first_child = next;
                }
            }
        }
        match next.get() {
            Some(next) => self.node_mut(next).previous = previous,
            None => {
                if let Some(parent) = parent.get() {
                    self.node_mut(parent).last_child = previous;
                }
            }
        }
        let node = self.node_mut(id);
        (node.parent, node.previous, node.next) = (Link::NONE, Link::NONE, Link::NONE);
    }

    pub(super) fn append(&mut self, parent: NodeId, child: NodeId) {
        let TreeNode { last_child: last, depth, .. } = *self.node(parent);
        let node = self.node_mut(child);
        (node.parent, node.previous, node.depth) = (Link::to(parent), last, depth + 1);
        match last.get() {
            Some(last) => self.node_mut(last).next = Link::to(child),
            None => self.node_mut(parent).first_child = Link::to(child),
        }
        self.node_mut(parent).last_child = Link::to(child);
    }

    pub(super) fn insert_before(&mut self, sibling: NodeId, child: NodeId) {
        let TreeNode { parent, previous, depth, .. } = *self.node(sibling);
        let node = self.node_mut(child);
        (node.parent, node.previous, node.next, node.depth) = (parent, previous, Link::to(sibling), depth);
        match previous.get() {
            Some(previous) => self.node_mut(previous).next = Link::to(child),
            None => {
                if let Some(parent) = parent.get() {
                    self.node_mut(parent).first_child = Link::to(child);
                }
            }
        }
        self.node_mut(sibling).previous = Link::to(child);
    }

    fn insert_after(&mut self, sibling: NodeId, child: NodeId) {
        let TreeNode { parent, next, .. } = *self.node(sibling);
        match (next.get(), parent.get()) {
            (Some(next), _) => self.insert_before(next, child),
            (None, Some(parent)) => self.append(parent, child),
            (None, None) => {}
        }
    }

    /// Lifts every node below the depth limit to it: deeper content becomes siblings, in document order.
    pub(super) fn flatten(&mut self, limit: usize) {
        let mut depth = 0_usize;
        let mut id = ROOT;
        loop {
            // Down, then right, then up; `depth` is that of `id`.
            if depth == limit {
                while let Some(child) = self.node(id).last_child.get() {
                    self.detach(child);
                    self.insert_after(id, child);
                }
            }
            if let Some(child) = self.node(id).first_child.get() {
                (id, depth) = (child, depth + 1);
                continue;
            }
            let Some((next, n_up)) = Self::next_outside(&self.nodes, id) else { return };
            (id, depth) = (next, depth - n_up);
        }
    }

    /// The node that follows `id` in document order, leaving out what is below it, and how many levels higher.
    fn next_outside(nodes: &[TreeNode], id: NodeId) -> Option<(NodeId, usize)> {
        let (mut id, mut n_up) = (id, 0);
        loop {
            let node = &nodes[id.index()];
            if let Some(next) = node.next.get() {
                return Some((next, n_up));
            }
            (id, n_up) = (node.parent.get()?, n_up + 1);
        }
    }

    /// The finished document: attached nodes only, numbered in document order.
    pub(super) fn into_document(self) -> Document {
        let text_bytes = self.nodes.iter().map(|node| match &node.data {
            Data::Text(text) => text.len(),
            _ => 0,
        });
        let mut texts = String::with_capacity(text_bytes.sum::<usize>().min(MAX_TEXT_BYTES));
        let mut nodes = Vec::with_capacity(self.nodes.len());
        let Self { nodes: ref tree, attributes, mut values, mut truncated } = self;
        let mut append = |all: &mut String, piece: &str| {
            let start = all.len() as u32;
            if all.len() + piece.len() <= MAX_TEXT_BYTES {
                all.push_str(piece);
            } else {
                truncated = true;
            }
            start..all.len() as u32
        };
        // The new numbers of the open nodes, root first.
        let mut open: Vec<NodeId> = Vec::new();
        let mut id = ROOT;
        loop {
            let node = &tree[id.index()];
            let text_start = texts.len() as u32;
            let none = 0..0;
            let (kind, name, is_html, content) = match &node.data {
                Data::Document => (NodeKind::Document, None, false, none),
                Data::Element { name, attributes } => {
                    (NodeKind::Element, Some(name.local.clone()), name.ns == ns!(html), attributes.clone())
                }
                Data::Text(text) => {
                    append(&mut texts, text);
                    (NodeKind::Text, None, false, none)
                }
                Data::Comment(text) => (NodeKind::Comment, None, false, append(&mut values, text)),
            };
            nodes.push(Node {
                parent: open.last().copied().map_or(Link::NONE, Link::to),
                previous: Link::NONE,
                last_child: Link::NONE,
                end: 0,
                text_start,
                content,
                name,
                kind,
                is_html,
            });
            let new = NodeId::new(nodes.len() - 1);
            if let Some(parent) = open.last() {
                nodes[new.index()].previous = nodes[parent.index()].last_child;
                nodes[parent.index()].last_child = Link::to(new);
            }
            if let Some(child) = node.first_child.get() {
                open.push(new);
                id = child;
                continue;
            }
            let Some((next, n_up)) = Self::next_outside(tree, id) else { break };
            open.truncate(open.len() - n_up);
            id = next;
        }
        // A node ends where its last child does, and children have higher numbers than their parent.
        for at in (0..nodes.len()).rev() {
            nodes[at].end = match nodes[at].last_child.get() {
                Some(last) => nodes[last.index()].end,
                None => at as u32 + 1,
            };
        }
        Document { nodes, attributes, values, texts, truncated, index: Default::default() }
    }
}
