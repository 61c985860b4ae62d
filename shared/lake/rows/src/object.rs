//! JSON objects whose fields are borrowed, and written again as they came.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::columns::Row;
use crate::value::push_json;

/// A field's name, borrowed unless it is escaped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Name<'a>(pub(crate) Cow<'a, str>);

impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameVisitor;
        impl<'de> Visitor<'de> for NameVisitor {
            type Value = Name<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }

            fn visit_borrowed_str<E: de::Error>(self, name: &'de str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Borrowed(name)))
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Owned(name.to_owned())))
            }
        }
        deserializer.deserialize_str(NameVisitor)
    }
}

/// Fields that have no column.
pub(crate) type Fields<'a> = Vec<(Name<'a>, &'a RawValue)>;

/// An object's fields in order, whatever they are.
#[derive(Debug, Default)]
pub(crate) struct Object<'a>(pub(crate) Fields<'a>);

impl<'de> Deserialize<'de> for Object<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ObjectVisitor;
        impl<'de> Visitor<'de> for ObjectVisitor {
            type Value = Object<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Fields::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Object(fields))
            }
        }
        deserializer.deserialize_map(ObjectVisitor)
    }
}

/// Takes a field out. Of several with one name the last counts, as everywhere; the others stay.
pub(crate) fn take<'a>(fields: &mut Fields<'a>, name: &str) -> Option<&'a RawValue> {
    let at = fields.iter().rposition(|(Name(other), _)| other == name)?;
    Some(fields.remove(at).1)
}

/// The field, if it is there.
pub(crate) fn get<'a>(fields: &Fields<'a>, name: &str) -> Option<&'a RawValue> {
    fields.iter().rfind(|(Name(other), _)| other == name).map(|(_, value)| *value)
}

/// A field's own fields, if it is an object.
pub(crate) fn object(value: Option<&RawValue>) -> Fields<'_> {
    value.and_then(|value| serde_json::from_str::<Object<'_>>(value.get()).ok()).unwrap_or_default().0
}

/// Appends the fields that have no column, as one JSON object; those from beside an event's `data` as `event.<name>`.
pub(crate) fn extras<'f, 'a: 'f>(
    row: &mut Row,
    fields: impl Iterator<Item = &'f (Name<'a>, &'a RawValue)>,
    beside: &'f [(Name<'a>, &'a RawValue)],
) {
    let mut fields = fields.peekable();
    if fields.peek().is_none() && beside.is_empty() {
        return row.null();
    }
    row.text_with(|text| write_extras(text, fields, beside));
}

/// Writes the object that [`extras`] appends.
pub(crate) fn write_extras<'f, 'a: 'f>(
    text: &mut String,
    fields: impl Iterator<Item = &'f (Name<'a>, &'a RawValue)>,
    beside: &'f [(Name<'a>, &'a RawValue)],
) {
    let mut between = '{';
    for (prefix, (Name(name), value)) in
        fields.map(|field| ("", field)).chain(beside.iter().map(|field| ("event.", field)))
    {
        text.push(between);
        quote(prefix, name, text);
        push_json(value.get(), text);
        between = ',';
    }
    text.push('}');
}

/// Writes a name as JSON, with the colon.
fn quote(prefix: &str, name: &str, text: &mut String) {
    let plain = |byte: u8| byte >= b' ' && byte != b'"' && byte != b'\\';
    text.push('"');
    text.push_str(prefix);
    if name.bytes().all(plain) {
        text.push_str(name);
    } else {
        let escaped = serde_json::Value::from(name).to_string();
        text.push_str(escaped.get(1..escaped.len() - 1).unwrap_or_default());
    }
    text.push_str("\":");
}
