//! Any input to a curated corpus, with times: `corpus INPUT OUT [LIMIT]`. `site` as the input makes one, `docs`
//! takes the installed Rust documentation.

use std::path::{Path, PathBuf};
use std::time::Instant;

use elmwood_data::{CurateSettings, ExtractSettings, Source, corpus_stats, curate, extract, silent, site};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [input, out, limit @ ..] = arguments.as_slice() else {
        return Err("corpus INPUT OUT [LIMIT]".into());
    };
    let out = Path::new(out);
    let start = Instant::now();
    let input = match input.as_str() {
        "docs" => elmwood_data::rust_docs().ok_or("the Rust documentation is not installed")?,
        "site" => {
            let folder = out.join("site");
            let stats = site::generate(&folder, &site::SiteSettings::default(), &silent)?;
            println!("{stats:?} in {:.2?}", start.elapsed());
            folder
        }
        path => PathBuf::from(path),
    };
    let start = Instant::now();
    let documents = out.join("documents.jsonl.zst");
    let limit = limit.first().map(|limit| limit.parse()).transpose()?;
    let settings = ExtractSettings { limit, ..ExtractSettings::default() };
    let stats = extract(&Source::detect(input)?, &settings, &documents, &silent)?;
    println!("{stats:#?}\nextracted in {:.2?}", start.elapsed());
    let start = Instant::now();
    let funnel = curate(&documents, &out.join("corpus"), &CurateSettings::default(), &silent)?;
    println!("{funnel:#?}\ncurated in {:.2?}", start.elapsed());
    let stats = corpus_stats(&out.join("corpus").join(elmwood_data::TRAIN), &silent)?;
    println!("{}", serde_json::to_string(&stats)?);
    Ok(())
}
