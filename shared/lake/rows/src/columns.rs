//! Rows in columns: one row being read, and the columns that it is appended to.

use std::ops::Range;
use std::sync::Arc;

use arrow_array::builder::{Int64Builder, StringBuilder, TimestampMicrosecondBuilder};
use arrow_array::{Array as _, ArrayRef, RecordBatch};
use arrow_schema::ArrowError;
use domain::lake::Kind;

use crate::digest::ContentHash;
use crate::schema::{ColumnType, definitions, is_content, schema};

/// The values of one row, in the order of the table's columns. It is filled again and again, so that a row costs no allocation.
#[derive(Debug, Default)]
pub(crate) struct Row {
    values: Vec<Value>,
    text: String,
}

#[derive(Debug, Clone)]
enum Value {
    Null,
    /// An integer, or an instant in microseconds.
    Integer(i64),
    /// A part of the row's text.
    Text(Range<usize>),
}

impl Row {
    pub(crate) fn clear(&mut self) {
        self.values.clear();
        self.text.clear();
    }

    /// Makes room for so many values, all of them null until they are put.
    pub(crate) fn widen(&mut self, columns: usize) {
        self.values.resize(columns, Value::Null);
    }

    fn put(&mut self, column: usize, value: Value) {
        if let Some(place) = self.values.get_mut(column) {
            *place = value;
        }
    }

    pub(crate) fn put_null(&mut self, column: usize) {
        self.put(column, Value::Null);
    }

    pub(crate) fn put_integer(&mut self, column: usize, value: i64) {
        self.put(column, Value::Integer(value));
    }

    pub(crate) fn put_text(&mut self, column: usize, value: &str) {
        self.put_text_with(column, |text| text.push_str(value));
    }

    /// Puts what `write` appends to the text that it is given; returns what that returns.
    pub(crate) fn put_text_with<T>(&mut self, column: usize, write: impl FnOnce(&mut String) -> T) -> T {
        let start = self.text.len();
        let written = write(&mut self.text);
        self.put(column, Value::Text(start..self.text.len()));
        written
    }

    pub(crate) fn null(&mut self) {
        self.values.push(Value::Null);
    }

    pub(crate) fn integer(&mut self, value: Option<i64>) {
        self.values.push(value.map_or(Value::Null, Value::Integer));
    }

    pub(crate) fn text(&mut self, value: &str) {
        self.text_with(|text| text.push_str(value));
    }

    /// A value that `write` appends to the text that it is given.
    pub(crate) fn text_with(&mut self, write: impl FnOnce(&mut String)) {
        let start = self.text.len();
        write(&mut self.text);
        self.values.push(Value::Text(start..self.text.len()));
    }

    /// What the row is recognised by: the first column of either table.
    pub(crate) fn key(&self) -> &str {
        self.text_at(0).unwrap_or_default()
    }

    /// A hash of its content.
    pub(crate) fn says(&self, table: Kind) -> [u8; 32] {
        let mut hash = ContentHash::default();
        for (at, column) in definitions(table).iter().enumerate() {
            match (self.text_at(at), self.integer_at(at)) {
                (Some(text), _) => hash.add(column.name, text.as_bytes()),
                (None, Some(number)) => hash.add(column.name, &number.to_le_bytes()),
                (None, None) => {}
            }
        }
        hash.finish()
    }

    pub(crate) fn text_at(&self, column: usize) -> Option<&str> {
        match self.values.get(column)? {
            Value::Text(range) => self.text.get(range.clone()),
            Value::Null | Value::Integer(_) => None,
        }
    }

    pub(crate) fn integer_at(&self, column: usize) -> Option<i64> {
        match self.values.get(column)? {
            Value::Integer(value) => Some(*value),
            Value::Null | Value::Text(_) => None,
        }
    }
}

#[derive(Debug)]
enum Builder {
    Text(StringBuilder),
    Integer(Int64Builder),
    Instant(TimestampMicrosecondBuilder),
}

/// Columns of one table that grow row by row.
#[derive(Debug)]
pub(crate) struct Columns {
    table: Kind,
    builders: Vec<Builder>,
    rows: usize,
    text_bytes: usize,
}

