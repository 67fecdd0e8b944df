//! The nodes of an axis, one after the other, in its own direction.
//!
//! Nodes are numbered in document order and everything below a node is a range of numbers, so each axis is a
//! counter or a chain of links, and none of them allocates.

use html5ever::LocalName;

use super::node::Node;
use super::plan::{Step, Test};
use super::syntax::Axis;
use crate::dom::{Document, NodeId, NodeKind};

/// An axis from one context node.
pub(super) struct Walk<'a> {
    document: &'a Document,
    state: State<'a>,
}

enum State<'a> {
    /// Children or siblings: each begins where the one before ends.
    Siblings {
        next: u32,
        end: u32,
    },
    PrecedingSiblings(Option<NodeId>),
    Ancestors(Option<NodeId>),
    /// An attribute, then its element and the ancestors.
    AttributeFirst(Node),
    /// All numbers of a range: descendants, following.
    Range {
        next: u32,
        end: u32,
    },
    /// Those of a range that the index lists.
    Listed(std::slice::Iter<'a, u32>),
    /// Numbers downwards, without the ancestors of `of`.
    Preceding {
        next: u32,
        of: u32,
    },
    /// The same of those that the index lists.
    PrecedingListed {
        numbers: std::slice::Iter<'a, u32>,
        of: u32,
    },
    Attributes {
        element: NodeId,
        next: usize,
    },
    One(Option<Node>),
}

impl<'a> Walk<'a> {
    pub(super) fn new(document: &'a Document, step: &'a Step, context: Node) -> Self {
        let (id, is_attribute) = (context.id(), context.is_attribute());
        let (number, end) = (id.number(), document.end(id));
        let nothing = State::One(None);
        let state = match step.axis {
            Axis::Itself => State::One(Some(context)),
            Axis::DescendantOrSelf if is_attribute => State::One(Some(context)),
            Axis::Parent if is_attribute => State::One(Some(id.into())),
            Axis::Parent => State::One(document.parent(id).map(Node::from)),
            Axis::Ancestor if !is_attribute => State::Ancestors(document.parent(id)),
            Axis::Ancestor => State::Ancestors(Some(id)),
            Axis::AncestorOrSelf if !is_attribute => State::Ancestors(Some(id)),
            Axis::AncestorOrSelf => State::AttributeFirst(context),
            // libxml2 goes on behind the attribute's element; by the letter, what is below it follows too.
            Axis::Following => within(document, step, end, document.len() as u32),
            Axis::Preceding => match within(document, step, 0, number) {
                State::Listed(numbers) => State::PrecedingListed { numbers, of: number },
                _ => State::Preceding { next: number, of: number },
            },
            Axis::Child
            | Axis::Descendant
            | Axis::FollowingSibling
            | Axis::PrecedingSibling
            | Axis::Attribute
                if is_attribute =>
            {
                nothing
            }
            Axis::Child => State::Siblings { next: number + 1, end },
            Axis::FollowingSibling => {
                let end_of_parent = document.parent(id).map_or(end, |parent| document.end(parent));
                State::Siblings { next: end, end: end_of_parent }
            }
            Axis::PrecedingSibling => State::PrecedingSiblings(document.previous_sibling(id)),
            Axis::Descendant => within(document, step, number + 1, end),
            Axis::DescendantOrSelf => within(document, step, number, end),
            Axis::Attribute => State::Attributes { element: id, next: 0 },
            Axis::Namespace => nothing,
        };
        Self { document, state }
    }
}

impl Iterator for Walk<'_> {
    type Item = Node;

    fn next(&mut self) -> Option<Node> {
        let document = self.document;
        match &mut self.state {
            State::Siblings { next, end } => {
                let node = (*next < *end).then_some(NodeId::at(*next))?;
                *next = document.end(node);
                Some(node.into())
            }
            State::PrecedingSiblings(next) => {
                let node = (*next)?;
                *next = document.previous_sibling(node);
                Some(node.into())
            }
            State::Ancestors(next) => {
                let node = (*next)?;
                *next = document.parent(node);
                Some(node.into())
            }
            State::AttributeFirst(attribute) => {
                let attribute = *attribute;
                self.state = State::Ancestors(Some(attribute.id()));
                Some(attribute)
            }
            State::Range { next, end } => {
                let node = (*next < *end).then_some(NodeId::at(*next))?;
                *next += 1;
                Some(node.into())
            }
            State::Listed(numbers) => numbers.next().map(|&number| NodeId::at(number).into()),
            State::Preceding { next, of } => loop {
                *next = next.checked_sub(1)?;
                let node = NodeId::at(*next);
                if document.end(node) <= *of {
                    return Some(node.into());
                }
            },
            State::PrecedingListed { numbers, of } => {
                let is_before = |&&number: &&u32| document.end(NodeId::at(number)) <= *of;
                numbers.rfind(is_before).map(|&number| NodeId::at(number).into())
            }
            State::Attributes { element, next } => {
                let place = *next;
                *next += 1;
                (place < document.attribute_list(*element).len())
                    .then(|| Node::with_attribute(*element, place))
            }
            State::One(node) => node.take(),
        }
    }
}

/// The nodes from one number to before another, by the shortest list of the index that has all the step wants.
fn within<'a>(document: &'a Document, step: &Step, from: u32, to: u32) -> State<'a> {
    let named = match &step.test {
        Test::Name(name) => Some(listed(document.index().named(name), from, to)),
        _ => None,
    };
    let with_attribute = step.needs_attribute.as_ref();
    let with_attribute = with_attribute.map(|name| listed(document.index().with_attribute(name), from, to));
    match (named, with_attribute) {
        (None, None) => State::Range { next: from, end: to },
        (Some(list), None) | (None, Some(list)) => State::Listed(list.iter()),
        (Some(one), Some(other)) => State::Listed(if one.len() <= other.len() { one } else { other }.iter()),
    }
}

/// The part of an ascending list from one number to before another.
pub(super) fn listed(list: &[u32], from: u32, to: u32) -> &[u32] {
    let start = list.partition_point(|&number| number < from);
    let length = list[start..].partition_point(|&number| number < to);
    &list[start..start + length]
}

/// Whether a node of this axis passes the step's test.
pub(super) fn passes(document: &Document, step: &Step, node: Node) -> bool {
    let kind = || document.kind(node.id());
    match &step.test {
        Test::Node => true,
        Test::Text => !node.is_attribute() && kind() == NodeKind::Text,
        Test::Comment => !node.is_attribute() && kind() == NodeKind::Comment,
        Test::Nothing | Test::ParentOf(_) => false,
        Test::Any if step.axis == Axis::Attribute => true,
        Test::Any => !node.is_attribute() && kind() == NodeKind::Element,
        Test::Name(name) => match node.place() {
            Some(place) => {
                step.axis == Axis::Attribute && document.attribute_list(node.id())[place].name == *name
            }
            None => document.local_name(node.id()) == Some(name),
        },
    }
}

/// The value of an attribute, by its name as an atom.
pub(super) fn attribute<'a>(document: &'a Document, node: Node, name: &LocalName) -> Option<&'a str> {
    if node.is_attribute() {
        return None;
    }
    let found = document.attribute_list(node.id()).iter().find(|attribute| attribute.name == *name);
    found.map(|attribute| document.attribute_value(attribute))
}
