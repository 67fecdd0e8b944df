//! Crawl archives: WARC 1.0 and 1.1, plain or gzipped, record by record.
//!
//! A record that is torn or corrupt is an error in the stream, with its place; reading goes on at the next record
//! that can be found. Nothing here panics on foreign bytes, and memory is bounded by [`Limits`].
//!
//! ```
//! let archive = b"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: http://elm.example/\r\n\
//!     Content-Type: application/http\r\nContent-Length: 49\r\n\r\n\
//!     HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\nElms!\r\n\r\n";
//! for record in elmwood_web::warc::Reader::new(&archive[..]) {
//!     let record = record?;
//!     let response = record.response()?;
//!     assert_eq!((response.status, response.body.as_slice()), (200, &b"Elms!"[..]));
//! }
//! # Ok::<(), elmwood_web::warc::Error>(())
//! ```
//!
//! # Source
//! ISO 28500:2017; RFC 9112 for the messages inside.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};

use crate::rewind::{Decoded, Rewind};

/// How large the parts of an archive may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most bytes of a record's payload; longer ones are skipped with an error.
    pub record_bytes: u64,
    /// Most bytes of a record's header, or of an HTTP head.
    pub header_bytes: usize,
}

impl Default for Limits {
    /// 256 MiB a record, 64 KiB a header.
    fn default() -> Self {
        Self { record_bytes: 256 << 20, header_bytes: 64 << 10 }
    }
}

/// Most bytes of a response body once decoded.
const BODY_BYTES: usize = 64 << 20;
/// Beyond [`FREE_BYTES`], a body may be at most this many times as long as its compressed form.
const BODY_RATIO: usize = 200;
const FREE_BYTES: usize = 1 << 20;

/// What can be wrong with an archive.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The stream itself cannot be read; nothing follows.
    #[error("cannot read the archive at byte {offset}: {source}")]
    Io {
        /// Bytes before the failure: stored bytes for gzip, else bytes of the archive.
        offset: u64,
        /// What the operating system said.
        source: io::Error,
    },
    /// A record breaks the format, or the archive ends within it.
    #[error("damaged record at byte {offset}: {reason}")]
    Damaged {
        /// Where the record starts: for gzip, where the member starts that it was found in.
        offset: u64,
        /// What is wrong.
        reason: String,
    },
    /// A record, header or decoded body is over its limit.
    #[error("record at byte {offset} is too large: {what} over {limit} bytes")]
    TooLarge {
        /// Where the record starts.
        offset: u64,
        /// Which part.
        what: &'static str,
        /// The limit in bytes.
        limit: u64,
    },
    /// A response body is compressed in a way that is not supported.
    #[error("record at byte {offset} has a body in an unknown coding `{coding}`")]
    Coding {
        /// Where the record starts.
        offset: u64,
        /// The value of the content-encoding header.
        coding: String,
    },
}

/// What a record holds.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RecordType {
    /// About the archive itself.
    Warcinfo,
    /// A server's answer with its HTTP head.
    Response,
    /// A file without protocol head.
    Resource,
    /// A client's request.
    Request,
    /// About another record.
    Metadata,
    /// A page that had not changed.
    Revisit,
    /// Another record in another format; Common Crawl's WET files hold these.
    Conversion,
    /// A part of a record in another file.
    Continuation,
    /// A type that the standard does not know.
    Other(String),
}

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// `WARC-Type`.
    pub kind: RecordType,
    /// `WARC-Target-URI`, without the angle brackets that some writers put around it.
    pub target_uri: Option<String>,
    /// `WARC-Date` as it stands, such as `2024-04-25T16:24:44Z`.
    pub date: Option<String>,
    /// All fields of the header, in order.
    pub headers: Vec<(String, String)>,
    /// The bytes of the block.
    pub payload: Vec<u8>,
    /// Where the record starts, in bytes: for gzip, where the member starts that it was found in.
    pub offset: u64,
}

