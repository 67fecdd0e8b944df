//! Tree to plan: types, conversions, and shorter ways to the same nodes.

use html5ever::LocalName;

use super::error::{Reason, XPathError};
use super::lexer::Operator;
use super::plan::{
    Arithmetic, Bool, Comparison, Nodes, Number, Path, Plan, Predicate, Start, Step, Test, Text,
};
use super::syntax::{Axis, Syntax};
use super::{shortcuts, syntax};

/// The plan for a tree.
pub(super) fn lower(syntax: &Syntax<'_>) -> Plan {
    Lowering { is_positional: false }.plan(syntax)
}

/// Walks the tree once; `lower_functions.rs` does the calls.
pub(super) struct Lowering {
    /// Whether `position()` or `last()` has been seen in the predicate at hand.
    pub(super) is_positional: bool,
}

impl Lowering {
    pub(super) fn plan(&mut self, syntax: &Syntax<'_>) -> Plan {
        match syntax {
            Syntax::Number(number) => Plan::Number(Number::Constant(*number)),
            Syntax::Literal(text) => Plan::Text(Text::Literal((*text).to_owned())),
            Syntax::Negate(operand) => Plan::Number(Number::Negate(Box::new(self.number(operand)))),
            Syntax::Or(parts) => Plan::Bool(Bool::Or(self.bools(parts))),
            Syntax::And(parts) => Plan::Bool(Bool::And(self.bools(parts))),
            Syntax::Union(parts) => {
                let part = |(part, position): &(Syntax<'_>, usize)| self.nodes(part, *position, "`|`");
                Plan::Nodes(Nodes::Union(parts.iter().map(part).collect()))
            }
            Syntax::Binary(operator, left, right) => self.binary(*operator, left, right),
            Syntax::Call(call) => self.call(call),
            Syntax::Path(path) => Plan::Nodes(self.path(path)),
        }
    }

    /// The nodes of an expression that `taker` needs them of.
    pub(super) fn nodes(&mut self, syntax: &Syntax<'_>, position: usize, taker: &'static str) -> Nodes {
        match self.plan(syntax) {
            Plan::Nodes(nodes) => nodes,
            _ => fail(position, Reason::NotNodes(taker)),
        }
    }

    pub(super) fn number(&mut self, syntax: &Syntax<'_>) -> Number {
        number(self.plan(syntax))
    }

    pub(super) fn text(&mut self, syntax: &Syntax<'_>) -> Text {
        text(self.plan(syntax))
    }

    pub(super) fn bool(&mut self, syntax: &Syntax<'_>) -> Bool {
        bool(self.plan(syntax))
    }

    fn bools(&mut self, parts: &[Syntax<'_>]) -> Vec<Bool> {
        parts.iter().map(|part| self.bool(part)).collect()
    }

    fn binary(&mut self, operator: Operator, left: &Syntax<'_>, right: &Syntax<'_>) -> Plan {
        let (left, right) = (self.plan(left), self.plan(right));
        if let Some(comparison) = Comparison::of(operator) {
            return Plan::Bool(compare(comparison, left, right));
        }
        let arithmetic = match operator {
            Operator::Plus => Arithmetic::Add,
            Operator::Minus => Arithmetic::Subtract,
            Operator::Multiply => Arithmetic::Multiply,
            Operator::Div => Arithmetic::Divide,
            _ => Arithmetic::Remainder,
        };
        Plan::Number(Number::Arithmetic(arithmetic, Box::new(number(left)), Box::new(number(right))))
    }

    fn path(&mut self, path: &syntax::Path<'_>) -> Nodes {
        let start = match &path.start {
            syntax::Start::Root => Start::Root,
            syntax::Start::Context => Start::Context,
            syntax::Start::Filter(base, predicates) => {
                let base = self.nodes(base, path.position, "a path or predicate");
                let predicates =
                    predicates.iter().map(|predicate| self.predicate(predicate).0).collect::<Vec<_>>();
                let nodes = match predicates.is_empty() {
                    true => base,
                    false => Nodes::Filter { base: Box::new(base), predicates },
                };
                if path.steps.is_empty() {
                    return nodes;
                }
                Start::Nodes(Box::new(nodes))
            }
        };
        let mut steps = Vec::with_capacity(path.steps.len());
        for step in &path.steps {
            match self.step(step) {
                Ok(step) => shortcuts::push_step(&mut steps, step),
                Err(reason) => return fail(path.position, reason),
            }
        }
        Nodes::Path(Path { start, steps })
    }

    fn step(&mut self, step: &syntax::Step<'_>) -> Result<Step, Reason> {
        let test = match step.test {
            syntax::Test::Node => Test::Node,
            syntax::Test::Text => Test::Text,
            syntax::Test::Comment => Test::Comment,
            syntax::Test::ProcessingInstruction => Test::Nothing,
            syntax::Test::Any => Test::Any,
            syntax::Test::Name(name) => Test::Name(LocalName::from(name)),
            syntax::Test::Prefixed(prefix) => return Err(Reason::Prefix(prefix.to_owned())),
        };
        let mut is_positional = false;
        let mut predicates = Vec::with_capacity(step.predicates.len());
        for predicate in &step.predicates {
            let (predicate, counts) = self.predicate(predicate);
            is_positional |= counts;
            predicates.push(predicate);
        }
        let needs_attribute = match is_positional {
            true => None,
            false => predicates.iter().find_map(shortcuts::needed_attribute).cloned(),
        };
        Ok(Step { axis: step.axis, test, predicates, is_positional, needs_attribute })
    }

    /// A predicate, and whether it asks for positions.
    fn predicate(&mut self, syntax: &Syntax<'_>) -> (Predicate, bool) {
        let outer = std::mem::replace(&mut self.is_positional, false);
        let predicate = match self.plan(syntax) {
            Plan::Number(number) => {
                self.is_positional = true;
                shortcuts::at_position(number)
            }
            plan => match bool(plan) {
                Bool::Numbers(comparison, Number::Position, number) => {
                    shortcuts::position(comparison, number)
                }
                Bool::Numbers(comparison, number, Number::Position) => {
                    shortcuts::position(comparison.mirrored(), number)
                }
                holds => Predicate::Holds(holds),
            },
        };
        let is_positional = std::mem::replace(&mut self.is_positional, outer);
        (predicate, is_positional)
    }
}

/// Nodes that cannot be had. Converts to every type, and fails in each.
pub(super) fn fail(position: usize, reason: Reason) -> Nodes {
    Nodes::Fail(Box::new(XPathError::new(position, reason)))
}

pub(super) fn number(plan: Plan) -> Number {
    match plan {
        Plan::Number(number) => number,
        Plan::Bool(bool) => Number::OfBool(Box::new(bool)),
        plan => Number::OfText(text(plan)),
    }
}

pub(super) fn text(plan: Plan) -> Text {
    match plan {
        Plan::Text(text) => text,
        Plan::Number(number) => Text::OfNumber(Box::new(number)),
        Plan::Bool(bool) => Text::OfBool(Box::new(bool)),
        Plan::Nodes(Nodes::Path(Path { start: Start::Context, steps })) if steps.is_empty() => Text::Context,
        Plan::Nodes(nodes) => match only_attribute(&nodes) {
            Some(name) => Text::Attribute(name.clone()),
            None => Text::OfFirst(Box::new(nodes)),
        },
    }
}

pub(super) fn bool(plan: Plan) -> Bool {
    match plan {
        Plan::Bool(bool) => bool,
        Plan::Number(number) => Bool::OfNumber(number),
        Plan::Text(text) => Bool::OfText(text),
        Plan::Nodes(nodes) => match only_attribute(&nodes) {
            Some(name) => Bool::HasAttribute(name.clone()),
            None => Bool::Exists(nodes),
        },
    }
}

/// The attribute, if the nodes are `@name` and nothing else.
fn only_attribute(nodes: &Nodes) -> Option<&LocalName> {
    match nodes {
        Nodes::Path(Path { start: Start::Context, steps }) => match steps.as_slice() {
            [Step { axis: Axis::Attribute, test: Test::Name(name), predicates, .. }]
                if predicates.is_empty() =>
            {
                Some(name)
            }
            _ => None,
        },
        _ => None,
    }
}

/// Section 3.4: what a comparison does depends on the types of both sides.
fn compare(comparison: Comparison, left: Plan, right: Plan) -> Bool {
    let is_equality = matches!(comparison, Comparison::Equal | Comparison::NotEqual);
    let negate_unless_equal = |equal: Bool| match comparison {
        Comparison::Equal => equal,
        _ => Bool::Not(Box::new(equal)),
    };
    match (left, right) {
        (Plan::Nodes(left), Plan::Nodes(right)) => Bool::AnyPair(comparison, left, right),
        // A boolean makes a boolean of the other side, nodes included.
        (left @ Plan::Bool(_), right) | (left, right @ Plan::Bool(_)) if is_equality => {
            negate_unless_equal(Bool::Bools(Box::new(bool(left)), Box::new(bool(right))))
        }
        (left @ Plan::Nodes(_), right @ Plan::Bool(_)) | (left @ Plan::Bool(_), right @ Plan::Nodes(_)) => {
            let as_number = |plan| Number::OfBool(Box::new(bool(plan)));
            Bool::Numbers(comparison, as_number(left), as_number(right))
        }
        (Plan::Nodes(nodes), Plan::Text(text)) | (Plan::Text(text), Plan::Nodes(nodes)) if is_equality => {
            match (only_attribute(&nodes), text) {
                (Some(name), Text::Literal(value)) if comparison == Comparison::Equal => {
                    Bool::AttributeEquals(name.clone(), value)
                }
                (_, text) => Bool::AnyText(comparison == Comparison::Equal, nodes, text),
            }
        }
        (Plan::Nodes(nodes), other) => Bool::AnyNumber(comparison, nodes, number(other)),
        (other, Plan::Nodes(nodes)) => Bool::AnyNumber(comparison.mirrored(), nodes, number(other)),
        (Plan::Text(text), Plan::Text(Text::Literal(empty)))
        | (Plan::Text(Text::Literal(empty)), Plan::Text(text))
            if is_equality && empty.is_empty() =>
        {
            negate_unless_equal(Bool::Not(Box::new(Bool::OfText(text))))
        }
        (Plan::Text(left), Plan::Text(right)) if is_equality => negate_unless_equal(Bool::Texts(left, right)),
        (left, right) => Bool::Numbers(comparison, number(left), number(right)),
    }
}
