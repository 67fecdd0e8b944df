//! Text that must have a form: a JSON schema, a regular expression or a grammar.

use std::fmt;
use std::sync::Arc;

use elmwood_model::Tokenizer;
use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, SimpleVob, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory, panic_utils};

use crate::{Error, json_schema};

/// A token that is longer is never written under a constraint: no more fits into the tree of tokens.
const MAX_TOKEN_BYTES: usize = 512;
/// Most bytes of all tokens together, for the same reason.
const MAX_VOCABULARY_BYTES: usize = 1 << 22;

/// The form that a text must have, from its first to its last character.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Form {
    /// A JSON text that a JSON schema accepts. The schema must use nothing that cannot be enforced.
    JsonSchema(String),
    /// A text that a regular expression matches as a whole, in the syntax of Rust's `regex`; no look-around.
    Regex(String),
    /// A text of a context-free grammar in llguidance's dialect of Lark.
    Lark(String),
}

/// A tokenizer's tokens in the form that constraints need: made once, for any number of them.
pub struct Vocabulary(ParserFactory);

impl Vocabulary {
    /// All tokens as bytes. Special ones stand for no text, so that no form asks for one; texts end at the tokenizer's
    /// ends of generation.
    ///
    /// # Errors
    /// [`Error::Constraint`] for a vocabulary of more than 4 MiB.
    pub fn new(tokenizer: &Tokenizer) -> Result<Self, Error> {
        let size = tokenizer.vocab_size();
        let words: Vec<Vec<u8>> = (0..size as u32).map(|id| word(tokenizer, id)).collect();
        let bytes: usize = words.iter().map(Vec::len).sum();
        if bytes > MAX_VOCABULARY_BYTES {
            return Err(Error::Constraint(format!("the vocabulary's {bytes} bytes are too many")));
        }
        let trie = TokTrie::from(&TokRxInfo::new(size as u32, tokenizer.eos()), &words);
        let ends = tokenizer.end_of_generation().iter().copied().filter(|end| (*end as usize) < size);
        let trie = trie.with_eos_tokens(&ends.collect::<Vec<_>>());
        let mut factory = ParserFactory::new_simple(&(Arc::new(ApproximateTokEnv::new(trie)) as _))
            .map_err(|error| constraint_error(&error))?;
        factory.quiet().limits_mut().verbose_errors = false;
        Ok(Self(factory))
    }

    /// A constraint for one text.
    ///
    /// # Errors
    /// [`Error::Constraint`] for a form that is wrong, too complex, or asks for what cannot be enforced.
    pub fn constraint(&self, form: &Form) -> Result<Constraint, Error> {
        let grammar = match form {
            Form::JsonSchema(schema) => TopLevelGrammar::from_json_schema(json_schema::strict(schema)?),
            Form::Regex(regex) => TopLevelGrammar::from_regex(regex),
            Form::Lark(grammar) => TopLevelGrammar::from_lark(grammar.clone()),
        };
        // The library answers some grammars with a panic, which is caught and becomes an error here.
        let parser =
            panic_utils::catch_unwind(std::panic::AssertUnwindSafe(|| self.0.create_parser(grammar)));
        let mut matcher = Matcher::new(Ok(parser.map_err(|error| constraint_error(&error))?));
        if let Some(warning) = matcher.grammar_warnings().into_iter().next() {
            return Err(Error::Constraint(warning));
        }
        match matcher.get_error() {
            Some(error) => Err(Error::Constraint(in_one_line(&error))),
            None => Ok(Constraint(matcher)),
        }
    }
}

impl fmt::Debug for Vocabulary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vocabulary").finish_non_exhaustive()
    }
}

/// The bytes of a token, marked if it is special, none if no form can ask for it.
fn word(tokenizer: &Tokenizer, id: u32) -> Vec<u8> {
    if let Some(name) = tokenizer.special_name(id) {
        return [&[TokTrie::SPECIAL_TOKEN_MARKER], name.as_bytes()].concat();
    }
    let bytes = tokenizer.token_bytes(id);
    // The marker's byte is in no UTF-8 text, so nothing is lost with the tokens that have it.
    let usable = bytes.len() <= MAX_TOKEN_BYTES && !bytes.contains(&TokTrie::SPECIAL_TOKEN_MARKER);
    if usable { bytes } else { Vec::new() }
}

/// Follows one text, and says which tokens keep to its form.
#[derive(Clone)]
pub struct Constraint(Matcher);

impl Constraint {
    /// The tokens that may come next. Ends of generation are among them where the text may end.
    ///
    /// # Errors
    /// [`Error::Constraint`] if the form is too complex to go on.
    pub fn mask(&mut self) -> Result<Mask, Error> {
        self.0.compute_mask_or_eos().map(Mask).map_err(|error| constraint_error(&error))
    }

    /// Adds a token to the text.
    ///
    /// # Errors
    /// [`Error::Constraint`] for a token that is not allowed.
    pub fn push(&mut self, token: u32) -> Result<(), Error> {
        self.0.consume_token(token).map_err(|error| constraint_error(&error))
    }

    /// Whether the text has the form as it is.
    #[must_use]
    pub fn may_end(&mut self) -> bool {
        self.0.is_accepting().unwrap_or(false)
    }

    /// Whether the text has the form and nothing can be added to it.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.0.is_stopped() && self.0.stop_reason().is_ok()
    }

    /// Tokens of the text that the form leaves no choice about, cut as long as they can be: a guess, since other tokens
    /// may make the same text.
    pub(crate) fn forced(&mut self) -> Vec<u32> {
        let bytes = self.0.compute_ff_bytes();
        match self.0.tok_env() {
            Ok(env) if !bytes.is_empty() => env.tok_trie().greedy_tokenize(&bytes),
            _ => Vec::new(),
        }
    }
}

impl fmt::Debug for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Constraint").finish_non_exhaustive()
    }
}

/// A set of tokens.
#[derive(Debug, Clone)]
pub struct Mask(SimpleVob);

impl Mask {
    /// Whether a token is in the set.
    #[must_use]
    pub fn allows(&self, token: u32) -> bool {
        (token as usize) < self.0.len() && self.0.is_allowed(token)
    }
}

impl FromIterator<u32> for Mask {
    fn from_iter<I: IntoIterator<Item = u32>>(tokens: I) -> Self {
        let tokens: Vec<u32> = tokens.into_iter().collect();
        let mut mask = SimpleVob::alloc(tokens.iter().max().map_or(0, |largest| *largest as usize + 1));
        tokens.into_iter().for_each(|token| mask.allow_token(token));
        Self(mask)
    }
}

fn constraint_error(error: &anyhow::Error) -> Error {
    let why = in_one_line(&error.to_string());
    let not_apart = why.starts_with("oneOf constraints are not supported");
    let help = "`oneOf` can be enforced only where no two of its schemas accept the same; write `anyOf`";
    Error::Constraint(if not_apart { help.to_owned() } else { why })
}

/// What is wrong, in one line: the library draws a picture around the reason where an expression cannot be read.
fn in_one_line(text: &str) -> String {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or_default().to_owned();
    match lines.find_map(|line| line.strip_prefix("error: ")) {
        Some(reason) => format!("{first} {reason}"),
        None => first,
    }
}
