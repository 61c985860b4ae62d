//! A table and its model: rows are appended to both, and only the table is merged.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow_schema::{DataType, Field, Schema};
use domain::lake::{BatchId, Counts, Kind, Partition};
use fastrand::Rng;
use lake::{DataFile, Lake, Merge, Merged, Settings};
use lake_reader::{Filter, Query, Reader};
use lake_rows::{Level, Stats, write_parquet};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use tempfile::TempDir;
use time::OffsetDateTime;
use time::macros::datetime;

/// The first day of every table.
pub(crate) const FIRST: OffsetDateTime = datetime!(2026-11-05 00:00 UTC);

pub(crate) const DAY: i64 = 86_400_000_000;

/// A column that no release knows.
pub(crate) const EXTRA: &str = "region";

/// A row: the columns that it has, numbers and times as text.
pub(crate) type Row = BTreeMap<String, String>;

pub(crate) fn micros(at: OffsetDateTime) -> i64 {
    i64::try_from(at.unix_timestamp_nanos() / 1_000).unwrap()
}

pub(crate) fn instant(micros: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1_000).unwrap()
}

/// Day n of the table.
pub(crate) fn day(n: i64) -> Partition {
    Partition::of(instant(micros(FIRST) + n * DAY)).unwrap()
}

pub(crate) fn number(row: &Row, column: &str) -> Option<i64> {
    row.get(column).map(|value| value.parse().unwrap())
}

