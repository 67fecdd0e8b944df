//! The whole way from pages to rows: on a site of our own, and on shared data where they are installed.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use elmwood_data::{
    CurateSettings, Document, DocumentReader, DocumentWriter, Error, ExtractSettings, Funnel, HELD_OUT, Kind,
    PackSettings, PackedTokens, REJECTED, Source, TRAIN, corpus_stats, curate, extract, pack, silent, site,
};

fn site_of(folder: &Path, pages: usize, threads: usize) -> PathBuf {
    let site = folder.join("site");
    site::generate(&site, &site::SiteSettings { pages, threads, ..Default::default() }, &silent).unwrap();
    site
}

fn read(path: &Path) -> Vec<Document> {
    DocumentReader::open(path).unwrap().collect::<Result<_, _>>().unwrap()
}

/// Pages, documents, corpus and rows of a site, all by so many threads.
fn run(folder: &Path, threads: usize) -> Funnel {
    let site = site_of(folder, 600, threads);
    let documents = folder.join("documents.jsonl.zst");
    let settings = ExtractSettings { limit: Some(500), threads, ..Default::default() };
    let stats = extract(&Source::detect(site).unwrap(), &settings, &documents, &silent).unwrap();
    assert_eq!((stats.found, stats.documents, stats.dropped["not_sampled"]), (600, 500, 100));
    let corpus = folder.join("corpus");
    let settings = CurateSettings { threads, ..Default::default() };
    let funnel = curate(&documents, &corpus, &settings, &silent).unwrap();
    let train = DocumentReader::open(corpus.join(TRAIN)).unwrap();
    let settings = PackSettings { seq_len: 256, threads, ..Default::default() };
    let encode = |text: &str| text.bytes().map(u32::from).collect();
    let rows = folder.join("train.safetensors");
    let packed = pack(train, &encode, 258, 256, 257, &settings, &rows, &silent).unwrap();
    assert!(packed.filled_share() >= 0.99, "{packed:?}");
    assert_eq!(packed.text_bytes, funnel.train.bytes);
    assert_eq!(PackedTokens::open(rows).unwrap().stats().tokens, packed.text_bytes + packed.documents);
    funnel
}

#[test]
fn the_same_bytes_for_any_number_of_threads() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let funnels = [run(folders[0].path(), 1), run(folders[1].path(), 3)];
    assert_eq!(funnels[0], funnels[1]);
    let files = ["documents.jsonl.zst", "corpus/train.jsonl.zst", "corpus/held_out.jsonl.zst"];
    for name in
        files.into_iter().chain(["corpus/rejected.jsonl.zst", "corpus/funnel.json", "train.safetensors"])
    {
        let [one, three] =
            [&folders[0], &folders[1]].map(|folder| fs::read(folder.path().join(name)).unwrap());
        assert!(one == three, "`{name}` differs");
    }
}

#[test]
fn most_of_the_site_is_kept_and_none_of_its_furniture() {
    let folder = tempfile::tempdir().unwrap();
    let site = site_of(folder.path(), 1500, 0);
    let documents = folder.path().join("documents.jsonl.zst");
    extract(&Source::detect(site).unwrap(), &ExtractSettings::default(), &documents, &silent).unwrap();
    for document in read(&documents) {
        assert!(!document.text.contains("Cookie settings"), "{}", document.text);
        assert!(!document.text.contains("All modules"), "{}", document.text);
    }
    let funnel =
        curate(&documents, &folder.path().join("corpus"), &CurateSettings::default(), &silent).unwrap();
    assert!(funnel.kept * 10 >= funnel.read * 8, "{funnel:#?}");
    assert!(funnel.held_out_13_gram_overlap < 0.2, "{funnel:#?}");
}

#[test]
fn every_record_is_accounted_for() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("mixed.jsonl");
    let mut writer = DocumentWriter::create(&input).unwrap();
    let text = |i: usize| -> String {
        (0..120)
            .map(|j| ["the oak ", "and elm ", "of ash ", "to fir "][(i * j + i / 3) % 4])
            .collect::<String>()
            + &(0..200).map(|j| format!("w{}x{} ", (i + 1) * (j + 7) % 997, j * i % 13)).collect::<String>()
    };
    let unique = |i: usize| {
        let word = |j: usize| blake3_like(i * 1000 + j);
        (0..150).map(|j| if j % 5 == 0 { "the ".into() } else { word(j) + " and " }).collect::<String>()
    };
    for i in 0..40 {
        writer.write(&Document::new(format!("unique/{i}"), None, unique(i))).unwrap();
    }
    writer.write(&Document::new("copy/exact", None, unique(3).to_uppercase())).unwrap();
    writer.write(&Document::new("copy/near", None, unique(4) + "with an end of its own")).unwrap();
    writer.write(&Document::new("copy/all", None, (10..20).map(unique).collect::<String>())).unwrap();
    writer.write(&Document::new("short", None, "too short to keep")).unwrap();
    writer.write(&text(1)).unwrap();
    writer.finish().unwrap();

    let out = folder.path().join("corpus");
    let funnel =
        curate(&input, &out, &CurateSettings { held_out_share: 0.2, ..Default::default() }, &silent).unwrap();
    assert_eq!((funnel.read, funnel.kept, funnel.quarantine.records), (45, 40, 1));
    for reason in ["duplicate", "near_duplicate", "contained", "too_few_words"] {
        assert_eq!(funnel.dropped.get(reason), Some(&1), "{reason} in {funnel:#?}");
    }
    assert!(funnel.is_suspect());
    let [train, held_out] = [TRAIN, HELD_OUT].map(|name| read(&out.join(name)));
    assert_eq!(train.len() + held_out.len(), 40);
    assert!((2..20).contains(&held_out.len()));
    let train: HashSet<_> = train.iter().map(|d| &d.id).collect();
    assert!(held_out.iter().all(|d| !train.contains(&d.id)));
    assert_eq!(read(&out.join(REJECTED)).len(), 4);
    let stats = corpus_stats(&out.join(TRAIN), &silent).unwrap();
    assert_eq!(stats.documents, funnel.train.documents);
    assert_eq!(stats.text_bytes, funnel.train.bytes);
}

