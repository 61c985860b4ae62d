//! JSON values that waver: what a column takes from each.

use memchr::{memchr, memchr_iter};
use serde::Deserialize;
use serde_json::value::RawValue;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::columns::Row;
use crate::quarantine::{Reason, Refusal};

/// A value by its first character. `RawValue` has proved that it is JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape<'a> {
    Null,
    Bool(bool),
    Number(&'a str),
    /// What is between the quotes, escapes and all.
    Text(&'a str),
    /// An object or an array, as it was written.
    Nested(&'a str),
}

impl<'a> Shape<'a> {
    #[inline]
    pub(crate) fn of(value: &'a RawValue) -> Self {
        let json = value.get();
        match json.as_bytes().first() {
            Some(b'"') => Self::Text(json.get(1..json.len() - 1).unwrap_or_default()),
            Some(b'{' | b'[') => Self::Nested(json),
            Some(b't') => Self::Bool(true),
            Some(b'f') => Self::Bool(false),
            Some(b'n') | None => Self::Null,
            Some(_) => Self::Number(json),
        }
    }

    /// WeChat wraps some texts in an object: `{"string": "text"}`, and `{}` for none. What is wrapped, if this is a wrapper.
    #[inline]
    pub(crate) fn unwrapped(self) -> Self {
        match self {
            Self::Nested(json) if json.starts_with('{') => self.wrapped(json),
            _ => self,
        }
    }

    #[cold]
    fn wrapped(self, json: &'a str) -> Self {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Wrapper<'a> {
            #[serde(borrow)]
            string: Option<&'a RawValue>,
        }
        match serde_json::from_str::<Wrapper<'a>>(json) {
            Ok(Wrapper { string: Some(string) }) => Self::of(string),
            Ok(Wrapper { string: None }) => Self::Null,
            Err(_) => self,
        }
    }

    /// The text as a program would have it, if it is text.
    pub(crate) fn to_text(self) -> Option<String> {
        match self {
            Self::Text(escaped) => {
                let mut text = String::with_capacity(escaped.len());
                unescape(escaped, &mut text);
                Some(text)
            }
            _ => None,
        }
    }
}

/// Appends to the row what a column of text takes: text and what is wrapped as such, numbers and the like as they are written, what is
/// nested as JSON.
pub(crate) fn text(row: &mut Row, value: Option<&RawValue>) {
    match value.map_or(Shape::Null, Shape::of).unwrapped() {
        Shape::Null => row.null(),
        Shape::Text(escaped) => row.text_with(|text| unescape(escaped, text)),
        Shape::Number(json) => row.text(json),
        Shape::Nested(json) => row.text_with(|text| push_json(json, text)),
        Shape::Bool(value) => row.text(if value { "true" } else { "false" }),
    }
}

/// Appends to the row what a column of JSON takes: objects and arrays as they are written; text as text, for it may hold JSON.
pub(crate) fn json(row: &mut Row, value: Option<&RawValue>) {
    match value.map(Shape::of) {
        Some(Shape::Nested(json)) => row.text_with(|text| push_json(json, text)),
        _ => text(row, value),
    }
}

/// What a column of integers takes: integers, however they are written.
pub(crate) fn integer(field: &str, value: Option<&RawValue>) -> Result<Option<i64>, Refusal> {
    let wrong = |what: &str| Refusal::new(Reason::BadField, format!("`{field}` is {what} and not an integer"));
    match value.map_or(Shape::Null, Shape::of).unwrapped() {
        Shape::Null => Ok(None),
        Shape::Bool(value) => Ok(Some(i64::from(value))),
        Shape::Number(number) => whole(number).map(Some).ok_or_else(|| wrong(number)),
        Shape::Text(text) if text.trim().is_empty() => Ok(None),
        Shape::Text(text) => whole(text.trim()).map(Some).ok_or_else(|| wrong("a text")),
        Shape::Nested(_) => Err(wrong("nested")),
    }
}

/// What a column of instants takes: RFC 3339, or seconds, milliseconds or microseconds since 1970. These cannot be mistaken for each other:
/// of the years that are taken, the last second is a smaller number than the first millisecond.
pub(crate) fn instant(value: Option<&RawValue>) -> Option<OffsetDateTime> {
    if let Ok(number) = integer("", value) {
        return instant_of(number?);
    }
    let text = value.map(Shape::of)?.unwrapped().to_text()?;
    OffsetDateTime::parse(text.trim(), &Rfc3339).ok()
}

/// The instant that an integer is, by its size.
pub(crate) fn instant_of(number: i64) -> Option<OffsetDateTime> {
    const SECONDS: std::ops::Range<i64> = 0..100_000_000_000;
    const MILLISECONDS: std::ops::Range<i64> = 100_000_000_000..100_000_000_000_000;
    let in_a_second = match number {
        _ if SECONDS.contains(&number) => 1,
        _ if MILLISECONDS.contains(&number) => 1_000,
        _ => 1_000_000,
    };
    let micros = number.rem_euclid(in_a_second) * (1_000_000 / in_a_second);
    let second = OffsetDateTime::from_unix_timestamp(number.div_euclid(in_a_second)).ok()?;
    second.replace_microsecond(u32::try_from(micros).ok()?).ok()
}

/// The number, if it is whole and fits: `1010`, and also `1010.0` and `1.01e3`.
fn whole(number: &str) -> Option<i64> {
    /// Up to here every integer is a 64-bit float too.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if let Ok(integer) = number.parse() {
        return Some(integer);
    }
    let float: f64 = number.parse().ok().filter(|float: &f64| float.fract() == 0.0 && float.abs() <= EXACT)?;
    #[expect(clippy::cast_possible_truncation, reason = "it is whole and below 2^53")]
    Some(float as i64)
}

