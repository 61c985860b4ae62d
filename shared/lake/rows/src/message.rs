//! The short way for what nearly every line is: an event with a message in it, every field of the type that it mostly has. Texts and numbers go
//! from the line into the row as they are met. Whatever else a line is, [`crate::event`] reads it, and would read these the same.

use std::borrow::Cow;

use domain::lake::{Kind, Partition};

use crate::columns::Row;
use crate::convert::Line;
use crate::event::{ID_BYTES, Place, micros};
use crate::object::{Fields, Name, write_extras};
use crate::scan::{Known, Scanner};
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

/// A field that has a column, or holds those that have.
struct Field {
    opening: &'static str,
    holds: Holds,
}

enum Holds {
    Text(usize),
    Integer(usize),
    Message,
}

impl Known for Field {
    fn opening(&self) -> &'static str {
        self.opening
    }
}

const fn field(opening: &'static str, holds: Holds) -> Field {
    Field { opening, holds }
}

/// The fields of an event, in the order in which they come.
static EVENT: [Field; 3] = [
    field("\"guid\":", Holds::Text(at::GUID)),
    field("\"notify_type\":", Holds::Integer(at::NOTIFY_TYPE)),
    field("\"data\":", Holds::Message),
];

/// Those of a message.
static MESSAGE: [Field; 11] = [
    field("\"from_username\":", Holds::Text(at::FROM_USERNAME)),
    field("\"to_username\":", Holds::Text(at::TO_USERNAME)),
    field("\"chatroom\":", Holds::Text(at::CHATROOM)),
    field("\"chatroom_sender\":", Holds::Text(at::CHATROOM_SENDER)),
    field("\"msg_id\":", Holds::Text(at::MSG_ID)),
    field("\"msg_type\":", Holds::Integer(at::MSG_TYPE)),
    field("\"create_time\":", Holds::Integer(at::CREATE_TIME)),
    field("\"is_chatroom_msg\":", Holds::Integer(at::IS_CHATROOM_MSG)),
    field("\"content\":", Holds::Text(at::CONTENT)),
    field("\"desc\":", Holds::Text(at::MSG_DESC)),
    field("\"source\":", Holds::Text(at::MSG_SOURCE)),
];

