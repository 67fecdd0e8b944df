//! Packing documents into rows of equal length, without padding to speak of and without losing a token.
//!
//! Each document becomes `bos`, its tokens, `eos`. A model predicts every token of a segment but the first,
//! so a document that is cut loses nothing if the pieces overlap by one token: the last of a piece is the
//! first of the next, which predicts on from there.
//!
//! 1. Documents longer than a row are cut into pieces of a row's length.
//! 2. Pieces are put into rows by best-fit decreasing: the longest first, each into the fullest row that
//!    still holds it. Most documents stay whole.
//! 3. If the gaps come to more than 0.5 % of all positions, the emptiest rows are taken apart again, and
//!    their pieces laid end to end, cut wherever a row ends.
//!
//! Ding et al. 2024 (arXiv:2404.10830) show that best-fit packing, which cuts few documents, trains better
//! models than laying all of them end to end.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView};
use serde::{Deserialize, Serialize};

use crate::document::Document;
use crate::parallel::ordered_map;
use crate::random::Random;
use crate::{Error, Progress};

/// How documents are packed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PackSettings {
    /// Positions of a row.
    pub seq_len: usize,
    /// The shortest piece that cutting may make, in tokens. At most a 16th of `seq_len` is used, and less where
    /// rows could not be filled otherwise.
    pub min_piece: usize,
    /// The order of the rows.
    pub seed: u64,
    /// Threads that encode; 0 means one per core. The output is the same for any number.
    pub threads: usize,
}

impl Default for PackSettings {
    fn default() -> Self {
        Self { seq_len: 512, min_piece: 16, seed: 0, threads: 0 }
    }
}

/// What packing made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackStats {
    /// Documents packed.
    pub documents: u64,
    /// UTF-8 bytes of their texts.
    pub text_bytes: u64,
    /// Tokens predicted, each once: those of the texts, and one `eos` for each document.
    pub tokens: u64,
    /// Rows.
    pub rows: u64,
    /// Positions of a row.
    pub seq_len: u64,
    /// Pieces of documents in the rows.
    pub segments: u64,
    /// Documents in more than one piece.
    pub cut_documents: u64,
    /// Positions at the ends of rows that hold nothing.
    pub padding: u64,
}

impl PackStats {
    /// The share of positions that hold a token of a document, between 0 and 1.
    #[must_use]
    pub fn filled_share(&self) -> f64 {
        1.0 - self.padding as f64 / (self.rows * self.seq_len).max(1) as f64
    }
}

