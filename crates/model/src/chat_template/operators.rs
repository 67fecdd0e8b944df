//! The operators of templates, as Python has them, for values that are walked first.

use indexmap::IndexMap;
use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, State, Value};

use super::guard::walk;

/// The value of `a operator b`; `[]` is `a[b]`.
pub(super) fn binary(state: &State<'_, '_>, operator: &str, a: &Value, b: &Value) -> Result<Value, Error> {
    match operator {
        "+" => return add(state, a, b),
        "*" => return multiply(state, a, b),
        "[]" => return item(state, a, b),
        _ => {}
    }
    // Nothing is walked to compare with what has no parts, such as an object with none.
    let has_parts = |value: &Value| value.as_object().is_some() || value.as_str().is_some();
    if operator == "~" || has_parts(a) && has_parts(b) && !(operator == "in" && is_key(a)) {
        walk(state, a)?;
        walk(state, b)?;
    }
    Ok(match operator {
        "~" => format!("{a}{b}").into(),
        "==" => (a == b).into(),
        "!=" => (a != b).into(),
        "<" => (a < b).into(),
        "<=" => (a <= b).into(),
        ">" => (a > b).into(),
        ">=" => (a >= b).into(),
        "in" => return contains(state, b, a),
        other => return Err(failed(format!("the operator `{other}` is unknown"))),
    })
}

fn failed(reason: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, reason)
}

fn is_list(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable)
}

/// A whole number; true and false count as 1 and 0.
fn integer(value: &Value) -> Option<i128> {
    let counts = value.is_integer() || value.kind() == ValueKind::Bool;
    counts.then(|| i128::try_from(value.clone()).ok()).flatten()
}

fn float(value: &Value) -> Option<f64> {
    let counts = value.is_number() || value.kind() == ValueKind::Bool;
    counts.then(|| f64::try_from(value.clone()).ok()).flatten()
}

/// A number of 64 bits if it fits.
fn number(value: Option<i128>) -> Option<Value> {
    value.map(|value| i64::try_from(value).map_or_else(|_| value.into(), Value::from))
}

fn add(state: &State<'_, '_>, a: &Value, b: &Value) -> Result<Value, Error> {
    if let (Some(a), Some(b)) = (a.as_str(), b.as_str()) {
        return Ok([a, b].concat().into());
    }
    if is_list(a) && is_list(b) {
        return Ok([items(state, a)?, items(state, b)?].concat().into());
    }
    let sum = match (integer(a), integer(b)) {
        (Some(a), Some(b)) => number(a.checked_add(b)),
        _ => float(a).zip(float(b)).map(|(a, b)| (a + b).into()),
    };
    sum.ok_or_else(|| failed(format!("a {} and a {} cannot be added", a.kind(), b.kind())))
}

fn multiply(state: &State<'_, '_>, a: &Value, b: &Value) -> Result<Value, Error> {
    let repeated = a.as_str().zip(integer(b)).or(b.as_str().zip(integer(a)));
    if let Some((text, times)) = repeated {
        let times = usize::try_from(times.max(0)).unwrap_or(usize::MAX);
        state.consume_fuel((text.len().saturating_mul(times) / 64) as u64)?;
        return Ok(text.repeat(times).into());
    }
    let product = match (integer(a), integer(b)) {
        (Some(a), Some(b)) => number(a.checked_mul(b)),
        _ => float(a).zip(float(b)).map(|(a, b)| (a * b).into()),
    };
    product.ok_or_else(|| failed(format!("a {} and a {} cannot be multiplied", a.kind(), b.kind())))
}

fn contains(state: &State<'_, '_>, container: &Value, wanted: &Value) -> Result<Value, Error> {
    if let Some(text) = container.as_str() {
        let Some(wanted) = wanted.as_str() else {
            return Err(failed(format!("a {} cannot be in a text", wanted.kind())));
        };
        state.consume_fuel((text.len() / 64) as u64)?;
        return Ok(text.contains(wanted).into());
    }
    let found = match (container.kind(), container.as_object()) {
        (ValueKind::Undefined, _) => false,
        (ValueKind::Map, Some(object)) => is_key(wanted) && object.get_value(wanted).is_some(),
        (ValueKind::Seq | ValueKind::Iterable, _) => items(state, container)?.contains(wanted),
        (kind, _) => return Err(failed(format!("nothing can be in a {kind}"))),
    };
    Ok(found.into())
}

/// Whether a value may be a key of an object: looking one up compares it as a whole.
fn is_key(value: &Value) -> bool {
    value.as_object().is_none()
}

fn item(state: &State<'_, '_>, container: &Value, key: &Value) -> Result<Value, Error> {
    if !is_key(key) {
        return Err(failed(format!("a {} is no key", key.kind())));
    }
    if let Some(text) = container.as_str() {
        state.consume_fuel((text.len() / 64) as u64)?;
    }
    if container.kind() == ValueKind::Iterable {
        return Value::from(items(state, container)?).get_item(key);
    }
    container.get_item(key)
}

/// The object of keys and values in turn.
pub(super) fn object(pairs: &[Value]) -> Result<Value, Error> {
    if let Some(key) = pairs.iter().step_by(2).find(|key| !is_key(key)) {
        return Err(failed(format!("a {} is no key", key.kind())));
    }
    let pairs = pairs.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone()));
    Ok(Value::from_object(pairs.collect::<IndexMap<Value, Value>>()))
}

/// The items of a list, paid for.
fn items(state: &State<'_, '_>, list: &Value) -> Result<Vec<Value>, Error> {
    let mut items = Vec::new();
    for item in list.try_iter()? {
        state.consume_fuel(1)?;
        items.push(item);
    }
    Ok(items)
}

/// `value[start:stop:step]`.
pub(super) fn slice(state: &State<'_, '_>, value: &Value, bounds: [&Value; 3]) -> Result<Value, Error> {
    let bound = |value: &Value| match value.is_none() {
        true => Ok(None),
        false => integer(value)
            .map(Some)
            .ok_or_else(|| failed(format!("a {} is no place in a list", value.kind()))),
    };
    let [start, stop, step] = bounds.map(bound);
    let (start, stop, step) = (start?, stop?, step?.unwrap_or(1));
    if step == 0 {
        return Err(failed("a slice cannot step by 0".into()));
    }
    match value.as_str() {
        Some(text) => {
            state.consume_fuel((text.len() / 16) as u64)?;
            let chars: Vec<char> = text.chars().collect();
            Ok(places(chars.len(), start, stop, step).map(|idx| chars[idx]).collect::<String>().into())
        }
        None if is_list(value) || value.is_undefined() || value.is_none() => {
            let items = items(state, value)?;
            Ok(places(items.len(), start, stop, step)
                .map(|idx| items[idx].clone())
                .collect::<Vec<Value>>()
                .into())
        }
        None => Err(failed(format!("a {} cannot be sliced", value.kind()))),
    }
}

/// Where a slice of something of a length stands, with Python's rules for places from the end and beyond it.
fn places(len: usize, start: Option<i128>, stop: Option<i128>, step: i128) -> impl Iterator<Item = usize> {
    let len = len as i128;
    let (first, last) = if step > 0 { (0, len) } else { (-1, len - 1) };
    let place = |at: i128| if at < 0 { at.saturating_add(len) } else { at }.clamp(first, last);
    let (from, to) = if step > 0 { (0, len) } else { (len - 1, -1) };
    let (from, to) = (start.map_or(from, place), stop.map_or(to, place));
    std::iter::successors(Some(from), move |at| at.checked_add(step))
        .take_while(move |at| if step > 0 { *at < to } else { *at > to })
        .map(|at| at as usize)
}
