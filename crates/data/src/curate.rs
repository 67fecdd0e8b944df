//! From documents to training text: cut common lines, apply the rules, drop what occurs twice, hold a
//! part out, and account for every record.
//!
//! The input is streamed four times (count lines; measure; compare; write), so that memory holds numbers
//! about documents, never their texts: 0.5 KB a document, 8 bytes a word up to 16 million words, and 16
//! bytes for each different line.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::boilerplate::{Cut, LineCounts, LineRules, line_hashes};
use crate::dedup::{Signature, cluster, exact_key, ngram_hashes, normalise};
use crate::document::{Document, DocumentReader, DocumentWriter};
use crate::parallel::ordered_map;
use crate::quality::{Rejection, Rules};
use crate::random::rank;
use crate::{Error, Progress, Quarantine};

/// The training part, in the folder that [`curate`] writes.
pub const TRAIN: &str = "train.jsonl.zst";
/// The part that is held out from training.
pub const HELD_OUT: &str = "held_out.jsonl.zst";
/// What was dropped, with reasons.
pub const REJECTED: &str = "rejected.jsonl.zst";
/// The [`Funnel`].
pub const FUNNEL: &str = "funnel.json";

/// How documents are curated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CurateSettings {
    /// Which lines are cut because many documents share them.
    pub lines: LineRules,
    /// Which documents are dropped for what they are.
    pub rules: Rules,
    /// Documents whose estimated Jaccard similarity reaches this are near-duplicates; the first stays.
    pub near_duplicate_threshold: f64,
    /// A document is dropped as `contained` if at least this share of its 13-grams stands in shorter
    /// documents that are kept: a book on one page beside its chapters, or a template filled once more.
    pub max_contained: f64,
    /// The share of kept documents that is held out, chosen by their ids.
    pub held_out_share: f64,
    /// A document of which more than this share of 13-grams stands in training text is not held out but
    /// trained on: it would measure memory.
    pub max_held_out_overlap: f64,
    /// Which documents are held out.
    pub seed: u64,
    /// Threads; 0 means one per core. The output is the same for any number.
    pub threads: usize,
}

impl Default for CurateSettings {
    fn default() -> Self {
        Self {
            lines: LineRules::default(),
            rules: Rules::default(),
            near_duplicate_threshold: 0.7,
            max_contained: 0.8,
            held_out_share: 0.05,
            max_held_out_overlap: 0.3,
            seed: 0,
            threads: 0,
        }
    }
}

/// What became of every record: `read = kept + dropped + quarantine.records`, and `kept = train + held_out`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Funnel {
    /// Records of the input, bad ones included.
    pub read: u64,
    /// UTF-8 bytes of the texts read.
    pub read_bytes: u64,
    /// Records that could not be read.
    pub quarantine: Quarantine,
    /// Documents dropped, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// Documents kept.
    pub kept: u64,
    /// The training part.
    pub train: Part,
    /// The held-out part.
    pub held_out: Part,
    /// Lines cut from kept documents because many documents share them.
    pub lines_removed: u64,
    /// UTF-8 bytes of these lines.
    pub line_bytes_removed: u64,
    /// Documents that were chosen to be held out, but share too much with training text.
    pub moved_to_training: u64,
    /// Different 13-grams of words in the held-out part.
    pub held_out_13_grams: u64,
    /// How many of these stand in the training part too.
    pub held_out_13_grams_in_training: u64,
    /// The share they are.
    pub held_out_13_gram_overlap: f64,
    /// One 13-gram in this many was compared: 1, hence all, up to 16 million words.
    pub one_13_gram_in: u64,
}

/// The size of one part.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Documents.
    pub documents: u64,
    /// UTF-8 bytes of their texts.
    pub bytes: u64,
    /// Their words, separated by white space.
    pub words: u64,
}

impl Funnel {
    /// The documents dropped for any reason.
    #[must_use]
    pub fn n_dropped(&self) -> u64 {
        self.dropped.values().sum()
    }

