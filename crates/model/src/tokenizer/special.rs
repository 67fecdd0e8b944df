//! Special tokens: those that stand for no text, such as the ends of texts and the turns of a chat.

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};

/// What becomes of the names of special tokens in a text, such as `<|end|>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Special {
    /// They are ordinary text: what a page or a user writes cannot inject special tokens.
    #[default]
    AsText,
    /// They stand for the tokens: for text that a chat template has made. The other way, when token ids
    /// become text, special tokens appear by their names.
    Parse,
}

/// A token that encoding recognises by its name.
#[derive(Debug, Clone)]
pub(super) struct NamedToken {
    pub(super) id: u32,
    pub(super) name: String,
    /// Whether even plain text can write it, such as a row of spaces that was added to a vocabulary.
    pub(super) in_text: bool,
    /// Whether white space before it or after it belongs to it.
    pub(super) strips_left: bool,
    pub(super) strips_right: bool,
}

/// Names that mark the end of a turn or text wherever they are special tokens.
const ENDS: [&str; 17] = [
    "<|end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|eos|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<end_of_utterance>",
    "<turn|>",
    "<EOT>",
    "_<EOT>",
    "<｜end▁of▁sentence｜>",
];

/// Whether a name marks the end of a turn or text.
pub(super) fn is_end(name: &str) -> bool {
    ENDS.contains(&name)
}

/// What special tokens a model has, and what they are for.
#[derive(Debug, Clone)]
pub(super) struct SpecialTokens {
    /// By rising id.
    tokens: Vec<NamedToken>,
    /// Finds all of them, and those that plain text can write.
    all: Finder,
    in_text: Finder,
    pub(super) bos: u32,
    pub(super) eos: u32,
    pub(super) end_of_turn: Option<u32>,
    pub(super) padding: Option<u32>,
    pub(super) unknown: Option<u32>,
    pub(super) add_bos: bool,
    /// Ids after which nothing is generated, in rising order.
    ends: Vec<u32>,
}

impl SpecialTokens {
    /// Special tokens of which `bos` and `eos` are known. Generation ends at `eos` and at what is named as
    /// an end.
    pub(super) fn new(mut tokens: Vec<NamedToken>, bos: u32, eos: u32) -> Result<Self, String> {
        tokens.retain(|token| !token.name.is_empty());
        tokens.sort_by_key(|token| token.id);
        let named = |name: &str| tokens.iter().any(|token| token.name == name);
        // With channels (gpt-oss), the end of a message is not that of the turn.
        let has_channels = named("<|return|>") && named("<|call|>");
        let is_end = |name: &str| is_end(name) && !(has_channels && name == "<|end|>");
        let ends = tokens.iter().filter(|token| is_end(&token.name) && !token.in_text).map(|token| token.id);
        let ends: Vec<u32> = ends.collect();
        let all = Finder::new(&tokens, |_| true)?;
        let in_text = Finder::new(&tokens, |token| token.in_text)?;
        let (end_of_turn, padding, unknown) = (None, None, None);
        let mut this =
            Self { tokens, all, in_text, bos, eos, end_of_turn, padding, unknown, add_bos: false, ends };
        this.add_ends([eos]);
        Ok(this)
    }

    /// Adds ids after which nothing is generated.
    pub(super) fn add_ends(&mut self, ids: impl IntoIterator<Item = u32>) {
        self.ends.extend(ids);
        self.ends.sort_unstable();
        self.ends.dedup();
    }

    pub(super) fn ends(&self) -> &[u32] {
        &self.ends
    }

    /// The special token of an id.
    pub(super) fn get(&self, id: u32) -> Option<&NamedToken> {
        let found = self.tokens.binary_search_by_key(&id, |token| token.id).ok()?;
        Some(&self.tokens[found]).filter(|token| !token.in_text)
    }

    /// The id of a name.
    pub(super) fn id(&self, name: &str) -> Option<u32> {
        self.tokens.iter().find(|token| token.name == name).map(|token| token.id)
    }

