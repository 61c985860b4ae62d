//! Rows of the lake's tables as JSON, CSV and Arrow, as the HTTP API and the command line answer with them.

use std::borrow::Cow;
use std::fmt::Write as _;

use arrow_array::cast::AsArray as _;
use arrow_array::types::{Int32Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{Array as _, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow_ipc::writer::StreamWriter;
use arrow_schema::{ArrowError, DataType, TimeUnit};
use domain::fault::{Fault, Remedy};
use serde::ser::{SerializeMap as _, SerializeSeq as _};
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Rows, read for writing.
///
/// In JSON they are a list of objects with every column in each. A text is a text, but for what its column holds JSON in, which stands there
/// as it is; a time is RFC 3339 in UTC, with as many digits of a second as it has.
#[derive(Debug)]
pub struct Rows<'r> {
    columns: Vec<(&'r str, Values<'r>)>,
    count: usize,
}

/// One of them.
#[derive(Debug, Clone, Copy)]
pub struct Row<'r> {
    rows: &'r Rows<'r>,
    at: usize,
}

#[derive(Debug)]
enum Values<'r> {
    Text(&'r StringArray),
    Json(&'r StringArray),
    Integer(&'r Int64Array),
    /// What tables are partitioned by.
    Part(&'r Int32Array),
    Instant(&'r TimestampMicrosecondArray),
}

/// What is in one place.
enum Value<'r> {
    Null,
    Text(Cow<'r, str>),
    Json(&'r str),
    Integer(i64),
}

impl<'r> Rows<'r> {
    pub fn of(rows: &'r RecordBatch) -> Result<Self, FormatFault> {
        let schema = rows.schema_ref().fields().iter();
        let columns = schema.zip(rows.columns()).map(|(field, column)| {
            let values = match column.data_type() {
                DataType::Utf8 if lake_rows::is_json(field.name()) => Values::Json(column.as_string()),
                DataType::Utf8 => Values::Text(column.as_string()),
                DataType::Int64 => Values::Integer(column.as_primitive::<Int64Type>()),
                DataType::Int32 => Values::Part(column.as_primitive::<Int32Type>()),
                DataType::Timestamp(TimeUnit::Microsecond, _) => {
                    Values::Instant(column.as_primitive::<TimestampMicrosecondType>())
                }
                _ => return Err(FormatFault::Column(field.name().clone())),
            };
            Ok((field.name().as_str(), values))
        });
        Ok(Self { columns: columns.collect::<Result<_, _>>()?, count: rows.num_rows() })
    }

    /// One after the other.
    pub fn iter(&'r self) -> impl Iterator<Item = Row<'r>> {
        (0..self.count).map(|at| Row { rows: self, at })
    }

    /// The names of the columns.
    pub fn names(&self) -> impl Iterator<Item = &'r str> {
        self.columns.iter().map(|(name, _)| *name)
    }

    /// The line that comes before the rows in a CSV.
    #[must_use]
    pub fn csv_header(&self) -> String {
        let mut line = String::new();
        csv_line(self.names().map(|name| Some(Cow::Borrowed(name))), &mut line);
        line
    }

    /// The rows as CSV (RFC 4180). A null is nothing at all, an empty text is `""`.
    #[must_use]
    pub fn csv(&self) -> String {
        let mut lines = String::new();
        self.iter().for_each(|row| csv_line(row.texts(), &mut lines));
        lines
    }
}

impl<'r> Row<'r> {
    fn value(&self, values: &'r Values<'r>) -> Value<'r> {
        let text = |column: &'r StringArray| column.is_valid(self.at).then(|| column.value(self.at));
        match values {
            Values::Text(column) => text(column).map_or(Value::Null, |text| Value::Text(text.into())),
            // What came where an object should have been is a text.
            Values::Json(column) => text(column).map_or(Value::Null, |text| match text.trim_start().as_bytes() {
                [b'{' | b'[', ..] => Value::Json(text),
                _ => Value::Text(text.into()),
            }),
            Values::Integer(column) if column.is_valid(self.at) => Value::Integer(column.value(self.at)),
            Values::Part(column) if column.is_valid(self.at) => Value::Integer(column.value(self.at).into()),
            Values::Instant(column) if column.is_valid(self.at) => {
                rfc3339(column.value(self.at)).map_or(Value::Null, |text| Value::Text(text.into()))
            }
            Values::Integer(_) | Values::Part(_) | Values::Instant(_) => Value::Null,
        }
    }

    /// The values as texts, in the order of the columns; nothing for a null.
    pub fn texts(self) -> impl Iterator<Item = Option<Cow<'r, str>>> {
        self.rows.columns.iter().map(move |(_, values)| match self.value(values) {
            Value::Null => None,
            Value::Text(text) => Some(text),
            Value::Json(text) => Some(text.into()),
            Value::Integer(number) => Some(number.to_string().into()),
        })
    }
}

impl Serialize for Rows<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(Some(self.count))?;
        for row in self.iter() {
            list.serialize_element(&row)?;
        }
        list.end()
    }
}

impl Serialize for Row<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let columns = &self.rows.columns;
        let mut object = serializer.serialize_map(Some(columns.len()))?;
        for (name, values) in columns {
            object.serialize_entry(name, &self.value(values))?;
        }
        object.end()
    }
}