pub(crate) fn row<const N: usize>(columns: [(&str, &str); N]) -> Row {
    columns.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// A message said so many microseconds after the table's first day began, and received a second later.
pub(crate) fn message(msg_id: &str, after: i64) -> Row {
    let said = micros(FIRST) + after;
    let (said, received) = (said.to_string(), (said + 1_000_000).to_string());
    row([("msg_id", msg_id), ("create_time", &said), ("received_at", &received), ("source", "wechat")])
}

fn array(data_type: &DataType, values: Vec<Option<&String>>) -> ArrayRef {
    let numbers = || values.iter().map(|value| value.map(|value| value.parse::<i64>().unwrap()));
    match data_type {
        DataType::Int64 => Arc::new(Int64Array::from_iter(numbers())),
        DataType::Timestamp(..) => Arc::new(TimestampMicrosecondArray::from_iter(numbers()).with_timezone("UTC")),
        _ => Arc::new(values.into_iter().collect::<StringArray>()),
    }
}

fn batch(rows: &[Row], schema: Schema) -> RecordBatch {
    let values = |name: &str| rows.iter().map(|row| row.get(name)).collect();
    let arrays = schema.fields().iter().map(|field| array(field.data_type(), values(field.name())));
    let arrays = arrays.collect();
    RecordBatch::try_new(Arc::new(schema), arrays).unwrap()
}

pub(crate) fn rows(batch: &RecordBatch) -> Vec<Row> {
    let mut rows = vec![Row::new(); batch.num_rows()];
    for (field, array) in batch.schema().fields().iter().zip(batch.columns()) {
        for (at, row) in rows.iter_mut().enumerate().filter(|(at, _)| array.is_valid(*at)) {
            let value = match array.data_type() {
                DataType::Int64 => array.as_primitive::<Int64Type>().value(at).to_string(),
                DataType::Timestamp(..) => array.as_primitive::<TimestampMicrosecondType>().value(at).to_string(),
                _ => array.as_string::<i32>().value(at).to_owned(),
            };
            row.insert(field.name().clone(), value);
        }
    }
    rows
}

pub(crate) fn ids(rows: &[Row]) -> Vec<&str> {
    rows.iter().map(|row| row["msg_id"].as_str()).collect()
}

pub(crate) struct Table {
    pub(crate) lake: Arc<Lake>,
    /// All messages that were ever appended.
    pub(crate) messages: Vec<Row>,
    pub(crate) contacts: Vec<Row>,
    pub(crate) folder: TempDir,
    batches: u64,
    has_extra: bool,
}

impl Table {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let lake = Lake::open(&Settings::folder(folder.path())).unwrap();
        Self::of(lake, folder)
    }

    pub(crate) fn of(lake: Lake, folder: TempDir) -> Self {
        let lake = Arc::new(lake);
        Self { lake, messages: Vec::new(), contacts: Vec::new(), folder, batches: 0, has_extra: false }
    }

    pub(crate) fn reader(&self) -> Reader {
        Reader::new(self.lake.clone())
    }

    fn next_batch(&mut self) -> BatchId {
        self.batches += 1;
        BatchId::new(FIRST, &format!("{:064x}", self.batches)).unwrap()
    }

    async fn commit(&mut self, kind: Kind, batch: &BatchId, file: DataFile) {
        let counts = Counts { lines_in: file.rows, rows: file.rows, duplicates: 0, quarantined: 0 };
        self.lake.append(kind, &[file], batch, counts).await.unwrap();
    }

    /// Appends a file of one day, as an append of this release writes it.
    pub(crate) async fn append(&mut self, kind: Kind, day: Partition, new: &[Row]) {
        let batch_id = self.next_batch();
        let written = write_parquet(kind, &batch(new, lake_rows::schema(kind).as_ref().clone()), Level::L0).unwrap();
        let file = self.lake.write_batch_file(kind, day, &batch_id, &written).await.unwrap();
        self.commit(kind, &batch_id, file).await;
        match kind {
            Kind::Messages => self.messages.extend_from_slice(new),
            Kind::Contacts => self.contacts.extend_from_slice(new),
        }
    }

    pub(crate) async fn append_messages(&mut self, day: Partition, new: &[Row]) {
        self.append(Kind::Messages, day, new).await;
    }

    /// Appends a file as another release writes it: without the columns `unknown`, with one more, in small row groups and pages, and the log knows
    /// nothing but its rows.
    pub(crate) async fn append_other(&mut self, day: Partition, new: &[Row], unknown: &BTreeSet<&str>) {
        let level = Level::L0.prefix();
        self.append_as(level, day, new, unknown).await;
    }

    pub(crate) async fn append_as(&mut self, level: &str, day: Partition, new: &[Row], unknown: &BTreeSet<&str>) {
        // The table is made before its first file is.
        let current = lake_rows::schema(Kind::Messages);
        if !self.has_extra {
            self.lake.add_column(Kind::Messages, EXTRA, DataType::Utf8).await.unwrap();
            self.has_extra = true;
        }
        let mut fields: Vec<Field> = current
            .fields()
            .iter()
            .filter(|field| !unknown.contains(field.name().as_str()))
            .map(|field| field.as_ref().clone())
            .collect();
        fields.insert(1, Field::new(EXTRA, DataType::Utf8, true));
        let rows = batch(new, Schema::new(fields));
        let properties = WriterProperties::builder()
            .set_max_row_group_row_count(Some(25))
            .set_data_page_row_count_limit(4)
            .set_write_batch_size(4)
            .set_column_index_truncate_length(Some(3))
            .set_column_dictionary_enabled("source".into(), self.batches.is_multiple_of(2))
            .set_column_bloom_filter_enabled("msg_id".into(), !self.batches.is_multiple_of(3));
        let mut writer = ArrowWriter::try_new(Vec::new(), rows.schema(), Some(properties.build())).unwrap();
        writer.write(&rows).unwrap();
        let bytes = writer.into_inner().unwrap();

        let batch_id = self.next_batch();
        let path = format!("{}/{level}-{}-other.parquet", day.folder(), batch_id.sha256());
        let key = self.lake.file_key(Kind::Messages, &path).await.unwrap();
        let file = DataFile {
            path,
            partition: day,
            bytes: bytes.len() as u64,
            rows: new.len() as u64,
            stats: Stats { num_records: new.len() as u64, ..Stats::default() },
        };
        self.lake.write_object(&key, bytes.into()).await.unwrap();
        self.commit(Kind::Messages, &batch_id, file).await;
        let known = new.iter().cloned().map(|mut row| {
            row.retain(|name, _| !unknown.contains(name.as_str()));
            row
        });
        self.messages.extend(known);
    }

    /// Merges files of a day: all, or those that `wanted` takes of their number and path.
    pub(crate) async fn merge(
        &self,
        kind: Kind,
        day: Partition,
        level: Level,
        mut wanted: impl FnMut(usize, &str) -> bool,
    ) {
        let files = self.lake.files(kind, move |partition| partition == day).await.unwrap();
        let files = files.into_iter().enumerate().filter(|(at, file)| wanted(*at, &file.path));
        let files: Vec<DataFile> = files.map(|(_, file)| file).collect();
        if files.is_empty() {
            return;
        }
        let scratch = tempfile::tempdir().unwrap();
        let merge = Merge { kind, partition: day, level, reason: "compact", memory_bytes: 16 << 20 };
        let merged = self.lake.merge(merge, &files, scratch.path()).await.unwrap();
        assert!(matches!(merged, Merged::Done(_)), "{merged:?}");
    }

    pub(crate) async fn merge_all(&self, day: Partition, level: Level) {
        self.merge(Kind::Messages, day, level, |_, _| true).await;
    }

    /// The messages that should be found, in order: by the rules as they are told to people.
    pub(crate) fn expected(&self, filter: &Filter) -> Vec<Row> {
        let mut first: BTreeMap<(i64, &str), &Row> = BTreeMap::new();
        for row in &self.messages {
            let (Some(id), Some(said)) = (row.get("msg_id"), number(row, "create_time")) else { continue };
            let received = |row: &Row| number(row, "received_at").unwrap_or(i64::MAX);
            let kept = first.entry((said.div_euclid(DAY), id)).or_insert(row);
            if received(row) < received(kept) {
                *kept = row;
            }
        }
        let is = |row: &Row, column: &str, wanted: &Option<String>| {
            wanted.as_ref().is_none_or(|wanted| row.get(column) == Some(wanted))
        };
        let mut found: Vec<Row> = first
            .into_values()
            .filter(|row| {
                let said = number(row, "create_time").unwrap();
                filter.start.is_none_or(|start| said >= micros(start))
                    && filter.end.is_none_or(|end| said < micros(end))
                    && is(row, "chatroom", &filter.chatroom)
                    && is(row, "from_username", &filter.from_username)
                    && is(row, "chatroom_sender", &filter.chatroom_sender)
                    && is(row, "source", &filter.source)
                    && filter.msg_type.is_none_or(|wanted| number(row, "msg_type") == Some(wanted))
            })
            .cloned()
            .collect();
        found.sort_by(|a, b| (number(a, "create_time"), &a["msg_id"]).cmp(&(number(b, "create_time"), &b["msg_id"])));
        found
    }
}