/// A word of eight letters that depends on `i` alone.
fn blake3_like(i: usize) -> String {
    let mut x = i as u64 ^ 0x5851_f42d_4c95_7f2d;
    let mut letter = || {
        x = x.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        char::from(b'a' + (x >> 40) as u8 % 26)
    };
    (0..8).map(|_| letter()).collect()
}

#[test]
fn nothing_left_tells_why_and_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("a.jsonl");
    let mut writer = DocumentWriter::create(&input).unwrap();
    (0..3).for_each(|i| writer.write(&Document::new(i.to_string(), None, "a few words only")).unwrap());
    writer.finish().unwrap();
    let error = curate(&input, &folder.path().join("out"), &CurateSettings::default(), &silent).unwrap_err();
    assert!(matches!(error, Error::NothingLeft { read: 3, .. }));
    let text = error.to_string();
    assert!(text.contains("3 dropped by `too_few_words`") && text.contains("lower `min_words`"), "{text}");
    assert!(!folder.path().join("out").join(TRAIN).exists());
}

#[test]
fn redirects_and_empty_pages_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("pages");
    fs::create_dir_all(root.join("sub")).unwrap();
    let page =
        |words: usize| format!("<html><title>T</title><main><p>{}</p></main>", "many words ".repeat(words));
    fs::write(root.join("a.html"), page(40)).unwrap();
    fs::write(root.join("sub/b.htm"), page(0)).unwrap();
    let stub =
        "<meta http-equiv=\"refresh\" content=\"0;URL=a.html\"><p>Redirecting to a.html, which is elsewhere";
    fs::write(root.join("sub/c.html"), stub).unwrap();
    let out = folder.path().join("out.jsonl.zst");
    let stats = extract(&Source::detect(&root).unwrap(), &ExtractSettings::default(), &out, &silent).unwrap();
    assert_eq!((stats.found, stats.documents), (3, 1));
    assert_eq!((stats.dropped["redirect"], stats.dropped["near_empty"]), (1, 1));
    assert_eq!(read(&out)[0].source, "a.html");
}

/// A folder of shared data, or a notice that it is absent.
fn shared(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data").join(name);
    if !path.exists() {
        println!("skipped: `{}` is absent", path.display());
    }
    path.exists().then_some(path)
}

#[test]
fn novels_are_kept_whole() {
    let Some(novels) = shared("text/novels") else { return };
    let folder = tempfile::tempdir().unwrap();
    let documents = folder.path().join("novels.jsonl.zst");
    let stats =
        extract(&Source::detect(novels).unwrap(), &ExtractSettings::default(), &documents, &silent).unwrap();
    assert_eq!(stats.documents, stats.found);
    let funnel =
        curate(&documents, &folder.path().join("corpus"), &CurateSettings::default(), &silent).unwrap();
    assert_eq!(funnel.kept, stats.documents, "{funnel:#?}");
    assert!(funnel.held_out.documents >= 1);
}

#[test]
fn warc_files_give_their_pages_whole_or_truncated() {
    let Some(warc) = shared("warc") else { return };
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("pages.jsonl.zst");
    let source = Source::detect(&warc).unwrap();
    assert_eq!(source.kind, Kind::Warc);
    let whole = extract(&source, &ExtractSettings::default(), &out, &silent).unwrap();
    assert!(whole.documents > 5 && whole.quarantine.records == 0, "{whole:#?}");
    let settings = ExtractSettings { limit: Some(3), ..Default::default() };
    assert!(extract(&source, &settings, &out, &silent).unwrap().documents <= 3);

    let bytes = fs::read(fs::read_dir(&warc).unwrap().next().unwrap().unwrap().path()).unwrap();
    let torn = folder.path().join("torn.warc.gz");
    fs::write(&torn, &bytes[..bytes.len() * 2 / 3]).unwrap();
    let part = extract(&Source::detect(&torn).unwrap(), &ExtractSettings::default(), &out, &silent).unwrap();
    assert!(part.documents > 0 && part.documents < whole.documents, "{part:#?}");
    assert!(part.is_suspect(), "{part:#?}");
}
