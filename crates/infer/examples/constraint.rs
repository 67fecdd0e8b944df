//! How long a constraint takes for each token, without a model: tokens are drawn from what is allowed.
//!
//! ```text
//! constraint MODEL        one line of JSON for each of some forms
//! ```

use std::time::Instant;

use elmwood_infer::{Form, Sampler, Sampling, Vocabulary};
use elmwood_model::Tokenizer;

const PERSON: &str = r#"{"type": "object", "properties": {"name": {"type": "string", "maxLength": 60}, "age":
    {"type": "integer", "minimum": 0, "maximum": 150}, "tags": {"type": "array", "items": {"type": "string"}, "maxItems":
    8}, "kind": {"enum": ["a", "b", "other"]}}, "required": ["name", "age", "tags", "kind"], "additionalProperties": false}"#;

fn main() {
    let path = std::env::args().nth(1).expect("usage: constraint MODEL");
    let tokenizer = Tokenizer::open(&path).unwrap_or_else(|error| panic!("{error}"));
    let began = Instant::now();
    let vocabulary = Vocabulary::new(&tokenizer).expect("a vocabulary of some MiB");
    let vocabulary_ms = began.elapsed().as_secs_f64() * 1e3;
    let long = r#"{"type": "string", "minLength": 3000, "maxLength": 100000}"#;
    let forms = [
        ("person", Form::JsonSchema(PERSON.into())),
        ("any JSON", Form::JsonSchema(r#"{"type": "object"}"#.into())),
        ("long string", Form::JsonSchema(long.into())),
        ("words", Form::Regex("([a-z]+ ){100,2000}".into())),
    ];
    let logits = vec![0.0; tokenizer.vocab_size()];
    for (name, form) in forms {
        let began = Instant::now();
        let first = vocabulary.constraint(&form).expect("a form that can be had");
        let form_ms = began.elapsed().as_secs_f64() * 1e3;
        let mut times = Vec::new();
        for seed in 0..20 {
            let mut constraint = first.clone();
            let sampling = Sampling { temperature: 1.0, top_p: 1.0, seed, ..Sampling::default() };
            let mut sampler = Sampler::new(sampling).expect("settings within their ranges");
            for _ in 0..200 {
                let began = Instant::now();
                let mask = constraint.mask().expect("a form that is not too complex");
                let mut took = began.elapsed();
                let token = sampler.draw(&logits, &[], Some(&mask)).expect("something is allowed");
                if tokenizer.ends_generation(token) {
                    break;
                }
                let began = Instant::now();
                constraint.push(token).expect("what is allowed");
                took += began.elapsed();
                times.push(took.as_secs_f64() * 1e6);
                if constraint.is_complete() {
                    break;
                }
            }
        }
        times.sort_by(f64::total_cmp);
        let (n, mean) = (times.len(), times.iter().sum::<f64>() / times.len() as f64);
        let (median, p99) = (times[n / 2], times[n * 99 / 100]);
        println!(
            r#"{{"form": "{name}", "tokens": {n}, "vocabulary_ms": {vocabulary_ms:.1}, "form_ms": {form_ms:.2}, "mean_us": {mean:.1}, "median_us": {median:.1}, "p99_us": {p99:.1}}}"#
        );
    }
}
