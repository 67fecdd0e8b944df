//! HTML files: the main text of each page.

use std::fs::{self, File};
use std::io::Read;

use crate::extract::{Fate, Outcome};
use crate::source::SourceFile;
use crate::{Document, Error};

/// The largest page that is read, in bytes.
pub(crate) const MAX_PAGE_BYTES: u64 = 64 << 20;

/// A page that does nothing but redirect is shorter than this, in bytes.
const MAX_STUB_BYTES: u64 = 4096;

/// Whether a file is short and sends the reader elsewhere. Asked before sampling, so that stubs, in Rust's
/// documentation 4 of 10 files, take no place of a page. A file that cannot be read is no stub.
pub(crate) fn is_stub(file: &SourceFile) -> bool {
    file.bytes < MAX_STUB_BYTES && fs::read(&file.path).is_ok_and(|html| is_redirect(&html))
}

/// Whether a page is short and has a `<meta http-equiv="refresh">` with an address.
pub(crate) fn is_redirect(html: &[u8]) -> bool {
    if html.len() as u64 >= MAX_STUB_BYTES {
        return false;
    }
    let html = html.to_ascii_lowercase();
    let holds = |needle: &[u8]| html.windows(needle.len()).any(|window| window == needle);
    holds(b"http-equiv") && holds(b"refresh") && holds(b"url=")
}

pub(crate) fn read(file: &SourceFile) -> Result<Outcome, Error> {
    let mut html = Vec::new();
    File::open(&file.path)
        .and_then(|f| f.take(MAX_PAGE_BYTES + 1).read_to_end(&mut html))
        .map_err(Error::io("read", &file.path))?;
    Ok(extract_page(&html, None, &file.name))
}

/// The main text of one page from anywhere.
pub(crate) fn extract_page(html: &[u8], charset: Option<&str>, source: &str) -> Outcome {
    let fate = if html.len() as u64 > MAX_PAGE_BYTES {
        Fate::bad(format!("the page is larger than {} MiB", MAX_PAGE_BYTES >> 20))
    } else if is_redirect(html) {
        Fate::Dropped("redirect")
    } else {
        let page = elmwood_web::extract(html, charset);
        let title = page.title.filter(|title| !title.trim().is_empty());
        Fate::Document(Document::new(source, title, page.text))
    };
    Outcome::new(html.len(), fate)
}
