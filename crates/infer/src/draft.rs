//! Guessing how a text goes on from what it repeats.

/// Tokens at the end of the text that must have been there before.
const SHORTEST: usize = 2;
/// A longer repetition is not worth more.
const LONGEST: usize = 16;

/// Up to `most` tokens that may come next: those that came after the longest earlier repetition of the text's end, the
/// latest of several. Where they reach the end of the text, they go round.
///
/// # Source
/// Prompt lookup decoding, Saxena 2023 (github.com/apoorvumang/prompt-lookup-decoding).
/// Differs: the longest repetition is taken rather than one of a fixed length, and a draft may repeat itself.
pub(crate) fn draft(text: &[u32], most: usize) -> Vec<u32> {
    let repeats = |end: usize| {
        let pairs = text[..end].iter().rev().zip(text.iter().rev());
        pairs.take(LONGEST).take_while(|(earlier, last)| earlier == last).count()
    };
    match (1..text.len()).map(|end| (repeats(end), end)).max() {
        Some((length, end)) if length >= SHORTEST => text[end..].iter().copied().cycle().take(most).collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_followed_the_longest_repetition() {
        let check =
            |text: &[u32], most, expected: &[u32]| assert_eq!(draft(text, most), expected, "{text:?}");
        check(&[], 4, &[]);
        check(&[1], 4, &[]);
        check(&[1, 2, 1], 4, &[]); // one token is no repetition
        check(&[1, 2, 3, 4, 1, 2], 2, &[3, 4]);
        check(&[1, 2, 3, 4, 1, 2], 5, &[3, 4, 1, 2, 3]);
        check(&[9, 1, 2, 3, 8, 1, 2, 4, 9, 1, 2], 1, &[3]); // the longer one
        check(&[9, 1, 2, 3, 9, 1, 2, 4, 9, 1, 2], 1, &[4]); // the later one
        check(&[5, 7, 7, 7], 3, &[7, 7, 7]);
        check(&[5, 7, 7, 7], 0, &[]);
    }
}
