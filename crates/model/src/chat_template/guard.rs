//! Bounds on what a template may cost.
//!
//! The engine charges fuel for instructions and for the text and lists that they make, but it walks whole values for
//! free, to print, compare, join or index by them. Values can share parts, so `x = [x, x]` forty times over is a tree
//! that no walk comes to the end of, and a namespace can hold itself. So the operators of a compiled template are
//! exchanged for functions, one instruction for one: these walk their operands first, at one unit of fuel for each part
//! and up to [`MAX_NESTING`] deep, and then do the same. Filters, tests and methods that walk values are led through
//! such functions too.
//!
//! What is left to the engine costs no more than the engine charges, with one exception: it evaluates constant
//! expressions while it compiles. [`check_tokens`] refuses the source of those that can be large.

use std::sync::Arc;

use minijinja::machinery::{Instruction, Instructions, Token, tokenize};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Object, ObjectRepr};
use minijinja::{Environment, Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat::unknown_method_callback;

use super::operators;

/// Deepest nesting of lists and objects in a value that is used.
const MAX_NESTING: usize = 64;

/// Most tokens between two delimiters: the compiler's time grows with the square, its stack in proportion. Published
/// templates have some hundred.
const MAX_BLOCK_TOKENS: usize = 2000;

/// Bytes of text that are walked for one unit of fuel, as the engine counts.
const BYTES_PER_FUEL: usize = 64;

/// Functions for operators. No template can write these names.
const OPERATORS: [&str; 13] = ["+", "*", "~", "==", "!=", "<", "<=", ">", ">=", "in", "[]", "[:]", "{}"];

/// Functions for the filters that walk values.
const FILTERS: [&str; 40] = [
    "|abs",
    "|attr",
    "|batch",
    "|bool",
    "|capitalize",
    "|chain",
    "|dictsort",
    "|e",
    "|escape",
    "|float",
    "|format",
    "|groupby",
    "|indent",
    "|int",
    "|items",
    "|join",
    "|lines",
    "|list",
    "|lower",
    "|map",
    "|max",
    "|min",
    "|reject",
    "|rejectattr",
    "|replace",
    "|reverse",
    "|round",
    "|safe",
    "|select",
    "|selectattr",
    "|slice",
    "|sort",
    "|split",
    "|string",
    "|sum",
    "|title",
    "|tojson",
    "|trim",
    "|unique",
    "|upper",
];

/// Filters that look at no more than they are charged for; templates ask for the number of messages at each of them.
const SHALLOW_FILTERS: [&str; 6] = ["count", "d", "default", "first", "last", "length"];

/// Functions for the tests that compare or read. Others look at the outermost value only.
const TESTS: [&str; 22] = [
    "?!=",
    "?<",
    "?<=",
    "?==",
    "?>",
    "?>=",
    "?divisibleby",
    "?endingwith",
    "?eq",
    "?equalto",
    "?ge",
    "?greaterthan",
    "?gt",
    "?in",
    "?le",
    "?lessthan",
    "?lower",
    "?lt",
    "?ne",
    "?sameas",
    "?startingwith",
    "?upper",
];

/// Refuses what would be evaluated without bounds while the template is compiled: long expressions, and products of
/// lists or of what stands in brackets.
pub(super) fn check_tokens(source: &str, syntax: &SyntaxConfig) -> Result<(), Error> {
    let refuse = |reason: String| Err(Error::new(ErrorKind::SyntaxError, reason));
    let (mut n_tokens, mut after_bracket, mut after_product) = (0, false, false);
    for token in tokenize(source, false, syntax.clone()) {
        let (token, span) = token?;
        let opens = matches!(token, Token::BracketOpen | Token::BraceOpen | Token::ParenOpen);
        if after_product && opens || after_bracket && matches!(token, Token::Mul) {
            return refuse(format!("brackets cannot be multiplied (line {})", span.start_line));
        }
        after_product = matches!(token, Token::Mul);
        after_bracket = matches!(token, Token::BracketClose | Token::BraceClose | Token::ParenClose);
        n_tokens = if matches!(token, Token::TemplateData(_)) { 0 } else { n_tokens + 1 };
        if matches!(token, Token::VariableStart | Token::BlockStart) {
            n_tokens = 0;
        }
        if n_tokens > MAX_BLOCK_TOKENS {
            return refuse(format!(
                "an expression has more than {MAX_BLOCK_TOKENS} words (line {})",
                span.start_line
            ));
        }
    }
    Ok(())
}

/// Exchanges the instructions that walk values for calls of guarded functions.
pub(super) fn exchange(instructions: &mut Instructions<'_>) -> Result<(), Error> {
    let known = |table: &'static [&'static str], name: &str, what: &str| {
        let found = table.iter().find(|guarded| &guarded[1..] == name);
        found
            .copied()
            .ok_or_else(|| Error::new(ErrorKind::SyntaxError, format!("the {what} `{name}` is unknown")))
    };
    for idx in 0.. {
        let Some(instruction) = instructions.get_mut(idx) else { break };
        let (name, n_args) = match instruction {
            Instruction::Add => ("+", Some(2)),
            Instruction::Mul => ("*", Some(2)),
            Instruction::StringConcat => ("~", Some(2)),
            Instruction::Eq => ("==", Some(2)),
            Instruction::Ne => ("!=", Some(2)),
            Instruction::Lt => ("<", Some(2)),
            Instruction::Lte => ("<=", Some(2)),
            Instruction::Gt => (">", Some(2)),
            Instruction::Gte => (">=", Some(2)),
            Instruction::In => ("in", Some(2)),
            Instruction::GetItem => ("[]", Some(2)),
            Instruction::Slice => ("[:]", Some(4)),
            Instruction::BuildMap(n_pairs) => (
                "{}",
                Some(
                    u16::try_from(*n_pairs * 2)
                        .map_err(|_| Error::new(ErrorKind::SyntaxError, "an object has too many keys"))?,
                ),
            ),
            Instruction::CompareAndPreserve(_) => {
                return Err(Error::new(ErrorKind::SyntaxError, "comparisons in a row are not supported"));
            }
            Instruction::CallMethod("changed", _) => {
                return Err(Error::new(ErrorKind::SyntaxError, "`loop.changed` is not supported"));
            }
            Instruction::ApplyFilter(name, ..) if SHALLOW_FILTERS.contains(name) => continue,
            Instruction::ApplyFilter(name, n_args, _) => (known(&FILTERS, name, "filter")?, *n_args),
            Instruction::PerformTest(name, Some(1), _) if !matches!(*name, "lower" | "upper") => continue,
            Instruction::PerformTest(name, n_args, _) => (known(&TESTS, name, "test")?, *n_args),
            _ => continue,
        };
        *instruction = Instruction::CallFunction(name, n_args);
    }
    Ok(())
}

