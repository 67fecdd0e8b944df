//! An expression as a tree, in the words of the recommendation.

use super::lexer::Operator;

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Syntax<'a> {
    Number(f64),
    Literal(&'a str),
    Negate(Box<Syntax<'a>>),
    /// Two operands and what stands between, except for the next three.
    Binary(Operator, Box<Syntax<'a>>, Box<Syntax<'a>>),
    Or(Vec<Syntax<'a>>),
    And(Vec<Syntax<'a>>),
    /// The parts, and the position of the first.
    Union(Vec<(Syntax<'a>, usize)>),
    Call(Call<'a>),
    Path(Path<'a>),
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Call<'a> {
    pub(super) name: String,
    pub(super) arguments: Vec<Syntax<'a>>,
    pub(super) position: usize,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Path<'a> {
    pub(super) start: Start<'a>,
    pub(super) steps: Vec<Step<'a>>,
    pub(super) position: usize,
}

/// Where a path begins.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Start<'a> {
    Root,
    Context,
    /// An expression with predicates of its own, which count through all its nodes.
    Filter(Box<Syntax<'a>>, Vec<Syntax<'a>>),
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Step<'a> {
    pub(super) axis: Axis,
    pub(super) test: Test<'a>,
    pub(super) predicates: Vec<Syntax<'a>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Axis {
    Ancestor,
    AncestorOrSelf,
    Attribute,
    Child,
    Descendant,
    DescendantOrSelf,
    Following,
    FollowingSibling,
    Namespace,
    Parent,
    Preceding,
    PrecedingSibling,
    Itself,
}

impl Axis {
    pub(super) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "ancestor" => Self::Ancestor,
            "ancestor-or-self" => Self::AncestorOrSelf,
            "attribute" => Self::Attribute,
            "child" => Self::Child,
            "descendant" => Self::Descendant,
            "descendant-or-self" => Self::DescendantOrSelf,
            "following" => Self::Following,
            "following-sibling" => Self::FollowingSibling,
            "namespace" => Self::Namespace,
            "parent" => Self::Parent,
            "preceding" => Self::Preceding,
            "preceding-sibling" => Self::PrecedingSibling,
            "self" => Self::Itself,
            _ => return None,
        })
    }
}

/// What nodes of an axis a step takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Test<'a> {
    /// `node()`.
    Node,
    /// `text()`.
    Text,
    /// `comment()`.
    Comment,
    /// `processing-instruction()`, with or without a name: a page of HTML has none.
    ProcessingInstruction,
    /// `*`: attributes on their axis, elements on all others.
    Any,
    Name(&'a str),
    /// A name with this prefix.
    Prefixed(&'a str),
}