    /// Takes a text apart at its special tokens, from left to right, of several that fit at the longest.
    pub(super) fn split(&self, text: &str, special: Special, mut each: impl FnMut(Part<'_>)) {
        let finder = match special {
            Special::AsText => &self.in_text,
            Special::Parse => &self.all,
        };
        let Some(automaton) = &finder.automaton else { return each_text(text, &mut each) };
        let (mut done, mut strips) = (0, false);
        for found in automaton.find_iter(text) {
            let token = &self.tokens[finder.tokens[found.pattern().as_usize()]];
            let before = stripped(&text[done..found.start()], strips, token.strips_left);
            each_text(before, &mut each);
            each(Part::Token(token.id));
            (done, strips) = (found.end(), token.strips_right);
        }
        each_text(stripped(&text[done..], strips, false), &mut each);
    }
}

/// A part of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part<'a> {
    /// Text without special tokens; never empty.
    Text(&'a str),
    /// A token by its name.
    Token(u32),
}

fn each_text(text: &str, each: &mut impl FnMut(Part<'_>)) {
    if !text.is_empty() {
        each(Part::Text(text));
    }
}

fn stripped(text: &str, left: bool, right: bool) -> &str {
    let text = if left { text.trim_start() } else { text };
    if right { text.trim_end() } else { text }
}

/// Finds names in texts, in time that does not depend on their number.
#[derive(Debug, Clone)]
struct Finder {
    automaton: Option<AhoCorasick>,
    /// Index of each name's token.
    tokens: Vec<usize>,
}

impl Finder {
    fn new(tokens: &[NamedToken], wanted: impl Fn(&NamedToken) -> bool) -> Result<Self, String> {
        /// More text in names than this is no vocabulary but an attack: finding them takes up to a hundred
        /// times as many bytes. The largest known have a third.
        const MOST_BYTES: usize = 1 << 18;
        /// For longer names the fastest automaton would take half a kilobyte for each of their bytes, and
        /// minutes to build where they repeat themselves.
        const FAST_BYTES: usize = 1 << 12;
        let indices: Vec<usize> = (0..tokens.len()).filter(|&idx| wanted(&tokens[idx])).collect();
        let names = || indices.iter().map(|&idx| tokens[idx].name.as_str());
        let n_bytes: usize = names().map(str::len).sum();
        if n_bytes > MOST_BYTES {
            return Err(format!("the names of its special tokens have more than {MOST_BYTES} bytes"));
        }
        if indices.is_empty() {
            return Ok(Self { automaton: None, tokens: indices });
        }
        let kind = (n_bytes > FAST_BYTES).then_some(AhoCorasickKind::ContiguousNFA);
        let built = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).kind(kind).build(names());
        Ok(Self { automaton: Some(built.map_err(|error| error.to_string())?), tokens: indices })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens() -> SpecialTokens {
        let token = |id: u32, name: &str| NamedToken {
            id,
            name: name.into(),
            in_text: name.trim().is_empty(),
            strips_left: name == "<mask>",
            strips_right: name == "<|end|>",
        };
        let names =
            [token(5, "<|end|>"), token(3, "<s>"), token(7, "<mask>"), token(9, "  "), token(8, "    ")];
        SpecialTokens::new(names.to_vec(), 3, 5).unwrap()
    }

    fn split(text: &str, special: Special) -> Vec<String> {
        let mut parts = Vec::new();
        tokens().split(text, special, |part| match part {
            Part::Text(text) => parts.push(text.to_owned()),
            Part::Token(id) => parts.push(id.to_string()),
        });
        parts
    }

    #[test]
    fn texts_are_split_at_the_longest_names() {
        assert_eq!(split("<s>Hi<|end|> \n<s>", Special::Parse), ["3", "Hi", "5", "3"]);
        assert_eq!(split("a <mask> b", Special::Parse), ["a", "7", " b"]);
        assert_eq!(split("<|end|>  x  <mask>", Special::Parse), ["5", "9", "x", "9", "7"]);
        assert_eq!(split("<s> a     b", Special::AsText), ["<s> a", "8", " b"]);
        assert_eq!(split("", Special::Parse), [""; 0]);
    }

    #[test]
    fn roles_are_known() {
        let special = tokens();
        assert_eq!((special.get(5).map(|token| &*token.name), special.id("<s>")), (Some("<|end|>"), Some(3)));
        assert!(special.get(8).is_none() && special.get(4).is_none(), "spaces are no special tokens");
        assert_eq!(special.ends(), [5]);
        let name = |id: u32, name: &str| NamedToken {
            id,
            name: name.into(),
            in_text: false,
            strips_left: false,
            strips_right: false,
        };
        let channels =
            vec![name(0, "<|end|>"), name(1, "<|return|>"), name(2, "<|call|>"), name(3, "<|eot_id|>")];
        assert_eq!(SpecialTokens::new(channels, 1, 1).unwrap().ends(), [1, 2, 3]);
    }
}
