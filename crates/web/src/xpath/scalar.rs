//! Plans to booleans, numbers and strings.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use html5ever::local_name;

use super::axes::attribute;
use super::error::XPathError;
use super::evaluate::{Context, Evaluation};
use super::lexer::is_space;
use super::plan::{Arithmetic, Bool, Comparison, Nodes, Number, Separators, Text};
use super::value::{number_to_text, round, text_to_number};

impl<'a> Evaluation<'a> {
    pub(super) fn bool(&mut self, bool: &'a Bool, context: Context) -> Result<bool, XPathError> {
        Ok(match bool {
            Bool::Constant(value) => *value,
            Bool::Or(parts) => {
                for part in parts {
                    if self.bool(part, context)? {
                        return Ok(true);
                    }
                }
                false
            }
            Bool::And(parts) => {
                for part in parts {
                    if !self.bool(part, context)? {
                        return Ok(false);
                    }
                }
                true
            }
            Bool::Not(bool) => !self.bool(bool, context)?,
            Bool::Exists(nodes) => self.any(nodes, context, |_, _| Ok(true))?,
            Bool::HasAttribute(name) => attribute(self.document, context.node, name).is_some(),
            Bool::AttributeEquals(name, value) => {
                attribute(self.document, context.node, name).is_some_and(|found| found == value)
            }
            Bool::OfNumber(number) => {
                let number = self.number(number, context)?;
                number != 0.0 && !number.is_nan()
            }
            Bool::OfText(Text::NormalizeSpace(text)) => {
                let text = self.text(text, context)?;
                !text.trim_start_matches(is_space).is_empty()
            }
            Bool::OfText(text) => !self.text(text, context)?.is_empty(),
            Bool::Numbers(comparison, left, right) => {
                comparison.holds(self.number(left, context)?, self.number(right, context)?)
            }
            Bool::Texts(left, right) => self.text(left, context)? == self.text(right, context)?,
            Bool::Bools(left, right) => self.bool(left, context)? == self.bool(right, context)?,
            Bool::AnyNumber(comparison, nodes, number) => {
                let number = self.number(number, context)?;
                self.any(nodes, context, |_, text| Ok(comparison.holds(text_to_number(text), number)))?
            }
            Bool::AnyText(equal, nodes, text) => {
                let text = self.text(text, context)?;
                self.any(nodes, context, |_, found| Ok((found == text) == *equal))?
            }
            Bool::AnyPair(comparison, left, right) => self.any_pair(*comparison, left, right, context)?,
            Bool::Contains(text, part) => {
                let (text, part) = (self.text(text, context)?, self.text(part, context)?);
                memchr::memmem::find(text.as_bytes(), part.as_bytes()).is_some()
            }
            Bool::Finds(text, part) => part.find(self.text(text, context)?.as_bytes()).is_some(),
            Bool::StartsWith(text, start) => {
                let text = self.text(text, context)?;
                text.starts_with(&*self.text(start, context)?)
            }
            Bool::HasToken { text, token, separators } => {
                let text = self.text(text, context)?;
                let length = token.needle().len();
                let is_edge = |byte: Option<&u8>| match separators {
                    Separators::Blank => byte.is_none_or(|&byte| byte == b' '),
                    Separators::AnySpace => byte.is_none_or(|&byte| is_space(byte.into())),
                };
                let bytes = text.as_bytes();
                let is_whole = |start: usize| {
                    is_edge(start.checked_sub(1).map(|before| &bytes[before]))
                        && is_edge(bytes.get(start + length))
                };
                token.find_iter(bytes).any(is_whole)
            }
            Bool::Lang(wanted) => {
                let wanted = self.text(wanted, context)?;
                self.lang(context, &wanted)
            }
        })
    }