/// Encodes `documents` and packs them into the file `out`, which [`PackedTokens`](crate::PackedTokens) reads.
///
/// `encode` gives the tokens of a text, all below `vocab_size`, without `bos` and `eos`, which are added.
///
/// # File
/// Safetensors: `tokens` [rows, seq_len], U16, or U32 for a vocabulary above 65,536; `segments` [n, 2], U32
/// (U64 is not needed below 2³² positions): the position of each piece, counted row by row, and its length,
/// ascending. Positions that no piece fills are at the ends of rows and hold `eos`. Metadata, as text:
/// `seq_len`, `vocab_size`, `documents`, `tokens`, `text_bytes`, `bos`, `eos`, `padding` (positions).
///
/// # Errors
/// [`Error::Setting`] for a `seq_len` below 2 or markers outside the vocabulary; [`Error::TokenOutside`];
/// [`Error::NothingLeft`] without a document; any error of `documents`; [`Error::Write`].
#[expect(
    clippy::too_many_arguments,
    reason = "what a tokenizer is comes as four plain values, which keeps it apart"
)]
pub fn pack(
    documents: impl Iterator<Item = Result<Document, Error>>,
    encode: &(dyn Fn(&str) -> Vec<u32> + Sync),
    vocab_size: u32,
    bos: u32,
    eos: u32,
    settings: &PackSettings,
    out: &Path,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<PackStats, Error> {
    let must = |is_so: bool, name, got: u64, expected| {
        if is_so { Ok(()) } else { Err(Error::Setting { name, got: got.to_string(), expected }) }
    };
    must(
        (2..1 << 24).contains(&settings.seq_len),
        "seq_len",
        settings.seq_len as u64,
        "from 2 to 16,777,215",
    )?;
    must(bos < vocab_size, "bos", bos.into(), "below the size of the vocabulary")?;
    must(eos < vocab_size, "eos", eos.into(), "below the size of the vocabulary")?;

    let mut stats = PackStats { seq_len: settings.seq_len as u64, ..PackStats::default() };
    let (mut tokens, mut pieces) = (Vec::new(), Vec::new());
    let encoded = |document: Document| (encode(&document.text), document.text.len() as u64, document.id);
    ordered_map(settings.threads, documents, encoded, |(ids, text_bytes, document)| {
        if let Some(&id) = ids.iter().find(|&&id| id >= vocab_size) {
            return Err(Error::TokenOutside { id, document, vocab_size });
        }
        let start = tokens.len();
        tokens.push(bos);
        tokens.extend(ids);
        tokens.push(eos);
        let document = stats.documents as u32;
        pieces.push(Piece { start, len: tokens.len() - start, document });
        stats.documents += 1;
        stats.text_bytes += text_bytes;
        stats.tokens += (tokens.len() - start - 1) as u64;
        (progress)(Progress { stage: "encode", done: stats.documents, total: None, unit: "documents" });
        Ok(())
    })?;
    if pieces.is_empty() {
        return Err(Error::NothingLeft {
            unit: "document",
            step: "packing",
            read: 0,
            dropped: "none dropped".into(),
            remedy: "give documents that curation kept",
        });
    }

    let mut rows = lay_out(&pieces, settings.seq_len, settings.min_piece);
    Random::new(settings.seed, 0x726f_7773).shuffle(&mut rows);
    stats.rows = rows.len() as u64;
    stats.segments = rows.iter().map(|row| row.pieces.len() as u64).sum();
    stats.padding = rows.iter().map(|row| row.gap as u64).sum();
    let mut pieces_of = HashMap::new();
    rows.iter().flat_map(|r| &r.pieces).for_each(|p| *pieces_of.entry(p.document).or_insert(0) += 1);
    stats.cut_documents = pieces_of.values().filter(|&&n| n > 1).count() as u64;
    if stats.rows * stats.seq_len > u64::from(u32::MAX) {
        let got = format!("{} rows of {}", stats.rows, stats.seq_len);
        return Err(Error::Setting {
            name: "documents",
            got,
            expected: "below 2³² positions a file; pack parts",
        });
    }
    write(&rows, &tokens, vocab_size, bos, eos, &stats, out)?;
    Ok(stats)
}

/// Consecutive tokens of one document, at least two; all but the first are predicted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Where it starts among the tokens of all documents.
    pub(crate) start: usize,
    pub(crate) len: usize,
    pub(crate) document: u32,
}

impl Piece {
    /// The first `len` tokens, and the rest, which starts with the last of them.
    fn cut(self, len: usize) -> (Self, Self) {
        (Self { len, ..self }, Self { start: self.start + len - 1, len: self.len - len + 1, ..self })
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) pieces: Vec<Piece>,
    /// Positions at its end that are free.
    pub(crate) gap: usize,
}

impl Row {
    fn empty(seq_len: usize) -> Self {
        Self { pieces: Vec::new(), gap: seq_len }
    }

    fn add(&mut self, piece: Piece) {
        self.gap -= piece.len;
        self.pieces.push(piece);
    }
}

/// Rows of `seq_len` positions that hold all of `documents`.
///
/// Where many documents are so short that pieces of `min_piece` cannot fill the rows, it is halved, until all
/// but 1 % of the positions are filled, the row with the largest gap apart, which a corpus need not fill.
pub(crate) fn lay_out(documents: &[Piece], seq_len: usize, min_piece: usize) -> Vec<Row> {
    let mut min_piece = min_piece.min(seq_len / 16).max(2);
    loop {
        let rows = lay_out_once(documents, seq_len, min_piece);
        let padding: usize = rows.iter().map(|row| row.gap).sum();
        let last = rows.iter().map(|row| row.gap).max().unwrap_or(0);
        if min_piece == 2 || 100 * (padding - last) <= rows.len() * seq_len {
            return rows;
        }
        min_piece = (min_piece / 2).max(2);
    }
}

fn lay_out_once(documents: &[Piece], seq_len: usize, min_piece: usize) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut pieces = Vec::new();
    for &document in documents {
        let mut rest = document;
        while rest.len > seq_len {
            let (full, left) = rest.cut(seq_len);
            rows.push(Row { pieces: vec![full], gap: 0 });
            rest = left;
        }
        pieces.push(rest);
    }
    rows.extend(best_fit_decreasing(pieces, seq_len));

    // Gaps of 0.5 % may stay; the emptiest rows beyond that are laid out again.
    rows.sort_by_key(|row| row.gap);
    let mut allowed = rows.len() * seq_len / 200;
    let stay = rows.iter().take_while(|row| take(&mut allowed, row.gap)).count();
    let loose = rows.split_off(stay).into_iter().flat_map(|row| row.pieces).collect();
    rows.extend(end_to_end(loose, seq_len, min_piece));
    rows
}

fn take(allowed: &mut usize, amount: usize) -> bool {
    allowed.checked_sub(amount).map(|left| *allowed = left).is_some()
}

