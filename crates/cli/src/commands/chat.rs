//! `elmwood chat`: a conversation with a model in the terminal.

use std::borrow::Cow;
use std::io::{BufRead, IsTerminal, Write};
use std::ops::ControlFlow;

use elmwood_engine::Cpu;
use elmwood_infer::{Finish, Generator, Request, Sampler};
use elmwood_model::{ChatMessage, ChatTemplate, Special, Tokenizer};
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use super::generate::ModelArgs;
use crate::interrupt;
use crate::session::Session;

/// Options of `chat`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  elmwood chat Phi-3.5-mini-instruct-Q4_K_M.gguf --system \"Answer in one sentence.\"")]
pub struct Args {
    /// The model, and how it chooses tokens.
    #[command(flatten)]
    pub model: ModelArgs,
    /// What the model is told before the conversation
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// Stop an answer after this many tokens
    #[arg(long, value_name = "N", default_value_t = 1024)]
    pub max_tokens: usize,
}

const HELP: &str = "\
/clear          begin a new conversation
/again          another answer to the last message
/system TEXT    what the model is told before the conversation; begins a new one
/help           this list
/quit           the end (or Ctrl-D)
A message of several lines stands between two lines of \"\"\"; a line that ends with \\ goes on in the next one.
Ctrl-C stops an answer.";

/// What stands around a message of several lines.
const QUOTES: &str = "\"\"\"";

/// Reads messages and writes answers until the input ends.
///
/// # Errors
/// A model that cannot be read, a chat template that fails, or a terminal that cannot be written to.
pub fn run(args: &Args, session: &Session) -> anyhow::Result<()> {
    let cpu = Cpu::new(args.model.threads)?;
    let (model, tokenizer) = args.model.load(&cpu)?;
    let template = ChatTemplate::of(&tokenizer)?;
    let mut conversation = Conversation {
        generator: args.model.generator(&model, &cpu),
        sampler: args.model.sampler()?,
        tokenizer: &tokenizer,
        template,
        messages: Vec::new(),
        system: args.system.clone(),
        stops: &args.model.stop,
        speculate: args.model.speculate(),
        max_tokens: args.max_tokens,
        session,
    };
    if tokenizer.chat_template().is_none() {
        session.note("the model has no chat template; it may go on with both sides of the conversation");
    }
    let mut input = Input::new()?;
    if input.is_terminal() {
        session.note("/help lists the commands");
    }
    while let Some(line) = input.message()? {
        match line.trim() {
            "" => {}
            "/quit" | "/exit" | "/bye" => break,
            "/help" => session.note(HELP),
            "/clear" => conversation.clear(),
            "/again" => conversation.again()?,
            command if command == "/system" || command.starts_with("/system ") => {
                let text = command["/system".len()..].trim();
                conversation.system = (!text.is_empty()).then(|| text.to_owned());
                conversation.clear();
            }
            command if command.starts_with('/') => {
                session.note(&format!("there is no command `{command}`; /help lists them"));
            }
            message => conversation.say(message)?,
        }
    }
    Ok(())
}

/// Messages so far, and what answers them.
struct Conversation<'a> {
    generator: Generator<'a>,
    sampler: Sampler,
    tokenizer: &'a Tokenizer,
    template: ChatTemplate,
    messages: Vec<ChatMessage>,
    system: Option<String>,
    stops: &'a [String],
    speculate: usize,
    max_tokens: usize,
    session: &'a Session,
}

