//! Shorter ways to the same nodes: what makes plans fast, and changes no answer.

use html5ever::LocalName;
use memchr::memmem::Finder;

use super::lexer::is_space;
use super::plan::{Bool, Comparison, Number, Predicate, Separators, Step, Test, Text};
use super::syntax::Axis;

/// Appends a step to a path, as a part of the step before where the two can be walked as one.
///
/// `//x` is short for `descendant-or-self::node()/child::x`, two steps of which the first gives every node of the
/// page. Without positions it is `descendant::x`. With positions, as in `//x[1]`, every parent counts by itself;
/// then only nodes that have a child `x` need to be gone through.
pub(super) fn push_step(steps: &mut Vec<Step>, mut step: Step) {
    let is_bare = |step: &Step, axis| {
        step.axis == axis && matches!(step.test, Test::Node) && step.predicates.is_empty()
    };
    if is_bare(&step, Axis::Itself) {
        return;
    }
    // Elements without the attribute lead nowhere.
    if let (Some(last), Axis::Attribute, Test::Name(name)) = (steps.last_mut(), step.axis, &step.test)
        && !last.is_positional
    {
        last.needs_attribute.get_or_insert_with(|| name.clone());
    }
    if let Some(last) = steps.last_mut().filter(|last| is_bare(last, Axis::DescendantOrSelf)) {
        let fused = match step.axis {
            _ if step.is_positional => None,
            Axis::Child | Axis::Descendant => Some(Axis::Descendant),
            Axis::Itself | Axis::DescendantOrSelf => Some(Axis::DescendantOrSelf),
            _ => None,
        };
        if let Some(axis) = fused {
            step.axis = axis;
            steps.pop();
        } else if let (Axis::Child, Test::Name(name)) = (step.axis, &step.test) {
            last.test = Test::ParentOf(name.clone());
        }
    }
    steps.push(step);
}

/// A predicate that compares `position()`, which stands on the left, with a number.
pub(super) fn position(comparison: Comparison, number: Number) -> Predicate {
    match (comparison, number) {
        (Comparison::Equal, number) => at_position(number),
        (Comparison::Less, Number::Constant(n)) => Predicate::UpTo((n.ceil() - 1.0) as usize),
        (Comparison::LessEqual, Number::Constant(n)) => Predicate::UpTo(n as usize),
        (comparison, number) => Predicate::Holds(Bool::Numbers(comparison, Number::Position, number)),
    }
}

/// The predicate `[number]`.
pub(super) fn at_position(number: Number) -> Predicate {
    match number {
        Number::Constant(n) if n >= 1.0 && n.fract() == 0.0 => Predicate::Nth(n as usize),
        Number::Constant(_) => Predicate::Holds(Bool::Constant(false)),
        Number::Last => Predicate::Last,
        number => Predicate::Holds(Bool::Numbers(Comparison::Equal, Number::Position, number)),
    }
}

/// `contains(concat(' ', text, ' '), ' token ')`, the way to say that an element has a class.
pub(super) fn has_token(text: &Text, part: &str) -> Option<Bool> {
    let Text::Concat(parts) = text else { return None };
    let [Text::Literal(before), text, Text::Literal(after)] = parts.as_slice() else { return None };
    let token = part.strip_prefix(' ')?.strip_suffix(' ')?;
    if before != " " || after != " " || token.is_empty() || token.contains(is_space) {
        return None;
    }
    let (text, separators) = match text {
        Text::NormalizeSpace(text) => ((**text).clone(), Separators::AnySpace),
        text => (text.clone(), Separators::Blank),
    };
    Some(Bool::HasToken { text, token: Box::new(Finder::new(token.as_bytes()).into_owned()), separators })
}

/// An attribute of the context node without which the predicate is false.
pub(super) fn needed_attribute(predicate: &Predicate) -> Option<&LocalName> {
    match predicate {
        Predicate::Holds(holds) => needed_by(holds),
        _ => None,
    }
}

fn needed_by(bool: &Bool) -> Option<&LocalName> {
    match bool {
        Bool::HasAttribute(name) | Bool::AttributeEquals(name, _) => Some(name),
        Bool::OfText(text) | Bool::HasToken { text, .. } => source(text),
        Bool::Finds(text, part) if !part.needle().is_empty() => source(text),
        Bool::StartsWith(text, Text::Literal(start)) if !start.is_empty() => source(text),
        Bool::Texts(text, Text::Literal(value)) | Bool::Texts(Text::Literal(value), text)
            if !value.is_empty() =>
        {
            source(text)
        }
        Bool::And(parts) => parts.iter().find_map(needed_by),
        Bool::Or(parts) => {
            let first = needed_by(parts.first()?)?;
            parts.iter().all(|part| needed_by(part) == Some(first)).then_some(first)
        }
        _ => None,
    }
}

/// The attribute without which a text is empty.
fn source(text: &Text) -> Option<&LocalName> {
    match text {
        Text::Attribute(name) => Some(name),
        Text::NormalizeSpace(text)
        | Text::Translate(text, ..)
        | Text::Before(text, _)
        | Text::After(text, _)
        | Text::Substring(text, ..) => source(text),
        _ => None,
    }
}
