//! The cutting rules of well-known tokenizers, each written out as a few comparisons per character.
//!
//! Every function gives the length in bytes of the first piece of a text that is not empty. The doc comments
//! show the regular expression that it stands for; tests hold the two against each other.

use super::kinds::{Cursor, LETTER, LINE_END, LOWER, MARK, NUMBER, SIGN, SPACE, UPPER};

/// GPT-2: `'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`.
pub(super) fn gpt2(cursor: Cursor<'_>) -> usize {
    let Some((first, kinds)) = cursor.at(0) else { return 0 };
    if first == '\''
        && let Some(len) = contraction(cursor.text(), |byte| byte)
    {
        return len;
    }
    let space = usize::from(first == ' ');
    let of_word = if space == 1 { cursor.kinds_at(1) } else { kinds };
    let is_last = space == 1 && cursor.at(1).is_none();
    match of_word {
        _ if is_last => 1,
        _ if of_word & LETTER != 0 => cursor.run(space, |kinds| kinds & LETTER != 0),
        _ if of_word & NUMBER != 0 => cursor.run(space, |kinds| kinds & NUMBER != 0),
        _ if of_word & SPACE == 0 => cursor.run(space, |kinds| kinds & (SPACE | LETTER | NUMBER) == 0),
        _ => white_space(cursor),
    }
}

/// What the descendants of GPT-4's rule differ in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Gpt4 {
    /// What words are made of.
    pub(super) word: u8,
    /// Longest run of digits.
    pub(super) digits: usize,
    /// Whether ends of lines belong to the signs before them.
    pub(super) line_ends: bool,
}

/// GPT-4 and Llama 3: `'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|
/// \s*[\r\n]+|\s+(?!\S)|\s+`.
#[inline(always)]
pub(super) fn gpt4(cursor: Cursor<'_>, rule: Gpt4) -> usize {
    let Some((first, kinds)) = cursor.at(0) else { return 0 };
    let first_len = first.len_utf8();
    if first == '\''
        && let Some(len) = contraction(cursor.text(), |byte| byte.to_ascii_lowercase())
    {
        return len;
    }
    if kinds & rule.word != 0 {
        return cursor.run(first_len, |kinds| kinds & rule.word != 0);
    }
    if kinds & NUMBER != 0 {
        return number(cursor, first_len, rule.digits);
    }
    let second = cursor.kinds_at(first_len);
    if kinds & LINE_END == 0 && second & rule.word != 0 {
        return cursor.run(first_len, |kinds| kinds & rule.word != 0);
    }
    let is_sign = |kinds: u8| kinds & (SPACE | rule.word | NUMBER) == 0;
    if is_sign(kinds) || (first == ' ' && cursor.at(1).is_some() && is_sign(second)) {
        let len = cursor.run(first_len, is_sign);
        return if rule.line_ends { cursor.run(len, |kinds| kinds & LINE_END != 0) } else { len };
    }
    white_space_by_lines(cursor)
}

/// GPT-4o: `[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+C?|
/// [^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*C?|\p{N}{1,3}|
/// ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`, where C is a contraction as in [`gpt4`]. Tekken has
/// no contractions and single digits.
pub(super) fn gpt4o(cursor: Cursor<'_>, digits: usize, contractions: bool) -> usize {
    let Some((first, kinds)) = cursor.at(0) else { return 0 };
    let first_len = first.len_utf8();
    let may_lead = kinds & (LINE_END | LETTER | NUMBER) == 0;
    let led = may_lead.then_some(first_len);
    let ends_low = || led.and_then(|start| low_word(cursor, start)).or_else(|| low_word(cursor, 0));
    let ends_high = || led.and_then(|start| high_word(cursor, start)).or_else(|| high_word(cursor, 0));
    if let Some(len) = ends_low().or_else(ends_high) {
        let rest = &cursor.text()[len..];
        let suffix = contraction(rest, |byte| byte.to_ascii_lowercase()).filter(|_| contractions);
        return len + suffix.filter(|_| rest.starts_with('\'')).unwrap_or(0);
    }
    if kinds & NUMBER != 0 {
        return number(cursor, first_len, digits);
    }
    let is_sign = |kinds: u8| kinds & (SPACE | LETTER | NUMBER) == 0;
    if is_sign(kinds) || (first == ' ' && cursor.at(1).is_some_and(|(_, kinds)| is_sign(kinds))) {
        let len = cursor.run(first_len, is_sign);
        let tail = cursor.text()[len..].bytes().take_while(|byte| b"\r\n/".contains(byte));
        return len + tail.count();
    }
    white_space_by_lines(cursor)
}