    /// Whether so many records were bad that the input is suspect; see [`Quarantine::is_suspect`].
    #[must_use]
    pub fn is_suspect(&self) -> bool {
        self.quarantine.is_suspect(self.read)
    }

    fn assert_balanced(&self) {
        assert_eq!(
            self.read,
            self.kept + self.n_dropped() + self.quarantine.records,
            "every record is booked once"
        );
        assert_eq!(
            self.kept,
            self.train.documents + self.held_out.documents,
            "every kept one is in one part"
        );
    }
}

/// One line of `rejected.jsonl.zst`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rejected {
    /// The document's id.
    pub id: String,
    /// Its source.
    pub source: String,
    /// Why it was dropped.
    pub reason: String,
    /// What was measured: a count, a share, or a similarity.
    pub value: f64,
    /// The id of the document it duplicates, where it is a duplicate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub like: Option<String>,
    /// The first 200 characters of its text.
    pub text: String,
}

/// Curates the documents of `input` into the folder `out`: [`TRAIN`], [`HELD_OUT`], [`REJECTED`] and, last,
/// [`FUNNEL`]: where it is, the others are complete and belong to it.
///
/// The same input and settings give the same bytes, for any number of threads. `progress` counts documents,
/// once for each of four passes.
///
/// # Errors
/// [`Error::Setting`] for a share outside 0 to 1; [`Error::Io`] and [`Error::Write`] from the disk;
/// [`Error::NothingLeft`] if every document is dropped; [`Error::Changed`] if the input changes meanwhile.
pub fn curate(
    input: &Path,
    out: &Path,
    settings: &CurateSettings,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<Funnel, Error> {
    settings.check()?;
    let mut run = Run { input, settings, progress, total: None };
    let mut funnel = Funnel::default();
    let lines = run.count_lines(&mut funnel)?;
    let mut documents = run.measure(&lines)?;
    drop_duplicates(&mut documents, settings.near_duplicate_threshold);
    let mut grams = run.grams(&lines, &documents)?;
    drop_contained(&mut documents, &grams, settings.max_contained);
    split(&mut documents, settings);
    funnel.moved_to_training = move_overlapping(&mut documents, &grams, settings.max_held_out_overlap);
    measure_overlap(&mut funnel, &documents, &grams);
    grams.clear();
    run.write(out, &lines, &documents, &mut funnel)?;
    Ok(funnel)
}

impl CurateSettings {
    fn check(&self) -> Result<(), Error> {
        let shares = [
            ("held_out_share", self.held_out_share),
            ("near_duplicate_threshold", self.near_duplicate_threshold),
            ("max_contained", self.max_contained),
            ("max_held_out_overlap", self.max_held_out_overlap),
            ("max_document_share", self.lines.max_document_share),
        ];
        match shares.into_iter().find(|(_, share)| !(0.0..=1.0).contains(share)) {
            Some((name, share)) => {
                Err(Error::Setting { name, got: share.to_string(), expected: "between 0 and 1" })
            }
            None => Ok(()),
        }
    }
}

/// What is remembered of a document between the passes.
struct Measured {
    id: String,
    words: u64,
    key: u128,
    signature: Option<Signature>,
    fate: Fate,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Fate {
    Train,
    HeldOut,
    Dropped { rejection: Rejection, like: Option<usize> },
}

impl Measured {
    fn is_kept(&self) -> bool {
        !matches!(self.fate, Fate::Dropped { .. })
    }
}

/// The different 13-grams of each document that was kept so far, by its index.
type Grams = BTreeMap<usize, Vec<u64>>;

/// Words of the n-grams by which containment and overlap are measured.
const GRAM_WORDS: usize = 13;

/// Beyond so many words, only every second, fourth, ... 13-gram is compared: 128 MiB at most.
const MAX_GRAMS: u64 = 1 << 24;

struct Run<'a> {
    input: &'a Path,
    settings: &'a CurateSettings,
    progress: &'a (dyn Fn(Progress) + Sync),
    total: Option<u64>,
}

impl Run<'_> {
    /// One pass over the input: `map` on all cores, `sink` in order.
    fn pass<R: Send>(
        &self,
        stage: &'static str,
        map: impl Fn(usize, Document) -> R + Sync,
        mut sink: impl FnMut(R) -> Result<(), Error>,
    ) -> Result<(u64, Quarantine), Error> {
        let mut reader = DocumentReader::open(self.input)?;
        let mut done = 0;
        let numbered = reader.by_ref().enumerate().map(|(i, document)| Ok((i, document?)));
        ordered_map(
            self.settings.threads,
            numbered,
            |(i, document)| map(i, document),
            |result| {
                sink(result)?;
                done += 1;
                (self.progress)(Progress { stage, done, total: self.total, unit: "documents" });
                Ok(())
            },
        )?;
        if self.total.is_some_and(|total| total != done) {
            let before = self.total.unwrap_or_default();
            return Err(Error::Changed { path: self.input.to_owned(), before, after: done });
        }
        Ok((done, reader.quarantine().clone()))
    }

    fn count_lines(&mut self, funnel: &mut Funnel) -> Result<LineCounts, Error> {
        let mut lines = LineCounts::default();
        let rules = &self.settings.lines;
        let hashes = |_, document: Document| (document.text.len() as u64, line_hashes(&document, rules));
        let (documents, quarantine) = self.pass("count lines", hashes, |(bytes, hashes)| {
            funnel.read_bytes += bytes;
            lines.add(&hashes);
            Ok(())
        })?;
        self.total = Some(documents);
        funnel.read = documents + quarantine.records;
        funnel.quarantine = quarantine;
        lines.keep_common(rules);
        Ok(lines)
    }

    fn clean<'d>(&self, lines: &LineCounts, document: &'d Document) -> (Cow<'d, str>, Cut) {
        lines.cut(document, &self.settings.lines)
    }

    fn measure(&self, lines: &LineCounts) -> Result<Vec<Measured>, Error> {
        let mut all = Vec::new();
        let measure = |_, document: Document| {
            let (text, _) = self.clean(lines, &document);
            let words = text.split_whitespace().count() as u64;
            match self.settings.rules.check(&text) {
                Ok(()) => {
                    let normalised = normalise(&text);
                    let (key, signature) = (exact_key(&normalised), Some(Signature::new(&normalised)));
                    Measured { id: document.id, words, key, signature, fate: Fate::Train }
                }
                Err(rejection) => {
                    let fate = Fate::Dropped { rejection, like: None };
                    Measured { id: document.id, words, key: 0, signature: None, fate }
                }
            }
        };
        self.pass("measure", measure, |measured| {
            all.push(measured);
            Ok(())
        })?;
        Ok(all)
    }

    fn grams(&self, lines: &LineCounts, documents: &[Measured]) -> Result<Grams, Error> {
        let step = gram_step(documents);
        let mut grams = Grams::new();
        let hash = |i: usize, document: Document| {
            documents[i].is_kept().then(|| {
                let (text, _) = self.clean(lines, &document);
                let mut hashes = ngram_hashes(&normalise(&text), GRAM_WORDS);
                hashes.retain(|hash| hash % step == 0);
                hashes.sort_unstable();
                hashes.dedup();
                (i, hashes)
            })
        };
        self.pass("compare", hash, |hashed| {
            grams.extend(hashed);
            Ok(())
        })?;
        Ok(grams)
    }

    fn write(
        &self,
        out: &Path,
        lines: &LineCounts,
        documents: &[Measured],
        funnel: &mut Funnel,
    ) -> Result<(), Error> {
        for measured in documents {
            match measured.fate {
                Fate::Dropped { rejection, .. } => {
                    *funnel.dropped.entry(rejection.reason.to_owned()).or_insert(0) += 1;
                }
                Fate::Train | Fate::HeldOut => funnel.kept += 1,
            }
        }
        if funnel.kept == 0 {
            return Err(Error::NothingLeft {
                unit: "document",
                step: "curation",
                read: funnel.read,
                dropped: in_words(&funnel.dropped, funnel.quarantine.records),
                remedy: remedy(&funnel.dropped),
            });
        }
        let mut train = DocumentWriter::create(out.join(TRAIN))?;
        let mut held_out = DocumentWriter::create(out.join(HELD_OUT))?;
        let mut rejected = DocumentWriter::create(out.join(REJECTED))?;
        let clean = |i: usize, document: Document| {
            let (text, cut) = self.clean(lines, &document);
            let text = text.into_owned();
            (i, Document { text, ..document }, cut)
        };
        self.pass("write", clean, |(i, document, cut)| {
            let (part, writer) = match documents[i].fate {
                Fate::Train => (&mut funnel.train, &mut train),
                Fate::HeldOut => (&mut funnel.held_out, &mut held_out),
                Fate::Dropped { rejection, like } => {
                    return rejected.write(&Rejected {
                        id: document.id,
                        source: document.source,
                        reason: rejection.reason.to_owned(),
                        value: rejection.value,
                        like: like.map(|like| documents[like].id.clone()),
                        text: document.text.chars().take(200).collect(),
                    });
                }
            };
            part.documents += 1;
            part.bytes += document.text.len() as u64;
            part.words += documents[i].words;
            funnel.lines_removed += cut.lines;
            funnel.line_bytes_removed += cut.bytes;
            writer.write(&document)
        })?;
        funnel.assert_balanced();
        // A funnel of a former run would tell of files that are replaced now.
        match std::fs::remove_file(out.join(FUNNEL)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io("replace", &out.join(FUNNEL))(error));
            }
            _ => {}
        }
        for writer in [train, held_out, rejected] {
            writer.finish()?;
        }
        let json = serde_json::to_vec_pretty(&funnel).expect("a funnel is plain data");
        Ok(elmwood_durable::write_file(out.join(FUNNEL), &json)?)
    }
}

