//! WARC files: the main text of every HTML response, and the text of WET conversions.

use std::fs::File;
use std::io::BufReader;

use elmwood_web::warc::{self, Record, RecordType};

use crate::extract::{Fate, Outcome};
use crate::read_html::extract_page;
use crate::source::SourceFile;
use crate::{Document, Error};

/// A record that may hold a document, or stands for one that cannot be read.
pub(crate) enum Item {
    Record(Record),
    /// Left out for this reason.
    Skipped(&'static str),
    /// Unreadable for this reason; others follow.
    Bad(warc::Error),
}

/// The records of a file that may hold a document. Those that only tell about others are passed over.
pub(crate) fn open(file: &SourceFile) -> Result<impl Iterator<Item = Result<Item, Error>> + use<>, Error> {
    let path = file.path.clone();
    let input = File::open(&path).map_err(Error::io("read", &path))?;
    let items = warc::Reader::new(BufReader::with_capacity(1 << 18, input)).filter_map(move |record| {
        Some(match record {
            Ok(record) if matches!(record.kind, RecordType::Response | RecordType::Conversion) => {
                Ok(Item::Record(record))
            }
            Ok(_) => return None,
            // A number of the operating system tells a failing disk from a damaged file.
            Err(warc::Error::Io { source, .. }) if source.raw_os_error().is_some() => {
                Err(Error::Io { action: "read", path: path.clone(), source })
            }
            Err(error) => Ok(Item::Bad(error)),
        })
    });
    Ok(items)
}

/// Whether a record counts when documents are sampled: a page or a text, judged by its head alone.
pub(crate) fn is_document(item: &Item) -> bool {
    match item {
        Item::Record(record) if record.kind == RecordType::Response => record
            .response()
            .is_ok_and(|response| response.status == 200 && is_html(response.content_type.as_deref())),
        Item::Record(_) => true,
        Item::Skipped(_) | Item::Bad(_) => false,
    }
}

fn is_html(content_type: Option<&str>) -> bool {
    matches!(content_type, None | Some("text/html" | "application/xhtml+xml"))
}

pub(crate) fn read(item: Item) -> Outcome {
    let record = match item {
        Item::Record(record) => record,
        Item::Skipped(reason) => return Outcome::new(0, Fate::Dropped(reason)),
        Item::Bad(error) => return bad(&error),
    };
    let source = record.target_uri.as_deref().unwrap_or("unknown address");
    if record.kind == RecordType::Conversion {
        let text = elmwood_web::decode(&record.payload, Some("utf-8"));
        return Outcome::new(record.payload.len(), Fate::Document(Document::new(source, None, text)));
    }
    match record.response() {
        Ok(response) if response.status != 200 => Outcome::new(0, Fate::Dropped("not_found")),
        Ok(response) if !is_html(response.content_type.as_deref()) => {
            Outcome::new(0, Fate::Dropped("not_html"))
        }
        Ok(response) => extract_page(&response.body, response.charset.as_deref(), source),
        Err(error) => bad(&error),
    }
}

fn bad(error: &warc::Error) -> Outcome {
    let (offset, ends) = match error {
        warc::Error::Io { offset, .. } => (*offset, true),
        warc::Error::Damaged { offset, .. }
        | warc::Error::TooLarge { offset, .. }
        | warc::Error::Coding { offset, .. } => (*offset, false),
        _ => (0, false),
    };
    Outcome::new(0, Fate::Bad { offset, ends, reason: error.to_string() })
}
