//! Prints the main text of HTML files: `cargo run --release -p elmwood-web --example text -- page.html …`
//!
//! With `--speed` it prints only how fast that went, on one thread, reading excluded.

use std::io::Write as _;
use std::time::{Duration, Instant};

use elmwood_web::Page;

fn main() -> std::io::Result<()> {
    let mut arguments = std::env::args().skip(1).peekable();
    let only_speed = arguments.next_if_eq("--speed").is_some();
    let (mut n_pages, mut html_bytes, mut text_bytes, mut elapsed) =
        (0_usize, 0_usize, 0_usize, Duration::ZERO);
    let mut output = std::io::stdout().lock();
    for path in arguments {
        let html = std::fs::read(&path)?;
        let start = Instant::now();
        let page = elmwood_web::extract(&html, None);
        elapsed += start.elapsed();
        n_pages += 1;
        html_bytes += html.len();
        text_bytes += page.text.len();
        if !only_speed {
            let Page { title, text, language } = page;
            let printed =
                writeln!(output, "=== {path}\n[title] {title:?}  [language] {language:?}\n{text}\n");
            if printed.is_err() {
                return Ok(());
            }
        }
    }
    let rate = html_bytes as f64 / 1e6 / elapsed.as_secs_f64();
    eprintln!("{n_pages} pages, {html_bytes} bytes of HTML to {text_bytes} bytes of text, {rate:.1} MB/s");
    Ok(())
}
