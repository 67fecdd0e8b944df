//! Chat templates: the messages of a chat as the one text that a model was trained on.
//!
//! A template is a program in Jinja that comes with the model, so it comes from strangers. It runs with
//! [`MAX_TEMPLATE_BYTES`] of source, [`FUEL`] and [`MAX_OUTPUT_BYTES`] of text, with bounded nesting, no other files and
//! no access to anything but the date. A unit of fuel pays for an instruction, for 64 bytes of text or for two places in
//! a list, made or looked at, so a template may take some seconds and some hundred megabytes, but no more. All of it
//! comes back, unless a namespace is made to hold itself: such a template, which cannot come about by mistake, loses up
//! to that much memory each time.
//!
//! Source: the environment in which Hugging Face's `transformers` runs templates, whose functions and white space the
//! published ones rely on.

mod functions;
mod guard;
mod operators;

use minijinja::machinery::{self, CodeGenerator, Instructions};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, ErrorKind, Value};
use serde::Serialize;

use crate::{Error, Tokenizer};

/// Longest template that is read.
pub const MAX_TEMPLATE_BYTES: usize = 64 << 10;

/// What a template may cost: instructions, and text and lists that it makes or looks at.
pub const FUEL: u64 = 300_000;

/// Longest text that a template may give.
pub const MAX_OUTPUT_BYTES: usize = 1 << 20;

/// Deepest nesting of calls and blocks.
const MAX_DEPTH: usize = 64;

/// Stack of the thread on which templates run. Values are released as deep as they are nested, which is up to some
/// hundred thousand lists within lists for [`FUEL`]. Only what is used of it takes memory.
const STACK_BYTES: usize = 128 << 20;

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
    /// The template took more than [`FUEL`].
    #[error("it does not come to an end within {FUEL} instructions, or as much text and lists")]
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
    source: String,
    bos: String,
    eos: String,
}

/// What the template is called in messages.
const NAME: &str = "chat template";

impl ChatTemplate {
    /// Reads a template for a model whose texts begin and end with tokens of these names.
    ///
    /// # Errors
    /// [`Error::ChatTemplate`] if it is too long, no Jinja, or asks for what is not there.
    pub fn new(source: &str, bos: impl Into<String>, eos: impl Into<String>) -> Result<Self, Error> {
        if source.len() > MAX_TEMPLATE_BYTES {
            return Err(ChatTemplateFault::TooLong { len: source.len() }.into());
        }
        let source = functions::without_generation_tags(source);
        on_large_stack(|| compile(&source).map(drop))?;
        Ok(Self { source, bos: bos.into(), eos: eos.into() })
    }

    /// The template of a tokenizer's model; [`PLAIN_TEMPLATE`] if it has none.
    ///
    /// # Errors
    /// [`Error::ChatTemplate`] if it is too long, no Jinja, or asks for what is not there.
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
    pub fn render(&self, messages: &(impl Serialize + Sync)) -> Result<String, Error> {
        let text = on_large_stack(|| {
            let environment = environment();
            let instructions = compile(&self.source)?;
            let context = minijinja::context! {
                messages => Value::from(Serde(messages)),
                bos_token => self.bos.as_str(),
                eos_token => self.eos.as_str(),
                add_generation_prompt => true,
                tools => Value::from(()),
                documents => Value::from(()),
            };
            let (mut text, no_blocks) = (String::new(), Default::default());
            let mut output = machinery::make_string_output(&mut text);
            machinery::eval(&environment, &instructions, context, &no_blocks, &mut output, AutoEscape::None)
                .map(drop)?;
            Ok(text)
        })?;
        if text.len() > MAX_OUTPUT_BYTES {
            return Err(ChatTemplateFault::OutputTooLong.into());
        }
        Ok(text)
    }
}

fn syntax() -> SyntaxConfig {
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    syntax.expect("the usual delimiters")
}

/// What a template can call, and how much of it.
fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(MAX_DEPTH);
    functions::add(&mut environment);
    guard::guard(&mut environment);
    environment
}

fn compile(source: &str) -> Result<Instructions<'_>, minijinja::Error> {
    guard::check_tokens(source, &syntax())?;
    let tree = machinery::parse(source, NAME, syntax())?;
    let mut generator = CodeGenerator::new(NAME, source);
    generator.compile_stmt(&tree);
    let (mut instructions, _) = generator.finish();
    guard::exchange(&mut instructions)?;
    Ok(instructions)
}

/// Runs what may need much stack on a thread that has it.
fn on_large_stack<T: Send>(
    work: impl FnOnce() -> Result<T, minijinja::Error> + Send,
) -> Result<T, ChatTemplateFault> {
    let failed = |reason: &str| ChatTemplateFault::Failed { reason: reason.into() };
    std::thread::scope(|scope| {
        let thread =
            std::thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, || work().map_err(fault));
        let thread = thread.map_err(|error| failed(&format!("there is no thread to run it on: {error}")))?;
        thread.join().unwrap_or_else(|_| Err(failed("it breaks the engine that runs it")))
    })
}

fn fault(error: minijinja::Error) -> ChatTemplateFault {
    /// Templates choose what they say when they fail.
    const MAX_REASON_CHARS: usize = 1000;
    let reason = || error.to_string().chars().take(MAX_REASON_CHARS).collect();
    match error.kind() {
        ErrorKind::OutOfFuel => ChatTemplateFault::OutOfFuel,
        ErrorKind::SyntaxError => ChatTemplateFault::Syntax { reason: reason() },
        _ => ChatTemplateFault::Failed { reason: reason() },
    }
}

impl From<ChatTemplateFault> for Error {
    fn from(fault: ChatTemplateFault) -> Self {
        Self::ChatTemplate { fault }
    }
}
