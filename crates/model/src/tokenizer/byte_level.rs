//! Bytes as printable characters: how `tokenizer.json` writes tokens that are not UTF-8.
//!
//! Printable characters of Latin-1 stand for themselves; the other 68 bytes take U+0100 and following.
//!
//! Source: Radford et al. 2019, `bytes_to_unicode` in GPT-2's `encoder.py`.

/// The character of a byte.
fn char_of(byte: u8) -> char {
    if is_printable(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|&byte| !is_printable(byte)).count();
    char::from_u32(0x100 + before as u32).expect("the range has characters only")
}

/// The byte of a character, where it has one.
fn byte_of(c: char) -> Option<u8> {
    (0..=255).find(|&byte| char_of(byte) == c)
}

fn is_printable(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF)
}

/// A table for many conversions at once.
#[derive(Debug)]
pub(super) struct Alphabet {
    chars: [char; 256],
    bytes: Vec<Option<u8>>,
}

impl Alphabet {
    pub(super) fn new() -> Self {
        let chars = std::array::from_fn(|byte| char_of(byte as u8));
        let bytes = ('\0'..='\u{143}').map(byte_of).collect();
        Self { chars, bytes }
    }

    /// Bytes as characters.
    pub(super) fn text(&self, bytes: &[u8]) -> String {
        bytes.iter().map(|&byte| self.chars[usize::from(byte)]).collect()
    }

    /// Characters as bytes; none if one of them stands for no byte.
    pub(super) fn bytes(&self, text: &str) -> Option<Box<[u8]>> {
        text.chars().map(|c| self.bytes.get(c as usize).copied().flatten()).collect()
    }
}

/// All bytes in the order of their characters, which is the order of the first tokens.
pub(super) fn bytes_in_order() -> impl Iterator<Item = u8> {
    let mut bytes: Vec<u8> = (0..=255).collect();
    bytes.sort_by_key(|&byte| char_of(byte));
    bytes.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alphabet_is_that_of_other_libraries() {
        let ours: std::collections::HashSet<char> = (0..=255).map(char_of).collect();
        let theirs = tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet();
        assert_eq!(ours, theirs.into_iter().collect());
        assert_eq!((char_of(b' '), char_of(b'\n'), char_of(b'a')), ('Ġ', 'Ċ', 'a'));
        let alphabet = Alphabet::new();
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(*alphabet.bytes(&alphabet.text(&all)).unwrap(), *all);
        assert_eq!(alphabet.bytes("中"), None);
        assert_eq!(alphabet.bytes("\u{144}"), None);
    }
}