/// Whether a character can stand in the first, capital part of a word of GPT-4o.
fn is_high(kinds: u8) -> bool {
    kinds & (LETTER | MARK) != 0 && kinds & LOWER == 0
}

/// Whether a character can stand in the last, small part of a word of GPT-4o.
fn is_low(kinds: u8) -> bool {
    kinds & (LETTER | MARK) != 0 && kinds & UPPER == 0
}

/// Where a word from `start` on ends that has a small part: after it, or, as capitals take what they can
/// but leave one character to the small part, after the last character that is both.
fn low_word(cursor: Cursor<'_>, start: usize) -> Option<usize> {
    let (mut end, mut last_both) = (start, None);
    while let Some((c, kinds)) = cursor.at(end)
        && is_high(kinds)
    {
        end += c.len_utf8();
        if is_low(kinds) {
            last_both = Some(end);
        }
    }
    let low_end = cursor.run(end, is_low);
    if low_end > end { Some(low_end) } else { last_both }
}

/// Where a word from `start` on ends that has a capital part and no small one.
fn high_word(cursor: Cursor<'_>, start: usize) -> Option<usize> {
    Some(cursor.run(start, is_high)).filter(|&end| end > start)
}

/// DeepSeek V3, its last step: `[!-/:-@\[-`{-~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|
/// ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`, and what lies between the matches.
pub(super) fn deepseek3(cursor: Cursor<'_>) -> usize {
    let Some((first, kinds)) = cursor.at(0) else { return 0 };
    let first_len = first.len_utf8();
    let in_word = |kinds: u8| kinds & (LETTER | MARK) != 0;
    if first.is_ascii_punctuation() && cursor.at(1).is_some_and(|(c, _)| c.is_ascii_alphabetic()) {
        return 1 + cursor.text()[1..].bytes().take_while(u8::is_ascii_alphabetic).count();
    }
    if in_word(kinds) || (kinds & (LINE_END | SIGN) == 0 && in_word(cursor.kinds_at(first_len))) {
        return cursor.run(first_len, in_word);
    }
    if kinds & SIGN != 0 || (first == ' ' && cursor.kinds_at(1) & SIGN != 0) {
        let len = cursor.run(first_len, |kinds| kinds & SIGN != 0);
        return cursor.run(len, |kinds| kinds & LINE_END != 0);
    }
    if kinds & SPACE != 0 {
        return white_space_by_lines(cursor);
    }
    // Numbers and unassigned or control characters match nothing, unless the last of them leads a word.
    let unmatched = |kinds: u8| kinds & (LETTER | MARK | SIGN | SPACE) == 0;
    let end = cursor.run(first_len, unmatched);
    match cursor.text()[..end].chars().next_back() {
        Some(last) if in_word(cursor.kinds_at(end)) => end - last.len_utf8(),
        _ => end,
    }
}

/// Up to `most` characters of a number whose first has been read.
fn number(cursor: Cursor<'_>, first_len: usize, most: usize) -> usize {
    let mut len = first_len;
    for _ in 1..most {
        match cursor.at(len) {
            Some((c, kinds)) if kinds & NUMBER != 0 => len += c.len_utf8(),
            _ => break,
        }
    }
    len
}

/// `'(?:[sdmt]|ll|ve|re)`, of a text whose first byte is known to be the apostrophe.
fn contraction(text: &str, fold: impl Fn(u8) -> u8) -> Option<usize> {
    let byte = |idx: usize| text.as_bytes().get(idx).map(|&byte| fold(byte));
    match (byte(1)?, byte(2)) {
        (b's' | b't' | b'm' | b'd', _) => Some(2),
        (b'r' | b'v', Some(b'e')) | (b'l', Some(b'l')) => Some(3),
        _ => None,
    }
}

/// `\s*[\r\n]+|\s+(?!\S)|\s+`: white space up to its last line end, or else as [`white_space`] has it.
fn white_space_by_lines(cursor: Cursor<'_>) -> usize {
    let end = cursor.run(0, |kinds| kinds & SPACE != 0);
    match cursor.text()[..end].rfind(['\r', '\n']) {
        Some(last_line_end) => last_line_end + 1,
        None => all_but_last(cursor, end),
    }
}

/// `\s+(?!\S)|\s+`: white space but for its last character, which belongs to what follows.
fn white_space(cursor: Cursor<'_>) -> usize {
    all_but_last(cursor, cursor.run(0, |kinds| kinds & SPACE != 0))
}

fn all_but_last(cursor: Cursor<'_>, end: usize) -> usize {
    let last_len = cursor.text()[..end].chars().next_back().map_or(0, char::len_utf8);
    if end == cursor.text().len() || end == last_len { end } else { end - last_len }
}
