//! The short way for what nearly every line is: an event with a message in it, every field of the type that it mostly has. Texts and numbers go
//! from the line into the row as the parser meets them. Whatever else a line is, [`crate::event`] reads it, and would read these the same.

use std::fmt;

use domain::lake::{Kind, Partition};
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::columns::Row;
use crate::convert::Line;
use crate::event::{ID_BYTES, Place, micros};
use crate::object::{Fields, Name, write_extras};
use crate::value;

/// Where the columns of a message are: a test holds them to the schema.
mod at {
    pub(super) const MSG_ID: usize = 0;
    pub(super) const SOURCE: usize = 1;
    pub(super) const GUID: usize = 2;
    pub(super) const NOTIFY_TYPE: usize = 3;
    pub(super) const FROM_USERNAME: usize = 4;
    pub(super) const TO_USERNAME: usize = 5;
    pub(super) const CHATROOM: usize = 6;
    pub(super) const CHATROOM_SENDER: usize = 7;
    pub(super) const MSG_TYPE: usize = 8;
    pub(super) const CREATE_TIME: usize = 9;
    pub(super) const IS_CHATROOM_MSG: usize = 10;
    pub(super) const CONTENT: usize = 11;
    pub(super) const MSG_DESC: usize = 12;
    pub(super) const MSG_SOURCE: usize = 13;
    pub(super) const EXTRAS: usize = 14;
    pub(super) const RECEIVED_AT: usize = 15;
    pub(super) const RAW_OBJECT: usize = 16;
    pub(super) const RAW_LINE: usize = 17;
    pub(super) const COUNT: usize = 18;
}

/// Reads a line into the row, if it is of that kind. If not the row holds nothing of use.
pub(crate) fn read(text: &str, line: &Line<'_>, row: &mut Row) -> Option<Place> {
    row.clear();
    row.widen(at::COUNT);
    let (mut others, mut beside) = (Fields::new(), Fields::new());
    let mut json = serde_json::Deserializer::from_str(text);
    let event = EventSeed { row, others: &mut others, beside: &mut beside };
    if !event.deserialize(&mut json).ok()? || json.end().is_err() || !(1..=ID_BYTES).contains(&row.key().len()) {
        return None;
    }
    let said_at = value::instant_of(row.integer_at(at::CREATE_TIME)?)?;
    let partition = Partition::of(said_at)?;
    row.put_integer(at::CREATE_TIME, micros(said_at));
    row.put_text(at::SOURCE, line.source);
    if !others.is_empty() || !beside.is_empty() {
        row.put_text_with(at::EXTRAS, |text| write_extras(text, others.iter(), &beside));
    }
    row.put_integer(at::RECEIVED_AT, micros(line.received_at));
    row.put_text(at::RAW_OBJECT, line.raw_object);
    row.put_integer(at::RAW_LINE, i64::try_from(line.raw_line).ok()?);
    Some(Place { table: Kind::Messages, partition })
}

/// An event; whether it has `data`.
struct EventSeed<'r, 'a> {
    row: &'r mut Row,
    others: &'r mut Fields<'a>,
    beside: &'r mut Fields<'a>,
}

impl<'a> DeserializeSeed<'a> for EventSeed<'_, 'a> {
    type Value = bool;

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'a> Visitor<'a> for EventSeed<'_, 'a> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an event")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<bool, A::Error> {
        let mut has_data = false;
        while let Some(name) = map.next_key::<Name<'a>>()? {
            match &*name.0 {
                "guid" => map.next_value_seed(Text { row: self.row, column: at::GUID })?,
                "notify_type" => map.next_value_seed(Integer { row: self.row, column: at::NOTIFY_TYPE })?,
                // A second one would have to replace all of the first.
                "data" if has_data => return Err(de::Error::custom("two of them")),
                "data" => {
                    map.next_value_seed(DataSeed { row: self.row, others: self.others })?;
                    has_data = true;
                }
                _ => self.beside.push((name, map.next_value::<&'a RawValue>()?)),
            }
        }
        Ok(has_data)
    }
}