fn gram_step(documents: &[Measured]) -> u64 {
    let words: u64 = documents.iter().filter(|d| d.is_kept()).map(|d| d.words).sum();
    words.div_ceil(MAX_GRAMS).next_power_of_two()
}

/// Drops all but the first of the documents that are equal, then of those that are nearly so.
fn drop_duplicates(documents: &mut [Measured], threshold: f64) {
    let mut first_with = HashMap::new();
    let mut candidates = Vec::new();
    let mut signatures = Vec::new();
    for (i, document) in documents.iter_mut().enumerate() {
        let Some(signature) = document.signature.take() else { continue };
        match first_with.get(&document.key) {
            Some(&first) => {
                let rejection = Rejection { reason: "duplicate", value: 1.0 };
                document.fate = Fate::Dropped { rejection, like: Some(first) };
            }
            None => {
                first_with.insert(document.key, i);
                candidates.push(i);
                signatures.push(signature);
            }
        }
    }
    for (nth, first) in cluster(&signatures, threshold).into_iter().enumerate() {
        if first != nth {
            // Within a cluster, a document may be closer to another member than to the first.
            let value = signatures[first].similarity(&signatures[nth]);
            let rejection = Rejection { reason: "near_duplicate", value };
            documents[candidates[nth]].fate = Fate::Dropped { rejection, like: Some(candidates[first]) };
        }
    }
}