/// All pages of a query, with `between` done after each.
pub(crate) async fn pages(reader: &Reader, query: &Query, mut between: impl AsyncFnMut(usize)) -> Vec<Vec<Row>> {
    let (mut query, mut pages) = (query.clone(), Vec::new());
    loop {
        let found = reader.messages(&query).await.unwrap();
        pages.push(rows(&found.rows));
        let Some(next) = found.next else { return pages };
        assert!(found.rows.num_rows() > 0, "an empty page that is not the last");
        query.after = Some(next.to_string().parse().unwrap());
        between(pages.len()).await;
    }
}

const PEOPLE: [&str; 5] = ["小明", "wxid_阿强", "Tom", "张伟🐱", "wxid_0001"];

/// So many messages of day n, whose ids are among `ids`; the same id tells the same unless it is a conflict.
pub(crate) fn random_messages(random: &mut Rng, n: i64, count: usize, ids: u64) -> Vec<Row> {
    let mut taken = BTreeSet::new();
    let one = |random: &mut Rng| {
        let id = random.u64(..ids);
        let mut told = Rng::with_seed(id * 31 + n as u64);
        let mut row = message(&format!("{}", told.u64(..) >> 1 ^ id), n * DAY + told.i64(0..20) * (DAY / 20));
        // One in ten repetitions says something else.
        let mut told = if random.u8(..10) == 0 { random.fork() } else { told };
        let mut set = |name: &str, value: String| row.insert(name.to_owned(), value);
        if told.u8(..4) > 0 {
            set("chatroom", format!("群{}@chatroom", told.u8(..6)));
            set("chatroom_sender", PEOPLE[told.usize(..5)].to_owned());
        } else if told.bool() {
            set("chatroom", String::new());
        }
        set("from_username", PEOPLE[told.usize(..5)].to_owned());
        if told.u8(..5) > 0 {
            set("msg_type", [1, 3, 49, 10_000][told.usize(..4)].to_string());
        }
        set("content", "你好，".repeat(told.usize(..40)));
        set("source", ["wechat", "lark"][usize::from(told.u8(..5) == 0)].to_owned());
        // Every row is received at an instant of its own, so that there is one that was first.
        set("received_at", (micros(FIRST) + n * DAY + random.i64(0..DAY * 1_000)).to_string());
        row
    };
    let rows = (0..count).map(|_| one(random));
    rows.filter(|row| taken.insert(row["msg_id"].clone())).collect()
}

pub(crate) fn random_filter(random: &mut Rng, days: i64) -> Filter {
    let time = |random: &mut Rng| {
        let at = micros(FIRST) + random.i64(-1..=days * 20) * (DAY / 20) + random.i64(-1..=1);
        (random.u8(..3) == 0).then(|| instant(at))
    };
    let some = |random: &mut Rng, value: String| (random.u8(..4) == 0).then_some(value);
    let (start, end) = (time(random), time(random));
    let (room, from, sender, source) = (random.u8(..7), random.usize(..5), random.usize(..5), random.usize(..3));
    Filter {
        start,
        end,
        chatroom: some(random, if room == 6 { String::new() } else { format!("群{room}@chatroom") }),
        from_username: some(random, PEOPLE[from].to_owned()),
        chatroom_sender: some(random, PEOPLE[sender].to_owned()),
        msg_type: (random.u8(..5) == 0).then_some([1, 3, 49, 7][random.usize(..4)]),
        source: some(random, ["wechat", "lark", "nobody"][source].to_owned()),
    }
}
