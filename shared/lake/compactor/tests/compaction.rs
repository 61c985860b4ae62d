//! What a compaction must keep, against a model that holds all rows in memory.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests fail the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow_schema::{DataType, Schema};
use bytes::Bytes;
use domain::lake::Kind;
use lake_compactor::{CompactError, Compacted, Input, Options, compact};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::PageIndexPolicy;
use parquet::file::properties::WriterProperties;
use proptest::prelude::*;
use tempfile::TempDir;

/// The columns of a message that these tests vary; text, or a number as text.
const COLUMNS: [&str; 7] = ["msg_id", "chatroom", "create_time", "received_at", "content", "msg_type", "guid"];

/// A row: the columns that it has.
type Row = BTreeMap<String, String>;

/// A file to be: its rows, the columns that its writer did not know yet, and how it is written.
#[derive(Debug, Clone)]
struct Small {
    rows: Vec<Row>,
    unknown: BTreeSet<&'static str>,
    row_group: usize,
    codec: usize,
}

fn column(data_type: &DataType, values: Vec<Option<&String>>) -> ArrayRef {
    let numbers = || values.iter().map(|value| value.map(|value| value.parse::<i64>().unwrap()));
    match data_type {
        DataType::Int64 => Arc::new(Int64Array::from_iter(numbers())),
        DataType::Timestamp(..) => Arc::new(TimestampMicrosecondArray::from_iter(numbers()).with_timezone("UTC")),
        _ => Arc::new(values.into_iter().collect::<StringArray>()),
    }
}

impl Small {
    fn of(rows: Vec<Row>) -> Self {
        Self { rows, unknown: BTreeSet::new(), row_group: 1_000, codec: 0 }
    }

    fn parquet(&self, table: Kind) -> Bytes {
        let fields: Vec<_> = lake_rows::schema(table)
            .fields()
            .iter()
            .filter(|it| !self.unknown.contains(it.name().as_str()))
            .cloned()
            .collect();
        let arrays = fields
            .iter()
            .map(|field| column(field.data_type(), self.rows.iter().map(|row| row.get(field.name())).collect()));
        let (arrays, schema) = (arrays.collect(), Arc::new(Schema::new(fields)));
        let codecs = [Compression::SNAPPY, Compression::ZSTD(ZstdLevel::default()), Compression::UNCOMPRESSED];
        let properties = WriterProperties::builder()
            .set_compression(codecs[self.codec % 3])
            .set_dictionary_enabled(self.codec.is_multiple_of(2))
            .set_max_row_group_row_count(Some(self.row_group));
        let mut writer = ArrowWriter::try_new(Vec::new(), Arc::clone(&schema), Some(properties.build())).unwrap();
        writer.write(&RecordBatch::try_new(schema, arrays).unwrap()).unwrap();
        writer.into_inner().unwrap().into()
    }

    /// What its file says.
    fn said(&self) -> impl Iterator<Item = Row> {
        self.rows.iter().map(|row| {
            row.iter()
                .filter(|(name, _)| !self.unknown.contains(name.as_str()))
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect()
        })
    }
}

fn rows(batch: &RecordBatch) -> Vec<Row> {
    let mut rows = vec![Row::new(); batch.num_rows()];
    for (field, array) in batch.schema().fields().iter().zip(batch.columns()) {
        for (at, row) in rows.iter_mut().enumerate().filter(|(at, _)| array.is_valid(*at)) {
            let value = match array.data_type() {
                DataType::Int64 => array.as_primitive::<Int64Type>().value(at).to_string(),
                DataType::Timestamp(..) => array.as_primitive::<TimestampMicrosecondType>().value(at).to_string(),
                DataType::Utf8View => array.as_string_view().value(at).to_owned(),
                _ => array.as_string::<i32>().value(at).to_owned(),
            };
            row.insert(field.name().clone(), value);
        }
    }
    rows
}

/// A compaction and the folder that its outputs are in.
struct Done {
    compacted: Compacted,
    folder: TempDir,
}

impl Done {
    fn files(&self) -> Vec<Bytes> {
        self.compacted.outputs.iter().map(|output| fs::read(&output.path).unwrap().into()).collect()
    }

    fn rows(&self) -> Vec<Row> {
        let files = self.files();
        let batches =
            files.into_iter().flat_map(|file| ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap());
        batches.flat_map(|batch| rows(&batch.unwrap())).collect()
    }
}

fn compacted(table: Kind, inputs: &[Input], adjust: impl FnOnce(&mut Options)) -> Result<Done, CompactError> {
    let folder = tempfile::tempdir().unwrap();
    let mut options = Options::new(folder.path());
    adjust(&mut options);
    Ok(Done { compacted: compact(table, inputs, &options)?, folder })
}

