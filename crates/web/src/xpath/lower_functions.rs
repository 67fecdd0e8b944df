//! Calls of the core functions to plans.

use memchr::memmem::Finder;

use super::error::Reason;
use super::lower::{Lowering, fail, number, text};
use super::plan::{Bool, Nodes, Number, Path, Plan, Start, Text};
use super::shortcuts;
use super::syntax::{Call, Syntax};

/// Each function, with the fewest and the most arguments that it takes, and the same in words.
const FUNCTIONS: [(&str, usize, usize, &str); 27] = [
    ("last", 0, 0, "no arguments"),
    ("position", 0, 0, "no arguments"),
    ("count", 1, 1, "one argument"),
    ("id", 1, 1, "one argument"),
    ("local-name", 0, 1, "at most one argument"),
    ("namespace-uri", 0, 1, "at most one argument"),
    ("name", 0, 1, "at most one argument"),
    ("string", 0, 1, "at most one argument"),
    ("concat", 2, usize::MAX, "two arguments or more"),
    ("starts-with", 2, 2, "two arguments"),
    ("contains", 2, 2, "two arguments"),
    ("substring-before", 2, 2, "two arguments"),
    ("substring-after", 2, 2, "two arguments"),
    ("substring", 2, 3, "two or three arguments"),
    ("string-length", 0, 1, "at most one argument"),
    ("normalize-space", 0, 1, "at most one argument"),
    ("translate", 3, 3, "three arguments"),
    ("boolean", 1, 1, "one argument"),
    ("not", 1, 1, "one argument"),
    ("true", 0, 0, "no arguments"),
    ("false", 0, 0, "no arguments"),
    ("lang", 1, 1, "one argument"),
    ("number", 0, 1, "at most one argument"),
    ("sum", 1, 1, "one argument"),
    ("floor", 1, 1, "one argument"),
    ("ceiling", 1, 1, "one argument"),
    ("round", 1, 1, "one argument"),
];

impl Lowering {
    /// A call of one of the core functions, sections 4.1 to 4.4.
    pub(super) fn call(&mut self, call: &Call<'_>) -> Plan {
        let found = FUNCTIONS.iter().find(|(name, ..)| *name == call.name);
        let Some(&(name, fewest, most, expected)) = found else {
            return Plan::Nodes(fail(call.position, Reason::Function(call.name.clone())));
        };
        let got = call.arguments.len();
        if !(fewest..=most).contains(&got) {
            return Plan::Nodes(fail(call.position, Reason::Arguments { name, expected, got }));
        }
        match name {
            "count" | "sum" | "id" | "local-name" | "name" | "namespace-uri" => {
                self.node_function(name, call)
            }
            "boolean" | "not" | "true" | "false" | "lang" | "contains" | "starts-with" => {
                Plan::Bool(self.bool_function(name, &call.arguments))
            }
            "last" | "position" | "number" | "floor" | "ceiling" | "round" | "string-length" => {
                Plan::Number(self.number_function(name, &call.arguments))
            }
            _ => Plan::Text(self.text_function(name, &call.arguments)),
        }
    }

    fn node_function(&mut self, name: &'static str, call: &Call<'_>) -> Plan {
        let argument = match call.arguments.first() {
            None => Plan::Nodes(Nodes::Path(Path { start: Start::Context, steps: Vec::new() })),
            Some(argument) => self.plan(argument),
        };
        let nodes = match (name, argument) {
            ("id", Plan::Nodes(nodes)) => return Plan::Nodes(Nodes::IdOfEach(Box::new(nodes))),
            ("id", plan) => return Plan::Nodes(Nodes::Id(text(plan))),
            (_, Plan::Nodes(nodes)) => nodes,
            _ => fail(call.position, Reason::NotNodes(name)),
        };
        match name {
            "count" => Plan::Number(Number::Count(nodes)),
            "sum" => Plan::Number(Number::Sum(nodes)),
            // Names in pages of HTML have no namespaces here, so all of a name is local.
            "namespace-uri" if !matches!(nodes, Nodes::Fail(_)) => Plan::Text(Text::Literal(String::new())),
            _ => Plan::Text(Text::NameOfFirst(Box::new(nodes))),
        }
    }

    fn bool_function(&mut self, name: &str, arguments: &[Syntax<'_>]) -> Bool {
        match (name, arguments) {
            ("true", _) => Bool::Constant(true),
            ("false", _) => Bool::Constant(false),
            ("not", [argument]) => Bool::Not(Box::new(self.bool(argument))),
            ("lang", [argument]) => Bool::Lang(self.text(argument)),
            ("starts-with", [text, start]) => Bool::StartsWith(self.text(text), self.text(start)),
            ("contains", [text, part]) => match (self.text(text), self.text(part)) {
                (text, Text::Literal(part)) => shortcuts::has_token(&text, &part).unwrap_or_else(|| {
                    Bool::Finds(text, Box::new(Finder::new(part.as_bytes()).into_owned()))
                }),
                (text, part) => Bool::Contains(text, part),
            },
            _ => arguments.first().map_or(Bool::Constant(false), |argument| self.bool(argument)),
        }
    }

    fn number_function(&mut self, name: &str, arguments: &[Syntax<'_>]) -> Number {
        let argument = arguments.first().map(|argument| self.plan(argument));
        let boxed = |plan: Option<Plan>| Box::new(plan.map_or(Number::Constant(f64::NAN), number));
        match name {
            "position" | "last" => {
                self.is_positional = true;
                if name == "last" { Number::Last } else { Number::Position }
            }
            "floor" => Number::Floor(boxed(argument)),
            "ceiling" => Number::Ceiling(boxed(argument)),
            "round" => Number::Round(boxed(argument)),
            "string-length" => Number::Length(argument.map_or(Text::Context, text)),
            _ => argument.map_or(Number::OfText(Text::Context), number),
        }
    }

    fn text_function(&mut self, name: &str, arguments: &[Syntax<'_>]) -> Text {
        let mut boxed = |syntax| Box::new(self.text(syntax));
        match (name, arguments) {
            ("concat", parts) => Text::Concat(parts.iter().map(|part| self.text(part)).collect()),
            ("substring-before", [text, part]) => Text::Before(boxed(text), boxed(part)),
            ("substring-after", [text, part]) => Text::After(boxed(text), boxed(part)),
            ("translate", [text, from, to]) => Text::Translate(boxed(text), boxed(from), boxed(to)),
            ("substring", [text, from, length @ ..]) => {
                let text = boxed(text);
                let from = Box::new(self.number(from));
                Text::Substring(text, from, length.first().map(|length| Box::new(self.number(length))))
            }
            ("normalize-space", [text]) => Text::NormalizeSpace(boxed(text)),
            ("normalize-space", _) => Text::NormalizeSpace(Box::new(Text::Context)),
            (_, [argument, ..]) => self.text(argument),
            _ => Text::Context,
        }
    }
}