/// Drops documents most of whose 13-grams stand in shorter ones that are kept.
fn drop_contained(documents: &mut [Measured], grams: &Grams, limit: f64) {
    let mut by_length: Vec<usize> = grams.keys().copied().collect();
    by_length.sort_by_key(|&i| (documents[i].words, i));
    let mut seen: HashSet<u64> = HashSet::new();
    for i in by_length {
        let known = grams[&i].iter().filter(|gram| seen.contains(*gram)).count();
        let share = known as f64 / grams[&i].len().max(1) as f64;
        if share >= limit {
            let rejection = Rejection { reason: "contained", value: share };
            documents[i].fate = Fate::Dropped { rejection, like: None };
        } else {
            seen.extend(&grams[&i]);
        }
    }
}

/// Chooses the documents to be held out: those whose id has a low keyed hash, hence the same ones when the
/// corpus grows; at least one if there are two, and never all.
fn split(documents: &mut [Measured], settings: &CurateSettings) {
    let limit = (settings.held_out_share * u64::MAX as f64) as u64;
    let mut ranked: Vec<(u64, usize)> = (0..documents.len())
        .filter(|&i| documents[i].is_kept())
        .map(|i| (rank(settings.seed, documents[i].id.as_bytes()), i))
        .collect();
    ranked.sort_unstable();
    let chosen = ranked.iter().filter(|(rank, _)| *rank < limit).count();
    let at_least = usize::from(settings.held_out_share > 0.0);
    let chosen = chosen.max(at_least).min(ranked.len().saturating_sub(1));
    for &(_, i) in &ranked[..chosen] {
        documents[i].fate = Fate::HeldOut;
    }
}