impl Columns {
    pub(crate) fn new(table: Kind) -> Self {
        let builders = definitions(table).iter().map(|column| match column.kind {
            ColumnType::Text => Builder::Text(StringBuilder::with_capacity(0, 0)),
            ColumnType::Integer => Builder::Integer(Int64Builder::with_capacity(0)),
            ColumnType::Instant => Builder::Instant(TimestampMicrosecondBuilder::with_capacity(0)),
        });
        Self { table, builders: builders.collect(), rows: 0, text_bytes: 0 }
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn text_bytes(&self) -> usize {
        self.text_bytes
    }

    pub(crate) fn append(&mut self, row: &Row) {
        for (at, builder) in self.builders.iter_mut().enumerate() {
            match builder {
                Builder::Text(builder) => match row.text_at(at) {
                    Some(text) => builder.append_value(text),
                    None => builder.append_null(),
                },
                Builder::Integer(builder) => builder.append_option(row.integer_at(at)),
                Builder::Instant(builder) => builder.append_option(row.integer_at(at)),
            }
        }
        self.rows += 1;
        self.text_bytes += row.text.len();
    }

    /// Makes room for so many times what is there, and a little more.
    pub(crate) fn reserve(&mut self, times: f64) {
        let more = |now: usize| (now as f64 * times * 1.1) as usize;
        for builder in &mut self.builders {
            match builder {
                Builder::Text(builder) => {
                    let rows = builder.finish();
                    *builder = StringBuilder::with_capacity(more(rows.len()), more(rows.value_data().len()));
                    rows.iter().for_each(|text| builder.append_option(text));
                }
                Builder::Integer(builder) => {
                    let rows = builder.finish();
                    *builder = Int64Builder::with_capacity(more(rows.len()));
                    rows.iter().for_each(|integer| builder.append_option(integer));
                }
                Builder::Instant(builder) => {
                    let rows = builder.finish();
                    *builder = TimestampMicrosecondBuilder::with_capacity(more(rows.len()));
                    rows.iter().for_each(|instant| builder.append_option(instant));
                }
            }
        }
    }

    /// Whether the row at `at` has the key.
    pub(crate) fn has_key(&self, at: usize, key: &str) -> bool {
        match self.builders.first() {
            Some(Builder::Text(builder)) => text_at(builder, at) == Some(key.as_bytes()),
            _ => false,
        }
    }

    /// Whether the row at `at` says the same as another: see [`is_content`].
    pub(crate) fn says(&self, at: usize, row: &Row) -> bool {
        self.builders
            .iter()
            .zip(definitions(self.table))
            .enumerate()
            .filter(|(_, (_, column))| is_content(column.name))
            .all(|(column, (builder, _))| match builder {
                Builder::Text(builder) => text_at(builder, at) == row.text_at(column).map(str::as_bytes),
                Builder::Integer(builder) => {
                    integer_at(builder.values_slice(), builder.validity_slice(), at) == row.integer_at(column)
                }
                Builder::Instant(builder) => {
                    integer_at(builder.values_slice(), builder.validity_slice(), at) == row.integer_at(column)
                }
            })
    }

    pub(crate) fn finish(self) -> Result<RecordBatch, ArrowError> {
        let columns = self.builders.into_iter().map(|builder| -> ArrayRef {
            match builder {
                Builder::Text(mut builder) => Arc::new(builder.finish()),
                Builder::Integer(mut builder) => Arc::new(builder.finish()),
                Builder::Instant(mut builder) => Arc::new(builder.finish().with_timezone("UTC")),
            }
        });
        RecordBatch::try_new(schema(self.table), columns.collect())
    }
}

fn is_valid(validity: Option<&[u8]>, at: usize) -> bool {
    validity.is_none_or(|bits| bits.get(at / 8).is_some_and(|byte| byte & (1 << (at % 8)) != 0))
}

fn text_at(builder: &StringBuilder, at: usize) -> Option<&[u8]> {
    if !is_valid(builder.validity_slice(), at) {
        return None;
    }
    let offset = |at: usize| builder.offsets_slice().get(at).and_then(|offset| usize::try_from(*offset).ok());
    builder.values_slice().get(offset(at)?..offset(at + 1)?)
}

fn integer_at(values: &[i64], validity: Option<&[u8]>, at: usize) -> Option<i64> {
    if is_valid(validity, at) { values.get(at).copied() } else { None }
}
