//! Answers by reading all of every file.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, ArrayRef, RecordBatch, UInt32Array, new_null_array};
use arrow_schema::{Field, Schema, SchemaRef};
use arrow_select::concat::concat_batches;
use arrow_select::take::take_record_batch;
use domain::lake::{Kind, Partition};
use lake::{DataFile, Snapshot};
use lake_rows::PARTITION_COLUMNS;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};

use crate::{
    Cursor, DayDuplicates, Duplicate, Duplicates, Filter, Found, NAMED, PAGE_BYTES, PartitionValidation, Problem,
    ProblemKind, Query, ReadFault, Reader, Validation,
};

fn micros(at: OffsetDateTime) -> i64 {
    i64::try_from(at.unix_timestamp_nanos().div_euclid(1_000)).unwrap_or(i64::MAX)
}

/// The days that may hold what the filter takes.
fn days(filter: &Filter) -> impl Fn(Partition) -> bool + Send + 'static {
    let (start, end) = (filter.start, filter.end);
    move |day| {
        start.is_none_or(|start| day.ends_at() > start) && end.is_none_or(|end| day.ends_at() - Duration::DAY < end)
    }
}

/// The table's columns that files have.
fn columns(snapshot: &Snapshot) -> SchemaRef {
    let fields = snapshot.columns.fields().iter().filter(|field| !PARTITION_COLUMNS.contains(&field.name().as_str()));
    let fields = fields.map(|field| Field::new(field.name(), field.data_type().clone(), true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

fn rows_of(file: &DataFile, bytes: bytes::Bytes, schema: &SchemaRef) -> Result<RecordBatch, ReadFault> {
    let unreadable = |cause| ReadFault::Parquet { file: file.path.clone(), cause };
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).and_then(|it| it.build()).map_err(unreadable)?;
    let mut batches = Vec::new();
    for batch in reader {
        let batch = batch?;
        let arrays = schema.fields().iter().map(|field| -> ArrayRef {
            batch
                .column_by_name(field.name())
                .map_or_else(|| new_null_array(field.data_type(), batch.num_rows()), Arc::clone)
        });
        batches.push(RecordBatch::try_new(Arc::clone(schema), arrays.collect())?);
    }
    Ok(concat_batches(schema, &batches)?)
}

impl Reader {
    async fn day(&self, kind: Kind, schema: &SchemaRef, files: &[&DataFile]) -> Result<RecordBatch, ReadFault> {
        let mut batches = Vec::new();
        for file in files {
            batches.push(rows_of(file, self.lake.read_file(kind, &file.path).await?, schema)?);
        }
        Ok(concat_batches(schema, &batches)?)
    }

    async fn load(
        &self,
        kind: Kind,
        wanted: impl Fn(Partition) -> bool + Send + 'static,
    ) -> Result<Option<(u64, SchemaRef, BTreeMap<Partition, RecordBatch>)>, ReadFault> {
        let Some(snapshot) = self.lake.snapshot(kind, wanted).await? else { return Ok(None) };
        let bytes = snapshot.files.iter().map(|file| file.bytes).sum();
        if bytes > self.scan_bytes {
            return Err(ReadFault::TooLarge { bytes, limit: self.scan_bytes });
        }
        let mut by_day: BTreeMap<Partition, Vec<&DataFile>> = BTreeMap::new();
        for file in &snapshot.files {
            by_day.entry(file.partition).or_default().push(file);
        }
        let (schema, mut days) = (columns(&snapshot), BTreeMap::new());
        for (day, files) in by_day {
            days.insert(day, self.day(kind, &schema, &files).await?);
        }
        Ok(Some((snapshot.version, schema, days)))
    }
}

fn text<'a>(rows: &'a RecordBatch, column: &str, row: usize) -> Option<&'a str> {
    let texts = rows.column_by_name(column)?.as_string_opt::<i32>()?;
    texts.is_valid(row).then(|| texts.value(row))
}

fn instant(rows: &RecordBatch, column: &str, row: usize) -> Option<i64> {
    let times = rows.column_by_name(column)?.as_primitive_opt::<TimestampMicrosecondType>()?;
    times.is_valid(row).then(|| times.value(row))
}

fn integer(rows: &RecordBatch, column: &str, row: usize) -> Option<i64> {
    let numbers = rows.column_by_name(column)?.as_primitive_opt::<Int64Type>()?;
    numbers.is_valid(row).then(|| numbers.value(row))
}