fn best_fit_decreasing(mut pieces: Vec<Piece>, seq_len: usize) -> Vec<Row> {
    pieces.sort_by_key(|piece| (usize::MAX - piece.len, piece.start));
    let mut rows: Vec<Row> = Vec::new();
    let mut gaps: BTreeSet<(usize, usize)> = BTreeSet::new();
    for piece in pieces {
        let fullest = gaps.range((piece.len, 0)..).next().copied();
        let row = match fullest {
            Some(entry) => {
                gaps.remove(&entry);
                entry.1
            }
            None => {
                rows.push(Row::empty(seq_len));
                rows.len() - 1
            }
        };
        rows[row].add(piece);
        if rows[row].gap > 0 {
            gaps.insert((rows[row].gap, row));
        }
    }
    rows
}

/// Fills row after row, the longest pieces first, cutting where a row ends. No cut makes a piece shorter than
/// `min_piece`; a gap stays where that forbids every cut, and in the last row.
fn end_to_end(mut pieces: Vec<Piece>, seq_len: usize, min_piece: usize) -> Vec<Row> {
    pieces.sort_by_key(|piece| (usize::MAX - piece.len, piece.start));
    let mut queue = VecDeque::from(pieces);
    let mut rows = Vec::new();
    let mut row = Row::empty(seq_len);
    while !queue.is_empty() {
        // Nearly always the first will do; the bound keeps odd inputs from taking quadratic time.
        let fits = |(nth, piece): (usize, &Piece)| Some((nth, clean_head(piece.len, row.gap, min_piece)?));
        let clean = queue.iter().take(256).enumerate().find_map(fits);
        let first = queue[0].len;
        let head = clean.or_else(|| Some((0, dividing_head(first, row.gap, min_piece)?)));
        let Some((nth, head)) = head.or_else(|| (first <= row.gap).then_some((0, first))) else {
            rows.push(std::mem::replace(&mut row, Row::empty(seq_len)));
            continue;
        };
        let piece = queue.remove(nth).expect("the index is that of a piece");
        if head == piece.len {
            row.add(piece);
        } else {
            let (head, tail) = piece.cut(head);
            row.add(head);
            // A long rest goes on in the next row, a short one fills some gap later.
            if tail.len > min_piece { queue.push_front(tail) } else { queue.push_back(tail) }
        }
        if row.gap == 0 {
            rows.push(std::mem::replace(&mut row, Row::empty(seq_len)));
        }
    }
    if !row.pieces.is_empty() {
        rows.push(row);
    }
    rows
}

/// How much of a piece of `len` tokens to put into a gap, if that uses up the one or the other, and leaves
/// nothing too short of the other.
fn clean_head(len: usize, gap: usize, min_piece: usize) -> Option<usize> {
    if len == gap || len + min_piece <= gap {
        Some(len)
    } else {
        (gap >= min_piece && len + 1 >= gap + min_piece).then_some(gap)
    }
}

/// How much of a piece to put into a gap so that enough is left of both.
fn dividing_head(len: usize, gap: usize, min_piece: usize) -> Option<usize> {
    let head = (len + 1).saturating_sub(min_piece).min(gap.saturating_sub(min_piece));
    (head >= min_piece).then_some(head)
}

fn write(
    rows: &[Row],
    tokens: &[u32],
    vocab_size: u32,
    bos: u32,
    eos: u32,
    stats: &PackStats,
    out: &Path,
) -> Result<(), Error> {
    let seq_len = stats.seq_len as usize;
    let is_wide = vocab_size > 1 << 16;
    let mut token_bytes = Vec::with_capacity(rows.len() * seq_len * if is_wide { 4 } else { 2 });
    let mut segment_bytes = Vec::with_capacity(stats.segments as usize * 8);
    let mut push = |id: u32| {
        let bytes = id.to_le_bytes();
        token_bytes.extend_from_slice(if is_wide { &bytes } else { &bytes[..2] });
    };
    for (nth, row) in rows.iter().enumerate() {
        let mut offset = nth * seq_len;
        for piece in &row.pieces {
            tokens[piece.start..piece.start + piece.len].iter().copied().for_each(&mut push);
            segment_bytes.extend_from_slice(&(offset as u32).to_le_bytes());
            segment_bytes.extend_from_slice(&(piece.len as u32).to_le_bytes());
            offset += piece.len;
        }
        (0..row.gap).for_each(|_| push(eos));
    }
    let metadata = [
        ("seq_len", stats.seq_len),
        ("vocab_size", vocab_size.into()),
        ("documents", stats.documents),
        ("tokens", stats.tokens),
        ("text_bytes", stats.text_bytes),
        ("bos", bos.into()),
        ("eos", eos.into()),
        ("padding", stats.padding),
    ];
    let dtype = if is_wide { Dtype::U32 } else { Dtype::U16 };
    let tokens = TensorView::new(dtype, vec![rows.len(), seq_len], &token_bytes);
    let segments = TensorView::new(Dtype::U32, vec![stats.segments as usize, 2], &segment_bytes);
    let tensors = [
        ("tokens", tokens.expect("the bytes are as many as the shape says")),
        ("segments", segments.expect("the bytes are as many as the shape says")),
    ];
    let bytes = safetensors_with(&tensors, &metadata);
    Ok(elmwood_durable::write_file(out, &bytes)?)
}