impl Serialize for Value<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_none(),
            Self::Text(text) => serializer.serialize_str(text),
            Self::Integer(number) => serializer.serialize_i64(*number),
            Self::Json(text) => match serde_json::from_str::<&RawValue>(text) {
                Ok(json) => json.serialize(serializer),
                Err(_) => serializer.serialize_str(text),
            },
        }
    }
}

/// The rows as an Arrow IPC stream.
pub fn arrow(rows: &RecordBatch) -> Result<Vec<u8>, FormatFault> {
    let mut bytes = Vec::new();
    let mut writer = StreamWriter::try_new(&mut bytes, rows.schema_ref())?;
    writer.write(rows)?;
    writer.finish()?;
    drop(writer);
    Ok(bytes)
}

fn rfc3339(micros: i64) -> Option<String> {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1_000).ok()?.format(&Rfc3339).ok()
}

fn csv_line<'a>(values: impl Iterator<Item = Option<Cow<'a, str>>>, line: &mut String) {
    for (at, value) in values.enumerate() {
        if at > 0 {
            line.push(',');
        }
        let Some(text) = value else { continue };
        let quoted = text.is_empty() || text.contains([',', '"', '\r', '\n']);
        // Writing to a `String` cannot fail.
        let _ = if quoted { write!(line, "\"{}\"", text.replace('"', "\"\"")) } else { line.write_str(&text) };
    }
    line.push_str("\r\n");
}

/// Why rows cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum FormatFault {
    #[error("the column `{0}` is of a type that no answer has")]
    Column(String),
    #[error("the rows cannot be written as Arrow")]
    Arrow(#[from] ArrowError),
}

impl Fault for FormatFault {
    fn remedy(&self) -> Remedy {
        Remedy::Bug
    }

    fn code(&self) -> &'static str {
        "internal_error"
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::ArrayRef;
    use arrow_ipc::reader::StreamReader;
    use arrow_schema::{Field, Schema};
    use serde_json::json;

    use super::*;

