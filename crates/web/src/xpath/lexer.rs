//! An expression as tokens.

use super::error::{Reason, XPathError};

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Token<'a> {
    Number(f64),
    Literal(&'a str),
    /// `name` or `prefix:name`.
    Name {
        prefix: Option<&'a str>,
        local: &'a str,
    },
    /// `*`, or `prefix:*`.
    AnyName {
        prefix: Option<&'a str>,
    },
    Operator(Operator),
    Variable(&'a str),
    Slash,
    DoubleSlash,
    OpenParen,
    CloseParen,
    OpenBracket,
    CloseBracket,
    Dot,
    DoubleDot,
    At,
    Comma,
    DoubleColon,
    End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operator {
    Or,
    And,
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    Plus,
    Minus,
    Multiply,
    Div,
    Mod,
    Union,
}

/// A token and the byte at which it begins.
#[derive(Debug, Clone, Copy)]
pub(super) struct Placed<'a> {
    pub(super) token: Token<'a>,
    pub(super) position: usize,
}

/// All tokens of `source`, [`Token::End`] last.
///
/// # Source
/// XPath 1.0, section 3.7, with its two rules on what `*` and names mean after which tokens.
pub(super) fn tokens(source: &str) -> Result<Vec<Placed<'_>>, XPathError> {
    let mut tokens: Vec<Placed<'_>> = Vec::new();
    let mut position = 0;
    loop {
        let rest = &source[position..];
        let rest = rest.trim_start_matches(is_space);
        position = source.len() - rest.len();
        let last = tokens.last().map(|placed| placed.token);
        let (token, length) = token(rest, last).map_err(|reason| XPathError::new(position, reason))?;
        tokens.push(Placed { token, position });
        if token == Token::End {
            return Ok(tokens);
        }
        position += length;
    }
}

/// White space in XPath, which is that of XML.
pub(super) fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r')
}

fn token<'a>(rest: &'a str, last: Option<Token<'_>>) -> Result<(Token<'a>, usize), Reason> {
    let Some(first) = rest.chars().next() else { return Ok((Token::End, 0)) };
    let mut two = rest.chars().take(2).skip(1);
    let second = two.next();
    let operator = |operator, length| Ok((Token::Operator(operator), length));
    match (first, second) {
        ('/', Some('/')) => Ok((Token::DoubleSlash, 2)),
        ('/', _) => Ok((Token::Slash, 1)),
        ('(', _) => Ok((Token::OpenParen, 1)),
        (')', _) => Ok((Token::CloseParen, 1)),
        ('[', _) => Ok((Token::OpenBracket, 1)),
        (']', _) => Ok((Token::CloseBracket, 1)),
        ('@', _) => Ok((Token::At, 1)),
        (',', _) => Ok((Token::Comma, 1)),
        (':', Some(':')) => Ok((Token::DoubleColon, 2)),
        ('.', Some('.')) => Ok((Token::DoubleDot, 2)),
        ('.', next) if !next.is_some_and(|c| c.is_ascii_digit()) => Ok((Token::Dot, 1)),
        ('|', _) => operator(Operator::Union, 1),
        ('+', _) => operator(Operator::Plus, 1),
        ('-', _) => operator(Operator::Minus, 1),
        ('=', _) => operator(Operator::Equal, 1),
        ('!', Some('=')) => operator(Operator::NotEqual, 2),
        ('<', Some('=')) => operator(Operator::LessEqual, 2),
        ('<', _) => operator(Operator::Less, 1),
        ('>', Some('=')) => operator(Operator::GreaterEqual, 2),
        ('>', _) => operator(Operator::Greater, 1),
        ('*', _) if ends_operand(last) => operator(Operator::Multiply, 1),
        ('*', _) => Ok((Token::AnyName { prefix: None }, 1)),
        ('"' | '\'', _) => {
            let length = rest[1..].find(first).ok_or(Reason::OpenString)?;
            Ok((Token::Literal(&rest[1..=length]), length + 2))
        }
        ('.' | '0'..='9', _) => Ok(number(rest)),
        ('$', _) => {
            let length = name_length(&rest[1..]);
            if length == 0 {
                Err(Reason::Character('$'))
            } else {
                Ok((Token::Variable(&rest[1..=length]), length + 1))
            }
        }
        (c, _) if is_name_start(c) => Ok(name(rest, last)),
        (c, _) => Err(Reason::Character(c)),
    }
}

/// Whether an operator, not an operand, follows.
fn ends_operand(last: Option<Token<'_>>) -> bool {
    !matches!(
        last,
        None | Some(
            Token::At
                | Token::DoubleColon
                | Token::OpenParen
                | Token::OpenBracket
                | Token::Comma
                | Token::Slash
                | Token::DoubleSlash
                | Token::Operator(_)
        )
    )
}

