//! What a stack that masks keeps of a contact's sensitive fields.

use serde_json::value::RawValue;

use crate::columns::Row;
use crate::object::{Name, Object, extras};
use crate::value::Shape;

/// How many characters of a number are hidden, and behind what.
const HIDDEN: usize = 4;
const STARS: &str = "****";

/// Appends a mobile's number without its middle four digits: `138****5678`, `+86138****5678`. One of four digits or fewer is hidden whole.
pub(crate) fn mobile(row: &mut Row, value: &RawValue) {
    let value = Shape::of(value).unwrapped();
    let number = match value {
        Shape::Text(_) => value.to_text().unwrap_or_default(),
        Shape::Number(number) => number.to_owned(),
        Shape::Null => return row.null(),
        // What it is otherwise nobody knows; nothing of it is kept.
        Shape::Bool(_) | Shape::Nested(_) => return row.text(STARS),
    };
    row.text_with(|masked| {
        let digits = number.chars().filter(char::is_ascii_digit).count();
        // Of a Chinese number the last eleven digits count: before them is the country.
        let (before, counted) = if digits > 11 { (digits - 11, 11) } else { (0, digits) };
        let first = before + counted.saturating_sub(HIDDEN) / 2;
        let mut digit = 0;
        for character in number.chars() {
            let hidden = character.is_ascii_digit() && (first..first + HIDDEN).contains(&digit);
            masked.push(if hidden { '*' } else { character });
            digit += usize::from(character.is_ascii_digit());
        }
    });
}

/// Appends `customInfo` with `***` in place of its `detail`.
pub(crate) fn custom_info(row: &mut Row, value: &RawValue) {
    const HIDDEN: &str = "***";
    let hidden = serde_json::from_str::<&RawValue>("\"***\"");
    match (serde_json::from_str::<Object<'_>>(value.get()), hidden) {
        (Ok(Object(mut fields)), Ok(hidden)) => {
            fields.iter_mut().filter(|(Name(name), _)| name == "detail").for_each(|(_, value)| *value = hidden);
            extras(row, fields.iter(), &[]);
        }
        _ if Shape::of(value) == Shape::Null => row.null(),
        // It is no object: it may be the detail itself.
        _ => row.text(HIDDEN),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(mask: fn(&mut Row, &RawValue), json: &str) -> Option<String> {
        let mut row = Row::default();
        mask(&mut row, serde_json::from_str(json).unwrap());
        row.text_at(0).map(str::to_owned)
    }

    #[test]
    fn a_number_loses_its_middle() {
        for (json, expected) in [
            ("\"13812345678\"", Some("138****5678")),
            ("13812345678", Some("138****5678")),
            ("{\"string\":\"13812345678\"}", Some("138****5678")),
            ("\"+86 138 1234 5678\"", Some("+86 138 **** 5678")),
            ("\"1234567\"", Some("1****67")),
            ("\"123\"", Some("***")),
            ("\"\"", Some("")),
            ("null", None),
            ("[13812345678]", Some("****")),
        ] {
            assert_eq!(masked(mobile, json).as_deref(), expected, "{json}");
        }
    }

    #[test]
    fn the_detail_goes_and_what_is_beside_it_stays() {
        for (json, expected) in [
            (r#"{"detail":"{\"phone\":1}","imei":"x"}"#, Some(r#"{"detail":"***","imei":"x"}"#)),
            (r#"{"\u0064etail":1}"#, Some(r#"{"detail":"***"}"#)),
            ("{}", None),
            ("null", None),
            ("\"secret\"", Some("***")),
        ] {
            assert_eq!(masked(custom_info, json).as_deref(), expected, "{json}");
        }
    }
}