/// Adds the guarded functions, and takes away what cannot be guarded.
pub(super) fn guard(environment: &mut Environment<'_>) {
    for name in OPERATORS.into_iter().chain(FILTERS).chain(TESTS) {
        environment.add_global(name, Value::from_object(Guarded(name)));
    }
    environment.remove_global("debug");
    environment.add_function("range", range);
    environment.set_unknown_method_callback(method);
    environment.set_formatter(|out, state, value| {
        walk(state, value)?;
        minijinja::escape_formatter(out, state, value)
    });
}

/// A function that walks its arguments before it does what its name says.
#[derive(Debug)]
struct Guarded(&'static str);

impl Object for Guarded {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, state: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
        match (self.0, args) {
            ("{}", pairs) => operators::object(pairs),
            ("[:]", [value, start, stop, step]) => operators::slice(state, value, [start, stop, step]),
            (operator, [a, b]) if OPERATORS.contains(&operator) => operators::binary(state, operator, a, b),
            (name, _) => {
                args.iter().try_for_each(|value| walk(state, value))?;
                match name.strip_prefix('|') {
                    Some(filter) => state.apply_filter(filter, args),
                    None => state.perform_test(&name[1..], args).map(Value::from),
                }
            }
        }
    }
}

/// As the engine's, without overflow.
fn range(lower: i32, upper: Option<i32>, step: Option<i32>) -> Result<Value, Error> {
    let wide = |number| number as isize;
    minijinja::functions::range(wide(lower), upper.map(wide), step.map(wide))
}

/// Python's methods of texts, lists and objects.
fn method(state: &mut State<'_, '_>, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    args.iter().try_for_each(|argument| walk(state, argument))?;
    match (value.as_str(), name) {
        (Some(_), "join") => {
            let [list] = args else { return Err(ErrorKind::MissingArgument.into()) };
            return state.apply_filter("join", &[list.clone(), value.clone()]);
        }
        // Its widths and repeats know no bounds.
        (Some(_), "format") => return Err(ErrorKind::UnknownMethod.into()),
        (Some(text), "split") => {
            let separator = args.first().and_then(Value::as_str);
            let n_parts =
                separator.map_or_else(|| text.split_whitespace().count(), |by| text.matches(by).count());
            state.consume_fuel(n_parts as u64)?;
        }
        (Some(text), "splitlines") => state.consume_fuel(text.lines().count() as u64)?,
        (None, "count") => walk(state, value)?,
        _ => {}
    }
    unknown_method_callback(state, value, name, args)
}

/// Pays for a walk through a value, or fails.
pub(super) fn walk(state: &State<'_, '_>, value: &Value) -> Result<(), Error> {
    walk_to(state, value, MAX_NESTING)
}

fn walk_to(state: &State<'_, '_>, value: &Value, depth: usize) -> Result<(), Error> {
    let n_bytes = value.as_str().map_or(0, str::len);
    state.consume_fuel(1 + (n_bytes / BYTES_PER_FUEL) as u64)?;
    let Some(object) = value.as_object() else { return Ok(()) };
    let Some(deeper) = depth.checked_sub(1) else {
        let reason = format!("a value holds others more than {MAX_NESTING} deep");
        return Err(Error::new(ErrorKind::InvalidOperation, reason));
    };
    match object.repr() {
        ObjectRepr::Map => object.try_iter_pairs().into_iter().flatten().try_for_each(|(key, value)| {
            walk_to(state, &key, deeper)?;
            walk_to(state, &value, deeper)
        }),
        ObjectRepr::Seq | ObjectRepr::Iterable => {
            object.try_iter().into_iter().flatten().try_for_each(|item| walk_to(state, &item, deeper))
        }
        _ => Ok(()),
    }
}