/// The messages of a day that the filter takes, in order: time, id, row.
fn messages_of<'a>(rows: &'a RecordBatch, filter: &Filter) -> Vec<(i64, &'a str, usize)> {
    let mut first: HashMap<&str, (i64, usize)> = HashMap::new();
    for row in 0..rows.num_rows() {
        if let Some(id) = text(rows, "msg_id", row) {
            let received = (instant(rows, "received_at", row).unwrap_or(i64::MAX), row);
            let known = first.entry(id).or_insert(received);
            *known = received.min(*known);
        }
    }
    let takes = |row: usize| {
        let is = |column, wanted: &Option<String>| {
            wanted.as_ref().is_none_or(|wanted| text(rows, column, row) == Some(wanted))
        };
        is("chatroom", &filter.chatroom)
            && is("from_username", &filter.from_username)
            && is("chatroom_sender", &filter.chatroom_sender)
            && is("source", &filter.source)
            && filter.msg_type.is_none_or(|wanted| integer(rows, "msg_type", row) == Some(wanted))
    };
    let mut found: Vec<_> = first
        .into_iter()
        .filter_map(|(id, (_, row))| Some((instant(rows, "create_time", row)?, id, row)))
        .filter(|(at, _, row)| {
            filter.start.is_none_or(|start| *at >= micros(start))
                && filter.end.is_none_or(|end| *at < micros(end))
                && takes(*row)
        })
        .collect();
    found.sort_unstable();
    found
}

fn asked(schema: &SchemaRef, columns: &[String]) -> Result<Vec<usize>, ReadFault> {
    if columns.is_empty() {
        return Ok((0..schema.fields().len()).collect());
    }
    columns.iter().map(|name| schema.index_of(name).map_err(|_| ReadFault::UnknownColumn(name.clone()))).collect()
}

pub(crate) async fn messages(reader: &Reader, query: &Query) -> Result<Found, ReadFault> {
    let loaded = reader.load(Kind::Messages, days(&query.filter)).await?;
    let (version, schema, days) = loaded.unwrap_or_else(|| (0, lake_rows::schema(Kind::Messages), BTreeMap::new()));
    let columns = asked(&schema, &query.columns)?;
    let limit = query.limit.max(1);
    let (mut pages, mut count, mut next, mut last, mut bytes) = (Vec::new(), 0, None, None, 0);
    'days: for rows in days.values() {
        let mut taken = Vec::new();
        for (at, id, row) in messages_of(rows, &query.filter) {
            let place = Cursor { micros: at, msg_id: id.to_owned() };
            if query.after.as_ref().is_some_and(|after| place <= *after) {
                continue;
            }
            let one = rows.slice(row, 1).project(&columns)?;
            let size: usize = one.columns().iter().map(|it| it.to_data().get_slice_memory_size().unwrap_or(0)).sum();
            if count == limit || (count > 0 && bytes + size > PAGE_BYTES) {
                next = last;
                pages.push((rows, taken));
                break 'days;
            }
            (last, count, bytes) = (Some(place), count + 1, bytes + size);
            taken.push(row as u32);
        }
        pages.push((rows, taken));
    }
    let taken = pages
        .into_iter()
        .map(|(rows, taken)| Ok(take_record_batch(&rows.project(&columns)?, &UInt32Array::from(taken))?));
    let taken = taken.collect::<Result<Vec<_>, ReadFault>>()?;
    let rows = concat_batches(&Arc::new(schema.project(&columns)?), &taken)?;
    Ok(Found { rows, next, version, scanned_bytes: 0 })
}

pub(crate) async fn message(reader: &Reader, msg_id: &str) -> Result<Option<RecordBatch>, ReadFault> {
    let Some((.., days)) = reader.load(Kind::Messages, |_| true).await? else { return Ok(None) };
    let rows = days.values().flat_map(|rows| (0..rows.num_rows()).map(move |row| (rows, row)));
    let mine = rows.filter(|(rows, row)| text(rows, "msg_id", *row) == Some(msg_id));
    let first = mine.min_by_key(|(rows, row)| instant(rows, "received_at", *row).unwrap_or(i64::MAX));
    Ok(first.map(|(rows, row)| rows.slice(row, 1)))
}

pub(crate) async fn contact(reader: &Reader, username: &str) -> Result<Option<RecordBatch>, ReadFault> {
    let Some((.., days)) = reader.load(Kind::Contacts, |_| true).await? else { return Ok(None) };
    let rows = days.values().flat_map(|rows| (0..rows.num_rows()).map(move |row| (rows, row)));
    let mine = rows.filter(|(rows, row)| text(rows, "username", *row) == Some(username));
    let last = mine.max_by_key(|(rows, row)| instant(rows, "received_at", *row));
    Ok(last.map(|(rows, row)| rows.slice(row, 1)))
}