struct DataSeed<'r, 'a> {
    row: &'r mut Row,
    others: &'r mut Fields<'a>,
}

impl<'a> DeserializeSeed<'a> for DataSeed<'_, 'a> {
    type Value = ();

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'a> Visitor<'a> for DataSeed<'_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a message")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<Name<'a>>()? {
            let (is_text, column) = match &*name.0 {
                "msg_id" => (true, at::MSG_ID),
                "from_username" => (true, at::FROM_USERNAME),
                "to_username" => (true, at::TO_USERNAME),
                "chatroom" => (true, at::CHATROOM),
                "chatroom_sender" => (true, at::CHATROOM_SENDER),
                "msg_type" => (false, at::MSG_TYPE),
                "create_time" => (false, at::CREATE_TIME),
                "is_chatroom_msg" => (false, at::IS_CHATROOM_MSG),
                "content" => (true, at::CONTENT),
                "desc" => (true, at::MSG_DESC),
                "source" => (true, at::MSG_SOURCE),
                _ => {
                    self.others.push((name, map.next_value::<&'a RawValue>()?));
                    continue;
                }
            };
            if is_text {
                map.next_value_seed(Text { row: self.row, column })?;
            } else {
                map.next_value_seed(Integer { row: self.row, column })?;
            }
        }
        Ok(())
    }
}

/// A column of text: a text, or an integer as it is written. Anything else is an error, for the long way.
struct Text<'r> {
    row: &'r mut Row,
    column: usize,
}

impl<'a> DeserializeSeed<'a> for Text<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'a> Visitor<'a> for Text<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<(), E> {
        self.row.put_text(self.column, text);
        Ok(())
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<(), E> {
        self.row.put_text_with(self.column, |text| value::write_integer(text, number));
        Ok(())
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<(), E> {
        self.row.put_text_with(self.column, |text| value::write_integer(text, number));
        Ok(())
    }

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        self.row.put_null(self.column);
        Ok(())
    }
}

/// A column of integers: an integer, or nothing.
struct Integer<'r> {
    row: &'r mut Row,
    column: usize,
}

