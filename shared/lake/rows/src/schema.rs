//! The columns of the tables, what each means, and which changes of them a table takes.

use std::sync::{Arc, LazyLock};

use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
use domain::lake::Kind;
use serde::{Deserialize, Serialize};

/// The columns that the tables are partitioned by, in order. They are 32-bit integers, and stand in the log and in paths, not in data files.
pub const PARTITION_COLUMNS: [&str; 3] = ["year", "month", "day"];

/// What a column holds. Each is the widest of its sort from the first day: making one wider later needs a feature of the table that
/// readers of its version do not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ColumnType {
    /// UTF-8 text: `string`.
    Text,
    /// 64 bits with a sign: `long`.
    Integer,
    /// Microseconds of UTC: `timestamp`.
    Instant,
}

impl ColumnType {
    #[must_use]
    pub fn arrow(self) -> DataType {
        match self {
            Self::Text => DataType::Utf8,
            Self::Integer => DataType::Int64,
            Self::Instant => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        }
    }
}

/// A column. All are nullable: readers of an old file find a null where a new column is missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    pub name: String,
    #[serde(rename = "type")]
    pub kind: ColumnType,
    /// For people: what the registry and the documentation say of it.
    pub meaning: String,
}

/// What one column is, how it is written, and since which version of the table.
pub(crate) struct Definition {
    pub(crate) name: &'static str,
    pub(crate) kind: ColumnType,
    pub(crate) storage: Storage,
    since: u32,
    meaning: &'static str,
}

/// How a column's values repeat, which is how it is best written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Storage {
    /// Few values again and again: a dictionary, and statistics that skip pages.
    Repeating,
    /// Nearly every value is another one, and is looked for: no dictionary, statistics, a Bloom filter once the file is worth one.
    Key,
    /// Growing numbers: differences, packed.
    Growing,
    /// Long text: no dictionary, no bounds. It is what a file weighs, so it alone is compressed hard in the archive.
    Long,
}

const fn text(name: &'static str, storage: Storage, meaning: &'static str) -> Definition {
    Definition { name, kind: ColumnType::Text, storage, since: 1, meaning }
}

const fn integer(name: &'static str, storage: Storage, meaning: &'static str) -> Definition {
    Definition { name, kind: ColumnType::Integer, storage, since: 1, meaning }
}

const fn instant(name: &'static str, meaning: &'static str) -> Definition {
    Definition { name, kind: ColumnType::Instant, storage: Storage::Growing, since: 1, meaning }
}

use Storage::{Growing, Key, Long, Repeating};

const SOURCE: &str = "the feed: `wechat`, `lark`, `chat`, or the name of another source";
const GUID: &str = "the account that saw it, as the event names it";
const NOTIFY_TYPE: &str = "the event's type; 1010 for what WeChat sends";
const EXTRAS: &str = "a JSON object of every field that has no column; a field beside `data` is `event.<name>`";
const RECEIVED_AT: &str = "when it reached Skylark";
const RAW_OBJECT: &str = "the raw object that holds the line as it came";
const RAW_LINE: &str = "the line in the raw object, from 1";

/// The event's `source` and `desc` are `msg_source` and `msg_desc` here: the one is the feed's column, the other a word of SQL.
static MESSAGES: [Definition; 18] = [
    text("msg_id", Key, "the message's id in its feed; one row for each"),
    text("source", Repeating, SOURCE),
    text("guid", Repeating, GUID),
    integer("notify_type", Repeating, NOTIFY_TYPE),
    text("from_username", Repeating, "whom it is from: a person, or the chat room that passes it on"),
    text("to_username", Repeating, "whom it is to"),
    text("chatroom", Repeating, "the chat room, group or conversation; empty if it is between two"),
    text("chatroom_sender", Repeating, "who said it in the chat room"),
    integer(
        "msg_type",
        Repeating,
        "1 text, 3 image, 34 voice, 42 card, 43 video, 47 sticker, 48 location, 49 app message or file, 10000 system; \
         other feeds' types as these; null for an event that is no message",
    ),
    instant("create_time", "when it was said; its day in UTC is the partition"),
    integer("is_chatroom_msg", Repeating, "1 in a chat room, 0 between two"),
    text("content", Long, "what was said: text, or the XML or JSON of anything else"),
    text("msg_desc", Long, "the event's `desc`: what a notification shows"),
    text("msg_source", Long, "the event's `source`: XML, or an integer as text"),
    text("extras", Long, EXTRAS),
    instant("received_at", RECEIVED_AT),
    text("raw_object", Repeating, RAW_OBJECT),
    integer("raw_line", Growing, RAW_LINE),
];