/// A safetensors file whose header lists its metadata in the given order: the crate keeps them in a hash map,
/// in another order at every run, and equal inputs are to give equal bytes.
fn safetensors_with(tensors: &[(&str, TensorView<'_>)], metadata: &[(&str, u64)]) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    let text = metadata.iter().map(|(k, v)| ((*k).to_owned(), v.to_string().into())).collect();
    header.insert("__metadata__".into(), serde_json::Value::Object(text));
    let mut end = 0;
    for (name, tensor) in tensors {
        let start = end;
        end += tensor.data().len();
        let dtype = tensor.dtype().to_string();
        let entry =
            serde_json::json!({"dtype": dtype, "shape": tensor.shape(), "data_offsets": [start, end]});
        header.insert((*name).into(), entry);
    }
    let mut json = serde_json::to_vec(&header).expect("a header is plain data");
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut bytes = Vec::with_capacity(8 + json.len() + end);
    bytes.extend_from_slice(&(json.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&json);
    tensors.iter().for_each(|(_, tensor)| bytes.extend_from_slice(tensor.data()));
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn documents(lengths: &[usize]) -> Vec<Piece> {
        let mut start = 0;
        let piece = |(document, &len): (usize, &usize)| {
            start += len;
            Piece { start: start - len, len, document: document as u32 }
        };
        lengths.iter().enumerate().map(piece).collect()
    }

    /// Every token but each document's first is predicted once; pieces and gap fill each row exactly.
    fn check(lengths: &[usize], seq_len: usize, min_piece: usize) -> (usize, usize) {
        let documents = documents(lengths);
        let rows = lay_out(&documents, seq_len, min_piece);
        let mut predicted = vec![0; lengths.iter().sum()];
        for row in &rows {
            assert_eq!(row.pieces.iter().map(|p| p.len).sum::<usize>() + row.gap, seq_len);
            assert!(!row.pieces.is_empty());
            for piece in &row.pieces {
                let document = documents[piece.document as usize];
                assert!(piece.len >= 2 && piece.start >= document.start);
                assert!(piece.start + piece.len <= document.start + document.len);
                predicted[piece.start + 1..piece.start + piece.len].iter_mut().for_each(|n| *n += 1);
            }
        }
        for document in &documents {
            assert_eq!(predicted[document.start], 0);
            let rest = &predicted[document.start + 1..document.start + document.len];
            assert!(rest.iter().all(|&n| n == 1), "a token is not predicted once: {rest:?}");
        }
        (rows.len() * seq_len, rows.iter().map(|row| row.gap).sum())
    }

    /// At most 1 % padding beyond what the last row leaves.
    fn check_filled(lengths: &[usize], seq_len: usize) {
        let (positions, padding) = check(lengths, seq_len, 16);
        assert!(
            padding as f64 <= 0.01 * positions as f64 + seq_len as f64,
            "{padding} of {positions} positions are empty with documents of {lengths:?} in rows of {seq_len}"
        );
    }

    proptest! {
        #[test]
        fn nothing_is_lost_or_doubled(
            lengths in prop::collection::vec(2..400usize, 1..60), seq_len in 2..130usize, min_piece in 0..40usize,
        ) {
            check(&lengths, seq_len, min_piece);
        }

        #[test]
        fn rows_are_full(lengths in prop::collection::vec(2..900usize, 1..400), seq_len in 64..600usize) {
            check_filled(&lengths, seq_len);
        }

        #[test]
        fn rows_are_full_with_equal_documents(len in 2..900usize, n in 1..400usize, seq_len in 64..600usize) {
            check_filled(&vec![len; n], seq_len);
        }
    }

    #[test]
    fn documents_that_fit_stay_whole() {
        let rows = lay_out(&documents(&[100, 28, 64, 64, 120, 8]), 128, 16);
        assert_eq!(rows.len(), 3);
        assert!(rows.iter().all(|row| row.gap == 0 && row.pieces.len() == 2));
    }
}
