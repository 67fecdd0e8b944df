//! What can go wrong, for all of this crate.

/// Why no text can be generated, or none scored.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is nothing to continue.
    #[error("the prompt has no tokens; begin with the model's beginning-of-text token")]
    EmptyPrompt,
    /// The prompt fills the context.
    #[error("the prompt has {tokens} tokens, but the context has room for {context}; shorten the prompt")]
    PromptTooLong {
        /// Tokens of the prompt.
        tokens: usize,
        /// Tokens that there is room for, at most those that the model can look at.
        context: usize,
    },
    /// A text of less than one window.
    #[error(
        "the text has {tokens} tokens, which do not fill one window of {window}; take a longer text or a shorter window"
    )]
    TextTooShort {
        /// Tokens of the text.
        tokens: usize,
        /// Tokens of a window.
        window: usize,
    },
    /// A window that the model cannot look at.
    #[error(
        "a window of {tokens} tokens is longer than the model's context of {context}; take a shorter one"
    )]
    WindowTooLong {
        /// Tokens of a window.
        tokens: usize,
        /// Tokens that the model can look at.
        context: usize,
    },
    /// A token that the model does not have.
    #[error("token {token} is outside the model's vocabulary of {vocab}; is this the model's own tokenizer?")]
    UnknownToken {
        /// The token.
        token: u32,
        /// Tokens that the model has.
        vocab: usize,
    },
    /// A setting that makes no sense.
    #[error("`{name}` is {value}, but must be {expected}")]
    Setting {
        /// The setting's name.
        name: &'static str,
        /// Its value.
        value: f64,
        /// Which values it may have.
        expected: &'static str,
    },
    /// A form of text that cannot be asked for.
    #[error("the text cannot be constrained: {0}")]
    Constraint(String),
    /// Not one token can come next: the model gives no number to any, or to none that is allowed.
    #[error("no token can come after {tokens} tokens: none that is allowed has a probability")]
    NoToken {
        /// Tokens of prompt and answer.
        tokens: usize,
    },
}
