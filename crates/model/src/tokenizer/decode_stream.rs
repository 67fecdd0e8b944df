//! Decoding token by token, for text that is shown while it is generated.

use super::Tokenizer;

/// Turns tokens into text as they come; see [`Tokenizer::decode_stream`].
#[derive(Debug)]
pub struct DecodeStream<'a> {
    tokenizer: &'a Tokenizer,
    /// The bytes of a character that is not complete yet.
    pending: Vec<u8>,
}

impl<'a> DecodeStream<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer) -> Self {
        Self { tokenizer, pending: Vec::new() }
    }

    /// The text that is complete with this token: empty within a character. Bytes that belong to no
    /// character become U+FFFD.
    pub fn push(&mut self, id: u32) -> String {
        self.pending.extend_from_slice(self.tokenizer.bytes_of(id));
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
