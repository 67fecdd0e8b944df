//! Iterators over nodes and attributes.

use std::ops::Range;

use super::{Attribute, Document, NodeId};

/// See [`Document::children`].
#[derive(Debug, Clone)]
pub struct Children<'a> {
    pub(super) document: &'a Document,
    pub(super) next: Option<NodeId>,
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
pub struct Descendants {
    pub(super) inner: Range<u32>,
}

impl Iterator for Descendants {
    type Item = NodeId;

    fn next(&mut self) -> Option<NodeId> {
        self.inner.next().map(NodeId)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.inner.size_hint()
    }
}

/// See [`Document::ancestors`].
#[derive(Debug, Clone)]
pub struct Ancestors<'a> {
    pub(super) document: &'a Document,
    pub(super) next: Option<NodeId>,
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
    pub(super) document: &'a Document,
    pub(super) inner: std::slice::Iter<'a, Attribute>,
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        let attribute = self.inner.next()?;
        Some((&attribute.name, self.document.attribute_value(attribute)))
    }
}