pub(crate) async fn count_by(
    reader: &Reader,
    filter: &Filter,
    column: &str,
) -> Result<Vec<(Option<String>, u64)>, ReadFault> {
    let loaded = reader.load(Kind::Messages, days(filter)).await?;
    let (_, schema, days) = loaded.unwrap_or_else(|| (0, lake_rows::schema(Kind::Messages), BTreeMap::new()));
    asked(&schema, &[column.to_owned()])?;
    let mut counts: HashMap<Option<String>, u64> = HashMap::new();
    for rows in days.values() {
        for (_, _, row) in messages_of(rows, filter) {
            let rfc3339 = |micros: i64| {
                OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1_000).ok()?.format(&Rfc3339).ok()
            };
            let value = text(rows, column, row).map(str::to_owned);
            let value = value.or_else(|| integer(rows, column, row).map(|number| number.to_string()));
            let value = value.or_else(|| instant(rows, column, row).and_then(rfc3339));
            *counts.entry(value).or_default() += 1;
        }
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_unstable_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    Ok(counts)
}

pub(crate) async fn validate(
    reader: &Reader,
    kind: Kind,
    partition: Option<Partition>,
) -> Result<Validation, ReadFault> {
    let wanted = move |day| partition.is_none_or(|partition| partition == day);
    let Some(snapshot) = reader.lake.snapshot(kind, wanted).await? else { return Ok(Validation::default()) };
    let mut days: BTreeMap<Partition, PartitionValidation> = BTreeMap::new();
    for file in &snapshot.files {
        let day = days.entry(file.partition).or_insert_with(|| PartitionValidation {
            partition: file.partition,
            files: 0,
            bytes: 0,
            rows: 0,
            total: 0,
            problems: Vec::new(),
        });
        (day.files, day.bytes, day.rows) = (day.files + 1, day.bytes + file.bytes, day.rows + file.rows);
        let key = format!("{}/{}", snapshot.folder, file.path);
        let problem = match reader.lake.read_object(&key).await? {
            None => Some((ProblemKind::Missing, "the store has no such object".to_owned())),
            Some(bytes) if bytes.len() as u64 != file.bytes => {
                Some((ProblemKind::Size, format!("it has {} bytes, and {} by the log", bytes.len(), file.bytes)))
            }
            Some(bytes) => match rows_of(file, bytes, &columns(&snapshot)) {
                Err(fault) => Some((ProblemKind::Unreadable, domain::fault::chain(&fault))),
                Ok(rows) if rows.num_rows() as u64 != file.rows => {
                    Some((ProblemKind::Rows, format!("it has {} rows, and {} by the log", rows.num_rows(), file.rows)))
                }
                Ok(_) => None,
            },
        };
        if let Some((problem, detail)) = problem {
            day.total += 1;
            if day.problems.len() < NAMED {
                day.problems.push(Problem { file: file.path.clone(), problem, detail });
            }
        }
    }
    let partitions: Vec<_> = days.into_values().collect();
    let sum = |of: fn(&PartitionValidation) -> u64| partitions.iter().map(of).sum();
    Ok(Validation {
        version: snapshot.version,
        files: sum(|day| day.files),
        rows: sum(|day| day.rows),
        total: sum(|day| day.total),
        partitions,
    })
}

pub(crate) async fn duplicates(
    reader: &Reader,
    start: Option<Partition>,
    end: Option<Partition>,
) -> Result<Duplicates, ReadFault> {
    let wanted = move |day| start.is_none_or(|start| day >= start) && end.is_none_or(|end| day <= end);
    let Some((version, _, days)) = reader.load(Kind::Messages, wanted).await? else {
        return Ok(Duplicates::default());
    };
    let days = days.into_iter().map(|(partition, rows)| {
        let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
        for id in (0..rows.num_rows()).filter_map(|row| text(&rows, "msg_id", row)) {
            *counts.entry(id).or_default() += 1;
        }
        let twice = || counts.iter().filter(|(_, rows)| **rows > 1);
        let named = twice().take(NAMED).map(|(id, rows)| Duplicate { msg_id: (*id).to_owned(), rows: *rows });
        DayDuplicates {
            partition,
            rows: rows.num_rows() as u64,
            ids: counts.len() as u64,
            total: twice().count() as u64,
            duplicates: named.collect(),
        }
    });
    let days: Vec<_> = days.collect();
    Ok(Duplicates { version, total: days.iter().map(|day| day.total).sum(), days })
}