/// Contacts, a row for each time that one was told of. The last one per `username` is how the person is now.
static CONTACTS: [Definition; 25] = [
    text("username", Key, "the person's or chat room's id in its feed"),
    text("source", Repeating, SOURCE),
    text("guid", Repeating, GUID),
    integer("notify_type", Repeating, NOTIFY_TYPE),
    text("alias", Repeating, "the id that the person chose"),
    text("encrypt_user_name", Key, "the id under which strangers see the person"),
    integer("contact_type", Repeating, "the event's `contactType`"),
    integer("delete_flag", Repeating, "not 0 if the contact was removed"),
    integer("verify_flag", Repeating, "not 0 for official accounts"),
    integer("sex", Repeating, "1 male, 2 female, 0 not told"),
    text("country", Repeating, "as the person tells it"),
    text("province", Repeating, "as the person tells it"),
    text("city", Repeating, "as the person tells it"),
    text("mobile", Repeating, "sensitive; the middle four digits are `****` if the stack masks"),
    text("nick_name", Repeating, "the person's own name"),
    text("remark", Repeating, "the name that the account gave the person"),
    text("pyinitial", Repeating, "the first letters of the name's pinyin"),
    text("quan_pin", Repeating, "the name's pinyin"),
    text("sns_user_info", Long, "a JSON object: the person's timeline"),
    text("custom_info", Long, "a JSON object; `detail` in it is sensitive and `***` if the stack masks"),
    text("new_chatroom_data", Long, "a JSON object: the members of a chat room"),
    text("extras", Long, EXTRAS),
    instant("received_at", "when it reached Skylark; its day in UTC is the partition"),
    text("raw_object", Repeating, RAW_OBJECT),
    integer("raw_line", Growing, RAW_LINE),
];

pub(crate) fn definitions(table: Kind) -> &'static [Definition] {
    match table {
        Kind::Messages => &MESSAGES,
        Kind::Contacts => &CONTACTS,
    }
}

/// The column that a row of the table is recognised by.
#[must_use]
pub const fn key(table: Kind) -> &'static str {
    match table {
        Kind::Messages => "msg_id",
        Kind::Contacts => "username",
    }
}

/// Whether the column is part of what was said. Two rows with one `msg_id` are a repetition if they agree in all such columns, and a conflict
/// otherwise; the rest only tells who saw it and how it came here.
#[must_use]
pub fn is_content(column: &str) -> bool {
    !matches!(column, "guid" | "notify_type" | "received_at" | "raw_object" | "raw_line")
        && !PARTITION_COLUMNS.contains(&column)
}

/// Some of the columns of the table's files, as people ask for them: their names with commas between, each once.
#[must_use]
pub fn chosen(table: Kind, list: &str) -> Option<Vec<String>> {
    let schema = schema(table);
    let mut names: Vec<String> = Vec::new();
    for name in list.split(',').map(str::trim) {
        let good = schema.field_with_name(name).is_ok() && !names.iter().any(|before| before == name);
        names.push(good.then(|| name.to_owned())?);
    }
    Some(names)
}

/// Whether what came as an object or a list is JSON in this column. A text that came instead is there as it is.
#[must_use]
pub fn is_json(column: &str) -> bool {
    matches!(column, "custom_info" | "extras" | "new_chatroom_data" | "sns_user_info")
}

fn fields(table: Kind) -> impl Iterator<Item = Field> {
    definitions(table).iter().map(|column| Field::new(column.name, column.kind.arrow(), true))
}

/// The columns of the table's data files, in order.
#[must_use]
pub fn schema(table: Kind) -> SchemaRef {
    static SCHEMAS: LazyLock<[SchemaRef; 2]> =
        LazyLock::new(|| Kind::ALL.map(|table| Arc::new(Schema::new(fields(table).collect::<Vec<_>>()))));
    let [messages, contacts] = &*SCHEMAS;
    match table {
        Kind::Messages => messages.clone(),
        Kind::Contacts => contacts.clone(),
    }
}

