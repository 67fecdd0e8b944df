//! How far a stage is, on stderr: a bar in a terminal, a plain line every few seconds elsewhere.
//!
//! ```text
//! train  [==============>         ]  1.2 M of 2.0 M tokens, 9.8 k/s, 1 min 21 s left, loss 4.213
//! ```
//!
//! The rate is that of the last seconds, so that the time left follows when the machine gets busy, and a
//! resumed stage does not count what was done before. Nothing here writes to stdout.

use std::collections::VecDeque;
use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often a plain line is written.
const PLAIN_EVERY: Duration = Duration::from_secs(5);
/// How often a bar is drawn, and the rate sampled.
const DRAW_EVERY: Duration = Duration::from_millis(100);
/// How far back the rate looks.
const RATE_OVER: Duration = Duration::from_secs(10);

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Things with a plural: "pages", "tokens".
    Count(&'static str),
    /// Bytes, shown as kB, MB, GB.
    Bytes,
}

/// Makes one [`Task`] after another, all shown in the same way.
#[derive(Clone)]
pub struct Progress {
    shown: Shown,
}

#[derive(Clone)]
enum Shown {
    Bars,
    Lines(Arc<Mutex<dyn Write + Send>>),
    Nothing,
}

impl std::fmt::Debug for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.shown {
            Shown::Bars => "Progress(bars)",
            Shown::Lines(_) => "Progress(lines)",
            Shown::Nothing => "Progress(nothing)",
        })
    }
}

impl Progress {
    /// On stderr: bars if it is a terminal, lines otherwise.
    #[must_use]
    pub fn stderr() -> Self {
        if io::stderr().is_terminal() { Self { shown: Shown::Bars } } else { Self::lines(io::stderr()) }
    }

    /// Plain lines into any writer.
    pub fn lines(writer: impl Write + Send + 'static) -> Self {
        Self { shown: Shown::Lines(Arc::new(Mutex::new(writer))) }
    }

    /// Nothing is shown.
    #[must_use]
    pub fn silent() -> Self {
        Self { shown: Shown::Nothing }
    }

    /// Starts a task of `total` units; without a total there is no bar and no time left.
    #[must_use]
    pub fn task(&self, name: &str, total: Option<u64>, unit: Unit) -> Task {
        let bar = matches!(self.shown, Shown::Bars).then(|| {
            let template =
                if total.is_some() { "{prefix} [{bar:24}] {msg}" } else { "{prefix} {spinner} {msg}" };
            let style = ProgressStyle::with_template(template).expect("the template is a constant");
            let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr());
            bar.set_style(style.progress_chars("=> "));
            bar.set_prefix(format!("{name:<10}"));
            bar
        });
        let now = Instant::now();
        let state = State {
            done: 0,
            before: 0,
            total,
            message: String::new(),
            samples: VecDeque::from([(now, 0)]),
            last_shown: now,
        };
        let task = Task {
            name: name.to_owned(),
            unit,
            started: now,
            shown: self.shown.clone(),
            bar,
            state: state.into(),
        };
        task.change(|_| {});
        task
    }
}

/// One piece of work on its way. Shared between threads as it is.
#[derive(Debug)]
pub struct Task {
    name: String,
    unit: Unit,
    started: Instant,
    shown: Shown,
    bar: Option<ProgressBar>,
    state: Mutex<State>,
}

impl std::fmt::Debug for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Shown")
    }
}

#[derive(Debug)]
struct State {
    done: u64,
    /// What an earlier run had done.
    before: u64,
    total: Option<u64>,
    message: String,
    /// When how much was done; the oldest is at most [`RATE_OVER`] old.
    samples: VecDeque<(Instant, u64)>,
    last_shown: Instant,
}

impl Task {
    /// Says that `n` more are done.
    pub fn inc(&self, n: u64) {
        self.change(|state| state.done += n);
    }

