//! Streams that can be read again from a little before: how a reader finds its way back after damage.

use std::io::{self, BufRead, Read};

use flate2::bufread::GzDecoder;

/// A stream that counts its bytes and takes some back.
#[derive(Debug)]
pub(crate) struct Rewind<R> {
    inner: R,
    returned: Vec<u8>,
    position: usize,
    offset: u64,
    /// How much may still be taken back: never more than was read, so that no input is read a third time on
    /// average, whatever it holds.
    budget: u64,
}

impl<R: BufRead> Rewind<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self { inner, returned: Vec::new(), position: 0, offset: 0, budget: 1 << 16 }
    }

    pub(crate) fn inner(&self) -> &R {
        &self.inner
    }

    /// Bytes before the next one.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// Takes back the last bytes that were read. Without budget for it, they stay read.
    pub(crate) fn take_back(&mut self, mut bytes: Vec<u8>) {
        let n_bytes = bytes.len() as u64;
        if n_bytes > self.budget {
            return;
        }
        self.budget -= n_bytes;
        self.offset -= n_bytes;
        bytes.extend_from_slice(&self.returned[self.position..]);
        (self.returned, self.position) = (bytes, 0);
    }
}

impl<R: BufRead> BufRead for Rewind<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.position < self.returned.len() {
            return Ok(&self.returned[self.position..]);
        }
        self.inner.fill_buf()
    }

    fn consume(&mut self, n_bytes: usize) {
        self.offset += n_bytes as u64;
        if self.position < self.returned.len() {
            self.position += n_bytes;
        } else {
            self.budget += n_bytes as u64;
            self.inner.consume(n_bytes);
        }
    }
}

impl<R: BufRead> Read for Rewind<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let n_bytes = available.len().min(out.len());
        out[..n_bytes].copy_from_slice(&available[..n_bytes]);
        self.consume(n_bytes);
        Ok(n_bytes)
    }
}

/// Plain or gzipped bytes, decoded. A gzip stream may have many members; a damaged one is an error, and reading
/// on continues at the next that can be found.
#[derive(Debug)]
pub(crate) struct Decoded<R: BufRead> {
    state: State<R>,
    failed_offset: Option<u64>,
}

#[derive(Debug)]
enum State<R: BufRead> {
    Fresh(Rewind<R>),
    Plain(Rewind<R>),
    Between(Rewind<R>),
    Member(Box<GzDecoder<Recorded<R>>>),
    Lost(Rewind<R>),
    /// Only while one state becomes another.
    Moving,
}

impl<R: BufRead> Decoded<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self { state: State::Fresh(Rewind::new(inner)), failed_offset: None }
    }

    /// Where in the stored bytes a reader would look: the start of the open gzip member, or the next plain byte.
    pub(crate) fn member_offset(&self) -> Option<u64> {
        match &self.state {
            State::Between(input) | State::Lost(input) => Some(input.offset()),
            State::Member(member) => Some(member.get_ref().start),
            State::Fresh(_) | State::Plain(_) | State::Moving => None,
        }
    }

    /// Stored bytes read so far.
    pub(crate) fn position(&self) -> u64 {
        match &self.state {
            State::Fresh(input) | State::Plain(input) | State::Between(input) | State::Lost(input) => {
                input.offset()
            }
            State::Member(member) => member.get_ref().input.offset(),
            State::Moving => 0,
        }
    }

    /// Where the member starts that the last error was in.
    pub(crate) fn failed_offset(&self) -> Option<u64> {
        self.failed_offset
    }

    fn open_member(&mut self, input: Rewind<R>) {
        let start = input.offset();
        let recorded = Recorded { input, start, bytes: Vec::new(), is_whole: true };
        self.state = State::Member(Box::new(GzDecoder::new(recorded)));
    }
}