/// The columns of the table: those of its files, and what it is partitioned by.
#[must_use]
pub fn table_schema(table: Kind) -> SchemaRef {
    let partition = PARTITION_COLUMNS.into_iter().map(|name| Field::new(name, DataType::Int32, true));
    Arc::new(Schema::new(fields(table).chain(partition).collect::<Vec<_>>()))
}

/// A table's columns as they are or were at one time: the document that the registry keeps for each version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    pub table: Kind,
    pub version: u32,
    pub columns: Vec<Column>,
}

impl Version {
    /// The version that this code writes.
    #[must_use]
    pub fn current(table: Kind) -> Self {
        let definitions = definitions(table);
        let columns = definitions.iter().map(|one| Column {
            name: one.name.to_owned(),
            kind: one.kind,
            meaning: one.meaning.to_owned(),
        });
        Self { table, version: definitions.iter().map(|one| one.since).max().unwrap_or(1), columns: columns.collect() }
    }

    /// The columns that `next` adds, if a table of this version can become one of the next without being written anew.
    ///
    /// It can if every column is still there, holds the same, and no name is taken, in whatever case, that a column or partition has. What
    /// cannot needs a table of its own beside the old one. Words of meaning may change.
    pub fn extended_by<'a>(&self, next: &'a Self) -> Result<Vec<&'a Column>, Incompatible> {
        if self.table != next.table {
            return Err(Incompatible::OtherTable { was: self.table, is: next.table });
        }
        let same = |a: &str, b: &str| a.eq_ignore_ascii_case(b);
        for (at, column) in next.columns.iter().enumerate() {
            let taken = next.columns.iter().skip(at + 1).any(|other| same(&other.name, &column.name));
            if taken || PARTITION_COLUMNS.iter().any(|name| same(name, &column.name)) {
                return Err(Incompatible::NameTaken(column.name.clone()));
            }
        }
        for was in &self.columns {
            let is = next.columns.iter().find(|column| same(&column.name, &was.name));
            let is = is.filter(|column| column.name == was.name).ok_or_else(|| Incompatible::Gone(was.name.clone()))?;
            if is.kind != was.kind {
                return Err(Incompatible::OtherType { column: was.name.clone(), was: was.kind, is: is.kind });
            }
        }
        let added: Vec<&Column> =
            next.columns.iter().filter(|column| !self.columns.iter().any(|was| was.name == column.name)).collect();
        if !added.is_empty() && next.version <= self.version {
            return Err(Incompatible::NotLater { was: self.version, is: next.version });
        }
        Ok(added)
    }
}