    fn rows() -> RecordBatch {
        let instant = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        let fields = [
            ("msg_id", DataType::Utf8),
            ("msg_type", DataType::Int64),
            ("create_time", instant),
            ("content", DataType::Utf8),
            ("extras", DataType::Utf8),
            ("year", DataType::Int32),
        ];
        let times = [Some(1_793_836_800_000_000), Some(1_793_836_800_000_001), Some(1_793_836_800_500_000), None];
        let extras =
            [Some(r#" {"n": 12345678901234567890.10, "a": [1, "]"]}"#), Some("{broken"), Some("[]"), Some("7")];
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from(vec!["a", "b", "c", "d"])),
            Arc::new(Int64Array::from(vec![Some(1), Some(i64::MIN), None, Some(-7)])),
            Arc::new(TimestampMicrosecondArray::from(times.to_vec()).with_timezone("UTC")),
            Arc::new(StringArray::from(vec![Some("你好 👋, \"so\"\r\n"), Some("{}"), Some(""), None])),
            Arc::new(StringArray::from(extras.to_vec())),
            Arc::new(Int32Array::from(vec![2026; 4])),
        ];
        let schema = Schema::new(fields.map(|(name, kind)| Field::new(name, kind, true)).to_vec());
        RecordBatch::try_new(Arc::new(schema), columns).unwrap()
    }

    #[test]
    fn json_has_every_column_and_what_is_json_stands_there_as_it_came() {
        let rows = rows();
        let rows = Rows::of(&rows).unwrap();
        let text = serde_json::to_string(&rows).unwrap();
        assert!(text.contains(r#""extras":{"n": 12345678901234567890.10, "a": [1, "]"]}"#), "{text}");
        let value = serde_json::to_value(&rows).unwrap();
        let row = |at: usize, names: [&str; 4]| names.map(|name| value[at][name].clone());
        assert_eq!(
            row(0, ["msg_type", "create_time", "content", "year"]),
            [json!(1), json!("2026-11-05T00:00:00Z"), json!("你好 👋, \"so\"\r\n"), json!(2026)]
        );
        assert_eq!(
            row(1, ["msg_type", "create_time", "content", "extras"]),
            [json!(i64::MIN), json!("2026-11-05T00:00:00.000001Z"), json!("{}"), json!("{broken")]
        );
        assert_eq!(
            row(2, ["msg_type", "create_time", "content", "extras"]),
            [json!(null), json!("2026-11-05T00:00:00.5Z"), json!(""), json!([])]
        );
        assert_eq!(
            row(3, ["msg_id", "create_time", "content", "extras"]),
            [json!("d"), json!(null), json!(null), json!("7")]
        );
    }

    #[test]
    fn csv_tells_an_empty_text_from_a_null_and_quotes_what_needs_it() {
        let rows = rows();
        let rows = Rows::of(&rows).unwrap();
        assert_eq!(rows.csv_header(), "msg_id,msg_type,create_time,content,extras,year\r\n");
        let lines = concat!(
            "a,1,2026-11-05T00:00:00Z,\"你好 👋, \"\"so\"\"\r\n\",\" {\"\"n\"\": 12345678901234567890.10, \"\"a\"\": [1, \"\"]\"\"]}\",2026\r\n",
            "b,-9223372036854775808,2026-11-05T00:00:00.000001Z,{},{broken,2026\r\n",
            "c,,2026-11-05T00:00:00.5Z,\"\",[],2026\r\n",
            "d,-7,,,7,2026\r\n",
        );
        assert_eq!(rows.csv(), lines);
    }

    #[test]
    fn arrow_is_a_stream_of_the_same_rows_even_if_there_are_none() {
        for rows in [rows(), rows().slice(1, 2), rows().slice(0, 0)] {
            let bytes = arrow(&rows).unwrap();
            let stream = StreamReader::try_new(bytes.as_slice(), None).unwrap();
            assert_eq!(stream.schema(), rows.schema());
            let read: Vec<RecordBatch> = stream.map(Result::unwrap).collect();
            assert_eq!(read, [rows]);
        }
    }

    #[test]
    fn a_column_of_a_type_that_is_not_known_is_named() {
        let odd: ArrayRef = Arc::new(arrow_array::Float64Array::from(vec![1.0]));
        let rows = RecordBatch::try_from_iter([("odd", odd)]).unwrap();
        assert!(matches!(Rows::of(&rows), Err(FormatFault::Column(name)) if name == "odd"));
    }
}
