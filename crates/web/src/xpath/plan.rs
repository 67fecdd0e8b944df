//! An expression ready for evaluation.
//!
//! Without variables the type of every XPath 1.0 expression is known beforehand, so there is one kind of plan for
//! each type, and all conversions are written out. Names are atoms, which compare in one instruction.

use html5ever::LocalName;
use memchr::memmem::Finder;

use super::error::XPathError;
use super::lexer::Operator;
use super::syntax::Axis;

#[derive(Debug, Clone)]
pub(super) enum Plan {
    Nodes(Nodes),
    Text(Text),
    Number(Number),
    Bool(Bool),
}

#[derive(Debug, Clone)]
pub(super) enum Nodes {
    Path(Path),
    Union(Vec<Nodes>),
    /// The predicates count through all nodes of the base, in document order.
    Filter {
        base: Box<Nodes>,
        predicates: Vec<Predicate>,
    },
    /// Elements by their ids, white space between.
    Id(Text),
    /// The same, with ids from the string-value of each node.
    IdOfEach(Box<Nodes>),
    /// What the grammar allows but evaluation cannot do.
    Fail(Box<XPathError>),
}

#[derive(Debug, Clone)]
pub(super) struct Path {
    pub(super) start: Start,
    pub(super) steps: Vec<Step>,
}

#[derive(Debug, Clone)]
pub(super) enum Start {
    Root,
    Context,
    Nodes(Box<Nodes>),
}

#[derive(Debug, Clone)]
pub(super) struct Step {
    pub(super) axis: Axis,
    pub(super) test: Test,
    pub(super) predicates: Vec<Predicate>,
    /// Whether a predicate asks for positions, so that each context node has to be walked from by itself.
    pub(super) is_positional: bool,
    /// An attribute without which no node passes the predicates.
    pub(super) needs_attribute: Option<LocalName>,
}

#[derive(Debug, Clone)]
pub(super) enum Test {
    Node,
    Text,
    Comment,
    Nothing,
    /// Attributes on their axis, elements on all others.
    Any,
    Name(LocalName),
    /// Nodes with a child element of this name: of all nodes below, those that `child::name` can start from.
    ParentOf(LocalName),
}

#[derive(Debug, Clone)]
pub(super) enum Predicate {
    /// The node at this position, counted from 1.
    Nth(usize),
    Last,
    /// The nodes up to this position.
    UpTo(usize),
    Holds(Bool),
}

#[derive(Debug, Clone)]
pub(super) enum Bool {
    Constant(bool),
    Or(Vec<Bool>),
    And(Vec<Bool>),
    Not(Box<Bool>),
    Exists(Nodes),
    HasAttribute(LocalName),
    AttributeEquals(LocalName, String),
    /// Neither zero nor NaN.
    OfNumber(Number),
    /// Not empty.
    OfText(Text),
    Numbers(Comparison, Number, Number),
    Texts(Text, Text),
    Bools(Box<Bool>, Box<Bool>),
    /// Whether any node's number compares so.
    AnyNumber(Comparison, Nodes, Number),
    /// Whether any node's text is equal (`true`) or unequal (`false`).
    AnyText(bool, Nodes, Text),
    /// Whether any pair of nodes compares so.
    AnyPair(Comparison, Nodes, Nodes),
    Contains(Text, Text),
    Finds(Text, Box<Finder<'static>>),
    StartsWith(Text, Text),
    /// Whether `token` stands in `text` between separators, as class names do.
    HasToken {
        text: Text,
        token: Box<Finder<'static>>,
        separators: Separators,
    },
    Lang(Text),
}

/// What stands between tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Separators {
    Blank,
    AnySpace,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
}

impl Comparison {
    pub(super) fn of(operator: Operator) -> Option<Self> {
        Some(match operator {
            Operator::Equal => Self::Equal,
            Operator::NotEqual => Self::NotEqual,
            Operator::Less => Self::Less,
            Operator::LessEqual => Self::LessEqual,
            Operator::Greater => Self::Greater,
            Operator::GreaterEqual => Self::GreaterEqual,
            _ => return None,
        })
    }

    /// The same comparison with its sides exchanged.
    pub(super) fn mirrored(self) -> Self {
        match self {
            Self::Less => Self::Greater,
            Self::LessEqual => Self::GreaterEqual,
            Self::Greater => Self::Less,
            Self::GreaterEqual => Self::LessEqual,
            same => same,
        }
    }

    pub(super) fn holds(self, left: f64, right: f64) -> bool {
        match self {
            Self::Equal => left == right,
            Self::NotEqual => left != right,
            Self::Less => left < right,
            Self::LessEqual => left <= right,
            Self::Greater => left > right,
            Self::GreaterEqual => left >= right,
        }
    }
}

#[derive(Debug, Clone)]
pub(super) enum Number {
    Constant(f64),
    Position,
    Last,
    Count(Nodes),
    Sum(Nodes),
    Length(Text),
    Arithmetic(Arithmetic, Box<Number>, Box<Number>),
    Negate(Box<Number>),
    Floor(Box<Number>),
    Ceiling(Box<Number>),
    Round(Box<Number>),
    OfText(Text),
    OfBool(Box<Bool>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arithmetic {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

#[derive(Debug, Clone)]
pub(super) enum Text {
    Literal(String),
    /// The value of an attribute of the context node, empty without it.
    Attribute(LocalName),
    /// The string-value of the context node.
    Context,
    /// The string-value of the first node.
    OfFirst(Box<Nodes>),
    /// The name of the first node.
    NameOfFirst(Box<Nodes>),
    OfNumber(Box<Number>),
    OfBool(Box<Bool>),
    Concat(Vec<Text>),
    Before(Box<Text>, Box<Text>),
    After(Box<Text>, Box<Text>),
    Substring(Box<Text>, Box<Number>, Option<Box<Number>>),
    NormalizeSpace(Box<Text>),
    Translate(Box<Text>, Box<Text>, Box<Text>),
}