fn inputs(table: Kind, files: &[Small]) -> Vec<Input> {
    files.iter().map(|file| Input::Bytes(file.parquet(table))).collect()
}

/// What should be kept, in order, and what should be reported, by the rules as they are told to people.
fn model(files: &[Small]) -> (Vec<Row>, BTreeSet<Row>, usize) {
    let all: Vec<Row> = files.iter().flat_map(Small::said).collect();
    let number = |row: &Row, column: &str| row.get(column).map(|value| value.parse::<i64>().unwrap());
    let content = |row: &Row| {
        row.iter().filter(|(name, _)| lake_rows::is_content(name)).map(|(a, b)| (a.clone(), b.clone())).collect::<Row>()
    };
    let (mut kept, mut by_id) = (Vec::new(), BTreeMap::<String, Vec<Row>>::new());
    for row in &all {
        match row.get("msg_id") {
            Some(id) => by_id.entry(id.clone()).or_default().push(row.clone()),
            None => kept.push(row.clone()),
        }
    }
    let mut conflicts = BTreeSet::new();
    for mut same in by_id.into_values() {
        same.sort_by_key(|row| number(row, "received_at").map_or((1, 0), |at| (0, at)));
        let mut said = BTreeSet::from([content(&same[0])]);
        conflicts.extend(same[1..].iter().filter(|row| said.insert(content(row))).map(content));
        kept.push(same.swap_remove(0));
    }
    let place = |row: &Row| (row.get("chatroom").cloned(), number(row, "create_time"), row.get("msg_id").cloned());
    kept.sort_by_key(|row| place(row));
    let lost = all.len() - kept.len();
    (kept, conflicts, lost)
}

fn row() -> impl Strategy<Value = Row> {
    let id = prop_oneof![1 => Just(None), 9 => (0..12_u8).prop_map(|id| Some(format!("7{id:018}")))];
    let room = prop_oneof![
        Just(None),
        Just(Some(String::new())),
        (0..4_u8).prop_map(|room| Some(format!("群{room}@chatroom")))
    ];
    let time = prop_oneof![1 => Just(None), 1 => Just(Some(i64::MIN + 1)), 1 => Just(Some(i64::MAX)), 9 => (-3..3_i64).prop_map(Some)];
    let received = prop_oneof![1 => Just(None), 9 => (0..6_i64).prop_map(Some)];
    let content = prop_oneof![
        Just(None),
        "[a你😀]{0,2}".prop_map(Some),
        (0..3_u8).prop_map(|it| Some(format!("{it}").repeat(200)))
    ];
    (id, room, time, received, content, proptest::option::of(0..2_i64), proptest::option::of("[ab]")).prop_map(
        |(id, room, time, received, content, kind, guid)| {
            let number = |value: Option<i64>| value.map(|value| value.to_string());
            let values = [id, room, number(time), number(received), content, number(kind), guid];
            COLUMNS.iter().zip(values).filter_map(|(name, value)| Some(((*name).to_owned(), value?))).collect()
        },
    )
}

