//! Decoding token by token, for text that is shown while it is generated.

use super::Tokenizer;

/// Turns tokens into text as they come; see [`Tokenizer::decode_stream`].
#[derive(Debug)]
pub struct DecodeStream<'a> {
    tokenizer: &'a Tokenizer,
    /// The bytes of a character that is not complete yet.
    pending: Vec<u8>,
    /// Whether the next text begins with a space that encoding put there.
    drops_space: bool,
}

impl<'a> DecodeStream<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer, drops_space: bool) -> Self {
        Self { tokenizer, pending: Vec::new(), drops_space }
    }

    /// The text that is complete with this token: empty within a character. Bytes that belong to no
    /// character become U+FFFD.
    pub fn push(&mut self, id: u32) -> String {
        let bytes = self.tokenizer.bytes_of(id);
        if !bytes.is_empty() {
            let dropped = std::mem::take(&mut self.drops_space);
            self.pending.extend_from_slice(bytes.strip_prefix(b" ").filter(|_| dropped).unwrap_or(bytes));
        }
        let mut complete = self.pending.len();
        // Only the last chunk can be the beginning of a character.
        if let Some(last) = self.pending.utf8_chunks().last()
            && std::str::from_utf8(last.invalid()).is_err_and(|error| error.error_len().is_none())
        {
            complete -= last.invalid().len();
        }
        let rest = self.pending.split_off(complete);
        let bytes = std::mem::replace(&mut self.pending, rest);
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// What is left at the end: U+FFFD if the last character stayed incomplete, else nothing.
    #[must_use]
    pub fn finish(self) -> String {
        String::from_utf8_lossy(&self.pending).into_owned()
    }
}
