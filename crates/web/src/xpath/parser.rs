//! Tokens to a tree.
//!
//! Operators are read by precedence climbing, so that a parenthesis costs two stack frames and not one for each
//! level of the grammar; [`MAX_DEPTH`] bounds how many of them there are, here and in everything that walks the
//! tree later.

use super::error::{Reason, XPathError};
use super::lexer::{Operator, Placed, Token, tokens};
use super::syntax::{Axis, Call, Path, Start, Step, Syntax, Test};

/// Most parentheses, predicates and arguments within each other.
const MAX_DEPTH: usize = 128;

/// Most operators that stand behind another of their rank, as the second in `1 + 2 + 3`. Each makes the tree one
/// level higher on its left side; `or`, `and` and `|` do not, being lists.
const MAX_CHAINED: usize = 256;

/// Most tokens of an expression.
const MAX_TOKENS: usize = 50_000;

/// The tree of an expression.
///
/// Which functions exist and what they take is not looked at: as in libxml2, that shows on evaluation.
///
/// # Errors
/// If `source` does not follow the grammar of XPath 1.0, has a variable, or is too large.
pub(super) fn parse(source: &str) -> Result<Syntax<'_>, XPathError> {
    let tokens = tokens(source)?;
    if tokens.len() > MAX_TOKENS {
        return Err(XPathError::new(0, Reason::TooLarge { limit: MAX_TOKENS, what: "tokens" }));
    }
    let mut parser = Parser { tokens, next: 0, depth: 0, n_chained: 0 };
    let syntax = parser.expression(0)?;
    match parser.peek() {
        Token::End => Ok(syntax),
        _ => Err(parser.expected("an operator or the end")),
    }
}