    /// Says how many are done altogether.
    pub fn set(&self, done: u64) {
        self.change(|state| state.done = done);
    }

    /// Says that `done` were done in an earlier run: they count, but not for the rate.
    pub fn resume_from(&self, done: u64) {
        self.change(|state| {
            state.done = done;
            state.before = done;
            state.samples = VecDeque::from([(Instant::now(), done)]);
        });
    }

    /// Says how many there are, once that is known.
    pub fn set_total(&self, total: u64) {
        if let Some(bar) = &self.bar {
            bar.set_length(total);
        }
        self.change(|state| state.total = Some(total));
    }

    /// Shows something more at the end of the line, as `loss 4.213`.
    pub fn message(&self, message: impl Into<String>) {
        self.change(|state| state.message = message.into());
    }

    /// Ends the task with a last line: how much, how fast, in what time.
    pub fn finish(self) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let seconds = self.started.elapsed().as_secs_f64();
        let rate = state.done.saturating_sub(state.before) as f64 / seconds.max(1e-3);
        let mut line = describe(state.done, None, self.unit, Some(rate), "");
        line += &format!(" in {}", duration(seconds));
        if !state.message.is_empty() {
            line += &format!(", {}", state.message);
        }
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
            let _ = writeln!(io::stderr().lock(), "{:<10} {line}", self.name);
        }
        self.write_line(&line);
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        if matches!(self.shown, Shown::Nothing) {
            return;
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut state);
        let now = Instant::now();
        if state.samples.back().is_none_or(|sample| now - sample.0 >= DRAW_EVERY) {
            let done = state.done;
            state.samples.push_back((now, done));
            // The oldest one stays until its successor is old enough to stand for it.
            while state.samples.len() > 2 && now - state.samples[1].0 >= RATE_OVER {
                state.samples.pop_front();
            }
        }
        let every = if self.bar.is_some() { DRAW_EVERY } else { PLAIN_EVERY };
        if now - state.last_shown < every {
            return;
        }
        state.last_shown = now;
        let (then, before) = state.samples[0];
        let seconds = (now - then).as_secs_f64();
        let rate = (seconds > 0.2).then(|| state.done.saturating_sub(before) as f64 / seconds);
        let line = describe(state.done, state.total, self.unit, rate, &state.message);
        if let Some(bar) = &self.bar {
            bar.set_position(state.done);
            bar.set_message(line);
            bar.tick();
        } else {
            self.write_line(&line);
        }
    }

    fn write_line(&self, line: &str) {
        if let Shown::Lines(writer) = &self.shown {
            let mut writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
            // Progress that cannot be shown is not worth failing for.
            let _ = writeln!(writer, "{:<10} {line}", self.name);
        }
    }
}

/// One line: how much of how much, how fast, the time left, and `message`.
fn describe(done: u64, total: Option<u64>, unit: Unit, rate: Option<f64>, message: &str) -> String {
    let amount = |x: f64| match unit {
        Unit::Count(_) => short(x),
        Unit::Bytes => bytes(x),
    };
    let name = match unit {
        Unit::Count(name) => format!(" {name}"),
        Unit::Bytes => String::new(),
    };
    let mut line = match total {
        Some(total) => format!("{} of {}{name}", amount(done as f64), amount(total as f64)),
        None => format!("{}{name}", amount(done as f64)),
    };
    if let Some(rate) = rate.filter(|rate| *rate > 0.0) {
        line += &format!(", {}/s", amount(rate));
        if let Some(left) = total.and_then(|total| total.checked_sub(done)) {
            line += &format!(", {} left", duration(left as f64 / rate));
        }
    }
    if !message.is_empty() {
        line += &format!(", {message}");
    }
    line
}

/// A number of bytes as people say it: `950 B`, `9.8 kB`, `1.23 MB`.
#[must_use]
pub fn bytes(x: f64) -> String {
    let number = short(x);
    if number.contains(' ') { number + "B" } else { number + " B" }
}