/// Appends a JSON text's characters, given what is between its quotes. Half of a surrogate pair, which is what a cut emoji leaves, is U+FFFD.
pub(crate) fn unescape(escaped: &str, text: &mut String) {
    let mut from = 0;
    for at in memchr_iter(b'\\', escaped.as_bytes()) {
        // A backslash that an escape before it took is none.
        if let Some(plain) = escaped.get(from..at) {
            let (character, length) = escape_at(escaped.get(at..).unwrap_or_default());
            text.push_str(plain);
            text.push(character);
            from = at + length;
        }
    }
    text.push_str(escaped.get(from..).unwrap_or_default());
}

/// Appends JSON as it is written, but for halves of surrogate pairs: many parsers refuse a document that holds one.
pub(crate) fn push_json(json: &str, text: &mut String) {
    let mut rest = json;
    while let Some(at) = memchr(b'\\', rest.as_bytes()) {
        let (plain, escape) = rest.split_at(at);
        text.push_str(plain);
        match escape_at(escape) {
            (char::REPLACEMENT_CHARACTER, length) => {
                text.push(char::REPLACEMENT_CHARACTER);
                rest = escape.get(length..).unwrap_or_default();
            }
            (_, length) => {
                let (escape, after) = escape.split_at_checked(length).unwrap_or((escape, ""));
                text.push_str(escape);
                rest = after;
            }
        }
    }
    text.push_str(rest);
}