struct Parser<'a> {
    tokens: Vec<Placed<'a>>,
    next: usize,
    depth: usize,
    n_chained: usize,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Token<'a> {
        self.tokens[self.next].token
    }

    fn peek_second(&self) -> Token<'a> {
        self.tokens.get(self.next + 1).map_or(Token::End, |placed| placed.token)
    }

    fn position(&self) -> usize {
        self.tokens[self.next].position
    }

    /// Goes past the next token, which must not be the end.
    fn skip(&mut self) {
        self.next += 1;
    }

    fn skip_if(&mut self, token: Token<'a>) -> bool {
        let found = self.peek() == token;
        self.next += usize::from(found);
        found
    }

    fn expect(&mut self, token: Token<'a>, name: &'static str) -> Result<(), XPathError> {
        if self.skip_if(token) { Ok(()) } else { Err(self.expected(name)) }
    }

    fn expected(&self, expected: &'static str) -> XPathError {
        XPathError::new(self.position(), Reason::Expected { expected, found: spelling(self.peek()) })
    }

    fn deepen(&mut self) -> Result<(), XPathError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.too_large(MAX_DEPTH, "levels"));
        }
        Ok(())
    }

    fn too_large(&self, limit: usize, what: &'static str) -> XPathError {
        XPathError::new(self.position(), Reason::TooLarge { limit, what })
    }

    /// An expression of operators that bind at least as tightly as `floor`.
    fn expression(&mut self, floor: u8) -> Result<Syntax<'a>, XPathError> {
        let depth = self.depth;
        self.deepen()?;
        let position = self.position();
        let mut left = self.unary()?;
        let mut is_chained = false;
        while let Token::Operator(operator) = self.peek() {
            let binds = precedence(operator);
            if binds < floor {
                break;
            }
            left = match operator {
                Operator::Or => Syntax::Or(self.chain(left, operator)?),
                Operator::And => Syntax::And(self.chain(left, operator)?),
                Operator::Union => {
                    let mut parts = vec![(left, position)];
                    while self.skip_if(Token::Operator(operator)) {
                        let position = self.position();
                        parts.push((self.path()?, position));
                    }
                    Syntax::Union(parts)
                }
                _ => {
                    self.n_chained += usize::from(is_chained);
                    if self.n_chained > MAX_CHAINED {
                        return Err(self.too_large(MAX_CHAINED, "operators in a row"));
                    }
                    is_chained = true;
                    self.skip();
                    let right = self.expression(binds + 1)?;
                    Syntax::Binary(operator, Box::new(left), Box::new(right))
                }
            };
        }
        self.depth = depth;
        Ok(left)
    }

    /// All operands that `operator` stands between, as one list.
    fn chain(&mut self, first: Syntax<'a>, operator: Operator) -> Result<Vec<Syntax<'a>>, XPathError> {
        let mut parts = vec![first];
        while self.skip_if(Token::Operator(operator)) {
            parts.push(self.expression(precedence(operator) + 1)?);
        }
        Ok(parts)
    }

    fn unary(&mut self) -> Result<Syntax<'a>, XPathError> {
        let mut n_signs = 0_usize;
        while self.skip_if(Token::Operator(Operator::Minus)) {
            n_signs += 1;
        }
        if n_signs == 0 {
            return self.path();
        }
        // Unary minus binds more tightly than all operators but the union.
        let operand = Syntax::Negate(Box::new(self.expression(precedence(Operator::Union))?));
        // Twice negated is only made a number.
        Ok(if n_signs % 2 == 1 { operand } else { Syntax::Negate(Box::new(operand)) })
    }

    /// A location path, or an expression with predicates and steps behind it.
    fn path(&mut self) -> Result<Syntax<'a>, XPathError> {
        let position = self.position();
        let mut steps = Vec::new();
        let start = match self.peek() {
            Token::Slash => {
                self.skip();
                if self.begins_step() {
                    steps.push(self.step()?);
                }
                Start::Root
            }
            Token::DoubleSlash => {
                self.skip();
                steps.push(ALL);
                self.skip_surplus_slash();
                steps.push(self.step()?);
                Start::Root
            }
            _ if self.begins_step() => {
                steps.push(self.step()?);
                Start::Context
            }
            _ => {
                let primary = self.primary()?;
                let predicates = self.predicates()?;
                let goes_on = matches!(self.peek(), Token::Slash | Token::DoubleSlash);
                if predicates.is_empty() && !goes_on {
                    return Ok(primary);
                }
                Start::Filter(Box::new(primary), predicates)
            }
        };
        if !steps.is_empty() || matches!(start, Start::Filter(..)) {
            loop {
                if self.skip_if(Token::DoubleSlash) {
                    if steps.is_empty() {
                        self.skip_surplus_slash();
                    }
                    steps.push(ALL);
                } else if !self.skip_if(Token::Slash) {
                    break;
                }
                steps.push(self.step()?);
            }
        }
        Ok(Syntax::Path(Path { start, steps, position }))
    }

    /// Takes `///` at the start of a path for `//`, as libxml2 does: people write it.
    fn skip_surplus_slash(&mut self) {
        let _ = self.skip_if(Token::Slash) || self.skip_if(Token::DoubleSlash);
    }

    fn begins_step(&self) -> bool {
        match self.peek() {
            Token::Dot | Token::DoubleDot | Token::At | Token::AnyName { .. } => true,
            Token::Name { prefix, local } => {
                self.peek_second() != Token::OpenParen || (prefix.is_none() && is_node_type(local))
            }
            _ => false,
        }
    }

    fn step(&mut self) -> Result<Step<'a>, XPathError> {
        if self.skip_if(Token::Dot) {
            return Ok(Step { axis: Axis::Itself, test: Test::Node, predicates: Vec::new() });
        }
        if self.skip_if(Token::DoubleDot) {
            return Ok(Step { axis: Axis::Parent, test: Test::Node, predicates: Vec::new() });
        }
        let axis = match (self.peek(), self.peek_second()) {
            (Token::At, _) => {
                self.skip();
                Axis::Attribute
            }
            (Token::Name { prefix: None, local }, Token::DoubleColon) => {
                let unknown = || XPathError::new(self.position(), Reason::Axis(local.to_owned()));
                let axis = Axis::named(local).ok_or_else(unknown)?;
                self.skip();
                self.skip();
                axis
            }
            _ => Axis::Child,
        };
        let test = self.test()?;
        Ok(Step { axis, test, predicates: self.predicates()? })
    }

    fn test(&mut self) -> Result<Test<'a>, XPathError> {
        let test = match self.peek() {
            Token::AnyName { prefix: None } => Test::Any,
            Token::AnyName { prefix: Some(prefix) } | Token::Name { prefix: Some(prefix), .. } => {
                Test::Prefixed(prefix)
            }
            Token::Name { prefix: None, local } if self.peek_second() == Token::OpenParen => {
                return self.node_type(local);
            }
            Token::Name { prefix: None, local } => Test::Name(local),
            _ => return Err(self.expected("the name of an element or attribute, `*` or a node type")),
        };
        self.skip();
        Ok(test)
    }

    fn node_type(&mut self, name: &str) -> Result<Test<'a>, XPathError> {
        let test = match name {
            "node" => Test::Node,
            "text" => Test::Text,
            "comment" => Test::Comment,
            "processing-instruction" => Test::ProcessingInstruction,
            _ => return Err(self.expected("`node`, `text`, `comment` or `processing-instruction`")),
        };
        self.skip();
        self.skip();
        if test == Test::ProcessingInstruction && matches!(self.peek(), Token::Literal(_)) {
            self.skip();
        }
        self.expect(Token::CloseParen, "`)`")?;
        Ok(test)
    }

    fn predicates(&mut self) -> Result<Vec<Syntax<'a>>, XPathError> {
        let mut predicates = Vec::new();
        while self.skip_if(Token::OpenBracket) {
            predicates.push(self.expression(0)?);
            self.expect(Token::CloseBracket, "`]`")?;
        }
        Ok(predicates)
    }

    fn primary(&mut self) -> Result<Syntax<'a>, XPathError> {
        let position = self.position();
        let primary = match self.peek() {
            Token::Number(number) => Syntax::Number(number),
            Token::Literal(text) => Syntax::Literal(text),
            Token::Variable(name) => {
                return Err(XPathError::new(position, Reason::Variable(name.to_owned())));
            }
            Token::OpenParen => {
                self.skip();
                let inner = self.expression(0)?;
                self.expect(Token::CloseParen, "`)`")?;
                return Ok(inner);
            }
            Token::Name { prefix, local } => {
                self.skip();
                let name = prefix.map_or_else(|| local.to_owned(), |prefix| format!("{prefix}:{local}"));
                return Ok(Syntax::Call(Call { name, arguments: self.arguments()?, position }));
            }
            _ => return Err(self.expected("an expression")),
        };
        self.skip();
        Ok(primary)
    }

    fn arguments(&mut self) -> Result<Vec<Syntax<'a>>, XPathError> {
        self.expect(Token::OpenParen, "`(`")?;
        let mut arguments = Vec::new();
        if self.skip_if(Token::CloseParen) {
            return Ok(arguments);
        }
        loop {
            arguments.push(self.expression(0)?);
            if !self.skip_if(Token::Comma) {
                self.expect(Token::CloseParen, "`,` or `)`")?;
                return Ok(arguments);
            }
        }
    }
}