impl Conversation<'_> {
    fn say(&mut self, message: &str) -> anyhow::Result<()> {
        self.messages.push(ChatMessage::new("user", message));
        self.answer()
    }

    /// Another answer to the last message.
    fn again(&mut self) -> anyhow::Result<()> {
        if self.messages.pop_if(|last| last.role == "assistant").is_none() {
            self.session.note("there is no answer yet");
            return Ok(());
        }
        self.answer()
    }

    fn clear(&mut self) {
        self.messages.clear();
        self.session.note("a new conversation");
    }

    fn answer(&mut self) -> anyhow::Result<()> {
        let system = self.system.iter().map(|text| ChatMessage::new("system", text));
        let messages: Vec<ChatMessage> = system.chain(self.messages.iter().cloned()).collect();
        let text = self.template.render(&messages)?;
        let prompt = self.tokenizer.encode_prompt(&text, Special::Parse);
        let request = Request {
            ends: self.tokenizer.end_of_generation(),
            speculate: self.speculate,
            ..Request::new(&prompt, self.max_tokens, &mut self.sampler)
        };
        let (mut out, mut written) = (std::io::stdout().lock(), Ok(()));
        let in_terminal = std::io::stdout().is_terminal();
        let (result, _) = interrupt::stop_only(|| {
            self.generator.answer(self.tokenizer, request, self.stops, |text| {
                let text = if in_terminal { Cow::from(harmless(text)) } else { Cow::from(text) };
                written = write!(out, "{text}").and_then(|()| out.flush());
                if written.is_ok() && !interrupt::requested() {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                }
            })
        });
        written?;
        let answer = match result {
            Ok(answer) => answer,
            Err(elmwood_infer::Error::PromptTooLong { tokens, context }) => {
                self.messages.pop();
                self.session.note(&format!(
                    "the conversation has {tokens} tokens with this message, but there is room for {context}: the message was \
                     taken back; /clear begins a new conversation, --context allows for more"
                ));
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        writeln!(out)?;
        if answer.finish == Finish::Interrupted && answer.text.is_empty() {
            self.messages.pop();
            self.session.note("stopped before the answer; the message was taken back");
            return Ok(());
        }
        let ended = match answer.finish {
            Finish::EndToken | Finish::StopString | Finish::Complete => "",
            Finish::Interrupted => "; stopped",
            Finish::Length => "; cut off by --max-tokens",
            Finish::ContextFull => "; cut off: the context is full, /clear begins a new conversation",
        };
        let (tokens, rate, waited) = (answer.tokens, answer.rate(), answer.prompt_secs);
        let context = self.generator.context();
        let used = (answer.prompt_tokens + tokens).min(context);
        let speed = format!("{tokens} tokens, {rate:.1} tokens/s, first after {waited:.1} s");
        self.session.note(&format!("[{speed}; {used} of {context} tokens used{ended}]\n"));
        self.messages.push(ChatMessage::new("assistant", answer.text));
        Ok(())
    }
}

/// A text without characters that control a terminal.
fn harmless(text: &str) -> String {
    text.replace(|c: char| c.is_control() && c != '\n' && c != '\t', "\u{fffd}")
}

/// Where messages come from: an editor in a terminal, lines of a file otherwise.
enum Input {
    Terminal(Box<DefaultEditor>),
    Lines,
}

impl Input {
    fn new() -> anyhow::Result<Self> {
        let both = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
        Ok(if both { Self::Terminal(Box::new(DefaultEditor::new()?)) } else { Self::Lines })
    }

    fn is_terminal(&self) -> bool {
        matches!(self, Self::Terminal(_))
    }

    /// The next message, its lines joined; none at the end of the input.
    fn message(&mut self) -> anyhow::Result<Option<String>> {
        let mut lines: Vec<String> = Vec::new();
        let mut quoted = false;
        loop {
            let prompt = if lines.is_empty() && !quoted { "> " } else { "… " };
            let mut line = match self.line(prompt)? {
                Line::Text(line) => line,
                Line::Dropped => {
                    lines.clear();
                    quoted = false;
                    continue;
                }
                Line::End => return Ok((!lines.is_empty()).then(|| lines.join("\n"))),
            };
            if line.trim() == QUOTES {
                quoted = !quoted;
            } else {
                let goes_on = line.ends_with('\\');
                if goes_on && !quoted {
                    line.pop();
                }
                lines.push(line);
                if goes_on {
                    continue;
                }
            }
            if !quoted {
                break;
            }
        }
        let message = lines.join("\n");
        if let Self::Terminal(editor) = self
            && !message.trim().is_empty()
        {
            editor.add_history_entry(&message)?;
        }
        Ok(Some(message))
    }

    fn line(&mut self, prompt: &str) -> anyhow::Result<Line> {
        match self {
            Self::Terminal(editor) => match editor.readline(prompt) {
                Ok(line) => Ok(Line::Text(line)),
                Err(ReadlineError::Interrupted) => {
                    eprintln!("(Ctrl-D or /quit ends)");
                    Ok(Line::Dropped)
                }
                Err(ReadlineError::Eof) => Ok(Line::End),
                Err(error) => Err(error.into()),
            },
            Self::Lines => {
                let mut line = String::new();
                let read = std::io::stdin().lock().read_line(&mut line)?;
                let text = line.trim_end_matches(['\n', '\r']).to_owned();
                Ok(if read > 0 { Line::Text(text) } else { Line::End })
            }
        }
    }
}

/// What came from where messages come from.
enum Line {
    Text(String),
    /// Ctrl-C at the prompt.
    Dropped,
    /// Ctrl-D, or the end of a file.
    End,
}
