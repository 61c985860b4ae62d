//! Lenient reading of the vendor's JSON: unknown fields ignored, numbers as text or number, and every refusal names its field.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::callback::{CallbackError, Problem};

/// A field that may be missing or null, still unread.
pub(crate) type Raw<'a> = Option<&'a RawValue>;

/// Reads an object. Arrays are refused, though serde would fill a struct from one.
pub(crate) fn object<'a, T: Deserialize<'a>>(field: &'static str, json: &'a str) -> Result<T, CallbackError> {
    let malformed = |problem| CallbackError::Malformed { field, problem };
    if json.trim_ascii_start().starts_with('{') {
        serde_json::from_str(json).map_err(|_| malformed(Problem::NotJson))
    } else if json.trim_ascii_start().starts_with(['[', '"']) {
        Err(malformed(Problem::WrongType))
    } else {
        Err(malformed(Problem::NotJson))
    }
}

pub(crate) fn required<'a>(field: &'static str, raw: Raw<'a>) -> Result<&'a RawValue, CallbackError> {
    raw.ok_or(CallbackError::Malformed { field, problem: Problem::Missing })
}

pub(crate) fn required_object<'a, T: Deserialize<'a>>(field: &'static str, raw: Raw<'a>) -> Result<T, CallbackError> {
    let raw = required(field, raw)?;
    if raw.get().starts_with('{') {
        object(field, raw.get())
    } else {
        Err(CallbackError::Malformed { field, problem: Problem::WrongType })
    }
}

pub(crate) fn optional<'a, T: Deserialize<'a>>(field: &'static str, raw: Raw<'a>) -> Result<Option<T>, CallbackError> {
    raw.map(|raw| {
        serde_json::from_str(raw.get()).map_err(|_| CallbackError::Malformed { field, problem: Problem::WrongType })
    })
    .transpose()
}

/// Text, or a number as its digits. The vendor writes `""` for what it does not have, so empty counts as missing.
///
/// Borrowed unless it holds escapes: a body is mostly short texts, and its ciphertext is one long one.
pub(crate) fn borrowed<'a>(field: &'static str, raw: Raw<'a>) -> Result<Option<Cow<'a, str>>, CallbackError> {
    let Some(json) = raw.map(RawValue::get) else { return Ok(None) };
    let text = match json.strip_prefix('"').and_then(|json| json.strip_suffix('"')) {
        Some(text) if !text.contains('\\') => Cow::Borrowed(text),
        None if json.starts_with(|first: char| first == '-' || first.is_ascii_digit()) => Cow::Borrowed(json),
        _ => serde_json::from_str(json)
            .map(Cow::Owned)
            .map_err(|_| CallbackError::Malformed { field, problem: Problem::WrongType })?,
    };
    Ok(Some(text).filter(|text| !text.is_empty()))
}

/// [`borrowed`], to keep.
pub(crate) fn text(field: &'static str, raw: Raw<'_>) -> Result<Option<String>, CallbackError> {
    Ok(borrowed(field, raw)?.map(Cow::into_owned))
}

pub(crate) fn required_text(field: &'static str, raw: Raw<'_>) -> Result<String, CallbackError> {
    text(field, raw)?.ok_or(CallbackError::Malformed { field, problem: Problem::Missing })
}

/// Milliseconds since 1970 from seconds (whole or with a fraction), milliseconds or microseconds: the vendor sends all
/// three in the same field, so the number of digits tells them apart. Anything else is `None`.
pub(crate) fn milliseconds(raw: Raw<'_>) -> Option<i64> {
    let digits = raw?.get().trim_matches('"');
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if !whole.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: i64 = whole.parse().ok()?;
    match whole.len() {
        10 => {
            let thousandths: i64 = format!("{fraction:0<3}").get(..3)?.parse().ok()?;
            Some(number * 1000 + thousandths)
        }
        13 => Some(number),
        16 => Some(number / 1000),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_time_becomes_milliseconds() {
        for (json, expected) in [
            (r#""1608725989000""#, Some(1_608_725_989_000)),
            ("1608725989000", Some(1_608_725_989_000)),
            (r#""1603977298000000""#, Some(1_603_977_298_000)),
            ("1603977298", Some(1_603_977_298_000)),
            (r#""1502199207.7171419""#, Some(1_502_199_207_717)),
            (r#""1502199207.7""#, Some(1_502_199_207_700)),
            (r#""""#, None),
            (r#""-1502199207""#, None),
            (r#""now""#, None),
            (r#""16089999999999999999999""#, None),
            ("{}", None),
        ] {
            let raw: Box<RawValue> = serde_json::from_str(json).unwrap();
            assert_eq!(milliseconds(Some(&raw)), expected, "{json}");
        }
        assert_eq!(milliseconds(None), None);
    }
}