fn small() -> impl Strategy<Value = Small> {
    let unknown = prop_oneof![3 => Just(BTreeSet::new()), 1 => proptest::collection::btree_set(proptest::sample::select(COLUMNS[1..].to_vec()), 0..4)];
    (proptest::collection::vec(row(), 0..24), unknown, 1..30_usize, 0..6_usize)
        .prop_map(|(rows, unknown, row_group, codec)| Small { rows, unknown, row_group, codec })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn every_id_is_kept_once_whole_in_order_and_a_contradiction_is_reported_once(
        files in proptest::collection::vec(small(), 0..6),
        memory_bytes in prop_oneof![Just(0_usize), 64..4_096_usize, Just(1 << 20)],
        row_group_rows in 1..40_usize,
        split in any::<bool>(),
        max_output_rows in prop_oneof![1..100_u64, Just(u64::MAX)],
    ) {
        let adjust = |options: &mut Options| {
            (options.memory_bytes, options.row_group_rows) = (memory_bytes, row_group_rows);
            options.max_output_bytes = if split { 1 } else { options.max_output_bytes };
            options.max_output_rows = max_output_rows;
        };
        let inputs = inputs(Kind::Messages, &files);
        let done = compacted(Kind::Messages, &inputs, adjust).unwrap();
        let (kept, conflicts, lost) = model(&files);
        prop_assert_eq!(done.rows(), kept.clone());
        let Compacted { outputs, rows_in, rows: count, duplicates, conflicts: reported } = &done.compacted;
        prop_assert_eq!((*count, *duplicates, *rows_in), (kept.len() as u64, lost as u64, (kept.len() + lost) as u64));
        prop_assert_eq!(outputs.iter().map(|output| output.rows).sum::<u64>(), *count);
        let most = max_output_rows.max(row_group_rows as u64);
        prop_assert!(outputs.iter().all(|output| output.rows <= most), "{:?}", outputs);
        prop_assert_eq!(reported.num_rows(), conflicts.len());
        let said = rows(reported).into_iter().map(|row| row.into_iter().filter(|(name, _)| lake_rows::is_content(name)).collect());
        prop_assert_eq!(said.collect::<BTreeSet<Row>>(), conflicts);
        let left: Vec<_> = fs::read_dir(done.folder.path()).unwrap().map(|it| it.unwrap().path()).collect();
        prop_assert_eq!(left.len(), outputs.len(), "nothing but outputs is left: {:?}", left);

        // Once more: the same inputs give the same bytes, and so do the outputs.
        prop_assert_eq!(compacted(Kind::Messages, &inputs, adjust).unwrap().files(), done.files());
        let again: Vec<_> = outputs.iter().map(|output| Input::File(output.path.clone())).collect();
        let again = compacted(Kind::Messages, &again, adjust).unwrap();
        prop_assert_eq!(again.files(), done.files());
        prop_assert_eq!((again.compacted.duplicates, again.compacted.conflicts.num_rows()), (0, 0));
    }
}

fn message(id: &str, room: &str, received_at: i64, content: &str) -> Row {
    let values = [id, room, "1", &received_at.to_string(), content];
    COLUMNS.iter().zip(values).map(|(name, value)| ((*name).to_owned(), value.to_owned())).collect()
}

#[test]
fn contacts_keep_the_latest_and_contradict_nobody() {
    let contact = |name: &str, received_at: i64, nick_name: &str| {
        Row::from([("username", name), ("nick_name", nick_name)].map(|(a, b)| (a.to_owned(), b.to_owned())))
            .into_iter()
            .chain([("received_at".to_owned(), received_at.to_string())])
            .collect::<Row>()
    };
    let files = [
        Small::of(vec![contact("wxid_b", 5, "新"), contact("wxid_a", 1, "甲")]),
        Small::of(vec![contact("wxid_b", 3, "旧"), contact("wxid_a", 1, "后来")]),
    ];
    let done = compacted(Kind::Contacts, &inputs(Kind::Contacts, &files), |_| {}).unwrap();
    assert_eq!(done.rows(), [contact("wxid_a", 1, "后来"), contact("wxid_b", 5, "新")]);
    assert_eq!((done.compacted.duplicates, done.compacted.conflicts.num_rows()), (2, 0));
}

#[test]
fn nothing_becomes_no_file() {
    for files in [vec![], vec![Small::of(vec![])], vec![Small::of(vec![]), Small::of(vec![])]] {
        let done = compacted(Kind::Messages, &inputs(Kind::Messages, &files), |_| {}).unwrap();
        assert!(done.compacted.outputs.is_empty() && done.compacted.rows_in == 0);
    }
}

#[test]
fn a_file_is_divided_between_row_groups_before_it_has_too_many_rows() {
    let rows: Vec<_> = (0..100).map(|at| message(&format!("{at:03}"), "群@chatroom", 0, "好的")).collect();
    let adjust = |options: &mut Options| (options.row_group_rows, options.max_output_rows) = (10, 35);
    let done = compacted(Kind::Messages, &inputs(Kind::Messages, &[Small::of(rows.clone())]), adjust).unwrap();
    let sizes: Vec<_> = done.compacted.outputs.iter().map(|output| output.rows).collect();
    assert_eq!((sizes.as_slice(), done.rows()), ([30, 30, 30, 10].as_slice(), rows));
}

#[test]
fn one_row_said_again_and_again_is_one_row() {
    let rows: Vec<_> = (0..5_000).map(|at| message("7", "群@chatroom", 9_000 - at, "好的")).collect();
    let done = compacted(Kind::Messages, &inputs(Kind::Messages, &[Small::of(rows)]), |_| {}).unwrap();
    assert_eq!(done.rows(), [message("7", "群@chatroom", 4_001, "好的")]);
    assert_eq!((done.compacted.duplicates, done.compacted.conflicts.num_rows()), (4_999, 0));
}

