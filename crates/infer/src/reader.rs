//! A text on its way through a model: the logits after its last token, and perhaps after guessed ones.

use elmwood_engine::Cpu;
use elmwood_model::{LocalModel, Sequence};

/// A text and the logits after it.
#[derive(Debug)]
pub(crate) struct Reader<'m> {
    pub model: &'m LocalModel,
    cpu: &'m Cpu,
    /// The text, and after it tokens that were guessed to come.
    sequence: Sequence,
    /// Tokens of the text.
    len: usize,
    /// Logits after the tokens from `first` on, a row each.
    logits: Vec<f32>,
    first: usize,
    /// Guessed tokens that were read, and those of them that came.
    pub drafted: usize,
    pub accepted: usize,
}

impl<'m> Reader<'m> {
    pub(crate) fn new(model: &'m LocalModel, cpu: &'m Cpu, sequence: Sequence) -> Self {
        Self { model, cpu, sequence, len: 0, logits: Vec::new(), first: 0, drafted: 0, accepted: 0 }
    }

    /// A copy that goes its own way.
    pub(crate) fn fork(&self) -> Self {
        Self { sequence: self.sequence.fork(), logits: self.logits.clone(), ..*self }
    }

    /// Tokens there is room for.
    pub(crate) fn capacity(&self) -> usize {
        self.sequence.capacity()
    }

    /// Bytes of keys and values when the text is as long as it can be.
    pub(crate) fn cache_bytes(&self) -> usize {
        self.sequence.cache_bytes()
    }

    pub(crate) fn text(&self) -> &[u32] {
        &self.sequence.tokens()[..self.len]
    }

    /// Logits after the last token of the text, which was the last to be read.
    pub(crate) fn logits(&self) -> &[f32] {
        let vocab = self.model.architecture().vocab_size;
        &self.logits[(self.len - 1 - self.first) * vocab..][..vocab]
    }

    /// Forgets what the text does not have in common with `text`; at least the last token of that, so that there is one
    /// to be read.
    pub(crate) fn keep_common(&mut self, text: &[u32]) {
        let common = self.text().iter().zip(text).take_while(|(a, b)| a == b).count();
        self.len = common.min(text.len().saturating_sub(1));
        self.sequence.truncate(self.len);
    }

    /// Adds tokens to the text.
    pub(crate) fn read(&mut self, tokens: &[u32]) {
        self.advance(tokens, self.len + tokens.len() - 1);
        self.len += tokens.len();
    }

    /// Adds one token to the text. If it is the one that was guessed, its logits are there already; else it is read
    /// together with what `guess` says may come after it: given the text, how many of the last guesses came, and how many
    /// tokens there is room for.
    pub(crate) fn push(&mut self, token: u32, guess: impl FnOnce(&[u32], usize, usize) -> Vec<u32>) {
        if self.sequence.tokens().get(self.len) == Some(&token) {
            self.accepted += 1;
        } else {
            self.sequence.truncate(self.len);
            let came = self.len - 1 - self.first;
            let room = self.room_for_guesses();
            let text = if room > 0 { [self.text(), &[token]].concat() } else { Vec::new() };
            let mut tokens = guess(&text, came, room);
            self.drafted += tokens.len();
            tokens.insert(0, token);
            self.advance(&tokens, self.len);
        }
        self.len += 1;
    }

    /// How many tokens can be read together with the next one without a change to its logits.
    fn room_for_guesses(&self) -> usize {
        // Beyond the switch, LongRoPE gives other results for the tokens before it too.
        let switch = self.model.architecture().rope.switch().filter(|switch| self.len < *switch);
        switch.unwrap_or(self.capacity()).min(self.capacity()) - self.len - 1
    }

    fn advance(&mut self, tokens: &[u32], first: usize) {
        self.first = first;
        self.logits.clear();
        let logits = &mut self.logits;
        let each = |_, row: &[f32]| logits.extend_from_slice(row);
        self.model.advance_with(self.cpu, &mut self.sequence, tokens, first, each);
    }
}
