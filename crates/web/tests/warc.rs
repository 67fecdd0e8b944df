//! Archives: whole, broken, and a sample as Common Crawl writes them.

use std::io::{BufReader, Write};
use std::path::Path;

use elmwood_web::warc::{Error, Limits, Reader, Record, RecordType};
use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};

fn record(kind: &str, uri: &str, payload: &[u8]) -> Vec<u8> {
    let mut record = format!(
        "WARC/1.1\r\nWARC-Type: {kind}\r\nWARC-Target-URI: {uri}\r\nWARC-Date: 2026-01-02T03:04:05Z\r\n\
         Content-Length: {}\r\n\r\n",
        payload.len()
    )
    .into_bytes();
    record.extend_from_slice(payload);
    record.extend_from_slice(b"\r\n\r\n");
    record
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn read(archive: &[u8]) -> Vec<Result<Record, Error>> {
    // A small buffer, so that everything that spans buffers does.
    Reader::new(BufReader::with_capacity(7, archive)).collect()
}

/// The URIs of the records that were read, and the offsets of the errors.
fn outline(archive: &[u8]) -> (Vec<String>, Vec<u64>) {
    let (mut uris, mut offsets) = (Vec::new(), Vec::new());
    for result in read(archive) {
        match result {
            Ok(record) => uris.push(record.target_uri.unwrap_or_default()),
            Err(Error::Damaged { offset, .. } | Error::TooLarge { offset, .. }) => offsets.push(offset),
            Err(error) => panic!("{error}"),
        }
    }
    (uris, offsets)
}

fn http(head: &str, body: &[u8]) -> Record {
    let payload = [format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n").as_bytes(), body].concat();
    read(&record("response", "http://elm.example/", &payload)).remove(0).unwrap()
}

#[test]
fn plain_and_gzipped() {
    let records = [
        record("response", "<http://a/>", b"HTTP/1.1 404 Not Found\r\n\r\n"),
        record("metadata", "b", b"x: y"),
    ];
    let plain = records.concat();
    let members = records.iter().flat_map(|record| gzip(record)).collect::<Vec<_>>();
    for archive in [plain.clone(), members, gzip(&plain)] {
        let read: Vec<Record> = read(&archive).into_iter().map(Result::unwrap).collect();
        assert_eq!(read.len(), 2);
        assert_eq!(read[0].kind, RecordType::Response);
        assert_eq!(read[0].target_uri.as_deref(), Some("http://a/"));
        assert_eq!(read[0].date.as_deref(), Some("2026-01-02T03:04:05Z"));
        assert_eq!(read[0].response().unwrap().status, 404);
        assert_eq!((&read[1].kind, read[1].payload.as_slice()), (&RecordType::Metadata, &b"x: y"[..]));
        assert_eq!(read[1].header("content-length"), Some("4"));
    }
    assert_eq!(read(&plain)[1].as_ref().unwrap().offset, records[0].len() as u64);
    assert!(read(b"").is_empty());
}

#[test]
fn response_head_and_codings() {
    let response =
        http("Content-Type: Text/HTML; charset=\"koi8-r\"\r\nX: a\r\n b", b"body").response().unwrap();
    assert_eq!(response.content_type.as_deref(), Some("text/html"));
    assert_eq!(response.charset.as_deref(), Some("koi8-r"));
    assert_eq!(response.headers[1], ("X".to_owned(), "a b".to_owned()));
    assert_eq!((response.body.as_slice(), response.truncated), (&b"body"[..], false));

    let chunked = b"4;x=y\r\nelms\r\n3\r\n!!!\r\n0\r\n\r\n";
    let body = |head, body: &[u8]| {
        let response = http(head, body).response().unwrap();
        (String::from_utf8_lossy(&response.body).into_owned(), response.truncated)
    };
    let elms = |truncated| ("elms!!!".to_owned(), truncated);
    assert_eq!(body("Transfer-Encoding: chunked", chunked), elms(false));
    assert_eq!(body("Transfer-Encoding: chunked", &chunked[..18]), ("elms!!".to_owned(), true));
    assert_eq!(body("Transfer-Encoding: chunked", b"elms!!!"), elms(false));
    assert_eq!(body("Content-Encoding: gzip", &gzip(b"elms!!!")), elms(false));
    assert_eq!(body("Content-Encoding: gzip", b"elms!!!"), elms(false));
    assert!(body("Content-Encoding: gzip", &gzip(&[b'x'; 100])[..24]).1);
    let mut zlib = ZlibEncoder::new(Vec::new(), Compression::default());
    zlib.write_all(b"elms!!!").unwrap();
    assert_eq!(body("Content-Encoding: deflate", &zlib.finish().unwrap()), elms(false));
    let mut deflate = DeflateEncoder::new(Vec::new(), Compression::default());
    deflate.write_all(b"elms!!!").unwrap();
    assert_eq!(body("Content-Encoding: deflate", &deflate.finish().unwrap()), elms(false));
    assert!(matches!(http("Content-Encoding: br", b"x").response(), Err(Error::Coding { .. })));
}

#[test]
fn bombs_are_refused() {
    let bomb = gzip(&vec![0; 80 << 20]);
    assert!(matches!(http("Content-Encoding: gzip", &bomb).response(), Err(Error::TooLarge { .. })));
    let head = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(100_000));
    let archive = record("response", "a", head.as_bytes());
    assert!(matches!(read(&archive)[0].as_ref().unwrap().response(), Err(Error::TooLarge { .. })));
    assert!(read(&record("response", "a", b"no http"))[0].as_ref().unwrap().response().is_err());
}

#[test]
fn damage_costs_only_the_damaged_record() {
    let records: Vec<Vec<u8>> = ["a", "b", "c"].map(|uri| record("resource", uri, &[b'x'; 50])).into();
    let (a, b, c) = (&records[0], &records[1], &records[2]);
    let uris = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let b_at = a.len() as u64;

    // Torn in the payload, in the header, and at the end of the archive.
    for cut in [20, b.len() - 30] {
        let archive = [a.as_slice(), &b[..cut], c].concat();
        assert_eq!(outline(&archive), (uris(&["a", "c"]), vec![b_at]), "cut at {cut}");
        assert_eq!(outline(&[a.as_slice(), &b[..cut]].concat()), (uris(&["a"]), vec![b_at]));
    }
    // Rubbish between records, a wrong version, no length, a length that is no number.
    assert_eq!(outline(&[a, b"rubbish\nmore\n".as_slice(), c].concat()), (uris(&["a", "c"]), vec![b_at]));
    for (from, to) in [("WARC/1.1", "XARC/1.1"), ("Content-Length", "Content-Langth"), (": 50", ": 5x")] {
        let broken = String::from_utf8(b.clone()).unwrap().replace(from, to).into_bytes();
        assert_eq!(outline(&[a, broken.as_slice(), c].concat()), (uris(&["a", "c"]), vec![b_at]), "{to}");
    }

    // A flipped byte and a torn member in gzip.
    let (ga, gb, gc) = (gzip(a), gzip(b), gzip(c));
    let gb_at = ga.len() as u64;
    for at in [3, 20, gb.len() - 6] {
        let mut broken = gb.clone();
        broken[at] ^= 0xff;
        let (uris_read, offsets) = outline(&[ga.clone(), broken, gc.clone()].concat());
        assert_eq!((uris_read, offsets[0]), (uris(&["a", "c"]), gb_at), "flip at {at}");
    }
    let torn = [ga.as_slice(), &gb[..gb.len() / 2], &gc].concat();
    let (uris_read, offsets) = outline(&torn);
    assert_eq!((uris_read, offsets[0]), (uris(&["a", "c"]), gb_at));
}

#[test]
fn limits_skip_a_record() {
    let records = [record("resource", "a", &[b'x'; 500]), record("resource", "b", b"x")].concat();
    let limits = Limits { record_bytes: 100, ..Limits::default() };
    let results: Vec<_> = Reader::with_limits(records.as_slice(), limits).collect();
    assert!(matches!(results[0], Err(Error::TooLarge { offset: 0, .. })));
    assert_eq!(results[1].as_ref().unwrap().target_uri.as_deref(), Some("b"));
    let endless = [b"WARC/1.0\r\n".to_vec(), vec![b'x'; 1 << 20]].concat();
    assert!(matches!(read(&endless)[0], Err(Error::TooLarge { .. })));
}

/// A stream that fails with the kind of error that gzip has for damage, forever.
struct Failing;

impl std::io::Read for Failing {
    fn read(&mut self, _out: &mut [u8]) -> std::io::Result<usize> {
        Err(std::io::ErrorKind::InvalidData.into())
    }
}

#[test]
fn a_failing_stream_ends() {
    let whole = record("resource", "a", b"x");
    for start in [whole.clone(), gzip(&whole), whole[..90].to_vec(), gzip(&whole)[..50].to_vec(), vec![]] {
        let stream = std::io::Read::chain(start.as_slice(), Failing);
        assert!(Reader::new(BufReader::new(stream)).take(20).count() < 5);
    }
}

#[test]
fn any_damage_is_survived() {
    let plain: Vec<u8> = (0..6)
        .flat_map(|i| record("response", &format!("{i}"), b"HTTP/1.1 200 OK\r\n\r\nWARC/1.0\r\n"))
        .collect();
    let gzipped: Vec<u8> =
        (0..6).flat_map(|i| gzip(&record("resource", &format!("{i}"), &[i; 99]))).collect();
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as usize
    };
    for archive in [plain, gzipped] {
        for end in 0..archive.len() {
            let n_results = read(&archive[..end]).len();
            assert!(n_results <= 8, "{n_results} results of the first {end} bytes");
        }
        for _ in 0..3000 {
            let mut broken = archive.clone();
            for _ in 0..1 + next() % 4 {
                let at = next() % broken.len();
                broken[at] = next() as u8;
            }
            for record in read(&broken).into_iter().flatten() {
                let _ = record.response();
            }
        }
    }
}

#[test]
fn sample_archive() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/warc/sample-0000.warc.gz");
    let Ok(file) = std::fs::File::open(&path) else {
        eprintln!("skipped: no sample at `{}`", path.display());
        return;
    };
    let records: Vec<Record> = Reader::new(BufReader::new(file)).map(Result::unwrap).collect();
    let responses: Vec<_> = records.iter().filter(|record| record.kind == RecordType::Response).collect();
    println!("{} records, {} responses", records.len(), responses.len());
    assert!(!responses.is_empty());
    for record in responses {
        let response = record.response().unwrap();
        let page = elmwood_web::extract(&response.body, response.charset.as_deref());
        println!("{} {:?} {:?} {}", response.status, record.target_uri, page.title, page.text.len());
        assert!(response.status != 200 || !page.text.is_empty());
    }
}
