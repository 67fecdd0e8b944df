//! What pre-tokenizers distinguish in characters, as a table of all of Unicode.

use std::sync::LazyLock;

use regex_syntax::hir::{Class, HirKind};

/// A letter, `\p{L}`.
pub(super) const LETTER: u8 = 1;
/// A capital letter, `\p{Lu}` or `\p{Lt}`.
pub(super) const UPPER: u8 = 2;
/// A small letter, `\p{Ll}`.
pub(super) const LOWER: u8 = 4;
/// A mark on a letter, `\p{M}`.
pub(super) const MARK: u8 = 8;
/// A number, `\p{N}`.
pub(super) const NUMBER: u8 = 16;
/// White space, `\s`.
pub(super) const SPACE: u8 = 32;
/// An end of a line, `[\r\n]`.
pub(super) const LINE_END: u8 = 64;
/// Punctuation or a symbol, `[\p{P}\p{S}]`.
pub(super) const SIGN: u8 = 128;

/// The kinds of every character.
static KINDS: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut kinds = vec![0; char::MAX as usize + 1];
    let classes = [
        (r"\p{L}", LETTER),
        (r"[\p{Lu}\p{Lt}]", UPPER),
        (r"\p{Ll}", LOWER),
        (r"\p{M}", MARK),
        (r"\p{N}", NUMBER),
        (r"\s", SPACE),
        (r"[\r\n]", LINE_END),
        (r"[\p{P}\p{S}]", SIGN),
    ];
    for (class, kind) in classes {
        for (first, last) in ranges(class) {
            kinds[first as usize..=last as usize].iter_mut().for_each(|kinds| *kinds |= kind);
        }
    }
    kinds
});

/// A text read character by character, with the kinds of each.
#[derive(Clone, Copy)]
pub(super) struct Cursor<'a> {
    text: &'a str,
    kinds: &'static [u8],
}

impl<'a> Cursor<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, kinds: &KINDS }
    }

    pub(super) fn text(&self) -> &'a str {
        self.text
    }

    /// The same table for another text.
    pub(super) fn with(&self, text: &'a str) -> Self {
        Self { text, ..*self }
    }

    /// The character at byte `start` and its kinds.
    pub(super) fn at(&self, start: usize) -> Option<(char, u8)> {
        let byte = *self.text.as_bytes().get(start)?;
        let c = if byte.is_ascii() { char::from(byte) } else { self.text[start..].chars().next()? };
        Some((c, self.kinds[c as usize]))
    }

    /// The kinds of the character at byte `start`; none at the end.
    pub(super) fn kinds_at(&self, start: usize) -> u8 {
        self.at(start).map_or(0, |(_, kinds)| kinds)
    }

    /// Where the run of characters ends that goes on at byte `start`.
    pub(super) fn run(&self, start: usize, belongs: impl Fn(u8) -> bool) -> usize {
        let mut end = start;
        while let Some((c, kinds)) = self.at(end)
            && belongs(kinds)
        {
            end += c.len_utf8();
        }
        end
    }
}

/// A set of characters, one bit each.
#[derive(Debug, Clone)]
pub(super) struct CharSet(Vec<u64>);

impl CharSet {
    /// The set of a class of a regular expression, as `[\p{P}$]`.
    pub(super) fn of(class: &str) -> Self {
        let mut set = Self::empty();
        for (first, last) in ranges(class) {
            (first..=last).for_each(|c| set.0[c as usize / 64] |= 1 << (c % 64));
        }
        set
    }

    pub(super) fn empty() -> Self {
        Self(vec![0; (char::MAX as usize + 1).div_ceil(64)])
    }

    pub(super) fn contains(&self, c: char) -> bool {
        self.0[c as usize / 64] >> (c as u32 % 64) & 1 == 1
    }
}

/// The ranges of a class, both ends included.
fn ranges(class: &str) -> Vec<(u32, u32)> {
    let parsed = regex_syntax::parse(class).expect("the class is well-formed").into_kind();
    match parsed {
        HirKind::Class(Class::Unicode(class)) => {
            class.ranges().iter().map(|range| (range.start().into(), range.end().into())).collect()
        }
        // A class of one character is told as that.
        HirKind::Literal(literal) => {
            let text = String::from_utf8_lossy(&literal.0).into_owned();
            text.chars().map(|c| (c.into(), c.into())).collect()
        }
        _ => unreachable!("`{class}` is a class"),
    }
}