/// A number as people say it: `950`, `9.8 k`, `1.23 M`.
#[must_use]
pub fn short(x: f64) -> String {
    let (scaled, suffix) = match x.abs() {
        x if x < 999.5 => (x, ""),
        x if x < 999.5e3 => (x / 1e3, "k"),
        x if x < 999.5e6 => (x / 1e6, "M"),
        x if x < 999.5e9 => (x / 1e9, "G"),
        _ => (x / 1e12, "T"),
    };
    let scaled = scaled.copysign(x);
    let digits = match scaled.abs() {
        x if x >= 99.95 => 0,
        x if x >= 9.995 => 1,
        _ => 2,
    };
    let text = if scaled.fract() == 0.0 && suffix.is_empty() {
        format!("{scaled:.0}")
    } else {
        format!("{scaled:.digits$}")
    };
    if suffix.is_empty() { text } else { format!("{text} {suffix}") }
}

/// A time as people say it: `0.4 s`, `12 s`, `4 min 05 s`, `2 h 03 min`.
#[must_use]
pub fn duration(seconds: f64) -> String {
    if !seconds.is_finite() {
        return "unknown time".into();
    }
    let whole = seconds.max(0.0).round() as u64;
    match whole {
        0..10 if seconds < 9.95 => format!("{:.1} s", seconds.max(0.0)),
        0..60 => format!("{whole} s"),
        60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        3600..172_800 => format!("{} h {:02} min", whole / 3600, whole / 60 % 60),
        _ => format!("{} days {} h", whole / 86_400, whole / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_times_read_well() {
        for (x, text) in [
            (0.0, "0"),
            (3.0, "3"),
            (3.456, "3.46"),
            (999.0, "999"),
            (999.9, "1.00 k"),
            (9_812.0, "9.81 k"),
            (99_999.0, "100 k"),
            (1_234_567.0, "1.23 M"),
            (2.5e9, "2.50 G"),
        ] {
            assert_eq!(short(x), text);
        }
        for (x, text) in [
            (0.44, "0.4 s"),
            (9.96, "10 s"),
            (59.4, "59 s"),
            (59.9, "1 min 00 s"),
            (81.0, "1 min 21 s"),
            (7400.0, "2 h 03 min"),
            (1e6, "11 days 13 h"),
            (f64::INFINITY, "unknown time"),
        ] {
            assert_eq!(duration(x), text);
        }
    }

    #[test]
    fn a_line_has_amount_rate_time_left_and_message() {
        let line = describe(500_000, Some(2_000_000), Unit::Count("tokens"), Some(10_000.0), "loss 4.2");
        assert_eq!(line, "500 k of 2.00 M tokens, 10.0 k/s, 2 min 30 s left, loss 4.2");
        assert_eq!(describe(5_000_000, None, Unit::Bytes, Some(1e6), ""), "5.00 MB, 1.00 MB/s");
        assert_eq!(describe(7, Some(9), Unit::Count("pages"), None, ""), "7 of 9 pages");
        assert_eq!(describe(9, Some(7), Unit::Count("pages"), Some(1.0), ""), "9 of 7 pages, 1/s");
    }

    #[test]
    fn lines_go_to_the_writer_and_silence_is_silent() {
        #[derive(Clone, Default)]
        struct Sink(Arc<Mutex<Vec<u8>>>);
        impl Write for Sink {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.lock().unwrap().extend(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let sink = Sink::default();
        let task = Progress::lines(sink.clone()).task("extract", Some(100), Unit::Count("pages"));
        task.resume_from(40);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..15).for_each(|_| task.inc(1)));
            }
        });
        task.message("3 broken");
        task.finish();
        let text = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
        assert!(text.starts_with("extract    100 pages, ") && text.ends_with(", 3 broken\n"), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
        Progress::silent().task("x", None, Unit::Bytes).finish();
    }
}
