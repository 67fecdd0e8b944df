//! Tags with too many attributes, before they reach the tokenizer.

use std::borrow::Cow;

/// Closes tags with more than `limit` attributes early.
///
/// The tokenizer compares each new attribute with all before it, so a tag of a megabyte would take minutes. Runs
/// of white space outside quotes bound the number of attributes from above, at a fraction of parsing's cost.
pub(super) fn cap_attributes(html: &str, limit: usize) -> Cow<'_, str> {
    let bytes = html.as_bytes();
    let mut cuts = Vec::new();
    let mut position = 0;
    while let Some(offset) = memchr::memchr(b'<', &bytes[position..]) {
        position += offset + 1;
        if !bytes.get(position).is_some_and(u8::is_ascii_alphabetic) {
            continue;
        }
        let mut n_attributes = 0;
        while let Some(&byte) = bytes.get(position) {
            position += 1;
            match byte {
                b'>' => break,
                b'=' => {
                    // A quote opens a value only right behind the equals sign.
                    while bytes.get(position).is_some_and(u8::is_ascii_whitespace) {
                        position += 1;
                    }
                    if let Some(&quote @ (b'"' | b'\'')) = bytes.get(position) {
                        let value = position + 1;
                        let Some(length) = memchr::memchr(quote, &bytes[value..]) else {
                            position = bytes.len();
                            break;
                        };
                        position = value + length + 1;
                        n_attributes += 1;
                    }
                }
                b' ' | b'\t' | b'\n' | b'\r' | b'\x0c' | b'/' => n_attributes += 1,
                _ => {}
            }
            if n_attributes > 2 * limit {
                cuts.push(position);
                break;
            }
        }
    }
    if cuts.is_empty() {
        return Cow::Borrowed(html);
    }
    let mut capped = String::with_capacity(html.len() + cuts.len());
    let mut from = 0;
    for cut in cuts {
        // A cut follows an ASCII byte, so it lies on a character's boundary.
        capped.push_str(&html[from..cut]);
        capped.push('>');
        from = cut;
    }
    capped.push_str(&html[from..]);
    Cow::Owned(capped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_with_too_many_attributes_are_closed() {
        assert!(matches!(cap_attributes("<a b='x y z w' c = \"1 2 3\">a b c d e", 3), Cow::Borrowed(_)));
        assert_eq!(cap_attributes("<a 1 2 3 4>", 1), "<a 1 2 >3 4>");
    }
}