    /// Whether `test` holds for the string-value of any node.
    fn any(
        &mut self,
        nodes: &'a Nodes,
        context: Context,
        test: impl Fn(&mut Self, &'a str) -> Result<bool, XPathError>,
    ) -> Result<bool, XPathError> {
        let mut found = false;
        self.each(nodes, context, &mut |evaluation, node| {
            let document = evaluation.document;
            found = test(evaluation, node.text(document))?;
            Ok(!found)
        })?;
        Ok(found)
    }

    fn any_pair(
        &mut self,
        comparison: Comparison,
        left: &'a Nodes,
        right: &'a Nodes,
        context: Context,
    ) -> Result<bool, XPathError> {
        let lefts = self.texts(left, context)?;
        if comparison == Comparison::Equal {
            return match lefts.as_slice() {
                [] => Ok(false),
                [left] => self.any(right, context, |_, right| Ok(right == *left)),
                _ => {
                    let lefts: HashSet<&str> = lefts.into_iter().collect();
                    self.any(right, context, |evaluation, right| {
                        evaluation.spend(right.len() / 16)?;
                        Ok(lefts.contains(right))
                    })
                }
            };
        }
        let rights = self.texts(right, context)?;
        Ok(match comparison {
            // All equal only if every one of both sides equals the first.
            Comparison::NotEqual => match (lefts.first(), rights.first()) {
                (Some(first), Some(_)) => lefts.iter().chain(&rights).any(|text| text != first),
                _ => false,
            },
            // One extreme of each side decides; NaN never compares, and `min` and `max` pass it over.
            _ => {
                let is_less = matches!(comparison, Comparison::Less | Comparison::LessEqual);
                let numbers = |texts: Vec<&str>| texts.into_iter().map(text_to_number).collect::<Vec<f64>>();
                let least = |numbers: Vec<f64>| numbers.into_iter().fold(f64::NAN, f64::min);
                let largest = |numbers: Vec<f64>| numbers.into_iter().fold(f64::NAN, f64::max);
                let (lefts, rights) = (numbers(lefts), numbers(rights));
                match is_less {
                    true => comparison.holds(least(lefts), largest(rights)),
                    false => comparison.holds(largest(lefts), least(rights)),
                }
            }
        })
    }

    fn texts(&mut self, nodes: &'a Nodes, context: Context) -> Result<Vec<&'a str>, XPathError> {
        let found = self.collect(nodes, context, usize::MAX)?;
        let texts: Vec<&str> = found.iter().map(|node| node.text(self.document)).collect();
        self.put_back(found);
        self.spend(texts.iter().map(|text| text.len() / 16).sum())?;
        Ok(texts)
    }

    pub(super) fn number(&mut self, number: &'a Number, context: Context) -> Result<f64, XPathError> {
        Ok(match number {
            Number::Constant(number) => *number,
            Number::Position => context.position as f64,
            Number::Last => context.size as f64,
            Number::Count(nodes) => {
                let found = self.collect(nodes, context, usize::MAX)?;
                let n_found = found.len();
                self.put_back(found);
                n_found as f64
            }
            Number::Sum(nodes) => {
                // Not `sum`, which makes negative zero of nothing.
                self.texts(nodes, context)?
                    .into_iter()
                    .map(text_to_number)
                    .fold(0.0, |sum, number| sum + number)
            }
            Number::Length(text) => {
                let text = self.text(text, context)?;
                self.spend(text.len() / 16)?;
                text.chars().count() as f64
            }
            Number::Arithmetic(arithmetic, left, right) => {
                let (left, right) = (self.number(left, context)?, self.number(right, context)?);
                match arithmetic {
                    Arithmetic::Add => left + right,
                    Arithmetic::Subtract => left - right,
                    Arithmetic::Multiply => left * right,
                    Arithmetic::Divide => left / right,
                    Arithmetic::Remainder => left % right,
                }
            }
            Number::Negate(number) => -self.number(number, context)?,
            Number::Floor(number) => self.number(number, context)?.floor(),
            Number::Ceiling(number) => self.number(number, context)?.ceil(),
            Number::Round(number) => round(self.number(number, context)?),
            Number::OfText(text) => text_to_number(&self.text(text, context)?),
            Number::OfBool(bool) => f64::from(u8::from(self.bool(bool, context)?)),
        })
    }

    /// Borrowed from the page or the plan wherever the string stands there as it is.
    pub(super) fn text(&mut self, text: &'a Text, context: Context) -> Result<Cow<'a, str>, XPathError> {
        let text = match text {
            Text::Literal(text) => Cow::Borrowed(text.as_str()),
            Text::Attribute(name) => {
                Cow::Borrowed(attribute(self.document, context.node, name).unwrap_or_default())
            }
            Text::Context => Cow::Borrowed(context.node.text(self.document)),
            Text::OfFirst(nodes) => {
                let first = self.first(nodes, context)?;
                Cow::Borrowed(first.map_or("", |node| node.text(self.document)))
            }
            Text::NameOfFirst(nodes) => {
                let first = self.first(nodes, context)?;
                Cow::Borrowed(first.and_then(|node| node.name(self.document)).unwrap_or_default())
            }
            Text::OfNumber(number) => Cow::Owned(number_to_text(self.number(number, context)?)),
            Text::OfBool(bool) => Cow::Borrowed(if self.bool(bool, context)? { "true" } else { "false" }),
            Text::Concat(parts) => {
                let mut all = String::new();
                for part in parts {
                    let part = self.text(part, context)?;
                    // A byte a step: what grows a string by itself must not fill the memory.
                    self.spend(part.len())?;
                    all.push_str(&part);
                }
                Cow::Owned(all)
            }
            Text::Before(text, part) => {
                let (text, part) = (self.text(text, context)?, self.text(part, context)?);
                let end = text.find(&*part).unwrap_or(0);
                slice(text, 0, end)
            }
            Text::After(text, part) => {
                let (text, part) = (self.text(text, context)?, self.text(part, context)?);
                let length = text.len();
                let start = text.find(&*part).map_or(length, |start| start + part.len());
                slice(text, start, length)
            }
            Text::Substring(text, from, length) => {
                let text = self.text(text, context)?;
                let from = round(self.number(from, context)?);
                let end = match length {
                    Some(length) => from + round(self.number(length, context)?),
                    None => f64::INFINITY,
                };
                self.spend(text.len() / 16)?;
                substring(text, from, end)
            }
            Text::NormalizeSpace(text) => {
                let text = self.text(text, context)?;
                self.spend(text.len() / 16)?;
                normalize_space(text)
            }
            Text::Translate(text, from, to) => {
                let (text, from) = (self.text(text, context)?, self.text(from, context)?);
                let to = self.text(to, context)?;
                self.spend((text.len() + from.len()) / 4)?;
                Cow::Owned(translate(&text, &from, &to))
            }
        };
        self.spend(text.len() / 256)?;
        Ok(text)
    }

    /// Whether the language of the context node is `wanted` or a variety of it, by the nearest `xml:lang`.
    fn lang(&self, context: Context, wanted: &str) -> bool {
        let id = context.node.id();
        let mut around = std::iter::once(id).chain(self.document.ancestors(id));
        let declared =
            around.find_map(|node| attribute(self.document, node.into(), &local_name!("xml:lang")));
        declared.is_some_and(|declared| {
            let (start, rest) = declared.as_bytes().split_at(wanted.len().min(declared.len()));
            start.eq_ignore_ascii_case(wanted.as_bytes()) && matches!(rest, [] | [b'-', ..])
        })
    }
}

fn slice(text: Cow<'_, str>, start: usize, end: usize) -> Cow<'_, str> {
    match text {
        Cow::Borrowed(text) => Cow::Borrowed(&text[start..end]),
        Cow::Owned(text) => Cow::Owned(text[start..end].to_owned()),
    }
}

/// The characters whose position, counted from 1, is at least `from` and less than `end`.
fn substring(text: Cow<'_, str>, from: f64, end: f64) -> Cow<'_, str> {
    let offset = |position: f64| {
        // NaN and anything up to 1 is the start; what no text reaches is its end.
        let n_before = (position - 1.0).max(0.0) as usize;
        text.char_indices().nth(n_before).map_or(text.len(), |(offset, _)| offset)
    };
    if from.is_nan() || end.is_nan() || end <= from {
        return Cow::Borrowed("");
    }
    let (start, end) = (offset(from), offset(end));
    slice(text, start, end)
}

/// Without white space at the ends, and with single blanks within.
fn normalize_space(text: Cow<'_, str>) -> Cow<'_, str> {
    let mut before = b' ';
    let is_normal = text.bytes().all(|byte| {
        let is_blank_too_many = byte == b' ' && before == b' ';
        before = byte;
        !is_blank_too_many && !matches!(byte, b'\t' | b'\n' | b'\r')
    });
    let is_normal = text.is_empty() || (is_normal && before != b' ');
    if is_normal {
        return text;
    }
    let mut normal = String::with_capacity(text.len());
    for word in text.split(is_space).filter(|word| !word.is_empty()) {
        if !normal.is_empty() {
            normal.push(' ');
        }
        normal.push_str(word);
    }
    Cow::Owned(normal)
}

/// Each character of `from` becomes the one at its place in `to`, or nothing where `to` is shorter.
fn translate(text: &str, from: &str, to: &str) -> String {
    let mut ascii: [Option<char>; 128] = std::array::from_fn(|code| Some(code as u8 as char));
    let mut is_mapped = [false; 128];
    let mut others = HashMap::new();
    let mut to = to.chars();
    for c in from.chars() {
        let into = to.next();
        // The first of several says what becomes of it.
        match is_mapped.get_mut(c as usize) {
            Some(is_mapped) => {
                if !std::mem::replace(is_mapped, true) {
                    ascii[c as usize] = into;
                }
            }
            None => {
                others.entry(c).or_insert(into);
            }
        }
    }
    let translated = |c: char| match ascii.get(c as usize) {
        Some(into) => *into,
        None => others.get(&c).copied().unwrap_or(Some(c)),
    };
    text.chars().filter_map(translated).collect()
}