/// An HTTP response, body decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The status code, such as 200.
    pub status: u16,
    /// All fields of the head, in order.
    pub headers: Vec<(String, String)>,
    /// The media type in lower case, such as `text/html`.
    pub content_type: Option<String>,
    /// The charset parameter of the content type: a hint for [`extract`](crate::extract).
    pub charset: Option<String>,
    /// The body without transfer and content codings.
    pub body: Vec<u8>,
    /// Whether the body ends early: its codings were cut off or damaged, and this is what could be read.
    pub truncated: bool,
}

impl Record {
    /// A field of the record's header, by its name in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }

    /// The payload of a `response` record as HTTP.
    ///
    /// # Errors
    /// [`Error::Damaged`] without a valid HTTP head, [`Error::TooLarge`] for a head over 64 KiB, or a body that
    /// decodes to more than 64 MiB or, beyond 1 MiB, to more than 200 times its size; [`Error::Coding`] for a
    /// content coding other than gzip and deflate.
    pub fn response(&self) -> Result<Response, Error> {
        let offset = self.offset;
        let damaged = |reason: &str| Error::Damaged { offset, reason: reason.to_owned() };
        let limit = Limits::default().header_bytes;
        let Some((head, body)) = split_head(&self.payload) else {
            return Err(if self.payload.len() > limit && self.payload.starts_with(b"HTTP/") {
                Error::TooLarge { offset, what: "http head", limit: limit as u64 }
            } else {
                damaged("no end of the http head")
            });
        };
        if head.len() > limit {
            return Err(Error::TooLarge { offset, what: "http head", limit: limit as u64 });
        }
        let mut lines = head.split(|&byte| byte == b'\n');
        let status_line = String::from_utf8_lossy(lines.next().unwrap_or_default());
        let status = status_line
            .strip_prefix("HTTP/")
            .and_then(|rest| rest.split_ascii_whitespace().nth(1)?.parse().ok())
            .filter(|status| (100..1000).contains(status))
            .ok_or_else(|| damaged("no http status line"))?;
        let headers = fields(lines);
        let (body, is_dechunked) = match find(&headers, "transfer-encoding") {
            Some(coding) if coding.to_ascii_lowercase().contains("chunked") => dechunk(body),
            _ => (body.to_vec(), true),
        };
        let (body, is_decoded) = match find(&headers, "content-encoding") {
            Some(coding) => decode_content(body, coding.trim(), offset)?,
            None => (body, true),
        };
        let (content_type, charset) = match find(&headers, "content-type") {
            Some(value) => media_type(value),
            None => (None, None),
        };
        let truncated = !is_dechunked || !is_decoded;
        Ok(Response { status, headers, content_type, charset, body, truncated })
    }
}

/// The records of an archive, one after the other. After [`Error::Io`] it ends; after any other error it goes on.
#[derive(Debug)]
pub struct Reader<R: BufRead> {
    input: Rewind<BufReader<Decoded<R>>>,
    limits: Limits,
    /// Whether the next record must be searched for.
    is_lost: bool,
    is_done: bool,
    /// An error that was met while looking behind a whole record.
    deferred: Option<Error>,
    /// How far the reader was at the last error, in bytes of records and stored bytes.
    error_at: Option<(u64, u64)>,
}

impl<R: BufRead> Reader<R> {
    /// Reads records from `input`, gzipped or not as its first byte tells.
    pub fn new(input: R) -> Self {
        Self::with_limits(input, Limits::default())
    }

    /// The same within other limits.
    pub fn with_limits(input: R, limits: Limits) -> Self {
        let decoded = BufReader::with_capacity(1 << 16, Decoded::new(input));
        Self {
            input: Rewind::new(decoded),
            limits,
            is_lost: false,
            is_done: false,
            deferred: None,
            error_at: None,
        }
    }
}

impl<R: BufRead> Iterator for Reader<R> {
    type Item = Result<Record, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_done {
            return None;
        }
        let result = self.record();
        match &result {
            Ok(None) | Err(Error::Io { .. }) => self.is_done = true,
            Ok(Some(_)) => {}
            Err(_) => {
                // A stream that keeps failing at the same place would never end.
                let position = Some((self.input.offset(), self.input.inner().get_ref().position()));
                self.is_done = self.error_at == position;
                self.error_at = position;
            }
        }
        result.transpose()
    }
}

