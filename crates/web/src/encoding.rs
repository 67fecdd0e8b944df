//! Bytes to text: which encoding a page is in, and its characters.

use std::borrow::Cow;

use encoding_rs::{Encoding, UTF_8, UTF_16BE, UTF_16LE, WINDOWS_1252, X_USER_DEFINED};

/// Decodes a page. Bytes that mean nothing in its encoding become U+FFFD.
///
/// In this order: a byte order mark; `charset_hint`, the charset parameter of the HTTP content type; `<meta
/// charset>` in the first 1024 bytes; UTF-8 if the bytes are valid; windows-1252. Unknown labels are passed over.
///
/// # Source
/// HTML standard, section 13.2.3 (encoding sniffing). Differs: a page without any declaration is tried as UTF-8
/// before windows-1252, since most such pages are.
pub fn decode<'a>(bytes: &'a [u8], charset_hint: Option<&str>) -> Cow<'a, str> {
    if let Some((encoding, bom_bytes)) = Encoding::for_bom(bytes) {
        return encoding.decode_without_bom_handling(&bytes[bom_bytes..]).0;
    }
    let declared = charset_hint
        .and_then(|label| Encoding::for_label(label.as_bytes()))
        .or_else(|| prescan(&bytes[..bytes.len().min(PRESCAN_BYTES)]));
    match declared {
        Some(encoding) => encoding.decode_without_bom_handling(bytes).0,
        None => match std::str::from_utf8(bytes) {
            Ok(text) => Cow::Borrowed(text),
            Err(_) if is_utf8_cut_short(bytes) => UTF_8.decode_without_bom_handling(bytes).0,
            Err(_) => WINDOWS_1252.decode_without_bom_handling(bytes).0,
        },
    }
}

/// How far into a page its `<meta charset>` is looked for.
const PRESCAN_BYTES: usize = 1024;

/// Whether a page has valid UTF-8 beyond ASCII and only its last character is incomplete, as at the end of a
/// truncated download.
fn is_utf8_cut_short(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes)
        .is_err_and(|error| error.error_len().is_none() && !bytes[..error.valid_up_to()].is_ascii())
}

/// The encoding that a `<meta>` element declares.
///
/// # Source
/// HTML standard, section 13.2.3.2 (prescan a byte stream to determine its encoding).
fn prescan(bytes: &[u8]) -> Option<&'static Encoding> {
    let mut scanner = Scanner { bytes, position: 0 };
    while scanner.position < bytes.len() {
        let rest = &bytes[scanner.position..];
        if rest.starts_with(b"<!--") {
            // `<!-->` is a whole comment: its dashes may be shared.
            let end = memchr::memmem::find(&rest[2..], b"-->")?;
            scanner.position += 2 + end + 3;
        } else if is_tag(rest, b"<meta") {
            scanner.position += 6;
            if let Some(encoding) = scanner.meta() {
                return Some(encoding);
            }
        } else if rest[0] == b'<' && rest[1..].first().is_some_and(u8::is_ascii_alphabetic)
            || rest.starts_with(b"</") && rest[2..].first().is_some_and(u8::is_ascii_alphabetic)
        {
            while scanner.peek().is_some_and(|byte| !byte.is_ascii_whitespace() && byte != b'>') {
                scanner.position += 1;
            }
            while scanner.attribute().is_some() {}
        } else if rest.starts_with(b"<!") || rest.starts_with(b"</") || rest.starts_with(b"<?") {
            scanner.position += memchr::memchr(b'>', rest)? + 1;
        } else {
            scanner.position += 1 + memchr::memchr(b'<', &rest[1..])?;
        }
    }
    None
}

fn is_tag(bytes: &[u8], tag: &[u8]) -> bool {
    bytes.len() > tag.len()
        && bytes[..tag.len()].eq_ignore_ascii_case(tag)
        && (bytes[tag.len()].is_ascii_whitespace() || bytes[tag.len()] == b'/')
}