fn number(rest: &str) -> (Token<'_>, usize) {
    let digits = |from: usize| rest[from..].bytes().take_while(u8::is_ascii_digit).count();
    let mut length = digits(0);
    if rest[length..].starts_with('.') {
        length += 1 + digits(length + 1);
    }
    // Digits with at most one point, and at least one digit, are always a number to Rust.
    (Token::Number(rest[..length].parse().unwrap_or(f64::NAN)), length)
}

fn name<'a>(rest: &'a str, last: Option<Token<'_>>) -> (Token<'a>, usize) {
    let length = name_length(rest);
    let local = &rest[..length];
    if ends_operand(last) {
        let operator = match local {
            "or" => Some(Operator::Or),
            "and" => Some(Operator::And),
            "div" => Some(Operator::Div),
            "mod" => Some(Operator::Mod),
            _ => None,
        };
        if let Some(operator) = operator {
            return (Token::Operator(operator), length);
        }
    }
    if let Some(after) = rest[length..].strip_prefix(':') {
        let prefix = Some(local);
        if after.starts_with('*') {
            return (Token::AnyName { prefix }, length + 2);
        }
        let local_length = name_length(after);
        if local_length > 0 {
            return (Token::Name { prefix, local: &after[..local_length] }, length + 1 + local_length);
        }
    }
    (Token::Name { prefix: None, local }, length)
}

fn name_length(rest: &str) -> usize {
    if !rest.starts_with(is_name_start) {
        return 0;
    }
    rest.find(|c| !is_name_character(c)).unwrap_or(rest.len())
}

/// Whether a name without prefix may begin so.
///
/// # Source
/// XML 1.0, fifth edition, production 4, without the colon.
fn is_name_start(c: char) -> bool {
    matches!(c,
        'A'..='Z' | '_' | 'a'..='z' | '\u{c0}'..='\u{d6}' | '\u{d8}'..='\u{f6}' | '\u{f8}'..='\u{2ff}'
        | '\u{370}'..='\u{37d}' | '\u{37f}'..='\u{1fff}' | '\u{200c}'..='\u{200d}' | '\u{2070}'..='\u{218f}'
        | '\u{2c00}'..='\u{2fef}' | '\u{3001}'..='\u{d7ff}' | '\u{f900}'..='\u{fdcf}' | '\u{fdf0}'..='\u{fffd}'
        | '\u{10000}'..='\u{effff}')
}

/// The same for the characters after the first, production 4a.
fn is_name_character(c: char) -> bool {
    is_name_start(c)
        || matches!(c, '-' | '.' | '0'..='9' | '\u{b7}' | '\u{300}'..='\u{36f}' | '\u{203f}'..='\u{2040}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(source: &str, expect: &[Token<'_>]) {
        let found: Vec<Token<'_>> = tokens(source).unwrap().iter().map(|placed| placed.token).collect();
        assert_eq!(found[..found.len() - 1], *expect);
    }

    fn name(local: &str) -> Token<'_> {
        Token::Name { prefix: None, local }
    }

    #[test]
    fn what_stands_before_decides_what_names_mean() {
        let div = Token::Operator(Operator::Div);
        check("div div div", &[name("div"), div, name("div")]);
        let star = Token::AnyName { prefix: None };
        check("* * *", &[star, Token::Operator(Operator::Multiply), star]);
        check("@*|a", &[Token::At, star, Token::Operator(Operator::Union), name("a")]);
        check("or[and]", &[name("or"), Token::OpenBracket, name("and"), Token::CloseBracket]);
        check("a/div", &[name("a"), Token::Slash, name("div")]);
    }

    #[test]
    fn names_numbers_and_strings() {
        check("a-1", &[name("a-1")]);
        check(
            "x:y z:* q",
            &[Token::Name { prefix: Some("x"), local: "y" }, Token::AnyName { prefix: Some("z") }, name("q")],
        );
        check("1.5 .5 5.", &[Token::Number(1.5), Token::Number(0.5), Token::Number(5.0)]);
        check("'a\"b' \"ü'\"", &[Token::Literal("a\"b"), Token::Literal("ü'")]);
        check("...", &[Token::DoubleDot, Token::Dot]);
        check("größe", &[name("größe")]);
        assert_eq!(tokens("  'x").unwrap_err(), XPathError::new(2, Reason::OpenString));
        assert_eq!(tokens("a # b").unwrap_err(), XPathError::new(2, Reason::Character('#')));
    }
}
