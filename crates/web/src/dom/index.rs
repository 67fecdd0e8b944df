//! Where in a document a name occurs.

use std::collections::HashMap;

use html5ever::LocalName;

use super::{Document, NodeId, NodeKind};

/// Elements by name, and elements by the names of their attributes, each in document order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Index {
    by_name: HashMap<LocalName, Vec<u32>>,
    by_attribute: HashMap<LocalName, Vec<u32>>,
}

impl Index {
    pub(super) fn new(document: &Document) -> Self {
        let mut index = Self::default();
        for number in 0..document.len() as u32 {
            let node = NodeId::at(number);
            if document.kind(node) != NodeKind::Element {
                continue;
            }
            if let Some(name) = document.local_name(node) {
                push(&mut index.by_name, name, number);
            }
            for attribute in document.attribute_list(node) {
                push(&mut index.by_attribute, &attribute.name, number);
            }
        }
        index
    }

    /// The numbers of the elements called `name`, ascending.
    pub(crate) fn named(&self, name: &LocalName) -> &[u32] {
        self.by_name.get(name).map_or(&[], Vec::as_slice)
    }

    /// The numbers of the elements that have an attribute called `name`, ascending.
    pub(crate) fn with_attribute(&self, name: &LocalName) -> &[u32] {
        self.by_attribute.get(name).map_or(&[], Vec::as_slice)
    }
}

fn push(lists: &mut HashMap<LocalName, Vec<u32>>, name: &LocalName, number: u32) {
    match lists.get_mut(name) {
        Some(list) => list.push(number),
        None => {
            lists.insert(name.clone(), vec![number]);
        }
    }
}