impl<R: BufRead> Reader<R> {
    fn record(&mut self) -> Result<Option<Record>, Error> {
        if let Some(error) = self.deferred.take() {
            return Err(error);
        }
        let mut offset = self.offset();
        if !self.find_start().map_err(|error| self.failure(offset, error))? {
            return Ok(None);
        }
        offset = self.offset();
        self.is_lost = true;
        let header = self.header(offset)?;
        let mut lines = header.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii_end);
        let version = lines.next().unwrap_or_default();
        if !version.starts_with(b"WARC/") {
            return Err(damaged(offset, "no `WARC/` where a record should start"));
        }
        if !lines.clone().all(is_field) {
            self.take_back_next(header);
            return Err(damaged(offset, "a header line that is no field"));
        }
        let headers = fields(lines);
        let length = find(&headers, "content-length")
            .ok_or_else(|| damaged(offset, "no content-length"))?
            .parse::<u64>()
            .map_err(|_| damaged(offset, "a content-length that is no number"))?;
        if length > self.limits.record_bytes {
            // Its end is known, so nothing else is lost.
            let skipped = io::copy(&mut (&mut self.input).take(length), &mut io::sink());
            skipped.map_err(|error| self.failure(offset, error))?;
            self.is_lost = false;
            return Err(Error::TooLarge { offset, what: "payload", limit: self.limits.record_bytes });
        }
        let mut payload = Vec::with_capacity(length.min(1 << 16) as usize);
        let n_read = (&mut self.input).take(length).read_to_end(&mut payload);
        n_read.map_err(|error| self.failure(offset, error))?;
        let member = self.offset();
        let is_whole = payload.len() as u64 == length
            && match self.at_end() {
                Ok(is_end) => is_end,
                Err(error) => match self.failure(offset, error) {
                    // The next member is damaged, not the one that this record is in.
                    Error::Damaged { offset, reason } if offset != member => {
                        self.deferred = Some(Error::Damaged { offset, reason });
                        true
                    }
                    error => return Err(error),
                },
            };
        if !is_whole {
            self.take_back_next(payload);
            return Err(damaged(offset, &format!("the payload does not end after {length} bytes")));
        }
        self.is_lost = self.deferred.is_some();
        let kind = match find(&headers, "warc-type").unwrap_or_default().to_ascii_lowercase().as_str() {
            "warcinfo" => RecordType::Warcinfo,
            "response" => RecordType::Response,
            "resource" => RecordType::Resource,
            "request" => RecordType::Request,
            "metadata" => RecordType::Metadata,
            "revisit" => RecordType::Revisit,
            "conversion" => RecordType::Conversion,
            "continuation" => RecordType::Continuation,
            other => RecordType::Other(other.to_owned()),
        };
        let target_uri = find(&headers, "warc-target-uri")
            .map(|uri| uri.strip_prefix('<').and_then(|uri| uri.strip_suffix('>')).unwrap_or(uri).to_owned());
        let date = find(&headers, "warc-date").map(str::to_owned);
        Ok(Some(Record { kind, target_uri, date, headers, payload, offset }))
    }

    /// Where the reader stands: for gzip, where the open member starts.
    fn offset(&self) -> u64 {
        self.input.inner().get_ref().member_offset().unwrap_or(self.input.offset())
    }

    /// Skips blank lines, or everything up to a line that starts a record; false at the end of the archive.
    fn find_start(&mut self) -> io::Result<bool> {
        loop {
            let available = self.input.fill_buf()?;
            let Some(&first) = available.first() else { return Ok(false) };
            let n_blank = available.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
            if n_blank > 0 {
                self.input.consume(n_blank);
                continue;
            }
            if !self.is_lost {
                return Ok(true);
            }
            if first == b'W' {
                let mut magic = Vec::new();
                (&mut self.input).take(MAGIC.len() as u64).read_to_end(&mut magic)?;
                let is_start = magic == MAGIC;
                self.input.take_back(magic);
                if is_start {
                    return Ok(true);
                }
            }
            // The rest of this line, up to the next that may start a record.
            let available = self.input.fill_buf()?;
            let n_skip = memchr::memchr(b'\n', available).map_or(available.len(), |end| end + 1);
            self.input.consume(n_skip);
        }
    }

    /// The lines of a header with the blank line that ends it.
    fn header(&mut self, offset: u64) -> Result<Vec<u8>, Error> {
        let mut header = Vec::new();
        loop {
            let start = header.len();
            let room = (self.limits.header_bytes + 1).saturating_sub(start);
            let n_read = (&mut self.input).take(room as u64).read_until(b'\n', &mut header);
            let n_read = n_read.map_err(|error| self.failure(offset, error))?;
            if header.len() > self.limits.header_bytes {
                let limit = self.limits.header_bytes as u64;
                return Err(Error::TooLarge { offset, what: "header", limit });
            }
            if n_read == 0 {
                return Err(damaged(offset, "the archive ends within a header"));
            }
            if header[start..].trim_ascii().is_empty() {
                return Ok(header);
            }
            if start == 0 && !header.starts_with(b"WARC/") {
                return Ok(header);
            }
        }
    }

    /// Whether a record may end here: before two line ends, another record, or nothing.
    fn at_end(&mut self) -> io::Result<bool> {
        let mut n_lines = 0;
        loop {
            // Looking on past the second line end also checks the sum at the end of a gzip member.
            match self.input.fill_buf()?.first() {
                None | Some(b'W') => return Ok(true),
                Some(_) if n_lines == 2 => return Ok(true),
                Some(&byte @ (b'\r' | b'\n')) => {
                    n_lines += u32::from(byte == b'\n');
                    self.input.consume(1);
                }
                Some(_) => return Ok(false),
            }
        }
    }

    /// Reads on at the next record within the bytes of a damaged one that ran over it.
    fn take_back_next(&mut self, mut bytes: Vec<u8>) {
        let is_version = |start: &usize| {
            let rest = &bytes[start + MAGIC.len()..];
            rest.starts_with(b"0\r\n") || rest.starts_with(b"1\r\n")
        };
        let next = memchr::memmem::find_iter(&bytes, MAGIC).filter(|&start| start > 0).find(is_version);
        if let Some(start) = next {
            self.input.take_back(bytes.split_off(start));
        }
    }

    fn failure(&mut self, offset: u64, source: io::Error) -> Error {
        use io::ErrorKind::{InvalidData, InvalidInput, UnexpectedEof};
        self.is_lost = true;
        match source.kind() {
            InvalidData | InvalidInput | UnexpectedEof => {
                let failed = self.input.inner().get_ref().failed_offset();
                damaged(failed.unwrap_or(offset), &format!("gzip: {source}"))
            }
            _ => Error::Io { offset, source },
        }
    }
}

