//! What an expression gives, and how its types become each other.

use super::lexer::is_space;
use super::node::Node;
use crate::dom::Document;

/// The value of an expression: one of the four types of XPath 1.0.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Nodes in document order, each once.
    Nodes(Vec<Node>),
    /// A string.
    Text(String),
    /// A number.
    Number(f64),
    /// A boolean.
    Bool(bool),
}

impl Value {
    /// The value as a string, as the function `string` gives it: of nodes, that of the first.
    pub fn to_text(&self, document: &Document) -> String {
        match self {
            Self::Nodes(nodes) => nodes.first().map_or("", |node| node.text(document)).to_owned(),
            Self::Text(text) => text.clone(),
            Self::Number(number) => number_to_text(*number),
            Self::Bool(value) => value.to_string(),
        }
    }

    /// The strings of all nodes, or the one string of any other value.
    pub fn texts(&self, document: &Document) -> Vec<String> {
        match self {
            Self::Nodes(nodes) => nodes.iter().map(|node| node.text(document).to_owned()).collect(),
            _ => vec![self.to_text(document)],
        }
    }

    /// The nodes; none for any other value.
    pub fn nodes(&self) -> &[Node] {
        match self {
            Self::Nodes(nodes) => nodes,
            _ => &[],
        }
    }
}

/// Decimal, without an exponent, with as many digits as tell the number from all others.
///
/// # Source
/// XPath 1.0, section 4.2, `string`.
pub(super) fn number_to_text(number: f64) -> String {
    if number.is_nan() {
        "NaN".to_owned()
    } else if number.is_infinite() {
        if number > 0.0 { "Infinity" } else { "-Infinity" }.to_owned()
    } else if number == 0.0 {
        // Negative zero too.
        "0".to_owned()
    } else {
        number.to_string()
    }
}

/// Digits with at most one point, a minus sign before, white space around; NaN for anything else.
///
/// # Source
/// XPath 1.0, section 4.4, `number`.
pub(super) fn text_to_number(text: &str) -> f64 {
    let text = text.trim_matches(is_space);
    let digits = text.strip_prefix('-').unwrap_or(text);
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    if is_number { text.parse().unwrap_or(f64::NAN) } else { f64::NAN }
}

/// To the nearest integer, halves towards positive infinity.
///
/// # Source
/// XPath 1.0, section 4.4, `round`.
pub(super) fn round(number: f64) -> f64 {
    // Adding a half first would round the largest number below a half up.
    let down = number.floor();
    if number - down < 0.5 {
        down
    } else {
        // From -0.5 on, this is negative zero.
        number.ceil()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_to_text() {
        let check = |number, expect: &str| assert_eq!(number_to_text(number), expect);
        check(1.0, "1");
        check(-0.0, "0");
        check(-1.5, "-1.5");
        check(1e21, "1000000000000000000000");
        check(1e-7, "0.0000001");
        check(0.1 + 0.2, "0.30000000000000004");
        check(f64::NAN, "NaN");
        check(f64::NEG_INFINITY, "-Infinity");
    }

    #[test]
    fn text_to_numbers() {
        let check =
            |text, expect: f64| assert_eq!(text_to_number(text).to_bits(), expect.to_bits(), "{text}");
        check(" 12\n", 12.0);
        check("-.5", -0.5);
        check("5.", 5.0);
        for text in ["", " ", "+1", "1e3", "- 1", "1.2.3", ".", "-", "inf", "NaN", "1 2", "1\u{a0}"] {
            assert!(text_to_number(text).is_nan(), "{text}");
        }
    }

    #[test]
    fn rounding() {
        let check = |number, expect: f64| assert_eq!(round(number).to_bits(), expect.to_bits(), "{number}");
        check(2.5, 3.0);
        check(-2.5, -2.0);
        check(0.499_999_999_999_999_94, 0.0);
        check(-0.2, -0.0);
        check(1e300, 1e300);
        check(4_503_599_627_370_497.0, 4_503_599_627_370_497.0);
        assert!(round(f64::NAN).is_nan());
        assert_eq!(round(f64::NEG_INFINITY), f64::NEG_INFINITY);
    }
}
