//! Plain text and Markdown files: each is one document as it stands, a novel too.

use std::fs::File;
use std::io::Read;

use crate::extract::{Fate, Outcome};
use crate::source::SourceFile;
use crate::{Document, Error};

/// The largest text that is read, in bytes: what fits a line of JSON with its escapes.
const MAX_TEXT_BYTES: u64 = 32 << 20;

pub(crate) fn read(file: &SourceFile) -> Result<Outcome, Error> {
    let mut bytes = Vec::new();
    File::open(&file.path)
        .and_then(|f| f.take(MAX_TEXT_BYTES + 1).read_to_end(&mut bytes))
        .map_err(Error::io("read", &file.path))?;
    let fate = if bytes.len() as u64 > MAX_TEXT_BYTES {
        Fate::bad(format!("the text is larger than {} MiB; split it", MAX_TEXT_BYTES >> 20))
    } else if bytes.contains(&0) && !bytes.starts_with(&[0xff, 0xfe]) && !bytes.starts_with(&[0xfe, 0xff]) {
        Fate::bad("the file holds zero bytes, so it is no text")
    } else {
        let text = elmwood_web::decode(&bytes, None).replace("\r\n", "\n").replace('\r', "\n");
        Fate::Document(Document::new(file.name.as_str(), None, text.trim_start_matches('\u{feff}')))
    };
    Ok(Outcome::new(bytes.len(), fate))
}