/// Why a table of one version cannot become one of another.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Incompatible {
    #[error("a table of {was} does not become one of {is}")]
    OtherTable { was: Kind, is: Kind },
    #[error("the column `{0}` is gone")]
    Gone(String),
    #[error("the column `{column}` was {was:?} and is {is:?}")]
    OtherType { column: String, was: ColumnType, is: ColumnType },
    #[error("the name `{0}` is taken")]
    NameTaken(String),
    #[error("a column was added, and version {is} does not follow version {was}")]
    NotLater { was: u32, is: u32 },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(number: u32, columns: &[(&str, ColumnType)]) -> Version {
        let columns =
            columns.iter().map(|(name, kind)| Column { name: (*name).to_owned(), kind: *kind, meaning: String::new() });
        Version { table: Kind::Messages, version: number, columns: columns.collect() }
    }

    #[test]
    fn a_column_may_be_added_anywhere_and_nothing_else_may_change() {
        use ColumnType::{Integer, Text};
        let old = version(1, &[("msg_id", Text), ("msg_type", Integer)]);
        let next = version(2, &[("msg_id", Text), ("region", Text), ("msg_type", Integer)]);
        let added = old.extended_by(&next).unwrap();
        assert_eq!(added.iter().map(|column| column.name.as_str()).collect::<Vec<_>>(), ["region"]);
        assert_eq!(old.extended_by(&old), Ok(vec![]));

        for (next, expected) in [
            (version(2, &[("msg_id", Text)]), Incompatible::Gone("msg_type".into())),
            (version(2, &[("msg_id", Text), ("Msg_Type", Integer)]), Incompatible::Gone("msg_type".into())),
            (
                version(2, &[("msg_id", Text), ("msg_type", Text)]),
                Incompatible::OtherType { column: "msg_type".into(), was: Integer, is: Text },
            ),
            (
                version(2, &[("msg_id", Text), ("msg_type", Integer), ("MSG_ID", Text)]),
                Incompatible::NameTaken("msg_id".into()),
            ),
            (
                version(2, &[("msg_id", Text), ("msg_type", Integer), ("Year", Text)]),
                Incompatible::NameTaken("Year".into()),
            ),
            (
                version(1, &[("msg_id", Text), ("msg_type", Integer), ("region", Text)]),
                Incompatible::NotLater { was: 1, is: 1 },
            ),
        ] {
            assert_eq!(old.extended_by(&next), Err(expected));
        }
        let contacts = Version { table: Kind::Contacts, ..next };
        assert!(matches!(old.extended_by(&contacts), Err(Incompatible::OtherTable { .. })));
    }

    #[test]
    fn a_version_survives_the_registry() {
        for table in Kind::ALL {
            let current = Version::current(table);
            let stored = serde_json::to_string(&current).unwrap();
            assert_eq!(serde_json::from_str::<Version>(&stored).unwrap(), current);
            assert_eq!(current.extended_by(&current), Ok(vec![]), "no name is taken twice");
        }
    }

    /// Version 1 is in people's tables. A later one must extend it.
    #[test]
    fn what_is_written_today_extends_what_was_written_first() {
        let first = [
            (Kind::Messages, include_str!("../versions/messages-1.json")),
            (Kind::Contacts, include_str!("../versions/contacts-1.json")),
        ];
        for (table, stored) in first {
            let first: Version = serde_json::from_str(stored).unwrap();
            let current = Version::current(table);
            let added = first.extended_by(&current).unwrap_or_else(|why| panic!("{table}: {why}"));
            assert_eq!(added.is_empty(), current.version == first.version, "{table}: a new column is a new version");
        }
    }

    #[test]
    fn every_column_is_documented_as_it_is() {
        let documents = include_str!("../../../../docs/lake-tables.md");
        for table in Kind::ALL {
            let mut rows = format!("## {table}\n");
            let section = documents.split(&rows).nth(1).unwrap().split("\n## ").next().unwrap();
            rows.clear();
            for column in Version::current(table).columns {
                let kind = match column.kind {
                    ColumnType::Text => "string",
                    ColumnType::Integer => "bigint",
                    ColumnType::Instant => "timestamp",
                };
                rows += &format!("| `{}` | {kind} | {} |\n", column.name, column.meaning);
            }
            assert!(section.contains(&rows), "docs/lake-tables.md, {table}:\n{rows}");
        }
    }

    #[test]
    fn columns_are_chosen_by_name_each_once_in_any_order() {
        assert_eq!(chosen(Kind::Messages, "content, msg_id").unwrap(), ["content", "msg_id"]);
        for bad in ["", "colour", "msg_id,colour", "msg_id,msg_id", "msg_id,", "username", "year", "Msg_id"] {
            assert_eq!(chosen(Kind::Messages, bad), None, "{bad}");
        }
    }

    #[test]
    fn columns_of_json_are_those_that_say_so() {
        for column in Kind::ALL.into_iter().flat_map(definitions) {
            assert_eq!(is_json(column.name), column.meaning.starts_with("a JSON object"), "{}", column.name);
        }
    }

    #[test]
    fn files_and_tables_differ_by_what_they_are_partitioned_by() {
        for table in Kind::ALL {
            let (files, whole) = (schema(table), table_schema(table));
            let names = |schema: &Schema| schema.fields().iter().map(|field| field.name().clone()).collect::<Vec<_>>();
            assert_eq!(names(&whole), [names(&files), PARTITION_COLUMNS.map(str::to_owned).to_vec()].concat());
            assert!(whole.fields().iter().all(|field| field.is_nullable()));
            assert!(files.field_with_name(key(table)).is_ok());
        }
    }
}