/// Reads a line into the row, if it is of that kind. If not the row holds nothing of use.
pub(crate) fn read(text: &str, line: &Line<'_>, row: &mut Row) -> Option<Place> {
    row.clear();
    row.widen(at::COUNT);
    let (mut others, mut beside, mut has_data) = (Fields::new(), Fields::new(), false);
    let mut event = Scanner::new(text);
    event.object(&EVENT, |event, field| match field.map(|field| &field.holds) {
        Ok(Holds::Text(column)) => read_text(event, row, *column),
        Ok(Holds::Integer(column)) => read_integer(event, row, *column),
        // A second one would have to replace all of the first.
        Ok(Holds::Message) if has_data => None,
        Ok(Holds::Message) => {
            has_data = true;
            event.object(&MESSAGE, |data, field| match field.map(|field| &field.holds) {
                Ok(Holds::Text(column)) => read_text(data, row, *column),
                Ok(Holds::Integer(column)) => read_integer(data, row, *column),
                Ok(Holds::Message) => None,
                Err(name) => keep(data, name, &mut others),
            })
        }
        Err(name) => keep(event, name, &mut beside),
    })?;
    event.end()?;
    if !has_data || !(1..=ID_BYTES).contains(&row.key().len()) {
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

/// A column of text: a text, or an integer as it is written. Anything else is for the long way.
#[inline]
fn read_text(json: &mut Scanner<'_>, row: &mut Row, column: usize) -> Option<()> {
    match json.peek()? {
        b'"' => row.put_text_with(column, |text| json.text(text)),
        b'n' => json.null().map(|()| row.put_null(column)),
        _ => json.integer().map(|number| row.put_text(column, number)),
    }
}

/// A column of integers: an integer, or nothing.
#[inline]
fn read_integer(json: &mut Scanner<'_>, row: &mut Row, column: usize) -> Option<()> {
    match json.peek()? {
        b'n' => json.null().map(|()| row.put_null(column)),
        _ => json.integer()?.parse().ok().map(|number| row.put_integer(column, number)),
    }
}

/// A field that has no column.
#[cold]
fn keep<'a>(json: &mut Scanner<'a>, name: &'a str, fields: &mut Fields<'a>) -> Option<()> {
    fields.push((Name(Cow::Borrowed(name)), json.raw()?));
    Some(())
}

#[cfg(test)]
mod tests {
    use domain::lake::source::Mapping;
    use proptest::prelude::*;
    use serde_json::Value;
    use time::macros::datetime;

    use super::*;
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
            r#"{"data":{"msg_id":1,"create_time":1790000000,"content":{"string":"x"}}}"#,
            r#"{"data":{"msg_id":null,"create_time":1790000000}}"#,
            r#"{"data":{"msg_id":1,"create_time":1790000000}} {}"#,
        ] {
            assert!(!is_short(text), "{text}");
        }
        let mut row = Row::default();
        let half = r#"{"data":{"msg_id":1,"create_time":1790000000,"content":"\ud83d"}}"#;
        assert!(is_short(half) && read(half, &line(half.as_bytes()), &mut row).is_some());
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
            3 => ".{0,40}".prop_map(|it| serde_json::Value::from(it).to_string()),
            1 => prop::sample::select(vec![
                "null", "-0", "01", "-", "1e3", "1.0", "true", "{}", r#"{"string":"a"}"#, r#"{"a":[1,"]"],"b":{}}"#, r#""\ud83d\ude00""#,
                r#""\ud83d""#, r#""\u12g4""#, r#""\x""#, "\"\t\"", "[1]", "[1,]", "123456789012345678901234567890",
            ])
            .prop_map(str::to_owned),
        ];
        let space = prop::sample::select(vec!["", "", "", " ", "\n\t\r", "\u{a0}"]);
        (name, value, space).prop_map(|(name, value, space)| format!("{space}\"{name}\"{space}:{space}{value}{space}"))
    }

    fn event() -> impl Strategy<Value = String> {
        (prop::collection::vec(field(), 0..6), prop::collection::vec(field(), 0..3)).prop_map(|(data, mut fields)| {
            let data: String = data.iter().map(|field| format!("{field},")).collect();
            fields.push(format!("\"data\":{{\"msg_id\":1,\"create_time\":1790000000,{data}\"x\":0}}"));
            format!("{{{}}}", fields.join(","))
        })
    }

    proptest! {
        #[test]
        fn the_short_way_says_what_the_long_way_says(event in event()) {
            is_short(&event);
        }

        /// A character more, less or other: mostly that is no JSON any more.
        #[test]
        fn the_short_way_takes_nothing_that_is_broken(
            event in event(),
            place in any::<prop::sample::Index>(),
            with in prop::sample::select(vec!["", "\"", "\\", ",", ":", "{", "}", "[", "0", "-", ".", "e", "n", "\u{1}", " ", "好"]),
            removed in 0..2_usize,
        ) {
            let mut characters: Vec<char> = event.chars().collect();
            let at = place.index(characters.len());
            characters.splice(at..at + removed, with.chars());
            is_short(&characters.into_iter().collect::<String>());
        }

        /// What a parser that knows nothing of rows makes of it.
        #[test]
        fn a_row_says_what_its_event_says(event in event()) {
            let mut row = Row::default();
            let (Some(_), Ok(event)) = (read(&event, &line(event.as_bytes()), &mut row), serde_json::from_str::<Value>(&event)) else {
                return Ok(());
            };
            for (column, name) in [(at::FROM_USERNAME, "from_username"), (at::CHATROOM, "chatroom"), (at::CONTENT, "content"), (at::MSG_DESC, "desc")] {
                match event["data"].get(name) {
                    None | Some(Value::Null) => prop_assert_eq!(row.text_at(column), None),
                    Some(Value::String(text)) => prop_assert_eq!(row.text_at(column), Some(text.as_str())),
                    // A parser without big numbers would round those that have more than 64 bits.
                    Some(Value::Number(number)) if number.is_f64() => {}
                    Some(other) => prop_assert_eq!(row.text_at(column).map(str::to_owned), Some(other.to_string())),
                }
            }
            for (column, value) in [(at::MSG_TYPE, event["data"].get("msg_type")), (at::NOTIFY_TYPE, event.get("notify_type"))] {
                // This parser says that -0 is no integer.
                prop_assert_eq!(row.integer_at(column), value.and_then(|value| if value.is_f64() { Some(0) } else { value.as_i64() }));
            }
        }
    }
}
