//! XPath 1.0 over a [`Document`].
//!
//! An expression goes from tokens (`lexer.rs`) to a tree (`parser.rs`, `syntax.rs`) to a plan (`plan.rs`), in
//! which types are settled, conversions written out and common forms shortened (`lower.rs`, `shortcuts.rs`).
//! Evaluation walks axes over numbers in document order (`evaluate.rs`, `axes.rs`, `scalar.rs`).
//!
//! ```
//! use elmwood_web::{Document, xpath::{Value, XPath}};
//!
//! let page = Document::parse("<ul><li>elm<li class=tall>oak</ul>");
//! let tall = XPath::compile("//li[@class='tall']")?.evaluate(&page, page.root())?;
//! assert_eq!(tall.texts(&page), ["oak"]);
//! assert_eq!(XPath::compile("count(//li)")?.evaluate(&page, page.root())?, Value::Number(2.0));
//! # Ok::<(), elmwood_web::xpath::XPathError>(())
//! ```

mod axes;
mod error;
mod evaluate;
mod lexer;
mod lower;
mod lower_functions;
mod node;
mod parser;
mod plan;
mod scalar;
mod shortcuts;
mod syntax;
#[cfg(test)]
mod tests;
mod value;

pub use error::{Reason, XPathError};
pub use node::Node;
pub use value::Value;

use crate::dom::{Document, NodeId};

/// How many nodes one evaluation may look at, unless told otherwise: about a second's work.
pub const DEFAULT_BUDGET: u64 = 50_000_000;

/// A compiled expression, for any number of documents.
#[derive(Debug, Clone)]
pub struct XPath {
    expression: String,
    plan: plan::Plan,
}

impl XPath {
    /// Compiles an expression.
    ///
    /// # Errors
    /// If it does not follow the grammar, has a variable, or is too large; [`XPathError`] says where. Functions
    /// that do not exist, wrong numbers of arguments and prefixes are found on evaluation, as in libxml2.
    ///
    /// # Source
    /// XML Path Language (XPath) 1.0, W3C Recommendation of 16 November 1999.
    pub fn compile(expression: &str) -> Result<Self, XPathError> {
        let plan = lower::lower(&parser::parse(expression)?);
        Ok(Self { expression: expression.to_owned(), plan })
    }

    /// The expression as it was written.
    pub fn as_str(&self) -> &str {
        &self.expression
    }

    /// Evaluates the expression with `context` as its context node.
    ///
    /// Elements and attributes are called what the page calls them, in lower case for HTML, without namespaces.
    /// `id` goes by the attribute `id`, `lang` by `xml:lang`.
    ///
    /// # Errors
    /// If the expression calls for what does not exist, or takes more than [`DEFAULT_BUDGET`] steps.
    pub fn evaluate(&self, document: &Document, context: NodeId) -> Result<Value, XPathError> {
        self.evaluate_within(document, context, DEFAULT_BUDGET)
    }

    /// The same within `budget` steps: one for each node looked at, and for each sixteen to 256 bytes of text.
    ///
    /// # Errors
    /// See [`XPath::evaluate`].
    pub fn evaluate_within(
        &self,
        document: &Document,
        context: NodeId,
        budget: u64,
    ) -> Result<Value, XPathError> {
        evaluate::Evaluation::new(document, budget).value(&self.plan, context)
    }
}

impl std::str::FromStr for XPath {
    type Err = XPathError;

    fn from_str(expression: &str) -> Result<Self, XPathError> {
        Self::compile(expression)
    }
}
