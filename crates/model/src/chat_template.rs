//! Chat templates: the messages of a chat as the one text that a model was trained on.
//!
//! A template is a program in Jinja that comes with the model, so it comes from strangers. It runs with
//! [`MAX_TEMPLATE_BYTES`] of source, [`FUEL`] instructions and [`MAX_OUTPUT_BYTES`] of text, with bounded nesting, no
//! other files and no access to anything.
//!
//! Source: the environment in which Hugging Face's `transformers` runs templates, whose functions and white space the
//! published ones rely on.

use std::io::{self, Write};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, ErrorKind, Value};
use serde::Serialize;

use crate::{Error, Tokenizer};

/// Longest template that is read.
pub const MAX_TEMPLATE_BYTES: usize = 64 << 10;

/// Instructions that a template may take.
pub const FUEL: u64 = 1_000_000;

/// Longest text that a template may give.
pub const MAX_OUTPUT_BYTES: usize = 1 << 20;

/// Deepest nesting of calls and blocks.
const MAX_DEPTH: usize = 64;

/// A template for models that have none: `role: text` on a line of its own, an empty line after each, as
/// `user: Hello`, and `assistant:` for the answer.
pub const PLAIN_TEMPLATE: &str = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n\n\
    {% endfor %}{% if add_generation_prompt %}assistant:{% endif %}";

/// What a chat template failed on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChatTemplateFault {
    /// The template is longer than [`MAX_TEMPLATE_BYTES`].
    #[error("its {len} bytes are more than {MAX_TEMPLATE_BYTES}")]
    TooLong {
        /// Bytes of the template.
        len: usize,
    },
    /// The template is no Jinja.
    #[error("it is not understood: {reason}")]
    Syntax {
        /// What is wrong, and where.
        reason: String,
    },
    /// The template took more than [`FUEL`] instructions.
    #[error("it does not come to an end within {FUEL} instructions")]
    OutOfFuel,
    /// The text is longer than [`MAX_OUTPUT_BYTES`].
    #[error("its text is longer than {MAX_OUTPUT_BYTES} bytes")]
    OutputTooLong,
    /// The template refuses the messages, or something that it did failed.
    #[error("it failed: {reason}")]
    Failed {
        /// What went wrong, and where.
        reason: String,
    },
}

/// One message of a chat: what templates need at least. Anything that serialises to a list of objects with
/// `role` and `content` may be rendered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ChatMessage {
    /// Who speaks: `system`, `user`, `assistant`, or what else the template knows.
    pub role: String,
    /// What is said.
    pub content: String,
}

impl ChatMessage {
    /// A message of a role.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }
}

/// The template of a model.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    bos: String,
    eos: String,
}

/// The one template of an environment.
const NAME: &str = "chat template";

impl ChatTemplate {
    /// Reads a template for a model whose texts begin and end with tokens of these names.
    ///
    /// # Errors
    /// [`Error::ChatTemplate`] if it is too long or no Jinja.
    pub fn new(source: &str, bos: impl Into<String>, eos: impl Into<String>) -> Result<Self, Error> {
        if source.len() > MAX_TEMPLATE_BYTES {
            return Err(ChatTemplateFault::TooLong { len: source.len() }.into());
        }
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.expect("the usual delimiters"));
        environment.set_fuel(Some(FUEL));
        environment.set_recursion_limit(MAX_DEPTH);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| {
            Err::<Value, _>(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        });
        let added = environment.add_template_owned(NAME, source.to_owned());
        added.map_err(|error| ChatTemplateFault::Syntax { reason: error.to_string() })?;
        Ok(Self { environment, bos: bos.into(), eos: eos.into() })
    }

    /// The template of a tokenizer's model; [`PLAIN_TEMPLATE`] if it has none.
    ///
    /// # Errors
    /// [`Error::ChatTemplate`] if it is too long or no Jinja.
    pub fn of(tokenizer: &Tokenizer) -> Result<Self, Error> {
        let name = |id| tokenizer.special_name(id).unwrap_or_default();
        let source = tokenizer.chat_template().unwrap_or(PLAIN_TEMPLATE);
        Self::new(source, name(tokenizer.bos()), name(tokenizer.eos()))
    }

    /// The text of `messages`, up to where the model's answer begins. Encode it with
    /// [`Special::Parse`](crate::Special::Parse): many templates write the token that begins a text, and
    /// [`Tokenizer::encode_prompt`] adds that only where it is missing.
    ///
    /// # Errors
    /// [`Error::ChatTemplate`] if the template fails, refuses the messages, or does more than it may.
    pub fn render(&self, messages: &impl Serialize) -> Result<String, Error> {
        let template = self.environment.get_template(NAME).expect("added when this was made");
        let context = minijinja::context! {
            messages => Value::from(Serde(messages)),
            bos_token => self.bos.as_str(),
            eos_token => self.eos.as_str(),
            add_generation_prompt => true,
            tools => Value::from(()),
        };
        let mut text = Bounded(Vec::new());
        let rendered = template.render_captured_to(context, &mut text).map(drop);
        rendered.map_err(|error| match error.kind() {
            ErrorKind::OutOfFuel => ChatTemplateFault::OutOfFuel,
            ErrorKind::WriteFailure => ChatTemplateFault::OutputTooLong,
            _ => ChatTemplateFault::Failed { reason: error.to_string() },
        })?;
        Ok(String::from_utf8(text.0).expect("templates write text"))
    }
}

/// Text up to [`MAX_OUTPUT_BYTES`].
struct Bounded(Vec<u8>);

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_OUTPUT_BYTES {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl From<ChatTemplateFault> for Error {
    fn from(fault: ChatTemplateFault) -> Self {
        Self::ChatTemplate { fault }
    }
}
