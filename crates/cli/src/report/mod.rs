//! `report.html`: one page that shows what a run made; opens from disk, needs no network and no script.
//!
//! Texts of pages and of the model are untrusted: everything that is not written here goes through
//! [`escape`].

mod chart;

use std::collections::BTreeMap;
use std::fmt::Write;

use chart::{Chart, Series};
use elmwood_data::{ExtractStats, Funnel};
use elmwood_train::StepMetrics;
use serde_json::Value;

use crate::pipeline::Judgement;
use crate::progress::{bytes, duration, short};
use crate::stages::Finished;

/// Everything that the page shows.
#[derive(Debug)]
pub struct ReportData<'a> {
    /// The run's name.
    pub name: &'a str,
    /// The recipe, with every default filled in.
    pub recipe: &'a str,
    /// What was read, in words.
    pub source: String,
    /// Pages to documents.
    pub extract: ExtractStats,
    /// Documents kept and dropped.
    pub funnel: Funnel,
    /// The summary of the training stage.
    pub trained: &'a Value,
    /// The steps of training.
    pub metrics: Vec<StepMetrics>,
    /// The model beside its baselines.
    pub judgement: Judgement,
    /// All stages, in order.
    pub stages: Vec<&'a Finished>,
    /// The machine, as names and values.
    pub machine: Vec<(&'static str, String)>,
}

/// Makes text safe in HTML, in elements and in quoted attributes.
#[must_use]
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // Control characters have no place in a page, but what the model wrote is not hidden either.
            c if c.is_control() && c != '\n' && c != '\t' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

