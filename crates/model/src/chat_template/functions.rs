//! What templates can call beside the engine's own: the functions and the filter that `transformers` adds or replaces.

use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::value::Kwargs;
use minijinja::{Environment, Error, ErrorKind, Value};
use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter, PrettyFormatter};

pub(super) fn add(environment: &mut Environment<'_>) {
    environment.add_function("raise_exception", |message: &Value| {
        let message = message.as_str().unwrap_or("no reason is given");
        Err::<Value, _>(Error::new(ErrorKind::InvalidOperation, message.to_owned()))
    });
    environment.add_function("strftime_now", |format: &str| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        strftime(format, now.as_secs())
    });
    environment.add_filter("tojson", to_json);
    // The engine takes none for an empty list, and only lists for sequences.
    environment.add_test("iterable", |value: &Value| !value.is_none() && value.try_iter().is_ok());
    environment.add_test("sequence", |value: &Value| {
        !value.is_none() && value.try_iter().is_ok() && value.len().is_some()
    });
}

/// JSON as Python's `json.dumps` writes it with `ensure_ascii=False`: a space after each comma and colon; with `indent`,
/// line by line.
fn to_json(value: &Value, options: Kwargs) -> Result<String, Error> {
    /// Deepest indentation of one level.
    const MAX_INDENT: usize = 16;
    let indent: Option<Value> = options.get("indent")?;
    // Both are as they are here already, or change nothing that templates rely on.
    let _: (Option<bool>, Option<bool>) = (options.get("ensure_ascii")?, options.get("sort_keys")?);
    options.assert_all_used()?;
    let mut out = Vec::new();
    let written = match indent.filter(|indent| !indent.is_none()) {
        None => {
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, Spaced(CompactFormatter)))
        }
        Some(indent) => {
            let by = indent.as_usize().filter(|by| *by <= MAX_INDENT);
            let wrong =
                || Error::new(ErrorKind::InvalidOperation, format!("an indent is no more than {MAX_INDENT}"));
            let spaces = vec![b' '; by.ok_or_else(wrong)?];
            let pretty = PrettyFormatter::with_indent(&spaces);
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, pretty))
        }
    };
    written.map_err(|error| Error::new(ErrorKind::BadSerialization, error.to_string()))?;
    String::from_utf8(out).map_err(|error| Error::new(ErrorKind::BadSerialization, error.to_string()))
}

/// Spaces where Python puts them.
struct Spaced(CompactFormatter);

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + io::Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        out.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        out.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(b": ")
    }
}

/// The date and time of `seconds` since 1970, in UTC, with the codes of C's `strftime` that templates use.
fn strftime(format: &str, seconds: u64) -> Result<String, Error> {
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    const DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];
    let days = seconds / 86_400;
    let (year, month, day) = date(days);
    let (month_name, day_name) = (MONTHS[month - 1], DAYS[(days % 7) as usize]);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let mut text = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            text.push(c);
            continue;
        }
        text += &match chars.next() {
            Some('Y') => year.to_string(),
            Some('y') => format!("{:02}", year % 100),
            Some('m') => format!("{month:02}"),
            Some('B') => month_name.into(),
            Some('b') => month_name[..3].into(),
            Some('d') => format!("{day:02}"),
            Some('e') => format!("{day:2}"),
            Some('-') if chars.next() == Some('d') => day.to_string(),
            Some('A') => day_name.into(),
            Some('a') => day_name[..3].into(),
            Some('H') => format!("{hour:02}"),
            Some('M') => format!("{minute:02}"),
            Some('S') => format!("{second:02}"),
            Some('%') => "%".into(),
            _ => {
                return Err(Error::new(
                    ErrorKind::InvalidOperation,
                    format!("`{format}` is no known form of a date"),
                ));
            }
        };
    }
    Ok(text)
}

/// Year, month and day of the month, each from 1, of a day since 1970 in the Gregorian calendar.
fn date(days: u64) -> (u64, usize, u64) {
    let is_leap =
        |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let (mut year, mut left) = (1970, days);
    while left >= 365 + u64::from(is_leap(year)) {
        left -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let mut month = 1;
    for len in [31, 28 + u64::from(is_leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if left < len {
            break;
        }
        left -= len;
        month += 1;
    }
    (year, month, left + 1)
}

/// `{% generation %}` marks what a model is trained to write, and changes nothing in the text: a condition that is true.
pub(super) fn without_generation_tags(source: &str) -> String {
    let mut text = String::with_capacity(source.len());
    let mut rest = source;
    while let Some((before, after)) = rest.split_once("{%") {
        text += before;
        text += "{%";
        let dash = usize::from(after.starts_with(['-', '+']));
        text += &after[..dash];
        let word = after[dash..].trim_start();
        rest = &after[dash..];
        for (tag, instead) in [("generation", " if true "), ("endgeneration", " endif ")] {
            let end = word.strip_prefix(tag).map(str::trim_start);
            if let Some(end) = end.filter(|end| end.starts_with(['-', '+', '%'])) {
                text += instead;
                rest = end;
            }
        }
    }
    text + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_have_the_form_that_is_asked_for() {
        // 29 February 2024, 13:05:09 UTC, a Thursday.
        let at = 1_709_211_909;
        assert_eq!(strftime("%d %b %Y", at).unwrap(), "29 Feb 2024");
        assert_eq!(strftime("%Y-%m-%d %H:%M:%S", at).unwrap(), "2024-02-29 13:05:09");
        assert_eq!(strftime("%A, %a, %B %-d, %e %y %%", at).unwrap(), "Thursday, Thu, February 29, 29 24 %");
        assert_eq!(strftime("%Y-%m-%d", 0).unwrap(), "1970-01-01");
        assert_eq!(strftime("%A %Y-%m-%d", 951_782_399).unwrap(), "Monday 2000-02-28");
        assert_eq!(strftime("%Y-%m-%d", 4_107_542_400).unwrap(), "2100-03-01");
        assert!(strftime("%Q", at).is_err() && strftime("%", at).is_err());
    }

    #[test]
    fn tags_of_generation_become_conditions() {
        let source = "a{%- generation -%}b{% endgeneration %}{% if generation %}{% generation_x %}{%";
        let expected = "a{%- if true -%}b{% endif %}{% if generation %}{% generation_x %}{%";
        assert_eq!(without_generation_tags(source), expected);
    }
}