struct Scanner<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl Scanner<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.position).copied()
    }

    /// The encoding that the attributes of one `<meta>` amount to.
    fn meta(&mut self) -> Option<&'static Encoding> {
        let mut is_content_type = false;
        let mut charset = None;
        let mut content = None;
        let mut seen: Vec<Vec<u8>> = Vec::new();
        while let Some((name, value)) = self.attribute() {
            if seen.contains(&name) {
                continue;
            }
            match name.as_slice() {
                b"http-equiv" => is_content_type |= value == b"content-type",
                b"charset" => charset = Some(Encoding::for_label(&value)),
                b"content" => content = content.or_else(|| charset_in_content(&value)),
                _ => {}
            }
            seen.push(name);
        }
        let encoding = match charset {
            Some(encoding) => encoding,
            None if is_content_type => content,
            None => None,
        }?;
        // A page that was read as ASCII so far can be in none of these two, whatever it says.
        Some(match encoding {
            _ if encoding == UTF_16BE || encoding == UTF_16LE => UTF_8,
            _ if encoding == X_USER_DEFINED => WINDOWS_1252,
            _ => encoding,
        })
    }

    /// The next attribute in lower case; `None` at the tag's end, which is consumed.
    fn attribute(&mut self) -> Option<(Vec<u8>, Vec<u8>)> {
        while self.peek().is_some_and(|byte| byte.is_ascii_whitespace() || byte == b'/') {
            self.position += 1;
        }
        if self.peek()? == b'>' {
            self.position += 1;
            return None;
        }
        let mut name = Vec::new();
        loop {
            match self.peek()? {
                b'=' if !name.is_empty() => break,
                b'/' | b'>' => return Some((name, Vec::new())),
                byte if byte.is_ascii_whitespace() => break,
                byte => name.push(byte.to_ascii_lowercase()),
            }
            self.position += 1;
        }
        self.skip_whitespace();
        if self.peek()? != b'=' {
            return Some((name, Vec::new()));
        }
        self.position += 1;
        self.skip_whitespace();
        let mut value = Vec::new();
        let quote = self.peek().filter(|byte| matches!(byte, b'"' | b'\''));
        self.position += usize::from(quote.is_some());
        loop {
            match (self.peek()?, quote) {
                (byte, Some(quote)) if byte == quote => {
                    self.position += 1;
                    return Some((name, value));
                }
                (byte, None) if byte.is_ascii_whitespace() || byte == b'>' => return Some((name, value)),
                (byte, _) => value.push(byte.to_ascii_lowercase()),
            }
            self.position += 1;
        }
    }

    fn skip_whitespace(&mut self) {
        while self.peek().is_some_and(|byte| byte.is_ascii_whitespace()) {
            self.position += 1;
        }
    }
}

/// The encoding in a content attribute such as `text/html; charset=koi8-r`.
fn charset_in_content(content: &[u8]) -> Option<&'static Encoding> {
    let mut rest = content;
    loop {
        rest = &rest[memchr::memmem::find(rest, b"charset")? + b"charset".len()..];
        let value = rest.trim_ascii_start();
        let Some(value) = value.strip_prefix(b"=") else { continue };
        let value = value.trim_ascii_start();
        let label = match value.first()? {
            quote @ (b'"' | b'\'') => {
                let inner = &value[1..];
                &inner[..memchr::memchr(*quote, inner)?]
            }
            _ => value.split(|byte| byte.is_ascii_whitespace() || *byte == b';').next()?,
        };
        return Encoding::for_label(label);
    }
}

#[cfg(test)]
mod tests {
    use super::decode;

    #[track_caller]
    fn check(bytes: &[u8], hint: Option<&str>, expect: &str) {
        assert_eq!(decode(bytes, hint), expect);
    }

    #[test]
    fn byte_order_mark_wins() {
        check(b"\xEF\xBB\xBF\xC3\xA4", Some("windows-1252"), "ä");
        check(b"\xFF\xFEa\0", None, "a");
        check(b"\xFE\xFF\0a", None, "a");
    }

    #[test]
    fn hint_then_meta_then_guess() {
        check(b"\xE4", Some("iso-8859-1"), "ä");
        check(b"\xC4", Some("koi8-r"), "д");
        check(b"<meta charset=koi8-r>\xC4", Some("no-such-charset"), "<meta charset=koi8-r>д");
        check(b"<meta charset=koi8-r>\xC4", Some("utf-8"), "<meta charset=koi8-r>\u{FFFD}");
        check("ä".as_bytes(), None, "ä");
        check(b"\xE4", None, "ä");
        check(b"\xC3\xA4\xE4\x80", None, "ä\u{FFFD}");
    }

    #[test]
    fn meta_is_found_as_the_standard_says() {
        let found = [
            "<META CHARSET='koi8-r'>",
            "<meta http-equiv=Content-Type content='text/html; charset=koi8-r'>",
            "<meta content='text/html; charset = \"koi8-r\"' http-equiv=\"content-type\"/>",
            "<!-- <meta charset=utf-8> --><meta charset=koi8-r>",
            "<html lang='>'><meta name=x><meta charset = koi8-r >",
            "<!--><meta charset=koi8-r>",
        ];
        for page in found {
            check(&[page.as_bytes(), b"\xC4"].concat(), None, &format!("{page}д"));
        }
        let passed_over = [
            "<meta content='text/html; charset=koi8-r'>",
            "<!-- <meta charset=koi8-r> -->",
            "<p title='<meta charset=koi8-r>'>",
            "<metas charset=koi8-r>",
            "<meta charset=no-such>",
        ];
        for page in passed_over {
            check(&[page.as_bytes(), b"\xC4"].concat(), None, &format!("{page}Ä"));
        }
        check(b"<meta charset=utf-16>\xC3\xA4", None, "<meta charset=utf-16>ä");
    }

    #[test]
    fn any_prefix_of_a_page_decodes() {
        let page = b"<!doctype html><!-- c --><html x='1' y=2 z><meta charset=\"koi8-r\" content='charset='></p><?x?>";
        for end in 0..=page.len() {
            decode(&page[..end], None);
        }
    }
}