/// Moves held-out documents that share too much with training text there, until none does; gives their
/// number. Each one moved may make others share too much.
fn move_overlapping(documents: &mut [Measured], grams: &Grams, limit: f64) -> u64 {
    let mut in_training = grams_of(documents, grams, Fate::Train);
    let mut moved = 0;
    loop {
        let too_close: Vec<usize> = (0..documents.len())
            .filter(|&i| documents[i].fate == Fate::HeldOut)
            .filter(|i| {
                let shared = grams[i].iter().filter(|gram| in_training.contains(gram)).count();
                shared as f64 > limit * grams[i].len() as f64
            })
            .collect();
        if too_close.is_empty() {
            return moved;
        }
        for i in too_close {
            documents[i].fate = Fate::Train;
            in_training.extend(&grams[&i]);
            moved += 1;
        }
    }
}

fn grams_of<'a>(documents: &[Measured], grams: &'a Grams, fate: Fate) -> HashSet<&'a u64> {
    grams.iter().filter(|(i, _)| documents[**i].fate == fate).flat_map(|(_, grams)| grams).collect()
}

fn measure_overlap(funnel: &mut Funnel, documents: &[Measured], grams: &Grams) {
    let (train, held_out) =
        (grams_of(documents, grams, Fate::Train), grams_of(documents, grams, Fate::HeldOut));
    let shared = held_out.iter().filter(|gram| train.contains(*gram)).count() as u64;
    funnel.held_out_13_grams = held_out.len() as u64;
    funnel.held_out_13_grams_in_training = shared;
    funnel.held_out_13_gram_overlap = shared as f64 / held_out.len().max(1) as f64;
    funnel.one_13_gram_in = gram_step(documents);
}

/// "800 dropped by `too_few_words`, 3 by `near_duplicate`", largest first.
pub(crate) fn in_words(dropped: &BTreeMap<String, u64>, bad: u64) -> String {
    let mut reasons: Vec<(&String, &u64)> = dropped.iter().collect();
    reasons.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
    let mut parts: Vec<String> =
        reasons.iter().map(|(reason, n)| format!("{n} dropped by `{reason}`")).collect();
    if bad > 0 {
        parts.push(format!("{bad} unreadable"));
    }
    if parts.is_empty() { "none dropped".into() } else { parts.join(", ") }
}

fn remedy(dropped: &BTreeMap<String, u64>) -> &'static str {
    match dropped.iter().max_by_key(|(_, n)| **n).map(|(reason, _)| reason.as_str()) {
        Some("too_few_words") => "lower `min_words`",
        Some("too_few_stop_words") => "set `min_stop_words` to 0 if the text is not English",
        Some("words_too_long") => "raise `max_mean_word_length`",
        Some("too_few_alphabetic_words") => "lower `min_alphabetic_words`",
        Some(_) => "loosen the rule of that name in the settings of curation",
        None => "name an input that holds documents",
    }
}
