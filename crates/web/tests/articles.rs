//! Main text against a published benchmark: 181 article pages with their text as people marked it.
//!
//! # Source
//! scrapinghub/article-extraction-benchmark, `evaluate.py`: precision, recall and F1 of 4-word shingles, averaged
//! over pages. Differs: no bootstrap intervals.

use std::collections::HashMap;
use std::io::Read;
use std::path::Path;

/// This extractor reaches 0.95, as trafilatura does.
const F1_FLOOR: f64 = 0.94;

#[test]
fn articles_of_the_benchmark() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/crawl/articles");
    let Ok(truth) = std::fs::read(folder.join("ground-truth.json")) else {
        eprintln!("skipped: no benchmark in `{}`", folder.display());
        return;
    };
    let truth: HashMap<String, serde_json::Value> = serde_json::from_slice(&truth).unwrap();
    let mut scores: Vec<(String, Option<f64>, f64)> = truth
        .iter()
        .map(|(id, truth)| {
            let file = std::fs::File::open(folder.join(format!("html/{id}.html.gz"))).unwrap();
            let mut html = Vec::new();
            flate2::read::GzDecoder::new(file).read_to_end(&mut html).unwrap();
            let page = elmwood_web::extract(&html, Some("utf-8"));
            let (precision, recall) = score(truth["articleBody"].as_str().unwrap(), &page.text);
            (id.clone(), precision, recall)
        })
        .collect();
    scores.sort_by(|a, b| (a.1.unwrap_or(0.0) + a.2).total_cmp(&(b.1.unwrap_or(0.0) + b.2)));
    for (id, precision, recall) in scores.iter().take(40) {
        println!("{id} precision {:.3} recall {recall:.3}", precision.unwrap_or(f64::NAN));
    }
    let precisions: Vec<f64> = scores.iter().filter_map(|score| score.1).collect();
    let precision = precisions.iter().sum::<f64>() / precisions.len() as f64;
    let recall = scores.iter().map(|score| score.2).sum::<f64>() / scores.len() as f64;
    let f1 = 2.0 * precision * recall / (precision + recall);
    println!("{} pages: precision {precision:.4}, recall {recall:.4}, F1 {f1:.4}", scores.len());
    assert!(f1 >= F1_FLOOR, "F1 fell to {f1:.4}");
}

/// Precision, if anything was found, and recall of the shingles in `found`.
fn score(truth: &str, found: &str) -> (Option<f64>, f64) {
    let (truth, found) = (shingles(truth), shingles(found));
    let n_common: u32 = found.iter().map(|(shingle, n)| n.min(truth.get(shingle).unwrap_or(&0))).sum();
    let n_truth: u32 = truth.values().sum();
    let n_found: u32 = found.values().sum();
    let precision = (n_found > 0).then(|| f64::from(n_common) / f64::from(n_found));
    (precision, f64::from(n_common) / f64::from(n_truth))
}

/// How often each run of four words occurs.
fn shingles(text: &str) -> HashMap<Vec<&str>, u32> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let words: Vec<&str> = text.split(|c| !is_word(c)).filter(|word| !word.is_empty()).collect();
    let mut counts = HashMap::new();
    if !words.is_empty() {
        for shingle in words.windows(words.len().min(4)) {
            *counts.entry(shingle.to_vec()).or_insert(0) += 1;
        }
    }
    counts
}