/// The character that an escape stands for, and how many bytes it takes.
#[inline]
pub(crate) fn escape_at(escape: &str) -> (char, usize) {
    let unit = |at: usize| escape.get(at..at + 4).and_then(|digits| u32::from_str_radix(digits, 16).ok());
    match escape.as_bytes().get(1) {
        Some(b'n') => ('\n', 2),
        Some(b't') => ('\t', 2),
        Some(b'r') => ('\r', 2),
        Some(b'b') => ('\u{8}', 2),
        Some(b'f') => ('\u{c}', 2),
        Some(b'u') => match unit(2) {
            Some(high @ 0xD800..0xDC00) if escape.get(6..8) == Some("\\u") => match unit(8) {
                Some(low @ 0xDC00..0xE000) => {
                    let code = 0x1_0000 + ((high - 0xD800) << 10) + (low - 0xDC00);
                    (char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER), 12)
                }
                _ => (char::REPLACEMENT_CHARACTER, 6),
            },
            code => (code.and_then(char::from_u32).unwrap_or(char::REPLACEMENT_CHARACTER), 6),
        },
        // `"`, `\` and `/` stand for themselves.
        Some(other) => (char::from(*other), 2),
        None => (char::REPLACEMENT_CHARACTER, 1),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn raw(json: &str) -> &RawValue {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn half_an_emoji_is_a_replacement_character_and_a_whole_one_itself() {
        for (json, expected) in [
            (r#""\ud83d\ude00""#, "😀"),
            (r#""a\ud83d""#, "a\u{fffd}"),
            (r#""\ud83d\u0041""#, "\u{fffd}A"),
            (r#""\ude00\\n""#, "\u{fffd}\\n"),
            (r#""\ud83d\ud83d\ude00""#, "\u{fffd}😀"),
            (r#""\u4f60\/\b\f\r\t\n\"好""#, "你/\u{8}\u{c}\r\t\n\"好"),
        ] {
            assert_eq!(Shape::of(raw(json)).to_text().as_deref(), Some(expected), "{json}");
        }
    }

    #[test]
    fn integers_are_taken_however_they_are_written() {
        for (json, expected) in [
            ("1010", Some(1010)),
            ("-3", Some(-3)),
            ("1010.0", Some(1010)),
            ("1.01e3", Some(1010)),
            ("\" 1010 \"", Some(1010)),
            ("true", Some(1)),
            ("null", None),
            ("\"\"", None),
            ("{}", None),
            ("{\"string\":\"7\"}", Some(7)),
            ("9223372036854775807", Some(i64::MAX)),
        ] {
            assert_eq!(integer("sex", Some(raw(json))), Ok(expected), "{json}");
        }
        for json in ["1.5", "9223372036854775808", "1e300", "\"男\"", "[1]", "{\"a\":1}"] {
            let refusal = integer("sex", Some(raw(json))).unwrap_err();
            assert_eq!(refusal.reason, Reason::BadField, "{json}");
            assert!(refusal.detail.starts_with("`sex` is "), "{}", refusal.detail);
        }
    }

    #[test]
    fn an_instant_is_taken_in_any_unit() {
        let seconds = OffsetDateTime::from_unix_timestamp(1_790_000_000).unwrap();
        let at = |millis| seconds + time::Duration::milliseconds(millis);
        for (json, expected) in [
            ("1790000000", Some(at(0))),
            ("\"1790000000\"", Some(at(0))),
            ("1790000000123", Some(at(123))),
            ("1790000000123000", Some(at(123))),
            ("\"2026-09-21T14:13:20Z\"", Some(at(0))),
            ("\"2026-09-21T22:13:20.123+08:00\"", Some(at(123))),
            ("1790000000.5", None),
            ("\"yesterday\"", None),
            ("null", None),
            ("[]", None),
        ] {
            assert_eq!(instant(Some(raw(json))), expected, "{json}");
        }
        assert_eq!(instant(None), None);
        // The first and the last second that are taken, and the years 1 and 9999, which are not.
        for (seconds, taken) in
            [(946_684_800, true), (4_102_444_799, true), (-62_135_596_800, false), (253_402_300_799, false)]
        {
            let at = instant(Some(raw(&i64::to_string(&seconds))));
            assert_eq!(at.and_then(domain::lake::Partition::of).is_some(), taken, "{seconds}");
        }
    }

    proptest! {
        #[test]
        fn what_any_text_escapes_to_is_that_text_again(text in any::<String>()) {
            let json = serde_json::to_string(&text).unwrap();
            prop_assert_eq!(Shape::of(raw(&json)).to_text(), Some(text));
        }

        #[test]
        fn escapes_are_read_as_a_json_parser_reads_them(units in proptest::collection::vec(any::<u16>(), 0..40)) {
            let json = units.iter().map(|unit| format!("\\u{unit:04x}")).collect::<String>();
            let json = format!("\"{json}\"");
            prop_assert_eq!(Shape::of(raw(&json)).to_text(), Some(String::from_utf16_lossy(&units)));
        }
    }
}
