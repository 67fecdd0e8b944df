//! Why an expression was refused or given up.

/// What is wrong with an expression, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("XPath, byte {position}: {reason}")]
pub struct XPathError {
    /// Byte of the expression at which it was noticed; 0 for [`Reason::Budget`].
    pub position: usize,
    /// What was noticed.
    pub reason: Reason,
}

/// See [`XPathError`].
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// Something else should stand here.
    #[error("expected {expected}, found {found}")]
    Expected {
        /// What could follow, in words.
        expected: &'static str,
        /// What follows: a token in backticks, or the end.
        found: String,
    },
    /// A character that begins no token.
    #[error("`{0}` begins nothing in XPath 1.0")]
    Character(char),
    /// A literal without its closing quote.
    #[error("the string that begins here is never closed")]
    OpenString,
    /// An axis that XPath 1.0 does not have.
    #[error("`{0}` is no axis of XPath 1.0")]
    Axis(String),
    /// A variable: nothing here gives them values.
    #[error("variable `${0}` has no value; write the value itself")]
    Variable(String),
    /// Expression too long, or nested too deeply.
    #[error("the expression has more than {limit} {what}; split it")]
    TooLarge {
        /// The limit that was passed.
        limit: usize,
        /// What was counted.
        what: &'static str,
    },
    /// On evaluation: a function that XPath 1.0 does not have.
    #[error("`{0}` is no function of XPath 1.0")]
    Function(String),
    /// On evaluation: a function with too few or too many arguments.
    #[error("`{name}` takes {expected}, not {got}")]
    Arguments {
        /// The function.
        name: &'static str,
        /// How many it takes, in words.
        expected: &'static str,
        /// How many stand there.
        got: usize,
    },
    /// On evaluation: a number, string or boolean where only nodes will do.
    #[error("{0} takes nodes, which this is not")]
    NotNodes(&'static str),
    /// On evaluation: a prefix in a name; pages of HTML declare none.
    #[error("prefix `{0}` stands for no namespace; compare `name()` with the whole name")]
    Prefix(String),
    /// On evaluation: the expression looked at more nodes and text than it may.
    #[error("gave up after {0} steps; make the expression more specific")]
    Budget(u64),
}

impl XPathError {
    pub(super) fn new(position: usize, reason: Reason) -> Self {
        Self { position, reason }
    }
}