const MAGIC: &[u8] = b"WARC/1.";

fn damaged(offset: u64, reason: &str) -> Error {
    Error::Damaged { offset, reason: reason.to_owned() }
}

/// Whether a header line has a name and value, or continues one, and is not torn with the next record behind it.
fn is_field(line: &[u8]) -> bool {
    let is_whole =
        line.is_empty() || line.contains(&b':') || line.starts_with(b" ") || line.starts_with(b"\t");
    is_whole && !line.ends_with(b"WARC/1.0") && !line.ends_with(b"WARC/1.1")
}

/// Header lines as name and value; a line that starts with white space continues the one before.
fn fields<'a>(lines: impl Iterator<Item = &'a [u8]>) -> Vec<(String, String)> {
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in lines {
        let text = String::from_utf8_lossy(line);
        if text.starts_with([' ', '\t'])
            && let Some((_, value)) = fields.last_mut()
        {
            value.push(' ');
            value.push_str(text.trim());
        } else if let Some((name, value)) = text.split_once(':') {
            fields.push((name.trim().to_owned(), value.trim().to_owned()));
        }
    }
    fields
}

fn find<'a>(fields: &'a [(String, String)], name: &str) -> Option<&'a str> {
    fields.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

/// An HTTP message before and after its first blank line.
fn split_head(message: &[u8]) -> Option<(&[u8], &[u8])> {
    let searched = &message[..message.len().min(Limits::default().header_bytes + 4)];
    memchr::memchr_iter(b'\n', searched).find_map(|end| {
        let rest = &message[end + 1..];
        let body = rest.strip_prefix(b"\r\n").or_else(|| rest.strip_prefix(b"\n"))?;
        Some((&message[..end], body))
    })
}