impl ReportData<'_> {
    /// The page.
    #[must_use]
    pub fn to_html(&self) -> String {
        let sections = [
            self.head(),
            self.judged(),
            self.samples(),
            self.curves(),
            self.data(),
            self.model(),
            self.made(),
        ];
        format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
             <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\
             <title>{name} · Elmwood</title><style>{style}</style></head>\n<body><main>{body}</main></body></html>\n",
            name = escape(self.name),
            style = include_str!("style.css"),
            body = sections.join("\n"),
        )
    }

    fn head(&self) -> String {
        let seconds: f64 = self.stages.iter().map(|stage| stage.record.seconds).sum();
        let number = |key: &str| short(self.trained[key].as_f64().unwrap_or_default());
        let cards = [
            (number("parameters"), "parameters"),
            (short(self.funnel.kept as f64), "documents kept"),
            (number("tokens"), "tokens trained on"),
            (format!("{:.3}", self.judgement.model), "bits per byte, held out"),
            (duration(seconds), "from pages to model"),
        ];
        let mut html = format!(
            "<h1>{}</h1><p class=\"soft\">A small language model made by Elmwood from {}.</p><div class=\"cards\">",
            escape(self.name),
            escape(&self.source)
        );
        for (value, what) in cards {
            let _ = write!(
                html,
                "<div class=\"card\"><b>{}</b><span class=\"soft\">{what}</span></div>",
                escape(&value)
            );
        }
        html + "</div>"
    }

    fn judged(&self) -> String {
        let Judgement { model, trigram, gzip, text_bytes, tokens, .. } = &self.judgement;
        let rows = [
            ("this model", *model, ""),
            ("trigram of the same tokens (modified Kneser-Ney, whole training text)", *trigram, "other"),
            ("gzip -9 (held-out text alone)", *gzip, "other"),
        ];
        let most = rows.iter().fold(f64::MIN_POSITIVE, |most, row| most.max(row.1));
        let mut html = format!(
            "<h2>What it is worth</h2><p class=\"soft\">Bits per byte over {} of text ({} tokens) in {} documents that it \
             never saw; lower is better.</p><table>",
            bytes(*text_bytes as f64),
            short(*tokens as f64),
            self.funnel.held_out.documents
        );
        for (name, value, class) in rows {
            let _ = write!(
                html,
                "<tr><td>{name}</td><td class=\"n\">{value:.3}</td><td class=\"bar\"><i class=\"{class}\" style=\"width:{:.1}%\"></i></td></tr>",
                100.0 * value / most
            );
        }
        html + "</table>"
    }

    fn samples(&self) -> String {
        let mut html = String::from("<h2>What it writes</h2>");
        let mut by_temperature: BTreeMap<u64, Vec<_>> = BTreeMap::new();
        for sample in &self.judgement.samples {
            // Temperatures are not negative, so their bits sort as they do.
            by_temperature.entry(sample.temperature.to_bits()).or_default().push(sample);
        }
        for (temperature, samples) in by_temperature {
            let _ = write!(html, "<p class=\"soft\">temperature {}</p>", f64::from_bits(temperature));
            for sample in samples {
                let _ = write!(html, "<pre><b>{}</b>{}</pre>", escape(&sample.prompt), escape(&sample.text));
            }
        }
        html
    }

    fn curves(&self) -> String {
        let of = |value: &dyn Fn(&StepMetrics) -> Option<f64>| {
            let point = |m: &StepMetrics| Some((m.tokens as f64, value(m)?));
            self.metrics.iter().filter_map(point).collect::<Vec<_>>()
        };
        let chart = |title, series: Vec<Series>, from_zero| {
            Chart { title, x_label: "tokens", series, from_zero }.to_html()
        };
        let line = |name, points| Series { name, points, dots: false };
        let charts = [
            chart(
                "Loss, nats per token",
                vec![
                    line("training", of(&|m| Some(m.loss))),
                    Series { name: "held out", points: of(&|m| m.eval_loss), dots: true },
                ],
                false,
            ),
            chart("Learning rate", vec![line("learning rate", of(&|m| Some(m.lr)))], true),
            chart("Tokens per second", vec![line("tokens/s", of(&|m| Some(m.tokens_per_sec)))], true),
            chart("Length of the gradient", vec![line("before clipping", of(&|m| Some(m.grad_norm)))], true),
        ];
        format!("<h2>Training</h2><div class=\"charts\">{}</div>", charts.join(""))
    }

    fn data(&self) -> String {
        let dropped = |reason: &str| format!("dropped: {}", reason.replace('_', " "));
        let mut read = vec![("records found".to_owned(), self.extract.found, "other")];
        read.extend(self.extract.dropped.iter().map(|(reason, n)| (dropped(reason), *n, "drop")));
        read.push(("documents".into(), self.extract.documents, ""));
        let mut curated = vec![("documents read".to_owned(), self.funnel.read, "other")];
        let mut reasons: Vec<_> = self.funnel.dropped.iter().collect();
        reasons.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
        curated.extend(reasons.into_iter().map(|(reason, n)| (dropped(reason), *n, "drop")));
        curated.push(("kept for training".into(), self.funnel.train.documents, ""));
        curated.push(("held out".into(), self.funnel.held_out.documents, ""));
        format!(
            "<h2>Data</h2><p class=\"soft\">{} of pages gave {} of text, of which {} are trained on and {} held out; {} \
             repeated lines were cut.</p><h3>Pages to documents</h3>{}<h3>Documents to corpus</h3>{}",
            bytes(self.extract.input_bytes as f64),
            bytes(self.extract.text_bytes as f64),
            bytes(self.funnel.train.bytes as f64),
            bytes(self.funnel.held_out.bytes as f64),
            self.funnel.lines_removed,
            funnel(&read),
            funnel(&curated)
        )
    }

    fn model(&self) -> String {
        let mut html = String::from(
            "<h2>Model</h2><p class=\"soft\">OpenELM: narrow layers at the bottom, wide ones at the top.</p><table>\
             <tr><th>layer</th><th class=\"n\">query heads</th><th class=\"n\">key-value heads</th><th class=\"n\">feed-forward \
             width</th><th></th></tr>",
        );
        let layers = self.trained["layers"].as_array().map(Vec::as_slice).unwrap_or_default();
        let width = |layer: &Value| layer["ffn_dim"].as_u64().unwrap_or_default();
        let most = layers.iter().map(width).max().unwrap_or(1).max(1);
        for (i, layer) in layers.iter().enumerate() {
            let _ = write!(
                html,
                "<tr><td>{i}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"bar\"><i style=\"width:{:.1}%\"></i></td></tr>",
                layer["query_heads"],
                layer["kv_heads"],
                layer["ffn_dim"],
                100.0 * width(layer) as f64 / most as f64
            );
        }
        html + "</table>"
    }

    fn made(&self) -> String {
        let mut html = String::from(
            "<h2>How it was made</h2><table><tr><th>stage</th><th class=\"n\">time</th><th class=\"n\">files</th><th>key</th></tr>",
        );
        for stage in &self.stages {
            let name = stage.folder.file_name().unwrap_or_default().to_string_lossy();
            let size: u64 = stage.record.outputs.iter().map(|file| file.bytes).sum();
            let _ = write!(
                html,
                "<tr><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{} in {}</td><td><code>{:.16}</code></td></tr>",
                escape(&name),
                escape(&duration(stage.record.seconds)),
                stage.record.outputs.len(),
                escape(&bytes(size as f64)),
                stage.key.as_str()
            );
        }
        html += "</table><table>";
        for (name, value) in &self.machine {
            let _ = write!(html, "<tr><td>{name}</td><td>{}</td></tr>", escape(value));
        }
        let _ = write!(
            html,
            "</table><details><summary>The recipe, every default filled in</summary><pre>{}</pre></details>",
            escape(self.recipe)
        );
        html += "<details><summary>Every file, with its BLAKE3</summary><table>";
        for stage in &self.stages {
            let folder = stage.folder.file_name().unwrap_or_default().to_string_lossy();
            for file in &stage.record.outputs {
                let _ = write!(
                    html,
                    "<tr><td><code>{}/{}</code></td><td class=\"n\">{}</td><td><code>{:.16}…</code></td></tr>",
                    escape(&folder),
                    escape(&file.name),
                    file.bytes,
                    escape(&file.blake3)
                );
            }
        }
        html + "</table></details>"
    }
}