#[test]
fn rows_of_a_megabyte_pass_through_less_memory_than_they_are() {
    let rows: Vec<_> =
        (0..40).map(|at| message(&format!("{at:04}"), "", at, &"消息😀".repeat(100_000 + at as usize))).collect();
    let files: Vec<_> = rows.rchunks(7).map(|rows| Small { row_group: 3, ..Small::of(rows.to_vec()) }).collect();
    let done =
        compacted(Kind::Messages, &inputs(Kind::Messages, &files), |options| options.memory_bytes = 8 << 20).unwrap();
    assert!(done.rows() == rows);
}

/// A table may have been given a column by a later version. Whoever does not know it must not lose it.
#[test]
fn a_column_that_is_not_known_is_kept() {
    let schema = lake_rows::schema(Kind::Messages);
    let id: ArrayRef = Arc::new(StringArray::from(vec!["2", "1"]));
    let region: ArrayRef = Arc::new(StringArray::from(vec![Some("沪"), None]));
    let batch = RecordBatch::try_from_iter_with_nullable([("region", region, true), ("msg_id", id, true)]).unwrap();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    let later = Input::Bytes(writer.into_inner().unwrap().into());
    let old = Input::Bytes(Small::of(vec![message("3", "r", 1, "x")]).parquet(Kind::Messages));
    let done = compacted(Kind::Messages, &[old, later], |_| {}).unwrap();
    let row = |id: &str| Row::from([("msg_id".to_owned(), id.to_owned())]);
    let two = row("2").into_iter().chain([("region".to_owned(), "沪".to_owned())]).collect();
    assert_eq!(done.rows(), [row("1"), two, message("3", "r", 1, "x")]);
    let file = ParquetRecordBatchReaderBuilder::try_new(done.files().remove(0)).unwrap();
    let names: Vec<_> = file.schema().fields().iter().map(|field| field.name().clone()).collect();
    let known = schema.fields().iter().map(|field| field.name().clone());
    assert_eq!(names, known.chain(["region".to_owned()]).collect::<Vec<_>>());
}

#[test]
fn readers_find_filters_for_ids_an_index_of_pages_and_the_order() {
    let rows: Vec<_> = (0..100).map(|at| message(&format!("{at:04}"), &format!("{}", at % 3), at, "x")).collect();
    let done =
        compacted(Kind::Messages, &inputs(Kind::Messages, &[Small::of(rows)]), |options| options.row_group_rows = 64)
            .unwrap();
    let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Required);
    let file = ParquetRecordBatchReaderBuilder::try_new_with_options(done.files().remove(0), options).unwrap();
    let id = file.schema().index_of("msg_id").unwrap();
    let filters: Vec<_> =
        (0..2).map(|group| file.get_row_group_column_bloom_filter(group, id).unwrap().unwrap()).collect();
    assert!((0..100).all(|at| filters.iter().any(|filter| filter.check(format!("{at:04}").as_str()))));
    assert!((100..200).filter(|at| filters.iter().any(|filter| filter.check(format!("{at:04}").as_str()))).count() < 5);
    let metadata = file.metadata();
    assert_eq!(metadata.row_groups().iter().map(|group| group.num_rows()).collect::<Vec<_>>(), [64, 36]);
    let sorted: Vec<_> = metadata
        .row_group(0)
        .sorting_columns()
        .unwrap()
        .iter()
        .map(|by| metadata.row_group(0).column(by.column_idx as usize).column_path().string())
        .collect();
    assert_eq!(sorted, ["chatroom", "create_time", "msg_id"]);
    let stats = &done.compacted.outputs[0].stats;
    assert_eq!((stats.num_records, stats.null_count["guid"]), (100, 100));
    assert_eq!(serde_json::to_value(&stats.max_values["msg_id"]).unwrap(), "0099");
}

#[test]
fn what_cannot_be_read_is_named() {
    let good = Small::of(vec![message("1", "r", 1, "x")]).parquet(Kind::Messages);
    let broken = Input::Bytes(good.slice(..good.len() - 9));
    let missing = Input::File("/nowhere/L0-1.parquet".into());
    let ids: ArrayRef = Arc::new(Int64Array::from(vec![1]));
    let batch = RecordBatch::try_from_iter([("msg_id", ids)]).unwrap();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    let numbers = Input::Bytes(writer.into_inner().unwrap().into());
    for (bad, expected) in [
        (broken, "input 1 is not the Parquet"),
        (missing, "input 1 cannot be read"),
        (numbers, "input 1 has `msg_id` as Int64"),
    ] {
        let fault = compacted(Kind::Messages, &[Input::Bytes(good.clone()), bad], |_| {}).err().unwrap();
        assert!(fault.to_string().starts_with(expected), "{fault}");
    }
}