/// What `//` stands for.
const ALL: Step<'static> = Step { axis: Axis::DescendantOrSelf, test: Test::Node, predicates: Vec::new() };

fn is_node_type(name: &str) -> bool {
    matches!(name, "node" | "text" | "comment" | "processing-instruction")
}

fn precedence(operator: Operator) -> u8 {
    match operator {
        Operator::Or => 0,
        Operator::And => 1,
        Operator::Equal | Operator::NotEqual => 2,
        Operator::Less | Operator::LessEqual | Operator::Greater | Operator::GreaterEqual => 3,
        Operator::Plus | Operator::Minus => 4,
        Operator::Multiply | Operator::Div | Operator::Mod => 5,
        Operator::Union => 6,
    }
}

fn spelling(token: Token<'_>) -> String {
    let spelling = match token {
        Token::End => return "the end".to_owned(),
        Token::Number(number) => return format!("`{number}`"),
        Token::Literal(text) => return format!("the string `{text}`"),
        Token::Variable(name) => return format!("`${name}`"),
        Token::Name { prefix: Some(prefix), local } => return format!("`{prefix}:{local}`"),
        Token::AnyName { prefix: Some(prefix) } => return format!("`{prefix}:*`"),
        Token::Name { prefix: None, local } => local,
        Token::AnyName { prefix: None } | Token::Operator(Operator::Multiply) => "*",
        Token::Operator(Operator::Or) => "or",
        Token::Operator(Operator::And) => "and",
        Token::Operator(Operator::Equal) => "=",
        Token::Operator(Operator::NotEqual) => "!=",
        Token::Operator(Operator::Less) => "<",
        Token::Operator(Operator::LessEqual) => "<=",
        Token::Operator(Operator::Greater) => ">",
        Token::Operator(Operator::GreaterEqual) => ">=",
        Token::Operator(Operator::Plus) => "+",
        Token::Operator(Operator::Minus) => "-",
        Token::Operator(Operator::Div) => "div",
        Token::Operator(Operator::Mod) => "mod",
        Token::Operator(Operator::Union) => "|",
        Token::Slash => "/",
        Token::DoubleSlash => "//",
        Token::OpenParen => "(",
        Token::CloseParen => ")",
        Token::OpenBracket => "[",
        Token::CloseBracket => "]",
        Token::Dot => ".",
        Token::DoubleDot => "..",
        Token::At => "@",
        Token::Comma => ",",
        Token::DoubleColon => "::",
    };
    format!("`{spelling}`")
}