/// Counts with bars relative to the largest.
fn funnel(rows: &[(String, u64, &str)]) -> String {
    let most = rows.iter().map(|row| row.1).max().unwrap_or(1).max(1);
    let mut html = String::from("<table>");
    for (name, count, class) in rows {
        let _ = write!(
            html,
            "<tr><td>{}</td><td class=\"n\">{count}</td><td class=\"bar\"><i class=\"{class}\" style=\"width:{:.1}%\"></i></td></tr>",
            escape(name),
            100.0 * *count as f64 / most as f64
        );
    }
    html + "</table>"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::Sample;

    const HOSTILE: &str = "</pre><script>alert('x')</script><img src=x onerror=\"y\">\u{0}&amp;";

    fn data(text: &str) -> ReportData<'_> {
        let sample = |temperature| Sample { prompt: text.into(), temperature, text: text.into() };
        let mut funnel = Funnel { read: 10, kept: 6, ..Funnel::default() };
        funnel.dropped.insert(text.to_owned(), 4);
        ReportData {
            name: text,
            recipe: text,
            source: text.to_owned(),
            extract: ExtractStats::default(),
            funnel,
            trained: &Value::Null,
            metrics: Vec::new(),
            judgement: Judgement {
                text_bytes: 100,
                tokens: 30,
                model: 1.5,
                trigram: 2.0,
                gzip: 2.5,
                samples: vec![sample(1.0), sample(0.2)],
                tokens_per_sec: 1.0,
            },
            stages: Vec::new(),
            machine: vec![("processor", text.to_owned())],
        }
    }

    #[test]
    fn nothing_that_was_read_or_written_by_the_model_becomes_markup() {
        let (plain, hostile) = (data("words").to_html(), data(HOSTILE).to_html());
        assert!(!hostile.contains("<script") && !hostile.contains("<img") && !hostile.contains('\u{0}'));
        let tags = |html: &str| html.matches('<').count();
        assert_eq!(tags(&plain), tags(&hostile), "some text opened a tag");
    }

    #[test]
    fn the_page_asks_for_nothing_from_elsewhere() {
        let html = data("words").to_html();
        assert!(!html.contains("http://") && !html.contains("https://") && !html.contains("url("));
    }
}
