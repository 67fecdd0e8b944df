//! What a path selects.

use crate::dom::{Document, NodeId};

/// A node of one [`Document`]: of its tree, or an attribute. Ordered as in the document, an element before its
/// attributes and these before what is below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Node {
    id: NodeId,
    /// 0 for the node itself, otherwise one more than the attribute's place.
    attribute: u32,
}

impl Node {
    /// The attribute of `element` at `place`, counted from 0.
    pub(super) fn with_attribute(element: NodeId, place: usize) -> Self {
        Self { id: element, attribute: place as u32 + 1 }
    }

    /// The node of the tree: for an attribute the element that has it.
    pub fn id(self) -> NodeId {
        self.id
    }

    /// Whether this is an attribute.
    pub fn is_attribute(self) -> bool {
        self.attribute != 0
    }

    /// The attribute's place among those of its element, if it is one.
    pub(super) fn place(self) -> Option<usize> {
        (self.attribute as usize).checked_sub(1)
    }

    /// The name of an element or attribute.
    pub fn name(self, document: &Document) -> Option<&str> {
        match self.place() {
            Some(place) => document.attribute_list(self.id).get(place).map(|attribute| &*attribute.name),
            None => document.name(self.id),
        }
    }

    /// The string-value: all text below an element, the value of an attribute, the characters of anything else.
    pub fn text(self, document: &Document) -> &str {
        match self.place() {
            Some(place) => {
                let attribute = document.attribute_list(self.id).get(place);
                attribute.map_or("", |attribute| document.attribute_value(attribute))
            }
            None => document.string_value(self.id),
        }
    }
}

impl From<NodeId> for Node {
    fn from(id: NodeId) -> Self {
        Self { id, attribute: 0 }
    }
}
