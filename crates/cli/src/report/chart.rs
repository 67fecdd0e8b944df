//! Line charts as inline SVG: axes with round ticks, a legend, values on hover; no script.

use std::fmt::Write;

use super::escape;
use crate::progress::short;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 240.0;
const LEFT: f64 = 62.0;
const RIGHT: f64 = 30.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 36.0;
/// More points than the page has pixels only make it larger; neighbours are averaged.
const MOST_POINTS: usize = 400;

/// One line, or single points.
#[derive(Debug, Clone)]
pub(super) struct Series {
    pub(super) name: &'static str,
    /// Ascending in x.
    pub(super) points: Vec<(f64, f64)>,
    /// Marks every point, for values that are few.
    pub(super) dots: bool,
}

/// A chart of lines over a common axis.
#[derive(Debug, Clone)]
pub(super) struct Chart {
    pub(super) title: &'static str,
    pub(super) x_label: &'static str,
    pub(super) series: Vec<Series>,
    /// Whether the y axis begins at zero.
    pub(super) from_zero: bool,
}

impl Chart {
    /// The chart as a `figure`; a sentence instead where there is nothing to draw.
    pub(super) fn to_html(&self) -> String {
        let finite = |series: &Series| {
            let points = series.points.iter().copied().filter(|(x, y)| x.is_finite() && y.is_finite());
            Series { points: thin(&points.collect::<Vec<_>>()), ..series.clone() }
        };
        let series: Vec<Series> =
            self.series.iter().map(finite).filter(|series| !series.points.is_empty()).collect();
        let all = || series.iter().flat_map(|series| series.points.iter().copied());
        let title = escape(self.title);
        if series.is_empty() {
            return format!("<figure><figcaption>{title}</figcaption><p>nothing was recorded</p></figure>");
        }
        let x_ticks = ticks(min(all().map(|p| p.0)), max(all().map(|p| p.0)), 6);
        let lowest = if self.from_zero { 0.0 } else { min(all().map(|p| p.1)) };
        let y_ticks = ticks(lowest, max(all().map(|p| p.1)), 5);
        let scale = |ticks: &[f64], from: f64, to: f64| {
            let (first, last) = (ticks[0], ticks[ticks.len() - 1]);
            move |value: f64| from + (value - first) / (last - first) * (to - from)
        };
        let x_at = scale(&x_ticks, LEFT, WIDTH - RIGHT);
        let y_at = scale(&y_ticks, HEIGHT - BOTTOM, TOP);

        let mut svg = format!("<figure><figcaption>{title}");
        for (i, series) in series.iter().enumerate() {
            let _ = write!(svg, " <span class=\"key s{i}\">{}</span>", escape(series.name));
        }
        let _ = write!(
            svg,
            "</figcaption><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{title}\">"
        );
        for tick in &y_ticks {
            let y = y_at(*tick);
            let _ = write!(
                svg,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.0}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
                 <text class=\"tick\" x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                WIDTH - RIGHT,
                LEFT - 6.0,
                y + 4.0,
                label(*tick)
            );
        }
        for tick in &x_ticks {
            let _ = write!(
                svg,
                "<text class=\"tick\" x=\"{:.1}\" y=\"{:.0}\" text-anchor=\"middle\">{}</text>",
                x_at(*tick),
                HEIGHT - BOTTOM + 16.0,
                label(*tick)
            );
        }
        let _ = write!(
            svg,
            "<text class=\"tick\" x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"middle\">{}</text>",
            (LEFT + WIDTH - RIGHT) / 2.0,
            HEIGHT - 4.0,
            escape(self.x_label)
        );
        for (i, series) in series.iter().enumerate() {
            let at = |(x, y): (f64, f64)| format!("{:.1},{:.1}", x_at(x), y_at(y));
            let line: Vec<String> = series.points.iter().copied().map(at).collect();
            let _ = write!(svg, "<polyline class=\"line s{i}\" points=\"{}\"/>", line.join(" "));
            // Where there are too many points to see, every tenth still answers to the pointer.
            let every = if series.dots { 1 } else { (series.points.len() / 40).max(1) };
            for (x, y) in series.points.iter().copied().step_by(every) {
                let class = if series.dots { "dot" } else { "dot unseen" };
                let _ = write!(
                    svg,
                    "<circle class=\"{class} s{i}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\"><title>{}: {} at {} {}</title></circle>",
                    x_at(x),
                    y_at(y),
                    escape(series.name),
                    label(y),
                    label(x),
                    escape(self.x_label)
                );
            }
        }
        svg + "</svg></figure>"
    }
}

fn min(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(f64::INFINITY, f64::min)
}

fn max(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(f64::NEG_INFINITY, f64::max)
}

/// Means of neighbours where there are too many points.
fn thin(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let size = points.len().div_ceil(MOST_POINTS).max(1);
    let mean = |chunk: &[(f64, f64)]| {
        let sum = chunk.iter().fold((0.0, 0.0), |sum, p| (sum.0 + p.0, sum.1 + p.1));
        (sum.0 / chunk.len() as f64, sum.1 / chunk.len() as f64)
    };
    points.chunks(size).map(mean).collect()
}

/// Round numbers that enclose `low..=high`, about `wanted` of them, at least two.
fn ticks(low: f64, high: f64, wanted: usize) -> Vec<f64> {
    let span = if high > low { high - low } else { low.abs().max(1.0) };
    let rough = span / wanted as f64;
    let power = 10.0_f64.powf(rough.log10().floor());
    let step =
        [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|step| *step >= rough).unwrap_or(rough);
    let (first, last) = ((low / step).floor() as i64, (high / step).ceil() as i64);
    (first..=last.max(first + 1)).map(|i| i as f64 * step).collect()
}

/// A tick's number: `2.5`, `0.003`, `400 k`.
fn label(value: f64) -> String {
    if value == 0.0 {
        "0".into()
    } else if value.abs() < 0.01 {
        format!("{value:.1e}")
    } else if value.abs() < 1000.0 {
        let text = format!("{value:.3}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        short(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_enclose_the_values() {
        assert_eq!(ticks(0.0, 10.0, 5), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        assert_eq!(ticks(3.1, 8.4, 5), [2.0, 4.0, 6.0, 8.0, 10.0]);
        for (low, high) in [(0.0, 0.0), (5.0, 5.0), (-3.0, 1e-9), (1e-6, 3e-3), (1e9, 2e9)] {
            let ticks = ticks(low, high, 5);
            assert!((2..20).contains(&ticks.len()), "{low} {high}: {ticks:?}");
            assert!(ticks[0] <= low && high <= ticks[ticks.len() - 1], "{low} {high}: {ticks:?}");
        }
    }

    #[test]
    fn a_long_curve_is_thinned_and_one_without_numbers_is_said_to_be_empty() {
        let chart = |points| Chart {
            title: "loss",
            x_label: "step",
            series: vec![Series { name: "training", points, dots: false }],
            from_zero: false,
        };
        let long = chart((0..100_000).map(|i| (f64::from(i), 1.0 / f64::from(i + 1))).collect()).to_html();
        assert!(long.len() < 40_000, "{} bytes", long.len());
        assert!(long.contains("<polyline") && long.ends_with("</figure>"));
        assert!(chart(vec![(1.0, f64::NAN)]).to_html().contains("nothing was recorded"));
    }
}