/// The media type of a content type header, and its charset.
fn media_type(value: &str) -> (Option<String>, Option<String>) {
    let mut parts = value.split(';');
    let media_type =
        parts.next().map(|part| part.trim().to_ascii_lowercase()).filter(|part| !part.is_empty());
    let charset = parts.find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        let value = value.trim().trim_matches(['"', '\'']);
        (name.trim().eq_ignore_ascii_case("charset") && !value.is_empty()).then(|| value.to_owned())
    });
    (media_type, charset)
}

/// Undoes the chunked transfer coding; false if it ends early.
///
/// Many archives hold bodies that were decoded already under a header that says otherwise: what does not start
/// with a chunk's size is taken as it is.
fn dechunk(body: &[u8]) -> (Vec<u8>, bool) {
    let mut decoded = Vec::with_capacity(body.len());
    let mut rest = body;
    while let Some(end) = memchr::memchr(b'\n', &rest[..rest.len().min(4096)]) {
        let line = String::from_utf8_lossy(&rest[..end]);
        let size = line.split(';').next().unwrap_or_default().trim();
        let Ok(size) = usize::from_str_radix(size, 16) else { break };
        rest = &rest[end + 1..];
        if size == 0 {
            return (decoded, true);
        }
        if size > rest.len() {
            decoded.extend_from_slice(rest);
            return (decoded, false);
        }
        decoded.extend_from_slice(&rest[..size]);
        rest = &rest[size..];
        rest = rest.strip_prefix(b"\r\n").or_else(|| rest.strip_prefix(b"\n")).unwrap_or(rest);
    }
    if decoded.is_empty() { (body.to_vec(), true) } else { (decoded, false) }
}

/// Undoes one content coding; false if it ends early. A body that is not in that coding is taken as it is.
fn decode_content(body: Vec<u8>, coding: &str, offset: u64) -> Result<(Vec<u8>, bool), Error> {
    match coding.to_ascii_lowercase().as_str() {
        "" | "identity" | "none" => Ok((body, true)),
        "gzip" | "x-gzip" if body.starts_with(&[0x1f, 0x8b]) => {
            inflate(MultiGzDecoder::new(body.as_slice()), body.len(), offset)
        }
        "deflate" if body.len() > 2 => {
            let is_zlib = body[0] & 15 == 8 && u16::from_be_bytes([body[0], body[1]]).is_multiple_of(31);
            let result = if is_zlib {
                inflate(ZlibDecoder::new(body.as_slice()), body.len(), offset)?
            } else {
                inflate(DeflateDecoder::new(body.as_slice()), body.len(), offset)?
            };
            Ok(if result.0.is_empty() { (body, true) } else { result })
        }
        "gzip" | "x-gzip" | "deflate" => Ok((body, true)),
        other => Err(Error::Coding { offset, coding: other.to_owned() }),
    }
}

fn inflate(decoder: impl Read, n_bytes: usize, offset: u64) -> Result<(Vec<u8>, bool), Error> {
    let limit = n_bytes.saturating_mul(BODY_RATIO).clamp(FREE_BYTES, BODY_BYTES);
    let mut decoded = Vec::new();
    let result = decoder.take(limit as u64 + 1).read_to_end(&mut decoded);
    if decoded.len() > limit {
        return Err(Error::TooLarge { offset, what: "decoded body", limit: limit as u64 });
    }
    Ok((decoded, result.is_ok()))
}