impl<R: BufRead> Read for Decoded<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            match std::mem::replace(&mut self.state, State::Moving) {
                State::Fresh(mut input) => match input.fill_buf() {
                    // A single first byte decides; a plain archive starts with a letter.
                    Ok(bytes) if bytes.first() == Some(&GZIP_MAGIC[0]) => self.open_member(input),
                    Ok(_) => self.state = State::Plain(input),
                    Err(error) => {
                        self.state = State::Fresh(input);
                        return Err(error);
                    }
                },
                State::Plain(mut input) => {
                    let result = input.read(out);
                    self.state = State::Plain(input);
                    return result;
                }
                State::Between(mut input) => match input.fill_buf() {
                    Ok([]) => {
                        self.state = State::Between(input);
                        return Ok(0);
                    }
                    // Padding between members.
                    Ok([0, ..]) => {
                        input.consume(1);
                        self.state = State::Between(input);
                    }
                    Ok(bytes) if bytes[0] == GZIP_MAGIC[0] => self.open_member(input),
                    Ok(_) => {
                        self.failed_offset = Some(input.offset());
                        self.state = State::Lost(input);
                        return Err(io::Error::new(
                            io::ErrorKind::InvalidData,
                            "no gzip member where one should be",
                        ));
                    }
                    Err(error) => {
                        self.state = State::Between(input);
                        return Err(error);
                    }
                },
                State::Member(mut member) => match member.read(out) {
                    Ok(0) if !out.is_empty() => self.state = State::Between(member.into_inner().input),
                    Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                        let Recorded { mut input, start, mut bytes, is_whole } = member.into_inner();
                        self.failed_offset = Some(start);
                        if is_whole && !bytes.is_empty() {
                            bytes.remove(0);
                            input.take_back(bytes);
                        }
                        self.state = State::Lost(input);
                        return Err(error);
                    }
                    result => {
                        self.state = State::Member(member);
                        return result;
                    }
                },
                State::Lost(mut input) => match find_member(&mut input) {
                    Ok(true) => self.open_member(input),
                    Ok(false) => self.state = State::Between(input),
                    Err(error) => {
                        self.state = State::Lost(input);
                        return Err(error);
                    }
                },
                State::Moving => unreachable!("a state is always put back"),
            }
        }
    }
}

const GZIP_MAGIC: [u8; 3] = [0x1f, 0x8b, 8];

/// Reads up to the next bytes that look like the start of a member.
fn find_member<R: BufRead>(input: &mut Rewind<R>) -> io::Result<bool> {
    let mut window = Vec::with_capacity(4);
    loop {
        let available = input.fill_buf()?;
        let Some(&first) = available.first() else { return Ok(false) };
        if window.is_empty() {
            let skip = memchr::memchr(GZIP_MAGIC[0], available).unwrap_or(available.len());
            if skip > 0 {
                input.consume(skip);
                continue;
            }
        }
        input.consume(1);
        window.push(first);
        while !may_start_member(&window) {
            window.remove(0);
        }
        if window.len() == 4 {
            input.budget += 4;
            input.take_back(window);
            return Ok(true);
        }
    }
}

/// Whether up to four bytes are, or may become, the start of a member: three magic bytes and one of flags, of
/// which three are always zero.
fn may_start_member(window: &[u8]) -> bool {
    GZIP_MAGIC.starts_with(window) || window.len() == 4 && window.starts_with(&GZIP_MAGIC) && window[3] < 32
}

/// Keeps what it hands out, so that it can be taken back.
#[derive(Debug)]
struct Recorded<R> {
    input: Rewind<R>,
    start: u64,
    bytes: Vec<u8>,
    /// Whether `bytes` still holds everything since `start`.
    is_whole: bool,
}

/// Longer members are not searched again after damage.
const RECORDED_BYTES: usize = 1 << 20;

impl<R: BufRead> BufRead for Recorded<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.input.fill_buf()
    }

    fn consume(&mut self, n_bytes: usize) {
        if self.is_whole {
            match self.input.fill_buf() {
                Ok(available) if self.bytes.len() + n_bytes <= RECORDED_BYTES => {
                    self.bytes.extend_from_slice(&available[..n_bytes.min(available.len())]);
                }
                _ => (self.is_whole, self.bytes) = (false, Vec::new()),
            }
        }
        self.input.consume(n_bytes);
    }
}

impl<R: BufRead> Read for Recorded<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let n_bytes = available.len().min(out.len());
        out[..n_bytes].copy_from_slice(&available[..n_bytes]);
        self.consume(n_bytes);
        Ok(n_bytes)
    }
}