impl<'a> DeserializeSeed<'a> for Integer<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'a> Visitor<'a> for Integer<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an integer")
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<(), E> {
        self.row.put_integer(self.column, number);
        Ok(())
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<(), E> {
        let number = i64::try_from(number).map_err(E::custom)?;
        self.row.put_integer(self.column, number);
        Ok(())
    }

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        self.row.put_null(self.column);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use domain::lake::source::Mapping;
    use proptest::prelude::*;
    use time::macros::datetime;

    use super::*;
    use crate::convert::Options;
    use crate::event;
    use crate::schema::definitions;

    #[test]
    fn columns_are_where_the_schema_has_them() {
        let names: Vec<&str> = definitions(Kind::Messages).iter().map(|column| column.name).collect();
        assert_eq!(names.len(), at::COUNT);
        for (column, name) in [
            (at::MSG_ID, "msg_id"),
            (at::SOURCE, "source"),
            (at::GUID, "guid"),
            (at::NOTIFY_TYPE, "notify_type"),
            (at::FROM_USERNAME, "from_username"),
            (at::TO_USERNAME, "to_username"),
            (at::CHATROOM, "chatroom"),
            (at::CHATROOM_SENDER, "chatroom_sender"),
            (at::MSG_TYPE, "msg_type"),
            (at::CREATE_TIME, "create_time"),
            (at::IS_CHATROOM_MSG, "is_chatroom_msg"),
            (at::CONTENT, "content"),
            (at::MSG_DESC, "msg_desc"),
            (at::MSG_SOURCE, "msg_source"),
            (at::EXTRAS, "extras"),
            (at::RECEIVED_AT, "received_at"),
            (at::RAW_OBJECT, "raw_object"),
            (at::RAW_LINE, "raw_line"),
        ] {
            assert_eq!(names[column], name);
        }
    }

    fn line(bytes: &[u8]) -> Line<'_> {
        Line {
            bytes,
            source: "wechat",
            mapping: &Mapping::Wechat,
            mask: false,
            received_at: datetime!(2026-11-25 12:00 UTC),
            raw_object: "raw",
            raw_line: 7,
        }
    }

    /// Whether the short way takes the line. If it does, it says what the long way says.
    fn is_short(text: &str) -> bool {
        let (line, mut short, mut long) = (line(text.as_bytes()), Row::default(), Row::default());
        let Some(place) = read(text, &line, &mut short) else { return false };
        assert_eq!(event::read_any(text, &line, &mut long).as_ref(), Ok(&place), "{text}");
        for column in 0..at::COUNT {
            assert_eq!(short.text_at(column), long.text_at(column), "{column}: {text}");
            assert_eq!(short.integer_at(column), long.integer_at(column), "{column}: {text}");
        }
        true
    }

    #[test]
    fn a_feed_s_messages_go_the_short_way_and_nothing_else_does() {
        use lake_sample::{Plan, What};
        for event in Plan::first_lake(11, 1_790_000_000).events().take(5_000) {
            let Ok(text) = std::str::from_utf8(&event.body) else { continue };
            let message = matches!(event.what, What::Message { .. } | What::Repetition { .. });
            assert_eq!(is_short(text), message, "{text}");
        }
        for text in [
            r#"{"msg_id":1,"create_time":1790000000}"#,
            r#"{"data":{"msg_id":1,"create_time":1790000000},"data":{"msg_id":2}}"#,
            r#"{"data":{"msg_id":1,"create_time":"1790000000"}}"#,
            r#"{"data":{"msg_id":1,"create_time":1790000000,"content":"\ud83d"}}"#,
            r#"{"data":{"msg_id":1,"create_time":1790000000,"content":{"string":"x"}}}"#,
            r#"{"data":{"msg_id":null,"create_time":1790000000}}"#,
            r#"{"data":{"msg_id":1,"create_time":1790000000}} {}"#,
        ] {
            assert!(!is_short(text), "{text}");
        }
        let mut row = Row::default();
        let half = r#"{"data":{"msg_id":1,"create_time":1790000000,"content":"\ud83d"}}"#;
        assert!(event::read(&line(half.as_bytes()), &Options::default(), &mut row).is_ok());
        assert_eq!(row.text_at(at::CONTENT), Some("\u{fffd}"));
    }

    fn field() -> impl Strategy<Value = String> {
        let name = prop::sample::select(vec![
            "msg_id",
            "from_username",
            "chatroom",
            "msg_type",
            "create_time",
            "content",
            "desc",
            "source",
            "guid",
            "notify_type",
            "new",
            "n\\u0065w",
        ]);
        let value = prop_oneof![
            3 => (1_780_000_000_i64..1_790_000_000).prop_map(|it| it.to_string()),
            2 => any::<i64>().prop_map(|it| it.to_string()),
            1 => any::<u64>().prop_map(|it| it.to_string()),
            3 => ".{0,12}".prop_map(|it| serde_json::Value::from(it).to_string()),
            1 => prop::sample::select(vec!["null", "-0", "1e3", "true", "{}", r#"{"string":"a"}"#, r#""\ud83d\ude00""#, r#""\ud83d""#, "[1]"])
                .prop_map(str::to_owned),
        ];
        (name, value).prop_map(|(name, value)| format!("\"{name}\":{value}"))
    }

    proptest! {
        #[test]
        fn the_short_way_says_what_the_long_way_says(
            data in prop::collection::vec(field(), 0..6),
            beside in prop::collection::vec(field(), 0..3),
        ) {
            let mut fields = beside;
            fields.push(format!("\"data\":{{\"msg_id\":1,\"create_time\":1790000000,{}\"x\":0}}", data.iter().map(|field| format!("{field},")).collect::<String>()));
            is_short(&format!("{{{}}}", fields.join(",")));
        }
    }
}
